package controlplane_test

import (
	"testing"

	"github.com/canary-guardian/guardian/test/controlplane"
)

func TestMain(m *testing.M) { controlplane.Main(m) }

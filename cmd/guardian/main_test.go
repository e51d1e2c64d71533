package main

import (
	"testing"

	"github.com/canary-guardian/guardian/testdata/controlplane"
)

func TestMain(m *testing.M) { controlplane.Main(m) }

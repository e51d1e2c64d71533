package controlplane_test

import (
	"testing"

	"github.com/canary-guardian/guardian/testdata/controlplane"
)

func TestAVirtualServiceIsServedInEveryVersion(t *testing.T) {
	plane := controlplane.Shared(t)
	t.Log(plane.Namespace(t), plane.APIServerURL())
}

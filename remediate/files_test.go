package remediate

import (
	"testing"

	"github.com/canary-guardian/guardian/test/fileorder"
)

// What a type is made of, and what others need of it, lies below what it does.
func TestNoFileRefersBackToOneThatRefersToIt(t *testing.T) {
	fileorder.Check(t, map[string]string{"run.go": "controller.go", "reconcile.go": "reconciler.go", "gather.go": "snapshot.go"})
}

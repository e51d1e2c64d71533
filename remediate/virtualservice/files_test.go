package virtualservice

import (
	"testing"

	"github.com/canary-guardian/guardian/test/fileorder"
)

// What rewrites refers to what reads, and that to names and values.
func TestNoFileRefersBackToOneThatRefersToIt(t *testing.T) {
	fileorder.Check(t, map[string]string{"edit.go": "traffic.go", "traffic.go": "view.go"})
}

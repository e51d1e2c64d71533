package decision

import (
	"testing"

	"github.com/canary-guardian/guardian/test/fileorder"
)

// A stage refers to what lies below it alone, and a value to no stage.
func TestNoFileRefersBackToOneThatRefersToIt(t *testing.T) {
	fileorder.Check(t, map[string]string{"decide.go": "decider.go", "decider.go": "status.go"})
}

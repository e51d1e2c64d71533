package records

import (
	"testing"

	"github.com/canary-guardian/guardian/test/fileorder"
)

// What a client does refers to how a record is read, and all to names.
func TestNoFileRefersBackToOneThatRefersToIt(t *testing.T) {
	fileorder.Check(t, map[string]string{"requests.go": "client.go", "client.go": "names.go"})
}

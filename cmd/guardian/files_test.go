package main

import (
	"testing"

	"github.com/canary-guardian/guardian/test/fileorder"
)

// What every command uses is in files that use no command.
func TestNoFileRefersBackToOneThatRefersToIt(t *testing.T) {
	fileorder.Check(t, map[string]string{"serve.go": "service.go", "app.go": "exit.go"})
}

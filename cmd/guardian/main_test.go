package main

import (
	"fmt"
	"os"
	"testing"

	"github.com/canary-guardian/guardian/test/controlplane"
)

func TestMain(m *testing.M) { controlplane.Main(programs{m}) }

// programs runs the tests, and takes away what they have built.
type programs struct{ tests *testing.M }

func (p programs) Run() int {
	code := p.tests.Run()
	if err := os.RemoveAll(built.folder); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

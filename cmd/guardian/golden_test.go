package main

import (
	"flag"
	"path/filepath"
	"testing"

	"github.com/canary-guardian/guardian/test/golden"
)

var rewrite = flag.Bool("update", false, "rewrite the golden files")

// testdataFile is a path under the repository's testdata/config.
func testdataFile(name string) string { return filepath.Join("..", "..", "testdata", "config", name) }

// checkGolden compares with a file of testdata/config, or writes it.
func checkGolden(t *testing.T, name, got string) {
	t.Helper()
	golden.Check(t, testdataFile(name), got, *rewrite)
}

// checkFile compares a generated file with what is there, or writes it.
func checkFile(t *testing.T, path, got string) {
	t.Helper()
	golden.Check(t, path, got, *rewrite)
}

// Package golden compares what a test has made with a file that was made before.
// It decides nothing: whether the file is rewritten is said by the test's own flag.
package golden

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// Check compares got with the file at path, and fails t at the first line that
// differs. With rewrite it writes the file instead.
func Check(t testing.TB, path, got string, rewrite bool) {
	t.Helper()
	if rewrite {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (make golden writes it)", err)
	}
	if got != string(want) {
		t.Errorf("%s differs (make golden rewrites it): %s", path, FirstDifference(got, string(want)))
	}
}

// FirstDifference names the first line in which two texts differ, or how many
// lines each has where one begins with the other.
func FirstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return fmt.Sprintf("line %d: got %q, want %q", i+1, g[i], w[i])
		}
	}
	return fmt.Sprintf("got %d lines, want %d", len(g), len(w))
}

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// docBlock is the one block of a page that has a text in it.
func docBlock(t *testing.T, page, text string) block {
	t.Helper()
	var found []block
	for _, b := range blocksOf(page, readDoc(t, page)) {
		if strings.Contains(b.text, text) {
			found = append(found, b)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%s has %d blocks with %q", page, len(found), text)
	}
	return found[0]
}

// The lines for a commit status that docs/gate.md has, as a step of GitHub Actions runs them: a failing gate fails the
// step whatever becomes of the status.
func TestTheCommitStatusSaysWhatTheGateSays(t *testing.T) {
	script := docBlock(t, "docs/gate.md", "gh api").text
	for code, state := range map[int]string{exitOK: "success", exitFailed: "failure", exitUnknown: "error", 127: "error"} {
		for _, gh := range []int{0, 1} {
			bin := t.TempDir()
			for name, text := range map[string]string{
				"guardian": fmt.Sprintf("#!/bin/sh\n[ \"$1 $2\" = 'gate orders-service' ] || exit 99\nexit %d\n", code),
				"gh":       fmt.Sprintf("#!/bin/sh\necho \"$@\" >%s/said\nexit %d\n", bin, gh),
			} {
				if err := os.WriteFile(filepath.Join(bin, name), []byte(text), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.CommandContext(t.Context(), "sh", "-c", script)
			cmd.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "GITHUB_REPOSITORY=team/orders", "GITHUB_SHA=abc"}
			out, err := cmd.CombinedOutput()
			if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			said, _ := os.ReadFile(filepath.Join(bin, "said"))
			if got := cmd.ProcessState.ExitCode(); got != code || string(said) != "api repos/team/orders/statuses/abc -f state="+state+" -f context=canary\n" {
				t.Errorf("gate %d, gh %d: exit status %d, gh was told %q, want state %s\n%s", code, gh, got, said, state, out)
			}
		}
	}
}

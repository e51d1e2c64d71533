package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// replay runs guardian replay with what is on PATH.
func replay(t *testing.T, path string, args ...string) (code int, out, errOut string) {
	t.Helper()
	t.Setenv("PATH", path)
	var stdout, stderr bytes.Buffer
	a := &app{name: "guardian", in: strings.NewReader("in"), out: &stdout, errOut: &stderr}
	err := a.execute(t.Context(), append([]string{"replay"}, args...))
	if err != nil && !silent(err) {
		stderr.WriteString(err.Error())
	}
	return exitCode(err), stdout.String(), stderr.String()
}

func TestReplayIsTheProgramOfThatName(t *testing.T) {
	bin := t.TempDir()
	script := "#!/bin/sh\necho \"$@\"\nread line\necho \"$line\" >&2\nexit $CODE\n"
	if err := os.WriteFile(filepath.Join(bin, replayProgram), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	for code, text := range []string{"0", "1", "2"} {
		t.Setenv("CODE", text)
		got, out, errOut := replay(t, bin, "-f", "guardian.yaml", "--set", "a=b c", "--help")
		if got != code || out != "-f guardian.yaml --set a=b c --help\n" || errOut != "in\n" {
			t.Errorf("exit %s: %d, %q, %q", text, got, out, errOut)
		}
	}
}

func TestReplayWithoutItsProgramSaysWhereItIs(t *testing.T) {
	code, out, errOut := replay(t, t.TempDir(), "-f", "guardian.yaml")
	want(t, code, errOut, exitUnknown, "nor on PATH: it is in guardian's release archives")
	if out != "" {
		t.Errorf("printed %q", out)
	}
}

func TestReplayTellsThatItsProgramCannotRun(t *testing.T) {
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, replayProgram), []byte("\x7fELF no program"), 0o755); err != nil {
		t.Fatal(err)
	}
	code, _, errOut := replay(t, bin)
	want(t, code, errOut, exitUnknown, "could not tell: run "+filepath.Join(bin, replayProgram))
}

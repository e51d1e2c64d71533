package main

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
)

func TestStatesHaveColoursInATableThatStaysAligned(t *testing.T) {
	named := []records.Named{
		{Namespace: "microservices", Guard: "held", Record: decision.Record{Status: decision.Status{State: decision.StateHeld, Weight: 10}}},
		{Namespace: "shop", Guard: "rolled-back-service", Record: decision.Record{Status: decision.Status{State: decision.StateRolledBack}}},
		{Namespace: "shop", Guard: "a", Record: decision.Record{Status: decision.Status{State: decision.StateShifting, Weight: 10}}},
		{Namespace: "shop", Guard: "b", Record: decision.Record{Status: decision.Status{Observing: &decision.Observing{}}}},
	}
	for _, all := range []bool{false, true} {
		for _, header := range []bool{false, true} {
			plain := tableText(named, all, header, time.Now())
			painted := paintTable(plain, named, all, header)
			if strip := strings.NewReplacer("\x1b[31m", "", "\x1b[33m", "", "\x1b[0m", ""); strip.Replace(painted) != plain {
				t.Errorf("more than colours:\n%q\n%q", painted, plain)
			}
			for _, want := range []string{"held                 \x1b[33mheld\x1b[0m  ", "rolled-back-service  \x1b[31mrolled-back\x1b[0m  "} {
				if !strings.Contains(painted, want) || strings.Count(painted, "\x1b") != 4 {
					t.Errorf("all %v, header %v: want %q in\n%q", all, header, want, painted)
				}
			}
		}
	}
}

func TestColoursAreForATerminalAlone(t *testing.T) {
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no terminal can be had: %v", err)
	}
	defer func() { _ = terminal.Close() }()
	file, err := os.CreateTemp(t.TempDir(), "out")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	for name, c := range map[string]struct {
		w                  io.Writer
		noColour, ci, kind string
		want               bool
	}{
		"a terminal":          {terminal, "", "", "xterm", true},
		"a pipe or a file":    {file, "", "", "xterm", false},
		"a buffer":            {&bytes.Buffer{}, "", "", "xterm", false},
		"somebody wants none": {terminal, "1", "", "xterm", false},
		"a log is kept":       {terminal, "", "true", "xterm", false},
		"a terminal without":  {terminal, "", "", "dumb", false},
	} {
		t.Setenv("NO_COLOR", c.noColour)
		t.Setenv("CI", c.ci)
		t.Setenv("TERM", c.kind)
		if got := colourful(c.w); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

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
			plain := tableText(named, all, header, 0, time.Now())
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

// An alert may be called anything, and a record is only as good as those who may write it.
func TestWhatARecordSaysBreaksNoLineAndNoTerminal(t *testing.T) {
	const odd = "a\nb\tc\x1b]0;x\a\n::stop-commands::x"
	r := decision.Record{Status: decision.Status{State: decision.StateRolledBack, Reason: odd}, Lock: &decision.Lock{Kind: decision.LockManual, By: odd, Reason: odd}}
	r.Status.Alerts = []string{odd}
	r.History = []decision.HistoryEntry{{Event: decision.EventRolledBack, By: odd, Reason: odd}}
	named := []records.Named{{Namespace: "shop", Guard: "rolled-back-service", Record: r}, {Namespace: "shop", Guard: "orders-service", Record: r}}
	plain := tableText(named, true, true, 0, time.Now())
	painted := paintTable(plain, named, true, true)
	if strings.Count(plain, "\n") != 3 || strings.Count(painted, "\x1b[31m") != 2 {
		t.Errorf("%q\n%q", plain, painted)
	}
	var guard bytes.Buffer
	if err := printGuard(&guard, named[0], "beats", time.Now()); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"the table": plain, "a guard": guard.String(), "the gate": gateResult{gateAnswer: gateAnswer{code: exitFailed, text: odd}}.full()} {
		if strings.Contains(text, "\x1b") || strings.Contains(text, "\n::") || strings.Contains(text, "\nb") {
			t.Errorf("%s: %q", name, text)
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

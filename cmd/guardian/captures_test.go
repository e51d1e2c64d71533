package main

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
)

// unwrapped is what a terminal of 80 columns was given, of what it shows.
func unwrapped(shown string) string {
	var out strings.Builder
	for line := range strings.Lines(shown) {
		line = strings.TrimSuffix(line, "\n")
		out.WriteString(line)
		if n := utf8.RuneCountInString(line); n < 79 { // a space at the end of a full line is not kept
			out.WriteString("\n")
		} else if n == 79 {
			out.WriteString(" ")
		}
	}
	return out.String()
}

// captures is all of a page that a terminal showed.
func captures(t *testing.T, page string) string {
	t.Helper()
	var out strings.Builder
	for _, b := range blocksOf(page, readDoc(t, page)) {
		if b.mark == "captured: make demo" {
			out.WriteString(unwrapped(b.text))
		}
	}
	if out.Len() == 0 {
		t.Fatalf("%s has no captures", page)
	}
	return out.String()
}

// What pages show of a terminal was captured once: the program still says it so, of guards that are as those were.
func TestTheCapturesSayWhatTheProgramSays(t *testing.T) {
	at := time.Date(2026, 11, 30, 13, 0, 12, 0, time.UTC)
	now := at.Add(2 * time.Second)
	const build = "b1-81fd9bfa7960"
	healthy := decision.Record{Status: decision.Status{State: decision.StateShifting, Weight: 10, Counts: decision.Counts{Requests: 486,
		Latency: decision.Latency{Quantile: 0.95, Millis: 100}, Counted: decision.Counted{Since: at.Add(-49 * time.Second), At: at}}}}
	locked := decision.Record{
		Lock:    &decision.Lock{Kind: decision.LockBuild, Build: build, Alert: "GuardianCanaryErrorRate", By: decision.ByAlert, Since: at, Reason: "GuardianCanaryErrorRate: orders-service: 19.83% of the canary's requests fail"},
		Refused: []string{build},
	}
	s := &locked.Status
	s.State, s.Since, s.Build, s.Reason, s.Alerts, s.Ready = decision.StateRolledBack, at, build, locked.Lock.Reason, []string{"GuardianCanaryErrorRate"}, decision.ReadyInfo{Stable: 2, Canary: 2}
	locked.History = []decision.HistoryEntry{
		{At: at.Add(-10 * time.Second), Event: decision.EventShifted, To: 10, Reason: "canary went from 0% to 10%"},
		{At: at, Event: decision.EventRolledBack, By: decision.ByAlert, From: 30, Reason: locked.Lock.Reason},
	}
	locked.Receipt = &decision.Receipt{Written: at, Limit: "1% of the requests may fail"}
	moving := locked
	moving.Receipt = nil
	moving.Status.State, moving.Status.Weight, moving.Status.Moving = decision.StateShifting, 30, &decision.Moving{From: 30, Receipt: &decision.Receipt{Limit: locked.Receipt.Limit}}
	waiting := gateWatch{options: gateOptions{length: time.Minute}, guard: testGuard, last: healthy, traffic: at}
	waiting.last.Status.Requests = 210

	gate, cli := captures(t, "docs/gate.md"), captures(t, "docs/cli.md")
	answer := func(code int, r decision.Record, text string) string {
		return gateResult{testGuard, "microservices", gateAnswer{code: code, text: text, blame: blameOf(testGuard, "microservices", r)}, r}.full()
	}
	for page, texts := range map[string][]string{
		gate: {
			"guard orders-service: healthy for 1m0s at 10%: " + proofText(healthy.Status, 0),
			"guard orders-service: " + waiting.progress(at.Add(29*time.Second)),
			"guard orders-service: " + (&gateWatch{options: gateOptions{length: 5 * time.Minute}, began: at}).progress(at),
			"Error: " + answer(exitFailed, moving, trouble(moving)),
			blameOf(testGuard, "microservices", locked).lines("  "),
		},
		cli: append(strings.Split(strings.TrimSpace(tableText([]records.Named{{Namespace: "microservices", Guard: testGuard, Record: locked}}, false, true, 80, now.Add(-time.Second))), "\n"),
			strings.Split(guardText(t, records.Named{Namespace: "microservices", Guard: testGuard, Record: locked}, "15s ago, through Prometheus and Alertmanager", now), "\n")...),
	} {
		for _, text := range texts {
			// The captures have links, by which names are set further in.
			if !strings.Contains(squeezed(page), squeezed(text)) {
				t.Errorf("the page does not show %q\n%s", text, page)
			}
		}
	}
}

// squeezed has one space where there are several, or a new line.
func squeezed(text string) string { return strings.Join(strings.Fields(text), " ") }

// guardText is what `guardian status NAME` prints.
func guardText(t *testing.T, r records.Named, beat string, now time.Time) string {
	t.Helper()
	var out strings.Builder
	if err := printGuard(&out, r, beat, now); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

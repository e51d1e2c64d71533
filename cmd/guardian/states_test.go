package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
)

// someGuard is a guard that Decide looks at, driven as guardian would drive it.
type someGuard struct {
	in  decision.Input
	now time.Time
}

func newSomeGuard(weight int) *someGuard {
	g := &someGuard{now: time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)}
	g.in = decision.Input{
		Guard: decision.Guard{Name: testGuard, Namespace: "shop", VirtualServices: []string{testGuard}, DestinationRule: testGuard,
			Stable: virtualservice.Ref{Subset: "v1"}, Canary: virtualservice.Ref{Subset: "v2"},
			Rollback:    decision.Rollback{Lock: decision.LockBuild, Window: 30 * time.Minute, MinReadyStable: 1, MatchRoutes: true, Mirrors: true},
			Promotion:   decision.Promotion{Mode: decision.PromotionManual, Steps: []decision.Step{{Weight: 10}, {Weight: 30}, {Weight: 100}}},
			AlertWindow: time.Minute, HeartbeatMaxAge: 3 * time.Minute},
		Canary: decision.Workload{Build: "b1", Builds: []string{"b1"}, Running: []string{"b1"}, Ready: 2, Current: 2, Complete: true},
		Stable: decision.Endpoints{Ready: 2}, Deny: []string{testGuard + "/v2"}, Spare: []string{testGuard + "/v1"},
		Leads: true, Live: true, Forward: &decision.Forward{Requests: 200}, Count: decision.Count{Asked: true, Known: true, Requests: 200},
	}
	g.shift(weight)
	return g.rest()
}

func (g *someGuard) shift(weight int) {
	g.in.Traffic = virtualservice.Traffic{Weight: weight, Lowest: weight, Counted: 1, Split: 1}
}

// rest decides and does what follows until nothing does any more.
func (g *someGuard) rest() *someGuard {
	for range 5 {
		g.now = g.now.Add(2 * time.Minute)
		g.in.Heartbeat = g.now
		d := decision.Decide(g.in, g.now)
		g.in.Record = d.Record
		switch d.Move {
		case decision.MoveStable:
			g.shift(0)
		case decision.MoveForward:
			g.shift(d.Weight)
		}
	}
	return g
}

func (g *someGuard) alert(action decision.Action) *someGuard {
	g.in.Alerts = []decision.Alert{{Name: "CanaryErrors", Action: action, Fingerprint: "f", StartsAt: g.now, Summary: "7% of requests fail"}}
	return g.rest()
}

func (g *someGuard) ask(action decision.RequestAction) *someGuard {
	q := decision.Request{Action: action, By: "ann", Reason: "because", At: g.now}
	if action == decision.RequestDisarm {
		q.Until = g.now.Add(24 * time.Hour)
	}
	g.in.Record.Request = &q
	return g.rest()
}

// where is where a guard stands, in the words of the table.
func (g *someGuard) where() string {
	r := g.in.Record
	words := []string{"`" + string(r.Status.State) + "`"}
	if r.Lock != nil {
		words = append(words, "locked")
	}
	if r.Status.PausedText() != "" && r.Status.State != decision.StatePaused {
		words = append(words, "paused")
	}
	if r.Status.Observing != nil {
		words = append(words, "observing")
	}
	return strings.Join(words, ", ")
}

// observe has the configuration say so.
func (g *someGuard) observe() *someGuard {
	g.in.Guard.Mode = decision.ModeObserve
	return g.rest()
}

// stateRows are the places that a guard can stand at.
func stateRows() []func() *someGuard {
	stuck := func() *someGuard {
		g := newSomeGuard(10)
		g.in.Stable.Ready = 0
		g.alert(decision.ActionRollback)
		g.in.Alerts = nil // over; the rollback is wanted all the same
		return g.rest()
	}
	after := func(g *someGuard, actions ...decision.RequestAction) *someGuard {
		for _, a := range actions {
			g.ask(a)
		}
		return g
	}
	return []func() *someGuard{
		func() *someGuard { return newSomeGuard(0) },
		func() *someGuard { return newSomeGuard(10) },
		func() *someGuard { return newSomeGuard(10).alert(decision.ActionHold) },
		func() *someGuard { return newSomeGuard(100) },
		func() *someGuard {
			g := newSomeGuard(100)
			g.in.Canary.Build, g.in.Canary.Builds, g.in.Canary.Running = "b2", []string{"b2"}, []string{"b2"}
			return g.rest()
		},
		func() *someGuard {
			g := newSomeGuard(100)
			g.now = g.now.Add(time.Hour)
			return g.rest()
		},
		func() *someGuard { return newSomeGuard(10).alert(decision.ActionRollback) },
		stuck,
		func() *someGuard { return after(newSomeGuard(10), decision.RequestPause) },
		func() *someGuard { return after(newSomeGuard(10).alert(decision.ActionHold), decision.RequestPause) },
		func() *someGuard {
			return after(newSomeGuard(10).alert(decision.ActionRollback), decision.RequestPause)
		},
		func() *someGuard { return after(newSomeGuard(10), decision.RequestDisarm) },
		func() *someGuard {
			return after(newSomeGuard(10).alert(decision.ActionRollback), decision.RequestDisarm)
		},
		func() *someGuard { return after(newSomeGuard(10), decision.RequestPause, decision.RequestDisarm) },
		func() *someGuard { return newSomeGuard(0).observe() },
		func() *someGuard { return newSomeGuard(10).observe() },
		func() *someGuard { return newSomeGuard(10).alert(decision.ActionRollback).observe() },
	}
}

// became says what has come of a guard that stood somewhere.
func (g *someGuard) became(was *someGuard) string {
	entries := g.in.Record.History[len(was.in.Record.History):]
	has := func(event decision.Event) bool {
		return slices.ContainsFunc(entries, func(e decision.HistoryEntry) bool { return e.Event == event })
	}
	switch now := g.where(); {
	case has("step"):
		return "one step"
	case now != was.where():
		return "→ " + now
	case has("refused") && slices.ContainsFunc(entries, func(e decision.HistoryEntry) bool { return strings.HasPrefix(e.Reason, "rollback refused: locked") }):
		return "done already"
	case has("refused"):
		return "refused"
	case has(decision.EventWould):
		return "reported"
	case has("noted"):
		return "noted"
	}
	return "–"
}

// stateCommands are the columns of commands.
var stateCommands = []decision.RequestAction{decision.RequestRollback, decision.RequestUnlock, decision.RequestPause, decision.RequestResume,
	decision.RequestPromote, decision.RequestDisarm, decision.RequestArm}

// stateTable is docs/states.md's, as the program has it.
func stateTable(t *testing.T) string {
	columns := stateCommands
	head := []string{"state", "rollback alert"}
	for _, c := range columns {
		head = append(head, "`"+string(c)+"`")
	}
	head = append(head, "`gate`", "policy: more traffic for the canary")
	lines := []string{"| " + strings.Join(head, " | ") + " |", strings.Repeat("|---", len(head)) + "|"}
	for _, row := range stateRows() {
		was := row()
		cells := []string{was.where(), row().alert(decision.ActionRollback).became(was)}
		for _, c := range columns {
			cells = append(cells, row().ask(c).became(was))
		}
		c := gateCase{liveness: "renewed", heartbeat: "since the traffic"}
		policy := "passes"
		if len(was.in.Record.Deny) > 0 {
			policy = "refused"
		}
		cells = append(cells, fmt.Sprint(c.over(t, was.in.Record).code), policy)
		lines = append(lines, "| "+strings.Join(cells, " | ")+" |")
	}
	return strings.Join(lines, "\n")
}

// TestTheTableOfStatesIsTrue holds the table that people read against what
// guardian decides.
func TestTheTableOfStatesIsTrue(t *testing.T) {
	want := stateTable(t)
	_, have, _ := strings.Cut(readDoc(t, "docs", "states.md"), "<!-- table -->\n\n")
	have, _, _ = strings.Cut(have, "\n\n")
	if have != want {
		t.Errorf("docs/states.md has another table. guardian's is\n\n%s", want)
	}
	known := map[string]bool{}
	for _, row := range stateRows() {
		known[string(row().in.Record.Status.State)] = true
	}
	for _, state := range decision.States {
		if !known[string(state)] {
			t.Errorf("the table has no line for state %s", state)
		}
	}
	if marks := 2; len(decision.RequestActions) != len(stateCommands)+marks { // which move nothing, in no state
		t.Error("a command is missing in the table")
	}
}

package main

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
)

// gateCase is one combination of all that a gate looks at, in the words of the
// table in docs/gate.md.
type gateCase struct{ liveness, state, alert, heartbeat, rules, requests string }

var gateWords = struct{ liveness, states, alerts, heartbeats, rules, requests []string }{
	[]string{"renewed", "fails", "dead", "cannot be listed", "dead at the begin"},
	[]string{"idle", "shifting", "promoted", "unverified", "completed", "paused", "held", "blocked", "rolled-back", "rolling back", "disarmed"},
	[]string{"none", "hold", "rollback"},
	[]string{"since the traffic", "before it", "stale or none"},
	[]string{"watch", "do not"},
	[]string{"enough", "too few"},
}

// record is a guard of that state, its canary at 10% where it has any.
func (c gateCase) record() decision.Record {
	r := decision.Record{Status: decision.Status{State: decision.State(c.state), Weight: 10, Counts: decision.Counts{Requests: 50}, Reason: "why"}}
	s := &r.Status
	s.Counted = decision.Counted{Since: time.Date(2026, 3, 2, 8, 59, 0, 0, time.UTC), At: time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)}
	lock := &decision.Lock{Kind: decision.LockBuild, Build: "b1", Reason: "5% of requests failed"}
	switch c.state {
	case "idle":
		s.Weight = 0
	case "promoted", "unverified", "completed":
		s.Weight = 100
	case "paused":
		s.Paused = &decision.Pause{By: "bob"}
	case "blocked":
		r.Lock, r.Message, s.Reason = lock, "guardian wants it back on v1 but cannot yet", "not done: why"
	case "rolled-back":
		r.Lock, r.Message, s.Weight = lock, "guardian rolled it back to v1", 0
	case "rolling back":
		r.Lock, s.State = lock, decision.StateShifting
	case "disarmed":
		r = disarmed(r)
	}
	if c.alert != "none" {
		s.Firing = []decision.Firing{{Name: "Errors", Action: decision.Action(c.alert)}}
	}
	if c.rules == "do not" {
		s.Unwatched = "the group of its rules is not loaded"
	}
	if c.requests == "too few" {
		s.Requests = 9
	}
	return r
}

// leases are as a look finds them so long after the gate's begin.
func (c gateCase) leases(begin time.Time, after time.Duration) []coordinationv1.Lease {
	renewed := begin.Add(after.Truncate(10 * time.Second))
	switch c.liveness {
	case "dead":
		renewed = begin
	case "dead at the begin":
		renewed = begin.Add(-time.Hour)
	}
	l := lease("a", renewed)
	if c.liveness == "fails" && after > time.Minute {
		l.Annotations[records.AnnotationFailing] = "another " + testGuard
	}
	switch heard := begin.Add(70 * time.Second); {
	case c.heartbeat == "stale or none":
		delete(l.Annotations, records.AnnotationHeartbeat)
	case c.heartbeat == "before it" || renewed.Before(heard):
		l.Annotations[records.AnnotationHeartbeat] = begin.Add(-5 * time.Second).UTC().Format(time.RFC3339)
	default:
		l.Annotations[records.AnnotationHeartbeat] = heard.UTC().Format(time.RFC3339)
	}
	return []coordinationv1.Lease{*l}
}

// run is a gate of --for 2m over that combination, looked at every second.
func (c gateCase) run(t *testing.T) gateAnswer { return c.over(t, c.record()) }

// over is the same over another record.
func (c gateCase) over(t *testing.T, r decision.Record) gateAnswer {
	begin := time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)
	var p records.Liveness
	why, _ := p.Observe(c.leases(begin, 0), begin)
	w := gateWatch{options: gateOptions{length: 2 * time.Minute, minRequests: 10}, guard: testGuard,
		began: begin, readAt: begin, livedAt: begin, freshAt: begin, unverified: p.Unverified()}
	switch alive := c.liveness != "dead at the begin"; {
	case alive != (why == ""):
		t.Fatalf("%+v: at the begin: %q", c, why)
	case !alive:
		w.livedAt, w.dead = time.Time{}, noReplica(why)
	}
	for after := time.Duration(0); after < 10*time.Minute; after += time.Second {
		now := begin.Add(after)
		if now.Sub(w.observedAt) >= w.observeEvery(now) {
			if c.liveness == "cannot be listed" && after > 10*time.Second {
				w.observe(&p, "", errors.New("list guardian's Leases: connection refused"), now)
			} else {
				why, _ := p.Observe(c.leases(begin, after), now)
				w.observe(&p, why, nil, now)
			}
		}
		if answer, _ := w.see(&r, nil, now); answer != nil {
			return *answer
		}
	}
	t.Fatalf("%+v: no answer in ten minutes", c)
	return gateAnswer{}
}

// gateRow is a line of the table: the first that a combination fits decides.
type gateRow struct {
	cells    []string // as gateCase's fields; "any" fits all
	code     string
	sentence *regexp.Regexp
	used     bool
}

func (r gateRow) fits(c gateCase) bool {
	for i, word := range []string{c.liveness, c.state, c.alert, c.heartbeat, c.rules, c.requests} {
		if r.cells[i] != "any" && !slices.Contains(strings.Split(r.cells[i], ", "), word) {
			return false
		}
	}
	return true
}

func gateTable(t *testing.T) []gateRow {
	t.Helper()
	var rows []gateRow
	_, table, ok := strings.Cut(readDoc(t, "docs", "gate.md"), "<!-- table -->")
	if !ok {
		t.Fatal("docs/gate.md has no table")
	}
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 8 || strings.Contains(line, "---") || strings.Contains(line, "exit code") {
			continue
		}
		for i := range cells {
			cells[i] = strings.ReplaceAll(strings.TrimSpace(cells[i]), "`", "")
		}
		parts := strings.Split(cells[7], "…")
		for i := range parts {
			parts[i] = regexp.QuoteMeta(parts[i])
		}
		rows = append(rows, gateRow{cells: cells[:6], code: cells[6], sentence: regexp.MustCompile("^" + strings.Join(parts, ".+") + "$")})
	}
	return rows
}

// TestTheTableOfTheGateIsTrue tries every combination of what a gate looks at, and
// holds its answer against the table that people read.
func TestTheTableOfTheGateIsTrue(t *testing.T) {
	rows, w, tried := gateTable(t), gateWords, 0
	for _, row := range rows {
		for i, words := range [][]string{w.liveness, w.states, w.alerts, w.heartbeats, w.rules, w.requests} {
			for word := range strings.SplitSeq(row.cells[i], ", ") {
				if word != "any" && !slices.Contains(words, word) {
					t.Errorf("the table says %q, want any, or one of %q", word, words)
				}
			}
		}
	}
	var each func(so []string)
	each = func(so []string) {
		all := [][]string{w.liveness, w.states, w.alerts, w.heartbeats, w.rules, w.requests}
		if len(so) < len(all) {
			for _, word := range all[len(so)] {
				each(append(slices.Clone(so), word))
			}
			return
		}
		c := gateCase{so[0], so[1], so[2], so[3], so[4], so[5]}
		tried++
		i := slices.IndexFunc(rows, func(r gateRow) bool { return r.fits(c) })
		if i < 0 {
			t.Errorf("%+v: no line of the table fits", c)
			return
		}
		rows[i].used = true
		if answer := c.run(t); fmt.Sprint(answer.code) != rows[i].code || !rows[i].sentence.MatchString(answer.text) {
			t.Errorf("%+v: %d %q\nthe table says %s, %s", c, answer.code, answer.text, rows[i].code, rows[i].sentence)
		}
	}
	each(nil)
	for _, r := range rows {
		if !r.used {
			t.Errorf("no combination comes to this line: %v", r.cells)
		}
	}
	if tried != 5*11*3*3*2*2 {
		t.Errorf("tried %d combinations", tried)
	}
}

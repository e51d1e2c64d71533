package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/decision/decisiontest"
)

// led is a record with a link of the time when its trouble began.
func led(r decision.Record) decision.Record {
	r.Status.Links = []decision.Link{{Name: "Grafana", URL: "https://grafana.example/d/guardian-guard?var-guard=orders-service&from=1&to=2"},
		{Name: "Jaeger", URL: "https://jaeger.example/search?service=orders.shop"}}
	r.Status.Since = decisiontest.At
	if r.Lock != nil {
		r.Lock.Since = decisiontest.At
	}
	return r
}

// alerted is a guard at 10% of whose alerts one fires.
func alerted(action decision.Action) decision.Record {
	r := shifting(10, 50)
	r.Status.Firing = []decision.Firing{{Name: "Slow", Action: action, Began: decisiontest.At.Add(-time.Minute), Seen: decisiontest.At, Summary: "slow"}}
	return r
}

// heldBack is a rollback that is wanted and cannot be done.
func heldBack() decision.Record {
	r := underWay(10)
	r.Status.State, r.Status.Moving, r.Status.Reason = decision.StateBlocked, nil, "not done: stable has no ready endpoint"
	return r
}

func TestAnAnswerOfOneSaysWhoSinceWhenAndWhereToSeeMore(t *testing.T) {
	person := led(locked())
	person.Lock.By, person.Lock.Alert = "ann", ""
	unlocked := led(underWay(10))
	unlocked.Lock = nil
	unlocked.Status.Moving.Alert, unlocked.Status.Moving.At = "Slow", decisiontest.At
	receipt := led(rolledBackRecord())
	receipt.Lock.Since = receipt.Receipt.Written
	older := led(rolledBackRecord())
	older.Lock.Since = older.Receipt.Written.Add(time.Minute)
	grafana := "\n  Grafana:  https://grafana.example/d/guardian-guard?var-guard=orders-service&from=1&to=2\n  Jaeger:   https://jaeger.example/search?service=orders.shop\n"
	for name, c := range map[string]struct {
		rec  decision.Record
		says string
	}{
		"rolled back":                   {led(locked()), "\n  by:       alert GuardianErrorRate\n  since:    2026-03-02T09:00:00Z" + grafana},
		"by a person":                   {person, "\n  by:       ann\n  since:    2026-03-02T09:00:00Z" + grafana},
		"rolling back":                  {led(underWay(30)), "\n  by:       alert GuardianErrorRate\n  since:    2026-03-02T09:00:00Z" + grafana},
		"rolling back, without a lock":  {unlocked, "\n  by:       alert Slow\n  since:    2026-03-02T09:00:00Z" + grafana},
		"blocked":                       {led(heldBack()), "not done yet, the canary is at 10%: stable has no ready endpoint; it is wanted because of 5% of requests failed\n  by:       alert GuardianErrorRate\n  since:    2026-03-02T09:00:00Z" + grafana},
		"an alert fires":                {led(alerted(decision.ActionHold)), "\n  by:       alert Slow\n  since:    2026-03-02T08:59:00Z" + grafana},
		"with a receipt of it":          {receipt, "\n  by:       alert GuardianErrorRate\n  since:    2026-03-02T08:59:58Z\n  Grafana:  https://grafana.example/d/guardian-guard?var-namespace=shop&var-guard=orders-service&from=1772441100000&to=1772442900000\n  Kiali:    https://kiali.example/"},
		"with one of an older rollback": {older, "\n  since:    2026-03-02T09:00:58Z" + grafana},
		"no link is configured":         {locked(), "Error: guard orders-service: orders-service was rolled back: deploy a new build of v2\n  by:  alert GuardianErrorRate\n"},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, record(c.rec), lease("a", time.Now()))
			b.beat(0)
			code, text := b.run("gate", testGuard)
			t.Log(name)
			want(t, code, text, exitFailed, c.says)
			if trouble(c.rec) == "" || !c.rec.Troubled() {
				t.Errorf("trouble %q, %v", trouble(c.rec), c.rec.Troubled())
			}
		})
	}
}

// Without a lock nothing but the history and the receipt tell of a rollback.
func TestARollbackWithoutALockHasItsReceiptsLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, record(shifting(10, 50)), lease("a", time.Now()))
		b.beat(0)
		b.change(20*time.Second, func(r *decision.Record) {
			r.Status.State, r.Status.Weight = decision.StateIdle, 0
			r.Receipt = rolledBackRecord().Receipt
			r.History = append(r.History, decision.HistoryEntry{At: decisiontest.At, Event: decision.EventRolledBack, By: "alert", Alert: "Slow", Reason: "slow"})
		})
		code, text := b.run("gate", testGuard)
		want(t, code, text, exitFailed, "rolled back at 2026-03-02T09:00:00Z: slow\n  by:       alert Slow\n  since:    2026-03-02T09:00:00Z\n  Grafana:  https://grafana.example/")
	})
}

func TestAHealthyAnswerHasNoLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := tallied(10, 1204, 1)
		r.Receipt = rolledBackRecord().Receipt // of an earlier release
		b := newBench(t, record(r), lease("a", time.Now()))
		b.beat(0)
		if code, text := b.run("gate", testGuard); code != exitOK || strings.Contains(text, "https://") || strings.Contains(text, "since:") {
			t.Errorf("%d: %s", code, text)
		}
		if code, text := b.run("status", testGuard); code != exitOK || strings.Contains(text, "https://") {
			t.Errorf("%d: %s", code, text)
		}
	})
}

// A record is only as good as those who may write it.
func TestALinkShowsNoCredentialsAndIsAPageOfTheWeb(t *testing.T) {
	r := rolledBackRecord()
	r.Receipt.Links, r.Lock.Since = []decision.Link{{Name: "Grafana\x1b[31m|", URL: "https://ann:hunter2@grafana.example/d/x?a=b|c"}, {Name: "x", URL: "javascript:alert(1)"}, {Name: "y", URL: "/etc/passwd"}}, r.Receipt.Written
	r.Status.Links = slices.Clone(r.Receipt.Links)
	summary := filepath.Join(t.TempDir(), "summary.md")
	t.Setenv("GITHUB_STEP_SUMMARY", summary)
	for _, args := range []string{"gate", "gate -o json", "gate --format github", "status", "status -o json", "receipt", "receipt -o json", "receipt -o md", "receipt -o html"} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, record(r), lease("a", time.Now()))
			b.beat(0)
			_, text := b.run(append(strings.Fields(args), testGuard)...)
			if !strings.Contains(text, "https://grafana.example/d/x?a=b") {
				t.Errorf("%s: no link, so that nothing is tried:\n%s", args, text)
			}
			for _, never := range []string{"hunter2", "javascript:", "/etc/passwd", "\x1b"} {
				if strings.Contains(text, never) {
					t.Errorf("%s: %q in\n%s", args, never, text)
				}
			}
		})
	}
	text, err := os.ReadFile(summary)
	if want := `<br>[Grafana [31m\|](<https://grafana.example/d/x?a=b%7Cc>) |`; err != nil || !strings.Contains(string(text), strings.ReplaceAll(want, "[31m", `\[31m`)) || strings.Contains(string(text), "hunter2") {
		t.Errorf("want %s in the summary, %v:\n%s", want, err, text)
	}
}

func TestGitHubsSummaryHasTheLinks(t *testing.T) {
	summary := filepath.Join(t.TempDir(), "summary.md")
	t.Setenv("GITHUB_STEP_SUMMARY", summary)
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, record(led(locked())), lease("a", time.Now()))
		code, text := b.run("gate", testGuard, "--format", "github")
		want(t, code, text, exitFailed, "%0A  by:       alert GuardianErrorRate%0A  since:    2026-03-02T09:00:00Z%0A  Grafana:  https://grafana.example/")
	})
	text, err := os.ReadFile(summary)
	if want := "| orders-service was rolled back: deploy a new build of v2<br>by alert GuardianErrorRate since 2026-03-02T09:00:00Z<br>" +
		"[Grafana](<https://grafana.example/d/guardian-guard?var-guard=orders-service&from=1&to=2>) · [Jaeger](<https://jaeger.example/search?service=orders.shop>) |"; err != nil || !strings.Contains(string(text), want) {
		t.Errorf("want %s in the summary, %v:\n%s", want, err, text)
	}
}

func TestProgramsGetTheLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, record(led(locked())), lease("a", time.Now()))
		b.beat(0)
		b.run("gate", testGuard, "-o", "json")
		var answer map[string]any
		if err := json.Unmarshal(b.out.Bytes(), &answer); err != nil || answer["by"] != "alert GuardianErrorRate" || answer["since"] != "2026-03-02T09:00:00Z" || len(answer["links"].([]any)) != 2 {
			t.Errorf("%v: %v", err, answer)
		}
		b.run("status", testGuard, "-o", "json")
		var status statusJSON
		if err := json.Unmarshal(b.out.Bytes(), &status); err != nil || len(status.Links) != 2 || status.Links[1].Name != "Jaeger" {
			t.Errorf("%v: %v", err, status.Links)
		}
	})
}

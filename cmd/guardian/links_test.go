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

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
		"with a receipt of it":          {receipt, "\n  by:       alert GuardianErrorRate\n  since:    2026-03-02T08:59:58Z\n  limit:    1% of the requests may fail\n  failed:   22 of 310\n  receipt:  guardian receipt orders-service -n shop\n  Grafana:  https://grafana.example/d/guardian-guard?var-namespace=shop&var-guard=orders-service&from=1772441100000&to=1772442900000\n  Kiali:    https://kiali.example/"},
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
		want(t, code, text, exitFailed, "rolled back at 2026-03-02T09:00:00Z: slow\n  by:       alert Slow\n  since:    2026-03-02T09:00:00Z\n  limit:    1% of the requests may fail\n  failed:   22 of 310\n  receipt:  guardian receipt orders-service -n shop\n  Grafana:  https://grafana.example/")
	})
}

// Whoever reads a log at night need not know what to look at.
func TestAnAnswerThatIsNotHealthyNamesTheNextCommand(t *testing.T) {
	unwatched := shifting(10, 50)
	unwatched.Status.Unwatched = "the group of its rules is not loaded"
	for name, c := range map[string]struct {
		rec   decision.Record
		args  []string
		alive bool
		next  string
	}{
		"no replica":         {shifting(10, 50), nil, false, "kubectl get pods -n shop -l app.kubernetes.io/name=guardian"},
		"a lock without one": {locked(), nil, false, "kubectl get pods -n shop -l app.kubernetes.io/name=guardian"},
		"disarmed":           {disarmed(shifting(10, 50)), nil, true, "guardian arm orders-service -n shop --reason '…'"},
		"held":               {decision.Record{Status: decision.Status{State: decision.StateHeld, Weight: 30}}, nil, true, "guardian status orders-service -n shop"},
		"an alert fires":     {alerted(decision.ActionHold), nil, true, "guardian status orders-service -n shop"},
		"no traffic":         {decision.Record{Status: decision.Status{State: decision.StateIdle}}, nil, true, "guardian status orders-service -n shop"},
		"too few requests":   {shifting(10, 5), []string{"--min-requests", "100"}, true, "guardian status orders-service -n shop"},
		"no rule watches":    {unwatched, nil, true, "guardian check -f guardian.yaml --wait 3m"},
		"no heartbeat":       {shifting(10, 50), []string{"--for", "10s"}, true, "guardian check -f guardian.yaml --wait 3m"},
		"a lock says it":     {locked(), nil, true, ""},
		"healthy":            {tallied(10, 50, 0), nil, true, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, record(c.rec))
			if c.alive {
				if _, err := b.kube.CoordinationV1().Leases("shop").Create(t.Context(), lease("a", time.Now()), metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
				b.beat(0)
			}
			if name == "no heartbeat" {
				b.hears(-1, "3m0s")
			}
			code, text := b.run(append([]string{"gate", testGuard}, c.args...)...)
			if says := "\n  next:  " + c.next + "\n"; c.next != "" && !strings.Contains(strings.ReplaceAll(text, "  next:   ", "  next:  "), says) {
				t.Errorf("%s: %d, want %q in\n%s", name, code, says, text)
			} else if c.next == "" && strings.Contains(text, "next:") {
				t.Errorf("%s: %s", name, text)
			}
			// What is to be copied is taken.
			if words := strings.Fields(c.next); len(words) > 0 && words[0] == "guardian" {
				if _, err := taken(words[1:]); err != nil {
					t.Errorf("%s: %s: %v", name, c.next, err)
				}
			}
		})
	}
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
	if want := `<br>[Grafana\\x1b\[31m\|](<https://grafana.example/d/x?a=b%7Cc>) |`; err != nil || !strings.Contains(string(text), want) || strings.Contains(string(text), "hunter2") {
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

package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
)

func TestHistoryTellsWhenWhatWhoAndWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := locked()
		now := time.Now()
		r.History = []decision.HistoryEntry{
			{At: now.Add(-48 * time.Hour), Event: "step", By: "ann@example.com", From: 0, To: 10, Build: "b1", Reason: "promote"},
			{At: now.Add(-time.Hour), Event: "rolled-back", By: "alert", From: 10, To: 0, Build: "b1", Alert: "GuardianErrorRate", Reason: "5% of requests failed"},
			{At: now.Add(-time.Minute), Event: "noted", From: 0, To: 0, Reason: "another alert"},
		}
		b := newBench(t, record(r), recordOf("payments", decision.Record{}))
		code, _ := b.run("history", testGuard)
		want(t, code, b.out.String(), exitOK, `TIME                  EVENT        CANARY    BUILD    BY               WHY
1999-12-30T00:00:00Z  step         0% → 10%  b1       ann@example.com  promote
1999-12-31T23:00:00Z  rolled-back  10% → 0%  b1       alert            5% of requests failed
1999-12-31T23:59:00Z  noted        0%        unknown  -                another alert
`)
		for args, events := range map[string]string{"": "step rolled-back noted", "--last 2": "rolled-back noted", "--since 2h": "rolled-back noted",
			"--since 2h --last 1": "noted", "--since 1s": "", "--last 9": "step rolled-back noted"} {
			code, _ := b.run(append([]string{"history", testGuard, "-o", "json"}, strings.Fields(args)...)...)
			var got historyJSON
			if err := json.Unmarshal(b.out.Bytes(), &got); err != nil || code != exitOK || got.APIVersion != "cli.canary-guardian.io/v1" || got.Kind != "GuardHistory" || got.Entries == nil {
				t.Errorf("%s: %d, %v\n%s", args, code, err, b.out.String())
			}
			var names []string
			for _, e := range got.Entries {
				names = append(names, string(e.Event))
			}
			if strings.Join(names, " ") != events {
				t.Errorf("%s: %v, want %s", args, names, events)
			}
		}
		for args, says := range map[string]string{"payments": "Nothing has happened.", "nobody": "Error: no guard nobody in namespace shop", testGuard + " -o yaml": `--output "yaml"`, testGuard + " --last -1": "--last -1"} {
			if _, text := b.run(append([]string{"history"}, strings.Fields(args)...)...); !strings.Contains(text, says) {
				t.Errorf("%s: want %q, said:\n%s", args, says, text)
			}
		}
	})
}

// What came several times in a row is one line, which a look at the time of the last of
// them shows.
func TestHistoryTellsHowOftenWhatCameAgainDid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, now := locked(), time.Now()
		r.History = []decision.HistoryEntry{
			{At: now.Add(-49 * time.Hour), Event: "blocked", From: 10, To: 10, Reason: "stable has 0 ready endpoints", Times: 2, Last: now.Add(-48 * time.Hour)},
			{At: now.Add(-3 * time.Hour), Event: "noted", By: "alert", Reason: "canary has no traffic", Times: 12, Last: now.Add(-time.Hour)},
		}
		b := newBench(t, record(r))
		code, text := b.run("history", testGuard, "--since", "2h")
		want(t, code, text, exitOK, "canary has no traffic (12 times, last at 1999-12-31T23:00:00Z)")
		if strings.Contains(text, "blocked") {
			t.Errorf("what came last two days ago is shown:\n%s", text)
		}
		code, text = b.run("history", testGuard, "-o", "json")
		want(t, code, text, exitOK, `"times": 12`)
	})
}

func TestAShellCompletesTheNamesOfGuards(t *testing.T) {
	b := newBench(t, record(locked()), recordOf("payments", shifting(30, 5)), recordOf("pay", shifting(10, 5)))
	const end = ":4\n" // no names of files
	for args, want := range map[string]string{
		"gate |":            "orders-service\trolled-back, canary at 0%\npay\tshifting, canary at 10%\npayments\tshifting, canary at 30%\n" + end,
		"gate pay |":        "orders-service\trolled-back, canary at 0%\npayments\tshifting, canary at 30%\n" + end,
		"gate -n shop pa|":  "pay\tshifting, canary at 10%\npayments\tshifting, canary at 30%\n" + end,
		"status payments |": end,
		"unlock o|":         "orders-service\trolled-back, canary at 0%\n" + end,
		"history x|":        end,
		"disarm paym|":      "payments\tshifting, canary at 30%\n" + end,
	} {
		typed, _ := strings.CutSuffix(args, "|")
		if b.run(append([]string{"__complete"}, strings.Split(typed, " ")...)...); b.out.String() != want {
			t.Errorf("%s: %q, want %q", args, b.out.String(), want)
		}
	}
}

// Every answer for programs says what it is.
// Each command, for each kind that there is, and what it prints where it has no answer.
func TestWhatIsPrintedForProgramsHasAVersion(t *testing.T) {
	kinds := map[string]string{
		"status": "GuardStatus", "status " + testGuard: "GuardStatus", "gate " + testGuard: "GateAnswer", "gate --all": "GateAnswer",
		"rollback " + testGuard + " --reason r": "RequestAnswer", "pause --all --reason r --timeout 5s": "RequestAnswer", "mark " + testGuard + " last --wrong --reason r --timeout 5s": "RequestAnswer",
		"history " + testGuard: "GuardHistory", "receipt " + testGuard: "GuardReceipt", "report": "Report",
		"gate x": "Error", "gate x " + testGuard: "Error", "status x": "Error", "rollback x --reason r": "Error", "history x": "Error", "receipt x": "Error", "report x": "Error", "mark x last --wrong --reason r": "Error",
		"gate " + testGuard + " --for 0s": "Error", "report --since x": "Error", "gate " + testGuard + " --nope": "Error", "history a b": "Error", "check -f /nonexistent": "Error",
	}
	printed := map[string]bool{"Check": true} // see TestFindingsAreTextJSONAndAnExitCode
	for args, kind := range kinds {
		printed[kind] = true
		synctest.Test(t, func(t *testing.T) {
			r := rolledBackRecord()
			r.History = []decision.HistoryEntry{{At: time.Now(), Event: decision.EventRolledBack, By: "alert", Reason: "slow"}}
			b := newBench(t, record(r), lease("a", time.Now()))
			b.beat(0)
			code, text := b.run(append(strings.Fields(args), "-o", "json")...)
			got := strings.Join(strings.Fields(b.out.String()), " ")
			if got = strings.TrimPrefix(strings.TrimPrefix(got, "[ "), "{ "); !strings.HasPrefix(got, `"apiVersion": "cli.canary-guardian.io/v1", "kind": "`+kind+`",`) || !json.Valid(b.out.Bytes()) {
				t.Errorf("%s: want a %s: %s", args, kind, text)
			}
			if failed := kind == "Error"; failed && (code == exitOK || !strings.Contains(got, fmt.Sprintf(`"code": %d, "text": "`, code))) {
				t.Errorf("%s: exit code %d: %s", args, code, got)
			}
		})
	}
	for _, k := range printedKinds {
		if !printed[k.kind] || !strings.Contains(readDoc(t, "docs", "cli.md"), "`"+k.kind+"`") {
			t.Errorf("%s: not tried, or docs/cli.md does not tell of it", k.kind)
		}
	}
}

// Where nothing is under way there is no guard to answer about.
func TestAnErrorIsADocumentForPrograms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, record(decision.Record{Status: decision.Status{State: decision.StateIdle}}), lease("a", time.Now()))
		code, _ := b.run("gate", "--all", "-o", "json")
		var got map[string]any
		if err := json.Unmarshal(b.out.Bytes(), &got); err != nil || code != exitUnknown || got["kind"] != "Error" || got["code"] != 2.0 || got["text"] != "could not tell: no guard of namespace shop has a release under way" {
			t.Errorf("%d, %v: %s", code, err, b.out.String())
		}
		if _, text := b.run("gate", "--all"); strings.Contains(text, "apiVersion") {
			t.Errorf("people get %s", text)
		}
	})
}

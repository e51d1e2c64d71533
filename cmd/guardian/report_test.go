package main

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
)

// reportable is a record with a release that was rolled back, and one that mode observe left alone.
func reportable(now time.Time) decision.Record {
	r := shifting(100, 5)
	r.History = []decision.HistoryEntry{
		{At: now.Add(-50 * time.Hour), Event: "shifted", From: 0, To: 10, Build: "b1", Reason: "ci"},
		{At: now.Add(-49*time.Hour + 250*time.Millisecond), Event: "rolled-back", By: "alert", From: 10, To: 0, Build: "b1", Alert: "GuardianErrorRate", Reason: "5% of requests | failed",
			Fired: now.Add(-49*time.Hour - 150*time.Millisecond)},
		{At: now.Add(-48 * time.Hour), Event: "marked-wrong", By: "ann@example.com", From: 0, To: 0, Build: "b1", Reason: "a load test", Of: now.Add(-49*time.Hour + 250*time.Millisecond)},
		{At: now.Add(-3 * time.Hour), Event: "shifted", From: 0, To: 30, Build: "b2", Reason: "ci"},
		{At: now.Add(-2 * time.Hour), Event: "would-have-rolled-back", By: "alert", From: 30, To: 30, Build: "b2", Alert: "GuardianLatency", Reason: "would have rolled back 30% → 0%, because slow"},
		{At: now.Add(-90 * time.Minute), Event: "promoted", From: 100, To: 100, Build: "b2", Reason: "all traffic"},
		{At: now.Add(-time.Hour), Event: "completed", From: 100, To: 100, Build: "b2", Reason: "window over"},
	}
	return r
}

func TestAReportTellsHowGuardianHasDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, record(reportable(time.Now())), recordOf("payments", decision.Record{}))
		code, _ := b.run("report", "--since", "3d")
		if code != exitOK {
			t.Errorf("exit code %d", code)
		}
		checkGolden(t, "report.golden", b.out.String())
		b.run("report", testGuard, "--since", "1d", "-o", "md")
		for _, text := range []string{"# guardian in namespace shop", "## orders-service", "- marked by people: 0 wrong, 0 right, 1 not marked\n- 0 holds in the history", "| RELEASE | BEGAN | HIGHEST | END |\n|---|---|---|---|\n| b2 |"} {
			if !strings.Contains(b.out.String(), text) {
				t.Errorf("Markdown has no %q:\n%s", text, b.out.String())
			}
		}
		b.run("report", "--since", "3d", "-o", "md")
		if !strings.Contains(b.out.String(), `5% of requests \| failed |`) {
			t.Errorf("a reason with a bar breaks the table:\n%s", b.out.String())
		}
		code, _ = b.run("report", "-o", "json")
		var got reportJSON
		if err := json.Unmarshal(b.out.Bytes(), &got); err != nil || code != exitOK || got.Kind != "Report" || got.APIVersion != shapeVersion || len(got.Guards) != 2 || len(got.Guards[0].Rollbacks) != 2 || got.Guards[1].Releases == nil {
			t.Errorf("%d, %v\n%s", code, err, b.out.String())
		}
		for args, says := range map[string]string{"--since 0s": "--since 0s: want more than 0s, such as 30d", "--since x": "want a duration with its unit, such as 500ms, 30s, 5m or 1d", "-o yaml": `--output "yaml": want json or md`} {
			if code, text := b.run(append([]string{"report"}, strings.Fields(args)...)...); code != exitUnknown || !strings.Contains(text, says) {
				t.Errorf("%s: %d, want %q, said:\n%s", args, code, says, text)
			}
		}
		broken := recordOf("broken", reportable(time.Now()))
		broken.Data[decision.KeyHistory] = "[7]"
		b2 := newBench(t, record(reportable(time.Now())), broken)
		for _, args := range []string{"report", "report broken", "mark broken last --wrong --reason r"} {
			code, text := b2.run(strings.Fields(args)...)
			if code != 1 || !strings.Contains(text, "read record shop/guardian-broken") || strings.Contains(text, "Nothing has happened") || strings.Contains(text, "no rollback") {
				t.Errorf("%s, whose history cannot be read: %d\n%s", args, code, text)
			}
			if all := args == "report"; all && !strings.Contains(text, "orders-service") {
				t.Errorf("the other guards are not reported:\n%s", text)
			}
		}
		if code, text := b.run("report", "nobody"); code != 1 || !strings.Contains(text, "no guard nobody in namespace shop") {
			t.Errorf("nobody: %d\n%s", code, text)
		}
	})
}

func TestAMarkIsOfOneRollback(t *testing.T) {
	now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	history := reportable(now).History
	for when, want := range map[string]time.Time{"last": history[4].At, "1999-12-29T23:00:00Z": history[1].At, "1999-12-30T00:00:00+01:00": history[1].At, "1999-12-29T23:00:00.25Z": history[1].At} {
		if got, err := rollbackAt("orders", when, history); err != nil || !got.Equal(want) {
			t.Errorf("%s: %s, %v; want %s", when, got, err, want)
		}
	}
	for when, says := range map[string]string{"yesterday": `time "yesterday": want last, or a time as history prints it, such as 1999-12-31T22:00:00Z`, "1999-12-29T22:00:00Z": "no rollback at 1999-12-29T22:00:00Z; the last one was at 1999-12-31T22:00:00Z"} {
		if _, err := rollbackAt("orders", when, history); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", when, err, says)
		}
	}
	if _, err := rollbackAt("orders", "last", nil); err == nil || !strings.Contains(err.Error(), "no rollback") {
		t.Errorf("an empty history: %v", err)
	}
}

func TestAMarkIsAskedOfGuardian(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := reportable(time.Now())
		b := newBench(t, record(r), lease("a", time.Now()))
		b.answer(func(r *decision.Record, q decision.Request) {
			answered(r, q, decision.EventMarkedRight, q.Reason)
			r.History[len(r.History)-1].Of = q.Of
		})
		code, text := b.run("mark", testGuard, "last", "--right", "--reason", "slow indeed")
		if code != exitOK || !strings.Contains(text, "marked-right: slow indeed") {
			t.Errorf("%d\n%s", code, text)
		}
		for args, says := range map[string]string{"last --reason r": "--wrong or --right: want one of the two", "last --wrong --right --reason r": "want one of the two", "last --wrong": "--reason is empty", "x --wrong --reason r": `time "x"`} {
			if code, text := b.run(append([]string{"mark", testGuard}, strings.Fields(args)...)...); code != exitUnknown || !strings.Contains(text, says) {
				t.Errorf("%s: %d, want %q, said:\n%s", args, code, says, text)
			}
		}
	})
}

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
)

// recordOf is record of a guard of another name.
func recordOf(guard string, r decision.Record) *corev1.ConfigMap {
	cm := record(r)
	cm.Name, cm.Labels = records.Name(guard), map[string]string{records.LabelGuard: guard}
	return cm
}

func TestSeveralGuardsInOneGate(t *testing.T) {
	idle := decision.Record{Status: decision.Status{State: decision.StateIdle}}
	gone := shifting(30, 5)
	gone.Status.Orphaned = time.Unix(0, 0)
	for name, tc := range map[string]struct {
		args  string
		other map[string]decision.Record
		setUp func(*bench)
		code  int
		says  []string
		took  time.Duration
	}{
		"all are healthy": {
			args: testGuard + " payments", other: map[string]decision.Record{"payments": tallied(30, 100, 0)}, code: exitOK, took: time.Minute,
			says: []string{"guard orders-service: healthy for 1m0s at 10%", "guard payments: healthy for 1m0s at 30%"}},
		"one that is bad decides at once": {
			args: "payments " + testGuard, other: map[string]decision.Record{"payments": tallied(30, 100, 0)}, code: exitFailed, took: 20 * time.Second,
			setUp: func(b *bench) { b.change(20*time.Second, func(r *decision.Record) { *r = locked() }) },
			says: []string{"guard orders-service: orders-service was rolled back: deploy a new build of v2", "could not tell: guard payments: not waited for any longer, since guard orders-service is not healthy",
				"Error: 1 of 2 guards: not healthy: orders-service"}},
		"one that cannot be told does not hide another that is bad": {
			args: "payments " + testGuard, other: map[string]decision.Record{"payments": disarmed(shifting(30, 100))}, code: exitFailed, took: 20 * time.Second,
			setUp: func(b *bench) { b.change(20*time.Second, func(r *decision.Record) { *r = locked() }) },
			says:  []string{"could not tell: guard payments: disarmed by bob", "Error: 1 of 2 guards: not healthy: orders-service"}},
		"one that cannot be told": {
			args: "payments " + testGuard, other: map[string]decision.Record{"payments": idle}, code: exitUnknown, took: time.Minute,
			says: []string{"could not tell: guard payments: the canary has had no traffic for 1m0s", "Error: 1 of 2 guards: could not tell: payments"}},
		"one that there is not": {
			args: "payments " + testGuard, code: exitUnknown, says: []string{"no guard payments in namespace shop", "guards there: orders-service"}},
		"all that a release is under way of": {
			args: "--all", code: exitOK, took: time.Minute,
			other: map[string]decision.Record{"payments": idle, "done": {Status: decision.Status{State: decision.StateCompleted, Weight: 100}}, "gone": gone},
			says: []string{"guard payments: left out: idle, no release is under way", "guard done: left out: completed", "guard gone: left out: it is not in guardian's configuration",
				"guard orders-service: healthy for 1m0s at 10%"}},
		"an idle one that is locked is not left out": {
			args: "--all", code: exitFailed, other: map[string]decision.Record{"payments": locked()}, says: []string{"guard payments: orders-service was rolled back", "not healthy: payments"}},
		"all are unlocked": {
			args: "--all --wait-unlocked", code: exitOK, other: map[string]decision.Record{"payments": idle},
			says: []string{"guard orders-service: not locked", "guard payments: not locked"}},
		"all and one by name": {args: "--all " + testGuard, code: exitUnknown, says: []string{"guard orders-service and --all: want one of the two"}},
		"none":                {args: "", code: exitUnknown, says: []string{"too little: want guardian gate NAME"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				objects := []runtime.Object{record(tallied(10, 100, 0)), lease("a", time.Now())}
				for guard, r := range tc.other {
					objects = append(objects, recordOf(guard, r))
				}
				b := newBench(t, objects...)
				b.beat(0)
				if tc.setUp != nil {
					tc.setUp(b)
				}
				began := time.Now()
				code, text := b.run(append([]string{"gate"}, strings.Fields(tc.args)...)...)
				for _, says := range tc.says {
					want(t, code, text, tc.code, says)
				}
				if took := time.Since(began); took != tc.took {
					t.Errorf("took %s, want %s", took, tc.took)
				}
			})
		})
	}
}

func TestAGateWithNoReleaseUnderWayCannotTell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, record(decision.Record{Status: decision.Status{State: decision.StateIdle}}), lease("a", time.Now()))
		code, text := b.run("gate", "--all")
		want(t, code, text, exitUnknown, "could not tell: no guard of namespace shop has a release under way")
	})
}

func TestTheAnswersOfSeveralGuardsForPrograms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, record(tallied(10, 1204, 1)), recordOf("payments", locked()), lease("a", time.Now()))
		b.beat(0)
		code, _ := b.run("gate", "--all", "-o", "json")
		var got []gateJSON
		if err := json.Unmarshal(b.out.Bytes(), &got); err != nil || code != exitFailed || len(got) != 2 || got[1].Code != exitFailed || got[1].Guard != "payments" {
			t.Errorf("%d, %v: %s", code, err, b.out.String())
		}
	})
}

func TestGitHubIsToldByAnnotationsAndASummary(t *testing.T) {
	file := filepath.Join(t.TempDir(), "summary.md")
	t.Setenv("GITHUB_STEP_SUMMARY", file)
	synctest.Test(t, func(t *testing.T) {
		healthy := tallied(10, 1204, 1)
		b := newBench(t, record(healthy), lease("a", time.Now()))
		b.beat(0)
		code, text := b.run("gate", testGuard, "--format", "github")
		want(t, code, text, exitOK, "::notice title=guardian gate orders-service::guard orders-service: healthy for 1m0s at 10%25: 1,204 requests in 60 s, 1 failed (0.084%25); "+
			"an error rate of 0.4%25 or more would have been seen (95%25)\n")
		b.edit(t.Context(), func(r *decision.Record) {
			*r = locked()
			r.Message = "rolled back | by <alert>,\ntwo: lines"
		})
		code, text = b.run("gate", testGuard, "--format", "github")
		want(t, code, text, exitFailed, "::error title=guardian gate orders-service::guard orders-service: rolled back | by <alert>, two: lines%0A  by:  alert GuardianErrorRate\n")
	})
	summary, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| orders-service | healthy | 10% | 1,204 | 1 | healthy for 1m0s at 10%: 1,204 requests", `| orders-service | **not healthy** | 0% | 0 | 0 | rolled back \| by &lt;alert&gt;, two: lines<br>by alert GuardianErrorRate |`} {
		if !strings.Contains(string(summary), want) {
			t.Errorf("want %q in the summary:\n%s", want, summary)
		}
	}
	t.Setenv("GITHUB_STEP_SUMMARY", t.TempDir()) // a folder
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, record(locked()), lease("a", time.Now()))
		code, text := b.run("gate", testGuard, "--format", "github")
		want(t, code, text, exitFailed, "Warning: no job summary: ")
	})
}

func TestALogIsToldOfAGateInPlainLinesAndATerminalInOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		a := &app{errOut: &log}
		p := a.newProgress(gateOptions{})
		for range 120 { // two minutes of the same, but for the numbers
			p.show("orders", "10%, 12 requests; 5s of 2m0s")
			time.Sleep(time.Second)
		}
		p.show("orders", "rollback")
		p.show("payments", "rollback")
		p.end()
		if lines := strings.Split(strings.TrimSpace(log.String()), "\n"); len(lines) != 6 || strings.ContainsAny(log.String(), "\r\x1b") {
			t.Errorf("%d lines:\n%q", len(lines), log.String())
		}
		log.Reset()
		p.live = true
		p.show("orders", "10%; "+strings.Repeat("requests ", 20)+"\nsecond line")
		p.show("orders", "\x1b[2J20%")
		p.end()
		got := strings.Split(log.String(), "\r\x1b[K")
		if len(got) != 4 || len([]rune(got[1])) != 79 || got[2] != `guard orders: \x1b[2J20%` || got[3] != "" || strings.Contains(log.String(), "\n") {
			t.Errorf("%q", got)
		}
		if quiet := a.newProgress(gateOptions{output: "json"}); quiet.out == &log {
			t.Error("a program is told of the progress")
		}
	})
}

// Some CIs give their steps a terminal, and keep all that is written to it.
func TestALineThatChangesIsForPeopleAlone(t *testing.T) {
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no terminal can be had: %v", err)
	}
	defer func() { _ = terminal.Close() }()
	a := &app{errOut: terminal}
	for _, c := range []struct {
		ci, format string
		live       bool
	}{{"", "", true}, {"true", "", false}, {"", "github", false}} {
		t.Setenv("CI", c.ci)
		if p := a.newProgress(gateOptions{format: c.format}); p.live != c.live {
			t.Errorf("%+v: live %v", c, p.live)
		}
	}
}

// TestAGateCountsTimeAnewForABuildWhoseRolloutItHasNotSeen: the record's first word of a
// build can be that it is out already.
func TestAGateCountsTimeAnewForABuildWhoseRolloutItHasNotSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, record(shifting(10, 50)), lease("a", time.Now()))
		b.beat(0)
		b.change(55*time.Second, func(r *decision.Record) {
			*r = movedNow(10)
			r.Status.Build, r.Status.Requests = "b2", 20
		})
		began := time.Now()
		code, text := b.run("gate", testGuard)
		want(t, code, text, exitOK, "healthy for 1m0s at 10%")
		if took := time.Since(began); took < 115*time.Second { // of fake time
			t.Errorf("exit code %d %s after the gate began: b2 has had traffic for 5s of them", code, took)
		}
	})
}

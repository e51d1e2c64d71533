package main

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
)

func TestFindingsAreTextJSONAndAnExitCode(t *testing.T) {
	p := &preflight{app: &app{name: "guardian"}, config: config.Config{Namespace: "shop"}}
	answer := func(result level, code int) {
		t.Helper()
		if got := exitCode(p.verdict()); got != code {
			t.Errorf("exit code %d, want %d", got, code)
		}
		var out bytes.Buffer
		if err := p.writeJSON(&out); err != nil {
			t.Fatal(err)
		}
		var r checkReport
		if err := json.Unmarshal(out.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		if want := (checkReport{shapeOf("Check"), "shop", result, p.count(levelFail), p.count(levelUnknown), p.findings}); !reflect.DeepEqual(r, want) {
			t.Errorf("%+v, want %+v", r, want)
		}
	}
	p.ok("istio", "", "Istio: %s", "v1")
	p.note("ways", "canary v2", "", "Service x leads to its pods")
	answer(levelOK, exitOK)
	p.unknown("rules", "", "name it with --prometheus", "Prometheus does not answer")
	answer(levelUnknown, exitUnknown)
	p.guard = "orders"
	p.fail("stable", "stable v1", "scale it up", "has %d ready endpoints", 0)
	answer(levelFail, exitFailed)
	var text []string
	for _, f := range p.findings {
		text = append(text, f.String())
	}
	want := "ok    Istio: v1\nnote  canary v2: Service x leads to its pods\n?     Prometheus does not answer\n      fix: name it with --prometheus\n" +
		"FAIL  guard orders: stable v1: has 0 ready endpoints\n      fix: scale it up"
	if got := strings.Join(text, "\n"); got != want {
		t.Errorf("said:\n%s\nwant:\n%s", got, want)
	}
}

// A pod that tells no build keeps a lock from being lifted, one that nothing manages
// from nothing.
func TestPodsOfTheCanaryThatTellNoBuildAreNamed(t *testing.T) {
	g := config.Guard{Name: "orders", Canary: config.Ref{Ref: virtualservice.Ref{Subset: "v2"}}}
	sides := decision.Sides{Canary: decision.Side{Workloads: []string{"orders-v2"}}}
	well := decision.Workload{Build: "b1-0123456789ab", Ready: 2}
	said := func(change func(*decision.Workload)) (failed int, text string) {
		t.Helper()
		in, p := decision.Input{Canary: well}, &preflight{app: &app{name: "guardian"}, guard: "orders"}
		change(&in.Canary)
		(&cluster{}).checkCanary(p, g, in, sides)
		var lines []string
		for _, f := range p.findings {
			lines = append(lines, f.String())
		}
		return p.count(levelFail), strings.Join(lines, "\n")
	}
	const ok = "ok    guard orders: canary v2: build b1-0123456789ab of orders-v2, 2 ready"
	for name, c := range map[string]struct {
		change func(*decision.Workload)
		failed int
		want   string
	}{
		"all tell it": {func(*decision.Workload) {}, 0, ok},
		"two do not": {func(w *decision.Workload) { w.Untold = []string{"a of CloneSet orders-v2", "b of CloneSet orders-v2"} }, 1,
			"FAIL  guard orders: canary v2: nothing tells the build of a of CloneSet orders-v2, b of CloneSet orders-v2: a lock is then lifted by hand alone\n" +
				"      fix: have guardian read their ReplicaSets or ControllerRevisions, or set rollback.lock: manual\n" + ok},
		"one is run by hand": {func(w *decision.Workload) { w.Unowned = []string{"debug"} }, 0,
			"note  guard orders: canary v2: debug run without a workload and belong to no build\n" + ok},
	} {
		if got, text := said(c.change); got != c.failed || text != c.want {
			t.Errorf("%s: %d failed\n%s\nwant\n%s", name, got, text, c.want)
		}
	}
}

func TestFindingsThatDifferInTheirObjectAloneAreOne(t *testing.T) {
	got := together([]finding{
		{Level: levelFail, Object: "alert A", Problem: "is silenced"}, {Level: levelNote, Object: "alert A", Problem: "is late"},
		{Level: levelFail, Object: "alert B", Problem: "is silenced"}, {Level: levelFail, Object: "alert C", Problem: "is silenced"},
		{Level: levelFail, Object: "alert C", Problem: "is silenced", Fix: "wait"},
	})
	want := []finding{
		{Level: levelFail, Object: "alerts A, B, C", Problem: "is silenced"}, {Level: levelNote, Object: "alert A", Problem: "is late"},
		{Level: levelFail, Object: "alert C", Problem: "is silenced", Fix: "wait"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// A heartbeat takes a minute and more to come after an installation.
func TestCheckWaitsForAHeartbeatThroughAlertmanager(t *testing.T) {
	const never = time.Hour
	for name, tc := range map[string]struct {
		wait          time.Duration
		pushed, whole time.Duration // after which a heartbeat comes straight from Prometheus, and through Alertmanager
		alertmanager  string
		least, most   time.Duration // that check waits
		complete      bool
	}{
		"comes":             {3 * time.Minute, 20 * time.Second, 65 * time.Second, "http://alertmanager:9093", 65 * time.Second, 90 * time.Second, true},
		"never comes":       {3 * time.Minute, never, never, "http://alertmanager:9093", 3 * time.Minute, 3*time.Minute + heartbeatTick, false},
		"is only pushed":    {time.Minute, 20 * time.Second, never, "http://alertmanager:9093", time.Minute, time.Minute + heartbeatTick, false},
		"pushed suffices":   {3 * time.Minute, 20 * time.Second, never, "", 20 * time.Second, 45 * time.Second, true},
		"is not waited for": {0, never, never, "http://alertmanager:9093", 0, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				renewed := func() *coordinationv1.Lease {
					l := lease("a", time.Now())
					l.Labels[records.LabelReplica] = "true"
					for annotation, after := range map[string]time.Duration{records.AnnotationHeartbeat: min(tc.pushed, tc.whole), records.AnnotationHeartbeatAlertmanager: tc.whole} {
						delete(l.Annotations, annotation)
						if time.Since(began) >= after {
							l.Annotations[annotation] = time.Now().UTC().Format(time.RFC3339)
						}
					}
					return l
				}
				b := newBench(t, renewed())
				ctx := t.Context()
				go func() {
					for sleep(ctx, records.LifePeriod) == nil {
						if _, err := b.kube.CoordinationV1().Leases("shop").Update(ctx, renewed(), metav1.UpdateOptions{}); err != nil && ctx.Err() == nil {
							t.Errorf("renew: %v", err)
						}
					}
				}()
				c := &cluster{kube: b.kube, namespace: "shop"}
				settings := config.Config{Namespace: "shop", Heartbeat: config.Heartbeat{MaxAge: 3 * time.Minute}, Alertmanager: config.Endpoint{URL: tc.alertmanager}}
				life, err := c.awaitHeartbeat(ctx, settings, tc.wait)
				took := time.Since(began)
				if err != nil || life.complete(settings) != tc.complete || took < tc.least || took > tc.most {
					t.Errorf("after %v: complete %v, %v; want %v after %v to %v", took, life.complete(settings), err, tc.complete, tc.least, tc.most)
				}
				p := &preflight{app: &app{name: "guardian"}, config: settings}
				c.checkChain(p, life, err)
				if bad := p.count(levelFail) > 0; bad == tc.complete {
					t.Errorf("says %v", p.findings)
				}
			})
		})
	}
}

func TestCheckRefusesWhatItCannotPrintOrWait(t *testing.T) {
	for _, args := range [][]string{{"check", "-f", "x", "-o", "yaml"}, {"check", "-f", "x", "--wait", "-1s"}} {
		code, said := newBench(t).run(args...)
		want(t, code, said, exitUnknown, "want ")
	}
}

// Of a canary whose rollback window is over, stable may well be gone; and what another
// stable carried is no measure of this one.
func TestAThinStableIsToldWhereARollbackWouldLead(t *testing.T) {
	g := config.Guard{Name: "orders", Rollback: config.Rollback{MinReadyStable: 1, Capacity: 0.8}}
	g.Stable.Subset, g.Canary.Subset = "v1", "v2"
	for name, c := range map[string]struct {
		weight int
		state  decision.State
		lock   *decision.Lock
		moves  *decision.Moves
		says   bool
	}{
		"the canary has traffic":     {weight: 10, state: decision.StateShifting, says: true},
		"it has all, and may go":     {weight: 100, state: decision.StatePromoted, says: true},
		"it is completed":            {weight: 100, state: decision.StateCompleted},
		"it has none":                {state: decision.StateIdle},
		"it has none, by a lock":     {state: decision.StateRolledBack, lock: &decision.Lock{}, says: true},
		"stable is what it was":      {weight: 10, state: decision.StateShifting, moves: &decision.Moves{Stable: "v1", Canary: "v2"}, says: true},
		"stable is another than was": {weight: 10, state: decision.StateShifting, moves: &decision.Moves{Stable: "v2", Canary: "v1"}},
	} {
		p := &preflight{app: &app{name: "guardian"}, config: config.Config{Namespace: "shop"}}
		in := decision.Input{Stable: decision.Endpoints{Ready: 2}, Record: decision.Record{Lock: c.lock}}
		in.Traffic.Weight, in.Record.Status.State, in.Record.Status.Moves, in.Record.Status.Carried = c.weight, c.state, c.moves, 6
		(&cluster{}).checkStable(p, g, in, decision.Sides{})
		if says := slices.ContainsFunc(p.findings, func(f finding) bool { return f.Check == "capacity" }); says != c.says {
			t.Errorf("%s: capacity is told: %v, want %v; %v", name, says, c.says, p.findings)
		}
	}
}

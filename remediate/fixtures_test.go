package remediate

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const fixtures = "../testdata/rewrite"

var (
	bySubset = virtualservice.Pair{Stable: virtualservice.Ref{Subset: "v1"}, Canary: virtualservice.Ref{Subset: "v2"}, Host: "orders-service", Namespace: "microservices"}
	byHost   = virtualservice.Pair{Stable: virtualservice.Ref{Host: "orders-v1"}, Canary: virtualservice.Ref{Host: "orders-v2"}, Namespace: "microservices"}
	all      = virtualservice.Options{MatchRoutes: true, Mirrors: true}
)

// golden compares with a file and, under -update, writes it.
func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (run `make golden`)", err)
	}
	if string(got) != string(want) {
		t.Errorf("%s differs (run `make golden` and read the diff); got:\n%s", path, got)
	}
}

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(fixtures, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const guardianUser = "system:serviceaccount:" + testNamespace + ":guardian"

// at is the moment of what the tables tell; all other times are given relative to
// it.
var at = time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)

// given is a guard at 50% that has seen its build b1 an hour ago, with both
// sides healthy, as edited by the options.
func given(edits ...func(*decision.Input)) decision.Input {
	in := decision.Input{
		Guard: decision.Guard{Name: "orders-service", Namespace: testNamespace, VirtualServices: []string{"orders-service"},
			DestinationRule: "orders-service", Stable: virtualservice.Ref{Subset: "v1"}, Canary: virtualservice.Ref{Subset: "v2"},
			Rollback: decision.Rollback{Lock: decision.LockBuild, Window: 30 * time.Minute, MinReadyStable: 1, MatchRoutes: true, Mirrors: true},
			Promotion: decision.Promotion{Mode: decision.PromotionOff, MinRequests: 100, Steps: []decision.Step{{Weight: 10, Interval: 5 * time.Minute},
				{Weight: 30, Interval: 5 * time.Minute}, {Weight: 50, Interval: 5 * time.Minute, Bake: 2 * time.Minute}, {Weight: 100, Interval: 5 * time.Minute}}},
			AlertWindow: 6 * time.Minute, HeartbeatMaxAge: 3 * time.Minute},
		Record: decision.Record{Status: decision.Status{State: decision.StateShifting, Since: at.Add(-10 * time.Minute), Weight: 50, Build: "b1", BuildSince: at.Add(-time.Hour),
			MovedAt: at.Add(-10 * time.Minute), Served: []decision.Served{{Build: "b1", From: at.Add(-10 * time.Minute)}}}},
		Traffic: virtualservice.Traffic{Weight: 50, Lowest: 50, Split: 1},
		Canary: decision.Workload{Build: "b1", Since: at.Add(-time.Hour), Builds: []string{"b1"}, Running: []string{"b1"}, Ready: 2, Current: 2, Complete: true,
			Ages: map[string]decision.PodAge{"b1": {Made: at.Add(-time.Hour), Ready: at.Add(-time.Hour)}}},
		Stable: decision.Endpoints{Ready: 2},
		Deny:   []string{"orders-service/v2"},
	}
	for _, edit := range edits {
		edit(&in)
	}
	return in
}

// gets sets what the VirtualService gives to the canary.
func gets(weight int) func(*decision.Input) {
	return func(in *decision.Input) { in.Traffic.Weight, in.Traffic.Lowest = weight, weight }
}

// locked is a guard that was rolled back from b1, with the canary at 0.
func locked(kind decision.LockKind) func(*decision.Input) {
	return func(in *decision.Input) {
		in.Record.Status.State, in.Record.Status.Weight = decision.StateRolledBack, 0
		gets(0)(in)
		in.Record.Lock = &decision.Lock{Kind: kind, Build: "b1", Alert: "CanaryErrors", By: "alert", Since: at.Add(-10 * time.Minute), Reason: "CanaryErrors: 7% of requests fail"}
		in.Record.Refused = []string{"b1"}
	}
}

func mustEncode(t testing.TB, l decision.LockAnnotation) string {
	t.Helper()
	text, err := l.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func recordMap(r decision.Record) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "guardian-orders-service", Namespace: testNamespace, ResourceVersion: r.ResourceVersion}, Data: r.Data()}
}

// fullRecord has every field of a record set.
func fullRecord() decision.Record {
	return decision.Record{
		ResourceVersion: "7",
		Lock: &decision.Lock{Kind: decision.LockBuild, Build: "b1", Signal: "latency", Alert: "CanarySlow", Fingerprint: "f1", StartsAt: at.Add(-time.Minute), Since: at,
			By: "alert", From: "orders-old", Refused: []string{"b0", "b1"}, Coming: []string{"b2"}, Reason: "CanarySlow: p95 is 900 ms, \"very\" slow"},
		Refused: []string{"b0", "b1"},
		Changed: []virtualservice.Change{{VirtualService: "orders-service", Path: "/spec/http/0/mirror", Was: json.RawMessage(`{"host":"orders"}`), Wrote: json.RawMessage(`{"host":"x"}`), Route: "mark"}},
		Status: decision.Status{State: decision.StateRolledBack, Since: at, Weight: 9, Reason: "slow", Build: "b1", BuildSince: at.Add(-time.Hour), MovedAt: at, PromotedAt: at.Add(-time.Minute),
			Paused: &decision.Pause{By: "ann", Reason: "x", At: at}, PausedOnVS: true, Disarmed: &decision.Disarm{By: "ann", Reason: "x", At: at, Until: at.Add(time.Hour)}, Alerts: []string{"CanarySlow"}, Waiting: "waiting: 37 of 100 requests", NextStep: 30, NextAt: at.Add(time.Hour), Requests: 37,
			Failed: 2, Latency: decision.Latency{Quantile: 0.95, Millis: 250, Above: true}, Counted: decision.Counted{Since: at.Add(-time.Minute), At: at},
			Firing: []decision.Firing{{Name: "CanarySlow", Episode: "f1@x", Action: decision.ActionRollback, Began: at, Seen: at, Summary: "slow"}},
			Noted:  []string{"f1@x"}, Promoting: "b1", Ready: decision.ReadyInfo{Stable: 2, Canary: 1}, Unverified: true, Full: true, Unwatched: "not loaded", Spread: 4, Splits: []string{"0123456789abcdef"}, Leaving: []decision.Leaving{{VirtualService: "orders-mesh", Why: "forbidden"}}, CompletedAt: at,
			Mode: decision.PromotionAuto, Ladder: []int{30, 100}, WaitingFor: decision.WaitRequests, Waited: []decision.Wait{decision.WaitRollout}, ToldAt: at, Fresh: true, Rolling: true, Moving: &decision.Moving{To: 9, From: 5, Step: 9, At: at, By: "ann", Build: "b1", Reason: "r", Alert: "a", Signal: "latency", Again: true, Refused: "no"}, UnlockedAt: at.Add(-2 * time.Hour),
			FirstSeen: at.Add(-time.Hour), LiftedAt: at.Add(-2 * time.Hour), Taken: &decision.Taken{Guard: "orders-old", Since: at}, Proven: []string{"b0"},
			Served: []decision.Served{{Build: "b1", From: at, Until: at.Add(time.Minute)}}, Revisions: []decision.Revision{{Name: "orders-v2-5d4", Build: "b1"}},
			Observing: &decision.Observing{Since: at, Would: &decision.Would{At: at, From: 9, Build: "b1", Refused: []string{"b1"}, Signal: "latency", Alert: "CanarySlow", Episode: "f1@x", Reason: "slow", Blocked: "no stable"}}, EnforcedAt: at,
			Unguarded: []string{"VirtualService shop/mesh (30%)"}, ForeignLocks: []string{"VirtualService orders: annotation x (it cannot be read)"},
			Orphaned: at.Add(time.Minute), Moves: &decision.Moves{VirtualServices: []string{"orders-service", "orders-mesh"}, Stable: "v1", Canary: "host:orders-v2"}},
		History:         []decision.HistoryEntry{{At: at, State: decision.StateRolledBack, Event: "rolled-back", By: "alert", From: 50, To: 0, Build: "b1", Alert: "CanarySlow", Reason: "slow"}},
		Request:         &decision.Request{Action: decision.RequestDisarm, By: "ann", Reason: "it's fine", At: at, Until: at.Add(time.Hour)},
		Deny:            []string{"orders-service/v2", "orders-service.microservices/v2"},
		DenyMatchRoutes: true,
		DenyMirrors:     true,
		Stable:          []string{"orders-service/v1"},
		VirtualServices: []string{"orders-service", "orders-mesh"},
		Message:         "guardian rolled orders-service back",
	}
}

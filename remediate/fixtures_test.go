package remediate

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
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

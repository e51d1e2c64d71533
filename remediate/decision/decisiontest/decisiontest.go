// Package decisiontest makes guards, inputs and records for the tests of packages
// that use decision. It knows nothing of how guardian decides, and no program imports
// it.
package decisiontest

import (
	"encoding/json"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
)

// Namespace is where the guards are.
const Namespace = "microservices"

// At is the moment of what the tables tell; all other times are given relative to
// it.
var At = time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)

// Given is a guard at 50% that has seen its build b1 an hour ago, with both
// sides healthy, as edited by the options.
func Given(edits ...func(*decision.Input)) decision.Input {
	in := decision.Input{
		Guard: decision.Guard{Name: "orders-service", Namespace: Namespace, VirtualServices: []string{"orders-service"},
			DestinationRule: "orders-service", Stable: virtualservice.Ref{Subset: "v1"}, Canary: virtualservice.Ref{Subset: "v2"},
			Rollback: decision.Rollback{Lock: decision.LockBuild, Window: 30 * time.Minute, MinReadyStable: 1, Capacity: 0.8, MatchRoutes: true, Mirrors: true},
			Promotion: decision.Promotion{Mode: decision.PromotionOff, MinRequests: 100, Steps: []decision.Step{{Weight: 10, Interval: 5 * time.Minute},
				{Weight: 30, Interval: 5 * time.Minute}, {Weight: 50, Interval: 5 * time.Minute, Bake: 2 * time.Minute}, {Weight: 100, Interval: 5 * time.Minute}}},
			AlertWindow: 6 * time.Minute, HeartbeatMaxAge: 3 * time.Minute},
		Record: decision.Record{Status: decision.Status{State: decision.StateShifting, Since: At.Add(-10 * time.Minute), Weight: 50, Build: "b1", BuildSince: At.Add(-time.Hour),
			MovedAt: At.Add(-10 * time.Minute), BuildMemory: decision.BuildMemory{Served: []decision.Served{{Build: "b1", From: At.Add(-10 * time.Minute)}}}}},
		Traffic: virtualservice.Traffic{Weight: 50, Lowest: 50, Split: 1},
		Canary: decision.Workload{Build: "b1", Since: At.Add(-time.Hour), Builds: []string{"b1"}, Running: []string{"b1"}, Ready: 2, Current: 2, Complete: true,
			Ages: map[string]decision.PodAge{"b1": {Made: At.Add(-time.Hour), Ready: At.Add(-time.Hour), Last: At.Add(-time.Hour)}}},
		Stable: decision.Endpoints{Ready: 2},
		Deny:   []string{"orders-service/v2"},
	}
	for _, edit := range edits {
		edit(&in)
	}
	return in
}

// Gets sets what the VirtualService gives to the canary.
func Gets(weight int) func(*decision.Input) {
	return func(in *decision.Input) { in.Traffic.Weight, in.Traffic.Lowest = weight, weight }
}

// FullRecord has every field of a record set.
func FullRecord() decision.Record {
	return decision.Record{
		ResourceVersion: "7",
		Lock: &decision.Lock{Kind: decision.LockBuild, Build: "b1", Signal: "latency", Alert: "CanarySlow", Fingerprint: "f1", StartsAt: At.Add(-time.Minute), Since: At,
			By: "alert", From: "orders-old", Refused: []string{"b0", "b1"}, Coming: []string{"b2"}, Reason: "CanarySlow: p95 is 900 ms, \"very\" slow",
			Stable: "v1", Canary: "host:orders-v2", Also: []string{"orders-service/v3"}, Next: []string{"orders-service/v4"}},
		Refused: []string{"b0", "b1"},
		Changed: []virtualservice.Change{{VirtualService: "orders-service", Path: "/spec/http/0/mirror", Was: json.RawMessage(`{"host":"orders"}`), Wrote: json.RawMessage(`{"host":"x"}`), Route: "mark"}},
		Status: decision.Status{State: decision.StateRolledBack, Since: At, Weight: 9, Reason: "slow", Build: "b1", BuildSince: At.Add(-time.Hour), AloneSince: At.Add(-50 * time.Minute), MovedAt: At,
			PromotedAt:   At.Add(-time.Minute),
			ByPersons:    decision.ByPersons{Paused: &decision.Pause{By: "ann", Reason: "x", At: At}, PausedOnVS: true, Disarmed: &decision.Disarm{By: "ann", Reason: "x", At: At, Until: At.Add(time.Hour)}},
			FiringStatus: decision.FiringStatus{Alerts: []string{"CanarySlow"}, Firing: []decision.Firing{{Name: "CanarySlow", Episode: "f1@x", Action: decision.ActionRollback, Began: At, Seen: At, Summary: "slow"}}, HeldBy: "CanarySlow", Unasked: []string{"f2@x"}},
			StepStatus:   decision.StepStatus{Waiting: "waiting: 37 of 100 requests", NextStep: 30, NextAt: At.Add(time.Hour), Mode: decision.PromotionAuto, Steps: []int{30, 100}, WaitingFor: decision.WaitRequests, Waited: []decision.Wait{decision.WaitRollout}, ToldAt: At},
			Counts:       decision.Counts{Requests: 37, Failed: 2, Latency: decision.Latency{Quantile: 0.95, Millis: 250, Above: true}, Counted: decision.Counted{Since: At.Add(-time.Minute), At: At}},
			Noted:        []string{"f1@x"}, Promoting: "b1", Ready: decision.ReadyInfo{Stable: 2, Canary: 1}, Unverified: true, Full: true, Unwatched: "not loaded", NoRollback: []decision.SignalAction{{Signal: "latency", Action: decision.ActionHold}}, Spread: 4,
			Splits: []string{"0123456789abcdef"}, Leaving: []decision.Leaving{{VirtualService: "orders-mesh", Why: "forbidden"}}, CompletedAt: At, Fresh: true, Rolling: true,
			Moving:     &decision.Moving{To: 9, From: 5, Step: 9, At: At, By: "ann", Build: "b1", Reason: "r", Alert: "a", Signal: "latency", Again: true, Begins: true, Refused: "no", Receipt: FullReceipt(), Requests: []decision.Asker{{ID: "id-of-a-third", By: "ann"}}},
			UnlockedAt: At.Add(-2 * time.Hour), FirstSeen: At.Add(-time.Hour), LiftedAt: At.Add(-2 * time.Hour),
			BuildMemory: decision.BuildMemory{Taken: &decision.Taken{Guard: "orders-old", Since: At}, Proven: []string{"b0"}, Served: []decision.Served{{Build: "b1", From: At, Until: At.Add(time.Minute)}}, Revisions: []decision.Revision{{Name: "orders-v2-5d4", Build: "b1"}}},
			Observing:   &decision.Observing{Since: At, Would: &decision.Would{At: At, From: 9, Build: "b1", Refused: []string{"b1"}, Signal: "latency", Alert: "CanarySlow", Episode: "f1@x", Reason: "slow", Blocked: "no stable"}},
			EnforcedAt:  At, Outsiders: decision.Outsiders{Unguarded: []string{"VirtualService shop/mesh (30%)"}, Overruled: []string{"Istio takes subset v1 from another"}, ForeignLocks: []string{"VirtualService orders: annotation x (it cannot be read)"}},
			Capacity: decision.Capacity{Carried: 6, Thin: "stable has 2 ready endpoints, and had 6"},
			Orphaned: At.Add(time.Minute), Links: []decision.Link{{Name: "Kiali", URL: "https://kiali.example"}}, Moves: &decision.Moves{VirtualServices: []string{"orders-service", "orders-mesh"}, Stable: "v1", Canary: "host:orders-v2"}},
		History:         []decision.HistoryEntry{{At: At, State: decision.StateRolledBack, Event: "rolled-back", By: "alert", From: 50, To: 0, Build: "b1", Alert: "CanarySlow", Reason: "slow", Fired: At.Add(-time.Second), Of: At.Add(-time.Hour), Times: 2, Last: At.Add(time.Hour)}},
		Receipt:         FullReceipt(),
		Request:         &decision.Request{Action: decision.RequestDisarm, By: "ann", Reason: "it's fine", At: At, Until: At.Add(time.Hour), Of: At.Add(-time.Hour), ID: "id-of-this-one", Replaces: []string{"id-of-another"}},
		Answers:         []decision.Answer{{ID: "id-of-an-older", Action: decision.RequestPause, By: "bob", Result: decision.ResultDone, At: At, Text: "paused: lunch"}},
		Deny:            []string{"orders-service/v2", "orders-service.microservices/v2"},
		DenyMatchRoutes: true,
		DenyMirrors:     true,
		Stable:          []string{"orders-service/v1"},
		VirtualServices: []string{"orders-service", "orders-mesh"},
		Message:         "guardian rolled orders-service back",
	}
}

// FullReceipt has every field of a receipt set.
func FullReceipt() *decision.Receipt {
	return &decision.Receipt{Build: "b1", Refused: []string{"b0", "b1"}, Lock: decision.LockBuild, By: "alert", Reason: "CanarySlow: slow", Alert: "CanarySlow", Signal: "latency", Limit: "95% within 500ms", From: 50,
		Began: At.Add(-9 * time.Second), Fired: At.Add(-6 * time.Second), Seen: At.Add(-5 * time.Second), Written: At, Felt: At.Add(7 * time.Second), NotFelt: "x", Requests: 310, Failed: 22, Counted: decision.Counted{Since: At.Add(-time.Hour), At: At},
		Shifted: &decision.Shift{Manager: "kubectl-client-side-apply", At: At.Add(-time.Hour), Cause: "release 7"}, Images: []string{"orders: registry/orders:2"}, Differs: []string{"containers[orders].image: 1 → 2"}, Since: []string{"containers[orders].env[A]: added"}, Good: "b0", Unread: "x",
		Links: []decision.Link{{Name: "Grafana", URL: "https://grafana.example/d/guardian-guard"}}, Open: true}
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/canary-guardian/guardian/cmd/guardian/report"
	"github.com/canary-guardian/guardian/internal/printable"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
)

const testGuard = "orders-service"

// bench is a fake cluster with a fake guardian, for one test under synctest.
type bench struct {
	t        *testing.T
	kube     *fake.Clientset
	istio    dynamic.Interface // nil: not needed
	out, err bytes.Buffer

	mu         sync.Mutex
	beatAge    time.Duration // of the heartbeat at each renewal; below zero: none
	beatMaxAge string
}

func newBench(t *testing.T, objects ...runtime.Object) *bench {
	shop := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}
	b := &bench{t: t, kube: fake.NewClientset(append([]runtime.Object{shop}, objects...)...)}
	b.kube.PrependReactor("create", "selfsubjectreviews", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, &authenticationv1.SelfSubjectReview{Status: authenticationv1.SelfSubjectReviewStatus{
			UserInfo: authenticationv1.UserInfo{Username: "ann@example.com"}}}, nil
	})
	return b
}

// run is one call of the program: its exit code, and both of its outputs with
// the error's text.
func (b *bench) run(args ...string) (int, string) {
	b.t.Helper()
	return b.runUntil(b.t.Context(), args...)
}

// runUntil is run of a call that a signal ends.
func (b *bench) runUntil(ctx context.Context, args ...string) (int, string) {
	b.t.Helper()
	b.out.Reset()
	b.err.Reset()
	a := &app{name: "guardian", in: strings.NewReader(""), out: &b.out, errOut: &b.err, connect: func(f clusterFlags) (*cluster, error) {
		return &cluster{kube: b.kube, dynamic: b.istio, namespace: "shop", user: "ann"}, nil
	}}
	err := a.execute(ctx, args)
	text := b.out.String() + b.err.String()
	if err != nil {
		text += "Error: " + printable.Error(err) + "\n"
	}
	return exitCode(err), text
}

func record(r decision.Record) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: records.Name(testGuard), Namespace: "shop", Labels: map[string]string{records.LabelGuard: testGuard}},
		Data:       r.Data(),
	}
}

func lease(pod string, renewed time.Time) *coordinationv1.Lease {
	at := metav1.NewMicroTime(renewed)
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: "guardian-" + pod, Namespace: "shop", Labels: map[string]string{"app.kubernetes.io/name": "guardian"},
			Annotations: map[string]string{records.AnnotationHeartbeat: renewed.UTC().Format(time.RFC3339),
				records.AnnotationHeartbeatAlertmanager: renewed.UTC().Format(time.RFC3339), records.AnnotationHeartbeatMaxAge: "3m0s"}},
		Spec: coordinationv1.LeaseSpec{RenewTime: &at},
	}
}

// beat renews the Lease as a replica does, with a clock that is off by skew, until the
// test ends.
func (b *bench) beat(skew time.Duration) {
	ctx := b.t.Context()
	leases := b.kube.CoordinationV1().Leases("shop")
	go func() {
		if sleep(ctx, time.Second/2) != nil { // never in the instant of a look
			return
		}
		tick := time.NewTicker(records.LifePeriod)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if _, err := leases.Update(ctx, b.lease(time.Now().Add(skew)), metav1.UpdateOptions{}); err != nil && ctx.Err() == nil {
					b.t.Errorf("renew: %v", err)
				}
			}
		}
	}()
}

// hears sets the age of the newest heartbeat, also of renewals to come; below
// zero: none was heard.
func (b *bench) hears(age time.Duration, maxAge string) {
	b.mu.Lock()
	b.beatAge, b.beatMaxAge = age, maxAge
	b.mu.Unlock()
	if _, err := b.kube.CoordinationV1().Leases("shop").Update(b.t.Context(), b.lease(time.Now()), metav1.UpdateOptions{}); err != nil {
		b.t.Error(err)
	}
}

func (b *bench) lease(renewed time.Time) *coordinationv1.Lease {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := lease("a", renewed)
	l.Annotations = map[string]string{}
	if b.beatAge >= 0 {
		l.Annotations[records.AnnotationHeartbeat] = renewed.Add(-b.beatAge).UTC().Format(time.RFC3339)
	}
	if b.beatMaxAge != "" {
		l.Annotations[records.AnnotationHeartbeatMaxAge] = b.beatMaxAge
	}
	return l
}

// change edits the record after a while, as guardian would.
func (b *bench) change(after time.Duration, edit func(*decision.Record)) {
	ctx := b.t.Context()
	go func() {
		if sleep(ctx, after) != nil {
			return
		}
		b.edit(ctx, edit)
	}()
}

func (b *bench) edit(ctx context.Context, edit func(*decision.Record)) {
	b.editOf(ctx, testGuard, edit)
}

func (b *bench) editOf(ctx context.Context, guard string, edit func(*decision.Record)) {
	cm, err := b.kube.CoreV1().ConfigMaps("shop").Get(ctx, records.Name(guard), metav1.GetOptions{})
	if err != nil {
		b.t.Error(err)
		return
	}
	r, err := records.Parse(cm)
	if err != nil {
		b.t.Error(err)
		return
	}
	edit(&r)
	cm.Data = r.Data()
	if _, err := b.kube.CoreV1().ConfigMaps("shop").Update(ctx, cm, metav1.UpdateOptions{}); err != nil {
		b.t.Error(err)
	}
}

// answer takes each request off the record a second later.
func (b *bench) answer(take func(*decision.Record, decision.Request)) { b.answerFor(testGuard, take) }

func (b *bench) answerFor(guard string, take func(*decision.Record, decision.Request)) {
	ctx := b.t.Context()
	go func() {
		for sleep(ctx, time.Second) == nil {
			cm, err := b.kube.CoreV1().ConfigMaps("shop").Get(ctx, records.Name(guard), metav1.GetOptions{})
			if err != nil || cm.Data[decision.KeyRequestAction] == "" {
				continue
			}
			b.editOf(ctx, guard, func(r *decision.Record) {
				q := *r.Request
				r.Request = nil
				take(r, q)
			})
		}
	}()
}

func (b *bench) read() decision.Record {
	b.t.Helper()
	cm, err := b.kube.CoreV1().ConfigMaps("shop").Get(b.t.Context(), records.Name(testGuard), metav1.GetOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	r, err := records.Parse(cm)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

func shifting(weight int, requests int64) decision.Record {
	return decision.Record{Status: decision.Status{State: decision.StateShifting, Weight: weight, Counts: decision.Counts{Requests: requests}, Build: "b1"}}
}

// movedNow is shifting since now: no request has been counted yet.
func movedNow(weight int) decision.Record {
	r := shifting(weight, 0)
	r.Status.MovedAt = time.Now()
	return r
}

// rolling is a guard whose build has not come to all of the canary's pods.
func rolling(r decision.Record) decision.Record {
	r.Status.Rolling = true
	return r
}

// tallied is shifting, with requests that were counted over a minute.
func tallied(weight int, requests, failed int64) decision.Record {
	r := shifting(weight, requests)
	at := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	r.Status.Failed, r.Status.Counted = failed, decision.Counted{Since: at.Add(-time.Minute), At: at}
	return r
}

func locked() decision.Record {
	return decision.Record{
		Lock:    &decision.Lock{Kind: decision.LockBuild, Build: "b1", Signal: "error_rate", Alert: "GuardianErrorRate", By: "alert", Reason: "5% of requests failed"},
		Status:  decision.Status{State: decision.StateRolledBack, Reason: "5% of requests failed", Build: "b1"},
		Refused: []string{"b1"}, Message: "orders-service was rolled back: deploy a new build of v2",
	}
}

// underWay is a guard whose lock is written and whose traffic has not moved yet.
func underWay(weight int) decision.Record {
	r := locked()
	r.Status.State, r.Status.Weight, r.Status.Reason = decision.StateShifting, weight, "rolling back: 5% of requests failed"
	r.Status.Moving = &decision.Moving{From: weight, By: "alert"}
	return r
}

// want checks a call's exit code, what it says, and how long it took by the
// bubble's clock.
func want(t *testing.T, code int, text string, wantCode int, wantText string) {
	t.Helper()
	if code != wantCode || !strings.Contains(text, wantText) {
		t.Errorf("exit code %d, want %d, with %q; said:\n%s", code, wantCode, wantText, text)
	}
}

func disarmed(r decision.Record) decision.Record {
	r.Status.State = decision.StateDisarmed
	r.Status.Disarmed = &decision.Disarm{By: "bob", Reason: "game day", Until: time.Date(2000, 1, 1, 1, 0, 0, 0, time.UTC)}
	return r
}

func observing(r decision.Record) decision.Record {
	r.Status.Observing = &decision.Observing{Since: time.Unix(0, 0).UTC()}
	return r
}

// wouldBe is a guard that observes and would have been rolled back.
func wouldBe(r decision.Record) decision.Record {
	r = observing(r)
	r.Status.Observing.Would = &decision.Would{At: time.Unix(60, 0).UTC(), From: 10, Build: "b1", Signal: "error_rate", Reason: "CanaryErrors: 7% of requests fail"}
	return r
}

func firing(state decision.State, weight int, action decision.Action) decision.Record {
	return decision.Record{Status: decision.Status{State: state, Weight: weight, Counts: decision.Counts{Requests: 50},
		FiringStatus: decision.FiringStatus{Firing: []decision.Firing{{Name: "StableErrors", Episode: "f@x", Action: action, Summary: "7% of requests fail"}}}}}
}

func TestGate(t *testing.T) {
	for name, tc := range map[string]struct {
		record decision.Record
		args   []string
		setUp  func(*bench)
		code   int
		says   string
		took   time.Duration
	}{
		"a healthy canary passes after its time": {
			record: shifting(10, 50), code: exitOK, says: "healthy for 1m0s at 10%", took: time.Minute},
		"a rollback in the middle fails at once": {
			record: shifting(10, 50), setUp: func(b *bench) { b.change(20*time.Second, func(r *decision.Record) { *r = locked() }) },
			code: exitFailed, says: "deploy a new build of v2", took: 20 * time.Second},
		"a locked guard fails at once": {
			record: locked(), code: exitFailed, says: "deploy a new build of v2"},
		"a guard that was rolled back without a lock fails": {
			record: decision.Record{Status: decision.Status{State: decision.StateRolledBack, Reason: "lock is none"}}, code: exitFailed, says: "rolled-back at 0%: lock is none"},
		"a hold fails with its reason": {
			record: decision.Record{Status: decision.Status{State: decision.StateHeld, Weight: 30, Reason: "stable fails as well"}},
			code:   exitFailed, says: "held at 30%: stable fails as well"},
		"a blocked rollback fails with its reason": {
			record: decision.Record{Status: decision.Status{State: decision.StateBlocked, Weight: 30, Reason: "stable has no endpoints"}},
			code:   exitFailed, says: "blocked at 30%: stable has no endpoints"},
		"an observing guard fails while an alert fires, and says that nothing is rolled back": {
			record: observing(firing(decision.StateShifting, 10, decision.ActionRollback)), code: exitFailed, says: "fires, canary at 10%: 7% of requests fail; guardian observes and does not roll back"},
		"a would-be rollback in the middle fails, also when its alert is over": {
			record: observing(shifting(10, 50)), setUp: func(b *bench) {
				b.change(20*time.Second, func(r *decision.Record) {
					r.History = append(r.History, decision.HistoryEntry{At: time.Now(), Event: decision.EventWould, From: 10, To: 10, Reason: "would have rolled back 10% → 0%, because CanaryErrors: 7%"})
				})
			}, code: exitFailed, says: "would have rolled back 10% → 0%, because CanaryErrors: 7% (at 2000-01-01T00:00:20Z); guardian observes and does not roll back", took: 20 * time.Second},
		"one that is blocked, and was before, fails at the time when it came again": {
			record: func() decision.Record {
				r := observing(shifting(10, 50))
				r.History = []decision.HistoryEntry{{At: time.Unix(0, 0), Event: decision.EventWouldBlocked, Reason: "stable has no endpoints"}}
				return r
			}(), setUp: func(b *bench) {
				b.change(20*time.Second, func(r *decision.Record) { r.History[0].Times, r.History[0].Last = 2, time.Now() })
			}, code: exitFailed, says: "stable has no endpoints (at 2000-01-01T00:00:20Z)", took: 20 * time.Second},
		"a would-be rollback of before fails nothing": {
			record: wouldBe(shifting(10, 50)), code: exitOK, says: "healthy for 1m0s at 10%", took: time.Minute},
		"healthy, and signals do not roll back": {
			record: func() decision.Record {
				r := shifting(10, 50)
				r.Status.NoRollback = []decision.SignalAction{{Signal: "latency", Action: decision.ActionHold}, {Signal: "traffic", Action: decision.ActionOff}}
				return r
			}(), code: exitOK, says: "; no rollback by latency (hold), traffic (off)", took: time.Minute},
		"a pause changes no answer": {
			record: func() decision.Record {
				r := shifting(30, 50)
				r.Status.State, r.Status.Paused = decision.StatePaused, &decision.Pause{By: "bob", Reason: "lunch"}
				return r
			}(), code: exitOK, says: "; guardian takes no step of its own, paused by bob: lunch", took: time.Minute},
		"a disarmed guardian cannot tell": {
			record: disarmed(shifting(30, 50)), code: exitUnknown, says: "disarmed by bob until 2000-01-01T01:00:00Z: game day: nothing would be rolled back"},
		"a disarmed guardian cannot tell, locked or not": {
			record: disarmed(locked()), code: exitUnknown, says: "nothing would be rolled back; the lock stands: 5% of requests failed"},
		"nor is it waited for": {
			record: disarmed(locked()), args: []string{"--wait-unlocked"}, code: exitUnknown, says: "disarmed by bob until"},
		"a disarm in the middle ends the gate": {
			record: shifting(30, 50), setUp: func(b *bench) { b.change(20*time.Second, func(r *decision.Record) { *r = disarmed(*r) }) },
			code: exitUnknown, says: "disarmed by bob", took: 20 * time.Second},
		"a rollback that is not confirmed yet fails": {
			record: func() decision.Record {
				r := locked()
				r.Status.State, r.Status.Weight, r.Status.Reason = decision.StateShifting, 30, "rolling back: 5% of requests failed"
				return r
			}(), code: exitFailed, says: "rollback under way, the canary is at 30%: 5% of requests failed"},
		"one without a lock as well": {
			record: func() decision.Record {
				r := shifting(30, 50)
				r.Status.Moving, r.Status.Reason = &decision.Moving{From: r.Status.Weight}, "rolling back: 5% of requests failed"
				return r
			}(), code: exitFailed, says: "rollback under way, the canary is at 30%: rolling back: 5% of requests failed"},
		"a hold that fires at 100% fails": {
			record: firing(decision.StatePromoted, 100, decision.ActionHold), code: exitFailed, says: "alert StableErrors (hold) fires, canary at 100%: 7% of requests fail"},
		"an alert about an earlier build at 100% fails": {
			record: firing(decision.StatePromoted, 100, decision.ActionRollback), code: exitFailed, says: "alert StableErrors (rollback) fires, canary at 100%"},
		"an alert after the rollback window fails": {
			record: firing(decision.StateCompleted, 100, decision.ActionRollback), args: []string{"--min-requests", "0"}, code: exitFailed, says: "alert StableErrors (rollback) fires, canary at 100%"},
		"an alert before the first traffic fails": {
			record: firing(decision.StateIdle, 0, decision.ActionHold), code: exitFailed, says: "alert StableErrors (hold) fires, canary at 0%"},
		"an alert that fires is waited for before traffic is shifted": {
			record: firing(decision.StateIdle, 0, decision.ActionHold), args: []string{"--wait-unlocked"}, setUp: func(b *bench) {
				b.change(40*time.Second, func(r *decision.Record) { r.Status.Firing = nil })
			}, code: exitOK, says: "not locked: traffic may be shifted", took: 40 * time.Second},
		"one that goes on firing fails in time": {
			record: firing(decision.StateIdle, 0, decision.ActionHold), args: []string{"--wait-unlocked", "--timeout", "2m"}, code: exitFailed,
			says: "not locked, but after 2m0s: alert StableErrors (hold) fires", took: 2 * time.Minute},
		"a canary that no rule watches cannot be told": {
			record: func() decision.Record {
				r := shifting(30, 50)
				r.Status.Unwatched = "the group of its rules is not loaded"
				return r
			}(), code: exitUnknown, says: "the group of its rules is not loaded", took: gateHeartbeatWait},
		"without a request nothing is proven, unless none is asked for": {
			record: func() decision.Record {
				r := shifting(30, 0)
				r.Status.Unwatched = decision.NoRequestsYet
				return r
			}(), args: []string{"--min-requests", "0"}, code: exitOK, says: "healthy for 1m0s at 30%", took: time.Minute},
		"until one does": {
			record: func() decision.Record {
				r := shifting(30, 50)
				r.Status.Unwatched = "no request of the canary has been recorded yet"
				return r
			}(), setUp: func(b *bench) { b.change(70*time.Second, func(r *decision.Record) { r.Status.Unwatched = "" }) },
			code: exitOK, says: "healthy for 1m0s at 30%", took: 70 * time.Second},
		"for programs": {
			record: tallied(10, 50, 1), args: []string{"-o", "json"}, code: exitOK,
			says: `"code": 0,
  "text": "healthy for 1m0s at 10%: 50 requests in 60 s, 1 failed (2%); an error rate of 9.2% or more would have been seen (95%)",
  "state": "shifting",
  "weight": 10,
  "requests": 50,
  "failed": 1,
  "ruledOut": 0.09`, took: time.Minute},
		"a failure for programs": {
			record: firing(decision.StatePromoted, 100, decision.ActionHold), args: []string{"-o", "json"}, code: exitFailed, says: `"code": 1,`},
		"it waits for a proof": {
			record: tallied(10, 100, 0), args: []string{"--prove", "2%"},
			setUp: func(b *bench) { b.change(3*time.Minute, func(r *decision.Record) { r.Status.Requests = 183 }) },
			code:  exitOK, says: "183 requests in 60 s, 0 failed; an error rate of 2% or more would have been seen (95%)", took: 3 * time.Minute},
		"and says at its end what is lacking": {
			record: tallied(10, 100, 0), args: []string{"--prove", "2%", "--timeout", "5m"}, code: exitUnknown,
			says: "an error rate of 2% is not ruled out after 5m0s at 10%: 100 requests, 0 failed; 83 more without a failure are lacking", took: 5 * time.Minute},
		"also by the least number of requests": {
			record: tallied(10, 300, 0), args: []string{"--prove", "2%", "--min-requests", "1000", "--timeout", "2m"}, code: exitUnknown,
			says: "700 more without a failure are lacking", took: 2 * time.Minute},
		"a rollback ends the wait for a proof": {
			record: tallied(10, 100, 0), args: []string{"--prove", "0.02"},
			setUp: func(b *bench) { b.change(2*time.Minute, func(r *decision.Record) { *r = locked() }) },
			code:  exitFailed, says: "deploy a new build of v2", took: 2 * time.Minute},
		"a guardian that counts no failures proves nothing": {
			record: shifting(10, 5000), args: []string{"--prove", "2%", "--timeout", "2m"}, code: exitUnknown,
			says: "guardian does not say how many requests failed", took: 2 * time.Minute},
		"nothing is counted any more after the rollback window": {
			record: decision.Record{Status: decision.Status{State: decision.StateCompleted, Weight: 100}}, args: []string{"--prove", "2%"}, code: exitUnknown,
			says: "the rollback window is over, so requests are not counted any more", took: time.Minute},
		"a proof of nothing": {
			record: shifting(10, 50), args: []string{"--prove", "200%"}, code: exitUnknown, says: `--prove "200%": want an error rate above 0 and below 100%`},
		"a proof without traffic": {
			record: shifting(10, 50), args: []string{"--prove", "2%", "--wait-unlocked"}, code: exitUnknown, says: "there is no traffic to prove anything by"},
		"a format that there is not": {
			record: shifting(10, 50), args: []string{"--format", "gitlab"}, code: exitUnknown, says: `--format "gitlab": want github`},
		"no traffic at all cannot be told": {
			record: decision.Record{Status: decision.Status{State: decision.StateIdle}}, code: exitUnknown, says: "no traffic for 1m0s", took: time.Minute},
		"time counts from the first traffic": {
			record: decision.Record{Status: decision.Status{State: decision.StateIdle}},
			setUp:  func(b *bench) { b.change(30*time.Second, func(r *decision.Record) { *r = shifting(10, 9) }) },
			code:   exitOK, says: "healthy", took: 90 * time.Second},
		"too few requests cannot be told": {
			record: shifting(10, 37), args: []string{"--min-requests", "100"}, code: exitUnknown, says: "37 of 100", took: time.Minute},
		"requests at new weights are waited for": {
			record: shifting(10, 50), setUp: func(b *bench) {
				b.change(55*time.Second, func(r *decision.Record) { *r = movedNow(30) }) // as by a step of guardian's own
				b.change(70*time.Second, func(r *decision.Record) { r.Status.Requests = 20 })
			}, code: exitOK, says: "healthy for 1m0s at 30%", took: 70 * time.Second},
		"as long as for those at the first ones": {
			record: shifting(10, 50), setUp: func(b *bench) { b.change(55*time.Second, func(r *decision.Record) { *r = movedNow(30) }) },
			code: exitUnknown, says: "too few requests: the canary had 0 of 1 at 30%", took: 115 * time.Second},
		"a short gate waits for the first count": {
			record: shifting(10, 0), args: []string{"--for", "10s"}, setUp: func(b *bench) { b.change(30*time.Second, func(r *decision.Record) { r.Status.Requests = 9 }) },
			code: exitOK, says: "healthy for 10s at 10%", took: 30 * time.Second},
		"and for no more": {
			record: shifting(10, 0), args: []string{"--for", "10s"}, code: exitUnknown, says: "too few requests: the canary had 0 of 1 at 10%", took: gateCountWait},
		"requests that nobody counts are not too few": {
			record: func() decision.Record {
				r := shifting(10, 0)
				r.Status.Unwatched = decision.NoAnswer
				return r
			}(), code: exitUnknown, says: "the canary's requests at 10% are not known: Prometheus does not say that the rules watch", took: time.Minute},
		"nor are those after the rollback window": {
			record: decision.Record{Status: decision.Status{State: decision.StateCompleted, Weight: 100}}, code: exitUnknown,
			says: "the rollback window is over, so requests are not counted any more: --min-requests 0 asks for none", took: time.Minute},
		"a canary that testers alone reach has no share": {
			record: func() decision.Record {
				r := shifting(0, 50)
				r.Status.Reason = "canary has 0%, and 1 route of testers"
				return r
			}(), code: exitUnknown, says: "the canary has had no share of the split for 1m0s: canary has 0%, and 1 route of testers", took: time.Minute},
		"a build that is on its way out cannot be told": {
			record: rolling(shifting(10, 50)), code: exitUnknown, says: "the rollout of build b1 is not complete", took: gateHeartbeatWait},
		"time counts from the end of its rollout": {
			record: rolling(shifting(10, 50)), setUp: func(b *bench) {
				b.change(50*time.Second, func(r *decision.Record) { *r = movedNow(10) })
				b.change(90*time.Second, func(r *decision.Record) { r.Status.Requests = 20 })
			}, code: exitOK, says: "healthy for 1m0s at 10%", took: 110 * time.Second},
		"also of one that begins while the gate watches": {
			record: shifting(10, 50), setUp: func(b *bench) {
				b.change(40*time.Second, func(r *decision.Record) { *r = rolling(movedNow(10)) })
				b.change(80*time.Second, func(r *decision.Record) { *r = movedNow(10) })
				b.change(100*time.Second, func(r *decision.Record) { r.Status.Requests = 20 })
			}, code: exitOK, says: "healthy for 1m0s at 10%", took: 140 * time.Second},
		"just enough requests pass": {
			record: shifting(10, 100), args: []string{"--min-requests", "100"}, code: exitOK, says: "healthy", took: time.Minute},
		"requests need not be asked for": {
			record: shifting(10, 0), args: []string{"--min-requests", "0", "--for", "5s"}, code: exitOK, says: "healthy for 5s", took: 21 * time.Second},
		"waiting for a lock that is lifted passes": {
			record: locked(), args: []string{"--wait-unlocked"}, setUp: func(b *bench) {
				b.change(40*time.Second, func(r *decision.Record) {
					*r = decision.Record{Status: decision.Status{State: decision.StateIdle, Build: "b2"}}
				})
			}, code: exitOK, says: "traffic may be shifted", took: 40 * time.Second},
		"waiting for a lock that stays fails in time": {
			record: locked(), args: []string{"--wait-unlocked", "--timeout", "2m"}, code: exitFailed, says: "still locked after 2m0s: orders-service was rolled back", took: 2 * time.Minute},
		"a guard that is not locked need not wait": {
			record: shifting(0, 0), args: []string{"--wait-unlocked"}, code: exitOK, says: "traffic may be shifted"},
		"unlocked and then rolled back again fails": {
			record: locked(), args: []string{"--wait-unlocked", "--for", "1m"}, setUp: func(b *bench) {
				b.change(10*time.Second, func(r *decision.Record) { *r = shifting(10, 5) })
				b.change(30*time.Second, func(r *decision.Record) { *r = locked() })
			}, code: exitFailed, says: "deploy a new build", took: 30 * time.Second},
		"a time of nothing is refused": {
			record: shifting(10, 1), args: []string{"--for", "0s"}, code: exitUnknown, says: "--for 0s: want more than 0s"},
		"a flag that does not exist is no verdict": {
			record: shifting(10, 1), args: []string{"--four", "60s"}, code: exitUnknown, says: "unknown flag: --four"},
		"a rollback without a lock fails, though nothing stands at the end": {
			record: shifting(10, 50), setUp: func(b *bench) {
				b.change(20*time.Second, func(r *decision.Record) {
					*r = decision.Record{Status: decision.Status{State: decision.StateShifting, Weight: 50},
						History: []decision.HistoryEntry{{At: time.Now().Add(-time.Hour), Event: "rolled-back", Reason: "5% of requests failed"}, {Event: "shifted"}}}
				})
			}, code: exitFailed, says: "5% of requests failed", took: 20 * time.Second},
		"a rollback of before the gate is none of its business": {
			record: decision.Record{Status: shifting(10, 50).Status, History: []decision.HistoryEntry{{Event: "rolled-back"}, {Event: "unlocked"}}},
			code:   exitOK, says: "healthy", took: time.Minute},
		"traffic that is taken away fails": {
			record: shifting(10, 50), setUp: func(b *bench) {
				b.change(20*time.Second, func(r *decision.Record) {
					r.Status = decision.Status{State: decision.StateIdle, Reason: "canary gets no traffic"}
				})
			}, code: exitFailed, says: "had traffic and was taken back to 0%: canary gets no traffic", took: 20 * time.Second},
		"a guard that is not configured any more cannot be told": {
			record: decision.Record{Status: decision.Status{State: decision.StateShifting, Weight: 10, Counts: decision.Counts{Requests: 50}, Orphaned: time.Unix(0, 0)}},
			code:   exitUnknown, says: "guard orders-service is not in guardian's configuration (seen at 1970-01-01T00:00:00Z): it is no longer managed"},
		"a guardian that has received no heartbeat cannot tell": {
			record: shifting(10, 50), setUp: func(b *bench) { b.hears(-1, "3m0s") }, code: exitUnknown, says: "it has received no heartbeat since it started", took: gateHeartbeatWait},
		"a guardian whose last heartbeat is old cannot tell": {
			record: shifting(10, 50), setUp: func(b *bench) { b.hears(181*time.Second, "3m0s") }, code: exitUnknown, says: "old, heartbeat.maxAge is 3m0s", took: gateHeartbeatWait},
		"a heartbeat of before the traffic proves nothing of it": {
			record: shifting(10, 50), setUp: func(b *bench) { b.hears(170*time.Second, "3m0s") }, code: exitUnknown,
			says: "it has received no heartbeat since the traffic began", took: gateHeartbeatWait},
		"how old it may be is what guardian says": {
			record: decision.Record{Status: decision.Status{State: decision.StateIdle}}, args: []string{"--for", "2m"}, setUp: func(b *bench) { b.hears(181*time.Second, "10m0s") },
			code: exitUnknown, says: "no traffic for 2m0s", took: 2 * time.Minute},
		"traffic may be shifted while paused, which is said": {
			record: decision.Record{Status: decision.Status{State: decision.StatePaused, ByPersons: decision.ByPersons{PausedOnVS: true}}}, args: []string{"--wait-unlocked"}, code: exitOK,
			says: "not locked: traffic may be shifted; guardian takes no step of its own, paused by annotation canary-guardian.io/paused"},
		"no traffic may be shifted without a heartbeat": {
			record: decision.Record{Status: decision.Status{State: decision.StateIdle}}, args: []string{"--wait-unlocked"}, setUp: func(b *bench) { b.hears(-1, "3m0s") },
			code: exitUnknown, says: "not locked, but alerts may not reach guardian", took: gateHeartbeatWait},
		"a rollback is told without a heartbeat": {
			record: locked(), setUp: func(b *bench) { b.hears(-1, "") }, code: exitFailed, says: "deploy a new build of v2"},
		"the first heartbeat after a start is waited for": {
			record: shifting(10, 50), setUp: func(b *bench) {
				b.hears(-1, "3m0s")
				go func() {
					if sleep(b.t.Context(), 64500*time.Millisecond) == nil {
						b.hears(0, "3m0s")
					}
				}()
			}, code: exitOK, says: "healthy", took: 65 * time.Second},
		"a record that goes away cannot be told": {
			record: shifting(10, 1), setUp: func(b *bench) {
				go func() {
					if sleep(b.t.Context(), 5*time.Second) == nil {
						_ = b.kube.CoreV1().ConfigMaps("shop").Delete(b.t.Context(), records.Name(testGuard), metav1.DeleteOptions{})
					}
				}()
			}, code: exitUnknown, says: "record has gone", took: 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, record(tc.record), lease("a", time.Now()))
				b.beat(0)
				if tc.setUp != nil {
					tc.setUp(b)
				}
				began := time.Now()
				code, text := b.run(append([]string{"gate", testGuard}, tc.args...)...)
				want(t, code, text, tc.code, tc.says)
				if took := time.Since(began); took != tc.took {
					t.Errorf("took %s, want %s", took, tc.took)
				}
			})
		})
	}
}

func TestGateCannotTellWithoutALiveGuardian(t *testing.T) {
	for name, tc := range map[string]struct {
		leases []runtime.Object
		code   int
		says   string
	}{
		"no Lease at all":           {nil, exitUnknown, "no replica has a Lease there"},
		"a Lease of long ago":       {[]runtime.Object{lease("a", time.Unix(0, 0))}, exitUnknown, "no replica has renewed its Lease for"},
		"a Lease of another kind":   {[]runtime.Object{func() runtime.Object { l := lease("a", time.Now()); l.Labels = nil; return l }()}, exitUnknown, "no replica has a Lease there"},
		"one of two that is living": {[]runtime.Object{lease("b", time.Unix(0, 0))}, exitOK, "healthy"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, append(tc.leases, record(shifting(10, 5)))...)
				if tc.code == exitOK {
					if _, err := b.kube.CoordinationV1().Leases("shop").Create(t.Context(), lease("a", time.Now()), metav1.CreateOptions{}); err != nil {
						t.Fatal(err)
					}
					b.beat(0)
				}
				code, text := b.run("gate", testGuard, "--for", "50s")
				want(t, code, text, tc.code, tc.says)
			})
		})
	}
}

// A lock needs no guardian to stand.
func TestAGateWithoutALiveGuardianTellsOfALock(t *testing.T) {
	held := decision.Record{Status: decision.Status{State: decision.StateHeld, Weight: 30, Reason: "stable fails as well"}}
	for name, tc := range map[string]struct {
		record decision.Record
		args   []string
		code   int
		says   string
	}{
		"a lock":                   {locked(), nil, exitFailed, "deploy a new build of v2; no replica of guardian is running: no replica has a Lease there, so nothing lifts the lock"},
		"nor is it waited for":     {locked(), []string{"--wait-unlocked"}, exitFailed, "so nothing lifts the lock"},
		"a lock, for programs":     {locked(), []string{"-o", "json"}, exitFailed, `"code": 1,`},
		"a rollback under way":     {underWay(30), nil, exitFailed, "locked, and the canary is at 30%: 5% of requests failed; no replica of guardian is running: no replica has a Lease there, so nothing takes that away: guardian rollback orders-service prints the command"},
		"a hold may be over":       {held, nil, exitUnknown, "could not tell: guard orders-service: no replica of guardian is running: no replica has a Lease there"},
		"an alert may be over":     {firing(decision.StateShifting, 10, decision.ActionRollback), nil, exitUnknown, "no replica of guardian is running"},
		"a disarm with a lock":     {disarmed(locked()), nil, exitUnknown, "nothing would be rolled back; the lock stands: 5% of requests failed"},
		"a healthy, for programs":  {shifting(10, 50), []string{"-o", "json"}, exitUnknown, `"code": 2,`},
		"nothing to be waited for": {shifting(10, 50), []string{"--wait-unlocked"}, exitUnknown, "no replica of guardian is running"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				code, text := newBench(t, record(tc.record)).run(append([]string{"gate", testGuard}, tc.args...)...)
				want(t, code, text, tc.code, tc.says)
			})
		})
	}
}

func TestAGuardianThatDiesDuringAGateIsNoticed(t *testing.T) {
	for _, length := range []string{"25s", "60s", "10m"} {
		t.Run(length, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, record(shifting(10, 5)), lease("a", time.Now())) // which nobody renews
				began := time.Now()
				code, text := b.run("gate", testGuard, "--for", length)
				want(t, code, text, exitUnknown, "no replica has renewed its Lease for")
				if took := time.Since(began); took > 65*time.Second {
					t.Errorf("took %s, want it told within a minute", took)
				}
			})
		})
	}
}

func TestALookAtTheLeasesThatFailsIsNoSignOfLife(t *testing.T) {
	for name, tc := range map[string]struct {
		outage time.Duration
		code   int
		says   string
	}{
		"for good":     {time.Hour, exitUnknown, "list guardian's Leases: connection refused"},
		"for a moment": {20 * time.Second, exitOK, "healthy for 50s"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, record(shifting(10, 5)), lease("a", time.Now()))
				b.beat(0)
				began := time.Now()
				b.kube.PrependReactor("list", "leases", func(clienttesting.Action) (bool, runtime.Object, error) {
					at := time.Since(began)
					return at >= 10*time.Second && at < 10*time.Second+tc.outage, nil, errors.New("connection refused")
				})
				code, text := b.run("gate", testGuard, "--for", "50s")
				want(t, code, text, tc.code, tc.says)
				if took := time.Since(began); took > time.Minute {
					t.Errorf("took %s", took)
				}
			})
		})
	}
}

func TestAClockThatIsOffDoesNotHideALivingGuardian(t *testing.T) {
	for _, skew := range []time.Duration{-5 * time.Minute, 5 * time.Minute} {
		t.Run(skew.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, record(shifting(10, 5)), lease("a", time.Now().Add(skew)))
				b.beat(skew)
				code, text := b.run("gate", testGuard, "--for", "2m")
				want(t, code, text, exitOK, "healthy")
			})
		})
	}
}

func TestAGateOutlivesAShortOutageOfTheAPIServer(t *testing.T) {
	for name, tc := range map[string]struct {
		outage time.Duration
		code   int
		says   string
	}{
		"20 s": {20 * time.Second, exitOK, "healthy"},
		"50 s": {50 * time.Second, exitUnknown, "has not been readable"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, record(shifting(10, 5)), lease("a", time.Now()))
				b.beat(0)
				began := time.Now()
				b.kube.PrependReactor("get", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
					at := time.Since(began)
					down := at >= 10*time.Second && at < 10*time.Second+tc.outage
					return down, nil, errors.New("connection refused")
				})
				code, text := b.run("gate", testGuard, "--for", "90s")
				want(t, code, text, tc.code, tc.says)
			})
		})
	}
}

func TestWhatIsMissingOrForbiddenIsSaid(t *testing.T) {
	forbidden := func(resource string) func(*bench) {
		return func(b *bench) {
			b.kube.PrependReactor("*", resource, func(a clienttesting.Action) (bool, runtime.Object, error) {
				return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: resource}, "", errors.New("no role"))
			})
		}
	}
	for name, tc := range map[string]struct {
		args  []string
		setUp func(*bench)
		code  int
		says  string
	}{
		"gate of an unknown guard": {args: []string{"gate", "order-service"}, code: exitUnknown, says: "no guard order-service in namespace shop (no ConfigMap guardian-order-service); guards there: orders-service"},
		"one of many unknown guards": {args: []string{"gate", "order-service"}, code: exitUnknown, setUp: func(b *bench) {
			for i := range 300 {
				if err := b.kube.Tracker().Add(recordOf(fmt.Sprintf("svc-%d", i), shifting(10, 5))); err != nil {
					b.t.Fatal(err)
				}
			}
		}, says: "(no ConfigMap guardian-order-service); there are 301 guards, nearest: orders-service, svc-"},
		"status of an unknown guard":   {args: []string{"status", "order-service"}, code: exitFailed, says: "guards there: orders-service"},
		"rollback of an unknown guard": {args: []string{"rollback", "x", "--reason", "r"}, code: exitFailed, says: "no guard x in namespace shop"},
		"status of nothing": {args: []string{"status"}, setUp: func(b *bench) {
			if err := b.kube.CoreV1().ConfigMaps("shop").Delete(b.t.Context(), records.Name(testGuard), metav1.DeleteOptions{}); err != nil {
				b.t.Fatal(err)
			}
		}, code: exitOK, says: "No guards found in namespace shop.\n"},
		"gate without rights":        {args: []string{"gate", testGuard}, setUp: forbidden("configmaps"), code: exitUnknown, says: "reading needs get, list and watch of configmaps"},
		"status without rights":      {args: []string{"status"}, setUp: forbidden("configmaps"), code: exitFailed, says: "your user may not"},
		"status without leases":      {args: []string{"status"}, setUp: forbidden("leases"), code: exitUnknown, says: "list guardian's Leases: your user may not"},
		"rollback without a reason":  {args: []string{"rollback", testGuard}, code: exitUnknown, says: "--reason is empty"},
		"rollback, reason empty":     {args: []string{"rollback", testGuard, "--reason", ""}, code: exitUnknown, says: "--reason is empty"},
		"gate without a name":        {args: []string{"gate"}, code: exitUnknown, says: "too little: want guardian gate NAME... | --all"},
		"a wrong output format":      {args: []string{"status", "-o", "yaml"}, code: exitUnknown, says: `--output "yaml": want json`},
		"no such command":            {args: []string{"gates", testGuard}, code: exitUnknown, says: `unknown command "gates"`},
		"a wrong flag of no command": {args: []string{"--four"}, code: exitUnknown, says: "unknown flag: --four"},
		"a wrong flag of a command":  {args: []string{"status", "--four"}, code: exitUnknown, says: "unknown flag: --four"},
		"a disarm without an end":    {args: []string{"disarm", testGuard, "--reason", "r"}, code: exitUnknown, says: "--for 0s: want for how long the brake is off"},
		"a disarm that ends before":  {args: []string{"disarm", testGuard, "--for", "-1h", "--reason", "r"}, code: exitUnknown, says: "--for -1h0m0s: want for how long"},
		"a check of a guard":         {args: []string{"check", testGuard}, code: exitUnknown, says: `"orders-service": want flags alone: guardian check -f guardian.yaml`},
		"a status of two":            {args: []string{"status", testGuard, "payments"}, code: exitUnknown, says: `"payments": one too many: want guardian status [NAME]`},
		"a mark of no time":          {args: []string{"mark", testGuard, "--wrong", "--reason", "r"}, code: exitUnknown, says: "too little: want guardian mark NAME TIME|last --wrong|--right --reason TEXT"},
		"a disarm without a unit":    {args: []string{"disarm", testGuard, "--for", "60", "--reason", "r"}, code: exitUnknown, says: `"60" for "--for" flag: want a duration with its unit, such as 500ms, 30s, 5m or 1d`},
		"a request that waits not":   {args: []string{"pause", testGuard, "--timeout", "0s", "--reason", "r"}, code: exitUnknown, says: "--timeout 0s: want more than 0s"},
		"a history of a day":         {args: []string{"history", testGuard, "--since", "1d"}, code: exitOK, says: "Nothing has happened"},
		"a pause with an end":        {args: []string{"pause", testGuard, "--for", "1h", "--reason", "r"}, code: exitUnknown, says: "unknown flag: --for"},
		"a rollback of all":          {args: []string{"rollback", "--all", "--reason", "r"}, code: exitUnknown, says: "unknown flag: --all"},
		"a pause of all and of one":  {args: []string{"pause", testGuard, "--all", "--reason", "r"}, code: exitUnknown, says: "guard orders-service and --all: want one of the two"},
		"a pause of nobody":          {args: []string{"pause", "--reason", "r"}, code: exitUnknown, says: "too little: want guardian pause NAME | --all --reason TEXT"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, record(shifting(10, 5)), lease("a", time.Now()))
				if tc.setUp != nil {
					tc.setUp(b)
				}
				code, text := b.run(tc.args...)
				want(t, code, text, tc.code, tc.says)
			})
		})
	}
}

// answered adds to a record what guardian writes of a request: an entry of the
// history, and the answer.
func answered(r *decision.Record, q decision.Request, event decision.Event, reason string) {
	r.History = append(r.History, decision.HistoryEntry{At: time.Now(), Event: event, By: q.By, Reason: reason})
	a := decision.Answer{ID: q.ID, Action: q.Action, By: q.By, Result: decision.ResultDone, At: time.Now(), Text: string(event) + ": " + reason}
	if event == decision.EventRefused {
		a.Result, a.Text = decision.ResultRefused, reason
	}
	r.Answer(a)
}

// carrying is a change of weights that carries out a request.
func carrying(m decision.Moving, q decision.Request) *decision.Moving {
	m.By, m.Requests = q.By, []decision.Asker{{ID: q.ID, By: q.By}}
	return &m
}

// arrived is the same, done: its requests are answered.
func arrived(r *decision.Record, event decision.Event, reason string) {
	m := r.Status.Moving
	r.Status.Moving = nil
	for _, a := range m.Requests {
		answered(r, decision.Request{ID: a.ID, By: a.By, Action: m.Action()}, event, reason)
	}
}

func TestRequests(t *testing.T) {
	add := answered
	wants := func(r *decision.Record, q decision.Request) {
		*r = underWay(30)
		r.Status.Moving = carrying(*r.Status.Moving, q)
	}
	toStable := func(r *decision.Record) {
		r.Status.Weight, r.Status.State, r.Status.Moving = 0, decision.StateRolledBack, nil
	}
	for name, tc := range map[string]struct {
		record decision.Record
		args   []string
		take   func(*decision.Record, decision.Request)
		then   func(*decision.Record) // 5 s later, when traffic has moved
		code   int
		says   string
	}{
		"a rollback is done when traffic has moved": {
			record: shifting(30, 1), args: []string{"rollback", "--reason", "looks odd"},
			take: func(r *decision.Record, q decision.Request) {
				if q.Action != decision.RequestRollback || q.By != "ann@example.com" || q.Reason != "looks odd" {
					t.Errorf("guardian was asked %+v", q)
				}
				wants(r, q)
			}, then: func(r *decision.Record) {
				arrived(r, "rolled-back", "looks odd")
				toStable(r)
			}, code: exitOK, says: "rolled-back: looks odd\nguard orders-service: rolled-back, canary at 0%"},
		"a rollback whose traffic does not move cannot be told": {
			record: shifting(30, 1), args: []string{"rollback", "--reason", "r"},
			take: wants, code: exitUnknown, says: "locked, but traffic has not moved yet after 30s, as far as its record tells: canary at 30%"},
		"a rollback without a lock is done when traffic has moved": {
			record: shifting(30, 1), args: []string{"rollback", "--reason", "r"},
			take: func(r *decision.Record, q decision.Request) {
				r.Status.Moving = carrying(decision.Moving{From: 30}, q)
			},
			then: func(r *decision.Record) {
				arrived(r, "rolled-back", "r")
				r.Status = decision.Status{State: decision.StateIdle}
			},
			code: exitOK, says: "rolled-back: r\nguard orders-service: idle, canary at 0%"},
		"an alert that was first is as good": {
			record: shifting(30, 1), args: []string{"rollback", "--reason", "r"},
			take: func(r *decision.Record, q decision.Request) {
				*r = underWay(30)
				add(r, q, "refused", "rollback refused: locked: 5% of requests failed")
			}, then: toStable, code: exitOK, says: "rolled-back, canary at 0%"},
		"a rollback that is done already": {
			record: locked(), args: []string{"rollback", "--reason", "r"},
			take: func(*decision.Record, decision.Request) { t.Error("guardian was asked") },
			code: exitOK, says: "already rolled back since 0001-01-01T00:00:00Z by alert: 5% of requests failed\nguard orders-service: rolled-back, canary at 0%"},
		"a step is taken when traffic has moved": {
			record: shifting(10, 1), args: []string{"promote", "--reason", "r"},
			take: func(r *decision.Record, q decision.Request) {
				r.Status.Moving = carrying(decision.Moving{To: 30, From: 10, Step: 30}, q)
			}, then: func(r *decision.Record) {
				arrived(r, "step", "step to 30%")
				r.Status.Weight = 30
			},
			code: exitOK, says: "step: step to 30%\nguard orders-service: shifting, canary at 30%"},
		"a step that does not show cannot be told": {
			record: shifting(10, 1), args: []string{"promote", "--reason", "r"},
			take: func(r *decision.Record, q decision.Request) {
				r.Status.Moving = carrying(decision.Moving{To: 30, From: 10, Step: 30}, q)
			}, code: exitUnknown, says: "moving the canary from 10% to 30%, but traffic has not moved yet after 30s"},
		"what another replaced was not done": {
			record: shifting(10, 1), args: []string{"promote", "--reason", "r"},
			take: func(r *decision.Record, q decision.Request) {
				*r = locked()
				add(r, decision.Request{By: "bob"}, "rolled-back", "no")
				r.Answer(decision.Answer{ID: q.ID, Result: decision.ResultSuperseded, Text: "superseded by bob's rollback: no"})
			}, code: exitFailed, says: "Error: superseded by bob's rollback: no"},
		"what is taken off by hand cannot be told": {
			record: shifting(10, 1), args: []string{"promote", "--reason", "r"},
			take: func(r *decision.Record, q decision.Request) {}, code: exitUnknown,
			says: "could not tell: the promote: the record has neither the request nor an answer to it"},
		"an answer for programs": {
			record: shifting(30, 1), args: []string{"pause", "--reason", "r", "-o", "json"},
			take: func(r *decision.Record, q decision.Request) { add(r, q, "paused", "r") }, code: exitOK, says: `"result": "done"`},
		"by a guardian whose clock is behind it is refused all the same": {
			record: decision.Record{Status: shifting(30, 1).Status, History: []decision.HistoryEntry{{At: time.Now().Add(100 * 365 * 24 * time.Hour), Event: "shifted"}}},
			args:   []string{"unlock", "--reason", "r"},
			take: func(r *decision.Record, q decision.Request) {
				add(r, q, "refused", "unlock refused: orders-service is not locked")
			}, code: exitFailed, says: "Error: unlock refused: orders-service is not locked"},
		"a rollback that the API server refuses is not done": {
			record: shifting(30, 1), args: []string{"rollback", "--reason", "r"},
			take: func(r *decision.Record, q decision.Request) {
				*r = underWay(30)
				r.Status.State, r.Status.Reason, r.Status.Moving = decision.StateBlocked, "not done: policy says no", carrying(decision.Moving{Refused: "policy says no"}, q)
			}, code: exitFailed, says: "the API server has refused it: policy says no"},
		"nor is one without a lock": {
			record: shifting(30, 1), args: []string{"rollback", "--reason", "r"},
			take: func(r *decision.Record, q decision.Request) {
				r.Request = &q
				r.Status.State, r.Status.Moving = decision.StateBlocked, carrying(decision.Moving{From: 30, Refused: "policy says no"}, q)
			}, code: exitFailed, says: "the API server has refused it: policy says no"},
		"a step that the API server refuses is not taken": {
			record: shifting(10, 1), args: []string{"promote", "--reason", "r"},
			take: func(r *decision.Record, q decision.Request) {
				r.Status.Moving = carrying(decision.Moving{To: 30, From: 10, Step: 30, Refused: "policy says no"}, q)
			}, code: exitFailed, says: "the API server has refused it: policy says no"},
		"a rollback is blocked": {
			record: shifting(30, 1), args: []string{"rollback", "--reason", "r"},
			take: func(r *decision.Record, q decision.Request) {
				r.Lock = locked().Lock
				r.Status.State, r.Status.Reason, r.Status.Moving = decision.StateBlocked, "stable has 0 ready endpoints", carrying(decision.Moving{}, q)
			}, code: exitFailed, says: "will be done when it is safe: stable has 0 ready endpoints"},
		"an unlock is done": {
			record: locked(), args: []string{"unlock", "--reason", "false alarm"},
			take: func(r *decision.Record, q decision.Request) {
				r.Lock, r.Status.State = nil, decision.StateIdle
				add(r, q, "unlocked", q.Reason)
			}, code: exitOK, says: "unlocked: false alarm"},
		"an unlock is refused": {
			record: shifting(30, 1), args: []string{"unlock", "--reason", "r"},
			take: func(r *decision.Record, q decision.Request) {
				add(r, q, "refused", "unlock refused: orders-service is not locked")
			}, code: exitFailed, says: "Error: unlock refused: orders-service is not locked"},
		"old history is not taken for an answer": {
			record: decision.Record{Status: shifting(30, 1).Status, History: []decision.HistoryEntry{{Event: "refused", By: "ann@example.com", Reason: "of yesterday"}}},
			args:   []string{"pause", "--reason", "r"},
			take: func(r *decision.Record, q decision.Request) {
				r.Status.State = decision.StatePaused
				add(r, q, "paused", "r")
			}, code: exitOK, says: "paused: r\nguard orders-service: paused"},
		"a pause says that the brake stays on": {
			record: shifting(30, 1), args: []string{"pause", "--reason", "r"},
			take: func(r *decision.Record, q decision.Request) {
				r.Status.State = decision.StatePaused
				add(r, q, "paused", "r")
			}, code: exitOK, says: "canary at 30%\nThe brake stays on: an alert still rolls back. To take it off for a time: guardian disarm orders-service --for 1h --reason …"},
		"a disarm has an end": {
			record: shifting(30, 1), args: []string{"disarm", "--for", "90m", "--reason", "game day"},
			take: func(r *decision.Record, q decision.Request) {
				if q.Action != decision.RequestDisarm || q.Until.Sub(q.At) != 90*time.Minute {
					t.Errorf("guardian was asked %+v", q)
				}
				r.Status.State, r.Status.Reason = decision.StateDisarmed, "disarmed by ann"
				add(r, q, "disarmed", "no rollback until then")
			}, code: exitOK, says: "disarmed: no rollback until then\nguard orders-service: disarmed, canary at 30%: disarmed by ann"},
		"a disarm that is refused": {
			record: shifting(30, 1), args: []string{"disarm", "--for", "48h", "--reason", "r"},
			take: func(r *decision.Record, q decision.Request) {
				add(r, q, "refused", "disarm refused: 48h0m0s is longer than disarm.max, 24h0m0s")
			}, code: exitFailed, says: "Error: disarm refused: 48h0m0s is longer than disarm.max"},
		"an arm": {
			record: shifting(30, 1), args: []string{"arm", "--reason", "done"},
			take: func(r *decision.Record, q decision.Request) { add(r, q, "armed", "done") }, code: exitOK, says: "armed: done"},
		"for programs": {
			record: shifting(30, 1), args: []string{"arm", "--reason", "done", "-o", "json"},
			take: func(r *decision.Record, q decision.Request) { add(r, q, "armed", "done") }, code: exitOK,
			says: `"action": "arm",
  "code": 0,
  "text": "shifting, canary at 30%",
  "state": "shifting",
  "weight": 30`},
		"a refusal for programs": {
			record: shifting(30, 1), args: []string{"unlock", "--reason", "r", "-o", "json"},
			take: func(r *decision.Record, q decision.Request) { add(r, q, "refused", "unlock refused: not locked") }, code: exitFailed,
			says: `"code": 1,
  "text": "unlock refused: not locked",`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, record(tc.record), lease("a", time.Now()))
				b.answer(func(r *decision.Record, q decision.Request) {
					tc.take(r, q)
					if tc.then != nil {
						b.change(5*time.Second, tc.then)
					}
				})
				code, text := b.run(append(tc.args[:1:1], append([]string{testGuard}, tc.args[1:]...)...)...)
				want(t, code, text, tc.code, tc.says)
				if r := b.read(); r.Request != nil && r.Status.Moving == nil {
					t.Errorf("left behind: %+v", r.Request)
				}
			})
		})
	}
}

func TestARequestThatNobodyTakesIsWithdrawn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, record(shifting(30, 1)), lease("a", time.Now()))
		began := time.Now()
		code, text := b.run("rollback", testGuard, "--reason", "r", "--timeout", "20s")
		want(t, code, text, exitUnknown, "it has been withdrawn. Is guard orders-service still in guardian's configuration?")
		if !strings.Contains(text, "guardian plan -f - --stable v1 --canary v2 -o patch)\"") {
			t.Errorf("does not say what to do by hand:\n%s", text)
		}
		if q := b.read().Request; q != nil {
			t.Errorf("left behind: %+v", q)
		}
		if took := time.Since(began); took != 20*time.Second {
			t.Errorf("took %s, want 20s", took)
		}
	})
}

func TestARollbackWaitsForNoOtherRequest(t *testing.T) {
	for _, pending := range []decision.RequestAction{decision.RequestPromote, decision.RequestResume, decision.RequestUnlock, decision.RequestPause, decision.RequestDisarm, decision.RequestRollback} {
		t.Run(string(pending), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := shifting(30, 1)
				r.Request = &decision.Request{Action: pending, By: "bob", Reason: "lunch", At: time.Now()}
				b := newBench(t, record(r), lease("a", time.Now()))
				b.beat(0)
				go func() { // guardian is busy; it takes what stands there then
					if sleep(t.Context(), 10*time.Second) != nil {
						return
					}
					b.answer(func(r *decision.Record, q decision.Request) {
						*r = locked()
						answered(r, q, "rolled-back", q.Reason)
					})
				}()
				code, text := b.run("rollback", testGuard, "--reason", "r", "--timeout", "5s")
				want(t, code, text, exitUnknown, "replaced the waiting "+string(pending)+" by bob: lunch")
			})
		})
	}
}

func TestARequestNamesTheUserAsTheAPIServerKnowsIt(t *testing.T) {
	for name, tc := range map[string]struct {
		answer error
		code   int
		by     string
		says   string
	}{
		"it tells":           {nil, exitOK, "ann@example.com", "paused"},
		"it cannot tell yet": {apierrors.NewNotFound(schema.GroupResource{Resource: "selfsubjectreviews"}, ""), exitOK, "ann (by kubeconfig)", "paused"},
		"it may not be asked": {apierrors.NewForbidden(schema.GroupResource{Resource: "selfsubjectreviews"}, "", errors.New("no role")), exitOK,
			"ann (by kubeconfig)", "paused"},
		"it does not answer": {errors.New("connection refused"), exitFailed, "", "ask the API server who you are: connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, record(shifting(30, 1)), lease("a", time.Now()))
				if tc.answer != nil {
					b.kube.PrependReactor("create", "selfsubjectreviews", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, tc.answer })
				}
				by := ""
				b.answer(func(r *decision.Record, q decision.Request) {
					by = q.By
					answered(r, q, "paused", q.Reason)
				})
				code, text := b.run("pause", testGuard, "--reason", "r")
				want(t, code, text, tc.code, tc.says)
				if by != tc.by {
					t.Errorf("asked by %q, want %q", by, tc.by)
				}
			})
		})
	}
}

func TestARequestWhoseAnswerIsLostIsWithdrawn(t *testing.T) {
	for name, written := range map[string]bool{"written": true, "not written": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, record(shifting(30, 1)), lease("a", time.Now()))
				once := true
				configMaps := corev1.SchemeGroupVersion.WithResource("configmaps")
				b.kube.PrependReactor("patch", "configmaps", func(a clienttesting.Action) (bool, runtime.Object, error) {
					if !once {
						return false, nil, nil
					}
					once = false
					if written {
						o, err := b.kube.Tracker().Get(configMaps, "shop", records.Name(testGuard))
						if err != nil {
							return true, nil, err
						}
						var patch struct{ Data map[string]string }
						if err := json.Unmarshal(a.(clienttesting.PatchAction).GetPatch(), &patch); err != nil {
							return true, nil, err
						}
						cm := o.(*corev1.ConfigMap).DeepCopy()
						maps.Copy(cm.Data, patch.Data)
						if err := b.kube.Tracker().Update(configMaps, cm, "shop"); err != nil {
							return true, nil, err
						}
					}
					return true, nil, errors.New("connection reset by peer")
				})
				code, text := b.run("promote", testGuard, "--reason", "r")
				says := map[bool]string{true: "it has been withdrawn", false: "it does not stand in the record now"}[written]
				want(t, code, text, exitUnknown, says)
				if r := b.read(); r.Request != nil && r.Status.Moving == nil {
					t.Errorf("left behind: %+v", r.Request)
				}
			})
		})
	}
}

func TestAllGuardsOfANamespaceAreAskedAtOnce(t *testing.T) {
	for name, tc := range map[string]struct {
		args  string
		deaf  string // a guard whose requests nobody takes
		fails string // one that guardian refuses
		code  int
		says  []string
	}{
		"done": {args: "pause --all --reason freeze", code: exitOK, says: []string{
			"guard orders-service: paused, canary at 30%", "guard payments: paused, canary at 30%", "guard gone: left out: it is not in guardian's configuration",
			"The brake stays on: an alert still rolls back. To take it off for a time: guardian disarm --all"}},
		"for programs": {args: "arm --all --reason done -o json", code: exitOK, says: []string{`"guard": "payments"`, `"text": "left out: it is not in guardian's configuration"`}},
		"one is refused": {args: "disarm --all --for 1h --reason incident", fails: "payments", code: exitFailed, says: []string{
			"guard orders-service: disarmed, canary at 30%", "guard payments: disarm refused: no", "Error: disarm of 1 of 3 guards is not done, or could not be told"}},
		"one cannot be told": {args: "resume --all --reason over --timeout 10s", deaf: "payments", fails: "orders-service", code: exitUnknown, says: []string{
			"guard orders-service: resume refused: no", "guard payments: could not tell: guardian has not taken the request within 10s", "resume of 2 of 3 guards"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				payments, gone := record(shifting(30, 1)), shifting(30, 1)
				gone.Status.Orphaned = time.Now()
				payments.Name, payments.Labels = records.Name("payments"), map[string]string{records.LabelGuard: "payments"}
				orphan := record(gone)
				orphan.Name, orphan.Labels = records.Name("gone"), map[string]string{records.LabelGuard: "gone"}
				b := newBench(t, record(shifting(30, 1)), payments, orphan, lease("a", time.Now()))
				b.beat(0)
				for _, guard := range []string{testGuard, "payments"} {
					if guard == tc.deaf {
						continue
					}
					b.answerFor(guard, func(r *decision.Record, q decision.Request) {
						if guard == tc.fails {
							answered(r, q, "refused", string(q.Action)+" refused: no")
							return
						}
						event := map[decision.RequestAction]decision.Event{decision.RequestPause: "paused", decision.RequestResume: "resumed",
							decision.RequestDisarm: "disarmed", decision.RequestArm: "armed"}[q.Action]
						r.Status.State = decision.State(event)
						answered(r, q, event, q.Reason)
					})
				}
				code, text := b.run(strings.Fields(tc.args)...)
				for _, says := range tc.says {
					want(t, code, text, tc.code, says)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, lease("a", time.Now()))
		code, text := b.run("pause", "--all", "--reason", "r")
		want(t, code, text, exitFailed, "no guard has a record in namespace shop")
	})
}

func TestAGuardThatNobodyLooksAfter(t *testing.T) {
	orphan := func(r decision.Record) decision.Record {
		r.Status.Orphaned = time.Unix(0, 0)
		r.Status.Moves = &decision.Moves{VirtualServices: []string{"orders-gateway", "orders-mesh"}, Stable: "host:orders-v1", Canary: "host:orders-v2"}
		return r
	}
	changed := orphan(locked())
	changed.Changed = []virtualservice.Change{{VirtualService: "orders-mesh", Path: "/spec/http/0/mirror"}}
	for name, tc := range map[string]struct {
		record decision.Record
		args   string
		code   int
		says   []string
	}{
		"its lock is lifted by the command": {changed, "unlock orders-service --reason gone", exitOK, []string{
			"guard orders-service is not in guardian's configuration", "waits in its record", "annotation canary-guardian.io/lock.orders-service of VirtualService orders-mesh", "No traffic has moved", "Left as the rollback re-pointed it: VirtualService orders-mesh, /spec/http/0/mirror"}},
		"one that guardian looks after it leaves to guardian": {locked(), "unlock orders-service --reason fixed --timeout 2s", exitUnknown, []string{"guardian has not taken the request within 2s"}},
		"there is no lock to lift":                            {orphan(shifting(30, 1)), "unlock orders-service --reason gone", exitFailed, []string{"unlock refused: not locked"}},
		"it cannot be rolled back, but by hand": {orphan(shifting(30, 1)), "rollback orders-service --reason r", exitUnknown, []string{
			"it is no longer managed",
			"kubectl patch virtualservice -n shop orders-gateway --type=json -p \"$(kubectl get virtualservice -n shop orders-gateway -o yaml | guardian plan -f - --stable host:orders-v1 --canary host:orders-v2 -o patch)\"",
			"kubectl get virtualservice -n shop orders-mesh -o yaml"}},
		"its status is the last that was written": {orphan(shifting(30, 1)), "status orders-service", exitUnknown, []string{"shown is what was last written", "kubectl delete configmap -n shop guardian-orders-service"}},
		"among others it is warned of":            {orphan(shifting(30, 1)), "status", exitOK, []string{"Warning: guard orders-service is not in guardian's configuration"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cm := record(tc.record)
				cm.Labels[records.LabelLocked] = "true"
				b := newBench(t, cm, lease("a", time.Now()))
				b.istio = dynamicfake.NewSimpleDynamicClient(runtime.NewScheme(), &unstructured.Unstructured{Object: map[string]any{
					"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": map[string]any{"name": "orders-mesh", "namespace": "shop",
						"annotations": map[string]any{decision.AnnotationLock + testGuard: "locked", "team": "shop"}}}})
				code, text := b.run(strings.Fields(tc.args)...)
				for _, says := range tc.says {
					want(t, code, text, tc.code, says)
				}
				left, err := b.istio.Resource(schema.GroupVersionResource{Group: "networking.istio.io", Version: "v1", Resource: "virtualservices"}).Namespace("shop").Get(t.Context(), "orders-mesh", metav1.GetOptions{})
				taken := strings.HasPrefix(tc.args, "unlock") && tc.code == exitOK
				if err != nil || (len(left.GetAnnotations()) == 1) != taken {
					t.Errorf("left on the VirtualService: %v, %v; taken off: want %v", left.GetAnnotations(), err, taken)
				}
				if !taken {
					return
				}
				if r := b.read(); r.Lock == nil || r.Request == nil || r.Request.Action != decision.RequestUnlock || r.Request.By != "ann@example.com" {
					t.Errorf("left: %+v", r)
				}
			})
		})
	}
}

func TestARequestIsNotWrittenWithoutALiveGuardian(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, record(shifting(30, 1)))
		code, text := b.run("unlock", testGuard, "--reason", "r")
		want(t, code, text, exitUnknown, "no replica of guardian is running in namespace shop: no replica has a Lease there; next: kubectl get pods -n shop -l app.kubernetes.io/name=guardian")
		for _, a := range b.kube.Actions() {
			if a.GetVerb() == "patch" {
				t.Errorf("wrote %v", a)
			}
		}
	})
}

// TestAnUnlockNamesTheLockThatWasSeen has a lock come that nobody has seen while the request waits.
func TestAnUnlockNamesTheLockThatWasSeen(t *testing.T) {
	since := time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)
	seen := locked()
	seen.Lock.Since = since
	for name, tc := range map[string]struct {
		record decision.Record
		of     func(q decision.Request) time.Time
	}{
		"a lock":  {seen, func(decision.Request) time.Time { return since }},
		"no lock": {shifting(30, 1), func(q decision.Request) time.Time { return q.At }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, record(tc.record), lease("a", time.Now()))
				b.answer(func(r *decision.Record, q decision.Request) {
					if want := tc.of(q); q.Of.IsZero() || !q.Of.Equal(want) {
						t.Errorf("the request is of %v, want %v", q.Of, want)
					}
					answered(r, q, "refused", "unlock refused: the lock is of another time")
				})
				code, text := b.run("unlock", testGuard, "--reason", "r")
				want(t, code, text, exitFailed, "the lock is of another time")
			})
		})
	}
}

func TestARequestWaitsForAnotherAndForConflicts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := shifting(30, 1)
		first.Request = &decision.Request{Action: decision.RequestPause, By: "bob", Reason: "lunch", At: time.Now()}
		b := newBench(t, record(first), lease("a", time.Now()))
		var taken []string
		b.answer(func(r *decision.Record, q decision.Request) {
			taken = append(taken, q.By)
			answered(r, q, decision.Event(q.Action)+"d", q.Reason)
		})
		conflicts := 2
		b.kube.PrependReactor("patch", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
			conflicts--
			return conflicts >= 0, nil, apierrors.NewConflict(schema.GroupResource{Resource: "configmaps"}, "guardian-"+testGuard, errors.New("has changed"))
		})
		code, text := b.run("resume", testGuard, "--reason", "r")
		want(t, code, text, exitOK, "guard orders-service: shifting")
		if got := strings.Join(taken, " "); got != "bob ann@example.com" {
			t.Errorf("taken: %s", got)
		}
	})
}

func TestStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the bubble's clock starts at 2000-01-01T00:00:00Z
		now := time.Now()
		r := locked()
		r.Status.Since, r.Lock.Since = now.Add(-90*time.Second), now.Add(-90*time.Second)
		r.History = []decision.HistoryEntry{
			{At: now.Add(-5 * time.Minute), Event: "shifted", From: 10, To: 30, Reason: "canary went from 10% to 30%"},
			{At: now.Add(-90 * time.Second), Event: "rolled-back", By: "alert", From: 30, To: 0, Reason: "5% of requests failed"},
		}
		advancing := record(decision.Record{Status: decision.Status{State: decision.StateShifting, Weight: 10, Since: now.Add(-time.Hour), Build: "0123456789abcdef",
			StepStatus: decision.StepStatus{Mode: decision.PromotionAuto, Steps: []int{10, 30, 50, 100}, NextStep: 30, NextAt: now.Add(4 * time.Minute), Waiting: "waiting: until 2000-01-01T00:04:00Z", WaitingFor: decision.WaitInterval},
			Counts:     decision.Counts{Requests: 37}, FiringStatus: decision.FiringStatus{Alerts: []string{"A", "B"}}}})
		advancing.Name, advancing.Labels = records.Name("payments"), map[string]string{records.LabelGuard: "payments"}
		other := record(decision.Record{})
		other.Name, other.Labels, other.Data = "guardian-config", nil, map[string]string{"status": "no record"}
		b := newBench(t, record(r), advancing, other, lease("a", now))
		for _, tc := range []struct{ golden, args string }{
			{"status-table.golden", "status"},
			{"status-table.golden.json", "status -o json"},
			{"status-guard.golden", "status orders-service"},
			{"status-guard.golden.json", "status orders-service -o json"},
			{"status-all.golden", "status -A"},
			{"status-steps.golden", "status payments"},
			{"status-steps.golden.json", "status payments -o json"},
		} {
			code, text := b.run(strings.Fields(tc.args)...)
			if code != exitOK {
				t.Errorf("%s: exit code %d", tc.args, code)
			}
			checkGolden(t, tc.golden, text)
		}
	})
}

func TestTheTableOfGuardsFitsA80ColumnTerminal(t *testing.T) {
	now := time.Now()
	row := func(s decision.Status, l *decision.Lock) records.Named {
		s.Since = now.Add(-26 * time.Hour)
		return records.Named{Namespace: "microservices", Guard: "orders-service", Record: decision.Record{Status: s, Lock: l}}
	}
	withStep := func(s decision.Status, step int, wait decision.Wait) decision.Status {
		s.Mode, s.NextStep, s.WaitingFor, s.Waiting = decision.PromotionAuto, step, wait, "waiting: "+strings.Repeat("for a long reason ", 10)
		return s
	}
	fires := []string{"GuardianCanaryErrorRate"}
	rows := []records.Named{
		row(withStep(decision.Status{State: decision.StateRolledBack, FiringStatus: decision.FiringStatus{Alerts: fires}}, 10, decision.WaitLock), &decision.Lock{Kind: decision.LockManual, Alert: fires[0], By: "alert"}),
		row(withStep(decision.Status{State: decision.StateHeld, Weight: 50, FiringStatus: decision.FiringStatus{Alerts: append(fires, "A", "B")}}, 100, decision.WaitAlert), nil),
		row(withStep(decision.Status{State: decision.StateShifting, Weight: 30}, 50, decision.WaitFirstSight), nil),
	}
	narrow := func(named []records.Named, columns int) {
		t.Helper()
		for line := range strings.Lines(tableText(named, false, true, columns, now)) {
			if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 80 {
				t.Errorf("%d columns: %s", n, line)
			}
		}
	}
	for _, r := range rows { // needs no terminal to be so narrow
		narrow([]records.Named{r}, 0)
	}
	// Each column is as wide as its widest row.
	rows = append(rows,
		row(decision.Status{State: decision.StateRolledBack}, &decision.Lock{Kind: decision.LockManual, By: "system:serviceaccount:microservices:release-pipeline"}),
		row(observing(decision.Record{Status: withStep(decision.Status{State: decision.StateShifting, Weight: 30}, 50, decision.WaitFirstSight)}).Status, nil))
	narrow(rows, 80)
	if text := tableText(rows, false, true, 80, now); strings.Count(text, "orders-service  ") != len(rows) || !strings.Contains(text, "shifting (observe)") || !strings.Contains(text, "manual b…") {
		t.Errorf("more was cut than had to be:\n%s", text)
	}
	if text := tableText(rows, false, true, 0, now); !strings.Contains(text, "manual by system:serviceaccount:microservices:release-pipeline") {
		t.Errorf("cut without a terminal:\n%s", text)
	}
}

// What a person reads at 80 columns is not broken within words, and nothing of a reason is lost.
func TestHistoryAndReportFitATerminal(t *testing.T) {
	const why = "GuardianCanaryErrorRate: orders-service: 53.9% of the canary's requests fail, of 1,204 in the last minute, which is more than 1%"
	at := time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)
	entries := []decision.HistoryEntry{
		{At: at, Event: decision.EventShifted, From: 10, To: 30, Build: "b1-81fd9bfa7960", Reason: "canary went from 10% to 30%"},
		{At: at, Event: decision.EventRolledBack, From: 30, Build: "b1-81fd9bfa7960", By: "system:serviceaccount:microservices:release-pipeline", Reason: why},
	}
	mark := &report.Mark{Wrong: true, By: "ann@example.com", Reason: "a load test that nobody had told of"}
	texts := map[string]string{
		"history": table{rows: append([][]string{{"TIME", "EVENT", "CANARY", "BUILD", "BY", "WHY"}}, entryRows(entries, true)...), whole: 4, prose: true}.layOut(80),
		"status":  table{rows: entryRows(entries, false), indent: "  ", whole: 3, prose: true}.layOut(80),
	}
	w := reportWriter{columns: 80}
	w.guard(report.Guard{Name: testGuard, Begins: at, Rollbacks: []report.Rollback{
		{At: at, From: 30, Alert: "GuardianCanaryErrorRate", Reason: why, Mark: mark}, {At: at, Would: true, Then: report.EndCompleted, ThenAt: at.Add(time.Hour), Reason: why}}}, at)
	texts["report"] = w.String()
	for name, text := range texts {
		for line := range strings.Lines(text) {
			if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 80 {
				t.Errorf("%s: %d columns: %s", name, n, line)
			}
		}
		if !strings.Contains(strings.Join(strings.Fields(text), " "), why) {
			t.Errorf("%s: the reason is not whole:\n%s", name, text)
		}
	}
	if text := texts["history"]; !strings.Contains(text, "2026-03-02T09:00:00Z  rolled-back  30% → 0%   b1-81fd9bfa7960  system:serviceac…\n    GuardianCanaryErrorRate: ") {
		t.Errorf("%s", text)
	}
}

func TestStatusShowsTheSteps(t *testing.T) {
	now := time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)
	advancing := func(weight int, next int, at time.Time, reason decision.Wait, why string) decision.Status {
		return decision.Status{StepStatus: decision.StepStatus{Mode: decision.PromotionAuto, Steps: []int{10, 30, 50, 100}, NextStep: next, NextAt: at, WaitingFor: reason, Waiting: why}, Weight: weight}
	}
	due, since := now.Add(200*time.Second), now.Add(-time.Minute)
	for name, c := range map[string]struct {
		s                 decision.Status
		steps, line, cell string
	}{
		"mode off":               {decision.Status{Weight: 50}, "", "", "-"},
		"before the first step":  {advancing(0, 10, time.Time{}, decision.WaitBuild, "waiting: for a new build"), "auto, [0%] → 10% → 30% → 50% → 100%", "10%; waiting: for a new build", "10% (build)"},
		"at a step, before time": {advancing(30, 50, due, decision.WaitInterval, "waiting: until x"), "auto, 10% → [30%] → 50% → 100%", "50%, due at 2026-03-02T09:03:20Z (in 3m20s)", "50% in 3m20s"},
		"an alert, before time":  {advancing(30, 50, due, decision.WaitAlert, "waiting: alert A fires"), "auto, 10% → [30%] → 50% → 100%", "50%, due at 2026-03-02T09:03:20Z (in 3m20s); waiting: alert A fires", "50% (alert)"},
		"at a step, and due":     {advancing(30, 50, since, decision.WaitRequests, "waiting: 37 of 100 requests"), "auto, 10% → [30%] → 50% → 100%", "50%, due since 2026-03-02T08:59:00Z; waiting: 37 of 100 requests", "50% (requests)"},
		"just due":               {advancing(30, 50, now, decision.WaitInterval, "waiting: until x"), "auto, 10% → [30%] → 50% → 100%", "50%, due since 2026-03-02T09:00:00Z", "50%"},
		"a weight of CI's":       {advancing(20, 30, since, "", ""), "auto, 10% → [20%] → 30% → 50% → 100%", "30%, due since 2026-03-02T08:59:00Z", "30%"},
		"at the end":             {advancing(100, 0, time.Time{}, "", ""), "auto, 10% → 30% → 50% → [100%]", "", "-"},
		"routes that differ":     {func() decision.Status { s := advancing(50, 30, since, "", ""); s.Spread = 40; return s }(), "auto, [10%] → 30% → 50% → 100%", "30%, due since 2026-03-02T08:59:00Z", "30%"},
	} {
		if got := []string{stepsText(c.s), nextLine(c.s, now), nextCell(c.s, now)}; !slices.Equal(got, []string{c.steps, c.line, c.cell}) {
			t.Errorf("%s:\n got %q\nwant %q", name, got, []string{c.steps, c.line, c.cell})
		}
	}
}

func TestStatusWithoutALiveGuardianShowsAndCannotTell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, record(locked()))
		code, text := b.run("status")
		want(t, code, text, exitUnknown, "shown is what was last written")
		want(t, code, text, exitUnknown, "rolled-back  0%")
	})
}

func TestStatusWithAClockThatIsOffWaitsForARenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		skew := -5 * time.Minute
		b := newBench(t, record(shifting(10, 1)), lease("a", time.Now().Add(skew)))
		b.beat(skew)
		code, text := b.run("status")
		want(t, code, text, exitOK, "shifting")
	})
}

func TestStatusWarnsOfAMissingHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, record(shifting(10, 1)), lease("a", time.Now()))
		b.hears(4*time.Minute, "3m0s")
		code, text := b.run("status")
		want(t, code, text, exitOK, "Warning: namespace shop: alerts may not reach guardian: the newest heartbeat is 4m0s old, heartbeat.maxAge is 3m0s")
		code, text = b.run("status", testGuard)
		want(t, code, text, exitOK, "Heartbeat:  alerts may not reach guardian")
	})
}

func TestStatusSaysWhichWayTheHeartbeatTook(t *testing.T) {
	now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	for whole, want := range map[time.Duration]string{
		-1:               "0s ago, straight from Prometheus; none through Alertmanager",
		40 * time.Second: "40s ago, through Prometheus and Alertmanager",
		time.Hour:        "0s ago, straight from Prometheus; the last one through Alertmanager 1h0m0s ago",
	} {
		l := lease("a", now) // with a heartbeat of now, which Prometheus has pushed
		l.Annotations[records.AnnotationHeartbeatAlertmanager] = now.Add(-whole).Format(time.RFC3339)
		if whole < 0 {
			delete(l.Annotations, records.AnnotationHeartbeatAlertmanager)
		}
		var p records.Liveness
		if p.Observe([]coordinationv1.Lease{*l}, now); heartbeatText(&p) != want {
			t.Errorf("%s: %q, want %q", whole, heartbeatText(&p), want)
		}
	}
}

func TestStatusSaysThatTheLastPassFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failing := lease("a", time.Now())
		failing.Annotations[records.AnnotationFailing] = testGuard
		b := newBench(t, record(shifting(10, 1)), failing)
		b.beat(0)
		for _, args := range [][]string{{"status"}, {"status", testGuard}, {"status", "-A"}} {
			code, text := b.run(args...)
			want(t, code, text, exitOK, "Warning: namespace shop: guardian's last pass over guard "+testGuard+" failed")
		}
	})
	var p records.Liveness
	all := lease("a", time.Now())
	all.Annotations[records.AnnotationFailing] = records.FailingAll
	p.Observe([]coordinationv1.Lease{*all}, time.Now())
	var named []records.Named
	for i := range 40 {
		named = append(named, records.Named{Namespace: "shop", Guard: fmt.Sprint("guard-", i)})
	}
	if told := failingOf(append(named, records.Named{Namespace: "other", Guard: "x"}), "shop", &p); len(told) != 6 || told[5] != "namespace shop: the same of 35 more guards" {
		t.Errorf("%q", told)
	}
}

func TestStatusSaysThatTheNamespaceIsGoneOrGoing(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*bench)
		says   string
	}{
		"there is none": {func(b *bench) {
			if err := b.kube.CoreV1().Namespaces().Delete(b.t.Context(), "shop", metav1.DeleteOptions{}); err != nil {
				b.t.Fatal(err)
			}
		}, "namespace shop: namespace shop does not exist"},
		"it is being deleted": {func(b *bench) {
			b.kube.PrependReactor("get", "namespaces", func(clienttesting.Action) (bool, runtime.Object, error) {
				at := metav1.NewTime(time.Unix(0, 0))
				return true, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", DeletionTimestamp: &at}}, nil
			})
		}, "namespace shop: namespace shop is being deleted since 1970-01-01T00:00:00Z"},
		"the user may not see it": {func(b *bench) {
			b.kube.PrependReactor("get", "namespaces", func(clienttesting.Action) (bool, runtime.Object, error) {
				return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "namespaces"}, "shop", errors.New("no"))
			})
		}, "no replica has a Lease there"},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			c.change(b)
			code, text := b.run("status")
			if code != exitUnknown || !strings.Contains(text, c.says) {
				t.Errorf("%s: exit code %d, said:\n%s", name, code, text)
			}
		})
	}
}

func TestStatusWatchSaysWhatStandsInTheWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad := record(decision.Record{})
		bad.Name, bad.Labels = records.Name("payments"), map[string]string{records.LabelGuard: "payments"}
		bad.Data["lock"] = "{"
		good := record(shifting(10, 1))
		good.ResourceVersion = "1"
		b := newBench(t, good, bad, lease("a", time.Now())) // which nobody renews
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		a := &app{name: "guardian", out: &b.out, errOut: &b.err}
		c := &cluster{kube: b.kube, namespace: "shop"}
		if err := a.watchStatus(ctx, c, "", statusOptions{watch: true}); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(b.out.String(), "orders-service") {
			t.Errorf("one record that cannot be read hides the others: %s", b.out.String())
		}
		warned := b.err.String()
		if strings.Count(warned, "key lock") != 2 || strings.Count(warned, "no replica of guardian is running in namespace shop") != 1 {
			t.Errorf("warned of:\n%s", warned)
		}
	})
}

func TestStatusWatchShowsEachChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cm := record(shifting(10, 1))
		cm.ResourceVersion = "1"
		b := newBench(t, cm, lease("a", time.Now()))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		b.change(10*time.Second, func(r *decision.Record) { *r = locked() })
		b.kube.PrependReactor("update", "configmaps", func(a clienttesting.Action) (bool, runtime.Object, error) {
			a.(clienttesting.UpdateAction).GetObject().(*corev1.ConfigMap).ResourceVersion = "2" // as an API server would
			return false, nil, nil
		})
		a := &app{name: "guardian", out: &b.out, errOut: &b.err}
		if err := a.watchStatus(ctx, &cluster{kube: b.kube, namespace: "shop"}, "", statusOptions{watch: true}); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(b.out.String()), "\n")
		if len(lines) != 3 || !strings.Contains(lines[1], "shifting") || !strings.Contains(lines[2], "rolled-back") {
			t.Errorf("got %d lines:\n%s", len(lines), b.out.String())
		}
	})
}

func TestTheNameFollowsHowItWasCalled(t *testing.T) {
	for arg0, want := range map[string]string{
		"guardian": "guardian", "/usr/bin/guardian": "guardian", "./kubectl-guardian": "kubectl guardian", "/opt/krew/bin/kubectl-guardian": "kubectl guardian",
	} {
		var out bytes.Buffer
		a := &app{name: displayName(arg0), out: &out, errOut: &out, in: strings.NewReader("")}
		cmd := a.command()
		cmd.SetArgs([]string{"plan", "--help"})
		if err := cmd.Execute(); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), "Usage:\n  "+want+" plan -f") {
			t.Errorf("%s prints:\n%s", arg0, out.String())
		}
	}
}

func TestVersionSaysSomething(t *testing.T) {
	b := newBench(t)
	code, text := b.run("version")
	want(t, code, text, exitOK, "guardian ")
	want(t, code, text, exitOK, "go1.")
}

// Where a guard observes, guardian writes to no VirtualService: what a person asks
// for is refused with the way to do it, and the command itself takes a lock off.
func TestAGuardThatObserves(t *testing.T) {
	refuse := func(r *decision.Record, q decision.Request) {
		answered(r, q, "refused", string(q.Action)+" refused: mode observe")
	}
	lift := func(r *decision.Record, q decision.Request) {
		r.Lock = nil
		answered(r, q, "unlocked", q.Reason)
	}
	moves := func(r decision.Record) decision.Record {
		r.Status.Moves = &decision.Moves{VirtualServices: []string{"orders-mesh"}, Stable: "v1", Canary: "v2"}
		return r
	}
	marked := map[string]any{decision.AnnotationLock + testGuard: "locked", "team": "shop"}
	for name, tc := range map[string]struct {
		record      decision.Record
		args        string
		take        func(*decision.Record, decision.Request)
		annotations map[string]any
		code        int
		says        []string
	}{
		"a rollback is done by hand": {moves(observing(shifting(30, 1))), "rollback orders-service --reason r", refuse, nil, exitFailed, []string{
			"rollback refused: mode observe", "kubectl get virtualservice -n shop orders-mesh -o yaml | guardian plan -f - --stable v1 --canary v2 -o patch)"}},
		"a lock is lifted": {moves(observing(locked())), "unlock orders-service --reason wrong", lift, marked, exitOK, []string{
			"unlocked: wrong", "Taken off by this command: annotation canary-guardian.io/lock.orders-service of VirtualService orders-mesh"}},
		"what is left of a lock is taken off": {moves(observing(shifting(0, 1))), "unlock orders-service --reason wrong", refuse, marked, exitOK, []string{"Taken off by this command"}},
		"there is no lock":                    {moves(observing(shifting(0, 1))), "unlock orders-service --reason wrong", refuse, map[string]any{"team": "shop"}, exitFailed, []string{"unlock refused"}},
		"its status says so":                  {wouldBe(shifting(10, 1)), "status orders-service", nil, nil, exitOK, []string{"shifting", "observe since 1970-01-01T00:00:00Z", "would have been rolled back 10% → 0% at 1970-01-01T00:01:00Z: CanaryErrors"}},
		"in the table":                        {observing(shifting(10, 1)), "status", nil, nil, exitOK, []string{"shifting (observe)"}},
		"for programs":                        {observing(shifting(10, 1)), "status -o json", nil, nil, exitOK, []string{`"mode": "observe"`, `"observing": {`}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, record(tc.record), lease("a", time.Now()))
				b.istio = dynamicfake.NewSimpleDynamicClient(runtime.NewScheme(), &unstructured.Unstructured{Object: map[string]any{
					"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": map[string]any{"name": "orders-mesh", "namespace": "shop", "annotations": tc.annotations}}})
				if tc.take != nil {
					b.answer(tc.take)
				}
				code, text := b.run(strings.Fields(tc.args)...)
				for _, says := range tc.says {
					want(t, code, text, tc.code, says)
				}
				left, err := b.istio.Resource(schema.GroupVersionResource{Group: "networking.istio.io", Version: "v1", Resource: "virtualservices"}).Namespace("shop").Get(t.Context(), "orders-mesh", metav1.GetOptions{})
				if err != nil || left.GetAnnotations()[decision.AnnotationLock+testGuard] != "" {
					t.Errorf("left on the VirtualService: %v, %v", left.GetAnnotations(), err)
				}
			})
		})
	}
}

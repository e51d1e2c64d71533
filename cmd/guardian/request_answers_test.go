package main

import (
	"encoding/json"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
)

// TestWhatOthersAskedForIsNoAnswer: what guardian records of another request, of the
// same person's too, says nothing of one's own.
func TestWhatOthersAskedForIsNoAnswer(t *testing.T) {
	tell := func(r *decision.Record, event decision.Event, by, reason string) {
		r.History = append(r.History, decision.HistoryEntry{At: time.Now(), Event: event, By: by, Reason: reason})
	}
	for name, tc := range map[string]struct {
		record decision.Record
		args   []string
		take   func(*decision.Record, decision.Request)
		code   int
		says   string
	}{
		"a step of the schedule is not the one that was asked for": {shifting(10, 1), []string{"promote", testGuard, "--reason", "r"},
			func(r *decision.Record, q decision.Request) {
				r.Status.Weight = 30
				tell(r, decision.EventStep, decision.BySchedule, "step to 30%")
			}, exitUnknown, "could not tell"},
		"another's pause": {shifting(10, 1), []string{"pause", testGuard, "--reason", "r"},
			func(r *decision.Record, q decision.Request) {
				tell(r, decision.EventPaused, "bob", "lunch")
				answered(r, decision.Request{ID: records.NewRequestID(), Action: decision.RequestPause, By: q.By}, decision.EventPaused, "on another terminal")
			}, exitUnknown, "could not tell"},
		"an alert's rollback": {shifting(10, 1), []string{"rollback", testGuard, "--reason", "r"},
			func(r *decision.Record, q decision.Request) {
				r.Status = decision.Status{State: decision.StateIdle}
				tell(r, decision.EventRolledBack, decision.ByAlert, "5% of requests failed")
			}, exitUnknown, "could not tell"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, record(tc.record), lease("a", time.Now()))
				b.answer(tc.take)
				code, text := b.run(tc.args...)
				want(t, code, text, tc.code, tc.says)
			})
		})
	}
}

// TestARefusalOfAnotherRequestIsNoRefusal: the same person has asked for two things.
func TestARefusalOfAnotherRequestIsNoRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, record(shifting(10, 1)), lease("a", time.Now()))
		b.answer(func(r *decision.Record, q decision.Request) {
			r.Status.State = decision.StatePaused
			answered(r, q, decision.EventPaused, q.Reason)
			answered(r, decision.Request{ID: records.NewRequestID(), Action: decision.RequestUnlock, By: q.By}, decision.EventRefused, "unlock refused: orders-service is not locked")
		})
		code, text := b.run("pause", testGuard, "--reason", "r")
		want(t, code, text, exitOK, "paused: r")
	})
}

// TestWhatAnotherOverwritesIsSuperseded: bob's write by hand takes the place of a
// request that no guardian has seen yet.
func TestWhatAnotherOverwritesIsSuperseded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, record(shifting(10, 1)), lease("a", time.Now()))
		b.change(time.Second, func(r *decision.Record) {
			r.Request = &decision.Request{Action: decision.RequestPause, By: "bob", Reason: "lunch", At: time.Now()}
		})
		code, text := b.run("promote", testGuard, "--reason", "r")
		want(t, code, text, exitFailed, "Error: superseded by bob's pause: lunch")
		if q := b.read().Request; q == nil || q.By != "bob" {
			t.Errorf("bob's request was taken away: %+v", q)
		}
	})
}

// TestAnAnswerThatComesAsTheRequestIsWithdrawnIsTold: guardian has taken it in the
// last moment.
func TestAnAnswerThatComesAsTheRequestIsWithdrawnIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, record(shifting(10, 1)), lease("a", time.Now()))
		first := true
		b.kube.PrependReactor("patch", "configmaps", func(a clienttesting.Action) (bool, runtime.Object, error) {
			if !first {
				return false, nil, nil
			}
			first = false
			var patch struct{ Data map[string]string }
			if err := json.Unmarshal(a.(clienttesting.PatchAction).GetPatch(), &patch); err != nil {
				return true, nil, err
			}
			r := shifting(10, 1)
			q := decision.Request{ID: patch.Data[decision.KeyRequestID], Action: decision.RequestPause, By: patch.Data[decision.KeyRequestBy]}
			answered(&r, q, decision.EventPaused, "r")
			if err := b.kube.Tracker().Update(corev1.SchemeGroupVersion.WithResource("configmaps"), record(r), "shop"); err != nil {
				return true, nil, err
			}
			return true, nil, errors.New("connection reset by peer") // it was written, and answered
		})
		code, text := b.run("pause", testGuard, "--reason", "r")
		want(t, code, text, exitOK, "paused: r")
	})
}

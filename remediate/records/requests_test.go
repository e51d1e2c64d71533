package records

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// served is a client of a record as it stands.
func served(r decision.Record) Client {
	cm := recordMap(r)
	cm.Labels = map[string]string{LabelGuard: "orders-service"}
	return Client{Kube: fake.NewClientset(cm), Namespace: testNamespace}
}

func asked(action decision.RequestAction) decision.Request {
	return decision.Request{Action: action, By: "ann", Reason: "lunch", At: at, ID: NewRequestID()}
}

func TestTwoEqualRequestsOfOneSecondAreTwo(t *testing.T) {
	mine, others := asked(decision.RequestPause), asked(decision.RequestPause)
	c := served(decision.Record{Request: &others})
	_, found, err := c.Withdraw(t.Context(), "orders-service", mine)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := c.Get(t.Context(), "orders-service"); err != nil || found || r.Request == nil {
		t.Errorf("withdrawn %v, left %+v (%v): another's request was taken away", found, r.Request, err)
	}
	if _, found, err := c.Withdraw(t.Context(), "orders-service", others); !found || err != nil {
		t.Errorf("one's own was not found (%v)", err)
	}
}

func TestARequestThatIsBeingCarriedOutIsNotTakenBack(t *testing.T) {
	q := asked(decision.RequestRollback)
	c := served(decision.Record{Request: &q, Status: decision.Status{Moving: &decision.Moving{From: 30, Requests: []decision.Asker{{ID: q.ID, By: q.By}}}}})
	last, found, err := c.Withdraw(t.Context(), "orders-service", q)
	if err != nil || found || last == nil || !last.Status.Moving.Carries(q) {
		t.Errorf("withdrawn %v, last %+v (%v)", found, last, err)
	}
	if r, err := c.Get(t.Context(), "orders-service"); err != nil || r.Request == nil {
		t.Errorf("on the record %+v (%v)", r, err)
	}
}

func TestAwait(t *testing.T) {
	q := asked(decision.RequestRollback)
	moving := func(refused string) *decision.Moving {
		return &decision.Moving{From: 30, Refused: refused, Requests: []decision.Asker{{ID: q.ID, By: "ann"}}}
	}
	answers := func(result decision.Result, text string) []decision.Answer {
		return []decision.Answer{{ID: q.ID, Action: q.Action, By: "ann", Result: result, Text: text}}
	}
	bobs := decision.Request{Action: decision.RequestPause, By: "bob", Reason: "lunch", At: at, ID: NewRequestID()}
	lock := &decision.Lock{Kind: decision.LockBuild}
	for name, tc := range map[string]struct {
		record decision.Record
		want   string // the answer's text; empty: none
		err    error
		taken  bool // the record is returned
	}{
		"answered":                       {decision.Record{Answers: answers(decision.ResultDone, "rolled-back: lunch")}, "rolled-back: lunch", nil, true},
		"answered, and another's stands": {decision.Record{Request: &bobs, Answers: answers(decision.ResultDone, "rolled-back: lunch")}, "rolled-back: lunch", nil, true},
		"waits":                          {decision.Record{Request: &q}, "", context.DeadlineExceeded, false},
		"is under way":                   {decision.Record{Lock: lock, Status: decision.Status{State: decision.StateShifting, Moving: moving("")}}, "", context.DeadlineExceeded, true},
		"is blocked":                     {decision.Record{Lock: lock, Status: decision.Status{State: decision.StateBlocked, Moving: moving("")}}, "", nil, true},
		"is refused, and stands":         {decision.Record{Request: &q, Status: decision.Status{State: decision.StateBlocked, Moving: moving("no")}}, "", nil, true},
		"another's is under way":         {decision.Record{Request: &q, Status: decision.Status{State: decision.StateBlocked, Moving: &decision.Moving{Refused: "no"}}}, "", context.DeadlineExceeded, false},
		"another's stands there":         {decision.Record{Request: &bobs}, "superseded by bob's pause: lunch", nil, false},
		"gone":                           {decision.Record{}, "", ErrUnanswered, false},
		"an alert locks, and moves":      {decision.Record{Lock: lock, Status: decision.Status{State: decision.StateShifting}, Answers: answers(decision.ResultRefused, "locked")}, "locked", context.DeadlineExceeded, true},
		"an alert has locked":            {decision.Record{Lock: lock, Status: decision.Status{State: decision.StateRolledBack}, Answers: answers(decision.ResultRefused, "locked")}, "locked", nil, true},
		"refused, and no lock":           {decision.Record{Status: decision.Status{State: decision.StateShifting}, Answers: answers(decision.ResultRefused, "mode observe")}, "mode observe", nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, stop := context.WithTimeout(t.Context(), time.Minute)
				defer stop()
				r, a, err := served(tc.record).Await(ctx, "orders-service", q)
				text := ""
				if a != nil {
					text = a.Text
				}
				if text != tc.want || !errors.Is(err, tc.err) || (r != nil) != tc.taken {
					t.Errorf("answer %q, record %v, error %v; want %q, %v, %v", text, r != nil, err, tc.want, tc.taken, tc.err)
				}
			})
		})
	}
}

// TestARequestThatWasWrittenWithoutAnAnswerIsNotItsOwnRival: the client library tries
// again, and finds what it has written itself.
func TestARequestThatWasWrittenWithoutAnAnswerIsNotItsOwnRival(t *testing.T) {
	for _, action := range []decision.RequestAction{decision.RequestPause, decision.RequestRollback} {
		synctest.Test(t, func(t *testing.T) {
			ctx, stop := context.WithTimeout(t.Context(), time.Minute)
			defer stop()
			q, c := asked(action), served(decision.Record{})
			kube := c.Kube.(*fake.Clientset)
			first := true
			kube.PrependReactor("patch", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
				if !first {
					return false, nil, nil
				}
				first = false
				cm := recordMap(decision.Record{Request: &q})
				cm.Labels = map[string]string{LabelGuard: "orders-service"}
				if err := kube.Tracker().Update(corev1.SchemeGroupVersion.WithResource("configmaps"), cm, testNamespace); err != nil {
					t.Error(err)
				}
				return true, nil, apierrors.NewConflict(schema.GroupResource{Resource: "configmaps"}, "guardian-orders-service", errors.New("has changed"))
			})
			if _, _, err := c.Request(ctx, "orders-service", q); err != nil {
				t.Fatal(err)
			}
			if r, err := c.Get(ctx, "orders-service"); err != nil || r.Request == nil || r.Request.ID != q.ID || len(r.Request.Replaces) > 0 {
				t.Errorf("%s: on the record %+v, %v", action, r.Request, err)
			}
		})
	}
}

// What carried a request may be gone, and its answer pushed out or lost with the record.
func TestARequestThatWasTakenAndHasNoAnswerIsUnanswered(t *testing.T) {
	q := asked(decision.RequestRollback)
	carries := decision.Record{Status: decision.Status{State: decision.StateShifting, Moving: &decision.Moving{From: 30, Requests: []decision.Asker{{ID: q.ID, By: "ann"}}}}}
	w := awaiting{q: q}
	if w.over(&carries) || w.taken == nil {
		t.Fatalf("under way: taken %v", w.taken)
	}
	bobs := asked(decision.RequestPause)
	bobs.ID, bobs.By = "id-of-bob", "bob"
	for _, r := range []*decision.Record{{}, {Request: &bobs}} {
		w := w
		if !w.over(r) || w.taken == nil {
			t.Errorf("taken %v, before the API server was asked", w.taken)
		}
		if w.end(r); w.taken != nil || w.answer != nil {
			t.Errorf("nothing carries it, answers it or asks for it: taken %v, answer %+v", w.taken, w.answer)
		}
	}
	w = awaiting{q: q}
	w.over(&carries)
	if w.over(&decision.Record{Request: &q}) || w.taken == nil {
		t.Errorf("it waits again, and was taken: %v", w.taken)
	}
}

func TestARequestSaysWhosePlaceItTakes(t *testing.T) {
	bobs := asked(decision.RequestPromote)
	c, q := served(decision.Record{Request: &bobs}), asked(decision.RequestRollback)
	before, _, err := c.Request(t.Context(), "orders-service", q)
	if err != nil || before.Request == nil {
		t.Fatalf("before: %+v, %v", before, err)
	}
	if r, err := c.Get(t.Context(), "orders-service"); err != nil || r.Request.ID != q.ID || !slices.Equal(r.Request.Replaces, []string{bobs.ID}) {
		t.Errorf("on the record %+v, %v", r.Request, err)
	}
}

func TestWhatAnOrphanWasAskedForIsRefused(t *testing.T) {
	waits, moves := asked(decision.RequestPause), asked(decision.RequestRollback)
	r := Orphaned(decision.Record{Request: &waits, Status: decision.Status{Moving: &decision.Moving{Requests: []decision.Asker{{ID: moves.ID, By: "ann"}}}}}, "orders-service", at)
	for _, q := range []decision.Request{waits, moves} {
		if a := r.AnswerTo(q); a == nil || a.Result != decision.ResultRefused || !strings.Contains(a.Text, string(q.Action)+" refused: guard orders-service is not in guardian's configuration") {
			t.Errorf("%s is answered by %+v", q.Action, a)
		}
	}
	if r.Request != nil || r.Status.Moving.Carries(moves) {
		t.Error("what is answered stands on the record still")
	}
}

package records

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/canary-guardian/guardian/remediate/decision"
)

// requestPoll is how often a record with a request that waits is read without an event.
const requestPoll = 2 * time.Second

// NewRequestID is an id that no other request has.
func NewRequestID() string { return rand.Text() }

// Request puts q into the record, after any request that stands there, and
// returns the record as it was just before. A rollback waits for no other
// request: it takes its place. It waits until ctx is done at most. attempted says
// that a write may have been done, whatever the error: see Lost, and Withdraw.
func (c Client) Request(ctx context.Context, guard string, q decision.Request) (before *decision.Record, attempted bool, err error) {
	var failed error
	err = c.Follow(ctx, guard, func(r *decision.Record, readErr error) time.Duration {
		switch {
		case readErr != nil:
			failed = readErr
			return 0
		case r == nil:
			failed = c.Unknown(ctx, guard)
			return 0
		case attempted && (same(r.Request, q) || r.AnswerTo(q) != nil): // a write without an answer was in
			failed = nil
			return 0
		case r.Request != nil && q.Action != decision.RequestRollback:
			failed = c.anotherWaits(guard, *r.Request)
			return requestPoll
		}
		before = r
		asked := q.Instead(r.Request)
		failed = c.SetRequest(ctx, guard, r.ResourceVersion, &asked)
		attempted = true
		if apierrors.IsConflict(failed) { // guardian wrote meanwhile; the next look is newer
			return 20 * time.Millisecond
		}
		return 0
	})
	if failed != nil {
		return before, attempted, c.Explain("write the request of guard "+guard, failed)
	}
	return before, attempted, err
}

func (c Client) anotherWaits(guard string, q decision.Request) error {
	return fmt.Errorf(`another request has been waiting since %s: %s by %s: %s; guardian takes it off the record when it is done. If it stays, take it off: kubectl patch configmap -n %s %s --type merge -p '%s'`,
		q.At.UTC().Format(time.RFC3339), q.Action, q.By, q.Reason, c.Namespace, Name(guard), noRequest())
}

// noRequest is the merge patch that takes a request off a record.
func noRequest() string {
	keys := make([]string, len(decision.RequestKeys))
	for i, key := range decision.RequestKeys {
		keys[i] = fmt.Sprintf("%q:null", key)
	}
	return `{"data":{` + strings.Join(keys, ",") + `}}`
}

// SetRequest sets the record's request, or removes it for nil, unless the
// record has changed since resourceVersion.
func (c Client) SetRequest(ctx context.Context, guard, resourceVersion string, q *decision.Request) error {
	data := make(map[string]any, len(decision.RequestKeys))
	for _, key := range decision.RequestKeys {
		data[key] = nil
	}
	if q != nil {
		for key, value := range q.Data() {
			data[key] = value
		}
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"resourceVersion": resourceVersion}, "data": data})
	if err != nil {
		return err
	}
	_, err = c.Kube.CoreV1().ConfigMaps(c.Namespace).Patch(ctx, Name(guard), types.MergePatchType, patch, metav1.PatchOptions{FieldManager: c.Manager})
	return err
}

// ErrUnanswered says that a request stands in the record no more, and that guardian
// has not answered it.
var ErrUnanswered = errors.New("the record has neither the request nor an answer to it")

// Await waits for the answer to q, which has an id, and returns it with the record.
// The answer is nil where guardian has taken q, and what it moves is refused or
// blocked for now. With an error, a record says that q was taken.
func (c Client) Await(ctx context.Context, guard string, q decision.Request) (*decision.Record, *decision.Answer, error) {
	w := awaiting{q: q}
	var last error
	err := c.Follow(ctx, guard, func(r *decision.Record, readErr error) time.Duration {
		if last = readErr; readErr != nil || r == nil || !w.over(r) {
			return requestPoll
		}
		if !w.told(r) { // a watch may begin with what was there before the request
			if r, last = c.Get(ctx, guard); last != nil || r == nil || !w.over(r) {
				return requestPoll
			}
		}
		w.end(r)
		return 0
	})
	switch {
	case err != nil:
		return w.taken, w.answer, errors.Join(err, last)
	case w.taken == nil && w.answer == nil:
		return nil, nil, ErrUnanswered
	}
	return w.taken, w.answer, nil
}

// awaiting is a request that has been written into a record.
type awaiting struct {
	q      decision.Request
	taken  *decision.Record // the last one seen in which guardian has taken it; nil: none
	answer *decision.Answer
}

// over says that there is nothing more to wait for.
func (w *awaiting) over(r *decision.Record) bool {
	if a := r.AnswerTo(w.q); a != nil {
		w.answer = a
	}
	switch m := r.Status.Moving; {
	case w.answer != nil:
		w.taken = r
		return !w.otherWasFirst() || r.Status.State == decision.StateRolledBack || r.Status.State == decision.StateBlocked
	case m.Carries(w.q):
		w.taken = r
		return m.Refused != "" || r.Status.State == decision.StateBlocked
	}
	return !same(r.Request, w.q)
}

// told says that a record tells what has become of the request, or will.
func (w *awaiting) told(r *decision.Record) bool {
	return w.answer != nil || r.Status.Moving.Carries(w.q)
}

// end takes down what the last record says. Where it does not tell of the request, that
// was taken off before guardian had seen it, or what carried it out is gone with no
// answer: the record was lost, or the answer pushed out.
func (w *awaiting) end(r *decision.Record) {
	if w.told(r) {
		return
	}
	if w.taken == nil {
		w.answer = inPlaceOf(w.q, r.Request)
	}
	w.taken = nil
}

// otherWasFirst says that a rollback is refused because the guard was locked already:
// what was asked for comes all the same.
func (w *awaiting) otherWasFirst() bool {
	return w.q.Action == decision.RequestRollback && w.answer.Result == decision.ResultRefused && w.taken.Lock != nil
}

// inPlaceOf is the answer to a request where another's stands, and guardian may not
// have seen it yet; nil: none stands there.
func inPlaceOf(q decision.Request, other *decision.Request) *decision.Answer {
	if other == nil {
		return nil
	}
	return &decision.Answer{ID: q.ID, Action: q.Action, By: q.By, Result: decision.ResultSuperseded, At: other.At, Text: decision.Superseded(*other)}
}

func same(r *decision.Request, q decision.Request) bool {
	return r != nil && r.ID == q.ID && r.Action == q.Action && r.By == q.By && r.Reason == q.Reason && r.At.Equal(q.At) && r.Until.Equal(q.Until) && r.Of.Equal(q.Of)
}

// Withdraw removes q from the record; found says that it stood there. What guardian has
// begun to carry out is not taken back: then, and where it did not stand there, last is
// the record as it was read, nil if there is none.
func (c Client) Withdraw(ctx context.Context, guard string, q decision.Request) (last *decision.Record, found bool, err error) {
	for {
		r, err := c.Get(ctx, guard)
		if err != nil || r == nil || !same(r.Request, q) || r.Status.Moving.Carries(q) {
			return r, false, err
		}
		err = c.SetRequest(ctx, guard, r.ResourceVersion, nil)
		if !apierrors.IsConflict(err) || ctx.Err() != nil {
			return nil, true, err
		}
	}
}

// Lost says of an error of writing that the write may have been done all the
// same: the API server has not clearly refused it.
func Lost(err error) bool {
	var status apierrors.APIStatus
	return !errors.As(err, &status) || apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err) ||
		apierrors.IsInternalError(err) || apierrors.IsServiceUnavailable(err)
}

// NewEntries is what a history has gained since an earlier look, by position:
// the clocks of the replicas that write it may differ. The newest entries of before may
// have been pushed out since, while older ones stay.
func NewEntries(before, after []decision.HistoryEntry) []decision.HistoryEntry {
	for _, last := range slices.Backward(before) {
		for i, e := range slices.Backward(after) {
			if !e.At.Equal(last.At) || e.Event != last.Event || e.By != last.By || e.Reason != last.Reason {
				continue
			}
			if e.Times != last.Times {
				return after[i:] // it came again
			}
			return after[i+1:]
		}
	}
	return after // all that was there has been pushed out
}

package records

import (
	"context"
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
		case r.Request != nil && q.Action != decision.RequestRollback:
			failed = c.anotherWaits(guard, *r.Request)
			return requestPoll
		}
		before = r
		failed = c.SetRequest(ctx, guard, r.ResourceVersion, &q)
		if apierrors.IsConflict(failed) { // guardian wrote meanwhile; the next look is newer
			return 20 * time.Millisecond
		}
		attempted = true
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

// Await waits until the record no longer holds q and what follows from it
// shows. With an error, a record says that q was taken and the rest has not come.
func (c Client) Await(ctx context.Context, guard string, q decision.Request, before decision.Record) (*decision.Record, error) {
	var after *decision.Record
	var last error
	err := c.Follow(ctx, guard, func(r *decision.Record, readErr error) time.Duration {
		last = readErr
		if readErr != nil || r == nil || same(r.Request, q) && !RefusedRollback(q, *r) {
			return requestPoll
		}
		after = r
		if !settled(q, before, *r) {
			return requestPoll
		}
		return 0
	})
	if err != nil {
		return after, errors.Join(err, last)
	}
	return after, nil
}

// RefusedRollback says of a rollback that guardian keeps among the requests until
// it is done, since no lock tells of it, that the API server does not take it.
func RefusedRollback(q decision.Request, r decision.Record) bool {
	m := r.Status.Moving
	return q.Action == decision.RequestRollback && m != nil && m.Step == 0 && m.Refused != ""
}

// settled says that a request which was taken is carried out as well, or will not
// be now: guardian writes what it is about to do before it moves traffic.
func settled(q decision.Request, before, r decision.Record) bool {
	s := r.Status
	switch q.Action {
	case decision.RequestRollback:
		return s.Weight == 0 && s.Moving == nil || s.State == decision.StateBlocked ||
			r.Lock == nil && s.Moving == nil && Refusal(q, before, r) != ""
	case decision.RequestPromote:
		return s.Moving == nil || s.Moving.Refused != "" || r.Lock != nil
	}
	return true
}

func same(r *decision.Request, q decision.Request) bool {
	return r != nil && r.Action == q.Action && r.By == q.By && r.Reason == q.Reason && r.At.Equal(q.At) && r.Until.Equal(q.Until) && r.Of.Equal(q.Of)
}

// Withdraw removes q from the record; found says that it stood there.
func (c Client) Withdraw(ctx context.Context, guard string, q decision.Request) (found bool, err error) {
	for {
		r, err := c.Get(ctx, guard)
		if err != nil || r == nil || !same(r.Request, q) {
			return false, err
		}
		err = c.SetRequest(ctx, guard, r.ResourceVersion, nil)
		if !apierrors.IsConflict(err) || ctx.Err() != nil {
			return true, err
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
			if e.At.Equal(last.At) && e.Event == last.Event && e.By == last.By && e.Reason == last.Reason {
				return after[i+1:]
			}
		}
	}
	return after // all that was there has been pushed out
}

// Refusal is why guardian has refused q since before; empty: after shows no refusal.
func Refusal(q decision.Request, before, after decision.Record) string {
	why := ""
	for _, e := range NewEntries(before.History, after.History) {
		if e.Event == decision.EventRefused && e.By == q.By {
			why = e.Reason
		}
	}
	return why
}

// Done says that after shows q to be carried out since before.
func Done(q decision.Request, before, after decision.Record) bool {
	event := map[decision.RequestAction]decision.Event{decision.RequestUnlock: decision.EventUnlocked, decision.RequestPause: decision.EventPaused,
		decision.RequestResume: decision.EventResumed, decision.RequestPromote: decision.EventStep, decision.RequestDisarm: decision.EventDisarmed,
		decision.RequestArm: decision.EventArmed, decision.RequestMarkWrong: decision.EventMarkedWrong, decision.RequestMarkRight: decision.EventMarkedRight}[q.Action]
	for _, e := range NewEntries(before.History, after.History) {
		if e.Event == event {
			return true
		}
	}
	switch q.Action {
	case decision.RequestRollback:
		return after.Status.Weight == 0 && after.Status.Moving == nil
	case decision.RequestPromote: // the step was recorded before
		return after.Status.Weight > before.Status.Weight
	}
	return false
}

package remediate

import (
	"strings"

	"github.com/canary-guardian/guardian/remediate/decision"
	corev1 "k8s.io/api/core/v1"
)

// outcome is what one reconcile came to.
type outcome struct {
	decision decision.Decision
	snapshot snapshot
	// recorded says that all that follows from the alerts is in the record,
	// even where the traffic could not be moved yet.
	recorded  bool
	done      bool  // Move was made in full: the API server has taken each write
	later     bool  // a write of the record was put off
	unmarked  error // why a VirtualService does not tell of the lock; nil: all do
	unwritten error // why the record does not tell of a rollback that was done; nil: it does

	record *corev1.ConfigMap // as it is after the writes; nil: not known
}

// status is what the API server has been seen to have, once the writes are in.
func (o outcome) status() decision.Status {
	s := o.decision.Record.Status
	if m := o.decision.Marks; o.done && (o.decision.Move == decision.MoveStable || o.decision.Move == decision.MoveForward) {
		s.State, s.Reason = m.State, m.Reason
	}
	return s
}

// whyUnrecorded is why the record lacks the lock; empty: it has one, or there is none.
func (o outcome) whyUnrecorded() string {
	if o.unwritten == nil || o.decision.Record.Lock == nil || o.snapshot.stored.Lock != nil {
		return ""
	}
	return decision.Shorten(strings.ReplaceAll(o.unwritten.Error(), "\n", "; "))
}

// whyStable is why traffic has moved to stable; the status may still tell why it
// could not before.
func whyStable(r decision.Record) string {
	if r.Lock != nil {
		return r.Lock.Reason
	}
	return r.Status.Reason
}

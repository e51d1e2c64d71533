package remediate

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	corev1 "k8s.io/api/core/v1"
)

// apply makes a decision true: it writes what is planned. The record is written
// before traffic moves, so that a crash between the two is finished by the next
// reconcile.
func (r *reconciler) apply(ctx context.Context, s snapshot, d decision.Decision) (did outcome, err error) {
	did.decision = d
	p, err := plan(s, d, r.self())
	if err != nil {
		return did, err
	}
	did.decision.Record = p.before
	if err := r.stillLeads(s, d); err != nil {
		return did, err
	}
	did.record = s.record
	switch {
	case s.holds(p.before):
	case r.canCoalesce(s, d, p.before):
		did.later = true
	default:
		did.record, err = r.store.writeRecord(ctx, s.input.Guard.Name, s.record, p.before)
		switch {
		case err == nil:
			r.changed(ctx, s.input.Guard, s, d)
		case d.Move == decision.MoveStable && s.again && !errors.Is(err, errConflict):
			return r.applyUnrecorded(ctx, s, did, err)
		default:
			return did, &recordError{err}
		}
	}
	if d.Observes { // whatever there may be to write, such as a lock's annotation
		did.recorded, did.done = true, true
		return did, nil
	}
	if err := r.stillLeads(s, d); err != nil {
		return did, err
	}
	did.unmarked, err = r.patch(ctx, p.patches, d)
	// Without a lock the record does not see to it that traffic moves.
	did.recorded = err == nil || p.before.Lock != nil || d.Move != decision.MoveStable
	if err != nil {
		return did, &trafficError{err}
	}
	if did.done = true; d.Move == decision.MoveStable || d.Move == decision.MoveForward {
		r.done.note(s.input.Guard.Name, did.record, r.now())
	}
	return did, r.conclude(ctx, s, d, p, did.record)
}

// errUnrecorded says that traffic is where it should be, and that the record
// does not tell of it.
var errUnrecorded = errors.New("rolled back, not recorded")

// applyUnrecorded takes traffic from the canary although the record cannot be
// written: the brake does not hang on a quota, or on a policy for ConfigMaps. The
// lock is on the VirtualService until the record can be written.
func (r *reconciler) applyUnrecorded(ctx context.Context, s snapshot, did outcome, why error) (outcome, error) {
	d := did.decision
	d.Marks.Reason = errUnrecorded.Error() + ": " + d.Marks.Reason
	did.decision, did.record = d, nil
	p, err := plan(s, d, r.self())
	if err == nil {
		did.unmarked, err = r.patch(ctx, p.patches, d)
	}
	if err != nil {
		return did, errors.Join(&trafficError{err}, &recordError{why})
	}
	did.done, did.unwritten = true, why
	if l := d.Record.Lock; l != nil {
		r.unrecorded.note(s.input.Guard.Name, unrecordedLock{*l, s.stored.Status.LiftedAt})
	}
	return did, &recordError{fmt.Errorf("%w: %w", errUnrecorded, why)}
}

// stillLeads looks at the lease once more, right before something goes forward
// or a lock is lifted or observing ends: answers may have taken longer than the lease lasts. What
// another holds now is decided anew.
func (r *reconciler) stillLeads(s snapshot, d decision.Decision) error {
	was, want := s.input.Record, d.Record
	forward := d.Move == decision.MoveForward || d.Move == decision.MoveRestore
	lifts := was.Lock != nil && want.Lock == nil
	enforces := was.Status.Observing != nil && want.Status.Observing == nil
	if (forward || lifts || enforces) && !r.leads() {
		return fmt.Errorf("guard %s: the lease is another's: %w", s.input.Guard.Name, errConflict)
	}
	return nil
}

// patch writes the VirtualServices, as far as there is something to write. A
// rollback is done in as many as take it, and in each as far as it takes it;
// going forward stops at the first that does not.
func (r *reconciler) patch(ctx context.Context, todo []change, d decision.Decision) (unmarked, err error) {
	var refused []error
	for _, c := range todo {
		if len(c.ops) == 0 && len(c.lock) == 0 {
			continue
		}
		unmarkedHere, err := r.patchOne(ctx, c, d)
		if unmarkedHere != nil {
			unmarked = unmarkedHere
		}
		if err == nil {
			continue
		}
		if refused = append(refused, err); d.Move != decision.MoveStable {
			break
		}
	}
	return unmarked, errors.Join(refused...)
}

// patchOne writes one VirtualService. The weights do not wait for a lock's
// annotation that guardian may not write, as where another user has taken its
// key: unmarked says why it is not there.
func (r *reconciler) patchOne(ctx context.Context, c change, d decision.Decision) (unmarked, err error) {
	_, err = r.store.patchVirtualService(ctx, c.vs, append(slices.Clone(c.ops), c.lock...), manager(d))
	if len(c.lock) > 0 && definitely(err) {
		if unmarked = err; len(c.ops) == 0 {
			return unmarked, nil
		}
		_, err = r.store.patchVirtualService(ctx, c.vs, c.ops, manager(d))
	}
	if definitely(err) && d.Move == decision.MoveStable {
		err = r.patchSmaller(ctx, c, err)
	}
	return unmarked, err
}

// conclude writes down what has been given back or done, and gives up ownership.
func (r *reconciler) conclude(ctx context.Context, s snapshot, d decision.Decision, p planned, cm *corev1.ConfigMap) error {
	var again error
	if d.Leave {
		again = r.leave(ctx, s, &d, &p.after)
	}
	if p.conclude && !records.Holds(cm, p.after) {
		if _, err := r.store.writeRecord(ctx, s.input.Guard.Name, cm, p.after); err != nil {
			return err
		}
		if d.Added = d.Then; len(d.Added) > 0 {
			r.changed(ctx, s.input.Guard, s, d)
		}
	}
	if !d.Release {
		return again
	}
	for _, vs := range s.services {
		if s.held[vs.GetName()] || s.former[vs.GetName()] {
			continue
		}
		if err := r.store.release(ctx, vs.GetName()); err != nil {
			return err
		}
	}
	return again
}

// canCoalesce says that all there is to write is how a rollback of a moment ago
// has turned out, or that further alerts fire for a guard whose lock stands
// already. In a burst of rollbacks such writes would stand in the way of those
// that move traffic.
func (r *reconciler) canCoalesce(s snapshot, d decision.Decision, want decision.Record) bool {
	was := s.input.Record
	switch {
	case !sameAlertLock(was, want) || !sameDenials(was, want):
		return false
	case d.Move != decision.MoveNone || !rollbacksAlone(d.Added) || isAnswered(was, want):
		return false
	}
	return r.sawDone(s, want) && r.inBurst(*want.Lock)
}

// isAnswered says that a person waits for what is to be written.
func isAnswered(was, want decision.Record) bool {
	return was.Request != nil || !slices.Equal(was.Answers, want.Answers)
}

// sawDone says that a record is to tell of a rollback that the record before tells of
// too, or that this replica has made itself.
func (r *reconciler) sawDone(s snapshot, want decision.Record) bool {
	told := s.input.Record.Status.State == decision.StateRolledBack
	return want.Status.State == decision.StateRolledBack && (told || r.done.is(s))
}

// inBurst says that many rollbacks go on at once, and that a lock is of them.
func (r *reconciler) inBurst(l decision.Lock) bool {
	return r.manyRollbacks != nil && r.manyRollbacks() && r.now().Sub(l.Since).Abs() < maxCoalesceDelay
}

// sameAlertLock says that both records have one lock, which an alert has set.
func sameAlertLock(a, b decision.Record) bool {
	return a.Lock != nil && b.Lock != nil && b.Lock.Equal(*a.Lock) && b.Lock.By == decision.ByAlert
}

// sameDenials says that the locks of both records refuse the same.
func sameDenials(a, b decision.Record) bool {
	return slices.Equal(a.Refused, b.Refused) && slices.Equal(a.Deny, b.Deny) && slices.Equal(a.VirtualServices, b.VirtualServices) &&
		a.DenyMatchRoutes == b.DenyMatchRoutes && a.DenyMirrors == b.DenyMirrors
}

// rollbacksAlone says that the entries report rollbacks and nothing else.
func rollbacksAlone(added []decision.HistoryEntry) bool {
	return !slices.ContainsFunc(added, func(e decision.HistoryEntry) bool { return e.Event != decision.EventRolledBack })
}

package decision

import (
	"cmp"
	"fmt"
	"slices"
)

// tell is the last stage: what the record and the VirtualServices say of a choice.
func (d *decider) tell(c choice) Decision {
	s := &d.rec.Status
	c.text += d.observingText(c)
	if d.observing() {
		c.move, c.release, c.leave = MoveNone, false, false // whatever has been chosen
	}
	changed := s.State != c.state
	if changed {
		s.Since = d.now
	}
	s.State, s.Reason, s.HeldBy = c.state, c.text, ""
	if c.state == StateHeld {
		s.HeldBy = cmp.Or(c.heldBy, d.was.Status.HeldBy) // who leaves the state as it is names none
	}
	if c.marks.State == StateUnknown {
		c.marks = Marks{State: s.State, Reason: s.Reason, Since: s.Since, Build: s.Build}
	}
	if d.in.Leads {
		s.NoRollback = slices.Clone(d.in.Guard.NoRollback)
	}
	d.tellOutside()
	d.tellCapacity(c.state)
	d.reportSteps(c, changed)
	for i := range d.rec.History {
		if e := &d.rec.History[i]; e.State == StateUnknown {
			e.State = c.state
		}
	}
	if d.rec.Lock != nil {
		d.tellDenials()
		c.marks.Message = d.tellLock(c)
	}
	d.closeReceipt()
	d.answerTaken()
	d.tellLinks()
	d.throttle()
	if !d.graceEnd.IsZero() {
		d.requeueAt(d.graceEnd)
	}
	return d.decision(c)
}

// decision puts together what the stages have found.
func (d *decider) decision(c choice) Decision {
	return Decision{Record: d.rec, Move: c.move, Weight: c.weight, Reason: c.reason, Marks: c.marks, Release: c.release, Leave: c.leave, Observes: d.observing(),
		WantLive: d.wantLive && !d.in.Live, WantForward: d.wantForward, WantCount: d.wantCount && !d.in.Count.Asked && !d.in.Busy, WantAfter: d.wantAfter, Requeue: d.requeue,
		Added: d.rec.History[len(d.was.History):], Then: d.then, Signal: d.signal, Doubt: d.doubt}
}

// tellDenials has the record say what the lock denies. Replicas may have different
// configurations for a while: once it is said, it is the lease holder's. Only what
// nobody can have meant is put right by any of them: the VirtualServices are to say it.
func (d *decider) tellDenials() {
	if d.turned() || d.unread() || !d.in.Leads && d.leaderTellsDenials() {
		return
	}
	d.rec.VirtualServices = slices.Concat(d.in.Guard.VirtualServices, d.former())
	if denied := d.denies(); len(d.in.Deny) > 0 {
		d.rec.Denies(denied, d.in.Spare, d.in.Guard.Rollback)
	} else {
		d.rec.Deny = denied
	}
}

// leaderTellsDenials says that a replica which does not lead leaves what the lock denies as
// it is.
func (d *decider) leaderTellsDenials() bool {
	if stable := d.rec.Lock.Stable; stable != "" && stable != d.in.Guard.Stable.String() {
		return true // by its file another is stable
	}
	told := d.was.Lock != nil && len(d.was.VirtualServices) > 0 && len(d.was.Deny) > 0
	return told && !d.denied(d.was.Deny)
}

// tellLock says in the record what whoever is refused for the lock should know, and
// returns what is written of it together with the weights; empty: the same.
func (d *decider) tellLock(c choice) string {
	others := !d.in.Leads && (d.in.Next != nil || len(d.rec.Lock.Next) > 0)
	if d.rec.Message != "" && (d.turned() || d.unread() || others) {
		return "" // it would name others than the lock is of, or the two the wrong way round
	}
	g, l := d.in.Guard, *d.rec.Lock
	done := fmt.Sprintf("guardian rolled %s back to %s at %s", g.Name, g.Stable, Stamp(l.Since))
	what := fmt.Sprintf("guardian locked %s on %s at %s", g.Name, g.Stable, Stamp(l.Since))
	switch {
	case c.state == StateBlocked:
		what = lockBlocked(g, l, c.text)
	case !d.hasCanaryTraffic(), c.reason == ReasonReassert:
		what = done
	case c.move == MoveStable:
		what = fmt.Sprintf("guardian is rolling %s back to %s since %s", g.Name, g.Stable, Stamp(l.Since))
	}
	d.rec.Message = lockMessage(d.in, l, what)
	if c.move == MoveStable {
		return lockMessage(d.in, l, done)
	}
	return ""
}

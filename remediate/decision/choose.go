package decision

import (
	"cmp"
	"slices"
	"time"
)

// choose is the third stage: what becomes of the traffic.
func (d *decider) choose() choice {
	switch {
	case d.behind():
		return d.hearOnly()
	case d.anew:
		return d.recordOnly()
	case d.unread():
		return d.lockOnly()
	case d.disarmed():
		return d.watchOnly()
	case d.turned():
		return d.holdTurned()
	case d.observing():
		return d.onlyObserve()
	case d.rec.Lock != nil:
		return d.locked()
	}
	return d.open(ReasonNothing)
}

// onlyObserve is a pass over a guard that observes: the state is what is seen,
// and a lock from before stands as it stood.
func (d *decider) onlyObserve() choice {
	d.endWould()
	if d.rec.Lock == nil {
		return d.open(ReasonNothing)
	}
	d.takeWeight()
	d.rec.Status.Observing.Would = nil // the lock itself stands
	for _, a := range d.rollback {
		d.noteAlert(a, "locked already, and mode observe puts nothing back")
	}
	if d.hasCanaryTraffic() {
		c := d.block("mode observe puts nothing back: unlock, or set mode: enforce")
		d.supersede("mode observe") // nothing is under way
		return c
	}
	c := choice{reason: ReasonNothing}
	if c.state, c.text = d.atRest(); c.state == StateRolledBack {
		c.text += "; mode observe: a new build lifts nothing, a person's unlock does"
	}
	return c
}

// locked lifts the lock, or sees to it that the canary gets nothing.
func (d *decider) locked() choice {
	if reason := d.endLock(); reason != "" {
		return d.open(reason)
	}
	d.dropAsked("locked: " + d.rec.Lock.Reason + d.notOf())
	d.noteNext()
	if c, passed := d.passOn(); passed {
		return c
	}
	if !d.hasCanaryTraffic() {
		return d.rest()
	}
	if why := d.unsafe(); why != "" {
		return d.block(why)
	}
	if d.again() {
		return d.reassert()
	}
	c := d.returnTraffic(*d.rec.Lock, ReasonFinish)
	d.rec.Status.Moving.Again = d.rec.Status.Moving.Again || d.was.Status.Observing != nil
	return c
}

// rest is a lock whose canary gets nothing.
func (d *decider) rest() choice {
	if d.in.Gone != "" {
		return d.gone()
	}
	c := choice{reason: ReasonNothing}
	c.state, c.text = d.atRest()
	if d.confirm(); slices.ContainsFunc(d.rollback, d.isNew) {
		d.doubt = true
	}
	return c
}

// atRest is the state of a lock whose canary gets nothing, or is put back to that. One
// that is blocked all the same is so by the lease holder's configuration, which may have
// stable and canary exchanged: that is its to take back.
func (d *decider) atRest() (State, string) {
	if s := d.was.Status; !d.in.Leads && s.State == StateBlocked && s.Moving == nil && s.Weight == 0 && !s.LacksVirtualService() {
		return s.State, s.Reason
	}
	return StateRolledBack, d.lockText()
}

// again says that a canary which was locked and at 0 has traffic once more,
// also where its VirtualService did not exist in between: a rollback is told and
// counted once.
func (d *decider) again() bool {
	s := d.was.Status
	was := s.State == StateRolledBack || s.State == StateBlocked && s.Moving == nil        // else a rollback is under way
	return d.was.Lock != nil && was && (s.Weight == 0 || d.in.Owned) && s.Observing == nil // which has put nothing back
}

// reassert takes traffic from a locked canary again. The record goes on saying
// that it has none, so that a storm of this costs no write each; when the API
// server refuses it, the record says that.
func (d *decider) reassert() choice {
	s := &d.rec.Status
	c := choice{move: MoveStable, reason: ReasonReassert}
	c.state, c.text = d.atRest()
	c.marks = Marks{State: StateRolledBack, Reason: d.lockText(), Since: d.was.Status.Since, Build: s.Build}
	d.noteReassert()
	if s.Weight != 0 { // the marks on the VirtualService say that it was at 0 in between
		s.Weight, s.MovedAt = 0, d.now
		d.supersede(string(ReasonReassert))
		s.Full, s.Unverified, s.Spread, s.PromotedAt, s.CompletedAt = false, false, 0, time.Time{}, time.Time{}
	}
	return c
}

// noteReassert records a storm of re-assertions once a minute.
func (d *decider) noteReassert() {
	for e := range d.rec.NewestFirst() {
		if e.Event == EventReasserted {
			if _, last := e.Count(); d.now.Sub(last).Abs() < ReassertCoalesce {
				return
			}
			break
		}
	}
	e := d.entry(EventReasserted, "", string(ReasonReassert))
	e.State, e.From, e.To = StateRolledBack, d.in.Traffic.Weight, 0
	d.then = append(d.then, e)
}

// open decides for a guard that is not locked. reason is why it is not any more.
func (d *decider) open(reason Reason) choice {
	c := d.giveBack(reason)
	if l, why := d.wantsRollback(); why != "" {
		return d.rollBack(l, why)
	}
	switch {
	case !d.hasCanaryTraffic():
		c.state, c.text = StateIdle, d.idle()
	case d.completed():
		c = d.complete(c)
	case d.blockedElsewhere(), d.justBegun():
		c.state, c.text = d.observed(), d.was.Status.Reason
		if d.was.Status.State == StateBlocked {
			c.state = StateBlocked
		}
		d.dropAsked(c.text)
		return c
	case d.in.Traffic.Full():
		c.state, c.text = d.promoted()
	default:
		c.state, c.text = StateShifting, cmp.Or(d.in.Unsafe, d.in.Traffic.Text())
	}
	d.giveUp()
	return d.holdOrPromote(c)
}

// wantsRollback is the lock of a rollback, and why there has to be one; an empty
// reason: there has not.
func (d *decider) wantsRollback() (Lock, Reason) {
	if q := d.asked; q != nil && q.Action == RequestRollback {
		d.asked = nil
		return Lock{By: q.By, Reason: cmp.Or(q.Reason, "asked for by "+q.By)}, ReasonPerson
	}
	if l := d.unrecorded(d.rec.Status.Build); l != nil {
		return *l, ReasonFinish
	}
	if refused := d.refusedRuns(); refused != "" && d.in.Guard.Rollback.Lock != LockNone {
		return Lock{By: ByRefused, Reason: refusedBefore(refused)}, ReasonRefusedBuild
	}
	if len(d.rollback) == 0 || !d.hasCanaryTraffic() || d.completed() {
		return Lock{}, ""
	}
	a := d.rollback[0]
	return Lock{Signal: a.Signal, Alert: a.Name, Fingerprint: a.Fingerprint, StartsAt: a.StartsAt, By: ByAlert, Reason: a.Name + ": " + a.Summary}, ReasonAlert
}

// idle is why a canary without traffic has none, and what alerts would do if it had.
func (d *decider) idle() string {
	text := cmp.Or(d.in.Absent, "canary gets no traffic")
	if m := d.rec.Status.Moving; m.RollsBack() {
		text = notLocked(m.Reason)
		d.confirm()
	}
	for _, a := range d.rollback {
		d.doubt = d.doubt || d.isNew(a)
		d.noteAlert(a, "canary has no traffic; "+d.would("it will be rolled back at once if it gets some", "it would be rolled back at once if it got some"))
	}
	return text
}

// giveBack begins a choice with what a rollback has left behind and can be restored:
// what it re-pointed, and its field ownership. While an alert fires, or the guard is
// paused, testers and mirrors are not sent to the canary again.
func (d *decider) giveBack(reason Reason) choice {
	c := choice{reason: reason, leave: d.letGo()}
	none := d.in.Guard.Rollback.Lock == LockNone
	switch {
	case !d.in.Owned && (none || !d.in.Owed), !none && d.alertFiring(), d.paused(), d.observing():
		return c
	case !d.in.Live:
		d.wantLive = true
		return c
	}
	c.release, c.move = d.in.Owned, MoveRestore
	if none {
		// Nothing says that the canary is good again: only a step forward, or
		// CI, gives it its routes back.
		c.move = MoveMark
	}
	if reason == ReasonNothing {
		c.reason = ReasonRestore
	}
	return c
}

// rollBack locks and moves everything to stable, or says why not.
func (d *decider) rollBack(l Lock, reason Reason) choice {
	if d.observing() {
		return d.wouldRollBack(l, reason)
	}
	c := d.lockAndReturn(l, reason)
	if d.rec.Lock == nil { // no lock will tell of them
		for _, a := range d.rollback {
			d.noteAlert(a, c.text)
		}
	}
	return c
}

func (d *decider) lockAndReturn(l Lock, reason Reason) choice {
	why := d.unsafe()
	if !d.hasCanaryTraffic() {
		why = "" // nothing has to move
	}
	if d.in.Guard.Rollback.Lock != LockNone {
		l = d.setLock(l, reason)
	}
	d.dropAsked("an alert rolls back")
	if !l.takesOn(d.in.Canary) {
		d.rec.Status.Promoting = ""
	}
	switch {
	case why != "" && d.rec.Lock == nil && reason == ReasonAlert && d.asksAlone():
		return choice{state: d.was.Status.State, text: d.was.Status.Reason, reason: ReasonBlocked}
	case why != "":
		if d.rec.Lock == nil && reason == ReasonPerson {
			d.rec.Request, d.taken = d.was.Request, nil // nothing else would tell of it when it has become safe
		}
		return d.block(why)
	case d.hasCanaryTraffic():
		return d.returnTraffic(l, reason)
	}
	c := choice{state: StateIdle, text: notLocked(l.Reason), reason: reason}
	if d.rec.Lock != nil {
		c.state, c.text = StateRolledBack, d.lockText()
	}
	d.expectStable(l)
	d.confirm()
	return c
}

// setLock has the record lock the guard.
func (d *decider) setLock(l Lock, reason Reason) Lock {
	if l.Kind = d.in.Guard.Rollback.Lock; reason != ReasonFinish || l.Since.IsZero() {
		l.Since = d.now // else it is set again: what came since is no part of it
	}
	l.of(d.in.Guard)
	d.lockBuilds(&l, reason)
	d.rec.Lock = &l
	return l
}

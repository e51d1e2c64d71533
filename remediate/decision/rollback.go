package decision

import (
	"slices"
	"time"
)

// block is a rollback that is wanted and would not be safe.
func (d *decider) block(why string) choice {
	d.takeWeight()
	if l := d.rec.Lock; l != nil {
		d.expectStable(*l)
		d.rec.Status.Moving.Refused = ""
	}
	if d.was.Status.State != StateBlocked || d.in.Leads && !SameWords(d.was.Status.Reason, why) {
		d.note(EventBlocked, "", "rollback is wanted but "+why)
	}
	return choice{state: StateBlocked, reason: ReasonBlocked, text: why}
}

// blockedElsewhere says that another replica has heard a rollback alert that
// it cannot act upon and, without a lock, leaves no other trace of. Where there was
// a lock, it has just been lifted, and what was blocked is not wanted any more.
func (d *decider) blockedElsewhere() bool {
	return (d.was.Status.State == StateBlocked && d.was.Lock == nil && d.unsafe() != "" || d.rec.Status.Moving.RollsBack()) &&
		slices.ContainsFunc(d.holds, func(a Alert) bool { return a.Action == ActionRollback && a.Fingerprint == "" })
}

// observed is the state of a canary that gets traffic and that nothing holds.
func (d *decider) observed() State {
	s := d.rec.Status
	switch {
	case !d.in.Traffic.Full():
		return StateShifting
	case s.Unverified:
		return StateUnverified
	case !s.CompletedAt.IsZero():
		return StateCompleted
	}
	return StatePromoted
}

// returnTraffic has everything go to stable. That it has is told when it is
// seen: see confirm.
func (d *decider) returnTraffic(l Lock, reason Reason) choice {
	d.expectStable(l)
	c := choice{move: MoveStable, reason: reason, state: d.observed(), text: "rolling back: " + l.Reason}
	m := d.rec.Status.Moving
	if m.Refused != "" {
		c.state, c.text = StateBlocked, notDone(m.Refused)
	}
	c.marks = Marks{State: StateIdle, Reason: notLocked(l.Reason), Since: m.At, Build: d.rec.Status.Build}
	if d.rec.Lock != nil {
		c.marks.State, c.marks.Reason = StateRolledBack, d.lockText()
	}
	return c
}

// expectStable records that traffic is to go to stable.
func (d *decider) expectStable(l Lock) {
	if s := &d.rec.Status; !s.Moving.RollsBack() {
		d.supersede("rolling back: " + l.Reason)
		s.Moving = &Moving{From: d.in.Traffic.Weight, At: d.now, By: l.By, Build: s.Build, Reason: l.Reason, Alert: l.Alert, Signal: signalOf(l), Receipt: d.newReceipt(l)}
	}
	d.carry()
}

func notLocked(reason string) string { return "rolled back, not locked: " + reason }

// gone tells of a locked guard one of whose VirtualServices does not exist: where
// there is none, Istio sends requests to all pods of the host, the canary's too.
func (d *decider) gone() choice {
	text := d.in.Gone + untilBack
	if d.was.Status.State != StateBlocked {
		d.note(EventBlocked, "", "locked, and "+text)
	}
	d.doubt = d.doubt || d.was.Status.Reason != text // a cache that lags may not know yet that it is back
	return choice{state: StateBlocked, reason: ReasonBlocked, text: text}
}

// giveUpAfter is how long a rollback without a lock is waited for that nothing asks for
// any more: the replica that has begun it may hear what others do not, and writes the
// record before the VirtualServices.
const giveUpAfter = 10 * time.Second

// justBegun says that a rollback was begun a moment ago, by a clock that may differ.
func (d *decider) justBegun() bool {
	m := d.rec.Status.Moving
	if !m.RollsBack() || d.now.Sub(m.At).Abs() >= giveUpAfter {
		return false
	}
	d.requeueAt(m.At.Add(giveUpAfter))
	return true
}

// giveUp forgets a rollback that nothing asks for any more before it was done:
// without a lock it lasts no longer than its alert.
func (d *decider) giveUp() {
	if d.rec.Status.Moving.RollsBack() {
		text := "the rollback was not done: nothing asks for it any more"
		d.endMoving(ResultRefused, text)
		d.note(EventMissed, "", text)
	}
}

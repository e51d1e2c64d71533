package decision

import "time"

// windowOver says whether the rollback window has ended. After the first sight
// that is for the lease holder to find: two replicas whose clocks differ would
// never agree. Until it has, a rollback is right.
func (d *decider) windowOver() bool {
	switch s := d.rec.Status; {
	case !s.CompletedAt.IsZero():
		return true
	case s.Rolling: // it begins when the build is out
		return false
	case !d.in.Leads && d.was.Status.State != StateUnknown:
		return false
	}
	return !d.now.Before(d.windowEnd())
}

// windowEnd is when the rollback window ends. If the clock was set since the
// last step, what this replica has watched counts.
func (d *decider) windowEnd() time.Time {
	s, was := d.rec.Status, d.was.Status
	began := s.PromotedAt
	if began.Equal(was.PromotedAt) && began.Equal(was.MovedAt) {
		began = d.in.movedAt(d.now)
	}
	return began.Add(d.in.Guard.Rollback.Window)
}

// completed says that the canary has all traffic and has outlived its rollback window.
func (d *decider) completed() bool { return d.in.Traffic.Full() && d.windowOver() }

// complete is a canary that an alert does not roll back any more.
func (d *decider) complete(c choice) choice {
	c.state, c.text = StateCompleted, "canary has had all traffic for longer than rollback.window"
	d.rec.Status.Unverified = false
	d.rec.Status.Promoting = "" // its promotion is over: whoever takes its traffic back makes room for the next build
	d.bake(c.text)
	for _, a := range d.rollback {
		c.reason = ReasonCompleted
		d.doubt = d.doubt || d.isNew(a)
		d.noteAlert(a, "not rolled back: "+c.text)
	}
	return c
}

// bake notes, once for each rollback window, that it is over.
func (d *decider) bake(text string) {
	s := &d.rec.Status
	if !s.CompletedAt.IsZero() {
		return
	}
	s.CompletedAt = d.now
	d.prove()
	if was := d.was.Status.State; was != StateUnknown && was != StateCompleted {
		d.note(EventCompleted, "", text+": an alert is recorded and rolls nothing back any more")
	}
}

// promoted is a canary that has all traffic, and until when an alert rolls it back.
func (d *decider) promoted() (State, string) {
	if end := d.windowEnd(); end.After(d.now) {
		d.requeueAt(end)
	}
	s := d.rec.Status
	until := "; " + d.would("rolled back on an alert", "an alert would roll it back") + " until " + Stamp(s.PromotedAt.Add(d.in.Guard.Rollback.Window))
	if s.Unverified {
		return StateUnverified, "a new build went out without a canary" + until
	}
	return StatePromoted, "canary has all traffic" + until
}

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

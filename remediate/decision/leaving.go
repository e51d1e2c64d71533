package decision

import (
	"slices"
)

// observeLeaving finds out which VirtualServices the configuration has lost.
// Replicas may have different ones for a while: it is the lease holder's to tell.
func (d *decider) observeLeaving() {
	s, g := &d.rec.Status, d.in.Guard
	if !d.in.Leads {
		return
	}
	was, has := s.Moves, slices.Concat(g.VirtualServices, d.rec.Former(g))
	s.Leaving = slices.DeleteFunc(slices.Clone(s.Leaving), func(l Leaving) bool { return slices.Contains(has, l.VirtualService) })
	if was != nil {
		for _, name := range notIn(was.VirtualServices, has) {
			s.leave(name)
		}
		s.Moves = MovesOf(g)
	}
	if l := d.rec.Lock; l != nil { // stable may be another by now, or somebody has edited them
		l.Stable, l.Canary = g.Stable.String(), g.Canary.String()
	}
	for _, c := range d.rec.Changed {
		if !slices.Contains(has, c.VirtualService) {
			s.leave(c.VirtualService)
		}
	}
	if len(s.Leaving) == 0 {
		s.Leaving = nil
	}
}

// former are the names of what the lock goes on to cover. What does not exist, by
// a cache that may lag, is kept.
func (d *decider) former() []string {
	names := d.rec.Former(d.in.Guard)
	if d.in.Live {
		return notIn(names, d.in.FormerGone)
	}
	return names
}

// letGo says that what the configuration does not have any more is given back, as
// giveBack does with the rest: not while an alert fires, or another's lock denies this canary.
func (d *decider) letGo() bool {
	switch {
	case len(d.rec.Status.Leaving) == 0 || d.alertFiring() || d.paused() || d.observing() || len(d.in.Foreign) > 0 || d.in.Unlisted != "":
	case d.now.Before(d.in.LeaveAt):
		if d.in.Leads {
			d.requeueAt(d.in.LeaveAt)
		}
	case !d.in.Live:
		d.wantLive = true
	default:
		return true
	}
	return false
}

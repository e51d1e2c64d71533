package decision

import (
	"maps"
	"time"
)

// throttle leaves words and numbers of a moment ago in the record when they
// alone are new. Each write has the guard looked at again, by every replica:
// what is different each time that somebody is asked, or in the eyes of two
// replicas with different configurations, would never come to rest. While
// nothing else changes, words are the lease holder's to choose.
func (d *decider) throttle() {
	s, was := &d.rec.Status, d.was.Status
	if s.sameVolatileText(was) && d.rec.Message == d.was.Message {
		return
	}
	if !sameButVolatileText(d.was, d.rec) {
		if s.Waiting != was.Waiting || !s.sameTally(was) {
			s.ToldAt = d.now
		}
		return
	}
	if !d.in.Leads {
		s.Reason, s.HeldBy, d.rec.Message = was.Reason, was.HeldBy, d.was.Message
	}
	if ago := d.now.Sub(was.ToldAt); ago > -clocksDiffer && ago < PollForward {
		s.takeVolatileText(was)
		d.rec.Message = d.was.Message
		d.requeueAt(was.ToldAt.Add(PollForward))
		return
	}
	if !d.in.Leads && s.Ready == was.Ready {
		return
	}
	s.ToldAt = d.now
}

// sameVolatileText says that another status says the same in words and numbers.
func (s *Status) sameVolatileText(o Status) bool {
	return s.Reason == o.Reason && s.HeldBy == o.HeldBy && s.Waiting == o.Waiting && s.Thin == o.Thin && s.Ready == o.Ready && s.sameTally(o)
}

func (s *Status) sameTally(o Status) bool {
	counted, _ := s.tally()
	before, _ := o.tally()
	return counted == before
}

// takeVolatileText takes over what another status says in words and numbers.
func (s *Status) takeVolatileText(o Status) {
	s.Reason, s.HeldBy, s.Waiting, s.Ready, s.Thin, s.ToldAt = o.Reason, o.HeldBy, o.Waiting, o.Ready, o.Thin, o.ToldAt
	s.setTally(o.tally())
}

// clocksDiffer is by how much the clocks of two replicas may.
const clocksDiffer = time.Minute

// sameButVolatileText says that two records differ at most in words and numbers that
// nothing is decided by.
func sameButVolatileText(a, b Record) bool {
	if a.Status.State != b.Status.State || (a.Lock == nil) != (b.Lock == nil) {
		return false // as in each pass of a rollback, where to write both down takes longer than to decide
	}
	b.Message = a.Message
	b.Status.takeVolatileText(a.Status)
	return maps.Equal(a.Data(), b.Data())
}

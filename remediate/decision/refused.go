package decision

import "time"

// WhenRefused is the decision when the API server has refused what it writes to the
// VirtualServices: the record says so, and it is tried again.
func (d Decision) WhenRefused(in Input, why string, now time.Time) Decision {
	why = Shorten(why)
	was := d.Record
	d.Record = was.Clone()
	s := &d.Record.Status
	d.Added = nil
	switch {
	case d.Move == MoveForward:
		d.Record.refuseStep(why)
	case d.Move == MoveStable:
		if s.Moving == nil {
			s.Moving = &Moving{From: in.Traffic.Weight, At: now, Build: s.Build, Reason: string(ReasonReassert), Signal: "other", Again: true}
		}
		s.Moving.Refused = why
		if s.State != StateBlocked {
			s.Since = now
		}
		s.State, s.Reason = StateBlocked, notDone(why)
		s.Weight, s.Spread = in.Traffic.Weight, max(0, in.Traffic.Weight-in.Traffic.Lowest)
		if was.Status.State != StateBlocked || was.Status.Moving == nil || was.Status.Moving.Refused == "" {
			d.Record.History = append(d.Record.History, HistoryEntry{At: now, State: StateBlocked, Event: EventBlocked, From: s.Weight, To: s.Weight,
				Build: s.Build, Alert: s.Moving.Alert, Reason: "rollback " + s.Reason})
		}
		if l := d.Record.Lock; l != nil {
			d.Record.Message = lockMessage(in, *l, lockBlocked(in.Guard, *l, s.Reason))
		}
	}
	d.Added = d.Record.History[len(was.History):]
	return d
}

// refuseStep records that the API server does not take a step.
func (r *Record) refuseStep(why string) {
	s := &r.Status
	if s.Moving == nil {
		return
	}
	s.Moving.Refused = why
	s.NextStep, s.WaitingFor, s.Waiting = s.Moving.Step, WaitVirtualService, refusedStep(s.Moving)
}

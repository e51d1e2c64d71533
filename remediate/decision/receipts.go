package decision

import (
	"slices"
	"time"
)

// newReceipt is what is known of a rollback as it is decided, besides what Moving
// has.
func (d *decider) newReceipt(l Lock) *Receipt {
	r := &Receipt{Lock: d.in.Guard.Rollback.Lock, Seen: d.now, Shifted: d.in.Shifted}
	for _, a := range d.rollback {
		if l.By == ByAlert && a.Fingerprint == l.Fingerprint && a.Name == l.Alert {
			r.Fired, r.Limit, r.Seen, r.Links = a.StartsAt, a.Limit, d.seen(a), a.links()
			break
		}
	}
	if t, over := d.was.Status.tally(); !over.At.IsZero() && !over.Since.Before(d.was.Status.MovedAt) {
		r.Requests, r.Failed, r.Counted = t.Requests, t.Failed, over
	} else if !d.was.Status.MovedAt.IsZero() {
		r.Counted.Since = d.in.movedAt(d.now)
	}
	return r
}

// keepReceipt has the record tell of a rollback that was seen to be done.
func (d *decider) keepReceipt(m *Moving) {
	r := Receipt{Lock: d.in.Guard.Rollback.Lock}
	if m.Receipt != nil {
		r = *m.Receipt.clone()
	}
	r.Build, r.By, r.Reason, r.Alert, r.Signal, r.From = m.Build, m.By, m.Reason, m.Alert, m.Signal, m.From
	if l := d.rec.Lock; l != nil {
		r.Lock, r.Refused = l.Kind, slices.Clone(l.Refused)
	}
	if r.Written = d.now; !d.in.Wrote.Before(m.At) && d.in.Wrote.Before(d.now) {
		r.Written = d.in.Wrote.UTC()
	}
	if d.in.Links != nil {
		r.Links = append(d.in.Links(r.first().Add(-linkMargin), r.Written.Add(linkMargin)), r.Links...)
	}
	r.Open = true
	d.rec.Receipt = &r
}

// seen is when an alert was first received by any replica.
func (d *decider) seen(a Alert) time.Time {
	seen := d.now
	if !a.Received.IsZero() && a.Received.Before(seen) {
		seen = a.Received.UTC()
	}
	for _, f := range d.was.Status.Firing {
		if f.Episode == a.Episode() && f.Seen.Before(seen) {
			seen = f.Seen
		}
	}
	return seen
}

// clampFuture has what lies in the future, by the clock of a replica that was ahead, be
// now: it would be asked about only then, and of a time that is not over.
func (r *Receipt) clampFuture(now time.Time) {
	for _, t := range []*time.Time{&r.Seen, &r.Written, &r.Counted.Since} {
		if t.Sub(now) > ClockTolerance {
			*t = now
		}
	}
}

// closeReceipt fills in what shows only after a rollback: in one write, as soon as
// the canary's last request has been counted, or when that has taken too long. It is
// the lease holder's to do.
func (d *decider) closeReceipt() {
	r := d.rec.Receipt
	if r == nil || !r.Open || !d.in.Leads || d.in.AskAfter.IsZero() {
		return
	}
	r.clampFuture(d.now)
	due := r.Written.Add(afterFirst)
	if d.in.AskAfter.After(due) {
		due = d.in.AskAfter
	}
	a := d.in.After
	if d.in.Next != nil || d.turned() { // who is asked goes by the configuration's pair
		a = &After{Never: true, Err: anotherCanary}
	}
	switch {
	case a == nil && d.now.Before(due):
		d.requeueAt(due)
		return
	case a == nil && d.in.Busy:
		d.requeueAt(d.now.Add(pollBusy))
		return
	case a == nil:
		d.wantAfter = true
		d.requeueAt(d.now.Add(afterPoll))
		return
	}
	end := a.Never || !d.now.Before(r.Written.Add(afterMost)) || d.hasCanaryTraffic()
	if a.Felt.IsZero() && !end {
		d.requeueAt(d.now.Add(afterPoll))
		return
	}
	r = r.clone()
	r.close(*a, d.now, d.hasCanaryTraffic())
	d.rec.Receipt = r
}

// tellLinks has the status lead to what shows the trouble, from the write that begins
// it: a rollback's receipt comes only once that is done.
func (d *decider) tellLinks() {
	switch s := &d.rec.Status; {
	case !d.rec.Troubled():
		s.Links = nil
	case len(s.Links) == 0 && d.in.Links != nil:
		s.Links = d.in.Links(d.now.Add(-linkMargin), d.now.Add(linkMargin))
		for _, a := range slices.Concat(d.rollback, d.holds) {
			if a.Traces != "" {
				s.Links = append(s.Links, a.links()...)
				return
			}
		}
	}
}

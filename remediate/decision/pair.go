package decision

import (
	"fmt"
	"time"

	"github.com/canary-guardian/guardian/remediate/virtualservice"
)

// observePair begins anew where the configuration has another stable or canary than
// the record tells of: its builds and weights are of others, and the old build of
// a side that has become the canary is no new one. Replicas read their
// configurations one after the other, so it is the lease holder's to tell, and one of
// another pair only hears until then: see behind. A lock is lifted first.
func (d *decider) observePair() {
	if d.rec.Status.State == StateUnknown || !d.otherPair() {
		return
	}
	d.exchange(MovesOf(d.in.Guard))
}

// exchange begins anew with another pair, which is what the configuration has.
func (d *decider) exchange(is *Moves) {
	was := *d.rec.Status.Moves
	e := d.entry(EventExchanged, "", fmt.Sprintf("the configuration has stable %s and canary %s, and had %s and %s: builds and weights are looked at anew",
		is.Stable, is.Canary, was.Stable, was.Canary)+d.keepWithStable(was, *is))
	e.From, e.Build = e.To, ""
	d.rec.History = append(d.rec.History, e)
	d.supersede("the configuration has another stable or canary")
	d.startAnew()
	d.rec.Status.Moves = &Moves{VirtualServices: was.VirtualServices, Stable: is.Stable, Canary: is.Canary}
}

// keepWithStable has what the rollback of another canary has led to stable stay there: it
// would be given to a canary that has failed, or that is stable now. It tells of that;
// "": there is nothing.
func (d *decider) keepWithStable(was, is Moves) string {
	_, former, _ := was.pair()
	if _, canary, _ := is.pair(); virtualservice.SameRef(former, canary, d.in.Guard.Namespace, "") {
		return ""
	}
	stable := "stable"
	if was.Stable != is.Stable {
		stable = was.Stable + ", which was stable"
	}
	stays := d.staysWith(stable, was.Canary)
	d.rec.Changed = nil
	return stays
}

// staysWith tells what is not given back to a canary; "": there is nothing.
func (d *decider) staysWith(stable, canary string) string {
	if len(d.rec.Changed) == 0 {
		return ""
	}
	return "; testers' routes and mirrors that led to " + canary + " stay with " + stable
}

// holdTurned is a pass over a guard whose stable is what its lock denies. Nothing is
// moved, and the lock goes on speaking of what it did. That it is blocked is the lease
// holder's to tell, and to take back: see rest.
func (d *decider) holdTurned() choice {
	d.dropAsked("locked: " + d.rec.Lock.Reason)
	g, was := d.in.Guard, d.rec.Status.Moves
	why := fmt.Sprintf("stable %s is what the lock denies: unlock, or have stable and canary be what they were", g.Stable)
	if was != nil && was.Canary != g.Canary.String() {
		why += fmt.Sprintf(" (%s and %s)", was.Stable, was.Canary)
	}
	why += "; " + d.rec.Lock.Reason
	for _, a := range d.rollback {
		d.noteAlert(a, "not rolled back: "+why)
	}
	s := d.was.Status
	armed := s.State == StateDisarmed && d.rec.Status.Disarmed == nil // whichever replica has seen to that
	if !d.in.Leads && s.State != StateUnknown && !armed {             // one with the file of before would take it back
		return choice{state: s.State, reason: ReasonBlocked, text: s.Reason}
	}
	if s.State != StateBlocked || s.Reason != why {
		d.note(EventBlocked, "", why)
	}
	return choice{state: StateBlocked, reason: ReasonBlocked, text: why}
}

// startAnew forgets what is known of builds and weights: they are of another pair.
func (d *decider) startAnew() {
	s := &d.rec.Status
	s.State, s.Build, s.Promoting, s.Splits, s.Waited, s.Served = StateUnknown, "", "", nil, nil, nil
	s.Fresh, s.Unverified, s.PromotedAt, s.CompletedAt = false, false, time.Time{}, time.Time{}
	s.AloneSince = d.now
	s.Capacity = Capacity{} // of a stable that is another's now
	if r := d.rec.Receipt; r != nil && r.Open {
		r.close(After{Never: true, Err: anotherCanary}, d.now, false)
	}
}

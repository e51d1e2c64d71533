package decision

import (
	"cmp"
	"slices"
)

// blamed are the builds that a rollback refuses: those that had ready pods while
// the alert's requests were made. One that has been proven is not to blame for
// what began later, unless nothing else served; for a person it may well be. A
// refused build that is back takes no other with it.
func (d *decider) blamed(l Lock, reason Reason) []string {
	out := d.in.Canary.readyBuilds()
	if reason == ReasonRefusedBuild {
		return slices.DeleteFunc(out, func(b string) bool { return !slices.Contains(d.rec.Refused, b) })
	}
	from := d.now
	if reason == ReasonAlert && l.StartsAt.Before(d.now) {
		from = l.StartsAt
	}
	if reason == ReasonAlert {
		from = from.Add(-d.in.Guard.AlertWindow)
	}
	for _, b := range d.rec.Status.Served {
		if b.Still() || b.Until.After(from) && reason == ReasonAlert {
			out = append(out, b.Build)
		}
	}
	slices.Sort(out)
	out = slices.Compact(out)
	if reason == ReasonAlert {
		unproven := slices.DeleteFunc(slices.Clone(out), d.proven)
		if len(unproven) > 0 {
			return unproven
		}
	}
	return out
}

// lockBuilds fills in what a new lock refuses, and what is only coming. One that
// could not be recorded goes on refusing what it did, whatever has ready pods now.
func (d *decider) lockBuilds(l *Lock, reason Reason) {
	if reason != ReasonFinish || len(l.Refused) == 0 { // else it is set again, as it was
		l.Refused = d.blamed(*l, reason)
	}
	l.Coming = nil
	d.refuse(l.Refused...)
	for _, b := range d.in.Canary.Builds {
		if !d.everReady(b) && !slices.Contains(l.Refused, b) {
			l.Coming = append(l.Coming, b)
		}
	}
	switch s := d.rec.Status; {
	case slices.Contains(l.Refused, s.Build):
		l.Build = s.Build
	case len(l.Refused) > 0:
		l.Build = l.Refused[0]
	}
}

// takesOn says that the schedule may go on with what is there when the lock is over: a
// build that is only coming, and none beside it that is refused. Of several workloads each
// has one.
func (l Lock) takesOn(w Workload) bool {
	in := func(builds []string) bool {
		return slices.ContainsFunc(w.Builds, func(b string) bool { return slices.Contains(builds, b) })
	}
	return in(l.Coming) && !in(l.Refused)
}

// joinLock adds to a lock what keeps it: builds that were refused before and are
// back, and those that served already when it was set, which the caches had not
// told of.
func (d *decider) joinLock() {
	l := d.rec.Lock
	if l == nil {
		return
	}
	if len(l.Refused) == 0 && l.Build != "" { // as it was written before locks had a list
		l.Refused = []string{l.Build}
	}
	// Only a hand makes it longer. It is cut before and after builds are added to it, or
	// each pass would write another list.
	l.Refused = l.Refused[max(0, len(l.Refused)-maxLockRefused):]
	d.refuse(l.Refused...) // a list that was lost, or edited, is no reason to let go
	if d.observing() {
		return // it stays as it stands
	}
	for _, b := range d.in.Canary.readyBuilds() {
		late := l.By != ByRefused && !d.proven(b) && !d.younger(b)
		if !slices.Contains(l.Refused, b) && (late || slices.Contains(d.rec.Refused, b)) {
			l.Refused = append(l.Refused, b)
			l.Build = cmp.Or(l.Build, b)
			d.refuse(b)
		}
	}
	l.Refused = l.Refused[max(0, len(l.Refused)-maxLockRefused):]
}

// takeOver makes another record's lock on this canary this guard's own: of a
// guard that has been renamed, or of one that leads to the same pods. One of
// before this guard's own last lock was lifted is of the past.
func (d *decider) takeOver() {
	if d.rec.Lock != nil || d.in.Guard.Rollback.Lock == LockNone || d.observing() {
		return
	}
	for _, f := range d.in.Foreign {
		if !f.Lock.Since.After(d.rec.Status.LiftedAt) {
			continue
		}
		l := f.Lock
		l.From, l.Refused, l.Coming = f.Guard, slices.Clone(l.Refused), slices.Clone(l.Coming)
		l.of(d.in.Guard)
		if len(l.Refused) == 0 && l.Build != "" {
			l.Refused = []string{l.Build}
		}
		d.rec.Lock, d.rec.Status.Taken = &l, &Taken{Guard: f.Guard, Since: l.Since}
		d.refuse(l.Refused...)
		d.note(EventLocked, l.By, "the lock of guard "+f.Guard+" denies this canary and counts here as well: "+l.Reason)
		return
	}
}

// lockText is why the guard is locked, and what keeps it so that is not seen at
// once.
func (d *decider) lockText() string {
	text := d.rec.Lock.Reason
	if d.in.Stable.Overlap != "" {
		text += "; " + d.in.Stable.Overlap
	}
	for _, u := range d.in.Unread {
		text += "; VirtualService " + u.VirtualService + ", which the lock covers, " + u.Why
	}
	if d.rec.Lock.Kind == LockBuild && len(d.in.Canary.Untold) > 0 {
		text += "; " + d.in.Canary.untold()
	}
	return text + d.nextText()
}

// takeUpLock takes a lock up again that stands on a VirtualService and that the
// record does not know of, because it is lost or an older copy of it was
// restored. What the record has seen lifted stays lifted.
func (d *decider) takeUpLock() {
	m := d.in.Marked
	if m == nil || d.unrecorded(cmp.Or(d.in.Canary.Build, d.rec.Status.Build)) != nil || d.rec.Lock != nil || !m.Since.After(d.rec.Status.LiftedAt) {
		return
	}
	l := Lock{Kind: d.in.Guard.Rollback.Lock, Build: m.Build, Since: m.Since, By: ByAnnotation, Reason: m.reason()}
	if l.Kind == LockNone { // it was set when the configuration was another
		l.Kind = LockBuild
	}
	if l.Since.Sub(d.now) > ClockTolerance {
		l.Since = d.now
	}
	l.Refused = m.refused()
	if l.Stable, l.Canary = d.pairOf(*m); l.Canary == d.in.Guard.Canary.String() && len(d.in.Deny) > 0 {
		l.Also = d.besides(m.Canary) // such as a canary before this one, whose lock went over
	}
	d.rec.Lock = &l
	d.refuse(l.Refused...)
	d.rec.Message = m.Message // until it is written anew
	d.rec.Denies(m.Canary, m.Stable, Rollback{MatchRoutes: m.MatchRoutes, Mirrors: m.Mirrors})
	d.note(EventLocked, ByAnnotation, "the record did not know of the lock that annotation "+LockKey(d.in.Guard.Name)+" tells of: "+l.Reason)
}

// unrecorded is the lock that the record lacks, if it is of this build, or of that of
// one of several workloads: one of another build is not set again, and is no reason to
// pass over what the VirtualService says.
func (d *decider) unrecorded(build string) *Lock {
	l := d.in.Unrecorded
	if l == nil || l.Kind != d.in.Guard.Rollback.Lock || l.Canary != "" && l.Canary != d.in.Guard.Canary.String() {
		return nil
	}
	refuses := func(b string) bool { return slices.Contains(l.Refused, b) }
	if l.Build == build || len(d.in.Canary.Builds) > 1 && slices.ContainsFunc(d.in.Canary.Builds, refuses) {
		return l
	}
	return nil
}

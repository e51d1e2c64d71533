package decision

import (
	"cmp"
	"slices"
	"time"
)

const (
	maxServed    = 16
	maxProven    = 16
	maxRevisions = 32
)

// observeBuilds brings the record's memory of builds up to date: what they are
// called, and which of them have served.
func (d *decider) observeBuilds() {
	d.observeRevisions()
	d.observeServed()
}

// observeRevisions notes what builds are called. Where there are more names than the
// record holds, those go that the canary has no more.
func (d *decider) observeRevisions() {
	s, c := &d.rec.Status, d.in.Canary
	for _, r := range c.Revisions {
		if !slices.ContainsFunc(s.Revisions, func(have Revision) bool { return have.Name == r.Name }) {
			s.Revisions = append(s.Revisions, r)
		}
	}
	for i := 0; len(s.Revisions) > maxRevisions && i < len(s.Revisions); {
		if slices.Contains(c.Revisions, s.Revisions[i]) {
			i++
			continue
		}
		s.Revisions = slices.Delete(s.Revisions, i, i+1)
	}
}

// observeServed notes which builds have served. What a replica sees it adds; what it
// does not see may be its cache's lag, and is the lease holder's to take away.
func (d *decider) observeServed() {
	s, c := &d.rec.Status, d.in.Canary
	ready, traffic := c.readyBuilds(), d.hasCanaryTraffic() && d.rec.Lock == nil
	for _, b := range ready {
		i := slices.IndexFunc(s.Served, func(have Served) bool { return have.Build == b })
		if i < 0 {
			i = len(s.Served)
			s.Served = append(s.Served, Served{Build: b})
		}
		if have := &s.Served[i]; traffic && !have.Still() {
			have.From, have.Until = d.now, time.Time{}
		}
	}
	serves := func(b string) bool { return slices.Contains(ready, b) || slices.Contains(c.Builds, b) }
	for i := range s.Served {
		if b := &s.Served[i]; b.Still() && (!traffic || d.in.Leads && !serves(b.Build)) {
			b.Until = d.now
		}
	}
	over := func(b Served) bool {
		return d.in.Leads && !serves(b.Build) && !b.Still() && d.now.Sub(b.Until) > d.in.Guard.AlertWindow
	}
	s.Served = slices.DeleteFunc(s.Served, over)
	s.Served = s.Served[max(0, len(s.Served)-maxServed):]
}

// everReady says whether a present build has had a ready pod.
func (d *decider) everReady(build string) bool {
	return slices.ContainsFunc(d.rec.Status.Served, func(b Served) bool { return b.Build == build })
}

// prove remembers builds that have stood their rollback window out.
func (d *decider) prove() {
	s := &d.rec.Status
	for _, b := range d.in.Canary.Running {
		if !slices.Contains(s.Proven, b) && !slices.Contains(d.rec.Refused, b) {
			s.Proven = append(s.Proven, b)
		}
	}
	s.Proven = s.Proven[max(0, len(s.Proven)-maxProven):]
}

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

func (d *decider) proven(build string) bool { return slices.Contains(d.rec.Status.Proven, build) }

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

// younger says whether a build came after the lock: its pods were made since, or
// it was on its way then, with a template and no pod that was ready yet. That the
// template is older is no matter, for an undo goes back to an old one.
func (d *decider) younger(build string) bool {
	l, age := d.rec.Lock, d.in.Canary.Ages[build]
	after := func(t time.Time) bool { return !t.IsZero() && l.Since.Sub(t) < ClockTolerance }
	return after(age.Made) || slices.Contains(l.Coming, build) && after(age.Ready)
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
	l.Stable, l.Canary = d.pairOf(*m)
	d.rec.Lock = &l
	d.refuse(l.Refused...)
	d.rec.Message = m.Message // until it is written anew
	d.rec.Denies(m.Canary, m.Stable, Rollback{MatchRoutes: m.MatchRoutes, Mirrors: m.Mirrors})
	d.note(EventLocked, ByAnnotation, "the record did not know of the lock that annotation "+LockKey(d.in.Guard.Name)+" tells of: "+l.Reason)
}

// unrecorded is the lock that the record lacks, if it is of this build: one of
// another build is not set again, and is no reason to pass over what the
// VirtualService says.
func (d *decider) unrecorded(build string) *Lock {
	if l := d.in.Unrecorded; l != nil && l.Kind == d.in.Guard.Rollback.Lock && l.Build == build && (l.Canary == "" || l.Canary == d.in.Guard.Canary.String()) {
		return l
	}
	return nil
}

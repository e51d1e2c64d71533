package decision

import (
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
	ready, traffic := d.in.Canary.readyBuilds(), d.hasCanaryTraffic() && d.rec.Lock == nil
	d.addServed(ready, traffic)
	d.endServed(ready, traffic)
	s := &d.rec.Status
	s.Served = s.Served[max(0, len(s.Served)-maxServed):]
}

// addServed notes builds that are ready, and from when on they have traffic.
func (d *decider) addServed(ready []string, traffic bool) {
	s := &d.rec.Status
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
}

// endServed notes until when builds had traffic, and forgets those that no alert can be
// about any more.
func (d *decider) endServed(ready []string, traffic bool) {
	s, c := &d.rec.Status, d.in.Canary
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

func (d *decider) proven(build string) bool { return slices.Contains(d.rec.Status.Proven, build) }

// younger says whether a build came after the lock: its pods were made since, or
// it was on its way then, with a template and no pod that was ready yet. That the
// template is older is no matter, for an undo goes back to an old one.
func (d *decider) younger(build string) bool {
	l, age := d.rec.Lock, d.in.Canary.Ages[build]
	after := func(t time.Time) bool { return !t.IsZero() && l.Since.Sub(t) < ClockTolerance }
	return after(age.Made) || slices.Contains(l.Coming, build) && after(age.Ready)
}

// refuse puts builds on the refused list. What has been proven of them before is
// refuted.
func (d *decider) refuse(builds ...string) {
	for _, b := range builds {
		if b != "" && !slices.Contains(d.rec.Refused, b) {
			d.rec.Refused = append(d.rec.Refused, b)
		}
	}
	d.rec.Status.Proven = slices.DeleteFunc(d.rec.Status.Proven, func(b string) bool { return slices.Contains(builds, b) })
	if over := len(d.rec.Refused) - maxRefused; over > 0 {
		d.rec.Refused = slices.Delete(d.rec.Refused, 0, over)
	}
}

// allowBuild takes builds off the refused list.
func (d *decider) allowBuild(builds ...string) {
	d.rec.Refused = slices.DeleteFunc(d.rec.Refused, func(b string) bool { return slices.Contains(builds, b) })
}

// refusedBefore is the reason of a lock that a refused build has set.
func refusedBefore(build string) string {
	return "build " + build + " was rolled back before and has not been unlocked"
}

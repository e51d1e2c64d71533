package decision

import (
	"slices"
	"time"
)

// observe is the first stage: it brings the record up to date with what is there,
// and takes a person's request off it.
func (d *decider) observe() {
	d.clampFutureTimes()
	if d.readMode(); d.behind() {
		return // what is there is for a replica to tell that is not
	}
	d.takeUpLock()
	d.noteUnreadable()
	d.rec.Status.PausedOnVS = d.in.Paused // also of what is not looked at
	if d.unread() {
		return // what is there is of another pair than the lock
	}
	d.observePair()
	if !d.turned() {
		d.observeCluster()
	}
	d.endDisarm()
	d.readRequest()
}

// noteUnreadable tells of keys of the record that are begun anew.
func (d *decider) noteUnreadable() {
	for _, why := range d.in.Unreadable {
		d.rec.Status.Noted = nil // what fires is told anew
		if o := d.rec.Status.Observing; o != nil && o.Would != nil {
			o.Would.Episode = ""
		}
		d.note(EventUnreadable, "", "the record was not readable as a whole, what was not is begun anew: "+Shorten(why))
	}
}

// observeCluster brings the record's view of builds, weights and locks up to date.
func (d *decider) observeCluster() {
	s, in := &d.rec.Status, d.in
	first := s.State == StateUnknown
	if first {
		s.FirstSeen = d.now
	}
	if in.Canary.Build != "" && in.Canary.Build != s.Build {
		d.observeBuild(first)
	}
	d.observeRollout(first)
	d.observeLeaving()
	d.observeSplits(first)
	d.observeWeight(first)
	d.observeCarried(first)
	d.observeBuilds()
	d.takeOver()
	d.joinLock()
	s.Ready = ReadyInfo{Stable: in.Stable.Ready, Canary: in.Canary.Ready}
}

// observeBuild takes down the present build, which is not the record's.
func (d *decider) observeBuild(first bool) {
	s, in := &d.rec.Status, d.in
	fresh := !first && (s.Build != "" || d.isFirst())
	appeared := d.now
	if in.Canary.Since.After(s.BuildSince) && in.Canary.Since.Before(d.now) {
		appeared = in.Canary.Since
	}
	if fresh {
		s.AloneSince = s.ServesSince()
	}
	s.Build, s.BuildSince, s.Promoting = in.Canary.Build, appeared, ""
	s.Waited = nil
	if !fresh {
		return
	}
	s.Fresh, s.Rolling = true, true
	if in.Traffic.Weight > 0 {
		s.MovedAt = d.now // what the build before has proved says nothing of this one
	}
	if d.in.Guard.Promotion.Mode == PromotionAuto {
		s.Promoting = s.Build
	}
	d.note(EventNewBuild, "", "new build "+s.Build+" of the canary")
	if in.Traffic.Full() && s.Full {
		s.PromotedAt, s.CompletedAt, s.Unverified = d.now, time.Time{}, true
		d.note(EventUnverified, "", "build "+s.Build+" went out without a canary: the canary already had all traffic")
	}
}

// observeRollout takes down whether the build is still on its way out, and when it
// has come.
func (d *decider) observeRollout(first bool) {
	s, in := &d.rec.Status, d.in
	switch done := in.Canary.rolledOut(); {
	case first:
		s.Rolling = s.Build != "" && !done
	case s.Rolling && done:
		s.Rolling, s.AloneSince = false, later(s.ServesSince(), d.rolloutEnd())
		if in.Traffic.Full() {
			s.PromotedAt, s.CompletedAt = d.now, time.Time{}
		} else if in.Traffic.Weight > 0 {
			s.MovedAt = d.now // until now the build before has answered as well
		}
	}
}

// rolloutEnd is when other builds' pods had answered last, as far as is known. It goes by when the last of the present ones became
// ready, for guardian may look late, and what comes back after a build that never came was not away. Where another build began to
// answer after that, and nobody saw it end, it is now.
func (d *decider) rolloutEnd() time.Time {
	var end time.Time
	for _, b := range d.in.Canary.Builds {
		end = later(end, d.in.Canary.Ages[b].Last)
	}
	if end.IsZero() || end.After(d.now) {
		return d.now
	}
	for _, other := range d.rec.Status.Served {
		switch {
		case slices.Contains(d.in.Canary.Builds, other.Build):
		case other.Still() && other.From.After(end):
			return d.now
		default:
			end = later(end, other.Until)
		}
	}
	return end
}

// isFirst says that there was no workload when the guard was first looked at, so
// that the one there is now is new.
func (d *decider) isFirst() bool {
	seen, c := d.rec.Status.FirstSeen, d.in.Canary
	after := func(t time.Time) bool { return !t.IsZero() && seen.Sub(t) < ClockTolerance }
	return !seen.IsZero() && (after(c.First) || after(c.Since))
}

// clampFutureTimes has what lies in the future, by the clock of a replica that was
// ahead, be now: all alerts would have begun before such a build or unlock, and
// none be over, and a build that is long gone would be to blame for what fails now.
func (d *decider) clampFutureTimes() {
	s := &d.rec.Status
	times := []*time.Time{&s.BuildSince, &s.AloneSince, &s.UnlockedAt, &s.EnforcedAt}
	for i := range s.Firing {
		times = append(times, &s.Firing[i].Seen)
	}
	for i := range s.Served {
		times = append(times, &s.Served[i].From, &s.Served[i].Until)
	}
	for _, t := range times {
		if t.Sub(d.now) > ClockTolerance {
			*t = d.now
		}
	}
}

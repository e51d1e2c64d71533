package decision

import (
	"fmt"
	"slices"
	"time"

	"github.com/canary-guardian/guardian/remediate/virtualservice"
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
	switch done := in.Canary.Complete && in.Canary.Ready > 0 && in.Canary.Current == in.Canary.Ready; {
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

// observeSplits remembers which routes of testers have been seen to split: at the
// end of their way they look like those that always were the canary's. At first
// sight nobody knows, and to give nothing back is the safe way.
func (d *decider) observeSplits(first bool) {
	s, t := &d.rec.Status, d.in.Testers
	seen := t.Splitting
	if first && d.in.Traffic.Full() {
		seen = slices.Concat(seen, t.Whole)
	}
	s.Splits = virtualservice.RememberSplits(s.Splits, seen, t.All)
}

// observeWeight brings the record's view of the weights up to date.
func (d *decider) observeWeight(first bool) {
	s, w, full := &d.rec.Status, d.in.Traffic.Weight, d.in.Traffic.Full()
	spread := max(0, w-d.in.Traffic.Lowest)
	if first {
		s.Weight, s.Spread, s.Full, s.MovedAt = w, spread, full, d.now
		if full {
			s.PromotedAt = d.now // for all that is known: a record may have been lost
		}
		return
	}
	if d.rec.Lock != nil && s.Weight == 0 && w > 0 {
		// A re-assertion: the record goes on saying 0, so that a storm of
		// them costs no write each.
		return
	}
	if w != s.Weight || spread != s.Spread {
		d.observeShift(w, spread)
	}
	if full != s.Full {
		d.observeFull(full)
	}
}

// observeShift takes down weights that are not the record's: guardian's own, which
// are confirmed by it, or others'.
func (d *decider) observeShift(w, spread int) {
	s := &d.rec.Status
	own, done := d.expected()
	if !own {
		d.note(EventShifted, "", d.shifted(w, spread))
	}
	begins := !own && (w > s.Weight || d.in.Traffic.Lowest > s.Weight-s.Spread)
	if begins && d.rec.Lock == nil && d.in.Guard.Promotion.Mode == PromotionAuto {
		s.Promoting = s.Build // CI has begun, or stepped in: go on from here
	}
	s.Weight, s.Spread, s.Fresh = w, spread, false
	if !own || done {
		s.MovedAt, s.Waited = d.now, nil
	}
	switch {
	case s.Moving.RollsBack(): // until nothing leads to the canary any more
	case own && done:
		d.confirmStep()
	case !own && s.Moving != nil:
		d.endMoving(ResultRefused, fmt.Sprintf("the step to %d%% was not made: others moved the canary to %d%%", s.Moving.Step, w))
	}
}

// observeFull takes down that the canary has come to have all traffic, or has not any
// more.
func (d *decider) observeFull(full bool) {
	s := &d.rec.Status
	s.Full, s.Unverified, s.PromotedAt, s.CompletedAt = full, false, time.Time{}, time.Time{}
	if full {
		s.PromotedAt = d.now
	}
	if full && d.rec.Lock == nil {
		d.note(EventPromoted, "", "canary has all traffic; an alert "+d.would("rolls it back", "would roll it back")+" until "+Stamp(d.now.Add(d.in.Guard.Rollback.Window)))
	}
}

// expected says whether new weights are those that guardian is moving to, and
// whether all of the guard's VirtualServices have them.
func (d *decider) expected() (own, done bool) {
	s, t := d.rec.Status, d.in.Traffic
	if s.Moving == nil {
		return false, false
	}
	e := s.Moving.To
	if s.Moving.RollsBack() {
		return t.Lowest == 0 && t.Weight <= s.Weight, t.Weight == 0
	}
	done = t.Lowest >= s.Moving.Step // it may reach more than it asks for
	return t.Weight == e && (done || t.Weight != s.Weight), done
}

// takeWeight records a weight that observeWeight has passed over.
func (d *decider) takeWeight() {
	s, t := &d.rec.Status, d.in.Traffic
	if s.Weight == t.Weight {
		return
	}
	s.Weight, s.Spread, s.MovedAt = t.Weight, max(0, t.Weight-t.Lowest), d.now
}

// shifted tells of a change of weights that was not guardian's.
func (d *decider) shifted(w, spread int) string {
	s := d.rec.Status
	text := fmt.Sprintf("canary went from %d%% to %d%%", s.Weight, w)
	if w == s.Weight {
		text = fmt.Sprintf("canary's lowest route went from %d%% to %d%%", s.Weight-s.Spread, w-spread)
	}
	if m := s.Moving; m != nil && m.To > s.Weight {
		text += fmt.Sprintf("; the step to %d%% was not made", m.Step)
	}
	return text
}

package decision

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/canary-guardian/guardian/remediate/virtualservice"
)

// PollCount is how often a canary's requests are counted while it has traffic.
const PollCount = 15 * time.Second

// pollBusy is how often a guard that has to wait for its turn to ask looks
// whether it has come.
const pollBusy = 2 * time.Second

// PollForward is how often a step that waits for live answers asks again.
const PollForward = 10 * time.Second

const (
	maxRefused       = 200
	maxNoted         = 64 // episodes that fire at once and are told of
	maxFiring        = 32
	ListingKnows     = 75 * time.Second // every replica lists what fires each minute
	ReassertCoalesce = time.Minute      // one history entry for a storm of re-assertions
)

// Decide says what a guard's traffic and record should be. It has no client,
// no clock and no log, and never edits its input. The package comment has its
// table.
func Decide(in Input, now time.Time) Decision {
	d := decider{in: in, now: now.UTC(), was: in.Record, rec: in.Record.Clone(), reason: ReasonNothing}
	d.in.Canary = in.Canary.as(in.Record.Status.Revisions, in.Record.Status.Build)
	d.clampFutureTimes()
	if d.readMode(); d.behind() {
		d.hearOnly()
	} else {
		d.decide()
	}
	d.finish()
	return Decision{Record: d.rec, Move: d.move, Weight: d.weight, Reason: d.reason,
		WantLive: d.wantLive && !in.Live, WantForward: d.wantForward, WantCount: d.wantCount && !in.Count.Asked && !in.Busy, WantAfter: d.wantAfter, Release: d.release, Leave: d.leave, Requeue: d.requeue,
		Added: d.rec.History[len(in.Record.History):], Then: d.then, Marks: d.marks, Signal: d.signal, Doubt: d.doubt, Observes: d.observing()}
}

// decide is Decide but for its beginning and end.
func (d *decider) decide() {
	d.takeUpLock()
	for _, why := range d.in.Unreadable {
		d.rec.Status.Noted = nil // what fires is told anew
		if o := d.rec.Status.Observing; o != nil && o.Would != nil {
			o.Would.Episode = ""
		}
		d.note(EventUnreadable, "", "the record was not readable as a whole, what was not is begun anew: "+Shorten(why))
	}
	d.observe()
	d.endDisarm()
	d.readRequest()
	d.sortAlerts()
	switch {
	case d.disarmed():
		d.watchOnly()
	case d.observing():
		d.onlyObserve()
	case d.rec.Lock != nil:
		d.locked()
	default:
		d.open()
	}
}

// decider holds one decision while it is made.
type decider struct {
	in  Input
	now time.Time
	was Record
	rec Record

	rollback []Alert // count against the present build
	holds    []Alert // hold, and rollback alerts of an earlier build
	graceEnd time.Time

	state       State
	text        string // reason in words, for status and annotations
	move        Move
	weight      int
	reason      Reason
	wantLive    bool
	wantForward bool
	wantCount   bool
	wantAfter   bool
	release     bool
	leave       bool
	requeue     time.Duration
	asked       *Request // rollback or promote, still to be done
	advanced    bool     // the steps have been considered
	then        []HistoryEntry
	marks       Marks
	signal      string
	doubt       bool
}

// hasCanaryTraffic says whether the canary gets, or for all that can be read might
// get, traffic that a rollback would take away.
func (d *decider) hasCanaryTraffic() bool { return !d.in.Traffic.Clean() || d.in.Unsafe != "" }

// observe brings the record's view of build and weights up to date.
func (d *decider) observe() {
	s, in := &d.rec.Status, d.in
	first := s.State == StateUnknown
	if first {
		s.FirstSeen = d.now
	}
	newBuild := in.Canary.Build != "" && in.Canary.Build != s.Build
	if newBuild {
		fresh := !first && (s.Build != "" || d.isFirst())
		appeared := d.now
		if in.Canary.Since.After(s.BuildSince) && in.Canary.Since.Before(d.now) {
			appeared = in.Canary.Since
		}
		s.Build, s.BuildSince, s.Promoting = in.Canary.Build, appeared, ""
		s.Waited = nil
		if fresh {
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
	}
	switch done := in.Canary.Complete && in.Canary.Ready > 0 && in.Canary.Current == in.Canary.Ready; {
	case first:
		s.Rolling = s.Build != "" && !done
	case s.Rolling && done:
		s.Rolling = false
		if in.Traffic.Full() {
			s.PromotedAt, s.CompletedAt = d.now, time.Time{}
		} else if in.Traffic.Weight > 0 {
			s.MovedAt = d.now // until now the build before has answered as well
		}
	}
	d.observeLeaving()
	d.observeSplits(first)
	d.observeWeight(first)
	d.observeBuilds()
	d.takeOver()
	d.joinLock()
	s.Ready, s.PausedOnVS = ReadyInfo{Stable: in.Stable.Ready, Canary: in.Canary.Ready}, in.Paused
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
// none be over.
func (d *decider) clampFutureTimes() {
	s := &d.rec.Status
	times := []*time.Time{&s.BuildSince, &s.UnlockedAt, &s.EnforcedAt}
	for i := range s.Firing {
		times = append(times, &s.Firing[i].Seen)
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
		case !own:
			s.Moving = nil
		}
	}
	if full != s.Full {
		s.Full, s.Unverified, s.PromotedAt, s.CompletedAt = full, false, time.Time{}, time.Time{}
		if full {
			s.PromotedAt = d.now
		}
		if full && d.rec.Lock == nil {
			d.note(EventPromoted, "", "canary has all traffic; an alert "+d.would("rolls it back", "would roll it back")+" until "+Stamp(d.now.Add(d.in.Guard.Rollback.Window)))
		}
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

// partly says that some of the guard's VirtualServices have taken a step, and
// others have not yet.
func (s *Status) partly() bool {
	return s.Moving.StepsTo(s.Weight) && s.Spread > 0
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

// lift takes the lock away.
func (d *decider) lift(event Event, by, why string) {
	d.rec.Status.LiftedAt = d.now
	if d.rec.Lock.Since.After(d.now) { // by another replica's clock
		d.rec.Status.LiftedAt = d.rec.Lock.Since
	}
	for _, name := range d.rec.Former(d.in.Guard) {
		d.rec.Status.leave(name)
	}
	d.rec.Lock = nil
	d.rec.Denies(nil, nil, Rollback{})
	d.rec.VirtualServices, d.rec.Message = nil, ""
	d.rec.Status.Moving = nil
	d.note(event, by, why)
	d.observeWeight(false) // what the lock would have reverted counts from now on
}

// since is when the present build appeared, or was last unlocked by a person.
func (d *decider) since() time.Time {
	s := d.rec.Status
	if s.UnlockedAt.After(s.BuildSince) {
		return s.UnlockedAt
	}
	return s.BuildSince
}

// locked lifts the lock, or sees to it that the canary gets nothing.
func (d *decider) locked() {
	if d.canUnlock() {
		if d.in.Live {
			d.lift(EventUnlocked, "new build", "build "+d.rec.Status.Build+" is ready and not among the refused")
			d.reason = ReasonNewBuild
			d.open()
			return
		}
		d.wantLive = true
	}
	if d.rollbackExpired() {
		if d.in.Live {
			d.allowBuild(d.rec.Lock.Refused...)
			d.lift(EventUnlocked, "window", "the rollback could not be done within the window and its alert is over")
			d.reason = ReasonWindowOver
			d.open()
			return
		}
		d.wantLive = true
	}
	d.dropAsked("locked: " + d.rec.Lock.Reason)
	if !d.hasCanaryTraffic() {
		if d.in.Gone != "" {
			d.gone()
			return
		}
		d.state, d.text = StateRolledBack, d.lockText()
		if d.confirm(); slices.ContainsFunc(d.rollback, func(a Alert) bool { return d.isNew(a) }) {
			d.doubt = true
		}
		return
	}
	if why := d.unsafe(); why != "" {
		d.block(why)
		return
	}
	if d.again() {
		d.reassert()
		return
	}
	d.returnTraffic(*d.rec.Lock)
	d.rec.Status.Moving.Again = d.rec.Status.Moving.Again || d.was.Status.Observing != nil
	d.reason = ReasonFinish
}

// again says that a canary which was locked and at 0 has traffic once more,
// also where its VirtualService did not exist in between: a rollback is told and
// counted once.
func (d *decider) again() bool {
	s := d.was.Status
	was := s.State == StateRolledBack || s.State == StateBlocked && s.Moving == nil        // else a rollback is under way
	return d.was.Lock != nil && was && (s.Weight == 0 || d.in.Owned) && s.Observing == nil // which has put nothing back
}

// reassert takes traffic from a locked canary again. The record goes on saying
// that it has none, so that a storm of this costs no write each; when the API
// server refuses it, the record says that.
func (d *decider) reassert() {
	s := &d.rec.Status
	d.state, d.text, d.move, d.reason = StateRolledBack, d.lockText(), MoveStable, ReasonReassert
	d.marks = Marks{State: StateRolledBack, Reason: d.text, Since: d.was.Status.Since, Build: s.Build}
	d.noteReassert()
	if s.Weight != 0 { // the marks on the VirtualService say that it was at 0 in between
		s.Weight, s.MovedAt, s.Moving = 0, d.now, nil
		s.Full, s.Unverified, s.Spread, s.PromotedAt, s.CompletedAt = false, false, 0, time.Time{}, time.Time{}
	}
}

// canUnlock says whether every ready pod of the canary belongs to a present
// build, and none to one that has been refused.
func (d *decider) canUnlock() bool {
	c := d.in.Canary
	return d.rec.Lock.Kind == LockBuild && c.Build != "" && c.Ready > 0 && c.Current == c.Ready && d.refusedRuns() == ""
}

// refusedRuns is a refused build that has a ready pod, or "". Of several
// workloads each has a build of its own: a new one of the first does not excuse a
// refused one of the second. What has been replaced, a cache that lags still shows:
// it counts when it was read live.
func (d *decider) refusedRuns() string {
	refused := func(b string) bool { return slices.Contains(d.rec.Refused, b) }
	if i := slices.IndexFunc(d.in.Canary.Running, refused); i >= 0 {
		return d.in.Canary.Running[i]
	}
	if i := slices.IndexFunc(d.in.Canary.Serving, refused); i >= 0 && d.in.Guard.Rollback.Lock != LockNone {
		if d.in.Live {
			return d.in.Canary.Serving[i]
		}
		d.wantLive = true
	}
	return ""
}

// rollbackExpired says whether a blocked rollback of a promoted canary has outlived
// the window in which it was right, and what caused it. What a person asked
// for has no window, and a lock by hand is lifted by hand.
func (d *decider) rollbackExpired() bool {
	s, l := d.rec.Status, d.rec.Lock
	fires := len(d.rollback) > 0 || slices.ContainsFunc(d.holds, func(a Alert) bool { return a.Action == ActionRollback })
	return d.was.Status.State == StateBlocked && d.in.Traffic.Full() && d.windowOver() && s.Weight > 0 &&
		!fires && l.Kind == LockBuild && (l.By == ByAlert || l.By == ByRefused)
}

// windowOver says whether the rollback window has ended. After the first sight
// that is for the lease holder to find: two replicas whose clocks differ would
// never agree. Until it has, a rollback is right.
func (d *decider) windowOver() bool {
	switch s := d.rec.Status; {
	case !s.CompletedAt.IsZero():
		return true
	case s.Rolling: // it begins when the build is out
		return false
	case !d.in.Leads && d.was.Status.State != StateUnknown:
		return false
	}
	return !d.now.Before(d.windowEnd())
}

// windowEnd is when the rollback window ends. If the clock was set since the
// last step, what this replica has watched counts.
func (d *decider) windowEnd() time.Time {
	s, was := d.rec.Status, d.was.Status
	began := s.PromotedAt
	if began.Equal(was.PromotedAt) && began.Equal(was.MovedAt) {
		began = d.in.movedAt(d.now)
	}
	return began.Add(d.in.Guard.Rollback.Window)
}

// unsafe says why traffic must not be sent to stable now, or "".
func (d *decider) unsafe() string {
	floor := d.in.Guard.Rollback.MinReadyStable
	switch {
	case d.in.Unsafe != "":
		return d.in.Unsafe
	case d.in.Stable.Missing != "":
		return d.in.Stable.Missing
	case d.in.Stable.Ready < floor:
		return fmt.Sprintf("stable %s has %d ready endpoints, rollback.minReadyStable is %d", d.in.Guard.Stable, d.in.Stable.Ready, floor)
	}
	return ""
}

func (d *decider) block(why string) {
	d.state, d.reason, d.text = StateBlocked, ReasonBlocked, why
	d.takeWeight()
	if l := d.rec.Lock; l != nil {
		d.expectStable(*l)
		d.rec.Status.Moving.Refused = ""
	}
	if d.was.Status.State != StateBlocked || d.was.Status.Reason != why && d.in.Leads {
		d.note(EventBlocked, "", "rollback is wanted but "+why)
	}
}

// open decides for a guard that is not locked.
func (d *decider) open() {
	d.giveBack()
	d.letGo()
	if q := d.asked; q != nil && q.Action == RequestRollback {
		d.asked = nil
		d.rollBack(Lock{By: q.By, Reason: cmp.Or(q.Reason, "asked for by "+q.By)}, ReasonPerson)
		return
	}
	s := d.rec.Status
	if l := d.unrecorded(s.Build); l != nil {
		d.rollBack(*l, ReasonFinish)
		return
	}
	switch {
	case d.refusedRuns() != "" && d.in.Guard.Rollback.Lock != LockNone:
		d.rollBack(Lock{By: ByRefused, Reason: "build " + d.refusedRuns() + " was rolled back before and has not been unlocked"}, ReasonRefusedBuild)
		return
	case !d.hasCanaryTraffic():
		d.state, d.text = StateIdle, cmp.Or(d.in.Absent, "canary gets no traffic")
		if m := s.Moving; m.RollsBack() {
			d.text = notLocked(m.Reason)
			d.confirm()
		}
		for _, a := range d.rollback {
			d.doubt = d.doubt || d.isNew(a)
			d.noteAlert(a, "canary has no traffic; "+d.would("it will be rolled back at once if it gets some", "it would be rolled back at once if it got some"))
		}
	case d.in.Traffic.Full() && d.windowOver():
		d.state, d.text = StateCompleted, "canary has had all traffic for longer than rollback.window"
		d.rec.Status.Unverified = false
		d.bake()
		for _, a := range d.rollback {
			d.reason = ReasonCompleted
			d.doubt = d.doubt || d.isNew(a)
			d.noteAlert(a, "not rolled back: "+d.text)
		}
	case len(d.rollback) > 0:
		a := d.rollback[0]
		d.rollBack(Lock{Signal: a.Signal, Alert: a.Name, Fingerprint: a.Fingerprint, StartsAt: a.StartsAt, By: ByAlert,
			Reason: a.Name + ": " + a.Summary}, ReasonAlert)
		return
	case d.blockedElsewhere():
		if d.state, d.text = d.observed(), d.was.Status.Reason; d.was.Status.State == StateBlocked {
			d.state = StateBlocked
		}
		d.dropAsked(d.text)
		return
	case d.in.Traffic.Full():
		d.state, d.text = StatePromoted, "canary has all traffic; "+d.would("rolled back on an alert", "an alert would roll it back")+" until "+Stamp(s.PromotedAt.Add(d.in.Guard.Rollback.Window))
		if s.Unverified {
			d.state, d.text = StateUnverified, "a new build went out without a canary; "+d.would("rolled back on an alert", "an alert would roll it back")+" until "+Stamp(s.PromotedAt.Add(d.in.Guard.Rollback.Window))
		}
		if end := d.windowEnd(); end.After(d.now) {
			d.requeueAt(end)
		}
	default:
		d.state, d.text = StateShifting, cmp.Or(d.in.Unsafe, d.in.Traffic.Text())
	}
	d.giveUp()
	d.holdOrPromote()
}

// bake notes, once for each rollback window, that it is over.
func (d *decider) bake() {
	s := &d.rec.Status
	if !s.CompletedAt.IsZero() {
		return
	}
	s.CompletedAt = d.now
	d.prove()
	if was := d.was.Status.State; was != StateUnknown && was != StateCompleted {
		d.note(EventCompleted, "", d.text+": an alert is recorded and rolls nothing back any more")
	}
}

// blockedElsewhere says that another replica has heard a rollback alert that
// it cannot act upon and, without a lock, leaves no other trace of.
func (d *decider) blockedElsewhere() bool {
	return (d.was.Status.State == StateBlocked && d.unsafe() != "" || d.rec.Status.Moving.RollsBack()) &&
		slices.ContainsFunc(d.holds, func(a Alert) bool { return a.Action == ActionRollback && a.Fingerprint == "" })
}

// giveBack restores what a rollback re-pointed, and its field ownership. While
// an alert fires, or the guard is paused, testers and mirrors are not sent to the
// canary again.
func (d *decider) giveBack() {
	none := d.in.Guard.Rollback.Lock == LockNone
	switch {
	case !d.in.Owned && (none || !d.in.Owed), !none && d.alertFiring(), d.paused(), d.observing():
		return
	case !d.in.Live:
		d.wantLive = true
		return
	}
	d.release, d.move = d.in.Owned, MoveRestore
	if none {
		// Nothing says that the canary is good again: only a step forward, or
		// CI, gives it its routes back.
		d.move = MoveMark
	}
	if d.reason == ReasonNothing {
		d.reason = ReasonRestore
	}
}

// alertFiring says that an alert fires, or that another replica has heard one about
// this build: one about an earlier build may be over, for all that it tells.
func (d *decider) alertFiring() bool {
	return len(d.rollback) > 0 || slices.ContainsFunc(d.holds, func(a Alert) bool {
		return a.Fingerprint != "" || !a.StartsAt.Before(d.since())
	})
}

// rollBack locks and moves everything to stable, or says why not.
func (d *decider) rollBack(l Lock, reason Reason) {
	if d.observing() {
		d.wouldRollBack(l, reason)
		return
	}
	defer func() {
		if d.rec.Lock == nil { // no lock will tell of them
			for _, a := range d.rollback {
				d.noteAlert(a, d.text)
			}
		}
	}()
	g := d.in.Guard
	d.reason, d.text = reason, l.Reason
	d.release, d.leave = false, false
	why := d.unsafe()
	if !d.hasCanaryTraffic() {
		why = "" // nothing has to move
	}
	if g.Rollback.Lock != LockNone {
		if l.Kind = g.Rollback.Lock; reason != ReasonFinish || l.Since.IsZero() {
			l.Since = d.now // else it is set again: what came since is no part of it
		}
		d.lockBuilds(&l, reason)
		d.rec.Lock = &l
		d.text = d.lockText()
	}
	d.dropAsked("an alert rolls back")
	if s := &d.rec.Status; !slices.Contains(l.Coming, s.Promoting) {
		s.Promoting = ""
	}
	if why != "" {
		if g.Rollback.Lock == LockNone && reason == ReasonPerson {
			d.rec.Request = d.was.Request // nothing else would tell of it when it has become safe
		}
		d.move = MoveNone
		d.block(why)
		d.reason = ReasonBlocked
		return
	}
	if d.hasCanaryTraffic() {
		d.returnTraffic(l)
		return
	}
	d.state, d.move = StateRolledBack, MoveNone
	if g.Rollback.Lock == LockNone {
		d.state, d.text = StateIdle, notLocked(l.Reason)
	}
	d.expectStable(l)
	d.confirm()
}

// finish writes down state and reason.
func (d *decider) finish() {
	s := &d.rec.Status
	d.tellObserving()
	if d.observing() {
		d.move, d.release, d.leave = MoveNone, false, false // whatever has been decided
	}
	changed := s.State != d.state
	if changed {
		s.Since = d.now
	}
	s.State, s.Reason = d.state, d.text
	if d.marks.State == StateUnknown {
		d.marks = Marks{State: s.State, Reason: s.Reason, Since: s.Since, Build: s.Build}
	}
	d.tellOutside()
	d.reportSteps(changed)
	for i := range d.rec.History {
		if e := &d.rec.History[i]; e.State == StateUnknown {
			e.State = d.state
		}
	}
	if d.rec.Lock != nil {
		if d.in.Leads || d.was.Lock == nil || len(d.was.VirtualServices) == 0 || len(d.was.Deny) == 0 {
			// Replicas may have different configurations for a while: once it is
			// said, it is the lease holder's.
			d.rec.VirtualServices = slices.Concat(d.in.Guard.VirtualServices, d.former())
			if len(d.in.Deny) > 0 {
				d.rec.Denies(d.in.Deny, d.in.Spare, d.in.Guard.Rollback)
			}
		}
		d.tellLock()
	}
	d.closeReceipt()
	d.throttle()
	if !d.graceEnd.IsZero() {
		d.requeueAt(d.graceEnd)
	}
}

// requeueAt asks for another look at t.
func (d *decider) requeueAt(t time.Time) {
	if wait := max(t.Sub(d.now), time.Millisecond); d.requeue == 0 || wait < d.requeue {
		d.requeue = wait
	}
}

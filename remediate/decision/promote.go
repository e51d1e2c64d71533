package decision

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// untold are those that the history does not tell of: they pass by themselves,
// or have an entry of their own.
var untold = []Wait{WaitLock, WaitDisarm, WaitPause, WaitFirstSight, WaitInterval, WaitLease}

const (
	// clocksDiffer is by how much the clocks of two replicas may.
	clocksDiffer = time.Minute
	// stillWanted is for how long a person's step that was recorded and not
	// made, because guardian was killed in between, is still made.
	stillWanted = 2 * time.Minute
)

// holdOrPromote is the end of every decision that leaves traffic where it is:
// an alert holds, or the next step of promotion is due, or it waits and says
// for what.
func (d *decider) holdOrPromote(c choice) choice {
	s := &d.rec.Status
	if holds := d.holding(); len(holds) > 0 && d.hasCanaryTraffic() && c.state == StateShifting {
		c = d.hold(c, holds[0])
	}
	c = d.showPause(c)
	if !s.MovedAt.Equal(d.was.Status.MovedAt) {
		s.setTally(Tally{}, Counted{}) // those at other weights prove nothing
	}
	if !d.in.Leads {
		return c // what the next step waits for is told by the replica that would take it
	}
	if d.in.Next != nil { // its lock has just been lifted
		d.dropAsked(anotherCanary)
		return c
	}
	c.advanced = true
	counted, over := s.tally()
	s.ClearSteps()
	if d.hasCanaryTraffic() && c.state != StateCompleted {
		d.countRequests(counted, over)
	}
	d.tellUnwatched()
	if step, prior, more := d.nextStep(); more {
		return d.advance(c, step, prior)
	}
	d.missed()
	d.dropAsked("the canary already has all traffic")
	return c
}

// hold is a canary whose traffic an alert has stay as it is.
func (d *decider) hold(c choice, a Alert) choice {
	c.state, c.reason = StateHeld, ReasonHeld
	c.text, c.heldBy = a.Name+": "+a.Summary, a.Name
	if a.Action == ActionRollback {
		c.reason = ReasonEarlierBuild
		c.text += d.whyPast(a)
	}
	return c
}

// countRequests has the canary's requests counted. What was counted over a time is
// kept while nobody answers.
func (d *decider) countRequests(counted Tally, over Counted) {
	d.wantCount = true
	d.requeueAt(d.now.Add(PollCount))
	switch c := d.in.Count; {
	case d.in.Busy || c.Asked && !c.Known:
		d.rec.Status.setTally(counted, over)
	case c.Asked:
		d.count(Tally{c.Requests, c.Failed, c.Latency})
	}
	if d.in.Busy {
		d.requeueAt(d.now.Add(pollBusy))
	}
}

// advance takes a step, or says what it waits for.
func (d *decider) advance(c choice, step, prior Step) choice {
	s := &d.rec.Status
	if d.pauses(step) {
		return c
	}
	d.resumeStep(step)
	if m := s.Moving; m != nil && m.Begins && d.asked == nil {
		d.missed() // before the scheduler takes it for begun
	}
	mode := d.in.Guard.Promotion.Mode
	if d.asked == nil && mode != PromotionManual && mode != PromotionAuto {
		d.missed()
		return c
	}
	s.NextStep = step.Weight
	s.NextAt = d.due(step, prior)
	var reason Wait
	if d.asked == nil && mode == PromotionManual {
		reason, s.Waiting, s.NextAt = WaitPerson, "guardian promote", time.Time{}
	} else if reason, s.Waiting = d.wait(); reason == "" {
		if s.Waiting = d.cannot(step); s.Waiting == "" {
			return d.step(c, step)
		}
		reason = WaitVirtualService
	}
	s.WaitingFor, s.Waiting = reason, "waiting: "+s.Waiting
	d.missed()
	if d.asked != nil {
		d.dropAsked(s.Waiting)
		return c
	}
	d.noteWaiting()
	return c
}

// pauses says of a step that it is not taken, if that is so because of a pause.
func (d *decider) pauses(step Step) bool {
	if !d.paused() {
		return false
	}
	s := &d.rec.Status
	if mode := d.in.Guard.Promotion.Mode; mode == PromotionManual || mode == PromotionAuto {
		s.NextStep, s.WaitingFor, s.Waiting = step.Weight, WaitPause, "waiting: "+s.PausedText()
	}
	d.dropAsked(s.PausedText())
	d.missed()
	return true
}

// noteWaiting tells the history what a step waits for: once for each reason
// until the weights or the build change, so that one which comes and goes does
// not push out all else.
func (d *decider) noteWaiting() {
	s := &d.rec.Status
	if slices.Contains(untold, s.WaitingFor) || slices.Contains(s.Waited, s.WaitingFor) {
		return
	}
	s.Waited = append(s.Waited, s.WaitingFor)
	d.note(EventWaiting, "", strings.TrimPrefix(s.Waiting, "waiting: "))
}

// resumeStep takes up a person's step that was recorded, and that nobody has
// seen in the VirtualService since.
func (d *decider) resumeStep(step Step) {
	m := d.rec.Status.Moving
	if d.asked != nil || d.in.Busy || !m.StepsTo(d.reached(step)) {
		return
	}
	thisOne := m.Step == step.Weight && m.Build == d.rec.Status.Build
	recent := d.now.Sub(m.At).Abs() <= stillWanted
	if m.By == BySchedule || !thisOne || !recent {
		return
	}
	if d.wantLive = true; d.in.Live {
		d.asked = &Request{Action: RequestPromote, By: m.By, At: m.At}
	}
}

// missed notes that a step which was recorded has not been made: what it found
// on the API server was no longer what it had been decided on.
func (d *decider) missed() {
	s := &d.rec.Status
	m := s.Moving
	if !d.in.Live || d.in.Busy || m == nil || m.To <= s.Weight-s.Spread {
		return
	}
	text := fmt.Sprintf("the step to %d%% was not made", m.Step)
	if m.Refused != "" {
		text += ": " + m.Refused
	}
	if s.partly() {
		text += " in every route"
		s.MovedAt = d.now
	}
	d.note(EventMissed, "", text)
	if m.Begins && !s.partly() && s.Promoting == m.Build {
		s.Promoting = "" // nobody has begun with the build after all
	}
	d.endMoving(ResultRefused, text)
}

// nextStep is the first step above the present weight, and the step that the
// canary stands on (zero below the first).
func (d *decider) nextStep() (next, at Step, more bool) {
	for _, s := range d.in.Guard.Promotion.Steps {
		if s.Weight > d.in.Traffic.Lowest {
			return s, at, true
		}
		at = s
	}
	return Step{}, at, false
}

// due is when a step's interval and the bake time of the step before have
// passed. A new build's first step from 0 waits for no interval: there is
// nothing to watch yet. One that somebody has taken back to 0 does wait.
func (d *decider) due(step, at Step) time.Time {
	s := &d.rec.Status
	if s.Weight == 0 && s.Fresh || s.partly() {
		return time.Time{}
	}
	if s.MovedAt.Equal(d.was.Status.MovedAt) {
		s.MovedAt = d.in.movedAt(d.now)
	}
	return s.MovedAt.Add(step.Interval + at.Bake)
}

// wait names the first thing that a step waits for, as a reason and in plain
// words; "" is go. The cheap conditions come first, those that need live
// answers last.
func (d *decider) wait() (Wait, string) {
	in, s := d.in, d.rec.Status
	byHand := d.asked != nil || d.rec.Status.partly()
	switch {
	case d.was.Status.State == StateUnknown:
		return WaitFirstSight, "first sight of this guard, nothing is moved"
	case in.Unlisted != "":
		return WaitLock, in.Unlisted
	case len(in.Foreign) > 0:
		return WaitLock, "guard " + in.Foreign[0].Guard + " is locked, and its lock denies this canary"
	case in.Outside.UserKnown && len(in.Outside.Locks) > 0:
		return WaitLock, in.Outside.Locks[0] + ": a lock that this guardian did not write"
	case in.Unsafe != "":
		return WaitVirtualService, in.Unsafe
	case in.Traffic.Split == 0:
		return WaitVirtualService, "no route carries both " + in.Guard.Stable.String() + " and " + in.Guard.Canary.String()
	case in.Canary.Build == "":
		return WaitBuild, "no workload of the canary found" + in.Canary.strangers()
	case !byHand && s.Promoting != s.Build:
		return WaitBuild, "for a new build, or for the first step by CI or guardian promote"
	case len(d.holds) > 0 || len(d.rollback) > 0:
		return WaitAlert, "alert " + strings.Join(s.Alerts, ", ") + " fires"
	case in.Stable.Missing != "":
		return WaitStable, in.Stable.Missing
	case in.Stable.Overlap != "":
		return WaitStable, in.Stable.Overlap
	case len(in.Outside.Overruled) > 0:
		return WaitStable, in.Outside.Overruled[0]
	case in.Stable.Ready < in.Guard.Rollback.MinReadyStable:
		return WaitStable, fmt.Sprintf("stable has %d of %d ready endpoints", in.Stable.Ready, in.Guard.Rollback.MinReadyStable)
	case !in.Canary.Complete || in.Canary.Ready == 0 || in.Canary.Current != in.Canary.Ready:
		return WaitRollout, fmt.Sprintf("rollout of build %s (%d of %d ready pods are of it)%s", s.Build, in.Canary.Current, in.Canary.Ready, in.Canary.strangers())
	case !byHand && d.now.Before(s.NextAt):
		d.requeueAt(s.NextAt)
		return WaitInterval, "until " + Stamp(s.NextAt)
	}
	if closed := in.Guard.Promotion.Closed; closed != nil {
		if why := closed(d.now); why != "" {
			return WaitWindow, why // for days perhaps: the resync is soon enough
		}
	}
	return d.waitLive(byHand)
}

// waitLive looks at what only the lease holder's live reads can tell.
func (d *decider) waitLive(byHand bool) (Wait, string) {
	in, s := d.in, &d.rec.Status
	if in.Busy && in.Forward == nil {
		d.requeueAt(d.now.Add(pollBusy))
		if was := d.was.Status; was.WaitingFor != "" && was.NextStep == s.NextStep {
			return was.WaitingFor, strings.TrimPrefix(was.Waiting, "waiting: ")
		}
		return WaitLease, "for the replica that holds the lease"
	}
	if !in.Live || in.Forward == nil {
		d.wantLive, d.wantForward = true, true
		return WaitLease, "for the replica that holds the lease"
	}
	d.requeueAt(d.now.Add(PollForward))
	f := in.Forward
	d.count(Tally{f.Requests, f.Failed, f.Latency})
	least := int64(in.Guard.Promotion.MinRequests)
	switch {
	case d.now.Sub(in.Heartbeat).Abs() > in.Guard.HeartbeatMaxAge: // one of the future is by a clock that was set
		return WaitHeartbeat, "no heartbeat for longer than " + in.Guard.HeartbeatMaxAge.String() + "; is the alert chain broken?"
	case f.Err != "":
		return WaitAnswers, f.Err
	case f.Gaps.unwatched(in.Traffic, f.Requests) != "":
		return WaitRules, f.Gaps.unwatched(in.Traffic, f.Requests)
	case !byHand && in.Traffic.Weight > 0 && f.Requests < least:
		return WaitRequests, fmt.Sprintf("%d of %d requests", f.Requests, least)
	}
	for _, g := range f.Gates {
		if !g.Open {
			return WaitGate, fmt.Sprintf("gate %s is closed (%s)", g.Name, g.Why)
		}
	}
	return "", ""
}

// reached is the canary's weight after a step, percent: where weights do not add
// up to 100 it can be more than the step asks for.
func (d *decider) reached(step Step) int {
	if d.in.Reach == nil {
		return step.Weight
	}
	t, err := d.in.Reach(step.Weight)
	if err != nil {
		return step.Weight
	}
	return t.Weight
}

// cannot says why a step cannot be written, or "".
func (d *decider) cannot(step Step) string {
	if d.in.Reach == nil {
		return ""
	}
	if _, err := d.in.Reach(step.Weight); err != nil {
		return err.Error()
	}
	return ""
}

// BySchedule is who takes a step that nobody asked for.
const BySchedule = "schedule"

// step goes one step up. That it has is told when it is seen. One that was
// recorded already, and not made because guardian was killed or somebody else
// wrote first, is not recorded again.
func (d *decider) step(c choice, step Step) choice {
	s := &d.rec.Status
	by := BySchedule
	if d.asked != nil {
		by = d.asked.By
	}
	reached := d.reached(step)
	again := s.Moving.StepsTo(reached) && s.Promoting == s.Build
	c.move, c.weight, c.reason = MoveForward, step.Weight, ReasonStep
	c.text = fmt.Sprintf("taking the step to %d%%", step.Weight)
	c.marks = Marks{State: StateShifting, Reason: fmt.Sprintf("canary has %d%%", reached), Since: d.now, Build: s.Build}
	if reached == 100 {
		c.marks.State, c.marks.Reason = StatePromoted, "canary has all traffic"
	}
	s.ClearSteps()
	begins := s.Promoting != s.Build
	s.Promoting = s.Build
	if !again {
		d.supersede(c.text)
		s.Moving = &Moving{Begins: begins, To: reached, From: d.in.Traffic.Weight, Step: step.Weight, At: d.now, By: by, Build: s.Build}
	} else if s.Moving.Refused != "" {
		s.NextStep, s.WaitingFor, s.Waiting = step.Weight, WaitVirtualService, refusedStep(s.Moving)
	}
	d.asked = nil
	d.carry()
	return c
}

// count takes down what Prometheus has just counted. As long as the numbers are
// those of an earlier count at these weights, so is the time: each write of the
// record has every replica look again.
func (d *decider) count(t Tally) {
	s, over := &d.rec.Status, Counted{Since: d.in.CountSince(d.now), At: d.now}
	future := s.MovedAt.After(d.now) // by another replica's clock: no count is of these weights by it
	if before, was := d.was.Status.tally(); before == t && !was.At.IsZero() && (future || !was.Since.Before(s.MovedAt)) {
		over = was
	}
	s.setTally(t, over)
}

// reportSteps says how the steps stand in states in which no step is looked
// for. It is the lease holder's to tell; others only take back what is no
// longer true.
func (d *decider) reportSteps(c choice, changed bool) {
	s, p := &d.rec.Status, d.in.Guard.Promotion
	if !c.advanced && (d.in.Leads || changed) {
		s.ClearSteps()
	}
	if !d.in.Leads {
		return
	}
	s.Mode, s.Steps = "", nil
	if p.Mode != PromotionManual && p.Mode != PromotionAuto {
		return
	}
	s.Mode = p.Mode
	for _, step := range p.Steps {
		s.Steps = append(s.Steps, step.Weight)
	}
	step, _, more := d.nextStep()
	if c.advanced || !more {
		return
	}
	switch {
	case c.state == StateDisarmed:
		s.NextStep, s.WaitingFor, s.Waiting = step.Weight, WaitDisarm, "waiting: "+c.text
	case d.rec.Lock != nil || c.state == StateBlocked:
		s.NextStep, s.WaitingFor, s.Waiting = step.Weight, WaitLock, "waiting: locked"
	}
}

// throttle leaves words and numbers of a moment ago in the record when they
// alone are new. Each write has the guard looked at again, by every replica:
// what is different each time that somebody is asked, or in the eyes of two
// replicas with different configurations, would never come to rest. While
// nothing else changes, words are the lease holder's to choose.
func (d *decider) throttle() {
	s, was := &d.rec.Status, d.was.Status
	counted, _ := s.tally()
	before, _ := was.tally()
	sameText := s.Reason == was.Reason && s.HeldBy == was.HeldBy && s.Waiting == was.Waiting && s.Thin == was.Thin && d.rec.Message == d.was.Message
	if sameText && counted == before && s.Ready == was.Ready {
		return
	}
	if !sameButVolatileText(d.was, d.rec) {
		if s.Waiting != was.Waiting || counted != before {
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

// takeVolatileText takes over what another status says in words and numbers.
func (s *Status) takeVolatileText(o Status) {
	s.Reason, s.HeldBy, s.Waiting, s.Ready, s.Thin, s.ToldAt = o.Reason, o.HeldBy, o.Waiting, o.Ready, o.Thin, o.ToldAt
	s.setTally(o.tally())
}

// sameButVolatileText says that two records differ at most in words and numbers that
// nothing is decided by.
func sameButVolatileText(a, b Record) bool {
	b.Message = a.Message
	b.Status.takeVolatileText(a.Status)
	return maps.Equal(a.Data(), b.Data())
}

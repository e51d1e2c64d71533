package decision

import (
	"fmt"
	"time"
)

// stillWanted is for how long a person's step that was recorded and not
// made, because guardian was killed in between, is still made.
const stillWanted = 2 * time.Minute

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
	if d.in.Traffic.Full() {
		d.dropAsked("the canary already has all traffic")
	}
	d.dropAsked(d.noSplit())
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

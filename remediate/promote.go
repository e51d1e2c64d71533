package remediate

import (
	"fmt"
	"strings"
	"time"
)

// holdOrPromote is the end of every decision that leaves traffic where it is:
// an alert holds, or the next step of promotion is due, or it waits and says
// for what.
func (d *decider) holdOrPromote() {
	s := &d.rec.Status
	if len(d.holds) > 0 && d.exposed() && d.state == StateShifting {
		d.state, d.reason = StateHeld, ReasonHeld
		a := d.holds[0]
		d.text = fmt.Sprintf("held at %d%% by %s: %s", d.in.Traffic.Weight, a.Name, a.Summary)
		if a.Action == ActionRollback {
			d.reason = ReasonEarlierBuild
		}
	}
	if !d.in.Leads {
		return // what the next step waits for is told by the replica that would take it
	}
	s.Waiting, s.NextStep, s.NextAt, s.Requests = "", 0, time.Time{}, 0
	if d.exposed() && d.state != StateBaked {
		d.wantCount = true
		d.wake(d.now.Add(pollCount))
		s.Requests = d.in.Count.Requests
		if d.in.Count.Asked && !d.in.Count.Known {
			s.Requests = d.was.Status.Requests
		}
	}
	step, prior, more := d.nextStep()
	if !more {
		if d.asked != nil {
			d.dropAsked("the canary already has all traffic")
		}
		return
	}
	mode := d.in.Guard.Promotion.Mode
	if d.asked == nil && (mode == PromotionOff || mode == "") {
		return
	}
	s.NextStep = step.Weight
	s.NextAt = d.due(step, prior)
	if d.asked == nil && mode == PromotionManual {
		s.Waiting = "guardian promote"
		s.NextAt = time.Time{}
		return
	}
	why := d.wait(step)
	if why == "" {
		d.step(step)
		return
	}
	s.Waiting = why
	if d.asked != nil {
		d.dropAsked(why)
	}
}

// nextStep is the first rung above the present weight, and the rung that the
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

// due is when a step's interval and the bake time of the rung before have
// passed. A new build's first step from 0 waits for no interval: there is
// nothing to watch yet. One that somebody has taken back to 0 does wait.
func (d *decider) due(step, at Step) time.Time {
	s := d.rec.Status
	if s.Weight == 0 && !s.MovedAt.After(s.BuildSince) {
		return time.Time{}
	}
	return s.MovedAt.Add(step.Interval + at.Bake)
}

// wait names the first thing that a step waits for, in plain words; "" is go.
// The cheap conditions come first, those that need live answers last.
func (d *decider) wait(step Step) string {
	in, s := d.in, d.rec.Status
	byHand := d.asked != nil
	switch {
	case d.was.Status.State == StateUnknown:
		return "waiting: first sight of this guard, nothing is moved"
	case in.Unsafe != "":
		return "waiting: " + in.Unsafe
	case d.in.Traffic.Split == 0:
		return "waiting: no route carries both " + in.Guard.Stable.String() + " and " + in.Guard.Canary.String()
	case in.Canary.Build == "":
		return "waiting: no Deployment of the canary found"
	case !byHand && s.Promoting != s.Build:
		return "waiting: for a new build, or for the first step by CI or guardian promote"
	case len(d.holds) > 0 || len(d.rollback) > 0:
		return "waiting: alert " + strings.Join(s.Alerts, ", ") + " fires"
	case in.Stable.Missing != "":
		return "waiting: " + in.Stable.Missing
	case in.Stable.Ready < in.Guard.Rollback.MinReadyStable:
		return fmt.Sprintf("waiting: stable has %d of %d ready endpoints", in.Stable.Ready, in.Guard.Rollback.MinReadyStable)
	case !in.Canary.Complete || in.Canary.Ready == 0 || in.Canary.Current != in.Canary.Ready:
		return fmt.Sprintf("waiting: rollout of build %s (%d of %d ready pods are of it)", s.Build, in.Canary.Current, in.Canary.Ready)
	case !byHand && d.now.Before(s.NextAt):
		d.wake(s.NextAt)
		return "waiting: until " + stamp(s.NextAt)
	}
	return d.waitLive(byHand)
}

// waitLive looks at what only the lease holder's live reads can tell.
func (d *decider) waitLive(byHand bool) string {
	in, s := d.in, &d.rec.Status
	if !in.Live || in.Forward == nil {
		d.wantLive, d.wantForward = true, true
		return "waiting: for the replica that holds the lease"
	}
	d.wake(d.now.Add(pollForward))
	f := in.Forward
	s.Requests = f.Requests
	least := int64(in.Guard.Promotion.MinRequests)
	switch {
	case d.now.Sub(in.Heartbeat) > in.Guard.HeartbeatMaxAge:
		return "waiting: no heartbeat for longer than " + in.Guard.HeartbeatMaxAge.String() + "; is the alert chain broken?"
	case f.Err != "":
		return "waiting: " + f.Err
	case f.Closed != "":
		return "waiting: " + f.Closed
	case !byHand && in.Traffic.Weight > 0 && f.Requests < least:
		return fmt.Sprintf("waiting: %d of %d requests", f.Requests, least)
	}
	for _, g := range f.Gates {
		if !g.Open {
			return fmt.Sprintf("waiting: gate %s is closed (%s)", g.Name, g.Why)
		}
	}
	return ""
}

// step goes one rung up.
func (d *decider) step(step Step) {
	s := &d.rec.Status
	by := "schedule"
	if d.asked != nil {
		by = d.asked.By
	}
	d.move, d.weight, d.reason = MoveForward, step.Weight, ReasonStep
	d.text = fmt.Sprintf("step to %d%%", step.Weight)
	s.Promoting, s.NextStep, s.NextAt, s.Requests = s.Build, 0, time.Time{}, 0
	s.Expected = &step.Weight
	e := d.entry("step", by, d.text)
	e.To = step.Weight
	d.rec.History = append(d.rec.History, e)
	d.asked = nil
}

// full says that every route gives the canary all of the pair's traffic.
func (t Traffic) full() bool { return t.Weight == 100 && t.Lowest == 100 }

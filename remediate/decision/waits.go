package decision

import (
	"fmt"
	"slices"
	"strings"
)

// wait names the first thing that a step waits for, as a reason and in plain
// words; "" is go. The cheap conditions come first, those that need live
// answers last.
func (d *decider) wait() (Wait, string) {
	in, s := d.in, d.rec.Status
	byHand := d.asked != nil || d.rec.Status.partly()
	switch {
	case d.was.Status.State == StateUnknown:
		return WaitFirstSight, "first sight of this guard, nothing is moved"
	case d.othersLock() != "":
		return WaitLock, d.othersLock()
	case in.Unsafe != "":
		return WaitVirtualService, in.Unsafe
	case in.Traffic.Split == 0:
		return WaitVirtualService, d.noSplit()
	case in.Canary.Build == "":
		return WaitBuild, "no workload of the canary found" + in.Canary.strangers()
	case !byHand && s.Promoting != s.Build:
		return WaitBuild, "for a new build, or for the first step by CI or guardian promote"
	case len(d.holds) > 0 || len(d.rollback) > 0:
		return WaitAlert, "alert " + strings.Join(s.Alerts, ", ") + " fires"
	case d.stableUnfit() != "":
		return WaitStable, d.stableUnfit()
	case !in.Canary.rolledOut():
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

// noSplit is why there is no step where no route names both destinations.
func (d *decider) noSplit() string {
	return "no route carries both " + d.in.Guard.Stable.String() + " and " + d.in.Guard.Canary.String()
}

// othersLock tells of a lock of another guard, or user, that may hold the canary; "": there is none.
func (d *decider) othersLock() string {
	in := d.in
	switch {
	case in.Unlisted != "":
		return in.Unlisted
	case len(in.Foreign) > 0:
		return "guard " + in.Foreign[0].Guard + " is locked, and its lock denies this canary"
	case in.Outside.UserKnown && len(in.Outside.Locks) > 0:
		return in.Outside.Locks[0] + ": a lock that this guardian did not write"
	}
	return ""
}

// stableUnfit says why a rollback after the step might not lead everything to stable alone, or "".
func (d *decider) stableUnfit() string {
	stable, floor := d.in.Stable, d.in.Guard.Rollback.MinReadyStable
	switch {
	case stable.Missing != "":
		return stable.Missing
	case stable.Overlap != "":
		return stable.Overlap
	case len(d.in.Outside.Overruled) > 0:
		return d.in.Outside.Overruled[0]
	case stable.Ready < floor:
		return fmt.Sprintf("stable has %d of %d ready endpoints", stable.Ready, floor)
	}
	return ""
}

// waitLive looks at what only the lease holder's live reads can tell.
func (d *decider) waitLive(byHand bool) (Wait, string) {
	in, s := d.in, &d.rec.Status
	if in.Busy && in.Forward == nil {
		d.requeueAt(d.now.Add(pollBusy))
		if was := d.was.Status; slices.Contains(toldLive, was.WaitingFor) && was.NextStep == s.NextStep {
			return was.WaitingFor, strings.TrimPrefix(was.Waiting, "waiting: ")
		}
		return WaitLease, "for the replica that holds the lease"
	}
	if !in.Live || in.Forward == nil {
		d.wantLive, d.wantForward = true, true
		return WaitLease, "for the replica that holds the lease"
	}
	d.requeueAt(d.now.Add(PollForward))
	f := d.forward()
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

// toldLive are those that only live answers show to be over; any other is over once
// those are asked for.
var toldLive = []Wait{WaitLease, WaitHeartbeat, WaitAnswers, WaitRules, WaitRequests, WaitGate}

// untold are those that the history does not tell of: they pass by themselves,
// or have an entry of their own.
var untold = []Wait{WaitLock, WaitDisarm, WaitPause, WaitFirstSight, WaitInterval, WaitLease}

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

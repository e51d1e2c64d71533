package decision

import "slices"

// endLock lifts a lock whose time has come, and says why; empty: it stands.
func (d *decider) endLock() Reason {
	lifts := d.canUnlock()
	expired := d.rollbackExpired()
	switch {
	case !lifts && !expired:
		return ""
	case !d.in.Live:
		d.wantLive = true
		return ""
	case lifts:
		d.lift(EventUnlocked, "new build", "build "+d.rec.Status.Build+" is ready and not among the refused")
		return ReasonNewBuild
	}
	d.allowBuild(d.rec.Lock.Refused...)
	d.lift(EventUnlocked, "window", "the rollback could not be done within the window and its alert is over")
	return ReasonWindowOver
}

// rollbackExpired says whether a blocked rollback of a promoted canary has outlived
// the window in which it was right, and what caused it. What a person asked
// for has no window, and a lock by hand is lifted by hand.
func (d *decider) rollbackExpired() bool {
	s, l := d.rec.Status, d.rec.Lock
	fires := len(d.rollback) > 0 || slices.ContainsFunc(d.holds, asksForRollback)
	return d.was.Status.State == StateBlocked && d.in.Traffic.Full() && d.windowOver() && s.Weight > 0 &&
		!fires && l.Kind == LockBuild && (l.By == ByAlert || l.By == ByRefused)
}

// canUnlock says whether every ready pod of the canary belongs to a present
// build, and none to one that has been refused.
func (d *decider) canUnlock() bool {
	c := d.in.Canary
	return d.rec.Lock.Kind == LockBuild && c.Build != "" && c.allPresent() && d.refusedRuns() == "" && !d.midway()
}

// midway says that the lock's rollback is under way, and that a build serves that did when
// it was decided on. Whoever has done so may have heard an alert that this replica has
// not: what has been begun is done first, unless something keeps it from being done.
func (d *decider) midway() bool {
	m := d.rec.Status.Moving
	begun := m.RollsBack() && m.Refused == "" && d.hasCanaryTraffic() && d.unsafe() == ""
	return begun && slices.ContainsFunc(d.in.Canary.readyBuilds(), func(b string) bool { return !d.younger(b) })
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

// lift takes the lock away. Where stable is what it denied, what is read is of another
// pair than the record tells of: the guard is begun anew with it.
func (d *decider) lift(event Event, by, why string) {
	if !d.hasCanaryTraffic() && d.in.Gone == "" && !d.turned() { // else the traffic is of another pair
		d.confirm() // whoever has written it may have had no time to tell
	}
	d.anew = d.turned()
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
	d.supersede("unlocked by " + by + ": " + why)
	d.note(event, by, why)
	if d.anew {
		d.exchange(MovesOf(d.in.Guard))
		return
	}
	d.observeWeight(false) // what the lock would have reverted counts from now on
}

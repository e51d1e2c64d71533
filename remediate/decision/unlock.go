package decision

import "slices"

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

// lift takes the lock away. Where stable is what it denied, what is read is of another
// pair than the record tells of: the guard is begun anew with it.
func (d *decider) lift(event Event, by, why string) {
	turned := d.turned()
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
	if turned {
		d.anew = true
		d.exchange(MovesOf(d.in.Guard))
		return
	}
	d.observeWeight(false) // what the lock would have reverted counts from now on
}

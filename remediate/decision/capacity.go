package decision

import "fmt"

// Thin says that stable has fewer ready endpoints than rollback.capacity asks for of
// those that it had when it carried everything, or "". It is told and delays nothing.
func (r Rollback) Thin(carried, ready int) string {
	if carried <= 0 || float64(ready) >= r.Capacity*float64(carried) {
		return ""
	}
	return fmt.Sprintf("stable has %d ready endpoints, and had %d when it carried everything: less than rollback.capacity (%g)", ready, carried, r.Capacity)
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

// observeCarried keeps what stable carries everything with, as of the moment when
// the canary begins to get a share: an autoscaler takes some of it away afterwards.
func (d *decider) observeCarried(first bool) {
	s := &d.rec.Status
	if !first && d.was.Status.Weight == 0 && s.Weight > 0 && d.rec.Lock == nil && d.was.Lock == nil {
		s.Carried = d.in.Stable.Ready
	}
}

// tellCapacity says whether all traffic would be too much for stable, or is after a
// rollback. A canary whose window is over is not rolled back, and stable may be gone.
func (d *decider) tellCapacity(state State) {
	s := &d.rec.Status
	if !d.in.Leads || d.turned() {
		return // replicas may have different configurations for a while
	}
	s.Thin = ""
	if d.rec.Lock != nil || d.in.Traffic.Weight > 0 && state != StateCompleted {
		s.Thin = d.in.Guard.Rollback.Thin(s.Carried, d.in.Stable.Ready)
	}
}

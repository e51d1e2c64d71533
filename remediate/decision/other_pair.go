package decision

import (
	"slices"

	"github.com/canary-guardian/guardian/remediate/virtualservice"
)

// otherPair says that the configuration has another stable or canary than an unlocked
// guard's record tells of: what this replica sees of builds and weights is of others.
// The same holds in the pass that takes up a lock of the configuration's canary.
func (d *decider) otherPair() bool {
	l, m, is := d.rec.Lock, d.rec.Status.Moves, d.in.Guard
	if m == nil || l != nil && (d.was.Lock != nil || l.Canary != is.Canary.String()) {
		return false
	}
	stable, canary, _ := m.pair()
	same := func(a, b virtualservice.Ref) bool { return virtualservice.SameRef(a, b, is.Namespace, "") }
	return !same(stable, is.Stable) || !same(canary, is.Canary)
}

// ofAnother says that the weight that was recorded is of another canary than the one
// that is read.
func (d *decider) ofAnother() bool {
	if d.anew || d.turned() {
		return true
	}
	m, is := d.was.Status.Moves, d.in.Guard
	if m == nil {
		return false
	}
	_, canary, _ := m.pair()
	return !virtualservice.SameRef(canary, is.Canary, is.Namespace, "")
}

// turned says that stable is what the lock denies: the configuration has exchanged
// the two under it. To put the canary to 0 would be to give everything to the build
// that was refused. The record's list alone does not say so, for whoever may write to
// it could have nothing be moved any more: either what the guard had moved before, or
// the lock on a VirtualService, says it too. That stable was the canary before says it
// alone: without a DestinationRule nothing tells how a destination may be spelled.
func (d *decider) turned() bool {
	l, stable := d.rec.Lock, d.in.Guard.Stable.String()
	if l == nil {
		return false
	}
	wasCanary, wasAnother := false, false // stable, by what the guard had moved before
	if was := d.rec.Status.Moves; was != nil {
		wasCanary, wasAnother = was.Canary == stable, was.Stable != stable
	}
	ofStable, unsaid := l.Canary == stable, l.Canary == ""
	listed, marked := d.denied(d.rec.Deny), d.marked()
	switch {
	case wasCanary && (unsaid || ofStable):
		return true
	case ofStable || d.denied(l.Also):
		return marked || listed
	case unsaid:
		return listed && (marked || wasAnother)
	}
	return false
}

// marked says that the lock on a VirtualService denies stable.
func (d *decider) marked() bool { return d.in.Marked != nil && d.denied(d.in.Marked.Canary) }

// denied says that stable is among what a lock denies.
func (d *decider) denied(canary []string) bool {
	return slices.ContainsFunc(d.in.Spare, func(stable string) bool { return slices.Contains(canary, stable) })
}

package decision

import (
	"slices"

	"github.com/canary-guardian/guardian/remediate/virtualservice"
)

// Record is all that guardian remembers of a guard: the parsed form of its
// ConfigMap. It outlives guardian and the VirtualService.
type Record struct {
	ResourceVersion string // of the ConfigMap; empty when there is none yet

	Lock    *Lock
	Refused []string                // builds that were rolled back, oldest first
	Changed []virtualservice.Change // routes and mirrors that guardian re-pointed and will give back
	Status  Status
	History []HistoryEntry // oldest first
	Receipt *Receipt       // of the last rollback; nil: none is known
	Request *Request
	Answers []Answer // to the last requests, oldest first

	// Unreadable is what of the ConfigMap could not be read, and why. It is not
	// written.
	Unreadable []string

	// past is the JSON of the entries before those of History, as the ConfigMap
	// has it: each pass over a guard would else take apart and put together again
	// what happened days ago. Empty: History has them all.
	past string

	Deny            []string // host/subset of the canary in every spelling, while locked
	DenyMatchRoutes bool     // routes of some requests to the canary alone are locked too
	DenyMirrors     bool     // and mirrors
	Stable          []string // host/subset of stable in every spelling, while locked: a route that names it is no route to the canary alone
	VirtualServices []string // names, while locked
	Message         string   // what a refused CI reads, while locked
}

// Troubled says that something keeps traffic from being shifted, or is known to be
// wrong: a lock, a rollback that is under way, blocked or done, a hold, or an alert.
func (r Record) Troubled() bool {
	s := r.Status
	return r.Lock != nil || s.State == StateBlocked || s.State == StateHeld || s.State == StateRolledBack || s.Moving.RollsBack() || len(s.Firing) > 0
}

// Clone is a copy that shares nothing that Decide edits.
func (r Record) Clone() Record {
	c := r
	c.Status = r.Status.clone()
	if r.Lock != nil {
		c.Lock = r.Lock.clone()
	}
	if r.Receipt != nil {
		c.Receipt = r.Receipt.clone()
	}
	if r.Request != nil {
		q := *r.Request
		q.Replaces = slices.Clone(q.Replaces)
		c.Request = &q
	}
	c.Refused = slices.Clone(r.Refused)
	c.Changed = slices.Clone(r.Changed)
	c.History = slices.Clone(r.History)
	c.Answers = slices.Clone(r.Answers)
	c.Deny = slices.Clone(r.Deny)
	c.Stable = slices.Clone(r.Stable)
	c.VirtualServices = slices.Clone(r.VirtualServices)
	return c
}

// Denies sets what a locked guard's VirtualServices say of it: the canary in all
// its spellings and stable in its, and what a rollback covers. nil takes it all
// back.
func (r *Record) Denies(canary, stable []string, o Rollback) {
	r.Deny, r.Stable = slices.Clone(canary), slices.Clone(stable)
	r.DenyMatchRoutes, r.DenyMirrors = o.MatchRoutes, o.Mirrors
}

// lockedPair is the pair that the lock is of. One that was written before locks had a
// pair, or of which the list of what is denied says that somebody has edited it, is of
// that which the status tells of.
func (r Record) lockedPair() (stable, canary virtualservice.Ref, ok bool) {
	if r.Lock == nil {
		return stable, canary, false
	}
	var moves Moves
	if r.Status.Moves != nil {
		moves = *r.Status.Moves
	}
	stable, canary, ok = moves.pair()
	s, c, own := Moves{Stable: r.Lock.Stable, Canary: r.Lock.Canary}.pair()
	edited := ok && c != canary && len(r.Deny) > 0 && refOf(r.Deny[0]) == canary
	if own && !edited {
		return s, c, true
	}
	return stable, canary, ok
}

// GuardOf is g with the pair that is to be read for it: while a lock stands that of the
// lock, in its spelling, so that every replica sees the same builds and weights whatever
// its file has. other says that g has another canary. The exception is a g whose stable
// is what the lock denies, and of the replica that leads one that has another stable
// alone: its own pair counts. domain is the cluster's.
func (r Record) GuardOf(g Guard, leads bool, domain string) (of Guard, other bool) {
	stable, canary, ok := r.lockedPair()
	same := func(a, b virtualservice.Ref) bool { return virtualservice.SameRef(a, b, g.Namespace, domain) }
	switch {
	case !ok:
		return g, false
	case same(canary, g.Canary):
		g.Canary = canary
		if m := r.Status.Moves; !leads && m != nil && m.Stable == stable.String() { // else somebody has edited one of the two
			g.Stable = stable
		}
		return g, false
	case same(canary, g.Stable):
		g.Stable = canary
		return g, false
	}
	g.Stable, g.Canary = stable, canary
	return g, true
}

// Former are the VirtualServices that a lock covers and the configuration does
// not have any more: they stay guarded until the lock is lifted.
func (r Record) Former(g Guard) []string {
	if r.Lock == nil {
		return nil
	}
	return notIn(r.VirtualServices, g.VirtualServices)
}

// notIn are names that are not among others.
func notIn(names, others []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return slices.Contains(others, name) })
}

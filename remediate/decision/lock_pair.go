package decision

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/canary-guardian/guardian/remediate/virtualservice"
)

// unread says that the lock is of another pair than what was read: this pass has taken
// it up, or has it go over.
func (d *decider) unread() bool {
	l, was := d.rec.Lock, d.was.Lock
	return l != nil && l.Canary != d.in.Guard.Canary.String() && (was == nil || was.Canary != l.Canary) && !d.turned()
}

// lockOnly is a pass that records the lock alone. The next reads the pair that it is of,
// which is a first sight.
func (d *decider) lockOnly() choice {
	l := d.rec.Lock
	for _, a := range d.rollback {
		d.noteAlert(a, "locked: "+l.Reason)
	}
	if m := d.rec.Status.Moves; d.was.Lock == nil && m != nil && m.Canary != l.Canary {
		d.supersede("locked: " + l.Reason)
		d.startAnew()
		d.rec.Status.Moves = &Moves{VirtualServices: m.VirtualServices, Stable: l.Stable, Canary: l.Canary}
	}
	d.requeueAt(d.now.Add(time.Second))
	return choice{state: d.rec.Status.State, text: l.Reason, reason: ReasonNothing}
}

// recordOnly is a pass that has lifted a lock and begun anew with another pair than the
// record told of. It records that alone: the next is a first sight.
func (d *decider) recordOnly() choice {
	d.nextIsFirst()
	return choice{text: "unlocked", reason: ReasonNothing}
}

// nextIsFirst has what this pass tells of be of a guard that the next one looks at for
// the first time, at once.
func (d *decider) nextIsFirst() {
	for i := len(d.was.History); i < len(d.rec.History); i++ {
		d.rec.History[i].State = StateIdle
	}
	d.requeueAt(d.now)
}

// pairOf is the pair of a lock that a VirtualService tells of: that of the
// configuration where it is of its canary, or has its canary for stable, and else what
// its first spellings name.
func (d *decider) pairOf(m LockAnnotation) (stable, canary string) {
	g := d.in.Guard
	is := func(ref virtualservice.Ref, spelled []string) bool {
		return refOf(m.Canary[0]) == ref || len(spelled) > 0 && spelled[0] == m.Canary[0]
	}
	stable, canary = refOf(m.Stable[0]).String(), refOf(m.Canary[0]).String()
	switch {
	case is(g.Canary, d.in.Deny):
		return g.Stable.String(), g.Canary.String()
	case is(g.Stable, d.in.Spare):
		return stable, g.Stable.String()
	}
	return stable, canary
}

// denies are all spellings that the lock denies. What the configuration has for its
// canary is not braked while the lock of another stands, so it is not to get more: that
// is the lease holder's to tell. Stable is never among them.
func (d *decider) denies() []string {
	l := d.rec.Lock
	if len(d.in.Deny) == 0 { // its DestinationRule is gone: what was denied is
		if d.in.Next == nil || !d.in.Leads {
			return d.rec.Deny
		}
		return slices.Concat(d.rec.Deny, notIn(d.in.Next.Deny, slices.Concat(d.rec.Deny, d.rec.Stable)))
	}
	if d.in.Leads {
		if l.Next = nil; d.in.Next != nil {
			l.Next = d.besides(d.in.Next.Deny)
		}
	}
	return slices.Concat(d.in.Deny, l.Next, notIn(d.besides(l.Also), l.Next))
}

// besides are those of some spellings that are neither stable's nor denied for the
// lock's canary; nil: none.
func (d *decider) besides(spelled []string) []string {
	if more := notIn(spelled, slices.Concat(d.in.Deny, d.in.Spare)); len(more) > 0 {
		return more
	}
	return nil
}

// passOn ends the lock of a canary that the configuration does not have any more, or
// has it be of the one that it has. It is the lease holder's to do, as soon as nothing
// leads to the canary of the lock.
func (d *decider) passOn() (c choice, passed bool) {
	n := d.in.Next
	if n == nil || !d.in.Leads || d.hasCanaryTraffic() {
		return c, false
	}
	refused := n.refused(d.rec.Refused)
	renamed := refused != "" && !n.Traffic.Clean() // what has v2's traffic now is called otherwise
	switch {
	case d.was.Status.Moving != nil && !renamed, d.in.Gone != "":
		return c, false // what was under way is told first
	case refused == "" && !d.replacedBy(*n):
		return c, false
	case !d.in.Live:
		d.wantLive = true
		return c, false
	case refused != "":
		return d.follow(*n, refused), true
	}
	return d.handOver(*n), true
}

// replacedBy says that a new build of the next canary would lift the lock, and that every
// ready pod of the next canary, and at least one, is of a present build. None of them may
// be refused, which the caller looks at, nor be older than the lock of an alert, which
// may be to blame on an old one; a lock because a refused build is back is to blame on that.
func (d *decider) replacedBy(n Next) bool {
	l, w := d.rec.Lock, n.Workload
	if !d.in.nextLifts(*l) || w.Build == "" || !w.allPresent() {
		return false
	}
	return l.By == ByRefused || !slices.ContainsFunc(w.readyBuilds(), func(b string) bool {
		made := w.Ages[b].Made
		return made.IsZero() || l.Since.Sub(made) >= ClockTolerance
	})
}

// handOver lifts the lock for a new build of the next canary, and begins anew with it at
// once: a replica that has not read the configuration yet would else lock the canary
// that was, which goes on running what is refused. What the rollback has led to stable
// stays there: it would be given to the canary that has failed.
func (d *decider) handOver(n Next) choice {
	why := fmt.Sprintf("build %s of canary %s, which the configuration has in place of %s, is ready and not among the refused", n.Workload.Build, n.Canary, d.in.Guard.Canary)
	d.lift(EventUnlocked, "new build", why+d.staysWith("stable", d.in.Guard.Canary.String()))
	d.rec.Changed = nil
	d.rec.Status.Moves = cmp.Or(d.rec.Status.Moves, MovesOf(d.in.Guard))
	d.exchange(&Moves{Stable: n.Stable.String(), Canary: n.Canary.String()})
	d.nextIsFirst()
	c := choice{text: cmp.Or(d.in.Absent, "canary gets no traffic"), reason: ReasonNewBuild, move: MoveMark, release: d.in.Owned}
	c.marks = Marks{State: StateIdle, Reason: c.text, Since: d.now}
	return c
}

// follow has a lock of the next canary, which runs a refused build, take the place of
// the one that stands: the subset has another name, or an old build is back there. What
// the other canary has stays denied.
func (d *decider) follow(n Next, refused string) choice {
	s, was, l := &d.rec.Status, d.in.Guard, *d.rec.Lock
	denied := d.denies()
	next := Lock{Kind: l.Kind, Build: refused, Refused: l.Refused, From: l.From, By: ByRefused, Since: d.now, Reason: refusedBefore(refused),
		Stable: n.Stable.String(), Canary: n.Canary.String(), Also: notIn(denied, n.Deny)}
	if !slices.Contains(next.Refused, refused) {
		next.Refused = append(next.Refused, refused)
	}
	if d.rec.Lock = &next; len(d.in.Deny) > 0 {
		d.rec.Denies(denied, d.in.Spare, was.Rollback)
	} else {
		d.rec.Deny = denied
	}
	text := fmt.Sprintf("canary %s, which the configuration has in place of %s, runs build %s, which is refused: the lock is of %s now", n.Canary, was.Canary, refused, n.Canary)
	d.note(EventLocked, ByRefused, text+d.staysWith("stable", d.in.Guard.Canary.String()))
	c := choice{state: d.was.Status.State, text: d.was.Status.Reason, reason: ReasonRefusedBuild}
	d.rec.Changed = nil // what the rollback has led to stable would be given to the canary that was
	d.startAnew()
	s.Build, s.BuildSince = n.Workload.Build, d.now // which is no new one
	switch t := n.Traffic; {
	case s.Moving.RollsBack(): // it goes on
	case t.Clean():
		c.state, c.text, s.Weight, s.Spread, s.Full = StateRolledBack, next.Reason, 0, 0, false
	default:
		c.state, c.text = StateShifting, "rolling back: "+next.Reason
		s.Weight, s.Spread, s.Full = t.Weight, max(0, t.Weight-t.Lowest), false
		s.Moving = &Moving{From: t.Weight, At: d.now, By: ByRefused, Build: refused, Reason: next.Reason, Signal: signalOf(next), Receipt: &Receipt{Lock: next.Kind, Seen: d.now}}
	}
	s.Moves = &Moves{VirtualServices: was.VirtualServices, Stable: next.Stable, Canary: next.Canary}
	d.requeueAt(d.now)
	return c
}

// nextText says of the configuration's canary that nothing brakes it while the lock of
// another stands, and what ends that; "": there is no such canary. It is the lease
// holder's to tell.
func (d *decider) nextText() string {
	n := d.in.Next
	if n == nil || !d.in.Leads {
		return ""
	}
	text := fmt.Sprintf("; the lock is of canary %s, and the configuration has %s", d.in.Guard.Canary, n.Canary)
	if !n.Traffic.Clean() {
		text += fmt.Sprintf(", which has %d%%", n.Traffic.Weight)
	}
	text += " and is not guarded until the lock is lifted: "
	if d.in.nextLifts(*d.rec.Lock) {
		text += "deploy a new build of " + n.Canary.String() + ", or "
	}
	return text + "guardian unlock"
}

// noteNext tells of an alert that nothing is rolled back for: what has traffic besides
// stable is the configuration's canary, of which the lock is not.
func (d *decider) noteNext() {
	if n := d.in.Next; n != nil && !n.Traffic.Clean() {
		for _, a := range d.rollback {
			d.noteAlert(a, fmt.Sprintf("not rolled back: the lock is of canary %s, and %s is not guarded until it is lifted: guardian unlock", d.in.Guard.Canary, n.Canary))
		}
	}
}

// nextLifts says that a new build of the configuration's canary lifts a lock that is of
// another.
func (in Input) nextLifts(l Lock) bool {
	n := in.Next
	rests := in.Traffic.Clean() && in.Unsafe == "" && in.Gone == "" && len(in.Unread) == 0
	told := n.Workload.Build != "" || len(n.Workload.Untold) == 0
	denied := slices.ContainsFunc(l.Also, func(spelled string) bool { return refOf(spelled) == n.Stable })
	return rests && told && !denied && l.Kind == LockBuild && in.Guard.Mode != ModeObserve && in.Record.Status.Observing == nil
}

// notOf is said of a lock to whom asks for a rollback of the configuration's canary,
// which is another; "": it is not.
func (d *decider) notOf() string {
	if len(d.rec.Lock.Next) == 0 {
		return ""
	}
	return "; the lock is of canary " + d.in.Guard.Canary.String() + ", and the configuration has another, which guardian moves only once that lock is lifted: guardian unlock"
}

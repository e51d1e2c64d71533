package decision

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// attribute is the second stage: it splits the alerts into those that count against
// the present build and those that hold.
func (d *decider) attribute() attribution {
	var out attribution
	s, since := &d.rec.Status, d.since()
	graceEnd := since.Add(d.in.Guard.AlertWindow)
	alerts := slices.Clone(d.in.Alerts)
	for i := range alerts { // a record has to stay small enough to be written
		a := &alerts[i]
		a.Name, a.Signal, a.Summary = Shorten(a.Name), Shorten(a.Signal), Shorten(a.Summary)
		a.Action = d.holdsAs(*a)
	}
	slices.SortFunc(alerts, func(a, b Alert) int {
		return cmp.Or(a.StartsAt.Compare(b.StartsAt), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Fingerprint, b.Fingerprint))
	})
	for _, a := range alerts {
		switch {
		case a.Action == ActionRollback && d.past(a):
			out.holds = append(out.holds, a)
			d.noteAlert(a, "it began before "+Stamp(s.EnforcedAt)+", when the guard came to enforce: it holds, and rolls back no build of that time")
		case a.Action == ActionRollback && (!d.began(a).Before(since) || !d.now.Before(graceEnd)):
			out.rollback = append(out.rollback, a)
		case a.Action == ActionRollback:
			out.holds = append(out.holds, a)
			out.graceEnd = graceEnd
			d.noteAlert(a, "it began before build "+s.Build+" appeared or was unlocked: it holds, and "+d.would("rolls back", "would roll back")+" if it still fires at "+Stamp(graceEnd))
		case a.Action == ActionHold:
			out.holds = append(out.holds, a)
			d.noteAlert(a, "no step forward while it fires: "+a.Summary)
		}
	}
	out.holds = slices.DeleteFunc(out.holds, d.unasked)
	out.holds = append(out.holds, d.share(alerts)...)
	slices.SortStableFunc(out.holds, func(a, b Alert) int {
		return cmp.Or(a.StartsAt.Compare(b.StartsAt), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// holdsAs is what an alert asks for. Replicas read their configurations one after the
// other: whether one that rolls nothing back holds is as the record lists it, which the
// lease holder brings up to date, or the guard would be held and not held in turns.
func (d *decider) holdsAs(a Alert) Action {
	switch {
	case a.Action == ActionHold && d.unasked(a):
		return ActionNone
	case !a.Action.asks() && !d.in.Leads && d.was.Status.lists(a.Episode()):
		return ActionHold
	}
	return a.Action
}

// unasked says that an alert asks for nothing by the lease holder's configuration, and
// that this replica's is another. The list of these is bounded: where it is full, it may
// be any that the record does not list as firing.
func (d *decider) unasked(a Alert) bool {
	s := d.was.Status
	return !d.in.Leads && (slices.Contains(s.Unasked, a.Episode()) || len(s.Unasked) >= maxFiring && !s.lists(a.Episode()))
}

// asksAlone says that the alerts which count do so by this replica's configuration
// alone. What follows from them at once is done, for a rollback waits for nobody; what
// leaves no more than a word in the record, the lease holder would take back each time.
func (d *decider) asksAlone() bool {
	return len(d.rollback) > 0 && !slices.ContainsFunc(d.rollback, func(a Alert) bool { return !d.unasked(a) })
}

// began is when an alert began: by Prometheus's clock, but no later than it was
// first heard by guardian's. With a clock that is ahead, an alert that a person
// knew of when unlocking would have begun after the unlock.
func (d *decider) began(a Alert) time.Time {
	heard := Firing{Began: a.StartsAt, Seen: d.now}
	for _, f := range d.was.Status.Firing {
		if f.Episode == a.Episode() && f.Seen.Before(heard.Seen) {
			heard.Seen = f.Seen
		}
	}
	return heard.Start()
}

// share brings the record's list of firing alerts up to date, and returns what only
// another replica has heard: that holds as well. It rolls back on the replica that
// heard it.
func (d *decider) share(alerts []Alert) (others []Alert) {
	s := &d.rec.Status
	knows := func(episode string) bool {
		return slices.ContainsFunc(alerts, func(a Alert) bool { return a.Episode() == episode })
	}
	s.Firing = slices.DeleteFunc(s.Firing, func(f Firing) bool {
		return d.in.Leads && !knows(f.Episode) && d.now.Sub(f.Seen) >= ListingKnows
	})
	if d.in.Leads {
		s.refreshFiring(alerts)
	}
	for _, a := range alerts {
		listed := s.lists(a.Episode()) || d.unasked(a)
		if !listed && a.Action.asks() && len(s.Firing) < maxFiring {
			s.Firing = append(s.Firing, Firing{Name: a.Name, Episode: a.Episode(), Action: a.Action, Began: a.StartsAt, Seen: d.now, Summary: a.Summary})
		}
	}
	s.Alerts = nil
	for _, f := range s.Firing {
		if !knows(f.Episode) { // without a fingerprint: heard by another
			others = append(others, Alert{Name: f.Name, Action: f.Action, StartsAt: f.Began, Summary: f.Summary})
			if d.in.Leads {
				d.requeueAt(f.Seen.Add(ListingKnows))
			}
		}
		if !slices.Contains(s.Alerts, f.Name) {
			s.Alerts = append(s.Alerts, f.Name)
		}
	}
	slices.Sort(s.Alerts)
	return others
}

// refreshFiring has the list go by what its alerts ask for now: the configuration may
// have taken that from them while they fire, or a silence. One that asks for nothing is
// no longer listed, and another replica to which it asks for something does not list it
// again.
func (s *Status) refreshFiring(alerts []Alert) {
	kept := s.Firing[:0]
	s.Unasked = slices.DeleteFunc(s.Unasked, func(episode string) bool {
		return !slices.ContainsFunc(alerts, func(a Alert) bool {
			return a.Episode() == episode && !a.Action.asks()
		})
	})
	for _, f := range s.Firing {
		if i := slices.IndexFunc(alerts, func(a Alert) bool { return a.Episode() == f.Episode }); i >= 0 {
			f.Action = alerts[i].Action
		}
		if f.Action.asks() {
			kept = append(kept, f)
		} else if len(s.Unasked) < maxFiring {
			s.Unasked = append(s.Unasked, f.Episode)
		}
	}
	s.Firing = kept
	if len(s.Unasked) == 0 {
		s.Unasked = nil
	}
}

// noteAlert records once per episode that an alert was heard and why nothing
// follows.
func (d *decider) noteAlert(a Alert, why string) {
	s := &d.rec.Status
	if slices.Contains(s.Noted, a.Episode()) {
		return
	}
	if len(s.Noted) >= maxNoted {
		s.Noted = slices.DeleteFunc(s.Noted, d.isOver)
	}
	if len(s.Noted) >= maxNoted {
		return // to forget one that still fires would be to tell of it again
	}
	s.Noted = append(s.Noted, a.Episode())
	e := d.entry(EventNoted, ByAlert, why)
	e.Alert = a.Name
	d.rec.History = append(d.rec.History, e)
}

// isNew says of an alert that the record does not know it to fire.
func (d *decider) isNew(a Alert) bool {
	return !slices.Contains(d.was.Status.Unasked, a.Episode()) && !d.was.Status.lists(a.Episode())
}

// isOver says that no replica knows an episode to fire.
func (d *decider) isOver(episode string) bool {
	return !slices.ContainsFunc(d.in.Alerts, func(a Alert) bool { return a.Episode() == episode }) &&
		!d.was.Status.lists(episode)
}

// past says of an alert that it began while the guard observed, against a build
// that ran then: it holds, and never rolls that build back.
func (d *decider) past(a Alert) bool {
	return d.rec.Status.Past(d.began(a))
}

// whyPast follows after an alert that holds, if it rolls back nothing however
// long it fires.
func (d *decider) whyPast(a Alert) string {
	if !d.past(a) {
		return ""
	}
	return fmt.Sprintf("; it began before %s, when mode enforce did, so it rolls back nothing: guardian rollback does, or an alert that begins anew", Stamp(d.rec.Status.EnforcedAt))
}

// alertFiring says that an alert fires, or that another replica has heard one about
// this build: one about an earlier build may be over, for all that it tells.
func (d *decider) alertFiring() bool {
	return len(d.rollback) > 0 || slices.ContainsFunc(d.holds, func(a Alert) bool {
		return a.Fingerprint != "" || !a.StartsAt.Before(d.since())
	})
}

// holding are the alerts that show a guard as held. Whether a rollback alert
// counts or holds is seen differently by replicas that have not all heard it: as
// long as one would have rolled back, it shows no more than that.
func (d *decider) holding() []Alert {
	if o := d.rec.Status.Observing; o == nil || o.Would == nil {
		return d.holds
	}
	return slices.DeleteFunc(slices.Clone(d.holds), asksForRollback)
}

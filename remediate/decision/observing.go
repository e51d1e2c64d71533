package decision

import (
	"fmt"
	"slices"
)

// behind says that this replica's configuration observes and the record does not, or
// that it has another stable or canary (any more, or yet): what a rollback is wanted
// for, another replica will do.
func (d *decider) behind() bool {
	return d.observing() && d.rec.Status.Observing == nil || !d.in.Leads && d.otherPair()
}

// readMode brings the record to the mode of the configuration.
func (d *decider) readMode() {
	s, observe := &d.rec.Status, d.in.Guard.Mode == ModeObserve
	begins, ends := observe && s.Observing == nil, !observe && s.Observing != nil
	first := s.State == StateUnknown
	switch {
	case begins && (first || d.in.Leads):
		s.Observing = &Observing{Since: d.now}
		d.supersede("mode observe")
		s.Promoting = ""
		if !first {
			d.note(EventObserving, "", "mode observe: what is decided is told, and no VirtualService is written"+d.standing())
		}
	case ends && d.in.Live:
		d.enforce()
	case ends && d.in.Leads:
		d.wantLive = true // which builds run now must not be an old cache's word
	}
	if d.observing() {
		d.in.Guard.Promotion.Mode, d.in.Unrecorded = PromotionOff, nil
	}
}

// standing is what whoever begins to observe should know of a lock.
func (d *decider) standing() string {
	if d.rec.Lock == nil {
		return ""
	}
	return "; the lock that stands is kept until a person unlocks"
}

// enforce ends observing. What fires now is of the past, and so is a build that
// runs although it was refused before.
func (d *decider) enforce() {
	s := &d.rec.Status
	s.Observing, s.EnforcedAt, s.Noted = nil, d.now, nil
	text := "mode enforce: an alert that begins from now on rolls back"
	if d.rec.Lock == nil {
		var back []string
		for _, b := range d.in.Canary.readyBuilds() {
			if slices.Contains(d.rec.Refused, b) {
				back = append(back, b)
			}
		}
		if d.allowBuild(back...); len(back) > 0 {
			text += "; build " + few(back) + ", which was rolled back before, runs and is refused no more"
		}
	}
	d.note(EventEnforcing, "", text)
}

// hearOnly is a pass by a replica that is behind: what fires is recorded, and all
// else is the lease holder's to find.
func (d *decider) hearOnly() choice {
	why := "heard by a replica whose configuration observes; the record enforces, so the others roll back"
	if !d.observing() {
		why = "heard by a replica whose configuration has another stable or canary than the record, by which the others go"
	}
	for _, a := range d.rollback {
		d.noteAlert(a, why)
	}
	return choice{state: d.was.Status.State, text: d.was.Status.Reason, reason: ReasonNothing}
}

// endWould forgets a would-be rollback when its lock would be lifted and not be set
// again at once, or when the build has outlived its rollback window. Where builds tell
// nothing apart it lasts as long as an alert fires. That is the lease holder's to see:
// another replica's cache may lag, and the same would be told twice.
func (d *decider) endWould() {
	o := d.rec.Status.Observing
	if o == nil || o.Would == nil || !d.in.Leads {
		return
	}
	over := d.replaced(o.Would.Refused) && !d.stillWould(*o.Would)
	if d.in.Guard.Rollback.Lock == LockNone || len(o.Would.Refused) == 0 {
		over = len(d.rollback) == 0 && !slices.ContainsFunc(d.holds, asksForRollback)
	}
	if over || d.completed() {
		o.Would = nil
	}
}

// stillWould says that the alert of a would-be rollback goes on firing, and that the
// build which it then counted against is the present one: it may have been told for
// another that served beside it, and would be told anew by each pass.
func (d *decider) stillWould(w Would) bool {
	fires := d.rec.Status.lists(w.Episode) ||
		slices.ContainsFunc(d.rollback, func(a Alert) bool { return a.Episode() == w.Episode })
	return w.Build == d.rec.Status.Build && fires
}

// replaced says that every ready pod of the canary, and at least one, is of the present
// build, and none of these.
func (d *decider) replaced(builds []string) bool {
	c := d.in.Canary
	return c.Build != "" && c.allPresent() && !slices.ContainsFunc(c.readyBuilds(), func(b string) bool { return slices.Contains(builds, b) })
}

// wouldRollBack tells of a rollback in place of doing it: once for as long as it
// would stand.
func (d *decider) wouldRollBack(l Lock, reason Reason) choice {
	o, why := d.rec.Status.Observing, d.unsafe()
	c := choice{reason: ReasonWould, state: d.observed(), text: fmt.Sprintf("canary has %d%%", d.in.Traffic.Weight)}
	if !d.hasCanaryTraffic() {
		c.state, c.text, why = StateIdle, "canary gets no traffic", ""
	}
	switch {
	case o.Would == nil && reason == ReasonAlert && d.asksAlone():
		return d.holdOrPromote(c)
	case o.Would == nil:
		o.Would = d.newWould(l, reason, why)
		d.doubt = true
		d.tellWould()
	case o.Would.Blocked != "" && why == "" && d.hasCanaryTraffic():
		o.Would.From, o.Would.Blocked = d.in.Traffic.Weight, ""
		d.tellWould()
	}
	for _, a := range d.rollback {
		if a.Episode() != o.Would.Episode {
			d.noteAlert(a, "it would have been rolled back already: "+o.Would.Reason)
		}
	}
	return d.holdOrPromote(c)
}

func (d *decider) newWould(l Lock, reason Reason, why string) *Would {
	w := &Would{At: d.now, From: d.in.Traffic.Weight, Build: d.rec.Status.Build, Refused: d.blamed(l, reason), Signal: signalOf(l),
		Alert: l.Alert, Reason: Shorten(l.Reason), Blocked: Shorten(why)}
	if reason == ReasonAlert {
		w.Episode = d.rollback[0].Episode()
	}
	return w
}

// tellWould adds a would-be rollback to the history. The weights of the entry
// are those that stay.
func (d *decider) tellWould() {
	w := d.rec.Status.Observing.Would
	e := d.entry(EventWould, ByAlert, "")
	switch {
	case w.Blocked != "":
		e.Event, e.Reason = EventWouldBlocked, fmt.Sprintf("a rollback would be wanted, because %s, and could not be done: %s", w.Reason, w.Blocked)
	case w.From == 0:
		e.Reason = "would have been locked at 0%, because " + w.Reason
	default:
		e.Reason = fmt.Sprintf("would have rolled back %d%% → 0%%, because %s", w.From, w.Reason)
	}
	if w.Alert == "" {
		e.By = ByRefused
	}
	if w.Blocked == "" {
		d.signal = w.Signal
	}
	e.Alert, e.From = w.Alert, e.To
	if i := slices.IndexFunc(d.rollback, func(a Alert) bool { return w.Episode != "" && a.Episode() == w.Episode }); i >= 0 {
		e.Fired = d.rollback[i].StartsAt.UTC()
	}
	d.rec.History = append(d.rec.History, e)
}

// observingText is what follows after the reason of a guard that observes: what would
// be so if it enforced.
func (d *decider) observingText(c choice) string {
	if !d.observing() || d.behind() {
		return "" // what hearOnly leaves has it
	}
	var text string
	if o := d.rec.Status.Observing; o != nil && o.Would != nil && c.state != StateDisarmed {
		text = "; " + o.Would.Text()
	}
	if d.rec.Lock == nil && d.in.Marked != nil {
		text += "; annotation " + LockKey(d.in.Guard.Name) + " of a lock that was lifted still stands on a VirtualService: guardian unlock takes it off"
	}
	return text
}

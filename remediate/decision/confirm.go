package decision

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Moving is a change of the canary's weight that guardian has decided on. It
// stands in the record until the API server has been seen to have it: until then
// nothing says that it has happened.
type Moving struct {
	To      int       `json:"to"`             // the canary's weight after it, percent
	From    int       `json:"from"`           // and before
	Step    int       `json:"step,omitempty"` // weight of the step that asks for it; 0: a rollback
	At      time.Time `json:"at"`
	By      string    `json:"by"` // as in the history
	Build   string    `json:"build,omitempty"`
	Reason  string    `json:"reason,omitempty"`
	Alert   string    `json:"alert,omitempty"`
	Signal  string    `json:"signal,omitempty"`  // what guardian_rollbacks_total counts it as
	Again   bool      `json:"again,omitempty"`   // of a canary that was locked and at 0 before
	Begins  bool      `json:"begins,omitempty"`  // a step of a build that the scheduler was not to move forward before
	Refused string    `json:"refused,omitempty"` // what the API server has answered to the last try
	Receipt *Receipt  `json:"receipt,omitempty"` // of a rollback, as far as it is known when it is decided

	Requests []Asker `json:"requests,omitempty"` // whose requests it carries out, and answers when it is done or given up
}

// RollsBack says that the change of weights that is under way, if there is one, is a
// rollback.
func (m *Moving) RollsBack() bool { return m != nil && m.Step == 0 }

// StepsTo says that the change of weights that is under way, if there is one, is a step
// to weight percent.
func (m *Moving) StepsTo(weight int) bool { return m != nil && m.Step > 0 && m.To == weight }

// signalOf is the value of the label signal that a rollback counts with.
func signalOf(l Lock) string {
	switch {
	case slices.Contains(Signals[:], l.Signal):
		return l.Signal
	case l.By == ByRefused:
		return "refused_build"
	case l.By == ByAlert:
		return "other"
	}
	return "person"
}

// Marks are what the VirtualService says of a guard: what is true as soon as the
// patch that writes them is taken.
type Marks struct {
	State  State
	Reason string
	Since  time.Time
	Build  string

	Message string // of the lock, for whoever is refused; empty: that of the record
}

// observed is the state of a canary that gets traffic and that nothing holds.
func (d *decider) observed() State {
	s := d.rec.Status
	switch {
	case !d.in.Traffic.Full():
		return StateShifting
	case s.Unverified:
		return StateUnverified
	case !s.CompletedAt.IsZero():
		return StateCompleted
	}
	return StatePromoted
}

// returnTraffic has everything go to stable. That it has is told when it is
// seen: see confirm.
func (d *decider) returnTraffic(l Lock, reason Reason) choice {
	d.expectStable(l)
	c := choice{move: MoveStable, reason: reason, state: d.observed(), text: "rolling back: " + l.Reason}
	m := d.rec.Status.Moving
	if m.Refused != "" {
		c.state, c.text = StateBlocked, notDone(m.Refused)
	}
	c.marks = Marks{State: StateIdle, Reason: notLocked(l.Reason), Since: m.At, Build: d.rec.Status.Build}
	if d.rec.Lock != nil {
		c.marks.State, c.marks.Reason = StateRolledBack, d.lockText()
	}
	return c
}

// tellLock says in the record what whoever is refused for the lock should know, and
// returns what is written of it together with the weights; empty: the same.
func (d *decider) tellLock(c choice) string {
	others := !d.in.Leads && (d.in.Next != nil || len(d.rec.Lock.Next) > 0)
	if d.rec.Message != "" && (d.turned() || d.unread() || others) {
		return "" // it would name others than the lock is of, or the two the wrong way round
	}
	g, l := d.in.Guard, *d.rec.Lock
	done := fmt.Sprintf("guardian rolled %s back to %s at %s", g.Name, g.Stable, Stamp(l.Since))
	what := fmt.Sprintf("guardian locked %s on %s at %s", g.Name, g.Stable, Stamp(l.Since))
	switch {
	case c.state == StateBlocked:
		what = lockBlocked(g, l, c.text)
	case !d.hasCanaryTraffic(), c.reason == ReasonReassert:
		what = done
	case c.move == MoveStable:
		what = fmt.Sprintf("guardian is rolling %s back to %s since %s", g.Name, g.Stable, Stamp(l.Since))
	}
	d.rec.Message = lockMessage(d.in, l, what)
	if c.move == MoveStable {
		return lockMessage(d.in, l, done)
	}
	return ""
}

func lockBlocked(g Guard, l Lock, why string) string {
	return fmt.Sprintf("guardian wants %s back on %s since %s but cannot yet (%s)", g.Name, g.Stable, Stamp(l.Since), shortenTo(oneLine(why), maxLockMessage/4))
}

// expectStable records that traffic is to go to stable.
func (d *decider) expectStable(l Lock) {
	if s := &d.rec.Status; !s.Moving.RollsBack() {
		d.supersede("rolling back: " + l.Reason)
		s.Moving = &Moving{From: d.in.Traffic.Weight, At: d.now, By: l.By, Build: s.Build, Reason: l.Reason, Alert: l.Alert, Signal: signalOf(l), Receipt: d.newReceipt(l)}
	}
	d.carry()
}

func notDone(why string) string { return "not done: " + why }

func notLocked(reason string) string { return "rolled back, not locked: " + reason }

// confirm tells of a rollback that the canary's traffic shows to be done.
func (d *decider) confirm() {
	m := d.rec.Status.Moving
	if !m.RollsBack() {
		return
	}
	event := EventRolledBack
	if m.Again {
		event = EventReasserted
	}
	e := d.entry(event, m.By, m.Reason)
	e.Alert, e.From, e.To = m.Alert, m.From, 0
	if m.Receipt != nil && m.By == ByAlert && !m.Again {
		e.Fired = m.Receipt.Fired
	}
	d.rec.History = append(d.rec.History, e)
	if !m.Again {
		d.keepReceipt(m)
	}
	d.endMoving(ResultDone, string(event)+": "+m.Reason)
	d.signal = m.Signal
}

// confirmStep tells of a step that the canary's traffic shows to be done.
func (d *decider) confirmStep() {
	m := d.rec.Status.Moving
	if m == nil || m.Step == 0 {
		return
	}
	e := d.entry(EventStep, m.By, fmt.Sprintf("step to %d%%", m.Step))
	e.From, e.To = m.From, m.Step
	d.rec.History = append(d.rec.History, e)
	d.endMoving(ResultDone, string(EventStep)+": "+e.Reason)
}

// isNew says of an alert that the record does not know it to fire.
func (d *decider) isNew(a Alert) bool {
	return !slices.Contains(d.was.Status.Unasked, a.Episode()) && !d.was.Status.lists(a.Episode())
}

// untilBack ends the reason of a guard that is blocked since a VirtualService of its
// lock does not exist.
const untilBack = ": until it is back, locked again at once, requests reach all pods of its hosts, the canary's too"

// LacksVirtualService says whether a guard is blocked since a VirtualService of its
// lock does not exist.
func (s Status) LacksVirtualService() bool {
	return s.State == StateBlocked && strings.HasSuffix(s.Reason, untilBack)
}

// gone tells of a locked guard one of whose VirtualServices does not exist: where
// there is none, Istio sends requests to all pods of the host, the canary's too.
func (d *decider) gone() choice {
	text := d.in.Gone + untilBack
	if d.was.Status.State != StateBlocked {
		d.note(EventBlocked, "", "locked, and "+text)
	}
	d.doubt = d.doubt || d.was.Status.Reason != text // a cache that lags may not know yet that it is back
	return choice{state: StateBlocked, reason: ReasonBlocked, text: text}
}

// giveUpAfter is how long a rollback without a lock is waited for that nothing asks for
// any more: the replica that has begun it may hear what others do not, and writes the
// record before the VirtualServices.
const giveUpAfter = 10 * time.Second

// justBegun says that a rollback was begun a moment ago, by a clock that may differ.
func (d *decider) justBegun() bool {
	m := d.rec.Status.Moving
	if !m.RollsBack() || d.now.Sub(m.At).Abs() >= giveUpAfter {
		return false
	}
	d.requeueAt(m.At.Add(giveUpAfter))
	return true
}

// giveUp forgets a rollback that nothing asks for any more before it was done:
// without a lock it lasts no longer than its alert.
func (d *decider) giveUp() {
	if d.rec.Status.Moving.RollsBack() {
		text := "the rollback was not done: nothing asks for it any more"
		d.endMoving(ResultRefused, text)
		d.note(EventMissed, "", text)
	}
}

// WhenRefused is the decision when the API server has refused what it writes to the
// VirtualServices: the record says so, and it is tried again.
func (d Decision) WhenRefused(in Input, why string, now time.Time) Decision {
	why = Shorten(why)
	was := d.Record
	d.Record = was.Clone()
	s := &d.Record.Status
	d.Added = nil
	switch {
	case d.Move == MoveForward:
		d.Record.refuseStep(why)
	case d.Move == MoveStable:
		if s.Moving == nil {
			s.Moving = &Moving{From: in.Traffic.Weight, At: now, Build: s.Build, Reason: string(ReasonReassert), Signal: "other", Again: true}
		}
		s.Moving.Refused = why
		if s.State != StateBlocked {
			s.Since = now
		}
		s.State, s.Reason = StateBlocked, notDone(why)
		s.Weight, s.Spread = in.Traffic.Weight, max(0, in.Traffic.Weight-in.Traffic.Lowest)
		if was.Status.State != StateBlocked || was.Status.Moving == nil || was.Status.Moving.Refused == "" {
			d.Record.History = append(d.Record.History, HistoryEntry{At: now, State: StateBlocked, Event: EventBlocked, From: s.Weight, To: s.Weight,
				Build: s.Build, Alert: s.Moving.Alert, Reason: "rollback " + s.Reason})
		}
		if l := d.Record.Lock; l != nil {
			d.Record.Message = lockMessage(in, *l, lockBlocked(in.Guard, *l, s.Reason))
		}
	}
	d.Added = d.Record.History[len(was.History):]
	return d
}

// refuseStep records that the API server does not take a step.
func (r *Record) refuseStep(why string) {
	s := &r.Status
	if s.Moving == nil {
		return
	}
	s.Moving.Refused = why
	s.NextStep, s.WaitingFor, s.Waiting = s.Moving.Step, WaitVirtualService, refusedStep(s.Moving)
}

func refusedStep(m *Moving) string {
	return fmt.Sprintf("waiting: the step to %d%% is %s", m.Step, notDone(m.Refused))
}

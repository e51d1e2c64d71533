package decision

import "time"

func (d *decider) entry(event Event, by, why string) HistoryEntry {
	return HistoryEntry{At: d.now, Event: event, By: by, From: d.was.Status.Weight, To: d.in.Traffic.Weight,
		Build: d.rec.Status.Build, Reason: why}
}

// note adds to the history. The state is filled in when it is known.
func (d *decider) note(event Event, by, why string) {
	d.rec.History = append(d.rec.History, d.entry(event, by, why))
}

// noteReassert records a storm of re-assertions once a minute.
func (d *decider) noteReassert() {
	for e := range d.rec.NewestFirst() {
		if e.Event == EventReasserted {
			if _, last := e.Count(); d.now.Sub(last).Abs() < ReassertCoalesce {
				return
			}
			break
		}
	}
	e := d.entry(EventReasserted, "", string(ReasonReassert))
	e.State, e.From, e.To = StateRolledBack, d.in.Traffic.Weight, 0
	d.then = append(d.then, e)
}

// Event names what an entry of the history tells of.
type Event string

// The events, but for those of a guard that observes (EventWould).
const (
	EventRolledBack  Event = "rolled-back"  // the canary is at 0, and locked unless the guard has no locks
	EventBlocked     Event = "blocked"      // a rollback is wanted and cannot be done
	EventLocked      Event = "locked"       // a lock without a move of traffic
	EventUnlocked    Event = "unlocked"     // the lock was lifted
	EventReasserted  Event = "reasserted"   // the canary had traffic again while locked, and was put back
	EventStep        Event = "step"         // a step of promotion was seen
	EventMissed      Event = "missed"       // a step that was recorded was not made
	EventWaiting     Event = "waiting"      // what a step waits for
	EventShifted     Event = "shifted"      // others moved traffic
	EventPromoted    Event = "promoted"     // the canary has all traffic
	EventUnverified  Event = "unverified"   // a new build came while the canary had all traffic
	EventCompleted   Event = "completed"    // the rollback window is over
	EventNoted       Event = "noted"        // an alert that moved nothing
	EventNewBuild    Event = "new-build"    // of the canary
	EventPaused      Event = "paused"       // no step forward
	EventResumed     Event = "resumed"      // the end of a pause
	EventDisarmed    Event = "disarmed"     // the brake is off
	EventArmed       Event = "armed"        // the end of a disarm
	EventRefused     Event = "refused"      // a request, or a build
	EventUnreadable  Event = "unreadable"   // keys of the record
	EventObserving   Event = "observing"    // the mode became observe
	EventEnforcing   Event = "enforcing"    // the mode became enforce
	EventOrphaned    Event = "orphaned"     // the configuration has the guard no more
	EventLeaving     Event = "leaving"      // a VirtualService cannot be given back
	EventLeft        Event = "left"         // a VirtualService was given back
	EventExchanged   Event = "exchanged"    // the configuration has another stable or canary
	EventUnguarded   Event = "unguarded"    // another VirtualService leads to the canary
	EventForeignLock Event = "foreign-lock" // another user's lock holds a canary
	EventMarkedWrong Event = "marked-wrong" // a person says that a rollback of the past was wrong
	EventMarkedRight Event = "marked-right" // or right
)

// IsRollback says of an event that it is one, or what would have been one.
func (e Event) IsRollback() bool { return e == EventRolledBack || e == EventWould }

// HistoryEntry is one decision that changed something, or an alert that was
// recorded without a change.
type HistoryEntry struct {
	At     time.Time `json:"at"`
	State  State     `json:"state"`
	Event  Event     `json:"event"`
	By     string    `json:"by,omitempty"`
	From   int       `json:"from"` // canary's weight before, percent
	To     int       `json:"to"`   // and after
	Build  string    `json:"build,omitempty"`
	Alert  string    `json:"alert,omitempty"`
	Reason string    `json:"reason"`

	Fired time.Time `json:"fired,omitzero"` // when the alert of a rollback, or a would-be one, began, by Prometheus's clock
	Of    time.Time `json:"of,omitzero"`    // of a mark: At of the entry that it is about

	Times int       `json:"times,omitempty"` // how often it came, in a row; 0: once
	Last  time.Time `json:"last,omitzero"`   // when it last did; zero: at At
}

// Count is how often an entry came in a row, and when it last did.
func (e HistoryEntry) Count() (times int, last time.Time) {
	if e.Last.IsZero() {
		return max(1, e.Times), e.At
	}
	return max(1, e.Times), e.Last
}

// and makes one entry of two of which the second says what the first does; ok is false
// where they do not, or where each is of interest.
func (e HistoryEntry) and(next HistoryEntry) (both HistoryEntry, ok bool) {
	like := next
	like.At, like.Times, like.Last = e.At, e.Times, e.Last
	if !e.Event.isRemark() || e != like {
		return e, false
	}
	times, _ := e.Count()
	more, last := next.Count()
	e.Times, e.Last = times+more, last
	return e, true
}

// coalesce is a history in which what came several times in a row is one entry.
func coalesce(all []HistoryEntry) []HistoryEntry {
	var out []HistoryEntry
	for _, e := range all {
		if n := len(out); n > 0 {
			if both, ok := out[n-1].and(e); ok {
				out[n-1] = both
				continue
			}
		}
		out = append(out, e)
	}
	return out
}

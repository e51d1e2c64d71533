package decision

import (
	"fmt"
	"time"
)

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

// The events of ModeObserve in a history.
const (
	EventWould        Event = "would-have-rolled-back"
	EventWouldBlocked Event = "would-be-blocked"
)

// IsRollback says of an event that it is one, or what would have been one.
func (e Event) IsRollback() bool { return e == EventRolledBack || e == EventWould }

// isRemark says of an event that it may come over and over again while nothing changes.
func (e Event) isRemark() bool {
	switch e {
	case EventNoted, EventWaiting, EventReasserted, EventMissed, EventBlocked, EventWouldBlocked, EventRefused, EventUnguarded, EventForeignLock, EventUnreadable, EventLeaving:
		return true
	}
	return false
}

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

// MaxHistoryBytes is the most of a record's history; the oldest entries go first.
const MaxHistoryBytes = 32 << 10

// Repeated is the reason of an entry of the history, with how often it came in a row.
func Repeated(e HistoryEntry) string {
	times, last := e.Count()
	if times == 1 {
		return e.Reason
	}
	return fmt.Sprintf("%s (%d times, last at %s)", e.Reason, times, Stamp(last))
}

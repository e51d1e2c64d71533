package decision

import "time"

func (d *decider) entry(event, by, why string) HistoryEntry {
	return HistoryEntry{At: d.now, Event: event, By: by, From: d.was.Status.Weight, To: d.in.Traffic.Weight,
		Build: d.rec.Status.Build, Reason: why}
}

// note adds to the history. The state is filled in when it is known.
func (d *decider) note(event, by, why string) {
	d.rec.History = append(d.rec.History, d.entry(event, by, why))
}

// noteReassert records a storm of re-assertions once a minute.
func (d *decider) noteReassert() {
	for e := range d.rec.NewestFirst() {
		if e.Event == "reasserted" {
			if d.now.Sub(e.At).Abs() < ReassertCoalesce {
				return
			}
			break
		}
	}
	e := d.entry("reasserted", "", string(ReasonReassert))
	e.State, e.From, e.To = StateRolledBack, d.in.Traffic.Weight, 0
	d.then = append(d.then, e)
}

// HistoryEntry is one decision that changed something, or an alert that was
// recorded without a change.
type HistoryEntry struct {
	At     time.Time `json:"at"`
	State  State     `json:"state"`
	Event  string    `json:"event"` // rolled-back, blocked, unlocked, reasserted, step, waiting, promoted, completed, noted, …
	By     string    `json:"by,omitempty"`
	From   int       `json:"from"` // canary's weight before, percent
	To     int       `json:"to"`   // and after
	Build  string    `json:"build,omitempty"`
	Alert  string    `json:"alert,omitempty"`
	Reason string    `json:"reason"`
}

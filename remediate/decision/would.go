package decision

import (
	"fmt"
	"slices"
	"time"
)

// Observing is a guard of ModeObserve, as the lease holder has it.
type Observing struct {
	Since time.Time `json:"since"`           // when the mode was first seen
	Would *Would    `json:"would,omitempty"` // the rollback that would stand now; nil: none would
}

func (o Observing) clone() *Observing {
	if o.Would != nil {
		w := *o.Would
		w.Refused = slices.Clone(w.Refused)
		o.Would = &w
	}
	return &o
}

// Would is a rollback that ModeObserve has kept from being done. It stands as the
// lock would: until the canary's ready pods are all of builds that the alert was
// not about.
type Would struct {
	At      time.Time `json:"at"`
	From    int       `json:"from"`            // the canary's weight then, percent
	Build   string    `json:"build,omitempty"` // the present one then
	Refused []string  `json:"refused,omitempty"`
	Signal  string    `json:"signal"` // as guardian_would_rollbacks_total counts it
	Alert   string    `json:"alert,omitempty"`
	Episode string    `json:"episode,omitempty"` // of that alert
	Reason  string    `json:"reason"`
	Blocked string    `json:"blocked,omitempty"` // why it could not have been done yet
}

// Text is a would-be rollback in words.
func (w Would) Text() string {
	if w.Blocked != "" {
		return fmt.Sprintf("a rollback would be wanted since %s (%s) and could not be done: %s", Stamp(w.At), w.Reason, w.Blocked)
	}
	if w.From == 0 {
		return fmt.Sprintf("would have been locked at 0%% at %s: %s", Stamp(w.At), w.Reason)
	}
	return fmt.Sprintf("would have been rolled back %d%% → 0%% at %s: %s", w.From, Stamp(w.At), w.Reason)
}

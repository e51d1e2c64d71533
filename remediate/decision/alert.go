package decision

import "time"

// Action is what an alert asks for.
type Action string

// The actions of an alert. Anything else is recorded and moves nothing.
const (
	ActionRollback Action = "rollback"
	ActionHold     Action = "hold"
	ActionNone     Action = "none" // for people alone
	ActionOff      Action = "off"  // of no alert: of a signal that raises none
)

// asks says that an alert of this action asks for something.
func (a Action) asks() bool { return a == ActionRollback || a == ActionHold }

// Alert is one firing episode that names a guard. Its identity is fingerprint
// and StartsAt together; StartsAt is by Prometheus's clock.
type Alert struct {
	Name        string
	Signal      string
	Action      Action
	Fingerprint string
	StartsAt    time.Time
	Summary     string
	Limit       string    // that it says was exceeded, in words; empty: not known
	Received    time.Time // by guardian's clock; zero: not known, or it was listed
	Traces      string    // URL of the canary's traces then; empty: not known
}

// Episode identifies one firing of one alert.
func (a Alert) Episode() string {
	return a.Fingerprint + "@" + a.StartsAt.UTC().Format(time.RFC3339Nano)
}

func asksForRollback(a Alert) bool { return a.Action == ActionRollback }

// SignalAction is a signal, as the configuration calls it, and what its alerts ask for
// at most: a hold, none, or nothing at all because it is off.
type SignalAction struct {
	Signal string `json:"signal"`
	Action Action `json:"action"`
}

// Firing is an alert that some replica knows to fire. Any replica adds to the
// list; only the lease holder takes away what it does not know to fire itself,
// and only after a listing must have told it.
type Firing struct {
	Name    string    `json:"name"`
	Episode string    `json:"episode"`
	Action  Action    `json:"action"`
	Began   time.Time `json:"began"` // by Prometheus's clock
	Seen    time.Time `json:"seen"`  // first, by guardian's
	Summary string    `json:"summary,omitempty"`
}

// Start is when an alert began: by Prometheus's clock, but no later than it was first
// heard by guardian's.
func (f Firing) Start() time.Time {
	if f.Began.After(f.Seen) {
		return f.Seen
	}
	return f.Began
}

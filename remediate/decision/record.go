package decision

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/canary-guardian/guardian/remediate/virtualservice"
)

// State is where a guard stands. The package comment has the table.
type State string

// The states of a guard.
const (
	StateUnknown    State = ""            // not looked at yet
	StateIdle       State = "idle"        // the canary gets nothing
	StateShifting   State = "shifting"    // traffic is split
	StatePromoted   State = "promoted"    // canary at 100%, inside its rollback window
	StateUnverified State = "unverified"  // a new build took the canary's place while it had 100%
	StateCompleted  State = "completed"   // after the window: rolling back is no longer right
	StateRolledBack State = "rolled-back" // locked, canary at 0
	StateBlocked    State = "blocked"     // a rollback is wanted but cannot be done safely
	StateHeld       State = "held"        // an alert holds it where it is
	StatePaused     State = "paused"      // no step forward until a person resumes; the brake is on
	StateDisarmed   State = "disarmed"    // a person took the brake off, with an end
)

// States lists every state a guard can be in, for metrics.
var States = []State{StateIdle, StateShifting, StatePromoted, StateUnverified, StateCompleted,
	StateRolledBack, StateBlocked, StateHeld, StatePaused, StateDisarmed}

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

// Lock keeps the canary at weight 0. Since is by guardian's clock, StartsAt by
// Prometheus's. It is of one pair, whatever the configuration has by now.
type Lock struct {
	Kind        LockKind  `json:"kind"`
	Build       string    `json:"build"`             // the present one, if it is refused, else the first that is
	Refused     []string  `json:"refused,omitempty"` // builds that it refuses: those that an unlock allows
	Coming      []string  `json:"coming,omitempty"`  // present builds that had had no ready pod when it was set
	From        string    `json:"from,omitempty"`    // the guard whose lock it was at first
	Signal      string    `json:"signal,omitempty"`
	Alert       string    `json:"alert,omitempty"`
	Fingerprint string    `json:"fingerprint,omitempty"`
	StartsAt    time.Time `json:"startsAt,omitzero"`
	Since       time.Time `json:"since"`
	By          string    `json:"by"` // "alert" or the person's name
	Reason      string    `json:"reason"`
	Stable      string    `json:"stable,omitempty"` // of the pair that it is of, as in Moves; empty: that of Moves
	Canary      string    `json:"canary,omitempty"` // the same
	Also        []string  `json:"also,omitempty"`   // host/subset of what is denied besides: the canary that it was of before
	Next        []string  `json:"next,omitempty"`   // the same of the configuration's canary, where that is another
}

// Status is what guardian last saw and decided; times are by guardian's clock.
type Status struct {
	State       State     `json:"state"`
	Since       time.Time `json:"since"`  // when the state began
	Weight      int       `json:"weight"` // canary's share in percent, 0–100: the highest of its routes
	Reason      string    `json:"reason,omitempty"`
	Build       string    `json:"build,omitempty"`      // of the canary; empty: unknown
	BuildSince  time.Time `json:"buildSince,omitzero"`  // when that build appeared
	AloneSince  time.Time `json:"aloneSince,omitzero"`  // when the last rollout of a new build ended, by its pods: until then the build before answered as well; zero: none was seen
	MovedAt     time.Time `json:"movedAt,omitzero"`     // last change of Weight by anybody, or of what it leads to: since then the build is watched
	Spread      int       `json:"spread,omitempty"`     // how far the lowest of its routes is below Weight, percent
	Splits      []string  `json:"splits,omitempty"`     // marks of testers' routes that have been seen to split
	PromotedAt  time.Time `json:"promotedAt,omitzero"`  // when the rollback window began
	CompletedAt time.Time `json:"completedAt,omitzero"` // when its end was seen
	ByPersons
	FiringStatus
	StepStatus
	Counts
	Noted      []string  `json:"noted,omitempty"`      // the last episodes (fingerprint@startsAt) recorded without action
	Fresh      bool      `json:"fresh,omitempty"`      // no weight has changed since this build appeared
	Rolling    bool      `json:"rolling,omitempty"`    // this build's rollout has not been seen complete yet
	Promoting  string    `json:"promoting,omitempty"`  // build that the scheduler may move forward
	Ready      ReadyInfo `json:"ready,omitzero"`       // ready endpoints, as last seen
	Unverified bool      `json:"unverified,omitempty"` // a new build came while the canary had 100%
	Full       bool      `json:"full,omitempty"`       // the canary has all traffic in every route
	Moving     *Moving   `json:"moving,omitempty"`     // a change of the weight that is under way
	UnlockedAt time.Time `json:"unlockedAt,omitzero"`  // when a person last lifted a lock
	LiftedAt   time.Time `json:"liftedAt,omitzero"`    // when anything last did: what an annotation says of an older lock is over
	Moves      *Moves    `json:"moves,omitempty"`      // what a person needs to move its traffic by hand
	FirstSeen  time.Time `json:"firstSeen,omitzero"`   // when the guard was first looked at
	BuildMemory
	Unwatched  string         `json:"unwatched,omitempty"`  // why nothing proves that the guard's rules watch its canary; empty: the last count proved it, or the canary gets nothing
	Observing  *Observing     `json:"observing,omitempty"`  // nothing is written to a VirtualService; nil: the guard enforces
	NoRollback []SignalAction `json:"noRollback,omitempty"` // signals that by the lease holder's configuration do not roll back
	EnforcedAt time.Time      `json:"enforcedAt,omitzero"`  // when it last came from observing to that: what fired before is of the past
	Leaving    []Leaving      `json:"leaving,omitempty"`    // what the configuration does not have any more, and is to be given back
	Outsiders
	Capacity
	Orphaned time.Time `json:"orphaned,omitzero"` // when the configuration was seen not to have this guard; zero: it has it
	Links    []Link    `json:"links,omitempty"`   // about the time when what is wrong now began; nil while nothing is
}

// ServesSince is since when the canary's requests are one build's alone, as far as is known; during a rollout
// that of the build before; zero: unknown.
func (s Status) ServesSince() time.Time {
	if s.AloneSince.IsZero() {
		return s.BuildSince
	}
	return s.AloneSince
}

// Troubled says that something keeps traffic from being shifted, or is known to be
// wrong: a lock, a rollback that is under way, blocked or done, a hold, or an alert.
func (r Record) Troubled() bool {
	s := r.Status
	return r.Lock != nil || s.State == StateBlocked || s.State == StateHeld || s.State == StateRolledBack || s.Moving.RollsBack() || len(s.Firing) > 0
}

// SignalAction is a signal, as the configuration calls it, and what its alerts ask for
// at most: a hold, none, or nothing at all because it is off.
type SignalAction struct {
	Signal string `json:"signal"`
	Action Action `json:"action"`
}

// NoRollbackText names the signals that do not roll back; empty: there are none.
func (s Status) NoRollbackText() string {
	texts := make([]string, len(s.NoRollback))
	for i, one := range s.NoRollback {
		texts[i] = fmt.Sprintf("%s (%s)", one.Signal, one.Action)
	}
	return strings.Join(texts, ", ")
}

// ByPersons is what people have asked guardian not to do.
type ByPersons struct {
	Paused     *Pause  `json:"paused,omitempty"`     // by `guardian pause`
	PausedOnVS bool    `json:"pausedOnVS,omitempty"` // AnnotationPaused stands on a VirtualService
	Disarmed   *Disarm `json:"disarmed,omitempty"`   // by `guardian disarm`
}

// FiringStatus is what fires for a guard.
type FiringStatus struct {
	Alerts []string `json:"alerts,omitempty"` // names of the alerts that fire, sorted
	Firing []Firing `json:"firing,omitempty"` // the same with what they ask for, by when they were first seen

	HeldBy  string   `json:"heldBy,omitempty"`  // name of the alert that a held canary stays where it is for
	Unasked []string `json:"unasked,omitempty"` // episodes (fingerprint@startsAt) that were listed, and ask for nothing by the lease holder's configuration
}

// StepStatus is how the steps of promotion stand, as the lease holder has it.
type StepStatus struct {
	Mode       PromotionMode `json:"mode,omitempty"`       // empty: off
	Steps      []int         `json:"ladder,omitempty"`     // weights of all steps, percent, unless the mode is off
	Waiting    string        `json:"waiting,omitempty"`    // what the next step waits for, in plain words
	WaitingFor Wait          `json:"waitingFor,omitempty"` // the same, of a closed set
	Waited     []Wait        `json:"waited,omitempty"`     // what the history has told of since weight or build changed
	ToldAt     time.Time     `json:"toldAt,omitzero"`      // when words and numbers were last brought up to date
	NextStep   int           `json:"nextStep,omitempty"`   // weight of the next step of promotion, percent
	NextAt     time.Time     `json:"nextAt,omitzero"`      // when it is due at the earliest
}

// Counts are the canary's requests since the last change of weights, as last counted.
type Counts struct {
	Requests int64   `json:"requests,omitempty"`
	Failed   int64   `json:"failed,omitempty"` // those of them that failed
	Latency  Latency `json:"latency,omitzero"` // of them, where the guard has a limit for it
	Counted  Counted `json:"counted,omitzero"` // when these three were; zero: they were not
}

// BuildMemory is what guardian knows of the canary's builds besides the present one.
type BuildMemory struct {
	Served    []Served   `json:"served,omitempty"`    // builds that have had ready pods, the present and those of the last minutes
	Proven    []string   `json:"proven,omitempty"`    // builds that have stood their rollback window out, newest last
	Revisions []Revision `json:"revisions,omitempty"` // what ReplicaSets and ControllerRevisions are called as builds, newest last
	Taken     *Taken     `json:"taken,omitempty"`     // the last lock of another record that became this guard's
}

// Outsiders is what guardian sees and cannot change.
type Outsiders struct {
	Unguarded    []string `json:"unguarded,omitempty"`    // VirtualServices that lead to the canary and are not the guard's, and the traffic of a canary that no lock is of
	Overruled    []string `json:"overruled,omitempty"`    // subsets of the guard that Istio takes from another DestinationRule, with other labels
	ForeignLocks []string `json:"foreignLocks,omitempty"` // annotations by which another user holds a canary in the guard's VirtualServices
}

// Moves names whose traffic a guard moves, and between what, as the command
// line writes them.
type Moves struct {
	VirtualServices []string `json:"virtualServices"`
	Stable          string   `json:"stable"`
	Canary          string   `json:"canary"`
}

// ReadyInfo counts ready endpoints of the two destinations.
type ReadyInfo struct {
	Stable int `json:"stable"`
	Canary int `json:"canary"`
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

// Clone is a copy that shares nothing that Decide edits.
func (r Record) Clone() Record {
	c := r
	if r.Lock != nil {
		l := *r.Lock
		l.Refused, l.Coming, l.Also, l.Next = slices.Clone(l.Refused), slices.Clone(l.Coming), slices.Clone(l.Also), slices.Clone(l.Next)
		c.Lock = &l
	}
	if r.Receipt != nil {
		c.Receipt = r.Receipt.clone()
	}
	if r.Request != nil {
		q := *r.Request
		q.Replaces = slices.Clone(q.Replaces)
		c.Request = &q
	}
	if r.Status.Paused != nil {
		p := *r.Status.Paused
		c.Status.Paused = &p
	}
	if r.Status.Disarmed != nil {
		x := *r.Status.Disarmed
		c.Status.Disarmed = &x
	}
	if r.Status.Moving != nil {
		m := *r.Status.Moving
		if m.Receipt != nil {
			m.Receipt = m.Receipt.clone()
		}
		m.Requests = slices.Clone(m.Requests)
		c.Status.Moving = &m
	}
	if r.Status.Taken != nil {
		t := *r.Status.Taken
		c.Status.Taken = &t
	}
	if r.Status.Observing != nil {
		c.Status.Observing = r.Status.Observing.clone()
	}
	c.Status.Served = slices.Clone(r.Status.Served)
	c.Status.Proven = slices.Clone(r.Status.Proven)
	c.Status.Revisions = slices.Clone(r.Status.Revisions)
	c.Refused = slices.Clone(r.Refused)
	c.Changed = slices.Clone(r.Changed)
	c.History = slices.Clone(r.History)
	c.Answers = slices.Clone(r.Answers)
	c.Deny = slices.Clone(r.Deny)
	c.Stable = slices.Clone(r.Stable)
	c.VirtualServices = slices.Clone(r.VirtualServices)
	c.Status.Alerts = slices.Clone(r.Status.Alerts)
	c.Status.Firing = slices.Clone(r.Status.Firing)
	c.Status.Unasked = slices.Clone(r.Status.Unasked)
	c.Status.Noted = slices.Clone(r.Status.Noted)
	c.Status.Steps = slices.Clone(r.Status.Steps)
	c.Status.Waited = slices.Clone(r.Status.Waited)
	c.Status.Splits = slices.Clone(r.Status.Splits)
	c.Status.Leaving = slices.Clone(r.Status.Leaving)
	c.Status.Links = slices.Clone(r.Status.Links)
	c.Status.NoRollback = slices.Clone(r.Status.NoRollback)
	return c
}

// Denies sets what a locked guard's VirtualServices say of it: the canary in all
// its spellings and stable in its, and what a rollback covers. nil takes it all
// back.
func (r *Record) Denies(canary, stable []string, o Rollback) {
	r.Deny, r.Stable = slices.Clone(canary), slices.Clone(stable)
	r.DenyMatchRoutes, r.DenyMirrors = o.MatchRoutes, o.Mirrors
}

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

// clone is a copy that shares nothing that Decide edits.
func (s Status) clone() Status {
	c := s
	if s.Paused != nil {
		p := *s.Paused
		c.Paused = &p
	}
	if s.Disarmed != nil {
		x := *s.Disarmed
		c.Disarmed = &x
	}
	if s.Moving != nil {
		c.Moving = s.Moving.clone()
	}
	if s.Taken != nil {
		t := *s.Taken
		c.Taken = &t
	}
	if s.Observing != nil {
		c.Observing = s.Observing.clone()
	}
	c.Served = slices.Clone(s.Served)
	c.Proven = slices.Clone(s.Proven)
	c.Revisions = slices.Clone(s.Revisions)
	c.Alerts = slices.Clone(s.Alerts)
	c.Firing = slices.Clone(s.Firing)
	c.Unasked = slices.Clone(s.Unasked)
	c.Noted = slices.Clone(s.Noted)
	c.Steps = slices.Clone(s.Steps)
	c.Waited = slices.Clone(s.Waited)
	c.Splits = slices.Clone(s.Splits)
	c.Leaving = slices.Clone(s.Leaving)
	c.Links = slices.Clone(s.Links)
	c.NoRollback = slices.Clone(s.NoRollback)
	return c
}

// ServesSince is since when the canary's requests are one build's alone, as far as is known; during a rollout
// that of the build before; zero: unknown.
func (s Status) ServesSince() time.Time {
	if s.AloneSince.IsZero() {
		return s.BuildSince
	}
	return s.AloneSince
}

// partly says that some of the guard's VirtualServices have taken a step, and
// others have not yet.
func (s *Status) partly() bool {
	return s.Moving.StepsTo(s.Weight) && s.Spread > 0
}

// leave adds a VirtualService to those that are to be given back.
func (s *Status) leave(name string) {
	if !slices.ContainsFunc(s.Leaving, func(l Leaving) bool { return l.VirtualService == name }) {
		s.Leaving = append(s.Leaving, Leaving{VirtualService: name})
	}
}

// GuardMode is the mode that the record has a guard in.
func (s Status) GuardMode() Mode {
	if s.Observing != nil {
		return ModeObserve
	}
	return ModeEnforce
}

// Past says of an alert that began then that it did while the guard observed, and that
// the build of that time is the present one still.
func (s Status) Past(began time.Time) bool {
	return began.Before(s.EnforcedAt) && !s.BuildSince.After(s.EnforcedAt)
}

// NoRollbackText names the signals that do not roll back; empty: there are none.
func (s Status) NoRollbackText() string {
	texts := make([]string, len(s.NoRollback))
	for i, one := range s.NoRollback {
		texts[i] = fmt.Sprintf("%s (%s)", one.Signal, one.Action)
	}
	return strings.Join(texts, ", ")
}

// untilBack ends the reason of a guard that is blocked since a VirtualService of its
// lock does not exist.
const untilBack = ": until it is back, locked again at once, requests reach all pods of its hosts, the canary's too"

// LacksVirtualService says whether a guard is blocked since a VirtualService of its
// lock does not exist.
func (s Status) LacksVirtualService() bool {
	return s.State == StateBlocked && strings.HasSuffix(s.Reason, untilBack)
}

// NoRequestsYet is why nothing proves that a canary is watched which nobody has
// called. It is no fault, and a gate that asks for no requests passes over it.
const NoRequestsYet = "no request of the canary has been recorded yet"

// NoAnswer is the same while Prometheus cannot be asked.
const NoAnswer = "Prometheus does not say that the rules watch"

// RulesUnproven says that a canary has traffic that no rule watches.
func (s Status) RulesUnproven() bool { return s.Unwatched != "" && s.Unwatched != NoRequestsYet }

// ByPersons is what people have asked guardian not to do.
type ByPersons struct {
	Paused     *Pause  `json:"paused,omitempty"`     // by `guardian pause`
	PausedOnVS bool    `json:"pausedOnVS,omitempty"` // AnnotationPaused stands on a VirtualService
	Disarmed   *Disarm `json:"disarmed,omitempty"`   // by `guardian disarm`
}

// Pause is a person's request that guardian takes no step forward. The brake
// stays on.
type Pause struct {
	By     string    `json:"by"`
	Reason string    `json:"reason,omitempty"`
	At     time.Time `json:"at"`
}

// Disarm is a person's request that guardian does not roll back either. It ends
// by itself.
type Disarm struct {
	By     string    `json:"by"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
	Until  time.Time `json:"until"`
}

// Text is a disarm in words.
func (x Disarm) Text() string {
	return fmt.Sprintf("disarmed by %s until %s: %s", x.By, Stamp(x.Until), x.Reason)
}

// PausedText is who pauses the guard, in words; empty: nobody does.
func (s Status) PausedText() string {
	switch {
	case s.Paused != nil && s.Paused.Reason != "":
		return "paused by " + s.Paused.By + ": " + s.Paused.Reason
	case s.Paused != nil:
		return "paused by " + s.Paused.By
	case s.PausedOnVS:
		return "paused by annotation " + AnnotationPaused
	}
	return ""
}

// FiringStatus is what fires for a guard.
type FiringStatus struct {
	Alerts []string `json:"alerts,omitempty"` // names of the alerts that fire, sorted
	Firing []Firing `json:"firing,omitempty"` // the same with what they ask for, by when they were first seen

	HeldBy  string   `json:"heldBy,omitempty"`  // name of the alert that a held canary stays where it is for
	Unasked []string `json:"unasked,omitempty"` // episodes (fingerprint@startsAt) that were listed, and ask for nothing by the lease holder's configuration
}

// lists says that an alert's episode is among those that fire.
func (s *Status) lists(episode string) bool {
	return slices.ContainsFunc(s.Firing, func(f Firing) bool { return f.Episode == episode })
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

// ClearSteps forgets what a next step waits for.
func (s *Status) ClearSteps() {
	s.Waiting, s.WaitingFor, s.NextStep, s.NextAt = "", "", 0, time.Time{}
	s.setTally(Tally{}, Counted{})
}

// Counts are the canary's requests since the last change of weights, as last counted.
type Counts struct {
	Requests int64   `json:"requests,omitempty"`
	Failed   int64   `json:"failed,omitempty"` // those of them that failed
	Latency  Latency `json:"latency,omitzero"` // of them, where the guard has a limit for it
	Counted  Counted `json:"counted,omitzero"` // when these three were; zero: they were not
}

// tally is what a status holds of one.
func (s *Status) tally() (Tally, Counted) {
	return Tally{s.Requests, s.Failed, s.Latency}, s.Counted
}

// setTally takes down what was counted.
func (s *Status) setTally(t Tally, over Counted) {
	s.Requests, s.Failed, s.Latency, s.Counted = t.Requests, t.Failed, t.Latency, over
}

// BuildMemory is what guardian knows of the canary's builds besides the present one.
type BuildMemory struct {
	Served    []Served   `json:"served,omitempty"`    // builds that have had ready pods, the present and those of the last minutes
	Proven    []string   `json:"proven,omitempty"`    // builds that have stood their rollback window out, newest last
	Revisions []Revision `json:"revisions,omitempty"` // what ReplicaSets and ControllerRevisions are called as builds, newest last
	Taken     *Taken     `json:"taken,omitempty"`     // the last lock of another record that became this guard's
}

// Served is a build that has had ready pods. Those that had traffic in the last
// minutes are what an alert can be about, whether they are ready in its instant or
// not.
type Served struct {
	Build string    `json:"build"`
	From  time.Time `json:"from,omitzero"`  // when it first had ready pods and traffic; zero: it never did
	Until time.Time `json:"until,omitzero"` // when it last had both; zero: it still does
}

// Still says that the build has ready pods and traffic now.
func (b Served) Still() bool { return !b.From.IsZero() && b.Until.IsZero() }

// Taken tells which lock of another record this guard has made its own.
type Taken struct {
	Guard string    `json:"guard"`
	Since time.Time `json:"since"`
}

// Outsiders is what guardian sees and cannot change.
type Outsiders struct {
	Unguarded    []string `json:"unguarded,omitempty"`    // VirtualServices that lead to the canary and are not the guard's, and the traffic of a canary that no lock is of
	Overruled    []string `json:"overruled,omitempty"`    // subsets of the guard that Istio takes from another DestinationRule, with other labels
	ForeignLocks []string `json:"foreignLocks,omitempty"` // annotations by which another user holds a canary in the guard's VirtualServices
}

// Capacity is what stable had when it carried everything, and why a rollback would
// lead all traffic to fewer.
type Capacity struct {
	// Carried is how many ready endpoints stable had when the canary's traffic was
	// first seen; 0: not known.
	Carried int    `json:"carried,omitempty"`
	Thin    string `json:"thin,omitempty"` // in words; empty: it has enough, or nothing is known
}

// Leaving is a VirtualService that a guard's configuration does not have any more
// and that may still bear what a rollback has left in it: a lock's annotation,
// marks, the ownership of fields, routes and mirrors that lead elsewhere.
type Leaving struct {
	VirtualService string `json:"vs"`
	Why            string `json:"why,omitempty"` // why it could not be given back when that was last tried
}

// Moves names whose traffic a guard moves, and between what, as the command
// line writes them.
type Moves struct {
	VirtualServices []string `json:"virtualServices"`
	Stable          string   `json:"stable"`
	Canary          string   `json:"canary"`
}

// MovesOf is what the record says a guard moves.
func MovesOf(g Guard) *Moves {
	return &Moves{VirtualServices: g.VirtualServices, Stable: g.Stable.String(), Canary: g.Canary.String()}
}

// pair is what a status names; ok is false where that is no pair.
func (m Moves) pair() (stable, canary virtualservice.Ref, ok bool) {
	stable, noStable := virtualservice.ParseRef(m.Stable)
	canary, noCanary := virtualservice.ParseRef(m.Canary)
	return stable, canary, noStable == nil && noCanary == nil && stable != canary
}

// refOf is the destination that host/subset names; host/ is a host of its own.
func refOf(spelled string) virtualservice.Ref {
	host, subset, _ := strings.Cut(spelled, "/")
	if subset != "" {
		return virtualservice.Ref{Subset: subset}
	}
	return virtualservice.Ref{Host: host}
}

// ReadyInfo counts ready endpoints of the two destinations.
type ReadyInfo struct {
	Stable int `json:"stable"`
	Canary int `json:"canary"`
}

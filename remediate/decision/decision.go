package decision

import (
	"time"
)

// Reason is why a decision is what it is.
type Reason string

// Move is what is to happen to the VirtualServices.
type Move int

// The moves.
const (
	MoveNone    Move = iota // nothing is written to a VirtualService
	MoveStable              // a rollback: the canary's weight becomes 0
	MoveForward             // a step: the canary's weight becomes Decision.Weight
	MoveRestore             // weights stay, what a rollback re-pointed is given back
	MoveMark                // weights stay, guardian's annotations are written
)

// Decision is what should be true. Record is the record wanted; it is written
// before traffic moves.
type Decision struct {
	Record Record
	Move   Move
	Weight int // percent, for MoveForward
	Reason Reason

	// WantLive says that the lease holder should gather again with live reads:
	// something might go forward.
	WantLive bool
	// WantForward says that live alerts, requests and gates should be asked
	// as well.
	WantForward bool
	// WantCount says that the lease holder should count the canary's requests.
	WantCount bool
	// WantAfter says that the lease holder should ask what shows only after a
	// rollback.
	WantAfter bool
	// Release says that field ownership of a past rollback is to be given up.
	Release bool
	// Leave says that VirtualServices which the configuration does not have any
	// more are to be given back.
	Leave bool
	// Requeue is when to look again even if nothing happens; 0: no need.
	Requeue time.Duration
	// Added is what this decision appended to the history.
	Added []HistoryEntry
	// Then is what is appended to it once Move is done.
	Then []HistoryEntry
	// Marks are what the VirtualServices say from Move on.
	Marks Marks
	// Signal is what a rollback that this decision has seen to be done counts as.
	Signal string
	// Doubt says that an alert counts for the first time, and nothing has to be
	// done: that is looked at on the API server before it is told.
	Doubt bool
	// Observes says that no VirtualService may be written, whatever for.
	Observes bool
}

// The reasons of a decision. Logs and metrics have them as they are here.
const (
	ReasonNothing      Reason = "nothing to do"
	ReasonAlert        Reason = "rollback alert"
	ReasonPerson       Reason = "a person asked"
	ReasonRefusedBuild Reason = "a refused build is back"
	ReasonReassert     Reason = "canary had traffic again while locked"
	ReasonFinish       Reason = "rollback not finished"
	ReasonBlocked      Reason = "rollback is not safe"
	ReasonNewBuild     Reason = "a new build is ready"
	ReasonWindowOver   Reason = "rollback window is over"
	ReasonRestore      Reason = "give back what a rollback changed"
	ReasonStep         Reason = "next step of promotion"
	ReasonPaused       Reason = "paused"
	ReasonDisarmed     Reason = "disarmed"
	ReasonCompleted    Reason = "completed"
	ReasonHeld         Reason = "an alert holds"
	ReasonEarlierBuild Reason = "alert began before this build"
	ReasonWould        Reason = "would be rolled back"
)

// Landed is a record as it has to be read from what is written together with the
// weights: with words that are true as soon as the patch is taken.
func Landed(r Record, d Decision) Record {
	if d.Marks.Message != "" {
		r.Message = d.Marks.Message
	}
	return r
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

package decision

import (
	"time"

	"github.com/canary-guardian/guardian/remediate/virtualservice"
)

// LockKind says what lifts the lock that a rollback leaves behind.
type LockKind string

// The kinds of lock.
const (
	LockBuild  LockKind = "build"  // lifted when a build that is not refused is the ready one, or by a person
	LockManual LockKind = "manual" // lifted by a person alone
	LockNone   LockKind = "none"   // no lock: weights are rewritten once
)

// PromotionMode says who moves traffic forward.
type PromotionMode string

// The modes of promotion.
const (
	PromotionOff    PromotionMode = "off"    // CI alone
	PromotionManual PromotionMode = "manual" // one step for each `guardian promote`
	PromotionAuto   PromotionMode = "auto"   // the scheduler
)

// Mode is whether a guard's rollbacks are done or only told.
type Mode string

// The modes of a guard; empty is ModeEnforce.
const (
	ModeEnforce Mode = "enforce" // what is decided is done
	ModeObserve Mode = "observe" // it is recorded, told and counted, and no VirtualService is written
)

// Guard is the part of a guard's configuration that decides about traffic.
// Values are checked and complete: defaults have been filled in.
type Guard struct {
	Name            string
	Namespace       string
	VirtualServices []string // names in Namespace, at least one
	DestinationRule string   // name in Namespace; not looked at when both refs are hosts
	Stable, Canary  virtualservice.Ref
	Mode            Mode           // empty: ModeEnforce
	NoRollback      []SignalAction // signals that do not roll back, but for those that are off by default
	Rollback        Rollback
	Promotion       Promotion

	// AlertWindow is how long an alert of an earlier build can go on firing
	// for reasons of that build alone: the longest signal window plus
	// keep_firing_for. Until it has passed such an alert is a hold, after it a
	// rollback.
	AlertWindow time.Duration
	// HeartbeatMaxAge is the age past which the newest heartbeat is stale.
	HeartbeatMaxAge time.Duration
	// DisarmMax is for how long a person may disarm the guard at most; 0:
	// DefaultDisarmMax.
	DisarmMax time.Duration
}

// Rollback is how a guard rolls back.
type Rollback struct {
	Lock           LockKind
	Window         time.Duration // how long after 100% canary a rollback is still right
	MinReadyStable int           // floor of ready endpoints of stable; 0: it may have none
	Capacity       float64       // share of the ready endpoints that stable carried everything with, below which that is told; 0: never
	MatchRoutes    bool          // also re-point routes that lead to the canary only
	Mirrors        bool          // also re-point mirrors to the canary
}

// Promotion is how a guard goes forward.
type Promotion struct {
	Mode        PromotionMode
	Steps       []Step // ascending by weight, the last is 100
	MinRequests int    // canary requests that an interval must have seen
	// Closed says why the calendar forbids a step at a time; empty: it does
	// not. It is a pure function. Nil: the calendar never forbids any.
	Closed func(time.Time) string
}

// Step is one step of promotion.
type Step struct {
	Weight   int           // percent of the pair's traffic for the canary, 1–100
	Interval time.Duration // least time at the weight before, since the weights last changed
	Bake     time.Duration // further time at this weight before the next step
}

// Options is what a rollback may rewrite of a VirtualService besides weights.
func (r Rollback) Options() virtualservice.Options {
	return virtualservice.Options{MatchRoutes: r.MatchRoutes, Mirrors: r.Mirrors}
}

package decision

import (
	"slices"
	"time"

	"github.com/canary-guardian/guardian/remediate/virtualservice"
)

// Endpoints is what runs behind the stable destination.
type Endpoints struct {
	Missing string // why nothing can be sent there (subset not in the DestinationRule, …); empty: it can
	Ready   int    // ready endpoints
	Overlap string // what is sent there reaches the canary's pods as well, or the other way round; empty: it does not
}

// Forward is what is asked live, and only before traffic goes forward.
type Forward struct {
	Err      string // why the alerts, requests or gates could not be asked; empty: all answered
	Requests int64  // the canary's requests since the last change of weights
	Failed   int64  // those of them that failed
	Latency  Latency
	Gates    []Gate
	Gaps     Gaps // in the rules that watch the guard
}

// Gate is the answer to one configured gate query.
type Gate struct {
	Name string
	Open bool
	Why  string // the value found
}

// Input is all that Decide looks at: one guard, gathered at one time.
type Input struct {
	Guard   Guard // with the pair of the lock that stands: see Record.GuardOf
	Record  Record
	Traffic virtualservice.Traffic // as found in the guard's VirtualServices
	Testers virtualservice.Testers // of their routes for testers
	Unsafe  string                 // why the VirtualServices cannot be rewritten; empty: they can
	Canary  Workload
	Stable  Endpoints
	Paused  bool      // by annotation on a VirtualService
	Owned   bool      // a VirtualService carries the marks of a rollback, and no other guard's lock names it
	Owed    bool      // what a rollback of this guard has re-pointed can be given back
	Absent  string    // which VirtualServices do not exist; empty: all do
	Deny    []string  // every spelling of the canary, for the admission policy
	Spare   []string  // the same of stable
	Foreign []Foreign // locks of other records that deny the canary
	// Unlisted is why it is not known whether there are such locks; empty: it is.
	Unlisted string
	Outside  Outside
	Marked   *LockAnnotation // the newest lock of this guard and of this guardian that a VirtualService tells of; nil: none
	Alerts   []Alert         // firing now, and accepted ones not acted on yet

	// Next is the canary of the configuration, where a lock stands that is of another;
	// nil: it is the guard's.
	Next *Next

	// Unreadable is what of the record cannot be read, and why.
	Unreadable []string
	// Gone says which of the guard's VirtualServices do not exist; empty: all do.
	Gone string

	// FormerGone are VirtualServices that the lock covers, the configuration
	// does not have any more, and that do not exist.
	FormerGone []string
	// Unread are those of them, or of those that are to be given back, that
	// guardian may not read.
	Unread []Leaving
	// LeaveAt is when what could not be given back is tried again.
	LeaveAt time.Time

	// Unrecorded is the lock of a rollback that was done and could not be
	// recorded. Nil: there is none.
	Unrecorded *Lock

	// Watched is for how long this replica has seen the weights stand that the
	// record speaks of.
	Watched Watched

	// Heartbeat is the newest one that any replica has recorded.
	Heartbeat time.Time
	// Leads says that this replica holds the lease.
	Leads bool
	// Live says that this replica holds the lease and has read all the above
	// from the API server itself, not from a cache. Nothing goes forward
	// without it.
	Live    bool
	Forward *Forward // nil: not asked
	Count   Count
	// Shifted is who wrote the VirtualServices' routes last; nil: not known, or
	// guardian to take the canary's traffic.
	Shifted *Shift
	// Wrote is when the API server has taken this replica's last write that took
	// traffic from the canary; zero: it has made none.
	Wrote time.Time
	// Links are those that a receipt has, and a status in trouble. It is a pure function. Nil: none.
	Links func(from, to time.Time) []Link
	// AskAfter is from when on After may be asked for (again); zero: it cannot be.
	AskAfter time.Time
	After    *After // nil: not asked
	// Busy says that nobody can be asked just now, since others are: looked at
	// again after pollBusy.
	Busy bool

	// Reach is what the VirtualServices come to when the canary is taken to a
	// weight, percent 1–100, or why they cannot be. It is a pure function of
	// what was gathered. Nil: exactly that weight.
	Reach func(weight int) (virtualservice.Traffic, error)
}

// Count is the canary's number of requests since the last change of weights,
// which a gate wants to know also where guardian does not promote.
type Count struct {
	Asked    bool
	Known    bool // Prometheus answered
	Requests int64
	Failed   int64
	Latency  Latency
	Gaps     Gaps // in the rules that watch the guard
}

// Next is what runs behind the canary that the configuration has, while a lock stands
// that is of another. It is not guarded: guardian moves none of its traffic, and rolls
// nothing back for it.
type Next struct {
	Stable, Canary virtualservice.Ref
	Deny           []string // every spelling of it, for the admission policy
	Workload       Workload
	Traffic        virtualservice.Traffic
}

// refused is a build of the next canary that has a ready pod, was rolled back and is not
// unlocked; "": there is none.
func (n Next) refused(refused []string) string {
	for _, b := range n.Workload.readyBuilds() {
		if slices.Contains(refused, b) {
			return b
		}
	}
	return ""
}

// Foreign is the lock of another guard's record that denies this guard's canary.
type Foreign struct {
	Guard string
	Lock  Lock // of which Since is zero when it cannot be read
}

// Outside is what guardian sees and cannot change: what the brake does not hold,
// and who holds it.
type Outside struct {
	// Known says that the VirtualServices of the namespace were looked through.
	Known bool
	// Unguarded are those that lead to the canary and that no guard of this canary
	// has, each with what it gives.
	Unguarded []string
	// RulesKnown says that the guard's DestinationRule and the others of its host were
	// read, that it is not there, or not needed.
	RulesKnown bool
	// Overruled are the guard's subsets that Istio takes from another DestinationRule
	// than the guard's, with other labels, and so does guardian; or why that is not known.
	Overruled []string
	// UserKnown says that guardian knows its own name, and so whose locks are not
	// its own.
	UserKnown bool
	// Locks are annotations of the guard's VirtualServices by which somebody else
	// holds a canary.
	Locks []string
}

// Gaps are what Prometheus lacks of the rules that watch a guard. The zero value
// is none: it has evaluated them, and they record both sides' requests.
type Gaps struct {
	// Rules is why the rules are not evaluated, such as a group that is not loaded.
	Rules string
	// Stable and Canary say that the rules record no requests of that side now.
	// They do from its first request on, for as long as its proxies are scraped.
	Stable, Canary bool
}

// Watched is for how long a replica has itself seen the weights stand as they
// do, by a clock that nobody can set.
type Watched struct {
	Known bool // it has seen them change
	For   time.Duration
}

// ClockTolerance is how far two ways to tell an interval may differ before
// somebody must have set the clock.
const ClockTolerance = 2 * time.Second

// movedAt is when the weights that the record speaks of were changed, by a
// clock that says now. If somebody has set the clock since, what this replica
// has itself watched counts; if it has watched nothing, a change in the future
// was now.
func (in Input) movedAt(now time.Time) time.Time {
	at, w := in.Record.Status.MovedAt, in.Watched
	age := now.Sub(at)
	switch {
	case w.Known && (age-w.For).Abs() > ClockTolerance:
		return now.Add(-w.For)
	case !w.Known && age < -ClockTolerance:
		return now
	}
	return at
}

// countWindow is for how long back requests are counted at most, unless a step
// waits for longer: a split of weeks is not to be a range of weeks, each time.
const countWindow = 6 * time.Hour

// CountSince is from when on the canary's requests are counted.
func (in Input) CountSince(now time.Time) time.Time {
	longest, bake := countWindow, time.Duration(0)
	for _, s := range in.Guard.Promotion.Steps {
		longest, bake = max(longest, s.Interval+bake), s.Bake
	}
	at := in.movedAt(now)
	if least := now.Add(-longest); at.Before(least) {
		return least
	}
	return at
}

package decision

import (
	"time"

	"github.com/canary-guardian/guardian/remediate/virtualservice"
)

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

// Workload is what runs behind the canary's destination.
type Workload struct {
	Build    string    // of its workloads' present pod templates; empty: unknown
	Since    time.Time // when the cluster made the newest of those templates; zero: unknown
	First    time.Time // when the oldest of the workloads was made, as far as known
	Ready    int       // ready pods
	Current  int       // those of them that belong to Build
	Builds   []string  // the build of each of its workloads, sorted: what Build is made of
	Running  []string  // those of them that ready pods belong to
	Serving  []string  // other builds that ready pods belong to
	Complete bool      // every workload has finished its rollout

	Ages      map[string]PodAge // of the ready pods, by build
	Revisions []Revision        // by name: what the pods were made from
	Untold    []string          // ready pods whose build cannot be told, with their owner
	Unowned   []string          // ready pods that nothing manages: they are counted nowhere
}

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

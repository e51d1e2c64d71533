package decision

import "time"

// PollCount is how often a canary's requests are counted while it has traffic.
const PollCount = 15 * time.Second

// pollBusy is how often a guard that has to wait for its turn to ask looks
// whether it has come.
const pollBusy = 2 * time.Second

// PollForward is how often a step that waits for live answers asks again.
const PollForward = 10 * time.Second

const (
	maxRefused       = 200
	maxLockRefused   = 100 // of one lock: what it adds leaves the newest of the record's list where they are
	maxNoted         = 64  // episodes that fire at once and are told of
	maxFiring        = 32
	ListingKnows     = 75 * time.Second // every replica lists what fires each minute
	ReassertCoalesce = time.Minute      // one history entry for a storm of re-assertions
)

// decider holds one decision while it is made, in four stages: observe brings the
// record up to date with what is there, attribute says which alerts count, choose
// what becomes of the traffic, and tell what the record and the VirtualServices say
// of it. What becomes of the traffic is a value, which no later stage overwrites.
type decider struct {
	in    Input
	now   time.Time
	was   Record
	rec   Record   // in the making
	asked *Request // rollback or promote, still to be done; observe's
	taken *Request // a request that is off the record and still to be answered
	anew  bool     // the lock that this pass has ended was of another pair than what was read

	attribution
	wants
	told
}

func newDecider(in Input, now time.Time) *decider {
	d := &decider{in: in, now: now.UTC(), was: in.Record, rec: in.Record.Clone()}
	d.in.Canary = in.Canary.as(in.Record.Status.Revisions, in.Record.Status.Build)
	if n := in.Next; n != nil {
		called := *n
		called.Workload = n.Workload.as(in.Record.Status.Revisions, "")
		d.in.Next = &called
	}
	return d
}

// attribution is which alerts count, attribute's.
type attribution struct {
	rollback []Alert   // against the present build
	holds    []Alert   // hold, and rollback alerts of an earlier build
	graceEnd time.Time // when one of these counts after all; zero: none will
}

// choice is what becomes of a guard's traffic, choose's.
type choice struct {
	state    State
	text     string // reason in words, for status and annotations
	reason   Reason
	move     Move
	weight   int   // for MoveForward, percent
	marks    Marks // zero: those of state and text
	release  bool
	leave    bool
	advanced bool   // the steps have been considered
	heldBy   string // name of the alert that has traffic stay as it is, for StateHeld
}

// wants are what further looks the guard needs. Any stage adds to them, none takes
// away.
type wants struct {
	wantLive    bool
	wantForward bool
	wantCount   bool
	wantAfter   bool
	requeue     time.Duration
}

// told is what is told of a decision besides its record. Any stage adds to it.
type told struct {
	then   []HistoryEntry
	signal string
	doubt  bool
}

// hasCanaryTraffic says whether the canary gets, or for all that can be read might
// get, traffic that a rollback would take away.
func (d *decider) hasCanaryTraffic() bool { return !d.in.Traffic.Clean() || d.in.Unsafe != "" }

// since is when the present build appeared, or was last unlocked by a person.
func (d *decider) since() time.Time {
	s := d.rec.Status
	if s.UnlockedAt.After(s.BuildSince) {
		return s.UnlockedAt
	}
	return s.BuildSince
}

// observing says that nothing may be written to a VirtualService: this replica's
// configuration says so, or the record does, which the lease holder alone brings
// from one mode to the other. Replicas read their configurations one after the
// other, and must not take turns in changing it.
func (d *decider) observing() bool {
	return d.in.Guard.Mode == ModeObserve || d.rec.Status.Observing != nil
}

// would chooses between what an alert does, in words, and what it would do if the
// guard enforced.
func (d *decider) would(enforcing, observing string) string {
	if d.observing() {
		return observing
	}
	return enforcing
}

// requeueAt asks for another look at t.
func (d *decider) requeueAt(t time.Time) {
	if wait := max(t.Sub(d.now), time.Millisecond); d.requeue == 0 || wait < d.requeue {
		d.requeue = wait
	}
}

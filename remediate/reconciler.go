package remediate

import (
	"context"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
)

// reconciler makes one guard's traffic what Decide says.
type reconciler struct {
	cached, live reader
	store        store
	domain       string
	now          func() time.Time
	watch        *dwellTimes
	known        *trafficCache // nil: each look is made anew
	past         *records.Histories
	done         confirmed
	asked        perGuard[time.Time] // when what shows only after a rollback was last asked for
	unrecorded   unrecorded
	later        perGuard[time.Time] // when what could not be given back is tried again
	lookedAt     lookedAt

	user          func() string // guardian's own, as the API server knows it; empty: not known yet
	leads         func() bool
	heartbeat     func(ctx context.Context) (time.Time, error)                                  // newest of any replica, read live
	preemptible   func(ctx context.Context, guard string) (context.Context, context.CancelFunc) // for live reads: it ends when an alert comes; nil: never
	querySlot     func() (done func(), ok bool)                                                 // to ask others than the API server; nil: always
	count         func(ctx context.Context, s snapshot) decision.Count
	forward       func(ctx context.Context, s snapshot) (decision.Forward, []decision.Alert)                  // asks what only matters for going forward
	after         func(ctx context.Context, s snapshot, r decision.Receipt) decision.After                    // what shows only after a rollback; nil: nobody is asked
	links         func(guard string, sides decision.Sides, from, to time.Time) []decision.Link                // nil: there are none
	unguarded     func(g decision.Guard, p virtualservice.Pair, former []string) (found []string, known bool) // nil: it is not looked for
	changed       func(ctx context.Context, g decision.Guard, s snapshot, d decision.Decision)                // told of each decision that was written
	manyRollbacks func() bool                                                                                 // many rollbacks at once; nil: never

	idle func() bool // what cached holds may be of a while ago; nil: never
	stir func()      // something goes on: it must not be
}

// self is guardian's user as the API server knows it; empty: not known yet.
func (r *reconciler) self() string {
	if r.user == nil {
		return ""
	}
	return r.user()
}

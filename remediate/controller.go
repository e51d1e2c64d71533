package remediate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	"go.opentelemetry.io/otel/trace"
	"k8s.io/client-go/util/workqueue"
)

// Controller keeps the traffic of its guards where Decide wants it. Anything
// that could matter only enqueues the guard; reconciles of one guard never
// overlap.
type Controller struct {
	o     Options
	queue workqueue.TypedRateLimitingInterface[string]
	slow  workqueue.TypedRateLimiter[string] // for what the API server refuses
	r     *reconciler
	info  *informers
	lease *leases
	event *events
	self  identity

	rollbacks   rollbackRate  // of rollbacks by this replica
	querySlots  chan struct{} // holds one token for each pass that asks others than the API server
	orphanScans chan struct{} // asks for a look for records that no guard has

	mu      sync.Mutex
	guards  map[string]*entry
	stopped bool
}

// ErrUnknownGuard is returned for a guard that the configuration does not have.
var ErrUnknownGuard = errors.New("no such guard")

// errStopped is what waits for a reconcile gets when guardian stops first.
var errStopped = errors.New("guardian is stopping")

// identity is guardian's own user as the API server knows it: its locks and
// records name it, and nobody else may change them.
type identity struct {
	user atomic.Pointer[string]
}

// get returns the user; empty: not known yet.
func (i *identity) get() string {
	if u := i.user.Load(); u != nil {
		return *u
	}
	return ""
}

func (i *identity) set(user string) { i.user.Store(&user) }

// close has no further alerts accepted: they would be promised and not looked at.
func (c *Controller) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = true
}

// dismiss answers those who wait for what will not happen here any more.
func (c *Controller) dismiss() {
	c.close()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.guards {
		for _, w := range e.waiters {
			w <- errStopped
		}
		e.waiters = nil
	}
}

// Ready says whether all caches are filled and kept up to date.
func (c *Controller) Ready() bool { return c.info.synced.Load() && !c.info.dead.Load() }

// Missing names the resources whose caches are not, and why. Guards are looked
// after meanwhile, as far as that goes without.
func (c *Controller) Missing() []string { return c.info.troubles() }

// UnseenSince is since when the API server has shown this replica nothing of what it
// watches, once that is for too long: what it knows of a guard was so then. Zero: it
// does.
func (c *Controller) UnseenSince() time.Time { return c.info.unseenSince() }

// Idle says that nothing goes on with any guard, and has not for a while.
func (c *Controller) Idle() bool { return c.info.idle() }

// Leads says whether this replica holds the lease for going forward.
func (c *Controller) Leads() bool { return c.lease.leads() }

// Enqueue asks for a look at a guard.
func (c *Controller) Enqueue(guard string) { c.queue.Add(guard) }

func (c *Controller) enqueueAll() {
	c.mu.Lock()
	names := slices.Collect(maps.Keys(c.guards))
	c.mu.Unlock()
	for _, n := range names {
		c.queue.Add(n)
	}
}

// touched is called by informers with guards that something changed for.
func (c *Controller) touched(guards []string) {
	for _, g := range guards {
		c.queue.Add(g)
	}
}

// preempt has a pass over a guard wait for no answer any more: a person asks for
// a rollback.
func (c *Controller) preempt(guard string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.guards[guard]
	if !ok {
		return
	}
	e.preempted = true
	if e.preempt != nil {
		e.preempt()
	}
}

// restarted is called by the pod watch with further restarts.
func (c *Controller) restarted(guard string, ref virtualservice.Ref, byReason map[string]int64) {
	c.o.Metrics.restarted(guard, ref, byReason)
}

// Submit takes alerts for a guard and returns when a reconcile that saw them
// has recorded what follows, or with the error that kept it from that. The
// alerts are kept and tried again in any case, also when ctx ends first. Only
// alerts that began are to be submitted; Firing is asked for all.
func (c *Controller) Submit(ctx context.Context, guard string, alerts []decision.Alert, received time.Time) error {
	done, err := c.accept(ctx, guard, alerts, received)
	if err != nil {
		return err
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("guard %s: not recorded yet: %w", guard, ctx.Err())
	}
}

// Accept takes alerts for a guard and returns at once; they are kept in memory
// until a reconcile has recorded what follows. Of ctx only its span counts.
func (c *Controller) Accept(ctx context.Context, guard string, alerts []decision.Alert, received time.Time) error {
	_, err := c.accept(ctx, guard, alerts, received)
	return err
}

func (c *Controller) accept(ctx context.Context, guard string, alerts []decision.Alert, received time.Time) (<-chan error, error) {
	done := make(chan error, 1)
	c.mu.Lock()
	e, ok := c.guards[guard]
	stopped := c.stopped
	if ok && !stopped {
		for _, a := range alerts {
			if _, have := e.pending[a.Episode()]; !have {
				e.pending[a.Episode()] = submitted{alert: a, received: received, from: trace.SpanContextFromContext(ctx)}
			}
		}
		e.waiters = append(e.waiters, done)
		if e.preempt != nil && len(alerts) > 0 {
			e.preempt()
		}
		c.info.stir()
		c.queue.Add(guard) // not later: guardian may have ended by then
	}
	c.mu.Unlock()
	switch {
	case !ok:
		return nil, fmt.Errorf("guard %q: %w", guard, ErrUnknownGuard)
	case stopped:
		return nil, fmt.Errorf("guard %q: %w", guard, errStopped)
	}
	return done, nil
}

// Unknown records durably that alerts name guards which this guardian does not
// have, as one Event on the namespace. alertOf has an alert for each guard.
func (c *Controller) Unknown(ctx context.Context, alertOf map[string]string) error {
	return c.event.unknown(ctx, alertOf, c.o.Now())
}

// Views returns every guard, sorted by name.
func (c *Controller) Views() []View {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]View, 0, len(c.guards))
	for _, name := range slices.Sorted(maps.Keys(c.guards)) {
		out = append(out, c.guards[name].view(name))
	}
	return out
}

// SidesOf returns what runs behind each guard's destinations, as last seen;
// guards not looked at yet are missing.
func (c *Controller) SidesOf() map[string]decision.Sides {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[string]decision.Sides, len(c.guards))
	for name, e := range c.guards {
		if e.seen {
			out[name] = e.sides
		}
	}
	return out
}

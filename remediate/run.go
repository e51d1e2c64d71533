package remediate

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	"k8s.io/client-go/util/workqueue"
)

// New checks the options and makes a Controller. Nothing is read or written
// before Run.
func New(o Options) (*Controller, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	o.complete()
	c := &Controller{o: o, guards: map[string]*entry{}, querySlots: make(chan struct{}, max(1, o.Workers/2)), orphanScans: make(chan struct{}, 1)}
	c.queue = workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](20*time.Millisecond, time.Second))
	c.slow = workqueue.NewTypedItemExponentialFailureRateLimiter[string](250*time.Millisecond, 15*time.Second)
	c.info = newInformers(o, c.touched, c.preempt, c.restarted)
	c.self.set(o.User)
	c.info.refilled = c.enqueueAll
	c.lease = newLeases(o)
	c.lease.failing = c.failing
	c.event = newEvents(o)
	c.r = &reconciler{
		cached: fillingReader{c.info.reader, c.info.lacks, c.info.liveReader(o)}, live: c.info.liveReader(o), domain: o.Domain, now: o.Now, watch: newDwellTimes(), known: newTrafficCache(), past: records.NewHistories(),
		store: &writer{namespace: o.Namespace, kube: o.Client, istio: c.info.istio, cache: c.info.reader, user: c.self.get},
		user:  c.self.get, leads: c.lease.leads, heartbeat: c.lease.newestHeartbeat, forward: c.askForward, count: c.count, changed: c.wrote, manyRollbacks: c.manyRollbacks, unguarded: c.info.unguardedOf, querySlot: c.querySlot, preemptible: c.preemptible,
		idle: c.info.idle, stir: c.info.stir, links: o.Links,
	}
	c.info.lookedAt = c.r.lookedAt.has
	if o.After != nil {
		c.r.after = c.after
	}
	if o.Tracer != nil {
		c.r.store = tracedStore{c.r.store}
	}
	return c, nil
}

// SetGuards replaces the guards; those that are new or changed are looked at
// at once. Records of removed guards stay, marked as such.
func (c *Controller) SetGuards(guards []decision.Guard) {
	c.mu.Lock()
	names := map[string]bool{}
	var look []string
	for _, g := range guards {
		names[g.Name] = true
		e, ok := c.guards[g.Name]
		if !ok {
			e = &entry{pending: map[string]submitted{}}
			c.guards[g.Name] = e
		}
		c.o.Metrics.start(g)
		c.lease.maxAge.Store(int64(g.HeartbeatMaxAge)) // one for all guards
		e.guard = g
		look = append(look, g.Name)
	}
	for name, e := range c.guards {
		if !names[name] {
			e.removed = true
			for _, w := range e.waiters {
				w <- ErrUnknownGuard
			}
			delete(c.guards, name)
			c.r.watch.forget(name)
			c.r.past.Forget(name)
			c.r.done.forget(name)
			c.r.asked.forget(name)
			c.r.unrecorded.forget(name)
			c.r.later.forget(name)
			c.r.lookedAt.forget(name)
			c.slow.Forget(name)
			c.o.Metrics.stop(name)
		}
	}
	c.mu.Unlock()
	c.info.setGuards(guards)
	c.info.stir()
	c.r.known.keepOnly(guards)
	for _, name := range look {
		c.queue.Add(name)
	}
	c.scanForOrphans()
}

// lastPass is for how long alerts that were accepted are acted upon when guardian stops:
// less than it has for that, and more than a rollback takes.
const lastPass = 5 * time.Second

// Run watches and reconciles until ctx ends, and returns when all that it has
// started has ended. Alerts that were accepted before are acted upon, and Events of it
// written, for lastPass still; then those who wait in Submit get an error. It may be called once. The error
// is an OtherGuardianError: the namespace has another guardian.
func (c *Controller) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer c.dismiss()
	ctx, stop := context.WithCancelCause(ctx)
	last, cut := finishing(ctx)
	defer cut()
	finish := c.event.run()
	defer func() { finish(last) }() // after the workers: the last passes tell of what they do
	defer wg.Wait()
	defer c.queue.ShutDown()
	defer c.close() // a queue that has ended takes nothing, and says nothing
	defer c.info.stop()
	defer stop(nil)
	if err := c.lease.claim(ctx); err != nil {
		return err
	}
	wg.Go(func() { c.identify(ctx) })
	if !c.info.start(ctx) {
		return nil
	}
	wg.Go(func() { c.lease.run(ctx, func() { c.enqueueAll(); c.scanForOrphans() }, stop) })
	wg.Go(func() { c.tellOrphans(ctx) })
	for range c.o.Workers {
		wg.Go(func() { c.work(ctx, last) })
	}
	<-ctx.Done()
	if other := (*OtherGuardianError)(nil); errors.As(context.Cause(ctx), &other) {
		return other
	}
	return nil
}

// finishing is ctx, but that it goes on for lastPass when that has ended; not where
// another guardian has the namespace.
func finishing(ctx context.Context) (last context.Context, cut func()) {
	last, end := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		if other := (*OtherGuardianError)(nil); errors.As(context.Cause(ctx), &other) {
			end()
			return
		}
		time.AfterFunc(lastPass, end)
	})
	return last, func() { stop(); end() }
}

// Refused is an OtherGuardianError once another guardian was found to have the
// namespace.
func (c *Controller) Refused() error {
	if other := c.lease.refused.Load(); other != nil {
		return other
	}
	return nil
}

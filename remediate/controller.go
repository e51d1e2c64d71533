package remediate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	"go.opentelemetry.io/otel/trace"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/workqueue"
)

// Options are what a Controller is made of.
type Options struct {
	// Client and Dynamic reach the API server. Their rate limits should be off:
	// a burst of rollbacks must not queue behind them.
	Client  kubernetes.Interface
	Dynamic dynamic.Interface
	// EventClient writes Kubernetes Events; it may be slow. Nil: Client.
	EventClient kubernetes.Interface

	Namespace string
	Identity  string // unique among replicas, a DNS label: the pod's name
	// PodUID is that of the pod of this name in Namespace, which this replica's
	// Lease goes with when it is deleted. Empty: there is none.
	PodUID   types.UID
	Instance string // the same for all replicas of one guardian, a label's value; empty: DefaultInstance
	Domain   string // of the cluster; empty: cluster.local
	// User is guardian's own until the API server has told which it is. Empty:
	// not known.
	User   string
	Builds BuildParts

	// Firing returns the alerts that fire for a guard now, as this replica
	// knows it. It must not block.
	Firing func(guard string) []decision.Alert
	// AskForward asks live what matters only before traffic goes forward: the
	// alerts that fire anywhere, the canary's requests since a time, the gates, and
	// the gaps in its rules. Nil: promotion waits for ever.
	AskForward func(ctx context.Context, g decision.Guard, s decision.Sides, since time.Time) (decision.Forward, []decision.Alert)
	// Count returns the canary's requests since a time, and the gaps in the rules
	// that watch it. Nil: they are not counted.
	Count func(ctx context.Context, g decision.Guard, s decision.Sides, since time.Time) (decision.Tally, decision.Gaps, error)
	// After asks what shows only after a rollback: how many requests the canary had
	// since a time and how many of them failed, when the fault began, and when the last
	// request was counted after the write. Nil: nobody is asked.
	After func(ctx context.Context, g decision.Guard, s decision.Sides, r decision.Receipt) decision.After
	// Links are where people see more of a guard between two times. It must not block.
	// Nil: nowhere.
	Links func(guard string, s decision.Sides, from, to time.Time) []decision.Link
	// Heartbeat returns when this replica last heard the heartbeat; zero:
	// never.
	Heartbeat func() time.Time
	// HeartbeatByAlertmanager is the same of those that came through
	// Alertmanager, for people to see. May be nil.
	HeartbeatByAlertmanager func() time.Time

	// Tracer begins the spans of what follows from an alert, and of each write. Nil:
	// there are none.
	Tracer trace.Tracer

	// Confirmed is told where a guard stands when a pass has found out or changed it,
	// as the API server has confirmed it. It must not block. May be nil.
	Confirmed func(View)
	// Failed is told where a guard stood when passes over it begin to fail, fail for
	// another reason, or succeed again. It must not block. May be nil.
	Failed func(View)

	Metrics *Metrics
	Logger  *slog.Logger
	Workers int           // reconciles at once; 0: 16
	Resync  time.Duration // longest time between two looks at a guard; 0: 1 minute
	// WatchGrace is how long a watch may be away before what it has told is not
	// believed any more. 0: Resync.
	WatchGrace time.Duration
	// IdleAfter is how long nothing must have gone on with any guard until what only
	// matters while something does is watched no more; at least one and a half Resyncs.
	// 0: 90 seconds; negative: it is watched for ever.
	IdleAfter time.Duration
	Now       func() time.Time // nil: time.Now
	// PassTimeout bounds one reconcile, so that an API server that takes
	// connections and does not answer holds nobody for long. 0: 15 seconds.
	PassTimeout time.Duration
}

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

// entry is what a Controller holds in memory for a guard: nothing that has to
// survive.
type entry struct {
	guard   decision.Guard
	pending map[string]submitted // accepted alerts by episode, not recorded yet
	waiters []chan error
	sides   decision.Sides
	record  decision.Record // lock, status and receipt alone
	seen    bool
	failing failure // of the last pass
	removed bool
	// unrecorded is why record's lock is not in the API server's; empty: it is.
	unrecorded string
	// preempt ends a question to Prometheus or Alertmanager that a pass waits
	// for: an alert has come or a person asks for a rollback, which waits for
	// nobody's answer.
	preempt   context.CancelFunc
	preempted bool // nor for one that is yet to be asked in this pass
	// alertedAt is when the alert of a rollback came in that is not done yet; zero: none is
	// under way, or it did not come in here.
	alertedAt time.Time
}

type submitted struct {
	alert    decision.Alert
	received time.Time
	from     trace.SpanContext // in which it came in; invalid: it is not traced
}

// ErrUnknownGuard is returned for a guard that the configuration does not have.
var ErrUnknownGuard = errors.New("no such guard")

// errStopped is what waits for a reconcile gets when guardian stops first.
var errStopped = errors.New("guardian is stopping")

// lastPass is for how long alerts that were accepted are acted upon when guardian stops:
// less than it has for that, and more than a rollback takes.
const lastPass = 5 * time.Second

// validate says which of the options that are needed is missing.
func (o *Options) validate() error {
	switch {
	case o.Client == nil || o.Dynamic == nil:
		return errors.New("controller: a client is missing")
	case o.Namespace == "":
		return errors.New("controller: no namespace")
	case o.Identity == "":
		return errors.New("controller: no identity")
	case o.Firing == nil || o.Heartbeat == nil || o.Metrics == nil || o.Logger == nil:
		return errors.New("controller: Firing, Heartbeat, Metrics and Logger are needed")
	}
	return nil
}

// complete gives the options that are not set their defaults.
func (o *Options) complete() {
	o.Domain = cmp.Or(o.Domain, virtualservice.DefaultDomain)
	o.Instance = cmp.Or(o.Instance, decision.DefaultInstance)
	o.Workers = cmp.Or(o.Workers, 16)
	o.Resync = cmp.Or(o.Resync, time.Minute)
	o.WatchGrace = cmp.Or(o.WatchGrace, o.Resync)
	o.PassTimeout = cmp.Or(o.PassTimeout, 15*time.Second)
	if o.IdleAfter = cmp.Or(o.IdleAfter, defaultIdleAfter); o.IdleAfter > 0 {
		o.IdleAfter = max(o.IdleAfter, o.Resync+o.Resync/2)
	}
	if o.EventClient == nil {
		o.EventClient = o.Client
	}
	if o.Now == nil {
		o.Now = time.Now
	}
}

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

// Refused is an OtherGuardianError once another guardian was found to have the
// namespace.
func (c *Controller) Refused() error {
	if other := c.lease.refused.Load(); other != nil {
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

// work makes passes until ctx ends, and those that alerts wait for until last does.
func (c *Controller) work(ctx, last context.Context) {
	for {
		name, quit := c.queue.Get()
		if quit {
			return
		}
		wait, err := c.reconcile(ctx, last, name)
		if err == nil && ctx.Err() != nil && c.rollsBack(name) { // the queue takes it no more
			wait, err = c.reconcile(ctx, last, name)
		}
		switch {
		case comesAgain(err) && ctx.Err() == nil:
			c.queue.AddAfter(name, againIn(c.slow.When(name), wait))
		case err != nil && ctx.Err() == nil:
			c.queue.AddRateLimited(name)
		case wait > 0:
			c.queue.Forget(name)
			c.slow.Forget(name)
			c.queue.AddAfter(name, wait)
		}
		c.queue.Done(name)
	}
}

// againIn is when a pass is made again that the API server refuses: slowly, and no later
// than what was decided falls due (zero: nothing does).
func againIn(slow, due time.Duration) time.Duration {
	if due > 0 {
		return min(slow, due)
	}
	return slow
}

// rollsBack says that the last pass over a guard has left the end of a rollback to the
// next, which writes it down.
func (c *Controller) rollsBack(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.guards[name]
	return ok && e.record.Status.Moving.RollsBack()
}

// reconcile is one pass over one guard; it returns when to look again, with an error when
// what was decided falls due; zero: nothing does. It ends with ctx, or where alerts wait
// for it, or a rollback is not told yet, with last: half of it would be left to whoever
// comes next.
func (c *Controller) reconcile(ctx, last context.Context, name string) (time.Duration, error) {
	c.mu.Lock()
	e, ok := c.guards[name]
	if !ok {
		c.mu.Unlock()
		return 0, nil
	}
	g, pending, waiters := e.guard, maps.Clone(e.pending), e.waiters
	e.waiters, e.preempted = nil, false // what the caches know now, this pass will see
	rollsBack := e.record.Status.Moving.RollsBack()
	c.mu.Unlock()

	alerts := c.o.Firing(name)
	for _, s := range pending {
		alerts = received(mergeAlerts(alerts, []decision.Alert{s.alert}), s)
	}
	if len(pending) > 0 || rollsBack {
		ctx = last
	}
	pass, cancel := context.WithTimeout(ctx, c.o.PassTimeout)
	defer cancel()
	pass, span := tracePass(pass, c.o.Tracer, g, pending)
	out, err := c.survive(pass, g, alerts)
	err = namespaceError(c.o.Namespace, err)
	c.finish(pass, g, e, out, pending, err)
	span.end(out, err)
	answer := err
	if out.recorded {
		answer = nil
	}
	for _, w := range waiters {
		w <- answer
	}
	if err != nil {
		return out.decision.Requeue, err
	}
	wait := c.o.Resync/2 + rand.N(c.o.Resync/2) //nolint:gosec // spreads load, no secret
	if r := out.decision.Requeue; r > 0 {
		wait = min(wait, r)
	}
	if out.later {
		wait = min(wait, coalesceDelay+rand.N(coalesceDelay)) //nolint:gosec // spreads load
	}
	return wait, nil
}

// errPanic is of a pass that ended in one.
var errPanic = errors.New("a fault of guardian itself, please report it with the log: panic")

// survive looks at one guard, and turns a panic of that into an error: what one guard's
// objects bring out must not take the brake off all others, over and over again after
// each restart. The replica's Lease names such a guard (failing).
func (c *Controller) survive(ctx context.Context, g decision.Guard, alerts []decision.Alert) (out outcome, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			out, err = outcome{}, fmt.Errorf("guard %s: %w: %v", g.Name, errPanic, cause)
			c.o.Logger.ErrorContext(ctx, "reconcile panicked", "guard", g.Name, "panic", fmt.Sprint(cause), "stack", string(debug.Stack()))
		}
	}()
	return c.r.reconcile(ctx, g, alerts)
}

// manyRollbacks says whether rollbacks follow each other closely.
func (c *Controller) manyRollbacks() bool { return c.rollbacks.high(c.o.Now()) }

// fewRollbacks within coalesceDelay are no burst.
const fewRollbacks = 8

// rollbackRate tells many rollbacks at once from a few.
type rollbackRate struct {
	mu   sync.Mutex
	last [fewRollbacks]time.Time // a ring
	next int                     // its oldest
}

func (r *rollbackRate) add(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last[r.next] = now
	r.next = (r.next + 1) % fewRollbacks
}

func (r *rollbackRate) high(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	oldest := r.last[r.next]
	return !oldest.IsZero() && now.Sub(oldest).Abs() < coalesceDelay
}

// failing are the guards whose last pass failed, sorted.
func (c *Controller) failing() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for name, e := range c.guards {
		if e.failing.why != "" {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// finish notes what came of a reconcile.
func (c *Controller) finish(ctx context.Context, g decision.Guard, e *entry, out outcome, pending map[string]submitted, err error) {
	m := c.o.Metrics
	c.tellFailure(ctx, g, e, err)
	d := out.decision
	if out.done && d.Move == decision.MoveStable {
		if d.Reason == decision.ReasonReassert {
			m.reasserted(g.Name)
		} else {
			c.rollbacks.add(c.o.Now())
		}
		c.o.Logger.InfoContext(ctx, "traffic moved to stable", "guard", g.Name, "reason", string(d.Reason), "detail", whyStable(d.Record),
			"from", out.snapshot.input.Traffic.Weight, "build", d.Record.Status.Build)
	}
	if out.unmarked != nil {
		c.o.Logger.ErrorContext(ctx, "a VirtualService does not show the lock: the admission policies let canary weights pass, and guardian puts them back", "guard", g.Name, "err", out.unmarked)
	}
	if out.done && d.Move == decision.MoveForward {
		c.o.Logger.InfoContext(ctx, "traffic moved forward", "guard", g.Name, "weight", d.Weight, "build", d.Record.Status.Build)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.removed { // its series are gone
		return
	}
	if from := e.rolledBackFrom(out, pending, err != nil); !from.IsZero() {
		m.rollbackTook(ctx, g.Name, c.o.Now().Sub(from))
	}
	if out.recorded {
		for k := range pending {
			delete(e.pending, k)
		}
	}
	if out.recorded || out.done {
		e.sides, e.record, e.seen = out.snapshot.ofConfiguration().sides, decision.Record{Lock: d.Record.Lock, Status: out.status(), Receipt: d.Record.Receipt}, true
		e.unrecorded = out.whyUnrecorded()
		m.observe(g, out)
		if c.o.Confirmed != nil {
			c.o.Confirmed(e.view(g.Name))
		}
	}
}

// rolledBackFrom is when the alert came in of a rollback that a pass has done; zero: it
// has done none, or that alert has not come in here. What was refused, or was not safe,
// is done by a later pass than the one that was given the alert. A pass that has failed
// may have seen nothing of it.
func (e *entry) rolledBackFrom(out outcome, pending map[string]submitted, failed bool) time.Time {
	d := out.decision
	m := d.Record.Status.Moving
	if !m.RollsBack() || m.Again {
		if !failed {
			e.alertedAt = time.Time{}
		}
		return time.Time{}
	}
	for _, s := range pending {
		if l := d.Record.Lock; e.alertedAt.IsZero() && (l == nil || l.Fingerprint == s.alert.Fingerprint) {
			e.alertedAt = s.received
		}
	}
	if !out.done || d.Move != decision.MoveStable {
		return time.Time{}
	}
	from := e.alertedAt
	e.alertedAt = time.Time{}
	return from
}

// whyStable is why traffic has moved to stable; the status may still tell why it
// could not before.
func whyStable(r decision.Record) string {
	if r.Lock != nil {
		return r.Lock.Reason
	}
	return r.Status.Reason
}

// wrote is called for each record that this replica wrote: for Events and
// counters, which must not be told by every replica.
func (c *Controller) wrote(ctx context.Context, g decision.Guard, s snapshot, d decision.Decision) {
	for _, h := range d.Added {
		c.o.Logger.InfoContext(ctx, "recorded", "guard", g.Name, "event", h.Event, "state", string(h.State), "from", h.From, "to", h.To,
			"build", h.Build, "alert", h.Alert, "by", h.By, "reason", h.Reason)
		c.event.tell(s, h)
		if h.Event == decision.EventRolledBack {
			c.o.Metrics.rolledBack(g.Name, d.Signal)
		}
		if h.Event == decision.EventWould {
			c.o.Metrics.wouldRollBack(g.Name, d.Signal)
		}
		if h.Event == decision.EventUnverified {
			c.o.Metrics.unverified(g.Name)
		}
		if event := string(h.Event); slices.Contains(progress[:], event) {
			c.o.Metrics.progressed(g.Name, event)
		}
	}
}

// querySlot lets at most half of the workers ask Prometheus and Alertmanager at a
// time: when these are slow, the others still roll back at once.
func (c *Controller) querySlot() (done func(), ok bool) {
	select {
	case c.querySlots <- struct{}{}:
		return func() { <-c.querySlots }, true
	default:
		return nil, false
	}
}

// preemptible is a context for questions about a guard that end as soon as an
// alert for it comes.
func (c *Controller) preemptible(ctx context.Context, guard string) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.guards[guard]
	if !ok {
		return ctx, cancel
	}
	if len(e.waiters) > 0 || e.preempted {
		cancel() // it has come already
	}
	e.preempt = cancel
	return ctx, func() {
		c.mu.Lock()
		e.preempt = nil
		c.mu.Unlock()
		cancel()
	}
}

func (c *Controller) askForward(ctx context.Context, s snapshot) (decision.Forward, []decision.Alert) {
	if c.o.AskForward == nil {
		return decision.Forward{Err: "nobody can be asked what fires now"}, nil
	}
	ctx, done := c.preemptible(ctx, s.input.Guard.Name)
	defer done()
	return c.o.AskForward(ctx, s.input.Guard, s.sides, s.input.CountSince(c.o.Now()))
}

func (c *Controller) count(ctx context.Context, s snapshot) decision.Count {
	if c.o.Count == nil || s.next != nil { // it would be of the configuration's canary
		return decision.Count{}
	}
	ctx, done := c.preemptible(ctx, s.input.Guard.Name)
	defer done()
	n, gaps, err := c.o.Count(ctx, s.input.Guard, s.sides, s.input.CountSince(c.o.Now()))
	if err != nil {
		c.o.Logger.Debug("count the canary's requests", "guard", s.input.Guard.Name, "err", err)
		return decision.Count{}
	}
	return decision.Count{Known: true, Requests: n.Requests, Failed: n.Failed, Latency: n.Latency, Gaps: gaps}
}

// after asks what shows only after the rollback that r is of, and reads the pod templates.
func (c *Controller) after(ctx context.Context, s snapshot, r decision.Receipt) decision.After {
	ctx, done := c.preemptible(ctx, s.input.Guard.Name)
	defer done()
	a := c.o.After(ctx, s.input.Guard, s.sides, r)
	readTemplates(ctx, c.o.Client, s, r, &a)
	return a
}

// received notes on an alert when it came in.
func received(alerts []decision.Alert, s submitted) []decision.Alert {
	for i := range alerts {
		if alerts[i].Episode() == s.alert.Episode() {
			alerts[i].Received = s.received
		}
	}
	return alerts
}

// View is one guard as a Controller last saw it.
type View struct {
	Name   string          `json:"name"`
	Lock   *decision.Lock  `json:"lock,omitempty"`
	Status decision.Status `json:"status"`
	// Receipt is of its last rollback; nil: none is known.
	Receipt *decision.Receipt `json:"receipt,omitempty"`
	// Unrecorded is why the record lacks Lock, whose rollback was done; empty: it has it.
	Unrecorded string `json:"unrecorded,omitempty"`
	// Failing is why the last pass failed, which may have seen and done less than Status
	// tells of; empty: it did not fail.
	Failing string `json:"failing,omitempty"`
	Seen    bool   `json:"seen"` // false: not looked at since this replica started
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

func (e *entry) view(name string) View {
	r := e.record.Clone()
	return View{Name: name, Lock: r.Lock, Status: r.Status, Receipt: r.Receipt, Unrecorded: e.unrecorded, Failing: e.failing.shown(), Seen: e.seen}
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

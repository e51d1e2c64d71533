package remediate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
)

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

// comesAgain says that a pass which is made again at once would fail in the same way.
// Where a write of traffic was lost it need not, whatever else was refused.
func comesAgain(err error) bool {
	if traffic, ok := errors.AsType[*trafficError](err); ok && !definitelyAll(traffic.err) {
		return false
	}
	return errors.Is(err, errRefused) || errors.Is(err, errPanic) || definitely(err)
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

// tellFailure counts a pass that has failed, and logs why unless that has been told.
func (c *Controller) tellFailure(ctx context.Context, g decision.Guard, e *entry, err error) {
	c.mu.Lock()
	was := e.failing
	now, tell := was.next(err, c.o.Now())
	e.failing = now
	view := e.view(g.Name)
	c.mu.Unlock()
	if c.o.Failed != nil && (tell || (was.why == "") != (err == nil)) {
		c.o.Failed(view)
	}
	switch {
	case err != nil:
		c.o.Metrics.failed(g.Name)
		if tell {
			c.o.Logger.ErrorContext(ctx, "reconcile failed, retrying", "guard", g.Name, "err", err)
		}
	case was.why != "":
		c.o.Logger.InfoContext(ctx, "reconcile succeeds again", "guard", g.Name)
	}
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

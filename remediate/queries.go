package remediate

import (
	"context"

	"github.com/canary-guardian/guardian/remediate/decision"
)

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

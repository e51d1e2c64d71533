package remediate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
)

const maxAttempts = 10 // conflicts in a row before the queue's backoff takes over

// reconcile gathers, decides and applies until it fits, first from the caches,
// after a conflict with the objects that it writes as the API server has them. alerts are all that fire for
// the guard and all that were accepted and not acted on yet.
func (r *reconciler) reconcile(ctx context.Context, g decision.Guard, alerts []decision.Alert) (outcome, error) {
	var out outcome
	var ask questions
	var conflict error
	defer ask.giveSlotBack()
	for range maxAttempts {
		in, s, err := r.gather(ctx, g, alerts, ask)
		if errors.Is(err, errAbandoned) {
			ask.depth, ask.pinned = ask.floor, true
			continue
		}
		if err != nil {
			return out, err
		}
		s.again = ask.again
		d, now := r.decide(ctx, &in, s, &ask)
		if r.goesDeeper(d, s, &ask) {
			continue
		}
		if ask.pinned && unsure(s, d) {
			return out, fmt.Errorf("guard %s: %w", g.Name, errAbandoned)
		}
		traceDecision(ctx, s, d)
		did, err := r.apply(ctx, s, d)
		did.snapshot, did.recorded = s, out.recorded || did.recorded
		if out = did; err == nil {
			r.watch.observed(g.Name, moveOf(d.Record.Status), now)
			return out, nil
		}
		if !errors.Is(err, errConflict) && !doubtful(err, out) {
			return r.tellRefused(ctx, out, err)
		}
		lost := !errors.Is(err, errConflict)
		ask.depth, ask.floor, ask.pinned, ask.again, conflict = depthWritten, depthWritten, false, ask.again || lost, err
	}
	return out, fmt.Errorf("guard %s: %d attempts: %w", g.Name, maxAttempts, conflict)
}

// decide decides, and again when others than the API server have to be asked first.
// The time is that of the decision.
func (r *reconciler) decide(ctx context.Context, in *decision.Input, s snapshot, ask *questions) (decision.Decision, time.Time) {
	now := r.now()
	d := decision.Decide(*in, now)
	if asksOthers(d) && !ask.slot && !ask.busy {
		if ask.done, ask.slot = r.takeQuerySlot(); !ask.slot {
			ask.busy, in.Busy = true, true
			d = decision.Decide(*in, now)
		}
	}
	if d.WantCount && !ask.count.Asked {
		ask.count = r.count(ctx, s)
		ask.count.Asked = true
		in.Count = ask.count
		now = r.now()
		d = decision.Decide(*in, now)
	}
	if d.WantAfter && ask.after == nil && r.after != nil {
		return r.askAfter(ctx, in, s, *d.Record.Receipt, ask)
	}
	return d, now
}

// asksOthers says that a decision wants answers of others than the API server.
func asksOthers(d decision.Decision) bool { return d.WantCount || d.WantForward || d.WantAfter }

func (r *reconciler) takeQuerySlot() (done func(), ok bool) {
	if r.querySlot == nil {
		return func() {}, true
	}
	return r.querySlot()
}

// errAbandoned says that live reads have ended because an alert has come.
var errAbandoned = errors.New("an alert has come before the API server had answered")

func (r *reconciler) gather(ctx context.Context, g decision.Guard, alerts []decision.Alert, ask questions) (decision.Input, snapshot, error) {
	from := r.cached
	switch {
	case ask.depth >= depthLive && r.preemptible != nil:
		from = r.live
		live, done := r.preemptible(ctx, g.Name)
		defer done()
		in, s, err := r.gatherFrom(live, from, g, alerts, ask)
		if err != nil && live.Err() != nil && ctx.Err() == nil {
			err = errAbandoned
		}
		return in, s, err
	case ask.depth >= depthLive:
		from = r.live
	case ask.depth > depthCached:
		from = freshReader{reader: r.cached, live: r.live, recordOnly: ask.depth == depthRecord}
	}
	return r.gatherFrom(ctx, from, g, alerts, ask)
}

func (r *reconciler) gatherFrom(ctx context.Context, from reader, g decision.Guard, alerts []decision.Alert, ask questions) (decision.Input, snapshot, error) {
	in, live := decision.Input{Guard: g, Leads: r.leads()}, ask.depth >= depthLive
	s, err := r.gatherGuard(ctx, from, in, live || len(alerts) > 0)
	if err != nil {
		return decision.Input{}, s, err
	}
	r.lookedAt.read(g.Name, s)
	if (s.input.Owned || len(s.leaving) > 0) && (s.input.Record.Lock == nil || live) { // a rollback pays nothing for it
		s.gatherHeld(ctx, from)
	}
	if s.input.Record.Lock == nil || live { // a lock may end in a live look, and a step follow
		s.gatherForeign(ctx, from)
	}
	if r.unguarded != nil {
		s.input.Outside.Unguarded, s.input.Outside.Known = r.unguarded(s.input.Guard, s.pair, s.input.Record.Former(s.input.Guard))
	}
	s.input.Alerts = alerts
	if takesTraffic(alerts, s.input) {
		s.input.Shifted = shifted(s.services)
	}
	r.gatherReceipt(&s, ask)
	s.input.Watched = r.watch.read(g.Name, moveOf(s.input.Record.Status), r.now())
	s.input.Count, s.input.Busy = ask.count, ask.busy
	s.input.Unrecorded = r.unrecorded.of(g.Name, s.stored)
	s.input.LeaveAt, _ = r.later.of(g.Name)
	s.input.Leads = in.Leads && r.leads()
	s.input.Live = live && s.input.Leads
	if s.input.Live && ask.depth == depthAsked {
		if err := r.gatherForward(ctx, &s); err != nil {
			return decision.Input{}, s, err
		}
	}
	return s.input, s, nil
}

// gatherGuard is gather, which stirs caches that are idle where the guard is not quiet,
// or busy says that there is something to do.
func (r *reconciler) gatherGuard(ctx context.Context, from reader, in decision.Input, busy bool) (snapshot, error) {
	idle := r.idle != nil && r.idle()
	s, err := gather(ctx, from, in, r.domain, r.self(), r.known, r.past)
	if r.stir == nil || err == nil && !busy && s.quiet() {
		return s, err
	}
	if r.stir(); idle && err == nil { // now it reads what a cache lacks from the API server
		return gather(ctx, from, in, r.domain, r.self(), r.known, r.past)
	}
	return s, err
}

// gatherForward adds what only going forward needs, and what fires by those who are asked.
func (r *reconciler) gatherForward(ctx context.Context, s *snapshot) error {
	beat, err := r.heartbeat(ctx)
	if err != nil {
		return fmt.Errorf("read the heartbeats of all replicas: %w", err)
	}
	s.input.Heartbeat = beat
	f, firing := r.forward(ctx, *s)
	s.input.Forward = &f
	s.input.Alerts = mergeAlerts(s.input.Alerts, firing)
	return nil
}

// askAfter asks what shows only after a rollback, and decides anew. Its receipt is that
// of the decision: the record has none yet, or an earlier rollback's, in a pass that
// first sees that it is done, and sees it so late that it is time to ask.
func (r *reconciler) askAfter(ctx context.Context, in *decision.Input, s snapshot, receipt decision.Receipt, ask *questions) (decision.Decision, time.Time) {
	a := r.after(ctx, s, receipt)
	ask.after, in.After = &a, &a
	now := r.now()
	r.asked.note(s.input.Guard.Name, now)
	return decision.Decide(*in, now), now
}

// askAgain is how soon what shows only after a rollback is asked for again.
const askAgain = 9 * time.Second

// gatherReceipt is what a receipt needs besides what is decided on.
func (r *reconciler) gatherReceipt(s *snapshot, ask questions) {
	g := s.input.Guard.Name
	s.input.Wrote = r.done.when(g)
	if r.links != nil {
		sides := s.sides
		s.input.Links = func(from, to time.Time) []decision.Link { return r.links(g, sides, from, to) }
	}
	if r.after == nil {
		return
	}
	s.input.After, s.input.AskAfter = ask.after, time.Unix(0, 0) // the first time is now
	if at, ok := r.asked.of(g); ok {
		s.input.AskAfter = at.Add(askAgain)
	}
}

func mergeAlerts(a, b []decision.Alert) []decision.Alert {
	out := slices.Clone(a)
	for _, x := range b {
		if !slices.ContainsFunc(out, func(y decision.Alert) bool { return y.Episode() == x.Episode() }) {
			out = append(out, x)
		}
	}
	return out
}

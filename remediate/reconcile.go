package remediate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	corev1 "k8s.io/api/core/v1"
)

const maxAttempts = 10 // conflicts in a row before the queue's backoff takes over

const (
	coalesceDelay    = 5 * time.Second // how long, in a burst of rollbacks, what follows from one may wait to be written down
	maxCoalesceDelay = time.Minute     // and how long at most while the burst goes on
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
	forward       func(ctx context.Context, s snapshot) (decision.Forward, []decision.Alert)   // asks what only matters for going forward
	after         func(ctx context.Context, s snapshot, r decision.Receipt) decision.After     // what shows only after a rollback; nil: nobody is asked
	links         func(guard string, sides decision.Sides, from, to time.Time) []decision.Link // nil: there are none
	unguarded     func(g decision.Guard, p virtualservice.Pair) (found []string, known bool)   // nil: it is not looked for
	changed       func(ctx context.Context, g decision.Guard, s snapshot, d decision.Decision) // told of each decision that was written
	manyRollbacks func() bool                                                                  // many rollbacks at once; nil: never

	idle func() bool // what cached holds may be of a while ago; nil: never
	stir func()      // something goes on: it must not be
}

// outcome is what one reconcile came to.
type outcome struct {
	decision decision.Decision
	snapshot snapshot
	// recorded says that all that follows from the alerts is in the record,
	// even where the traffic could not be moved yet.
	recorded  bool
	done      bool  // Move was made in full: the API server has taken each write
	later     bool  // a write of the record was put off
	unmarked  error // why a VirtualService does not tell of the lock; nil: all do
	unwritten error // why the record does not tell of a rollback that was done; nil: it does

	record *corev1.ConfigMap // as it is after the writes; nil: not known
}

// status is what the API server has been seen to have, once the writes are in.
func (o outcome) status() decision.Status {
	s := o.decision.Record.Status
	if m := o.decision.Marks; o.done && (o.decision.Move == decision.MoveStable || o.decision.Move == decision.MoveForward) {
		s.State, s.Reason = m.State, m.Reason
	}
	return s
}

// whyUnrecorded is why the record lacks the lock; empty: it has one, or there is none.
func (o outcome) whyUnrecorded() string {
	if o.unwritten == nil || o.decision.Record.Lock == nil || o.snapshot.stored.Lock != nil {
		return ""
	}
	return decision.Shorten(strings.ReplaceAll(o.unwritten.Error(), "\n", "; "))
}

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
	if (d.WantCount || d.WantForward || d.WantAfter) && !ask.slot && !ask.busy {
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

// depth is how much of what a decision is made on is read anew. Each has what the ones
// before it have; any doubt goes deeper.
type depth int

const (
	depthCached  depth = iota // nothing: the caches have it
	depthRecord               // the record, from the API server
	depthWritten              // all objects that are written
	depthLive                 // everything that the API server has
	depthAsked                // and what only matters for going forward
)

// questions are what a pass has found that it must ask.
type questions struct {
	depth  depth
	floor  depth // to which a pass goes back whose live reads were abandoned
	pinned bool  // no deeper: an alert waits for this pass to end
	again  bool  // it has left a write without an answer
	count  decision.Count
	after  *decision.After
	slot   bool   // this pass has a slot for queries to others than the API server
	done   func() // gives it back
	busy   bool   // it is not, they are being asked about other guards
}

// written is the depth of all objects that are written, for whatever comes after too.
func (q *questions) written() { q.depth, q.floor = depthWritten, depthWritten }

func (q *questions) giveSlotBack() {
	if q.done != nil {
		q.done()
	}
}

func (r *reconciler) takeQuerySlot() (done func(), ok bool) {
	if r.querySlot == nil {
		return func() {}, true
	}
	return r.querySlot()
}

// contradicts says that a decision sees another build, or other weights than
// guardian's own, than the record tells of. The record, the VirtualService and
// the Deployments come by watches of their own: one that lags looks like a new
// build, or like somebody who shifts back. A locked guard's weights are looked
// at by what is written because of them.
func contradicts(was, now decision.Record) (build, weight bool) {
	a, b := was.Status, now.Status
	if a.State == decision.StateUnknown {
		return false, false
	}
	own := a.Moving != nil && a.Moving.To == b.Weight
	return a.Build != b.Build, was.Lock == nil && now.Lock == nil && !own && (a.Weight != b.Weight || a.Spread != b.Spread)
}

// goesDeeper says that the decision has to be made again, on input of a greater depth.
func (r *reconciler) goesDeeper(d decision.Decision, s snapshot, ask *questions) bool {
	was := ask.depth
	switch {
	case ask.depth >= depthLive:
		if d.WantForward && s.input.Live {
			ask.depth = depthAsked
		}
	case ask.pinned: // the next pass will ask
	case d.WantLive && r.leads() && d.WantForward:
		ask.depth = depthAsked
	case d.WantLive && r.leads(), s.adopts(d): // another's lock may have been lifted since the cache was told of it
		ask.depth = depthLive
	default:
		r.doubts(d, s, ask)
	}
	return ask.depth > was
}

// adopts says that a decision takes a lock up again that a VirtualService tells of.
func (s snapshot) adopts(d decision.Decision) bool {
	return s.input.Record.Lock == nil && d.Record.Lock != nil && d.Record.Lock.From != ""
}

// doubts goes deeper where what the caches have may not be so.
func (r *reconciler) doubts(d decision.Decision, s snapshot, ask *questions) {
	build, weight := contradicts(s.input.Record, d.Record)
	switch {
	case build && !rollsBack(s, d):
		ask.depth, ask.floor = depthLive, depthWritten
	case ask.depth >= depthWritten:
	case weight && weightCounts(s, d), r.firstReport(s, d):
		ask.written()
	case ask.depth == depthCached && d.Move == decision.MoveStable && s.holds(d.Record):
		// Nothing but the cached record says that it is locked, and no write
		// of it would notice that somebody has lifted the lock meanwhile.
		ask.depth = depthRecord
	}
}

// weightCounts says that another weight than the record's is to be read anew. Without a
// lock the rollback of a canary that has no traffic any more would else be told, and
// begun anew by each pass as long as the cache lags.
func weightCounts(s snapshot, d decision.Decision) bool {
	return !rollsBack(s, d) || s.input.Guard.Rollback.Lock == decision.LockNone
}

// firstReport says that a decision would report what this replica has not done, or that
// nothing has to be done, or that something was not done.
func (r *reconciler) firstReport(s snapshot, d decision.Decision) bool {
	return (d.Doubt || confirms(s.input.Record, d)) && !r.done.is(s) || givesUp(s.input.Record, d)
}

// rollsBack says that a decision begins a rollback, which waits for nothing.
func rollsBack(s snapshot, d decision.Decision) bool {
	return d.Move == decision.MoveStable && s.input.Record.Lock == nil
}

// unsure says that a decision should not be written as the caches have it.
func unsure(s snapshot, d decision.Decision) bool {
	build, weight := contradicts(s.input.Record, d.Record)
	return (build || weight || givesUp(s.input.Record, d)) && !rollsBack(s, d)
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
		s.input.Outside.Unguarded, s.input.Outside.Known = r.unguarded(s.input.Guard, s.pair)
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

// apply makes a decision true: it writes what is planned. The record is written
// before traffic moves, so that a crash between the two is finished by the next
// reconcile.
func (r *reconciler) apply(ctx context.Context, s snapshot, d decision.Decision) (did outcome, err error) {
	did.decision = d
	p, err := plan(s, d, r.self())
	if err != nil {
		return did, err
	}
	did.decision.Record = p.before
	if err := r.stillLeads(s, d); err != nil {
		return did, err
	}
	did.record = s.record
	switch {
	case s.holds(p.before):
	case r.canCoalesce(s, d, p.before):
		did.later = true
	default:
		did.record, err = r.store.writeRecord(ctx, s.input.Guard.Name, s.record, p.before)
		switch {
		case err == nil:
			r.changed(ctx, s.input.Guard, s, d)
		case d.Move == decision.MoveStable && s.again && !errors.Is(err, errConflict):
			return r.applyUnrecorded(ctx, s, did, err)
		default:
			return did, &recordError{err}
		}
	}
	if d.Observes { // whatever there may be to write, such as a lock's annotation
		did.recorded, did.done = true, true
		return did, nil
	}
	if err := r.stillLeads(s, d); err != nil {
		return did, err
	}
	did.unmarked, err = r.patch(ctx, p.patches, d)
	// Without a lock the record does not see to it that traffic moves.
	did.recorded = err == nil || p.before.Lock != nil || d.Move != decision.MoveStable
	if err != nil {
		return did, &trafficError{err}
	}
	if did.done = true; d.Move == decision.MoveStable || d.Move == decision.MoveForward {
		r.done.note(s.input.Guard.Name, did.record, r.now())
	}
	return did, r.conclude(ctx, s, d, p, did.record)
}

// stillLeads looks at the lease once more, right before something goes forward
// or a lock is lifted or observing ends: answers may have taken longer than the lease lasts. What
// another holds now is decided anew.
func (r *reconciler) stillLeads(s snapshot, d decision.Decision) error {
	was, want := s.input.Record, d.Record
	forward := d.Move == decision.MoveForward || d.Move == decision.MoveRestore
	lifts := was.Lock != nil && want.Lock == nil
	enforces := was.Status.Observing != nil && want.Status.Observing == nil
	if (forward || lifts || enforces) && !r.leads() {
		return fmt.Errorf("guard %s: the lease is another's: %w", s.input.Guard.Name, errConflict)
	}
	return nil
}

// patch writes the VirtualServices, as far as there is something to write. A
// rollback is done in as many as take it, and in each as far as it takes it;
// going forward stops at the first that does not.
func (r *reconciler) patch(ctx context.Context, todo []change, d decision.Decision) (unmarked, err error) {
	var refused []error
	for _, c := range todo {
		if len(c.ops) == 0 && len(c.lock) == 0 {
			continue
		}
		unmarkedHere, err := r.patchOne(ctx, c, d)
		if unmarkedHere != nil {
			unmarked = unmarkedHere
		}
		if err == nil {
			continue
		}
		if refused = append(refused, err); d.Move != decision.MoveStable {
			break
		}
	}
	return unmarked, errors.Join(refused...)
}

// patchOne writes one VirtualService. The weights do not wait for a lock's
// annotation that guardian may not write, as where another user has taken its
// key: unmarked says why it is not there.
func (r *reconciler) patchOne(ctx context.Context, c change, d decision.Decision) (unmarked, err error) {
	_, err = r.store.patchVirtualService(ctx, c.vs, append(slices.Clone(c.ops), c.lock...), manager(d))
	if len(c.lock) > 0 && definitely(err) {
		if unmarked = err; len(c.ops) == 0 {
			return unmarked, nil
		}
		_, err = r.store.patchVirtualService(ctx, c.vs, c.ops, manager(d))
	}
	if definitely(err) && d.Move == decision.MoveStable {
		err = r.patchSmaller(ctx, c, err)
	}
	return unmarked, err
}

// self is guardian's user as the API server knows it; empty: not known yet.
func (r *reconciler) self() string {
	if r.user == nil {
		return ""
	}
	return r.user()
}

// conclude writes down what has been given back or done, and gives up ownership.
func (r *reconciler) conclude(ctx context.Context, s snapshot, d decision.Decision, p planned, cm *corev1.ConfigMap) error {
	var again error
	if d.Leave {
		again = r.leave(ctx, s, &d, &p.after)
	}
	if p.conclude && !records.Holds(cm, p.after) {
		if _, err := r.store.writeRecord(ctx, s.input.Guard.Name, cm, p.after); err != nil {
			return err
		}
		if d.Added = d.Then; len(d.Added) > 0 {
			r.changed(ctx, s.input.Guard, s, d)
		}
	}
	if !d.Release {
		return again
	}
	for _, vs := range s.services {
		if s.held[vs.GetName()] || s.former[vs.GetName()] {
			continue
		}
		if err := r.store.release(ctx, vs.GetName()); err != nil {
			return err
		}
	}
	return again
}

// canCoalesce says that all there is to write is how a rollback of a moment ago
// has turned out, or that further alerts fire for a guard whose lock stands
// already. In a burst of rollbacks such writes would stand in the way of those
// that move traffic.
func (r *reconciler) canCoalesce(s snapshot, d decision.Decision, want decision.Record) bool {
	was := s.input.Record
	switch {
	case !sameAlertLock(was, want) || !sameDenials(was, want):
		return false
	case d.Move != decision.MoveNone || !rollbacksAlone(d.Added) || isAnswered(was, want):
		return false
	}
	return r.sawDone(s, want) && r.inBurst(*want.Lock)
}

// isAnswered says that a person waits for what is to be written.
func isAnswered(was, want decision.Record) bool {
	return was.Request != nil || !slices.Equal(was.Answers, want.Answers)
}

// sawDone says that a record is to tell of a rollback that the record before tells of
// too, or that this replica has made itself.
func (r *reconciler) sawDone(s snapshot, want decision.Record) bool {
	told := s.input.Record.Status.State == decision.StateRolledBack
	return want.Status.State == decision.StateRolledBack && (told || r.done.is(s))
}

// inBurst says that many rollbacks go on at once, and that a lock is of them.
func (r *reconciler) inBurst(l decision.Lock) bool {
	return r.manyRollbacks != nil && r.manyRollbacks() && r.now().Sub(l.Since).Abs() < maxCoalesceDelay
}

// sameAlertLock says that both records have one lock, which an alert has set.
func sameAlertLock(a, b decision.Record) bool {
	return a.Lock != nil && b.Lock != nil && b.Lock.Equal(*a.Lock) && b.Lock.By == decision.ByAlert
}

// sameDenials says that the locks of both records refuse the same.
func sameDenials(a, b decision.Record) bool {
	return slices.Equal(a.Refused, b.Refused) && slices.Equal(a.Deny, b.Deny) && slices.Equal(a.VirtualServices, b.VirtualServices) &&
		a.DenyMatchRoutes == b.DenyMatchRoutes && a.DenyMirrors == b.DenyMirrors
}

// rollbacksAlone says that the entries report rollbacks and nothing else.
func rollbacksAlone(added []decision.HistoryEntry) bool {
	return !slices.ContainsFunc(added, func(e decision.HistoryEntry) bool { return e.Event != decision.EventRolledBack })
}

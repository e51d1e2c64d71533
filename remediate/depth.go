package remediate

import (
	"slices"

	"github.com/canary-guardian/guardian/remediate/decision"
)

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
	case ask.pinned: // the next pass will ask; what is told is no matter for a cache all the same
		if ask.depth < depthWritten && r.firstReport(s, d) {
			ask.written()
		}
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

// confirms says that a decision tells of something as done that was not before:
// a cache alone is no proof of it. A rollback without a lock changes no state.
func confirms(was decision.Record, d decision.Decision) bool {
	rolledBack := d.Record.Status.State == decision.StateRolledBack && was.Status.State != decision.StateRolledBack
	if d.Move == decision.MoveNone && (rolledBack || adds(d, decision.EventRolledBack)) {
		return true
	}
	return was.Status.Moving != nil && adds(d, decision.EventRolledBack, decision.EventReasserted, decision.EventStep)
}

// rollsBack says that a decision begins a rollback, which waits for nothing.
func rollsBack(s snapshot, d decision.Decision) bool {
	return d.Move == decision.MoveStable && s.input.Record.Lock == nil
}

// unsure says that a decision should not be written as the caches have it. A lock that is
// taken over may have been lifted since; where alerts wait for this very pass, it brakes
// all the same.
func unsure(s snapshot, d decision.Decision) bool {
	build, weight := contradicts(s.input.Record, d.Record)
	return (build || weight || givesUp(s.input.Record, d)) && !rollsBack(s, d) || s.adopts(d) && len(s.input.Alerts) == 0
}

// givesUp says that a decision tells of a change of weights that it was not made: whoever
// has made it may have a cache that does not show it yet.
func givesUp(was decision.Record, d decision.Decision) bool {
	return was.Status.Moving != nil && adds(d, decision.EventMissed)
}

// adds says that a decision adds one of the events to the history.
func adds(d decision.Decision, events ...decision.Event) bool {
	return slices.ContainsFunc(d.Added, func(e decision.HistoryEntry) bool { return slices.Contains(events, e.Event) })
}

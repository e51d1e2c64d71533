package remediate

import (
	"sync"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
)

// dwellTimes measures for how long this replica has observed each guard's weights
// unchanged. It runs by the monotonic clock: when the machine's clock is set, an interval of promotion becomes neither shorter nor longer.
// It is memory alone; after a restart the record's times have to do. A nil
// value has observed nothing.
type dwellTimes struct {
	elapsed func() time.Duration // since any moment in the past

	mu     sync.Mutex
	guards map[string]dwell
}

// dwell is one change of weights: the record's time of it, and this
// replica's own.
type dwell struct {
	move
	at    time.Duration
	known bool // it was seen to happen, and not found
}

// move is what a record says of the last change of weights.
type move struct {
	movedAt     time.Time
	weight, low int // of the canary, and its lowest in any VirtualService
}

func moveOf(s decision.Status) move { return move{s.MovedAt, s.Weight, s.Weight - s.Spread} }

func (m move) equal(o move) bool {
	return m.movedAt.Equal(o.movedAt) && m.weight == o.weight && m.low == o.low
}

func newDwellTimes() *dwellTimes {
	start := time.Now()
	return &dwellTimes{elapsed: func() time.Duration { return time.Since(start) }, guards: map[string]dwell{}}
}

// read is for how long, at now, the weights stand that the record says have
// changed last. What another replica has written since this one looked
// last has changed just now.
func (w *dwellTimes) read(guard string, m move, now time.Time) decision.Watched {
	if w == nil {
		return decision.Watched{}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s, ok := w.guards[guard]
	elapsed := w.elapsed()
	if !ok || !s.known && s.equal(m) {
		return decision.Watched{}
	}
	dwelt, _ := s.since(m, now, elapsed)
	return decision.Watched{Known: true, For: dwelt}
}

// observed notes what a pass at now has left in the record.
func (w *dwellTimes) observed(guard string, m move, now time.Time) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s, ok := w.guards[guard]
	elapsed := w.elapsed()
	dwelt, same := s.since(m, now, elapsed)
	switch {
	case ok && s.equal(m):
		return
	case ok && same:
		s.move, s.at = m, elapsed-dwelt
	default:
		s = dwell{move: m, at: elapsed, known: ok || m.movedAt.Equal(now)}
	}
	w.guards[guard] = s
}

// sameMove is how far the times at which two replicas have seen one move may be
// apart: each sees it when its watch and its queue have come to it. Where the
// record has another replica's time of it, the later of the two counts.
const sameMove = 10 * time.Second

// since is for how long the weights have stood since a move, if that is the one
// of this observation: its time may only have been put right since. Other weights
// are another move, whatever time the clock of who saw it gave it.
func (s dwell) since(m move, now time.Time, elapsed time.Duration) (time.Duration, bool) {
	own, age := elapsed-s.at, now.Sub(m.movedAt)
	switch {
	case !s.known, s.weight != m.weight, s.low != m.low:
		return 0, false
	case s.movedAt.Equal(m.movedAt):
		return own, true
	case (age - own).Abs() <= sameMove:
		return max(0, min(own, age)), true
	}
	return 0, false
}

// forget drops a guard that is no longer configured.
func (w *dwellTimes) forget(guard string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.guards, guard)
}

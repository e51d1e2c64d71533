package remediate

import (
	"sync"
	"time"
)

// stopwatch measures for how long this replica has seen each guard's weights
// stand as they do. It runs by the monotonic clock: when somebody sets the
// machine's clock, an interval of promotion becomes neither shorter nor longer.
// It is memory alone; after a restart the record's times have to do. A nil
// stopwatch has seen nothing.
type stopwatch struct {
	elapsed func() time.Duration // since any moment in the past

	mu     sync.Mutex
	guards map[string]sighting
}

// sighting is one change of weights: the record's time of it, and this
// replica's own.
type sighting struct {
	movedAt time.Time
	at      time.Duration
	known   bool // it was seen to happen, and not found
}

func newStopwatch() *stopwatch {
	start := time.Now()
	return &stopwatch{elapsed: func() time.Duration { return time.Since(start) }, guards: map[string]sighting{}}
}

// read is for how long, at now, the weights stand that the record says have
// changed at movedAt. What another replica has written since this one looked
// last has changed just now.
func (w *stopwatch) read(guard string, movedAt, now time.Time) Watched {
	if w == nil {
		return Watched{}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s, ok := w.guards[guard]
	elapsed := w.elapsed()
	if !ok || !s.known && s.movedAt.Equal(movedAt) {
		return Watched{}
	}
	stood, _ := s.stood(movedAt, now, elapsed)
	return Watched{Known: true, For: stood}
}

// saw notes what a pass at now has left in the record.
func (w *stopwatch) saw(guard string, movedAt, now time.Time) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s, ok := w.guards[guard]
	elapsed := w.elapsed()
	stood, same := s.stood(movedAt, now, elapsed)
	switch {
	case ok && s.movedAt.Equal(movedAt):
		return
	case ok && same:
		s.movedAt, s.at = movedAt, elapsed-stood
	default:
		s = sighting{movedAt: movedAt, at: elapsed, known: ok || movedAt.Equal(now)}
	}
	w.guards[guard] = s
}

// sameMove is how far the times at which two replicas have seen one move may be
// apart: each sees it when its watch and its queue have come to it. Where the
// record has another replica's time of it, the later of the two counts.
const sameMove = 10 * time.Second

// stood is for how long the weights have stood since movedAt, if that tells of
// this sighting: its time may only have been put right since.
func (s sighting) stood(movedAt, now time.Time, elapsed time.Duration) (time.Duration, bool) {
	own, age := elapsed-s.at, now.Sub(movedAt)
	switch {
	case !s.known:
		return 0, false
	case s.movedAt.Equal(movedAt):
		return own, true
	case (age - own).Abs() <= sameMove:
		return max(0, min(own, age)), true
	}
	return 0, false
}

// forget drops a guard that is no longer configured.
func (w *stopwatch) forget(guard string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.guards, guard)
}

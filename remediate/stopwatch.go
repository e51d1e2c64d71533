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
	switch {
	case !ok || !s.known && s.movedAt.Equal(movedAt):
		return Watched{}
	case s.same(movedAt, now, elapsed):
		return Watched{Known: true, For: elapsed - s.at}
	}
	return Watched{Known: true}
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
	switch {
	case ok && s.movedAt.Equal(movedAt):
		return
	case ok && s.same(movedAt, now, elapsed):
		s.movedAt = movedAt
	default:
		s = sighting{movedAt: movedAt, at: elapsed, known: ok || movedAt.Equal(now)}
	}
	w.guards[guard] = s
}

// same says that movedAt tells of this sighting: its time may only have been
// put right since.
func (s sighting) same(movedAt, now time.Time, elapsed time.Duration) bool {
	return s.known && (s.movedAt.Equal(movedAt) || (now.Sub(movedAt)-(elapsed-s.at)).Abs() <= clockTolerance)
}

// forget drops a guard that is no longer configured.
func (w *stopwatch) forget(guard string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.guards, guard)
}

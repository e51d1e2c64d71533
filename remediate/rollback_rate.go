package remediate

import (
	"sync"
	"time"
)

const (
	coalesceDelay    = 5 * time.Second // how long, in a burst of rollbacks, what follows from one may wait to be written down
	maxCoalesceDelay = time.Minute     // and how long at most while the burst goes on
)

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

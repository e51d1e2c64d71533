package remediate

import "sync"

// perGuard is what this replica remembers of each guard, beside the records. The
// zero value remembers nothing.
type perGuard[V any] struct {
	mu  sync.Mutex
	all map[string]V
}

func (p *perGuard[V]) note(guard string, v V) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all == nil {
		p.all = map[string]V{}
	}
	p.all[guard] = v
}

func (p *perGuard[V]) of(guard string) (v V, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	v, ok = p.all[guard]
	return v, ok
}

// forget drops a guard, such as one that is no longer configured.
func (p *perGuard[V]) forget(guard string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.all, guard)
}

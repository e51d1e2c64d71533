package remediate

import (
	"sync"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	corev1 "k8s.io/api/core/v1"
)

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

// confirmed knows for which record of each guard, by its resource version, this
// replica has itself made what it says is under way, with the API server's answer:
// then nobody has to be asked whether it has been.
type confirmed struct{ perGuard[confirmation] }

type confirmation struct {
	version string
	at      time.Time // when the API server had answered
}

func (c *confirmed) note(guard string, record *corev1.ConfigMap, now time.Time) {
	if record != nil {
		c.perGuard.note(guard, confirmation{record.ResourceVersion, now})
	}
}

func (c *confirmed) is(s snapshot) bool {
	have, ok := c.of(s.input.Guard.Name)
	return ok && s.record != nil && have.version == s.record.ResourceVersion
}

// when is when the API server has last taken what this replica wrote; zero: never.
func (c *confirmed) when(guard string) time.Time {
	have, _ := c.of(guard)
	return have.at
}

// unrecorded are the locks of rollbacks that could not be recorded.
type unrecorded struct{ perGuard[unrecordedLock] }

type unrecordedLock struct {
	decision.Lock
	lifted time.Time // LiftedAt of the record then: it may lie in the future, by another replica's clock
}

// of is the lock that the record lacks; one that has a lock, or that a person
// has unlocked since, lacks none.
func (u *unrecorded) of(guard string, stored decision.Record) *decision.Lock {
	l, ok := u.perGuard.of(guard)
	if !ok {
		return nil
	}
	at := stored.Status.LiftedAt
	if stored.Lock != nil || at.After(l.Since) && !at.Equal(l.lifted) {
		u.forget(guard)
		return nil
	}
	return &l.Lock
}

package remediate

import (
	"slices"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"pgregory.net/rapid"
)

// observing says that a replica's configuration observes, or the record does.
func (m *machine) observing() bool {
	return m.parsed().Status.Observing != nil || slices.ContainsFunc(m.replicas, func(r *replica) bool { return r.guard.Mode == decision.ModeObserve })
}

// brakeOff says that nobody expects an alert to roll back.
func (m *machine) brakeOff() bool { return m.disarmed() || m.observing() }

// forbidWrites fails for each write of a VirtualService by a replica whose
// configuration observes, and for each rollback by an alert of the past.
func (m *machine) forbidWrites() {
	m.wired = func(r *replica) {
		before, check, stored := r.store.before, r.store.check, r.store.stored
		r.store.stored = func(old, cm *corev1.ConfigMap) {
			m.switched(m.parse(old), m.parse(cm))
			stored(old, cm)
		}
		r.store.before = func(write string) error {
			if write != "record" && r.guard.Mode == decision.ModeObserve {
				m.t.Fatalf("%s observes, and wrote to the VirtualService: %s", r.name, write)
			}
			return before(write)
		}
		r.store.check = func(was, is *unstructured.Unstructured, manager string) {
			check(was, is, manager)
			if m.trafficOf(is).Weight < m.trafficOf(was).Weight {
				m.checkPast()
			}
		}
	}
	for _, r := range m.replicas {
		m.wired(r)
	}
}

// switched notes the switch to enforce in the ledger: what runs then is forgiven.
func (m *machine) switched(was, is decision.Record) {
	if was.Status.Observing == nil || is.Status.Observing != nil {
		return
	}
	m.enforced, m.stood = m.now, was.Lock
	for t := range m.blamed {
		if !slices.Contains(is.Refused, m.w.hashOfTemplate(t)) {
			delete(m.blamed, t)
		}
	}
}

// checkPast: no alert that began before the guard came to enforce has rolled back
// a build of that time.
func (m *machine) checkPast() {
	rec := m.parsed()
	l, enforced := rec.Lock, rec.Status.EnforcedAt
	if l == nil || l.By != decision.ByAlert || l.From != "" || l.Since.Before(enforced) {
		return
	}
	if k := m.stood; k != nil && k.Since.Equal(l.Since) && k.Fingerprint == l.Fingerprint {
		return // it was set before the guard observed, if in the same instant, and is put back
	}
	if l.StartsAt.Before(enforced) && !rec.Status.BuildSince.After(enforced) {
		m.t.Fatalf("an alert of %s has rolled back at %s; the guard enforces since %s, the build is of %s", l.StartsAt, l.Since, enforced, rec.Status.BuildSince)
	}
}

// TestPropertyAGuardThatObservesWritesNoVirtualService has replicas go through
// all that can happen to a guard, with a lock of before or without, and holds the
// writes that the API server sees against the mode.
func TestPropertyAGuardThatObservesWritesNoVirtualService(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine(t)
		m.guard.Promotion.Mode = decision.PromotionOff
		if rapid.Bool().Draw(t, "enforced before") {
			m.settle()
			m.pass(m.alert("of before"))
			m.settle()
		}
		for _, r := range m.replicas {
			r.guard.Mode = decision.ModeObserve
		}
		m.forbidWrites()
		m.settle()
		version := func() string { return m.w.vs.GetResourceVersion() }
		t.Repeat(m.actions())
		m.t = t
		m.settle()
		if m.w.vs != nil {
			was := version()
			m.settle()
			if is := version(); is != was {
				t.Fatalf("the VirtualService went from version %s to %s while guardian alone was there", was, is)
			}
		}
	})
}

// TestPropertyASwitchOfTheModeNeverActsOnThePast has the configuration change,
// for one replica after the other, in the middle of all else.
func TestPropertyASwitchOfTheModeNeverActsOnThePast(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine(t)
		m.guard.Promotion.Mode = decision.PromotionOff
		for _, r := range m.replicas {
			r.guard.Promotion.Mode, r.guard.Mode = decision.PromotionOff, decision.ModeObserve
		}
		m.forbidWrites()
		m.settle()
		actions := m.actions()
		actions["mode"] = func(t *rapid.T) {
			m.t = t
			m.pick("configuration read by").guard.Mode = rapid.SampledFrom([]decision.Mode{decision.ModeEnforce, decision.ModeObserve}).Draw(t, "mode")
		}
		actions["enforce"] = func(t *rapid.T) {
			m.t = t
			for _, r := range m.replicas {
				r.guard.Mode = decision.ModeEnforce
			}
			m.settle()
			m.now = m.now.Add(time.Second)
		}
		t.Repeat(actions)
		m.t = t
		m.settle()
	})
}

package remediate

import (
	"maps"
	"slices"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"pgregory.net/rapid"
)

// story is what befalls a release from its beginning to its end, several events in
// the order in which they make sense: single ones get there too rarely.
func (m *machine) story() {
	weight := func() int { return rapid.SampledFrom([]int{10, 50, 100}).Draw(m.t, "CI applies") }
	switch rapid.SampledFrom([]string{"proven", "forgiven", "back", "replaced", "inherited"}).Draw(m.t, "story") {
	case "proven": // one build has stood its window out, and the next fails in the middle of its rollout
		m.roll(2)
		m.ciApply(100)
		m.look()
		m.later(31 * time.Minute)
		m.look()
		m.release(rapid.IntRange(0, 1).Draw(m.t, "ready pods"))
		m.ciApply(weight())
		m.look()
		m.fails()
	case "forgiven": // a person lifts the lock, and CI goes on
		m.ciApply(weight())
		m.fails()
		m.later(time.Minute)
		m.ends()
		m.asks(decision.Request{Action: decision.RequestUnlock, By: "someone", Reason: "because", At: m.now})
		m.look()
		m.ciApply(weight())
		m.look()
	case "back": // a new build lifts the lock, and the one before comes back
		was := m.w.template
		m.ciApply(weight())
		m.fails()
		m.later(time.Minute)
		m.ends()
		m.release(2)
		m.look()
		if was > 0 {
			m.setTemplate(was)
			m.roll(rapid.IntRange(0, 2).Draw(m.t, "ready pods"))
		}
		m.ciApply(weight())
		m.look()
	case "replaced": // what was replaced long ago is not to blame
		m.ciApply(weight())
		m.look()
		m.release(2)
		m.look()
		m.later(rapid.SampledFrom([]time.Duration{time.Second, 31 * time.Minute}).Draw(m.t, "passes"))
		m.look()
		m.fails()
	case "inherited": // another guard's lock is taken over and lifted, and goes on standing there
		m.w.foreign = m.otherGuard(true, rapid.IntRange(1, len(m.w.made)).Draw(m.t, "its lock is for"))
		m.look()
		m.later(time.Minute)
		m.ends()
		m.release(2)
		m.look()
		m.ciApply(weight())
		m.look()
	}
}

// look has the replicas look at the guard as it is.
func (m *machine) look() {
	for range 2 {
		for _, r := range m.replicas {
			m.sync(r)
			m.pass(r)
		}
	}
}

// fails has an alert begin that one of the replicas hears.
func (m *machine) fails() {
	for _, r := range m.replicas {
		m.sync(r)
	}
	m.pass(m.alert("alert"))
}

// ends has nothing fire any more.
func (m *machine) ends() {
	for _, k := range slices.Sorted(maps.Keys(m.firing)) {
		delete(m.firing, k)
		for _, r := range m.replicas {
			delete(r.known, k)
		}
	}
}

// release is a new build of which so many pods are ready.
func (m *machine) release(ready int) {
	m.newBuild(len(m.w.made) + 1)
	m.roll(ready)
}

func (m *machine) newBuild(n int) {
	m.w.made[n] = m.now
	m.oldBuild = 0
	m.setTemplate(n)
}

// asks is what a person writes into the record.
func (m *machine) asks(q decision.Request) {
	if m.w.cm == nil {
		return
	}
	cm := m.w.cm.DeepCopy()
	ask(cm, q)
	cm.ResourceVersion = m.w.next()
	m.w.cm = cm
}

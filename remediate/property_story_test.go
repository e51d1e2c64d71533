package remediate

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	"pgregory.net/rapid"
)

// story is what befalls a release from its beginning to its end, several events in
// the order in which they make sense: single ones get there too rarely.
func (m *machine) story() {
	weight := func() int { return rapid.SampledFrom([]int{10, 50, 100}).Draw(m.t, "CI applies") }
	switch rapid.SampledFrom([]string{"proven", "forgiven", "back", "replaced", "inherited", "vanished", "due", "due"}).Draw(m.t, "story") {
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
		was, again := m.w.template, m.w.twin
		m.ciApply(weight())
		m.fails()
		m.later(time.Minute)
		m.ends()
		m.release(2)
		m.look()
		if was > 0 || again > 0 {
			m.setTemplates(was, again)
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
	case "vanished": // the pods that fail are gone before the alert comes, and come back
		m.ciApply(weight())
		m.look()
		m.w.pods, m.w.lives = nil, nil
		m.lived()
		m.later(time.Second)
		m.fails()
		m.later(time.Minute)
		m.ends()
		m.roll(rapid.IntRange(0, 2).Draw(m.t, "pods back"))
		m.look()
	case "due":
		m.due()
	}
}

// due is a release of which a step is due, by the schedule or because a person asks
// for it, and one thing alone is against it.
func (m *machine) due() {
	m.prom, m.closed, m.gateShut, m.few, m.down, m.unlisted, m.hurried, m.refusals = true, false, false, false, false, false, false, nil
	m.w.stable, m.w.noSubset, m.w.foreign = 2, false, nil
	for _, r := range m.replicas {
		r.dead, r.idle = nil, false
	}
	m.ends()
	m.annotatePause(false)
	for _, action := range []decision.RequestAction{decision.RequestResume, decision.RequestArm, decision.RequestUnlock} {
		m.asks(decision.Request{Action: action, By: "someone", Reason: "because", At: m.now})
		m.look()
	}
	m.release(2)
	m.ciApply(rapid.SampledFrom([]int{0, 0, 10}).Draw(m.t, "CI applies"))
	m.beat = m.now
	m.look()
	against := rapid.SampledFrom([]string{"nothing", "pause", "annotation", "both pauses", "heartbeat", "metrics", "requests", "gate", "calendar", "locks",
		"a foreign lock", "stable", "subset", "an alert", "rollout", "disarm"}).Draw(m.t, "against the step")
	m.against(against)
	m.look()
	m.later(3 * time.Minute)
	if against != "heartbeat" {
		m.beat = m.now
	} else {
		m.later(time.Minute)
	}
	if rapid.Bool().Draw(m.t, "a person asks for it") {
		m.asks(decision.Request{Action: decision.RequestPromote, By: "someone", Reason: "because", At: m.now})
	}
	m.look()
}

// against has one thing be against a step. Replicas do not know it yet.
func (m *machine) against(what string) {
	switch what {
	case "pause", "both pauses":
		m.asks(decision.Request{Action: decision.RequestPause, By: "someone", Reason: "because", At: m.now})
		m.annotatePause(what == "both pauses")
	case "annotation":
		m.annotatePause(true)
	case "metrics":
		m.prom = false
	case "requests":
		m.few = true
	case "gate":
		m.gateShut = true
	case "calendar":
		m.closed = true
	case "locks":
		m.unlisted = true
	case "a foreign lock":
		m.w.foreign = m.otherGuard(true, max(1, m.w.template))
	case "stable":
		m.w.stable = 0
	case "subset":
		m.w.noSubset = true
	case "an alert": // it is known to Prometheus alone
		m.alerts++
		a := decision.Alert{Name: fmt.Sprint("Alert", m.alerts), Signal: "latency", Fingerprint: fmt.Sprint("f", m.alerts), StartsAt: m.now.Add(m.skew), Action: decision.ActionHold}
		m.firing[a.Episode()] = a
	case "rollout":
		m.release(rapid.IntRange(0, 1).Draw(m.t, "ready pods"))
	case "disarm":
		m.asks(decision.Request{Action: decision.RequestDisarm, By: "someone", Reason: "because", At: m.now, Until: m.now.Add(time.Hour)})
	}
}

// annotatePause sets the annotation that forbids steps, or takes it off.
func (m *machine) annotatePause(on bool) {
	if m.w.vs == nil || on == (m.w.vs.GetAnnotations()[decision.AnnotationPaused] == "true") {
		return
	}
	u := m.w.vs.DeepCopy()
	a := u.GetAnnotations()
	if a == nil {
		a = map[string]string{}
	}
	if delete(a, decision.AnnotationPaused); on {
		a[decision.AnnotationPaused] = "true"
	}
	u.SetAnnotations(a)
	u.SetResourceVersion(m.w.next())
	m.w.vs = u
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
	m.newBuild(m.which("released"))
	m.roll(ready)
}

// newBuild changes the template of one of the canary's Deployments, or of both.
func (m *machine) newBuild(which string) {
	first, second := m.w.template, m.w.twin
	if which != "second" {
		first = len(m.w.made) + 1
		m.w.made[first] = m.now
	}
	if which != "first" {
		second = len(m.w.made) + 1
		m.w.made[second] = m.now
	}
	m.oldBuild = 0
	m.setTemplates(first, second)
}

// checkCapacity holds what is told of stable's capacity, when all is calm, against the
// endpoints that it has and has had.
func (m *machine) checkCapacity(rec decision.Record, t virtualservice.Traffic) {
	s, r := rec.Status, m.guard.Rollback
	ready := m.w.stable
	if m.w.noSubset {
		ready = 0
	}
	want := ""
	if rec.Lock != nil || t.Weight > 0 && s.State != decision.StateCompleted {
		want = r.Thin(s.Carried, ready)
	}
	throttled := m.now.Sub(s.ToldAt).Abs() < decision.PollForward // what changes often is written so often
	if s.Thin != want && !throttled {
		m.t.Fatalf("of stable's capacity it is said %q, and it is %q; status %+v", s.Thin, want, s)
	}
	if s.Carried < 0 || s.Carried > 2 {
		m.t.Fatalf("stable has had 2 ready endpoints at most, and is said to have carried all with %d", s.Carried)
	}
}

package remediate

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"reflect"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"pgregory.net/rapid"
)

// replica is one guardian process: a cache that lags, alerts that it alone
// may have heard of, and nothing else.
type replica struct {
	name    string
	guard   decision.Guard // its configuration
	view    *world
	leads   bool
	known   map[string]decision.Alert // firing, as this replica knows it
	pending map[string]decision.Alert // accepted, not recorded yet
	rec     *reconciler
	store   *worldStore
	saw     *world                    // what its pass has looked at last
	given   map[string]decision.Alert // those that its pass was given
	dead    map[string]bool           // parts of its cache whose watch is dead
	idle    bool                      // it watches only what tells that something begins
	wroteRV string                    // the record as this replica last wrote it, in this pass
	began   int                       // version of the world when its pass began
}

// machine drives random sequences of events against two replicas and checks
// the invariants of the package comment.
type machine struct {
	t        *rapid.T
	w        *world
	now      time.Time
	guard    decision.Guard
	replicas []*replica
	firing   map[string]decision.Alert // by Prometheus
	began    map[string]bool           // those of them that have begun within this pass
	heard    []heard                   // accepted rollback alerts
	beat     time.Time
	prom     bool // Prometheus and Alertmanager answer
	down     bool // the API server does not
	unlisted bool // it lists no records, for want of a right
	hurried  bool // an alert comes in the middle of the next live look, and ends it
	gateShut bool // what a step asks for besides
	closed   bool
	few      bool
	movedAt  time.Time // last change of weights by anybody
	stoodAt  time.Time // and the one before, while nobody has recorded the last
	built    time.Time // when the canary's pods last came to be of another build
	raisedTo int       // a step of guardian's that its record has not seen yet
	oldBuild int       // the build at first sight; 0: somebody has begun with it
	alerts   int
	ledger
	routes    routes
	two       bool          // two Deployments may serve the canary
	rolled    [2]int        // the template that pods last came to be of, and those of a second Deployment
	skew      time.Duration // of Prometheus's clock
	busy      bool          // a pass is under way: no other pass starts inside it
	fault     *fault
	meddle    func() // what somebody else does in the middle of a pass
	atRecord  bool   // and only when the record is written
	meddled   bool
	records   map[*corev1.ConfigMap]decision.Record // as parsed
	blanks    map[*unstructured.Unstructured]map[string]any
	traffics  map[*unstructured.Unstructured]virtualservice.Traffic // as read: nobody edits a VirtualService of a world
	refusals  []*refusal
	truths    []traffics     // what the canary has had, oldest first
	lockedAt  int            // version of the world when the last rollback was decided on
	steppedAt int            // and the last step
	unwritten bool           // a write of the record was refused within this pass
	noises    int            // changes of the template that are no build
	wired     func(*replica) // what a test holds each replica's writes against besides; nil: nothing
	edited    bool           // the record was edited by hand, and caches may not know it yet
	garbled   bool           // its lock was, into what cannot be read
	asked     []*asking      // every request that has an id
}

// hears of an alert, with the numbers of that moment in its summary.
func (r *replica) hears(a decision.Alert) {
	a.Summary = "as " + r.name + " has it"
	r.known[a.Episode()] = a
}

type heard struct {
	alert  decision.Alert
	locked bool // a lock stood when it was first recorded
}

// fault is how a pass goes wrong: the n-th write fails before or after it is
// done.
type fault struct {
	n     int
	after bool
	err   error
}

func newMachine(t *rapid.T) *machine {
	m := newMachineOf(t, rapid.SampledFrom([]routes{routesSplit, routesSplit, routesThree, routesHosts, routesTesters}).Draw(t, "routes"))
	if m.w.kind == "" && rapid.SampledFrom([]bool{false, false, true}).Draw(t, "a second Deployment") {
		m.addTwin()
	}
	return m
}

// addTwin has a second Deployment serve the canary's subset, from the beginning on.
func (m *machine) addTwin() {
	made := m.w.made[1]
	m.two, m.w.twin, m.w.made[2], m.w.pods = true, 2, made, []int{1, 1, 2}
	m.w.lives = append(slices.Clone(m.w.lives), life{born: made, ready: made, twin: true})
	m.w.present, m.oldBuild = m.w.templates(), m.w.templates()
	m.lived()
	for _, r := range m.replicas {
		*r.view = *m.w.copy()
	}
}

// newMachineOf is newMachine for a release whose VirtualService looks like that.
func newMachineOf(t *rapid.T, r routes) *machine {
	m := &machine{t: t, routes: r, now: time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC), firing: map[string]decision.Alert{}, prom: true, records: map[*corev1.ConfigMap]decision.Record{}, traffics: map[*unstructured.Unstructured]virtualservice.Traffic{}, blanks: map[*unstructured.Unstructured]map[string]any{}, ledger: newLedger()}
	m.beat = m.now
	m.guard = decision.Guard{Name: "orders-service", Namespace: testNamespace, VirtualServices: []string{"orders-service"},
		DestinationRule: "orders-service", Stable: virtualservice.Ref{Subset: "v1"}, Canary: virtualservice.Ref{Subset: "v2"},
		Rollback: decision.Rollback{Lock: rapid.SampledFrom([]decision.LockKind{decision.LockBuild, decision.LockBuild, decision.LockManual, decision.LockNone}).Draw(t, "lock"), Window: 30 * time.Minute,
			MinReadyStable: 1, Capacity: rapid.SampledFrom([]float64{0, 0.8}).Draw(t, "capacity"), MatchRoutes: true, Mirrors: true},
		Promotion: decision.Promotion{Mode: rapid.SampledFrom([]decision.PromotionMode{decision.PromotionOff, decision.PromotionAuto, decision.PromotionManual}).Draw(t, "mode"), MinRequests: 100,
			Steps: []decision.Step{{Weight: 10, Interval: time.Minute}, {Weight: 50, Interval: time.Minute, Bake: time.Minute}, {Weight: 100, Interval: time.Minute}}},
		AlertWindow: 6 * time.Minute, HeartbeatMaxAge: 3 * time.Minute}
	made := m.now.Add(-time.Hour)
	m.w = &world{template: 1, made: map[int]time.Time{1: made}, pods: []int{1, 1}, lives: make([]life, 2), present: 1, since: made, stable: 2,
		kind:   rapid.SampledFrom([]string{"", "", "", ownedByStatefulSet, ownedByDaemonSet, ownedByRollout}).Draw(t, "owner of the pods"),
		byHost: r == routesHosts}
	if r == routesHosts {
		m.guard.Stable, m.guard.Canary = virtualservice.Ref{Host: "orders-v1"}, virtualservice.Ref{Host: "orders-v2"}
	}
	for i := range m.w.lives {
		m.w.lives[i] = life{born: made, ready: made}
	}
	m.skew = rapid.SampledFrom([]time.Duration{0, 0, 0, 2 * time.Second, time.Minute, 5 * time.Minute, -time.Minute, -5 * time.Minute}).Draw(t, "Prometheus's clock is ahead by")
	m.lived()
	m.guard.Promotion.Closed = func(time.Time) string {
		if m.closed {
			return "it is Friday"
		}
		return ""
	}
	m.ciReplace(rapid.SampledFrom([]int{0, 10, 100}).Draw(t, "weight at first sight"))
	m.oldBuild = m.w.templates()
	for i := range 2 {
		r := &replica{name: fmt.Sprint("guardian-", i), guard: m.guard, view: m.w.copy(), leads: i == 0, known: map[string]decision.Alert{}, pending: map[string]decision.Alert{}}
		r.guard.Rollback.Window -= time.Duration(i) * time.Second // an edit that has not reached both yet
		m.wire(r)
		m.replicas = append(m.replicas, r)
	}
	return m
}

func (m *machine) wire(r *replica) {
	r.store = &worldStore{w: m.w, now: m.clock}
	r.store.before = func(write string) error {
		if m.meddle != nil && (write == "record" || !m.atRecord) {
			do := m.meddle
			m.meddle, m.meddled = nil, true
			do()
		}
		if m.down {
			return errAPI
		}
		if m.fault != nil && !m.fault.after {
			if m.fault.n--; m.fault.n < 0 {
				return m.fault.err
			}
		}
		return nil
	}
	r.store.after = func(write string) error {
		if write == "record" {
			r.wroteRV = m.w.cm.ResourceVersion
		}
		if m.fault != nil && m.fault.after {
			if m.fault.n--; m.fault.n < 0 {
				return m.fault.err
			}
		}
		return nil
	}
	r.store.check = func(before, after *unstructured.Unstructured, manager string) {
		m.checkWrite(r, before, after, manager)
		m.checkMarks(before, after)
	}
	r.store.stored = func(old, cm *corev1.ConfigMap) {
		m.traceRecord(r, m.parse(old), m.parse(cm))
		m.checkTold(r, old, cm)
		m.checkLocks(r, m.parse(old), m.parse(cm))
		m.checkAnswers(m.parse(old), m.parse(cm))
	}
	r.store.answer, r.store.moved = m.answer, m.remember
	r.rec = &reconciler{
		cached: worldReader{world: r.view, saw: &r.saw, unlisted: &m.unlisted}, live: worldReader{world: m.w, saw: &r.saw, down: &m.down, unlisted: &m.unlisted}, store: r.store, now: m.clock, known: newTrafficCache(), past: records.NewHistories(), domain: "cluster.local",
		user:      func() string { return guardianUser },
		leads:     func() bool { return r.leads },
		heartbeat: func(context.Context) (time.Time, error) { return m.beat, nil },
		forward: func(_ context.Context, s snapshot) (decision.Forward, []decision.Alert) {
			if !m.prom {
				return decision.Forward{Err: "Prometheus does not answer"}, nil
			}
			maps.Copy(r.given, m.firing)
			return decision.Forward{Requests: m.requests(), Gates: []decision.Gate{{Name: "slo", Open: !m.gateShut, Why: "0"}}}, slices.Collect(maps.Values(m.firing))
		},
		count: func(context.Context, snapshot) decision.Count {
			return decision.Count{Known: m.prom, Requests: m.requests()}
		},
		preemptible: func(ctx context.Context, _ string) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			if m.hurried {
				m.hurried = false
				cancel()
			}
			return ctx, cancel
		},
		after:   m.after,
		changed: func(_ context.Context, _ decision.Guard, _ snapshot, d decision.Decision) { m.checkEvents(d) },
		idle:    func() bool { return r.idle },
		stir:    func() { m.stir(r) },
	}
	if m.wired != nil {
		m.wired(r)
	}
}

// stir has a replica watch everything again, and read until then what it has not
// watched.
func (m *machine) stir(r *replica) {
	if !r.idle {
		return
	}
	r.idle = false
	if !m.down { // else a pass fails at once
		dead := r.dead
		r.dead = nil
		m.sync(r, "workloads", "stable")
		r.dead = dead
	}
}

func (m *machine) clock() time.Time { return m.now }

func (m *machine) requests() int64 {
	if m.few {
		return 99
	}
	return 200
}

func (m *machine) parsed() decision.Record { return m.parse(m.w.cm) }

// parse reads a record once: nobody edits a ConfigMap of a world.
func (m *machine) parse(cm *corev1.ConfigMap) decision.Record {
	if r, ok := m.records[cm]; ok {
		return r
	}
	r, _ := records.Read(cm) // somebody may have edited it
	m.records[cm] = r
	return r
}

func (m *machine) pair() virtualservice.Pair {
	p := virtualservice.Pair{Stable: m.guard.Stable, Canary: m.guard.Canary, Namespace: testNamespace}
	if p.Canary.Host == "" {
		p.Host = "orders-service"
	}
	return p
}

func (m *machine) trafficOf(vs *unstructured.Unstructured) virtualservice.Traffic {
	if vs == nil {
		return virtualservice.Traffic{}
	}
	if t, ok := m.traffics[vs]; ok {
		return t
	}
	t, err := virtualservice.Inspect(vs.Object, m.pair(), m.guard.Rollback.Options())
	if err != nil {
		m.t.Fatalf("inspect: %v", err)
	}
	m.traffics[vs] = t
	return t
}

func (m *machine) paused() bool {
	return m.parsed().Status.Paused != nil || m.w.vs != nil && m.w.vs.GetAnnotations()[decision.AnnotationPaused] == "true"
}

// disarmed says whether a person has taken the brake off. It is on again at the
// end that the person gave, or when one asks for it or for a rollback, also where
// the record cannot be written and goes on telling of the disarm.
func (m *machine) disarmed() bool {
	rec := m.parsed()
	if q := rec.Request; q != nil && (q.Action == decision.RequestArm || q.Action == decision.RequestRollback) {
		return false
	}
	return rec.Status.Disarmed != nil && m.now.Before(rec.Status.Disarmed.Until)
}

// checkWrite holds each write of guardian against the invariants.
func (m *machine) checkWrite(r *replica, before, after *unstructured.Unstructured, manager string) {
	was, is := m.trafficOf(before), m.trafficOf(after)
	moved := was.Weight != is.Weight || was.Lowest != is.Lowest
	m.traceWrite(r, was, is, after)
	defer func() {
		if moved {
			m.movedAt, m.stoodAt = m.now, time.Time{}
		}
	}()
	if a, b := m.blank(before), m.blank(after); !reflect.DeepEqual(a, b) {
		m.t.Fatalf("invariant 3: guardian changed more than weights:\n%v\n%v", a, b)
	}
	if was != is && !m.meddled && m.disarmed() {
		m.t.Fatalf("traffic moved from %+v to %+v while disarmed", was, is)
	}
	if was != is && r.idle {
		m.t.Fatalf("traffic moved from %+v to %+v by caches that nobody keeps up to date", was, is)
	}
	if is.Weight < was.Weight || (was.CanaryOnly > is.CanaryOnly) {
		if manager != FieldManager {
			m.t.Fatalf("a rollback was written by field manager %q", manager)
		}
		m.checkCause(r)
		if seen := r.saw; seen.stable < m.guard.Rollback.MinReadyStable || seen.noSubset {
			m.t.Fatalf("invariant 4: traffic sent to a stable with %d ready endpoints (subset missing: %v)", seen.stable, seen.noSubset)
		}
	}
	if is.Weight <= was.Weight {
		return
	}
	record := m.parsed()
	switch {
	case record.Lock != nil && r.wroteRV == m.w.cm.ResourceVersion:
		m.t.Fatalf("invariant 2: raised from %d to %d while locked: %+v", was.Weight, is.Weight, record.Lock)
	case !r.leads:
		m.t.Fatalf("invariant 2: raised from %d to %d without the lease", was.Weight, is.Weight)
	case slices.ContainsFunc(slices.Collect(maps.Values(m.firing)), func(a decision.Alert) bool { return !m.began[a.Episode()] }):
		m.t.Fatalf("invariant 2: raised from %d to %d while %v fires", was.Weight, is.Weight, m.firing)
	case !m.meddled && m.paused():
		m.t.Fatalf("invariant 2: raised while paused")
	case m.now.Sub(m.beat) > m.guard.HeartbeatMaxAge:
		m.t.Fatalf("invariant 2: raised with a heartbeat of %s ago", m.now.Sub(m.beat))
	case !m.prom:
		m.t.Fatalf("invariant 2: raised without metrics")
	case m.unlisted:
		m.t.Fatalf("invariant 2: raised from %d to %d, and nobody knows whether the lock of another guard denies this canary", was.Weight, is.Weight)
	case !m.meddled && m.w.foreign != nil && m.w.foreign.Labels[records.LabelLocked] == "true":
		m.t.Fatalf("invariant 2: raised from %d to %d while the lock of another guard denies this canary", was.Weight, is.Weight)
	case m.guard.Promotion.Mode == decision.PromotionOff && (!isStepping(record) || record.Status.Moving.By != "someone"):
		m.t.Fatalf("raised in mode off without a person's wish")
	}
	m.checkStep(record, was, is)
}

// checkStep holds a step against the conditions that are a step's alone.
func (m *machine) checkStep(record decision.Record, was, is virtualservice.Traffic) {
	steps := m.guard.Promotion.Steps
	rung := slices.IndexFunc(steps, func(s decision.Step) bool { return s.Weight > was.Lowest })
	if rung < 0 || steps[rung].Weight != is.Weight || is.Lowest != is.Weight {
		m.t.Fatalf("not one rung: %d to %d", was.Lowest, is.Weight)
	}
	interval := steps[rung].Interval
	if rung > 0 {
		interval += steps[rung-1].Bake
	}
	byHand := isStepping(record) && record.Status.Moving.By != decision.BySchedule
	switch {
	case m.gateShut:
		m.t.Fatalf("raised to %d with a closed gate", is.Weight)
	case m.closed:
		m.t.Fatalf("raised to %d when the calendar is closed", is.Weight)
	case !m.meddled && m.w.rollingOut():
		m.t.Fatalf("raised to %d in the middle of a rollout", is.Weight)
	case !m.meddled && (m.w.stable < m.guard.Rollback.MinReadyStable || m.w.noSubset):
		m.t.Fatalf("raised to %d with %d ready endpoints of stable to go back to (subset missing: %v)", is.Weight, m.w.stable, m.w.noSubset)
	case byHand:
	case m.guard.Promotion.Mode != decision.PromotionAuto:
		m.t.Fatalf("raised to %d by the schedule in mode %s", is.Weight, m.guard.Promotion.Mode)
	case m.few && was.Weight > 0:
		m.t.Fatalf("raised to %d after too few requests", is.Weight)
	case !m.meddled && m.w.templates() == m.oldBuild:
		m.t.Fatalf("raised to %d: the build of the first sight", is.Weight)
	case was.Weight > 0 && is.Weight != m.raisedTo && m.now.Sub(m.movedAt) < interval:
		m.t.Fatalf("raised to %d after %s, the interval is %s", is.Weight, m.now.Sub(m.movedAt), interval)
	case was.Weight > 0 && !m.meddled && m.now.Sub(m.builtAt()) < interval:
		m.t.Fatalf("raised to %d when the build was %s old, the interval is %s", is.Weight, m.now.Sub(m.builtAt()), interval)
	}
	m.raisedTo, m.oldBuild = is.Weight, 0
}

// put has the API server store a VirtualService of somebody else's; nil
// deletes it.
func (m *machine) put(vs *unstructured.Unstructured) {
	was, is := m.trafficOf(m.w.vs), m.trafficOf(vs)
	if was.Weight != is.Weight || was.Lowest != is.Lowest {
		m.moved(was, is)
	}
	if is.Weight > was.Weight {
		m.oldBuild = 0
	}
	m.ended = m.ended && was == is
	m.w.vs = vs
	m.remember(vs)
}

// moved has somebody else's weights count from now on, unless they are back at what
// the record says before any replica has recorded that they were gone: such as when a
// VirtualService is deleted and made anew at once.
func (m *machine) moved(was, is virtualservice.Traffic) {
	recorded := func(t virtualservice.Traffic) bool {
		s := m.parsed().Status
		return t.Weight == s.Weight && t.Weight-t.Lowest == s.Spread
	}
	switch {
	case recorded(is) && !m.stoodAt.IsZero():
		m.movedAt, m.stoodAt = m.stoodAt, time.Time{}
		return
	case recorded(was):
		m.stoodAt = m.movedAt
	}
	m.movedAt = m.now
}

// blank is a VirtualService without what guardian may touch, made once for each.
func (m *machine) blank(vs *unstructured.Unstructured) map[string]any {
	out, ok := m.blanks[vs]
	if !ok {
		out = blank(m.t, vs)
		m.blanks[vs] = out
	}
	return out
}

func blank(t *rapid.T, vs *unstructured.Unstructured) map[string]any {
	u := vs.DeepCopy()
	u.SetManagedFields(nil)
	u.SetResourceVersion("")
	a := u.GetAnnotations()
	maps.DeleteFunc(a, func(k, _ string) bool { return strings.HasPrefix(k, decision.Prefix) })
	u.SetAnnotations(a)
	routes, _, err := unstructured.NestedSlice(u.Object, "spec", "http")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		route := r.(map[string]any)
		for _, k := range []string{"mirror", "mirrors", "mirrorPercentage", "mirror_percent"} {
			delete(route, k)
		}
		dests := route["route"].([]any)
		var pair float64
		for _, d := range dests {
			dest := d.(map[string]any)
			target := dest["destination"].(map[string]any)
			switch target["host"] {
			case "orders-v1", "orders-v2":
			case "orders-service":
				if target["subset"] == "v3" {
					continue
				}
			default:
				continue
			}
			switch w := dest["weight"].(type) {
			case int64:
				pair += float64(w)
			case float64:
				pair += w
			}
			delete(dest, "weight")
			if len(dests) == 1 {
				target["host"], target["subset"] = "either", "either"
			}
		}
		route["pair total"] = pair
	}
	u.Object["spec"].(map[string]any)["http"] = routes
	return u.Object
}

// pass is one reconcile by one replica.
func (m *machine) pass(r *replica) {
	if m.busy {
		return
	}
	m.busy, m.meddled, m.unwritten, r.wroteRV, r.began, m.began = true, false, false, "", m.w.version, map[string]bool{}
	truth := m.w.copy()
	defer func() { m.busy, m.fault, m.meddle, m.atRecord = false, nil, nil, false }()
	now := map[string]decision.Alert{}
	maps.Copy(now, r.known)
	maps.Copy(now, r.pending)
	r.given = maps.Clone(now)
	sent := maps.Clone(r.pending)
	was := m.parsed().Lock != nil
	out, err := r.rec.reconcile(context.Background(), r.guard, slices.Collect(maps.Values(now)))
	m.tracePass(r, err)
	if m.parsed().Status.Moving == nil {
		m.raisedTo = 0
	}
	m.checkSeen(truth)
	if errors.Is(err, errCrash) {
		r.pending, r.known = map[string]decision.Alert{}, map[string]decision.Alert{}
		if m.prom { // at start guardian lists what fires
			for _, a := range m.firing {
				r.hears(a)
			}
		}
		r.dead, r.idle = nil, false
		m.sync(r)
		m.wire(r)
		delete(m.owed, r.name)
		return
	}
	if out.recorded {
		for k, a := range sent {
			delete(r.pending, k)
			if a.Action == decision.ActionRollback {
				excused := m.edited || // what somebody has edited meanwhile is no proof, of this firing of it now or later
					slices.ContainsFunc(m.heard, func(h heard) bool { return h.locked && h.alert.Episode() == a.Episode() })
				m.heard = append(m.heard, heard{alert: a, locked: excused || was || m.parsed().Lock != nil})
			}
		}
	}
}

// checkSeen holds what a pass has recorded of build and weights against what
// the API server had: a cache that lags is no new build, and nobody who shifts.
func (m *machine) checkSeen(before *world) {
	was, is := m.parse(before.cm), m.parsed()
	// A rollback waits for no live look.
	toZero := isReturning
	told := func(r decision.Record) int {
		n := 0
		for _, h := range r.History {
			if h.Event == "rolled-back" {
				n++
			}
		}
		return n
	}
	lifted := slices.ContainsFunc(newest(was.History, is.History), func(e decision.HistoryEntry) bool { return e.Event == "unlocked" })
	rollsBack := (was.Lock == nil || lifted) && is.Lock != nil ||
		m.guard.Rollback.Lock == decision.LockNone && (toZero(was) || toZero(is) || told(is) > told(was))
	if m.meddled || m.fault != nil || was.Status.State == decision.StateUnknown || rollsBack {
		return
	}
	if now := is.Status.Build; now != was.Status.Build && (m.w.templates() == 0 || now != m.w.buildOf(m.w.templates())) {
		m.t.Fatalf("recorded build %s after %s; the templates are %v", now, was.Status.Build, templatesIn(m.w.templates()))
	}
	t := m.trafficOf(before.vs)
	// What guardian itself has written may be seen after somebody has shifted again.
	own := was.Status.Moving != nil && was.Status.Moving.To == is.Status.Weight
	if now := is.Status.Weight; now != was.Status.Weight && !own && was.Lock == nil && is.Lock == nil && now != t.Weight && now != m.trafficOf(m.w.vs).Weight {
		m.t.Fatalf("recorded %d%% after %d%%; the canary has %d%%", now, was.Status.Weight, t.Weight)
	}
}

// settle lets everything calm down: caches catch up, faults stop, and both
// replicas look again.
func (m *machine) settle() {
	m.fault, m.meddle, m.down, m.unlisted, m.hurried, m.refusals = nil, nil, false, false, false, nil
	for _, r := range m.replicas {
		r.dead, r.idle = nil, false
	}
	for range 4 {
		for _, r := range m.replicas {
			m.sync(r)
			m.pass(r)
		}
	}
	version := m.w.version
	m.edited = false
	for _, r := range m.replicas {
		m.pass(r)
	}
	if m.w.version != version {
		m.t.Fatalf("nothing happens, and guardian goes on writing; status %+v", m.parsed().Status)
	}
	m.checkCalm()
}

func (m *machine) checkCalm() {
	rec, t := m.parsed(), m.trafficOf(m.w.vs)
	safe := m.w.stable >= m.guard.Rollback.MinReadyStable && !m.w.noSubset
	if rec.Lock != nil && !m.brakeOff() && safe && !t.Clean() {
		m.t.Fatalf("invariant 1: locked, and the canary has %+v; status %+v", t, rec.Status)
	}
	if rec.Lock != nil && !m.brakeOff() && !safe && !t.Clean() && rec.Status.State != decision.StateBlocked {
		m.t.Fatalf("a rollback that cannot be done is not blocked but %s", rec.Status.State)
	}
	if x := rec.Status.Disarmed; x != nil && !m.now.Before(x.Until) {
		m.t.Fatalf("disarmed until %s, and it is %s", x.Until, m.now)
	}
	if (m.w.cm.Labels[records.LabelLocked] == "true") != (rec.Lock != nil) {
		m.t.Fatalf("label %s is %q, lock %v", records.LabelLocked, m.w.cm.Labels[records.LabelLocked], rec.Lock)
	}
	m.checkLockAnnotation(rec)
	m.checkAnswered(rec)
	m.checkCapacity(rec, t)
	if !m.brakeOff() && safe {
		m.checkRolledBack(t)
	}
	m.checkLiftable(rec)
	for _, r := range m.replicas {
		if len(r.pending) > 0 {
			m.t.Fatalf("invariant 5: %s still holds %v unrecorded", r.name, r.pending)
		}
	}
	for _, h := range m.heard {
		if h.locked {
			continue
		}
		if !slices.ContainsFunc(rec.History, func(e decision.HistoryEntry) bool { return e.Alert == h.alert.Name }) {
			m.t.Fatalf("invariant 5: %s was accepted and left no trace; history: %s", h.alert.Name, m.w.cm.Data[decision.KeyHistory])
		}
	}
	held := m.w.foreign != nil && m.w.foreign.Labels[records.LabelLocked] == "true"
	if rec.Lock == nil && m.w.vs != nil && owned(m.w.vs) && !held && !m.paused() && !m.brakeOff() && rec.Status.State != decision.StateBlocked && len(rec.Status.Firing) == 0 {
		m.t.Fatalf("not locked, and the VirtualService still carries the marks of a rollback: %v", m.w.vs.GetAnnotations())
	}
}

// checkLockAnnotation: what the admission policies read is what the record says.
func (m *machine) checkLockAnnotation(rec decision.Record) {
	if m.w.vs == nil || m.observing() {
		return
	}
	want, _ := decision.LockAnnotationOf(rec, guardianUser)
	if got := m.w.vs.GetAnnotations()[decision.LockKey(m.guard.Name)]; got != want {
		m.t.Fatalf("the VirtualService says of the lock\n%q\nand the record\n%q", got, want)
	}
}

func (m *machine) ciReplace(weight int) {
	u := &unstructured.Unstructured{Object: manifestFor(m.routes, weight)}
	u.SetResourceVersion(m.w.next())
	m.put(u)
}

func (m *machine) ciApply(weight int) {
	if m.w.vs == nil {
		m.ciReplace(weight)
		return
	}
	u := &unstructured.Unstructured{Object: manifestFor(m.routes, weight)}
	a := m.w.vs.GetAnnotations()
	u.SetAnnotations(a)
	u.SetManagedFields(m.w.vs.GetManagedFields())
	u.SetResourceVersion(m.w.next())
	m.put(u)
}

// outside is something that anybody but guardian does.
func (m *machine) outside(label string) {
	t := m.t
	weight := func() int { return rapid.SampledFrom([]int{0, 10, 30, 50, 100}).Draw(t, label+" weight") }
	switch rapid.SampledFrom([]string{"apply", "apply", "apply", "replace", "recreate", "delete", "build", "rollout", "undo", "drop", "vanish", "stable", "subset",
		"annotate", "request", "restart", "crash", "another guard"}).Draw(t, label) {
	case "apply":
		m.ciApply(weight())
	case "replace", "recreate":
		m.ciReplace(weight())
	case "delete":
		m.put(nil)
	case "build":
		m.newBuild(m.which(label))
		m.roll(rapid.SampledFrom([]int{0, 0, 1, 2, 2}).Draw(t, label+" ready at once"))
	case "rollout":
		m.roll(2)
	case "undo":
		n, which := rapid.IntRange(1, len(m.w.made)).Draw(t, label+" to"), m.which(label)
		if which == "second" && n != m.w.twin {
			m.setTemplates(m.w.template, n)
		} else if which != "second" && n != m.w.template {
			m.setTemplates(n, m.w.twin)
		} else {
			return
		}
		m.roll(rapid.SampledFrom([]int{0, 1, 2}).Draw(t, label+" ready at once"))
	case "restart": // the template is changed in a way that is no build
		if m.w.templates() != 0 {
			m.noises++
			m.w.noise = m.noises
			m.roll(rapid.SampledFrom([]int{0, 1, 2, 2}).Draw(t, label+" ready at once"))
		}
	case "crash":
		m.w.lives = slices.Clone(m.w.lives)
		for i := range m.w.lives {
			m.w.lives[i].down = true
		}
		m.lived()
	case "drop":
		m.drop(m.which(label))
	case "vanish": // as on nodes that are taken away
		m.w.pods, m.w.lives = nil, nil
		m.lived()
	case "another guard":
		m.anotherGuard(label)
	case "stable":
		m.w.stable = rapid.IntRange(0, 2).Draw(t, label+" ready")
	case "subset":
		m.w.noSubset = rapid.Bool().Draw(t, label+" gone")
	case "annotate":
		m.annotatePause(rapid.Bool().Draw(t, label+" pause"))
	case "request":
		if m.w.cm != nil {
			q := decision.Request{Action: rapid.SampledFrom([]decision.RequestAction{decision.RequestRollback, decision.RequestUnlock, decision.RequestUnlock, decision.RequestPause, decision.RequestResume, decision.RequestPromote, decision.RequestPromote, decision.RequestDisarm, decision.RequestArm, decision.RequestMarkWrong, "dance"}).Draw(t, label+" action"),
				By: "someone", Reason: "because", At: m.now}
			if q.Action == decision.RequestDisarm {
				q.Until = m.now.Add(rapid.SampledFrom([]time.Duration{0, time.Second, 10 * time.Minute, 24 * time.Hour, 25 * time.Hour}).Draw(t, label+" for"))
			}
			if q.Action == decision.RequestUnlock && rapid.Bool().Draw(t, label+" by the command") {
				if q.Of = m.now; m.parsed().Lock != nil {
					q.Of = m.parsed().Lock.Since
				}
			}
			m.asks(q)
		}
	}
}

// which of the canary's Deployments something befalls: the first, the second, or both.
func (m *machine) which(label string) string {
	if !m.two {
		return "first"
	}
	return rapid.SampledFrom([]string{"first", "second", "both", "both"}).Draw(m.t, label+" of the Deployments")
}

// drop deletes Deployments, with their pods.
func (m *machine) drop(which string) {
	var pods []int
	var lives []life
	for i, p := range m.w.pods {
		if l := m.w.life(i); which == "first" && l.twin || which == "second" && !l.twin {
			pods, lives = append(pods, p), append(lives, l)
		}
	}
	m.w.pods, m.w.lives = pods, lives
	if which != "second" {
		m.w.template = 0
	}
	if which != "first" {
		m.w.twin = 0
	}
	if m.w.templates() == 0 {
		m.w.noise = 0
	}
	m.show()
	m.lived()
}

// setTemplate changes the pod template to one that is a build of its own.
func (m *machine) setTemplate(n int) { m.setTemplates(n, m.w.twin) }

// setTemplates does so for both of two Deployments.
func (m *machine) setTemplates(first, second int) {
	m.w.template, m.w.twin, m.w.noise = first, second, 0
	m.show()
}

// show has the template be the present one, where it can be seen: those of
// Deployments alone are, before there is a pod.
func (m *machine) show() {
	if m.w.noBuild() {
		return
	}
	if m.w.templates() == m.w.present {
		if m.w.since.IsZero() { // a record that was forgotten knows when it was made
			m.w.since = m.w.madeOf(m.w.present)
		}
		return
	}
	m.w.present, m.w.since = m.w.templates(), m.now
	m.seen, m.ended = time.Time{}, false
}

// roll has so many of the canary's two pods be ready ones of the present template. Of
// two Deployments the second has one pod.
func (m *machine) roll(ready int) {
	if m.w.templates() == 0 {
		return
	}
	pods, lives := slices.Clone(m.w.pods), slices.Clone(m.w.lives)
	if len(pods) == 0 {
		if m.w.template != 0 {
			pods, lives = make([]int, ready), make([]life, ready)
		}
		if m.w.twin != 0 && ready > 0 {
			pods, lives = append(pods, 0), append(lives, life{twin: true})
		}
	}
	which := m.which("rolls")
	for i := range pods {
		first := !lives[i].twin
		if first && (i >= ready || which == "second") || !first && (ready == 0 || which == "first" && m.w.template != 0) {
			continue
		}
		m.rollPod(pods, lives, i)
	}
	// What has not come yet is no pod.
	for i := len(pods) - 1; i >= 0; i-- {
		if pods[i] == 0 {
			pods, lives = slices.Delete(pods, i, i+1), slices.Delete(lives, i, i+1)
		}
	}
	m.w.pods, m.w.lives = pods, lives
	m.show()
	m.lived()
}

// rollPod has a pod be a ready one of the present template.
func (m *machine) rollPod(pods []int, lives []life, i int) {
	template, rolled := m.w.template, &m.rolled[0]
	if lives[i].twin {
		template, rolled = m.w.twin, &m.rolled[1]
	}
	switch {
	case pods[i] != template:
		if pods[i] != 0 || *rolled != template { // else they had only gone
			m.built = m.now
		}
		*rolled = template
		fallthrough
	case lives[i].noise != m.w.noise:
		pods[i], lives[i] = template, life{noise: m.w.noise, born: m.now, ready: m.now, twin: lives[i].twin}
	case lives[i].down:
		lives[i].down, lives[i].ready = false, m.now
	}
}

// anotherGuard has the record of another guard deny the canary: this one was
// renamed, or the other is in no configuration any more; or no longer.
func (m *machine) anotherGuard(label string) {
	switch rapid.SampledFrom([]string{"locked", "not locked", "renamed"}).Draw(m.t, label) {
	case "locked":
		m.w.foreign = m.otherGuard(true, rapid.IntRange(1, len(m.w.made)).Draw(m.t, label+" for"))
	case "not locked":
		m.w.foreign = m.otherGuard(false, 0)
	case "renamed":
		if m.w.cm == nil || m.busy {
			return
		}
		m.w.foreign = m.w.cm.DeepCopy()
		m.w.foreign.Name, m.w.foreign.Labels[records.LabelGuard] = records.Name("orders-before"), "orders-before"
		if a := m.w.vs; a != nil && a.GetAnnotations()[decision.LockKey(m.guard.Name)] != "" {
			u := a.DeepCopy()
			set := u.GetAnnotations()
			set[decision.LockKey("orders-before")] = set[decision.LockKey(m.guard.Name)]
			delete(set, decision.LockKey(m.guard.Name))
			u.SetAnnotations(set)
			u.SetResourceVersion(m.w.next())
			m.w.vs = u
		}
		m.w.cm = nil
		m.loseAsked()
		m.w.next()
		for _, r := range m.replicas { // it starts anew, with another configuration
			r.dead, r.idle, r.pending = nil, false, map[string]decision.Alert{}
			m.sync(r)
			m.wire(r)
		}
		m.heard, m.edited, m.owed = nil, true, map[string]map[int]bool{}
		m.forget()
		m.blamed = map[int]bool{}
	}
}

// later has time pass. Every replica lists each minute what fires.
func (m *machine) later(passes time.Duration) {
	m.now = m.now.Add(passes)
	if !m.prom || passes <= decision.ListingKnows {
		return
	}
	for _, r := range m.replicas {
		for _, a := range m.firing {
			r.hears(a)
		}
	}
}

// parts are the kinds of object that have a watch of their own.
var parts = []string{"record", "VirtualService", "workloads", "stable"}

// sync brings parts of a replica's cache up to date, as far as their watches
// live. None: all.
func (m *machine) sync(r *replica, only ...string) {
	if len(only) == 0 {
		only = parts
	}
	now, v := m.w.copy(), r.view
	v.version = now.version
	for _, part := range only {
		if r.dead[part] {
			continue
		}
		switch part {
		case "record":
			v.cm, v.foreign = now.cm, now.foreign
		case "VirtualService":
			v.vs = now.vs
		case "workloads":
			if r.idle && slices.Equal(v.pods, now.pods) && slices.Equal(v.lives, now.lives) {
				continue
			}
			r.idle = false // pods tell that something goes on
			v.template, v.twin, v.pods, v.lives, v.made, v.noise, v.present, v.since = now.template, now.twin, now.pods, now.lives, now.made, now.noise, now.present, now.since
		case "stable":
			if r.idle {
				continue
			}
			v.stable, v.noSubset = now.stable, now.noSubset
		}
	}
}

// alert begins, and one replica hears of it.
func (m *machine) alert(label string) *replica {
	m.alerts++
	a := decision.Alert{Name: fmt.Sprint("Alert", m.alerts), Signal: "error_rate", Fingerprint: fmt.Sprint("f", m.alerts), StartsAt: m.now.Add(m.skew),
		Action: rapid.SampledFrom([]decision.Action{decision.ActionRollback, decision.ActionRollback, decision.ActionHold}).Draw(m.t, label+" action")}
	if a.Action == decision.ActionRollback {
		m.rollbacks[a.Fingerprint] = a
	}
	m.firing[a.Episode()] = a
	r := m.pick(label + " heard by")
	r.hears(a)
	r.pending[a.Episode()] = a
	return r
}

func (m *machine) pick(label string) *replica {
	return m.replicas[rapid.IntRange(0, 1).Draw(m.t, label)]
}

// troubles prepares for something to go wrong in the middle of the next pass.
func (m *machine) troubles(label string, kinds []string) {
	t := m.t
	switch rapid.SampledFrom(kinds).Draw(t, label) {
	case "fault":
		m.fault = &fault{n: rapid.IntRange(0, 3).Draw(t, "writes before it"), after: rapid.Bool().Draw(t, "after the write"),
			err: rapid.SampledFrom([]error{errAPI, errCrash}).Draw(t, "fault")}
	case "meddle":
		m.meddle = func() { m.outside("meanwhile") }
	case "alert":
		before := maps.Clone(m.firing)
		m.meddle = func() {
			m.alert("meanwhile")
			for k := range m.firing {
				if _, ok := before[k]; !ok {
					m.began[k] = true
				}
			}
		}
	case "lease": // after the last look at it nothing can help
		m.atRecord = true
		m.meddle = func() {
			m.replicas[0].leads, m.replicas[1].leads = m.replicas[1].leads, m.replicas[0].leads
		}
	}
}

// actions are the steps of a sequence.
func (m *machine) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"outside": func(t *rapid.T) { m.t = t; m.outside("event") },
		"ladder": func(t *rapid.T) {
			m.t = t
			m.later(2 * time.Minute)
			m.beat = m.now
			for _, r := range m.replicas {
				m.sync(r)
				m.troubles("on the ladder", []string{"", "", "alert", "lease"})
				m.pass(r)
			}
		},
		"lag": func(t *rapid.T) { // one replica is told of a change, the other of its record alone
			m.t = t
			m.outside("told to one")
			r, other := m.replicas[0], m.replicas[1]
			if rapid.Bool().Draw(t, "second first") {
				r, other = other, r
			}
			m.sync(r)
			m.pass(r)
			other.view.cm = m.w.cm
			m.pass(other)
		},
		"alert": func(t *rapid.T) {
			m.t = t
			m.pass(m.alert("alert"))
		},
		"again": func(t *rapid.T) { // a duplicate, or the other replica hears of it
			m.t = t
			for _, k := range slices.Sorted(maps.Keys(m.firing)) {
				r := m.pick("heard again by")
				r.hears(m.firing[k])
				r.pending[k] = m.firing[k]
			}
		},
		"resolve": func(t *rapid.T) {
			m.t = t
			for _, k := range slices.Sorted(maps.Keys(m.firing)) {
				if rapid.Bool().Draw(t, "ends") {
					delete(m.firing, k)
					for _, r := range m.replicas {
						delete(r.known, k)
					}
				}
			}
		},
		"pass": func(t *rapid.T) {
			m.t = t
			m.troubles("trouble", []string{"", "", "fault", "meddle", "alert", "lease"})
			m.pass(m.pick("pass of"))
		},
		"both": func(t *rapid.T) { // the other replica acts in the middle of a pass
			m.t = t
			r := m.pick("pass of")
			other := m.replicas[0]
			if other == r {
				other = m.replicas[1]
			}
			m.meddle = func() {
				m.busy = false
				m.meddle = nil
				keep := r.wroteRV
				m.pass(other)
				m.busy, m.meddled, r.wroteRV = true, true, keep
			}
			m.pass(r)
		},
		"sync": func(t *rapid.T) { m.t = t; r := m.pick("cache of"); m.sync(r) },
		"sync in part": func(t *rapid.T) { // each kind of object has a watch of its own
			m.t = t
			m.sync(m.pick("part of the cache of"), rapid.SampledFrom(parts).Draw(t, "part"))
		},
		"die": func(t *rapid.T) { // nothing is heard of a kind of object any more
			m.t = t
			r := m.pick("watch of")
			if r.dead == nil {
				r.dead = map[string]bool{}
			}
			r.dead[rapid.SampledFrom(parts).Draw(t, "part")] = true
		},
		"rest":   func(t *rapid.T) { m.t = t; m.pick("rest of").idle = true },
		"relist": func(t *rapid.T) { m.t = t; r := m.pick("watches of"); r.dead, r.idle = nil, false; m.sync(r) },
		"beat":   func(t *rapid.T) { m.t = t; m.beat = m.now },
		"lease": func(t *rapid.T) {
			m.t = t
			m.replicas[0].leads = rapid.Bool().Draw(t, "first leads")
			m.replicas[1].leads = !m.replicas[0].leads
		},
		"prom": func(t *rapid.T) { m.t = t; m.prom = rapid.Bool().Draw(t, "answers") },
		"conditions": func(t *rapid.T) {
			m.t = t
			m.gateShut, m.closed, m.few = rapid.Bool().Draw(t, "gate shut"), rapid.Bool().Draw(t, "calendar closed"), rapid.Bool().Draw(t, "few requests")
		},
		"open":  func(t *rapid.T) { m.t = t; m.gateShut, m.closed, m.few = false, false, false },
		"api":   func(t *rapid.T) { m.t = t; m.down = rapid.Bool().Draw(t, "down") },
		"hurry": func(t *rapid.T) { m.t = t; m.hurried = true },
		"list":  func(t *rapid.T) { m.t = t; m.unlisted = rapid.Bool().Draw(t, "forbidden") },
		"time": func(t *rapid.T) {
			m.t = t
			m.later(rapid.SampledFrom([]time.Duration{time.Second, 10 * time.Second, time.Minute, 7 * time.Minute, 31 * time.Minute}).Draw(t, "passes"))
		},
		"calm":   func(t *rapid.T) { m.t = t; m.settle() },
		"refuse": func(t *rapid.T) { m.t = t; m.refuse(t) },
		"relent": func(t *rapid.T) { m.t = t; m.refusals = nil },
		"stand":  func(t *rapid.T) { m.t = t; m.stand() },
		"story":  func(t *rapid.T) { m.t = t; m.story() },
		"hand":   func(t *rapid.T) { m.t = t; m.editRecord(t) },
		"refused rollback": func(t *rapid.T) { // a canary goes bad while the API server takes nothing, or not all
			m.t = t
			m.refuse(t)
			m.refusals[len(m.refusals)-1].left = -1
			m.ciApply(rapid.SampledFrom([]int{0, 10, 50}).Draw(t, "CI applies"))
			for _, r := range m.replicas {
				m.sync(r)
			}
			m.pass(m.alert("alert"))
			m.stand()
		},
	}
}

// TestTheLeaseIsLookedAtRightBeforeAStep has it go to the other replica between
// a step's record and its VirtualService.
func TestTheLeaseIsLookedAtRightBeforeAStep(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMachineOf(t, routesSplit)
		first, second := m.replicas[0], m.replicas[1]
		m.guard.Promotion.Mode, first.guard.Promotion.Mode, second.guard.Promotion.Mode = decision.PromotionAuto, decision.PromotionAuto, decision.PromotionAuto
		m.ciReplace(0)
		m.settle()
		m.now = m.now.Add(2 * time.Minute)
		m.w.made[2], m.oldBuild, m.beat = m.now, 0, m.now
		m.setTemplate(2)
		m.roll(2)
		m.atRecord, m.meddle = true, func() { first.leads, second.leads = false, true }
		m.sync(first)
		m.pass(first)
		if e := m.parsed().Status.Moving; !second.leads || !e.StepsTo(10) {
			t.Fatalf("the second leads: %v; step recorded: %v", second.leads, e)
		}
		if w := m.trafficOf(m.w.vs).Weight; w != 0 {
			t.Fatalf("without the lease the canary was taken to %d%%", w)
		}
		m.sync(second)
		m.pass(second)
		if w := m.trafficOf(m.w.vs).Weight; w != 10 {
			t.Fatalf("the other replica has left the canary at %d%%, want 10%%", w)
		}
	})
}

// TestPropertyInvariantsHold checks the invariants of the package comment over
// random sequences. -rapid.checks sets how many.
func TestPropertyInvariantsHold(t *testing.T) {
	if checks := flag.Lookup("rapid.checks"); checks.Value.String() == checks.DefValue && !testing.Short() {
		if err := checks.Value.Set(sequences); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := checks.Value.Set(checks.DefValue); err != nil {
				t.Error(err)
			}
		}()
	}
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // it makes much, and keeps little
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine(t)
		m.settle()
		t.Repeat(m.actions())
		m.t = t
		m.settle()
	})
}

package remediate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"pgregory.net/rapid"
)

// filePair names a stable and a canary.
type filePair struct{ stable, canary string }

func (p filePair) String() string { return p.stable + " and " + p.canary }

func pairOfGuard(g decision.Guard) filePair { return filePair{g.Stable.String(), g.Canary.String()} }

// pairsOfFiles are what a file may have, more often what a release begins with.
var pairsOfFiles = []filePair{{"v1", "v2"}, {"v1", "v2"}, {"v1", "v3"}, {"v1", "v3"}, {"v2", "v1"}, {"v2", "v1"}, {"v3", "v2"}, {"v2", "v3"}, {"v3", "v1"}}

// pairsMachine drives random sequences of edits of a guard's pair, which two replicas read
// one after the other, with all that makes and ends locks meanwhile. There are three
// versions, and a ledger of the test's own says what each write may be.
type pairsMachine struct {
	t        *rapid.T
	w        *world
	now      time.Time
	beat     time.Time
	replicas []*replica
	firing   map[string]decision.Alert
	fired    map[string]decision.Alert // all so far, by fingerprint
	gateShut bool
	down     bool // the API server does not answer
	busy     bool // a pass is under way
	fault    *fault
	meddle   func() // what somebody else does in the middle of a pass
	meddled  bool
	lockedAt int                        // version of the world when a rollback was last decided on
	refused  map[string]bool            // builds that were rolled back and that nobody has forgiven
	served   map[string]map[string]bool // by version, builds that have had ready pods
	sighted  map[string]string          // by version, the build that was there when it came to be the canary; empty: somebody has begun with it
	shares   []share                    // what the API server has had, oldest first
	files    map[string]decision.Guard  // by replica, as its pass has read it
	records  map[*corev1.ConfigMap]decision.Record
}

// share is a VirtualService as the API server has had it.
type share struct {
	version int
	vs      *unstructured.Unstructured
}

func newPairsMachine(t *rapid.T) *pairsMachine {
	m := &pairsMachine{t: t, now: time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC), firing: map[string]decision.Alert{}, fired: map[string]decision.Alert{},
		refused: map[string]bool{}, served: map[string]map[string]bool{"v1": {}, "v2": {}, "v3": {}}, sighted: map[string]string{}, files: map[string]decision.Guard{}, records: map[*corev1.ConfigMap]decision.Record{}}
	m.beat = m.now
	made := m.now.Add(-time.Hour)
	m.w = &world{template: 1, made: map[int]time.Time{1: made, 2: made, 3: made}, pods: []int{1, 1}, present: 1, since: made, stable: 2,
		rest: map[string]side{"v1": {template: 2}, "v3": {template: 3, present: 3, since: made, pods: []int{3, 3}}}}
	if rapid.Bool().Draw(t, "v3 is not there yet") {
		m.w.rest["v3"] = side{}
	}
	m.noteServed()
	m.ci(rapid.SampledFrom([]int{0, 10, 50}).Draw(t, "v2 at first sight"), 0, "v2")
	g := decision.Guard{Name: "orders-service", Namespace: testNamespace, VirtualServices: []string{"orders-service"}, DestinationRule: "orders-service",
		Stable: virtualservice.Ref{Subset: "v1"}, Canary: virtualservice.Ref{Subset: "v2"},
		Rollback: decision.Rollback{Lock: rapid.SampledFrom([]decision.LockKind{decision.LockBuild, decision.LockBuild, decision.LockBuild, decision.LockManual}).Draw(t, "lock"), Window: 30 * time.Minute,
			MinReadyStable: 1, Capacity: 0.8, MatchRoutes: true, Mirrors: true},
		Promotion: decision.Promotion{Mode: rapid.SampledFrom([]decision.PromotionMode{decision.PromotionOff, decision.PromotionAuto, decision.PromotionAuto}).Draw(t, "mode"), MinRequests: 100,
			Steps: []decision.Step{{Weight: 10, Interval: time.Minute}, {Weight: 50, Interval: time.Minute}, {Weight: 100, Interval: time.Minute}}},
		AlertWindow: 6 * time.Minute, HeartbeatMaxAge: 3 * time.Minute}
	for i := range 2 {
		r := &replica{name: fmt.Sprint("guardian-", i), guard: g, view: m.w.copy(), leads: i == 0, known: map[string]decision.Alert{}, pending: map[string]decision.Alert{}}
		m.wire(r)
		m.replicas = append(m.replicas, r)
	}
	return m
}

func (m *pairsMachine) wire(r *replica) {
	r.store = &worldStore{w: m.w, now: func() time.Time { return m.now }, before: m.beforeWrite, stored: func(old, cm *corev1.ConfigMap) { m.checkRecord(r, m.parse(old), m.parse(cm)) },
		check: func(before, after *unstructured.Unstructured, _ string) { m.checkTraffic(r, before, after) }, moved: m.remember}
	r.store.after = func(write string) error {
		if write == "record" {
			r.wroteRV = m.w.cm.ResourceVersion
		}
		return m.failing(true)
	}
	r.rec = &reconciler{
		cached: worldReader{world: r.view, saw: &r.saw}, live: worldReader{world: m.w, saw: &r.saw, down: &m.down}, store: r.store, now: r.store.now, known: newTrafficCache(), past: records.NewHistories(), domain: "cluster.local",
		user: func() string { return guardianUser }, leads: func() bool { return r.leads }, heartbeat: func(context.Context) (time.Time, error) { return m.beat, nil },
		forward: func(context.Context, snapshot) (decision.Forward, []decision.Alert) {
			maps.Copy(r.given, m.firing)
			return decision.Forward{Requests: 200, Gates: []decision.Gate{{Name: "slo", Open: !m.gateShut, Why: "0"}}}, slices.Collect(maps.Values(m.firing))
		},
		count: func(context.Context, snapshot) decision.Count { return decision.Count{Known: true, Requests: 200} },
		after: func(context.Context, snapshot, decision.Receipt) decision.After {
			return decision.After{Felt: m.now, Counted: true, Requests: 200}
		},
		changed: func(context.Context, decision.Guard, snapshot, decision.Decision) {},
	}
}

func (m *pairsMachine) beforeWrite(string) error {
	if m.meddle != nil {
		do := m.meddle
		m.meddle, m.meddled = nil, true
		do()
	}
	if m.down {
		return errAPI
	}
	return m.failing(false)
}

// failing is the fault of a pass, if its time has come.
func (m *pairsMachine) failing(after bool) error {
	if m.fault == nil || m.fault.after != after {
		return nil
	}
	if m.fault.n--; m.fault.n < 0 {
		return m.fault.err
	}
	return nil
}

// parse reads a record once: nobody edits a ConfigMap of a world.
func (m *pairsMachine) parse(cm *corev1.ConfigMap) decision.Record {
	if cm == nil {
		return decision.Record{}
	}
	if r, ok := m.records[cm]; ok {
		return r
	}
	r, err := records.Parse(cm)
	if err != nil {
		m.t.Fatal(err)
	}
	m.records[cm] = r
	return r
}

// file is the pair that a replica's pass goes by.
func (m *pairsMachine) file(r *replica) filePair { return pairOfGuard(m.files[r.name]) }

func (m *pairsMachine) record() decision.Record { return m.parse(m.w.cm) }

// setSide changes what runs of a version. Caches share the old.
func (m *pairsMachine) setSide(version string, s side) {
	if version == m.w.canaryVersion() {
		m.w.template, m.w.noise, m.w.present, m.w.since, m.w.pods, m.w.lives = s.template, s.noise, s.present, s.since, s.pods, s.lives
	} else {
		m.w.rest = maps.Clone(m.w.rest)
		m.w.rest[version] = s
	}
	m.w.next()
	m.noteServed()
}

func (m *pairsMachine) noteServed() {
	for version, builds := range m.served {
		for _, b := range readyBuilds(m.w, version) {
			builds[b] = true
		}
	}
}

// readyBuilds are those of a version's ready pods.
func readyBuilds(w *world, version string) (out []string) {
	s := w.sideOf(version)
	for i, t := range s.pods {
		if !w.lifeIn(s, i).down {
			out = append(out, w.hashOfTemplate(t))
		}
	}
	return out
}

// deploy gives a version a template, and so many ready pods of it.
func (m *pairsMachine) deploy(version string, template, ready int) {
	if version == "v1" { // of which all pods are of one template
		if m.w.stable = ready; ready == 0 {
			m.w.stable = 2
		}
		m.setSide(version, side{template: template})
		m.begun(version, template)
		return
	}
	s := m.w.sideOf(version)
	if s.template != template {
		s.template, s.present, s.since = template, template, m.now
	}
	if len(s.pods) == 0 {
		s.pods, s.lives = make([]int, ready), make([]life, ready)
	} else {
		s.pods, s.lives = slices.Clone(s.pods), slices.Clone(s.lives)
		for i := len(s.lives); i < len(s.pods); i++ {
			s.lives = append(s.lives, m.w.lifeIn(s, i))
		}
	}
	for i := range min(ready, len(s.pods)) {
		if s.pods[i] != template {
			s.pods[i], s.lives[i] = template, life{born: m.now, ready: m.now}
		}
	}
	m.setSide(version, s)
	m.begun(version, template)
}

// begun notes that a version has another build than it was seen with first.
func (m *pairsMachine) begun(version string, template int) {
	if m.sighted[version] != m.w.hashOfTemplate(template) {
		m.sighted[version] = ""
	}
}

// ci stores a VirtualService: percent for v2 and v3, the rest for v1, and who testers get;
// empty: they are as everybody.
func (m *pairsMachine) ci(v2, v3 int, testers string) {
	entry := func(subset string, weight int) map[string]any {
		return map[string]any{"destination": map[string]any{"host": "orders-service", "subset": subset}, "weight": int64(weight)}
	}
	var routes []any
	if testers != "" {
		only := entry(testers, 0)
		delete(only, "weight")
		routes = append(routes, map[string]any{"match": []any{map[string]any{"headers": map[string]any{"x-tester": map[string]any{"exact": "yes"}}}}, "route": []any{only}})
	}
	routes = append(routes, map[string]any{"route": []any{entry("v1", 100-v2-v3), entry("v2", v2), entry("v3", v3)}})
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
		"metadata": map[string]any{"name": "orders-service", "namespace": testNamespace}, "spec": map[string]any{"hosts": []any{"orders-service"}, "http": routes}}}
	if m.w.vs != nil {
		u.SetAnnotations(maps.Clone(m.w.vs.GetAnnotations()))
		u.SetManagedFields(m.w.vs.GetManagedFields())
		for _, v := range m.w.versions() {
			if everybodys(u)[v] > everybodys(m.w.vs)[v] {
				m.sighted[v] = ""
			}
		}
	}
	u.SetResourceVersion(m.w.next())
	m.w.vs = u
	m.remember(u)
}

func (m *pairsMachine) remember(vs *unstructured.Unstructured) {
	m.shares = append(m.shares, share{m.w.version, vs})
}

// routeShares is what each route gives each version, percent.
func routeShares(vs *unstructured.Unstructured) (out []map[string]int, testers []bool) {
	for _, raw := range vs.Object["spec"].(map[string]any)["http"].([]any) {
		route := raw.(map[string]any)
		entries, shares := route["route"].([]any), map[string]int{}
		for _, e := range entries {
			entry := e.(map[string]any)
			weight, ok := wholeWeight(entry["weight"])
			if !ok && len(entries) == 1 {
				weight = 100
			}
			shares[entry["destination"].(map[string]any)["subset"].(string)] += weight
		}
		out, testers = append(out, shares), append(testers, route["match"] != nil)
	}
	return out, testers
}

// everybodys is what the route of all but testers gives each version.
func everybodys(vs *unstructured.Unstructured) map[string]int {
	all, _ := routeShares(vs)
	return all[len(all)-1]
}

// gets is the most that a version gets of a route.
func gets(vs *unstructured.Unstructured, version string) (most int) {
	all, _ := routeShares(vs)
	for _, shares := range all {
		most = max(most, shares[version])
	}
	return most
}

// wasClean says that a version has had nothing at or after a version of the world.
func (m *pairsMachine) wasClean(version string, after int) bool {
	for i, s := range slices.Backward(m.shares) {
		if gets(s.vs, version) == 0 {
			return true
		}
		if s.version <= after || i == 0 {
			return false
		}
	}
	return false
}

// checkTraffic holds a write of a VirtualService against the lock that stands and the
// pair that the replica's file has.
func (m *pairsMachine) checkTraffic(r *replica, before, after *unstructured.Unstructured) {
	rec := m.record()
	was, testers := routeShares(before)
	is, _ := routeShares(after)
	m.t.Logf("%s %s writes %v to %v", clockText(m.now), r.name, was, is)
	if m.meddled && r.wroteRV != m.w.cm.ResourceVersion {
		return // somebody has written the record since, and the next look goes by that
	}
	of := m.file(r)
	if l := rec.Lock; l != nil {
		of = filePair{l.Stable, l.Canary}
	}
	for i := range was {
		for _, v := range m.w.versions() {
			if was[i][v] == is[i][v] {
				continue
			}
			m.checkWritable(r, rec)
			if more := is[i][v] > was[i][v]; testers[i] && rec.Lock == nil {
				m.checkGivenBack(r, rec, v, more)
			} else {
				m.checkMoved(r, rec, of, v, more)
			}
		}
	}
}

// checkWritable: nothing is moved by who observes, or of a guard that does, or is disarmed.
func (m *pairsMachine) checkWritable(r *replica, rec decision.Record) {
	switch s := rec.Status; {
	case m.files[r.name].Mode == decision.ModeObserve || s.Observing != nil:
		m.t.Fatalf("%s observes, and writes to the VirtualService", r.name)
	case s.Disarmed != nil && m.now.Before(s.Disarmed.Until):
		m.t.Fatalf("disarmed until %s, and %s writes to the VirtualService", s.Disarmed.Until, r.name)
	}
}

// checkGivenBack holds what testers are given back after a lock against what forbids that:
// what has led to another canary than the record is of stays where it is.
func (m *pairsMachine) checkGivenBack(r *replica, rec decision.Record, version string, more bool) {
	if more && (!r.leads || version != rec.Status.Moves.Canary || !m.meddled && (len(r.given) > 0 || m.runsRefused(version))) {
		m.t.Fatalf("testers are given back to %s; %s leads: %v, firing %v, what runs was rolled back: %v", version, r.name, r.leads, r.given, m.runsRefused(version))
	}
}

// checkMoved holds what a write gives a version, more or less, against the pair that it is of.
func (m *pairsMachine) checkMoved(r *replica, rec decision.Record, of filePair, version string, more bool) {
	switch {
	case version != of.stable && version != of.canary:
		m.t.Fatalf("the pair is %s, and %s gets more (%v) or less; lock %+v", of, version, more, rec.Lock)
	case version == of.stable:
	case more:
		m.checkRaised(r, rec, of)
	case rec.Lock == nil:
		m.t.Fatalf("a rollback of %s without a lock; status %+v", of, rec.Status)
	case len(readyBuilds(r.saw, of.stable)) == 0 || r.saw.noSubset && of.stable == r.saw.stableVersion():
		m.t.Fatalf("invariant 4: traffic is sent to %s, which has nothing", of.stable)
	}
}

// checkRaised holds a write that gives the canary more against what forbids that.
func (m *pairsMachine) checkRaised(r *replica, rec decision.Record, of filePair) {
	moves, s := rec.Status.Moves, rec.Status
	switch {
	case rec.Lock != nil:
		m.t.Fatalf("invariant 2: the canary of %s is given more while locked: %+v", of, rec.Lock)
	case !r.leads:
		m.t.Fatalf("invariant 2: given more without the lease")
	case moves == nil || moves.Stable != of.stable || moves.Canary != of.canary:
		m.t.Fatalf("the canary of %s is given more, and the record is of %+v", of, moves)
	case m.meddled:
	case len(m.firing) > 0:
		m.t.Fatalf("invariant 2: given more while %v fires", m.firing)
	case m.runsRefused(of.canary):
		m.t.Fatalf("canary %s is given more, and runs a build that was rolled back", of.canary)
	case !isStepping(rec):
		m.t.Fatalf("the canary of %s is given more, and no step is under way: %+v", of, s)
	case s.Moving.By == decision.BySchedule && m.sighted[of.canary] != "" && m.sighted[of.canary] == s.Moving.Build:
		m.t.Fatalf("build %s of %s is taken forward, which was there when it came to be the canary", s.Moving.Build, of.canary)
	}
}

// runsRefused says that a version has a ready pod of a build that was rolled back.
func (m *pairsMachine) runsRefused(version string) bool {
	return slices.ContainsFunc(readyBuilds(m.w, version), func(b string) bool { return m.refused[b] })
}

// checkRecord holds a record that is written against the ledger.
func (m *pairsMachine) checkRecord(r *replica, was, is decision.Record) {
	m.t.Logf("%s %s (leads %v, %s) records %s", clockText(m.now), r.name, r.leads, m.file(r), recordText{was, is})
	if was.Lock == nil && is.Lock != nil || !isReturning(was) && isReturning(is) {
		m.lockedAt = m.w.version
	}
	told := newest(was.History, is.History)
	happened := func(event decision.Event) bool {
		return slices.ContainsFunc(told, func(e decision.HistoryEntry) bool { return e.Event == event })
	}
	ended := was.Lock != nil && (is.Lock == nil || happened(decision.EventUnlocked))
	if happened(decision.EventRolledBack) {
		of := is.Lock
		if of == nil {
			of = was.Lock
		}
		if of != nil && !m.wasClean(of.Canary, min(m.lockedAt, r.began)) {
			m.t.Fatalf("invariant 6: recorded as rolled back, and %s has had traffic ever since", of.Canary)
		}
	}
	m.checkForgiven(r, was, is, ended)
	switch {
	case ended:
		m.checkEnded(r, was, is)
		fallthrough
	case was.Lock == nil:
		if is.Lock != nil {
			m.checkLocked(r, was, *is.Lock)
		}
	default:
		m.checkJoined(*was.Lock, is)
		if was.Lock.Canary != is.Lock.Canary {
			m.checkWentOver(r, was, *is.Lock)
		}
	}
	for _, b := range is.Refused {
		m.refused[b] = true
	}
	m.noteSighted(r, was, is)
}

// checkJoined holds builds that a lock has come to refuse against what has served of its
// canary.
func (m *pairsMachine) checkJoined(l decision.Lock, is decision.Record) {
	for _, b := range is.Refused {
		if !m.refused[b] && !m.served[l.Canary][b] {
			m.t.Fatalf("build %s joins the lock of %s, and never served of it", b, l.Canary)
		}
		m.refused[b] = true
	}
}

// noteSighted takes down what runs of a version when it comes to be the canary.
func (m *pairsMachine) noteSighted(r *replica, was, is decision.Record) {
	before, now := was.Status.Moves, is.Status.Moves
	switch {
	case now == nil, before != nil && before.Stable == now.Stable && before.Canary == now.Canary:
		return
	case before != nil && before.Canary == now.Canary && was.Lock != nil:
		return // another stable alone, under a lock, is no exchange
	}
	if before != nil && !r.leads && !m.meddled && was.Lock == nil && is.Lock == nil {
		m.t.Fatalf("%s does not lead, and has the record be of %+v after %+v", r.name, now, before)
	}
	for v := range m.sighted {
		m.sighted[v] = ""
	}
	if s := r.saw.sideOf(now.Canary); s.template != 0 && gets(r.saw.vs, now.Canary) == 0 {
		m.sighted[now.Canary] = r.saw.hashOfTemplate(s.template)
	}
}

// checkForgiven: what was rolled back is refused until a person unlocks it.
func (m *pairsMachine) checkForgiven(r *replica, was, is decision.Record, ended bool) {
	q := was.Request
	unlocked := q != nil && q.Action == decision.RequestUnlock && is.Request == nil
	window := slices.ContainsFunc(newest(was.History, is.History), func(e decision.HistoryEntry) bool { return e.By == "window" })
	enforces := was.Status.Observing != nil && is.Status.Observing == nil
	for _, b := range was.Refused {
		if !slices.Contains(is.Refused, b) && (!ended || !unlocked && !window) && !enforces {
			m.t.Fatalf("build %s is refused no more, and nobody has unlocked it", b)
		}
		if !slices.Contains(is.Refused, b) {
			delete(m.refused, b)
		}
	}
}

// checkEnded holds the end of a lock against what may end it.
func (m *pairsMachine) checkEnded(r *replica, was, is decision.Record) {
	l, q := *was.Lock, was.Request
	next := m.file(r)
	switch {
	case !r.leads && !m.meddled:
		m.t.Fatalf("%s does not lead, and lifts the lock of %s", r.name, l.Canary)
	case q != nil && q.Action == decision.RequestUnlock && is.Request == nil:
	case l.Kind != decision.LockBuild:
		m.t.Fatalf("a lock of kind %s is lifted, and nobody has asked", l.Kind)
	case slices.ContainsFunc(newest(was.History, is.History), func(e decision.HistoryEntry) bool { return e.By == "window" }):
		if was.Status.State != decision.StateBlocked {
			m.t.Fatalf("lifted after the window from %s", was.Status.State)
		}
	case is.Lock == nil && is.Status.Moves.Canary != l.Canary: // handed over
		if is.Status.Moves.Canary != next.canary || gets(r.saw.vs, l.Canary) > 0 {
			m.t.Fatalf("the lock of %s is handed over to %s by a file of %s; %s has %d%%", l.Canary, is.Status.Moves.Canary, next, l.Canary, gets(r.saw.vs, l.Canary))
		}
		m.checkProven(r, next.canary, l, l.By != decision.ByRefused)
	default:
		m.checkProven(r, l.Canary, l, false)
	}
}

// checkProven: all that is ready of a version is of its present build, which was never
// rolled back.
func (m *pairsMachine) checkProven(r *replica, version string, l decision.Lock, younger bool) {
	s := r.saw.sideOf(version)
	ready := readyBuilds(r.saw, version)
	for _, b := range ready {
		if b != r.saw.hashOfTemplate(s.template) || m.refused[b] {
			m.t.Fatalf("the lock of %s is lifted by %s, of which build %s is ready; refused %v", l.Canary, version, b, m.refused)
		}
	}
	for i := range s.pods {
		if life := r.saw.lifeIn(s, i); younger && !life.down && l.Since.Sub(life.born) >= decision.ClockTolerance {
			m.t.Fatalf("the lock of %s, of %s, is lifted by a pod of %s, which is of %s", l.Canary, l.Since, version, life.born)
		}
	}
	if len(ready) == 0 {
		m.t.Fatalf("the lock of %s is lifted by %s, of which nothing is ready", l.Canary, version)
	}
}

// checkLocked holds a lock that is set against what can have caused it.
func (m *pairsMachine) checkLocked(r *replica, was decision.Record, l decision.Lock) {
	of := m.file(r)
	switch {
	case l.By == decision.ByAnnotation:
		return
	case l.By == decision.ByAlert:
		if a, ok := m.fired[l.Fingerprint]; !ok || a.Action != decision.ActionRollback {
			m.t.Fatalf("no alert is like that of %+v", l)
		} else if _, given := r.given[a.Episode()]; !given {
			m.t.Fatalf("%s was not told of the alert of %+v", r.name, l)
		}
	case l.By == decision.ByRefused:
		for _, b := range l.Refused {
			if !m.refused[b] || !slices.Contains(readyBuilds(r.saw, l.Canary), b) {
				m.t.Fatalf("locked for build %s of %s; it was rolled back: %v, it is ready: %v", b, l.Canary, m.refused[b], readyBuilds(r.saw, l.Canary))
			}
		}
	default:
		if q := was.Request; q == nil || q.Action != decision.RequestRollback {
			m.t.Fatalf("locked by %s, who has not asked", l.By)
		}
	}
	if (l.Stable != of.stable || l.Canary != of.canary) && was.Lock == nil {
		m.t.Fatalf("a lock of %s and %s by a file of %s", l.Stable, l.Canary, of)
	}
	for _, b := range l.Refused {
		if !m.served[l.Canary][b] {
			m.t.Fatalf("build %s is refused, and never served of %s: %+v", b, l.Canary, l)
		}
	}
}

// checkWentOver holds a lock that is of another canary now against what runs of it.
func (m *pairsMachine) checkWentOver(r *replica, was decision.Record, l decision.Lock) {
	back := slices.ContainsFunc(readyBuilds(r.saw, l.Canary), func(b string) bool { return m.refused[b] })
	if of := m.file(r); !r.leads && !m.meddled || of != (filePair{l.Stable, l.Canary}) || !back || gets(r.saw.vs, was.Lock.Canary) > 0 {
		m.t.Fatalf("the lock of %s goes over to %s; the file has %s, what was refused is back there: %v, the one before has %d%%", was.Lock.Canary, l.Canary, of, back, gets(r.saw.vs, was.Lock.Canary))
	}
}

// pass is one reconcile by one replica.
func (m *pairsMachine) pass(r *replica) {
	if m.busy {
		return
	}
	m.busy, m.meddled, r.wroteRV, r.began = true, false, "", m.w.version
	defer func() { m.busy, m.fault, m.meddle = false, nil, nil }()
	now := maps.Clone(r.known)
	maps.Copy(now, r.pending)
	r.given = maps.Clone(now)
	sent := maps.Clone(r.pending)
	m.files[r.name] = r.guard
	out, err := r.rec.reconcile(context.Background(), r.guard, slices.Collect(maps.Values(now)))
	m.t.Logf("%s %s (leads %v, %v) has looked: %v", clockText(m.now), r.name, r.leads, r.guard.Canary, err)
	if errors.Is(err, errCrash) {
		r.pending, r.known = map[string]decision.Alert{}, maps.Clone(m.firing)
		m.sync(r)
		m.wire(r)
		return
	}
	if out.recorded {
		for k := range sent {
			delete(r.pending, k)
		}
	}
}

// sync brings parts of a replica's cache up to date. None: all.
func (m *pairsMachine) sync(r *replica, only ...string) {
	if len(only) == 0 {
		only = parts
	}
	v := r.view
	for _, part := range only {
		switch part {
		case "record":
			v.cm = m.w.cm
		case "VirtualService":
			v.vs = m.w.vs
		case "workloads":
			v.template, v.pods, v.lives, v.made, v.noise, v.present, v.since, v.rest = m.w.template, m.w.pods, m.w.lives, m.w.made, m.w.noise, m.w.present, m.w.since, m.w.rest
		case "stable":
			v.stable, v.noSubset = m.w.stable, m.w.noSubset
		}
	}
	v.version = m.w.version
}

// look has the replicas look at the guard as it is.
func (m *pairsMachine) look() {
	for range 2 {
		for _, r := range m.replicas {
			m.sync(r)
			m.pass(r)
		}
	}
}

// rest lets everything calm down but what the files say, and holds guardian to it.
func (m *pairsMachine) rest() {
	m.fault, m.meddle, m.down = nil, nil, false
	shut := m.gateShut
	m.gateShut = true // steps are not to go on
	defer func() { m.gateShut = shut }()
	m.look()
	m.look()
	m.checkCalm()
	for range 4 {
		last := 0 // the round that wrote last
		for round := range 11 {
			m.now = m.now.Add(11 * time.Second)
			m.beat = m.now
			for _, r := range m.replicas {
				maps.Copy(r.known, m.firing) // listed
				m.sync(r)
				version := m.w.version
				m.pass(r)
				if m.w.version != version {
					last = round
				}
			}
		}
		if last < 8 {
			m.checkCalm()
			return
		}
	}
	m.t.Fatalf("nothing happens, and guardian goes on writing; files %s, %s; status %+v", pairOfGuard(m.replicas[0].guard), pairOfGuard(m.replicas[1].guard), m.record().Status)
}

// checkCalm holds a record at rest against traffic and files.
func (m *pairsMachine) checkCalm() {
	rec := m.record()
	s, l := rec.Status, rec.Lock
	if (m.w.cm.Labels[records.LabelLocked] == "true") != (l != nil) {
		m.t.Fatalf("label %s is %q, lock %v", records.LabelLocked, m.w.cm.Labels[records.LabelLocked], l)
	}
	leader, turned := m.replicas[0], 0
	observes := s.Observing != nil
	for _, r := range m.replicas {
		if r.leads {
			leader = r
		}
		if len(r.pending) > 0 {
			m.t.Fatalf("invariant 5: %s still holds %v unrecorded", r.name, r.pending)
		}
		if stable := r.guard.Stable.String(); l != nil && (stable == l.Canary || slices.Contains(l.Also, "orders-service/"+stable)) {
			turned++
		}
		observes = observes || r.guard.Mode == decision.ModeObserve
	}
	disarmed := s.Disarmed != nil
	if l == nil {
		if is := pairOfGuard(leader.guard); s.Moves.Stable != is.stable || s.Moves.Canary != is.canary {
			m.t.Fatalf("the file of the one that leads has %s, and the record is of %+v", is, s.Moves)
		}
		return
	}
	if !observes {
		want, _ := decision.LockAnnotationOf(rec, guardianUser)
		if got := m.w.vs.GetAnnotations()[decision.LockKey("orders-service")]; got != want {
			m.t.Fatalf("the VirtualService says of the lock\n%q\nand the record\n%q", got, want)
		}
	}
	safe := len(readyBuilds(m.w, l.Stable)) > 0 && (!m.w.noSubset || l.Stable != m.w.stableVersion())
	if has := gets(m.w.vs, l.Canary); has > 0 && !observes && !disarmed && turned < len(m.replicas) && (safe || s.State != decision.StateBlocked) {
		m.t.Fatalf("invariant 1: the lock is of %s, which has %d%%; stable %s has %v; %s: %s", l.Canary, has, l.Stable, readyBuilds(m.w, l.Stable), s.State, s.Reason)
	}
}

// fails has an alert begin that one of the replicas hears.
func (m *pairsMachine) fails(action decision.Action) *replica {
	n := fmt.Sprint(len(m.fired) + 1)
	a := decision.Alert{Name: "Alert" + n, Signal: "error_rate", Fingerprint: "f" + n, StartsAt: m.now, Action: action, Summary: "7% of requests fail"}
	m.fired[a.Fingerprint], m.firing[a.Episode()] = a, a
	r := m.pick("heard by")
	r.known[a.Episode()], r.pending[a.Episode()] = a, a
	return r
}

func (m *pairsMachine) ends() {
	m.firing = map[string]decision.Alert{}
	for _, r := range m.replicas {
		r.known = map[string]decision.Alert{}
	}
}

func (m *pairsMachine) later(passes time.Duration) {
	m.now = m.now.Add(passes)
	if passes > decision.ListingKnows {
		for _, r := range m.replicas {
			maps.Copy(r.known, m.firing)
		}
	}
}

func (m *pairsMachine) pick(label string) *replica {
	return m.replicas[rapid.IntRange(0, 1).Draw(m.t, label)]
}

// edits has one replica, or both, read another pair.
func (m *pairsMachine) edits(label string) {
	p := rapid.SampledFrom(pairsOfFiles).Draw(m.t, label+" has")
	who := rapid.SampledFrom([]string{"both", "the first", "the second"}).Draw(m.t, label+" read by")
	for i, r := range m.replicas {
		if who == "both" || (who == "the first") == (i == 0) {
			r.guard.Stable, r.guard.Canary = virtualservice.Ref{Subset: p.stable}, virtualservice.Ref{Subset: p.canary}
		}
	}
}

// asks writes a request as by hand.
func (m *pairsMachine) asks(action decision.RequestAction) {
	if m.w.cm == nil {
		return
	}
	q := decision.Request{Action: action, By: "someone", Reason: "because", At: m.now}
	if action == decision.RequestDisarm {
		q.Until = m.now.Add(rapid.SampledFrom([]time.Duration{time.Second, 10 * time.Minute}).Draw(m.t, "disarmed for"))
	}
	cm := m.w.cm.DeepCopy()
	ask(cm, q)
	cm.ResourceVersion = m.w.next()
	m.w.cm = cm
}

// release gives a version a new build, or one that was there before.
func (m *pairsMachine) release(label string, ready ...int) {
	v := rapid.SampledFrom([]string{"v2", "v2", "v3", "v3", "v1"}).Draw(m.t, label+" of")
	template := len(m.w.made) + 1
	if rapid.IntRange(0, 3).Draw(m.t, label+" was there before") == 0 {
		template = rapid.IntRange(1, len(m.w.made)).Draw(m.t, label+" is")
	}
	if v == "v1" { // whose pods are as old as their template
		template = len(m.w.made) + 1
	}
	if _, ok := m.w.made[template]; !ok {
		m.w.made[template] = m.now
	}
	m.deploy(v, template, rapid.SampledFrom(ready).Draw(m.t, label+" ready"))
}

// shifts is a write of CI's.
func (m *pairsMachine) shifts(label string) {
	v2 := rapid.SampledFrom([]int{0, 0, 10, 50, 100}).Draw(m.t, label+" v2")
	v3 := rapid.SampledFrom([]int{0, 0, 10, 50}).Draw(m.t, label+" v3")
	m.ci(v2, min(v3, 100-v2), rapid.SampledFrom([]string{"", "", "v1", "v2", "v3"}).Draw(m.t, label+" testers"))
}

// outside is something that anybody but guardian does.
func (m *pairsMachine) outside(label string) {
	switch rapid.SampledFrom([]string{"edit", "edit", "edit", "shift", "shift", "release", "release", "roll", "request", "request", "unlock", "stable", "mode"}).Draw(m.t, label) {
	case "edit":
		m.edits(label)
	case "shift":
		m.shifts(label)
	case "release":
		m.release(label, 0, 1, 2, 2, 2)
	case "roll":
		v := rapid.SampledFrom([]string{"v2", "v3"}).Draw(m.t, label+" of")
		if s := m.w.sideOf(v); s.template != 0 {
			m.deploy(v, s.template, 2)
		}
	case "request":
		m.asks(rapid.SampledFrom([]decision.RequestAction{decision.RequestRollback, decision.RequestPause, decision.RequestResume, decision.RequestPromote, decision.RequestPromote, decision.RequestDisarm, decision.RequestArm}).Draw(m.t, label+" action"))
	case "unlock":
		m.asks(decision.RequestUnlock)
	case "stable":
		m.w.stable, m.w.noSubset = rapid.IntRange(0, 2).Draw(m.t, label+" ready"), rapid.IntRange(0, 3).Draw(m.t, label+" gone") == 0
		m.noteServed()
	case "mode":
		mode := rapid.SampledFrom([]decision.Mode{decision.ModeEnforce, decision.ModeEnforce, decision.ModeObserve}).Draw(m.t, label+" is")
		if rapid.Bool().Draw(m.t, label+" of both") {
			m.replicas[0].guard.Mode, m.replicas[1].guard.Mode = mode, mode
			return
		}
		m.pick(label + " read by").guard.Mode = mode
	}
}

// troubles prepares for something to go wrong in the middle of the next pass.
func (m *pairsMachine) troubles() {
	switch rapid.SampledFrom([]string{"", "", "fault", "meddle"}).Draw(m.t, "trouble") {
	case "fault":
		m.fault = &fault{n: rapid.IntRange(0, 2).Draw(m.t, "writes before it"), after: rapid.Bool().Draw(m.t, "after the write"), err: rapid.SampledFrom([]error{errAPI, errCrash}).Draw(m.t, "fault")}
	case "meddle":
		m.meddle = func() { m.outside("meanwhile") }
	}
}

func (m *pairsMachine) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"outside": func(t *rapid.T) { m.t = t; m.outside("event") },
		"seen": func(t *rapid.T) {
			m.t = t
			m.outside("seen event")
			m.look()
		},
		"pass": func(t *rapid.T) { m.t = t; m.troubles(); m.pass(m.pick("pass of")) },
		"both": func(t *rapid.T) { // the other replica acts in the middle of a pass
			m.t = t
			i := rapid.IntRange(0, 1).Draw(t, "pass of")
			r, other := m.replicas[i], m.replicas[1-i]
			m.meddle = func() {
				keep := r.wroteRV
				m.busy = false
				m.pass(other)
				m.busy, m.meddled, r.wroteRV = true, true, keep
			}
			m.pass(r)
		},
		"step": func(t *rapid.T) {
			m.t = t
			m.later(2 * time.Minute)
			m.beat, m.gateShut = m.now, false
			m.look()
		},
		"sync in part": func(t *rapid.T) {
			m.t = t
			m.sync(m.pick("part of the cache of"), rapid.SampledFrom(parts).Draw(t, "part"))
		},
		"look": func(t *rapid.T) { m.t = t; m.look() },
		"alert": func(t *rapid.T) {
			m.t = t
			m.pass(m.fails(rapid.SampledFrom([]decision.Action{decision.ActionRollback, decision.ActionRollback, decision.ActionHold}).Draw(t, "action")))
		},
		"resolve": func(t *rapid.T) { m.t = t; m.ends() },
		"lease": func(t *rapid.T) {
			m.t = t
			m.replicas[0].leads = rapid.Bool().Draw(t, "first leads")
			m.replicas[1].leads = !m.replicas[0].leads
		},
		"api": func(t *rapid.T) { m.t = t; m.down = rapid.IntRange(0, 2).Draw(t, "down") == 0 },
		"time": func(t *rapid.T) {
			m.t = t
			m.later(rapid.SampledFrom([]time.Duration{time.Second, 10 * time.Second, time.Minute, 7 * time.Minute, 31 * time.Minute}).Draw(t, "passes"))
			m.beat = m.now
		},
		"rest": func(t *rapid.T) { m.t = t; m.rest() },
	}
}

// stories are several events in the order in which they make sense.
func (m *pairsMachine) stories() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"rolled back": func(t *rapid.T) { m.t = t; m.rolledBack() },
		"unlocked": func(t *rapid.T) {
			m.t = t
			m.look()
			m.asks(decision.RequestUnlock)
			m.look()
		},
		"apart": func(t *rapid.T) { // one file after the other says so, while a lock stands
			m.t = t
			m.rolledBack()
			m.edits("edit")
			switch rapid.SampledFrom([]string{"", "", "release", "disarm", "observe", "shift"}).Draw(t, "meanwhile") {
			case "release":
				m.later(time.Minute)
				m.release("meanwhile", 2)
			case "disarm":
				m.asks(decision.RequestDisarm)
			case "observe":
				m.replicas[0].guard.Mode, m.replicas[1].guard.Mode = decision.ModeObserve, decision.ModeObserve
			case "shift":
				m.shifts("meanwhile")
			}
			m.rest()
		},
	}
}

// isBraked says that an alert which begins now rolls back, as far as nothing is in its way:
// the canary of both files has traffic, and is no completed one.
func (m *pairsMachine) isBraked() bool {
	rec, a, b := m.record(), m.replicas[0].guard, m.replicas[1].guard
	s, of := rec.Status, pairOfGuard(a)
	switch {
	case m.down || rec.Lock != nil || s.Disarmed != nil || s.Observing != nil || a.Mode == decision.ModeObserve || b.Mode == decision.ModeObserve:
		return false
	case of != pairOfGuard(b), s.Moves.Stable != of.stable || s.Moves.Canary != of.canary:
		return false
	}
	safe := len(readyBuilds(m.w, of.stable)) > 0 && (!m.w.noSubset || of.stable != m.w.stableVersion())
	has := s.Weight > 0 && gets(m.w.vs, of.canary) > 0
	return safe && has && s.State != decision.StateCompleted && s.State != decision.StateBlocked
}

// rolledBack has an alert roll the canary back, and be over.
func (m *pairsMachine) rolledBack() {
	m.shifts("before it")
	m.look()
	m.later(time.Second)
	braked := m.isBraked()
	m.pass(m.fails(decision.ActionRollback))
	m.look()
	canary := m.replicas[0].guard.Canary.String()
	if l := m.record().Lock; braked && (l == nil || l.Canary != canary || gets(m.w.vs, canary) > 0) {
		m.t.Fatalf("invariant 1: an alert of canary %s, and it has %d%%; lock %+v; status %+v", canary, gets(m.w.vs, canary), l, m.record().Status)
	}
	m.later(2 * time.Minute)
	m.ends()
	m.look()
}

// TestPropertyInvariantsHoldWhenThePairIsEdited has replicas read another stable or canary
// at different times, with a lock and without one, over random sequences of events.
func TestPropertyInvariantsHoldWhenThePairIsEdited(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // it makes much, and keeps little
	rapid.Check(t, func(t *rapid.T) {
		m := newPairsMachine(t)
		m.look()
		actions := m.actions()
		maps.Copy(actions, m.stories())
		t.Repeat(actions)
		m.t = t
		m.rest()
	})
}

package remediate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// The simulated week: each guard has a synctest bubble of its own with a
// cluster in memory, two replicas, and all that happens to them. The bubble's
// clock is the true time, and each replica's clock is off by what somebody has
// set it to. What guardian writes is held against that world, not against
// guardian's record of it.
//
// The world and each replica are goroutines, of which one at a time runs: it
// holds the baton. Where guardian waits for an answer, it lays the baton down
// for as long as the answer takes, and the others go on meanwhile. No two things
// happen in the same instant, so a seed always makes the same week.

const (
	simLength  = 7 * 24 * time.Hour
	simLag     = 2 * time.Second // after which a watch has told a replica of a change, at most
	simResync  = 10 * time.Minute
	simPoll    = 2 * time.Minute  // instead of pollCount and pollForward: a week is long
	simLeadGap = 15 * time.Second // without a lease holder after one was killed
)

// tally is what happened in a simulation.
type tally struct {
	passes, steps, byHand, rollbacks, promoted, completed int
	builds, alerts, kills, clocks, moves, conflicts       int
	raised, lowered, lifted, blocked                      int
	longest, misled                                       time.Duration         // that a rollback was due, and the same after a clock was wrong
	waits                                                 map[decision.Wait]int // told of in histories
	stated                                                map[decision.Wait]time.Duration
}

func (a *tally) add(b tally) {
	a.passes, a.steps, a.byHand, a.rollbacks = a.passes+b.passes, a.steps+b.steps, a.byHand+b.byHand, a.rollbacks+b.rollbacks
	a.promoted, a.completed, a.builds, a.alerts = a.promoted+b.promoted, a.completed+b.completed, a.builds+b.builds, a.alerts+b.alerts
	a.kills, a.clocks, a.moves, a.conflicts = a.kills+b.kills, a.clocks+b.clocks, a.moves+b.moves, a.conflicts+b.conflicts
	a.blocked += b.blocked
	a.raised, a.lowered, a.lifted, a.longest, a.misled = a.raised+b.raised, a.lowered+b.lowered, a.lifted+b.lifted, max(a.longest, b.longest), max(a.misled, b.misled)
	for k, n := range b.waits {
		a.waits[k] += n
	}
	for k, d := range b.stated {
		a.stated[k] += d
	}
}

func newTally() tally {
	return tally{waits: map[decision.Wait]int{}, stated: map[decision.Wait]time.Duration{}}
}

// simReplica is one guardian of the simulation.
type simReplica struct {
	offset time.Duration // its clock less the true time
	cache  *world
	rec    *reconciler
	known  map[string]decision.Alert // firing, as far as it has heard
	listed time.Time                 // when it last asked what fires
	beat   time.Time                 // when it last heard the heartbeat, by its clock
	next   time.Time                 // when it looks next
	wake   chan struct{}             // next has become earlier
	hurry  chan struct{}             // an alert has come: wait for no answer
	writes decision.Record           // the record that it is writing, or has written last
	began  time.Time                 // when its process did
	read   time.Time                 // when it last read the API server itself
	led    bool                      // whether it held the lease when it last looked
	ledAt  time.Time                 // when that was
	sent   time.Time                 // when its last write was on its way
	saw    *world
}

// sim is one guard's week.
type sim struct {
	t     *testing.T
	seed  uint64
	rand  *rand.Rand
	begin time.Time
	guard decision.Guard
	w     *world
	r     [2]*simReplica
	lead  int // index of the lease holder; -1: nobody holds it
	tally tally
	baton chan struct{}
	over  chan struct{} // closed at the end of the week
	wrong bool          // something that must not be

	agenda  map[string]time.Time      // when the next event of each kind is
	firing  map[string]decision.Alert // by Alertmanager
	ends    map[string]time.Time      // when each of them ends
	until   map[string]time.Time      // when what is broken works again
	beat    time.Time                 // the last heartbeat that any replica has heard
	rate    float64                   // requests a second at 100%
	traffic []flow
	bad     bool   // the present build degrades under traffic
	armed   string // the write at which a replica is killed
	asked   bool   // a person's promote is under way
	routes  routes // what the VirtualService looks like
	truth   truth
}

// flow is the canary's requests from a time on.
type flow struct {
	from   time.Time
	before float64 // all requests until then
	rate   float64 // a second
}

// kind is one kind of event, how often it comes in the mean, and what it does.
type kind struct {
	name  string
	every time.Duration
	do    func(*sim)
}

func simKinds() []kind {
	breaks := func(what string, least, most time.Duration) func(*sim) {
		return func(s *sim) { s.until[what] = s.now().Add(s.between(least, most)) }
	}
	in := func(s *sim, name string, least, most time.Duration) {
		s.agenda[name] = s.now().Add(s.between(least, most))
	}
	return []kind{
		{"build", 10 * time.Hour, (*sim).build},
		{"hold", 18 * time.Hour, func(s *sim) { s.alert(decision.ActionHold, s.between(time.Minute, 20*time.Minute)) }},
		{"false alarm", 80 * time.Hour, func(s *sim) { s.alert(decision.ActionRollback, s.between(time.Minute, 10*time.Minute)) }},
		{"ci", 30 * time.Hour, func(s *sim) { s.apply([]int{0, 10, 20, 30, 50, 70, 100}[s.rand.IntN(7)]) }},
		{"pause", 60 * time.Hour, func(s *sim) {
			if s.rand.IntN(2) == 0 {
				s.annotate(true)
			} else {
				s.request(decision.RequestPause)
			}
			in(s, "go on", time.Minute, time.Hour)
		}},
		{"disarm", 60 * time.Hour, func(s *sim) {
			s.ask(decision.Request{Action: decision.RequestDisarm, Until: s.now().Add(s.between(time.Minute, time.Hour))})
			if s.rand.IntN(3) == 0 {
				in(s, "arm", time.Minute, time.Hour)
			}
		}},
		{"promote", 40 * time.Hour, func(s *sim) { s.request(decision.RequestPromote) }},
		{"unlock", 60 * time.Hour, func(s *sim) { s.request(decision.RequestUnlock) }},
		{"lease", 12 * time.Hour, func(s *sim) { s.lead = 1 - max(0, s.lead); s.touch() }},
		{"kill", 12 * time.Hour, func(s *sim) { s.armed = []string{"record step", "traffic step"}[s.rand.IntN(2)] }},
		{"kill back", 30 * time.Hour, func(s *sim) { s.armed = []string{"record rollback", "traffic rollback"}[s.rand.IntN(2)] }},
		{"clock", 30 * time.Hour, (*sim).setClock},
		{"api", 40 * time.Hour, breaks("api", 5*time.Second, 5*time.Minute)},
		{"prometheus", 30 * time.Hour, breaks("prometheus", time.Minute, time.Hour)},
		{"chain", 40 * time.Hour, breaks("chain", 3*time.Minute, 30*time.Minute)},
		{"gate", 24 * time.Hour, breaks("gate", time.Minute, 2*time.Hour)},
		{"rules", 24 * time.Hour, breaks("rules", time.Minute, 2*time.Hour)},
		{"quiet", 12 * time.Hour, func(s *sim) {
			breaks("quiet", 10*time.Minute, 4*time.Hour)(s)
			s.flow()
			s.agenda["noise"] = s.until["quiet"]
		}},
		{"stable", 50 * time.Hour, func(s *sim) {
			s.w.stable = 0
			s.touch()
			in(s, "stable is back", time.Minute, 10*time.Minute)
		}},
		{"autoscaler", 8 * time.Hour, func(s *sim) {
			if !s.noStable() {
				s.w.stable = 1 + s.rand.IntN(6)
				s.touch()
			}
		}},
		{"vanish", 30 * time.Hour, func(s *sim) { s.vanish(); in(s, "pods are back", 10*time.Second, 5*time.Minute) }},
		// What follows from others.
		{"elect", 0, func(s *sim) { s.lead = s.rand.IntN(2); s.touch() }},
		{"go on", 0, func(s *sim) {
			if s.annotate(false); s.record().Status.Paused != nil || s.pausing() {
				s.request(decision.RequestResume)
				in(s, "go on", 5*time.Minute, 6*time.Minute) // somebody's wish may have taken its place
			}
		}},
		{"arm", 0, func(s *sim) { s.request(decision.RequestArm) }},
		{"noise", 0, (*sim).flow},
		{"stable is back", 0, func(s *sim) { s.w.stable = 2; s.touch() }},
		{"pods are back", 0, (*sim).comeBack},
		{"roll", 0, (*sim).roll},
		{"degrade", 0, func(s *sim) {
			if !s.bad || s.is().Clean() {
				return
			}
			s.alert(decision.ActionRollback, s.between(2*time.Minute, 10*time.Minute))
			switch s.rand.IntN(10) { // troubles come together
			case 0:
				s.w.stable = 0
				s.touch()
				in(s, "stable is back", 10*time.Second, 5*time.Minute)
			case 1:
				breaks("api", 5*time.Second, time.Minute)(s)
			}
		}},
	}
}

func newSim(t *testing.T, seed uint64) *sim {
	// A bubble begins on a Saturday, and a week on a Monday: of the bubble's own time, none passes outside.
	time.Sleep(48 * time.Hour)
	s := &sim{t: t, seed: seed, rand: rand.New(rand.NewPCG(seed, 5)), tally: newTally(), agenda: map[string]time.Time{}, firing: map[string]decision.Alert{}, //nolint:gosec // a seed is what it needs
		ends: map[string]time.Time{}, until: map[string]time.Time{}, baton: make(chan struct{}, 1), over: make(chan struct{})}
	s.begin = s.now()
	s.beat = s.begin
	modes := []decision.PromotionMode{decision.PromotionAuto, decision.PromotionAuto, decision.PromotionAuto, decision.PromotionAuto, decision.PromotionAuto, decision.PromotionAuto, decision.PromotionManual, decision.PromotionOff}
	s.rate = []float64{0.5, 5, 100}[s.rand.IntN(3)]
	s.guard = decision.Guard{Name: "orders-service", Namespace: testNamespace, VirtualServices: []string{"orders-service"}, DestinationRule: "orders-service",
		Stable: virtualservice.Ref{Subset: "v1"}, Canary: virtualservice.Ref{Subset: "v2"},
		Rollback: decision.Rollback{Lock: decision.LockBuild, Window: 30 * time.Minute, MinReadyStable: 1, MatchRoutes: true, Mirrors: true},
		Promotion: decision.Promotion{Mode: modes[s.rand.IntN(len(modes))], MinRequests: 100, Closed: noStepsOnFriday,
			Steps: []decision.Step{{Weight: 10, Interval: 5 * time.Minute}, {Weight: 30, Interval: 5 * time.Minute, Bake: 10 * time.Minute}, {Weight: 50, Interval: 20 * time.Minute}, {Weight: 100, Interval: 5 * time.Minute}}},
		AlertWindow: 6 * time.Minute, HeartbeatMaxAge: 3 * time.Minute}
	s.shape()
	s.truth = newTruth(s.begin)
	for i := range s.r {
		s.r[i] = &simReplica{cache: &world{}, wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1)}
	}
	s.apply([]int{0, 0, 10, 100}[s.rand.IntN(4)])
	for _, r := range s.r {
		s.start(r)
	}
	s.truth.begun, s.truth.full = false, s.begin.Add(-time.Hour)
	for _, k := range simKinds() {
		s.plan(k)
	}
	if s.rand.IntN(2) == 0 {
		delete(s.agenda, "clock") // whose clocks are right has no excuse
	}
	return s
}

// shape draws what the release is: what runs the canary's pods, and how the routes
// tell the versions apart.
func (s *sim) shape() {
	kinds := []string{"", "", "", ownedByStatefulSet, ownedByDaemonSet, ownedByRollout}
	all := []routes{routesSplit, routesSplit, routesSplit, routesSplit, routesThree, routesThree, routesHosts, routesHosts, routesTesters}
	s.routes = all[s.rand.IntN(len(all))]
	s.w = &world{template: 1, made: map[int]time.Time{1: s.begin.Add(-time.Hour)}, pods: []int{1, 1}, stable: 2,
		kind: kinds[s.rand.IntN(len(kinds))], byHost: s.routes == routesHosts}
	if s.w.kind == "" && s.rand.IntN(3) == 0 { // two Deployments behind one subset
		s.w.twin, s.w.made[2], s.w.pods, s.w.lives = 2, s.w.made[1], []int{1, 1, 2}, []life{{}, {}, {twin: true}}
	}
	s.guard.Rollback.Capacity = []float64{0, 0.8}[s.rand.IntN(2)]
	if s.w.byHost {
		s.guard.Stable, s.guard.Canary = virtualservice.Ref{Host: "orders-v1"}, virtualservice.Ref{Host: "orders-v2"}
	}
}

// noStepsOnFriday after 16:00, nor at the weekend.
func noStepsOnFriday(now time.Time) string {
	switch now = now.UTC(); {
	case now.Weekday() == time.Friday && now.Hour() >= 16, now.Weekday() == time.Saturday, now.Weekday() == time.Sunday:
		return "no steps from Friday 16:00 on"
	}
	return ""
}

// now is the true time, by a clock on the wall.
func (s *sim) now() time.Time { return time.Now().UTC() }

func (s *sim) between(least, most time.Duration) time.Duration {
	return least + time.Duration(s.rand.Int64N(int64(most-least)))
}

func (s *sim) plan(k kind) {
	if k.every > 0 {
		s.agenda[k.name] = s.now().Add(time.Duration(s.rand.ExpFloat64() * float64(k.every)))
	}
}

func (s *sim) broken(what string) bool { return s.now().Before(s.until[what]) }

// take waits for the baton.
func (s *sim) take() {
	s.baton <- struct{}{}
	s.observe()
}

func (s *sim) lay() {
	s.observe()
	<-s.baton
}

// answers lets the others go on while r waits for an answer, and says whether
// it has waited for it. From questions about what fires it is called away by an
// alert.
func (s *sim) answers(mean time.Duration, hurry <-chan struct{}) bool {
	wait := min(time.Duration(s.rand.ExpFloat64()*float64(mean)), 10*time.Second) + 1
	s.lay()
	defer s.take()
	select {
	case <-time.After(wait):
		return true
	case <-hurry:
		return false
	}
}

// start is a replica's process that begins: it remembers nothing.
func (s *sim) start(r *simReplica) {
	clock := func() time.Time { return s.now().Add(r.offset) }
	*r.cache = *s.w.copy()
	r.known, r.listed, r.began = map[string]decision.Alert{}, time.Time{}, s.now()
	s.look(r, s.between(0, time.Second))
	down := func() error {
		if s.broken("api") {
			return errAPI
		}
		return nil
	}
	store := &worldStore{w: s.w, now: clock,
		before: func(write string) error {
			r.sent = s.now()
			s.meddle(r, write)
			return errors.Join(down(), s.kills(r, write, "before"))
		},
		after: func(write string) error { s.written(r, write); return s.kills(r, write, "after") },
		check: func(before, after *unstructured.Unstructured, _ string) { s.checkWrite(r, before, after) }}
	live := simReader{worldReader{world: s.w, saw: &r.saw}, func() error { r.read = s.now(); return down() }}
	told := simStore{store, func(record decision.Record) { r.writes = record }}
	r.rec = &reconciler{cached: worldReader{world: r.cache, saw: &r.saw}, live: live, store: told, user: func() string { return guardianUser }, now: clock, watch: newDwellTimes(), known: newTrafficCache(), past: records.NewHistories(), domain: virtualservice.DefaultDomain,
		leads: func() bool { r.led, r.ledAt = s.lead >= 0 && s.r[s.lead] == r, s.now(); return r.led },
		heartbeat: func(context.Context) (time.Time, error) {
			var others []coordinationv1.Lease
			for _, x := range s.r {
				others = append(others, coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{records.AnnotationHeartbeat: decision.Stamp(x.beat)}}})
			}
			return records.NewestHeartbeat(others, r.beat, clock()), nil
		},
		forward: func(_ context.Context, x snapshot) (decision.Forward, []decision.Alert) {
			if !s.answers(100*time.Millisecond, r.hurry) || s.broken("prometheus") {
				return decision.Forward{Err: "Prometheus does not answer"}, nil
			}
			return decision.Forward{Requests: coarse(s.requests(clock().Sub(x.input.CountSince(clock())))), Gaps: s.gaps(), Gates: []decision.Gate{{Name: "slo", Open: !s.broken("gate"), Why: "0"}}}, slices.Collect(maps.Values(s.firing))
		},
		count: func(_ context.Context, x snapshot) decision.Count {
			known := s.answers(50*time.Millisecond, r.hurry) && !s.broken("prometheus")
			return decision.Count{Known: known, Requests: coarse(s.requests(clock().Sub(x.input.CountSince(clock())))), Gaps: s.gaps()}
		},
		changed: func(context.Context, decision.Guard, snapshot, decision.Decision) {},
	}
}

// gaps are what Prometheus lacks of the guard's rules.
func (s *sim) gaps() decision.Gaps {
	if s.broken("rules") {
		return decision.Gaps{Rules: "Prometheus has not loaded them"}
	}
	return decision.Gaps{}
}

// simStore hears of a record before it is on its way.
type simStore struct {
	*worldStore
	writes func(decision.Record)
}

func (t simStore) writeRecord(ctx context.Context, guard string, old *corev1.ConfigMap, r decision.Record) (*corev1.ConfigMap, error) {
	t.writes(r)
	return t.worldStore.writeRecord(ctx, guard, old, r)
}

// simReader is the API server itself.
type simReader struct {
	worldReader
	asked func() error
}

func (r simReader) record(ctx context.Context, guard string) (*corev1.ConfigMap, error) {
	if err := r.asked(); err != nil {
		return nil, err
	}
	return r.worldReader.record(ctx, guard)
}

// requests are the canary's in the last d.
func (s *sim) requests(d time.Duration) int64 {
	sum := func(t time.Time) float64 {
		for _, f := range slices.Backward(s.traffic) {
			if !f.from.After(t) {
				return f.before + f.rate*t.Sub(f.from).Seconds()
			}
		}
		return 0
	}
	return int64(sum(s.now()) - sum(s.now().Add(-d)))
}

// coarse is a count of which only the part that a step may wait for is exact. Of
// each new number the record is written, which has everybody look again: nearly
// all looks would be for numbers that nothing depends on.
func coarse(n int64) int64 {
	if n < 200 {
		return n
	}
	return 1 << (bits.Len64(uint64(n)) - 1) //nolint:gosec // not negative
}

// flow begins anew when the canary's rate of requests changes.
func (s *sim) flow() {
	f := flow{from: s.now()}
	if n := len(s.traffic); n > 0 {
		last := s.traffic[n-1]
		f.before = last.before + last.rate*f.from.Sub(last.from).Seconds()
	}
	if !s.broken("quiet") {
		f.rate = s.rate * float64(s.is().Weight) / 100
	}
	s.traffic = append(s.traffic, f)
}

// look has a replica look at its guard after a while, or earlier.
func (s *sim) look(r *simReplica, wait time.Duration) {
	if t := s.now().Add(wait); t.Before(r.next) || r.next.IsZero() {
		r.next = t
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

// touch has the watches of both replicas tell of a change.
func (s *sim) touch() {
	for _, r := range s.r {
		s.look(r, s.between(0, simLag))
	}
}

func (s *sim) pair() virtualservice.Pair {
	p := virtualservice.Pair{Stable: s.guard.Stable, Canary: s.guard.Canary, Namespace: testNamespace}
	if !s.w.byHost {
		p.Host = "orders-service"
	}
	return p
}

// apply is CI's kubectl apply.
func (s *sim) apply(weight int) {
	u := &unstructured.Unstructured{Object: manifestFor(s.routes, weight)}
	was := virtualservice.Traffic{}
	if s.w.vs != nil {
		was = s.is()
		u.SetAnnotations(s.w.vs.GetAnnotations())
		u.SetManagedFields(s.w.vs.GetManagedFields())
	}
	u.SetResourceVersion(s.w.next())
	s.w.vs = u
	s.tally.moves++
	s.moved(was)
}

// moved takes note of a change of weights by anybody.
func (s *sim) moved(was virtualservice.Traffic) {
	if is := s.is(); is.Weight != was.Weight || is.Lowest != was.Lowest || is.CanaryOnly != was.CanaryOnly && s.routes == routesTesters {
		s.flow()
		s.truth.moved(s, was, is)
		if was.Weight == 0 && s.bad {
			s.agenda["degrade"] = s.now().Add(s.between(time.Minute, time.Hour))
		}
	}
	s.touch()
}

func (s *sim) annotate(pause bool) {
	u := s.w.vs.DeepCopy()
	a := u.GetAnnotations()
	if delete(a, decision.AnnotationPaused); pause {
		a[decision.AnnotationPaused] = "true"
	}
	u.SetAnnotations(a)
	u.SetResourceVersion(s.w.next())
	s.w.vs = u
	s.touch()
}

func (s *sim) request(action decision.RequestAction) { s.ask(decision.Request{Action: action}) }

func (s *sim) ask(q decision.Request) {
	if s.w.cm == nil {
		return
	}
	cm := s.w.cm.DeepCopy()
	q.By, q.Reason, q.At = "ann", "because", s.now()
	ask(cm, q)
	cm.ResourceVersion = s.w.next()
	s.w.cm = cm
	s.asked = s.asked || q.Action == decision.RequestPromote
	s.touch()
}

// build rolls out a new build, or one that was there before.
func (s *sim) build() {
	if s.is().Weight == 100 && s.rand.IntN(5) > 0 { // what the guide says to do for the next release
		s.apply(0)
	}
	which := 0 // of two Deployments the first, the second, or both
	if s.w.twin != 0 {
		which = s.rand.IntN(3)
	}
	if which != 1 {
		s.w.template = s.newTemplate(s.w.template)
	}
	if which != 0 {
		s.w.twin = s.newTemplate(s.w.twin)
	}
	s.bad = s.rand.IntN(4) == 0
	s.truth.builds(s)
	s.tally.builds++
	s.agenda["roll"] = s.now().Add(s.between(20*time.Second, 2*time.Minute))
	s.touch()
}

// newTemplate is one that is new, or another that was there before.
func (s *sim) newTemplate(is int) int {
	n := len(s.w.made) + 1
	if back := 1 + s.rand.IntN(len(s.w.made)); s.rand.IntN(10) == 0 && back != is {
		return back
	}
	s.w.made[n] = s.now()
	return n
}

// roll has one more pod of the present build ready.
func (s *sim) roll() {
	for i, p := range s.w.pods {
		if p != s.w.wants(i) {
			s.w.pods = slices.Clone(s.w.pods)
			s.truth.replaced[s.w.pods[i]] = s.now()
			s.w.pods[i] = s.w.wants(i)
			s.truth.rolled = s.now()
			s.agenda["roll"] = s.now().Add(s.between(20*time.Second, 2*time.Minute))
			break
		}
	}
	s.touch()
}

// vanish takes the canary's pods away, as with the nodes that they are on.
func (s *sim) vanish() {
	s.truth.halfway = s.truth.halfway || len(s.w.pods) > 0 && s.w.rollingOut()
	for _, p := range s.w.pods {
		s.truth.replaced[p] = s.now()
	}
	s.w.pods, s.w.lives = nil, nil
	s.touch()
}

// comeBack has the canary's pods be on other nodes, of the present build.
func (s *sim) comeBack() {
	s.w.pods = []int{s.w.template, s.w.template}
	if s.w.twin != 0 {
		s.w.pods, s.w.lives = append(s.w.pods, s.w.twin), []life{{}, {}, {twin: true}}
	}
	if s.truth.halfway { // else they are what was there before
		s.truth.rolled, s.truth.halfway = s.now(), false
	}
	s.touch()
}

// alert begins and is delivered to one replica, or to both.
func (s *sim) alert(action decision.Action, length time.Duration) {
	s.tally.alerts++
	n := s.tally.alerts
	a := decision.Alert{Name: fmt.Sprint("Alert", n), Signal: "error_rate", Fingerprint: fmt.Sprint("f", n), StartsAt: s.now(), Action: action}
	s.firing[a.Episode()], s.ends[a.Episode()] = a, s.now().Add(length)
	s.truth.alerts[a.Name] = a
	hears := s.rand.IntN(3)
	for i, r := range s.r {
		if hears == 2 || hears == i {
			r.known[a.Episode()] = a
			s.look(r, s.between(0, 100*time.Millisecond))
			select {
			case r.hurry <- struct{}{}:
			default:
			}
		}
	}
}

func (s *sim) setClock() {
	s.hear()
	r := s.r[s.rand.IntN(2)]
	r.offset = []time.Duration{0, time.Hour, -time.Hour, 40 * time.Second, -40 * time.Second, 26 * time.Hour}[s.rand.IntN(6)]
	s.tally.clocks++
}

// hear delivers heartbeats, one every 65 s to one of the replicas.
func (s *sim) hear() {
	const every = 65 * time.Second
	n := s.now().Sub(s.begin) / every
	at := s.begin.Add(n * every)
	if !at.After(s.beat) || at.Before(s.until["chain"]) {
		return
	}
	s.beat = at
	r := s.r[n%2]
	r.beat = at.Add(r.offset)
}

// meddle is what happens while a write is on its way.
func (s *sim) meddle(r *simReplica, write string) {
	if write == "traffic" {
		switch s.rand.IntN(40) {
		case 0:
			s.apply([]int{0, 20, 50}[s.rand.IntN(3)])
		case 1: // the other replica may hear of it, and be faster
			s.alert(decision.ActionRollback, s.between(time.Minute, 10*time.Minute))
		case 2:
			s.lead = s.rand.IntN(2)
		case 3:
			s.annotate(true)
			s.agenda["go on"] = s.now().Add(s.between(time.Minute, 10*time.Minute))
		case 4:
			s.until["api"] = s.now().Add(s.between(0, 10*time.Second))
		}
	}
	s.answers(20*time.Millisecond, nil)
}

// written is what follows from a write.
func (s *sim) written(r *simReplica, write string) {
	if write == "record" {
		s.told(r.writes)
		s.touch()
	}
}

// kills ends a replica's process right before or after the write that somebody
// has chosen.
func (s *sim) kills(r *simReplica, write, when string) error {
	what, ok := strings.CutPrefix(s.armed, write+" ")
	if !ok || (when == "before") != (s.seed%2 == 0 && write == "traffic") {
		return nil
	}
	e := s.record().Status.Moving
	if e == nil || (what == "step") != (e.Step > 0) || what == "step" && !r.led {
		return nil
	}
	s.armed = ""
	if s.lead >= 0 && s.r[s.lead] == r {
		s.lead = -1
		s.agenda["elect"] = s.now().Add(simLeadGap)
	}
	s.tally.kills++
	return errCrash
}

// pass is one look of a replica.
func (s *sim) pass(r *simReplica) {
	s.hear()
	s.tally.passes++
	r.next = time.Time{}
	select {
	case <-r.hurry:
	default:
	}
	if now := s.now(); now.Sub(r.listed) >= time.Minute && !s.broken("prometheus") {
		r.known, r.listed = maps.Clone(s.firing), now
	}
	late := s.rand.IntN(5) == 0
	r.catchUp(s.w.copy(), func() bool { return !late || s.rand.IntN(3) == 0 })
	out, err := r.rec.reconcile(context.Background(), s.guard, slices.Collect(maps.Values(r.known)))
	wait := simResync
	switch q := out.decision.Requeue; {
	case errors.Is(err, errCrash):
		s.start(r)
		return
	case errors.Is(err, errConflict):
		s.tally.conflicts++
		wait = time.Second
	case errors.Is(err, errAPI):
		wait = time.Second
	case err != nil:
		s.fail("pass: %v", err)
	case q == decision.PollCount, q == decision.PollForward:
		wait = simPoll
	case q > 0:
		wait = min(wait, q)
	}
	if late {
		wait = min(wait, simLag)
	}
	s.look(r, wait+s.between(0, 100*time.Millisecond))
}

// catchUp brings the cache up to date. Each kind of object has a watch of its
// own.
func (r *simReplica) catchUp(now *world, told func() bool) {
	c := r.cache
	c.version = now.version
	if told() {
		c.cm = now.cm
	}
	if told() {
		c.vs = now.vs
	}
	if told() {
		c.template, c.twin, c.pods, c.lives, c.made = now.template, now.twin, now.pods, now.lives, now.made
	}
	if told() {
		c.stable = now.stable
	}
}

// run lives through the week.
func (s *sim) run() {
	var wg sync.WaitGroup
	for _, r := range s.r {
		wg.Go(func() { s.live(r) })
	}
	kinds := map[string]kind{}
	for _, k := range simKinds() {
		kinds[k.name] = k
	}
	end := s.begin.Add(simLength)
	for {
		s.take()
		next, what := s.now().Add(time.Minute), "" // what has become true by itself is to be noticed
		for name, t := range s.agenda {
			if t.Before(next) || t.Equal(next) && name < what {
				next, what = t, name
			}
		}
		for e, t := range s.ends {
			if t.Before(next) || t.Equal(next) && e < what {
				next, what = t, e
			}
		}
		done := s.wrong || !next.Before(end)
		s.lay()
		if done {
			break
		}
		time.Sleep(time.Until(next))
		s.take()
		s.happens(what, kinds)
		s.lay()
	}
	close(s.over)
	wg.Wait()
}

func (s *sim) happens(what string, kinds map[string]kind) {
	if k, ok := kinds[what]; ok && !s.agenda[what].After(s.now()) {
		delete(s.agenda, what)
		s.plan(k)
		k.do(s)
	}
	if t, ok := s.ends[what]; ok && !t.After(s.now()) {
		delete(s.firing, what)
		delete(s.ends, what)
		s.touch()
	}
}

// live is a replica's life.
func (s *sim) live(r *simReplica) {
	for {
		s.take()
		if !r.next.After(s.now()) {
			s.pass(r)
		}
		wait := time.After(time.Until(r.next))
		s.lay()
		select {
		case <-wait:
		case <-r.wake:
		case <-s.over:
			return
		}
	}
}

// TestASimulatedWeekTakesNoStepWithoutItsConditions lives through a week of
// many guards. GUARDIAN_SIM says of how many; make week takes 1000.
// -run SimulatedWeek/all/17 is the 17th alone.
func TestASimulatedWeekTakesNoStepWithoutItsConditions(t *testing.T) {
	guards := weeks
	if testing.Short() {
		guards = min(guards, 8)
	}
	if text := os.Getenv("GUARDIAN_SIM"); text != "" {
		var err error
		if guards, err = strconv.Atoi(text); err != nil {
			t.Fatalf("GUARDIAN_SIM %q: want a number of guards", text)
		}
	}
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // it makes much, and keeps little
	began, all, lived := time.Now(), newTally(), 0
	var mu sync.Mutex
	t.Run("all", func(t *testing.T) {
		for i := range guards {
			t.Run(strconv.Itoa(i+1), func(t *testing.T) {
				t.Parallel()
				var s *sim
				synctest.Test(t, func(t *testing.T) {
					s = newSim(t, uint64(i+1)) //nolint:gosec // small
					s.run()
				})
				mu.Lock()
				defer mu.Unlock()
				all.add(s.tally)
				lived++
			})
		}
	})
	t.Logf("%d guards, a week each, in %s: %d looks, %d builds, %d alerts, %d changes by CI, %d kills, %d clocks set, %d times given up for conflicts",
		lived, time.Since(began).Round(time.Second), all.passes, all.builds, all.alerts, all.moves, all.kills, all.clocks, all.conflicts)
	t.Logf("%d steps (%d by hand) written %d times, %d rollbacks (blocked %d times), traffic taken back %d times, a rollback due for at most %s (%s where a clock was wrong), %d locks lifted, %d times promoted, %d times completed",
		all.steps, all.byHand, all.raised, all.rollbacks, all.blocked, all.lowered, all.longest.Round(time.Millisecond), all.misled.Round(time.Millisecond), all.lifted, all.promoted, all.completed)
	for _, w := range decision.Waits {
		t.Logf("waited for %s: told %d times, stated for %s in all", w, all.waits[w], all.stated[w].Round(time.Minute))
	}
	if lived < 16 || t.Failed() {
		return
	}
	if all.steps < 5*lived || all.promoted < lived || all.completed < lived/2 || all.rollbacks < lived || all.kills == 0 || all.lifted < lived/2 {
		t.Error("too little happens for this to show anything")
	}
	for _, w := range decision.Waits {
		if w != decision.WaitVirtualService && w != decision.WaitFirstSight && w != decision.WaitLease && all.stated[w] == 0 {
			t.Errorf("nobody ever waited for %s", w)
		}
	}
}

package remediate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// The simulated week: each guard has a cluster of its own in memory, two
// replicas with clocks of their own, and a clock of the world that only the
// simulation knows. What guardian writes is held against that world, not
// against guardian's record of it.

const (
	simLength  = 7 * 24 * time.Hour
	simLag     = 2 * time.Second // after which a watch has told a replica of a change, at most
	simResync  = 10 * time.Minute
	simPoll    = 2 * time.Minute  // instead of pollCount and pollForward: a week is long
	simLeadGap = 15 * time.Second // without a lease holder after one was killed
)

var simStart = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC) // a Monday

// tally is what happened in a simulation.
type tally struct {
	passes, steps, byHand, rollbacks, promoted, baked int
	builds, alerts, kills, clocks, moves              int
	raised                                            int
	waits                                             map[Wait]int
}

func (a *tally) add(b tally) {
	a.passes, a.steps, a.byHand, a.rollbacks = a.passes+b.passes, a.steps+b.steps, a.byHand+b.byHand, a.rollbacks+b.rollbacks
	a.promoted, a.baked, a.builds, a.alerts = a.promoted+b.promoted, a.baked+b.baked, a.builds+b.builds, a.alerts+b.alerts
	a.kills, a.clocks, a.moves = a.kills+b.kills, a.clocks+b.clocks, a.moves+b.moves
	a.raised += b.raised
	for k, n := range b.waits {
		a.waits[k] += n
	}
}

// simReplica is one guardian of the simulation.
type simReplica struct {
	offset time.Duration // its clock less the world's
	cache  *world
	rec    *reconciler
	known  map[string]Alert // firing, as far as it has heard
	listed time.Time        // when it last asked what fires
	beat   time.Time        // when it last heard the heartbeat, by its clock
	next   time.Time        // when it looks next
	saw    *world
}

// sim is one guard's week.
type sim struct {
	seed  uint64
	rand  *rand.Rand
	now   time.Time
	guard Guard
	w     *world
	r     [2]*simReplica
	lead  int // index of the lease holder; -1: nobody holds it
	tally tally
	wrong []string // what must not be

	agenda  map[string]time.Time // when the next event of each kind is
	firing  map[string]Alert     // by Alertmanager
	over    map[string]time.Time // when each of them ends
	until   map[string]time.Time // when what is broken works again
	beat    time.Time            // the last heartbeat that any replica has heard
	rate    float64              // requests a second at 100%
	traffic []flow
	movedAt time.Time // last change of weights by anybody
	built   time.Time // when the present build appeared
	rolled  time.Time // when the last of its pods became ready
	bad     bool      // the present build degrades under traffic
	begun   bool      // the present build was not there at first sight, or somebody has begun with it
	asked   bool      // a person's promote is under way
	armed   string    // the write of a step after which the lease holder is killed
	meddled bool      // an alert began, or CI wrote, inside this pass
	nested  bool
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
		return func(s *sim) { s.until[what] = s.now.Add(s.between(least, most)) }
	}
	return []kind{
		{"build", 10 * time.Hour, (*sim).build},
		{"hold", 18 * time.Hour, func(s *sim) { s.alert(ActionHold, s.between(time.Minute, 20*time.Minute)) }},
		{"false alarm", 80 * time.Hour, func(s *sim) { s.alert(ActionRollback, s.between(time.Minute, 10*time.Minute)) }},
		{"ci", 30 * time.Hour, func(s *sim) { s.apply([]int{0, 10, 20, 30, 50, 70, 100}[s.rand.IntN(7)]) }},
		{"pause", 60 * time.Hour, func(s *sim) { s.annotate(true); s.agenda["go on"] = s.now.Add(s.between(time.Minute, time.Hour)) }},
		{"promote", 40 * time.Hour, func(s *sim) { s.request(RequestPromote) }},
		{"unlock", 60 * time.Hour, func(s *sim) { s.request(RequestUnlock) }},
		{"lease", 12 * time.Hour, func(s *sim) { s.lead = 1 - max(0, s.lead); s.touch() }},
		{"kill", 12 * time.Hour, func(s *sim) { s.armed = []string{"record", "traffic"}[s.rand.IntN(2)] }},
		{"clock", 30 * time.Hour, (*sim).setClock},
		{"prometheus", 30 * time.Hour, breaks("prometheus", time.Minute, time.Hour)},
		{"chain", 40 * time.Hour, breaks("chain", 3*time.Minute, 30*time.Minute)},
		{"gate", 24 * time.Hour, breaks("gate", time.Minute, 2*time.Hour)},
		{"quiet", 12 * time.Hour, func(s *sim) {
			breaks("quiet", 10*time.Minute, 4*time.Hour)(s)
			s.flow()
			s.agenda["noise"] = s.until["quiet"]
		}},
		{"stable", 50 * time.Hour, func(s *sim) {
			s.w.stable = 0
			s.touch()
			s.agenda["stable is back"] = s.now.Add(s.between(time.Minute, 10*time.Minute))
		}},
		// What follows from others.
		{"elect", 0, func(s *sim) { s.lead = s.rand.IntN(2); s.touch() }},
		{"go on", 0, func(s *sim) { s.annotate(false) }},
		{"noise", 0, (*sim).flow},
		{"stable is back", 0, func(s *sim) { s.w.stable = 2; s.touch() }},
		{"roll", 0, (*sim).roll},
		{"degrade", 0, func(s *sim) {
			if s.bad && s.is().Weight > 0 {
				s.alert(ActionRollback, s.between(2*time.Minute, 10*time.Minute))
			}
		}},
	}
}

func newSim(seed uint64) *sim {
	s := &sim{seed: seed, rand: rand.New(rand.NewPCG(seed, 5)), now: simStart, agenda: map[string]time.Time{}, firing: map[string]Alert{}, over: map[string]time.Time{}, //nolint:gosec // a seed is what it needs
		until: map[string]time.Time{}, beat: simStart, movedAt: simStart, built: simStart, tally: tally{waits: map[Wait]int{}}}
	modes := []PromotionMode{PromotionAuto, PromotionAuto, PromotionAuto, PromotionAuto, PromotionAuto, PromotionAuto, PromotionManual, PromotionOff}
	s.rate = []float64{0.5, 5, 100}[s.rand.IntN(3)]
	s.guard = Guard{Name: "orders-service", Namespace: testNamespace, VirtualServices: []string{"orders-service"}, DestinationRule: "orders-service",
		Stable: Ref{Subset: "v1"}, Canary: Ref{Subset: "v2"},
		Rollback: Rollback{Lock: LockBuild, Window: 30 * time.Minute, MinReadyStable: 1, MatchRoutes: true, Mirrors: true},
		Promotion: Promotion{Mode: modes[s.rand.IntN(len(modes))], MinRequests: 100, Closed: noStepsOnFriday,
			Steps: []Step{{Weight: 10, Interval: 5 * time.Minute}, {Weight: 30, Interval: 5 * time.Minute, Bake: 10 * time.Minute}, {Weight: 50, Interval: 20 * time.Minute}, {Weight: 100, Interval: 5 * time.Minute}}},
		AlertWindow: 6 * time.Minute, HeartbeatMaxAge: 3 * time.Minute}
	s.w = &world{template: 1, made: map[int]time.Time{1: simStart.Add(-time.Hour)}, pods: []int{1, 1}, stable: 2}
	for i := range s.r {
		s.r[i] = &simReplica{cache: &world{}}
	}
	s.apply([]int{0, 0, 10, 100}[s.rand.IntN(4)])
	for _, r := range s.r {
		s.start(r)
	}
	s.begun = false
	for _, k := range simKinds() {
		s.plan(k)
	}
	return s
}

// noStepsOnFriday after 16:00, nor at the weekend.
func noStepsOnFriday(now time.Time) string {
	switch now = now.UTC(); {
	case now.Weekday() == time.Friday && now.Hour() >= 16, now.Weekday() == time.Saturday, now.Weekday() == time.Sunday:
		return "no steps from Friday 16:00 on"
	}
	return ""
}

func (s *sim) between(least, most time.Duration) time.Duration {
	return least + time.Duration(s.rand.Int64N(int64(most-least)))
}

func (s *sim) plan(k kind) {
	if k.every > 0 {
		s.agenda[k.name] = s.now.Add(time.Duration(s.rand.ExpFloat64() * float64(k.every)))
	}
}

func (s *sim) broken(what string) bool { return s.now.Before(s.until[what]) }

// start is a replica's process that begins: it remembers nothing.
func (s *sim) start(r *simReplica) {
	clock := func() time.Time { return s.now.Add(r.offset) }
	watch := newStopwatch()
	watch.elapsed = func() time.Duration { return s.now.Sub(simStart) } // nobody sets it
	*r.cache = *s.w.copy()
	r.known, r.listed, r.next = map[string]Alert{}, time.Time{}, s.now
	store := &worldStore{w: s.w, now: clock, before: func(write string) error { return s.before(r, write) }, after: func(write string) error { return s.after(r, write) },
		check: func(before, after *unstructured.Unstructured, _ string) { s.check(r, before, after) }}
	r.rec = &reconciler{cached: worldReader{world: r.cache, saw: &r.saw}, live: worldReader{world: s.w, saw: &r.saw}, store: store, now: clock, watch: watch, known: newHistories(), domain: defaultDomain,
		leads: func() bool { return s.leads(r) },
		heartbeat: func(context.Context) (time.Time, error) {
			var others []coordinationv1.Lease
			for _, x := range s.r {
				others = append(others, coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{AnnotationHeartbeat: stamp(x.beat)}}})
			}
			return newestOf(others, r.beat, clock()), nil
		},
		forward: func(_ context.Context, x snapshot) (Forward, []Alert) {
			if s.broken("prometheus") {
				return Forward{Err: "Prometheus does not answer"}, nil
			}
			return Forward{Requests: s.requests(clock().Sub(x.input.movedAt(clock()))), Gates: []Gate{{Name: "slo", Open: !s.broken("gate"), Why: "0"}}}, slices.Collect(maps.Values(s.firing))
		},
		count: func(_ context.Context, x snapshot) Count {
			return Count{Known: !s.broken("prometheus"), Requests: s.requests(clock().Sub(x.input.movedAt(clock())))}
		},
		changed: func(_ Guard, _ snapshot, d Decision) { s.told(d) },
	}
}

func (s *sim) leads(r *simReplica) bool { return s.lead >= 0 && s.r[s.lead] == r }

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
	return int64(sum(s.now) - sum(s.now.Add(-d)))
}

// flow begins anew when the canary's rate of requests changes.
func (s *sim) flow() {
	f := flow{from: s.now}
	if n := len(s.traffic); n > 0 {
		last := s.traffic[n-1]
		f.before = last.before + last.rate*s.now.Sub(last.from).Seconds()
	}
	if !s.broken("quiet") {
		f.rate = s.rate * float64(s.is().Weight) / 100
	}
	s.traffic = append(s.traffic, f)
}

// touch has the watches of both replicas tell of a change.
func (s *sim) touch() {
	for _, r := range s.r {
		if t := s.now.Add(s.between(0, simLag)); r.next.After(t) {
			r.next = t
		}
	}
}

func (s *sim) is() Traffic {
	t, err := Inspect(s.w.vs.Object, s.pair(), s.guard.Rollback.options())
	if err != nil {
		s.fail("inspect: %v", err)
	}
	return t
}

func (s *sim) pair() Pair {
	return Pair{Stable: s.guard.Stable, Canary: s.guard.Canary, Host: "orders-service", Namespace: testNamespace}
}

// record is the record but for its history.
func (s *sim) record() Record {
	if s.w.cm == nil {
		return Record{}
	}
	r, err := parseRecord(s.w.cm)
	if err != nil {
		s.fail("read record: %v", err)
	}
	return r
}

func (s *sim) fail(format string, args ...any) {
	s.wrong = append(s.wrong, fmt.Sprintf("seed %d, %s: ", s.seed, s.now.Sub(simStart))+fmt.Sprintf(format, args...))
}

// apply is CI's kubectl apply.
func (s *sim) apply(weight int) {
	u := &unstructured.Unstructured{Object: manifest(weight)}
	was := Traffic{}
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
func (s *sim) moved(was Traffic) {
	is := s.is()
	if is.Weight != was.Weight || is.Lowest != was.Lowest {
		s.movedAt = s.now
		s.flow()
		if is.Weight > was.Weight {
			s.begun = true
		}
		if was.Weight == 0 && s.bad {
			s.agenda["degrade"] = s.now.Add(s.between(time.Minute, time.Hour))
		}
	}
	s.touch()
}

func (s *sim) annotate(pause bool) {
	u := s.w.vs.DeepCopy()
	a := u.GetAnnotations()
	if delete(a, AnnotationPaused); pause {
		a[AnnotationPaused] = "true"
	}
	u.SetAnnotations(a)
	u.SetResourceVersion(s.w.next())
	s.w.vs = u
	s.touch()
}

func (s *sim) request(action RequestAction) {
	b, err := json.Marshal(Request{Action: action, By: "ann", Reason: "because", At: s.now})
	if err != nil || s.w.cm == nil {
		return
	}
	cm := s.w.cm.DeepCopy()
	cm.Data[keyRequest] = string(b)
	cm.ResourceVersion = s.w.next()
	s.w.cm = cm
	s.asked = s.asked || action == RequestPromote
	s.touch()
}

func (s *sim) build() {
	if s.is().Weight == 100 && s.rand.IntN(5) > 0 { // what the guide says to do for the next release
		s.apply(0)
	}
	n := len(s.w.made) + 1
	s.w.made[n], s.w.template = s.now, n
	s.built, s.begun, s.bad = s.now, true, s.rand.IntN(4) == 0
	s.tally.builds++
	s.agenda["roll"] = s.now.Add(s.between(20*time.Second, 2*time.Minute))
	s.touch()
}

// roll has one more pod of the present build ready.
func (s *sim) roll() {
	for i, p := range s.w.pods {
		if p != s.w.template {
			s.w.pods = slices.Clone(s.w.pods)
			s.w.pods[i] = s.w.template
			s.rolled = s.now
			s.agenda["roll"] = s.now.Add(s.between(20*time.Second, 2*time.Minute))
			break
		}
	}
	s.touch()
}

// alert begins and is delivered to one replica, or to both.
func (s *sim) alert(action Action, length time.Duration) {
	s.tally.alerts++
	n := s.tally.alerts
	a := Alert{Name: fmt.Sprint("Alert", n), Signal: "error_rate", Fingerprint: fmt.Sprint("f", n), StartsAt: s.now, Action: action}
	s.firing[a.Episode()], s.over[a.Episode()] = a, s.now.Add(length)
	hears := s.rand.IntN(3)
	for i, r := range s.r {
		if hears == 2 || hears == i {
			r.known[a.Episode()] = a
			r.next = s.now
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
	n := s.now.Sub(simStart) / every
	at := simStart.Add(n * every)
	if !at.After(s.beat) || at.Before(s.until["chain"]) {
		return
	}
	s.beat = at
	r := s.r[n%2]
	r.beat = at.Add(r.offset)
}

// before is what happens in the instant before a write.
func (s *sim) before(r *simReplica, write string) error {
	if write != "traffic" || s.nested {
		return nil
	}
	switch s.rand.IntN(30) {
	case 0:
		s.meddled = true
		s.apply([]int{0, 20, 50}[s.rand.IntN(3)])
	case 1: // an alert in the same instant, and the other replica is faster
		s.meddled = true
		s.alert(ActionRollback, 5*time.Minute)
		other := s.r[0]
		if other == r {
			other = s.r[1]
		}
		maps.Copy(other.known, s.firing)
		s.nested = true
		s.pass(other)
		s.nested = false
	}
	return nil
}

// after is what happens in the instant after a write.
func (s *sim) after(r *simReplica, write string) error {
	if write == "record" {
		s.touch()
	}
	if e := s.record().Status.Expected; s.armed == write && s.leads(r) && e != nil && *e > 0 {
		s.armed, s.lead = "", -1
		s.agenda["elect"] = s.now.Add(simLeadGap)
		s.tally.kills++
		return errCrash
	}
	return nil
}

// pass is one look of a replica.
func (s *sim) pass(r *simReplica) {
	s.hear()
	if !s.nested {
		s.meddled = false
	}
	s.tally.passes++
	if s.now.Sub(r.listed) >= time.Minute && !s.broken("prometheus") {
		r.known, r.listed = maps.Clone(s.firing), s.now
	}
	late := s.rand.IntN(5) == 0
	if !late {
		*r.cache = *s.w.copy()
	}
	before := s.w.vs
	was := s.is()
	out, err := r.rec.reconcile(context.Background(), s.guard, slices.Collect(maps.Values(r.known)))
	if s.w.vs != before && !s.nested {
		s.moved(was)
	}
	switch {
	case errors.Is(err, errCrash):
		s.start(r)
		return
	case errors.Is(err, errConflict):
		r.next = s.now.Add(time.Second)
		return
	case err != nil:
		s.fail("pass: %v", err)
	}
	wait := simResync
	switch q := out.decision.Requeue; q {
	case 0:
	case pollCount, pollForward:
		wait = simPoll
	default:
		wait = min(wait, q)
	}
	if late {
		wait = min(wait, simLag)
	}
	r.next = s.now.Add(wait)
}

// told counts what a replica has written down.
func (s *sim) told(d Decision) {
	for _, e := range d.Added {
		switch e.Event {
		case "step":
			s.tally.steps++
			if e.By != bySchedule {
				s.tally.byHand++
			}
		case "rolled-back":
			s.tally.rollbacks++
		case "promoted":
			s.tally.promoted++
		case "baked":
			s.tally.baked++
		case "waiting":
			s.tally.waits[d.Record.Status.WaitingFor]++
		case "refused", "missed":
			s.asked = false
		}
	}
}

// check holds a write that moves traffic forward against the world.
func (s *sim) check(r *simReplica, before, after *unstructured.Unstructured) {
	inspect := func(u *unstructured.Unstructured) Traffic {
		t, err := Inspect(u.Object, s.pair(), s.guard.Rollback.options())
		if err != nil {
			s.fail("inspect: %v", err)
		}
		return t
	}
	was, is := inspect(before), inspect(after)
	if is.Weight <= was.Weight && is.Lowest <= was.Lowest {
		return
	}
	s.tally.raised++
	rec := s.record()
	rung := slices.IndexFunc(s.guard.Promotion.Steps, func(x Step) bool { return x.Weight > was.Lowest })
	if rung < 0 || is.Weight != s.guard.Promotion.Steps[rung].Weight || is.Lowest != is.Weight {
		s.fail("a step from %d%% to %d%%: not one rung", was.Lowest, is.Weight)
		return
	}
	stale := slices.ContainsFunc(s.w.pods, func(p int) bool { return p != s.w.template })
	for why, wrong := range map[string]bool{
		"without the lease":           !s.leads(r),
		"while locked":                rec.Lock != nil,
		"while an alert fires":        len(s.firing) > 0 && !s.meddled,
		"while paused":                s.w.vs.GetAnnotations()[AnnotationPaused] == "true",
		"without a heartbeat":         s.now.Sub(s.beat) > s.guard.HeartbeatMaxAge+maxSkew,
		"without Prometheus":          s.broken("prometheus"),
		"with a closed gate":          s.broken("gate"),
		"when the calendar is closed": noStepsOnFriday(s.now.Add(r.offset)) != "",
		"without stable":              s.w.stable < 1,
		"in the middle of a rollout":  stale,
	} {
		if wrong {
			s.fail("step to %d%% %s", is.Weight, why)
		}
	}
	if s.asked {
		s.asked = false
		return
	}
	s.checkSchedule(was, is, rung)
}

// checkSchedule is for a step that nobody has asked for.
func (s *sim) checkSchedule(was, is Traffic, rung int) {
	step := s.guard.Promotion.Steps[rung]
	interval := step.Interval
	if rung > 0 {
		interval += s.guard.Promotion.Steps[rung-1].Bake
	}
	nothingYet := was.Weight == 0 && !s.built.Before(s.movedAt)
	stood := s.now.Sub(s.movedAt)
	switch {
	case s.guard.Promotion.Mode != PromotionAuto:
		s.fail("step to %d%% by the schedule in mode %s", is.Weight, s.guard.Promotion.Mode)
	case !s.begun:
		s.fail("step to %d%% of the build of the first sight", is.Weight)
	case was.Weight > 0 && s.now.Sub(s.rolled) < interval-clockTolerance:
		s.fail("step to %d%% when the build was ready for %s, the interval is %s", is.Weight, s.now.Sub(s.rolled), interval)
	case !nothingYet && stood < interval-clockTolerance:
		s.fail("step to %d%% after %s, the interval is %s", is.Weight, stood, interval)
	case was.Weight > 0 && s.requests(stood+2*clockTolerance) < int64(s.guard.Promotion.MinRequests):
		s.fail("step to %d%% after %d requests", is.Weight, s.requests(stood))
	}
}

// run lives through the week.
func (s *sim) run() {
	kinds := map[string]kind{}
	for _, k := range simKinds() {
		kinds[k.name] = k
	}
	for s.now.Before(simStart.Add(simLength)) && len(s.wrong) == 0 {
		next, what := simStart.Add(simLength), ""
		for _, name := range slices.Sorted(maps.Keys(s.agenda)) {
			if s.agenda[name].Before(next) {
				next, what = s.agenda[name], name
			}
		}
		for e, t := range s.over {
			if t.Before(next) || t.Equal(next) && what == "" {
				next, what = t, "over "+e
			}
		}
		var looks *simReplica
		for _, r := range s.r {
			if !r.next.After(next) {
				next, looks = r.next, r
			}
		}
		if s.now = maxTime(s.now, next); looks != nil {
			s.pass(looks)
			continue
		}
		if e, ok := strings.CutPrefix(what, "over "); ok {
			delete(s.firing, e)
			delete(s.over, e)
			s.touch()
			continue
		}
		if k, ok := kinds[what]; ok {
			delete(s.agenda, what)
			s.plan(k)
			k.do(s)
		}
	}
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// TestASimulatedWeekTakesNoStepWithoutItsConditions lives through a week of
// many guards. GUARDIAN_SIM says of how many; 1000 takes some minutes.
func TestASimulatedWeekTakesNoStepWithoutItsConditions(t *testing.T) {
	guards := weeks
	if text := os.Getenv("GUARDIAN_SIM"); text != "" {
		var err error
		if guards, err = strconv.Atoi(text); err != nil {
			t.Fatalf("GUARDIAN_SIM %q: want a number of guards", text)
		}
	}
	if guards == 0 {
		t.Skip("minutes of one goroutine each under the race detector; make test runs it without")
	}
	began := time.Now()
	all := tally{waits: map[Wait]int{}}
	var mu sync.Mutex
	var wg sync.WaitGroup
	seeds := make(chan uint64)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for seed := range seeds {
				s := newSim(seed)
				s.run()
				mu.Lock()
				all.add(s.tally)
				for _, w := range s.wrong {
					t.Error(w)
				}
				mu.Unlock()
			}
		})
	}
	for i := range guards {
		seeds <- uint64(i + 1) //nolint:gosec // small
	}
	close(seeds)
	wg.Wait()
	t.Logf("%d guards, a week each, in %s: %d looks, %d builds, %d alerts, %d changes by CI, %d kills in a step, %d clocks set",
		guards, time.Since(began).Round(time.Second), all.passes, all.builds, all.alerts, all.moves, all.kills, all.clocks)
	t.Logf("%d steps (%d by hand) written %d times, %d rollbacks, %d times promoted, %d times baked; waited: %v",
		all.steps, all.byHand, all.raised, all.rollbacks, all.promoted, all.baked, all.waits)
	if all.steps < 5*guards || all.promoted < guards || all.baked < guards/2 || all.rollbacks < guards || all.kills == 0 {
		t.Error("too little happens for this to show anything")
	}
	for _, w := range Waits {
		if !slices.Contains(untold, w) && w != WaitVirtualService && all.waits[w] == 0 && guards >= 16 {
			t.Errorf("nobody ever waited for %s", w)
		}
	}
}

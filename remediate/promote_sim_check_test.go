package remediate

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

const (
	// simRollsBack is how long a rollback may be due: some looks at a cache that
	// lags, an API server that answers again, and other replicas' writes.
	simRollsBack = 20 * time.Second
	// simTells is how long the record may say what a step no longer waits for,
	// or nothing: the lease holder looks at least each simResync.
	simTells = simResync + 2*time.Minute
)

// truth is what guardian has to find out.
type truth struct {
	movedAt   time.Time                 // last change of weights by anybody
	movedOpen time.Time                 // the same, while nothing was locked
	built     time.Time                 // when the present build appeared
	rolled    time.Time                 // when the last of its pods became ready
	halfway   bool                      // its pods have gone before all of them were
	full      time.Time                 // since when this build has all traffic; zero: it has not
	unlocked  time.Time                 // when a person's unlock was last carried out
	begun     bool                      // the present build was not there at first sight, or somebody has begun with it, and nobody has rolled it back since, nor is it completed
	ended     time.Time                 // when it was last rolled back
	unsure    bool                      // a clock that was wrong has told that it is completed, or its pods were away when it was rolled back: it may be begun or not
	alerts    map[string]decision.Alert // all that there have been, by name
	refused   map[int]time.Time         // templates that were rolled back, and when
	locked    []int                     // those of them since the last lock was lifted
	lock      *decision.Lock            // of the record as it was last written
	since     time.Time                 // when the lock was set that refuses them
	proven    map[int]bool              // templates that have stood their rollback window out
	replaced  map[int]time.Time         // when a pod of a template was last replaced by one of another

	clear  []time.Time             // when each of the obstacles was last absent
	skewed time.Time               // when some clock was last wrong
	idle   time.Time               // when the API server did not answer, or nobody held the lease, last
	dueFor string                  // why a rollback is due; empty: none is
	due    time.Time               // since when it is for that
	untold time.Time               // since when the record names no reason
	said   decision.Wait           // the reason that it names
	untrue time.Time               // since when that is none
	thin   time.Time               // when what is told of stable's capacity was last so
	lately []decision.HistoryEntry // as written last
	seen   time.Time               // when all this was last looked at

	traffic map[*unstructured.Unstructured]seenTraffic // as read
	record  decision.Record                            // parsed
	parsed  *corev1.ConfigMap                          // of it
}

func newTruth(now time.Time) truth {
	return truth{movedAt: now, built: now, rolled: now, thin: now, alerts: map[string]decision.Alert{}, refused: map[int]time.Time{}, proven: map[int]bool{}, replaced: map[int]time.Time{},
		clear: make([]time.Time, len(obstacles)), idle: now, seen: now, traffic: map[*unstructured.Unstructured]seenTraffic{}}
}

func (s *sim) fail(format string, args ...any) {
	if s.wrong { // what follows from it is of no interest
		return
	}
	s.wrong = true
	s.t.Errorf("guard %d, %s: "+format, append([]any{s.seed, s.now().Sub(s.begin)}, args...)...)
}

func (s *sim) is() virtualservice.Traffic { return s.seen(s.w.vs).traffic }

type seenTraffic struct {
	traffic virtualservice.Traffic
	paused  bool
}

// seen reads each VirtualService once: nobody edits one of a world.
func (s *sim) seen(vs *unstructured.Unstructured) seenTraffic {
	if t, ok := s.truth.traffic[vs]; ok {
		return t
	}
	t, err := virtualservice.Inspect(vs.Object, s.pair(), s.guard.Rollback.Options())
	if err != nil {
		s.fail("inspect: %v", err)
	}
	if len(s.truth.traffic) > 8 {
		clear(s.truth.traffic)
	}
	seen := seenTraffic{t, vs.GetAnnotations()[decision.AnnotationPaused] == "true"}
	s.truth.traffic[vs] = seen
	return seen
}

// record is the record but for its history.
func (s *sim) record() decision.Record {
	if cm := s.w.cm; cm != s.truth.parsed {
		r, bad := records.Skim(cm)
		if len(bad) > 0 {
			s.fail("read record: %v", bad)
		}
		s.truth.parsed, s.truth.record = cm, r
	}
	return s.truth.record
}

func (s *sim) pausing() bool {
	q := s.record().Request
	return q != nil && q.Action == decision.RequestPause
}

func (s *sim) paused() bool {
	return s.seen(s.w.vs).paused || s.record().Status.Paused != nil
}

// disarmed says whether the brake is off. Where a clock was wrong since it was
// taken off, only guardian knows for how long.
func (s *sim) disarmed() bool {
	x := s.record().Status.Disarmed
	return x != nil && (s.now().Before(x.Until.Add(decision.ClockTolerance)) || s.truth.skewedSince(x.At))
}

func (s *sim) noStable() bool { return s.w.stable < s.guard.Rollback.MinReadyStable }

func (s *sim) rollingOut() bool {
	return len(s.w.pods) == 0 || s.w.rollingOut()
}

func (t *truth) moved(s *sim, was, is virtualservice.Traffic) {
	now := s.now()
	if t.movedAt = now; s.record().Lock == nil {
		t.movedOpen = now
	}
	switch {
	case is.Full() && !was.Full():
		t.full = now
	case !is.Full():
		t.full = time.Time{}
	}
	if (is.Weight > was.Weight || is.Lowest > was.Lowest) && s.record().Lock == nil {
		t.begun, t.unsure = true, false
	}
}

func (t *truth) builds(s *sim) {
	t.built, t.begun, t.unsure = s.now(), true, false
	if s.is().Full() {
		t.full = t.built
	}
}

// skewedSince says that some clock was wrong at a time or after it.
func (t *truth) skewedSince(at time.Time) bool { return !t.skewed.Before(at) }

// nextStep is the next step, and how long the weights and the build have to stand
// before it.
func (s *sim) nextStep() (step decision.Step, interval time.Duration, more bool) {
	lowest := s.is().Lowest
	for i, x := range s.guard.Promotion.Steps {
		if x.Weight > lowest {
			interval = x.Interval
			if i > 0 {
				interval += s.guard.Promotion.Steps[i-1].Bake
			}
			return x, interval, true
		}
	}
	return step, 0, false
}

// obstacles are what no step may be taken against. What a replica cannot know
// of it need not heed: checkStep allows for what came since it has looked.
var obstacles = [...]struct {
	what  string
	there func(*sim) bool
}{
	{"while locked", func(s *sim) bool { return s.record().Lock != nil }},
	{"while paused", (*sim).paused},
	{"while disarmed", func(s *sim) bool { return s.record().Status.Disarmed != nil }},
	{"while an alert fires", func(s *sim) bool { return len(s.firing) > 0 }},
	{"without stable", (*sim).noStable},
	{"in the middle of a rollout", (*sim).rollingOut},
	{"without a heartbeat", func(s *sim) bool { return s.now().Sub(s.beat) > s.guard.HeartbeatMaxAge+records.MaxSkew }},
	{"without Prometheus", func(s *sim) bool { return s.broken("prometheus") }},
	{"with a closed gate", func(s *sim) bool { return s.broken("gate") }},
	{"while nothing proves that the rules watch", func(s *sim) bool { return s.broken("rules") }},
}

// ground says that a step may truly be said to wait for this. It is wider than
// an obstacle where guardian cannot know better.
func (s *sim) ground(w decision.Wait) bool {
	t, now, rec := &s.truth, s.now(), s.record()
	_, interval, _ := s.nextStep()
	skewed := t.skewedSince(t.movedAt)
	stands := now.Sub(latest(t.movedAt, t.built, t.rolled))
	switch w {
	case decision.WaitLock:
		return rec.Lock != nil || rec.Status.State == decision.StateBlocked
	case decision.WaitPause:
		return s.paused()
	case decision.WaitDisarm:
		return s.record().Status.Disarmed != nil
	case decision.WaitPerson:
		return s.guard.Promotion.Mode == decision.PromotionManual
	case decision.WaitFirstSight:
		return rec.Status.State == decision.StateUnknown
	case decision.WaitVirtualService:
		return s.routes == routesTesters
	case decision.WaitBuild:
		return !t.begun || t.unsure || s.w.kind != "" && len(s.w.pods) == 0
	case decision.WaitAlert:
		return len(s.firing) > 0 || slices.ContainsFunc(s.r[:], func(r *simReplica) bool { return len(r.known) > 0 })
	case decision.WaitStable:
		return s.noStable()
	case decision.WaitRollout:
		return s.rollingOut()
	case decision.WaitInterval:
		return stands < interval || skewed
	case decision.WaitWindow:
		return slices.ContainsFunc(s.r[:], func(r *simReplica) bool { return noStepsOnFriday(now.Add(r.offset)) != "" })
	case decision.WaitLease:
		return s.lead < 0
	case decision.WaitHeartbeat:
		return now.Sub(s.beat) > s.guard.HeartbeatMaxAge-time.Minute || skewed
	case decision.WaitAnswers:
		return s.broken("prometheus")
	case decision.WaitRequests:
		return s.is().Weight > 0 && s.requests(stands) < int64(s.guard.Promotion.MinRequests) || skewed
	case decision.WaitRules:
		return s.broken("rules")
	case decision.WaitGate:
		return s.broken("gate")
	}
	return false
}

// observe looks at the world whenever it may have changed.
func (s *sim) observe() {
	t, now := &s.truth, s.now()
	s.hear()
	if slices.ContainsFunc(s.r[:], func(r *simReplica) bool { return r.offset != 0 }) {
		t.skewed = now
	}
	if s.lead < 0 || s.broken("api") {
		t.idle = now
	}
	for i := range obstacles {
		if !obstacles[i].there(s) {
			t.clear[i] = now
		}
	}
	if w := s.record().Status.WaitingFor; w != "" {
		s.tally.stated[w] += now.Sub(t.seen)
	}
	t.seen = now
	s.checkRollback()
	s.checkStated()
	s.checkThin()
}

// owed says why the canary is to have no traffic now, or "", and for how long
// at most it still may.
func (s *sim) owed() (why string, bound time.Duration) {
	t, now := &s.truth, s.now()
	switch is := s.is(); {
	case is.Clean(), s.broken("api"), s.disarmed(), s.noStable():
		return "", 0
	case s.record().Lock != nil:
		return "it is locked", simRollsBack
	case is.Full() && (now.Sub(t.full) > s.guard.Rollback.Window-decision.ClockTolerance || t.skewedSince(t.full)):
		return "", 0 // completed
	}
	since := t.built
	if t.unlocked.After(since) {
		since = t.unlocked
	}
	for _, name := range s.sortedFiring() {
		a := s.firing[name]
		heard := slices.ContainsFunc(s.r[:], func(r *simReplica) bool { _, ok := r.known[name]; return ok })
		counts := !a.StartsAt.Before(since) || now.Sub(since) > s.guard.AlertWindow
		if a.Action != decision.ActionRollback || !heard || !counts {
			continue
		}
		if t.skewedSince(since) { // it may be held against an earlier build for a while
			return a.Name + " fires", s.guard.AlertWindow + simRollsBack
		}
		return a.Name + " fires", simRollsBack
	}
	return "", 0
}

func (s *sim) sortedFiring() []string {
	if len(s.firing) == 0 {
		return nil
	}
	return slices.Sorted(maps.Keys(s.firing))
}

// checkRollback sees to it that a rollback is not due for long.
func (s *sim) checkRollback() {
	t, now := &s.truth, s.now()
	why, bound := s.owed()
	if why != t.dueFor {
		t.due, t.dueFor = now, why
	}
	if why == "" {
		return
	}
	due := now.Sub(t.due)
	if bound == simRollsBack {
		s.tally.longest = max(s.tally.longest, due)
	} else {
		s.tally.misled = max(s.tally.misled, due)
	}
	if due > bound {
		s.fail("the canary has %+v for %s, and %s; status %+v", s.is(), due, why, s.record().Status)
	}
}

// checkStated sees to it that the record names what a step waits for, and
// nothing that is over. So a step that waits for nothing is taken.
func (s *sim) checkStated() {
	t, now := &s.truth, s.now()
	step, _, more := s.nextStep()
	mode := s.guard.Promotion.Mode
	st := s.record().Status
	switch {
	case !more || mode == decision.PromotionOff || now.Sub(t.idle) < simTells:
		t.untold, t.untrue = now, now
		return
	case st.WaitingFor != "" && st.NextStep == step.Weight:
		t.untold = now
	case now.Sub(t.untold) > simTells:
		s.fail("no step to %d%% for %s, and no reason; status %+v", step.Weight, now.Sub(t.untold), st)
	}
	if st.WaitingFor != t.said || st.WaitingFor == "" || s.ground(st.WaitingFor) {
		t.said, t.untrue = st.WaitingFor, now
	}
	if d := now.Sub(t.untrue); d > simTells {
		s.fail("the step to %d%% is said to wait for %s, which is over since %s; status %+v", step.Weight, st.WaitingFor, d, st)
	}
}

// checkThin sees to it that the record says whether stable has become too small.
func (s *sim) checkThin() {
	t, now, rec := &s.truth, s.now(), s.record()
	want := ""
	if rec.Lock != nil || s.is().Weight > 0 && rec.Status.State != decision.StateCompleted {
		want = s.guard.Rollback.Thin(rec.Status.Carried, s.w.stable)
	}
	if now.Sub(t.idle) < simTells || rec.Status.Thin == want {
		t.thin = now
	}
	if d := now.Sub(t.thin); d > simTells {
		s.fail("of stable's capacity it is said %q for %s, and it is %q", rec.Status.Thin, d, want)
	}
}

// told holds against the world what a replica has written down, and counts it.
// Of the history it has what is new.
func (s *sim) told(r decision.Record) {
	t := &s.truth
	lock := cmp.Or(r.Lock, t.lock) // what is seen to be done may be lifted in the same look
	t.lock = r.Lock
	for _, e := range r.History {
		if slices.Contains(t.lately, e) {
			continue // the same pass has written the record twice
		}
		if t.lately = append(t.lately, e); len(t.lately) > 32 {
			t.lately = slices.Delete(t.lately, 0, 16)
		}
		switch e.Event {
		case "step":
			s.tally.steps++
			if e.By != decision.BySchedule {
				s.tally.byHand++
			}
		case "rolled-back":
			s.tally.rollbacks++
			s.checkCause(lock)
			if lock != nil && !lock.Since.Equal(t.since) { // else it stood, and refuses what it did
				t.rolledBack(s, *lock)
				t.since = lock.Since
			}
		case "unlocked":
			s.tally.lifted++
			s.checkLift(e)
		case "blocked":
			s.tally.blocked++
		case "promoted":
			s.tally.promoted++
		case "completed":
			s.tally.completed++
			t.completed(s)
			for _, p := range s.w.pods {
				t.proven[p] = true
			}
		case "waiting":
			s.tally.waits[r.Status.WaitingFor]++
		case "refused", "missed":
			s.asked = false
		}
	}
}

// completed notes that the schedule is done with the build, unless that is told of the
// one before, or by a clock that was wrong.
func (t *truth) completed(s *sim) {
	switch {
	case s.now().Sub(t.full) >= s.guard.Rollback.Window-decision.ClockTolerance:
		t.begun = false
	case t.skewedSince(t.full):
		t.unsure = true
	}
}

// rolledBack notes which templates a rollback is about: those with ready pods,
// and of them one that has stood its window out only if there is no other, nor was
// while the alert's requests were made.
func (t *truth) rolledBack(s *sim, l decision.Lock) {
	t.ended = s.now()
	unproven := slices.ContainsFunc(s.w.pods, func(p int) bool { return !t.proven[p] })
	if l.By == decision.ByAlert {
		from := l.StartsAt.Add(-s.guard.AlertWindow)
		for p, at := range t.replaced {
			unproven = unproven || !t.proven[p] && at.After(from)
		}
	}
	coming := slices.ContainsFunc(templatesIn(s.w.templates()), func(present int) bool { return !slices.Contains(s.w.pods, present) })
	for _, p := range s.w.pods {
		if t.proven[p] && unproven || l.By == decision.ByRefused && t.refused[p].IsZero() {
			continue // beside one that has been refused before, no other is to blame
		}
		coming = coming && !s.w.has(p)
		t.refused[p], t.locked = s.now(), append(t.locked, p)
		delete(t.proven, p)
	}
	// A build that had ready pods by then is taken on by the scheduler only when somebody
	// begins again. One whose pods are away just now had some, as far as guardian saw them.
	t.begun = t.begun && coming
	t.unsure = t.unsure || t.begun && slices.ContainsFunc(templatesIn(s.w.templates()), func(present int) bool { return !t.replaced[present].IsZero() })
}

// checkCause holds a rollback against what can have caused it.
func (s *sim) checkCause(l *decision.Lock) {
	t, now := &s.truth, s.now()
	switch {
	case l == nil:
		s.fail("a rollback without a lock")
	case l.By == decision.ByAlert && t.alerts[l.Alert].Action != decision.ActionRollback:
		s.fail("a rollback for %q: there was no such alert", l.Alert)
	case l.By == decision.ByAlert && s.is().Full() && now.Sub(t.full) > s.guard.Rollback.Window+simTells && !t.skewedSince(t.full) && now.Sub(t.idle) > simTells:
		s.fail("a rollback when the canary had all traffic for %s", now.Sub(t.full))
	case l.By == decision.ByRefused && len(t.refused) == 0:
		s.fail("a rollback of a refused build: none was refused")
	case l.By != decision.ByAlert && l.By != decision.ByRefused:
		s.fail("a rollback by %s: nobody has asked", l.By)
	}
}

// checkLift is for a lock that is lifted.
func (s *sim) checkLift(e decision.HistoryEntry) {
	t := &s.truth
	present := templatesIn(s.w.templates())
	replaced := slices.ContainsFunc(s.w.pods, func(p int) bool { return !slices.Contains(present, p) })
	refused := slices.ContainsFunc(present, func(p int) bool { _, is := t.refused[p]; return is })
	switch {
	case e.By == "ann":
		t.unlocked = s.now()
		for _, p := range slices.Concat(present, s.w.pods, t.locked) {
			delete(t.refused, p)
		}
	case e.By == "window":
		for _, p := range present {
			delete(t.refused, p)
		}
	case len(s.w.pods) == 0 || replaced:
		s.fail("a lock was lifted for templates %v in the middle of a rollout, pods have %v: %s", present, s.w.pods, e.Reason)
	case refused:
		s.fail("a lock was lifted for templates %v, one of which is refused: %s; %v", present, e.Reason, t.refused)
	}
	t.locked = nil
}

// checkWrite holds a write of weights against the world.
func (s *sim) checkWrite(r *simReplica, before, after *unstructured.Unstructured) {
	was, is := s.seen(before).traffic, s.seen(after).traffic
	if was == is {
		return
	}
	lock := s.record().Lock
	switch {
	case s.seen(before).paused && (is.Weight > was.Weight || is.Lowest > was.Lowest):
		s.fail("from %d%% to %d%% while paused", was.Weight, is.Weight)
	case s.record().Status.Disarmed != nil:
		s.fail("from %d%% to %d%% while disarmed", was.Weight, is.Weight)
	case is.Weight < was.Weight:
		s.tally.lowered++
		if lock == nil {
			s.fail("from %d%% to %d%% without a lock", was.Weight, is.Weight)
		}
		if r.saw.stable < s.guard.Rollback.MinReadyStable {
			s.fail("from %d%% to %d%%, to a stable without ready endpoints", was.Weight, is.Weight)
		}
	}
	if is.Weight > was.Weight || is.Lowest > was.Lowest {
		s.tally.raised++
		s.checkStep(r, was, is)
	}
	s.w.vs = after // as the API server has it from now on
	s.moved(was)
}

// checkStep is for a write that moves traffic forward.
func (s *sim) checkStep(r *simReplica, was, is virtualservice.Traffic) {
	t := &s.truth
	step, interval, more := s.nextStep()
	if !more || is.Weight != step.Weight || is.Lowest != is.Weight {
		s.fail("a step from %d%% to %d%%: not one step", was.Lowest, is.Weight)
		return
	}
	if !r.led || r.ledAt.Before(r.sent) {
		s.fail("step to %d%% without the lease", is.Weight)
	}
	closed := func(at time.Time) bool { return noStepsOnFriday(at.Add(r.offset)) != "" }
	if closed(s.now()) && closed(r.read) {
		s.fail("step to %d%% when the calendar is closed", is.Weight)
	}
	for i, o := range obstacles {
		if o.there(s) && t.clear[i].Before(r.read) {
			s.fail("step to %d%% %s", is.Weight, o.what)
		}
	}
	if s.asked {
		s.asked = false
		return
	}
	s.checkSchedule(r, was, is, interval)
}

// checkSchedule is for a step that nobody has asked for.
func (s *sim) checkSchedule(r *simReplica, was, is virtualservice.Traffic, interval time.Duration) {
	t, now := &s.truth, s.now()
	stood := now.Sub(t.movedAt)
	nothingYet := was.Weight == 0 && !t.built.Before(t.movedOpen)
	// What has begun before guardian did it has from the record, by the clock of
	// the replica that wrote it.
	misled := !r.began.Before(t.movedAt) && t.skewedSince(t.movedAt)
	switch {
	case s.guard.Promotion.Mode != decision.PromotionAuto:
		s.fail("step to %d%% by the schedule in mode %s", is.Weight, s.guard.Promotion.Mode)
	case !t.begun && !t.ended.After(r.read):
		s.fail("step to %d%% of a build that was there at first sight, was rolled back, or is completed", is.Weight)
	case misled:
	case was.Weight > 0 && !t.rolled.After(r.read) && now.Sub(t.rolled) < interval-decision.ClockTolerance:
		s.fail("step to %d%% when the build was ready for %s, the interval is %s", is.Weight, now.Sub(t.rolled), interval)
	case !nothingYet && stood < interval-decision.ClockTolerance:
		s.fail("step to %d%% after %s, the interval is %s", is.Weight, stood, interval)
	}
	if was.Weight > 0 && !misled && s.requests(stood+2*decision.ClockTolerance) < int64(s.guard.Promotion.MinRequests) {
		s.fail("step to %d%% after %d requests", is.Weight, s.requests(stood))
	}
}

func latest(times ...time.Time) time.Time { return slices.MaxFunc(times, time.Time.Compare) }

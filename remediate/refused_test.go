package remediate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/decision/decisiontest"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	"github.com/canary-guardian/guardian/remediate/virtualservice/vstest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// lonely is a guardian alone with one guard, whose API server refuses what a test
// wants it to.
type lonely struct {
	t      *testing.T
	w      *world
	saw    *world
	guard  decision.Guard
	rec    *reconciler
	now    time.Time
	refuse func(write string, ops []virtualservice.Op) (error, bool)
	told   []string // events, in the order in which they were told
	writes []string

	patching string               // the VirtualService that is being patched
	renames  func(map[string]any) // what CI calls other than manifest; nil: nothing
}

func newLonely(t *testing.T, weight int) *lonely {
	t.Helper()
	o := &lonely{t: t, now: at, guard: decisiontest.Given().Guard, refuse: func(string, []virtualservice.Op) (error, bool) { return nil, false }}
	o.w = &world{template: 1, made: map[int]time.Time{1: at.Add(-time.Hour)}, pods: []int{1, 1}, stable: 2}
	o.ci(weight)
	store := &worldStore{w: o.w, before: func(string) error { return nil }, after: func(write string) error { o.writes = append(o.writes, write); return nil },
		answer: func(write string, ops []virtualservice.Op) (error, bool) { return o.refuse(write, ops) }}
	store.patching = func(name string) { o.patching = name }
	o.rec = &reconciler{
		cached: worldReader{world: o.w, saw: &o.saw}, live: worldReader{world: o.w, saw: &o.saw}, store: store, now: func() time.Time { return o.now }, domain: "cluster.local",
		user: func() string { return guardianUser }, leads: func() bool { return true },
		heartbeat: func(context.Context) (time.Time, error) { return o.now, nil },
		forward: func(context.Context, snapshot) (decision.Forward, []decision.Alert) {
			return decision.Forward{Requests: 1000}, nil
		},
		count: func(context.Context, snapshot) decision.Count { return decision.Count{} },
		changed: func(_ context.Context, _ decision.Guard, _ snapshot, d decision.Decision) {
			for _, e := range d.Added {
				o.told = append(o.told, fmt.Sprintf("%s: %d→%d", e.Event, e.From, e.To))
			}
		},
	}
	o.pass() // first sight
	o.told, o.writes = nil, nil
	return o
}

func (o *lonely) ci(weight int) {
	u := &unstructured.Unstructured{Object: manifest(weight)}
	if o.renames != nil {
		o.renames(u.Object)
	}
	u.SetResourceVersion(o.w.next())
	o.w.vs = u
}

// pass is a look at the guard with these alerts firing.
func (o *lonely) pass(alerts ...decision.Alert) (outcome, error) {
	o.now = o.now.Add(time.Second)
	return o.rec.reconcile(o.t.Context(), o.guard, alerts)
}

func (o *lonely) record() decision.Record {
	o.t.Helper()
	r, err := records.Parse(o.w.cm)
	if err != nil {
		o.t.Fatal(err)
	}
	return r
}

func (o *lonely) traffic() virtualservice.Traffic {
	o.t.Helper()
	t, err := virtualservice.Inspect(o.w.vs.Object, virtualservice.Pair{Stable: o.guard.Stable, Canary: o.guard.Canary, Host: cmp.Or(o.w.host, "orders-service"), Namespace: testNamespace}, o.guard.Rollback.Options())
	if err != nil {
		o.t.Fatal(err)
	}
	return t
}

func (o *lonely) history() string {
	var all []string
	for _, e := range o.record().History {
		all = append(all, fmt.Sprintf("%s: %d→%d", e.Event, e.From, e.To))
	}
	return strings.Join(all, "; ")
}

var errorsAlert = decision.Alert{Name: "CanaryErrors", Signal: "error_rate", Action: decision.ActionRollback, Fingerprint: "f", StartsAt: at, Summary: "7% of requests fail"}

// refusesTraffic has writes of VirtualServices answered with err, those of
// operations on such a path alone if part is not empty.
func (o *lonely) refusesTraffic(err error, part string) {
	o.refuse = func(write string, ops []virtualservice.Op) (error, bool) {
		if write == "traffic" && touches(ops, part) {
			return conflictOr(err, "patch VirtualService"), false
		}
		return nil, false
	}
}

// A rollback alert that began before the build may be about the one before: it counts from
// the end of a grace on, which does not wait for the next slow attempt.
func TestWhatFallsDueDoesNotWaitForASlowAttempt(t *testing.T) {
	o := newLonely(t, 50)
	o.now = o.now.Add(time.Hour)
	o.w.template, o.w.pods, o.w.made[2] = 2, []int{2, 2}, o.now
	before := errorsAlert
	before.StartsAt = o.now.Add(-time.Minute)
	if _, err := o.pass(before); err != nil {
		t.Fatal(err)
	}
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "configmaps"}, "guardian-orders-service", errors.New("no right"))
	o.refuse = func(write string, _ []virtualservice.Op) (error, bool) {
		if write == "record" {
			return conflictOr(forbidden, "patch the record"), false
		}
		return nil, false
	}
	o.now = o.now.Add(o.guard.AlertWindow - 5*time.Second)
	page := errorsAlert
	page.Name, page.Fingerprint, page.Action = "Page", "page", decision.ActionHold
	out, err := o.pass(before, page) // which has something to write
	if !comesAgain(err) {
		t.Fatalf("%v: want what is tried again slowly", err)
	}
	due := out.decision.Requeue
	if wait := againIn(15*time.Second, due); wait != due || wait <= 0 || wait > 5*time.Second {
		t.Errorf("looked at again in %s, and the grace ends in %s", wait, due)
	}
	o.now = o.now.Add(due)
	if _, err := o.pass(before, page); !errors.Is(err, errUnrecorded) || o.traffic().Weight != 0 {
		t.Errorf("the grace is over, and the canary has %d%%: %v", o.traffic().Weight, err)
	}
	if wait := againIn(15*time.Second, 0); wait != 15*time.Second {
		t.Errorf("nothing falls due, and it is tried again in %s", wait)
	}
}

// A busy machine, or a replica that has just started, sees only late that a rollback is
// done: in the pass that also asks what shows only after it.
func TestWhatShowsAfterARollbackIsAskedOfThatRollback(t *testing.T) {
	o := newLonely(t, 10)
	var asked []decision.Receipt
	o.rec.after = func(_ context.Context, _ snapshot, r decision.Receipt) decision.After {
		asked = append(asked, r)
		return decision.After{Never: true, Err: "no Prometheus"}
	}
	roll := func(a decision.Alert) (written time.Time) {
		t.Helper()
		before := len(asked)
		for i := range 2 {
			if _, err := o.pass(a); err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				written = o.now
				o.now = o.now.Add(time.Minute)
			}
		}
		if len(asked) != before+1 {
			t.Fatalf("asked %d times in the pass that sees late that it is done, want once", len(asked)-before)
		}
		if r := o.record().Receipt; r == nil || r.Open || r.Alert != a.Name || r.NotFelt != "no Prometheus" {
			t.Errorf("the record's receipt is %+v, want that of %s with its answer", r, a.Name)
		}
		return written
	}
	first := roll(errorsAlert)
	o.w.template, o.w.pods, o.w.made[2] = 2, []int{2, 2}, o.now
	if _, err := o.pass(); err != nil { // the new build lifts the lock
		t.Fatal(err)
	}
	o.ci(30)
	if _, err := o.pass(); err != nil {
		t.Fatal(err)
	}
	again := errorsAlert
	again.Name, again.Fingerprint, again.StartsAt = "CanarySlow", "g", o.now
	second := roll(again)
	for i, want := range []struct {
		alert   string
		from    int
		written time.Time
	}{{"CanaryErrors", 10, first}, {"CanarySlow", 30, second}} {
		if r := asked[i]; r.Alert != want.alert || r.From != want.from || !r.Written.Equal(want.written) {
			t.Errorf("asked of %s, from %d%%, written %s; want %+v", r.Alert, r.From, r.Written, want)
		}
	}
}

func TestARollbackIsToldWhenTheAPIServerHasIt(t *testing.T) {
	for name, lock := range map[string]decision.LockKind{"build": decision.LockBuild, "manual": decision.LockManual, "none": decision.LockNone} {
		t.Run(name, func(t *testing.T) {
			o := newLonely(t, 10)
			o.guard.Rollback.Lock = lock
			out, err := o.pass(errorsAlert)
			if err != nil || !out.recorded || !o.traffic().Clean() {
				t.Fatalf("recorded %v, %v; the canary has %+v", out.recorded, err, o.traffic())
			}
			if r := o.record(); r.Status.State != decision.StateShifting || !strings.HasPrefix(r.Status.Reason, "rolling back: ") || slices.Contains(o.told, "rolled-back: 10→0") {
				t.Errorf("before anybody has seen it: %s: %s; told %v", r.Status.State, r.Status.Reason, o.told)
			}
			want := map[decision.LockKind]decision.State{decision.LockNone: decision.StateIdle}[lock]
			if want == "" {
				want = decision.StateRolledBack
			}
			if marks := decision.State(o.w.vs.GetAnnotations()[decision.AnnotationState]); marks != want || out.status().State != want {
				t.Errorf("the VirtualService says %s, metrics %s; want %s", marks, out.status().State, want)
			}
			if out, err = o.pass(errorsAlert); err != nil {
				t.Fatal(err)
			}
			r := o.record()
			if r.Status.State != want || r.Status.Moving != nil || !strings.Contains(o.history(), "rolled-back: 10→0") || !slices.Contains(o.told, "rolled-back: 10→0") || out.decision.Signal != "error_rate" {
				t.Errorf("seen: %s, under way %+v, history %s, told %v, counted as %q", r.Status.State, r.Status.Moving, o.history(), o.told, out.decision.Signal)
			}
			told := len(o.told)
			if _, err = o.pass(errorsAlert); err != nil || len(o.told) != told {
				t.Errorf("told again: %v, %v", o.told, err)
			}
		})
	}
}

func TestARefusedRollbackIsNotDoneAndIsTriedAgain(t *testing.T) {
	for name, answer := range answers {
		if name == "conflict" {
			continue // it is decided anew
		}
		t.Run(name, func(t *testing.T) {
			o := newLonely(t, 10)
			o.refusesTraffic(answer, "")
			out, err := o.pass(errorsAlert)
			if !out.recorded || !errors.Is(err, errRefused) || out.done {
				t.Fatalf("recorded %v, done %v, %v; want a lock that stands, and an error", out.recorded, out.done, err)
			}
			r := o.record()
			if r.Lock == nil || r.Status.State != decision.StateBlocked || !strings.HasPrefix(r.Status.Reason, "not done: ") || !strings.Contains(r.Status.Reason, answer.Error()) {
				t.Errorf("lock %v, %s: %s", r.Lock, r.Status.State, r.Status.Reason)
			}
			if !slices.Equal(o.told, []string{"blocked: 10→10"}) || strings.Contains(o.history(), "rolled-back") {
				t.Errorf("told %v, history %s", o.told, o.history())
			}
			if !strings.Contains(r.Message, "cannot yet") || out.status().State != decision.StateBlocked || out.snapshot.input.Traffic.Weight != 10 {
				t.Errorf("CI reads %q, metrics say %s", r.Message, out.status().State)
			}
			was := *r.Status.Moving
			if out, err = o.pass(errorsAlert); !errors.Is(err, errRefused) || !reflect.DeepEqual(*o.record().Status.Moving, was) || len(o.told) != 1 {
				t.Errorf("refused again: %v, under way %+v → %+v, told %v", err, was, o.record().Status.Moving, o.told)
			}
			o.refusesTraffic(nil, "no path has this")
			for range 2 {
				if out, err = o.pass(); err != nil {
					t.Fatal(err)
				}
			}
			r = o.record()
			if r.Status.State != decision.StateRolledBack || r.Status.Moving != nil || !o.traffic().Clean() || o.told[len(o.told)-1] != "rolled-back: 10→0" || out.decision.Signal != "error_rate" {
				t.Errorf("taken at last: %s, %+v, the canary has %+v, told %v, counted as %q", r.Status.State, r.Status.Moving, o.traffic(), o.told, out.decision.Signal)
			}
		})
	}
}

func TestTheNewestRefusalIsToldAtOnce(t *testing.T) {
	for name, leads := range map[string]bool{"with the lease": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			o := newLonely(t, 10)
			o.rec.leads = func() bool { return leads }
			for _, answer := range []string{"forbidden", "invalid", "timeout", "bad request"} {
				o.refusesTraffic(answers[answer], "")
				o.w.stable = 5 - o.w.stable // numbers that are told put off the next words
				if _, err := o.pass(errorsAlert); !errors.Is(err, errRefused) {
					t.Fatalf("%s: %v", answer, err)
				}
				r := o.record()
				if s := r.Status; s.State != decision.StateBlocked || !strings.Contains(s.Reason, answers[answer].Error()) || !strings.Contains(s.Moving.Refused, answers[answer].Error()) {
					t.Errorf("%s: the record says %s: %s", answer, s.State, s.Reason)
				}
			}
		})
	}
}

func TestWhatRefusesTheWeightsIsTold(t *testing.T) {
	o := newLonely(t, 10)
	o.refuse = func(write string, ops []virtualservice.Op) (error, bool) {
		switch {
		case write == "traffic" && touches(ops, annotationPath):
			return conflictOr(answers["forbidden"], "patch VirtualService"), false
		case write == "traffic":
			return conflictOr(answers["invalid"], "patch VirtualService"), false
		}
		return nil, false
	}
	if _, err := o.pass(errorsAlert); !errors.Is(err, errRefused) {
		t.Fatal(err)
	}
	if s := o.record().Status; s.State != decision.StateBlocked || !strings.Contains(s.Reason, answers["invalid"].Error()) {
		t.Errorf("the annotations are refused, and so are the weights; the record says %s: %s", s.State, s.Reason)
	}
}

func TestAnAnswerThatIsLostIsLookedFor(t *testing.T) {
	o := newLonely(t, 10)
	lost := 1
	o.refuse = func(write string, _ []virtualservice.Op) (error, bool) {
		if lost--; write == "traffic" && lost >= -1 {
			return conflictOr(context.DeadlineExceeded, "patch"), true
		}
		return nil, false
	}
	out, err := o.pass(errorsAlert)
	if err != nil || !out.recorded || strings.Contains(strings.Join(o.told, " "), "blocked") {
		t.Errorf("the write is in, its answer was lost: %v, told %v", err, o.told)
	}
	if _, err := o.pass(errorsAlert); err != nil || o.record().Status.State != decision.StateRolledBack {
		t.Errorf("%v, %s", err, o.record().Status.State)
	}
}

func TestWhatTheAPIServerTakesOfARollbackIsWritten(t *testing.T) {
	denied := answers["bad request"]
	for part, c := range map[string]struct {
		left  func(virtualservice.Traffic) bool
		names string
		done  bool
	}{
		"mirror":       {func(t virtualservice.Traffic) bool { return t.Mirrors == 1 && t.CanaryOnly == 0 }, "http[1]", false},
		"/spec/http/0": {func(t virtualservice.Traffic) bool { return t.CanaryOnly == 1 && t.Mirrors == 0 }, "http[0]", false},
		annotationPath: {virtualservice.Traffic.Clean, "", true},
		"/metadata/annotations/canary-guardian.io~1lock": {virtualservice.Traffic.Clean, "", true},
	} {
		t.Run(part, func(t *testing.T) {
			o := newLonely(t, 10)
			o.refusesTraffic(denied, part)
			_, err := o.pass(errorsAlert)
			if got := o.traffic(); got.Weight != 0 || !c.left(got) {
				t.Fatalf("the canary has %+v (%v)", got, err)
			}
			if c.done {
				if err != nil {
					t.Fatal(err)
				}
				if _, err := o.pass(errorsAlert); err != nil || o.record().Status.State != decision.StateRolledBack {
					t.Errorf("%v, %s", err, o.record().Status.State)
				}
				return
			}
			if s := o.record().Status; !errors.Is(err, errRefused) || s.State != decision.StateBlocked || !strings.Contains(s.Reason, c.names) || !strings.Contains(s.Reason, denied.Error()) {
				t.Errorf("%v; %s: %s; want it to name %s", err, s.State, s.Reason, c.names)
			}
			if o.w.vs.GetAnnotations()[decision.LockKey(o.guard.Name)] == "" {
				t.Error("the policy knows of no lock")
			}
			o.refusesTraffic(nil, "no path has this")
			for range 2 {
				if _, err := o.pass(); err != nil {
					t.Fatal(err)
				}
			}
			if s := o.record().Status; s.State != decision.StateRolledBack || !o.traffic().Clean() {
				t.Errorf("taken at last: %s, the canary has %+v", s.State, o.traffic())
			}
		})
	}
}

func TestARefusedReassertionIsToldToo(t *testing.T) {
	o := newLonely(t, 10)
	for range 2 {
		if _, err := o.pass(errorsAlert); err != nil {
			t.Fatal(err)
		}
	}
	o.ci(50)
	o.refusesTraffic(answers["forbidden"], "")
	out, err := o.pass()
	if s := o.record().Status; !errors.Is(err, errRefused) || s.State != decision.StateBlocked || s.Weight != 50 || out.status().State != decision.StateBlocked || strings.Contains(o.history(), "reasserted") {
		t.Errorf("refused: %v; %s at %d%%, history %s", err, s.State, s.Weight, o.history())
	}
	o.refusesTraffic(nil, "no path has this")
	for range 2 {
		if _, err := o.pass(); err != nil {
			t.Fatal(err)
		}
	}
	if s := o.record().Status; s.State != decision.StateRolledBack || !strings.HasSuffix(o.history(), "reasserted: 50→0") || strings.Count(o.history(), "rolled-back") != 1 {
		t.Errorf("taken: %s, history %s", s.State, o.history())
	}
	o.ci(30)
	if _, err := o.pass(); err != nil || !o.traffic().Clean() || strings.Count(o.history(), "reasserted") != 1 {
		t.Errorf("within the minute: %v, history %s", err, o.history())
	}
	o.now = o.now.Add(time.Hour)
	o.ci(30)
	if _, err := o.pass(); err != nil || !strings.HasSuffix(o.history(), "reasserted: 30→0") {
		t.Errorf("later: %v, history %s", err, o.history())
	}
}

func TestARefusedStepIsNotTold(t *testing.T) {
	o := newLonely(t, 0)
	o.guard.Promotion.Mode = decision.PromotionManual
	o.w.cm = o.w.cm.DeepCopy()
	r := o.record()
	r.Request = &decision.Request{Action: decision.RequestPromote, By: "ann", Reason: "go", At: o.now}
	o.w.cm.Data, o.w.cm.ResourceVersion = r.Data(), o.w.next()
	o.refusesTraffic(answers["bad request"], "")
	for range 2 {
		if _, err := o.pass(); !errors.Is(err, errRefused) {
			t.Fatalf("%v", err)
		}
	}
	s := o.record().Status
	if s.Weight != 0 || s.WaitingFor != decision.WaitVirtualService || !strings.Contains(s.Waiting, answers["bad request"].Error()) || strings.Contains(o.history(), "step") || len(o.told) > 0 {
		t.Errorf("%s, waits for %s: %s; history %s, told %v", s.State, s.WaitingFor, s.Waiting, o.history(), o.told)
	}
	o.refusesTraffic(nil, "no path has this")
	for range 2 {
		if _, err := o.pass(); err != nil {
			t.Fatal(err)
		}
	}
	if s := o.record().Status; s.State != decision.StateShifting || s.Weight != 10 || !slices.Contains(o.told, "step: 0→10") || decision.State(o.w.vs.GetAnnotations()[decision.AnnotationState]) != decision.StateShifting {
		t.Errorf("taken: %s at %d%%, told %v, the VirtualService says %s", s.State, s.Weight, o.told, o.w.vs.GetAnnotations()[decision.AnnotationState])
	}
}

func TestARollbackThatCannotBeRecordedIsDoneAllTheSame(t *testing.T) {
	quota := apierrors.NewForbidden(virtualServiceResource.GroupResource(), "guardian-orders-service", errors.New("exceeded quota"))
	for _, gone := range []bool{false, true} {
		t.Run(fmt.Sprintf("a record never made: %v", gone), func(t *testing.T) {
			o := newLonely(t, 10)
			if gone {
				o.w.cm = nil
			}
			o.refuse = func(write string, _ []virtualservice.Op) (error, bool) {
				if write == "record" {
					return conflictOr(quota, "write record"), false
				}
				return nil, false
			}
			out, err := o.pass(errorsAlert)
			if out.recorded || !out.done || !errors.Is(err, errUnrecorded) || !o.traffic().Clean() {
				t.Fatalf("recorded %v, done %v, %v; the canary has %+v", out.recorded, out.done, err, o.traffic())
			}
			marks := o.w.vs.GetAnnotations()
			if !strings.HasPrefix(marks[decision.AnnotationReason], "rolled back, not recorded: ") || marks[decision.LockKey(o.guard.Name)] == "" || len(o.told) > 0 {
				t.Errorf("the VirtualService says %q, lock %q; told %v", marks[decision.AnnotationReason], marks[decision.LockKey(o.guard.Name)], o.told)
			}
			if out, err := o.pass(); out.recorded || err == nil {
				t.Errorf("still not: recorded %v, %v", out.recorded, err)
			}
			o.refuse = func(string, []virtualservice.Op) (error, bool) { return nil, false }
			if out, err := o.pass(); err != nil || !out.recorded {
				t.Fatalf("recorded %v, %v", out.recorded, err)
			}
			r := o.record()
			if r.Lock == nil || r.Lock.Alert != "CanaryErrors" || r.Status.State != decision.StateRolledBack || !strings.Contains(o.history(), "rolled-back") || len(r.Refused) == 0 {
				t.Errorf("lock %+v, %s, history %s, refused %v", r.Lock, r.Status.State, o.history(), r.Refused)
			}
			o.ci(50)
			if _, err := o.pass(); err != nil || !o.traffic().Clean() {
				t.Errorf("CI shifts again: %v, the canary has %+v", err, o.traffic())
			}
		})
	}
}

// By the clock of a replica that was ahead, a lock before this one was lifted in an hour:
// that is no word of the one that could not be recorded.
func TestALockThatCouldNotBeRecordedOutlivesALiftOfTheFuture(t *testing.T) {
	o := newLonely(t, 10)
	lifted := func(at time.Time) {
		r := o.record()
		r.Status.LiftedAt = at
		o.edit(func(data map[string]string) { data[decision.KeyStatus] = r.Data()[decision.KeyStatus] })
	}
	lifted(o.now.Add(time.Hour))
	o.refuse = func(write string, _ []virtualservice.Op) (error, bool) {
		if write == "record" {
			return apierrors.NewForbidden(virtualServiceResource.GroupResource(), "guardian-orders-service", errors.New("exceeded quota")), false
		}
		return nil, false
	}
	if _, err := o.pass(errorsAlert); !errors.Is(err, errUnrecorded) {
		t.Fatal(err)
	}
	o.ci(50)
	if _, err := o.pass(); err == nil || !o.traffic().Clean() {
		t.Errorf("CI shifts again: %v, the canary has %+v", err, o.traffic())
	}
	lifted(o.now.Add(2 * time.Hour)) // by a person, who has seen the lock on the VirtualService
	if l := o.rec.unrecorded.of(o.guard.Name, o.record()); l != nil {
		t.Errorf("lifted since, and %+v is set again", l)
	}
}

func TestAViewTellsOfALockThatIsNotRecorded(t *testing.T) {
	o := newLonely(t, 10)
	o.refuse = func(write string, _ []virtualservice.Op) (error, bool) {
		if write == "record" {
			return apierrors.NewForbidden(virtualServiceResource.GroupResource(), "guardian-orders-service", errors.New("exceeded\nquota")), false
		}
		return nil, false
	}
	var told View
	c := &Controller{o: Options{Metrics: NewMetrics(prometheus.NewRegistry()), Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return o.now }, Confirmed: func(v View) { told = v }}}
	e := &entry{}
	out, err := o.pass(errorsAlert)
	c.finish(t.Context(), o.guard, e, out, nil, err)
	if told.Lock == nil || !strings.Contains(told.Unrecorded, "exceeded; quota") {
		t.Errorf("lock %+v, unrecorded %q", told.Lock, told.Unrecorded)
	}
	o.refuse = func(string, []virtualservice.Op) (error, bool) { return nil, false }
	out, err = o.pass()
	c.finish(t.Context(), o.guard, e, out, nil, err)
	if told.Lock == nil || told.Unrecorded != "" {
		t.Errorf("recorded: lock %+v, unrecorded %q", told.Lock, told.Unrecorded)
	}
}

// A pass may end after its guard has been taken out of the configuration.
func TestARollbackOfARemovedGuardLeavesNoSeries(t *testing.T) {
	for _, removed := range []bool{false, true} {
		o, reg := newLonely(t, 10), prometheus.NewRegistry()
		c := &Controller{o: Options{Metrics: NewMetrics(reg), Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return o.now }}}
		out, err := o.pass(errorsAlert)
		c.finish(t.Context(), o.guard, &entry{removed: removed}, out, map[string]submitted{errorsAlert.Episode(): {alert: errorsAlert, received: o.now.Add(-time.Second)}}, err)
		if n, err := testutil.GatherAndCount(reg, "guardian_rollback_seconds"); err != nil || (n == 0) != removed {
			t.Errorf("removed %v: %d series, %v", removed, n, err)
		}
	}
}

// edit changes the record by hand.
func (o *lonely) edit(change func(map[string]string)) {
	o.w.cm = o.w.cm.DeepCopy()
	change(o.w.cm.Data)
	o.w.cm.ResourceVersion = o.w.next()
}

func TestWhatCannotBeReadOfARecordIsBegunAnew(t *testing.T) {
	for key, text := range map[string]string{decision.KeyHistory: `[{"event":`, decision.KeyStatus: `{"weight":"much"}`, decision.KeyChanged: `{}`, decision.KeyLock: `7`} {
		for _, locked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, locked %v", key, locked), func(t *testing.T) {
				o := newLonely(t, 10)
				for range 2 * map[bool]int{true: 1}[locked] {
					if _, err := o.pass(errorsAlert); err != nil {
						t.Fatal(err)
					}
				}
				o.told = nil
				o.edit(func(data map[string]string) { data[key] = text })
				if locked {
					o.ci(50)
				}
				out, err := o.pass(errorsAlert)
				if err != nil || !out.recorded || !o.traffic().Clean() {
					t.Fatalf("an alert is answered with %v (recorded %v), the canary has %+v", err, out.recorded, o.traffic())
				}
				if !strings.Contains(strings.Join(o.told, " "), "unreadable") || !strings.Contains(o.history(), "unreadable") {
					t.Errorf("told %v", o.told)
				}
				for range 2 {
					if _, err := o.pass(errorsAlert); err != nil {
						t.Fatal(err)
					}
				}
				r := o.record()
				if r.Lock == nil || r.Status.State != decision.StateRolledBack || strings.Count(o.history(), "unreadable") != 1 {
					t.Errorf("lock %+v, %s, history %s", r.Lock, r.Status.State, o.history())
				}
				if want := map[bool]decision.LockKind{true: decision.LockManual, false: decision.LockBuild}[key == decision.KeyLock && locked]; r.Lock != nil && r.Lock.Kind != want {
					t.Errorf("a lock of kind %s, want %s", r.Lock.Kind, want)
				}
			})
		}
	}
}

func TestALockedVirtualServiceThatIsGoneIsToldAndLockedWhenItIsBack(t *testing.T) {
	o := newLonely(t, 10)
	for range 2 {
		if _, err := o.pass(errorsAlert); err != nil {
			t.Fatal(err)
		}
	}
	o.told, o.w.vs = nil, nil
	for range 2 {
		if _, err := o.pass(); err != nil {
			t.Fatal(err)
		}
	}
	if s := o.record().Status; s.State != decision.StateBlocked || !strings.Contains(s.Reason, "VirtualService microservices/orders-service does not exist") || !slices.Equal(o.told, []string{"blocked: 0→0"}) {
		t.Errorf("%s: %s; told %v", s.State, s.Reason, o.told)
	}
	o.ci(50)
	for range 2 {
		if _, err := o.pass(); err != nil {
			t.Fatal(err)
		}
	}
	if s := o.record().Status; s.State != decision.StateRolledBack || !o.traffic().Clean() || !strings.HasSuffix(o.history(), "reasserted: 50→0") {
		t.Errorf("%s, the canary has %+v, history %s", s.State, o.traffic(), o.history())
	}
}

// A cache whose watch lags shows a canary without traffic.
func TestAnAlertThatSeemsToNeedNothingIsLookedAtOnTheAPIServer(t *testing.T) {
	for name, weights := range map[string][2]int{"no traffic": {0, 50}, "all of it for long": {100, 50}} {
		t.Run(name, func(t *testing.T) {
			o := newLonely(t, weights[0])
			if weights[0] == 100 {
				o.now = o.now.Add(time.Hour)
				if _, err := o.pass(); err != nil || o.record().Status.State != decision.StateCompleted {
					t.Fatalf("%v, %s", err, o.record().Status.State)
				}
			}
			stale := o.w.copy()
			o.rec.cached = worldReader{world: stale, saw: &o.saw}
			o.ci(weights[1])
			alert := errorsAlert
			alert.StartsAt = o.now
			out, err := o.pass(alert)
			if err != nil || !out.recorded || o.traffic().Weight != 0 || o.record().Lock == nil {
				t.Errorf("%v, recorded %v, the canary has %+v", err, out.recorded, o.traffic())
			}
		})
	}
}

// A rollback that a person has asked for is answered by what the API server has, with a
// lock or without.
func TestAPersonsRollbackIsNotAnsweredFromACacheThatLags(t *testing.T) {
	for _, lock := range []decision.LockKind{decision.LockBuild, decision.LockNone} {
		t.Run(string(lock), func(t *testing.T) {
			o := newLonely(t, 0)
			o.guard.Rollback.Lock = lock
			o.withRoutes(vstest.PairRoute("", 100, 0))
			cm := o.w.cm.DeepCopy()
			ask(cm, decision.Request{Action: decision.RequestRollback, By: "ann", Reason: "because", At: o.now})
			cm.ResourceVersion, o.w.cm = o.w.next(), cm
			stale := o.w.copy()
			o.rec.cached = worldReader{world: stale, saw: &o.saw}
			o.withRoutes(vstest.PairRoute("", 50, 50))
			if _, err := o.pass(); err != nil || o.traffic().Weight != 0 {
				t.Errorf("%v; the canary has %+v, told %q, answers %+v", err, o.traffic(), o.told, o.record().Answers)
			}
		})
	}
}

// A lost write of traffic is tried again soon, although something else was refused for good.
func TestALostWriteOfTrafficIsTriedAgainSoon(t *testing.T) {
	quota := &recordError{apierrors.NewForbidden(schema.GroupResource{Resource: "configmaps"}, "guardian-orders", errors.New("exceeded quota"))}
	forbidden := fmt.Errorf("patch VirtualService a: %w", apierrors.NewForbidden(schema.GroupResource{Resource: "virtualservices"}, "a", errors.New("no")))
	lost := fmt.Errorf("patch VirtualService b: %w", errors.New("connection reset by peer"))
	for name, c := range map[string]struct {
		err  error
		want bool
	}{
		"no error":                           {nil, false},
		"lost":                               {&trafficError{lost}, false},
		"refused":                            {fmt.Errorf("%w: %w", errRefused, &trafficError{errors.Join(forbidden)}), true},
		"the record refused":                 {quota, true},
		"lost, and the record refused":       {errors.Join(&trafficError{errors.Join(lost)}, quota), false},
		"both refused":                       {errors.Join(&trafficError{errors.Join(forbidden)}, quota), true},
		"one refused and one lost":           {&trafficError{errors.Join(forbidden, lost)}, false},
		"one refused and one lost, recorded": {fmt.Errorf("%w: %w", errRefused, &trafficError{errors.Join(forbidden, lost)}), false},
		"of a route":                         {&trafficError{errors.Join(ofRoutes([]string{"/spec/http/0"}, forbidden))}, true},
	} {
		if got := comesAgain(c.err); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

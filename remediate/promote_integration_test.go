package remediate

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/test/controlplane"
)

// climber is a guard of mode auto that may step at once.
func (r *rig) autoGuard(name string) decision.Guard {
	g := r.guard(name)
	g.Promotion.Mode = decision.PromotionAuto
	return g
}

// weights writes down each weight that the canary gets, until the test ends.
func (r *rig) weights(app *controlplane.App) func() []int64 {
	r.t.Helper()
	watch, err := r.dynamic.Resource(virtualServiceResource).Namespace(r.ns).Watch(r.t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + app.Name})
	r.must(err)
	var mu sync.Mutex
	var seen []int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for e := range watch.ResultChan() {
			vs, ok := e.Object.(*unstructured.Unstructured)
			if !ok {
				return
			}
			routes, _, _ := unstructured.NestedSlice(vs.Object, "spec", "http")
			for _, route := range routes {
				for _, d := range route.(map[string]any)["route"].([]any) {
					if subset, _, _ := unstructured.NestedString(d.(map[string]any), "destination", "subset"); subset != "v2" {
						continue
					}
					w, _, _ := unstructured.NestedInt64(d.(map[string]any), "weight")
					mu.Lock()
					if n := len(seen); n == 0 || seen[n-1] != w {
						seen = append(seen, w)
					}
					mu.Unlock()
				}
			}
		}
	}()
	r.t.Cleanup(func() { watch.Stop(); <-done })
	return func() []int64 {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(seen)
	}
}

// told is the history's events, less those of waiting.
func (r *rig) told(guard string) []string {
	r.t.Helper()
	rec, err := r.record(guard)
	r.must(err)
	var out []string
	for _, e := range rec.History {
		if e.Event != "waiting" {
			out = append(out, fmt.Sprintf("%s %d→%d", e.Event, e.From, e.To))
		}
	}
	return out
}

func isStep(r *http.Request, c call) bool {
	return c.verb == "patch" && c.resource == "virtualservices" && strings.Contains(r.URL.RawQuery, "fieldManager="+FieldManagerPromotion)
}

var errKilled = errors.New("killed")

func TestALeaseHolderKilledInTheMiddleOfAStep(t *testing.T) {
	controlplane.Shared(t)
	verifyNoLeaks(t)
	for name, after := range map[string]bool{"before the VirtualService is written": false, "after it": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // each waits for the Lease to run out
			r := newParallelRig(t)
			app := r.app("orders-service")
			a := r.start(r.autoGuard(app.Name))
			a.leader()
			b := r.start(r.autoGuard(app.Name))
			weights := r.weights(app)
			r.inState(app.Name, decision.StateIdle)
			var steps atomic.Int32
			var dead atomic.Bool
			a.tap.before(func(q *http.Request, c call) error {
				switch {
				case dead.Load():
					return errKilled // the Lease is neither renewed nor given up
				case isStep(q, c) && steps.Add(1) == 2 && !after:
					dead.Store(true)
					return errKilled
				case steps.Load() >= 2 && !isStep(q, c):
					dead.Store(true)
					return errKilled
				}
				return nil
			})
			r.must(app.Deploy(t.Context(), "v2", "orders:2.1"))

			r.waitUpTo(leaderDuration+patience, "the Lease runs out", func() error {
				if !b.Leads() {
					return errors.New("b does not lead")
				}
				return nil
			})
			r.inState(app.Name, decision.StatePromoted)
			r.must(isAt(t.Context(), app, 100))
			if !b.Leads() || !dead.Load() {
				t.Errorf("b leads: %v, a is dead: %v", b.Leads(), dead.Load())
			}
			if got, want := weights(), []int64{0, 10, 50, 100}; !slices.Equal(got, want) {
				t.Errorf("weights %v, want %v", got, want)
			}
			if got, want := r.told(app.Name), []string{"new-build 0→0", "step 0→10", "step 10→50", "step 50→100", "promoted 50→100"}; !slices.Equal(got, want) {
				t.Errorf("history %q\nwant %q", got, want)
			}
			b.stop() // before a, whose last wishes are not heard
		})
	}
}

func TestARollbackInTheInstantOfAStepWins(t *testing.T) {
	r := newRig(t)
	app := r.app("orders-service")
	a := r.start(r.autoGuard(app.Name))
	a.leader()
	b := r.start(r.autoGuard(app.Name))
	weights := r.weights(app)
	var steps atomic.Int32
	a.tap.before(func(q *http.Request, c call) error {
		if isStep(q, c) && steps.Add(1) == 2 { // decided, recorded, and on its way
			if err := b.fire(app.Name, badAlert("CanaryErrors")); err != nil {
				t.Errorf("b: %v", err)
			}
		}
		return nil
	})
	r.must(app.Deploy(t.Context(), "v2", "orders:2.1"))
	rec := r.inState(app.Name, decision.StateRolledBack)
	r.wait("the step has failed", func() error {
		for _, c := range a.tap.answered() {
			if c.verb == "patch" && c.resource == "virtualservices" && c.code >= 400 {
				return nil
			}
		}
		return errors.New("no patch was refused")
	})
	b.resolve(app.Name)
	a.Enqueue(app.Name)
	r.must(isAt(t.Context(), app, 0))
	if got, want := weights(), []int64{0, 10, 0}; !slices.Equal(got, want) {
		t.Errorf("weights %v, want %v", got, want)
	}
	if rec.Lock == nil || rec.Lock.Alert != "CanaryErrors" || rec.Status.WaitingFor != decision.WaitLock && rec.Status.WaitingFor != "" {
		t.Errorf("lock %+v, waits for %q", rec.Lock, rec.Status.WaitingFor)
	}
}

// waitsFor waits until a guard's next step waits for something.
func (r *rig) waitsFor(guard string, want decision.Wait) decision.Record {
	r.t.Helper()
	var got decision.Record
	r.wait(guard+" waits for "+string(want), func() (err error) {
		if got, err = r.record(guard); err == nil && got.Status.WaitingFor != want {
			err = fmt.Errorf("%s, waits for %q (%s)", got.Status.State, got.Status.WaitingFor, got.Status.Waiting)
		}
		return err
	})
	return got
}

func TestAnAlertThatOnlyTheOtherReplicaHasHeardStopsSteps(t *testing.T) {
	r := newRig(t)
	app := r.app("orders-service")
	a := r.start(r.autoGuard(app.Name)) // AskForward tells of no alert at all
	a.leader()
	b := r.start(r.autoGuard(app.Name))
	hold := badAlert("StableErrors")
	hold.Action = decision.ActionHold
	r.must(b.fire(app.Name, hold))
	r.must(app.Deploy(t.Context(), "v2", "orders:2.1"))
	rec := r.waitsFor(app.Name, decision.WaitAlert)
	if rec.Status.Waiting != "waiting: alert StableErrors fires" || rec.Status.NextStep != 10 || !slices.Equal(rec.Status.Steps, []int{10, 50, 100}) {
		t.Errorf("status %+v", rec.Status)
	}
	r.request(app.Name, decision.RequestPromote)
	r.wait("promote refused", func() error {
		if told := r.told(app.Name); !slices.Contains(told, "refused 0→0") {
			return fmt.Errorf("history %q", told)
		}
		return nil
	})
	r.must(isAt(t.Context(), app, 0))
	if got := a.metric("guardian_promotion_waiting", app.Name, "alert"); got != 1 {
		t.Errorf("guardian_promotion_waiting{reason=alert} is %v", got)
	}
}

// checkTold waits until Events on a VirtualService have told of something so
// many times.
func (r *rig) checkTold(name, reason, text string, want int) {
	r.t.Helper()
	r.wait("event "+reason, func() error {
		list, err := r.kube.CoreV1().Events(r.ns).List(r.t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		n := 0
		for _, e := range list.Items {
			if e.InvolvedObject.Name == name && e.Reason == reason && strings.Contains(e.Message, text) {
				n += max(1, int(e.Count))
			}
		}
		if n != want {
			return fmt.Errorf("told %d times, want %d", n, want)
		}
		return nil
	})
}

func TestWithoutPrometheusItWaitsAndThenGoesOnToTheEnd(t *testing.T) {
	r := newRig(t)
	app := r.app("orders-service")
	g := r.autoGuard(app.Name)
	g.Rollback.Window = 3 * time.Second
	var stopped atomic.Bool
	var asked atomic.Int32
	change := func(o *Options) {
		o.AskForward = func(context.Context, decision.Guard, decision.Sides, time.Time) (decision.Forward, []decision.Alert) {
			if stopped.Load() {
				return decision.Forward{Err: fmt.Sprintf("Prometheus does not answer: connection %d refused", asked.Add(1))}, nil
			}
			return decision.Forward{Requests: 1000}, nil
		}
	}
	a := r.startWith(change, g)
	a.leader()
	b := r.startWith(change, g)
	var once sync.Once
	a.tap.before(func(q *http.Request, c call) error {
		if isStep(q, c) {
			once.Do(func() { stopped.Store(true) }) // at 10%
		}
		return nil
	})
	r.must(app.Deploy(t.Context(), "v2", "orders:2.1"))
	rec := r.waitsFor(app.Name, decision.WaitAnswers)
	if rec.Status.Weight != 10 || rec.Status.NextStep != 50 || !strings.Contains(rec.Status.Waiting, "Prometheus does not answer") {
		t.Errorf("status %+v", rec.Status)
	}
	r.wait("metric on both", func() error {
		for _, p := range []*running{a, b} {
			if p.metric("guardian_promotion_waiting", "answers") != 1 {
				return fmt.Errorf("%s does not tell", p.o.Identity)
			}
		}
		return nil
	})
	for range 20 { // other reasons to look change nothing
		a.Enqueue(app.Name)
		b.Enqueue(app.Name)
	}
	r.checkTold(app.Name, "GuardianWaiting", "Prometheus does not answer", 1)
	r.must(isAt(t.Context(), app, 10))

	stopped.Store(false)
	r.inState(app.Name, decision.StateCompleted)
	r.checkTold(app.Name, "GuardianStep", "step to", 3)
	r.checkTold(app.Name, "GuardianPromoted", "until", 1)
	r.checkTold(app.Name, "GuardianCompleted", "rolls nothing back", 1)
	if got, want := r.told(app.Name), []string{"new-build 0→0", "step 0→10", "step 10→50", "step 50→100", "promoted 50→100", "completed 100→100"}; !slices.Equal(got, want) {
		t.Errorf("history %q\nwant %q", got, want)
	}
	for kind, want := range map[string]float64{"step": 3, "promoted": 1, "completed": 1} {
		if got := a.metric("guardian_promotion_events_total", kind) + b.metric("guardian_promotion_events_total", kind); got != want {
			t.Errorf("guardian_promotion_events_total{kind=%s} is %v in all, want %v", kind, got, want)
		}
	}
}

func TestCIStepsInBetweenTwoSteps(t *testing.T) {
	r := newRig(t)
	app := r.app("orders-service")
	g := r.autoGuard(app.Name)
	g.Promotion.Steps = []decision.Step{{Weight: 10}, {Weight: 30, Interval: time.Hour}, {Weight: 100, Interval: time.Hour}}
	a := r.start(g)
	a.leader()
	r.must(app.Deploy(t.Context(), "v2", "orders:2.1"))
	r.atWeight(app, 10)
	first := r.waitsFor(app.Name, decision.WaitInterval).Status
	_, err := r.kubectl("apply", "-f", r.manifest(app.Name, 80, 20))
	r.must(err)
	r.wait("CI's weight seen", func() error { return r.weightSeen(app.Name, 20) })
	rec := r.waitsFor(app.Name, decision.WaitInterval)
	s := rec.Status
	if !s.MovedAt.After(first.MovedAt) || !s.NextAt.Equal(s.MovedAt.Add(time.Hour)) || s.NextStep != 30 {
		t.Errorf("moved at %s, next %d%% at %s; it was moved at %s", s.MovedAt, s.NextStep, s.NextAt, first.MovedAt)
	}
	r.request(app.Name, decision.RequestPromote)
	r.atWeight(app, 30)
}

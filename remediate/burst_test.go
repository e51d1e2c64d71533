package remediate

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	"github.com/canary-guardian/guardian/test/controlplane"
)

// burstSize is how many guards are rolled back at once, and for how long: a few in
// every run of the tests, and
// with GUARDIAN_BURST=full as many as the project promises to stand.
func burstSize() (guards int, lasts time.Duration) {
	if os.Getenv("GUARDIAN_BURST") == "full" {
		return 200, time.Minute
	}
	return 20, 4 * time.Second
}

// exposure adds up for how long each canary had traffic, by what the API
// server tells a watch.
type exposure struct {
	mu      sync.Mutex
	since   map[string]time.Time
	seconds map[string]time.Duration
	times   int
}

// measure watches the namespace's VirtualServices until ctx ends.
func (r *rig) measure(ctx context.Context) (*exposure, func()) {
	r.t.Helper()
	e := &exposure{since: map[string]time.Time{}, seconds: map[string]time.Duration{}}
	list, err := r.dynamic.Resource(virtualServiceResource).Namespace(r.ns).List(ctx, metav1.ListOptions{})
	r.must(err)
	for i := range list.Items {
		e.observe(&list.Items[i])
	}
	w, err := watchtools.NewRetryWatcherWithContext(ctx, list.GetResourceVersion(), &cache.ListWatch{WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
		return r.dynamic.Resource(virtualServiceResource).Namespace(r.ns).Watch(ctx, o)
	}})
	r.must(err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for event := range w.ResultChan() {
			if vs, ok := event.Object.(*unstructured.Unstructured); ok && event.Type != watch.Error {
				e.observe(vs)
			}
		}
	}()
	return e, func() { w.Stop(); <-done }
}

func (e *exposure) observe(vs *unstructured.Unstructured) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now, name := time.Now(), vs.GetName()
	since, exposed := e.since[name]
	t, err := virtualservice.Inspect(vs.Object, virtualservice.Pair{Stable: virtualservice.Ref{Subset: "v1"}, Canary: virtualservice.Ref{Subset: "v2"}}, virtualservice.Options{})
	switch is := err == nil && t.Weight > 0; {
	case is && !exposed:
		e.since[name] = now
		e.times++
	case !is && exposed:
		e.seconds[name] += now.Sub(since)
		delete(e.since, name)
	}
}

// sum is the whole exposure since the beginning, or since forget.
func (e *exposure) sum() (total, worst time.Duration, times int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	for name, since := range e.since {
		e.seconds[name] += now.Sub(since)
		e.since[name] = now
	}
	for _, d := range e.seconds {
		total, worst = total+d, max(worst, d)
	}
	return total, worst, e.times
}

func (e *exposure) forget() {
	e.mu.Lock()
	defer e.mu.Unlock()
	clear(e.seconds)
	e.times = 0
}

// manyApps makes apps with a split.
func (r *rig) manyApps(n int) ([]*controlplane.App, []decision.Guard) {
	r.t.Helper()
	apps, guards, errs := make([]*controlplane.App, n), make([]decision.Guard, n), make([]error, n)
	var wg sync.WaitGroup
	slots := make(chan struct{}, 8)
	for i := range n {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			name := fmt.Sprintf("orders-%d", i)
			guards[i] = r.guard(name)
			if apps[i], errs[i] = r.plane.NewApp(r.t.Context(), r.ns, name); errs[i] == nil {
				errs[i] = apps[i].SetWeights(r.t.Context(), 50, 50)
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		r.must(err)
	}
	return apps, guards
}

// rival re-applies 50/50 to every app, each pass 100 ms after the one before
// at the earliest. It counts what was let through and what was refused.
func (r *rig) rival(ctx context.Context, apps []*controlplane.App) (applied, refused *atomic.Int64, wait func()) {
	applied, refused = &atomic.Int64{}, &atomic.Int64{}
	var wg sync.WaitGroup
	const workers = 4
	for w := range workers {
		wg.Go(func() {
			tick := time.NewTicker(100 * time.Millisecond)
			defer tick.Stop()
			for {
				for i := w; i < len(apps) && ctx.Err() == nil; i += workers {
					if err := apps[i].SetWeights(ctx, 50, 50); err == nil {
						applied.Add(1)
					} else {
						refused.Add(1)
					}
				}
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
			}
		})
	}
	return applied, refused, wg.Wait
}

func TestARivalThatKeepsReApplyingGetsNowhere(t *testing.T) {
	for _, policy := range []bool{false, true} {
		t.Run(fmt.Sprintf("policy %v", policy), func(t *testing.T) {
			r := newRig(t)
			n, lasts := burstSize()
			if policy {
				r.underPolicies()
			}
			apps, guards := r.manyApps(n)
			a, b := r.start(guards...), r.start(guards...)
			start := time.Now()
			r.rollBackAll(apps, a, b)
			t.Logf("%d guards rolled back in %v", n, time.Since(start).Round(time.Millisecond))

			ctx, cancel := context.WithTimeout(t.Context(), lasts)
			defer cancel()
			seen, stop := r.measure(t.Context())
			seen.forget()
			applied, refused, wait := r.rival(ctx, apps)
			wait()
			r.allAtZero(apps, seen)
			total, worst, times := seen.sum()
			stop()
			t.Logf("%d guards, %v: the rival wrote %d times and was refused %d times; canaries had traffic %d times for %v in all (%.2f%% of the time), the worst of them for %v",
				n, lasts, applied.Load(), refused.Load(), times, total.Round(time.Millisecond), 100*total.Seconds()/(lasts.Seconds()*float64(n)), worst.Round(time.Millisecond))
			switch {
			case policy && (times > 0 || applied.Load() > 0):
				t.Errorf("under the policy canaries had traffic %d times, and %d writes were let through", times, applied.Load())
			case policy && refused.Load() == 0, !policy && (times == 0 || applied.Load() == 0):
				t.Error("the rival has done nothing: nothing was tested")
			}
			for _, app := range apps {
				if rec := r.inState(app.Name, decision.StateRolledBack); rec.Lock == nil {
					t.Errorf("%s: not locked", app.Name)
				}
			}
		})
	}
}

// rollBackAll has one alert for each guard heard by both replicas, and returns
// when both say that all is recorded.
func (r *rig) rollBackAll(apps []*controlplane.App, replicas ...*running) {
	r.t.Helper()
	var wg sync.WaitGroup
	for _, app := range apps {
		alert := badAlert("CanaryErrors")
		for _, p := range replicas {
			wg.Go(func() {
				if err := p.fire(app.Name, alert); err != nil {
					r.t.Errorf("%s: %v", app.Name, err)
				}
			})
		}
	}
	wg.Wait()
	for _, app := range apps {
		r.atWeight(app, 0)
	}
}

// allAtZero waits until nothing is exposed, and all is at 0 for the API server.
func (r *rig) allAtZero(apps []*controlplane.App, seen *exposure) {
	r.t.Helper()
	for _, app := range apps {
		r.atWeight(app, 0)
	}
	r.wait("exposure over", func() error {
		seen.mu.Lock()
		defer seen.mu.Unlock()
		if len(seen.since) > 0 {
			return fmt.Errorf("%d canaries have traffic", len(seen.since))
		}
		return nil
	})
}

func TestOneGuardUnderConstantFireStaysOnStable(t *testing.T) {
	r := newRig(t)
	app := r.app("orders-service")
	r.must(app.SetWeights(t.Context(), 50, 50))
	p := r.start(r.guard(app.Name))
	r.must(p.fire(app.Name, badAlert("CanaryErrors")))
	_, lasts := burstSize()
	ctx, cancel := context.WithTimeout(t.Context(), lasts)
	defer cancel()
	seen, stop := r.measure(t.Context())
	applied, _, wait := r.rival(ctx, []*controlplane.App{app})
	wait()
	r.allAtZero([]*controlplane.App{app}, seen)
	total, _, times := seen.sum()
	stop()
	t.Logf("%d times re-applied in %v: traffic on the canary %d times, %v in all, %v each time", applied.Load(), lasts, times,
		total.Round(time.Millisecond), (total / time.Duration(max(times, 1))).Round(100*time.Microsecond))
	rec := r.inState(app.Name, decision.StateRolledBack)
	told := 0
	for _, h := range rec.History {
		if h.Event == "reasserted" {
			told++
		}
	}
	if limit := 1 + int(lasts/decision.ReassertCoalesce); told == 0 || told > limit+1 {
		t.Errorf("re-assertions fill %d entries of the history, want 1 to %d", told, limit+1)
	}
	if !slices.ContainsFunc(p.tap.answered(), func(c call) bool { return c.verb == "patch" && c.resource == "virtualservices" }) {
		t.Error("the tap has seen no patch")
	}
}

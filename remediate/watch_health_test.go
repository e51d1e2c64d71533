package remediate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// fakeAPI answers the lists and watches of one resource.
type fakeAPI struct {
	mu         sync.Mutex // of list and open
	list, open error
	hangs      atomic.Bool // nothing is answered
	opened     *watch.FakeWatcher
}

// answers sets what lists and watches are answered from now on.
func (f *fakeAPI) answers(list, open error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list, f.open = list, open
}

func (f *fakeAPI) now() (list, open error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.list, f.open
}

func (f *fakeAPI) listWatch() *cache.ListWatch {
	answer := func(ctx context.Context, err error) error {
		if f.hangs.Load() {
			<-ctx.Done()
			return ctx.Err()
		}
		return err
	}
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, _ metav1.ListOptions) (runtime.Object, error) {
			list, _ := f.now()
			if err := answer(ctx, list); err != nil {
				return nil, err
			}
			return &corev1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: "1"}}, nil
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			_, open := f.now()
			if err := answer(ctx, open); err != nil {
				return nil, err
			}
			f.opened = watch.NewFakeWithChanSize(1, false)
			if o.SendInitialEvents != nil {
				f.opened.Action(watch.Bookmark, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "1", Annotations: map[string]string{metav1.InitialEventsAnnotationKey: "true"}}})
			}
			return f.opened, nil
		},
	}
}

// runInformer runs it until the test ends, without client-go's own handler of
// errors: that sleeps by the time of the last error, of whatever test.
func runInformer(t *testing.T, inf cache.SharedIndexInformer) {
	t.Helper()
	if err := inf.SetWatchErrorHandlerWithContext(func(context.Context, *cache.Reflector, error) {}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); inf.RunWithContext(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

func bookmark() *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "2"}}
}

func TestAWatchThatIsAwayForLongerThanItsGraceIsDead(t *testing.T) {
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "", errors.New("no"))
	expired := &apierrors.NewResourceExpired("too old").ErrStatus
	const grace = time.Minute
	for name, c := range map[string]struct {
		happens func(f *fakeAPI)
		after   time.Duration // of which happens was
		dead    string        // why; empty: it is not
	}{
		"quiet for a day":                         {func(*fakeAPI) {}, 24 * time.Hour, ""},
		"ended, as API servers end all":           {func(f *fakeAPI) { time.Sleep(7 * time.Minute); f.opened.Stop() }, 2 * time.Minute, ""},
		"refused, a moment ago":                   {func(f *fakeAPI) { f.answers(forbidden, forbidden); f.opened.Stop() }, grace / 2, ""},
		"refused":                                 {func(f *fakeAPI) { f.answers(forbidden, forbidden); f.opened.Stop() }, grace + time.Second, "forbidden"},
		"refused, though the list is answered":    {func(f *fakeAPI) { f.answers(nil, forbidden); f.opened.Stop() }, grace + time.Second, "forbidden"},
		"begun anew, since it was too far behind": {func(f *fakeAPI) { f.opened.Error(expired) }, 2 * grace, ""},
		"too far behind, and the list is refused": {func(f *fakeAPI) { f.answers(forbidden, forbidden); f.opened.Error(expired) }, 2 * grace, "forbidden"},
		"not answered, for a while":               {func(f *fakeAPI) { f.hangs.Store(true); f.opened.Stop() }, 2 * grace, ""},
		"not answered":                            {func(f *fakeAPI) { f.hangs.Store(true); f.opened.Stop() }, watchSilence + time.Second, errSilent.Error()},
		"told the time, and silent since":         {func(f *fakeAPI) { f.opened.Action(watch.Bookmark, bookmark()) }, watchSilence + time.Second, errSilent.Error()},
		"told the time, and silent for a minute":  {func(f *fakeAPI) { f.opened.Action(watch.Bookmark, bookmark()) }, grace + time.Second, ""},
		"told the time, and events since": {func(f *fakeAPI) {
			f.opened.Action(watch.Bookmark, bookmark())
			time.Sleep(watchSilence - time.Second)
			f.opened.Modify(bookmark())
		}, 2 * grace, ""},
		"refused, and allowed again": {func(f *fakeAPI) {
			f.answers(forbidden, forbidden)
			f.opened.Stop()
			time.Sleep(10 * time.Minute)
			f.answers(nil, nil)
		}, 2 * time.Minute, ""}, // client-go's longest wait
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, h := &fakeAPI{}, newWatchHealth(grace)
				inf := cache.NewSharedIndexInformer(h.follow(f.listWatch()), &corev1.Pod{}, 0, cache.Indexers{})
				runInformer(t, inf)
				synctest.Wait()
				c.happens(f)
				time.Sleep(c.after)
				synctest.Wait()
				away, why := h.dead(time.Now())
				if (why != nil) != (c.dead != "") || why != nil && (!strings.Contains(why.Error(), c.dead) || away < grace) {
					t.Errorf("dead for %s: %v, want %q", away, why, c.dead)
				}
			})
		})
	}
}

func TestNothingIsSeenOfTheAPIServerWhenNoWatchIsOpen(t *testing.T) {
	began := time.Now()
	i := &informers{parts: map[string]*cachePart{}, metrics: NewMetrics(prometheus.NewRegistry()), log: slog.New(slog.DiscardHandler), refilled: func() {}}
	for _, resource := range []string{resourceRecords, resourcePods, resourceServices} {
		i.parts[resource] = &cachePart{resource: resource, health: &watchHealth{grace: time.Minute, silence: watchSilence, since: began, open: true}}
		i.parts[resource].full.Store(true)
	}
	i.parts[resourceServices].health.rest()
	away := func(resource string, since time.Time) {
		h := i.parts[resource].health
		h.open, h.since, h.err = false, since, errors.New("connection refused")
	}
	look := func(after time.Duration, want time.Time) {
		t.Helper()
		i.checkWatches(began.Add(after))
		if got := i.unseenSince(); !got.Equal(want) {
			t.Errorf("after %s: nothing is seen since %v, want %v", after, got, want)
		}
	}
	look(time.Hour, time.Time{})
	lost := began.Add(time.Hour)
	away(resourceRecords, lost)
	look(time.Hour+10*time.Minute, time.Time{}) // they are read one by one
	away(resourcePods, lost.Add(15*time.Minute))
	look(time.Hour+15*time.Minute, time.Time{})
	look(time.Hour+17*time.Minute, lost.Add(15*time.Minute))
	i.parts[resourceRecords].health.open = true
	look(time.Hour+20*time.Minute, time.Time{})
}

func TestARequestWithoutAnAnswerIsMadeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, h := &fakeAPI{}, newWatchHealth(time.Minute)
		f.hangs.Store(true)
		inf := cache.NewSharedIndexInformer(h.follow(f.listWatch()), &corev1.Pod{}, 0, cache.Indexers{})
		runInformer(t, inf)
		time.Sleep(watchSilence)
		f.hangs.Store(false) // for new requests
		time.Sleep(time.Hour)
		if _, why := h.dead(time.Now()); why == nil {
			t.Error("it is not dead, and nobody has made it begin anew")
		}
		h.again()
		time.Sleep(2 * time.Minute) // client-go's longest wait
		if _, why := h.dead(time.Now()); why != nil {
			t.Errorf("still dead: %v", why)
		}
	})
}

func TestATransportTellsThatAWatchCannotBeOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newWatchHealth(time.Minute)
		lw := h.follow(&cache.ListWatch{WatchFuncWithContext: func(ctx context.Context, _ metav1.ListOptions) (watch.Interface, error) {
			WatchFailed(ctx, errors.New("connection refused"))
			<-ctx.Done() // it tries on and on
			return nil, ctx.Err()
		}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			if _, err := lw.WatchWithContext(ctx, metav1.ListOptions{}); err == nil {
				t.Error("opened")
			}
		}()
		time.Sleep(time.Minute)
		synctest.Wait()
		if _, why := h.dead(time.Now()); why == nil || why.Error() != "connection refused" {
			t.Errorf("dead: %v", why)
		}
		cancel()
		<-done
	})
}

func (h *watchHealth) isOpen() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.open
}

func aliveAgain(p *running) error {
	if !p.Ready() || p.metric("guardian_watch_alive", resourceVirtualServices) != 1 {
		return fmt.Errorf("not ready: %v", p.Missing())
	}
	return nil
}

// takeAway deletes the Role that grants one right alone.
func (r *rig) takeAway(right rbacv1.PolicyRule) {
	r.t.Helper()
	roles, err := r.kube.RbacV1().Roles(r.ns).List(r.t.Context(), metav1.ListOptions{})
	r.must(err)
	for _, role := range roles.Items {
		if reflect.DeepEqual(role.Rules, []rbacv1.PolicyRule{right}) {
			r.must(r.kube.RbacV1().Roles(r.ns).Delete(r.t.Context(), role.Name, metav1.DeleteOptions{}))
			return
		}
	}
	r.t.Fatal("nothing grants it")
}

// A watch that cannot be opened again makes the replica unready, is told, and
// what it would have told is read from the API server: traffic that a locked
// canary is given is taken away all the same.
func TestADeadWatchIsToldAndNotBelieved(t *testing.T) {
	r := newRigWithoutRights(t)
	r.must(r.plane.Grant(t.Context(), r.ns, r.user(), lacking(resourceVirtualServices, "list", "watch")...))
	right := rbacv1.PolicyRule{APIGroups: []string{IstioGroup}, Resources: []string{resourceVirtualServices}, Verbs: []string{"list", "watch"}}
	r.must(r.plane.Grant(t.Context(), r.ns, r.user(), right))
	app := r.app("orders-service")
	r.must(app.SetWeights(t.Context(), 50, 50))
	p := r.startWith(func(o *Options) { o.WatchGrace, o.Resync = 300*time.Millisecond, 200*time.Millisecond }, r.guard(app.Name))
	r.wait("alive", func() error { return aliveAgain(p) })
	r.must(p.fire(app.Name, badAlert("CanaryErrors")))
	r.inState(app.Name, decision.StateRolledBack)

	r.takeAway(right)
	r.wait("dead", func() error {
		if health := p.info.parts[resourceVirtualServices].health; health.isOpen() {
			health.again() // as the API server ends a watch
		}
		if missing := p.Missing(); p.Ready() || !slices.Equal(missing, []string{"virtualservices: cannot be watched (Forbidden)"}) {
			return fmt.Errorf("ready %v, missing %q", p.Ready(), missing)
		}
		return nil
	})
	if p.metric("guardian_watch_alive", resourceVirtualServices) != 0 || p.metric("guardian_watch_alive") != float64(len(p.info.parts)-1) {
		t.Errorf("guardian_watch_alive: %v in all", p.metric("guardian_watch_alive"))
	}
	r.must(app.SetWeights(t.Context(), 50, 50))
	r.atWeight(app, 0)

	r.must(r.plane.Grant(t.Context(), r.ns, r.user(), RBAC()...))
	r.wait("alive again", func() error { return aliveAgain(p) })
	for _, want := range []string{"a resource cannot be watched", "a resource is watched again"} {
		if !strings.Contains(p.log.String(), want) {
			t.Errorf("the log lacks %q", want)
		}
	}
}

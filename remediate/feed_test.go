package remediate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// podsAt are what a list answers: names and resource versions.
func podsAt(versions ...string) *corev1.PodList {
	l := &corev1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: "9"}}
	for i := 0; i < len(versions); i += 2 {
		l.Items = append(l.Items, *podAt(versions[i], versions[i+1]))
	}
	return l
}

func podAt(name, version string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, ResourceVersion: version}}
}

// tellings are what a feed has told since they were last taken.
type tellings struct {
	mu  sync.Mutex
	all []string
}

func (s *tellings) add(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, text)
}

func (s *tellings) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.all
	s.all = nil
	return out
}

// fedBy is a feed of pods, and what it tells.
func fedBy(list func() (*corev1.PodList, error), opened *[]*watch.FakeWatcher) (*feed, *tellings) {
	told := &tellings{}
	lw := &cache.ListWatch{
		ListWithContextFunc: func(context.Context, metav1.ListOptions) (runtime.Object, error) {
			l, err := list()
			if err != nil {
				return nil, err
			}
			return l, nil
		},
		WatchFuncWithContext: func(_ context.Context, o metav1.ListOptions) (watch.Interface, error) {
			if o.SendInitialEvents != nil {
				return nil, errors.New("it does not stream lists")
			}
			w := watch.NewFakeWithChanSize(1, false)
			*opened = append(*opened, w)
			return w, nil
		},
	}
	version := func(o any) string {
		if p, ok := o.(*slimPod); ok {
			return p.version
		}
		return "-"
	}
	f := &feed{cachePart: &cachePart{resource: resourcePods, health: newWatchHealth(time.Minute)}, kind: &corev1.Pod{}, trim: BuildParts{}.trim,
		index: cache.NewIndexer(cache.MetaNamespaceKeyFunc, podIndexers()), failing: func(err error) { told.add("failed: " + err.Error()) }}
	f.lw = f.health.follow(lw)
	f.changed = func(was, is any, first bool) {
		told.add(fmt.Sprintf("%s>%s %v", version(was), version(is), first))
	}
	return f, told
}

// A feed tells what has changed, across its runs as well, and of nothing else.
func TestAFeedTellsWhatHasChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		list := podsAt("a", "1", "b", "2", "c", "3")
		var opened []*watch.FakeWatcher
		f, told := fedBy(func() (*corev1.PodList, error) { return list, nil }, &opened)
		begin := func() (stop func()) {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { defer close(done); f.run(ctx, func() { told.add("filled") }) }()
			synctest.Wait()
			return func() { cancel(); <-done }
		}
		want := func(what string, want ...string) {
			t.Helper()
			synctest.Wait()
			if got := told.take(); !slices.Equal(got, want) {
				t.Errorf("%s: told %q, want %q", what, got, want)
			}
		}
		stop := begin()
		want("the first time", "->1 true", "->2 true", "->3 true", "filled")
		opened[0].Add(podAt("d", "4"))
		opened[0].Modify(podAt("a", "5"))
		opened[0].Modify(podAt("a", "5"))
		opened[0].Delete(podAt("d", "6"))
		want("events", "->4 false", "1>5 false", "4>- false")
		stop()

		kept, _, _ := f.index.GetByKey("shop/a")
		list = podsAt("a", "5", "b", "7", "e", "8")
		stop = begin()
		want("after a while", "2>7 false", "->8 false", "3>- false", "filled")
		if now, _, _ := f.index.GetByKey("shop/a"); now != kept {
			t.Error("what has not changed was replaced")
		}
		if n := len(f.index.ListKeys()); n != 3 {
			t.Errorf("%d pods, want 3", n)
		}
		stop()
	})
}

func TestAFeedTellsThatItFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := errors.New("refused")
		var granted atomic.Bool
		var opened []*watch.FakeWatcher
		f, told := fedBy(func() (*corev1.PodList, error) {
			if !granted.Load() {
				return nil, refused
			}
			return podsAt("a", "1"), nil
		}, &opened)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); f.run(ctx, func() {}) }()
		time.Sleep(time.Minute)
		synctest.Wait()
		if tries := told.take(); len(tries) < 4 || len(tries) > 10 || !errors.Is(f.lastError(), refused) || f.isFilled() {
			t.Errorf("told %q, last %v", tries, f.lastError())
		}
		granted.Store(true)
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := told.take(); !slices.Equal(got, []string{"->1 true"}) || !f.isFilled() {
			t.Errorf("told %q", got)
		}
		cancel()
		<-done
	})
}

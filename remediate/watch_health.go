package remediate

import (
	"context"
	"errors"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

const (
	// watchSilence is how long an API server may leave a request without an
	// answer, or a watch that has told the time by bookmarks, each minute, without
	// any. A watch without bookmarks may be quiet for as long as it likes.
	watchSilence = 3 * time.Minute
	// shortWatch is a watch that nothing came of: client-go makes one of a
	// connection that broke while it was being opened.
	shortWatch = time.Second
	// watchCheckEvery is how often the watches are looked at.
	watchCheckEvery = 5 * time.Second
)

// errSilent is why a watch is away that the API server does not answer.
var errSilent = errors.New("the API server does not answer")

// watchHealth knows whether a cache is kept up to date: whether a watch is open.
// API servers end each after some minutes, and one is opened again at once.
type watchHealth struct {
	grace   time.Duration // how long none may be open once it was refused
	silence time.Duration // and how long while there is no answer

	mu        sync.Mutex
	open      bool
	since     time.Time // it is open, or none is
	away      time.Time // when none was open last, for how long: its beginning
	heard     time.Time // the last event of the one that is open
	bookmarks bool      // it sends some
	events    bool      // it has sent any
	err       error     // why none is open; nil: no answer yet
	stop      func()    // ends what is under way
	last      int       // number of the last watch that was begun
	rests     bool      // nobody needs one
}

func newWatchHealth(grace time.Duration) *watchHealth {
	return &watchHealth{grace: grace, silence: max(grace, watchSilence), since: time.Now()}
}

// dead says for how long the cache has not been kept up to date, and why, once
// that has been for too long.
func (h *watchHealth) dead(now time.Time) (away time.Duration, why error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch away = now.Sub(h.since); {
	case h.rests:
	case h.open && h.bookmarks && now.Sub(h.heard) >= h.silence:
		return now.Sub(h.heard), errSilent
	case h.open:
	case h.err != nil && away >= h.grace:
		return away, h.err
	case away >= h.silence:
		return away, errSilent
	}
	return 0, nil
}

// begins notes that a watch is needed from now on.
func (h *watchHealth) begins(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open, h.since, h.err, h.rests = false, now, nil, false
	h.last++
}

// number is that of a watch that is being opened. One of before has nothing to say
// any more.
func (h *watchHealth) number() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last++
	return h.last
}

// rest notes that none is needed.
func (h *watchHealth) rest() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.rests = true
}

func (h *watchHealth) resting() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.rests
}

// again ends a request that is not answered, so that another is made.
func (h *watchHealth) again() {
	h.mu.Lock()
	stop := h.stop
	h.mu.Unlock()
	if stop != nil {
		stop()
	}
}

// begin makes a context for a request.
func (h *watchHealth) begin(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.WithValue(ctx, watchHealthKey{}, h))
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stop = cancel
	return ctx, cancel
}

func (h *watchHealth) failed(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.err = err
}

func (h *watchHealth) opened(watch int, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if watch != h.last {
		return
	}
	h.away = h.since
	h.open, h.since, h.heard, h.bookmarks, h.events, h.err = true, now, now, false, false, nil
}

// event notes a sign of life. An event that is an error ends the watch.
func (h *watchHealth) event(number int, e watch.Event, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if number != h.last {
		return
	}
	h.heard, h.events = now, true
	if e.Type == watch.Bookmark {
		h.bookmarks = true
	}
	if e.Type == watch.Error {
		h.close(now)
		h.err = apierrors.FromObject(e.Object)
	}
}

func (h *watchHealth) ended(watch int, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if watch == h.last {
		h.close(now)
	}
}

func (h *watchHealth) close(now time.Time) {
	if !h.open {
		return
	}
	if h.open = false; !h.events && now.Sub(h.since) < shortWatch {
		h.since = h.away // as if there had been none
		return
	}
	h.since = now
}

// follow is a ListWatch of which h knows how it fares.
func (h *watchHealth) follow(lw *cache.ListWatch) *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			ctx, cancel := h.begin(ctx)
			defer cancel()
			list, err := lw.ListWithContext(ctx, o)
			if err != nil {
				h.failed(err)
				return nil, err // and no list that is nil
			}
			return list, nil
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			ctx, cancel := h.begin(ctx)
			number := h.number()
			w, err := lw.WatchWithContext(ctx, o)
			if err != nil {
				cancel()
				h.failed(err)
				return nil, err
			}
			filling := o.SendInitialEvents != nil && *o.SendInitialEvents
			if !filling {
				h.opened(number, time.Now())
			}
			f := &followedWatch{inner: w, health: h, number: number, cancel: cancel, filling: filling, out: make(chan watch.Event), done: make(chan struct{})}
			go f.run()
			return f, nil
		},
	}
}

// followedWatch hands on what a watch sends.
type followedWatch struct {
	inner   watch.Interface
	health  *watchHealth
	number  int
	cancel  func()
	filling bool // it sends what there is before what changes
	out     chan watch.Event
	done    chan struct{}
	once    sync.Once
}

// Stop ends it.
func (f *followedWatch) Stop() {
	f.once.Do(func() {
		close(f.done)
		f.inner.Stop()
	})
}

// ResultChan is where the events come.
func (f *followedWatch) ResultChan() <-chan watch.Event { return f.out }

func (f *followedWatch) run() {
	defer close(f.out)
	defer f.cancel()
	defer f.inner.Stop()
	defer func() { f.health.ended(f.number, time.Now()) }()
	for e := range f.inner.ResultChan() {
		switch {
		case f.filling && lastInitial(e):
			f.filling = false
			f.health.opened(f.number, time.Now())
		case e.Type == watch.Error, !f.filling:
			f.health.event(f.number, e, time.Now())
		}
		select {
		case f.out <- e:
		case <-f.done:
			return
		}
	}
}

// lastInitial says that all objects that there were have been sent.
func lastInitial(e watch.Event) bool {
	if e.Type != watch.Bookmark {
		return false
	}
	o, ok := e.Object.(metav1.Object)
	return ok && o.GetAnnotations()[metav1.InitialEventsAnnotationKey] == "true"
}

type watchHealthKey struct{}

// WatchFailed is for a transport that goes on trying to open a watch: it tells,
// by the context of the request, that a try has failed.
func WatchFailed(ctx context.Context, err error) {
	if h, ok := ctx.Value(watchHealthKey{}).(*watchHealth); ok {
		h.failed(err)
	}
}

// resourceClient lists and watches one resource of Kubernetes's own.
type resourceClient[L runtime.Object] interface {
	List(ctx context.Context, o metav1.ListOptions) (L, error)
	Watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error)
}

// listWatch lists and watches what labels select; empty: all.
func listWatch[L runtime.Object](c resourceClient[L], labels string) *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.LabelSelector = labels
			list, err := c.List(ctx, o)
			if err != nil {
				return nil, err
			}
			return list, nil
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.LabelSelector = labels
			return c.Watch(ctx, o)
		},
	}
}

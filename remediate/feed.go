package remediate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// How long a list or a watch that has failed is waited for before it is tried
// again: client-go's own times.
var feedBackoff = wait.Backoff{Duration: 800 * time.Millisecond, Cap: 30 * time.Second, Steps: 6, Factor: 2, Jitter: 1}

// feedHealthy is how long a watch must have been open for the next to be tried as
// soon as the first.
const feedHealthy = 2 * time.Minute

// cachePart is one of the caches: whether it is filled, and kept up to date.
type cachePart struct {
	resource string
	health   *watchHealth
	full     atomic.Bool // it has been filled
	dead     atomic.Bool // as it was last looked at
	outdated atomic.Bool // it was not watched for a while, and has not been filled again

	mu  sync.Mutex
	err error // the last one that kept it from that
}

func (p *cachePart) isFilled() bool { return p.full.Load() }

func (p *cachePart) failed(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
}

func (p *cachePart) lastError() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// feed keeps a cache of one resource as the API server has it, for as long as it
// runs. It may run again: what it holds stays, and the next run brings it up to
// date.
type feed struct {
	*cachePart
	kind    runtime.Object // what is listed
	lw      cache.ListerWatcher
	index   cache.Indexer
	trim    cache.TransformFunc
	own     func(brought any) any         // what was written, if that is what was brought; nil: nothing is written
	changed func(was, is any, first bool) // nil: it was not there, or is gone; first: when the cache is first filled
	failing func(error)
}

// run keeps the cache up to date until ctx ends. filled is called each time that
// all there is has been listed.
func (f *feed) run(ctx context.Context, filled func()) {
	f.health.begins(time.Now())
	quiet := klog.New(nil) // what fails is told here, and to end a watch is no failure
	ctx = klog.NewContext(ctx, quiet)
	r := cache.NewReflectorWithOptions(f.lw, f.kind, &filling{f, filled}, cache.ReflectorOptions{Name: f.resource, TypeDescription: f.resource, Logger: &quiet})
	backoff := feedBackoff
	for {
		began := time.Now()
		if err := r.ListAndWatchWithContext(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, io.EOF) { // a watch that ends is begun anew
			f.failed(err)
			f.failing(err)
		}
		if time.Since(began) >= feedHealthy {
			backoff = feedBackoff
		}
		again := time.NewTimer(backoff.Step())
		select {
		case <-ctx.Done():
			again.Stop()
			return
		case <-again.C:
		}
	}
}

// filling is a feed as the store of one run.
type filling struct {
	*feed
	filled func()
}

// Transformer implements cache.TransformingStore: lists that are streamed are
// slim from the beginning.
func (f *filling) Transformer() cache.TransformFunc { return f.trim }

// Add implements cache.ReflectorStore.
func (f *filling) Add(obj any) error { _, err := f.put(obj, false); return err }

// Update implements cache.ReflectorStore.
func (f *filling) Update(obj any) error { return f.Add(obj) }

// Resync implements cache.ReflectorStore: guards are looked at again all the time.
func (f *filling) Resync() error { return nil }

// Delete implements cache.ReflectorStore.
func (f *filling) Delete(obj any) error {
	key, err := cache.MetaNamespaceKeyFunc(obj)
	if err != nil {
		return fmt.Errorf("%s: %w", f.resource, err)
	}
	return f.drop(key)
}

// Replace implements cache.ReflectorStore.
func (f *filling) Replace(list []any, _ string) error {
	first, there := !f.isFilled(), make(map[string]bool, len(list))
	for _, obj := range list {
		key, err := f.put(obj, first)
		if err != nil {
			return err
		}
		there[key] = true
	}
	for _, key := range f.index.ListKeys() {
		if there[key] {
			continue
		}
		if err := f.drop(key); err != nil {
			return err
		}
	}
	f.full.Store(true)
	f.filled()
	return nil
}

// put stores an object, and tells of it. What is there in this very version stays.
func (f *feed) put(obj any, first bool) (key string, err error) {
	if obj, err = f.trim(obj); err != nil {
		return "", fmt.Errorf("%s: %w", f.resource, err)
	}
	if key, err = cache.MetaNamespaceKeyFunc(obj); err != nil {
		return "", fmt.Errorf("%s: %w", f.resource, err)
	}
	was, found, err := f.index.GetByKey(key)
	switch {
	case err != nil:
		return "", fmt.Errorf("%s: %w", f.resource, err)
	case found && sameVersion(was, obj):
		return key, nil
	case !found:
		was = nil
	}
	if f.own != nil {
		obj = f.own(obj)
	}
	if err := f.index.Add(obj); err != nil {
		return "", fmt.Errorf("%s: %w", f.resource, err)
	}
	f.changed(was, obj, first)
	return key, nil
}

func sameVersion(a, b any) bool {
	x, err := meta.Accessor(a)
	y, err2 := meta.Accessor(b)
	return err == nil && err2 == nil && x.GetResourceVersion() == y.GetResourceVersion()
}

func (f *feed) drop(key string) error {
	was, found, err := f.index.GetByKey(key)
	if err != nil || !found {
		return err
	}
	if err := f.index.Delete(was); err != nil {
		return fmt.Errorf("%s: %w", f.resource, err)
	}
	f.changed(was, nil, false)
	return nil
}

package remediate

import (
	"context"
	"maps"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// fillTimeout is how long guardian waits at its start for a cache that has
// neither been filled nor been refused, while the API server fills others.
const fillTimeout = 30 * time.Second

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

// lacks says whether a cache is not filled, or is not up to date: what it would
// hold is to be read from the API server.
func (i *informers) lacks(resource string) bool {
	p, ok := i.parts[resource]
	return ok && (!p.isFilled() || p.outdated.Load() || p.dead.Load() && i.stale.Load())
}

// unfilled says whether a cache was never filled.
func (i *informers) unfilled(resource string) bool {
	p, ok := i.parts[resource]
	return ok && !p.isFilled()
}

// missing are the resources whose caches are not filled, sorted.
func (i *informers) missing() []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(i.parts)) {
		if !i.parts[name].isFilled() {
			out = append(out, name)
		}
	}
	return out
}

// settled says that to wait longer for the caches is of no use: each is filled
// or has been refused, or some are and the others have had their time.
func (i *informers) settled(waited time.Duration) bool {
	filled, refused := 0, 0
	for name, p := range i.parts {
		switch {
		case p.isFilled():
			filled++
			i.metrics.cacheFilled(name, true)
		case unreadable(p.lastError()) != "":
			refused++
		}
	}
	return filled+refused == len(i.parts) || filled > 0 && waited >= fillTimeout
}

// start fills the caches; false: ctx has ended before. One that cannot be filled
// keeps no guard from its brake: what it would hold is read live.
func (i *informers) start(ctx context.Context) bool {
	for _, f := range i.always {
		i.running.Go(func() { f.run(ctx, func() {}) })
	}
	i.running.Go(func() { i.watchOnDemand(ctx) })
	i.running.Go(func() { i.watchOver(ctx, min(watchCheckEvery, max(i.grace/4, time.Millisecond))) })
	if !i.waitUntil(ctx, i.settled) {
		return false
	}
	i.running.Go(debug.FreeOSMemory) // the first lists leave several times the caches' size as garbage
	missing := i.missing()
	if len(missing) == 0 {
		i.synced.Store(true)
		return true
	}
	for _, name := range missing {
		i.log.Error("a resource cannot be listed: it is read object by object, and where that is refused as well a guard that needs it is blocked on an alert",
			"namespace", i.namespace, "resource", name, "err", i.parts[name].lastError())
	}
	i.running.Go(func() {
		if i.waitUntil(ctx, func(time.Duration) bool { i.settled(0); return len(i.missing()) == 0 }) {
			i.synced.Store(true)
			i.log.Info("all that guardian watches can be listed now", "namespace", i.namespace)
			i.refilled()
		}
	})
	return true
}

// waitUntil looks again and again whether something is so; false: ctx has ended
// before.
func (i *informers) waitUntil(ctx context.Context, ok func(waited time.Duration) bool) bool {
	began := time.Now()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok(time.Since(began)) {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
	return true
}

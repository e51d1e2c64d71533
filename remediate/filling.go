package remediate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"time"
)

// fillTimeout is how long guardian waits at its start for a cache that has
// neither been filled nor been refused, while the API server fills others.
const fillTimeout = 30 * time.Second

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

// stop waits for the watches, whose context has ended.
func (i *informers) stop() {
	i.synced.Store(false)
	i.running.Wait()
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

// watchOver notes which watches are dead and which are back, until ctx ends.
func (i *informers) watchOver(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			i.checkWatches(time.Now())
		}
	}
}

func (i *informers) checkWatches(now time.Time) {
	dead, needed, changed := 0, 0, false
	var seen time.Time // a watch was open last
	for _, name := range slices.Sorted(maps.Keys(i.parts)) {
		p := i.parts[name]
		away, why := p.health.dead(now)
		if !p.health.resting() {
			needed++
		}
		is, was := why != nil && p.isFilled(), p.dead.Load()
		if is {
			dead++
			if open := now.Add(-away); open.After(seen) {
				seen = open
			}
			if errors.Is(why, errSilent) {
				p.health.again()
			}
			p.failed(why)
		}
		if p.dead.Store(is); is == was {
			continue
		}
		changed = true
		i.metrics.watchAlive(name, !is)
		if was {
			i.log.Info("a resource is watched again", "namespace", i.namespace, "resource", name)
			continue
		}
		i.log.Error("a resource cannot be watched: what its cache holds is not believed, its objects are read from the API server, and this replica is not ready",
			"namespace", i.namespace, "resource", name, "for", away.Round(time.Second).String(), "err", why)
	}
	i.dead.Store(dead > 0)
	// Where nothing can be watched, nothing can be read either.
	i.stale.Store(dead > 0 && dead < needed)
	if dead > 0 && dead == needed {
		i.unseen.Store(seen.UnixNano())
	} else {
		i.unseen.Store(0)
	}
	if changed {
		i.refilled()
	}
}

// unseenSince is zero while anything is kept up to date.
func (i *informers) unseenSince() time.Time {
	if at := i.unseen.Load(); at != 0 {
		return time.Unix(0, at)
	}
	return time.Time{}
}

// troubles are the resources whose caches are not filled or not kept up to date,
// each with why, in words that show nothing but the kind of the API server's
// answer.
func (i *informers) troubles() []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(i.parts)) {
		switch p := i.parts[name]; {
		case !p.isFilled():
			out = append(out, fmt.Sprintf("%s: cannot be listed (%s)", name, answerOf(p.lastError())))
		case p.dead.Load():
			out = append(out, fmt.Sprintf("%s: cannot be watched (%s)", name, answerOf(p.lastError())))
		}
	}
	return out
}

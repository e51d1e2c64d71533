package remediate

import (
	"context"
	"sync"
	"time"
)

// Most guards have no canary most of the time, and guardian is installed for each
// namespace. So only what tells that something begins is watched all the time:
// records, VirtualServices and pods. The rest is watched from then on, and until
// nothing has gone on for a while. What its caches hold meanwhile is good enough for
// a guard that nothing goes on of, and is brought up to date now and then; it is
// believed for nothing else (see reconciler.gatherFrom).

// idle says whether what the caches of onDemand hold is of a while ago.
func (i *informers) idle() bool {
	i.demand.mu.Lock()
	defer i.demand.mu.Unlock()
	return i.demand.idle
}

// stir notes that something goes on. Where the caches of onDemand were left alone,
// they are not believed until they are filled again.
func (i *informers) stir() {
	d := &i.demand
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.last = time.Now(); !d.idle {
		return
	}
	d.idle = false
	for _, f := range i.onDemand {
		f.outdated.Store(!d.fresh[f])
	}
	select {
	case d.woken <- struct{}{}:
	default:
	}
}

// stirredBy stirs if a change, which matters to a guard, is of what is watched all
// the time.
func (i *informers) stirredBy(obj any) {
	switch obj.(type) {
	case *slimPod, *slimDeployment, *slimRevision, *slimSlice, *slimService, *slimRule:
		return
	}
	i.stir()
}

// stirredByPod stirs if a pod that has come, changed or gone may be of another
// build, or is the canary's. Stable's come and go with its load.
func (i *informers) stirredByPod(p *slimPod) {
	if p.unmanaged() {
		return
	}
	ref, in := p.revision(), i.reader.replicas
	if ref.kind == kindControllerRevision {
		in = i.reader.revisionIx
	}
	if _, known := get[slimRevision](i.reader, in, ref.name); !known {
		i.stir()
		return
	}
	for _, g := range i.guardsOf(p) {
		if want, ok := i.selectorOf(g, g.Canary); !ok || want.matches(p.labels) {
			i.stir()
			return
		}
	}
}

// watchOnDemand watches while something goes on, and else looks now and then,
// until ctx ends.
func (i *informers) watchOnDemand(ctx context.Context) {
	for ctx.Err() == nil {
		i.watchWhileNeeded(ctx)
		again := time.NewTimer(i.demand.look)
		select {
		case <-ctx.Done():
		case <-i.demand.woken:
		case <-again.C:
		}
		again.Stop()
	}
}

// watchWhileNeeded fills the caches of onDemand and keeps them up to date for as
// long as something goes on.
func (i *informers) watchWhileNeeded(ctx context.Context) {
	var watches sync.WaitGroup
	defer watches.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	run, filled := i.nextRun(), make(chan struct{}, 1)
	for _, f := range i.onDemand {
		watches.Go(func() {
			f.run(ctx, func() {
				i.isFresh(f, run)
				select {
				case filled <- struct{}{}:
				default:
				}
			})
		})
	}
	tick := time.NewTicker(min(watchCheckEvery, max(i.demand.after.Abs()/4, time.Millisecond)))
	defer tick.Stop()
	for !i.needless(time.Now()) {
		select {
		case <-ctx.Done():
			return
		case <-filled:
		case <-tick.C:
		}
	}
}

func (i *informers) nextRun() int {
	d := &i.demand
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.fresh)
	d.run++
	return d.run
}

// isFresh notes that a cache has been filled by a run of its watch.
func (i *informers) isFresh(f *feed, run int) {
	d := &i.demand
	d.mu.Lock()
	defer d.mu.Unlock()
	if run == d.run {
		d.fresh[f] = true
		f.outdated.Store(false)
	}
}

// needless says that all caches of onDemand are up to date and nobody needs them to
// stay so. From then on they are old.
func (i *informers) needless(now time.Time) bool {
	d := &i.demand
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.after < 0 || len(d.fresh) < len(i.onDemand) || !d.idle && now.Sub(d.last) < d.after {
		return false
	}
	for _, f := range i.onDemand {
		if f.dead.Load() {
			return false
		}
	}
	for _, f := range i.onDemand {
		f.health.rest()
	}
	d.idle = true
	clear(d.fresh)
	d.run++
	return true
}

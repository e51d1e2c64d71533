package virtualservice

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strings"
)

// Inspect reads what a VirtualService, as decoded JSON, sends to the canary.
// The error is an UnsafeError when the VirtualService does not name the pair
// anywhere, and names the field and its value when it is malformed.
func Inspect(vs map[string]any, p Pair, o Options) (Traffic, error) {
	v, err := Read(vs, p)
	if err != nil {
		return Traffic{}, err
	}
	if err := v.Named(); err != nil {
		return Traffic{}, err
	}
	return v.Traffic(o), nil
}

// Rewritten is what Rewrite wants to be written.
type Rewritten struct {
	Ops           []Op // empty: the VirtualService is already as it should be
	Before, After Traffic
	// Moved are the marks of the routes with a match of testers that a step has
	// set: from now on they are of the split (Options.Split).
	Moved []string
	// Changes are the fields besides weights that guardian has re-pointed in
	// this VirtualService and that still are as it wrote them, once Ops are
	// applied. They replace those that were handed in for it.
	Changes []Change
}

// Rewrite works out how to give the canary the weight, in percent of the
// pair's traffic, in every route of a VirtualService. vs is decoded JSON and
// is not changed. changes is what a record remembers, of any VirtualService.
//
// Weight 0 is a rollback: all that the pair's routes give to the canary goes
// to stable, and what leads to the canary only or to its host without a subset,
// or mirrors to either, is re-pointed or stopped as o says, and remembered in
// the result's Changes, and so are the weights of testers' routes that name
// both and were the canary's alone. Weight 1–100 sets the share in the routes that
// split, or are to, to the next that their weights can express and that reads as no less,
// and restores those changes that still are as guardian wrote them; routes that
// led everybody to the canary, or to its host without a subset, are restored at
// 100 only. Where the weights of a route can express nothing near, as 3 in all
// cannot express 10%, nothing is written.
// KeepWeights restores as well, except for those, and touches no weight.
//
// Every route keeps its total weight and every other destination its own. A
// route whose weights were all 0, which Envoy refuses together with all other
// routes of its port, comes out with 100 for stable.
//
// The error is an UnsafeError when nothing safe can be written, and names the
// field and its value when the VirtualService is malformed.
func Rewrite(vs map[string]any, p Pair, weight int, o Options, changes []Change) (Rewritten, error) {
	out, copied, err := Edit(vs, p, weight, o, changes)
	if err != nil {
		return Rewritten{}, err
	}
	after, err := Read(copied, p)
	if err != nil { // cannot be: only valid values were written
		return Rewritten{}, err
	}
	o.Split = strings.Join(append(strings.Fields(o.Split), out.Moved...), " ")
	out.After = after.Traffic(o)
	return out, nil
}

// Edit is Rewrite without After, and with the VirtualService as it becomes.
func Edit(vs map[string]any, p Pair, weight int, o Options, changes []Change) (Rewritten, map[string]any, error) {
	if weight < KeepWeights || weight > 100 {
		return Rewritten{}, nil, fmt.Errorf("weight %d: want 0 to 100, or %d to restore only", weight, KeepWeights)
	}
	copied, ok := deepCopy(vs).(map[string]any)
	if !ok {
		return Rewritten{}, nil, errors.New("no VirtualService")
	}
	v, err := Read(copied, p)
	if err != nil {
		return Rewritten{}, nil, err
	}
	out := Rewritten{Before: v.Traffic(o)}
	e := &edit{v: v}
	standing := e.standing(changes)
	if weight == 0 {
		err = e.rollback(o)
		out.Changes = merge(standing, e.changes())
	} else {
		out.Changes, err = e.restore(standing, weight)
		if err == nil && weight > 0 {
			err = e.forward(weight, o)
		}
	}
	if err != nil {
		return Rewritten{}, nil, err
	}
	out.Ops, out.Moved = e.ops, e.moved
	return out, copied, nil
}

// rollback takes everything from the canary that o covers.
func (e *edit) rollback(o Options) error {
	if err := e.v.Named(); err != nil {
		return err
	}
	parts := e.v.parts(o)
	for i, r := range e.v.routes {
		if err := e.rollbackRoute(r, parts[i], o); err != nil {
			return err
		}
		if !o.Mirrors {
			continue
		}
		for _, m := range r.mirrors {
			if m.toCanary() {
				e.stop(r, m)
			}
		}
	}
	return nil
}

func (e *edit) rollbackRoute(r *route, part part, o Options) error {
	if r.left(o) {
		return nil
	}
	for _, d := range r.of(unsplit) {
		if d.weight > 0 {
			e.repoint(r, d)
		}
	}
	toCanary := r.of(canary)
	switch {
	case len(toCanary) == 0:
		return nil
	case r.names(stable) && part == aside:
		return e.shareForAWhile(r)
	case r.names(stable):
		return e.share(r, r.pairTotal(), 0)
	case !r.leadsToCanary() && !r.allZero():
		return nil
	}
	repair := r.allZero()
	for _, d := range toCanary {
		e.repoint(r, d)
	}
	if repair {
		e.set(toCanary[0].entry, toCanary[0].where, "weight", int64(100))
	}
	return nil
}

// repoint leads a destination of the canary, or of both, to stable.
func (e *edit) repoint(r *route, d *destination) {
	where := d.where.key("destination")
	ref := e.v.pair.Stable
	var subset any
	if ref.Subset != "" {
		subset = ref.Subset
	}
	if host := e.v.stableHost(d); host != d.host {
		e.change(r, false, d.object, where, "host", host)
	}
	if subset == nil || d.subset != ref.Subset {
		e.change(r, false, d.object, where, "subset", subset)
	}
}

// stop sets a mirror to 0%. Removing it would shift a list's indices, and
// leading it to stable would double stable's load and its side effects.
func (e *edit) stop(r *route, m *mirror) {
	if percent, ok := m.object[m.field].(map[string]any); ok {
		e.change(r, true, percent, m.where.key(m.field), "value", int64(0))
		return
	}
	e.change(r, true, m.object, m.where, m.field, map[string]any{"value": int64(0)})
}

// shareForAWhile gives stable all of the pair's total, and remembers the weights
// as they were.
func (e *edit) shareForAWhile(r *route) error {
	was := r.weights()
	if err := e.share(r, r.pairTotal(), 0); err != nil {
		return err
	}
	c := Change{VirtualService: e.v.name, Path: r.where.key(weightsKey).pointer(), Was: rawJSON(was), Wrote: rawJSON(r.weights())}
	if !bytes.Equal(c.Was, c.Wrote) {
		e.pending = append(e.pending, pendingChange{route: r, change: c})
	}
	return nil
}

// forward sets the canary's share in every route that splits, or is to; where
// none does, in those that have split and are at their end.
func (e *edit) forward(weight int, o Options) error {
	carriers, sticky, reached := 0, 0, false
	moving := e.v.moving(o)
	for i, r := range e.v.routes {
		switch {
		case !r.namesBoth():
			reached = reached || weight == 100 && !r.selective && r.leadsToCanary()
			continue
		case !moving[i]:
			sticky++
			continue
		}
		carriers++
		total := r.pairTotal()
		target := sharePart(total, weight)
		if total > 0 && percentOf(target, total) < weight {
			// To pass the route over would leave it behind for good: each
			// further step would begin at its share again.
			return e.v.unsafe(r.where.text(), fmt.Sprintf("weights of %d in all are too coarse for %d%%: let them add up to 100", total, weight))
		}
		reached = reached || target > 0
		if err := e.share(r, total, target); err != nil {
			return err
		}
		if r.selective {
			e.moved = append(e.moved, r.mark(false))
		}
	}
	p := e.v.pair
	switch {
	case reached:
		return nil
	case carriers > 0:
		return e.v.unsafe("", fmt.Sprintf("%s and %s have weight 0 in every route that names both: nothing to share", p.Stable, p.Canary))
	case sticky > 0:
		return e.v.unsafe("", fmt.Sprintf("no route but those of testers, which stay as they are, names both %s and %s, so there is no weight to set", p.Stable, p.Canary))
	}
	return e.v.unsafe("", fmt.Sprintf("no route names both %s and %s, so there is no weight to set", p.Stable, p.Canary))
}

// sharePart is weight percent of total, rounded, and one more where that would
// read as less than weight percent: a step that reads as not made is made for
// ever. It never is more than twice what was asked for, and 0 where that is
// less than half a unit. Only 100% is all of total.
func sharePart(total int64, weight int) int64 {
	part := (total*int64(weight) + 50) / 100
	if part > 0 && percentOf(part, total) < weight {
		part++
	}
	if weight < 100 && part >= total {
		part = max(total-1, 0)
	}
	return part
}

// share gives the canary toCanary of the pair's total and stable the rest.
func (e *edit) share(r *route, total, toCanary int64) error {
	if err := e.distribute(r, r.of(canary), toCanary); err != nil {
		return err
	}
	return e.distribute(r, r.of(stable), total-toCanary)
}

// distribute makes the destinations' weights add up to target, in the
// proportion that they have.
func (e *edit) distribute(r *route, to []*destination, target int64) error {
	sum := sumWeights(to)
	if sum == target {
		return nil
	}
	parts, rest, first := make([]int64, len(to)), target, 0
	for i, d := range to {
		if sum > 0 {
			parts[i] = mulDiv(d.weight, target, sum)
			if to[first].weight == 0 {
				first = i
			}
		}
		rest -= parts[i]
	}
	parts[first] += rest
	for i, d := range to {
		if parts[i] > math.MaxInt32 {
			return e.v.unsafe(d.where.key("weight").text(), fmt.Sprintf("would have to be %d, more than a weight can be (%d)", parts[i], math.MaxInt32))
		}
		if parts[i] != d.weight {
			e.set(d.entry, d.where, "weight", parts[i])
			d.weight = parts[i]
		}
	}
	return nil
}

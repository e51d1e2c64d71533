package virtualservice

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
)

// Change is one field that guardian re-pointed in a VirtualService and that is
// no part of the split: of a canary-only route or a mirror, or the weights of a
// route of testers. It is undone only where the field still is what guardian
// wrote.
type Change struct {
	VirtualService string          `json:"vs"`
	Path           string          `json:"path"`            // JSON pointer; of a route's list for its weights
	Was            json.RawMessage `json:"was,omitempty"`   // absent: the field was not there
	Wrote          json.RawMessage `json:"wrote,omitempty"` // absent: guardian removed the field
	Route          string          `json:"route"`           // mark of the route that Path stood in, so that no other route is touched
}

// edit changes a view's objects and writes down how.
type edit struct {
	v       *View
	ops     []Op
	pending []pendingChange
	moved   []string // marks
}

// set writes one field of an object at the place where.
func (e *edit) set(object map[string]any, where *place, key string, value any) {
	object[key] = value
	e.ops = append(e.ops, Op{Op: "add", Path: where.key(key).pointer(), Value: value})
}

// unset removes one field.
func (e *edit) unset(object map[string]any, where *place, key string) {
	delete(object, key)
	e.ops = append(e.ops, Op{Op: "remove", Path: where.key(key).pointer()})
}

// pendingChange is a change whose route is not finished yet.
type pendingChange struct {
	route  *route
	mirror bool
	change Change
}

// change is set or, for a nil value, unset, remembered so that it can be
// undone.
func (e *edit) change(r *route, mirror bool, object map[string]any, where *place, key string, value any) {
	was, had := object[key]
	if !had && value == nil {
		return
	}
	c := Change{VirtualService: e.v.name, Path: where.key(key).pointer()}
	if had {
		c.Was = rawJSON(was)
	}
	if value == nil {
		e.unset(object, where, key)
	} else {
		c.Wrote = rawJSON(value)
		e.set(object, where, key, value)
	}
	e.pending = append(e.pending, pendingChange{route: r, mirror: mirror, change: c})
}

// changes are the remembered ones, each with the mark of its finished route.
func (e *edit) changes() []Change {
	var out []Change
	for _, p := range e.pending {
		p.change.Route = p.route.mark(p.mirror)
		out = append(out, p.change)
	}
	return out
}

// merge adds newer changes to older ones; of one field the newer counts.
func merge(older, newer []Change) []Change {
	out := slices.DeleteFunc(older, func(c Change) bool {
		return slices.ContainsFunc(newer, func(n Change) bool { return n.Path == c.Path })
	})
	return append(out, newer...)
}

// standing picks those changes of this VirtualService that still are as
// guardian wrote them. Somebody may have put a route before theirs, or taken
// one away: then the only place that fits is theirs, and becomes their path.
func (e *edit) standing(changes []Change) []Change {
	var out []Change
	taken := map[string]bool{}
	keep := func(c Change, path string) {
		taken[path] = true
		c.Path = path
		out = append(out, c)
	}
	var lost []Change
	for _, c := range changes {
		switch {
		case c.VirtualService != e.v.name:
		case e.stands(c, c.Path):
			keep(c, c.Path)
		default:
			lost = append(lost, c)
		}
	}
	for _, c := range lost {
		places := slices.DeleteFunc(e.v.places(c.Path), func(path string) bool { return taken[path] || !e.stands(c, path) })
		if len(places) == 1 {
			keep(c, places[0])
		}
	}
	return out
}

// stands tells that the field at the path is what a change wrote, in the route
// that it wrote to.
func (e *edit) stands(c Change, path string) bool {
	r, t, ok := e.v.lookup(path)
	if !ok || c.Route == "" || c.Route != r.mark(t.mirror) {
		return false
	}
	if t.key == weightsKey {
		return r.fits(c)
	}
	now, has := t.object[t.key]
	return has == (c.Wrote != nil) && (!has || equalJSON(now, c.Wrote))
}

// restore undoes changes and returns those that still stand: of routes that
// led everybody to the canary, which come back at weight 100 alone.
func (e *edit) restore(changes []Change, weight int) ([]Change, error) {
	var kept []Change
	for _, c := range changes {
		r, t, _ := e.v.lookup(c.Path)
		if t.key == weightsKey {
			e.giveBack(r, c)
			continue
		}
		var was any
		if c.Was != nil && json.Unmarshal(c.Was, &was) != nil {
			continue // not written by guardian
		}
		switch {
		case !t.mirror && !r.selective && weight != 100:
			kept = append(kept, c)
		case c.Was == nil:
			e.unset(t.object, t.where, t.key)
		default:
			e.set(t.object, t.where, t.key, was)
		}
	}
	return kept, e.v.classify()
}

// giveBack has the weights of a route be again what they were.
func (e *edit) giveBack(r *route, c Change) {
	was, _ := weightsIn(c.Was)
	for i, d := range r.destinations {
		switch {
		case was[i] != nil:
			if !equalJSON(d.entry["weight"], rawJSON(*was[i])) {
				e.set(d.entry, d.where, "weight", *was[i])
			}
			d.weight = *was[i]
		default:
			if _, has := d.entry["weight"]; has {
				e.unset(d.entry, d.where, "weight")
			}
			d.weight = 0
		}
	}
}

// target is a field that a change has written.
type target struct {
	object map[string]any
	where  *place
	key    string
	mirror bool
}

// lookup finds the field that a change's JSON pointer means, if it is one
// that guardian changes.
func (v *View) lookup(pointer string) (*route, target, bool) {
	for _, r := range v.routes {
		if !strings.HasPrefix(pointer, r.where.pointer()+"/") {
			continue
		}
		if pointer == r.where.key(weightsKey).pointer() {
			return r, target{r.object, r.where, weightsKey, false}, true
		}
		for _, d := range r.destinations {
			where := d.where.key("destination")
			for _, key := range []string{"host", "subset"} {
				if pointer == where.key(key).pointer() {
					return r, target{d.object, where, key, false}, true
				}
			}
		}
		for _, m := range r.mirrors {
			field := m.where.key(m.field)
			if pointer == field.pointer() {
				return r, target{m.object, m.where, m.field, true}, true
			}
			if percent, ok := m.object[m.field].(map[string]any); ok && pointer == field.key("value").pointer() {
				return r, target{percent, field, "value", true}, true
			}
		}
	}
	return nil, target{}, false
}

// places are a change's JSON pointer in each route of its kind.
func (v *View) places(pointer string) []string {
	parts := strings.SplitN(pointer, "/", 5) // "", spec, the kind, an index, the rest
	if len(parts) < 5 {
		return nil
	}
	var out []string
	for _, r := range v.routes {
		if r.kind == parts[2] {
			out = append(out, r.where.pointer()+"/"+parts[4])
		}
	}
	return out
}

// weightsKey is the field of a route that a change of its weights names. The
// change's values are the weights, null for one that is absent.
const weightsKey = "route"

// weightsIn reads the weights of a change; ok is false where no route can have
// them.
func weightsIn(raw json.RawMessage) (of []*int64, ok bool) {
	if json.Unmarshal(raw, &of) != nil {
		return nil, false
	}
	for _, n := range of {
		if n != nil && (*n < 0 || *n > math.MaxInt32) {
			return nil, false
		}
	}
	return of, len(of) > 0
}

// fits says that a route's weights are what a change has written, and that what
// they were before adds up to as much.
func (r *route) fits(c Change) bool {
	was, ok := weightsIn(c.Was)
	wrote, wroteOK := weightsIn(c.Wrote)
	if !ok || !wroteOK || len(was) != len(r.destinations) || len(wrote) != len(r.destinations) {
		return false
	}
	var before, now int64
	for i, d := range r.destinations {
		if written(wrote[i]) != d.weight {
			return false
		}
		before += written(was[i])
		now += d.weight
	}
	return before == now
}

// weights are those of a route's destinations as they are written; nil: absent.
func (r *route) weights() []*int64 {
	out := make([]*int64, len(r.destinations))
	for i, d := range r.destinations {
		if n, ok := wholeNumber(d.entry["weight"]); ok {
			out[i] = &n
		}
	}
	return out
}

// written is a weight that may be absent, which is 0.
func written(n *int64) int64 {
	if n == nil {
		return 0
	}
	return *n
}

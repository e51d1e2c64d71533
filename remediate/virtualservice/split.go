package virtualservice

import (
	"maps"
	"slices"
	"strings"
)

// part is what a route that names both destinations is to the guard's split.
// Every other route is no part of it.
type part int

const (
	noPart    part = iota
	splits         // both get something, or the next step is to see to it
	ended          // all of it is the canary's: the split at its end
	aside          // testers' alone, all on one side: no step moves it, and it is no weight
	undecided      // within parts alone: testers', all on one side; what the other routes are decides
)

// anyRoute in Options.Split means that every route is of the split.
const anyRoute = "*"

// splits says whether the options name a route of testers as one that splits.
func (o Options) splits(r *route) bool {
	switch o.Split {
	case "":
		return false
	case anyRoute:
		return true
	}
	known := strings.Fields(o.Split)
	return slices.Contains(known, anyRoute) || slices.Contains(known, r.mark(false))
}

// parts tells, for each route, what it is to the split. A route of everybody is
// of it, and so is one of testers that has been seen to split and stands with them;
// any other route of testers is so as long as it gives something to both, or stands
// at 0 with all else and no other one of its kind leads to the canary.
func (v *View) parts(o Options) []part {
	out := make([]part, len(v.routes))
	begun, beside := false, o.Beside
	for i, r := range v.routes {
		out[i] = v.partFirst(r, o)
		begun = begun || out[i].ofSplit() && r.leads(canary)
		beside = beside || r.countsAsBeside(out[i])
	}
	for i, r := range v.routes {
		if out[i] == undecided {
			out[i] = v.partAmong(r, begun, beside)
		}
	}
	return out
}

// ofSplit says that a step may move the route.
func (p part) ofSplit() bool { return p == splits || p == ended }

// partFirst is what a route is to the split where what the others come to be does not
// decide it; undecided: it does.
func (v *View) partFirst(r *route, o Options) part {
	switch {
	case !r.namesBoth():
		return noPart
	case r.leads(stable) == r.leads(canary): // both, or none that could be told from the other
		return splits
	case r.selective && !v.standsWithAll(r, o):
		return undecided
	case r.leads(canary):
		return ended
	}
	return splits // all of it is stable's: the split before its first step
}

// standsWithAll says that a route of testers, all on one side, has been seen to split
// and that no route of everybody that names both gives the other side anything.
func (v *View) standsWithAll(r *route, o Options) bool {
	if !o.splits(r) {
		return false
	}
	if r.leads(canary) {
		return !v.behind()
	}
	return !v.ahead()
}

// partAmong is what a route of testers, all on one side, is to the split: begun says
// that the split gives the canary something, beside that there is something
// for one that is the canary's alone to stand beside.
func (v *View) partAmong(r *route, begun, beside bool) part {
	switch {
	case r.leads(canary) && !beside: // there is nothing else that it could stand beside
		return ended
	case r.leads(stable) && !begun && !v.mirrored(r):
		return splits
	}
	return aside
}

// countsAsBeside says that a route of testers which is the canary's alone has this one
// to stand beside: one that leads somewhere, but for testers' that name one side only,
// or that are all the canary's themselves.
func (r *route) countsAsBeside(p part) bool {
	if p == undecided {
		return r.leads(stable)
	}
	return (p != noPart || !r.selective) && r.leadsEither()
}

// behind says that a route of everybody that names both is not at its end: a
// route of testers that is has not come there with it, whatever it did before.
func (v *View) behind() bool {
	return slices.ContainsFunc(v.routes, func(r *route) bool {
		return !r.selective && r.namesBoth() && r.leads(stable)
	})
}

// ahead says that a route of everybody that names both gives the canary something:
// a route of testers that does not was left behind on purpose, whatever it did
// before.
func (v *View) ahead() bool {
	return slices.ContainsFunc(v.routes, func(r *route) bool {
		return !r.selective && r.namesBoth() && r.leads(canary)
	})
}

// Beside says that what leads testers alone somewhere, in this VirtualService or
// in another of the guard, stands beside a split or a route of everybody.
func (v *View) Beside(o Options) bool {
	o.Beside = false
	parts := v.parts(o)
	for i, r := range v.routes {
		ofEverybody := !r.selective && r.namesEither()
		if ofEverybody || parts[i] == splits || parts[i] == ended && o.splits(r) {
			return true
		}
	}
	return false
}

// mirrored says that another route of testers leads to the canary alone what has
// another value of the very things that this one asks for, as a cookie: then both
// are sticky.
func (v *View) mirrored(r *route) bool {
	asks := r.asksFor()
	return slices.ContainsFunc(v.routes, func(o *route) bool {
		return o != r && o.selective && o.leads(canary) && !o.leads(stable) && maps.Equal(asks, o.asksFor())
	})
}

// asksFor are the fields of requests, or of callers, by which a route picks out
// testers, without the values.
func (r *route) asksFor() map[string]bool {
	out := map[string]bool{}
	entries, _ := r.object["match"].([]any)
	for _, entry := range entries {
		match, _ := entry.(map[string]any)
		for _, field := range picking {
			if !says(match[field]) {
				continue
			}
			names, isMap := match[field].(map[string]any)
			if !isMap {
				out[field] = true
			}
			for name := range names {
				out[field+"/"+strings.ToLower(name)] = true
			}
		}
	}
	return out
}

// moving tells which routes a step sets: those that split, or else those that are
// at their end.
func (v *View) moving(o Options) []bool {
	parts, out := v.parts(o), make([]bool, len(v.routes))
	want := ended
	for i, r := range v.routes {
		if parts[i] == splits && r.pairTotal() > 0 {
			want = splits
		}
	}
	for i := range v.routes {
		out[i] = parts[i] == want || parts[i] == splits
	}
	return out
}

// Testers are the marks of the routes of testers that name both destinations.
type Testers struct {
	Splitting []string // those that give something to both
	Whole     []string // those that give all to the canary
	All       []string
}

// Testers finds the routes of testers: those for some requests alone that name both
// destinations.
func (v *View) Testers() Testers {
	var t Testers
	for _, r := range v.routes {
		if !r.selective || !r.namesBoth() {
			continue
		}
		mark := r.mark(false)
		t.All = append(t.All, mark)
		switch {
		case r.leads(stable) && r.leads(canary):
			t.Splitting = append(t.Splitting, mark)
		case r.leads(canary):
			t.Whole = append(t.Whole, mark)
		}
	}
	return t
}

// Merge is those of two VirtualServices.
func (t Testers) Merge(o Testers) Testers {
	return Testers{append(t.Splitting, o.Splitting...), append(t.Whole, o.Whole...), append(t.All, o.All...)}
}

// maxSplits is how many marks of routes a record keeps. Where there are more, all
// of testers' routes count as ones that split.
const maxSplits = 64

// RememberSplits adds the marks of routes that have been seen to split to those
// that are known; all are those that exist now.
func RememberSplits(known, seen, all []string) []string {
	if slices.Contains(known, anyRoute) {
		if len(all) == 0 || len(all) > maxSplits {
			return known
		}
		known, seen = nil, all
	}
	out := slices.Clone(known)
	for _, mark := range seen {
		if !slices.Contains(out, mark) {
			out = append(out, mark)
		}
	}
	if len(out) > maxSplits {
		out = slices.DeleteFunc(out, func(mark string) bool { return !slices.Contains(all, mark) })
	}
	if len(out) > maxSplits {
		return []string{anyRoute}
	}
	return out
}

package virtualservice

import "fmt"

// Traffic is what a VirtualService sends to the canary.
type Traffic struct {
	// Weight is the canary's highest share of the pair's traffic over the
	// routes of the split, percent 0–100. Anything above 0 is at least
	// 1, anything below all of it at most 99. A route that leads everybody to
	// the canary alone counts as 100.
	Weight  int
	Lowest  int // the lowest such share: 100 means that every route is at 100
	Counted int // routes that Weight and Lowest are of; with none of them both are 0
	// Split counts routes that name both destinations, but for those of testers
	// that stay on one side (see the package comment).
	Split int
	// CanaryOnly counts routes that lead to the canary and give nothing to
	// stable, apart from the split, as far as a rollback would re-point them.
	CanaryOnly int
	// StableOnly counts routes that lead everybody to stable and not to the
	// canary. No step moves them, so they have no say in Lowest.
	StableOnly int
	// Unsplit counts routes that give something to the canary's host without a
	// subset, as far as a rollback would re-point them: the canary's share there
	// is that of its pods, which no weight tells.
	Unsplit int
	// Mirrors counts mirrors to the canary that are not at 0%, as far as a
	// rollback would stop them.
	Mirrors int
}

// Clean tells that the canary gets nothing that a rollback would take away.
func (t Traffic) Clean() bool {
	return t.Weight == 0 && t.CanaryOnly == 0 && t.Unsplit == 0 && t.Mirrors == 0
}

// Merge is the traffic of two VirtualServices of one guard, or of two routes
// of one VirtualService. One without a share has no say in the lowest.
func (t Traffic) Merge(o Traffic) Traffic {
	lowest := min(t.Lowest, o.Lowest)
	switch {
	case t.Counted == 0:
		lowest = o.Lowest
	case o.Counted == 0:
		lowest = t.Lowest
	}
	return Traffic{
		Weight: max(t.Weight, o.Weight), Lowest: lowest, Counted: t.Counted + o.Counted, Split: t.Split + o.Split,
		CanaryOnly: t.CanaryOnly + o.CanaryOnly, StableOnly: t.StableOnly + o.StableOnly, Unsplit: t.Unsplit + o.Unsplit,
		Mirrors: t.Mirrors + o.Mirrors,
	}
}

// Text says what the canary has, for people.
func (t Traffic) Text() string {
	text := fmt.Sprintf("canary has %d%%", t.Weight)
	switch {
	case t.Weight > 0 || t.CanaryOnly == 0:
		return text
	case t.CanaryOnly == 1:
		return text + ", and 1 route of testers"
	}
	return text + fmt.Sprintf(", and %d routes of testers", t.CanaryOnly)
}

// Full says that every route gives the canary all of the pair's traffic. A
// canary that has some paths to itself, while others lead to stable and none to
// both, has only a part of it.
func (t Traffic) Full() bool {
	return t.Weight == 100 && t.Lowest == 100 && (t.Split > 0 || t.StableOnly == 0)
}

// Traffic sums up what the canary gets.
func (v *View) Traffic(o Options) Traffic {
	var t Traffic
	parts := v.parts(o)
	for i, r := range v.routes {
		t = t.Merge(r.traffic(parts[i], o))
	}
	return t
}

// traffic is what one route gives the canary.
func (r *route) traffic(part part, o Options) Traffic {
	var t Traffic
	switch {
	case part == aside && r.leads(canary):
		t.CanaryOnly = 1
	case part == aside:
	case r.namesBoth():
		t.Split = 1
		if toCanary, toStable := sumWeights(r.of(canary)), sumWeights(r.of(stable)); toCanary+toStable > 0 {
			t = t.counting(percentOf(toCanary, toCanary+toStable))
		}
	case r.leadsToCanary() && !r.selective:
		t.CanaryOnly = 1
		t = t.counting(100)
	case r.leadsToCanary() && o.MatchRoutes:
		t.CanaryOnly = 1
	case r.leads(stable) && !r.selective:
		t.StableOnly = 1
	}
	if r.leads(unsplit) && !r.left(o) {
		t.Unsplit = 1
	}
	for _, m := range r.mirrors {
		if o.Mirrors && m.toCanary() {
			t.Mirrors++
		}
	}
	return t
}

// counting is the traffic of a route that gives the canary a share, percent.
func (t Traffic) counting(share int) Traffic {
	t.Weight, t.Lowest, t.Counted = share, share, 1
	return t
}

// percentOf is part of total in percent, rounded, but 0 and 100 only for none
// and all of it.
func percentOf(part, total int64) int {
	switch part {
	case 0:
		return 0
	case total:
		return 100
	}
	return int(min(max((part*100+total/2)/total, 1), 99))
}

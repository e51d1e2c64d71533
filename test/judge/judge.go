package main

import "math"

// The judge is a port of the rules' test to Go, for runs that Prometheus's
// engine could not do in a lifetime. engine_test.go holds the two against each
// other, number by number.

// Windows of the rules at a scrape interval of 5 s and an evaluation every
// second, in milliseconds.
const (
	second = 1000 // milliseconds, as everywhere in this package

	scrapeInterval = 5 * second
	memorySteps    = 15 // evaluations for which stable's share is remembered

	leastBad    = 5
	enoughProof = 9
	shrink      = 10
	factor      = 2
)

var windows = [5]int64{5 * second, 15 * second, 30 * second, 60 * second, 300 * second}

// Sides and reporters.
const (
	canarySide = iota
	stableSide
	sides

	nobody = sides // of requests that no workload took

	atDestination = 0
	atSource      = 1
	reporters     = 2
)

// refusedWindows are those in which refused requests are judged, the shortest.
const refusedWindows = 2

// ringSize is more evaluations than the longest window looks back.
const ringSize = 512

// count is what one recorded series had at one evaluation.
type count struct {
	all, bad float64
	ok       bool // there was a sample
	n        int  // steps that make up a window
}

// judge decides about one canary, once per second.
type judge struct {
	limit float64
	stale int64 // how much older than its scrape a proxy's sample can be, milliseconds
	n     int   // evaluations so far
	steps [reporters][sides + 1][ringSize]count
	rings [reporters][sides + 1][len(windows)][ringSize]count
	since [reporters]int64 // 0: no proof
}

func newJudge(limit float64) *judge { return &judge{limit: limit} }

func (j *judge) at(r, side, w, stepsAgo int) *count {
	if stepsAgo > j.n {
		return &count{}
	}
	return &j.rings[r][side][w][(j.n-stepsAgo)%ringSize]
}

// evaluate is one evaluation of the rule group, at now.
func (j *judge) evaluate(now int64, targets []*target) bool {
	j.n++
	fired := false
	for r := range reporters {
		for side := range sides {
			j.count(now, targets, r, side)
		}
		if j.proven(now, targets, r) {
			fired = true
		}
	}
	return fired
}

// count fills in the step and all windows of one side as one reporter sees it.
func (j *judge) count(now int64, targets []*target, r, side int) {
	steps := &j.steps[r][side]
	step := &steps[j.n%ringSize]
	*step = count{}
	if j.n > 1 { // the first evaluation has none before it
		for _, g := range targets {
			if g.reporter == r {
				g.grown(now, second, side, step)
			}
		}
	}
	for w, length := range windows {
		sum := *j.at(r, side, w, 1)
		add := func(c count, sign float64) {
			if c.ok {
				sum.all += sign * c.all
				sum.bad += sign * c.bad
				sum.n += int(sign)
			}
		}
		add(*step, 1)
		if n := int(length / second); j.n > n {
			add(steps[(j.n-n)%ringSize], -1)
		}
		sum.ok = sum.n > 0
		*j.at(r, side, w, 0) = sum
	}
}

// evidence is D for one window, where it suffices; else 0.
func (j *judge) evidence(r, w int) float64 {
	c := j.at(r, canarySide, w, 0)
	if !c.ok || c.bad < leastBad {
		return 0
	}
	times := c.bad / c.all / j.limit
	if times <= 1 {
		return 0
	}
	worst := 0.0
	for i := range memorySteps {
		if s := j.at(r, stableSide, w, i); s.ok && s.bad > 0 {
			worst = max(worst, s.bad/(s.all+shrink))
		}
	}
	if bar := worst / j.limit; bar > 1 {
		times /= bar * factor
	}
	if times <= 1 {
		return 0
	}
	if d := c.bad * (math.Log(times) - 1 + 1/times); d > enoughProof {
		return d
	}
	return 0
}

// proven reports whether a reporter's counts convict the canary, stable having
// been scraped since they first did.
func (j *judge) proven(now int64, targets []*target, r int) bool {
	proof := false
	for w := range windows {
		proof = proof || j.evidence(r, w) > 0
	}
	if !proof {
		j.since[r] = 0
		return false
	}
	if j.since[r] == 0 {
		j.since[r] = newest(now, targets, r, canarySide)
	}
	stable := newest(now, targets, r, stableSide)
	told := j.since[r]
	if r == atDestination {
		told += j.stale
	}
	return j.since[r] == 0 || stable == 0 || told <= stable
}

// newest is when a side was scraped last by any target that shows it now; 0 if
// none does.
func newest(now int64, targets []*target, r, side int) int64 {
	var out int64
	for _, g := range targets {
		if g.reporter != r {
			continue
		}
		if s := g.at(now); s != nil && s.up == scraped && (!math.IsNaN(s.v[2*side]) || !math.IsNaN(s.v[2*side+1])) {
			out = max(out, s.t)
		}
	}
	return out
}

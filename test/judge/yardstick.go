package main

import "math"

// The yardsticks are what a team would write first: the article's query
// (share of 5xx over a minute above the limit), restricted to the canary's
// workload, and a check of the same share every 10 s whose second failure rolls
// back, as progressive delivery controllers do.

const rateWindow = 60 * second

// errorRatio is
//
//	sum(rate(istio_requests_total{destination_workload="canary",response_code=~"5.*"}[1m]))
//	  / sum(rate(istio_requests_total{destination_workload="canary"}[1m]))
//
// and whether the query has a result.
func errorRatio(now int64, targets []*target) (float64, bool) {
	var sums [2]float64
	var known [2]bool
	for _, g := range targets {
		if g.reporter == atDestination && g.side != canarySide {
			continue
		}
		for bad := range 2 {
			if n, ok := g.increase(now, 2*canarySide+bad); ok {
				sums[bad] += n
				known[bad] = true
			}
		}
	}
	return sums[1] / (sums[0] + sums[1]), known[1]
}

// increase is what Prometheus's increase() makes of one series over a minute,
// extrapolation included.
func (g *target) increase(now int64, series int) (float64, bool) {
	var first, last *scrapeOf
	resets, n := 0.0, 0
	for i := 0; ; i++ {
		s := g.ago(i)
		if s == nil || s.t <= now-rateWindow {
			break
		}
		if s.t > now || math.IsNaN(s.v[series]) {
			continue
		}
		if last == nil {
			last = s
		}
		if first != nil && s.v[series] > first.v[series] {
			resets += s.v[series]
		}
		first = s
		n++
	}
	if n < 2 {
		return 0, false
	}
	grown := last.v[series] - first.v[series] + resets
	sampled := float64(last.t - first.t)
	average := sampled / float64(n-1)
	toStart, toEnd := float64(first.t-(now-rateWindow)), float64(now-last.t)
	if toStart >= 1.1*average {
		toStart = average / 2
	}
	if grown > 0 {
		toStart = min(toStart, sampled*first.v[series]/grown)
	}
	if toEnd >= 1.1*average {
		toEnd = average / 2
	}
	return grown * (sampled + toStart + toEnd) / sampled, true
}

// article fires as soon as the share is above the limit.
func article(now int64, targets []*target, limit float64) bool {
	ratio, ok := errorRatio(now, targets)
	return ok && ratio > limit
}

// checks is the second yardstick.
type checks struct {
	limit  float64
	failed int
	next   int64
}

func (c *checks) evaluate(now int64, targets []*target) bool {
	if now < c.next {
		return c.failed >= 2
	}
	c.next = now + 10*second
	if article(now, targets, c.limit) {
		c.failed++
	}
	return c.failed >= 2
}

package rules

import (
	"time"
)

const (
	trafficTolerance = "guardian:traffic_share:tolerance"
	weightRatio      = "guardian_canary:weight:ratio"        // what the VirtualService says, while it is above 0
	weightSteady     = "guardian_canary:weight:steady"       // the same, once it has not changed for a window
	trafficExpected  = "guardian_canary:requests:expected"   // by weight, within the short window, by reporter
	trafficTimes     = "guardian_canary:requests:per_weight" // requests relative to expected, likewise
	countGaps        = "guardian_side:requests:gaps"         // there while a side was not counted all along
	refusedRequests  = "guardian:requests_unreached:increase"
	refusedProof     = "guardian_canary:requests_unreached:evidence"
)

// refusedLimit is the share of the canary's requests that may find nobody to
// take them.
const refusedLimit = 0.01

// enoughBlame is how much likelier the requests that the canary got have to be,
// as a logarithm, if it lost the unreached ones than if stable did. Eight lost
// by a canary that gets nothing at all suffice; testdata/judge has the rates.
const enoughBlame = 7

// traffic compares the canary's share of requests with its weight, and
// finds the requests that never reached it. It needs guardian's own metrics for
// the weight; without them it is silent (and GuardianDown is not).
func (b *builder) traffic() {
	if !b.any(func(s Signals) bool { return s.Traffic != nil }) {
		return
	}
	window := b.windows.short()
	// A change of weights is seen up to two scrapes late on either side.
	pause := window + 2*b.ScrapeInterval
	weights := "guardian_weight_percent{" + b.self() + "}"
	vars := []string{
		"weights", weights, "pause", dur(pause), "guard", keyLabels, "side", labelSide,
		"info", b.own(subsetInfo, labelSide+`="canary"`), "tolerance", b.own(trafficTolerance),
		"ratio", b.own(weightRatio), "steady", b.own(weightSteady), "expected", b.own(trafficExpected), "gaps", b.own(countGaps),
		"all", b.own(failed.all, `window="`+dur(window)+`"`),
		"canary", b.own(failed.all, `window="`+dur(window)+`"`, labelSide+`="canary"`),
	}
	rule := func(name, text string) { b.record(name, nil, expand(text, vars...)) }
	rule(weightRatio, `max by ($guard) ((max by (guard, subset) ($weights)) * on (guard, subset) group_right () $info) / 100 > 0`)
	// Replicas of guardian learn of a change at different times: none may have
	// seen one.
	rule(weightSteady, `$ratio and on ($guard) (
		((max by (guard, subset) (max_over_time($weights[$pause])) == min by (guard, subset) (min_over_time($weights[$pause])))
			and on (guard, subset) ($weights offset $pause))
		* on (guard, subset) group_right () $info)`)
	b.gaps()
	rule(trafficExpected, `sum by ($guard, reporter) ($all) * on ($guard) group_left () ($steady < 1) unless on ($guard) $gaps`)
	rule(trafficTimes, `(sum without ($side, window) ($canary) or $expected * 0) / ($expected > 0)`)
	b.refused()
	b.trafficAlerts(window)
}

// gaps marks a side that was counted, but not all along: a failed scrape, or
// Prometheus's own restart, leaves holes that the longer windows count as no
// requests, which only a share mistakes for something. While there is one, no
// reporter judges: the one with the gap may be the one that clears the canary. A
// side that has not been counted at all has no gap.
func (b *builder) gaps() {
	// The short window begins with a tile that looks back once more.
	span := b.windows.short() + b.windows.base
	// A hole is twice as long as the shortest window; one missed evaluation is none.
	least := float64(span)/float64(b.Interval) - 1.5*float64(b.windows.raw()[0])/float64(b.Interval)
	b.record(countGaps, nil, expand(`count_over_time($base[$span]) < $least or (count_over_time($base[$span]) unless $base)`,
		"base", b.own(failed.all, `window="`+dur(b.windows.base)+`"`), "span", dur(span), "least", num(least)))
}

// refused finds requests that no workload answered. They name the service
// only, so they are the canary's if the requests that did reach it are far
// likelier to be what is left of its weight than all of it, and if its weight
// can account for all of them.
func (b *builder) refused() {
	var services []string
	for _, g := range b.Guards {
		if s := or(g.Canary.Service, g.Stable.Service); s != "" {
			services = append(services, s)
		}
	}
	if len(services) == 0 {
		return
	}
	matchers := b.ordinary().matchers("destination_service_name", services) + b.inNamespaces("destination_service_namespace") +
		`,destination_workload="unknown",reporter!="destination",` + httpFailures
	windows := b.windows.raw()
	for _, w := range windows {
		b.window(refusedRequests, w, expand(`sum by ($guard, reporter) (
			(sum by ($key, reporter) ($delta)) * on ($key, reporter) group_right () $info)`,
			"guard", keyLabels, "key", serviceKey, "delta", b.delta(requestsTotal+"{"+matchers+"}", w), "info", b.own(serviceReporterInfo)))
	}
	for _, t := range b.windows.tiled() {
		if t.window == b.windows.base {
			b.tile(refusedRequests, t)
		}
	}
	unreached := b.own(refusedRequests)
	canary := expand(`(sum without ($side) ($canary) or $unreached * 0)`,
		"side", labelSide, "canary", b.own(failed.all, labelSide+`="canary"`), "unreached", unreached)
	// What the canary should have got of all requests, the lost ones included.
	due := expand(`((sum without ($side) ($all) or $unreached * 0) + $unreached) * on ($guard) group_left () $ratio`,
		"side", labelSide, "all", b.own(failed.all), "unreached", unreached, "guard", keyLabels, "ratio", b.own(weightRatio))
	// With share r of the canary's requests lost: D = lost*(ln(r/limit) - 1 + limit/r).
	// The third line is the logarithm of the ratio of two Poisson likelihoods of
	// what reached the canary: a mean of due - lost to one of due.
	b.record(refusedProof, nil, expand(`(
		($unreached >= $least) * (ln($share / $limit) - 1 + $limit / $share) > $enough
		and $canary * ln(clamp_min(1 - $unreached / $due, 1e-9)) + $unreached > $blame
		and $unreached - 3 * sqrt($due) < $due) and on ($guard) $tolerance`,
		"unreached", unreached, "least", num(leastBad), "limit", num(refusedLimit), "enough", num(enoughProof),
		"share", expand(`($unreached / ($canary + $unreached))`, "unreached", unreached, "canary", canary),
		"canary", canary, "due", "("+due+")", "blame", num(enoughBlame), "guard", keyLabels, "tolerance", b.own(trafficTolerance)))
}

// share judges the canary's requests against its weight per reporter; sign is
// "<" for too few and ">" for too many.
func (b *builder) share(sign, bound string) string {
	return expand(`(
		$times $sign on ($guard) group_left () ($bound)
		and $expected * ($x * ln($x) - $x + 1) > $enough)`,
		"times", b.own(trafficTimes), "sign", sign, "guard", keyLabels, "bound", bound, "expected", b.own(trafficExpected),
		// 0*ln(0) is NaN.
		"x", "clamp_min("+b.own(trafficTimes)+", 1e-9)", "enough", num(enoughProof))
}

// tooFew selects the guards whose canary too few requests reach, by every
// reporter that can tell.
func (b *builder) tooFew() string {
	low := "1 - " + b.own(trafficTolerance)
	return expand(`max by (namespace, guardian_guard) ($low) unless on (namespace, guardian_guard) (
		($times >= on ($guard) group_left () ($bound)) and $expected > $enough)`,
		"low", b.share("<", low), "times", b.own(trafficTimes), "guard", keyLabels, "bound", low,
		"expected", b.own(trafficExpected), "enough", num(enoughProof))
}

// seen selects the guards whose missing requests are no failure to scrape the
// canary: a caller's proxy reports, or the canary's own does.
func (b *builder) seen(window time.Duration) string {
	return expand(`(sum by (namespace, guardian_guard) ($callers) or sum by (namespace, guardian_guard) ($canary))`,
		"callers", b.own(failed.all, `window="`+dur(window)+`"`, `reporter!="destination"`),
		"canary", b.own(failed.all, `window="`+dur(window)+`"`, labelSide+`="canary"`))
}

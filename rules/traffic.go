package rules

import (
	"cmp"
	"strconv"
	"time"
)

const (
	trafficTolerance = "guardian:traffic_share:tolerance"
	weightRatio      = "guardian_canary:weight:ratio"        // what the VirtualService says, while it is above 0
	weightSteady     = "guardian_canary:weight:steady"       // the same, once it has not changed for a window
	trafficAll       = "guardian_side:requests:increase"     // within the short window
	trafficKept      = "guardian:requests:per_before"        // of both sides, relative to five minutes before, while the canary has weight
	trafficExpected  = "guardian_canary:requests:expected"   // by weight, within the short window, by reporter
	trafficTimes     = "guardian_canary:requests:per_weight" // requests relative to expected, likewise
	countGaps        = "guardian_side:requests:gaps"         // there while a side was not counted all along
	refusedStep      = "guardian:requests_unreached:idelta"
	refusedRequests  = "guardian:requests_unreached:increase"
	refusedReached   = "guardian_canary:requests_reached:increase" // of those that the canary got, and
	refusedDue       = "guardian_canary:requests_due:increase"     // should have got, where enough were lost to ask
	refusedProof     = "guardian_canary:requests_unreached:evidence"
)

// refusedLimit is the share of the canary's requests that may find nobody to
// take them.
const refusedLimit = 0.01

// enoughBlame is how much likelier the requests that the canary got have to be,
// as a logarithm, if it lost the unreached ones than if stable did. Eight lost
// by a canary that gets nothing at all suffice; test/judge has the rates.
const enoughBlame = 7

// trafficInterval is how often the canary's share is judged: it is one of a
// minute, and a scrape brings what is new.
func (o Options) trafficInterval() time.Duration {
	return max(o.Interval, min(o.ScrapeInterval, infoInterval))
}

// trafficGroup compares the canary's share of requests with its weight. It needs
// guardian's own metrics for the weight; without them it is silent (and
// GuardianDown is not).
func (b *builder) trafficGroup() {
	if !b.any(func(s Signals) bool { return s.Traffic != nil }) {
		return
	}
	b.group("traffic", b.trafficInterval(), "Traffic: whether the canary gets the share of the requests that its weight says.")
	window := b.windows.short()
	// A change of weights is seen up to two scrapes late on either side.
	pause := window + 2*b.ScrapeInterval
	vars := []string{
		"weights", b.weights(), "pause", dur(pause), "guard", keyLabels, "side", labelSide,
		"info", b.own(subsetInfo, labelSide+`="canary"`), "tolerance", b.own(trafficTolerance),
		"ratio", b.own(weightRatio), "steady", b.own(weightSteady), "expected", b.own(trafficExpected), "gaps", b.own(countGaps),
		"all", b.traffic(), "canary", b.traffic(labelSide + `="canary"`),
	}
	rule := func(name, text string) { b.record(name, nil, expand(text, vars...)) }
	// Replicas of guardian learn of a change at different times: none may have
	// seen one.
	rule(weightSteady, `$ratio and on ($guard) (
		((max by (guard, subset) (max_over_time($weights[$pause])) == min by (guard, subset) (min_over_time($weights[$pause])))
			and on (guard, subset) ($weights offset $pause))
		* on (guard, subset) group_right () $info)`)
	b.gaps()
	b.record(trafficAll, map[string]string{"window": dur(window)}, b.during(failed.step, window))
	rule(trafficExpected, `sum by ($guard, reporter) ($all) * on ($guard) group_left () ($steady < 1) unless on ($guard) $gaps`)
	rule(trafficKept, `(sum without ($side, window) ($all) and on ($guard) $ratio) / `+b.trafficBefore())
	rule(trafficTimes, `(sum without ($side, window) ($canary) or $expected * 0) / ($expected > 0)`)
	b.trafficAlerts(window)
	b.evaluated("traffic")
	b.endGroup()
}

// traffic selects what each side got within the short window. Other rules than
// these may have recorded another window five minutes ago.
func (b *builder) traffic(matchers ...string) string {
	return b.own(trafficAll, append(matchers, "window="+strconv.Quote(dur(b.windows.short())))...)
}

// trafficBefore is how many requests both sides had five minutes before.
func (b *builder) trafficBefore() string {
	return "sum without (" + labelSide + ", window) (" + b.traffic() + " offset 5m)"
}

// weights are the canaries' as guardian sees them, in percent.
func (b *builder) weights() string { return "guardian_weight_percent{" + b.selfOfGuards() + "}" }

// selfOfGuards selects guardian's own series of the guards of this part.
func (b *builder) selfOfGuards() string {
	if b.shard == wholeShard {
		return b.self()
	}
	names := make([]string, len(b.Guards))
	for i, g := range b.Guards {
		names[i] = g.Name
	}
	return b.self() + ",guard=~" + strconv.Quote(alternatives(names))
}

// weight records the canaries' weights that are above 0.
func (b *builder) weight() {
	b.record(weightRatio, nil, expand(`max by ($guard) ((max by (guard, subset) ($weights) > 0) * on (guard, subset) group_right () $info) / 100`,
		"guard", keyLabels, "weights", b.weights(), "info", b.own(subsetInfo, labelSide+`="canary"`)))
}

// gaps marks a side that was counted, but not all along: a failed scrape, or
// Prometheus's own restart, leaves holes that the longer windows count as no
// requests, which only a share mistakes for something. While there is one, no
// reporter judges: the one with the gap may be the one that clears the canary. A
// side that has not been counted at all has no gap, and neither has one that just
// now is not counted like the other: then an evaluation was missed.
func (b *builder) gaps() {
	// What comes after a hole may be of a time before it.
	span := b.windows.short() + b.windows.base
	// One failed scrape of a side's only proxy costs the steps of a scrape interval and
	// one more, a missed evaluation two: that is no hole where two are not as many.
	lost := max(1, cmp.Or(b.FastLane, b.ScrapeInterval)/b.Interval) + 1
	least := float64(span)/float64(b.Interval) - float64(lost) + 0.5
	b.record(countGaps, nil, expand(`count_over_time($step[$span]) < $least or (count_over_time($step[$span]) unless $step and on ($guard) $step)`,
		"step", b.own(failed.step), "span", dur(span), "least", num(least), "guard", keyLabels))
}

// unreached counts the requests that no workload answered, by service.
func (b *builder) unreached() counter {
	c := counter{what: "requests_unreached", lanes: []lane{b.ordinary()}}
	var services []string
	for _, g := range b.guards(func(s Signals) bool { return s.Traffic != nil }) {
		if s := or(g.Canary.Service, g.Stable.Service); s != "" {
			services = append(services, s)
		}
	}
	if len(services) > 0 {
		c.joins = []join{{"guardian_service", serviceKey, serviceReporterInfo,
			matchers("destination_service_name", services) + b.inNamespaces("destination_service_namespace") + "," + byNobody}}
	}
	c.reads = func(s series) string { return s.of(requestsTotal, "") + " or " + b.nameless(s.lane, services) }
	return c
}

// byNobody selects what callers report of requests that no workload answered.
const byNobody = `destination_workload="unknown",reporter!="destination",` + httpFailures

// nameless are those requests of services without endpoints, whose namespace Istio up
// to 1.22 does not know: it stands in the host.
func (b *builder) nameless(l lane, services []string) string {
	s := series{lane: l, join: join{matchers: matchers("destination_service_name", services) +
		`,destination_service_namespace="unknown",destination_service=~"[^.]+[.](` + escape(alternatives(b.namespaces())) + `)[.].+",` + byNobody}}
	return expand(`label_replace($x, "destination_service_namespace", "$$1", "destination_service", "[^.]+[.]([^.]+)[.].+")`,
		"$1", "$1", "x", s.of(requestsTotal, ""))
}

// refused finds requests that no workload answered. They name the service
// only, so they are the canary's if the requests that did reach it are far
// likelier to be what is left of its weight than all of it, and if its weight
// can account for all of them.
func (b *builder) refused(c counter) {
	if len(c.joins) == 0 {
		return
	}
	s := series{b.ordinary(), c.joins[0]}
	b.record(refusedStep, nil, expand(`sum by ($guard, reporter) (
		(sum by ($key, reporter) ($grown)) * on ($key, reporter) group_right () $info)`,
		"guard", keyLabels, "key", s.key, "grown", b.grown(c, s), "info", b.own(s.info)))
	for _, w := range b.windows.quick() {
		b.due(w)
	}
	vars := []string{
		"unreached", "(" + b.own(refusedRequests) + " >= " + num(leastBad) + ")", "guard", keyLabels,
		"got", b.own(refusedReached), "due", b.own(refusedDue), "tolerance", b.own(trafficTolerance),
		"limit", num(refusedLimit), "enough", num(enoughProof), "blame", num(enoughBlame),
	}
	rule := func(name, text string) { b.record(name, nil, expand(text, vars...)) }
	// With share r of the canary's requests lost: D = lost*(ln(r/limit) - 1 + limit/r).
	// The second line is the logarithm of the ratio of two Poisson likelihoods of
	// what reached the canary: a mean of due - lost to one of due.
	rule(refusedProof, `($unreached * (ln($unreached / ($got + $unreached) / $limit) - 1 + $limit / ($unreached / ($got + $unreached))) > $enough
		and $got * ln(clamp_min(1 - $unreached / $due, 1e-9)) + $unreached > $blame
		and $unreached - 3 * sqrt($due) < $due) and on ($guard) $tolerance`)
	b.verdict(verdict{
		name: AlertRefused, signal: SignalTraffic,
		expr: `max by (namespace, guardian_guard) (` + b.own(refusedProof) + `)`,
		says: says{guardLabel + ": requests cannot reach the canary",
			"Callers of " + guardLabel + " in " + namespaceLabel + " get 5xx that no workload has answered (connection refused, or no endpoint), " +
				"about as often as the canary's weight of " + weightText + " would explain."},
	})
}

// due records, where enough requests found nobody within a window, how many the
// canary got then, and how many it should have got.
func (b *builder) due(w time.Duration) {
	window, callers := map[string]string{"window": dur(w)}, `reporter!="destination"`
	vars := []string{
		"unreached", "(sum without (window) (" + b.own(refusedRequests, "window="+strconv.Quote(dur(w))) + ") >= " + num(leastBad) + ")",
		"all", b.during(failed.step, w, callers), "canary", b.during(failed.step, w, callers, labelSide+`="canary"`),
		"ratio", b.own(weightRatio), "side", labelSide, "guard", keyLabels,
	}
	b.record(refusedRequests, window, b.during(refusedStep, w))
	b.record(refusedReached, window, expand(`(sum without ($side) ($canary) and $unreached) or $unreached * 0`, vars...))
	b.record(refusedDue, window, expand(`(((sum without ($side) ($all) and $unreached) or $unreached * 0) + $unreached) * on ($guard) group_left () $ratio`, vars...))
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
func (b *builder) seen() string {
	return expand(`(sum by (namespace, guardian_guard) ($callers) or sum by (namespace, guardian_guard) ($canary))`,
		"callers", b.traffic(`reporter!="destination"`), "canary", b.traffic(labelSide+`="canary"`))
}

var weightText = lookup(weightRatio, "value | humanizePercentage")

func (b *builder) trafficAlerts(window time.Duration) {
	few, high := b.tooFew(), "max by (namespace, guardian_guard) ("+b.share(">", "1 + "+b.own(trafficTolerance))+")"
	vars := []string{"few", few, "seen", b.seen(), "high", high}
	gets := "The canary of " + guardLabel + " in " + namespaceLabel + " has weight " + weightText + " and gets " + percent +
		" of the requests that this would bring it within " + dur(window)
	why := ". At 0% nothing reports its requests: is its proxy scraped? Far above 100%, requests reach it by another way than the weights."
	b.verdict(verdict{
		name: AlertTraffic, signal: SignalTraffic,
		expr:     expand(`($few) and on (namespace, guardian_guard) $seen`, vars...),
		held:     expand(`(($few) unless on (namespace, guardian_guard) $seen) or ($high)`, vars...),
		beyond:   expand(`($few) or ($high)`, vars...),
		says:     says{guardLabel + ": the canary gets only " + percent + " of the requests it should", gets + ", while the service is in use."},
		heldSays: says{guardLabel + ": the canary gets " + percent + " of the requests it should", gets + why},
		soft:     says{guardLabel + ": the canary gets " + percent + " of the requests it should", gets + why},
	})
	b.verdict(verdict{
		name: AlertServiceTraffic, signal: SignalTraffic,
		held: expand(`min by (namespace, guardian_guard) (
			($kept < 0.5) and $before * ($kept * ln(clamp_min($kept, 1e-9)) - $kept + 1) > $enough
			unless on ($guard, reporter) $gaps unless on ($guard, reporter) ($gaps offset 5m) and on ($guard) $tolerance)`,
			"kept", b.own(trafficKept), "before", b.trafficBefore(), "gaps", b.own(countGaps),
			"enough", num(enoughProof), "guard", keyLabels, "tolerance", b.own(trafficTolerance)),
		heldSays: says{guardLabel + ": the whole service gets " + percent + " of the requests of five minutes ago",
			"Canary and stable of " + guardLabel + " in " + namespaceLabel + " together get " + percent +
				" of the requests they got five minutes ago. The canary's share has not been shown to be the cause."},
	})
}

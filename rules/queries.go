package rules

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Labels of the samples of Tally.
const (
	LabelTally     = "tally" // on two of them: TallyRequests, TallyFailed
	TallyRequests  = "requests"
	TallyFailed    = "failed"
	LabelLatencyMs = "le" // on the others, with LabelReporter: requests at or below an edge, of one reporter
)

// Tally is a query for what a guard's canary has done within the last window: how
// many requests it has had, and how many of them failed, each by the reporter that
// saw most of them, and, where latency is limited, how many were at or below the
// limit's edge, the two edges before it, and any. increase() misses the first sample
// of a new series, so the requests are rather too few than too many. Of the failures
// that would leave out the first burst: a series that is new within the window
// counts from zero.
func (o Options) Tally(g Guard, window time.Duration) string {
	o = o.withDefaults()
	matchers, during := strings.Join(ofSide(g, g.Canary, o.Proxies), ","), fmt.Sprintf("[%ds]", int64(math.Ceil(window.Seconds())))
	metric := func(name, more string) string { return name + "{" + matchers + more + "}" }
	var bad []string
	for _, x := range failuresOf(g).selectors(series{join: join{matchers: matchers}}) {
		past := strings.Trim(during, "[]")
		bad = append(bad, "(last_over_time("+x+during+") unless "+x+" offset "+past+")", "increase("+x+during+")")
	}
	parts := []string{
		tallied(TallyRequests, "increase("+metric(requestsTotal, "")+during+")"),
		tallied(TallyFailed, strings.Join(bad, " or ")),
	}
	if l := g.Signals.Latency; l != nil {
		les := []string{`\\+Inf`}
		for _, edge := range o.edgesUpTo(l.Max) {
			les = append(les, escape(bucketValue(edge)))
		}
		parts = append(parts, "sum by (reporter, le) (increase("+metric(durationBuckets, `,le=~"`+strings.Join(les, "|")+`"`+answered)+during+"))")
	}
	return strings.Join(parts, " or ")
}

// tallied names the largest sum that a reporter has.
func tallied(name, of string) string {
	return fmt.Sprintf(`label_replace(max(sum by (reporter) (%s)),%q,%q,"","")`, of, LabelTally, name)
}

// edgesUpTo are the edge that a limit is judged at and the two before it.
func (o Options) edgesUpTo(limit time.Duration) []time.Duration {
	i, _ := slices.BinarySearch(o.LatencyBuckets, limit)
	return o.LatencyBuckets[max(0, i-2):min(i+1, len(o.LatencyBuckets))]
}

// ofSide are the matchers that select what proxies report of one of a guard's
// versions.
func ofSide(g Guard, s Side, proxies string) []string {
	by := []string{`destination_workload_namespace=` + strconv.Quote(g.Namespace)}
	if len(s.Workloads) > 0 {
		by = append(by, `destination_workload=~`+strconv.Quote(alternatives(s.Workloads)))
	} else {
		by = append(by, `destination_service_name=`+strconv.Quote(s.Service), `destination_version=`+strconv.Quote(s.Version))
	}
	if proxies = strings.Trim(proxies, ", "); proxies != "" {
		by = append(by, proxies)
	}
	return by
}

// Proof is a query for what proves that a guard's own rules watch it. It has one
// sample for each group that is loaded, with its label group and the seconds since
// its last evaluation, and one for each side whose requests the rules record just
// now, with its label guardian_side.
func (o Options) Proof(g Guard) string {
	o = o.withDefaults()
	part := fmt.Sprintf("%s=%q,%s=%q", LabelInstance, o.Name, LabelOwner, o.Namespace)
	own := fmt.Sprintf("%s=%q,%s=%q,%s=%q", LabelInstance, o.Name, LabelNamespace, g.Namespace, LabelGuard, g.Name)
	return expand(`time() - max by (group) ($evaluated{$part} * on ($shard) group_left () max by ($shard) ($info{$own})) or count by ($side) ($step{$own})`,
		"evaluated", groupEvaluated, "part", part, "shard", LabelShard, "info", subsetInfo, "own", own, "side", labelSide, "step", failed.step)
}

// LabelSide is on the samples of Proof that are about a side, canary or stable.
const LabelSide = labelSide

// Groups are those that a guard's signals are in, and how long ago each was
// evaluated at most if it is evaluated at all. A guard without signals needs none.
func (o Options) Groups(g Guard) map[string]time.Duration {
	o = o.withDefaults()
	// A ruler may evaluate as of a minute ago (rule_query_offset), so that late
	// samples are there.
	oldest := func(every time.Duration) time.Duration { return 3*every + 90*time.Second }
	out := map[string]time.Duration{}
	s := g.Signals
	if s.Traffic != nil {
		out["traffic"] = oldest(o.trafficInterval())
	}
	if s.Latency != nil {
		out["latency"] = oldest(o.latencyInterval())
	}
	if s.Restarts != nil {
		out["restarts"] = oldest(o.restartsInterval())
	}
	if s.Comparison != nil {
		out["comparison"] = oldest(o.comparisonBlock())
	}
	if len(out) == 0 && s.ErrorRate == nil {
		return nil
	}
	out["guards"], out["requests"] = oldest(max(infoInterval, o.Interval)), oldest(o.Interval)
	return out
}

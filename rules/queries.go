package rules

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// CanaryRequests is a query for the number of requests that a guard's canary
// has had within the last window, by the reporter that saw most of them.
// proxies are further matchers, as in Options. increase() misses the first
// sample of a new series, so the answer is rather too small than too large.
func CanaryRequests(g Guard, window time.Duration, proxies string) string {
	return fmt.Sprintf(`max(sum by (reporter) (increase(istio_requests_total{%s}[%ds])))`,
		strings.Join(ofSide(g, g.Canary, proxies), ","), int64(math.Ceil(window.Seconds())))
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

// groupEvaluated is when a group of a part was evaluated last: its last rule.
const groupEvaluated = "guardian:group:evaluated"

// evaluated ends a group that guards depend on.
func (b *builder) evaluated(group string) {
	labels := b.owned()
	labels["group"] = group
	b.record(groupEvaluated, labels, "vector(time())")
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
	if len(out) == 0 && s.ErrorRate == nil {
		return nil
	}
	out["guards"], out["requests"] = oldest(max(infoInterval, o.Interval)), oldest(o.Interval)
	return out
}

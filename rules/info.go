package rules

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// infoInterval is how often the constants are recorded: as seldom as a start
// allows, because each guard has a few.
const infoInterval = 15 * time.Second

// Metrics of constants. Their label values are the configuration.
const (
	guardInfo    = "guardian:guard:info"    // canary, stable, their subsets, service: of guards with one workload on either side
	workloadInfo = "guardian:workload:info" // destination_workload, destination_workload_namespace → guard and side
	versionInfo  = "guardian:version:info"  // destination_service_name, …_namespace, destination_version → guard and side
	serviceInfo  = "guardian:service:info"  // destination_service_name, …_namespace → guard
	subsetInfo   = "guardian:subset:info"   // guard, subset as guardian's own metrics have them → guard and side

	// The same with a label reporter, so that joins on it stay one-to-many.
	workloadReporterInfo = "guardian_reporter:workload:info"
	versionReporterInfo  = "guardian_reporter:version:info"
	serviceReporterInfo  = "guardian_reporter:service:info"

	stableFactor = "guardian:stable:factor" // only for guards that compare with stable
	latencyMax   = "guardian:latency:limit" // seconds
)

// keyLabels name a guard among those of a part. Every recorded series has LabelInstance
// and LabelShard as well, by which own selects.
const keyLabels = LabelNamespace + ", " + LabelGuard

// Join keys of the two ways to name a version.
const (
	workloadKey = "destination_workload, destination_workload_namespace"
	versionKey  = "destination_service_name, destination_service_namespace, destination_version"
	serviceKey  = "destination_service_name, destination_service_namespace"
)

var reporters = []string{"destination", "source", "waypoint"}

// infoGroup records the guards' constants: who belongs to whom, and the limits.
// Each guard has one series, or one for each of its workloads where a side has
// several, which the others follow from: the fewer rules, the smaller the objects
// and the more guards share one reading of what Prometheus has scraped.
func (b *builder) infoGroup() {
	b.group("guards", max(infoInterval, b.Interval), "The configuration as series, with which the groups below join what the proxies count: which workload is whose canary or stable version, and the limits.")
	b.about("Who is guarded.")
	for _, g := range b.Guards {
		service := or(g.Canary.Service, g.Stable.Service)
		if len(g.Canary.Workloads) == 1 && len(g.Stable.Workloads) == 1 {
			b.pairInfo(g, service)
			continue
		}
		b.sideInfo(g, "canary", g.Canary, service)
		b.sideInfo(g, "stable", g.Stable, "")
	}
	b.sidesOfPairs()
	var known []string
	for _, info := range []string{workloadInfo, versionInfo} {
		if b.recorded(info) {
			known = append(known, b.own(info))
		}
	}
	b.record(subsetInfo, nil, `max by (`+keyLabels+`, `+labelSide+`, guard, subset) (`+strings.Join(known, " or ")+`)`)
	var services []string
	for _, info := range []string{workloadInfo, versionInfo} {
		if b.recorded(info) {
			services = append(services, b.own(info, labelSide+`="canary"`, `destination_service_name!=""`))
		}
	}
	b.record(serviceInfo, nil, `max by (`+keyLabels+`, `+serviceKey+`) (`+strings.Join(services, " or ")+`)`)
	b.about("The limits.")
	b.limits()
	b.about("Who is guarded, once more for each kind of proxy that reports: a workload may be in two guards, and PromQL joins many with many by such a label alone.")
	for _, pair := range [][2]string{
		{workloadInfo, workloadReporterInfo}, {versionInfo, versionReporterInfo}, {serviceInfo, serviceReporterInfo},
	} {
		if !b.recorded(pair[0]) {
			continue
		}
		var terms []string
		for _, r := range reporters {
			terms = append(terms, expand(`label_replace($info, "reporter", "$r", "", "")`, "info", b.own(pair[0]), "r", r))
		}
		b.record(pair[1], nil, strings.Join(terms, " or "))
	}
	b.evaluated("guards")
	b.endGroup()
}

// pairInfo records who both sides are.
func (b *builder) pairInfo(g Guard, service string) {
	labels := map[string]string{
		LabelNamespace: g.Namespace, LabelGuard: g.Name,
		"canary": g.Canary.Workloads[0], "canary_subset": g.Canary.Name, "stable": g.Stable.Workloads[0], "stable_subset": g.Stable.Name,
	}
	if service != "" {
		labels["service"] = service
	}
	b.record(guardInfo, labels, "vector(1)")
}

// sidesOfPairs records each side of what pairInfo has, as sideInfo would.
func (b *builder) sidesOfPairs() {
	if !b.recorded(guardInfo) {
		return
	}
	copied := func(expr string, pairs ...string) string {
		for i := 0; i < len(pairs); i += 2 {
			expr = `label_replace(` + expr + `, "` + pairs[i] + `", "$1", "` + pairs[i+1] + `", "(.+)")`
		}
		return expr
	}
	for _, side := range []string{"canary", "stable"} {
		from := []string{"guard", LabelGuard, "subset", side + "_subset", "destination_workload", side, "destination_workload_namespace", LabelNamespace}
		if side == "canary" { // the service is the guard's, and stands there once
			from = append(from, "destination_service_name", "service", "destination_service_namespace", LabelNamespace)
		}
		b.record(workloadInfo, map[string]string{labelSide: side},
			`sum without (canary, canary_subset, stable, stable_subset, service) (`+copied(b.own(guardInfo), from...)+`)`)
	}
}

// sideInfo records who a side is. service is for a side that is known by its
// workloads; one that is known by its version has a service anyway.
func (b *builder) sideInfo(g Guard, side string, s Side, service string) {
	labels := map[string]string{
		LabelNamespace: g.Namespace, LabelGuard: g.Name, labelSide: side, "guard": g.Name, "subset": s.Name,
	}
	if len(s.Workloads) == 0 {
		labels["destination_version"], service = s.Version, s.Service
	}
	if service != "" {
		labels["destination_service_name"], labels["destination_service_namespace"] = service, g.Namespace
	}
	if len(s.Workloads) == 0 {
		b.record(versionInfo, labels, "vector(1)")
	}
	for _, w := range s.Workloads {
		labels["destination_workload"], labels["destination_workload_namespace"] = w, g.Namespace
		b.record(workloadInfo, labels, "vector(1)")
	}
}

// limits records the limits of the signals that are on.
func (b *builder) limits() {
	b.limit(stableFactor, "", func(g Guard) (float64, bool) { return b.StableFactor, !g.EvenIfStableFails })
	b.limit(failed.limit, "", func(g Guard) (float64, bool) { return val(g.Signals.ErrorRate).Max, g.Signals.ErrorRate != nil })
	b.limit(slow.limit, "", func(g Guard) (float64, bool) { return 1 - val(g.Signals.Latency).Quantile, g.Signals.Latency != nil })
	b.limit(latencyMax, "", func(g Guard) (float64, bool) { return val(g.Signals.Latency).Max.Seconds(), g.Signals.Latency != nil })
	for _, w := range b.restartWindows() {
		b.limit(restartsMax, dur(w), func(g Guard) (float64, bool) {
			r := val(g.Signals.Restarts)
			return float64(r.Max), r.Window == w
		})
	}
	b.limit(trafficTolerance, "", func(g Guard) (float64, bool) { return val(g.Signals.Traffic).ShareTolerance, g.Signals.Traffic != nil })
	b.comparisonLimits()
	b.actions()
}

// limit is constant with a window, if there is one.
func (b *builder) limit(name, window string, of func(Guard) (float64, bool)) {
	var labels map[string]string
	if window != "" {
		labels = map[string]string{"window": window}
	}
	b.constant(name, labels, of)
}

// constant records a number of each guard that has one; those that have the same are
// one term.
func (b *builder) constant(name string, labels map[string]string, of func(Guard) (float64, bool)) {
	type key struct {
		namespace string
		value     float64
	}
	guards := map[key][]string{}
	for _, g := range b.Guards {
		if value, ok := of(g); ok {
			k := key{g.Namespace, value}
			guards[k] = append(guards[k], g.Name)
		}
	}
	var terms []string
	for _, k := range slices.SortedFunc(maps.Keys(guards), func(a, b key) int {
		return cmp.Or(cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.value, b.value))
	}) {
		which := []string{labelSide + `="canary"`}
		if len(guards[k]) < len(b.Guards) {
			which = append(which, LabelNamespace+`="`+k.namespace+`"`, LabelGuard+"=~"+strconv.Quote(alternatives(guards[k])))
		}
		terms = append(terms, `max by (`+keyLabels+`) (`+b.own(subsetInfo, which...)+`) * `+num(k.value))
	}
	if len(terms) > 0 {
		b.record(name, labels, strings.Join(terms, " or "))
	}
}

// own selects a recorded metric of this part of this guardian's rules alone; those
// about guardian itself read what all its parts record.
func (b *builder) own(metric string, matchers ...string) string {
	if b.shard != "" {
		return metric + "{" + list(b.ownedMatchers(), matchers...) + "}"
	}
	op := "=~"
	if len(b.namespaces()) == 1 {
		op = "="
	}
	return metric + "{" + list(LabelInstance+"="+strconv.Quote(b.Name), append([]string{LabelNamespace + op + strconv.Quote(alternatives(b.namespaces()))}, matchers...)...) + "}"
}

// recorded reports whether a rule for the metric has been written.
func (b *builder) recorded(metric string) bool {
	for _, g := range b.groups {
		for _, r := range g.Rules {
			if r.Record == metric {
				return true
			}
		}
	}
	return false
}

package rules

import (
	"strconv"
	"strings"
	"time"
)

// infoInterval is how often the constants are recorded: as seldom as a start
// allows, because each guard has a few.
const infoInterval = 15 * time.Second

// Metrics of constants. Their label values are the configuration.
const (
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

// keyLabels name a guard on every recorded series.
const keyLabels = LabelInstance + ", " + LabelNamespace + ", " + LabelGuard

// Join keys of the two ways to name a version.
const (
	workloadKey = "destination_workload, destination_workload_namespace"
	versionKey  = "destination_service_name, destination_service_namespace, destination_version"
	serviceKey  = "destination_service_name, destination_service_namespace"
)

var reporters = []string{"destination", "source", "waypoint"}

// infoGroup records the guards' constants: who belongs to whom, and the limits.
func (b *builder) infoGroup() {
	b.group("guards", max(infoInterval, b.Interval))
	for _, g := range b.Guards {
		b.sideInfo(g, "canary", g.Canary)
		b.sideInfo(g, "stable", g.Stable)
		if service := or(g.Canary.Service, g.Stable.Service); service != "" {
			b.constant(serviceInfo, g, "vector(1)", "destination_service_name", service, "destination_service_namespace", g.Namespace)
		}
		if !g.EvenIfStableFails {
			b.constant(stableFactor, g, "vector("+num(b.StableFactor)+")")
		}
		b.limits(g)
	}
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
	b.endGroup()
}

func (b *builder) sideInfo(g Guard, side string, s Side) {
	for _, w := range s.Workloads {
		b.constant(workloadInfo, g, "vector(1)", labelSide, side, "destination_workload", w, "destination_workload_namespace", g.Namespace)
	}
	if len(s.Workloads) == 0 {
		b.constant(versionInfo, g, "vector(1)", labelSide, side,
			"destination_service_name", s.Service, "destination_service_namespace", g.Namespace, "destination_version", s.Version)
	}
	b.constant(subsetInfo, g, "vector(1)", labelSide, side, "guard", g.Name, "subset", s.Name)
}

// constant records one sample per evaluation that says something about a guard.
func (b *builder) constant(name string, g Guard, expr string, labels ...string) {
	set := map[string]string{LabelInstance: b.Name, LabelNamespace: g.Namespace, LabelGuard: g.Name}
	for i := 0; i < len(labels); i += 2 {
		set[labels[i]] = labels[i+1]
	}
	b.record(name, set, expr)
}

// limits records the limits of the signals that are on.
func (b *builder) limits(g Guard) {
	s := g.Signals
	if s.ErrorRate != nil {
		b.constant(failed.limit, g, "vector("+num(s.ErrorRate.Max)+")")
	}
	if s.Latency != nil {
		b.constant(slow.limit, g, "vector("+num(1-s.Latency.Quantile)+")")
		b.constant(latencyMax, g, "vector("+num(s.Latency.Max.Seconds())+")")
	}
	if s.Restarts != nil {
		b.constant(restartsMax, g, "vector("+num(float64(s.Restarts.Max))+")", "window", dur(s.Restarts.Window))
	}
	if s.Traffic != nil {
		b.constant(trafficTolerance, g, "vector("+num(s.Traffic.ShareTolerance)+")")
	}
}

// own selects a recorded metric of this guardian alone: those of two namespaces
// may have the same name.
func (b *builder) own(metric string, matchers ...string) string {
	op := "=~"
	if len(b.namespaces()) == 1 {
		op = "="
	}
	all := append([]string{LabelInstance + `="` + b.Name + `"`, LabelNamespace + op + strconv.Quote(alternatives(b.namespaces()))}, matchers...)
	return metric + "{" + strings.Join(all, ",") + "}"
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

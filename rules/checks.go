package rules

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What guardian check asks Prometheus, and what it asks of Alertmanager's routes.

// HeartbeatAlert has the labels of the heartbeat as Prometheus sends it, without
// those that Prometheus adds to all that it sends.
func (o Options) HeartbeatAlert() map[string]string {
	o = o.withDefaults()
	return map[string]string{"alertname": AlertHeartbeat, LabelGuardian: "true", LabelInstance: o.Name, LabelAction: string(ActionNone),
		LabelSeverity: "none", LabelNamespace: o.Namespace}
}

// ActingAlerts have the labels of the alerts by which the rules of a guard ask for the
// most that its signals may: a rollback, or a hold of signals whose action that is.
func (o Options) ActingAlerts(g Guard) []map[string]string {
	o = o.withDefaults()
	var out []map[string]string
	for _, name := range slices.Sorted(maps.Keys(verdicts)) {
		action, on := g.Signals.Action(verdicts[name])
		labels := map[string]string{"alertname": name, LabelGuardian: "true", LabelInstance: o.Name, LabelAction: string(action),
			LabelSeverity: "critical", LabelSignal: string(verdicts[name]), LabelNamespace: g.Namespace, LabelGuard: g.Name}
		if action == ActionHold {
			labels["alertname"], labels[LabelSeverity] = name+hold, "warning"
		}
		if on && action != ActionNone {
			out = append(out, labels)
		}
	}
	return out
}

// verdicts are the alerts that can roll back, with their signals.
var verdicts = map[string]Signal{
	AlertErrorRate: SignalErrorRate, AlertLatency: SignalLatency, AlertRestarts: SignalRestarts, AlertTraffic: SignalTraffic, AlertRefused: SignalTraffic,
	AlertComparison: SignalComparison,
}

// SignalOf is the signal of an alert that can roll back, or of the one that holds in
// its place; empty: of neither.
func SignalOf(alert string) Signal { return verdicts[strings.TrimSuffix(alert, hold)] }

// Requests is a query for the proxies' request series of one side of a guard,
// which has a sample for each reporter.
func (o Options) Requests(g Guard, s Side) string {
	return "count by (reporter) (" + requestsTotal + "{" + strings.Join(ofSide(g, s, o.Proxies), ",") + "})"
}

// AnyRequests is Requests of whatever runs in the guards' namespaces.
func (o Options) AnyRequests() string {
	return "count by (reporter) (" + requestsTotal + "{" + o.ofNamespaces("") + "})"
}

// ofNamespaces are the matchers that select what proxies report of the guards'
// namespaces, and of series whose namespace is one of others, separated by |.
func (o Options) ofNamespaces(others string) string {
	names := alternatives(o.namespaces())
	if len(o.Guards) == 0 {
		names = alternatives([]string{o.Namespace})
	}
	of := `destination_workload_namespace=~` + strconv.Quote(others+names)
	if proxies := strings.Trim(o.Proxies, ", "); proxies != "" {
		of += "," + proxies
	}
	return of
}

// FastRequests is Requests on the fast lane.
func (o Options) FastRequests(g Guard, s Side) string {
	return "count by (reporter) (" + fastPrefix + requestsTotal + "{" + strings.Join(ofSide(g, s, o.withDefaults().fast().proxies), ",") + "})"
}

// LabelHistogram is on the samples of Durations.
const LabelHistogram = "histogram"

// Its values.
const (
	HistogramAtLimit = "limit"  // there is a bucket whose edge is the one that is judged
	HistogramOther   = "other"  // there are buckets, the edges of which may be others
	HistogramNative  = "native" // which is judged at the limit itself
)

// Durations is a query for the duration histograms of one side of a guard: one
// sample for each kind that there is. edge is where a classic one is judged.
func (o Options) Durations(g Guard, s Side) (query string, edge time.Duration) {
	o = o.withDefaults()
	edge, _ = o.edge(val(g.Signals.Latency).Max)
	of := strings.Join(ofSide(g, s, o.Proxies), ",")
	kind := func(is, selector string) string {
		return expand(`label_replace(count($x), "$histogram", "$is", "", "")`, "histogram", LabelHistogram, "x", selector, "is", is)
	}
	return strings.Join([]string{
		kind(HistogramAtLimit, durationBuckets+"{"+of+`,le=~"`+escape(bucketValue(edge))+`"}`),
		kind(HistogramOther, durationBuckets+"{"+of+`,le="+Inf"}`),
		kind(HistogramNative, durations+"{"+of+"}"),
	}, " or "), edge
}

// Restarts is a query for the series that the restarts of a guard's workloads are
// counted by: those of kube-state-metrics, or guardian's own.
func (o Options) Restarts(g Guard) string {
	o.Guards = []Guard{g}
	b := &builder{Options: o.withDefaults()}
	if b.RestartsFrom == FromKubeStateMetrics {
		workloads, _, _ := sides(o.Guards)
		return "count(" + b.containers("kube_pod_container_status_restarts_total") + " and on (namespace, pod) " + b.podsOf(workloads) + ")"
	}
	return "count(guardian_workload_restarts_total{" + b.selfOfGuards() + "})"
}

// Weights is a query for guardian's own series of a guard's weights, by which
// traffic is judged.
func (o Options) Weights(g Guard) string {
	o.Guards = []Guard{g}
	b := &builder{Options: o.withDefaults()}
	return "count(" + b.weights() + ")"
}

// SelfScraped is a query for whether Prometheus scrapes guardian.
func (o Options) SelfScraped() string {
	b := &builder{Options: o.withDefaults()}
	return "count(guardian_heartbeat_timestamp_seconds{" + b.self() + "})"
}

// LabelProof is on the samples of Unauthorized.
const LabelProof = "proof"

// Unauthorized is a query for the calls that guardian has refused lately, for each
// proof that was missing or wrong.
func (o Options) Unauthorized() string {
	b := &builder{Options: o.withDefaults()}
	return "sum by (proof) (increase(guardian_auth_failures_total{" + b.self() + "}[15m])) > 0"
}

// LabelMissing is on the samples of MissingLabels: a label's name.
const LabelMissing = "missing"

// MissingLabels is a query for the labels of the proxies' series that the rules of
// the guards read and that something has taken away on the way to Prometheus.
// Istio gives each of them a value, if only "unknown", and calls of gRPC their status.
func (o Options) MissingLabels() string {
	o = o.withDefaults()
	var needed []string
	for _, j := range (&builder{Options: o}).counter("", o.Guards, nil).joins {
		needed = append(needed, strings.Split(j.key, ", ")...)
	}
	needed = append(needed, LabelReporter)
	for _, f := range (&builder{Options: o}).failures() {
		needed = append(needed, f.labels()...)
	}
	if slices.ContainsFunc(o.Guards, func(g Guard) bool { return g.Signals.Traffic != nil }) {
		needed = append(needed, strings.Split(serviceKey, ", ")...)
	}
	slices.Sort(needed)
	var terms []string
	for _, label := range slices.Compact(needed) {
		more := o.ofNamespaces("|") + `,` + label + `=""`
		if label == labelGRPC { // which calls of gRPC alone have
			more += `,request_protocol="grpc"`
		}
		terms = append(terms, expand(`label_replace(count($x), "$missing", "$label", "", "")`,
			"x", requestsTotal+"{"+more+"}", "missing", LabelMissing, "label", label))
	}
	return strings.Join(terms, " or ")
}

// ScrapedTwice is a query for proxies whose series two scrapes bring, so that the
// rules count each request twice: the jobs of one such proxy each. A proxy is
// known by its address without the port.
func (o Options) ScrapedTwice() string {
	o = o.withDefaults()
	of := o.ofNamespaces("")
	return expand(`topk(1, (count by (proxy) ($targets) > 1)) * on (proxy) group_right () $targets`, "targets", expand(
		`group by (proxy, $target) (label_replace(label_replace($x, "proxy", "$$1", "instance", "(.*)"), "proxy", "$$1", "instance", "(.+):[0-9]+"))`,
		"$1", "$1", "target", strings.Join(o.TargetLabels, ", "), "x", requestsTotal+"{"+of+"}"))
}

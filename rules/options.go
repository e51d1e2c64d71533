package rules

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/prometheus/promql/parser"
)

// Labels of the alerts that Generate writes.
const (
	LabelGuardian  = "guardian"          // "true" on every alert, by which Alertmanager routes
	LabelGuard     = "guardian_guard"    // the guard's name; missing on alerts about guardian itself
	LabelSignal    = "guardian_signal"   // a Signal; missing on alerts about guardian itself
	LabelAction    = "guardian_action"   // an Action
	LabelNamespace = "namespace"         // where the guard's workloads live
	LabelSeverity  = "severity"          // critical, warning or none
	LabelInstance  = "guardian_instance" // Options.Name; on recorded series and alerts
	LabelShard     = "guardian_shard"    // the part of the rules that a guard's are in, as namespace/name/bits; on recorded series
	labelSide      = "guardian_side"     // canary or stable, on recorded series

	// LabelRules is on all objects with rules, and has Options.Name.
	LabelRules = "canary-guardian.io/rules"

	// LabelOwner is on all of guardian's own metrics, and has Options.Namespace:
	// one Prometheus may scrape several guardians whose guards have equal names.
	LabelOwner = "guardian_namespace"

	// LabelReporter is on the samples of Requests: which proxies report them.
	LabelReporter = "reporter"
)

// Signal is one of the ways in which a canary shows that it is broken.
type Signal string

// The signals.
const (
	SignalErrorRate  Signal = "error_rate"
	SignalLatency    Signal = "latency"
	SignalRestarts   Signal = "restarts"
	SignalTraffic    Signal = "traffic"
	SignalComparison Signal = "comparison"
)

// SignalNames lists them.
func SignalNames() []Signal {
	return []Signal{SignalErrorRate, SignalLatency, SignalRestarts, SignalTraffic, SignalComparison}
}

// Action is what an alert asks guardian to do.
type Action string

// The actions.
const (
	ActionRollback Action = "rollback" // send all traffic to stable
	ActionHold     Action = "hold"     // do not go forward
	ActionNone     Action = "none"     // for people, or a sign of life
)

// Source says where the restarts of a workload are counted.
type Source string

// The sources of restart counts.
const (
	FromGuardian         Source = "guardian"           // guardian_workload_restarts_total, from guardian's own pod watch
	FromKubeStateMetrics Source = "kube-state-metrics" // kube_pod_container_status_restarts_total
)

// Guard is what the rules need to know of a guard.
type Guard struct {
	Name      string
	Namespace string // of the workloads
	Stable    Side
	Canary    Side
	Signals   Signals
	// EvenIfStableFails asks for a rollback also while stable is as bad.
	EvenIfStableFails bool
}

// Side is one of a guard's two versions. Name and either Workloads or both
// Service and Version are needed.
type Side struct {
	Name      string   // as people and guardian's metrics call it: the subset, or the host
	Workloads []string // names of the Deployments: the key to rely on
	Service   string   // destination_service_name; with it, refused connections can be seen
	Version   string   // destination_version, looked at only when Workloads is empty
}

// Signals has the limits of a guard; nil switches a signal off.
type Signals struct {
	ErrorRate  *ErrorRate
	Latency    *Latency
	Restarts   *Restarts
	Traffic    *Traffic
	Comparison *Comparison
}

// Key is what the configuration calls a signal, below signals.
func (s Signal) Key() string {
	if s == SignalErrorRate {
		return "errorRate"
	}
	return string(s)
}

// Action is what the alerts of a signal ask for at most; false: the signal is off.
func (s Signals) Action(of Signal) (Action, bool) {
	on, action, fallback := false, Action(""), ActionRollback
	switch of {
	case SignalErrorRate:
		on, action = s.ErrorRate != nil, val(s.ErrorRate).Action
	case SignalLatency:
		on, action = s.Latency != nil, val(s.Latency).Action
	case SignalRestarts:
		on, action = s.Restarts != nil, val(s.Restarts).Action
	case SignalTraffic:
		on, action = s.Traffic != nil, val(s.Traffic).Action
	case SignalComparison:
		on, action, fallback = s.Comparison != nil, val(s.Comparison).Action, ActionHold
	}
	return or(action, fallback), on
}

// ErrorRate limits the share of failed requests.
type ErrorRate struct {
	Max float64 // ratio, above 0 and below 1
	// Failures tell which requests have failed, of canary and stable alike: those that
	// one of them selects, as matchers without braces of the labels response_code,
	// response_flags and grpc_response_status. Default: HTTP 5xx, which is what callers'
	// proxies answer where no connection comes about; and the gRPC statuses that
	// OpenTelemetry counts as the server's fault (UNKNOWN, DEADLINE_EXCEEDED,
	// UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS).
	Failures []string
	Action   Action // what its alerts ask for at most; empty: ActionRollback, here and below
}

// Latency limits the duration that a share Quantile of the requests may take.
// Max between two bucket edges is judged at the next higher edge, because only
// requests beyond it are known to be too slow; native histograms are judged at
// Max itself.
type Latency struct {
	Quantile float64 // ratio, above 0 and below 1
	Max      time.Duration
	Action   Action
}

// Restarts limits container restarts of one version: more than Max within
// Window.
type Restarts struct {
	Max    int
	Window time.Duration
	Action Action
}

// Traffic limits how far the canary's share of requests may be from its weight.
type Traffic struct {
	// ShareTolerance is relative to the weight: at 0.5 and weight 10%, shares
	// from 5% to 15% are fine. Above 0, at most 1.
	ShareTolerance float64
	Action         Action
}

// Comparison limits how much worse than stable the canary may be at the same time: the
// shares of its requests that fail, where ErrorRate is on, and that are too slow, where Latency
// is.
type Comparison struct {
	Ratio  float64       // times stable's share that the canary's may be; at least 1
	Min    float64       // share of requests that it may be above that; above 0 and below 1
	Warmup time.Duration // since the canary's first requests, in which nothing is compared
	Action Action        // empty: ActionHold
}

// Options is what Generate works from. The zero value of each field but Guards
// and Namespace is replaced by its default.
type Options struct {
	// Name tells several guardians apart that one Prometheus serves. Default
	// "guardian". It begins the names of the groups.
	Name string
	// Namespace is the label on alerts about guardian itself. Default: the
	// namespace of the first guard.
	Namespace string
	Guards    []Guard

	// Interval of evaluation. Shorter notices earlier and costs more: each
	// evaluation reads the guarded workloads' request series once. Default 3s.
	Interval time.Duration
	// ScrapeInterval of the workloads' proxies. A wrong value loses some
	// speed, not correctness. Default 15s.
	ScrapeInterval time.Duration
	// FastLane is the interval at which a job of its own scrapes the guarded
	// workloads' sidecars: the one that Rules.PodMonitor and Rules.ScrapeConfig
	// describe. The rules then read it for what those sidecars report, and the
	// ordinary scrapes for the rest, or where the fast lane is not there. Whole
	// seconds, at most 5s; 0 (default): no fast lane.
	FastLane time.Duration
	// HeartbeatMaxAge is the age at which GuardianHeartbeatStale fires.
	// Default 3m.
	HeartbeatMaxAge time.Duration
	// StableFactor is how many times stable's share of bad requests a canary's
	// must exceed while stable is beyond the limit itself. Default 2.
	StableFactor float64

	// Labels of the PrometheusRule, such as release: kube-prometheus-stack.
	Labels map[string]string
	// RunbookBase is put before an alert's name and ".md".
	RunbookBase string
	Links       Links

	// Posts says that guardian tells people of Notices itself: the rules of the same
	// meaning fire only where that does not get through.
	Posts bool

	RestartsFrom Source // default FromGuardian
	// Proxies selects the Istio series to count, as matchers without braces:
	// needed when two jobs scrape the same proxies. Those on TargetLabels select from
	// up as well, which is read for all targets otherwise. Default: all.
	Proxies string
	// Self selects guardian's own series further, as matchers without braces.
	// Default: all that have Namespace as LabelOwner.
	Self string
	// TargetLabels are the labels that a series shares with the `up` of the
	// target that it was scraped from. Default job and instance.
	TargetLabels []string
	// LatencyBuckets are the edges of istio_request_duration_milliseconds.
	// Default: Istio's own, 0.5 ms to 1 h.
	LatencyBuckets []time.Duration
}

// DefaultRunbookBase is where guardian's runbooks are.
const DefaultRunbookBase = "https://github.com/canary-guardian/guardian/blob/main/docs/runbooks/"

// istioBuckets are the edges of Istio's duration histogram, which are Envoy's
// defaults: https://github.com/envoyproxy/envoy/blob/main/source/common/stats/histogram_impl.cc
var istioBuckets = milliseconds(0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 600000, 1800000, 3600000)

func milliseconds(ms ...float64) []time.Duration {
	var out []time.Duration
	for _, m := range ms {
		out = append(out, time.Duration(m*float64(time.Millisecond)))
	}
	return out
}

// withDefaults returns a copy with every default filled in.
func (o Options) withDefaults() Options {
	o.Name = or(o.Name, "guardian")
	if o.Namespace == "" && len(o.Guards) > 0 {
		o.Namespace = o.Guards[0].Namespace
	}
	o.Interval = or(o.Interval, 3*time.Second)
	o.ScrapeInterval = or(o.ScrapeInterval, 15*time.Second)
	o.HeartbeatMaxAge = or(o.HeartbeatMaxAge, 3*time.Minute)
	o.StableFactor = or(o.StableFactor, 2)
	o.RunbookBase = or(o.RunbookBase, DefaultRunbookBase)
	o.RestartsFrom = or(o.RestartsFrom, FromGuardian)
	o.Labels = maps.Clone(o.Labels)
	if len(o.TargetLabels) == 0 {
		o.TargetLabels = []string{"job", "instance"}
	}
	if len(o.LatencyBuckets) == 0 {
		o.LatencyBuckets = istioBuckets
	}
	o.LatencyBuckets = slices.Sorted(slices.Values(o.LatencyBuckets))
	return o
}

func or[T comparable](value, fallback T) T {
	var zero T
	if value == zero {
		return fallback
	}
	return value
}

// validate reports all problems of filled-in options at once.
func (o Options) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(o.Namespace != "", "namespace: empty; want the namespace of guardian's release")
	check(o.Interval >= time.Second/2 && o.Interval%(time.Second/2) == 0, "interval: %v; want a multiple of 500ms", o.Interval)
	check(wholeSeconds(o.ScrapeInterval), "scrapeInterval: %v; want whole seconds, at least 1s", o.ScrapeInterval)
	check(o.FastLane == 0 || wholeSeconds(o.FastLane) && o.FastLane <= maxFastLane, "fastLane.interval: %v; want whole seconds, 1s to %v", o.FastLane, maxFastLane)
	check(o.HeartbeatMaxAge > 0, "heartbeat.maxAge: %v; want more than 0", o.HeartbeatMaxAge)
	check(o.StableFactor >= 1, "stableFactor: %v; want at least 1", o.StableFactor)
	check(o.RestartsFrom == FromGuardian || o.RestartsFrom == FromKubeStateMetrics,
		"restartsFrom: %q; want %s or %s", o.RestartsFrom, FromGuardian, FromKubeStateMetrics)
	for _, key := range []struct{ name, matchers string }{{"proxies", o.Proxies}, {"self", o.Self}} {
		_, err := parser.NewParser(parser.Options{}).ParseMetricSelector(`x{` + key.matchers + `}`)
		check(err == nil, "%s: %q: %v; want matchers without braces", key.name, key.matchers, err)
	}
	for _, l := range o.TargetLabels {
		check(labelName.MatchString(l), "targetLabels: %q; want a label name", l)
	}
	seen := map[string]bool{}
	for _, g := range o.Guards {
		key := g.Namespace + "/" + g.Name
		check(!seen[key], "guards: %s appears twice", key)
		seen[key] = true
		errs = append(errs, o.validateGuard(g))
	}
	return errors.Join(errs...)
}

var labelName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

func wholeSeconds(d time.Duration) bool { return d >= time.Second && d%time.Second == 0 }

// CheckGuard reports all problems of one guard, for which Generate would refuse
// all of them.
func (o Options) CheckGuard(g Guard) error { return o.withDefaults().validateGuard(g) }

func (o Options) validateGuard(g Guard) error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("guard %q: "+format, append([]any{g.Name}, args...)...))
		}
	}
	check(g.Name != "", "name: empty")
	check(g.Namespace != "", "namespace: empty; want the namespace of the workloads")
	check(g.Stable.Name != g.Canary.Name, "stable and canary are both %q", g.Canary.Name)
	for _, side := range []struct {
		key string
		Side
	}{{"stable", g.Stable}, {"canary", g.Canary}} {
		key, s := side.key, side.Side
		check(s.Name != "", "%s.name: empty", key)
		check(len(s.Workloads) > 0 || s.Service != "" && s.Version != "",
			"%s: neither workloads nor service and version; want one of the two", key)
		for _, w := range s.Workloads {
			check(w != "" && w != "unknown", "%s.workloads: %q; want the name of a Deployment", key, w)
		}
	}
	for _, w := range g.Stable.Workloads {
		check(!slices.Contains(g.Canary.Workloads, w), "workload %q is both stable and canary", w)
	}
	s := g.Signals
	check(s.ErrorRate == nil || ratio(s.ErrorRate.Max), "signals.errorRate.max: %v; want more than 0 and less than 1", val(s.ErrorRate).Max)
	for i, f := range val(s.ErrorRate).Failures {
		if err := CheckFailures(f); err != nil {
			check(false, "signals.errorRate.failures[%d]: %q: %w", i, f, err)
		}
	}
	check(s.Latency == nil || ratio(s.Latency.Quantile), "signals.latency.quantile: %v; want more than 0 and less than 1", val(s.Latency).Quantile)
	if s.Latency != nil {
		_, ok := o.edge(s.Latency.Max)
		check(s.Latency.Max > 0 && ok, "signals.latency.max: %v; want more than 0 and at most the highest bucket, %v",
			s.Latency.Max, o.LatencyBuckets[len(o.LatencyBuckets)-1])
	}
	check(s.Restarts == nil || s.Restarts.Max >= 0, "signals.restarts.max: %d; want 0 or more", val(s.Restarts).Max)
	check(s.Restarts == nil || wholeSeconds(s.Restarts.Window) && s.Restarts.Window >= time.Minute,
		"signals.restarts.window: %v; want whole seconds, at least 1m", val(s.Restarts).Window)
	if c := s.Comparison; c != nil {
		check(c.Ratio >= 1 && c.Ratio <= 100, "signals.comparison.ratio: %v; want 1 to 100", c.Ratio)
		check(ratio(c.Min), "signals.comparison.min: %v; want more than 0 and less than 1", c.Min)
		check(c.Warmup >= 0, "signals.comparison.warmup: %v; want 0s or more", c.Warmup)
		check(s.ErrorRate != nil || s.Latency != nil, "signals.comparison: on without errorRate and latency; want one of them, whose requests it compares")
	}
	for _, name := range SignalNames() {
		action, _ := s.Action(name)
		check(action == ActionRollback || action == ActionHold || action == ActionNone, "signals.%s.action: %q; want rollback, hold or none", name.Key(), action)
	}
	tolerance := val(s.Traffic).ShareTolerance
	check(s.Traffic == nil || tolerance > 0 && tolerance <= 1, "signals.traffic.shareTolerance: %v; want more than 0 and at most 1", tolerance)
	return errors.Join(errs...)
}

func ratio(f float64) bool { return f > 0 && f < 1 && !math.IsNaN(f) }

func val[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

// self selects guardian's own series, as matchers without braces.
func (o Options) self() string {
	own := LabelOwner + "=" + strconv.Quote(o.Namespace)
	if more := strings.Trim(o.Self, ", "); more != "" {
		own += "," + more
	}
	return own
}

// edge returns the lowest bucket edge that is at least limit, and whether there
// is one.
func (o Options) edge(limit time.Duration) (time.Duration, bool) {
	i, _ := slices.BinarySearch(o.LatencyBuckets, limit)
	if i == len(o.LatencyBuckets) {
		return 0, false
	}
	return o.LatencyBuckets[i], true
}

// namespaces of the guards, sorted, each once.
func (o Options) namespaces() []string {
	var out []string
	for _, g := range o.Guards {
		out = append(out, g.Namespace)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

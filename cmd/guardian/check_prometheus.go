package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/canary-guardian/guardian/alerting"
	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/rules"
)

// prometheusCheck asks whether there is anything to judge the guards by.
type prometheusCheck struct {
	*preflight
	client  *alerting.Prometheus
	options rules.Options
	silent  bool // Prometheus does not answer: said once
}

// unauthorized is what Prometheus knows of calls that guardian has refused.
type unauthorized struct {
	proofs []string // what was missing or wrong; empty: none was refused, as far as is known
}

// checkPrometheus asks for each guard's own series and rules, and returns what
// guardian's own metrics say of its callers.
func checkPrometheus(ctx context.Context, p *preflight, sides map[string]decision.Sides) unauthorized {
	e := p.config.Prometheus
	if e.URL == "" {
		p.unknown("prometheus", "", "set prometheus.url", "Prometheus: prometheus.url is empty")
		return unauthorized{}
	}
	prom, err := alerting.NewPrometheus(alerting.ClientOptions{URL: e.URL, HTTP: &e.HTTP, Timeout: e.Timeout})
	if err != nil {
		p.fail("prometheus", "", "", "Prometheus: %v", err)
		return unauthorized{}
	}
	defer prom.Close()
	o, left := p.config.RulesOptions(sides)
	c := &prometheusCheck{preflight: p, client: prom, options: o}
	if !c.checkMesh(ctx) {
		return unauthorized{}
	}
	c.checkSelf(ctx)
	for _, g := range p.config.Guards {
		p.guard = g.Name
		if err := left[g.Name]; err != nil {
			p.fail("rules", "", "name its workloads in the configuration, apart for stable and canary", "no rules can be made for it: %v", err)
			continue
		}
		i := slices.IndexFunc(o.Guards, func(r rules.Guard) bool { return r.Name == g.Name })
		c.checkGuard(ctx, g, o.Guards[i], sides[g.Name])
	}
	p.guard = ""
	return c.refused(ctx)
}

// query asks once; ok is false where there is no answer, which is said.
func (c *prometheusCheck) query(ctx context.Context, promql string) (samples []alerting.Sample, ok bool) {
	if c.silent {
		return nil, false
	}
	samples, err := c.client.Query(ctx, promql)
	if err != nil {
		c.silent = true
		c.unknown("prometheus", "", "reach it from here, such as by kubectl port-forward, and name it with --prometheus URL", "%v", err)
		return nil, false
	}
	return samples, true
}

// checkMesh looks at what all proxies report.
func (c *prometheusCheck) checkMesh(ctx context.Context) (answered bool) {
	ns := c.config.Namespace
	missing, ok := c.query(ctx, c.options.MissingLabels())
	if !ok {
		return false
	}
	for _, s := range missing {
		c.fail("labels", "", "find what drops it: metricRelabelings of the PodMonitor or ServiceMonitor of the sidecars, metric_relabel_configs, or tagOverrides of Istio's Telemetry",
			"series: %.0f of istio_requests_total have lost the label %s on the way to Prometheus, and the rules need it", s.Value, s.Labels[rules.LabelMissing])
	}
	of := "of namespace " + ns
	if proxies := c.config.Rules.Proxies; proxies != "" {
		of += " that rules.proxies " + proxies + " selects"
	}
	any, ok := c.query(ctx, c.options.AnyRequests())
	switch {
	case !ok:
		return false
	case len(any) == 0:
		c.fail("series", "", "have Prometheus scrape the sidecars' port http-envoy-prom (15090, /stats/prometheus), as Istio's PodMonitor envoy-stats-monitor does, labelled as prometheus-operator selects PodMonitors",
			"series: Prometheus has no istio_requests_total %s: are the sidecars scraped?", of)
		return true
	}
	c.ok("series", "", "series: istio_requests_total %s", of)
	twice, ok := c.query(ctx, c.options.ScrapedTwice())
	if ok && len(twice) > 0 {
		var jobs []string
		for _, s := range twice {
			jobs = append(jobs, fmt.Sprintf("job=%q", s.Labels["job"]))
		}
		slices.Sort(jobs)
		jobs = slices.Compact(jobs)
		c.fail("twice", "", "scrape them once, or choose one job: rules.proxies: '"+jobs[0]+"'",
			"series: proxies are scraped twice, such as %s by %s: each request counts as two, and chance is taken for proof", twice[0].Labels["proxy"], strings.Join(jobs, " and "))
	}
	return ok
}

// checkSelf asks for guardian's own metrics.
func (c *prometheusCheck) checkSelf(ctx context.Context) {
	samples, ok := c.query(ctx, c.options.SelfScraped())
	switch {
	case !ok:
	case len(samples) == 0:
		c.fail("self", "", "have Prometheus scrape guardian's metrics port: the chart's ServiceMonitor (serviceMonitor.labels as prometheus-operator selects them), or the job in docs/install.md",
			"series: Prometheus has none of guardian's own metrics with guardian_namespace=%q: restarts, traffic and its own alerts have no data", c.config.Namespace)
	default:
		c.ok("self", "", "series: guardian's own metrics")
	}
}

// checkGuard asks for what one guard is judged by.
func (c *prometheusCheck) checkGuard(ctx context.Context, g config.Guard, guard rules.Guard, sides decision.Sides) {
	gaps, ok := c.checkRules(ctx, guard)
	if !ok {
		return
	}
	for _, side := range []struct {
		name string
		rules.Side
		gap bool
	}{{"stable", guard.Stable, gaps.Stable}, {"canary", guard.Canary, gaps.Canary}} {
		c.checkSide(ctx, guard, side.name, side.Side, side.gap)
	}
	if guard.Signals.Restarts != nil {
		c.checkRestarts(ctx, guard)
	}
	if guard.Signals.Traffic != nil {
		samples, ok := c.query(ctx, c.options.Weights(guard))
		if ok && len(samples) == 0 {
			c.fail("weights", "", "have Prometheus scrape guardian, and keep the labels guard and subset of guardian_weight_percent",
				"series: no guardian_weight_percent of it: the traffic signal has no data")
		}
	}
}

// checkRules asks whether Prometheus evaluates the guard's rules, as guardian
// itself does before each step forward.
func (c *prometheusCheck) checkRules(ctx context.Context, guard rules.Guard) (decision.Gaps, bool) {
	if c.silent {
		return decision.Gaps{}, false
	}
	gaps, err := (&forwardChecks{query: c.client, now: time.Now}).gaps(ctx, c.config, guard)
	switch {
	case err != nil:
		c.silent = true
		c.unknown("rules", "", "", "%v", err)
		return gaps, false
	case gaps.Rules != "":
		fix := "label the PrometheusRules as Prometheus selects them (rules.labels), and see what prometheus-operator has against them: kubectl -n " + c.config.Rules.Namespace + " get events --field-selector reason=InvalidConfiguration"
		if !c.config.Rules.Enabled {
			fix = "load what `" + c.app.name + " rules -f …` prints: rules.enabled is false"
		}
		c.fail("rules", "", fix, "its rules are not loaded: %s", gaps.Rules)
		gaps.Stable, gaps.Canary = false, false // what they record is not the question
	default:
		c.ok("rules", "", "its rules are loaded and evaluated")
	}
	return gaps, true
}

// checkSide asks for one side's own series. unrecorded says that the rules record
// nothing of it.
func (c *prometheusCheck) checkSide(ctx context.Context, guard rules.Guard, name string, side rules.Side, unrecorded bool) {
	object := name + " " + side.Name
	samples, ok := c.query(ctx, c.options.Requests(guard, side))
	if !ok {
		return
	}
	who := "workload " + strings.Join(side.Workloads, ", ")
	if len(side.Workloads) == 0 {
		who = "service " + side.Service + ", version " + side.Version
	}
	if len(samples) == 0 {
		weight := c.weights[guard.Name]
		fix := "send it a request, and see that its pods have a sidecar that Prometheus scrapes; workloads names the Deployments where they are others"
		switch {
		case name == "canary" && weight == 0:
			c.note("series", object, fix, "no istio_requests_total of %s: it has had no request yet, or is not scraped", who)
		case name == "canary":
			c.fail("series", object, fix, "no istio_requests_total of %s, although it has weight %d%%", who, weight)
		default:
			c.fail("series", object, fix, "no istio_requests_total of %s", who)
		}
		return
	}
	var reporters []string
	for _, s := range samples {
		reporters = append(reporters, s.Labels[rules.LabelReporter])
	}
	slices.Sort(reporters)
	c.ok("series", object, "istio_requests_total of %s, reported by %s", who, strings.Join(reporters, ", "))
	c.checkFastLane(ctx, guard, object, side)
	if guard.Signals.Latency != nil {
		c.checkLatency(ctx, guard, object, side)
	}
	if unrecorded {
		c.fail("series", object, "see that rules.proxies selects them and that workloads are right; within seconds after the rules were loaded, check again",
			"the guard's rules are evaluated and record none of its requests")
	}
}

func (c *prometheusCheck) checkFastLane(ctx context.Context, guard rules.Guard, object string, side rules.Side) {
	if !c.config.Rules.FastLane.Enabled {
		return
	}
	samples, ok := c.query(ctx, c.options.FastRequests(guard, side))
	switch {
	case !ok:
	case len(samples) == 0:
		c.fail("fast-lane", object, "have prometheus-operator select PodMonitor "+c.config.Rules.FastLaneName()+" (rules.labels), and the pods have a port http-envoy-prom",
			"series: none of the fast lane; the ordinary scrapes are judged instead")
	default:
		c.ok("fast-lane", object, "series: the fast lane's")
	}
}

// checkLatency asks for a histogram that can tell requests beyond the limit.
func (c *prometheusCheck) checkLatency(ctx context.Context, guard rules.Guard, object string, side rules.Side) {
	query, edge := c.options.Durations(guard, side)
	samples, ok := c.query(ctx, query)
	if !ok {
		return
	}
	var kinds []string
	for _, s := range samples {
		kinds = append(kinds, s.Labels[rules.LabelHistogram])
	}
	limit := float64(edge) / float64(time.Millisecond)
	switch {
	case slices.Contains(kinds, rules.HistogramAtLimit):
		c.ok("latency", object, "istio_request_duration_milliseconds_bucket at %g ms", limit)
	case slices.Contains(kinds, rules.HistogramNative):
		c.ok("latency", object, "istio_request_duration_milliseconds is a native histogram, judged at %s", guard.Signals.Latency.Max)
	case slices.Contains(kinds, rules.HistogramOther):
		c.fail("latency", object, fmt.Sprintf("have Istio keep the bucket (proxy annotation sidecar.istio.io/statsHistogramBuckets), stop dropping le=%q, or choose signals.latency.max so that a bucket is at it", fmt.Sprintf("%g", limit)),
			"istio_request_duration_milliseconds_bucket has no bucket at %g ms, where signals.latency.max %s is judged: latency has no data", limit, guard.Signals.Latency.Max)
	default:
		c.fail("latency", object, "keep istio_request_duration_milliseconds on the way to Prometheus, or set signals.latency.enabled: false",
			"no istio_request_duration_milliseconds: latency has no data")
	}
}

// checkRestarts asks for the series that restarts are counted by.
func (c *prometheusCheck) checkRestarts(ctx context.Context, guard rules.Guard) {
	fromState := c.config.Rules.RestartsFrom == config.RestartsFromKubeStateMetrics
	if fromState && len(guard.Canary.Workloads)+len(guard.Stable.Workloads) == 0 {
		c.unknown("restarts", "", "name its Deployments in workloads", "restarts: which pods are its is not known")
		return
	}
	samples, ok := c.query(ctx, c.options.Restarts(guard))
	switch {
	case !ok || len(samples) > 0 && !math.IsNaN(samples[0].Value):
	case fromState:
		c.fail("restarts", "", "install and scrape kube-state-metrics, or set rules.restartsFrom: guardian, which needs none",
			"restarts: no kube_pod_container_status_restarts_total of its pods: kube-state-metrics is absent, or not scraped for namespace %s", c.config.Namespace)
	default:
		c.fail("restarts", "", "have Prometheus scrape guardian, and keep the labels guard and subset", "restarts: no guardian_workload_restarts_total of it: restarts have no data")
	}
}

// refused asks which proofs guardian has missed lately.
func (c *prometheusCheck) refused(ctx context.Context) unauthorized {
	samples, ok := c.query(ctx, c.options.Unauthorized())
	if !ok {
		return unauthorized{}
	}
	var out unauthorized
	for _, s := range samples {
		out.proofs = append(out.proofs, s.Labels[rules.LabelProof])
	}
	slices.Sort(out.proofs)
	return out
}

package rules

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"
	"github.com/prometheus/prometheus/promql/parser"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
)

// fastLane has two guards with different limits, one of them told by version.
func fastLane() Options {
	return Options{
		FastLane: time.Second, Interval: time.Second, Labels: map[string]string{"release": "prom"},
		Guards: []Guard{
			orders(),
			with(orders(), func(g *Guard) {
				g.Name = "payments"
				g.Signals.Latency.Max = 800 * time.Millisecond
				g.Stable = Side{Name: "v1", Service: "payments", Version: "v1"}
				g.Canary = Side{Name: "v2", Service: "payments", Version: "v2"}
			}),
		},
	}
}

func generated(t *testing.T, o Options) *Rules {
	t.Helper()
	r, err := Generate(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestFastLaneWritesTheGoldens(t *testing.T) {
	r := generated(t, fastLane())
	monitor, err := r.PodMonitorYAML("guardian", "monitoring")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "podmonitor.yaml", monitor)
	scrape, err := r.ScrapeConfig()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "scrapeconfig.yaml", scrape)
	rules, err := r.Prometheus()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "fastlane.prometheus.yaml", rules)
}

func TestWithoutFastLaneThereIsNothingToScrape(t *testing.T) {
	for name, o := range map[string]Options{
		"not asked for":     {Guards: []Guard{orders()}},
		"nothing to scrape": {Namespace: "microservices", FastLane: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			r := generated(t, o)
			monitor, err := r.PodMonitorYAML("guardian", "monitoring")
			scrape, errScrape := r.ScrapeConfig()
			if err != nil || errScrape != nil || monitor != nil || scrape != nil || r.PodMonitor("guardian", "monitoring") != nil {
				t.Errorf("got %s, %s, %v, %v", monitor, scrape, err, errScrape)
			}
			out, err := r.Prometheus()
			if err != nil || strings.Contains(string(out), fastPrefix) {
				t.Errorf("%v; the rules read a fast lane:\n%s", err, out)
			}
		})
	}
}

func TestPromtoolAcceptsTheScrapeConfig(t *testing.T) {
	for name, o := range map[string]Options{
		"by workload and by version": fastLane(),
		"by workload, no latency": {FastLane: 2 * time.Second, Guards: []Guard{with(orders(), func(g *Guard) {
			g.Signals.Latency = nil
		})}},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := generated(t, o).ScrapeConfig()
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "prometheus.yml")
			if err := os.WriteFile(file, out, 0o600); err != nil {
				t.Fatal(err)
			}
			if said, err := exec.CommandContext(t.Context(), promtool(t), "check", "config", "--lint=all", "--lint-fatal", file).CombinedOutput(); err != nil {
				t.Errorf("%v\n%s\n%s", err, said, out)
			}
		})
	}
}

// asPrometheus is what the operator makes of a PodMonitor's relabelings.
func asPrometheus(t *testing.T, all []monitoringv1.RelabelConfig) []*relabel.Config {
	t.Helper()
	var out []*relabel.Config
	for _, r := range all {
		c := relabel.DefaultRelabelConfig
		c.Action, c.TargetLabel, c.NameValidationScheme = relabel.Action(r.Action), r.TargetLabel, model.UTF8Validation
		for _, l := range r.SourceLabels {
			c.SourceLabels = append(c.SourceLabels, model.LabelName(l))
		}
		if r.Regex != "" {
			c.Regex = relabel.MustNewRegexp(r.Regex)
		}
		if r.Replacement != nil {
			c.Replacement = *r.Replacement
		}
		if err := c.Validate(model.UTF8Validation); err != nil {
			t.Fatal(err)
		}
		out = append(out, &c)
	}
	return out
}

func process(lset labels.Labels, cfgs []*relabel.Config) (labels.Labels, bool) {
	b := labels.NewBuilder(lset)
	keep := relabel.ProcessBuilder(b, cfgs...)
	return b.Labels(), keep
}

// sidecar is what the sidecar of one pod tells at /stats/prometheus: requests of
// three callers, some over plain text, requests of its own to two services,
// Istio's standard metrics with all buckets, and some of Envoy's hundreds.
func sidecar(workload, service, version string) string {
	var out strings.Builder
	write := func(identity, code, grpc, flags string) {
		ls := fmt.Sprintf(`%s,request_protocol="http",response_code="%s",grpc_response_status="%s",response_flags="%s"`, identity, code, grpc, flags)
		fmt.Fprintf(&out, "istio_requests_total{%s} 1200\n", ls)
		for _, h := range []string{"istio_request_duration_milliseconds", "istio_request_bytes", "istio_response_bytes"} {
			for _, le := range []string{"0.5", "1", "5", "10", "25", "50", "100", "250", "500", "1000", "2500", "5000", "10000", "30000", "60000", "300000", "600000", "1800000", "3600000", "+Inf"} {
				fmt.Fprintf(&out, "%s_bucket{%s,le=%q} 1200\n", h, ls, le)
			}
			fmt.Fprintf(&out, "%s_sum{%s} 30000\n%s_count{%s} 1200\n", h, ls, h, ls)
		}
	}
	const ns = "microservices"
	destination := func(workload, service, version string) string {
		return fmt.Sprintf(`destination_workload=%q,destination_workload_namespace=%q,destination_service=%q,destination_service_name=%q,destination_service_namespace=%q,`+
			`destination_version=%q,destination_app=%q,destination_canonical_service=%q,destination_canonical_revision=%q,destination_cluster="Kubernetes",`+
			`destination_principal="spiffe://cluster.local/ns/%s/sa/%s"`, workload, ns, service+"."+ns+".svc.cluster.local", service, ns, version, service, service, version, ns, service)
	}
	source := func(workload, policy string) string {
		return fmt.Sprintf(`source_workload=%q,source_workload_namespace=%q,source_app=%q,source_version="v1",source_canonical_service=%q,source_canonical_revision="v1",`+
			`source_cluster="Kubernetes",source_principal="spiffe://cluster.local/ns/%s/sa/%s",connection_security_policy=%q`, workload, ns, workload, workload, ns, workload, policy)
	}
	for _, caller := range []string{source("gateway", "mutual_tls"), source("checkout", "mutual_tls"), source("unknown", "none")} {
		for _, code := range []string{"200", "201", "404", "500", "503"} {
			write(`reporter="destination",`+caller+","+destination(workload, service, version), code, "", "-")
		}
		write(`reporter="destination",`+caller+","+destination(workload, service, version), "200", "14", "-")
		write(`reporter="destination",`+caller+","+destination(workload, service, version), "0", "", "DC")
	}
	for _, of := range []string{destination("stock-v1", "stock", "v1"), destination("payments-v1", "payments", "v1"), destination("orders-v1", "orders-service", "v1")} {
		for _, code := range []string{"200", "404", "503"} {
			write(`reporter="source",`+source(workload, "unknown")+","+of, code, "", "-")
		}
	}
	for i := range 600 {
		fmt.Fprintf(&out, "envoy_cluster_upstream_rq_%d{cluster_name=\"xds-grpc\"} 1\n", i)
	}
	fmt.Fprintf(&out, "istio_build{component=\"proxy\",tag=\"1.27.0\"} 1\nistio_agent_pilot_xds_expired_nonce 0\n")
	return out.String()
}

// scraped reads an exposition as a scrape does; edge writes a bucket's edge as
// this Prometheus does.
func scraped(t *testing.T, text string, edge func(string) string) []labels.Labels {
	t.Helper()
	var out []labels.Labels
	for line := range strings.Lines(text) {
		metric := line[:strings.LastIndexByte(line, ' ')]
		l, err := parser.NewParser(parser.Options{}).ParseMetric(metric)
		if err != nil {
			t.Fatalf("%s: %v", metric, err)
		}
		if le := l.Get("le"); le != "" {
			l = labels.NewBuilder(l).Set("le", edge(le)).Labels()
		}
		out = append(out, l)
	}
	return out
}

// Edges as Envoy writes them and Prometheus 2 stores them, and as Prometheus 3
// does.
func prometheus2(le string) string { return le }

func prometheus3(le string) string {
	if le == "+Inf" || strings.Contains(le, ".") {
		return le
	}
	return le + ".0"
}

// selectors are those by which the rules read the fast lane.
func selectors(t *testing.T, r *Rules) [][]*labels.Matcher {
	t.Helper()
	var out [][]*labels.Matcher
	for _, g := range r.groups() {
		for _, rule := range g.Rules {
			expr, err := parser.NewParser(parser.Options{}).ParseExpr(rule.Expr.String())
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range parser.ExtractSelectors(expr) {
				if slices.ContainsFunc(s, func(m *labels.Matcher) bool {
					return m.Name == model.MetricNameLabel && strings.HasPrefix(m.Value, fastPrefix)
				}) {
					out = append(out, s)
				}
			}
		}
	}
	if len(out) == 0 {
		t.Fatal("the rules read no fast lane")
	}
	return out
}

func matches(lset labels.Labels, all [][]*labels.Matcher) bool {
	return slices.ContainsFunc(all, func(s []*labels.Matcher) bool {
		return !slices.ContainsFunc(s, func(m *labels.Matcher) bool { return !m.Matches(lset.Get(m.Name)) })
	})
}

// TestFastLaneKeepsWhatTheRulesReadAndNothingElse lets Prometheus's own code
// relabel what a sidecar tells.
func TestFastLaneKeepsWhatTheRulesReadAndNothingElse(t *testing.T) {
	withoutLatency := fastLane()
	for i := range withoutLatency.Guards {
		withoutLatency.Guards[i].Signals.Latency = nil
	}
	onlyOrders := fastLane()
	onlyOrders.Guards = onlyOrders.Guards[:1]
	for name, test := range map[string]struct {
		options                    Options
		workload, service, version string
		// Three callers with seven outcomes each, times requests and buckets.
		want int
		edge func(string) string
	}{
		"a guarded workload":                  {onlyOrders, "orders-v2", "orders-service", "v2", 21 * (1 + 2), prometheus3},
		"another guard has another edge":      {fastLane(), "orders-v2", "orders-service", "v2", 21 * (1 + 2), prometheus3},
		"a version without a known workload":  {fastLane(), "payments-canary", "payments", "v2", 21 * (1 + 2), prometheus3},
		"no latency":                          {withoutLatency, "orders-v2", "orders-service", "v2", 21, prometheus3},
		"a workload that nobody guards":       {fastLane(), "stock-v2", "stock", "v2", 0, prometheus3},
		"a version that nobody guards":        {fastLane(), "payments-v3", "payments", "v3", 0, prometheus3},
		"a workload whose name begins as one": {onlyOrders, "orders-v22", "orders-service", "v2", 0, prometheus3},
		"edges as Prometheus 2 has them":      {fastLane(), "orders-v2", "orders-service", "v2", 21 * (1 + 2), prometheus2},
	} {
		t.Run(name, func(t *testing.T) {
			r := generated(t, test.options)
			end := r.PodMonitor("guardian", "microservices").Spec.PodMetricsEndpoints[0]
			cfgs, read := asPrometheus(t, end.MetricRelabelConfigs), selectors(t, r)
			all := scraped(t, sidecar(test.workload, test.service, test.version), test.edge)
			kept := map[string]bool{}
			filtered := 0
			for _, l := range all {
				if strings.Contains(l.Get(model.MetricNameLabel), end.Params["filter"][0]) {
					filtered++
				}
				renamed := labels.NewBuilder(l).Set(model.MetricNameLabel, fastPrefix+l.Get(model.MetricNameLabel)).Set("job", "guardian-fast-lane").Labels()
				wanted := l.Get("reporter") == "destination" && matches(renamed, read)
				got, keep := process(l, cfgs)
				if keep != wanted {
					t.Errorf("kept %v, read by the rules %v: %s", keep, wanted, l)
				}
				if !keep {
					continue
				}
				stored := labels.NewBuilder(got).Set("job", "guardian-fast-lane").Labels()
				if !matches(stored, read) {
					t.Errorf("the rules no longer find %s", got)
				}
				if kept[got.String()] {
					t.Errorf("two series became one: %s", got)
				}
				kept[got.String()] = true
				if !strings.Contains(l.Get(model.MetricNameLabel), end.Params["filter"][0]) {
					t.Errorf("Envoy would not write %s", l)
				}
			}
			if len(kept) != test.want {
				t.Errorf("kept %d series, want %d", len(kept), test.want)
			}
			t.Logf("of %d samples Envoy writes %d and Prometheus keeps %d", len(all), filtered, len(kept))
		})
	}
}

func TestNoRuleReadsALabelThatTheFastLaneDrops(t *testing.T) {
	out, err := generated(t, fastLane()).Prometheus()
	if err != nil {
		t.Fatal(err)
	}
	for _, dropped := range []string{"destination_app", "destination_canonical", "destination_cluster"} {
		if strings.Contains(string(out), dropped) {
			t.Errorf("a rule reads %s", dropped)
		}
	}
}

func TestFastLaneScrapesTheGuardedPodsAlone(t *testing.T) {
	pod := func(kind, name, hash, version string) labels.Labels {
		m := map[string]string{"__address__": "10.0.0.1:15090", "__meta_kubernetes_pod_controller_kind": kind, "__meta_kubernetes_pod_controller_name": name}
		if hash != "" {
			m["__meta_kubernetes_pod_labelpresent_pod_template_hash"] = "true"
		}
		if version != "" {
			m["__meta_kubernetes_pod_label_version"] = version
		}
		return labels.FromMap(m)
	}
	onlyOrders := fastLane()
	onlyOrders.Guards = onlyOrders.Guards[:1]
	for name, test := range map[string]struct {
		options Options
		pod     labels.Labels
		want    bool
	}{
		"the canary":                           {onlyOrders, pod("ReplicaSet", "orders-v2-7d4b9c6f5", "7d4b9c6f5", "v2"), true},
		"stable":                               {onlyOrders, pod("ReplicaSet", "orders-v1-5c6d7f8b9", "5c6d7f8b9", "v1"), true},
		"a Deployment with a longer name":      {onlyOrders, pod("ReplicaSet", "orders-v2-extra-7d4b9c6f5", "7d4b9c6f5", "v2"), false},
		"a Deployment that ends in the name":   {onlyOrders, pod("ReplicaSet", "my-orders-v2-7d4b9c6f5", "7d4b9c6f5", "v2"), false},
		"another app of the same version":      {onlyOrders, pod("ReplicaSet", "stock-v2-7d4b9c6f5", "7d4b9c6f5", "v2"), false},
		"a ReplicaSet of no Deployment":        {onlyOrders, pod("ReplicaSet", "orders-v2-blue", "", "v2"), false},
		"a StatefulSet":                        {onlyOrders, pod("StatefulSet", "orders-v2-0", "", "v2"), false},
		"a bare pod":                           {onlyOrders, pod("", "", "", ""), false},
		"told by version: its pods":            {fastLane(), pod("ReplicaSet", "pay-7d4b9c6f5", "7d4b9c6f5", "v2"), true},
		"told by version: another one's":       {fastLane(), pod("ReplicaSet", "pay-7d4b9c6f5", "7d4b9c6f5", "v3"), false},
		"told by version: pods without labels": {fastLane(), pod("StatefulSet", "pay", "", ""), false},
	} {
		t.Run(name, func(t *testing.T) {
			monitor := generated(t, test.options).PodMonitor("guardian", "monitoring")
			got, keep := process(test.pod, asPrometheus(t, monitor.Spec.PodMetricsEndpoints[0].RelabelConfigs))
			if keep != test.want {
				t.Errorf("scraped: %v, want %v", keep, test.want)
			}
			if keep && got.Get("job") != "guardian-fast-lane" {
				t.Errorf("job is %q, and the rules would not find it", got.Get("job"))
			}
		})
	}
}

// onFastLane is a target as its sidecar is scraped by the fast lane.
func onFastLane(g target) target {
	out := target{name: g.name + ":15090", job: "guardian-fast-lane", every: 1, lives: g.lives, rows: rows{}}
	for s, f := range g.rows {
		out.rows[fastPrefix+s] = f
	}
	return out
}

// slowly is a target as it is scraped every 15 s, at a phase.
func slowly(g target, phase int) target {
	g.every, g.phase = 15, phase
	return g
}

func TestFastLane(t *testing.T) {
	broken := canary(rows{requests("orders-v2", "200"): func(s int) any { return rate(10, 0)(min(s, 60)) }, requests("orders-v2", "503"): born(10, 60)})
	four := canary(rows{requests("orders-v2", "200"): func(s int) any { return rate(10, 0)(min(s, 60)) }, requests("orders-v2", "503"): step(60, 4)})
	// A second pod of the canary, and the broken one as a fast lane that loses it sees it.
	second, lost := canary(), broken
	second.name = "canary-2"
	lost.lives = func(s int) string { return map[bool]string{true: up, false: failing}[s < 55] }
	options := func(o *Options) { o.FastLane, o.ScrapeInterval = time.Second, 15*time.Second }
	both := func(g target, phase int) []target { return []target{onFastLane(g), slowly(g, phase)} }
	runAll(t, func(s *Signals) { *s = Signals{ErrorRate: s.ErrorRate} }, map[string]scenario{
		"a broken canary is noticed at the next scrape but one": {
			options: options, targets: slices.Concat(both(stable(), 1), both(broken, 14)),
			want: map[int][]string{60: nil, 62: {errorRollback}},
		},
		"a healthy one is left alone": {
			options: options, targets: slices.Concat(both(stable(), 1), both(canary(), 14)),
			want: map[int][]string{60: nil, 100: nil, 300: nil},
		},
		"what both lanes see counts once": {
			options: options, targets: slices.Concat(both(stable(), 1), both(four, 0)),
			want: map[int][]string{61: nil, 62: nil, 65: nil, 75: nil, 76: nil, 100: nil},
		},
		"without the fast lane the ordinary scrapes tell": {
			options: options, targets: []target{slowly(stable(), 1), slowly(broken, 14)},
			want: map[int][]string{73: nil, 77: {errorRollback}},
		},
		"a canary that the fast lane does not reach is seen by the ordinary scrapes": {
			options: options, targets: append(both(stable(), 1), slowly(broken, 14)),
			want: map[int][]string{73: nil, 75: {errorRollback}},
		},
		"one of two canary pods that the fast lane does not reach is seen by the ordinary scrapes": {
			options: options, targets: slices.Concat(both(stable(), 1), []target{onFastLane(second), slowly(second, 3), slowly(broken, 14)}),
			want: map[int][]string{73: nil, 75: {errorRollback}},
		},
		"one that it no longer reaches too": {
			options: options, targets: slices.Concat(both(stable(), 1), both(second, 3), []target{onFastLane(lost), slowly(broken, 14)}),
			want: map[int][]string{60: nil, 73: nil, 75: {errorRollback}},
		},
		"where the fast lane is, the same sidecar's ordinary scrapes are not asked": {
			options: options, targets: slices.Concat(both(stable(), 1), []target{onFastLane(canary()), slowly(broken, 14)}),
			want: map[int][]string{62: nil, 75: nil, 90: nil, 105: nil},
		},
		"errors that only callers see come by the ordinary scrapes": {
			options: options, targets: slices.Concat(both(stable(), 1), both(canary(), 14), []target{{name: "gateway", every: 15, phase: 4, rows: rows{
				requests("orders-v1", "200", `reporter="source"`): rate(90, 0),
				requests("orders-v2", "200", `reporter="source"`): func(s int) any { return rate(10, 0)(min(s, 60)) },
				requests("orders-v2", "503", `reporter="source"`): born(10, 60),
			}}}),
			want: map[int][]string{63: nil, 66: {errorRollback}},
		},
	})
}

func TestFastLaneOfLatency(t *testing.T) {
	options := func(o *Options) { o.FastLane, o.ScrapeInterval = time.Second, 15*time.Second }
	var targets []target
	for i, g := range latencyTargets("500.0", 0, 1) {
		targets = append(targets, onFastLane(g), slowly(g, 13+i))
	}
	runAll(t, func(s *Signals) { *s = Signals{Latency: s.Latency} }, map[string]scenario{
		"slow requests are noticed when stable's proxy must have told its own": {
			options: options, targets: targets, want: map[int][]string{60: nil, 65: nil, 67: {latencyRollback}},
		},
	})
}

func TestFastLaneRefusesOtherIntervals(t *testing.T) {
	for _, d := range []time.Duration{-time.Second, time.Millisecond, 1500 * time.Millisecond, 6 * time.Second} {
		if _, err := Generate(Options{Guards: []Guard{orders()}, FastLane: d}); err == nil || !strings.Contains(err.Error(), "fastLane.interval: "+d.String()) {
			t.Errorf("%v: got %v", d, err)
		}
	}
}

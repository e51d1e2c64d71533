package rules

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite goldens")

// orders is the guard of the documentation's examples: every signal, at its default.
func orders() Guard {
	return Guard{
		Name:      "orders-service",
		Namespace: "microservices",
		Stable:    Side{Name: "v1", Workloads: []string{"orders-v1"}, Service: "orders-service"},
		Canary:    Side{Name: "v2", Workloads: []string{"orders-v2"}, Service: "orders-service"},
		Signals: Signals{
			ErrorRate: &ErrorRate{Max: 0.01},
			Latency:   &Latency{Quantile: 0.95, Max: 500 * time.Millisecond},
			Restarts:  &Restarts{Max: 2, Window: 5 * time.Minute},
			Traffic:   &Traffic{ShareTolerance: 0.5},
		},
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("..", "testdata", "rules", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("%s differs; run make golden and review the diff", path)
	}
}

func TestGenerateWritesTheGoldens(t *testing.T) {
	for name, o := range map[string]Options{
		"orders.prometheus.yaml": {Guards: []Guard{orders()}, Interval: time.Second, ScrapeInterval: 5 * time.Second},
		"variants.prometheus.yaml": {
			Name: "team-a", Namespace: "guardian-system", RestartsFrom: FromKubeStateMetrics, Proxies: `job="envoy-stats"`, Self: `job="guardian"`,
			Links: Links{Grafana: "https://grafana/d/x", Prometheus: "https://prom/", Kiali: "https://kiali/kiali", Jaeger: "https://jaeger"},
			Guards: []Guard{
				with(orders(), func(g *Guard) {
					g.EvenIfStableFails = true
					g.Signals.Latency.Max = 300 * time.Millisecond
					g.Signals.Comparison = &Comparison{Ratio: 1.5, Min: 0.0001, Warmup: 3 * time.Minute}
				}),
				with(orders(), func(g *Guard) {
					g.Name = "by-version"
					g.Stable = Side{Name: "v1", Service: "payments", Version: "v1"}
					g.Canary = Side{Name: "v2", Service: "payments", Version: "v2"}
					g.Signals.Restarts = nil
				}),
			},
		},
	} {
		r, err := Generate(o)
		if err != nil {
			t.Fatal(err)
		}
		out, err := r.Prometheus()
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name, out)
	}
}

func TestPrometheusRulesHaveLabelsAndNobodyElsesMemory(t *testing.T) {
	r, err := Generate(Options{Guards: []Guard{orders()}, Labels: map[string]string{"release": "kube-prometheus-stack"}})
	if err != nil {
		t.Fatal(err)
	}
	out, err := r.PrometheusRulesYAML("guardian", "microservices")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "prometheusrules.yaml", out)
	objects := r.PrometheusRules("guardian", "microservices")
	for _, o := range objects {
		if o.Labels["release"] != "kube-prometheus-stack" || o.Labels[LabelRules] != "guardian" {
			t.Errorf("%s has labels %v", o.Name, o.Labels)
		}
		o.Spec.Groups[0].Name = "changed"
		o.Labels["release"] = "changed"
	}
	again, err := r.PrometheusRulesYAML("guardian", "microservices")
	if err != nil || string(again) != string(out) {
		t.Errorf("an object that was handed out is shared: %v", err)
	}
}

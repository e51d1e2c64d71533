package virtualtime_test

import (
	"fmt"
	"testing"
	"time"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/canary-guardian/guardian/rules"
	"github.com/canary-guardian/guardian/rules/virtualtime"
)

func groupsOf(t testing.TB) []monitoringv1.RuleGroup {
	t.Helper()
	r, err := rules.Generate(rules.Options{RestartsFrom: rules.FromKubeStateMetrics, Guards: []rules.Guard{{
		Name: "orders-service", Namespace: "microservices",
		Stable: rules.Side{Name: "v1", Service: "orders-service", Workloads: []string{"orders-v1"}},
		Canary: rules.Side{Name: "v2", Service: "orders-service", Workloads: []string{"orders-v2"}},
		Signals: rules.Signals{ErrorRate: &rules.ErrorRate{Max: 0.01}, Latency: &rules.Latency{Quantile: 0.95, Max: 500 * time.Millisecond},
			Restarts: &rules.Restarts{Max: 2, Window: 5 * time.Minute}, Traffic: &rules.Traffic{ShareTolerance: 0.5}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	var out []monitoringv1.RuleGroup
	for _, object := range r.PrometheusRules("x", "x")[1:] {
		for _, g := range object.Spec.Groups {
			if g.Name != "guardian.overview" {
				out = append(out, g)
			}
		}
	}
	return out
}

// mesh stores an hour of scrapes of two pods of each version and two gateways.
func mesh(store *virtualtime.Store) {
	for at := int64(0); at <= 3600; at += 15 {
		for _, target := range []string{"v1-a", "v1-b", "v2-a", "v2-b", "gateway-a", "gateway-b"} {
			add := func(f float64, pairs ...string) {
				store.Append(labels.FromStrings(append(pairs, "job", "mesh", "instance", target)...), 1000*at, f)
			}
			add(1, model.MetricNameLabel, "up")
			for _, version := range []string{"v1", "v2"} {
				reporter := "source"
				if target[0] == 'v' {
					if reporter = "destination"; target[:2] != version {
						continue
					}
				}
				about := []string{"reporter", reporter, "destination_workload", "orders-" + version, "destination_workload_namespace", "microservices"}
				for code, share := range map[string]float64{"200": 0.99, "404": 0.008, "503": 0.002} {
					add(share*float64(50*at), append(about, model.MetricNameLabel, "istio_requests_total", "response_code", code)...)
					for le, within := range map[string]float64{"500": 0.99, "+Inf": 1} {
						add(share*within*float64(50*at), append(about, model.MetricNameLabel, "istio_request_duration_milliseconds_bucket", "response_code", code, "le", le)...)
					}
				}
			}
		}
	}
}

func BenchmarkEvaluate(b *testing.B) {
	store := virtualtime.NewStore()
	mesh(store)
	e, err := virtualtime.New(store, groupsOf(b))
	if err != nil {
		b.Fatal(err)
	}
	now := int64(0)
	for b.Loop() {
		now += 3000
		if err := e.Evaluate(b.Context(), now); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(0, fmt.Sprintf("rules:%d", len(groupsOf(b))))
}

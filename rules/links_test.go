package rules

import (
	"context"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/template"
)

// shown is an annotation as Prometheus makes it of the series in known, by the
// queries that each of them answers.
func shown(t *testing.T, text string, known map[string]labels.Labels) string {
	t.Helper()
	query := func(_ context.Context, q string, _ time.Time) (promql.Vector, error) {
		if l, ok := known[q]; ok {
			return promql.Vector{{Metric: l, F: 1}}, nil
		}
		return nil, nil
	}
	defs := "{{ $labels := .Labels }}{{ $value := .Value }}"
	data := template.AlertTemplateData(map[string]string{LabelNamespace: "microservices", LabelGuard: "orders-service"}, nil, "", promql.Sample{F: 1})
	expander := template.NewTemplateExpander(t.Context(), defs+text, "link", data, model.Now(), query, &url.URL{}, nil)
	out, err := expander.Expand()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestTheJaegerPageShowsTheLinkThatAlertsHave(t *testing.T) {
	page, err := os.ReadFile("../docs/jaeger.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), "\n"+ordersFailed+"\n") {
		t.Errorf("docs/jaeger.md does not show %s", ordersFailed)
	}
}

// ordersFailed finds the failed requests of the running example's canary.
const ordersFailed = `https://jaeger.example/search?lookback=1h&limit=20&service=orders.microservices&tags=%7B%22error%22%3A%22true%22%2C%22istio.canonical_revision%22%3A%22v2%22%7D`

func TestLinksOfAlerts(t *testing.T) {
	traced := map[string]labels.Labels{
		workloadInfo + `{namespace="microservices",guardian_guard="orders-service",guardian_side="canary"}`: labels.FromStrings("destination_workload", "orders-v2"),
		serviceInfo + `{namespace="microservices",guardian_guard="orders-service"}`:                         labels.FromStrings("destination_service_name", "orders-service"),
		`count by (destination_app, destination_canonical_revision) (istio_requests_total{destination_workload="orders-v2",destination_workload_namespace="microservices",destination_app!~"|unknown"})`: labels.FromStrings(
			"destination_app", "orders", "destination_canonical_revision", "v2"),
	}
	all := Links{Grafana: "https://grafana.example/", Prometheus: "https://prom.example/", Kiali: "https://kiali.example/kiali/", Jaeger: "https://jaeger.example/"}
	for name, c := range map[string]struct {
		links  Links
		signal Signal
		known  map[string]labels.Labels
		at     string
		want   string
	}{
		"Grafana by its root":              {links: all, at: AnnotationDashboard, want: "https://grafana.example/d/guardian-guard?var-namespace=microservices&var-guard=orders-service"},
		"a dashboard of one's own":         {links: Links{Grafana: "https://grafana.example/d/mine/orders?orgId=2"}, at: AnnotationDashboard, want: "https://grafana.example/d/mine/orders?orgId=2&var-namespace=microservices&var-guard=orders-service"},
		"a root with an organisation":      {links: Links{Grafana: "https://grafana.example/?orgId=2"}, at: AnnotationDashboard, want: "https://grafana.example/d/guardian-guard?orgId=2&var-namespace=microservices&var-guard=orders-service"},
		"Prometheus":                       {links: all, at: AnnotationPrometheus, want: `https://prom.example/graph?g0.tab=0&g0.expr=%7B__name__%3D~%22guardian.%2B%22%2Cnamespace%3D%22microservices%22%2Cguardian_guard%3D%22orders-service%22%7D`},
		"Kiali, of a service":              {links: all, known: traced, at: AnnotationKiali, want: "https://kiali.example/kiali/console/graph/node/namespaces/microservices/services/orders-service?graphType=versionedApp&duration=300&namespaces=microservices"},
		"Kiali, where no service is known": {links: all, at: AnnotationKiali, want: "https://kiali.example/kiali/console/graph/namespaces?graphType=versionedApp&duration=300&namespaces=microservices"},
		"Jaeger, of failed requests":       {links: all, signal: SignalErrorRate, known: traced, at: AnnotationJaeger, want: ordersFailed},
		"Jaeger, of slow requests": {links: all, signal: SignalLatency, known: traced, at: AnnotationJaeger,
			want: `https://jaeger.example/search?lookback=1h&limit=20&service=orders.microservices&tags=%7B%22istio.canonical_revision%22%3A%22v2%22%7D`},
		"Jaeger, of a canary without requests": {links: all, at: AnnotationJaeger, want: "https://jaeger.example/search?lookback=1h&limit=20"},
		"no link without a base":               {links: Links{Kiali: "https://kiali.example"}, at: AnnotationJaeger},
	} {
		t.Run(name, func(t *testing.T) {
			annotations := map[string]string{}
			c.links.annotate(annotations, c.signal)
			if got := shown(t, annotations[c.at], c.known); got != c.want {
				t.Errorf("%s\nwant %s", got, c.want)
			}
			if _, err := url.Parse(c.want); err != nil {
				t.Error(err)
			}
		})
	}
}

// What a receipt links to is the time of the rollback, however late it is read.
func TestLinksOfATimeShowThatTime(t *testing.T) {
	from, to := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC), time.Date(2026, 11, 24, 12, 30, 0, 0, time.UTC)
	all := Links{Grafana: "https://grafana.example/", Prometheus: "https://prom.example/", Kiali: "https://kiali.example/kiali/", Jaeger: "https://jaeger.example/"}
	const graph = "?graphType=versionedApp&duration=300&namespaces=shop&replayActive=true&replayInterval=1800000&replayStart=1795521600000"
	for service, want := range map[string][]Link{
		"orders": {
			{"Grafana", "https://grafana.example/d/guardian-guard?var-namespace=shop&var-guard=orders-service&from=1795521600000&to=1795523400000"},
			{"Prometheus", "https://prom.example/graph?g0.tab=0&g0.expr=%7B__name__%3D~%22guardian.%2B%22%2Cnamespace%3D%22shop%22%2Cguardian_guard%3D%22orders-service%22%7D" +
				"&g0.range_input=1800s&g0.end_input=2026-11-24+12%3A30%3A00&g0.moment_input=2026-11-24+12%3A30%3A00"},
			{"Kiali", "https://kiali.example/kiali/console/graph/node/namespaces/shop/services/orders" + graph},
		},
		"": {{}, {}, {"Kiali", "https://kiali.example/kiali/console/graph/namespaces" + graph}},
	} {
		got := all.Between("shop", "orders-service", service, from, to)
		for i, link := range want {
			if link.Name != "" && (len(got) != len(want) || got[i] != link) {
				t.Errorf("of service %q: %v\nwant %v", service, got, link)
			}
		}
	}
	if got := (Links{}).Between("shop", "orders-service", "orders", from, to); len(got) != 0 {
		t.Errorf("nothing is configured: %v", got)
	}
}

func TestTheTracesOfARollbackAreFoundInJaeger(t *testing.T) {
	from, to := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC), time.Date(2026, 11, 24, 12, 30, 0, 0, time.UTC)
	jaeger := Links{Jaeger: "https://jaeger.example/jaeger/"}
	const times = "end=1795523400000000&limit=20&lookback=custom&service=orders.microservices&start=1795521600000000&tags="
	for name, c := range map[string]struct {
		links  Links
		signal Signal
		want   string
	}{
		"of failed requests":   {jaeger, SignalErrorRate, "https://jaeger.example/jaeger/search?" + times + "%7B%22error%22%3A%22true%22%2C%22istio.canonical_revision%22%3A%22v2%22%7D"},
		"of slow ones":         {jaeger, SignalLatency, "https://jaeger.example/jaeger/search?" + times + "%7B%22istio.canonical_revision%22%3A%22v2%22%7D"},
		"without Jaeger, none": {Links{Kiali: "https://kiali.example"}, SignalErrorRate, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := ""
			if l := c.links.Traces("microservices", "orders", "v2", c.signal, from, to); l != nil {
				got = l.URL
			}
			if got != c.want {
				t.Errorf("%s\nwant %s", got, c.want)
			}
		})
	}
}

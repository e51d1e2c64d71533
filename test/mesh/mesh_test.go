package mesh

import (
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/fake"
)

func object(kind string, spec map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "networking.istio.io/v1", "kind": kind,
		"metadata": map[string]any{"name": "orders-service", "namespace": "microservices"}, "spec": spec,
	}}
}

func to(subset string, weight int64) map[string]any {
	return map[string]any{"destination": map[string]any{"host": "orders-service", "subset": subset}, "weight": weight}
}

func split(v1, v2 int64) *unstructured.Unstructured {
	return object("VirtualService", map[string]any{"http": []any{
		map[string]any{
			"match": []any{map[string]any{"headers": map[string]any{"x-canary": map[string]any{"exact": "always"}}}},
			"route": []any{map[string]any{"destination": map[string]any{"host": "orders-service", "subset": "v2"}}},
		},
		map[string]any{"route": []any{to("v1", v1), to("v2", v2)}},
	}})
}

func rule() *unstructured.Unstructured {
	subset := func(name string) any {
		return map[string]any{"name": name, "labels": map[string]any{"version": name}}
	}
	return object("DestinationRule", map[string]any{"host": "orders-service", "subsets": []any{subset("v1"), subset("v2")}})
}

// start starts a mesh over a fake API server without users.
func start(t *testing.T, vs *unstructured.Unstructured) (*Mesh, dynamic.Interface, <-chan map[string]int) {
	t.Helper()
	client := fake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{
		virtualServices: "VirtualServiceList", destinationRules: "DestinationRuleList",
	}, vs, rule())
	changed := make(chan map[string]int, 100)
	m, err := Start(t.Context(), Options{
		Client: client, Namespace: "microservices", Service: "orders-service",
		Workloads: map[string]string{"v1": "orders-v1", "v2": "orders-v2"},
		Changed:   func(weights map[string]int, _ time.Time) { changed <- weights },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Stop)
	return m, client, changed
}

func send(t *testing.T, m *Mesh, n int, header http.Header) Counts {
	t.Helper()
	m.Reset()
	for range n {
		m.Request(t.Context(), header.Clone())
	}
	return m.Counts()
}

func read(t *testing.T, url string) string {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func scrape(t *testing.T, m *Mesh, workload string) string {
	t.Helper()
	for _, target := range m.Targets() {
		if target.Workload != workload {
			continue
		}
		body := read(t, "http://"+target.Address+"/metrics")
		if envoy := read(t, "http://"+target.Address+"/stats/prometheus"); envoy != body {
			t.Errorf("/stats/prometheus of %s differs from /metrics:\n%s\n%s", workload, envoy, body)
		}
		return body
	}
	t.Fatalf("no target of workload %s in %v", workload, m.Targets())
	return ""
}

func TestRequestsAreSplitByTheWeightsAndFollowAChange(t *testing.T) {
	m, client, changed := start(t, split(70, 30))
	c := send(t, m, 500, nil)
	// Beyond these bounds once in 10^20 runs.
	if v2 := c.ByVersion["v2"]; v2 < 60 || v2 > 250 || c.ByVersion["v1"]+v2 != 500 || c.Failed != 0 {
		t.Errorf("70/30: want about 350 and 150 of 500 requests and no failure, got %+v", c)
	}
	if _, err := client.Resource(virtualServices).Namespace("microservices").Update(t.Context(), split(100, 0), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	for w := range changed {
		if w["v1"] == 100 && w["v2"] == 0 {
			break
		}
	}
	if c := send(t, m, 100, nil); c.ByVersion["v1"] != 100 {
		t.Errorf("100/0: want all 100 requests on v1, got %+v", c)
	}
	if c := send(t, m, 10, http.Header{"X-Canary": {"always"}}); c.ByVersion["v2"] != 10 {
		t.Errorf("100/0 with the header of the canary's route: want all 10 requests on v2, got %+v", c)
	}
}

func TestWhatIsAnsweredShowsAtSourceAndDestination(t *testing.T) {
	m, _, _ := start(t, split(0, 100))
	if err := m.Behave("v2", Behaviour{ErrorRate: 1}); err != nil {
		t.Fatal(err)
	}
	if c := send(t, m, 5, nil); c.Failed != 5 || c.FirstFailed.IsZero() || c.LastFailed.Before(c.FirstFailed) {
		t.Fatalf("v2 fails all: got %+v", c)
	}
	for workload, reporter := range map[string]string{"orders-v2": "destination", "storefront": "source"} {
		want := []string{`reporter="` + reporter + `"`, `destination_workload="orders-v2"`, `destination_workload_namespace="microservices"`,
			`destination_service_name="orders-service"`, `destination_service_namespace="microservices"`, `destination_version="v2"`,
			`response_code="500"`, `response_flags="-"`, `grpc_response_status=""`}
		requireSeries(t, scrape(t, m, workload), "istio_requests_total", "5", want...)
		p := m.users
		if workload != users {
			p = m.versions["v2"].proxy
		}
		p.mu.Lock()
		p.flush(time.Now().Add(flushEvery))
		p.mu.Unlock()
		requireSeries(t, scrape(t, m, workload), "istio_request_duration_milliseconds_bucket", "5", append(want, `le="500"`)...)
	}
}

func TestHistogramsAreUpToDateEveryFiveSecondsOnly(t *testing.T) {
	m, _, _ := start(t, split(0, 100))
	send(t, m, 3, nil)
	p := m.users
	p.mu.Lock()
	defer p.mu.Unlock()
	last := p.timed[len(p.timed)-1].at
	sinceStart := last.Sub(p.began)
	due := p.began.Add(sinceStart.Truncate(flushEvery) + flushEvery)
	if p.flush(due.Add(-time.Nanosecond)); len(p.timed) == 0 {
		t.Error("the histograms show requests since the last flush")
	}
	if p.flush(due); len(p.timed) != 0 {
		t.Errorf("after a flush the histograms lack %d requests", len(p.timed))
	}
}

func TestARefusedConnectionShowsAtTheSourceAloneAsUnknown(t *testing.T) {
	m, _, _ := start(t, split(0, 100))
	if err := m.Behave("v2", Behaviour{Refuse: true}); err != nil {
		t.Fatal(err)
	}
	if c := send(t, m, 5, nil); c.Failed != 5 {
		t.Fatalf("v2 refuses all: got %+v", c)
	}
	requireSeries(t, scrape(t, m, "storefront"), "istio_requests_total", "5", `reporter="source"`, `destination_workload="unknown"`,
		`destination_workload_namespace="unknown"`, `destination_service_name="orders-service"`, `response_code="503"`, `response_flags="UF"`)
	if body := scrape(t, m, "orders-v2"); strings.Contains(body, "istio_requests_total{") {
		t.Errorf("the proxy of v2 has seen nothing, but reports:\n%s", body)
	}
	if err := m.Behave("v2", Behaviour{}); err != nil {
		t.Fatal(err)
	}
	if c := send(t, m, 5, nil); c.Failed != 0 {
		t.Errorf("v2 answers again: got %+v", c)
	}
}

// requireSeries wants one series of a metric with a value and all of the labels.
func requireSeries(t *testing.T, body, metric, value string, labels ...string) {
	t.Helper()
	for line := range strings.Lines(body) {
		series := regexp.MustCompile(`^(\w+)\{(.*)\} (\S+)\n$`).FindStringSubmatch(line)
		if series == nil || series[1] != metric || series[3] != value {
			continue
		}
		all := true
		for _, l := range labels {
			all = all && strings.Contains(","+series[2]+",", ","+l+",")
		}
		if all {
			return
		}
	}
	t.Errorf("no series %s with value %s and labels %v in:\n%s", metric, value, labels, body)
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/rules"
	"github.com/canary-guardian/guardian/test/controlplane"
)

// setup is a namespace in which everything is as it should be, and what a case
// makes of it. Kubernetes and Alertmanager are real, Prometheus is its engine.
type setup struct {
	*realBench
	client dynamic.Interface
	app    *controlplane.App
	am     *controlplane.Server
	amURL  string // where check looks for it

	config map[string]any // guardian's
	alerts map[string]any // alertmanager.yml
	series []string
	beat   time.Time // newest heartbeat through Alertmanager; zero: none
	args   []string
	dead   bool   // no replica is running
	user   string // who runs check
}

// istioSeries are those of a proxy that reports one version's requests.
func istioSeries(ns, version, reporter, target string) []string {
	of := fmt.Sprintf(`reporter=%q,destination_workload="orders-service-%[2]s",destination_workload_namespace=%[3]q,destination_service_name="orders-service",destination_service_namespace=%[3]q,destination_version=%[2]q,%[4]s`,
		reporter, version, ns, target)
	return []string{
		`istio_requests_total{response_code="200",` + of + `} 100`,
		`istio_request_duration_milliseconds_bucket{le="500",` + of + `} 90`,
		`istio_request_duration_milliseconds_bucket{le="+Inf",` + of + `} 100`,
	}
}

// healthySeries is what Prometheus has of a guard that is watched.
func healthySeries(ns string) []string {
	out := slices.Concat(
		istioSeries(ns, "v1", "destination", `job="mesh",instance="10.0.0.1:15090"`),
		istioSeries(ns, "v2", "destination", `job="mesh",instance="10.0.0.2:15090"`),
		istioSeries(ns, "v1", "source", `job="mesh",instance="10.0.0.3:15090"`))
	own := fmt.Sprintf(`guardian_instance="guardian",namespace=%q,guardian_shard="all",guardian_guard="orders-service"`, ns)
	for _, group := range []string{"guards", "requests", "traffic", "latency", "restarts"} {
		out = append(out, fmt.Sprintf(`guardian:group:evaluated{guardian_instance="guardian",guardian_namespace=%q,guardian_shard="all",group=%q} %d`, ns, group, time.Now().Unix()))
	}
	for _, side := range []string{"stable", "canary"} {
		out = append(out, `guardian:subset:info{`+own+`,guardian_side="`+side+`"} 1`, `guardian_side:requests:idelta{`+own+`,guardian_side="`+side+`",reporter="destination"} 1`)
	}
	return append(out,
		fmt.Sprintf(`guardian_heartbeat_timestamp_seconds{guardian_namespace=%q,lane="webhook"} %d`, ns, time.Now().Unix()),
		fmt.Sprintf(`guardian_weight_percent{guardian_namespace=%q,guard="orders-service",subset="v2"} 10`, ns),
		fmt.Sprintf(`guardian_workload_restarts_total{guardian_namespace=%q,guard="orders-service",subset="v2"} 0`, ns),
		fmt.Sprintf(`guardian_auth_failures_total{guardian_namespace=%q,proof="bearer"} 3`, ns))
}

// newSetup makes one that is well.
func newSetup(t *testing.T, am *controlplane.Server) *setup {
	t.Helper()
	b, app, _ := checkBench(t)
	s := &setup{realBench: b, app: app, am: am, amURL: am.URL, series: healthySeries(b.namespace), beat: time.Now(), user: controlplane.Admin}
	var err error
	s.client, err = dynamic.NewForConfig(b.plane.RESTConfig(controlplane.Admin))
	s.must(err)
	s.must(app.SetWeights(t.Context(), 90, 10))
	granted := []rbacv1.PolicyRule{}
	for _, r := range allRights(config.Config{Namespace: b.namespace, Rules: config.Rules{Enabled: true, Namespace: b.namespace}}) {
		granted = append(granted, rbacv1.PolicyRule{APIGroups: []string{r.group}, Resources: []string{r.resource}, Verbs: r.verbs})
	}
	s.must(b.plane.Grant(t.Context(), b.namespace, "system:serviceaccount:"+b.namespace+":guardian", granted...))
	s.config = map[string]any{"namespace": b.namespace, "guards": []any{map[string]any{"name": testGuard}}}
	route, err := rules.AlertmanagerRoute(rules.AlertmanagerOptions{URL: "http://127.0.0.1:1/webhook", Namespace: b.namespace, TokenFile: "/dev/null"})
	s.must(err)
	s.must(yaml.Unmarshal(route, &s.alerts))
	s.alerts["route"].(map[string]any)["receiver"] = "people"
	s.alerts["receivers"] = append(s.alerts["receivers"].([]any), map[string]any{"name": "people"})
	return s
}

func (s *setup) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// guard is the guard's configuration.
func (s *setup) guard() map[string]any {
	return s.config["guards"].([]any)[0].(map[string]any)
}

// route is guardian's route for alerts; its heartbeat's is the one before.
func (s *setup) route() map[string]any {
	return s.alerts["route"].(map[string]any)["routes"].([]any)[1].(map[string]any)
}

// without takes away the series that have a text.
func (s *setup) without(text string) {
	s.series = slices.DeleteFunc(s.series, func(line string) bool { return strings.Contains(line, text) })
}

// replace changes the text of series.
func (s *setup) replace(old, now string) {
	for i := range s.series {
		s.series[i] = strings.ReplaceAll(s.series[i], old, now)
	}
}

// patch changes an object of the namespace.
func (s *setup) patch(resource schema.GroupVersionResource, name, merge string) {
	s.t.Helper()
	_, err := s.client.Resource(resource).Namespace(s.namespace).Patch(s.t.Context(), name, types.MergePatchType, []byte(merge), metav1.PatchOptions{})
	s.must(err)
}

// create makes an object, and removes it after the case.
func (s *setup) create(resource schema.GroupVersionResource, namespace, text string) {
	s.t.Helper()
	u := &unstructured.Unstructured{}
	s.must(yaml.Unmarshal([]byte(text), &u.Object))
	var api dynamic.ResourceInterface = s.client.Resource(resource)
	if namespace != "" {
		api = s.client.Resource(resource).Namespace(namespace)
	}
	_, err := api.Create(s.t.Context(), u, metav1.CreateOptions{})
	s.must(err)
	s.t.Cleanup(func() {
		if err := api.Delete(context.Background(), u.GetName(), metav1.DeleteOptions{}); err != nil {
			s.t.Error(err)
		}
	})
}

// post sends JSON to Alertmanager and decodes its answer.
func (s *setup) post(path string, body, answer any) {
	s.t.Helper()
	text, err := json.Marshal(body)
	s.must(err)
	request, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.am.URL+path, bytes.NewReader(text))
	s.must(err)
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	s.must(err)
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		s.t.Fatalf("%s: %s", path, response.Status)
	}
	if answer != nil {
		s.must(json.NewDecoder(response.Body).Decode(answer))
	}
}

// fire has an alert fire in Alertmanager, until the case is over.
func (s *setup) fire(labels map[string]string) {
	s.t.Helper()
	send := func(ends time.Time) {
		s.post("/api/v2/alerts", []any{map[string]any{"labels": labels, "startsAt": time.Now().Add(-time.Minute), "endsAt": ends}}, nil)
	}
	send(time.Now().Add(time.Hour))
	s.t.Cleanup(func() {
		response, err := http.Post(s.am.URL+"/api/v2/alerts", "application/json", strings.NewReader(mustJSON([]any{map[string]any{"labels": labels, "endsAt": time.Now().Add(-time.Second)}})))
		if err != nil {
			s.t.Error(err)
			return
		}
		_ = response.Body.Close()
	})
}

func mustJSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// silence keeps alerts back, until the case is over.
func (s *setup) silence(label, value string) {
	s.t.Helper()
	var made struct{ SilenceID string }
	s.post("/api/v2/silences", map[string]any{
		"matchers": []any{map[string]any{"name": label, "value": value, "isRegex": false, "isEqual": true}}, "createdBy": "ann", "comment": "maintenance of the shop",
		"startsAt": time.Now().Add(-time.Second), "endsAt": time.Now().Add(time.Hour)}, &made)
	s.t.Cleanup(func() {
		request, err := http.NewRequest(http.MethodDelete, s.am.URL+"/api/v2/silence/"+made.SilenceID, nil)
		if err == nil {
			var response *http.Response
			if response, err = http.DefaultClient.Do(request); err == nil {
				_ = response.Body.Close()
			}
		}
		if err != nil {
			s.t.Error(err)
		}
	})
}

// heartbeatLabels are those of guardian's heartbeat, and what Prometheus adds.
func (s *setup) heartbeatLabels(more map[string]string) map[string]string {
	out := rules.Options{Namespace: s.namespace}.HeartbeatAlert()
	maps.Copy(out, more)
	return out
}

// check runs the program and returns its exit code and what it says, with names
// that do not change.
func (s *setup) check() (int, string) {
	s.t.Helper()
	text, err := yaml.Marshal(s.alerts)
	s.must(err)
	s.must(os.WriteFile(s.am.ConfigFile, text, 0o600))
	s.must(s.am.Reload(s.t.Context()))
	if !s.dead {
		s.heartbeat(stampOr(s.beat), stampOr(s.beat))
	}
	prometheus := newEnginePrometheus(s.t, s.series)
	settings, err := yaml.Marshal(s.config)
	s.must(err)
	file := filepath.Join(s.t.TempDir(), "guardian.yaml")
	s.must(os.WriteFile(file, settings, 0o600))
	code, said := s.run(s.user, append([]string{"check", "-f", file, "--prometheus", prometheus.server.URL, "--alertmanager", s.amURL}, s.args...)...)
	said = strings.NewReplacer(s.namespace, "shop", prometheus.server.URL, "http://prometheus", s.amURL, "http://alertmanager").Replace(said)
	for _, volatile := range []struct{ pattern, text string }{
		{`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`, "2f1c…"}, {`20\d\d-\d\d-\d\dT[0-9:]+Z`, "2026-01-01T00:00:00Z"}, {`build b1-[0-9a-f]+`, "build b1-abc"}, {`heartbeat: \d+s ago`, "heartbeat: 5s ago"},
	} {
		said = regexp.MustCompile(volatile.pattern).ReplaceAllString(said, volatile.text)
	}
	return code, said
}

func stampOr(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// versionOf is an Alertmanager that says it is another version.
func versionOf(t *testing.T, am, version string) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		response, err := http.Get(am + r.URL.RequestURI())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer func() { _ = response.Body.Close() }()
		var body bytes.Buffer
		if _, err := body.ReadFrom(response.Body); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(regexp.MustCompile(`"version":"[^"]+"`).ReplaceAll(body.Bytes(), []byte(`"version":"`+version+`"`)))
	}))
	t.Cleanup(server.Close)
	return server.URL
}

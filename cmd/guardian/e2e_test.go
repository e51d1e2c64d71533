package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/canary-guardian/guardian/alerting"
	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/rules"
	"github.com/canary-guardian/guardian/test/controlplane"
)

// exporter shows the series that Istio's proxies would have of a service with
// two versions, each with the same number of requests a second.
type exporter struct {
	*httptest.Server
	ns, service string
	failing     atomic.Bool
	drained     atomic.Bool // v2 gets no requests

	mu     sync.Mutex
	last   time.Time
	counts map[string]float64 // by version and code
	broken time.Time          // first scrape that shows the fault
}

const requestsPerSecond = 50

func newExporter(t *testing.T, ns, service string) *exporter {
	e := &exporter{ns: ns, service: service, counts: map[string]float64{}, last: time.Now()}
	e.Server = httptest.NewServer(e)
	t.Cleanup(e.Close)
	return e
}

func (e *exporter) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	n := now.Sub(e.last).Seconds() * requestsPerSecond
	e.last = now
	e.counts["v1 200"] += n
	if e.drained.Load() {
		n = 0
	}
	if e.failing.Load() {
		e.counts["v2 503"] += n
		if e.broken.IsZero() {
			e.broken = now
		}
	} else {
		e.counts["v2 200"] += n
	}
	fmt.Fprintln(w, "# TYPE istio_requests_total counter")
	for key, count := range e.counts {
		version, code, _ := strings.Cut(key, " ")
		for _, reporter := range []string{"source", "destination"} {
			fmt.Fprintf(w, "istio_requests_total{reporter=%q,source_workload=\"web\",source_workload_namespace=%[2]q,destination_workload=\"%[3]s-%[4]s\",destination_workload_namespace=%[2]q,"+
				"destination_service=\"%[3]s.%[2]s.svc.cluster.local\",destination_service_name=%[3]q,destination_service_namespace=%[2]q,destination_version=%[4]q,destination_app=%[3]q,destination_canonical_revision=%[4]q,request_protocol=\"http\",response_code=%[5]q,grpc_response_status=\"\",response_flags=\"-\"} %.0f\n",
				reporter, e.ns, e.service, version, code, count)
		}
	}
	fmt.Fprintln(w, "# TYPE istio_request_duration_milliseconds histogram")
	for _, version := range []string{"v1", "v2"} { // all of them fast
		of := fmt.Sprintf("reporter=\"destination\",destination_workload=\"%[1]s-%[2]s\",destination_workload_namespace=%[3]q,destination_service_name=%[1]q,destination_service_namespace=%[3]q,destination_version=%[2]q", e.service, version, e.ns)
		for _, edge := range []string{"500", "+Inf"} {
			fmt.Fprintf(w, "istio_request_duration_milliseconds_bucket{%s,le=%q} %.0f\n", of, edge, e.counts[version+" 200"]+e.counts[version+" 503"])
		}
	}
}

// alertmanager starts one with the route that guardian prints.
func (r *rig) alertmanager(port int, matchers ...string) *controlplane.Server {
	r.t.Helper()
	return r.alertmanagerWith(nil, port, matchers...)
}

// alertmanagerWith is one with further settings.
func (r *rig) alertmanagerWith(more map[string]any, port int, matchers ...string) *controlplane.Server {
	r.t.Helper()
	route, err := rules.AlertmanagerRoute(rules.AlertmanagerOptions{URL: fmt.Sprintf("http://127.0.0.1:%d/webhook", port), Namespace: r.ns, TokenFile: r.token, Matchers: matchers})
	r.must(err)
	var settings map[string]any
	r.must(yaml.Unmarshal(route, &settings))
	maps.Copy(settings, more)
	settings["route"].(map[string]any)["receiver"] = "nobody"
	settings["receivers"] = append(settings["receivers"].([]any), map[string]any{"name": "nobody"})
	text, err := yaml.Marshal(settings)
	r.must(err)
	am, err := r.plane.StartAlertmanager(r.t.Context(), controlplane.AlertmanagerOptions{Config: string(text)})
	r.must(err)
	r.t.Cleanup(am.Stop)
	return am
}

// ruleFile writes the rules that guardian generates.
func (r *rig) ruleFile(settings string) string {
	r.t.Helper()
	c, err := config.Parse([]byte(settings))
	r.must(err)
	sides := map[string]decision.Sides{}
	for _, g := range c.Guards {
		side := func(version string) decision.Side {
			return decision.Side{Service: g.Name, Labels: map[string]string{"version": version}, Workloads: []string{g.Name + "-" + version}}
		}
		sides[g.Name] = decision.Sides{Stable: side("v1"), Canary: side("v2")}
	}
	o, left := c.RulesOptions(sides)
	r.must(left.Err())
	generated, err := rules.Generate(o)
	r.must(err)
	text, err := generated.Prometheus()
	r.must(err)
	file := filepath.Join(r.t.TempDir(), "rules.yml")
	r.must(os.WriteFile(file, text, 0o600))
	return file
}

func TestAFaultIsRolledBackByRealPrometheusAndAlertmanager(t *testing.T) {
	r := newRig(t)
	app := r.app("orders", 50)
	mesh := newExporter(t, r.ns, app.Name)
	port, err := controlplane.FreePort()
	r.must(err)
	metrics, err := controlplane.FreePort()
	r.must(err)
	am := r.alertmanager(port)
	began := time.Now()
	extra := fmt.Sprintf("alertmanager: {url: %q}\nrules: {enabled: false, interval: 1s, scrapeInterval: 1s, links: {grafana: 'https://grafana.example', jaeger: 'https://jaeger.example'}}", am.URL)
	self, tell := r.selfScraping()
	prom, err := r.plane.StartPrometheus(t.Context(), controlplane.PrometheusOptions{
		ScrapeInterval: time.Second, EvaluationInterval: time.Second, RuleFiles: []string{r.ruleFile(r.config("127.0.0.1:0", extra, app))},
		Targets: []controlplane.Target{
			{Job: "mesh", Address: strings.TrimPrefix(mesh.URL, "http://")},
			{Job: "guardian", Address: fmt.Sprintf("127.0.0.1:%d", metrics)},
			{Job: "alertmanager", Address: strings.TrimPrefix(am.URL, "http://")},
		},
		Jobs:          []map[string]any{self},
		Alertmanagers: []controlplane.Receiver{{URL: am.URL}},
		Args:          []string{"--rules.alert.resend-delay=5s"}, // it may drop what its first evaluation finds
	})
	r.must(err)
	defer prom.Stop()
	tell(prom)
	settings := r.config(fmt.Sprintf("127.0.0.1:%d", port), fmt.Sprintf("prometheus: {url: %q}\n%s", prom.URL, extra), app)
	settings = strings.Replace(settings, "127.0.0.1:0", fmt.Sprintf("127.0.0.1:%d", metrics), 1)
	g := r.serve("guardian-0", settings)
	r.wait("heartbeat", func(context.Context) error {
		if g.server.Heartbeat().IsZero() {
			return errors.New("none yet")
		}
		return nil
	})
	r.must(isAt(t.Context(), app, 50)) // nothing is wrong so far
	r.wait("guardian check says that all is well", func(context.Context) error {
		said, err := r.checked(settings, "--prometheus", prom.URL)
		if err == nil && strings.Contains(said, "\nnote  ") {
			err = errors.New("a note")
		}
		if err != nil {
			return fmt.Errorf("%w\n%s", err, said)
		}
		return nil
	})
	fault := time.Now()
	mesh.failing.Store(true)
	rec := r.rolledBack(app)
	done := time.Now()
	mesh.mu.Lock()
	shown := mesh.broken
	mesh.mu.Unlock()
	t.Logf("fault to weight 0: %v, of it to the first scrape %v, from there to the lock %v", done.Sub(fault).Round(time.Millisecond),
		shown.Sub(fault).Round(time.Millisecond), rec.Lock.Since.Sub(shown).Round(time.Millisecond))
	if rec.Lock.Signal != string(rules.SignalErrorRate) || rec.Lock.By != "alert" {
		t.Errorf("lock %+v", rec.Lock)
	}
	mesh.drained.Store(true)
	r.receipt(app, fault)
	mesh.drained.Store(false)
	r.ineffective(prom)
	r.must(app.Restart(t.Context(), "v2", 1))
	r.must(app.SetWeights(t.Context(), 50, 50)) // CI knows nothing of it
	r.wait("put back", func(ctx context.Context) error { return isAt(ctx, app, 0) })
	r.dashboardsShow(prom, began, app.Name)
}

// ineffective waits until the alert for requests that still reach the canary, at whose
// weight nothing leads there, is at least pending.
func (r *rig) ineffective(prom *controlplane.Server) {
	r.t.Helper()
	client, err := alerting.NewPrometheus(alerting.ClientOptions{URL: prom.URL})
	r.must(err)
	defer client.Close()
	r.waitFor(2*time.Minute, rules.AlertRollbackIneffective, func(ctx context.Context) error {
		samples, err := client.Query(ctx, `ALERTS{alertname="`+rules.AlertRollbackIneffective+`"}`)
		if err == nil && len(samples) == 0 {
			err = errors.New("neither pending nor firing")
		}
		return err
	})
}

// receipt waits until all is known of a rollback, and checks that its times are those
// of the fault.
func (r *rig) receipt(app *controlplane.App, fault time.Time) {
	r.t.Helper()
	var c decision.Receipt
	r.wait("a receipt that is complete", func(ctx context.Context) error {
		rec, err := r.record(ctx, app.Name)
		if err == nil && (rec.Receipt == nil || rec.Receipt.Open) {
			err = fmt.Errorf("%+v", rec.Receipt)
		}
		if err == nil {
			c = *rec.Receipt
		}
		return err
	})
	before := fault
	for name, at := range map[int]time.Time{0: c.Began, 1: c.Fired, 2: c.Seen, 3: c.Written, 4: c.Felt} {
		if at.Before(before.Add(-time.Second)) || at.After(time.Now()) {
			r.t.Errorf("time %d is %s, the fault began at %s", name, at, fault)
		}
	}
	if c.Began.After(c.Seen) || c.Seen.After(c.Written) || c.Felt.Before(c.Written) || c.NotFelt != "" {
		r.t.Errorf("began %s, seen %s, written %s, felt %s %s", c.Began, c.Seen, c.Written, c.Felt, c.NotFelt)
	}
	if c.Failed < 5 || c.Failed > c.Requests || c.Limit != "1% of the requests may fail" || c.Shifted == nil || len(c.Images) == 0 || len(c.Differs) == 0 {
		r.t.Errorf("%d of %d failed, limit %q, shifted %v, images %v, differs %v, unread %q", c.Failed, c.Requests, c.Limit, c.Shifted, c.Images, c.Differs, c.Unread)
	}
	if n := len(c.Links); n != 2 || c.Links[1].Name != "Jaeger" || !strings.Contains(c.Links[1].URL, "&service="+app.Name+"."+r.ns+"&") ||
		!strings.Contains(c.Links[1].URL, url.QueryEscape(`{"error":"true","istio.canonical_revision":"v2"}`)) {
		r.t.Errorf("links %v", c.Links)
	}
	code, text := r.as(controlplane.Admin)("gate", app.Name)
	for _, link := range []string{"\n  Grafana:  https://grafana.example/d/guardian-guard?var-namespace=" + r.ns + "&var-guard=orders&from=",
		"\n  Jaeger:   https://jaeger.example/search?end=", "&service=orders." + r.ns + "&start=", "canonical_revision%22%3A%22v2%22%7D\n"} {
		if code != exitFailed || !strings.Contains(text, link) {
			r.t.Errorf("gate is %d, without %q:\n%s", code, link, text)
		}
	}
	_, text = r.as(controlplane.Admin)("receipt", app.Name)
	r.t.Log("the receipt:\n" + text)
}

// tell posts alerts to an Alertmanager as Prometheus does.
func (r *rig) tell(am *controlplane.Server, ends time.Time, alerts ...map[string]any) {
	r.t.Helper()
	var list []any
	for _, a := range alerts {
		list = append(list, map[string]any{"labels": a["labels"], "annotations": a["annotations"], "startsAt": a["startsAt"], "endsAt": ends.UTC().Format(time.RFC3339Nano)})
	}
	body, err := json.Marshal(list)
	r.must(err)
	status, err := post(r.t.Context(), am.URL+"/api/v2/alerts", "", body)
	if err != nil || status != http.StatusOK {
		r.t.Fatalf("alertmanager answered %d, %v", status, err)
	}
}

func TestTheRealAlertmanagerThroughAnOutageAndARestart(t *testing.T) {
	r := newRig(t)
	apps := r.apps("orders", 4, 50)
	port, err := controlplane.FreePort()
	r.must(err)
	am := r.alertmanager(port, `{team="payments"}`)
	address := fmt.Sprintf("127.0.0.1:%d", port)
	settings := strings.Replace(r.config(address, fmt.Sprintf("alertmanager: {url: %q}", am.URL), apps...),
		"- name: orders-3\n", "- {name: orders-3, alerts: {matchers: [{match: '{team=\"payments\"}'}]}}\n", 1)
	first := r.serve("guardian-0", settings)
	hour := time.Now().Add(time.Hour)

	two := []map[string]any{r.alertOf(apps[0].Name), r.alertOf(apps[1].Name)}
	r.tell(am, hour, two...) // in one call
	r.rolledBack(apps[0])
	r.rolledBack(apps[1])

	r.tell(am, time.Now(), two[0]) // resolved: the canary has no traffic any more
	r.wait("resolved", func(context.Context) error {
		if n := len(first.bridge.firing(apps[0].Name)); n > 0 {
			return fmt.Errorf("%d alerts fire", n)
		}
		return nil
	})
	r.must(isAt(t.Context(), apps[0], 0))

	first.stop() // guardian is away
	r.tell(am, hour, r.alertOf(apps[2].Name))
	if d, err := time.ParseDuration(os.Getenv("GUARDIAN_OUTAGE")); err == nil {
		<-time.After(d)
	}
	second := r.serve("guardian-1", settings)
	back := time.Now()
	r.rolledBack(apps[2])
	t.Logf("after guardian's outage rolled back within %v", time.Since(back).Round(time.Millisecond))

	r.must(am.Restart(t.Context()))
	foreign := r.alertOf("")
	foreign["labels"] = map[string]string{"alertname": "PaymentsSlow", "team": "payments"} // of a user's own
	r.tell(am, hour, foreign)
	r.rolledBack(apps[3])
	for _, app := range apps {
		r.must(isAt(t.Context(), app, 0))
	}
	if !second.server.Heartbeat().IsZero() {
		t.Error("a heartbeat was heard that nobody has sent")
	}
}

// burstSize is how many guards there are and how often guardian is killed.
func burstSize() (guards, kills int) {
	if os.Getenv("GUARDIAN_BURST") == "full" {
		return 200, 20
	}
	return 20, 4
}

func TestKilledAtRandomDuringManyRollbacksAllAreDone(t *testing.T) {
	r := newRig(t)
	n, kills := burstSize()
	apps := r.apps("orders", n, 50)
	port, err := controlplane.FreePort()
	r.must(err)
	live := r.exec(port, "", "guardian-0", "", apps...)
	url := live.url // its successors have the same

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	writes := r.countWrites(ctx)
	var senders sync.WaitGroup
	next := make(chan *controlplane.App)
	for range 4 {
		senders.Go(func() {
			for app := range next {
				if err := insist(ctx, url, webhookOf(r.alertOf(app.Name))); err != nil {
					t.Errorf("%s: %v", app.Name, err)
				}
			}
		})
	}
	go func() {
		defer close(next)
		for _, app := range apps {
			select {
			case next <- app:
			case <-ctx.Done():
				return
			}
		}
	}()
	// Each rollback is two writes. A kill comes after some of them, and so now
	// and then between a lock and its patch.
	for i := range kills {
		for range 1 + rand.IntN(2*n/kills) {
			select {
			case <-writes:
			case <-ctx.Done():
				t.Fatal(ctx.Err())
			}
		}
		live.Kill()
		live = r.exec(port, "", fmt.Sprintf("guardian-%d", i+1), "", apps...)
	}
	senders.Wait()
	for _, app := range apps {
		rec := r.rolledBack(app)
		if rec.Lock.By != "alert" {
			t.Errorf("%s: lock %+v", app.Name, rec.Lock)
		}
	}
}

// countWrites tells of each write that locks a record or takes a canary's
// traffic, at least two for each rollback.
func (r *rig) countWrites(ctx context.Context) <-chan struct{} {
	r.t.Helper()
	client, err := dynamic.NewForConfig(r.plane.RESTConfig(controlplane.Admin))
	r.must(err)
	w, err := client.Resource(controlplane.VirtualServices).Namespace(r.ns).Watch(ctx, metav1.ListOptions{})
	r.must(err)
	locks, err := r.kube.CoreV1().ConfigMaps(r.ns).Watch(ctx, metav1.ListOptions{LabelSelector: records.LabelLocked})
	r.must(err)
	out := make(chan struct{}, 10000)
	var both sync.WaitGroup
	both.Go(func() {
		for event := range w.ResultChan() {
			if vs, ok := event.Object.(*unstructured.Unstructured); ok && canaryWeight(vs) == 0 {
				out <- struct{}{}
			}
		}
	})
	both.Go(func() {
		for range locks.ResultChan() {
			out <- struct{}{}
		}
	})
	r.t.Cleanup(func() { w.Stop(); locks.Stop(); both.Wait() })
	return out
}

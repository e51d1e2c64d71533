package alerting

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/test/controlplane"
)

// receiverConfig is an alertmanager.yml with the route that guardian ships:
// every alert is a group of its own, and nothing waits. The address is
// guardian's, the file its token.
const receiverConfig = `
route:
  receiver: nobody
  routes:
  - matchers: ['guardian="true"']
    receiver: guardian
    group_by: ['...']
    group_wait: 0s
    group_interval: 1s
    repeat_interval: 1m
    continue: true
receivers:
- name: nobody
- name: guardian
  webhook_configs:
  - url: http://%s/webhook
    send_resolved: true
    max_alerts: 0
    timeout: 5s
    http_config: {authorization: {credentials_file: %q}}
`

// storekeeper is the sink of these tests: what is in the store is kept.
func storekeeper(store *Store) *sink {
	return &sink{accept: func(_ context.Context, lane Lane, alerts []Alert) error {
		_, err := store.Apply(lane, alerts, time.Now())
		return err
	}}
}

// plane is Prometheus and Alertmanager without Kubernetes.
func plane(t *testing.T) *controlplane.Plane {
	t.Helper()
	if testing.Short() {
		t.Skip("needs real programs")
	}
	plane, err := controlplane.Start(t.Context(), controlplane.Options{WithoutKubernetes: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		plane.Stop()
		http.DefaultClient.CloseIdleConnections()
	})
	return plane
}

// eventually waits for another program, for as long as that may take on a
// busy machine.
func eventually(t *testing.T, what string, happened func() bool) {
	t.Helper()
	deadline, tick := time.After(time.Minute), time.NewTicker(20*time.Millisecond)
	defer tick.Stop()
	for !happened() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// tell puts alerts into Alertmanager as Prometheus would.
func tell(t *testing.T, base, path string, value any) {
	t.Helper()
	body, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	if status, answer := exchange(t, request); status != http.StatusOK {
		t.Fatalf("POST %s: %d %s", path, status, answer)
	}
}

type posted struct {
	Labels map[string]string `json:"labels"`
	Starts time.Time         `json:"startsAt"`
	Ends   time.Time         `json:"endsAt"`
}

func metricOf(t *testing.T, base, name string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, text := exchange(t, request)
	for line := range strings.Lines(text) {
		if value, found := strings.CutPrefix(strings.TrimSpace(line), name+" "); found {
			return value
		}
	}
	return ""
}

// reserved is an address on which nobody listens.
func reserved(t *testing.T) string {
	t.Helper()
	port, err := controlplane.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", port)
}

func TestARealAlertmanagerDeliversThroughAnOutageOfGuardian(t *testing.T) {
	plane, address := plane(t), reserved(t)
	store := NewStore(StoreOptions{})
	kept := storekeeper(store)
	var refusals atomic.Int32 // still to come
	take := kept.accept
	kept.accept = func(ctx context.Context, lane Lane, alerts []Alert) error {
		if refusals.Load() > 0 {
			refusals.Add(-1)
			return errors.New("the API server is down")
		}
		return take(ctx, lane, alerts)
	}
	opts, _ := options(t, kept)
	opts.AlertsAddress = address
	am, err := plane.StartAlertmanager(t.Context(), controlplane.AlertmanagerOptions{
		Config: fmt.Sprintf(receiverConfig, address, opts.TokenFile),
	})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now().Add(-time.Second).Truncate(time.Millisecond)
	alert := func(name string, ends time.Duration) posted {
		labels := map[string]string{"alertname": name, "guardian": "true", "guardian_guard": "orders-service"}
		return posted{labels, began, time.Now().Add(ends)}
	}
	// Two at once, and nobody answers.
	tell(t, am.URL, "/api/v2/alerts", []posted{alert("A", time.Hour), alert("B", time.Hour)})
	failures := `alertmanager_notification_requests_failed_total{integration="webhook"}`
	eventually(t, "Alertmanager fails to deliver", func() bool {
		value := metricOf(t, am.URL, failures)
		return value != "" && value != "0"
	})
	server := run(t, opts)
	firing := func() string { return names(store.Firing(time.Now())) }
	eventually(t, "both are delivered after the outage", func() bool { return firing() == "A B" })
	for _, call := range kept.accepted() {
		for _, a := range call.alerts {
			if !a.StartsAt.Equal(began) || a.Fingerprint != Fingerprint(a.Labels) {
				t.Errorf("%+v: want one that began at %s", a, began)
			}
		}
	}
	tell(t, am.URL, "/api/v2/alerts", []posted{alert("A", -time.Millisecond)})
	eventually(t, "one is resolved", func() bool { return firing() == "B" })

	// The sink refuses: Alertmanager tries the same call again.
	refusals.Store(2)
	tell(t, am.URL, "/api/v2/alerts", []posted{alert("C", time.Hour)})
	eventually(t, "the third is delivered after two refusals", func() bool { return firing() == "B C" })
	if left := refusals.Load(); left != 0 {
		t.Errorf("%d refusals were not asked for", left)
	}
	if !server.Heartbeat().IsZero() {
		t.Error("a heartbeat, though nobody sent one")
	}
}

// names are the alerts' names in order.
func names(alerts []Alert) string {
	var words []string
	for _, a := range alerts {
		name := a.Name()
		if a.Suppressed {
			name += "~"
		}
		words = append(words, name)
	}
	slices.Sort(words)
	return strings.Join(words, " ")
}

func TestARealAlertmanagerListsWhatFires(t *testing.T) {
	plane := plane(t)
	am, err := plane.StartAlertmanager(t.Context(), controlplane.AlertmanagerOptions{
		Config: fmt.Sprintf(receiverConfig, reserved(t), tokenFile(t, token)),
	})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now().Add(-time.Minute)
	of := func(name, guardian string) posted {
		return posted{map[string]string{"alertname": name, "guardian": guardian}, began, time.Now().Add(time.Hour)}
	}
	ended := of("Ended", "true")
	ended.Ends = time.Now().Add(-time.Second)
	tell(t, am.URL, "/api/v2/alerts", []posted{of("A", "true"), of("Silenced", "true"), of("Other", ""), ended})
	tell(t, am.URL, "/api/v2/silences", map[string]any{
		"matchers": []map[string]any{{"name": "alertname", "value": "Silenced", "isRegex": false, "isEqual": true}},
		"startsAt": began, "endsAt": began.Add(time.Hour), "createdBy": "test", "comment": "not now",
	})
	client := alertmanager(t, ClientOptions{URL: am.URL})
	list := func(filter Filter) string {
		alerts, err := client.Firing(t.Context(), filter)
		if err != nil {
			t.Fatal(err)
		}
		words := map[string]bool{}
		for _, a := range alerts {
			words[names([]Alert{a})] = true
			if !a.StartsAt.Equal(began.Truncate(time.Millisecond)) || a.Fingerprint != Fingerprint(a.Labels) {
				t.Errorf("%+v: want one that began at %s", a, began)
			}
		}
		return fmt.Sprint(words)
	}
	own := Filter{Any: []Matchers{mustParse(t, `guardian="true"`)}}
	all := own
	all.Suppressed = true
	eventually(t, "the silence holds", func() bool { return list(all) == "map[A:true Silenced~:true]" })
	if got := list(own); got != "map[A:true]" {
		t.Errorf("what is heard: %s, want A", got)
	}
	if got := list(Filter{}); got != "map[A:true Other:true]" {
		t.Errorf("everything: %s, want A and Other", got)
	}
	if _, err := client.Firing(t.Context(), Filter{MinUptime: time.Hour}); err == nil || !strings.Contains(err.Error(), "before its list is taken as complete") {
		t.Errorf("just started: got %v", err)
	}
	am.Stop()
	if _, err := client.Firing(t.Context(), all); err == nil {
		t.Error("stopped, and no error")
	}
}

const heartbeatRules = `
groups:
- name: guardian
  rules:
  - alert: GuardianHeartbeat
    expr: vector(1)
    labels: {guardian: "true"}
  - alert: Pending
    expr: vector(1)
    for: 1h
    labels: {guardian: "true"}
  - alert: Other
    expr: vector(1)
`

func TestARealPrometheusPushesAndAnswers(t *testing.T) {
	plane := plane(t)
	store := NewStore(StoreOptions{})
	opts, _ := options(t, storekeeper(store))
	server := run(t, opts)
	rules := filepath.Join(t.TempDir(), "rules.yml")
	if err := os.WriteFile(rules, []byte(heartbeatRules), 0o600); err != nil {
		t.Fatal(err)
	}
	prom, err := plane.StartPrometheus(t.Context(), controlplane.PrometheusOptions{
		ScrapeInterval: time.Second, EvaluationInterval: time.Second, RuleFiles: []string{rules},
		Alertmanagers: []controlplane.Receiver{{
			URL: "http://" + server.AlertsAddr().String(), TokenFile: opts.TokenFile, Keep: map[string]string{"guardian": "true"},
		}},
		// The first evaluation may come before Prometheus knows its receivers: it then drops the alert, and sends it
		// again after this time, a minute by default.
		Args: []string{"--rules.alert.resend-delay=5s"},
	})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the heartbeat is pushed", func() bool { return !server.Heartbeat().IsZero() })
	pushed := store.Firing(time.Now())
	if names(pushed) != "GuardianHeartbeat" || !pushed[0].EndsAt.After(time.Now()) {
		t.Errorf("pushed %+v, want the heartbeat, for a while", pushed)
	}
	client := prometheusAt(t, ClientOptions{URL: prom.URL})
	// The first evaluation after a start pushes, but writes no ALERTS yet: that
	// is what MinUptime is for.
	own := Filter{Any: []Matchers{mustParse(t, `guardian="true"`)}}
	var listed []Alert
	eventually(t, "Prometheus writes ALERTS", func() bool {
		var err error
		if listed, err = client.Firing(t.Context(), own); err != nil {
			t.Fatal(err)
		}
		return len(listed) > 0
	})
	own.MinUptime = time.Hour
	if _, err := client.Firing(t.Context(), own); err == nil || !strings.Contains(err.Error(), "before its list is taken as complete") {
		t.Errorf("just started: got %v", err)
	}
	own.MinUptime = time.Nanosecond
	if again, err := client.Firing(t.Context(), own); err != nil || len(again) != 1 {
		t.Errorf("up for a while: got %v, %v", again, err)
	}
	if names(listed) != "GuardianHeartbeat" || listed[0].Fingerprint != pushed[0].Fingerprint ||
		!listed[0].StartsAt.Equal(pushed[0].StartsAt.Truncate(time.Second)) {
		t.Errorf("listed %+v, want the same as pushed: %+v", listed, pushed)
	}
	samples, err := client.Query(t.Context(), `vector(42)`)
	if err != nil || len(samples) != 1 || samples[0].Value != 42 {
		t.Errorf("got %v, %v, want 42", samples, err)
	}
	// Prometheus goes away: the alert expires by itself.
	prom.Stop()
	if got := store.Firing(pushed[0].EndsAt.Add(time.Minute)); len(got) != 0 {
		t.Errorf("still fires: %+v", got)
	}
	if _, err := client.Firing(t.Context(), Filter{}); err == nil {
		t.Error("stopped, and no error")
	}
}

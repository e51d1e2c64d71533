package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/yaml"

	"github.com/canary-guardian/guardian/alerting"
	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/rules"
	"github.com/canary-guardian/guardian/test/controlplane"
)

// usualInhibitions are those that kube-prometheus-stack comes with.
const usualInhibitions = `
- source_matchers: ['severity = critical']
  target_matchers: ['severity =~ warning|info']
  equal: [namespace, alertname]
- source_matchers: ['severity = warning']
  target_matchers: ['severity = info']
  equal: [namespace, alertname]
- source_matchers: ['alertname = InfoInhibitor']
  target_matchers: ['severity = info']
  equal: [namespace]
- target_matchers: ['alertname = InfoInhibitor']
`

// receiver is a guardian as far as alerts go: its port, and what it is asked
// for. Its controller only notes.
type receiver struct {
	namespace, cluster string
	config             string // file
	bridge             *bridge
	controller         *fakeController
	server             *alerting.Server
}

func (r *receiver) String() string { return r.cluster + "/" + r.namespace }

// startReceiver runs one.
func startReceiver(t *testing.T, cluster, namespace string) *receiver {
	t.Helper()
	folder := t.TempDir()
	r := &receiver{namespace: namespace, cluster: cluster, config: filepath.Join(folder, "guardian.yaml"), controller: newFakeController()}
	token := filepath.Join(folder, "token")
	text := fmt.Sprintf("namespace: %s\nown: {cluster: %s}\nwebhook: {tokenFile: %s}\nguards: [{name: orders}, {name: payments}]\n", namespace, cluster, token)
	for file, content := range map[string]string{token: "token-of-" + namespace, r.config: text} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := config.Load(r.config)
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	metrics := alerting.NewMetrics(registry)
	log := slog.New(slog.DiscardHandler)
	r.bridge = newBridge(c, metrics, log, time.Now)
	r.bridge.guards = r.controller
	r.server, err = alerting.NewServer(alerting.ServerOptions{
		AlertsAddress: "127.0.0.1:0", MetricsAddress: "127.0.0.1:0", TokenFile: token,
		Sink: r.bridge, Guards: guardLister{}, OwnHeartbeat: r.bridge.ownHeartbeat, Gatherer: registry, MetricSet: metrics, Logger: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.server.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return r
}

// asked is what the guardian was asked for, as guard/action.
func (r *receiver) asked() []string {
	r.controller.mu.Lock()
	defer r.controller.mu.Unlock()
	var out []string
	for guard, alerts := range r.controller.submitted {
		for _, a := range alerts {
			out = append(out, guard+"/"+string(a.Action)+"/"+a.Name)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// alertmanagerYAML is the printed routes of all, in one file of somebody's own.
func alertmanagerYAML(t *testing.T, receivers []*receiver) string {
	t.Helper()
	routes, names := []any{}, []any{map[string]any{"name": "people"}}
	for _, r := range receivers {
		code, printed := newBench(t).run("alertmanager", "-f", r.config,
			"--url", "http://"+r.server.AlertsAddr().String()+"/webhook", "--token-file", filepath.Join(filepath.Dir(r.config), "token"))
		if code != exitOK {
			t.Fatalf("print the route of %v: exit code %d: %s", r, code, printed)
		}
		var part struct {
			Route     struct{ Routes []any }
			Receivers []any
		}
		if err := yaml.Unmarshal([]byte(printed), &part); err != nil {
			t.Fatal(err)
		}
		routes, names = append(routes, part.Route.Routes...), append(names, part.Receivers...)
	}
	var inhibitions []any
	if err := yaml.Unmarshal([]byte(usualInhibitions), &inhibitions); err != nil {
		t.Fatal(err)
	}
	text, err := yaml.Marshal(map[string]any{
		"route": map[string]any{"receiver": "people", "routes": routes}, "receivers": names, "inhibit_rules": inhibitions,
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// until waits for other programs, for as long as that may take on a busy machine.
func until(t *testing.T, what func() string, happened func() bool) {
	t.Helper()
	deadline, tick := time.After(time.Minute), time.NewTicker(20*time.Millisecond)
	defer tick.Stop()
	for !happened() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within a minute: %s", what())
		}
	}
}

func TestOneAlertmanagerServesSeveralNamespacesAndClusters(t *testing.T) {
	if testing.Short() {
		t.Skip("needs real programs")
	}
	plane, err := controlplane.Start(t.Context(), controlplane.Options{WithoutKubernetes: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { plane.Stop(); http.DefaultClient.CloseIdleConnections() })
	var receivers []*receiver
	for _, cluster := range []string{"eu-west", "us-east"} {
		for _, namespace := range []string{"shop", "staging"} {
			receivers = append(receivers, startReceiver(t, cluster, namespace))
		}
	}
	am, err := plane.StartAlertmanager(t.Context(), controlplane.AlertmanagerOptions{Config: alertmanagerYAML(t, receivers)})
	if err != nil {
		t.Fatal(err)
	}
	send := func(labels ...map[string]string) {
		t.Helper()
		var alerts []map[string]any
		for _, l := range labels {
			alerts = append(alerts, map[string]any{"labels": l, "startsAt": time.Now().Add(-time.Second), "endsAt": time.Now().Add(time.Hour)})
		}
		body, err := json.Marshal(alerts)
		if err != nil {
			t.Fatal(err)
		}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, am.URL+"/api/v2/alerts", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/json")
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			t.Fatal(response.Status)
		}
	}
	about := func(r *receiver, guard, alert, action, severity string) map[string]string {
		return map[string]string{"alertname": alert, "guardian": "true", "guardian_instance": "guardian", "guardian_guard": guard,
			"guardian_action": action, "severity": severity, "namespace": r.namespace, "cluster": r.cluster}
	}
	beat := func(r *receiver) map[string]string {
		l := about(r, "", rules.AlertHeartbeat, "none", "none")
		delete(l, "guardian_guard")
		return l
	}

	// Each hears its own heartbeat, and only its own.
	var beats []string
	for i, r := range receivers {
		send(beat(r))
		until(t, func() string { return "the heartbeat of " + r.String() + " arrives" }, func() bool { return !r.server.Heartbeat().IsZero() })
		beats = append(beats, r.String())
		for _, later := range receivers[i+1:] {
			if !later.server.Heartbeat().IsZero() {
				t.Errorf("%v takes one of the heartbeats of %v for its own", later, beats)
			}
		}
	}

	// A rollback of one guard and, while it fires, a hold of another in the same namespace.
	first := receivers[0]
	send(about(first, "orders", rules.AlertErrorRate, "rollback", "critical"))
	rollback := "orders/rollback/" + rules.AlertErrorRate
	until(t, func() string { return fmt.Sprint("the rollback arrives: ", first.asked()) }, func() bool { return slices.Contains(first.asked(), rollback) })
	want := []string{rollback}
	for _, name := range rules.Alerts() {
		if base, held := strings.CutSuffix(name, "Hold"); held {
			send(about(first, "orders", base, "rollback", "critical"), about(first, "payments", name, "hold", "warning"))
			want = append(want, "orders/rollback/"+base, "payments/hold/"+name)
		}
	}
	slices.Sort(want)
	want = slices.Compact(want)
	until(t, func() string {
		return fmt.Sprintf("%v arrive, beside a rollback of another guard: %v", want, first.asked())
	},
		func() bool { return slices.Equal(first.asked(), want) })

	// A user's alert that has no namespace reaches both of its cluster, and no other.
	send(map[string]string{"alertname": "OrdersDown", "guardian_guard": "orders", "guardian_action": "hold", "severity": "page", "cluster": "us-east"})
	users := "orders/hold/OrdersDown"
	until(t, func() string { return "a user's alert reaches both namespaces of its cluster" }, func() bool {
		return slices.Equal(receivers[2].asked(), []string{users}) && slices.Equal(receivers[3].asked(), []string{users})
	})
	if got := receivers[1].asked(); len(got) != 0 {
		t.Errorf("%v is asked for %v, which is about others", receivers[1], got)
	}
	if got := first.asked(); !slices.Equal(got, want) {
		t.Errorf("%v is asked for %v, want %v", first, got, want)
	}

	// The listing has everybody's alerts, whatever the routes say.
	lister, err := alerting.NewAlertmanager(alerting.ClientOptions{URL: am.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer lister.Close()
	for _, r := range receivers {
		o := &forwardChecks{alertmanager: lister, bridge: r.bridge, log: slog.New(slog.DiscardHandler), now: time.Now}
		if err := o.list(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.controller.mu.Lock()
		if len(r.controller.accepted) != 0 {
			t.Errorf("%v lists %v, which no webhook had brought", r, r.controller.accepted)
		}
		r.controller.mu.Unlock()
	}
}

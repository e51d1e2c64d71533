package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/canary-guardian/guardian/remediate"
	"github.com/canary-guardian/guardian/testdata/controlplane"
)

// fakePrometheus answers a query that contains one of the words with a sample,
// and others with nothing.
func fakePrometheus(t *testing.T, knows ...string) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query := r.FormValue("query")
		result := ""
		for _, word := range knows {
			if strings.Contains(query, word) {
				result = `{"metric":{},"value":[1767225600,"1"]}`
			}
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"status":"success","data":{"resultType":"vector","result":[%s]}}`, result)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// checkBench is a namespace with orders-service, and a configuration for it.
func checkBench(t *testing.T) (*realBench, *controlplane.App, string) {
	b := newRealBench(t, shifting(10, 5))
	app, err := b.plane.NewApp(t.Context(), b.namespace, testGuard)
	if err != nil {
		t.Fatal(err)
	}
	if b.files[controlplane.Admin], err = b.plane.Kubeconfig(controlplane.Admin, b.namespace); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "guardian.yaml")
	text := "namespace: " + b.namespace + "\nguards:\n- name: orders-service\n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return b, app, file
}

// heartbeat sets what the replica's Lease says of the last one, and of the last
// one through Alertmanager.
func (b *realBench) heartbeat(at, byAlertmanager string) {
	b.t.Helper()
	leases := b.kube.CoordinationV1().Leases(b.namespace)
	l, err := leases.Get(b.t.Context(), remediate.ReplicaLease("a"), metav1.GetOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	l.Annotations = map[string]string{remediate.AnnotationHeartbeat: at, remediate.AnnotationHeartbeatAlertmanager: byAlertmanager}
	if _, err := leases.Update(b.t.Context(), l, metav1.UpdateOptions{}); err != nil {
		b.t.Fatal(err)
	}
}

func TestCheckFindsWhatIsMissing(t *testing.T) {
	b, app, file := checkBench(t)
	b.heartbeat("", "")
	prometheus := fakePrometheus(t, "istio_requests_total")
	code, text := b.run(controlplane.Admin, "check", "-f", file, "--prometheus", prometheus)
	for _, says := range []string{
		"ok    configuration: 1 guards",
		"FAIL  rights: system:serviceaccount:" + b.namespace + ":guardian may not patch virtualservices",
		"ok    guard orders-service: VirtualService orders-service: canary at 0%",
		"ok    guard orders-service: stable v1: 2 ready endpoints",
		"ok    guard orders-service: canary v2: build ",
		"ok    series: istio_requests_total",
		"FAIL  rules of guard orders-service are not loaded",
		"ok    guardian: alive",
		"FAIL  heartbeat: none has reached guardian",
	} {
		want(t, code, text, exitFailed, says)
	}
	t.Run("fast lane", func(t *testing.T) {
		t.Setenv("GUARDIAN_RULES_FAST_LANE_ENABLED", "true")
		code, text := b.run(controlplane.Admin, "check", "-f", file, "--prometheus", prometheus)
		want(t, code, text, exitFailed, "FAIL  rights: system:serviceaccount:"+b.namespace+":guardian may not delete podmonitors")
		want(t, code, text, exitFailed, "ok    series: the fast lane's")
		code, text = b.run(controlplane.Admin, "check", "-f", file, "--prometheus", fakePrometheus(t, "(istio_requests_total"))
		want(t, code, text, exitFailed, "FAIL  series: none of the fast lane in namespace "+b.namespace+": does prometheus-operator select the PodMonitor guardian-fast-lane")
	})
	if err := app.Scale(t.Context(), "v1", 0); err != nil {
		t.Fatal(err)
	}
	code, text = b.run(controlplane.Admin, "check", "-f", file, "--prometheus", "http://127.0.0.1:1")
	want(t, code, text, exitFailed, "FAIL  guard orders-service: stable v1 has 0 ready endpoints, rollback.minReadyStable is 1")
	want(t, code, text, exitFailed, "?     query Prometheus")
}

func TestCheckPassesWhenAllIsThere(t *testing.T) {
	b, _, file := checkBench(t)
	var granted []rbacv1.PolicyRule
	for _, r := range append(rights(), right{group: "monitoring.coreos.com", resource: "prometheusrules", verbs: []string{"list", "watch", "create", "patch", "delete"}}) {
		granted = append(granted, rbacv1.PolicyRule{APIGroups: []string{r.group}, Resources: []string{r.resource}, Verbs: r.verbs})
	}
	if err := b.plane.Grant(t.Context(), b.namespace, "system:serviceaccount:"+b.namespace+":guardian", granted...); err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC().Format(time.RFC3339)
	b.heartbeat(now, now)
	prometheus := fakePrometheus(t, "istio_requests_total", ":info")
	code, text := b.run(controlplane.Admin, "check", "-f", file, "--prometheus", prometheus)
	want(t, code, text, exitOK, " ago, through Prometheus and Alertmanager")
	if strings.Contains(text, "FAIL") || strings.Contains(text, "?     ") {
		t.Errorf("said:\n%s", text)
	}
	// What Prometheus pushes past Alertmanager is no proof of Alertmanager.
	b.heartbeat(now, "")
	code, pushed := b.run(controlplane.Admin, "check", "-f", file, "--prometheus", prometheus)
	want(t, code, pushed, exitFailed, "straight from Prometheus, but none through Alertmanager")
	t.Run("pushed alone", func(t *testing.T) {
		t.Setenv("GUARDIAN_ALERTMANAGER_URL", "")
		code, pushed := b.run(controlplane.Admin, "check", "-f", file, "--prometheus", prometheus)
		want(t, code, pushed, exitOK, " ago, straight from Prometheus")
	})
	b.heartbeat(now, now)
	// A person who may not ask for others' rights is told so.
	code, text = b.run(controlplane.Dev, "check", "-f", file, "--prometheus", prometheus)
	want(t, code, text, exitUnknown, "?     rights of system:serviceaccount:")
}

func TestRulesFromTheClusterNameTheDeployments(t *testing.T) {
	b, app, file := checkBench(t)
	code, text := b.run(controlplane.Admin, "rules", "-f", file, "--from-cluster")
	want(t, code, text, exitOK, "destination_workload: "+app.Deployment("v2"))
	want(t, code, text, exitOK, "destination_workload: "+app.Deployment("v1"))
	code, text = b.run(controlplane.Dev, "rules", "-f", file, "--from-cluster")
	want(t, code, text, exitFailed, "look up guard orders-service: your user may not")
}

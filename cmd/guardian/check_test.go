package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/canary-guardian/guardian/remediate"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/test/controlplane"
)

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
	l, err := leases.Get(b.t.Context(), records.ReplicaLease("a"), metav1.GetOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	l.Annotations = map[string]string{records.AnnotationHeartbeat: at, records.AnnotationHeartbeatAlertmanager: byAlertmanager}
	if _, err := leases.Update(b.t.Context(), l, metav1.UpdateOptions{}); err != nil {
		b.t.Fatal(err)
	}
}

func TestCheckOfABareNamespace(t *testing.T) {
	b, _, file := checkBench(t)
	b.heartbeat("", "")
	code, text := b.run(controlplane.Admin, "check", "-f", file, "--prometheus", "http://127.0.0.1:1", "--alertmanager", "http://127.0.0.1:1")
	for _, says := range []string{
		"ok    configuration: 1 guards",
		"FAIL  rights: system:serviceaccount:" + b.namespace + ":guardian has none of the rights that guardian needs in namespace " + b.namespace,
		"ok    guard orders-service: VirtualService orders-service: canary at 0%",
		"ok    guard orders-service: stable v1: 2 ready endpoints",
		"ok    guard orders-service: canary v2: build ",
		"?     guard orders-service: a rollback could not be tried as system:serviceaccount:" + b.namespace + ":guardian",
		"?     query Prometheus",
		"?     ask Alertmanager",
		"ok    guardian: alive",
		"FAIL  heartbeat: none has reached guardian",
	} {
		want(t, code, text, exitFailed, says)
	}
	if n := strings.Count(text, "FAIL  rights"); n != 1 {
		t.Errorf("an account without any right is told of in %d lines", n)
	}
	b.grantLittle()
	t.Setenv("GUARDIAN_RULES_FAST_LANE_ENABLED", "true")
	code, text = b.run(controlplane.Admin, "check", "-f", file, "--prometheus", "http://127.0.0.1:1", "--alertmanager", "http://127.0.0.1:1")
	for _, what := range []string{"patch virtualservices", "delete podmonitors"} {
		want(t, code, text, exitFailed, "FAIL  rights: system:serviceaccount:"+b.namespace+":guardian may not "+what)
	}
}

// grantLittle lets guardian's account list VirtualServices, and nothing else.
func (b *realBench) grantLittle() {
	b.t.Helper()
	meta := metav1.ObjectMeta{Name: "little", Namespace: b.namespace}
	role := &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{{Verbs: []string{"list"}, APIGroups: []string{remediate.IstioGroup}, Resources: []string{"virtualservices"}}}}
	if _, err := b.kube.RbacV1().Roles(b.namespace).Create(b.t.Context(), role, metav1.CreateOptions{}); err != nil {
		b.t.Fatal(err)
	}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: meta,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: meta.Name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: "guardian", Namespace: b.namespace}},
	}
	if _, err := b.kube.RbacV1().RoleBindings(b.namespace).Create(b.t.Context(), binding, metav1.CreateOptions{}); err != nil {
		b.t.Fatal(err)
	}
}

func TestCheckTellsByWhichWayTheHeartbeatComes(t *testing.T) {
	b, _, file := checkBench(t)
	now := time.Now().UTC().Format(time.RFC3339)
	b.heartbeat(now, "")
	code, text := b.run(controlplane.Admin, "check", "-f", file, "--prometheus", "http://127.0.0.1:1", "--alertmanager", "http://127.0.0.1:1")
	want(t, code, text, exitFailed, "FAIL  heartbeat: ")
	want(t, code, text, exitFailed, "straight from Prometheus, but none through Alertmanager")
	t.Setenv("GUARDIAN_ALERTMANAGER_URL", "")
	code, text = b.run(controlplane.Admin, "check", "-f", file, "--prometheus", "http://127.0.0.1:1")
	want(t, code, text, exitFailed, " ago, straight from Prometheus\n")
	want(t, code, text, exitFailed, "ok    Alertmanager: none")
}

// A person who may neither impersonate nor ask for others' rights is told so.
func TestCheckSaysWhatAPersonMayNotLookAt(t *testing.T) {
	b, _, file := checkBench(t)
	code, text := b.run(controlplane.Dev, "check", "-f", file, "--prometheus", "http://127.0.0.1:1", "--alertmanager", "http://127.0.0.1:1")
	for _, says := range []string{
		"its writes are not tried: your user may not impersonate it",
		"?     rights of system:serviceaccount:",
		"note  admission policies: not tried: your user may not make a VirtualService",
		"note  prometheus-operator: what its prometheuses select is not looked at",
	} {
		if !strings.Contains(text, says) {
			t.Errorf("does not say %q, exit code %d:\n%s", says, code, text)
		}
	}
}

func TestRulesFromTheClusterNameTheDeployments(t *testing.T) {
	b, app, file := checkBench(t)
	code, text := b.run(controlplane.Admin, "rules", "-f", file, "--from-cluster")
	want(t, code, text, exitOK, "canary: "+app.Deployment("v2"))
	want(t, code, text, exitOK, `destination_workload=~"`+app.Deployment("v1")+"|"+app.Deployment("v2")+`"`)
	code, text = b.run(controlplane.Dev, "rules", "-f", file, "--from-cluster")
	want(t, code, text, exitFailed, "look up guard orders-service: your user may not")
}

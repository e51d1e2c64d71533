//go:build flux

package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/canary-guardian/guardian/test/controlplane"
	"github.com/canary-guardian/guardian/test/kubelet"
)

// released is guardian's chart as helm-controller installs it from the sample's HelmRelease, in a cluster with real
// controllers. The chart's source is a stand-in's: it serves the package as source-controller would serve the registry's.
type released struct {
	*live
	dynamic dynamic.Interface
	folder  string // work tree
	asked   int
}

func newReleased(t *testing.T) *released {
	t.Helper()
	h := &released{live: newLiveOf(t, versions[0]), folder: filepath.Join(t.TempDir(), "platform")}
	_, err := h.plane.StartHelmController(t.Context())
	h.must(err)
	h.dynamic, err = dynamic.NewForConfig(h.plane.RESTConfig(controlplane.Admin))
	h.must(err)
	h.must(os.CopyFS(h.folder, os.DirFS(filepath.Join("..", "..", "docs", "samples", "platform"))))
	for _, name := range []string{"guardian-microservices.yaml", "kustomization.yaml"} {
		file := filepath.Join(h.folder, "flux", name)
		text, err := os.ReadFile(file)
		h.must(err)
		h.must(os.WriteFile(file, []byte(strings.ReplaceAll(string(text), "namespace: microservices", "namespace: "+h.ns)), 0o600))
	}
	h.makeToken()
	h.apply("orders-0")
	h.serveChart()
	t.Cleanup(func() {
		if t.Failed() {
			said, err := h.plane.Kubectl(context.Background(), controlplane.Admin, h.ns, "get", "helmrelease", "guardian", "-o", "jsonpath={.status}")
			t.Logf("HelmRelease: %s %v", said, err)
		}
		if said, err := h.plane.Kubectl(context.Background(), controlplane.Admin, h.ns, "patch", "helmrelease", "guardian", "--type=merge", "-p", `{"spec":{"suspend":true}}`); err != nil {
			t.Error(said)
		}
	})
	return h
}

// apply makes of the sample's folder what kustomize-controller would.
func (h *released) apply(guards ...string) {
	h.t.Helper()
	text, err := yaml.Marshal(h.gitValues(guards...))
	h.must(err)
	h.must(os.WriteFile(filepath.Join(h.folder, "guardian", "microservices.yaml"), text, 0o600))
	made, err := h.plane.Kubectl(h.t.Context(), controlplane.Admin, h.ns, "kustomize", "--load-restrictor=LoadRestrictionsNone", filepath.Join(h.folder, "flux"))
	h.must(err)
	file := filepath.Join(h.t.TempDir(), "made.yaml")
	h.must(os.WriteFile(file, []byte(made), 0o600))
	_, err = h.plane.Kubectl(h.t.Context(), controlplane.Admin, h.ns, "apply", "--server-side", "-f", file)
	h.must(err)
}

// serveChart packages the chart and has the OCIRepository lead to it.
func (h *released) serveChart() {
	h.t.Helper()
	folder := h.t.TempDir()
	h.run("package", chartDir, "--version", "0.1.0", "-d", folder)
	chart, err := os.ReadFile(filepath.Join(folder, "guardian-0.1.0.tgz"))
	h.must(err)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if _, err := w.Write(chart); err != nil {
			h.t.Error(err)
		}
	}))
	h.t.Cleanup(server.Close)
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256(chart))
	status, err := json.Marshal(map[string]any{"status": map[string]any{
		"observedGeneration": 1,
		"conditions":         []any{map[string]any{"type": "Ready", "status": "True", "reason": "Succeeded", "message": "stored", "lastTransitionTime": metav1.Now()}},
		"artifact": map[string]any{
			"path": "guardian.tgz", "url": server.URL + "/guardian-0.1.0.tgz", "revision": "0.1.0@" + digest,
			"digest": digest, "lastUpdateTime": metav1.Now(), "size": len(chart),
		},
	}})
	h.must(err)
	_, err = h.dynamic.Resource(controlplane.OCIRepositories).Namespace(h.ns).Patch(h.t.Context(), "guardian", types.MergePatchType, status, metav1.PatchOptions{}, "status")
	h.must(err)
}

// reconciled has helm-controller look at the chart, its values and the cluster anew, and returns when the release is
// ready: its revision, and what was found to differ in the cluster.
func (h *released) reconciled(what string) (revision int64, drift string) {
	h.t.Helper()
	h.asked++
	request := fmt.Sprintf("%d", h.asked)
	releases := h.dynamic.Resource(controlplane.HelmReleases).Namespace(h.ns)
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{"reconcile.fluxcd.io/requestedAt":%q}}}`, request)
	_, err := releases.Patch(h.t.Context(), "guardian", types.MergePatchType, patch, metav1.PatchOptions{})
	h.must(err)
	h.waitFor(slow, what, func(ctx context.Context) error {
		object, err := releases.Get(ctx, "guardian", metav1.GetOptions{})
		if err != nil {
			return err
		}
		handled, _, _ := unstructured.NestedString(object.Object, "status", "lastHandledReconcileAt")
		observed, _, _ := unstructured.NestedInt64(object.Object, "status", "observedGeneration")
		conditions, _, _ := unstructured.NestedSlice(object.Object, "status", "conditions")
		ready, said := condition(conditions, "Ready")
		if handled != request || observed != object.GetGeneration() || ready != "True" {
			return fmt.Errorf("handled %q of %q, ready %s: %s", handled, request, ready, said)
		}
		if drifted, said := condition(conditions, "Drifted"); drifted != "False" {
			drift = drifted + ": " + said
		}
		history, _, _ := unstructured.NestedSlice(object.Object, "status", "history")
		if len(history) == 0 {
			return fmt.Errorf("no release: %v", conditions)
		}
		revision, _, _ = unstructured.NestedInt64(history[0].(map[string]any), "version")
		return nil
	})
	return revision, drift
}

// condition is the status and the message of a condition.
func condition(conditions []any, kind string) (status, message string) {
	for _, c := range conditions {
		if c, ok := c.(map[string]any); ok && c["type"] == kind {
			return fmt.Sprint(c["status"]), fmt.Sprint(c["message"])
		}
	}
	return "", "no condition " + kind
}

// drifts are the times that helm-controller has told of a difference.
func (h *released) drifts() (times int32, said string) {
	h.t.Helper()
	events, err := h.kube.CoreV1().Events(h.ns).List(h.t.Context(), metav1.ListOptions{FieldSelector: "reason=DriftDetected"})
	h.must(err)
	for _, e := range events.Items {
		times, said = times+max(1, e.Count), e.Message
	}
	return times, said
}

// TestTheChartStaysReadyUnderFlux has helm-controller install guardian by the sample's HelmRelease, with drift detection,
// and guardian do its work.
func TestTheChartStaysReadyUnderFlux(t *testing.T) {
	h := newReleased(t)
	apps := h.apps("orders", 2, 50)
	if revision, _ := h.reconciled("installed"); revision != 1 {
		t.Errorf("revision %d", revision)
	}
	h.running(versions[0], 2)
	address, err := h.kubelet.Proxy(t.Context(), h.ns, "guardian", "http-alerts")
	h.must(err)
	h.must(insistWith(t.Context(), "http://"+address, gitToken, webhookOf(h.alertOf(apps[0].Name))))
	if rec := h.rolledBack(apps[0]); rec.Lock == nil {
		t.Error("no lock")
	}
	h.waitFor(slow, "rules", func(ctx context.Context) error { return h.hasRules(ctx, true) })
	wrote := h.written()
	t.Logf("guardian has written %d objects of its own: %v", len(wrote), wrote)
	if wrote["ConfigMap/guardian-orders-0"] == "" || wrote["PrometheusRule/guardian"] == "" || wrote["Lease/guardian"] == "" {
		t.Errorf("guardian has written %v", wrote)
	}

	// Nothing of it is a difference, and nothing is taken away.
	for range 5 {
		if revision, drift := h.reconciled("ready while guardian works"); revision != 1 || drift != "" {
			t.Errorf("revision %d, drifted %s", revision, drift)
		}
		h.must(sleep(t.Context(), time.Second))
	}
	if times, said := h.drifts(); times != 0 {
		t.Errorf("%d times: %s", times, said)
	}
	if now := h.written(); !maps.Equal(now, wrote) {
		t.Errorf("of guardian's own objects there are now %v, before %v", now, wrote)
	}

	// What somebody else changes is one, and is put back: the look above was no empty one.
	_, err = h.plane.Kubectl(t.Context(), controlplane.Admin, h.ns, "scale", "deployment", "guardian", "--replicas=1")
	h.must(err)
	h.reconciled("put back")
	if times, said := h.drifts(); times == 0 || !strings.Contains(said, "Deployment") {
		t.Errorf("%d times: %q", times, said)
	}
	pods := h.running(versions[0], 2)

	// A guard more replaces no pod.
	h.apply("orders-0", "orders-1")
	if revision, _ := h.reconciled("with a guard more"); revision != 2 {
		t.Errorf("revision %d", revision)
	}
	for _, pod := range pods {
		h.waitFor(slow, pod.Name+" knows the new guard", func(ctx context.Context) error {
			return get(ctx, "http://"+kubelet.Address(pod.Status.PodIP)+":8081/api/v1/guards/orders-1")
		})
	}
	if rec, err := h.record(t.Context(), apps[0].Name); err != nil || rec.Lock == nil {
		t.Errorf("the lock: %+v, %v", rec.Lock, err)
	}
	if now := h.running(versions[0], 2); now[0].UID != pods[0].UID || now[1].UID != pods[1].UID {
		t.Error("pods have been replaced")
	}
}

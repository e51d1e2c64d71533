//go:build argocd

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/canary-guardian/guardian/test/controlplane"
	"github.com/canary-guardian/guardian/test/kubelet"
)

// platform is guardian's chart and its values in git, as docs/samples/platform has them, in a cluster with real
// controllers that Argo CD syncs.
type platform struct {
	*live
	dynamic dynamic.Interface
	folder  string // work tree
}

func newPlatform(t *testing.T) *platform {
	t.Helper()
	p := &platform{live: newLiveOf(t, versions[0]), folder: filepath.Join(t.TempDir(), "platform")}
	repositories := t.TempDir()
	argocd, err := p.plane.StartArgoCD(t.Context(), controlplane.ArgoCDOptions{Repositories: repositories})
	p.must(err)
	p.dynamic, err = dynamic.NewForConfig(p.plane.RESTConfig(controlplane.Admin))
	p.must(err)
	p.must(os.CopyFS(p.folder, os.DirFS(filepath.Join("..", "..", "docs", "samples", "platform"))))
	p.must(os.CopyFS(filepath.Join(p.folder, "charts", "guardian"), os.DirFS(chartDir)))
	p.git("init", "--quiet", "--bare", "-b", "main", filepath.Join(repositories, "platform.git"))
	p.git("init", "--quiet", "-b", "main")
	p.git("remote", "add", "origin", filepath.Join(repositories, "platform.git"))

	var application unstructured.Unstructured
	text, err := os.ReadFile(filepath.Join(p.folder, "argocd", "guardian-microservices.yaml"))
	p.must(err)
	p.must(yaml.UnmarshalStrict(text, &application.Object))
	spec := application.Object["spec"].(map[string]any)
	spec["destination"] = map[string]any{"server": p.plane.APIServerURL(), "namespace": p.ns}
	chart, values := spec["sources"].([]any)[0].(map[string]any), spec["sources"].([]any)[1].(map[string]any)
	delete(chart, "chart") // out of git instead of a registry
	chart["path"], chart["targetRevision"], chart["repoURL"] = "charts/guardian", "main", argocd.GitURL+"/platform.git"
	values["repoURL"] = chart["repoURL"]
	p.commit("begin", p.gitValues("orders-0"))
	p.makeToken()
	_, err = p.applications().Create(t.Context(), &application, metav1.CreateOptions{})
	p.must(err)
	t.Cleanup(func() {
		if t.Failed() {
			said, err := p.plane.Kubectl(context.Background(), controlplane.Admin, controlplane.ArgoNamespace, "get", "applications", "-o", "jsonpath={.items[*].status}")
			t.Logf("Application: %s %v\n%s", said, err, argocd.Logs(60))
		}
	})
	return p
}

func (p *platform) applications() dynamic.ResourceInterface {
	return p.dynamic.Resource(controlplane.Applications).Namespace(controlplane.ArgoNamespace)
}

func (p *platform) git(args ...string) {
	p.t.Helper()
	cmd := exec.CommandContext(p.t.Context(), "git", args...)
	cmd.Dir = p.folder
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=team", "GIT_AUTHOR_EMAIL=team@example.com", "GIT_COMMITTER_NAME=team", "GIT_COMMITTER_EMAIL=team@example.com")
	if out, err := cmd.CombinedOutput(); err != nil {
		p.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
}

// commit changes the namespace's values.
func (p *platform) commit(message string, values map[string]any) {
	p.t.Helper()
	text, err := yaml.Marshal(values)
	p.must(err)
	p.must(os.WriteFile(filepath.Join(p.folder, "guardian", "microservices.yaml"), text, 0o600))
	p.git("add", ".")
	p.git("commit", "--quiet", "-m", message)
	p.git("push", "--quiet", "-u", "origin", "main")
}

// refresh has Argo CD look at git and at the cluster anew, and returns when it has.
func (p *platform) refresh() *unstructured.Unstructured {
	p.t.Helper()
	const annotation = "argocd.argoproj.io/refresh"
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{annotation: "hard"}}})
	p.must(err)
	_, err = p.applications().Patch(p.t.Context(), "guardian-microservices", "application/merge-patch+json", patch, metav1.PatchOptions{})
	p.must(err)
	var object *unstructured.Unstructured
	p.waitFor(slow, "refreshed", func(ctx context.Context) (err error) {
		if object, err = p.applications().Get(ctx, "guardian-microservices", metav1.GetOptions{}); err == nil && object.GetAnnotations()[annotation] != "" {
			err = fmt.Errorf("not yet")
		}
		return err
	})
	return object
}

// synced waits until the Application is in sync and healthy, and returns how many syncs that took until now.
func (p *platform) synced(what string) (syncs int) {
	p.t.Helper()
	p.waitFor(slow, what, func(context.Context) error {
		object := p.refresh()
		sync, _, _ := unstructured.NestedString(object.Object, "status", "sync", "status")
		health, _, _ := unstructured.NestedString(object.Object, "status", "health", "status")
		phase, _, _ := unstructured.NestedString(object.Object, "status", "operationState", "phase")
		if sync != "Synced" || health != "Healthy" || phase != "Succeeded" {
			conditions, _, _ := unstructured.NestedSlice(object.Object, "status", "conditions")
			return fmt.Errorf("%s, %s, last sync %s: %v", sync, health, phase, conditions)
		}
		history, _, _ := unstructured.NestedSlice(object.Object, "status", "history")
		syncs = len(history)
		return nil
	})
	return syncs
}

// TestTheChartStaysSyncedUnderArgoCD has Argo CD install guardian by the sample's Application, and guardian do its work.
func TestTheChartStaysSyncedUnderArgoCD(t *testing.T) {
	p := newPlatform(t)
	apps := p.apps("orders", 2, 50)
	syncs := p.synced("installed")
	pods := p.running(versions[0], 2)
	address, err := p.kubelet.Proxy(t.Context(), p.ns, "guardian", "http-alerts")
	p.must(err)
	p.must(insistWith(t.Context(), "http://"+address, gitToken, webhookOf(p.alertOf(apps[0].Name))))
	p.rolledBack(apps[0])
	p.waitFor(slow, "rules", func(ctx context.Context) error { return p.hasRules(ctx, true) })
	wrote := p.written()
	t.Logf("guardian has written %d objects of its own: %v", len(wrote), wrote)
	if wrote["ConfigMap/guardian-orders-0"] == "" || wrote["PrometheusRule/guardian"] == "" || wrote["Lease/guardian"] == "" {
		t.Errorf("guardian has written %v", wrote)
	}

	// Nothing of it is a difference, and nothing is pruned.
	for range 5 {
		if n := p.synced("synced while guardian works"); n != syncs {
			t.Errorf("%d syncs, want the %d of the installation alone", n, syncs)
		}
		p.must(sleep(t.Context(), time.Second))
	}
	if now := p.written(); !maps.Equal(now, wrote) {
		t.Errorf("of guardian's own objects there are now %v, before %v", now, wrote)
	}

	// A commit with a guard more replaces no pod.
	p.commit("a guard more", p.gitValues("orders-0", "orders-1"))
	p.refresh()
	for _, pod := range pods {
		p.waitFor(slow, pod.Name+" knows the new guard", func(ctx context.Context) error {
			return get(ctx, "http://"+kubelet.Address(pod.Status.PodIP)+":8081/api/v1/guards/orders-1")
		})
	}
	if n := p.synced("synced with a guard more"); n != syncs+1 {
		t.Errorf("%d syncs, want one more than %d", n, syncs)
	}
	p.refusesAToken(pods)
}

// refusesAToken takes the Secret out of the values: the chart says what is missing, and what runs stays.
func (p *platform) refusesAToken(pods []corev1.Pod) {
	p.t.Helper()
	file := filepath.Join(p.folder, "guardian", "all.yaml")
	text, err := os.ReadFile(file)
	p.must(err)
	without := strings.Replace(string(text), "webhook:", "commonLabels:", 1)
	p.must(os.WriteFile(file, []byte(without), 0o600))
	p.commit("no Secret", p.gitValues("orders-0", "orders-1"))
	p.waitFor(slow, "the chart's refusal", func(context.Context) error {
		conditions, _, _ := unstructured.NestedSlice(p.refresh().Object, "status", "conditions")
		if said := fmt.Sprint(conditions); !strings.Contains(said, "ComparisonError") || !strings.Contains(said, "webhook.existingSecret: not set") {
			return fmt.Errorf("conditions %s", said)
		}
		return nil
	})
	if now := p.running(versions[0], 2); now[0].UID != pods[0].UID || now[1].UID != pods[1].UID {
		p.t.Error("pods have been replaced")
	}
}

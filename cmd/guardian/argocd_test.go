//go:build argocd

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/test/controlplane"
)

// looked is how long the canary's traffic is looked at after a rollback.
const looked = 20 * time.Second

// argo is the sample repository in git, and a namespace that the real Argo CD syncs from it.
type argo struct {
	*synced
	application string
	windows     []any // sync windows of its AppProject
}

// newArgo makes the namespace and the repository, and has Argo CD sync it by one of the sample's Applications.
func newArgo(t *testing.T, plane *controlplane.Plane, argocd *controlplane.ArgoCD, repositories, application string, windows bool) *argo {
	t.Helper()
	a := &argo{synced: newSynced(t, plane)}
	a.application = a.ns
	a.env = append(a.env, "SYNC_TIMEOUT=7m")
	a.intoGit(filepath.Join(repositories, a.ns+".git"))
	object := a.sampleObject("argocd", application)
	spec := object.Object["spec"].(map[string]any)
	spec["source"].(map[string]any)["repoURL"] = argocd.GitURL + "/" + a.ns + ".git"
	if windows { // the sample's project has a name of this test's
		if spec["project"] != "orders" {
			t.Errorf("%s is of the AppProject %v, so that no window holds it", application, spec["project"])
		}
		spec["project"] = a.application
		project := a.sampleObject("argocd", "project-window.yaml")
		a.windows, _, _ = unstructured.NestedSlice(project.Object, "spec", "syncWindows")
		unstructured.RemoveNestedField(project.Object, "spec", "syncWindows")
		a.create(project)
	}
	a.create(object)
	t.Cleanup(func() {
		said, err := plane.Kubectl(context.Background(), controlplane.Admin, controlplane.ArgoNamespace, "get", "application", a.application, "-o", "jsonpath={.status}")
		if t.Failed() {
			t.Logf("Application: %s %v\n%s", said, err, argocd.Logs(60))
		}
		// What it has synced stays: it has no finalizer.
		if said, err := plane.Kubectl(context.Background(), controlplane.Admin, controlplane.ArgoNamespace, "delete", "application", a.application); err != nil {
			t.Error(said)
		}
	})
	a.waitFor(slow, "Argo CD has synced the sample", func(ctx context.Context) error { return a.says(ctx, "Synced/Healthy") })
	a.startGuardian()
	a.observations = a.observe()
	return a
}

// intoGit makes the sample a repository. Argo CD is told of each push, as by a webhook of the git server.
func (a *argo) intoGit(bare string) {
	a.t.Helper()
	a.synced.intoGit(bare)
	kubeconfig, err := a.plane.Kubeconfig(controlplane.Admin, a.ns)
	a.must(err)
	hook := fmt.Sprintf("#!/bin/sh\nkubectl --kubeconfig=%s annotate application %s -n %s argocd.argoproj.io/refresh=hard --overwrite >/dev/null\n",
		kubeconfig, a.application, controlplane.ArgoNamespace)
	a.must(os.WriteFile(filepath.Join(bare, "hooks", "post-receive"), []byte(hook), 0o700))
}

// sampleObject is one of the sample's own objects, for this test's cluster and namespace.
func (a *argo) sampleObject(path ...string) *unstructured.Unstructured {
	a.t.Helper()
	text, err := os.ReadFile(filepath.Join(append([]string{sampleFolder}, path...)...))
	a.must(err)
	text = []byte(strings.NewReplacer("https://kubernetes.default.svc", a.plane.APIServerURL(), "namespace: "+sampleNamespace, "namespace: "+a.ns,
		"applications: [orders]", "applications: ["+a.application+"]").Replace(string(text)))
	object := &unstructured.Unstructured{}
	a.must(yaml.UnmarshalStrict(text, &object.Object))
	object.SetName(a.application)
	return object
}

func (a *argo) create(object *unstructured.Unstructured) {
	a.t.Helper()
	text, err := json.Marshal(object)
	a.must(err)
	a.asAdmin(string(text), "create", "--validate=strict", "-f", "-")
}

// status is what the Application says, as sync status and health.
func (a *argo) status(ctx context.Context) (string, *unstructured.Unstructured, error) {
	object, err := a.dynamic.Resource(controlplane.Applications).Namespace(controlplane.ArgoNamespace).Get(ctx, a.application, metav1.GetOptions{})
	if err != nil {
		return "", nil, err
	}
	sync, _, _ := unstructured.NestedString(object.Object, "status", "sync", "status")
	health, _, _ := unstructured.NestedString(object.Object, "status", "health", "status")
	return sync + "/" + health, object, nil
}

// says is an error unless the Application says so and no sync is under way.
func (a *argo) says(ctx context.Context, want string) error {
	said, object, err := a.status(ctx)
	if err != nil {
		return err
	}
	phase, _, _ := unstructured.NestedString(object.Object, "status", "operationState", "phase")
	if said != want || phase != "Succeeded" {
		conditions, _, _ := unstructured.NestedSlice(object.Object, "status", "conditions")
		return fmt.Errorf("the Application is %s, its last sync %s, want %s: %v", said, phase, want, conditions)
	}
	return nil
}

// healthOf is what Argo CD's health check says of the VirtualService.
func (a *argo) healthOf(ctx context.Context) (status, message string, err error) {
	_, object, err := a.status(ctx)
	if err != nil {
		return "", "", err
	}
	resources, _, _ := unstructured.NestedSlice(object.Object, "status", "resources")
	for _, item := range resources {
		if resource := item.(map[string]any); resource["kind"] == "VirtualService" {
			status, _, _ = unstructured.NestedString(resource, "health", "status")
			message, _, _ = unstructured.NestedString(resource, "health", "message")
			return status, message, nil
		}
	}
	return "", "", errors.New("the Application has no VirtualService")
}

// statuses takes down what the Application says for as long as the function runs, with the seconds of each.
func (a *argo) statuses(while func()) map[string]time.Duration {
	a.t.Helper()
	ctx, cancel := context.WithCancel(a.t.Context())
	seen, done := map[string]time.Duration{}, make(chan struct{})
	go func() {
		defer close(done)
		for last := time.Now(); sleep(ctx, 100*time.Millisecond) == nil; {
			said, _, err := a.status(ctx)
			if err == nil {
				seen[said] += time.Since(last)
			}
			last = time.Now()
		}
	}()
	while()
	cancel()
	<-done
	return seen
}

// outcome is what was seen of one set-up.
type outcome struct {
	exposed, exposedAfter time.Duration // in the seconds after the rollback; from the next commit on
	times, timesAfter     int
	after                 map[string]time.Duration // what the Application said in the seconds after the rollback
	health                string
	arrived, forward      time.Duration // from the commit: the Deployment, the weights
	timeout               bool          // a timeout of the same commit had arrived while the lock stood
	unlocked              time.Duration // from the unlock by a person to the weights of git; 0: not while it was watched
	afterUnlock           map[string]time.Duration
}

// play has a canary at 10% by git, its rollback, the next release in one commit, another rollback, and an unlock by a
// person.
func (a *argo) play() outcome {
	a.t.Helper()
	var o outcome
	a.mustSh("ci/commit.sh 10")
	a.waitFor(slow, "synced", func(ctx context.Context) error { return a.says(ctx, "Synced/Healthy") })
	a.window(true)

	rolledBack := a.fail()
	o.after = a.statuses(func() { a.must(sleep(a.t.Context(), looked)) })
	o.exposed, o.times = a.observations.lockedWithTraffic(rolledBack)
	status, message, err := a.healthOf(a.t.Context())
	a.must(err)
	o.health = status + ": " + message
	a.resolve()

	a.release(&o)
	a.window(true)
	a.unlock(&o)
	return o
}

// window makes the sample's sync window, or takes it away, where the set-up has one.
func (a *argo) window(closed bool) {
	a.t.Helper()
	if a.windows == nil {
		return
	}
	var windows any
	if closed {
		windows = a.windows
	}
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"syncWindows": windows}})
	a.must(err)
	_, err = a.dynamic.Resource(controlplane.AppProjects).Namespace(controlplane.ArgoNamespace).Patch(a.t.Context(), a.application, types.MergePatchType, patch, metav1.PatchOptions{})
	a.must(err)
}

// release commits a new build and its weights at once. The new Pods take some seconds to become ready.
func (a *argo) release(o *outcome) {
	a.t.Helper()
	a.rolling.Store(false)
	a.mustSh(`sed -i 's/^  - route:/  - timeout: 7s\n    route:/' k8s/orders/virtual-service.yaml && grep -q 'timeout: 7s' k8s/orders/virtual-service.yaml`)
	committed, done := time.Now(), make(chan error, 1)
	go func() {
		code, said := a.sh("ci/commit.sh 20 orders:3", "")
		if code != 0 {
			done <- fmt.Errorf("exit status %d\n%s", code, said)
		}
		close(done)
	}()
	if a.windows != nil {
		a.must(sleep(a.t.Context(), 5*time.Second))
		if image := a.image("v2"); image == "orders:3" {
			a.t.Error("the new build has arrived through the sync window")
		}
		a.window(false)
		committed = time.Now()
	}
	a.waitFor(slow, "the new build has arrived", func(context.Context) error {
		if image := a.image("v2"); image != "orders:3" {
			return errors.New("v2 is still " + image)
		}
		return nil
	})
	o.arrived = time.Since(committed)
	a.must(sleep(a.t.Context(), 3*time.Second))
	a.waitFor(slow, "no traffic for Pods that are not ready", func(ctx context.Context) error { return a.canaryAt(ctx, 0) })
	o.timeout = a.timeout() == "7s"
	a.rolling.Store(true)
	ready := time.Now()
	a.must(<-done) // in a tug-of-war it may have seen the weights too early
	a.waitFor(7*time.Minute, "git's weights, and no lock", func(ctx context.Context) error {
		if rec, err := a.record(ctx, sampleGuard); err != nil || rec.Lock != nil {
			return fmt.Errorf("the lock stands (%v)", err)
		}
		return a.canaryAt(ctx, 20)
	})
	o.forward = time.Since(ready)
	o.exposedAfter, o.timesAfter = a.observations.lockedWithTraffic(committed)
	a.waitFor(slow, "synced with the new build", func(ctx context.Context) error { return a.says(ctx, "Synced/Healthy") })
	a.isAt(20)
	if got := a.timeout(); got != "7s" {
		a.t.Errorf("the timeout of the commit is %q after the unlock", got)
	}
}

// timeout is that of the route.
func (a *argo) timeout() string {
	a.t.Helper()
	vs, err := a.dynamic.Resource(controlplane.VirtualServices).Namespace(a.ns).Get(a.t.Context(), sampleGuard, metav1.GetOptions{})
	a.must(err)
	routes, _, err := unstructured.NestedSlice(vs.Object, "spec", "http")
	a.must(err)
	timeout, _, _ := unstructured.NestedString(routes[0].(map[string]any), "timeout")
	return timeout
}

// unlock has the canary fail again, and a person unlock it with the same build: what git says is to come back.
func (a *argo) unlock(o *outcome) {
	a.t.Helper()
	a.fail()
	a.resolve()
	kubeconfig, err := a.plane.Kubeconfig(controlplane.Admin, a.ns)
	a.must(err)
	unlocked := time.Now()
	a.mustSh("guardian unlock " + sampleGuard + " -n " + a.ns + " --kubeconfig " + kubeconfig + " --reason 'a false alarm'")
	o.afterUnlock = a.statuses(func() {
		for time.Since(unlocked) < looked && o.unlocked == 0 {
			if a.canaryAt(a.t.Context(), 20) == nil {
				o.unlocked = time.Since(unlocked)
			}
			a.must(sleep(a.t.Context(), 50*time.Millisecond))
		}
	})
}

func (o outcome) String() string {
	seconds := func(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }
	said := func(m map[string]time.Duration) string {
		var out []string
		for s, d := range m {
			out = append(out, s+" "+seconds(d))
		}
		slices.Sort(out)
		return strings.Join(out, ", ")
	}
	return fmt.Sprintf("in the %v after the rollback the canary had traffic for %s, %d times; the Application was %s; health %q; "+
		"the next build arrived after %s (a timeout of its commit under the lock: %v), its weights %s after its Pods were ready, and the locked canary had traffic for %s, %d times; "+
		"after an unlock by a person git's weights came after %s; the Application was %s",
		looked, seconds(o.exposed), o.times, said(o.after), o.health, seconds(o.arrived), o.timeout, seconds(o.forward), seconds(o.exposedAfter), o.timesAfter,
		seconds(o.unlocked), said(o.afterUnlock))
}

// settings is the sample's patch of Argo CD's ConfigMap.
func settings(t *testing.T) map[string]string {
	t.Helper()
	var patch struct{ Data map[string]string }
	if err := yaml.UnmarshalStrict([]byte(readDoc(t, "docs", "samples", "orders", "argocd", "argocd-cm.yaml")), &patch); err != nil {
		t.Fatal(err)
	}
	return patch.Data
}

// TestTheSampleUnderArgoCD has the real Argo CD sync the sample, in each set-up that docs/pairings/argocd.md has.
func TestTheSampleUnderArgoCD(t *testing.T) {
	plane := controlplane.Shared(t)
	repositories := t.TempDir()
	argocd, err := plane.StartArgoCD(t.Context(), controlplane.ArgoCDOptions{Repositories: repositories, Settings: settings(t)})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, application string
		policies, windows bool
		clientSideDiff    bool // the Application without its annotation
		want              outcome
		status            string // what the Application says under the lock
		follows           bool   // git's weights come back by themselves after an unlock, while it is watched
	}{
		// The order matters: policies stay once they are there.
		{name: "no policy", application: "application.yaml", want: outcome{times: 1, timeout: true}, status: "OutOfSync/Degraded"},
		{name: "ignored", application: "application-ignore.yaml", status: "Synced/Degraded", follows: true},
		{name: "windows", application: "application-window.yaml", windows: true, want: outcome{timeout: true}, status: "OutOfSync/Degraded"},
		{name: "held", application: "application.yaml", policies: true, want: outcome{timeout: true}, status: "Synced/Degraded", follows: true},
		{name: "held, client-side diff", application: "application.yaml", policies: true, clientSideDiff: true, want: outcome{timeout: true}, status: "OutOfSync/Degraded"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newArgo(t, plane, argocd, repositories, c.application, c.windows)
			if c.clientSideDiff {
				a.asAdmin("", "annotate", "application", a.application, "-n", controlplane.ArgoNamespace, "argocd.argoproj.io/compare-options-")
			}
			if c.policies {
				a.policies()
			}
			got := a.play()
			t.Logf("%s: %s", c.name, got)
			if (got.times > 0) != (c.want.times > 0) {
				t.Errorf("the locked canary had traffic %d times", got.times)
			}
			// In a window guardian takes back what the commit gives before its pods are ready.
			if held := c.policies || c.name == "ignored"; held != (got.timesAfter == 0) {
				t.Errorf("the locked canary had traffic %d times after the next commit", got.timesAfter)
			}
			if got.timeout != c.want.timeout {
				t.Errorf("the timeout of a commit under the lock has arrived: %v", got.timeout)
			}
			if most := got.mostly(); most != c.status {
				t.Errorf("the Application said mostly %s under the lock, want %s", most, c.status)
			}
			if !strings.HasPrefix(got.health, "Degraded: rolled-back: CanaryErrors: 7% of requests fail (since ") {
				t.Errorf("health %q", got.health)
			}
			if c.follows && got.unlocked == 0 || c.windows && got.unlocked != 0 {
				t.Errorf("after an unlock by a person git's weights came after %v", got.unlocked)
			}
		})
	}
}

// mostly is what the Application said for most of the time after the rollback.
func (o outcome) mostly() (status string) {
	for s, long := range o.after {
		if long > o.after[status] {
			status = s
		}
	}
	return status
}

// TestTheHealthCheckSaysWhatGuardianSays has Argo CD run the sample's health check.
func TestTheHealthCheckSaysWhatGuardianSays(t *testing.T) {
	program, err := controlplane.Binary(t.Context(), "argocd")
	if err != nil {
		t.Fatal(err)
	}
	scratch := t.TempDir()
	write := func(name string, object map[string]any) string {
		text, err := yaml.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(scratch, name)
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	config := write("argocd-cm.yaml", map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{
		"name": "argocd-cm", "namespace": controlplane.ArgoNamespace, "labels": map[string]any{"app.kubernetes.io/part-of": "argocd"},
	}, "data": settings(t)})
	lock := map[string]any{decision.AnnotationLock + sampleGuard: "by=…"}
	marks := func(state decision.State, more map[string]any) map[string]any {
		out := map[string]any{decision.AnnotationState: string(state), decision.AnnotationReason: "because", decision.AnnotationSince: "2026-11-29T08:30:00Z"}
		maps.Copy(out, more)
		return out
	}
	degraded := map[decision.State]bool{decision.StateRolledBack: true, decision.StateBlocked: true, decision.StateHeld: true}
	suspended := map[decision.State]bool{decision.StatePaused: true, decision.StateDisarmed: true}
	type verdict struct {
		annotations map[string]any
		want        string
	}
	cases := []verdict{{nil, "STATUS: Healthy\nMESSAGE:"}, {map[string]any{"canary-guardian.io/locksmith": "no"}, "STATUS: Healthy\nMESSAGE:"}, {lock, "STATUS: Degraded\nMESSAGE: locked"}}
	for _, state := range decision.States {
		status := "Healthy"
		if degraded[state] {
			status = "Degraded"
		} else if suspended[state] {
			status = "Suspended"
		}
		said := "\nMESSAGE: " + string(state) + ": because (since 2026-11-29T08:30:00Z)"
		cases = append(cases, verdict{marks(state, nil), "STATUS: " + status + said}, verdict{marks(state, lock), "STATUS: Degraded" + said})
	}
	for _, c := range cases {
		file := write("vs.yaml", map[string]any{"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": map[string]any{"name": sampleGuard, "annotations": c.annotations}})
		out, err := exec.CommandContext(t.Context(), program, "admin", "settings", "resource-overrides", "health", file, "--argocd-cm-path", config).Output()
		if got := strings.TrimSpace(string(out)); err != nil || got != c.want {
			t.Errorf("%v: %v\n%s\nwant\n%s", c.annotations, err, got, c.want)
		}
	}
}

package remediate

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	"github.com/canary-guardian/guardian/test/controlplane"
)

// kubectl runs as a user.
func (p *policed) kubectl(by who, ns string, args ...string) (string, error) {
	return p.plane.Kubectl(p.t.Context(), by.in(ns), ns, args...)
}

// file writes a manifest.
func (p *policed) file(text string) string {
	p.t.Helper()
	path := filepath.Join(p.t.TempDir(), "manifest.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
	return path
}

// step is one of the article's manifests.
func (p *policed) step(ns, name string) string {
	return p.file(strings.ReplaceAll(string(fixture(p.t, "article-"+name+".yaml")), "namespace: microservices", "namespace: "+ns))
}

func (p *policed) mustKubectl(by who, ns string, args ...string) string {
	p.t.Helper()
	out, err := p.kubectl(by, ns, args...)
	if err != nil {
		p.t.Fatalf("kubectl %v as %s: %v\n%s", args, by.name, err, out)
	}
	return out
}

// refusedKubectl has to fail with the lock's message.
func (p *policed) refusedKubectl(by who, ns string, args ...string) {
	p.t.Helper()
	out, err := p.kubectl(by, ns, args...)
	if text := fmt.Sprint(out, err); err == nil || !strings.Contains(text, "v2 (build 4f2a) was rolled back") {
		p.t.Errorf("kubectl %v as %s: %v\n%s", args, by.name, err, out)
	}
}

// lockIt writes guardian's lock as a rollback does, or takes it off.
func (p *policed) lockIt(ns string, on bool) {
	p.t.Helper()
	value := any(nil)
	if on {
		value = mustEncode(p.t, theGuardian.lock(ns, bySubset, all))
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{key: value}}})
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := vsClient(p.t, p.plane.RESTConfig(theGuardian.in(ns)), ns, "v1").Patch(p.t.Context(), "orders-service", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		p.t.Fatal(err)
	}
}

func TestWhileLockedKubectlIsRefusedByEveryWay(t *testing.T) {
	p := newPoliced(t)
	ns := p.namespace(nil, nil)
	p.install(ns, ns)
	p.mustKubectl(ci, ns, "apply", "-f", p.step(ns, "100-0"))
	p.lockIt(ns, true)
	for _, by := range []who{ci, clusterAdmin, unlocker} {
		for _, step := range []string{"90-10", "0-100"} {
			p.refusedKubectl(by, ns, "apply", "-f", p.step(ns, step))
			p.refusedKubectl(by, ns, "replace", "-f", p.step(ns, step))
			p.refusedKubectl(by, ns, "replace", "--force", "-f", p.step(ns, step))
			p.refusedKubectl(by, ns, "apply", "--server-side", "--force-conflicts", "-f", p.step(ns, step))
		}
		p.refusedKubectl(by, ns, "delete", "virtualservice", "orders-service")
		p.refusedKubectl(by, ns, "delete", "virtualservice", "--all")
		p.refusedKubectl(by, ns, "replace", "-f", p.step(ns, "100-0"))
		p.mustKubectl(by, ns, "apply", "-f", p.step(ns, "100-0"))
		p.mustKubectl(by, ns, "annotate", "virtualservice", "orders-service", "note="+by.user, "--overwrite")
		if out := p.mustKubectl(by, ns, "apply", "--dry-run=server", "-f", p.step(ns, "90-10")); !strings.Contains(out, "Warning: ") || !strings.Contains(out, "guardian holds the canary of orders-service") {
			t.Errorf("a dry run by %s is held without a warning: %s", by.name, out)
		}
	}
	p.refusedKubectl(ci, ns, "annotate", "virtualservice", "orders-service", key+"-")
	p.mustKubectl(unlocker, ns, "annotate", "virtualservice", "orders-service", key+"-")
	p.mustKubectl(ci, ns, "apply", "-f", p.step(ns, "90-10"))
	p.mustKubectl(ci, ns, "replace", "--force", "-f", p.step(ns, "0-100"))
}

// A policy's parameters would be those of before the policy was deleted.
func TestPoliciesThatWereAwayFollowTheLocksThatCameAndWentMeanwhile(t *testing.T) {
	p := newPoliced(t)
	for _, lockedBefore := range []bool{true, false} {
		ns := p.namespace(nil, nil)
		policies := p.file(scoped(t, ns, ns))
		p.install(ns, ns)
		p.mustKubectl(ci, ns, "apply", "-f", p.step(ns, "100-0"))
		p.lockIt(ns, lockedBefore)
		p.mustKubectl(clusterAdmin, ns, "get", "virtualservice", "orders-service")
		if out, err := p.plane.Kubectl(t.Context(), controlplane.Admin, ns, "delete", "-f", policies); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		eventually(t, func() error { // until the API server feels that they are gone
			_, err := p.kubectl(ci, ns, "annotate", "--overwrite", "virtualservice", "orders-service", decision.AnnotationLock+"probe=x")
			return err
		})
		p.mustKubectl(ci, ns, "annotate", "virtualservice", "orders-service", decision.AnnotationLock+"probe-")
		p.lockIt(ns, !lockedBefore)
		p.install(ns, ns)
		if lockedBefore {
			p.mustKubectl(ci, ns, "apply", "-f", p.step(ns, "90-10"))
			continue
		}
		p.refusedKubectl(ci, ns, "apply", "-f", p.step(ns, "90-10"))
		p.lockIt(ns, false)
		p.mustKubectl(ci, ns, "apply", "-f", p.step(ns, "90-10"))
		p.mustKubectl(ci, ns, "apply", "-f", p.step(ns, "100-0"))
		p.lockIt(ns, true)
		p.refusedKubectl(ci, ns, "apply", "-f", p.step(ns, "0-100"))
	}
}

// The fix and the weights come in one set, which is tried as a whole before any
// of it is applied.
func TestASetOfFixAndWeightsArrives(t *testing.T) {
	p := newPoliced(t)
	ns := p.namespace(nil, nil)
	p.install(ns, ns)
	deployment := `apiVersion: apps/v1
kind: Deployment
metadata: {name: orders-v2, namespace: ` + ns + `}
spec:
  selector: {matchLabels: {app: orders, version: v2}}
  template:
    metadata: {labels: {app: orders, version: v2}}
    spec: {containers: [{name: app, image: "orders:IMAGE"}]}
---
`
	weights, err := os.ReadFile(p.step(ns, "90-10"))
	if err != nil {
		t.Fatal(err)
	}
	set := func(image string) string {
		return p.file(strings.ReplaceAll(deployment, "IMAGE", image) + string(weights))
	}
	apply := func(file string, more ...string) string {
		return p.mustKubectl(clusterAdmin, ns, append([]string{"apply", "--server-side", "--force-conflicts", "--field-manager=kustomize-controller", "-f", file}, more...)...)
	}
	apply(set("bad"))
	p.rollBack(ns)
	client := vsClient(t, p.plane.RESTConfig(theGuardian.in(ns)), ns, "v1")
	fixed := set("fixed")
	if out := apply(fixed, "--dry-run=server"); !strings.Contains(out, "deployment.apps/orders-v2 serverside-applied") || !strings.Contains(out, "guardian holds") {
		t.Errorf("the set as a dry run: %s", out)
	}
	apply(fixed)
	image := p.mustKubectl(clusterAdmin, ns, "get", "deployment", "orders-v2", "-o", "jsonpath={.spec.template.spec.containers[0].image}")
	held, err := client.Get(t.Context(), "orders-service", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := weightsOf(held); image != "orders:fixed" || got != "100/0" || held.GetAnnotations()[key] == "" {
		t.Errorf("image %s, weights %s, lock %q", image, got, held.GetAnnotations()[key])
	}
	p.lockIt(ns, false)
	apply(fixed)
	if held, err = client.Get(t.Context(), "orders-service", metav1.GetOptions{}); err != nil || weightsOf(held) != "90/10" {
		t.Errorf("after the lock was lifted: weights %s (%v)", weightsOf(held), err)
	}
}

// weightsOf are the weights of the first route.
func weightsOf(vs *unstructured.Unstructured) string {
	routes, _, err := unstructured.NestedSlice(vs.Object, "spec", "http")
	if err != nil || len(routes) == 0 {
		return fmt.Sprint(err)
	}
	var all []string
	for _, d := range routes[0].(map[string]any)["route"].([]any) {
		weight := d.(map[string]any)["weight"]
		if weight == nil {
			weight = 0
		}
		all = append(all, fmt.Sprint(weight))
	}
	return strings.Join(all, "/")
}

// large is a VirtualService of many routes with a match each, all of which give
// the canary a weight.
func large(ns string, n int, weight func(i int) int) *unstructured.Unstructured {
	var http []any
	for i := range n {
		w := int64(weight(i))
		http = append(http, map[string]any{
			"match": []any{map[string]any{"uri": map[string]any{"prefix": fmt.Sprintf("/%d/", i)}}},
			"route": []any{
				map[string]any{"destination": map[string]any{"host": "orders-service", "subset": "v1"}, "weight": 100 - w},
				map[string]any{"destination": map[string]any{"host": "orders-service", "subset": "v2"}, "weight": w},
			},
		})
	}
	return virtualService("v1", "large", ns, http)
}

// TestALargeVirtualServiceIsRuledRightly: a thousand routes stay within what the
// API server lets a policy cost.
func TestALargeVirtualServiceIsRuledRightly(t *testing.T) {
	j, err := newJudge(t, "1.37", AdmissionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	const n = 1000
	ten := func(int) int { return 10 }
	for _, c := range []struct {
		name   string
		before func(int) int
		now    *unstructured.Unstructured
		dryRun bool
		want   answer
	}{
		{"rolled back: the same", func(int) int { return 0 }, large(testNamespace, n, func(int) int { return 0 }), false, passes},
		{"rolled back: 90/10", func(int) int { return 0 }, large(testNamespace, n, ten), false, refused},
		{"rolled back: 90/10 in the last", func(int) int { return 0 }, large(testNamespace, n, func(i int) int { return 10 * (i / (n - 1)) }), false, refused},
		{"rolled back: 90/10, held", func(int) int { return 0 }, large(testNamespace, n, ten), true, holds},
		{"blocked: the same", ten, large(testNamespace, n, ten), false, passes},
		{"blocked: lowered", ten, large(testNamespace, n, func(int) int { return 5 }), false, passes},
		{"blocked: every second to 0", ten, large(testNamespace, n, func(i int) int { return i % 2 * 10 }), false, passes},
		{"blocked: all to 0", ten, large(testNamespace, n, func(int) int { return 0 }), false, passes},
		{"blocked: the last one raised", ten, large(testNamespace, n, func(i int) int { return 10 + i/(n-1) }), false, refused},
		{"blocked: one more without the canary", ten, large(testNamespace, n+1, func(i int) int { return 10 - 10*(i/n) }), false, passes},
		{"blocked: one more", ten, large(testNamespace, n+1, ten), false, refused},
	} {
		old := lockedBy(t, large(testNamespace, n, c.before), "orders-service", theGuardian.lock(testNamespace, bySubset, all))
		c.now.SetAnnotations(old.GetAnnotations())
		start := time.Now()
		got, err := j.rule(t.Context(), attempt{user: "ci", dryRun: c.dryRun, old: old, new: c.now.DeepCopy()})
		is := refused
		if err == nil && len(got.refused) == 0 {
			is = tableRow{}.is(old, c.now, got.object)
		}
		if err != nil || is != c.want {
			t.Errorf("%s: %s %.200v (%.300v), want %s", c.name, is, got.refused, err, c.want)
		}
		t.Logf("%s: %s in %v, costs %v", c.name, is, time.Since(start).Round(time.Millisecond), got.cost)
	}
}

// TestNoWriteSlipsInBetweenLockAndWeights has CI write as fast as it can while
// guardian rolls back.
func TestNoWriteSlipsInBetweenLockAndWeights(t *testing.T) {
	p := newPoliced(t)
	ns := p.namespace(nil, nil)
	p.install(ns, ns)
	guardian := vsClient(t, p.plane.RESTConfig(theGuardian.in(ns)), ns, "v1")
	const rounds = 30
	var lost, taken, refusals atomic.Int64
	for i := range rounds {
		name := fmt.Sprintf("race-%d", i)
		vs := withSpec(t, split(90, 10))
		vs.SetName(name)
		vs.SetNamespace(ns)
		if _, err := guardian.Create(t.Context(), vs, metav1.CreateOptions{}); err != nil {
			if _, err = vsClient(t, p.plane.RESTConfig(controlplane.Admin), ns, "v1").Create(t.Context(), vs, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		start, done := make(chan struct{}), make(chan struct{})
		var wg sync.WaitGroup
		for _, by := range []who{ci, ci, argo, clusterAdmin} {
			client := vsClient(t, p.plane.RESTConfig(by.in(ns)), ns, "v1")
			wg.Go(func() {
				<-start
				for {
					_, err := client.Patch(t.Context(), name, types.MergePatchType, []byte(`{"spec":`+mustJSON(t, vs.Object["spec"])+`}`), metav1.PatchOptions{FieldManager: by.manager})
					if err == nil {
						taken.Add(1)
					} else {
						refusals.Add(1)
					}
					select {
					case <-done:
						return
					default:
					}
				}
			})
		}
		close(start)
		patch, err := json.Marshal([]virtualservice.Op{{Op: "add", Path: "/metadata/annotations", Value: map[string]string{key: mustEncode(t, theGuardian.lock(ns, bySubset, all))}},
			{Op: "add", Path: "/spec/http/0/route/0/weight", Value: 100}, {Op: "add", Path: "/spec/http/0/route/1/weight", Value: 0}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := guardian.Patch(t.Context(), name, types.JSONPatchType, patch, metav1.PatchOptions{FieldManager: FieldManager}); err != nil {
			t.Fatal(err)
		}
		close(done)
		wg.Wait()
		if got, err := guardian.Get(t.Context(), name, metav1.GetOptions{}); err != nil || weightsOf(got) != "100/0" {
			lost.Add(1)
			t.Errorf("%s: weights %s (%v)", name, weightsOf(got), err)
		}
	}
	t.Logf("%d rounds: %d writes taken, %d refused, %d rollbacks lost", rounds, taken.Load(), refusals.Load(), lost.Load())
	if taken.Load() == 0 || refusals.Load() == 0 {
		t.Error("nothing was tried")
	}
}

func mustJSON(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

//go:build flux

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/test/controlplane"
)

// flux is the sample as kustomize-controller applies it. The source is a stand-in's: it serves the folder as
// source-controller would serve the commit.
type flux struct {
	*synced
	source   *httptest.Server
	artifact []byte
	commits  int
}

func newFlux(t *testing.T, plane *controlplane.Plane, label string) *flux {
	t.Helper()
	f := &flux{synced: newSynced(t, plane)}
	if label != "" {
		patch := fmt.Appendf(nil, `{"metadata":{"labels":{"%sadmission":%q}}}`, decision.Prefix, label)
		_, err := f.kube.CoreV1().Namespaces().Patch(t.Context(), f.ns, types.MergePatchType, patch, metav1.PatchOptions{})
		f.must(err)
	}
	f.source = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if _, err := w.Write(f.artifact); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(f.source.Close)
	f.asAdmin(fmt.Sprintf(`{apiVersion: source.toolkit.fluxcd.io/v1, kind: GitRepository, metadata: {name: orders, namespace: %[1]s}, spec: {interval: 1m, url: "https://git.example/orders"}}
---
{apiVersion: kustomize.toolkit.fluxcd.io/v1, kind: Kustomization, metadata: {name: orders, namespace: %[1]s},
 spec: {interval: 10s, retryInterval: 2s, path: ./k8s/orders, prune: true, sourceRef: {kind: GitRepository, name: orders}}}
`, f.ns), "apply", "-f", "-")
	t.Cleanup(func() {
		said, err := plane.Kubectl(context.Background(), controlplane.Admin, f.ns, "get", "kustomization", "orders", "-o", "jsonpath={.status}")
		if t.Failed() {
			t.Logf("Kustomization: %s %v", said, err)
		}
		if said, err := plane.Kubectl(context.Background(), controlplane.Admin, f.ns, "patch", "kustomization", "orders", "--type=merge", "-p", `{"spec":{"suspend":true}}`); err != nil {
			t.Error(said)
		}
	})
	return f
}

// commit serves the folder as it is now under a new revision, and returns when kustomize-controller has applied it.
func (f *flux) commit() {
	f.t.Helper()
	f.commits++
	revision := fmt.Sprintf("main@sha1:%040d", f.commits)
	f.artifact = f.archive()
	status, err := json.Marshal(map[string]any{"status": map[string]any{
		"observedGeneration": 1,
		"conditions":         []any{map[string]any{"type": "Ready", "status": "True", "reason": "Succeeded", "message": "stored", "lastTransitionTime": metav1.Now()}},
		"artifact": map[string]any{
			"path": "orders.tar.gz", "url": fmt.Sprintf("%s/%d.tar.gz", f.source.URL, f.commits), "revision": revision,
			"digest": fmt.Sprintf("sha256:%x", sha256.Sum256(f.artifact)), "lastUpdateTime": metav1.Now(), "size": len(f.artifact),
		},
	}})
	f.must(err)
	_, err = f.dynamic.Resource(controlplane.GitRepositories).Namespace(f.ns).Patch(f.t.Context(), "orders", types.MergePatchType, status, metav1.PatchOptions{}, "status")
	f.must(err)
	f.waitFor(slow, "applied "+revision, func(ctx context.Context) error {
		object, err := f.dynamic.Resource(controlplane.Kustomizations).Namespace(f.ns).Get(ctx, "orders", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if applied, _, _ := unstructured.NestedString(object.Object, "status", "lastAppliedRevision"); applied != revision {
			conditions, _, _ := unstructured.NestedSlice(object.Object, "status", "conditions")
			return fmt.Errorf("applied is %q: %v", applied, conditions)
		}
		return nil
	})
}

// archive is the work tree as a tarball.
func (f *flux) archive() []byte {
	f.t.Helper()
	var out bytes.Buffer
	packed := gzip.NewWriter(&out)
	w := tar.NewWriter(packed)
	f.must(filepath.WalkDir(filepath.Join(f.folder, "k8s"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, err := filepath.Rel(f.folder, path)
		if err != nil {
			return err
		}
		content, err := os.ReadFile(path)
		if err == nil {
			err = w.WriteHeader(&tar.Header{Name: filepath.ToSlash(name), Mode: 0o644, Size: int64(len(content))})
		}
		if err == nil {
			_, err = w.Write(content)
		}
		return err
	}))
	f.must(errors.Join(w.Close(), packed.Close()))
	return out.Bytes()
}

// shift has git say a share, and an image of the canary unless it is empty.
func (f *flux) shift(share int, image string) {
	f.t.Helper()
	f.mustSh(fmt.Sprintf(`manifest=$(guardian plan -f k8s/orders/virtual-service.yaml --stable v1 --canary v2 --weight %d)
printf '%%s\n' "$manifest" >k8s/orders/virtual-service.yaml`, share))
	if image != "" {
		f.mustSh(fmt.Sprintf(`manifest=$(kubectl set image --local -f k8s/orders/deployment-v2.yaml orders=%s -o yaml)
printf '%%s\n' "$manifest" >k8s/orders/deployment-v2.yaml`, image))
	}
	f.commit()
}

// TestTheSampleUnderFlux has the real kustomize-controller apply a fixed Deployment and 90/10 as one set, before and under
// a lock, for each label that a Namespace may have.
func TestTheSampleUnderFlux(t *testing.T) {
	plane := controlplane.Shared(t)
	if _, err := plane.StartKustomizeController(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, label := range []string{"", "rewrite", "off"} {
		t.Run("label "+label, func(t *testing.T) {
			f := newFlux(t, plane, label)
			f.policies()
			f.commit()
			f.startGuardian()
			f.observations = f.observe()
			f.shift(10, "")
			f.waitFor(slow, "10%", func(ctx context.Context) error { return f.canaryAt(ctx, 10) })

			f.fail()
			f.resolve()
			f.rolling.Store(false)
			committed := time.Now()
			f.shift(10, "orders:3") // applied as a whole, or not at all
			if image := f.image("v2"); image != "orders:3" {
				t.Errorf("v2 is %s", image)
			}
			f.must(sleep(t.Context(), 12*time.Second)) // an interval
			f.waitFor(slow, "no traffic for Pods that are not ready", func(ctx context.Context) error { return f.canaryAt(ctx, 0) })
			exposed, times := f.observations.lockedWithTraffic(committed)
			if (times > 0) != (label == "off") {
				t.Errorf("the locked canary had traffic for %v, %d times", exposed, times)
			}
			f.rolling.Store(true)
			ready := time.Now()
			f.waitFor(slow, "10% of the new build", func(ctx context.Context) error { return f.canaryAt(ctx, 10) })
			t.Logf("label %q: the locked canary had traffic for %v, %d times; the weights came %v after the new Pods were ready", label, exposed, times, time.Since(ready))
		})
	}
}

//go:build argocd || flux

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/test/controlplane"
)

// slow is how long a GitOps tool is waited for.
const slow = 3 * time.Minute

// synced is the sample repository in a namespace of its own, which a GitOps tool keeps as git says.
type synced struct {
	*sample
	observations *observations
}

func newSynced(t *testing.T, plane *controlplane.Plane) *synced {
	t.Helper()
	s := &synced{sample: &sample{rig: newRigOn(t, plane), folder: filepath.Join(t.TempDir(), "orders")}}
	var err error
	s.dynamic, err = dynamic.NewForConfig(plane.RESTConfig(controlplane.Admin))
	s.must(err)
	s.must(os.CopyFS(s.folder, os.DirFS(sampleFolder)))
	s.rename(filepath.Join(s.folder, "k8s", "orders"))
	s.commandLine()
	s.runPods()
	return s
}

// rename puts the sample's manifests into the namespace of the test.
func (s *synced) rename(folder string) {
	s.t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*.yaml"))
	s.must(err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		s.must(err)
		s.must(os.WriteFile(file, []byte(strings.ReplaceAll(string(text), "namespace: "+sampleNamespace, "namespace: "+s.ns)), 0o600))
	}
}

// observation is the canary's share as the API server told of it.
type observation struct {
	at     time.Time
	share  int64
	locked bool
}

// observations are all of them, in their order.
type observations struct {
	mu   sync.Mutex
	list []observation
}

// observe takes down each state of the VirtualService.
func (s *synced) observe() *observations {
	s.t.Helper()
	out := &observations{}
	s.t.Cleanup(s.eachVirtualService(func(vs *unstructured.Unstructured) {
		_, locked := vs.GetAnnotations()[decision.AnnotationLock+sampleGuard]
		out.mu.Lock()
		defer out.mu.Unlock()
		out.list = append(out.list, observation{time.Now(), canaryWeight(vs), locked})
	}))
	return out
}

// lockedWithTraffic says for how long, and how many times, a locked canary had traffic since a moment.
func (s *observations) lockedWithTraffic(since time.Time) (long time.Duration, times int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, one := range s.list {
		if !one.locked || one.share == 0 || one.at.Before(since) {
			continue
		}
		end := time.Now()
		if i+1 < len(s.list) {
			end = s.list[i+1].at
		}
		long += end.Sub(one.at)
		if i == 0 || s.list[i-1].share == 0 {
			times++
		}
	}
	return long, times
}

// fail has an alert fire, and returns the moment of the rollback.
func (s *synced) fail() time.Time {
	s.t.Helper()
	s.alert("firing")
	s.waitFor(slow, "rolled back", func(ctx context.Context) error {
		if rec, err := s.record(ctx, sampleGuard); err != nil || rec.Lock == nil {
			return fmt.Errorf("not locked: %s %v", rec.Status.State, err)
		}
		return s.canaryAt(ctx, 0)
	})
	return time.Now()
}

// resolve has the alert end, and returns when guardian knows.
func (s *synced) resolve() {
	s.t.Helper()
	s.alert("resolved")
	s.waitFor(slow, "resolved", func(context.Context) error {
		if n := len(s.g.bridge.firing(sampleGuard)); n > 0 {
			return fmt.Errorf("%d alerts fire", n)
		}
		return nil
	})
}

func (s *synced) canaryAt(ctx context.Context, share int64) error {
	vs, err := s.dynamic.Resource(controlplane.VirtualServices).Namespace(s.ns).Get(ctx, sampleGuard, metav1.GetOptions{})
	if err == nil && canaryWeight(vs) != share {
		err = fmt.Errorf("the canary has %d%%, want %d%%", canaryWeight(vs), share)
	}
	return err
}

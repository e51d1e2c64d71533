package remediate

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	annotationRestarted = "kubectl.kubernetes.io/restartedAt"
	sidecar             = "istio-proxy"
)

// templateHash is a build: 12 hex digits that two pod templates share when
// they would run the same pods. A rollout restart is not a new build.
func templateHash(t corev1.PodTemplateSpec) string {
	t = *t.DeepCopy()
	delete(t.Annotations, annotationRestarted)
	if len(t.Annotations) == 0 {
		t.Annotations = nil
	}
	delete(t.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	t.CreationTimestamp = metav1.Time{}
	b, err := json.Marshal(t)
	if err != nil {
		panic(fmt.Sprintf("marshal pod template: %v", err)) // no field of it can fail to marshal
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:6])
}

// canaryWorkload reads a build off the Deployments and pods behind one
// destination; replicaSet looks up a pod's owner and may return nil.
func canaryWorkload(deployments []*keptDeployment, pods []*keptPod, replicaSet func(string) *keptReplicaSet) Workload {
	current := map[string]bool{}
	var w Workload
	w.Complete = len(deployments) > 0
	hashes := make([]string, 0, len(deployments))
	for _, d := range deployments {
		current[d.hash] = true
		hashes = append(hashes, d.hash)
		w.Complete = w.Complete && d.rolledOut()
	}
	slices.Sort(hashes)
	w.Builds = slices.Compact(hashes)
	w.Build = combine(w.Builds)
	serving, running := map[string]bool{}, map[string]bool{}
	for _, p := range pods {
		var hash string
		if p.replicaSet != "" {
			if rs := replicaSet(p.replicaSet); rs != nil {
				hash = rs.hash
				if current[hash] && rs.created.After(w.Since) {
					w.Since = rs.created
				}
			}
		}
		if !p.ready {
			continue
		}
		w.Ready++
		switch {
		case current[hash]:
			w.Current++
			running[hash] = true
		case hash != "":
			serving[hash] = true
		}
	}
	w.Serving, w.Running = slices.Sorted(maps.Keys(serving)), slices.Sorted(maps.Keys(running))
	return w
}

// combine makes one build of the hashes of several Deployments.
func combine(hashes []string) string {
	switch len(hashes) {
	case 0:
		return ""
	case 1:
		return hashes[0]
	}
	sum := sha256.Sum256([]byte(strings.Join(hashes, " ")))
	return hex.EncodeToString(sum[:6])
}

// rolledOut is what `kubectl rollout status` waits for.
func (d *keptDeployment) rolledOut() bool {
	want := int32(1)
	if d.replicas >= 0 {
		want = d.replicas
	}
	return d.observed >= d.generation && d.updated >= want && d.have <= d.updated && d.avail >= d.updated
}

// readyEndpoints counts the pods in slices whose endpoint is ready and that
// carry the labels.
func readyEndpoints(slices []*keptSlice, want keptLabels, pod func(string) *keptPod) int {
	seen := map[string]bool{} // dual-stack services list a pod once for each address family
	for _, s := range slices {
		for _, name := range s.ready {
			if p := pod(name); p != nil && !p.deleted && p.labels.include(want) {
				seen[name] = true
			}
		}
	}
	return len(seen)
}

// waitingOf counts, by reason (CrashLoopBackOff, ImagePullBackOff, …), the
// containers that something keeps from starting; nil: none. Every container
// waits for its turn and for what it needs at first, which is no such thing.
func waitingOf(pods []*keptPod) map[string]int64 {
	var out map[string]int64
	for _, p := range pods {
		for _, c := range p.containers {
			if c.waits == "" || c.waits == "ContainerCreating" || c.waits == "PodInitializing" {
				continue
			}
			if out == nil {
				out = map[string]int64{}
			}
			out[c.waits]++
		}
	}
	return out
}

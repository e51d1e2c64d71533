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
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

const (
	// annotationHash holds, on objects in memory alone, the hash of a pod
	// template whose text has been dropped to save memory.
	annotationHash      = Prefix + "template-hash"
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

// hashOf is the hash of an object's pod template, also when the object has been
// trimmed before: client-go may hand a transform the same object twice.
func hashOf(m metav1.ObjectMeta, t corev1.PodTemplateSpec) string {
	if h := m.Annotations[annotationHash]; h != "" && len(t.Spec.Containers) == 0 { // no real template is without
		return h
	}
	return templateHash(t)
}

// trimDeployment keeps what a guard looks at.
func trimDeployment(d *appsv1.Deployment) *appsv1.Deployment {
	return &appsv1.Deployment{
		ObjectMeta: trimMeta(d.ObjectMeta, hashOf(d.ObjectMeta, d.Spec.Template)),
		Spec: appsv1.DeploymentSpec{
			Replicas: d.Spec.Replicas,
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: d.Spec.Template.Labels}},
		},
		Status: appsv1.DeploymentStatus{
			ObservedGeneration: d.Status.ObservedGeneration, Replicas: d.Status.Replicas,
			UpdatedReplicas: d.Status.UpdatedReplicas, AvailableReplicas: d.Status.AvailableReplicas,
		},
	}
}

func trimReplicaSet(r *appsv1.ReplicaSet) *appsv1.ReplicaSet {
	return &appsv1.ReplicaSet{ObjectMeta: trimMeta(r.ObjectMeta, hashOf(r.ObjectMeta, r.Spec.Template))}
}

func trimPod(p *corev1.Pod) *corev1.Pod {
	out := &corev1.Pod{ObjectMeta: trimMeta(p.ObjectMeta, "")}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			out.Status.Conditions = []corev1.PodCondition{{Type: c.Type, Status: c.Status}}
		}
	}
	for _, group := range [][]corev1.ContainerStatus{p.Status.ContainerStatuses, p.Status.InitContainerStatuses} {
		for _, c := range group {
			if c.Name != sidecar {
				out.Status.ContainerStatuses = append(out.Status.ContainerStatuses, trimContainer(c))
			}
		}
	}
	return out
}

// trimContainer keeps restarts and the reasons of the last end and the
// present wait.
func trimContainer(c corev1.ContainerStatus) corev1.ContainerStatus {
	out := corev1.ContainerStatus{Name: c.Name, RestartCount: c.RestartCount}
	if w := c.State.Waiting; w != nil {
		out.State.Waiting = &corev1.ContainerStateWaiting{Reason: w.Reason}
	}
	if t := c.LastTerminationState.Terminated; t != nil {
		out.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{Reason: t.Reason, ExitCode: t.ExitCode}
	}
	return out
}

func trimMeta(m metav1.ObjectMeta, hash string) metav1.ObjectMeta {
	out := metav1.ObjectMeta{
		Name: m.Name, Namespace: m.Namespace, UID: m.UID, ResourceVersion: m.ResourceVersion, Generation: m.Generation,
		Labels: m.Labels, CreationTimestamp: m.CreationTimestamp, DeletionTimestamp: m.DeletionTimestamp,
	}
	if owner := metav1.GetControllerOfNoCopy(&m); owner != nil {
		out.OwnerReferences = []metav1.OwnerReference{*owner}
	}
	if hash != "" {
		out.Annotations = map[string]string{annotationHash: hash}
	}
	return out
}

func trimSlice(s *discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
	out := &discoveryv1.EndpointSlice{ObjectMeta: trimMeta(s.ObjectMeta, "")}
	for _, e := range s.Endpoints {
		if e.TargetRef != nil && e.TargetRef.Kind == "Pod" {
			out.Endpoints = append(out.Endpoints, discoveryv1.Endpoint{
				TargetRef:  &corev1.ObjectReference{Kind: e.TargetRef.Kind, Name: e.TargetRef.Name},
				Conditions: discoveryv1.EndpointConditions{Ready: e.Conditions.Ready},
			})
		}
	}
	return out
}

func podReady(p *corev1.Pod) bool {
	if p.DeletionTimestamp != nil {
		return false
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// canaryWorkload reads a build off the Deployments and pods behind one
// destination; replicaSet looks up a pod's owner and may return nil.
func canaryWorkload(deployments []*appsv1.Deployment, pods []*corev1.Pod, replicaSet func(string) *appsv1.ReplicaSet) Workload {
	current := map[string]bool{}
	var w Workload
	w.Complete = len(deployments) > 0
	hashes := make([]string, 0, len(deployments))
	for _, d := range deployments {
		h := d.Annotations[annotationHash]
		current[h] = true
		hashes = append(hashes, h)
		w.Complete = w.Complete && rolledOut(d)
	}
	slices.Sort(hashes)
	w.Builds = slices.Compact(hashes)
	w.Build = combine(w.Builds)
	serving, running := map[string]bool{}, map[string]bool{}
	for _, p := range pods {
		var hash string
		if owner := metav1.GetControllerOfNoCopy(p); owner != nil && owner.Kind == "ReplicaSet" {
			if rs := replicaSet(owner.Name); rs != nil {
				hash = rs.Annotations[annotationHash]
				if current[hash] && rs.CreationTimestamp.After(w.Since) {
					w.Since = rs.CreationTimestamp.Time
				}
			}
		}
		if !podReady(p) {
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
func rolledOut(d *appsv1.Deployment) bool {
	want := int32(1)
	if d.Spec.Replicas != nil {
		want = *d.Spec.Replicas
	}
	s := d.Status
	return s.ObservedGeneration >= d.Generation && s.UpdatedReplicas >= want && s.Replicas <= s.UpdatedReplicas && s.AvailableReplicas >= s.UpdatedReplicas
}

// readyEndpoints counts the ready endpoints in slices whose pod carries the
// labels. An endpoint without a readiness is ready, as the API defines it.
func readyEndpoints(slices []*discoveryv1.EndpointSlice, want labels.Selector, pod func(string) *corev1.Pod) int {
	seen := map[string]bool{} // dual-stack services list a pod once for each address family
	for _, s := range slices {
		for _, e := range s.Endpoints {
			if e.TargetRef == nil || e.Conditions.Ready != nil && !*e.Conditions.Ready {
				continue
			}
			p := pod(e.TargetRef.Name)
			if p != nil && p.DeletionTimestamp == nil && want.Matches(labels.Set(p.Labels)) {
				seen[p.Name] = true
			}
		}
	}
	return len(seen)
}

// waitingOf counts, by reason (CrashLoopBackOff, ImagePullBackOff, …), the
// containers that something keeps from starting; nil: none. Every container
// waits for its turn and for what it needs at first, which is no such thing.
func waitingOf(pods []*corev1.Pod) map[string]int64 {
	var out map[string]int64
	for _, p := range pods {
		for _, c := range p.Status.ContainerStatuses {
			w := c.State.Waiting
			if w == nil || w.Reason == "" || w.Reason == "ContainerCreating" || w.Reason == "PodInitializing" {
				continue
			}
			if out == nil {
				out = map[string]int64{}
			}
			out[w.Reason]++
		}
	}
	return out
}

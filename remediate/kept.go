package remediate

import (
	"slices"
	"strings"
	"time"
	"unique"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// The caches hold thousands of pods, Deployments, … of which guardian looks at
// little. As Kubernetes' own types they take a kilobyte each however little is
// in them, so they are kept as the types below. What is read live is made into
// them too: a decision looks the same, whatever it is made from.

// kept is what every object in a cache has. It is all that client-go asks for.
type kept struct {
	namespace unique.Handle[string]
	name      string
	version   string // resourceVersion
}

func keep(m *metav1.ObjectMeta) kept {
	return kept{namespace: unique.Make(m.Namespace), name: m.Name, version: m.ResourceVersion}
}

// GetObjectMeta is for client-go: key and resource version.
func (k *kept) GetObjectMeta() metav1.Object {
	return &metav1.ObjectMeta{Namespace: k.namespace.Value(), Name: k.name, ResourceVersion: k.version}
}

// keptLabels is a set of labels, sorted by key. Objects share what is equal.
type keptLabels []keptLabel

type keptLabel struct{ key, value unique.Handle[string] }

func keepLabels(set map[string]string) keptLabels {
	if len(set) == 0 {
		return nil
	}
	out := make(keptLabels, 0, len(set))
	for k, v := range set {
		out = append(out, keptLabel{unique.Make(k), unique.Make(v)})
	}
	slices.SortFunc(out, func(a, b keptLabel) int { return strings.Compare(a.key.Value(), b.key.Value()) })
	return out
}

// include says whether all of want are among the labels.
func (l keptLabels) include(want keptLabels) bool {
	for _, w := range want {
		if !slices.Contains(l, w) {
			return false
		}
	}
	return true
}

func (l keptLabels) set() map[string]string {
	out := make(map[string]string, len(l))
	for _, have := range l {
		out[have.key.Value()] = have.value.Value()
	}
	return out
}

// pairs are the index values of labels; the pod template's hash is nobody's
// selector.
func (l keptLabels) pairs() []string {
	out := make([]string, 0, len(l))
	for _, have := range l {
		if key := have.key.Value(); key != appsv1.DefaultDeploymentUniqueLabelKey {
			out = append(out, labelPair(key, have.value.Value()))
		}
	}
	return out
}

func labelPair(key, value string) string { return key + "=" + value }

// selectorPair is the label pair by which workloads of a selector are looked
// up: its first, and so one that each of them has. Empty: it selects nothing.
func selectorPair(selector keptLabels) string {
	if len(selector) == 0 {
		return ""
	}
	return labelPair(selector[0].key.Value(), selector[0].value.Value())
}

type keptDeployment struct {
	kept
	template             keptLabels
	hash                 string
	replicas             int32 // wanted; negative: not said
	generation           int64
	observed             int64
	have, updated, avail int32
}

func keepDeployment(d *appsv1.Deployment) *keptDeployment {
	k := &keptDeployment{kept: keep(&d.ObjectMeta), template: keepLabels(d.Spec.Template.Labels), hash: templateHash(d.Spec.Template), replicas: -1,
		generation: d.Generation, observed: d.Status.ObservedGeneration,
		have: d.Status.Replicas, updated: d.Status.UpdatedReplicas, avail: d.Status.AvailableReplicas}
	if d.Spec.Replicas != nil {
		k.replicas = *d.Spec.Replicas
	}
	return k
}

type keptReplicaSet struct {
	kept
	labels  keptLabels
	hash    string
	created time.Time
}

func keepReplicaSet(r *appsv1.ReplicaSet) *keptReplicaSet {
	return &keptReplicaSet{kept: keep(&r.ObjectMeta), labels: keepLabels(r.Labels), hash: templateHash(r.Spec.Template), created: r.CreationTimestamp.Time}
}

type keptPod struct {
	kept
	uid        string
	labels     keptLabels
	replicaSet string // that controls it; empty: none does
	deleted    bool   // or is being deleted
	ready      bool   // and not being deleted
	containers []keptContainer
}

// keptContainer is a container that has restarted or waits.
type keptContainer struct {
	name     string
	restarts int32
	ended    string // reason of the last end; empty: none, or not said
	waits    string // reason of the present wait; empty: it does not wait
}

func keepPod(p *corev1.Pod) *keptPod {
	k := &keptPod{kept: keep(&p.ObjectMeta), uid: string(p.UID), labels: keepLabels(p.Labels), deleted: p.DeletionTimestamp != nil}
	if o := metav1.GetControllerOfNoCopy(p); o != nil && o.Kind == "ReplicaSet" {
		k.replicaSet = o.Name
	}
	for _, c := range p.Status.Conditions {
		k.ready = k.ready || c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue && !k.deleted
	}
	for _, group := range [][]corev1.ContainerStatus{p.Status.ContainerStatuses, p.Status.InitContainerStatuses} {
		for i := range group {
			if c := keepContainer(&group[i]); c.name != sidecar && (c.restarts > 0 || c.waits != "") {
				k.containers = append(k.containers, c)
			}
		}
	}
	return k
}

func keepContainer(c *corev1.ContainerStatus) keptContainer {
	k := keptContainer{name: unique.Make(c.Name).Value(), restarts: c.RestartCount}
	if w := c.State.Waiting; w != nil {
		k.waits = unique.Make(w.Reason).Value()
	}
	if t := c.LastTerminationState.Terminated; t != nil {
		k.ended = unique.Make(t.Reason).Value()
	}
	return k
}

// restartsSince counts, by the reason of the end before (OOMKilled, Error, …),
// how often the pod's containers have restarted since it was; nil: since it was
// made.
func (k *keptPod) restartsSince(was *keptPod) map[string]int64 {
	out := map[string]int64{}
	for _, c := range k.containers {
		n := int64(c.restarts)
		if was != nil {
			n -= was.restartsOf(c.name)
		}
		if n > 0 {
			out[c.ended] += n
		}
	}
	return out
}

func (k *keptPod) restartsOf(container string) int64 {
	for _, c := range k.containers {
		if c.name == container {
			return int64(c.restarts)
		}
	}
	return 0
}

type keptSlice struct {
	kept
	service string
	ready   []string // pods
}

// keepSlice takes an endpoint without a readiness for ready, as the API defines
// it.
func keepSlice(s *discoveryv1.EndpointSlice) *keptSlice {
	k := &keptSlice{kept: keep(&s.ObjectMeta), service: s.Labels[discoveryv1.LabelServiceName]}
	for _, e := range s.Endpoints {
		if e.TargetRef != nil && e.TargetRef.Kind == "Pod" && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
			k.ready = append(k.ready, e.TargetRef.Name)
		}
	}
	return k
}

type keptService struct {
	kept
	selector keptLabels
}

func keepService(s *corev1.Service) *keptService {
	return &keptService{kept: keep(&s.ObjectMeta), selector: keepLabels(s.Spec.Selector)}
}

// selects says whether the Service has pods with these labels. One without a
// selector has none of its own.
func (k *keptService) selects(set keptLabels) bool {
	return len(k.selector) > 0 && set.include(k.selector)
}

type keptRule struct {
	kept
	host    string
	subsets []keptSubset
}

type keptSubset struct {
	name   string
	labels keptLabels
}

// keepRule takes what it cannot read for absent: the API server lets nothing
// else through than what the CustomResourceDefinition describes.
func keepRule(r *unstructured.Unstructured) *keptRule {
	k := &keptRule{kept: kept{namespace: unique.Make(r.GetNamespace()), name: r.GetName(), version: r.GetResourceVersion()}}
	k.host, _, _ = unstructured.NestedString(r.Object, "spec", "host")
	all, _, _ := unstructured.NestedFieldNoCopy(r.Object, "spec", "subsets")
	subsets, _ := all.([]any)
	for _, s := range subsets {
		subset, ok := s.(map[string]any)
		if !ok {
			continue
		}
		name, _ := subset["name"].(string)
		set, _, _ := unstructured.NestedStringMap(subset, "labels")
		k.subsets = append(k.subsets, keptSubset{unique.Make(name).Value(), keepLabels(set)})
	}
	return k
}

// subset returns the labels of a subset, and whether there is one of that name.
func (k *keptRule) subset(name string) (keptLabels, bool) {
	i := slices.IndexFunc(k.subsets, func(s keptSubset) bool { return s.name == name })
	if i < 0 {
		return nil, false
	}
	return k.subsets[i].labels, true
}

// trim keeps of an object what guardian looks at. What it returns it leaves as
// it is: client-go may hand a transform the same object twice.
func trim(obj any) (any, error) {
	switch o := obj.(type) {
	case *appsv1.Deployment:
		return keepDeployment(o), nil
	case *appsv1.ReplicaSet:
		return keepReplicaSet(o), nil
	case *corev1.Pod:
		return keepPod(o), nil
	case *discoveryv1.EndpointSlice:
		return keepSlice(o), nil
	case *corev1.Service:
		return keepService(o), nil
	case *unstructured.Unstructured:
		if o.GetKind() == "DestinationRule" {
			return keepRule(o), nil
		}
		trimVirtualService(o)
	case metav1.Object:
		o.SetManagedFields(nil)
	}
	return obj, nil
}

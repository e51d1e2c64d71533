package remediate

import (
	"slices"
	"strings"
	"unique"

	apinet "istio.io/api/networking/v1"
	istionet "istio.io/client-go/pkg/apis/networking/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
)

// The caches hold thousands of pods, Deployments, … of which guardian looks at
// little. As Kubernetes' own types they take a kilobyte each however little is
// in them, so they are kept as the types below, and made into Kubernetes'
// types again for the few that a guard's decision is made from.

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
func (k *kept) GetObjectMeta() metav1.Object { m := k.meta(); return &m }

func (k *kept) meta() metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: k.namespace.Value(), Name: k.name, ResourceVersion: k.version}
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

// Lookup, Get and Has make it a labels.Labels.
func (l keptLabels) Lookup(label string) (string, bool) {
	for _, have := range l {
		if have.key.Value() == label {
			return have.value.Value(), true
		}
	}
	return "", false
}

// Get returns the empty string for a label that is not there.
func (l keptLabels) Get(label string) string { v, _ := l.Lookup(label); return v }

// Has says whether the label is there.
func (l keptLabels) Has(label string) bool { _, ok := l.Lookup(label); return ok }

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
func selectorPair(selector map[string]string) string {
	first := ""
	for k := range selector {
		if first == "" || k < first {
			first = k
		}
	}
	if first == "" {
		return ""
	}
	return labelPair(first, selector[first])
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
	t := trimDeployment(d)
	k := &keptDeployment{kept: keep(&d.ObjectMeta), template: keepLabels(d.Spec.Template.Labels), hash: t.Annotations[annotationHash], replicas: -1,
		generation: d.Generation, observed: d.Status.ObservedGeneration,
		have: d.Status.Replicas, updated: d.Status.UpdatedReplicas, avail: d.Status.AvailableReplicas}
	if d.Spec.Replicas != nil {
		k.replicas = *d.Spec.Replicas
	}
	return k
}

func (k *keptDeployment) deployment() *appsv1.Deployment {
	d := &appsv1.Deployment{ObjectMeta: k.meta()}
	d.Generation, d.Annotations = k.generation, map[string]string{annotationHash: k.hash}
	d.Spec.Template.Labels = k.template.set()
	if k.replicas >= 0 {
		n := k.replicas
		d.Spec.Replicas = &n
	}
	d.Status = appsv1.DeploymentStatus{ObservedGeneration: k.observed, Replicas: k.have, UpdatedReplicas: k.updated, AvailableReplicas: k.avail}
	return d
}

type keptReplicaSet struct {
	kept
	labels  keptLabels
	hash    string
	created metav1.Time
}

func keepReplicaSet(r *appsv1.ReplicaSet) *keptReplicaSet {
	return &keptReplicaSet{kept: keep(&r.ObjectMeta), labels: keepLabels(r.Labels), hash: hashOf(r.ObjectMeta, r.Spec.Template), created: r.CreationTimestamp}
}

func (k *keptReplicaSet) replicaSet() *appsv1.ReplicaSet {
	r := &appsv1.ReplicaSet{ObjectMeta: k.meta()}
	r.CreationTimestamp, r.Labels, r.Annotations = k.created, k.labels.set(), map[string]string{annotationHash: k.hash}
	return r
}

type keptPod struct {
	kept
	uid        string
	labels     keptLabels
	owner      *metav1.OwnerReference // the controller: kind and name alone
	deleted    *metav1.Time
	ready      bool
	containers []corev1.ContainerStatus // those with something to tell
}

func keepPod(p *corev1.Pod) *keptPod {
	t := trimPod(p)
	k := &keptPod{kept: keep(&p.ObjectMeta), uid: string(p.UID), labels: keepLabels(p.Labels), deleted: p.DeletionTimestamp}
	if o := metav1.GetControllerOfNoCopy(p); o != nil {
		yes := true
		k.owner = &metav1.OwnerReference{Kind: unique.Make(o.Kind).Value(), Name: o.Name, Controller: &yes}
	}
	for _, c := range t.Status.Conditions {
		k.ready = k.ready || c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	}
	for _, c := range t.Status.ContainerStatuses {
		if c.RestartCount > 0 || c.State.Waiting != nil || c.LastTerminationState.Terminated != nil {
			k.containers = append(k.containers, c)
		}
	}
	return k
}

func (k *keptPod) pod() *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: k.meta()}
	p.Labels, p.DeletionTimestamp = k.labels.set(), k.deleted
	if k.owner != nil {
		p.OwnerReferences = []metav1.OwnerReference{*k.owner}
	}
	status := corev1.ConditionFalse
	if k.ready {
		status = corev1.ConditionTrue
	}
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: status}}
	p.Status.ContainerStatuses = k.containers
	return p
}

// restartsSince counts, by the reason of the end before (OOMKilled, Error, …),
// how often the pod's containers have restarted since it was; nil: since it was
// made.
func (k *keptPod) restartsSince(was *keptPod) map[string]int64 {
	out := map[string]int64{}
	for i := range k.containers {
		c := &k.containers[i]
		n := int64(c.RestartCount)
		if was != nil {
			n -= was.restartsOf(c.Name)
		}
		if n <= 0 {
			continue
		}
		reason := ""
		if t := c.LastTerminationState.Terminated; t != nil {
			reason = t.Reason
		}
		out[reason] += n
	}
	return out
}

func (k *keptPod) restartsOf(container string) int64 {
	for i := range k.containers {
		if k.containers[i].Name == container {
			return int64(k.containers[i].RestartCount)
		}
	}
	return 0
}

type keptSlice struct {
	kept
	service string
	ready   []string // pods
}

func keepSlice(s *discoveryv1.EndpointSlice) *keptSlice {
	k := &keptSlice{kept: keep(&s.ObjectMeta), service: s.Labels[discoveryv1.LabelServiceName]}
	for _, e := range trimSlice(s).Endpoints {
		if e.Conditions.Ready == nil || *e.Conditions.Ready {
			k.ready = append(k.ready, e.TargetRef.Name)
		}
	}
	return k
}

func (k *keptSlice) slice() *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{ObjectMeta: k.meta()}
	for _, name := range k.ready {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: name}})
	}
	return s
}

type keptService struct {
	kept
	selector keptLabels
}

func keepService(s *corev1.Service) *keptService {
	return &keptService{kept: keep(&s.ObjectMeta), selector: keepLabels(s.Spec.Selector)}
}

func (k *keptService) service() *corev1.Service {
	return &corev1.Service{ObjectMeta: k.meta(), Spec: corev1.ServiceSpec{Selector: k.selector.set()}}
}

// selects says whether the Service has pods with these labels. One without a
// selector has none of its own.
func (k *keptService) selects(set keptLabels) bool {
	for _, want := range k.selector {
		if v, ok := set.Lookup(want.key.Value()); !ok || v != want.value.Value() {
			return false
		}
	}
	return len(k.selector) > 0
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

func keepRule(r *istionet.DestinationRule) *keptRule {
	k := &keptRule{kept: keep(&r.ObjectMeta), host: r.Spec.Host}
	for _, s := range r.Spec.Subsets {
		k.subsets = append(k.subsets, keptSubset{unique.Make(s.Name).Value(), keepLabels(s.Labels)})
	}
	return k
}

func (k *keptRule) rule() *istionet.DestinationRule {
	r := &istionet.DestinationRule{ObjectMeta: k.meta()}
	r.Spec.Host = k.host
	for _, s := range k.subsets {
		r.Spec.Subsets = append(r.Spec.Subsets, &apinet.Subset{Name: s.name, Labels: s.labels.set()})
	}
	return r
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
	case *istionet.DestinationRule:
		return keepRule(o), nil
	case *unstructured.Unstructured:
		trimVirtualService(o)
	case metav1.Object:
		o.SetManagedFields(nil)
	}
	return obj, nil
}

var _ labels.Labels = keptLabels(nil)

package remediate

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"
	"unique"

	"github.com/canary-guardian/guardian/remediate/decision"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The caches hold thousands of pods, Deployments, … of which guardian looks at
// little. As Kubernetes' own types they take a kilobyte each however little is
// in them, so they are kept as the types below. What is read live is made into
// them too: a decision looks the same, whatever it is made from.

// slim is what every object in a cache has. It is all that client-go asks for.
type slim struct {
	namespace unique.Handle[string]
	name      string
	version   string // resourceVersion
}

func keep(m *metav1.ObjectMeta) slim {
	return slim{namespace: unique.Make(m.Namespace), name: m.Name, version: m.ResourceVersion}
}

// GetObjectMeta is for client-go: key and resource version.
func (k *slim) GetObjectMeta() metav1.Object {
	return &metav1.ObjectMeta{Namespace: k.namespace.Value(), Name: k.name, ResourceVersion: k.version}
}

// slimLabels is a set of labels, sorted by key. Objects share what is equal.
type slimLabels []slimLabel

type slimLabel struct{ key, value unique.Handle[string] }

func slimLabelsOf(set map[string]string) slimLabels {
	if len(set) == 0 {
		return nil
	}
	out := make(slimLabels, 0, len(set))
	for k, v := range set {
		out = append(out, slimLabel{unique.Make(k), unique.Make(v)})
	}
	slices.SortFunc(out, func(a, b slimLabel) int { return strings.Compare(a.key.Value(), b.key.Value()) })
	return out
}

// include says whether all of want are among the labels.
func (l slimLabels) include(want slimLabels) bool {
	for _, w := range want {
		if !slices.Contains(l, w) {
			return false
		}
	}
	return true
}

// get is the value of a label; empty: there is none.
func (l slimLabels) get(key string) string {
	for _, have := range l {
		if have.key.Value() == key {
			return have.value.Value()
		}
	}
	return ""
}

func (l slimLabels) set() map[string]string {
	out := make(map[string]string, len(l))
	for _, have := range l {
		out[have.key.Value()] = have.value.Value()
	}
	return out
}

// pairs are the index values of labels; a pod template's hash is nobody's
// selector.
func (l slimLabels) pairs() []string {
	out := make([]string, 0, len(l))
	for _, have := range l {
		switch key := have.key.Value(); key {
		case appsv1.DefaultDeploymentUniqueLabelKey, labelRolloutHash, appsv1.ControllerRevisionHashLabelKey:
		default:
			out = append(out, labelPair(key, have.value.Value()))
		}
	}
	return out
}

func labelPair(key, value string) string { return key + "=" + value }

// selectorPair is the label pair by which workloads of a selector are looked
// up: its first, and so one that each of them has. Empty: it selects nothing.
func selectorPair(selector slimLabels) string {
	if len(selector) == 0 {
		return ""
	}
	return labelPair(selector[0].key.Value(), selector[0].value.Value())
}

type slimDeployment struct {
	slim
	template             slimLabels
	build                string
	made                 time.Time
	replicas             int32 // wanted; negative: not said
	generation           int64
	observed             int64
	have, updated, avail int32
}

func slimDeploymentOf(d *appsv1.Deployment, parts BuildParts) *slimDeployment {
	k := &slimDeployment{slim: keep(&d.ObjectMeta), template: slimLabelsOf(d.Spec.Template.Labels), build: parts.hash(&d.Spec.Template), replicas: -1,
		made: d.CreationTimestamp.Time, generation: d.Generation, observed: d.Status.ObservedGeneration,
		have: d.Status.Replicas, updated: d.Status.UpdatedReplicas, avail: d.Status.AvailableReplicas}
	if d.Spec.Replicas != nil {
		k.replicas = *d.Spec.Replicas
	}
	return k
}

// revisionRef names what a pod was made from: a ReplicaSet, or a
// ControllerRevision of a StatefulSet, a DaemonSet or whatever else keeps them.
type revisionRef struct{ kind, name string }

const (
	kindReplicaSet         = "ReplicaSet"
	kindControllerRevision = "ControllerRevision"
)

// slimRevision is a ReplicaSet or a ControllerRevision: a pod template that has
// been rolled out, or is about to be.
type slimRevision struct {
	slim
	kind    string
	labels  slimLabels // those of the template, and its hash
	owner   string     // kind/name of its controller; of itself if it has none
	build   string
	made    time.Time
	number  int64 // the higher, the newer; one that is rolled out again gets a new number
	lasting bool  // the name stands for this template and no other
}

func (k *slimRevision) ref() revisionRef { return revisionRef{k.kind, k.name} }

const kindDeployment = "Deployment/"

func (k *slimRevision) ofDeployment() bool { return strings.HasPrefix(k.owner, kindDeployment) }

// newer says whether a revision of the same owner came later.
func (k *slimRevision) newer(than *slimRevision) bool {
	if k.number != than.number {
		return k.number > than.number
	}
	return k.made.After(than.made)
}

// Names that Argo Rollouts gives to what a Deployment has as well.
const (
	labelRolloutHash          = "rollouts-pod-template-hash"
	annotationRolloutRevision = "rollout.argoproj.io/revision"
	annotationRevision        = "deployment.kubernetes.io/revision"
)

func slimReplicaSetOf(r *appsv1.ReplicaSet, parts BuildParts) *slimRevision {
	k := slimRevisionOf(kindReplicaSet, &r.ObjectMeta)
	k.build = parts.hash(&r.Spec.Template)
	for _, key := range []string{annotationRevision, annotationRolloutRevision} {
		if n, err := strconv.ParseInt(r.Annotations[key], 10, 64); err == nil {
			k.number = n
		}
	}
	for _, key := range []string{appsv1.DefaultDeploymentUniqueLabelKey, labelRolloutHash} {
		hash := r.Labels[key]
		k.lasting = k.lasting || hash != "" && strings.HasSuffix(r.Name, "-"+hash)
	}
	return k
}

// slimControllerRevisionOf reads the template that a StatefulSet, a DaemonSet and
// others after their example keep. What else it may be is a build as it stands.
func slimControllerRevisionOf(r *appsv1.ControllerRevision, parts BuildParts) *slimRevision {
	k := slimRevisionOf(kindControllerRevision, &r.ObjectMeta)
	k.number, k.lasting = r.Revision, true
	var data struct {
		Spec struct {
			Template *corev1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(r.Data.Raw, &data); err != nil || data.Spec.Template == nil {
		k.build = decision.BuildOf(r.Data.Raw)
		return k
	}
	k.build = parts.hash(data.Spec.Template)
	return k
}

func slimRevisionOf(kind string, m *metav1.ObjectMeta) *slimRevision {
	k := &slimRevision{slim: keep(m), kind: kind, labels: slimLabelsOf(m.Labels), owner: kind + "/" + m.Name, made: m.CreationTimestamp.Time}
	if o := metav1.GetControllerOfNoCopy(m); o != nil {
		k.owner = unique.Make(o.Kind + "/" + o.Name).Value()
	}
	return k
}

type slimPod struct {
	slim
	uid        string
	labels     slimLabels
	owner      podOwner
	born       int64 // when it was made, in seconds
	readyFrom  int64 // when it last became ready
	deleted    bool  // or is being deleted
	ready      bool  // and not being deleted
	containers []slimContainer
}

// podOwner controls a pod; empty: nothing does.
type podOwner struct{ kind, name string }

const sidecar = "istio-proxy"

func slimPodOf(p *corev1.Pod) *slimPod {
	k := &slimPod{slim: keep(&p.ObjectMeta), uid: string(p.UID), labels: slimLabelsOf(p.Labels), deleted: p.DeletionTimestamp != nil}
	if o := metav1.GetControllerOfNoCopy(p); o != nil {
		k.owner = podOwner{unique.Make(o.Kind).Value(), unique.Make(o.Name).Value()}
	}
	k.born = unixOf(p.CreationTimestamp)
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue && !k.deleted {
			k.ready, k.readyFrom = true, unixOf(c.LastTransitionTime)
		}
	}
	for _, group := range [][]corev1.ContainerStatus{p.Status.ContainerStatuses, p.Status.InitContainerStatuses} {
		for i := range group {
			if c := slimContainerOf(&group[i]); c.name != sidecar && c.matters() {
				k.containers = append(k.containers, c)
			}
		}
	}
	return k
}

// runsAs says that a pod is still what it was, but for restarts and words.
func (k *slimPod) runsAs(now *slimPod) bool {
	return k.uid == now.uid && k.owner == now.owner && k.ready == now.ready && k.deleted == now.deleted && slices.Equal(k.labels, now.labels)
}

func (k *slimPod) made() time.Time { return seconds(k.born) }

func (k *slimPod) readySince() time.Time { return seconds(k.readyFrom) }

// unixOf is a time in seconds; 0: it is not said. seconds is the way back.
func unixOf(t metav1.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

func seconds(s int64) time.Time {
	if s == 0 {
		return time.Time{}
	}
	return time.Unix(s, 0).UTC()
}

// unmanaged says that nothing would replace the pod by another of its kind: it
// was run by hand, or is a Job's.
func (k *slimPod) unmanaged() bool { return k.owner.kind == "" || k.owner.kind == "Job" }

// revision is what the pod was made from; empty: that cannot be told. A
// StatefulSet writes the revision's name on its pods, a DaemonSet what follows
// its own name.
func (k *slimPod) revision() revisionRef {
	if k.owner.kind == kindReplicaSet {
		return revisionRef{kindReplicaSet, k.owner.name}
	}
	hash := k.labels.get(appsv1.ControllerRevisionHashLabelKey)
	switch {
	case hash == "" || k.unmanaged():
		return revisionRef{}
	case strings.HasPrefix(hash, k.owner.name+"-"):
		return revisionRef{kindControllerRevision, hash}
	}
	return revisionRef{kindControllerRevision, k.owner.name + "-" + hash}
}

// workload is the name of what runs the pod, where that is no Deployment; empty:
// it is one, or nothing is known.
func (k *slimPod) workload() string {
	switch hash := k.labels.get(labelRolloutHash); {
	case k.unmanaged():
		return ""
	case k.owner.kind != kindReplicaSet:
		return k.owner.name
	case hash != "":
		return strings.TrimSuffix(k.owner.name, "-"+hash)
	}
	return ""
}

// slimContainer is a container that has restarted or waits.
type slimContainer struct {
	name     string
	restarts int32
	ended    string // reason of the last end; empty: none, or not said
	waits    string // reason of the present wait; empty: it does not wait
}

func slimContainerOf(c *corev1.ContainerStatus) slimContainer {
	k := slimContainer{name: unique.Make(c.Name).Value(), restarts: c.RestartCount}
	if w := c.State.Waiting; w != nil {
		k.waits = unique.Make(w.Reason).Value()
	}
	if t := c.LastTerminationState.Terminated; t != nil {
		k.ended = unique.Make(t.Reason).Value()
	}
	return k
}

// matters says that a container has restarted or waits.
func (c slimContainer) matters() bool { return c.restarts > 0 || c.waits != "" }

// restartsSince counts, by the reason of the end before (OOMKilled, Error, …),
// how often the pod's containers have restarted since it was; nil: since it was
// made.
func (k *slimPod) restartsSince(was *slimPod) map[string]int64 {
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

func (k *slimPod) restartsOf(container string) int64 {
	for _, c := range k.containers {
		if c.name == container {
			return int64(c.restarts)
		}
	}
	return 0
}

type slimSlice struct {
	slim
	service string
	ready   []string // pods
}

// slimSliceOf takes an endpoint without a readiness for ready, as the API defines
// it.
func slimSliceOf(s *discoveryv1.EndpointSlice) *slimSlice {
	k := &slimSlice{slim: keep(&s.ObjectMeta), service: s.Labels[discoveryv1.LabelServiceName]}
	for _, e := range s.Endpoints {
		if e.TargetRef != nil && e.TargetRef.Kind == "Pod" && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
			k.ready = append(k.ready, e.TargetRef.Name)
		}
	}
	return k
}

type slimService struct {
	slim
	selector slimLabels
}

func slimServiceOf(s *corev1.Service) *slimService {
	return &slimService{slim: keep(&s.ObjectMeta), selector: slimLabelsOf(s.Spec.Selector)}
}

// selects says whether the Service has pods with these labels. One without a
// selector has none of its own.
func (k *slimService) selects(set slimLabels) bool {
	return len(k.selector) > 0 && set.include(k.selector)
}

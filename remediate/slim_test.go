package remediate

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	apinet "istio.io/api/networking/v1"
	istionet "istio.io/client-go/pkg/apis/networking/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/cache"
)

func TestOfAnObjectIsKeptWhatADecisionIsMadeFrom(t *testing.T) {
	three, yes, no, now := int32(3), true, false, metav1.NewTime(time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC))
	orders := map[string]string{"app": "orders", "version": "v2"}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: orders},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "orders:2"}}}}
	meta := metav1.ObjectMeta{Namespace: "shop", Name: "orders", ResourceVersion: "17", UID: "u", Labels: map[string]string{"app": "orders", "pod-template-hash": "x"}}
	head, set := keep(&meta), slimLabelsOf(meta.Labels)

	t.Run("pods", func(t *testing.T) {
		for name, c := range map[string]struct {
			edit func(*corev1.Pod)
			want slimPod
		}{
			"ready":     {func(p *corev1.Pod) {}, slimPod{owner: podOwner{"ReplicaSet", "orders-x"}, ready: true}},
			"not ready": {func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }, slimPod{owner: podOwner{"ReplicaSet", "orders-x"}}},
			"unknown":   {func(p *corev1.Pod) { p.Status.Conditions = nil }, slimPod{owner: podOwner{"ReplicaSet", "orders-x"}}},
			"deleted":   {func(p *corev1.Pod) { p.DeletionTimestamp = &now }, slimPod{owner: podOwner{"ReplicaSet", "orders-x"}, deleted: true}},
			"orphan":    {func(p *corev1.Pod) { p.OwnerReferences = nil }, slimPod{ready: true}},
			"of others": {func(p *corev1.Pod) { p.OwnerReferences[1].Kind = "StatefulSet" }, slimPod{owner: podOwner{"StatefulSet", "orders-x"}, ready: true}},
			"restarted": {func(p *corev1.Pod) {
				p.Status.ContainerStatuses = []corev1.ContainerStatus{
					{Name: "app", RestartCount: 3, LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "OOMKilled"}}},
					{Name: "other", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff"}}},
					{Name: sidecar, RestartCount: 9}, {Name: "fine"}}
			}, slimPod{owner: podOwner{"ReplicaSet", "orders-x"}, ready: true, containers: []slimContainer{{name: "app", restarts: 3, ended: "OOMKilled"}, {name: "other", waits: "ImagePullBackOff"}}}},
		} {
			t.Run(name, func(t *testing.T) {
				p := &corev1.Pod{ObjectMeta: meta, Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}}
				p.OwnerReferences = []metav1.OwnerReference{{Kind: "Foo", Name: "foo"}, {Kind: "ReplicaSet", Name: "orders-x", Controller: &yes}}
				c.edit(p)
				c.want.slim, c.want.uid, c.want.labels = head, "u", set
				if got := slimPodOf(p); !reflect.DeepEqual(*got, c.want) {
					t.Errorf("kept %+v\nwant %+v", *got, c.want)
				}
			})
		}
	})
	t.Run("Deployments", func(t *testing.T) {
		for want, replicas := range map[int32]*int32{-1: nil, 0: new(int32), 3: &three} {
			d := &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Replicas: replicas, Template: template},
				Status: appsv1.DeploymentStatus{ObservedGeneration: 4, Replicas: 3, UpdatedReplicas: 2, AvailableReplicas: 1}}
			d.Generation = 5
			want := slimDeployment{slim: head, template: slimLabelsOf(orders), build: hashOf(template), replicas: want, generation: 5, observed: 4, have: 3, updated: 2, avail: 1}
			if got := slimDeploymentOf(d, BuildParts{}); !reflect.DeepEqual(*got, want) {
				t.Errorf("kept %+v\nwant %+v", *got, want)
			}
		}
	})
	t.Run("ReplicaSets", func(t *testing.T) {
		r := &appsv1.ReplicaSet{ObjectMeta: meta, Spec: appsv1.ReplicaSetSpec{Template: template}}
		r.CreationTimestamp = now
		if got, want := *slimReplicaSetOf(r, BuildParts{}), (slimRevision{slim: head, kind: "ReplicaSet", owner: "ReplicaSet/orders", labels: set, build: hashOf(template), made: now.Time}); !reflect.DeepEqual(got, want) {
			t.Errorf("kept %+v\nwant %+v", got, want)
		}
	})
	t.Run("EndpointSlices", func(t *testing.T) {
		end := func(name, kind string, ready *bool) discoveryv1.Endpoint {
			return discoveryv1.Endpoint{TargetRef: &corev1.ObjectReference{Kind: kind, Name: name}, Conditions: discoveryv1.EndpointConditions{Ready: ready}}
		}
		s := &discoveryv1.EndpointSlice{ObjectMeta: meta, Endpoints: []discoveryv1.Endpoint{end("a", "Pod", &yes), end("b", "Pod", nil), end("c", "Pod", &no), end("d", "Node", &yes), {}}}
		if got := slimSliceOf(s).ready; !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("ready %v", got)
		}
	})
	t.Run("Services and DestinationRules", func(t *testing.T) {
		s := &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "orders", "tier": "web"}}}
		if got := slimServiceOf(s); !maps.Equal(got.selector.set(), s.Spec.Selector) || got.name != s.Name {
			t.Errorf("kept %+v", got)
		}
		r := &istionet.DestinationRule{ObjectMeta: meta, Spec: apinet.DestinationRule{Host: "orders", Subsets: []*apinet.Subset{
			{Name: "v1", Labels: map[string]string{"version": "v1"}}, {Name: "all"}}}}
		got := slimRuleOf(manifestOf(t, r))
		v1, ok := got.subset("v1")
		if got.host != "orders" || !ok || !maps.Equal(v1.set(), r.Spec.Subsets[0].Labels) {
			t.Errorf("kept %+v", got)
		}
		if all, ok := got.subset("all"); !ok || len(all) > 0 {
			t.Errorf("subset all: %v, %v", all, ok)
		}
		if _, ok := got.subset("v3"); ok {
			t.Error("there is a subset v3")
		}
	})
}

// manifestOf is a DestinationRule as the API server answers it.
func manifestOf(t testing.TB, r *istionet.DestinationRule) *unstructured.Unstructured {
	t.Helper()
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{}
	if err := json.Unmarshal(text, &u.Object); err != nil {
		t.Fatal(err)
	}
	u.SetAPIVersion(IstioGroup + "/v1")
	u.SetKind("DestinationRule")
	return u
}

// asWatched is an object of the type that it comes from a watch as.
func asWatched(t testing.TB, o any) any {
	t.Helper()
	if r, ok := o.(*istionet.DestinationRule); ok {
		return manifestOf(t, r)
	}
	return o
}

// cachesOf are informers that hold these objects, and watch nothing.
func cachesOf(t *testing.T, objects ...any) *informers {
	t.Helper()
	store := func(indexers cache.Indexers) cache.Indexer {
		return cache.NewIndexer(cache.DeletionHandlingMetaNamespaceKeyFunc, indexers)
	}
	i := &informers{namespace: "shop", domain: virtualservice.DefaultDomain}
	i.reader = &cacheReader{namespace: "shop", services: store(selectorIndexers()), rules: store(hostIndexers("shop", virtualservice.DefaultDomain)), podIndex: store(podIndexers()),
		replicas: store(revisionIndexers()), revisionIx: store(revisionIndexers())}
	for _, o := range objects {
		k, err := BuildParts{}.trim(asWatched(t, o))
		if err != nil {
			t.Fatal(err)
		}
		into := i.reader.podIndex
		switch k.(type) {
		case *slimService:
			into = i.reader.services
		case *slimRule:
			into = i.reader.rules
		}
		if err := into.Add(k); err != nil {
			t.Fatal(err)
		}
	}
	return i
}

func TestAChangeConcernsTheGuardsWhoseServiceSelectsIt(t *testing.T) {
	named := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "shop", Name: name} }
	service := func(name string, selector map[string]string) *corev1.Service {
		return &corev1.Service{ObjectMeta: named(name), Spec: corev1.ServiceSpec{Selector: selector}}
	}
	rule := func(name, host string) *istionet.DestinationRule {
		return &istionet.DestinationRule{ObjectMeta: named(name), Spec: apinet.DestinationRule{Host: host, Subsets: []*apinet.Subset{
			{Name: "v1", Labels: map[string]string{"version": "v1"}}, {Name: "v2", Labels: map[string]string{"version": "v2"}}}}}
	}
	pod := func(set map[string]string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "p", Labels: set}}
	}
	i := cachesOf(t,
		service("orders", map[string]string{"app": "orders"}), rule("orders", "orders"),
		service("web", map[string]string{"app": "web", "tier": "front"}), rule("web-rule", "web.shop.svc.cluster.local"),
		service("stable", map[string]string{"app": "pay", "version": "v1"}), service("canary", map[string]string{"app": "pay", "version": "v2"}),
		service("headless", nil), rule("abroad", "orders.other.svc.cluster.local"), rule("anywhere", "*.example.com"),
	)
	subsets := func(name, rule string) decision.Guard {
		return decision.Guard{Name: name, Namespace: "shop", DestinationRule: rule, VirtualServices: []string{name}, Stable: virtualservice.Ref{Subset: "v1"}, Canary: virtualservice.Ref{Subset: "v2"}}
	}
	i.setGuards([]decision.Guard{
		subsets("orders", "orders"), subsets("orders-too", "orders"), subsets("web", "web-rule"), subsets("abroad", "abroad"), subsets("anywhere", "anywhere"),
		{Name: "pay", Namespace: "shop", DestinationRule: "orders", Stable: virtualservice.Ref{Host: "stable"}, Canary: virtualservice.Ref{Host: "canary.shop.svc.cluster.local"}},
	})
	for name, c := range map[string]struct {
		object any
		want   []string
	}{
		"a pod of a Service of two guards":          {pod(map[string]string{"app": "orders", "version": "v2", "pod-template-hash": "x"}), []string{"orders", "orders-too"}},
		"a pod with but one of two labels":          {pod(map[string]string{"app": "web"}), nil},
		"a pod with both labels":                    {pod(map[string]string{"app": "web", "tier": "front"}), []string{"web"}},
		"a pod of a canary with a host of its own":  {pod(map[string]string{"app": "pay", "version": "v2"}), []string{"pay"}},
		"a pod of nobody":                           {pod(map[string]string{"app": "else"}), nil},
		"a pod without labels":                      {pod(nil), nil},
		"a Deployment, by the labels of its pods":   {&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}}, Spec: appsv1.DeploymentSpec{Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "orders"}}}}}, []string{"orders", "orders-too"}},
		"a ReplicaSet":                              {&appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "orders", "pod-template-hash": "x"}}}, []string{"orders", "orders-too"}},
		"an EndpointSlice":                          {&discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{discoveryv1.LabelServiceName: "web"}}}, []string{"web"}},
		"a Service":                                 {service("stable", nil), []string{"pay"}},
		"a Service of nobody":                       {service("headless", nil), nil},
		"a DestinationRule":                         {rule("orders", "elsewhere"), []string{"orders", "orders-too"}},
		"a record":                                  {&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: records.Name("pay"), Labels: map[string]string{records.LabelGuard: "pay"}}}, []string{"pay"}},
		"a ConfigMap that only says it is a record": {&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x", Labels: map[string]string{records.LabelGuard: "pay"}}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			k, err := BuildParts{}.trim(asWatched(t, c.object))
			if err != nil {
				t.Fatal(err)
			}
			if got := slices.Sorted(slices.Values(i.of(k))); !slices.Equal(got, c.want) {
				t.Errorf("concerns %v, want %v", got, c.want)
			}
		})
	}
}

func TestARestartCountsForTheSubsetItHappensIn(t *testing.T) {
	named := metav1.ObjectMeta{Namespace: "shop", Name: "orders"}
	i := cachesOf(t, &corev1.Service{ObjectMeta: named, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "orders"}}},
		&istionet.DestinationRule{ObjectMeta: named, Spec: apinet.DestinationRule{Host: "orders", Subsets: []*apinet.Subset{
			{Name: "v1", Labels: map[string]string{"version": "v1"}}, {Name: "v2", Labels: map[string]string{"version": "v2"}}}}})
	i.setGuards([]decision.Guard{{Name: "orders", Namespace: "shop", DestinationRule: "orders", Stable: virtualservice.Ref{Subset: "v1"}, Canary: virtualservice.Ref{Subset: "v2"}}})
	got := map[string]int64{}
	i.restarted = func(guard string, ref virtualservice.Ref, byReason map[string]int64) {
		for reason, n := range byReason {
			got[guard+" "+ref.String()+" "+reason] += n
		}
	}
	p := slimPodOf(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "orders", "version": "v2"}}})
	i.countRestarts(p, map[string]int64{"OOMKilled": 2})
	i.countRestarts(p, map[string]int64{})
	if want := map[string]int64{"orders v2 OOMKilled": 2}; !maps.Equal(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
}

func TestAVirtualServiceIsKeptWithoutItsCopies(t *testing.T) {
	object := func(text string) *unstructured.Unstructured {
		u := &unstructured.Unstructured{}
		if err := json.Unmarshal([]byte(text), &u.Object); err != nil {
			t.Fatal(err)
		}
		return u
	}
	u := object(`{"metadata":{"name":"orders","annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{\"a\":1}","team":"shop"},
		"managedFields":[{"manager":"kubectl","fieldsV1":{"f:spec":{}}},{"manager":"guardian","operation":"Update","fieldsV1":{"f:spec":{}}},{"manager":"guardian-promotion"}]},"spec":{"x":[1]}}`)
	want := object(`{"metadata":{"name":"orders","annotations":{"kubectl.kubernetes.io/last-applied-configuration":"","team":"shop"},"managedFields":[{"manager":"guardian"}]},"spec":{"x":[1]}}`)
	for range 2 { // client-go may hand it over twice
		trimVirtualService(u)
		if !reflect.DeepEqual(u, want) || !owned(u) {
			t.Errorf("kept %v, want %v", u, want)
		}
	}
	u = object(`{"metadata":{"name":"orders","managedFields":[{"manager":"kubectl"},{"manager":"guardian-promotion"}]}}`)
	if trimVirtualService(u); owned(u) || u.GetAnnotations() != nil || len(u.GetManagedFields()) > 0 {
		t.Errorf("kept %v", u)
	}
}

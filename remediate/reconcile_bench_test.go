package remediate

import (
	"context"
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

	corelisters "k8s.io/client-go/listers/core/v1"
)

// memoryStore takes the record for written, and nothing else.
type memoryStore struct {
	store
	records, services cache.Indexer
	writes            int
}

func (m *memoryStore) writeRecord(_ context.Context, guard string, _ *corev1.ConfigMap, r decision.Record) (*corev1.ConfigMap, error) {
	m.writes++
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: records.Name(guard), Labels: map[string]string{records.LabelGuard: guard}}, Data: r.Data()}
	return cm, m.records.Add(cm)
}

func (m *memoryStore) patchVirtualService(_ context.Context, vs *unstructured.Unstructured, ops []virtualservice.Op, _ string) (*unstructured.Unstructured, error) {
	now, err := applyOps(vs, ops)
	if err != nil {
		return nil, err
	}
	return now, m.services.Add(now)
}

// lookRig is a guard whose canary has 30%, and what a look at it needs.
func lookRig(b *testing.B) (*reconciler, decision.Guard, *memoryStore) {
	newIndexer := func(indexers cache.Indexers) cache.Indexer {
		return cache.NewIndexer(cache.MetaNamespaceKeyFunc, indexers)
	}
	stored, services := newIndexer(recordIndexers(virtualservice.DefaultDomain)), newIndexer(nil)
	c := &cacheReader{
		namespace: "shop", records: corelisters.NewConfigMapLister(stored), recordIx: stored, vs: services,
		services: newIndexer(selectorIndexers()), rules: newIndexer(hostIndexers("shop", virtualservice.DefaultDomain)), replicas: newIndexer(revisionIndexers()),
		podIndex: newIndexer(podIndexers()), deployIdx: newIndexer(deploymentIndexers()), sliceIndex: newIndexer(sliceIndexers()),
	}
	meta := func(name string, set map[string]string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: set, ResourceVersion: "1"}
	}
	add := func(to cache.Indexer, object any) {
		k, err := BuildParts{}.trim(asWatched(b, object))
		if err == nil {
			err = to.Add(k)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	yes, one := true, int32(1)
	rule := &istionet.DestinationRule{ObjectMeta: meta("orders-service", nil), Spec: apinet.DestinationRule{Host: "orders-service"}}
	slice := &discoveryv1.EndpointSlice{ObjectMeta: meta("orders-service-x", map[string]string{discoveryv1.LabelServiceName: "orders-service"})}
	for _, v := range []string{"v1", "v2"} {
		template := template("orders:" + v)
		template.Labels = podLabels(v)
		rule.Spec.Subsets = append(rule.Spec.Subsets, &apinet.Subset{Name: v, Labels: map[string]string{"version": v}})
		add(c.deployIdx, &appsv1.Deployment{ObjectMeta: meta("orders-"+v, nil), Spec: appsv1.DeploymentSpec{Template: template},
			Status: appsv1.DeploymentStatus{Replicas: one, UpdatedReplicas: one, AvailableReplicas: one}})
		add(c.replicas, &appsv1.ReplicaSet{ObjectMeta: meta("orders-"+v+"-x", podLabels(v)), Spec: appsv1.ReplicaSetSpec{Template: template}})
		p := &corev1.Pod{ObjectMeta: meta("orders-"+v+"-x-y", podLabels(v)), Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}}
		p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "orders-" + v + "-x", Controller: &yes}}
		add(c.podIndex, p)
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: p.Name}})
	}
	add(c.sliceIndex, slice)
	add(c.services, &corev1.Service{ObjectMeta: meta("orders-service", nil), Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "orders"}}})
	add(c.rules, rule)
	vs := &unstructured.Unstructured{Object: manifest(30)}
	vs.SetNamespace("shop")
	add(services, vs)

	m := &memoryStore{records: stored, services: services}
	now := time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)
	r := &reconciler{cached: c, live: c, store: m, user: func() string { return guardianUser }, domain: virtualservice.DefaultDomain, now: func() time.Time { return now }, watch: newDwellTimes(), known: newTrafficCache(), past: records.NewHistories(),
		leads: func() bool { return true }, heartbeat: func(context.Context) (time.Time, error) { return now, nil },
		count: func(context.Context, snapshot) decision.Count { return decision.Count{} }, changed: func(context.Context, decision.Guard, snapshot, decision.Decision) {}}
	g := decision.Guard{Name: "orders-service", Namespace: "shop", VirtualServices: []string{"orders-service"}, DestinationRule: "orders-service",
		Stable: virtualservice.Ref{Subset: "v1"}, Canary: virtualservice.Ref{Subset: "v2"}, Rollback: decision.Rollback{Lock: decision.LockBuild, Window: 30 * time.Minute, MinReadyStable: 1, MatchRoutes: true, Mirrors: true}}
	return r, g, m
}

// BenchmarkALookAtAGuardWhereNothingHappens is what an idle guardian does for
// each of its guards about every 45 s.
func BenchmarkALookAtAGuardWhereNothingHappens(b *testing.B) {
	r, g, m := lookRig(b)
	look := func() {
		if _, err := r.reconcile(b.Context(), g, nil); err != nil {
			b.Fatal(err)
		}
	}
	for range 3 { // first sight, and what follows from it
		look()
	}
	m.writes = 0
	b.ReportAllocs()
	for b.Loop() {
		look()
	}
	if m.writes > 0 {
		b.Errorf("%d records written", m.writes)
	}
}

// BenchmarkALookInABurstAtWhatWasRolledBack is what follows, for each guard of a burst,
// from the alerts that come while it is being rolled back, and from the watches.
func BenchmarkALookInABurstAtWhatWasRolledBack(b *testing.B) {
	r, g, m := lookRig(b)
	r.manyRollbacks = func() bool { return true }
	var alerts []decision.Alert
	for _, signal := range decision.Signals[:4] {
		alerts = append(alerts, decision.Alert{Name: "Canary" + signal, Signal: signal, Action: decision.ActionRollback, Fingerprint: signal, StartsAt: r.now(), Summary: "the canary fails"})
	}
	look := func(alerts []decision.Alert) outcome {
		out, err := r.reconcile(b.Context(), g, alerts)
		if err != nil {
			b.Fatal(err)
		}
		return out
	}
	look(nil)
	if out := look(alerts[:1]); out.decision.Move != decision.MoveStable {
		b.Fatalf("decided %q: %s", out.decision.Reason, out.decision.Record.Status.Reason)
	}
	m.writes = 0
	b.ReportAllocs()
	for b.Loop() {
		if out := look(alerts); !out.later || !out.recorded {
			b.Fatalf("decided %q (%s), later %v, recorded %v, traffic %+v", out.decision.Reason, out.decision.Record.Status.Reason, out.later, out.recorded, out.snapshot.input.Traffic)
		}
	}
	if m.writes > 0 {
		b.Errorf("%d records written", m.writes)
	}
}

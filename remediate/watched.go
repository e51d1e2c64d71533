package remediate

import (
	"slices"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

func newInformers(o Options, touched func([]string), preempt func(string), restarted func(string, virtualservice.Ref, map[string]int64)) *informers {
	i := &informers{namespace: o.Namespace, domain: o.Domain, touched: touched, preempt: preempt, restarted: restarted, refilled: func() {}, log: o.Logger,
		parts: map[string]*cachePart{}, metrics: o.Metrics, grace: o.WatchGrace, demand: newDemand(o.IdleAfter)}
	i.istio = newIstioAPI(o.Dynamic, o.Namespace)
	add := func(resource string, kind runtime.Object, client any, lw *cache.ListWatch, indexers cache.Indexers) *feed {
		part := &cachePart{resource: resource, health: newWatchHealth(o.WatchGrace)}
		i.parts[resource] = part
		i.metrics.cacheFilled(resource, false)
		i.metrics.watchAlive(resource, true)
		return &feed{cachePart: part, kind: kind, trim: o.Builds.trim, changed: i.tell, index: cache.NewIndexer(cache.MetaNamespaceKeyFunc, indexers),
			lw: cache.ToListWatcherWithWatchListSemantics(part.health.follow(lw), client),
			failing: func(err error) {
				i.log.Warn("watch "+resource+": what changes is not seen, trying again", "namespace", o.Namespace, "err", err)
			}}
	}
	core, apps, mesh := o.Client.CoreV1(), o.Client.AppsV1(), &unstructured.Unstructured{}
	i.lists = newDeploymentLists(apps.Deployments(o.Namespace).List, o.Builds)
	maps := add(resourceRecords, &corev1.ConfigMap{}, o.Client, listWatch(core.ConfigMaps(o.Namespace), records.LabelGuard), recordIndexers(o.Domain))
	vs := add(resourceVirtualServices, mesh, o.Dynamic, i.istio.listWatch(resourceVirtualServices), destinationIndexers(o.Namespace, o.Domain))
	pods := add(resourcePods, &corev1.Pod{}, o.Client, listWatch(core.Pods(o.Namespace), ""), podIndexers())
	pods.changed = i.tellPod
	i.always = []*feed{maps, vs, pods}

	rules := add(resourceDestinationRules, mesh, o.Dynamic, i.istio.listWatch(resourceDestinationRules), hostIndexers(o.Namespace, o.Domain))
	services := add(resourceServices, &corev1.Service{}, o.Client, listWatch(core.Services(o.Namespace), ""), selectorIndexers())
	endpoints := add(resourceSlices, &discoveryv1.EndpointSlice{}, o.Client, listWatch(o.Client.DiscoveryV1().EndpointSlices(o.Namespace), ""), sliceIndexers())
	deployments := add(resourceDeployments, &appsv1.Deployment{}, o.Client, listWatch(apps.Deployments(o.Namespace), ""), deploymentIndexers())
	replicas := add(resourceReplicaSets, &appsv1.ReplicaSet{}, o.Client, listWatch(apps.ReplicaSets(o.Namespace), ""), revisionIndexers())
	revisions := add(resourceRevisions, &appsv1.ControllerRevision{}, o.Client, listWatch(apps.ControllerRevisions(o.Namespace), ""), revisionIndexers())
	i.onDemand = []*feed{rules, services, endpoints, deployments, replicas, revisions}

	i.reader = &cacheReader{
		lacks: i.lacks, unfilled: i.unfilled, namespace: o.Namespace, records: corelisters.NewConfigMapLister(maps.index), recordIx: maps.index, vs: vs.index,
		services: services.index, replicas: replicas.index, revisionIx: revisions.index, rules: rules.index,
		podIndex: pods.index, deployIdx: deployments.index, sliceIndex: endpoints.index,
	}
	maps.own, vs.own = instead(&i.reader.ownRecords), instead(&i.reader.ownServices)
	return i
}

func (i *informers) liveReader(o Options) *liveReader {
	return &liveReader{cache: i.reader, namespace: i.namespace, kube: o.Client, istio: i.istio, parts: o.Builds, lists: i.lists}
}

// tell has the guards looked at that a change may matter to.
func (i *informers) tell(was, is any, first bool) {
	gone := is == nil
	if gone {
		is, was = was, nil
	}
	guards := i.of(is)
	if cm, ok := is.(*corev1.ConfigMap); ok && len(guards) > 0 && asksRollback(cm) {
		i.preempt(guards[0])
	}
	if vs, ok := was.(*unstructured.Unstructured); ok {
		guards = append(guards, i.of(vs)...) // its lock, or the way to a canary, may have been lost with this very change
	}
	if rule, ok := was.(*slimRule); ok {
		guards = append(guards, i.of(rule)...) // it may have left the host of a guard that it blocked
	}
	if len(guards) == 0 {
		return
	}
	if !first {
		i.stirredBy(is)
	}
	if i.lookedAt != nil && !gone && !slices.ContainsFunc(guards, func(other string) bool { return other != guards[0] }) && i.lookedAt(guards[0], is) {
		return // of a VirtualService of several guards, each waits for what another has recorded
	}
	i.touched(guards)
}

// asksRollback says whether a person's rollback stands on a record.
func asksRollback(record *corev1.ConfigMap) bool {
	return record.Data[decision.KeyRequestAction] == string(decision.RequestRollback)
}

// tellPod also counts restarts. Those that a pod had before this replica saw it
// for the first time are history, unless the pod itself is new.
func (i *informers) tellPod(was, is any, first bool) {
	before, _ := was.(*slimPod)
	p, _ := is.(*slimPod)
	switch {
	case p == nil:
		p, before = before, nil
	case before != nil && before.uid != p.uid || first:
	default:
		i.countRestarts(p, p.restartsSince(before))
	}
	if !first && (before == nil || !before.runsAs(p)) {
		i.stirredByPod(p)
	}
	i.touched(i.of(p))
}

func (i *informers) countRestarts(p *slimPod, byReason map[string]int64) {
	if len(byReason) == 0 {
		return
	}
	for _, g := range i.guardsOf(p) {
		for _, ref := range []virtualservice.Ref{g.Stable, g.Canary} {
			if want, ok := i.selectorOf(g, ref); ok && want.matches(p.labels) {
				i.restarted(g.Name, ref, byReason)
			}
		}
	}
}

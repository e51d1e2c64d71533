package remediate

import (
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// informers watch one namespace and tell which guards a change may matter to.
type informers struct {
	namespace string
	domain    string
	touched   func(guards []string)
	preempt   func(guard string) // a person asks for its rollback
	restarted func(guard string, ref virtualservice.Ref, byReason map[string]int64)
	refilled  func()                              // which caches are believed has changed
	lookedAt  func(guard string, object any) bool // in this very version; nil: never
	log       *slog.Logger

	istio    *istioAPI
	always   []*feed // what is watched all the time
	onDemand []*feed // and what only while something is going on
	demand   demand
	running  sync.WaitGroup
	reader   *cacheReader
	lists    *deploymentLists
	synced   atomic.Bool // every cache is filled
	dead     atomic.Bool // one is not kept up to date
	stale    atomic.Bool // the same, while others are
	parts    map[string]*cachePart
	metrics  *Metrics
	grace    time.Duration // how long a watch may be away

	mu     sync.RWMutex
	byVS   map[string][]string // VirtualService → guards
	byDR   map[string][]string // DestinationRule → guards with a subset
	byHost map[string][]string // Service → guards with a host of their own
	guards map[string]decision.Guard
}

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
	if i.lookedAt != nil && !gone {
		guards = slices.DeleteFunc(slices.Clone(guards), func(guard string) bool { return i.lookedAt(guard, is) })
	}
	i.touched(guards)
}

// asksRollback says whether a person's rollback stands on a record.
func asksRollback(record *corev1.ConfigMap) bool {
	return record.Data[decision.KeyRequestAction] == string(decision.RequestRollback)
}

func sameVersion(a, b any) bool {
	x, err := meta.Accessor(a)
	y, err2 := meta.Accessor(b)
	return err == nil && err2 == nil && x.GetResourceVersion() == y.GetResourceVersion()
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

// setGuards replaces what is looked up by name.
func (i *informers) setGuards(guards []decision.Guard) {
	byVS, byDR, byHost, byName := map[string][]string{}, map[string][]string{}, map[string][]string{}, map[string]decision.Guard{}
	for _, g := range guards {
		byName[g.Name] = g
		for _, vs := range g.VirtualServices {
			byVS[vs] = append(byVS[vs], g.Name)
		}
		if g.Stable.Host == "" || g.Canary.Host == "" {
			byDR[g.DestinationRule] = append(byDR[g.DestinationRule], g.Name)
		}
		for _, ref := range []virtualservice.Ref{g.Stable, g.Canary} {
			if name, ok := i.serviceName(ref.Host); ok {
				byHost[name] = append(byHost[name], g.Name)
			}
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.byVS, i.byDR, i.byHost, i.guards = byVS, byDR, byHost, byName
}

// serviceName is the Service of this namespace that a host stands for.
func (i *informers) serviceName(host string) (string, bool) {
	return serviceIn(host, i.namespace, i.domain)
}

// of finds the guards that an object in a cache may matter to. The order is
// any.
func (i *informers) of(obj any) []string {
	switch o := obj.(type) {
	case *slimPod:
		return i.ofWorkload(o.labels)
	case *slimDeployment:
		return i.ofWorkload(o.template)
	case *slimRevision:
		return i.ofWorkload(o.labels)
	case *slimSlice:
		return i.ofService(o.service)
	case *slimService:
		return i.ofService(o.name)
	case *slimRule:
		service, _ := i.serviceName(o.host)
		out := i.ofService(service) // Istio merges it with the guard's, if that is another
		i.mu.RLock()
		defer i.mu.RUnlock()
		return append(out, i.byDR[o.name]...)
	case *unstructured.Unstructured:
		var out []string
		for _, service := range destinationsOf(o, i.namespace, i.domain) { // it may lead to a canary whose guard does not have it
			out = append(out, i.ofService(service)...)
		}
		i.mu.RLock()
		defer i.mu.RUnlock()
		return append(out, i.ofVirtualService(o)...)
	case *corev1.ConfigMap:
		return i.ofRecord(o)
	}
	return nil
}

// ofVirtualService finds the guards that have a VirtualService, or whose lock
// stands on one that they do not have any more.
func (i *informers) ofVirtualService(vs *unstructured.Unstructured) []string {
	out := slices.Clip(i.byVS[vs.GetName()])
	for key := range vs.GetAnnotations() {
		if guard, ok := strings.CutPrefix(key, decision.AnnotationLock); ok && !slices.Contains(out, guard) {
			if _, ok := i.guards[guard]; ok {
				out = append(out, guard)
			}
		}
	}
	return out
}

func (i *informers) ofRecord(cm *corev1.ConfigMap) []string {
	name := cm.Labels[records.LabelGuard]
	i.mu.RLock()
	defer i.mu.RUnlock()
	if _, ok := i.guards[name]; ok && cm.Name == records.Name(name) {
		return []string{name}
	}
	return nil
}

// ofService finds the guards one of whose destinations is the Service: by its
// host, or through a DestinationRule.
func (i *informers) ofService(service string) []string {
	if service == "" {
		return nil
	}
	rules, err := i.reader.rules.ByIndex(indexService, service)
	if err != nil {
		return nil
	}
	i.mu.RLock()
	defer i.mu.RUnlock()
	out := slices.Clone(i.byHost[service])
	for _, r := range rules {
		if r, ok := r.(*slimRule); ok {
			out = append(out, i.byDR[r.name]...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// ofWorkload finds the guards that a pod, Deployment or revision may belong
// to: those whose Service selects its labels.
func (i *informers) ofWorkload(set slimLabels) []string {
	var out []string
	for _, pair := range set.pairs() {
		services, err := i.reader.services.ByIndex(indexPair, pair)
		if err != nil {
			return nil
		}
		for _, s := range services {
			if s, ok := s.(*slimService); ok && s.selects(set) {
				out = append(out, i.ofService(s.name)...)
			}
		}
	}
	return out
}

// guardsOf are the guards that a pod may belong to.
func (i *informers) guardsOf(p *slimPod) []decision.Guard {
	names := i.ofWorkload(p.labels)
	i.mu.RLock()
	defer i.mu.RUnlock()
	var out []decision.Guard
	for _, name := range names {
		if g, ok := i.guards[name]; ok {
			out = append(out, g)
		}
	}
	return out
}

func (i *informers) hostOf(g decision.Guard, ref virtualservice.Ref) string {
	if ref.Host != "" {
		return ref.Host
	}
	if r, ok := i.reader.merged(g.DestinationRule); ok {
		return r.host
	}
	return ""
}

// selectorOf is the selector of the workloads behind one destination.
func (i *informers) selectorOf(g decision.Guard, ref virtualservice.Ref) (workloadSelector, bool) {
	var none workloadSelector
	name, ok := i.serviceName(i.hostOf(g, ref))
	if !ok {
		return none, false
	}
	svc, ok := get[slimService](i.reader, i.reader.services, name)
	if !ok {
		return none, false
	}
	var subset slimLabels
	if ref.Host == "" {
		dr, ok := i.reader.merged(g.DestinationRule)
		if !ok {
			return none, false
		}
		if subset, ok = dr.subset(ref.Subset); !ok {
			return none, false
		}
	}
	return newWorkloadSelector(svc.selector, subset), true
}

// stop waits for the watches, whose context has ended.
func (i *informers) stop() {
	i.synced.Store(false)
	i.running.Wait()
}

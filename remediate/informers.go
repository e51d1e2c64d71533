package remediate

import (
	"context"
	"errors"
	"io"
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
	kubeinformers "k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// informers watch one namespace and tell which guards a change may matter to.
type informers struct {
	namespace string
	domain    string
	touched   func(guards []string)
	hurry     func(guard string) // a person asks for its rollback
	restarted func(guard string, ref virtualservice.Ref, byReason map[string]int64)
	refilled  func() // which caches are believed has changed
	log       *slog.Logger

	kube    kubeinformers.SharedInformerFactory
	istio   *istioAPI
	mesh    []cache.SharedIndexInformer // of Istio's objects
	running sync.WaitGroup              // those of mesh, and who waits for caches
	reader  *cacheReader
	synced  atomic.Bool // every cache is filled
	dead    atomic.Bool // one is not kept up to date
	stale   atomic.Bool // the same, while others are
	parts   map[string]*cachePart
	metrics *Metrics
	grace   time.Duration // how long a watch may be away

	mu     sync.RWMutex
	byVS   map[string][]string // VirtualService → guards
	byDR   map[string][]string // DestinationRule → guards with a subset
	byHost map[string][]string // Service → guards with a host of their own
	guards map[string]decision.Guard
}

func newInformers(o Options, touched func([]string), hurry func(string), restarted func(string, virtualservice.Ref, map[string]int64)) *informers {
	i := &informers{namespace: o.Namespace, domain: o.Domain, touched: touched, hurry: hurry, restarted: restarted, refilled: func() {}, log: o.Logger, parts: map[string]*cachePart{}, metrics: o.Metrics, grace: o.WatchGrace}
	i.kube = kubeinformers.NewSharedInformerFactoryWithOptions(o.Client, 0, kubeinformers.WithTransform(o.Builds.trim))
	i.istio = newIstioAPI(o.Dynamic, o.Namespace)
	health := func(resource string) *watchHealth {
		h := newWatchHealth(o.WatchGrace)
		i.parts[resource] = &cachePart{health: h}
		i.metrics.cacheFilled(resource, false)
		i.metrics.watchAlive(resource, true)
		return h
	}
	own := func(resource string, kind runtime.Object, lw *cache.ListWatch) cache.SharedIndexInformer {
		return i.kube.InformerFor(kind, func(client kubernetes.Interface, resync time.Duration) cache.SharedIndexInformer {
			return cache.NewSharedIndexInformer(cache.ToListWatcherWithWatchListSemantics(health(resource).follow(lw), client), kind, resync,
				cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
		})
	}

	core, apps := o.Client.CoreV1(), o.Client.AppsV1()
	records := own(resourceRecords, &corev1.ConfigMap{}, listWatch(core.ConfigMaps(o.Namespace), records.LabelGuard))
	services := own(resourceServices, &corev1.Service{}, listWatch(core.Services(o.Namespace), ""))
	pods := own(resourcePods, &corev1.Pod{}, listWatch(core.Pods(o.Namespace), ""))
	deployments := own(resourceDeployments, &appsv1.Deployment{}, listWatch(apps.Deployments(o.Namespace), ""))
	replicas := own(resourceReplicaSets, &appsv1.ReplicaSet{}, listWatch(apps.ReplicaSets(o.Namespace), ""))
	revisions := own(resourceRevisions, &appsv1.ControllerRevision{}, listWatch(apps.ControllerRevisions(o.Namespace), ""))
	endpoints := own(resourceSlices, &discoveryv1.EndpointSlice{}, listWatch(o.Client.DiscoveryV1().EndpointSlices(o.Namespace), ""))
	rules := i.istio.informer(resourceDestinationRules, health(resourceDestinationRules), hostIndexers(o.Namespace, o.Domain))
	vs := i.istio.informer(resourceVirtualServices, health(resourceVirtualServices), destinationIndexers(o.Namespace, o.Domain))
	i.mesh = []cache.SharedIndexInformer{rules, vs}

	must := func(err error) {
		if err != nil { // only an informer that already runs refuses these
			panic(err)
		}
	}
	must(records.AddIndexers(recordIndexers()))
	must(pods.AddIndexers(podIndexers()))
	must(deployments.AddIndexers(deploymentIndexers()))
	must(replicas.AddIndexers(revisionIndexers()))
	must(revisions.AddIndexers(revisionIndexers()))
	must(endpoints.AddIndexers(sliceIndexers()))
	must(services.AddIndexers(selectorIndexers()))
	must(rules.SetTransform(o.Builds.trim))
	must(vs.SetTransform(o.Builds.trim))
	i.reader = &cacheReader{
		lacks: i.lacks, namespace: o.Namespace, records: corelisters.NewConfigMapLister(records.GetIndexer()), recordIx: records.GetIndexer(), vs: vs.GetIndexer(),
		services: services.GetIndexer(), replicas: replicas.GetIndexer(), revisionIx: revisions.GetIndexer(), rules: rules.GetIndexer(),
		podIndex: pods.GetIndexer(), deployIdx: deployments.GetIndexer(), sliceIndex: endpoints.GetIndexer(),
	}
	for what, inf := range map[string]cache.SharedIndexInformer{
		resourceRecords: records, resourceServices: services, resourcePods: pods, resourceDeployments: deployments, resourceReplicaSets: replicas,
		resourceRevisions: revisions, resourceSlices: endpoints, resourceDestinationRules: rules, resourceVirtualServices: vs,
	} {
		part := i.parts[what]
		must(inf.SetWatchErrorHandlerWithContext(func(ctx context.Context, _ *cache.Reflector, err error) {
			if ctx.Err() == nil && !errors.Is(err, io.EOF) { // a watch that ends is begun anew
				part.failed(err)
				i.log.Warn("watch "+what+": what changes is not seen, trying again", "namespace", i.namespace, "err", err)
			}
		}))
		if what == resourcePods {
			part.hasSynced = i.handlePods(inf)
		} else {
			part.hasSynced = i.handle(inf)
		}
	}
	return i
}

func (i *informers) liveReader(o Options) *liveReader {
	return &liveReader{cache: i.reader, namespace: i.namespace, kube: o.Client, istio: i.istio, parts: o.Builds}
}

func (i *informers) handle(inf cache.SharedIndexInformer) cache.InformerSynced {
	tell := func(obj any) {
		if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = gone.Obj
		}
		guards := i.of(obj)
		if cm, ok := obj.(*corev1.ConfigMap); ok && len(guards) > 0 && asksRollback(cm) {
			i.hurry(guards[0])
		}
		if len(guards) > 0 {
			i.touched(guards)
		}
	}
	reg, err := inf.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: tell,
		UpdateFunc: func(old, now any) {
			if sameVersion(old, now) {
				return
			}
			tell(now)
			if vs, ok := old.(*unstructured.Unstructured); ok {
				tell(vs) // its lock, or the way to a canary, may have been lost with this very change
			}
		},
		DeleteFunc: tell,
	})
	if err != nil {
		panic(err) // only a stopped informer refuses a handler
	}
	return reg.HasSynced
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

// handlePods also counts restarts. Those that a pod had before this replica
// saw it for the first time are history, unless the pod itself is new.
func (i *informers) handlePods(pods cache.SharedIndexInformer) cache.InformerSynced {
	reg, err := pods.AddEventHandler(cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(obj any, initial bool) {
			if p, ok := obj.(*keptPod); ok {
				if !initial {
					i.countRestarts(p, p.restartsSince(nil))
				}
				i.touched(i.of(p))
			}
		},
		UpdateFunc: func(old, now any) {
			was, ok := old.(*keptPod)
			p, ok2 := now.(*keptPod)
			if !ok || !ok2 || was.version == p.version {
				return
			}
			if was.uid == p.uid {
				i.countRestarts(p, p.restartsSince(was))
			}
			i.touched(i.of(p))
		},
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			i.touched(i.of(obj))
		},
	})
	if err != nil {
		panic(err) // only a stopped informer refuses a handler
	}
	return reg.HasSynced
}

func (i *informers) countRestarts(p *keptPod, byReason map[string]int64) {
	if len(byReason) == 0 {
		return
	}
	for _, name := range i.ofWorkload(p.labels) {
		i.mu.RLock()
		g, ok := i.guards[name]
		i.mu.RUnlock()
		if !ok {
			continue
		}
		for _, ref := range []virtualservice.Ref{g.Stable, g.Canary} {
			if want, ok := i.selectorOf(g, ref); ok && want.matches(p.labels) {
				i.restarted(name, ref, byReason)
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

// serviceIn is the Service of a namespace that a host, written in it, stands
// for.
func serviceIn(host, namespace, domain string) (string, bool) {
	name, in, ok := virtualservice.ServiceOf(virtualservice.NormalizeHost(host, namespace, domain), domain)
	return name, ok && in == namespace
}

// of finds the guards that an object in a cache may matter to. The order is
// any.
func (i *informers) of(obj any) []string {
	switch o := obj.(type) {
	case *keptPod:
		return i.ofWorkload(o.labels)
	case *keptDeployment:
		return i.ofWorkload(o.template)
	case *keptRevision:
		return i.ofWorkload(o.labels)
	case *keptSlice:
		return i.ofService(o.service)
	case *keptService:
		return i.ofService(o.name)
	case *keptRule:
		i.mu.RLock()
		defer i.mu.RUnlock()
		return i.byDR[o.name]
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
		if r, ok := r.(*keptRule); ok {
			out = append(out, i.byDR[r.name]...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// ofWorkload finds the guards that a pod, Deployment or revision may belong
// to: those whose Service selects its labels.
func (i *informers) ofWorkload(set keptLabels) []string {
	var out []string
	for _, pair := range set.pairs() {
		services, err := i.reader.services.ByIndex(indexPair, pair)
		if err != nil {
			return nil
		}
		for _, s := range services {
			if s, ok := s.(*keptService); ok && s.selects(set) {
				out = append(out, i.ofService(s.name)...)
			}
		}
	}
	return out
}

func (i *informers) hostOf(g decision.Guard, ref virtualservice.Ref) string {
	if ref.Host != "" {
		return ref.Host
	}
	if r, ok := i.reader.rule(g.DestinationRule); ok {
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
	svc, ok := get[keptService](i.reader, i.reader.services, name)
	if !ok {
		return none, false
	}
	var subset keptLabels
	if ref.Host == "" {
		dr, ok := i.reader.rule(g.DestinationRule)
		if !ok {
			return none, false
		}
		if subset, ok = dr.subset(ref.Subset); !ok {
			return none, false
		}
	}
	return newWorkloadSelector(svc.selector, subset), true
}

// stop waits for the informers, whose context has ended.
func (i *informers) stop() {
	i.synced.Store(false)
	i.kube.Shutdown()
	i.running.Wait()
}

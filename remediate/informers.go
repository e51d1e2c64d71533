package remediate

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"

	istioinformers "istio.io/client-go/pkg/informers/externalversions"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/dynamic/dynamicinformer"
	kubeinformers "k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// informers watch one namespace and tell which guards a change may matter to.
type informers struct {
	namespace string
	domain    string
	touched   func(guards []string)
	restarted func(guard string, ref Ref, n int64)
	log       *slog.Logger

	kube    kubeinformers.SharedInformerFactory
	records kubeinformers.SharedInformerFactory
	istio   istioinformers.SharedInformerFactory
	dynamic dynamicinformer.DynamicSharedInformerFactory
	reader  *cacheReader
	synced  atomic.Bool
	waitFor []cache.InformerSynced

	mu     sync.RWMutex
	byVS   map[string][]string // VirtualService → guards
	byDR   map[string][]string
	guards map[string]Guard
}

func newInformers(o Options, touched func([]string), restarted func(string, Ref, int64)) *informers {
	i := &informers{namespace: o.Namespace, domain: o.Domain, touched: touched, restarted: restarted, log: o.Logger}
	i.kube = kubeinformers.NewSharedInformerFactoryWithOptions(o.Client, 0, kubeinformers.WithNamespace(o.Namespace), kubeinformers.WithTransform(trim))
	i.records = kubeinformers.NewSharedInformerFactoryWithOptions(o.Client, 0, kubeinformers.WithNamespace(o.Namespace),
		kubeinformers.WithTransform(trim),
		kubeinformers.WithTweakListOptions(func(l *metav1.ListOptions) { l.LabelSelector = LabelGuard }))
	i.istio = istioinformers.NewSharedInformerFactoryWithOptions(o.Istio, 0, istioinformers.WithNamespace(o.Namespace), istioinformers.WithTransform(trim))
	i.dynamic = dynamicinformer.NewFilteredDynamicSharedInformerFactory(o.Dynamic, 0, o.Namespace, nil)

	records := i.records.Core().V1().ConfigMaps()
	services := i.kube.Core().V1().Services()
	pods := i.kube.Core().V1().Pods().Informer()
	deployments := i.kube.Apps().V1().Deployments().Informer()
	replicas := i.kube.Apps().V1().ReplicaSets()
	endpoints := i.kube.Discovery().V1().EndpointSlices().Informer()
	rules := i.istio.Networking().V1().DestinationRules()
	vs := i.dynamic.ForResource(virtualServiceResource)

	must := func(err error) {
		if err != nil { // only an informer that already runs refuses these
			panic(err)
		}
	}
	must(pods.AddIndexers(pairIndexers()))
	must(deployments.AddIndexers(pairIndexers()))
	must(endpoints.AddIndexers(serviceIndexers()))
	must(vs.Informer().SetTransform(trim))
	i.reader = &cacheReader{
		namespace: o.Namespace, records: records.Lister(), services: services.Lister(), replicas: replicas.Lister(), rules: rules.Lister(),
		vs: vs.Lister(), podIndex: pods.GetIndexer(), deployIdx: deployments.GetIndexer(), sliceIndex: endpoints.GetIndexer(),
	}
	for what, inf := range map[string]cache.SharedIndexInformer{
		"configmaps": records.Informer(), "services": services.Informer(), "pods": pods, "deployments": deployments, "replicasets": replicas.Informer(),
		"endpointslices": endpoints, "destinationrules": rules.Informer(), "virtualservices": vs.Informer(),
	} {
		must(inf.SetWatchErrorHandlerWithContext(func(ctx context.Context, _ *cache.Reflector, err error) {
			if ctx.Err() == nil && !errors.Is(err, io.EOF) { // a watch that ends is begun anew
				i.log.Warn("watch "+what+": what changes is not seen, trying again", "namespace", i.namespace, "err", err)
			}
		}))
	}
	i.handle(records.Informer(), i.ofRecord)
	i.handle(vs.Informer(), func(o metav1.Object) []string { return i.lookup(i.byVSCopy, o.GetName()) })
	i.handle(rules.Informer(), func(o metav1.Object) []string { return i.lookup(i.byDRCopy, o.GetName()) })
	i.handle(services.Informer(), i.ofService)
	i.handle(endpoints, func(o metav1.Object) []string { return i.ofServiceName(o.GetLabels()[discoveryv1.LabelServiceName]) })
	i.handle(deployments, i.ofWorkload)
	i.handle(replicas.Informer(), i.ofWorkload)
	i.handlePods(pods)
	return i
}

func (i *informers) liveReader(o Options) *liveReader {
	return &liveReader{cache: i.reader, namespace: o.Namespace, kube: o.Client, istio: o.Istio, dynamic: o.Dynamic}
}

// trim keeps of an object what guardian looks at.
func trim(obj any) (any, error) {
	switch o := obj.(type) {
	case *appsv1.Deployment:
		return trimDeployment(o), nil
	case *appsv1.ReplicaSet:
		return trimReplicaSet(o), nil
	case *corev1.Pod:
		return trimPod(o), nil
	case *discoveryv1.EndpointSlice:
		return trimSlice(o), nil
	case *unstructured.Unstructured:
		trimVirtualService(o)
	case metav1.Object:
		o.SetManagedFields(nil)
	}
	return obj, nil
}

func (i *informers) handle(inf cache.SharedIndexInformer, of func(metav1.Object) []string) {
	tell := func(obj any) {
		if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = gone.Obj
		}
		if o, ok := obj.(metav1.Object); ok {
			if guards := of(o); len(guards) > 0 {
				i.touched(guards)
			}
		}
	}
	reg, err := inf.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: tell,
		UpdateFunc: func(old, now any) {
			if sameVersion(old, now) {
				return
			}
			tell(now)
		},
		DeleteFunc: tell,
	})
	if err != nil {
		panic(err) // only a stopped informer refuses a handler
	}
	i.waitFor = append(i.waitFor, reg.HasSynced)
}

func sameVersion(a, b any) bool {
	x, ok := a.(metav1.Object)
	y, ok2 := b.(metav1.Object)
	return ok && ok2 && x.GetResourceVersion() == y.GetResourceVersion()
}

// handlePods also counts restarts. Those that a pod had before this replica
// saw it for the first time are history, unless the pod itself is new.
func (i *informers) handlePods(pods cache.SharedIndexInformer) {
	reg, err := pods.AddEventHandler(cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(obj any, initial bool) {
			if p, ok := obj.(*corev1.Pod); ok {
				if !initial {
					i.countRestarts(p, restartsOf([]*corev1.Pod{p}).Total)
				}
				i.touched(i.ofWorkload(p))
			}
		},
		UpdateFunc: func(old, now any) {
			was, ok := old.(*corev1.Pod)
			p, ok2 := now.(*corev1.Pod)
			if !ok || !ok2 || sameVersion(old, now) {
				return
			}
			if was.UID == p.UID {
				i.countRestarts(p, restartsOf([]*corev1.Pod{p}).Total-restartsOf([]*corev1.Pod{was}).Total)
			}
			i.touched(i.ofWorkload(p))
		},
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if p, ok := obj.(*corev1.Pod); ok {
				i.touched(i.ofWorkload(p))
			}
		},
	})
	if err != nil {
		panic(err) // only a stopped informer refuses a handler
	}
	i.waitFor = append(i.waitFor, reg.HasSynced)
}

func (i *informers) countRestarts(p *corev1.Pod, n int64) {
	if n <= 0 {
		return
	}
	for _, name := range i.ofWorkload(p) {
		i.mu.RLock()
		g, ok := i.guards[name]
		i.mu.RUnlock()
		if !ok {
			continue
		}
		for _, ref := range []Ref{g.Stable, g.Canary} {
			if want, ok := i.selectorOf(g, ref); ok && want.Matches(labels.Set(p.Labels)) {
				i.restarted(name, ref, n)
			}
		}
	}
}

// setGuards replaces what is looked up by name.
func (i *informers) setGuards(guards []Guard) {
	byVS, byDR, byName := map[string][]string{}, map[string][]string{}, map[string]Guard{}
	for _, g := range guards {
		byName[g.Name] = g
		for _, vs := range g.VirtualServices {
			byVS[vs] = append(byVS[vs], g.Name)
		}
		byDR[g.DestinationRule] = append(byDR[g.DestinationRule], g.Name)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.byVS, i.byDR, i.guards = byVS, byDR, byName
}

func (i *informers) byVSCopy(name string) []string { return i.byVS[name] }
func (i *informers) byDRCopy(name string) []string { return i.byDR[name] }

func (i *informers) lookup(in func(string) []string, name string) []string {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return in(name)
}

func (i *informers) ofRecord(o metav1.Object) []string {
	name := o.GetLabels()[LabelGuard]
	i.mu.RLock()
	defer i.mu.RUnlock()
	if _, ok := i.guards[name]; ok && o.GetName() == RecordName(name) {
		return []string{name}
	}
	return nil
}

func (i *informers) ofService(o metav1.Object) []string { return i.ofServiceName(o.GetName()) }

// ofServiceName finds the guards one of whose destinations is the Service.
func (i *informers) ofServiceName(service string) []string {
	if service == "" {
		return nil
	}
	var out []string
	i.mu.RLock()
	defer i.mu.RUnlock()
	for name, g := range i.guards {
		if slices.Contains(i.servicesOf(g), service) {
			out = append(out, name)
		}
	}
	return out
}

// servicesOf names the Services behind a guard's destinations. The caller
// holds the lock.
func (i *informers) servicesOf(g Guard) []string {
	set := map[string]bool{}
	for _, ref := range []Ref{g.Stable, g.Canary} {
		if host := i.hostOf(g, ref); host != "" {
			if name, namespace, ok := serviceOf(NormalizeHost(host, g.Namespace, i.domain), i.domain); ok && namespace == i.namespace {
				set[name] = true
			}
		}
	}
	return slices.Collect(maps.Keys(set))
}

func (i *informers) hostOf(g Guard, ref Ref) string {
	if ref.Host != "" {
		return ref.Host
	}
	dr, err := i.reader.rules.DestinationRules(i.namespace).Get(g.DestinationRule)
	if err != nil {
		return ""
	}
	return dr.Spec.Host
}

// ofWorkload finds the guards that a pod, Deployment or ReplicaSet may belong
// to: those whose Service selects its labels.
func (i *informers) ofWorkload(o metav1.Object) []string {
	set := o.GetLabels()
	if d, ok := o.(*appsv1.Deployment); ok {
		set = d.Spec.Template.Labels
	}
	services, err := i.reader.services.Services(i.namespace).List(labels.Everything())
	if err != nil {
		return nil
	}
	var out []string
	for _, s := range services {
		if len(s.Spec.Selector) > 0 && subsetOf(s.Spec.Selector, set) {
			out = append(out, i.ofServiceName(s.Name)...)
		}
	}
	return out
}

func subsetOf(want, have map[string]string) bool {
	for k, v := range want {
		if have[k] != v {
			return false
		}
	}
	return true
}

// selectorOf is the selector of the workloads behind one destination.
func (i *informers) selectorOf(g Guard, ref Ref) (labels.Selector, bool) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	name, namespace, ok := serviceOf(NormalizeHost(i.hostOf(g, ref), g.Namespace, i.domain), i.domain)
	if !ok || namespace != i.namespace {
		return nil, false
	}
	svc, err := i.reader.services.Services(i.namespace).Get(name)
	if err != nil {
		return nil, false
	}
	var subset map[string]string
	if ref.Host == "" {
		dr, err := i.reader.rules.DestinationRules(i.namespace).Get(g.DestinationRule)
		if err != nil {
			return nil, false
		}
		found := false
		for _, s := range dr.Spec.Subsets {
			if s.Name == ref.Subset {
				subset, found = s.Labels, true
			}
		}
		if !found {
			return nil, false
		}
	}
	return newWorkloadSelector(svc.Spec.Selector, subset).selector, true
}

// start fills the caches; false: ctx has ended before they were.
func (i *informers) start(ctx context.Context) bool {
	i.kube.Start(ctx.Done())
	i.records.Start(ctx.Done())
	i.istio.Start(ctx.Done())
	i.dynamic.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), i.waitFor...) {
		return false
	}
	debug.FreeOSMemory() // the first lists leave several times the caches' size as garbage
	i.synced.Store(true)
	return true
}

// stop waits for the informers, whose context has ended.
func (i *informers) stop() {
	i.synced.Store(false)
	i.kube.Shutdown()
	i.records.Shutdown()
	i.istio.Shutdown()
	i.dynamic.Shutdown()
}

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
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
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
	synced   atomic.Bool  // every cache is filled
	dead     atomic.Bool  // one is not kept up to date
	stale    atomic.Bool  // the same, while others are
	unseen   atomic.Int64 // none is, and since when, in Unix nanoseconds; 0: one is
	parts    map[string]*cachePart
	metrics  *Metrics
	grace    time.Duration // how long a watch may be away

	mu     sync.RWMutex
	byVS   map[string][]string // VirtualService → guards
	byDR   map[string][]string // DestinationRule → guards with a subset
	byHost map[string][]string // Service → guards with a host of their own
	guards map[string]decision.Guard
}

// demand is whether what is watched on demand is needed.
type demand struct {
	after time.Duration // how long nothing must have gone on; negative: it is needed for ever
	look  time.Duration // how often it is looked at all the same
	woken chan struct{} // holds one token

	mu    sync.Mutex
	last  time.Time // when something last went on
	idle  bool      // it is not needed
	run   int       // number of the present run of the watches
	fresh map[*feed]bool
}

func newDemand(after time.Duration) demand {
	return demand{after: after, look: 2 * after, woken: make(chan struct{}, 1), last: time.Now(), fresh: map[*feed]bool{}}
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

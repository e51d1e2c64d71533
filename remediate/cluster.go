package remediate

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// errConflict says that somebody else wrote first: read again and decide
// again.
var errConflict = errors.New("object has changed meanwhile")

// reader is what a guard is gathered from: the informers' caches, or the API
// server itself. An object that does not exist is nil without an error.
// What it returns must not be edited.
type reader interface {
	record(ctx context.Context, guard string) (*corev1.ConfigMap, error)
	virtualService(ctx context.Context, name string) (*unstructured.Unstructured, error)
	// destinationRule is a rule as Istio has it: merged with the others of its host.
	destinationRule(ctx context.Context, name string) (*slimRule, error)
	service(ctx context.Context, name string) (*slimService, error)
	deployments(ctx context.Context, want workloadSelector) ([]*slimDeployment, error)
	pods(ctx context.Context, want workloadSelector) ([]*slimPod, error)
	// revisions are what the pods were made from, as far as it is there, and of
	// owners that are no Deployments at least the newest besides.
	revisions(ctx context.Context, want workloadSelector, pods []*slimPod) ([]*slimRevision, error)
	slices(ctx context.Context, service string) ([]*slimSlice, error)
	locked(ctx context.Context) ([]*corev1.ConfigMap, error) // records of all guards that are
	// denying are those of them that deny a destination, as Spellings writes it
	// in full.
	denying(ctx context.Context, destination string) ([]*corev1.ConfigMap, error)
}

// workloadSelector is the conjunction of a Service's selector and a subset's
// labels. The zero value selects nothing.
type workloadSelector struct {
	want slimLabels
	pair string // of the Service's selector, for the index
}

func newWorkloadSelector(service, subset slimLabels) workloadSelector {
	if len(service) == 0 { // it has no pods of its own
		return workloadSelector{}
	}
	all := slices.Clone(service)
	for _, l := range subset {
		if slices.Contains(service, l) {
			continue
		}
		if slices.ContainsFunc(service, func(have slimLabel) bool { return have.key == l.key }) { // of another value: no pod has both
			return workloadSelector{}
		}
		all = append(all, l)
	}
	return workloadSelector{want: all, pair: selectorPair(service)}
}

func (w workloadSelector) matches(set slimLabels) bool { return w.pair != "" && set.include(w.want) }

// includedIn says that whatever o matches, w matches as well.
func (w workloadSelector) includedIn(o workloadSelector) bool {
	return w.pair != "" && o.pair != "" && o.want.include(w.want)
}

func (w workloadSelector) String() string { return labels.SelectorFromSet(w.want.set()).String() }

const (
	indexPair    = "label-pair"
	indexService = "service"
	indexOwner   = "owner"
	indexDeny    = "deny"
)

// index makes an Indexers of a function of the one type that a cache holds.
func index[T any](name string, values func(*T) []string) cache.Indexers {
	return cache.Indexers{name: func(obj any) ([]string, error) {
		if o, ok := obj.(*T); ok {
			return values(o), nil
		}
		return nil, nil
	}}
}

func one(value string) []string {
	if value == "" {
		return nil
	}
	return []string{value}
}

func podIndexers() cache.Indexers {
	return index(indexPair, func(p *slimPod) []string { return p.labels.pairs() })
}

func deploymentIndexers() cache.Indexers {
	return index(indexPair, func(d *slimDeployment) []string { return d.template.pairs() })
}

// revisionIndexers find the revisions of an owner. Those of a Deployment are
// found by its pods alone.
func revisionIndexers() cache.Indexers {
	return index(indexOwner, func(r *slimRevision) []string {
		if r.ofDeployment() {
			return nil
		}
		return one(r.owner)
	})
}

// recordIndexers find the locked records that deny a destination, by its
// longest spelling.
func recordIndexers(domain string) cache.Indexers {
	all := index(indexDeny, func(cm *corev1.ConfigMap) []string {
		if cm.Labels[records.LabelLocked] != "true" {
			return nil
		}
		return longest(strings.Fields(cm.Data[decision.KeyDeny]), domain)
	})
	all[cache.NamespaceIndex] = cache.MetaNamespaceIndexFunc // for the lister
	return all
}

// longest leaves out of a deny list what nobody looks a lock up by: hosts without
// a subset, which the policy alone reads, and the shorter spellings of what is there
// in full. An index entry costs more memory than the record that it finds.
func longest(deny []string, domain string) []string {
	shorter := map[string]bool{}
	for _, destination := range deny {
		host, subset, _ := strings.Cut(destination, "/")
		if name, namespace, ok := virtualservice.ServiceOf(host, cmp.Or(domain, virtualservice.DefaultDomain)); ok {
			for _, short := range []string{name, name + "." + namespace, name + "." + namespace + ".svc"} {
				shorter[short+"/"+subset] = true
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(deny), func(destination string) bool {
		return shorter[destination] || !strings.Contains(destination, "/")
	})
}

func sliceIndexers() cache.Indexers {
	return index(indexService, func(s *slimSlice) []string { return one(s.service) })
}

// selectorIndexers find the Services that may select a workload by each of its
// label pairs.
func selectorIndexers() cache.Indexers {
	return index(indexPair, func(s *slimService) []string { return one(selectorPair(s.selector)) })
}

// hostIndexers find the DestinationRules of a Service.
func hostIndexers(namespace, domain string) cache.Indexers {
	return index(indexService, func(r *slimRule) []string {
		name, ok := serviceIn(r.host, namespace, domain)
		if !ok {
			return nil
		}
		return one(name)
	})
}

// cacheReader reads from informers.
type cacheReader struct {
	namespace  string
	records    corelisters.ConfigMapLister
	recordIx   cache.Indexer // the same
	vs         cache.Indexer // of Unstructured
	services   cache.Indexer // of keptService, …
	replicas   cache.Indexer // of keptRevision
	revisionIx cache.Indexer // the same, of ControllerRevisions
	rules      cache.Indexer
	podIndex   cache.Indexer
	deployIdx  cache.Indexer
	sliceIndex cache.Indexer

	lacks    func(resource string) bool // says that a cache is not filled, or not up to date; nil: all are
	unfilled func(resource string) bool // says that it was never filled; nil: all were

	ownRecords  mutationCache[*corev1.ConfigMap]
	ownServices mutationCache[*unstructured.Unstructured]
}

// get finds an object of the namespace by name.
func get[T any](c *cacheReader, in cache.Indexer, name string) (*T, bool) {
	obj, ok, err := in.GetByKey(c.namespace + "/" + name)
	if err != nil || !ok {
		return nil, false
	}
	o, ok := obj.(*T)
	return o, ok
}

// merged is a DestinationRule as Istio has it.
func (c *cacheReader) merged(name string) (*slimRule, bool) {
	r, ok := get[slimRule](c, c.rules, name)
	if !ok {
		return nil, false
	}
	return r.merge(c.besides(r)), true
}

// besides are the other DestinationRules of the host of one.
func (c *cacheReader) besides(r *slimRule) []*slimRule {
	found, err := c.rules.Index(indexService, r)
	if err != nil || len(found) == 0 {
		return nil
	}
	var out []*slimRule
	for _, obj := range found {
		if o, ok := obj.(*slimRule); ok && o.name != r.name {
			out = append(out, o)
		}
	}
	return out
}

// absent turns "not found" into nil.
func absent[T any](obj *T, err error) (*T, error) {
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return obj, nil
}

func (c *cacheReader) record(_ context.Context, guard string) (*corev1.ConfigMap, error) {
	cm, err := absent(c.records.ConfigMaps(c.namespace).Get(records.Name(guard)))
	if err != nil {
		return nil, err
	}
	cm, _ = c.ownRecords.newest(records.Name(guard), cm, cm != nil)
	return records.Own(guard, cm), nil
}

func (c *cacheReader) virtualService(_ context.Context, name string) (*unstructured.Unstructured, error) {
	u, ok := get[unstructured.Unstructured](c, c.vs, name)
	u, _ = c.ownServices.newest(name, u, ok)
	return u, nil
}

func (c *cacheReader) destinationRule(_ context.Context, name string) (*slimRule, error) {
	r, _ := c.merged(name)
	return r, nil
}

func (c *cacheReader) service(_ context.Context, name string) (*slimService, error) {
	s, _ := get[slimService](c, c.services, name)
	return s, nil
}

func (c *cacheReader) deployments(_ context.Context, want workloadSelector) ([]*slimDeployment, error) {
	return indexed(c.deployIdx, indexPair, want.pair, func(d *slimDeployment) bool { return want.matches(d.template) })
}

func (c *cacheReader) pods(_ context.Context, want workloadSelector) ([]*slimPod, error) {
	return indexed(c.podIndex, indexPair, want.pair, func(p *slimPod) bool { return want.matches(p.labels) })
}

func (c *cacheReader) revisions(_ context.Context, _ workloadSelector, pods []*slimPod) ([]*slimRevision, error) {
	var out []*slimRevision
	owners := map[string]bool{}
	for ref := range revisionsOf(pods) {
		in := c.replicas
		if ref.kind == kindControllerRevision {
			in = c.revisionIx
		}
		r, ok := get[slimRevision](c, in, ref.name)
		switch {
		case !ok || owners[r.owner]:
			continue
		case r.ofDeployment():
			out = append(out, r)
			continue
		}
		owners[r.owner] = true
		all, err := indexed(in, indexOwner, r.owner, func(*slimRevision) bool { return true })
		if err != nil {
			return nil, err
		}
		out = append(out, all...)
	}
	return out, nil
}

func (c *cacheReader) slices(_ context.Context, service string) ([]*slimSlice, error) {
	return indexed(c.sliceIndex, indexService, service, func(*slimSlice) bool { return true })
}

func (c *cacheReader) locked(context.Context) ([]*corev1.ConfigMap, error) {
	return c.records.ConfigMaps(c.namespace).List(labels.Set{records.LabelLocked: "true"}.AsSelector())
}

func (c *cacheReader) denying(_ context.Context, destination string) ([]*corev1.ConfigMap, error) {
	return indexed(c.recordIx, indexDeny, destination, func(*corev1.ConfigMap) bool { return true })
}

// indexed finds the objects with an index value that are wanted.
func indexed[T any](idx cache.Indexer, index, value string, want func(*T) bool) ([]*T, error) {
	objs, err := idx.ByIndex(index, value)
	if err != nil {
		return nil, err
	}
	var out []*T
	for _, obj := range objs {
		if o, ok := obj.(*T); ok && want(o) {
			out = append(out, o)
		}
	}
	return out, nil
}

// allDeployments needs no cache to know which Deployments there are: it lists
// them all.
func (l *liveReader) allDeployments(ctx context.Context, want workloadSelector) ([]*slimDeployment, error) {
	lists := l.lists
	if lists == nil {
		lists = newDeploymentLists(l.kube.AppsV1().Deployments(l.namespace).List, l.parts)
	}
	all, err := lists.all(ctx)
	if err != nil {
		return nil, fmt.Errorf("list Deployments in %s: %w", l.namespace, err)
	}
	var out []*slimDeployment
	for _, k := range all {
		if want.matches(k.template) {
			out = append(out, k)
		}
	}
	return out, nil
}

// liveReader reads from the API server. Which Deployments there are to look
// at, it takes from the cache: a Deployment's own labels need not be those of
// its template. A new one shows by its pods, which then belong to no known
// build, so that nothing goes forward.
type liveReader struct {
	cache     *cacheReader
	namespace string
	kube      kubernetes.Interface
	istio     *istioAPI
	domain    string // of the cluster; empty: cluster.local
	parts     BuildParts
	lists     *deploymentLists // shared with other passes; nil: with none
}

func (l *liveReader) record(ctx context.Context, guard string) (*corev1.ConfigMap, error) {
	cm, err := absent(l.kube.CoreV1().ConfigMaps(l.namespace).Get(ctx, records.Name(guard), metav1.GetOptions{}))
	return records.Own(guard, cm), err
}

func (l *liveReader) virtualService(ctx context.Context, name string) (*unstructured.Unstructured, error) {
	u, err := absent(l.istio.get(ctx, resourceVirtualServices, name))
	if u != nil {
		trimVirtualService(u)
	}
	return u, err
}

func (l *liveReader) destinationRule(ctx context.Context, name string) (*slimRule, error) {
	found, err := absent(l.istio.get(ctx, resourceDestinationRules, name))
	if err != nil || found == nil {
		return nil, err
	}
	r := slimRuleOf(found)
	others, err := l.besides(ctx, r)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, fmt.Errorf("read the other DestinationRules of host %s: %w", r.host, err)
	case err != nil: // the brake goes by the guard's own
		r.alone = decision.Shorten(err.Error())
		return r, nil
	}
	return r.merge(others), nil
}

// besidesTimeout is how long a list of all DestinationRules may take: a rollback waits for it.
const besidesTimeout = 2 * time.Second

// besides are the other DestinationRules of the host of one. Which there are, it takes
// from the cache, unless that was never filled: a list for each guard would be a long one.
func (l *liveReader) besides(ctx context.Context, r *slimRule) ([]*slimRule, error) {
	if l.cache == nil || l.cache.unfilled != nil && l.cache.unfilled(resourceDestinationRules) {
		ctx, cancel := context.WithTimeout(ctx, besidesTimeout)
		defer cancel()
		return l.listBesides(ctx, r)
	}
	var out []*slimRule
	for _, known := range l.cache.besides(r) {
		o, err := absent(l.istio.get(ctx, resourceDestinationRules, known.name))
		if err != nil {
			return nil, err
		}
		if o != nil {
			out = append(out, slimRuleOf(o))
		}
	}
	return out, nil
}

func (l *liveReader) listBesides(ctx context.Context, r *slimRule) ([]*slimRule, error) {
	list, err := inServed(l.istio, resourceDestinationRules, func(r dynamic.ResourceInterface) (*unstructured.UnstructuredList, error) {
		return r.List(ctx, metav1.ListOptions{})
	})
	if err != nil {
		return nil, err
	}
	full := func(r *slimRule) string { return virtualservice.NormalizeHost(r.host, l.istio.namespace, l.domain) }
	var out []*slimRule
	for i := range list.Items {
		if o := slimRuleOf(&list.Items[i]); o.name != r.name && full(o) == full(r) {
			out = append(out, o)
		}
	}
	return out, nil
}

func (l *liveReader) service(ctx context.Context, name string) (*slimService, error) {
	s, err := absent(l.kube.CoreV1().Services(l.namespace).Get(ctx, name, metav1.GetOptions{}))
	if err != nil || s == nil {
		return nil, err
	}
	return slimServiceOf(s), nil
}

func (l *liveReader) deployments(ctx context.Context, want workloadSelector) ([]*slimDeployment, error) {
	if l.cache == nil || l.cache.lacks != nil && l.cache.lacks(resourceDeployments) {
		return l.allDeployments(ctx, want)
	}
	known, err := l.cache.deployments(ctx, want)
	if err != nil {
		return nil, err
	}
	var out []*slimDeployment
	for _, k := range known {
		d, err := absent(l.kube.AppsV1().Deployments(l.namespace).Get(ctx, k.name, metav1.GetOptions{}))
		if err != nil {
			return nil, err
		}
		if d == nil {
			continue
		}
		if k := slimDeploymentOf(d, l.parts); want.matches(k.template) {
			out = append(out, k)
		}
	}
	return out, nil
}

func (l *liveReader) pods(ctx context.Context, want workloadSelector) ([]*slimPod, error) {
	if want.pair == "" {
		return nil, nil
	}
	list, err := l.kube.CoreV1().Pods(l.namespace).List(ctx, metav1.ListOptions{LabelSelector: want.String()})
	if err != nil {
		return nil, err
	}
	out := make([]*slimPod, 0, len(list.Items))
	for i := range list.Items {
		out = append(out, slimPodOf(&list.Items[i]))
	}
	return out, nil
}

// revisions lists them by the labels that they have from their template, and
// reads one by one only those whose labels somebody has edited.
func (l *liveReader) revisions(ctx context.Context, want workloadSelector, pods []*slimPod) ([]*slimRevision, error) {
	refs := revisionsOf(pods)
	kinds := map[string]bool{}
	for ref := range refs {
		kinds[ref.kind] = true
	}
	var out []*slimRevision
	apps, by := l.kube.AppsV1(), metav1.ListOptions{LabelSelector: want.String()}
	if kinds[kindReplicaSet] {
		list, err := apps.ReplicaSets(l.namespace).List(ctx, by)
		if err != nil {
			return nil, fmt.Errorf("list ReplicaSets: %w", err)
		}
		for i := range list.Items {
			out = append(out, slimReplicaSetOf(&list.Items[i], l.parts))
		}
	}
	if kinds[kindControllerRevision] {
		list, err := apps.ControllerRevisions(l.namespace).List(ctx, by)
		if err != nil {
			return nil, fmt.Errorf("list ControllerRevisions: %w", err)
		}
		for i := range list.Items {
			out = append(out, slimControllerRevisionOf(&list.Items[i], l.parts))
		}
	}
	for _, r := range out {
		delete(refs, r.ref())
	}
	for ref := range refs {
		r, err := l.revision(ctx, ref)
		if err != nil {
			return nil, fmt.Errorf("read %s %s: %w", ref.kind, ref.name, err)
		}
		if r != nil {
			out = append(out, r)
		}
	}
	return out, nil
}

func (l *liveReader) revision(ctx context.Context, ref revisionRef) (*slimRevision, error) {
	if ref.kind == kindControllerRevision {
		r, err := absent(l.kube.AppsV1().ControllerRevisions(l.namespace).Get(ctx, ref.name, metav1.GetOptions{}))
		if err != nil || r == nil {
			return nil, err
		}
		return slimControllerRevisionOf(r, l.parts), nil
	}
	r, err := absent(l.kube.AppsV1().ReplicaSets(l.namespace).Get(ctx, ref.name, metav1.GetOptions{}))
	if err != nil || r == nil {
		return nil, err
	}
	return slimReplicaSetOf(r, l.parts), nil
}

func (l *liveReader) slices(ctx context.Context, service string) ([]*slimSlice, error) {
	list, err := l.kube.DiscoveryV1().EndpointSlices(l.namespace).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + service})
	if err != nil {
		return nil, err
	}
	out := make([]*slimSlice, 0, len(list.Items))
	for i := range list.Items {
		out = append(out, slimSliceOf(&list.Items[i]))
	}
	return out, nil
}

func (l *liveReader) locked(ctx context.Context) ([]*corev1.ConfigMap, error) {
	list, err := l.kube.CoreV1().ConfigMaps(l.namespace).List(ctx, metav1.ListOptions{LabelSelector: records.LabelLocked + "=true"})
	if err != nil {
		return nil, err
	}
	out := make([]*corev1.ConfigMap, 0, len(list.Items))
	for i := range list.Items {
		out = append(out, &list.Items[i])
	}
	return out, nil
}

func (l *liveReader) denying(ctx context.Context, destination string) ([]*corev1.ConfigMap, error) {
	all, err := l.locked(ctx)
	return slices.DeleteFunc(all, func(cm *corev1.ConfigMap) bool {
		return !slices.Contains(strings.Fields(cm.Data[decision.KeyDeny]), destination)
	}), err
}

// annotationApplied is kubectl's copy of the whole object.
const annotationApplied = "kubectl.kubernetes.io/last-applied-configuration"

// trimVirtualService drops what is large and not looked at: of managedFields
// all but the name of guardian's own rollbacks and of who wrote the routes last, and
// the text of kubectl's copy.
// That the annotation is there stays: a patch tells an object without
// annotations from one with some.
func trimVirtualService(u *unstructured.Unstructured) {
	u.SetManagedFields(lastWriters(u))
	if set := u.GetAnnotations(); set[annotationApplied] != "" {
		set[annotationApplied] = ""
		u.SetAnnotations(set)
	}
}

// writer changes what guardian owns in the cluster. Every write is tested
// against the resource version that was read; errConflict is returned when
// that is no longer the present one.
type writer struct {
	namespace string
	kube      kubernetes.Interface
	istio     *istioAPI
	cache     *cacheReader  // told of what was written
	user      func() string // guardian's own; its records name it
}

func conflictOr(err error, format string, args ...any) error {
	switch {
	case err == nil:
		return nil
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err) && !lacksNamespace(err):
		return fmt.Errorf(format+": %w: %w", append(args, errConflict, err)...)
	case apierrors.IsInvalid(err) && !hasCauses(err): // a JSON patch's test has failed
		return fmt.Errorf(format+": %w: %w", append(args, errConflict, err)...)
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}

// hasCauses tells a refused object from a patch that does not apply.
func hasCauses(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return false
	}
	details := status.Status().Details
	return details != nil && len(details.Causes) > 0
}

// writeRecord makes the record what r says and returns its new resource
// version.
func (w *writer) writeRecord(ctx context.Context, guard string, old *corev1.ConfigMap, r decision.Record) (*corev1.ConfigMap, error) {
	cms := w.kube.CoreV1().ConfigMaps(w.namespace)
	set := map[string]string{records.LabelGuard: guard, "app.kubernetes.io/managed-by": "guardian"}
	if r.Lock != nil {
		set[records.LabelLocked] = "true"
	}
	if old == nil {
		cm, err := cms.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: records.Name(guard), Namespace: w.namespace, Labels: set, Annotations: records.OwnerOf(nil, w.user())},
			Data:       r.Data(),
		}, metav1.CreateOptions{FieldManager: FieldManager})
		if apierrors.IsAlreadyExists(err) {
			err = w.orForeign(ctx, guard, err)
		}
		return cm, conflictOr(err, "create record %s/%s", w.namespace, records.Name(guard))
	}
	patch, err := records.Patch(old, set, r, w.user())
	if err != nil {
		return nil, err
	}
	cm, err := cms.Patch(ctx, old.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: FieldManager})
	if err == nil {
		cm.ManagedFields = nil
		w.cache.ownRecords.wrote(cm)
	}
	return cm, conflictOr(err, "write record %s/%s", w.namespace, old.Name)
}

// orForeign is err, which says that a record exists already, or that what exists
// is none.
func (w *writer) orForeign(ctx context.Context, guard string, err error) error {
	cm, readErr := absent(w.kube.CoreV1().ConfigMaps(w.namespace).Get(ctx, records.Name(guard), metav1.GetOptions{}))
	if readErr != nil {
		return err
	}
	return cmp.Or(records.CheckForeign(guard, cm), err)
}

// holds says whether the record that was read is this one. Nearly always nothing
// has changed at all, and to compare is cheaper than to write it down.
func (s snapshot) holds(r decision.Record) bool {
	if s.record != nil && s.stored.Status.State != r.Status.State {
		return false
	}
	same := s.record != nil && (s.record.Labels[records.LabelLocked] == "true") == (r.Lock != nil) && reflect.DeepEqual(s.stored, r)
	return same || records.Holds(s.record, r)
}

// patchVirtualService applies ops with a test of the resource version.
func (w *writer) patchVirtualService(ctx context.Context, vs *unstructured.Unstructured, ops []virtualservice.Op, manager string) (*unstructured.Unstructured, error) {
	body, err := json.Marshal(append([]virtualservice.Op{{Op: "test", Path: "/metadata/resourceVersion", Value: vs.GetResourceVersion()}}, ops...))
	if err != nil {
		return nil, fmt.Errorf("patch VirtualService %s/%s: %w", w.namespace, vs.GetName(), err)
	}
	now, err := inServed(w.istio, resourceVirtualServices, func(r dynamic.ResourceInterface) (*unstructured.Unstructured, error) {
		return r.Patch(ctx, vs.GetName(), types.JSONPatchType, body, metav1.PatchOptions{FieldManager: manager})
	})
	if err == nil {
		trimVirtualService(now)
		w.cache.ownServices.wrote(now)
	}
	return now, conflictOr(err, "patch VirtualService %s/%s", w.namespace, vs.GetName())
}

// release takes guardian's rollback entries out of managedFields, so that a
// GitOps tool that ignores what guardian owns sees the field again.
func (w *writer) release(ctx context.Context, name string) error {
	u, err := absent(w.istio.get(ctx, resourceVirtualServices, name))
	if err != nil {
		return fmt.Errorf("read VirtualService %s/%s: %w", w.namespace, name, err)
	}
	if u == nil {
		return nil
	}
	var ops []virtualservice.Op
	fields := u.GetManagedFields()
	for i := len(fields) - 1; i >= 0; i-- {
		if fields[i].Manager == FieldManager {
			ops = append(ops, virtualservice.Op{Op: "remove", Path: fmt.Sprintf("/metadata/managedFields/%d", i)})
		}
	}
	if len(ops) == 0 {
		return nil
	}
	_, err = w.patchVirtualService(ctx, u, ops, FieldManagerPromotion)
	return err
}

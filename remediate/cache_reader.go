package remediate

import (
	"context"

	"github.com/canary-guardian/guardian/remediate/records"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// Resources that are watched, besides Istio's.
const (
	resourceRecords     = "configmaps"
	resourceServices    = "services"
	resourcePods        = "pods"
	resourceDeployments = "deployments"
	resourceReplicaSets = "replicasets"
	resourceRevisions   = "controllerrevisions"
	resourceSlices      = "endpointslices"
)

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

package remediate

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
)

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

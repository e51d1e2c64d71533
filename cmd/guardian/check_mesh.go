package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/remediate/decision"
)

// httpRoutes is what the Gateway API routes by, past every VirtualService.
var httpRoutes = schema.GroupVersionResource{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "httproutes"}

// Labels and annotations of Istio.
const (
	labelDataplane   = "istio.io/dataplane-mode"
	labelWaypoint    = "istio.io/use-waypoint"
	labelRevision    = "service.istio.io/canonical-revision"
	labelAppVersion  = "app.kubernetes.io/version"
	redirectedByNode = "ambient.istio.io/redirection"
)

// checkMesh looks at what the mesh makes of a guard's Services: whether anything
// but VirtualServices routes to them, and by what it can tell the versions apart.
func (c *cluster) checkMesh(ctx context.Context, p *preflight, g config.Guard, sides decision.Sides) {
	services := slices.Compact(slices.DeleteFunc([]string{sides.Stable.Service, sides.Canary.Service}, func(s string) bool { return s == "" }))
	if len(services) == 0 {
		return
	}
	for _, name := range services {
		c.checkGatewayAPI(ctx, p, name)
	}
	svc, err := c.kube.CoreV1().Services(c.namespace).Get(ctx, services[0], metav1.GetOptions{})
	if err != nil || len(svc.Spec.Selector) == 0 {
		return // who looks at the two sides tells of it
	}
	pods, err := c.kube.CoreV1().Pods(c.namespace).List(ctx, metav1.ListOptions{LabelSelector: labels.SelectorFromSet(svc.Spec.Selector).String()})
	if err != nil {
		p.unknown("mesh", "Service "+svc.Name, "", "%v", err)
		return
	}
	c.checkAmbient(ctx, p, svc, pods.Items)
	checkRevisions(p, g, sides, pods.Items)
}

// checkGatewayAPI finds the HTTPRoutes that a Service is routed by.
func (c *cluster) checkGatewayAPI(ctx context.Context, p *preflight, service string) {
	if p.httpRoutes == nil {
		list, err := c.dynamic.Resource(httpRoutes).Namespace(c.namespace).List(ctx, metav1.ListOptions{})
		switch {
		case apierrors.IsNotFound(err), apierrors.IsForbidden(err): // not installed, or not the user's to see
			list = &unstructured.UnstructuredList{}
		case err != nil:
			p.unknown("gateway-api", "Service "+service, "", "list HTTPRoutes: %v", err)
			return
		}
		p.httpRoutes = list
	}
	var found []string
	for i := range p.httpRoutes.Items {
		if route := &p.httpRoutes.Items[i]; routesTo(route.Object, service) {
			found = append(found, route.GetName())
		}
	}
	if len(found) > 0 {
		p.fail("gateway-api", "Service "+service, "route it by VirtualServices: guardian is not for routes of the Gateway API",
			"HTTPRoute %s routes to it, and a rollback changes VirtualServices alone", strings.Join(found, ", "))
	}
}

// routesTo says whether an HTTPRoute is attached to a Service or sends to it.
func routesTo(route map[string]any, service string) bool {
	is := func(refs []any) bool {
		return slices.ContainsFunc(refs, func(r any) bool {
			ref, _ := r.(map[string]any)
			kind, _ := ref["kind"].(string)
			return ref["name"] == service && (kind == "Service" || kind == "" && ref["group"] == nil)
		})
	}
	rules, _, _ := unstructured.NestedSlice(route, "spec", "rules")
	for _, r := range rules {
		rule, _ := r.(map[string]any)
		if refs, _, _ := unstructured.NestedSlice(rule, "backendRefs"); is(refs) {
			return true
		}
	}
	parents, _, _ := unstructured.NestedSlice(route, "spec", "parentRefs")
	return slices.ContainsFunc(parents, func(r any) bool {
		ref, _ := r.(map[string]any)
		return ref["kind"] == "Service" && ref["name"] == service
	})
}

// checkAmbient finds pods that the node's proxy takes the traffic of: without a
// waypoint nothing reads VirtualServices there.
func (c *cluster) checkAmbient(ctx context.Context, p *preflight, svc *corev1.Service, pods []corev1.Pod) {
	bare := slices.DeleteFunc(slices.Clone(pods), func(pod corev1.Pod) bool { return hasSidecar(&pod) })
	ambient := slices.ContainsFunc(bare, func(pod corev1.Pod) bool {
		return pod.Annotations[redirectedByNode] == "enabled" || pod.Labels[labelDataplane] == "ambient"
	})
	waypoint := svc.Labels[labelWaypoint]
	if ns, err := c.kube.CoreV1().Namespaces().Get(ctx, c.namespace, metav1.GetOptions{}); err == nil {
		waypoint = cmp.Or(waypoint, ns.Labels[labelWaypoint])
		ambient = ambient || ns.Labels[labelDataplane] == "ambient" && len(bare) > 0
	}
	if ambient && (waypoint == "" || waypoint == "none") {
		p.fail("ambient", "Service "+svc.Name, fmt.Sprintf("give its pods sidecars (kubectl label namespace %s istio.io/dataplane-mode- istio-injection=enabled, and restart them), or the Service a waypoint: guardian is not for ambient mesh without VirtualServices", c.namespace),
			"its pods are in ambient mode without a waypoint: nothing applies a VirtualService's weights to their requests")
	}
}

func hasSidecar(pod *corev1.Pod) bool {
	is := func(c corev1.Container) bool { return c.Name == "istio-proxy" }
	return slices.ContainsFunc(pod.Spec.Containers, is) || slices.ContainsFunc(pod.Spec.InitContainers, is)
}

// checkRevisions compares what Istio calls the two versions by in
// destination_canonical_revision. guardian's rules go by workload, but others do
// not.
func checkRevisions(p *preflight, g config.Guard, sides decision.Sides, pods []corev1.Pod) {
	in := func(side decision.Side, pod corev1.Pod) bool {
		return len(side.Labels) > 0 && labels.SelectorFromSet(side.Labels).Matches(labels.Set(pod.Labels))
	}
	of := func(side, other decision.Side) map[string]bool {
		out := map[string]bool{}
		for _, pod := range pods {
			if in(side, pod) && !in(other, pod) { // what is of both is another finding
				out[cmp.Or(pod.Labels[labelRevision], pod.Labels[labelAppVersion], pod.Labels["version"])] = true
			}
		}
		return out
	}
	stable, canary := of(sides.Stable, sides.Canary), of(sides.Canary, sides.Stable)
	for _, revision := range slices.Sorted(maps.Keys(canary)) {
		if stable[revision] && revision != "" {
			p.note("revision", fmt.Sprintf("stable %s and canary %s", g.Stable.Ref, g.Canary.Ref),
				"label the pods of each with a service.istio.io/canonical-revision of its own, or leave app.kubernetes.io/version off them",
				"have the same canonical revision %q, which Istio takes from app.kubernetes.io/version before version: Kiali, dashboards and alerts of yours by destination_canonical_revision cannot tell them apart; guardian's own rules go by workload", revision)
		}
	}
}

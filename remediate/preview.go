package remediate

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
)

// Previewer reads guards once, without a Controller's caches: for commands that
// people run. It writes nothing.
type Previewer struct {
	Client  kubernetes.Interface
	Dynamic dynamic.Interface
	Domain  string // of the cluster; empty: cluster.local
	Builds  BuildParts
}

// Preview gathers what a decision about g would be made from, alerts aside, and
// who serves its two sides.
func (l Previewer) Preview(ctx context.Context, g decision.Guard) (decision.Input, decision.Sides, error) {
	live := &liveReader{namespace: g.Namespace, kube: l.Client, istio: newIstioAPI(l.Dynamic, g.Namespace), domain: l.Domain, parts: l.Builds}
	s, err := gather(ctx, live, decision.Input{Guard: g, Leads: true}, l.Domain, "", nil, nil)
	of := s.ofConfiguration()
	return of.input, of.sides, cmp.Or(err, of.unread)
}

// Unguarded names the VirtualServices of g's namespace that lead to its canary
// and are not among g's, each with what it gives: a rollback leaves them alone.
func (l Previewer) Unguarded(ctx context.Context, g decision.Guard) ([]string, error) {
	api := newIstioAPI(l.Dynamic, g.Namespace)
	p := virtualservice.Pair{Stable: g.Stable, Canary: g.Canary, Namespace: g.Namespace, Domain: l.Domain}
	if g.Stable.Host == "" || g.Canary.Host == "" {
		rule, err := (&liveReader{istio: api, domain: l.Domain}).destinationRule(ctx, g.DestinationRule)
		if err != nil || rule == nil {
			return nil, err // Look tells of it
		}
		p.Host = rule.host
	}
	list, err := inServed(api, resourceVirtualServices, func(r dynamic.ResourceInterface) (*unstructured.UnstructuredList, error) {
		return r.List(ctx, metav1.ListOptions{})
	})
	if err != nil {
		return nil, fmt.Errorf("list VirtualServices in %s: %w", g.Namespace, err)
	}
	var out []string
	for i := range list.Items {
		vs := &list.Items[i]
		if slices.Contains(g.VirtualServices, vs.GetName()) {
			continue
		}
		if text := unguarded(vs, p); text != "" {
			out = append(out, text)
		}
	}
	slices.Sort(out)
	return out, nil
}

// Ways names what leads to the pods of g's canary besides its own destination:
// other subsets of its DestinationRule and of those that Istio merges with it, which a lock denies too, and the Services
// and the subsets of other DestinationRules that no lock can hold.
func (l Previewer) Ways(ctx context.Context, g decision.Guard) (denied, open []string, err error) {
	w := ways{g: g, api: newIstioAPI(l.Dynamic, g.Namespace), domain: l.Domain, services: map[string]*slimService{}}
	list, err := l.Client.CoreV1().Services(g.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, nil, fmt.Errorf("list Services in %s: %w", g.Namespace, err)
	}
	for i := range list.Items {
		w.services[list.Items[i].Name] = slimServiceOf(&list.Items[i])
	}
	rules, err := inServed(w.api, resourceDestinationRules, func(r dynamic.ResourceInterface) (*unstructured.UnstructuredList, error) {
		return r.List(ctx, metav1.ListOptions{})
	})
	if err != nil {
		return nil, nil, fmt.Errorf("list DestinationRules in %s: %w", g.Namespace, err)
	}
	for i := range rules.Items {
		w.rules = append(w.rules, slimRuleOf(&rules.Items[i]))
	}
	live := &liveReader{namespace: g.Namespace, kube: l.Client, istio: w.api, domain: l.Domain, parts: l.Builds}
	s := snapshot{input: decision.Input{Guard: g}, pair: virtualservice.Pair{Stable: g.Stable, Canary: g.Canary, Namespace: g.Namespace, Domain: l.Domain}}
	own := w.own()
	if own == nil && g.Canary.Host == "" {
		return nil, nil, nil // Look tells of it
	}
	if own != nil {
		s.pair.Host = own.host
	}
	var why string
	if w.canary, why, err = s.side(ctx, live, g.Canary, own); err != nil || why != "" {
		return nil, nil, err
	}
	denied, open = w.find()
	return denied, open, nil
}

// ways is what Previewer.Ways looks through.
type ways struct {
	g        decision.Guard
	api      *istioAPI
	domain   string
	services map[string]*slimService
	rules    []*slimRule
	canary   resolvedSide
}

// own is the guard's DestinationRule as Istio has it.
func (w ways) own() *slimRule {
	i := slices.IndexFunc(w.rules, func(r *slimRule) bool { return r.name == w.g.DestinationRule })
	if i < 0 {
		return nil
	}
	own := w.rules[i]
	return own.merge(slices.DeleteFunc(slices.Clone(w.rules), func(r *slimRule) bool { return r == own || w.host(r) != w.host(own) }))
}

// definer is the name of the rule that own has a subset from.
func (w ways) definer(own *slimRule, subset string) string {
	name, from := own.name, (*slimRule)(nil)
	for _, r := range w.rules {
		if _, ok := r.subset(subset); ok && w.isPartOf(r, own) && (from == nil || r.before(from)) {
			name, from = r.name, r
		}
	}
	return name
}

// isPartOf says that Istio made own of a rule, with others or alone.
func (w ways) isPartOf(r, own *slimRule) bool {
	return slices.Contains(own.parts, r.name) || len(own.parts) == 0 && r.name == own.name
}

func (w ways) host(r *slimRule) string {
	return virtualservice.NormalizeHost(r.host, w.g.Namespace, w.domain)
}

func (w ways) find() (denied, open []string) {
	for _, name := range slices.Sorted(maps.Keys(w.services)) {
		if name != w.canary.Service && w.selects(name) {
			open = append(open, "Service "+name)
		}
	}
	own := w.own()
	if own != nil && w.g.Canary.Host == "" {
		for _, subset := range own.leadingTo(w.canary, w.g.Stable, w.g.Canary) {
			denied = append(denied, "subset "+subset+" of DestinationRule "+w.definer(own, subset))
		}
	}
	for _, rule := range w.rules {
		if own != nil && w.g.Canary.Host == "" && w.isPartOf(rule, own) {
			continue
		}
		open = append(open, w.openSubsets(rule)...)
	}
	return denied, open
}

// openSubsets are those of a DestinationRule that lead to the canary's pods.
func (w ways) openSubsets(rule *slimRule) (open []string) {
	if name, ok := serviceIn(rule.host, w.g.Namespace, cmp.Or(w.domain, virtualservice.DefaultDomain)); !ok || !w.selects(name) {
		return nil
	}
	for _, subset := range rule.subsets {
		if w.leads(subset.labels) {
			open = append(open, "subset "+subset.name+" of DestinationRule "+rule.name)
		}
	}
	return open
}

// selects says that a Service leads to the canary's pods.
func (w ways) selects(name string) bool {
	svc := w.services[name]
	return svc != nil && len(svc.selector) > 0 && w.leads(svc.selector)
}

// leads says that labels select a pod of the canary.
func (w ways) leads(set slimLabels) bool {
	return slices.ContainsFunc(w.canary.pods, func(p *slimPod) bool { return p.labels.include(set) })
}

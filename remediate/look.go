package remediate

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
)

// Looker looks at guards once, without a Controller's caches: for commands that
// people run. It only reads.
type Looker struct {
	Client  kubernetes.Interface
	Dynamic dynamic.Interface
	Domain  string // of the cluster; empty: cluster.local
	Builds  BuildParts
}

// Look gathers what a decision about g would be made from, alerts aside, and
// who serves its two sides.
func (l Looker) Look(ctx context.Context, g Guard) (Input, Sides, error) {
	live := &liveReader{namespace: g.Namespace, kube: l.Client, istio: newIstioAPI(l.Dynamic, g.Namespace), parts: l.Builds}
	s, err := gather(ctx, live, g, l.Domain, "", nil, nil)
	return s.input, s.sides, cmp.Or(err, s.unread)
}

// Unguarded names the VirtualServices of g's namespace that lead to its canary
// and are not among g's, each with what it gives: a rollback leaves them alone.
func (l Looker) Unguarded(ctx context.Context, g Guard) ([]string, error) {
	api := newIstioAPI(l.Dynamic, g.Namespace)
	p := Pair{Stable: g.Stable, Canary: g.Canary, Namespace: g.Namespace, Domain: l.Domain}
	if g.Stable.Host == "" || g.Canary.Host == "" {
		rule, err := (&liveReader{istio: api}).destinationRule(ctx, g.DestinationRule)
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
		t, err := Inspect(vs.Object, p, RewriteOptions{MatchRoutes: true, Mirrors: true})
		if err != nil || t.Clean() { // it does not name the pair, or gives the canary nothing
			continue
		}
		gives := fmt.Sprintf("%d%%", t.Weight)
		if t.Weight == 0 {
			gives = "by routes or mirrors of its own"
		}
		out = append(out, fmt.Sprintf("VirtualService %s/%s (%s)", g.Namespace, vs.GetName(), gives))
	}
	slices.Sort(out)
	return out, nil
}

package remediate

import (
	"cmp"
	"context"

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

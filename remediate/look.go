package remediate

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	s, err := gather(ctx, uncachedReader{live}, g, l.Domain, "", nil, nil)
	return s.input, s.sides, err
}

// uncachedReader is a liveReader that needs no cache to know which Deployments
// there are: it lists them all.
type uncachedReader struct{ *liveReader }

func (u uncachedReader) deployments(ctx context.Context, want workloadSelector) ([]*keptDeployment, error) {
	list, err := u.kube.AppsV1().Deployments(u.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list Deployments in %s: %w", u.namespace, err)
	}
	var out []*keptDeployment
	for i := range list.Items {
		if k := keepDeployment(&list.Items[i], u.parts); want.matches(k.template) {
			out = append(out, k)
		}
	}
	return out, nil
}

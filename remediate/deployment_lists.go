package remediate

import (
	"context"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// deploymentPage is how many Deployments are asked for at once: each takes some ten
// kilobytes until it is made slim.
const deploymentPage = 250

// deploymentLists has the passes that need all Deployments at the same moment share a
// list. Where many guards begin to move after a rest each of their passes needs one,
// and one of a thousand guards is tens of megabytes. A pass gets no list that began
// before it asked.
type deploymentLists struct {
	list func(ctx context.Context, o metav1.ListOptions) (*appsv1.DeploymentList, error)
	slim func(*appsv1.Deployment) *slimDeployment
	slot chan struct{} // holds one token while a list is made

	mu      sync.Mutex
	waiting int // how many ask now
	begun   int // lists so far
	last    []*slimDeployment
	number  int // of last; 0: there is none
}

func newDeploymentLists(list func(context.Context, metav1.ListOptions) (*appsv1.DeploymentList, error), parts BuildParts) *deploymentLists {
	return &deploymentLists{list: list, slot: make(chan struct{}, 1),
		slim: func(d *appsv1.Deployment) *slimDeployment { return slimDeploymentOf(d, parts) }}
}

// all are the Deployments that there are, as a list has them that begins from now on.
func (l *deploymentLists) all(ctx context.Context) ([]*slimDeployment, error) {
	least := l.ask()
	defer l.leave()
	select {
	case l.slot <- struct{}{}:
		defer func() { <-l.slot }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if shared, ok := l.since(least); ok {
		return shared, nil
	}
	number := l.begin()
	all, err := l.pages(ctx)
	if err == nil {
		l.keep(all, number)
	}
	return all, err
}

// ask returns the number of the first list that begins from now on.
func (l *deploymentLists) ask() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting++
	return l.begun + 1
}

// leave forgets the last list when nobody waits for one.
func (l *deploymentLists) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting--; l.waiting == 0 {
		l.last, l.number = nil, 0
	}
}

func (l *deploymentLists) begin() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.begun++
	return l.begun
}

func (l *deploymentLists) keep(all []*slimDeployment, number int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last, l.number = all, number
}

func (l *deploymentLists) since(least int) ([]*slimDeployment, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last, l.number >= least
}

// pages lists all page by page. Where the API server does not know any more what it
// began to list, it is listed anew.
func (l *deploymentLists) pages(ctx context.Context) ([]*slimDeployment, error) {
	var out []*slimDeployment
	o := metav1.ListOptions{Limit: deploymentPage}
	for {
		page, err := l.list(ctx, o)
		if o.Continue != "" && apierrors.IsResourceExpired(err) {
			out, o = nil, metav1.ListOptions{}
			continue
		}
		if err != nil {
			return nil, err
		}
		for i := range page.Items {
			out = append(out, l.slim(&page.Items[i]))
		}
		if o.Continue = page.Continue; o.Continue == "" {
			return out, nil
		}
	}
}

package remediate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// pagedAPI has Deployments, answers a list of them after a second, as they were when
// it began, and counts.
type pagedAPI struct {
	mu            sync.Mutex
	names         []string
	lists         int // that have begun
	now, most     int // under way
	expired       bool
	continueAfter int
}

func (p *pagedAPI) set(names ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.names = names
}

func (p *pagedAPI) list(ctx context.Context, o metav1.ListOptions) (*appsv1.DeploymentList, error) {
	p.mu.Lock()
	names := p.names
	p.lists++
	p.now++
	p.most = max(p.most, p.now)
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.now--
	}()
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if o.Continue != "" && p.expired {
		p.expired = false
		p.set("new-1", "new-2", "new-3")
		return nil, apierrors.NewResourceExpired("too old")
	}
	from := 0
	if _, err := fmt.Sscan(o.Continue, &from); o.Continue != "" && err != nil {
		return nil, err
	}
	out := &appsv1.DeploymentList{}
	to := len(names)
	if p.continueAfter > 0 && o.Limit > 0 && from+p.continueAfter < to {
		to = from + p.continueAfter
		out.Continue = fmt.Sprint(to)
	}
	for _, name := range names[from:to] {
		out.Items = append(out.Items, appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	return out, nil
}

func (p *pagedAPI) lister() *deploymentLists { return newDeploymentLists(p.list, BuildParts{}) }

func namesIn(all []*slimDeployment) (out []string) {
	for _, d := range all {
		out = append(out, d.name)
	}
	return out
}

func TestPassesShareAListOfDeploymentsThatBeganAfterTheyAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := &pagedAPI{}
		api.set("old")
		lists := api.lister()
		got := make(chan []string, 20)
		ask := func() {
			all, err := lists.all(t.Context())
			if err != nil {
				t.Error(err)
			}
			got <- namesIn(all)
		}
		go ask()
		time.Sleep(time.Second / 2) // its list is under way, and has seen what there was
		api.set("new")
		for range 15 {
			go ask()
		}
		if first := <-got; !slices.Equal(first, []string{"old"}) {
			t.Errorf("the first got %v", first)
		}
		for range 15 {
			if later := <-got; !slices.Equal(later, []string{"new"}) {
				t.Errorf("one that asked after a change got %v", later)
			}
		}
		if api.lists != 2 || api.most != 1 {
			t.Errorf("%d lists, %d at once; want 2, one after the other", api.lists, api.most)
		}
		synctest.Wait()
		if lists.last != nil || lists.waiting != 0 {
			t.Errorf("nobody waits, and %d Deployments are kept for %d", len(lists.last), lists.waiting)
		}
		go ask()
		<-got
		if api.lists != 3 {
			t.Errorf("one that asks later is answered from a list of before")
		}
	})
}

func TestAPassThatGivesUpTakesNoOthersListWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := &pagedAPI{}
		api.set("orders-v1")
		lists := api.lister()
		short, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		gaveUp, done := make(chan error, 2), make(chan []string, 1)
		for range 2 { // one that lists and one that waits for it
			go func() { _, err := lists.all(short); gaveUp <- err }()
		}
		time.Sleep(time.Second / 4)
		go func() {
			all, err := lists.all(t.Context())
			if err != nil {
				t.Error(err)
			}
			done <- namesIn(all)
		}()
		for range 2 {
			if err := <-gaveUp; !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("one that gave up got %v", err)
			}
		}
		if got := <-done; !slices.Equal(got, []string{"orders-v1"}) {
			t.Errorf("the one that did not got %v", got)
		}
	})
}

func TestDeploymentsAreListedInPagesAndAnewWhenTheServerHasForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := &pagedAPI{continueAfter: 2}
		api.set("a", "b", "c", "d", "e")
		all, err := api.lister().all(t.Context())
		if got := namesIn(all); err != nil || !slices.Equal(got, []string{"a", "b", "c", "d", "e"}) || api.lists != 3 {
			t.Errorf("%v, %v in %d pages", got, err, api.lists)
		}
		api.expired = true
		all, err = api.lister().all(t.Context())
		if got := namesIn(all); err != nil || !slices.Equal(got, []string{"new-1", "new-2", "new-3"}) {
			t.Errorf("after a page that was gone: %v, %v", got, err)
		}
	})
}

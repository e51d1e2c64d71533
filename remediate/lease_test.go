package remediate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/prometheus/client_golang/prometheus"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// idleReplicas are replicas of one guardian on one API server.
type idleReplicas struct {
	t    *testing.T
	kube *fake.Clientset
}

// start runs a replica's Leases until stop is called, which has it end as it does
// on SIGTERM.
func (n *idleReplicas) start(identity string, with ...func(*leases)) (l *leases, stop func()) {
	l = newLeases(Options{Client: n.kube, Namespace: testNamespace, Identity: identity, Instance: "guardian", Now: time.Now,
		Heartbeat: func() time.Time { return time.Time{} }, Metrics: NewMetrics(prometheus.NewRegistry()), Logger: slog.New(slog.DiscardHandler)})
	for _, change := range with {
		change(l)
	}
	ctx, cancel := context.WithCancel(n.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.run(ctx, func() {}, func(err error) { n.t.Error(err) })
	}()
	return l, func() { cancel(); <-done }
}

// requests counts what has been asked of the API server, by verb.
func (n *idleReplicas) requests() map[string]int {
	out := map[string]int{}
	for _, a := range n.kube.Actions() {
		out[a.GetVerb()]++
	}
	return out
}

func TestAnIdleReleaseHardlyWritesLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &idleReplicas{t, fake.NewClientset()}
		_, stopA := n.start("a")
		_, stopB := n.start("b")
		defer stopA()
		defer stopB()
		time.Sleep(time.Minute)
		n.kube.ClearActions()
		const over = 10 * time.Minute
		time.Sleep(over)
		got := n.requests()
		for verb, most := range map[string]float64{"update": 0.15, "create": 0, "patch": 0, "delete": 0, "get": 0.2, "list": 0.11} {
			if rate := float64(got[verb]) / over.Seconds(); rate > most {
				t.Errorf("%s of Leases: %.3f a second, want at most %.2f", verb, rate, most)
			}
		}
		if got["update"] < 60 {
			t.Errorf("%d renewals within %s: the replicas have stopped renewing", got["update"], over)
		}
	})
}

func TestEachReplicasLeaseIsFreshAtEveryMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &idleReplicas{t, fake.NewClientset()}
		failing := fakeFailures(n.kube)
		_, stop := n.start("a")
		defer stop()
		time.Sleep(time.Second)
		failing.Store(1) // of one renewal
		for range 300 {
			lease, err := n.kube.CoordinationV1().Leases(testNamespace).Get(t.Context(), records.ReplicaLease("a"), metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if age := time.Since(lease.Spec.RenewTime.Time); age > records.LifeTimeout {
				t.Fatalf("last renewed %s ago, within which a CLI takes it for dead (%s)", age, records.LifeTimeout)
			}
			time.Sleep(time.Second)
		}
		if failing.Load() > 0 {
			t.Error("no renewal has failed")
		}
	})
}

func TestALeaseThatSomebodyElseWroteOrRemovedIsRenewed(t *testing.T) {
	n := newNeighbours(t)
	l, api := n.replica("a", "guardian", 0), n.kube.CoordinationV1().Leases(testNamespace)
	n.must(l.renew(t.Context()))
	fakeConflicts(n.kube, 1)
	n.now = n.now.Add(records.LifePeriod)
	n.must(l.renew(t.Context()))
	n.must(api.Delete(t.Context(), records.ReplicaLease("a"), metav1.DeleteOptions{}))
	n.now = n.now.Add(records.LifePeriod)
	n.must(l.renew(t.Context()))
	got, err := api.Get(t.Context(), records.ReplicaLease("a"), metav1.GetOptions{})
	n.must(err)
	if !got.Spec.RenewTime.Time.Equal(n.now) {
		t.Errorf("renewed at %s, want %s", got.Spec.RenewTime, n.now)
	}
}

func TestALeaseGoesWithItsPod(t *testing.T) {
	n := newNeighbours(t)
	for _, uid := range []types.UID{"", "9a7c"} {
		l := n.replica("a", "guardian", 0)
		l.podUID = uid
		n.must(l.renew(t.Context()))
		got, err := n.kube.CoordinationV1().Leases(testNamespace).Get(t.Context(), records.ReplicaLease("a"), metav1.GetOptions{})
		n.must(err)
		switch owners := got.OwnerReferences; {
		case uid == "" && len(owners) != 0:
			t.Errorf("outside a cluster: owners %v", owners)
		case uid != "" && (len(owners) != 1 || owners[0].Kind != "Pod" || owners[0].Name != "a" || owners[0].UID != uid):
			t.Errorf("owners %v, want the pod", owners)
		}
	}
}

func TestOneReplicaAtATimeGoesForward(t *testing.T) {
	t.Run("the next one soon after the Lease is given up", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := &idleReplicas{t, fake.NewClientset()}
			a, stopA := n.start("a")
			time.Sleep(time.Second)
			if !a.leads() {
				t.Fatal("nobody leads")
			}
			b, stopB := n.start("b")
			defer stopB()
			time.Sleep(3 * time.Minute)
			if !a.leads() || b.leads() {
				t.Fatalf("the Lease has changed hands without need: %v, %v", a.leads(), b.leads())
			}
			stopA()
			time.Sleep(10 * time.Second)
			if a.leads() || !b.leads() {
				t.Errorf("after it was given up: %v, %v", a.leads(), b.leads())
			}
		})
	})
	t.Run("a holder that cannot write any more stops before another may begin", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := &idleReplicas{t, fake.NewClientset()}
			off, cut := cutOff(n.kube, "a")
			a, stopA := n.start("a")
			time.Sleep(time.Second)
			b, stopB := n.start("b")
			defer stopA()
			defer stopB()
			time.Sleep(time.Minute)
			off.Store(true)
			for after := range 90 {
				if a.leads() && b.leads() {
					t.Fatalf("both lead after %d s", after)
				}
				time.Sleep(time.Second)
			}
			if a.leads() || !b.leads() {
				t.Errorf("after 90 s: %v, %v", a.leads(), b.leads())
			}
			if !cut.Load() {
				t.Error("nothing was refused")
			}
		})
	})
}

// holderOf is who a write of a Lease would make its holder.
func holderOf(l *coordinationv1.Lease) string {
	if l.Spec.HolderIdentity == nil {
		return ""
	}
	return *l.Spec.HolderIdentity
}

// onUpdate answers updates of Leases for as long as answer has an error.
func onUpdate(kube *fake.Clientset, answer func(*coordinationv1.Lease) error) {
	kube.PrependReactor("update", "leases", func(a clienttesting.Action) (bool, runtime.Object, error) {
		err := answer(a.(clienttesting.UpdateAction).GetObject().(*coordinationv1.Lease))
		return err != nil, nil, err
	})
}

// fakeFailures has as many updates of replicas' Leases fail as are left.
func fakeFailures(kube *fake.Clientset) (left *atomic.Int64) {
	left = new(atomic.Int64)
	onUpdate(kube, func(l *coordinationv1.Lease) error {
		if l.Name == LeaderLease || left.Load() == 0 {
			return nil
		}
		left.Add(-1)
		return errors.New("etcdserver: request timed out")
	})
	return left
}

// fakeConflicts has the next updates conflict.
func fakeConflicts(kube *fake.Clientset, left int) {
	onUpdate(kube, func(l *coordinationv1.Lease) error {
		if left == 0 {
			return nil
		}
		left--
		return apierrors.NewConflict(coordinationv1.Resource("leases"), l.Name, errors.New("it has changed"))
	})
}

// cutOff has the API server refuse a replica's writes of the leader's Lease once
// off is set, and whoever gives it up. cut says that it has.
func cutOff(kube *fake.Clientset, identity string) (off, cut *atomic.Bool) {
	off, cut = new(atomic.Bool), new(atomic.Bool)
	onUpdate(kube, func(l *coordinationv1.Lease) error {
		if !off.Load() || l.Name != LeaderLease || holderOf(l) != identity && holderOf(l) != "" {
			return nil
		}
		cut.Store(true)
		return errors.New("connection refused")
	})
	return off, cut
}

func TestALeaseNamesTheGuardsWhoseLastPassFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &idleReplicas{t, fake.NewClientset()}
		var failing atomic.Pointer[[]string]
		failing.Store(&[]string{})
		l, stop := n.start("a", func(l *leases) { l.failing = func() []string { return *failing.Load() } })
		defer stop()
		many := make([]string, mostFailing+1)
		for i := range many {
			many[i] = fmt.Sprintf("g%d", i)
		}
		for _, c := range []struct {
			failing []string
			want    string
		}{{nil, ""}, {[]string{"orders", "payments"}, "orders payments"}, {many, records.FailingAll}, {nil, ""}} {
			failing.Store(&c.failing)
			time.Sleep(records.LifePeriod + 2*time.Second)
			lease, err := n.kube.CoordinationV1().Leases(testNamespace).Get(t.Context(), records.ReplicaLease(l.identity), metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if got := lease.Annotations[records.AnnotationFailing]; got != c.want {
				t.Errorf("%d guards fail: %q, want %q", len(c.failing), got, c.want)
			}
			var p records.Liveness
			p.Observe([]coordinationv1.Lease{*lease}, time.Now())
			if says := p.Failing("orders"); (says != "") != (c.want != "") {
				t.Errorf("%d guards fail: of orders it is said %q", len(c.failing), says)
			}
			if says := p.Failing("other"); (says != "") != (c.want == records.FailingAll) {
				t.Errorf("%d guards fail: of other it is said %q", len(c.failing), says)
			}
		}
	})
}

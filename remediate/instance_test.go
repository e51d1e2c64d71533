package remediate

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/prometheus/client_golang/prometheus"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// neighbours are replicas in one namespace of a server whose clock is now.
type neighbours struct {
	t    *testing.T
	kube *fake.Clientset
	now  time.Time
}

func newNeighbours(t *testing.T) *neighbours {
	n := &neighbours{t: t, kube: fake.NewClientset(), now: at}
	n.kube.PrependReactor("create", "leases", func(a clienttesting.Action) (bool, runtime.Object, error) {
		o, err := metav1AccessorOf(a)
		if err == nil {
			o.SetCreationTimestamp(metav1.NewTime(n.now))
		}
		return false, nil, err
	})
	return n
}

func metav1AccessorOf(a clienttesting.Action) (metav1.Object, error) {
	return a.(clienttesting.CreateAction).GetObject().(metav1.ObjectMetaAccessor).GetObjectMeta(), nil
}

// replica has a clock that is off by skew.
func (n *neighbours) replica(identity, instance string, skew time.Duration) *leases {
	return newLeases(Options{Client: n.kube, Namespace: testNamespace, Identity: identity, Instance: instance, Heartbeat: func() time.Time { return time.Time{} },
		Now: func() time.Time { return n.now.Add(skew) }, Metrics: NewMetrics(prometheus.NewRegistry()), Logger: slog.New(slog.DiscardHandler)})
}

func (n *neighbours) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *neighbours) has(identity string) bool {
	_, err := n.kube.CoordinationV1().Leases(testNamespace).Get(n.t.Context(), records.ReplicaLease(identity), metav1.GetOptions{})
	return err == nil
}

// refusedBy fails unless err says that other has the namespace.
func (n *neighbours) refusedBy(err error, other string) {
	n.t.Helper()
	if e := (*OtherGuardianError)(nil); !errors.As(err, &e) || e.Other != other || e.Namespace != testNamespace {
		n.t.Fatalf("error %v, want that the namespace has %s already", err, other)
	}
}

func TestOneGuardianLooksAfterOneNamespace(t *testing.T) {
	ctx := t.Context()
	t.Run("a second one is refused at start, and leaves nothing behind", func(t *testing.T) {
		n := newNeighbours(t)
		n.must(n.replica("a-1", "a", 0).claim(ctx))
		n.now = n.now.Add(20 * time.Second)
		b := n.replica("b-1", "b", 0)
		err := b.claim(ctx)
		n.refusedBy(err, "a")
		if b.refused.Load() == nil || n.has("b-1") {
			t.Errorf("refused: %v, its Lease is there: %v", b.refused.Load(), n.has("b-1"))
		}
		for _, part := range []string{`namespace microservices has a guardian already: instance "a" (Lease guardian-a-1), and this one is "b"`, "One guardian manages one namespace"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%v does not say: %s", err, part)
			}
		}
	})
	t.Run("replicas of one guardian are not", func(t *testing.T) {
		n := newNeighbours(t)
		for _, pod := range []string{"a-1", "a-2", "a-3"} {
			a := n.replica(pod, "a", 0)
			n.must(a.claim(ctx))
			n.must(a.contest(ctx))
		}
	})
	t.Run("nor is one that comes after another is dead", func(t *testing.T) {
		n := newNeighbours(t)
		n.must(n.replica("a-1", "a", 0).claim(ctx))
		n.now = n.now.Add(records.LifeTimeout + time.Second)
		n.must(n.replica("b-1", "b", 0).claim(ctx))
	})
	t.Run("one whose Lease has no name yet is none", func(t *testing.T) {
		n := newNeighbours(t)
		n.must(n.replica("a-1", "", 0).renew(ctx))
		n.must(n.replica("b-1", "b", 0).claim(ctx))
	})
	t.Run("of two that begin in the same instant one stays", func(t *testing.T) {
		n := newNeighbours(t)
		a, b := n.replica("a-1", "a", 0), n.replica("b-1", "b", 0)
		n.must(a.contested(ctx, nil))
		n.must(b.contested(ctx, nil))
		n.must(a.renew(ctx))
		n.must(b.renew(ctx))
		n.must(a.contest(ctx))
		n.refusedBy(b.contest(ctx), "a")
	})
	t.Run("a clock that is off by minutes is found out by the next renewal, and the younger one stops", func(t *testing.T) {
		n := newNeighbours(t)
		a, b := n.replica("a-1", "a", -5*time.Minute), n.replica("b-1", "b", 0)
		n.must(a.claim(ctx))
		n.now = n.now.Add(time.Hour)
		n.must(a.renew(ctx))
		n.must(b.claim(ctx))
		n.now = n.now.Add(records.LifePeriod)
		n.must(a.renew(ctx))
		n.must(b.renew(ctx))
		n.must(a.contest(ctx))
		stopped := error(nil)
		b.findRivals(ctx, func(err error) { stopped = err })
		n.refusedBy(stopped, "a")
		if b.refused.Load() == nil {
			t.Error("readiness does not know of it")
		}
	})
	t.Run("while one starts its replicas anew, another does not take its place", func(t *testing.T) {
		n := newNeighbours(t)
		_, err := n.kube.CoordinationV1().Leases(testNamespace).Create(ctx, leaderLeaseOf("a", n.now), metav1.CreateOptions{})
		n.must(err)
		n.now = n.now.Add(leftRecently)
		n.refusedBy(n.replica("b-1", "b", 0).claim(ctx), "a")
		n.must(n.replica("a-2", "a", 0).claim(ctx))
		n.must(n.kube.CoordinationV1().Leases(testNamespace).Delete(ctx, records.ReplicaLease("a-2"), metav1.DeleteOptions{}))
		n.now = n.now.Add(time.Nanosecond)
		n.must(n.replica("b-1", "b", 0).claim(ctx))
	})
	t.Run("what cannot be looked at keeps nobody from braking", func(t *testing.T) {
		n := newNeighbours(t)
		n.kube.PrependReactor("*", "leases", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, errors.New("forbidden") })
		n.must(n.replica("b-1", "b", 0).claim(ctx))
		over, cancel := context.WithCancel(ctx)
		cancel()
		n.must(n.replica("b-1", "b", 0).claim(over))
	})
}

func leaderLeaseOf(instance string, renewed time.Time) *coordinationv1.Lease {
	at := metav1.NewMicroTime(renewed)
	return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: LeaderLease, Namespace: testNamespace, Labels: map[string]string{LabelInstance: instance}},
		Spec: coordinationv1.LeaseSpec{RenewTime: &at}}
}

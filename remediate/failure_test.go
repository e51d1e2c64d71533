package remediate

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/canary-guardian/guardian/remediate/decision"
)

// terminating is the API server's answer to who creates something in a namespace that
// is being deleted.
func terminating(namespace string) error {
	err := apierrors.NewForbidden(schema.GroupResource{Resource: "configmaps"}, "guardian-orders-service",
		fmt.Errorf("unable to create new content in namespace %s because it is being terminated", namespace))
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: corev1.NamespaceTerminatingCause, Field: "metadata.namespace"}}
	return err
}

func TestWhatTheAPIServerSaysOfTheNamespaceIsSaidFirst(t *testing.T) {
	gone := apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, "shop")
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"it is being deleted": {conflictOr(terminating("shop"), "create record"), "namespace shop is being deleted: create record: "},
		"it is gone":          {conflictOr(gone, "create record"), "namespace shop does not exist: create record: "},
		"of several answers":  {errors.Join(errors.New("first"), conflictOr(gone, "create record")), "namespace shop does not exist: first\ncreate record: "},
		"an object is gone":   {conflictOr(apierrors.NewNotFound(schema.GroupResource{Resource: "configmaps"}, "guardian-x"), "write record"), "write record: "},
		"no right":            {conflictOr(apierrors.NewForbidden(schema.GroupResource{Resource: "configmaps"}, "guardian-x", errors.New("because")), "write record"), "write record: "},
	} {
		if got := namespaceError("shop", c.err).Error(); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: %q, want %q first", name, got, c.want)
		}
	}
	if err := conflictOr(gone, "create record"); errors.Is(err, errConflict) || !definitely(err) {
		t.Errorf("%v would be tried again at once", err)
	}
	if namespaceError("shop", nil) != nil {
		t.Error("nothing has failed")
	}
}

func TestAFailureIsToldOnceAndAgainWhenItIsAnother(t *testing.T) {
	busy := func(port int) error {
		return fmt.Errorf("read tcp 10.0.0.1:%d->10.0.0.2:443: connection reset by peer", port)
	}
	refused := func(code int) error { return fmt.Errorf("the webhook has answered %d", code) }
	var f failure
	for i, c := range []struct {
		err   error
		after time.Duration
		tell  bool
	}{
		{busy(40001), 0, true},
		{busy(40002), time.Second, false},
		{refused(http.StatusForbidden), time.Second, true},
		{refused(http.StatusInternalServerError), time.Second, true},
		{refused(http.StatusInternalServerError), tellFailureEvery - time.Second, false},
		{refused(http.StatusInternalServerError), tellFailureEvery, true},
		{nil, time.Minute, false},
		{refused(http.StatusInternalServerError), time.Second, true},
		{terminating("shop"), time.Second, true},
	} {
		now := f.told.Add(c.after)
		if i == 0 {
			now = at
		}
		next, tell := f.next(c.err, now)
		if tell != c.tell || (next.why == "") != (c.err == nil) {
			t.Errorf("%d: %v: told: %v, want %v; %+v", i, c.err, tell, c.tell, next)
		}
		if told := f.told; c.err == nil {
			next.told = told // the next case counts from then
		}
		f = next
	}
	if f.shown() != f.why {
		t.Errorf("the API server's answer is shown as %q", f.shown())
	}
	if f, _ = f.next(busy(1), at); strings.Contains(f.shown(), "10.0.0") || f.shown() == "" {
		t.Errorf("%q is shown", f.shown())
	}
}

func TestALeaseThatCannotBeRenewedIsToldOnce(t *testing.T) {
	kube, told, now := fake.NewClientset(), &log{}, at
	var refuse error
	for _, verb := range []string{"create", "update"} {
		kube.PrependReactor(verb, "leases", func(clienttesting.Action) (bool, runtime.Object, error) { return refuse != nil, nil, refuse })
	}
	l := &leases{kube: kube, namespace: "shop", identity: "guardian-0", heartbeat: func() time.Time { return time.Time{} }, now: func() time.Time { return now },
		log: slog.New(slog.NewTextHandler(told, nil))}
	for i, c := range []struct {
		refuse error
		told   int
	}{
		{nil, 0}, {terminating("shop"), 1}, {terminating("shop"), 1}, {apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, "shop"), 2}, {nil, 2}, {terminating("shop"), 3},
	} {
		now, refuse = now.Add(time.Second), c.refuse
		if ok := l.renewAndTell(t.Context()); ok != (c.refuse == nil) {
			t.Errorf("%d: renewed: %v", i, ok)
		}
		if n := strings.Count(told.String(), "renew this replica's lease"); n != c.told {
			t.Errorf("%d: told %d times, want %d:\n%s", i, n, c.told, told.String())
		}
	}
}

// revoke takes all rights from guardian, and returns when the API server goes by that.
func (r *rig) revoke() {
	r.t.Helper()
	r.must(r.kube.RbacV1().RoleBindings(r.ns).DeleteCollection(r.t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}))
}

func TestWhatTheAPIServerForbidsIsTriedAgainSlowlyAndToldOnce(t *testing.T) {
	r := newRig(t)
	app := r.app("orders-service")
	r.must(app.SetWeights(t.Context(), 50, 50))
	p := r.start(r.guard(app.Name))
	r.inState(app.Name, decision.StateShifting)
	r.revoke()
	r.wait("a refusal", func() error {
		alert := badAlert("CanaryErrors")
		if err := p.fire(app.Name, alert); err == nil {
			return errors.New("taken")
		}
		return nil
	})
	r.wait("several attempts", func() error {
		if n := p.slow.NumRequeues(app.Name); n < 4 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	if n := p.queue.NumRequeues(app.Name); n > 0 {
		t.Errorf("it is tried again %d times as quickly as a conflict", n)
	}
	if v := p.Views()[0]; !strings.Contains(v.Failing, "is forbidden") {
		t.Errorf("a view says of it %q", v.Failing)
	}
	if failed, told := p.metric("guardian_reconcile_failures_total", app.Name), strings.Count(p.log.String(), "reconcile failed, retrying"); failed < 4 || told == 0 || told > 2 {
		t.Errorf("%g attempts have failed, which is logged %d times, want once for each thing that is forbidden", failed, told)
	}
	r.must(r.plane.Grant(t.Context(), r.ns, r.user(), []rbacv1.PolicyRule(RBAC())...))
	r.atWeight(app, 0)
	r.inState(app.Name, decision.StateRolledBack)
	r.wait("it is told that it succeeds again", func() error {
		if v := p.Views()[0]; v.Failing != "" {
			return errors.New(v.Failing)
		}
		return p.logged("reconcile succeeds again")
	})
}

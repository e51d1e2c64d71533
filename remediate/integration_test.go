package remediate

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/canary-guardian/guardian/testdata/controlplane"
)

func TestARollbackLocksFirstAndThenMovesTraffic(t *testing.T) {
	r := newRig(t)
	app := r.app("orders-service")
	r.must(app.SetWeights(t.Context(), 50, 50))
	p := r.start(r.guard(app.Name))
	r.inState(app.Name, StateShifting)
	before := len(p.tap.writes())

	alert := badAlert("CanaryErrors")
	r.must(p.fire(app.Name, alert))

	r.must(isAt(t.Context(), app, 0))
	if got, want := p.tap.writes()[before:], []string{"patch configmaps 200", "patch virtualservices 200"}; !slices.Equal(got, want) {
		t.Errorf("writes %v, want %v", got, want)
	}
	rec := r.inState(app.Name, StateRolledBack)
	if l := rec.Lock; l == nil || l.Kind != LockBuild || l.Build == "" || l.Alert != alert.Name || l.Fingerprint != alert.Fingerprint || !l.StartsAt.Equal(alert.StartsAt) || l.By != "alert" {
		t.Errorf("lock %+v", rec.Lock)
	}
	if !slices.Equal(rec.Refused, []string{rec.Lock.Build}) || !slices.Equal(rec.VirtualServices, []string{app.Name}) {
		t.Errorf("refused %v, virtualServices %v", rec.Refused, rec.VirtualServices)
	}
	for _, host := range []string{app.Name, app.Name + "." + r.ns + ".svc.cluster.local"} {
		if !slices.Contains(rec.Deny, host+"/v2") {
			t.Errorf("deny %v lacks %s/v2", rec.Deny, host)
		}
	}
	if !strings.Contains(rec.Message, "CanaryErrors: 7% of requests fail") {
		t.Errorf("message %q", rec.Message)
	}
	r.checkMarks(app.Name, rec)
	r.checkEvent(app.Name, "GuardianRolledBack", "CanaryErrors: 7% of requests fail")
	if v := p.Views()[0]; v.Status.State != StateRolledBack || v.Lock == nil {
		t.Errorf("view %+v", v)
	}
	for name, want := range map[string][]string{
		"guardian_rollbacks_total": {"error_rate"}, "guardian_rollback_seconds": nil, "guardian_state": {"rolled-back"},
	} {
		if got := p.metric(name, want...); got != 1 {
			t.Errorf("%s%v is %v, want 1", name, want, got)
		}
	}
	if got := p.metric("guardian_weight_percent", "v2"); got != 0 {
		t.Errorf("weight of v2 is %v", got)
	}
}

// checkMarks looks at what a rollback leaves on a VirtualService.
func (r *rig) checkMarks(name string, rec Record) {
	r.t.Helper()
	vs := r.virtualService(name)
	want := map[string]string{
		AnnotationState: string(StateRolledBack), AnnotationReason: rec.Lock.Reason, AnnotationBuild: rec.Lock.Build, AnnotationSince: stamp(rec.Status.Since),
	}
	for k, v := range want {
		if got := vs.GetAnnotations()[k]; got != v {
			r.t.Errorf("annotation %s is %q, want %q", k, got, v)
		}
	}
	if !owned(vs) || !slices.ContainsFunc(vs.GetManagedFields(), func(f metav1.ManagedFieldsEntry) bool { return f.Manager == FieldManager }) {
		r.t.Errorf("managers %v, want %s among them", managers(vs.GetManagedFields()), FieldManager)
	}
}

func managers(fields []metav1.ManagedFieldsEntry) []string {
	var out []string
	for _, f := range fields {
		out = append(out, f.Manager)
	}
	return out
}

// checkEvent waits for an Event on a VirtualService.
func (r *rig) checkEvent(name, reason, text string) {
	r.t.Helper()
	r.wait("event "+reason, func() error {
		list, err := r.kube.CoreV1().Events(r.ns).List(r.t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		var seen []string
		for _, e := range list.Items {
			if e.InvolvedObject.Kind == "VirtualService" && e.InvolvedObject.Name == name && e.Reason == reason && e.Type == corev1.EventTypeWarning && strings.Contains(e.Message, text) {
				return nil
			}
			seen = append(seen, e.Reason+" "+e.Message)
		}
		return fmt.Errorf("not among %q", seen)
	})
}

func TestTheRoleIsTheLeast(t *testing.T) {
	r := newRig(t)
	app := r.app("orders-service")
	g := r.guard(app.Name)
	g.Promotion.Mode = PromotionManual
	old := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: ReplicaLease("long-gone"), Labels: map[string]string{LabelReplica: "true"}}}
	old.Spec.RenewTime = new(metav1.NewMicroTime(time.Now().Add(-2 * forgetReplica)))
	_, err := r.kube.CoordinationV1().Leases(r.ns).Create(t.Context(), old, metav1.CreateOptions{})
	r.must(err)
	p := r.start(g)
	p.leader()
	r.request(app.Name, RequestPromote)
	r.atWeight(app, 10)
	r.must(p.fire(app.Name, badAlert("CanaryErrors")))
	r.inState(app.Name, StateRolledBack)
	p.resolve(app.Name)
	r.request(app.Name, RequestUnlock)
	r.inState(app.Name, StateIdle)
	r.must(p.Unknown(t.Context(), "payments", "PaymentsDown"))
	for range 2 { // the same again is a patch of the first
		p.event.tell(snapshot{input: Input{Guard: g}, services: []*unstructured.Unstructured{r.virtualService(app.Name)}},
			HistoryEntry{Event: "reasserted", State: StateRolledBack, Reason: "again"})
	}
	r.wait("every right", func() error {
		used := map[string]bool{}
		for _, c := range p.tap.answered() {
			if used[c.right()] = true; c.code == http.StatusForbidden {
				t.Errorf("forbidden: %s", c.right())
			}
		}
		var idle []string
		for _, right := range RBAC() {
			for _, verb := range right.Verbs {
				if name := (call{verb: verb, group: right.APIGroups[0], resource: right.Resources[0]}).right(); !used[name] {
					idle = append(idle, name)
				}
			}
		}
		if idle = slices.DeleteFunc(idle, func(s string) bool {
			return s == "coordination.k8s.io leases delete" || // when a replica ends, or long after it has died
				strings.HasSuffix(s, " list") && used[strings.TrimSuffix(s, "list")+"watch"] // this API server streams lists
		}); len(idle) > 0 {
			return fmt.Errorf("never used: %q", idle)
		}
		return nil
	})
	p.lease.sweep(t.Context())
	leases, err := r.kube.CoordinationV1().Leases(r.ns).List(t.Context(), metav1.ListOptions{LabelSelector: LabelReplica})
	r.must(err)
	if len(leases.Items) != 1 || leases.Items[0].Name != ReplicaLease(p.o.Identity) {
		t.Errorf("leases %+v, want that of %s alone", leases.Items, p.o.Identity)
	}
	p.stop()
	leases, err = r.kube.CoordinationV1().Leases(r.ns).List(t.Context(), metav1.ListOptions{LabelSelector: LabelReplica})
	r.must(err)
	if len(leases.Items) != 0 {
		t.Errorf("leases %+v after the end, want none", leases.Items)
	}
}

// without is RBAC less one right.
func without(resource, verb string) []rbacv1.PolicyRule {
	rules := RBAC()
	for i := range rules {
		if rules[i].Resources[0] == resource {
			rules[i].Verbs = slices.DeleteFunc(rules[i].Verbs, func(v string) bool { return v == verb })
		}
	}
	return rules
}

func TestAMissingRightShows(t *testing.T) {
	for _, c := range []struct {
		resource, verb string
		shows          func(r *rig, p *running, app *controlplane.App) error
	}{
		{"pods", "watch", func(_ *rig, p *running, _ *controlplane.App) error { return p.logged("pods is forbidden") }},
		{"virtualservices", "watch", func(_ *rig, p *running, _ *controlplane.App) error {
			return p.logged("virtualservices.networking.istio.io is forbidden")
		}},
		{"configmaps", "create", func(r *rig, p *running, app *controlplane.App) error {
			if err := p.fire(app.Name, badAlert("CanaryErrors")); err == nil || !strings.Contains(err.Error(), "create record") {
				r.t.Errorf("alert taken (%v), but nothing can be recorded", err)
			}
			return p.logged("cannot create resource")
		}},
		{"virtualservices", "patch", func(r *rig, p *running, app *controlplane.App) error {
			if err := p.fire(app.Name, badAlert("CanaryErrors")); err != nil {
				r.t.Errorf("the lock is written, and yet: %v", err)
			}
			if p.metric("guardian_reconcile_failures_total", app.Name) == 0 {
				return errors.New("no failure counted")
			}
			return p.logged("cannot patch resource")
		}},
		{"events", "create", func(r *rig, p *running, _ *controlplane.App) error {
			if err := p.Unknown(r.t.Context(), "payments", "PaymentsDown"); err == nil {
				r.t.Error("alert for an unknown guard taken, but not recorded")
			}
			return nil
		}},
		{"leases", "create", func(_ *rig, p *running, _ *controlplane.App) error { return p.logged("renew this replica's lease") }},
	} {
		t.Run(c.verb+" "+c.resource, func(t *testing.T) {
			r := newRigWithoutRights(t)
			r.must(r.plane.Grant(t.Context(), r.ns, r.user(), without(c.resource, c.verb)...))
			app := r.app("orders-service")
			r.must(app.SetWeights(t.Context(), 50, 50))
			p := r.newReplica(nil, r.guard(app.Name))
			p.run()
			if c.verb != "list" && c.verb != "watch" {
				r.wait("ready", func() error {
					if !p.Ready() {
						return errors.New("not ready")
					}
					return nil
				})
			}
			r.wait("signs", func() error { return c.shows(r, p, app) })
		})
	}
}

// logged says whether a text stands in the log.
func (p *running) logged(text string) error {
	if !strings.Contains(p.log.String(), text) {
		return fmt.Errorf("not in the log: %q", text)
	}
	return nil
}

func TestTwoReplicasAndARivalAgreeOnOneRollback(t *testing.T) {
	r := newRig(t)
	app := r.app("orders-service")
	r.must(app.SetWeights(t.Context(), 50, 50))
	a, b := r.start(r.guard(app.Name)), r.start(r.guard(app.Name))
	r.inState(app.Name, StateShifting)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var rivals sync.WaitGroup
	storm := func(do func(n int) error) {
		rivals.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				if err := do(n); err != nil && ctx.Err() == nil {
					t.Errorf("rival: %v", err)
					return
				}
			}
		})
	}
	storm(func(n int) error { // other fields of the VirtualService
		_, err := r.dynamic.Resource(virtualServiceResource).Namespace(r.ns).Patch(ctx, app.Name, "application/merge-patch+json",
			fmt.Appendf(nil, `{"metadata":{"annotations":{"rival":"%d"}}}`, n), metav1.PatchOptions{})
		return err
	})
	storm(func(n int) error { // and of the record
		_, err := r.kube.CoreV1().ConfigMaps(r.ns).Patch(ctx, RecordName(app.Name), "application/merge-patch+json",
			fmt.Appendf(nil, `{"metadata":{"annotations":{"rival":"%d"}}}`, n), metav1.PatchOptions{})
		return err
	})
	alert := badAlert("CanaryErrors")
	var both sync.WaitGroup
	for _, p := range []*running{a, b} {
		both.Go(func() {
			if err := p.fire(app.Name, alert); err != nil {
				t.Errorf("%s: %v", p.o.Identity, err)
			}
		})
	}
	both.Wait()
	r.atWeight(app, 0)
	cancel()
	rivals.Wait()
	rec := r.inState(app.Name, StateRolledBack)
	var events []string
	for _, h := range rec.History {
		if h.Event == "rolled-back" {
			events = append(events, h.Reason)
		}
	}
	if len(events) != 1 {
		t.Errorf("rolled back %q, want once", events)
	}
	if n := a.metric("guardian_rollbacks_total") + b.metric("guardian_rollbacks_total"); n != 1 {
		t.Errorf("%v rollbacks counted, want 1", n)
	}
	conflicts := 0
	for _, w := range slices.Concat(a.tap.writes(), b.tap.writes()) {
		if strings.HasSuffix(w, " 409") || strings.HasSuffix(w, " 422") {
			conflicts++
		}
	}
	t.Logf("%d writes refused for conflicts", conflicts)
	if rv := r.virtualService(app.Name).GetAnnotations()["rival"]; rv == "" {
		t.Error("the rival's annotation is gone")
	}
}

func TestWhileLockedWhateverCIAppliesIsUndone(t *testing.T) {
	r := newRig(t)
	app := r.app("orders-service")
	stable, half := r.manifest(app.Name, 100, 0), r.manifest(app.Name, 50, 50)
	apply := func(args ...string) {
		t.Helper()
		if out, err := r.kubectl(args...); err != nil {
			t.Fatalf("kubectl %v: %v\n%s", args, err, out)
		}
	}
	apply("apply", "-f", stable)
	apply("apply", "-f", half)
	p := r.start(r.guard(app.Name))
	r.must(p.fire(app.Name, badAlert("CanaryErrors")))
	p.resolve(app.Name) // the canary has no traffic, so nothing is wrong with it
	rec := r.inState(app.Name, StateRolledBack)
	for i, args := range [][]string{
		{"apply", "-f", half},
		{"replace", "-f", half},
		{"apply", "--server-side", "--force-conflicts", "-f", half},
		{"replace", "--force", "-f", half}, // deletes and creates
	} {
		before := p.metric("guardian_reasserts_total")
		apply(args...)
		r.wait(fmt.Sprintf("kubectl %v undone", args), func() error {
			if p.metric("guardian_reasserts_total") == before {
				return errors.New("nothing done yet")
			}
			return isAt(t.Context(), app, 0)
		})
		r.wait("marks", func() error { // a replaced object has lost them
			if got := r.virtualService(app.Name).GetAnnotations()[AnnotationState]; got != string(StateRolledBack) {
				return fmt.Errorf("%v: annotation %s is %q", args, AnnotationState, got)
			}
			return nil
		})
		if got := p.metric("guardian_reasserts_total"); got != float64(i+1) {
			t.Errorf("after %v: %v re-assertions, want %d", args, got, i+1)
		}
	}
	now, err := r.record(app.Name)
	r.must(err)
	if now.Lock == nil || *now.Lock != *rec.Lock {
		t.Errorf("lock %+v, was %+v", now.Lock, rec.Lock)
	}
}

func TestUnderThePolicyCIIsRefusedWithTheLocksMessage(t *testing.T) {
	r := newRig(t)
	app := r.app("orders-service")
	policy, err := AdmissionYAML(AdmissionOptions{Namespace: r.ns})
	r.must(err)
	file := filepath.Join(t.TempDir(), "policy.yaml")
	r.must(os.WriteFile(file, policy, 0o600))
	if out, err := r.kubectl("apply", "-f", file); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	r.must(app.SetWeights(t.Context(), 50, 50))
	p := r.start(r.guard(app.Name))
	r.must(p.fire(app.Name, badAlert("CanaryErrors")))
	r.must(isAt(t.Context(), app, 0)) // guardian itself passes
	rec := r.inState(app.Name, StateRolledBack)
	half := r.manifest(app.Name, 50, 50)
	r.wait("refused", func() error {
		out, err := r.kubectl("apply", "-f", half)
		if err == nil {
			return errors.New("kubectl apply was let through")
		}
		if text := out + err.Error(); !strings.Contains(text, rec.Message) {
			t.Fatalf("kubectl apply: %s\nwant %q in it", text, rec.Message)
		}
		return nil
	})
	r.atWeight(app, 0)
	p.resolve(app.Name)
	p.leader()
	r.request(app.Name, RequestUnlock)
	r.inState(app.Name, StateIdle)
	r.wait("let through", func() error {
		out, err := r.kubectl("apply", "-f", half)
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

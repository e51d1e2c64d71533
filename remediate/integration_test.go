package remediate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/util/workqueue"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/test/controlplane"
)

func TestARollbackLocksFirstAndThenMovesTraffic(t *testing.T) {
	r := newRig(t)
	app := r.app("orders-service")
	r.must(app.SetWeights(t.Context(), 50, 50))
	p := r.start(r.guard(app.Name))
	r.wait("the lease holder's first look", func() error { // it writes what the first look of all could not say
		if v := p.Views(); len(v) != 1 || v[0].Status.State != decision.StateShifting || v[0].Status.Unwatched == "" {
			return fmt.Errorf("views %+v", v)
		}
		return nil
	})
	before := len(p.tap.writes())

	alert := badAlert("CanaryErrors")
	r.must(p.fire(app.Name, alert))

	r.must(isAt(t.Context(), app, 0))
	if got, want := p.tap.writes()[before:], []string{"patch configmaps 200", "patch virtualservices 200"}; !slices.Equal(got[:min(2, len(got))], want) {
		t.Errorf("writes %v, want %v before any other", got, want)
	}
	rec := r.inState(app.Name, decision.StateRolledBack)
	r.wait("the record tells of the weight", func() error {
		got, err := r.record(app.Name)
		if err == nil && got.Status.Weight != 0 {
			err = fmt.Errorf("weight %d", got.Status.Weight)
		}
		return err
	})
	if l := rec.Lock; l == nil || l.Kind != decision.LockBuild || l.Build == "" || l.Alert != alert.Name || l.Fingerprint != alert.Fingerprint || !l.StartsAt.Equal(alert.StartsAt) || l.By != "alert" {
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
	if v := p.Views()[0]; v.Status.State != decision.StateRolledBack || v.Lock == nil {
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
func (r *rig) checkMarks(name string, rec decision.Record) {
	r.t.Helper()
	vs := r.virtualService(name)
	want := map[string]string{
		decision.AnnotationState: string(decision.StateRolledBack), decision.AnnotationReason: rec.Lock.Reason, decision.AnnotationBuild: rec.Lock.Build, decision.AnnotationSince: decision.Stamp(rec.Status.Since),
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
	g.Promotion.Mode = decision.PromotionManual
	old := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: records.ReplicaLease("long-gone"), Labels: map[string]string{records.LabelReplica: "true"}}}
	old.Spec.RenewTime = new(metav1.NewMicroTime(time.Now().Add(-2 * forgetReplica)))
	_, err := r.kube.CoordinationV1().Leases(r.ns).Create(t.Context(), old, metav1.CreateOptions{})
	r.must(err)
	p := r.start(g)
	p.leader()
	r.request(app.Name, decision.RequestPromote)
	r.atWeight(app, 10)
	r.must(p.fire(app.Name, badAlert("CanaryErrors")))
	r.inState(app.Name, decision.StateRolledBack)
	p.resolve(app.Name)
	r.editLabels(app)
	r.request(app.Name, decision.RequestUnlock)
	r.inState(app.Name, decision.StateIdle)
	r.must(p.Unknown(t.Context(), map[string]string{"payments": "PaymentsDown"}))
	for range 2 { // the same again is a patch of the first
		p.event.tell(snapshot{input: decision.Input{Guard: g}, services: []*unstructured.Unstructured{r.virtualService(app.Name)}},
			decision.HistoryEntry{Event: "reasserted", State: decision.StateRolledBack, Reason: "again"})
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
	leases, err := r.kube.CoordinationV1().Leases(r.ns).List(t.Context(), metav1.ListOptions{LabelSelector: records.LabelReplica})
	r.must(err)
	if beat := records.ReadHeartbeat(leases.Items); !beat.Heard || beat.MaxAge != time.Hour {
		t.Errorf("the Lease tells of the heartbeat: %+v", beat)
	}
	if len(leases.Items) != 1 || leases.Items[0].Name != records.ReplicaLease(p.o.Identity) {
		t.Errorf("leases %+v, want that of %s alone", leases.Items, p.o.Identity)
	}
	p.stop()
	leases, err = r.kube.CoordinationV1().Leases(r.ns).List(t.Context(), metav1.ListOptions{LabelSelector: records.LabelReplica})
	r.must(err)
	if len(leases.Items) != 0 {
		t.Errorf("leases %+v after the end, want none", leases.Items)
	}
}

// editLabels leaves the canary's ReplicaSet, and the ControllerRevision of a
// StatefulSet that runs next to it, without the labels of their pods: no list by
// label finds them.
func (r *rig) editLabels(app *controlplane.App) {
	r.t.Helper()
	ctx, apps := r.t.Context(), r.kube.AppsV1()
	sets, err := apps.ReplicaSets(r.ns).List(ctx, metav1.ListOptions{LabelSelector: "version=v2"})
	r.must(err)
	for i := range sets.Items {
		sets.Items[i].Labels = nil
		_, err = apps.ReplicaSets(r.ns).Update(ctx, &sets.Items[i], metav1.UpdateOptions{})
		r.must(err)
	}
	owner := []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "more", UID: "more", Controller: new(true)}}
	_, err = apps.ControllerRevisions(r.ns).Create(ctx, &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{Name: "more-1", OwnerReferences: owner}, Revision: 1,
		Data: runtime.RawExtension{Raw: []byte(`{"spec":{"template":{"spec":{"containers":[{"name":"app","image":"more:1"}]}}}}`)},
	}, metav1.CreateOptions{})
	r.must(err)
	_, err = r.kube.CoreV1().Pods(r.ns).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "more-0", OwnerReferences: owner,
			Labels: map[string]string{"app": app.Name, "version": "v2", appsv1.ControllerRevisionHashLabelKey: "more-1"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "more:1"}}},
	}, metav1.CreateOptions{})
	r.must(err)
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
			if err := p.Unknown(r.t.Context(), map[string]string{"payments": "PaymentsDown"}); err == nil {
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
	r.inState(app.Name, decision.StateShifting)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var rivals sync.WaitGroup
	burst := func(do func(n int) error) {
		rivals.Go(func() {
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for n := 0; ctx.Err() == nil; n++ {
				if err := do(n); err != nil && ctx.Err() == nil {
					t.Errorf("rival: %v", err)
					return
				}
				<-tick.C
			}
		})
	}
	burst(func(n int) error { // other fields of the VirtualService
		_, err := r.dynamic.Resource(virtualServiceResource).Namespace(r.ns).Patch(ctx, app.Name, "application/merge-patch+json",
			fmt.Appendf(nil, `{"metadata":{"annotations":{"rival":"%d"}}}`, n), metav1.PatchOptions{})
		return err
	})
	burst(func(n int) error { // and of the record
		_, err := r.kube.CoreV1().ConfigMaps(r.ns).Patch(ctx, records.Name(app.Name), "application/merge-patch+json",
			fmt.Appendf(nil, `{"metadata":{"annotations":{"rival":"%d"}}}`, n), metav1.PatchOptions{})
		return err
	})
	alert := badAlert("CanaryErrors")
	var both sync.WaitGroup
	for _, p := range []*running{a, b} {
		both.Go(func() {
			for err := p.fire(app.Name, alert); err != nil && t.Context().Err() == nil; { // sent again, as Alertmanager does
				t.Logf("%s: %v", p.o.Identity, err)
				err = p.Submit(t.Context(), app.Name, []decision.Alert{alert}, time.Now())
			}
		})
	}
	both.Wait()
	r.atWeight(app, 0)
	cancel()
	rivals.Wait()
	rec := r.inState(app.Name, decision.StateRolledBack)
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
	rec := r.inState(app.Name, decision.StateRolledBack)
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
			if got := r.virtualService(app.Name).GetAnnotations()[decision.AnnotationState]; got != string(decision.StateRolledBack) {
				return fmt.Errorf("%v: annotation %s is %q", args, decision.AnnotationState, got)
			}
			return nil
		})
		if got := p.metric("guardian_reasserts_total"); got != float64(i+1) {
			t.Errorf("after %v: %v re-assertions, want %d", args, got, i+1)
		}
	}
	if n := p.metric("guardian_rollbacks_total"); n != 1 {
		t.Errorf("counted %v rollbacks, want 1: the rest were re-assertions", n)
	}
	now, err := r.record(app.Name)
	r.must(err)
	if now.Lock == nil || !now.Lock.Equal(*rec.Lock) {
		t.Errorf("lock %+v, was %+v", now.Lock, rec.Lock)
	}
}

func TestUnderThePolicyCIIsRefusedWithTheLocksMessage(t *testing.T) {
	r := newRig(t)
	app := r.app("orders-service")
	r.underPolicies()
	r.must(app.SetWeights(t.Context(), 50, 50))
	p := r.start(r.guard(app.Name))
	r.must(p.fire(app.Name, badAlert("CanaryErrors")))
	r.must(isAt(t.Context(), app, 0)) // guardian itself passes
	rec := r.inState(app.Name, decision.StateRolledBack)
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
	r.request(app.Name, decision.RequestUnlock)
	r.inState(app.Name, decision.StateIdle)
	r.wait("let through", func() error {
		out, err := r.kubectl("apply", "-f", half)
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

func TestAGuardianKilledBetweenLockAndPatchIsFinishedByTheNext(t *testing.T) {
	r := newRig(t)
	app := r.app("orders-service")
	r.must(app.SetWeights(t.Context(), 50, 50))
	first := r.start(r.guard(app.Name))
	r.inState(app.Name, decision.StateShifting)
	dead := errors.New("killed")
	first.tap.before(func(_ *http.Request, c call) error {
		if c.verb == "patch" && c.resource == "virtualservices" {
			return dead
		}
		return nil
	})
	r.must(first.fire(app.Name, badAlert("CanaryErrors"))) // the lock is durable: that is all that a webhook waits for
	first.stop()
	rec := r.inState(app.Name, decision.StateBlocked)
	if rec.Lock == nil {
		t.Fatal("no lock")
	}
	r.must(isAt(t.Context(), app, 50))

	second := r.start(r.guard(app.Name)) // it has heard of no alert
	r.atWeight(app, 0)
	now := r.inState(app.Name, decision.StateRolledBack)
	if now.Lock == nil || !now.Lock.Equal(*rec.Lock) {
		t.Errorf("lock %+v, was %+v", now.Lock, rec.Lock)
	}
	told := slices.DeleteFunc(slices.Clone(now.History), func(h decision.HistoryEntry) bool { return h.Event != "rolled-back" })
	if len(told) != 1 || told[0].Alert != "CanaryErrors" || told[0].From != 50 {
		t.Errorf("told %+v, want one rollback from 50%% for CanaryErrors", told)
	}
	if n := first.metric("guardian_rollbacks_total"); n != 0 {
		t.Errorf("the first replica counted %v rollbacks, and has done none", n)
	}
	r.wait("counted once, by who has done it", func() error {
		if n := second.metric("guardian_rollbacks_total"); n != 1 {
			return fmt.Errorf("counted %v rollbacks", n)
		}
		return nil
	})
}

func TestAStalledWriteIsGivenUpAndTriedAgain(t *testing.T) {
	r := newRig(t)
	app := r.app("orders-service")
	r.must(app.SetWeights(t.Context(), 50, 50))
	p := r.startWith(func(o *Options) { o.PassTimeout = time.Second }, r.guard(app.Name))
	var stalled atomic.Bool
	p.tap.before(func(q *http.Request, c call) error {
		// Not that of a pass before: whoever becomes the leader writes as well.
		if c.verb == "patch" && c.resource == "configmaps" && mentions(q, "CanaryErrors") && !stalled.Swap(true) {
			<-q.Context().Done() // the connection is up, and nobody answers
			return q.Context().Err()
		}
		return nil
	})
	if err := p.fire(app.Name, badAlert("CanaryErrors")); err == nil {
		t.Error("taken, but nothing was recorded")
	}
	r.atWeight(app, 0)
	if !stalled.Load() {
		t.Error("nothing stalled")
	}
}

// The next guardian finds it done, and tells nothing of it.
func TestWhatIsDoneWhileGuardianEndsIsToldBeforeItHasEnded(t *testing.T) {
	r := newRig(t)
	app := r.app("orders-service")
	r.must(app.SetWeights(t.Context(), 50, 50))
	p := r.start(r.guard(app.Name))
	begun, goOn := make(chan struct{}, 100), make(chan struct{})
	p.tap.before(func(_ *http.Request, c call) error {
		if c.verb == "patch" && c.resource == "virtualservices" {
			begun <- struct{}{}
			<-goOn
		}
		return nil
	})
	r.must(p.Accept(t.Context(), app.Name, []decision.Alert{badAlert("CanaryErrors")}, time.Now()))
	<-begun
	stopped := make(chan struct{})
	go func() { p.stop(); close(stopped) }()
	r.wait("no alert accepted any more", func() error {
		if err := p.Accept(t.Context(), app.Name, nil, time.Now()); err == nil {
			return errors.New("one is")
		}
		return nil
	})
	close(goOn)
	<-stopped
	r.must(isAt(t.Context(), app, 0))
	list, err := r.kube.CoreV1().Events(r.ns).List(t.Context(), metav1.ListOptions{})
	r.must(err)
	if !slices.ContainsFunc(list.Items, func(e corev1.Event) bool { return e.Reason == "GuardianRolledBack" }) {
		t.Error("no Event tells of the rollback, and guardian is gone")
	}
	if n := p.metric("guardian_rollbacks_total"); n != 1 {
		t.Errorf("counted %v rollbacks\n%s", n, p.log)
	}
}

// hookedQueue has something happen before a guard is handed in, and before it ends.
type hookedQueue struct {
	workqueue.TypedRateLimitingInterface[string]
	add, end func()
}

func (q hookedQueue) Add(guard string) {
	q.add()
	q.TypedRateLimitingInterface.Add(guard)
}

func (q hookedQueue) ShutDown() {
	q.end()
	q.TypedRateLimitingInterface.ShutDown()
}

// A queue that has ended takes nothing, and says nothing.
func TestAnAcceptedAlertIsInTheQueueWhenGuardianEnds(t *testing.T) {
	r := newRig(t)
	p := r.newReplica(nil, r.guard("orders-service"))
	inner := p.queue
	name, _ := inner.Get()
	inner.Done(name)
	p.queue = hookedQueue{inner, func() {
		if p.Controller.mu.TryLock() { // guardian can end in between
			p.Controller.mu.Unlock()
			p.close()
			inner.ShutDown()
		}
	}, func() {}}
	r.must(p.Accept(t.Context(), "orders-service", []decision.Alert{badAlert("CanaryErrors")}, time.Now()))
	if inner.Len() != 1 {
		t.Error("accepted, and nobody looks")
	}
	ended, end := context.WithCancel(t.Context())
	end()
	r.must(p.Run(ended))
}

func TestNoAlertIsAcceptedOnceTheQueueEnds(t *testing.T) {
	r := newRig(t)
	p := r.newReplica(nil, r.guard("orders-service"))
	var answer error
	p.queue = hookedQueue{p.queue, func() {}, func() { answer = p.Accept(context.Background(), "orders-service", nil, time.Now()) }}
	p.run()
	p.stop()
	if !errors.Is(answer, errStopped) {
		t.Errorf("answered %v", answer)
	}
}

// mentions says that a text stands in the body of a request that has not been sent.
func mentions(q *http.Request, text string) bool {
	if q.GetBody == nil {
		return false
	}
	body, err := q.GetBody()
	if err != nil {
		return false
	}
	defer body.Close()
	all, err := io.ReadAll(body)
	return err == nil && bytes.Contains(all, []byte(text))
}

// startWithoutLock starts a guardian whose guard has no lock, and which cannot
// reach a VirtualService twice.
func (r *rig) startWithoutLock(name string) *running {
	r.t.Helper()
	g := r.guard(name)
	g.Rollback.Lock = decision.LockNone
	p := r.start(g)
	r.inState(name, decision.StateShifting)
	var fails atomic.Int32
	p.tap.before(func(_ *http.Request, c call) error {
		if c.verb == "patch" && c.resource == "virtualservices" && fails.Add(1) <= 2 {
			return errors.New("no route to host")
		}
		return nil
	})
	return p
}

func TestWithoutALockARollbackIsNotRecordedBeforeTrafficHasMoved(t *testing.T) {
	r := newRig(t)
	app := r.app("orders-service")
	r.must(app.SetWeights(t.Context(), 50, 50))
	p := r.startWithoutLock(app.Name)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	// It is over by the time that guardian tries again: nothing but the memory
	// of what was not answered with success can tell of it.
	if err := p.Submit(ctx, app.Name, []decision.Alert{badAlert("CanaryErrors")}, time.Now()); err == nil {
		t.Error("taken, but traffic has not moved and no lock will see to it")
	}
	r.atWeight(app, 0)
}

func TestWithoutALockWhatAPersonAskedForIsForgottenOnlyAfterTrafficHasMoved(t *testing.T) {
	r := newRig(t)
	app := r.app("orders-service")
	r.must(app.SetWeights(t.Context(), 50, 50))
	r.startWithoutLock(app.Name)
	r.request(app.Name, decision.RequestRollback)
	r.atWeight(app, 0)
	r.wait("request done", func() error {
		rec, err := r.record(app.Name)
		if err == nil && rec.Request != nil {
			err = errors.New("it is still on the record")
		}
		return err
	})
	rec := r.inState(app.Name, decision.StateIdle)
	var told []string
	for _, h := range rec.History {
		if h.Event == "rolled-back" {
			told = append(told, fmt.Sprintf("%s: %d to %d", h.By, h.From, h.To))
		}
	}
	if rec.Request != nil || !slices.Equal(told, []string{"ann: 50 to 0"}) {
		t.Errorf("request %+v, history %q", rec.Request, told)
	}
}

func TestTheRecordTellsOfTheWeightAtOnceUnlessManyRollBack(t *testing.T) {
	now := time.Now()
	var few rollbackRate
	for range fewRollbacks - 1 {
		few.add(now)
	}
	if few.high(now) {
		t.Errorf("%d rollbacks are a burst", fewRollbacks-1)
	}
	few.add(now.Add(time.Second))
	if !few.high(now.Add(coalesceDelay-1)) || few.high(now.Add(coalesceDelay)) {
		t.Errorf("%d rollbacks within %v are no burst, or are one after it", fewRollbacks, coalesceDelay)
	}

	s := snapshot{record: &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "7"}},
		input: decision.Input{Record: decision.Record{Lock: &decision.Lock{By: decision.ByAlert, Since: now}, Status: decision.Status{State: decision.StateShifting, Weight: 30, Moving: &decision.Moving{From: 30}}}}}
	want := s.input.Record.Clone()
	want.Status.State, want.Status.Weight, want.Status.Moving = decision.StateRolledBack, 0, nil
	told := decision.Decision{Added: []decision.HistoryEntry{{Event: "rolled-back"}}}
	for age, wants := range map[time.Duration][2]bool{0: {false, true}, maxCoalesceDelay - 1: {false, true}, maxCoalesceDelay: {false, false}} {
		for i, burst := range []bool{false, true} {
			r := &reconciler{now: func() time.Time { return now.Add(age) }, manyRollbacks: func() bool { return burst }}
			if r.canCoalesce(s, told, want) {
				t.Errorf("%v after the lock, burst %v: waits to tell of what it has not done itself", age, burst)
			}
			r.done.note("", s.record, now)
			if got := r.canCoalesce(s, told, want); got != wants[i] {
				t.Errorf("%v after the lock, burst %v: can wait: %v", age, burst, got)
			}
		}
	}
}

// header routes and mirrors that lead to the canary, and a route of everybody.
const richSpec = `{"hosts":["NAME"],"gateways":["mesh"],"exportTo":["."],"http":[
 {"name":"testers","match":[{"headers":{"x-tester":{"exact":"yes"}}}],"route":[{"destination":{"host":"NAME","subset":"v2"},"headers":{"request":{"set":{"a":"b"}}}}],"timeout":"3s"},
 {"name":"everybody","match":[{"uri":{"prefix":"/"}}],"mirror":{"host":"NAME","subset":"v2"},"mirrorPercentage":{"value":12.5},"retries":{"attempts":3,"perTryTimeout":"2s","retryOn":"5xx"},
  "fault":{"abort":{"httpStatus":503,"percentage":{"value":0}}},
  "route":[{"destination":{"host":"NAME.NAMESPACE.svc.cluster.local","subset":"v1","port":{"number":8080}},"weight":40},
   {"destination":{"host":"NAME","subset":"v2"},"weight":40},{"destination":{"host":"legacy.example.com"},"weight":20},{"destination":{"host":"zero.example.com"},"weight":0}]}],
 "tcp":[{"match":[{"port":9000}],"route":[{"destination":{"host":"NAME","subset":"v1"},"weight":99},{"destination":{"host":"NAME","subset":"v2"},"weight":1}]}]}`

func (r *rig) replaceSpec(name, version, spec string) {
	r.t.Helper()
	vs := r.dynamic.Resource(schema.GroupVersionResource{Group: "networking.istio.io", Version: version, Resource: "virtualservices"}).Namespace(r.ns)
	spec = strings.NewReplacer("NAMESPACE", r.ns, "NAME", name).Replace(spec)
	_, err := vs.Patch(r.t.Context(), name, "application/json-patch+json", fmt.Appendf(nil, `[{"op":"add","path":"/spec","value":%s}]`, spec), metav1.PatchOptions{FieldManager: "ci"})
	r.must(err)
}

func TestTheLockGoesWithTheReadyPodsOfANewBuildAlone(t *testing.T) {
	r := newRig(t)
	app := r.app("orders-service")
	r.replaceSpec(app.Name, "v1", richSpec)
	before := r.virtualService(app.Name).Object["spec"]
	p := r.start(r.guard(app.Name))
	p.leader()
	r.must(p.fire(app.Name, badAlert("CanaryErrors")))
	p.resolve(app.Name)
	rec := r.inState(app.Name, decision.StateRolledBack)
	bad := rec.Lock.Build
	still := func(why string) {
		t.Helper()
		// A request that is refused shows that the change before was seen.
		r.request(app.Name, decision.RequestPromote)
		r.wait(why, func() error {
			now, err := r.record(app.Name)
			if err == nil && now.Request != nil {
				err = errors.New("request not read yet")
			}
			if err == nil && now.Lock == nil {
				t.Fatalf("%s: the lock is gone", why)
			}
			return err
		})
	}

	restart := `{"spec":{"template":{"metadata":{"annotations":{"kubectl.kubernetes.io/restartedAt":"2026-11-24T00:00:00Z"}}}}}`
	_, err := r.kube.AppsV1().Deployments(r.ns).Patch(t.Context(), app.Deployment("v2"), "application/strategic-merge-patch+json", []byte(restart), metav1.PatchOptions{})
	r.must(err)
	r.must(r.plane.Settle(t.Context(), r.ns))
	still("after a rollout restart")

	r.must(app.SetImage(t.Context(), "v2", "orders:2.1")) // the ready pods are the old ones
	r.wait("new build seen", func() error {
		now, err := r.record(app.Name)
		if err == nil && now.Status.Build == bad {
			err = errors.New("the new build has not been seen")
		}
		return err
	})
	still("before the new pods are ready")

	r.must(r.plane.Settle(t.Context(), r.ns))
	rec = r.unlocked(app.Name)
	if len(rec.Deny) != 0 || rec.Message != "" || !slices.Equal(rec.Refused, []string{bad}) {
		t.Errorf("record after the lock: %+v", rec)
	}
	r.wait("ownership given up, routes given back", func() error {
		vs := r.virtualService(app.Name)
		if m := managers(vs.GetManagedFields()); slices.Contains(m, FieldManager) {
			return fmt.Errorf("managers %v", m)
		}
		if got := vs.GetAnnotations()[decision.AnnotationState]; got == string(decision.StateRolledBack) {
			return fmt.Errorf("annotation %s is %q", decision.AnnotationState, got)
		}
		return sameButWeights(before, vs.Object["spec"])
	})
	r.must(app.SetWeights(t.Context(), 50, 50))
	r.wait("seen", func() error { return r.weightSeen(app.Name, 50) })

	r.must(app.Deploy(t.Context(), "v2", app.Name+":v2")) // kubectl rollout undo
	r.atWeight(app, 0)
	rec = r.inState(app.Name, decision.StateRolledBack)
	if rec.Lock.Build != bad || rec.Lock.By != "refused build" {
		t.Errorf("lock %+v, want one for build %s", rec.Lock, bad)
	}
	r.request(app.Name, decision.RequestUnlock)
	rec = r.unlocked(app.Name)
	if slices.Contains(rec.Refused, bad) {
		t.Errorf("refused %v after unlock", rec.Refused)
	}
	if last := rec.History[len(rec.History)-1]; last.Event != "unlocked" || last.By != "ann" || last.Reason != "because" {
		t.Errorf("history ends with %+v", last)
	}
	r.must(app.SetWeights(t.Context(), 50, 50))
	r.wait("seen", func() error { return r.weightSeen(app.Name, 50) })
	r.must(isAt(t.Context(), app, 50))
}

// unlocked waits until a guard has no lock, and returns its record.
func (r *rig) unlocked(guard string) decision.Record {
	r.t.Helper()
	var got decision.Record
	r.wait(guard+" unlocked", func() (err error) {
		if got, err = r.record(guard); err == nil && got.Lock != nil {
			err = fmt.Errorf("lock %+v, ready %+v", *got.Lock, got.Status.Ready)
		}
		return err
	})
	return got
}

// weightSeen says whether guardian knows of a canary's weight.
func (r *rig) weightSeen(guard string, want int) error {
	rec, err := r.record(guard)
	if err == nil && rec.Status.Weight != want {
		err = fmt.Errorf("weight %d in the record of %s, want %d", rec.Status.Weight, guard, want)
	}
	return err
}

// sameButWeights compares two specs without the pair's weights.
func sameButWeights(a, b any) error {
	strip := func(v any) string {
		spec := runtime.DeepCopyJSONValue(v).(map[string]any)
		for _, kind := range []string{"http", "tcp"} {
			routes, _ := spec[kind].([]any)
			for _, route := range routes {
				for _, d := range route.(map[string]any)["route"].([]any) {
					if host, _, _ := unstructured.NestedString(d.(map[string]any), "destination", "host"); strings.HasPrefix(host, "orders-service") {
						delete(d.(map[string]any), "weight")
					}
				}
			}
		}
		text, err := json.Marshal(spec)
		if err != nil {
			return err.Error()
		}
		return string(text)
	}
	if x, y := strip(a), strip(b); x != y {
		return fmt.Errorf("spec was\n%s\nis\n%s", x, y)
	}
	return nil
}

func TestEveryServedVersionAndEveryFieldOutlivesARollback(t *testing.T) {
	for _, version := range []string{"v1", "v1beta1", "v1alpha3"} {
		t.Run(version, func(t *testing.T) {
			r := newRig(t)
			app := r.app("orders-service")
			r.replaceSpec(app.Name, version, richSpec)
			before := r.virtualService(app.Name).Object["spec"]
			g := r.guard(app.Name)
			g.Rollback.MatchRoutes, g.Rollback.Mirrors = false, false // weights alone
			p := r.start(g)
			r.must(p.fire(app.Name, badAlert("CanaryErrors")))
			after := r.virtualService(app.Name).Object["spec"]
			r.must(sameButWeights(before, after))
			text, err := json.Marshal(after)
			r.must(err)
			for _, want := range []string{
				`{"destination":{"host":"orders-service","subset":"v2"},"weight":0}`, // written, not left out
				`{"destination":{"host":"zero.example.com"},"weight":0}`,             // kept
				`"percentage":{"value":0}`,
				`"subset":"v1"},"weight":80}`, `"subset":"v1"},"weight":100}`,
			} {
				if !strings.Contains(string(text), want) {
					t.Errorf("%s is not in\n%s", want, text)
				}
			}
		})
	}
}

func TestARollbackThatIsNotSafeIsDoneTheMomentItIs(t *testing.T) {
	r := newRig(t)
	app := r.app("orders-service")
	r.must(app.SetReady(t.Context(), "v1", false))
	r.must(app.SetWeights(t.Context(), 30, 70))
	p := r.start(r.guard(app.Name)) // its resync is ten minutes away
	r.must(p.fire(app.Name, badAlert("CanaryErrors")))
	p.resolve(app.Name)
	rec := r.inState(app.Name, decision.StateBlocked)
	if rec.Lock == nil || !strings.Contains(rec.Status.Reason, "0 ready endpoints") || !strings.Contains(rec.Message, "cannot yet") {
		t.Errorf("record %+v", rec)
	}
	r.must(isAt(t.Context(), app, 70))
	r.checkEvent(app.Name, "GuardianBlocked", "0 ready endpoints")
	if got := p.metric("guardian_state", "blocked"); got != 1 {
		t.Errorf("guardian_state{state=blocked} is %v", got)
	}
	r.must(app.SetReady(t.Context(), "v1", true))
	r.atWeight(app, 0)
	r.inState(app.Name, decision.StateRolledBack)
}

// outage waits until the replicas have found out that nobody answers, or for
// as long as GUARDIAN_OUTAGE says.
func outage(r *rig, replicas ...*running) {
	r.t.Helper()
	if d, err := time.ParseDuration(os.Getenv("GUARDIAN_OUTAGE")); err == nil {
		<-time.After(d)
		return
	}
	for _, p := range replicas {
		r.wait("outage noticed", func() error { return p.logged("connection refused") })
	}
}

func TestNoAlertIsLostWhileTheAPIServerIsAway(t *testing.T) {
	r := newRig(t)
	var apps []*controlplane.App
	var guards []decision.Guard
	for i := range 4 {
		app := r.app(fmt.Sprintf("orders-%d", i))
		r.must(app.SetWeights(t.Context(), 50, 50))
		apps, guards = append(apps, app), append(guards, r.guard(app.Name))
	}
	a, b := r.start(guards...), r.start(guards...)
	for _, app := range apps {
		r.inState(app.Name, decision.StateShifting)
	}
	r.plane.StopAPIServer()
	defer func() { r.must(r.plane.StartAPIServer(context.Background())) }()
	outage(r, a, b)
	for i, app := range apps {
		p := []*running{a, b}[i%2]
		if i < 2 { // the push lane: never sent again, and over before the API server is back
			r.must(p.Accept(t.Context(), app.Name, []decision.Alert{badAlert("CanaryErrors")}, time.Now()))
			continue
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		if err := p.Submit(ctx, app.Name, []decision.Alert{badAlert("CanaryErrors")}, time.Now()); err == nil {
			t.Errorf("%s: taken, but nothing can have been recorded", app.Name)
		}
		cancel()
	}
	r.must(r.plane.StartAPIServer(t.Context()))
	back := time.Now()
	for _, app := range apps {
		r.atWeight(app, 0)
		r.inState(app.Name, decision.StateRolledBack)
	}
	t.Logf("all rolled back %v after the API server was back", time.Since(back).Round(time.Millisecond))

	// And guardian sees again what CI does, long before its resync.
	back = time.Now()
	r.must(apps[0].SetWeights(t.Context(), 50, 50))
	r.atWeight(apps[0], 0)
	t.Logf("CI's change after it undone within %v", time.Since(back).Round(time.Millisecond))
}

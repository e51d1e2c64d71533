package remediate

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/decision/decisiontest"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// applied is the VirtualService of a world with a weight.
func applied(w *world, weight int) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: manifest(weight)}
	u.SetResourceVersion(w.next())
	return u
}

func TestAStepOrALockIsReadFromTheRecordsThatDenyTheCanary(t *testing.T) {
	w, r, g := lifting(t)
	g.Name = "renamed" // the record that is there bears the old name
	w.vs, w.template, w.pods = applied(w, 50), 1, []int{1, 1}
	own := &corev1.ConfigMap{}
	r.cached, r.live = renamed{r.cached, &own}, renamed{r.live, &own}
	r.store = renamedStore{r.store, &own}
	out, err := r.reconcile(t.Context(), g, nil)
	if err != nil {
		t.Fatal(err)
	}
	l := out.decision.Record.Lock
	if l == nil || l.From != "orders-service" || !slices.Equal(out.decision.Record.Refused, []string{w.hashOfTemplate(1)}) {
		t.Fatalf("lock %+v, refused %v", l, out.decision.Record.Refused)
	}
}

// renamed reads the record of a guard that has none of its own yet.
type renamed struct {
	reader
	own **corev1.ConfigMap
}

func (r renamed) record(context.Context, string) (*corev1.ConfigMap, error) {
	if (*r.own).Name == "" {
		return nil, nil
	}
	return *r.own, nil
}

type renamedStore struct {
	store
	own **corev1.ConfigMap
}

func (s renamedStore) writeRecord(_ context.Context, guard string, _ *corev1.ConfigMap, r decision.Record) (*corev1.ConfigMap, error) {
	*s.own = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: records.Name(guard), Namespace: testNamespace, ResourceVersion: "own"}, Data: r.Data()}
	return *s.own, nil
}

func TestALockThatAnotherGuardHasTakenIsHandedOver(t *testing.T) {
	r := decisiontest.Given(locked(decision.LockBuild)).Record
	r.Deny, r.VirtualServices, r.Message, r.Lock.Since = []string{"orders-service/v2"}, []string{"orders-service"}, "locked", at.Add(time.Minute)
	got := records.HandedOver(r, "orders", at)
	if got.Lock != nil || len(got.Deny)+len(got.VirtualServices)+len(got.Message) > 0 || got.Status.LiftedAt.Before(r.Lock.Since) || !slices.Equal(got.Refused, r.Refused) {
		t.Errorf("handed over: %+v", got)
	}
	if e := got.History[len(got.History)-1]; e.Event != "unlocked" || !strings.Contains(e.Reason, "guard orders") {
		t.Errorf("told: %+v", e)
	}
	if got.Status.State != decision.StateIdle {
		t.Errorf("its canary has nothing, and the state is %s", got.Status.State)
	}
	r.Status.State, r.Status.Weight = decision.StateBlocked, 50
	if got := records.HandedOver(r, "orders", at); got.Status.State != decision.StateShifting {
		t.Errorf("its rollback was never done, and the state is %s", got.Status.State)
	}
}

func TestARollbackWaitsForNoListOfLockedRecords(t *testing.T) {
	o := newLonely(t, 50)
	o.w.vs.SetAnnotations(map[string]string{decision.AnnotationState: string(decision.StateRolledBack)}) // of an earlier rollback, or of another guard's
	forbidden := true
	o.rec.cached, o.rec.live = worldReader{world: o.w, saw: &o.saw, unlisted: &forbidden}, worldReader{world: o.w, saw: &o.saw, unlisted: &forbidden}
	if _, err := o.pass(decision.Alert{Name: "Errors", Action: decision.ActionRollback, Fingerprint: "f", StartsAt: o.now}); err != nil {
		t.Error(err)
	}
	if w := o.traffic(); !w.Clean() {
		t.Errorf("the canary has %+v", w)
	}
	if _, err := o.pass(); err != nil || o.record().Status.State != decision.StateRolledBack {
		t.Errorf("error %v, state %s", err, o.record().Status.State)
	}
	// Whose the marks are is not known, so they stay until it is.
	cm := o.w.cm.DeepCopy()
	ask(cm, decision.Request{Action: decision.RequestUnlock, By: "ann", Reason: "fixed", At: o.now})
	cm.ResourceVersion = o.w.next()
	o.w.cm = cm
	for range 2 {
		if _, err := o.pass(); err != nil {
			t.Error(err)
		}
	}
	if o.record().Lock != nil || o.w.vs.GetAnnotations()[decision.AnnotationState] != string(decision.StateRolledBack) {
		t.Errorf("locked %+v, marked %v", o.record().Lock, o.w.vs.GetAnnotations())
	}
	forbidden = false
	for range 2 {
		if _, err := o.pass(); err != nil {
			t.Error(err)
		}
	}
	if owned(o.w.vs) {
		t.Errorf("the marks of the rollback stay: %v", o.w.vs.GetAnnotations())
	}
}

func TestALockThatEndsIsFollowedByNoStepWhileAnotherStands(t *testing.T) {
	o := newLonely(t, 0)
	o.guard.Promotion.Mode = decision.PromotionAuto
	p := virtualservice.Pair{Stable: o.guard.Stable, Canary: o.guard.Canary, Host: "orders-service", Namespace: testNamespace}
	build := o.w.hashOfTemplate(1)
	other := decision.Record{Status: decision.Status{State: decision.StateIdle}, VirtualServices: []string{"orders-service"},
		Lock: &decision.Lock{Kind: decision.LockBuild, Build: build, Refused: []string{build}, Since: o.now, By: decision.ByAlert, Reason: "Errors: 7% of requests fail"}}
	other.Denies(virtualservice.Denied(p), virtualservice.Spellings(p, p.Stable), o.guard.Rollback)
	o.w.foreign = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: records.Name("old-name"), Namespace: testNamespace, ResourceVersion: o.w.next(),
		Labels: map[string]string{records.LabelGuard: "old-name", records.LabelLocked: "true"}}, Data: other.Data()}
	passes := func() {
		t.Helper()
		for range 3 {
			if _, err := o.pass(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if passes(); o.record().Lock == nil {
		t.Fatal("the other's lock was not taken over")
	}
	o.now = o.now.Add(time.Minute)
	o.w.made[2], o.w.template, o.w.pods = o.now, 2, []int{2, 2}
	if passes(); o.record().Lock != nil || o.traffic().Weight > 0 {
		t.Fatalf("a new build is ready: lock %+v, the canary has %+v", o.record().Lock, o.traffic())
	}
	o.w.foreign = nil
	if passes(); o.traffic().Weight != 10 {
		t.Errorf("the other's lock is lifted, and the canary has %+v; waiting: %s", o.traffic(), o.record().Status.Waiting)
	}
}

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
}

// back is a guard whose stable is v2 and whose canary is v1, beside orders-service, for
// which it is the other way round and which has locked v2.
func back(t *testing.T, weight int) (o *lonely, canary func() virtualservice.Traffic) {
	o = newLonely(t, weight)
	p := virtualservice.Pair{Stable: o.guard.Stable, Canary: o.guard.Canary, Host: "orders-service", Namespace: testNamespace}
	build := o.w.hashOfTemplate(1)
	other := decision.Record{Status: decision.Status{State: decision.StateRolledBack}, VirtualServices: []string{"orders-service"},
		Lock: &decision.Lock{Kind: decision.LockBuild, Build: build, Refused: []string{build}, Since: o.now, By: decision.ByAlert, Reason: "Errors: 7% of requests fail"}}
	other.Denies(virtualservice.Denied(p), virtualservice.Spellings(p, p.Stable), o.guard.Rollback)
	o.w.cm, o.w.foreign = nil, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: records.Name("orders-service"), Namespace: testNamespace, ResourceVersion: o.w.next(),
		Labels: map[string]string{records.LabelGuard: "orders-service", records.LabelLocked: "true"}}, Data: other.Data()}
	o.guard.Name, o.guard.Stable, o.guard.Canary = "orders-back", p.Canary, p.Stable
	canary = func() virtualservice.Traffic {
		t.Helper()
		got, err := virtualservice.Inspect(o.w.vs.Object, p, o.guard.Rollback.Options())
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	return o, canary
}

// What one guard's lock denies another does not give traffic to, though it is its
// stable; it says so, and goes on when the lock is lifted.
func TestNothingIsSentToAStableThatAnotherGuardsLockDenies(t *testing.T) {
	for name, kind := range map[string]decision.LockKind{"with a lock of its own": decision.LockBuild, "without locks": decision.LockNone} {
		t.Run(name, func(t *testing.T) {
			o, denied := back(t, 0)
			o.guard.Rollback.Lock = kind
			o.pass()
			alert := decision.Alert{Name: "Errors", Action: decision.ActionRollback, Fingerprint: "f", StartsAt: o.now}
			for range 3 {
				if _, err := o.pass(alert); err != nil || denied().Weight > 0 {
					t.Fatalf("v2, which the lock of orders-service denies, has %+v (%v)", denied(), err)
				}
			}
			if s := o.record().Status; s.State != decision.StateBlocked || !strings.Contains(s.Reason, "lock of guard orders-service") || !strings.Contains(s.Reason, "guardian unlock orders-service -n "+testNamespace) {
				t.Errorf("%s: %s", s.State, s.Reason)
			}
			o.w.foreign = nil
			if _, err := o.pass(alert); err != nil || denied().Weight != 100 {
				t.Errorf("the lock was lifted, and v2 has %+v (%v)", denied(), err)
			}
		})
	}
}

// Caches give records in any order: what is said of them must not change with it.
func TestOfSeveralLocksThatDenyStableTheSameIsNamedEachTime(t *testing.T) {
	o, _ := back(t, 0)
	other := o.w.foreign.DeepCopy()
	other.Name, other.Labels[records.LabelGuard] = records.Name("another"), "another"
	for _, found := range [][]*corev1.ConfigMap{{other, o.w.foreign}, {o.w.foreign, other}} {
		s := snapshot{input: decision.Input{Guard: o.guard}, pair: virtualservice.Pair{Stable: o.guard.Stable, Canary: o.guard.Canary, Host: "orders-service", Namespace: testNamespace}}
		s.gatherForeign(t.Context(), denied{o.rec.cached, found})
		if !strings.Contains(s.input.Stable.Missing, "the lock of guard another denies") {
			t.Errorf("of %s and %s: %s", found[0].Name, found[1].Name, s.input.Stable.Missing)
		}
	}
}

// denied is a reader to which these records are all that deny anything.
type denied struct {
	reader
	by []*corev1.ConfigMap
}

func (d denied) denying(context.Context, ...string) ([]*corev1.ConfigMap, error) {
	return slices.Clone(d.by), nil
}

// Where two guards have locked each other's stable, the first lock counts.
func TestAnOlderLockTakesTrafficToAStableThatIsDeniedSince(t *testing.T) {
	for name, c := range map[string]struct {
		after time.Duration // the other's lock, after this one's
		moves bool
	}{"this guard's is older": {time.Minute, true}, "at once, and this one's name is the first": {0, true}, "the other's is older": {-time.Minute, false}} {
		t.Run(name, func(t *testing.T) {
			o, denied := back(t, 0)
			foreign := o.w.foreign
			o.w.foreign = nil
			o.pass()
			if o.pass(decision.Alert{Name: "Errors", Action: decision.ActionRollback, Fingerprint: "f", StartsAt: o.now}); denied().Weight != 100 {
				t.Fatalf("not rolled back to v2: %+v", denied())
			}
			r, err := records.Parse(foreign)
			if err != nil {
				t.Fatal(err)
			}
			r.Lock.Since = o.record().Lock.Since.Add(c.after)
			foreign.Data, o.w.foreign = r.Data(), foreign
			o.ci(50)
			if o.pass(); (denied().Weight == 100) != c.moves {
				t.Errorf("v2 has %+v, %s: %s", denied(), o.record().Status.State, o.record().Status.Reason)
			}
		})
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

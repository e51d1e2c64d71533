package remediate

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	"github.com/canary-guardian/guardian/remediate/virtualservice/vstest"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"pgregory.net/rapid"
)

const meshName = "orders-mesh"

var meshTesters = vstest.OnlyRoute(vstest.CookieV2, "v2") + vstest.PairRoute(vstest.Tenant, 0, 100)

// withMesh is a lone guardian whose guard has a second VirtualService.
func withMesh(t *testing.T, share int) *lonely {
	o := newLonely(t, 0)
	o.guard.VirtualServices = []string{"orders-service", meshName}
	o.withRoutes(vstest.PairRoute("", 100-share, share))
	o.mesh(share)
	o.passes(2)
	return o
}

// mesh has CI apply the second VirtualService; what others have written in its
// metadata stays.
func (o *lonely) mesh(share int) {
	u := &unstructured.Unstructured{Object: vstest.Of(o.t, meshTesters+vstest.PairRoute("", 100-share, share))}
	u.SetName(meshName)
	u.SetAnnotations(map[string]string{"team": "shop"})
	if old := o.w.others[meshName]; old != nil {
		u.SetAnnotations(old.GetAnnotations())
		u.SetManagedFields(old.GetManagedFields())
	}
	u.SetResourceVersion(o.w.next())
	o.w.put(u)
}

func (o *lonely) passes(n int, alerts ...decision.Alert) {
	o.t.Helper()
	for range n {
		o.now = o.now.Add(decision.ListingKnows)
		if _, err := o.pass(alerts...); err != nil {
			o.t.Fatal(err)
		}
	}
}

// without has the configuration lose the second VirtualService.
func (o *lonely) losesMesh() { o.guard.VirtualServices = []string{"orders-service"} }

// meshTraffic is what the second VirtualService gives the canary.
func (o *lonely) meshTraffic() virtualservice.Traffic {
	o.t.Helper()
	t, err := virtualservice.Inspect(o.w.others[meshName].Object, bySubset, all)
	if err != nil {
		o.t.Fatal(err)
	}
	return t
}

// meshIsFree fails when something of guardian's is left on the second
// VirtualService, or in the record because of it.
func (o *lonely) meshIsFree(testersAsBefore bool) {
	o.t.Helper()
	vs := o.w.others[meshName]
	for k := range vs.GetAnnotations() {
		if strings.HasPrefix(k, decision.Prefix) {
			o.t.Errorf("it still has annotation %s: %q", k, vs.GetAnnotations()[k])
		}
	}
	for _, f := range vs.GetManagedFields() {
		if f.Manager == FieldManager {
			o.t.Error("guardian still owns fields of it")
		}
	}
	if want := vstest.Of(o.t, meshTesters)["spec"].(map[string]any)["http"].([]any); testersAsBefore {
		if got := vs.Object["spec"].(map[string]any)["http"].([]any)[:2]; !reflect.DeepEqual(vstest.JSON(got), vstest.JSON(want)) {
			o.t.Errorf("testers are led by %v", got)
		}
	}
	r := o.record()
	if len(r.Status.Leaving) > 0 || slices.ContainsFunc(r.Changed, func(c virtualservice.Change) bool { return c.VirtualService == meshName }) || slices.Contains(r.VirtualServices, meshName) {
		o.t.Errorf("the record still has it: leaving %+v, changed %+v, locked %v", r.Status.Leaving, r.Changed, r.VirtualServices)
	}
}

func TestAVirtualServiceThatLeavesUnderALockStaysGuardedAndIsGivenBackAtTheUnlock(t *testing.T) {
	o := withMesh(t, 10)
	o.passes(2, errorsAlert)
	if !o.meshTraffic().Clean() || o.record().Status.State != decision.StateRolledBack {
		t.Fatalf("%+v; %+v", o.meshTraffic(), o.record().Status)
	}
	o.losesMesh()
	o.passes(2)
	o.mesh(50)
	o.passes(2)
	if r := o.record(); !o.meshTraffic().Clean() || !slices.Contains(r.VirtualServices, meshName) || r.Status.State != decision.StateRolledBack {
		t.Fatalf("while locked: %+v, locked %v, %s (%s)", o.meshTraffic(), r.VirtualServices, r.Status.State, r.Status.Reason)
	}
	if o.w.others[meshName].GetAnnotations()[decision.LockKey(o.guard.Name)] == "" {
		t.Error("it does not tell of the lock any more")
	}
	o.unlockNow()
	o.passes(2)
	o.meshIsFree(true)
	if w := o.meshTraffic(); w.Weight != 0 {
		t.Errorf("its split is at %d%%", w.Weight)
	}
	if !strings.Contains(o.history(), "left: ") {
		t.Errorf("history: %s", o.history())
	}
	writes := len(o.writes)
	o.mesh(70)
	o.passes(3)
	if w := o.meshTraffic(); w.Weight != 70 || o.record().Status.Weight != 0 || slices.Contains(o.writes[writes:], "traffic") {
		t.Errorf("it is nobody's, and at %d%%; the guard at %d%%; writes %v", w.Weight, o.record().Status.Weight, o.writes[writes:])
	}
}

func TestAVirtualServiceMayLeaveAtAnyTime(t *testing.T) {
	for _, c := range []struct {
		name    string
		leave   func(o *lonely)
		testers bool // they are to be as they were
	}{
		{"before the rollback", func(o *lonely) {
			o.losesMesh()
			o.passes(1)
			o.passes(2, errorsAlert)
			if o.meshTraffic().Weight != 10 {
				t.Error("a rollback touched what is not the guard's")
			}
			o.unlockNow()
		}, true},
		{"in the instant of the unlock", func(o *lonely) {
			o.passes(2, errorsAlert)
			o.losesMesh()
			o.unlockNow()
		}, true},
		{"after the unlock, while an alert fires", func(o *lonely) {
			o.passes(2, errorsAlert)
			o.unlockNow()
			hold := decision.Alert{Name: "Hold", Action: decision.ActionHold, Fingerprint: "h", StartsAt: o.now}
			o.guard.Rollback.Lock = decision.LockBuild
			o.passes(1, hold)
			o.losesMesh()
			o.passes(2, hold)
		}, true},
		{"without a lock", func(o *lonely) {
			o.guard.Rollback.Lock = decision.LockNone
			o.passes(2, errorsAlert)
			o.losesMesh()
			o.passes(2, errorsAlert)
			if !o.meshTraffic().Clean() {
				t.Error("given back while the alert fires")
			}
		}, true},
		{"and come back before the unlock", func(o *lonely) {
			o.passes(2, errorsAlert)
			o.losesMesh()
			o.passes(2)
			o.guard.VirtualServices = []string{"orders-service", meshName}
			o.passes(2)
			o.unlockNow()
			o.passes(1)
			o.losesMesh()
		}, true},
		{"while it was paused", func(o *lonely) {
			o.passes(2, errorsAlert)
			o.losesMesh()
			cm := o.w.cm.DeepCopy()
			ask(cm, decision.Request{Action: decision.RequestPause, By: "ann", Reason: "incident", At: o.now})
			cm.ResourceVersion = o.w.next()
			o.w.cm = cm
			o.passes(1)
			o.unlockNow()
			if o.w.others[meshName].GetAnnotations()[decision.AnnotationState] == "" {
				t.Error("given back while paused")
			}
			cm = o.w.cm.DeepCopy()
			ask(cm, decision.Request{Action: decision.RequestResume, By: "ann", Reason: "over", At: o.now})
			cm.ResourceVersion = o.w.next()
			o.w.cm = cm
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := withMesh(t, 10)
			c.leave(o)
			o.passes(4)
			o.meshIsFree(c.testers)
		})
	}
}

func TestAVirtualServiceThatIsGoneLeavesNothingInTheRecord(t *testing.T) {
	o := withMesh(t, 10)
	o.passes(2, errorsAlert)
	o.losesMesh()
	o.passes(1)
	delete(o.w.others, meshName)
	o.passes(2)
	if s := o.record().Status; s.State != decision.StateRolledBack {
		t.Errorf("%s (%s)", s.State, s.Reason)
	}
	o.unlockNow()
	o.passes(2)
	if r := o.record(); len(r.Status.Leaving) > 0 || len(r.Changed) > 0 || len(r.VirtualServices) > 0 {
		t.Errorf("%+v, %+v, %v", r.Status.Leaving, r.Changed, r.VirtualServices)
	}
}

func TestWhatCannotBeGivenBackIsToldAndTriedAgain(t *testing.T) {
	o := withMesh(t, 10)
	o.passes(2, errorsAlert)
	o.losesMesh()
	o.passes(1)
	forbidden := apierrors.NewForbidden(schema.GroupResource{Group: IstioGroup, Resource: resourceVirtualServices}, meshName, errors.New("no right to patch it"))
	tries := 0
	o.refuse = func(write string, ops []virtualservice.Op) (error, bool) {
		if write == "traffic" && o.patching == meshName {
			tries++
			return forbidden, false
		}
		return nil, false
	}
	o.unlockNow()
	o.passes(1)
	s := o.record().Status
	if len(s.Leaving) != 1 || !strings.Contains(s.Leaving[0].Why, "no right to patch it") || !strings.Contains(o.history(), "leaving: ") {
		t.Fatalf("leaving %+v; history %s", s.Leaving, o.history())
	}
	tries = 0
	for range 10 { // within the minute
		if _, err := o.pass(); err != nil {
			t.Fatal(err)
		}
	}
	if tries > 1 {
		t.Errorf("tried %d times in ten seconds", tries)
	}
	if n := strings.Count(o.history(), "leaving: "); n != 1 {
		t.Errorf("told %d times", n)
	}
	// The brake of what the guard has goes on.
	o.withRoutes(vstest.PairRoute("", 50, 50))
	o.passes(1)
	late := errorsAlert
	late.StartsAt, late.Fingerprint = o.now, "late"
	o.passes(2, late)
	if !o.traffic().Clean() || o.record().Status.State != decision.StateRolledBack {
		t.Errorf("%+v, %+v", o.traffic(), o.record().Status)
	}
	o.unlockNow()
	o.refuse = func(string, []virtualservice.Op) (error, bool) { return nil, false }
	o.passes(3)
	o.meshIsFree(true)
}

func TestMarksThatAnotherGuardsLockNeedsStay(t *testing.T) {
	o := withMesh(t, 10)
	o.passes(2, errorsAlert)
	o.losesMesh()
	o.passes(1)
	o.w.foreign = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: records.Name("pay"), Labels: map[string]string{records.LabelGuard: "pay", records.LabelLocked: "true"}},
		Data: map[string]string{decision.KeyVirtualServices: meshName}}
	o.unlockNow()
	o.passes(2)
	vs := o.w.others[meshName]
	if vs.GetAnnotations()[decision.AnnotationState] == "" || !owned(vs) {
		t.Errorf("what the other guard's rollback owns was given up: %v", vs.GetAnnotations())
	}
	if vs.GetAnnotations()[decision.LockKey(o.guard.Name)] != "" {
		t.Error("this guard's own lock stands")
	}
	if r := o.record(); len(r.Status.Leaving)+len(r.Changed) > 0 {
		t.Errorf("%+v, %+v", r.Status.Leaving, r.Changed)
	}
}

func TestNoStepMovesAVirtualServiceThatHasLeft(t *testing.T) {
	o := withMesh(t, 0)
	o.guard.Promotion = decision.Promotion{Mode: decision.PromotionAuto, Steps: []decision.Step{{Weight: 10}, {Weight: 100}}}
	o.passes(2)
	o.withRoutes(vstest.PairRoute("", 90, 10))
	o.passes(1)
	o.passes(2, errorsAlert)
	o.losesMesh()
	o.w.made[2], o.w.template, o.w.pods = o.now, 2, []int{2, 2} // lifts the lock, and begins anew
	for range 4 {
		o.now = o.now.Add(decision.ListingKnows)
		o.passes(1)
		if w := o.meshTraffic(); w.Weight != 0 {
			t.Fatalf("a step gave it %d%%", w.Weight)
		}
	}
	if w := o.traffic(); w.Weight == 0 {
		t.Errorf("the guard's own has not begun: %+v; %s", w, o.record().Status.Waiting)
	}
	o.meshIsFree(true)
}

// A replica that has a newer configuration must not tell what the lease holder,
// which has the older one, goes on guarding.
func TestWhatHasLeftIsTheLeaseHoldersToTell(t *testing.T) {
	o := withMesh(t, 10)
	o.passes(2, errorsAlert)
	o.unlockNow()
	o.rec.leads = func() bool { return false }
	o.losesMesh()
	o.passes(2)
	if s := o.record().Status; len(s.Leaving) > 0 || !slices.Contains(s.Moves.VirtualServices, meshName) {
		t.Errorf("leaving %+v, moves %+v", s.Leaving, s.Moves)
	}
	o.rec.leads = func() bool { return true }
	o.passes(3)
	o.meshIsFree(true)
}

func TestPropertyWhateverLeavesIsGivenBackInTheEnd(t *testing.T) {
	outer := t
	rapid.Check(t, func(t *rapid.T) {
		o := withMesh(outer, 0)
		o.guard.Rollback.Lock = rapid.SampledFrom([]decision.LockKind{decision.LockBuild, decision.LockManual, decision.LockNone}).Draw(t, "lock")
		var firing []decision.Alert
		refused := false
		o.refuse = func(write string, _ []virtualservice.Op) (error, bool) {
			if refused && write == "traffic" && o.patching == meshName {
				return apierrors.NewForbidden(schema.GroupResource{}, meshName, errors.New("no")), false
			}
			return nil, false
		}
		touched := false
		for i := range rapid.IntRange(1, 14).Draw(t, "events") {
			switch rapid.SampledFrom([]string{"alert", "over", "shift", "mesh", "leave", "leave", "return", "unlock", "build", "forbid", "allow", "time"}).Draw(t, fmt.Sprint("event ", i)) {
			case "alert":
				firing = []decision.Alert{{Name: "E", Signal: "error_rate", Action: decision.ActionRollback, Fingerprint: fmt.Sprint("f", i), StartsAt: o.now}}
			case "over":
				firing = nil
			case "shift":
				share := rapid.SampledFrom([]int{0, 10, 100}).Draw(t, fmt.Sprint("share ", i))
				o.withRoutes(vstest.PairRoute("", 100-share, share))
			case "mesh":
				o.mesh(rapid.SampledFrom([]int{0, 10, 100}).Draw(t, fmt.Sprint("share ", i)))
				touched = true
			case "leave":
				o.losesMesh()
			case "return":
				o.guard.VirtualServices = []string{"orders-service", meshName}
			case "unlock":
				cm := o.w.cm.DeepCopy()
				ask(cm, decision.Request{Action: decision.RequestUnlock, By: "ann", Reason: "because", At: o.now})
				cm.ResourceVersion = o.w.next()
				o.w.cm = cm
			case "build":
				n := len(o.w.made) + 1
				o.w.made[n], o.w.template, o.w.pods = o.now, n, []int{n, n}
			case "forbid":
				refused = true
			case "allow":
				refused = false
			case "time":
				o.now = o.now.Add(10 * time.Minute)
			}
			if _, err := o.pass(firing...); err != nil && !errors.Is(err, errRefused) {
				t.Fatal(err)
			}
			if r := o.record(); r.Lock != nil && slices.Contains(r.VirtualServices, meshName) && !refused {
				if _, err := o.pass(firing...); err != nil {
					t.Fatal(err)
				}
				if got := o.meshTraffic(); !got.Clean() {
					t.Fatalf("locked, and it gives the canary %+v", got)
				}
			}
		}
		refused, firing = false, nil
		o.losesMesh()
		for range 3 {
			o.now = o.now.Add(10 * time.Minute)
			_, _ = o.pass()
		}
		if o.record().Lock != nil {
			o.unlockNow()
		}
		o.passes(4)
		if outer.Failed() {
			t.Fatal("see above")
		}
		o.meshIsFree(!touched || o.meshTraffic().CanaryOnly == 2)
		if outer.Failed() {
			t.Fatalf("history: %s; annotations %v", o.history(), maps.Keys(o.w.others[meshName].GetAnnotations()))
		}
	})
}

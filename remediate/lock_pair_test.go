package remediate

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// releases is a guard each of whose releases is a subset of its own: v1 is stable, v2
// the canary, and v3 the release after that. The replica that leads is lonely's.
type releases struct {
	*lonely
	next   *release
	rec2   *reconciler    // a replica that does not lead
	guard2 decision.Guard // by its file
}

// release is what runs behind v3.
type release struct {
	template int // 0: no Deployment
	born     time.Time
	ready    bool
}

func (r *release) pods() (out []*slimPod) {
	if r.template == 0 {
		return nil
	}
	for i := range 2 {
		p := *testPod("v3", i, r.template)
		p.born, p.readyFrom, p.ready = r.born.Unix(), r.born.Unix(), r.ready
		out = append(out, &p)
	}
	return out
}

// releasesReader adds v3 to a world.
type releasesReader struct {
	worldReader
	next *release
}

func (r releasesReader) destinationRule(ctx context.Context, name string) (*slimRule, error) {
	dr, err := r.worldReader.destinationRule(ctx, name)
	if err == nil {
		dr.subsets = append(dr.subsets, slimSubset{"v3", slimLabelsOf(map[string]string{"version": "v3"})})
	}
	return dr, err
}

func (r releasesReader) deployments(ctx context.Context, want workloadSelector) ([]*slimDeployment, error) {
	out, err := r.worldReader.deployments(ctx, want)
	if labels := slimLabelsOf(podLabels("v3")); err == nil && r.next.template != 0 && want.matches(labels) {
		d := &slimDeployment{slim: keep(&metav1.ObjectMeta{Name: "orders-v3"}), template: labels, build: r.hashOfTemplate(r.next.template), replicas: 2, have: 2, updated: 2}
		if r.next.ready {
			d.avail = 2
		}
		out = append(out, d)
	}
	return out, err
}

func (r releasesReader) pods(ctx context.Context, want workloadSelector) ([]*slimPod, error) {
	out, err := r.worldReader.pods(ctx, want)
	if want.matches(slimLabelsOf(podLabels("v3"))) {
		out = append(out, r.next.pods()...)
	}
	return out, err
}

func (r releasesReader) revisions(ctx context.Context, want workloadSelector, pods []*slimPod) ([]*slimRevision, error) {
	out, err := r.worldReader.revisions(ctx, want, pods)
	for ref := range revisionsOf(pods) {
		if n := r.next.template; ref.name == fmt.Sprintf("orders-v3-%d", n) {
			out = append(out, &slimRevision{slim: keep(&metav1.ObjectMeta{Name: ref.name}), kind: kindReplicaSet, owner: "Deployment/orders-v3",
				build: r.hashOfTemplate(n), made: r.next.born, lasting: true})
		}
	}
	return out, err
}

// newReleases is a guard whose v2 has weight.
func newReleases(t *testing.T, weight int) *releases {
	t.Helper()
	o := &releases{lonely: newLonely(t, weight), next: &release{}}
	o.shifts(weight, 0)
	reads := releasesReader{worldReader{world: o.w, saw: &o.saw}, o.next}
	o.rec.cached, o.rec.live = reads, reads
	o.rec2 = &reconciler{cached: reads, live: reads, store: o.rec.store, now: o.rec.now, domain: o.rec.domain, user: o.rec.user, leads: func() bool { return false },
		count: o.rec.count, changed: o.rec.changed}
	o.guard2 = o.guard
	o.looks(1)
	return o
}

// newBlocked is one whose v2 an alert would roll back, and stable has no endpoint.
func newBlocked(t *testing.T, weight int) (*releases, decision.Alert) {
	t.Helper()
	o := newReleases(t, weight)
	o.w.stable = 0
	alert := errorsAlert
	alert.StartsAt = o.now
	o.looks(2, alert)
	o.wants(true, decision.StateBlocked)
	return o, alert
}

// shifts is a write of CI's: percent for v2 and for v3, the rest for v1, and testers
// for v2.
func (o *releases) shifts(v2, v3 int) {
	entry := func(subset string, weight int) map[string]any {
		return map[string]any{"destination": map[string]any{"host": "orders-service", "subset": subset}, "weight": int64(weight)}
	}
	only := entry("v2", 100)
	delete(only, "weight")
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
		"metadata": map[string]any{"name": "orders-service", "namespace": testNamespace},
		"spec": map[string]any{"hosts": []any{"orders-service"}, "http": []any{
			map[string]any{"match": []any{map[string]any{"headers": map[string]any{"x-tester": map[string]any{"exact": "yes"}}}}, "route": []any{only}},
			map[string]any{"route": []any{entry("v1", 100-v2-v3), entry("v2", v2), entry("v3", v3)}}}}}}
	u.SetAnnotations(map[string]string{"team": "shop"})
	maps.Copy(u.GetAnnotations(), o.w.vs.GetAnnotations())
	if have := o.w.vs.GetAnnotations(); have != nil {
		u.SetAnnotations(maps.Clone(have))
	}
	u.SetResourceVersion(o.w.next())
	o.w.vs = u
}

// gets is what a subset gets of everybody's route, percent, or 100 where testers have it.
func (o *releases) gets(subset string) (most int) {
	for _, route := range o.w.vs.Object["spec"].(map[string]any)["http"].([]any) {
		entries := route.(map[string]any)["route"].([]any)
		for _, e := range entries {
			entry := e.(map[string]any)
			weight, ok := wholeWeight(entry["weight"])
			if len(entries) == 1 || !ok {
				weight = 100
			}
			if entry["destination"].(map[string]any)["subset"] == subset {
				most = max(most, weight)
			}
		}
	}
	return most
}

func wholeWeight(v any) (int, bool) {
	switch v := v.(type) {
	case int64:
		return int(v), true
	case float64:
		return int(v), true
	}
	return 0, false
}

// looks has both replicas look n times, the one that leads first.
func (o *releases) looks(n int, alerts ...decision.Alert) {
	o.t.Helper()
	for range n {
		if _, err := o.pass(alerts...); err != nil {
			o.t.Fatal(err)
		}
		o.now = o.now.Add(time.Second)
		if _, err := o.rec2.reconcile(o.t.Context(), o.guard2, alerts); err != nil {
			o.t.Fatal(err)
		}
	}
}

// edits has the file of the replicas named say this of stable and canary.
func (o *releases) edits(who, stable, canary string) {
	if who != "the other" {
		o.guard.Stable, o.guard.Canary = virtualservice.Ref{Subset: stable}, virtualservice.Ref{Subset: canary}
	}
	if who != "the leader" {
		o.guard2.Stable, o.guard2.Canary = virtualservice.Ref{Subset: stable}, virtualservice.Ref{Subset: canary}
	}
}

// whose file says v3 already.
var readers = []string{"both", "the leader", "the other"}

// rolledBack has an alert roll v2 back, and be over.
func (o *releases) rolledBack() {
	o.t.Helper()
	alert := errorsAlert
	alert.StartsAt = o.now
	o.looks(2, alert)
	o.looks(2)
	o.wants(true, decision.StateRolledBack)
}

func (o *releases) wants(locked bool, state decision.State) {
	o.t.Helper()
	if r := o.record(); (r.Lock != nil) != locked || r.Status.State != state {
		o.t.Fatalf("lock %+v, %s: %s; %s", r.Lock, r.Status.State, r.Status.Reason, o.history())
	}
}

func (o *releases) happened(e decision.Event) (n int) {
	for _, h := range o.record().History {
		if h.Event == e {
			n++
		}
	}
	return n
}

func TestARollbackIsNotConfirmedByTheTrafficOfAnotherCanary(t *testing.T) {
	for _, who := range readers {
		t.Run(who, func(t *testing.T) {
			o, _ := newBlocked(t, 50)
			o.edits(who, "v1", "v3")
			before := len(o.writes)
			o.looks(20)
			r := o.record()
			if o.wants(true, decision.StateBlocked); o.happened(decision.EventRolledBack) != 0 || !r.Status.Moving.RollsBack() || r.Status.Weight != 50 || o.happened(decision.EventBlocked) != 1 {
				t.Fatalf("v2 has %d%%, moving %+v, weight %d, %s", o.gets("v2"), r.Status.Moving, r.Status.Weight, o.history())
			}
			if n := len(o.writes) - before; n > 4 {
				t.Errorf("%d writes of 40 looks", n)
			}
			o.w.stable = 2
			o.looks(4)
			if o.wants(true, decision.StateRolledBack); o.gets("v2") != 0 || o.happened(decision.EventRolledBack) != 1 {
				t.Errorf("v2 has %d%%, %s", o.gets("v2"), o.history())
			}
		})
	}
}

// All traffic that another canary has makes no rollback window of the lock's.
func TestTheWindowOfABlockedRollbackIsNotEndedByAnotherCanary(t *testing.T) {
	for _, who := range readers {
		t.Run(who, func(t *testing.T) {
			o, _ := newBlocked(t, 100)
			o.edits(who, "v1", "v3")
			o.now = o.now.Add(2 * o.guard.Rollback.Window)
			o.shifts(0, 100) // testers still are v2's
			o.looks(10)
			if r := o.record(); r.Lock == nil || r.Lock.Canary != "v2" || !slices.Contains(r.Refused, o.w.hashOfTemplate(1)) || o.happened(decision.EventUnlocked) != 0 {
				t.Errorf("lock %+v, refused %v, %s", r.Lock, r.Refused, o.history())
			}
		})
	}
}

// The API server's refusal of the weights is no reason to believe another canary's.
func TestARollbackThatIsRefusedIsNotConfirmedByAnotherCanary(t *testing.T) {
	o := newReleases(t, 50)
	o.refusesTraffic(errForbidden, "")
	alert := errorsAlert
	alert.StartsAt = o.now
	for range 2 {
		o.pass(alert) // the error is the refusal
	}
	o.edits("both", "v1", "v3")
	for range 4 {
		o.pass()
	}
	if r := o.record(); r.Status.State != decision.StateBlocked || !r.Status.Moving.RollsBack() || o.happened(decision.EventRolledBack) != 0 {
		t.Errorf("%s: %s; %s", r.Status.State, r.Status.Reason, o.history())
	}
}

func TestTheCanaryThatALockIsOfStaysLockedWhateverTheConfigurationHas(t *testing.T) {
	for _, who := range readers {
		t.Run(who, func(t *testing.T) {
			o := newReleases(t, 50)
			o.rolledBack()
			o.next.template, o.next.born, o.next.ready = 31, at.Add(-time.Hour), true // v3 is older than the lock
			o.edits(who, "v1", "v3")
			o.looks(10)
			for _, v2 := range []int{10, 50} {
				o.shifts(v2, 0)
				o.looks(2)
				if o.wants(true, decision.StateRolledBack); o.gets("v2") != 0 {
					t.Fatalf("v2 has %d%%: %s", o.gets("v2"), o.history())
				}
			}
			r := o.record()
			if r.Lock.Canary != "v2" || r.Lock.Stable != "v1" || r.Status.Moves.Canary != "v2" || slices.Contains(r.Refused, o.w.hashOfTemplate(31)) || !slices.Contains(r.Refused, o.w.hashOfTemplate(1)) {
				t.Errorf("lock %+v, moves %+v, refused %v", r.Lock, r.Status.Moves, r.Refused)
			}
			if !slices.Contains(r.Deny, "orders-service/v2") || slices.Contains(r.Deny, "orders-service/v3") != (who != "the other") {
				t.Errorf("denies %v", r.Deny)
			}
			if l, err := decision.ParseLockAnnotation(o.w.vs.GetAnnotations()[decision.LockKey(o.guard.Name)]); err != nil || !slices.Equal(l.Canary, r.Deny) {
				t.Errorf("on the VirtualService: %v, %v", l.Canary, err)
			}
			if who != "the other" && !strings.Contains(r.Status.Reason, "guardian unlock") {
				t.Errorf("status says %q", r.Status.Reason)
			}
		})
	}
}

// An alert is about what the lock is not of, and what is not looked at.
func TestAnotherCanarysTrafficIsLeftAloneUnderALock(t *testing.T) {
	o := newReleases(t, 50)
	o.rolledBack()
	o.next.template, o.next.born, o.next.ready = 31, at.Add(-time.Hour), true
	o.shifts(0, 30)
	o.edits("both", "v1", "v3")
	alert := errorsAlert
	alert.Fingerprint, alert.StartsAt = "g", o.now.Add(time.Second)
	o.looks(10, alert)
	if o.wants(true, decision.StateRolledBack); o.gets("v3") != 30 || o.happened(decision.EventRolledBack) != 1 || o.happened(decision.EventReasserted) != 1 {
		t.Errorf("v3 has %d%%: %s", o.gets("v3"), o.history())
	}
	if r := o.record(); !strings.Contains(r.Status.Reason, "v3") || !strings.Contains(r.Status.Reason, "30%") || o.happened(decision.EventNoted) != 1 {
		t.Errorf("%s; %s", r.Status.Reason, o.history())
	}
}

// The lock gives way to a new build of the canary that the configuration has by now.
func TestANewBuildOfAnotherCanaryLiftsALockOnceItsRollbackIsDone(t *testing.T) {
	for _, who := range []string{"both", "the leader"} { // the other's file stays that of before until v3 has traffic
		t.Run(who, func(t *testing.T) { newBuildOfV3Lifts(t, who) })
	}
}

func newBuildOfV3Lifts(t *testing.T, who string) {
	o, alert := newBlocked(t, 50)
	o.edits(who, "v1", "v3")
	o.now = o.now.Add(time.Hour)
	o.next.template, o.next.born, o.next.ready = 31, o.now, true
	o.looks(4)
	o.wants(true, decision.StateBlocked) // v2 still has 50%
	if message := o.record().Message; strings.Contains(message, "deploy a new build of v3") || !strings.Contains(message, "guardian unlock") {
		t.Errorf("message %q", message)
	}
	o.w.stable = 2
	o.looks(4)
	r := o.record()
	if r.Lock != nil || r.Status.Moves.Canary != "v3" || o.happened(decision.EventUnlocked) != 1 || o.happened(decision.EventExchanged) != 1 || !slices.Contains(r.Refused, o.w.hashOfTemplate(1)) {
		t.Fatalf("lock %+v, moves %+v, refused %v, %s", r.Lock, r.Status.Moves, r.Refused, o.history())
	}
	if o.gets("v2") != 0 || len(r.Changed) > 0 {
		t.Errorf("testers are led to v2 again: %d%%, %v", o.gets("v2"), r.Changed)
	}
	if _, stands := o.w.vs.GetAnnotations()[decision.LockKey(o.guard.Name)]; stands {
		t.Error("the lock still stands on the VirtualService")
	}
	o.edits("both", "v1", "v3")
	o.shifts(0, 30)
	o.looks(2)
	o.wants(false, decision.StateShifting)
	o.now = o.now.Add(time.Hour)
	alert.StartsAt = o.now
	o.looks(3, alert)
	if o.wants(true, decision.StateRolledBack); o.gets("v3") != 0 || o.record().Lock.Canary != "v3" {
		t.Errorf("v3 has %d%%, lock %+v", o.gets("v3"), o.record().Lock)
	}
}

func TestWhatDoesNotLiftTheLockOfAnotherCanary(t *testing.T) {
	later := at.Add(time.Hour)
	for name, c := range map[string]struct {
		next release
		edit func(o *releases)
		says string // the lock's message
	}{
		"an old build":         {release{31, at.Add(-time.Hour), true}, nil, "deploy a new build of v3"},
		"pods that are not up": {release{31, later, false}, nil, "deploy a new build of v3"},
		"nothing at all":       {release{}, nil, "deploy a new build of v3"},
		"a lock by hand": {release{31, later, true}, func(o *releases) {
			o.guard.Rollback.Lock, o.guard2.Rollback.Lock = decision.LockManual, decision.LockManual
		}, "lift the lock by hand"},
		"the other's file only": {release{31, later, true}, func(o *releases) { o.guard.Canary.Subset = "v2" }, "deploy a new build of v2"},
	} {
		t.Run(name, func(t *testing.T) {
			o := newReleases(t, 50)
			o.edits("both", "v1", "v3")
			if c.edit != nil {
				c.edit(o)
			}
			leader, other := o.guard.Canary, o.guard2.Canary
			o.guard.Canary.Subset, o.guard2.Canary.Subset = "v2", "v2"
			o.rolledBack()
			o.guard.Canary, o.guard2.Canary = leader, other
			*o.next = c.next
			o.now = later.Add(time.Minute)
			o.looks(10)
			if o.wants(true, decision.StateRolledBack); o.record().Lock.Canary != "v2" || !strings.Contains(o.record().Message, c.says) {
				t.Errorf("lock %+v, message %q", o.record().Lock, o.record().Message)
			}
			o.shifts(20, 0)
			if o.looks(2); o.gets("v2") != 0 {
				t.Errorf("v2 has %d%%", o.gets("v2"))
			}
		})
	}
}

// A refused build that runs behind the configuration's canary is what the lock has to
// hold: the subset may have got another name.
func TestALockGoesOverToTheCanaryThatRunsARefusedBuild(t *testing.T) {
	o := newReleases(t, 50)
	o.rolledBack()
	o.next.template, o.next.born, o.next.ready = 1, at.Add(time.Hour), true
	o.edits("both", "v1", "v3")
	o.shifts(0, 30)
	o.looks(4)
	r := o.record()
	if o.wants(true, decision.StateRolledBack); o.gets("v3") != 0 || r.Lock.Canary != "v3" || r.Status.Moves.Canary != "v3" {
		t.Errorf("v3 has %d%%, lock %+v, %s", o.gets("v3"), r.Lock, o.history())
	}
	if !slices.Contains(r.Deny, "orders-service/v2") || !slices.Contains(r.Deny, "orders-service/v3") {
		t.Errorf("denies %v", r.Deny)
	}
	o.now = o.now.Add(time.Hour)
	o.next.template, o.next.born = 31, o.now
	o.looks(3)
	if r := o.record(); r.Lock != nil {
		t.Errorf("a new build of v3 does not lift it: %+v", r.Lock)
	}
	if o.gets("v2") != 0 { // nobody has unlocked its build, and nothing guards it
		t.Errorf("testers are led to v2 again: %s", o.history())
	}
}

func TestStableIsNeverWhatALockIsOf(t *testing.T) {
	for _, canary := range []string{"v1", "v3"} {
		t.Run("the canary is "+canary, func(t *testing.T) {
			o := newReleases(t, 50)
			o.rolledBack()
			o.edits("both", "v1", "v3")
			o.looks(4) // which has the lock deny v3 as well
			o.edits("both", "v2", canary)
			o.shifts(0, 0)
			o.looks(4)
			if o.wants(true, decision.StateBlocked); !strings.HasPrefix(o.record().Status.Reason, "stable v2 is what the lock denies") {
				t.Errorf("%s", o.record().Status.Reason)
			}
		})
	}
}

func TestAnUnlockIsOfTheLocksCanaryAndTheOtherIsLookedAtAnew(t *testing.T) {
	o := newReleases(t, 50)
	o.rolledBack()
	o.next.template, o.next.born, o.next.ready = 31, at.Add(-time.Hour), true
	o.edit(func(data map[string]string) { data[decision.KeyRefused] += " " + o.w.hashOfTemplate(32) })
	o.edits("both", "v1", "v3")
	o.looks(2)
	*o.next = release{32, at.Add(-time.Hour), false} // its pods are not up: nobody sees what they are
	o.next.template = 31
	o.looks(1)
	o.edit(func(data map[string]string) {
		maps.Copy(data, decision.Request{Action: decision.RequestUnlock, By: "ann", Reason: "v3 is good", At: o.now}.Data())
	})
	o.looks(1)
	*o.next = release{32, at.Add(-time.Hour), true}
	o.shifts(0, 30)
	o.looks(4)
	r := o.record()
	if o.wants(true, decision.StateRolledBack); r.Lock.Canary != "v3" || r.Lock.By != decision.ByRefused || o.gets("v3") != 0 {
		t.Fatalf("lock %+v, %s", r.Lock, o.history())
	}
	o.now = o.now.Add(time.Hour)
	*o.next = release{33, o.now, true}
	if o.looks(3); o.record().Lock != nil {
		t.Errorf("a new build of v3 does not lift it: %+v", o.record().Lock)
	}
}

// An older copy of the record is restored: the lock that is taken up is of the canary
// that the annotation names.
func TestALockThatIsTakenUpIsOfTheCanaryThatTheAnnotationNames(t *testing.T) {
	var older *corev1.ConfigMap
	for name, c := range map[string]struct {
		before, after, lockedIn string
		restore                 func(o *releases)
	}{
		"an older record is restored": {"v2", "v3", "v3", func(o *releases) { o.w.cm = older.DeepCopy(); o.w.cm.ResourceVersion = o.w.next() }},
		"the record is lost":          {"v2", "v2", "v2", func(o *releases) { o.w.cm = nil; o.edits("both", "v1", "v3") }},
	} {
		t.Run(name, func(t *testing.T) {
			o := newReleases(t, 0)
			older = o.w.cm
			*o.next = release{31, at.Add(-time.Hour), true}
			o.edits("both", "v1", c.after)
			o.looks(3)
			if c.after == "v3" {
				o.shifts(0, 50)
			} else {
				o.shifts(50, 0)
			}
			o.looks(2)
			o.rolledBack()
			c.restore(o)
			for range 3 {
				o.looks(2)
				if r := o.record(); r.Lock == nil || r.Lock.Canary != c.lockedIn || r.Status.Moves.Canary != c.lockedIn {
					t.Fatalf("lock %+v, moves %+v; %s", r.Lock, r.Status.Moves, o.history())
				}
				o.shifts(map[string]int{"v2": 20}[c.lockedIn], map[string]int{"v3": 20}[c.lockedIn])
				o.looks(3)
				if o.gets(c.lockedIn) != 0 {
					t.Fatalf("%s has %d%%: %s", c.lockedIn, o.gets(c.lockedIn), o.history())
				}
			}
			if innocent := o.w.hashOfTemplate(31); c.lockedIn == "v2" && slices.Contains(o.record().Refused, innocent) {
				t.Errorf("v3's build is refused: %v", o.record().Refused)
			}
			o.now = o.now.Add(time.Hour)
			*o.next = release{33, o.now, true}
			if o.looks(4); o.record().Lock != nil {
				t.Errorf("a new build of v3 does not lift it: %+v", o.record().Lock)
			}
		})
	}
}

// Whoever edits of which pair a lock is takes no brake off.
func TestAnEditOfALocksPairLetsNothingThrough(t *testing.T) {
	for name, pair := range map[string][2]string{"stable's": {"v1", "v1"}, "another's": {"v1", "v9"}, "exchanged": {"v2", "v1"}, "no stable": {"", "v2"}, "none": {"", ""}, "no ref": {"v1", "port:7"}} {
		for _, who := range readers {
			t.Run(name+", v3 read by "+who, func(t *testing.T) {
				o := newReleases(t, 50)
				o.rolledBack()
				*o.next = release{31, at.Add(-time.Hour), true}
				o.edits(who, "v1", "v3")
				o.looks(2)
				l := *o.record().Lock
				l.Stable, l.Canary = pair[0], pair[1]
				o.edit(func(data map[string]string) {
					data[decision.KeyLock] = decision.Record{Lock: &l}.Data()[decision.KeyLock]
				})
				o.shifts(50, 0)
				o.looks(3)
				if o.wants(true, decision.StateRolledBack); o.gets("v2") != 0 || o.record().Lock.Canary != "v2" {
					t.Errorf("v2 has %d%%, lock %+v; %s", o.gets("v2"), o.record().Lock, o.history())
				}
			})
		}
	}
}

// What a lock denies besides is not what it is of: another guard of that canary is free.
func TestWhatALockDeniesBesidesIsNoLockOfAnotherGuard(t *testing.T) {
	o := newReleases(t, 50)
	o.rolledBack()
	*o.next = release{31, at.Add(-time.Hour), true}
	o.edits("both", "v1", "v3")
	o.looks(3)
	if cm, _ := o.w.denying(t.Context(), "orders-service.microservices.svc.cluster.local/v3"); len(cm) != 1 {
		t.Fatalf("%v: v3 is not denied", o.record().Deny)
	}
	o.w.foreign, o.w.cm, o.guard.Name = o.w.cm, nil, "orders-v3"
	o.shifts(0, 30)
	for range 3 {
		if _, err := o.pass(); err != nil {
			t.Fatal(err)
		}
	}
	if r := o.record(); r.Lock != nil || o.gets("v3") != 30 || len(r.Refused) > 0 {
		t.Errorf("lock %+v, refused %v, v3 has %d%%", r.Lock, r.Refused, o.gets("v3"))
	}
}

// The weight that is exported bears the name of the configuration's canary.
func TestTheExportedWeightIsOfTheConfigurationsCanary(t *testing.T) {
	o := newReleases(t, 50)
	o.rolledBack()
	*o.next = release{31, at.Add(-time.Hour), true}
	o.edits("both", "v1", "v3")
	o.shifts(0, 30)
	m := NewMetrics(prometheus.NewRegistry())
	m.start(o.guard)
	out, err := o.pass()
	if err != nil {
		t.Fatal(err)
	}
	m.observe(o.guard, out)
	if s := m.guards[o.guard.Name]; s.weight != 30 || s.state != decision.StateRolledBack {
		t.Errorf("weight %d, state %s", s.weight, s.state)
	}
}

// The lease may go, right after the lift, to a replica that has not read the file yet:
// it sees the build that v2 goes on running, and locks v2 once more.
func TestALockThatAReplicaWithTheOldFileSetsAnewIsHandedOverAgain(t *testing.T) {
	o := newReleases(t, 50)
	o.rolledBack()
	o.edits("the leader", "v1", "v3")
	o.now = o.now.Add(time.Hour)
	o.next.template, o.next.born, o.next.ready = 31, o.now, true
	if _, err := o.pass(); err != nil {
		t.Fatal(err)
	}
	if r := o.record(); r.Lock != nil {
		t.Fatalf("a new build of v3 has not lifted the lock: %+v", r.Lock)
	}
	led := o.rec.leads
	o.rec.leads, o.rec2.leads = func() bool { return false }, led
	o.now = o.now.Add(5 * time.Minute)
	o.looks(4)
	if l := o.record().Lock; l == nil || l.Canary != "v2" || l.By != decision.ByRefused {
		t.Fatalf("the replica with the old file: lock %+v, %s", l, o.history())
	}
	o.edits("both", "v1", "v3")
	o.looks(4)
	if r := o.record(); r.Lock != nil || r.Status.Moves.Canary != "v3" {
		t.Errorf("with the file read: lock %+v, moves %+v, %s", r.Lock, r.Status.Moves, o.history())
	}
}

func TestTrafficOfACanaryWhileTheLockIsOfAnotherIsToldAsUnguarded(t *testing.T) {
	o := newReleases(t, 50)
	o.rec.unguarded = func(decision.Guard, virtualservice.Pair, []string) ([]string, bool) { return nil, true }
	o.rolledBack()
	o.next.template, o.next.born, o.next.ready = 31, o.now.Add(-time.Hour), true // v3 is older than the lock
	o.edits("both", "v1", "v3")
	o.looks(2)
	if r := o.record(); len(r.Status.Unguarded) > 0 || o.happened(decision.EventUnguarded) > 0 {
		t.Fatalf("without traffic: %v, %s", r.Status.Unguarded, o.history())
	}
	o.shifts(0, 30)
	o.looks(3)
	want := []string{"the traffic of canary v3, while the lock is of v2 (30%)"}
	if r := o.record(); !slices.Equal(r.Status.Unguarded, want) || o.happened(decision.EventUnguarded) != 1 {
		t.Fatalf("got %v, want %v; %s", r.Status.Unguarded, want, o.history())
	}
	o.shifts(0, 0)
	o.looks(2)
	if r := o.record(); len(r.Status.Unguarded) > 0 {
		t.Errorf("when it is over: %v", r.Status.Unguarded)
	}
}

// Each replica counts stable's endpoints, and by which file that is the lease holder tells.
func TestReplicasThatReadAnotherStableUnderALockComeToRest(t *testing.T) {
	for _, who := range readers {
		t.Run(who, func(t *testing.T) {
			o := newReleases(t, 50)
			o.rolledBack()
			o.w.stable = 1
			o.looks(2)
			*o.next = release{31, at.Add(-time.Hour), true}
			o.edits(who, "v3", "v2")
			o.looks(5)
			o.now = o.now.Add(2 * time.Minute) // numbers have been told, and the alert is listed no more
			o.looks(1)
			before, want := len(o.writes), "v3"
			if who == "the other" {
				want = "v1"
			}
			o.looks(100)
			if r := o.record(); len(o.writes) > before || r.Lock == nil || r.Lock.Stable != want || r.Status.Moves.Stable != want {
				t.Errorf("%d writes of 200 looks, lock %+v, moves %+v, ready %+v", len(o.writes)-before, r.Lock, r.Status.Moves, r.Status.Ready)
			}
		})
	}
}

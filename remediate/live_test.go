package remediate

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/decision/decisiontest"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// slowReader answers nothing until the context ends.
type slowReader struct {
	worldReader
	asked chan<- struct{}
}

func (s slowReader) record(ctx context.Context, _ string) (*corev1.ConfigMap, error) {
	s.asked <- struct{}{}
	<-ctx.Done()
	return nil, ctx.Err()
}

// lifting is a world whose guard is locked, and whose canary has a new build:
// the lease holder would read it live.
func lifting(t *testing.T) (*world, *reconciler, decision.Guard) {
	t.Helper()
	g := decisiontest.Given().Guard
	w := &world{template: 2, made: map[int]time.Time{1: at.Add(-time.Hour), 2: at.Add(time.Minute)}, pods: []int{2, 2}, stable: 2}
	w.vs = applied(w, 0)
	rec := decisiontest.Given(locked(decision.LockBuild)).Record
	rec.Deny = []string{"orders-service.microservices.svc.cluster.local/v2"}
	rec.Refused, rec.Lock.Build, rec.Lock.Refused, rec.Status.Build = []string{w.hashOfTemplate(1)}, w.hashOfTemplate(1), []string{w.hashOfTemplate(1)}, w.hashOfTemplate(2)
	store := &worldStore{w: w, before: func(string) error { return nil }, after: func(string) error { return nil }}
	if _, err := store.writeRecord(t.Context(), g.Name, nil, rec); err != nil {
		t.Fatal(err)
	}
	var saw *world
	r := &reconciler{cached: worldReader{world: w, saw: &saw}, live: worldReader{world: w, saw: &saw}, store: store, now: func() time.Time { return at.Add(time.Hour) },
		past: records.NewHistories(), domain: virtualservice.DefaultDomain, leads: func() bool { return true }, changed: func(context.Context, decision.Guard, snapshot, decision.Decision) {},
		count: func(context.Context, snapshot) decision.Count { return decision.Count{} }}
	return w, r, g
}

func TestLiveReadsEndWhenAnAlertComes(t *testing.T) {
	w, r, g := lifting(t)
	asked := make(chan struct{}, 1)
	var saw *world
	r.live = slowReader{worldReader{world: w, saw: &saw}, asked}
	alert := make(chan context.CancelFunc, 1)
	r.preemptible = func(ctx context.Context, _ string) (context.Context, context.CancelFunc) {
		ctx, cancel := context.WithCancel(ctx)
		alert <- cancel
		return ctx, cancel
	}
	go func() {
		<-asked
		(<-alert)()
	}()
	out, err := r.reconcile(t.Context(), g, nil)
	if err != nil || out.decision.Record.Lock == nil {
		t.Fatalf("lock %+v, %v: want the pass to end with the lock as it was", out.decision.Record.Lock, err)
	}
	// What the caches alone contradict the record in is not written then.
	w.template, w.pods, w.made[3] = 3, []int{3, 3}, at.Add(2*time.Minute)
	go func() {
		<-asked
		(<-alert)()
	}()
	before := w.version
	if _, err := r.reconcile(t.Context(), g, nil); !errors.Is(err, errAbandoned) || w.version != before {
		t.Errorf("%v, %d writes: want none, and another pass", err, w.version-before)
	}
	// Nobody hurries: it is read to the end.
	r.live, r.preemptible = worldReader{world: w, saw: &saw}, func(ctx context.Context, _ string) (context.Context, context.CancelFunc) {
		return context.WithCancel(ctx)
	}
	if out, err := r.reconcile(t.Context(), g, nil); err != nil || out.decision.Record.Lock != nil {
		t.Errorf("lock %+v, %v: want it lifted", out.decision.Record.Lock, err)
	}
}

// TestALiveLookReadsWhatPodsWereMadeFromOnce has 200 pods of two ReplicaSets, one of which has lost its labels.
func TestALiveLookReadsWhatPodsWereMadeFromOnce(t *testing.T) {
	var mu sync.Mutex
	var asked []string
	yes := true
	set := func(name string) appsv1.ReplicaSet {
		return appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: []metav1.OwnerReference{{Kind: "Deployment", Name: "v2", Controller: &yes}}},
			Spec: appsv1.ReplicaSetSpec{Template: template(name)}}
	}
	revision := appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: "s-aaa", OwnerReferences: []metav1.OwnerReference{{Kind: "StatefulSet", Name: "s", Controller: &yes}}}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked = append(asked, strings.TrimPrefix(r.URL.Path, "/apis/apps/v1/namespaces/shop/")+"?"+r.URL.Query().Get("labelSelector"))
		mu.Unlock()
		var body any
		switch {
		case strings.HasSuffix(r.URL.Path, "/replicasets"):
			body = appsv1.ReplicaSetList{Items: []appsv1.ReplicaSet{set("one"), set("older")}}
		case strings.HasSuffix(r.URL.Path, "/controllerrevisions"):
			body = appsv1.ControllerRevisionList{Items: []appsv1.ControllerRevision{revision}}
		case strings.HasSuffix(r.URL.Path, "/two"):
			body = set("two")
		default:
			w.WriteHeader(http.StatusNotFound)
			body = metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonNotFound, Code: http.StatusNotFound}
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(body); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	kube, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	pods := []*slimPod{readyPod("s-0", "", ownedBy("StatefulSet", "s"), hashed("s-aaa")), readyPod("x", "gone")}
	for range 100 {
		pods = append(pods, readyPod("a", "one"), readyPod("b", "two"))
	}
	want := newWorkloadSelector(slimLabelsOf(map[string]string{"app": "orders"}), nil)
	found, err := (&liveReader{namespace: "shop", kube: kube}).revisions(t.Context(), want, pods)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range found {
		names = append(names, r.name)
	}
	slices.Sort(names)
	if want := []string{"older", "one", "s-aaa", "two"}; !slices.Equal(names, want) {
		t.Errorf("found %v, want %v", names, want)
	}
	slices.Sort(asked)
	if want := []string{"controllerrevisions?app=orders", "replicasets/gone?", "replicasets/two?", "replicasets?app=orders"}; !slices.Equal(asked, want) {
		t.Errorf("asked for %v, want %v", asked, want)
	}
}

func TestWithoutALockACacheThatLagsHasNoRollbackTold(t *testing.T) {
	w, r, g := lifting(t)
	g.Rollback.Lock = decision.LockNone
	rec := decisiontest.Given().Record
	rec.Status.Build = w.hashOfTemplate(2)
	w.vs = applied(w, 50)
	if _, err := r.store.writeRecord(t.Context(), g.Name, w.cm, rec); err != nil {
		t.Fatal(err)
	}
	past := *w
	alert := decision.Alert{Name: "Errors", Action: decision.ActionRollback, Fingerprint: "f", StartsAt: at.Add(30 * time.Minute)}
	told := func() (out []decision.Event) {
		t.Helper()
		for range 3 {
			if _, err := r.reconcile(t.Context(), g, []decision.Alert{alert}); err != nil {
				t.Fatal(err)
			}
			past.cm = w.cm // which comes by a watch of its own
		}
		stored, err := records.Parse(w.cm)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range stored.History {
			out = append(out, e.Event)
		}
		return out
	}
	done := told()
	if !slices.Contains(done, decision.EventRolledBack) {
		t.Fatalf("told %v: want a rollback", done)
	}
	var saw *world
	r.cached = worldReader{world: &past, saw: &saw}
	if got := told(); !slices.Equal(got, done) {
		t.Errorf("told %v after %v, and nothing has happened", got, done)
	}
}

// The record and the VirtualServices come by watches of their own.
func TestWithoutALockACacheThatLagsHasNoRollbackRefused(t *testing.T) {
	for name, sameReplica := range map[string]bool{"by who has done it": true, "by another replica": false} {
		t.Run(name, func(t *testing.T) {
			w, r, g := lifting(t)
			g.Rollback.Lock = decision.LockNone
			rec := decisiontest.Given().Record
			rec.Status.Build = w.hashOfTemplate(2)
			q := decision.Request{Action: decision.RequestRollback, By: "ann", Reason: "because", At: at, ID: "id-of-ann"}
			rec.Request = &q
			w.vs = applied(w, 50)
			if _, err := r.store.writeRecord(t.Context(), g.Name, w.cm, rec); err != nil {
				t.Fatal(err)
			}
			past := *w
			stored := func() decision.Record {
				t.Helper()
				if _, err := r.reconcile(t.Context(), g, nil); err != nil {
					t.Fatal(err)
				}
				rec, err := records.Parse(w.cm)
				if err != nil {
					t.Fatal(err)
				}
				return rec
			}
			if rec := stored(); !rec.Status.Moving.Carries(q) {
				t.Fatalf("status %+v, answers %+v: want it under way", rec.Status, rec.Answers)
			}
			past.cm = w.cm
			var saw *world
			r.cached = worldReader{world: &past, saw: &saw}
			r.now = func() time.Time { return at.Add(time.Hour + time.Minute) } // when it would be given up
			if !sameReplica {
				r.done = confirmed{}
			}
			if a := stored().AnswerTo(q); a == nil || a.Result != decision.ResultDone {
				t.Errorf("answered by %+v, and it is done", a)
			}
		})
	}
}

// abandonedOnce ends the first live look of a pass, as an alert that comes does.
type abandonedOnce struct {
	worldReader
	cancel context.CancelFunc
	ended  bool
}

func (a *abandonedOnce) record(ctx context.Context, guard string) (*corev1.ConfigMap, error) {
	if a.cancel != nil && !a.ended {
		a.ended = true
		a.cancel()
		return nil, ctx.Err()
	}
	return a.worldReader.record(ctx, guard)
}

// abandoned has a reconciler believe the caches, which have what was at past, and its
// first live look abandoned.
func abandoned(t *testing.T, w, past *world, r *reconciler) {
	t.Helper()
	var saw *world
	live := &abandonedOnce{worldReader: worldReader{world: w, saw: &saw}}
	r.cached, r.live = worldReader{world: past, saw: &saw}, live
	r.preemptible = func(ctx context.Context, _ string) (context.Context, context.CancelFunc) {
		ctx, cancel := context.WithCancel(ctx)
		live.cancel = cancel
		return ctx, cancel
	}
	t.Cleanup(func() {
		if !live.ended {
			t.Error("no live look was abandoned")
		}
	})
}

func storedRecord(t *testing.T, w *world) decision.Record {
	t.Helper()
	rec, err := records.Parse(w.cm)
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

// shiftedSince is a guard whose canary has 50%, and what caches have of the time when
// nothing led to it.
func shiftedSince(t *testing.T) (w, past *world, r *reconciler, g decision.Guard) {
	t.Helper()
	w, r, g = lifting(t)
	r.leads = func() bool { return false }
	if _, err := r.reconcile(t.Context(), g, nil); err != nil { // nothing leads to the canary now
		t.Fatal(err)
	}
	r.leads = func() bool { return true }
	before := *w
	w.vs = applied(w, 50)
	w.vs.SetResourceVersion(w.next())
	return w, &before, r, g
}

// Another replica has recorded a rollback and not made it yet. The cache shows the weights
// of before the shift.
func TestALookThatIsAbandonedTellsOfNoRollbackByACacheAlone(t *testing.T) {
	w, past, r, g := shiftedSince(t)
	rec := storedRecord(t, w)
	rec.History = nil
	rec.Status.State, rec.Status.Weight = decision.StateShifting, 50
	rec.Status.Moving = &decision.Moving{From: 50, At: at.Add(time.Hour - time.Second), By: decision.ByAlert, Build: rec.Status.Build, Reason: "Errors"}
	if _, err := r.store.writeRecord(t.Context(), g.Name, w.cm, rec); err != nil {
		t.Fatal(err)
	}
	past.cm = w.cm // which comes by a watch of its own
	abandoned(t, w, past, r)
	_, err := r.reconcile(t.Context(), g, nil)
	if rec := storedRecord(t, w); !rec.Status.Moving.RollsBack() || rec.Status.State == decision.StateRolledBack {
		t.Errorf("%v; state %q, under way %+v, history %+v: the canary had 50%% all the while", err, rec.Status.State, rec.Status.Moving, rec.History)
	}
}

// CI has shifted, which the cache does not show. The pass was to resume, and has an alert
// that is answered with success by what it writes: that it found nothing to do would stand
// there until the watch brings the shift, and the alert may be over by then.
func TestALookThatIsAbandonedPassesNoAlertOverByACacheAlone(t *testing.T) {
	w, past, r, g := shiftedSince(t)
	rec := decisiontest.Given().Record
	rec.Status.Build, rec.Status.State, rec.Status.Weight = w.hashOfTemplate(2), decision.StateIdle, 0
	rec.Request = &decision.Request{Action: decision.RequestResume, By: "ann", Reason: "because", At: at.Add(time.Hour)}
	if _, err := r.store.writeRecord(t.Context(), g.Name, w.cm, rec); err != nil {
		t.Fatal(err)
	}
	past.cm = w.cm
	abandoned(t, w, past, r)
	alert := decision.Alert{Name: "Errors", Action: decision.ActionRollback, Fingerprint: "f", StartsAt: at.Add(59 * time.Minute)}
	out, err := r.reconcile(t.Context(), g, []decision.Alert{alert})
	if rec := storedRecord(t, w); err != nil || !out.done || rec.Lock == nil || out.decision.Move != decision.MoveStable {
		t.Errorf("%v; move %v, lock %+v, history %+v: want it rolled back", err, out.decision.Move, rec.Lock, rec.History)
	}
}

// The lock of another guard has been lifted, which the cache does not show.
func TestALookThatIsAbandonedTakesNoLockOverByACacheAlone(t *testing.T) {
	w, r, g := lifting(t)
	other := w.cm.DeepCopy()
	other.Name, other.Labels[records.LabelGuard] = records.Name("orders-before"), "orders-before"
	rec := decisiontest.Given().Record
	rec.Status.Build, rec.Status.State, rec.Status.Weight = w.hashOfTemplate(2), decision.StateIdle, 0
	w.vs = applied(w, 0)
	if _, err := r.store.writeRecord(t.Context(), g.Name, w.cm, rec); err != nil {
		t.Fatal(err)
	}
	past := *w
	past.foreign = other // which has been lifted since
	abandoned(t, w, &past, r)
	_, err := r.reconcile(t.Context(), g, nil)
	if rec := storedRecord(t, w); rec.Lock != nil {
		t.Errorf("%v; lock %+v: want none, as there is none anywhere", err, rec.Lock)
	}
}

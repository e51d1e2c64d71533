package remediate

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// recordRow is one kind of write to a guard's record.
type recordRow struct {
	name        string
	before      func(ns string, r *corev1.ConfigMap) // of the stored one; nil: nothing waits
	change      func(ns string, by who, r *corev1.ConfigMap)
	create      bool
	remove      bool
	terminating bool
	want        map[answer][]who
}

// asked is a request in the record, as the command writes it.
func asked(user, action string) map[string]string {
	return map[string]string{"request.action": action, "request.by": user, "request.reason": "because", "request.at": "2026-03-02T09:00:00Z"}
}

// asksFor is a request in one's own name.
func asksFor(action string) func(string, who, *corev1.ConfigMap) {
	return func(ns string, by who, r *corev1.ConfigMap) { maps.Copy(r.Data, asked(by.in(ns), action)) }
}

// withKey is a rollback in one's own name with one more key.
func withKey(key, value string) func(string, who, *corev1.ConfigMap) {
	return func(ns string, by who, r *corev1.ConfigMap) {
		maps.Copy(r.Data, asked(by.in(ns), "rollback"))
		delete(r.Data, "request.id")
		r.Data[key] = value
	}
}

// waitsWithID is a record with a request that has an id, and has taken another's place.
func waitsWithID(_ string, r *corev1.ConfigMap) {
	maps.Copy(r.Data, asked("eve", "promote"))
	r.Data["request.id"], r.Data["request.replaces"] = "eve-s-own", "bob-s-own"
}

// idIsLeft is a record from which a command that knows no ids took a request.
func idIsLeft(_ string, r *corev1.ConfigMap) {
	r.Data["request.id"], r.Data["request.replaces"] = "eve-s-own", "bob-s-own"
}

// takeOffButIDs takes a request off as a command does that knows no ids.
func takeOffButIDs(r *corev1.ConfigMap) {
	for key := range asked("", "") {
		delete(r.Data, key)
	}
}

// requestWaits is a record with a request of somebody.
func requestWaits(user, action string) func(string, *corev1.ConfigMap) {
	return func(_ string, r *corev1.ConfigMap) { maps.Copy(r.Data, asked(user, action)) }
}

func theRecord(ns string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Name: records.Name("orders-service"), Namespace: ns, Labels: map[string]string{records.LabelGuard: "orders-service", records.LabelLocked: "true"},
			Annotations: map[string]string{records.AnnotationOwner: theGuardian.in(ns)}},
		Data: map[string]string{decision.KeyLock: `{"kind":"build"}`, decision.KeyRefused: "b1", decision.KeyStatus: `{"state":"rolled-back"}`},
	}
}

// theRecordTable is who may do what to a record.
func theRecordTable() []recordRow {
	nobodyElse := map[answer][]who{refused: others, passes: {theGuardian}}
	whole := map[answer][]who{passes: {ci, clusterAdmin, unlocker, deployer}}
	forbidden := map[answer][]who{refused: others}
	set := func(edit func(r *corev1.ConfigMap)) func(string, who, *corev1.ConfigMap) {
		return func(_ string, _ who, r *corev1.ConfigMap) { edit(r) }
	}
	return []recordRow{
		{name: "made, naming guardian", create: true, want: nobodyElse},
		{name: "made, naming oneself", create: true, change: func(ns string, by who, r *corev1.ConfigMap) { r.Annotations[records.AnnotationOwner] = by.in(ns) },
			want: map[answer][]who{refused: {ci, clusterAdmin, unlocker, stranger}, passes: {theGuardian, opsGuardian}}},
		{name: "made under another name", create: true, change: set(func(r *corev1.ConfigMap) { r.Name = "guardian-x" }), want: map[answer][]who{refused: {theGuardian}}},
		{name: "the lock taken out", change: set(func(r *corev1.ConfigMap) { delete(r.Data, decision.KeyLock); delete(r.Labels, records.LabelLocked) }), want: nobodyElse},
		{name: "a refused build taken out", change: set(func(r *corev1.ConfigMap) { delete(r.Data, decision.KeyRefused) }), want: nobodyElse},
		{name: "a further key", change: set(func(r *corev1.ConfigMap) { r.Data["x"] = "y" }), want: nobodyElse},
		{name: "a label", change: set(func(r *corev1.ConfigMap) { r.Labels["a"] = "b" }), want: nobodyElse},
		{name: "an annotation", change: set(func(r *corev1.ConfigMap) { r.Annotations["a"] = "b" }), want: nobodyElse},
		{name: "an owner reference", change: set(func(r *corev1.ConfigMap) {
			r.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "gone", UID: "1"}}
		}), want: nobodyElse},
		{name: "binary data", change: set(func(r *corev1.ConfigMap) { r.BinaryData = map[string][]byte{"b": []byte("x")} }), want: nobodyElse},
		{name: "immutable", change: set(func(r *corev1.ConfigMap) { r.Immutable = new(true) }), want: nobodyElse},
		{name: "the guard's label", change: set(func(r *corev1.ConfigMap) { delete(r.Labels, records.LabelGuard) }), want: map[answer][]who{refused: everybody[:5]}},
		{name: "another owner", change: func(ns string, by who, r *corev1.ConfigMap) { r.Annotations[records.AnnotationOwner] = deployer.in(ns) }, want: map[answer][]who{refused: everybody[:5]}},
		{name: "a record without an owner, taken by a ServiceAccount", before: func(_ string, r *corev1.ConfigMap) { delete(r.Annotations, records.AnnotationOwner) },
			change: func(ns string, by who, r *corev1.ConfigMap) {
				r.Annotations[records.AnnotationOwner] = by.in(ns)
				delete(r.Data, decision.KeyLock)
			},
			want: map[answer][]who{refused: {ci, clusterAdmin, stranger}, passes: {theGuardian}}},

		{name: "a request in another's name", change: set(func(r *corev1.ConfigMap) { maps.Copy(r.Data, asked("eve", "rollback")) }), want: forbidden},
		{name: "a request of one key", change: func(ns string, by who, r *corev1.ConfigMap) { r.Data["request.by"] = by.in(ns) }, want: forbidden},
		{name: "a request with a further key", change: func(ns string, by who, r *corev1.ConfigMap) {
			maps.Copy(r.Data, asked(by.in(ns), "rollback"))
			r.Data["request.x"] = "y"
		}, want: forbidden},
		{name: "a request that guardian does not know", change: asksFor("dance"), want: forbidden},
		{name: "a request and the lock", change: func(ns string, by who, r *corev1.ConfigMap) {
			maps.Copy(r.Data, asked(by.in(ns), "rollback"))
			delete(r.Data, decision.KeyLock)
		}, want: forbidden},
		{name: "rollback", change: asksFor("rollback"), want: whole},
		{name: "pause, until", change: func(ns string, by who, r *corev1.ConfigMap) {
			maps.Copy(r.Data, asked(by.in(ns), "pause"))
			r.Data["request.until"] = "2026-03-02T10:00:00Z"
		}, want: whole},
		{name: "resume", change: asksFor("resume"), want: whole},
		{name: "promote", change: asksFor("promote"), want: whole},
		{name: "arm", change: asksFor("arm"), want: whole},
		{name: "a mark", change: func(ns string, by who, r *corev1.ConfigMap) {
			maps.Copy(r.Data, asked(by.in(ns), "mark-wrong"))
			r.Data["request.of"] = "2026-03-02T10:00:00Z"
		}, want: whole},
		{name: "a request with an id", change: withKey("request.id", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"), want: whole},
		{name: "with an id of four letters", change: withKey("request.id", "ABCD"), want: forbidden},
		{name: "with an id that is too long", change: withKey("request.id", strings.Repeat("a", 65)), want: forbidden},
		{name: "with an id of other characters", change: withKey("request.id", "ABCDEFGH IJKL"), want: forbidden},
		{name: "with the id of the one that waits", before: waitsWithID, change: withKey("request.id", "eve-s-own"), want: forbidden},
		{name: "in the place of the one that waits", before: waitsWithID, change: withKey("request.replaces", "eve-s-own bob-s-own"), want: whole},
		{name: "in the place of one that does not", before: waitsWithID, change: withKey("request.replaces", "eve-s-own dan-s-own"), want: forbidden},
		{name: "in the place of one where none waits", change: withKey("request.replaces", "eve-s-own"), want: forbidden},
		{name: "in the place of the one that waits, without an id", before: waitsWithID, change: func(ns string, by who, r *corev1.ConfigMap) {
			maps.Copy(r.Data, asked(by.in(ns), "rollback"))
			delete(r.Data, "request.id")
		}, want: whole},
		{name: "with the id of one's own that waits", before: func(_ string, r *corev1.ConfigMap) {
			maps.Copy(r.Data, asked("ci", "promote"))
			r.Data["request.id"] = "ci-s-own"
		}, change: withKey("request.id", "ci-s-own"), want: map[answer][]who{passes: {ci}, refused: {clusterAdmin, deployer}}},
		{name: "where an id is left", before: idIsLeft, change: asksFor("rollback"), want: whole},
		{name: "another id alone where one is left", before: idIsLeft, change: set(func(r *corev1.ConfigMap) { r.Data["request.id"] = "dan-s-own" }), want: forbidden},
		{name: "an id alone", change: set(func(r *corev1.ConfigMap) { r.Data["request.id"] = "dan-s-own" }), want: forbidden},
		{name: "taken off, and its id left", before: waitsWithID, change: set(takeOffButIDs), want: whole},
		{name: "a waiting rollback taken off, and its id left", before: func(ns string, r *corev1.ConfigMap) {
			waitsWithID(ns, r)
			r.Data["request.action"] = "rollback"
		}, change: set(takeOffButIDs), want: map[answer][]who{refused: {ci, deployer}, passes: {clusterAdmin, unlocker, theGuardian}}},
		{name: "the answers", change: set(func(r *corev1.ConfigMap) { r.Data[decision.KeyAnswers] = `[{"id":"eve-s-own","result":"done"}]` }), want: nobodyElse},
		{name: "unlock", change: asksFor("unlock"), want: map[answer][]who{refused: {ci, deployer}, passes: {clusterAdmin, unlocker}}},
		{name: "disarm", change: asksFor("disarm"), want: map[answer][]who{refused: {ci, deployer}, passes: {clusterAdmin, unlocker}}},
		{name: "a waiting rollback taken away", before: requestWaits("eve", "rollback"), change: set(func(r *corev1.ConfigMap) {
			maps.DeleteFunc(r.Data, func(k, _ string) bool { return len(k) > 8 && k[:8] == "request." })
		}), want: map[answer][]who{refused: {ci, deployer}, passes: {clusterAdmin, unlocker, theGuardian}}},
		{name: "a waiting pause replaced", before: requestWaits("eve", "pause"), change: asksFor("resume"), want: map[answer][]who{refused: {ci}, passes: {clusterAdmin, unlocker}}},
		{name: "a waiting pause replaced by a rollback", before: requestWaits("eve", "pause"), change: asksFor("rollback"), want: whole},
		{name: "one's own waiting pause taken back", before: requestWaits("ci", "pause"), change: asksFor("resume"), want: map[answer][]who{passes: {ci}}},
		{name: "a waiting promotion replaced", before: requestWaits("eve", "promote"), change: asksFor("pause"), want: whole},

		{name: "deleted", remove: true, want: map[answer][]who{refused: {ci, deployer, stranger}, passes: {clusterAdmin, unlocker, theGuardian, goner, collector}}},
		{name: "deleted in a terminating namespace", remove: true, terminating: true, want: map[answer][]who{passes: {ci}}},
	}
}

// objects are the stored record, nil for a creation, and the one asked for, nil
// for a deletion.
func (r recordRow) objects(ns string, by who) (old, now *corev1.ConfigMap) {
	old = theRecord(ns)
	if r.before != nil {
		r.before(ns, old)
	}
	if r.remove {
		return old, nil
	}
	now = old.DeepCopy()
	if r.change != nil {
		r.change(ns, by, now)
	}
	if r.create {
		return nil, now
	}
	return old, now
}

func asUnstructured(t testing.TB, cm *corev1.ConfigMap) *unstructured.Unstructured {
	t.Helper()
	if cm == nil {
		return nil
	}
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(cm)
	if err != nil {
		t.Fatal(err)
	}
	return &unstructured.Unstructured{Object: fields}
}

func TestWhoMayDoWhatToARecord(t *testing.T) {
	j, err := newJudge(t, "1.37", AdmissionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range theRecordTable() {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: testNamespace}}
		if row.terminating {
			ns.DeletionTimestamp = &metav1.Time{Time: at}
		}
		for want, users := range row.want {
			for _, by := range users {
				old, now := row.objects(testNamespace, by)
				may := by.may
				if len(may) == 1 && may[0] == "*" {
					may = []string{"unlock", "lock", "disarm"}
				}
				got, err := j.rule(t.Context(), attempt{user: by.in(testNamespace), may: may, namespace: ns, old: asUnstructured(t, old), new: asUnstructured(t, now)})
				if is := map[bool]answer{true: passes, false: refused}[len(got.refused) == 0]; err != nil || is != want {
					t.Errorf("%s, by %s: %s %v (%v), want %s", row.name, by.name, is, got.refused, err, want)
				}
			}
		}
	}
}

// The id of a request that waits stays where a command does not know the key: the
// refusal tells a hand how to go on.
func TestARefusedIDTellsWhoseItIsAndHowToGoOn(t *testing.T) {
	j, err := newJudge(t, "1.37", AdmissionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	row := recordRow{before: waitsWithID, change: asksFor("rollback")}
	old, now := row.objects(testNamespace, ci)
	got, err := j.rule(t.Context(), attempt{user: "ci", namespace: &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: testNamespace}}, old: asUnstructured(t, old), new: asUnstructured(t, now)})
	want := "request.id is of the request of eve that waits: write request.id: null with yours, or an id of its own, as guardian's command of this release does"
	if err != nil || !slices.Equal(got.refused, []string{want}) {
		t.Errorf("refused: %q (%v), want %q", got.refused, err, want)
	}
}

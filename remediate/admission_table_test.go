package remediate

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// who writes: a user of one namespace. Rights beside those of every CI are verbs
// on virtualservices; "*" is all rights that there are.
type who struct {
	name    string
	user    string // NS is the namespace
	may     []string
	manager string
}

var (
	ci           = who{name: "CI", user: "ci"}
	clusterAdmin = who{name: "cluster-admin", user: "boss", may: []string{"*"}}
	unlocker     = who{name: "person with unlock", user: "ann", may: []string{"unlock", "disarm"}}
	theGuardian  = who{name: "guardian", user: "system:serviceaccount:NS:guardian"}
	deployer     = who{name: "ServiceAccount of the namespace", user: "system:serviceaccount:NS:deployer"}
	stranger     = who{name: "ServiceAccount of elsewhere", user: "system:serviceaccount:elsewhere:guardian"}
	opsGuardian  = who{name: "ServiceAccount of elsewhere with lock", user: "system:serviceaccount:ops:guardian", may: []string{"lock"}}
	argo         = who{name: "Argo CD", user: "argocd", manager: "argocd-controller"}
	flux         = who{name: "Flux", user: "flux", manager: "kustomize-controller"}
	goner        = who{name: "namespace controller", user: "system:serviceaccount:kube-system:namespace-controller"}
	collector    = who{name: "garbage collector", user: "system:serviceaccount:kube-system:generic-garbage-collector"}

	everybody = []who{ci, clusterAdmin, unlocker, theGuardian, deployer, stranger, opsGuardian, argo, flux, goner, collector}
	others    = []who{ci, clusterAdmin, unlocker, deployer, stranger}
)

func (w who) in(ns string) string { return strings.ReplaceAll(w.user, "NS", ns) }

// answer is what becomes of a write.
type answer string

const (
	refused answer = "refused"
	passes  answer = "passes"
	holds   answer = "held" // taken, with the canary where it was and the locks as they were
)

// lockedState is a VirtualService with its locks, by guard.
type lockedState struct {
	spec  string
	locks map[string]decision.LockAnnotation
	raw   map[string]string // further annotations
}

// lock is the lock of a pair by guardian.
func (w who) lock(ns string, p virtualservice.Pair, o virtualservice.Options) decision.LockAnnotation {
	p.Namespace = ns
	l := lockOf(p, o)
	l.By = w.in(ns)
	return l
}

func orders(ns string) map[string]decision.LockAnnotation {
	return map[string]decision.LockAnnotation{"orders-service": theGuardian.lock(ns, bySubset, all)}
}

func (s lockedState) object(t testing.TB, ns string) *unstructured.Unstructured {
	vs := withSpec(t, strings.ReplaceAll(s.spec, "NAMESPACE", ns))
	vs.SetNamespace(ns)
	vs.SetAnnotations(map[string]string{"team": "shop"})
	for guard, l := range s.locks {
		vs = lockedBy(t, vs, guard, l)
	}
	marks := vs.GetAnnotations()
	maps.Copy(marks, s.raw)
	vs.SetAnnotations(marks)
	return vs
}

// tableRow is one kind of write to a locked VirtualService.
type tableRow struct {
	name string
	// before is the state; nil: rolled back, locked by guard orders-service.
	before func(ns string) lockedState
	// change makes the new object of the stored one; nil: it is deleted. The
	// stored one is nil for a creation.
	change func(t testing.TB, ns string, by who, vs *unstructured.Unstructured) *unstructured.Unstructured
	dryRun bool
	create bool
	// of the namespace
	labels, annotations map[string]string
	terminating         bool
	want                map[answer][]who
}

// to is a change of the spec alone.
func to(spec string) func(testing.TB, string, who, *unstructured.Unstructured) *unstructured.Unstructured {
	return func(t testing.TB, ns string, _ who, vs *unstructured.Unstructured) *unstructured.Unstructured {
		vs.Object["spec"] = withSpec(t, strings.ReplaceAll(spec, "NAMESPACE", ns)).Object["spec"]
		return vs
	}
}

// annotates changes annotations alone.
func annotates(edit func(ns string, by who, marks map[string]string)) func(testing.TB, string, who, *unstructured.Unstructured) *unstructured.Unstructured {
	return func(_ testing.TB, ns string, by who, vs *unstructured.Unstructured) *unstructured.Unstructured {
		a := vs.GetAnnotations()
		if a == nil {
			a = map[string]string{}
		}
		edit(ns, by, a)
		vs.SetAnnotations(a)
		return vs
	}
}

// both makes one change after another.
func both(changes ...func(testing.TB, string, who, *unstructured.Unstructured) *unstructured.Unstructured) func(testing.TB, string, who, *unstructured.Unstructured) *unstructured.Unstructured {
	return func(t testing.TB, ns string, by who, vs *unstructured.Unstructured) *unstructured.Unstructured {
		for _, c := range changes {
			vs = c(t, ns, by, vs)
		}
		return vs
	}
}

func blockedAt(spec string) func(string) lockedState {
	return func(ns string) lockedState { return lockedState{spec: spec, locks: orders(ns)} }
}

// twoLocks are a canary of one guard and another of a second, in one route.
func twoLocks(spec string) func(string) lockedState {
	return func(ns string) lockedState {
		v3 := virtualservice.Pair{Stable: virtualservice.Ref{Subset: "v1"}, Canary: virtualservice.Ref{Subset: "v3"}, Host: "orders-service"}
		locks := orders(ns)
		locks["orders-next"] = theGuardian.lock(ns, v3, all)
		return lockedState{spec: spec, locks: locks}
	}
}

func three(v1, v2, v3 int) string {
	return fmt.Sprintf("{http: [{route: [{destination: {host: orders-service, subset: v1}, weight: %d}, {destination: {host: orders-service, subset: v2}, weight: %d}, {destination: {host: orders-service, subset: v3}, weight: %d}]}]}", v1, v2, v3)
}

const (
	toV2     = "{destination: {host: orders-service, subset: v2}}"
	toV1     = "{destination: {host: orders-service, subset: v1}}"
	bothHalf = "{destination: {host: orders-service, subset: v1}, weight: 90}, {destination: {host: orders-service, subset: v2}, weight: 10}"
	testers  = "{match: [{headers: {x: {exact: tester}}}], route: [" + toV2 + "]}"
	key      = decision.AnnotationLock + "orders-service"
)

// theTable is who may do what to a locked VirtualService.
func theTable() []tableRow {
	return slices.Concat(rolledBackRows(), lockRows(), blockedRows(), holdRows(), deletionRows())
}

var (
	nobodyElse = map[answer][]who{refused: others, passes: {theGuardian}}
	anybody    = map[answer][]who{passes: append(slices.Clone(others), theGuardian, argo, flux)}
)

// rolledBackRows change the spec of a canary that is at 0.
func rolledBackRows() []tableRow {
	return []tableRow{
		{name: "90/10", change: to(split(90, 10)), want: map[answer][]who{refused: others, passes: {theGuardian}, holds: {argo, flux}}},
		{name: "0/100", change: to(split(0, 100)), want: map[answer][]who{refused: others, passes: {theGuardian}, holds: {argo, flux}}},
		{name: "the same again", change: to(split(100, 0)), want: anybody},
		{name: "another timeout", change: to(strings.Replace(split(100, 0), "{http: [{", "{http: [{timeout: 3s, ", 1)), want: anybody},
		{name: "another label", change: func(_ testing.TB, _ string, _ who, vs *unstructured.Unstructured) *unstructured.Unstructured {
			vs.SetLabels(map[string]string{"a": "b"})
			return vs
		}, want: anybody},
		{name: "a mirror to the canary", change: to("{http: [{route: [" + toV1 + "], mirror: {host: orders-service, subset: v2}}]}"), want: map[answer][]who{refused: others, passes: {theGuardian}, holds: {argo}}},
		{name: "testers to the canary", change: to("{http: [" + testers + ", {route: [" + toV1 + "]}]}"), want: map[answer][]who{refused: others, passes: {theGuardian}, holds: {argo}}},
		{name: "testers to the canary, as they were", before: blockedAt("{http: [" + testers + ", {route: [" + toV1 + "]}]}"), change: to("{http: [" + testers + ", {timeout: 3s, route: [" + toV1 + "]}]}"), want: anybody},
		{name: "testers to the canary, where they are spared", before: func(ns string) lockedState {
			return lockedState{spec: split(100, 0), locks: map[string]decision.LockAnnotation{"orders-service": theGuardian.lock(ns, bySubset, virtualservice.Options{})}}
		}, change: to("{http: [" + testers + ", {route: [" + toV1 + "]}]}"), want: anybody},
		{name: "the host without a subset", change: to("{http: [{route: [{destination: {host: orders-service}}]}]}"), want: nobodyElse},
		{name: "a tcp route to the canary", change: to("{http: [{route: [" + toV1 + "]}], tcp: [{route: [" + toV2 + "]}]}"), want: nobodyElse},
		{name: "the canary's share moves from http to tcp", before: blockedAt("{http: [{route: [" + toV2 + "]}]}"), change: to("{tcp: [{route: [" + toV2 + "]}]}"), want: nobodyElse},
		{name: "an owner", change: func(_ testing.TB, _ string, _ who, vs *unstructured.Unstructured) *unstructured.Unstructured {
			vs.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "gone", UID: "1"}})
			return vs
		}, want: nobodyElse},
	}
}

// lockRows change the lock.
func lockRows() []tableRow {
	return []tableRow{
		{name: "replaced by a file without the lock", change: both(to(split(100, 0)), annotates(func(_ string, _ who, a map[string]string) { clear(a) })),
			want: map[answer][]who{refused: others, passes: {theGuardian}, holds: {argo}}},
		{name: "the lock taken off with a change of the spec", change: both(to(strings.Replace(split(100, 0), "{http: [{", "{http: [{timeout: 3s, ", 1)), annotates(func(_ string, _ who, a map[string]string) { delete(a, key) })), want: nobodyElse},
		{name: "the lock taken off with another annotation", change: annotates(func(_ string, _ who, a map[string]string) { delete(a, key); a["note"] = "x" }), want: nobodyElse},
		{name: "the lock taken off alone", change: annotates(func(_ string, _ who, a map[string]string) { delete(a, key) }),
			want: map[answer][]who{refused: {ci, deployer, stranger}, passes: {clusterAdmin, unlocker, theGuardian}}},
		{name: "one of two locks taken off alone", before: twoLocks(three(100, 0, 0)), change: annotates(func(_ string, _ who, a map[string]string) { delete(a, key) }),
			want: map[answer][]who{refused: {ci}, passes: {clusterAdmin, unlocker, theGuardian}}},
		{name: "a lock that cannot be read protects nothing", before: func(string) lockedState {
			return lockedState{spec: split(100, 0), raw: map[string]string{key: "by=x canary=orders-service/v2"}}
		}, change: both(annotates(func(_ string, _ who, a map[string]string) { delete(a, key) }), to(split(90, 10))), want: anybody},
		{name: "a changed lock", change: annotates(func(_ string, _ who, a map[string]string) { a[key] = strings.Replace(a[key], "/v2", "/v3", 1) }), want: nobodyElse},
		{name: "another's lock in its name", change: annotates(func(ns string, by who, a map[string]string) {
			a[key] = strings.Replace(a[key], theGuardian.in(ns), by.in(ns), 1) + " mine"
		}), want: nobodyElse},
		{name: "a forged lock of another guard", change: annotates(func(ns string, _ who, a map[string]string) { a[decision.AnnotationLock+"payments"] = a[key] }),
			want: map[answer][]who{refused: others, passes: {theGuardian}, holds: {argo}}},
		{name: "a lock of one's own on a free key", change: annotates(func(ns string, by who, a map[string]string) {
			a[decision.AnnotationLock+"payments"] = strings.Replace(a[key], theGuardian.in(ns), by.in(ns), 1)
		}), want: map[answer][]who{refused: {ci, clusterAdmin, unlocker, stranger}, passes: {theGuardian, deployer, opsGuardian}}},
		{name: "a lock that nobody can read", change: annotates(func(_ string, by who, a map[string]string) {
			a[decision.AnnotationLock+"payments"] = "by=" + by.user + " x"
		}), want: map[answer][]who{refused: append(slices.Clone(others), theGuardian)}},
		{name: "made with a lock", create: true, before: func(ns string) lockedState { return lockedState{spec: split(100, 0), locks: orders(ns)} }, want: nobodyElse},
		{name: "made with a lock, as a dry run", create: true, dryRun: true, before: func(ns string) lockedState { return lockedState{spec: split(100, 0), locks: orders(ns)} },
			want: map[answer][]who{holds: others, passes: {theGuardian}}},
	}
}

// blockedRows change the spec while the canary still has traffic.
func blockedRows() []tableRow {
	return []tableRow{
		{name: "blocked: less", before: blockedAt(split(90, 10)), change: to(split(95, 5)), want: anybody},
		{name: "blocked: the same", before: blockedAt(split(90, 10)), change: to(strings.Replace(split(90, 10), "{http: [{", "{http: [{timeout: 3s, ", 1)), want: anybody},
		{name: "blocked: nothing", before: blockedAt(split(90, 10)), change: to(split(100, 0)), want: anybody},
		{name: "blocked: the same by other weights", before: blockedAt(split(90, 10)), change: to(split(9, 1)), want: anybody},
		{name: "blocked: more", before: blockedAt(split(90, 10)), change: to(split(80, 20)), want: map[answer][]who{refused: append(slices.Clone(others), argo), passes: {theGuardian}}},
		{name: "blocked: more by other weights", before: blockedAt(split(90, 10)), change: to(split(8, 1)), want: nobodyElse},
		{name: "blocked: all weights were 0", before: blockedAt(split(0, 0)), change: to(split(90, 10)), want: nobodyElse},
		{name: "blocked: all", before: blockedAt(split(90, 10)), change: to("{http: [{route: [" + toV2 + "]}]}"), want: nobodyElse},
		{name: "blocked: a third takes some of it", before: blockedAt(three(50, 50, 0)), change: to(three(50, 20, 30)), want: anybody},
		{name: "blocked: a route before it", before: blockedAt(split(90, 10)), change: to("{http: [{match: [{uri: {prefix: /a}}], route: [" + toV1 + "]}, {route: [" + bothHalf + "]}]}"), want: anybody},
		{name: "blocked: reordered", before: blockedAt("{http: [{match: [{uri: {prefix: /a}}], route: [" + bothHalf + "]}, {match: [{uri: {prefix: /b}}], route: [" + toV2 + "]}]}"),
			change: to("{http: [{match: [{uri: {prefix: /b}}], route: [" + toV2 + "]}, {match: [{uri: {prefix: /a}}], route: [" + bothHalf + "]}]}"), want: anybody},
		{name: "blocked: shares change places", before: blockedAt("{http: [{match: [{uri: {prefix: /a}}], route: [" + bothHalf + "]}, {match: [{uri: {prefix: /b}}], route: [" + toV2 + "]}]}"),
			change: to("{http: [{match: [{uri: {prefix: /a}}], route: [" + toV2 + "]}, {match: [{uri: {prefix: /b}}], route: [" + bothHalf + "]}]}"), want: nobodyElse},
		{name: "blocked: another match", before: blockedAt("{http: [{match: [{uri: {prefix: /a}}], route: [" + bothHalf + "]}]}"), change: to("{http: [{match: [{uri: {prefix: /}}], route: [" + bothHalf + "]}]}"), want: nobodyElse},
		{name: "blocked: a further way", before: blockedAt(split(90, 10)), change: to("{http: [{match: [{uri: {prefix: /a}}], route: [" + toV2 + "]}, {route: [" + bothHalf + "]}]}"), want: nobodyElse},
		{name: "two locks: less in all, more for one", before: twoLocks(three(80, 10, 10)), change: to(three(80, 5, 15)), want: nobodyElse},
		{name: "two locks: less for both", before: twoLocks(three(80, 10, 10)), change: to(three(85, 5, 10)), want: anybody},
		{name: "two locks, one of them rolled back", before: twoLocks(three(90, 0, 10)), change: to(three(80, 10, 10)), want: map[answer][]who{refused: others, passes: {theGuardian}, holds: {argo}}},
	}
}

// holdRows are writes that are held, or not looked at.
func holdRows() []tableRow {
	return []tableRow{
		{name: "a dry run of 90/10", change: to(split(90, 10)), dryRun: true, want: map[answer][]who{holds: others, passes: {theGuardian}}},
		{name: "a dry run of more than is blocked", before: blockedAt(split(90, 10)), change: to(split(80, 20)), dryRun: true, want: nobodyElse},
		{name: "90/10 where the Namespace says rewrite", change: to(split(90, 10)), labels: map[string]string{LabelAdmission: "rewrite"}, want: map[answer][]who{holds: others, passes: {theGuardian}}},
		{name: "90/10 by a user whom the Namespace holds", change: to(split(90, 10)), annotations: map[string]string{AnnotationHolds: "x,ci"}, want: map[answer][]who{holds: {ci}, refused: {clusterAdmin, unlocker, deployer}, passes: {theGuardian}}},
		{name: "90/10 where the Namespace says off", change: to(split(90, 10)), labels: map[string]string{LabelAdmission: "off"}, want: anybody},
		{name: "deleted where the Namespace says off", labels: map[string]string{LabelAdmission: "off"}, want: map[answer][]who{passes: others}},
	}
}

// deletionRows are deletions.
func deletionRows() []tableRow {
	return []tableRow{
		{name: "deleted", want: map[answer][]who{refused: others, passes: {theGuardian, goner, collector}}},
		{name: "deleted while blocked", before: blockedAt(split(90, 10)), want: map[answer][]who{refused: others, passes: {theGuardian}}},
		{name: "deleted in a terminating namespace", terminating: true, want: map[answer][]who{passes: others}},
		{name: "deleted, not locked", before: func(string) lockedState { return lockedState{spec: split(90, 10)} }, want: map[answer][]who{passes: {ci}}},
	}
}

func (r tableRow) state(ns string) lockedState {
	if r.before == nil {
		return lockedState{spec: split(100, 0), locks: orders(ns)}
	}
	return r.before(ns)
}

// objects are the stored object, nil for a creation, and the one asked for, nil
// for a deletion.
func (r tableRow) objects(t testing.TB, ns string, by who) (old, now *unstructured.Unstructured) {
	old = r.state(ns).object(t, ns)
	if r.create {
		return nil, old
	}
	if r.change != nil {
		now = r.change(t, ns, by, old.DeepCopy())
	}
	return old, now
}

// is says what has become of a write that was taken.
func (r tableRow) is(old, asked, got *unstructured.Unstructured) answer {
	same := func(a, b *unstructured.Unstructured) bool {
		x, _ := json.Marshal(a.Object["spec"])
		y, _ := json.Marshal(b.Object["spec"])
		return string(x) == string(y)
	}
	locks := func(vs *unstructured.Unstructured) map[string]string {
		out := map[string]string{}
		for k, v := range vs.GetAnnotations() {
			if strings.HasPrefix(k, decision.AnnotationLock) {
				out[k] = v
			}
		}
		return out
	}
	switch {
	case asked == nil:
		return passes
	case same(asked, got) && reflect.DeepEqual(locks(asked), locks(got)):
		return passes
	case old == nil && len(locks(got)) == 0:
		return holds
	case old != nil && reflect.DeepEqual(locks(old), locks(got)):
		return holds
	}
	return answer(fmt.Sprintf("something else: %v %v", got.Object["spec"], got.GetAnnotations()))
}

func TestWhoMayDoWhatToALockedVirtualService(t *testing.T) {
	j, err := newJudge(t, "1.37", AdmissionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range theTable() {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: testNamespace, Labels: row.labels, Annotations: row.annotations}}
		if row.terminating {
			ns.DeletionTimestamp = &metav1.Time{Time: at}
		}
		for want, users := range row.want {
			for _, by := range users {
				old, asked := row.objects(t, testNamespace, by)
				if row.labels[LabelAdmission] == "off" {
					continue // by the binding, which an API server has to try
				}
				may := by.may
				if slices.Contains(may, "*") {
					may = []string{"unlock", "lock", "disarm"}
				}
				a := attempt{user: by.in(testNamespace), may: may, manager: by.manager, dryRun: row.dryRun, namespace: ns, old: old, new: asked}
				got, err := j.rule(t.Context(), a)
				is := refused
				if err == nil && len(got.refused) == 0 {
					is = row.is(old, asked, got.object)
				}
				if err != nil || is != want {
					t.Errorf("%s, by %s: %s (%v) %v, want %s", row.name, by.name, is, got.refused, err, want)
				}
				if is == holds && old != nil && len(got.warned) == 0 {
					t.Errorf("%s, by %s: held without a warning", row.name, by.name)
				}
			}
		}
	}
}

package remediate

import (
	"slices"
	"testing"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/decision/decisiontest"
	"github.com/canary-guardian/guardian/remediate/records"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

// What the watch brings has a guard looked at, unless its last look has read that very
// version: it was written here, and read from the mutation cache since.
func TestAGuardIsLookedAtForWhatItsLastLookHasNotRead(t *testing.T) {
	i := cachesOf(t)
	if i.reader.vs == nil {
		i.reader.vs = cache.NewIndexer(cache.MetaNamespaceKeyFunc, nil)
	}
	guard, beside := decisiontest.Given().Guard, decisiontest.Given().Guard
	beside.Name = "beside" // it has the VirtualService too
	i.setGuards([]decision.Guard{guard, beside})
	var read lookedAt
	i.lookedAt = read.has
	record := func(uid, at string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: guard.Namespace, Name: records.Name(guard.Name),
			Labels: map[string]string{records.LabelGuard: guard.Name}, UID: types.UID(uid), ResourceVersion: at}}
	}
	service := func(uid, at string) *unstructured.Unstructured {
		vs := &unstructured.Unstructured{Object: map[string]any{}}
		vs.SetNamespace(guard.Namespace)
		vs.SetName(guard.VirtualServices[0])
		vs.SetUID(types.UID(uid))
		vs.SetResourceVersion(at)
		return vs
	}
	look := func(cm *corev1.ConfigMap, services ...*unstructured.Unstructured) {
		read.read(guard.Name, snapshot{record: cm, services: services})
	}
	both := []string{guard.Name, beside.Name}
	for _, c := range []struct {
		name    string
		look    func()
		was, is any
		want    []string
	}{
		{"never looked at", func() {}, record("r", "1"), record("r", "2"), []string{guard.Name}},
		{"its record as it was read", func() { look(record("r", "2"), service("v", "3")) }, record("r", "1"), record("r", "2"), nil},
		{"a newer record", nil, record("r", "2"), record("r", "4"), []string{guard.Name}},
		{"a record that was made anew", nil, record("r", "2"), record("s", "2"), []string{guard.Name}},
		{"a record that is gone, in the version that was read", nil, record("r", "2"), nil, []string{guard.Name}},
		{"a VirtualService as it was read, which another guard has too", nil, service("v", "1"), service("v", "3"), both},
		{"a newer VirtualService", nil, service("v", "3"), service("v", "5"), both},
		{"a VirtualService that is gone", nil, service("v", "3"), nil, both},
		{"what an earlier look had read, and the last has not", func() { look(record("r", "1"), service("v", "1")) }, record("r", "1"), record("r", "2"), []string{guard.Name}},
		{"there was no record, and no VirtualService", func() { look(nil) }, nil, service("v", "1"), both},
		{"an object without a version", func() { look(record("r", "")) }, nil, record("r", ""), []string{guard.Name}},
		{"forgotten", func() { look(record("r", "2")); read.forget(guard.Name) }, record("r", "1"), record("r", "2"), []string{guard.Name}},
		{"a VirtualService that no other guard has any more, as it was read", func() {
			i.setGuards([]decision.Guard{guard})
			look(record("r", "2"), service("v", "3"))
		}, service("v", "1"), service("v", "3"), nil},
	} {
		if c.look != nil {
			c.look()
		}
		var looked []string
		i.touched = func(guards []string) { looked = append(looked, guards...) }
		i.tell(c.was, c.is, true)
		slices.Sort(looked)
		want := slices.Sorted(slices.Values(c.want))
		if looked = slices.Compact(looked); !slices.Equal(looked, want) {
			t.Errorf("%s: %q are looked at, want %q", c.name, looked, want)
		}
	}
}

// Of what was written and what the watch brings of it, one is kept in memory.
func TestWhatWasWrittenTakesThePlaceOfWhatTheWatchBrings(t *testing.T) {
	at := func(uid, version string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "guardian-orders", UID: types.UID(uid), ResourceVersion: version}}
	}
	for name, c := range map[string]struct {
		brought *corev1.ConfigMap
		own     bool
	}{
		"the same":                    {at("a", "100"), true},
		"what was there before":       {at("a", "99"), false},
		"what somebody has written":   {at("a", "101"), false},
		"another object of that name": {at("b", "100"), false},
		"an object of another name":   {&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "guardian-cart", UID: "a", ResourceVersion: "100"}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			var own mutationCache[*corev1.ConfigMap]
			wrote := at("a", "100")
			own.wrote(wrote)
			f := &feed{cachePart: &cachePart{resource: resourceRecords}, trim: BuildParts{}.trim, index: cache.NewIndexer(cache.MetaNamespaceKeyFunc, nil),
				own: instead(&own), changed: func(_, _ any, _ bool) {}}
			key, err := f.put(c.brought, false)
			if err != nil {
				t.Fatal(err)
			}
			kept, _, err := f.index.GetByKey(key)
			if err != nil || (kept == any(wrote)) != c.own || !c.own && kept != any(c.brought) {
				t.Errorf("kept %v (%v)", kept, err)
			}
		})
	}
	if vs := (&unstructured.Unstructured{}); instead(&mutationCache[*corev1.ConfigMap]{})(vs) != any(vs) {
		t.Error("an object of another type was replaced")
	}
}

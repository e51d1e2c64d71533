package remediate

import (
	"reflect"
	"testing"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/decision/decisiontest"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func TestAnObjectIsInspectedOnceForAGuard(t *testing.T) {
	vs := func(weight int) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: manifest(weight)}
	}
	known, object := newTrafficCache(), vs(10)
	found := func(guard string, vs *unstructured.Unstructured, p virtualservice.Pair, o virtualservice.Options) int {
		t.Helper()
		got := known.of(guard, vs, p, o)
		if again := known.of(guard, vs, p, o); !reflect.DeepEqual(got, again) {
			t.Errorf("found %+v, then %+v", got, again)
		}
		return got.traffic.Weight
	}
	if n := found("orders", object, bySubset, virtualservice.Options{}); n != 10 {
		t.Errorf("weight %d, want 10", n)
	}
	object.Object = manifest(50) // nobody may do that, so it goes unseen
	if n := found("orders", object, bySubset, virtualservice.Options{}); n != 10 {
		t.Errorf("weight %d, want the 10 of before: the object is the same", n)
	}
	if n := found("orders", vs(30), bySubset, virtualservice.Options{}); n != 30 {
		t.Errorf("weight %d, want 30: the object is another, of the same name and version", n)
	}
	if n := found("orders", object, bySubset, virtualservice.Options{}); n != 50 {
		t.Errorf("weight %d, want 50: only the last object is remembered", n)
	}
	object.Object = manifest(70)
	for name, is := range map[string]int{
		"another guard":        found("other", object, bySubset, virtualservice.Options{}),
		"other options":        found("orders", object, bySubset, virtualservice.Options{MatchRoutes: true}),
		"the pair of a change": found("orders", object, virtualservice.Pair{Stable: bySubset.Stable, Canary: bySubset.Canary, Host: bySubset.Host, Namespace: bySubset.Namespace, Domain: "example.org"}, virtualservice.Options{}),
	} {
		if want := map[string]int{"other options": 100}[name]; is != 70 && is != want {
			t.Errorf("%s: weight %d, want it inspected anew", name, is)
		}
	}
	known.keepOnly([]decision.Guard{{Name: "other", VirtualServices: []string{object.GetName()}}})
	if len(known.last) != 1 {
		t.Errorf("remembers %d, want that of the guard that is left", len(known.last))
	}
	known.keepOnly([]decision.Guard{{Name: "other", VirtualServices: []string{"x"}}})
	if len(known.last) != 0 {
		t.Errorf("remembers %d of a VirtualService that no guard has", len(known.last))
	}
}

// What holds takes for the record that was read is what nobody need write.
func TestARecordIsHeldUntilSomethingOfItChanges(t *testing.T) {
	full := decisiontest.FullRecord()
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{ResourceVersion: full.ResourceVersion, Labels: map[string]string{records.LabelLocked: "true"}}, Data: full.Data()}
	stored, err := records.Parse(cm)
	if err != nil {
		t.Fatal(err)
	}
	s := snapshot{record: cm, stored: stored}
	if !s.holds(full.Clone()) || !s.holds(stored.Clone()) {
		t.Error("the record itself is not held")
	}
	if (snapshot{}).holds(decision.Record{}) {
		t.Error("a record that does not exist is held")
	}
	changed := reflect.ValueOf(&full).Elem()
	for i := range changed.NumField() {
		name := changed.Type().Field(i).Name
		if name == "ResourceVersion" || name == "Unreadable" || !changed.Type().Field(i).IsExported() {
			continue
		}
		r := stored.Clone()
		reflect.ValueOf(&r).Elem().Field(i).SetZero()
		if s.holds(r) {
			t.Errorf("a record without %s is held to be the one with it", name)
		}
	}
	for i := range reflect.TypeFor[decision.Status]().NumField() {
		r := stored.Clone()
		reflect.ValueOf(&r.Status).Elem().Field(i).SetZero()
		if s.holds(r) {
			t.Errorf("a status without %s is held to be the one with it", reflect.TypeFor[decision.Status]().Field(i).Name)
		}
	}
	// A pass leaves the history as text, and adds to it.
	var bad []string
	if s.stored, bad = records.NewHistories().Parse("orders-service", cm); len(bad) > 0 || s.stored.PastText() == "" {
		t.Fatalf("the history was not left as text: %v", bad)
	}
	if !s.holds(s.stored.Clone()) {
		t.Error("the record with its history as text is not held")
	}
	more := s.stored.Clone()
	more.History = append(more.History, decision.HistoryEntry{Event: "more"})
	if s.holds(more) {
		t.Error("a record with one entry more is held to be the one without")
	}
	cm.Labels = nil
	if s.holds(stored.Clone()) {
		t.Error("a record that lacks the label is held")
	}
}

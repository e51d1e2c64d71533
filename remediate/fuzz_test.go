package remediate

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// Whatever stands in a revision is a build, and the same one each time: an informer reads
// it, whose end would be guardian's.
func FuzzControllerRevision(f *testing.F) {
	f.Add([]byte(`{"spec":{"template":{"spec":{"containers":[{"name":"orders","image":"orders:1","env":[{"name":"STAKATER_X","value":"1"}],"resources":{"limits":{"cpu":"1e3"}}}]}}}}`))
	f.Add([]byte(`{"spec":{"template":{"metadata":{"creationTimestamp":"9999-12-31T23:59:59Z","labels":{"a":"b"}},"spec":{"volumes":[{"ephemeral":{"volumeClaimTemplate":{"metadata":{"managedFields":[{"fieldsV1":{"f:x":{}}}]}}}}]}}}}`))
	f.Add([]byte(`{"spec":{"template":null}}`))
	f.Add([]byte(`nothing that is JSON`))
	f.Fuzz(func(t *testing.T, data []byte) {
		read := func() string {
			return slimControllerRevisionOf(&appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: "orders-1"}, Data: runtime.RawExtension{Raw: data}}, BuildParts{Labels: []string{"a"}}).build
		}
		if a, b := read(), read(); a == "" || a != b {
			t.Errorf("the build is %q, and then %q", a, b)
		}
	})
}

// Whatever DestinationRules a host has, each subset that guardian goes by is one of theirs.
func FuzzDestinationRules(f *testing.F) {
	f.Add([]byte(`[{"metadata":{"name":"orders","namespace":"shop","creationTimestamp":"2026-01-02T00:00:00Z"},"spec":{"host":"orders","exportTo":["."],"subsets":[{"name":"v1","labels":{"version":"v1"}},{"name":"v2"}]}},
		{"metadata":{"name":"a","namespace":"shop","creationTimestamp":"2026-01-01T00:00:00Z"},"spec":{"host":"orders","exportTo":["*","web"],"subsets":[{"name":"v1","labels":{"version":"old"}}]}}]`))
	f.Add([]byte(`[{"metadata":{"name":"orders"},"spec":{"subsets":[{"name":"v1"}]}},{"metadata":{"name":"a"},"spec":{"workloadSelector":{"matchLabels":{"app":"web"}},"subsets":[{"name":"v1","labels":{"":"x"}},{"name":"v1"},7]}},{"metadata":{"name":"b"},"spec":{"exportTo":["~"]}}]`))
	f.Add([]byte(`[{"metadata":7,"spec":{"exportTo":"*","subsets":{}}},{"spec":null},{}]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var objects []map[string]any
		if json.Unmarshal(text, &objects) != nil || len(objects) == 0 || len(objects) > 8 || slices.ContainsFunc(objects, func(o map[string]any) bool { return o == nil }) {
			return
		}
		var rules []*slimRule
		for _, o := range objects {
			rules = append(rules, slimRuleOf(&unstructured.Unstructured{Object: o}))
		}
		before := fmt.Sprint(rules)
		merged := rules[0].merge(rules[1:])
		for _, s := range merged.subsets {
			if !slices.ContainsFunc(rules, func(r *slimRule) bool {
				return slices.ContainsFunc(r.subsets, func(o slimSubset) bool { return o.name == s.name && slices.Equal(o.labels, s.labels) })
			}) {
				t.Errorf("subset %s (%s) is none of theirs", s.name, inWords(s.labels))
			}
		}
		if after := fmt.Sprint(rules); after != before {
			t.Errorf("the rules became %s, and were %s", after, before)
		}
	})
}

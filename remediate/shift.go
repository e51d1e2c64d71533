package remediate

import (
	"slices"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// annotationCause is where people and kubectl say why an object was changed.
const annotationCause = "kubernetes.io/change-cause"

// lastWriters are who guardian wants to know of among an object's field managers:
// itself, if it has taken traffic from a canary there, and who else wrote the routes
// last, with the time. http is one list, so that it is whoever wrote it last that
// owns it, and those who applied the same.
func lastWriters(u *unstructured.Unstructured) []metav1.ManagedFieldsEntry {
	raw, _, _ := unstructured.NestedFieldNoCopy(u.Object, "metadata", "managedFields")
	entries, _ := raw.([]any)
	var own []metav1.ManagedFieldsEntry
	var last metav1.ManagedFieldsEntry
	for _, e := range entries {
		entry, _ := e.(map[string]any)
		manager, _ := entry["manager"].(string)
		if manager == FieldManager {
			own = []metav1.ManagedFieldsEntry{{Manager: manager}}
			continue
		}
		text, _ := entry["time"].(string)
		at, err := time.Parse(time.RFC3339, text)
		if err == nil && writesRoutes(entry) && (last.Time == nil || at.After(last.Time.Time)) {
			last = metav1.ManagedFieldsEntry{Manager: manager, Time: &metav1.Time{Time: at}}
		}
	}
	if last.Time != nil {
		own = append(own, last)
	}
	return own
}

// writesRoutes says whether a field manager owns the HTTP routes. One that has no
// fields any more was found to before.
func writesRoutes(entry map[string]any) bool {
	fields, whole := entry["fieldsV1"]
	if !whole {
		return true
	}
	set, _ := fields.(map[string]any)
	_, found, _ := unstructured.NestedFieldNoCopy(set, "f:spec", "f:http")
	return found
}

// shifted is who wrote the routes of any of the VirtualServices last; nil: that was
// guardian, taking traffic from the canary, or it is not known.
func shifted(services []*unstructured.Unstructured) *decision.Shift {
	var last *decision.Shift
	for _, vs := range services {
		for _, f := range vs.GetManagedFields() {
			if f.Manager == FieldManager || f.Time == nil || last != nil && !f.Time.After(last.At) {
				continue
			}
			last = &decision.Shift{Manager: decision.Shorten(f.Manager), At: f.Time.UTC(), Cause: decision.Shorten(vs.GetAnnotations()[annotationCause])}
		}
	}
	return last
}

// takesTraffic says that a decision may take traffic from a canary: then it matters
// who gave it.
func takesTraffic(alerts []decision.Alert, in decision.Input) bool {
	return in.Record.Request != nil || in.Record.Lock != nil || slices.ContainsFunc(alerts, func(a decision.Alert) bool { return a.Action == decision.ActionRollback })
}

package remediate

import (
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func TestWhoWroteTheRoutesLastIsKeptAndTheRestIsNot(t *testing.T) {
	entry := func(manager, at, path string) map[string]any {
		fields := map[string]any{"f:metadata": map[string]any{}}
		if path == "http" {
			fields["f:spec"] = map[string]any{"f:http": map[string]any{}}
		}
		return map[string]any{"manager": manager, "operation": "Update", "time": "2026-03-02T09:0" + at + ":00Z", "fieldsV1": fields}
	}
	for name, c := range map[string]struct {
		entries []any
		want    string
	}{
		"CI alone":                          {[]any{entry("kubectl-client-side-apply", "1", "http")}, "kubectl-client-side-apply 2026-03-02 09:01:00 +0000 UTC release 7"},
		"the newest that owns the routes":   {[]any{entry("kubectl", "1", "http"), entry("argocd", "3", "http"), entry("kubectl-annotate", "5", "")}, "argocd 2026-03-02 09:03:00 +0000 UTC release 7"},
		"guardian's own steps are a shift":  {[]any{entry("kubectl", "1", "http"), entry(FieldManagerPromotion, "3", "http")}, FieldManagerPromotion + " 2026-03-02 09:03:00 +0000 UTC release 7"},
		"guardian has taken it all back":    {[]any{entry(FieldManager, "5", "http")}, "<nil>"},
		"guardian, where another applied":   {[]any{entry(FieldManager, "5", "http"), entry("kubectl", "1", "http")}, "kubectl 2026-03-02 09:01:00 +0000 UTC release 7"},
		"nobody is named":                   {nil, "<nil>"},
		"what a server never sends":         {[]any{"x", map[string]any{"manager": 7, "time": "x"}}, "<nil>"},
		"one whose fields were not reduced": {[]any{map[string]any{"manager": "x", "time": "2026-03-02T09:01:00Z", "fieldsV1": "x"}}, "<nil>"},
	} {
		u := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": "orders", "annotations": map[string]any{annotationCause: "release 7"}, "managedFields": c.entries}}}
		for range 2 { // a cache may trim what is trimmed
			trimVirtualService(u)
			got := "<nil>"
			if s := shifted([]*unstructured.Unstructured{u}); s != nil {
				got = fmt.Sprint(s.Manager, " ", s.At, " ", s.Cause)
			}
			if got != c.want {
				t.Errorf("%s: %s, want %s", name, got, c.want)
			}
		}
		if n := len(u.GetManagedFields()); n > 2 {
			t.Errorf("%s: %d field managers kept", name, n)
		}
	}
}

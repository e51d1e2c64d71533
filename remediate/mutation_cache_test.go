package remediate

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestWhatWasWrittenIsReadUntilTheCacheHasCaughtUp(t *testing.T) {
	object := func(uid, version string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "guardian-orders", UID: types.UID(uid), ResourceVersion: version}}
	}
	for name, c := range map[string]struct {
		cached *corev1.ConfigMap // nil: not in the cache
		want   string            // resource version that is read; empty: none
		kept   bool
	}{
		"the cache is behind, by a digit as well":       {object("a", "99"), "100", true},
		"the cache has it":                              {object("a", "100"), "100", false},
		"somebody has written since":                    {object("a", "101"), "101", false},
		"it was deleted":                                {nil, "", false},
		"it was deleted and made anew":                  {object("b", "105"), "105", false},
		"another object of that name, not yet replaced": {object("b", "90"), "90", false},
		"a version that cannot be compared":             {object("a", "x"), "x", false},
	} {
		t.Run(name, func(t *testing.T) {
			var own mutationCache[*corev1.ConfigMap]
			own.wrote(object("a", "100"))
			got, ok := own.newest("guardian-orders", c.cached, c.cached != nil)
			switch {
			case ok != (c.want != "") || ok && got.ResourceVersion != c.want:
				t.Errorf("read %v (%v), want version %q", got, ok, c.want)
			case (len(own.byName) == 1) != c.kept:
				t.Errorf("kept %v, want %v", own.byName, c.kept)
			}
		})
	}
	var none mutationCache[*corev1.ConfigMap]
	if got, ok := none.newest("guardian-orders", object("a", "1"), true); !ok || got.ResourceVersion != "1" {
		t.Errorf("nothing written: read %v", got)
	}
}

package decision

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// TestTheSameRevisionIsTheSameBuildHoweverItIsHashed has hashes change as they do when an upgrade knows
// one more field, or when the settings name an annotation.
func TestTheSameRevisionIsTheSameBuildHoweverItIsHashed(t *testing.T) {
	at1 := PodAge{Made: at.Add(-time.Hour), Ready: at.Add(-time.Hour), Last: at.Add(-time.Minute)}
	w := Workload{Build: "b1-new", Builds: []string{"b1-new"}, Running: []string{"b1-new"}, Serving: []string{"b1-old"}, Ready: 3, Current: 2,
		Ages: map[string]PodAge{"b1-new": at1, "b1-old": at1}, Revisions: []Revision{{"v2-1", "b1-old"}, {"v2-2", "b1-new"}, {"v2-3", "b1-new"}}}
	for name, c := range map[string]struct {
		known                  []Revision
		build                  string
		present, serving, rev3 string
	}{
		"nothing known":                               {nil, "", "b1-new", "b1-old", "b1-new"},
		"known as what it is":                         {[]Revision{{"v2-2", "b1-new"}}, "b1-new", "b1-new", "b1-old", "b1-new"},
		"known as something else":                     {[]Revision{{"v2-2", "b0-x"}}, "b0-x", "b0-x", "b1-old", "b0-x"},
		"another revision is known":                   {[]Revision{{"v2-9", "b0-x"}}, "b1-x", "b1-new", "b1-old", "b1-new"},
		"one that serves is known":                    {[]Revision{{"v2-1", "b1-x"}}, "b1-new", "b1-new", "b1-x", "b1-new"},
		"of another scheme, and no revision is known": {nil, "0123456789ab", "0123456789ab", "b1-old", "0123456789ab"},
		"of the same scheme it is another build":      {nil, "b1-x", "b1-new", "b1-old", "b1-new"},
	} {
		t.Run(name, func(t *testing.T) {
			before := fmt.Sprint(w)
			got := w.as(c.known, c.build)
			if got.Build != c.present || !slices.Equal(got.Running, []string{c.present}) || !slices.Equal(got.Serving, []string{c.serving}) ||
				got.Revisions[2].Build != c.rev3 || got.Ages[c.present] != at1 || got.Ages[c.serving] != at1 {
				t.Errorf("found %+v", got)
			}
			if fmt.Sprint(w) != before {
				t.Error("the workload was edited")
			}
		})
	}
}

package remediate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	"github.com/canary-guardian/guardian/remediate/virtualservice/vstest"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// served VirtualServices, by name; nothing else is there to be read.
type servedVirtualServices struct {
	reader
	byName map[string]*unstructured.Unstructured
}

func (s servedVirtualServices) virtualService(_ context.Context, name string) (*unstructured.Unstructured, error) {
	return s.byName[name], nil
}

// gathered reads the traffic of VirtualServices with these http routes. They
// are called vs0, vs1, …; an empty text is one that does not exist.
func gathered(t *testing.T, p virtualservice.Pair, o decision.Rollback, http ...string) *snapshot {
	t.Helper()
	s := &snapshot{pair: p, input: decision.Input{Guard: decision.Guard{Name: "orders", Namespace: "microservices", Stable: p.Stable, Canary: p.Canary, Rollback: o}}}
	served := servedVirtualServices{byName: map[string]*unstructured.Unstructured{}}
	for i, routes := range http {
		name := fmt.Sprintf("vs%d", i)
		s.input.Guard.VirtualServices = append(s.input.Guard.VirtualServices, name)
		if routes == "" {
			continue
		}
		var list []any
		if err := yaml.Unmarshal([]byte(routes), &list); err != nil {
			t.Fatal(err)
		}
		served.byName[name] = virtualService("v1", name, "microservices", list)
	}
	if err := s.gatherTraffic(t.Context(), served); err != nil {
		t.Fatal(err)
	}
	return s
}

var coverAll = decision.Rollback{MatchRoutes: true, Mirrors: true}

func TestAVirtualServiceWithoutAShareHasNoSayInTheLowest(t *testing.T) {
	for _, c := range []struct {
		name string
		http []string
		want virtualservice.Traffic
	}{
		{"two splits", []string{vstest.SplitOf(50, 50), vstest.SplitOf(90, 10)}, virtualservice.Traffic{Weight: 50, Lowest: 10, Counted: 2, Split: 2}},
		{"stable alone in the second", []string{vstest.SplitOf(0, 100), vstest.StableAlone}, virtualservice.Traffic{Weight: 100, Lowest: 100, Counted: 1, Split: 1, StableOnly: 1}},
		{"stable alone in the first", []string{vstest.StableAlone, vstest.SplitOf(50, 50)}, virtualservice.Traffic{Weight: 50, Lowest: 50, Counted: 1, Split: 1, StableOnly: 1}},
		{"testers' routes in the second", []string{vstest.SplitOf(70, 30), vstest.TestersAlone}, virtualservice.Traffic{Weight: 30, Lowest: 30, Counted: 1, Split: 1, CanaryOnly: 1}},
		{"a mirror in the second", []string{vstest.SplitOf(70, 30), vstest.MirrorAlone}, virtualservice.Traffic{Weight: 30, Lowest: 30, Counted: 1, Split: 1, StableOnly: 1, Mirrors: 1}},
		{"a split at 0 does have a say", []string{vstest.SplitOf(100, 0), vstest.SplitOf(50, 50)}, virtualservice.Traffic{Weight: 50, Counted: 2, Split: 2}},
		{"stable alone in both", []string{vstest.StableAlone, vstest.StableAlone}, virtualservice.Traffic{StableOnly: 2}},
		{"one that does not exist", []string{vstest.SplitOf(50, 50), ""}, virtualservice.Traffic{Weight: 50, Lowest: 50, Counted: 1, Split: 1}},
		{"none at all", []string{"", ""}, virtualservice.Traffic{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := gathered(t, bySubset, coverAll, c.http...).input.Traffic; got != c.want {
				t.Errorf("got %+v\nwant %+v", got, c.want)
			}
		})
	}
}

func TestReachIsWhatAStepComesTo(t *testing.T) {
	const coarse = "are too coarse for 10%: let them add up to 100"
	for _, c := range []struct {
		name            string
		http            []string
		weight          int
		highest, lowest int
		why             string
	}{
		{"weights that add up to 100", []string{vstest.SplitOf(100, 0)}, 10, 10, 10, ""},
		{"weights that do not", []string{vstest.SplitOf(54, 0)}, 10, 11, 11, ""},
		{"two VirtualServices", []string{vstest.SplitOf(100, 0), vstest.SplitOf(14, 0)}, 10, 14, 10, ""},
		{"the second has stable alone", []string{vstest.SplitOf(100, 0), vstest.StableAlone}, 10, 10, 10, ""},
		{"the second is too coarse", []string{vstest.SplitOf(100, 0), vstest.SplitOf(3, 0)}, 10, 0, 0, coarse},
		{"the second is too coarse but far enough", []string{vstest.SplitOf(100, 0), vstest.SplitOf(1, 1)}, 10, 50, 10, ""},
		{"one alone that is too coarse", []string{vstest.SplitOf(1, 0)}, 10, 0, 0, coarse},
		{"everything is never too coarse", []string{vstest.SplitOf(1, 0)}, 100, 100, 100, ""},
		{"a canary alone has everything", []string{vstest.SplitOf(50, 50), "[{route: [{destination: {host: orders-service, subset: v2}}]}]"}, 70, 100, 70, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := gathered(t, bySubset, coverAll, c.http...).input.Reach(c.weight)
			if c.why != "" {
				var unsafe *virtualservice.UnsafeError
				if !errors.As(err, &unsafe) || !strings.Contains(err.Error(), c.why) {
					t.Errorf("got %+v, %v, want an UnsafeError with %q", got, err, c.why)
				}
				return
			}
			if err != nil || got.Weight != c.highest || got.Lowest != c.lowest {
				t.Errorf("got %+v, %v, want %d to %d", got, err, c.lowest, c.highest)
			}
		})
	}
}

// A step that reads as less than it is would be made again and again.
func TestEveryStepIsReachedOrRefusedWhateverTheTotal(t *testing.T) {
	for total := 1; total <= 120; total++ {
		for weight := 1; weight <= 100; weight++ {
			vs := virtualService("v1", "orders", "microservices", nil)
			var http []any
			if err := yaml.Unmarshal([]byte(vstest.SplitOf(total, 0)), &http); err != nil {
				t.Fatal(err)
			}
			vs.Object["spec"] = map[string]any{"http": http}
			r, err := virtualservice.Rewrite(vs.Object, bySubset, weight, all, nil)
			var unsafe *virtualservice.UnsafeError
			if errors.As(err, &unsafe) {
				if total >= 50 && total*weight >= 50 && total*(100-weight) >= 100 {
					t.Errorf("%d%% of %d: %v", weight, total, err)
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			got := r.After.Lowest
			if got < weight || (weight < 100 && got == 100) || (total >= 100 && got != weight) {
				t.Errorf("%d%% of %d comes to %d%%", weight, total, got)
			}
			if got > max(2*weight, weight+2) {
				t.Errorf("%d%% of %d comes to %d%%, more than twice as much", weight, total, got)
			}
		}
	}
}

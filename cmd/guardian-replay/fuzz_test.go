package main

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"go.yaml.in/yaml/v3"

	"github.com/canary-guardian/guardian/cmd/guardian/config"
)

func FuzzSet(f *testing.F) {
	const text = "namespace: shop\nguards:\n- name: orders-service\n  signals: {latency: {max: 500ms}}\n"
	f.Add(text, "guards[0].signals.latency.max=300ms")
	f.Add(text, "guards[orders-service].signals.errorRate.max=0.02")
	f.Add(text, "guards[1].a=b")
	f.Add("a: &a [*a]", "a.b=c")
	f.Add("- 1", "a[0].b={c: d}")
	f.Add("", "a=&a [*a]")
	f.Fuzz(func(t *testing.T, text, set string) {
		out, err := withSets([]byte(text), []string{set})
		if err != nil {
			_ = err.Error()
			return
		}
		var tree yaml.Node
		if err := yaml.Unmarshal(out, &tree); err != nil {
			t.Fatalf("%q with %q is no YAML: %v\n%s", text, set, err, out)
		}
		_, _ = config.Parse(out)
	})
}

// Whatever series a server has, a survey and a feed take them or leave them.
func FuzzSeriesOfOthers(f *testing.F) {
	f.Add([]byte(`[{"metric":{"guardian_side":"canary","reporter":"source","destination_workload":"orders-v2"},"values":[[1732449600,"1"],[1e15,"NaN"],[-9e15,"+Inf"]]}]`))
	f.Add([]byte(`[{"metric":{"":"x"},"values":[[0,"0"]]},{"metric":{},"values":[]},{"histograms":[]}]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var m model.Matrix
		if json.Unmarshal(body, &m) != nil {
			return
		}
		for _, stream := range m {
			if stream == nil { // the client's library gives none
				return
			}
		}
		s := survey{from: time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC), steps: make([]traffic, 10)}
		found := map[string]map[string]bool{canary: {}, stable: {}}
		s.add(m, found)
		_, _ = s.silence(), episodesOf(s.steps, patience{})
		for side, names := range found {
			for name := range names {
				if !isWorkload(name) {
					t.Errorf("%s has the workload %q", side, name)
				}
			}
		}
		var have []point
		handOver(m, func(_ labels.Labels, more []point) { have = later(have, math.MinInt64, more) })
		for i := 1; i < len(have); i++ {
			if have[i].t <= have[i-1].t {
				t.Errorf("points out of order: %v", have)
			}
		}
	})
}

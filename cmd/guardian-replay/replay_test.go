package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/rules"
)

func TestTheFastLaneIsNotReplayed(t *testing.T) {
	file := writeConfig(t, "namespace: shop\nrules: {fastLane: {enabled: true}}\nguards: [{name: orders}]\n")
	r, _, err := options{file: file, url: "http://p:9090", from: "1h", to: "0s", output: "text", chunk: time.Hour, timeout: time.Minute, rate: 1}.prepare(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if r.options.FastLane != 0 || r.options.Interval != r.config.Rules.Interval {
		t.Errorf("%v, evaluated every %v", r.options.FastLane, r.options.Interval)
	}
}

// TestFewOfManyGuardsAreReplayedAsOftenAsTheyAreLookedAt: how often follows from how many
// there are, not from how many are chosen.
func TestFewOfManyGuardsAreReplayedAsOftenAsTheyAreLookedAt(t *testing.T) {
	text := "namespace: shop\nguards:\n"
	for i := range 301 {
		text += fmt.Sprintf("- name: g%d\n", i)
	}
	r, _, err := options{file: writeConfig(t, text), only: []string{"g7"}, url: "http://p:9090", from: "1h", to: "0s", output: "text", chunk: time.Hour, timeout: time.Minute, rate: 1}.prepare(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if len(r.config.Guards) != 1 || r.options.Interval != 5*time.Second {
		t.Errorf("%d guards, evaluated every %v, want one every 5s", len(r.config.Guards), r.options.Interval)
	}
}

// restartsOf has the series of some metrics.
type restartsOf string

func (r restartsOf) Range(_ context.Context, promql string, from, _ time.Time, _ time.Duration) (model.Matrix, error) {
	if r != "" && strings.Contains(promql, string(r)) {
		return model.Matrix{{Values: []model.SamplePair{{Timestamp: model.TimeFromUnix(from.Unix()), Value: 1}}}}, nil
	}
	return nil, nil
}

func (restartsOf) Samples(context.Context, string, time.Time) (model.Matrix, error) { return nil, nil }

func TestRestartsAreThoseOfWhoeverCountedThem(t *testing.T) {
	c, err := loadConfig(writeConfig(t, "namespace: shop\nguards: [{name: orders}]\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	g, err := c.RulesGuard(c.Guards[0], decision.Sides{})
	if err != nil {
		t.Fatal(err)
	}
	named := g
	named.Canary.Workloads, named.Stable.Workloads = []string{"orders-v2"}, []string{"orders-v1"}
	for _, one := range []struct {
		has   string
		guard rules.Guard
		from  rules.Source
		reads string // empty: restarts are not judged
	}{
		{"kube_pod_container_status_restarts_total", named, rules.FromKubeStateMetrics, "kube_pod_container_status_restarts_total"},
		{"guardian_workload_restarts_total", named, rules.FromGuardian, "guardian_workload_restarts_total"},
		{"guardian_workload_restarts_total", g, rules.FromGuardian, "guardian_workload_restarts_total"},
		{"", named, rules.FromKubeStateMetrics, "kube_pod_container_status_restarts_total"},
		{"", g, rules.FromKubeStateMetrics, ""}, // of whose pods?
	} {
		r := &replayer{source: restartsOf(one.has), config: c, options: c.RulesBase(), from: time.Unix(0, 0), to: time.Unix(3600, 0)}
		from, err := r.restartsFrom(t.Context(), one.guard)
		if err != nil || from != one.from {
			t.Errorf("%q: %v, %v, want %v", one.has, from, err, one.from)
		}
		made, err := r.prepare(one.guard, from)
		if err != nil {
			t.Fatal(err)
		}
		read := ""
		for _, s := range made.selectors {
			if name, _, _ := strings.Cut(s, "{"); strings.Contains(name, "restarts_total") && !strings.Contains(name, "_init_") { // native sidecars are read too
				read = name
			}
		}
		if read != one.reads || made.wanted.Restarts == nil {
			t.Errorf("%q: reads %q, want %q", one.has, read, one.reads)
		}
	}
}

// days answers for some days alone, and counts.
type days struct {
	metric      string
	with        map[int64]bool // days since 1970
	fails       int64          // since then
	asked, long int
}

func (d *days) Range(_ context.Context, promql string, from, to time.Time, _ time.Duration) (model.Matrix, error) {
	d.asked++
	day := from.Unix() / 86400
	if to.Sub(from) > 24*time.Hour {
		d.long++
	}
	if day == d.fails {
		return nil, errors.New("disk\x1b broken")
	}
	if !d.with[day] {
		return nil, nil
	}
	return restartsOf(d.metric).Range(context.Background(), promql, from, to, 0)
}

func (*days) Samples(context.Context, string, time.Time) (model.Matrix, error) { return nil, nil }

func TestWhoCountedRestartsIsAskedADayAtATime(t *testing.T) {
	c, err := loadConfig(writeConfig(t, "namespace: shop\nguards: [{name: orders, workloads: {stable: [orders-v1], canary: [orders-v2]}}]\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	g, err := c.RulesGuard(c.Guards[0], decision.Sides{})
	if err != nil {
		t.Fatal(err)
	}
	const kube, own = "kube_pod_container_status_restarts_total", "guardian_workload_restarts_total"
	for name, one := range map[string]struct {
		source days
		from   rules.Source
		asked  int
	}{
		"the newest has some":   {days{metric: kube, with: map[int64]bool{9: true, 8: true}, fails: -1}, rules.FromKubeStateMetrics, 1},
		"an older one":          {days{metric: kube, with: map[int64]bool{7: true}, fails: -1}, rules.FromKubeStateMetrics, 3},
		"guardian's own":        {days{metric: own, with: map[int64]bool{8: true}, fails: -1}, rules.FromGuardian, 12},
		"none":                  {days{fails: -1}, rules.FromKubeStateMetrics, 20},
		"failed":                {days{metric: kube, with: map[int64]bool{0: true}, fails: 5}, nobody, 5},
		"what fails is not met": {days{metric: kube, with: map[int64]bool{7: true}, fails: 5}, rules.FromKubeStateMetrics, 3},
	} {
		r := &replayer{source: &one.source, config: c, options: c.RulesBase(), from: time.Unix(0, 0), to: time.Unix(10*86400, 0)}
		from, err := r.restartsFrom(t.Context(), g)
		if from != one.from || (err != nil) != (from == nobody) || one.source.asked != one.asked || one.source.long > 0 {
			t.Errorf("%s: %q, %v, asked %d times, %d for too long; want %q, %d", name, from, err, one.source.asked, one.source.long, one.from, one.asked)
		}
	}
	r := &replayer{source: &days{fails: 5}, config: c, options: c.RulesBase(), from: time.Unix(0, 0), to: time.Unix(10*86400, 0)}
	made, err := r.prepare(g, nobody)
	if err != nil || made.wanted.Restarts == nil || made.guard.Signals.Restarts != nil {
		t.Errorf("%v, %v", made, err)
	}
	made.unknown = "disk broken"
	if w, err := made.watch(time.Unix(0, 0)); err != nil || !strings.Contains(w.why(rules.SignalRestarts), "it is not known who counted them: disk broken") {
		t.Error(err)
	}
}

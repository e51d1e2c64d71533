package main

import (
	"context"
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
			if name, _, _ := strings.Cut(s, "{"); strings.Contains(name, "restarts_total") {
				read = name
			}
		}
		if read != one.reads || made.wanted.Restarts == nil {
			t.Errorf("%q: reads %q, want %q", one.has, read, one.reads)
		}
	}
}

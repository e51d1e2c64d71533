package main

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/canary-guardian/guardian/alerting"
	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/cmd/guardian/page"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/rules"
	"github.com/canary-guardian/guardian/rules/virtualtime"
)

// failingCanary is a configuration with an action for the error rate, and what guardian
// is sent when its own rules have watched a canary that fails.
func failingCanary(t *testing.T, action string) (config.Config, []alerting.Alert) {
	t.Helper()
	c, err := config.Parse([]byte(fmt.Sprintf(`namespace: microservices
rules: {interval: 1s, scrapeInterval: 5s}
guards:
- name: %s
  workloads: {stable: [orders-v1], canary: [orders-v2]}
  signals: {errorRate: {action: %s}, latency: {enabled: false}, restarts: {enabled: false}, traffic: {enabled: false}}
`, testGuard, action)))
	if err != nil {
		t.Fatal(err)
	}
	o, left := c.RulesOptions(nil)
	if err := left.Err(); err != nil {
		t.Fatal(err)
	}
	made, err := rules.Generate(o)
	if err != nil {
		t.Fatal(err)
	}
	store := virtualtime.NewStore()
	evaluator, err := virtualtime.New(store, made.PrometheusRules("x", "x")[1].Spec.Groups)
	if err != nil {
		t.Fatal(err)
	}
	began := newSomeGuard(10).now.UnixMilli()
	for second := int64(0); second <= 100; second++ {
		at := began + 1000*second
		for i, version := range []string{"v1", "v2"} {
			add := func(f float64, pairs ...string) {
				store.Append(labels.FromStrings(append(pairs, "job", "mesh", "instance", version)...), at, f)
			}
			if second%5 != int64(i) {
				continue
			}
			about := []string{model.MetricNameLabel, "istio_requests_total", "reporter", "destination", "destination_workload", "orders-" + version,
				"destination_workload_namespace", "microservices", "response_code"}
			add(1, model.MetricNameLabel, "up")
			add(float64(20*second), append(about, "200")...)
			if i == 1 {
				add(float64(20*max(0, second-50)), append(about, "503")...)
			}
		}
		if err := evaluator.Evaluate(t.Context(), at); err != nil {
			t.Fatal(err)
		}
	}
	var out []alerting.Alert
	for _, a := range evaluator.Firing() {
		l := a.Labels.Map()
		l[model.AlertNameLabel] = a.Name
		out = append(out, alerting.Alert{Labels: l, Annotations: a.Annotations, StartsAt: time.UnixMilli(a.FiringSince).UTC(), Fingerprint: a.Name})
	}
	return c, out
}

// From the configuration by the rules that are made of it to what is decided.
func TestASignalBrakesAsItsActionSays(t *testing.T) {
	for action, want := range map[string]struct {
		alert string
		at    string
		told  string // what status and gate say of it
	}{
		"rollback": {rules.AlertErrorRate, "`rolled-back`, locked", "latency (off), restarts (off), traffic (off)"},
		"hold":     {rules.AlertErrorRateHold, "`held`", "errorRate (hold), latency (off), restarts (off), traffic (off)"},
		"none":     {rules.AlertErrorRateWarning, "`shifting`", "errorRate (none), latency (off), restarts (off), traffic (off)"},
	} {
		t.Run(action, func(t *testing.T) {
			c, alerts := failingCanary(t, action)
			if len(alerts) != 1 || alerts[0].Name() != want.alert || alerts[0].Labels[rules.LabelAction] != action {
				t.Fatalf("%v fire, want %s/%s", alerts, want.alert, action)
			}
			b, _ := testBridge(t)
			b.setConfig(c)
			if _, err := b.store.Replace(alerting.LaneAlertmanager, alerts, bridgeNow); err != nil {
				t.Fatal(err)
			}
			g := newSomeGuard(10)
			configured, _ := c.Guard(testGuard)
			g.in.Guard.NoRollback = c.DecisionGuard(configured, 0).NoRollback
			g.in.Alerts = b.firing(testGuard)
			g.rest()
			if got := g.where(); got != want.at {
				t.Errorf("%s, want %s", got, want.at)
			}
			if weight := g.in.Traffic.Weight; (weight == 0) != (action == "rollback") {
				t.Errorf("the canary has %d%%", weight)
			}
			s := g.in.Record.Status
			if s.NoRollbackText() != want.told {
				t.Errorf("told %q, want %q", s.NoRollbackText(), want.told)
			}
			if (len(s.Alerts) > 0) != (action != "none") {
				t.Errorf("the record has the alerts %q", s.Alerts)
			}
			if text := trouble(g.in.Record); (text == "") != (action == "none") {
				t.Errorf("the gate sees trouble: %q", text)
			}
		})
	}
}

// Rules may be older than the configuration: Prometheus evaluates them for a while yet,
// or somebody keeps them in a file.
func TestRulesAskForNoMoreThanTheConfiguration(t *testing.T) {
	configured := func(action string) config.Guard {
		g := config.DefaultGuard(testGuard)
		g.Signals.Latency.Enabled, g.Signals.Latency.Action = action != "off", action
		return g
	}
	for _, c := range []struct {
		configured   string
		signal       rules.Signal
		action, want decision.Action
	}{
		{"rollback", rules.SignalLatency, decision.ActionRollback, decision.ActionRollback},
		{"hold", rules.SignalLatency, decision.ActionRollback, decision.ActionHold},
		{"none", rules.SignalLatency, decision.ActionRollback, decision.ActionNone},
		{"none", rules.SignalLatency, decision.ActionHold, decision.ActionNone},
		{"hold", rules.SignalLatency, decision.ActionNone, decision.ActionNone},
		{"rollback", rules.SignalLatency, decision.ActionHold, decision.ActionHold},
		{"off", rules.SignalLatency, decision.ActionRollback, decision.ActionNone},
		{"off", rules.SignalLatency, decision.ActionHold, decision.ActionNone},
		{"rollback", rules.SignalComparison, decision.ActionHold, decision.ActionNone}, // which is off unless it is enabled
		{"rollback", "of a later version", decision.ActionRollback, decision.ActionRollback},
		{"none", rules.SignalErrorRate, decision.ActionRollback, decision.ActionRollback},
		{"none", "", decision.ActionRollback, decision.ActionRollback},
	} {
		a := alerting.Alert{Labels: map[string]string{rules.LabelGuardian: "true", rules.LabelGuard: testGuard, rules.LabelSignal: string(c.signal)}}
		if got := capped(configured(c.configured), a, c.action); got != c.want {
			t.Errorf("latency.action %s: %s by signal %q is %s, want %s", c.configured, c.action, c.signal, got, c.want)
		}
		delete(a.Labels, rules.LabelGuardian)
		if got := capped(configured(c.configured), a, c.action); got != c.action {
			t.Errorf("somebody's own alert that asks for %s is taken as %s", c.action, got)
		}
	}
}

func TestTheRecordSaysWhichSignalsDoNotRollBack(t *testing.T) {
	g := newSomeGuard(10)
	g.in.Guard.NoRollback = []decision.SignalAction{{Signal: "latency", Action: decision.ActionHold}, {Signal: "traffic", Action: decision.ActionOff}}
	g.in.Leads = false
	if g.rest(); g.in.Record.Status.NoRollback != nil {
		t.Error("another replica than the lease holder tells of its configuration")
	}
	g.in.Leads = true
	g.rest()
	if text := g.in.Record.Status.NoRollbackText(); text != "latency (hold), traffic (off)" {
		t.Errorf("the record has %q", text)
	}
	facts := factsOf(records.Named{Guard: testGuard, Namespace: "shop", Record: g.in.Record}, "", g.now)
	if !slices.Contains(facts, page.Fact{Name: "No rollback by", Value: "latency (hold), traffic (off)"}) {
		t.Errorf("status shows %v", facts)
	}
	g.in.Guard.NoRollback = nil
	if g.rest(); g.in.Record.Status.NoRollbackText() != "" {
		t.Error("a signal that brakes again is told as one that does not")
	}
	all := config.DefaultGuard(testGuard).Signals
	all.Comparison.Enabled = true
	if got := (config.Config{}).DecisionGuard(config.Guard{Signals: all}, 0).NoRollback; len(got) != 1 || got[0].Signal != "comparison" || got[0].Action != decision.ActionHold {
		t.Errorf("a comparison that holds is told as %v", got)
	}
	all.Comparison.Enabled = false
	if got := (config.Config{}).DecisionGuard(config.Guard{Signals: all}, 0).NoRollback; got != nil {
		t.Errorf("the defaults are told: %v", got)
	}
}

package main

import (
	"maps"
	"regexp"
	"slices"
	"testing"

	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"

	"github.com/canary-guardian/guardian/alerting"
	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/rules"
)

// ruleFile is what of a rule file matters here.
type ruleFile struct {
	Groups []struct {
		Rules []struct {
			Record, Alert, Expr string
			Labels, Annotations map[string]string
		}
	}
}

// generated are the rules of a guard with the defaults; sides are what runs behind
// its destinations, nil: the configuration alone tells.
func generated(t *testing.T, sides map[string]decision.Sides) ruleFile {
	t.Helper()
	c := config.Default()
	c.Namespace = "microservices"
	c.Guards = []config.Guard{config.DefaultGuard("orders-service")}
	o, left := c.RulesOptions(sides)
	if err := left.Err(); err != nil {
		t.Fatal(err)
	}
	made, err := rules.Generate(o)
	if err != nil {
		t.Fatal(err)
	}
	text, err := made.Prometheus()
	if err != nil {
		t.Fatal(err)
	}
	var f ruleFile
	if err := yaml.Unmarshal(text, &f); err != nil {
		t.Fatal(err)
	}
	return f
}

// What rules ask of guardian's own metrics, guardian exports.
func TestEveryMetricThatTheRulesReadIsExported(t *testing.T) {
	exported := exportedMetrics()
	asked := regexp.MustCompile(`\b(guardian_[a-z_]+)(?:\{|\[|$)`)
	found := 0
	for _, g := range generated(t, nil).Groups {
		for _, r := range g.Rules {
			for _, m := range asked.FindAllStringSubmatch(r.Expr, -1) {
				found++
				if !exported[m[1]] {
					t.Errorf("%s%s reads %s, which guardian does not export; it exports %v", r.Record, r.Alert, m[1], slices.Sorted(maps.Keys(exported)))
				}
			}
		}
	}
	if found == 0 {
		t.Error("no rule reads a metric of guardian: this test looks at the wrong thing")
	}
}

// Every alert about a guard becomes something that remediate acts upon, or is
// for people by its own word.
func TestEveryGeneratedAlertMapsToARequest(t *testing.T) {
	b, _ := testBridge(t)
	acts := 0
	for _, g := range generated(t, nil).Groups {
		for _, r := range g.Rules {
			if r.Alert == "" {
				continue
			}
			labels := map[string]string{model.AlertNameLabel: r.Alert, rules.LabelGuard: "orders-service", rules.LabelNamespace: "microservices"}
			for k, v := range r.Labels {
				labels[k] = v
			}
			if labels[rules.LabelGuardian] != "true" {
				t.Errorf("%s lacks %s=\"true\": Alertmanager's route would not take it", r.Alert, rules.LabelGuardian)
			}
			switch action := labels[rules.LabelAction]; action {
			case string(rules.ActionRollback), string(rules.ActionHold):
				acts++
				guards := b.guardsOf(alerting.Alert{Labels: labels})
				if !slices.Equal(guards, []string{"orders-service"}) {
					t.Errorf("%s is about %v", r.Alert, guards)
				}
				guard, _ := b.config.Load().Guard("orders-service")
				if got := b.translate(guard, alerting.Alert{Labels: labels}); got.Action != decision.ActionRollback && got.Action != decision.ActionHold {
					t.Errorf("%s asks for %q, and remediate hears %q", r.Alert, action, got.Action)
				}
			case string(rules.ActionNone), "":
			default:
				t.Errorf("%s asks for %q: want rollback, hold or none", r.Alert, action)
			}
		}
	}
	if acts < len(rules.SignalNames()) {
		t.Errorf("%d alerts ask for something, want at least one for each of %v", acts, rules.SignalNames())
	}
}

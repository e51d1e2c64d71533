package rules

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// Rules is a generated and checked set of rule groups.
type Rules struct {
	// Notes say what the rules do differently from what was asked, such as a
	// latency limit that lies between two buckets. For people; may be empty.
	Notes []string
	// AlertWindow is the longest time that guardian can hear of an alert about
	// requests or restarts as firing after its cause has gone: the longest window
	// plus keep_firing_for, and the way there and back.
	AlertWindow time.Duration

	parts  []part
	name   string
	labels map[string]string
	lane   *scrapeJob // nil: no fast lane
}

// Generate writes the rules for all guards. Every expression has passed
// Prometheus's own parser and every template its own check. An error lists all
// problems of the options.
func Generate(o Options) (*Rules, error) {
	o = o.withDefaults()
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("generate rules: %w", err)
	}
	self := &builder{Options: o, windows: o.windows()}
	self.selfGroup()
	if self.err != nil {
		return nil, fmt.Errorf("generate rules: %w", self.err)
	}
	guards, err := o.split("", slices.SortedFunc(slices.Values(o.Guards), byKey))
	if err != nil {
		return nil, fmt.Errorf("generate rules: %w", err)
	}
	r := &Rules{
		AlertWindow: o.AlertWindow(),
		parts:       append([]part{{groups: self.groups, words: self.words}}, guards...),
		name:        o.Name,
		labels:      o.Labels,
		lane:        o.scrapeJob(),
	}
	for _, p := range r.parts {
		r.Notes = append(r.Notes, p.notes...)
		if _, err := ruleFile(p.groups); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// Check reports what Generate would refuse of the options, without making the rules
// of all guards: those of a thousand take a second of processor time. The rules of
// the first guard stand for the others, whose own values it looks at.
func Check(o Options) error {
	if err := o.withDefaults().validate(); err != nil {
		return fmt.Errorf("generate rules: %w", err)
	}
	o.Guards = o.Guards[:min(1, len(o.Guards))]
	_, err := Generate(o)
	return err
}

// AlertWindow is that of the rules that Generate would write. Of the guards only
// the signals matter.
func (o Options) AlertWindow() time.Duration {
	o = o.withDefaults()
	return o.longestWindow() + keepFiring + o.transit()
}

// transit is how late the last bad request can enter a window (the next scrape,
// which may be as late again), and how late guardian hears that an alert has
// ended (an evaluation for each of window and keep_firing_for, and
// Alertmanager's group_interval).
func (o Options) transit() time.Duration {
	const route = 10 * time.Second // groupInterval, which Alertmanager takes as text
	return 2*o.ScrapeInterval + 2*o.latencyInterval() + route
}

// longestWindow is the longest time that a signal looks back.
func (o Options) longestWindow() time.Duration {
	longest := max(o.windows().longest(), o.latencyWindows().longest())
	for _, g := range o.Guards {
		longest = max(longest, val(g.Signals.Restarts).Window)
		if action, on := g.Signals.Action(SignalComparison); on && action == ActionRollback {
			longest = max(longest, comparisonLasts())
		}
	}
	return longest
}

// Prometheus returns the content of a rule file, with comments that say what each
// group and its rules are for.
func (r *Rules) Prometheus() ([]byte, error) {
	out, err := ruleFile(r.groups())
	if err != nil {
		return nil, err
	}
	var all []words
	for _, p := range r.parts {
		all = append(all, p.words...)
	}
	return commented(out, "", all), nil
}

// groups are those of all parts.
func (r *Rules) groups() []monitoringv1.RuleGroup {
	var out []monitoringv1.RuleGroup
	for _, p := range r.parts {
		out = append(out, p.groups...)
	}
	return out
}

// ruleFile writes groups as Prometheus reads them, and has its own parser check
// them.
func ruleFile(groups []monitoringv1.RuleGroup) ([]byte, error) {
	out, err := yaml.Marshal(monitoringv1.PrometheusRuleSpec{Groups: groups})
	if err != nil {
		return nil, fmt.Errorf("write rule file: %w", err)
	}
	_, errs := rulefmt.Parse(out, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("check generated rules: %w", err)
	}
	return out, nil
}

// PrometheusRules returns the objects for prometheus-operator: the alerts about
// guardian itself under the given name, and the guards' in as many others as
// their size asks for, under names that begin with it. The caller owns them.
func (r *Rules) PrometheusRules(name, namespace string) []*monitoringv1.PrometheusRule {
	out := make([]*monitoringv1.PrometheusRule, len(r.parts))
	for i, p := range r.parts {
		rule := &monitoringv1.PrometheusRule{
			TypeMeta:   metav1.TypeMeta{APIVersion: monitoringv1.SchemeGroupVersion.String(), Kind: monitoringv1.PrometheusRuleKind},
			ObjectMeta: r.meta(name+p.suffix(), namespace),
			Spec:       monitoringv1.PrometheusRuleSpec{Groups: p.groups},
		}
		out[i] = rule.DeepCopy()
	}
	return out
}

func (r *Rules) meta(name, namespace string) metav1.ObjectMeta {
	labels := map[string]string{
		"app.kubernetes.io/name":       "guardian",
		"app.kubernetes.io/managed-by": "guardian",
		LabelRules:                     r.name,
	}
	maps.Copy(labels, r.labels)
	return metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: labels}
}

// PrometheusRulesYAML is PrometheusRules as manifests, one document each, with the
// comments that Prometheus has.
func (r *Rules) PrometheusRulesYAML(name, namespace string) ([]byte, error) {
	var docs [][]byte
	for i, rule := range r.PrometheusRules(name, namespace) {
		out, err := yaml.Marshal(rule)
		if err != nil {
			return nil, fmt.Errorf("write PrometheusRule %s/%s: %w", namespace, rule.Name, err)
		}
		// The status is the operator's; an empty one is noise in git.
		docs = append(docs, commented(bytes.TrimSuffix(out, []byte("status: {}\n")), "  ", r.parts[i].words))
	}
	return bytes.Join(docs, []byte("---\n")), nil
}

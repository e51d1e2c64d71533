package rules

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
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

// keepFiring bridges the moments in which a canary's evidence wavers around the
// bar: an alert that resolves and fires again is a new episode to Alertmanager.
const keepFiring = 30 * time.Second

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

// builder collects groups; its first error stops nothing and is returned by
// Generate.
type builder struct {
	Options
	windows windows
	shard   string // of the guards, as the end of LabelShard has it; empty: about guardian itself
	groups  []monitoringv1.RuleGroup
	words   []words       // of each group
	lane    string        // recorded by the present group: the sides that the fast lane scrapes
	step    time.Duration // the interval of the present group
	notes   []string
	err     error
}

// group begins a group, into which record and alert then write. What it is for is said
// in a sentence.
func (b *builder) group(name string, interval time.Duration, what string) {
	b.step = interval
	name = b.Name + "." + name
	if b.shard != "" && b.shard != wholeShard {
		name += "." + b.shard // group names are unique in a file
	}
	b.groups = append(b.groups, monitoringv1.RuleGroup{
		Name:     name,
		Interval: duration(interval),
	})
	b.words = append(b.words, words{group: what, rules: map[int]string{}})
}

// endGroup drops the group if nothing was written into it.
func (b *builder) endGroup() {
	if last := len(b.groups) - 1; len(b.groups[last].Rules) == 0 {
		b.groups, b.words = b.groups[:last], b.words[:last]
	}
}

func (b *builder) add(r monitoringv1.Rule) {
	g := &b.groups[len(b.groups)-1]
	g.Rules = append(g.Rules, r)
}

// record writes a recording rule.
func (b *builder) record(name string, labels map[string]string, expr string) {
	labels = maps.Clone(labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[LabelInstance], labels[LabelShard] = b.Name, b.shardLabel()
	b.add(monitoringv1.Rule{Record: name, Labels: labels, Expr: b.pretty(name, expr)})
}

// pretty checks an expression and breaks it into readable lines.
func (b *builder) pretty(name, expr string) intstr.IntOrString {
	parsed, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
	if err != nil {
		b.err = errors.Join(b.err, fmt.Errorf("rule %s: %w\n%s", name, err, expr))
		return intstr.FromString(expr)
	}
	return intstr.FromString(parsed.Pretty(0))
}

func duration(d time.Duration) *monitoringv1.Duration {
	s := monitoringv1.Duration(model.Duration(d).String())
	return &s
}

// dur writes a duration as PromQL does.
func dur(d time.Duration) string { return model.Duration(d).String() }

// num writes a number as PromQL does, without the dust of binary fractions.
func num(f float64) string {
	rounded, err := strconv.ParseFloat(strconv.FormatFloat(f, 'g', 12, 64), 64)
	if err != nil {
		return strconv.FormatFloat(f, 'g', -1, 64)
	}
	return strconv.FormatFloat(rounded, 'f', -1, 64)
}

// expand replaces each $name in a PromQL text by its value; vars alternates
// names and values. Longer names must not begin with shorter ones.
func expand(text string, vars ...string) string {
	pairs := make([]string, 0, len(vars))
	for i := 0; i < len(vars); i += 2 {
		pairs = append(pairs, "$"+vars[i], vars[i+1])
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

// windows are the spans over which requests are counted: multiples of the
// evaluation interval.
type windows struct {
	scrape time.Duration // one scrape
	base   time.Duration // at least scrape; holds as many scrapes each time
}

// newWindows is for series scraped every scrape; least is the shortest base.
func newWindows(scrape, interval, least time.Duration) windows {
	one := ceil(scrape, interval)
	step := scrape / gcd(scrape, interval) * interval // least common multiple
	if step > time.Minute {
		// Windows then hold a scrape more or less; nobody needs such pairs.
		step = one
	}
	return windows{scrape: one, base: ceil(least, step)}
}

// ceil is the lowest multiple of step that is at least d.
func ceil(d, step time.Duration) time.Duration { return (d + step - 1) / step * step }

// windows fit the fast lane where there is one. All but the shortest span an
// ordinary scrape too, because callers' reports come by those.
func (o Options) windows() windows {
	const least = 15 * time.Second
	if o.FastLane == 0 {
		return newWindows(o.ScrapeInterval, o.Interval, least)
	}
	return newWindows(o.FastLane, o.Interval, max(least, o.ScrapeInterval))
}

// latencyInterval is how often latency is judged: its samples are up to a flush
// old, so to ask more often than that pays only where scrapes are frequent.
func (o Options) latencyInterval() time.Duration {
	if o.FastLane > 0 {
		return max(o.Interval, o.FastLane)
	}
	return max(o.Interval, min(flush, (o.ScrapeInterval/3).Truncate(time.Second)))
}

func (o Options) latencyWindows() windows {
	o.Interval = o.latencyInterval()
	return o.windows()
}

func gcd(a, b time.Duration) time.Duration {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// quick are the shortest windows.
func (w windows) quick() []time.Duration { return slices.Compact([]time.Duration{w.scrape, w.base}) }

// short is about a minute: steady enough to show to people.
func (w windows) short() time.Duration { return 4 * w.base }

func (w windows) longest() time.Duration { return 20 * w.base }

// all windows, ascending.
func (w windows) all() []time.Duration { return append(w.quick(), 2*w.base, w.short(), w.longest()) }

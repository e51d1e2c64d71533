package virtualtime

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
)

// lookback is Prometheus's default: for how long a sample without a successor counts.
const lookback = 5 * time.Minute

// Evaluator runs groups of rules over a store as Prometheus does: a group's rules one
// after the other, each at the interval of its group, what they record into the same
// store, and what is recorded no more marked stale.
type Evaluator struct {
	Store  *Store
	engine *promql.Engine
	groups []*group
}

type group struct {
	every int64 // milliseconds
	rules []*rule
}

type rule struct {
	record, alert, expr string
	labels              map[string]string
	annotations         map[string]string
	wait, keep          int64 // milliseconds
	last                map[string]labels.Labels
	active              map[string]*Alert
}

// Alert is one that a rule has raised.
type Alert struct {
	Name        string
	Labels      labels.Labels // with those of the rule
	Annotations map[string]string
	Value       float64 // when it was last evaluated and true
	Since       int64   // since when its expression is true, Unix milliseconds
	FiringSince int64   // 0: not yet
	lostSince   int64   // 0: it is true
}

// New makes an evaluator of rule groups over a store.
func New(store *Store, groups []monitoringv1.RuleGroup) (*Evaluator, error) {
	e := &Evaluator{Store: store, engine: promql.NewEngine(promql.EngineOpts{
		MaxSamples: 50e6, Timeout: time.Minute, LookbackDelta: lookback, EnableAtModifier: true, EnableNegativeOffset: true,
	})}
	for _, g := range groups {
		made := &group{every: time.Minute.Milliseconds()}
		if g.Interval != nil {
			every, err := milliseconds(string(*g.Interval))
			if err != nil || every <= 0 {
				return nil, fmt.Errorf("group %s: interval %q: want a duration above 0", g.Name, *g.Interval)
			}
			made.every = every
		}
		for _, r := range g.Rules {
			one, err := newRule(r)
			if err != nil {
				return nil, fmt.Errorf("group %s: %w", g.Name, err)
			}
			made.rules = append(made.rules, one)
		}
		e.groups = append(e.groups, made)
	}
	return e, nil
}

func newRule(r monitoringv1.Rule) (*rule, error) {
	out := &rule{record: r.Record, alert: r.Alert, expr: r.Expr.String(), labels: r.Labels, annotations: r.Annotations, active: map[string]*Alert{}}
	var err error
	if r.For != nil {
		if out.wait, err = milliseconds(string(*r.For)); err != nil {
			return nil, fmt.Errorf("alert %s: for: %w", r.Alert, err)
		}
	}
	if r.KeepFiringFor != nil {
		if out.keep, err = milliseconds(string(*r.KeepFiringFor)); err != nil {
			return nil, fmt.Errorf("alert %s: keep_firing_for: %w", r.Alert, err)
		}
	}
	return out, nil
}

func milliseconds(text string) (int64, error) {
	d, err := model.ParseDuration(text)
	return time.Duration(d).Milliseconds(), err
}

// Step is the greatest interval at whose multiples all groups are due, in
// milliseconds.
func (e *Evaluator) Step() int64 {
	var step int64
	for _, g := range e.groups {
		step = gcd(g.every, step)
	}
	return max(1, step)
}

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// Evaluate runs the groups that are due at now, Unix milliseconds: those of which it
// is a multiple of the interval.
func (e *Evaluator) Evaluate(ctx context.Context, now int64) error {
	for _, g := range e.groups {
		if now%g.every != 0 {
			continue
		}
		for _, r := range g.rules {
			if err := e.run(ctx, r, now); err != nil {
				return err
			}
		}
	}
	return nil
}

func (e *Evaluator) run(ctx context.Context, r *rule, now int64) error {
	found, err := e.Query(ctx, r.expr, now)
	if err != nil {
		return fmt.Errorf("rule %s%s: %w", r.record, r.alert, err)
	}
	if r.alert != "" {
		r.raise(found, now)
		return nil
	}
	seen := make(map[string]labels.Labels, len(found))
	for _, s := range found {
		l := r.label(s.Metric, r.record)
		e.Store.Append(l, now, s.F)
		seen[l.String()] = l
	}
	for key, l := range r.last {
		if _, ok := seen[key]; !ok {
			e.Store.Append(l, now, Stale)
		}
	}
	r.last = seen
	return nil
}

// Stale is Prometheus's marker of a series that has ended.
var Stale = math.Float64frombits(value.StaleNaN)

// label is what a rule makes of a result's labels.
func (r *rule) label(of labels.Labels, name string) labels.Labels {
	b := labels.NewBuilder(of)
	if name == "" {
		b.Del(model.MetricNameLabel)
	} else {
		b.Set(model.MetricNameLabel, name)
	}
	for k, v := range r.labels {
		b.Set(k, v)
	}
	return b.Labels()
}

// raise brings the alerts of a rule up to date, by Prometheus's own order: pending for
// as long as for says, then firing, and for keep_firing_for after it was true last.
func (r *rule) raise(found promql.Vector, now int64) {
	seen := make(map[string]bool, len(found))
	for _, s := range found {
		l := r.label(s.Metric, "")
		key := l.String()
		seen[key] = true
		a := r.active[key]
		if a == nil {
			a = &Alert{Name: r.alert, Labels: l, Annotations: r.annotations, Since: now}
			r.active[key] = a
		}
		a.Value, a.lostSince = s.F, 0
		if a.FiringSince == 0 && now-a.Since >= r.wait {
			a.FiringSince = now
		}
	}
	for key, a := range r.active {
		if seen[key] {
			continue
		}
		if a.lostSince == 0 {
			a.lostSince = now
		}
		if a.FiringSince == 0 || now-a.lostSince >= r.keep {
			delete(r.active, key)
		}
	}
}

// Firing are the alerts that fire after the last evaluation, in the order of rules.
func (e *Evaluator) Firing() []Alert {
	var out []Alert
	for _, g := range e.groups {
		for _, r := range g.rules {
			for _, key := range slices.Sorted(maps.Keys(r.active)) {
				if a := r.active[key]; a.FiringSince > 0 {
					out = append(out, *a)
				}
			}
		}
	}
	return out
}

// Recorded reports whether rules recorded a series of a metric at their last
// evaluation that has a label's value.
func (e *Evaluator) Recorded(metric, label, value string) bool {
	for _, g := range e.groups {
		for _, r := range g.rules {
			if r.record != metric {
				continue
			}
			for _, l := range r.last {
				if l.Get(label) == value {
					return true
				}
			}
		}
	}
	return false
}

// Query is an instant query at now, Unix milliseconds.
func (e *Evaluator) Query(ctx context.Context, expr string, now int64) (promql.Vector, error) {
	q, err := e.engine.NewInstantQuery(ctx, e.Store, nil, expr, time.UnixMilli(now))
	if err != nil {
		return nil, err
	}
	defer q.Close()
	v, err := q.Exec(ctx).Vector()
	return slices.Clone(v), err
}

// Reads are the selectors of series that rules read and none of them records, without
// those that another one of them includes; and how far back the rules look at most.
func Reads(groups []monitoringv1.RuleGroup) (selectors []string, back time.Duration, err error) {
	recorded := map[string]bool{}
	for _, g := range groups {
		for _, r := range g.Rules {
			recorded[r.Record] = true
		}
	}
	var raw []*parser.VectorSelector
	deepest := map[string]time.Duration{} // of each recorded metric and, as "", of all that is read
	for _, g := range groups {
		for _, r := range g.Rules {
			expr, err := parser.NewParser(parser.Options{}).ParseExpr(r.Expr.String())
			if err != nil {
				return nil, 0, fmt.Errorf("rule %s%s: %w", r.Record, r.Alert, err)
			}
			eachSelector(expr, 0, func(v *parser.VectorSelector, ago time.Duration) {
				if v.Name != r.Record { // what a rule reads of its own it remembers for as long as it goes on: no range holds that
					ago += deepest[v.Name]
				}
				deepest[r.Record] = max(deepest[r.Record], ago)
				back = max(back, deepest[r.Record])
				if !recorded[v.Name] {
					raw = append(raw, v)
				}
			})
		}
	}
	for i, v := range raw {
		if !slices.ContainsFunc(raw[:i], func(w *parser.VectorSelector) bool { return includes(w, v) }) &&
			!slices.ContainsFunc(raw[i+1:], func(w *parser.VectorSelector) bool { return includes(w, v) && !includes(v, w) }) {
			selectors = append(selectors, plainSelector(v))
		}
	}
	return selectors, back + lookback, nil
}

// eachSelector calls do for the selectors of an expression, with how far before its
// evaluation each reads.
func eachSelector(expr parser.Expr, ago time.Duration, do func(*parser.VectorSelector, time.Duration)) {
	parser.Inspect(expr, func(node parser.Node, path []parser.Node) error {
		v, ok := node.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		back := ago + v.OriginalOffset
		for _, above := range path {
			switch above := above.(type) {
			case *parser.MatrixSelector:
				back += above.Range
			case *parser.SubqueryExpr:
				back += above.Range + above.OriginalOffset
			}
		}
		do(v, max(0, back))
		return nil
	})
}

// includes reports whether a selects all that b does, as far as their texts tell: each
// matcher of a is one of b.
func includes(a, b *parser.VectorSelector) bool {
	for _, m := range a.LabelMatchers {
		if !slices.ContainsFunc(b.LabelMatchers, func(n *labels.Matcher) bool { return m.String() == n.String() }) {
			return false
		}
	}
	return true
}

// plainSelector writes the metric and its matchers alone.
func plainSelector(v *parser.VectorSelector) string {
	return (&parser.VectorSelector{Name: v.Name, LabelMatchers: v.LabelMatchers}).String()
}

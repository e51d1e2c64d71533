package rules

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"
	"k8s.io/apimachinery/pkg/util/intstr"
)

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

// words are what a printed group says of itself, for the person who reads it.
type words struct {
	group string         // before the group
	rules map[int]string // before the rule of that index, about it and those that follow
}

// wholeShard is the shard of guards that all stand in one part.
const wholeShard = "all"

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

// about says what the rules that follow are for.
func (b *builder) about(text string) {
	g := len(b.groups) - 1
	b.words[g].rules[len(b.groups[g].Rules)] = text
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

// shardLabel is the LabelShard of a part, which no other part of anybody's rules has:
// one matcher is found faster than several, and the rules are shorter.
func (b *builder) shardLabel() string {
	if b.shard == "" {
		return ""
	}
	return b.Namespace + "/" + b.Name + "/" + b.shard
}

// ownedMatchers selects what this part of the rules has recorded.
func (b *builder) ownedMatchers() string { return LabelShard + "=" + strconv.Quote(b.shardLabel()) }

// owned are the labels of what is recorded before guards are joined.
func (b *builder) owned() map[string]string {
	return map[string]string{LabelOwner: b.Namespace}
}

// groupEvaluated is when a group of a part was evaluated last: its last rule.
const groupEvaluated = "guardian:group:evaluated"

// evaluated ends a group that guards depend on.
func (b *builder) evaluated(group string) {
	labels := b.owned()
	labels["group"] = group
	b.record(groupEvaluated, labels, "vector(time())")
}

// any reports whether some guard has a signal on.
func (b *builder) any(on func(Signals) bool) bool {
	return slices.ContainsFunc(b.Guards, func(g Guard) bool { return on(g.Signals) })
}

// guards returns those that have a signal on.
func (b *builder) guards(on func(Signals) bool) []Guard {
	var out []Guard
	for _, g := range b.Guards {
		if on(g.Signals) {
			out = append(out, g)
		}
	}
	return out
}

// byGuard is the highest of guardian's own series for each guard. The guards'
// namespace is in the rules of the guards, which are needed only where it is not
// the same for all.
func (b *builder) byGuard(expr string) string {
	if all := b.namespaces(); len(all) == 1 {
		return expand(`max by (namespace, guardian_guard) (label_replace(label_replace(
			$expr, "guardian_guard", "$$1", "guard", "(.+)"), "namespace", "$only", "", ""))`, "$1", "$1", "expr", expr, "only", all[0])
	}
	return expand(`max by (namespace, guardian_guard) ((max by (guard) ($expr)) * on (guard) group_right () $info)`,
		"expr", expr, "info", b.own(subsetInfo, labelSide+`="canary"`))
}

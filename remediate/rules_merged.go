package remediate

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"
)

// How Istio picks the DestinationRule that a client goes by, of those of one host and
// namespace (pilot/pkg/model: destination_rule.go, push_context.go and sidecar.go, with
// the enhanced merge, which is on by default from 1.24 on).

// rulesTaken is what some clients take. None: Istio has no DestinationRule for them.
type rulesTaken struct {
	clients string // in words
	entry   *rulesMerged
}

// before says that Istio looks at this rule before another of the same host.
func (k *slimRule) before(o *slimRule) bool { return compareRules(k, o) < 0 }

func compareRules(a, b *slimRule) int {
	if a.chosen != b.chosen {
		if a.chosen {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(a.made, b.made), cmp.Compare(a.name, b.name))
}

// isExportedTo says whether exportTo has one of the names.
func (k *slimRule) isExportedTo(names ...string) bool {
	return slices.ContainsFunc(strings.Fields(k.exported), func(e string) bool { return slices.Contains(names, e) })
}

// isLocal says that clients of its own namespace see the rule.
func (k *slimRule) isLocal() bool {
	return k.exported == "" || k.isExportedTo("*", ".", k.namespace.Value())
}

// leaves says that other clients may see it. What the mesh's default is, guardian cannot
// read: it takes Istio's, which is all namespaces.
func (k *slimRule) leaves() bool {
	return k.exported != "." && k.exported != k.namespace.Value()
}

// admits says that Istio merges a rule into the entry, and whether it stands for itself
// besides.
func (m *rulesMerged) admits(r *slimRule) (merged, apart bool) {
	same := r.exported == m.first.exported
	more := m.first.exported != "" && !slices.ContainsFunc(strings.Fields(m.first.exported), func(e string) bool { return !r.isExportedTo(e) })
	if !same && !more || r.chosen && m.first.chosen && !slices.Equal(r.selector, m.first.selector) {
		return false, true
	}
	return true, !same && r.chosen != m.first.chosen
}

func (m *rulesMerged) add(r *slimRule) {
	m.from = append(m.from, r)
	for _, s := range r.subsets {
		if _, taken := subsetOf(m.subsets, s.name); !taken {
			m.subsets = append(m.subsets, s)
		}
	}
}

// mergeRules makes Istio's list of rules that are in Istio's order. Whether a rule is an
// entry of its own, the last entry before it settles.
func mergeRules(rules []*slimRule) []*rulesMerged {
	var list []*rulesMerged
	for _, r := range rules {
		apart := true
		for _, m := range list {
			var merged bool
			if merged, apart = m.admits(r); merged {
				m.add(r)
			}
		}
		if apart {
			m := &rulesMerged{first: r}
			m.add(r)
			list = append(list, m)
		}
	}
	return list
}

// lastOf is what clients without a selector of their own take: of what they see, the last.
func lastOf(list []*rulesMerged, sees func(*slimRule) bool) *rulesMerged {
	for _, m := range slices.Backward(list) {
		if !m.first.chosen && sees(m.first) {
			return m
		}
	}
	return nil
}

// takenOf is what the clients of the rules take, those of the rules' own namespace first.
func takenOf(rules []*slimRule) []rulesTaken {
	rules = slices.SortedFunc(slices.Values(rules), compareRules)
	inside := mergeRules(slices.DeleteFunc(slices.Clone(rules), func(r *slimRule) bool { return !r.isLocal() }))
	outside := mergeRules(slices.DeleteFunc(slices.Clone(rules), func(r *slimRule) bool { return !r.leaves() }))
	out := []rulesTaken{{"clients of its namespace", lastOf(inside, (*slimRule).isLocal)},
		{"clients of other namespaces", lastOf(outside, func(r *slimRule) bool { return r.exported == "" || r.isExportedTo("*") })}}
	for _, namespace := range namespacesOf(rules) {
		out = append(out, rulesTaken{"clients of namespace " + namespace,
			lastOf(outside, func(r *slimRule) bool { return r.exported == "" || r.isExportedTo("*", namespace) })})
	}
	for _, m := range inside {
		if m.first.chosen {
			out = append(out, rulesTaken{"clients with the labels " + inWords(m.first.selector), m})
		}
	}
	return out
}

// namespacesOf are the other namespaces that rules are exported to by name.
func namespacesOf(rules []*slimRule) []string {
	var out []string
	for _, r := range rules {
		for _, e := range strings.Fields(r.exported) {
			if e != "*" && e != "." && e != "~" && e != r.namespace.Value() {
				out = append(out, e)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// merge is what Istio makes of a rule and the others of its host and namespace: the
// subsets that clients of its namespace take. Where the rule is for others, and those of
// its namespace have none of its subsets, it is what these others take.
func (k *slimRule) merge(others []*slimRule) *slimRule {
	if len(others) == 0 {
		return k
	}
	taken := takenOf(append(slices.Clone(others), k))
	has := func(t rulesTaken) bool {
		return t.entry != nil && slices.ContainsFunc(k.subsets, func(s slimSubset) bool { _, ok := subsetOf(t.entry.subsets, s.name); return ok })
	}
	i := slices.IndexFunc(taken, has)
	if i < 0 {
		i = slices.IndexFunc(taken, func(t rulesTaken) bool { return t.entry != nil })
	}
	if i < 0 {
		return k
	}
	m, entry := *k, taken[i].entry
	m.subsets, m.overruled = entry.subsets, map[string]string{}
	for _, r := range entry.from {
		m.parts = append(m.parts, r.name)
	}
	m.tellOverruled(k, entry)
	for _, t := range taken {
		m.tellTaken(k, t, entry)
	}
	return &m
}

// tellOverruled says which subsets of the guard's own rule Istio has from another.
func (k *slimRule) tellOverruled(own *slimRule, entry *rulesMerged) {
	why := "has another exportTo"
	switch {
	case slices.Contains(entry.from, own):
		why = "is older"
	case own.chosen:
		why = "has no workloadSelector"
	}
	for _, s := range own.subsets {
		set, ok := subsetOf(entry.subsets, s.name)
		switch {
		case !ok:
			k.overrule(s.name, "Istio takes DestinationRule %s, which %s and no subset %s, not %s (%s)", entry.first.name, why, s.name, own.name, inWords(s.labels))
		case !slices.Equal(set, s.labels):
			k.overrule(s.name, "Istio takes subset %s from DestinationRule %s (%s), which %s, not from %s (%s)", s.name, entry.definer(s.name).name, inWords(set), why, own.name, inWords(s.labels))
		}
	}
}

// tellTaken says which subsets some clients have from another entry than the one that
// guardian goes by.
func (k *slimRule) tellTaken(own *slimRule, t rulesTaken, entry *rulesMerged) {
	if t.entry == nil {
		if entry.first.chosen && slices.Contains(entry.from, own) && own != entry.first && !own.chosen && own.isLocal() {
			for _, s := range own.subsets {
				k.overrule(s.name, "for %s Istio takes no DestinationRule: it merges %s into %s, which has a workloadSelector", t.clients, own.name, entry.first.name)
			}
		}
		return
	}
	for _, s := range entry.subsets {
		set, ok := subsetOf(t.entry.subsets, s.name)
		from := entry.definer(s.name).name
		switch {
		case !ok:
			k.overrule(s.name, "for %s Istio takes DestinationRule %s, which has no subset %s, not %s (%s)", t.clients, t.entry.first.name, s.name, from, inWords(s.labels))
		case !slices.Equal(set, s.labels):
			k.overrule(s.name, "for %s Istio takes subset %s from DestinationRule %s (%s), not from %s (%s)", t.clients, s.name, t.entry.definer(s.name).name, inWords(set), from, inWords(s.labels))
		}
	}
	if t.entry != entry && !slices.Contains(k.elsewhere, t.entry) {
		k.elsewhere = append(k.elsewhere, t.entry)
	}
}

func (k *slimRule) overrule(subset, format string, args ...any) {
	if k.overruled[subset] == "" {
		k.overruled[subset] = fmt.Sprintf(format, args...)
	}
}

// definer is the rule that an entry has a subset from.
func (m *rulesMerged) definer(subset string) *slimRule {
	i := slices.IndexFunc(m.from, func(r *slimRule) bool { _, ok := r.subset(subset); return ok })
	return m.from[i]
}

func inWords(set slimLabels) string {
	return cmp.Or(labels.SelectorFromSet(set.set()).String(), "no labels")
}

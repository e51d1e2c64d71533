package alerting

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"unicode/utf8"

	"github.com/prometheus/alertmanager/matcher/compat"
	"github.com/prometheus/alertmanager/pkg/labels"
)

// Matchers selects alerts by their labels, in Alertmanager's syntax. All of
// them must match. The zero value matches every alert.
type Matchers struct {
	list labels.Matchers
}

// parseMatchers is Alertmanager's own parser as Alertmanager uses it by default:
// what either of its two grammars can read. (The package's default is the older
// one alone.)
var parseMatchers = compat.FallbackMatchersParser(slog.New(slog.DiscardHandler))

// ParseMatchers reads matchers with Alertmanager's own parser. Each expression
// holds one matcher (team="shop") or several ({team="shop", severity=~"page|crit"}).
// No matcher at all is an error: it would select every alert there is.
func ParseMatchers(expressions ...string) (Matchers, error) {
	var list labels.Matchers
	for _, expression := range expressions {
		if !utf8.ValidString(expression) { // one of the grammars takes it, and what it has read cannot be written so that it is read again
			return Matchers{}, fmt.Errorf("matchers %q: not valid UTF-8: want, for example, team=\"shop\"", expression)
		}
		parsed, err := parseMatchers(expression, "guardian")
		if err != nil {
			return Matchers{}, fmt.Errorf("matchers %q: %w: want, for example, team=\"shop\"", expression, err)
		}
		if slices.ContainsFunc(parsed, func(one *labels.Matcher) bool { return one.Name == "" }) {
			return Matchers{}, fmt.Errorf("matchers %q: a label without a name: want, for example, team=\"shop\"", expression)
		}
		list = append(list, parsed...)
	}
	if len(list) == 0 {
		return Matchers{}, errors.New("matchers: none: want at least one, such as team=\"shop\"")
	}
	return Matchers{list: list}, nil
}

// Matches says whether an alert with these labels is selected. A label that is
// absent counts as empty.
func (m Matchers) Matches(labels map[string]string) bool {
	for _, matcher := range m.list {
		if !matcher.Matches(labels[matcher.Name]) {
			return false
		}
	}
	return true
}

// Selects says whether an alert is possible that is selected and has, as each of
// these labels, one of its values. It has no other labels.
func (m Matchers) Selects(values map[string][]string) bool {
	matching := map[string][]*labels.Matcher{}
	for _, matcher := range m.list {
		matching[matcher.Name] = append(matching[matcher.Name], matcher)
	}
	for name, all := range matching {
		possible := values[name]
		if len(possible) == 0 {
			possible = []string{""}
		}
		if !slices.ContainsFunc(possible, func(value string) bool {
			return !slices.ContainsFunc(all, func(one *labels.Matcher) bool { return !one.Matches(value) })
		}) {
			return false
		}
	}
	return true
}

// Allows says whether an alert whose label has this value can be selected, as far
// as that label goes.
func (m Matchers) Allows(label, value string) bool {
	return !slices.ContainsFunc(m.list, func(one *labels.Matcher) bool { return one.Name == label && !one.Matches(value) })
}

// Example is an alert that is selected, if it can be told from the matchers: each
// asks for one value, or for any but some.
func (m Matchers) Example() (map[string]string, bool) {
	out := map[string]string{}
	for _, one := range m.list {
		if one.Type == labels.MatchEqual {
			out[one.Name] = one.Value
		}
	}
	return out, m.Matches(out)
}

// Equal is m and, for each of these labels, that it has this value.
func (m Matchers) Equal(values map[string]string) Matchers {
	list := slices.Clone(m.list)
	for _, name := range slices.Sorted(maps.Keys(values)) {
		list = append(list, &labels.Matcher{Type: labels.MatchEqual, Name: name, Value: values[name]})
	}
	return Matchers{list: list}
}

// String is a spelling that ParseMatchers reads.
func (m Matchers) String() string { return m.list.String() }

// filters is the spelling of each matcher for Alertmanager's API and, between
// braces, for PromQL.
func (m Matchers) filters() []string {
	filters := make([]string, len(m.list))
	for i, matcher := range m.list {
		filters[i] = matcher.String()
	}
	return filters
}

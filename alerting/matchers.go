package alerting

import (
	"errors"
	"fmt"

	"github.com/prometheus/alertmanager/matcher/compat"
	"github.com/prometheus/alertmanager/pkg/labels"
)

// Matchers selects alerts by their labels, in Alertmanager's syntax. All of
// them must match. The zero value matches every alert.
type Matchers struct {
	list labels.Matchers
}

// ParseMatchers reads matchers with Alertmanager's own parser. Each expression
// holds one matcher (team="shop") or several ({team="shop", severity=~"page|crit"}).
// No matcher at all is an error: it would select every alert there is.
func ParseMatchers(expressions ...string) (Matchers, error) {
	var list labels.Matchers
	for _, expression := range expressions {
		parsed, err := compat.Matchers(expression, "guardian")
		if err != nil {
			return Matchers{}, fmt.Errorf("matchers %q: %w: want, for example, team=\"shop\"", expression, err)
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

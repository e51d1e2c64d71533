package main

import (
	"fmt"

	"github.com/canary-guardian/guardian/alerting"
	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/rules"
)

// guardIndex is a configuration whose guards are found without a search: with
// a thousand of them each alert would otherwise be held against all.
type guardIndex struct {
	config.Config
	byName   map[string]*config.Guard
	matching []*config.Guard // those with matchers, which any alert may satisfy; in the configuration's order
}

func newGuardIndex(c config.Config) *guardIndex {
	i := &guardIndex{Config: c, byName: make(map[string]*config.Guard, len(c.Guards))}
	for n := range c.Guards {
		g := &c.Guards[n]
		i.byName[g.Name] = g
		if len(g.Alerts.Matchers) > 0 {
			i.matching = append(i.matching, g)
		}
	}
	return i
}

// Guard returns the guard of that name.
func (i *guardIndex) Guard(name string) (config.Guard, bool) {
	if g, ok := i.byName[name]; ok {
		return *g, true
	}
	return config.Guard{}, false
}

// filterOf is what names a guard of this namespace, or no namespace, and the
// guards' matchers, silenced alerts included.
func (i *guardIndex) filterOf(named string, guards []config.Guard) (alerting.Filter, error) {
	own, err := alerting.ParseMatchers(named, rules.LabelNamespace+`=~"|`+i.Namespace+`"`)
	if err != nil {
		return alerting.Filter{}, err
	}
	f := alerting.Filter{Any: []alerting.Matchers{own}, Suppressed: true}
	for _, g := range guards {
		for _, m := range g.Alerts.Matchers {
			parsed, err := alerting.ParseMatchers(m.Match)
			if err != nil {
				return alerting.Filter{}, fmt.Errorf("guard %s: alerts.matchers %q: %w", g.Name, m.Match, err)
			}
			f.Any = append(f.Any, parsed)
		}
	}
	return f, nil
}

// filterFor selects every alert that may be about one guard.
func (i *guardIndex) filterFor(g config.Guard) (alerting.Filter, error) {
	return i.filterOf(rules.LabelGuard+`="`+g.Name+`"`, []config.Guard{g})
}

package main

import (
	"maps"
	"slices"

	"github.com/canary-guardian/guardian/alerting"
	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/rules"
)

// Whose alert is it? Several clusters may send to one Alertmanager, several
// guardians may stand behind it, and each receives and lists what its routes and
// filters let through, which a mistake in a route widens to everything. So an
// alert is acted upon by its own labels alone:
//
//   - own: labels that Prometheus adds (external_labels) to all that it sends, to
//     Alertmanager and on the push lane alike. Its own ALERTS do not have them, but
//     a querier above several Prometheus adds them there: another value is
//     another cluster's, none says nothing.
//   - guardian_instance: which guardian's rules have made it.
//   - namespace: where the guard is. An alert that names a guard and no namespace
//     would act in every namespace, so it counts only where own says whose it is.

// ignored is why an alert is none of this guardian's; empty: it may be.
func (i *guardIndex) ignored(lane alerting.Lane, labels map[string]string) alerting.Reason {
	others := func(label, want string) bool { have := labels[label]; return have != "" && have != want }
	if i.notOwn(lane, labels) {
		return alerting.IgnoredNotOwn
	}
	if !ofOwnRules(labels) && labels[rules.LabelGuard] == "" {
		return "" // matchers alone can select it
	}
	if others(rules.LabelInstance, i.Rules.Name) {
		return alerting.IgnoredInstance
	}
	if others(rules.LabelNamespace, i.Namespace) {
		return alerting.IgnoredNamespace
	}
	if !i.placed(labels) && i.matchedBy(labels) == nil {
		return alerting.IgnoredNoNamespace
	}
	return ""
}

// notOwn says that an alert lacks a label of own, or has another value of it.
func (i *guardIndex) notOwn(lane alerting.Lane, labels map[string]string) bool {
	for name, want := range i.Own {
		have := labels[name]
		saysNothing := have == "" && lane == alerting.LanePrometheus
		if have != want && !saysNothing {
			return true
		}
	}
	return false
}

// placed says whether the alert's labels tell that its guard is one of this
// namespace.
func (i *guardIndex) placed(labels map[string]string) bool {
	have := labels[rules.LabelNamespace]
	return have == i.Namespace || have == "" && len(i.Own) > 0
}

// ofOwnRules says whether an alert is of guardian's own rules.
func ofOwnRules(labels map[string]string) bool { return labels[rules.LabelGuardian] == "true" }

// matchedBy names the guards whose matchers select an alert, in the
// configuration's order. An alert of guardian's own rules takes part by its labels
// alone: a matcher as broad as {namespace="shop"} would else take the heartbeat,
// which always fires.
func (i *guardIndex) matchedBy(labels map[string]string) []*config.Guard {
	if ofOwnRules(labels) {
		return nil
	}
	var out []*config.Guard
	for _, g := range i.matching {
		if slices.ContainsFunc(g.Alerts.Matchers, func(m config.Matcher) bool { return m.Matches(labels) }) {
			out = append(out, g)
		}
	}
	return out
}

// actionFor is what an alert asks of a guard; empty: it is not about it.
func (i *guardIndex) actionFor(g *config.Guard, a alerting.Alert) decision.Action {
	if action := a.Labels[rules.LabelAction]; a.Labels[rules.LabelGuard] == g.Name && isAction(action) && i.placed(a.Labels) {
		return decision.Action(action)
	}
	if ofOwnRules(a.Labels) {
		return ""
	}
	for _, m := range g.Alerts.Matchers {
		if m.Matches(a.Labels) {
			return decision.Action(m.Action)
		}
	}
	return ""
}

// isAction says whether the label guardian_action has a value that means
// something.
func isAction(action string) bool {
	return action == string(decision.ActionRollback) || action == string(decision.ActionHold) || action == string(decision.ActionNone)
}

// lacksOwn names a label of own that an alert lacks altogether, although it is
// otherwise about a guard of this guardian: more likely a Prometheus without
// external_labels than another cluster's.
func (i *guardIndex) lacksOwn(labels map[string]string) string {
	if labels[rules.LabelNamespace] != i.Namespace || i.byName[labels[rules.LabelGuard]] == nil {
		return ""
	}
	for _, name := range slices.Sorted(maps.Keys(i.Own)) {
		if labels[name] == "" {
			return name
		}
	}
	return ""
}

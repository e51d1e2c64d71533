package main

import (
	"context"
	"maps"
	"slices"

	"github.com/canary-guardian/guardian/alerting"
	"github.com/canary-guardian/guardian/cmd/guardian/config"
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
	for name, want := range i.Own {
		if have := labels[name]; have != want && (have != "" || lane != alerting.LanePrometheus) {
			return alerting.IgnoredNotOwn
		}
	}
	if !ofOwnRules(labels) && labels[rules.LabelGuard] == "" {
		return "" // matchers alone can select it
	}
	if have := labels[rules.LabelInstance]; have != "" && have != i.Rules.Name {
		return alerting.IgnoredInstance
	}
	if have := labels[rules.LabelNamespace]; have != "" && have != i.Namespace {
		return alerting.IgnoredNamespace
	}
	if !i.placed(labels) && i.matchedBy(labels) == nil {
		return alerting.IgnoredNoNamespace
	}
	return ""
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

// onlyOwn drops, counts and reports the alerts that are none of this guardian's.
func (b *bridge) onlyOwn(lane alerting.Lane, alerts []alerting.Alert) []alerting.Alert {
	c := b.config.Load()
	own := make([]alerting.Alert, 0, len(alerts))
	for _, a := range alerts {
		reason := c.ignored(lane, a.Labels)
		if reason == "" {
			own = append(own, a)
			continue
		}
		b.metrics.Ignored(lane, reason)
		if !a.Resolved {
			b.tellIgnored(c, lane, a, reason)
		}
	}
	return own
}

// tellIgnored warns of an alert that was probably meant for this guardian.
func (b *bridge) tellIgnored(c *guardIndex, lane alerting.Lane, a alerting.Alert, reason alerting.Reason) {
	guard, want := a.Labels[rules.LabelGuard], ""
	switch lacks := c.lacksOwn(a.Labels); {
	case reason == alerting.IgnoredNoNamespace && guard != "":
		want = "label " + rules.LabelNamespace + ": " + c.Namespace + ", set by the rule, or own in the configuration"
	case reason == alerting.IgnoredNotOwn && lacks != "":
		want = "label " + lacks + ": " + c.Own[lacks] + ", from external_labels of the Prometheus that sends it"
	default:
		b.log.Debug("alert of another guardian", "lane", lane, "reason", reason, "guard", guard, "alert", a.Name(), "fingerprint", a.Fingerprint)
		return
	}
	if b.sayUnknown(string(reason) + " " + guard + " " + a.Name()) {
		b.log.Warn("alert names a guard and is not acted upon, because it does not tell whose it is", "guard", guard, "alert", a.Name(),
			"lane", lane, "fingerprint", a.Fingerprint, "want", want)
	}
}

// ownHeartbeat says whether a heartbeat is of the rules that this guardian
// listens for: another's proves nothing here, and one that does not tell whose it
// is proves nothing anywhere.
func (b *bridge) ownHeartbeat(lane alerting.Lane, labels map[string]string) bool {
	c := b.config.Load()
	return c.ignored(lane, labels) == "" && c.placed(labels) && labels[rules.LabelInstance] == c.Rules.Name
}

// ownLister lists only what is this guardian's.
type ownLister struct {
	lane   alerting.Lane
	next   alerting.Lister
	bridge *bridge
}

// ownOf is a lister of what is this guardian's; nil where there is none.
func (b *bridge) ownOf(lane alerting.Lane, next alerting.Lister) alerting.Lister {
	if next == nil {
		return nil
	}
	return ownLister{lane, next, b}
}

// Firing implements alerting.Lister.
func (l ownLister) Firing(ctx context.Context, f alerting.Filter) ([]alerting.Alert, error) {
	if own := l.bridge.config.Load().Own; l.lane == alerting.LaneAlertmanager && len(own) > 0 {
		any := make([]alerting.Matchers, len(f.Any))
		for i, m := range f.Any {
			any[i] = m.Equal(own)
		}
		f.Any = any
	}
	alerts, err := l.next.Firing(ctx, f)
	if err != nil {
		return nil, err
	}
	return l.bridge.onlyOwn(l.lane, alerts), nil
}

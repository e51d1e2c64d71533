package main

import (
	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

// Selectors of all guards of a namespace.
const (
	ofAll      = `guardian_namespace="$namespace"`
	byAllRules = `namespace="$namespace",guardian_guard!=""`
)

// byGuard gives what the rules record the label that guardian's own metrics have.
func byGuard(expr string) string {
	return `max by (guard) (label_replace(` + expr + `, "guard", "$1", "guardian_guard", "(.+)"))`
}

// namespaceDashboard is an overview of all guards of a namespace.
func namespaceDashboard() (dashboard.Dashboard, error) {
	p := page{
		uid: "guardian-namespace", title: "guardian / namespace",
		description: "All guards of a namespace: where each stands, and what needs attention.",
		variables:   []cog.Builder[dashboard.VariableModel]{namespaceVariable(), filterVariable()},
		marks: []mark{{name: "Rollback", color: red, title: "Rolled back", text: "{{guard}}, signal {{signal}}", tags: "guard,signal",
			expr: counted("guardian_rollbacks_total", ofAll, "guard, signal")}},
	}
	l := &p.layout
	l.line(4, namespaceNumbers()...)
	l.line(10, guardsTile())
	l.row("Over time")
	l.line(8, tile{
		title: "Canaries' weights", width: 12, builder: lines("percent").Max(100).LineInterpolation(common.LineInterpolationStepAfter),
		description: "Share of traffic of each guard's canary. A line that falls to 0 at once is a rollback; the red marks say by which signal.",
		queries:     []query{{expr: canaryWeight(), legend: "{{guard}}"}},
	}, tile{
		title: "Guards by state", width: 12, builder: stateLines(),
		description: "How many guards are in each state.",
		queries:     []query{{expr: `count by (state) (max by (guard, state) (guardian_state{` + ofAll + `}) == 1)`, legend: "{{state}}"}},
	})
	l.line(8, tile{
		title: "Canaries' failed requests", width: 12, builder: lines("percentunit"),
		description: "Share of failed requests of each guard's canary over about a minute.",
		queries:     []query{{expr: byGuard(`guardian_side:requests_failed:ratio{guardian_side="canary",` + byAllRules + `}`), legend: "{{guard}}"}},
	}, tile{
		title: "Requests of the guarded services", width: 12, builder: lines("reqps"),
		description: "Requests per second of both versions together, over about a minute.",
		queries: []query{{expr: `max by (guardian_guard) (sum by (guardian_guard, reporter) (guardian_side:requests:rate{` + byAllRules + `}))`,
			legend: "{{guardian_guard}}"}},
	})
	l.line(8, tile{
		title: "Alerts", width: 12, builder: timeline("fires"),
		description: "Alerts of all guards that roll back or hold, while they fire.",
		queries: []query{{expr: `max by (guardian_guard, alertname) (ALERTS{alertstate="firing",guardian_action=~"rollback|hold",` + byAllRules + `})`,
			legend: "{{guardian_guard}}: {{alertname}}"}},
	}, tile{
		title: "Rollbacks", width: 12, builder: bars(),
		description: "Rollbacks that guardian wrote, by guard and signal.",
		queries:     []query{{expr: `round(sum by (guard, signal) (increase(guardian_rollbacks_total{` + ofAll + `}[$__rate_interval]))) > 0`, legend: "{{guard}}: {{signal}}"}},
	})
	return p.build()
}

// canaryWeight is each guard's; which subset is the canary, the rules know.
func canaryWeight() string {
	return `max by (guard) (max by (guard, subset) (guardian_weight_percent{` + ofAll + `})` +
		` and on (guard, subset) guardian:subset:info{guardian_side="canary",` + byAllRules + `})`
}

func stateLines() cog.Builder[dashboard.Panel] {
	b := lines("short").Decimals(0).Stacking(common.NewStackingConfigBuilder().Mode(common.StackingModeNormal))
	for _, s := range stateColors {
		b = b.OverrideByName(s.state, []dashboard.DynamicConfigValue{fixed(s.color)})
	}
	return b
}

func namespaceNumbers() []tile {
	in := func(state string) string {
		return `sum(max by (guard) (guardian_state{state="` + state + `",` + ofAll + `}))`
	}
	bad := steps(step{color: green}, step{red, 1})
	alert := func(metric string) string { return `sum(max by (guard) (` + metric + `{` + ofAll + `}))` }
	return []tile{
		{title: "Guards", width: 4, builder: number("none"), description: "Guards of this namespace.",
			queries: []query{{expr: `count(count by (guard) (guardian_state{` + ofAll + `}))`, legend: "guards", instant: true}}},
		{title: "Shifting", width: 4, builder: number("none"), description: "Guards whose traffic is split just now.",
			queries: []query{{expr: in("shifting"), legend: "shifting", instant: true}}},
		{title: "Rolled back", width: 4, builder: number("none").Thresholds(bad), description: "Guards whose canary is locked at 0 until a new build is ready or a person unlocks it.",
			queries: []query{{expr: in("rolled-back"), legend: "rolled back", instant: true}}},
		{title: "Blocked", width: 4, builder: number("none").Thresholds(bad),
			description: "Guards whose rollback is wanted and cannot be done safely: the bad canary still has traffic. An operator has to act.",
			queries:     []query{{expr: in("blocked"), legend: "blocked", instant: true}}},
		{title: "Brake off", width: 4, builder: number("none").Thresholds(bad), description: "Guards that a person has disarmed.",
			queries: []query{{expr: in("disarmed"), legend: "disarmed", instant: true}}},
		{title: "Gaps in the guard", width: 4, builder: number("none").Thresholds(bad),
			description: "Canaries with traffic that no rule watches, VirtualServices that lead to a canary and are in no guard, and locks that this guardian did not write.",
			queries: []query{
				{expr: alert("guardian_guard_unwatched"), legend: "unwatched", instant: true},
				{expr: alert("guardian_unguarded_virtualservices"), legend: "unguarded", instant: true},
				{expr: alert("guardian_foreign_locks"), legend: "foreign locks", instant: true},
			}},
	}
}

// guardsTile is the table of guards, each of which leads to its own dashboard.
func guardsTile() tile {
	link := dashboard.DynamicConfigValue{Id: "links", Value: []map[string]any{{
		"title": "Open the guard", "targetBlank": false,
		"url": "/d/guardian-guard?var-datasource=${datasource}&var-namespace=${namespace}&var-guard=${__value.raw}&${__url_time_range}",
	}}}
	return tile{
		title: "Guards and their states", width: gridWidth, table: true,
		description: "Each guard as it is now; its name opens its own dashboard. Where a column is empty, there is nothing: no request, no alert.",
		builder: columns([]string{"Value #A"},
			column{field: "guard", name: "Guard", properties: []dashboard.DynamicConfigValue{link}}, column{field: "state", name: "State"},
			column{field: "Value #B", name: "Canary's weight", unit: "percent"}, column{field: "Value #C", name: "Alerts", unit: "none"},
			column{field: "Value #D", name: "Failed requests", unit: "percentunit"}, column{field: "Value #E", name: "Weights changed", unit: "dateTimeFromNow"},
			column{field: "Value #F", name: "Rollbacks since guardian's start", unit: "none"}),
		queries: []query{
			{expr: `max by (guard, state) (guardian_state{` + ofAll + `}) == 1`, instant: true},
			{expr: canaryWeight(), instant: true},
			{expr: `count by (guard) (label_replace(ALERTS{alertstate="firing",guardian_action=~"rollback|hold",` + byAllRules + `}, "guard", "$1", "guardian_guard", "(.+)"))`, instant: true},
			{expr: byGuard(`guardian_side:requests_failed:ratio{guardian_side="canary",` + byAllRules + `}`), instant: true},
			{expr: `max by (guard) (guardian_weight_changed_timestamp_seconds{` + ofAll + `}) * 1000`, instant: true},
			{expr: `sum by (guard) (guardian_rollbacks_total{` + ofAll + `})`, instant: true},
		},
	}
}

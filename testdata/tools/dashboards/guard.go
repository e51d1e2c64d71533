package main

import (
	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

// Selectors of one guard: of guardian's own metrics, and of what its rules record and fire.
const (
	ofGuard = `guardian_namespace="$namespace",guard="$guard"`
	byRules = `namespace="$namespace",guardian_guard="$guard"`
)

// guardDashboard is for whoever is paged for one guard.
func guardDashboard() (dashboard.Dashboard, error) {
	p := page{
		uid: "guardian-guard", title: "guardian / guard",
		description: "One guard: what its canary does, what guardian decided, and when.",
		variables: []cog.Builder[dashboard.VariableModel]{
			namespaceVariable(),
			valuesOf("guard", "Guard", "The guard, as guardian's configuration names it.", `guardian_state{guardian_namespace="$namespace"}`, "guard"),
			valuesOf("workload", "Workload", "The Deployments of both versions, by which the proxies' series are selected.",
				"guardian:workload:info{"+byRules+"}", "destination_workload").Hide(dashboard.VariableHideHideVariable).Multi(true).IncludeAll(true).
				Current(allSelected()),
			filterVariable(),
		},
		marks: guardMarks(),
	}
	l := &p.layout
	l.line(4, guardNumbers()...)
	l.row("Traffic and decisions")
	l.line(8, weightsTile(), tile{
		title: "State", width: 12, builder: timeline("in it"),
		description: "The states the guard was in. rolled-back and blocked are the two that need attention: the first to find the fault, the second to act, " +
			"because guardian could not. guardian status says why.",
		queries: []query{{expr: `max by (state) (guardian_state{` + ofGuard + `} == 1)`, legend: "{{state}}"}},
	})
	l.line(5, tile{
		title: "Alerts", width: gridWidth, builder: timeline("fires"),
		description: "Alerts of this guard while they fire. With action rollback the canary goes to 0, with hold it stays where it is, with none it only notifies.",
		queries: []query{{
			expr:   `max by (alertname, guardian_action) (ALERTS{alertstate="firing",` + byRules + `})`,
			legend: "{{alertname}} ({{guardian_action}})",
		}},
	})
	l.row("Signals")
	l.line(8, errorTile(), slowTile())
	l.line(8, quantileTile(), requestsTile())
	l.line(8, restartsTile(), waitingTile())
	l.row("What guardian did")
	l.line(8, doneTile(), promotionTile())
	return p.build()
}

func allSelected() dashboard.VariableOption {
	return dashboard.VariableOption{
		Text: dashboard.StringOrArrayOfString{ArrayOfString: []string{"All"}}, Value: dashboard.StringOrArrayOfString{ArrayOfString: []string{"$__all"}},
	}
}

// counted is above 0 for two minutes after a counter of guardian's has gone up: a window that every usual scrape interval
// has two samples in.
func counted(metric, of, by string) string {
	return "sum by (" + by + ") (increase(" + metric + "{" + of + "}[2m])) > 0"
}

// guardMarks are the decisions, where they were made.
func guardMarks() []mark {
	const worth = `held|blocked|paused|disarmed|promoted|unverified|completed` // the others are marked by what led to them
	return []mark{
		{name: "Rollback", color: red, expr: counted("guardian_rollbacks_total", ofGuard, "guard, signal"), title: "Rolled back", text: "signal {{signal}}", tags: "signal"},
		{name: "Would have rolled back", color: orange, expr: counted("guardian_would_rollbacks_total", ofGuard, "guard, signal"),
			title: "Would have rolled back", text: "signal {{signal}}, mode observe", tags: "signal"},
		{name: "Put back", color: "dark-red", expr: counted("guardian_reasserts_total", ofGuard, "guard"), title: "Traffic put back to stable",
			text: "CI or a person gave the locked canary traffic again"},
		{name: "Step", color: green, expr: counted("guardian_promotion_events_total", ofGuard, "guard, kind"), title: "Promotion", text: "{{kind}}", tags: "kind"},
		{name: "Weights changed", color: blue, expr: "max by (guard) (guardian_weight_changed_timestamp_seconds{" + ofGuard + "}) * 1000",
			title: "Weights changed", text: "by CI, a person or guardian", byValue: true},
		{name: "State", color: purple, title: "{{state}}", text: "the guard came into this state", tags: "state",
			expr: `max by (guard, state) (guardian_state{state=~"` + worth + `",` + ofGuard + `}) == 1 unless max by (guard, state) (guardian_state{` + ofGuard + `} offset 2m) == 1`},
		{name: "Alert", color: yellow, off: true, title: "{{alertname}}", text: "{{guardian_action}}", tags: "guardian_signal",
			expr: `max by (alertname, guardian_action, guardian_signal) (ALERTS{alertstate="firing",` + byRules + `})`},
	}
}

// guardNumbers are what to look at first.
func guardNumbers() []tile {
	return []tile{
		{title: "State now", width: 5, builder: states(common.BigValueTextModeName),
			description: "The guard's state. Two names at once: replicas of guardian have not all seen the last change yet.",
			queries:     []query{{expr: `max by (state) (guardian_state{` + ofGuard + `} == 1)`, legend: "{{state}}", instant: true}}},
		{title: "Weights now", width: 5, builder: number("percent").TextMode(common.BigValueTextModeValueAndName),
			description: "Share of traffic that the VirtualServices give each version, as guardian has last seen it.",
			queries:     []query{{expr: `max by (subset) (guardian_weight_percent{` + ofGuard + `})`, legend: "{{subset}}", instant: true}}},
		{title: "Alerts that fire", width: 4, builder: number("none").Thresholds(steps(step{color: green}, step{red, 1})),
			description: "Alerts of this guard that roll back or hold, now.",
			queries:     []query{{expr: `count(ALERTS{alertstate="firing",guardian_action=~"rollback|hold",` + byRules + `}) or vector(0)`, legend: "alerts", instant: true}}},
		{title: "Weights last changed", width: 4, builder: number("dateTimeFromNow"),
			description: "When the weights last changed, by CI, a person or guardian.",
			queries:     []query{{expr: `max(guardian_weight_changed_timestamp_seconds{` + ofGuard + `}) * 1000`, legend: "changed", instant: true}}},
		{title: "Alert to rollback", width: 6, builder: number("s").TextMode(common.BigValueTextModeValueAndName).Decimals(2),
			description: "Time from an alert's arrival at guardian to the confirmed write of the VirtualService, over all rollbacks since guardian started: " +
				"mean, and the upper edge of the slowest one's bucket. Empty before the first rollback.",
			queries: []query{
				{expr: `sum(guardian_rollback_seconds_sum{` + ofGuard + `}) / sum(guardian_rollback_seconds_count{` + ofGuard + `})`, legend: "mean", instant: true},
				{expr: `histogram_quantile(1, sum by (le) (guardian_rollback_seconds_bucket{` + ofGuard + `}))`, legend: "slowest, at most", instant: true},
			}},
	}
}

func weightsTile() tile {
	return tile{
		title: "Weights, and the canary's share of requests", width: 12,
		builder: lines("percent").Max(100).LineInterpolation(common.LineInterpolationStepAfter).
			OverrideByRegexp("^measured.*", []dashboard.DynamicConfigValue{fixed(grey), {Id: "custom.lineInterpolation", Value: "linear"}, {Id: "custom.fillOpacity", Value: 0}}),
		description: "What the VirtualServices give each version, and what the canary really gets. After a rollback the measured share falls to nothing within a minute: " +
			"if it does not, requests reach the canary by another way (GuardianRollbackIneffective).",
		queries: []query{
			{expr: `max by (subset) (guardian_weight_percent{` + ofGuard + `})`, legend: "{{subset}}"},
			{expr: `100 * max by (reporter) (guardian_canary:traffic_share:ratio{` + byRules + `})`, legend: "measured, by {{reporter}}"},
		},
	}
}

func errorTile() tile {
	return tile{
		title: "Failed requests", width: 12, builder: lines("percentunit"),
		description: "Share of failed requests over about a minute, of the reporter that sees most. Above the limit is not enough for a rollback: it takes proof that chance does not " +
			"explain it, and that the canary is worse than stable.",
		queries: []query{
			{expr: `max by (guardian_side) (guardian_side:requests_failed:ratio{` + byRules + `})`, legend: "{{guardian_side}}"},
			{expr: `max(guardian:requests_failed:limit{` + byRules + `})`, legend: "limit"},
		},
	}
}

func slowTile() tile {
	return tile{
		title: "Requests slower than the latency limit", width: 12, builder: lines("percentunit"),
		description: "Share of requests that take longer than the guard's signals.latency.max, over about a minute, and how many may: 5% at quantile 0.95. This is what the latency signal " +
			"judges; the quantile beside it shows by how much.",
		queries: []query{
			{expr: `max by (guardian_side) (guardian_side:requests_slow:ratio{` + byRules + `})`, legend: "{{guardian_side}}"},
			{expr: `max(guardian:requests_slow:limit{` + byRules + `})`, legend: "limit"},
		},
	}
}

func quantileTile() tile {
	buckets := `istio_request_duration_milliseconds_bucket{destination_workload_namespace="$namespace",destination_workload=~"$workload"}`
	side := `max by (destination_workload, destination_workload_namespace, guardian_side) (guardian:workload:info{` + byRules + `})`
	return tile{
		title: "Latency at the guard's quantile (p95 by default)", width: 12, builder: lines("s"),
		description: "How long the guard's quantile of requests takes, from Istio's histogram, by who reports. Between two buckets it is an estimate. Empty where the guard has no latency signal, " +
			"or its versions are distinguished by host instead of by Deployment.",
		queries: []query{
			{expr: `histogram_quantile(scalar(1 - max(guardian:requests_slow:limit{` + byRules + `})), sum by (guardian_side, reporter, le) (` +
				`sum by (destination_workload, destination_workload_namespace, reporter, le) (rate(` + buckets + `[$__rate_interval]))` +
				` * on (destination_workload, destination_workload_namespace) group_left (guardian_side) ` + side + `)) / 1000`,
				legend: "{{guardian_side}}, by {{reporter}}"},
			{expr: `max(guardian:latency:limit{` + byRules + `})`, legend: "limit"},
		},
	}
}

func requestsTile() tile {
	return tile{
		title: "Requests", width: 12, builder: lines("reqps"),
		description: "Requests per second of each version over about a minute, of the reporter that sees most. A canary with few requests is judged late: the statistics need some.",
		queries:     []query{{expr: `max by (guardian_side) (guardian_side:requests:rate{` + byRules + `})`, legend: "{{guardian_side}}"}},
	}
}

func restartsTile() tile {
	return tile{
		title: "Container restarts within the guard's window", width: 12, builder: lines("short").Decimals(0),
		description: "Restarts of each version's containers within signals.restarts.window, and how many may be. Of guardian's replicas the one that saw most counts.",
		queries: []query{
			{expr: `max by (guardian_side) (guardian_side:restarts:increase{` + byRules + `})`, legend: "{{guardian_side}}"},
			{expr: `max(guardian:restarts:limit{` + byRules + `})`, legend: "limit"},
		},
	}
}

func waitingTile() tile {
	return tile{
		title: "Why containers ended or wait", width: 12, builder: lines("short").Decimals(0),
		description: "Containers that something keeps from starting now (ImagePullBackOff, CrashLoopBackOff, …), and restarts since guardian started by the reason of the end before. Empty is good.",
		queries: []query{
			{expr: `max by (subset, reason) (guardian_workload_waiting_containers{` + ofGuard + `})`, legend: "{{subset}} waits: {{reason}}"},
			{expr: `max by (subset, reason) (guardian_workload_terminations_total{` + ofGuard + `})`, legend: "{{subset}} ended: {{reason}}"},
		},
	}
}

func doneTile() tile {
	grew := func(metric, by string) string {
		return "round(sum by (" + by + ") (increase(" + metric + "{" + ofGuard + "}[$__rate_interval])))"
	}
	return tile{
		title: "Rollbacks, put back, failures", width: 12, builder: bars(),
		description: "What guardian wrote: rollbacks by the signal that asked for them, traffic taken from a locked canary again, and reconciles that could not do what was " +
			"decided. Failures that go on fire GuardianReconcileFailing.",
		queries: []query{
			{expr: grew("guardian_rollbacks_total", "signal"), legend: "rollback: {{signal}}"},
			{expr: grew("guardian_reasserts_total", "guard"), legend: "put back"},
			{expr: grew("guardian_reconcile_failures_total", "guard"), legend: "failed"},
		},
	}
}

func promotionTile() tile {
	return tile{
		title: "What the next step waits for", width: 12, builder: timeline("waits"),
		description: "Why guardian takes no step forward, for guards with promotion.mode manual or auto; docs/promotion.md has the reasons. Guards of mode off have none.",
		queries:     []query{{expr: `max by (reason) (guardian_promotion_waiting{` + ofGuard + `} == 1)`, legend: "{{reason}}"}},
	}
}

package main

import (
	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

// replica names one replica in a legend: its pod where Prometheus knows it.
const replica = "{{pod}} {{instance}}"

// selfDashboard is about guardian itself: does the brake work?
func selfDashboard() (dashboard.Dashboard, error) {
	p := page{
		uid: "guardian-self", title: "guardian / guardian itself",
		description: "Does the brake work: do alerts arrive, are writes done, does every replica see the cluster?",
		variables:   []cog.Builder[dashboard.VariableModel]{namespaceVariable(), filterVariable()},
		marks: []mark{{name: "Start", color: blue, title: "A replica started", text: "{{pod}} {{instance}}", byValue: true,
			expr: `max by (pod, instance) (process_start_time_seconds{` + ofAll + `}) * 1000`}},
	}
	l := &p.layout
	l.line(4, selfNumbers()...)
	l.row("Alerts reach guardian")
	l.line(8, heartbeatTile(), receivedTile())
	l.line(8, ignoredTile(), lostTile())
	l.row("How fast")
	l.line(8, ageTile(), writeTile())
	l.row("What it writes")
	l.line(8, tile{
		title: "Put back, and reconciles that failed", width: 8, builder: bars(),
		description: "Traffic taken from a locked canary again, and reconciles that could not do what was decided. Failures that go on fire GuardianReconcileFailing; guardian's log has the reason.",
		queries: []query{
			{expr: `round(sum by (guard) (increase(guardian_reasserts_total{` + ofAll + `}[$__rate_interval])))`, legend: "put back: {{guard}}"},
			{expr: `round(sum by (guard) (increase(guardian_reconcile_failures_total{` + ofAll + `}[$__rate_interval])))`, legend: "failed: {{guard}}"},
		},
	}, tile{
		title: "Calls of the API server", width: 8, builder: lines("reqps"),
		description: "Calls per second by method. An idle release makes few: its watches and its Leases.",
		queries:     []query{{expr: `sum by (method) (rate(rest_client_requests_total{` + ofAll + `}[$__rate_interval]))`, legend: "{{method}}"}},
	}, tile{
		title: "API errors", width: 8, builder: bars(),
		description: "Calls that the API server answered with an error, or did not answer (<error>). 409 is a conflict, after which guardian reads again: some are usual. 403: a right is missing. 429, 5xx and <error>: the API server itself. Empty is good.",
		queries: []query{{expr: `round(sum by (code, method) (increase(rest_client_requests_total{code!~"[123]..",` + ofAll + `}[$__rate_interval]))) > 0`,
			legend: "{{code}} {{method}}"}},
	})
	l.line(7, tile{
		title: "Rules: time since their last evaluation", width: gridWidth, builder: lines("s"),
		description: "By group of guardian's rules, of the part that is latest. It goes up and down between 0 and the group's interval; one that only goes up is not evaluated any more, and its signal watches nothing.",
		queries: []query{{expr: `time() - min by (group) (max by (group, guardian_shard) (guardian:group:evaluated{` + ofAll + `}))`,
			legend: "{{group}}"}},
	})
	l.row("What it sees of the cluster")
	l.line(7, tile{
		title: "Watches", width: 12, builder: upTimeline(),
		description: "By resource, of the replica that sees least. gone: changes are not seen as they happen, but only when guardian looks, once a minute (GuardianCannotWatch).",
		queries:     []query{{expr: `min by (resource) (guardian_watch_alive{` + ofAll + `})`, legend: "{{resource}}"}},
	}, tile{
		title: "Caches", width: 12, builder: upTimeline(),
		description: "By resource, of the replica that knows least. gone: the objects cannot be listed and are read one by one, as far as the API server lets guardian.",
		queries:     []query{{expr: `min by (resource) (guardian_cache_filled{` + ofAll + `})`, legend: "{{resource}}"}},
	})
	l.row("What people and collectors get")
	l.line(7, toldTiles()...)
	l.row("What it takes")
	l.line(8, resourceTiles()...)
	return p.build()
}

func toldTiles() []tile {
	return []tile{
		{title: "Calls of Alertmanager with notices", width: 8, builder: bars(),
			description: "Calls by which guardian has posted what it did (GuardianRolledBack, GuardianBlocked, GuardianNotDone, GuardianHeld): taken by every Alertmanager, partly by some, failed by all. Failed ones are tried again, and the rules of the same " +
				"meaning fire meanwhile.",
			queries: []query{{expr: `round(sum by (result) (increase(guardian_notification_posts_total{` + ofAll + `}[$__rate_interval])))`, legend: "{{result}}"}}},
		{title: "Notices that no Alertmanager has", width: 8, builder: timeline("not told"),
			description: "Guards about which people should have a notice that no Alertmanager has taken from any replica. Empty is good.",
			queries:     []query{{expr: `max by (guard, alert) (guardian_notification_delivered{` + ofAll + `}) == 0`, legend: "{{alert}} {{guard}}"}}},
		{title: "Spans that no collector has", width: 8, builder: bars(),
			description: "Spans of traces that were dropped, by reason (docs/tracing.md). A missing trace is no danger, so no alert fires. Empty where traces are off, and where none was dropped.",
			queries:     []query{{expr: `round(sum by (reason) (increase(guardian_trace_spans_dropped_total{` + ofAll + `}[$__rate_interval]))) > 0`, legend: "{{reason}}"}}},
	}
}

func selfNumbers() []tile {
	few := steps(step{color: red}, step{green, 1})
	bad := steps(step{color: green}, step{red, 1})
	return []tile{
		{title: "Replicas", width: 4, builder: number("none").Thresholds(few), description: "Replicas that Prometheus scrapes. Each rolls back on its own.",
			queries: []query{{expr: `count(guardian_leader{` + ofAll + `})`, legend: "replicas", instant: true}}},
		{title: "Promotion leader", width: 4, builder: number("none").Thresholds(few),
			description: "Replicas that hold the promotion Lease: 1. Without one nothing is promoted and no lock is lifted; rollbacks go on.",
			queries:     []query{{expr: `sum(guardian_leader{` + ofAll + `})`, legend: "leaders", instant: true}}},
		{title: "Oldest heartbeat", width: 4, builder: number("s").Thresholds(steps(step{color: green}, step{yellow, 120}, step{red, 180})),
			description: "Age of the newest heartbeat, of the path that has the oldest one. Beyond heartbeat.maxAge (3 minutes by default) guardian moves nothing forward, and rollback alerts are probably lost too.",
			queries:     []query{{expr: `max(time() - max by (lane) (guardian_heartbeat_timestamp_seconds{` + ofAll + `} > 0))`, legend: "age", instant: true}}},
		{title: "Watches gone", width: 4, builder: number("none").Thresholds(bad), description: "Resources that some replica cannot watch.",
			queries: []query{{expr: `sum(1 - min by (resource) (guardian_watch_alive{` + ofAll + `}))`, legend: "gone", instant: true}}},
		{title: "Guards without rules", width: 4, builder: number("none").Thresholds(bad), description: "Guards whose rules cannot be made: nothing watches their canaries (GuardianRulesIncomplete).",
			queries: []query{{expr: `max(guardian_rules_guards_left_out{` + ofAll + `})`, legend: "guards", instant: true}}},
		{title: "Alerts about guardian", width: 4, builder: number("none").Thresholds(bad), description: "Alerts of this namespace that are for people and fire now, the heartbeat left out.",
			queries: []query{{expr: `count(ALERTS{alertstate="firing",guardian="true",guardian_action="none",namespace="$namespace",alertname!="GuardianHeartbeat"}) or vector(0)`, legend: "alerts", instant: true}}},
	}
}

func heartbeatTile() tile {
	return tile{
		title: "Age of the heartbeat", width: 12, builder: lines("s"),
		description: "Seconds since any replica received the heartbeat, by path: webhook is through Alertmanager, push straight from Prometheus. A saw of about a minute is right; a line that only rises is a broken path.",
		queries:     []query{{expr: `time() - max by (lane) (guardian_heartbeat_timestamp_seconds{` + ofAll + `} > 0)`, legend: "{{lane}}"}},
	}
}

func receivedTile() tile {
	return tile{
		title: "Alerts received", width: 12, builder: lines("cps"),
		description: "Alerts per second by path and by what became of them. accepted is right; failed: guardian could not record them and the sender tries again; all others are refused calls.",
		queries:     []query{{expr: `sum by (lane, result) (rate(guardian_alerts_received_total{` + ofAll + `}[$__rate_interval])) > 0`, legend: "{{lane}}: {{result}}"}},
	}
}

func ignoredTile() tile {
	return tile{
		title: "Alerts not acted upon, and calls without proof", width: 12, builder: lines("cps"),
		description: "Alerts per second that were received or listed and not acted upon, by reason (docs/alerts.md), and calls of the alerts port without the token or certificate it demands. Alerts of other clusters, " +
			"namespaces and guardians are no fault; no_namespace, unknown_guard and not_own may be alerts that were meant for this one.",
		queries: []query{
			{expr: `sum by (reason) (rate(guardian_alerts_ignored_total{` + ofAll + `}[$__rate_interval]))`, legend: "ignored: {{reason}}"},
			{expr: `sum by (proof) (rate(guardian_auth_failures_total{` + ofAll + `}[$__rate_interval]))`, legend: "no proof: {{proof}}"},
		},
	}
}

func lostTile() tile {
	return tile{
		title: "Notifications lost before guardian", width: 12, builder: lines("cps"),
		description: "Alertmanager's webhooks that failed, and alerts that Prometheus dropped, per second, over all receivers. Above 0 rollback alerts may be among them (GuardianNotificationsFailing). Needs a Prometheus that scrapes both.",
		queries: []query{
			{expr: `sum(rate(alertmanager_notifications_failed_total{integration="webhook"}[$__rate_interval]))`, legend: "Alertmanager: webhooks failed"},
			{expr: `sum(rate(prometheus_notifications_dropped_total[$__rate_interval]))`, legend: "Prometheus: alerts dropped"},
		},
	}
}

// quantiles of a histogram that counts since guardian started; a rate would miss the first observation of a series.
func quantiles(metric string) []query {
	var out []query
	for _, q := range []struct{ q, name string }{{"0.5", "p50"}, {"0.95", "p95"}, {"0.99", "p99"}} {
		out = append(out, query{expr: `histogram_quantile(` + q.q + `, sum by (le) (` + metric + `_bucket{` + ofAll + `}))`, legend: q.name})
	}
	return out
}

func ageTile() tile {
	return tile{
		title: "Alert began to alert received", width: 12, builder: lines("s"),
		description: "Time from an alert's startsAt to its first arrival, over all since guardian started: evaluation, Prometheus's queue, Alertmanager's group_wait and the network. Seconds are too many; minutes mean a group_wait " +
			"or a clock that is behind.",
		queries: quantiles("guardian_alert_age_seconds"),
	}
}

func writeTile() tile {
	return tile{
		title: "Alert received to rollback written", width: 12, builder: lines("s"),
		description: "Time from an alert's arrival to the confirmed write of the VirtualService, over all rollbacks of all guards since guardian started. Empty before the first one. Two writes to the API server: tens of milliseconds.",
		queries:     quantiles("guardian_rollback_seconds"),
	}
}

func resourceTiles() []tile {
	return []tile{
		{title: "Memory", width: 8, builder: lines("bytes"), description: "Resident memory of each replica. 1,000 guards take some 90 MiB, and 110 MiB for moments; the chart's limit is 256 MiB.",
			queries: []query{{expr: `max by (pod, instance) (process_resident_memory_bytes{` + ofAll + `})`, legend: replica}}},
		{title: "CPU", width: 8, builder: lines("short").AxisLabel("cores").AxisPlacement(common.AxisPlacementLeft),
			description: "Cores that each replica uses. Idle it is below 1% of one.",
			queries:     []query{{expr: `max by (pod, instance) (rate(process_cpu_seconds_total{` + ofAll + `}[$__rate_interval]))`, legend: replica}}},
		{title: "Goroutines", width: 8, builder: lines("short").Decimals(0), description: "Goroutines of each replica. A line that only rises is a leak.",
			queries: []query{{expr: `max by (pod, instance) (go_goroutines{` + ofAll + `})`, legend: replica}}},
	}
}

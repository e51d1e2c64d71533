package rules

import "time"

// overviewGroup records what dashboards and gates read. Nothing here leads to a
// rollback, so it runs seldom.
func (b *builder) overviewGroup() {
	if len(b.Guards) == 0 {
		return
	}
	b.group("overview", max(infoInterval, b.Interval), "What dashboards and guardian gate read. Nothing here leads to a rollback.")
	requests := b.during(failed.step, b.windows.short())
	b.record("guardian_side:requests:rate", nil, requests+" / "+num(b.windows.short().Seconds()))
	for _, p := range []proportion{failed, slow} {
		if b.recorded(p.bad) {
			b.ratio(p)
		}
	}
	b.record("guardian_canary:traffic_share:ratio", nil, expand(
		`sum by ($guard, reporter) ($canary) / (sum by ($guard, reporter) ($all) > 0)`,
		"guard", keyLabels, "canary", b.during(failed.step, b.windows.short(), labelSide+`="canary"`), "all", requests))
	b.about("Traffic that a rollback has not moved.")
	b.ineffectiveAlert()
	b.endGroup()
}

// ratio records each side's share of bad requests.
func (b *builder) ratio(p proportion) {
	w := b.windows.short()
	if p == slow {
		w = b.latencyWindows().short()
	}
	bad, all := b.during(p.badStep, w), b.during(p.step, w)
	if p == failed { // no failed requests are none; slow ones are known to be none, or not
		bad = expand(`($bad or $all * 0 and on ($guard) $limit)`, "bad", bad, "all", all, "guard", keyLabels, "limit", b.own(p.limit))
	}
	b.record(p.ratio, nil, bad+" / ("+all+" > 0)")
}

// selfGroup watches guardian itself and the way its alerts take.
func (b *builder) selfGroup() {
	b.group("self", max(infoInterval, b.Interval), "guardian itself: whether it is up and receives alerts, and what it has done. The heartbeat goes to guardian, the others to people.")
	here := map[string]string{LabelNamespace: b.Namespace}
	b.alert(alert{
		name: AlertHeartbeat, action: ActionNone, severity: "none", static: here, expr: "vector(1)",
		summary:     "Sign of life: Prometheus evaluates guardian's rules",
		description: "Always firing. It must reach guardian through Alertmanager about once a minute; guardian moves nothing forward without it.",
	})
	b.alert(alert{
		name: AlertHeartbeatStale, action: ActionNone, severity: "critical", static: here, wait: 30 * time.Second,
		// 0 is none yet: then the age is that of the oldest process. A lane that had one is looked at by itself.
		expr: expand(`time() - (max by (lane) (guardian_heartbeat_timestamp_seconds{$self} > 0) or on () min(process_start_time_seconds{$self})) > $age`,
			"self", b.self(), "age", num(b.HeartbeatMaxAge.Seconds())),
		summary:     "Alerts do not reach guardian",
		description: "guardian has received no heartbeat {{ with $labels.lane }}by its {{ . }} lane {{ end }}for {{ $value | humanizeDuration }} (limit " + dur(b.HeartbeatMaxAge) + "). Rollback alerts that take this way are probably lost too; without a fresh heartbeat by any way guardian moves nothing forward.",
	})
	b.alert(alert{
		name: AlertDown, action: ActionNone, severity: "critical", static: here, wait: time.Minute,
		expr:        "absent(guardian_heartbeat_timestamp_seconds{" + b.self() + "})",
		summary:     "guardian is down, or not scraped",
		description: "No replica of the release " + b.Name + " in " + b.Namespace + " has reported its metrics for a minute. If it is down nobody rolls canaries back; if it is only not scraped, the traffic and restart signals have no data. Which of the two: guardian status -n " + b.Namespace,
	})
	b.alert(alert{
		name: AlertNotificationsFailing, action: ActionNone, severity: "critical", static: here, keep: keepFiring,
		// Alertmanager names the receiver where --enable-feature=receiver-name-in-metrics asks for it, prometheus-operator's
		// with namespace and object before it. Elsewhere guardian's receiver cannot be told from others.
		expr: `sum(increase(alertmanager_notifications_failed_total{integration="webhook",receiver_name=~"` + ownReceivers(b.Namespace) + `|"}[5m])) > 0
			or sum(increase(prometheus_notifications_dropped_total[5m])) > 0`,
		summary:     "Alerts could not be delivered",
		description: "{{ $value | printf \"%.0f\" }} notifications could not be delivered within 5 minutes: Alertmanager's webhooks fail (to guardian, or to anybody where Alertmanager's metrics do not name the receiver), or Prometheus drops alerts. Rollback alerts may be among them.",
	})
	b.alert(alert{
		name: AlertRulesIncomplete, action: ActionNone, severity: "critical", static: here, wait: time.Minute,
		expr:        "max(guardian_rules_guards_left_out{" + b.self() + "}) > 0",
		summary:     "guardian cannot write the rules of a guard",
		description: "The rules of {{ $value | printf \"%.0f\" }} guards in " + b.Namespace + " cannot be made by guardian (release " + b.Name + "): no signal watches their canaries. Which guards, and why: the lines 'guard left out of the rules' of its log.",
	})
	b.alert(alert{
		name: AlertCannotWatch, action: ActionNone, severity: "critical", static: here, wait: time.Minute,
		expr:        expand(`min by (resource) (guardian_cache_filled{$self}) == 0 or min by (resource) (guardian_watch_alive{$self}) == 0`, "self", b.self()),
		summary:     "guardian cannot list or watch {{ $labels.resource }}",
		description: "A replica of the release " + b.Name + " in " + b.Namespace + " cannot list or watch {{ $labels.resource }}, and is not ready. It reads them one by one, as far as the API server lets it, and sees what others change only when it looks, at least once a minute. Which right, resource or connection is missing: guardian's log, and /readyz of its metrics port.",
	})
	b.configAlert()
	if len(b.Guards) > 0 {
		b.brakeAlerts()
		b.stateAlerts()
	}
	b.endGroup()
}

// configAlert tells people of a file that guardian refuses, before a start fails on it.
func (b *builder) configAlert() {
	b.alert(alert{
		name: AlertConfigRefused, action: ActionNone, severity: "critical", static: map[string]string{LabelNamespace: b.Namespace}, wait: 5 * time.Minute,
		expr:        "min(guardian_config_last_reload_successful{" + b.self() + "}) == 0",
		summary:     "guardian has refused its configuration and runs on the one of before",
		description: "A replica of the release " + b.Name + " in " + b.Namespace + " has refused its configuration as it now stands, and runs on the one of before: nothing that was changed is in force. A pod that starts now reads the refused file and fails, unless that has but another namespace; with the last replica the brake is gone. What is wrong with it: guardian's log, or guardian check -f guardian.yaml -n " + b.Namespace,
	})
}

// brakeAlerts tells people what the brake does not hold: a canary that nothing watches,
// traffic that no rollback takes away, a lock that is not guardian's.
func (b *builder) brakeAlerts() {
	b.alert(alert{
		name: AlertUnwatched, action: ActionNone, severity: "critical", wait: 2 * time.Minute,
		expr:        b.byGuard("guardian_guard_unwatched{"+b.self()+"}") + " == 1",
		summary:     guardLabel + ": the canary gets traffic and nothing watches it",
		description: "The canary of " + guardLabel + " in " + namespaceLabel + " has traffic, but Prometheus has not evaluated the guard's rules or they record nothing: a bad canary would not be rolled back. guardian goes no step forward. Why: " + command("status"),
	})
	b.alert(alert{
		name: AlertUnguarded, action: ActionNone, severity: "critical", wait: 30 * time.Second,
		expr:        b.byGuard("guardian_unguarded_virtualservices{"+b.self()+"}") + " > 0",
		summary:     guardLabel + ": traffic that no rollback takes away leads to the canary",
		description: "Of the traffic to the canary of " + guardLabel + " in " + namespaceLabel + " a rollback leaves {{ $value | printf \"%.0f\" }} alone: VirtualServices that are in no guard of it, or a new canary while the lock is of another. Which: " + command("status"),
	})
	b.alert(alert{
		name: AlertForeignLock, action: ActionNone, severity: "warning", wait: time.Minute,
		expr:        b.byGuard("guardian_foreign_locks{"+b.self()+"}") + " > 0",
		summary:     guardLabel + ": somebody else's lock stands on its VirtualService",
		description: "A VirtualService of " + guardLabel + " in " + namespaceLabel + " bears a lock that this guardian did not write and cannot take off. guardian takes no step forward while it stands. Which, and whose: " + command("status"),
	})
}

// stateAlerts tells people what guardian did, from its own metrics.
func (b *builder) stateAlerts() {
	state := func(s string) string {
		return `guardian_state{state="` + s + `",` + b.self() + `}`
	}
	b.alert(alert{
		name: AlertRolledBack, action: ActionNone, severity: "warning", wait: b.untilPosted(),
		expr:        b.byGuard(state("rolled-back")) + " == 1" + b.unlessPosted(NoticeRolledBack),
		summary:     guardLabel + ": the canary was rolled back",
		description: "guardian sent all traffic of " + guardLabel + " in " + namespaceLabel + " back to stable and keeps it there until its lock is lifted. Why, and what lifts it: " + command("status"),
	})
	b.alert(alert{
		name: AlertWouldRollBack, action: ActionNone, severity: "warning",
		expr:        b.byGuard("guardian_would_be_rolled_back{"+b.self()+"}") + " == 1",
		summary:     guardLabel + ": guardian would have rolled the canary back",
		description: "guardian observes " + guardLabel + " in " + namespaceLabel + " and has not moved its traffic: with mode: enforce its canary would be at 0% now. Why: " + command("status"),
	})
	b.alert(alert{
		name: AlertReconcileFailing, action: ActionNone, severity: "critical", wait: time.Minute,
		expr:        b.byGuard("increase(guardian_reconcile_failures_total{"+b.self()+"}[5m])") + " > 3",
		summary:     guardLabel + ": guardian cannot do what it has decided",
		description: "guardian has failed {{ $value | printf \"%.0f\" }} times within 5 minutes to read or write what guard " + guardLabel + " in " + namespaceLabel + " needs: its record, its VirtualService, or the objects behind them. A rollback may not be done or not be recorded. guardian's log says why.",
	})
	b.alert(alert{
		name: AlertRollbackBlocked, action: ActionNone, severity: "critical", wait: b.untilPosted(),
		expr:        b.byGuard(state("blocked")) + " == 1" + b.unlessPosted(NoticeBlocked, NoticeNotDone),
		summary:     guardLabel + ": a rollback is wanted and cannot be done safely",
		description: "The canary of " + guardLabel + " in " + namespaceLabel + " is bad, but guardian cannot send its traffic to stable (too few ready endpoints, a missing subset, a missing VirtualService, a refused write, or mode observe). It keeps the traffic that it has. Why: " + command("status"),
	})
	b.alert(alert{
		name: AlertDisarmed, action: ActionNone, severity: "warning",
		expr:        b.byGuard(state("disarmed")) + " == 1",
		summary:     guardLabel + ": a person has taken the brake off",
		description: "guardian does not roll back the canary of " + guardLabel + " in " + namespaceLabel + ", whatever fires, until the disarm ends by itself or a person ends it (" + command("arm") + " --reason 'done'). Who, why and until when: " + command("status"),
	})
	b.alert(alert{
		name: AlertReleaseWithoutCanary, action: ActionNone, severity: "warning",
		expr:        b.byGuard("increase(guardian_releases_without_canary_total{"+b.self()+"}[10m])") + " > 0",
		summary:     guardLabel + ": a release went out without a canary",
		description: "A new build of the canary of " + guardLabel + " in " + namespaceLabel + " was deployed while it had all traffic. If it turns out to be bad, guardian sends the traffic back to stable, as long as stable has enough ready pods.",
	})
}

// ineffectiveAlert tells of requests that reach a canary after its rollback.
func (b *builder) ineffectiveAlert() {
	info := b.own(subsetInfo, labelSide+`="canary"`)
	short := b.windows.short()
	// Streams that were open before report when they end, and probes call by
	// name: a few requests are no sign that traffic has not moved.
	quiet := short + 2*b.ScrapeInterval
	b.alert(alert{
		name: AlertRollbackIneffective, action: ActionNone, severity: "critical", wait: 30 * time.Second,
		expr: expand(`max by (namespace, guardian_guard) (
			(sum without ($side) ($canary) >= 5) / on ($guard, reporter) sum by ($guard, reporter) ($all) > 0.01
			and on ($guard) ((max by (guard, subset) (max_over_time($weights[$quiet])) == 0) * on (guard, subset) group_right () $info)
			and on ($guard) ((max by (guard) ($state) == 1) * on (guard) group_right () $info))`,
			"side", labelSide, "canary", b.during(failed.step, short, labelSide+`="canary"`), "all", b.during(failed.step, short), "guard", keyLabels,
			"weights", b.weights(), "quiet", dur(quiet), "info", info,
			"state", `guardian_state{state="rolled-back",`+b.selfOfGuards()+"}"),
		summary:     guardLabel + ": the canary still gets requests after the rollback",
		description: percent + " of the requests of " + guardLabel + " in " + namespaceLabel + " still reach the canary, although its weight has been 0 for " + dur(quiet) + ": another VirtualService or route, a mirror, direct calls, or a mesh that does not take the new configuration.",
	})
}

// ownReceivers matches the names that AlertmanagerOptions.Receiver gives in this
// namespace, of any cluster.
func ownReceivers(namespace string) string {
	return `(.+/)?` + receiverOf(namespace) + `([.].+)?`
}

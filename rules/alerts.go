package rules

import (
	"strconv"
	"strings"
	"time"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
)

// hold ends the name of an alert that holds where its namesake rolls back, and
// shares its page. They are not the same name with another severity: a usual
// inhibition (kube-prometheus-stack's own) silences what is a warning while
// something critical has the same name and namespace, though it be about another
// guard.
const hold = "Hold"

// warning likewise ends the name of an alert of a signal whose action is none.
const warning = "Warning"

// Names of the alerts, each with a page in docs/runbooks.
const (
	AlertErrorRate             = "GuardianCanaryErrorRate"
	AlertErrorRateHold         = AlertErrorRate + hold
	AlertErrorRateWarning      = AlertErrorRate + warning
	AlertLatency               = "GuardianCanaryLatency"
	AlertLatencyHold           = AlertLatency + hold
	AlertLatencyWarning        = AlertLatency + warning
	AlertRestarts              = "GuardianCanaryRestarts"
	AlertRestartsHold          = AlertRestarts + hold
	AlertRestartsWarning       = AlertRestarts + warning
	AlertWaiting               = "GuardianCanaryNotStarting"
	AlertWaitingWarning        = AlertWaiting + warning
	AlertTraffic               = "GuardianCanaryTraffic"
	AlertTrafficHold           = AlertTraffic + hold
	AlertTrafficWarning        = AlertTraffic + warning
	AlertRefused               = "GuardianCanaryRefused"
	AlertRefusedHold           = AlertRefused + hold
	AlertRefusedWarning        = AlertRefused + warning
	AlertServiceTraffic        = "GuardianServiceTrafficDropped"
	AlertServiceTrafficWarning = AlertServiceTraffic + warning
	AlertComparison            = "GuardianCanaryWorseThanStable"
	AlertComparisonHold        = AlertComparison + hold
	AlertComparisonWarning     = AlertComparison + warning
	AlertHeartbeat             = "GuardianHeartbeat"
	AlertHeartbeatStale        = "GuardianHeartbeatStale"
	AlertRolledBack            = "GuardianRolledBack"
	AlertWouldRollBack         = "GuardianWouldHaveRolledBack"
	AlertRollbackBlocked       = "GuardianRollbackBlocked"
	AlertDisarmed              = "GuardianDisarmed"
	AlertRollbackIneffective   = "GuardianRollbackIneffective"
	AlertReleaseWithoutCanary  = "GuardianReleaseWithoutCanary"
	AlertDown                  = "GuardianDown"
	AlertNotificationsFailing  = "GuardianNotificationsFailing"
	AlertRulesIncomplete       = "GuardianRulesIncomplete"
	AlertReconcileFailing      = "GuardianReconcileFailing"
	AlertUnwatched             = "GuardianCanaryUnwatched"
	AlertCannotWatch           = "GuardianCannotWatch"
	AlertUnguarded             = "GuardianCanaryUnguarded"
	AlertForeignLock           = "GuardianForeignLock"
)

// Alerts lists the names of all alerts that Generate can write.
func Alerts() []string {
	return []string{
		AlertErrorRate, AlertErrorRateHold, AlertErrorRateWarning, AlertLatency, AlertLatencyHold, AlertLatencyWarning,
		AlertRestarts, AlertRestartsHold, AlertRestartsWarning, AlertWaiting, AlertWaitingWarning,
		AlertTraffic, AlertTrafficHold, AlertTrafficWarning, AlertRefused, AlertRefusedHold, AlertRefusedWarning,
		AlertServiceTraffic, AlertServiceTrafficWarning, AlertComparison, AlertComparisonHold, AlertComparisonWarning,
		AlertHeartbeat, AlertHeartbeatStale, AlertRolledBack, AlertWouldRollBack, AlertRollbackBlocked, AlertDisarmed, AlertRollbackIneffective,
		AlertReleaseWithoutCanary, AlertDown, AlertNotificationsFailing, AlertRulesIncomplete, AlertReconcileFailing,
		AlertUnwatched, AlertCannotWatch, AlertUnguarded, AlertForeignLock,
	}
}

// page is the name of an alert's page in docs/runbooks, which its namesakes share.
func page(alert string) string {
	return strings.TrimSuffix(strings.TrimSuffix(alert, hold), warning)
}

// alert is one alerting rule before its common labels and annotations.
type alert struct {
	name, expr           string
	signal               Signal // empty: about guardian itself
	action               Action
	severity             string
	wait, keep           time.Duration
	static               map[string]string
	summary, description string
}

func (b *builder) alert(a alert) {
	labels := map[string]string{
		LabelGuardian: "true", LabelInstance: b.Name, LabelAction: string(a.action), LabelSeverity: a.severity,
	}
	if a.signal != "" {
		labels[LabelSignal] = string(a.signal)
	}
	for k, v := range a.static {
		labels[k] = v
	}
	annotations := map[string]string{
		"summary":     a.summary,
		"description": a.description,
		"runbook_url": b.RunbookBase + page(a.name) + ".md",
	}
	if a.signal != "" {
		b.Links.annotate(annotations, a.signal)
	}
	r := monitoringv1.Rule{Alert: a.name, Expr: b.pretty(a.name, a.expr), Labels: labels, Annotations: annotations}
	if a.wait > 0 {
		r.For = duration(a.wait)
	}
	if a.keep > 0 {
		keep := monitoringv1.NonEmptyDuration(dur(a.keep))
		r.KeepFiringFor = &keep
	}
	b.add(r)
}

const (
	guardLabel     = "{{ $labels.guardian_guard }}"
	namespaceLabel = "{{ $labels.namespace }}"
)

// command is what a person types about the alert's guard, but for a reason.
func command(verb string) string {
	return "guardian " + verb + " " + guardLabel + " -n " + namespaceLabel
}

// lookup is a template that asks for a recorded series of the alert's guard and
// shows it through a pipeline such as "value | humanizePercentage". It shows
// nothing when there is none.
func lookup(metric, pipeline string, matchers ...string) string {
	return withSeries(metric, matchers...) + "{{ . | first | " + pipeline + " }}{{ end }}"
}

// withSeries opens a template's block about the series of a recorded metric that the
// alert's guard has; it is left out where there are none.
func withSeries(metric string, matchers ...string) string {
	selector := metric + `{namespace=%q,guardian_guard=%q` + strings.Join(append([]string{""}, matchers...), ",") + `}`
	return "{{ with printf `" + selector + "` $labels.namespace $labels.guardian_guard | query }}"
}

const (
	percent = "{{ $value | humanizePercentage }}"
	doHold  = " guardian holds the canary where it is."
)

// doRollback says what follows from an alert that rolls back, by the mode of the
// guard, which guardian's own metrics tell.
func (b *builder) doRollback() string {
	return " {{ with printf `guardian_observing{" + LabelOwner + "=%q,guard=%q}` " + strconv.Quote(b.Namespace) + " $labels.guardian_guard | query }}guardian observes this guard: it tells what it would do, and moves nothing." +
		"{{ else }}guardian is asked to send all traffic to stable. Whether it has: " + command("status") + "{{ end }}"
}

// stableShare tells stable's share over about a minute, by the reporter that
// comes first; withStable opens a block about it, which is left out where there is none.
func stableShare(p proportion) string {
	return withStable(p) + "{{ . | first | value | humanizePercentage }}{{ end }}"
}

func withStable(p proportion) string {
	// A raw string of the template cannot hold backquotes.
	return strings.ReplaceAll(withSeries(p.ratio, labelSide+"=`stable`"), "=`stable`", `="stable"`)
}

func (b *builder) errorAlerts() {
	bad := percent + " of the requests to the canary of " + guardLabel + " in " + namespaceLabel + " fail (limit " +
		lookup(failed.limit, "value | humanizePercentage") + ")"
	canary := guardLabel + ": " + percent + " of the canary's requests fail"
	b.shareAlerts(failed, AlertErrorRate, SignalErrorRate, canary, bad, " fail: a shared dependency is likely, and a rollback would not help.")
}

func (b *builder) latencyAlerts() {
	bad := percent + " of the requests to the canary of " + guardLabel + " in " + namespaceLabel + " take longer than " +
		lookup(latencyMax, "value | humanizeDuration") + " (limit " + lookup(slow.limit, "value | humanizePercentage") + " of them)"
	canary := guardLabel + ": " + percent + " of the canary's requests are too slow"
	b.shareAlerts(slow, AlertLatency, SignalLatency, canary, bad, " do.")
}

// shareAlerts are the alerts of a share of bad requests; canary and bad say it of the
// canary, and stables what as many of stable's do.
func (b *builder) shareAlerts(p proportion, name string, signal Signal, canary, bad, stables string) {
	b.verdict(verdict{
		name: name, signal: signal,
		expr: b.convicted(p), held: b.suspected(p), beyond: b.beyond(p),
		says:     says{canary, bad + ", since " + lookup(p.since, "value | humanizeTimestamp") + "; stable is not as bad."},
		heldSays: says{canary + ", and stable's too", bad + ", but it is not proven worse than stable, where " + stableShare(p) + stables},
		soft:     says{canary, bad + withStable(p) + "; of stable's {{ . | first | value | humanizePercentage }}{{ end }}."},
	})
}

func (b *builder) restartsAlerts() {
	vars := []string{
		"canary", now(b.own(restartsIn, labelSide+`="canary"`)), "stable", now(b.own(restartsIn, labelSide+`="stable"`)),
		"max", b.own(restartsMax), "factor", b.own(stableFactor), "guard", keyLabels, "side", labelSide,
	}
	beyond := expand(`sum without ($side, window) ($canary) > on ($guard) sum without (window) ($max)`, vars...)
	// Stable is as bad when it restarts beyond the limit too.
	alike := expand(`(sum without ($side, window) ($stable) > on ($guard) sum without (window) ($max)) and on ($guard) $factor`, vars...)
	count := `{{ $value | printf "%.0f" }}`
	// Not only what has restarted: a container in a loop of crashes waits most of the time.
	why := b.endedText(", last ended by ") + b.waitingText(", now waiting: ")
	within := lookup(restartsMax, `value | printf "%.0f"`) + " within " + lookup(restartsMax, `label "window"`)
	bad := "The containers of the canary of " + guardLabel + " in " + namespaceLabel + " restarted " + count + " times (limit " + within + ")" + why
	canary := guardLabel + ": the canary's containers restarted " + count + " times"
	b.verdict(verdict{
		name: AlertRestarts, signal: SignalRestarts,
		expr:     expand(`max by (namespace, guardian_guard) (($beyond) unless on ($guard) ($alike))`, "beyond", beyond, "guard", keyLabels, "alike", alike),
		held:     expand(`max by (namespace, guardian_guard) (($beyond) and on ($guard) ($alike))`, "beyond", beyond, "guard", keyLabels, "alike", alike),
		beyond:   `max by (namespace, guardian_guard) (` + beyond + `)`,
		says:     says{canary, bad + "; stable's did not."},
		heldSays: says{guardLabel + ": the containers of canary and stable restart", bad + ", and so did stable's."},
		soft:     says{canary, bad + "."},
	})
}

var weightText = lookup(weightRatio, "value | humanizePercentage")

func (b *builder) trafficAlerts(window time.Duration) {
	few, high := b.tooFew(), "max by (namespace, guardian_guard) ("+b.share(">", "1 + "+b.own(trafficTolerance))+")"
	vars := []string{"few", few, "seen", b.seen(), "high", high}
	gets := "The canary of " + guardLabel + " in " + namespaceLabel + " has weight " + weightText + " and gets " + percent +
		" of the requests that this would bring it within " + dur(window)
	why := ". At 0% nothing reports its requests: is its proxy scraped? Far above 100%, requests reach it by another way than the weights."
	b.verdict(verdict{
		name: AlertTraffic, signal: SignalTraffic,
		expr:     expand(`($few) and on (namespace, guardian_guard) $seen`, vars...),
		held:     expand(`(($few) unless on (namespace, guardian_guard) $seen) or ($high)`, vars...),
		beyond:   expand(`($few) or ($high)`, vars...),
		says:     says{guardLabel + ": the canary gets only " + percent + " of the requests it should", gets + ", while the service is in use."},
		heldSays: says{guardLabel + ": the canary gets " + percent + " of the requests it should", gets + why},
		soft:     says{guardLabel + ": the canary gets " + percent + " of the requests it should", gets + why},
	})
	b.verdict(verdict{
		name: AlertServiceTraffic, signal: SignalTraffic,
		held: expand(`min by (namespace, guardian_guard) (
			($kept < 0.5) and $before * ($kept * ln(clamp_min($kept, 1e-9)) - $kept + 1) > $enough
			unless on ($guard, reporter) $gaps unless on ($guard, reporter) ($gaps offset 5m) and on ($guard) $tolerance)`,
			"kept", b.own(trafficKept), "before", b.trafficBefore(), "gaps", b.own(countGaps),
			"enough", num(enoughProof), "guard", keyLabels, "tolerance", b.own(trafficTolerance)),
		heldSays: says{guardLabel + ": the whole service gets " + percent + " of the requests of five minutes ago",
			"Canary and stable of " + guardLabel + " in " + namespaceLabel + " together get " + percent +
				" of the requests they got five minutes ago. The canary's share has not been shown to be the cause."},
	})
}

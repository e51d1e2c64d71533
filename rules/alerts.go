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
	AlertConfigRefused         = "GuardianConfigRefused"
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
		AlertUnwatched, AlertCannotWatch, AlertUnguarded, AlertForeignLock, AlertConfigRefused,
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

// keepFiring bridges the moments in which a canary's evidence wavers around the
// bar: an alert that resolves and fires again is a new episode to Alertmanager.
const keepFiring = 30 * time.Second

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

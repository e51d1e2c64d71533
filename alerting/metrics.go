package alerting

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// result is what became of something received: the label result.
type result string

const (
	resultAccepted     result = "accepted"     // alerts that the sink took
	resultFailed       result = "failed"       // alerts that the sink could not take; the sender was told
	resultInvalid      result = "invalid"      // calls, or single alerts of a push, that make no sense
	resultVersion      result = "version"      // calls with another payload version than 4
	resultTooLarge     result = "too_large"    // calls over the body limit
	resultUnauthorized result = "unauthorized" // calls without right credentials
	resultTruncated    result = "truncated"    // alerts that Alertmanager left out (max_alerts)
)

var results = []result{
	resultAccepted, resultFailed, resultInvalid, resultVersion,
	resultTooLarge, resultUnauthorized, resultTruncated,
}

// Reason is why an alert was not acted upon: the label reason.
type Reason string

// The reasons. All but the last are for whoever wires the package to give.
const (
	IgnoredNotOwn      Reason = "not_own"       // lacks a label by which this guardian's alerts are known: another cluster's
	IgnoredInstance    Reason = "instance"      // of another guardian's rules
	IgnoredNamespace   Reason = "namespace"     // about a guard of another namespace
	IgnoredNoNamespace Reason = "no_namespace"  // names a guard, but not where it is
	IgnoredGuard       Reason = "unknown_guard" // names a guard that is not there
	IgnoredEnded       Reason = "ended"         // had ended, by this clock, before it was ever received as firing
)

var reasons = []Reason{IgnoredNotOwn, IgnoredInstance, IgnoredNamespace, IgnoredNoNamespace, IgnoredGuard, IgnoredEnded}

// Metrics are the metrics of this package. All label values exist from the
// start, at zero.
type Metrics struct {
	received  *prometheus.CounterVec // lane, result
	ignored   *prometheus.CounterVec // lane, reason
	age       prometheus.Histogram   // seconds
	auth      *prometheus.CounterVec // proof
	heartbeat *prometheus.GaugeVec   // lane; Unix seconds, 0: none yet
}

// NewMetrics registers the metrics. It panics, as promauto does, when they are
// registered already.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		received: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "guardian_alerts_received_total",
			Help: "Alerts received, by lane and by what became of them. Refused calls (invalid, version, too_large, unauthorized) count once each, their alerts being unknown.",
		}, []string{"lane", "result"}),
		ignored: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "guardian_alerts_ignored_total",
			Help: "Alerts that were accepted or listed and not acted upon, by lane and reason. Those of other clusters, namespaces and guardians (not_own, namespace, instance) are no fault.",
		}, []string{"lane", "reason"}),
		age: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "guardian_alert_age_seconds",
			Help:    "Time from an alert's startsAt to its first arrival at guardian, by either lane.",
			Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300},
		}),
		auth: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "guardian_auth_failures_total",
			Help: "Calls of the alerts port without the proof that it demands: bearer token, basic auth or client certificate.",
		}, []string{"proof"}),
		heartbeat: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "guardian_heartbeat_timestamp_seconds",
			Help: "When this replica last received the heartbeat alert, by its own clock and by lane (webhook: through Alertmanager; push: straight from Prometheus); 0 if never.",
		}, []string{"lane"}),
	}
	reg.MustRegister(m.received, m.ignored, m.auth, m.age, m.heartbeat)
	for _, proof := range []proof{proofBearer, proofBasic, proofCertificate} {
		m.auth.WithLabelValues(string(proof))
	}
	for _, lane := range []Lane{LaneWebhook, LanePush} {
		m.heartbeat.WithLabelValues(string(lane))
		for _, result := range results {
			m.received.WithLabelValues(string(lane), string(result))
		}
	}
	for _, lane := range []Lane{LaneWebhook, LanePush, LaneAlertmanager, LanePrometheus} {
		for _, reason := range reasons {
			m.ignored.WithLabelValues(string(lane), string(reason))
		}
	}
	return m
}

func (m *Metrics) count(lane Lane, result result, n int) {
	m.received.WithLabelValues(string(lane), string(result)).Add(float64(n))
}

// Ignored counts an alert that is not acted upon.
func (m *Metrics) Ignored(lane Lane, reason Reason) {
	m.ignored.WithLabelValues(string(lane), string(reason)).Inc()
}

// started notes the first arrival of an episode. The two clocks differ, so a
// small negative age is taken as none.
func (m *Metrics) started(a Alert, now time.Time) {
	m.age.Observe(max(0, now.Sub(a.StartsAt).Seconds()))
}

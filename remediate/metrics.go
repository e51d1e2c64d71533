package remediate

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are what a Controller exports. The guard label takes its values
// from the configuration, the others from closed sets.
type Metrics struct {
	weight    *prometheus.GaugeVec
	state     *prometheus.GaugeVec
	rollbacks *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
	restarts  *prometheus.CounterVec
	waiting   *prometheus.GaugeVec
	reasserts *prometheus.CounterVec
	failures  *prometheus.CounterVec
	info      *prometheus.GaugeVec
	leader    prometheus.Gauge
}

// signals are the values of the label signal of guardian_rollbacks_total;
// anything else counts as "other".
var signals = []string{"error_rate", "latency", "restarts", "traffic", "person", "refused_build", "other"}

// NewMetrics registers the metrics of a Controller.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		weight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "guardian_weight_percent", Help: "Share of the guard's traffic by subset, percent, as last seen in its VirtualServices."},
			[]string{"guard", "subset"}),
		state: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "guardian_state", Help: "1 for the state that the guard is in, 0 for the others."}, []string{"guard", "state"}),
		rollbacks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "guardian_rollbacks_total", Help: "Rollbacks that this replica has written, by the signal that asked for them."}, []string{"guard", "signal"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "guardian_rollback_seconds", Help: "Time from an alert's arrival to the confirmed write of the VirtualService.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}}, []string{"guard"}),
		restarts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "guardian_workload_restarts_total", Help: "Container restarts seen since this replica started, istio-proxy left out. Every replica counts all: use max."},
			[]string{"guard", "subset"}),
		waiting: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "guardian_workload_waiting_containers", Help: "Containers that wait for a bad reason now."}, []string{"guard", "subset", "reason"}),
		reasserts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "guardian_reasserts_total", Help: "Times that traffic was taken from a locked canary again."}, []string{"guard"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "guardian_reconcile_failures_total", Help: "Reconciles that could not do what was decided."}, []string{"guard"}),
		info: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "guardian_weight_changed_timestamp_seconds", Help: "When the weights were last changed by anybody, as guardian saw it."}, []string{"guard"}),
		leader: prometheus.NewGauge(prometheus.GaugeOpts{Name: "guardian_leader", Help: "1 on the replica that holds the lease for going forward."}),
	}
	reg.MustRegister(m.weight, m.state, m.rollbacks, m.seconds, m.restarts, m.waiting, m.reasserts, m.failures, m.info, m.leader)
	return m
}

// waitingReasons are the values of the label reason; others are "other".
var waitingReasons = []string{"CrashLoopBackOff", "ImagePullBackOff", "ErrImagePull", "other"}

// start makes a guard's series visible at zero.
func (m *Metrics) start(g Guard) {
	for _, s := range signals {
		m.rollbacks.WithLabelValues(g.Name, s)
	}
	for _, s := range States {
		m.state.WithLabelValues(g.Name, string(s))
	}
	for _, ref := range []Ref{g.Stable, g.Canary} {
		m.restarts.WithLabelValues(g.Name, ref.String())
	}
	m.reasserts.WithLabelValues(g.Name)
	m.failures.WithLabelValues(g.Name)
}

// stop removes the series of a guard that the configuration no longer has.
func (m *Metrics) stop(guard string) {
	l := prometheus.Labels{"guard": guard}
	for _, v := range []interface{ DeletePartialMatch(prometheus.Labels) int }{m.weight, m.state, m.rollbacks, m.seconds, m.restarts, m.waiting, m.reasserts, m.failures, m.info} {
		v.DeletePartialMatch(l)
	}
}

// saw exports what a reconcile found.
func (m *Metrics) saw(g Guard, o outcome) {
	st := o.decision.Record.Status
	for _, s := range States {
		v := 0.0
		if s == st.State {
			v = 1
		}
		m.state.WithLabelValues(g.Name, string(s)).Set(v)
	}
	weight := o.snapshot.input.Traffic.Weight
	switch {
	case o.moved && o.decision.Move == MoveStable:
		weight = 0
	case o.moved && o.decision.Move == MoveForward:
		weight = o.decision.Weight
	}
	m.weight.WithLabelValues(g.Name, g.Canary.String()).Set(float64(weight))
	m.weight.WithLabelValues(g.Name, g.Stable.String()).Set(float64(100 - weight))
	if !st.MovedAt.IsZero() {
		m.info.WithLabelValues(g.Name).Set(float64(st.MovedAt.UnixMilli()) / 1000)
	}
	sides := o.snapshot.sides
	for ref, side := range map[Ref]Side{g.Stable: sides.Stable, g.Canary: sides.Canary} {
		left := side.Restarts.Waiting
		for _, reason := range waitingReasons[:len(waitingReasons)-1] {
			m.waiting.WithLabelValues(g.Name, ref.String(), reason).Set(float64(left[reason]))
		}
		other := int64(0)
		for reason, n := range left {
			if !slices.Contains(waitingReasons, reason) {
				other += n
			}
		}
		m.waiting.WithLabelValues(g.Name, ref.String(), "other").Set(float64(other))
	}
}

package remediate

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.opentelemetry.io/otel/trace"
)

// Metrics are what a Controller exports. The guard label takes its values
// from the configuration, the others from closed sets.
//
// A guard has some thirty series. They are kept as numbers and made into
// metrics when somebody reads them: as metrics they would take more memory than
// all that guardian knows of the cluster.
type Metrics struct {
	seconds *prometheus.HistogramVec // a guard's appears with its first rollback
	leader  prometheus.Gauge
	filled  *prometheus.GaugeVec // by resource
	watched *prometheus.GaugeVec // the same

	mu     sync.Mutex
	guards map[string]*series
}

// series is what is counted for one guard.
type series struct {
	guard      *dto.LabelPair
	subsets    [2]*dto.LabelPair // stable, canary
	seen       bool              // false: no weight, state or container is known yet
	state      decision.State
	weight     int // of the canary, percent
	movedAt    time.Time
	builtAt    time.Time                     // since when the canary's requests are one build's; zero: unknown
	waiting    [2][len(waitingReasons)]int64 // by subset
	restarts   [2][len(endReasons)]int64     // by subset
	rollbacks  [len(decision.Signals)]int64
	wouldBe    [len(decision.Signals)]int64 // of mode observe
	observes   bool
	would      bool // a rollback would stand now
	progress   [len(progress)]int64
	promotes   bool          // the mode of promotion is not off
	waitsFor   decision.Wait // what its next step waits for
	reasserts  int64
	unverified int64
	blind      bool // its canary has traffic that no rule watches
	unguarded  int  // VirtualServices that lead to its canary and are not its own
	foreign    int  // locks of others on its VirtualServices
	failures   int64
}

// progress are the values of the label kind of guardian_promotion_events_total.
var progress = [...]string{"step", "promoted", "completed"}

// waitingReasons and endReasons are the values of the label reason of
// guardian_workload_waiting_containers and guardian_workload_terminations_total;
// anything else counts as "other". At 0 they are left out: nearly all always are,
// and with them a scrape of 1,000 guards would be twice as large.
var (
	waitingReasons = [...]string{"CrashLoopBackOff", "ImagePullBackOff", "ErrImagePull", "InvalidImageName",
		"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "other"}
	endReasons = [...]string{"OOMKilled", "Error", "Completed", "StartError", "other"}
)

// The label pairs that all guards share.
var (
	signalPairs = pairs("signal", decision.Signals[:])
	reasonPairs = pairs("reason", waitingReasons[:])
	endPairs    = pairs("reason", endReasons[:])
	statePairs  = pairs("state", decision.States)
	waitPairs   = pairs("reason", decision.Waits)
	kindPairs   = pairs("kind", progress[:])
)

func pairs[S ~string](name string, values []S) []*dto.LabelPair {
	out := make([]*dto.LabelPair, len(values))
	for i, v := range values {
		out[i] = pair(name, string(v))
	}
	return out
}

func pair(name, value string) *dto.LabelPair { return &dto.LabelPair{Name: &name, Value: &value} }

var (
	descWeight     = describeMetric("guardian_weight_percent", "Share of the guard's traffic by subset, percent, as last seen in its VirtualServices.", "subset")
	descState      = describeMetric("guardian_state", "1 for the state that the guard is in, 0 for the others.", "state")
	descRollbacks  = describeMetric("guardian_rollbacks_total", "Rollbacks that this replica has written, by the signal that asked for them.", "signal")
	descWouldBe    = describeMetric("guardian_would_rollbacks_total", "Rollbacks that mode observe has kept from being done, told by this replica, by the signal that asked for them; guards that enforce have none.", "signal")
	descObserves   = describeMetric("guardian_observing", "1 for a guard of mode observe, for which no VirtualService is written; guards that enforce have none.")
	descWould      = describeMetric("guardian_would_be_rolled_back", "1 while the guard would be rolled back if it enforced; guards that enforce have none.")
	descRestarts   = describeMetric("guardian_workload_restarts_total", "Container restarts seen since this replica started, istio-proxy left out. Every replica counts all: use max.", "subset")
	descEnds       = describeMetric("guardian_workload_terminations_total", "The same restarts by the reason of the end before; reasons without any are left out.", "reason", "subset")
	descWaiting    = describeMetric("guardian_workload_waiting_containers", "Containers that something keeps from starting now, by the reason, istio-proxy left out; reasons without any are left out too.", "reason", "subset")
	descProgress   = describeMetric("guardian_promotion_events_total", "Steps forward, and times that the canary came to have all traffic and outlived its rollback window, that this replica has written.", "kind")
	descWaits      = describeMetric("guardian_promotion_waiting", "1 for what the next step of promotion waits for, 0 for the others, as the lease holder has written it; guards of mode off have none.", "reason")
	descReasserts  = describeMetric("guardian_reasserts_total", "Times that traffic was taken from a locked canary again.")
	descUnverified = describeMetric("guardian_releases_without_canary_total", "New builds that went out while the canary already had all traffic, that this replica has written.")
	descFailures   = describeMetric("guardian_reconcile_failures_total", "Reconciles that could not do what was decided.")
	descBlind      = describeMetric("guardian_guard_unwatched", "1 while the canary has traffic and Prometheus does not show that the guard's rules watch it, as the lease holder has written it.")
	descUnguarded  = describeMetric("guardian_unguarded_virtualservices", "What no rollback takes away: VirtualServices of the namespace that lead to the canary and that no guard of it has, and 1 for a canary with traffic while the lock is of another, as the lease holder has written it.")
	descForeign    = describeMetric("guardian_foreign_locks", "Annotations by which another user holds a canary in the guard's VirtualServices, as the lease holder has written it.")
	descMoved      = describeMetric("guardian_weight_changed_timestamp_seconds", "When the weights were last changed by anybody, as guardian saw it.")
	descBuilt      = describeMetric("guardian_canary_build_timestamp_seconds", "Since when the canary's present build alone answers: when its rollout ended, by its pods, or, where none was seen, when it appeared. During a rollout that of the build before.")

	descriptions = []*prometheus.Desc{descWeight, descState, descRollbacks, descRestarts, descEnds, descWaiting, descProgress, descWaits, descReasserts, descUnverified, descFailures, descBlind, descUnguarded, descForeign, descMoved, descBuilt,
		descObserves, descWouldBe, descWould}
)

func describeMetric(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, append([]string{"guard"}, labels...), nil)
}

// NewMetrics registers the metrics of a Controller.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		guards: map[string]*series{},
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "guardian_rollback_seconds", Help: "Time from an alert's arrival to the confirmed write of the VirtualService, of rollbacks that the replica has done to which the alert was delivered.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}}, []string{"guard"}),
		leader: prometheus.NewGauge(prometheus.GaugeOpts{Name: "guardian_leader", Help: "1 on the replica that holds the lease for going forward."}),
		filled: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "guardian_cache_filled",
			Help: "1 when all objects of the resource are known, 0 while they cannot be listed and are read one by one."}, []string{"resource"}),
		watched: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "guardian_watch_alive",
			Help: "1 while changes of the resource are seen, or need not be, 0 once its watch has been away for longer than a resync."}, []string{"resource"}),
	}
	reg.MustRegister(m, m.seconds, m.leader)
	return m
}

// cacheFilled tells whether all objects of a resource are known.
func (m *Metrics) cacheFilled(resource string, filled bool) {
	m.filled.WithLabelValues(resource).Set(oneIf(filled))
}

// watchAlive tells whether changes of a resource are seen.
func (m *Metrics) watchAlive(resource string, alive bool) {
	m.watched.WithLabelValues(resource).Set(oneIf(alive))
}

func oneIf(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// start makes a guard's series visible at zero. The restarts of a destination
// that the guard did not have before start anew.
func (m *Metrics) start(g decision.Guard) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.guards[g.Name]
	if !ok {
		s = &series{guard: pair("guard", g.Name)}
		m.guards[g.Name] = s
	}
	for i, ref := range []virtualservice.Ref{g.Stable, g.Canary} {
		if s.subsets[i] == nil || s.subsets[i].GetValue() != ref.String() {
			s.subsets[i], s.restarts[i], s.waiting[i], s.seen = pair("subset", ref.String()), [len(endReasons)]int64{}, [len(waitingReasons)]int64{}, false
		}
	}
}

// stop removes the series of a guard that the configuration no longer has.
func (m *Metrics) stop(guard string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.guards, guard)
	m.seconds.DeleteLabelValues(guard)
}

// edit changes what is counted for a guard, if there is such a guard still.
func (m *Metrics) edit(guard string, change func(*series)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s, ok := m.guards[guard]; ok {
		change(s)
	}
}

// rollbackTook notes how long a rollback took. The trace that shows where the time
// went goes with it, if there is one.
func (m *Metrics) rollbackTook(ctx context.Context, guard string, took time.Duration) {
	h := m.seconds.WithLabelValues(guard)
	if c := trace.SpanContextFromContext(ctx); c.IsSampled() {
		h.(prometheus.ExemplarObserver).ObserveWithExemplar(took.Seconds(), prometheus.Labels{"trace_id": c.TraceID().String()})
		return
	}
	h.Observe(took.Seconds())
}

func (m *Metrics) failed(guard string)     { m.edit(guard, func(s *series) { s.failures++ }) }
func (m *Metrics) unverified(guard string) { m.edit(guard, func(s *series) { s.unverified++ }) }
func (m *Metrics) reasserted(guard string) { m.edit(guard, func(s *series) { s.reasserts++ }) }

// rolledBack counts a rollback; signal is one of signals.
func (m *Metrics) rolledBack(guard, signal string) {
	m.edit(guard, func(s *series) { s.rollbacks[slices.Index(decision.Signals[:], signal)]++ })
}

// wouldRollBack counts a rollback that was not done since the guard observes.
func (m *Metrics) wouldRollBack(guard, signal string) {
	m.edit(guard, func(s *series) { s.wouldBe[slices.Index(decision.Signals[:], signal)]++ })
}

// progressed counts an event of promotion; kind is one of progress.
func (m *Metrics) progressed(guard, kind string) {
	m.edit(guard, func(s *series) { s.progress[slices.Index(progress[:], kind)]++ })
}

func (m *Metrics) restarted(guard string, ref virtualservice.Ref, byReason map[string]int64) {
	m.edit(guard, func(s *series) {
		for i, have := range s.subsets {
			if have.GetValue() == ref.String() {
				addByReason(s.restarts[i][:], endReasons[:], byReason)
			}
		}
	})
}

// addByReason adds counts to those of the same reasons; the last is for all
// others.
func addByReason(to []int64, reasons []string, byReason map[string]int64) {
	for reason, n := range byReason {
		k := slices.Index(reasons, reason)
		if k < 0 {
			k = len(reasons) - 1
		}
		to[k] += n
	}
}

// observe exports what a reconcile found.
func (m *Metrics) observe(g decision.Guard, o outcome) {
	m.edit(g.Name, func(s *series) {
		st := o.status()
		s.seen, s.state, s.movedAt, s.builtAt, s.weight = true, st.State, st.MovedAt, st.ServesSince(), o.snapshot.ofConfiguration().input.Traffic.Weight
		mode := g.Promotion.Mode
		s.promotes, s.waitsFor = mode == decision.PromotionManual || mode == decision.PromotionAuto, st.WaitingFor
		s.blind, s.unguarded, s.foreign = st.RulesUnproven(), len(st.Unguarded), len(st.ForeignLocks)
		s.observes, s.would = st.Observing != nil, st.Observing != nil && st.Observing.Would != nil && st.Observing.Would.Blocked == ""
		switch {
		case o.snapshot.next != nil: // what is moved is of another canary
		case o.done && o.decision.Move == decision.MoveStable:
			s.weight = 0
		case o.done && o.decision.Move == decision.MoveForward:
			s.weight = o.decision.Weight
		}
		sides := o.snapshot.ofConfiguration().sides
		for i, side := range []decision.Side{sides.Stable, sides.Canary} {
			s.waiting[i] = [len(waitingReasons)]int64{}
			addByReason(s.waiting[i][:], waitingReasons[:], side.Waiting)
		}
	})
}

// Describe is for the registry.
func (m *Metrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range descriptions {
		to <- d
	}
	m.filled.Describe(to)
	m.watched.Describe(to)
}

// Collect is for the registry.
func (m *Metrics) Collect(to chan<- prometheus.Metric) {
	m.mu.Lock()
	all := make([]series, 0, len(m.guards))
	for _, s := range m.guards {
		all = append(all, *s)
	}
	m.mu.Unlock()
	for i := range all {
		all[i].collect(to)
	}
	m.filled.Collect(to)
	m.watched.Collect(to)
}

// collect sends what a guard's series are now.
func (s *series) collect(to chan<- prometheus.Metric) {
	e := exporting{s, to}
	e.steps()
	e.rollbacks()
	e.restarts()
	if s.seen {
		e.traffic()
	}
}

// exporting sends one guard's series to the registry.
type exporting struct {
	*series
	to chan<- prometheus.Metric
}

func (e exporting) gauge(d *prometheus.Desc, v float64, labels ...*dto.LabelPair) {
	e.to <- &reading{desc: d, labels: append([]*dto.LabelPair{e.guard}, labels...), value: v}
}

func (e exporting) count(d *prometheus.Desc, n int64, labels ...*dto.LabelPair) {
	e.to <- &reading{desc: d, labels: append([]*dto.LabelPair{e.guard}, labels...), value: float64(n), counter: true}
}

// steps are the state, and how the steps of promotion stand.
func (e exporting) steps() {
	for i, p := range statePairs {
		e.gauge(descState, oneIf(decision.States[i] == e.state), p)
	}
	for i, p := range kindPairs {
		e.count(descProgress, e.progress[i], p)
	}
	if e.promotes {
		for i, p := range waitPairs {
			e.gauge(descWaits, oneIf(decision.Waits[i] == e.waitsFor), p)
		}
	}
}

// rollbacks are what was done, what would have been, and what could not be.
func (e exporting) rollbacks() {
	for i, p := range signalPairs {
		e.count(descRollbacks, e.series.rollbacks[i], p)
	}
	if e.observes {
		e.gauge(descObserves, 1)
		e.gauge(descWould, oneIf(e.would))
		for i, p := range signalPairs {
			e.count(descWouldBe, e.wouldBe[i], p)
		}
	}
	e.count(descReasserts, e.reasserts)
	e.count(descUnverified, e.unverified)
	e.count(descFailures, e.failures)
}

// restarts are those of both sides' containers.
func (e exporting) restarts() {
	for i, p := range e.subsets {
		all := int64(0)
		for k, reason := range endPairs {
			if n := e.series.restarts[i][k]; n > 0 {
				e.count(descEnds, n, reason, p)
				all += n
			}
		}
		e.count(descRestarts, all, p)
	}
}

// traffic is what has been seen of the VirtualServices and of what runs behind them.
func (e exporting) traffic() {
	for i, weight := range []int{100 - e.weight, e.weight} {
		e.gauge(descWeight, float64(weight), e.subsets[i])
		for k, reason := range reasonPairs {
			if n := e.waiting[i][k]; n > 0 {
				e.gauge(descWaiting, float64(n), reason, e.subsets[i])
			}
		}
	}
	e.gauge(descBlind, oneIf(e.blind))
	e.gauge(descUnguarded, float64(e.unguarded))
	e.gauge(descForeign, float64(e.foreign))
	e.timestamp(descMoved, e.movedAt)
	e.timestamp(descBuilt, e.builtAt)
}

// timestamp is left out while it is not known.
func (e exporting) timestamp(d *prometheus.Desc, at time.Time) {
	if !at.IsZero() {
		e.gauge(d, float64(at.UnixMilli())/1000)
	}
}

// reading is one value of one series.
type reading struct {
	desc    *prometheus.Desc
	labels  []*dto.LabelPair // sorted by name, shared
	value   float64
	counter bool
}

// Desc is for the registry.
func (r *reading) Desc() *prometheus.Desc { return r.desc }

// Write is for the registry.
func (r *reading) Write(out *dto.Metric) error {
	out.Label = r.labels
	if r.counter {
		out.Counter = &dto.Counter{Value: &r.value}
	} else {
		out.Gauge = &dto.Gauge{Value: &r.value}
	}
	return nil
}

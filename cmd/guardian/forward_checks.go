package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/canary-guardian/guardian/alerting"
	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/rules"
)

const (
	listEvery = time.Minute
	// listWait bounds one listing; a hanging Alertmanager must not delay a
	// rollback, which waits for none.
	listWait = 20 * time.Second
	// listPause is between a listing and one that is asked for: whoever may send alerts
	// can ask as often as they like.
	listPause = 5 * time.Second
)

// forwardChecks asks Alertmanager and Prometheus: what fires, and all that only
// matters before a step forward.
type forwardChecks struct {
	alertmanager, prometheus alerting.Lister
	query                    interface {
		Query(ctx context.Context, promql string) ([]alerting.Sample, error)
	}
	bridge *bridge
	log    *slog.Logger
	now    func() time.Time

	asked chan struct{} // holds one token when a listing is asked for
}

func newForwardChecks(b *bridge, log *slog.Logger, now func() time.Time) *forwardChecks {
	return &forwardChecks{bridge: b, log: log, now: now, asked: make(chan struct{}, 1)}
}

// listSoon asks for a listing before the next minute is over. It does not wait.
func (o *forwardChecks) listSoon() {
	select {
	case o.asked <- struct{}{}:
	default: // the same listing is for all
	}
}

// list asks for all that fires, puts it into the store, and has guards with
// something new looked at: a lost webhook or a restart loses nothing.
func (o *forwardChecks) list(ctx context.Context) error {
	return o.listAll(ctx, func(_, started []alerting.Alert) error {
		var failed []error
		for guard, began := range o.bridge.byGuard(ctx, started) {
			failed = append(failed, ignoreUnknown(o.bridge.guards.Accept(ctx, guard, began, o.now())))
		}
		return errors.Join(failed...)
	})
}

// refresh is list for somebody whose call is answered by it: it returns when
// what follows from all that fires is recorded, also from what was in the store
// already because an earlier call failed.
func (o *forwardChecks) refresh(ctx context.Context) error {
	return o.listAll(ctx, func(firing, _ []alerting.Alert) error {
		return o.bridge.submit(ctx, o.bridge.byGuard(ctx, firing), o.now())
	})
}

// listAll puts what fires into the store. hand gets what fires, and what of it is new.
func (o *forwardChecks) listAll(ctx context.Context, hand func(firing, started []alerting.Alert) error) error {
	filter, err := o.bridge.filter()
	if err != nil {
		return err
	}
	return o.sources().Fill(ctx, filter, o.bridge.store, o.now, func(firing []alerting.Alert, changes alerting.Changes) error {
		err := hand(firing, changes.Started)
		for guard := range o.bridge.byGuard(ctx, changes.Ended) {
			o.bridge.guards.Enqueue(guard)
		}
		return err
	})
}

// sources list only what is this guardian's.
func (o *forwardChecks) sources() alerting.Sources {
	return alerting.Sources{Alertmanager: o.bridge.ownOf(alerting.LaneAlertmanager, o.alertmanager), Prometheus: o.bridge.ownOf(alerting.LanePrometheus, o.prometheus), Log: o.log}
}

// run lists at start, every minute, and when it is asked for, until ctx ends.
func (o *forwardChecks) run(ctx context.Context) error {
	tick := time.NewTicker(listEvery)
	defer tick.Stop()
	for {
		one, cancel := context.WithTimeout(ctx, listWait)
		if err := o.list(one); err != nil && ctx.Err() == nil {
			o.log.Warn("list what fires", "err", err)
		}
		cancel()
		if sleep(ctx, listPause) != nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-o.asked:
			o.log.Info("a call was refused whose alerts do not come again by themselves: what fires is listed now")
		}
	}
}

// askForward answers what only matters before traffic goes forward.
func (o *forwardChecks) askForward(ctx context.Context, g decision.Guard, sides decision.Sides, since time.Time) (decision.Forward, []decision.Alert) {
	c := o.bridge.config.Load()
	guard, ok := c.Guard(g.Name)
	if !ok {
		return decision.Forward{Err: "guard " + g.Name + " is not in the configuration"}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, listWait)
	defer cancel()
	firing, err := o.firingAnywhere(ctx, guard)
	if err != nil {
		return decision.Forward{Err: "nobody answers what fires: " + err.Error()}, nil
	}
	f := decision.Forward{}
	if signals := guard.Signals.Limits(); o.query == nil && signals == (rules.Signals{}) && guard.Promotion.MinRequests == 0 && len(guard.Promotion.Gates) == 0 {
		return f, firing // nothing to ask Prometheus for, and no Prometheus
	}
	tally, gaps, err := o.counted(ctx, c.Config, guard, sides, since)
	if err != nil {
		f.Err = "Prometheus does not answer: " + err.Error()
		return f, firing
	}
	f.Requests, f.Failed, f.Latency, f.Gaps = tally.Requests, tally.Failed, tally.Latency, gaps
	for _, gate := range guard.Promotion.Gates {
		answer, err := o.gate(ctx, gate)
		if err != nil {
			f.Err = "Prometheus does not answer gate " + gate.Name + ": " + err.Error()
			return f, firing
		}
		f.Gates = append(f.Gates, answer)
	}
	return f, firing
}

// firingAnywhere asks for alerts of one guard, silenced ones included: that
// somebody does not want to hear of them is no reason to go forward.
func (o *forwardChecks) firingAnywhere(ctx context.Context, g config.Guard) ([]decision.Alert, error) {
	filter, err := o.bridge.config.Load().filterFor(g)
	if err != nil {
		return nil, err
	}
	alerts, err := o.sources().Firing(ctx, filter)
	if err != nil {
		return nil, err
	}
	var out []decision.Alert
	for _, a := range alerts {
		for _, name := range o.bridge.guardsOf(a) {
			if name == g.Name {
				out = append(out, o.bridge.translate(g, a))
			}
		}
	}
	return out, nil
}

// count is counted for a guard known by name.
func (o *forwardChecks) count(ctx context.Context, g decision.Guard, sides decision.Sides, since time.Time) (decision.Tally, decision.Gaps, error) {
	c := o.bridge.config.Load()
	guard, ok := c.Guard(g.Name)
	if !ok {
		return decision.Tally{}, decision.Gaps{}, fmt.Errorf("guard %s is not in the configuration", g.Name)
	}
	ctx, cancel := context.WithTimeout(ctx, listWait)
	defer cancel()
	return o.counted(ctx, c.Config, guard, sides, since)
}

// counted is what the canary's requests came to since a time, and what is missing of
// the rules that watch it.
func (o *forwardChecks) counted(ctx context.Context, c config.Config, g config.Guard, sides decision.Sides, since time.Time) (decision.Tally, decision.Gaps, error) {
	if o.query == nil {
		return decision.Tally{}, decision.Gaps{}, errors.New("prometheus.url is empty")
	}
	guard, err := c.RulesGuard(g, sides)
	if err != nil {
		return decision.Tally{}, decision.Gaps{}, err
	}
	n, err := o.tally(ctx, c, guard, since)
	if err != nil {
		return decision.Tally{}, decision.Gaps{}, err
	}
	gaps, err := o.gaps(ctx, c, guard)
	return n, gaps, err
}

// tally counts the canary's requests since a time, and none from before, which came at
// other weights or to another build: one query, whatever is counted. Right after that
// time no two scrapes are in between, and there are none yet.
func (o *forwardChecks) tally(ctx context.Context, c config.Config, g rules.Guard, since time.Time) (decision.Tally, error) {
	samples, err := o.query.Query(ctx, c.RulesBase().Tally(g, max(o.now().Sub(since), time.Second)))
	if err != nil {
		return decision.Tally{}, err
	}
	var out decision.Tally
	below := map[string]map[float64]float64{} // by reporter and edge in ms
	for _, s := range samples {
		if math.IsNaN(s.Value) {
			continue
		}
		switch s.Labels[rules.LabelTally] {
		case rules.TallyRequests:
			out.Requests = int64(s.Value)
		case rules.TallyFailed: // half a failure is one
			out.Failed = int64(math.Round(s.Value))
		default:
			edge, err := strconv.ParseFloat(s.Labels[rules.LabelLatencyMs], 64)
			if err != nil {
				continue
			}
			reporter := s.Labels[rules.LabelReporter]
			if below[reporter] == nil {
				below[reporter] = map[float64]float64{}
			}
			below[reporter][edge] += s.Value
		}
	}
	if l := g.Signals.Latency; l != nil {
		for _, reporter := range slices.Sorted(maps.Keys(below)) {
			out.Latency = slower(out.Latency, latencyOf(below[reporter], l.Quantile))
		}
	}
	return out, nil
}

// latencyOf bounds a quantile by the edges that requests were counted at.
func latencyOf(below map[float64]float64, quantile float64) decision.Latency {
	all := below[math.Inf(1)]
	if all < 1 {
		return decision.Latency{}
	}
	out := decision.Latency{Quantile: quantile}
	for _, edge := range slices.Sorted(maps.Keys(below)) {
		if math.IsInf(edge, 1) {
			break
		}
		out.Millis, out.Above = edge, below[edge] < quantile*all
		if !out.Above {
			return out
		}
	}
	if out.Millis == 0 { // a histogram of other edges
		return decision.Latency{}
	}
	return out
}

// slower is the worse of two, as reporters see it.
func slower(a, b decision.Latency) decision.Latency {
	if a.Quantile == 0 || b.Quantile != 0 && (b.Millis > a.Millis || b.Millis == a.Millis && b.Above) {
		return b
	}
	return a
}

// gaps asks for what proves that the guard's rules watch: the heartbeat says only
// that Prometheus evaluates those about guardian itself.
func (o *forwardChecks) gaps(ctx context.Context, c config.Config, g rules.Guard) (decision.Gaps, error) {
	options := c.RulesBase()
	need := options.Groups(g)
	if need == nil {
		return decision.Gaps{}, nil
	}
	samples, err := o.query.Query(ctx, options.Proof(g))
	if err != nil {
		return decision.Gaps{}, err
	}
	gaps, age := decision.Gaps{Stable: true, Canary: true}, map[string]float64{}
	for _, s := range samples {
		switch s.Labels[rules.LabelSide] {
		case "stable":
			gaps.Stable = false
		case "canary":
			gaps.Canary = false
		default:
			age[s.Labels["group"]] = s.Value
		}
	}
	for _, group := range slices.Sorted(maps.Keys(need)) {
		if old, loaded := age[group]; !loaded {
			gaps.Rules = "Prometheus has not loaded the guard's rules (group " + group + "): does it select the PrometheusRules of guardian?"
		} else if old > need[group].Seconds() {
			gaps.Rules = "Prometheus evaluates the guard's rules no more (group " + group + ")"
		}
		if gaps.Rules != "" {
			break
		}
	}
	return gaps, nil
}

// gate is open when the query has at least one sample and none of them is
// zero or not a number.
func (o *forwardChecks) gate(ctx context.Context, g config.Gate) (decision.Gate, error) {
	if o.query == nil {
		return decision.Gate{}, errors.New("prometheus.url is empty")
	}
	samples, err := o.query.Query(ctx, g.Query)
	if err != nil {
		return decision.Gate{}, err
	}
	out := decision.Gate{Name: g.Name, Open: len(samples) > 0, Why: g.Query + " has no data: it is false, or there are no such series"}
	for _, s := range samples {
		if s.Value == 0 || math.IsNaN(s.Value) {
			out.Open, out.Why = false, fmt.Sprintf("%s is %s", g.Query, strconv.FormatFloat(s.Value, 'g', 6, 64))
		}
	}
	return out, nil
}

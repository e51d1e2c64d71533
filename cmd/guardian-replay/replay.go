package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/internal/printable"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/rules"
	"github.com/canary-guardian/guardian/rules/virtualtime"
)

const (
	// quiet is for how long a canary may have no requests within a release.
	quiet = 5 * time.Minute
	// leastRequests are those below which the rules conclude nothing.
	leastRequests = 5
	// judgedEvery is how often it is noted which signals can judge.
	judgedEvery = 15 * time.Second
	// restartsStep is how finely it is looked for who counted restarts.
	restartsStep = 5 * time.Minute
)

// replayer replays guards.
type replayer struct {
	source   source
	config   config.Config
	options  rules.Options // without guards
	from, to time.Time
	chunk    time.Duration
	progress *progress
}

// guard replays one guard. Where that fails it returns what was replayed before.
func (r *replayer) guard(ctx context.Context, g config.Guard) (guardReport, error) {
	out := guardReport{Guard: g.Name, Releases: []release{}}
	made, err := r.config.RulesGuard(g, decision.Sides{})
	if err != nil {
		return out, err
	}
	out.Namespace = made.Namespace
	found, err := r.survey(ctx, made)
	if err != nil {
		return out, err
	}
	if silence := found.silence(); silence != "" {
		out.Notes = append(out.Notes, silence)
	}
	out.deployments(&made, found)
	from, unknown := r.restartsFrom(ctx, made)
	run, err := r.prepare(made, from)
	if err != nil {
		return out, err
	}
	if unknown != nil {
		run.unknown = printable.Line(unknown.Error())
	}
	out.Notes = append(out.Notes, run.notes...)
	episodes := episodesOf(found.steps, patienceOf(surveyStep, quiet, g.Rollback.Window, surveyWindow(r.options)))
	err = run.releases(ctx, found, episodes, &out)
	if every := run.scraped; every != 0 && (every > r.options.ScrapeInterval*6/5 || every < r.options.ScrapeInterval*4/5) {
		out.Notes = append(out.Notes, fmt.Sprintf("proxies were scraped every %v, and rules.scrapeInterval is %v: want --set rules.scrapeInterval=%v",
			every, r.options.ScrapeInterval, every))
	}
	out.sum()
	return out, err
}

// run is what a guard's releases are replayed with.
type run struct {
	*replayer
	options   rules.Options
	guard     rules.Guard
	wanted    rules.Signals // those of the configuration, also where guard lacks one that cannot be judged
	groups    []monitoringv1.RuleGroup
	selectors []string
	back      time.Duration // how far back the rules look
	notes     []string
	now       string        // which release is replayed, for people
	unknown   string        // why it is not known who counted restarts; empty: it is
	scraped   time.Duration // how often proxies were, by the last release; 0: not known
}

// releases replays a guard's releases, up to one that fails.
func (r *run) releases(ctx context.Context, found survey, episodes []episode, out *guardReport) error {
	for i, e := range episodes {
		r.now = fmt.Sprintf("release %d of %d", i+1, len(episodes))
		one, err := r.release(ctx, found, e)
		if err != nil {
			return fmt.Errorf("release of %s: %w", stamp(found.at(e.from)), err)
		}
		if one.Requests < leastRequests {
			out.TooSmall++
			continue
		}
		out.Releases = append(out.Releases, one)
	}
	return nil
}

// restartsFrom is who has counted the restarts of a guard's pods in this time: a past
// without guardian has no count of guardian's own. It looks a day at a time, the newest
// first, up to one that has any. Nobody is for an error.
func (r *replayer) restartsFrom(ctx context.Context, g rules.Guard) (rules.Source, error) {
	o := r.options
	for _, from := range []rules.Source{rules.FromKubeStateMetrics, rules.FromGuardian} {
		o.RestartsFrom = from
		for to := r.to; to.After(r.from); to = to.Add(-surveyAtOnce) {
			begin := to.Add(-surveyAtOnce)
			if begin.Before(r.from) {
				begin = r.from
			}
			any, err := r.any(ctx, o.Restarts(g), begin, to)
			if err != nil {
				return nobody, err
			}
			if any {
				return from, nil
			}
		}
	}
	return rules.FromKubeStateMetrics, nil
}

// nobody is who has counted restarts where that is not known.
const nobody rules.Source = ""

// any reports whether there were restarts counted between two times.
func (r *replayer) any(ctx context.Context, counted string, from, to time.Time) (found bool, err error) {
	err = halves{time.Hour, time.Minute, func(ctx context.Context, from, to time.Time) error {
		if found {
			return nil
		}
		m, err := r.source.Range(ctx, counted, from, to, restartsStep)
		if err != nil {
			return fmt.Errorf("look for restarts between %s and %s: %w", stamp(from), stamp(to), err)
		}
		found = len(m) > 0
		return nil
	}}.do(ctx, from, to)
	return found, err
}

// prepare generates a guard's rules as guardian would.
func (r *replayer) prepare(g rules.Guard, from rules.Source) (*run, error) {
	o := r.options
	o.Guards = []rules.Guard{g}
	o.RestartsFrom = cmp.Or(from, rules.FromKubeStateMetrics)
	wanted := g.Signals
	if from == nobody || len(g.Canary.Workloads) == 0 && from == rules.FromKubeStateMetrics {
		g.Signals.Restarts = nil // whose pods?
		o.Guards[0] = g
	}
	made, err := rules.Generate(o)
	if err != nil {
		return nil, err
	}
	out := &run{replayer: r, options: o, guard: g, wanted: wanted, notes: made.Notes}
	for _, object := range made.PrometheusRules("replay", g.Namespace)[1:] { // the first is about guardian itself
		for _, group := range object.Spec.Groups {
			if group.Name != o.Name+".overview" { // for dashboards
				out.groups = append(out.groups, group)
			}
		}
	}
	out.selectors, out.back, err = virtualtime.Reads(out.groups)
	return out, err
}

// release replays one release.
func (r *run) release(ctx context.Context, s survey, e episode) (release, error) {
	began := s.at(e.from).Add(-surveyWindow(r.options))
	from, to := began.Add(-r.back).Truncate(time.Minute), s.at(e.to).Add(surveyStep)
	w, err := r.watch(began)
	if err != nil {
		return release{}, err
	}
	store := virtualtime.NewStore()
	evaluator, err := virtualtime.New(store, r.groups)
	if err != nil {
		return release{}, err
	}
	w.evaluator = evaluator
	f := newFeed(r.source, r.selectors, r.chunk, store, from)
	f.seen = w.sample
	step := evaluator.Step()
	now := (from.UnixMilli()/step + 1) * step
	for now <= to.UnixMilli() {
		r.progress.say(r.guard.Name, "%s, %s", r.now, timeOf(now).Format("2006-01-02 15:04"))
		settled, err := f.advance(ctx, to)
		if err != nil {
			return release{}, err
		}
		for ; now <= min(settled, to.UnixMilli()); now += step {
			if err := evaluator.Evaluate(ctx, now); err != nil {
				return release{}, err
			}
			if err := w.look(ctx, now); err != nil {
				return release{}, err
			}
			if now%time.Minute.Milliseconds() == 0 {
				store.Trim(now - r.back.Milliseconds() - time.Minute.Milliseconds())
			}
		}
	}
	r.scraped = cmp.Or(f.scraped(), r.scraped)
	return w.report(e, s), nil
}

// watch notes what happens in a release.
type watch struct {
	*run
	began          int64 // Unix milliseconds
	evaluator      *virtualtime.Evaluator
	canary, stable *counts
	alerts         []alertReport
	firing         map[string]int // index into alerts
	looked         []int64        // each judgedEvery
	judged         map[rules.Signal]map[int64]bool
}

func (r *run) watch(began time.Time) (*watch, error) {
	w := &watch{run: r, began: began.UnixMilli(), firing: map[string]int{}, judged: map[rules.Signal]map[int64]bool{}}
	var err error
	if w.canary, err = newCounts(r.options, r.guard, r.guard.Canary, w.began); err != nil {
		return nil, err
	}
	w.stable, err = newCounts(r.options, r.guard, r.guard.Stable, w.began)
	return w, err
}

// sample is one that was scraped.
func (w *watch) sample(l labels.Labels, t int64, f float64) {
	w.canary.sample(l, t, f)
	w.stable.sample(l, t, f)
}

// look notes what fires after an evaluation.
func (w *watch) look(ctx context.Context, now int64) error {
	if now < w.began {
		return nil
	}
	still := map[string]bool{}
	for _, a := range w.evaluator.Firing() {
		key := a.Name + a.Labels.String()
		still[key] = true
		i, ok := w.firing[key]
		if !ok {
			made, err := w.alert(ctx, a, now)
			if err != nil {
				return err
			}
			i = len(w.alerts)
			w.alerts, w.firing[key] = append(w.alerts, made), i
		}
		w.alerts[i].Until = timeOf(now)
	}
	maps.DeleteFunc(w.firing, func(key string, _ int) bool { return !still[key] })
	if now%judgedEvery.Milliseconds() == 0 {
		w.noteJudged(now)
	}
	return nil
}

func (w *watch) noteJudged(now int64) {
	w.looked = append(w.looked, now)
	for _, s := range rules.SignalNames() {
		recorded, label, is := s.Recorded(), rules.LabelSide, canary
		if !recorded.BySide {
			label, is = rules.LabelGuard, w.guard.Name
		}
		if slices.ContainsFunc(recorded.Judged, func(metric string) bool { return w.evaluator.Recorded(metric, label, is) }) {
			if w.judged[s] == nil {
				w.judged[s] = map[int64]bool{}
			}
			w.judged[s][now] = true
		}
	}
}

// alert is one that has begun to fire, with the numbers of that moment.
func (w *watch) alert(ctx context.Context, a virtualtime.Alert, now int64) (alertReport, error) {
	out := alertReport{
		Alert: a.Name, Signal: rules.Signal(a.Labels.Get(rules.LabelSignal)), Action: rules.Action(a.Labels.Get(rules.LabelAction)),
		At: timeOf(a.FiringSince), Value: number(a.Value),
	}
	recorded := out.Signal.Recorded()
	if recorded.Bad == "" {
		return out, nil
	}
	// The window with the strongest evidence is the one that an alert tells of.
	proof, err := w.evaluator.Query(ctx, "topk(1, "+recorded.Proof+") or topk(1, "+recorded.Bad+")", now)
	if err != nil || len(proof) == 0 {
		return out, err
	}
	out.Window, out.Reporter = proof[0].Metric.Get("window"), proof[0].Metric.Get(rules.LabelReporter)
	at := fmt.Sprintf("{window=%q,reporter=%q}", out.Window, out.Reporter)
	for metric, into := range map[string]*number{recorded.Bad: &out.Bad, recorded.Stable: &out.Stable} {
		v, err := w.evaluator.Query(ctx, metric+at, now)
		if err != nil {
			return out, err
		}
		if len(v) == 1 {
			*into = number(v[0].F)
		}
	}
	return out, nil
}

func timeOf(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

// report is what the release came to.
func (w *watch) report(e episode, s survey) release {
	out := release{
		Began: timeOf(cmp.Or(w.canary.first, s.at(e.from).UnixMilli())), Ended: timeOf(cmp.Or(w.canary.last, s.at(e.to).UnixMilli())),
		Outcome: e.outcome, Before: e.before, PeakShare: number(math.Round(1000*e.peak) / 1000), Requests: number(w.canary.total()),
		Alerts: w.acted(), Signals: w.signals(),
	}
	if e.outcome == takenBack || e.outcome == returned {
		back := out.Ended
		out.TakenBack = &back
	}
	for i := range out.Alerts {
		if a := &out.Alerts[i]; a.Action == rules.ActionRollback && out.Braked == nil && !out.tooLate(*a) {
			at := a.At
			out.Braked = &at
			out.BrakedBy = a.Signal
		}
	}
	if out.Braked != nil && out.TakenBack != nil {
		earlier := number(out.TakenBack.Sub(*out.Braked).Seconds())
		out.Earlier = &earlier
	}
	return out
}

// acted are the alerts that guardian would have acted on, none before the canary's
// first request: pods can restart before, but there is no traffic to take back.
func (w *watch) acted() []alertReport {
	out := []alertReport{} // never null as JSON
	first := timeOf(w.canary.first)
	for _, a := range w.alerts {
		if a.Until.Before(first) {
			continue
		}
		if a.At.Before(first) {
			a.At = first
		}
		out = append(out, a)
	}
	return out
}

// signals tells for how much of the canary's traffic each signal could judge.
func (w *watch) signals() []signalReport {
	var out []signalReport
	signals := w.guard.Signals
	signals.Restarts = w.wanted.Restarts
	for _, s := range rules.SignalNames() {
		if _, on := signals.Action(s); !on {
			continue
		}
		all, judged := 0, 0
		for _, at := range w.looked {
			if at < w.canary.first || at > w.canary.last {
				continue
			}
			all++
			if w.judged[s][at] {
				judged++
			}
		}
		one := signalReport{Signal: s}
		if all > 0 {
			one.Judged = number(math.Round(1000*float64(judged)/float64(all)) / 1000)
		}
		if judged == 0 {
			one.Why = w.why(s)
		}
		out = append(out, one)
	}
	return out
}

// why is why a signal could not judge.
func (w *watch) why(s rules.Signal) string {
	switch s {
	case rules.SignalLatency:
		return fmt.Sprintf("no istio_request_duration_milliseconds_bucket of the canary at the edge that %v is judged at (native histograms are not replayed)", w.guard.Signals.Latency.Max)
	case rules.SignalRestarts:
		if w.unknown != "" {
			return "it is not known who counted them: " + w.unknown
		}
		if len(w.guard.Canary.Workloads) == 0 {
			return "the canary's Deployments are not known: want them in workloads.canary"
		}
		return "no kube_pod_container_status_restarts_total of " + w.guard.Namespace + " (kube-state-metrics), nor guardian_workload_restarts_total"
	case rules.SignalTraffic:
		return "no guardian_weight_percent: only guardian tells Prometheus the VirtualService's weights"
	}
	if s == rules.SignalComparison {
		return fmt.Sprintf("stable and the canary had no requests beside each other later than %v (signals.comparison.warmup) after the canary's first", w.guard.Signals.Comparison.Warmup)
	}
	return "too few evaluations with requests of the canary"
}

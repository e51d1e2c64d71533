package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/canary-guardian/guardian/alerting"
	"github.com/canary-guardian/guardian/rules/virtualtime"
)

// stored is what a Prometheus has: samples with the markers that its API does not give.
type stored struct {
	labels labels.Labels
	points []point
}

// fakePrometheus answers as Prometheus's API does.
type fakePrometheus struct {
	series []stored
	most   int // samples in an answer; 0: any
	asked  int
}

func (f *fakePrometheus) Range(context.Context, string, time.Time, time.Time, time.Duration) (model.Matrix, error) {
	return nil, nil
}

func (f *fakePrometheus) Samples(_ context.Context, selector string, at time.Time) (model.Matrix, error) {
	f.asked++
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(selector)
	if err != nil {
		return nil, err
	}
	m := expr.(*parser.MatrixSelector)
	from := at.Add(-m.Range).UnixMilli()
	var out model.Matrix
	n := 0
	for _, s := range f.series {
		if !slices.ContainsFunc(m.VectorSelector.(*parser.VectorSelector).LabelMatchers, func(l *labels.Matcher) bool { return !l.Matches(s.labels.Get(l.Name)) }) {
			stream := &model.SampleStream{Metric: model.Metric{}}
			s.labels.Range(func(l labels.Label) { stream.Metric[model.LabelName(l.Name)] = model.LabelValue(l.Value) })
			for _, p := range s.points {
				if p.t >= from && p.t <= at.UnixMilli() && !value.IsStaleNaN(p.f) { // Prometheus 2 includes both ends
					stream.Values = append(stream.Values, model.SamplePair{Timestamp: model.Time(p.t), Value: model.SampleValue(p.f)})
				}
			}
			n += len(stream.Values)
			out = append(out, stream)
		}
	}
	if f.most > 0 && n > f.most {
		return nil, fmt.Errorf("%w: %d samples", alerting.ErrTooMuch, n)
	}
	return out, nil
}

// scrapes is what a Prometheus stores of targets that fail, lose series, go and come,
// and of its own absence between two times.
func scrapes(seed uint64, until, awayFrom, awayTo int64) []stored {
	rng := rand.New(rand.NewPCG(seed, 1))
	all := map[string]*stored{}
	add := func(name, instance, code string, t int64, f float64) {
		key := name + instance + code
		if all[key] == nil {
			pairs := []string{model.MetricNameLabel, name, "job", "mesh", "instance", instance}
			if code != "" {
				pairs = append(pairs, "response_code", code)
			}
			all[key] = &stored{labels: labels.FromStrings(pairs...)}
		}
		all[key].points = append(all[key].points, point{t, f})
	}
	for i := range 4 {
		instance, shown := fmt.Sprint("pod-", i), map[string]bool{}
		gone, known := i > 0, false // one is always there
		end := func(t int64) {
			for _, code := range []string{"200", "503"} {
				if shown[code] {
					add("istio_requests_total", instance, code, t, virtualtime.Stale)
				}
			}
			clear(shown)
		}
		for t := int64(1000 + 3700*i); t < until; t += 15000 {
			if t >= awayFrom && t < awayTo {
				known = false
				clear(shown) // a Prometheus that starts anew knows of nothing that it would mark
				continue
			}
			soon := t < awayFrom && t >= awayFrom-30_000 // what went right before Prometheus did cannot be told
			if i > 0 && rng.IntN(40) == 0 && !soon {
				if gone = !gone; gone && known {
					end(t)
					add("up", instance, "", t, virtualtime.Stale)
				}
			}
			if known = !gone; gone {
				continue
			}
			if rng.IntN(20) == 0 {
				end(t)
				add("up", instance, "", t, 0)
				continue
			}
			add("up", instance, "", t, 1)
			for _, code := range []string{"200", "503"} {
				has := code == "200" || rng.IntN(3) > 0
				if has {
					add("istio_requests_total", instance, code, t, float64(t))
				} else if shown[code] {
					add("istio_requests_total", instance, code, t, virtualtime.Stale)
				}
				shown[code] = has
				if !has {
					delete(shown, code)
				}
			}
		}
	}
	var out []stored
	for _, s := range all {
		out = append(out, *s)
	}
	return out
}

// visible is what the engine sees at each step of both metrics.
func visible(t *testing.T, store *virtualtime.Store, from, to int64) []string {
	t.Helper()
	e, err := virtualtime.New(store, nil)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for now := from; now <= to; now += 5000 {
		var rows []string
		for _, query := range []string{"up and on (instance) istio_requests_total", "up offset 1m and on (instance) istio_requests_total", "istio_requests_total", "count_over_time(istio_requests_total[1m])"} {
			v, err := e.Query(t.Context(), query, now)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range v {
				rows = append(rows, fmt.Sprintf("%s %v", s.Metric, s.F))
			}
		}
		slices.Sort(rows)
		out = append(out, fmt.Sprintf("%d:\n%s", now, strings.Join(rows, "\n")))
	}
	return out
}

// TestWhatIsFetchedIsSeenAsItWas has the engine see the same in what the API gives, in
// chunks of any length, as in what Prometheus has stored, markers included.
func TestWhatIsFetchedIsSeenAsItWas(t *testing.T) {
	const until, awayFrom, awayTo = 3600_000, 1800_000, 2000_000
	for seed := range uint64(6) {
		series := scrapes(seed, until+600_000, awayFrom, awayTo)
		real := virtualtime.NewStore()
		markers := 0
		for _, s := range series {
			for _, p := range s.points {
				real.Append(s.labels, p.t, p.f)
				if value.IsStaleNaN(p.f) {
					markers++
				}
			}
		}
		if markers < 10 {
			t.Fatalf("seed %d: only %d markers", seed, markers)
		}
		want := visible(t, real, 60_000, until)
		for _, c := range []struct {
			chunk time.Duration
			most  int
		}{{time.Hour, 0}, {7 * time.Minute, 0}, {97 * time.Second, 0}, {time.Hour, 200}} {
			source := &fakePrometheus{series: series, most: c.most}
			store := virtualtime.NewStore()
			up := []string{"up", `up{job=~".+"}`}[seed%2] // of all targets, or of the jobs that rules.proxies names
			f := newFeed(source, []string{up, "istio_requests_total"}, c.chunk, store, time.UnixMilli(0))
			if !slices.Equal(f.selectors, []string{"istio_requests_total"}) {
				t.Fatalf("asks for %q, where up is asked of the targets that it has found", f.selectors)
			}
			for settled := int64(0); settled < until; {
				var err error
				if settled, err = f.advance(t.Context(), time.UnixMilli(until)); err != nil {
					t.Fatal(err)
				}
			}
			got := visible(t, store, 60_000, until)
			for i := range want {
				if got[i] != want[i] {
					t.Fatalf("seed %d, chunks of %v, at most %d: at\n%s\nwant\n%s", seed, c.chunk, c.most, got[i], want[i])
				}
			}
		}
	}
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
)

// enginePrometheus answers instant queries by Prometheus's own engine, from a few
// series that do not change.
type enginePrometheus struct {
	server *httptest.Server
	engine *promql.Engine
	series []constant
}

// constant is a series that had one value, and has another for five minutes.
type constant struct {
	labels    labels.Labels
	was, is   float64
	histogram *histogram.FloatHistogram
}

// newEnginePrometheus has series written as `metric{label="value"} is`, or with
// what it was before; a native histogram has h in place of a number.
func newEnginePrometheus(t *testing.T, lines []string) *enginePrometheus {
	t.Helper()
	p := &enginePrometheus{engine: promql.NewEngine(promql.EngineOpts{
		Logger: slog.New(slog.DiscardHandler), MaxSamples: 1e6, Timeout: time.Minute, EnableAtModifier: true, Parser: parser.NewParser(parser.Options{}),
	})}
	for _, line := range lines {
		p.series = append(p.series, parseConstant(t, line))
	}
	p.server = httptest.NewServer(p)
	t.Cleanup(p.server.Close)
	return p
}

func parseConstant(t *testing.T, line string) constant {
	t.Helper()
	metric, numbers, ok := strings.Cut(line, "} ")
	parsed, err := parser.NewParser(parser.Options{}).ParseMetric(metric + "}")
	fields := strings.Fields(numbers)
	if !ok || err != nil || len(fields) == 0 {
		t.Fatalf("series %q: %v", line, err)
	}
	c := constant{labels: parsed}
	if fields[0] == "h" {
		c.histogram = &histogram.FloatHistogram{Schema: 1, Count: 10, Sum: 10, PositiveSpans: []histogram.Span{{Offset: 1, Length: 1}}, PositiveBuckets: []float64{10}}
		return c
	}
	values := make([]float64, len(fields))
	for i, f := range fields {
		if values[i], err = strconv.ParseFloat(f, 64); err != nil {
			t.Fatal(err)
		}
	}
	c.was, c.is = values[0], values[len(values)-1]
	return c
}

func (p *enginePrometheus) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	query, err := p.engine.NewInstantQuery(r.Context(), p, nil, r.FormValue("query"), time.Now())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	defer query.Close()
	vector, err := query.Exec(r.Context()).Vector()
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	result := []any{}
	for _, s := range vector {
		result = append(result, map[string]any{"metric": s.Metric.Map(), "value": []any{float64(s.T) / 1000, fmt.Sprint(s.F)}})
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"status": "success", "data": map[string]any{"resultType": "vector", "result": result}})
}

// Querier and what follows is storage.Queryable.
func (p *enginePrometheus) Querier(_, _ int64) (storage.Querier, error) { return p, nil }

func (p *enginePrometheus) Select(_ context.Context, _ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	set := &constants{at: -1}
	now := time.Now()
	for _, c := range p.series {
		if slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return !m.Matches(c.labels.Get(m.Name)) }) {
			continue
		}
		samples := []chunks.Sample{}
		for _, s := range []constantSample{{now.Add(-10 * time.Minute).UnixMilli(), c.was, c.histogram}, {now.Add(-time.Minute).UnixMilli(), c.is, c.histogram}} {
			samples = append(samples, s)
		}
		set.found = append(set.found, storage.NewListSeries(c.labels, samples))
	}
	slices.SortFunc(set.found, func(a, b storage.Series) int { return labels.Compare(a.Labels(), b.Labels()) })
	return set
}

func (p *enginePrometheus) LabelValues(context.Context, string, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, nil
}

func (p *enginePrometheus) LabelNames(context.Context, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, nil
}

func (p *enginePrometheus) Close() error { return nil }

type constantSample struct {
	at    int64
	value float64
	h     *histogram.FloatHistogram
}

func (s constantSample) T() int64                      { return s.at }
func (s constantSample) ST() int64                     { return 0 }
func (s constantSample) F() float64                    { return s.value }
func (s constantSample) H() *histogram.Histogram       { return nil }
func (s constantSample) FH() *histogram.FloatHistogram { return s.h }
func (s constantSample) Copy() chunks.Sample           { return s }
func (s constantSample) Type() chunkenc.ValueType {
	if s.h != nil {
		return chunkenc.ValFloatHistogram
	}
	return chunkenc.ValFloat
}

type constants struct {
	found []storage.Series
	at    int
}

func (s *constants) Next() bool                        { s.at++; return s.at < len(s.found) }
func (s *constants) At() storage.Series                { return s.found[s.at] }
func (s *constants) Err() error                        { return nil }
func (s *constants) Warnings() annotations.Annotations { return nil }

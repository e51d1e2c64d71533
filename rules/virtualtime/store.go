// Package virtualtime evaluates the generated rules with Prometheus's own engine at
// times that the caller chooses: those of a past that is replayed, or of a simulation.
// It is no part of guardian's service, whose binary the engine would make larger.
package virtualtime

import (
	"context"
	"slices"
	"sort"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
)

// sample is one float in the store.
type sample struct {
	t int64
	f float64
}

func (s sample) T() int64                      { return s.t }
func (s sample) ST() int64                     { return 0 }
func (s sample) F() float64                    { return s.f }
func (s sample) H() *histogram.Histogram       { return nil }
func (s sample) FH() *histogram.FloatHistogram { return nil }
func (s sample) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (s sample) Copy() chunks.Sample           { return s }

// Store is the least that Prometheus's engine can read from: floats in memory. It is
// not safe for concurrent use.
type Store struct {
	byName map[string]*metric
	series map[uint64][]*stored // by the hash of their labels
}

// metric is all series of a name.
type metric struct {
	all   []*stored
	found map[string][]*stored // by the matchers that selected them; emptied when a series comes or goes
}

type stored struct {
	labels  labels.Labels
	samples []chunks.Sample
}

// NewStore makes an empty one.
func NewStore() *Store {
	return &Store{byName: map[string]*metric{}, series: map[uint64][]*stored{}}
}

// Append adds a sample, in milliseconds. One that is not newer than the newest of its
// series is there already, and is left out.
func (s *Store) Append(l labels.Labels, t int64, f float64) {
	one := s.get(l)
	if n := len(one.samples); n > 0 && one.samples[n-1].T() >= t {
		return
	}
	one.samples = append(one.samples, sample{t, f})
}

// get finds or makes a series.
func (s *Store) get(l labels.Labels) *stored {
	hash := l.Hash()
	for _, one := range s.series[hash] {
		if labels.Equal(one.labels, l) {
			return one
		}
	}
	one := &stored{labels: l}
	s.series[hash] = append(s.series[hash], one)
	name := l.Get(model.MetricNameLabel)
	m := s.byName[name]
	if m == nil {
		m = &metric{}
		s.byName[name] = m
	}
	m.all = append(m.all, one)
	m.found = nil
	return one
}

// Trim drops what is older than t, in milliseconds, and series of which nothing is
// left.
func (s *Store) Trim(t int64) {
	for name, m := range s.byName {
		before := len(m.all)
		m.all = slices.DeleteFunc(m.all, func(one *stored) bool {
			from := sort.Search(len(one.samples), func(i int) bool { return one.samples[i].T() >= t })
			one.samples = slices.Clone(one.samples[from:])
			if len(one.samples) == 0 {
				s.forget(one)
			}
			return len(one.samples) == 0
		})
		if len(m.all) != before {
			m.found = nil
		}
		if len(m.all) == 0 {
			delete(s.byName, name)
		}
	}
}

func (s *Store) forget(one *stored) {
	hash := one.labels.Hash()
	left := slices.DeleteFunc(s.series[hash], func(other *stored) bool { return other == one })
	if len(left) == 0 {
		delete(s.series, hash)
		return
	}
	s.series[hash] = left
}

// Samples is how many there are.
func (s *Store) Samples() int {
	n := 0
	for _, m := range s.byName {
		for _, one := range m.all {
			n += len(one.samples)
		}
	}
	return n
}

// Querier implements storage.Queryable.
func (s *Store) Querier(_, _ int64) (storage.Querier, error) { return querier{s}, nil }

type querier struct{ *Store }

// Select implements storage.Querier.
func (q querier) Select(_ context.Context, _ bool, hints *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	var found []storage.Series
	for _, one := range q.matching(matchers) {
		from := sort.Search(len(one.samples), func(i int) bool { return one.samples[i].T() >= hints.Start })
		to := sort.Search(len(one.samples), func(i int) bool { return one.samples[i].T() > hints.End })
		if from < to {
			found = append(found, storage.NewListSeries(one.labels, one.samples[from:to]))
		}
	}
	return &seriesSet{found: found, at: -1}
}

// matching are the series that matchers select, sorted by labels.
func (q querier) matching(matchers []*labels.Matcher) []*stored {
	m, key := q.named(matchers)
	if m == nil {
		return nil
	}
	if found, ok := m.found[key]; ok {
		return found
	}
	found := []*stored{}
next:
	for _, one := range m.all {
		for _, matcher := range matchers {
			if !matcher.Matches(one.labels.Get(matcher.Name)) {
				continue next
			}
		}
		found = append(found, one)
	}
	slices.SortFunc(found, func(a, b *stored) int { return labels.Compare(a.labels, b.labels) })
	if m.found == nil {
		m.found = map[string][]*stored{}
	}
	m.found[key] = found
	return found
}

// named is the metric that matchers name, and the matchers as text.
func (q querier) named(matchers []*labels.Matcher) (*metric, string) {
	var m *metric
	var key strings.Builder
	for _, matcher := range matchers {
		if matcher.Name == model.MetricNameLabel && matcher.Type == labels.MatchEqual {
			m = q.byName[matcher.Value]
		}
		key.WriteString(matcher.Name)
		key.WriteByte(byte(matcher.Type))
		key.WriteString(matcher.Value)
		key.WriteByte(0xff)
	}
	return m, key.String()
}

// Close implements storage.Querier.
func (querier) Close() error { return nil }

// LabelValues implements storage.Querier; the engine does not ask.
func (querier) LabelValues(context.Context, string, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, nil
}

// LabelNames implements storage.Querier; the engine does not ask.
func (querier) LabelNames(context.Context, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, nil
}

type seriesSet struct {
	found []storage.Series
	at    int
}

func (s *seriesSet) Next() bool                        { s.at++; return s.at < len(s.found) }
func (s *seriesSet) At() storage.Series                { return s.found[s.at] }
func (s *seriesSet) Err() error                        { return nil }
func (s *seriesSet) Warnings() annotations.Annotations { return nil }

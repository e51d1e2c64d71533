package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/canary-guardian/guardian/alerting"
	"github.com/canary-guardian/guardian/rules/virtualtime"
)

// The API gives a series' samples and not the markers that Prometheus has stored where
// it ended. They follow from the scrapes: all samples of one bear one time, that of its
// target's `up` too.
//
//	a series that a scrape of its target did not have, and the one before had: it ended with that scrape
//	a target that is scraped no more while others are: it ended when it was due
//	no target is scraped any more: Prometheus was away, and stores no marker
//
// So what is fetched is handed on some time later, when it is known what followed.

const (
	// settleAfter is how much later a sample is handed on: time for the scrape that
	// follows it.
	settleAfter = 5 * time.Minute
	// leastChunk is the shortest time that is asked for at once.
	leastChunk = time.Minute
	upMetric   = "up"
)

// source is the Prometheus that has the past.
type source interface {
	Range(ctx context.Context, promql string, from, to time.Time, step time.Duration) (model.Matrix, error)
	Samples(ctx context.Context, selector string, at time.Time) (model.Matrix, error)
}

// feed brings raw samples into a store, with the markers that stood between them.
type feed struct {
	source    source
	selectors []string // what to fetch; `up` is left to the feed, which asks for the targets it has found
	chunk     time.Duration
	store     *virtualtime.Store
	// seen is told of each sample that is handed on.
	seen func(l labels.Labels, t int64, f float64)

	loaded    int64 // until when samples have been fetched, Unix milliseconds
	targets   map[string]*target
	intervals map[string]int64 // from one scrape of a job's target to the next, milliseconds
}

// target is something that was scraped, and what has been fetched of it and not been
// handed on.
type target struct {
	job, instance string
	up            labels.Labels
	ticks         []point // of `up`
	past          []int64 // when it was scraped lately, of what has been handed on
	series        map[uint64]*raw
	last          int64 // the last scrape that was handed on; 0: none
	gone          bool  // it has ended after that
	proxy         bool  // it reports requests
}

// raw is a series of a target.
type raw struct {
	labels  labels.Labels
	points  []point
	last    int64 // time of the newest sample that was handed on
	visible bool  // and no marker since
}

type point struct {
	t int64
	f float64
}

func newFeed(s source, selectors []string, chunk time.Duration, store *virtualtime.Store, from time.Time) *feed {
	return &feed{source: s, chunk: chunk, store: store, loaded: from.UnixMilli(), targets: map[string]*target{}, intervals: map[string]int64{},
		selectors: slices.DeleteFunc(slices.Clone(selectors), func(s string) bool { return s == upMetric || strings.HasPrefix(s, upMetric+"{") }),
		seen:      func(labels.Labels, int64, float64) {}}
}

// advance fetches the next chunk, to end at most, and returns until when the store is
// complete, Unix milliseconds.
func (f *feed) advance(ctx context.Context, end time.Time) (int64, error) {
	from := time.UnixMilli(f.loaded)
	to := from.Add(f.chunk)
	if last := end.Add(settleAfter); to.After(last) {
		to = last
	}
	if err := f.load(ctx, from, to); err != nil {
		return 0, err
	}
	f.loaded = to.UnixMilli()
	settled := to.Add(-settleAfter).UnixMilli()
	f.settle(settled)
	return settled, nil
}

// load fetches what was scraped between two times: all series, then `up` of their
// targets.
func (f *feed) load(ctx context.Context, from, to time.Time) error {
	for _, selector := range f.selectors {
		err := f.fetch(ctx, selector, from, to, func(l labels.Labels, points []point) {
			t := f.target(l)
			t.proxy = t.proxy || l.Get(model.MetricNameLabel) == "istio_requests_total"
			one := t.series[l.Hash()]
			if one == nil {
				one = &raw{labels: l}
				t.series[l.Hash()] = one
			}
			one.points = later(one.points, one.last, points)
		})
		if err != nil {
			return err
		}
	}
	return f.loadUp(ctx, from, to)
}

func (f *feed) target(l labels.Labels) *target {
	key := l.Get("job") + "\xff" + l.Get("instance")
	t := f.targets[key]
	if t == nil {
		t = &target{job: l.Get("job"), instance: l.Get("instance"), series: map[uint64]*raw{}}
		f.targets[key] = t
	}
	return t
}

// loadUp fetches `up` of the targets.
func (f *feed) loadUp(ctx context.Context, from, to time.Time) error {
	jobs, instances := map[string]bool{}, map[string]bool{}
	for _, t := range f.targets {
		jobs[t.job], instances[t.instance] = true, true
	}
	if len(jobs) == 0 {
		return nil
	}
	selector := fmt.Sprintf("%s{job=~%q,instance=~%q}", upMetric, anyOf(jobs), anyOf(instances))
	// A proxy has series from its first request on, and its `up` before tells that they
	// are new.
	return f.fetch(ctx, selector, from.Add(-settleAfter), to, func(l labels.Labels, points []point) {
		t := f.targets[l.Get("job")+"\xff"+l.Get("instance")]
		if t == nil {
			return // a job's instance that is another job's target
		}
		t.up = l
		t.ticks = later(t.ticks, t.last, points)
	})
}

// anyOf is a regular expression that matches these alone.
func anyOf(names map[string]bool) string {
	quoted := make([]string, 0, len(names))
	for _, name := range slices.Sorted(maps.Keys(names)) {
		quoted = append(quoted, regexp.QuoteMeta(name))
	}
	return strings.Join(quoted, "|")
}

// later adds the points that are newer than those that are there: Prometheus 2 has a
// sample at the edge of two ranges in both.
func later(have []point, last int64, more []point) []point {
	if n := len(have); n > 0 {
		last = have[n-1].t
	}
	for _, p := range more {
		if p.t > last {
			have, last = append(have, p), p.t
		}
	}
	return have
}

// fetch hands over the samples of a selector. What is too much for one query it asks
// for in halves, and for as little at once from then on.
func (f *feed) fetch(ctx context.Context, selector string, from, to time.Time, add func(labels.Labels, []point)) error {
	return halves{leastChunk, time.Second, func(ctx context.Context, from, to time.Time) error {
		m, err := f.source.Samples(ctx, fmt.Sprintf("%s[%dms]", selector, to.Sub(from).Milliseconds()), to)
		if errors.Is(err, alerting.ErrTooMuch) {
			f.chunk = max(leastChunk, min(f.chunk, to.Sub(from)/2))
		}
		if err != nil {
			return fmt.Errorf("fetch samples between %s and %s: %w", stamp(from), stamp(to), err)
		}
		handOver(m, add)
		return nil
	}}.do(ctx, from, to)
}

func handOver(m model.Matrix, add func(labels.Labels, []point)) {
	for _, stream := range m {
		if len(stream.Values) == 0 {
			continue // native histograms
		}
		points := make([]point, len(stream.Values))
		for i, v := range stream.Values {
			points[i] = point{int64(v.Timestamp), float64(v.Value)}
		}
		add(labelsOf(stream.Metric), points)
	}
}

func labelsOf(m model.Metric) labels.Labels {
	b := labels.NewScratchBuilder(len(m))
	for name, value := range m {
		b.Add(string(name), string(value))
	}
	b.Sort()
	return b.Labels()
}

// settle hands on what was scraped up to a time.
func (f *feed) settle(until int64) {
	f.learn()
	for _, key := range slices.Sorted(maps.Keys(f.targets)) {
		t := f.targets[key]
		for len(t.ticks) > 0 && t.ticks[0].t <= until {
			f.ended(t, t.ticks[0].t-1)
			f.scrape(t, t.ticks[0])
			t.ticks = t.ticks[1:]
		}
		f.ended(t, until)
		f.rest(t, until)
	}
	for key, t := range f.targets {
		long := until - 2*settleAfter.Milliseconds()
		t.past = slices.DeleteFunc(t.past, func(at int64) bool { return at < long })
		if len(t.ticks) == 0 && t.idle() && t.last < long {
			delete(f.targets, key)
		}
	}
}

// scraped is how often proxies were scraped lately, to the second: 0 is not known.
func (f *feed) scraped() time.Duration {
	var most int64
	for _, t := range f.targets {
		if t.proxy {
			most = max(most, f.intervals[t.job])
		}
	}
	return (time.Duration(most) * time.Millisecond).Round(time.Second)
}

func (t *target) idle() bool {
	for _, one := range t.series {
		if len(one.points) > 0 {
			return false
		}
	}
	return true
}

// scrape hands on what one scrape found, and marks what it found no more.
func (f *feed) scrape(t *target, tick point) {
	for key, one := range t.series {
		for len(one.points) > 0 && one.points[0].t <= tick.t {
			f.hand(one, one.points[0])
			one.points = one.points[1:]
		}
		if one.visible && one.last < tick.t && one.last == t.last {
			f.mark(one, tick.t)
		}
		if !one.visible && len(one.points) == 0 {
			delete(t.series, key)
		}
	}
	f.store.Append(t.up, tick.t, tick.f)
	f.seen(t.up, tick.t, tick.f)
	t.last, t.gone = tick.t, false
	t.past = append(t.past, tick.t)
}

// learn finds how often each job is scraped: the median, since a scrape may be missing
// or come early after a change of the targets.
func (f *feed) learn() {
	apart := map[string][]int64{}
	for _, t := range f.targets {
		all := slices.Clone(t.past)
		for _, tick := range t.ticks {
			all = append(all, tick.t)
		}
		for i := 1; i < len(all); i++ {
			apart[t.job] = append(apart[t.job], all[i]-all[i-1])
		}
	}
	for job, all := range apart {
		slices.Sort(all)
		f.intervals[job] = all[len(all)/2]
	}
}

// ended marks all series of a target whose next scrape was due before a time, and did
// not come while others went on.
func (f *feed) ended(t *target, before int64) {
	interval := f.intervals[t.job]
	due := t.last + interval
	unknown := t.last == 0 || interval == 0
	early := due > before
	came := len(t.ticks) > 0 && t.ticks[0].t < due+interval/2
	if t.gone || unknown || early || came {
		return
	}
	t.gone = true
	alive := f.alive(t, due)
	for key, one := range t.series {
		if one.visible && alive {
			f.mark(one, due)
		}
		one.visible = false // to a Prometheus that was away it is new
		if len(one.points) == 0 {
			delete(t.series, key)
		}
	}
	if alive {
		f.store.Append(t.up, due, virtualtime.Stale)
	}
}

// alive reports whether other targets were scraped right after a time.
func (f *feed) alive(but *target, at int64) bool {
	for _, t := range f.targets {
		near := max(f.intervals[t.job], f.intervals[but.job])
		after := func(t int64) bool { return t > at && t <= at+near }
		if t != but && (slices.ContainsFunc(t.past, after) || slices.ContainsFunc(t.ticks, func(p point) bool { return after(p.t) })) {
			return true
		}
	}
	return false
}

// rest hands on the samples of targets without `up`.
func (f *feed) rest(t *target, until int64) {
	for _, one := range t.series {
		for len(one.points) > 0 && one.points[0].t <= until && (len(t.ticks) == 0 || one.points[0].t < t.ticks[0].t) {
			f.hand(one, one.points[0])
			one.points = one.points[1:]
		}
	}
}

func (f *feed) hand(one *raw, p point) {
	f.store.Append(one.labels, p.t, p.f)
	f.seen(one.labels, p.t, p.f)
	one.last, one.visible = p.t, true
}

func (f *feed) mark(one *raw, t int64) {
	f.store.Append(one.labels, t, virtualtime.Stale)
	one.visible = false
}

package main

import (
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/canary-guardian/guardian/rules"
)

// counts follows what proxies report of the requests to one version.
type counts struct {
	matchers []*labels.Matcher
	known    map[uint64]float64 // newest value of each series
	began    int64              // what is new before that may be old, Unix milliseconds
	first    int64              // time of the first sample that counted a request; 0: none
	last     int64              // of the last one
	requests map[string]float64 // by reporter
}

func newCounts(o rules.Options, g rules.Guard, s rules.Side, began int64) (*counts, error) {
	matchers, err := parser.NewParser(parser.Options{}).ParseMetricSelector(o.RequestsOf(g, s))
	return &counts{matchers: matchers, known: map[uint64]float64{}, began: began, requests: map[string]float64{}}, err
}

// sample is one that was scraped.
func (c *counts) sample(l labels.Labels, t int64, f float64) {
	if value.IsStaleNaN(f) || !c.match(l) {
		return
	}
	hash := l.Hash()
	was, known := c.known[hash]
	c.known[hash] = f
	grown := f - was
	switch {
	case !known && t < c.began, grown == 0:
		return
	case grown < 0:
		grown = f // it has started anew
	}
	if t < c.began || grown == 0 {
		return
	}
	if c.first == 0 {
		c.first = t
	}
	c.last = max(c.last, t)
	c.requests[l.Get(rules.LabelReporter)] += grown
}

func (c *counts) match(l labels.Labels) bool {
	if l.Get(model.MetricNameLabel) != c.matchers[0].Value && c.matchers[0].Name == model.MetricNameLabel {
		return false
	}
	for _, m := range c.matchers {
		if !m.Matches(l.Get(m.Name)) {
			return false
		}
	}
	return true
}

// total is what the reporter counted that saw most.
func (c *counts) total() float64 {
	most := 0.0
	for _, n := range c.requests {
		most = max(most, n)
	}
	return most
}

package main

import (
	"cmp"
	"context"
	"math"
	"slices"
	"time"

	"github.com/canary-guardian/guardian/alerting"
	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/rules"
)

// longestAfter is how far back a receipt's requests are counted at most.
const longestAfter = time.Hour

// after asks Prometheus what shows only after a rollback.
func (o *forwardChecks) after(ctx context.Context, g decision.Guard, sides decision.Sides, r decision.Receipt) decision.After {
	c := o.bridge.config.Load()
	guard, ok := c.Guard(g.Name)
	switch {
	case !ok:
		return decision.After{Err: "guard " + g.Name + " is not in the configuration"}
	case o.query == nil:
		return decision.After{Err: "prometheus.url is empty", Never: true}
	}
	ctx, cancel := context.WithTimeout(ctx, listWait)
	defer cancel()
	a, err := o.askAfter(ctx, c.Config, guard, sides, r)
	if err != nil {
		a.Err = "Prometheus does not answer: " + err.Error()
	}
	return a
}

func (o *forwardChecks) askAfter(ctx context.Context, c config.Config, g config.Guard, sides decision.Sides, r decision.Receipt) (a decision.After, err error) {
	guard, err := c.RulesGuard(g, sides)
	if err != nil {
		return a, err
	}
	since := r.Counted.Since
	if least := r.Written.Add(-longestAfter); since.Before(least) {
		since = least
	}
	n, err := o.tally(ctx, c, guard, since)
	if err != nil {
		return a, err
	}
	a.Counted, a.Requests, a.Failed = true, n.Requests, n.Failed
	base := c.RulesBase()
	if query := base.Proven(guard, rules.Signal(r.Signal), r.Written); query != "" {
		found, err := o.times(ctx, query)
		if err != nil {
			return a, err
		}
		a.Began = found[rules.ProvenAt]
	}
	window := o.now().Sub(r.Written) + 3*base.ScrapeInterval
	found, err := o.times(ctx, base.LastRequest(guard, window))
	if err != nil {
		return a, err
	}
	a.Felt = felt(found[rules.LastCounted], found[rules.AllScraped], r.Written)
	a.Links, err = o.traces(ctx, c, guard, r, a.Began)
	return a, err
}

// traces is a link to the canary's traces around a rollback, if Jaeger is configured
// and Prometheus knows what the canary's proxies call themselves there.
func (o *forwardChecks) traces(ctx context.Context, c config.Config, g rules.Guard, r decision.Receipt, began time.Time) ([]decision.Link, error) {
	links := rules.Links(c.Rules.Links)
	if links.Jaeger == "" {
		return nil, nil
	}
	samples, err := o.query.Query(ctx, c.RulesBase().Traced(g))
	if err != nil || len(samples) == 0 {
		return nil, err
	}
	most := slices.MaxFunc(samples, func(a, b alerting.Sample) int { return cmp.Compare(a.Value, b.Value) })
	first := r.Written
	for _, t := range []time.Time{began, r.Fired, r.Seen} {
		if !t.IsZero() && t.Before(first) {
			first = t
		}
	}
	l := links.Traces(g.Namespace, most.Labels[rules.LabelApp], most.Labels[rules.LabelRevision], rules.Signal(r.Signal), first.Add(-tracesMargin), r.Written.Add(tracesMargin))
	return []decision.Link{{Name: l.Name, URL: l.URL}}, nil
}

// felt is from when on no scrape has counted a request, once all that reports on the
// canary has been scraped since; zero: not yet.
func felt(last, scraped, written time.Time) time.Time {
	from := written
	if last.After(from) {
		from = last
	}
	if !scraped.After(from) {
		return time.Time{}
	}
	return from.UTC()
}

// times are the samples of a query about a receipt, as times.
func (o *forwardChecks) times(ctx context.Context, query string) (map[string]time.Time, error) {
	samples, err := o.query.Query(ctx, query)
	if err != nil {
		return nil, err
	}
	out := map[string]time.Time{}
	for _, s := range samples {
		if !math.IsNaN(s.Value) && s.Value > 0 {
			out[s.Labels[rules.LabelReceipt]] = time.UnixMilli(int64(s.Value * 1000)).UTC()
		}
	}
	return out, nil
}

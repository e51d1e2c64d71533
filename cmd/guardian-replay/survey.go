package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/common/model"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/canary-guardian/guardian/rules"
)

const (
	// surveyStep is how finely releases are looked for.
	surveyStep = time.Minute
	// surveyAtOnce is the time of one query: 1,440 points of the 11,000 that Prometheus
	// answers at most.
	surveyAtOnce = 24 * time.Hour
	// surveyLeast is not asked for in halves.
	surveyLeast = 10 * time.Minute
)

// survey is a guard's traffic at each step from a time on, and who served it.
type survey struct {
	from      time.Time
	steps     []traffic
	workloads map[string][]string // by the side's name: canary, stable
}

func (s survey) at(i int) time.Time { return s.from.Add(time.Duration(i) * surveyStep) }

// surveyWindow is what a rate is taken over: room for two scrapes at least.
func surveyWindow(o rules.Options) time.Duration {
	return max(2*time.Minute, 4*o.ScrapeInterval)
}

// survey asks for the traffic of both versions, a day at a time.
func (r *replayer) survey(ctx context.Context, g rules.Guard) (survey, error) {
	out := survey{from: r.from.Truncate(surveyStep).Add(surveyStep)}
	out.steps = make([]traffic, max(0, int(r.to.Sub(out.from)/surveyStep)+1))
	found := map[string]map[string]bool{canary: {}, stable: {}}
	for from := out.from; !from.After(r.to); from = from.Add(surveyAtOnce) {
		r.progress.say(g.Name, "looking for releases: %s", from.UTC().Format(time.DateOnly))
		to := from.Add(surveyAtOnce - surveyStep)
		if to.After(r.to) {
			to = r.to
		}
		part := halves{surveyLeast, surveyStep, func(ctx context.Context, from, to time.Time) error {
			to = to.Add(-surveyStep) // the last step of the part
			m, err := r.source.Range(ctx, surveyQuery(r.options, g), from, to, surveyStep)
			if err != nil {
				return fmt.Errorf("look for releases between %s and %s: %w", stamp(from), stamp(to), err)
			}
			out.add(m, found)
			return nil
		}}
		if err := part.do(ctx, from, to.Add(surveyStep)); err != nil {
			return survey{}, err
		}
	}
	out.workloads = map[string][]string{}
	for side, names := range found {
		out.workloads[side] = slices.Sorted(maps.Keys(names))
	}
	return out, nil
}

// The sides, as the rules call them.
const (
	canary = "canary"
	stable = "stable"
)

// surveyQuery is the rate of requests of both sides, by reporter and workload.
func surveyQuery(o rules.Options, g rules.Guard) string {
	of := func(side string, s rules.Side) string {
		return fmt.Sprintf(`label_replace(sum by (reporter, destination_workload) (rate(%s[%s])), %q, %q, "", "")`,
			o.RequestsOf(g, s), model.Duration(surveyWindow(o)), rules.LabelSide, side)
	}
	return of(canary, g.Canary) + " or " + of(stable, g.Stable)
}

// add puts in what a query found: of each side what the reporter says that saw most.
func (s *survey) add(m model.Matrix, found map[string]map[string]bool) {
	type key struct {
		side, reporter string
		at             int
	}
	sums := map[key]float64{}
	for _, stream := range m {
		side := string(stream.Metric[rules.LabelSide])
		if name := string(stream.Metric["destination_workload"]); found[side] != nil && isWorkload(name) {
			found[side][name] = true
		}
		for _, v := range stream.Values {
			i := int(v.Timestamp.Time().Sub(s.from) / surveyStep)
			if i >= 0 && i < len(s.steps) {
				sums[key{side, string(stream.Metric[rules.LabelReporter]), i}] += float64(v.Value)
			}
		}
	}
	for k, sum := range sums {
		if k.side == canary {
			s.steps[k.at].canary = max(s.steps[k.at].canary, sum)
		} else {
			s.steps[k.at].stable = max(s.steps[k.at].stable, sum)
		}
	}
}

// isWorkload reports whether a value of destination_workload can be a Deployment's name:
// proxies report what their peers say of themselves.
func isWorkload(name string) bool {
	return name != "unknown" && len(validation.IsDNS1123Subdomain(name)) == 0
}

// silence is what a survey cannot tell of: times in which neither version had requests,
// or nothing was scraped.
func (s survey) silence() string {
	silent, first := 0, -1
	for i, t := range s.steps {
		if t == (traffic{}) {
			silent++
		} else if first < 0 {
			first = i
		}
	}
	hours := func(steps int) float64 { return (time.Duration(steps) * surveyStep).Hours() }
	switch {
	case first < 0:
		return "NOT JUDGED: Prometheus has no requests of either version (istio_requests_total): is it the right one, and are names and namespace right?"
	case hours(silent-first) >= 1 && hours(first) >= 1:
		return fmt.Sprintf("NOT JUDGED: before %s Prometheus has no requests of either version, nor in %.1f hours after that.", stamp(s.at(first)), hours(silent-first))
	case hours(first) >= 1:
		return fmt.Sprintf("NOT JUDGED: before %s Prometheus has no requests of either version.", stamp(s.at(first)))
	case hours(silent) >= 1:
		return fmt.Sprintf("NOT JUDGED: in %.1f hours Prometheus has no requests of either version.", hours(silent))
	}
	return ""
}

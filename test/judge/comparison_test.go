package main

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"

	"github.com/canary-guardian/guardian/rules"
	"github.com/canary-guardian/guardian/rules/virtualtime"
)

// comparing are the rules that compare a guard's failed requests.
func comparing(t *testing.T, warmup time.Duration) []monitoringv1.RuleGroup {
	t.Helper()
	made, err := rules.Generate(rules.Options{Interval: time.Second, ScrapeInterval: scrapeInterval * time.Millisecond, Guards: []rules.Guard{orders(rules.Signals{
		ErrorRate: &rules.ErrorRate{Max: 0.01}, Comparison: &rules.Comparison{Ratio: 1.5, Min: 0.0001, Warmup: warmup},
	})}})
	if err != nil {
		t.Fatal(err)
	}
	var out []monitoringv1.RuleGroup
	for _, g := range made.PrometheusRules("x", "x")[1].Spec.Groups {
		if slices.Contains([]string{"guardian.guards", "guardian.requests", "guardian.comparison"}, g.Name) {
			out = append(out, g)
		}
	}
	return out
}

// TestThePortOfTheComparisonIsEqualToTheEngine runs both on the same scrapes of canaries that
// are as good as stable, worse, away for a while, and idle.
func TestThePortOfTheComparisonIsEqualToTheEngine(t *testing.T) {
	const length = 480 * second
	step := 1
	if testing.Short() || race {
		step = 3
	}
	compared, positive, fires := 0, 0, 0
	for run := 0; run < 6; run += step {
		o := service([]float64{50, 500, 5}[run/2%3], []float64{0.1, 0.5}[run%2])
		o.rough, o.stableBad, o.canaryBad, o.changes = 5, constant(0.005), from(200*second, 0.005, 0.1), []int64{200 * second}
		if run >= 3 { // no request for a minute and a half, and for half a minute
			o.load = func(t int64) float64 {
				if t > 250*second && t < 370*second || t > 430*second && t < 460*second {
					return 0
				}
				return 1
			}
			o.changes = append(o.changes, 250*second, 370*second, 430*second, 460*second)
		}
		w, c := newWorld(o, uint64(run)), newComparison()
		c.warmup = 60 * second
		p := &prometheus{t: t, store: newStore()}
		w.seen = p.scraped
		evaluator, err := virtualtime.New(p.store.Store, comparing(t, time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		p.engine = newPrometheusBy(t, rules.Options{Namespace: "x"}).engine
		if err := evaluator.Evaluate(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		for now := int64(second); now <= length; now += second {
			w.runTo(now)
			if err := evaluator.Evaluate(t.Context(), now); err != nil {
				t.Fatal(err)
			}
			fired := c.evaluate(now, w.targets)
			if now%comparisonBlock != 0 {
				continue
			}
			same(t, p, now, "guardian_canary:comparison:began", float64(c.began)/second, c.beganAt == now)
			for r, reporter := range []string{"destination", "source"} {
				for i, times := range comparisonTimes {
					selector := fmt.Sprintf(`guardian_canary:requests_failed:worse{reporter=%q,times="%v"}`, reporter, times)
					same(t, p, now, selector, c.evidence[r][i], c.at[r] == now)
					compared++
					if c.at[r] == now && c.evidence[r][i] > 0 {
						positive++
					}
				}
			}
			is := slices.ContainsFunc(evaluator.Firing(), func(a virtualtime.Alert) bool { return a.Name == rules.AlertComparisonHold })
			if fired {
				if fires++; !is {
					t.Fatalf("run %d, second %d: the port fires, and the engine does not", run, now/second)
				}
			}
		}
	}
	t.Logf("%d values compared, %d of them above 0; %d evaluations fired", compared, positive, fires)
	if positive < compared/20 || fires < 3 {
		t.Errorf("too little happened: %d of %d above 0, %d fired", positive, compared, fires)
	}
}

func TestTheLeastNumberOfRequestsIsThatOfTheDivergence(t *testing.T) {
	// With as many requests at either version 2 in 100 against 1 in 100 have two thirds of the bad ones
	// in place of half: 0.03 bad ones for each of the canary's requests, of which each tells
	// 2/3*ln(4/3) + 1/3*ln(2/3) on average.
	want := comparisonProof / (0.03 * (2.0/3*math.Log(4.0/3) + 1.0/3*math.Log(2.0/3)))
	if got := leastRequests(0.02, 0.01, 1, 1, 0); math.Abs(got-want) > 1e-6*want {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := leastRequests(0.01, 0.01, 1, 1, 0); !math.IsInf(got, 1) {
		t.Errorf("versions that are alike are told apart by %v requests", got)
	}
}

func TestVersionsThatAreAlikeAreNotToldApartAndOthersAre(t *testing.T) {
	o := service(100, 0.1)
	o.canaryBad, o.stableBad, o.rough = constant(0.005), constant(0.005), 1
	if n := compareFor(o, 20*3600*second, 1); n != 0 {
		t.Errorf("%d alarms in twenty hours of versions that are alike", n)
	}
	o.canaryBad = constant(0.025)
	if n := compareFor(o, 3600*second, 1); n == 0 {
		t.Error("a canary that is five times worse is not told in an hour")
	}
}

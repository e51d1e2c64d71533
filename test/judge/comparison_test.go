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
			same(t, p, now, "guardian_canary:comparison:began", float64(c.began)/second, c.began > 0)
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

// compared is a canary that fails ten times as often as stable, in virtual time.
type compared struct {
	*prometheus
	evaluator *virtualtime.Evaluator
	world     *world
	away      func(now int64) bool  // whether Prometheus is
	built     func(now int64) int64 // when the canary's build appeared, by guardian's metric; nil: it is not scraped
}

func newCompared(t *testing.T, warmup time.Duration) *compared {
	t.Helper()
	o := service(500, 0.1)
	o.stableBad, o.canaryBad = constant(0.005), constant(0.05)
	c := &compared{prometheus: newPrometheusBy(t, rules.Options{Namespace: "microservices"}), world: newWorld(o, 1), away: func(int64) bool { return false }}
	c.world.seen = func(g *target, s *scrapeOf) {
		if !c.away(s.t) {
			c.scraped(g, s)
		}
	}
	var err error
	if c.evaluator, err = virtualtime.New(c.store.Store, comparing(t, warmup)); err != nil {
		t.Fatal(err)
	}
	return c
}

// at runs up to a second, and returns whether the canary is held, since when it is compared, and
// the strongest evidence; -1: there is none.
func (c *compared) at(until int64) (held bool, began, evidence float64) {
	c.t.Helper()
	for now := c.world.now/second*second + second; now <= until*second; now += second {
		c.world.runTo(now)
		c.world.now = now
		if c.away(now) {
			continue
		}
		if c.built != nil && now%scrapeInterval == 0 {
			for replica, at := range []int64{c.built(now), c.built(0)} { // one is behind
				c.add(now, float64(at), fmt.Sprint("guardian-", replica), "guardian_canary_build_timestamp_seconds", rules.LabelOwner, "microservices", "guard", "orders-service")
			}
		}
		if err := c.evaluator.Evaluate(c.t.Context(), now); err != nil {
			c.t.Fatal(err)
		}
	}
	value := func(selector string) float64 {
		if v := c.query("max("+selector+")", until*second); len(v) == 1 {
			return v[0].F
		}
		return -1
	}
	held = slices.ContainsFunc(c.evaluator.Firing(), func(a virtualtime.Alert) bool { return a.Name == rules.AlertComparisonHold })
	return held, value("guardian_canary:comparison:began"), value("guardian_canary:requests_failed:worse")
}

func TestEvidenceOutlastsAPrometheusThatIsAway(t *testing.T) {
	for away, kept := range map[int64]bool{50: true, 300: true, 570: true, 660: false} {
		c := newCompared(t, time.Minute)
		from := int64(405)
		c.away = func(now int64) bool { return now > from*second && now < (from+away)*second }
		held, began, evidence := c.at(from)
		if !held || evidence < comparisonProof {
			t.Fatalf("held: %v, evidence %v", held, evidence)
		}
		back := (from+away)/15*15 + 15 // the first evaluation of the comparison
		isHeld, since, is := c.at(back)
		if !kept {
			if isHeld, since, is = c.at(back + 45); isHeld || is > 0 || since == began { // keep_firing_for is over
				t.Errorf("away for %d s: held: %v, evidence %v since %v", away, isHeld, is, since)
			}
			continue
		}
		if !isHeld || since != began || is < comparisonProof {
			t.Errorf("away for %d s: held: %v, evidence %v since %v, before %v since %v", away, isHeld, is, since, evidence, began)
		}
		// It goes on from there, though nothing is counted at first.
		for end := back + 15; end <= back+180; end += 15 {
			if isHeld, since, is = c.at(end); !isHeld || since != began || is < comparisonProof {
				t.Errorf("away for %d s, %d s later: held: %v, evidence %v since %v", away, end-back, isHeld, is, since)
			}
		}
	}
}

func TestACanaryWithoutRequestsLosesItsEvidenceThoughPrometheusIsAwayToo(t *testing.T) {
	c := newCompared(t, time.Minute)
	c.world.load = func(t int64) float64 {
		if t > 405*second && t < 600*second {
			return 0
		}
		return 1
	}
	c.away = func(now int64) bool { return now > 450*second && now < 500*second }
	if held, _, _ := c.at(405); !held {
		t.Fatal("not held")
	}
	if held, began, _ := c.at(600); held || began >= 0 {
		t.Errorf("held: %v, compared since %v, without a request for three minutes", held, began)
	}
	if held, began, evidence := c.at(660); held || began < 600 || evidence > 0 {
		t.Errorf("held: %v, evidence %v since %v", held, evidence, began)
	}
}

func TestANewBuildBeginsWithoutEvidence(t *testing.T) {
	for _, warmup := range []int64{0, 60} {
		c := newCompared(t, time.Duration(warmup)*time.Second)
		c.built = func(now int64) int64 {
			if now >= 412*second { // scraped at 415
				return 411
			}
			return 5
		}
		if held, began, _ := c.at(405); !held || began > 60 {
			t.Fatalf("held: %v, compared since %v", held, began)
		}
		if _, began, evidence := c.at(420); began != 420 || evidence != 0 {
			t.Errorf("warm-up %d s: evidence %v since %v", warmup, evidence, began)
		}
		if held, began, evidence := c.at(max(450, 420+warmup)); began != 420 || evidence > 3 || held { // keep_firing_for is over
			t.Errorf("warm-up %d s: held: %v, evidence %v since %v", warmup, held, evidence, began)
		}
		if held, _, evidence := c.at(435 + warmup + 75); held || evidence <= 0 {
			t.Errorf("warm-up %d s: held: %v, evidence %v after six blocks", warmup, held, evidence)
		}
		if held, began, _ := c.at(435 + warmup + 240); !held || began != 420 {
			t.Errorf("warm-up %d s: held: %v, compared since %v", warmup, held, began)
		}
	}
}

// Most of what would be forgotten was gathered against that very build.
func TestABuildThatIsToldLateErasesNoEvidence(t *testing.T) {
	const told, end = 1100, 411
	for late, kept := range map[int64]bool{told - end: true, 120: false} {
		c := newCompared(t, time.Minute)
		c.built = func(now int64) int64 {
			if now >= told*second {
				return told - late
			}
			return 5
		}
		held, began, evidence := c.at(told - 5)
		if !held || began > 60 {
			t.Fatalf("held: %v, compared since %v", held, began)
		}
		isHeld, since, is := c.at(told + 70)
		if (isHeld && since == began && is >= evidence-1) != kept {
			t.Errorf("told %d s late: held: %v, evidence %v since %v; before %v since %v", late, isHeld, is, since, evidence, began)
		}
	}
}

// Before a release replay evaluates for as long as the rules look back.
func TestTheComparisonLooksBackForLessThanAnHour(t *testing.T) {
	_, back, err := virtualtime.Reads(comparing(t, time.Minute))
	if t.Logf("%v", back); err != nil || back > time.Hour || back < 30*time.Minute {
		t.Errorf("%v, %v", back, err)
	}
}

// What is known of how many failures come at a time is all that tells a stall of both that is scraped
// apart from a canary that fails alone.
func TestAStallOfBothThatIsScrapedApartIsNoProof(t *testing.T) {
	stalls := func(canary, stable float64, apart bool) (proof bool) {
		c := newComparison()
		c.began = 1
		for n := int64(1); n <= 400; n++ { // blocks; a stall each minute
			c.blocks[0] = [sides]count{{all: 150, ok: true}, {all: 1350, ok: true}}
			if n%4 == 0 {
				c.blocks[0][canarySide].bad = canary
			}
			if n%4 == 0 && !apart || n%4 == 1 && apart {
				c.blocks[0][stableSide].bad = stable
			}
			proof = c.prove(300*second+n*comparisonBlock, 0) || proof
		}
		return proof
	}
	for _, apart := range []bool{false, true} {
		if stalls(10, 90, apart) {
			t.Errorf("versions that are alike are told apart; scraped apart: %v", apart)
		}
		if !stalls(30, 90, apart) {
			t.Errorf("a canary with three times as many failures is not told; scraped apart: %v", apart)
		}
	}
	if !stalls(10, 0, false) {
		t.Error("a canary that stalls alone is not told")
	}
}

// The replay states for how much of a release each signal could judge.
func TestTheComparisonJudgesOnceItIsWarmAndBesideStable(t *testing.T) {
	c := newCompared(t, time.Minute)
	judges := func(until int64) bool {
		c.at(until)
		return slices.ContainsFunc(rules.SignalComparison.Recorded().Judged, func(metric string) bool {
			return c.evaluator.Recorded(metric, rules.LabelGuard, "orders-service")
		})
	}
	c.world.weight = func(t int64) float64 {
		if t > 200*second {
			return 1
		}
		return 0.1
	}
	for _, one := range []struct {
		second int64
		judges bool
	}{{75, false}, {90, false}, {120, true}, {195, true}, {240, false}, {300, false}} {
		if got := judges(one.second); got != one.judges {
			t.Errorf("second %d: it judges: %v", one.second, got)
		}
	}
}

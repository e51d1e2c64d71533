package main

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"

	"github.com/canary-guardian/guardian/rules"
	"github.com/canary-guardian/guardian/rules/virtualtime"
)

// store is what Prometheus's engine reads from.
type store struct{ *virtualtime.Store }

func newStore() *store { return &store{virtualtime.NewStore()} }

func (s *store) add(l labels.Labels, t int64, f float64) { s.Append(l, t, f) }

// prometheus evaluates the generated rules in order, as a rule group does:
// results are recorded, and what is no more is marked stale.
type prometheus struct {
	t      *testing.T
	engine *promql.Engine
	store  *store
	rules  []rule
	firing []string // alerts of the last evaluation
}

type rule struct {
	record, alert, expr string
	labels              map[string]string
	last                map[string]labels.Labels
}

func newPrometheus(t *testing.T, signals rules.Signals) *prometheus {
	t.Helper()
	return newPrometheusEvery(t, time.Second, signals)
}

func newPrometheusEvery(t *testing.T, interval time.Duration, signals rules.Signals) *prometheus {
	t.Helper()
	return newPrometheusOf(t, interval, orders(signals))
}

func orders(signals rules.Signals) rules.Guard {
	return rules.Guard{
		Name: "orders-service", Namespace: "microservices",
		Stable:  rules.Side{Name: "v1", Service: "orders-service", Workloads: []string{"orders-v1"}},
		Canary:  rules.Side{Name: "v2", Service: "orders-service", Workloads: []string{"orders-v2"}},
		Signals: signals,
	}
}

func newPrometheusOf(t *testing.T, interval time.Duration, guards ...rules.Guard) *prometheus {
	t.Helper()
	return newPrometheusBy(t, rules.Options{Interval: interval, ScrapeInterval: scrapeInterval * time.Millisecond, Guards: guards})
}

func newPrometheusBy(t *testing.T, o rules.Options) *prometheus {
	t.Helper()
	return &prometheus{t: t, store: newStore(), rules: rulesBy(t, o), engine: promql.NewEngine(promql.EngineOpts{
		MaxSamples: 1e6, Timeout: time.Minute, LookbackDelta: 5 * time.Minute, EnableAtModifier: true,
	})}
}

// rulesBy are those about guards.
func rulesBy(t *testing.T, o rules.Options) []rule {
	t.Helper()
	r, err := rules.Generate(o)
	if err != nil {
		t.Fatal(err)
	}
	var out []rule
	for _, object := range r.PrometheusRules("x", "x")[1:] { // the first is about guardian itself
		for _, g := range object.Spec.Groups {
			if g.Name == "guardian.overview" {
				continue
			}
			for _, one := range g.Rules {
				out = append(out, rule{record: one.Record, alert: one.Alert, expr: one.Expr.StrVal, labels: one.Labels})
			}
		}
	}
	return out
}

// reload gives Prometheus other rules before an evaluation. As there, what a rule
// recorded that is no more is marked stale.
func (p *prometheus) reload(now int64, all []rule) {
	for _, old := range p.rules {
		if i := slices.IndexFunc(all, func(r rule) bool { return r.record == old.record && maps.Equal(r.labels, old.labels) }); i >= 0 {
			all[i].last = old.last
			continue
		}
		for _, l := range old.last {
			p.store.add(l, now, math.Float64frombits(value.StaleNaN))
		}
	}
	p.rules = all
}

// scraped stores what a scrape found, and stale markers for what it did not.
func (p *prometheus) scraped(g *target, s *scrapeOf) {
	add := func(t int64, f float64, pairs ...string) {
		pairs = append(pairs, "job", "mesh", "instance", strconv.Itoa(g.id))
		p.store.add(labels.FromStrings(pairs...), t, f)
	}
	stale := math.Float64frombits(value.StaleNaN)
	before := g.ago(1)
	for i, v := range s.v {
		if math.IsNaN(v) {
			if before == nil || math.IsNaN(before.v[i]) {
				continue
			}
			v = stale
		}
		if i == 2*nobody {
			add(s.t, v, model.MetricNameLabel, "istio_requests_total", "reporter", "source", "destination_workload", "unknown",
				"destination_service_name", "orders-service", "destination_service_namespace", "microservices", "response_code", "503")
			continue
		}
		add(s.t, v, model.MetricNameLabel, "istio_requests_total",
			"reporter", []string{"destination", "source"}[g.reporter],
			"destination_workload", []string{"orders-v2", "orders-v1"}[i/2], "destination_workload_namespace", "microservices",
			"response_code", []string{"200", "503"}[i%2])
	}
	add(s.t, []float64{1, 0, stale}[s.up], model.MetricNameLabel, "up")
}

func (p *prometheus) query(expr string, now int64) promql.Vector {
	p.t.Helper()
	q, err := p.engine.NewInstantQuery(p.t.Context(), p.store, nil, expr, time.UnixMilli(now))
	if err != nil {
		p.t.Fatal(err)
	}
	defer q.Close()
	res := q.Exec(p.t.Context())
	v, err := res.Vector()
	if err != nil {
		p.t.Fatalf("%s: %v", expr, err)
	}
	return append(promql.Vector(nil), v...)
}

// evaluate runs all rules once and reports whether a rollback alert fires.
func (p *prometheus) evaluate(now int64) bool {
	fired := false
	p.firing = nil
	for i := range p.rules {
		r := &p.rules[i]
		found := p.query(r.expr, now)
		if r.alert != "" {
			if len(found) > 0 {
				p.firing = append(p.firing, r.alert+"/"+r.labels[rules.LabelAction])
			}
			fired = fired || len(found) > 0 && r.labels[rules.LabelAction] == string(rules.ActionRollback)
			continue
		}
		seen := map[string]labels.Labels{}
		for _, s := range found {
			b := labels.NewBuilder(s.Metric).Set(model.MetricNameLabel, r.record)
			for k, v := range r.labels {
				b.Set(k, v)
			}
			l := b.Labels()
			p.store.add(l, now, s.F)
			seen[l.String()] = l
		}
		for key, l := range r.last {
			if _, ok := seen[key]; !ok {
				p.store.add(l, now, math.Float64frombits(value.StaleNaN))
			}
		}
		r.last = seen
	}
	return fired
}

// TestAGuardThatIsNewIsNotJudgedByItsPast changes the rules while Prometheus runs:
// of a guard that comes, or whose latency limit moves to another bucket, the
// proxies have counted much before.
func TestAGuardThatIsNewIsNotJudgedByItsPast(t *testing.T) {
	guard := func(name string, limit time.Duration) rules.Guard {
		return rules.Guard{
			Name: name, Namespace: "microservices",
			Stable: rules.Side{Name: "v1", Workloads: []string{name + "-v1"}}, Canary: rules.Side{Name: "v2", Workloads: []string{name + "-v2"}},
			Signals: rules.Signals{ErrorRate: &rules.ErrorRate{Max: 0.01}, Latency: &rules.Latency{Quantile: 0.95, Max: limit}},
		}
	}
	orders, stock := guard("orders", time.Second), guard("stock", time.Second)
	p := newPrometheusOf(t, time.Second, orders)
	add := func(at int64, f float64, pairs ...string) {
		p.store.add(labels.FromStrings(append(pairs, "job", "mesh", "instance", "gateway")...), at, f)
	}
	evaluate := func(now int64) bool {
		if now%scrapeInterval == 0 {
			add(now, 1, model.MetricNameLabel, "up")
			for _, workload := range []string{"orders-v1", "orders-v2", "stock-v1", "stock-v2"} {
				about := []string{"reporter", "source", "destination_workload", workload, "destination_workload_namespace", "microservices"}
				for code, n := range map[string]float64{"200": 1000, "503": 500} {
					add(now, n, append(about, model.MetricNameLabel, "istio_requests_total", "response_code", code)...)
				}
				for le, n := range map[string]float64{"500": 100, "1000": 1000, "+Inf": 1500} {
					add(now, n, append(about, model.MetricNameLabel, "istio_request_duration_milliseconds_bucket", "response_code", "200", "le", le)...)
				}
			}
		}
		return p.evaluate(now)
	}
	for now := int64(second); now <= 90*second; now += second {
		switch now {
		case 30 * second:
			p.reload(now, newPrometheusOf(t, time.Second, orders, stock).rules)
		case 60 * second:
			stock.Signals.Latency.Max = 500 * time.Millisecond
			p.reload(now, newPrometheusOf(t, time.Second, orders, stock).rules)
		}
		if evaluate(now) || len(p.firing) > 0 {
			t.Fatalf("second %d: %v", now/second, p.firing)
		}
	}
	if n := len(p.query(`guardian_side:requests_slow:idelta{guardian_guard="stock"}`, 90*second)); n != 2 {
		t.Errorf("%d sides of the new guard are counted, want 2", n)
	}
}

// TestADefinitionOfFailureThatChangesIsNoBurst changes which requests have failed while
// Prometheus runs: of those that have failed from now on there have been many before.
func TestADefinitionOfFailureThatChangesIsNoBurst(t *testing.T) {
	by := func(failures ...string) rules.Guard {
		return orders(rules.Signals{ErrorRate: &rules.ErrorRate{Max: 0.01, Failures: failures}})
	}
	other := by(`response_code="404"`)
	other.Name = "other"
	codes := by(`response_code=~"5..|404"`)
	for name, c := range map[string]struct{ before, after []rules.Guard }{
		"from the default":                        {[]rules.Guard{by()}, []rules.Guard{codes}},
		"to the default":                          {[]rules.Guard{by(`response_code=~"400"`)}, []rules.Guard{by()}},
		"from one to another":                     {[]rules.Guard{by(`response_code=~"400"`)}, []rules.Guard{codes}},
		"to that of another guard":                {[]rules.Guard{by(), other}, []rules.Guard{by(`response_code="404"`), other}},
		"another guard comes, which has it":       {[]rules.Guard{by()}, []rules.Guard{by(), other}},
		"the same in other words":                 {[]rules.Guard{codes}, []rules.Guard{by(` response_code =~ "5..|404", `)}},
		"one of two, as another guard's and back": {[]rules.Guard{by(`response_code="404"`, `response_code=~"5.."`), other}, []rules.Guard{by(`response_code=~"5.."`), other}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPrometheusOf(t, time.Second, c.before...)
			for now := int64(second); now <= 90*second; now += second {
				if now%scrapeInterval == 0 {
					p.store.add(labels.FromStrings(model.MetricNameLabel, "up", "job", "mesh", "instance", "gateway"), now, 1)
					for i, workload := range []string{"orders-v1", "orders-v2"} {
						for code, n := range map[string]float64{"200": 1000 + float64(now/100), "400": 0, "404": []float64{0, 500}[i], "503": []float64{0, 500}[i]} {
							p.store.add(labels.FromStrings(model.MetricNameLabel, "istio_requests_total", "job", "mesh", "instance", "gateway", "reporter", "source",
								"destination_workload", workload, "destination_workload_namespace", "microservices", "response_code", code), now, n)
						}
					}
				}
				if now == 45*second {
					p.reload(now, newPrometheusOf(t, time.Second, c.after...).rules)
				}
				if p.evaluate(now) || len(p.firing) > 0 {
					t.Fatalf("second %d: %v", now/second, p.firing)
				}
			}
			same(t, p, 90*second, `sum_over_time(guardian_side:requests:idelta{guardian_guard="orders-service",guardian_side="canary"}[30s])`, 300, true)
		})
	}
}

// TestAMissedEvaluationIsNoBurst has Prometheus too busy for some evaluations, of
// proxies that have counted many failures long before.
func TestAMissedEvaluationIsNoBurst(t *testing.T) {
	p := newPrometheus(t, rules.Signals{ErrorRate: &rules.ErrorRate{Max: 0.01}})
	missed := func(s int64) bool { return s >= 40 && s <= 42 || s == 61 || s == 65 }
	for s := int64(1); s <= 90; s++ {
		if s%5 == 0 {
			for _, workload := range []string{"orders-v1", "orders-v2"} {
				add := func(f float64, pairs ...string) {
					p.store.add(labels.FromStrings(append(pairs, "job", "mesh", "instance", workload)...), s*second, f)
				}
				about := []string{model.MetricNameLabel, "istio_requests_total", "reporter", "destination",
					"destination_workload", workload, "destination_workload_namespace", "microservices", "response_code"}
				add(1, model.MetricNameLabel, "up")
				add(float64(1000+10*s), append(about, "200")...)
				add(500, append(about, "503")...)
			}
		}
		if missed(s) {
			continue
		}
		if p.evaluate(s * second); len(p.firing) > 0 {
			t.Fatalf("second %d: %v", s, p.firing)
		}
	}
	// Of 18 scrapes, those at seconds 40 and 65 went unseen, and the first has none before it.
	same(t, p, 90*second, `sum_over_time(guardian_side:requests:idelta{guardian_side="canary"}[2m])`, 15*50, true)
}

// TestAScrapeThatIsStoredLateIsNoBurst has Prometheus find a gateway that has counted
// many failures long before, as after its own start. Samples bear the time at which
// their scrape began, and are stored when it has ended: here after an evaluation, or some,
// that come between the two.
func TestAScrapeThatIsStoredLateIsNoBurst(t *testing.T) {
	for name, c := range map[string]struct {
		interval, scrape int64
		takes            int64 // 200 ms and a multiple of 500
	}{
		"evaluated every second":                            {second, 15 * second, 200},
		"every three":                                       {3 * second, 15 * second, 200},
		"every three, and takes long":                       {3 * second, 15 * second, 9700},
		"every five, and takes long":                        {5 * second, 15 * second, 9700},
		"twice per scrape":                                  {15 * second / 2, 15 * second, 7200},
		"twice in three scrapes":                            {10 * second, 15 * second, 9700},
		"once per scrape":                                   {15 * second, 15 * second, 9700},
		"four times per scrape":                             {15 * second / 2, 30 * second, 9700},
		"scraped every five seconds, evaluated every three": {3 * second, 5 * second, 2700},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPrometheusBy(t, rules.Options{Interval: time.Duration(c.interval) * time.Millisecond, ScrapeInterval: time.Duration(c.scrape) * time.Millisecond,
				Guards: []rules.Guard{orders(rules.Signals{ErrorRate: &rules.ErrorRate{Max: 0.01}})}})
			gateway := func(at int64) {
				add := func(f float64, pairs ...string) {
					p.store.add(labels.FromStrings(append(pairs, "job", "mesh", "instance", "gateway")...), at, f)
				}
				add(1, model.MetricNameLabel, "up")
				for i, workload := range []string{"orders-v1", "orders-v2"} {
					about := []string{model.MetricNameLabel, "istio_requests_total", "reporter", "source",
						"destination_workload", workload, "destination_workload_namespace", "microservices", "response_code"}
					add(float64(10000+at/second), append(about, "200")...)
					add([]float64{5, 500}[i], append(about, "503")...)
				}
			}
			const first = 60 * second
			last, seen := int64(0), int64(0) // scrape of the gateway, and the last one that an evaluation has seen
			for now := int64(500); now <= 150*second; now += 500 {
				if now%c.scrape == 0 {
					p.proxies(now, map[string]float64{"orders-v1": 90})
				}
				if now%c.interval == 0 {
					if p.evaluate(now); len(p.firing) > 0 {
						t.Fatalf("second %d: %v", now/second, p.firing)
					}
					seen = last
				}
				if due := now - c.takes + 200; due >= first && due%c.scrape == 0 {
					gateway(due - 200)
					last = due
				}
			}
			same(t, p, 150*second, `sum_over_time(guardian_side:requests:idelta{guardian_side="canary"}[2m])`, float64((seen-first)/second), true)
		})
	}
}

// TestTheSecondScrapeOfANewPodCountsInFull: at the first one it has had no requests. When the
// evaluations are between two scrapes must not matter.
func TestTheSecondScrapeOfANewPodCountsInFull(t *testing.T) {
	for name, c := range map[string]struct{ scrape, interval, lane time.Duration }{
		"the defaults":               {15 * time.Second, 3 * time.Second, 0},
		"with more than 300 guards":  {15 * time.Second, 5 * time.Second, 0},
		"with more than 600 guards":  {15 * time.Second, 7500 * time.Millisecond, 0},
		"scraped every five seconds": {5 * time.Second, time.Second, 0},
		"twice per scrape of ten":    {10 * time.Second, 5 * time.Second, 0},
		"the fast lane":              {15 * time.Second, 500 * time.Millisecond, time.Second},
		"the slowest fast lane":      {15 * time.Second, 2500 * time.Millisecond, 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			scrape, step, prefix, job := c.scrape.Milliseconds(), c.interval.Milliseconds(), "", "mesh"
			if c.lane > 0 {
				scrape, prefix, job = c.lane.Milliseconds(), "fastlane_", "guardian-fast-lane"
			}
			for phase := int64(0); phase < step; phase += 500 {
				p := newPrometheusBy(t, rules.Options{Interval: c.interval, ScrapeInterval: c.scrape, FastLane: c.lane,
					Guards: []rules.Guard{orders(rules.Signals{ErrorRate: &rules.ErrorRate{Max: 0.01}})}})
				add := func(at int64, f float64, name, instance string, pairs ...string) {
					p.store.add(labels.FromStrings(append(pairs, model.MetricNameLabel, name, "job", job, "instance", instance)...), at, f)
				}
				first := 60 * second / scrape * scrape
				last := first + 2*scrape + step
				for now := int64(500); now <= last; now += 500 {
					if now >= phase && (now-phase)%step == 0 { // a scrape at the same moment is stored later
						p.evaluate(now)
					}
					if now%scrape != 0 {
						continue
					}
					add(now, 1, "up", "stable")
					add(now, float64(now/10), prefix+"istio_requests_total", "stable", requestsOf("orders-v1")...)
					if now >= first {
						add(now, 1, "up", "pod")
					}
					if now > first {
						add(now, 50, prefix+"istio_requests_total", "pod", requestsOf("orders-v2")...)
					}
				}
				same(t, p, last, `sum_over_time(guardian_side:requests:idelta{guardian_side="canary"}[2m])`, 50, true)
			}
		})
	}
}

// TestAShorterWindowIsNotComparedWithALongerOne changes the scrape interval while
// Prometheus runs, under an even load: what was counted five minutes before was
// counted in windows four times as long.
func TestAShorterWindowIsNotComparedWithALongerOne(t *testing.T) {
	const every = 5 * second
	by := func(scrape time.Duration) rules.Options {
		return rules.Options{Interval: every * time.Millisecond, ScrapeInterval: scrape,
			Guards: []rules.Guard{orders(rules.Signals{Traffic: &rules.Traffic{ShareTolerance: 0.5}})}}
	}
	p := newPrometheusBy(t, by(time.Minute))
	for now := int64(every); now <= 1100*second; now += every {
		p.proxies(now, map[string]float64{"orders-v1": 90, "orders-v2": 10})
		p.weight(now, 10)
		if now == 700*second {
			p.reload(now, rulesBy(t, by(15*time.Second)))
		}
		if p.evaluate(now); len(p.firing) > 0 {
			t.Fatalf("second %d: %v", now/second, p.firing)
		}
		// The gap of the start is five minutes old at second 605.
		if known := now > 610*second && now < 700*second || now >= 1000*second; known && len(p.query("guardian:requests:per_before", now)) != 1 {
			t.Fatalf("second %d: nothing is compared", now/second)
		}
	}
}

// TestOnlyAHoleSilencesTheShare has Prometheus miss one evaluation, and one scrape
// of the canary.
func TestOnlyAHoleSilencesTheShare(t *testing.T) {
	for name, c := range map[string]struct {
		interval, scrape time.Duration
		missed, failed   int64 // milliseconds; 0: none
	}{
		"an evaluation, five to a scrape":                  {interval: time.Second, scrape: 5 * time.Second, missed: 300 * second},
		"an evaluation, two to a scrape":                   {interval: 5 * time.Second, scrape: 10 * time.Second, missed: 300 * second},
		"a scrape, five evaluations to one":                {interval: time.Second, scrape: 5 * time.Second, failed: 300 * second},
		"a scrape, two evaluations to one":                 {interval: 5 * time.Second, scrape: 10 * time.Second, failed: 300 * second},
		"a scrape, one evaluation to one":                  {interval: 15 * time.Second, scrape: 15 * time.Second, failed: 300 * second},
		"a scrape, one evaluation and a half to one":       {interval: 10 * time.Second, scrape: 15 * time.Second, failed: 300 * second},
		"a scrape, one evaluation and a half, the second":  {interval: 10 * time.Second, scrape: 15 * time.Second, failed: 315 * second},
		"a scrape, a third of an evaluation, that sees it": {interval: 15 * time.Second, scrape: 5 * time.Second, failed: 300 * second},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPrometheusBy(t, rules.Options{Interval: c.interval, ScrapeInterval: c.scrape,
				Guards: []rules.Guard{orders(rules.Signals{Traffic: &rules.Traffic{ShareTolerance: 0.5}})}})
			interval, scrape := c.interval.Milliseconds(), c.scrape.Milliseconds()
			for now := int64(second); now <= 345*second; now += second {
				if now%scrape == 0 {
					p.weight(now, 10)
					p.proxies(now, map[string]float64{"orders-v1": 90})
					if now != c.failed {
						p.proxies(now, map[string]float64{"orders-v2": 10})
					} else {
						p.unscraped(now, "orders-v2")
					}
				}
				if now%interval == 0 && now != c.missed {
					p.evaluate(now)
				}
				if now%interval == 0 && now > 280*second {
					judged := len(p.query("guardian_canary:requests:per_weight", now)) == 1
					if judged == (c.failed != 0 && now >= c.failed) {
						t.Errorf("second %d: is the share judged? %v", now/second, judged)
					}
				}
			}
		})
	}
}

// TestThePortIsEqualToTheEngine runs both on the same scrapes of services that
// fail, recover, restart and move, and compares every window.
func TestThePortIsEqualToTheEngine(t *testing.T) {
	const runs = 24
	step := 1
	if testing.Short() || race {
		step = 5 // some of every kind
	}
	compared, proofs, fires := 0, 0, 0
	for run := 0; run < runs; run += step {
		w := newWorld(randomWorld(uint64(run)), uint64(run))
		p, j := newPrometheus(t, rules.Signals{ErrorRate: &rules.ErrorRate{Max: 0.01}}), newJudge(0.01)
		w.seen = p.scraped
		for now := int64(second); now <= 200*second; now += second {
			w.runTo(now)
			want, got := p.evaluate(now), j.evaluate(now, w.targets)
			if want != got {
				t.Fatalf("run %d, second %d: engine fires: %v, port: %v", run, now/second, want, got)
			}
			if want {
				fires++
			}
			ratio, known := errorRatio(now, w.targets)
			same(t, p, now, `sum(rate(istio_requests_total{destination_workload="orders-v2",response_code=~"5.*"}[1m]))
				/ sum(rate(istio_requests_total{destination_workload="orders-v2"}[1m]))`, ratio, known)
			for r, reporter := range []string{"destination", "source"} {
				for i, window := range windows {
					selector := fmt.Sprintf(`{reporter=%q,window="%s"}`, reporter, (map[int64]string{5: "5s", 15: "15s", 30: "30s", 60: "1m", 300: "5m"})[window/second])
					d := j.evidence(r, i)
					for side, name := range []string{"canary", "stable"} {
						c := j.at(r, side, i, 0)
						wide := fmt.Sprintf("{reporter=%q,guardian_side=%q}[%dms])", reporter, name, window)
						same(t, p, now, "sum_over_time(guardian_side:requests:idelta"+wide, c.all, c.ok)
						same(t, p, now, "sum_over_time(guardian_side:requests_failed:idelta"+wide+" > 0", c.bad, c.bad > 0)
					}
					same(t, p, now, "guardian_canary:requests_failed:evidence"+selector, d, d > 0)
					compared++
					if d > 0 {
						proofs++
					}
				}
			}
		}
	}
	t.Logf("%d windows compared, %d of them with proof; %d evaluations fired", compared, proofs, fires)
	if proofs < compared/100 || fires < 10 {
		t.Errorf("too little happened: %d proofs, %d evaluations fired", proofs, fires)
	}
}

// TestThePortOfTheTestForRefusedRequestsIsEqualToTheEngine does the same for
// requests that nobody took: bursts at stable, and a canary that refuses.
func TestThePortOfTheTestForRefusedRequestsIsEqualToTheEngine(t *testing.T) {
	fires, seen, step := 0, 0, 1
	if race {
		step = 3 // both kinds
	}
	for run := 0; run < 8; run += step {
		o := service([]float64{20, 200}[run%2], []float64{0.1, 0.5}[run/2%2])
		o.rough, o.changes = 10, []int64{70 * second}
		if run < 4 {
			o.canaryLost = from(70*second, 0, []float64{0.5, 1}[run/2])
		} else {
			o.lostAt, o.lost = 70*second, []int{6, 20, 60, 200}[run-4]
		}
		w := newWorld(o, uint64(run))
		p, j := newPrometheus(t, rules.Signals{Traffic: &rules.Traffic{ShareTolerance: 1}}), newJudge(0.01)
		w.seen = p.scraped
		for now := int64(second); now <= 100*second; now += second {
			p.store.add(labels.FromStrings(model.MetricNameLabel, "guardian_weight_percent", rules.LabelOwner, "microservices", "guard", "orders-service", "subset", "v2"), now, 100*o.share)
			w.runTo(now)
			p.evaluate(now)
			j.evaluate(now, w.targets)
			j.refused(now, w.targets, o.share)
			for i := range refusedWindows {
				window := fmt.Sprintf(`{reporter="source",window="%ds"}`, windows[i]/second)
				u, d := j.at(atSource, nobody, i, 0), j.blame(i, o.share)
				same(t, p, now, "guardian:requests_unreached:increase"+window, u.all, u.ok)
				same(t, p, now, "guardian_canary:requests_unreached:evidence"+window, d, d > 0)
				if u.all > 0 {
					seen++
				}
				if d > 0 {
					fires++
				}
			}
		}
	}
	if fires < 10 || seen < fires+10 {
		t.Errorf("too little happened: %d windows with refused requests, %d of them with proof", seen, fires)
	}
}

// TestARestartOfPrometheusIsNoFault lets Prometheus be away for three minutes
// under an even load, right after one of the canary's containers has restarted.
func TestARestartOfPrometheusIsNoFault(t *testing.T) {
	const every = 5 * second
	p := newPrometheusEvery(t, every*time.Millisecond, rules.Signals{
		ErrorRate: &rules.ErrorRate{Max: 0.01}, Restarts: &rules.Restarts{Max: 2, Window: 5 * time.Minute}, Traffic: &rules.Traffic{ShareTolerance: 0.5},
	})
	guardian := func(at int64) {
		p.add(at, 1, "guardian", "up")
		p.add(at, float64(at/second), "guardian", "guardian_heartbeat_timestamp_seconds", rules.LabelOwner, "microservices")
		p.weight(at, 10)
		for _, subset := range []string{"v1", "v2"} {
			restarts := 0.0
			if subset == "v2" && at > 190*second {
				restarts = 1
			}
			p.add(at, restarts, "guardian", "guardian_workload_restarts_total", rules.LabelOwner, "microservices", "guard", "orders-service", "subset", subset)
		}
	}
	for now := int64(every); now <= 800*second; now += every {
		if now > 200*second && now < 380*second {
			continue
		}
		p.proxies(now-4*second, map[string]float64{"orders-v1": 90})
		guardian(now - 3*second)
		if now != 380*second { // its first scrape comes after the first evaluation
			p.proxies(now-second, map[string]float64{"orders-v2": 10})
		}
		p.evaluate(now)
		if len(p.firing) > 0 {
			t.Errorf("second %d: %v", now/second, p.firing)
		}
	}
	if len(p.query("guardian_canary:requests:per_weight", 800*second)) == 0 || len(p.query("guardian_side:restarts:increase", 800*second)) == 0 {
		t.Error("nothing was judged")
	}
}

// proxies has scrapes of workloads' own proxies, by how many requests each gets in
// a second.
func (p *prometheus) proxies(at int64, perSecond map[string]float64) {
	for workload, n := range perSecond {
		p.add(at, 1, workload, "up")
		p.add(at, n*float64(at/second), workload, "istio_requests_total", requestsOf(workload)...)
	}
}

// unscraped has a scrape of a workload's proxy that fails.
func (p *prometheus) unscraped(at int64, workload string) {
	p.add(at, 0, workload, "up")
	p.add(at, math.Float64frombits(value.StaleNaN), workload, "istio_requests_total", requestsOf(workload)...)
}

func requestsOf(workload string) []string {
	return []string{"reporter", "destination", "destination_workload", workload, "destination_workload_namespace", "microservices", "response_code", "200"}
}

// weight has a scrape of guardian, by the canary's weight in percent.
func (p *prometheus) weight(at int64, canary float64) {
	for subset, percent := range map[string]float64{"v1": 100 - canary, "v2": canary} {
		p.add(at, percent, "guardian", "guardian_weight_percent", rules.LabelOwner, "microservices", "guard", "orders-service", "subset", subset)
	}
}

func (p *prometheus) add(at int64, f float64, job, name string, pairs ...string) {
	p.store.add(labels.FromStrings(append(slices.Clone(pairs), model.MetricNameLabel, name, "job", job, "instance", job)...), at, f)
}

func same(t *testing.T, p *prometheus, now int64, selector string, want float64, exists bool) {
	t.Helper()
	v := p.query(selector, now)
	if len(v) == 1 && math.IsNaN(v[0].F) && math.IsNaN(want) {
		return
	}
	if (len(v) == 1) != exists || exists && math.Abs(v[0].F-want) > 1e-9*max(1, math.Abs(want)) {
		t.Fatalf("second %d: %s: engine has %v, port %v (%v)", now/second, selector, v, want, exists)
	}
}

// randomWorld is a service to which something happens.
func randomWorld(seed uint64) worldOptions {
	rng := newWorld(worldOptions{}, seed+1000).rng
	from := int64(50+rng.IntN(50)) * second
	to := from + int64(20+rng.IntN(60))*second
	during := func(healthy, broken float64) func(int64) float64 {
		return func(t int64) float64 {
			if t >= from && t < to {
				return broken
			}
			return healthy
		}
	}
	pick := func(values ...float64) float64 { return values[rng.IntN(len(values))] }
	return worldOptions{
		rate: pick(5, 50, 500), share: pick(0.1, 0.5), rough: 10,
		canaryBad: during(pick(0, 0.005), pick(0.03, 0.2, 1)), stableBad: during(pick(0, 0.005), pick(0, 0, 0.02, 0.2, 1)),
		changes: []int64{from, to}, gateways: rng.IntN(3), canaries: 1 + rng.IntN(3), stables: 1 + rng.IntN(4),
	}
}

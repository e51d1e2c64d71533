package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/canary-guardian/guardian/test/controlplane"
	"github.com/canary-guardian/guardian/test/mesh"
)

// lanes is how many faults are followed at once: each is mostly waiting, and the load of more would show in the times.
const lanes = 3

// actRuns repeats fault and rollback: canary at 10% of 100 requests/s, all of its requests fail from a moment on. When a
// fault falls between two scrapes decides how long its rollback takes, so the moments are spread evenly over the scrape
// interval. Every run has a service and a guard of its own, because an alert about one canary goes on firing for minutes
// after it was rolled back.
func actRuns(ctx context.Context, s *script, o settings) error {
	s.title("%d times: a canary at 10%% of 100 requests/s fails, all of its requests, at moments spread evenly over the scrape interval", o.runs)
	p := plan{scrape: o.scrape, fast: o.fast, every: o.every}
	for i := range o.runs {
		p.apps = append(p.apps, appPlan{name: fmt.Sprintf("orders%d", i+1)})
	}
	p.apps[0].rate = 100
	st, err := s.set(ctx, p)
	if err != nil {
		return err
	}
	st.apps[0].mesh.SetRate(0)
	chains := s.repeat(ctx, st.apps, moments(o.runs, st.plan.shortest()))
	if len(chains) > 0 {
		s.title("%s", table(chains, o, st.plan.evaluation()))
	}
	return ctx.Err()
}

// moments spreads n moments evenly over an interval, in random order: whatever changes while they are tried does not
// fall on one part of it.
func moments(n int, interval time.Duration) []time.Duration {
	spread := make([]time.Duration, n)
	for i, at := range rand.Perm(n) {
		spread[i] = time.Duration((float64(at) + 0.5) / float64(n) * float64(interval))
	}
	return spread
}

// repeat breaks the apps' canaries, some at a time, each at its moment after a scrape, and returns what was seen.
func (s *script) repeat(ctx context.Context, apps []*app, moments []time.Duration) []chain {
	next := make(chan int)
	go func() {
		defer close(next)
		for i := range apps {
			select {
			case next <- i:
			case <-ctx.Done():
				return
			}
		}
	}()
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		chains []chain
	)
	for range lanes {
		wg.Go(func() {
			for i := range next {
				c, err := s.once(ctx, apps[i], moments[i])
				if err != nil {
					s.explain(ctx, apps[i])
					s.want(false, "run %d: %v", i+1, err)
					continue
				}
				s.say("run", "%2d: %s", i+1, c.split())
				mu.Lock()
				chains = append(chains, c)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return chains
}

// ready brings an app to 10% and waits until the rules count its requests.
func (s *script) ready(ctx context.Context, a *app) error {
	a.mesh.SetRate(100)
	if _, err := s.stage.ci(ctx, a, "vs-90-10.yaml"); err != nil {
		return err
	}
	if _, err := a.awaitWeights(ctx, 10, 5*time.Second); err != nil {
		return err
	}
	within := max(15*time.Second, 3*s.stage.plan.scrape)
	counted := fmt.Sprintf(`min(sum_over_time(guardian_side:requests:idelta{guardian_guard=%q,guardian_side="canary"}[%ds])) > 50`,
		a.service(), int(within.Seconds()))
	return until(ctx, 2*time.Minute, "the rules see the users' requests of "+a.service(), func(ctx context.Context) (bool, error) {
		_, ok, err := s.stage.query(ctx, counted)
		return ok, err
	})
}

// once lets an app's canary fail, a while after a scrape of its proxy, and follows its rollback.
func (s *script) once(ctx context.Context, a *app, moment time.Duration) (chain, error) {
	defer a.mesh.SetRate(0)
	if err := s.ready(ctx, a); err != nil {
		return chain{}, err
	}
	if err := untilMoment(ctx, a, moment, s.stage.plan.shortest()); err != nil {
		return chain{}, err
	}
	a.mesh.Reset()
	a.forget()
	if err := a.mesh.Behave("v2", mesh.Behaviour{ErrorRate: 1}); err != nil {
		return chain{}, err
	}
	return s.stage.follow(ctx, a, max(30*time.Second, 4*s.stage.plan.scrape), 500*time.Millisecond)
}

// untilMoment waits until it is so long since a scrape of the canary's proxy, which is scraped at this interval.
func untilMoment(ctx context.Context, a *app, moment, interval time.Duration) error {
	at := a.mesh.LastScrapeOf("v2", time.Now()).Add(moment)
	for at.Before(time.Now()) {
		at = at.Add(interval)
	}
	return pause(ctx, time.Until(at))
}

// explain prints what is known about a rollback that did not come.
func (s *script) explain(ctx context.Context, a *app) {
	r, err := s.stage.record(ctx, a)
	s.say("guardian", "%s: %s (%+v, %v)", r.Status.State, r.Status.Reason, r.Lock, err)
	alert, at, err := s.stage.firing(ctx, a)
	s.say("Prometheus", "fires: %q since %v (%v)", alert, at, err)
	for _, metric := range []string{"requests:idelta", "requests_failed:idelta"} {
		for _, side := range []string{"canary", "stable"} {
			promql := fmt.Sprintf(`max(sum_over_time(guardian_side:%s{guardian_guard=%q,guardian_side=%q}[15s]))`, metric, a.service(), side)
			v, ok, err := s.stage.query(ctx, promql)
			s.say("Prometheus", "%s: %v (%v, %v)", promql, v, ok, err)
		}
	}
	out, err := s.stage.plane.Kubectl(ctx, controlplane.Admin, namespace, "get", "virtualservice", a.service(), "-o", "jsonpath={.spec.http}")
	s.say("kubectl", "%s %v", out, err)
}

// floor is the best that a run's own scrapes and evaluations allow, beside what was.
type floor struct {
	chain
	judged    time.Time // the first scrape with which as many failed requests could be judged as it took in any run
	evaluated time.Time // the first evaluation after it
}

// floors finds the floor of each run. How many failed requests it takes is seen: the fewest with which any run's alert
// fired. Evaluations are a fixed time apart, and an alert begins to fire at one of them.
func floors(chains []chain, every time.Duration) (least int, found []floor) {
	least = math.MaxInt
	for _, c := range chains {
		least = min(least, c.seen.known(c.fired, every))
	}
	for _, c := range chains {
		f := floor{chain: c, judged: c.seen.judged(least, c.fired, every)}
		f.evaluated = c.fired.Add(-c.fired.Sub(f.judged).Truncate(every))
		found = append(found, f)
	}
	return least, found
}

// table is the median, the 95th percentile and the range of every part, and what the schedule allows.
func table(chains []chain, o settings, every time.Duration) string {
	least, all := floors(chains, every)
	parts := []struct {
		name  string
		takes func(floor) time.Duration
	}{
		{"fault → first scrape that shows a failed request", func(f floor) time.Duration { return f.scraped.Sub(f.fault) }},
		{fmt.Sprintf("fault → scrape with which %d can be judged", least), func(f floor) time.Duration { return f.judged.Sub(f.fault) }},
		{"→ the next evaluation", func(f floor) time.Duration { return f.evaluated.Sub(f.judged) }},
		{"→ the evaluation with which the alert fires", func(f floor) time.Duration { return f.fired.Sub(f.evaluated) }},
		{"→ guardian's webhook is called", func(f floor) time.Duration { return f.called.Sub(f.fired) }},
		{"→ the patch is answered", func(f floor) time.Duration { return f.patched.Sub(f.called) }},
		{"deciding scrape → weight 0", func(f floor) time.Duration { return f.patched.Sub(f.judged) }},
		{"fault → weight 0", func(f floor) time.Duration { return f.patched.Sub(f.fault) }},
		{"  floor: that scrape, evaluation and write alone", func(f floor) time.Duration { return f.evaluated.Sub(f.fault) + f.patched.Sub(f.called) }},
		{"  above the floor", func(f floor) time.Duration { return f.called.Sub(f.evaluated) }},
		{"fault → weight 0 in force in the mesh (stand-in)", func(f floor) time.Duration { return f.inMesh.Sub(f.fault) }},
	}
	var b strings.Builder
	lane := ""
	if o.fast > 0 {
		lane = fmt.Sprintf(" and %v on the fast lane", o.fast)
	}
	fmt.Fprintf(&b, "%-52s %8s %8s %8s %8s   (seconds, %d runs, scrape %v%s, evaluation %v)", "", "median", "95th", "least", "most", len(chains), o.scrape, lane, every)
	for _, p := range parts {
		var seconds []float64
		for _, f := range all {
			seconds = append(seconds, p.takes(f).Seconds())
		}
		slices.Sort(seconds)
		fmt.Fprintf(&b, "\n%-52s %8.3f %8.3f %8.3f %8.3f", p.name, quantile(seconds, 0.5), quantile(seconds, 0.95), seconds[0], seconds[len(seconds)-1])
	}
	return b.String()
}

// quantile is that of sorted values, between the two nearest where it falls between them.
func quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	below := int(at)
	if below+1 == len(sorted) {
		return sorted[below]
	}
	return sorted[below] + (at-float64(below))*(sorted[below+1]-sorted[below])
}

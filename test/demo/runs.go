package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/canary-guardian/guardian/test/controlplane"
	"github.com/canary-guardian/guardian/test/mesh"
)

// actRuns repeats fault and rollback: canary at 10% of 100 requests/s, all of its requests fail from a random moment of
// the scrape interval on. Every run has a service and a guard of its own, because an alert about one canary goes on
// firing for minutes after it was rolled back.
func actRuns(ctx context.Context, s *script, o settings) error {
	s.title("%d times: a canary at 10%% of 100 requests/s fails, all of its requests, at a random moment", o.runs)
	p := plan{scrape: o.scrape, fast: o.fast}
	for i := range o.runs {
		p.apps = append(p.apps, appPlan{name: fmt.Sprintf("orders%d", i+1)})
	}
	p.apps[0].rate = 100
	st, err := s.set(ctx, p)
	if err != nil {
		return err
	}
	var chains []chain
	for i, a := range st.apps {
		if err := s.ready(ctx, a); err != nil {
			return err
		}
		if i+1 < len(st.apps) { // warms up meanwhile
			st.apps[i+1].mesh.SetRate(100)
		}
		c, err := s.once(ctx, a)
		a.mesh.SetRate(0)
		if err != nil {
			s.explain(ctx, a)
			s.want(false, "run %d: %v", i+1, err)
			continue
		}
		chains = append(chains, c)
		s.say("run", "%2d: %s", i+1, c.split())
	}
	if len(chains) > 0 {
		s.title("%s", table(chains, o))
	}
	return ctx.Err()
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
	counted := fmt.Sprintf(`min(sum_over_time(guardian_side:requests:idelta{guardian_guard=%q,guardian_side="canary"}[15s])) > 50`, a.service())
	err := until(ctx, time.Minute, "the rules see the users' requests of "+a.service(), func(ctx context.Context) (bool, error) {
		_, ok, err := s.stage.query(ctx, counted)
		return ok, err
	})
	if err != nil {
		return err
	}
	return pause(ctx, rand.N(s.stage.plan.scrape))
}

// once lets an app's canary fail and follows its rollback.
func (s *script) once(ctx context.Context, a *app) (chain, error) {
	a.mesh.Reset()
	a.forget()
	if err := a.mesh.Behave("v2", mesh.Behaviour{ErrorRate: 1}); err != nil {
		return chain{}, err
	}
	return s.stage.follow(ctx, a, 30*time.Second, 500*time.Millisecond)
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

// table is the median and the range of every part.
func table(chains []chain, o settings) string {
	parts := []struct {
		name     string
		from, to func(chain) time.Time
	}{
		{"fault → first scrape that shows a failed request", func(c chain) time.Time { return c.fault }, func(c chain) time.Time { return c.scraped }},
		{"→ scrape with which the rules know enough", func(c chain) time.Time { return c.scraped }, func(c chain) time.Time { return c.decided }},
		{"→ the alert fires (evaluation)", func(c chain) time.Time { return c.decided }, func(c chain) time.Time { return c.fired }},
		{"→ guardian's webhook is called", func(c chain) time.Time { return c.fired }, func(c chain) time.Time { return c.called }},
		{"→ the patch is answered", func(c chain) time.Time { return c.called }, func(c chain) time.Time { return c.patched }},
		{"fault → weight 0", func(c chain) time.Time { return c.fault }, func(c chain) time.Time { return c.patched }},
		{"fault → weight 0 in force in the mesh (stand-in)", func(c chain) time.Time { return c.fault }, func(c chain) time.Time { return c.inMesh }},
	}
	var b strings.Builder
	lane := ""
	if o.fast > 0 {
		lane = fmt.Sprintf(" and %v on the fast lane", o.fast)
	}
	fmt.Fprintf(&b, "%-52s %8s %8s %8s   (seconds, %d runs, scrape %v%s, evaluation %v)", "", "median", "least", "most", len(chains), o.scrape, lane, plan{fast: o.fast}.evaluation())
	for _, p := range parts {
		var all []float64
		for _, c := range chains {
			all = append(all, p.to(c).Sub(p.from(c)).Seconds())
		}
		slices.Sort(all)
		fmt.Fprintf(&b, "\n%-52s %8.3f %8.3f %8.3f", p.name, (all[(len(all)-1)/2]+all[len(all)/2])/2, all[0], all[len(all)-1])
	}
	return b.String()
}

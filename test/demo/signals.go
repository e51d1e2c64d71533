package main

import (
	"context"
	"fmt"
	"time"

	"github.com/canary-guardian/guardian/test/controlplane"
	"github.com/canary-guardian/guardian/test/mesh"
)

// trouble is one way in which a canary is broken, and the signal that has to notice it.
type trouble struct {
	app, signal, what string
	begin             func(context.Context, *script, *app) error
}

func troubles() []trouble {
	behave := func(b mesh.Behaviour) func(context.Context, *script, *app) error {
		return func(_ context.Context, _ *script, a *app) error { return a.mesh.Behave("v2", b) }
	}
	return []trouble{
		{"orders", "error_rate", "one in five requests fails", behave(mesh.Behaviour{ErrorRate: 0.2})},
		{"carts", "latency", "half of the requests take 800 ms longer; none fails", behave(mesh.Behaviour{SlowShare: 0.5, Slow: 800 * time.Millisecond})},
		{"stock", "restarts", "the containers crash again and again; no request fails", crashes},
		{"parcels", "traffic", "connections are refused", behave(mesh.Behaviour{Refuse: true})},
	}
}

// crashes crashes a pod of the canary once a second until the rules' limit of two is well exceeded.
func crashes(ctx context.Context, s *script, a *app) error {
	for range 4 {
		if err := mesh.Crash(ctx, s.stage.kube, namespace, "app="+a.name+",version=v2"); err != nil {
			return err
		}
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
	return nil
}

// healthyRate is the canary's share of the users' requests per second in the app that nothing is wrong with.
const healthyRate, healthyErrors = 2, 0.005

// actSignals breaks four canaries in four ways, one after the other, and leaves a fifth one alone.
func actSignals(ctx context.Context, s *script, o settings) error {
	s.title("Four faults, each noticed by its own signal; and a healthy canary that stays")
	p := plan{scrape: o.scrape, fast: o.fast, apps: []appPlan{{"healthy", healthyRate * 10}}}
	for _, t := range troubles() {
		p.apps = append(p.apps, appPlan{name: t.app})
	}
	st, err := s.set(ctx, p)
	if err != nil {
		return err
	}
	healthy := st.apps[0]
	if err := healthy.mesh.Behave("v2", mesh.Behaviour{ErrorRate: healthyErrors}); err != nil {
		return err
	}
	if err := s.shift(ctx, healthy, "vs-90-10.yaml", 10); err != nil {
		return err
	}
	began := time.Now()
	s.say("users", "the healthy canary gets %d requests/s, of which %.1f%% fail (limit 1%%), for %v", healthyRate, 100*healthyErrors, o.healthy)
	for i, t := range troubles() {
		if err := s.endure(ctx, st.apps[i+1], t); err != nil {
			return err
		}
	}
	return s.stays(ctx, healthy, o.healthy-time.Since(began))
}

// endure breaks one canary and wants it rolled back by its signal.
func (s *script) endure(ctx context.Context, a *app, t trouble) error {
	s.clear()
	s.title("%s: %s", t.signal, t.what)
	a.mesh.SetRate(100)
	if err := s.shift(ctx, a, "vs-90-10.yaml", 10); err != nil {
		return err
	}
	counted := fmt.Sprintf(`min(sum_over_time(guardian_side:requests:idelta{guardian_guard=%q,guardian_side="canary"}[15s])) > 50`, a.service())
	err := until(ctx, time.Minute, "the rules see the users' requests", func(ctx context.Context) (bool, error) {
		_, ok, err := s.stage.query(ctx, counted)
		return ok, err
	})
	if err != nil {
		return err
	}
	a.mesh.Reset()
	a.forget()
	began := time.Now()
	if err := t.begin(ctx, s, a); err != nil {
		return err
	}
	s.failed(began)
	at, err := a.awaitWeights(ctx, 0, time.Minute)
	if err != nil {
		s.explain(ctx, a)
		s.want(false, "%s: %v", t.signal, err)
		a.mesh.SetRate(0)
		return ctx.Err()
	}
	s.sayAt(at, "mesh", "v1 100%%  v2 0%% in force")
	r, err := s.stage.record(ctx, a)
	if err != nil {
		return err
	}
	users := a.mesh.Counts()
	s.say("users", "%d of %d requests failed since", users.Failed, users.Sent)
	a.mesh.SetRate(0)
	if r.Lock == nil {
		s.want(false, "%s: rolled back without a lock", t.signal)
		return nil
	}
	s.say("guardian", "signal %s: %s", r.Lock.Signal, r.Lock.Reason)
	s.want(r.Lock.Signal == t.signal, "%s was rolled back by signal %s", t.what, r.Lock.Signal)
	return nil
}

// stays wants a canary to keep its weight for the rest of its time.
func (s *script) stays(ctx context.Context, a *app, left time.Duration) error {
	s.clear()
	s.title("The healthy canary")
	if left > 0 {
		s.say("users", "%v to go", left.Round(time.Second))
		if err := pause(ctx, left); err != nil {
			return err
		}
	}
	r, err := s.stage.record(ctx, a)
	if err != nil {
		return err
	}
	weights, err := s.stage.plane.Kubectl(ctx, controlplane.Admin, namespace, "get", "virtualservice", a.service(), "-o", "jsonpath={.spec.http[0].route[1].weight}")
	if err != nil {
		return err
	}
	users := a.mesh.Counts()
	s.say("users", "%d requests went to the healthy canary; %d of all %d failed", users.ByVersion["v2"], users.Failed, users.Sent)
	s.say("guardian", "%s: %s", r.Status.State, r.Status.Reason)
	s.want(r.Lock == nil && weights == "10", "the healthy canary has weight %s and lock %+v", weights, r.Lock)
	return nil
}

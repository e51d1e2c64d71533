package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/canary-guardian/guardian/test/controlplane"
	"github.com/canary-guardian/guardian/test/mesh"
)

// ladder are the steps of the act.
var ladder = []int{10, 30, 50, 100}

const (
	stepInterval   = 15 * time.Second
	rollbackWindow = 20 * time.Second // after 100%; half an hour unless somebody says otherwise
)

// actPromotion lets guardian itself go forward: it climbs, its leader is killed, Prometheus is stopped, the canary
// degrades, and a new build climbs to the end, with a pause on the way, and is there to stay.
func actPromotion(ctx context.Context, s *script, o settings) error {
	s.title("guardian goes forward by itself: %v%%, %v a step, two replicas", ladder, stepInterval)
	st, err := s.set(ctx, plan{
		apps: []appPlan{{"orders", 50}}, scrape: o.scrape, fast: o.fast, replicas: 2,
		guard: map[string]any{"promotion": map[string]any{
			"mode": "auto", "steps": ladder, "interval": stepInterval.String(), "minRequests": 30,
		}, "rollback": map[string]any{"window": rollbackWindow.String()}},
	})
	if err != nil {
		return err
	}
	a := st.apps[0]
	if err := st.awake(ctx); err != nil {
		return err
	}
	s.want(a.mesh.Weights()["v2"] == 0, "the build that was there at first sight got %d%%", a.mesh.Weights()["v2"])
	s.say("guardian", "first sight: the build that is there is only recorded, v2 has 0%%")
	for _, next := range []func(context.Context, *script, *app) error{climbAndKill, stopPrometheus, degrade, climbToTheEnd, bake} {
		if err := next(ctx, s, a); err != nil {
			return err
		}
	}
	return nil
}

// climb waits for the next step and checks that none was skipped. What guardian waits for is printed.
func (s *script) climb(ctx context.Context, a *app, to int, most time.Duration) error {
	waiting := ""
	deadline := time.After(most)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case c := <-a.changes:
			s.sayAt(c.at, "mesh", "v1 %3d%%  v2 %3d%%", c.weights["v1"], c.weights["v2"])
			if c.weights["v2"] == to {
				return nil
			}
			return fmt.Errorf("a step to %d%%, and the next one was to be to %d%%", c.weights["v2"], to)
		case <-tick.C:
			r, err := s.stage.record(ctx, a)
			// Of 'waiting: 12 of 30 requests' and 'until …' only the kind is news.
			if kind := strings.Map(withoutDigits, r.Status.Waiting); err == nil && kind != waiting && kind != "" {
				waiting = kind
				s.say("guardian", "%s", r.Status.Waiting)
			}
		case <-deadline:
			return fmt.Errorf("no step to %d%% within %v; guardian is %s", to, most, waiting)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func withoutDigits(r rune) rune {
	if r >= '0' && r <= '9' {
		return -1
	}
	return r
}

// climbAndKill climbs to 30% and kills the leader on the way.
func climbAndKill(ctx context.Context, s *script, a *app) error {
	s.title("A new build of v2: guardian climbs. At 10%% its leader is killed (kill -9)")
	a.forget()
	if err := s.release(ctx, a, "2.1"); err != nil {
		return err
	}
	if err := s.climb(ctx, a, 10, 2*time.Minute); err != nil {
		return err
	}
	leader, ok := s.stage.leader(ctx)
	if !ok {
		return fmt.Errorf("no replica holds the lease")
	}
	leader.process.Kill()
	s.say("demo", "kill -9 %s, which held the lease", leader.name)
	if err := s.climb(ctx, a, 30, 2*time.Minute); err != nil {
		return err
	}
	other, ok := s.stage.leader(ctx)
	s.want(ok && other != leader, "no other replica holds the lease")
	if ok {
		s.say("guardian", "%s holds the lease now; no step was skipped or taken twice", other.name)
	}
	return nil
}

// leader is the replica that holds the lease for going forward.
func (st *stage) leader(ctx context.Context) (*guardian, bool) {
	for _, g := range st.guardians {
		body, err := get(ctx, "http://"+g.metrics+"/metrics")
		if err == nil && strings.Contains(string(body), "\nguardian_leader{guardian_namespace=\""+namespace+"\"} 1") {
			return g, true
		}
	}
	return nil, false
}

// stopPrometheus shows that guardian waits without Prometheus, with the reason, and goes on with it.
func stopPrometheus(ctx context.Context, s *script, a *app) error {
	s.title("Prometheus is stopped: guardian waits")
	s.stage.prometheus.Stop()
	s.say("demo", "Prometheus stopped")
	err := until(ctx, time.Minute, "guardian waits because Prometheus does not answer", func(ctx context.Context) (bool, error) {
		r, err := s.stage.record(ctx, a)
		if err == nil && strings.Contains(r.Status.Waiting, "answer") {
			s.say("guardian", "%s", wrap(r.Status.Waiting, 100))
			return true, nil
		}
		return false, err
	})
	if err != nil {
		return err
	}
	if err := pause(ctx, stepInterval); err != nil {
		return err
	}
	s.want(a.mesh.Weights()["v2"] == 30, "without Prometheus v2 went from 30%% to %d%%", a.mesh.Weights()["v2"])
	if err := s.stage.prometheus.Restart(ctx); err != nil {
		return err
	}
	s.say("demo", "Prometheus started again")
	return s.climb(ctx, a, 50, 2*time.Minute)
}

// degrade lets a tenth of v2's requests fail.
func degrade(ctx context.Context, s *script, a *app) error {
	s.title("At 50%% v2 degrades: every tenth request fails (seconds since the first failed request)")
	if err := s.stage.awake(ctx); err != nil {
		return err
	}
	a.mesh.Reset()
	a.forget()
	if err := a.mesh.Behave("v2", mesh.Behaviour{ErrorRate: 0.1}); err != nil {
		return err
	}
	c, err := s.stage.follow(ctx, a, time.Minute, time.Second)
	if err != nil {
		s.explain(ctx, a)
		return err
	}
	s.failed(c.fault)
	c.print(s)
	s.say("", "%s", c.split())
	return nil
}

// climbToTheEnd deploys a new build, which guardian brings to 100%.
func climbToTheEnd(ctx context.Context, s *script, a *app) error {
	s.clear()
	s.title("A new build of v2 climbs to the end")
	a.forget()
	if err := s.release(ctx, a, "2.2"); err != nil {
		return err
	}
	a.mesh.Reset()
	for i, to := range ladder {
		most := time.Minute
		if i == 0 {
			most = 8 * time.Minute // the alert about the build before goes on firing while its failures are in a window
		}
		if err := s.climb(ctx, a, to, most); err != nil {
			return err
		}
		if i == 0 {
			if err := s.pauseAndResume(ctx, a, to); err != nil {
				return err
			}
		}
	}
	if err := pause(ctx, 2*time.Second); err != nil {
		return err
	}
	r, err := s.stage.record(ctx, a)
	if err != nil {
		return err
	}
	users := a.mesh.Counts()
	s.say("guardian", "%s: %s", r.Status.State, r.Status.Reason)
	s.say("users", "%d of %d requests failed since the new build", users.Failed, users.Sent)
	s.want(r.Status.State == "promoted", "the guard is %s, and was to be promoted", r.Status.State)
	s.want(users.Failed == 0, "%d of %d requests failed with the new build", users.Failed, users.Sent)
	return nil
}

// pauseAndResume has a person stop guardian for longer than a step takes.
func (s *script) pauseAndResume(ctx context.Context, a *app, at int) error {
	if err := s.person(ctx, "pause", a, "looking at the logs first"); err != nil {
		return err
	}
	if err := pause(ctx, stepInterval+5*time.Second); err != nil {
		return err
	}
	r, err := s.stage.record(ctx, a)
	if err != nil {
		return err
	}
	s.say("guardian", "%s: %s", r.Status.State, r.Status.Waiting)
	s.want(r.Status.State == "paused" && r.Status.WaitingFor == "pause", "the guard is %s and waits for %q, and was to be paused", r.Status.State, r.Status.WaitingFor)
	s.want(a.mesh.Weights()["v2"] == at, "while paused v2 went from %d%% to %d%%", at, a.mesh.Weights()["v2"])
	return s.person(ctx, "resume", a, "the logs are fine")
}

// person runs one of guardian's commands with a person's own rights.
func (s *script) person(ctx context.Context, command string, a *app, reason string) error {
	kubeconfig, err := s.stage.plane.Kubeconfig(controlplane.Admin, namespace)
	if err != nil {
		return err
	}
	out, err := s.stage.guardian(ctx, command, a.service(), "-n", namespace, "--reason", reason, "--kubeconfig", kubeconfig)
	if err != nil {
		return err
	}
	s.say("person", "guardian %s %s --reason %q\n%s", command, a.service(), reason, out)
	return nil
}

// bake waits until the rollback window is over: from then on v1 may go, and no alert rolls back any more.
func bake(ctx context.Context, s *script, a *app) error {
	s.title("The rollback window of %v passes", rollbackWindow)
	err := until(ctx, time.Minute, "the guard is completed", func(ctx context.Context) (bool, error) {
		r, err := s.stage.record(ctx, a)
		if err != nil || r.Status.State != "completed" {
			return false, err
		}
		s.say("guardian", "%s: %s", r.Status.State, r.Status.Reason)
		promoted := r.Status.CompletedAt.Sub(r.Status.PromotedAt)
		s.want(promoted >= rollbackWindow, "completed after %v, the window is %v", promoted, rollbackWindow)
		return true, nil
	})
	if err != nil {
		return err
	}
	s.want(a.mesh.Weights()["v2"] == 100, "v2 has %d%%", a.mesh.Weights()["v2"])
	return nil
}

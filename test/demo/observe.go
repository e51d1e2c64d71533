package main

import (
	"context"
	"path/filepath"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"

	"github.com/canary-guardian/guardian/test/controlplane"
	"github.com/canary-guardian/guardian/test/mesh"
)

// actObserve begins as the docs recommend: guardian tells what it would do, without the right to do it, and enforces later.
func actObserve(ctx context.Context, s *script, o settings) error {
	s.title("guardian observes: it tells what it would do")
	st, err := s.set(ctx, plan{apps: []appPlan{{"orders", 100}}, scrape: o.scrape, fast: o.fast, guard: map[string]any{"mode": "observe"}})
	if err != nil {
		return err
	}
	a := st.apps[0]
	if err := s.mayPatch(ctx, false); err != nil {
		return err
	}
	if err := s.shift(ctx, a, "vs-90-10.yaml", 10); err != nil {
		return err
	}
	if err := st.awake(ctx); err != nil {
		return err
	}
	for _, next := range []func(context.Context, *script, *app) error{wouldRollBack, shiftOn, enforce, slowBuild} {
		if err := next(ctx, s, a); err != nil {
			return err
		}
	}
	return nil
}

// mayPatch gives or takes guardian's right to change VirtualServices, as the chart does by the guards' mode.
func (s *script) mayPatch(ctx context.Context, may bool) error {
	verbs, what := `["get","list","watch"]`, "has no right to change a VirtualService"
	if may {
		verbs, what = `["get","list","watch","patch"]`, "may change VirtualServices from now on"
	}
	patch := `[{"op":"test","path":"/rules/0/resources","value":["virtualservices"]},{"op":"replace","path":"/rules/0/verbs","value":` + verbs + `}]`
	_, err := s.stage.plane.Kubectl(ctx, controlplane.Admin, namespace, "patch", "role", "guardian", "--type=json", "-p", patch)
	if err == nil {
		s.say("admin", "guardian %s", what)
	}
	return err
}

// wouldRollBack lets v2 fail and reads what guardian tells.
func wouldRollBack(ctx context.Context, s *script, a *app) error {
	s.title("v2 starts to answer every request with 500 (seconds since the first failed request)")
	before, err := s.stage.virtualService(ctx, a)
	if err != nil {
		return err
	}
	if err := s.fail(a); err != nil {
		return err
	}
	r, err := s.recorded(ctx, a, 30*time.Second, "guardian tells of a would-be rollback", func(r record) bool {
		return r.Status.Observing != nil && r.Status.Observing.Would != nil
	})
	if err != nil {
		return err
	}
	s.want(r.Lock == nil, "guardian has written a lock: %+v", r.Lock)
	err = until(ctx, time.Minute, "GuardianWouldHaveRolledBack fires", func(ctx context.Context) (bool, error) {
		_, fires, err := s.stage.query(ctx, `ALERTS{alertname="GuardianWouldHaveRolledBack",alertstate="firing"}`)
		return fires, err
	})
	if err != nil {
		return err
	}
	s.say("Prometheus", "GuardianWouldHaveRolledBack fires")
	after, err := s.stage.virtualService(ctx, a)
	if err != nil {
		return err
	}
	s.untouched(before, after)
	return s.counted(ctx, 1, 0)
}

// fail has v2 fail and the clock of the script begin.
func (s *script) fail(a *app) error {
	a.mesh.Reset()
	a.forget()
	if err := a.mesh.Behave("v2", mesh.Behaviour{ErrorRate: 1}); err != nil {
		return err
	}
	s.failed(time.Now())
	return nil
}

// untouched wants a VirtualService to be what it was, and no field of it to be guardian's.
func (s *script) untouched(before, after *unstructured.Unstructured) {
	s.want(before.GetResourceVersion() == after.GetResourceVersion(), "the VirtualService went from version %s to %s", before.GetResourceVersion(), after.GetResourceVersion())
	own := slices.ContainsFunc(after.GetManagedFields(), func(f metav1.ManagedFieldsEntry) bool {
		return f.Manager == "guardian" || f.Manager == "guardian-promotion"
	})
	s.want(!own, "guardian owns fields of the VirtualService: %v", after.GetManagedFields())
	s.say("API server", "VirtualService %s is unchanged, version %s", after.GetName(), after.GetResourceVersion())
}

// counted waits for guardian's counters to say so.
func (s *script) counted(ctx context.Context, would, done float64) error {
	return until(ctx, 30*time.Second, "the counters of rollbacks", func(ctx context.Context) (bool, error) {
		told, _, err := s.stage.query(ctx, `sum(guardian_would_rollbacks_total)`)
		if err != nil {
			return false, err
		}
		moved, _, err := s.stage.query(ctx, `sum(guardian_rollbacks_total)`)
		return told == would && moved == done, err
	})
}

// shiftOn is the pipeline that carries on: nothing is refused, and nothing told again.
func shiftOn(ctx context.Context, s *script, a *app) error {
	s.title("The pipeline carries on, and nothing stands in its way")
	if err := s.shift(ctx, a, "vs-70-30.yaml", 30); err != nil {
		return err
	}
	before, err := s.stage.virtualService(ctx, a)
	if err != nil {
		return err
	}
	if err := pause(ctx, 5*time.Second); err != nil {
		return err
	}
	after, err := s.stage.virtualService(ctx, a)
	if err != nil {
		return err
	}
	s.untouched(before, after)
	return s.counted(ctx, 1, 0)
}

// enforce switches the mode by guardian's file, while the alert fires.
func enforce(ctx context.Context, s *script, a *app) error {
	s.title("mode: enforce, while the alert fires: nothing happens for what is past")
	st := s.stage
	if err := s.mayPatch(ctx, true); err != nil {
		return err
	}
	before, err := st.virtualService(ctx, a)
	if err != nil {
		return err
	}
	st.plan.guard = map[string]any{"mode": "enforce"}
	for _, g := range st.guardians {
		if err := st.writeConfig(filepath.Join(st.plane.Dir(), g.name+".yaml"), g); err != nil {
			return err
		}
	}
	err = until(ctx, 30*time.Second, "the guard enforces", func(ctx context.Context) (bool, error) {
		r, err := st.record(ctx, a)
		return r.Status.Observing == nil && !r.Status.EnforcedAt.IsZero(), err
	})
	if err != nil {
		return err
	}
	if err := pause(ctx, 8*time.Second); err != nil {
		return err
	}
	r, err := st.record(ctx, a)
	if err != nil {
		return err
	}
	s.say("guardian", "%s: %s", r.Status.State, r.Status.Reason)
	s.want(r.Status.State == "held" && r.Lock == nil, "the state is %s, locked: %v; want held, and no lock", r.Status.State, r.Lock != nil)
	after, err := st.virtualService(ctx, a)
	if err != nil {
		return err
	}
	s.untouched(before, after)
	return nil
}

// slowBuild deploys a build that is slow, while the alert about the one before still fires: that one is of the past, and
// what begins now rolls back.
func slowBuild(ctx context.Context, s *script, a *app) error {
	s.title("A new build answers, and takes 800 ms longer for it: an alert that begins now rolls back")
	if err := s.release(ctx, a, "2.1"); err != nil {
		return err
	}
	a.forget()
	if err := a.mesh.Behave("v2", mesh.Behaviour{SlowShare: 1, Slow: 800 * time.Millisecond}); err != nil {
		return err
	}
	at, err := a.awaitWeights(ctx, 0, 2*time.Minute)
	if err != nil {
		s.explain(ctx, a)
		return err
	}
	s.sayAt(at, "mesh", "v1 100%%  v2 0%% in force")
	err = until(ctx, 20*time.Second, "guardian says that the rollback is done", func(ctx context.Context) (bool, error) {
		r, err := s.stage.record(ctx, a)
		return r.Status.State == "rolled-back", err
	})
	if err != nil {
		return err
	}
	r, err := s.stage.record(ctx, a)
	if err != nil {
		return err
	}
	s.want(r.Lock != nil && r.Lock.Signal == "latency", "the lock is %+v, want one by signal latency", r.Lock)
	s.say("guardian", "%s: %s", r.Status.State, r.Status.Reason)
	return s.counted(ctx, 0, 1) // a guard that enforces counts what it has done alone
}

// virtualService reads an app's VirtualService from the API server.
func (st *stage) virtualService(ctx context.Context, a *app) (*unstructured.Unstructured, error) {
	client, err := dynamic.NewForConfig(st.plane.RESTConfig(controlplane.Admin))
	if err != nil {
		return nil, err
	}
	return client.Resource(controlplane.VirtualServices).Namespace(namespace).Get(ctx, a.service(), metav1.GetOptions{})
}

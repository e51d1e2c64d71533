package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/test/controlplane"
	"github.com/canary-guardian/guardian/test/mesh"
)

// actRollback is the default act.
func actRollback(ctx context.Context, s *script, o settings) error {
	s.title("A canary fails, guardian rolls it back")
	st, err := s.set(ctx, plan{apps: []appPlan{{"orders", 100}}, scrape: o.scrape, fast: o.fast})
	if err != nil {
		return err
	}
	a := st.apps[0]
	s.title("The pipeline shifts traffic to v2 (real kubectl, user ci)")
	for _, step := range []struct {
		canary int
		file   string
	}{{0, "vs-100-0.yaml"}, {10, "vs-90-10.yaml"}, {30, "vs-70-30.yaml"}} {
		if err := s.shift(ctx, a, step.file, step.canary); err != nil {
			return err
		}
		if step.canary == 10 {
			if err := st.awake(ctx); err != nil {
				return err
			}
		}
		if err := pause(ctx, 3*time.Second); err != nil {
			return err
		}
	}
	for _, next := range []func(context.Context, *script, *app) error{breakAndFollow, carryOn, refuseWithPolicy, repair} {
		if err := next(ctx, s, a); err != nil {
			return err
		}
	}
	return nil
}

// shift applies one of the article's manifests and waits until the mesh has it.
func (s *script) shift(ctx context.Context, a *app, file string, canary int) error {
	out, err := s.stage.ci(ctx, a, file)
	if err != nil {
		return err
	}
	if _, err := a.awaitWeights(ctx, canary, 5*time.Second); err != nil {
		return err
	}
	s.say("ci", "kubectl apply -f %-14s v1 %3d%%  v2 %3d%%   (%s)", file, 100-canary, canary, out)
	return nil
}

// breakAndFollow lets v2 fail and follows the chain.
func breakAndFollow(ctx context.Context, s *script, a *app) error {
	s.title("v2 starts to answer every request with 500 (seconds since the first failed request)")
	a.mesh.Reset()
	a.forget()
	if err := a.mesh.Behave("v2", mesh.Behaviour{ErrorRate: 1}); err != nil {
		return err
	}
	c, err := s.stage.follow(ctx, a, 30*time.Second, time.Second)
	if err != nil {
		s.explain(ctx, a)
		return err
	}
	s.failed(c.fault)
	c.print(s)
	s.say("", "%s", c.split())
	r, err := s.stage.record(ctx, a)
	if err != nil {
		return err
	}
	s.want(r.Lock != nil, "guardian has written no lock")
	if r.Lock != nil {
		s.say("guardian", "locked: %s", r.Lock.Reason)
	}
	s.want(a.mesh.Counts().LastFailed.Equal(c.lastFailed), "requests still fail after the rollback")
	return nil
}

// carryOn is the pipeline that knows of nothing and shifts on.
func carryOn(ctx context.Context, s *script, a *app) error {
	s.title("The pipeline knows nothing of it and carries on")
	a.mesh.Reset()
	out, err := s.stage.ci(ctx, a, "vs-50-50.yaml")
	if err != nil {
		return err
	}
	applied := time.Now()
	s.say("ci", "kubectl apply -f vs-50-50.yaml  %s", out)
	err = until(ctx, 10*time.Second, "guardian puts the traffic back", func(context.Context) (bool, error) {
		_, ok := s.stage.logged(applied.Add(-time.Second), func(l logLine) bool { return l.Msg == "traffic moved to stable" })
		return ok, nil
	})
	if err != nil {
		return err
	}
	l, _ := s.stage.logged(applied.Add(-time.Second), func(l logLine) bool { return l.Msg == "traffic moved to stable" })
	s.sayAt(l.Time, "guardian", "v2 is locked: traffic put back to v1 100%%  v2 0%%")
	if err := pause(ctx, time.Second); err != nil {
		return err
	}
	c := a.mesh.Counts()
	s.say("users", "%d of %d requests failed meanwhile", c.Failed, c.Sent)
	s.want(a.mesh.Weights()["v2"] == 0, "v2 has %d%% of the traffic while it is locked", a.mesh.Weights()["v2"])
	return nil
}

// refuseWithPolicy lets the API server itself say no.
func refuseWithPolicy(ctx context.Context, s *script, a *app) error {
	s.title("With the admission policy the pipeline hears of it")
	st := s.stage
	printed, err := st.guardian(ctx, "admission")
	if err != nil {
		return err
	}
	if err := st.applyText(ctx, "admission.yaml", printed); err != nil {
		return err
	}
	s.say("admin", "guardian admission | kubectl apply -f -")
	err = until(ctx, 20*time.Second, "the policies are in force", func(ctx context.Context) (bool, error) {
		// To take off a lock is nothing that a dry run has to be held for.
		_, err := st.plane.Kubectl(ctx, controlplane.CI, namespace, "annotate", "--dry-run=server", "virtualservice", a.service(), lockKey(a)+"-")
		return err != nil && strings.Contains(err.Error(), "guardian"), nil
	})
	if err != nil {
		return err
	}
	_, err = st.ci(ctx, a, "vs-50-50.yaml")
	s.want(err != nil, "the API server took vs-50-50.yaml although v2 is locked")
	if err != nil {
		refusal := err.Error()
		if _, printed, ok := strings.Cut(refusal, "exit status 1: "); ok {
			refusal = printed
		}
		s.say("ci", "kubectl apply -f vs-50-50.yaml  is refused, exit status 1:\n%s", wrap(refusal, 100))
	}
	return nil
}

// repair deploys a new build, and the pipeline goes to the end.
func repair(ctx context.Context, s *script, a *app) error {
	s.title("A new build of v2 is deployed, and the pipeline goes on")
	if err := s.release(ctx, a, "2.1"); err != nil {
		return err
	}
	if err := s.unlocked(ctx, a); err != nil {
		return err
	}
	a.mesh.Reset()
	for _, step := range []struct {
		canary int
		file   string
	}{{50, "vs-50-50.yaml"}, {100, "vs-0-100.yaml"}} {
		if err := s.shift(ctx, a, step.file, step.canary); err != nil {
			return err
		}
		if err := pause(ctx, 2*time.Second); err != nil {
			return err
		}
	}
	before := a.mesh.Counts().ByVersion["v1"]
	if err := pause(ctx, time.Second); err != nil {
		return err
	}
	c := a.mesh.Counts()
	s.say("users", "%d of %d requests failed since; all go to v2", c.Failed, c.Sent)
	s.want(c.Failed == 0, "%d of %d requests failed with the new build", c.Failed, c.Sent)
	s.want(c.ByVersion["v1"] == before && c.ByVersion["v2"] > 0, "v1 still gets requests: %v", c.ByVersion)
	r, err := s.stage.record(ctx, a)
	if err != nil {
		return err
	}
	s.want(r.Lock == nil, "the new build is locked: %+v", r.Lock)
	s.say("guardian", "%s: %s", r.Status.State, r.Status.Reason)
	return nil
}

// release deploys a healthy build of v2 and waits, as a pipeline should, until it is rolled out.
func (s *script) release(ctx context.Context, a *app, version string) error {
	st := s.stage
	image := fmt.Sprintf("app=registry.example/%s:%s", a.service(), version)
	out, err := st.plane.Kubectl(ctx, controlplane.CI, namespace, "set", "image", "deployment/"+a.name+"-v2", image)
	if err != nil {
		return err
	}
	s.say("ci", "kubectl set image deployment/%s-v2 %s  (%s)", a.name, image, strings.TrimSpace(out))
	if err := a.mesh.Behave("v2", mesh.Behaviour{}); err != nil {
		return err
	}
	if err := st.plane.Settle(ctx, namespace); err != nil {
		return err
	}
	if _, err := st.plane.Kubectl(ctx, controlplane.CI, namespace, "rollout", "status", "deployment/"+a.name+"-v2", "--timeout=10s"); err != nil {
		return err
	}
	s.say("ci", "kubectl rollout status: the new pods are the ready ones")
	return nil
}

// unlocked waits until the lock is lifted, also for the admission policies.
func (s *script) unlocked(ctx context.Context, a *app) error {
	err := until(ctx, 20*time.Second, "the lock is lifted by the new build", func(ctx context.Context) (bool, error) {
		r, err := s.stage.record(ctx, a)
		return err == nil && r.Lock == nil, err
	})
	if err != nil {
		return err
	}
	s.say("guardian", "lock lifted: the build is new and ready")
	return until(ctx, 10*time.Second, "the VirtualService tells of no lock any more", func(ctx context.Context) (bool, error) {
		out, err := s.stage.plane.Kubectl(ctx, controlplane.CI, namespace, "get", "virtualservice", a.service(), "-o", "jsonpath={.metadata.annotations}")
		return err == nil && !strings.Contains(out, lockKey(a)), err
	})
}

// lockKey is the annotation by which a VirtualService tells of its lock.
func lockKey(a *app) string { return decision.AnnotationLock + a.service() }

// wrap breaks a text into lines of at most width characters.
func wrap(text string, width int) string {
	var b strings.Builder
	at := 0
	for word := range strings.FieldsSeq(text) {
		if at > 0 && at+1+len(word) > width {
			b.WriteString("\n")
			at = 0
		} else if at > 0 {
			b.WriteString(" ")
			at++
		}
		b.WriteString(word)
		at += len(word)
	}
	return b.String()
}

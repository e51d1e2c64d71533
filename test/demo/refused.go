package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/canary-guardian/guardian/test/controlplane"
	"github.com/canary-guardian/guardian/test/mesh"
)

// verdict is what the API server says to whoever writes the VirtualService while refusing stands.
const verdict = "route legacy: duplicate match (a stand-in for the validation of the mesh)"

// refusing is a policy in the place of a validating webhook, such as Istio's, that dislikes something in the object which
// no rollback touches, and so refuses every write of it.
const refusing = `apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: demo-refuses}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules: [{apiGroups: [networking.istio.io], apiVersions: ['*'], operations: [UPDATE], resources: [virtualservices]}]
  validations:
  - expression: object.spec == oldObject.spec
    message: '` + verdict + `'
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: demo-refuses}
spec:
  policyName: demo-refuses
  validationActions: [Deny]
`

// actRefused has the API server refuse the rollback: guardian must say that it is not done, and why, until it is.
func actRefused(ctx context.Context, s *script, o settings) error {
	s.title("The API server refuses the rollback")
	st, err := s.set(ctx, plan{apps: []appPlan{{"orders", 100}}, scrape: o.scrape, fast: o.fast})
	if err != nil {
		return err
	}
	a := st.apps[0]
	if err := s.shift(ctx, a, "vs-90-10.yaml", 10); err != nil {
		return err
	}
	if err := st.awake(ctx); err != nil {
		return err
	}
	for _, next := range []func(context.Context, *script, *app) error{forbid, notDone, allow} {
		if err := next(ctx, s, a); err != nil {
			return err
		}
	}
	return nil
}

// forbid has every change of the VirtualService's spec refused from now on.
func forbid(ctx context.Context, s *script, a *app) error {
	if err := s.stage.applyText(ctx, "refusing.yaml", refusing); err != nil {
		return err
	}
	path, err := s.stage.manifest("orders/vs-70-30.yaml", a.name)
	if err != nil {
		return err
	}
	s.say("admin", "a policy refuses every change of the VirtualService: %q", verdict)
	return until(ctx, 20*time.Second, "the policy is in force", func(ctx context.Context) (bool, error) {
		_, err := s.stage.plane.Kubectl(ctx, controlplane.CI, namespace, "apply", "--dry-run=server", "-f", path)
		return err != nil && strings.Contains(err.Error(), verdict), nil
	})
}

// notDone lets v2 fail and reads what guardian says wherever it says something.
func notDone(ctx context.Context, s *script, a *app) error {
	s.title("v2 starts to answer every request with 500 (seconds since the first failed request)")
	a.mesh.Reset()
	a.forget()
	if err := a.mesh.Behave("v2", mesh.Behaviour{ErrorRate: 1}); err != nil {
		return err
	}
	s.failed(time.Now())
	_, err := s.recorded(ctx, a, time.Minute, "guardian says that the rollback is not done", func(r record) bool {
		return r.Lock != nil && r.Status.State == "blocked" && strings.Contains(r.Status.Reason, verdict)
	})
	if err != nil {
		return err
	}
	told, err := s.stage.history(ctx, a)
	if err != nil {
		return err
	}
	s.want(!strings.Contains(told, "rolled-back"), "the history tells of a rollback that was not done: %s", told)
	s.want(a.mesh.Weights()["v2"] == 10, "v2 has %d%%, and the API server has refused every change of its 10%%", a.mesh.Weights()["v2"])
	var page string
	err = until(ctx, 2*time.Minute, "Alertmanager has guardian's own alert GuardianNotDone", func(ctx context.Context) (bool, error) {
		page, err = s.stage.posted(ctx, "GuardianNotDone")
		return page != "", err
	})
	if err != nil {
		return err
	}
	s.say("pager", "GuardianNotDone: %s", wrap(page, 100))
	s.want(strings.Contains(page, verdict), "GuardianNotDone does not say why the rollback is not done")
	done, _, err := s.stage.query(ctx, `sum(guardian_rollbacks_total)`)
	s.want(done == 0, "guardian_rollbacks_total is %v, and none was done", done)
	if err != nil {
		return err
	}
	return s.gateSays(ctx, a)
}

// gateSays asks as a pipeline would.
func (s *script) gateSays(ctx context.Context, a *app) error {
	kubeconfig, err := s.stage.plane.Kubeconfig(controlplane.Admin, namespace)
	if err != nil {
		return err
	}
	gate := exec.CommandContext(ctx, s.stage.binary, "gate", a.service(), "-n", namespace, "--for", "5s", "--kubeconfig", kubeconfig)
	out, err := gate.CombinedOutput()
	s.say("ci", "guardian gate %s: exit status %d\n%s", a.service(), gate.ProcessState.ExitCode(), wrap(string(out), 100))
	s.want(err != nil && gate.ProcessState.ExitCode() == 1, "the gate's exit status is %d, want 1", gate.ProcessState.ExitCode())
	s.want(strings.Contains(string(out), verdict), "the gate does not say why the rollback is not done")
	return nil
}

// allow takes the policy away: the rollback is done without anybody asking again.
func allow(ctx context.Context, s *script, a *app) error {
	s.title("The API server takes the write again")
	path := "validatingadmissionpolicybinding,validatingadmissionpolicy"
	if _, err := s.stage.plane.Kubectl(ctx, controlplane.Admin, namespace, "delete", path, "demo-refuses"); err != nil {
		return err
	}
	s.say("admin", "the policy is deleted")
	at, err := a.awaitWeights(ctx, 0, time.Minute)
	if err != nil {
		s.explain(ctx, a)
		return err
	}
	s.sayAt(at, "mesh", "v1 100%%  v2 0%% in force")
	err = until(ctx, 20*time.Second, "guardian says that the rollback is done", func(ctx context.Context) (bool, error) {
		told, err := s.stage.history(ctx, a)
		return strings.Contains(told, "rolled-back"), err
	})
	if err != nil {
		return err
	}
	r, err := s.stage.record(ctx, a)
	if err != nil {
		return err
	}
	s.want(r.Status.State == "rolled-back", "the state is %s", r.Status.State)
	s.say("guardian", "%s: %s", r.Status.State, r.Status.Reason)
	return nil
}

// history names the events in a guard's history, oldest first.
func (st *stage) history(ctx context.Context, a *app) (string, error) {
	object, err := st.kube.CoreV1().ConfigMaps(namespace).Get(ctx, "guardian-"+a.service(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var entries []struct{ Event string }
	if text := object.Data["history"]; text != "" {
		if err := json.Unmarshal([]byte(text), &entries); err != nil {
			return "", fmt.Errorf("read the history: %w", err)
		}
	}
	var events []string
	for _, e := range entries {
		events = append(events, string(e.Event))
	}
	return strings.Join(events, " "), nil
}

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/canary-guardian/guardian/internal/printable"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/test/controlplane"
)

func TestTheRoleThatIsPrinted(t *testing.T) {
	b := newBench(t)
	code, text := b.run("rbac", "--for", "ci", "-n", "shop", "--guard", testGuard, "--service-account", "jenkins", "--service-account", "system:serviceaccount:ops:runner", "--user", "ann")
	want(t, code, text, exitOK, `apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: guardian-ci-orders-service
  namespace: shop
rules:
- apiGroups:
  - ""
  resourceNames:
  - guardian-orders-service
  resources:
  - configmaps
  verbs:
  - get
  - watch
- apiGroups:
  - coordination.k8s.io
  resources:
  - leases
  verbs:
  - list
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: guardian-ci-orders-service
  namespace: shop
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: guardian-ci-orders-service
subjects:
- kind: ServiceAccount
  name: runner
  namespace: ops
- kind: ServiceAccount
  name: jenkins
  namespace: shop
- apiGroup: rbac.authorization.k8s.io
  kind: User
  name: ann
`)
	for args, says := range map[string]string{
		"":                                      `--for "": want one of ci, viewer, operator`,
		"--for root":                            `--for "root": want one of ci, viewer, operator`,
		"--for ci --guard A_":                   `--guard "A_": want the name of a guard, such as orders-service`,
		"--for ci -n A_":                        `--namespace "A_": want the name of a namespace`,
		"--for ci -n a --service-account b/c":   `--service-account "b/c": want NAMESPACE:NAME, or NAME with -n`,
		"--for ci -n a --service-account b:c:d": `--service-account "b:c:d": want NAMESPACE:NAME`,
		"--for ci -n a --service-account b:":    `--service-account "b:": want NAMESPACE:NAME`,
		"--for ci --service-account x":          "--service-account x: want NAMESPACE:NAME, or -n",
		"--for ci --user=":                      "--user is empty: want a value",
		"--for ci --group=":                     "--group is empty: want a value",
		"--for operator --guard payments":       "--guard payments and --for operator: only a Role for ci can be for some guards",
	} {
		code, text := b.run(append([]string{"rbac"}, strings.Fields(args)...)...)
		want(t, code, text, exitUnknown, says)
	}
}

// as runs the program as a user.
func (r *rig) as(user string) func(args ...string) (int, string) {
	file, err := r.plane.Kubeconfig(user, r.ns)
	r.must(err)
	return func(args ...string) (int, string) {
		var out bytes.Buffer
		a := &app{name: "guardian", in: strings.NewReader(""), out: &out, errOut: &out, connect: connect}
		err := a.execute(r.t.Context(), append(args, "--kubeconfig", file))
		if err != nil {
			out.WriteString("Error: " + printable.Error(err) + "\n")
		}
		return exitCode(err), out.String()
	}
}

// applies has admin apply what the program prints.
func (r *rig) applies(args ...string) {
	r.t.Helper()
	var out bytes.Buffer
	a := &app{name: "guardian", in: strings.NewReader(""), out: &out, errOut: &out, connect: connect}
	r.must(a.execute(r.t.Context(), args))
	file := filepath.Join(r.t.TempDir(), "printed.yaml")
	r.must(os.WriteFile(file, out.Bytes(), 0o600))
	_, err := r.plane.Kubectl(r.t.Context(), controlplane.Admin, r.ns, "apply", "--server-side", "--validate=strict", "-f", file)
	r.must(err)
}

// TestTheRolesThatArePrintedAreEnoughAndNoMore has each account use the commands on
// the real API server, with the admission policies and the Role of its own alone.
func TestTheRolesThatArePrintedAreEnoughAndNoMore(t *testing.T) {
	r := newRigOn(t, planeServing(t, "v1", "v1beta1", "v1alpha3"))
	app := r.app("orders", 50)
	r.applies("admission")
	r.applies("rbac", "--for", "ci", "--guard", app.Name, "-n", r.ns, "--user", controlplane.CI)
	r.applies("rbac", "--for", "viewer", "-n", r.ns, "--user", controlplane.Nobody)
	r.applies("rbac", "--for", "operator", "-n", r.ns, "--user", controlplane.Dev)
	const unarmed = "unarmed" // an operator without the verbs that stand for no request
	r.must(r.plane.Grant(t.Context(), r.ns, unarmed, rbacOptions{account: "operator"}.rules()[:2]...))
	g := r.serve("guardian-0", r.config("127.0.0.1:0", "", app))
	r.must(insist(t.Context(), g.url, webhookOf(r.alertOf(app.Name))))
	r.rolledBack(app)
	r.wait("the rollback is confirmed", func(ctx context.Context) error {
		rec, err := r.record(ctx, app.Name)
		if err == nil && rec.Status.State != decision.StateRolledBack {
			err = fmt.Errorf("state %s", rec.Status.State)
		}
		return err
	})

	ci, viewer, operator, without := r.as(controlplane.CI), r.as(controlplane.Nobody), r.as(controlplane.Dev), r.as(unarmed)
	for _, c := range []struct {
		as   func(args ...string) (int, string)
		args string
		code int
		says string
	}{
		{ci, "status " + app.Name, exitOK, "rolled-back"},
		{ci, "gate " + app.Name, exitFailed, "7% of requests fail"},
		{ci, "status", exitFailed, "your user may not"},
		{ci, "pause orders --reason r", exitFailed, "your user may not"},
		{ci, "unlock orders --reason r", exitFailed, "your user may not"},
		{ci, "history " + app.Name, exitOK, "7% of requests fail"},
		{ci, "receipt " + app.Name, exitOK, "7% of requests fail"},
		{ci, "mark orders last --wrong --reason r", exitFailed, "your user may not"},
		{viewer, "report", exitOK, "1 rollback"},
		{viewer, "status", exitOK, "rolled-back"},
		{viewer, "gate --all", exitFailed, "7% of requests fail"},
		{viewer, "rollback orders --reason r", exitOK, "already rolled back"}, // nothing is written
		{viewer, "disarm orders --for 1h --reason r", exitFailed, "your user may not"},
		{without, "pause orders --reason r", exitOK, "paused"},
		{without, "resume orders --reason r", exitOK, "resumed"},
		{without, "disarm orders --for 1h --reason r", exitFailed, "disarm"},
		{without, "unlock orders --reason r", exitFailed, "unlock"},
		{operator, "status", exitOK, "rolled-back"},
		{operator, "disarm orders --for 1h --reason r", exitOK, "disarmed"},
		{operator, "arm orders --reason r", exitOK, "armed"},
		{operator, "unlock orders --reason r", exitOK, "unlocked"},
		{operator, "mark orders last --wrong --reason r", exitOK, "wrong"},
	} {
		code, text := c.as(strings.Fields(c.args)...)
		want(t, code, c.args+": "+text, c.code, c.says)
	}
}

// TestEachRightOfCIIsNeeded takes each right out of the Role for ci, on the real API server: some command then says
// that it may not. Only the right to watch is for speed: without it a gate looks every few seconds.
func TestEachRightOfCIIsNeeded(t *testing.T) {
	r := newRig(t)
	app := r.app("orders", 50)
	g := r.serve("guardian-0", r.config("127.0.0.1:0", "", app))
	r.must(insist(t.Context(), g.url, webhookOf(r.alertOf(app.Name))))
	r.rolledBack(app)
	for _, guards := range [][]string{nil, {app.Name}} {
		commands := []string{"status " + app.Name, "gate " + app.Name}
		if len(guards) == 0 {
			commands = append(commands, "status", "gate --all")
		}
		all := rbacOptions{account: "ci", guards: guards}.rules()
		tried := 0
		for i, rule := range all {
			for v, verb := range rule.Verbs {
				less := rbacOptions{account: "ci", guards: guards}.rules()
				less[i].Verbs = slices.Delete(slices.Clone(rule.Verbs), v, v+1)
				if len(less[i].Verbs) == 0 {
					less = slices.Delete(less, i, i+1)
				}
				user := fmt.Sprintf("without-%s-%s-%d", verb, rule.Resources[0], len(guards))
				r.must(r.plane.Grant(t.Context(), r.ns, user, less...))
				var failed []string
				for _, command := range commands {
					if _, text := r.as(user)(strings.Fields(command)...); strings.Contains(text, "your user may not") {
						failed = append(failed, command)
					} else if want := map[bool]string{true: "7% of requests fail", false: "rolled-back"}[strings.HasPrefix(command, "gate")]; !strings.Contains(text, want) {
						t.Errorf("%s: %s says neither that it may not nor %q:\n%s", user, command, want, text)
					}
				}
				if tried++; (len(failed) == 0) != (verb == "watch") {
					t.Errorf("without %s of %s, guards %v: %q may not", verb, rule.Resources[0], guards, failed)
				}
			}
		}
		if want := map[int]int{0: 4, 1: 3}[len(guards)]; tried != want {
			t.Errorf("%d rights tried, want %d", tried, want)
		}
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/canary-guardian/guardian/remediate"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/test/controlplane"
)

// The namespace of the guards is deleted under guardian, which runs in another one: by
// then its rights are gone too, or it has them in every namespace.
func TestANamespaceIsDeletedUnderGuardianAndComesBack(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a control plane; not under -short")
	}
	for name, c := range map[string]struct {
		everywhere bool   // guardian's rights
		says       string // of why it cannot go on
	}{
		"its rights go with it": {false, `guardian-(shifting|locked)" is forbidden|configmaps is forbidden`},
		"its rights stay":       {true, `^namespace \S+ does not exist: `},
	} {
		t.Run(name, func(t *testing.T) {
			r := newDeletableRig(t, c.everywhere)
			shifting, locked := r.app("shifting", 10), r.app("locked", 10)
			g := r.serve("guardian-0", r.config("127.0.0.1:0", "", shifting, locked))
			r.must(insist(t.Context(), g.url, webhookOf(r.alertOf("locked"))))
			r.rolledBack(locked)

			r.deleteNamespace()
			r.wait("guardian says what is wrong of each guard, and has tried again", func(context.Context) error {
				for _, v := range g.controller.Views() {
					if !regexp.MustCompile(c.says).MatchString(v.Failing) {
						return fmt.Errorf("guard %s: %q", v.Name, v.Failing)
					}
				}
				if !strings.Contains(g.log.String(), "renew this replica's lease") {
					return errors.New("nothing is said of the replica's Lease")
				}
				return r.failedOften(g, 5, "shifting", "locked")
			})
			toldOnce(t, g.log.String())
			admin := r.as(controlplane.Admin)
			code, text := admin("status")
			want(t, code, text, exitUnknown, "no replica of guardian is running in namespace "+r.ns+": namespace "+r.ns+" does not exist")
			code, text = admin("status", "shifting")
			want(t, code, text, exitFailed, "no guard shifting in namespace "+r.ns+" (no ConfigMap guardian-shifting); namespace "+r.ns+" does not exist")

			r.must(r.plane.CreateNamespace(t.Context(), r.ns))
			if !c.everywhere {
				r.must(r.plane.Grant(t.Context(), r.ns, opsAccount, remediate.RBAC()...))
			}
			again := r.app("shifting", 10)
			r.wait("guardian looks after it again", func(ctx context.Context) error {
				rec, err := r.record(ctx, again.Name)
				if err == nil && rec.Status.State != decision.StateShifting {
					err = errors.New(string(rec.Status.State))
				}
				return err
			})
			r.must(insist(t.Context(), g.url, webhookOf(r.alertOf("shifting"))))
			r.rolledBack(again)
		})
	}
}

// opsAccount is guardian's, of another namespace than that of its guards.
const opsAccount = "system:serviceaccount:ops:guardian"

// newDeletableRig is a rig on a control plane whose namespaces can be deleted. Guardian's
// account is in another one.
func newDeletableRig(t *testing.T, everywhere bool) *rig {
	t.Helper()
	plane, err := controlplane.Start(t.Context(), controlplane.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(plane.Stop)
	r := newBareRig(t, plane)
	r.startNamespaceController()
	r.giveAccount() // and the token
	r.must(plane.CreateNamespace(t.Context(), "ops"))
	r.account, err = plane.ServiceAccount(t.Context(), "ops", "guardian")
	r.must(err)
	if everywhere {
		r.grantEverywhere()
	}
	r.must(plane.Grant(t.Context(), r.ns, opsAccount, remediate.RBAC()...))
	return r
}

// grantEverywhere gives guardian its rights in every namespace.
func (r *rig) grantEverywhere() {
	r.t.Helper()
	meta := metav1.ObjectMeta{Name: "guardian"}
	_, err := r.kube.RbacV1().ClusterRoles().Create(r.t.Context(), &rbacv1.ClusterRole{ObjectMeta: meta, Rules: remediate.RBAC()}, metav1.CreateOptions{})
	r.must(err)
	_, err = r.kube.RbacV1().ClusterRoleBindings().Create(r.t.Context(), &rbacv1.ClusterRoleBinding{ObjectMeta: meta,
		Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: opsAccount}},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: meta.Name}}, metav1.CreateOptions{})
	r.must(err)
}

// startNamespaceController starts kube-controller-manager with the controller alone that
// empties a namespace that is deleted.
func (r *rig) startNamespaceController() {
	r.t.Helper()
	path, err := controlplane.Binary(r.t.Context(), "kube-controller-manager")
	r.must(err)
	kubeconfig, err := r.plane.Kubeconfig(controlplane.Admin, "default")
	r.must(err)
	port, err := controlplane.FreePort()
	r.must(err)
	p, err := r.plane.Run(r.t.Context(), controlplane.Program{
		Name: "namespace-controller", Path: path,
		Args: []string{"--kubeconfig=" + kubeconfig, "--leader-elect=false", "--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", port),
			"--cert-dir=" + r.t.TempDir(), "--controllers=namespace-controller"},
		Ready: func(context.Context) error { return nil },
	})
	r.must(err)
	r.killed("namespace-controller", p)
}

// deleteNamespace deletes the guards' namespace, and returns when it is gone.
func (r *rig) deleteNamespace() {
	r.t.Helper()
	r.must(r.kube.CoreV1().Namespaces().Delete(r.t.Context(), r.ns, metav1.DeleteOptions{}))
	r.wait("the namespace is gone", func(ctx context.Context) error {
		// Pods go first, and no kubelet runs that would say that they have ended.
		if err := r.kube.CoreV1().Pods(r.ns).DeleteCollection(ctx, *metav1.NewDeleteOptions(0), metav1.ListOptions{}); err != nil {
			return err
		}
		ns, err := r.kube.CoreV1().Namespaces().Get(ctx, r.ns, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("%s: %+v", ns.Status.Phase, ns.Status.Conditions)
		}
		return err
	})
}

// failedOften says whether passes over each of these guards have failed so often.
func (r *rig) failedOften(g *guardian, often int, guards ...string) error {
	text := r.scrape(g, "text/plain")
	for _, guard := range guards {
		found := regexp.MustCompile(`guardian_reconcile_failures_total{[^}]*guard="` + guard + `"[^}]*} (\d+)`).FindStringSubmatch(text)
		if found == nil {
			return fmt.Errorf("guard %s: no failures are counted", guard)
		}
		if n, err := strconv.Atoi(found[1]); err != nil || n < often {
			return fmt.Errorf("guard %s: passes have failed %d times, %w", guard, n, err)
		}
	}
	return nil
}

// toldOnce says that no two lines of a log in turn tell the same failure of a guard, or
// of the replica's Lease.
func toldOnce(t *testing.T, log string) {
	t.Helper()
	last := map[string]string{}
	for line := range strings.Lines(log) {
		_, why, failed := strings.Cut(line, " err=")
		_, about, _ := strings.Cut(line, " msg=")
		about, _, _ = strings.Cut(about, " err=")
		if !failed || strings.Contains(line, "level=DEBUG") || !strings.Contains(line, "reconcile failed") && !strings.Contains(line, "renew this replica") {
			continue
		}
		if last[about] == why {
			t.Errorf("told twice: %s", line)
		}
		last[about] = why
	}
	if len(last) < 3 {
		t.Errorf("told is %v, want both guards and the Lease", last)
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/canary-guardian/guardian/remediate"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/rules/publish"
	"github.com/canary-guardian/guardian/test/controlplane"
)

// installed is a namespace into which the chart is installed.
type installed struct {
	*rig
	helm *helmCommand
}

func newInstalled(t *testing.T) *installed {
	t.Helper()
	return newInstalledOn(t, controlplane.Shared(t))
}

// newInstalledOn is for a control plane that is not as the others' is.
func newInstalledOn(t *testing.T, plane *controlplane.Plane) *installed {
	t.Helper()
	i := &installed{rig: newBareRig(t, plane), helm: newHelm(t)}
	var err error
	i.helm.kubeconfig, err = i.plane.Kubeconfig(controlplane.Admin, i.ns)
	i.must(err)
	// A controller that may not run here, or not be that far, makes it in every namespace.
	_, err = i.kube.CoreV1().ConfigMaps(i.ns).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kube-root-ca.crt"}}, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		i.must(err)
	}
	return i
}

func TestTheChartIsInstalledIntoANamespaceThatHelmCreates(t *testing.T) {
	i := newInstalled(t)
	i.ns += "-made"
	t.Cleanup(func() { i.kube.CoreV1().Namespaces().Delete(context.Background(), i.ns, metav1.DeleteOptions{}) })
	i.run("install", "guardian", chartDir, "--create-namespace", "--set", oneGuard)
	secret, err := i.kube.CoreV1().Secrets(i.ns).Get(t.Context(), "guardian-token", metav1.GetOptions{})
	i.must(err)
	if len(secret.Data["token"]) < 32 {
		t.Errorf("a token of %d bytes", len(secret.Data["token"]))
	}
	i.run("upgrade", "guardian", chartDir, "--set", oneGuard)
	after, err := i.kube.CoreV1().Secrets(i.ns).Get(t.Context(), "guardian-token", metav1.GetOptions{})
	i.must(err)
	if string(after.Data["token"]) != string(secret.Data["token"]) {
		t.Error("the upgrade has made another token")
	}
	i.run("uninstall", "guardian")
}

func (i *installed) run(args ...string) string {
	i.t.Helper()
	out, err := i.helm.run(i.t.Context(), append(args, "-n", i.ns)...)
	if err != nil {
		i.t.Fatalf("helm %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// takeAccount gets a token of the ServiceAccount that the chart made.
func (i *installed) takeAccount(name string) {
	i.t.Helper()
	if _, err := i.kube.CoreV1().ServiceAccounts(i.ns).Get(i.t.Context(), name, metav1.GetOptions{}); err != nil {
		i.t.Fatal(err)
	}
	var err error
	i.account, err = i.plane.ServiceAccount(i.t.Context(), i.ns, name)
	i.must(err)
}

// pod is guardian as the chart's Deployment says, short of what only a kubelet
// does: the same arguments, environment, configuration and token, in a folder of
// this machine instead of a container's.
type pod struct {
	*controlplane.Process
	url, metrics, config string
}

// start runs a replica of Deployment guardian, and returns when it answers on a
// path. The environment says where this machine differs from a pod.
func (i *installed) start(name, ready string) *pod {
	i.t.Helper()
	d, err := i.kube.AppsV1().Deployments(i.ns).Get(i.t.Context(), "guardian", metav1.GetOptions{})
	i.must(err)
	c := d.Spec.Template.Spec.Containers[0]
	dir := i.t.TempDir()
	secret, err := i.kube.CoreV1().Secrets(i.ns).Get(i.t.Context(), "guardian-token", metav1.GetOptions{})
	i.must(err)
	i.must(os.WriteFile(i.token, secret.Data["token"], 0o600))
	p := &pod{config: filepath.Join(dir, "config.yaml")}
	i.mount(p)
	alerts, err := controlplane.FreePort()
	i.must(err)
	metrics, err := controlplane.FreePort()
	i.must(err)
	p.url, p.metrics = fmt.Sprintf("http://127.0.0.1:%d", alerts), fmt.Sprintf("http://127.0.0.1:%d", metrics)
	kubeconfig, err := i.plane.WriteKubeconfig(i.account, "guardian", i.ns)
	i.must(err)
	args := []string{"--kubeconfig=" + kubeconfig}
	for _, a := range c.Args {
		args = append(args, strings.ReplaceAll(a, "/etc/guardian/config", dir))
	}
	slices.Reverse(args[:2]) // serve comes first
	nobody := "http://127.0.0.1:1"
	env := []string{"GUARDIAN_LISTEN_ALERTS=" + strings.TrimPrefix(p.url, "http://"), "GUARDIAN_LISTEN_METRICS=" + strings.TrimPrefix(p.metrics, "http://"),
		"GUARDIAN_WEBHOOK_TOKEN_FILE=" + i.token, "GUARDIAN_PROMETHEUS_URL=" + nobody, "GUARDIAN_ALERTMANAGER_URL=" + nobody}
	for _, e := range c.Env {
		switch {
		case e.ValueFrom == nil:
			env = append(env, e.Name+"="+e.Value)
		case e.ValueFrom.FieldRef.FieldPath == "metadata.name":
			env = append(env, e.Name+"="+name)
		case e.ValueFrom.FieldRef.FieldPath == "metadata.namespace":
			env = append(env, e.Name+"="+i.ns)
		case e.ValueFrom.FieldRef.FieldPath == "metadata.uid": // there is no Pod
		default:
			i.t.Fatalf("environment variable %s: this test cannot give it", e.Name)
		}
	}
	p.Process, err = i.plane.Run(i.t.Context(), controlplane.Program{
		Name: "guardian", Path: i.binary(), Args: args, Env: env, Ready: func(ctx context.Context) error { return get(ctx, p.metrics+ready) },
	})
	i.must(err)
	i.killed(name, p.Process)
	return p
}

// mount writes the ConfigMap's present content to where the replica reads it, as
// the kubelet does.
func (i *installed) mount(p *pod) {
	i.t.Helper()
	cm, err := i.kube.CoreV1().ConfigMaps(i.ns).Get(i.t.Context(), "guardian.config", metav1.GetOptions{})
	i.must(err)
	i.must(os.WriteFile(p.config+".new", []byte(cm.Data["config.yaml"]), 0o600))
	i.must(os.Rename(p.config+".new", p.config))
}

// tellPod sends an alert until it is taken, with the token of the chart's Secret.
func (i *installed) tellPod(ctx context.Context, p *pod, guard string) error {
	token, err := os.ReadFile(i.token)
	if err != nil {
		return err
	}
	body := webhookOf(i.alertOf(guard))
	status := 0
	for ctx.Err() == nil {
		if status, err = post(ctx, p.url+"/webhook", string(token), body); err == nil && status == http.StatusOK {
			return nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
	return fmt.Errorf("webhook answered %d: %w", status, errors.Join(err, ctx.Err()))
}

func TestTheAPIServerTakesEveryObjectOfTheChart(t *testing.T) {
	i := newInstalled(t)
	i.must(ignoreExists(i.plane.CreateNamespace(t.Context(), "rules")))
	server, err := i.kube.Discovery().ServerVersion()
	i.must(err)
	for _, name := range []string{"oneline", "plain", "full", "admission"} {
		args := []string{"template", "guardian", chartDir, "-f", filepath.Join("..", "..", "testdata", "chart", name+".values.yaml")}
		if name == "admission" {
			args = []string{"template", "guardian-admission", admissionChart, "--kube-version", server.GitVersion}
		}
		text := i.run(args...)
		file := filepath.Join(t.TempDir(), name+".yaml")
		i.must(os.WriteFile(file, []byte(text), 0o600))
		out, err := i.plane.Kubectl(t.Context(), controlplane.Admin, "", "apply", "--dry-run=server", "--validate=strict", "-f", file)
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		if n := strings.Count(out, "server dry run"); n != len(rendered(t, text)) {
			t.Errorf("%s: %d of %d objects were taken:\n%s", name, n, len(rendered(t, text)), out)
		}
	}
}

func ignoreExists(err error) error {
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// The whole way as a namespace's admin goes it: install, rollback, upgrade,
// uninstall, with the rights of the namespace alone.
func TestTheChartFromInstallToUninstall(t *testing.T) {
	i := newInstalled(t)
	app, second := i.app("orders-service", 50), i.app("payments", 50)
	i.helm.kubeconfig = i.namespaceAdmin()
	before := i.objects()

	notes := i.run("install", "guardian", chartDir, "--set", oneGuard)
	for _, want := range []string{"orders-service: VirtualService orders-service", "helm test guardian", "rollout status deployment/guardian"} {
		if !strings.Contains(notes, want) {
			t.Errorf("the notes do not say %q:\n%s", want, notes)
		}
	}
	secret := i.secret()
	i.takeAccount("guardian")
	p := i.start("guardian-0", "/readyz")
	i.must(i.tellPod(t.Context(), p, app.Name))
	if rec := i.rolledBack(app); rec.Lock.By != "alert" {
		t.Errorf("lock %+v", rec.Lock)
	}
	i.wait("rules", func(ctx context.Context) error { return i.hasRules(ctx, true) })

	out, err := exec.CommandContext(t.Context(), i.binary(), "check", "--config="+p.config, "--kubeconfig="+i.helm.kubeconfig, "--service-account=guardian").CombinedOutput()
	if !strings.Contains(string(out), "ok    rights of system:serviceaccount:"+i.ns+":guardian") {
		t.Errorf("guardian check: %v\n%s", err, out)
	}

	// One guardian for each namespace, and as many as there are namespaces.
	if _, err := i.helm.run(t.Context(), "install", "second", chartDir, "-n", i.ns, "--set", oneGuard); err == nil || !strings.Contains(err.Error(), "has a guardian already: release guardian") {
		t.Errorf("a second release in the namespace: %v", err)
	}
	elsewhere := newInstalled(t)
	elsewhere.run("install", "guardian", chartDir, "--set", oneGuard)

	// An upgrade keeps the token, and guardian takes its new guard over.
	if _, err := i.helm.run(t.Context(), "upgrade", "guardian", chartDir, "-n", i.ns, "--set", "replicaCount=3"); err == nil || !strings.Contains(err.Error(), "guards: empty") {
		t.Errorf("an upgrade without guards: %v", err)
	}
	i.run("upgrade", "guardian", chartDir, "--set", oneGuard, "--set", "guards[1].name=payments")
	if now := i.secret(); now != secret {
		t.Error("the upgrade has made a new token")
	}
	i.mount(p)
	i.wait("the new guard", func(ctx context.Context) error { return get(ctx, p.metrics+"/api/v1/guards/payments") })
	i.must(i.tellPod(t.Context(), p, second.Name))
	i.rolledBack(second)

	// A guard that is no longer configured: guardian may still write that down.
	notes = i.run("upgrade", "guardian", chartDir, "--set", "guards[0].name=payments")
	if want := "guard orders-service has a record and is not configured: nothing rolls it back, and it is locked"; !strings.Contains(notes, want) {
		t.Errorf("the notes do not say %q:\n%s", want, notes)
	}
	i.mount(p)
	i.wait("the old guard's record marked", func(ctx context.Context) error {
		rec, err := i.record(ctx, app.Name)
		if err == nil && rec.Status.Orphaned.IsZero() {
			err = errors.New("not marked")
		}
		return err
	})
	i.run("rollback", "guardian", "1")
	if now := i.secret(); now != secret {
		t.Error("helm rollback has made a new token")
	}
	p.Stop()
	if log := p.Tail(2000); strings.Contains(log, "forbidden") {
		t.Errorf("guardian lacks a right:\n%s", log)
	}

	i.run("uninstall", "guardian")
	left := i.objects()
	for name := range before {
		delete(left, name)
	}
	for name := range left {
		if kind, object, _ := strings.Cut(name, "/"); kind == "events" || name == "leases/"+remediate.LeaderLease || kind == "configmaps" && strings.HasPrefix(object, records.Name("")) {
			delete(left, name)
		}
	}
	if len(left) > 0 {
		t.Errorf("left by the uninstall: %v", left)
	}
}

// secret is the webhook's token.
func (i *installed) secret() string {
	i.t.Helper()
	s, err := i.kube.CoreV1().Secrets(i.ns).Get(i.t.Context(), "guardian-token", metav1.GetOptions{})
	i.must(err)
	if len(s.Data["token"]) < 32 {
		i.t.Errorf("the token has %d characters", len(s.Data["token"]))
	}
	return string(s.Data["token"])
}

// hasRules says whether guardian's PrometheusRule exists, owned by its Deployment
// so that the garbage collector removes it with that.
func (i *installed) hasRules(ctx context.Context, want bool) error {
	client, err := dynamic.NewForConfig(i.plane.RESTConfig(controlplane.Admin))
	if err != nil {
		return err
	}
	rule, err := client.Resource(publish.PrometheusRule.Resource).Namespace(i.ns).Get(ctx, "guardian", metav1.GetOptions{})
	switch {
	case !want && apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return err
	case !want:
		return errors.New("still there")
	}
	if owners := rule.GetOwnerReferences(); len(owners) != 1 || owners[0].Kind != "Deployment" || owners[0].Name != "guardian" {
		return fmt.Errorf("owners %v", owners)
	}
	return nil
}

// objects is all that the namespace holds and no garbage collector will remove,
// as resource/name.
func (i *installed) objects() map[string]bool {
	i.t.Helper()
	return i.objectsBut(func(r metav1.OwnerReference) bool { return r.Name == "guardian" && r.Kind == "Deployment" })
}

// objectsBut is all that the namespace holds without such an owner.
func (i *installed) objectsBut(owned func(metav1.OwnerReference) bool) map[string]bool {
	i.t.Helper()
	client, err := dynamic.NewForConfig(i.plane.RESTConfig(controlplane.Admin))
	i.must(err)
	_, lists, err := i.kube.Discovery().ServerGroupsAndResources()
	i.must(err)
	out := map[string]bool{}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		i.must(err)
		for _, resource := range list.APIResources {
			if !resource.Namespaced || strings.Contains(resource.Name, "/") || !slices.Contains(resource.Verbs, "list") {
				continue
			}
			found, err := client.Resource(gv.WithResource(resource.Name)).Namespace(i.ns).List(i.t.Context(), metav1.ListOptions{})
			i.must(err)
			for n := range found.Items {
				if o := &found.Items[n]; !slices.ContainsFunc(o.GetOwnerReferences(), owned) {
					out[resource.Name+"/"+o.GetName()] = true
				}
			}
		}
	}
	return out
}

// namespaceAdmin is a kubeconfig of somebody who may do in the namespace what
// Kubernetes's ClusterRole admin has, and with Istio's and prometheus-operator's
// objects what guardian will: an installer cannot give rights that it has not.
func (i *installed) namespaceAdmin() string {
	i.t.Helper()
	ctx := i.t.Context()
	subject := []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: controlplane.Dev}}
	// The ClusterRole admin is put together from these by a controller, which does
	// not run here.
	for _, role := range []string{"admin", "edit", "view"} {
		_, err := i.kube.RbacV1().RoleBindings(i.ns).Create(ctx, &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "namespace-" + role}, Subjects: subject,
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:aggregate-to-" + role},
		}, metav1.CreateOptions{})
		i.must(err)
	}
	all := []string{"get", "list", "watch", "create", "update", "patch", "delete"}
	i.must(i.plane.Grant(ctx, i.ns, controlplane.Dev,
		rbacv1.PolicyRule{APIGroups: []string{"networking.istio.io"}, Resources: []string{"virtualservices", "destinationrules"}, Verbs: all},
		rbacv1.PolicyRule{APIGroups: []string{"monitoring.coreos.com"}, Resources: []string{"prometheusrules", "podmonitors", "servicemonitors", "alertmanagerconfigs"}, Verbs: all}))
	kubeconfig, err := i.plane.Kubeconfig(controlplane.Dev, i.ns)
	i.must(err)
	return kubeconfig
}

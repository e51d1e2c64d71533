package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/canary-guardian/guardian/test/controlplane"
)

// planeServing is a control plane of its own, whose API server serves Istio's
// resources in some versions alone.
func planeServing(t *testing.T, versions ...string) *controlplane.Plane {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a control plane; not under -short")
	}
	plane, err := controlplane.Start(t.Context(), controlplane.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(plane.Stop)
	if err := plane.ServeIstio(t.Context(), versions...); err != nil {
		t.Fatal(err)
	}
	return plane
}

// checks runs `guardian check` as admin. Much is wrong there.
func (r *rig) checks(apps ...*controlplane.App) string {
	r.t.Helper()
	said, err := r.checked(r.config("127.0.0.1:0", "", apps...))
	return fmt.Sprintln(said, err)
}

// checked runs it with a configuration.
func (r *rig) checked(config string, args ...string) (string, error) {
	r.t.Helper()
	file := filepath.Join(r.t.TempDir(), "guardian.yaml")
	r.must(os.WriteFile(file, []byte(config), 0o600))
	kubeconfig, err := r.plane.Kubeconfig(controlplane.Admin, r.ns)
	r.must(err)
	said := &syncBuffer{}
	a := &app{name: "guardian", in: strings.NewReader(""), out: said, errOut: said, connect: connect}
	root := a.command()
	root.SetArgs(append([]string{"check", "-f", file, "--kubeconfig", kubeconfig}, args...))
	err = root.ExecuteContext(r.t.Context())
	return said.String(), err
}

// An Istio before 1.22, and a virtual cluster of that age, serve no v1.
func TestACanaryIsRolledBackWhereIstioServesV1beta1Alone(t *testing.T) {
	r := newRigOn(t, planeServing(t, "v1beta1", "v1alpha3"))
	app := r.app("orders", 50)
	port, err := controlplane.FreePort()
	r.must(err)
	g := r.exec(port, "", "guardian-0", "", app)
	r.must(insist(t.Context(), g.url, webhookOf(r.alertOf(app.Name))))
	r.rolledBack(app)
	// What CI does is seen, too.
	r.must(app.SetWeights(t.Context(), 50, 50))
	r.atWeight(app, 0)

	said := r.checks(app)
	for _, want := range []string{
		"ok    Istio: networking.istio.io/v1beta1",
		"ok    guard orders: VirtualService orders: canary at 0%",
		"ok    guard orders: stable v1: 2 ready endpoints",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("check does not say %q:\n%s", want, said)
		}
	}
}

// As when Istio's CustomResourceDefinitions are replaced by those of another
// version below a running guardian.
func TestGuardianGoesOnWhenTheServedVersionOfIstioChanges(t *testing.T) {
	r := newRigOn(t, planeServing(t, "v1", "v1beta1", "v1alpha3"))
	locked, later := r.app("locked", 50), r.app("later", 50)
	g := r.serve("guardian-0", r.config("127.0.0.1:0", "", locked, later))
	r.must(insist(t.Context(), g.url, webhookOf(r.alertOf(locked.Name))))
	r.rolledBack(locked)

	r.must(r.plane.ServeIstio(t.Context(), "v1beta1"))
	r.must(insist(t.Context(), g.url, webhookOf(r.alertOf(later.Name))))
	r.rolledBack(later)
	r.must(locked.SetWeights(t.Context(), 50, 50))
	r.atWeight(locked, 0)
	r.must(locked.SetWeights(t.Context(), 30, 70))
	r.atWeight(locked, 0)
	r.wait("ready", func(context.Context) error { return g.ready(t.Context()) })
}

func TestCheckSaysThatIstioIsMissing(t *testing.T) {
	r := newRigOn(t, planeServing(t, "v1beta1"))
	app := r.app("orders", 50)
	r.must(r.plane.DropDefinition(t.Context(), "virtualservices.networking.istio.io"))
	said := r.checks(app)
	want := "FAIL  Istio: the API server serves virtualservices.networking.istio.io in none of v1, v1beta1, v1alpha3"
	if !strings.Contains(said, want) || strings.Contains(said, "does not exist") {
		t.Errorf("want %q, and nothing of an object that does not exist:\n%s", want, said)
	}
}

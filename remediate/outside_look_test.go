package remediate

import (
	"fmt"
	"slices"
	"testing"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

func TestServicesThatAVirtualServiceLeadsTo(t *testing.T) {
	vs := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(`{spec: {hosts: [x], http: [
		{route: [{destination: {host: b}}, {destination: {host: c.shop.svc.cluster.local}}], mirror: {host: d}},
		{route: [{destination: {host: b.other.svc.cluster.local}}, {destination: {host: example.com}}], mirrors: [{destination: {host: e}}]},
		{route: [{destination: host}, 3], mirror: [x]}], tcp: [{route: [{destination: {host: f}}]}]}}`), &vs.Object); err != nil {
		t.Fatal(err)
	}
	if got, want := destinationsOf(vs, "shop", virtualservice.DefaultDomain), []string{"b", "c", "d", "e", "f"}; !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
	if got := destinationsOf(&unstructured.Unstructured{}, "shop", virtualservice.DefaultDomain); len(got) > 0 {
		t.Errorf("found %q in nothing", got)
	}
}

// A VirtualService that leads to the canary and that no guard has is named as
// soon as it is there, and no longer than it does.
func TestAVirtualServiceThatIsNotGuardedIsToldAtOnce(t *testing.T) {
	r := newRig(t)
	app := r.app("orders-service")
	p := r.start(r.guard(app.Name))
	p.leader()
	client := r.dynamic.Resource(virtualServiceResource).Namespace(r.ns)
	is := func(what string, want ...string) {
		t.Helper()
		r.wait(what, func() error {
			rec, err := r.record(app.Name)
			if got := rec.Status.Unguarded; err == nil && (!slices.Equal(got, want) || p.metric("guardian_unguarded_virtualservices", app.Name) != float64(len(want))) {
				err = fmt.Errorf("status %q, metric %v, want %q", got, p.metric("guardian_unguarded_virtualservices", app.Name), want)
			}
			return err
		})
	}
	create := func(name, spec string) {
		t.Helper()
		vs := &unstructured.Unstructured{}
		r.must(yaml.Unmarshal(fmt.Appendf(nil, "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: %s}\nspec: %s", name, spec), &vs.Object))
		_, err := client.Create(t.Context(), vs, metav1.CreateOptions{})
		r.must(err)
	}
	create("elsewhere", `{hosts: [x], http: [{route: [{destination: {host: payments}}]}]}`)
	create("stable", `{hosts: [x], http: [{route: [{destination: {host: orders-service, subset: v1}}]}]}`)
	create("mesh", `{hosts: [orders-service], http: [{route: [{destination: {host: orders-service, subset: v1}, weight: 70}, {destination: {host: orders-service, subset: v2}, weight: 30}]}]}`)
	mesh := "VirtualService " + r.ns + "/mesh (30%)"
	is("a second split", mesh)
	create("all", `{hosts: [z], http: [{route: [{destination: {host: orders-service}}]}]}`)
	all := "VirtualService " + r.ns + "/all (its host without a subset)"
	is("the host without a subset", all, mesh)

	other := r.guard(app.Name)
	other.Name, other.VirtualServices = "orders-mesh", []string{"mesh"}
	p.SetGuards([]decision.Guard{r.guard(app.Name), other})
	is("one is another guard's", all)
	p.SetGuards([]decision.Guard{r.guard(app.Name)})
	is("it is not any more", all, mesh)

	r.must(client.Delete(t.Context(), "all", metav1.DeleteOptions{}))
	_, err := client.Patch(t.Context(), "mesh", types.MergePatchType, []byte(`{"spec":{"http":[{"route":[{"destination":{"host":"orders-service","subset":"v1"}}]}]}}`), metav1.PatchOptions{})
	r.must(err)
	is("none")
}

func TestALockOfSomebodyElseIsToldAtOnce(t *testing.T) {
	r := newRig(t)
	app := r.app("orders-service")
	p := r.start(r.guard(app.Name))
	p.leader()
	client := r.dynamic.Resource(virtualServiceResource).Namespace(r.ns)
	lock, err := decision.LockAnnotation{By: "system:serviceaccount:" + r.ns + ":other", Canary: []string{"x/y"}, Stable: []string{"x/z"}, Since: at, Message: "m"}.Encode()
	r.must(err)
	for key, value := range map[string]string{"other": lock, "orders-service": lock, "third": "whatever"} {
		patch := fmt.Appendf(nil, `{"metadata":{"annotations":{"%s":%q}}}`, decision.LockKey(key), value)
		_, err := client.Patch(t.Context(), app.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		r.must(err)
		what := " (by system:serviceaccount:" + r.ns + ":other, since 2026-03-02T09:00:00Z)"
		if value != lock {
			what = " (it cannot be read)"
		}
		is := func(want ...string) {
			r.wait(key, func() error {
				rec, err := r.record(app.Name)
				if got := rec.Status.ForeignLocks; err == nil && (!slices.Equal(got, want) || p.metric("guardian_foreign_locks") != float64(len(want))) {
					err = fmt.Errorf("status %q, metric %v, want %q", got, p.metric("guardian_foreign_locks"), want)
				}
				return err
			})
		}
		is("VirtualService orders-service: annotation " + decision.LockKey(key) + what)
		taken, err := TakeOffLock(t.Context(), r.dynamic, r.ns, key, []string{app.Name})
		if r.must(err); len(taken) != 1 {
			t.Errorf("taken off %q", taken)
		}
		is()
	}
}

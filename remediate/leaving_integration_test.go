package remediate

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/canary-guardian/guardian/remediate/decision"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

const stickySpec = `{"hosts":["NAME"],"http":[
 {"match":[{"headers":{"cookie":{"exact":"v2"}}}],"route":[{"destination":{"host":"orders-service","subset":"v1"},"weight":0},{"destination":{"host":"orders-service","subset":"v2"},"weight":100}]},
 {"route":[{"destination":{"host":"orders-service","subset":"v1"},"weight":90},{"destination":{"host":"orders-service","subset":"v2"},"weight":10}]}]}`

// The real API server is asked, by guardian's own account, with a running
// controller whose configuration is loaded anew.
func TestAVirtualServiceThatLeavesTheConfigurationOfARunningGuardian(t *testing.T) {
	r := newRig(t)
	app := r.app("orders-service")
	const mesh = "orders-mesh"
	vs := r.virtualService(app.Name)
	vs.Object["metadata"] = map[string]any{"name": mesh, "namespace": r.ns}
	_, err := r.dynamic.Resource(virtualServiceResource).Namespace(r.ns).Create(t.Context(), vs, metav1.CreateOptions{})
	r.must(err)
	for _, name := range []string{app.Name, mesh} {
		r.replaceSpec(name, "v1", stickySpec)
	}
	g := r.guard(app.Name)
	g.VirtualServices = []string{app.Name, mesh}
	p := r.start(g)
	p.leader()
	if s := r.inState(app.Name, decision.StateShifting).Status; s.Weight != 10 {
		t.Errorf("the status says %d%%", s.Weight)
	}
	weights := func(name string, want ...int64) error {
		got := allWeights(r.virtualService(name))
		if !slices.Equal(got, want) {
			return fmt.Errorf("%s: weights %v, want %v", name, got, want)
		}
		return nil
	}
	r.must(p.fire(app.Name, badAlert("CanaryErrors")))
	r.inState(app.Name, decision.StateRolledBack)
	r.must(errors.Join(weights(app.Name, 100, 0, 100, 0), weights(mesh, 100, 0, 100, 0)))

	g.VirtualServices = []string{app.Name}
	p.SetGuards([]decision.Guard{g})
	r.replaceSpec(mesh, "v1", stickySpec) // as CI would, without the admission policies
	r.wait("it is reverted", func() error { return weights(mesh, 100, 0, 100, 0) })
	r.wait("it is told", func() error {
		told := r.told(app.Name)
		if slices.ContainsFunc(told, func(e string) bool { return strings.HasPrefix(e, "unguarded") }) {
			t.Errorf("what the lock covers is told as unguarded: %q", told)
		}
		if !slices.Contains(told, "reasserted 10→0") {
			return fmt.Errorf("told %q", told)
		}
		return nil
	})

	p.resolve(app.Name)
	r.request(app.Name, decision.RequestUnlock)
	r.wait("it is given back", func() error {
		now := r.virtualService(mesh)
		for k := range now.GetAnnotations() {
			if strings.HasPrefix(k, decision.Prefix) {
				return fmt.Errorf("it has annotation %s", k)
			}
		}
		for _, f := range now.GetManagedFields() {
			if f.Manager == FieldManager {
				return errors.New("guardian owns fields of it")
			}
		}
		return errors.Join(weights(mesh, 0, 100, 100, 0), weights(app.Name, 0, 100, 100, 0))
	})
	r.wait("the record has forgotten it", func() error {
		rec, err := r.record(app.Name)
		if err == nil && (len(rec.Status.Leaving) > 0 || len(rec.Changed) > 0) {
			err = fmt.Errorf("leaving %+v, changed %+v", rec.Status.Leaving, rec.Changed)
		}
		return err
	})
}

// allWeights are the weights of all http routes, in order.
func allWeights(vs *unstructured.Unstructured) (out []int64) {
	routes, _, _ := unstructured.NestedSlice(vs.Object, "spec", "http")
	for _, route := range routes {
		entries, _, _ := unstructured.NestedSlice(route.(map[string]any), "route")
		for _, e := range entries {
			n, _, _ := unstructured.NestedInt64(e.(map[string]any), "weight")
			out = append(out, n)
		}
	}
	return out
}

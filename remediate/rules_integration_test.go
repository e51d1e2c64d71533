package remediate

import (
	"errors"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/test/controlplane"
)

// Of two DestinationRules of one host Istio takes each subset from the older one. A
// rollback goes where its labels lead, and it is told that they are not the guard's.
func TestAnOlderDestinationRuleOfTheHostIsWhatCounts(t *testing.T) {
	r := newRig(t)
	app := r.app("orders")
	r.must(app.SetWeights(t.Context(), 70, 30))
	rules := r.dynamic.Resource(controlplane.DestinationRules).Namespace(r.ns)
	own, err := rules.Get(t.Context(), app.Name, metav1.GetOptions{})
	r.must(err)
	older := &unstructured.Unstructured{Object: map[string]any{"apiVersion": own.GetAPIVersion(), "kind": "DestinationRule", "metadata": map[string]any{"name": "a-rule"},
		"spec": map[string]any{"host": app.Name + "." + r.ns + ".svc.cluster.local", "subsets": []any{map[string]any{"name": "v1", "labels": map[string]any{"version": "v0"}}}}}}
	_, err = rules.Create(t.Context(), older, metav1.CreateOptions{})
	r.must(err)
	r.must(rules.Delete(t.Context(), app.Name, metav1.DeleteOptions{})) // and made again: it is the younger one, or as old and behind by name
	own.SetResourceVersion("")
	own.SetUID("")
	_, err = rules.Create(t.Context(), own, metav1.CreateOptions{})
	r.must(err)

	p := r.start(r.guard(app.Name))
	p.leader()
	const says = "Istio takes subset v1 from DestinationRule a-rule (version=v0), which is older, not from orders (version=v1)"
	r.wait("it is told", func() error {
		rec, err := r.record(app.Name)
		if err == nil && (len(rec.Status.Overruled) != 1 || rec.Status.Overruled[0] != says) {
			p.Enqueue(app.Name)
			err = errors.New(strings.Join(rec.Status.Overruled, "; "))
		}
		return err
	})
	r.must(p.fire(app.Name, badAlert("CanaryErrors")))
	if s := r.inState(app.Name, decision.StateBlocked).Status; !strings.Contains(s.Reason, "stable v1 has 0 ready endpoints") {
		t.Errorf("blocked since %s", s.Reason)
	}
	r.atWeight(app, 30)

	r.must(rules.Delete(t.Context(), "a-rule", metav1.DeleteOptions{}))
	if s := r.inState(app.Name, decision.StateRolledBack).Status; len(s.Overruled) > 0 {
		t.Errorf("still told: %q", s.Overruled)
	}
	r.atWeight(app, 0)
}

// A younger DestinationRule of the host with another exportTo is all that its clients
// have, whatever the guard's own says.
func TestAYoungerDestinationRuleForTheNamespaceIsWhatCounts(t *testing.T) {
	r := newRig(t)
	app := r.app("orders")
	r.must(app.SetWeights(t.Context(), 70, 30))
	rules := r.dynamic.Resource(controlplane.DestinationRules).Namespace(r.ns)
	own, err := rules.Get(t.Context(), app.Name, metav1.GetOptions{})
	r.must(err)
	younger := &unstructured.Unstructured{Object: map[string]any{"apiVersion": own.GetAPIVersion(), "kind": "DestinationRule", "metadata": map[string]any{"name": "tuning"},
		"spec": map[string]any{"host": app.Name, "exportTo": []any{"."}, "subsets": []any{map[string]any{"name": "v1", "labels": map[string]any{"version": "v0"}}, map[string]any{"name": "v2", "labels": map[string]any{"version": "v2"}}}}}}
	_, err = rules.Create(t.Context(), younger, metav1.CreateOptions{})
	r.must(err)

	p := r.start(r.guard(app.Name))
	p.leader()
	r.must(p.fire(app.Name, badAlert("CanaryErrors")))
	s := r.inState(app.Name, decision.StateBlocked).Status
	if want := []string{"Istio takes subset v1 from DestinationRule tuning (version=v0), which has another exportTo, not from orders (version=v1)"}; !slices.Equal(s.Overruled, want) || !strings.Contains(s.Reason, "stable v1 has 0 ready endpoints") {
		t.Errorf("blocked since %s; told %q, want %q", s.Reason, s.Overruled, want)
	}
	r.atWeight(app, 30)
	r.must(rules.Delete(t.Context(), "tuning", metav1.DeleteOptions{}))
	r.inState(app.Name, decision.StateRolledBack)
	r.atWeight(app, 0)
}

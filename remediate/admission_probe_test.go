package remediate

import (
	"errors"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	clienttesting "k8s.io/client-go/testing"
)

func TestTheProbeTellsWhichPoliciesAreInForce(t *testing.T) {
	gr := virtualServiceResource.GroupResource()
	for name, c := range map[string]struct {
		answer func(vs *unstructured.Unstructured) (runtime.Object, error)
		want   Enforcement
		fails  bool
	}{
		"stripped": {func(vs *unstructured.Unstructured) (runtime.Object, error) { vs.SetAnnotations(nil); return vs, nil }, EnforcedHold, false},
		"refused by the policy": {func(*unstructured.Unstructured) (runtime.Object, error) {
			return nil, apierrors.NewForbidden(gr, "guardian-check", errors.New("ValidatingAdmissionPolicy 'lock.canary-guardian.io' denied request: leave them out"))
		}, EnforcedRefuse, false},
		"kept": {func(vs *unstructured.Unstructured) (runtime.Object, error) { return vs, nil }, EnforcedNot, false},
		"not allowed": {func(*unstructured.Unstructured) (runtime.Object, error) {
			return nil, apierrors.NewForbidden(gr, "guardian-check", errors.New("User cannot create resource"))
		}, "", true},
	} {
		client := dynamicfake.NewSimpleDynamicClient(runtime.NewScheme())
		client.PrependReactor("create", "virtualservices", func(a clienttesting.Action) (bool, runtime.Object, error) {
			vs, ok := a.(clienttesting.CreateAction).GetObject().(*unstructured.Unstructured)
			if !ok {
				t.Fatalf("%s: a %T is made", name, a)
			}
			obj, err := c.answer(vs.DeepCopy())
			return true, obj, err
		})
		got, err := ProbeEnforcement(t.Context(), client, testNamespace)
		if got != c.want || (err != nil) != c.fails {
			t.Errorf("%s: %q, %v; want %q", name, got, err, c.want)
		}
	}
}

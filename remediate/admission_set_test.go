package remediate

import (
	"encoding/json"
	"fmt"
	"reflect"
	"testing"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// toolOfSets applies a set of manifests as kustomize-controller does: all of it
// as a dry run first, then what the dry run says would change.
type toolOfSets struct {
	manager string
	client  dynamic.Interface
	ns      string
}

func (s toolOfSets) resource(kind string) dynamic.ResourceInterface {
	of := map[string]schema.GroupVersionResource{
		"Deployment":     {Group: "apps", Version: "v1", Resource: "deployments"},
		"VirtualService": {Group: "networking.istio.io", Version: "v1", Resource: "virtualservices"},
	}
	return s.client.Resource(of[kind]).Namespace(s.ns)
}

// apply returns what it has applied, by kind, or why it has applied nothing.
func (s toolOfSets) apply(t *testing.T, set ...*unstructured.Unstructured) (changed map[string]bool, err error) {
	t.Helper()
	force := true
	write := func(object *unstructured.Unstructured, dryRun ...string) (*unstructured.Unstructured, error) {
		body, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		options := metav1.PatchOptions{FieldManager: s.manager, Force: &force, DryRun: dryRun}
		return s.resource(object.GetKind()).Patch(t.Context(), object.GetName(), types.ApplyPatchType, body, options)
	}
	changed = map[string]bool{}
	for _, object := range set {
		tried, err := write(object, metav1.DryRunAll)
		if err != nil {
			return nil, fmt.Errorf("dry run of %s: %w", object.GetKind(), err)
		}
		live, err := s.resource(object.GetKind()).Get(t.Context(), object.GetName(), metav1.GetOptions{})
		changed[object.GetKind()] = err != nil || !reflect.DeepEqual(tried.Object["spec"], live.Object["spec"]) ||
			!reflect.DeepEqual(tried.GetLabels(), live.GetLabels()) || !reflect.DeepEqual(tried.GetAnnotations(), live.GetAnnotations())
	}
	for _, object := range set {
		if !changed[object.GetKind()] {
			continue
		}
		if _, err := write(object); err != nil {
			return changed, err
		}
	}
	return changed, nil
}

// deploymentOf is the canary's, with an image.
func deploymentOf(ns, image string) *unstructured.Unstructured {
	labels := map[string]any{"app": "orders", "version": "v2"}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": "orders-v2", "namespace": ns},
		"spec": map[string]any{"selector": map[string]any{"matchLabels": labels}, "template": map[string]any{
			"metadata": map[string]any{"labels": labels},
			"spec":     map[string]any{"containers": []any{map[string]any{"name": "app", "image": image}}},
		}},
	}}
}

// One commit with a fix and 90/10 comes as one set. Under a lock all of it is
// taken and the weights stay, whatever the tool's field manager is; where the
// policies do not look they follow.
func TestASetIsTriedAndAppliedAsTheNamespacesLabelSays(t *testing.T) {
	p := newPoliced(t)
	namespaces := map[string]string{}
	order := []string{"", "rewrite", "off"}
	for _, label := range order {
		var labels map[string]string
		if label != "" {
			labels = map[string]string{decision.Prefix + "admission": label}
		}
		namespaces[label] = p.namespace(labels, nil)
	}
	p.install(namespaces[""], namespaces[""], namespaces["rewrite"], namespaces["off"])
	for _, label := range order {
		for _, manager := range []string{"kustomize-controller", "another-tool"} {
			t.Run(fmt.Sprintf("label %q, %s", label, manager), func(t *testing.T) {
				ns := namespaces[label]
				p := &policed{t: t, plane: p.plane, kube: p.kube}
				config := p.plane.RESTConfig(clusterAdmin.in(ns))
				config.WarningHandler = rest.NoWarnings{}
				client, err := dynamic.NewForConfig(config)
				if err != nil {
					t.Fatal(err)
				}
				tool := toolOfSets{manager, client, ns}
				weights := func(stable, canary int) *unstructured.Unstructured {
					vs := withSpec(t, split(stable, canary))
					vs.SetNamespace(ns)
					vs.SetName("orders-service")
					return vs
				}
				want := func(when, image, weights string, changed map[string]bool, wantChanged ...bool) {
					t.Helper()
					d, err := tool.resource("Deployment").Get(t.Context(), "orders-v2", metav1.GetOptions{})
					if err != nil {
						t.Fatal(err)
					}
					vs, err := tool.resource("VirtualService").Get(t.Context(), "orders-service", metav1.GetOptions{})
					if err != nil {
						t.Fatal(err)
					}
					containers, _, _ := unstructured.NestedSlice(d.Object, "spec", "template", "spec", "containers")
					if got := containers[0].(map[string]any)["image"]; got != image || weightsOf(vs) != weights {
						t.Errorf("%s: image %v and weights %s, want %s and %s", when, got, weightsOf(vs), image, weights)
					}
					if wanted := map[string]bool{"Deployment": wantChanged[0], "VirtualService": wantChanged[1]}; !reflect.DeepEqual(changed, wanted) {
						t.Errorf("%s: applied %v, want %v", when, changed, wanted)
					}
				}
				apply := func(set ...*unstructured.Unstructured) map[string]bool {
					t.Helper()
					changed, err := tool.apply(t, set...)
					if err != nil {
						t.Fatal(err)
					}
					return changed
				}

				apply(deploymentOf(ns, "orders:bad"), weights(100, 0))
				want("before the lock", "orders:bad", "90/10", apply(deploymentOf(ns, "orders:bad"), weights(90, 10)), false, true)

				p.rollBack(ns)
				locked := apply(deploymentOf(ns, "orders:fixed"), weights(90, 10))
				if label == "off" {
					want("under the lock", "orders:fixed", "90/10", locked, true, true)
				} else {
					want("under the lock", "orders:fixed", "100/0", locked, true, false)
				}

				p.lockIt(ns, false)
				want("after the lock", "orders:fixed", "90/10", apply(deploymentOf(ns, "orders:fixed"), weights(90, 10)), false, label != "off")
				apply(deploymentOf(ns, "orders:bad"), weights(100, 0)) // for the next one
			})
		}
	}
}

// rollBack writes lock and weights in one patch, as guardian's rollback does.
func (p *policed) rollBack(ns string) {
	p.t.Helper()
	patch, err := json.Marshal([]virtualservice.Op{
		{Op: "add", Path: "/metadata/annotations", Value: map[string]string{key: mustEncode(p.t, theGuardian.lock(ns, bySubset, all))}},
		{Op: "add", Path: "/spec/http/0/route/0/weight", Value: 100}, {Op: "add", Path: "/spec/http/0/route/1/weight", Value: 0},
	})
	if err != nil {
		p.t.Fatal(err)
	}
	client := vsClient(p.t, p.plane.RESTConfig(theGuardian.in(ns)), ns, "v1")
	if _, err := client.Patch(p.t.Context(), "orders-service", types.JSONPatchType, patch, metav1.PatchOptions{FieldManager: FieldManager}); err != nil {
		p.t.Fatal(err)
	}
}

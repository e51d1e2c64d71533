package remediate

import (
	"context"
	"strings"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
)

// Enforcement is what the API server makes of a lock in a namespace.
type Enforcement string

// How a lock is enforced.
const (
	EnforcedHold   Enforcement = "held"    // all policies are in force
	EnforcedRefuse Enforcement = "refused" // those that hold dry runs and GitOps are not
	EnforcedNot    Enforcement = "none"    // no policy is: guardian reverts what others shift
)

// ProbeEnforcement finds out which of the admission policies are in force, by a
// dry run of making a VirtualService that bears a lock: nothing is written. An
// error says that it could not be tried, as without the right to make one.
func ProbeEnforcement(ctx context.Context, client dynamic.Interface, namespace string) (Enforcement, error) {
	const name = "guardian-check"
	value, err := decision.LockAnnotation{By: "system:serviceaccount:" + namespace + ":" + name, Canary: []string{name + "/canary"}, Stable: []string{name + "/stable"},
		Since: time.Unix(0, 0), Message: "a dry run of guardian check"}.Encode()
	if err != nil {
		return "", err
	}
	api := newIstioAPI(client, namespace)
	got, err := inServed(api, resourceVirtualServices, func(r dynamic.ResourceInterface) (*unstructured.Unstructured, error) {
		vs := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": IstioGroup + "/" + api.version(resourceVirtualServices), "kind": "VirtualService",
			"metadata": map[string]any{"name": name, "namespace": namespace, "annotations": map[string]any{decision.LockKey(name): value}},
			"spec": map[string]any{"hosts": []any{name + ".invalid"}, "http": []any{map[string]any{
				"route": []any{map[string]any{"destination": map[string]any{"host": name + ".invalid"}}}}}},
		}}
		return r.Create(ctx, vs, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	})
	switch {
	case apierrors.IsForbidden(err) && strings.Contains(err.Error(), PolicyLock):
		return EnforcedRefuse, nil
	case err != nil:
		return "", err
	case got.GetAnnotations()[decision.LockKey(name)] == "":
		return EnforcedHold, nil
	}
	return EnforcedNot, nil
}

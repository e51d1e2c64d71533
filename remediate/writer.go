package remediate

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
)

// store writes what guardian owns. Each write is tested against the resource
// version of the object handed in; errConflict is returned when that is no
// longer the present one.
type store interface {
	writeRecord(ctx context.Context, guard string, old *corev1.ConfigMap, r decision.Record) (*corev1.ConfigMap, error)
	patchVirtualService(ctx context.Context, vs *unstructured.Unstructured, ops []virtualservice.Op, manager string) (*unstructured.Unstructured, error)
	release(ctx context.Context, name string) error
}

// writer changes what guardian owns in the cluster. Every write is tested
// against the resource version that was read; errConflict is returned when
// that is no longer the present one.
type writer struct {
	namespace string
	kube      kubernetes.Interface
	istio     *istioAPI
	cache     *cacheReader  // told of what was written
	user      func() string // guardian's own; its records name it
}

// writeRecord makes the record what r says and returns its new resource
// version.
func (w *writer) writeRecord(ctx context.Context, guard string, old *corev1.ConfigMap, r decision.Record) (*corev1.ConfigMap, error) {
	cms := w.kube.CoreV1().ConfigMaps(w.namespace)
	set := map[string]string{records.LabelGuard: guard, "app.kubernetes.io/managed-by": "guardian"}
	if r.Lock != nil {
		set[records.LabelLocked] = "true"
	}
	if old == nil {
		cm, err := cms.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: records.Name(guard), Namespace: w.namespace, Labels: set, Annotations: records.OwnerOf(nil, w.user())},
			Data:       r.Data(),
		}, metav1.CreateOptions{FieldManager: FieldManager})
		if apierrors.IsAlreadyExists(err) {
			err = w.orForeign(ctx, guard, err)
		}
		return cm, conflictOr(err, "create record %s/%s", w.namespace, records.Name(guard))
	}
	patch, err := records.Patch(old, set, r, w.user())
	if err != nil {
		return nil, err
	}
	cm, err := cms.Patch(ctx, old.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: FieldManager})
	if err == nil {
		cm.ManagedFields = nil
		w.cache.ownRecords.wrote(cm)
	}
	return cm, conflictOr(err, "write record %s/%s", w.namespace, old.Name)
}

// orForeign is err, which says that a record exists already, or that what exists
// is none.
func (w *writer) orForeign(ctx context.Context, guard string, err error) error {
	cm, readErr := absent(w.kube.CoreV1().ConfigMaps(w.namespace).Get(ctx, records.Name(guard), metav1.GetOptions{}))
	if readErr != nil {
		return err
	}
	return cmp.Or(records.CheckForeign(guard, cm), err)
}

// patchVirtualService applies ops with a test of the resource version.
func (w *writer) patchVirtualService(ctx context.Context, vs *unstructured.Unstructured, ops []virtualservice.Op, manager string) (*unstructured.Unstructured, error) {
	body, err := json.Marshal(append([]virtualservice.Op{{Op: "test", Path: "/metadata/resourceVersion", Value: vs.GetResourceVersion()}}, ops...))
	if err != nil {
		return nil, fmt.Errorf("patch VirtualService %s/%s: %w", w.namespace, vs.GetName(), err)
	}
	now, err := inServed(w.istio, resourceVirtualServices, func(r dynamic.ResourceInterface) (*unstructured.Unstructured, error) {
		return r.Patch(ctx, vs.GetName(), types.JSONPatchType, body, metav1.PatchOptions{FieldManager: manager})
	})
	if err == nil {
		trimVirtualService(now)
		w.cache.ownServices.wrote(now)
	}
	return now, conflictOr(err, "patch VirtualService %s/%s", w.namespace, vs.GetName())
}

// release takes guardian's rollback entries out of managedFields, so that a
// GitOps tool that ignores what guardian owns sees the field again.
func (w *writer) release(ctx context.Context, name string) error {
	u, err := absent(w.istio.get(ctx, resourceVirtualServices, name))
	if err != nil {
		return fmt.Errorf("read VirtualService %s/%s: %w", w.namespace, name, err)
	}
	if u == nil {
		return nil
	}
	var ops []virtualservice.Op
	fields := u.GetManagedFields()
	for i := len(fields) - 1; i >= 0; i-- {
		if fields[i].Manager == FieldManager {
			ops = append(ops, virtualservice.Op{Op: "remove", Path: fmt.Sprintf("/metadata/managedFields/%d", i)})
		}
	}
	if len(ops) == 0 {
		return nil
	}
	_, err = w.patchVirtualService(ctx, u, ops, FieldManagerPromotion)
	return err
}

package records

import (
	"encoding/json"
	"slices"

	"github.com/canary-guardian/guardian/remediate/decision"
	corev1 "k8s.io/api/core/v1"
)

// OwnerOf is the annotation that a record without an owner gets: the policy that
// guards records lets its owner alone change what guardian writes.
func OwnerOf(old *corev1.ConfigMap, user string) map[string]string {
	if user == "" || old != nil && old.Annotations[AnnotationOwner] != "" {
		return nil
	}
	return map[string]string{AnnotationOwner: user}
}

// Patch is a merge patch with a test of the resource version.
func Patch(old *corev1.ConfigMap, set map[string]string, r decision.Record, user string) ([]byte, error) {
	data, labelSet := map[string]any{}, map[string]any{}
	now := r.Data()
	for k := range old.Data {
		if _, ok := now[k]; !ok && ownKey(k) {
			data[k] = nil
		}
	}
	for k, v := range now {
		if old.Data[k] != v {
			data[k] = v
		}
	}
	for k, v := range set {
		if old.Labels[k] != v {
			labelSet[k] = v
		}
	}
	if _, locked := set[LabelLocked]; !locked && old.Labels[LabelLocked] != "" {
		labelSet[LabelLocked] = nil
	}
	meta := map[string]any{"resourceVersion": old.ResourceVersion}
	if len(labelSet) > 0 {
		meta["labels"] = labelSet
	}
	if owner := OwnerOf(old, user); owner != nil {
		meta["annotations"] = owner
	}
	return json.Marshal(map[string]any{"metadata": meta, "data": data})
}

func ownKey(k string) bool {
	return k == decision.KeyRequestOnce || slices.Contains(decision.OwnKeys, k) || slices.Contains(decision.RequestKeys, k)
}

// Holds says whether the ConfigMap already holds the record.
func Holds(old *corev1.ConfigMap, r decision.Record) bool {
	if old == nil || (old.Labels[LabelLocked] == "true") != (r.Lock != nil) {
		return false
	}
	now := r.Data()
	for k := range old.Data {
		if _, ok := now[k]; !ok && ownKey(k) {
			return false
		}
	}
	for k, v := range now {
		if old.Data[k] != v {
			return false
		}
	}
	return true
}

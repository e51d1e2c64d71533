package remediate

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

// objectVersion is one state of one object.
type objectVersion struct {
	uid     types.UID
	version string // of the resource
}

func versionOf(o metav1.Object) objectVersion {
	return objectVersion{o.GetUID(), o.GetResourceVersion()}
}

// lookedAt knows in which versions the last look at each guard has read what guardian
// writes of it: the record and the VirtualServices. The watch brings back what this
// replica has written, and by then the guard has nearly always been looked at with it, as
// the mutation cache had it. Looks that bring nothing new are a third of those of a burst.
type lookedAt struct{ perGuard[[]objectVersion] }

// read notes what a look has read. What becomes of it, the same pass sees to, or is
// tried again.
func (l *lookedAt) read(guard string, s snapshot) {
	versions := make([]objectVersion, 0, 1+len(s.services))
	if s.record != nil {
		versions = append(versions, versionOf(s.record))
	}
	for _, vs := range s.services {
		versions = append(versions, versionOf(vs))
	}
	l.note(guard, versions)
}

// has says that the last look at a guard has read an object as it is.
func (l *lookedAt) has(guard string, object any) bool {
	o, ok := object.(metav1.Object)
	switch object.(type) {
	case *corev1.ConfigMap, *unstructured.Unstructured:
	default:
		ok = false // it is read for more than one guard, and by more than its name
	}
	if !ok || o.GetResourceVersion() == "" {
		return false
	}
	versions, _ := l.of(guard)
	return slices.Contains(versions, versionOf(o))
}

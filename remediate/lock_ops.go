package remediate

import (
	"slices"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// lockOps are the operations that make the lock's annotation of a VirtualService
// what the record says: user's own is written, or removed when the lock was
// lifted after it was set. Another's stays while there is no lock.
func lockOps(vs *unstructured.Unstructured, guard string, r decision.Record, user string, before []virtualservice.Op) []virtualservice.Op {
	have := vs.GetAnnotations()
	value, stands := have[decision.LockKey(guard)]
	path := annotationAt(decision.LockKey(guard))
	if want, ok := decision.LockAnnotationOf(r, user); ok {
		switch {
		case stands && value == want:
			return nil
		case have == nil && !slices.ContainsFunc(before, func(op virtualservice.Op) bool { return op.Path == annotationPath }):
			return []virtualservice.Op{{Op: "add", Path: annotationPath, Value: map[string]string{}}, {Op: "add", Path: path, Value: want}}
		}
		return []virtualservice.Op{{Op: "add", Path: path, Value: want}}
	}
	if !stands || !isLifted(value, r, user) {
		return nil
	}
	return []virtualservice.Op{{Op: "remove", Path: path}}
}

// isLifted says that a record has no lock any more of which an annotation tells that is
// user's own, or that cannot be read.
func isLifted(annotation string, r decision.Record, user string) bool {
	if r.Lock != nil || r.Status.State == decision.StateUnknown {
		return false
	}
	l, err := decision.ParseLockAnnotation(annotation)
	return err != nil || l.By == user && !l.Since.After(r.Status.LiftedAt)
}

// foreignLock says that a VirtualService's lock of the guard names another user,
// who alone may change it.
func foreignLock(vs *unstructured.Unstructured, guard, user string) bool {
	l, err := decision.ParseLockAnnotation(vs.GetAnnotations()[decision.LockKey(guard)])
	return err == nil && l.By != user
}

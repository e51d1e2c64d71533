package remediate

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// trim keeps of an object what guardian looks at. What it returns it leaves as
// it is: client-go may hand a transform the same object twice.
func (p BuildParts) trim(obj any) (any, error) {
	switch o := obj.(type) {
	case *appsv1.Deployment:
		return slimDeploymentOf(o, p), nil
	case *appsv1.ReplicaSet:
		return slimReplicaSetOf(o, p), nil
	case *appsv1.ControllerRevision:
		return slimControllerRevisionOf(o, p), nil
	case *corev1.Pod:
		return slimPodOf(o), nil
	case *discoveryv1.EndpointSlice:
		return slimSliceOf(o), nil
	case *corev1.Service:
		return slimServiceOf(o), nil
	case *unstructured.Unstructured:
		if o.GetKind() == "DestinationRule" {
			return slimRuleOf(o), nil
		}
		trimVirtualService(o)
	case metav1.Object:
		o.SetManagedFields(nil)
	}
	return obj, nil
}

// annotationApplied is kubectl's copy of the whole object.
const annotationApplied = "kubectl.kubernetes.io/last-applied-configuration"

// trimVirtualService drops what is large and not looked at: of managedFields
// all but the name of guardian's own rollbacks and of who wrote the routes last, and
// the text of kubectl's copy.
// That the annotation is there stays: a patch tells an object without
// annotations from one with some.
func trimVirtualService(u *unstructured.Unstructured) {
	u.SetManagedFields(lastWriters(u))
	if set := u.GetAnnotations(); set[annotationApplied] != "" {
		set[annotationApplied] = ""
		u.SetAnnotations(set)
	}
}

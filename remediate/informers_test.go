package remediate

import (
	"reflect"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// client-go may hand a transform an object that it has transformed before.
func TestTrimmingTwiceIsTrimmingOnce(t *testing.T) {
	template := corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "orders:1"}}}}
	yes := true
	for _, object := range []any{
		&appsv1.Deployment{Spec: appsv1.DeploymentSpec{Template: template}},
		&appsv1.ReplicaSet{Spec: appsv1.ReplicaSetSpec{Template: template}},
		&corev1.Pod{Status: corev1.PodStatus{
			Conditions:        []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
			ContainerStatuses: []corev1.ContainerStatus{{Name: "app", RestartCount: 3}, {Name: sidecar, RestartCount: 5}},
		}},
		&discoveryv1.EndpointSlice{Endpoints: []discoveryv1.Endpoint{
			{TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: "orders-1"}, Conditions: discoveryv1.EndpointConditions{Ready: &yes}},
		}},
	} {
		once, err := BuildParts{}.trim(object)
		if err != nil {
			t.Fatal(err)
		}
		twice, err := BuildParts{}.trim(once)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(once, twice) {
			t.Errorf("%T:\nonce  %+v\ntwice %+v", object, once, twice)
		}
	}
}

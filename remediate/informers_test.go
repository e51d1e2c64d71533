package remediate

import (
	"reflect"
	"slices"
	"testing"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/decision/decisiontest"
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

func TestARuleThatLeavesAHostHasItsGuardLookedAt(t *testing.T) {
	own, other, moved := oldRule("orders", 5, "v1=1"), oldRule("a-rule", 1, "v1=a"), oldRule("a-rule", 1, "v1=a")
	moved.host = "elsewhere"
	i := cachesOf(t)
	var looked []string
	i.touched = func(guards []string) { looked = append(looked, guards...) }
	g := decisiontest.Given().Guard
	g.DestinationRule = own.name
	i.setGuards([]decision.Guard{g})
	for _, r := range []*slimRule{own, moved} {
		if err := i.reader.rules.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	i.tell(other, moved, true)
	if !slices.Contains(looked, g.Name) {
		t.Errorf("looked at %q, want %s", looked, g.Name)
	}
}

package controlplane_test

import (
	"fmt"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/canary-guardian/guardian/test/controlplane"
)

// observed is what somebody sees who watches the Pods of a version.
type observed struct {
	images     []string
	ready      int
	endpoints  int
	restarts   int32
	setsInUse  int
	deployment string
}

func observe(t *testing.T, plane *controlplane.Plane, app *controlplane.App, version string) observed {
	t.Helper()
	client := clientset(t, plane.RESTConfig(controlplane.Admin))
	selector := metav1.ListOptions{LabelSelector: "app=" + app.Name + ",version=" + version}
	pods, err := client.CoreV1().Pods(app.Namespace).List(t.Context(), selector)
	must(t, err)
	var seen observed
	names := map[string]bool{}
	for _, pod := range pods.Items {
		names[pod.Name] = true
		seen.images = append(seen.images, pod.Spec.Containers[0].Image)
		seen.restarts += pod.Status.ContainerStatuses[0].RestartCount
		for _, condition := range pod.Status.Conditions {
			if condition.Type == "Ready" && condition.Status == "True" {
				seen.ready++
			}
		}
	}
	slices.Sort(seen.images)
	endpoints, err := client.DiscoveryV1().EndpointSlices(app.Namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=" + app.Name})
	must(t, err)
	for _, slice := range endpoints.Items {
		for _, endpoint := range slice.Endpoints {
			if names[endpoint.TargetRef.Name] && *endpoint.Conditions.Ready {
				seen.endpoints++
			}
		}
	}
	sets, err := client.AppsV1().ReplicaSets(app.Namespace).List(t.Context(), selector)
	must(t, err)
	for _, set := range sets.Items {
		if *set.Spec.Replicas > 0 {
			seen.setsInUse++
		}
	}
	deployment, err := client.AppsV1().Deployments(app.Namespace).Get(t.Context(), app.Deployment(version), metav1.GetOptions{})
	must(t, err)
	seen.deployment = fmt.Sprintf("%d/%d", deployment.Status.ReadyReplicas, deployment.Status.Replicas)
	return seen
}

func TestAnAppBehavesAsIfItsControllersRan(t *testing.T) {
	plane := controlplane.Shared(t)
	app, err := plane.NewApp(t.Context(), plane.Namespace(t), "orders-service")
	must(t, err)
	expect := func(step string, want observed) {
		t.Helper()
		if got := observe(t, plane, app, "v2"); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: got %+v, want %+v", step, got, want)
		}
	}
	first := []string{"orders-service:v2", "orders-service:v2"}
	second := []string{"orders-service:2.1", "orders-service:2.1"}

	expect("at first", observed{first, 2, 2, 0, 1, "2/2"})
	must(t, app.Restart(t.Context(), "v2", 3))
	expect("after three restarts of each Pod", observed{first, 2, 2, 6, 1, "2/2"})
	must(t, app.SetImage(t.Context(), "v2", "orders-service:2.1"))
	expect("with a new template, not rolled out", observed{first, 2, 2, 6, 1, "2/2"})
	must(t, plane.Settle(t.Context(), app.Namespace))
	expect("rolled out", observed{second, 2, 2, 0, 1, "2/2"})
	must(t, app.SetReady(t.Context(), "v2", false))
	expect("not ready", observed{second, 0, 0, 0, 1, "0/2"})
	must(t, app.SetReady(t.Context(), "v2", true))
	must(t, app.Scale(t.Context(), "v2", 0))
	expect("scaled to nothing", observed{nil, 0, 0, 0, 0, "0/0"})
	must(t, app.Scale(t.Context(), "v2", 1))
	expect("scaled to one", observed{second[:1], 1, 1, 0, 1, "1/1"})
	must(t, app.Deploy(t.Context(), "v2", "orders-service:v2"))
	expect("rolled back to the first build", observed{first[:1], 1, 1, 0, 1, "1/1"})
	if got := observe(t, plane, app, "v1"); got.ready != 2 || got.endpoints != 2 {
		t.Errorf("v1 was touched: %+v", got)
	}
}

package controlplane_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/canary-guardian/guardian/test/controlplane"
)

func clientset(t *testing.T, config *rest.Config) *kubernetes.Clientset {
	t.Helper()
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestIstiosResourcesAreServedInEveryVersionWithTheSameContent(t *testing.T) {
	plane := controlplane.Shared(t)
	app, err := plane.NewApp(t.Context(), plane.Namespace(t), "orders-service")
	must(t, err)
	client, err := dynamic.NewForConfig(plane.RESTConfig(controlplane.Admin))
	must(t, err)
	stored, err := app.VirtualService(t.Context())
	must(t, err)
	for _, version := range []string{"v1", "v1beta1", "v1alpha3"} {
		resource := schema.GroupVersionResource{Group: "networking.istio.io", Version: version, Resource: "virtualservices"}
		object, err := client.Resource(resource).Namespace(app.Namespace).Get(t.Context(), app.Name, metav1.GetOptions{})
		must(t, err)
		if got, want := asJSON(t, object.Object["spec"]), asJSON(t, stored.Object["spec"]); got != want {
			t.Errorf("spec in %s: got %s, want %s", version, got, want)
		}
	}
}

func TestAWeightOfZeroIsStored(t *testing.T) {
	plane := controlplane.Shared(t)
	app, err := plane.NewApp(t.Context(), plane.Namespace(t), "orders-service")
	must(t, err)
	object, err := app.VirtualService(t.Context())
	must(t, err)
	want := `{"hosts":["orders-service"],"http":[{"route":[` +
		`{"destination":{"host":"orders-service","subset":"v1"},"weight":100},` +
		`{"destination":{"host":"orders-service","subset":"v2"},"weight":0}]}]}`
	if got := asJSON(t, object.Object["spec"]); got != want {
		t.Errorf("spec: got %s, want %s", got, want)
	}
	must(t, app.SetWeights(t.Context(), 70, 30))
	weights, err := app.Weights(t.Context())
	must(t, err)
	if want := map[string]int64{"v1": 70, "v2": 30}; !maps.Equal(weights, want) {
		t.Errorf("weights: got %v, want %v", weights, want)
	}
}

func TestPrometheusOperatorsResourcesAreServed(t *testing.T) {
	plane := controlplane.Shared(t)
	namespace := plane.Namespace(t)
	client, err := dynamic.NewForConfig(plane.RESTConfig(controlplane.Admin))
	must(t, err)
	for resource, object := range map[string]map[string]any{
		"v1 prometheusrules": {"kind": "PrometheusRule", "spec": map[string]any{
			"groups": []any{map[string]any{"name": "g", "interval": "3s", "rules": []any{map[string]any{"alert": "A", "expr": "vector(1)"}}}}}},
		"v1 servicemonitors": {"kind": "ServiceMonitor", "spec": map[string]any{"selector": map[string]any{}, "endpoints": []any{}}},
		"v1 podmonitors":     {"kind": "PodMonitor", "spec": map[string]any{"selector": map[string]any{}, "podMetricsEndpoints": []any{}}},
		"v1alpha1 alertmanagerconfigs": {"kind": "AlertmanagerConfig", "spec": map[string]any{
			"receivers": []any{map[string]any{"name": "guardian"}}, "route": map[string]any{"receiver": "guardian", "groupWait": "0s"}}},
	} {
		version, plural, _ := strings.Cut(resource, " ")
		gvr := schema.GroupVersionResource{Group: "monitoring.coreos.com", Version: version, Resource: plural}
		object["apiVersion"] = gvr.GroupVersion().String()
		object["metadata"] = map[string]any{"name": "x"}
		want := asJSON(t, object["spec"])
		created, err := client.Resource(gvr).Namespace(namespace).Create(t.Context(), &unstructured.Unstructured{Object: object}, metav1.CreateOptions{})
		if err != nil {
			t.Errorf("create %s: %v", resource, err)
			continue
		}
		if got := asJSON(t, created.Object["spec"]); got != want {
			t.Errorf("%s: got %s, want %s", resource, got, want)
		}
	}
}

func TestAUserMayDoNothingUntilItIsGranted(t *testing.T) {
	plane := controlplane.Shared(t)
	namespace := plane.Namespace(t)
	users := map[string]*rest.Config{
		controlplane.Nobody: plane.RESTConfig(controlplane.Nobody),
		"somebody new":      plane.RESTConfig("somebody new"),
	}
	account, err := plane.ServiceAccount(t.Context(), namespace, "guardian")
	must(t, err)
	users["system:serviceaccount:"+namespace+":guardian"] = account
	for user, config := range users {
		t.Run(user, func(t *testing.T) {
			client := clientset(t, config)
			who, err := client.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
			must(t, err)
			if got := who.Status.UserInfo.Username; got != user {
				t.Fatalf("kube-apiserver takes %q for %q", user, got)
			}
			list := func() error {
				_, err := client.CoreV1().ConfigMaps(namespace).List(t.Context(), metav1.ListOptions{})
				return err
			}
			if err := list(); !apierrors.IsForbidden(err) {
				t.Fatalf("before the grant: got %v, want Forbidden", err)
			}
			must(t, plane.Grant(t.Context(), namespace, user, rbacv1.PolicyRule{
				APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"list"},
			}))
			must(t, list())
			_, err = client.CoreV1().ConfigMaps(namespace).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, metav1.CreateOptions{})
			if !apierrors.IsForbidden(err) {
				t.Errorf("a verb that was not granted: got %v, want Forbidden", err)
			}
		})
	}
}

func TestImpersonatedGroupsArriveAtTheServer(t *testing.T) {
	plane := controlplane.Shared(t)
	client := clientset(t, plane.RESTConfig("robot", "release-managers"))
	who, err := client.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	must(t, err)
	if got, want := strings.Join(who.Status.UserInfo.Groups, " "), "release-managers system:authenticated"; got != want {
		t.Errorf("groups: got %q, want %q", got, want)
	}
}

func TestTheAPIServerComesBackFromAnOutageWithItsData(t *testing.T) {
	plane := controlplane.Shared(t)
	namespace := plane.Namespace(t)
	client := clientset(t, plane.RESTConfig(controlplane.Admin))
	_, err := client.CoreV1().ConfigMaps(namespace).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, metav1.CreateOptions{})
	must(t, err)
	get := func() error {
		_, err := client.CoreV1().ConfigMaps(namespace).Get(t.Context(), "x", metav1.GetOptions{})
		return err
	}
	plane.StopAPIServer()
	if err := get(); err == nil {
		t.Error("an answer while the API server is stopped")
	}
	must(t, plane.StartAPIServer(t.Context()))
	must(t, plane.StartAPIServer(t.Context())) // it runs already
	if err := get(); err != nil {
		t.Errorf("after the outage: %v", err)
	}
}

func TestTheRealKubectlWorksAsAUser(t *testing.T) {
	plane := controlplane.Shared(t)
	app, err := plane.NewApp(t.Context(), plane.Namespace(t), "orders-service")
	must(t, err)
	must(t, app.Deploy(t.Context(), "v2", "orders-service:2.1"))
	printed, err := plane.Kubectl(t.Context(), controlplane.Admin, app.Namespace, "rollout", "status", "--timeout=5s", "deployment/"+app.Deployment("v2"))
	must(t, err)
	if !strings.Contains(printed, "successfully rolled out") {
		t.Errorf("rollout status: got %q", printed)
	}
	if printed, err := plane.Kubectl(t.Context(), controlplane.CI, app.Namespace, "get", "virtualservices"); err == nil || !strings.Contains(printed, "Forbidden") {
		t.Errorf("CI without rights: got %v and %q, want Forbidden", err, printed)
	}
}

func asJSON(t *testing.T, value any) string {
	t.Helper()
	text, err := json.Marshal(value)
	must(t, err)
	return string(text)
}

// eventually asks until there is no error, as long as the test may run.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	if err := controlplane.Poll(t.Context(), func(context.Context) error { return check() }); err != nil {
		t.Fatal(fmt.Errorf("%s: %w", what, err))
	}
}

package controlplane

import (
	"context"
	"encoding/json"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
)

// Resources of Istio, for dynamic clients. A typed client would drop weights of 0.
var (
	VirtualServices  = schema.GroupVersionResource{Group: "networking.istio.io", Version: "v1beta1", Resource: "virtualservices"}
	DestinationRules = schema.GroupVersionResource{Group: "networking.istio.io", Version: "v1beta1", Resource: "destinationrules"}
)

// App is a service like the running example: a Service, a DestinationRule with the subsets v1 and v2, a VirtualService
// between them, and one Deployment for each, <name>-v1 and <name>-v2.
type App struct {
	// Namespace and Name; the Service, DestinationRule and VirtualService have the same name.
	Namespace, Name string

	plane   *Plane
	client  *kubernetes.Clientset
	dynamic *dynamic.DynamicClient
}

// NewApp creates an App with two ready Pods of each version and all traffic on v1.
func (p *Plane) NewApp(ctx context.Context, namespace, name string) (*App, error) {
	config, err := p.admin()
	if err != nil {
		return nil, err
	}
	app := &App{Namespace: namespace, Name: name, plane: p}
	if app.client, err = kubernetes.NewForConfig(config); err != nil {
		return nil, err
	}
	if app.dynamic, err = dynamic.NewForConfig(config); err != nil {
		return nil, err
	}
	labels := map[string]string{"app": name}
	_, err = app.client.CoreV1().Services(namespace).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec: corev1.ServiceSpec{
			ClusterIP: corev1.ClusterIPNone, // so that a thousand services do not run out of addresses
			Selector:  labels,
			Ports:     []corev1.ServicePort{{Name: "http", Port: 8080}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("create Service %s/%s: %w", namespace, name, err)
	}
	subsets := []any{}
	for _, version := range []string{"v1", "v2"} {
		subsets = append(subsets, map[string]any{"name": version, "labels": map[string]any{"version": version}})
		if err := app.createDeployment(ctx, version); err != nil {
			return nil, err
		}
	}
	if err := app.create(ctx, DestinationRules, "DestinationRule", map[string]any{"host": name, "subsets": subsets}); err != nil {
		return nil, err
	}
	spec := map[string]any{"hosts": []any{name}, "http": app.routes(100, 0)}
	if err := app.create(ctx, VirtualServices, "VirtualService", spec); err != nil {
		return nil, err
	}
	return app, app.settle(ctx)
}

func (a *App) create(ctx context.Context, resource schema.GroupVersionResource, kind string, spec map[string]any) error {
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": resource.GroupVersion().String(), "kind": kind,
		"metadata": map[string]any{"name": a.Name, "namespace": a.Namespace},
		"spec":     spec,
	}}
	if _, err := a.dynamic.Resource(resource).Namespace(a.Namespace).Create(ctx, object, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create %s %s/%s: %w", kind, a.Namespace, a.Name, err)
	}
	return nil
}

// routes is spec.http with one route to both versions.
func (a *App) routes(v1, v2 int64) []any {
	destination := func(subset string, weight int64) any {
		return map[string]any{"destination": map[string]any{"host": a.Name, "subset": subset}, "weight": weight}
	}
	return []any{map[string]any{"route": []any{destination("v1", v1), destination("v2", v2)}}}
}

func (a *App) createDeployment(ctx context.Context, version string) error {
	labels := map[string]string{"app": a.Name, "version": version}
	replicas := int32(2)
	_, err := a.client.AppsV1().Deployments(a.Namespace).Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: a.Deployment(version), Labels: labels},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: a.Name + ":" + version}}},
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create Deployment %s/%s: %w", a.Namespace, a.Deployment(version), err)
	}
	return nil
}

// Deployment is the name of a version's Deployment.
func (a *App) Deployment(version string) string { return a.Name + "-" + version }

// settle does what the controllers would do for this App alone.
func (a *App) settle(ctx context.Context) error {
	return a.plane.settle(ctx, a.client, a.Namespace, "app="+a.Name)
}

// SetImage changes a version's Pod template, as a new build does. The Pods stay the old ones until [Plane.Settle].
func (a *App) SetImage(ctx context.Context, version, image string) error {
	return a.patchDeployment(ctx, version, map[string]any{"spec": map[string]any{"template": map[string]any{
		"spec": map[string]any{"containers": []any{map[string]any{"name": "app", "image": image}}},
	}}})
}

// Deploy changes a version's Pod template and replaces its Pods by ready ones.
func (a *App) Deploy(ctx context.Context, version, image string) error {
	if err := a.SetImage(ctx, version, image); err != nil {
		return err
	}
	return a.settle(ctx)
}

// Scale changes how many Pods a version has.
func (a *App) Scale(ctx context.Context, version string, replicas int) error {
	if err := a.patchDeployment(ctx, version, map[string]any{"spec": map[string]any{"replicas": replicas}}); err != nil {
		return err
	}
	return a.settle(ctx)
}

// SetReady makes all Pods of a version ready or not ready, those of later builds included.
func (a *App) SetReady(ctx context.Context, version string, ready bool) error {
	annotation := map[string]any{readyAnnotation: fmt.Sprint(ready)}
	if err := a.patchDeployment(ctx, version, map[string]any{"metadata": map[string]any{"annotations": annotation}}); err != nil {
		return err
	}
	return a.settle(ctx)
}

func (a *App) patchDeployment(ctx context.Context, version string, patch map[string]any) error {
	body, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	_, err = a.client.AppsV1().Deployments(a.Namespace).Patch(ctx, a.Deployment(version), types.StrategicMergePatchType, body, metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("patch Deployment %s/%s: %w", a.Namespace, a.Deployment(version), err)
	}
	return nil
}

// Restart adds to the restart count of the container in each Pod of a version.
func (a *App) Restart(ctx context.Context, version string, times int) error {
	pods, err := a.client.CoreV1().Pods(a.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + a.Name + ",version=" + version})
	if err != nil {
		return fmt.Errorf("restart %s/%s: %w", a.Namespace, a.Deployment(version), err)
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		for j := range pod.Status.ContainerStatuses {
			pod.Status.ContainerStatuses[j].RestartCount += int32(times)
		}
		if _, err := a.client.CoreV1().Pods(a.Namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("restart Pod %s/%s: %w", a.Namespace, pod.Name, err)
		}
	}
	return nil
}

// SetWeights replaces spec.http of the VirtualService by one route with these weights, as `kubectl apply` of one of
// the article's manifests does: whatever is there, and without looking at resourceVersion. Annotations stay.
func (a *App) SetWeights(ctx context.Context, v1, v2 int) error {
	body, err := json.Marshal(map[string]any{"spec": map[string]any{"http": a.routes(int64(v1), int64(v2))}})
	if err != nil {
		return err
	}
	_, err = a.dynamic.Resource(VirtualServices).Namespace(a.Namespace).Patch(ctx, a.Name, types.MergePatchType, body,
		metav1.PatchOptions{FieldManager: "kubectl-client-side-apply"})
	if err != nil {
		return fmt.Errorf("set weights %d/%d of VirtualService %s/%s: %w", v1, v2, a.Namespace, a.Name, err)
	}
	return nil
}

// Weights reads the weights of the VirtualService's first route, by subset, from the API server.
func (a *App) Weights(ctx context.Context) (map[string]int64, error) {
	object, err := a.VirtualService(ctx)
	if err != nil {
		return nil, err
	}
	var spec struct {
		HTTP []struct {
			Route []struct {
				Destination struct{ Subset string }
				Weight      int64
			}
		}
	}
	raw, err := json.Marshal(object.Object["spec"])
	if err == nil {
		err = json.Unmarshal(raw, &spec)
	}
	if err != nil || len(spec.HTTP) == 0 {
		return nil, fmt.Errorf("read weights of VirtualService %s/%s: no route, or %w", a.Namespace, a.Name, err)
	}
	weights := map[string]int64{}
	for _, route := range spec.HTTP[0].Route {
		weights[route.Destination.Subset] += route.Weight
	}
	return weights, nil
}

// VirtualService reads the whole object from the API server.
func (a *App) VirtualService(ctx context.Context) (*unstructured.Unstructured, error) {
	object, err := a.dynamic.Resource(VirtualServices).Namespace(a.Namespace).Get(ctx, a.Name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("get VirtualService %s/%s: %w", a.Namespace, a.Name, err)
	}
	return object, nil
}

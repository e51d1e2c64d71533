package controlplane

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
)

// readyAnnotation on a Deployment, "false", makes Settle leave its Pods not ready.
const readyAnnotation = "controlplane.test/ready"

// Settle does once what the controllers of Deployments, ReplicaSets and EndpointSlices and a kubelet would have done in
// a namespace by the time a rollout is over: Pods of the present templates run and are ready, those of former templates
// are gone, and the Services list them. Nothing listens at the Pods' addresses. Where the real controllers run, it
// waits for them to be done, and for what runs the Pods.
func (p *Plane) Settle(ctx context.Context, namespace string) error {
	client, err := p.client()
	if err != nil {
		return err
	}
	return p.settle(ctx, client, namespace, "")
}

// settle does the same for the Deployments and Services that a label selector chooses.
func (p *Plane) settle(ctx context.Context, client kubernetes.Interface, namespace, selector string) error {
	options := metav1.ListOptions{LabelSelector: selector}
	if p.options.Controllers {
		return awaitSettled(ctx, client, namespace, options)
	}
	deployments, err := client.AppsV1().Deployments(namespace).List(ctx, options)
	if err != nil {
		return fmt.Errorf("settle %s: %w", namespace, err)
	}
	for i := range deployments.Items {
		deployment := &deployments.Items[i]
		if err := p.rollOut(ctx, client, deployment); err != nil {
			return fmt.Errorf("settle Deployment %s/%s: %w", namespace, deployment.Name, err)
		}
	}
	services, err := client.CoreV1().Services(namespace).List(ctx, options)
	if err != nil {
		return fmt.Errorf("settle %s: %w", namespace, err)
	}
	for i := range services.Items {
		service := &services.Items[i]
		if err := listEndpoints(ctx, client, service); err != nil {
			return fmt.Errorf("settle Service %s/%s: %w", namespace, service.Name, err)
		}
	}
	return nil
}

// rollOut brings the Pods of a Deployment to its template and number.
func (p *Plane) rollOut(ctx context.Context, client kubernetes.Interface, deployment *appsv1.Deployment) error {
	set, err := replicaSet(ctx, client, deployment)
	if err != nil {
		return err
	}
	selector, err := metav1.LabelSelectorAsSelector(deployment.Spec.Selector)
	if err != nil {
		return err
	}
	pods, err := client.CoreV1().Pods(deployment.Namespace).List(ctx, metav1.ListOptions{LabelSelector: selector.String()})
	if err != nil {
		return err
	}
	want := int(*deployment.Spec.Replicas)
	kept := slices.DeleteFunc(pods.Items, func(pod corev1.Pod) bool {
		owner := metav1.GetControllerOf(&pod)
		if owner != nil && owner.UID == set.UID && want > 0 {
			want--
			return false
		}
		err = errors.Join(err, deletePod(ctx, client, &pod))
		return true
	})
	if err != nil {
		return err
	}
	for range want {
		pod, err := client.CoreV1().Pods(deployment.Namespace).Create(ctx, newPod(set), metav1.CreateOptions{})
		if err != nil {
			return err
		}
		kept = append(kept, *pod)
	}
	ready := deployment.Annotations[readyAnnotation] != "false"
	for i := range kept {
		if err := p.run(ctx, client, &kept[i], ready); err != nil {
			return err
		}
	}
	return reportStatus(ctx, client, deployment, set, int32(len(kept)), ready)
}

// deletePod removes a Pod at once: no kubelet would end its grace period.
func deletePod(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod) error {
	err := client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, *metav1.NewDeleteOptions(0))
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// replicaSet returns the ReplicaSet of the Deployment's present template, and scales those of former ones to zero.
func replicaSet(ctx context.Context, client kubernetes.Interface, deployment *appsv1.Deployment) (*appsv1.ReplicaSet, error) {
	template, err := json.Marshal(deployment.Spec.Template)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(template)
	hash := hex.EncodeToString(digest[:5])
	sets := client.AppsV1().ReplicaSets(deployment.Namespace)
	all, err := sets.List(ctx, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(deployment.Spec.Selector)})
	if err != nil {
		return nil, err
	}
	var present *appsv1.ReplicaSet
	for i := range all.Items {
		set := &all.Items[i]
		replicas := int32(0)
		if set.Name == deployment.Name+"-"+hash {
			present, replicas = set, *deployment.Spec.Replicas
		}
		if *set.Spec.Replicas == replicas {
			continue
		}
		set.Spec.Replicas = &replicas
		updated, err := sets.Update(ctx, set, metav1.UpdateOptions{})
		if err != nil {
			return nil, err
		}
		*set = *updated
	}
	if present != nil {
		return present, nil
	}
	set := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Name:            deployment.Name + "-" + hash,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(deployment, appsv1.SchemeGroupVersion.WithKind("Deployment"))},
		},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: deployment.Spec.Replicas,
			Selector: deployment.Spec.Selector.DeepCopy(),
			Template: *deployment.Spec.Template.DeepCopy(),
		},
	}
	set.Spec.Selector = metav1.CloneSelectorAndAddLabel(set.Spec.Selector, appsv1.DefaultDeploymentUniqueLabelKey, hash)
	set.Spec.Template.Labels = labels.Merge(set.Spec.Template.Labels, labels.Set{appsv1.DefaultDeploymentUniqueLabelKey: hash})
	set.Labels = set.Spec.Template.Labels
	return sets.Create(ctx, set, metav1.CreateOptions{})
}

func newPod(set *appsv1.ReplicaSet) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: *set.Spec.Template.ObjectMeta.DeepCopy(), Spec: *set.Spec.Template.Spec.DeepCopy()}
	pod.GenerateName = set.Name + "-"
	pod.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))}
	pod.Spec.NodeName = "node"
	return pod
}

// run gives a Pod the status of one that runs, and keeps restart counts.
func (p *Plane) run(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod, ready bool) error {
	if pod.Status.Phase == corev1.PodRunning && podReady(pod) == ready {
		return nil
	}
	condition := corev1.ConditionFalse
	if ready {
		condition = corev1.ConditionTrue
	}
	now := metav1.Now()
	pod.Status.Phase = corev1.PodRunning
	pod.Status.StartTime = cmp.Or(pod.Status.StartTime, &now)
	pod.Status.PodIP = cmp.Or(pod.Status.PodIP, p.podAddress())
	pod.Status.PodIPs = []corev1.PodIP{{IP: pod.Status.PodIP}}
	pod.Status.Conditions = nil
	for _, kind := range []corev1.PodConditionType{corev1.PodReady, corev1.ContainersReady} {
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: kind, Status: condition, LastTransitionTime: now})
	}
	for _, kind := range []corev1.PodConditionType{corev1.PodScheduled, corev1.PodInitialized} {
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: now})
	}
	restarts := map[string]int32{}
	for _, status := range pod.Status.ContainerStatuses {
		restarts[status.Name] = status.RestartCount
	}
	pod.Status.ContainerStatuses = nil
	for _, container := range pod.Spec.Containers {
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: container.Name, Image: container.Image, Ready: ready, RestartCount: restarts[container.Name],
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
		})
	}
	updated, err := client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("update status of Pod %s: %w", pod.Name, err)
	}
	*pod = *updated
	return nil
}

// podAddress returns an address that no other Pod has.
func (p *Plane) podAddress() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pods++
	return fmt.Sprintf("10.%d.%d.%d", 128+p.pods>>16&0x7f, p.pods>>8&0xff, p.pods&0xff)
}

func podReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// reportStatus writes what `kubectl rollout status` looks at.
func reportStatus(ctx context.Context, client kubernetes.Interface, deployment *appsv1.Deployment, set *appsv1.ReplicaSet, pods int32, ready bool) error {
	available := pods
	if !ready {
		available = 0
	}
	setStatus := appsv1.ReplicaSetStatus{
		Replicas: pods, FullyLabeledReplicas: pods, ReadyReplicas: available, AvailableReplicas: available,
		ObservedGeneration: set.Generation,
	}
	status := appsv1.DeploymentStatus{
		Replicas: pods, UpdatedReplicas: pods, ReadyReplicas: available, AvailableReplicas: available,
		UnavailableReplicas: pods - available, ObservedGeneration: deployment.Generation,
	}
	set, deployment = set.DeepCopy(), deployment.DeepCopy()
	set.Status, deployment.Status = setStatus, status
	if _, err := client.AppsV1().ReplicaSets(set.Namespace).UpdateStatus(ctx, set, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("update status of ReplicaSet %s: %w", set.Name, err)
	}
	if _, err := client.AppsV1().Deployments(deployment.Namespace).UpdateStatus(ctx, deployment, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("update status: %w", err)
	}
	return nil
}

// listEndpoints writes the EndpointSlice of a Service with a selector.
func listEndpoints(ctx context.Context, client kubernetes.Interface, service *corev1.Service) error {
	if len(service.Spec.Selector) == 0 {
		return nil
	}
	selector := labels.SelectorFromSet(service.Spec.Selector).String()
	pods, err := client.CoreV1().Pods(service.Namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return err
	}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name: service.Name + "-settled",
			Labels: map[string]string{
				discoveryv1.LabelServiceName: service.Name,
				discoveryv1.LabelManagedBy:   "controlplane.test",
			},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(service, corev1.SchemeGroupVersion.WithKind("Service"))},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{},
	}
	for _, port := range service.Spec.Ports {
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &port.Name, Port: &port.Port, Protocol: &port.Protocol})
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		if pod.Status.PodIP == "" {
			continue
		}
		ready, terminating := podReady(pod), pod.DeletionTimestamp != nil
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{pod.Status.PodIP},
			Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &ready, Terminating: &terminating},
			NodeName:   &pod.Spec.NodeName,
			TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		})
	}
	existing := client.DiscoveryV1().EndpointSlices(service.Namespace)
	_, err = existing.Update(ctx, slice, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		_, err = existing.Create(ctx, slice, metav1.CreateOptions{})
	}
	return err
}

// awaitSettled returns when the real controllers have rolled all Deployments out and the Services list their Pods.
func awaitSettled(ctx context.Context, client kubernetes.Interface, namespace string, options metav1.ListOptions) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return poll(ctx, func(ctx context.Context) error {
		deployments, err := client.AppsV1().Deployments(namespace).List(ctx, options)
		if err != nil {
			return err
		}
		for _, d := range deployments.Items {
			s, want := d.Status, *d.Spec.Replicas
			if s.ObservedGeneration != d.Generation || s.Replicas != want || s.UpdatedReplicas != want || s.AvailableReplicas != want {
				return fmt.Errorf("rollout of Deployment %s/%s: %d of %d replicas are up to date, %d available", namespace, d.Name, s.UpdatedReplicas, want, s.AvailableReplicas)
			}
		}
		services, err := client.CoreV1().Services(namespace).List(ctx, options)
		if err != nil {
			return err
		}
		for i := range services.Items {
			if err := listsItsPods(ctx, client, &services.Items[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

// listsItsPods says whether a Service's EndpointSlices have the ready Pods that it selects, and no others.
func listsItsPods(ctx context.Context, client kubernetes.Interface, service *corev1.Service) error {
	if len(service.Spec.Selector) == 0 {
		return nil
	}
	pods, err := client.CoreV1().Pods(service.Namespace).List(ctx, metav1.ListOptions{LabelSelector: labels.SelectorFromSet(service.Spec.Selector).String()})
	if err != nil {
		return err
	}
	slices, err := client.DiscoveryV1().EndpointSlices(service.Namespace).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + service.Name})
	if err != nil {
		return err
	}
	ready := map[string]bool{}
	for _, slice := range slices.Items {
		for _, e := range slice.Endpoints {
			if e.Conditions.Ready == nil || *e.Conditions.Ready {
				ready[e.Addresses[0]] = true
			}
		}
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		if ready[pod.Status.PodIP] != (podReady(pod) && pod.DeletionTimestamp == nil) {
			return fmt.Errorf("endpoints of Service %s/%s: Pod %s is not listed as it is", service.Namespace, service.Name, pod.Name)
		}
		delete(ready, pod.Status.PodIP)
	}
	if len(ready) > 0 {
		return fmt.Errorf("endpoints of Service %s/%s: Pods that are gone: %v", service.Namespace, service.Name, ready)
	}
	return nil
}

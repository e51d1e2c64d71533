package mesh

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Crash writes into the status of the first pod that a label selector chooses what a kubelet would write after its
// container has crashed and been started again. The pod stays ready, as one does that is up again before it is asked.
func Crash(ctx context.Context, client kubernetes.Interface, namespace, selector string) error {
	pods, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return fmt.Errorf("crash a pod of %s/%s: %w", namespace, selector, err)
	}
	if len(pods.Items) == 0 {
		return fmt.Errorf("crash a pod of %s/%s: there is none", namespace, selector)
	}
	pod, now := &pods.Items[0], metav1.Now()
	for i := range pod.Status.ContainerStatuses {
		c := &pod.Status.ContainerStatuses[i]
		c.RestartCount++
		c.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{Reason: "Error", ExitCode: 1, FinishedAt: now}
	}
	if _, err := client.CoreV1().Pods(namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("crash pod %s/%s: %w", namespace, pod.Name, err)
	}
	return nil
}

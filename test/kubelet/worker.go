package kubelet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// lookEvery is how often a Pod's volumes are compared with their sources, and what failed is tried again.
const lookEvery = time.Second

// worker runs one Pod. All but observe is called by its own goroutine.
type worker struct {
	kubelet    *Kubelet
	ip, folder string
	cancel     context.CancelFunc
	changed    chan struct{} // has a token when something is to be looked at

	mu  sync.Mutex
	pod *corev1.Pod

	containers []*container
	volumes    *volumes
	conditions map[corev1.PodConditionType]corev1.PodCondition
	start      metav1.Time
	reported   string
}

// observe takes what the API server says of the Pod.
func (w *worker) observe(pod *corev1.Pod) {
	w.mu.Lock()
	w.pod = pod
	w.mu.Unlock()
	w.notify()
}

func (w *worker) notify() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

func (w *worker) present() *corev1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pod
}

// run brings the Pod forward until it is over or gone.
func (w *worker) run(ctx context.Context) {
	pod := w.present()
	w.start, w.conditions = metav1.Now(), map[corev1.PodConditionType]corev1.PodCondition{}
	w.volumes = &volumes{kubelet: w.kubelet, pod: pod, tokens: map[string]token{}, written: map[string]content{}}
	for _, spec := range pod.Spec.Containers {
		w.containers = append(w.containers, &container{worker: w, spec: spec, root: filepath.Join(w.folder, spec.Name)})
	}
	defer func() {
		for _, c := range w.containers {
			c.kill()
		}
		_ = os.RemoveAll(w.folder)
	}()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		if w.present().DeletionTimestamp != nil {
			w.terminate(ctx)
			return
		}
		err := w.step(ctx)
		if w.report(ctx, err) && w.over() {
			return
		}
		select {
		case <-w.changed:
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// step starts what is to run and does not.
func (w *worker) step(ctx context.Context) error {
	pod := w.present()
	if pod.Spec.NodeName == "" {
		err := w.kubelet.client.CoreV1().Pods(pod.Namespace).Bind(ctx, &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Name: pod.Name, UID: pod.UID}, Target: corev1.ObjectReference{Kind: "Node", Name: NodeName},
		}, metav1.CreateOptions{})
		if err != nil && !apierrors.IsConflict(err) {
			return fmt.Errorf("bind: %w", err)
		}
	}
	if err := w.possible(pod); err != nil {
		return err
	}
	roots := map[string]string{}
	for _, c := range w.containers {
		if err := c.prepare(); err != nil {
			return err
		}
		roots[c.spec.Name] = c.root
	}
	if !w.idle() {
		if err := w.volumes.mount(ctx, roots); err != nil {
			return err
		}
	}
	var errs error
	for _, c := range w.containers {
		errs = errors.Join(errs, c.step(ctx, pod))
	}
	return errs
}

func (w *worker) idle() bool {
	return !slices.ContainsFunc(w.containers, func(c *container) bool { return !c.idle })
}

// possible says what of a Pod the stand-in cannot do.
func (w *worker) possible(pod *corev1.Pod) error {
	if w.containersIdle(pod) {
		return nil
	}
	switch {
	case len(pod.Spec.InitContainers) > 0:
		return refused("init containers")
	case pod.Spec.HostNetwork || pod.Spec.HostPID || pod.Spec.HostIPC:
		return refused("the host's network, processes or IPC")
	}
	for _, c := range pod.Spec.Containers {
		if err := possibleContainer(c); err != nil {
			return err
		}
	}
	return nil
}

func possibleContainer(c corev1.Container) error {
	for _, p := range []*corev1.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
		if p != nil && p.HTTPGet == nil {
			return refused("container %q: a probe that is not httpGet", c.Name)
		}
	}
	if len(c.EnvFrom) > 0 {
		return refused("container %q: envFrom", c.Name)
	}
	if l := c.Lifecycle; l != nil && (l.PostStart != nil || !possibleStop(l.PreStop)) {
		return refused("container %q: postStart, or a preStop that is neither sleep nor httpGet", c.Name)
	}
	return nil
}

func possibleStop(h *corev1.LifecycleHandler) bool {
	return h == nil || h.Sleep != nil || h.HTTPGet != nil
}

func (w *worker) containersIdle(pod *corev1.Pod) bool {
	return w.kubelet.options.Idle != nil && !slices.ContainsFunc(pod.Spec.Containers, func(c corev1.Container) bool { return !w.kubelet.options.Idle(c.Image) })
}

// over says whether all containers have ended for good.
func (w *worker) over() bool {
	return !slices.ContainsFunc(w.containers, func(c *container) bool { return !c.over(w.present()) })
}

// terminate ends the containers as a Pod that is deleted does, and removes the Pod.
func (w *worker) terminate(ctx context.Context) {
	pod := w.present()
	grace := 30 * time.Second
	if s := pod.DeletionGracePeriodSeconds; s != nil {
		grace = time.Duration(*s) * time.Second
	}
	stopped := make(chan struct{})
	var each sync.WaitGroup
	for _, c := range w.containers {
		each.Go(func() { c.stop(ctx, grace) })
	}
	go func() { each.Wait(); close(stopped) }()
	for done := false; !done; {
		select {
		case <-w.changed:
		case <-stopped:
			done = true
		}
		w.report(ctx, nil)
	}
	if ctx.Err() != nil {
		return
	}
	options := metav1.NewDeleteOptions(0)
	options.Preconditions = metav1.NewUIDPreconditions(string(pod.UID))
	for ctx.Err() == nil {
		err := w.kubelet.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, *options)
		if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return
		}
		select {
		case <-time.After(lookEvery):
		case <-ctx.Done():
		}
	}
}

// report writes the Pod's status if it has changed, and says whether the API server has it.
func (w *worker) report(ctx context.Context, problem error) bool {
	status := w.status(problem)
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": w.present().UID}, "status": status})
	if err != nil {
		panic(err)
	}
	if string(body) == w.reported {
		return true
	}
	pod := w.present()
	_, err = w.kubelet.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, body, metav1.PatchOptions{}, "status")
	if err != nil {
		return false
	}
	w.reported = string(body)
	return true
}

func (w *worker) status(problem error) corev1.PodStatus {
	pod := w.present()
	s := corev1.PodStatus{Phase: corev1.PodRunning, HostIP: "10.199.0.1", PodIP: w.ip, PodIPs: []corev1.PodIP{{IP: w.ip}}, StartTime: &w.start}
	ready, failed := true, false
	for _, c := range w.containers {
		cs := c.status(problem)
		ready = ready && cs.Ready
		switch t := cs.State; {
		case t.Waiting != nil && cs.RestartCount == 0:
			s.Phase = corev1.PodPending
		case t.Terminated != nil && t.Terminated.ExitCode != 0:
			failed = true
		}
		s.ContainerStatuses = append(s.ContainerStatuses, cs)
	}
	if over := w.over(); over && failed {
		s.Phase = corev1.PodFailed
	} else if over {
		s.Phase = corev1.PodSucceeded
	}
	w.condition(corev1.PodScheduled, true)
	w.condition(corev1.PodInitialized, true)
	w.condition(corev1.ContainersReady, ready)
	w.condition(corev1.PodReady, ready && !over(pod))
	for _, kind := range []corev1.PodConditionType{corev1.PodScheduled, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady} {
		s.Conditions = append(s.Conditions, w.conditions[kind])
	}
	return s
}

func (w *worker) condition(kind corev1.PodConditionType, is bool) {
	status := corev1.ConditionFalse
	if is {
		status = corev1.ConditionTrue
	}
	if w.conditions[kind].Status != status {
		w.conditions[kind] = corev1.PodCondition{Type: kind, Status: status, LastTransitionTime: metav1.Now()}
	}
}

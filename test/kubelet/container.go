package kubelet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/canary-guardian/guardian/test/controlplane"
)

// restartAfter is how long a container that has ended waits before it starts again.
const restartAfter = time.Second

// container is one of a Pod.
type container struct {
	worker *worker
	spec   corev1.Container
	root   string
	image  *image
	idle   bool // it runs nothing

	mu             sync.Mutex
	process        *controlplane.Process
	running        bool
	startedAt      metav1.Time
	started, ready bool
	terminated     *corev1.ContainerStateTerminated
	restarts       int32
	endProbes      context.CancelFunc // all of them
	endLiveness    context.CancelFunc // startup and liveness
}

// prepare gives it a root folder once.
func (c *container) prepare() error {
	k := c.worker.kubelet
	if c.idle = k.options.Idle != nil && k.options.Idle(c.spec.Image); c.idle || c.image != nil {
		return nil
	}
	i, err := k.image(c.spec.Image)
	if err != nil {
		return err
	}
	if err := errors.Join(os.MkdirAll(c.root, 0o755), i.rootFor(c.root)); err != nil {
		return err
	}
	c.image = i
	return nil
}

// step starts it where it is to run and does not.
func (c *container) step(ctx context.Context, pod *corev1.Pod) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running || c.overLocked(pod) || c.terminated != nil && time.Since(c.terminated.FinishedAt.Time) < restartAfter {
		return nil
	}
	if c.terminated != nil {
		c.restarts++
	}
	c.startedAt = metav1.Now()
	if c.idle {
		c.running, c.started, c.ready = true, true, true
		return nil
	}
	user, err := userOf(pod, c.spec, c.image)
	if err != nil {
		return err
	}
	command, err := commandOf(c.spec, c.image)
	if err != nil {
		return err
	}
	env, err := c.env(ctx, pod)
	if err != nil {
		return err
	}
	k := c.worker.kubelet
	p, err := k.plane.Run(ctx, controlplane.Program{Name: "pod-" + pod.Name, Path: command[0], Args: command[1:], Env: env, Root: c.root, User: user})
	if err != nil {
		return err
	}
	k.mu.Lock()
	k.logs[pod.Namespace+"/"+pod.Name] = append(k.logs[pod.Namespace+"/"+pod.Name], p.Log())
	k.mu.Unlock()
	c.process, c.running, c.started, c.ready = p, true, c.spec.StartupProbe == nil, false
	all, endProbes := context.WithCancel(ctx)
	life, endLiveness := context.WithCancel(all)
	c.endProbes, c.endLiveness = endProbes, endLiveness
	k.ended.Go(func() { c.probe(all, life) })
	k.ended.Go(func() { <-p.Ended(); c.ended(p); endProbes() })
	return nil
}

// userOf is the uid that a container runs as.
func userOf(pod *corev1.Pod, spec corev1.Container, i *image) (int, error) {
	user, nonRoot := i.user, false
	if s := pod.Spec.SecurityContext; s != nil {
		if s.RunAsUser != nil {
			user = int(*s.RunAsUser)
		}
		nonRoot = s.RunAsNonRoot != nil && *s.RunAsNonRoot
		another := func(group *int64) bool { return group != nil && int(*group) != user }
		if another(s.RunAsGroup) || another(s.FSGroup) {
			return 0, refused("a group that is not the user's own, %d", user)
		}
	}
	if s := spec.SecurityContext; s != nil && s.RunAsUser != nil {
		user = int(*s.RunAsUser)
	}
	if nonRoot && user <= 0 {
		return 0, refused("container %q: runAsNonRoot, and its user is root", spec.Name)
	}
	return max(0, user), nil
}

// commandOf is the program and its arguments.
func commandOf(spec corev1.Container, i *image) ([]string, error) {
	command, args := i.entrypoint, i.cmd
	if len(spec.Command) > 0 {
		command, args = spec.Command, nil
	}
	if len(spec.Args) > 0 {
		args = spec.Args
	}
	command = slices.Concat(command, args)
	if len(command) == 0 || !strings.HasPrefix(command[0], "/") {
		return nil, refused("container %q: program %q: want an absolute path", spec.Name, command)
	}
	for _, text := range command {
		if strings.Contains(text, "$(") {
			return nil, refused("container %q: variables in arguments: %s", spec.Name, text)
		}
	}
	return command, nil
}

// env is the image's, the API server's, the container's, and that of the options, in this order.
func (c *container) env(ctx context.Context, pod *corev1.Pod) ([]string, error) {
	k := c.worker.kubelet
	server, err := url.Parse(k.plane.APIServerURL())
	if err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(server.Host)
	if err != nil {
		return nil, err
	}
	env := append(slices.Clone(c.image.env), "HOSTNAME="+pod.Name, "KUBERNETES_SERVICE_HOST="+host, "KUBERNETES_SERVICE_PORT="+port)
	for _, e := range c.spec.Env {
		value, ok, err := c.value(ctx, pod, e)
		if err != nil {
			return nil, fmt.Errorf("environment variable %s: %w", e.Name, err)
		}
		if ok {
			env = append(env, e.Name+"="+value)
		}
	}
	if k.options.Env != nil {
		env = append(env, k.options.Env(pod, Address(c.worker.ip))...)
	}
	return env, nil
}

// value is that of an environment variable; ok is false where an optional source is missing.
func (c *container) value(ctx context.Context, pod *corev1.Pod, e corev1.EnvVar) (value string, ok bool, err error) {
	v := c.worker.volumes
	one := func(all content, err error) (string, bool, error) {
		f, ok := all["value"]
		return string(f.text), ok, err
	}
	switch from := e.ValueFrom; {
	case from == nil && strings.Contains(e.Value, "$("):
		return "", false, refused("variables in %s", e.Value)
	case from == nil:
		return e.Value, true, nil
	case from.FieldRef != nil:
		value, err = field(pod, c.worker.ip, from.FieldRef.FieldPath)
		return value, true, err
	case from.ConfigMapKeyRef != nil:
		r := from.ConfigMapKeyRef
		return one(v.configMap(ctx, r.Name, []corev1.KeyToPath{{Key: r.Key, Path: "value"}}, r.Optional, nil))
	case from.SecretKeyRef != nil:
		r := from.SecretKeyRef
		return one(v.secret(ctx, r.Name, []corev1.KeyToPath{{Key: r.Key, Path: "value"}}, r.Optional, nil))
	}
	return "", false, refused("a source that is neither a field, a ConfigMap nor a Secret")
}

// field is one of a Pod's fields, as the downward API names them.
func field(pod *corev1.Pod, ip, path string) (string, error) {
	switch path {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "spec.nodeName":
		return NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.podIP":
		return ip, nil
	}
	for prefix, of := range map[string]map[string]string{"metadata.labels['": pod.Labels, "metadata.annotations['": pod.Annotations} {
		if rest, ok := strings.CutPrefix(path, prefix); ok {
			return of[strings.TrimSuffix(rest, "']")], nil
		}
	}
	return "", refused("field %q", path)
}

// ended records the end of the process.
func (c *container) ended(p *controlplane.Process) {
	c.mu.Lock()
	defer c.worker.notify()
	defer c.mu.Unlock()
	if c.process != p {
		return // recorded
	}
	c.process = nil
	code, reason := p.ExitCode(), "Error"
	if code == 0 {
		reason = "Completed"
	}
	if code < 0 { // by a signal
		code = 128 + int(syscall.SIGKILL)
	}
	c.running, c.ready, c.started = false, false, false
	c.terminated = &corev1.ContainerStateTerminated{ExitCode: int32(code), Reason: reason, StartedAt: c.startedAt, FinishedAt: metav1.Now()}
}

// over says whether it has ended for good.
func (c *container) over(pod *corev1.Pod) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.overLocked(pod)
}

func (c *container) overLocked(pod *corev1.Pod) bool {
	if c.running || c.terminated == nil {
		return false
	}
	switch {
	case pod.DeletionTimestamp != nil, pod.Spec.RestartPolicy == corev1.RestartPolicyNever:
		return true
	case pod.Spec.RestartPolicy == corev1.RestartPolicyOnFailure:
		return c.terminated.ExitCode == 0
	}
	return false
}

// kill ends it at once.
func (c *container) kill() {
	c.mu.Lock()
	p := c.process
	c.mu.Unlock()
	if p != nil {
		p.Kill()
	}
}

// stop runs preStop, asks the process to end, and kills it when the grace period is over or ctx ends.
func (c *container) stop(ctx context.Context, grace time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	c.mu.Lock()
	p, running := c.process, c.running
	if c.endLiveness != nil {
		c.endLiveness()
	}
	c.mu.Unlock()
	if p == nil || !running {
		c.mu.Lock()
		c.running = false
		if c.terminated == nil {
			c.terminated = &corev1.ContainerStateTerminated{Reason: "Completed", FinishedAt: metav1.Now()}
		}
		c.mu.Unlock()
		return
	}
	c.preStop(ctx)
	_ = p.Signal(syscall.SIGTERM)
	select {
	case <-p.Ended():
	case <-ctx.Done():
	}
	p.Kill()
	c.ended(p)
}

func (c *container) preStop(ctx context.Context) {
	if c.spec.Lifecycle == nil || c.spec.Lifecycle.PreStop == nil {
		return
	}
	switch hook := c.spec.Lifecycle.PreStop; {
	case hook.Sleep != nil:
		select {
		case <-time.After(time.Duration(hook.Sleep.Seconds) * time.Second):
		case <-ctx.Done():
		}
	case hook.HTTPGet != nil:
		_ = c.request(ctx, hook.HTTPGet)
	}
}

func (c *container) status(problem error) corev1.ContainerStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := corev1.ContainerStatus{Name: c.spec.Name, Image: c.spec.Image, ImageID: "", Ready: c.running && c.ready, Started: &c.started, RestartCount: c.restarts}
	if c.image != nil {
		s.ImageID = c.image.digest
	}
	switch {
	case c.running:
		s.State.Running = &corev1.ContainerStateRunning{StartedAt: c.startedAt}
		if c.terminated != nil {
			s.LastTerminationState.Terminated = c.terminated
		}
	case c.terminated != nil:
		s.State.Terminated = c.terminated
	default:
		s.State.Waiting = &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}
		if problem != nil {
			s.State.Waiting.Reason, s.State.Waiting.Message = "CreateContainerConfigError", problem.Error()
		}
	}
	started := c.started
	s.Started = &started
	return s
}

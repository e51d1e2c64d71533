package kubelet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/retry"

	"github.com/canary-guardian/guardian/test/controlplane"
)

// NodeName is the node that all Pods run on.
const NodeName = "stand-in"

// Options say what runs.
type Options struct {
	// Images are the folders of OCI layouts, by the reference that Pods name.
	Images map[string]string
	// Idle says which images run nothing and are ready at once.
	Idle func(image string) bool
	// Env is added to the environment of a container of a Pod with an address of this machine, and wins.
	Env func(pod *corev1.Pod, address string) []string
}

// Kubelet runs Pods. Its methods may be called concurrently.
type Kubelet struct {
	plane   *controlplane.Plane
	client  kubernetes.Interface
	options Options
	folder  string
	cancel  context.CancelFunc
	ended   sync.WaitGroup

	mu      sync.Mutex
	workers map[types.UID]*worker
	images  map[string]*image
	pods    int
	logs    map[string][]string // files, by namespace/pod
}

// Start makes the node, and runs what Pods there are and will be, until Stop.
func Start(ctx context.Context, plane *controlplane.Plane, options Options) (*Kubelet, error) {
	client, err := kubernetes.NewForConfig(plane.RESTConfig(controlplane.Admin))
	if err != nil {
		return nil, err
	}
	k := &Kubelet{plane: plane, client: client, options: options, workers: map[types.UID]*worker{}, images: map[string]*image{}, logs: map[string][]string{}}
	if k.folder, err = os.MkdirTemp(plane.Dir(), "kubelet-"); err != nil {
		return nil, err
	}
	if err := os.Chmod(k.folder, 0o755); err != nil { // the Pods' users go through it
		return nil, err
	}
	if err := registerNode(ctx, client); err != nil {
		return nil, fmt.Errorf("make Node %s: %w", NodeName, err)
	}
	ctx, k.cancel = context.WithCancel(context.Background())
	factory := informers.NewSharedInformerFactory(client, 0)
	informer := factory.Core().V1().Pods().Informer()
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { k.seen(ctx, o.(*corev1.Pod)) },
		UpdateFunc: func(_, o any) { k.seen(ctx, o.(*corev1.Pod)) },
		DeleteFunc: func(o any) {
			if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			k.gone(o.(*corev1.Pod))
		},
	}); err != nil {
		k.cancel()
		return nil, err
	}
	factory.Start(ctx.Done())
	k.ended.Go(func() { <-ctx.Done(); factory.Shutdown() })
	return k, nil
}

// Stop kills what runs, and returns when all of it is gone. The Pods stay as they are.
func (k *Kubelet) Stop() {
	k.cancel()
	k.ended.Wait()
}

func registerNode(ctx context.Context, client kubernetes.Interface) error {
	nodes := client.CoreV1().Nodes()
	node, err := nodes.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name: NodeName, Labels: map[string]string{corev1.LabelHostname: NodeName, corev1.LabelOSStable: "linux"},
	}}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return err
	}
	// kube-controller-manager may have written it meanwhile.
	return retry.OnError(retry.DefaultRetry, apierrors.IsConflict, func() error {
		now := metav1.Now()
		node.Status.Allocatable = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("64"), corev1.ResourceMemory: resource.MustParse("256Gi"), corev1.ResourcePods: resource.MustParse("1000")}
		node.Status.Capacity = node.Status.Allocatable
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "StandIn", LastHeartbeatTime: now, LastTransitionTime: now}}
		_, err := nodes.UpdateStatus(ctx, node, metav1.UpdateOptions{})
		if apierrors.IsConflict(err) {
			if is, err := nodes.Get(ctx, NodeName, metav1.GetOptions{}); err == nil {
				node = is
			}
		}
		return err
	})
}

// seen starts a Pod's worker, or tells it of a change.
func (k *Kubelet) seen(ctx context.Context, pod *corev1.Pod) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if w := k.workers[pod.UID]; w != nil {
		w.observe(pod)
		return
	}
	if ctx.Err() != nil || over(pod) && pod.DeletionTimestamp == nil || pod.Spec.NodeName != "" && pod.Spec.NodeName != NodeName {
		return
	}
	k.pods++
	ctx, cancel := context.WithCancel(ctx)
	w := &worker{kubelet: k, ip: fmt.Sprintf("10.200.%d.%d", k.pods>>8&0xff, k.pods&0xff), changed: make(chan struct{}, 1), cancel: cancel,
		folder: filepath.Join(k.folder, string(pod.UID))}
	w.observe(pod)
	k.workers[pod.UID] = w
	k.ended.Go(func() {
		w.run(ctx)
		cancel()
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.workers, pod.UID)
	})
}

// gone kills what runs of a Pod that exists no more.
func (k *Kubelet) gone(pod *corev1.Pod) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if w := k.workers[pod.UID]; w != nil {
		w.cancel()
	}
}

func over(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// Log is what a Pod's containers have printed, those before a restart included; also of Pods that are gone.
func (k *Kubelet) Log(namespace, pod string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var b strings.Builder
	for _, file := range k.logs[namespace+"/"+pod] {
		text, err := os.ReadFile(file)
		if err != nil {
			fmt.Fprintln(&b, err)
		}
		b.Write(text)
	}
	return b.String()
}

// Pods are the names of all Pods of a namespace that have run.
func (k *Kubelet) Pods(namespace string) []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var names []string
	for name := range k.logs {
		if pod, ok := strings.CutPrefix(name, namespace+"/"); ok {
			names = append(names, pod)
		}
	}
	return names
}

// Address is where something of a Pod listens on this machine: 10.x.y.z is 127.x.y.z.
func Address(podIP string) string {
	if rest, ok := strings.CutPrefix(podIP, "10."); ok {
		return "127." + rest
	}
	return podIP
}

// errRefused is of what the stand-in cannot do, so that trying again is in vain.
var errRefused = errors.New("not done by the stand-in for the kubelet")

func refused(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errRefused, fmt.Sprintf(format, args...))
}

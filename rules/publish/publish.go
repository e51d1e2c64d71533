// Package publish keeps what the rules package generated in the cluster: applied
// by server-side apply, owned by guardian, and written again when somebody edits
// or deletes it.
package publish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"
)

// FieldManager owns what guardian writes.
const FieldManager = "guardian-rules"

// Kind is a kind of object. Keeping one needs get, create and patch, watching it
// list and watch with the field selector metadata.name, and removing it delete.
type Kind struct {
	Name     string // as in the object's kind
	Resource schema.GroupVersionResource
}

// The kinds that guardian writes.
var (
	PrometheusRule = Kind{monitoringv1.PrometheusRuleKind, monitoringv1.SchemeGroupVersion.WithResource(monitoringv1.PrometheusRuleName)}
	PodMonitor     = Kind{monitoringv1.PodMonitorsKind, monitoringv1.SchemeGroupVersion.WithResource(monitoringv1.PodMonitorName)}
)

// Object is one object with its kind, name and namespace.
type Object interface {
	metav1.Object
	runtime.Object
}

// Options is what a Publisher works with. All but Owner are required.
type Options struct {
	Client    dynamic.Interface
	Kind      Kind
	Name      string // of the object
	Namespace string
	// Owner is what the object is deleted together with: guardian's own
	// Deployment, which has to live in Namespace. Nil: the object stays.
	Owner *metav1.OwnerReference
	Log   *slog.Logger
}

// Publisher keeps one object as Want or WantNone says. Only the holder of
// guardian's lease may run one: two versions of guardian would fight.
type Publisher struct {
	Options
	want    atomic.Pointer[wanted]
	changed chan struct{} // holds one token while something may have changed
}

// wanted is how the object should be; without content it should not exist.
type wanted struct{ object *unstructured.Unstructured }

// New checks the options. Nothing is written before Run.
func New(o Options) (*Publisher, error) {
	var errs []error
	if o.Client == nil || o.Log == nil {
		errs = append(errs, errors.New("want a client and a log"))
	}
	if o.Kind == (Kind{}) {
		errs = append(errs, errors.New("want a kind"))
	}
	if o.Name == "" || o.Namespace == "" {
		errs = append(errs, fmt.Errorf("%s %q/%q: want a namespace and a name", o.Kind.Name, o.Namespace, o.Name))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("new publisher: %w", err)
	}
	return &Publisher{Options: o, changed: make(chan struct{}, 1)}, nil
}

// Want replaces what is to be published, under the Publisher's own name and
// namespace. It does not block, and may be called before and during Run. An error
// means that o cannot be written at all, and nothing has changed.
func (p *Publisher) Want(o Object) error {
	object, err := p.object(o)
	if err != nil {
		return fmt.Errorf("write %s: %w", p, err)
	}
	p.want.Store(&wanted{object})
	p.poke()
	return nil
}

// WantNone has the object removed if guardian wrote it. That nothing can be
// looked at, for want of rights or of the operator's definitions, is no error.
func (p *Publisher) WantNone() {
	p.want.Store(&wanted{})
	p.poke()
}

// String is the kind, namespace and name.
func (p *Publisher) String() string { return fmt.Sprintf("%s %s/%s", p.Kind.Name, p.Namespace, p.Name) }

func (p *Publisher) poke() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// Run publishes until ctx ends, and returns nil then. What cannot be written is
// logged and tried again, after 1 s at first and 1 min at most.
func (p *Publisher) Run(ctx context.Context) error {
	var watch sync.WaitGroup
	defer watch.Wait()
	var informer cache.SharedIndexInformer
	backoff := p.backoff()
	var retry <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.changed:
		case <-retry:
		}
		retry = nil
		// An object that nobody has ever wanted may be of a kind that the cluster
		// does not know, and is not watched.
		if w := p.want.Load(); informer == nil && w != nil && w.object != nil {
			var err error
			if informer, err = p.informer(); err != nil {
				return err
			}
			watch.Go(func() { informer.RunWithContext(ctx) })
		}
		if err := p.RunOnce(ctx); err != nil && ctx.Err() == nil {
			p.Log.Error("cannot publish", "kind", p.Kind.Name, "namespace", p.Namespace, "name", p.Name, "err", err)
			retry = time.After(backoff.Step())
			continue
		}
		backoff = p.backoff()
	}
}

// informer wakes Run when the object changes.
func (p *Publisher) informer() (cache.SharedIndexInformer, error) {
	informer := dynamicinformer.NewFilteredDynamicInformer(p.Client, p.Kind.Resource, p.Namespace, 10*time.Minute, nil,
		func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("metadata.name", p.Name).String()
		}).Informer()
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { p.poke() },
		UpdateFunc: func(any, any) { p.poke() },
		DeleteFunc: func(any) { p.poke() },
	}); err != nil {
		return nil, fmt.Errorf("watch %s: %w", p, err)
	}
	return informer, nil
}

func (p *Publisher) backoff() wait.Backoff {
	return wait.Backoff{Duration: time.Second, Factor: 2, Jitter: 0.1, Steps: 100, Cap: time.Minute}
}

// RunOnce writes or removes the object if it is not as wanted. It does nothing
// before the first Want or WantNone.
func (p *Publisher) RunOnce(ctx context.Context) error {
	w := p.want.Load()
	if w == nil {
		return nil
	}
	client := p.Client.Resource(p.Kind.Resource).Namespace(p.Namespace)
	have, err := client.Get(ctx, p.Name, metav1.GetOptions{})
	switch {
	case w.object == nil:
		return p.remove(ctx, client, have, err)
	case apierrors.IsNotFound(err):
	case err != nil:
		return fmt.Errorf("get %s: %w", p, err)
	case same(have, w.object):
		return nil
	}
	body, err := json.Marshal(w.object)
	if err != nil {
		return fmt.Errorf("write %s: %w", p, err)
	}
	force := true
	if _, err := client.Patch(ctx, p.Name, types.ApplyPatchType, body, metav1.PatchOptions{FieldManager: FieldManager, Force: &force}); err != nil {
		if apierrors.IsNotFound(err) {
			return fmt.Errorf("apply %s: is prometheus-operator installed? %w", p, err)
		}
		return fmt.Errorf("apply %s: %w", p, err)
	}
	p.Log.Info("published", "kind", p.Kind.Name, "namespace", p.Namespace, "name", p.Name)
	return nil
}

// remove deletes what Get has found, unless it is somebody else's.
func (p *Publisher) remove(ctx context.Context, client dynamic.ResourceInterface, have *unstructured.Unstructured, err error) error {
	switch {
	case apierrors.IsNotFound(err), apierrors.IsForbidden(err):
		return nil
	case err != nil:
		return fmt.Errorf("get %s: %w", p, err)
	case !slices.ContainsFunc(have.GetManagedFields(), func(f metav1.ManagedFieldsEntry) bool { return f.Manager == FieldManager }):
		return nil
	}
	uid := have.GetUID()
	err = client.Delete(ctx, p.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete %s: %w", p, err)
	}
	p.Log.Info("removed", "kind", p.Kind.Name, "namespace", p.Namespace, "name", p.Name)
	return nil
}

// object is the object as it should be, with nothing that others own.
func (p *Publisher) object(o Object) (*unstructured.Unstructured, error) {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return nil, err
	}
	delete(content, "status")
	out := &unstructured.Unstructured{Object: content}
	unstructured.RemoveNestedField(out.Object, "metadata", "creationTimestamp")
	out.SetName(p.Name)
	out.SetNamespace(p.Namespace)
	if p.Owner != nil {
		out.SetOwnerReferences([]metav1.OwnerReference{*p.Owner})
	}
	return out, nil
}

// same reports whether the object has what is wanted. Labels and owners of
// other people may stand beside it.
func same(have, want *unstructured.Unstructured) bool {
	for k, v := range want.GetLabels() {
		if have.GetLabels()[k] != v {
			return false
		}
	}
	for _, o := range want.GetOwnerReferences() {
		if !contains(have.GetOwnerReferences(), o) {
			return false
		}
	}
	return equality.Semantic.DeepEqual(have.Object["spec"], want.Object["spec"])
}

func contains(owners []metav1.OwnerReference, o metav1.OwnerReference) bool {
	for _, have := range owners {
		if have.UID == o.UID && have.Kind == o.Kind && have.Name == o.Name {
			return true
		}
	}
	return false
}

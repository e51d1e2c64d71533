// Package publish keeps what the rules package generated in the cluster: applied
// by server-side apply, owned by guardian, written again when another client edits or
// deletes it, and removed when it is no longer wanted. It never decides what a rule says,
// and never removes an object that others have applied as well.
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
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/canary-guardian/guardian/rules"
)

// FieldManager owns what guardian writes.
const FieldManager = "guardian-rules"

// Kind is a kind of object. Keeping some needs create and patch, finding those
// that are there list and watch, and removing them delete.
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
	Set       string // value of rules.LabelRules, by which the objects are found again
	Namespace string
	// Owner is what the objects are deleted together with: guardian's own
	// Deployment, which has to live in Namespace. Nil: they stay.
	Owner *metav1.OwnerReference
	Log   *slog.Logger
}

// Publisher keeps objects as Want says. Only the holder of guardian's lease may
// run one: two versions of guardian would fight.
type Publisher struct {
	Options
	want    atomic.Pointer[[]wanted]
	watch   atomic.Bool
	changed chan struct{} // holds one token while something may have changed
}

// wanted is one object as it should be. It is kept as text: decoded, the rules of
// many guards take several times as much memory.
type wanted struct {
	name string
	text []byte
}

// New checks the options. Nothing is written before Run.
func New(o Options) (*Publisher, error) {
	var errs []error
	if o.Client == nil || o.Log == nil {
		errs = append(errs, errors.New("want a client and a log"))
	}
	if o.Kind == (Kind{}) {
		errs = append(errs, errors.New("want a kind"))
	}
	if o.Set == "" || o.Namespace == "" {
		errs = append(errs, fmt.Errorf("%s %q/%q: want a namespace and a set", o.Kind.Name, o.Namespace, o.Set))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("new publisher: %w", err)
	}
	p := &Publisher{Options: o, changed: make(chan struct{}, 1)}
	p.watch.Store(true)
	return p, nil
}

// Want replaces what is to be published, in the Publisher's own namespace. What
// guardian has written before and is not among it is removed. It does not block,
// and may be called before and during Run. An error means that some object cannot
// be written at all, and nothing has changed.
func (p *Publisher) Want(objects ...Object) error {
	all := make([]wanted, len(objects))
	for i, o := range objects {
		text, err := p.text(o)
		if err != nil {
			return fmt.Errorf("write %s: %w", p.named(o.GetName()), err)
		}
		all[i] = wanted{o.GetName(), text}
	}
	p.want.Store(&all)
	p.poke()
	return nil
}

// String is the kind, namespace and set.
func (p *Publisher) String() string {
	return fmt.Sprintf("%ss of %s/%s", p.Kind.Name, p.Namespace, p.Set)
}

func (p *Publisher) named(name string) string {
	return fmt.Sprintf("%s %s/%s", p.Kind.Name, p.Namespace, name)
}

func (p *Publisher) poke() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// look is how often Run looks at what it has published where it does not watch it.
const look = 2 * time.Minute

// Watch says whether Run is to learn at once of what others do to what it has
// published, as while something depends on it, which is so at first; it looks now and
// then besides. It does not block, and may be called before and during Run.
func (p *Publisher) Watch(on bool) {
	if p.watch.Swap(on) != on {
		p.poke()
	}
}

// Run publishes until ctx ends, and returns nil then. What cannot be written is
// logged and tried again, after 1 s at first and 1 min at most. Where nothing is
// wanted it removes what there is, and looks no more.
func (p *Publisher) Run(ctx context.Context) error {
	end := func() {}
	defer func() { end() }()
	watches := false
	backoff := p.backoff()
	var next <-chan time.Time // when to look again; nil: only when something changes
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.changed:
		case <-next:
		}
		next = nil
		// Objects that nobody has ever wanted may be of a kind that the cluster does
		// not know, and are not watched.
		w := p.want.Load()
		some := w != nil && len(*w) > 0
		if on := p.watch.Load() && some; on != watches {
			end()
			end = func() {}
			if on {
				var err error
				if end, err = p.begin(ctx); err != nil {
					return err
				}
			}
			watches = on
		}
		if err := p.RunOnce(ctx); err != nil && ctx.Err() == nil {
			p.Log.Error("cannot publish", "kind", p.Kind.Name, "namespace", p.Namespace, "set", p.Set, "err", err)
			next = time.After(backoff.Step())
			continue
		}
		backoff = p.backoff()
		if some {
			next = time.After(look)
		}
	}
}

// begin watches until end is called, which returns when that has ended.
func (p *Publisher) begin(ctx context.Context) (end func(), err error) {
	informer, err := p.informer()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(klog.NewContext(ctx, klog.New(nil))) // what fails is told below, and by RunOnce
	var running sync.WaitGroup
	running.Go(func() { informer.RunWithContext(ctx) })
	return func() { cancel(); running.Wait() }, nil
}

// selector finds the set.
func (p *Publisher) selector() string {
	return labels.Set{rules.LabelRules: p.Set}.AsSelector().String()
}

// informer wakes Run when an object of the set changes.
func (p *Publisher) informer() (cache.SharedIndexInformer, error) {
	client := p.Client.Resource(p.Kind.Resource).Namespace(p.Namespace)
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.LabelSelector = p.selector()
			list, err := client.List(ctx, o)
			if err != nil {
				return nil, err // and no list that is nil
			}
			return list, nil
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.LabelSelector = p.selector()
			return client.Watch(ctx, o)
		},
	}
	informer := cache.NewSharedIndexInformerWithOptions(cache.ToListWatcherWithWatchListSemantics(lw, p.Client), &unstructured.Unstructured{},
		cache.SharedIndexInformerOptions{ObjectDescription: p.String()})
	// Rules are long, and nobody reads them from this cache.
	bare := func(o any) (any, error) {
		if u, ok := o.(*unstructured.Unstructured); ok {
			u.Object = map[string]any{"apiVersion": u.GetAPIVersion(), "kind": u.GetKind(), "metadata": map[string]any{
				"name": u.GetName(), "namespace": u.GetNamespace(), "resourceVersion": u.GetResourceVersion(), "uid": string(u.GetUID()),
			}}
		}
		return o, nil
	}
	var once sync.Once
	if err := informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) {
		if apierrors.IsForbidden(err) {
			once.Do(func() {
				p.Log.Warn("cannot watch what is published: what others do to it is found by the next look", "kind", p.Kind.Name, "namespace", p.Namespace, "every", look, "err", err)
			})
		}
	}); err != nil {
		return nil, fmt.Errorf("watch %s: %w", p, err)
	}
	if err := informer.SetTransform(bare); err != nil {
		return nil, fmt.Errorf("watch %s: %w", p, err)
	}
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

// RunOnce writes the objects that are not as wanted, and then, if that could be
// done, removes those of the set that are not wanted: a guard that has moved to
// another object is at no time without rules. It does nothing before the first
// Want. Where nothing is wanted, it is no error that nothing can be looked at, for
// want of rights or of the operator's definitions.
func (p *Publisher) RunOnce(ctx context.Context) error {
	w := p.want.Load()
	if w == nil {
		return nil
	}
	client := p.Client.Resource(p.Kind.Resource).Namespace(p.Namespace)
	list, err := client.List(ctx, metav1.ListOptions{LabelSelector: p.selector()})
	switch {
	case err == nil:
	case len(*w) == 0 && (apierrors.IsNotFound(err) || apierrors.IsForbidden(err)):
		return nil
	case apierrors.IsNotFound(err):
		return fmt.Errorf("list %s: is prometheus-operator installed? %w", p, err)
	default:
		return fmt.Errorf("list %s: %w", p, err)
	}
	have := map[string]*unstructured.Unstructured{}
	for i := range list.Items {
		have[list.Items[i].GetName()] = &list.Items[i]
	}
	var errs []error
	for _, o := range *w {
		errs = append(errs, p.apply(ctx, client, have[o.name], o))
		delete(have, o.name)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, o := range have {
		errs = append(errs, p.remove(ctx, client, o))
	}
	return errors.Join(errs...)
}

// apply writes one object that is not as wanted. have is nil where there is none.
func (p *Publisher) apply(ctx context.Context, client dynamic.ResourceInterface, have *unstructured.Unstructured, o wanted) error {
	if have != nil {
		want := &unstructured.Unstructured{}
		if err := want.UnmarshalJSON(o.text); err != nil {
			return fmt.Errorf("read %s: %w", p.named(o.name), err)
		}
		if same(have, want) {
			return nil
		}
	}
	if err := p.patch(ctx, client, o); err != nil {
		return err
	}
	p.Log.Info("published", "kind", p.Kind.Name, "namespace", p.Namespace, "name", o.name)
	return nil
}

// DryRun tries to write what is wanted, as a dry run: nothing changes. The error is
// what the API server has against it.
func (p *Publisher) DryRun(ctx context.Context) error {
	all := p.want.Load()
	if all == nil {
		return nil
	}
	client := p.Client.Resource(p.Kind.Resource).Namespace(p.Namespace)
	for _, o := range *all {
		if err := p.patch(ctx, client, o, metav1.DryRunAll); err != nil {
			return err
		}
	}
	return nil
}

func (p *Publisher) patch(ctx context.Context, client dynamic.ResourceInterface, o wanted, dryRun ...string) error {
	force := true
	if _, err := client.Patch(ctx, o.name, types.ApplyPatchType, o.text, metav1.PatchOptions{FieldManager: FieldManager, Force: &force, DryRun: dryRun}); err != nil {
		return fmt.Errorf("apply %s: %w", p.named(o.name), err)
	}
	return nil
}

// remove deletes an object that guardian has written. One that somebody else has
// written is left alone; of one that both have, guardian gives up its part.
func (p *Publisher) remove(ctx context.Context, client dynamic.ResourceInterface, o *unstructured.Unstructured) error {
	if owned(o, FieldManager) == nil {
		return nil
	}
	shared := slices.ContainsFunc(o.GetManagedFields(), func(f metav1.ManagedFieldsEntry) bool {
		_, spec := fieldsOf(f)["f:spec"]
		return f.Manager != FieldManager && spec
	})
	if shared {
		bare, err := json.Marshal(map[string]any{"apiVersion": o.GetAPIVersion(), "kind": o.GetKind(), "metadata": map[string]any{"name": o.GetName()}})
		if err != nil {
			return fmt.Errorf("write %s: %w", p.named(o.GetName()), err)
		}
		if err := p.patch(ctx, client, wanted{o.GetName(), bare}); err != nil {
			return err
		}
		p.Log.Info("left to others", "kind", p.Kind.Name, "namespace", p.Namespace, "name", o.GetName())
		return nil
	}
	uid, version := o.GetUID(), o.GetResourceVersion()
	err := client.Delete(ctx, o.GetName(), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &version}})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete %s: %w", p.named(o.GetName()), err)
	}
	p.Log.Info("removed", "kind", p.Kind.Name, "namespace", p.Namespace, "name", o.GetName())
	return nil
}

// text is the object as it should be, with nothing that others own.
func (p *Publisher) text(o Object) ([]byte, error) {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return nil, err
	}
	delete(content, "status")
	out := &unstructured.Unstructured{Object: content}
	unstructured.RemoveNestedField(out.Object, "metadata", "creationTimestamp")
	out.SetNamespace(p.Namespace)
	set := out.GetLabels()
	if set == nil {
		set = map[string]string{}
	}
	set[rules.LabelRules] = p.Set
	out.SetLabels(set)
	if p.Owner != nil {
		out.SetOwnerReferences([]metav1.OwnerReference{*p.Owner})
	}
	return out.MarshalJSON()
}

// same reports whether the object has what is wanted, and nothing else of
// guardian's. Labels and owners of other people may stand beside it.
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
	metadata, _ := owned(have, FieldManager)["f:metadata"].(map[string]any)
	ours, _ := metadata["f:labels"].(map[string]any)
	owners, _ := metadata["f:ownerReferences"].(map[string]any)
	return len(names(ours)) == len(want.GetLabels()) && len(names(owners)) == len(want.GetOwnerReferences()) &&
		equality.Semantic.DeepEqual(have.Object["spec"], want.Object["spec"])
}

// owned are the fields that a manager has applied; nil when there are none.
func owned(o *unstructured.Unstructured, manager string) map[string]any {
	for _, f := range o.GetManagedFields() {
		if f.Manager == manager && f.Operation == metav1.ManagedFieldsOperationApply {
			return fieldsOf(f)
		}
	}
	return nil
}

// fieldsOf reads the fields of an entry; what cannot be read has none.
func fieldsOf(f metav1.ManagedFieldsEntry) map[string]any {
	out := map[string]any{}
	if f.FieldsV1 != nil {
		_ = json.Unmarshal(f.FieldsV1.GetRawBytes(), &out)
	}
	return out
}

// names are the keys of a set of fields but for ".", which is the set itself.
func names(fields map[string]any) []string {
	var out []string
	for k := range fields {
		if k != "." {
			out = append(out, k)
		}
	}
	return out
}

func contains(owners []metav1.OwnerReference, o metav1.OwnerReference) bool {
	for _, have := range owners {
		if have.UID == o.UID && have.Kind == o.Kind && have.Name == o.Name {
			return true
		}
	}
	return false
}

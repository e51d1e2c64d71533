// Package publish keeps the PrometheusRule that the rules package generated in
// the cluster: applied by server-side apply, owned by guardian, and written
// again when somebody edits or deletes it.
package publish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"

	"github.com/canary-guardian/guardian/rules"
)

// FieldManager owns what guardian writes into the PrometheusRule.
const FieldManager = "guardian-rules"

// Resource is what is written; watching it needs list and watch, with the
// field selector metadata.name.
var Resource = monitoringv1.SchemeGroupVersion.WithResource(monitoringv1.PrometheusRuleName)

// Options is what a Publisher works with. All but Owner are required.
type Options struct {
	Client    dynamic.Interface
	Name      string // of the PrometheusRule
	Namespace string
	// Owner is deleted together with the PrometheusRule: guardian's own
	// Deployment, which has to live in Namespace. Nil: the object stays.
	Owner *metav1.OwnerReference
	Log   *slog.Logger
}

// Publisher keeps one PrometheusRule as Want says. Only the holder of
// guardian's lease may run one: two versions of guardian would fight.
type Publisher struct {
	Options
	want    atomic.Pointer[rules.Rules]
	changed chan struct{} // holds one token while something may have changed
}

// New checks the options. Nothing is written before Run.
func New(o Options) (*Publisher, error) {
	var errs []error
	if o.Client == nil || o.Log == nil {
		errs = append(errs, errors.New("want a client and a log"))
	}
	if o.Name == "" || o.Namespace == "" {
		errs = append(errs, fmt.Errorf("PrometheusRule %q/%q: want a namespace and a name", o.Namespace, o.Name))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("new publisher: %w", err)
	}
	return &Publisher{Options: o, changed: make(chan struct{}, 1)}, nil
}

// Want replaces the rules to be published. It does not block, and may be called
// before and during Run.
func (p *Publisher) Want(r *rules.Rules) {
	p.want.Store(r)
	p.poke()
}

func (p *Publisher) poke() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// Run publishes until ctx ends, and returns nil then. What cannot be written is
// logged and tried again, after 1 s at first and 1 min at most.
func (p *Publisher) Run(ctx context.Context) error {
	informer := dynamicinformer.NewFilteredDynamicInformer(p.Client, Resource, p.Namespace, 10*time.Minute, nil,
		func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("metadata.name", p.Name).String()
		}).Informer()
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { p.poke() },
		UpdateFunc: func(any, any) { p.poke() },
		DeleteFunc: func(any) { p.poke() },
	}); err != nil {
		return fmt.Errorf("watch PrometheusRule %s/%s: %w", p.Namespace, p.Name, err)
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		informer.RunWithContext(ctx)
	}()
	defer func() { <-stopped }()

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
		if err := p.RunOnce(ctx); err != nil && ctx.Err() == nil {
			p.Log.Error("cannot publish rules", "namespace", p.Namespace, "prometheusrule", p.Name, "err", err)
			retry = time.After(backoff.Step())
			continue
		}
		backoff = p.backoff()
	}
}

func (p *Publisher) backoff() wait.Backoff {
	return wait.Backoff{Duration: time.Second, Factor: 2, Jitter: 0.1, Steps: 100, Cap: time.Minute}
}

// RunOnce writes the PrometheusRule if it is not as wanted, and nothing before
// Want was called.
func (p *Publisher) RunOnce(ctx context.Context) error {
	r := p.want.Load()
	if r == nil {
		return nil
	}
	want, err := p.object(r)
	if err != nil {
		return fmt.Errorf("write PrometheusRule %s/%s: %w", p.Namespace, p.Name, err)
	}
	client := p.Client.Resource(Resource).Namespace(p.Namespace)
	have, err := client.Get(ctx, p.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
	case err != nil:
		return fmt.Errorf("get PrometheusRule %s/%s: %w", p.Namespace, p.Name, err)
	case same(have, want):
		return nil
	}
	body, err := json.Marshal(want)
	if err != nil {
		return fmt.Errorf("write PrometheusRule %s/%s: %w", p.Namespace, p.Name, err)
	}
	force := true
	if _, err := client.Patch(ctx, p.Name, types.ApplyPatchType, body, metav1.PatchOptions{FieldManager: FieldManager, Force: &force}); err != nil {
		if apierrors.IsNotFound(err) {
			return fmt.Errorf("apply PrometheusRule %s/%s: is prometheus-operator installed? %w", p.Namespace, p.Name, err)
		}
		return fmt.Errorf("apply PrometheusRule %s/%s: %w", p.Namespace, p.Name, err)
	}
	p.Log.Info("published rules", "namespace", p.Namespace, "prometheusrule", p.Name)
	return nil
}

// object is the PrometheusRule as it should be, with nothing that others own.
func (p *Publisher) object(r *rules.Rules) (*unstructured.Unstructured, error) {
	rule := r.PrometheusRule(p.Name, p.Namespace)
	if p.Owner != nil {
		rule.OwnerReferences = []metav1.OwnerReference{*p.Owner}
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(rule)
	if err != nil {
		return nil, err
	}
	delete(content, "status")
	out := &unstructured.Unstructured{Object: content}
	unstructured.RemoveNestedField(out.Object, "metadata", "creationTimestamp")
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

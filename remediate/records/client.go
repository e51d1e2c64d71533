package records

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/canary-guardian/guardian/internal/nearest"
	"github.com/canary-guardian/guardian/remediate/decision"
)

// Client reads the records of a namespace's guards and writes requests into them, as
// the user of Kube: a CLI, whose rights may be small. guardian itself does not use it.
type Client struct {
	Kube      kubernetes.Interface
	Namespace string // of the guards
	Manager   string // field manager of what it writes
}

// Explain wraps what Kubernetes answers, with what to do about it: which rights reading
// and acting need, or to log in again.
func (c Client) Explain(doing string, err error) error {
	switch {
	case apierrors.IsForbidden(err):
		hint := ""
		if status := apierrors.APIStatus(nil); errors.As(err, &status) && status.Status().Details != nil {
			if kind := status.Status().Details.Kind; kind == "configmaps" || kind == "leases" {
				hint = fmt.Sprintf(" (reading needs get, list and watch of configmaps and list of leases in namespace %s; acting needs patch of configmaps as well)", c.Namespace)
			}
		}
		return fmt.Errorf("%s: your user may not: %w%s", doing, err, hint)
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%s: the API server does not know your user: log in again, or choose another --context: %w", doing, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// Get reads a guard's record live, as far as it can be read; nil without an
// error when there is none.
func (c Client) Get(ctx context.Context, guard string) (*decision.Record, error) {
	cm, err := c.Kube.CoreV1().ConfigMaps(c.Namespace).Get(ctx, Name(guard), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, c.Explain("read the record of guard "+guard, err)
	}
	r, err := ReadOf(guard, cm)
	if err != nil {
		return nil, err
	}
	return &r, nil
}

// Known is Get for a guard that has to have a record: that there is none is an
// error which says which guards have one.
func (c Client) Known(ctx context.Context, guard string) (decision.Record, error) {
	r, err := c.Get(ctx, guard)
	if err == nil && r == nil {
		err = c.Unknown(ctx, guard)
	}
	if err != nil {
		return decision.Record{}, err
	}
	return *r, nil
}

// Named is a record with its guard's namespace and name.
type Named struct {
	Namespace, Guard string
	decision.Record
}

// List reads every guard's record of a namespace ("" for all), by name. One
// that cannot be read as a whole is in the error, and the rest of it is still
// returned.
func (c Client) List(ctx context.Context, namespace string) ([]Named, error) {
	list, err := c.Kube.CoreV1().ConfigMaps(namespace).List(ctx, metav1.ListOptions{LabelSelector: LabelGuard})
	if err != nil {
		return nil, c.Explain("list the guards' records", err)
	}
	var out []Named
	var bad error
	for i := range list.Items {
		cm := &list.Items[i]
		r, err := ReadOf(guardName(cm), cm)
		if err != nil {
			bad = errors.Join(bad, err)
			continue
		}
		bad = errors.Join(bad, UnreadableError(r, cm.Namespace, guardName(cm)))
		out = append(out, Named{cm.Namespace, guardName(cm), r})
	}
	slices.SortFunc(out, func(a, b Named) int {
		return strings.Compare(a.Namespace+"/"+a.Guard, b.Namespace+"/"+b.Guard)
	})
	return out, bad
}

func guardName(cm *corev1.ConfigMap) string {
	if name := cm.Labels[LabelGuard]; name != "" {
		return name
	}
	return strings.TrimPrefix(cm.Name, Name(""))
}

// Unknown is the error for a guard without a record: it says which guards have one.
func (c Client) Unknown(ctx context.Context, guard string) error {
	hint := "no guard has one there: does guardian run for this namespace?"
	if gone := c.Gone(ctx); gone != "" {
		hint = gone
	}
	if all, err := c.List(ctx, c.Namespace); err == nil && len(all) > 0 {
		hint = guardsThere(all, guard)
	}
	return fmt.Errorf("no guard %s in namespace %s (no ConfigMap %s); %s", guard, c.Namespace, Name(guard), hint)
}

// guardsThere names the guards of a namespace, of many those that a person can have meant.
func guardsThere(all []Named, guard string) string {
	const most = 10
	names := make([]string, len(all))
	for i, r := range all {
		names[i] = r.Guard
	}
	if len(names) <= most {
		return "guards there: " + strings.Join(names, ", ")
	}
	nearest.Sort(names, guard)
	return fmt.Sprintf("there are %d guards, nearest: %s", len(names), strings.Join(names[:most/2], ", "))
}

// Gone says that the namespace does not exist, or is being deleted; empty: it does, or
// that cannot be told, as without the right to read it.
func (c Client) Gone(ctx context.Context) string {
	ns, err := c.Kube.CoreV1().Namespaces().Get(ctx, c.Namespace, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return "namespace " + c.Namespace + " does not exist"
	case err == nil && ns.DeletionTimestamp != nil:
		return "namespace " + c.Namespace + " is being deleted since " + decision.Stamp(ns.DeletionTimestamp.Time)
	}
	return ""
}

// FollowEvery is how often a followed record is read even without an event.
const FollowEvery = 5 * time.Second

// Follow hands each state of a guard's record to see until that returns 0 or
// less, or ctx is done. see returns after how long it wants to look again. The
// record is nil when there is none. Errors of reading are handed on too: they
// may pass. Without the right to watch it polls.
func (c Client) Follow(ctx context.Context, guard string, see func(*decision.Record, error) time.Duration) error {
	for {
		// The watch begins before the first look, so that nothing falls
		// between the two.
		w, watchErr := c.Kube.CoreV1().ConfigMaps(c.Namespace).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + Name(guard)})
		var events <-chan watch.Event
		if watchErr == nil {
			events = w.ResultChan()
		}
		done, err := c.followOne(ctx, guard, events, see)
		if watchErr == nil {
			w.Stop()
		}
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second): // a watch that ends at once must not spin
		}
	}
}

// followOne follows until the watch ends; done says that see has had enough.
func (c Client) followOne(ctx context.Context, guard string, events <-chan watch.Event, see func(*decision.Record, error) time.Duration) (done bool, err error) {
	next := see(c.Get(ctx, guard))
	for next > 0 {
		t := time.NewTimer(min(next, FollowEvery))
		select {
		case <-ctx.Done():
			t.Stop()
			return false, ctx.Err()
		case <-t.C:
			next = see(c.Get(ctx, guard))
		case e, open := <-events:
			t.Stop()
			cm, isRecord := e.Object.(*corev1.ConfigMap)
			switch {
			case !open || !isRecord:
				return false, nil
			case cm.Name != Name(guard):
			case e.Type == watch.Deleted:
				next = see(nil, nil)
			default:
				r, parseErr := ReadOf(guard, cm)
				if parseErr != nil {
					next = see(nil, parseErr)
					break
				}
				next = see(&r, nil)
			}
		}
	}
	return true, nil
}

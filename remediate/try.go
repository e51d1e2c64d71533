package remediate

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
)

// Tried is a write of guardian's that was tried as a dry run: nothing has changed.
type Tried struct {
	Kind, Name string
	Verb       string // create or patch
	Err        error  // what the API server has against it; nil: nothing
}

const tryReason = "a dry run of guardian check"

var dryRun = []string{metav1.DryRunAll}

// TryInstance tries what guardian writes whatever its guards do: Leases and Events.
func (l Previewer) TryInstance(ctx context.Context, namespace string) []Tried {
	name, seconds, now := records.ReplicaLease("dry-run"), int32(records.LifeTimeout/time.Second), metav1.NewMicroTime(time.Now())
	_, leaseErr := l.Client.CoordinationV1().Leases(namespace).Create(ctx, &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app.kubernetes.io/name": "guardian", records.LabelReplica: "true"}},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &name, RenewTime: &now, LeaseDurationSeconds: &seconds},
	}, metav1.CreateOptions{DryRun: dryRun})
	at := metav1.NewTime(now.Time)
	_, eventErr := l.Client.CoreV1().Events(namespace).Create(ctx, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: name},
		InvolvedObject: corev1.ObjectReference{APIVersion: IstioGroup + "/" + IstioVersions[0], Kind: "VirtualService", Namespace: namespace, Name: name},
		Reason:         "GuardianNoted", Message: tryReason, Type: corev1.EventTypeNormal, Source: corev1.EventSource{Component: "guardian"},
		FirstTimestamp: at, LastTimestamp: at, Count: 1,
	}, metav1.CreateOptions{DryRun: dryRun})
	return []Tried{{"Lease", name, "create", leaseErr}, {"Event", name, "create", eventErr}}
}

// TryRollback tries what a rollback of g writes, with l's own rights: the record,
// and each VirtualService with the lock of user. What cannot be read is an error.
func (l Previewer) TryRollback(ctx context.Context, g decision.Guard, user string) ([]Tried, error) {
	live := &liveReader{namespace: g.Namespace, kube: l.Client, istio: newIstioAPI(l.Dynamic, g.Namespace), domain: l.Domain, parts: l.Builds}
	s, err := gather(ctx, live, decision.Input{Guard: g, Leads: true}, l.Domain, user, nil, nil)
	if err := cmp.Or(err, s.unread); err != nil {
		return nil, err
	}
	want := s.input.Record
	if want.Lock == nil {
		want.Lock = &decision.Lock{Kind: decision.LockManual, Since: time.Now(), By: "guardian check", Reason: tryReason}
		want.Denies(s.input.Deny, s.input.Spare, g.Rollback)
		want.VirtualServices, want.Message = g.VirtualServices, tryReason
	}
	out := []Tried{l.tryRecord(ctx, g, s.record, want, user)}
	if g.Mode == decision.ModeObserve {
		return out, nil // no VirtualService is written
	}
	for _, vs := range s.services {
		out = append(out, tryTraffic(ctx, live.istio, g, s.pair, vs, want, user))
	}
	return out, nil
}

// tryRecord writes the record as it becomes.
func (l Previewer) tryRecord(ctx context.Context, g decision.Guard, old *corev1.ConfigMap, want decision.Record, user string) Tried {
	api, set := l.Client.CoreV1().ConfigMaps(g.Namespace), map[string]string{records.LabelGuard: g.Name, "app.kubernetes.io/managed-by": "guardian", records.LabelLocked: "true"}
	t := Tried{Kind: "ConfigMap", Name: records.Name(g.Name), Verb: "create"}
	if old == nil {
		_, t.Err = api.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: t.Name, Namespace: g.Namespace, Labels: set, Annotations: records.OwnerOf(nil, user)}, Data: want.Data(),
		}, metav1.CreateOptions{FieldManager: FieldManager, DryRun: dryRun})
		return t
	}
	t.Verb = "patch"
	patch, err := records.Patch(old, set, want, user)
	if t.Err = err; err == nil {
		_, t.Err = api.Patch(ctx, t.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: FieldManager, DryRun: dryRun})
	}
	return t
}

// tryTraffic writes the weights of a rollback and the lock. Where no weight is safe
// to write, which Look tells of, it is the lock alone.
func tryTraffic(ctx context.Context, api *istioAPI, g decision.Guard, p virtualservice.Pair, vs *unstructured.Unstructured, want decision.Record, user string) Tried {
	t := Tried{Kind: "VirtualService", Name: vs.GetName(), Verb: "patch"}
	ops := []virtualservice.Op{{Op: "test", Path: "/metadata/resourceVersion", Value: vs.GetResourceVersion()}}
	if rewritten, err := virtualservice.Rewrite(vs.Object, p, 0, g.Rollback.Options(), nil); err == nil {
		ops = append(ops, rewritten.Ops...)
	}
	ops = append(ops, lockOps(vs, g.Name, want, user, nil)...)
	body, err := json.Marshal(ops)
	if err != nil {
		t.Err = fmt.Errorf("write the patch: %w", err)
		return t
	}
	_, err = inServed(api, resourceVirtualServices, func(r dynamic.ResourceInterface) (*unstructured.Unstructured, error) {
		return r.Patch(ctx, vs.GetName(), types.JSONPatchType, body, metav1.PatchOptions{FieldManager: FieldManager, DryRun: dryRun})
	})
	t.Err = conflictOr(err, "patch VirtualService %s/%s", g.Namespace, vs.GetName())
	return t
}

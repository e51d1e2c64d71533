package remediate

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// LeaderLease is held by the replica that may go forward.
const LeaderLease = "guardian"

const (
	lifeRetry     = 5 * time.Second  // until a renewal that failed is tried again: before LifeTimeout
	forgetReplica = time.Hour        // when a dead replica's Lease is swept away
	sweepEvery    = 10 * time.Minute // how often dead ones are looked for
)

// leases keep this replica's life and compete for going forward.
type leases struct {
	kube      kubernetes.Interface
	namespace string
	identity  string
	podUID    types.UID // of the pod called identity; may be empty
	instance  string
	heartbeat func() time.Time
	// alertmanager is heartbeat of what came that way; may be nil
	alertmanager func() time.Time
	// failing are the guards whose last pass failed, sorted; may be nil
	failing func() []string
	now     func() time.Time
	log     *slog.Logger
	metrics *Metrics

	failed  failure               // to renew it
	own     *coordinationv1.Lease // this replica's, as last written; nil: to be read first
	swept   time.Time             // when dead replicas' were last looked for
	rivals  rivals
	refused atomic.Pointer[OtherGuardianError] // another guardian looks after the namespace
	maxAge  atomic.Int64                       // of the heartbeat, nanoseconds; 0: not known yet
	mu      sync.Mutex                         // held while leading changes
	leading atomic.Bool
}

func newLeases(o Options) *leases {
	return &leases{kube: o.Client, namespace: o.Namespace, identity: o.Identity, podUID: o.PodUID, instance: o.Instance, heartbeat: o.Heartbeat, alertmanager: o.HeartbeatByAlertmanager, now: o.Now, log: o.Logger, metrics: o.Metrics}
}

func (l *leases) leads() bool { return l.leading.Load() }

// renewAndTell renews this replica's Lease, and logs why it could not unless that has
// been told.
func (l *leases) renewAndTell(ctx context.Context) bool {
	err := namespaceError(l.namespace, l.renew(ctx))
	if err != nil && ctx.Err() != nil {
		return false
	}
	var tell bool
	if l.failed, tell = l.failed.next(err, l.now()); tell {
		l.log.Warn("renew this replica's lease", "err", err)
	}
	return err == nil
}

// leave removes this replica's Lease. ctx may be over.
func (l *leases) leave(ctx context.Context) {
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := l.kube.CoordinationV1().Leases(l.namespace).Delete(end, records.ReplicaLease(l.identity), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		l.log.Warn("remove this replica's lease", "err", err)
	}
}

// renew writes this replica's Lease. It is read first only where somebody else has
// written or removed it.
func (l *leases) renew(ctx context.Context) error {
	err := l.renewOnce(ctx)
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) || apierrors.IsAlreadyExists(err) {
		l.own = nil
		err = l.renewOnce(ctx)
	}
	return err
}

func (l *leases) renewOnce(ctx context.Context) error {
	api, name := l.kube.CoordinationV1().Leases(l.namespace), records.ReplicaLease(l.identity)
	if l.own == nil {
		own, err := absent(api.Get(ctx, name, metav1.GetOptions{}))
		if err != nil {
			return fmt.Errorf("read Lease %s/%s: %w", l.namespace, name, err)
		}
		l.own = own
	}
	var err error
	write := func() (*coordinationv1.Lease, error) { return api.Update(ctx, l.alive(l.own), metav1.UpdateOptions{}) }
	if l.own == nil {
		fresh := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: l.namespace}}
		write = func() (*coordinationv1.Lease, error) { return api.Create(ctx, l.alive(fresh), metav1.CreateOptions{}) }
	}
	if l.own, err = write(); err != nil {
		l.own = nil // it may be written all the same
		return fmt.Errorf("write Lease %s/%s: %w", l.namespace, name, err)
	}
	return nil
}

// alive is a Lease of this replica that says that it lives now, and what it has
// heard.
func (l *leases) alive(lease *coordinationv1.Lease) *coordinationv1.Lease {
	lease = lease.DeepCopy()
	now, seconds := metav1.NewMicroTime(l.now()), int32(records.LifeTimeout/time.Second)
	if lease.Labels == nil {
		lease.Labels = map[string]string{}
	}
	lease.Labels["app.kubernetes.io/name"] = "guardian"
	lease.Labels[records.LabelReplica] = "true"
	lease.Labels[LabelInstance] = l.instance
	if l.podUID != "" { // a replica that was killed, or lost its rights before it ended, cannot remove it
		lease.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: l.identity, UID: l.podUID}}
	}
	if lease.Annotations == nil {
		lease.Annotations = map[string]string{}
	}
	if beat := l.heartbeat(); !beat.IsZero() {
		lease.Annotations[records.AnnotationHeartbeat] = decision.Stamp(beat)
	}
	if l.alertmanager != nil && !l.alertmanager().IsZero() {
		lease.Annotations[records.AnnotationHeartbeatAlertmanager] = decision.Stamp(l.alertmanager())
	}
	if age := time.Duration(l.maxAge.Load()); age > 0 {
		lease.Annotations[records.AnnotationHeartbeatMaxAge] = age.String()
	}
	delete(lease.Annotations, records.AnnotationFailing)
	if text := l.failingText(); text != "" {
		lease.Annotations[records.AnnotationFailing] = text
	}
	lease.Spec = coordinationv1.LeaseSpec{HolderIdentity: &l.identity, RenewTime: &now, LeaseDurationSeconds: &seconds}
	return lease
}

// mostFailing is how many guards a Lease names.
const mostFailing = 100

func (l *leases) failingText() string {
	if l.failing == nil {
		return ""
	}
	names := l.failing()
	if len(names) > mostFailing {
		return records.FailingAll
	}
	return strings.Join(names, " ")
}

// newestHeartbeat asks the API server for the newest heartbeat that any
// replica has heard.
func (l *leases) newestHeartbeat(ctx context.Context) (time.Time, error) {
	list, err := l.kube.CoordinationV1().Leases(l.namespace).List(ctx, metav1.ListOptions{LabelSelector: records.LabelReplica})
	if err != nil {
		return time.Time{}, err
	}
	return records.NewestHeartbeat(list.Items, l.heartbeat(), l.now()), nil
}

// sweep removes the Leases of replicas that have been dead for long.
func (l *leases) sweep(ctx context.Context) {
	list, err := l.kube.CoordinationV1().Leases(l.namespace).List(ctx, metav1.ListOptions{LabelSelector: records.LabelReplica})
	if err != nil {
		return
	}
	for i := range list.Items {
		lease := &list.Items[i]
		if lease.Spec.RenewTime == nil || l.now().Sub(lease.Spec.RenewTime.Time) < forgetReplica {
			continue
		}
		if err := l.kube.CoordinationV1().Leases(l.namespace).Delete(ctx, lease.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			l.log.Warn("remove the lease of a dead replica", "lease", lease.Name, "err", err)
		}
	}
}

package remediate

import (
	"context"
	"errors"
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
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// LeaderLease is held by the replica that may go forward.
const LeaderLease = "guardian"

const (
	lifeRetry     = 5 * time.Second  // until a renewal that failed is tried again: before LifeTimeout
	forgetReplica = time.Hour        // when a dead replica's Lease is swept away
	sweepEvery    = 10 * time.Minute // how often dead ones are looked for
)

// How the replicas compete for LeaderLease. Rolling back needs no Lease (but where a
// replica's configuration has another stable or canary than the record), so that one
// whose holder was killed may stand for a minute, and a namespace costs the API
// server little: the holder writes every leaderRenew, the others read every
// leaderRetry to 2.2 times that, and one that is given up is taken that soon.
//
// A holder knows that it has lost it, at the latest, leaderRenew + leaderRetry +
// leaderDeadline after its last write, which is before any other may take it.
const (
	leaderDuration = 50 * time.Second
	leaderRenew    = 25 * time.Second
	leaderRetry    = 4 * time.Second
	leaderDeadline = 15 * time.Second
)

// throttledLock keeps most renewals of the holder from the API server: the elector
// reads and renews at one pace, of which reading needs the quick one.
type throttledLock struct {
	resourcelock.Interface
	written time.Time // when the API server last took a write of this holder
}

// Get reads what another replica may have written.
func (t *throttledLock) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	r, raw, err := t.Interface.Get(ctx)
	if err != nil || r.HolderIdentity != t.Identity() {
		t.written = time.Time{}
	}
	return r, raw, err
}

func (t *throttledLock) Create(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	return t.write(r, func() error { return t.Interface.Create(ctx, r) })
}

func (t *throttledLock) Update(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	if r.HolderIdentity == t.Identity() && time.Since(t.written) < leaderRenew {
		return nil
	}
	return t.write(r, func() error { return t.Interface.Update(ctx, r) })
}

// write notes when a write began that makes this replica the holder.
func (t *throttledLock) write(r resourcelock.LeaderElectionRecord, do func() error) error {
	began := time.Now()
	err := do()
	if t.written = began; err != nil || r.HolderIdentity != t.Identity() {
		t.written = time.Time{}
	}
	return err
}

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

// run renews both Leases until ctx ends and gives them up then. gained is
// called when this replica becomes the one that may go forward, lost when another
// guardian turns out to have the namespace.
func (l *leases) run(ctx context.Context, gained func(), lost func(error)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.live(ctx, lost)
	}()
	for ctx.Err() == nil {
		elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Lock: &throttledLock{Interface: &resourcelock.LeaseLock{
				LeaseMeta:  metav1.ObjectMeta{Namespace: l.namespace, Name: LeaderLease},
				Client:     l.kube.CoordinationV1(),
				LockConfig: resourcelock.ResourceLockConfig{Identity: l.identity},
				Labels:     map[string]string{LabelInstance: l.instance},
			}},
			LeaseDuration: leaderDuration, RenewDeadline: leaderDeadline, RetryPeriod: leaderRetry,
			ReleaseOnCancel: true, Name: LeaderLease,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(term context.Context) {
					if l.begin(term) {
						gained()
					}
				},
				OnStoppedLeading: l.end,
			},
		})
		if err != nil { // the durations above are valid
			panic(err)
		}
		elector.Run(ctx)
	}
	<-done
}

// begin notes that a term has begun, unless it is over already: the elector
// tells of its beginning from a goroutine, which may come late.
func (l *leases) begin(term context.Context) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if term.Err() != nil {
		return false
	}
	l.leading.Store(true)
	l.metrics.leader.Set(1)
	l.log.Info("became promotion leader", "identity", l.identity)
	return true
}

// end notes that the term is over. The elector has ended its context before.
func (l *leases) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.leading.Swap(false) { // there was none
		return
	}
	l.metrics.leader.Set(0)
	l.log.Info("no longer promotion leader", "identity", l.identity)
}

// live shows that this replica lives, until ctx ends.
func (l *leases) live(ctx context.Context, lost func(error)) {
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			l.leave(ctx)
			return
		case <-next.C:
		}
		next.Reset(records.LifePeriod)
		if !l.renewAndTell(ctx) {
			next.Reset(lifeRetry)
		}
		l.findRivals(ctx, lost)
		if l.leads() && l.now().Sub(l.swept).Abs() >= sweepEvery {
			l.swept = l.now()
			l.sweep(ctx)
		}
	}
}

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

// findRivals ends this guardian if another one has the namespace.
func (l *leases) findRivals(ctx context.Context, lost func(error)) {
	err := l.contest(ctx)
	if other := (*OtherGuardianError)(nil); errors.As(err, &other) {
		l.refused.Store(other)
		lost(other)
	} else if err != nil && ctx.Err() == nil {
		l.log.Warn("look for another guardian of this namespace", "namespace", l.namespace, "err", err)
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

package remediate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// Leases that guardian keeps.
const (
	// LeaderLease is held by the replica that may go forward.
	LeaderLease = "guardian"
	// LabelReplica marks the Lease of each replica's life, guardian-<pod>.
	LabelReplica = Prefix + "replica"
	// AnnotationHeartbeat on it says when that replica last heard the
	// heartbeat alert, RFC 3339.
	AnnotationHeartbeat = Prefix + "heartbeat"
	// AnnotationHeartbeatAlertmanager on it says the same of those that came
	// through Alertmanager: what Prometheus pushes itself proves nothing of it.
	AnnotationHeartbeatAlertmanager = Prefix + "heartbeat-alertmanager"
	// AnnotationHeartbeatMaxAge on it is the age at which that replica takes a
	// heartbeat to be stale, so that a CLI needs no configuration to tell.
	AnnotationHeartbeatMaxAge = Prefix + "heartbeat-max-age"
	// LifePeriod is how often a replica renews its Lease. A CLI takes a
	// replica for dead after LifeTimeout.
	LifePeriod  = 10 * time.Second
	LifeTimeout = 30 * time.Second

	maxSkew       = time.Minute // by which clocks of two replicas may differ
	forgetReplica = time.Hour   // when a dead replica's Lease is swept away
)

// leases keep this replica's life and compete for going forward.
type leases struct {
	kube      kubernetes.Interface
	namespace string
	identity  string
	instance  string
	heartbeat func() time.Time
	// alertmanager is heartbeat of what came that way; may be nil
	alertmanager func() time.Time
	now          func() time.Time
	log          *slog.Logger
	metrics      *Metrics

	rivals  rivals
	refused atomic.Pointer[OtherGuardianError] // another guardian looks after the namespace
	maxAge  atomic.Int64                       // of the heartbeat, nanoseconds; 0: not known yet
	mu      sync.Mutex                         // held while leading changes
	leading atomic.Bool
}

func newLeases(o Options) *leases {
	return &leases{kube: o.Client, namespace: o.Namespace, identity: o.Identity, instance: o.Instance, heartbeat: o.Heartbeat, alertmanager: o.HeartbeatByAlertmanager, now: o.Now, log: o.Logger, metrics: o.Metrics}
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
			Lock: &resourcelock.LeaseLock{
				LeaseMeta:  metav1.ObjectMeta{Namespace: l.namespace, Name: LeaderLease},
				Client:     l.kube.CoordinationV1(),
				LockConfig: resourcelock.ResourceLockConfig{Identity: l.identity},
				Labels:     map[string]string{LabelInstance: l.instance},
			},
			LeaseDuration: 15 * time.Second, RenewDeadline: 10 * time.Second, RetryPeriod: 2 * time.Second,
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
	l.log.Info("lease for going forward", "held", true, "identity", l.identity)
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
	l.log.Info("lease for going forward", "held", false, "identity", l.identity)
}

// live shows that this replica lives, until ctx ends.
func (l *leases) live(ctx context.Context, lost func(error)) {
	tick := time.NewTicker(LifePeriod)
	defer tick.Stop()
	for {
		if err := l.renew(ctx); err != nil && ctx.Err() == nil {
			l.log.Warn("renew this replica's lease", "err", err)
		}
		l.lookForRivals(ctx, lost)
		select {
		case <-ctx.Done():
			l.leave(ctx)
			return
		case <-tick.C:
			if l.leads() {
				l.sweep(ctx)
			}
		}
	}
}

// leave removes this replica's Lease. ctx may be over.
func (l *leases) leave(ctx context.Context) {
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := l.kube.CoordinationV1().Leases(l.namespace).Delete(end, ReplicaLease(l.identity), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		l.log.Warn("remove this replica's lease", "err", err)
	}
}

// lookForRivals ends this guardian if another one has the namespace.
func (l *leases) lookForRivals(ctx context.Context, lost func(error)) {
	err := l.contest(ctx)
	if other := (*OtherGuardianError)(nil); errors.As(err, &other) {
		l.refused.Store(other)
		lost(other)
	} else if err != nil && ctx.Err() == nil {
		l.log.Warn("look for another guardian of this namespace", "namespace", l.namespace, "err", err)
	}
}

// ReplicaLease is the name of the Lease that shows a replica's life.
func ReplicaLease(identity string) string { return recordPrefix + identity }

func (l *leases) renew(ctx context.Context) error {
	api := l.kube.CoordinationV1().Leases(l.namespace)
	now := metav1.NewMicroTime(l.now())
	seconds := int32(LifeTimeout / time.Second)
	lease, err := api.Get(ctx, ReplicaLease(l.identity), metav1.GetOptions{})
	fresh := apierrors.IsNotFound(err)
	if err != nil && !fresh {
		return fmt.Errorf("read Lease %s/%s: %w", l.namespace, ReplicaLease(l.identity), err)
	}
	if fresh {
		lease = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: ReplicaLease(l.identity), Namespace: l.namespace}}
	}
	if lease.Labels == nil {
		lease.Labels = map[string]string{}
	}
	lease.Labels["app.kubernetes.io/name"] = "guardian"
	lease.Labels[LabelReplica] = "true"
	lease.Labels[LabelInstance] = l.instance
	if lease.Annotations == nil {
		lease.Annotations = map[string]string{}
	}
	if beat := l.heartbeat(); !beat.IsZero() {
		lease.Annotations[AnnotationHeartbeat] = stamp(beat)
	}
	if l.alertmanager != nil && !l.alertmanager().IsZero() {
		lease.Annotations[AnnotationHeartbeatAlertmanager] = stamp(l.alertmanager())
	}
	if age := time.Duration(l.maxAge.Load()); age > 0 {
		lease.Annotations[AnnotationHeartbeatMaxAge] = age.String()
	}
	lease.Spec = coordinationv1.LeaseSpec{HolderIdentity: &l.identity, RenewTime: &now, LeaseDurationSeconds: &seconds}
	if fresh {
		_, err = api.Create(ctx, lease, metav1.CreateOptions{})
	} else {
		_, err = api.Update(ctx, lease, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("write Lease %s/%s: %w", l.namespace, lease.Name, err)
	}
	return nil
}

// newestHeartbeat asks the API server for the newest heartbeat that any
// replica has heard.
func (l *leases) newestHeartbeat(ctx context.Context) (time.Time, error) {
	list, err := l.kube.CoordinationV1().Leases(l.namespace).List(ctx, metav1.ListOptions{LabelSelector: LabelReplica})
	if err != nil {
		return time.Time{}, err
	}
	return newestOf(list.Items, l.heartbeat(), l.now()), nil
}

// newestOf is the newest heartbeat of all replicas, own included. One that lies
// in the future is by a clock that was set, and hides no other.
func newestOf(leases []coordinationv1.Lease, own, now time.Time) time.Time {
	return newestIn(leases, AnnotationHeartbeat, own, now)
}

func newestIn(leases []coordinationv1.Lease, annotation string, own, now time.Time) time.Time {
	var newest time.Time
	take := func(t time.Time) {
		if t.After(newest) && !t.After(now.Add(maxSkew)) {
			newest = t
		}
	}
	take(own)
	for i := range leases {
		if t, err := time.Parse(time.RFC3339, leases[i].Annotations[annotation]); err == nil {
			take(t)
		}
	}
	return newest
}

// Heartbeat is what the replicas' Leases tell of the heartbeat alert.
type Heartbeat struct {
	Heard  bool          // some replica has heard it
	Age    time.Duration // of the newest, when a Lease was last renewed
	MaxAge time.Duration // above it no step is taken; 0: no Lease tells

	ByAlertmanager    bool // one of them came through Alertmanager
	AgeByAlertmanager time.Duration
}

// ReadHeartbeat finds the newest heartbeat. Its age is told by the replicas' own
// clocks alone: that of the machine which asks may be off.
func ReadHeartbeat(leases []coordinationv1.Lease) Heartbeat {
	var h Heartbeat
	var now time.Time
	for i := range leases {
		l := &leases[i]
		if l.Spec.RenewTime == nil || !l.Spec.RenewTime.After(now) {
			continue
		}
		now = l.Spec.RenewTime.Time
		if age, err := time.ParseDuration(l.Annotations[AnnotationHeartbeatMaxAge]); err == nil && age > 0 {
			h.MaxAge = age
		}
	}
	if beat := newestOf(leases, time.Time{}, now); !beat.IsZero() {
		h.Heard, h.Age = true, max(0, now.Sub(beat))
	}
	if beat := newestIn(leases, AnnotationHeartbeatAlertmanager, time.Time{}, now); !beat.IsZero() {
		h.ByAlertmanager, h.AgeByAlertmanager = true, max(0, now.Sub(beat))
	}
	return h
}

// sweep removes the Leases of replicas that have been dead for long.
func (l *leases) sweep(ctx context.Context) {
	list, err := l.kube.CoordinationV1().Leases(l.namespace).List(ctx, metav1.ListOptions{LabelSelector: LabelReplica})
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

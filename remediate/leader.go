package remediate

import (
	"context"
	"time"

	"github.com/canary-guardian/guardian/remediate/records"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
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

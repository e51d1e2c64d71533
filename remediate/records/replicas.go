package records

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// How guardian's replicas show that they run: each renews a Lease guardian-<pod> in
// the guards' namespace.
const (
	leaseSelector = "app.kubernetes.io/name=guardian"
	leaseFresh    = LifeTimeout
	// leaseSkew is the most by which this machine's clock is thought to be off.
	// Up to it a renewal that is seen to happen counts, whatever its time.
	leaseSkew  = 10 * time.Minute
	leaseGrace = LifePeriod + 2*time.Second // one renewal must show within it
	// beatMaxAge is heartbeat.maxAge where no Lease tells it.
	beatMaxAge = 3 * time.Minute
)

// Liveness judges by the replicas' Leases whether guardian runs. What is observed to
// have happened lies between two observations: it is taken for as old as it can be.
// All times are by this machine's clock. The zero value is ready for use, by one
// goroutine at a time.
type Liveness struct {
	Renewed   time.Time // the earliest time of the last renewal that was observed; zero: none was
	Received  time.Time // the earliest time at which a replica can have received the newest heartbeat that was observed to come; zero: none was
	Heartbeat Heartbeat // as last observed

	failing  map[string]string
	seen     map[string]time.Time // lease → its renewTime when last observed
	observed time.Time            // the last observation
	moved    time.Time            // when a renewal was last observed
}

// Unverified is why alerts may not reach the replicas that run, as last observed; empty:
// a heartbeat has come of late.
func (p *Liveness) Unverified() string {
	switch most := cmp.Or(p.Heartbeat.MaxAge, beatMaxAge); {
	case !p.Heartbeat.Heard:
		return "alerts may not reach guardian: it has received no heartbeat since it started"
	case p.Heartbeat.Age > most:
		return fmt.Sprintf("alerts may not reach guardian: the newest heartbeat is %s old, heartbeat.maxAge is %s", p.Heartbeat.Age.Round(time.Second), most)
	}
	return ""
}

// Failing is why the record of a guard may not tell of what fires, as last observed;
// empty: no replica has said that its last pass over it failed.
func (p *Liveness) Failing(guard string) string {
	for _, name := range []string{guard, FailingAll} {
		if lease := p.failing[name]; lease != "" {
			return fmt.Sprintf("guardian's last pass over guard %s failed, and its record may not tell of what fires: see the log of %s", guard, strings.TrimPrefix(lease, NamePrefix))
		}
	}
	return ""
}

// Observe takes in the Leases as they are at now. why says why no replica seems to run;
// empty: one does. soon says that another observation might come to another answer.
func (p *Liveness) Observe(leases []coordinationv1.Lease, now time.Time) (why string, soon bool) {
	var newest *coordinationv1.Lease
	p.Heartbeat, p.failing = ReadHeartbeat(leases), readFailing(leases)
	if p.seen == nil {
		p.seen = map[string]time.Time{}
	}
	for i := range leases {
		l := &leases[i]
		if !strings.HasPrefix(l.Name, ReplicaLease("")) || l.Spec.RenewTime == nil {
			continue
		}
		at := l.Spec.RenewTime.Time
		if last, known := p.seen[l.Name]; !p.observed.IsZero() && (!known || !last.Equal(at)) {
			p.renewal(l, at, now)
		}
		p.seen[l.Name] = at
		if newest == nil || at.After(newest.Spec.RenewTime.Time) {
			newest = l
		}
	}
	p.observed = now
	if newest == nil {
		return "no replica has a Lease there", false
	}
	age := now.Sub(newest.Spec.RenewTime.Time)
	if age.Abs() <= leaseFresh || (!p.moved.IsZero() && now.Sub(p.moved) <= leaseFresh) {
		return "", true
	}
	if age < 0 {
		return fmt.Sprintf("the newest Lease, %s, is %s ahead of this machine's clock", newest.Name, (-age).Round(time.Second)), -age < leaseSkew
	}
	return fmt.Sprintf("no replica has renewed its Lease for %s (newest: %s)", age.Round(time.Second), newest.Name), age < leaseSkew
}

// renewal takes down a renewal that has happened since the last observation, and the
// heartbeat that it reports: both times are by the replica's clock.
func (p *Liveness) renewal(l *coordinationv1.Lease, at, now time.Time) {
	p.moved, p.Renewed = now, p.observed
	beat, err := time.Parse(time.RFC3339, l.Annotations[AnnotationHeartbeat])
	if err != nil || beat.After(at) {
		return
	}
	if received := p.observed.Add(-at.Sub(beat)); received.After(p.Received) {
		p.Received = received
	}
}

// Observe reads the Leases once and has p take them in; why and soon are those of
// Liveness.Observe.
func (c Client) Observe(ctx context.Context, p *Liveness) (why string, soon bool, err error) {
	list, err := c.Kube.CoordinationV1().Leases(c.Namespace).List(ctx, metav1.ListOptions{LabelSelector: leaseSelector})
	if err != nil {
		return "", false, c.Explain("list guardian's Leases", err)
	}
	why, soon = p.Observe(list.Items, time.Now())
	return why, soon, nil
}

// FindReplica observes until a replica is seen to run, and says why none seems to;
// empty: one does. A clock that is off by minutes costs it one renewal of waiting.
func (c Client) FindReplica(ctx context.Context, p *Liveness) (why string, err error) {
	give := time.Now().Add(leaseGrace)
	for {
		why, soon, err := c.Observe(ctx, p)
		switch {
		case err != nil:
			return "", err
		case why == "":
			return "", nil
		case !soon || time.Now().After(give):
			return cmp.Or(c.Gone(ctx), why), nil
		}
		select {
		case <-ctx.Done():
			return "", errors.New("interrupted")
		case <-time.After(2 * time.Second):
		}
	}
}

package records

import (
	"strings"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	coordinationv1 "k8s.io/api/coordination/v1"
)

// What the Lease of a replica tells.
const (
	// LabelReplica marks the Lease of each replica's life, guardian-<pod>.
	LabelReplica = decision.Prefix + "replica"
	// AnnotationHeartbeat on it says when that replica last heard the
	// heartbeat alert, RFC 3339.
	AnnotationHeartbeat = decision.Prefix + "heartbeat"
	// AnnotationHeartbeatAlertmanager on it says the same of those that came
	// through Alertmanager: what Prometheus pushes itself proves nothing of it.
	AnnotationHeartbeatAlertmanager = decision.Prefix + "heartbeat-alertmanager"
	// AnnotationHeartbeatMaxAge on it is the age at which that replica takes a
	// heartbeat to be stale, so that a CLI needs no configuration to tell.
	AnnotationHeartbeatMaxAge = decision.Prefix + "heartbeat-max-age"
	// AnnotationFailing on it names the guards, by spaces, whose last pass by that replica
	// failed: their records may not tell of what fires. FailingAll: too many to be named.
	AnnotationFailing = decision.Prefix + "failing"
	FailingAll        = "*"
	// LifePeriod is how often a replica renews its Lease. A CLI takes a
	// replica for dead after LifeTimeout.
	LifePeriod  = 20 * time.Second
	LifeTimeout = 30 * time.Second

	// MaxSkew is by how much the clocks of two replicas may differ.
	MaxSkew = time.Minute
)

// ReplicaLease is the name of the Lease that shows a replica's life.
func ReplicaLease(identity string) string { return NamePrefix + identity }

// NewestHeartbeat is the newest heartbeat of all replicas, own included. One that lies
// in the future is by a clock that was set, and hides no other.
func NewestHeartbeat(leases []coordinationv1.Lease, own, now time.Time) time.Time {
	return newestIn(leases, AnnotationHeartbeat, own, now)
}

func newestIn(leases []coordinationv1.Lease, annotation string, own, now time.Time) time.Time {
	var newest time.Time
	take := func(t time.Time) {
		if t.After(newest) && !t.After(now.Add(MaxSkew)) {
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

// readFailing finds which replicas that live could not finish their last pass over
// which guards: guard → name of the Lease.
func readFailing(leases []coordinationv1.Lease) map[string]string {
	var newest time.Time
	for i := range leases {
		if at := leases[i].Spec.RenewTime; at != nil && at.After(newest) {
			newest = at.Time
		}
	}
	failing := map[string]string{}
	for i := range leases {
		if at := leases[i].Spec.RenewTime; at == nil || newest.Sub(at.Time) > LifeTimeout {
			continue
		}
		for _, guard := range strings.Fields(leases[i].Annotations[AnnotationFailing]) {
			failing[guard] = leases[i].Name
		}
	}
	return failing
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
	if beat := NewestHeartbeat(leases, time.Time{}, now); !beat.IsZero() {
		h.Heard, h.Age = true, max(0, now.Sub(beat))
	}
	if beat := newestIn(leases, AnnotationHeartbeatAlertmanager, time.Time{}, now); !beat.IsZero() {
		h.ByAlertmanager, h.AgeByAlertmanager = true, max(0, now.Sub(beat))
	}
	return h
}

package remediate

import (
	"fmt"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	coordinationv1 "k8s.io/api/coordination/v1"
)

// LabelInstance on guardian's Leases names the guardian whose replicas hold
// them.
const LabelInstance = decision.Prefix + "instance"

// OtherGuardianError says that another guardian looks after the namespace. Two
// of them would take each other's guards for removed, refuse what people ask
// for, and compete for one lease.
type OtherGuardianError struct {
	Namespace, Instance, Other, Lease string
}

func (e *OtherGuardianError) Error() string {
	return fmt.Sprintf("namespace %s has a guardian already: instance %q (Lease %s), and this one is %q. One guardian manages one namespace: "+
		"put all guards into the configuration of one of them, and remove the other; replicas of one guardian need the same instance",
		e.Namespace, e.Other, e.Lease, e.Instance)
}

// rivals tell another guardian of the namespace from dead ones, by a clock that
// may differ from theirs.
type rivals struct {
	seen map[string]time.Time // Lease → its renewTime when last looked at
}

// living is the Lease of another guardian that lives. Those without a name are
// replicas of an older version.
func (r *rivals) living(leases []coordinationv1.Lease, instance string, now time.Time) (found *coordinationv1.Lease) {
	if r.seen == nil {
		r.seen = map[string]time.Time{}
	}
	for i := range leases {
		l := &leases[i]
		name := l.Labels[LabelInstance]
		if name == "" || name == instance || l.Spec.RenewTime == nil {
			continue
		}
		at := l.Spec.RenewTime.Time
		last, known := r.seen[l.Name]
		r.seen[l.Name] = at
		lives := now.Sub(at).Abs() <= records.LifeTimeout || known && !last.Equal(at)
		if lives && (found == nil || older(l, found)) {
			found = l
		}
	}
	return found
}

// older orders Leases by the API server's clock, which all replicas share.
func older(a, b *coordinationv1.Lease) bool {
	if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return a.CreationTimestamp.Before(&b.CreationTimestamp)
	}
	return a.Name < b.Name
}

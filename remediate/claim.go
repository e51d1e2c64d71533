package remediate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/canary-guardian/guardian/remediate/records"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// leftRecently is for how long a namespace belongs to the guardian that led
// there last: a rollout that stops its replicas before it starts new ones must
// not lose the namespace to another.
const leftRecently = time.Minute

// claimTimeout is how long an API server that does not answer keeps guardian
// from its work for the sake of a claim.
const claimTimeout = 5 * time.Second

// claim takes the namespace for this guardian, or returns an OtherGuardianError.
// What cannot be looked at refuses nobody: it is looked at again with each
// renewal.
func (l *leases) claim(ctx context.Context) error {
	look, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	err, seen := l.contested(look, nil), false
	if err == nil {
		err, seen = l.renew(look), true // from now on the others see this one
	}
	if err == nil {
		err = l.contest(look) // and whoever began in the same instant
	}
	if other := (*OtherGuardianError)(nil); errors.As(err, &other) {
		if l.refused.Store(other); seen {
			l.leave(ctx)
		}
		return other
	}
	if err != nil && ctx.Err() == nil {
		l.log.Warn("look for another guardian of this namespace", "namespace", l.namespace, "err", err)
	}
	return nil
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

// contest looks for another guardian that was there before this replica.
func (l *leases) contest(ctx context.Context) error {
	if l.own == nil { // it could not be renewed, which has been told
		return nil
	}
	return l.contested(ctx, l.own)
}

// contested returns an OtherGuardianError if another guardian lives, or has led
// a moment ago. With own, this replica's Lease, younger ones do not count: it is
// for them to stop.
func (l *leases) contested(ctx context.Context, own *coordinationv1.Lease) error {
	api := l.kube.CoordinationV1().Leases(l.namespace)
	list, err := api.List(ctx, metav1.ListOptions{LabelSelector: records.LabelReplica})
	if err != nil {
		return fmt.Errorf("list Leases in %s: %w", l.namespace, err)
	}
	refused := func(by *coordinationv1.Lease) error {
		return &OtherGuardianError{Namespace: l.namespace, Instance: l.instance, Other: by.Labels[LabelInstance], Lease: by.Name}
	}
	if other := l.rivals.living(list.Items, l.instance, l.now()); other != nil {
		if own == nil || older(other, own) {
			return refused(other)
		}
		l.log.Error("another guardian has been started for this namespace; it is for that one to stop", "namespace", l.namespace, "instance", other.Labels[LabelInstance], "lease", other.Name)
	}
	if own != nil {
		return nil
	}
	leader, err := api.Get(ctx, LeaderLease, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return fmt.Errorf("read Lease %s/%s: %w", l.namespace, LeaderLease, err)
	}
	name, at := leader.Labels[LabelInstance], leader.Spec.RenewTime
	if name != "" && name != l.instance && at != nil && l.now().Sub(at.Time).Abs() <= leftRecently {
		return refused(leader)
	}
	return nil
}

package remediate

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
)

func TestAFaultThatOneGuardBringsOutLeavesTheBrakeOnTheOthers(t *testing.T) {
	r := newRig(t)
	orders, payments := r.app("orders"), r.app("payments")
	r.must(orders.SetWeights(t.Context(), 70, 30))
	r.must(payments.SetWeights(t.Context(), 70, 30))
	p := r.startWith(func(o *Options) {
		o.Links = func(guard string, _ decision.Sides, _, _ time.Time) []decision.Link {
			if guard == "payments" {
				var none *decision.Lock
				return []decision.Link{{Name: none.Reason}}
			}
			return nil
		}
	}, r.guard("orders"), r.guard("payments"))
	alert := errorsAlert
	alert.StartsAt = time.Now()

	err := p.fire("payments", alert)
	if err == nil || !strings.Contains(err.Error(), "guard payments: a fault of guardian itself") || !strings.Contains(err.Error(), "nil pointer") {
		t.Errorf("an alert whose reconcile panics is answered with %v", err)
	}
	if names := p.failing(); !slices.Equal(names, []string{"payments"}) {
		t.Errorf("the replica's Lease is to name %q as failing, want payments", names)
	}
	r.must(p.fire("orders", alert))
	r.atWeight(orders, 0)
	r.inState("orders", decision.StateRolledBack)
	if err := errors.Join(p.logged("reconcile panicked"), p.logged("survive_test.go")); err != nil {
		t.Error(err)
	}
	if p.metric("guardian_reconcile_failures_total", "payments") == 0 || p.metric("guardian_reconcile_failures_total", "orders") != 0 {
		t.Error("the failures are not counted, or not of the guard that has them")
	}
}

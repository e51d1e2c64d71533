package remediate

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/canary-guardian/guardian/remediate/decision"
	rbacv1 "k8s.io/api/rbac/v1"
)

// lacking is RBAC less some rights on one resource; no verbs: less all.
func lacking(resource string, verbs ...string) []rbacv1.PolicyRule {
	rules := RBAC()
	for i := range rules {
		if rules[i].Resources[0] == resource {
			rules[i].Verbs = slices.DeleteFunc(rules[i].Verbs, func(v string) bool { return len(verbs) == 0 || slices.Contains(verbs, v) })
		}
	}
	return slices.DeleteFunc(rules, func(r rbacv1.PolicyRule) bool { return len(r.Verbs) == 0 })
}

// What cannot be listed keeps no guard from its brake: it is rolled back where
// what a rollback needs can be read, else locked and blocked, with the reason,
// until it can.
func TestAResourceThatCannotBeListedKeepsNoGuardFromItsBrake(t *testing.T) {
	for _, c := range []struct {
		resource string
		verbs    []string
		blocked  string // why; empty: it is rolled back
	}{
		{"replicasets", nil, ""},
		{"controllerrevisions", nil, ""},
		{"deployments", nil, ""},
		{"virtualservices", []string{"list", "watch"}, ""},
		{"destinationrules", []string{"list", "watch"}, ""},
		{"configmaps", []string{"list", "watch"}, ""},
		{"destinationrules", nil, "DestinationRule %s/orders-service cannot be read: "},
		{"services", nil, "Service %s/orders-service cannot be read: "},
		{"pods", nil, "pods of v1 cannot be read: "},
		{"endpointslices", nil, "EndpointSlices of Service %s/orders-service cannot be read: "},
	} {
		t.Run(fmt.Sprintf("%s %v", c.resource, c.verbs), func(t *testing.T) {
			r := newRigWithoutRights(t)
			r.must(r.plane.Grant(t.Context(), r.ns, r.user(), lacking(c.resource, c.verbs...)...))
			app := r.app("orders-service")
			r.must(app.SetWeights(t.Context(), 50, 50))
			p := r.start(r.guard(app.Name))
			if missing := p.Missing(); p.Ready() || !slices.Equal(missing, []string{c.resource + ": cannot be listed (Forbidden)"}) {
				t.Errorf("ready %v, missing %v", p.Ready(), missing)
			}
			if filled := p.metric("guardian_cache_filled"); filled != float64(len(p.info.parts)-1) || p.metric("guardian_cache_filled", c.resource) != 0 {
				t.Errorf("guardian_cache_filled: %v of %d, %v of %s", filled, len(p.info.parts), p.metric("guardian_cache_filled", c.resource), c.resource)
			}
			r.must(p.fire(app.Name, badAlert("CanaryErrors")))
			if c.blocked == "" {
				r.must(isAt(t.Context(), app, 0))
				r.inState(app.Name, decision.StateRolledBack)
			} else {
				why := c.blocked
				if strings.Contains(why, "%s") {
					why = fmt.Sprintf(why, r.ns)
				}
				rec := r.inState(app.Name, decision.StateBlocked)
				if rec.Lock == nil || !strings.HasPrefix(rec.Status.Reason, why) || !strings.Contains(rec.Status.Reason, "forbidden") {
					t.Errorf("lock %+v, reason %q, want %q", rec.Lock, rec.Status.Reason, why)
				}
				r.must(isAt(t.Context(), app, 50))
			}
			r.must(r.plane.Grant(t.Context(), r.ns, r.user(), RBAC()...))
			r.atWeight(app, 0)
			r.inState(app.Name, decision.StateRolledBack)
			r.wait("ready", func() error {
				if !p.Ready() || p.metric("guardian_cache_filled", c.resource) != 1 {
					return errors.New("not ready")
				}
				return nil
			})
		})
	}
}

package main

import (
	"time"

	"github.com/canary-guardian/guardian/remediate"
)

// remediateGuard is the part of a guard that decides about traffic. alertWindow
// is for how long an alert can go on firing because of an earlier build.
func (c Config) remediateGuard(g GuardConfig, alertWindow time.Duration) remediate.Guard {
	steps := make([]remediate.Step, len(g.Promotion.Steps))
	for i, s := range g.Promotion.Steps {
		steps[i] = remediate.Step{Weight: s.Weight, Interval: s.Interval, Bake: s.Bake}
	}
	r := g.Rollback
	return remediate.Guard{
		Name:            g.Name,
		Namespace:       c.Namespace,
		VirtualServices: g.VirtualServices,
		DestinationRule: g.DestinationRule,
		Stable:          g.Stable.Ref,
		Canary:          g.Canary.Ref,
		Rollback: remediate.Rollback{
			Lock: remediate.LockKind(r.Lock), Window: r.Window, MinReadyStable: r.MinReadyStable, MatchRoutes: r.MatchRoutes, Mirrors: r.Mirrors,
		},
		Promotion:       remediate.Promotion{Mode: remediate.PromotionMode(g.Promotion.Mode), Steps: steps, MinRequests: g.Promotion.MinRequests},
		AlertWindow:     alertWindow,
		HeartbeatMaxAge: c.Heartbeat.MaxAge,
	}
}

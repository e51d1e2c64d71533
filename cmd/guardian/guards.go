package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/canary-guardian/guardian/remediate"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	"github.com/canary-guardian/guardian/rules"
)

// remediateGuard is the part of a guard that decides about traffic. alertWindow
// is for how long an alert can go on firing because of an earlier build.
func (c Config) remediateGuard(g GuardConfig, alertWindow time.Duration) decision.Guard {
	steps := make([]decision.Step, len(g.Promotion.Steps))
	for i, s := range g.Promotion.Steps {
		steps[i] = decision.Step{Weight: s.Weight, Interval: s.Interval, Bake: s.Bake}
	}
	r := g.Rollback
	return decision.Guard{
		Name:            g.Name,
		Namespace:       c.Namespace,
		VirtualServices: g.VirtualServices,
		DestinationRule: g.DestinationRule,
		Stable:          g.Stable.Ref,
		Canary:          g.Canary.Ref,
		Mode:            decision.Mode(g.Mode),
		Rollback: decision.Rollback{
			Lock: decision.LockKind(r.Lock), Window: r.Window, MinReadyStable: r.MinReadyStable, MatchRoutes: r.MatchRoutes, Mirrors: r.Mirrors,
		},
		Promotion:       decision.Promotion{Mode: decision.PromotionMode(g.Promotion.Mode), Steps: steps, MinRequests: g.Promotion.MinRequests, Closed: g.Promotion.Windows.closed()},
		AlertWindow:     alertWindow,
		HeartbeatMaxAge: c.Heartbeat.MaxAge,
		DisarmMax:       c.Disarm.Max,
	}
}

// rulesGuard is the part of a guard that its rules are made from. Deployments
// named in the configuration win over those found in the cluster. Where neither
// is known (sides is zero), the subset's name has to be the pods' version label
// and the DestinationRule's name the Service's.
func (c Config) rulesGuard(g GuardConfig, sides remediate.Sides) (rules.Guard, error) {
	stable, err := rulesSide(g, g.Stable.Ref, g.Workloads.Stable, sides.Stable)
	if err != nil {
		return rules.Guard{}, fmt.Errorf("guard %s: stable %w", g.Name, err)
	}
	canary, err := rulesSide(g, g.Canary.Ref, g.Workloads.Canary, sides.Canary)
	if err != nil {
		return rules.Guard{}, fmt.Errorf("guard %s: canary %w", g.Name, err)
	}
	return rules.Guard{
		Name: g.Name, Namespace: c.Namespace, Stable: stable, Canary: canary,
		Signals: g.Signals.limits(), EvenIfStableFails: g.Rollback.EvenIfStableFails,
	}, nil
}

// rulesSide names a side as guardian's metrics do.
func rulesSide(g GuardConfig, ref virtualservice.Ref, configured []string, found remediate.Side) (rules.Side, error) {
	s := rules.Side{Name: ref.String(), Workloads: configured, Service: found.Service, Version: found.Labels["version"]}
	if len(s.Workloads) == 0 {
		s.Workloads = found.Workloads
	}
	if ref.Host == "" {
		s.Service, s.Version = cmp.Or(s.Service, g.DestinationRule), cmp.Or(s.Version, ref.Subset)
	}
	if len(s.Workloads) == 0 && s.Version == "" {
		return rules.Side{}, fmt.Errorf("%s is a host of its own whose Deployments are not known: name them in workloads", ref)
	}
	return s, nil
}

// limits has nil for each signal that is off.
func (s SignalsConfig) limits() rules.Signals {
	var out rules.Signals
	if s.ErrorRate.Enabled {
		out.ErrorRate = &rules.ErrorRate{Max: s.ErrorRate.Max}
	}
	if s.Latency.Enabled {
		out.Latency = &rules.Latency{Quantile: s.Latency.Quantile, Max: s.Latency.Max}
	}
	if s.Restarts.Enabled {
		out.Restarts = &rules.Restarts{Max: s.Restarts.Max, Window: s.Restarts.Window}
	}
	if s.Traffic.Enabled {
		out.Traffic = &rules.Traffic{ShareTolerance: s.Traffic.ShareTolerance}
	}
	return out
}

// leftOut is why rules cannot be made for some guards, by their names.
type leftOut map[string]error

// err is all reasons as one, in the order of names; nil when there are none.
func (l leftOut) err() error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(l)) {
		errs = append(errs, l[name])
	}
	return errors.Join(errs...)
}

// rulesOptions is what the rules of all guards are made from, but for those that
// rules cannot be made for: one bad guard must not leave the others unwatched.
// sides may lack guards, or be nil.
func (c Config) rulesOptions(sides map[string]remediate.Sides) (rules.Options, leftOut) {
	o := c.rulesBase()
	left := leftOut{}
	for _, g := range c.Guards {
		guard, err := c.rulesGuard(g, sides[g.Name])
		if err == nil {
			err = o.CheckGuard(guard)
		}
		if err != nil {
			left[g.Name] = err
			continue
		}
		o.Guards = append(o.Guards, guard)
	}
	return o, left
}

// rulesBase is rulesOptions without the guards.
func (c Config) rulesBase() rules.Options {
	r := c.Rules
	o := rules.Options{
		Name: r.Name, Namespace: c.Namespace,
		Interval: r.Interval, ScrapeInterval: r.ScrapeInterval, HeartbeatMaxAge: c.Heartbeat.MaxAge, StableFactor: r.StableFactor,
		Labels: r.Labels, RunbookBase: r.RunbookBase, Links: rules.Links(r.Links),
		RestartsFrom: rules.Source(r.RestartsFrom), Proxies: r.Proxies, Self: r.Self,
	}
	if r.FastLane.Enabled {
		// Twice per scrape: a canary's failures are held against stable's next scrape, which comes some time between two
		// of its own.
		o.FastLane, o.Interval = r.FastLane.Interval, min(r.Interval, r.FastLane.Interval/2)
	}
	return o
}

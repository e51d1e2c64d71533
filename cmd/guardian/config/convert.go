package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	"github.com/canary-guardian/guardian/rules"
)

// DecisionGuard is the part of a guard that decides about traffic. alertWindow
// is for how long an alert can go on firing because of an earlier build.
func (c Config) DecisionGuard(g Guard, alertWindow time.Duration) decision.Guard {
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
		NoRollback:      g.Signals.noRollback(),
		Rollback: decision.Rollback{
			Lock: decision.LockKind(r.Lock), Window: r.Window, MinReadyStable: r.MinReadyStable, Capacity: r.Capacity, MatchRoutes: r.MatchRoutes, Mirrors: r.Mirrors,
		},
		Promotion:       decision.Promotion{Mode: decision.PromotionMode(g.Promotion.Mode), Steps: steps, MinRequests: g.Promotion.MinRequests, Closed: g.Promotion.Windows.closed()},
		AlertWindow:     alertWindow,
		HeartbeatMaxAge: c.Heartbeat.MaxAge,
		DisarmMax:       c.Disarm.Max,
	}
}

// RulesGuard is the part of a guard that its rules are made from. Deployments
// named in the configuration win over those found in the cluster. Where neither
// is known (sides is zero), the subset's name has to be the pods' version label
// and the DestinationRule's name the Service's.
func (c Config) RulesGuard(g Guard, sides decision.Sides) (rules.Guard, error) {
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
		Signals: g.Signals.Limits(), EvenIfStableFails: g.Rollback.EvenIfStableFails,
	}, nil
}

// rulesSide names a side as guardian's metrics do.
func rulesSide(g Guard, ref virtualservice.Ref, configured []string, found decision.Side) (rules.Side, error) {
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

// Limits has nil for each signal that is off.
func (s Signals) Limits() rules.Signals {
	var out rules.Signals
	if s.ErrorRate.Enabled {
		out.ErrorRate = &rules.ErrorRate{Max: s.ErrorRate.Max, Failures: s.ErrorRate.Failures, Action: rules.Action(s.ErrorRate.Action)}
	}
	if s.Latency.Enabled {
		out.Latency = &rules.Latency{Quantile: s.Latency.Quantile, Max: s.Latency.Max, Action: rules.Action(s.Latency.Action)}
	}
	if s.Restarts.Enabled {
		out.Restarts = &rules.Restarts{Max: s.Restarts.Max, Window: s.Restarts.Window, Action: rules.Action(s.Restarts.Action)}
	}
	if s.Traffic.Enabled {
		out.Traffic = &rules.Traffic{ShareTolerance: s.Traffic.ShareTolerance, Action: rules.Action(s.Traffic.Action)}
	}
	if c := s.Comparison; c.Enabled {
		out.Comparison = &rules.Comparison{Ratio: c.Ratio, Min: c.Min, Warmup: c.Warmup, Action: rules.Action(c.Action)}
	}
	return out
}

// signalAction is what the configuration says of one signal.
type signalAction struct {
	key     string
	enabled bool
	action  string
}

func (s Signals) actions() []signalAction {
	return []signalAction{
		{rules.SignalErrorRate.Key(), s.ErrorRate.Enabled, s.ErrorRate.Action}, {rules.SignalLatency.Key(), s.Latency.Enabled, s.Latency.Action},
		{rules.SignalRestarts.Key(), s.Restarts.Enabled, s.Restarts.Action}, {rules.SignalTraffic.Key(), s.Traffic.Enabled, s.Traffic.Action},
		{rules.SignalComparison.Key(), s.Comparison.Enabled, s.Comparison.Action},
	}
}

// noRollback are the signals that do not roll back, but for those that are off by default.
func (s Signals) noRollback() []decision.SignalAction {
	var out []decision.SignalAction
	for _, one := range s.actions() {
		switch {
		case !one.enabled && one.key == rules.SignalComparison.Key():
		case !one.enabled:
			out = append(out, decision.SignalAction{Signal: one.key, Action: decision.ActionOff})
		case one.action != string(rules.ActionRollback):
			out = append(out, decision.SignalAction{Signal: one.key, Action: decision.Action(one.action)})
		}
	}
	return out
}

// LeftOut is why rules cannot be made for some guards, by their names; empty: they can
// be made for all.
type LeftOut map[string]error

// Err is all reasons as one, in the order of names; nil when there are none.
func (l LeftOut) Err() error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(l)) {
		errs = append(errs, l[name])
	}
	return errors.Join(errs...)
}

// RulesOptions is what the rules of all guards are made from, but for those that
// rules cannot be made for: one bad guard must not leave the others unwatched.
// sides may lack guards, or be nil.
func (c Config) RulesOptions(sides map[string]decision.Sides) (rules.Options, LeftOut) {
	o := c.RulesBase()
	left := LeftOut{}
	for _, g := range c.Guards {
		guard, err := c.RulesGuard(g, sides[g.Name])
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

// RulesBase is RulesOptions without the guards.
func (c Config) RulesBase() rules.Options {
	r := c.Rules
	o := rules.Options{
		Name: r.Name, Namespace: c.Namespace,
		Interval: c.RulesInterval(), ScrapeInterval: r.ScrapeInterval, HeartbeatMaxAge: c.Heartbeat.MaxAge, StableFactor: r.StableFactor,
		Labels: r.Labels, RunbookBase: r.RunbookBase, Links: rules.Links(r.Links),
		Posts: len(c.Posts()) > 0, RestartsFrom: rules.Source(r.RestartsFrom), Proxies: r.Proxies, Self: r.Self,
	}
	if r.FastLane.Enabled {
		// Twice per scrape: a canary's failures are held against stable's next scrape, which comes some time between two
		// of its own.
		o.FastLane, o.Interval = r.FastLane.Interval, min(o.Interval, r.FastLane.Interval/2)
	}
	return o
}

// RulesInterval is how often the rules are evaluated without the fast lane. All guards
// cost Prometheus in proportion to their number and to how often they are looked at, and a
// thousand of them every three seconds cost it a processor: an evaluation that does not end
// in time is missed, by which all are seen late. So with many it is the longest part of a scrape
// interval that is not too long: windows hold whole evaluations and whole scrapes.
func (c Config) RulesInterval() time.Duration {
	const often, few, many = 3 * time.Second, 300, 600
	if c.Rules.Interval != 0 {
		return c.Rules.Interval
	}
	longest := often
	switch n := len(c.Guards); {
	case n > many:
		longest = 7500 * time.Millisecond
	case n > few:
		longest = 5 * time.Second
	}
	every := c.Rules.ScrapeInterval
	for parts := time.Duration(2); every/parts > often; parts++ {
		if part := every / parts; part <= longest && every%parts == 0 && part%(time.Second/2) == 0 {
			return part
		}
	}
	return often
}

// AlertWindow is for how long an alert can go on firing because of an earlier
// build. It depends on no name: a guard whose Deployments are not known yet must
// not keep the others without a brake.
func (c Config) AlertWindow() time.Duration {
	if len(c.Guards) == 0 {
		return defaultAlertWindow
	}
	o, _ := c.RulesOptions(nil)
	o.Guards = nil
	for _, g := range c.Guards {
		o.Guards = append(o.Guards, rules.Guard{Signals: g.Signals.Limits()})
	}
	return o.AlertWindow()
}

// defaultAlertWindow matters only while there are no guards.
const defaultAlertWindow = 6 * time.Minute

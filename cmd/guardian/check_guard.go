package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/remediate"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
)

// checkIstio says in which version Istio's resources are read and written, and
// whether there is one at all.
func (c *cluster) checkIstio(p *preflight) (served bool) {
	services, rules, err := remediate.ServedIstio(c.kube.Discovery())
	_, missing := errors.AsType[*remediate.NotServedError](err)
	switch {
	case missing:
		p.fail("istio", "", "install Istio's CustomResourceDefinitions (istio-base), of "+remediate.LeastIstio+" or newer", "Istio: %v", err)
		return false
	case err != nil:
		p.unknown("istio", "", "", "Istio: %v", err)
	case services != rules:
		p.ok("istio", "", "Istio: %s/%s for VirtualServices, %s for DestinationRules", remediate.IstioGroup, services, rules)
	default:
		p.ok("istio", "", "Istio: %s/%s", remediate.IstioGroup, services)
	}
	return true
}

// checkGuard looks at what a rollback of g would move, and to where.
func (c *cluster) checkGuard(ctx context.Context, p *preflight, g config.Guard) (decision.Sides, bool) {
	in, sides, err := c.previewer(p.config).Preview(ctx, p.config.DecisionGuard(g, 0))
	if err != nil {
		p.unknown("virtualservice", "", "", "%v", err)
		return sides, false
	}
	p.weights[g.Name] = in.Traffic.Weight
	checkTraffic(p, g, in)
	c.checkUnguarded(ctx, p, g)
	c.checkWays(ctx, p, g)
	c.checkMesh(ctx, p, g, sides)
	c.checkStable(p, g, in, sides)
	c.checkCanary(p, g, in, sides)
	return sides, true
}

func checkTraffic(p *preflight, g config.Guard, in decision.Input) {
	services := "VirtualService " + strings.Join(g.VirtualServices, ", ")
	destinations := fmt.Sprintf("stable %s and canary %s of DestinationRule %s", g.Stable.Ref, g.Canary.Ref, g.DestinationRule)
	switch {
	case in.Absent != "" && in.Absent == in.Gone:
		p.fail("virtualservice", "", "name the one that routes to "+destinations+" in virtualServices, or create it", "%s", in.Absent)
	case in.Absent != "":
		p.fail("virtualservice", "", "have its spec.http route to "+destinations+", or name another one in virtualServices (and the rule that it goes by in destinationRule)", "%s", in.Absent)
	case in.Unsafe != "":
		p.fail("virtualservice", "", "give each route a destination of stable: `guardian plan -f vs.yaml` shows what a rollback makes of it", "cannot be rolled back: %s", in.Unsafe)
	case in.Gone != "":
		p.fail("virtualservice", "", "create it, or take it out of virtualServices", "%s", in.Gone)
	default:
		p.ok("virtualservice", services, "canary at %d%%", in.Traffic.Weight)
	}
	if text := (decision.Status{NoRollback: p.config.DecisionGuard(g, 0).NoRollback}).NoRollbackText(); text != "" {
		p.note("signals", "", "set signals.NAME.action: rollback where it is to brake", "no rollback by %s", text)
	}
	if g.Observes() {
		p.note("mode", "", "set mode: enforce when what it tells is what you want", "mode observe: a rollback is told, and not done")
	}
}

func (c *cluster) checkStable(p *preflight, g config.Guard, in decision.Input, sides decision.Sides) {
	stable := "stable " + g.Stable.Ref.String()
	switch floor := g.Rollback.MinReadyStable; {
	case in.Stable.Missing != "":
		p.fail("stable", stable, c.mendDestination(p.config, g, "stable", sides), "%s", in.Stable.Missing)
	case in.Stable.Ready < floor:
		p.fail("stable", stable, fmt.Sprintf("scale it up (kubectl -n %s get pods shows why none is ready), or lower rollback.minReadyStable: below it guardian refuses to roll back; 0 where stable runs on machines outside of this cluster", c.namespace),
			"has %d ready endpoints, rollback.minReadyStable is %d", in.Stable.Ready, floor)
	case floor == 0:
		p.note("stable", stable, "set rollback.minReadyStable: 1 if its pods are of this cluster",
			"%d ready endpoints, and rollback.minReadyStable is 0: a rollback is done even where stable answers nobody", in.Stable.Ready)
	default:
		p.ok("stable", stable, "%d ready endpoints", in.Stable.Ready)
	}
	if thin := thinStable(p.config.DecisionGuard(g, 0), in); thin != "" {
		p.note("capacity", stable, "have its HorizontalPodAutoscaler keep minReplicas as high while a canary has traffic; a rollback waits for nothing", "%s", thin)
	}
	if len(in.Outside.Overruled) > 0 {
		p.fail("overruled", "DestinationRule "+g.DestinationRule, "have one DestinationRule of the host define the subsets "+g.Stable.String()+" and "+g.Canary.String()+", and name it in destinationRule: guardian goes by what Istio takes",
			"%s", strings.Join(in.Outside.Overruled, "; "))
	}
	if in.Stable.Overlap != "" {
		p.fail("overlap", "DestinationRule "+g.DestinationRule, "give each subset a label of its own, such as version: "+g.Stable.String()+" and version: "+g.Canary.String(), "%s", in.Stable.Overlap)
	}
}

// thinStable says, as status does, that stable has fewer endpoints than a rollback
// would need, or a lock needs now. One of a completed canary is not rolled back, and
// what another stable carried says nothing of this one.
func thinStable(g decision.Guard, in decision.Input) string {
	s := in.Record.Status
	rollsBack := in.Traffic.Weight > 0 && s.State != decision.StateCompleted
	another := s.Moves != nil && s.Moves.Stable != g.Stable.String()
	if another || !rollsBack && in.Record.Lock == nil {
		return ""
	}
	return g.Rollback.Thin(s.Carried, in.Stable.Ready)
}

// mendDestination is what gives a guard a side, stable or canary, that is missing.
func (c *cluster) mendDestination(conf config.Config, g config.Guard, side string, sides decision.Sides) string {
	ref, host := g.Stable.Ref, sides.Stable.Host
	if side == "canary" {
		ref = g.Canary.Ref
	}
	if ref.Host != "" {
		host = virtualservice.NormalizeHost(ref.Host, c.namespace, conf.ClusterDomain)
	}
	_, namespace, ok := virtualservice.ServiceOf(host, conf.ClusterDomain)
	switch {
	case host != "" && !ok:
		return "route to a Service of this namespace instead: one without a selector, and an EndpointSlice with the addresses, leads to machines outside of the cluster; for stable, set rollback.minReadyStable: 0 then"
	case host != "" && namespace != c.namespace:
		return fmt.Sprintf("guard it from namespace %s, with the VirtualService there as well: gateways: [%s/NAME] leads to a gateway of this namespace, and a VirtualService here may delegate to it", namespace, c.namespace)
	case ref.Host != "":
		return "create the Service, or name another host in " + side
	}
	return fmt.Sprintf("have spec.subsets of DestinationRule %s name %s (- {name: %s, labels: {version: %s}}), or set %s to the subset that it has", g.DestinationRule, ref, ref.Subset, ref.Subset, side)
}

func (c *cluster) checkCanary(p *preflight, g config.Guard, in decision.Input, sides decision.Sides) {
	canary := "canary " + g.Canary.Ref.String()
	if sides.Canary.Absent != "" {
		p.fail("canary", canary, c.mendDestination(p.config, g, "canary", sides), "%s", sides.Canary.Absent)
		return
	}
	if len(in.Canary.Untold) > 0 {
		p.fail("canary", canary, "have guardian read their ReplicaSets or ControllerRevisions, or set rollback.lock: manual",
			"nothing tells the build of %s: a lock is then lifted by hand alone", strings.Join(in.Canary.Untold, ", "))
	}
	if len(in.Canary.Unowned) > 0 {
		p.note("canary", canary, "", "%s run without a workload and belong to no build", strings.Join(in.Canary.Unowned, ", "))
	}
	if in.Canary.Build == "" {
		p.unknown("canary", canary, "deploy the canary once (it may get no traffic), and check again", "no Deployment, Rollout, StatefulSet or DaemonSet with pods found yet")
		return
	}
	p.ok("canary", canary, "build %s of %s, %d ready", short(in.Canary.Build), strings.Join(sides.Canary.Workloads, ", "), in.Canary.Ready)
}

// checkUnguarded looks for other ways to the canary: a rollback leaves them open.
func (c *cluster) checkUnguarded(ctx context.Context, p *preflight, g config.Guard) {
	switch found, err := c.previewer(p.config).Unguarded(ctx, p.config.DecisionGuard(g, 0)); {
	case err != nil:
		p.unknown("unguarded", "", "", "%v", err)
	case len(found) > 0:
		p.fail("unguarded", "", "add them to virtualServices, or a rollback leaves the canary their traffic",
			"not guarded, and lead to canary %s as well: %s", g.Canary.Ref, strings.Join(found, ", "))
	}
}

// checkWays names what leads to the canary's pods besides its own destination.
func (c *cluster) checkWays(ctx context.Context, p *preflight, g config.Guard) {
	canary := "canary " + g.Canary.Ref.String()
	denied, open, err := c.previewer(p.config).Ways(ctx, p.config.DecisionGuard(g, 0))
	if err != nil {
		p.unknown("ways", canary, "", "what leads to its pods: %v", err)
		return
	}
	if len(denied) > 0 {
		p.note("ways", canary, "", "%s leads to its pods too: guardian does not move what is sent there, and only the admission policies deny it while a lock stands", strings.Join(denied, ", "))
	}
	if len(open) > 0 {
		p.note("ways", canary, "", "%s leads to its pods too: guardian does not move what is sent there, and no lock holds it", strings.Join(open, ", "))
	}
}

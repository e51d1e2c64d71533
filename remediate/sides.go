package remediate

import (
	"context"
	"fmt"
	"slices"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
)

// resolvedSide is a destination with the selector of its workloads.
type resolvedSide struct {
	decision.Side
	want        workloadSelector
	subset      slimLabels
	deployments []*slimDeployment
	unread      bool // guardian may not read Deployments
	pods        []*slimPod
}

// side finds what runs behind ref; why says that there is no such destination.
// rule may be nil for a ref to a host.
func (s *snapshot) side(ctx context.Context, r reader, ref virtualservice.Ref, rule *slimRule) (side resolvedSide, why string, err error) {
	g, host := s.input.Guard, ref.Host
	if host == "" {
		host = s.pair.Host
		var ok bool
		if side.subset, ok = rule.subset(ref.Subset); !ok {
			return side, fmt.Sprintf("DestinationRule %s/%s has no subset %s", g.Namespace, g.DestinationRule, ref.Subset), nil
		}
		side.Labels = side.subset.set()
	}
	side.Host = virtualservice.NormalizeHost(host, g.Namespace, s.pair.Domain)
	name, namespace, ok := virtualservice.ServiceOf(side.Host, s.pair.Domain)
	switch {
	case !ok:
		return side, fmt.Sprintf("host %s is no Service of this cluster: its ready endpoints cannot be counted", side.Host), nil
	case namespace != g.Namespace:
		return side, fmt.Sprintf("host %s is in namespace %s: a guard manages destinations in its own namespace %s only", side.Host, namespace, g.Namespace), nil
	}
	side.Service = name
	svc, err := r.service(ctx, name)
	if why := s.cannotRead(err); why != "" {
		return side, fmt.Sprintf("Service %s/%s cannot be read: %s", g.Namespace, name, why), nil
	}
	if err != nil {
		return side, "", fmt.Errorf("read Service %s/%s: %w", g.Namespace, name, err)
	}
	if svc == nil {
		return side, fmt.Sprintf("Service %s/%s does not exist", g.Namespace, name), nil
	}
	side.want = newWorkloadSelector(svc.selector, side.subset)
	side.deployments, err = r.deployments(ctx, side.want)
	if side.unread = s.cannotRead(err) != ""; err != nil && !side.unread {
		return side, "", fmt.Errorf("list Deployments of %s: %w", ref, err)
	}
	side.pods, err = r.pods(ctx, side.want)
	if why := s.cannotRead(err); why != "" {
		return side, fmt.Sprintf("pods of %s cannot be read: %s", ref, why), nil
	}
	if err != nil {
		return side, "", fmt.Errorf("list pods of %s: %w", ref, err)
	}
	side.name()
	return side, "", nil
}

// name fills in what metrics know the side's workloads by.
func (side *resolvedSide) name() {
	side.Workloads = nil
	for _, d := range side.deployments {
		side.Workloads = append(side.Workloads, d.name)
	}
	for _, p := range side.pods {
		if name := p.workload(); name != "" {
			side.Workloads = append(side.Workloads, name)
		}
	}
	slices.Sort(side.Workloads)
	side.Workloads = slices.Compact(side.Workloads)
	side.Waiting = waitingOf(side.pods)
}

// part gives each pod and Deployment that both sides select to one of them, and
// says so. It is the side's that asks for more, and the canary's where neither
// does: what may be the canary's must not be counted on as stable's.
func (stable *resolvedSide) part(canary *resolvedSide) (overlap string) {
	both := func(set slimLabels) bool { return stable.want.matches(set) && canary.want.matches(set) }
	from, shared := stable, 0
	wide, narrow := stable.want.includedIn(canary.want), canary.want.includedIn(stable.want)
	if narrow && !wide {
		from = canary
	}
	from.pods = slices.DeleteFunc(slices.Clone(from.pods), func(p *slimPod) bool {
		if !both(p.labels) {
			return false
		}
		shared++
		return true
	})
	from.deployments = slices.DeleteFunc(slices.Clone(from.deployments), func(d *slimDeployment) bool { return both(d.template) })
	from.name()
	switch {
	case narrow && !wide:
		return fmt.Sprintf("the labels of canary select stable's pods too (%d): requests to the canary reach them", shared)
	case wide || shared > 0:
		return fmt.Sprintf("the labels of stable select the canary's pods too (%d): requests to stable still reach them", shared)
	}
	return ""
}

// leadingTo names the subsets besides the pair's own that lead to pods of the
// canary: to all of them by their labels, or to some that are there.
func (k *slimRule) leadingTo(canary resolvedSide, pair ...virtualservice.Ref) []string {
	var out []string
	for _, s := range k.subsets {
		leads := canary.want.want.include(s.labels) || slices.ContainsFunc(canary.pods, func(p *slimPod) bool { return p.labels.include(s.labels) })
		if leads && !slices.Contains(pair, virtualservice.Ref{Subset: s.name}) {
			out = append(out, s.name)
		}
	}
	return out
}

// leastReady counts stable's ready endpoints for the clients that have the fewest:
// not all need to take the same DestinationRule. Those for whom neither subset is there
// send the canary nothing that a rollback could bring back.
func (s *snapshot) leastReady(ctx context.Context, r reader, stable resolvedSide, rule *slimRule) (int, error) {
	least, err := s.readyOf(ctx, r, stable)
	g := s.input.Guard
	if err != nil || rule == nil || g.Stable.Host != "" {
		return least, err
	}
	for _, e := range rule.elsewhere {
		set, has := subsetOf(e.subsets, g.Stable.Subset)
		switch {
		case slices.Equal(set, stable.subset) && has, !has && !leadsToCanary(e, g):
			continue
		case !has:
			return 0, nil
		}
		side, why, err := s.side(ctx, r, g.Stable, &slimRule{subsets: e.subsets})
		if err != nil || why != "" {
			return 0, err
		}
		n, err := s.readyOf(ctx, r, side)
		if err != nil {
			return 0, err
		}
		least = min(least, n)
	}
	return least, nil
}

// leadsToCanary says that clients who take an entry can reach a guard's canary.
func leadsToCanary(e *rulesMerged, g decision.Guard) bool {
	_, has := subsetOf(e.subsets, g.Canary.Subset)
	return has || g.Canary.Host != ""
}

func (s *snapshot) readyOf(ctx context.Context, r reader, side resolvedSide) (int, error) {
	eps, err := r.slices(ctx, side.Service)
	if err != nil {
		return 0, fmt.Errorf("list EndpointSlices of Service %s: %w", side.Service, err)
	}
	byName := make(map[string]*slimPod, len(side.pods))
	for _, p := range side.pods {
		byName[p.name] = p
	}
	return readyEndpoints(eps, side.subset, func(name string) *slimPod { return byName[name] }), nil
}

func readWorkload(ctx context.Context, r reader, side resolvedSide) (decision.Workload, error) {
	revisions, err := r.revisions(ctx, side.want, side.pods)
	if err != nil {
		return decision.Workload{}, fmt.Errorf("find what the pods of %s were made from: %w", side.Service, err)
	}
	return canaryWorkload(side.deployments, side.pods, revisions), nil
}

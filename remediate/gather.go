package remediate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// snapshot is one guard as it was read: what Decide looks at, and the objects
// that its decision is applied to.
type snapshot struct {
	input    decision.Input
	pair     virtualservice.Pair
	record   *corev1.ConfigMap // nil: none yet
	stored   decision.Record   // what record says
	services []*unstructured.Unstructured
	held     map[string]bool                       // those of them that another guard's lock names; not looked at while this guard stays locked
	unheld   error                                 // why it is not known which another guard's lock names: any may be
	former   map[string]bool                       // those of them that the lock covers and the configuration does not have any more
	leaving  map[string]*unstructured.Unstructured // to be given back, for the same reason; nil: does not exist
	beside   map[string]bool                       // those that have testers' routes alone, where another leads everybody somewhere
	// who serves the two sides, for rules that need names
	sides  decision.Sides
	next   *snapshot // of the configuration's pair, where a lock stands that is of another; nil: it is this one
	known  *trafficCache
	noRule string // why the DestinationRule cannot be read
	unread error  // the first of what is not readable
	user   string // guardian's own
	again  bool   // read from the API server, since it has left a write without an answer or has refused the record
}

// gather reads all that one guard's decision needs, for a replica that leads or does
// not. A record that cannot be parsed is an error; so is any answer but "not found".
func gather(ctx context.Context, r reader, in decision.Input, domain, user string, known *trafficCache, past *records.Histories) (snapshot, error) {
	s, g := snapshot{input: in, known: known, user: user}, in.Guard
	cm, err := r.record(ctx, g.Name)
	if err != nil {
		return s, fmt.Errorf("read record %s/%s: %w", g.Namespace, records.Name(g.Name), err)
	}
	s.record = cm
	s.stored, s.input.Unreadable = past.Parse(g.Name, cm)
	s.input.Record = s.stored
	status := &s.input.Record.Status
	status.Orphaned = time.Time{} // who looks at it now looks after it
	if status.Moves == nil {
		status.Moves = decision.MovesOf(g)
	}
	var other bool
	if s.input.Guard, other = s.input.Record.GuardOf(g, in.Leads, domain); other {
		if err := s.gatherNext(ctx, r, g, domain); err != nil {
			return s, err
		}
	}
	if err := s.gatherPair(ctx, r, domain); err != nil {
		return s, err
	}
	if err := s.gatherTraffic(ctx, r); err != nil {
		return s, err
	}
	return s, s.gatherLeaving(ctx, r)
}

// gatherNext reads what there is of the configuration's pair, where a lock stands that
// is of another. The error is ctx's.
func (s *snapshot) gatherNext(ctx context.Context, r reader, g decision.Guard, domain string) error {
	n := &snapshot{input: decision.Input{Guard: g, Record: s.input.Record}, user: s.user}
	err := n.gatherPair(ctx, r, domain)
	if err == nil {
		err = n.gatherTraffic(ctx, r)
	}
	if err != nil && ctx.Err() != nil {
		return err
	}
	in := n.input // what cannot be read of it keeps the lock's canary from nothing
	s.next, s.input.Next = n, &decision.Next{Stable: g.Stable, Canary: g.Canary, Deny: in.Deny, Workload: in.Canary, Traffic: in.Traffic}
	return nil
}

// ofConfiguration is what was read of the pair that the configuration has.
func (s *snapshot) ofConfiguration() *snapshot {
	if s.next != nil {
		return s.next
	}
	return s
}

// cannotRead is unreadable, and keeps the error for those to whom a snapshot
// without it is of no use.
func (s *snapshot) cannotRead(err error) string {
	why := unreadable(err)
	if why != "" && s.unread == nil {
		s.unread = err
	}
	return why
}

// gatherPair resolves the two destinations and reads what runs behind them.
func (s *snapshot) gatherPair(ctx context.Context, r reader, domain string) error {
	g := s.input.Guard
	s.pair = virtualservice.Pair{Stable: g.Stable, Canary: g.Canary, Namespace: g.Namespace, Domain: domain}
	rule, known, err := s.gatherRule(ctx, r)
	if err != nil || !known {
		return err
	}
	s.input.Deny, s.input.Spare = virtualservice.Denied(s.pair), virtualservice.Spellings(s.pair, g.Stable)
	stable, why, err := s.side(ctx, r, g.Stable, rule)
	if err != nil {
		return err
	}
	s.input.Stable.Missing = why
	canary, absent, err := s.side(ctx, r, g.Canary, rule)
	if err != nil {
		return err
	}
	if why == "" && absent == "" {
		s.input.Stable.Overlap = stable.part(&canary)
	}
	s.sides.Stable = stable.Side
	if why == "" {
		s.input.Stable.Ready, err = s.leastReady(ctx, r, stable, rule)
		if why := s.cannotRead(err); why != "" {
			s.input.Stable.Missing = fmt.Sprintf("EndpointSlices of Service %s/%s cannot be read: %s", g.Namespace, stable.Service, why)
		} else if err != nil {
			return err
		}
	}
	if absent != "" {
		s.sides.Canary.Absent = absent
		return nil // a canary that is not there is no build
	}
	if rule != nil && g.Canary.Host == "" {
		s.input.Deny = virtualservice.Denied(s.pair, rule.leadingTo(canary, g.Stable, g.Canary)...)
	}
	s.sides.Canary = canary.Side
	if canary.unread {
		return nil // its build is not known
	}
	if s.input.Canary, err = readWorkload(ctx, r, canary); s.cannotRead(err) != "" {
		return nil
	}
	return err
}

// gatherRule reads the DestinationRule of a pair that has subsets; rule is nil where it
// has none. Where it is needed and known is false, what stable lacks says why.
func (s *snapshot) gatherRule(ctx context.Context, r reader) (rule *slimRule, known bool, err error) {
	g, in := s.input.Guard, &s.input
	in.Outside.RulesKnown = true
	if g.Stable.Host != "" && g.Canary.Host != "" {
		return nil, true, nil
	}
	rule, err = r.destinationRule(ctx, g.DestinationRule)
	if why := s.cannotRead(err); why != "" {
		in.Stable.Missing = fmt.Sprintf("DestinationRule %s/%s cannot be read: %s", g.Namespace, g.DestinationRule, why)
		s.noRule, in.Outside.RulesKnown = in.Stable.Missing, false
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read DestinationRule %s/%s: %w", g.Namespace, g.DestinationRule, err)
	}
	if rule == nil {
		in.Stable.Missing = fmt.Sprintf("DestinationRule %s/%s does not exist", g.Namespace, g.DestinationRule)
		return nil, false, nil
	}
	s.pair.Host = rule.host
	s.tellAlone(rule)
	for _, ref := range []virtualservice.Ref{g.Stable, g.Canary} {
		if text := rule.overruled[ref.Subset]; text != "" && ref.Host == "" {
			in.Outside.Overruled = append(in.Outside.Overruled, text)
		}
	}
	return rule, true, nil
}

// tellAlone says that Istio may take the guard's subsets from a DestinationRule that
// guardian cannot see. What was told of them before stands, and no step is made.
func (s *snapshot) tellAlone(dr *slimRule) {
	if o := &s.input.Outside; dr.alone != "" {
		o.RulesKnown = false
		o.Overruled = append(o.Overruled, fmt.Sprintf("which other DestinationRules host %s has cannot be read: %s", dr.host, dr.alone))
	}
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
		_, hasCanary := subsetOf(e.subsets, g.Canary.Subset)
		switch {
		case slices.Equal(set, stable.subset) && has, !has && !hasCanary && g.Canary.Host == "":
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

// gatherTraffic reads the weights of all the guard's VirtualServices.
func (s *snapshot) gatherTraffic(ctx context.Context, r reader) error {
	g, in := s.input.Guard, &s.input
	var missing, unnamed []string
	var all []canaryTraffic
	for _, name := range g.VirtualServices {
		vs, err := r.virtualService(ctx, name)
		if err != nil {
			return fmt.Errorf("read VirtualService %s/%s: %w", g.Namespace, name, err)
		}
		if vs == nil {
			missing = append(missing, fmt.Sprintf("VirtualService %s/%s does not exist", g.Namespace, name))
			continue
		}
		marks := vs.GetAnnotations()
		in.Outside.Locks = append(in.Outside.Locks, foreignLocks(vs, s.user)...)
		in.Paused = in.Paused || marks[decision.AnnotationPaused] == "true"
		if value, ok := marks[decision.LockKey(g.Name)]; ok {
			in.Marked = decision.NewestMark(in.Marked, value, s.user)
		}
		found := s.known.of(g.Name, vs, s.pair, s.options(in.Record, name))
		if found.unnamed != "" && s.noRule != "" {
			return fmt.Errorf("VirtualService %s/%s: which destinations are the guard's is not known: %s", g.Namespace, name, s.noRule)
		}
		if found.unnamed != "" {
			unnamed = append(unnamed, found.unnamed)
			continue
		}
		if found.unsafe != "" {
			in.Unsafe = found.unsafe
		}
		in.Owned = in.Owned || owned(vs)
		s.services = append(s.services, vs)
		all = append(all, found)
	}
	configured := len(s.services)
	former, err := s.gatherFormer(ctx, r)
	if err != nil {
		return err
	}
	all = append(all, former...)
	s.putBeside(all)
	for i, vs := range s.services {
		if s.beside[vs.GetName()] {
			all[i] = s.known.of(g.Name, vs, s.pair, s.options(in.Record, vs.GetName()))
		}
		in.Owed = in.Owed || owes(vs, s.pair, s.options(in.Record, vs.GetName()), in.Record.Changed)
		in.Traffic = in.Traffic.Merge(all[i].traffic)
		in.Testers = in.Testers.Merge(all[i].testers)
	}
	if configured == 0 {
		in.Absent = strings.Join(append(missing, unnamed...), "; ")
	}
	in.Gone = strings.Join(missing, "; ")
	in.Outside.UserKnown = s.user != ""
	in.Reach = s.reach
	return nil
}

// gatherHeld finds out whose marks those are that stand on a VirtualService:
// what another guard's rollback owns is not this one's to give up. While that
// cannot be told all may be another's, which keeps nothing from being rolled back.
func (s *snapshot) gatherHeld(ctx context.Context, r reader) {
	locked, err := r.locked(ctx)
	if s.unheld = nil; err != nil {
		s.unheld = fmt.Errorf("list locked records in %s: %w", s.input.Guard.Namespace, err)
	}
	s.held = map[string]bool{}
	for _, vs := range s.services {
		s.held[vs.GetName()] = err != nil
	}
	for _, cm := range locked {
		if cm.Labels[records.LabelGuard] != s.input.Guard.Name {
			for _, name := range strings.Fields(cm.Data[decision.KeyVirtualServices]) {
				s.held[name] = true
			}
		}
	}
	s.input.Owned = slices.ContainsFunc(s.services, func(vs *unstructured.Unstructured) bool { return owned(vs) && !s.held[vs.GetName()] })
}

// gatherForeign finds the locks of other records that deny this guard's canary:
// of a guard that has been renamed, or of one that leads to the same pods. What
// cannot be listed keeps nothing from being rolled back, and everything from
// going forward.
func (s *snapshot) gatherForeign(ctx context.Context, r reader) {
	spelled := virtualservice.Spellings(s.pair, s.pair.Canary)
	if len(spelled) == 0 {
		return
	}
	locked, err := r.denying(ctx, spelled[len(spelled)-1])
	if err != nil {
		s.input.Unlisted = fmt.Sprintf("list locked records in %s: %v", s.input.Guard.Namespace, err)
		return
	}
	for _, cm := range locked {
		guard := cm.Labels[records.LabelGuard]
		if guard == s.input.Guard.Name {
			continue
		}
		f := decision.Foreign{Guard: guard}
		if err := decision.ReadKey(cm.Data, decision.KeyLock, &f.Lock); err != nil {
			f.Lock = decision.Lock{} // it stands all the same, for whoever steps forward
		}
		if f.Lock.DeniesBesides(spelled[len(spelled)-1]) {
			continue
		}
		s.input.Foreign = append(s.input.Foreign, f)
	}
	slices.SortFunc(s.input.Foreign, func(a, b decision.Foreign) int { return strings.Compare(a.Guard, b.Guard) })
}

// owes says whether something that a rollback has re-pointed in a
// VirtualService can be given back, or is no longer there to be.
func owes(vs *unstructured.Unstructured, p virtualservice.Pair, o virtualservice.Options, changed []virtualservice.Change) bool {
	own := 0
	for _, c := range changed {
		if c.VirtualService == vs.GetName() {
			own++
		}
	}
	if own == 0 {
		return false
	}
	w, _, err := virtualservice.Edit(vs.Object, p, virtualservice.KeepWeights, o, changed)
	return err == nil && (len(w.Ops) > 0 || len(w.Changes) != own)
}

// options say how one of the guard's VirtualServices is rewritten, by what a
// record knows of its routes.
func (s *snapshot) options(r decision.Record, virtualService string) virtualservice.Options {
	o := s.input.Guard.Rollback.Options()
	o.Split, o.Beside = strings.Join(r.Status.Splits, " "), s.beside[virtualService]
	return o
}

// putBeside finds the VirtualServices in which testers' routes are all there is,
// and that stand beside another which leads everybody somewhere.
func (s *snapshot) putBeside(all []canaryTraffic) {
	for i, vs := range s.services {
		others := slices.ContainsFunc(all, func(f canaryTraffic) bool { return f.beside })
		if others && !all[i].beside && len(all[i].testers.Whole) > 0 {
			if s.beside == nil {
				s.beside = map[string]bool{}
			}
			s.beside[vs.GetName()] = true
		}
	}
}

// reach is what the guard's VirtualServices will come to when the canary is
// taken to weight, percent 1–100: what plan writes for a step. Where weights do
// not add up to 100 that can be more than was asked for; Lowest never is less.
// The error is an UnsafeError when some route cannot be brought so far.
func (s *snapshot) reach(weight int) (virtualservice.Traffic, error) {
	var all virtualservice.Traffic
	var passed error
	for _, vs := range s.services {
		if s.former[vs.GetName()] {
			continue
		}
		o := s.options(s.input.Record, vs.GetName())
		w, err := virtualservice.Rewrite(vs.Object, s.pair, weight, o, s.input.Record.Changed)
		var unsafe *virtualservice.UnsafeError
		if errors.As(err, &unsafe) { // it stays as it is
			passed = err
			w.After, err = virtualservice.Inspect(vs.Object, s.pair, o)
		}
		if err != nil {
			return all, err
		}
		all = all.Merge(w.After)
	}
	if passed != nil && all.Lowest < weight {
		return all, passed
	}
	return all, nil
}

// owned says whether a VirtualService still carries the marks of a rollback.
func owned(vs *unstructured.Unstructured) bool {
	if s := decision.State(vs.GetAnnotations()[decision.AnnotationState]); s == decision.StateRolledBack {
		return true
	}
	for _, f := range vs.GetManagedFields() {
		if f.Manager == FieldManager {
			return true
		}
	}
	return false
}

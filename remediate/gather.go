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
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

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

// gatherFormer reads what a lock covers besides the guard's own. What guardian may
// not read any more is told, and keeps nothing from being rolled back.
func (s *snapshot) gatherFormer(ctx context.Context, r reader) (all []canaryTraffic, err error) {
	in := &s.input
	for _, name := range in.Record.Former(in.Guard) {
		vs, err := r.virtualService(ctx, name)
		if why := unreadable(err); why != "" {
			in.Unread = append(in.Unread, decision.Leaving{VirtualService: name, Why: "cannot be read: " + why})
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read VirtualService %s/%s: %w", in.Guard.Namespace, name, err)
		}
		if vs == nil {
			in.FormerGone = append(in.FormerGone, name)
			continue
		}
		found := s.known.of(in.Guard.Name, vs, s.pair, s.options(in.Record, name))
		if found.unnamed != "" {
			continue // nothing in it is the pair's any more
		}
		if found.unsafe != "" {
			in.Unsafe = found.unsafe
		}
		if s.former == nil {
			s.former = map[string]bool{}
		}
		s.former[name] = true
		in.Owned = in.Owned || owned(vs)
		s.services = append(s.services, vs)
		all = append(all, found)
	}
	return all, nil
}

// gatherLeaving reads the VirtualServices that are to be given back.
func (s *snapshot) gatherLeaving(ctx context.Context, r reader) error {
	in := &s.input
	if in.Record.Lock != nil {
		return nil
	}
	for _, l := range in.Record.Status.Leaving {
		vs, err := r.virtualService(ctx, l.VirtualService)
		if why := unreadable(err); why != "" {
			in.Unread = append(in.Unread, decision.Leaving{VirtualService: l.VirtualService, Why: "cannot be read: " + why})
			continue
		}
		if err != nil {
			return fmt.Errorf("read VirtualService %s/%s: %w", in.Guard.Namespace, l.VirtualService, err)
		}
		if s.leaving == nil {
			s.leaving = map[string]*unstructured.Unstructured{}
		}
		s.leaving[l.VirtualService] = vs // nil: it does not exist
	}
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

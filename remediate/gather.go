package remediate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
)

// snapshot is one guard as it was read: what Decide looks at, and the objects
// that its decision is applied to.
type snapshot struct {
	input    Input
	pair     Pair
	record   *corev1.ConfigMap // nil: none yet
	services []*unstructured.Unstructured
	held     map[string]bool // those of them that another guard's lock names; not looked at while this guard stays locked
	// who serves the two sides, for rules that need names
	sides Sides
}

// Sides names what runs behind a guard's two destinations, for those who look
// at its metrics.
type Sides struct {
	Stable, Canary Side
}

// Side is one destination as metrics know it.
type Side struct {
	Host      string            // fully qualified
	Service   string            // name of the Service
	Labels    map[string]string // the subset's labels; nil for a host of its own
	Workloads []string          // names of Deployments, sorted
	Restarts  Restarts
}

// gather reads all that one guard's decision needs. A record that cannot be
// parsed is an error; so is any answer but "not found".
func gather(ctx context.Context, r reader, g Guard, domain string, known *histories) (snapshot, error) {
	s := snapshot{input: Input{Guard: g}}
	cm, err := r.record(ctx, g.Name)
	if err != nil {
		return s, fmt.Errorf("read record %s/%s: %w", g.Namespace, RecordName(g.Name), err)
	}
	s.record = cm
	if s.input.Record, err = known.parse(g.Name, cm); err != nil {
		return s, err
	}
	status := &s.input.Record.Status
	status.Orphaned = time.Time{} // who looks at it now looks after it
	status.Moves = &Moves{VirtualServices: g.VirtualServices, Stable: g.Stable.String(), Canary: g.Canary.String()}
	if err := s.gatherPair(ctx, r, domain); err != nil {
		return s, err
	}
	if err := s.gatherTraffic(ctx, r); err != nil {
		return s, err
	}
	return s, nil
}

// gatherPair resolves the two destinations and reads what runs behind them.
func (s *snapshot) gatherPair(ctx context.Context, r reader, domain string) error {
	g := s.input.Guard
	s.pair = Pair{Stable: g.Stable, Canary: g.Canary, Namespace: g.Namespace, Domain: domain}
	subsets := map[string]map[string]string{}
	if g.Stable.Host == "" || g.Canary.Host == "" {
		dr, err := r.destinationRule(ctx, g.DestinationRule)
		if err != nil {
			return fmt.Errorf("read DestinationRule %s/%s: %w", g.Namespace, g.DestinationRule, err)
		}
		if dr == nil {
			s.input.Stable.Missing = fmt.Sprintf("DestinationRule %s/%s does not exist", g.Namespace, g.DestinationRule)
			return nil
		}
		s.pair.Host = dr.Spec.Host
		for _, sub := range dr.Spec.Subsets {
			all := map[string]string{}
			for k, v := range sub.Labels {
				all[k] = v
			}
			subsets[sub.Name] = all
		}
	}
	s.input.Deny, s.input.Spare = denied(s.pair), Spellings(s.pair, g.Stable)
	stable, why, err := s.side(ctx, r, g.Stable, subsets)
	if err != nil {
		return err
	}
	s.input.Stable.Missing = why
	s.sides.Stable = stable.Side
	if why == "" {
		if s.input.Stable.Ready, err = s.readyOf(ctx, r, stable); err != nil {
			return err
		}
	}
	canary, why, err := s.side(ctx, r, g.Canary, subsets)
	if err != nil || why != "" {
		return err // a canary that is not there is no build
	}
	s.sides.Canary = canary.Side
	s.input.Canary, err = readWorkload(ctx, r, canary)
	return err
}

// resolvedSide is a destination with the selector of its workloads.
type resolvedSide struct {
	Side
	want        workloadSelector
	subset      labels.Selector
	deployments []*appsv1.Deployment
	pods        []*corev1.Pod
}

// side finds what runs behind ref; why says that there is no such destination.
func (s *snapshot) side(ctx context.Context, r reader, ref Ref, subsets map[string]map[string]string) (side resolvedSide, why string, err error) {
	g, host := s.input.Guard, ref.Host
	var subset map[string]string
	if host == "" {
		host = s.pair.Host
		var ok bool
		if subset, ok = subsets[ref.Subset]; !ok {
			return side, fmt.Sprintf("DestinationRule %s/%s has no subset %s", g.Namespace, g.DestinationRule, ref.Subset), nil
		}
	}
	side.Labels = subset
	side.Host = NormalizeHost(host, g.Namespace, s.pair.Domain)
	name, namespace, ok := serviceOf(side.Host, s.pair.Domain)
	switch {
	case !ok:
		return side, fmt.Sprintf("host %s is no Service of this cluster: its ready endpoints cannot be counted", side.Host), nil
	case namespace != g.Namespace:
		return side, fmt.Sprintf("host %s is in namespace %s: a guard looks after destinations in its own namespace %s only", side.Host, namespace, g.Namespace), nil
	}
	side.Service = name
	svc, err := r.service(ctx, name)
	if err != nil {
		return side, "", fmt.Errorf("read Service %s/%s: %w", g.Namespace, name, err)
	}
	if svc == nil {
		return side, fmt.Sprintf("Service %s/%s does not exist", g.Namespace, name), nil
	}
	side.want = newWorkloadSelector(svc.Spec.Selector, subset)
	side.subset = labels.SelectorFromSet(subset)
	if side.deployments, err = r.deployments(ctx, side.want); err != nil {
		return side, "", fmt.Errorf("list Deployments of %s: %w", ref, err)
	}
	if side.pods, err = r.pods(ctx, side.want); err != nil {
		return side, "", fmt.Errorf("list pods of %s: %w", ref, err)
	}
	for _, d := range side.deployments {
		side.Workloads = append(side.Workloads, d.Name)
	}
	slices.Sort(side.Workloads)
	side.Restarts = restartsOf(side.pods)
	return side, "", nil
}

func (s *snapshot) readyOf(ctx context.Context, r reader, side resolvedSide) (int, error) {
	eps, err := r.slices(ctx, side.Service)
	if err != nil {
		return 0, fmt.Errorf("list EndpointSlices of Service %s: %w", side.Service, err)
	}
	byName := make(map[string]*corev1.Pod, len(side.pods))
	for _, p := range side.pods {
		byName[p.Name] = p
	}
	return readyEndpoints(eps, side.subset, func(name string) *corev1.Pod { return byName[name] }), nil
}

func readWorkload(ctx context.Context, r reader, side resolvedSide) (Workload, error) {
	var failed error
	w := canaryWorkload(side.deployments, side.pods, func(name string) *appsv1.ReplicaSet {
		rs, err := r.replicaSet(ctx, name)
		if err != nil {
			failed = fmt.Errorf("read ReplicaSet %s: %w", name, err)
		}
		return rs
	})
	return w, failed
}

// gatherTraffic reads the weights of all the guard's VirtualServices.
func (s *snapshot) gatherTraffic(ctx context.Context, r reader) error {
	g, in := s.input.Guard, &s.input
	var missing, unnamed []string
	for _, name := range g.VirtualServices {
		vs, err := r.virtualService(ctx, name)
		if err != nil {
			return fmt.Errorf("read VirtualService %s/%s: %w", g.Namespace, name, err)
		}
		if vs == nil {
			missing = append(missing, fmt.Sprintf("VirtualService %s/%s does not exist", g.Namespace, name))
			continue
		}
		in.Paused = in.Paused || vs.GetAnnotations()[AnnotationPaused] == "true"
		t, err := Inspect(vs.Object, s.pair, g.Rollback.options())
		var unsafe *UnsafeError
		if errors.As(err, &unsafe) { // the pair is not in it at all
			unnamed = append(unnamed, err.Error())
			continue
		}
		if err == nil && !t.Clean() {
			_, _, err = rewrite(vs.Object, s.pair, 0, g.Rollback.options(), nil)
		}
		if err != nil {
			in.Unsafe = err.Error()
		}
		in.Owned = in.Owned || owned(vs)
		in.Owed = in.Owed || owes(vs, s.pair, g, in.Record.Changed)
		s.services = append(s.services, vs)
		in.Traffic = in.Traffic.merge(t)
	}
	if len(s.services) == 0 {
		in.Absent = strings.Join(append(missing, unnamed...), "; ")
	}
	in.Reach = s.reach
	return nil
}

// gatherHeld finds out whose marks those are that stand on a VirtualService:
// what another guard's rollback owns is not this one's to give up.
func (s *snapshot) gatherHeld(ctx context.Context, r reader) error {
	locked, err := r.locked(ctx)
	if err != nil {
		return fmt.Errorf("list locked records in %s: %w", s.input.Guard.Namespace, err)
	}
	s.held = map[string]bool{}
	for _, cm := range locked {
		if cm.Labels[LabelGuard] != s.input.Guard.Name {
			for _, name := range strings.Fields(cm.Data[keyVirtualServices]) {
				s.held[name] = true
			}
		}
	}
	s.input.Owned = slices.ContainsFunc(s.services, func(vs *unstructured.Unstructured) bool { return owned(vs) && !s.held[vs.GetName()] })
	return nil
}

// owes says whether something that a rollback has re-pointed in a
// VirtualService can be given back, or is no longer there to be.
func owes(vs *unstructured.Unstructured, p Pair, g Guard, changed []Change) bool {
	own := 0
	for _, c := range changed {
		if c.VirtualService == vs.GetName() {
			own++
		}
	}
	if own == 0 {
		return false
	}
	w, _, err := rewrite(vs.Object, p, KeepWeights, g.Rollback.options(), changed)
	return err == nil && (len(w.Ops) > 0 || len(w.Changes) != own)
}

func (r Rollback) options() RewriteOptions {
	return RewriteOptions{MatchRoutes: r.MatchRoutes, Mirrors: r.Mirrors}
}

// merge is the traffic of two VirtualServices of one guard, or of two routes
// of one VirtualService. One without a share has no say in the lowest.
func (t Traffic) merge(o Traffic) Traffic {
	lowest := min(t.Lowest, o.Lowest)
	switch {
	case t.Counted == 0:
		lowest = o.Lowest
	case o.Counted == 0:
		lowest = t.Lowest
	}
	return Traffic{
		Weight: max(t.Weight, o.Weight), Lowest: lowest, Counted: t.Counted + o.Counted, Split: t.Split + o.Split,
		CanaryOnly: t.CanaryOnly + o.CanaryOnly, StableOnly: t.StableOnly + o.StableOnly, Unsplit: t.Unsplit + o.Unsplit,
		Mirrors: t.Mirrors + o.Mirrors,
	}
}

// reach is what the guard's VirtualServices will come to when the canary is
// taken to weight, percent 1–100: what plan writes for a step. Where weights do
// not add up to 100 that can be more than was asked for; Lowest never is less.
// The error is an UnsafeError when some route cannot be brought so far.
func (s *snapshot) reach(weight int) (Traffic, error) {
	var all Traffic
	var passed error
	for _, vs := range s.services {
		w, err := Rewrite(vs.Object, s.pair, weight, s.input.Guard.Rollback.options(), s.input.Record.Changed)
		var unsafe *UnsafeError
		if errors.As(err, &unsafe) { // it stays as it is
			passed = err
			w.After, err = Inspect(vs.Object, s.pair, s.input.Guard.Rollback.options())
		}
		if err != nil {
			return all, err
		}
		all = all.merge(w.After)
	}
	if passed != nil && all.Lowest < weight {
		return all, passed
	}
	return all, nil
}

// owned says whether a VirtualService still carries the marks of a rollback.
func owned(vs *unstructured.Unstructured) bool {
	if s := State(vs.GetAnnotations()[AnnotationState]); s == StateRolledBack {
		return true
	}
	for _, f := range vs.GetManagedFields() {
		if f.Manager == FieldManager {
			return true
		}
	}
	return false
}

package remediate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"unique"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/decision/decisiontest"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	clienttesting "k8s.io/client-go/testing"
)

// shop is a namespace with one Service, orders-service of app=orders, and its
// DestinationRule.
type shop struct {
	reader
	subsets map[string]map[string]string
	rule    *slimRule // nil: one of the subsets
	running []*slimPod
}

func (s shop) destinationRule(context.Context, string) (*slimRule, error) {
	if s.rule != nil {
		return s.rule, nil
	}
	dr := &slimRule{host: "orders-service"}
	for name, set := range s.subsets {
		dr.subsets = append(dr.subsets, slimSubset{name, slimLabelsOf(set)})
	}
	return dr, nil
}

func (s shop) service(context.Context, string) (*slimService, error) {
	return slimServiceOf(&corev1.Service{Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "orders"}}}), nil
}

func (s shop) deployments(context.Context, workloadSelector) ([]*slimDeployment, error) {
	return nil, nil
}

func (s shop) pods(_ context.Context, want workloadSelector) ([]*slimPod, error) {
	return slices.DeleteFunc(slices.Clone(s.running), func(p *slimPod) bool { return !want.matches(p.labels) }), nil
}

func (s shop) revisions(_ context.Context, _ workloadSelector, pods []*slimPod) ([]*slimRevision, error) {
	var out []*slimRevision
	for ref := range revisionsOf(pods) {
		out = append(out, replicaSet(ref.name, "Rollout/"+ref.name, at))
	}
	return out, nil
}

func (s shop) slices(context.Context, string) ([]*slimSlice, error) {
	var all discoveryv1.EndpointSlice
	for _, p := range s.running {
		all.Endpoints = append(all.Endpoints, discoveryv1.Endpoint{TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: p.name}})
	}
	return []*slimSlice{slimSliceOf(&all)}, nil
}

// withLabels is a pod's, as key=value.
func withLabels(pairs ...string) podOption {
	return func(p *corev1.Pod) {
		p.Labels = map[string]string{"app": "orders"}
		for _, pair := range pairs {
			k, v, _ := strings.Cut(pair, "=")
			p.Labels[k] = v
		}
	}
}

func (s shop) look(t *testing.T) decision.Input {
	t.Helper()
	snap := snapshot{input: decisiontest.Given()}
	snap.input.Canary, snap.input.Stable = decision.Workload{}, decision.Endpoints{}
	if err := snap.gatherPair(t.Context(), s, virtualservice.DefaultDomain); err != nil {
		t.Fatal(err)
	}
	return snap.input
}

func TestAPodOfBothSidesIsCountedOnce(t *testing.T) {
	v1, v2 := readyPod("one", "orders:1", withLabels("version=v1")), readyPod("two", "orders:2", withLabels("version=v2"))
	for name, c := range map[string]struct {
		subsets map[string]map[string]string
		pods    []*slimPod
		stable  int
		canary  string // its build's image
		overlap string
	}{
		"told apart":                                        {map[string]map[string]string{"v1": {"version": "v1"}, "v2": {"version": "v2"}}, []*slimPod{v1, v2}, 1, "orders:2", ""},
		"stable has no labels of its own":                   {map[string]map[string]string{"v1": nil, "v2": {"version": "v2"}}, []*slimPod{v1, v2}, 1, "orders:2", "stable select the canary's pods too (1)"},
		"stable has but the Service's":                      {map[string]map[string]string{"v1": {"app": "orders"}, "v2": {"version": "v2"}}, []*slimPod{v1, v2}, 1, "orders:2", "requests to stable still reach them"},
		"before the canary's first pod":                     {map[string]map[string]string{"v1": {"app": "orders"}, "v2": {"version": "v2"}}, []*slimPod{v1}, 1, "", "stable select the canary's pods too (0)"},
		"all that stable has are the canary's":              {map[string]map[string]string{"v1": {"app": "orders"}, "v2": {"version": "v2"}}, []*slimPod{v2}, 0, "orders:2", "(1)"},
		"the canary has no labels of its own":               {map[string]map[string]string{"v1": {"version": "v1"}, "v2": nil}, []*slimPod{v1, v2}, 1, "orders:2", "canary select stable's pods too (1)"},
		"both have the same labels":                         {map[string]map[string]string{"v1": {"version": "v2"}, "v2": {"version": "v2"}}, []*slimPod{v2}, 0, "orders:2", "(1)"},
		"labels that are not the same, and a pod with both": {map[string]map[string]string{"v1": {"version": "v1"}, "v2": {"track": "new"}}, []*slimPod{v1, readyPod("both", "orders:3", withLabels("version=v1", "track=new"))}, 1, "orders:3", "(1)"},
		"labels that are not the same, and none with both":  {map[string]map[string]string{"v1": {"version": "v1"}, "v2": {"track": "new"}}, []*slimPod{v1, readyPod("new", "orders:3", withLabels("track=new"))}, 1, "orders:3", ""},
	} {
		t.Run(name, func(t *testing.T) {
			in := shop{subsets: c.subsets, running: c.pods}.look(t)
			build := ""
			if c.canary != "" {
				build = hashOf(template(c.canary))
			}
			if in.Stable.Ready != c.stable || in.Canary.Build != build || !strings.Contains(in.Stable.Overlap, c.overlap) || (in.Stable.Overlap == "") != (c.overlap == "") {
				t.Errorf("stable has %d ready endpoints, want %d; canary's build %q, want %q; overlap %q, want %q",
					in.Stable.Ready, c.stable, in.Canary.Build, build, in.Stable.Overlap, c.overlap)
			}
		})
	}
}

func TestEverySubsetThatLeadsToTheCanaryIsDenied(t *testing.T) {
	s := shop{subsets: map[string]map[string]string{"v1": {"version": "v1"}, "v2": {"version": "v2"}, "all": nil, "app": {"app": "orders"}, "fast": {"tier": "fast"}, "v3": {"version": "v3"}},
		running: []*slimPod{readyPod("two", "orders:2", withLabels("version=v2", "tier=fast"))}}
	denied := s.look(t).Deny
	for subset, want := range map[string]bool{"v2": true, "all": true, "app": true, "fast": true, "v1": false, "v3": false} {
		for _, host := range []string{"orders-service", "orders-service.microservices", "orders-service.microservices.svc", "orders-service.microservices.svc.cluster.local"} {
			if got := slices.Contains(denied, host+"/"+subset); got != want {
				t.Errorf("%s/%s is denied: %v, want %v", host, subset, got, want)
			}
		}
	}
	s.subsets["v1"] = nil
	if slices.Contains(s.look(t).Deny, "orders-service/v1") {
		t.Error("a stable that leads to the canary is denied, and nothing is left to go back to")
	}
}

func TestACacheFindsWhatPodsWereMadeFrom(t *testing.T) {
	sets := []*slimRevision{replicaSet("orders:1", "Deployment/v2", at), replicaSet("orders:2", "Deployment/v2", at), replicaSet("orders:3", "Rollout/v2", at), replicaSet("orders:4", "Rollout/v2", at)}
	stateful := []*slimRevision{controllerRevision(t, "s-aaa", "StatefulSet/s", "orders:1", 1, at), controllerRevision(t, "s-bbb", "StatefulSet/s", "orders:2", 2, at)}
	r := cachesOf(t).reader
	for in, all := range map[interface{ Add(any) error }][]*slimRevision{r.replicas: sets, r.revisionIx: stateful} {
		for _, rev := range all {
			rev.slim = keep(&metav1.ObjectMeta{Namespace: "shop", Name: rev.name})
			if err := in.Add(rev); err != nil {
				t.Fatal(err)
			}
		}
	}
	pods := []*slimPod{readyPod("a", "orders:1"), readyPod("b", "orders:1"), readyPod("c", "orders:3"), readyPod("s-0", "", ownedBy("StatefulSet", "s"), hashed("s-aaa")), readyPod("d", "gone"), readyPod("e", "", orphan)}
	found, err := r.revisions(t.Context(), workloadSelector{}, pods)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, rev := range found {
		names = append(names, rev.name)
	}
	slices.Sort(names)
	// Of a Deployment what serves, of other owners all there is: the newest is their present template.
	if want := []string{"orders:1", "orders:3", "orders:4", "s-aaa", "s-bbb"}; !slices.Equal(names, want) {
		t.Errorf("found %v, want %v", names, want)
	}
}

func TestWhatElseLeadsToTheCanaryIsNamed(t *testing.T) {
	service := func(name string, selector map[string]string) *slimService {
		return slimServiceOf(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Selector: selector}})
	}
	rule := func(name, host string, subsets map[string]any) *slimRule {
		var list []any
		for _, s := range slices.Sorted(maps.Keys(subsets)) {
			list = append(list, map[string]any{"name": s, "labels": subsets[s]})
		}
		return slimRuleOf(&unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": name}, "spec": map[string]any{"host": host, "subsets": list}}})
	}
	v1, v2 := map[string]any{"version": "v1"}, map[string]any{"version": "v2"}
	w := ways{g: decisiontest.Given().Guard, services: map[string]*slimService{}}
	for _, s := range []*slimService{service("orders-service", map[string]string{"app": "orders"}), service("orders-canary", map[string]string{"app": "orders", "version": "v2"}),
		service("orders-stable", map[string]string{"app": "orders", "version": "v1"}), service("headless", nil)} {
		w.services[s.name] = s
	}
	w.rules = []*slimRule{rule("orders-service", "orders-service", map[string]any{"v1": v1, "v2": v2, "all": map[string]any{}}),
		rule("again", "orders-service.microservices.svc.cluster.local", map[string]any{"old": v1, "new": v2}), rule("stable", "orders-stable", map[string]any{"any": map[string]any{}}), rule("abroad", "example.com", map[string]any{"x": v2})}
	set := slimLabelsOf(map[string]string{"version": "v2"})
	w.canary = resolvedSide{Side: decision.Side{Service: "orders-service"}, subset: set, want: newWorkloadSelector(w.services["orders-service"].selector, set),
		pods: []*slimPod{readyPod("two", "orders:2", withLabels("version=v2"))}}
	denied, open := w.find()
	if want := []string{"subset new of DestinationRule again", "subset all of DestinationRule orders-service"}; !slices.Equal(denied, want) {
		t.Errorf("denied %v, want %v", denied, want)
	}
	if want := []string{"Service orders-canary"}; !slices.Equal(open, want) {
		t.Errorf("open %v, want %v", open, want)
	}
	w.rules[0].exported = "*" // so that Istio does not merge them, and the youngest, or the last by name, is all there is
	if denied, open := w.find(); !slices.Equal(denied, []string{"subset all of DestinationRule orders-service"}) || !slices.Equal(open, []string{"Service orders-canary", "subset new of DestinationRule again"}) {
		t.Errorf("a rule that Istio keeps apart: denied %v, open %v", denied, open)
	}
}

// oldRule is a DestinationRule of the guard's host.
func oldRule(name string, made int64, subsets ...string) *slimRule {
	r := &slimRule{slim: slim{name: name, namespace: unique.Make("shop")}, host: "orders-service", made: made}
	for _, s := range subsets {
		subset, version, _ := strings.Cut(s, "=")
		r.subsets = append(r.subsets, slimSubset{subset, slimLabelsOf(map[string]string{"version": version})})
	}
	return r
}

// exportedTo is the rule for clients of some namespaces.
func (k *slimRule) exportedTo(namespaces string) *slimRule { k.exported = namespaces; return k }

// forSome is the rule for clients with a label.
func (k *slimRule) forSome(app string) *slimRule {
	k.chosen, k.exported, k.selector = true, ".", slimLabelsOf(map[string]string{"app": app})
	return k
}

// Istio merges the DestinationRules of one host, namespace and exportTo: each subset is the
// one of the oldest that has it. Of several exportTo a client takes the last that it sees.
func TestSubsetsAreThoseThatIstioTakes(t *testing.T) {
	for name, c := range map[string]struct {
		own    *slimRule
		others []*slimRule
		want   string            // subset=version, in the order of age
		says   map[string]string // subset → part of what is told
	}{
		"alone":                     {oldRule("orders", 5, "v1=1", "v2=2"), nil, "v1=1 v2=2", nil},
		"another has other subsets": {oldRule("orders", 5, "v1=1", "v2=2"), []*slimRule{oldRule("a", 1, "v3=3")}, "v3=3 v1=1 v2=2", nil},
		"one subset in each":        {oldRule("orders", 5, "v1=1"), []*slimRule{oldRule("z", 9, "v2=2")}, "v1=1 v2=2", nil},
		"an older one has the same": {oldRule("orders", 5, "v1=1", "v2=2"), []*slimRule{oldRule("z", 1, "v1=1")}, "v1=1 v2=2", nil},
		"an older one has other labels": {oldRule("orders", 5, "v1=1", "v2=2"), []*slimRule{oldRule("z", 1, "v1=old")}, "v1=old v2=2",
			map[string]string{"v1": "Istio takes subset v1 from DestinationRule z (version=old), which is older, not from orders (version=1)"}},
		"a younger one has other labels": {oldRule("orders", 5, "v1=1", "v2=2"), []*slimRule{oldRule("a", 6, "v1=new")}, "v1=1 v2=2", nil},
		"of the same age, by name":       {oldRule("orders", 5, "v1=1"), []*slimRule{oldRule("a", 5, "v1=a"), oldRule("z", 5, "v1=z")}, "v1=a", map[string]string{"v1": "DestinationRule a "}},
		"the oldest of several":          {oldRule("orders", 5, "v1=1"), []*slimRule{oldRule("a", 4, "v1=a"), oldRule("z", 3, "v1=z")}, "v1=z", map[string]string{"v1": "DestinationRule z "}},
		"a younger one has another exportTo": {oldRule("orders", 5, "v1=1", "v2=2"), []*slimRule{oldRule("tuning", 6, "v1=0", "v2=2").exportedTo("*")}, "v1=0 v2=2",
			map[string]string{"v1": "Istio takes subset v1 from DestinationRule tuning (version=0), which has another exportTo, not from orders (version=1)"}},
		"a younger one for its namespace": {oldRule("orders", 5, "v1=1", "v2=2"), []*slimRule{oldRule("tuning", 6, "v1=0", "v2=2").exportedTo(".")}, "v1=0 v2=2",
			map[string]string{"v1": "Istio takes subset v1 from DestinationRule tuning (version=0), which has another exportTo, not from orders (version=1)"}},
		"a younger one without the subset": {oldRule("orders", 5, "v1=1", "v2=2"), []*slimRule{oldRule("tuning", 6, "v2=2").exportedTo(".")}, "v2=2",
			map[string]string{"v1": "Istio takes DestinationRule tuning, which has another exportTo and no subset v1, not orders (version=1)"}},
		"a younger one for its namespace has no subsets": {oldRule("orders", 5, "v1=1"), []*slimRule{oldRule("tuning", 6).exportedTo(".")}, "v1=1",
			map[string]string{"v1": "for clients of its namespace Istio takes DestinationRule tuning, which has no subset v1, not orders (version=1)"}},
		"an older one has another exportTo":       {oldRule("orders", 5, "v1=1"), []*slimRule{oldRule("a", 1, "v1=a", "v2=a").exportedTo(".")}, "v1=1", nil},
		"an older one for everybody":              {oldRule("orders", 5, "v1=1"), []*slimRule{oldRule("a", 1, "v1=a").exportedTo("*")}, "v1=1", nil},
		"an older one for a namespace":            {oldRule("orders", 5, "v1=1"), []*slimRule{oldRule("a", 1, "v1=a").exportedTo("web")}, "v1=1", nil},
		"a younger one for a namespace":           {oldRule("orders", 5, "v1=1"), []*slimRule{oldRule("z", 6, "v1=z").exportedTo("web")}, "v1=1", map[string]string{"v1": "for clients of namespace web Istio takes subset v1 from DestinationRule z (version=z), not from orders (version=1)"}},
		"a younger one for no namespace":          {oldRule("orders", 5, "v1=1"), []*slimRule{oldRule("z", 6, "v1=z").exportedTo("~")}, "v1=1", nil},
		"an older one for the guard's is private": {oldRule("orders", 5, "v1=1").exportedTo("."), []*slimRule{oldRule("a", 1, "v1=a")}, "v1=1", map[string]string{"v1": "for clients of other namespaces Istio takes subset v1 from DestinationRule a (version=a), not from orders (version=1)"}},
		"another for its namespace says the same": {oldRule("orders", 5, "v1=1"), []*slimRule{oldRule("z", 6, "v1=1").exportedTo(".")}, "v1=1", nil},
		"merged, and again after another exportTo": {oldRule("orders", 5, "v1=1"), []*slimRule{oldRule("b", 6, "v1=b").exportedTo("."), oldRule("c", 7, "v1=c")}, "v1=c",
			map[string]string{"v1": "DestinationRule c (version=c), which "}},
		"one that is for more is merged":                    {oldRule("orders", 5, "v1=1").exportedTo("."), []*slimRule{oldRule("z", 6, "v1=z", "v2=2").exportedTo(". web")}, "v1=1 v2=2", map[string]string{"v1": "for clients of namespace web Istio takes subset v1 from DestinationRule z (version=z)"}},
		"for the namespace by its name is another exportTo": {oldRule("orders", 5, "v1=1").exportedTo("."), []*slimRule{oldRule("z", 6, "v1=z").exportedTo("shop")}, "v1=z", map[string]string{"v1": "DestinationRule z "}},
		"the guard's is for a namespace alone":              {oldRule("orders", 5, "v1=1").exportedTo("web"), []*slimRule{oldRule("z", 6, "v1=1").exportedTo("app")}, "v1=1", nil},
		"the guard's is for no namespace":                   {oldRule("orders", 5, "v1=1").exportedTo("~"), []*slimRule{oldRule("a", 1, "v1=a")}, "v1=a", map[string]string{"v1": "DestinationRule a (version=a), which has another exportTo, not from orders"}},
		"for some clients alone":                            {oldRule("orders", 5, "v1=1"), []*slimRule{oldRule("a", 1, "v1=a").forSome("web")}, "v1=1", map[string]string{"v1": "for clients with the labels app=web Istio takes subset v1 from DestinationRule a (version=a), not from orders (version=1)"}},
		"for some clients alone, the same":                  {oldRule("orders", 5, "v1=1"), []*slimRule{oldRule("a", 1, "v1=1").forSome("web")}, "v1=1", nil},
		"the guard's is for some clients alone":             {oldRule("orders", 5, "v1=1").forSome("web"), []*slimRule{oldRule("a", 1, "v1=a")}, "v1=a", map[string]string{"v1": "DestinationRule a (version=a), which has no workloadSelector, not from orders (version=1)"}},
		"merged into one that is for some clients alone":    {oldRule("orders", 5, "v1=1").exportedTo("."), []*slimRule{oldRule("z", 9, "v2=2").forSome("web")}, "v2=2 v1=1", map[string]string{"v1": "for clients of its namespace Istio takes no DestinationRule: it merges orders into z, which has a workloadSelector"}},
	} {
		before := fmt.Sprint(c.own)
		m := c.own.merge(c.others)
		var got []string
		for _, s := range m.subsets {
			got = append(got, s.name+"="+s.labels.get("version"))
		}
		if strings.Join(got, " ") != c.want || len(m.overruled) != len(c.says) {
			t.Errorf("%s: %v, want %s; told %q, want %q", name, got, c.want, m.overruled, c.says)
		}
		for subset, part := range c.says {
			if !strings.Contains(m.overruled[subset], part) {
				t.Errorf("%s: told of %s is %q, want %q", name, subset, m.overruled[subset], part)
			}
		}
		if fmt.Sprint(c.own) != before {
			t.Errorf("%s: the rule in the cache was edited", name)
		}
	}
}

// Stable is as ready as it is for the clients that have the fewest of it, of those that
// have one of the two subsets.
func TestStableIsAsReadyAsForTheClientsThatHaveTheFewest(t *testing.T) {
	running := []*slimPod{readyPod("a", "orders:1", withLabels("version=1")), readyPod("b", "orders:1", withLabels("version=1")), readyPod("c", "orders:2", withLabels("version=2")), readyPod("d", "old", withLabels("version=old"))}
	for name, c := range map[string]struct {
		other *slimRule
		want  int
	}{
		"the same for all":          {oldRule("z", 6, "v1=1", "v2=2").exportedTo("web"), 2},
		"fewer in a namespace":      {oldRule("z", 6, "v1=old", "v2=2").exportedTo("web"), 1},
		"none in a namespace":       {oldRule("z", 6, "v1=gone", "v2=2").exportedTo("web"), 0},
		"no such subset":            {oldRule("z", 6, "v2=2").exportedTo("web"), 0},
		"neither subset":            {oldRule("z", 6).exportedTo("web"), 2},
		"none for some clients":     {oldRule("z", 6, "v1=gone").forSome("web"), 0},
		"what nobody takes":         {oldRule("z", 1, "v1=gone", "v2=2").exportedTo("web"), 2},
		"none, and taken by all":    {oldRule("z", 6, "v1=gone", "v2=2").exportedTo("*"), 0},
		"more, and taken by nobody": {oldRule("z", 6, "v1=2", "v2=2").exportedTo("~"), 2},
	} {
		s := snapshot{input: decision.Input{Guard: decisiontest.Given().Guard}}
		if err := s.gatherPair(t.Context(), shop{rule: oldRule("orders", 5, "v1=1", "v2=2").merge([]*slimRule{c.other}), running: running}, "cluster.local"); err != nil {
			t.Fatal(err)
		}
		if s.input.Stable.Ready != c.want || s.input.Stable.Missing != "" {
			t.Errorf("%s: %d ready, %q missing, want %d", name, s.input.Stable.Ready, s.input.Stable.Missing, c.want)
		}
	}
}

// What is told of a DestinationRule ends with the rule.
func TestWithoutADestinationRuleNothingIsToldOfIt(t *testing.T) {
	byHost := decisiontest.Given().Guard
	byHost.Stable, byHost.Canary = virtualservice.Ref{Host: "orders-v1"}, virtualservice.Ref{Host: "orders-v2"}
	for name, c := range map[string]struct {
		guard decision.Guard
		err   error
		known bool
	}{
		"it is gone":        {decisiontest.Given().Guard, nil, true},
		"it is not needed":  {byHost, errors.New("not to be read"), true},
		"it cannot be read": {decisiontest.Given().Guard, apierrors.NewForbidden(schema.GroupResource{Resource: "destinationrules"}, "orders", nil), false},
	} {
		s := snapshot{input: decision.Input{Guard: c.guard}}
		if err := s.gatherPair(t.Context(), noRule{shop{}, c.err}, "cluster.local"); err != nil {
			t.Fatal(err)
		}
		if s.input.Outside.RulesKnown != c.known {
			t.Errorf("%s: known %v, want %v", name, s.input.Outside.RulesKnown, c.known)
		}
	}
}

// What a cache that was never filled does not hold is not absent: the API server is asked
// for the other DestinationRules of a host. Where it does not tell, the brake goes by the
// guard's own, what was told before stands, and no step is made.
func TestALiveReadKnowsTheOtherRulesOfAHostOrSaysThatItDoesNot(t *testing.T) {
	rule := func(name, made, version string) *unstructured.Unstructured {
		subsets := []any{map[string]any{"name": "v1", "labels": map[string]any{"version": version}}, map[string]any{"name": "v2", "labels": map[string]any{"version": "v2"}}}
		return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
			"metadata": map[string]any{"name": name, "namespace": "shop", "creationTimestamp": made}, "spec": map[string]any{"host": "orders-service", "subsets": subsets}}}
	}
	own, older := rule("orders-service", "2026-01-02T00:00:00Z", "v1"), rule("a", "2026-01-01T00:00:00Z", "old")
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "destinationrules"}, "", errors.New("no right"))
	for name, c := range map[string]struct {
		cached  []any
		filled  bool
		refuse  error
		takes   string // version of the labels of v1
		known   bool
		overall string
	}{
		"by the cache":              {[]any{own, older}, true, errors.New("it was listed"), "old", true, "from DestinationRule a"},
		"the cache was not filled":  {nil, false, nil, "old", true, "from DestinationRule a"},
		"nor may guardian list":     {nil, false, forbidden, "v1", false, "which other DestinationRules host orders-service has cannot be read: destinationrules"},
		"nor does anything answer":  {nil, false, errors.New("EOF"), "v1", false, "cannot be read: EOF"},
		"the cache knows no others": {[]any{own}, true, nil, "v1", true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			client := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{
				{Group: IstioGroup, Version: "v1", Resource: "destinationrules"}: "DestinationRuleList"}, own.DeepCopy(), older.DeepCopy())
			client.PrependReactor("list", "destinationrules", func(clienttesting.Action) (bool, runtime.Object, error) { return c.refuse != nil, nil, c.refuse })
			i := cachesOf(t, c.cached...)
			i.reader.unfilled = func(string) bool { return !c.filled }
			live := &liveReader{cache: i.reader, namespace: "shop", istio: newIstioAPI(client, "shop")}
			dr, err := live.destinationRule(t.Context(), "orders-service")
			if err != nil {
				t.Fatal(err)
			}
			s := snapshot{input: decision.Input{Guard: decisiontest.Given().Guard}}
			if err := s.gatherPair(t.Context(), shop{rule: dr}, "cluster.local"); err != nil {
				t.Fatal(err)
			}
			set, _ := dr.subset("v1")
			if o := s.input.Outside; set.get("version") != c.takes || o.RulesKnown != c.known || !strings.Contains(strings.Join(o.Overruled, "; "), c.overall) || (c.overall == "") != (len(o.Overruled) == 0) {
				t.Errorf("v1 is version %s (want %s), known: %v, told: %q", set.get("version"), c.takes, o.RulesKnown, o.Overruled)
			}
		})
	}
}

// noRule is a shop without a DestinationRule.
type noRule struct {
	shop
	err error
}

func (s noRule) destinationRule(context.Context, string) (*slimRule, error) { return nil, s.err }

package remediate

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	"github.com/canary-guardian/guardian/test/golden"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

func TestAdmissionYAMLIsAsInTheGoldenFile(t *testing.T) {
	got, err := AdmissionYAML(AdmissionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "../testdata/admission/policies.yaml", string(got), *update)
}

func TestThePoliciesAreOneForAllNamespaces(t *testing.T) {
	text, err := AdmissionYAML(AdmissionOptions{Labels: map[string]string{"helm.sh/chart": "guardian-1.0: x", "a": "true"}})
	if err != nil {
		t.Fatal(err)
	}
	vaps, maps := printed(t, AdmissionOptions{Labels: map[string]string{"helm.sh/chart": "guardian-1.0: x", "a": "true"}})
	if len(vaps) != 3 || len(maps) != 1 {
		t.Errorf("%d validating policies and %d mutating ones, want 3 and 1", len(vaps), len(maps))
	}
	if vaps[PolicyLock].Labels["a"] != "true" || maps[PolicyHold].Labels["helm.sh/chart"] != "guardian-1.0: x" {
		t.Errorf("labels %v and %v", vaps[PolicyLock].Labels, maps[PolicyHold].Labels)
	}
	for _, part := range []string{"paramKind", "microservices", "serviceaccount:guardian"} {
		if strings.Contains(string(text), part) {
			t.Errorf("%s stands in the policies", part)
		}
	}
	vaps, maps = printed(t, AdmissionOptions{NoHold: true})
	if len(vaps) != 2 || len(maps) != 0 {
		t.Errorf("without hold: %d and %d, want 2 and none", len(vaps), len(maps))
	}
}

func virtualService(version, name, namespace string, http []any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "networking.istio.io/" + version, "kind": "VirtualService",
		"metadata": map[string]any{"name": name, "namespace": namespace},
		"spec":     map[string]any{"hosts": []any{"orders-service"}, "http": http},
	}}
}

// withSpec is VirtualService orders-service with this YAML as its spec.
func withSpec(t testing.TB, spec string) *unstructured.Unstructured {
	t.Helper()
	vs := virtualService("v1", "orders-service", testNamespace, nil)
	var fields map[string]any
	text, err := yaml.YAMLToJSON([]byte(strings.ReplaceAll(spec, "NAMESPACE", testNamespace)))
	if err == nil {
		err = json.Unmarshal(text, &fields)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := fields["hosts"]; !ok {
		fields["hosts"] = []any{"orders-service"}
	}
	whole, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	into := &unstructured.Unstructured{}
	if err := into.UnmarshalJSON(fmt.Appendf(nil, `{"apiVersion":"networking.istio.io/v1","kind":"VirtualService","metadata":{},"spec":%s}`, whole)); err != nil {
		t.Fatal(err)
	}
	vs.Object["spec"] = into.Object["spec"]
	return vs
}

// split is a spec of one route of the article's pair.
func split(stable, canary int) string {
	return fmt.Sprintf("{http: [{route: [{destination: {host: orders-service, subset: v1}, weight: %d}, {destination: {host: orders-service, subset: v2}, weight: %d}]}]}", stable, canary)
}

// locked adds a lock's annotation.
func lockedBy(t testing.TB, vs *unstructured.Unstructured, guard string, l decision.LockAnnotation) *unstructured.Unstructured {
	t.Helper()
	vs = vs.DeepCopy()
	marks := vs.GetAnnotations()
	if marks == nil {
		marks = map[string]string{}
	}
	marks[decision.LockKey(guard)] = mustEncode(t, l)
	vs.SetAnnotations(marks)
	return vs
}

// lockOf is the lock that a rollback of a pair leaves.
func lockOf(p virtualservice.Pair, o virtualservice.Options) decision.LockAnnotation {
	return decision.LockAnnotation{By: guardianUser, Canary: virtualservice.Denied(p), Stable: virtualservice.Spellings(p, p.Stable), MatchRoutes: o.MatchRoutes, Mirrors: o.Mirrors, Build: "4f2a", Since: at,
		Message: "orders-service: v2 (build 4f2a) was rolled back at 12:00"}
}

// TestThePolicyDeniesWhatARollbackTakes holds the CEL against Rewrite: what
// Rewrite would change is refused, and what it leaves passes; and what is held
// instead comes out as Rewrite has it.
func TestThePolicyDeniesWhatARollbackTakes(t *testing.T) {
	j, err := newJudge(t, "1.37", AdmissionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	hostLast := virtualservice.Pair{Stable: virtualservice.Ref{Subset: "v1"}, Canary: virtualservice.Ref{Host: "orders-v2"}, Host: "orders-service"}
	hostFirst := virtualservice.Pair{Stable: virtualservice.Ref{Host: "orders-v1"}, Canary: virtualservice.Ref{Subset: "v2"}, Host: "orders-service", Domain: "corp.example"}
	for _, g := range []struct {
		name  string
		o     virtualservice.Options
		pairs []virtualservice.Pair
	}{
		{"all", all, []virtualservice.Pair{bySubset, byHost}},
		{"weights alone", virtualservice.Options{}, []virtualservice.Pair{bySubset}},
		{"weights alone, by host", virtualservice.Options{}, []virtualservice.Pair{byHost}},
		{"weights alone, a canary's host", virtualservice.Options{}, []virtualservice.Pair{hostLast}},
		{"weights alone, a stable's host, another domain", virtualservice.Options{}, []virtualservice.Pair{hostFirst}},
	} {
		old := withSpec(t, "{http: [{redirect: {uri: /}}]}")
		for i := range g.pairs {
			g.pairs[i].Namespace = testNamespace
			old = lockedBy(t, old, fmt.Sprint("guard-", i), lockOf(g.pairs[i], g.o))
		}
		for _, c := range specs {
			now := withSpec(t, c.spec)
			now.SetAnnotations(old.GetAnnotations())
			deny := false
			for _, p := range g.pairs {
				r, err := virtualservice.Rewrite(now.Object, p, 0, g.o, nil)
				deny = deny || err == nil && len(r.Ops) > 0
			}
			got, err := j.rule(t.Context(), attempt{user: "ci", old: old, new: now})
			if err != nil {
				t.Errorf("%s, %s: %v", g.name, c.name, err)
				continue
			}
			if refused := len(got.refused) > 0; refused != deny {
				t.Errorf("%s, %s: refused %v (%v), want %v", g.name, c.name, refused, got.refused, deny)
			}
			checkHeld(t, j, g.name+", "+c.name, g.pairs, g.o, old, now)
		}
	}
}

// checkHeld: a write that is held comes out without anything that a rollback
// would take, and with the locks that stood.
func checkHeld(t *testing.T, j *judge, name string, pairs []virtualservice.Pair, o virtualservice.Options, old, now *unstructured.Unstructured) {
	t.Helper()
	asked := now.DeepCopy()
	asked.SetAnnotations(nil)
	got, err := j.rule(t.Context(), attempt{user: "ci", dryRun: true, old: old, new: asked})
	if err != nil || len(got.refused) > 0 {
		t.Errorf("%s, held: refused %v, %v", name, got.refused, err)
		return
	}
	for k, v := range old.GetAnnotations() {
		if got.object.GetAnnotations()[k] != v {
			t.Errorf("%s, held: annotation %s is %q", name, k, got.object.GetAnnotations()[k])
		}
	}
	for _, p := range pairs {
		before, err := virtualservice.Inspect(now.Object, p, o)
		if err != nil {
			continue // it does not name the pair
		}
		after, err := virtualservice.Inspect(got.object.Object, p, o)
		if err != nil || !after.Clean() {
			t.Errorf("%s, held: the canary has %+v (%v), asked for was %+v", name, after, err, before)
		}
	}
}

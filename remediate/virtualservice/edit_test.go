package virtualservice

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/canary-guardian/guardian/remediate/virtualservice/vstest"
	"github.com/canary-guardian/guardian/test/golden"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const fixtures = "../../testdata/rewrite"

var (
	bySubset = Pair{Stable: Ref{Subset: "v1"}, Canary: Ref{Subset: "v2"}, Host: "orders-service", Namespace: "microservices"}
	noRule   = Pair{Stable: Ref{Subset: "v1"}, Canary: Ref{Subset: "v2"}}
	byHost   = Pair{Stable: Ref{Host: "orders-v1"}, Canary: Ref{Host: "orders-v2"}, Namespace: "microservices"}
	all      = Options{MatchRoutes: true, Mirrors: true}
)

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(fixtures, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPlanYAMLOfEveryShapeOfVirtualService(t *testing.T) {
	none := Options{}
	for _, c := range []struct {
		name   string
		in     string
		golden string // file of the result, or of the error
		pair   Pair
		weight int
		o      Options
	}{
		{"header and cookie routes are led to stable with the rest", "header-and-cookie-routes.yaml", "rollback", bySubset, 0, all},
		{"header and cookie routes stay when the guard leaves them alone", "header-and-cookie-routes.yaml", "leave", bySubset, 0, none},
		{"going forward sets every route that names both", "header-and-cookie-routes.yaml", "30", bySubset, 30, all},
		{"tcp and tls routes are rewritten like http", "tcp-and-tls.yaml", "rollback", bySubset, 0, all},
		{"tls routes take everybody, so they are no match routes", "tcp-and-tls.yaml", "leave", bySubset, 0, none},
		{"third destinations keep their weights", "third-destinations.yaml", "rollback", bySubset, 0, all},
		{"third destinations keep their weights when going forward", "third-destinations.yaml", "50", bySubset, 50, all},
		{"a canary that has everything is led to stable whatever the guard leaves alone", "canary-alone.yaml", "rollback", bySubset, 0, none},
		{"a canary alone cannot go to half", "canary-alone.yaml", "50", bySubset, 50, all},
		{"a canary alone is at 100 already", "canary-alone.yaml", "100", bySubset, 100, all},
		{"stable alone is printed unchanged", "stable-alone.yaml", "rollback", bySubset, 0, all},
		{"stable alone has no weight to set", "stable-alone.yaml", "10", bySubset, 10, all},
		{"mirrors to the canary stop", "mirrors.yaml", "rollback", bySubset, 0, all},
		{"mirrors stay when the guard leaves them alone", "mirrors.yaml", "leave", bySubset, 0, none},
		{"missing weights are 0 beside others and are written where stable needs one", "missing-weights.yaml", "rollback", bySubset, 0, all},
		{"missing weights are written when going forward", "missing-weights.yaml", "25", bySubset, 25, all},
		{"totals other than 100 are kept", "totals.yaml", "rollback", bySubset, 0, all},
		{"totals other than 100 are shared as near as they can", "totals.yaml", "25", bySubset, 25, all},
		{"a total that is too coarse is named", "totals.yaml", "10", bySubset, 10, all},
		{"a route whose weights are all 0 comes out with 100 for stable", "all-zero.yaml", "rollback", bySubset, 0, all},
		{"redirects, direct responses and delegates are left alone", "redirect-direct-delegate.yaml", "rollback", bySubset, 0, all},
		{"a root whose routes are in its delegates is refused", "delegate-root.yaml", "rollback", bySubset, 0, all},
		{"destinations told apart by host", "apart-by-host.yaml", "rollback", byHost, 0, all},
		{"a stable subset and a canary host", "apart-by-host.yaml", "mixed", Pair{Stable: Ref{Subset: "v1"}, Canary: Ref{Host: "orders-v2"}, Host: "orders-service", Namespace: "microservices"}, 0, all},
		{"short and full names are one host, name.namespace is another", "host-spellings.yaml", "rollback", bySubset, 0, all},
		{"subsets of several hosts need the DestinationRule's", "host-spellings.yaml", "norule", noRule, 0, all},
		{"a host spelled as Istio does not resolve it is named", "host-spellings.yaml", "stranger", Pair{Stable: Ref{Subset: "v1"}, Canary: Ref{Subset: "v2"}, Host: "orders", Namespace: "microservices"}, 0, all},
		{"several entries of one destination share its weight", "duplicates-and-headers.yaml", "rollback", bySubset, 0, all},
		{"several entries keep their proportion when going forward", "duplicates-and-headers.yaml", "10", bySubset, 10, all},
		{"fields that nobody has heard of stay", "fields-of-the-future.yaml", "rollback", bySubset, 0, all},
		{"comments, quotes, flow style and other documents stay", "every-style-of-yaml.yaml", "rollback", noRule, 0, all},
		{"CRLF and a missing last newline stay", "crlf-without-last-newline.yaml", "rollback", noRule, 0, all},
		{"a List in JSON", "list.json", "rollback", noRule, 0, all},
		{"an alias cannot be edited in place", "alias.yaml", "rollback", noRule, 0, all},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := fixture(t, c.in)
			out, patch, err := PlanYAML(in, c.pair, c.weight, c.o)
			if err != nil {
				out = []byte("# refused: " + err.Error() + "\n")
			} else {
				checkPatch(t, in, out, patch)
			}
			ext := filepath.Ext(c.in)
			golden.Check(t, filepath.Join(fixtures, "golden", strings.TrimSuffix(c.in, ext)+"."+c.golden+ext), string(out), *update)
		})
	}
}

// checkPatch applies the patch by another hand and compares with the text.
func checkPatch(t *testing.T, in, out, patch []byte) {
	t.Helper()
	before, after := objects(t, in), objects(t, out)
	if len(before) != 1 || len(after) != 1 {
		return // other documents beside it
	}
	decoded, err := jsonpatch.DecodePatch(patch)
	if err != nil {
		t.Fatal(err)
	}
	patched, err := decoded.Apply(before[0])
	if err != nil {
		t.Fatalf("apply patch %s: %v", patch, err)
	}
	var got, want any
	if json.Unmarshal(patched, &got) != nil || json.Unmarshal(after[0], &want) != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("patch and text differ:\n%s\n%s", patched, after[0])
	}
}

// objects are the VirtualServices of a text as JSON.
func objects(t *testing.T, text []byte) [][]byte {
	t.Helper()
	var out [][]byte
	for _, doc := range strings.Split(string(text), "\n---") {
		b, err := yaml.YAMLToJSON([]byte(doc))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), `"kind":"VirtualService"`) && !strings.Contains(string(b), `"items"`) {
			out = append(out, b)
		}
	}
	return out
}

func TestTheArticlesFiveManifestsGive100And0ByteForByte(t *testing.T) {
	want := fixture(t, "article-100-0.yaml")
	for _, step := range []string{"100-0", "90-10", "70-30", "50-50", "0-100"} {
		in := fixture(t, "article-"+step+".yaml")
		out, patch, err := PlanYAML(in, noRule, 0, all)
		if err != nil || string(out) != string(want) {
			t.Errorf("%s: %v\n%s", step, err, out)
		}
		if (string(patch) == "[]\n") != (step == "100-0") {
			t.Errorf("%s: patch %s", step, patch)
		}
	}
	out, _, err := PlanYAML(want, noRule, 30, all)
	if forward := fixture(t, "article-70-30.yaml"); err != nil || string(out) != string(forward) {
		t.Errorf("forward to 30: %v\n%s", err, out)
	}
}

// patched applies operations as the API server would.
func patched(t testing.TB, vs map[string]any, ops []Op) map[string]any {
	t.Helper()
	if ops == nil {
		ops = []Op{}
	}
	before, err := json.Marshal(vs)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(ops)
	if err != nil {
		t.Fatal(err)
	}
	patch, err := jsonpatch.DecodePatch(text)
	if err != nil {
		t.Fatal(err)
	}
	after, err := patch.Apply(before)
	if err != nil {
		t.Fatalf("apply %s: %v", text, err)
	}
	var out map[string]any
	if err := json.Unmarshal(after, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// recorded are changes as they come back from a record.
func recorded(t testing.TB, changes []Change) (kept []Change) {
	t.Helper()
	text, err := json.Marshal(changes)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &kept); err != nil {
		t.Fatal(err)
	}
	return kept
}

func mustRewrite(t testing.TB, vs map[string]any, p Pair, weight int, o Options, changes []Change) Rewritten {
	t.Helper()
	r, err := Rewrite(vs, p, weight, o, changes)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestInspectTellsWhatTheCanaryGets(t *testing.T) {
	const v1, v2 = "{destination: {host: orders-service, subset: v1}, weight: %d}", "{destination: {host: orders-service, subset: v2}, weight: %d}"
	split := func(a, b int) string { return fmt.Sprintf("\n  - route: ["+v1+", "+v2+"]", a, b) }
	tester := "\n  - {match: [{headers: {x: {exact: y}}}], route: [{destination: {host: orders-service, subset: v2}}]}"
	mirror := "\n  - {route: [{destination: {host: orders-service, subset: v1}}], mirror: {host: orders-service, subset: v2}}"
	matched := func(match string) string {
		return "\n  - {match: [" + match + "], route: [" + fmt.Sprintf(v2, 100) + "]}"
	}
	bare := "\n  - {route: [{destination: {host: orders-service.microservices.svc.cluster.local}}]}"
	half := func(subset string) string {
		return "\n  - route: [{destination: {host: orders-service, subset: " + subset + "}, weight: 70}, {destination: {host: orders-service}, weight: 30}]"
	}
	stableToo := "\n  - route: [" + fmt.Sprintf(v1, 100) + "]"
	for _, c := range []struct {
		name string
		http string
		o    Options
		want Traffic
	}{
		{"nothing at 100/0", split(100, 0), all, Traffic{Counted: 1, Split: 1}},
		{"the share at 90/10", split(90, 10), all, Traffic{Weight: 10, Lowest: 10, Counted: 1, Split: 1}},
		{"everything at 0/100", split(0, 100), all, Traffic{Weight: 100, Lowest: 100, Counted: 1, Split: 1}},
		{"the highest and the lowest of several routes", split(90, 10) + split(0, 100), all, Traffic{Weight: 100, Lowest: 10, Counted: 2, Split: 2}},
		{"one in a thousand is at least 1", split(999, 1), all, Traffic{Weight: 1, Lowest: 1, Counted: 1, Split: 1}},
		{"all but one in a thousand is at most 99", split(1, 999), all, Traffic{Weight: 99, Lowest: 99, Counted: 1, Split: 1}},
		{"a route without weights says nothing", split(0, 0) + split(50, 50), all, Traffic{Weight: 50, Lowest: 50, Counted: 1, Split: 2}},
		{"a single destination has everything, whatever its weight", "\n  - route: [" + fmt.Sprintf(v2, 3) + "]", all, Traffic{Weight: 100, Lowest: 100, Counted: 1, CanaryOnly: 1}},
		{"a tester's route is no weight", tester + split(100, 0), all, Traffic{Counted: 1, Split: 1, CanaryOnly: 1}},
		{"a tester's route that the guard leaves alone", tester + split(100, 0), Options{}, Traffic{Counted: 1, Split: 1}},
		{"a match of the path / takes everybody", "\n  - {match: [{uri: {prefix: /}}, {method: {exact: GET}}], route: [{destination: {host: orders-service, subset: v2}}]}", Options{}, Traffic{Weight: 100, Lowest: 100, Counted: 1, CanaryOnly: 1}},
		{"a match of some paths takes everybody", matched("{uri: {prefix: /orders}}"), Options{}, Traffic{Weight: 100, Lowest: 100, Counted: 1, CanaryOnly: 1}},
		{"so does one of an authority, a method and a scheme", matched("{authority: {exact: a}, method: {exact: GET}, scheme: {exact: https}}"), Options{}, Traffic{Weight: 100, Lowest: 100, Counted: 1, CanaryOnly: 1}},
		{"one of all that lack a header takes nearly everybody", matched("{withoutHeaders: {x: {}}}"), Options{}, Traffic{Weight: 100, Lowest: 100, Counted: 1, CanaryOnly: 1}},
		{"one that says nothing takes everybody", matched("{headers: {}, queryParams: null, sourceNamespace: ''}"), Options{}, Traffic{Weight: 100, Lowest: 100, Counted: 1, CanaryOnly: 1}},
		{"a header or a path takes everybody", matched("{headers: {x: {}}}, {uri: {prefix: /a}}"), Options{}, Traffic{Weight: 100, Lowest: 100, Counted: 1, CanaryOnly: 1}},
		{"a header and a path are testers'", matched("{headers: {x: {}}, uri: {prefix: /a}}"), all, Traffic{CanaryOnly: 1}},
		{"a query parameter, a caller's labels or its namespace are testers'", matched("{queryParams: {v: {}}}, {sourceLabels: {a: b}}, {sourceNamespace: t}"), all, Traffic{CanaryOnly: 1}},
		{"some paths to the canary and others to stable", matched("{uri: {prefix: /a}}") + stableToo, all, Traffic{Weight: 100, Lowest: 100, Counted: 1, CanaryOnly: 1, StableOnly: 1}},
		{"the host without a subset", bare, all, Traffic{Unsplit: 1}},
		{"the host without a subset beside stable", half("v1"), all, Traffic{StableOnly: 1, Unsplit: 1}},
		{"the host without a subset beside the canary", half("v2"), all, Traffic{Weight: 100, Lowest: 100, Counted: 1, CanaryOnly: 1, Unsplit: 1}},
		{"the host without a subset, with weight 0", strings.Replace(half("v1"), "weight: 30", "weight: 0", 1), all, Traffic{StableOnly: 1}},
		{"the host without a subset for testers whom the guard leaves alone", strings.Replace(bare, "{route", "{match: [{headers: {x: {}}}], route", 1), Options{}, Traffic{}},
		{"a mirror to the host without a subset", stableToo + "\n    mirror: {host: orders-service}", all, Traffic{StableOnly: 1, Mirrors: 1}},
		{"a mirror", mirror, all, Traffic{StableOnly: 1, Mirrors: 1}},
		{"a mirror that the guard leaves alone", mirror, Options{}, Traffic{StableOnly: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Inspect(vstest.Of(t, c.http), bySubset, c.o)
			if err != nil || got != c.want {
				t.Errorf("got %+v, %v, want %+v", got, err, c.want)
			}
			if clean := c.want == (Traffic{Counted: c.want.Counted, Split: c.want.Split, StableOnly: c.want.StableOnly}); got.Clean() != clean {
				t.Errorf("Clean() = %v", !clean)
			}
		})
	}
}

func TestMalformedVirtualServicesAreRefusedByPathAndValue(t *testing.T) {
	for _, c := range []struct{ name, http, want string }{
		{"a weight in quotes", ` [{route: [{destination: {host: a, subset: v1}, weight: "50"}]}]`, `spec.http[0].route[0].weight: "50" is a string, want a whole number from 0 to 2147483647`},
		{"a negative weight", ` [{route: [{destination: {host: a, subset: v1}, weight: -1}]}]`, `spec.http[0].route[0].weight: -1 is a number, want a whole number from 0 to 2147483647`},
		{"a weight with a fraction", ` [{route: [{destination: {host: a, subset: v1}, weight: 0.5}]}]`, `spec.http[0].route[0].weight: 0.5 is a number, want a whole number from 0 to 2147483647`},
		{"a weight past 32 bits", ` [{route: [{destination: {host: a, subset: v1}, weight: 2147483648}]}]`, `spec.http[0].route[0].weight: 2.147483648e+09 is a number, want a whole number from 0 to 2147483647`},
		{"http that is no list", ` {route: []}`, `spec.http: an object, want a list`},
		{"a route that is no list", ` [{route: v2}]`, `spec.http[0].route: "v2" is a string, want a list`},
		{"a null among the routes", ` [null]`, `spec.http[0]: null, want an object`},
		{"an entry that is a number", ` [{route: [7]}]`, `spec.http[0].route[0]: 7 is a number, want an object`},
		{"an entry without a destination", ` [{route: [{weight: 100}]}]`, `spec.http[0].route[0].destination: absent, want an object with a host`},
		{"a host that is a list", ` [{route: [{destination: {host: [a]}}]}]`, `spec.http[0].route[0].destination.host: a list, want a string`},
		{"a subset that YAML reads as a number", ` [{route: [{destination: {host: a, subset: 1.0}}]}]`, `spec.http[0].route[0].destination.subset: 1 is a number, want a string`},
		{"a mirror that is a list", ` [{mirror: []}]`, `spec.http[0].mirror: a list, want an object`},
		{"a mirror's percentage in quotes", ` [{mirror: {host: a}, mirrorPercentage: {value: "1"}}]`, `spec.http[0].mirrorPercentage.value: "1" is a string, want a number from 0 to 100`},
		{"mirrors without a destination", ` [{mirrors: [{}]}]`, `spec.http[0].mirrors[0].destination: absent, want an object with a host`},
		{"a match that is no list", ` [{match: {}}]`, `spec.http[0].match: an object, want a list`},
		{"a delegate that is a string", ` [{delegate: x}]`, `spec.http[0].delegate: "x" is a string, want an object`},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := "read VirtualService microservices/orders: " + c.want
			for _, weight := range []int{0, 50, KeepWeights} {
				if _, err := Rewrite(vstest.Of(t, c.http), bySubset, weight, all, nil); err == nil || err.Error() != want {
					t.Errorf("weight %d: got %v\nwant %s", weight, err, want)
				}
			}
		})
	}
	for _, vs := range []map[string]any{nil, {"kind": "Service"}, {"apiVersion": "networking.istio.io/v9"}, {"metadata": 1}, {"spec": []any{}}} {
		if _, err := Rewrite(vs, bySubset, 0, all, nil); err == nil {
			t.Errorf("%v: no error", vs)
		}
	}
}

func TestRewriteRefusesWeightsAndPairsThatMakeNoSense(t *testing.T) {
	vs := vstest.Of(t, " [{route: [{destination: {host: a, subset: v1}}]}]")
	for _, weight := range []int{-2, 101} {
		if _, err := Rewrite(vs, bySubset, weight, all, nil); err == nil {
			t.Errorf("weight %d: no error", weight)
		}
	}
	for _, p := range []Pair{
		{}, {Stable: Ref{Subset: "v1"}}, {Stable: Ref{Subset: "v1"}, Canary: Ref{Subset: "v1"}},
		{Stable: Ref{Subset: "v1", Host: "a"}, Canary: Ref{Subset: "v2"}},
		{Stable: Ref{Host: "a"}, Canary: Ref{Host: "a.microservices.svc.cluster.local"}},
		{Stable: Ref{Subset: "v1"}, Canary: Ref{Host: "a"}, Host: "a"},
	} {
		if _, err := Rewrite(vs, p, 0, all, nil); err == nil {
			t.Errorf("pair %+v: no error", p)
		}
	}
}

func TestWhereNothingSafeCanBeWrittenTheReasonIsAnUnsafeError(t *testing.T) {
	for _, c := range []struct {
		name, http string
		weight     int
		want       string
	}{
		{"the pair is nowhere", ` [{route: [{destination: {host: payments}}]}]`, 0, "VirtualService microservices/orders: no route names v1 or v2 of host orders-service.microservices.svc.cluster.local"},
		{"too coarse for the step", ` [{route: [{destination: {host: orders-service, subset: v1}, weight: 1}, {destination: {host: orders-service, subset: v2}}]}]`, 10, "VirtualService microservices/orders: spec.http[0]: weights of 1 in all are too coarse for 10%: let them add up to 100"},
		{"nothing to share", ` [{route: [{destination: {host: x}, weight: 1}, {destination: {host: orders-service, subset: v1}}, {destination: {host: orders-service, subset: v2}}]}]`, 10, "VirtualService microservices/orders: v1 and v2 have weight 0 in every route that names both: nothing to share"},
		{"more than a weight can be", ` [{route: [{destination: {host: orders-service, subset: v1}, weight: 2147483647}, {destination: {host: orders-service, subset: v2}, weight: 1}]}]`, 0, "VirtualService microservices/orders: spec.http[0].route[0].weight: would have to be 2147483648, more than a weight can be (2147483647)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Rewrite(vstest.Of(t, c.http), bySubset, c.weight, all, nil)
			var unsafe *UnsafeError
			if !errors.As(err, &unsafe) || err.Error() != c.want {
				t.Errorf("got %v\nwant %s", err, c.want)
			}
		})
	}
}

const testersAndMirror = `
  - name: testers
    match: [{headers: {x: {exact: y}}}]
    route: [{destination: {host: orders-service, subset: v2}}]
  - route: [{destination: {host: orders-service, subset: v1}, weight: 70}, {destination: {host: orders-service, subset: v2}, weight: 30}]
    mirrors: [{destination: {host: audit}}, {destination: {host: orders-service, subset: v2}, percentage: {value: 5}}]`

func TestRollbackAndBackRestoresWhatGuardianChanged(t *testing.T) {
	before := vstest.Of(t, testersAndMirror)
	down := mustRewrite(t, before, bySubset, 0, all, nil)
	if len(down.Changes) != 2 || !down.After.Clean() || down.Before != (Traffic{Weight: 30, Lowest: 30, Counted: 1, Split: 1, CanaryOnly: 1, Mirrors: 1}) {
		t.Fatalf("rollback: %+v", down)
	}
	for _, c := range down.Changes {
		if c.VirtualService != "orders" || c.Route == "" {
			t.Errorf("change %+v", c)
		}
	}
	rolledBack := patched(t, before, down.Ops)

	up := mustRewrite(t, rolledBack, bySubset, 30, all, down.Changes)
	if got := patched(t, rolledBack, up.Ops); !reflect.DeepEqual(got, before) || len(up.Changes) != 0 {
		t.Errorf("forward to 30: %+v\n%v", up, got)
	}

	unlocked := mustRewrite(t, rolledBack, bySubset, KeepWeights, all, down.Changes)
	if unlocked.After != (Traffic{Counted: 1, Split: 1, CanaryOnly: 1, Mirrors: 1}) || len(unlocked.Changes) != 0 {
		t.Errorf("unlock: %+v", unlocked)
	}

	// Through the record, as it comes back from the API server.
	kept := recorded(t, down.Changes)
	if again := mustRewrite(t, rolledBack, bySubset, KeepWeights, all, kept); !reflect.DeepEqual(again.Ops, unlocked.Ops) {
		t.Errorf("changes from a record: %+v", again.Ops)
	}
}

func TestChangesThatSomebodyElseHasTouchedAreDropped(t *testing.T) {
	before := vstest.Of(t, testersAndMirror)
	down := mustRewrite(t, before, bySubset, 0, all, nil)
	for _, c := range []struct {
		name, http string
		ops        int
	}{
		{"as guardian left it, both are restored", testersAndMirror, 2},
		{"another route in its place is left alone", `
  - route: [{destination: {host: orders-service, subset: v1}, weight: 100}, {destination: {host: orders-service, subset: v2}, weight: 0}]`, 0},
		{"another match in its place is left alone", `
  - name: testers
    match: [{headers: {x: {exact: z}}}]
    route: [{destination: {host: orders-service, subset: v1}}]`, 0},
		{"the same route led elsewhere is left alone", `
  - name: testers
    match: [{headers: {x: {exact: y}}}]
    route: [{destination: {host: orders-service, subset: v3}}]`, 0},
		{"the same route with a timeout is restored", `
  - name: testers
    timeout: 1s
    match: [{headers: {x: {exact: y}}}]
    route: [{destination: {host: orders-service, subset: v1}}]`, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			vs := vstest.Of(t, c.http)
			if c.ops == 2 {
				vs = patched(t, vs, down.Ops)
			}
			up := mustRewrite(t, vs, bySubset, KeepWeights, all, down.Changes)
			if len(up.Ops) != c.ops || len(up.Changes) != 0 {
				t.Errorf("%+v", up)
			}
		})
	}
	t.Run("of another VirtualService nothing is restored", func(t *testing.T) {
		vs := patched(t, before, down.Ops)
		vs["metadata"].(map[string]any)["name"] = "other"
		if up := mustRewrite(t, vs, bySubset, KeepWeights, all, down.Changes); len(up.Ops) != 0 || len(up.Changes) != 0 {
			t.Errorf("%+v", up)
		}
	})
	t.Run("while locked, what CI has put back is changed again and remembered once", func(t *testing.T) {
		again := mustRewrite(t, before, bySubset, 0, all, down.Changes)
		if !reflect.DeepEqual(again, down) {
			t.Errorf("got %+v\nwant %+v", again, down)
		}
	})
}

func TestChangesFollowTheirRouteToAnotherPlace(t *testing.T) {
	const (
		inserted = "\n  - {match: [{uri: {exact: /new}}], redirect: {uri: /}}"
		testers  = "\n  - {match: [{headers: {x: {exact: y}}}], route: [{destination: {host: orders-service, subset: v2}}]}"
		mirrored = "\n  - {route: [{destination: {host: orders-service, subset: v1}}], mirrors: [{destination: {host: orders-service, subset: v2}}]}"
		stopped  = "\n  - {route: [{destination: {host: orders-service, subset: v1}}], mirrors: [{destination: {host: orders-service, subset: v2}, percentage: {value: 0}}]}"
	)
	led := strings.Replace(testers, "v2", "v1", 1)
	for _, c := range []struct{ name, before, moved, want string }{
		{"a route is put before them", testers + mirrored, inserted + led + stopped, inserted + testers + mirrored},
		{"a route before them is gone", inserted + testers + mirrored, led + stopped, testers + mirrored},
		{"they have changed places", testers + mirrored, stopped + led, mirrored + testers},
		{"two that are the same", testers + testers, inserted + led + led, inserted + testers + testers},
		{"two others that are the same: which one is not known", testers, inserted + led + led, inserted + led + led},
		{"the route is gone", testers + mirrored, inserted + stopped, inserted + mirrored},
	} {
		t.Run(c.name, func(t *testing.T) {
			down := mustRewrite(t, vstest.Of(t, c.before), bySubset, 0, all, nil)
			moved := vstest.Of(t, c.moved)
			locked := mustRewrite(t, moved, bySubset, 0, all, down.Changes)
			if len(locked.Ops) != 0 {
				t.Errorf("while locked: %+v", locked.Ops)
			}
			for _, changes := range [][]Change{down.Changes, locked.Changes} {
				up := mustRewrite(t, moved, bySubset, KeepWeights, all, changes)
				if got := patched(t, moved, up.Ops); !reflect.DeepEqual(got, vstest.Of(t, c.want)) || len(up.Changes) != 0 {
					t.Errorf("unlock: %+v", up)
				}
			}
		})
	}
}

func TestARouteOfEverybodyComesBackAt100Only(t *testing.T) {
	before := vstest.Of(t, ` [{route: [{destination: {host: orders-service, subset: v2}}]}]`)
	down := mustRewrite(t, before, bySubset, 0, Options{}, nil)
	rolledBack := patched(t, before, down.Ops)
	unlocked := mustRewrite(t, rolledBack, bySubset, KeepWeights, all, down.Changes)
	if len(unlocked.Ops) != 0 || !reflect.DeepEqual(unlocked.Changes, down.Changes) {
		t.Errorf("unlock: %+v", unlocked)
	}
	if _, err := Rewrite(rolledBack, bySubset, 50, all, down.Changes); err == nil {
		t.Error("half of a single destination: no error")
	}
	up := mustRewrite(t, rolledBack, bySubset, 100, all, down.Changes)
	if got := patched(t, rolledBack, up.Ops); !reflect.DeepEqual(got, before) || len(up.Changes) != 0 {
		t.Errorf("forward to 100: %+v", up)
	}
}

// A route of some paths is everybody's: whoever unlocks gives it back with no
// step in between.
func TestARouteOfSomePathsComesBackAt100Only(t *testing.T) {
	before := vstest.Of(t, ` [{match: [{uri: {prefix: /orders}}], route: [{destination: {host: orders-service, subset: v2}}]}]`)
	down := mustRewrite(t, before, bySubset, 0, Options{}, nil)
	if len(down.Ops) != 1 || !down.After.Clean() {
		t.Fatalf("rollback: %+v", down)
	}
	rolledBack := patched(t, before, down.Ops)
	if up := mustRewrite(t, rolledBack, bySubset, KeepWeights, all, down.Changes); len(up.Ops) != 0 || !reflect.DeepEqual(up.Changes, down.Changes) {
		t.Errorf("unlock: %+v", up)
	}
	up := mustRewrite(t, rolledBack, bySubset, 100, all, down.Changes)
	if got := patched(t, rolledBack, up.Ops); !reflect.DeepEqual(got, before) {
		t.Errorf("forward to 100: %+v", up)
	}
}

func TestTheHostWithoutASubsetIsLedToStableAndComesBackAt100(t *testing.T) {
	const routes = `
  - match: [{headers: {x: {exact: y}}}]
    route: [{destination: {host: orders-service}}]
  - match: [{uri: {prefix: /metrics}}]
    route: [{destination: {host: orders-service, port: {number: 9090}}}]
  - match: [{uri: {prefix: /beta}}]
    route: [{destination: {host: orders-service, subset: v2}, weight: 3}, {destination: {host: orders-service}, weight: 1}]
  - route: [{destination: {host: orders-service, subset: v1}, weight: 70}, {destination: {host: orders-service, subset: v2}, weight: 30}]
    mirror: {host: orders-service}`
	before := vstest.Of(t, routes)
	for _, p := range []Pair{bySubset, noRule, {Stable: Ref{Subset: "v1"}, Canary: Ref{Subset: "v2"}, Host: "*.microservices.svc.cluster.local", Namespace: "microservices"}} {
		down := mustRewrite(t, before, p, 0, all, nil)
		if down.Before.Unsplit != 3 || !down.After.Clean() || len(down.Changes) != 5 {
			t.Fatalf("%+v: rollback: %+v", p, down)
		}
		rolledBack := patched(t, before, down.Ops)
		if text := fmt.Sprint(rolledBack); strings.Count(text, "subset:v1") != 5 || strings.Count(text, "port:map[number:9090]") != 1 {
			t.Errorf("%+v: rolled back: %s", p, text)
		}
		again := mustRewrite(t, rolledBack, p, 0, all, down.Changes)
		if len(again.Ops) != 0 || !reflect.DeepEqual(again.Changes, down.Changes) {
			t.Errorf("%+v: again: %+v", p, again)
		}
		unlocked := mustRewrite(t, rolledBack, p, KeepWeights, all, down.Changes)
		if unlocked.After != (Traffic{Counted: 1, Split: 1, StableOnly: 2, Unsplit: 1, Mirrors: 1}) || len(unlocked.Changes) != 3 {
			t.Errorf("%+v: unlock: %+v", p, unlocked)
		}
		up := mustRewrite(t, patched(t, rolledBack, unlocked.Ops), p, 100, all, unlocked.Changes)
		want := vstest.Of(t, strings.NewReplacer("weight: 70", "weight: 0", "weight: 30", "weight: 100").Replace(routes))
		got := patched(t, patched(t, rolledBack, unlocked.Ops), up.Ops)
		if up.After.Unsplit != 3 || len(up.Changes) != 0 {
			t.Errorf("%+v: forward to 100: %+v", p, up)
		}
		for _, path := range differences(want, got, "") {
			if !strings.HasPrefix(path, "/spec/http/3/mirrorPercentage") {
				t.Errorf("%+v: %s differs", p, path)
			}
		}
	}
}

func TestTheHostWithoutASubsetIsLedToAStableHost(t *testing.T) {
	p := Pair{Stable: Ref{Host: "orders-v1"}, Canary: Ref{Subset: "v2"}, Host: "orders-service", Namespace: "microservices"}
	before := vstest.Of(t, ` [{route: [{destination: {host: orders-service}}]}]`)
	down := mustRewrite(t, before, p, 0, all, nil)
	if want := []Op{{"add", "/spec/http/0/route/0/destination/host", "orders-v1"}}; !reflect.DeepEqual(down.Ops, want) {
		t.Errorf("rollback: %+v", down.Ops)
	}
	p.Stable, p.Canary = Ref{Subset: "v1"}, Ref{Host: "orders-v2"}
	if r, err := Rewrite(before, p, 0, all, nil); err == nil {
		t.Errorf("where the canary is another host, it is a stranger's: %+v", r)
	}
}

func TestACanaryIsFullWhenNoRouteLeadsEverybodyToStableAlone(t *testing.T) {
	for _, c := range []struct {
		name string
		t    Traffic
		full bool
	}{
		{"all of a split", Traffic{Weight: 100, Lowest: 100, Split: 1}, true},
		{"all of a split, and a page that always is stable's", Traffic{Weight: 100, Lowest: 100, Split: 1, StableOnly: 1}, true},
		{"a canary alone", Traffic{Weight: 100, Lowest: 100, CanaryOnly: 1}, true},
		{"some paths to the canary and others to stable", Traffic{Weight: 100, Lowest: 100, CanaryOnly: 1, StableOnly: 1}, false},
		{"all of one split and half of another", Traffic{Weight: 100, Lowest: 50, Split: 2}, false},
	} {
		if got := c.t.Full(); got != c.full {
			t.Errorf("%s: full() = %v", c.name, got)
		}
	}
}

func TestAPatchKeepsZeroAndFalse(t *testing.T) {
	b, err := json.Marshal([]Op{{"add", "/a", int64(0)}, {"add", "/b", false}, {"remove", "/c", nil}})
	if want := `[{"op":"add","path":"/a","value":0},{"op":"add","path":"/b","value":false},{"op":"remove","path":"/c"}]`; err != nil || string(b) != want {
		t.Errorf("got %s, %v", b, err)
	}
}

func TestNumbersOfEveryDecoderAreRead(t *testing.T) {
	for _, hundred := range []any{100, int32(100), int64(100), uint64(100), 100.0, json.Number("100"), json.Number("1e2")} {
		vs := vstest.Of(t, ` [{route: [{destination: {host: orders-service, subset: v1}}, {destination: {host: orders-service, subset: v2}, weight: 1}]}]`)
		vs["spec"].(map[string]any)["http"].([]any)[0].(map[string]any)["route"].([]any)[1].(map[string]any)["weight"] = hundred
		r, err := Rewrite(vs, bySubset, 0, all, nil)
		if want := []Op{{"add", "/spec/http/0/route/1/weight", int64(0)}, {"add", "/spec/http/0/route/0/weight", int64(100)}}; err != nil || !reflect.DeepEqual(r.Ops, want) {
			t.Errorf("%T: %v, %v", hundred, r.Ops, err)
		}
	}
}

func TestPlanYAMLRefusesTextsThatItCannotRead(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"nothing", "", "read YAML: no VirtualService in it"},
		{"another kind", "kind: Service\n", "read YAML: no VirtualService in it"},
		{"a broken list", "a: [1\n", "read YAML: yaml: line 1: did not find expected ',' or ']'"},
		{"a key twice", "kind: VirtualService\nkind: VirtualService\n", "mapping key \"kind\" already defined at line 1"},
		{"UTF-16", "\xff\xfek\x00", "read YAML: not UTF-8"},
		{"an unknown version", "kind: VirtualService\napiVersion: networking.istio.io/v9\n", "want networking.istio.io/v1, v1beta1 or v1alpha3"},
		{"a malformed one beside a good one", string(fixture(t, "article-90-10.yaml")) + "---\nkind: VirtualService\nmetadata: {name: x}\nspec: {http: 3}\n", "read VirtualService default/x: spec.http: 3 is a number, want a list"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if out, _, err := PlanYAML([]byte(c.in), noRule, 0, all); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %q, %v\nwant %s", out, err, c.want)
			}
		})
	}
}

func TestPlanYAMLPassesOverWhatHasNoWeightToSet(t *testing.T) {
	const mesh = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: mesh, namespace: microservices}\nspec: {http: "
	const stable, coarse = vstest.StableAlone + "}\n", "[{route: [{destination: {host: orders-service, subset: v1}, weight: 1}, {destination: {host: orders-service, subset: v2}, weight: 0}]}]}\n"
	gateway := string(fixture(t, "article-90-10.yaml"))
	for _, c := range []struct {
		name, in  string
		weight    int
		want, err string
	}{
		{"stable alone beside a split", gateway + mesh + stable, 30, string(fixture(t, "article-70-30.yaml")) + mesh + stable, ""},
		{"stable alone before a split", mesh + stable + "---\n" + gateway, 30, mesh + stable + "---\n" + string(fixture(t, "article-70-30.yaml")), ""},
		{"stable alone beside a split, to 0", gateway + mesh + stable, 0, string(fixture(t, "article-100-0.yaml")) + mesh + stable, ""},
		{"nothing but stable alone", mesh + stable + mesh + vstest.TestersAlone + "}\n", 30, "", "no route names both v1 and v2"},
		{"a split that cannot follow is no half success", gateway + mesh + coarse, 30, "", "too coarse for 30%"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, patch, err := PlanYAML([]byte(c.in), noRule, c.weight, all)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("got %v\n%s", err, out)
				}
				return
			}
			if err != nil || string(out) != c.want {
				t.Errorf("got %v\n%s", err, out)
			}
			if n := strings.Count(string(patch), "\n"); n != 1 && c.weight > 0 {
				t.Errorf("%d patches:\n%s", n, patch)
			}
		})
	}
}

func TestAByteOrderMarkStays(t *testing.T) {
	in := slices.Concat(byteOrderMark, fixture(t, "article-90-10.yaml"))
	out, _, err := PlanYAML(in, noRule, 0, all)
	if want := slices.Concat(byteOrderMark, fixture(t, "article-100-0.yaml")); err != nil || string(out) != string(want) {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestRollbackAndBackForPairsToldApartByHost(t *testing.T) {
	const routes = `
  - match: [{headers: {x: {exact: y}}}]
    route: [{destination: {host: HOST, SUBSET}}]
  - match: [{uri: {prefix: /orders}}]
    route: [{destination: {host: HOST, SUBSET, port: {number: 8080}}}]
  - route: [{destination: {host: STABLE}, weight: 70}, {destination: {host: HOST, SUBSET}, weight: 30}]
    mirror: {host: HOST, SUBSET}`
	for _, c := range []struct {
		name                 string
		p                    Pair
		host, subset, stable string // as the VirtualService writes them
		led                  string // where the testers' route is led
	}{
		{"two hosts", byHost, "orders-v2", "", "orders-v1", "map[host:orders-v1]"},
		{"two hosts, in full", byHost, "orders-v2.microservices.svc.cluster.local", "", "orders-v1.microservices.svc.cluster.local", "map[host:orders-v1.microservices.svc.cluster.local]"},
		{"two hosts with a subset that is nobody's", byHost, "orders-v2", "subset: blue", "orders-v1", "map[host:orders-v1]"},
		{"a stable subset and a canary's host", Pair{Stable: Ref{Subset: "v1"}, Canary: Ref{Host: "orders-v2"}, Host: "orders-service", Namespace: "microservices"},
			"orders-v2", "", "orders-service, subset: v1", "map[host:orders-service subset:v1]"},
		{"a stable's host and a canary subset", Pair{Stable: Ref{Host: "orders-v1"}, Canary: Ref{Subset: "v2"}, Host: "orders-service", Namespace: "microservices"},
			"orders-service", "subset: v2", "orders-v1", "map[host:orders-v1]"},
		{"another cluster domain", Pair{Stable: Ref{Host: "orders-v1"}, Canary: Ref{Host: "orders-v2"}, Namespace: "microservices", Domain: "corp.example"},
			"orders-v2.microservices.svc.corp.example", "", "orders-v1", "map[host:orders-v1]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := strings.NewReplacer("STABLE", c.stable, "HOST, SUBSET", strings.Trim(c.host+", "+c.subset, ", ")).Replace(routes)
			before := vstest.Of(t, text)
			down := mustRewrite(t, before, c.p, 0, all, nil)
			if down.Before != (Traffic{Weight: 100, Lowest: 30, Counted: 2, Split: 1, CanaryOnly: 2, Mirrors: 1}) || !down.After.Clean() {
				t.Fatalf("rollback: %+v", down)
			}
			rolledBack := patched(t, before, down.Ops)
			if led := fmt.Sprint(valueAt(rolledBack, strings.Split("spec/http/0/route/0/destination", "/"))); led != c.led {
				t.Errorf("testers are led to %s, want %s", led, c.led)
			}
			if again := mustRewrite(t, rolledBack, c.p, 0, all, down.Changes); len(again.Ops) != 0 || !reflect.DeepEqual(again.Changes, down.Changes) {
				t.Errorf("again: %+v", again)
			}
			unlocked := mustRewrite(t, rolledBack, c.p, KeepWeights, all, down.Changes)
			if unlocked.After != (Traffic{Counted: 1, Split: 1, CanaryOnly: 1, StableOnly: 1, Mirrors: 1}) {
				t.Errorf("unlock: %+v", unlocked)
			}
			free := patched(t, rolledBack, unlocked.Ops)
			up := mustRewrite(t, free, c.p, 100, all, unlocked.Changes)
			want := vstest.Of(t, strings.NewReplacer("weight: 70", "weight: 0", "weight: 30", "weight: 100").Replace(text))
			if got := patched(t, free, up.Ops); !reflect.DeepEqual(got, want) || len(up.Changes) != 0 {
				t.Errorf("forward to 100: %+v\ngot  %v\nwant %v", up, got, want)
			}
		})
	}
}

func TestHostsAreThoseOfTheClustersDomain(t *testing.T) {
	p := bySubset
	p.Domain = "corp.example"
	for host, ours := range map[string]bool{
		"orders-service": true, "orders-service.microservices.svc.corp.example": true,
		"orders-service.microservices.svc.cluster.local": false, "orders-service.microservices": false,
	} {
		vs := vstest.Of(t, " [{route: [{destination: {host: "+host+", subset: v2}}]}]")
		r, err := Rewrite(vs, p, 0, all, nil)
		if ours && (err != nil || !r.After.Clean() || len(r.Ops) == 0) || !ours && err == nil {
			t.Errorf("%s: %+v, %v", host, r, err)
		}
	}
}

// A delegate has no hosts and no gateways of its own, only routes.
func TestADelegateIsRewrittenLikeAnyOther(t *testing.T) {
	var vs map[string]any
	if err := yaml.Unmarshal([]byte("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: orders, namespace: microservices}\nspec: {http: "+vstest.SplitOf(70, 30)+"}"), &vs); err != nil {
		t.Fatal(err)
	}
	r := mustRewrite(t, vs, bySubset, 0, all, nil)
	if want := vstest.Of(t, " "+vstest.SplitOf(100, 0)); !reflect.DeepEqual(patched(t, vs, r.Ops), want) || !r.After.Clean() {
		t.Errorf("%+v", r)
	}
	root := vstest.Of(t, " [{delegate: {name: orders-routes}}]")
	if _, err := Inspect(root, bySubset, all); err == nil || !strings.Contains(err.Error(), "microservices/orders-routes") {
		t.Errorf("its root names what to guard: %v", err)
	}
}

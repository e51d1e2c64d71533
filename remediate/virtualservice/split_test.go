package virtualservice

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/canary-guardian/guardian/remediate/virtualservice/vstest"
	"pgregory.net/rapid"
)

func TestMarksOfRoutesThatSplitAreBounded(t *testing.T) {
	marks := func(n int) (out []string) {
		for i := range n {
			out = append(out, fmt.Sprintf("%016x", i))
		}
		return out
	}
	for _, c := range []struct {
		name             string
		known, seen, all []string
		want             []string
	}{
		{"one more", marks(1), marks(2), marks(2), marks(2)},
		{"one that is gone is kept while there is room", []string{"gone"}, marks(1), marks(1), append([]string{"gone"}, marks(1)...)},
		{"those that are gone make room", append([]string{"gone"}, marks(maxSplits-1)...), marks(maxSplits), marks(maxSplits), marks(maxSplits)},
		{"too many are all", nil, marks(maxSplits + 1), marks(maxSplits + 1), []string{anyRoute}},
		{"all stay all", []string{anyRoute}, nil, marks(maxSplits + 1), []string{anyRoute}},
		{"all stay all while there is none", []string{anyRoute}, nil, nil, []string{anyRoute}},
		{"all become those that are left", []string{anyRoute}, nil, marks(3), marks(3)},
	} {
		if got := RememberSplits(c.known, c.seen, c.all); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	all := Options{Split: anyRoute, MatchRoutes: true}
	if got, err := Inspect(vstest.Of(t, vstest.PairRoute(vstest.CookieV2, 0, 100)+vstest.PairRoute("", 0, 100)), bySubset, all); err != nil || got.Weight != 100 || got.Split != 2 {
		t.Errorf("at the top: %+v, %v", got, err)
	}
}

func TestAStepMovesWhatSplitsAndLeavesRoutesOfOneSideAlone(t *testing.T) {
	for _, c := range []struct {
		name   string
		before string
		weight int
		after  string
	}{
		{"a sticky cookie beside a split", vstest.PairRoute(vstest.CookieV2, 0, 100) + vstest.PairRoute("", 90, 10), 30, vstest.PairRoute(vstest.CookieV2, 0, 100) + vstest.PairRoute("", 70, 30)},
		{"a sticky cookie before the first step", vstest.PairRoute(vstest.CookieV2, 0, 100) + vstest.PairRoute("", 100, 0), 10, vstest.PairRoute(vstest.CookieV2, 0, 100) + vstest.PairRoute("", 90, 10)},
		{"a sticky cookie at the last step", vstest.PairRoute(vstest.CookieV2, 0, 100) + vstest.PairRoute("", 50, 50), 100, vstest.PairRoute(vstest.CookieV2, 0, 100) + vstest.PairRoute("", 0, 100)},
		{"cookies for both versions", vstest.PairRoute(vstest.CookieV2, 0, 100) + vstest.PairRoute(vstest.CookieV1, 100, 0) + vstest.PairRoute("", 100, 0), 10,
			vstest.PairRoute(vstest.CookieV2, 0, 100) + vstest.PairRoute(vstest.CookieV1, 100, 0) + vstest.PairRoute("", 90, 10)},
		{"cookies for both versions, the canary's without stable", vstest.OnlyRoute(vstest.CookieV2, "v2") + vstest.PairRoute(vstest.CookieV1, 100, 0) + vstest.PairRoute("", 100, 0), 10,
			vstest.OnlyRoute(vstest.CookieV2, "v2") + vstest.PairRoute(vstest.CookieV1, 100, 0) + vstest.PairRoute("", 90, 10)},
		{"cookies for both versions at the last step", vstest.PairRoute(vstest.CookieV2, 0, 100) + vstest.PairRoute(vstest.CookieV1, 100, 0) + vstest.PairRoute("", 50, 50), 100,
			vstest.PairRoute(vstest.CookieV2, 0, 100) + vstest.PairRoute(vstest.CookieV1, 100, 0) + vstest.PairRoute("", 0, 100)},
		{"a tenant that CI keeps on stable", vstest.PairRoute(vstest.Tenant, 100, 0) + vstest.PairRoute("", 90, 10), 30, vstest.PairRoute(vstest.Tenant, 100, 0) + vstest.PairRoute("", 70, 30)},
		{"a tenant that begins with everybody", vstest.PairRoute(vstest.Tenant, 100, 0) + vstest.PairRoute("", 100, 0), 10, vstest.PairRoute(vstest.Tenant, 90, 10) + vstest.PairRoute("", 90, 10)},
		{"a tenant that splits like everybody", vstest.PairRoute(vstest.Tenant, 90, 10) + vstest.PairRoute("", 90, 10), 30, vstest.PairRoute(vstest.Tenant, 70, 30) + vstest.PairRoute("", 70, 30)},
		{"a tenant alone that splits", vstest.PairRoute(vstest.Tenant, 90, 10) + vstest.OnlyRoute("", "v1"), 30, vstest.PairRoute(vstest.Tenant, 70, 30) + vstest.OnlyRoute("", "v1")},
		{"a tenant alone that begins", vstest.PairRoute(vstest.Tenant, 100, 0) + vstest.OnlyRoute("", "v1"), 10, vstest.PairRoute(vstest.Tenant, 90, 10) + vstest.OnlyRoute("", "v1")},
		{"one country after the other", vstest.PairRoute(vstest.Country, 0, 100) + vstest.PairRoute(vstest.Tenant, 100, 0) + vstest.OnlyRoute("", "v1"), 10,
			vstest.PairRoute(vstest.Country, 0, 100) + vstest.PairRoute(vstest.Tenant, 90, 10) + vstest.OnlyRoute("", "v1")},
		{"a path that has gone before is not taken back", vstest.PairRoute(vstest.SomePath, 0, 100) + vstest.PairRoute("", 90, 10), 30, vstest.PairRoute(vstest.SomePath, 0, 100) + vstest.PairRoute("", 70, 30)},
		{"a path that stands at 0 follows", vstest.PairRoute(vstest.SomePath, 100, 0) + vstest.PairRoute("", 90, 10), 30, vstest.PairRoute(vstest.SomePath, 70, 30) + vstest.PairRoute("", 70, 30)},
		{"everybody's route at its end goes back on request", vstest.PairRoute("", 0, 100), 50, vstest.PairRoute("", 50, 50)},
		{"callers that are all there are", vstest.PairRoute("{sourceNamespace: shop}", 0, 100), 50, vstest.PairRoute("{sourceNamespace: shop}", 50, 50)},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := vstest.Of(t, c.before)
			r := mustRewrite(t, before, bySubset, c.weight, all, nil)
			if got, want := patched(t, before, r.Ops), vstest.Of(t, c.after); !reflect.DeepEqual(got, want) {
				t.Errorf("got  %v\nwant %v", got["spec"], want["spec"])
			}
			if r.After.Lowest != c.weight {
				t.Errorf("comes to %+v, want %d", r.After, c.weight)
			}
			again := mustRewrite(t, patched(t, before, r.Ops), bySubset, c.weight, all, nil)
			if len(again.Ops) != 0 {
				t.Errorf("again: %+v", again.Ops)
			}
		})
	}
}

func TestWhereNothingButTestersIsOnTheCanaryNoStepMoves(t *testing.T) {
	for _, routes := range []string{
		vstest.PairRoute(vstest.CookieV2, 0, 100) + vstest.OnlyRoute("", "v1"),
		vstest.PairRoute(vstest.CookieV2, 0, 100) + vstest.PairRoute(vstest.CookieV1, 100, 0) + vstest.OnlyRoute("", "v1"),
	} {
		r, err := Rewrite(vstest.Of(t, routes), bySubset, 10, all, nil)
		if err == nil || !strings.Contains(err.Error(), "testers") {
			t.Errorf("%s: %+v, %v", routes, r.Ops, err)
		}
	}
}

func TestTheWeightThatIsShownIsTheSplits(t *testing.T) {
	for _, c := range []struct {
		name string
		http string
		want Traffic
		full bool
	}{
		{"a sticky cookie beside a split", vstest.PairRoute(vstest.CookieV2, 0, 100) + vstest.PairRoute("", 90, 10), Traffic{Weight: 10, Lowest: 10, Counted: 1, Split: 1, CanaryOnly: 1}, false},
		{"a sticky cookie beside a split at its start", vstest.PairRoute(vstest.CookieV2, 0, 100) + vstest.PairRoute("", 100, 0), Traffic{Counted: 1, Split: 1, CanaryOnly: 1}, false},
		{"a sticky cookie beside a split at its end", vstest.PairRoute(vstest.CookieV2, 0, 100) + vstest.PairRoute("", 0, 100), Traffic{Weight: 100, Lowest: 100, Counted: 1, Split: 1, CanaryOnly: 1}, true},
		{"a cookie for stable beside a split", vstest.PairRoute(vstest.CookieV1, 100, 0) + vstest.PairRoute("", 90, 10), Traffic{Weight: 10, Lowest: 10, Counted: 1, Split: 1}, false},
		{"a cookie for stable when the canary is promoted", vstest.PairRoute(vstest.CookieV1, 100, 0) + vstest.PairRoute("", 0, 100), Traffic{Weight: 100, Lowest: 100, Counted: 1, Split: 1}, true},
		{"testers' route alone, both named, the others on stable", vstest.PairRoute(vstest.CookieV2, 0, 100) + vstest.OnlyRoute("", "v1"), Traffic{CanaryOnly: 1, StableOnly: 1}, false},
		{"everybody's route at its end", vstest.PairRoute("", 0, 100), Traffic{Weight: 100, Lowest: 100, Counted: 1, Split: 1}, true},
		{"callers that are all there are, at their end", vstest.PairRoute("{sourceNamespace: shop}", 0, 100), Traffic{Weight: 100, Lowest: 100, Counted: 1, Split: 1}, true},
		{"two different splits", vstest.PairRoute(vstest.Tenant, 50, 50) + vstest.PairRoute("", 90, 10), Traffic{Weight: 50, Lowest: 10, Counted: 2, Split: 2}, false},
		{"a path of everybody's is no testers'", vstest.PairRoute(vstest.SomePath, 0, 100) + vstest.PairRoute("", 90, 10), Traffic{Weight: 100, Lowest: 10, Counted: 2, Split: 2}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Inspect(vstest.Of(t, c.http), bySubset, all)
			if err != nil || got != c.want || got.Full() != c.full {
				t.Errorf("got %+v (full: %v), %v\nwant %+v (full: %v)", got, got.Full(), err, c.want, c.full)
			}
		})
	}
}

// A route of testers that has been seen to split is of the split where it stands with
// everybody's, and testers' where that is on the other side.
func TestARouteThatHasSplitStandsWithEverybodysOrIsTesters(t *testing.T) {
	seen := Options{MatchRoutes: true, Mirrors: true, Split: anyRoute}
	for _, c := range []struct {
		name, http string
		want       Traffic
	}{
		{"on the canary, everybody's not yet", vstest.PairRoute(vstest.Tenant, 0, 100) + vstest.PairRoute("", 90, 10), Traffic{Weight: 10, Lowest: 10, Counted: 1, Split: 1, CanaryOnly: 1}},
		{"on the canary, everybody's at its start", vstest.PairRoute(vstest.Tenant, 0, 100) + vstest.PairRoute("", 100, 0), Traffic{Counted: 1, Split: 1, CanaryOnly: 1}},
		{"on the canary with everybody's", vstest.PairRoute(vstest.Tenant, 0, 100) + vstest.PairRoute("", 0, 100), Traffic{Weight: 100, Lowest: 100, Counted: 2, Split: 2}},
		{"on stable with everybody's", vstest.PairRoute(vstest.Tenant, 100, 0) + vstest.PairRoute("", 100, 0), Traffic{Counted: 2, Split: 2}},
		{"on stable, everybody's has begun", vstest.PairRoute(vstest.Tenant, 100, 0) + vstest.PairRoute("", 90, 10), Traffic{Weight: 10, Lowest: 10, Counted: 1, Split: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, err := Inspect(vstest.Of(t, c.http), bySubset, seen); err != nil || got != c.want {
				t.Errorf("got %+v, %v\nwant %+v", got, err, c.want)
			}
		})
	}
}

func TestARollbackTakesRoutesOfOneSideAndTheUnlockGivesThemBackWithTheirWeights(t *testing.T) {
	const absent = "\n  - {match: [" + vstest.CookieV2 + "], route: [{destination: {host: orders-service, subset: v1}}, {destination: {host: orders-service, subset: v2}, weight: 100}]}"
	third := strings.Replace(vstest.PairRoute(vstest.CookieV2, 0, 90), "route: [", "route: [{destination: {host: audit}, weight: 10}, ", 1)
	twice := "\n  - {match: [" + vstest.CookieV2 + "], route: [{destination: {host: orders-service, subset: v2}, weight: 60}, {destination: {host: orders-service, subset: v1}, weight: 0}, " +
		"{destination: {host: orders-service, subset: v2, port: {number: 8080}}, weight: 40}]}"
	for _, testers := range []string{vstest.PairRoute(vstest.CookieV2, 0, 100), absent, third, twice, vstest.PairRoute(vstest.CookieV2, 0, 7)} {
		before := vstest.Of(t, testers+vstest.PairRoute("", 90, 10))
		for _, o := range []Options{all, {}} { // a route that names stable is rolled back in any case
			down := mustRewrite(t, before, bySubset, 0, o, nil)
			if !down.After.Clean() || len(down.Changes) != 1 {
				t.Fatalf("%s: rollback: %+v", testers, down)
			}
			rolledBack := patched(t, before, down.Ops)
			kept := recorded(t, down.Changes)
			if again := mustRewrite(t, rolledBack, bySubset, 0, o, kept); len(again.Ops) != 0 || !reflect.DeepEqual(vstest.JSON(again.Changes), vstest.JSON(kept)) {
				t.Errorf("%s: again: %+v", testers, again)
			}
			up := mustRewrite(t, rolledBack, bySubset, KeepWeights, o, kept)
			if got, want := patched(t, rolledBack, up.Ops), vstest.Of(t, testers+vstest.PairRoute("", 100, 0)); !reflect.DeepEqual(got, want) || len(up.Changes) != 0 {
				t.Errorf("%s: unlock: %+v\ngot  %v\nwant %v", testers, up, got["spec"], want["spec"])
			}
			step := mustRewrite(t, rolledBack, bySubset, 10, o, kept)
			if got := patched(t, rolledBack, step.Ops); !reflect.DeepEqual(got, before) || len(step.Changes) != 0 {
				t.Errorf("%s: a step without an unlock before: %+v", testers, step)
			}
		}
	}
}

func TestASplitIsNotGivenBackAtAnUnlock(t *testing.T) {
	for _, routes := range []string{
		vstest.PairRoute("", 0, 100), vstest.PairRoute(vstest.SomePath, 0, 100) + vstest.PairRoute("", 90, 10), vstest.PairRoute(vstest.Tenant, 50, 50) + vstest.PairRoute("", 90, 10), vstest.PairRoute("{sourceNamespace: shop}", 0, 100),
	} {
		before := vstest.Of(t, routes)
		down := mustRewrite(t, before, bySubset, 0, all, nil)
		up := mustRewrite(t, patched(t, before, down.Ops), bySubset, KeepWeights, all, down.Changes)
		if !down.After.Clean() || len(down.Changes) != 0 || len(up.Ops) != 0 {
			t.Errorf("%s: rollback %+v, unlock %+v", routes, down, up)
		}
	}
	// One that has gone up with the rest looks like testers' at the end.
	before := vstest.Of(t, vstest.PairRoute(vstest.Tenant, 50, 50)+vstest.PairRoute("", 50, 50))
	v, err := Read(before, bySubset)
	if err != nil {
		t.Fatal(err)
	}
	known := all
	known.Split = strings.Join(v.Testers().Splitting, " ")
	top := mustRewrite(t, before, bySubset, 100, known, nil)
	full := patched(t, before, top.Ops)
	if want := vstest.Of(t, vstest.PairRoute(vstest.Tenant, 0, 100)+vstest.PairRoute("", 0, 100)); !reflect.DeepEqual(full, want) || !top.After.Full() {
		t.Fatalf("to 100: %+v", top)
	}
	down := mustRewrite(t, full, bySubset, 0, known, nil)
	if len(down.Changes) != 0 || !down.After.Clean() {
		t.Errorf("a tenant's route that has split: %+v", down)
	}
	if step := mustRewrite(t, full, bySubset, 100, known, nil); len(step.Ops) != 0 || step.After.Weight != 100 {
		t.Errorf("at 100 already: %+v", step)
	}
}

// What is remembered comes out of a ConfigMap, which somebody may have edited.
func TestRememberedWeightsThatFitNoLongerAreForgotten(t *testing.T) {
	before := vstest.Of(t, vstest.PairRoute(vstest.CookieV2, 0, 100)+vstest.PairRoute("", 90, 10))
	down := mustRewrite(t, before, bySubset, 0, all, nil)
	rolledBack := patched(t, before, down.Ops)
	if len(down.Changes) != 1 {
		t.Fatalf("%+v", down.Changes)
	}
	t.Run("CI has given the route other weights", func(t *testing.T) {
		for _, now := range []string{vstest.PairRoute(vstest.CookieV2, 60, 40), vstest.PairRoute(vstest.CookieV2, 90, 0), vstest.PairRoute(vstest.CookieV1, 100, 0)} {
			vs := vstest.Of(t, now+vstest.PairRoute("", 100, 0))
			if up := mustRewrite(t, vs, bySubset, KeepWeights, all, down.Changes); len(up.Ops) != 0 || len(up.Changes) != 0 {
				t.Errorf("%s: %+v", now, up)
			}
		}
	})
	t.Run("the same weights, written in another way", func(t *testing.T) {
		vs := vstest.Of(t, strings.Replace(vstest.PairRoute(vstest.CookieV2, 100, 0), ", weight: 0}", "}", 1)+vstest.PairRoute("", 100, 0))
		up := mustRewrite(t, vs, bySubset, KeepWeights, all, down.Changes)
		if got, want := patched(t, vs, up.Ops), vstest.Of(t, vstest.PairRoute(vstest.CookieV2, 0, 100)+vstest.PairRoute("", 100, 0)); !reflect.DeepEqual(got, want) {
			t.Errorf("%v", got["spec"])
		}
	})
	for _, was := range []string{``, `null`, `[]`, `[0]`, `[0,100,3]`, `[0,-1]`, `["0",100]`, `[0,0]`, `[0,1e99]`, `[null,null]`, `{"a":1}`, `7`, `[30,100]`} {
		c := down.Changes[0]
		c.Was = json.RawMessage(was)
		up, err := Rewrite(rolledBack, bySubset, KeepWeights, all, []Change{c})
		if err != nil || len(up.Ops) != 0 || len(up.Changes) != 0 {
			t.Errorf("was %s: %+v, %v", was, up, err)
		}
	}
	for _, wrote := range []string{``, `null`, `[]`, `["a"]`, `[100]`, `{}`, `[100,0,0]`} {
		c := down.Changes[0]
		c.Wrote = json.RawMessage(wrote)
		up, err := Rewrite(rolledBack, bySubset, KeepWeights, all, []Change{c})
		if err != nil || len(up.Ops) != 0 || len(up.Changes) != 0 {
			t.Errorf("wrote %s: %+v, %v", wrote, up, err)
		}
	}
}

// drawTesters draws routes with matches of testers, in every split.
func drawRoutesOfOneSide(t *rapid.T) (routes []string) {
	for i := range rapid.IntRange(0, 4).Draw(t, "testers' routes") {
		match := rapid.SampledFrom([]string{vstest.CookieV1, vstest.CookieV2, vstest.Tenant, vstest.Country, vstest.SomePath, "{sourceNamespace: shop}"}).Draw(t, fmt.Sprint("match ", i))
		if rapid.IntRange(0, 3).Draw(t, fmt.Sprint("alone ", i)) == 0 {
			routes = append(routes, vstest.OnlyRoute(match, rapid.SampledFrom([]string{"v1", "v2"}).Draw(t, fmt.Sprint("subset ", i))))
			continue
		}
		share := rapid.SampledFrom([]int{0, 0, 10, 50, 100, 100}).Draw(t, fmt.Sprint("share ", i))
		routes = append(routes, vstest.PairRoute(match, 100-share, share))
	}
	switch share := rapid.SampledFrom([]int{-2, -1, 0, 0, 10, 50, 100}).Draw(t, "share of everybody"); share {
	case -2:
	case -1:
		routes = append(routes, vstest.OnlyRoute("", "v1"))
	default:
		routes = append(routes, vstest.PairRoute("", 100-share, share))
	}
	return routes
}

func TestPropertyARouteOfTestersOnOneSideIsAfterTheUnlockAsItWas(t *testing.T) {
	parsed := func(http string) map[string]any { return vstest.Of(t, http) }
	rapid.Check(t, func(t *rapid.T) {
		routes := drawRoutesOfOneSide(t)
		if len(routes) == 0 {
			return
		}
		before := parsed(strings.Join(routes, ""))
		down := mustRewriteRapid(t, before, 0, nil)
		rolledBack := afterOps(before, down.Ops)
		if !down.After.Clean() {
			t.Fatalf("rolled back: %+v", down.After)
		}
		up := mustRewriteRapid(t, rolledBack, KeepWeights, down.Changes)
		after := afterOps(rolledBack, up.Ops)
		if up.After.Weight != 0 {
			t.Fatalf("unlocked: %+v", up.After)
		}
		v, err := Read(before, bySubset)
		if err != nil {
			t.Fatal(err)
		}
		parts := v.parts(all)
		for path, route := range routesOf(before) {
			got, was := routesOf(after)[path], route
			i := pathIndex(t, path)
			shared, _ := served(was)
			if v.routes[i].selective && (parts[i] == aside || len(v.routes[i].of(stable)) == 0) || shared["canary"] == 0 {
				if !reflect.DeepEqual(got, was) {
					t.Fatalf("%s: a route of one side is %v, was %v", path, got, was)
				}
			}
		}
		// And a step from there leaves them as they are.
		step, err := Rewrite(after, bySubset, 30, all, up.Changes)
		if err != nil {
			return
		}
		for path, route := range routesOf(afterOps(after, step.Ops)) {
			if i := pathIndex(t, path); parts[i] == aside && v.routes[i].leads(canary) && !reflect.DeepEqual(route, routesOf(before)[path]) {
				t.Fatalf("%s: a step made %v of %v", path, route, routesOf(before)[path])
			}
		}
	})
}

func pathIndex(t *rapid.T, path string) int {
	var i int
	if _, err := fmt.Sscanf(path, "/spec/http/%d", &i); err != nil {
		t.Fatal(err)
	}
	return i
}

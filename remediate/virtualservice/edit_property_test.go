package virtualservice

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"os"

	"github.com/canary-guardian/guardian/remediate/virtualservice/vstest"
	"pgregory.net/rapid"
)

// routesOf lists the routes of every kind by their path.
func routesOf(vs map[string]any) map[string]map[string]any {
	out := map[string]map[string]any{}
	spec, _ := vs["spec"].(map[string]any)
	for _, kind := range []string{"http", "tls", "tcp"} {
		routes, _ := spec[kind].([]any)
		for i, r := range routes {
			out[fmt.Sprintf("/spec/%s/%d", kind, i)], _ = r.(map[string]any)
		}
	}
	return out
}

// served is a route's weight by role, as Envoy would see it.
func served(route map[string]any) (byRole map[string]float64, total float64) {
	byRole = map[string]float64{}
	entries, _ := route["route"].([]any)
	for _, e := range entries {
		entry, _ := e.(map[string]any)
		weight, _ := entry["weight"].(float64)
		if len(entries) == 1 {
			weight = 100
		}
		byRole[vstest.RoleOf(entry["destination"])] += weight
		total += weight
	}
	return byRole, total
}

// differences lists the JSON pointers at which two documents differ.
func differences(a, b any, at string) []string {
	if reflect.DeepEqual(a, b) {
		return nil
	}
	am, aok := a.(map[string]any)
	bm, bok := b.(map[string]any)
	if aok && bok {
		var out []string
		for k := range am {
			out = append(out, differences(am[k], bm[k], at+"/"+k)...)
		}
		for k := range bm {
			if _, ok := am[k]; !ok {
				out = append(out, at+"/"+k)
			}
		}
		return out
	}
	al, aok := a.([]any)
	bl, bok := b.([]any)
	if aok && bok && len(al) == len(bl) {
		var out []string
		for i := range al {
			out = append(out, differences(al[i], bl[i], at+"/"+strconv.Itoa(i))...)
		}
		return out
	}
	return []string{at}
}

var allowed = regexp.MustCompile(`^(/spec/(?:http|tls|tcp)/\d+)(?:(/route/\d+)/(weight|destination/subset|destination/host)|/mirrorPercentage(?:/value)?|(/mirrors/\d+)/percentage(?:/value)?)$`)

// checkDifferences fails when a field has changed that is not the pair's.
func checkDifferences(t *rapid.T, before, after map[string]any) {
	for _, path := range differences(before, after, "") {
		m := allowed.FindStringSubmatch(path)
		if m == nil {
			t.Fatalf("%s changed", path)
		}
		route := strings.Split(strings.TrimPrefix(m[1], "/"), "/")
		owner, _ := valueAt(before, route).(map[string]any)
		var role string
		switch {
		case m[2] != "":
			role = vstest.RoleOf(valueAt(owner, []string{"route", strings.TrimPrefix(m[2], "/route/"), "destination"}))
		case m[4] != "":
			role = vstest.RoleOf(valueAt(owner, []string{"mirrors", strings.TrimPrefix(m[4], "/mirrors/"), "destination"}))
		default:
			role = vstest.RoleOf(owner["mirror"])
		}
		if role == "" || role == "stable" && m[3] != "weight" {
			t.Fatalf("%s changed, which is of %q", path, role)
		}
	}
}

// afterOps applies operations by the plainest means.
func afterOps(vs map[string]any, ops []Op) map[string]any {
	out, _ := deepCopy(vs).(map[string]any)
	for _, op := range ops {
		path := strings.Split(strings.TrimPrefix(op.Path, "/"), "/")
		parent := valueAt(out, path[:len(path)-1]).(map[string]any)
		if op.Op == "remove" {
			delete(parent, path[len(path)-1])
		} else {
			parent[path[len(path)-1]] = vstest.JSON(op.Value)
		}
	}
	return out
}

func TestPropertyARollbackTakesAllFromTheCanaryAndNothingElse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		vs := vstest.Draw(t, vstest.Shape{Duplicates: true, Broken: rapid.Bool().Draw(t, "broken")})
		before, _ := deepCopy(vs).(map[string]any)
		r, err := Rewrite(vs, bySubset, 0, all, nil)
		var unsafe *UnsafeError
		if errors.As(err, &unsafe) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(vs, before) {
			t.Fatal("the input was changed")
		}
		after := afterOps(vs, r.Ops)
		checkDifferences(t, before, after)
		for path, route := range routesOf(after) {
			got, total := served(route)
			was, wasTotal := served(routesOf(before)[path])
			switch {
			case got["canary"] != 0:
				t.Fatalf("%s: canary has %v", path, got["canary"])
			case wasTotal > 0 && (total != wasTotal || got[""] != was[""]):
				t.Fatalf("%s: total %v was %v, others %v were %v", path, total, wasTotal, got[""], was[""])
			case was["canary"]+was["stable"]+was["unsplit"] > 0 && got["stable"] == 0:
				t.Fatalf("%s: stable has nothing", path)
			}
		}
		if !r.After.Clean() {
			t.Fatalf("after: %+v", r.After)
		}
		again, err := Rewrite(after, bySubset, 0, all, r.Changes)
		if err != nil || len(again.Ops) != 0 || !reflect.DeepEqual(again.Changes, r.Changes) {
			t.Fatalf("again: %+v, %v; changes were %+v", again, err, r.Changes)
		}
	})
}

func TestPropertyUnlockRestoresAllButWeightsAndRoutesOfEverybody(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before := vstest.Draw(t, vstest.Shape{Duplicates: true})
		down, err := Rewrite(before, bySubset, 0, all, nil)
		if err != nil {
			return
		}
		rolledBack := afterOps(before, down.Ops)
		up, err := Rewrite(rolledBack, bySubset, KeepWeights, all, down.Changes)
		if err != nil {
			t.Fatal(err)
		}
		after := afterOps(rolledBack, up.Ops)
		for _, path := range differences(before, after, "") {
			if strings.HasSuffix(path, "/weight") {
				continue
			}
			m := allowed.FindStringSubmatch(path)
			if m == nil || m[2] == "" {
				t.Fatalf("%s differs", path)
			}
			if match := fmt.Sprint(valueAt(before, strings.Split(m[1][1:]+"/match", "/"))); strings.Contains(match, "headers") {
				t.Fatalf("%s: a tester's route was not restored", path)
			}
		}
		if up.After.Weight != 0 {
			t.Fatalf("weight %d", up.After.Weight)
		}
		full, err := Rewrite(after, bySubset, 100, all, up.Changes)
		if err != nil {
			return // no route to set
		}
		for _, path := range differences(before, afterOps(after, full.Ops), "") {
			if !strings.HasSuffix(path, "/weight") {
				t.Fatalf("%s differs at 100", path)
			}
		}
	})
}

func TestPropertyForwardSharesEveryRouteAndBackAgainIsTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		vs := vstest.Draw(t, vstest.Shape{Duplicates: true})
		weight := rapid.IntRange(1, 100).Draw(t, "percent")
		r, err := Rewrite(vs, bySubset, weight, all, nil)
		if err != nil {
			return
		}
		after := afterOps(vs, r.Ops)
		checkDifferences(t, vs, after)
		for path, route := range routesOf(after) {
			got, total := served(route)
			was, wasTotal := served(routesOf(vs)[path])
			if total != wasTotal || got[""] != was[""] {
				t.Fatalf("%s: total %v was %v", path, total, wasTotal)
			}
			pair := got["canary"] + got["stable"]
			if pair != was["canary"]+was["stable"] {
				t.Fatalf("%s: the pair's total was not kept", path)
			}
			want := pair * float64(weight) / 100
			if staysAside(vs, path) && reflect.DeepEqual(got, was) {
				continue
			}
			if names := fmt.Sprint(route["route"]); pair > 0 && namesBoth(route) && (got["canary"] < want-0.5 || got["canary"] > want+1) {
				t.Fatalf("%s: canary has %v of %v at %d%%: %s", path, got["canary"], pair, weight, names)
			}
		}
		again, err := Rewrite(after, bySubset, weight, all, nil)
		if err != nil || len(again.Ops) != 0 {
			t.Fatalf("again: %+v, %v", again.Ops, err)
		}
	})
}

// staysAside decides by hand whether a step may leave a route as it is: one of
// testers with all on one side, or one that is at its end before others.
func staysAside(vs map[string]any, path string) bool {
	of, _ := served(routesOf(vs)[path])
	if of["canary"] > 0 && of["stable"] > 0 {
		return false
	}
	if strings.Contains(fmt.Sprint(routesOf(vs)[path]["match"]), "headers") {
		return true
	}
	others := false
	for _, route := range routesOf(vs) {
		of, _ := served(route)
		others = others || namesBoth(route) && of["stable"] > 0
	}
	return others && of["stable"] == 0
}

func namesBoth(route map[string]any) bool {
	seen := map[string]bool{}
	entries, _ := route["route"].([]any)
	for _, e := range entries {
		seen[vstest.RoleOf(e.(map[string]any)["destination"])] = true
	}
	return seen["stable"] && seen["canary"]
}

func TestPropertyRollbackAndForwardToTheSameWeightIsTheOriginal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		weight := rapid.IntRange(1, 100).Draw(t, "percent")
		drawn := vstest.Draw(t, vstest.Shape{Total: 100})
		first, err := Rewrite(drawn, bySubset, weight, all, nil)
		if err != nil {
			return
		}
		before := afterOps(drawn, first.Ops)
		for path, route := range routesOf(before) {
			of, _ := served(route)
			testers := strings.Contains(fmt.Sprint(route["match"]), "headers")
			switch {
			case !namesBoth(route):
			case !testers && of["stable"] == 0 && weight < 100:
				t.Skip(path + " was at its end before, and goes with the others from now on")
			case testers && of["canary"] == 0:
				// It stays where it is while the split has begun. A rollback has that be at
				// its start, and nothing tells such a route from one that begins with it.
				t.Skip(path + " was testers' at stable, and begins with the others from now on")
			}
		}
		down := mustRewriteRapid(t, before, 0, nil)
		rolledBack := afterOps(before, down.Ops)
		v, err := Read(before, bySubset)
		if err != nil {
			t.Fatal(err)
		}
		known := all // as the record would: of testers' routes on one side, which have been there before
		known.Split = strings.Join(append(v.Testers().Splitting, first.Moved...), " ")
		up, err := Rewrite(rolledBack, bySubset, weight, known, down.Changes)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range differences(before, afterOps(rolledBack, up.Ops), "") {
			if m := allowed.FindStringSubmatch(path); weight == 100 || m == nil || m[3] == "" || m[3] == "weight" {
				t.Fatalf("%s differs", path)
			}
		}
	})
}

func mustRewriteRapid(t *rapid.T, vs map[string]any, weight int, changes []Change) Rewritten {
	r, err := Rewrite(vs, bySubset, weight, all, changes)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestPropertyPlanYAMLChangesNoLineButThoseOfThePair(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		vs := vstest.Draw(t, vstest.Shape{Duplicates: true})
		text, err := json.MarshalIndent(vs, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		r, err := Rewrite(vs, bySubset, 0, all, nil)
		out, _, planErr := PlanYAML(text, bySubset, 0, all)
		if fmt.Sprint(err) != fmt.Sprint(planErr) {
			t.Fatalf("Rewrite: %v, PlanYAML: %v", err, planErr)
		}
		if err != nil {
			return
		}
		var got any
		if err := json.Unmarshal(out, &got); err != nil {
			t.Fatalf("%v in\n%s", err, out)
		}
		if want := vstest.JSON(afterOps(vs, r.Ops)); !reflect.DeepEqual(got, want) {
			t.Fatalf("got\n%s\nwant %v", out, want)
		}
	})
}

func FuzzPlan(f *testing.F) {
	files, err := filepath.Glob(filepath.Join(fixtures, "*.*"))
	if err != nil || len(files) == 0 {
		f.Fatal("no fixtures")
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, 0)
		f.Add(b, 30)
	}
	f.Fuzz(func(t *testing.T, in []byte, weight int) {
		out, patch, err := PlanYAML(in, noRule, weight, all)
		if err != nil {
			return
		}
		if strings.Trim(string(patch), "[]\n") == "" && string(out) != string(in) {
			t.Fatalf("no patch, but the text changed:\n%s", out)
		}
		if weight < 0 {
			return
		}
		again, _, err := PlanYAML(out, noRule, weight, all)
		if err != nil || string(again) != string(out) {
			t.Fatalf("again: %v\n%q\n%q", err, out, again)
		}
	})
}

func FuzzRewrite(f *testing.F) {
	files, err := filepath.Glob(filepath.Join(fixtures, "*.yaml"))
	if err != nil || len(files) == 0 {
		f.Fatal("no fixtures")
	}
	for _, file := range files {
		s, err := readStream(fixture(f, filepath.Base(file)))
		if err != nil {
			f.Fatal(err)
		}
		for _, doc := range s.docs {
			b, err := json.Marshal(doc)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b, 0)
			f.Add(b, 10)
			f.Add(b, KeepWeights)
		}
	}
	f.Fuzz(func(t *testing.T, in []byte, weight int) {
		var vs map[string]any
		if json.Unmarshal(in, &vs) != nil {
			return
		}
		r, err := Rewrite(vs, noRule, weight, all, nil)
		if err != nil {
			return
		}
		after := patched(t, vs, r.Ops)
		again, err := Rewrite(after, noRule, weight, all, r.Changes)
		if err != nil || len(again.Ops) != 0 {
			t.Fatalf("again: %+v, %v", again.Ops, err)
		}
		if weight == 0 && !again.Before.Clean() {
			t.Fatalf("%+v", again.Before)
		}
		for path, route := range routesOf(after) {
			if _, total := served(route); total == 0 {
				if _, was := served(routesOf(vs)[path]); was > 0 {
					t.Fatalf("%s: all weights are 0", path)
				}
			}
		}
	})
}

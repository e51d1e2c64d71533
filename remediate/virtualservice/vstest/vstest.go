// Package vstest makes VirtualServices for tests. It knows nothing of how guardian
// reads or rewrites them, and no program imports it.
package vstest

import (
	"encoding/json"
	"fmt"
	"testing"

	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"
)

// Of is a VirtualService with these routes of kind http, in YAML.
func Of(t testing.TB, http string) map[string]any {
	t.Helper()
	var vs map[string]any
	text := "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: orders, namespace: microservices}\nspec:\n  http:" + http
	if err := yaml.Unmarshal([]byte(text), &vs); err != nil {
		t.Fatal(err)
	}
	return vs
}

// Shape says what the generator may draw.
type Shape struct {
	Duplicates bool // a destination more than once in a route
	Broken     bool // routes whose weights are all 0
	Total      int  // of every split route; 0: any
}

// Draw makes a VirtualService with routes of every kind, some of
// the pair, and fields that nobody has heard of.
func Draw(t *rapid.T, s Shape) map[string]any {
	spec := map[string]any{"hosts": []any{"orders-service"}, "futureSpec": drawJunk(t, "junk")}
	for _, kind := range []string{"http", "tls", "tcp"} {
		n := rapid.IntRange(0, 3).Draw(t, kind+" routes")
		routes := make([]any, n)
		for i := range routes {
			routes[i] = drawRoute(t, kind, s)
		}
		if n > 0 {
			spec[kind] = routes
		}
	}
	return map[string]any{
		"apiVersion": "networking.istio.io/" + rapid.SampledFrom([]string{"v1", "v1beta1", "v1alpha3"}).Draw(t, "version"),
		"kind":       "VirtualService",
		"metadata":   map[string]any{"name": "orders", "namespace": "microservices", "annotations": map[string]any{"a": "weight"}},
		"spec":       spec,
		"status":     drawJunk(t, "status"),
	}
}

func drawJunk(t *rapid.T, name string) any {
	return rapid.SampledFrom([]any{nil, true, 2.5, "v2", []any{"v2", 0.0}, map[string]any{"weight": 7.0, "subset": "v2", "route": []any{}}}).Draw(t, name)
}

func drawDestination(t *rapid.T, name string) map[string]any {
	host := rapid.SampledFrom([]string{"orders-service", "orders-service.microservices.svc.cluster.local", "orders-service.microservices", "payments"}).Draw(t, name+" host")
	d := map[string]any{"host": host}
	if subset := rapid.SampledFrom([]string{"v1", "v2", "v2", "v3", ""}).Draw(t, name+" subset"); subset != "" {
		d["subset"] = subset
	}
	if rapid.Bool().Draw(t, name+" port") {
		d["port"] = map[string]any{"number": 8080.0}
	}
	return d
}

func drawRoute(t *rapid.T, kind string, s Shape) map[string]any {
	r := map[string]any{"futureRoute": drawJunk(t, "junk")}
	if rapid.Bool().Draw(t, "match") {
		r["match"] = []any{rapid.SampledFrom([]any{
			map[string]any{"headers": map[string]any{"x": map[string]any{"exact": "y"}}},
			map[string]any{"uri": map[string]any{"prefix": "/"}},
			map[string]any{"port": 80.0},
			map[string]any{"sniHosts": []any{"a"}},
		}).Draw(t, "match of")}
	}
	if kind == "http" && rapid.IntRange(0, 5).Draw(t, "no route") == 0 {
		r[rapid.SampledFrom([]string{"redirect", "directResponse", "delegate"}).Draw(t, "instead")] = map[string]any{"name": "x"}
		return r
	}
	r["route"] = drawEntries(t, s)
	if kind == "http" {
		drawMirrors(t, r)
	}
	return r
}

func drawEntries(t *rapid.T, s Shape) []any {
	n := rapid.IntRange(1, 4).Draw(t, "destinations")
	var entries []any
	seen, sum := map[string]bool{}, 0
	for range n {
		d := drawDestination(t, "destination")
		of := RoleOf(d)
		if of == "unsplit" && s.Total > 0 {
			// Led to stable, it would be of the pair, and change its total.
			d["subset"], of = "v3", ""
		}
		if !s.Duplicates && of != "" && seen[of] {
			continue
		}
		seen[of] = true
		entry := map[string]any{"destination": d}
		weight := rapid.IntRange(0, 120).Draw(t, "weight")
		if rapid.IntRange(0, 4).Draw(t, "weight is there") > 0 {
			entry["weight"] = float64(weight)
			sum += weight
		}
		if rapid.Bool().Draw(t, "headers") {
			entry["headers"] = map[string]any{"request": map[string]any{"set": map[string]any{"subset": "v2"}}}
		}
		entries = append(entries, entry)
	}
	if sum == 0 && !s.Broken {
		entries[0].(map[string]any)["weight"] = 100.0
	}
	if s.Total > 0 && len(entries) > 1 {
		share := rapid.IntRange(0, s.Total).Draw(t, "share")
		for i, e := range entries {
			e.(map[string]any)["weight"] = []float64{float64(share), float64(s.Total - share), 3, 4}[i]
		}
	}
	return entries
}

func drawMirrors(t *rapid.T, r map[string]any) {
	percent := func() any { return map[string]any{"value": float64(rapid.IntRange(0, 100).Draw(t, "mirrored"))} }
	switch rapid.IntRange(0, 5).Draw(t, "mirror") {
	case 0:
		r["mirror"] = drawDestination(t, "mirror")
	case 1:
		r["mirror"], r["mirrorPercentage"] = drawDestination(t, "mirror"), percent()
	case 2:
		r["mirror"], r["mirrorPercent"] = drawDestination(t, "mirror"), 10.0
	case 3:
		r["mirrors"] = []any{
			map[string]any{"destination": drawDestination(t, "mirror"), "percentage": percent()},
			map[string]any{"destination": drawDestination(t, "mirror")},
		}
	}
}

// JSON is a value as it comes back from its JSON.
func JSON(v any) any {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	var out any
	if err := json.Unmarshal(b, &out); err != nil {
		panic(err)
	}
	return out
}

// PairRoute is a route of some requests (of everybody, when match is empty) that
// gives the pair these weights.
func PairRoute(match string, v1, v2 int) string {
	if match != "" {
		match = "match: [" + match + "], "
	}
	return fmt.Sprintf("\n  - {%sroute: [{destination: {host: orders-service, subset: v1}, weight: %d}, {destination: {host: orders-service, subset: v2}, weight: %d}]}", match, v1, v2)
}

// OnlyRoute leads some requests, or everybody, to one subset alone.
func OnlyRoute(match, subset string) string {
	if match != "" {
		match = "match: [" + match + "], "
	}
	return "\n  - {" + match + "route: [{destination: {host: orders-service, subset: " + subset + "}}]}"
}

// Matches of testers, and of a path of everybody's.
const (
	CookieV1 = "{headers: {cookie: {regex: '.*version=v1.*'}}}"
	CookieV2 = "{headers: {cookie: {regex: '.*version=v2.*'}}}"
	Tenant   = "{headers: {x-tenant: {exact: big}}}"
	Country  = "{headers: {x-country: {exact: de}}}"
	SomePath = "{uri: {prefix: /checkout}}"
)

// SplitOf is one route that names both.
func SplitOf(v1, v2 int) string {
	return fmt.Sprintf("[{route: [{destination: {host: orders-service, subset: v1}, weight: %d}, {destination: {host: orders-service, subset: v2}, weight: %d}]}]", v1, v2)
}

// Lists of one route, that leads to one side alone.
const (
	StableAlone  = "[{route: [{destination: {host: orders-service, subset: v1}}]}]"
	TestersAlone = "[{match: [{headers: {x: {exact: y}}}], route: [{destination: {host: orders-service, subset: v2}}]}]"
	MirrorAlone  = "[{route: [{destination: {host: orders-service, subset: v1}}], mirror: {host: orders-service, subset: v2}}]"
)

// RoleOf is "stable", "canary", "unsplit" or empty for a destination, decided without the code under test.
func RoleOf(destination any) string {
	d, _ := destination.(map[string]any)
	if h := d["host"]; h == "orders-service" || h == "orders-service.microservices.svc.cluster.local" {
		switch d["subset"] {
		case "v1":
			return "stable"
		case "v2":
			return "canary"
		case nil:
			return "unsplit"
		}
	}
	return ""
}

package rules

import (
	"testing"
	"time"
)

func TestErrorRate(t *testing.T) {
	const bad = "503"
	failing60 := func(n float64) rows { return rows{requests("orders-v2", bad): born(n, 60)} }
	runAll(t, func(s *Signals) { *s = Signals{ErrorRate: s.ErrorRate} }, map[string]scenario{
		"a healthy canary is left alone by all signals": {
			guards:  []Guard{orders()},
			targets: []target{stable(), canary()},
			want:    map[int][]string{100: nil, 240: nil},
		},
		"errors below the limit are left alone": {
			targets: []target{stable(), canary(rows{requests("orders-v2", bad): rate(0.08, 0)})},
			want:    map[int][]string{60: nil, 200: nil, 240: nil},
		},
		"a failing canary is noticed by the error rate alone": {
			guards:  []Guard{orders()},
			targets: []target{stable(), canary(failing60(10))},
			want:    map[int][]string{65: nil, 66: {errorRollback}, 120: {errorRollback}},
		},
		"a counter born with many errors counts at its first scrape": {
			// Scraped at 63, while stable's next scrape is at 66.
			targets: []target{stable(), canary(failing60(10))},
			want:    map[int][]string{62: nil, 65: nil, 66: {errorRollback}},
		},
		"of one job alone, if proxies says so": {
			// By the other one, which scrapes both at 61, the canary would be rolled back then. up has no reporter.
			options: func(o *Options) { o.Proxies = `job="mesh",reporter=~"destination|source"` },
			targets: []target{stable(), canary(failing60(10)), {name: "both", job: "other", phase: 1, rows: merge(stable().rows, failing60(10))}},
			want:    map[int][]string{62: nil, 65: nil, 66: {errorRollback}},
		},
		"a caller's proxy sees both versions in one scrape, so there is nothing to wait for": {
			targets: []target{{name: "gateway", phase: 3, rows: rows{
				requests("orders-v1", "200", `reporter="source"`): rate(90, 0),
				requests("orders-v2", "200", `reporter="source"`): rate(10, 0),
				requests("orders-v2", bad, `reporter="source"`):   born(10, 60),
			}}},
			want: map[int][]string{62: nil, 63: {errorRollback}},
		},
		"a waypoint's report counts as well": {
			targets: []target{{name: "waypoint", phase: 3, rows: rows{
				requests("orders-v1", "200", `reporter="waypoint"`): rate(90, 0),
				requests("orders-v2", bad, `reporter="waypoint"`):   born(10, 60),
			}}},
			want: map[int][]string{62: nil, 63: {errorRollback}},
		},
		"without stable's proxies there is nothing to compare with": {
			targets: []target{canary(failing60(10))},
			want:    map[int][]string{62: nil, 63: {errorRollback}},
		},
		"6 of 56 requests are within chance, in every window": {
			// All 5xx at once, so that the shortest window has the strongest evidence:
			// 6*ln(6/0.56) - 6 + 0.56 = 8.8.
			targets: []target{stable(), canary(rows{requests("orders-v2", bad): step(60, 6)})},
			want:    map[int][]string{66: nil, 100: nil},
		},
		"7 of 57 requests are not": {
			// 7*ln(7/0.57) - 7 + 0.57 = 11.1.
			targets: []target{stable(), canary(rows{requests("orders-v2", bad): step(60, 7)})},
			want:    map[int][]string{65: nil, 66: {errorRollback}},
		},
		"four failures of four are too few": {
			targets: []target{stable(), {name: "canary", phase: 3, rows: rows{requests("orders-v2", bad): step(60, 4)}}},
			want:    map[int][]string{66: nil, 200: nil},
		},
		"five failures of five are not": {
			targets: []target{stable(), {name: "canary", phase: 3, rows: rows{requests("orders-v2", bad): step(60, 5)}}},
			want:    map[int][]string{65: nil, 66: {errorRollback}},
		},
		"at low traffic errors add up over minutes": {
			// One request in 10 s, every second one fails.
			targets: []target{stable(), {name: "canary", phase: 3, rows: rows{
				requests("orders-v2", "200"): rate(0.05, 0), requests("orders-v2", bad): rate(0.05, 60),
			}}},
			want: map[int][]string{120: nil, 155: nil, 170: {errorRollback}},
		},
		"a small regression shows in the long windows": {
			// 5%: the minute has 30 of 600.
			targets: []target{stable(), canary(rows{requests("orders-v2", bad): rate(0.5, 60)})},
			want:    map[int][]string{70: nil, 120: {errorRollback}},
		},
		"nothing is concluded from nothing": {
			targets: []target{},
			want:    map[int][]string{0: nil, 100: nil},
		},
		"an idle canary is left alone": {
			targets: []target{stable(), {name: "canary", phase: 3, rows: rows{requests("orders-v2", bad): always(500.0)}}},
			want:    map[int][]string{10: nil, 240: nil},
		},
		"what a Prometheus that has just started finds counts from the second scrape on": {
			targets: []target{stable(), {name: "canary", phase: 3,
				lives: func(s int) string { return map[bool]string{true: gone, false: up}[s < 100] },
				rows:  rows{requests("orders-v2", "200"): always(1000.0), requests("orders-v2", bad): always(1000.0)}}},
			want: map[int][]string{103: nil, 106: nil, 120: nil, 200: nil},
		},
		"what a scrape after a failed one finds is not new": {
			targets: []target{stable(), {name: "canary", phase: 3,
				lives: func(s int) string { return map[bool]string{true: failing, false: up}[s >= 100 && s < 110] },
				rows:  rows{requests("orders-v2", "200"): rate(10, 0), requests("orders-v2", bad): always(500.0)}}},
			want: map[int][]string{106: nil, 113: nil, 120: nil, 130: nil, 200: nil},
		},
		// What it had counted since cannot be told from what it has given up.
		"a restart of the proxy forgives what one scrape would have shown": {
			targets: []target{stable(), canary(rows{
				requests("orders-v2", bad): until(60, always(5000.0), rate(10, 59)),
			})},
			want: map[int][]string{66: nil, 71: {errorRollback}},
		},
		"of a proxy that starts anew neither the failed requests nor the others count until the next scrape": {
			targets: []target{stable(), {name: "canary", phase: 3, rows: rows{
				requests("orders-v2", "200"): until(60, rate(10, 0), rate(10, 60)), requests("orders-v2", bad): step(60, 8)}}},
			want: map[int][]string{66: nil, 71: nil, 120: nil},
		},
		"series that a proxy gives up are no restart": {
			// Of a caller that is gone; what another one still does has failed before, a hundredth of it.
			targets: []target{stable(), canary(rows{
				requests("orders-v2", "200", `source_workload="shop"`): until(60, always(100.0), always(nil)),
				requests("orders-v2", bad, `source_workload="shop"`):   until(60, always(20.0), always(nil)),
				requests("orders-v2", bad):                             always(500.0),
			})},
			want: map[int][]string{63: nil, 66: nil, 100: nil, 240: nil},
		},
		"the next build does not begin the alert anew": {
			// The pods go at 80; those of the next build get requests from 160 on.
			targets: []target{stable(),
				{name: "canary", phase: 3, lives: func(s int) string { return map[bool]string{true: gone, false: up}[s >= 80] },
					rows: rows{requests("orders-v2", "200"): rate(10, 0), requests("orders-v2", bad): born(10, 60)}},
				{name: "next", phase: 2, rows: rows{requests("orders-v2", "200"): born(1, 160)}}},
			want: map[int][]string{66: {errorRollback}, 100: {errorRollback}, 130: {errorRollback}, 159: {errorRollback},
				161: {errorRollback}, 165: {errorRollback}, 200: {errorRollback}, 300: {errorRollback}},
		},
		"as bad as stable is a hold": {
			targets: []target{stable(rows{requests("orders-v1", bad): born(90, 60)}), canary(failing60(10))},
			want:    map[int][]string{66: {errorHold}, 70: {errorHold}, 120: {errorHold}, 240: {errorHold}},
		},
		"as bad as stable is a rollback when asked for": {
			guards:  []Guard{with(orders(), func(g *Guard) { g.EvenIfStableFails = true })},
			targets: []target{stable(rows{requests("orders-v1", bad): born(90, 60)}), canary(failing60(10))},
			want:    map[int][]string{62: nil, 63: {errorRollback}},
		},
		"far worse than a bad stable is a rollback": {
			targets: []target{stable(rows{requests("orders-v1", bad): rate(3, 0)}), canary(rows{requests("orders-v2", bad): born(10, 60)})},
			want:    map[int][]string{62: nil, 66: {errorRollback}},
		},
		"stable's errors are remembered when they end first": {
			// Both fail from 60 on; stable recovers at 69, seen at 71; the canary at 78.
			targets: []target{
				stable(rows{requests("orders-v1", bad): func(s int) any { return rate(90, 60)(min(s, 69)) }}),
				canary(rows{requests("orders-v2", bad): func(s int) any { return rate(10, 60)(min(s, 78)) }}),
			},
			want: map[int][]string{66: {errorHold}, 74: {errorHold}, 80: {errorHold}},
		},
		"gRPC failures hide behind 200": {
			targets: []target{stable(), canary(rows{requests("orders-v2", "200", `grpc_response_status="14"`): born(10, 60)})},
			want:    map[int][]string{62: nil, 66: {errorRollback}},
		},
		"gRPC answers that are the caller's fault are no failures": {
			targets: []target{stable(), canary(rows{requests("orders-v2", "200", `grpc_response_status="5"`): born(10, 60)})},
			want:    map[int][]string{66: nil, 200: nil},
		},
		"4xx are no failures": {
			targets: []target{stable(), canary(rows{requests("orders-v2", "404"): born(10, 60)})},
			want:    map[int][]string{66: nil, 200: nil},
		},
		"another workload's errors are nobody's here": {
			targets: []target{stable(), canary(), {name: "other", rows: rows{requests("payments-v2", bad): born(10, 60)}}},
			want:    map[int][]string{66: nil, 200: nil},
		},
		"a version is found by service and version label": {
			guards: []Guard{with(orders(), func(g *Guard) {
				g.Canary.Workloads, g.Canary.Version = nil, "v2"
			})},
			targets: []target{stable(), {name: "canary", phase: 3, rows: rows{
				requests("unheard-of", bad, `destination_service_name="orders-service"`, `destination_service_namespace="microservices"`,
					`destination_version="v2"`): born(10, 60),
			}}},
			want: map[int][]string{62: nil, 66: {errorRollback}},
		},
		"guards that share workloads have limits of their own": {
			guards: []Guard{orders(), with(orders(), func(g *Guard) {
				g.Name = "patient"
				g.Signals.ErrorRate = &ErrorRate{Max: 0.5}
			})},
			targets: []target{stable(), canary(rows{requests("orders-v2", bad): rate(2, 60)})},
			want:    map[int][]string{62: nil, 76: {errorRollback}, 200: {errorRollback}},
		},
		"a signal that is off is silent": {
			guards:  []Guard{with(orders(), func(g *Guard) { g.Signals.ErrorRate = nil })},
			targets: []target{stable(), canary(failing60(10))},
			want:    map[int][]string{66: nil, 200: nil},
		},
		"the alert outlives the traffic, and ends": {
			targets: []target{stable(), {name: "canary", phase: 3,
				lives: func(s int) string { return map[bool]string{true: up, false: gone}[s < 50] },
				rows:  rows{requests("orders-v2", bad): born(10, 30)}}},
			// Last scraped at 48; the longest window ends at 348, and the alert is kept for 30 s.
			want: map[int][]string{36: {errorRollback}, 100: {errorRollback}, 340: {errorRollback}, 385: nil},
		},
	})
}

func with(g Guard, change func(*Guard)) Guard {
	change(&g)
	return g
}

func TestUpIsReadOfTheTargetsThatProxiesNames(t *testing.T) {
	for name, test := range map[string]struct {
		options        Options
		ordinary, fast string
	}{
		"all":                       {Options{}, `up`, ``},
		"all, with a fast lane":     {Options{FastLane: time.Second}, `up{job!="guardian-fast-lane"}`, `up{job="guardian-fast-lane"}`},
		"of jobs":                   {Options{Proxies: ` job=~"envoy|gateways", `}, `up{job=~"envoy|gateways"}`, ``},
		"by labels of series alone": {Options{Proxies: `cluster="eu",source_app!="probe"`}, `up`, ``},
		"of other labels":           {Options{Proxies: `job="envoy",zone="a",pod!="b"`, TargetLabels: []string{"pod", "zone"}}, `up{zone="a",pod!="b"}`, ``},
		"of a job, with a fast lane": {Options{Proxies: `job="envoy"`, FastLane: time.Second},
			`up{job="envoy",job!="guardian-fast-lane"}`, `up{job="guardian-fast-lane"}`},
	} {
		o := test.options.withDefaults()
		b := &builder{Options: o}
		if got := b.up(o.ordinary()); got != test.ordinary {
			t.Errorf("%s: %s, want %s", name, got, test.ordinary)
		}
		if got := b.up(o.fast()); test.fast != "" && got != test.fast {
			t.Errorf("%s, on the fast lane: %s, want %s", name, got, test.fast)
		}
	}
}

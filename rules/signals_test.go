package rules

import (
	"fmt"
	"testing"
	"time"
)

const bucket = "istio_request_duration_milliseconds_bucket"

// timed is a version's histogram as Envoy writes it: n requests/s from the
// start, of which share take 800 ms from second from on, and the others 20 ms.
func timed(workload, edge500 string, n, share float64, from int, more ...string) rows {
	all := rate(n, 0)
	le := func(v string) string { return istio(bucket, workload, append([]string{`le="` + v + `"`}, more...)...) }
	return rows{
		le("250"): fast(n, share, from), le(edge500): fast(n, share, from), le("1000"): all, le("+Inf"): all,
	}
}

func fast(n, share float64, from int) func(int) any {
	return func(s int) any {
		all := rate(n, 0)(s).(float64)
		return all - float64(int(share*n*float64(max(0, s-from))))
	}
}

// native is timed as a native histogram: fast requests take 8 to 16 ms, slow
// ones 512 to 1,024 ms.
func native(workload string, n, share float64, from int) rows {
	return rows{istio("istio_request_duration_milliseconds", workload): func(s int) any {
		all, quick := rate(n, 0)(s).(float64), fast(n, share, from)(s).(float64)
		return fmt.Sprintf("{{schema:0 sum:%.0f count:%.0f offset:4 buckets:[%.0f 0 0 0 0 0 %.0f]}}", all, all, quick, all-quick)
	}}
}

// converted is timed as a native histogram that Prometheus has made of a classic one
// (convert_classic_histograms_to_nhcb): its buckets are Envoy's.
func converted(workload string, n, share float64, from int) rows {
	return rows{istio("istio_request_duration_milliseconds", workload): func(s int) any {
		all, quick := rate(n, 0)(s).(float64), fast(n, share, from)(s).(float64)
		return fmt.Sprintf("{{schema:-53 sum:%.0f count:%.0f custom_values:[250 500 1000] buckets:[%.0f 0 %.0f]}}", all, all, quick, all-quick)
	}}
}

func latencyTargets(edge500 string, stableShare, canaryShare float64) []target {
	return []target{
		{name: "stable", phase: 1, rows: timed("orders-v1", edge500, 90, stableShare, 60)},
		{name: "canary", phase: 3, rows: timed("orders-v2", edge500, 10, canaryShare, 60)},
	}
}

func TestLatency(t *testing.T) {
	limit := func(d time.Duration) []Guard {
		return []Guard{with(orders(), func(g *Guard) { g.Signals.Latency.Max = d })}
	}
	runAll(t, func(s *Signals) { *s = Signals{Latency: s.Latency} }, map[string]scenario{
		"a fast canary is left alone": {
			targets: latencyTargets("500", 0, 0),
			want:    map[int][]string{66: nil, 200: nil},
		},
		"slow requests within the quantile are left alone": {
			targets: latencyTargets("500", 0, 0.04),
			want:    map[int][]string{66: nil, 200: nil, 240: nil},
		},
		"a canary of slow requests is noticed as soon as stable must have told": {
			// Scraped at 63; what stable's proxy says at 66 may be from before that.
			targets: latencyTargets("500", 0, 1),
			want:    map[int][]string{70: nil, 71: {latencyRollback}},
		},
		"half of the requests being slow is noticed soon": {
			// 25 of 50 in one scrape: 25*ln(10) - 25 + 2.5 = 35.
			targets: latencyTargets("500", 0, 0.5),
			want:    map[int][]string{65: nil, 71: {latencyRollback}},
		},
		"a tenth of the requests being slow takes about two minutes": {
			targets: latencyTargets("500", 0, 0.1),
			want:    map[int][]string{66: nil, 180: {latencyRollback}},
		},
		"Prometheus 3 writes the edge as 500.0": {
			targets: latencyTargets("500.0", 0, 1),
			want:    map[int][]string{70: nil, 71: {latencyRollback}},
		},
		"without a bucket at the edge nothing is known": {
			targets: latencyTargets("499", 0, 1),
			want:    map[int][]string{66: nil, 200: nil},
		},
		"a limit between edges is judged at the next higher one": {
			// Slow requests take 800 ms: beyond 500 ms, not beyond 1 s.
			guards:  limit(400 * time.Millisecond),
			targets: latencyTargets("500", 0, 1),
			want:    map[int][]string{70: nil, 71: {latencyRollback}},
		},
		"what is below the next higher edge is not known to be too slow": {
			guards:  limit(600 * time.Millisecond),
			targets: latencyTargets("500", 0, 1),
			want:    map[int][]string{66: nil, 200: nil},
		},
		"as slow as stable is a hold": {
			targets: latencyTargets("500", 1, 1),
			want:    map[int][]string{66: {latencyHold}, 120: {latencyHold}, 240: {latencyHold}},
		},
		"as slow as stable is a rollback when asked for": {
			guards:  []Guard{with(orders(), func(g *Guard) { g.EvenIfStableFails = true })},
			targets: latencyTargets("500", 1, 1),
			want:    map[int][]string{62: nil, 63: {latencyRollback}},
		},
		"slowness of both is a hold, also when the canary's proxy tells first": {
			targets: []target{
				{name: "stable", phase: 1, rows: timed("orders-v1", "500", 90, 1, 67)},
				{name: "canary", phase: 3, rows: timed("orders-v2", "500", 10, 1, 60)},
			},
			want: map[int][]string{62: nil, 63: nil, 66: nil, 70: nil, 71: {latencyHold}, 120: {latencyHold}},
		},
		"a caller's proxy tells of both versions at once": {
			targets: []target{{name: "gateway", phase: 3, rows: merge(
				timed("orders-v1", "500", 90, 0, 60, `reporter="source"`), timed("orders-v2", "500", 10, 1, 60, `reporter="source"`))}},
			want: map[int][]string{62: nil, 63: {latencyRollback}},
		},
		"four slow requests of four are too few": {
			targets: []target{{name: "canary", phase: 3, rows: rows{
				istio(bucket, "orders-v2", `le="500"`): always(0.0), istio(bucket, "orders-v2", `le="+Inf"`): step(60, 4)}}},
			want: map[int][]string{66: nil, 200: nil},
		},
		"a histogram born with slow requests counts at its first scrape": {
			targets: []target{stable(), canary(rows{
				istio(bucket, "orders-v2", `le="500"`):  born(1, 60),
				istio(bucket, "orders-v2", `le="+Inf"`): born(10, 60),
			})},
			want: map[int][]string{62: nil, 63: {latencyRollback}},
		},
		"guards with different limits are judged at edges of their own": {
			guards: []Guard{orders(), with(orders(), func(g *Guard) {
				g.Name = "patient"
				g.Signals.Latency.Max = time.Second
			})},
			targets: latencyTargets("500", 0, 1),
			want:    map[int][]string{71: {latencyRollback}, 200: {latencyRollback}},
		},
		"a native histogram is judged at the limit itself": {
			// Slow requests take 512 to 1,024 ms, so most of them longer; the next
			// bucket edge would be 1 s.
			guards: limit(550 * time.Millisecond),
			targets: []target{
				{name: "stable", phase: 1, rows: native("orders-v1", 90, 0, 60)},
				{name: "canary", phase: 3, rows: native("orders-v2", 10, 1, 60)},
			},
			want: map[int][]string{62: nil, 70: nil, 71: {latencyRollback}},
		},
		"a fast canary with a native histogram is left alone": {
			targets: []target{
				{name: "stable", phase: 1, rows: native("orders-v1", 90, 0, 60)},
				{name: "canary", phase: 3, rows: native("orders-v2", 10, 0.04, 60)},
			},
			want: map[int][]string{66: nil, 200: nil},
		},
		"as slow as stable by native histograms is a hold": {
			targets: []target{
				{name: "stable", phase: 1, rows: native("orders-v1", 90, 1, 60)},
				{name: "canary", phase: 3, rows: native("orders-v2", 10, 1, 60)},
			},
			want: map[int][]string{66: {latencyHold}, 120: {latencyHold}},
		},
		"a native histogram that starts anew counts from its second scrape": {
			targets: []target{
				{name: "stable", phase: 1, rows: native("orders-v1", 90, 0, 60)},
				{name: "canary", phase: 3, rows: rows{istio("istio_request_duration_milliseconds", "orders-v2"): until(60,
					always("{{schema:0 sum:1 count:900 offset:4 buckets:[900]}}"),
					func(s int) any {
						n := 10 * (s - 59)
						return fmt.Sprintf("{{schema:0 sum:1 count:%d offset:10 buckets:[%d]}}", n, n)
					})}},
			},
			want: map[int][]string{66: nil, 76: {latencyRollback}},
		},
		"a connection that became a websocket is timed when it ends, and is not slow": {
			targets: []target{
				{name: "stable", phase: 1, rows: timed("orders-v1", "500", 90, 0, 60)},
				{name: "canary", phase: 3, rows: merge(timed("orders-v2", "500", 10, 0, 60), timed("orders-v2", "500", 5, 1, 60, `response_code="101"`))},
			},
			want: map[int][]string{66: nil, 120: nil, 240: nil},
		},
		"nor is it where histograms are native": {
			targets: []target{
				{name: "stable", phase: 1, rows: native("orders-v1", 90, 0, 60)},
				{name: "canary", phase: 3, rows: merge(native("orders-v2", 10, 0, 60), rows{istio("istio_request_duration_milliseconds", "orders-v2", `response_code="101"`): func(s int) any {
					n := rate(5, 60)(s).(float64)
					return fmt.Sprintf("{{schema:0 sum:%.0f count:%.0f offset:10 buckets:[%.0f]}}", n, n, n)
				}})},
			},
			want: map[int][]string{66: nil, 120: nil, 240: nil},
		},
		"a classic histogram that Prometheus converts is judged at its edge": {
			// Slow requests take 800 ms: beyond 500 ms, not beyond 1 s.
			targets: []target{
				{name: "stable", phase: 1, rows: converted("orders-v1", 90, 0, 60)},
				{name: "canary", phase: 3, rows: converted("orders-v2", 10, 1, 60)},
			},
			want: map[int][]string{62: nil, 70: nil, 71: {latencyRollback}},
		},
		"and one whose limit is the next edge is left alone": {
			guards: limit(time.Second),
			targets: []target{
				{name: "stable", phase: 1, rows: converted("orders-v1", 90, 0, 60)},
				{name: "canary", phase: 3, rows: converted("orders-v2", 10, 1, 60)},
			},
			want: map[int][]string{66: nil, 120: nil, 240: nil},
		},
		"no histogram, no alert": {
			targets: []target{stable(), canary()},
			want:    map[int][]string{100: nil},
		},
	})
}

// replica is a guardian: restarts it saw, and the weight it read.
func replica(name string, weight func(int) any, canaryRestarts, stableRestarts func(int) any) target {
	r := rows{
		"guardian_heartbeat_timestamp_seconds": func(s int) any { return float64(s) },
	}
	if canaryRestarts != nil {
		r[`guardian_workload_restarts_total{guard="orders-service",subset="v2"}`] = canaryRestarts
		r[`guardian_workload_restarts_total{guard="orders-service",subset="v1"}`] = stableRestarts
	}
	if weight != nil {
		r[`guardian_weight_percent{guard="orders-service",subset="v2"}`] = weight
		r[`guardian_weight_percent{guard="orders-service",subset="v1"}`] = func(s int) any { return 100 - weight(s).(float64) }
	}
	return target{name: name, phase: 2, rows: r}
}

// at is a target scraped at another phase.
func at(phase int, g target) target {
	g.phase = phase
	return g
}

// elsewhere is a guardian of another namespace.
func elsewhere(g target) target {
	g.name, g.of = g.name+"-staging", "staging"
	return g
}

func TestRestarts(t *testing.T) {
	none := always(0.0)
	pods := func(n, second int) rows {
		out := rows{}
		for i := range n {
			out[fmt.Sprintf(`kube_pod_container_status_restarts_total{namespace="microservices",pod="orders-v2-7d4b9c5f6-ab1c%d",container="orders"}`, i)] = step(float64(second), 1)
		}
		return out
	}
	kube := func(o *Options) { o.RestartsFrom = FromKubeStateMetrics }
	const long = "orders-service-of-the-northern-hemisphere-region"
	runAll(t, func(s *Signals) { *s = Signals{Restarts: s.Restarts} }, map[string]scenario{
		"as many restarts as allowed are left alone": {
			targets: []target{replica("a", nil, step(60, 1, 80, 2), none)},
			want:    map[int][]string{100: nil, 200: nil},
		},
		"one more is a rollback": {
			targets: []target{replica("a", nil, step(60, 1, 80, 2, 100, 3), none)},
			want:    map[int][]string{100: nil, 117: {restartRollback}},
		},
		"restarts long ago do not add up": {
			targets: []target{replica("a", nil, step(10, 1, 20, 2, 340, 3), none)},
			want:    map[int][]string{360: nil},
		},
		"every replica counts all restarts, so they are not added": {
			targets: []target{replica("a", nil, step(60, 2), none), replica("b", nil, step(60, 2), none)},
			want:    map[int][]string{120: nil},
		},
		"replicas that are scraped on two sides of a step count the same restart": {
			targets: []target{replica("a", nil, step(73, 2), none), at(4, replica("b", nil, step(73, 2), none))},
			want:    map[int][]string{74: nil, 80: nil, 95: nil, 120: nil},
		},
		"a replica that starts late has counted nothing new": {
			targets: []target{replica("a", nil, none, none), {name: "b", phase: 2,
				lives: func(s int) string { return map[bool]string{true: gone, false: up}[s < 100] },
				rows:  replica("b", nil, always(9.0), none).rows}},
			want: map[int][]string{120: nil, 200: nil},
		},
		"a restarted replica does not hide restarts": {
			targets: []target{replica("a", nil, step(40, 2, 70, 0, 90, 2), none)},
			want:    map[int][]string{60: nil, 110: {restartRollback}},
		},
		"restarts of stable too are a hold": {
			targets: []target{replica("a", nil, step(60, 3), step(60, 3))},
			want:    map[int][]string{80: {restartHold}, 120: {restartHold}},
		},
		"restarts of stable too are a rollback when asked for": {
			guards:  []Guard{with(orders(), func(g *Guard) { g.EvenIfStableFails = true })},
			targets: []target{replica("a", nil, step(60, 3), step(60, 3))},
			want:    map[int][]string{80: {restartRollback}},
		},
		"restarts of another namespace's guard of the same name are not counted": {
			targets: []target{replica("a", nil, none, none), elsewhere(replica("b", nil, step(60, 9), none))},
			want:    map[int][]string{80: nil, 120: nil},
		},
		"no metric, no alert": {
			targets: []target{stable(), canary()},
			want:    map[int][]string{100: nil},
		},
		"kube-state-metrics: restarts are added over pods": {
			options: kube,
			targets: []target{{name: "ksm", phase: 2, rows: pods(3, 60)}},
			want:    map[int][]string{60: nil, 80: {restartRollback}},
		},
		"kube-state-metrics: as many as allowed are left alone": {
			options: kube,
			targets: []target{{name: "ksm", phase: 2, rows: pods(2, 60)}},
			want:    map[int][]string{80: nil, 120: nil},
		},
		"kube-state-metrics: two of them count each restart once": {
			options: kube,
			targets: []target{{name: "ksm-0", phase: 2, rows: pods(2, 73)}, {name: "ksm-1", phase: 4, rows: pods(2, 73)}},
			want:    map[int][]string{74: nil, 80: nil, 95: nil, 120: nil},
		},
		"kube-state-metrics: one that finds the pods anew has counted nothing new": {
			options: kube,
			targets: []target{{name: "ksm", phase: 2, rows: rows{
				`kube_pod_container_status_restarts_total{namespace="microservices",pod="orders-v2-7d4b9c5f6-ab1cd",container="orders"}`: until(100, always(nil), always(9.0)),
			}}},
			want: map[int][]string{102: nil, 120: nil, 200: nil},
		},
		"kube-state-metrics: the proxy's container and other workloads are left out": {
			options: kube,
			targets: []target{{name: "ksm", phase: 2, rows: rows{
				`kube_pod_container_status_restarts_total{namespace="microservices",pod="orders-v2-7d4b9c5f6-ab1cd",container="istio-proxy"}`:  step(60, 9),
				`kube_pod_container_status_restarts_total{namespace="microservices",pod="orders-v2-admin-7d4b9c5f6-ab1cd",container="orders"}`: step(60, 9),
				`kube_pod_container_status_restarts_total{namespace="other",pod="orders-v2-7d4b9c5f6-ab1cd",container="orders"}`:               step(60, 9),
			}}},
			want: map[int][]string{80: nil, 120: nil},
		},
		"kube-state-metrics: a Deployment whose name is too long for its pods' names": {
			options: kube,
			guards: []Guard{with(orders(), func(g *Guard) {
				g.Signals, g.Canary.Workloads = Signals{Restarts: g.Signals.Restarts}, []string{long + "-v2"}
				g.Stable.Workloads = []string{long + "-v1"}
			})},
			targets: []target{{name: "ksm", phase: 2, rows: rows{
				`kube_pod_container_status_restarts_total{namespace="microservices",pod="` + long + `-v2-7d4b9ab1cd",container="orders"}`:                                               step(60, 3),
				`kube_pod_owner{namespace="microservices",pod="` + long + `-v2-7d4b9ab1cd",owner_kind="ReplicaSet",owner_name="` + long + `-v2-7d4b9c5f68",owner_is_controller="true"}`: always(1.0),
			}}},
			want: map[int][]string{60: nil, 80: {restartRollback}},
		},
		"kube-state-metrics: a StatefulSet": {
			options: kube,
			targets: []target{{name: "ksm", phase: 2, rows: rows{
				`kube_pod_container_status_restarts_total{namespace="microservices",pod="orders-v2-0",container="orders"}`:                               step(60, 3),
				`kube_pod_owner{namespace="microservices",pod="orders-v2-0",owner_kind="StatefulSet",owner_name="orders-v2",owner_is_controller="true"}`: always(1.0),
			}}},
			want: map[int][]string{60: nil, 80: {restartRollback}},
		},
		"kube-state-metrics: a pod that somebody else owns as well": {
			options: kube,
			targets: []target{{name: "ksm", phase: 2, rows: rows{
				`kube_pod_container_status_restarts_total{namespace="microservices",pod="orders-v2-7d4b9c5f6-ab1cd",container="orders"}`:                                        step(60, 3),
				`kube_pod_owner{namespace="microservices",pod="orders-v2-7d4b9c5f6-ab1cd",owner_kind="ReplicaSet",owner_name="orders-v2-7d4b9c5f6",owner_is_controller="true"}`: always(1.0),
				`kube_pod_owner{namespace="microservices",pod="orders-v2-7d4b9c5f6-ab1cd",owner_kind="Backup",owner_name="orders-v1",owner_is_controller="false"}`:              always(1.0),
			}}},
			want: map[int][]string{60: nil, 80: {restartRollback}},
		},
		"kube-state-metrics: a ReplicationController, as OpenShift's DeploymentConfigs have": {
			options: kube,
			targets: []target{{name: "ksm", phase: 2, rows: rows{
				`kube_pod_container_status_restarts_total{namespace="microservices",pod="orders-v2-3-ab1cd",container="orders"}`:                                           step(60, 3),
				`kube_pod_owner{namespace="microservices",pod="orders-v2-3-ab1cd",owner_kind="ReplicationController",owner_name="orders-v2-3",owner_is_controller="true"}`: always(1.0),
			}}},
			want: map[int][]string{60: nil, 80: {restartRollback}},
		},
		"kube-state-metrics: a workload whose name looks like another's ReplicaSet": {
			options: kube,
			guards: []Guard{with(orders(), func(g *Guard) {
				g.Signals, g.Stable.Workloads = Signals{Restarts: g.Signals.Restarts}, []string{"orders"}
			})},
			targets: []target{{name: "ksm", phase: 2, rows: rows{
				`kube_pod_container_status_restarts_total{namespace="microservices",pod="orders-v2-ab1cd",container="orders"}`:                              step(60, 3),
				`kube_pod_owner{namespace="microservices",pod="orders-v2-ab1cd",owner_kind="ReplicaSet",owner_name="orders-v2",owner_is_controller="true"}`: always(1.0),
			}}},
			want: map[int][]string{60: nil, 80: {restartRollback}},
		},
		"kube-state-metrics: the owner counts, not what a pod's name looks like": {
			options: kube,
			targets: []target{{name: "ksm", phase: 2, rows: rows{
				`kube_pod_container_status_restarts_total{namespace="microservices",pod="orders-v2-7d4b9c5f6-ab1cd",container="orders"}`:                                 step(60, 9),
				`kube_pod_owner{namespace="microservices",pod="orders-v2-7d4b9c5f6-ab1cd",owner_kind="Job",owner_name="orders-v2-7d4b9c5f6",owner_is_controller="true"}`: always(1.0),
			}}},
			want: map[int][]string{80: nil, 120: nil},
		},
		"kube-state-metrics: a native sidecar": {
			options: kube,
			targets: []target{{name: "ksm", phase: 2, rows: rows{
				`kube_pod_init_container_status_restarts_total{namespace="microservices",pod="orders-v2-7d4b9c5f6-ab1cd",container="cache"}`: step(60, 3),
			}}},
			want: map[int][]string{60: nil, 80: {restartRollback}},
		},
		"kube-state-metrics: one that has just started has counted nothing new": {
			options: kube,
			targets: []target{{name: "ksm", phase: 2, rows: pods(9, 60),
				lives: func(s int) string { return map[bool]string{true: gone, false: up}[s < 100] }}},
			want: map[int][]string{120: nil, 200: nil},
		},
	})
}

// missing is a target whose scrape at a second fails.
func missing(g target, second int) target {
	g.lives = func(s int) string { return map[bool]string{true: failing, false: up}[s == second] }
	return g
}

func TestRestartsAreCountedWhereStepsMeet(t *testing.T) {
	for _, test := range []struct {
		interval, scrape time.Duration
		want             string
	}{
		{time.Second, 5 * time.Second, "1s"},
		{time.Second, 15 * time.Second, "5s"},
		{3 * time.Second, 5 * time.Second, "3s"},
		{3 * time.Second, 15 * time.Second, "5s"},
		{7 * time.Second, 15 * time.Second, "5s"},
		{time.Minute, time.Minute, "15s"},
	} {
		for _, g := range generated(t, Options{Guards: []Guard{orders()}, Interval: test.interval, ScrapeInterval: test.scrape}).groups() {
			if g.Name == "guardian.restarts" && string(*g.Interval) != test.want {
				t.Errorf("rules every %v of scrapes every %v count restarts every %s, want %s: steps of 15 s must begin at an evaluation",
					test.interval, test.scrape, *g.Interval, test.want)
			}
		}
	}
}

func TestTraffic(t *testing.T) {
	ten := always(10.0)
	guardian := func(weight func(int) any) target { return replica("guardian", weight, nil, nil) }
	// gateway sends stable and canary requests per second, and loses some.
	gateway := func(stable, canary, lost func(int) any) target {
		return target{name: "gateway", phase: 4, rows: rows{
			requests("orders-v1", "200", `reporter="source"`): stable,
			requests("orders-v2", "200", `reporter="source"`): canary,
			requests("unknown", "503", `reporter="source"`, `destination_service_name="orders-service"`,
				`destination_service_namespace="microservices"`): lost,
		}}
	}
	nothing := always(nil)
	slump := func(n float64) func(int) any { return func(s int) any { return rate(n, 0)(min(s, 100)) } }
	runAll(t, func(s *Signals) { *s = Signals{Traffic: s.Traffic} }, map[string]scenario{
		"a share as the weight says is left alone": {
			targets: []target{guardian(ten), gateway(rate(90, 0), rate(10, 0), nothing)},
			want:    map[int][]string{100: nil, 240: nil},
		},
		"a share within the tolerance is left alone": {
			targets: []target{guardian(ten), gateway(rate(94, 0), rate(6, 0), nothing)},
			want:    map[int][]string{100: nil, 240: nil},
		},
		"a share below the tolerance is a rollback": {
			targets: []target{guardian(ten), gateway(rate(96, 0), rate(4, 0), nothing)},
			want:    map[int][]string{60: nil, 100: {trafficRollback}},
		},
		"a share above the tolerance is a hold": {
			targets: []target{guardian(ten), gateway(rate(84, 0), rate(16, 0), nothing)},
			want:    map[int][]string{60: nil, 100: {trafficHold}},
		},
		"weight without requests is a rollback": {
			targets: []target{guardian(ten), gateway(rate(90, 0), nothing, nothing)},
			want:    map[int][]string{60: nil, 100: {trafficRollback}},
		},
		"a scrape of the canary that fails once is no loss of requests": {
			// The canary's windows have a hole when it fails, and 15 and 30 s later.
			targets: []target{guardian(ten), stable(), missing(canary(), 203)},
			want: map[int][]string{202: nil, 203: nil, 207: nil, 208: nil, 218: nil, 222: nil, 233: nil, 234: nil, 237: nil,
				248: nil, 252: nil, 263: nil, 267: nil, 278: nil, 300: nil},
		},
		"nor is one when a caller is in use": {
			targets: []target{guardian(ten), stable(), missing(canary(), 203), {name: "gateway", phase: 4, rows: rows{
				requests("orders-v1", "200", `reporter="source"`): rate(90, 0)}, lives: func(s int) string { return map[bool]string{true: up, false: gone}[s < 150] }}},
			want: map[int][]string{203: nil, 234: nil, 237: nil, 250: nil},
		},
		"a canary that all see vanish is missed after its windows": {
			targets: []target{guardian(ten), gateway(rate(90, 0), slump(10), nothing)},
			want:    map[int][]string{99: nil, 200: {trafficRollback}},
		},
		"a scrape of stable that fails once is no surge of the canary's": {
			targets: []target{guardian(ten), missing(stable(), 201), canary()},
			want:    map[int][]string{201: nil, 205: nil, 216: nil, 231: nil, 232: nil, 235: nil, 246: nil, 261: nil},
		},
		"without weight there are no requests to miss": {
			targets: []target{guardian(always(0.0)), gateway(rate(90, 0), nothing, nothing)},
			want:    map[int][]string{100: nil, 200: nil},
		},
		"at low traffic a missing share is chance": {
			// 60 requests in the window: 6 expected, none came.
			targets: []target{guardian(ten), gateway(rate(1, 0), nothing, nothing)},
			want:    map[int][]string{100: nil, 240: nil},
		},
		"a canary whose own proxy alone would report it may just not be scraped: hold": {
			targets: []target{guardian(ten), stable()},
			want:    map[int][]string{60: nil, 100: {trafficHold}},
		},
		"a caller that sees the canary's requests clears it": {
			targets: []target{guardian(ten), stable(), gateway(rate(90, 0), rate(10, 0), nothing)},
			want:    map[int][]string{100: nil, 200: nil},
		},
		"after a change of weights the share is not judged for a while": {
			targets: []target{guardian(step(0, 10, 100, 50)), gateway(
				until(100, rate(90, 0), func(s int) any { return 9000 + 50.0*float64(s-100) }),
				until(100, rate(10, 0), func(s int) any { return 1000 + 50.0*float64(s-100) }), nothing)},
			want: map[int][]string{99: nil, 105: nil, 110: nil, 130: nil, 160: nil, 200: nil},
		},
		"another namespace's canary of the same name and another weight is not mistaken for this one": {
			beside: []Guard{with(orders(), func(g *Guard) {
				g.Namespace = "staging"
				g.Signals = Signals{Traffic: &Traffic{ShareTolerance: 0.5}}
			})},
			targets: []target{guardian(ten), gateway(rate(90, 0), rate(10, 0), nothing), elsewhere(guardian(always(50.0)))},
			want:    map[int][]string{100: nil, 240: nil},
		},
		"without guardian's metrics the share is not judged": {
			targets: []target{gateway(rate(100, 0), nothing, nothing)},
			want:    map[int][]string{100: nil, 200: nil},
		},
		"with all weight on the canary there is no share to judge": {
			targets: []target{guardian(always(100.0)), gateway(nothing, rate(100, 0), nothing)},
			want:    map[int][]string{100: nil, 200: nil},
		},
		"refused connections in the canary's share are a rollback": {
			targets: []target{guardian(ten), gateway(rate(90, 0), slump(10), born(10, 100))},
			want:    map[int][]string{103: nil, 104: {refusedRollback}},
		},
		"refused connections of a service without endpoints, as Istio 1.22 reports them": {
			targets: []target{guardian(ten), gateway(rate(90, 0), slump(10), nothing), {name: "second", phase: 4, rows: rows{
				requests("unknown", "503", `reporter="source"`, `destination_service_name="orders-service"`, `destination_service_namespace="unknown"`,
					`destination_service="orders-service.microservices.svc.cluster.local"`): born(10, 100)}}},
			want: map[int][]string{103: nil, 104: {refusedRollback}},
		},
		"those of another namespace's service of that name": {
			targets: []target{guardian(ten), gateway(rate(90, 0), rate(10, 0), nothing), {name: "second", phase: 4, rows: rows{
				requests("unknown", "503", `reporter="source"`, `destination_service_name="orders-service"`, `destination_service_namespace="unknown"`,
					`destination_service="orders-service.staging.svc.cluster.local"`): born(10, 100)}}},
			want: map[int][]string{104: nil, 109: nil, 120: nil},
		},
		"refused connections in stable's share are not the canary's": {
			targets: []target{guardian(ten), gateway(slump(90), rate(10, 0), born(90, 100))},
			// Stable's share is gone, so the canary's is above its weight.
			want: map[int][]string{104: nil, 109: nil},
		},
		"refused connections of both are not the canary's": {
			targets: []target{guardian(ten), gateway(slump(90), slump(10), born(100, 100))},
			want:    map[int][]string{104: nil, 109: nil, 114: nil},
		},
		"six refused requests are within the chance of a canary that is a little below its weight": {
			// Of 501 requests 50.1 are due and 45 came: were the 6 the canary's, 44.1 would be expected.
			targets: []target{guardian(ten), gateway(rate(91, 0), rate(9, 0), step(100, 6))},
			want:    map[int][]string{104: nil, 109: nil, 114: nil},
		},
		"twenty refused requests of stable's are not the canary's": {
			// 45*ln(1 - 20/51.5) + 20 = -2.1.
			targets: []target{guardian(ten), gateway(rate(91, 0), rate(9, 0), step(100, 20))},
			want:    map[int][]string{104: nil, 109: nil, 114: nil},
		},
		"half of the canary's requests refused are a rollback at the first full scrape": {
			// 25*ln(1 - 25/50) + 25 = 7.7.
			targets: []target{guardian(ten), gateway(rate(90, 0), func(s int) any { return 10*float64(min(s, 99)) + 5*float64(max(0, s-99)) }, born(5, 99))},
			// At 104; with Prometheus 2, whose ranges have both their ends, an evaluation later.
			want: map[int][]string{103: nil, 105: {refusedRollback}},
		},
		"four refused connections are too few": {
			targets: []target{guardian(ten), gateway(rate(90, 0), slump(10), step(100, 4))},
			want:    map[int][]string{104: nil, 109: nil},
		},
		"a fall of the whole service is a hold, not the canary's fault": {
			targets: []target{guardian(ten), gateway(
				until(320, rate(90, 0), func(s int) any { return 28800 + 9.0*float64(s-320) }),
				until(320, rate(10, 0), func(s int) any { return 3200 + 1.0*float64(s-320) }), nothing)},
			want: map[int][]string{320: nil, 385: {serviceHold}},
		},
	})
}

func TestAlertsAboutGuardian(t *testing.T) {
	const (
		heartbeat   = "GuardianHeartbeat/none"
		down        = "GuardianDown/none"
		stale       = "GuardianHeartbeatStale/none"
		failing     = "GuardianNotificationsFailing/none"
		back        = "GuardianRolledBack/none orders-service"
		wouldBe     = "GuardianWouldHaveRolledBack/none orders-service"
		blocked     = "GuardianRollbackBlocked/none orders-service"
		disarmed    = "GuardianDisarmed/none orders-service"
		vain        = "GuardianRollbackIneffective/none orders-service"
		incomplete  = "GuardianRulesIncomplete/none"
		reconciling = "GuardianReconcileFailing/none orders-service"
		without     = "GuardianReleaseWithoutCanary/none orders-service"
		unwatched   = "GuardianCanaryUnwatched/none orders-service"
		cannot      = "GuardianCannotWatch/none"
		unguarded   = "GuardianCanaryUnguarded/none orders-service"
		foreign     = "GuardianForeignLock/none orders-service"
		refused     = "GuardianConfigRefused/none"
	)
	guardian := func(more rows) target {
		return target{name: "guardian", phase: 2, rows: merge(replica("guardian", nil, nil, nil).rows, more)}
	}
	state := func(s string) string { return `guardian_state{guard="orders-service",state="` + s + `"}` }
	runAll(t, func(s *Signals) { *s = Signals{} }, map[string]scenario{
		"the heartbeat always beats": {self: true,
			targets: []target{guardian(nil)},
			want:    map[int][]string{15: {heartbeat}, 240: {heartbeat}},
		},
		"nobody reports guardian": {self: true,
			want: map[int][]string{45: {heartbeat}, 75: {down, heartbeat}},
		},
		"a heartbeat of three minutes ago is just good enough": {self: true,
			targets: []target{guardian(rows{"guardian_heartbeat_timestamp_seconds": always(1.0)})},
			want:    map[int][]string{180: {heartbeat}, 210: {heartbeat}},
		},
		"an older one is stale": {self: true,
			targets: []target{guardian(rows{"guardian_heartbeat_timestamp_seconds": always(1.0)})},
			want:    map[int][]string{240: {heartbeat, stale}},
		},
		"a guardian that has just started has yet to hear its first heartbeat": {self: true,
			targets: []target{guardian(rows{"guardian_heartbeat_timestamp_seconds": always(0.0), "process_start_time_seconds": always(100.0)})},
			want:    map[int][]string{60: {heartbeat}, 240: {heartbeat}, 300: {heartbeat}, 330: {heartbeat, stale}},
		},
		"a replica that has just started says nothing of the heartbeats of another": {self: true,
			targets: []target{
				guardian(rows{"guardian_heartbeat_timestamp_seconds": always(1.0), "process_start_time_seconds": always(0.0)}),
				{name: "young", phase: 3, rows: rows{"guardian_heartbeat_timestamp_seconds": always(0.0), "process_start_time_seconds": always(200.0)}},
			},
			want: map[int][]string{180: {heartbeat}, 240: {heartbeat, stale}},
		},
		"another namespace's guardian does not stand in for this one": {self: true,
			targets: []target{elsewhere(guardian(rows{state("rolled-back"): always(1.0)}))},
			want:    map[int][]string{45: {heartbeat}, 75: {down, heartbeat}},
		},
		"nor do its guards of the same name count here": {self: true,
			targets: []target{guardian(rows{state("rolled-back"): always(0.0)}), elsewhere(guardian(rows{
				state("rolled-back"): always(1.0), state("blocked"): always(1.0), state("disarmed"): always(1.0), `guardian_releases_without_canary_total{guard="orders-service"}`: step(60, 1),
			}))},
			want: map[int][]string{75: {heartbeat}, 120: {heartbeat}},
		},
		"Alertmanager's webhooks fail": {self: true,
			targets: []target{guardian(nil), {name: "am", rows: rows{
				`alertmanager_notifications_failed_total{integration="webhook"}`: step(60, 3)}}},
			want: map[int][]string{45: {heartbeat}, 90: {heartbeat, failing}},
		},
		"another team's webhook fails, and Alertmanager says whose": {self: true,
			targets: []target{guardian(nil), {name: "am", rows: rows{
				`alertmanager_notifications_failed_total{integration="webhook",receiver_name="payments/pager"}`:   step(60, 3),
				`alertmanager_notifications_failed_total{integration="webhook",receiver_name="guardian-staging"}`: step(60, 3)}}},
			want: map[int][]string{90: {heartbeat}},
		},
		"guardian's own does": {self: true,
			targets: []target{guardian(nil), {name: "am", rows: rows{
				`alertmanager_notifications_failed_total{integration="webhook",receiver_name="guardian-microservices"}`: step(60, 3)}}},
			want: map[int][]string{45: {heartbeat}, 90: {heartbeat, failing}},
		},
		"Alertmanager's mails fail": {self: true,
			targets: []target{guardian(nil), {name: "am", rows: rows{
				`alertmanager_notifications_failed_total{integration="email"}`: step(60, 3)}}},
			want: map[int][]string{90: {heartbeat}},
		},
		"Prometheus drops alerts": {self: true,
			targets: []target{guardian(nil), {name: "prom", rows: rows{`prometheus_notifications_dropped_total`: step(60, 3)}}},
			want:    map[int][]string{45: {heartbeat}, 90: {heartbeat, failing}},
		},
		"a rolled back canary": {self: true,
			targets: []target{guardian(rows{state("rolled-back"): step(60, 1, 120, 0), state("blocked"): always(0.0)})},
			want:    map[int][]string{45: {heartbeat}, 75: {heartbeat, back}, 135: {heartbeat}},
		},
		"a canary that would be rolled back if the guard enforced": {self: true,
			targets: []target{guardian(rows{state("rolled-back"): always(0.0), `guardian_observing{guard="orders-service"}`: always(1.0), `guardian_would_be_rolled_back{guard="orders-service"}`: step(60, 1, 120, 0)})},
			want:    map[int][]string{45: {heartbeat}, 75: {heartbeat, wouldBe}, 135: {heartbeat}},
		},
		"a rollback that cannot be done": {self: true,
			targets: []target{guardian(rows{state("rolled-back"): always(0.0), state("blocked"): step(60, 1)})},
			want:    map[int][]string{45: {heartbeat}, 75: {heartbeat, blocked}},
		},
		"a guard that guardian cannot read or write": {self: true,
			targets: []target{guardian(rows{`guardian_reconcile_failures_total{guard="orders-service"}`: step(60, 1, 75, 2, 90, 3, 105, 4, 120, 5, 135, 6)})},
			want:    map[int][]string{75: {heartbeat}, 240: {heartbeat, reconciling}},
		},
		"a guard whose writes failed twice": {self: true,
			targets: []target{guardian(rows{`guardian_reconcile_failures_total{guard="orders-service"}`: step(60, 1, 75, 2)})},
			want:    map[int][]string{240: {heartbeat}},
		},
		"a brake that a person has taken off": {self: true,
			targets: []target{guardian(rows{state("rolled-back"): always(0.0), state("disarmed"): step(60, 1, 120, 0)})},
			want:    map[int][]string{45: {heartbeat}, 75: {disarmed, heartbeat}, 135: {heartbeat}},
		},
		"a rollback after which the traffic has moved": {self: true,
			targets: []target{
				guardian(rows{state("rolled-back"): step(60, 1), `guardian_weight_percent{guard="orders-service",subset="v2"}`: step(0, 10, 60, 0)}),
				stable(), {name: "canary", phase: 3, rows: rows{requests("orders-v2", "200"): func(s int) any { return rate(10, 0)(min(s, 62)) }}},
			},
			want: map[int][]string{75: {heartbeat, back}, 180: {heartbeat, back}, 300: {heartbeat, back}},
		},
		"a rollback after which the traffic has not": {self: true,
			targets: []target{
				guardian(rows{state("rolled-back"): step(60, 1), `guardian_weight_percent{guard="orders-service",subset="v2"}`: step(0, 10, 60, 0)}),
				stable(), canary(),
			},
			want: map[int][]string{75: {heartbeat, back}, 120: {heartbeat, back}, 180: {heartbeat, vain, back}},
		},
		"a guard whose rules cannot be made": {self: true,
			targets: []target{guardian(rows{"guardian_rules_guards_left_out": step(60, 1)})},
			want:    map[int][]string{60: {heartbeat}, 105: {heartbeat}, 150: {heartbeat, incomplete}},
		},
		"a canary that no rule watches": {self: true,
			targets: []target{guardian(rows{`guardian_guard_unwatched{guard="orders-service"}`: step(60, 1, 240, 0)})},
			want:    map[int][]string{165: {heartbeat}, 210: {unwatched, heartbeat}, 270: {heartbeat}},
		},
		"a cache that is filled at once": {self: true,
			targets: []target{guardian(rows{`guardian_cache_filled{resource="pods"}`: step(60, 1), `guardian_watch_alive{resource="pods"}`: always(1.0)})},
			want:    map[int][]string{75: {heartbeat}, 180: {heartbeat}},
		},
		"a cache that is not filled": {self: true,
			targets: []target{guardian(rows{`guardian_cache_filled{resource="pods"}`: step(240, 1), `guardian_watch_alive{resource="pods"}`: always(1.0)})},
			want:    map[int][]string{45: {heartbeat}, 135: {cannot, heartbeat}, 270: {heartbeat}},
		},
		"a watch of one of two replicas that is dead": {self: true,
			targets: []target{
				guardian(rows{`guardian_watch_alive{resource="pods"}`: step(0, 1, 60, 0, 240, 1), `guardian_watch_alive{resource="services"}`: always(1.0)}),
				{name: "second", phase: 3, rows: rows{`guardian_watch_alive{resource="pods"}`: always(1.0)}},
			},
			want: map[int][]string{90: {heartbeat}, 165: {cannot, heartbeat}, 270: {heartbeat}},
		},
		"a VirtualService that leads to the canary and is not guarded": {self: true,
			targets: []target{guardian(rows{`guardian_unguarded_virtualservices{guard="orders-service"}`: step(60, 1, 240, 0)})},
			want:    map[int][]string{45: {heartbeat}, 150: {unguarded, heartbeat}, 270: {heartbeat}},
		},
		"a lock of somebody else": {self: true,
			targets: []target{guardian(rows{`guardian_foreign_locks{guard="orders-service"}`: step(60, 2, 240, 0)})},
			want:    map[int][]string{45: {heartbeat}, 165: {foreign, heartbeat}, 270: {heartbeat}},
		},
		"a configuration that one of two replicas has refused": {self: true,
			targets: []target{
				guardian(rows{"guardian_config_last_reload_successful": step(0, 1, 30, 0, 370, 1)}),
				{name: "second", phase: 3, rows: rows{"guardian_config_last_reload_successful": always(1.0)}},
			},
			want: map[int][]string{300: {heartbeat}, 365: {refused, heartbeat}, 395: {heartbeat}},
		},
		"one that is mended within minutes": {self: true,
			targets: []target{guardian(rows{"guardian_config_last_reload_successful": step(0, 1, 30, 0, 240, 1)})},
			want:    map[int][]string{120: {heartbeat}, 240: {heartbeat}, 390: {heartbeat}},
		},
		"a release without a canary": {self: true,
			targets: []target{guardian(rows{`guardian_releases_without_canary_total{guard="orders-service"}`: step(60, 1)})},
			want:    map[int][]string{45: {heartbeat}, 75: {heartbeat, without}},
		},
	})
}

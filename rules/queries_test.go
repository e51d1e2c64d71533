package rules

import (
	"slices"
	"testing"
	"time"
)

func TestTheProofIsThatTheGuardsOwnGroupsAreEvaluatedAndRecordItsRequests(t *testing.T) {
	o := Options{Guards: shops(2), Namespace: "microservices", Interval: time.Second, ScrapeInterval: scrape * time.Second}
	one := with(shops(1)[0], func(g *Guard) {
		g.Canary.Workloads, g.Stable.Workloads = []string{"orders-v2"}, []string{"orders-v1"}
	})
	o.Guards[0] = one
	fresh := func(g Guard) string { return "(" + o.Proof(g) + ") < bool 20" }
	groups := []string{`{group="guards"}`, `{group="latency"}`, `{group="requests"}`, `{group="restarts"}`, `{group="traffic"}`}
	both := slices.Concat(groups, []string{`{guardian_side="canary"}`, `{guardian_side="stable"}`})
	unknown := with(one, func(g *Guard) { g.Name = "payments" })
	elsewhere := o
	elsewhere.Namespace = "another"
	runAll(t, nil, map[string]scenario{
		"two guards": {
			guards:  o.Guards,
			options: func(own *Options) { own.Namespace = o.Namespace },
			targets: []target{stable(), {name: "canary", phase: 3, rows: rows{requests("orders-v2", "200"): until(60, rate(10, 0), func(int) any { return nil })}}},
			queries: map[int]map[string][]string{
				30: {fresh(one): both, fresh(unknown): nil, "(" + elsewhere.Proof(one) + ") == 1": both[len(groups):]},
				90: {fresh(one): slices.Concat(groups, []string{`{guardian_side="stable"}`})},
			},
		},
	})
	if need := o.Groups(one); len(need) != len(groups) {
		t.Errorf("needs %v", need)
	}
	if need := o.Groups(Guard{Name: "x"}); need != nil {
		t.Errorf("a guard without signals needs %v", need)
	}
}

// One query has it all; a burst of failures that begins a series is in it.
func TestATallyHasRequestsFailuresAndLatency(t *testing.T) {
	one := with(shops(1)[0], func(g *Guard) { g.Canary.Workloads, g.Stable.Workloads = []string{"orders-v2"}, []string{"orders-v1"} })
	tally := Options{}.Tally(one, time.Minute)
	requestsAre, failed := `{tally="requests"}`, `{tally="failed"}`
	count := func(workload, code string, per float64, more ...string) rows {
		return rows{requests(workload, code, more...): rate(per, 0)}
	}
	canary := count("orders-v2", "200", 10)
	for key, row := range timed("orders-v2", "500", 10, 0.02, 0) {
		canary[key] = row
	}
	canary[requests("orders-v2", "503")] = until(100, func(int) any { return nil }, always(30.0))
	canary[requests("orders-v2", "200", `grpc_response_status="14"`)] = always(7.0) // older than the window
	runAll(t, nil, map[string]scenario{
		"a canary beside stable": {
			guards:  []Guard{one},
			targets: []target{stable(), {name: "canary", rows: canary}},
			queries: map[int]map[string][]string{
				90: {"((" + tally + ") == 0) > bool -1": {failed}, "((" + tally + ") > 500 < 700) > bool -1": {
					`{le="+Inf", reporter="destination"}`, `{le="250", reporter="destination"}`, `{le="500", reporter="destination"}`, requestsAre}},
				120: {"((" + tally + ") == 30) > bool -1": {failed}},
			},
		},
	})
}

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

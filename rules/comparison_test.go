package rules

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	worseHold     = "GuardianCanaryWorseThanStableHold/hold orders-service"
	worseRollback = "GuardianCanaryWorseThanStable/rollback orders-service"
	worseWarning  = "GuardianCanaryWorseThanStableWarning/none orders-service"
)

// comparing is a guard whose limits are far away.
func comparing(change func(*Signals)) []Guard {
	return []Guard{with(orders(), func(g *Guard) {
		g.Signals = Signals{ErrorRate: &ErrorRate{Max: 0.5}, Comparison: &Comparison{Ratio: 1.5, Min: 0.0001, Warmup: time.Minute}}
		change(&g.Signals)
	})}
}

// Blocks end at seconds 15, 30, and so on, and are judged at the evaluation after. The first one with
// requests is told of at 45, so that the first one which is compared is told of at 120.
func TestComparison(t *testing.T) {
	as := func(action Action) []Guard { return comparing(func(s *Signals) { s.Comparison.Action = action }) }
	failing := func(workload string, all, bad float64, from int) rows {
		return rows{requests(workload, "200"): rate(all-bad, 0), requests(workload, "503"): rate(bad, from)}
	}
	sides := func(stableBad, canaryBad float64, from int) []target {
		return []target{{name: "stable", phase: 1, rows: failing("orders-v1", 100, stableBad, 0)}, {name: "canary", phase: 3, rows: failing("orders-v2", 10, canaryBad, from)}}
	}
	const (
		one    = `{namespace="microservices",guardian_guard="orders-service"}`
		began  = `max by (namespace, guardian_guard) (guardian_canary:comparison:began)`
		judged = `count by (namespace, guardian_guard) (guardian_canary:requests:allowed_share)`
	)
	all := map[string]scenario{
		"ten times as many failures as stable's are a hold after eight blocks": {
			guards: as(""), targets: sides(1, 1, 0),
			want: map[int][]string{210: nil, 225: {worseHold}, 300: {worseHold}},
			texts: map[int]text{230: {worseHold, "orders-service: the canary is worse than stable",
				"The canary of orders-service in microservices is worse than stable at the same time, by more than 1.5 times: 10% of its requests fail, and 1% of stable's, by what reporter destination counted within 30m. guardian holds the canary where it is, and does not roll back: signals.comparison.action is hold."}},
		},
		"a rollback where that is asked for":   {guards: as(ActionRollback), targets: sides(1, 1, 0), want: map[int][]string{210: nil, 225: {worseRollback}}},
		"for people alone where it is none":    {guards: as(ActionNone), targets: sides(1, 1, 0), want: map[int][]string{210: nil, 225: {worseWarning}}},
		"as many as stable's are none":         {guards: as(""), targets: sides(10, 1, 0), want: map[int][]string{120: nil, 240: nil, 390: nil}},
		"a third more is within the ratio":     {guards: as(""), targets: sides(30, 4, 0), want: map[int][]string{120: nil, 240: nil, 390: nil}},
		"no failure at all":                    {guards: as(""), targets: sides(0, 0, 0), want: map[int][]string{120: nil, 390: nil}},
		"few failures beside none of stable's": {guards: as(""), targets: sides(0, 0.02, 0), want: map[int][]string{120: nil, 240: nil}},
		"while it is cold, failures do not count": {
			guards: as(""), targets: []target{{name: "stable", phase: 1, rows: failing("orders-v1", 100, 1, 0)},
				{name: "canary", phase: 3, rows: rows{requests("orders-v2", "200"): rate(9, 0), requests("orders-v2", "503"): until(70, rate(5, 0), always(350.0))}}},
			want: map[int][]string{90: nil, 120: nil, 240: nil},
		},
		"its end is that of the bad requests": {
			guards: as(""), targets: []target{{name: "stable", phase: 1, rows: failing("orders-v1", 100, 1, 0)},
				{name: "canary", phase: 3, rows: rows{requests("orders-v2", "200"): rate(9, 0), requests("orders-v2", "503"): until(240, rate(1, 0), always(240.0))}}},
			want: map[int][]string{225: {worseHold}, 240: {worseHold}, 390: nil},
		},
		"without stable there is nothing to compare with": {
			guards: as(""), targets: []target{{name: "canary", phase: 3, rows: failing("orders-v2", 10, 1, 0)}},
			want: map[int][]string{120: nil, 240: nil},
		},
		"a canary that gets requests anew is cold anew": {
			guards: as(""), targets: []target{{name: "stable", phase: 1, rows: failing("orders-v1", 100, 1, 0)},
				{name: "canary", phase: 3, rows: rows{requests("orders-v2", "200"): until(90, rate(9, 0), until(240, always(810.0), func(s int) any { return 810 + 9.0*float64(s-240) })),
					requests("orders-v2", "503"): until(90, rate(1, 0), until(240, always(90.0), func(s int) any { return 90 + 1.0*float64(s-240) }))}}},
			// None within a minute from 180 on, and again at 270.
			queries: map[int]map[string][]string{
				165: {began + ` < bool 100`: {one}, judged: {one}},
				225: {began + ` < bool 100`: {one}},
				255: {began: nil},
				270: {began + ` > bool 255`: {one}, judged: nil},
				330: {began + ` > bool 255`: {one}, judged: nil},
				360: {began + ` > bool 255`: {one}, judged: {one}},
			},
			want: map[int][]string{330: nil},
		},
		"a canary that has none for two minutes goes on from where it was": {
			guards: as(""), targets: []target{{name: "stable", phase: 1, rows: failing("orders-v1", 100, 1, 0)},
				{name: "canary", phase: 3, rows: rows{requests("orders-v2", "200"): until(240, rate(9, 0), until(330, always(2160.0), func(s int) any { return 2160 + 9.0*float64(s-330) })),
					requests("orders-v2", "503"): until(240, rate(1, 0), until(330, always(240.0), func(s int) any { return 240 + 1.0*float64(s-330) }))}}},
			want: map[int][]string{225: {worseHold}, 330: {worseHold}, 360: {worseHold}, 390: {worseHold}},
		},
		"what is told is what one reporter counted": {
			guards: as(""), targets: append(sides(1, 1, 0), target{name: "gateway", phase: 2, rows: rows{
				requests("orders-v1", "200", `reporter="source"`): rate(90, 0), requests("orders-v1", "503", `reporter="source"`): rate(10, 0),
				requests("orders-v2", "200", `reporter="source"`): rate(7, 0), requests("orders-v2", "503", `reporter="source"`): rate(3, 0)}}),
			want: map[int][]string{225: {worseHold}},
			texts: map[int]text{230: {worseHold, "orders-service: the canary is worse than stable",
				"The canary of orders-service in microservices is worse than stable at the same time, by more than 1.5 times: 10% of its requests fail, and 1% of stable's, by what reporter destination counted within 30m. guardian holds the canary where it is, and does not roll back: signals.comparison.action is hold."}},
		},
		"slow requests": {
			guards: comparing(func(s *Signals) {
				s.ErrorRate, s.Latency = nil, &Latency{Quantile: 0.5, Max: 500 * time.Millisecond}
			}),
			targets: []target{{name: "stable", phase: 1, rows: merge(timed("orders-v1", "500", 100, 0.01, 0), rows{requests("orders-v1", "200"): rate(100, 0)})},
				{name: "canary", phase: 3, rows: merge(timed("orders-v2", "500", 10, 0.1, 0), rows{requests("orders-v2", "200"): rate(10, 0)})}},
			want: map[int][]string{210: nil, 225: {worseHold}},
			texts: map[int]text{230: {worseHold, "orders-service: the canary is worse than stable",
				"The canary of orders-service in microservices is worse than stable at the same time, by more than 1.5 times: 10% of its requests are too slow, and 1% of stable's, by what reporter destination counted within 30m. guardian holds the canary where it is, and does not roll back: signals.comparison.action is hold."}},
		},
		"failures of a guard that is judged by latency alone are not compared, beside one that is not": {
			guards: append(comparing(func(s *Signals) {
				s.ErrorRate, s.Latency = nil, &Latency{Quantile: 0.5, Max: 500 * time.Millisecond}
			}), with(as("")[0], func(g *Guard) { g.Name = "other" })),
			targets: sides(1, 1, 0),
			want:    map[int][]string{225: {"GuardianCanaryWorseThanStableHold/hold other"}, 300: {"GuardianCanaryWorseThanStableHold/hold other"}},
		},
		"of a guard that did not ask for it nothing is compared": {
			guards:  append(as(""), with(orders(), func(g *Guard) { g.Name, g.Signals = "other", Signals{ErrorRate: &ErrorRate{Max: 0.5}} })),
			targets: sides(1, 1, 0),
			want:    map[int][]string{225: {worseHold}, 300: {worseHold}},
		},
	}
	for name, s := range all {
		s.every = 15
		all[name] = s
	}
	runAll(t, nil, all)
}

func TestTheComparisonIsOffUnlessAskedFor(t *testing.T) {
	for _, g := range generated(t, Options{Guards: []Guard{with(orders(), func(g *Guard) { g.Signals.Comparison = nil })}}).groups() {
		for _, r := range g.Rules {
			if strings.Contains(g.Name+r.Record+r.Alert, "comparison") || strings.Contains(r.Record, "worse") {
				t.Errorf("%s: %s%s", g.Name, r.Record, r.Alert)
			}
		}
	}
	if groups := (Options{}).Groups(comparing(func(*Signals) {})[0]); groups["comparison"] == 0 {
		t.Errorf("nothing proves that it is evaluated: %v", groups)
	}
}

func TestWhatTheComparisonRefuses(t *testing.T) {
	for want, change := range map[string]func(*Signals){
		"signals.comparison.ratio: 0.9; want 1 to 100":                   func(s *Signals) { s.Comparison.Ratio = 0.9 },
		"signals.comparison.min: 0; want more than 0":                    func(s *Signals) { s.Comparison.Min = 0 },
		"signals.comparison.warmup: -1s; want 0s":                        func(s *Signals) { s.Comparison.Warmup = -time.Second },
		"on without errorRate and latency; want one of them":             func(s *Signals) { s.ErrorRate = nil },
		`signals.comparison.action: "page"; want rollback, hold or none`: func(s *Signals) { s.Comparison.Action = "page" },
	} {
		if _, err := Generate(Options{Guards: comparing(change)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// The first block of a stall of both that is scraped apart, when the one before is forgotten, adds comparisonMost, and half of
// that is forgotten in an hour. Of smaller bursts in between this says nothing: test/judge counts what those do.
func TestOneFullBetEachTimeThatAllIsForgottenIsNoProof(t *testing.T) {
	if sum := comparisonMost / (1 - math.Exp2(-comparisonScale.Hours()/comparisonHalf.Hours())); sum > 0.9*comparisonProof {
		t.Errorf("one such block in %v adds up to %.1f, and %d is proof", comparisonScale, sum, comparisonProof)
	}
}

// The longest time that old evidence can roll a new build back has to be over before it does.
func TestTheAlertWindowHasTheEvidenceThatIsKept(t *testing.T) {
	window := func(action Action) time.Duration {
		return Options{Guards: comparing(func(s *Signals) { s.Comparison.Action = action })}.AlertWindow()
	}
	if held, rolled := window(ActionHold), window(ActionRollback); rolled-held < 15*time.Minute || rolled < comparisonLasts() {
		t.Errorf("%v with a hold, %v with a rollback; evidence lasts %v", held, rolled, comparisonLasts())
	}
	if lasts := comparisonLasts(); lasts != 24*time.Minute+54*time.Second {
		t.Errorf("the runbook says 25 minutes, it is %v", lasts)
	}
	names := []string{}
	for _, c := range comparedShares {
		names = append(names, c.share, c.both, c.mine, c.above, c.worse)
	}
	slices.Sort(names)
	if len(slices.Compact(names)) != 5*len(comparedShares) {
		t.Error(fmt.Sprint("two shares are recorded by one name: ", names))
	}
}

package rules

import (
	"maps"
	"reflect"
	"strings"
	"testing"
)

// acting are orders-service and two more guards of the same workloads, whose signals
// hold and decide nothing.
func acting(signals Signals) []Guard {
	as := func(name string, action Action) Guard {
		return with(orders(), func(g *Guard) {
			g.Name = name
			g.Signals = Signals{}
			if s := signals.ErrorRate; s != nil {
				g.Signals.ErrorRate = &ErrorRate{Max: s.Max, Action: action}
			}
			if s := signals.Latency; s != nil {
				g.Signals.Latency = &Latency{Quantile: s.Quantile, Max: s.Max, Action: action}
			}
			if s := signals.Restarts; s != nil {
				g.Signals.Restarts = &Restarts{Max: s.Max, Window: s.Window, Action: action}
			}
			if s := signals.Traffic; s != nil {
				g.Signals.Traffic = &Traffic{ShareTolerance: s.ShareTolerance, Action: action}
			}
			if s := signals.Comparison; s != nil {
				c := *s
				c.Action = or(action, ActionRollback)
				g.Signals.Comparison = &c
			}
		})
	}
	return []Guard{as("orders-service", ""), as("holds", ActionHold), as("warns", ActionNone)}
}

// ofAll has guardian's rows for all guards of acting.
func ofAll(g target) target {
	all := rows{}
	for row, value := range g.rows {
		for _, name := range []string{"orders-service", "holds", "warns"} {
			all[strings.ReplaceAll(row, `guard="orders-service"`, `guard="`+name+`"`)] = value
		}
	}
	g.rows = all
	return g
}

func TestEachSignalDoesWhatItsActionSays(t *testing.T) {
	all := orders().Signals
	errors, latency := acting(Signals{ErrorRate: all.ErrorRate}), acting(Signals{Latency: all.Latency})
	restarts, traffic := acting(Signals{Restarts: all.Restarts}), acting(Signals{Traffic: all.Traffic})
	fails := rows{requests("orders-v2", "503"): born(10, 60)}
	ten := func(int) any { return 10.0 }
	gateway := func(stable, canary, lost func(int) any) target {
		return target{name: "gateway", phase: 4, rows: rows{
			requests("orders-v1", "200", `reporter="source"`): stable,
			requests("orders-v2", "200", `reporter="source"`): canary,
			requests("unknown", "503", `reporter="source"`, `destination_service_name="orders-service"`, `destination_service_namespace="microservices"`): lost,
		}}
	}
	slump := func(n float64) func(int) any { return func(s int) any { return rate(n, 0)(min(s, 100)) } }
	three := func(name string) []string {
		return []string{name + "/rollback orders-service", name + "Hold/hold holds", name + "Warning/none warns"}
	}
	fallen := func(n float64) func(int) any {
		return until(320, rate(n, 0), func(s int) any { return 320*n + n/10*float64(s-320) })
	}
	runAll(t, nil, map[string]scenario{
		"a failing canary": {
			guards: errors, targets: []target{stable(), canary(fails)},
			// What holds needs no comparison with stable, whose next scrape is at 66.
			want: map[int][]string{62: nil, 63: {errorHoldOf("holds"), "GuardianCanaryErrorRateWarning/none warns"}, 66: three("GuardianCanaryErrorRate"), 120: three("GuardianCanaryErrorRate")},
		},
		"a canary that fails as stable does": {
			guards: errors, targets: []target{stable(rows{requests("orders-v1", "503"): born(90, 60)}), canary(fails)},
			want: map[int][]string{120: {errorHold, errorHoldOf("holds"), "GuardianCanaryErrorRateWarning/none warns"}},
		},
		"a slow canary": {
			guards: latency, targets: latencyTargets("500", 0, 1), want: map[int][]string{62: nil, 71: three("GuardianCanaryLatency")},
		},
		"restarts": {
			guards: restarts, targets: []target{ofAll(replica("a", nil, step(60, 1, 80, 2, 100, 3), always(0.0)))},
			want: map[int][]string{100: nil, 117: three("GuardianCanaryRestarts")},
		},
		"containers that cannot start": {
			guards: restarts, targets: []target{ofAll(withRows(replica("a", nil, nil, nil), rows{waiting("ImagePullBackOff", "v2"): between(60, 999, 1)}))},
			want: map[int][]string{91: nil, 92: {waitingHold, "GuardianCanaryNotStarting/hold holds", "GuardianCanaryNotStartingWarning/none warns"}},
		},
		"a share below the tolerance": {
			guards: traffic, targets: []target{ofAll(replica("guardian", ten, nil, nil)), gateway(rate(96, 0), rate(4, 0), always(nil))},
			want: map[int][]string{60: nil, 100: three("GuardianCanaryTraffic")},
		},
		"a share above the tolerance": {
			guards: traffic, targets: []target{ofAll(replica("guardian", ten, nil, nil)), gateway(rate(84, 0), rate(16, 0), always(nil))},
			want: map[int][]string{60: nil, 100: {trafficHold, "GuardianCanaryTrafficHold/hold holds", "GuardianCanaryTrafficWarning/none warns"}},
		},
		"refused connections": {
			guards: traffic, targets: []target{ofAll(replica("guardian", ten, nil, nil)), gateway(rate(90, 0), slump(10), born(10, 100))},
			want: map[int][]string{103: nil, 104: three("GuardianCanaryRefused")},
		},
		"the whole service has fewer requests": {
			guards: traffic, targets: []target{ofAll(replica("guardian", ten, nil, nil)), gateway(fallen(90), fallen(10), always(nil))},
			want: map[int][]string{320: nil, 385: {serviceHold, "GuardianServiceTrafficDropped/hold holds", "GuardianServiceTrafficDroppedWarning/none warns"}},
		},
		"one that holds says that it is by the configuration": {
			guards: errors[1:2], targets: []target{stable(), canary(fails)},
			texts: map[int]text{80: {errorHoldOf("holds"), "holds: 50% of the canary's requests fail",
				"50% of the requests to the canary of holds in microservices fail (limit 1%); of stable's 0%. guardian holds the canary where it is, and does not roll back: signals.errorRate.action is hold."}},
		},
		"one of several": {
			guards: errors[1:], targets: []target{stable(), canary(fails)},
			texts: map[int]text{80: {"GuardianCanaryErrorRateWarning/none warns", "warns: 50% of the canary's requests fail",
				"50% of the requests to the canary of warns in microservices fail (limit 1%); of stable's 0%. guardian does nothing: signals.errorRate.action is none."}},
		},
		"beside one whose signal rolls back": {
			guards: errors[:2], targets: []target{stable(), canary(fails)},
			texts: map[int]text{80: {errorHoldOf("holds"), "holds: 50% of the canary's requests fail",
				"50% of the requests to the canary of holds in microservices fail (limit 1%); of stable's 0%. guardian holds the canary where it is, and does not roll back: signals.errorRate.action is hold."}},
		},
	})
}

func errorHoldOf(guard string) string { return AlertErrorRateHold + "/hold " + guard }

// withRows is a target with more rows.
func withRows(g target, more ...rows) target {
	g.rows = merge(maps.Clone(g.rows), more...)
	return g
}

func TestASignalThatAlwaysRollsBackNeedsNoSeriesOfActions(t *testing.T) {
	for _, g := range generated(t, Options{Guards: []Guard{orders()}}).groups() {
		for _, r := range g.Rules {
			if r.Record == signalAction || strings.Contains(r.Expr.StrVal, signalAction) {
				t.Errorf("%s%s reads or records %s: no guard has another action", r.Record, r.Alert, signalAction)
			}
		}
	}
	g := with(orders(), func(g *Guard) { g.Signals = Signals{ErrorRate: &ErrorRate{Max: 0.01, Action: "page"}} })
	if _, err := Generate(Options{Guards: []Guard{g}}); err == nil || !strings.Contains(err.Error(), `signals.errorRate.action: "page"; want rollback, hold or none`) {
		t.Errorf("an action that there is not: %v", err)
	}
}

// Each signal is a field of Signals with an action of its own, and is recorded: what is
// written for the names of all of them must not leave one out.
func TestEachSignalHasAnActionAndIsRecorded(t *testing.T) {
	fields := reflect.TypeFor[Signals]()
	if names := SignalNames(); len(names) != fields.NumField() {
		t.Errorf("signals are %v, and a guard has %d", names, fields.NumField())
	}
	for _, name := range SignalNames() {
		field, ok := fields.FieldByNameFunc(func(field string) bool { return strings.EqualFold(field, name.Key()) })
		if !ok {
			t.Errorf("%s: a guard has none", name)
			continue
		}
		for _, want := range []Action{ActionRollback, ActionHold, ActionNone} {
			var s Signals
			one := reflect.New(field.Type.Elem())
			one.Elem().FieldByName("Action").SetString(string(want))
			reflect.ValueOf(&s).Elem().FieldByIndex(field.Index).Set(one)
			for _, of := range SignalNames() {
				if got, on := s.Action(of); on != (of == name) || on && got != want {
					t.Errorf("with %s alone, whose action is %s, %s is %v: %q", name, want, of, on, got)
				}
			}
		}
		var off Signals
		if fallback, _ := off.Action(name); fallback != ActionRollback && fallback != ActionHold {
			t.Errorf("%s: an action of %q where none is set", name, fallback)
		}
		if len(name.Recorded().Judged) == 0 {
			t.Errorf("%s: nothing tells when it was judged", name)
		}
	}
	if action, on := orders().Signals.Action("no such signal"); on || action != ActionRollback {
		t.Errorf("what is no signal is on: %v, %q", on, action)
	}
}

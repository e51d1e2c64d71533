package rules

import (
	"strings"
	"testing"
)

// told is a guard that tells failed requests by matchers of its own.
func told(g Guard, matchers ...string) Guard {
	e := *g.Signals.ErrorRate
	e.Failures = matchers
	g.Signals.ErrorRate = &e
	return g
}

func TestAGuardSaysWhichRequestsHaveFailed(t *testing.T) {
	only := with(orders(), func(g *Guard) { g.Signals = Signals{ErrorRate: g.Signals.ErrorRate} })
	codes := told(only, `response_code=~"5..|401|404"`)
	denied := func(code string, from int) target {
		return target{name: "canary", phase: 3, rows: rows{requests("orders-v2", "200"): func(s int) any { return rate(10, 0)(min(s, from)) }, requests("orders-v2", code): born(10, from)}}
	}
	patient := with(only, func(g *Guard) { g.Name = "patient" })
	runAll(t, nil, map[string]scenario{
		"404 to everybody": {
			guards:  []Guard{codes},
			targets: []target{stable(), denied("404", 60)},
			want:    map[int][]string{62: nil, 66: {errorRollback}},
		},
		"5xx are none where they are not named": {
			guards:  []Guard{told(only, `response_code="404"`)},
			targets: []target{stable(), denied("503", 60)},
			want:    map[int][]string{66: nil, 200: nil},
		},
		"404 to everybody by stable as well": {
			guards:  []Guard{codes},
			targets: []target{stable(rows{requests("orders-v1", "404"): born(90, 60)}), denied("404", 60)},
			want:    map[int][]string{66: {errorHold}, 120: {errorHold}},
		},
		"one that two matchers select counts once": {
			// 9 of 1,000 in a minute fail: below the limit, and twice as many are above it.
			guards:  []Guard{told(only, `response_code="404"`, `response_code=~"4..",response_flags!="NR"`)},
			targets: []target{stable(), canary(rows{requests("orders-v2", "404"): rate(0.08, 60)})},
			want:    map[int][]string{120: nil, 390: nil},
		},
		"flags": {
			guards:  []Guard{told(only, `response_flags=~".*(UF|URX).*"`)},
			targets: []target{stable(), canary(rows{requests("orders-v2", "0", `response_flags="UF,URX"`): born(10, 60)})},
			want:    map[int][]string{62: nil, 66: {errorRollback}},
		},
		"guards of the same workloads that tell them differently": {
			guards:  []Guard{codes, patient},
			targets: []target{stable(), denied("404", 60)},
			want:    map[int][]string{62: nil, 66: {errorRollback}, 200: {errorRollback}},
		},
		"guards of two namespaces that have one name": {
			guards: []Guard{told(only, `response_code="404"`), with(only, func(g *Guard) { g.Namespace = "staging" })},
			targets: []target{stable(), denied("404", 60), {name: "staging", phase: 2, rows: rows{
				`istio_requests_total{destination_workload="orders-v2",destination_workload_namespace="staging",reporter="destination",response_code="404"}`: born(10, 60)}}},
			queries: map[int]map[string][]string{200: {
				`count by (namespace) (sum_over_time(guardian_side:requests_failed:idelta[1m]) > 0)`: {`{namespace="microservices"}`},
			}},
		},
		"a guard whose name has a dot": {
			guards:  []Guard{with(codes, func(g *Guard) { g.Name = "orders.service" }), patient},
			targets: []target{stable(), denied("404", 60)},
			want:    map[int][]string{62: nil, 66: {"GuardianCanaryErrorRate/rollback orders.service"}},
		},
		"the other one's failures": {
			guards:  []Guard{told(only, `response_code="404"`), patient},
			targets: []target{stable(), denied("503", 60)},
			want:    map[int][]string{62: nil, 66: {"GuardianCanaryErrorRate/rollback patient"}, 200: {"GuardianCanaryErrorRate/rollback patient"}},
		},
	})
}

func TestFailuresAreChecked(t *testing.T) {
	for matchers, want := range map[string]string{
		`response_code=~"5..|404"`:                 "",
		`response_code="0",response_flags=~".*UF"`: "",
		`grpc_response_status=~"2|14"`:             "",
		`response_code!~"1..|2..|3.."`:             "",
		`"response_code"="500"`:                    "",
		`response_code!~"2..|3.."`:                 "selects websockets (101) as well",
		`response_code!="200"`:                     "selects requests that were answered with 204 as well",
		`response_code!~"1..|200"`:                 "selects requests that were answered with 204 as well",
		`__name__="x",response_code="500"`:         "the label __name__; want matchers of response_code, response_flags and grpc_response_status alone",
		`"istio_requests_total"`:                   "the label __name__; want",
		`response_code="500"} or x{y="z"`:          "want matchers without braces",
		`response_code="500" #`:                    "want matchers without braces",
		`response_code=~"5..`:                      "want matchers without braces",
		`reporter="source",response_code="500"`:    "the label reporter; want matchers of response_code, response_flags and grpc_response_status alone",
		`response_code=~"2..|404"`:                 "selects requests that were answered with 200 as well",
		`response_flags=~".*"`:                     "selects requests that were answered with 200 as well",
		`grpc_response_status!="14"`:               "selects requests that were answered with 200 as well",
		``:                                         "selects requests that were answered with 200 as well",
	} {
		_, err := Generate(Options{Guards: []Guard{told(orders(), matchers)}})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), `guard "orders-service": signals.errorRate.failures[0]: `) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", matchers, err, want)
		}
	}
}

// TestMissingLabelsAreThoseThatTheDefinitionsName asks of labels that something takes
// away on the way to Prometheus.
func TestMissingLabelsAreThoseThatTheDefinitionsName(t *testing.T) {
	const orders2 = `istio_requests_total{destination_workload="orders-v2",destination_workload_namespace="microservices",destination_service_name="orders-service",` +
		`destination_service_namespace="microservices",reporter="destination"`
	runAll(t, func(s *Signals) { *s = Signals{ErrorRate: s.ErrorRate} }, map[string]scenario{
		"by the default": {
			targets: []target{{name: "canary", phase: 3, rows: rows{orders2 + `}`: always(1.0), orders2 + `,request_protocol="grpc"}`: always(1.0)}}},
			queries: map[int]map[string][]string{9: {missingOf(): {`{missing="response_code"}`}}},
		},
		"by flags and gRPC": {
			targets: []target{{name: "canary", phase: 3, rows: rows{
				orders2 + `,response_code="200",request_protocol="http"}`:                               always(1.0),
				orders2 + `,response_code="200",response_flags="-",request_protocol="grpc"}`:            always(1.0),
				orders2 + `,response_code="",grpc_response_status="0",response_flags="-",source="any"}`: always(1.0)}}},
			queries: map[int]map[string][]string{9: {missingOf(`response_flags="UF"`, `grpc_response_status="14"`): {`{missing="response_flags"}`, `{missing="grpc_response_status"}`}}},
		},
	})
}

// missingOf is the query for labels that a guard with such failures misses.
func missingOf(failures ...string) string {
	g := told(orders(), failures...)
	g.Signals = Signals{ErrorRate: g.Signals.ErrorRate}
	return "group by (missing) (" + Options{Guards: []Guard{g}}.MissingLabels() + ")"
}

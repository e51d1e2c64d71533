package remediate

import (
	"strings"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/decision/decisiontest"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// What the rules read: each reason, and restarts that add up, at 0 too.
func TestContainersAreExportedByReason(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := NewMetrics(reg)
	g := decision.Guard{Name: "orders", Stable: virtualservice.Ref{Subset: "v1"}, Canary: virtualservice.Ref{Subset: "v2"}}
	m.start(g)
	var o outcome
	o.snapshot.sides.Canary.Waiting = map[string]int64{"ImagePullBackOff": 2, "ErrImagePull": 1, "SignatureValidationFailed": 1, "PreStartHookError": 1}
	m.observe(g, o)
	m.restarted("orders", g.Canary, map[string]int64{"OOMKilled": 2, "": 1})
	m.restarted("orders", g.Canary, map[string]int64{"OOMKilled": 1, "ContainerCannotRun": 4})
	want := `
# HELP guardian_workload_restarts_total Container restarts seen since this replica started, istio-proxy left out. Every replica counts all: use max.
# TYPE guardian_workload_restarts_total counter
guardian_workload_restarts_total{guard="orders",subset="v1"} 0
guardian_workload_restarts_total{guard="orders",subset="v2"} 8
# HELP guardian_workload_terminations_total The same restarts by the reason of the end before; reasons without any are left out.
# TYPE guardian_workload_terminations_total counter
guardian_workload_terminations_total{guard="orders",reason="OOMKilled",subset="v2"} 3
guardian_workload_terminations_total{guard="orders",reason="other",subset="v2"} 5
# HELP guardian_workload_waiting_containers Containers that something keeps from starting now, by the reason, istio-proxy left out; reasons without any are left out too.
# TYPE guardian_workload_waiting_containers gauge
guardian_workload_waiting_containers{guard="orders",reason="ErrImagePull",subset="v2"} 1
guardian_workload_waiting_containers{guard="orders",reason="ImagePullBackOff",subset="v2"} 2
guardian_workload_waiting_containers{guard="orders",reason="other",subset="v2"} 2
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want),
		"guardian_workload_restarts_total", "guardian_workload_terminations_total", "guardian_workload_waiting_containers"); err != nil {
		t.Error(err)
	}
}

func TestAnUnwatchedCanaryIsAMetric(t *testing.T) {
	m := NewMetrics(prometheus.NewPedanticRegistry())
	g := decision.Guard{Name: "orders-service", Stable: virtualservice.Ref{Subset: "v1"}, Canary: virtualservice.Ref{Subset: "v2"}}
	m.start(g)
	for text, want := range map[string]string{"": "0", decision.NoRequestsYet: "0", "not loaded": "1", decision.NoAnswer: "1"} {
		m.observe(g, outcome{decision: decision.Decision{Record: decision.Record{Status: decision.Status{Unwatched: text}}}})
		err := testutil.CollectAndCompare(m, strings.NewReader("# HELP guardian_guard_unwatched 1 while the canary has traffic and Prometheus does not show that the guard's rules watch it, as the lease holder has written it.\n"+
			"# TYPE guardian_guard_unwatched gauge\nguardian_guard_unwatched{guard=\"orders-service\"} "+want+"\n"), "guardian_guard_unwatched")
		if err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestSinceWhenTheCanarysBuildAnswersAloneIsAMetric(t *testing.T) {
	m := NewMetrics(prometheus.NewPedanticRegistry())
	m.start(decision.Guard{Name: "orders-service", Stable: virtualservice.Ref{Subset: "v1"}, Canary: virtualservice.Ref{Subset: "v2"}})
	for _, one := range []struct {
		status decision.Status
		want   string
	}{
		{decision.Status{}, ""},
		{decision.Status{BuildSince: time.Unix(1700000000, 5e8)}, "1.7000000005e+09"},
		{decision.Status{BuildSince: time.Unix(1700000060, 0), AloneSince: time.Unix(1700000000, 0)}, "1.7e+09"}, // it is on its way out
		{decision.Status{BuildSince: time.Unix(1700000000, 0), AloneSince: time.Unix(1700000060, 0)}, "1.70000006e+09"},
	} {
		m.observe(decision.Guard{Name: "orders-service"}, outcome{decision: decision.Decision{Record: decision.Record{Status: one.status}}})
		want := ""
		if one.want != "" {
			want = "# HELP guardian_canary_build_timestamp_seconds Since when the canary's present build alone answers: when its rollout ended, by its pods, or, where none was seen, when it appeared. During a rollout that of the build before.\n" +
				"# TYPE guardian_canary_build_timestamp_seconds gauge\nguardian_canary_build_timestamp_seconds{guard=\"orders-service\"} " + one.want + "\n"
		}
		if err := testutil.CollectAndCompare(m, strings.NewReader(want), "guardian_canary_build_timestamp_seconds"); err != nil {
			t.Errorf("%v: %v", one.want, err)
		}
	}
}

// The slowest rollbacks are those that a later pass does than the one that was given the
// alert: refused by the API server, or not safe at first.
func TestARollbackIsTimedOnceByThePassThatDoesIt(t *testing.T) {
	received := decisiontest.At
	given := map[string]submitted{"f1@x": {alert: decision.Alert{Fingerprint: "f1"}, received: received}}
	again := map[string]submitted{"f1@x": {alert: decision.Alert{Fingerprint: "f1"}, received: received.Add(time.Minute)}}
	pass := func(fingerprint string, done bool, m *decision.Moving) outcome {
		r := decision.Record{Lock: &decision.Lock{Fingerprint: fingerprint}, Status: decision.Status{Moving: m}}
		return outcome{decision: decision.Decision{Record: r, Move: decision.MoveStable}, done: done}
	}
	moving, reasserts := &decision.Moving{From: 50}, &decision.Moving{From: 50, Again: true}
	type step struct {
		out     outcome
		pending map[string]submitted
		want    time.Time
		failed  bool
	}
	for name, steps := range map[string][]step{
		"in one pass":                                      {{pass("f1", true, moving), given, received, false}, {pass("f1", true, moving), nil, time.Time{}, false}},
		"refused at first":                                 {{pass("f1", false, moving), given, time.Time{}, false}, {pass("f1", false, moving), again, time.Time{}, false}, {pass("f1", true, moving), nil, received, false}},
		"refused, and done by another":                     {{pass("f1", false, moving), given, time.Time{}, false}, {pass("f1", false, nil), nil, time.Time{}, false}, {pass("f1", true, moving), nil, time.Time{}, false}},
		"the alert came in elsewhere":                      {{pass("f1", true, moving), nil, time.Time{}, false}},
		"another alert came in meanwhile":                  {{pass("f2", true, moving), given, time.Time{}, false}},
		"put back once more":                               {{pass("f1", true, reasserts), again, time.Time{}, false}},
		"refused, and then a pass that could read nothing": {{pass("f1", false, moving), given, time.Time{}, true}, {outcome{}, nil, time.Time{}, true}, {pass("f1", true, moving), nil, received, false}},
	} {
		e := &entry{}
		for i, s := range steps {
			if got := e.rolledBackFrom(s.out, s.pending, s.failed); !got.Equal(s.want) {
				t.Errorf("%s, pass %d: the alert came in at %s, want %s", name, i, got, s.want)
			}
		}
	}
}

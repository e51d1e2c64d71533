package virtualtime_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/canary-guardian/guardian/rules"
	"github.com/canary-guardian/guardian/rules/virtualtime"
)

// The canary did badly in the first minute of its life; from failsFrom on one of the
// rules that count requests records nothing, as one does whose query fails.
const failsFrom, failsTo = 420, 450

// What the canary's proxy has counted in its life is no new requests when the rule is back.
func TestWhatWasCountedWhileARuleFailedIsNotNew(t *testing.T) {
	for _, what := range []string{"requests_failed:sum", "requests:sum", "requests:idelta", "requests_slow:sum", "requests_timed:sum", "requests_timed:idelta"} {
		t.Run(what, func(t *testing.T) {
			store := virtualtime.NewStore()
			mesh(store, 0)
			failing(t, store, groupsOf(t), func(r monitoringv1.Rule) bool { return strings.HasSuffix(r.Record, ":"+what) })
		})
	}
}

// Guards of one object may have different limits, each with a rule of its own.
func TestWhatWasCountedWhileTheRuleOfOneLimitFailedIsNotNew(t *testing.T) {
	var guards []rules.Guard
	for app, limit := range map[string]time.Duration{"orders": 500 * time.Millisecond, "carts": time.Second} {
		guards = append(guards, rules.Guard{Name: app + "-service", Namespace: "microservices",
			Stable:  rules.Side{Name: "v1", Service: app + "-service", Workloads: []string{app + "-v1"}},
			Canary:  rules.Side{Name: "v2", Service: app + "-service", Workloads: []string{app + "-v2"}},
			Signals: rules.Signals{Latency: &rules.Latency{Quantile: 0.95, Max: limit}}})
	}
	for _, edge := range []string{"0.5", "1"} {
		t.Run(edge, func(t *testing.T) {
			store := virtualtime.NewStore()
			slowAtFirst(store, "orders", "carts")
			failing(t, store, groupsFor(t, guards...), func(r monitoringv1.Rule) bool {
				return strings.HasSuffix(r.Record, ":requests_slow:sum") && r.Labels["edge"] == edge
			})
		})
	}
}

// Slow requests are all minus the fast ones: without all there is nothing that was added up.
func TestNoSlowRequestsAreNewWhereAllWereNotAddedUp(t *testing.T) {
	store := virtualtime.NewStore()
	slowAtFirst(store, "orders")
	e := failing(t, store, groupsOf(t), func(r monitoringv1.Rule) bool { return strings.HasSuffix(r.Record, ":requests_timed:sum") })
	is, err := e.Query(t.Context(), `last_over_time(guardian_target:sums:new{sum=~".*requests_slow:sum"}[1m])`, 1000*(failsTo+30))
	if err != nil || len(is) > 0 {
		t.Errorf("new: %v, %v", is, err)
	}
}

// slowAtFirst stores a quarter of an hour of scrapes of two pods of each version, of which
// the canary's were slow for a minute.
func slowAtFirst(store *virtualtime.Store, apps ...string) {
	for at := int64(0); at <= 900; at += 15 {
		for _, app := range apps {
			for _, pod := range []string{"v1-a", "v1-b", "v2-a", "v2-b"} {
				add := func(f float64, pairs ...string) {
					store.Append(labels.FromStrings(append(pairs, "job", "mesh", "instance", app+pod)...), 1000*at, f)
				}
				all, fast := float64(50*at), float64(50*at)
				if pod[:2] == "v2" {
					fast -= float64(50 * min(at, 60))
				}
				add(1, model.MetricNameLabel, "up")
				about := []string{"reporter", "destination", "destination_workload", app + "-" + pod[:2], "destination_workload_namespace", "microservices", "response_code", "200"}
				add(all, append(about, model.MetricNameLabel, "istio_requests_total")...)
				for le, f := range map[string]float64{"500": fast, "1000": fast, "+Inf": all} {
					add(f, append(about, model.MetricNameLabel, "istio_request_duration_milliseconds_bucket", "le", le)...)
				}
			}
		}
	}
}

// failing evaluates groups, some rules of which record nothing for a while, and fails t
// where an alert fires then or after.
func failing(t *testing.T, store *virtualtime.Store, groups []monitoringv1.RuleGroup, fails func(monitoringv1.Rule) bool) *virtualtime.Evaluator {
	t.Helper()
	e, err := virtualtime.New(store, switchedOff(t, groups, fails))
	if err != nil {
		t.Fatal(err)
	}
	off := labels.FromStrings(model.MetricNameLabel, "off")
	for now := int64(0); now <= failsTo+30; now++ {
		if now >= failsFrom && now < failsTo {
			store.Append(off, 1000*now, 1)
		} else {
			store.Append(off, 1000*now, virtualtime.Stale)
		}
		if err := e.Evaluate(t.Context(), 1000*now); err != nil {
			t.Fatal(err)
		}
		if fires := e.Firing(); now > failsFrom && len(fires) > 0 {
			t.Fatalf("at %d %s of %v", now, fires[0].Name, fires[0].Value)
		}
	}
	return e
}

// switchedOff has some rules record nothing while there is a series off.
func switchedOff(t *testing.T, groups []monitoringv1.RuleGroup, fails func(monitoringv1.Rule) bool) []monitoringv1.RuleGroup {
	t.Helper()
	out, found := slices.Clone(groups), false
	for i := range out {
		out[i].Rules = slices.Clone(out[i].Rules)
		for j, r := range out[i].Rules {
			if fails(r) {
				out[i].Rules[j].Expr, found = intstr.FromString("("+r.Expr.String()+") unless on () off"), true
			}
		}
	}
	if !found {
		t.Fatal("there is no such rule")
	}
	return out
}

package virtualtime_test

import (
	"fmt"
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

func groupsOf(t testing.TB) []monitoringv1.RuleGroup {
	t.Helper()
	return groupsFor(t, rules.Guard{
		Name: "orders-service", Namespace: "microservices",
		Stable: rules.Side{Name: "v1", Service: "orders-service", Workloads: []string{"orders-v1"}},
		Canary: rules.Side{Name: "v2", Service: "orders-service", Workloads: []string{"orders-v2"}},
		Signals: rules.Signals{ErrorRate: &rules.ErrorRate{Max: 0.01}, Latency: &rules.Latency{Quantile: 0.95, Max: 500 * time.Millisecond},
			Restarts: &rules.Restarts{Max: 2, Window: 5 * time.Minute}, Traffic: &rules.Traffic{ShareTolerance: 0.5}},
	})
}

func groupsFor(t testing.TB, guards ...rules.Guard) []monitoringv1.RuleGroup {
	t.Helper()
	r, err := rules.Generate(rules.Options{RestartsFrom: rules.FromKubeStateMetrics, Guards: guards})
	if err != nil {
		t.Fatal(err)
	}
	var out []monitoringv1.RuleGroup
	for _, object := range r.PrometheusRules("x", "x")[1:] {
		for _, g := range object.Spec.Groups {
			if g.Name != "guardian.overview" {
				out = append(out, g)
			}
		}
	}
	return out
}

// mesh stores an hour of scrapes of two pods of each version and two gateways, of which
// the canary fails from a second on for a minute.
func mesh(store *virtualtime.Store, fault int64) {
	for at := int64(0); at <= 3600; at += 15 {
		for _, target := range []string{"v1-a", "v1-b", "v2-a", "v2-b", "gateway-a", "gateway-b"} {
			add := func(f float64, pairs ...string) {
				store.Append(labels.FromStrings(append(pairs, "job", "mesh", "instance", target)...), 1000*at, f)
			}
			add(1, model.MetricNameLabel, "up")
			for _, version := range []string{"v1", "v2"} {
				reporter := "source"
				if target[0] == 'v' {
					if reporter = "destination"; target[:2] != version {
						continue
					}
				}
				about := []string{"reporter", reporter, "destination_workload", "orders-" + version, "destination_workload_namespace", "microservices"}
				for code, share := range map[string]float64{"200": 0.99, "404": 0.008, "503": 0.002} {
					count := share * float64(50*at)
					if code == "503" && version == "v2" {
						count += float64(10 * max(0, min(60, at-fault)))
					}
					add(count, append(about, model.MetricNameLabel, "istio_requests_total", "response_code", code)...)
					for le, within := range map[string]float64{"500": 0.99, "+Inf": 1} {
						add(share*within*float64(50*at), append(about, model.MetricNameLabel, "istio_request_duration_milliseconds_bucket", "response_code", code, "le", le)...)
					}
				}
			}
		}
	}
}

func BenchmarkEvaluate(b *testing.B) {
	store := virtualtime.NewStore()
	mesh(store, 3600)
	e, err := virtualtime.New(store, groupsOf(b))
	if err != nil {
		b.Fatal(err)
	}
	now := int64(0)
	for b.Loop() {
		now += 3000
		if err := e.Evaluate(b.Context(), now); err != nil {
			b.Fatal(err)
		}
	}
}

// TestWhatWasLongBeforeDoesNotMatter begins evaluations so long before as Reads says that
// the rules look back: then all is as if they had always been evaluated.
func TestWhatWasLongBeforeDoesNotMatter(t *testing.T) {
	groups := groupsOf(t)
	selectors, back, err := virtualtime.Reads(groups)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%v back, of %q", back, selectors)
	const from = 1200_000
	stores := []*virtualtime.Store{virtualtime.NewStore(), virtualtime.NewStore()}
	var all []*virtualtime.Evaluator
	for _, store := range stores {
		mesh(store, 1290)
		e, err := virtualtime.New(store, groups)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	fired, seen := 0, ""
	for now := int64(0); now <= 1500_000; now += all[0].Step() {
		for i, e := range all {
			if i == 0 || now >= from-back.Milliseconds() {
				if err := e.Evaluate(t.Context(), now); err != nil {
					t.Fatal(err)
				}
			}
		}
		if now < from {
			continue
		}
		if now%60_000 == 0 {
			stores[1].Trim(now - back.Milliseconds() - 60_000)
		}
		always, late := fmt.Sprint(all[0].Firing()), fmt.Sprint(all[1].Firing())
		if always != late {
			t.Fatalf("second %d: %s, begun late %s", now/1000, always, late)
		}
		if firing := all[0].Firing(); len(firing) > 0 && fmt.Sprint(firing[0].Name) != seen {
			fired, seen = fired+1, firing[0].Name
		}
		for _, query := range []string{"guardian_side:requests:idelta", "guardian_side:requests_slow:idelta", "guardian_canary:requests_failed:evidence"} {
			if a, b := textOf(t, all[0], query, now), textOf(t, all[1], query, now); a != b {
				t.Fatalf("second %d: %s: %s, begun late %s", now/1000, query, a, b)
			}
		}
	}
	if fired == 0 {
		t.Error("nothing fired")
	}
	if n := stores[1].Samples(); n == 0 || n >= stores[0].Samples() {
		t.Errorf("%d samples after trimming, of %d", n, stores[0].Samples())
	}
}

func textOf(t *testing.T, e *virtualtime.Evaluator, query string, now int64) string {
	t.Helper()
	v, err := e.Query(t.Context(), query, now)
	if err != nil {
		t.Fatal(err)
	}
	return v.String()
}

// TestAnAlertIsPendingThenFiresAndGoesOn has Prometheus's for and keep_firing_for.
func TestAnAlertIsPendingThenFiresAndGoesOn(t *testing.T) {
	store := virtualtime.NewStore()
	wait, keep, every := monitoringv1.Duration("20s"), monitoringv1.NonEmptyDuration("30s"), monitoringv1.Duration("10s")
	e, err := virtualtime.New(store, []monitoringv1.RuleGroup{{Name: "g", Interval: &every, Rules: []monitoringv1.Rule{
		{Record: "doubled", Expr: intstr.FromString("2 * x"), Labels: map[string]string{"by": "rule"}},
		{Alert: "High", Expr: intstr.FromString("doubled > 10"), For: &wait, KeepFiringFor: &keep, Labels: map[string]string{"a": "b"}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	value := map[int64]float64{50: 9, 60: 9, 70: 1, 80: 9, 90: 9, 100: 9, 110: 7, 120: 1, 130: 1, 140: 6, 150: 1, 160: 1, 170: 1, 180: 1, 190: 1}
	var firing []string
	for at := int64(10); at <= 200; at += 5 {
		if v, ok := value[at]; ok {
			store.Append(labels.FromStrings(model.MetricNameLabel, "x", "i", "1"), 1000*at, v)
		}
		if at == 195 {
			store.Append(labels.FromStrings(model.MetricNameLabel, "x", "i", "1"), 1000*at, virtualtime.Stale)
		}
		if err := e.Evaluate(t.Context(), 1000*at); err != nil {
			t.Fatal(err)
		}
		for _, a := range e.Firing() {
			firing = append(firing, fmt.Sprintf("%d: %s %s %v since %d, firing since %d", at, a.Name, a.Labels, a.Value, a.Since/1000, a.FiringSince/1000))
		}
		if got := e.Recorded("doubled", "by", "rule"); got != (at >= 50 && at < 200) {
			t.Errorf("second %d: recorded %v", at, got)
		}
	}
	// Due every ten seconds. Lost at 70, before the twenty were over; true from 80 to 110 and at 140; lost at 150 for thirty.
	var want []string
	for at := 100; at < 180; at += 5 {
		v := 18
		if at >= 110 {
			v = 14
		}
		if at >= 140 {
			v = 12
		}
		want = append(want, fmt.Sprintf(`%d: High {a="b", by="rule", i="1"} %d since 80, firing since 100`, at, v))
	}
	if fmt.Sprint(firing) != fmt.Sprint(want) {
		t.Errorf("fired\n%s\nwant\n%s", strings.Join(firing, "\n"), strings.Join(want, "\n"))
	}
}

func TestReadsAreWhatNoRuleRecords(t *testing.T) {
	selectors, back, err := virtualtime.Reads([]monitoringv1.RuleGroup{{Rules: []monitoringv1.Rule{
		{Record: "a", Expr: intstr.FromString(`sum(rate(x{m="1"}[5m] offset 1m)) + y`)},
		{Record: "b", Expr: intstr.FromString(`max_over_time(a[10m:1m]) or x{m="1",n=~"2|3"} or y`)},
		{Alert: "c", Expr: intstr.FromString(`b offset 3m > 1`)},
		{Record: "d", Labels: map[string]string{"n": "1"}, Expr: intstr.FromString(`last_over_time(d{n="1"}[15m]) + last_over_time(d{n="1"}[15m]) + y`)},
		{Record: "d", Labels: map[string]string{"n": "2"}, Expr: intstr.FromString(`last_over_time(d{n="2"}[15m]) + y`)},
	}}})
	if want := `[x{m="1"} y]`; err != nil || fmt.Sprint(selectors) != want || back != 24*time.Minute {
		t.Errorf("%v, %v back, %v; want %s and 24m: 5m of rate, 1m and 10m and 3m before, and Prometheus's 5m", selectors, back, err, want)
	}
	if _, _, err := virtualtime.Reads([]monitoringv1.RuleGroup{{Rules: []monitoringv1.Rule{{Record: "a", Expr: intstr.FromString("sum(")}}}}); err == nil {
		t.Error("no error for what is no PromQL")
	}
}

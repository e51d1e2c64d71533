package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/canary-guardian/guardian/rules"
)

// TestTheExampleOfTheDocs has Prometheus's engine go through the example of
// docs/alerts.md, with the rules at their defaults: stable gets 90 requests a second and
// the canary 10, of which a fifth fail from second 127 on. Stable's proxy is scraped six
// seconds after the canary's.
func TestTheExampleOfTheDocs(t *testing.T) {
	const fault, interval = 127, 3
	p := newPrometheusBy(t, rules.Options{Guards: []rules.Guard{orders(rules.Signals{ErrorRate: &rules.ErrorRate{Max: 0.01}})}})
	scraped := func(at int64, workload string, good, bad float64) {
		add := func(f float64, pairs ...string) {
			p.store.add(labels.FromStrings(append(pairs, "job", "mesh", "instance", workload)...), at*second, f)
		}
		add(1, model.MetricNameLabel, "up")
		about := []string{model.MetricNameLabel, "istio_requests_total", "reporter", "destination",
			"destination_workload", workload, "destination_workload_namespace", "microservices", "response_code"}
		add(good, append(about, "200")...)
		if bad > 0 {
			add(bad, append(about, "503")...)
		}
	}
	var rows []string
	row := func(at int64, what, query, format string) {
		found := p.query(query, at*second)
		if len(found) != 1 {
			t.Fatalf("second %d: %s: %v", at, query, found)
		}
		rows = append(rows, fmt.Sprintf("| %d | %s | `%s` | "+format+" |", at, what, strings.ReplaceAll(query, "|", `\|`), found[0].F))
	}
	const canary, window = `{guardian_side="canary"}`, `{window="15s"}`
	fired := int64(0)
	for now := int64(interval); now <= 150 && fired == 0; now += interval {
		if now%15 == 0 {
			bad := 2 * float64(max(0, now-fault))
			scraped(now, "orders-v2", 10*float64(now)-bad, bad)
		}
		if now%15 == 6 {
			scraped(now, "orders-v1", 90*float64(now), 0)
		}
		p.evaluate(now * second)
		if slices.Contains(p.firing, "GuardianCanaryErrorRate/rollback") {
			fired = now
		}
		if now == 135 {
			row(now, "the canary's proxy is scraped: so much has it counted", `guardian_workload_target:requests:sum{destination_workload="orders-v2"}`, "%.0f")
			row(now, "of those failed; that sum is new, and counts in full", `guardian_workload_target:requests_failed:sum{destination_workload="orders-v2"}`, "%.0f")
			row(now, "requests since the evaluation before", "guardian_side:requests:idelta"+canary, "%.0f")
			row(now, "failed ones", "guardian_side:requests_failed:idelta"+canary, "%.0f")
			row(now, "failed ones within the shortest window; 5 are needed", "guardian_canary:requests_failed:increase"+window, "%.0f")
			row(now, "16 of 150 are 10.7%, as many times the limit of 1%", "guardian_canary:requests_failed:per_limit"+window, "%.2f")
			row(now, "evidence, 16 · (ln 10.67 - 1 + 1/10.67); above 9 is proof", "guardian_canary:requests_failed:evidence"+window, "%.1f")
			row(now, "proven by what was scraped in second", "guardian_canary:requests_failed:since", "%.0f")
			row(now, "stable was scraped before that: its share may be old", `guardian_side:requests:newest{guardian_side="stable"}`, "%.0f")
		}
	}
	row(fired, "stable's proxy is scraped, and is well", `guardian_side:requests:newest{guardian_side="stable"}`, "%.0f")
	value := p.query(p.exprOf(t, "GuardianCanaryErrorRate"), fired*second)
	if len(value) != 1 {
		t.Fatalf("second %d: the alert has %v", fired, value)
	}
	rows = append(rows, fmt.Sprintf("| %d | the alert fires; its value is the canary's share | `GuardianCanaryErrorRate` | %.4f |", fired, value[0].F))

	doc, err := os.ReadFile("../../docs/alerts.md")
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Join(rows, "\n"); !strings.Contains(string(doc), want) {
		t.Errorf("docs/alerts.md wants these rows:\n%s", want)
	}
	if at := firesByAGateway(t, fault, interval); at != 135 {
		t.Errorf("where a gateway reports both it fires in second %d, not 135 as the text says", at)
	}
	if delay := time.Duration(fired-fault) * time.Second; delay != 14*time.Second {
		t.Errorf("it fires %v after the fault, not 14 seconds as the text says", delay)
	}
}

// exprOf is the expression of an alert.
func (p *prometheus) exprOf(t *testing.T, alert string) string {
	t.Helper()
	i := slices.IndexFunc(p.rules, func(r rule) bool { return r.alert == alert })
	if i < 0 {
		t.Fatalf("no rule %s", alert)
	}
	return p.rules[i].expr
}

// firesByAGateway is when the alert of the example fires where one gateway reports both
// versions; 0: not in time.
func firesByAGateway(t *testing.T, fault, interval int64) int64 {
	t.Helper()
	p := newPrometheusBy(t, rules.Options{Guards: []rules.Guard{orders(rules.Signals{ErrorRate: &rules.ErrorRate{Max: 0.01}})}})
	for now := interval; now <= 150; now += interval {
		if now%15 == 0 {
			bad := 2 * float64(max(0, now-fault))
			p.add(now*second, 1, "gateway", "up")
			for workload, counts := range map[string][2]float64{"orders-v1": {90 * float64(now), 0}, "orders-v2": {10*float64(now) - bad, bad}} {
				for i, code := range []string{"200", "503"} {
					p.add(now*second, counts[i], "gateway", "istio_requests_total", "reporter", "source",
						"destination_workload", workload, "destination_workload_namespace", "microservices", "response_code", code)
				}
			}
		}
		p.evaluate(now * second)
		if slices.Contains(p.firing, "GuardianCanaryErrorRate/rollback") {
			return now
		}
	}
	return 0
}

package rules

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

func TestAnAlertOfAnEarlierBuildHasTimeToEnd(t *testing.T) {
	for name, c := range map[string]struct {
		scrape, interval time.Duration
		latency          time.Duration // how often that is judged
		window           time.Duration // the longest one
	}{
		"scraped every 5 s, evaluated every second": {5 * time.Second, time.Second, time.Second, 5 * time.Minute},
		"scraped every 15 s, evaluated every 3 s":   {15 * time.Second, 3 * time.Second, 5 * time.Second, 5 * time.Minute},
		"scraped every 15 s, evaluated every 7.5 s": {15 * time.Second, 7500 * time.Millisecond, 15 * time.Second, 5 * time.Minute},
		"scraped every 30 s, evaluated every 10 s":  {30 * time.Second, 10 * time.Second, 10 * time.Second, 10 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := Generate(Options{Guards: []Guard{orders()}, ScrapeInterval: c.scrape, Interval: c.interval})
			if err != nil {
				t.Fatal(err)
			}
			// The last bad request is scraped one interval late, leaves the window after it, the alert is kept,
			// each is seen at an evaluation, and Alertmanager sends the end within 10 s.
			least := c.scrape + c.window + c.latency + 30*time.Second + c.latency + 10*time.Second
			if r.AlertWindow < least {
				t.Errorf("AlertWindow is %v; guardian may hear of an alert for %v after its cause has gone", r.AlertWindow, least)
			}
			if r.AlertWindow > least+c.scrape {
				t.Errorf("AlertWindow is %v; no alert needs more than %v: a real rollback would wait for nothing", r.AlertWindow, least+c.scrape)
			}
		})
	}
}

// TestAnotherIntervalCountsNoNativeHistogramTwice has sums recorded every 3 s and then, from second 31
// on, every 5 s, as after a reload: what grew until second 30 was counted then.
func TestAnotherIntervalCountsNoNativeHistogramTwice(t *testing.T) {
	o := Options{Guards: []Guard{orders()}, Interval: 5 * time.Second, ScrapeInterval: 15 * time.Second}
	expr := ""
	for _, g := range generated(t, o).groups() {
		for _, r := range g.Rules {
			if r.Record == "guardian_workload_target:request_durations:idelta" {
				expr = "histogram_count(" + r.Expr.StrVal + ")"
			}
		}
	}
	if expr == "" {
		t.Fatal("no rule records it")
	}
	var values []string
	for second := range 50 {
		if old, later := second <= 30 && second%3 == 0, second > 30 && second%5 == 1; old || later {
			values = append(values, fmt.Sprintf("{{schema:0 sum:%d count:%d buckets:[%[2]d]}}", second, 10*second))
		} else {
			values = append(values, "_")
		}
	}
	labels := `destination_workload="orders-v2",destination_workload_namespace="microservices",reporter="destination"`
	at := func(second, count int) map[string]any {
		found := []map[string]any{}
		if count > 0 {
			found = append(found, map[string]any{"labels": "{" + labels + "}", "value": count})
		}
		return map[string]any{"eval_time": fmt.Sprintf("%ds", second), "expr": expr, "exp_samples": found}
	}
	file, err := yaml.Marshal(map[string]any{"evaluation_interval": "1s", "tests": []map[string]any{{
		"interval": "1s",
		"input_series": []map[string]string{{"values": strings.Join(values, " "),
			"series": `guardian_workload_target:request_durations:sum{guardian_shard="microservices/guardian/all",job="mesh",instance="canary",` + labels + "}"}},
		"promql_expr_test": []map[string]any{at(31, 0), at(36, 50), at(46, 50)},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "test.yaml")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(os.Getenv("GUARDIAN_OLDEST"), "promtool") {
		t.Skip("the oldest promtool has no notation for native histograms")
	}
	if out, err := exec.CommandContext(t.Context(), promtool(t), "test", "rules", path).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

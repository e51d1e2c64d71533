package rules

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/canary-guardian/guardian/test/controlplane"
)

// promtool is the real one, built on first use.
func promtool(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds promtool")
	}
	path, err := controlplane.Binary(t.Context(), "promtool")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// target is a proxy, or guardian, that Prometheus scrapes.
type target struct {
	name  string
	job   string                   // default mesh
	every int                      // seconds between scrapes; default 5
	phase int                      // second of its first scrape
	of    string                   // namespace of the guardian that it is; default microservices
	lives func(second int) string  // up, failing or gone; nil: up
	rows  map[string]func(int) any // series without job and instance → value at a second: a number, or nil for none
}

const (
	up      = "up"
	failing = "failing"
	gone    = "gone"

	scrape  = 5   // seconds
	horizon = 400 // seconds that a scenario lasts
)

// series are the target's lines for promtool, which gets one column per second.
func (g target) series() []string {
	lines := map[string][]string{}
	var selectors []string
	for s := range g.rows {
		selectors = append(selectors, s)
	}
	slices.Sort(selectors)
	column := func(line, value string) { lines[line] = append(lines[line], value) }
	last := map[string]bool{}
	for second := range horizon {
		state := up
		if g.lives != nil {
			state = g.lives(second)
		}
		scraped := second%or(g.every, scrape) == g.phase
		switch {
		case !scraped:
			column("up", "_")
		case state == up:
			column("up", "1")
		case state == failing:
			column("up", "0")
		default:
			column("up", "stale")
		}
		for _, s := range selectors {
			v := g.rows[s](second)
			switch {
			case !scraped:
				column(s, "_")
			case v == nil || state != up:
				// Prometheus marks a series stale once, when it goes.
				column(s, map[bool]string{true: "stale", false: "_"}[last[s]])
				last[s] = false
			default:
				column(s, fmt.Sprint(v))
				last[s] = true
			}
		}
	}
	var out []string
	own := fmt.Sprintf(`job="%s",instance="%s"`, or(g.job, "mesh"), g.name)
	for _, line := range slices.Sorted(maps.Keys(lines)) {
		metric, matchers, _ := strings.Cut(strings.TrimSuffix(line, "}"), "{")
		if matchers != "" {
			matchers = "," + matchers
		}
		if strings.HasPrefix(metric, "guardian_") || strings.HasPrefix(metric, "process_") {
			matchers += fmt.Sprintf(",guardian_namespace=%q", or(g.of, "microservices"))
		}
		out = append(out, metric+"{"+own+matchers+"}", strings.Join(lines[line], " "))
	}
	return out
}

// requests is a row of istio_requests_total at the canary's or stable's own proxy.
func requests(workload, code string, more ...string) string {
	return istio("istio_requests_total", workload, append([]string{`response_code="` + code + `"`}, more...)...)
}

func istio(metric, workload string, more ...string) string {
	all := append([]string{`destination_workload="` + workload + `"`, `destination_workload_namespace="microservices"`}, more...)
	if !strings.Contains(strings.Join(more, ","), "reporter=") {
		all = append(all, `reporter="destination"`)
	}
	return metric + "{" + strings.Join(all, ",") + "}"
}

// rate counts n requests per second from second `from` on, whole requests only.
func rate(n float64, from int) func(int) any {
	return func(s int) any { return math.Floor(n * float64(max(0, s-from))) }
}

// born is rate, but the series does not exist before.
func born(n float64, from int) func(int) any {
	return func(s int) any {
		if s <= from {
			return nil
		}
		return rate(n, from)(s)
	}
}

// until goes on as then at a second.
func until(second int, before, then func(int) any) func(int) any {
	return func(s int) any {
		if s < second {
			return before(s)
		}
		return then(s)
	}
}

func always(v any) func(int) any { return func(int) any { return v } }

// step is a counter that is raised to each value at the second before it.
func step(secondsAndValues ...float64) func(int) any {
	return func(s int) any {
		var v float64
		for i := 0; i < len(secondsAndValues); i += 2 {
			if float64(s) >= secondsAndValues[i] {
				v = secondsAndValues[i+1]
			}
		}
		return v
	}
}

// healthy stable and canary, 90 and 10 requests/s.
func stable(rows ...map[string]func(int) any) target {
	return target{name: "stable", phase: 1, rows: merge(map[string]func(int) any{requests("orders-v1", "200"): rate(90, 0)}, rows...)}
}

func canary(rows ...map[string]func(int) any) target {
	return target{name: "canary", phase: 3, rows: merge(map[string]func(int) any{requests("orders-v2", "200"): rate(10, 0)}, rows...)}
}

func merge(base map[string]func(int) any, more ...map[string]func(int) any) map[string]func(int) any {
	for _, m := range more {
		maps.Copy(base, m)
	}
	return base
}

type rows = map[string]func(int) any

// scenario is one promtool unit test.
type scenario struct {
	guards  []Guard // default: see runAll
	beside  []Guard // of another guardian with the same options, by the same Prometheus
	options func(*Options)
	targets []target
	// want maps a second to the alerts that fire then, as "Alert/action guard",
	// sorted; those about guardian itself are left out unless self is set.
	want map[int][]string
	self bool
	// every is how often all groups are evaluated, in seconds: promtool heeds no interval of a
	// group. Default 1.
	every int
	// texts maps a second to the text of the one alert of that name that fires.
	texts map[int]text
	// queries maps a second to queries and the series that they have then; each is 1.
	queries map[int]map[string][]string
}

type text struct{ alert, summary, description string }

const (
	errorRollback   = "GuardianCanaryErrorRate/rollback orders-service"
	errorHold       = "GuardianCanaryErrorRateHold/hold orders-service"
	latencyRollback = "GuardianCanaryLatency/rollback orders-service"
	latencyHold     = "GuardianCanaryLatencyHold/hold orders-service"
	restartRollback = "GuardianCanaryRestarts/rollback orders-service"
	restartHold     = "GuardianCanaryRestartsHold/hold orders-service"
	waitingHold     = "GuardianCanaryNotStarting/hold orders-service"
	trafficRollback = "GuardianCanaryTraffic/rollback orders-service"
	trafficHold     = "GuardianCanaryTrafficHold/hold orders-service"
	refusedRollback = "GuardianCanaryRefused/rollback orders-service"
	serviceHold     = "GuardianServiceTrafficDropped/hold orders-service"
)

// run writes the rules and the test file, and lets promtool judge.
func (s scenario) run(t *testing.T) {
	t.Helper()
	o := Options{Guards: s.guards, Interval: time.Duration(or(s.every, 1)) * time.Second, ScrapeInterval: scrape * time.Second}
	if s.options != nil {
		s.options(&o)
	}
	r, err := Generate(o)
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	write := func(name string, r *Rules) {
		file, err := r.Prometheus()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, name), file, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("rules.yaml", r)
	if s.beside != nil {
		o.Guards = s.beside
		write("beside.yaml", generated(t, o))
	}
	test, err := yaml.Marshal(s.file(r))
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(strings.Fields(os.Getenv("GUARDIAN_OLDEST")), "promtool") && bytes.Contains(test, []byte("{{schema:")) {
		t.Skip("the oldest promtool has no notation for native histograms")
	}
	if err := os.WriteFile(filepath.Join(folder, "test.yaml"), test, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), promtool(t), "test", "rules", "test.yaml")
	cmd.Dir = folder
	cmd.Env = append(os.Environ(), "GOGC=400") // a tenth of its time is the collection of garbage
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, shorten(string(out)))
	}
}

func shorten(s string) string {
	if len(s) > 6000 {
		return s[:6000] + "…"
	}
	return s
}

// alerts are the texts as promtool wants them: with all labels and annotations.
func (s scenario) alerts(r *Rules) []map[string]any {
	var out []map[string]any
	for _, second := range slices.Sorted(maps.Keys(s.texts)) {
		want := s.texts[second]
		name, action, _ := strings.Cut(want.alert, "/")
		action, guard, _ := strings.Cut(action, " ")
		labels := map[string]string{LabelNamespace: "microservices", LabelGuard: guard}
		for _, g := range r.groups() {
			for _, rule := range g.Rules {
				if rule.Alert == name && rule.Labels[LabelAction] == action {
					maps.Copy(labels, rule.Labels)
				}
			}
		}
		out = append(out, map[string]any{"eval_time": strconv.Itoa(second) + "s", "alertname": name, "exp_alerts": []map[string]any{{
			"exp_labels":      labels,
			"exp_annotations": map[string]string{"summary": want.summary, "description": want.description, "runbook_url": DefaultRunbookBase + page(name) + ".md"},
		}}})
	}
	return out
}

// file is what promtool reads.
func (s scenario) file(r *Rules) map[string]any {
	var series []map[string]string
	for _, g := range s.targets {
		lines := g.series()
		for i := 0; i < len(lines); i += 2 {
			series = append(series, map[string]string{"series": lines[i], "values": lines[i+1]})
		}
	}
	var tests []map[string]any
	for _, second := range slices.Sorted(maps.Keys(s.want)) {
		only := `,guardian_signal!=""`
		if s.self {
			only = `,guardian_signal=""`
		}
		samples := []map[string]any{}
		for _, a := range s.want[second] {
			name, guard, _ := strings.Cut(a, " ")
			name, action, _ := strings.Cut(name, "/")
			labels := fmt.Sprintf(`{alertname=%q,guardian_action=%q`, name, action)
			if guard != "" {
				labels += fmt.Sprintf(`,guardian_guard=%q`, guard)
			}
			samples = append(samples, map[string]any{"labels": labels + "}", "value": 1})
		}
		tests = append(tests, map[string]any{
			"eval_time":   strconv.Itoa(second) + "s",
			"expr":        `sum by (alertname, guardian_guard, guardian_action) (ALERTS{alertstate="firing"` + only + `})`,
			"exp_samples": samples,
		})
	}
	for _, second := range slices.Sorted(maps.Keys(s.queries)) {
		for query, series := range s.queries[second] {
			samples := []map[string]any{}
			for _, labels := range series {
				samples = append(samples, map[string]any{"labels": labels, "value": 1})
			}
			tests = append(tests, map[string]any{"eval_time": strconv.Itoa(second) + "s", "expr": query, "exp_samples": samples})
		}
	}
	files := []string{"rules.yaml"}
	if s.beside != nil {
		files = append(files, "beside.yaml")
	}
	return map[string]any{
		"rule_files":          files,
		"evaluation_interval": fmt.Sprintf("%ds", or(s.every, 1)),
		"tests":               []map[string]any{{"interval": "1s", "input_series": series, "promql_expr_test": tests, "alert_rule_test": s.alerts(r)}},
	}
}

// runAll runs scenarios about some signals. A scenario without guards of its own
// gets orders() with those alone: rules that cannot matter only take time.
func runAll(t *testing.T, about func(*Signals), all map[string]scenario) {
	promtool(t)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := all[name]
			if s.guards == nil {
				s.guards = []Guard{with(orders(), func(g *Guard) { about(&g.Signals) })}
			}
			s.run(t)
		})
	}
}

func TestPromtoolAcceptsTheGoldens(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("..", "testdata", "rules", "*prometheus.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("goldens: %v, %v", files, err)
	}
	out, err := exec.CommandContext(t.Context(), promtool(t), append([]string{"check", "rules", "--lint=all", "--lint-fatal"}, files...)...).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

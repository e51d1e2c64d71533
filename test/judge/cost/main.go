// Command cost tells what the rules cost a real Prometheus: it scrapes the
// series of guards under load, and compares its CPU time with rules and without.
//
//	go run ./test/judge/cost [-guards 1,100] [-busy 50] [-for 1m] [-warm 5m30s] [-interval 3s] [-scrape 15s] [-fast 1s] [-idle 500] [-job]
//
// With -busy only the first guards have a canary that gets requests; the others'
// pods are there, and nobody has called them.
//
// With -fast the rules have a fast lane, and its scrapes count as part of them.
package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"sigs.k8s.io/yaml"

	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/rules"
	"github.com/canary-guardian/guardian/test/controlplane"
)

var (
	sizes  = flag.String("guards", "1,100", "numbers of guards, comma-separated")
	length = flag.Duration("for", time.Minute, "how long each is measured")
	warm   = flag.Duration("warm", 40*time.Second, "how long the rules run before: their longest window is full after five minutes")
	every  = flag.Duration("interval", 0, "evaluation interval of the rules; 0: guardian's default for so many guards")
	scrape = flag.Duration("scrape", 15*time.Second, "scrape interval")
	idle   = flag.Int("idle", 500, "other targets that Prometheus scrapes: rules that ask for up may meet them all")
	job    = flag.Bool("job", false, "rules.proxies names the proxies' job, so that rules that ask for up do not meet the others")
	busy   = flag.Int("busy", -1, "how many of the guards have a canary with traffic; -1: all")
	fast   = flag.Duration("fast", 0, "scrape interval of the fast lane; 0: none")
	worse  = flag.Bool("comparison", false, "the guards compare their canary with stable")
	top    = flag.Int("top", 0, "print so many of the rules that cost most, by the shortest of twenty evaluations of each")
	cpu    = flag.String("cpuprofile", "", "write Prometheus's CPU profile with rules to this file")
)

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "cost:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	plane, err := controlplane.Start(ctx, controlplane.Options{WithoutKubernetes: true})
	if err != nil {
		return err
	}
	defer plane.Stop()
	for _, size := range strings.Split(*sizes, ",") {
		n, err := strconv.Atoi(size)
		if err != nil {
			return fmt.Errorf("-guards %q: %w", *sizes, err)
		}
		if err := measure(ctx, plane, n); err != nil {
			return err
		}
	}
	return nil
}

// measure runs one Prometheus without rules and one with them, in turn.
func measure(ctx context.Context, plane *controlplane.Plane, n int) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	with := n
	if *busy >= 0 {
		with = min(n, *busy)
	}
	server := &http.Server{Handler: mesh(n, with), ReadHeaderTimeout: time.Second}
	go server.Serve(listener) //nolint:errcheck // ends with Close
	defer server.Close()

	generated, err := rules.Generate(options(n))
	if err != nil {
		return err
	}
	text, err := generated.Prometheus()
	if err != nil {
		return err
	}
	folder, err := os.MkdirTemp("", "cost")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	file := filepath.Join(folder, "rules.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return err
	}
	c := costs{guards: n, busy: with, file: len(text)}
	for i, files := range [][]string{nil, {file}} {
		config, err := prometheusConfig(generated, files, n, listener.Addr().String())
		if err != nil {
			return err
		}
		if err := c.watch(ctx, plane, config, i == 1); err != nil {
			return fmt.Errorf("%d guards: %w", n, err)
		}
	}
	c.print()
	return nil
}

// costs are what a Prometheus took for a number of guards.
type costs struct {
	guards, busy  int                // busy: of them, those with a canary
	file          int                // bytes of the rules
	without, with map[string]float64 // its own metrics, without and with the rules
	slowest       float64            // group's evaluation, as a share of its interval
}

// watch has a Prometheus run with a configuration, and takes down what it costs.
func (c *costs) watch(ctx context.Context, plane *controlplane.Plane, config string, ruled bool) error {
	p, err := plane.StartPrometheus(ctx, controlplane.PrometheusOptions{Config: config})
	if err != nil {
		return err
	}
	defer p.Stop()
	// Without rules, until all targets are scraped and once more.
	settle := 40 * time.Second
	if ruled {
		settle = *warm
	}
	if err := watched(ctx, p.URL, settle); err != nil {
		return fmt.Errorf("%w; the end of Prometheus's log:\n%s", err, p.Process().Tail(20))
	}
	metrics, err := during(ctx, p.URL, ruled)
	if err != nil {
		return fmt.Errorf("%w; the end of Prometheus's log:\n%s", err, p.Process().Tail(20))
	}
	if !ruled {
		c.without = metrics
		return nil
	}
	c.with = metrics
	if c.slowest, err = slowestGroup(ctx, p.URL); err != nil {
		return err
	}
	return slowestRules(ctx, p.URL, *top, interval(c.guards))
}

func (c *costs) print() {
	more := func(metric string) float64 { return c.with[metric] - c.without[metric] }
	each := func(metric string) float64 { return more(metric) / float64(c.guards) }
	if *fast > 0 {
		fmt.Printf("fast lane every %v: ", *fast)
	}
	fmt.Printf("%d guards, %d of them with a canary, %d series of proxies, scraped every %v, rules every %v; rule file %d KiB\n",
		c.guards, c.busy, (c.guards+c.busy)*seriesOfAGuard/2, *scrape, interval(c.guards), c.file/1024)
	fmt.Printf("  Prometheus: %.1f%% of a core more (%.1f%% without rules)\n", 100*more(cpuSeconds), 100*c.without[cpuSeconds])
	fmt.Printf("  evaluations: the slowest group's takes %.1f%% of its interval, all together %.1f%% of the time; %.0f samples/s touched\n",
		100*c.slowest, 100*c.with[evaluating], c.with[touched])
	fmt.Printf("  recorded: %.0f samples/s, %.0f active series, %.0f bytes/s of WAL; %.2f, %.1f and %.0f for each guard\n",
		more(appended), more(activeSeries), more(walBytes), each(appended), each(activeSeries), each(walBytes))
}

// Prometheus's own metrics that tell of the cost.
const (
	cpuSeconds   = "process_cpu_seconds_total"
	evaluating   = "prometheus_rule_group_duration_seconds_sum"
	touched      = "prometheus_engine_query_samples_total"
	appended     = "prometheus_tsdb_head_samples_appended_total"
	walBytes     = "prometheus_tsdb_wal_storage_size_bytes"
	activeSeries = "prometheus_tsdb_head_series"
	failures     = "prometheus_rule_evaluation_failures_total"
)

// during is what they grow by in a second, and how many series there are.
func during(ctx context.Context, url string, rules bool) (map[string]float64, error) {
	before, err := metrics(ctx, url)
	if err != nil {
		return nil, err
	}
	profiled := make(chan error, 1)
	if rules && *cpu != "" {
		go func() { profiled <- profile(ctx, url) }()
	} else {
		profiled <- nil
	}
	if err := watched(ctx, url, *length); err != nil {
		return nil, err
	}
	after, err := metrics(ctx, url)
	if err != nil {
		return nil, err
	}
	if err := <-profiled; err != nil {
		return nil, err
	}
	out := map[string]float64{activeSeries: after[activeSeries]}
	for _, name := range []string{cpuSeconds, evaluating, touched, appended, walBytes} {
		out[name] = (after[name] - before[name]) / length.Seconds()
	}
	return out, nil
}

// watched waits, and ends with the error of a rule that fails meanwhile: Prometheus
// tells it until the rule is evaluated again.
func watched(ctx context.Context, url string, d time.Duration) error {
	for end := time.Now().Add(d); time.Now().Before(end); {
		if err := sleep(ctx, min(time.Second, time.Until(end))); err != nil {
			return err
		}
		now, err := metrics(ctx, url)
		if err != nil {
			return err
		}
		if f := now[failures]; f > 0 {
			return fmt.Errorf("%.0f evaluations failed: %s", f, lastErrors(ctx, url))
		}
	}
	return nil
}

// profile writes Prometheus's CPU profile of the measured time.
func profile(ctx context.Context, url string) error {
	body, err := get(ctx, fmt.Sprintf("%s/debug/pprof/profile?seconds=%.0f", strings.TrimSuffix(url, "/"), max(1, length.Seconds()-2)))
	if err != nil {
		return err
	}
	return os.WriteFile(*cpu, body, 0o600)
}

// ruleTime is how long a rule's last evaluation took.
type ruleTime struct {
	Name      string  `json:"name"`
	Seconds   float64 `json:"evaluationTime"`
	LastError string  `json:"lastError"`
	group     string
	interval  float64 // of the group, in seconds
}

// ruleTimes are those of all rules, in the order in which they stand.
func ruleTimes(ctx context.Context, url string) ([]ruleTime, error) {
	body, err := get(ctx, strings.TrimSuffix(url, "/")+"/api/v1/rules")
	if err != nil {
		return nil, err
	}
	var answer struct {
		Data struct {
			Groups []struct {
				Name     string     `json:"name"`
				Interval float64    `json:"interval"`
				Rules    []ruleTime `json:"rules"`
			} `json:"groups"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, err
	}
	var out []ruleTime
	for _, g := range answer.Data.Groups {
		for _, r := range g.Rules {
			r.group, r.interval = g.Name, g.Interval
			out = append(out, r)
		}
	}
	return out, nil
}

// lastErrors names rules that have failed.
func lastErrors(ctx context.Context, url string) string {
	all, err := ruleTimes(ctx, url)
	if err != nil {
		return err.Error()
	}
	var out []string
	for _, r := range all {
		if r.LastError != "" {
			out = append(out, r.group+" "+r.Name+": "+r.LastError)
		}
	}
	return strings.Join(out, "; ")
}

// slowestRules prints what rules of one name take of a second, in all groups together:
// the shortest time of each, because what other programs do makes the others longer.
func slowestRules(ctx context.Context, url string, n int, every time.Duration) error {
	if n == 0 {
		return nil
	}
	shortest, err := shortestTimes(ctx, url, every)
	if err != nil {
		return err
	}
	sum, total := map[string]float64{}, 0.0
	for _, r := range shortest {
		sum[r.Name] += r.Seconds / r.interval
		total += r.Seconds / r.interval
	}
	names := slices.SortedFunc(maps.Keys(sum), func(a, b string) int { return cmp.Compare(sum[b], sum[a]) })
	for _, name := range names[:min(n, len(names))] {
		fmt.Printf("  %6.2f%% of %.1f%% of the time: %s\n", 100*sum[name], 100*total, name)
	}
	return nil
}

// shortestTimes has of each rule the shortest evaluation of a minute.
func shortestTimes(ctx context.Context, url string, every time.Duration) ([]ruleTime, error) {
	const times = 20
	var out []ruleTime
	for range times {
		now, err := ruleTimes(ctx, url)
		if err != nil {
			return nil, err
		}
		for i := range out {
			now[i].Seconds = min(now[i].Seconds, out[i].Seconds)
		}
		out = now
		if err := sleep(ctx, every); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, res.Status)
	}
	return io.ReadAll(res.Body)
}

// prometheusConfig scrapes each proxy as a target of its own, guardian, and where
// there are rules their fast lane.
func prometheusConfig(r *rules.Rules, files []string, n int, address string) (string, error) {
	at := func(path string, names ...string) []map[string]any {
		var out []map[string]any
		for _, name := range names {
			out = append(out, map[string]any{"targets": []string{address}, "labels": map[string]string{
				"__metrics_path__": path + name, "instance": name,
			}})
		}
		return out
	}
	var sidecars, others []string
	for i := range n {
		for _, pod := range pods {
			sidecars = append(sidecars, fmt.Sprintf("app-%d-%s", i, pod))
		}
	}
	for i := range *idle {
		others = append(others, fmt.Sprintf("idle-%d", i))
	}
	proxies := append(at("/sidecar/", sidecars...), at("/gateway/", gateways...)...)
	jobs := []map[string]any{
		{"job_name": "mesh", "scrape_interval": scrape.String(), "static_configs": proxies},
		{"job_name": "guardian", "scrape_interval": scrape.String(), "static_configs": at("/", "guardian")},
		{"job_name": "idle", "scrape_interval": "1m", "static_configs": at("/idle/", others...)},
	}
	if *fast > 0 && len(files) > 0 {
		text, err := r.ScrapeConfig()
		if err != nil {
			return "", err
		}
		var lane struct {
			Jobs []map[string]any `json:"scrape_configs"`
		}
		if err := yaml.Unmarshal(text, &lane); err != nil {
			return "", err
		}
		// In place of the discovery of pods.
		job := lane.Jobs[0]
		delete(job, "kubernetes_sd_configs")
		delete(job, "relabel_configs")
		job["static_configs"] = at("/sidecar/", sidecars...)
		jobs = append(jobs, job)
	}
	out, err := yaml.Marshal(map[string]any{
		"global": map[string]any{"evaluation_interval": model.Duration(interval(n)).String()}, "rule_files": files, "scrape_configs": jobs,
	})
	return string(out), err
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// interval is how often guardian has the rules of n guards evaluated.
func interval(n int) time.Duration {
	c := config.Default()
	c.Guards = make([]config.Guard, n)
	c.Rules.Interval, c.Rules.ScrapeInterval = *every, *scrape
	c.Rules.FastLane = config.FastLane{Enabled: *fast > 0, Interval: *fast}
	return c.RulesBase().Interval
}

func options(n int) rules.Options {
	o := rules.Options{Interval: interval(n), ScrapeInterval: *scrape, FastLane: *fast}
	if *job {
		o.Proxies = `job="mesh"`
	}
	for i := range n {
		app := fmt.Sprintf("app-%d", i)
		o.Guards = append(o.Guards, rules.Guard{
			Name: app, Namespace: "microservices",
			Stable: rules.Side{Name: "v1", Workloads: []string{app + "-v1"}, Service: app},
			Canary: rules.Side{Name: "v2", Workloads: []string{app + "-v2"}, Service: app},
			Signals: rules.Signals{
				ErrorRate: &rules.ErrorRate{Max: 0.01}, Latency: &rules.Latency{Quantile: 0.95, Max: 500 * time.Millisecond},
				Restarts: &rules.Restarts{Max: 2, Window: 5 * time.Minute}, Traffic: &rules.Traffic{ShareTolerance: 0.5},
			},
		})
		if *worse {
			o.Guards[i].Signals.Comparison = &rules.Comparison{Ratio: 1.5, Min: 0.0001}
		}
	}
	return o
}

// A guard has two pods of each version, each seen by its own proxy and by two
// gateways, with three status codes, and all of Istio's buckets.
var (
	pods     = []string{"v1-a", "v1-b", "v2-a", "v2-b"}
	gateways = []string{"gateway-a", "gateway-b"}
	codes    = []string{"200", "404", "503"}
	buckets  = []string{"0.5", "1", "5", "10", "25", "50", "100", "250", "500", "1000", "2500", "5000", "10000", "30000", "60000", "300000", "600000", "1800000", "3600000", "+Inf"}
)

const seriesOfAGuard = 2 * 4 * 3 * (1 + 20)

// mesh is all targets: sidecars, gateways and guardian, each at its own path. Of
// the n guards some have a canary with traffic.
func mesh(n, busy int) http.Handler {
	began := time.Now()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out := bufio.NewWriter(w)
		defer out.Flush()
		age := time.Since(began).Seconds()
		kind, name, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		switch kind {
		case "sidecar":
			parts := strings.Split(name, "-") // app, number, version, pod
			if number, err := strconv.Atoi(parts[1]); err != nil || parts[2] == "v2" && number >= busy {
				return
			}
			writeVersion(out, "destination", parts[0]+"-"+parts[1], parts[2], age)
		case "gateway":
			for i := range n {
				writeVersion(out, "source", fmt.Sprintf("app-%d", i), "v1", age)
				if i < busy {
					writeVersion(out, "source", fmt.Sprintf("app-%d", i), "v2", age)
				}
			}
		case "guardian":
			for i := range n {
				fmt.Fprintf(out, "guardian_weight_percent{guardian_namespace=\"microservices\",guard=\"app-%d\",subset=\"v2\"} %d\n", i, map[bool]int{true: 10}[i < busy])
				fmt.Fprintf(out, "guardian_workload_restarts_total{guardian_namespace=\"microservices\",guard=\"app-%d\",subset=\"v1\"} 0\n", i)
				fmt.Fprintf(out, "guardian_workload_restarts_total{guardian_namespace=\"microservices\",guard=\"app-%d\",subset=\"v2\"} 0\n", i)
			}
			fmt.Fprintf(out, "guardian_heartbeat_timestamp_seconds{guardian_namespace=\"microservices\"} %d\n", time.Now().Unix())
		}
	})
}

// writeVersion is what one of the two proxies of a kind tells about a version.
func writeVersion(out io.Writer, reporter, app, version string, age float64) {
	requests := map[string]float64{"v1": 90, "v2": 10}[version] / 2 * age
	for c, code := range codes {
		labels := fmt.Sprintf(`reporter=%q,response_code=%q,destination_workload="%s-%s",destination_workload_namespace="microservices",`+
			`destination_service_name=%q,destination_service_namespace="microservices",destination_version=%q,source_workload="gateway",response_flags="-"`,
			reporter, code, app, version, app, version)
		share := []float64{0.99, 0.008, 0.002}[c]
		fmt.Fprintf(out, "istio_requests_total{%s} %.0f\n", labels, requests*share)
		for b, le := range buckets {
			fmt.Fprintf(out, "istio_request_duration_milliseconds_bucket{%s,le=%q} %.0f\n", labels, le, requests*share*min(1, float64(b+1)/8))
		}
	}
}

// slowestGroup is the greatest share of its interval that the last evaluation of a
// group took.
func slowestGroup(ctx context.Context, url string) (float64, error) {
	duration, interval := map[string]float64{}, map[string]float64{}
	err := read(ctx, url, func(name, labels string, v float64) {
		switch name {
		case "prometheus_rule_group_last_duration_seconds":
			duration[labels] = v
		case "prometheus_rule_group_interval_seconds":
			interval[labels] = v
		}
	})
	slowest := 0.0
	for group, d := range duration {
		slowest = max(slowest, d/interval[group])
	}
	return slowest, err
}

// metrics reads Prometheus's own metrics, added up over labels.
func metrics(ctx context.Context, url string) (map[string]float64, error) {
	out := map[string]float64{}
	return out, read(ctx, url, func(name, _ string, v float64) { out[name] += v })
}

// read hands over each of Prometheus's own series.
func read(ctx context.Context, url string, series func(name, labels string, v float64)) error {
	body, err := get(ctx, strings.TrimSuffix(url, "/")+"/metrics")
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(bytes.NewReader(body))
	for lines.Scan() {
		i := strings.LastIndexByte(lines.Text(), ' ')
		if strings.HasPrefix(lines.Text(), "#") || i < 0 {
			continue
		}
		name, labels, _ := strings.Cut(lines.Text()[:i], "{")
		if v, err := strconv.ParseFloat(lines.Text()[i+1:], 64); err == nil {
			series(name, labels, v)
		}
	}
	return lines.Err()
}

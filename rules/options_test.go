package rules

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// kube-state-metrics knows no versions, so a side without workloads is said to go
// uncounted.
func TestRestartsOfASideKnownByItsVersionAloneAreSaidNotToBeCounted(t *testing.T) {
	unknown := func(sides ...*Side) {
		for _, s := range sides {
			s.Workloads, s.Version = nil, s.Name
		}
	}
	note := func(side string) string {
		return "guard orders-service: restarts of " + side + " are not counted: kube-state-metrics knows workloads, and only its version is known; name them in workloads, or set rules.restartsFrom: guardian"
	}
	for name, c := range map[string]struct {
		change func(*Guard)
		from   Source
		want   []string
	}{
		"workloads are known":     {func(*Guard) {}, FromKubeStateMetrics, nil},
		"those of stable are not": {func(g *Guard) { unknown(&g.Stable) }, FromKubeStateMetrics, []string{note("v1")}},
		"those of neither":        {func(g *Guard) { unknown(&g.Stable, &g.Canary) }, FromKubeStateMetrics, []string{note("v2"), note("v1")}},
		"guardian counts itself":  {func(g *Guard) { unknown(&g.Canary) }, "", nil},
		"the signal is off":       {func(g *Guard) { unknown(&g.Canary); g.Signals.Restarts = nil }, FromKubeStateMetrics, nil},
	} {
		r, err := Generate(Options{Guards: []Guard{with(orders(), c.change)}, RestartsFrom: c.from})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !slices.Equal(r.Notes, c.want) {
			t.Errorf("%s: %q, want %q", name, r.Notes, c.want)
		}
	}
}

func TestGenerateNamesAllProblems(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"no guard and no namespace":  {func(o *Options) { o.Guards = nil }, "namespace: empty"},
		"a guard without a name":     {func(o *Options) { o.Guards[0].Name = "" }, `guard "": name: empty`},
		"a name used twice":          {func(o *Options) { o.Guards = append(o.Guards, o.Guards[0]) }, "guards: microservices/orders-service appears twice"},
		"a quarter of a second":      {func(o *Options) { o.Interval = 250 * time.Millisecond }, "interval: 250ms; want a multiple of 500ms"},
		"an unknown source":          {func(o *Options) { o.RestartsFrom = "x" }, `restartsFrom: "x"; want guardian or kube-state-metrics`},
		"braces around matchers":     {func(o *Options) { o.Proxies = `{job="a"}` }, `proxies: "{job=\"a\"}"`},
		"broken matchers":            {func(o *Options) { o.Self = `job=` }, `self: "job="`},
		"a target label with a dash": {func(o *Options) { o.TargetLabels = []string{"a-b"} }, `targetLabels: "a-b"; want a label name`},
		"a factor below one":         {func(o *Options) { o.StableFactor = 0.5 }, "stableFactor: 0.5; want at least 1"},
		"a version nobody can find":  {func(o *Options) { o.Guards[0].Canary.Workloads = nil }, `guard "orders-service": canary: neither workloads nor service and version`},
		"one workload on both sides": {func(o *Options) { o.Guards[0].Canary.Workloads = []string{"orders-v1"} }, `workload "orders-v1" is both stable and canary`},
		"one name for both sides":    {func(o *Options) { o.Guards[0].Canary.Name = "v1" }, `stable and canary are both "v1"`},
		"an error rate of 1%":        {func(o *Options) { o.Guards[0].Signals.ErrorRate.Max = 1 }, "signals.errorRate.max: 1; want more than 0 and less than 1"},
		"a quantile of 95":           {func(o *Options) { o.Guards[0].Signals.Latency.Quantile = 95 }, "signals.latency.quantile: 95; want"},
		"a day of latency":           {func(o *Options) { o.Guards[0].Signals.Latency.Max = 24 * time.Hour }, "signals.latency.max: 24h0m0s; want more than 0 and at most the highest bucket, 1h0m0s"},
		"restarts within a second":   {func(o *Options) { o.Guards[0].Signals.Restarts.Window = time.Second }, "signals.restarts.window: 1s; want whole seconds, at least 1m"},
		"no tolerance at all":        {func(o *Options) { o.Guards[0].Signals.Traffic.ShareTolerance = 0 }, "signals.traffic.shareTolerance: 0; want"},
	} {
		t.Run(name, func(t *testing.T) {
			o := Options{Guards: []Guard{orders()}}
			test.change(&o)
			_, err := Generate(o)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %s", err, test.want)
			}
			if checked := Check(o); checked == nil || checked.Error() != err.Error() {
				t.Errorf("Check: %v, Generate: %v", checked, err)
			}
		})
	}
	t.Run("two at once", func(t *testing.T) {
		_, err := Generate(Options{Guards: []Guard{orders()}, Interval: time.Millisecond, StableFactor: -1})
		if err == nil || !strings.Contains(err.Error(), "interval:") || !strings.Contains(err.Error(), "stableFactor:") {
			t.Errorf("got %v", err)
		}
	})
}

func TestWindows(t *testing.T) {
	for name, test := range map[string]struct {
		scrape, interval time.Duration
		want             []string
		fast             time.Duration
	}{
		"scrapes of 5 s, evaluation every second":      {5 * time.Second, time.Second, []string{"5s", "15s", "30s", "1m", "5m"}, 0},
		"scrapes of 5 s, evaluation every 3 s":         {5 * time.Second, 3 * time.Second, []string{"6s", "15s", "30s", "1m", "5m"}, 0},
		"scrapes of 15 s":                              {15 * time.Second, 3 * time.Second, []string{"15s", "30s", "1m", "5m"}, 0},
		"scrapes of 30 s":                              {30 * time.Second, 3 * time.Second, []string{"30s", "1m", "2m", "10m"}, 0},
		"scrapes of 1 s":                               {time.Second, time.Second, []string{"1s", "15s", "30s", "1m", "5m"}, 0},
		"scrapes of 10 s do not fit into 15 s":         {10 * time.Second, 3 * time.Second, []string{"12s", "30s", "1m", "2m", "10m"}, 0},
		"a pair that fits into minutes only":           {59 * time.Second, 7 * time.Second, []string{"1m3s", "2m6s", "4m12s", "21m"}, 0},
		"a fast lane of 1 s beside scrapes of 15 s":    {15 * time.Second, time.Second, []string{"1s", "15s", "30s", "1m", "5m"}, time.Second},
		"a fast lane of 2 s, evaluated every 3 s":      {15 * time.Second, 3 * time.Second, []string{"3s", "18s", "36s", "1m12s", "6m"}, 2 * time.Second},
		"a fast lane of 1 s, evaluated twice as often": {15 * time.Second, 500 * time.Millisecond, []string{"1s", "15s", "30s", "1m", "5m"}, time.Second},
		"a fast lane of 3 s, evaluated twice as often": {15 * time.Second, 1500 * time.Millisecond, []string{"3s", "15s", "30s", "1m", "5m"}, 3 * time.Second},
		"a fast lane beside scrapes of 30 s":           {30 * time.Second, time.Second, []string{"1s", "30s", "1m", "2m", "10m"}, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			w := Options{ScrapeInterval: test.scrape, Interval: test.interval, FastLane: test.fast}.windows()
			var got []string
			for _, d := range w.all() {
				got = append(got, dur(d))
				if d%test.interval != 0 {
					t.Errorf("%v is no whole number of evaluations", d)
				}
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestALimitBetweenBucketsIsNoted(t *testing.T) {
	r, err := Generate(Options{Guards: []Guard{with(orders(), func(g *Guard) { g.Signals.Latency.Max = 300 * time.Millisecond })}})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "latency.max 300ms is no bucket edge: judged at 500ms") {
		t.Errorf("got %q", r.Notes)
	}
}

func TestAlertWindowGrowsWithTheLongestLookBack(t *testing.T) {
	window := func(restarts time.Duration) time.Duration {
		r, err := Generate(Options{Guards: []Guard{with(orders(), func(g *Guard) { g.Signals.Restarts.Window = restarts })}})
		if err != nil {
			t.Fatal(err)
		}
		return r.AlertWindow
	}
	short, long := window(time.Minute), window(time.Hour)
	if short <= 5*time.Minute+keepFiring || long-short != 55*time.Minute {
		t.Errorf("got %v for 1m and %v for 1h of restarts", short, long)
	}
}

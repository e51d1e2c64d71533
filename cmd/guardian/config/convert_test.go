package config

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	"github.com/canary-guardian/guardian/rules"
)

func TestAGuardOfOneLineMeansTheSameToEveryPackage(t *testing.T) {
	c, err := Parse([]byte("namespace: microservices\nguards: [{name: orders-service}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := decision.Guard{
		Name: "orders-service", Namespace: "microservices", VirtualServices: []string{"orders-service"}, DestinationRule: "orders-service",
		Stable: virtualservice.Ref{Subset: "v1"}, Canary: virtualservice.Ref{Subset: "v2"}, Mode: decision.ModeEnforce,
		Rollback: decision.Rollback{Lock: decision.LockBuild, Window: 30 * time.Minute, MinReadyStable: 1, Capacity: 0.8, MatchRoutes: true, Mirrors: true},
		Promotion: decision.Promotion{Mode: decision.PromotionOff, MinRequests: 100, Steps: []decision.Step{
			{Weight: 10, Interval: 5 * time.Minute}, {Weight: 30, Interval: 5 * time.Minute}, {Weight: 50, Interval: 5 * time.Minute}, {Weight: 100, Interval: 5 * time.Minute}}},
		AlertWindow: 6 * time.Minute, HeartbeatMaxAge: 3 * time.Minute, DisarmMax: 24 * time.Hour,
	}
	if got := c.DecisionGuard(c.Guards[0], 6*time.Minute); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	wantRules := rules.Guard{
		Name: "orders-service", Namespace: "microservices",
		Stable: rules.Side{Name: "v1", Service: "orders-service", Version: "v1"},
		Canary: rules.Side{Name: "v2", Service: "orders-service", Version: "v2"},
		Signals: rules.Signals{ErrorRate: &rules.ErrorRate{Max: 0.01, Action: rules.ActionRollback},
			Latency:  &rules.Latency{Quantile: 0.95, Max: 500 * time.Millisecond, Action: rules.ActionRollback},
			Restarts: &rules.Restarts{Max: 2, Window: 5 * time.Minute, Action: rules.ActionRollback},
			Traffic:  &rules.Traffic{ShareTolerance: 0.5, Action: rules.ActionRollback}},
	}
	if got, err := c.RulesGuard(c.Guards[0], decision.Sides{}); err != nil || !reflect.DeepEqual(got, wantRules) {
		t.Errorf("got  %+v, %v\nwant %+v", got, err, wantRules)
	}
}

func TestTheAlertWindowNeedsNoDeployments(t *testing.T) {
	const one = "namespace: microservices\nguards:\n- {name: orders-service, signals: {restarts: {window: 20m}}}\n"
	plain, err := Parse([]byte(one))
	if err != nil {
		t.Fatal(err)
	}
	hosts, err := Parse([]byte(one + "- {name: payments, stable: {host: payments-v1}, canary: {host: payments-v2}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := plain.AlertWindow()
	if want < 20*time.Minute {
		t.Fatal(want)
	}
	if got := hosts.AlertWindow(); got != want {
		t.Errorf("with hosts of their own whose Deployments nobody has found yet: %v, want %v", got, want)
	}
}

func TestWorkloadsComeFromTheConfigurationElseFromTheCluster(t *testing.T) {
	c := Default()
	c.Namespace = "shop"
	found := decision.Sides{
		Stable: decision.Side{Service: "orders", Labels: map[string]string{"version": "one"}, Workloads: []string{"orders-one"}},
		Canary: decision.Side{Service: "orders", Labels: map[string]string{"track": "canary"}, Workloads: []string{"orders-two"}},
	}
	g := DefaultGuard("orders-service")
	got, err := c.RulesGuard(g, found)
	want := []rules.Side{
		{Name: "v1", Service: "orders", Version: "one", Workloads: []string{"orders-one"}},
		{Name: "v2", Service: "orders", Version: "v2", Workloads: []string{"orders-two"}},
	}
	if err != nil || !reflect.DeepEqual([]rules.Side{got.Stable, got.Canary}, want) {
		t.Errorf("from the cluster: got %+v, %v", got, err)
	}
	g.Workloads.Canary = []string{"mine"}
	if got, err := c.RulesGuard(g, found); err != nil || !reflect.DeepEqual(got.Canary.Workloads, []string{"mine"}) || got.Stable.Workloads[0] != "orders-one" {
		t.Errorf("configured: got %+v, %v", got, err)
	}
	g = DefaultGuard("orders-service")
	g.Stable, g.Canary = Ref{virtualservice.Ref{Host: "orders-v1"}}, Ref{virtualservice.Ref{Host: "orders-v2"}}
	if _, err := c.RulesGuard(g, decision.Sides{}); err == nil || !strings.Contains(err.Error(), "guard orders-service: stable host:orders-v1 is a host") {
		t.Errorf("hosts that nobody knows: got %v", err)
	}
}

func TestASignalThatIsOffHasNoLimit(t *testing.T) {
	g := DefaultGuard("a")
	g.Signals.Latency.Enabled, g.Signals.Traffic.Enabled = false, false
	got := g.Signals.Limits()
	if got.Latency != nil || got.Traffic != nil || got.ErrorRate == nil || got.Restarts == nil {
		t.Errorf("got %+v", got)
	}
}

func TestTheFastLaneIsLookedAtTwicePerScrape(t *testing.T) {
	for _, test := range []struct{ lane, interval, want time.Duration }{
		{time.Second, 3 * time.Second, 500 * time.Millisecond},
		{5 * time.Second, 3 * time.Second, 2500 * time.Millisecond},
		{5 * time.Second, time.Second, time.Second},
	} {
		c := Default()
		c.Namespace, c.Guards = "shop", []Guard{DefaultGuard("orders-service")}
		c.Rules.FastLane, c.Rules.Interval = FastLane{Enabled: true, Interval: test.lane}, test.interval
		o, left := c.RulesOptions(nil)
		if err := left.Err(); err != nil {
			t.Fatal(err)
		}
		if o.Interval != test.want {
			t.Errorf("scraped every %v, rules.interval %v: evaluated every %v, want %v", test.lane, test.interval, o.Interval, test.want)
		}
		if _, err := rules.Generate(o); err != nil {
			t.Error(err)
		}
	}
}

func TestRulesOfAFullConfigurationAreGenerated(t *testing.T) {
	c, err := Load(testdataFile("full.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	o, left := c.RulesOptions(nil)
	err = left.Err()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rules.Generate(o); err != nil {
		t.Error(err)
	}
}

// What is configured of each signal reaches the rules, and is told where it keeps a guard
// from rolling back.
func TestEachSignalsActionReachesTheRules(t *testing.T) {
	fields := reflect.TypeFor[Signals]()
	for _, name := range rules.SignalNames() {
		field, ok := fields.FieldByNameFunc(func(field string) bool { return strings.EqualFold(field, name.Key()) })
		if !ok {
			t.Errorf("%s cannot be configured", name)
			continue
		}
		s := DefaultGuard("orders-service").Signals
		one := reflect.ValueOf(&s).Elem().FieldByIndex(field.Index)
		one.FieldByName("Enabled").SetBool(true)
		one.FieldByName("Action").SetString("none")
		if action, on := s.Limits().Action(name); !on || action != rules.ActionNone {
			t.Errorf("%s: the rules have %v, %q, want none", name, on, action)
		}
		if want := (decision.SignalAction{Signal: name.Key(), Action: decision.ActionNone}); !slices.Contains(s.noRollback(), want) {
			t.Errorf("%s: told of what does not roll back is %v", name, s.noRollback())
		}
		one.FieldByName("Enabled").SetBool(false)
		if _, on := s.Limits().Action(name); on {
			t.Errorf("%s is off, and on in the rules", name)
		}
	}
	if n := fields.NumField(); n != len(rules.SignalNames()) {
		t.Errorf("%d signals can be configured, want one for each of %v", n, rules.SignalNames())
	}
}

// TestManyGuardsAreLookedAtLessOften: at the defaults a thousand must not cost Prometheus
// a processor. Where it is more than 3 s, windows need no more than one scrape interval for
// whole evaluations and whole scrapes.
func TestManyGuardsAreLookedAtLessOften(t *testing.T) {
	for _, test := range []struct {
		guards              int
		scrape, asked, want time.Duration
	}{
		{guards: 1, want: 3 * time.Second},
		{guards: 300, want: 3 * time.Second},
		{guards: 301, want: 5 * time.Second},
		{guards: 600, want: 5 * time.Second},
		{guards: 601, want: 7500 * time.Millisecond},
		{guards: 1000, asked: 3 * time.Second, want: 3 * time.Second},
		{guards: 1, asked: 7500 * time.Millisecond, want: 7500 * time.Millisecond},
		{guards: 1000, scrape: 5 * time.Second, want: 3 * time.Second},
		{guards: 1000, scrape: 10 * time.Second, want: 5 * time.Second},
		{guards: 1000, scrape: 13 * time.Second, want: 6500 * time.Millisecond},
		{guards: 1000, scrape: 20 * time.Second, want: 5 * time.Second},
		{guards: 1000, scrape: time.Minute, want: 7500 * time.Millisecond},
		{guards: 301, scrape: 10 * time.Second, want: 5 * time.Second},
		{guards: 301, scrape: 13 * time.Second, want: 3 * time.Second},
		{guards: 301, scrape: time.Minute, want: 5 * time.Second},
		{guards: 300, scrape: time.Minute, want: 3 * time.Second},
	} {
		text := fmt.Sprintf("namespace: shop\nrules: {interval: %v, scrapeInterval: %v}\nguards:\n", test.asked, cmp.Or(test.scrape, 15*time.Second))
		for i := range test.guards {
			text += fmt.Sprintf("- name: g%d\n", i)
		}
		c, err := Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if got := c.RulesBase().Interval; got != test.want {
			t.Errorf("%d guards, scraped every %v, rules.interval %v: evaluated every %v, want %v", test.guards, c.Rules.ScrapeInterval, test.asked, got, test.want)
		}
	}
}

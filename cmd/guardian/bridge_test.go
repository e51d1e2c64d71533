package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/canary-guardian/guardian/alerting"
	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/remediate"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/rules"
)

// fakeController notes what it is given.
type fakeController struct {
	mu        sync.Mutex
	submitted map[string][]decision.Alert // waited for
	accepted  map[string][]decision.Alert // not waited for
	enqueued  []string
	unknown   []string
	records   int // of unknown guards
	registry  *prometheus.Registry
	fail      map[string]error
}

func newFakeController() *fakeController {
	return &fakeController{submitted: map[string][]decision.Alert{}, accepted: map[string][]decision.Alert{}, fail: map[string]error{}}
}

func (f *fakeController) Submit(_ context.Context, guard string, alerts []decision.Alert, _ time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.submitted[guard] = append(f.submitted[guard], alerts...)
	return f.fail[guard]
}

func (f *fakeController) Accept(_ context.Context, guard string, alerts []decision.Alert, _ time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.accepted[guard] = append(f.accepted[guard], alerts...)
	return f.fail[guard]
}

func (f *fakeController) Enqueue(guard string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.enqueued = append(f.enqueued, guard)
}

func (f *fakeController) Unknown(_ context.Context, alertOf map[string]string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.records++
	f.unknown = append(f.unknown, slices.Sorted(maps.Keys(alertOf))...)
	return f.fail["?"]
}

var bridgeNow = time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)

func testBridge(t *testing.T) (*bridge, *fakeController) { return testBridgeOf(t, "") }

// testBridgeOf has further keys of the configuration.
func testBridgeOf(t *testing.T, more string) (*bridge, *fakeController) {
	t.Helper()
	c, err := config.Parse([]byte(more + `
namespace: microservices
guards:
- name: orders-service
- name: payments
  alerts:
    matchers:
    - match: '{alertname="PaymentsDown", severity=~"page|critical"}'
    - match: '{alertname="PaymentsSlow"}'
      action: hold
`))
	if err != nil {
		t.Fatal(err)
	}
	f := newFakeController()
	f.registry = prometheus.NewRegistry()
	b := newBridge(c, alerting.NewMetrics(f.registry), slog.New(slog.DiscardHandler), func() time.Time { return bridgeNow })
	b.guards = f
	return b, f
}

func firingAlert(labels map[string]string) alerting.Alert {
	return alerting.Alert{Labels: labels, Annotations: map[string]string{"summary": "it fails"}, StartsAt: bridgeNow.Add(-time.Second),
		Fingerprint: alerting.Fingerprint(labels)}
}

func guardLabels(guard, action string, more ...string) map[string]string {
	l := map[string]string{"alertname": "GuardianCanaryErrorRate", "guardian": "true", "guardian_guard": guard, "guardian_action": action,
		"guardian_signal": "error_rate", "namespace": "microservices"}
	for i := 0; i+1 < len(more); i += 2 {
		l[more[i]] = more[i+1]
	}
	return l
}

func TestAnAlertReachesTheGuardItIsAbout(t *testing.T) {
	for _, c := range []struct {
		name   string
		labels map[string]string
		want   map[string]decision.Action
	}{
		{"by its label", guardLabels("orders-service", "rollback"), map[string]decision.Action{"orders-service": "rollback"}},
		{"as a hold", guardLabels("orders-service", "hold"), map[string]decision.Action{"orders-service": "hold"}},
		{"not when it is about another namespace's guard of that name", guardLabels("orders-service", "rollback", "namespace", "staging"), nil},
		{"not when no guard is called so", guardLabels("nobody", "rollback"), nil},
		{"by a configured matcher", map[string]string{"alertname": "PaymentsDown", "severity": "page"}, map[string]decision.Action{"payments": "rollback"}},
		{"by a configured matcher, wherever it comes from", map[string]string{"alertname": "PaymentsDown", "severity": "page", "namespace": "other"},
			map[string]decision.Action{"payments": "rollback"}},
		{"by a configured matcher with its action", map[string]string{"alertname": "PaymentsSlow"}, map[string]decision.Action{"payments": "hold"}},
		{"by a matcher when the action of its label is missing", map[string]string{"alertname": "PaymentsDown", "severity": "page", "guardian_guard": "payments"},
			map[string]decision.Action{"payments": "rollback"}},
		{"by a matcher when the action of its label is misspelt", map[string]string{"alertname": "PaymentsSlow", "guardian_guard": "payments", "guardian_action": "rolback"},
			map[string]decision.Action{"payments": "hold"}},
		{"by its label before any matcher", map[string]string{"alertname": "PaymentsSlow", "guardian_guard": "payments", "guardian_action": "none", "namespace": "microservices"},
			map[string]decision.Action{"payments": "none"}},
		{"not when only part of a matcher fits", map[string]string{"alertname": "PaymentsDown", "severity": "info"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, f := testBridge(t)
			if err := b.Accept(t.Context(), alerting.LaneWebhook, []alerting.Alert{firingAlert(c.labels)}); err != nil {
				t.Fatal(err)
			}
			got := map[string]decision.Action{}
			for guard, alerts := range f.submitted {
				for _, a := range alerts {
					got[guard] = a.Action
					if a.Summary != "it fails" || a.Name != c.labels["alertname"] || a.StartsAt != bridgeNow.Add(-time.Second) || a.Fingerprint == "" {
						t.Errorf("translated to %+v", a)
					}
				}
			}
			if !maps.Equal(got, c.want) {
				t.Errorf("submitted %v, want %v", got, c.want)
			}
			for guard := range c.want {
				if n := len(b.firing(guard)); n != 1 {
					t.Errorf("%d alerts fire for %s, want 1", n, guard)
				}
			}
		})
	}
}

func TestAnAlertBringsTheLinkToItsTraces(t *testing.T) {
	for configured, want := range map[string]string{
		"": "",
		"rules: {links: {jaeger: 'https://jaeger.example'}}": "https://jaeger.example/search?end=1772442899000000&service=orders.m&start=1772441099000000",
	} {
		b, f := testBridgeOf(t, configured)
		a := firingAlert(guardLabels("orders-service", "rollback"))
		a.Annotations["jaeger_url"] = "https://jaeger.example/search?lookback=1h&service=orders.m"
		if err := b.Accept(t.Context(), alerting.LaneWebhook, []alerting.Alert{a}); err != nil {
			t.Fatal(err)
		}
		if got := f.submitted["orders-service"]; len(got) != 1 || got[0].Traces != want {
			t.Errorf("%q: %+v, want %q", configured, got, want)
		}
	}
}

func TestTheLanesDifferInWhatTheyWaitFor(t *testing.T) {
	alert := []alerting.Alert{firingAlert(guardLabels("orders-service", "rollback"))}
	b, f := testBridge(t)
	f.fail["orders-service"] = errors.New("the record could not be written")
	if err := b.Accept(t.Context(), alerting.LaneWebhook, alert); err == nil || !strings.Contains(err.Error(), "could not be written") {
		t.Errorf("webhook lane: %v, want the error, so that Alertmanager tries again", err)
	}
	b, f = testBridge(t)
	if err := b.Accept(t.Context(), alerting.LanePush, alert); err != nil || len(f.accepted["orders-service"]) != 1 || len(f.submitted) != 0 {
		t.Errorf("push lane: %v, accepted %v, submitted %v; want it kept and not waited for", err, f.accepted, f.submitted)
	}
	b, f = testBridge(t)
	f.fail["orders-service"] = remediate.ErrUnknownGuard
	if err := b.Accept(t.Context(), alerting.LaneWebhook, alert); err != nil {
		t.Errorf("a guard that has just been removed: %v, want nil", err)
	}
}

func TestAnAlertWithoutAnActionIsWarnedOf(t *testing.T) {
	for name, c := range map[string]struct {
		labels map[string]string
		want   int
	}{
		"none":                        {guardLabels("orders-service", ""), 1},
		"misspelt":                    {guardLabels("orders-service", "rolback"), 1},
		"none, but a matcher's":       {map[string]string{"alertname": "PaymentsSlow", "guardian_guard": "payments"}, 1},
		"one":                         {guardLabels("orders-service", "hold"), 0},
		"of another namespace's":      {guardLabels("orders-service", "", "namespace", "staging"), 0},
		"of a guard that is not here": {guardLabels("nobody", ""), 0},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			b, _ := testBridge(t)
			b.log = slog.New(slog.NewTextHandler(&log, nil))
			for range 2 {
				if err := b.Accept(t.Context(), alerting.LaneWebhook, []alerting.Alert{firingAlert(c.labels)}); err != nil {
					t.Fatal(err)
				}
			}
			if got := strings.Count(log.String(), "no action"); got != c.want {
				t.Errorf("%d warnings, want %d: %s", got, c.want, log.String())
			}
		})
	}
}

func TestAHeartbeatOfAnotherGuardianProvesNothing(t *testing.T) {
	b, _ := testBridge(t)
	for name, c := range map[string]struct {
		labels map[string]string
		want   bool
	}{
		"its own":                {map[string]string{"guardian": "true", "guardian_instance": "guardian", "namespace": "microservices"}, true},
		"of another release":     {map[string]string{"guardian": "true", "guardian_instance": "shop-guardian", "namespace": "microservices"}, false},
		"of another namespace":   {map[string]string{"guardian": "true", "guardian_instance": "guardian", "namespace": "staging"}, false},
		"one that does not tell": {map[string]string{"alertname": "GuardianHeartbeat"}, false},
	} {
		if got := b.ownHeartbeat(alerting.LaneWebhook, c.labels); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestAResolvedAlertOnlyAsksForALook(t *testing.T) {
	b, f := testBridge(t)
	a := firingAlert(guardLabels("orders-service", "rollback"))
	if err := b.Accept(t.Context(), alerting.LaneWebhook, []alerting.Alert{a}); err != nil {
		t.Fatal(err)
	}
	a.Resolved, a.EndsAt = true, bridgeNow
	f.submitted = map[string][]decision.Alert{}
	if err := b.Accept(t.Context(), alerting.LaneWebhook, []alerting.Alert{a}); err != nil {
		t.Fatal(err)
	}
	if alerts, ok := f.submitted["orders-service"]; !ok || len(alerts) != 0 {
		t.Errorf("submitted %v, want a look with no alert", f.submitted)
	}
	if n := len(b.firing("orders-service")); n != 0 {
		t.Errorf("%d alerts fire after the resolve", n)
	}
}

func TestASilencedRollbackHolds(t *testing.T) {
	b, _ := testBridge(t)
	a := firingAlert(guardLabels("orders-service", "rollback"))
	a.Suppressed = true
	if _, err := b.store.Replace(alerting.LaneAlertmanager, []alerting.Alert{a}, bridgeNow); err != nil {
		t.Fatal(err)
	}
	if got := b.firing("orders-service"); len(got) != 1 || got[0].Action != decision.ActionHold {
		t.Errorf("fires %+v, want a hold", got)
	}
}

func TestAnUnknownGuardIsRecordedOnceInAWhile(t *testing.T) {
	b, f := testBridge(t)
	alert := []alerting.Alert{firingAlert(guardLabels("nobody", "rollback"))}
	for range 3 {
		if err := b.Accept(t.Context(), alerting.LaneWebhook, alert); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(f.unknown, []string{"nobody"}) {
		t.Errorf("recorded %v, want it once", f.unknown)
	}
	if err := b.Accept(t.Context(), alerting.LaneWebhook, []alerting.Alert{firingAlert(guardLabels("nobody", "rollback", "namespace", "staging"))}); err != nil {
		t.Fatal(err)
	}
	if len(f.unknown) != 1 {
		t.Errorf("a guard of another namespace is none of this guardian's business: %v", f.unknown)
	}
	b, f = testBridge(t)
	f.fail["?"] = errors.New("no Event could be written")
	if err := b.Accept(t.Context(), alerting.LaneWebhook, alert); err == nil {
		t.Error("what could not be recorded was answered as done")
	}
	f.fail = map[string]error{}
	if err := b.Accept(t.Context(), alerting.LaneWebhook, alert); err != nil || len(f.unknown) != 2 {
		t.Errorf("tried again: %v, recorded %v; want it recorded now", err, f.unknown)
	}
}

func TestANewConfigurationMatchesTheOldAlertsAnew(t *testing.T) {
	b, _ := testBridge(t)
	a := firingAlert(map[string]string{"alertname": "OrdersDown"})
	if err := b.Accept(t.Context(), alerting.LanePush, []alerting.Alert{a}); err != nil {
		t.Fatal(err)
	}
	if n := len(b.firing("orders-service")); n != 0 {
		t.Fatalf("%d alerts fire before anything matches", n)
	}
	a.EndsAt = bridgeNow.Add(time.Minute)
	if err := b.Accept(t.Context(), alerting.LanePush, []alerting.Alert{a}); err != nil {
		t.Fatal(err)
	}
	c, err := config.Parse([]byte("namespace: microservices\nguards:\n- name: orders-service\n  alerts: {matchers: [{match: '{alertname=\"OrdersDown\"}'}]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	b.setConfig(c)
	if n := len(b.firing("orders-service")); n != 1 {
		t.Errorf("%d alerts fire, want 1", n)
	}
}

// lister answers as a test says.
type lister struct {
	alerts []alerting.Alert
	err    error
	young  bool
	asked  []string // selections
	listed func()   // is called each time; may be nil
}

func (l *lister) Firing(_ context.Context, f alerting.Filter) ([]alerting.Alert, error) {
	if l.listed != nil {
		l.listed()
	}
	for _, m := range f.Any {
		l.asked = append(l.asked, m.String())
	}
	if l.young && f.MinUptime > 0 {
		return nil, fmt.Errorf("asked too soon: %w", alerting.ErrYoung)
	}
	return l.alerts, l.err
}

// querier answers every query alike.
type querier struct {
	samples []alerting.Sample
	err     error
	asked   []string
}

func (q *querier) Query(_ context.Context, promql string) ([]alerting.Sample, error) {
	q.asked = append(q.asked, promql)
	return q.samples, q.err
}

func testForwardChecks(t *testing.T) (*forwardChecks, *fakeController, *lister, *lister, *querier) {
	t.Helper()
	b, f := testBridge(t)
	am, prom, q := &lister{}, &lister{}, &querier{}
	o := newForwardChecks(b, slog.New(slog.DiscardHandler), func() time.Time { return bridgeNow })
	o.alertmanager, o.prometheus, o.query = am, prom, q
	return o, f, am, prom, q
}

func TestListingHealsWhatAWebhookLost(t *testing.T) {
	o, f, am, _, _ := testForwardChecks(t)
	am.alerts = []alerting.Alert{firingAlert(guardLabels("orders-service", "rollback"))}
	if err := o.list(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(f.accepted["orders-service"]) != 1 {
		t.Fatalf("accepted %v, want the alert that no webhook brought", f.accepted)
	}
	am.alerts = nil
	if err := o.list(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(f.enqueued, "orders-service") || len(o.bridge.firing("orders-service")) != 0 {
		t.Errorf("enqueued %v, fires %v; want a look because a resolve was lost", f.enqueued, o.bridge.firing("orders-service"))
	}
}

// TestWhatIsAskedForIsListedAtOnceAndSeldom: whoever may send alerts can ask as often as
// they like.
func TestWhatIsAskedForIsListedAtOnceAndSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, f, am, _, _ := testForwardChecks(t)
		began := time.Now()
		var listed []time.Duration
		am.listed = func() { listed = append(listed, time.Since(began)) }
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- o.run(ctx) }()
		time.Sleep(30 * time.Second)
		synctest.Wait() // the first listing has read them
		am.alerts = []alerting.Alert{firingAlert(guardLabels("orders-service", "rollback"))}
		for range 1000 { // once at 30 s, and once for all that came meanwhile
			o.listSoon()
		}
		synctest.Wait()
		if len(f.accepted["orders-service"]) != 1 {
			t.Errorf("accepted %v, want the alert of a call that was refused", f.accepted)
		}
		time.Sleep(500 * time.Millisecond)
		for range 11 {
			o.listSoon()
			time.Sleep(time.Second)
		}
		time.Sleep(30 * time.Second)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		want := []time.Duration{0, 30 * time.Second, 35 * time.Second, 40 * time.Second, 45 * time.Second, time.Minute}
		if !slices.Equal(listed, want) {
			t.Errorf("listed at %v, want %v", listed, want)
		}
	})
}

func TestAnAlertmanagerThatHasJustStartedTakesNothingAway(t *testing.T) {
	o, f, am, prom, _ := testForwardChecks(t)
	known := []alerting.Alert{firingAlert(guardLabels("orders-service", "rollback"))}
	am.alerts = known
	if err := o.list(t.Context()); err != nil {
		t.Fatal(err)
	}
	am.young, am.alerts = true, []alerting.Alert{firingAlert(guardLabels("payments", "rollback"))} // the other is not sent again yet
	prom.alerts = []alerting.Alert{firingAlert(guardLabels("payments", "hold"))}
	if err := o.list(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(o.bridge.firing("orders-service")); n != 1 {
		t.Errorf("%d alerts fire that it does not know of yet, want 1", n)
	}
	if n := len(o.bridge.firing("payments")); n != 2 || len(f.accepted["payments"]) != 2 {
		t.Errorf("%d alerts fire, %v accepted; want its own and Prometheus's", n, f.accepted["payments"])
	}
	am.young = false
	if err := o.list(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, m := len(o.bridge.firing("orders-service")), len(o.bridge.firing("payments")); n != 0 || m != 1 {
		t.Errorf("after a while %d and %d fire, want 0 and 1: its word counts again", n, m)
	}
}

func TestTruncatedAlertsAreRecordedBeforeTheCallIsAnswered(t *testing.T) {
	o, f, am, _, _ := testForwardChecks(t)
	am.alerts = []alerting.Alert{firingAlert(guardLabels("orders-service", "rollback"))}
	f.fail["orders-service"] = errors.New("the record could not be written")
	for range 2 { // the second time the alert is in the store, and still not recorded
		if err := o.refresh(t.Context()); err == nil || !strings.Contains(err.Error(), "could not be written") {
			t.Errorf("%v, want the error, so that Alertmanager tries again", err)
		}
	}
	if len(f.submitted["orders-service"]) != 2 || len(f.accepted) != 0 {
		t.Errorf("submitted %v, accepted %v", f.submitted, f.accepted)
	}
}

func TestPrometheusIsAskedWhereAlertmanagerDoesNotAnswer(t *testing.T) {
	o, f, am, prom, _ := testForwardChecks(t)
	am.err = errors.New("connection refused")
	prom.alerts = []alerting.Alert{firingAlert(guardLabels("orders-service", "rollback"))}
	if err := o.list(t.Context()); err == nil {
		t.Error("that Alertmanager does not answer was not said")
	}
	if len(f.accepted["orders-service"]) != 1 {
		t.Errorf("accepted %v, want what Prometheus says", f.accepted)
	}
	am.err = nil
	if err := o.list(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(o.bridge.firing("orders-service")); n != 0 {
		t.Errorf("%d alerts fire by what Prometheus said before Alertmanager answered again", n)
	}
}

func TestGoingForwardAsksEverything(t *testing.T) {
	guard := decision.Guard{Name: "orders-service"}
	sides := decision.Sides{Canary: decision.Side{Workloads: []string{"orders-v2"}}, Stable: decision.Side{Workloads: []string{"orders-v1"}}}
	since := bridgeNow.Add(-5 * time.Minute)
	t.Run("an alert that only Alertmanager knows comes back", func(t *testing.T) {
		o, _, am, _, q := testForwardChecks(t)
		am.alerts = []alerting.Alert{firingAlert(guardLabels("orders-service", "hold")), firingAlert(guardLabels("payments", "rollback"))}
		q.samples = []alerting.Sample{{Labels: map[string]string{rules.LabelTally: rules.TallyRequests}, Value: 37.9}}
		f, alerts := o.askForward(t.Context(), guard, sides, since)
		if f.Err != "" || f.Requests != 37 || len(alerts) != 1 || alerts[0].Action != decision.ActionHold {
			t.Errorf("forward %+v, alerts %+v", f, alerts)
		}
		if want := []string{`{guardian_guard="orders-service",namespace=~"|microservices"}`}; !slices.Equal(am.asked, want) {
			t.Errorf("asked for %q, want this guard's alone", am.asked)
		}
		if len(q.asked) != 2 || !strings.Contains(q.asked[0], "orders-v2") || !strings.Contains(q.asked[0], "[300s]") {
			t.Errorf("asked %q", q.asked)
		}
	})
	t.Run("nobody knows what fires", func(t *testing.T) {
		o, _, am, prom, _ := testForwardChecks(t)
		am.err, prom.err = errors.New("down"), errors.New("down too")
		if f, _ := o.askForward(t.Context(), guard, sides, since); !strings.Contains(f.Err, "nobody answers what fires") {
			t.Errorf("forward %+v", f)
		}
	})
	t.Run("Prometheus does not count", func(t *testing.T) {
		o, _, _, _, q := testForwardChecks(t)
		q.err = errors.New("down")
		if f, _ := o.askForward(t.Context(), guard, sides, since); !strings.Contains(f.Err, "Prometheus does not answer") {
			t.Errorf("forward %+v", f)
		}
	})
	t.Run("no data is no request", func(t *testing.T) {
		o, _, _, _, _ := testForwardChecks(t)
		if f, _ := o.askForward(t.Context(), guard, sides, since); f.Err != "" || f.Requests != 0 {
			t.Errorf("forward %+v", f)
		}
	})
}

func TestWhatPrometheusLacksOfAGuardsRulesIsNamed(t *testing.T) {
	group := func(name string, age float64) alerting.Sample {
		return alerting.Sample{Labels: map[string]string{"group": name}, Value: age}
	}
	side := func(name string) alerting.Sample {
		return alerting.Sample{Labels: map[string]string{rules.LabelSide: name}, Value: 1}
	}
	groups := func(old float64) []alerting.Sample {
		return []alerting.Sample{group("guards", 12), group("requests", 2), group("traffic", 3), group("latency", 4), group("restarts", old)}
	}
	for name, c := range map[string]struct {
		samples []alerting.Sample
		want    decision.Gaps
	}{
		"nothing":             {append(groups(5), side("stable"), side("canary")), decision.Gaps{}},
		"the canary's series": {append(groups(5), side("stable")), decision.Gaps{Canary: true}},
		"all": {nil, decision.Gaps{Canary: true, Stable: true,
			Rules: "Prometheus has not loaded the guard's rules (group guards): does it select the PrometheusRules of guardian?"}},
		"one group": {append(groups(5)[:4], side("stable"), side("canary")), decision.Gaps{
			Rules: "Prometheus has not loaded the guard's rules (group restarts): does it select the PrometheusRules of guardian?"}},
		"evaluations of one": {append(groups(120), side("stable"), side("canary")), decision.Gaps{
			Rules: "Prometheus evaluates the guard's rules no more (group restarts)"}},
	} {
		t.Run(name, func(t *testing.T) {
			o, _, _, _, q := testForwardChecks(t)
			q.samples = c.samples
			settings := o.bridge.config.Load().Config
			guard, err := settings.RulesGuard(settings.Guards[0], decision.Sides{})
			if err != nil {
				t.Fatal(err)
			}
			if got, err := o.gaps(t.Context(), settings, guard); err != nil || got != c.want {
				t.Errorf("%+v, %v; want %+v", got, err, c.want)
			}
		})
	}
	t.Run("of a guard without signals it is not asked", func(t *testing.T) {
		o, _, _, _, q := testForwardChecks(t)
		if got, err := o.gaps(t.Context(), o.bridge.config.Load().Config, rules.Guard{Name: "x"}); err != nil || got != (decision.Gaps{}) || len(q.asked) != 0 {
			t.Errorf("%+v, %v, asked %q", got, err, q.asked)
		}
	})
}

// Seconds after a shift what came before it is most of what there is: a count of it would
// let a gate pass, and prove an error rate, by an earlier build.
func TestATallyHasNoRequestsOfEarlierWeights(t *testing.T) {
	for since, want := range map[time.Duration]string{0: "[1s]", 3 * time.Second: "[3s]", time.Minute: "[60s]"} {
		o, _, _, _, q := testForwardChecks(t)
		settings := o.bridge.config.Load().Config
		guard, err := settings.RulesGuard(settings.Guards[0], decision.Sides{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := o.tally(t.Context(), settings, guard, bridgeNow.Add(-since)); err != nil || len(q.asked) != 1 {
			t.Fatalf("%v, asked %q", err, q.asked)
		}
		for _, window := range regexp.MustCompile(`\[\w+\]`).FindAllString(q.asked[0], -1) {
			if window != want {
				t.Errorf("%v after the shift it is counted over %s: %s", since, window, q.asked[0])
			}
		}
	}
}

func TestATallyIsReadOffOneAnswer(t *testing.T) {
	sample := func(label, is string, value float64, more ...string) alerting.Sample {
		s := alerting.Sample{Labels: map[string]string{label: is}, Value: value}
		if len(more) > 0 {
			s.Labels[rules.LabelReporter] = more[0]
		}
		return s
	}
	requests, failed := sample(rules.LabelTally, rules.TallyRequests, 1204.7), sample(rules.LabelTally, rules.TallyFailed, 0.6)
	le := func(reporter, edge string, value float64) alerting.Sample {
		return sample(rules.LabelLatencyMs, edge, value, reporter)
	}
	fast := []alerting.Sample{le("destination", "100.0", 900), le("destination", "250.0", 980), le("destination", "500.0", 999), le("destination", "+Inf", 1000)}
	slow := []alerting.Sample{le("source", "100", 10), le("source", "250", 600), le("source", "500", 900), le("source", "+Inf", 1000)}
	for name, c := range map[string]struct {
		samples []alerting.Sample
		want    decision.Tally
	}{
		"nothing":                   {nil, decision.Tally{}},
		"requests and failures":     {[]alerting.Sample{requests, failed}, decision.Tally{Requests: 1204, Failed: 1}},
		"not a number":              {[]alerting.Sample{sample(rules.LabelTally, rules.TallyRequests, math.NaN())}, decision.Tally{}},
		"the lowest edge":           {fast, decision.Tally{Latency: decision.Latency{Quantile: 0.95, Millis: 250}}},
		"above the limit":           {slow, decision.Tally{Latency: decision.Latency{Quantile: 0.95, Millis: 500, Above: true}}},
		"the slower reporter":       {slices.Concat(fast, slow), decision.Tally{Latency: decision.Latency{Quantile: 0.95, Millis: 500, Above: true}}},
		"no requests timed":         {[]alerting.Sample{le("source", "500", 0), le("source", "+Inf", 0)}, decision.Tally{}},
		"a histogram without edges": {[]alerting.Sample{le("source", "+Inf", 50)}, decision.Tally{}},
	} {
		t.Run(name, func(t *testing.T) {
			o, _, _, _, q := testForwardChecks(t)
			q.samples = c.samples
			settings := o.bridge.config.Load().Config
			guard, err := settings.RulesGuard(settings.Guards[0], decision.Sides{})
			if err != nil {
				t.Fatal(err)
			}
			if got, err := o.tally(t.Context(), settings, guard, bridgeNow.Add(-time.Minute)); err != nil || got != c.want || len(q.asked) != 1 {
				t.Errorf("%+v, %v, by %d queries; want %+v by one", got, err, len(q.asked), c.want)
			}
		})
	}
}

func TestAGateIsOpenOnlyWhenEverySampleIsTrue(t *testing.T) {
	for _, c := range []struct {
		name    string
		samples []alerting.Sample
		open    bool
		why     string
	}{
		{"no data", nil, false, "checkout_ok > bool 0.9 has no data: it is false, or there are no such series"},
		{"one true", []alerting.Sample{{Value: 1}}, true, ""},
		{"one of two false", []alerting.Sample{{Value: 1}, {Value: 0}}, false, "is 0"},
		{"not a number", []alerting.Sample{{Value: math.NaN()}}, false, "is NaN"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o, _, _, _, q := testForwardChecks(t)
			q.samples = c.samples
			g, err := o.gate(t.Context(), config.Gate{Name: "checkout", Query: "checkout_ok > bool 0.9"})
			if err != nil || g.Open != c.open || !c.open && !strings.Contains(g.Why, c.why) {
				t.Errorf("gate %+v, %v; want open %v, %q", g, err, c.open, c.why)
			}
		})
	}
}

func TestEachSignalHasALimitAndIsCounted(t *testing.T) {
	g := config.DefaultGuard("orders-service")
	for _, signal := range rules.SignalNames() {
		a := alerting.Alert{Labels: map[string]string{rules.LabelGuardian: "true", rules.LabelGuard: g.Name, rules.LabelSignal: string(signal)}}
		if !ofOwnRules(a.Labels) {
			t.Fatalf("%v are not the labels of guardian's own rules", a.Labels)
		}
		if limitOf(g, a) == "" {
			t.Errorf("a receipt does not say what limit an alert of signal %s has exceeded", signal)
		}
		if !slices.Contains(decision.Signals[:], string(signal)) {
			t.Errorf("guardian_rollbacks_total counts signal %s as other", signal)
		}
	}
}

// A webhook reaches one replica, and the end of its alert may reach another.
func TestAnEndThatAnotherReplicaReceivedIsListed(t *testing.T) {
	for name, without := range map[string]func(*forwardChecks){
		"with Alertmanager":     func(*forwardChecks) {},
		"with Prometheus alone": func(o *forwardChecks) { o.alertmanager = nil },
	} {
		t.Run(name, func(t *testing.T) {
			o, f, _, _, _ := testForwardChecks(t)
			without(o)
			if err := o.bridge.Accept(t.Context(), alerting.LaneWebhook, []alerting.Alert{firingAlert(guardLabels("orders-service", "rollback"))}); err != nil {
				t.Fatal(err)
			}
			o.now = func() time.Time { return bridgeNow.Add(listEvery) }
			if err := o.list(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := o.bridge.firing("orders-service"); len(got) != 0 || !slices.Contains(f.enqueued, "orders-service") {
				t.Errorf("%+v fires, enqueued %v; want it over, and the guard looked at", got, f.enqueued)
			}
		})
	}
}

// A route that is too wide brings guardian what is no guard's, in any number.
func TestTheHeartbeatNeedsNoRoomAmongAlerts(t *testing.T) {
	b, _ := testBridge(t)
	others := make([]alerting.Alert, alerting.DefaultMaxAlerts)
	for i := range others {
		others[i] = firingAlert(map[string]string{"alertname": "Other", "n": fmt.Sprint(i)})
	}
	heartbeat := firingAlert(map[string]string{"alertname": "GuardianHeartbeat", "guardian": "true", "guardian_instance": "guardian", "namespace": "microservices"})
	for _, alerts := range [][]alerting.Alert{others, {heartbeat}} {
		if err := b.Accept(t.Context(), alerting.LaneWebhook, alerts); err != nil {
			t.Fatal(err)
		}
	}
}

package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/alerting"
	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/remediate/decision"
)

const ownCluster = "own: {cluster: eu-west}"

// without is labels but for some.
func without(labels map[string]string, names ...string) map[string]string {
	labels = maps.Clone(labels)
	for _, name := range names {
		delete(labels, name)
	}
	return labels
}

func TestAnAlertActsOnlyWhereItsLabelsSayThatItBelongs(t *testing.T) {
	rollback := guardLabels("orders-service", "rollback", "guardian_instance", "guardian")
	users := map[string]string{"alertname": "OrdersDown", "guardian_guard": "orders-service", "guardian_action": "rollback", "namespace": "microservices"}
	matched := map[string]string{"alertname": "PaymentsDown", "severity": "page"}
	in := func(labels map[string]string, cluster string) map[string]string {
		labels = maps.Clone(labels)
		labels["cluster"] = cluster
		return labels
	}
	everywhere := []alerting.Lane{alerting.LaneWebhook, alerting.LanePush, alerting.LaneAlertmanager, alerting.LanePrometheus}
	sent := []alerting.Lane{alerting.LaneWebhook, alerting.LanePush, alerting.LaneAlertmanager}
	asked := []alerting.Lane{alerting.LanePrometheus}
	for name, c := range map[string]struct {
		config string
		labels map[string]string
		lanes  []alerting.Lane
		acts   bool
	}{
		"guardian's own":                                          {"", rollback, everywhere, true},
		"a user's":                                                {"", users, everywhere, true},
		"a matcher's":                                             {"", matched, everywhere, true},
		"of another namespace":                                    {"", guardLabels("orders-service", "rollback", "namespace", "staging"), everywhere, false},
		"of another guardian's rules":                             {"", guardLabels("orders-service", "rollback", "guardian_instance", "blue"), everywhere, false},
		"a user's of another guardian":                            {"", guardLabels("orders-service", "rollback", "guardian", "", "guardian_instance", "blue"), everywhere, false},
		"without a namespace":                                     {"", without(users, "namespace"), everywhere, false},
		"guardian's own without a namespace":                      {"", without(rollback, "namespace"), everywhere, false},
		"this cluster's":                                          {ownCluster, in(rollback, "eu-west"), everywhere, true},
		"this cluster's, by a user":                               {ownCluster, in(users, "eu-west"), everywhere, true},
		"this cluster's, by a matcher":                            {ownCluster, in(matched, "eu-west"), everywhere, true},
		"this cluster's, without a namespace":                     {ownCluster, in(without(users, "namespace"), "eu-west"), everywhere, true},
		"another cluster's":                                       {ownCluster, in(rollback, "us-east"), everywhere, false},
		"another cluster's, by a user":                            {ownCluster, in(users, "us-east"), everywhere, false},
		"another cluster's, by a matcher":                         {ownCluster, in(matched, "us-east"), everywhere, false},
		"of no cluster, as sent":                                  {ownCluster, rollback, sent, false},
		"of no cluster, by a user, as sent":                       {ownCluster, users, sent, false},
		"of no cluster, by a matcher, as sent":                    {ownCluster, matched, sent, false},
		"of no cluster in its own ALERTS, which have none":        {ownCluster, rollback, asked, true},
		"of no cluster in its own ALERTS, without a namespace":    {ownCluster, without(users, "namespace"), asked, true},
		"this cluster's of another namespace":                     {ownCluster, in(guardLabels("orders-service", "rollback", "namespace", "staging"), "eu-west"), everywhere, false},
		"of the cluster by one of two labels that it should have": {"own: {cluster: eu-west, env: prod}", in(rollback, "eu-west"), sent, false},
	} {
		for _, lane := range c.lanes {
			t.Run(name+" by "+string(lane), func(t *testing.T) {
				o, _, am, prom, _ := testForwardChecks(t)
				b, f := testBridgeOf(t, c.config)
				o.bridge = b
				a := firingAlert(c.labels)
				var err error
				switch lane {
				case alerting.LaneWebhook:
					err = b.Accept(t.Context(), lane, []alerting.Alert{a})
				case alerting.LanePush:
					a.EndsAt = bridgeNow.Add(4 * time.Minute)
					err = b.Accept(t.Context(), lane, []alerting.Alert{a})
				case alerting.LaneAlertmanager:
					am.alerts = []alerting.Alert{a}
					err = o.list(t.Context())
				case alerting.LanePrometheus:
					am.err, prom.alerts = fmt.Errorf("down"), []alerting.Alert{a}
					_ = o.list(t.Context())
				}
				if err != nil {
					t.Fatal(err)
				}
				acted := len(f.submitted) + len(f.accepted)
				fires := len(o.bridge.firing("orders-service")) + len(o.bridge.firing("payments"))
				want := 0
				if c.acts {
					want = 1
				}
				if acted != want || fires != want {
					t.Errorf("%d guards have it and %d have it firing, want %d", acted, fires, want)
				}
				if ignored := f.ignored(t, lane); c.acts != (len(ignored) == 0) {
					t.Errorf("counted as ignored: %v", ignored)
				}
			})
		}
	}
}

// ignored is how many alerts of a lane were counted as ignored, by reason.
func (f *fakeController) ignored(t *testing.T, lane alerting.Lane) map[string]float64 {
	t.Helper()
	families, err := f.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if v := m.GetCounter().GetValue(); family.GetName() == "guardian_alerts_ignored_total" && labels["lane"] == string(lane) && v > 0 {
				out[labels["reason"]] = v
			}
		}
	}
	return out
}

func TestGoingForwardDoesNotWaitForAnotherClustersAlert(t *testing.T) {
	o, _, am, _, _ := testForwardChecks(t)
	o.bridge, _ = testBridgeOf(t, ownCluster)
	am.alerts = []alerting.Alert{firingAlert(guardLabels("orders-service", "hold", "cluster", "us-east"))}
	if _, firing := o.askForward(t.Context(), decision.Guard{Name: "orders-service"}, decision.Sides{
		Canary: decision.Side{Workloads: []string{"orders-v2"}}, Stable: decision.Side{Workloads: []string{"orders-v1"}},
	}, bridgeNow); len(firing) != 0 {
		t.Errorf("%v fire", firing)
	}
	if want := `{guardian_guard="orders-service",namespace=~"|microservices",cluster="eu-west"}`; !slices.Contains(am.asked, want) {
		t.Errorf("Alertmanager is asked for %q, want %s", am.asked, want)
	}
}

func TestAHeartbeatOfAnotherClusterProvesNothing(t *testing.T) {
	b, _ := testBridgeOf(t, ownCluster)
	beat := func(cluster string) map[string]string {
		return map[string]string{"alertname": "GuardianHeartbeat", "guardian": "true", "guardian_instance": "guardian", "namespace": "microservices", "cluster": cluster}
	}
	for cluster, want := range map[string]bool{"eu-west": true, "us-east": false, "": false} {
		for _, lane := range []alerting.Lane{alerting.LaneWebhook, alerting.LanePush} {
			if got := b.ownHeartbeat(lane, beat(cluster)); got != want {
				t.Errorf("a heartbeat of cluster %q by %s: %v, want %v", cluster, lane, got, want)
			}
		}
	}
}

func TestAnAlertThatDoesNotTellWhoseItIsIsReported(t *testing.T) {
	users := map[string]string{"alertname": "OrdersDown", "guardian_guard": "orders-service", "guardian_action": "rollback"}
	for name, c := range map[string]struct {
		config string
		labels map[string]string
		want   string // in the log; empty: nothing
	}{
		"no namespace":                        {"", users, "namespace: microservices"},
		"no cluster":                          {ownCluster, guardLabels("orders-service", "rollback"), "cluster: eu-west, from external_labels"},
		"another cluster's is nobody's fault": {ownCluster, guardLabels("orders-service", "rollback", "cluster", "us-east"), ""},
		"nor is another namespace's":          {"", guardLabels("orders-service", "rollback", "namespace", "staging"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			b, f := testBridgeOf(t, c.config)
			b.log = slog.New(slog.NewTextHandler(&log, nil))
			for range 3 {
				if err := b.Accept(t.Context(), alerting.LaneWebhook, []alerting.Alert{firingAlert(c.labels)}); err != nil {
					t.Fatal(err)
				}
			}
			if lines := strings.Count(log.String(), "\n"); (c.want != "") != (lines == 1) || !strings.Contains(log.String(), c.want) {
				t.Errorf("logged %q, want one line with %q", log.String(), c.want)
			}
			if ignored := slices.Collect(maps.Values(f.ignored(t, alerting.LaneWebhook))); !slices.Equal(ignored, []float64{3}) {
				t.Errorf("%v counted, want 3", ignored)
			}
		})
	}
}

func TestNoMatcherGivesAnActionToGuardiansOwnAlerts(t *testing.T) {
	b, f := testBridge(t)
	c := b.config.Load()
	broad, err := alerting.ParseMatchers(`namespace="microservices"`)
	if err != nil {
		t.Fatal(err)
	}
	c.byName["payments"].Alerts.Matchers = []config.Matcher{{Match: broad.String(), Action: "rollback", Parsed: &broad}} // which no configuration may have
	for _, labels := range []map[string]string{
		{"alertname": "GuardianHeartbeat", "guardian": "true", "namespace": "microservices", "guardian_action": "none", "guardian_instance": "guardian"},
		guardLabels("payments", "none"), guardLabels("payments", ""), guardLabels("orders-service", "rollback"),
	} {
		if err := b.Accept(t.Context(), alerting.LaneWebhook, []alerting.Alert{firingAlert(labels)}); err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range f.submitted["payments"] {
		if a.Action != "none" {
			t.Errorf("payments is asked for %+v", a)
		}
	}
}

func TestAMatcherThatSelectsMoreThanAnybodyMeansIsRefused(t *testing.T) {
	for match, want := range map[string]string{
		`{alertname="OrdersDown"}`:                      "",
		`{namespace="microservices", guardian!="true"}`: "",
		`{namespace="staging"}`:                         "", // no alert of this guardian's
		`{team="orders"}`:                               "",
		`{alertname=~"Orders.+", severity="critical"}`:  "",
		`{namespace="microservices"}`:                   "GuardianHeartbeat",
		`{alertname=~".+"}`:                             "GuardianHeartbeat",
		`{severity="critical"}`:                         "GuardianCanaryErrorRate",
		`{guardian_guard="orders-service"}`:             "GuardianHeartbeat",
		`{guardian="true", guardian_action="hold"}`:     "GuardianHeartbeat",
		`{guardian_signal="latency"}`:                   "GuardianHeartbeat",
		`{cluster="eu-west"}`:                           "GuardianHeartbeat",
		`{team!="orders"}`:                              "every alert that lacks these labels",
		`{team=~".*"}`:                                  "every alert that lacks these labels",
		`{alertname=~"Orders.*|GuardianDown", namespace="microservices"}`: "GuardianDown",
	} {
		_, err := config.Parse([]byte(ownCluster + "\nnamespace: microservices\nguards:\n- name: orders-service\n  alerts: {matchers: [{match: '" + match + "'}]}\n"))
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", match, err)
		case want != "" && (err == nil || !strings.HasPrefix(err.Error(), "guards[0].alerts.matchers[0].match: ") || !strings.Contains(err.Error(), "selects")):
			t.Errorf("%s: accepted, or %v; want it refused for %s", match, err, want)
		}
	}
}

func TestManyAlertsOfUnknownGuardsAreOneRecord(t *testing.T) {
	b, f := testBridge(t)
	var alerts []alerting.Alert
	for i := range 200 {
		alerts = append(alerts, firingAlert(guardLabels(fmt.Sprintf("nobody-%03d", i), "rollback")))
	}
	for range 2 {
		if err := b.Accept(t.Context(), alerting.LaneWebhook, alerts); err != nil {
			t.Fatal(err)
		}
	}
	if f.records != 1 || len(f.unknown) != 200 {
		t.Errorf("%d records of %d guards, want one of 200", f.records, len(f.unknown))
	}
	if got := f.ignored(t, alerting.LaneWebhook); got["unknown_guard"] != 400 {
		t.Errorf("counted %v", got)
	}
}

func TestTheMemoryOfUnknownNamesIsBounded(t *testing.T) {
	b, f := testBridge(t)
	now := bridgeNow
	b.now = func() time.Time { return now }
	for i := range 5 * saidMost {
		long := fmt.Sprintf("%d-%s", i, strings.Repeat("x", 1_000))
		if err := b.Accept(t.Context(), alerting.LaneWebhook, []alerting.Alert{firingAlert(guardLabels(long, "rollback"))}); err != nil {
			t.Fatal(err)
		}
	}
	size := 0
	for key := range b.unknown {
		size += len(key)
	}
	if len(b.unknown) > saidMost || size > saidMost*saidLength || f.records > saidMost {
		t.Errorf("%d names of %d bytes remembered, %d recorded; want at most %d of each", len(b.unknown), size, f.records, saidMost)
	}
	now = now.Add(sayAgain)
	before := f.records
	if err := b.Accept(t.Context(), alerting.LaneWebhook, []alerting.Alert{firingAlert(guardLabels("late", "rollback"))}); err != nil || f.records != before+1 {
		t.Errorf("%v, %d records, want one more: there is room again", err, f.records-before)
	}
}

func TestOwnIsWhatPrometheusAddsToAll(t *testing.T) {
	for own, want := range map[string]string{
		"{cluster: eu-west, prometheus: shop/main}": "",
		"{}":                              "",
		"{namespace: shop}":               "external_labels",
		"{guardian_guard: orders}":        "external_labels",
		"{alertname: x}":                  "external_labels",
		"{severity: x}":                   "external_labels",
		`{cluster: ""}`:                   "empty",
		`{"eu west": x}`:                  "the name of a label",
		"eu-west":                         "want a mapping",
		"{cluster: 7}":                    "want a string",
		"[cluster]":                       "want a mapping",
		"{cluster: eu-west, cluster: us}": "already defined",
	} {
		_, err := config.Parse([]byte("namespace: microservices\nown: " + own + "\n"))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("own: %s: %v; want %q", own, err, want)
		}
	}
}

func TestWhatPrometheusPushedTooLateIsCountedAndReported(t *testing.T) {
	b, f := testBridge(t)
	var log bytes.Buffer
	b.log = slog.New(slog.NewTextHandler(&log, nil))
	ended := firingAlert(guardLabels("orders-service", "rollback"))
	ended.StartsAt, ended.EndsAt, ended.Resolved = bridgeNow.Add(-10*time.Minute), bridgeNow.Add(-time.Minute), true
	for range 3 { // as from a Prometheus whose clock is five minutes behind: each repetition seems to have ended a minute ago
		if err := b.Accept(t.Context(), alerting.LanePush, []alerting.Alert{ended}); err != nil {
			t.Fatal(err)
		}
	}
	if got := f.ignored(t, alerting.LanePush); got["ended"] != 3 {
		t.Errorf("counted %v", got)
	}
	if n := strings.Count(log.String(), "clock is ahead"); n != 1 {
		t.Errorf("%d lines, want 1:\n%s", n, log.String())
	}
	// The end of one that was heard is the usual thing.
	b, f = testBridge(t)
	firing := ended
	firing.Resolved, firing.EndsAt = false, bridgeNow.Add(time.Minute)
	for _, a := range []alerting.Alert{firing, ended} {
		if err := b.Accept(t.Context(), alerting.LanePush, []alerting.Alert{a}); err != nil {
			t.Fatal(err)
		}
	}
	if got := f.ignored(t, alerting.LanePush); len(got) != 0 {
		t.Errorf("counted %v", got)
	}
}

func TestAQueryOfGrafanaThatFailsRollsNothingBack(t *testing.T) {
	for _, name := range []string{"DatasourceError", "DatasourceNoData"} {
		b, f := testBridge(t)
		labels := guardLabels("orders-service", "rollback", "alertname", name, "rulename", "OrdersSlow")
		delete(labels, "guardian")
		if err := b.Accept(t.Context(), alerting.LaneWebhook, []alerting.Alert{firingAlert(labels)}); err != nil {
			t.Fatal(err)
		}
		if got := f.submitted["orders-service"]; len(got) != 1 || got[0].Action != decision.ActionHold {
			t.Errorf("%s asks for %+v, want a hold: nothing is known of the canary", name, got)
		}
	}
}

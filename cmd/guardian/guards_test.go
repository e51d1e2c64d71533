package main

import (
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/remediate"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	"github.com/canary-guardian/guardian/rules"
)

func TestAGuardOfOneLineMeansTheSameToEveryPackage(t *testing.T) {
	c, err := ParseConfig([]byte("namespace: microservices\nguards: [{name: orders-service}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := decision.Guard{
		Name: "orders-service", Namespace: "microservices", VirtualServices: []string{"orders-service"}, DestinationRule: "orders-service",
		Stable: virtualservice.Ref{Subset: "v1"}, Canary: virtualservice.Ref{Subset: "v2"}, Mode: decision.ModeEnforce,
		Rollback: decision.Rollback{Lock: decision.LockBuild, Window: 30 * time.Minute, MinReadyStable: 1, MatchRoutes: true, Mirrors: true},
		Promotion: decision.Promotion{Mode: decision.PromotionOff, MinRequests: 100, Steps: []decision.Step{
			{Weight: 10, Interval: 5 * time.Minute}, {Weight: 30, Interval: 5 * time.Minute}, {Weight: 50, Interval: 5 * time.Minute}, {Weight: 100, Interval: 5 * time.Minute}}},
		AlertWindow: 6 * time.Minute, HeartbeatMaxAge: 3 * time.Minute, DisarmMax: 24 * time.Hour,
	}
	if got := c.remediateGuard(c.Guards[0], 6*time.Minute); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	wantRules := rules.Guard{
		Name: "orders-service", Namespace: "microservices",
		Stable: rules.Side{Name: "v1", Service: "orders-service", Version: "v1"},
		Canary: rules.Side{Name: "v2", Service: "orders-service", Version: "v2"},
		Signals: rules.Signals{ErrorRate: &rules.ErrorRate{Max: 0.01}, Latency: &rules.Latency{Quantile: 0.95, Max: 500 * time.Millisecond},
			Restarts: &rules.Restarts{Max: 2, Window: 5 * time.Minute}, Traffic: &rules.Traffic{ShareTolerance: 0.5}},
	}
	if got, err := c.rulesGuard(c.Guards[0], remediate.Sides{}); err != nil || !reflect.DeepEqual(got, wantRules) {
		t.Errorf("got  %+v, %v\nwant %+v", got, err, wantRules)
	}
}

func TestTheAlertWindowNeedsNoDeployments(t *testing.T) {
	const one = "namespace: microservices\nguards:\n- {name: orders-service, signals: {restarts: {window: 20m}}}\n"
	plain, err := ParseConfig([]byte(one))
	if err != nil {
		t.Fatal(err)
	}
	hosts, err := ParseConfig([]byte(one + "- {name: payments, stable: {host: payments-v1}, canary: {host: payments-v2}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := alertWindow(plain)
	if want < 20*time.Minute {
		t.Fatal(want)
	}
	if got := alertWindow(hosts); got != want {
		t.Errorf("with hosts of their own whose Deployments nobody has found yet: %v, want %v", got, want)
	}
}

func TestWorkloadsComeFromTheConfigurationElseFromTheCluster(t *testing.T) {
	c := DefaultConfig()
	c.Namespace = "shop"
	found := remediate.Sides{
		Stable: remediate.Side{Service: "orders", Labels: map[string]string{"version": "one"}, Workloads: []string{"orders-one"}},
		Canary: remediate.Side{Service: "orders", Labels: map[string]string{"track": "canary"}, Workloads: []string{"orders-two"}},
	}
	g := DefaultGuard("orders-service")
	got, err := c.rulesGuard(g, found)
	want := []rules.Side{
		{Name: "v1", Service: "orders", Version: "one", Workloads: []string{"orders-one"}},
		{Name: "v2", Service: "orders", Version: "v2", Workloads: []string{"orders-two"}},
	}
	if err != nil || !reflect.DeepEqual([]rules.Side{got.Stable, got.Canary}, want) {
		t.Errorf("from the cluster: got %+v, %v", got, err)
	}
	g.Workloads.Canary = []string{"mine"}
	if got, err := c.rulesGuard(g, found); err != nil || !reflect.DeepEqual(got.Canary.Workloads, []string{"mine"}) || got.Stable.Workloads[0] != "orders-one" {
		t.Errorf("configured: got %+v, %v", got, err)
	}
	g = DefaultGuard("orders-service")
	g.Stable, g.Canary = RefConfig{virtualservice.Ref{Host: "orders-v1"}}, RefConfig{virtualservice.Ref{Host: "orders-v2"}}
	if _, err := c.rulesGuard(g, remediate.Sides{}); err == nil || !strings.Contains(err.Error(), "guard orders-service: stable host:orders-v1 is a host") {
		t.Errorf("hosts that nobody knows: got %v", err)
	}
}

func TestASignalThatIsOffHasNoLimit(t *testing.T) {
	g := DefaultGuard("a")
	g.Signals.Latency.Enabled, g.Signals.Traffic.Enabled = false, false
	got := g.Signals.limits()
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
		c := DefaultConfig()
		c.Namespace, c.Guards = "shop", []GuardConfig{DefaultGuard("orders-service")}
		c.Rules.FastLane, c.Rules.Interval = FastLaneConfig{Enabled: true, Interval: test.lane}, test.interval
		o, left := c.rulesOptions(nil)
		if err := left.err(); err != nil {
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
	c, err := LoadConfig(testdataFile("full.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	o, left := c.rulesOptions(nil)
	err = left.err()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rules.Generate(o); err != nil {
		t.Error(err)
	}
}

func TestPrintingCommands(t *testing.T) {
	t.Setenv("GUARDIAN_NAMESPACE", "") // put back at the end
	os.Unsetenv("GUARDIAN_NAMESPACE")
	for name, tc := range map[string]struct {
		args string
		code int
		says []string
	}{
		"rules of a guard":            {"rules --guard orders-service -n shop", exitOK, []string{"kind: PrometheusRule", "namespace: shop", "guardian_guard: orders-service"}},
		"no fast lane to print":       {"rules --guard a -n shop --format podmonitor", exitFailed, []string{"--format podmonitor: no fast lane: want rules.fastLane.enabled: true, or GUARDIAN_RULES_FAST_LANE_ENABLED=true"}},
		"fast lane for the operator":  {"rules -f " + testdataFile("full.yaml") + " --format podmonitor", exitOK, []string{"kind: PodMonitor", "name: shop-guardian-fast-lane", "namespace: monitoring", "interval: 2s"}},
		"fast lane for a file":        {"rules -f " + testdataFile("full.yaml") + " --format scrapeconfig", exitOK, []string{"job_name: shop-guardian-fast-lane", "scrape_interval: 2s"}},
		"rules as a file":             {"rules --guard a --guard b -n shop --format prometheus", exitOK, []string{"groups:", "guardian_guard: a", "guardian_guard: b"}},
		"rules of a file":             {"rules -f " + testdataFile("full.yaml"), exitOK, []string{"release: kube-prometheus-stack", "name: shop-guardian", "namespace: monitoring", "guardian_guard: payments"}},
		"rules of nothing":            {"rules -n shop", exitFailed, []string{"no guards: want --config FILE"}},
		"rules of both":               {"rules -n shop --guard a -f x", exitFailed, []string{"--config and --guard: want one of the two"}},
		"rules without a namespace":   {"rules --guard a", exitFailed, []string{"namespace: not set"}},
		"rules of a bad guard":        {"rules --guard A_ -n shop", exitFailed, []string{`guards[0].name: "A_": want a DNS label`}},
		"rules of one destination":    {"rules --guard a --canary v1 -n shop", exitFailed, []string{`guards[0].canary: "v1": want another destination`}},
		"rules of hosts":              {"rules --guard a --stable host:a1 --canary host:a2 -n shop", exitFailed, []string{"name them in workloads"}},
		"rules in a format unknown":   {"rules --guard a -n shop --format json", exitFailed, []string{`--format "json": want prometheusrule, prometheus, podmonitor or scrapeconfig`}},
		"rules of a bad file":         {"rules -f " + testdataFile("bad-keys.yaml"), exitFailed, []string{"did you mean namespace?"}},
		"admission":                   {"admission", exitOK, []string{"kind: ValidatingAdmissionPolicy", "kind: MutatingAdmissionPolicy", "kind: ValidatingAdmissionPolicyBinding"}},
		"admission of a namespace":    {"admission -n shop", exitFailed, []string{"--namespace", "the same for every namespace"}},
		"admission of an old release": {"admission --release r", exitFailed, []string{"--release", "without it"}},
		"admission of an old cluster": {"admission --kubernetes 1.29", exitFailed, []string{"need 1.30"}},
		"admission of no version":     {"admission --kubernetes new", exitFailed, []string{`"new"`, "want a version such as 1.36"}},
		"route of a namespace":        {"alertmanager -n shop --token-file /t", exitOK, []string{"http://guardian.shop:8080/webhook", "credentials_file: /t", "guardian_guard!="}},
		"route of a file":             {"alertmanager -f " + testdataFile("full.yaml") + " --url https://g/webhook", exitOK, []string{"https://g/webhook", "OrdersDown", "shop-guardian"}},
		"route of a cluster":          {"alertmanager -f " + testdataFile("full.yaml") + " --url https://g/webhook", exitOK, []string{"guardian-microservices.eu-west", `cluster="eu-west"`}},
		"route of another port": {"alertmanager -f " + testdataFile("reach.yaml") + " --username am --password-file /pw --cert-file /c --key-file /k --ca-file /ca", exitOK,
			[]string{"https://guardian.shop:9443/webhook", "username: am", "password_file: /pw", "ca_file: /ca", "cert_file: /c", "key_file: /k"}},
		"the same for the operator": {"alertmanager -f " + testdataFile("reach.yaml") + " --format alertmanagerconfig --basic-auth-secret am --tls-secret tls", exitOK,
			[]string{"https://guardian.shop:9443/webhook", "key: password", "key: ca.crt", "key: tls.crt", "keySecret", "release: stack"}},
		"route without its password":  {"alertmanager -f " + testdataFile("reach.yaml") + " --cert-file /c --key-file /k", exitFailed, []string{"basic_auth_users: guardian answers 401 without it: want --username"}},
		"route without a certificate": {"alertmanager -f " + testdataFile("reach.yaml") + " --username a --password-file /p", exitFailed, []string{"want --cert-file FILE"}},
		"route without its token":     {"alertmanager -n shop", exitFailed, []string{"webhook.tokenFile: guardian answers 401 without it: want --token-file"}},
		"route of TLS unknown here":   {"alertmanager -f " + testdataFile("full.yaml"), exitFailed, []string{"web.configFile", "want --url"}},
		"matchers as serve has them":  {"alertmanager -f " + testdataFile("matchers.yaml") + " --token-file /t", exitOK, []string{"Orders Down", "team", "[a-z]+"}},
		"route for the operator":      {"alertmanager -n shop --format alertmanagerconfig --token-secret s", exitOK, []string{"kind: AlertmanagerConfig", "namespace: shop", "name: s"}},
		"route without a namespace":   {"alertmanager", exitFailed, []string{"namespace: not set"}},
		"route with a Secret":         {"alertmanager -n shop --token-secret s", exitFailed, []string{"want --token-file"}},
		"route with a file":           {"alertmanager -n shop --format alertmanagerconfig --token-file s", exitFailed, []string{"want --token-secret"}},
		"route in a format unknown":   {"alertmanager -n shop --format x", exitFailed, []string{`--format "x"`}},
		"a command that is not there": {"rollforward", exitUnknown, []string{`unknown command "rollforward"`}},
	} {
		t.Run(name, func(t *testing.T) {
			code, text := newBench(t).run(strings.Fields(tc.args)...)
			for _, says := range tc.says {
				want(t, code, text, tc.code, says)
			}
		})
	}
}

func TestAdmissionLeavesOutWhatAClusterDoesNotServe(t *testing.T) {
	for args, mutates := range map[string]bool{"admission": true, "admission --kubernetes v1.36.2": true, "admission --kubernetes 1.35": false, "admission --no-mutating": false} {
		code, text := newBench(t).run(strings.Fields(args)...)
		if code != exitOK || strings.Contains(text, "MutatingAdmissionPolicy") != mutates || !strings.Contains(text, "name: "+remediate.PolicyLock) || !strings.Contains(text, "name: "+remediate.PolicyRecord) {
			t.Errorf("guardian %s: exit code %d, mutating policy wanted: %v\n%s", args, code, mutates, text)
		}
	}
}

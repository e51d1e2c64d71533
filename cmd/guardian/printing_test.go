package main

import (
	"os"
	"strings"
	"testing"

	"github.com/canary-guardian/guardian/remediate"
)

func TestPrintingCommands(t *testing.T) {
	t.Setenv("GUARDIAN_NAMESPACE", "") // put back at the end
	os.Unsetenv("GUARDIAN_NAMESPACE")
	for name, tc := range map[string]struct {
		args string
		code int
		says []string
	}{
		"rules of a guard":            {"rules --guard orders-service -n shop", exitOK, []string{"kind: PrometheusRule", "namespace: shop", "guardian_guard: orders-service"}},
		"no fast lane to print":       {"rules --guard a -n shop --format podmonitor", exitUnknown, []string{"--format podmonitor: no fast lane: want rules.fastLane.enabled: true, or GUARDIAN_RULES_FAST_LANE_ENABLED=true"}},
		"fast lane for the operator":  {"rules -f " + testdataFile("full.yaml") + " --format podmonitor", exitOK, []string{"kind: PodMonitor", "name: shop-guardian-fast-lane", "namespace: monitoring", "interval: 2s"}},
		"fast lane for a file":        {"rules -f " + testdataFile("full.yaml") + " --format scrapeconfig", exitOK, []string{"job_name: shop-guardian-fast-lane", "scrape_interval: 2s"}},
		"rules as a file":             {"rules --guard a --guard b -n shop --format prometheus", exitOK, []string{"groups:", "guardian_guard: a", "guardian_guard: b"}},
		"rules of a file":             {"rules -f " + testdataFile("full.yaml"), exitOK, []string{"release: kube-prometheus-stack", "name: shop-guardian", "namespace: monitoring", "guardian_guard: payments"}},
		"rules of nothing":            {"rules -n shop", exitUnknown, []string{"no guards: want --config FILE"}},
		"rules of both":               {"rules -n shop --guard a -f x", exitUnknown, []string{"--config and --guard: want one of the two"}},
		"rules without a namespace":   {"rules --guard a", exitUnknown, []string{"namespace: not set"}},
		"rules of a bad guard":        {"rules --guard A_ -n shop", exitUnknown, []string{`--guard: "A_": want a DNS label`}},
		"rules of one destination":    {"rules --guard a --canary v1 -n shop", exitUnknown, []string{`--canary: "v1": want another destination`}},
		"rules of hosts":              {"rules --guard a --stable host:a1 --canary host:a2 -n shop", exitFailed, []string{"name them in workloads"}},
		"rules in a format unknown":   {"rules --guard a -n shop --format json", exitUnknown, []string{`--format "json": want prometheusrule, prometheus, podmonitor or scrapeconfig`}},
		"rules of a bad file":         {"rules -f " + testdataFile("bad-keys.yaml"), exitFailed, []string{"did you mean namespace?"}},
		"admission":                   {"admission", exitOK, []string{"kind: ValidatingAdmissionPolicy", "kind: MutatingAdmissionPolicy", "kind: ValidatingAdmissionPolicyBinding"}},
		"admission of a namespace":    {"admission -n shop", exitUnknown, []string{"--namespace", "the same for every namespace"}},
		"admission of an old release": {"admission --release r", exitUnknown, []string{"--release", "without it"}},
		"admission of an old cluster": {"admission --kubernetes 1.29", exitUnknown, []string{"need 1.30"}},
		"admission of no version":     {"admission --kubernetes new", exitUnknown, []string{`"new"`, "want a version such as 1.36"}},
		"route of a namespace":        {"alertmanager -n shop --token-file /t", exitOK, []string{"http://guardian.shop:8080/webhook", "credentials_file: /t", "guardian_guard!="}},
		"route of a file":             {"alertmanager -f " + testdataFile("full.yaml") + " --url https://g/webhook", exitOK, []string{"https://g/webhook", "OrdersDown", "shop-guardian"}},
		"route of a cluster":          {"alertmanager -f " + testdataFile("full.yaml") + " --url https://g/webhook", exitOK, []string{"guardian-microservices.eu-west", `cluster="eu-west"`}},
		"route of another port": {"alertmanager -f " + testdataFile("reach.yaml") + " --username am --password-file /pw --cert-file /c --key-file /k --ca-file /ca", exitOK,
			[]string{"https://guardian.shop:9443/webhook", "username: am", "password_file: /pw", "ca_file: /ca", "cert_file: /c", "key_file: /k"}},
		"the same for the operator": {"alertmanager -f " + testdataFile("reach.yaml") + " --format alertmanagerconfig --basic-auth-secret am --tls-secret tls", exitOK,
			[]string{"https://guardian.shop:9443/webhook", "key: password", "key: ca.crt", "key: tls.crt", "keySecret", "release: stack"}},
		"route without its password":  {"alertmanager -f " + testdataFile("reach.yaml") + " --cert-file /c --key-file /k", exitUnknown, []string{"basic_auth_users: guardian answers 401 without it: want --username"}},
		"route without a certificate": {"alertmanager -f " + testdataFile("reach.yaml") + " --username a --password-file /p", exitUnknown, []string{"want --cert-file FILE"}},
		"route without its token":     {"alertmanager -n shop", exitUnknown, []string{"webhook.tokenFile: guardian answers 401 without it: want --token-file"}},
		"route of TLS unknown here":   {"alertmanager -f " + testdataFile("full.yaml"), exitUnknown, []string{"web.configFile", "want --url"}},
		"matchers as serve has them":  {"alertmanager -f " + testdataFile("matchers.yaml") + " --token-file /t", exitOK, []string{"Orders Down", "team", "[a-z]+"}},
		"route for the operator":      {"alertmanager -n shop --format alertmanagerconfig --token-secret s", exitOK, []string{"kind: AlertmanagerConfig", "namespace: shop", "name: s"}},
		"route without a namespace":   {"alertmanager", exitUnknown, []string{"namespace: not set"}},
		"route with a Secret":         {"alertmanager -n shop --token-secret s", exitUnknown, []string{"want --token-file"}},
		"route with a file":           {"alertmanager -n shop --format alertmanagerconfig --token-file s", exitUnknown, []string{"want --token-secret"}},
		"route in a format unknown":   {"alertmanager -n shop --format x", exitUnknown, []string{`--format "x"`}},
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

package publish

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/rules"
	"github.com/canary-guardian/guardian/test/controlplane"
)

// TestTheAPIServerTakesThePrintedManifests lets the operator's own schemas judge.
func TestTheAPIServerTakesThePrintedManifests(t *testing.T) {
	plane := controlplane.Shared(t)
	ns := plane.Namespace(t)
	config, err := rules.AlertmanagerConfig(rules.AlertmanagerOptions{
		URL: "https://guardian:8080/webhook", Namespace: ns, Own: map[string]string{"cluster": "eu-west"}, TokenSecret: "guardian", TLSSecret: "guardian-tls", ClientCert: true,
		Labels: map[string]string{"release": "kube-prometheus-stack"}, Matchers: []string{`{alertname="OrdersDown"}`},
	}, "guardian")
	if err != nil {
		t.Fatal(err)
	}
	rule, err := generate(t, 0.01).PrometheusRulesYAML("guardian", ns)
	if err != nil {
		t.Fatal(err)
	}
	monitor, err := generate(t, 0.01, func(o *rules.Options) { o.FastLane = time.Second }).PodMonitorYAML("guardian", ns)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"alertmanagerconfig.yaml": config, "prometheusrules.yaml": rule, "podmonitor.yaml": monitor} {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := plane.Kubectl(t.Context(), controlplane.Admin, ns, "apply", "--validate=strict", "-f", file); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

func TestTheDocumentedCommandAppliesAThousandGuards(t *testing.T) {
	plane := controlplane.Shared(t)
	for name, test := range map[string]struct {
		change func(*rules.Options)
		args   []string
	}{
		"as documented":          {func(*rules.Options) {}, []string{"--server-side"}},
		"as most people have it": {func(*rules.Options) {}, nil},
		"on the fast lane":       {func(o *rules.Options) { o.FastLane, o.Interval = time.Second, 500*time.Millisecond }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			ns := plane.Namespace(t)
			made := generate(t, 0.01, guards(1000), test.change)
			text, err := made.PrometheusRulesYAML("guardian", ns)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "rules.yaml")
			if err := os.WriteFile(file, text, 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := plane.Kubectl(t.Context(), controlplane.Admin, ns, append([]string{"apply", "-f", file}, test.args...)...)
			if want := len(made.PrometheusRules("guardian", ns)); err != nil || bytes.Count([]byte(out), []byte("prometheusrule.monitoring.coreos.com/guardian")) != want {
				t.Errorf("%v; want %d objects\n%s", err, want, out)
			}
		})
	}
}

package rules

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	amconfig "github.com/prometheus/alertmanager/config"
	"github.com/prometheus/alertmanager/dispatch"
	"github.com/prometheus/common/model"
	"sigs.k8s.io/yaml"

	"github.com/canary-guardian/guardian/test/controlplane"
)

func amOptions() AlertmanagerOptions {
	return AlertmanagerOptions{
		URL:         "http://guardian.microservices:8080/webhook",
		Namespace:   "microservices",
		TokenFile:   "/etc/alertmanager/secrets/guardian/token",
		TokenSecret: "guardian",
		Matchers:    []string{`{alertname="OrdersDown", severity=~"page|critical"}`},
	}
}

// load puts the fragment into an alertmanager.yml of somebody else and loads it
// as Alertmanager does.
func load(t *testing.T, fragment []byte) *amconfig.Config {
	t.Helper()
	c, err := amconfig.Load(string(whole(t, fragment)))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func whole(t *testing.T, fragment []byte) []byte {
	t.Helper()
	var whole map[string]any
	if err := yaml.Unmarshal(fragment, &whole); err != nil {
		t.Fatal(err)
	}
	route := whole["route"].(map[string]any)
	route["receiver"] = "default"
	route["routes"] = append(route["routes"].([]any), map[string]any{"receiver": "everybody"})
	whole["receivers"] = append(whole["receivers"].([]any), map[string]any{"name": "everybody"}, map[string]any{"name": "default"})
	text, err := yaml.Marshal(whole)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestAmtoolAcceptsTheRoute(t *testing.T) {
	if testing.Short() {
		t.Skip("builds amtool")
	}
	amtool, err := controlplane.Binary(t.Context(), "amtool")
	if err != nil {
		t.Fatal(err)
	}
	out, err := AlertmanagerRoute(amOptions())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "alertmanager.yml")
	if err := os.WriteFile(file, whole(t, out), 0o600); err != nil {
		t.Fatal(err)
	}
	if said, err := exec.CommandContext(t.Context(), amtool, "check-config", file).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, said)
	}
}

func TestAlertmanagerRoute(t *testing.T) {
	out, err := AlertmanagerRoute(amOptions())
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "alertmanager.yaml", out)
	c := load(t, out)
	root := dispatch.NewRoute(c.Route, nil)
	guardian := model.LabelSet{"guardian": "true", "guardian_guard": "orders-service", "namespace": "microservices"}
	with := func(base model.LabelSet, pairs ...string) model.LabelSet {
		set := base.Clone()
		for i := 0; i < len(pairs); i += 2 {
			set[model.LabelName(pairs[i])] = model.LabelValue(pairs[i+1])
		}
		return set
	}
	for name, test := range map[string]struct {
		labels model.LabelSet
		want   string
	}{
		"the heartbeat goes to guardian alone": {
			model.LabelSet{"guardian": "true", "alertname": "GuardianHeartbeat", "guardian_instance": "guardian", "namespace": "microservices"}, "guardian-microservices"},
		"another guardian's heartbeat does not": {
			model.LabelSet{"guardian": "true", "alertname": "GuardianHeartbeat", "guardian_instance": "other", "namespace": "microservices"}, "everybody"},
		"another namespace's heartbeat does not": {
			model.LabelSet{"guardian": "true", "alertname": "GuardianHeartbeat", "guardian_instance": "guardian", "namespace": "staging"}, "everybody"},
		"another namespace's rollback does not":       {with(guardian, "guardian_action", "rollback", "namespace", "staging"), "everybody"},
		"an alert that does not say where does not":   {model.LabelSet{"guardian_guard": "x", "guardian_action": "rollback"}, "everybody"},
		"no matcher takes guardian's own":             {with(guardian, "guardian_action", "none", "alertname", "OrdersDown", "severity", "page"), "everybody"},
		"a rollback goes to guardian and to people":   {with(guardian, "guardian_action", "rollback"), "guardian-microservices everybody"},
		"a hold goes to guardian and to people":       {with(guardian, "guardian_action", "hold"), "guardian-microservices everybody"},
		"what is for people goes to people":           {with(guardian, "guardian_action", "none"), "everybody"},
		"an alert of the user's own takes part":       {model.LabelSet{"guardian_guard": "x", "guardian_action": "rollback", "namespace": "microservices"}, "guardian-microservices everybody"},
		"an alert chosen by a matcher takes part":     {model.LabelSet{"alertname": "OrdersDown", "severity": "page"}, "guardian-microservices everybody"},
		"an alert that no matcher chose goes nowhere": {model.LabelSet{"alertname": "OrdersDown", "severity": "info"}, "everybody"},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, r := range root.Match(test.labels) {
				got = append(got, r.RouteOpts.Receiver)
			}
			if strings.Join(got, " ") != test.want {
				t.Errorf("goes to %v, want %s", got, test.want)
			}
		})
	}
	for _, r := range root.Routes[:3] {
		if o := r.RouteOpts; o.GroupWait != 0 || o.GroupInterval != 10*time.Second || o.RepeatInterval != time.Minute || !o.GroupByAll {
			t.Errorf("route %v: %+v", r.Matchers, o)
		}
	}
}

func TestAlertmanagerConfig(t *testing.T) {
	out, err := AlertmanagerConfig(amOptions(), "guardian")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "alertmanagerconfig.yaml", out)
}

func TestAlertmanagerRefusesWhatCannotWork(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*AlertmanagerOptions)
		want   string
	}{
		"no URL":             {func(o *AlertmanagerOptions) { o.URL = "" }, `url: want http or https`},
		"a URL without host": {func(o *AlertmanagerOptions) { o.URL = "/webhook" }, `url: want http or https`},
		"a URL with a user":  {func(o *AlertmanagerOptions) { o.URL = "http://u:pw@guardian" }, "url: want http or https and no user"},
		"no namespace":       {func(o *AlertmanagerOptions) { o.Namespace = "" }, "namespace: empty"},
		"a broken matcher":   {func(o *AlertmanagerOptions) { o.Matchers = []string{`{a=~"["}`} }, "matchers: "},
		"half a second":      {func(o *AlertmanagerOptions) { o.HeartbeatEvery = time.Second / 2 }, "heartbeat: every 500ms; want whole seconds"},
	} {
		t.Run(name, func(t *testing.T) {
			o := amOptions()
			test.change(&o)
			_, err := AlertmanagerRoute(o)
			if err != nil && strings.Contains(err.Error(), "pw") {
				t.Errorf("the password is shown: %v", err)
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %s", err, test.want)
			}
			if _, err := AlertmanagerConfig(o, "guardian"); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}

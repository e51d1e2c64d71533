package config

import (
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"go.yaml.in/yaml/v3"

	"github.com/canary-guardian/guardian/test/golden"
)

var rewrite = flag.Bool("update", false, "rewrite the golden files")

// testdataFile is a path under the repository's testdata/config.
func testdataFile(name string) string {
	return filepath.Join("..", "..", "..", "testdata", "config", name)
}

// checkGolden compares with a file of testdata/config, or writes it.
func checkGolden(t *testing.T, name, got string) {
	t.Helper()
	golden.Check(t, testdataFile(name), got, *rewrite)
}

func TestAGuardOfOneLineHasEveryDefault(t *testing.T) {
	c, err := Parse([]byte("namespace: microservices\nguards:\n- name: orders-service\n"))
	if err != nil {
		t.Fatal(err)
	}
	checkGolden(t, "oneline.golden.yaml", c.String())
}

func TestEveryKeyCanBeSetAndIsReadBackTheSame(t *testing.T) {
	c, err := Load(testdataFile("full.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	checkGolden(t, "full.golden.yaml", c.String())
	// What is shown can be read again, but for the secrets.
	if _, err := Parse([]byte(c.String())); err != nil {
		t.Errorf("the shown configuration cannot be read again: %v", err)
	}
}

func TestTheFullFileHasEveryKey(t *testing.T) {
	text, err := os.ReadFile(testdataFile("full.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var file map[string]any
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	for _, key := range missingKeys("", reflect.TypeFor[Config](), []map[string]any{file}) {
		t.Errorf("full.yaml lacks %s", key)
	}
}

// missingKeys are those of a type that none of the values has, as paths.
func missingKeys(path string, of reflect.Type, values []map[string]any) (missing []string) {
	for _, f := range reflect.VisibleFields(of) {
		key := yamlKey(f)
		if key == "" {
			continue
		}
		at, set := join(path, key), false
		var below []map[string]any
		for _, v := range values {
			value, ok := v[key]
			set = set || ok
			switch value := value.(type) {
			case map[string]any:
				below = append(below, value)
			case []any:
				for _, element := range value {
					if m, ok := element.(map[string]any); ok {
						below = append(below, m)
					}
				}
			}
		}
		element := f.Type
		if element.Kind() == reflect.Slice {
			element = element.Elem()
		}
		switch {
		case !set && strings.HasPrefix(at, "guards.signals.") && key == "enabled": // one signal that is off shows it
		case !set:
			missing = append(missing, at)
		case element.Kind() == reflect.Struct && !foreignType(element) && element != reflect.TypeFor[Ref]():
			missing = append(missing, missingKeys(at, element, below)...)
		}
	}
	return missing
}

func TestAllProblemsAreReportedAtOnce(t *testing.T) {
	for _, name := range []string{"values", "keys", "types"} {
		t.Run(name, func(t *testing.T) {
			_, err := Load(testdataFile("bad-" + name + ".yaml"))
			if err == nil {
				t.Fatal("no error")
			}
			checkGolden(t, "bad-"+name+".golden", strings.ReplaceAll(err.Error(), testdataFile(""), "")+"\n")
		})
	}
}

func TestWhatIsNoConfigurationIsRefused(t *testing.T) {
	for name, text := range map[string]string{
		"a list":               "- name: orders-service",
		"a word":               "guards",
		"two documents":        "namespace: a\n---\nnamespace: b\n",
		"a key twice":          "namespace: a\nnamespace: b\n",
		"broken YAML":          "guards: [",
		"a key in other case":  "Namespace: a\n",
		"a key that is number": "namespace: a\n1: b\n",
	} {
		t.Run(name, func(t *testing.T) {
			if c, err := Parse([]byte(text)); err == nil {
				t.Errorf("accepted as %s", c)
			}
		})
	}
}

func TestTheEnvironmentWinsOverTheFile(t *testing.T) {
	t.Setenv("GUARDIAN_NAMESPACE", "shop")
	t.Setenv("GUARDIAN_PROMETHEUS_URL", "https://prom.example")
	t.Setenv("GUARDIAN_HEARTBEAT_MAX_AGE", "5m")
	t.Setenv("GUARDIAN_RULES_ENABLED", "false")
	t.Setenv("GUARDIAN_RULES_LINKS_GRAFANA", "https://grafana.example")
	t.Setenv("GUARDIAN_SERVICE_HOST", "10.0.0.1") // Kubernetes sets this for a Service named guardian
	t.Setenv("GUARDIAN_PORT", "tcp://10.0.0.1:8080")
	c, err := Parse([]byte("namespace: microservices\nheartbeat: {maxAge: 1m}\nalertmanager: {url: http://am}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if c.Namespace != "shop" || c.Prometheus.URL != "https://prom.example" || c.Heartbeat.MaxAge != 5*time.Minute ||
		c.Rules.Enabled || c.Rules.Links.Grafana != "https://grafana.example" || c.Alertmanager.URL != "http://am" {
		t.Errorf("got %s", c)
	}
}

func TestAProblemFromTheEnvironmentNamesItsVariable(t *testing.T) {
	t.Setenv("GUARDIAN_NAMESPACE", "shop")
	t.Setenv("GUARDIAN_RULES_ENABLED", "perhaps")
	_, err := Parse(nil)
	if want := `rules.enabled (GUARDIAN_RULES_ENABLED): "perhaps": want true or false`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// TestAWrongValueFromTheEnvironmentNamesItsVariable: it is looked for in the file in vain.
func TestAWrongValueFromTheEnvironmentNamesItsVariable(t *testing.T) {
	t.Setenv("GUARDIAN_NAMESPACE", "shop")
	t.Setenv("GUARDIAN_MODE", "observ")
	t.Setenv("GUARDIAN_RULES_INTERVAL", "500ms")
	_, err := Parse([]byte("log: {level: loud}"))
	want := `mode (GUARDIAN_MODE): "observ": want enforce or observe
log.level: "loud": want debug, info, warn or error
rules.interval (GUARDIAN_RULES_INTERVAL): 500ms: want 1s to 5m in steps of 500ms, or 0s: by how many guards there are`
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// TestAValueThatIsWrongIsOneProblemWhateverIsMadeOfIt: what follows from it is not what was written.
func TestAValueThatIsWrongIsOneProblemWhateverIsMadeOfIt(t *testing.T) {
	const label = "want a DNS label: lower-case letters, digits and -, at most 63, such as orders-service"
	long := strings.Repeat("a", 64)
	for name, tc := range map[string]struct {
		env        map[string]string
		text, want string
	}{
		"the namespace by its variable":       {map[string]string{"GUARDIAN_NAMESPACE": "A_"}, "", `namespace (GUARDIAN_NAMESPACE): "A_": ` + label},
		"the pod's namespace by its variable": {map[string]string{"POD_NAMESPACE": "A_"}, "", `namespace (POD_NAMESPACE): "A_": ` + label},
		"the namespace by the file":           {map[string]string{"POD_NAMESPACE": "shop"}, "namespace: A_", `namespace: "A_": ` + label},
		"that of the rules by the file":       {map[string]string{"POD_NAMESPACE": "shop"}, "rules: {namespace: A_}", `rules.namespace: "A_": ` + label},
		"that of the rules by its variable":   {map[string]string{"POD_NAMESPACE": "shop", "GUARDIAN_RULES_NAMESPACE": "A_"}, "", `rules.namespace (GUARDIAN_RULES_NAMESPACE): "A_": ` + label},
		"the Deployment's name":               {map[string]string{"POD_NAMESPACE": "shop", "DEPLOYMENT_NAME": long}, "", `instance (DEPLOYMENT_NAME): "` + long + `": want a label's value, such as the release's name`},
		"a name by its pod":                   {map[string]string{"POD_NAMESPACE": "shop", "POD_NAME": long + "-5d8f7c9b6d-x2x4z"}, "", `instance (POD_NAME): "` + long + `": want a label's value, such as the release's name`},
		"a guard's name":                      {map[string]string{"POD_NAMESPACE": "shop"}, "guards: [{name: A_}]", `guards[0].name: "A_": ` + label},
		"a guard's name and another object":   {map[string]string{"POD_NAMESPACE": "shop"}, "guards: [{name: A_, destinationRule: B_}]", `guards[0].name: "A_": ` + label + "\n" + `guards[0].destinationRule: "B_": want the name of an object in the guard's namespace, such as orders-service`},
	} {
		t.Run(name, func(t *testing.T) {
			for variable, value := range tc.env {
				t.Setenv(variable, value)
			}
			if _, err := Parse([]byte(tc.text)); err == nil || err.Error() != tc.want {
				t.Errorf("got %v\nwant %s", err, tc.want)
			}
		})
	}
}

// TestAFlagThatIsWrongIsNotBlamedOnTheEnvironment: it wins over that.
func TestAFlagThatIsWrongIsNotBlamedOnTheEnvironment(t *testing.T) {
	t.Setenv("GUARDIAN_NAMESPACE", "shop")
	_, err := LoadWith("", func(c *Config) { c.Namespace = "A_" })
	if err == nil || !strings.Contains(err.Error(), `namespace: "A_": want a DNS label`) {
		t.Errorf("got %v", err)
	}
}

func TestWhatIsNearlyRightIsAnsweredWithWhatWouldBe(t *testing.T) {
	const interval = "want such as {weekdays: [friday], times: [{start_time: '16:00', end_time: '24:00'}], location: Europe/Berlin}; what goes over midnight takes two of them, the second from 00:00 on the day after"
	for text, want := range map[string]string{
		"{signals: {errorRate: {max: 1%}}}":                                                     `guards[0].signals.errorRate.max: "1%": want a number: 0.01`,
		"{signals: {traffic: {shareTolerance: 12.5 %}}}":                                        `guards[0].signals.traffic.shareTolerance: "12.5 %": want a number: 0.125`,
		"{promotion: {steps: [10%, 100]}}":                                                      `guards[0].promotion.steps[0]: a string: want a weight in whole percent, such as 10, or a mapping with the keys weight, interval or bake`,
		"{promotion: {steps: [10, 100.0]}}":                                                     `guards[0].promotion.steps[1]: a number: want a weight in whole percent, such as 10, or a mapping with the keys weight, interval or bake`,
		"{promotion: {windows: {mute: [{location: Mars}]}}}":                                    "guards[0].promotion.windows.mute[0]: unknown time zone …: " + interval,
		"{promotion: {windows: {mute: [{times: [{start_time: '22:00', end_time: '06:00'}]}]}}}": "guards[0].promotion.windows.mute[0]: start time cannot be equal or greater than end time: " + interval,
		"{promotion: {windows: {mute: [{times: [{start_time: '22:00', end_time: '25:00'}]}]}}}": "guards[0].promotion.windows.mute[0]: couldn't parse timestamp …, invalid format: " + interval,
		"{rollback: {1: a}}": "guards[0].rollback: a mapping with a key that is no string (quotes make it one): want a mapping with the keys lock, window, minReadyStable, capacity, matchRoutes, mirrors or evenIfStableFails",
	} {
		if _, err := Parse([]byte("namespace: a\nguards: [{name: x, " + text[1:] + "]\n")); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
}

func TestAnonymousCallersNeedTwoKeys(t *testing.T) {
	for text, wrong := range map[string]bool{
		"webhook: {allowAnonymous: true}":                             true, // the default token would keep all out
		`webhook: {allowAnonymous: true, tokenFile: ""}`:              false,
		`webhook: {tokenFile: ""}`:                                    true,
		"webhook: {tokenFile: \"\"}\nweb: {configFile: /etc/web.yml}": false,
	} {
		if _, err := Parse([]byte("namespace: a\n" + text + "\n")); (err != nil) != wrong {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestLabelsKeepTheirCase(t *testing.T) {
	c, err := Parse([]byte("namespace: a\nrules: {labels: {Release: Kube-Prom, app.kubernetes.io/partOf: X}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if c.Rules.Labels["Release"] != "Kube-Prom" || c.Rules.Labels["app.kubernetes.io/partOf"] != "X" {
		t.Errorf("got %v", c.Rules.Labels)
	}
}

func TestSecretsAreNeverShown(t *testing.T) {
	const secret = "hunter2"
	for name, text := range map[string]string{
		"basic auth":        "prometheus: {http: {basic_auth: {username: u, password: hunter2}}}",
		"bearer token":      "alertmanager: {http: {authorization: {credentials: hunter2}}}",
		"header":            "prometheus: {http: {http_headers: {X-Key: {secrets: [hunter2]}}}}",
		"password in a URL": "prometheus: {url: 'http://u:hunter2@prom'}",
		"no URL at all":     "prometheus: {url: 'http://u:hunter2@%zz'}",
		"link with one":     "rules: {links: {grafana: 'http://u:hunter2@g'}}",
		"mistyped auth":     "prometheus: {http: {basic_auth: [hunter2]}}",
		"mistyped password": "prometheus: {http: {basic_auth: {password: {x: hunter2}}}}",
		"two at once":       "prometheus: {http: {bearer_token: hunter2, basic_auth: {username: hunter2, password: hunter2}}}",
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Parse([]byte("namespace: a\n" + text + "\n"))
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("in the error: %v", err)
			}
			if strings.Contains(c.String(), secret) {
				t.Errorf("in the dump: %s", c)
			}
		})
	}
}

func TestMatchersSelectAlertsAsAlertmanagerDoes(t *testing.T) {
	c, err := Load(testdataFile("full.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	m := c.Guards[1].Alerts.Matchers[0]
	for _, tc := range []struct {
		labels map[string]string
		want   bool
	}{
		{map[string]string{"alertname": "OrdersDown", "severity": "page"}, true},
		{map[string]string{"alertname": "OrdersDown", "severity": "critical"}, true},
		{map[string]string{"alertname": "OrdersDown", "severity": "pages"}, false},
		{map[string]string{"alertname": "ordersdown", "severity": "page"}, false},
		{map[string]string{"alertname": "OrdersDown"}, false},
	} {
		if got := m.Matches(tc.labels); got != tc.want {
			t.Errorf("%v: got %t, want %t", tc.labels, got, tc.want)
		}
	}
	if (Matcher{}).Matches(map[string]string{"a": "b"}) {
		t.Error("a matcher without a condition takes an alert")
	}
}

func TestWindowsOpenAndCloseInTheirTimeZone(t *testing.T) {
	c, err := Load(testdataFile("full.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	w := c.Guards[1].Promotion.Windows // Monday to Friday 09:00–17:00 in Berlin, but not on Friday from 16:00
	for at, want := range map[string]bool{
		"2026-07-06T06:59:00Z": false, // Monday 08:59
		"2026-07-06T07:00:00Z": true,
		"2026-07-06T14:59:00Z": true, // Monday 16:59
		"2026-07-06T15:00:00Z": false,
		"2026-07-10T13:59:00Z": true, // Friday 15:59
		"2026-07-10T14:00:00Z": false,
		"2026-01-12T07:59:00Z": false, // Monday 08:59 in winter
		"2026-01-12T08:00:00Z": true,
		"2026-07-11T10:00:00Z": false, // Saturday
	} {
		now, err := time.Parse(time.RFC3339, at)
		if err != nil {
			t.Fatal(err)
		}
		if got := w.Open(now); got != want {
			t.Errorf("%s: open is %t, want %t", at, got, want)
		}
	}
	if !(Windows{}).Open(time.Time{}) {
		t.Error("without windows it is always open")
	}
}

func TestReplicasOfOneDeploymentAreOneInstance(t *testing.T) {
	for _, c := range []struct{ deployment, pod, want string }{
		{"guardian-blue", "guardian-5f6d8c7b9-x2x4z", "guardian-blue"},
		{"", "guardian-blue-5f6d8c7b9-x2x4z", "guardian-blue"},
		{"", "guardian-blue-7c9d5b4f88-bcdfg", "guardian-blue"},
		{"", "guardian-0", "guardian"}, // of a StatefulSet, by hand, outside of a cluster
		{"", "", "guardian"},
		{"", "a-very-long-name-of-a-deployment-that-leaves-no-room-for-5f6d8x2x4z", "guardian"},
	} {
		if got := podInstance(c.deployment, c.pod); got != c.want {
			t.Errorf("Deployment %q, pod %q: instance %q, want %q", c.deployment, c.pod, got, c.want)
		}
	}
	t.Setenv("POD_NAME", "guardian-blue-5f6d8c7b9-x2x4z")
	t.Setenv("DEPLOYMENT_NAME", "")
	for text, want := range map[string]string{"namespace: a\n": "guardian-blue", "namespace: a\ninstance: green\n": "green"} {
		if c, err := Parse([]byte(text)); err != nil || c.Instance != want {
			t.Errorf("%q: instance %q, error %v; want %q", text, c.Instance, err, want)
		}
	}
}

func TestOnlyWhatIsConnectedNeedsARestart(t *testing.T) {
	was := Default()
	is := was
	is.Guards = []Guard{DefaultGuard("a")}
	is.Heartbeat.MaxAge = time.Hour
	if got := RestartOnly(was, is); got != nil {
		t.Errorf("guards and heartbeat: %v", got)
	}
	is.Listen.Alerts, is.Prometheus.URL, is.Rules.Name, is.Rules.Interval = ":1", "http://x", "y", time.Minute
	if got := strings.Join(RestartOnly(was, is), " "); got != "listen prometheus rules.name" {
		t.Errorf("got %q", got)
	}
}

// watchEvents runs a watcher on path and hands out what it says.
func watchEvents(t *testing.T, path string, seen []byte) (<-chan Config, <-chan error) {
	t.Helper()
	configs, failures := make(chan Config, 10), make(chan error, 10)
	w := Watcher{Path: path, Seen: seen, Apply: func(c Config) { configs <- c }, Report: func(err error) { failures <- err }, Unwatched: func(err error) { failures <- err }}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return configs, failures
}

func TestAConfigMapSwapIsReloadedAndABadOneKeepsTheOld(t *testing.T) {
	dir := t.TempDir()
	write := func(version, text string) { // as the kubelet does
		t.Helper()
		for _, err := range []error{
			os.Mkdir(filepath.Join(dir, version), 0o755),
			os.WriteFile(filepath.Join(dir, version, "guardian.yaml"), []byte(text), 0o644),
			os.Symlink(version, filepath.Join(dir, "..data_tmp")),
			os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	const first = "namespace: shop\nguards: [{name: orders-service}]\n"
	write("..1", first)
	path := filepath.Join(dir, "guardian.yaml")
	if err := os.Symlink("..data/guardian.yaml", path); err != nil {
		t.Fatal(err)
	}
	configs, failures := watchEvents(t, path, []byte(first))

	write("..2", "namespace: shop\nguards: [{name: orders-service}, {name: payments}]\n")
	if c := <-configs; len(c.Guards) != 2 {
		t.Errorf("got %d guards, want 2", len(c.Guards))
	}
	write("..3", "namespace: shop\nguards: [{name: orders-service, canary: v1}]\n")
	var problems Problems
	if err := <-failures; !errors.As(err, &problems) || problems[0].Path != "guards[0].canary" {
		t.Errorf("got %v", err)
	}
	for version, text := range map[string]string{"..4a": "", "..4b": "# guards:\n# - name: orders-service\n", "..4c": "namespace: shop\nguards:\n# - name: orders-service\n", "..4d": "namespace: shop\n"} {
		write(version, text)
		if err := <-failures; !errors.Is(err, errNoGuards) {
			t.Errorf("%q: got %v", text, err)
		}
	}
	write("..4e", "namespace: shop\nguards: []\n")
	if c := <-configs; len(c.Guards) != 0 {
		t.Errorf("got %s", c)
	}
	write("..5", "namespace: shop\nguards: [{name: payments}]\n")
	if c := <-configs; len(c.Guards) != 1 || c.Guards[0].Name != "payments" {
		t.Errorf("got %s", c)
	}
	if len(configs) > 0 || len(failures) > 0 {
		t.Errorf("said more than once: %d configurations, %d failures", len(configs), len(failures))
	}
}

func TestWithoutAWatchTheFileIsPolled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "guardian.yaml")
	if err := os.WriteFile(path, []byte("namespace: shop\nguards: [{name: orders-service}]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	configs, failures := make(chan Config, 10), make(chan error, 10)
	w := Watcher{Path: path, Seen: []byte("of before"), Apply: func(c Config) { configs <- c }, Report: func(error) {}, Unwatched: func(err error) { failures <- err }, Poll: time.Millisecond,
		notify: func() (*fsnotify.Watcher, error) { return nil, syscall.EMFILE }}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	if err := <-failures; !errors.Is(err, syscall.EMFILE) {
		t.Errorf("got %v", err)
	}
	<-configs
	if err := os.WriteFile(path, []byte("namespace: shop\nguards: []\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for c := range configs { // a half-written file may have been seen before
		if len(c.Guards) == 0 {
			break
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestRemovedGuardsAreNamed(t *testing.T) {
	was, is := Default(), Default()
	was.Guards = []Guard{DefaultGuard("a"), DefaultGuard("b"), DefaultGuard("c")}
	is.Guards = []Guard{DefaultGuard("b"), DefaultGuard("d")}
	if got := strings.Join(RemovedGuards(was, is), " "); got != "a c" {
		t.Errorf("got %q", got)
	}
}

func TestAFileThatGoesAwayIsReportedAndTakenUpAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "guardian.yaml")
	const text = "namespace: shop\nguards: [{name: orders-service}]\n"
	put := func() {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put()
	configs, failures := watchEvents(t, path, []byte(text))
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := <-failures; !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	put()
	if c := <-configs; c.Guards[0].Name != "orders-service" {
		t.Errorf("got %s", c)
	}
}

func FuzzParseConfig(f *testing.F) {
	for _, name := range []string{"full.yaml", "bad-values.yaml", "bad-keys.yaml", "bad-types.yaml"} {
		b, err := os.ReadFile(testdataFile(name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("a: &a [*a]\nnamespace: x"))
	f.Add([]byte("guards: [{name: a, promotion: {windows: {mute: [{times: [{start_time: '00:00', end_time: '24:00'}]}]}}}]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Parse(b)
		if err != nil {
			_ = err.Error()
			return
		}
		// What was accepted can be mapped and shown, and is complete.
		_ = c.String()
		for _, g := range c.Guards {
			if g.Stable == g.Canary || len(g.VirtualServices) == 0 || g.Promotion.Steps[len(g.Promotion.Steps)-1].Weight != 100 {
				t.Errorf("accepted %+v", g)
			}
			_ = g.Promotion.Windows.Open(time.Date(2026, 7, 10, 14, 0, 0, 0, time.UTC))
		}
	})
}

func TestPromotionNeedsAPrometheusThatProvesTheRules(t *testing.T) {
	const signals = "signals: {errorRate: {enabled: false}, latency: {enabled: false}, restarts: {enabled: false}, traffic: {enabled: false}}"
	for text, ok := range map[string]bool{
		"promotion: {mode: auto, minRequests: 0}":               false,
		"promotion: {mode: auto, minRequests: 0}, " + signals:   true,
		"promotion: {mode: auto, minRequests: 100}, " + signals: false,
		"promotion: {mode: \"off\"}":                            true,
	} {
		_, err := Parse([]byte("namespace: shop\nprometheus: {url: \"\"}\nalertmanager: {url: http://am}\nguards:\n- {name: orders, " + text + "}\n"))
		if (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestTheModeOfAGuardIsItsOwnOrTheConfigurations(t *testing.T) {
	text := func(mode, own string) string {
		return "namespace: a\n" + mode + "guards:\n- name: orders\n- {name: cart" + own + "}\n"
	}
	for name, c := range map[string]struct {
		text         string
		orders, cart string
	}{
		"by default":      {text("", ""), "enforce", "enforce"},
		"of all":          {text("mode: observe\n", ""), "observe", "observe"},
		"of one":          {text("", ", mode: observe"), "enforce", "observe"},
		"of all but one":  {text("mode: observe\n", ", mode: enforce"), "observe", "enforce"},
		"of none by null": {text("mode: observe\n", ", mode: null"), "observe", "observe"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Parse([]byte(c.text))
			if err != nil {
				t.Fatal(err)
			}
			if o, k := got.Guards[0].Mode, got.Guards[1].Mode; o != c.orders || k != c.cart {
				t.Errorf("orders is %q, cart is %q; want %q, %q", o, k, c.orders, c.cart)
			}
			if g := got.DecisionGuard(got.Guards[1], 0); string(g.Mode) != c.cart {
				t.Errorf("cart is decided by mode %q", g.Mode)
			}
		})
	}
	t.Setenv("GUARDIAN_MODE", "observe")
	if c, err := Parse([]byte(text("", ""))); err != nil || c.Enforces() {
		t.Errorf("GUARDIAN_MODE=observe: %v, %v", c.Guards, err)
	}
}

func TestWhatAModeForbidsIsRefusedByItsKey(t *testing.T) {
	for text, want := range map[string]string{
		"mode: watch":                         `mode: "watch": want enforce or observe`,
		"guards: [{name: orders, mode: dry}]": `guards[0].mode: "dry": want enforce or observe`,
		"mode: observe\nguards: [{name: orders, promotion: {mode: auto}}]":                 `guards[0].promotion.mode: "auto": no step is written in mode observe: want off, or mode: enforce`,
		"guards: [{name: cart}, {name: orders, mode: observe, promotion: {mode: manual}}]": `guards[1].promotion.mode: "manual": no step is written in mode observe: want off, or mode: enforce`,
	} {
		if _, err := Parse([]byte("namespace: a\n" + text)); err == nil || err.Error() != want {
			t.Errorf("%s\n%v\nwant %s", text, err, want)
		}
	}
	if _, err := Parse([]byte("namespace: a\nmode: observe\nguards: [{name: orders, mode: enforce, promotion: {mode: auto}}]")); err != nil {
		t.Error(err)
	}
}

func TestAnObjectOfAnotherNamespaceIsNoDeadEnd(t *testing.T) {
	for text, want := range map[string]string{
		"virtualServices: [gw/orders]":                         `guards[0].virtualServices[0]: "gw/orders": want the name of one in the guard's namespace: move orders there (gateways: [gw/GATEWAY]`,
		"virtualServices: [{name: orders, namespace: gw}]":     "guards[0].virtualServices[0]: a mapping: want the name of one in the guard's namespace: move orders there (gateways: [gw/GATEWAY] leads to a gateway that stays), or have it delegate to one there, which is guarded",
		"virtualServices: [{name: orders}]":                    "guards[0].virtualServices[0]: a mapping: want a string",
		"virtualServices: [7]":                                 "guards[0].virtualServices[0]: 7: want a string: put it in quotes",
		"destinationRule: gw/orders":                           `guards[0].destinationRule: "gw/orders": want the name of an object in the guard's namespace, such as orders-service`,
		"workloads: {canary: [{name: orders, namespace: gw}]}": "guards[0].workloads.canary[0]: a mapping: want a string",
	} {
		if _, err := Parse([]byte("namespace: a\nguards: [{name: orders, " + text + "}]\n")); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s\n%v\nwant %s", text, err, want)
		}
	}
}

// A lock of one guard must not deny what a rollback of another sends traffic to.
func TestNoGuardsStableIsTheCanaryOfAnother(t *testing.T) {
	for name, c := range map[string]struct{ guards, want string }{
		"the same canary":      {"{name: a, destinationRule: o}, {name: b, destinationRule: o}", `guards[1].canary: "v2": guards[0] has this canary already: want one guard`},
		"exchanged":            {"{name: a, destinationRule: o}, {name: b, destinationRule: o, stable: v2, canary: v1}", `guards[1].stable: "v2": guards[0] has this as its canary, and its lock would deny what a rollback of this one needs: want one guard`},
		"and told of both":     {"{name: a, destinationRule: o}, {name: b, destinationRule: o, stable: v2, canary: v1}", `guards[1].canary: "v1": guards[0] has this as its stable, and a lock of this one would deny what its rollback needs: want one guard`},
		"a third build":        {"{name: a, destinationRule: o}, {name: b, destinationRule: o, stable: v2, canary: v3}", `guards[1].stable: "v2": guards[0] has this as its canary`},
		"the later one first":  {"{name: b, destinationRule: o, stable: v2, canary: v3}, {name: a, destinationRule: o}", `guards[1].canary: "v2": guards[0] has this as its stable`},
		"hosts":                {"{name: a, stable: {host: o-v1}, canary: {host: o-v2}}, {name: b, stable: {host: o-v2}, canary: {host: o-v3}}", `guards[1].stable: "host:o-v2": guards[0] has this as its canary`},
		"a host in full":       {"{name: a, stable: {host: o-v1}, canary: {host: o-v2}}, {name: b, stable: {host: o-v1}, canary: {host: o-v2.ns.svc.cluster.local}}", `guards[0] has this canary already`},
		"a host half":          {"{name: a, stable: {host: o-v1}, canary: {host: o-v2}}, {name: b, stable: {host: o-v1}, canary: {host: o-v2.ns}}", `guards[0] has this canary already`},
		"a host nearly":        {"{name: a, stable: {host: o-v1}, canary: {host: o-v2}}, {name: b, stable: {host: o-v2.ns.svc}, canary: {host: o-v1}}", `guards[0] has this as its canary`},
		"a stable of two":      {"{name: a, destinationRule: o}, {name: b, destinationRule: o, canary: v3}", ""},
		"another rule":         {"{name: a, destinationRule: o}, {name: b, destinationRule: p, stable: v2, canary: v1}", ""},
		"of another namespace": {"{name: a, stable: {host: o-v1}, canary: {host: o-v2}}, {name: b, stable: {host: o-v2.shop.svc.cluster.local}, canary: {host: o-v3}}", ""},
	} {
		_, err := Parse([]byte("namespace: ns\nguards: [" + c.guards + "]\n"))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v\nwant %s", name, err, c.want)
		}
	}
}

func TestWhatAGuardWillNotHaveIsRefusedWithWhatToDoInstead(t *testing.T) {
	for text, want := range map[string]string{
		"roles: alternate": "guards[0].roles: unknown key: stable and canary are what they are called here, and do not change roles by themselves: after a release that has ended at 100%, " +
			"exchange the two (stable: v2, canary: v1), or bring its build to stable as well and go back to 100/0",
		"routes: {except: [api]}": "guards[0].routes: unknown key: a guard has all routes of its VirtualServices, and so has its lock; what is to be left out leads to a Service of its own " +
			"(host: orders-api, which selects the canary's pods): that is neither moved nor denied, and its requests are judged with the canary's, since Istio's metrics know no route",
	} {
		if _, err := Parse([]byte("namespace: a\nguards: [{name: orders, " + text + "}]\n")); err == nil || err.Error() != want {
			t.Errorf("%v\nwant %s", err, want)
		}
		if _, err := Parse([]byte("namespace: a\n" + text + "\nguards: [{name: orders}]\n")); err == nil || strings.Contains(err.Error(), "Istio's metrics") || strings.Contains(err.Error(), "exchange the two") {
			t.Errorf("%v: want it where guards are", err)
		}
	}
}

func TestACapacityIsARatio(t *testing.T) {
	for text, want := range map[string]float64{"": 0.8, "rollback: {capacity: 0}": 0, "rollback: {capacity: 1}": 1} {
		c, err := Parse([]byte("namespace: a\nguards: [{name: orders, " + text + "}]\n"))
		if err != nil || c.DecisionGuard(c.Guards[0], 0).Rollback.Capacity != want {
			t.Errorf("%s: %+v, %v; want %g", text, c.Guards, err, want)
		}
	}
	for _, bad := range []string{"-0.1", "1.01", "80"} {
		if _, err := Parse([]byte("namespace: a\nguards: [{name: orders, rollback: {capacity: " + bad + "}}]\n")); err == nil || !strings.HasPrefix(err.Error(), "guards[0].rollback.capacity: "+bad+": want a ratio of 0 to 1") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestStableNeedsNoReadyEndpointsWhereThatIsSaid(t *testing.T) {
	for text, want := range map[string]int{"": 1, "rollback: {minReadyStable: 0}": 0, "rollback: {minReadyStable: 3}": 3, "rollback: {minReadyStable: null}": 1} {
		c, err := Parse([]byte("namespace: a\nguards: [{name: orders, " + text + "}]\n"))
		if err != nil || c.DecisionGuard(c.Guards[0], 0).Rollback.MinReadyStable != want {
			t.Errorf("%s: %+v, %v; want %d", text, c.Guards, err, want)
		}
	}
	if _, err := Parse([]byte("namespace: a\nguards: [{name: orders, rollback: {minReadyStable: -1}}]\n")); err == nil || !strings.Contains(err.Error(), "guards[0].rollback.minReadyStable: -1: want at least 1, or 0 where stable runs outside of this cluster") {
		t.Error(err)
	}
}

// Failures in clusters look like a worse build: what compares does not roll back.
func TestTheComparisonRollsNothingBack(t *testing.T) {
	_, err := Parse([]byte("namespace: shop\nguards:\n- name: orders\n  signals: {comparison: {enabled: true, action: rollback}}\n"))
	want := `guards[0].signals.comparison.action: "rollback": want hold or none: failures that come in clusters`
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/cmd/guardian/config"
)

const twoGuards = `# as it is installed
namespace: shop
guards:
- name: orders
- name: stock
  signals:
    latency: {max: 1s}
`

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "guardian.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSetChangesAKey(t *testing.T) {
	t.Setenv(config.EnvName("heartbeat.maxAge"), "7m")
	c, err := loadConfig(writeConfig(t, twoGuards), []string{
		"guards[0].signals.latency.max=300ms", "guards[stock].signals.latency.max=2s", "guards[stock].signals.errorRate={max: 0.02}",
		"rules.interval=15s", "heartbeat.maxAge=5m", "namespace=other",
	})
	if err != nil {
		t.Fatal(err)
	}
	orders, stock := c.Guards[0], c.Guards[1]
	if orders.Signals.Latency.Max != 300*time.Millisecond || stock.Signals.Latency.Max != 2*time.Second || stock.Signals.ErrorRate.Max != 0.02 ||
		c.Rules.Interval != 15*time.Second || c.Heartbeat.MaxAge != 5*time.Minute || c.Namespace != "other" {
		t.Errorf("%v", c)
	}
	if !stock.Signals.ErrorRate.Enabled {
		t.Error("a mapping that is set lost its defaults")
	}
}

func TestASetThatIsWrongNamesKeyAndValue(t *testing.T) {
	for set, want := range map[string]string{
		"":                                     `--set "": want KEY=VALUE`,
		"guards[0].signals.latency.max":        "want KEY=VALUE",
		"=1":                                   "want KEY=VALUE",
		"guards[2].mode=observe":               "guards[2]: want 0 to 1",
		"guards[payments].mode=observe":        "guards[payments]: want one of orders, stock",
		"rules[0].interval=1s":                 `key "rules": no list`,
		"namespace.x=1":                        `key "x": namespace has no keys`,
		"guards[0]..max=1":                     `key "": want a name`,
		"guards[0].mode=[":                     `value "[": want YAML`,
		"guards[0].signals.latency.max=fast":   `guards[0].signals.latency.max: "fast"`,
		"guards[0].signals.latenzy.max=300ms":  "guards[0].signals.latenzy",
		"guards[0].signals.errorRate.max=1.5":  "guards[0].signals.errorRate.max: 1.5",
		"guards[1].signals.latency.max=-300ms": "guards[1].signals.latency.max: -300ms",
	} {
		_, err := loadConfig(writeConfig(t, twoGuards), []string{set})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("--set %s: %v, want %s", set, err, want)
		}
	}
}

// TestASecretThatIsSetIsNotPrinted has none of it in the report nor in any error.
func TestASecretThatIsSetIsNotPrinted(t *testing.T) {
	file := writeConfig(t, twoGuards)
	for set, want := range map[string]string{
		"prometheus.http.basic_auth={username: me, password: sesame}": "prometheus.http.basic_auth=…",
		"prometheus.http.authorization.credentials=sesame":            "prometheus.http.authorization.credentials=…",
		"prometheus={http: {bearer_token: sesame}}":                   "prometheus=…",
	} {
		r, printed, err := options{file: file, sets: []string{set}, url: "http://p:9090", from: "1h", to: "0s", output: "text", chunk: time.Hour, timeout: time.Minute, rate: 1}.prepare(time.Now())
		if err != nil || strings.Join(printed, "") != want {
			t.Errorf("--set %s: %q, %v, want %s", set, printed, err, want)
		}
		if err == nil && r.config.Prometheus.HTTP.BasicAuth == nil && r.config.Prometheus.HTTP.Authorization == nil && r.config.Prometheus.HTTP.BearerToken == "" {
			t.Errorf("--set %s: not set", set)
		}
	}
	for _, set := range []string{
		"prometheus.http.basic_auth.password:sesame", "prometheus.http.basic_auth.password=[sesame", "Prometheus.http.basic_auth.password=sesame",
		"prometheus.http.basic_auth=sesame", "prometheus.http.basic_auth.passwort=sesame", "prometheus[0].password=sesame", "prometheus.http.=sesame",
		" prometheus.http.basic_auth.password=sesame", `"prometheus.http.basic_auth.password=sesame"`,
		"alertmanager.http.basic_auth.password=[sesame", "webhook.token=[sesame", "web=[sesame", "prometheus.timeout=sesame", "prometheus.url=sesame",
	} {
		_, err := loadConfig(file, []string{set})
		if err == nil || strings.Contains(err.Error(), "sesame") {
			t.Errorf("--set %s: %v, want an error without the value", set, err)
		}
	}
}

func TestAListIsNoConfiguration(t *testing.T) {
	if _, err := loadConfig(writeConfig(t, "- name: orders\n"), []string{"namespace=x"}); err == nil || !strings.Contains(err.Error(), "want a mapping of keys such as guards, found a list") {
		t.Error(err)
	}
	if _, err := withSets([]byte("- name: orders\n"), []string{"namespace=x"}); err == nil || !strings.Contains(err.Error(), `key "namespace": the configuration has no keys`) {
		t.Error(err)
	}
}

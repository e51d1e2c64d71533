package config

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// planted is a secret, of which no error may have a piece.
const planted = "hunter2"

// places is every value in a tree, mappings and lists included, by its path.
func places(path string, v any, visit func(path string, v any, set func(any))) {
	switch t := v.(type) {
	case map[string]any:
		for _, key := range sortedKeys(t) {
			was := t[key]
			visit(join(path, key), was, func(v any) { t[key] = v })
			places(join(path, key), was, visit)
		}
	case []any:
		for i, was := range t {
			at := path + "[" + strconv.Itoa(i) + "]"
			visit(at, was, func(v any) { t[i] = v })
			places(at, was, visit)
		}
	}
}

func TestNoErrorOfAConfigurationShowsASecret(t *testing.T) {
	text, err := os.ReadFile(testdataFile("full.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	tree, err := parseTree(text)
	if err != nil {
		t.Fatal(err)
	}
	tried, refused := 0, 0
	places("", tree, func(path string, was any, set func(any)) {
		_, scalar := was.(string)
		switch was.(type) {
		case int, float64, bool:
			scalar = true
		}
		secrets := []any{
			"http://user:" + planted + "@host:9090", "https://" + planted + "@host", "http://user:" + planted + "/x@ho st", "ftp://host/?token=" + planted,
			"http://user:pa%zz" + planted + "@host", "http://host:9090/#" + planted,
			map[string]any{"password": planted}, map[string]any{"http://u:" + planted + "@host": nil}, []any{planted}, []any{map[string]any{"x": planted}},
		}
		destination := strings.HasSuffix(path, ".stable") || strings.HasSuffix(path, ".canary") // may be a name or a mapping
		if !scalar && !destination || secretive(path) {                                         // elsewhere a name is a name
			secrets = append(secrets, planted, "Bearer "+planted)
		}
		if secretive(path) {
			secrets = append(secrets, map[string]any{planted: nil})
		}
		for _, secret := range secrets {
			set(secret)
			changed, err := yaml.Marshal(tree)
			if err != nil {
				t.Fatal(err)
			}
			tried++
			_, err = Parse(changed)
			if err != nil {
				refused++
				if strings.Contains(err.Error(), planted) {
					t.Errorf("%s: %v: shown in %v", path, secret, err)
				}
			}
		}
		set(was)
	})
	if tried < 500 || refused < tried/2 {
		t.Errorf("%d of %d refused: this test plants nothing", refused, tried)
	}
}

func TestASlipOfYAMLShowsNoSecret(t *testing.T) {
	for _, text := range []string{
		"prometheus: http://u:hunter2@prometheus:9090", "prometheus: {http://u:hunter2@prometheus:9090}", "webhook: hunter2", "webhook: {hunter2}", "webhook: [hunter2]",
		"webhook: {tokenFile: hunter2}", "webhook: {tokenFile: {hunter2}}", "webhook: {tokenFile: 4242hunter2}", "web: hunter2", "web: {configFile: hunter2}",
		"alertmanager: {http: hunter2}", "alertmanager: {http: {proxy_url: 'http://u:hunter2@ho st'}}", "alertmanager: {http: {proxy_url: 'http://u:hun/hunter2@host'}}",
		"alertmanager: {http: {authorization: hunter2}}", "alertmanager: {http: {authorization: {credentials: [hunter2]}}}", "alertmanager: {http: {authorization: {credentials: {hunter2: }}}}",
		"alertmanager: {http: {authorization: {type: basic, credentials: hunter2}}}", "alertmanager: {http: {basic_auth: {password: hunter2, password_file: /x}}}",
		"alertmanager: {http: {bearer_token: hunter2, bearer_token_file: hunter2}}", "alertmanager: {http: {bearer_token_file: hunter2}}",
		"alertmanager: {http: {authorization: {credentials_file: hunter2}}}", "alertmanager: {http: {tls_config: {key: hunter2, key_file: hunter2}}}",
		"alertmanager: {http: {tls_config: {min_version: hunter2}}}", "alertmanager: {http: {http_headers: {X: hunter2}}}", "alertmanager: {http: {http_headers: hunter2}}",
		"alertmanager: {http: {http_headers: {Authorization: {secrets: [hunter2]}}}}", "alertmanager: {http: {oauth2: {client_secret: hunter2}}}",
		"alertmanager: {url: 'http://u:hunter2@am'}", "alertmanager: {url: hunter2}", "alertmanager: {url: [hunter2]}", "alertmanager: {timeout: hunter2}",
		"notifications: hunter2", "notifications: {urls: ['http://u:hunter2@am']}", "notifications: {urls: hunter2}", "notifications: {enabled: hunter2}",
		"rules: {links: {grafana: 'https://u:hunter2@g'}}", "rules: {runbookBase: 'https://g?k=hunter2', links: {kiali: 'ftp://hunter2@x'}}",
		"webhook: {tokenFile: *hunter2}", "webhook: {tokenFile: !!int hunter2}", "webhook: {tokenFile: !!float hunter2}", "webhook: {tokenFile: !hunter2 [}", "webhook: {tokenFile: 'hunter2}",
		"webhook: {tokenFile: hunter2: x}", "webhook:\n  tokenFile: hunter2\n hunter2", "webhook: &hunter2 *hunter2", "webhook: {<<: hunter2}", "hunter2", "- hunter2",
		"webhook: {tokenFile: {{hunter2}}}", "webhook: {tokenFile: {{ .Values.hunter2 }}}", "webhook: {? {hunter2: x} : y}", "webhook: {? [hunter2] : y}", "{hunter2: x}: y", "webhook: {hunter2: x, hunter2: y}",
		"webhook: {\"tokenFile\": \"hunter2\\q\"}", "webhook: |\n  hunter2", "webhook: @hunter2", "log: {level: 'http://u:hunter2@x'}", "own: hunter2", "guards: hunter2", "guards: [hunter2]",
	} {
		_, err := Parse([]byte("namespace: a\n" + text + "\n"))
		if err == nil {
			_, err = Parse([]byte(text + "\n"))
		}
		if err != nil && strings.Contains(err.Error(), planted) {
			t.Errorf("%s: shown in %v", text, err)
		}
	}
	for key, value := range map[string]string{"GUARDIAN_WEBHOOK_TOKEN_FILE": planted, "GUARDIAN_ALERTMANAGER_URL": "http://u:" + planted + "@am", "GUARDIAN_ALERTMANAGER_TIMEOUT": planted} {
		t.Run(key, func(t *testing.T) {
			t.Setenv(key, value)
			if _, err := Parse([]byte("namespace: a\n")); err == nil || strings.Contains(err.Error(), planted) || !strings.Contains(err.Error(), "want") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestATemplateIsToldByItsLine(t *testing.T) {
	for _, text := range []string{"namespace: a # {{ b }}\nguards:\n- name: {{ .Values.name }}\n", "a: b\n\n{{- if .Values.x }}\nnamespace: a\n{{- end }}\n"} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), "line 3 has {{") || !strings.Contains(err.Error(), "helm template") || strings.Contains(err.Error(), "map[") {
			t.Errorf("%s%v", text, err)
		}
	}
}

func TestAReloadLogsNoSecret(t *testing.T) {
	file := filepath.Join(t.TempDir(), "guardian.yaml")
	var reports bytes.Buffer
	w := Watcher{Path: file, Report: func(err error) { fmt.Fprintln(&reports, err) }, Apply: func(Config) { t.Error("taken over") }}
	for _, text := range []string{"prometheus: http://u:hunter2@p\nguards: []\n", "guards: []\nwebhook: {tokenFile: !!int hunter2}\n", "guards: []\nwebhook: {tokenFile: hunter2}\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		w.once()
	}
	if n := strings.Count(reports.String(), "configuration "); n < 3 || strings.Contains(reports.String(), planted) {
		t.Errorf("%d reports, want 3 and no secret:\n%s", n, reports.String())
	}
}

func FuzzNoErrorOfAConfigurationShowsASecret(f *testing.F) {
	for _, at := range []string{"prometheus: http://u:%s@p", "webhook: {tokenFile: %s}", "alertmanager: {http: {proxy_url: %s}}"} {
		f.Add(at)
	}
	f.Fuzz(func(t *testing.T, at string) {
		if strings.Contains(at, planted) {
			t.Skip("the input itself holds the planted secret")
		}
		// Below keys where secrets are, or are put by mistake.
		for _, section := range []string{"webhook: ", "prometheus: ", "alertmanager: {http: {authorization: {credentials: ", "alertmanager: {http: {proxy_url: "} {
			if strings.ContainsAny(at, "\n\r") {
				return
			}
			_, err := Parse([]byte(section + strings.ReplaceAll(at, "%s", planted) + strings.Repeat("}", strings.Count(section, "{"))))
			if err != nil && strings.Contains(err.Error(), planted) && !strings.Contains(at, ": ") {
				t.Errorf("%s%s: shown in %v", section, at, err)
			}
		}
	})
}

func TestDurationsAreBounded(t *testing.T) {
	for _, text := range []string{
		"guards: [{name: a, promotion: {interval: 200000h, steps: [{weight: 100, bake: 2000000h}]}}]",
		"guards: [{name: a, promotion: {steps: [{weight: 100, interval: 2000000h}]}}]", "guards: [{name: a, rollback: {window: 2000000h}}]",
		"heartbeat: {maxAge: 2000000h}", "heartbeat: {maxAge: 1ms}", "prometheus: {timeout: 2h}",
		"disarm: {max: 2000000h}", "disarm: {max: 0s}", "guards: [{name: a, signals: {restarts: {window: 2000000h}}}]",
	} {
		if _, err := Parse([]byte("namespace: a\n" + text + "\n")); err == nil || !strings.Contains(err.Error(), " to ") {
			t.Errorf("%s: %v; want its bounds", text, err)
		}
	}
}

func TestAStepsOwnIntervalOfNothingIsKept(t *testing.T) {
	c, err := Parse([]byte("namespace: a\nguards: [{name: a, promotion: {interval: 7m, steps: [{weight: 10, interval: 0s}, {weight: 50}, 100]}}, {name: b}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	var got []time.Duration
	for _, g := range c.Guards {
		for _, s := range g.Promotion.Steps {
			got = append(got, s.Interval)
		}
	}
	if want := []time.Duration{0, 7 * time.Minute, 7 * time.Minute, 5 * time.Minute, 5 * time.Minute, 5 * time.Minute, 5 * time.Minute}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestAnEmptyVariableWinsToo(t *testing.T) {
	t.Setenv("GUARDIAN_ALERTMANAGER_URL", "")
	c, err := Parse([]byte("namespace: a\nalertmanager: {url: http://am}\n"))
	if err != nil || c.Alertmanager.URL != "" {
		t.Errorf("got %q, %v; want it empty", c.Alertmanager.URL, err)
	}
	t.Setenv("GUARDIAN_HEARTBEAT_MAX_AGE", "")
	if _, err := Parse([]byte("namespace: a\n")); err == nil || !strings.Contains(err.Error(), "heartbeat.maxAge (GUARDIAN_HEARTBEAT_MAX_AGE)") {
		t.Errorf("an empty duration: %v", err)
	}
}

func TestAMisspeltVariableIsNamed(t *testing.T) {
	for _, name := range []string{"GUARDIAN_PROMETHEUS_URI", "GUARDIAN_LOGLEVEL", "GUARDIAN_PROMETHEUS_URL", "GUARDIAN_SERVICE_HOST", "GUARDIAN_PORT", "GUARDIAN_PORT_8080_TCP_ADDR", "GUARDIAN_METRICS_SERVICE_PORT_HTTP"} {
		t.Setenv(name, "tcp://10.0.0.1:80")
	}
	got := UnknownEnv()
	for name, want := range map[string]bool{"GUARDIAN_PROMETHEUS_URI": true, "GUARDIAN_LOGLEVEL": true, "GUARDIAN_PROMETHEUS_URL": false,
		"GUARDIAN_SERVICE_HOST": false, "GUARDIAN_PORT": false, "GUARDIAN_PORT_8080_TCP_ADDR": false, "GUARDIAN_METRICS_SERVICE_PORT_HTTP": false} {
		if slices.Contains(got, name) != want {
			t.Errorf("%s: named %v, want %v", name, !want, want)
		}
	}
}

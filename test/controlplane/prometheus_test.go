package controlplane_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/test/controlplane"
)

const quietAlertmanager = `route: {receiver: nobody}
receivers: [{name: nobody}]
`

const alwaysFiring = `groups:
- name: test
  rules:
  - alert: %s
    expr: vector(1)
    labels: {guardian: "%s"}
`

func TestAnAlertTravelsFromPrometheusToAlertmanager(t *testing.T) {
	if testing.Short() {
		t.Skip("builds Prometheus and Alertmanager; not under -short")
	}
	plane, err := controlplane.Start(t.Context(), controlplane.Options{WithoutKubernetes: true})
	must(t, err)
	defer plane.Stop()
	alertmanager, err := plane.StartAlertmanager(t.Context(), controlplane.AlertmanagerOptions{Config: quietAlertmanager})
	must(t, err)
	rules := filepath.Join(t.TempDir(), "rules.yml")
	must(t, os.WriteFile(rules, fmt.Appendf(nil, alwaysFiring, "First", "true"), 0o644))
	prometheus, err := plane.StartPrometheus(t.Context(), controlplane.PrometheusOptions{
		ScrapeInterval: 500 * time.Millisecond, EvaluationInterval: 200 * time.Millisecond,
		RuleFiles:     []string{rules},
		Targets:       []controlplane.Target{{Job: "am", Address: strings.TrimPrefix(alertmanager.URL, "http://"), Labels: map[string]string{"who": "am"}}},
		Alertmanagers: []controlplane.Receiver{{URL: alertmanager.URL, Keep: map[string]string{"guardian": "true"}}},
		Args:          []string{"--rules.alert.resend-delay=1s"},
	})
	must(t, err)
	fires := func(name string) {
		t.Helper()
		eventually(t, name+" fires", func() error { return answer(alertmanager.URL+"/api/v2/alerts", `"alertname":"`+name+`"`) })
	}
	fires("First")
	eventually(t, "the target is scraped", func() error {
		return answer(prometheus.URL+"/api/v1/query?query=alertmanager_build_info", `"who":"am"`)
	})

	must(t, os.WriteFile(rules, fmt.Appendf(nil, alwaysFiring, "Second", "true"), 0o644))
	must(t, prometheus.Reload(t.Context()))
	fires("Second")

	must(t, os.WriteFile(rules, []byte("groups: nonsense"), 0o644))
	if err := prometheus.Reload(t.Context()); err == nil {
		t.Error("reload of a broken rule file: no error")
	}

	before := alertmanager.Process().Pid()
	must(t, alertmanager.Restart(t.Context()))
	if alertmanager.Process().Pid() == before {
		t.Error("restart: the same process")
	}
	fires("Second") // its address is the old one, so Prometheus finds it
}

func TestPrometheusSendsOnlyTheAlertsThatAReceiverKeeps(t *testing.T) {
	if testing.Short() {
		t.Skip("builds Prometheus and Alertmanager; not under -short")
	}
	plane, err := controlplane.Start(t.Context(), controlplane.Options{WithoutKubernetes: true})
	must(t, err)
	defer plane.Stop()
	received := make(chan string, 1000)
	receiver := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		received <- r.URL.Path + " " + r.Header.Get("Authorization") + " " + string(body)
	})}
	port, err := controlplane.FreePort()
	must(t, err)
	receiver.Addr = fmt.Sprintf("127.0.0.1:%d", port)
	go func() { _ = receiver.ListenAndServe() }()
	defer func() { _ = receiver.Close() }()
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	must(t, os.WriteFile(token, []byte("secret"), 0o600))
	for name, guardian := range map[string]string{"Ours": "true", "Theirs": "false"} {
		must(t, os.WriteFile(filepath.Join(dir, name+".rules"), []byte(strings.Replace(
			fmt.Sprintf(alwaysFiring, name, guardian), "name: test", "name: "+name, 1)), 0o644))
	}
	_, err = plane.StartPrometheus(t.Context(), controlplane.PrometheusOptions{
		EvaluationInterval: 200 * time.Millisecond, RuleFiles: []string{filepath.Join(dir, "*.rules")},
		Alertmanagers: []controlplane.Receiver{{
			URL: "http://" + receiver.Addr + "/prefix", TokenFile: token, Keep: map[string]string{"guardian": "true"},
		}},
		Args: []string{"--rules.alert.resend-delay=200ms"},
	})
	must(t, err)
	for range 5 {
		got := <-received
		if !strings.HasPrefix(got, "/prefix/api/v2/alerts Bearer secret ") || !strings.Contains(got, "Ours") || strings.Contains(got, "Theirs") {
			t.Fatalf("got %s", got)
		}
	}
}

func TestABrokenConfigurationIsShown(t *testing.T) {
	if testing.Short() {
		t.Skip("builds Alertmanager; not under -short")
	}
	plane, err := controlplane.Start(t.Context(), controlplane.Options{WithoutKubernetes: true})
	must(t, err)
	defer plane.Stop()
	_, err = plane.StartAlertmanager(t.Context(), controlplane.AlertmanagerOptions{Config: "route: {receiver: missing}"})
	if err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("got %v, want an error with the end of the log", err)
	}
}

// answer asks an address and wants a text in what it answers.
func answer(url, want string) error {
	response, err := http.Get(url)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if !strings.Contains(string(body), want) {
		return fmt.Errorf("%s answered %s: %s", url, response.Status, body)
	}
	return nil
}

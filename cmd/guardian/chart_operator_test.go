//go:build chart

package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"

	"github.com/canary-guardian/guardian/test/controlplane"
	"github.com/canary-guardian/guardian/test/kubelet"
)

// monitoring is where prometheus-operator's own objects are.
const monitoring = "monitoring"

// strategies are all that an Alertmanager may have of alertmanagerConfigMatcherStrategy.
var strategies = map[string]string{"on-namespace": "OnNamespace", "none": "None", "except": "OnNamespaceExceptForAlertmanagerNamespace"}

// stack is what kube-prometheus-stack would be: the real operator and the objects that it serves. What it generates is
// given to programs that run outside of its Pods.
type stack struct {
	*live
	folder string // of rule files
}

func (l *live) stack() *stack {
	l.t.Helper()
	s := &stack{live: l, folder: l.t.TempDir()}
	operator, err := l.plane.StartOperator(l.t.Context())
	l.must(err)
	l.t.Cleanup(func() {
		operator.Stop()
		if l.t.Failed() {
			l.t.Logf("the end of the operator's log:\n%s", operator.Tail(40))
		}
	})
	l.must(l.plane.CreateNamespace(l.t.Context(), monitoring))
	selected := map[string]any{"matchLabels": map[string]any{"release": "kube-prometheus-stack"}}
	s.create("prometheuses", "Prometheus", "main", map[string]any{
		"replicas": int64(1), "ruleSelector": selected, "ruleNamespaceSelector": map[string]any{},
		"serviceMonitorSelector": selected, "serviceMonitorNamespaceSelector": map[string]any{},
	})
	for name, strategy := range strategies {
		s.create("alertmanagers", "Alertmanager", name, map[string]any{
			"replicas": int64(1), "alertmanagerConfigSelector": map[string]any{}, "alertmanagerConfigNamespaceSelector": map[string]any{},
			"alertmanagerConfigMatcherStrategy": map[string]any{"type": strategy},
		})
	}
	return s
}

func (s *stack) create(resource, kind, name string, spec map[string]any) {
	s.t.Helper()
	client, err := dynamic.NewForConfig(s.plane.RESTConfig(controlplane.Admin))
	s.must(err)
	_, err = client.Resource(monitoringv1.SchemeGroupVersion.WithResource(resource)).Namespace(monitoring).Create(s.t.Context(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": monitoringv1.SchemeGroupVersion.String(), "kind": kind, "metadata": map[string]any{"name": name}, "spec": spec,
	}}, metav1.CreateOptions{})
	s.must(err)
}

// generated waits until what the operator made for a program contains some texts.
func (s *stack) generated(secret, key string, parts ...string) string {
	s.t.Helper()
	var text string
	s.wait(secret, func(ctx context.Context) error {
		found, err := s.kube.CoreV1().Secrets(monitoring).Get(ctx, secret, metav1.GetOptions{})
		if err != nil {
			return err
		}
		plain, err := gzip.NewReader(bytes.NewReader(found.Data[key]))
		if err != nil {
			return fmt.Errorf("%s of %d bytes: %w", key, len(found.Data[key]), err)
		}
		b, err := io.ReadAll(plain)
		text = string(b)
		for _, part := range parts {
			if !strings.Contains(text, part) {
				err = errors.Join(err, fmt.Errorf("no %q", part))
			}
		}
		return err
	})
	return text
}

// ruleFiles waits for the operator's rule files, and stores them where Prometheus reads.
func (s *stack) ruleFiles() {
	s.t.Helper()
	s.wait("rule files", func(ctx context.Context) error {
		maps, err := s.kube.CoreV1().ConfigMaps(monitoring).List(ctx, metav1.ListOptions{LabelSelector: "prometheus-name=main"})
		if err != nil {
			return err
		}
		n := 0
		for _, m := range maps.Items {
			for name, text := range m.Data {
				if !strings.HasPrefix(name, s.ns+"-guardian") {
					continue
				}
				n++
				if err := os.WriteFile(filepath.Join(s.folder, name), []byte(text), 0o600); err != nil {
					return err
				}
			}
		}
		if n < 2 {
			return fmt.Errorf("%d files of guardian's", n)
		}
		return nil
	})
}

// freeAddress is one that a program will have.
func (s *stack) freeAddress() string {
	s.t.Helper()
	port, err := controlplane.FreePort()
	s.must(err)
	return net.JoinHostPort("127.0.0.1", fmt.Sprint(port))
}

// tell posts an alert to an Alertmanager, as Prometheus does.
func (s *stack) tell(am *controlplane.Server, guard string) {
	s.t.Helper()
	alert := s.alertOf(guard)
	body, err := json.Marshal([]any{map[string]any{"labels": alert["labels"], "annotations": alert["annotations"],
		"startsAt": alert["startsAt"], "endsAt": time.Now().Add(time.Hour).UTC().Format(time.RFC3339Nano)}})
	s.must(err)
	if status, err := post(s.t.Context(), am.URL+"/api/v2/alerts", "", body); err != nil || status != http.StatusOK {
		s.t.Fatalf("Alertmanager answered %d: %v", status, err)
	}
}

// The chart's objects go through the real prometheus-operator, and what it makes of them through the real Prometheus
// and Alertmanager: each way to confine AlertmanagerConfigs delivers, helm test is content, a fault is rolled back.
func TestTheRealOperatorsConfigurationDelivers(t *testing.T) {
	l := newLive(t)
	s := l.stack()
	fails := l.app("orders-service", 50)
	var told []*controlplane.App
	guards := []string{fails.Name}
	for name := range strategies {
		app := l.app("by-"+name, 50)
		told, guards = append(told, app), append(guards, app.Name)
	}
	service, err := l.kubelet.Proxy(t.Context(), l.ns, "guardian", "http-alerts")
	l.must(err)
	mesh := newExporter(t, l.ns, fails.Name)
	proxy := func(e *exporter) controlplane.Target { // each is a machine of its own
		return controlplane.Target{Job: "mesh", Address: strings.TrimPrefix(e.URL, "http://"), Labels: map[string]string{"instance": e.service + ":15090"}}
	}
	targets := []controlplane.Target{proxy(mesh)}
	for _, app := range told {
		targets = append(targets, proxy(newExporter(t, l.ns, app.Name)))
	}
	prometheusAt, alertmanagerAt := s.freeAddress(), s.freeAddress()
	helmArgs := append(l.values(versions[0], guards...),
		"--set", "config.prometheus.url=http://"+prometheusAt, "--set", "config.alertmanager.url=http://"+alertmanagerAt,
		"--set", "alertmanagerConfig.url=http://"+service+"/webhook", "--set", "config.rules.scrapeInterval=5s")
	for n := range guards { // the series say nothing of it
		helmArgs = append(helmArgs, "--set", fmt.Sprintf("guards[%d].signals.latency.enabled=false", n))
	}
	l.run(append([]string{"install", "guardian", chartDir, "--wait"}, helmArgs...)...)
	pods := l.running(versions[0], 2)

	// What the operator makes of the ServiceMonitor. Prometheus is built without Kubernetes's discovery here: it is
	// given the same targets, by the same labels.
	s.generated("prometheus-main", "prometheus.yaml.gz", "job_name: serviceMonitor/"+l.ns+"/guardian/0", "regex: http-metrics")
	for _, pod := range pods {
		targets = append(targets, controlplane.Target{Job: "guardian", Address: kubelet.Address(pod.Status.PodIP) + ":8081",
			Labels: map[string]string{"namespace": l.ns, "pod": pod.Name, "service": "guardian", "endpoint": "http-metrics", "container": "guardian"}})
	}
	managers := map[string]*controlplane.Server{}
	for n, name := range []string{"on-namespace", "none", "except"} {
		text := s.generated("alertmanager-"+name+"-generated", "alertmanager.yaml.gz", "http://"+service+"/webhook", l.ns+"/guardian-alerts", l.ns+"/guardian-heartbeat")
		options := controlplane.AlertmanagerOptions{Config: text}
		if n == 0 {
			options.Args = []string{"--web.listen-address=" + alertmanagerAt}
		}
		am, err := l.plane.StartAlertmanager(t.Context(), options)
		l.must(err)
		t.Cleanup(am.Stop)
		managers[name] = am
	}
	s.ruleFiles()
	prom, err := l.plane.StartPrometheus(t.Context(), controlplane.PrometheusOptions{
		ScrapeInterval: 5 * time.Second, EvaluationInterval: 3 * time.Second, RuleFiles: []string{filepath.Join(s.folder, "*.yaml")}, Targets: targets,
		Alertmanagers: []controlplane.Receiver{{URL: "http://" + alertmanagerAt}},
		Args:          []string{"--rules.alert.resend-delay=5s", "--web.listen-address=" + prometheusAt},
	})
	l.must(err)
	t.Cleanup(prom.Stop)

	for name, am := range managers {
		s.tell(am, "by-"+name)
	}
	for _, app := range told {
		if rec := l.rolledBack(app); rec.Lock.By != "alert" {
			t.Errorf("%s: lock %+v", app.Name, rec.Lock)
		}
	}
	l.helmTest()
	l.must(isAt(t.Context(), fails, 50))
	fault := time.Now()
	mesh.failing.Store(true)
	rec := l.rolledBack(fails)
	t.Logf("fault to weight 0: %v", time.Since(fault).Round(100*time.Millisecond))
	if rec.Lock.Signal != "error_rate" || rec.Lock.By != "alert" {
		t.Errorf("lock %+v", rec.Lock)
	}
}

// helmTest runs the chart's test, whose Pod is guardian check: it waits for a heartbeat that has come all the way.
func (l *live) helmTest() {
	l.t.Helper()
	_, err := l.helm.run(l.t.Context(), "test", "guardian", "-n", l.ns, "--timeout=4m")
	log := l.kubelet.Log(l.ns, "guardian-test")
	if err != nil {
		l.t.Errorf("helm test: %v\n%s", err, log)
	}
	l.t.Logf("guardian check in the cluster:\n%s", log)
}

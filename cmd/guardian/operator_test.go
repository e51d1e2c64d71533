//go:build operator

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"

	"github.com/canary-guardian/guardian/rules"
	"github.com/canary-guardian/guardian/rules/publish"
	"github.com/canary-guardian/guardian/test/controlplane"
)

const operatorGuards = 1000

// operatorRig is a rig whose rules go through the real prometheus-operator.
type operatorRig struct {
	*rig
	client dynamic.Interface
	folder string // of rule files, as the operator wrote them
}

// TestTheRealOperatorTakesTheRulesOfAThousandGuards has the real guardian write the rules, the real operator make rule
// files of them, the real Prometheus load those, and one of the guards fail.
func TestTheRealOperatorTakesTheRulesOfAThousandGuards(t *testing.T) {
	r := &operatorRig{rig: newRig(t), folder: t.TempDir()}
	var err error
	r.client, err = dynamic.NewForConfig(r.plane.RESTConfig(controlplane.Admin))
	r.must(err)
	r.must(r.plane.Grant(t.Context(), r.ns, "system:serviceaccount:"+r.ns+":guardian",
		rbacv1.PolicyRule{APIGroups: []string{"monitoring.coreos.com"}, Resources: []string{"prometheusrules"}, Verbs: []string{"list", "watch", "create", "patch", "delete"}}))
	operator, err := r.plane.StartOperator(t.Context())
	r.must(err)
	t.Cleanup(func() {
		operator.Stop()
		if t.Failed() {
			t.Logf("the end of the operator's log:\n%s", operator.Tail(40))
		}
	})
	r.prometheusObject()

	app := r.app("orders", 50)
	mesh := newExporter(t, r.ns, app.Name)
	alerts, err := controlplane.FreePort()
	r.must(err)
	metrics, err := controlplane.FreePort()
	r.must(err)
	am := r.alertmanager(alerts)
	prom, err := r.plane.StartPrometheus(t.Context(), controlplane.PrometheusOptions{
		ScrapeInterval: 5 * time.Second, EvaluationInterval: 3 * time.Second, RuleFiles: []string{filepath.Join(r.folder, "*.yaml")},
		Targets: []controlplane.Target{
			{Job: "mesh", Address: strings.TrimPrefix(mesh.URL, "http://")}, {Job: "guardian", Address: fmt.Sprintf("127.0.0.1:%d", metrics)},
		},
		Alertmanagers: []controlplane.Receiver{{URL: am.URL}},
		Args:          []string{"--rules.alert.resend-delay=5s"},
	})
	r.must(err)
	defer prom.Stop()
	began := time.Now()
	r.serve("guardian-0", r.thousand(app, alerts, metrics, am.URL, prom.URL))

	r.unwatched(app, true) // no rule is loaded, and 50% of the traffic is the canary's
	objects := r.written()
	t.Logf("guardian wrote %d objects within %v", len(objects), time.Since(began).Round(time.Second))
	r.taken(objects)
	t.Logf("the operator wrote the rule files within %v", time.Since(began).Round(time.Second))
	r.must(prom.Reload(t.Context()))
	r.loaded(prom)
	r.unwatched(app, false)
	r.must(isAt(t.Context(), app, 50))
	fault := time.Now()
	mesh.failing.Store(true)
	rec := r.rolledBack(app)
	t.Logf("fault to weight 0: %v", time.Since(fault).Round(time.Millisecond))
	if rec.Lock.Signal != string(rules.SignalErrorRate) || rec.Lock.By != "alert" {
		t.Errorf("lock %+v", rec.Lock)
	}
}

// prometheusObject is what the operator serves, selecting rules as kube-prometheus-stack does.
func (r *operatorRig) prometheusObject() {
	r.t.Helper()
	_, err := r.client.Resource(monitoringv1.SchemeGroupVersion.WithResource("prometheuses")).Namespace(r.ns).Create(r.t.Context(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "monitoring.coreos.com/v1", "kind": "Prometheus", "metadata": map[string]any{"name": "main"},
		"spec": map[string]any{"replicas": int64(1), "ruleSelector": map[string]any{"matchLabels": map[string]any{"release": "stack"}}},
	}}, metav1.CreateOptions{})
	r.must(err)
}

// thousand is guardian's configuration: one guard with a service, and many whose Deployments are only named.
func (r *operatorRig) thousand(app *controlplane.App, alerts, metrics int, am, prom string) string {
	extra := fmt.Sprintf("alertmanager: {url: %q}\nprometheus: {url: %q}\nrules: {scrapeInterval: 5s, labels: {release: stack}}", am, prom)
	config := strings.Replace(r.config(fmt.Sprintf("127.0.0.1:%d", alerts), extra, app), `"127.0.0.1:0"`, fmt.Sprintf(`"127.0.0.1:%d"`, metrics), 1)
	var b strings.Builder
	b.WriteString(config)
	for i := 1; i < operatorGuards; i++ {
		fmt.Fprintf(&b, "- {name: checkout-service-%[1]d, workloads: {stable: [checkout-service-%[1]d-v1], canary: [checkout-service-%[1]d-v2]}}\n", i)
	}
	return b.String()
}

func (r *operatorRig) until(what string, ok func(context.Context) error) {
	r.t.Helper()
	deadline := time.Now().Add(5 * time.Minute) // 1,000 guards on a busy machine
	for {
		err := ok(r.t.Context())
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%s: %v", what, err)
		}
		<-time.After(200 * time.Millisecond)
	}
}

// unwatched waits for the record to say whether something proves that the rules watch the canary.
func (r *operatorRig) unwatched(app *controlplane.App, want bool) {
	r.t.Helper()
	r.until("what the record says of the rules", func(ctx context.Context) error {
		rec, err := r.record(ctx, app.Name)
		if err == nil && (rec.Status.Unwatched != "") != want {
			err = fmt.Errorf("unwatched: %q", rec.Status.Unwatched)
		}
		return err
	})
}

// written are the rules as guardian wrote them.
func (r *operatorRig) written() []unstructured.Unstructured {
	r.t.Helper()
	var out []unstructured.Unstructured
	r.until("rules of all guards", func(ctx context.Context) error {
		list, err := r.client.Resource(publish.PrometheusRule.Resource).Namespace(r.ns).List(ctx, metav1.ListOptions{LabelSelector: rules.LabelRules + "=guardian"})
		if err != nil {
			return err
		}
		out = list.Items
		if guards := guardsIn(r.t, out); guards != operatorGuards {
			return fmt.Errorf("rules of %d guards in %d objects", guards, len(out))
		}
		return nil
	})
	for _, o := range out {
		text, err := o.MarshalJSON()
		r.must(err)
		r.t.Logf("%-28s %4d KiB", o.GetName(), len(text)>>10)
	}
	return out
}

// guardsIn counts the guards whose constants stand in some objects.
func guardsIn(t *testing.T, objects []unstructured.Unstructured) int {
	t.Helper()
	guards := map[string]bool{}
	for _, o := range objects {
		text, err := json.Marshal(o.Object["spec"])
		if err != nil {
			t.Fatal(err)
		}
		var spec monitoringv1.PrometheusRuleSpec
		if err := json.Unmarshal(text, &spec); err != nil {
			t.Fatal(err)
		}
		for _, g := range spec.Groups {
			for _, rule := range g.Rules {
				if guard := rule.Labels[rules.LabelGuard]; guard != "" {
					guards[guard] = true
				}
			}
		}
	}
	return len(guards)
}

// taken waits until the operator has made rule files of all objects, which is how it says that it accepts them, and
// stores them where Prometheus reads.
func (r *operatorRig) taken(objects []unstructured.Unstructured) {
	r.t.Helper()
	var files map[string]string
	r.until("rule files of all objects", func(ctx context.Context) error {
		maps, err := r.kube.CoreV1().ConfigMaps(r.ns).List(ctx, metav1.ListOptions{LabelSelector: "prometheus-name=main"})
		if err != nil {
			return err
		}
		files = map[string]string{}
		for _, m := range maps.Items {
			for name, text := range m.Data {
				files[name] = text
			}
		}
		for _, o := range objects {
			name := fmt.Sprintf("%s-%s-%s.yaml", o.GetNamespace(), o.GetName(), o.GetUID())
			if files[name] == "" {
				return fmt.Errorf("no file %s among %d", name, len(files))
			}
		}
		return nil
	})
	events, err := r.kube.CoreV1().Events(r.ns).List(r.t.Context(), metav1.ListOptions{})
	r.must(err)
	if i := slices.IndexFunc(events.Items, func(e corev1.Event) bool { return e.Reason == "InvalidConfiguration" }); i >= 0 {
		r.t.Errorf("the operator says: %s", events.Items[i].Message)
	}
	for name, text := range files {
		r.must(os.WriteFile(filepath.Join(r.folder, name), []byte(text), 0o600))
	}
}

// loaded waits until Prometheus has evaluated the rules of all guards without an error.
func (r *operatorRig) loaded(prom *controlplane.Server) {
	r.t.Helper()
	var slowest float64
	var groups int
	r.until("rules in Prometheus", func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, prom.URL+"/api/v1/rules", nil)
		r.must(err)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		defer func() { _ = response.Body.Close() }()
		var answer struct {
			Data struct {
				Groups []struct {
					Name           string
					Interval       float64
					EvaluationTime float64
					Rules          []struct {
						Labels                  map[string]string
						Name, Health, LastError string
					}
				}
			}
		}
		if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
			return err
		}
		guards := map[string]bool{}
		groups, slowest = len(answer.Data.Groups), 0
		for _, g := range answer.Data.Groups {
			slowest = max(slowest, g.EvaluationTime/g.Interval)
			for _, rule := range g.Rules {
				if rule.LastError != "" {
					r.t.Fatalf("%s: %s: %s", g.Name, rule.Name, rule.LastError)
				}
				if rule.Health != "ok" {
					return errors.New(g.Name + " has not been evaluated yet")
				}
				if guard := rule.Labels[rules.LabelGuard]; guard != "" {
					guards[guard] = true
				}
			}
		}
		if len(guards) != operatorGuards {
			return fmt.Errorf("rules of %d guards", len(guards))
		}
		return nil
	})
	r.t.Logf("Prometheus has %d groups with the rules of %d guards; the slowest evaluation took %.1f%% of its interval", groups, operatorGuards, 100*slowest)
}

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/canary-guardian/guardian/alerting"
	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/remediate"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/rules"
	"github.com/canary-guardian/guardian/test/controlplane"
)

// broken is guardian with a real Prometheus that scrapes it, and what the rules ask
// of its metrics. The time that an alert waits is tried by promtool; here its cause is
// made, and its expression has to see it.
type broken struct {
	*rig
	g    *guardian
	prom *alerting.Prometheus
	expr map[string]string // by alert
	apps map[string]*controlplane.App
}

// fires says for which guards an alert's expression holds; an alert about guardian
// itself has none.
func (b *broken) fires(ctx context.Context, alert string) ([]string, error) {
	samples, err := b.prom.Query(ctx, b.expr[alert])
	var guards []string
	for _, s := range samples {
		guards = append(guards, s.Labels[rules.LabelGuard])
	}
	return guards, err
}

// is waits until an alert holds for a guard, or does not.
func (b *broken) is(alert, guard string, want bool) {
	b.t.Helper()
	b.wait(fmt.Sprintf("%s of %q is %v", alert, guard, want), func(ctx context.Context) error {
		guards, err := b.fires(ctx, alert)
		if err == nil && slices.Contains(guards, guard) != want {
			err = fmt.Errorf("it holds for %q", guards)
		}
		return err
	})
}

// alerts has guardian take an alert of a guard.
func (b *broken) alerts(guard string) {
	b.t.Helper()
	if status, err := post(b.t.Context(), b.g.url+"/webhook", bearer, webhookOf(b.alertOf(guard))); err != nil || status != http.StatusOK {
		b.t.Fatalf("%s: %d, %v", guard, status, err)
	}
}

// expressions are those of the alerts that guardian generates for a configuration.
func (r *rig) expressions(settings string) map[string]string {
	r.t.Helper()
	c, err := config.Parse([]byte(settings))
	r.must(err)
	o, _ := c.RulesOptions(nil)
	generated, err := rules.Generate(o)
	r.must(err)
	text, err := generated.Prometheus()
	r.must(err)
	var file struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	r.must(yaml.Unmarshal(text, &file))
	out := map[string]string{}
	for _, g := range file.Groups {
		for _, rule := range g.Rules {
			if rule.Alert != "" {
				out[rule.Alert] = rule.Expr
			}
		}
	}
	return out
}

// breaks are what is done to a guard of the name of its alert. Prometheus has none of
// the guards' rules: whoever gets traffic is unwatched.
var breaks = map[string]func(b *broken, app *controlplane.App){
	rules.AlertUnwatched:     func(b *broken, app *controlplane.App) { b.must(app.SetWeights(b.t.Context(), 90, 10)) },
	rules.AlertRolledBack:    func(b *broken, app *controlplane.App) { b.shift(app); b.alerts(app.Name) }, // and no Alertmanager takes the post
	rules.AlertWouldRollBack: func(b *broken, app *controlplane.App) { b.shift(app); b.alerts(app.Name) },
	rules.AlertRollbackBlocked: func(b *broken, app *controlplane.App) {
		b.must(app.SetReady(b.t.Context(), "v1", false))
		b.shift(app)
		b.alerts(app.Name)
	},
	rules.AlertDisarmed: func(b *broken, app *controlplane.App) {
		if code, said := b.as(controlplane.Admin)("disarm", app.Name, "--for", "10m", "--reason", "a test"); code != exitOK {
			b.t.Error(said)
		}
	},
	rules.AlertUnguarded: func(b *broken, app *controlplane.App) {
		b.applied(fmt.Sprintf(`{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: beside}, spec: {hosts: [beside], http: [{route: [{destination: {host: %s, subset: v2}}]}]}}`, app.Name))
	},
	rules.AlertForeignLock: func(b *broken, app *controlplane.App) {
		lock, err := decision.LockAnnotation{By: "system:serviceaccount:" + b.ns + ":other", Canary: []string{"x/y"}, Stable: []string{"x/z"}, Since: time.Now(), Message: "m"}.Encode()
		b.must(err)
		_, err = b.plane.Kubectl(b.t.Context(), controlplane.Admin, b.ns, "annotate", "virtualservice", app.Name, decision.LockKey("other")+"="+lock)
		b.must(err)
	},
	rules.AlertReleaseWithoutCanary: func(b *broken, app *controlplane.App) {
		b.must(app.SetWeights(b.t.Context(), 0, 100))
		b.wait("all traffic at the canary", func(ctx context.Context) error {
			rec, err := b.record(ctx, app.Name)
			if err == nil && rec.Status.Weight != 100 {
				err = fmt.Errorf("%d%%", rec.Status.Weight)
			}
			return err
		})
		b.must(app.Deploy(b.t.Context(), "v2", "orders:v3"))
	},
}

// shift gives a canary traffic, and waits until guardian has seen it.
func (b *broken) shift(app *controlplane.App) {
	b.t.Helper()
	b.must(app.SetWeights(b.t.Context(), 50, 50))
	b.wait("the split is seen", func(ctx context.Context) error {
		rec, err := b.record(ctx, app.Name)
		if err == nil && rec.Status.Weight != 50 {
			err = fmt.Errorf("%d%%", rec.Status.Weight)
		}
		return err
	})
}

// applied has admin apply a manifest.
func (b *broken) applied(manifest string) {
	b.t.Helper()
	file := b.t.TempDir() + "/manifest.yaml"
	b.must(os.WriteFile(file, []byte(manifest), 0o600))
	_, err := b.plane.Kubectl(b.t.Context(), controlplane.Admin, b.ns, "apply", "-f", file)
	b.must(err)
}

// nameOf is a guard for an alert.
func nameOf(alert string) string { return strings.ToLower(strings.TrimPrefix(alert, "Guardian")) }

func TestEachAlertAboutGuardianSeesWhatItWatchesBreak(t *testing.T) {
	r := newRig(t)
	r.must(r.plane.Grant(t.Context(), r.ns, "system:serviceaccount:"+r.ns+":guardian",
		rbacv1.PolicyRule{APIGroups: []string{"monitoring.coreos.com"}, Resources: []string{"prometheusrules"}, Verbs: []string{"list", "watch", "create", "patch", "delete"}}))
	b := &broken{rig: r, apps: map[string]*controlplane.App{}}
	const failing, incomplete = "failing", "incomplete"
	var all []*controlplane.App
	for _, name := range append(slices.Sorted(maps.Keys(breaks)), failing) {
		app := r.app(nameOf(name), 0)
		b.apps[app.Name], all = app, append(all, app)
	}
	nobody, err := controlplane.FreePort()
	r.must(err)
	metrics, err := controlplane.FreePort()
	r.must(err)
	am := r.alertmanager(nobody)
	prom, err := r.plane.StartPrometheus(t.Context(), controlplane.PrometheusOptions{ScrapeInterval: time.Second, EvaluationInterval: time.Second, Targets: []controlplane.Target{
		{Job: "guardian", Address: fmt.Sprintf("127.0.0.1:%d", metrics)}, {Job: "alertmanager", Address: strings.TrimPrefix(am.URL, "http://")},
	}})
	r.must(err)
	defer prom.Stop()
	if b.prom, err = alerting.NewPrometheus(alerting.ClientOptions{URL: prom.URL}); err != nil {
		t.Fatal(err)
	}
	defer b.prom.Close()
	settings := strings.Replace(r.config("127.0.0.1:0", fmt.Sprintf("prometheus: {url: %q}\nheartbeat: {maxAge: 3s}\nrules: {enabled: true}", prom.URL), all...),
		`metrics: "127.0.0.1:0"`, fmt.Sprintf(`metrics: "127.0.0.1:%d"`, metrics), 1)
	observed := nameOf(rules.AlertWouldRollBack)
	settings = strings.Replace(settings, "- name: "+observed+"\n", "- {name: "+observed+", mode: observe}\n", 1)
	settings += fmt.Sprintf("- {name: %s, virtualServices: [%s], destinationRule: %[2]s, stable: {host: nobody-v1}, canary: {host: nobody-v2}}\n", incomplete, failing)
	b.expr = r.expressions(settings)

	b.is(rules.AlertDown, "", true) // it is not started yet
	b.g = r.serve("guardian-0", settings)
	b.is(rules.AlertDown, "", false)
	for alert := range breaks {
		b.is(alert, nameOf(alert), false)
	}
	for alert, broken := range breaks {
		broken(b, b.apps[nameOf(alert)])
	}
	for alert := range breaks {
		b.is(alert, nameOf(alert), true)
	}

	b.is(rules.AlertRulesIncomplete, "", true) // no workload is behind its canary

	r.wait("heartbeats", func(ctx context.Context) error {
		if _, err := post(ctx, b.g.url+"/webhook", bearer, webhookOf(heartbeatOf(r.ns))); err != nil {
			return err
		}
		if late, err := b.fires(ctx, rules.AlertHeartbeatStale); err != nil || len(late) > 0 {
			return fmt.Errorf("%v, %w", late, errors.Join(err))
		}
		return nil
	})
	b.is(rules.AlertHeartbeatStale, "", true) // none comes any more

	b.is(rules.AlertNotificationsFailing, "", false)
	r.tell(am, time.Now().Add(time.Hour), r.alertOf(failing))
	b.is(rules.AlertNotificationsFailing, "", true) // nobody listens where its route leads

	b.is(rules.AlertConfigRefused, "", false)
	r.must(os.WriteFile(b.g.file, []byte(settings+"misspelt: 1\n"), 0o600))
	b.is(rules.AlertConfigRefused, "", true)
	r.must(os.WriteFile(b.g.file, []byte(settings), 0o600))
	b.is(rules.AlertConfigRefused, "", false)

	b.is(rules.AlertReconcileFailing, failing, false)
	b.is(rules.AlertCannotWatch, "", false)
	b.shift(b.apps[failing])
	b.rightsWithout([]string{"patch", "create", "update"}, "virtualservices", "configmaps")
	_, _ = post(t.Context(), b.g.url+"/webhook", bearer, webhookOf(r.alertOf(failing)))
	b.is(rules.AlertReconcileFailing, failing, true)

	b.lint(b.g)
	b.rightsWithout([]string{"list", "watch"}, "destinationrules")
	b.g.stop()
	b.g = r.start("guardian-0", settings) // a watch that stands is not ended by what its user may no longer
	b.is(rules.AlertCannotWatch, "", true)

	tried := append(slices.Collect(maps.Keys(breaks)), rules.AlertDown, rules.AlertRulesIncomplete, rules.AlertHeartbeatStale, rules.AlertNotificationsFailing, rules.AlertReconcileFailing, rules.AlertCannotWatch, rules.AlertConfigRefused)
	elsewhere := map[string]string{
		rules.AlertHeartbeat: "TestAFaultIsRolledBackByRealPrometheusAndAlertmanager", rules.AlertRollbackIneffective: "TestAFaultIsRolledBackByRealPrometheusAndAlertmanager",
	}
	for alert := range b.expr {
		if !slices.Contains(tried, alert) && elsewhere[alert] == "" && !strings.HasPrefix(alert, "GuardianCanary") && alert != rules.AlertServiceTraffic {
			t.Errorf("%s: nothing breaks what it watches", alert)
		}
	}
}

// heartbeatOf is the heartbeat of a namespace's rules, as Alertmanager sends it.
func heartbeatOf(namespace string) map[string]any {
	return map[string]any{"status": "firing", "startsAt": time.Now().UTC().Format(time.RFC3339Nano), "endsAt": "0001-01-01T00:00:00Z",
		"labels": map[string]string{"alertname": rules.AlertHeartbeat, rules.LabelGuardian: "true", rules.LabelNamespace: namespace, rules.LabelInstance: "guardian"}}
}

// rightsWithout gives guardian all its rights but these about some resources.
func (b *broken) rightsWithout(verbs []string, resources ...string) {
	b.t.Helper()
	bindings := b.kube.RbacV1().RoleBindings(b.ns)
	list, err := bindings.List(b.t.Context(), metav1.ListOptions{})
	b.must(err)
	var less []rbacv1.PolicyRule
	for _, rule := range remediate.RBAC() {
		if slices.ContainsFunc(rule.Resources, func(r string) bool { return slices.Contains(resources, r) }) {
			rule.Verbs = slices.DeleteFunc(slices.Clone(rule.Verbs), func(v string) bool { return slices.Contains(verbs, v) })
		}
		if len(rule.Verbs) > 0 {
			less = append(less, rule)
		}
	}
	b.must(b.plane.Grant(b.t.Context(), b.ns, "system:serviceaccount:"+b.ns+":guardian", less...))
	for _, old := range list.Items {
		b.must(bindings.Delete(b.t.Context(), old.Name, metav1.DeleteOptions{}))
	}
}

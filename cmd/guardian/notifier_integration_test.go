package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/canary-guardian/guardian/alerting"
	"github.com/canary-guardian/guardian/remediate"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/rules"
	"github.com/canary-guardian/guardian/test/controlplane"
)

// posted is the alert of that name which an Alertmanager knows to fire about a guard;
// nil: none.
func posted(ctx context.Context, am *alerting.Alertmanager, name, guard string) (*alerting.Alert, error) {
	all, err := am.Firing(ctx, alerting.Filter{Suppressed: true})
	for _, a := range all {
		if a.Name() == name && a.Labels[rules.LabelGuard] == guard {
			return &a, nil
		}
	}
	return nil, err
}

// TestPeopleAreToldOfARollbackByARealAlertmanager has Alertmanager down when the
// rollback is done.
func TestPeopleAreToldOfARollbackByARealAlertmanager(t *testing.T) {
	r := newRig(t)
	app := r.app("orders", 50)
	port, err := controlplane.FreePort()
	r.must(err)
	server := r.alertmanager(port)
	server.Stop()
	g := r.serve("guardian-0", r.config(fmt.Sprintf("127.0.0.1:%d", port), fmt.Sprintf("alertmanager: {url: %q}\nown: {cluster: eu}", server.URL), app))
	alert := r.alertOf(app.Name)
	alert["labels"].(map[string]string)["cluster"] = "eu"
	r.must(insist(t.Context(), g.url, webhookOf(alert)))
	if rec := r.rolledBack(app); rec.Lock.By != "alert" { // nobody can be told
		t.Errorf("lock %+v", rec.Lock)
	}
	r.wait("it is known that nobody is told", func(context.Context) error {
		if !strings.Contains(g.log.String(), "people are not told") {
			return errors.New("the log does not say so")
		}
		return nil
	})
	r.must(server.Restart(t.Context()))
	am, err := alerting.NewAlertmanager(alerting.ClientOptions{URL: server.URL})
	r.must(err)
	defer am.Close()
	var told *alerting.Alert
	r.wait("told later", func(ctx context.Context) (err error) {
		if told, err = posted(ctx, am, rules.NoticeRolledBack, app.Name); err == nil && told == nil {
			err = errors.New("nothing fires")
		}
		return err
	})
	rec, err := r.record(t.Context(), app.Name)
	r.must(err)
	if told.Labels["cluster"] != "eu" || told.Labels["namespace"] != r.ns || !told.StartsAt.Equal(rec.Lock.Since.Truncate(time.Millisecond)) ||
		!strings.Contains(told.Annotations["description"], "7% of requests fail") || !strings.HasSuffix(told.Annotations["runbook_url"], "GuardianRolledBack.md") {
		t.Errorf("told %+v", told)
	}
	r.must(g.checks.list(t.Context())) // it lists its own post, and takes it for no reason to do anything
	for _, a := range g.bridge.firing(app.Name) {
		if a.Name == rules.NoticeRolledBack && a.Action != "none" {
			t.Errorf("its own post asks guardian for %s", a.Action)
		}
	}
	if code, said := r.as(controlplane.Admin)("unlock", app.Name, "--reason", "a false alarm"); code != exitOK {
		t.Fatal(said)
	}
	r.wait("over", func(ctx context.Context) error {
		told, err := posted(ctx, am, rules.NoticeRolledBack, app.Name)
		if err == nil && told != nil {
			err = errors.New("it still fires")
		}
		return err
	})
}

// amAlert is an alert as Alertmanager's API shows it.
type amAlert struct {
	Labels, Annotations map[string]string
	StartsAt, EndsAt    time.Time
	GeneratorURL        string
	Status              struct{ State string }
}

// amAlerts are those of one name about one guard that an Alertmanager shows to people.
func amAlerts(ctx context.Context, am, name, guard string) ([]amAlert, error) {
	filter := url.Values{"filter": {fmt.Sprintf("alertname=%q", name), fmt.Sprintf("%s=%q", rules.LabelGuard, guard)}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, am+"/api/v2/alerts?"+filter.Encode(), nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	var out []amAlert
	return out, json.NewDecoder(response.Body).Decode(&out)
}

// told waits until an Alertmanager shows just what guardian has to tell of a guard, and returns it.
func (r *rig) told(am *controlplane.Server, g *guardian, name, guard string) amAlert {
	r.t.Helper()
	var got amAlert
	r.wait(name+" of "+guard, func(ctx context.Context) error {
		shown, err := amAlerts(ctx, am.URL, name, guard)
		if err != nil || len(shown) != 1 {
			return fmt.Errorf("%d alerts, want one (%w)", len(shown), err)
		}
		got = shown[0]
		return r.isTold(g, name, guard, got)
	})
	return got
}

// isTold compares an alert with what guardian has to tell: few labels, and each detail as an annotation.
func (r *rig) isTold(g *guardian, name, guard string, got amAlert) error {
	c := g.bridge.config.Load().Config
	var view remediate.View
	for _, v := range g.controller.Views() {
		if v.Name == guard {
			view = v
		}
	}
	want := noticeOf(c, view)
	if want == nil || want.name != name {
		return fmt.Errorf("guardian is at %s, and has to tell %+v", view.Status.State, want)
	}
	labels := map[string]string{
		"alertname": name, "guardian": "true", "guardian_instance": "guardian", "guardian_guard": guard, "guardian_action": "none",
		"namespace": r.ns, "severity": got.Labels["severity"], "cluster": "eu",
	}
	if !maps.Equal(got.Labels, labels) || got.Labels["severity"] == "" {
		return fmt.Errorf("labels %v, want %v", got.Labels, labels)
	}
	if !maps.Equal(got.Annotations, want.annotations) {
		return fmt.Errorf("annotations %v, want %v", got.Annotations, want.annotations)
	}
	if got.Status.State != "active" || !got.StartsAt.Equal(want.since.Truncate(time.Millisecond)) || time.Until(got.EndsAt) > postFor || time.Until(got.EndsAt) < postFor-repost {
		return fmt.Errorf("%s from %s to %s, want it from %s on and for %s", got.Status.State, got.StartsAt, got.EndsAt, want.since, postFor)
	}
	return nil
}

// refuseWrites has the API server refuse changes of one VirtualService until the returned function is called.
func (r *rig) refuseWrites(app *controlplane.App, why string) (allow func()) {
	r.t.Helper()
	api, name := r.kube.AdmissionregistrationV1(), "refuse-"+r.ns
	here := &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": r.ns}}
	_, err := api.ValidatingAdmissionPolicies().Create(r.t.Context(), &admissionv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admissionv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionv1.MatchResources{NamespaceSelector: here, ResourceRules: []admissionv1.NamedRuleWithOperations{{
				ResourceNames: []string{app.Name},
				RuleWithOperations: admissionv1.RuleWithOperations{Operations: []admissionv1.OperationType{admissionv1.Update}, Rule: admissionv1.Rule{
					APIGroups: []string{"networking.istio.io"}, APIVersions: []string{"*"}, Resources: []string{"virtualservices"},
				}},
			}}},
			Validations: []admissionv1.Validation{{Expression: "false", Message: why}},
		},
	}, metav1.CreateOptions{})
	r.must(err)
	_, err = api.ValidatingAdmissionPolicyBindings().Create(r.t.Context(), &admissionv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       admissionv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: name, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny}},
	}, metav1.CreateOptions{})
	r.must(err)
	var once sync.Once
	allow = func() {
		once.Do(func() {
			ctx := context.WithoutCancel(r.t.Context())
			if err := errors.Join(api.ValidatingAdmissionPolicyBindings().Delete(ctx, name, metav1.DeleteOptions{}),
				api.ValidatingAdmissionPolicies().Delete(ctx, name, metav1.DeleteOptions{})); err != nil {
				r.t.Error(err)
			}
		})
	}
	r.t.Cleanup(allow)
	r.wait("the API server refuses writes", func(ctx context.Context) error {
		if err := app.SetWeights(ctx, 50, 50); err == nil || !strings.Contains(err.Error(), why) {
			return fmt.Errorf("a write: %v", err)
		}
		return nil
	})
	return allow
}

// TestPeopleAreToldByARealAlertmanagerOfWhatIsNotDone has each of the other notices appear there and end. Alerts
// come to guardian from the same Alertmanager.
func TestPeopleAreToldByARealAlertmanagerOfWhatIsNotDone(t *testing.T) {
	r := newRig(t)
	blocked, undone, held := r.app("blocked", 50), r.app("undone", 50), r.app("held", 50)
	r.must(blocked.SetReady(t.Context(), "v1", false))
	allow := r.refuseWrites(undone, "the change window is closed")
	port, err := controlplane.FreePort()
	r.must(err)
	am := r.alertmanager(port)
	g := r.serve("guardian-0", r.config(fmt.Sprintf("127.0.0.1:%d", port), fmt.Sprintf("alertmanager: {url: %q}\nown: {cluster: eu}", am.URL), blocked, undone, held))
	alerts := map[string]map[string]any{}
	for _, app := range []*controlplane.App{blocked, undone, held} {
		alerts[app.Name] = r.alertOf(app.Name)
		alerts[app.Name]["labels"].(map[string]string)["cluster"] = "eu"
	}
	alerts[held.Name]["labels"].(map[string]string)[rules.LabelAction] = string(rules.ActionHold)
	r.tell(am, time.Now().Add(time.Hour), slices.Collect(maps.Values(alerts))...)
	cases := []struct {
		name     string
		app      *controlplane.App
		severity string
		says     []string
		over     func()
		then     string // the notice that takes its place
	}{
		{rules.NoticeHeld, held, "warning", []string{"stays at 50%: ", "7% of requests fail", "not rolled back"},
			func() { r.tell(am, time.Now(), alerts[held.Name]) }, ""},
		{rules.NoticeBlocked, blocked, "critical", []string{"still has 50% of the traffic and is bad: ", "7% of requests fail", "cannot send it to stable", "0 ready endpoints"},
			func() { r.must(blocked.SetReady(t.Context(), "v1", true)) }, rules.NoticeRolledBack},
		{rules.NoticeNotDone, undone, "critical", []string{"7% of requests fail", "the change window is closed", "at least every 15 seconds"}, allow, rules.NoticeRolledBack},
	}
	for _, c := range cases {
		got := r.told(am, g, c.name, c.app.Name)
		for _, want := range c.says {
			if said := got.Annotations["description"]; !strings.Contains(said, want) {
				t.Errorf("%s says %q, and not %q", c.name, said, want)
			}
		}
		if got.Labels["severity"] != c.severity || !strings.HasSuffix(got.Annotations["runbook_url"], c.name+".md") || got.Annotations["weight"] != "50%" {
			t.Errorf("%s: %+v", c.name, got)
		}
		text, err := json.MarshalIndent(got, "", "  ")
		r.must(err)
		t.Logf("%s", text)
		r.must(isAt(t.Context(), c.app, 50))
		c.over()
	}
	for _, c := range slices.Backward(cases) { // the end of an alert counts once each replica has listed what fires
		r.waitFor(decision.ListingKnows+patience, c.name+" is over", func(ctx context.Context) error {
			shown, err := amAlerts(ctx, am.URL, c.name, c.app.Name)
			if err == nil && len(shown) > 0 {
				err = fmt.Errorf("still shown: %+v", shown)
			}
			return err
		})
		if c.then != "" {
			r.told(am, g, c.then, c.app.Name)
			r.rolledBack(c.app)
		}
	}
	if text := onlyOf(r.scrape(g, "text/plain"), "guardian_notification_posts_total"); !strings.Contains(text, `result="failed"} 0`) {
		t.Errorf("a post has failed: %s", text)
	}
}

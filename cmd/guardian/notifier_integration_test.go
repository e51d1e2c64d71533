package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/alerting"
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

package rules

import (
	"maps"
	"testing"

	"github.com/prometheus/prometheus/promql/parser"
)

func TestTheAlertsThatAreLookedForAreThoseOfTheRules(t *testing.T) {
	o := Options{Guards: shops(2), Namespace: "microservices"}
	made, err := Generate(o)
	if err != nil {
		t.Fatal(err)
	}
	static := map[string]map[string]string{}
	for _, g := range made.groups() {
		for _, r := range g.Rules {
			if r.Alert != "" {
				static[r.Alert] = r.Labels
			}
		}
	}
	holds := func(alert map[string]string, more ...string) {
		t.Helper()
		want := maps.Clone(static[alert["alertname"]])
		if want == nil {
			t.Fatalf("no rule is named %s", alert["alertname"])
		}
		got := maps.Clone(alert)
		delete(got, "alertname")
		for _, label := range more { // from the expression
			delete(got, label)
		}
		if !maps.Equal(got, want) {
			t.Errorf("%s: %v, want %v", alert["alertname"], got, want)
		}
	}
	holds(o.HeartbeatAlert())
	looked := map[string]bool{}
	for _, alert := range o.ActingAlerts(o.Guards[0]) {
		holds(alert, LabelNamespace, LabelGuard)
		looked[alert["alertname"]] = true
	}
	other := acting(orders().Signals)
	for _, g := range generated(t, Options{Guards: other[1:], Namespace: "microservices"}).groups() {
		for _, r := range g.Rules {
			if r.Alert != "" && r.Labels[LabelAction] == string(ActionHold) && static[r.Alert] == nil {
				static[r.Alert] = r.Labels
			}
		}
	}
	for _, alert := range o.ActingAlerts(other[1]) {
		if holds(alert, LabelNamespace, LabelGuard); alert[LabelAction] != string(ActionHold) {
			t.Errorf("%v: of a guard whose signals hold", alert)
		}
	}
	if got := o.ActingAlerts(other[2]); got != nil {
		t.Errorf("a guard whose signals decide nothing has %v", got)
	}
	for name, labels := range static {
		if want := labels[LabelAction] == string(ActionRollback); looked[name] != want {
			t.Errorf("%s is looked for: %v, want %v", name, looked[name], want)
		}
	}
	if got := o.ActingAlerts(Guard{Name: "x"}); got != nil {
		t.Errorf("a guard without signals has %v", got)
	}
}

func TestWhatCheckAsksIsPromQL(t *testing.T) {
	byName := with(shops(2)[0], func(g *Guard) { g.Canary.Workloads, g.Stable.Workloads = nil, nil })
	for _, o := range []Options{
		{Guards: shops(2), Namespace: "microservices"},
		{Guards: []Guard{byName}, Proxies: ` job="proxies", `, Self: `job="guardian"`, RestartsFrom: FromKubeStateMetrics},
	} {
		for _, g := range o.Guards {
			durations, _ := o.Durations(g, g.Canary)
			for _, query := range []string{o.Requests(g, g.Canary), o.FastRequests(g, g.Canary), durations, o.Weights(g), o.SelfScraped(), o.AnyRequests(), o.Unauthorized(), o.MissingLabels(), o.ScrapedTwice()} {
				if _, err := parser.NewParser(parser.Options{}).ParseExpr(query); err != nil {
					t.Errorf("%v\n%s", err, query)
				}
			}
			if len(g.Canary.Workloads) > 0 {
				if _, err := parser.NewParser(parser.Options{}).ParseExpr(o.Restarts(g)); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

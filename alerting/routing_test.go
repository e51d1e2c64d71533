package alerting

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/alertmanager/config"
	"github.com/prometheus/alertmanager/dispatch"
	"github.com/prometheus/alertmanager/inhibit"
	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v2"
	"pgregory.net/rapid"
)

type yamlObject = map[string]any

var routeLabels = []string{"alertname", "guard", "namespace", "severity"}

// drawLabels is an alert, or what some of its labels have to be.
func drawLabels(t *rapid.T, name string, least int) map[string]string {
	return rapid.MapOfN(rapid.SampledFrom(routeLabels), rapid.SampledFrom([]string{"a", "b", "c"}), least, len(routeLabels)).Draw(t, name)
}

func drawMatchers(t *rapid.T, to yamlObject, prefix string) {
	var list []string
	for label, value := range drawLabels(t, prefix+"matchers", 0) {
		operator := rapid.SampledFrom([]string{"=", "!=", "=~", "!~"}).Draw(t, "operator")
		list = append(list, fmt.Sprintf("%s%s%q", label, operator, value))
	}
	if len(list) > 0 {
		to[prefix+"matchers"] = list
	}
	if rapid.IntRange(0, 5).Draw(t, "old") == 0 {
		to[prefix+"match"] = drawLabels(t, prefix+"match", 1)
		to[prefix+"match_re"] = yamlObject{"severity": "a|b"}
	}
}

func drawRoute(t *rapid.T, depth int) yamlObject {
	route := yamlObject{"receiver": rapid.SampledFrom([]string{"people", "guardian", "others"}).Draw(t, "receiver")}
	if depth > 0 {
		drawMatchers(t, route, "")
		route["continue"] = rapid.Bool().Draw(t, "continue")
		if rapid.Bool().Draw(t, "inherits") {
			delete(route, "receiver")
		}
	}
	switch rapid.IntRange(0, 3).Draw(t, "group_by") {
	case 0:
		route["group_by"] = []string{"..."}
	case 1:
		route["group_by"] = []string{"severity", "alertname"}
	case 2:
		route["group_by"] = []string{}
	}
	for _, key := range []string{"group_wait", "group_interval", "repeat_interval"} {
		if seconds := rapid.IntRange(0, 3).Draw(t, key); seconds > 0 {
			route[key] = fmt.Sprintf("%ds", seconds)
		}
	}
	if depth < 3 {
		var below []yamlObject
		for range rapid.IntRange(0, 3).Draw(t, "routes") {
			below = append(below, drawRoute(t, depth+1))
		}
		route["routes"] = below
	}
	return route
}

func TestRoutesAreThoseOfAlertmanager(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text, err := yaml.Marshal(yamlObject{
			"route": drawRoute(t, 0), "receivers": []yamlObject{{"name": "people"}, {"name": "guardian"}, {"name": "others"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := config.Load(string(text))
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		for _, shown := range []string{string(text), theirs.String()} { // as written, and as its status shows it
			ours, err := ParseRouting(shown)
			if err != nil {
				t.Fatalf("%v\n%s", err, shown)
			}
			theirs, err := config.Load(shown) // an empty group_by is not shown
			if err != nil {
				t.Fatalf("%v\n%s", err, shown)
			}
			for range 5 {
				alert, set := drawLabels(t, "alert", 0), model.LabelSet{}
				for name, value := range alert {
					set[model.LabelName(name)] = model.LabelValue(value)
				}
				var want []string
				for _, r := range dispatch.NewRoute(theirs.Route, nil).Match(set) {
					o := r.RouteOpts
					groupBy := []string{}
					if !o.GroupByAll {
						for name := range o.GroupBy {
							groupBy = append(groupBy, string(name))
						}
						slices.Sort(groupBy)
					}
					want = append(want, fmt.Sprint(o.Receiver, groupBy, o.GroupByAll, o.GroupWait, o.GroupInterval, o.RepeatInterval))
				}
				var got []string
				for _, r := range ours.Routes(alert) {
					got = append(got, fmt.Sprint(r.Receiver, r.GroupBy, r.GroupByAll, r.GroupWait, r.GroupInterval, r.RepeatInterval))
				}
				if !slices.Equal(got, want) {
					t.Fatalf("%v takes %q, want %q\n%s", alert, got, want, shown)
				}
			}
		}
	})
}

func TestInhibitionIsThatOfAlertmanager(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rule := yamlObject{"equal": slices.Sorted(maps.Keys(drawLabels(t, "equal", 0)))}
		drawMatchers(t, rule, "source_")
		drawMatchers(t, rule, "target_")
		text, err := yaml.Marshal(yamlObject{"route": yamlObject{"receiver": "x"}, "receivers": []yamlObject{{"name": "x"}}, "inhibit_rules": []yamlObject{rule}})
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := config.Load(string(text))
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		ours, err := ParseRouting(theirs.String())
		if err != nil {
			t.Fatal(err)
		}
		one := inhibit.NewInhibitRule(theirs.InhibitRules[0])
		for range 10 {
			source, target := drawLabels(t, "source", 0), drawLabels(t, "target", 0)
			set := func(of map[string]string) model.LabelSet {
				out := model.LabelSet{}
				for name, value := range of {
					out[model.LabelName(name)] = model.LabelValue(value)
				}
				return out
			}
			s, g := set(source), set(target)
			want := one.SourceMatchers.Matches(s) && one.TargetMatchers.Matches(g) && !(one.SourceMatchers.Matches(g) && one.TargetMatchers.Matches(s))
			for name := range one.Equal {
				want = want && s[name] == g[name]
			}
			got := slices.ContainsFunc(ours.Inhibiting(target), func(r InhibitRule) bool { return r.Inhibits(source, target) })
			if got != want {
				t.Fatalf("%v inhibits %v: %v, want %v\n%s", source, target, got, want, text)
			}
		}
	})
}

func TestWebhooksAreReadAsFarAsTheyAreShown(t *testing.T) {
	const text = `
route: {receiver: guardian-shop, routes: [{active_time_intervals: [work]}]}
time_intervals:
- {name: work, time_intervals: [{weekdays: ['monday:friday']}]}
receivers:
- name: guardian-shop
  webhook_configs:
  - {url: 'http://guardian.shop:8080/webhook', http_config: {authorization: {credentials: a-secret}}, max_alerts: 3, send_resolved: false}
  - {url_file: /etc/url, http_config: {basic_auth: {username: am, password: a-secret}, tls_config: {cert_file: /c, key_file: /k}}}
`
	theirs, err := config.Load(text)
	if err != nil {
		t.Fatal(err)
	}
	shown := theirs.String()
	if strings.Contains(shown, "guardian.shop") {
		t.Error("Alertmanager shows the URL: receivers need not be told by their names")
	}
	for _, of := range []struct{ text, url string }{{text, "http://guardian.shop:8080/webhook"}, {shown, ""}} {
		r, err := ParseRouting(of.text)
		if err != nil {
			t.Fatal(err)
		}
		receiver, ok := r.Receiver("guardian-shop")
		want := Receiver{"guardian-shop", []ReceiverWebhook{{URL: of.url, MaxAlerts: 3, Bearer: true}, {SendResolved: true, Basic: true, Certificate: true}}}
		if !ok || fmt.Sprint(receiver) != fmt.Sprint(want) {
			t.Errorf("%+v, want %+v", receiver, want)
		}
		route := r.Routes(nil)[0]
		for day, want := range map[int]bool{3: true, 5: false} { // January 2026: Saturday, Monday
			if got := r.Muted(route, time.Date(2026, 1, day, 12, 0, 0, 0, time.UTC)); got != want {
				t.Errorf("muted on January %d: %v", day, got)
			}
		}
	}
	for _, bad := range []string{"route: [", "receivers: []", "route: {receiver: x, matchers: ['=']}", "route: {receiver: x, match_re: {a: '('}}"} {
		if _, err := ParseRouting(bad); err == nil {
			t.Errorf("%q is read", bad)
		}
	}
}

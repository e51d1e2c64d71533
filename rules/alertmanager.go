package rules

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/prometheus/alertmanager/matcher/parse"
	amlabels "github.com/prometheus/alertmanager/pkg/labels"
	"sigs.k8s.io/yaml"
)

// AlertmanagerOptions says how Alertmanager reaches guardian. Only URL is
// required.
type AlertmanagerOptions struct {
	URL  string // guardian's webhook, http or https, such as http://guardian.microservices:8080/webhook
	Name string // of the receiver, and Options.Name of the rules; default "guardian"

	// TokenFile holds the bearer token, as Alertmanager's own container sees it.
	// AlertmanagerRoute only; empty: no token.
	TokenFile string
	// TokenSecret and TokenKey name a Secret in the AlertmanagerConfig's
	// namespace. AlertmanagerConfig only; empty: no token. Default key: token.
	TokenSecret, TokenKey string

	// Matchers select further alerts that take part without guardian's labels,
	// each in Alertmanager's syntax: {alertname="OrdersDown"}.
	Matchers []string
	// HeartbeatEvery is how often the heartbeat is sent at least; Alertmanager
	// adds up to 10 s. Default 1m.
	HeartbeatEvery time.Duration
}

// The fastest route that Alertmanager has: no grouping, so that no alert waits
// for another's group_interval; and 10 s, the shortest interval at which a
// failed delivery is tried again while the alert fires.
const (
	groupWait     = "0s"
	groupInterval = "10s"
	// repeat is how often guardian hears again of an alert that goes on.
	repeat = "1m"
	// webhookTimeout is longer than guardian takes, shorter than group_interval.
	webhookTimeout = "5s"
)

func (o AlertmanagerOptions) withDefaults() (AlertmanagerOptions, error) {
	o.Name = or(o.Name, "guardian")
	o.TokenKey = or(o.TokenKey, "token")
	o.HeartbeatEvery = or(o.HeartbeatEvery, time.Minute)
	var errs []error
	if u, err := url.Parse(o.URL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		errs = append(errs, fmt.Errorf("url: %q; want http or https, such as http://guardian.microservices:8080/webhook", o.URL))
	}
	if !wholeSeconds(o.HeartbeatEvery) {
		errs = append(errs, fmt.Errorf("heartbeat: every %v; want whole seconds, at least 1s", o.HeartbeatEvery))
	}
	return o, errors.Join(errs...)
}

// routes are what guardian wants to hear: its heartbeat, which concerns nobody
// else, and every alert with an action for a guard, which others may want too.
func (o AlertmanagerOptions) routes() ([]route, error) {
	out := []route{
		{name: "heartbeat", matchers: amlabels.Matchers{
			equal("alertname", AlertHeartbeat), equal(LabelInstance, o.Name),
		}, repeat: dur(o.HeartbeatEvery)},
		{name: "alerts", matchers: amlabels.Matchers{
			{Type: amlabels.MatchNotEqual, Name: LabelGuard},
			{Type: amlabels.MatchRegexp, Name: LabelAction, Value: string(ActionRollback) + "|" + string(ActionHold)},
		}, repeat: repeat, others: true},
	}
	for i, text := range o.Matchers {
		m, err := parse.Matchers(text)
		if err != nil {
			return nil, fmt.Errorf("matchers: %q: %w", text, err)
		}
		out = append(out, route{name: fmt.Sprintf("matcher-%d", i), matchers: m, repeat: repeat, others: true})
	}
	return out, nil
}

const routeHead = `# Put these routes first under route.routes, and the receiver under receivers.
# An alert that one of them takes no longer reaches the receiver of route itself:
# if people should get it too, end route.routes with "- receiver: <theirs>".
`

type route struct {
	name     string // short, for the name of an object
	matchers amlabels.Matchers
	repeat   string
	others   bool // later routes see the alert too
}

func equal(name, value string) *amlabels.Matcher {
	return &amlabels.Matcher{Type: amlabels.MatchEqual, Name: name, Value: value}
}

// What alertmanager.yml has; Alertmanager's own types hide secrets when written.
type (
	amFragment struct {
		Route     amParent     `json:"route"`
		Receivers []amReceiver `json:"receivers"`
	}
	amParent struct {
		Routes []amRoute `json:"routes"`
	}
	amRoute struct {
		Receiver       string   `json:"receiver"`
		Matchers       []string `json:"matchers"`
		Continue       bool     `json:"continue"`
		GroupBy        []string `json:"group_by"`
		GroupWait      string   `json:"group_wait"`
		GroupInterval  string   `json:"group_interval"`
		RepeatInterval string   `json:"repeat_interval"`
	}
	amReceiver struct {
		Name     string      `json:"name"`
		Webhooks []amWebhook `json:"webhook_configs"`
	}
	amWebhook struct {
		URL          string  `json:"url"`
		SendResolved bool    `json:"send_resolved"`
		MaxAlerts    int     `json:"max_alerts"`
		Timeout      string  `json:"timeout"`
		HTTP         *amHTTP `json:"http_config,omitempty"`
	}
	amHTTP struct {
		Authorization struct {
			CredentialsFile string `json:"credentials_file"`
		} `json:"authorization"`
	}
)

// AlertmanagerRoute writes the routes and the receiver for alertmanager.yml.
// The routes belong first under route.routes: an earlier route without
// continue: true would keep the alerts from guardian.
func AlertmanagerRoute(o AlertmanagerOptions) ([]byte, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("write Alertmanager route: %w", err)
	}
	routes, err := o.routes()
	if err != nil {
		return nil, fmt.Errorf("write Alertmanager route: %w", err)
	}
	var f amFragment
	for _, r := range routes {
		var matchers []string
		for _, m := range r.matchers {
			matchers = append(matchers, m.String())
		}
		f.Route.Routes = append(f.Route.Routes, amRoute{
			Receiver: o.Name, Matchers: matchers, Continue: r.others,
			GroupBy: []string{"..."}, GroupWait: groupWait, GroupInterval: groupInterval, RepeatInterval: r.repeat,
		})
	}
	hook := amWebhook{URL: o.URL, SendResolved: true, Timeout: webhookTimeout}
	if o.TokenFile != "" {
		hook.HTTP = &amHTTP{}
		hook.HTTP.Authorization.CredentialsFile = o.TokenFile
	}
	f.Receivers = []amReceiver{{Name: o.Name, Webhooks: []amWebhook{hook}}}
	out, err := yaml.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("write Alertmanager route: %w", err)
	}
	return append([]byte(routeHead), out...), nil
}

// AlertmanagerConfig writes the same for prometheus-operator: one object per
// route, named name-heartbeat, name-alerts, name-matcher-0 and so on. One object
// with all of them would have to match every alert of its namespace first, and
// so keep them from Alertmanager's default receiver. The operator lets each see
// alerts of its own namespace only (unless alertmanagerConfigMatcherStrategy says
// otherwise), so they belong where the guards' workloads are.
func AlertmanagerConfig(o AlertmanagerOptions, name, namespace string) ([]byte, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("write AlertmanagerConfig %s/%s: %w", namespace, name, err)
	}
	routes, err := o.routes()
	if err != nil {
		return nil, fmt.Errorf("write AlertmanagerConfig %s/%s: %w", namespace, name, err)
	}
	var docs [][]byte
	for _, r := range routes {
		out, err := yaml.Marshal(object{
			"apiVersion": "monitoring.coreos.com/v1alpha1",
			"kind":       "AlertmanagerConfig",
			"metadata":   object{"name": name + "-" + r.name, "namespace": namespace},
			"spec": object{
				"route":     r.operator(o.Name),
				"receivers": []object{{"name": o.Name, "webhookConfigs": []object{o.operatorWebhook()}}},
			},
		})
		if err != nil {
			return nil, fmt.Errorf("write AlertmanagerConfig %s/%s: %w", namespace, name, err)
		}
		docs = append(docs, out)
	}
	return bytes.Join(docs, []byte("---\n")), nil
}

// object is a part of a manifest whose Go types are in a module that nothing
// else needs.
type object map[string]any

func (o AlertmanagerOptions) operatorWebhook() object {
	hook := object{"url": o.URL, "sendResolved": true, "timeout": webhookTimeout}
	if o.TokenSecret != "" {
		hook["httpConfig"] = object{"authorization": object{"credentials": object{"name": o.TokenSecret, "key": o.TokenKey}}}
	}
	return hook
}

// operator writes a route for prometheus-operator, which makes each continue.
func (r route) operator(receiver string) object {
	var matchers []object
	for _, m := range r.matchers {
		matchers = append(matchers, object{"name": m.Name, "value": m.Value, "matchType": m.Type.String()})
	}
	return object{
		"receiver": receiver, "matchers": matchers, "groupBy": []string{"..."},
		"groupWait": groupWait, "groupInterval": groupInterval, "repeatInterval": r.repeat,
	}
}

package rules

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"time"

	"github.com/prometheus/alertmanager/matcher/compat"
	amlabels "github.com/prometheus/alertmanager/pkg/labels"
	"sigs.k8s.io/yaml"
)

// AlertmanagerOptions says how Alertmanager reaches guardian. URL and Namespace
// are required.
type AlertmanagerOptions struct {
	URL       string // guardian's webhook, http or https, such as http://guardian.microservices:8080/webhook
	Name      string // Options.Name of the rules; default "guardian"
	Namespace string // of the guards
	// Own is labels that alerts from this Prometheus have, such as cluster:
	// eu-west. It tells clusters apart that share an Alertmanager.
	Own map[string]string

	// How Alertmanager proves to be itself, and checks guardian, as files that
	// its own container sees. AlertmanagerRoute only; empty: not at all.
	TokenFile                 string // bearer token
	Username, PasswordFile    string // basic auth
	CAFile, CertFile, KeyFile string // TLS
	// The same as Secrets in the AlertmanagerConfig's namespace.
	// AlertmanagerConfig only.
	TokenSecret, TokenKey string // default key: token
	BasicAuthSecret       string // keys username and password
	TLSSecret             string // key ca.crt, and with ClientCert tls.crt and tls.key
	ClientCert            bool

	Labels map[string]string // of the AlertmanagerConfig objects

	// Matchers select further alerts that take part without guardian's labels,
	// each in Alertmanager's syntax: {alertname="OrdersDown"}.
	Matchers []string
	// HeartbeatEvery is how often the heartbeat is sent at least; Alertmanager
	// adds up to 10 s. Default 1m.
	HeartbeatEvery time.Duration
}

// Receiver is the receiver's name. Routes of several namespaces and clusters can
// stand in one alertmanager.yml, where each name is there once.
func (o AlertmanagerOptions) Receiver() string {
	name := receiverOf(o.Namespace)
	for _, key := range slices.Sorted(maps.Keys(o.Own)) {
		name += "." + o.Own[key] // a namespace has no dot
	}
	return name
}

func receiverOf(namespace string) string { return "guardian-" + namespace }

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
	if u, err := url.Parse(o.URL); err != nil || u.Host == "" || u.User != nil || u.Scheme != "http" && u.Scheme != "https" {
		// The value is not shown: it may hold a password.
		errs = append(errs, errors.New("url: want http or https and no user, such as http://guardian.microservices:8080/webhook"))
	}
	if o.Namespace == "" {
		errs = append(errs, errors.New("namespace: empty; want that of the guards"))
	}
	if !wholeSeconds(o.HeartbeatEvery) {
		errs = append(errs, fmt.Errorf("heartbeat: every %v; want whole seconds, at least 1s", o.HeartbeatEvery))
	}
	return o, errors.Join(errs...)
}

// routes are what guardian wants to receive: its heartbeat, which concerns nobody
// else, and every alert with an action for a guard of its namespace, which others
// may want too.
func (o AlertmanagerOptions) routes() ([]route, error) {
	var own amlabels.Matchers
	for _, key := range slices.Sorted(maps.Keys(o.Own)) {
		own = append(own, equal(key, o.Own[key]))
	}
	here := equal(LabelNamespace, o.Namespace)
	guards := here
	if len(own) > 0 { // which say whose it is where a user's alert has no namespace
		guards = &amlabels.Matcher{Type: amlabels.MatchRegexp, Name: LabelNamespace, Value: "|" + o.Namespace}
	}
	out := []route{
		{name: "heartbeat", matchers: append(amlabels.Matchers{
			equal("alertname", AlertHeartbeat), equal(LabelInstance, o.Name), here,
		}, own...), repeat: dur(o.HeartbeatEvery)},
		{name: "alerts", matchers: append(amlabels.Matchers{
			{Type: amlabels.MatchNotEqual, Name: LabelGuard},
			{Type: amlabels.MatchRegexp, Name: LabelAction, Value: string(ActionRollback) + "|" + string(ActionHold)},
			guards,
		}, own...), repeat: repeat, others: true},
	}
	for i, text := range o.Matchers {
		m, err := parseMatchers(text, "guardian")
		if err != nil {
			return nil, fmt.Errorf("matchers: %q: %w", text, err)
		}
		// guardian's own alerts take part by their labels alone.
		m = append(m, &amlabels.Matcher{Type: amlabels.MatchNotEqual, Name: LabelGuardian, Value: "true"})
		out = append(out, route{name: fmt.Sprintf("matcher-%d", i), matchers: append(m, own...), repeat: repeat, others: true})
	}
	return out, nil
}

// parseMatchers is Alertmanager's own parser as it uses it by default.
var parseMatchers = compat.FallbackMatchersParser(slog.New(slog.DiscardHandler))

const routeHead = `# For Alertmanager 0.28 and newer; for 0.22 and newer without the line "timeout".
# Put these routes first under route.routes, and the receiver under receivers.
# What they take reaches the receiver of route itself no more, nor should it: guardian acts on alerts of guardian_action
# rollback and hold, and reports what it has done in alerts of its own. For all other alerts, end route.routes with
# - receiver: <of people>
#   matchers: ['guardian_action!~"rollback|hold"']
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
		Authorization *amAuthorization `json:"authorization,omitempty"`
		BasicAuth     *amBasicAuth     `json:"basic_auth,omitempty"`
		TLS           *amTLS           `json:"tls_config,omitempty"`
	}
	amAuthorization struct {
		CredentialsFile string `json:"credentials_file"`
	}
	amBasicAuth struct {
		Username     string `json:"username"`
		PasswordFile string `json:"password_file"`
	}
	amTLS struct {
		CAFile   string `json:"ca_file,omitempty"`
		CertFile string `json:"cert_file,omitempty"`
		KeyFile  string `json:"key_file,omitempty"`
	}
)

// http is nil where there is nothing to say.
func (o AlertmanagerOptions) http() *amHTTP {
	var h amHTTP
	if o.TokenFile != "" {
		h.Authorization = &amAuthorization{o.TokenFile}
	}
	if o.Username != "" {
		h.BasicAuth = &amBasicAuth{o.Username, o.PasswordFile}
	}
	if tls := (amTLS{o.CAFile, o.CertFile, o.KeyFile}); tls != (amTLS{}) {
		h.TLS = &tls
	}
	if h == (amHTTP{}) {
		return nil
	}
	return &h
}

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
			Receiver: o.Receiver(), Matchers: matchers, Continue: r.others,
			GroupBy: []string{"..."}, GroupWait: groupWait, GroupInterval: groupInterval, RepeatInterval: r.repeat,
		})
	}
	hook := amWebhook{URL: o.URL, SendResolved: true, Timeout: webhookTimeout, HTTP: o.http()}
	f.Receivers = []amReceiver{{Name: o.Receiver(), Webhooks: []amWebhook{hook}}}
	out, err := yaml.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("write Alertmanager route: %w", err)
	}
	return append([]byte(routeHead), out...), nil
}

const configHead = `# For prometheus-operator 0.82 and newer; for older ones without the lines "timeout".
# Unless Alertmanager's alertmanagerConfigMatcherStrategy is None, an alert reaches these only with the label namespace: %[1]s
# (OnNamespaceExceptForAlertmanagerNamespace: or if they stand in Alertmanager's own namespace). Alerts of matchers without that
# label need the route for alertmanager.yml.
`

// AlertmanagerConfig writes the same for prometheus-operator: one object per
// route, named name-heartbeat, name-alerts, name-matcher-0 and so on. One object
// with all of them would have to match every alert of its namespace first, and
// so keep them from Alertmanager's default receiver. The operator lets each see
// alerts of its own namespace only (unless alertmanagerConfigMatcherStrategy says
// otherwise), so they belong where the guards' workloads are.
func AlertmanagerConfig(o AlertmanagerOptions, name string) ([]byte, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("write AlertmanagerConfig %s/%s: %w", o.Namespace, name, err)
	}
	routes, err := o.routes()
	if err != nil {
		return nil, fmt.Errorf("write AlertmanagerConfig %s/%s: %w", o.Namespace, name, err)
	}
	var docs [][]byte
	for _, r := range routes {
		meta := object{"name": name + "-" + r.name, "namespace": o.Namespace}
		if len(o.Labels) > 0 {
			meta["labels"] = o.Labels
		}
		out, err := yaml.Marshal(object{
			"apiVersion": "monitoring.coreos.com/v1alpha1",
			"kind":       "AlertmanagerConfig",
			"metadata":   meta,
			"spec": object{
				"route":     r.operator(o.Receiver()),
				"receivers": []object{{"name": o.Receiver(), "webhookConfigs": []object{o.operatorWebhook()}}},
			},
		})
		if err != nil {
			return nil, fmt.Errorf("write AlertmanagerConfig %s/%s: %w", o.Namespace, name, err)
		}
		docs = append(docs, out)
	}
	return append(fmt.Appendf(nil, configHead, o.Namespace), bytes.Join(docs, []byte("---\n"))...), nil
}

// object is a part of a manifest whose Go types are in a module that nothing
// else needs.
type object map[string]any

func (o AlertmanagerOptions) operatorWebhook() object {
	hook := object{"url": o.URL, "sendResolved": true, "timeout": webhookTimeout}
	key := func(secret, key string) object { return object{"name": secret, "key": key} }
	http := object{}
	if o.TokenSecret != "" {
		http["authorization"] = object{"credentials": key(o.TokenSecret, o.TokenKey)}
	}
	if o.BasicAuthSecret != "" {
		http["basicAuth"] = object{"username": key(o.BasicAuthSecret, "username"), "password": key(o.BasicAuthSecret, "password")}
	}
	if o.TLSSecret != "" {
		tls := object{"ca": object{"secret": key(o.TLSSecret, "ca.crt")}}
		if o.ClientCert {
			tls["cert"], tls["keySecret"] = object{"secret": key(o.TLSSecret, "tls.crt")}, key(o.TLSSecret, "tls.key")
		}
		http["tlsConfig"] = tls
	}
	if len(http) > 0 {
		hook["httpConfig"] = http
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

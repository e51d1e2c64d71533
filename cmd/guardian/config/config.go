package config

import (
	"fmt"
	"math"
	"net/url"
	"slices"
	"time"

	"github.com/prometheus/alertmanager/timeinterval"
	httpconfig "github.com/prometheus/common/config"
	"go.yaml.in/yaml/v3"

	"github.com/canary-guardian/guardian/alerting"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
)

// Config is guardian's whole configuration: defaults filled in, checked, and
// never changed after Load. docs/configuration.md has the cost of each value.
type Config struct {
	// Namespace is where the guards' VirtualServices, workloads and records are.
	// Empty: the pod's own.
	Namespace string `yaml:"namespace"`
	// Instance is the same for all replicas of one guardian, and another for any
	// other guardian: a second one in a namespace is refused at start. Empty:
	// the name of the pod's Deployment, as DEPLOYMENT_NAME or POD_NAME tells it;
	// else guardian.
	Instance string `yaml:"instance"`
	// ClusterDomain is the end that completes short host names. Default cluster.local.
	ClusterDomain string `yaml:"clusterDomain"`
	// Own is labels that an alert must carry to be this guardian's: those that
	// Prometheus adds to all that it sends, such as cluster: eu-west. Empty:
	// nothing else sends to the same Alertmanager.
	Own map[string]string `yaml:"own"`
	// Mode is that of guards which have none of their own: enforce (default), or
	// observe, by which all is decided, recorded and reported, and no VirtualService is
	// written.
	Mode string `yaml:"mode"`

	Log          Log      `yaml:"log"`
	Listen       Listen   `yaml:"listen"`
	Web          Web      `yaml:"web"`
	Page         Page     `yaml:"page"`
	Webhook      Webhook  `yaml:"webhook"`
	Prometheus   Endpoint `yaml:"prometheus"`
	Alertmanager Endpoint `yaml:"alertmanager"`
	// Notifications is what guardian tells people by way of Alertmanager.
	Notifications Notifications `yaml:"notifications"`
	Heartbeat     Heartbeat     `yaml:"heartbeat"`
	Disarm        Disarm        `yaml:"disarm"`
	Rules         Rules         `yaml:"rules"`
	Builds        Builds        `yaml:"builds"`
	// Guards is what guardian manages. A file without this key is refused; to
	// have none, say guards: [].
	Guards []Guard `yaml:"guards"`
}

// Log is how guardian logs to standard error.
type Log struct {
	Level  string `yaml:"level"`  // least level of what is logged: debug, info (default), warn or error
	Format string `yaml:"format"` // what a line is: json (default) or text
}

// Listen has the addresses that guardian listens on, as host:port.
type Listen struct {
	Alerts  string `yaml:"alerts"`  // address of the webhook and the push lane; default :8080
	Metrics string `yaml:"metrics"` // address of metrics, health and the read-only API; default :8081
	// Page is the address of a read-only page for people without kubectl, served by
	// web.configFile like the alerts port. Empty, the default: there is none.
	Page string `yaml:"page"`
}

// Web is how the alerts port is served.
type Web struct {
	// ConfigFile is an exporter-toolkit web configuration: TLS, client
	// certificates and basic auth of the alerts port and of the page. Empty: plain
	// HTTP.
	ConfigFile string `yaml:"configFile"`
}

// Page is how the page for people is served.
type Page struct {
	// Hosts is the host names by which browsers reach the page, besides IP
	// addresses, localhost, guardian, and names of the cluster, which end in .svc or
	// .svc and clusterDomain; one without a dot, such as a Service's, is also answered
	// with the namespace behind it, unless that is a top-level domain, such as shop. No
	// other one is answered, so that no web site can read the page by a name of its own
	// (DNS rebinding).
	Hosts []string `yaml:"hosts"`
}

// Webhook is who may call the alerts port.
type Webhook struct {
	// TokenFile is the file with the bearer token, re-read when it changes.
	// Default /etc/guardian/token.
	TokenFile string `yaml:"tokenFile"`
	// AllowAnonymous permits an empty TokenFile without a proof that
	// web.configFile demands: then anybody who reaches the port can stop
	// releases, which is warned of at start. Default false.
	AllowAnonymous bool `yaml:"allowAnonymous"`
}

// Endpoint is a Prometheus or an Alertmanager. Credentials belong into
// HTTP, which takes every field of Prometheus's own http_config.
type Endpoint struct {
	URL     string                      `yaml:"url"`     // where it answers, by http or https; empty: there is none
	Timeout time.Duration               `yaml:"timeout"` // longest time for one request; default 5s
	HTTP    httpconfig.HTTPClientConfig `yaml:"http"`    // credentials, TLS, proxy and headers of the client
}

// Notifications is what guardian tells people by way of Alertmanager:
// alerts that it posts itself, with what it has done and why.
type Notifications struct {
	Enabled bool `yaml:"enabled"` // post to Alertmanager what guardian has done; default true
	// URLs is every Alertmanager that is posted to, by its base URL, with the
	// credentials of alertmanager.http; where a name has several addresses, each of
	// them is. Empty: alertmanager.url.
	URLs []string `yaml:"urls"`
}

// Posts says where notifications go to; nil: nowhere.
func (c Config) Posts() []string {
	switch {
	case !c.Notifications.Enabled:
		return nil
	case len(c.Notifications.URLs) > 0:
		return c.Notifications.URLs
	case c.Alertmanager.URL != "":
		return []string{c.Alertmanager.URL}
	}
	return nil
}

// Heartbeat is the proof that alerts reach guardian.
type Heartbeat struct {
	// MaxAge is the age at which the newest heartbeat is stale. Default 3m.
	MaxAge time.Duration `yaml:"maxAge"`
}

// Disarm is what a person may ask for who takes the brake off.
type Disarm struct {
	// Max is for how long guardian disarm may take the brake off at most.
	// Default 24h.
	Max time.Duration `yaml:"max"`
}

// Builds names what of a pod template is part of a build besides the pod's
// spec.
type Builds struct {
	Labels      []string `yaml:"labels"`      // names of pod template labels that are part of a build; empty: none
	Annotations []string `yaml:"annotations"` // names of pod template annotations that are; empty: none
}

// Rules is the alert rules that guardian writes as a PrometheusRule.
type Rules struct {
	Enabled   bool   `yaml:"enabled"`   // guardian writes the PrometheusRules itself; default true
	Name      string `yaml:"name"`      // name of the PrometheusRules; unlike for each guardian of one Prometheus; default guardian
	Namespace string `yaml:"namespace"` // namespace of the PrometheusRules. Empty: that of the guards
	// Interval is how often the rules are evaluated, in steps of 500ms from 1s. 0s: by
	// how many guards there are, every 3s up to 300 of them, and less often with more. Default 0s.
	Interval time.Duration     `yaml:"interval"`
	Labels   map[string]string `yaml:"labels"` // labels of the PrometheusRules, such as release: kube-prometheus-stack
	// ScrapeInterval is how often Prometheus scrapes the workloads' proxies, whole
	// seconds. Default 15s.
	ScrapeInterval time.Duration `yaml:"scrapeInterval"`
	FastLane       FastLane      `yaml:"fastLane"`
	// StableFactor is how many times stable's share of bad requests the
	// canary's must exceed while stable is beyond the limit too. Default 2.
	StableFactor float64 `yaml:"stableFactor"`
	// RunbookBase is put before the alert's runbook page in runbook_url.
	// Empty: the project's own.
	RunbookBase  string `yaml:"runbookBase"`
	Links        Links  `yaml:"links"`
	RestartsFrom string `yaml:"restartsFrom"` // whose count of restarts the signal reads: guardian (default) or kube-state-metrics
	// Proxies selects Istio's series, as matchers without braces. Empty: all.
	Proxies string `yaml:"proxies"`
	// Self selects guardian's own series further than by its namespace, as
	// matchers without braces. Empty: no further.
	Self string `yaml:"self"`
}

// FastLane is a scrape of the guarded workloads' own sidecars alone, for
// what the rules read. guardian writes it as a PodMonitor if rules.enabled.
type FastLane struct {
	Enabled bool `yaml:"enabled"` // scrape the guarded workloads' sidecars by a job of their own too; default false
	// Interval is how often these scrapes are, whole seconds, 1s to 5s; the rules
	// are evaluated twice as often, where rules.interval is longer. Default 1s.
	Interval time.Duration `yaml:"interval"`
}

// FastLaneName is the PodMonitor's. It is not rules.name: that is what the
// PodMonitor of guardian's own metrics is called.
func (r Rules) FastLaneName() string { return r.Name + "-fast-lane" }

// Links has base URLs that alert texts link to; empty: no such link.
type Links struct {
	Grafana    string `yaml:"grafana"`    // base URL of Grafana, which alert texts link to
	Prometheus string `yaml:"prometheus"` // base URL of Prometheus
	Kiali      string `yaml:"kiali"`      // base URL of Kiali
	Jaeger     string `yaml:"jaeger"`     // base URL of Jaeger
}

// Guard is one guard. Only Name is required.
type Guard struct {
	Name            string    `yaml:"name"`            // name of the guard: a DNS label of at most 58 characters, unique
	VirtualServices []string  `yaml:"virtualServices"` // the VirtualServices whose weights it moves; default [NAME]
	DestinationRule string    `yaml:"destinationRule"` // the DestinationRule that has the subsets; default NAME
	Mode            string    `yaml:"mode"`            // enforce or observe. Empty: the configuration's mode
	Stable          Ref       `yaml:"stable"`          // the version that a rollback goes to; default v1
	Canary          Ref       `yaml:"canary"`          // the version that is guarded; default v2
	Workloads       Workloads `yaml:"workloads"`
	Signals         Signals   `yaml:"signals"`
	Alerts          Alerts    `yaml:"alerts"`
	Rollback        Rollback  `yaml:"rollback"`
	Promotion       Promotion `yaml:"promotion"`
}

// Ref is a subset, written as its name, or a host, written {host: name}.
type Ref struct{ virtualservice.Ref }

// MarshalYAML writes what the configuration file has.
func (r Ref) MarshalYAML() (any, error) {
	if r.Host != "" {
		return map[string]string{"host": r.Host}, nil
	}
	return r.Subset, nil
}

// Workloads names the Deployments, Rollouts, StatefulSets, … of each side.
type Workloads struct {
	Stable []string `yaml:"stable"` // names of stable's Deployments or other workloads. Empty: found by the subset's labels
	Canary []string `yaml:"canary"` // names of the canary's. Empty: found by the subset's labels
}

// Signals has the limits of the signals. Each but the comparison is on by default.
type Signals struct {
	ErrorRate  ErrorRate  `yaml:"errorRate"`
	Latency    Latency    `yaml:"latency"`
	Restarts   Restarts   `yaml:"restarts"`
	Traffic    Traffic    `yaml:"traffic"`
	Comparison Comparison `yaml:"comparison"`
}

// ErrorRate limits the share of failed requests.
type ErrorRate struct {
	Enabled bool    `yaml:"enabled"` // this signal is watched; default true
	Max     float64 `yaml:"max"`     // share of requests that may fail, 0–1; default 0.01
	// Failures is which requests have failed, of canary and stable alike: those that one of these
	// selects, as matchers of the labels response_code, response_flags and grpc_response_status, such
	// as response_code=~"5..|404". Empty: HTTP 5xx, which connection failures are among, and the gRPC
	// statuses 2, 4, 12, 13, 14 and 15.
	Failures []string `yaml:"failures"`
	Action   string   `yaml:"action"` // what its alerts ask for at most: rollback, hold (no step forward, and no rollback) or none (for people alone); default rollback
}

// Latency limits the time that Quantile of the requests may take.
type Latency struct {
	Enabled  bool          `yaml:"enabled"`  // this signal is watched; default true
	Quantile float64       `yaml:"quantile"` // share of requests that must be faster than max, 0–1; default 0.95
	Max      time.Duration `yaml:"max"`      // time that they may take; default 500ms
	Action   string        `yaml:"action"`   // what its alerts ask for at most: rollback, hold (no step forward, and no rollback) or none (for people alone); default rollback
}

// Restarts limits container restarts within a window.
type Restarts struct {
	Enabled bool          `yaml:"enabled"` // this signal is watched; default true
	Max     int           `yaml:"max"`     // container restarts that may be in a window; default 2
	Window  time.Duration `yaml:"window"`  // time in which they are counted, whole seconds, 1m to 24h; default 5m
	Action  string        `yaml:"action"`  // what its alerts ask for at most: rollback, hold (no step forward, and no rollback) or none (for people alone); default rollback
}

// Traffic limits how far the canary's share may lie from its weight.
type Traffic struct {
	Enabled        bool    `yaml:"enabled"`        // this signal is watched; default true
	ShareTolerance float64 `yaml:"shareTolerance"` // how far the canary's share may lie from its weight, relative to the weight; default 0.5
	Action         string  `yaml:"action"`         // what its alerts ask for at most: rollback, hold (no step forward, and no rollback) or none (for people alone); default rollback
}

// Comparison limits how much worse than stable's the canary's share of failed requests, and of
// slow ones, may be at the same time, below the limits of errorRate and latency.
type Comparison struct {
	Enabled bool          `yaml:"enabled"` // this signal is watched; needs errorRate or latency; default false
	Ratio   float64       `yaml:"ratio"`   // how many times stable's share the canary's may be, 1–100; default 1.5
	Min     float64       `yaml:"min"`     // share of requests that the canary's may be above that, 0–1; default 0.0001
	Warmup  time.Duration `yaml:"warmup"`  // for how long after the canary's first requests nothing is compared, 0s to 24h: its caches are cold; default 3m
	Action  string        `yaml:"action"`  // what its alerts ask for at most: hold (no step forward, and no rollback) or none (for people alone); default hold
}

// Alerts lets alerts take part that carry none of guardian's labels.
type Alerts struct {
	Matchers []Matcher `yaml:"matchers"` // selections of alerts without guardian's labels that take part
}

// Matcher gives an action to every alert that Match selects.
type Matcher struct {
	Match  string `yaml:"match"`  // matchers in Alertmanager's syntax: '{alertname="OrdersDown", severity=~"page|critical"}'
	Action string `yaml:"action"` // what such an alert does: rollback, hold or none. Empty: rollback

	// Parsed is Match as Alertmanager's own parser has read it; nil: it could not.
	Parsed *alerting.Matchers `yaml:"-"`
}

// Matches reports whether an alert with these labels is meant.
func (m Matcher) Matches(labels map[string]string) bool {
	return m.Parsed != nil && m.Parsed.Matches(labels)
}

// Rollback is how a guard rolls back.
type Rollback struct {
	Lock              string        `yaml:"lock"`              // what lifts the lock of a rollback: build (a new one, or a person), manual (a person) or none (there is no lock)
	Window            time.Duration `yaml:"window"`            // for how long after 100% canary a rollback is still right; default 30m
	MinReadyStable    int           `yaml:"minReadyStable"`    // ready endpoints that stable must have for a rollback; 0 where it runs outside of this cluster; default 1
	Capacity          float64       `yaml:"capacity"`          // share, 0–1, of the ready endpoints that stable carried everything with, below which status and check say so; nothing waits for it; default 0.8
	MatchRoutes       bool          `yaml:"matchRoutes"`       // re-point testers' routes that lead to the canary and not to stable; default true
	Mirrors           bool          `yaml:"mirrors"`           // stop mirrors to the canary; default true
	EvenIfStableFails bool          `yaml:"evenIfStableFails"` // roll back although stable is as bad, instead of holding; default false
}

// Promotion is how a guard goes forward.
type Promotion struct {
	Mode        string        `yaml:"mode"`        // who moves traffic to the canary: off (CI alone), manual (a step for each guardian promote) or auto
	Steps       []Step        `yaml:"steps"`       // weights of the canary, ascending to 100; default [10, 30, 50, 100]
	Interval    time.Duration `yaml:"interval"`    // least time before each step that has none of its own; default 5m
	MinRequests int           `yaml:"minRequests"` // requests that the canary must have had at the present weight; default 100
	Windows     Windows       `yaml:"windows"`
	Gates       []Gate        `yaml:"gates"` // queries that must be true before a step
}

// Step is one step of promotion: a number, or the long form.
type Step struct {
	Weight   int           `yaml:"weight"`   // percent, 1–100; required
	Interval time.Duration `yaml:"interval"` // least time at the weight before. Empty: promotion.interval
	Bake     time.Duration `yaml:"bake"`     // further time at this weight before the next step. Empty: 0s
}

// unset is the interval of a step that has none of its own: 0s is one.
const unset time.Duration = math.MinInt64

// Windows says when steps may be taken, in Alertmanager's time intervals.
type Windows struct {
	Active []timeinterval.TimeInterval `yaml:"active"` // when steps may be taken, in UTC where no location is given. Empty: always
	Mute   []timeinterval.TimeInterval `yaml:"mute"`   // when none may; wins over active
}

// Open reports whether a step may be taken at now. Intervals without a location
// are in UTC.
func (w Windows) Open(now time.Time) bool {
	in := func(intervals []timeinterval.TimeInterval) bool {
		for _, t := range intervals {
			if t.ContainsTime(now.UTC()) {
				return true
			}
		}
		return false
	}
	return !in(w.Mute) && (len(w.Active) == 0 || in(w.Active))
}

// closed is Open in words, for remediate; nil if it is always open.
func (w Windows) closed() func(time.Time) string {
	if len(w.Active) == 0 && len(w.Mute) == 0 {
		return nil
	}
	return func(now time.Time) string {
		if w.Open(now) {
			return ""
		}
		return "promotion.windows allows no step now"
	}
}

// Gate is a PromQL expression that must be true before a step: at least
// one sample, and none of them zero.
type Gate struct {
	Name  string `yaml:"name"`  // by which status and history call the gate
	Query string `yaml:"query"` // PromQL: open with at least one sample, none of them 0 or NaN
}

// Default is what guardian does when the file is silent.
func Default() Config {
	endpoint := func(u string) Endpoint {
		return Endpoint{URL: u, Timeout: 5 * time.Second, HTTP: httpconfig.DefaultHTTPClientConfig}
	}
	return Config{
		ClusterDomain: "cluster.local",
		Mode:          string(decision.ModeEnforce),
		Log:           Log{Level: "info", Format: "json"},
		Listen:        Listen{Alerts: ":8080", Metrics: ":8081"},
		Webhook:       Webhook{TokenFile: "/etc/guardian/token"},
		Prometheus:    endpoint("http://prometheus:9090"),
		Alertmanager:  endpoint("http://alertmanager:9093"),
		Notifications: Notifications{Enabled: true},
		Heartbeat:     Heartbeat{MaxAge: 3 * time.Minute},
		Disarm:        Disarm{Max: decision.DefaultDisarmMax},
		Rules:         Rules{Enabled: true, Name: "guardian", ScrapeInterval: 15 * time.Second, FastLane: FastLane{Interval: time.Second}, StableFactor: 2, RestartsFrom: RestartsFromGuardian},
	}
}

// Where the restarts signal comes from.
const (
	RestartsFromGuardian         = "guardian"
	RestartsFromKubeStateMetrics = "kube-state-metrics"
)

// DefaultGuard is a guard of one line.
func DefaultGuard(name string) Guard {
	g := Guard{
		Name:   name,
		Stable: Ref{virtualservice.Ref{Subset: "v1"}},
		Canary: Ref{virtualservice.Ref{Subset: "v2"}},
		Signals: Signals{
			ErrorRate:  ErrorRate{Enabled: true, Max: 0.01, Action: string(decision.ActionRollback)},
			Latency:    Latency{Enabled: true, Quantile: 0.95, Max: 500 * time.Millisecond, Action: string(decision.ActionRollback)},
			Restarts:   Restarts{Enabled: true, Max: 2, Window: 5 * time.Minute, Action: string(decision.ActionRollback)},
			Traffic:    Traffic{Enabled: true, ShareTolerance: 0.5, Action: string(decision.ActionRollback)},
			Comparison: Comparison{Ratio: 1.5, Min: 0.0001, Warmup: 3 * time.Minute, Action: string(decision.ActionHold)},
		},
		Rollback: Rollback{Lock: string(decision.LockBuild), Window: 30 * time.Minute, MinReadyStable: 1, Capacity: 0.8, MatchRoutes: true, Mirrors: true},
		Promotion: Promotion{Mode: string(decision.PromotionOff), Interval: 5 * time.Minute, MinRequests: 100,
			Steps: []Step{{10, unset, 0}, {30, unset, 0}, {50, unset, 0}, {100, unset, 0}}},
	}
	if name != "" {
		g.complete()
	}
	return g
}

// complete fills in the defaults that follow from other keys.
func (g *Guard) complete() {
	if len(g.VirtualServices) == 0 {
		g.VirtualServices = []string{g.Name}
	}
	if g.DestinationRule == "" {
		g.DestinationRule = g.Name
	}
	for i := range g.Promotion.Steps {
		if g.Promotion.Steps[i].Interval == unset {
			g.Promotion.Steps[i].Interval = g.Promotion.Interval
		}
	}
	for i := range g.Alerts.Matchers {
		m := &g.Alerts.Matchers[i]
		if m.Action == "" {
			m.Action = "rollback"
		}
		if parsed, err := alerting.ParseMatchers(m.Match); err == nil { // Validate reports the error
			m.Parsed = &parsed
		}
	}
}

// Enforces says whether any guard's VirtualServices are written.
func (c Config) Enforces() bool {
	return slices.ContainsFunc(c.Guards, func(g Guard) bool { return !g.Observes() })
}

// Observes says that the guard's VirtualServices are not written.
func (g Guard) Observes() bool { return g.Mode == string(decision.ModeObserve) }

// Guard finds a guard by name.
func (c Config) Guard(name string) (Guard, bool) {
	for _, g := range c.Guards {
		if g.Name == name {
			return g, true
		}
	}
	return Guard{}, false
}

// String is the configuration as YAML with every secret left out, fit for a log.
func (c Config) String() string {
	for _, e := range []*Endpoint{&c.Prometheus, &c.Alertmanager} {
		e.URL = redactURL(e.URL)
	}
	c.Notifications.URLs = slices.Clone(c.Notifications.URLs)
	for i, u := range c.Notifications.URLs {
		c.Notifications.URLs[i] = redactURL(u)
	}
	l := &c.Rules.Links
	for _, u := range []*string{&c.Rules.RunbookBase, &l.Grafana, &l.Prometheus, &l.Kiali, &l.Jaeger} {
		*u = redactURL(*u)
	}
	b, err := yaml.Marshal(c)
	if err != nil {
		return fmt.Sprintf("configuration that cannot be shown: %v", err)
	}
	return string(b)
}

// redactURL is scheme and host of a URL, with the path where nothing in it can be a
// secret; of anything else nothing.
func redactURL(s string) string {
	if s == "" {
		return s
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "":
		return "(not a URL)"
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return u.Scheme + "://" + u.Host + "/…"
	}
	return u.String()
}

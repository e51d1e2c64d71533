package config

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	httpconfig "github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/canary-guardian/guardian/alerting"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	"github.com/canary-guardian/guardian/rules"
)

// check collects problems of values.
type check struct{ problems Problems }

func (c *check) want(ok bool, path string, value any, want string) {
	if !ok {
		c.problems = append(c.problems, Problem{Path: path, Value: shown(path, value), Want: want})
	}
}

func (c *check) oneOf(path, value string, allowed ...string) {
	c.want(slices.Contains(allowed, value), path, value, "want "+list(allowed))
}

const (
	day  = 24 * time.Hour
	year = 365 * day // sums of a few do not overflow
)

func (c *check) bounded(path string, d, least, most time.Duration) {
	c.want(d >= least && d <= most, path, d, fmt.Sprintf("want %v to %v", least, most))
}

// file takes a path that begins like one: a secret that was put where its file
// belongs would be told by every error about the file.
func (c *check) file(path, value string) {
	ok := value == "" || strings.HasPrefix(value, "/") || strings.HasPrefix(value, "./") || strings.HasPrefix(value, "../")
	c.want(ok, path, nil, "want the path of a file, such as /etc/guardian/token or ./token")
}

// validateFiles looks at what names a file in a Prometheus http_config.
func validateFiles(k *check, at string, h httpconfig.HTTPClientConfig) {
	files := map[string]string{"bearer_token_file": h.BearerTokenFile, "tls_config.ca_file": h.TLSConfig.CAFile,
		"tls_config.cert_file": h.TLSConfig.CertFile, "tls_config.key_file": h.TLSConfig.KeyFile}
	if h.Authorization != nil {
		files["authorization.credentials_file"] = h.Authorization.CredentialsFile
	}
	if h.BasicAuth != nil {
		files["basic_auth.username_file"], files["basic_auth.password_file"] = h.BasicAuth.UsernameFile, h.BasicAuth.PasswordFile
	}
	if h.OAuth2 != nil {
		files["oauth2.client_secret_file"] = h.OAuth2.ClientSecretFile
	}
	for _, key := range sortedStrings(files) {
		k.file(join(at, key), files[key])
	}
}

// url takes http and https. Passwords in it are refused, so that none is ever
// shown: http.basic_auth is the place for them.
func (c *check) url(path, value string) {
	u, err := url.Parse(value)
	shown := harmless(redactURL(value))
	switch {
	case err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "":
		c.want(false, path, shown, "want a URL such as https://prometheus.monitoring:9090")
	case u.User != nil:
		c.want(false, path, shown, "want no credentials in the URL: put them into http.basic_auth")
	}
}

func (c *check) address(path, value string) {
	_, port, err := net.SplitHostPort(value)
	n, convErr := strconv.ParseUint(port, 10, 16)
	c.want(err == nil && convErr == nil && n <= 65535, path, value, "want host:port or :port with a port of 0–65535")
}

func (c *check) label(path, value string) {
	c.want(len(validation.IsDNS1123Label(value)) == 0, path, value, "want a DNS label: lower-case letters, digits and -, at most 63, such as orders-service")
}

func (c *check) objectName(path, value string) {
	c.want(len(validation.IsDNS1123Subdomain(value)) == 0, path, value, "want the name of an object in the guard's namespace, such as orders-service")
}

func (c *check) virtualService(path, value string) {
	if namespace, name, found := strings.Cut(value, "/"); found && !strings.Contains(value, "://") {
		c.want(false, path, value, elsewhere(namespace, name))
		return
	}
	c.objectName(path, value)
}

const wantsNamespace = "not set, and this is no pod whose own could be taken: set it, GUARDIAN_NAMESPACE, or -n where the command has it"

// LacksNamespace says of an error of Load that nothing is wrong but that nobody has given
// a namespace: a command has a flag for it.
func LacksNamespace(err error) bool {
	problems, ok := errors.AsType[Problems](err)
	return ok && len(problems) == 1 && problems[0].Want == wantsNamespace
}

// Validate is everything that is wrong with the values of c, relations between
// them included; nil when nothing is.
func (c Config) Validate() Problems {
	var k check
	if c.Namespace == "" {
		k.want(false, "namespace", nil, wantsNamespace)
	} else {
		k.label("namespace", c.Namespace)
	}
	if c.Rules.Namespace != c.Namespace { // else it is that one which is wrong
		k.label("rules.namespace", c.Rules.Namespace)
	}
	k.want(c.Instance != "" && len(validation.IsValidLabelValue(c.Instance)) == 0, "instance", c.Instance, "want a label's value, such as the release's name")
	k.want(len(validation.IsDNS1123Subdomain(c.ClusterDomain)) == 0, "clusterDomain", c.ClusterDomain, "want a DNS domain such as cluster.local")
	c.validateOwn(&k)
	k.oneOf("mode", c.Mode, string(decision.ModeEnforce), string(decision.ModeObserve))
	k.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	k.oneOf("log.format", c.Log.Format, "json", "text")
	k.address("listen.alerts", c.Listen.Alerts)
	k.address("listen.metrics", c.Listen.Metrics)
	k.want(c.Listen.Alerts != c.Listen.Metrics || strings.HasSuffix(c.Listen.Alerts, ":0"), "listen.metrics", c.Listen.Metrics, "want another address than listen.alerts")
	if c.Listen.Page != "" {
		k.address("listen.page", c.Listen.Page)
		taken := c.Listen.Page == c.Listen.Alerts || c.Listen.Page == c.Listen.Metrics
		k.want(!taken || strings.HasSuffix(c.Listen.Page, ":0"), "listen.page", c.Listen.Page, "want another address than listen.alerts and listen.metrics, or none")
	}
	for i, h := range c.Page.Hosts {
		at := fmt.Sprintf("page.hosts[%d]", i)
		k.want(len(validation.IsDNS1123Subdomain(strings.ToLower(h))) == 0, at, h, "want a host name without scheme and port, such as guardian.example.com")
		k.want(!slices.Contains(c.Page.Hosts[:i], h), at, h, "named twice")
	}
	k.want(c.Webhook.TokenFile != "" || c.Web.ConfigFile != "" || c.Webhook.AllowAnonymous, "webhook.tokenFile", c.Webhook.TokenFile,
		"want a file with the bearer token, web.configFile, or webhook.allowAnonymous: true")
	k.want(c.Webhook.TokenFile == "" || !c.Webhook.AllowAnonymous, "webhook.allowAnonymous", c.Webhook.AllowAnonymous,
		`want tokenFile: "" beside it: as long as there is a token, callers must have it`)
	k.file("webhook.tokenFile", c.Webhook.TokenFile)
	k.file("web.configFile", c.Web.ConfigFile)
	c.validateEndpoints(&k)
	k.bounded("heartbeat.maxAge", c.Heartbeat.MaxAge, time.Second, day)
	k.bounded("disarm.max", c.Disarm.Max, time.Second, year)
	c.Rules.validate(&k)
	c.Builds.validate(&k)
	c.validateGuards(&k)
	return k.problems
}

// validateOwn refuses labels that tell alerts of one guardian apart, and so are
// not the same on all that a Prometheus sends.
func (c Config) validateOwn(k *check) {
	for _, name := range sortedStrings(c.Own) {
		at := join("own", name)
		k.want(model.LegacyValidation.IsValidLabelName(name), at, c.Own[name], "want the name of a label, such as cluster")
		k.want(name != rules.LabelNamespace && name != model.AlertNameLabel && name != rules.LabelSeverity && !strings.HasPrefix(name, rules.LabelGuardian),
			at, c.Own[name], "want a label that Prometheus adds to all that it sends (external_labels), such as cluster")
		k.want(c.Own[name] != "", at, nil, "empty: want the label's value, such as eu-west")
	}
}

func (c Config) validateEndpoints(k *check) {
	for _, e := range []struct {
		path string
		Endpoint
	}{{"prometheus", c.Prometheus}, {"alertmanager", c.Alertmanager}} {
		if e.URL != "" {
			k.url(e.path+".url", e.URL)
		}
		k.bounded(e.path+".timeout", e.Timeout, time.Millisecond, time.Minute)
		validateFiles(k, e.path+".http", e.HTTP)
	}
	k.want(c.Prometheus.URL != "" || c.Alertmanager.URL != "", "alertmanager.url", c.Alertmanager.URL,
		"want this or prometheus.url: one of them must say which alerts fire")
	for i, u := range c.Notifications.URLs {
		at := fmt.Sprintf("notifications.urls[%d]", i)
		k.url(at, u)
		k.want(!slices.Contains(c.Notifications.URLs[:i], u), at, harmless(redactURL(u)), "there already: want each Alertmanager once")
	}
}

func wholeSeconds(d time.Duration) bool { return d >= time.Second && d%time.Second == 0 }

// selector takes matchers as they stand between the braces of a PromQL selector.
func (c *check) selector(path, value string) {
	_, err := parser.NewParser(parser.Options{}).ParseMetricSelector("x{" + value + "}")
	c.want(err == nil, path, value, `want PromQL matchers without braces, such as job="istio-proxies"`)
}

func (r Rules) validate(k *check) {
	k.label("rules.name", r.Name)
	k.want(r.Interval == 0 || r.Interval >= time.Second && r.Interval%(time.Second/2) == 0 && r.Interval <= 5*time.Minute,
		"rules.interval", r.Interval, "want 1s to 5m in steps of 500ms, or 0s: by how many guards there are")
	k.want(wholeSeconds(r.ScrapeInterval) && r.ScrapeInterval <= 5*time.Minute, "rules.scrapeInterval", r.ScrapeInterval, "want whole seconds, 1s to 5m")
	k.want(wholeSeconds(r.FastLane.Interval) && r.FastLane.Interval <= 5*time.Second, "rules.fastLane.interval", r.FastLane.Interval, "want whole seconds, 1s to 5s")
	k.want(!r.FastLane.Enabled || r.FastLane.Interval <= r.ScrapeInterval, "rules.fastLane.interval", r.FastLane.Interval, fmt.Sprintf("want at most rules.scrapeInterval (%v): a lane slower than the ordinary scrapes is none", r.ScrapeInterval))
	k.want(r.StableFactor >= 1, "rules.stableFactor", r.StableFactor, "want at least 1")
	k.selector("rules.proxies", r.Proxies)
	k.selector("rules.self", r.Self)
	k.oneOf("rules.restartsFrom", r.RestartsFrom, RestartsFromGuardian, RestartsFromKubeStateMetrics)
	for _, key := range sortedStrings(r.Labels) {
		at := join("rules.labels", key)
		k.want(len(validation.IsQualifiedName(key)) == 0, at, key, "want a Kubernetes label's name")
		k.want(len(validation.IsValidLabelValue(r.Labels[key])) == 0, at, r.Labels[key], "want a Kubernetes label's value")
	}
	for _, u := range []struct{ key, value string }{
		{"rules.runbookBase", r.RunbookBase}, {"rules.links.grafana", r.Links.Grafana}, {"rules.links.prometheus", r.Links.Prometheus},
		{"rules.links.kiali", r.Links.Kiali}, {"rules.links.jaeger", r.Links.Jaeger},
	} {
		if u.value != "" {
			k.url(u.key, u.value)
		}
	}
}

func (b Builds) validate(k *check) {
	for _, names := range []struct {
		path string
		keys []string
	}{{"builds.labels", b.Labels}, {"builds.annotations", b.Annotations}} {
		for i, key := range names.keys {
			at := fmt.Sprintf("%s[%d]", names.path, i)
			k.want(len(validation.IsQualifiedName(key)) == 0, at, key, "want the name of a label or annotation, such as checksum/config")
			k.want(!slices.Contains(names.keys[:i], key), at, key, "named twice")
		}
	}
}

func (c Config) validateGuards(k *check) {
	names, sides := map[string]int{}, newSides()
	for i, g := range c.Guards {
		at := fmt.Sprintf("guards[%d]", i)
		g.validate(k, at)
		if g.Mode != "" && g.Mode != c.Mode { // else it is that one which is wrong
			k.oneOf(at+".mode", g.Mode, string(decision.ModeEnforce), string(decision.ModeObserve))
		}
		for j, m := range g.Alerts.Matchers {
			m.validate(k, fmt.Sprintf("%s.alerts.matchers[%d]", at, j), c.generatedLabels(g.Name))
		}
		if first, taken := names[g.Name]; taken && g.Name != "" {
			k.want(false, at+".name", g.Name, fmt.Sprintf("guards[%d] has this name already: want another", first))
			continue
		}
		names[g.Name] = i
		sides.validate(k, i, g, c.destination(g, g.Stable), c.destination(g, g.Canary))
		if g.Promotion.Mode != string(decision.PromotionOff) && c.Prometheus.URL == "" {
			k.want(g.Promotion.MinRequests == 0 && len(g.Promotion.Gates) == 0 && g.Signals.Limits() == (rules.Signals{}), at+".promotion.mode", g.Promotion.Mode,
				"minRequests, gates, and the proof that the rules of the signals watch need prometheus.url")
		}
	}
}

// destination tells those of one namespace apart, as far as the configuration does:
// which host a DestinationRule has stands in the cluster.
func (c Config) destination(g Guard, r Ref) string {
	if r.Host == "" {
		return g.DestinationRule + "/" + r.Subset
	}
	short := strings.TrimSuffix(strings.TrimSuffix(r.Host, ".svc"), "."+c.Namespace)
	return virtualservice.NormalizeHost(short, c.Namespace, c.ClusterDomain)
}

// sides are the guards, by their index, that have a destination as their stable or
// canary; the first that has.
type sides struct{ stable, canary map[string]int }

func newSides() sides { return sides{map[string]int{}, map[string]int{}} }

// validate refuses a guard whose canary is another's too, or whose rollback would send
// all traffic to what another's lock denies.
func (s sides) validate(k *check, i int, g Guard, stable, canary string) {
	at := fmt.Sprintf("guards[%d]", i)
	const want = ": want one guard for the two, with stable what carries the traffic now"
	if first, taken := s.canary[canary]; taken {
		k.want(false, at+".canary", g.Canary.String(), fmt.Sprintf("guards[%d] has this canary already: want one guard for each, with all of its virtualServices", first))
	} else {
		s.canary[canary] = i
	}
	if first, taken := s.canary[stable]; taken && first != i {
		k.want(false, at+".stable", g.Stable.String(), fmt.Sprintf("guards[%d] has this as its canary, and its lock would deny what a rollback of this one needs"+want, first))
	}
	if first, taken := s.stable[canary]; taken && first != i {
		k.want(false, at+".canary", g.Canary.String(), fmt.Sprintf("guards[%d] has this as its stable, and a lock of this one would deny what its rollback needs"+want, first))
	}
	if _, taken := s.stable[stable]; !taken {
		s.stable[stable] = i
	}
}

func (g Guard) validate(k *check, at string) {
	if g.Name == "" {
		k.want(false, at+".name", nil, "want a name, such as that of the VirtualService")
	} else {
		k.label(at+".name", g.Name)
		k.want(len(g.Name) <= decision.MaxGuardName, at+".name", g.Name, fmt.Sprintf("want at most %d characters: it is part of an annotation's key", decision.MaxGuardName))
		for i, vs := range g.VirtualServices {
			if vs != g.Name { // else it is the name that is wrong
				k.virtualService(fmt.Sprintf("%s.virtualServices[%d]", at, i), vs)
			}
			k.want(!slices.Contains(g.VirtualServices[:i], vs), fmt.Sprintf("%s.virtualServices[%d]", at, i), vs, "named twice")
		}
		if g.DestinationRule != g.Name {
			k.objectName(at+".destinationRule", g.DestinationRule)
		}
	}
	k.ref(at+".stable", g.Stable)
	k.ref(at+".canary", g.Canary)
	k.want(g.Stable != g.Canary, at+".canary", g.Canary.String(), "want another destination than stable")
	for _, w := range []struct {
		side  string
		names []string
	}{{"stable", g.Workloads.Stable}, {"canary", g.Workloads.Canary}} {
		for i, name := range w.names {
			k.objectName(fmt.Sprintf("%s.workloads.%s[%d]", at, w.side, i), name)
		}
	}
	for i, name := range g.Workloads.Canary {
		k.want(!slices.Contains(g.Workloads.Stable, name), fmt.Sprintf("%s.workloads.canary[%d]", at, i), name, "want a Deployment that is not among workloads.stable")
	}
	g.Signals.validate(k, at+".signals")
	k.oneOf(at+".rollback.lock", g.Rollback.Lock, string(decision.LockBuild), string(decision.LockManual), string(decision.LockNone))
	k.bounded(at+".rollback.window", g.Rollback.Window, 0, year)
	k.want(g.Rollback.MinReadyStable >= 0, at+".rollback.minReadyStable", g.Rollback.MinReadyStable, "want at least 1, or 0 where stable runs outside of this cluster: traffic to a version without endpoints is an outage")
	k.want(g.Rollback.Capacity >= 0 && g.Rollback.Capacity <= 1, at+".rollback.capacity", g.Rollback.Capacity, "want a ratio of 0 to 1, such as 0.8: of the ready endpoints that stable had when it carried everything; 0: not told")
	g.Promotion.validate(k, at+".promotion")
	k.want(!g.Observes() || g.Promotion.Mode == string(decision.PromotionOff), at+".promotion.mode", g.Promotion.Mode, "no step is written in mode observe: want off, or mode: enforce")
}

func (k *check) ref(at string, r Ref) {
	if r.Host != "" {
		k.want(len(validation.IsDNS1123Subdomain(r.Host)) == 0, at+".host", r.Host, "want a host such as orders-v1 or orders-v1.shop.svc.cluster.local")
		return
	}
	k.want(len(validation.IsValidLabelValue(r.Subset)) == 0 && r.Subset != "", at, r.Subset, "want a subset of the DestinationRule or {host: name}")
}

func (s Signals) validate(k *check, at string) {
	for _, one := range s.actions() {
		k.action(at+"."+one.key+".action", one.key, one.action)
	}
	s.Comparison.validate(k, at+".comparison", s)
	if s.ErrorRate.Enabled {
		k.want(s.ErrorRate.Max > 0 && s.ErrorRate.Max < 1, at+".errorRate.max", s.ErrorRate.Max, "want a ratio between 0 and 1, such as 0.01 for 1%")
		for i, f := range s.ErrorRate.Failures {
			k.failures(fmt.Sprintf("%s.errorRate.failures[%d]", at, i), f)
		}
	}
	if s.Latency.Enabled {
		k.want(s.Latency.Quantile > 0 && s.Latency.Quantile < 1, at+".latency.quantile", s.Latency.Quantile, "want a quantile between 0 and 1, such as 0.95")
		k.want(s.Latency.Max > 0 && s.Latency.Max <= time.Hour, at+".latency.max", s.Latency.Max, "want more than 0s, at most 1h, the highest of Istio's buckets")
	}
	if s.Restarts.Enabled {
		k.want(s.Restarts.Max >= 0, at+".restarts.max", s.Restarts.Max, "want 0 or more")
		k.want(wholeSeconds(s.Restarts.Window) && s.Restarts.Window >= time.Minute && s.Restarts.Window <= day, at+".restarts.window", s.Restarts.Window, "want whole seconds, 1m to 24h")
	}
	if s.Traffic.Enabled {
		k.want(s.Traffic.ShareTolerance > 0 && s.Traffic.ShareTolerance <= 1, at+".traffic.shareTolerance", s.Traffic.ShareTolerance, "want more than 0, at most 1, such as 0.5 for half of the weight")
	}
}

// action takes what a signal may lead to: each to a rollback, but for the comparison.
func (c *check) action(path, signal, action string) {
	switch {
	case signal != rules.SignalComparison.Key():
		c.oneOf(path, action, string(rules.ActionRollback), string(rules.ActionHold), string(rules.ActionNone))
	case action == string(rules.ActionRollback):
		c.want(false, path, action, "want hold or none: failures that come in clusters can look like a worse build, so it rolls nothing back")
	default:
		c.oneOf(path, action, string(rules.ActionHold), string(rules.ActionNone))
	}
}

// failures takes matchers of failed requests, and shows what looks like one alone.
func (c *check) failures(path, value string) {
	err := rules.CheckFailures(value)
	switch {
	case err == nil:
	case matcher.MatchString(value):
		c.want(false, path, value, err.Error())
	default:
		c.want(false, path, nil, `want matchers without braces, such as response_code=~"5..|404"`)
	}
}

var matcher = regexp.MustCompile(`^\s*\w+\s*(=|!=|=~|!~)\s*"`)

func (c Comparison) validate(k *check, at string, s Signals) {
	if !c.Enabled {
		return
	}
	k.want(c.Ratio >= 1 && c.Ratio <= 100, at+".ratio", c.Ratio, "want 1 to 100, such as 1.5 for half as many again")
	k.want(c.Min > 0 && c.Min < 1, at+".min", c.Min, "want a ratio between 0 and 1, such as 0.0001 for one request of 10,000")
	k.bounded(at+".warmup", c.Warmup, 0, day)
	k.want(s.ErrorRate.Enabled || s.Latency.Enabled, at+".enabled", true, "want errorRate or latency on, whose requests it compares; either may have action: none")
}

// generatedLabels is what the labels of the alerts in guardian's own rules can be.
func (c Config) generatedLabels(guard string) map[string][]string {
	values := map[string][]string{
		model.AlertNameLabel: rules.Alerts(), rules.LabelGuardian: {"true"}, rules.LabelInstance: {c.Rules.Name}, rules.LabelNamespace: {c.Namespace},
		rules.LabelGuard: {"", guard}, rules.LabelSeverity: {"critical", "warning", "none"},
		rules.LabelAction: {string(rules.ActionRollback), string(rules.ActionHold), string(rules.ActionNone)},
		rules.LabelSignal: {""},
	}
	for _, signal := range rules.SignalNames() {
		values[rules.LabelSignal] = append(values[rules.LabelSignal], string(signal))
	}
	for name, value := range c.Own {
		values[name] = []string{value}
	}
	return values
}

// validate refuses what selects more than anybody means. Guardian's own alerts
// take part by their labels alone, so a matcher never gives them an action; but
// one that would select them says something that does not hold.
func (m Matcher) validate(k *check, at string, generated map[string][]string) {
	k.oneOf(at+".action", m.Action, "rollback", "hold", "none")
	at += ".match"
	parsed, err := alerting.ParseMatchers(m.Match)
	switch {
	case err != nil:
		k.want(false, at, m.Match, `want Alertmanager's matchers, such as '{alertname="OrdersDown", severity="page"}': `+because(m.Match, err))
	case renamed(parsed, generated) != "":
		k.want(false, at, m.Match, "selects "+renamed(parsed, generated)+" by its old name: it is "+oldAlerts[renamed(parsed, generated)]+" now, and takes part by its own labels")
	case parsed.Matches(nil):
		k.want(false, at, m.Match, `selects every alert that lacks these labels: want at least one label that must be there, such as alertname="OrdersDown"`)
	case parsed.Selects(generated):
		k.want(false, at, m.Match, "selects guardian's own alert "+firstSelected(parsed, generated)+`: name the alerts that are meant (alertname=~"Orders.+"), or add guardian!="true"`)
	}
}

// oldAlerts are guardian's alerts that had another name, with the new one.
var oldAlerts = map[string]string{"GuardianCanaryWaiting": rules.AlertWaiting, "GuardianServiceTrafficFell": rules.AlertServiceTraffic}

// renamed is an old name of one of guardian's alerts that m asks for, or "".
func renamed(m alerting.Matchers, values map[string][]string) string {
	selects := func(name string) bool {
		values = maps.Clone(values)
		values[model.AlertNameLabel] = []string{name}
		return m.Selects(values)
	}
	for _, old := range slices.Sorted(maps.Keys(oldAlerts)) {
		if selects(old) && !selects("Guardian") { // and no prefix of it
			return old
		}
	}
	return ""
}

// firstSelected names one of the alerts that m selects, the heartbeat before others.
func firstSelected(m alerting.Matchers, values map[string][]string) string {
	values = maps.Clone(values)
	for _, name := range append([]string{rules.AlertHeartbeat}, values[model.AlertNameLabel]...) {
		values[model.AlertNameLabel] = []string{name}
		if m.Selects(values) {
			return name
		}
	}
	return ""
}

func (p Promotion) validate(k *check, at string) {
	k.oneOf(at+".mode", p.Mode, string(decision.PromotionOff), string(decision.PromotionManual), string(decision.PromotionAuto))
	k.bounded(at+".interval", p.Interval, time.Millisecond, year)
	k.want(p.MinRequests >= 0, at+".minRequests", p.MinRequests, "want 0 or more")
	last := 0
	for i, s := range p.Steps {
		step := fmt.Sprintf("%s.steps[%d]", at, i)
		inRange := s.Weight >= 1 && s.Weight <= 100
		k.want(inRange, step, s.Weight, "want a weight of 1 to 100 percent")
		k.want(!inRange || s.Weight > last, step, s.Weight, fmt.Sprintf("want more than the step before (%d): steps ascend", last))
		if s.Interval != p.Interval { // else it is that one which is wrong
			k.bounded(step+".interval", s.Interval, 0, year)
		}
		k.bounded(step+".bake", s.Bake, 0, year)
		last = max(last, s.Weight)
	}
	if n := len(p.Steps); n == 0 {
		k.want(false, at+".steps", nil, "empty: want steps that end in 100, such as [10, 30, 50, 100]")
	} else {
		k.want(p.Steps[n-1].Weight >= 100, fmt.Sprintf("%s.steps[%d]", at, n-1), p.Steps[n-1].Weight, "want the last step to be 100")
	}
	for i, g := range p.Gates {
		gate := fmt.Sprintf("%s.gates[%d]", at, i)
		k.label(gate+".name", g.Name)
		_, err := parser.NewParser(parser.Options{EnableExperimentalFunctions: true}).ParseExpr(g.Query)
		if err != nil {
			k.want(false, gate+".query", g.Query, "want PromQL: "+because(g.Query, err))
		}
	}
}

func sortedStrings(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

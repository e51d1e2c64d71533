package alerting

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/alertmanager/pkg/labels"
	"github.com/prometheus/alertmanager/timeinterval"
	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v2"
)

// Routing is the part of Alertmanager's configuration that says who receives an
// alert, and how soon. Alertmanager's own package for it brings the clients of
// all notifiers and twice the program's size; a test holds this one to it.
type Routing struct {
	root      *routeNode
	receivers map[string]Receiver
	inhibit   []InhibitRule
	intervals map[string][]timeinterval.TimeInterval
}

// Route is what a route of the tree asks for, inherited values included.
type Route struct {
	Receiver       string
	Matchers       string   // of the route and those above it, for people; empty: the root
	GroupBy        []string // sorted; nil and not GroupByAll: all alerts are one group
	GroupByAll     bool     // no grouping: group_by ['...']
	GroupWait      time.Duration
	GroupInterval  time.Duration
	RepeatInterval time.Duration

	mute, active []string
}

// Receiver is a receiver as far as webhooks go.
type Receiver struct {
	Name     string
	Webhooks []ReceiverWebhook
}

// ReceiverWebhook is where and how a receiver calls.
type ReceiverWebhook struct {
	URL          string // empty: it is a secret, or in a file, which Alertmanager does not show
	SendResolved bool
	MaxAlerts    int // 0: all
	Bearer       bool
	Basic        bool
	Certificate  bool
}

// InhibitRule keeps alerts back while others fire.
type InhibitRule struct {
	Source, Target Matchers
	Equal          []string
}

// Defaults of Alertmanager's root route.
const (
	defaultGroupWait      = 30 * time.Second
	defaultGroupInterval  = 5 * time.Minute
	defaultRepeatInterval = 4 * time.Hour
)

// secretText is what Alertmanager shows in place of a secret.
const secretText = "<secret>"

type (
	routingYAML struct {
		Route         *routeYAML     `yaml:"route"`
		InhibitRules  []inhibitYAML  `yaml:"inhibit_rules"`
		Receivers     []receiverYAML `yaml:"receivers"`
		TimeIntervals []timesYAML    `yaml:"time_intervals"`
		MuteIntervals []timesYAML    `yaml:"mute_time_intervals"`
	}
	routeYAML struct {
		Receiver       string            `yaml:"receiver"`
		GroupBy        []string          `yaml:"group_by"`
		Match          map[string]string `yaml:"match"`
		MatchRE        map[string]string `yaml:"match_re"`
		Matchers       []string          `yaml:"matchers"`
		Continue       bool              `yaml:"continue"`
		Routes         []*routeYAML      `yaml:"routes"`
		GroupWait      *model.Duration   `yaml:"group_wait"`
		GroupInterval  *model.Duration   `yaml:"group_interval"`
		RepeatInterval *model.Duration   `yaml:"repeat_interval"`
		Mute           []string          `yaml:"mute_time_intervals"`
		Active         []string          `yaml:"active_time_intervals"`
	}
	inhibitYAML struct {
		SourceMatch    map[string]string `yaml:"source_match"`
		SourceMatchRE  map[string]string `yaml:"source_match_re"`
		SourceMatchers []string          `yaml:"source_matchers"`
		TargetMatch    map[string]string `yaml:"target_match"`
		TargetMatchRE  map[string]string `yaml:"target_match_re"`
		TargetMatchers []string          `yaml:"target_matchers"`
		Equal          []string          `yaml:"equal"`
	}
	receiverYAML struct {
		Name     string        `yaml:"name"`
		Webhooks []webhookYAML `yaml:"webhook_configs"`
	}
	webhookYAML struct {
		URL          string   `yaml:"url"`
		SendResolved *bool    `yaml:"send_resolved"`
		MaxAlerts    int      `yaml:"max_alerts"`
		HTTP         httpYAML `yaml:"http_config"`
	}
	httpYAML struct {
		Authorization   map[string]any `yaml:"authorization"`
		BearerToken     string         `yaml:"bearer_token"`
		BearerTokenFile string         `yaml:"bearer_token_file"`
		OAuth2          map[string]any `yaml:"oauth2"`
		BasicAuth       map[string]any `yaml:"basic_auth"`
		TLS             map[string]any `yaml:"tls_config"`
	}
	timesYAML struct {
		Name  string                      `yaml:"name"`
		Times []timeinterval.TimeInterval `yaml:"time_intervals"`
	}
)

// ParseRouting reads alertmanager.yml, or what Alertmanager's status shows of it.
// Keys that it does not know are left out: newer versions have more.
func ParseRouting(config string) (*Routing, error) {
	var y routingYAML
	if err := yaml.Unmarshal([]byte(config), &y); err != nil {
		return nil, errors.New("read Alertmanager's configuration: " + withoutValues(err.Error()))
	}
	if y.Route == nil {
		return nil, errors.New("read Alertmanager's configuration: it has no route")
	}
	r := &Routing{receivers: map[string]Receiver{}, intervals: map[string][]timeinterval.TimeInterval{}}
	for _, receiver := range y.Receivers {
		r.receivers[receiver.Name] = receiver.receiver()
	}
	for _, t := range slices.Concat(y.TimeIntervals, y.MuteIntervals) {
		r.intervals[t.Name] = t.Times
	}
	root := Route{GroupWait: defaultGroupWait, GroupInterval: defaultGroupInterval, RepeatInterval: defaultRepeatInterval}
	var err error
	if r.root, err = newRouteNode(y.Route, root); err != nil {
		return nil, fmt.Errorf("read Alertmanager's configuration: %w", err)
	}
	for i, rule := range y.InhibitRules {
		parsed, err := rule.rule()
		if err != nil {
			return nil, fmt.Errorf("read Alertmanager's configuration: inhibit_rules[%d]: %w", i, err)
		}
		r.inhibit = append(r.inhibit, parsed)
	}
	return r, nil
}

func (y receiverYAML) receiver() Receiver {
	out := Receiver{Name: y.Name}
	for _, w := range y.Webhooks {
		hook := ReceiverWebhook{URL: w.URL, SendResolved: w.SendResolved == nil || *w.SendResolved, MaxAlerts: w.MaxAlerts}
		if hook.URL == secretText {
			hook.URL = ""
		}
		h := w.HTTP
		hook.Bearer = h.Authorization != nil || h.BearerToken+h.BearerTokenFile != "" || h.OAuth2 != nil
		hook.Basic = h.BasicAuth != nil
		hook.Certificate = h.TLS["cert"] != nil || h.TLS["cert_file"] != nil || h.TLS["cert_ref"] != nil
		out.Webhooks = append(out.Webhooks, hook)
	}
	return out
}

func (y inhibitYAML) rule() (InhibitRule, error) {
	source, err := readMatchers(y.SourceMatch, y.SourceMatchRE, y.SourceMatchers)
	if err != nil {
		return InhibitRule{}, err
	}
	target, err := readMatchers(y.TargetMatch, y.TargetMatchRE, y.TargetMatchers)
	return InhibitRule{Source: Matchers{source}, Target: Matchers{target}, Equal: y.Equal}, err
}

// readMatchers reads all three spellings that Alertmanager has.
func readMatchers(equal, regex map[string]string, matchers []string) (labels.Matchers, error) {
	var out labels.Matchers
	add := func(kind labels.MatchType, of map[string]string) error {
		for _, name := range slices.Sorted(maps.Keys(of)) {
			m, err := labels.NewMatcher(kind, name, of[name])
			if err != nil {
				return fmt.Errorf("matcher of label %s: %w", name, err)
			}
			out = append(out, m)
		}
		return nil
	}
	if err := errors.Join(add(labels.MatchEqual, equal), add(labels.MatchRegexp, regex)); err != nil {
		return nil, err
	}
	for _, text := range matchers {
		parsed, err := parseMatchers(text, "alertmanager.yml")
		if err != nil {
			return nil, fmt.Errorf("matchers %q: %w", text, err)
		}
		out = append(out, parsed...)
	}
	return out, nil
}

// routeNode is a route in its tree.
type routeNode struct {
	Route
	matchers Matchers
	goesOn   bool // continue: true
	beneath  []*routeNode
}

// newRouteNode takes from the route above what y does not say.
func newRouteNode(y *routeYAML, above Route) (*routeNode, error) {
	n := &routeNode{Route: above, goesOn: y.Continue}
	list, err := readMatchers(y.Match, y.MatchRE, y.Matchers)
	if err != nil {
		return nil, err
	}
	n.matchers = Matchers{list}
	n.mute, n.active = y.Mute, y.Active // not inherited
	if above.Receiver != "" {           // not the root, which always has one and matches all
		n.Matchers += n.matchers.String()
	}
	if y.Receiver != "" {
		n.Receiver = y.Receiver
	}
	if y.GroupBy != nil {
		n.GroupByAll = slices.Contains(y.GroupBy, "...")
		n.GroupBy = slices.Sorted(slices.Values(y.GroupBy))
		if n.GroupByAll {
			n.GroupBy = nil
		}
	}
	for to, from := range map[*time.Duration]*model.Duration{&n.GroupWait: y.GroupWait, &n.GroupInterval: y.GroupInterval, &n.RepeatInterval: y.RepeatInterval} {
		if from != nil {
			*to = time.Duration(*from)
		}
	}
	for _, child := range y.Routes {
		if child == nil {
			continue
		}
		below, err := newRouteNode(child, n.Route)
		if err != nil {
			return nil, err
		}
		n.beneath = append(n.beneath, below)
	}
	return n, nil
}

// match is Alertmanager's: depth first, and a route that matches ends the search
// among its siblings unless it continues.
func (n *routeNode) match(of map[string]string) []Route {
	if !n.matchers.Matches(of) {
		return nil
	}
	var all []Route
	for _, below := range n.beneath {
		found := below.match(of)
		all = append(all, found...)
		if found != nil && !below.goesOn {
			break
		}
	}
	if len(all) == 0 {
		return []Route{n.Route}
	}
	return all
}

// Routes are those that an alert with these labels takes.
func (r *Routing) Routes(of map[string]string) []Route { return r.root.match(of) }

// Receiver returns the receiver of that name.
func (r *Routing) Receiver(name string) (Receiver, bool) {
	receiver, ok := r.receivers[name]
	return receiver, ok
}

// Receivers are all of them, by name.
func (r *Routing) Receivers() []Receiver {
	var out []Receiver
	for _, name := range slices.Sorted(maps.Keys(r.receivers)) {
		out = append(out, r.receivers[name])
	}
	return out
}

// Intervals names the time intervals that can mute a route.
func (r Route) Intervals() []string { return slices.Concat(r.mute, r.active) }

// Muted says whether a route's time intervals keep its alerts back at a time.
func (r *Routing) Muted(route Route, at time.Time) bool {
	in := func(names []string) bool {
		for _, name := range names {
			for _, t := range r.intervals[name] {
				if t.ContainsTime(at.UTC()) {
					return true
				}
			}
		}
		return false
	}
	return in(route.mute) || len(route.active) > 0 && !in(route.active)
}

// Inhibiting are the rules that could keep an alert with these labels back.
func (r *Routing) Inhibiting(target map[string]string) []InhibitRule {
	var out []InhibitRule
	for _, rule := range r.inhibit {
		if rule.Target.Matches(target) {
			out = append(out, rule)
		}
	}
	return out
}

// Inhibits says whether source, while it fires, keeps target back. Two alerts that
// are source and target both do not keep each other back.
func (i InhibitRule) Inhibits(source, target map[string]string) bool {
	if !i.Source.Matches(source) || !i.Target.Matches(target) || i.Source.Matches(target) && i.Target.Matches(source) {
		return false
	}
	return !slices.ContainsFunc(i.Equal, func(name string) bool { return source[name] != target[name] })
}

// String is the rule for people.
func (i InhibitRule) String() string {
	text := "source " + i.Source.String() + ", target " + i.Target.String()
	if len(i.Equal) > 0 {
		text += fmt.Sprintf(", equal %v", i.Equal)
	}
	return text
}

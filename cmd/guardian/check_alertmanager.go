package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/canary-guardian/guardian/alerting"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/rules"
)

// Versions of Alertmanager that a route needs.
var (
	leastAlertmanager        = [2]int{0, 22} // route.matchers, and several time intervals
	leastAlertmanagerTimeout = [2]int{0, 28} // webhook_configs.timeout, which the printed receiver has
)

// slowestRepeat is how long a route may take to tell guardian of an alert again
// that goes on: a guardian that was away learns of it so late.
const slowestRepeat = 5 * time.Minute

// alertmanagerCheck asks where an Alertmanager would send the guards' alerts.
type alertmanagerCheck struct {
	*preflight
	version  string
	routing  *alerting.Routing
	silences []alerting.Silence
	firing   []alerting.Alert
	more     map[string]string // labels that Prometheus adds to all that it sends
	heard    bool              // a heartbeat has come through it
	ways     map[string]bool   // receivers of the heartbeat
	needs    alerting.WebNeeds
	well     map[string][]string // receiver → guards whose rollbacks reach guardian by it
}

// checkAlertmanager asks for the configuration that Alertmanager has loaded, and
// follows the heartbeat and each guard's rollback alerts through it.
func checkAlertmanager(ctx context.Context, p *preflight, sides map[string]decision.Sides, heard bool) {
	e := p.config.Alertmanager
	if e.URL == "" {
		p.ok("alertmanager", "", "Alertmanager: none (alertmanager.url is empty): alerts come straight from Prometheus")
		return
	}
	am, err := alerting.NewAlertmanager(alerting.ClientOptions{URL: e.URL, HTTP: &e.HTTP, Timeout: e.Timeout})
	if err != nil {
		p.fail("alertmanager", "", "", "Alertmanager: %v", err)
		return
	}
	defer am.Close()
	c := &alertmanagerCheck{preflight: p, heard: heard, ways: map[string]bool{}, well: map[string][]string{}}
	if !c.ask(ctx, am) {
		return
	}
	o, _ := p.config.RulesOptions(sides)
	c.findOwn(o.HeartbeatAlert())
	c.checkVersion()
	c.checkHeartbeat(o.HeartbeatAlert())
	for _, g := range o.Guards {
		p.guard = g.Name
		c.checkGuard(o.ActingAlerts(g))
		c.checkMatchers(g.Name)
	}
	p.guard = ""
	for _, receiver := range slices.Sorted(maps.Keys(c.well)) {
		guards := c.well[receiver]
		c.ok("route", "", "Alertmanager: rollback alerts of %s%s reach receiver %s ungrouped, and nothing keeps them back", guards[0], more(len(guards)-1), receiver)
	}
}

// ask reads all that is needed, or says that it cannot.
func (c *alertmanagerCheck) ask(ctx context.Context, am *alerting.Alertmanager) bool {
	status, err := am.Status(ctx)
	if err == nil {
		c.silences, err = am.Silences(ctx)
	}
	if err == nil {
		c.firing, err = am.Firing(ctx, alerting.Filter{Suppressed: true})
	}
	if err != nil {
		c.unknown("alertmanager", "", "reach it from here, such as by kubectl port-forward, and name it with --alertmanager URL", "%v", err)
		return false
	}
	c.version, c.routing = status.Version, status.Routing
	if c.config.Web.ConfigFile != "" {
		c.needs, _ = alerting.ReadWebNeeds(c.config.Web.ConfigFile) // it is where guardian runs, and need not be here
	}
	return true
}

// findOwn looks for guardian's heartbeat among what fires, and learns from it what
// Prometheus adds to each alert.
func (c *alertmanagerCheck) findOwn(heartbeat map[string]string) {
	var foreign map[string]string
	for _, a := range c.firing {
		if !includes(a.Labels, heartbeat) {
			continue
		}
		added := maps.Clone(a.Labels)
		maps.DeleteFunc(added, func(name, _ string) bool { _, known := heartbeat[name]; return known })
		if includes(a.Labels, c.config.Own) {
			c.more = added
			return
		}
		foreign = added
	}
	switch {
	case foreign != nil:
		c.fail("own", "", "have own name what external_labels of Prometheus add, or add them there", "own: guardian takes alerts with %s alone, and its heartbeat in Alertmanager has %s", labels.Set(c.config.Own), labels.Set(foreign))
	default:
		c.fail("heartbeat", "", "have Prometheus load guardian's rules (rules.labels) and send to this Alertmanager (alerting.alertmanagers; spec.alerting of prometheus-operator's Prometheus)",
			"Alertmanager: %s does not fire there: Prometheus does not evaluate guardian's rules, or sends its alerts elsewhere", rules.AlertHeartbeat)
	}
	c.more = maps.Clone(c.config.Own)
}

func includes(all, some map[string]string) bool {
	for name, value := range some {
		if all[name] != value {
			return false
		}
	}
	return true
}

// checkVersion compares with what the printed routes need.
func (c *alertmanagerCheck) checkVersion() {
	version, ok := majorMinor(c.version)
	switch {
	case !ok:
		c.note("alertmanager", "", "", "Alertmanager: its version %q is not known to be new enough", c.version)
	case slices.Compare(version[:], leastAlertmanager[:]) < 0:
		c.fail("alertmanager", "", "upgrade it to 0.28 or newer", "Alertmanager: version %s: guardian's route needs %d.%d, for route.matchers", c.version, leastAlertmanager[0], leastAlertmanager[1])
	case slices.Compare(version[:], leastAlertmanagerTimeout[:]) < 0 && !c.hasReceiver():
		c.fail("alertmanager", "", "upgrade it to 0.28 or newer, or take the line `timeout` out of what `"+c.app.name+" alertmanager` prints",
			"Alertmanager: version %s refuses the key timeout of guardian's receiver, which needs %d.%d, and has not loaded the receiver", c.version, leastAlertmanagerTimeout[0], leastAlertmanagerTimeout[1])
	default:
		c.ok("alertmanager", "", "Alertmanager: version %s", c.version)
	}
}

func majorMinor(version string) (out [2]int, ok bool) {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		return out, false
	}
	var errs [2]error
	out[0], errs[0] = strconv.Atoi(parts[0])
	out[1], errs[1] = strconv.Atoi(parts[1])
	return out, errors.Join(errs[:]...) == nil
}

func (c *alertmanagerCheck) hasReceiver() bool {
	return slices.ContainsFunc(c.routing.Receivers(), func(r alerting.Receiver) bool { return c.named(r.Name) })
}

// named says whether a receiver has the name that guardian prints, or the one that
// prometheus-operator makes of it: namespace/object/name.
func (c *alertmanagerCheck) named(receiver string) bool {
	name := rules.AlertmanagerOptions{Namespace: c.config.Namespace, Own: c.config.Own}.Receiver()
	return receiver == name || strings.HasPrefix(receiver, c.config.Namespace+"/") && strings.HasSuffix(receiver, "/"+name)
}

// calls says whether a receiver calls guardian. Alertmanager does not show the
// URLs of webhooks, so that its name has to tell, or that the heartbeat takes the
// same way and arrives.
func (c *alertmanagerCheck) calls(receiver alerting.Receiver) bool {
	if len(receiver.Webhooks) == 0 {
		return false
	}
	return c.named(receiver.Name) || c.heard && c.ways[receiver.Name]
}

// lateness orders the routes by which one alert reaches guardian: the soonest counts.
func lateness(r alerting.Route) time.Duration {
	if r.GroupByAll {
		return r.GroupWait
	}
	return r.GroupWait + r.GroupInterval
}

// follow are the routes of an alert that lead to a receiver which calls guardian, the
// soonest first.
func (c *alertmanagerCheck) follow(alert map[string]string) (ours, others []alerting.Route) {
	for _, route := range c.routing.Routes(alert) {
		if receiver, ok := c.routing.Receiver(route.Receiver); ok && c.calls(receiver) {
			ours = append(ours, route)
		} else {
			others = append(others, route)
		}
	}
	slices.SortStableFunc(ours, func(a, b alerting.Route) int { return cmp.Compare(lateness(a), lateness(b)) })
	return ours, others
}

// asSent is an alert with what Prometheus adds to it.
func (c *alertmanagerCheck) asSent(alert map[string]string) map[string]string {
	out := maps.Clone(c.more)
	if out == nil {
		out = map[string]string{}
	}
	maps.Copy(out, alert)
	return out
}

// places is a route in words.
func (c *alertmanagerCheck) places(alert map[string]string) string {
	return "alert " + alert["alertname"]
}

const mendRoute = "put the routes that `guardian alertmanager -f …` prints first under route.routes, or have Alertmanager select the chart's AlertmanagerConfigs"

// checkHeartbeat follows the heartbeat, whose receivers are guardian's where it
// arrives.
func (c *alertmanagerCheck) checkHeartbeat(heartbeat map[string]string) {
	alert := c.asSent(heartbeat)
	named := false
	for _, route := range c.routing.Routes(alert) {
		if receiver, ok := c.routing.Receiver(route.Receiver); ok && len(receiver.Webhooks) > 0 {
			c.ways[route.Receiver] = true
			named = named || c.named(receiver.Name)
		}
	}
	if named { // then the others are people's
		clear(c.ways)
	}
	ours, others := c.follow(alert)
	if len(ours) == 0 {
		c.lost(alert, others)
		return
	}
	every := ours[0].RepeatInterval + ours[0].GroupInterval
	if most := c.config.Heartbeat.MaxAge; every > most {
		c.fail("route", c.places(alert), "repeat_interval: 1m and group_interval: 10s in its route, or a longer heartbeat.maxAge",
			"Alertmanager: receiver %s gets it every %s (repeat_interval %s, group_interval %s), heartbeat.maxAge is %s", ours[0].Receiver, every, ours[0].RepeatInterval, ours[0].GroupInterval, most)
	}
	c.checkKept(alert, ours[0])
}

// lost says where an alert goes that guardian has to receive.
func (c *alertmanagerCheck) lost(alert map[string]string, others []alerting.Route) {
	var to []string
	hidden := false
	for _, route := range others {
		to = append(to, fmt.Sprintf("receiver %s by %s", route.Receiver, routeName(route)))
		receiver, _ := c.routing.Receiver(route.Receiver)
		hidden = hidden || len(receiver.Webhooks) > 0
	}
	slices.Sort(to)
	text := strings.Join(slices.Compact(to), ", ")
	if hidden {
		c.unknown("route", c.places(alert), mendRoute+"; a receiver of another name is known by its heartbeats: --wait 3m",
			"Alertmanager: it goes to %s, whose webhook may be guardian's: Alertmanager does not show its URL, and no heartbeat has come by it", text)
		return
	}
	c.fail("route", c.places(alert), mendRoute, "Alertmanager: it goes to %s, and not to guardian", text)
}

func routeName(r alerting.Route) string {
	if r.Matchers == "" {
		return "the root route"
	}
	return "route " + r.Matchers
}

// checkGuard follows the alerts by which one guard's rules ask for a rollback.
// What is found of several of them is said once.
func (c *alertmanagerCheck) checkGuard(alerts []map[string]string) {
	each := *c
	each.preflight = &preflight{app: c.app, config: c.config, guard: c.guard}
	receiver := ""
	for _, one := range alerts {
		alert := c.asSent(one)
		ours, others := c.follow(alert)
		if len(ours) == 0 {
			each.lost(alert, others)
			continue
		}
		receiver = ours[0].Receiver
		each.checkRoute(alert, ours[0])
		each.checkKept(alert, ours[0])
	}
	c.addAll(together(each.findings))
	if each.count(levelFail)+each.count(levelUnknown) == 0 && receiver != "" {
		c.well[receiver] = append(c.well[receiver], "guard "+c.guard)
	}
}

// checkMatchers follows an alert that alerts.matchers select, where an example of
// one can be told from them.
func (c *alertmanagerCheck) checkMatchers(guard string) {
	g, _ := c.config.Guard(guard)
	for _, m := range g.Alerts.Matchers {
		if m.Parsed == nil || m.Action == string(decision.ActionNone) {
			continue
		}
		example, ok := m.Parsed.Example()
		if !ok {
			c.note("route", "alerts "+m.Match, "", "Alertmanager: whether they reach guardian is not looked at: no example can be told from the matchers")
			continue
		}
		alert := c.asSent(example)
		if ours, others := c.follow(alert); len(ours) == 0 {
			c.lost(alert, others)
		} else {
			c.checkKept(alert, ours[0])
		}
	}
}

// checkRoute looks at how soon a route hands an alert on, and at what its receiver
// shows.
func (c *alertmanagerCheck) checkRoute(alert map[string]string, route alerting.Route) {
	where := fmt.Sprintf("Alertmanager: %s to receiver %s", routeName(route), route.Receiver)
	if !route.GroupByAll {
		c.fail("grouping", c.places(alert), "group_by: ['...'] in that route", "%s groups alerts by %v: a second one of a group waits for group_interval %s", where, route.GroupBy, route.GroupInterval)
	}
	if route.GroupWait > 0 {
		c.fail("grouping", c.places(alert), "group_wait: 0s in that route", "%s waits for group_wait %s: a rollback is late by it", where, route.GroupWait)
	}
	if route.RepeatInterval > slowestRepeat {
		c.note("grouping", c.places(alert), "repeat_interval: 1m in that route", "%s has repeat_interval %s: a guardian that was away hears so late of an alert that goes on", where, route.RepeatInterval)
	}
	receiver, _ := c.routing.Receiver(route.Receiver)
	for _, hook := range receiver.Webhooks {
		c.checkWebhook(alert, receiver.Name, hook)
	}
}

func (c *alertmanagerCheck) checkWebhook(alert map[string]string, receiver string, hook alerting.ReceiverWebhook) {
	where := "Alertmanager: receiver " + receiver
	lacks := func(needed, has bool, what, fix string) {
		if needed && !has {
			c.fail("token", c.places(alert), fix, "%s calls without %s: guardian answers 401", where, what)
		}
	}
	lacks(c.config.Webhook.TokenFile != "", hook.Bearer, "a bearer token", "http_config.authorization in the receiver: `guardian alertmanager -f … --token-file FILE` prints it")
	lacks(c.needs.BasicAuth, hook.Basic, "a user and password", "http_config.basic_auth in the receiver: `guardian alertmanager -f … --username NAME --password-file FILE` prints it")
	lacks(c.needs.Certificate, hook.Certificate, "a client certificate", "http_config.tls_config in the receiver: `guardian alertmanager -f … --cert-file FILE --key-file FILE` prints it")
	if hook.MaxAlerts > 0 {
		c.fail("webhook", c.places(alert), "max_alerts: 0 in the receiver", "%s leaves out alerts beyond max_alerts %d", where, hook.MaxAlerts)
	}
	if !hook.SendResolved {
		c.note("webhook", c.places(alert), "send_resolved: true in the receiver", "%s does not tell of the end of an alert: guardian lists what fires, and goes forward later than it could", where)
	}
}

// checkKept looks for what keeps an alert back although its route is right.
func (c *alertmanagerCheck) checkKept(alert map[string]string, route alerting.Route) {
	if names := route.Intervals(); len(names) > 0 {
		say, when := c.note, "at times"
		if c.routing.Muted(route, time.Now()) {
			say, when = c.fail, "now"
		}
		say("muted", c.places(alert), "take mute_time_intervals and active_time_intervals off that route", "Alertmanager: a time interval of its route (%s) keeps it back %s", strings.Join(names, ", "), when)
	}
	for _, s := range c.silences {
		if s.Matchers.Matches(alert) {
			c.fail("silenced", c.places(alert), "amtool silence expire "+s.ID, "Alertmanager: silence %s of %s keeps it back until %s: %s", s.ID, s.By, s.Ends.Format(time.RFC3339), s.Comment)
		}
	}
	for _, rule := range c.routing.Inhibiting(alert) {
		i := slices.IndexFunc(c.firing, func(a alerting.Alert) bool { return !a.Suppressed && rule.Inhibits(a.Labels, alert) })
		fix := "have the rule's target_matchers leave out guardian=\"true\""
		if i >= 0 {
			c.fail("inhibited", c.places(alert), fix, "Alertmanager: it is inhibited while %s fires, which it does: rule %s", c.firing[i].Name(), rule)
		} else {
			c.note("inhibited", c.places(alert), fix, "Alertmanager: it would be inhibited while an alert like its source fires: rule %s", rule)
		}
	}
}

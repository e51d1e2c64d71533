package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/canary-guardian/guardian/alerting"
	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/rules"
)

// followed is what check says of an alertmanager.yml, whose routes stand under the
// root's.
func followed(t *testing.T, heard bool, routes string) string {
	t.Helper()
	const hook = `webhook_configs: [{url: "<secret>", http_config: {authorization: {credentials: "<secret>"}}}]`
	routing, err := alerting.ParseRouting("route: {receiver: people, routes: [" + routes + "]}\nreceivers:\n- {name: people, " + hook + "}\n- {name: guardian-shop, " + hook + "}\n- {name: shop/guardian-alerts/guardian-shop, " + hook + "}\n- {name: mail}\n")
	if err != nil {
		t.Fatal(err)
	}
	p := &preflight{app: &app{name: "guardian"}, config: config.Config{Namespace: "shop", Heartbeat: config.Default().Heartbeat, Webhook: config.Webhook{TokenFile: "/token"}}}
	c := &alertmanagerCheck{preflight: p, routing: routing, version: "0.34.2", heard: heard, ways: map[string]bool{}, well: map[string][]string{}}
	o := rules.Options{Namespace: "shop"}
	c.checkVersion()
	c.checkHeartbeat(o.HeartbeatAlert())
	p.guard = "orders"
	c.checkGuard(o.ActingAlerts(rules.Guard{Name: "orders", Namespace: "shop", Signals: rules.Signals{Traffic: &rules.Traffic{ShareTolerance: 0.5}}}))
	var said []string
	for _, f := range p.findings {
		said = append(said, fmt.Sprint(f))
	}
	return strings.Join(append(said, fmt.Sprint(c.well)), "\n")
}

func TestARouteIsGuardiansByItsNameOrItsHeartbeats(t *testing.T) {
	const (
		fast     = `group_by: ['...'], group_wait: 0s, group_interval: 10s, repeat_interval: 1m`
		beats    = `{receiver: guardian-shop, matchers: ['alertname="GuardianHeartbeat"'], ` + fast + `}`
		operator = `{receiver: shop/guardian-alerts/guardian-shop, continue: true, matchers: ['namespace="shop"'], ` + fast + `}`
		slow     = `{receiver: guardian-shop, continue: true, matchers: ['severity="critical"']}`
		well     = "map[guardian-shop:[guard orders]]"
	)
	for name, tc := range map[string]struct {
		heard      bool
		routes     string
		says, lies string
	}{
		"by its name":                      {false, beats + `, {receiver: guardian-shop, ` + fast + `}`, well, "FAIL"},
		"by the operator's name":           {false, operator, "map[shop/guardian-alerts/guardian-shop:[guard orders]]", "FAIL"},
		"nobody's":                         {true, beats + `, {receiver: mail}`, "it goes to receiver mail by route {}, and not to guardian", well},
		"by its heartbeats":                {true, `{receiver: people, ` + fast + `}`, "map[people:[guard orders]]", "FAIL"},
		"perhaps":                          {false, `{receiver: people, ` + fast + `}`, "whose webhook may be guardian's", "FAIL"},
		"people's, beside guardian's own":  {true, `{receiver: guardian-shop, continue: true, matchers: ['alertname="GuardianHeartbeat"'], ` + fast + `}, {receiver: people, ` + fast + `}`, "whose webhook may be guardian's", "people:["},
		"twice, and once without grouping": {false, beats + `, ` + slow + `, {receiver: guardian-shop, ` + fast + `}`, well, "FAIL"},
		"grouped":                          {false, beats + `, ` + slow, "groups alerts by []: a second one of a group waits for group_interval 5m0s", well},
	} {
		t.Run(name, func(t *testing.T) {
			said := followed(t, tc.heard, tc.routes)
			if !strings.Contains(said, tc.says) || strings.Contains(said, tc.lies) {
				t.Errorf("want %q and not %q:\n%s", tc.says, tc.lies, said)
			}
		})
	}
}

package main

import (
	"context"
	"strings"
	"time"

	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/rules"
)

// heartbeatTick is how often the replicas' Leases are looked at while a heartbeat
// is waited for.
const heartbeatTick = 2 * time.Second

// chain is what the replicas' Leases tell of the way that alerts take.
type chain struct {
	records.Liveness
	why    string // why no guardian seems to live
	waited time.Duration
}

// throughAlertmanager says that a heartbeat has come that way lately.
func (l *chain) throughAlertmanager(c config.Config) bool {
	return l.Heartbeat.ByAlertmanager && l.Heartbeat.AgeByAlertmanager <= c.Heartbeat.MaxAge
}

// complete says that all has come that is waited for.
func (l *chain) complete(c config.Config) bool {
	if l.why != "" || !l.Heartbeat.Heard || l.Heartbeat.Age > c.Heartbeat.MaxAge {
		return false
	}
	return c.Alertmanager.URL == "" || l.throughAlertmanager(c)
}

// awaitHeartbeat looks at the replicas' Leases, and again until a heartbeat has
// come all the way or wait is over.
func (c *cluster) awaitHeartbeat(ctx context.Context, settings config.Config, wait time.Duration) (*chain, error) {
	l := &chain{waited: wait}
	give := time.Now().Add(wait)
	for {
		var err error
		if l.why, err = c.records().FindReplica(ctx, &l.Liveness); err != nil {
			return l, err
		}
		if l.complete(settings) || !time.Now().Before(give) {
			return l, nil
		}
		if err := sleep(ctx, heartbeatTick); err != nil {
			return l, err
		}
	}
}

// checkChain says whether guardian lives and hears its heartbeat, and by which
// way. The answer is whether one came through Alertmanager.
func (c *cluster) checkChain(p *preflight, l *chain, err error) bool {
	settings := p.config
	within := ""
	if l.waited > 0 {
		within = " within " + l.waited.String()
	}
	logs := "kubectl -n " + c.namespace + " logs deploy/guardian, and describe its pods"
	switch {
	case err != nil:
		p.unknown("guardian", "", "", "guardian: %v", err)
		return false
	case l.why != "":
		p.fail("guardian", "", "start it; "+logs, "guardian: %s", l.why)
		return false
	}
	p.ok("guardian", "", "guardian: alive")
	route := "put the route in place that `" + p.app.name + " alertmanager -f …` prints, or have Alertmanager select the chart's AlertmanagerConfigs; right after a start, --wait 3m"
	switch beat := l.Heartbeat; {
	case !beat.Heard:
		p.fail("heartbeat", "", route, "heartbeat: none has reached guardian%s: %s fires always, and its way is every alert's", within, rules.AlertHeartbeat)
	case beat.Age > settings.Heartbeat.MaxAge:
		p.fail("heartbeat", "", route, "heartbeat: the newest is %s old, heartbeat.maxAge is %s", beat.Age.Round(time.Second), settings.Heartbeat.MaxAge)
	case l.throughAlertmanager(settings):
		p.ok("heartbeat", "", "heartbeat: %s ago, through Prometheus and Alertmanager", beat.AgeByAlertmanager.Round(time.Second))
		return true
	case settings.Alertmanager.URL != "":
		p.fail("heartbeat", "", route+`; where alerts are pushed alone, alertmanager.url: ""`,
			"heartbeat: %s ago straight from Prometheus, but none through Alertmanager%s", beat.Age.Round(time.Second), within)
	default:
		p.ok("heartbeat", "", "heartbeat: %s ago, straight from Prometheus", beat.Age.Round(time.Second))
	}
	return false
}

// proofs are the names that people know the proofs by.
var proofs = map[string]string{"bearer": "bearer token", "basic": "user and password", "certificate": "client certificate"}

// checkUnauthorized tells of calls that guardian has refused: alerts were in them.
// While a heartbeat comes through Alertmanager, they were others' or are over.
func checkUnauthorized(p *preflight, u unauthorized, heard bool) {
	if len(u.proofs) == 0 {
		return
	}
	say := p.fail
	if heard {
		say = p.note
	}
	var names []string
	for _, proof := range u.proofs {
		names = append(names, proofs[proof])
	}
	say("token", "", "give Alertmanager the token that guardian has (kubectl -n "+p.config.Namespace+" get secret guardian-token; the receiver's http_config.authorization), or find who else calls: guardian's log has the address",
		"webhook: guardian has refused calls within 15 minutes: no or a wrong %s", strings.Join(names, ", "))
}

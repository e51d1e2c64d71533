package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/remediate/decision"
)

// checkOptions is what `guardian check` looks at besides the configuration.
type checkOptions struct {
	serviceAccount           string
	prometheus, alertmanager string
	output                   string
	wait                     time.Duration
}

func newCheckCommand(a *app) *cobra.Command {
	var flags clusterFlags
	var o checkOptions
	var file string
	cmd := &cobra.Command{
		Use:   "check -f guardian.yaml",
		Short: "Preflight: would a rollback work?",
		Long: `Look at everything that a rollback needs: the configuration, the rights of
guardian's ServiceAccount and, by dry runs, its writes; each guard's VirtualService,
DestinationRule and ready endpoints; its series and rules in Prometheus; the route
that Alertmanager has loaded, and what would keep an alert back; what
prometheus-operator selects; and whether a heartbeat has come all the way from
Prometheus through Alertmanager to guardian. Changes nothing. Each finding names
the object, what is wrong with it, and what mends it.

Writes are tried as guardian's ServiceAccount where you are it or may impersonate it.

Exit codes: 0 all good; 1 something is wrong; 2 something could not be looked at.`,
		Example: `  guardian check -f guardian.yaml --prometheus http://localhost:9090 --alertmanager http://localhost:9093
  kubectl exec deploy/guardian -- /guardian check -f /etc/guardian/config/config.yaml --wait 3m`,
		Args: wantArgs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := jsonOr("text", o.output); err != nil {
				return orUnknown(err)
			}
			if o.wait < 0 {
				return orUnknown(fmt.Errorf("--wait %s: want 0s or more", o.wait))
			}
			c, err := configFlags{file: file, namespace: flags.namespace}.load(true)
			if err != nil {
				return err
			}
			if o.prometheus != "" {
				c.Prometheus.URL = o.prometheus
			}
			if o.alertmanager != "" && c.Alertmanager.URL != "" { // empty: alerts are pushed past it
				c.Alertmanager.URL = o.alertmanager
			}
			flags.namespace = c.Namespace
			cl, err := a.reach(flags)
			if err != nil {
				return err
			}
			return a.check(cmd.Context(), cl, c, o)
		},
	}
	flags.add(cmd.Flags())
	f := cmd.Flags()
	f.StringVarP(&file, "config", "f", "", "guardian's configuration file")
	f.StringVar(&o.serviceAccount, "service-account", "guardian", "guardian's ServiceAccount, whose rights are looked at")
	f.StringVar(&o.prometheus, "prometheus", "", "URL of Prometheus as this machine reaches it (default: the configured one)")
	f.StringVar(&o.alertmanager, "alertmanager", "", "URL of Alertmanager as this machine reaches it (default: the configured one)")
	f.StringVarP(&o.output, "output", "o", "", "json instead of text")
	durationVar(f, &o.wait, "wait", 0, "wait for a heartbeat for at most so long, such as 3m after an installation")
	return cmd
}

// check looks at everything. Where a heartbeat is waited for, that comes first:
// with it the rules are loaded too.
func (a *app) check(ctx context.Context, cl *cluster, c config.Config, o checkOptions) error {
	p := &preflight{app: a, config: c, weights: map[string]int{}}
	if o.output == "" {
		p.show = func(f finding) { fmt.Fprintln(a.out, f) }
	}
	life, err := cl.awaitHeartbeat(ctx, c, o.wait)
	p.ok("configuration", "", "configuration: %d guards", len(c.Guards))
	served := cl.checkIstio(p)
	acc := cl.accountOf(ctx, p, o.serviceAccount)
	acc.checkRights(ctx, p)
	sides := map[string]decision.Sides{}
	for _, g := range c.Guards {
		if !served {
			break
		}
		p.guard = g.Name
		if found, ok := cl.checkGuard(ctx, p, g); ok {
			sides[g.Name] = found
		}
		acc.tryRollback(ctx, p, g)
	}
	p.guard = ""
	acc.tryRest(ctx, p, sides)
	if served {
		cl.checkPolicies(ctx, p)
	}
	cl.checkOperator(ctx, p, sides)
	refused := checkPrometheus(ctx, p, sides)
	heard := cl.checkChain(p, life, err)
	checkUnauthorized(p, refused, heard)
	checkAlertmanager(ctx, p, sides, heard)
	if o.output == "json" {
		if err := p.writeJSON(a.out); err != nil {
			return err
		}
	}
	return p.verdict()
}

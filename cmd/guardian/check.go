package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/canary-guardian/guardian/alerting"
	"github.com/canary-guardian/guardian/remediate"
)

// checkOptions is what `guardian check` looks at besides the configuration.
type checkOptions struct {
	serviceAccount string
	prometheus     string
}

func newCheckCommand(a *app) *cobra.Command {
	var flags clusterFlags
	var o checkOptions
	var file string
	cmd := &cobra.Command{
		Use:   "check -f guardian.yaml",
		Short: "Preflight: would a rollback work?",
		Long: `Look at everything that a rollback needs: the configuration, the rights of
guardian's ServiceAccount, each guard's VirtualService, DestinationRule and ready
endpoints, the series and rules in Prometheus, and whether a heartbeat has come all
the way from Prometheus through Alertmanager to guardian. Changes nothing.

Exit codes: 0 all good; 1 something is wrong; 2 something could not be looked at.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := configFlags{file: file, namespace: flags.namespace}.load(true)
			if err != nil {
				return err
			}
			if o.prometheus != "" {
				c.Prometheus.URL = o.prometheus
			}
			flags.namespace = c.Namespace
			cl, err := a.connect(flags)
			if err != nil {
				return err
			}
			return a.check(cmd.Context(), cl, c, o)
		},
	}
	flags.add(cmd.Flags())
	cmd.Flags().StringVarP(&file, "config", "f", "", "guardian's configuration file")
	cmd.Flags().StringVar(&o.serviceAccount, "service-account", "guardian", "guardian's ServiceAccount, whose rights are looked at")
	cmd.Flags().StringVar(&o.prometheus, "prometheus", "", "URL of Prometheus as this machine reaches it (default: the configured one)")
	return cmd
}

// preflight prints findings and counts those that are not good.
type preflight struct {
	app           *app
	wrong, unseen int
}

func (p *preflight) ok(format string, args ...any) {
	fmt.Fprintf(p.app.out, "ok    "+format+"\n", args...)
}

func (p *preflight) fail(format string, args ...any) {
	p.wrong++
	fmt.Fprintf(p.app.out, "FAIL  "+format+"\n", args...)
}

// note is for what nobody need mend, and everybody should know.
func (p *preflight) note(format string, args ...any) {
	fmt.Fprintf(p.app.out, "note  "+format+"\n", args...)
}

func (p *preflight) unknown(format string, args ...any) {
	p.unseen++
	fmt.Fprintf(p.app.out, "?     "+format+"\n", args...)
}

func (a *app) check(ctx context.Context, cl *cluster, c Config, o checkOptions) error {
	p := &preflight{app: a}
	p.ok("configuration: %d guards", len(c.Guards))
	cl.checkIstio(p)
	cl.checkRights(ctx, p, c, o.serviceAccount)
	for _, g := range c.Guards {
		cl.checkGuard(ctx, p, c, g)
	}
	cl.checkPolicies(ctx, p)
	checkPrometheus(ctx, p, c)
	cl.checkChain(ctx, p, c)
	switch {
	case p.wrong > 0:
		return fmt.Errorf("%d wrong, %d could not be looked at", p.wrong, p.unseen)
	case p.unseen > 0:
		return couldNotTell("%d could not be looked at", p.unseen)
	}
	return nil
}

// right is what guardian's ServiceAccount must be allowed.
type right struct {
	group, resource string
	verbs           []string
}

// objects are those of the resource that the verb is needed on: a Role may be
// limited to them. Empty: all.
func (r right) objects(c Config, verb string) []string {
	var names []string
	switch {
	case r.resource == "prometheusrules":
		names = append(names, c.Rules.Name)
	case r.resource == "podmonitors":
		names = append(names, c.Rules.fastLaneName())
	case r.resource == "configmaps" && (verb == "get" || verb == "patch"):
		for _, g := range c.Guards {
			names = append(names, remediate.RecordName(g.Name))
		}
	case r.resource == "virtualservices" && verb == "patch":
		for _, g := range c.Guards {
			if !g.observes() {
				names = append(names, g.VirtualServices...)
			}
		}
		slices.Sort(names)
		if len(names) == 0 && len(c.Guards) > 0 {
			return nil // all observe
		}
	}
	if len(names) == 0 {
		return []string{""}
	}
	return slices.Compact(names)
}

// rights is everything that the service does in its namespace.
func rights() []right {
	var out []right
	for _, rule := range remediate.RBAC() {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				out = append(out, right{group, resource, rule.Verbs})
			}
		}
	}
	return out
}

func (c *cluster) checkRights(ctx context.Context, p *preflight, config Config, serviceAccount string) {
	user := "system:serviceaccount:" + c.namespace + ":" + serviceAccount
	all := rights()
	namespaces := make([]string, len(all))
	for i := range all {
		namespaces[i] = c.namespace
	}
	if config.Rules.Enabled {
		all = append(all, right{"monitoring.coreos.com", "prometheusrules", []string{"list", "watch", "create", "patch", "delete"}})
		namespaces = append(namespaces, config.Rules.Namespace)
		if config.Rules.FastLane.Enabled {
			all = append(all, right{"monitoring.coreos.com", "podmonitors", []string{"list", "watch", "create", "patch", "delete"}})
			namespaces = append(namespaces, config.Rules.Namespace)
		}
	}
	missing := 0
	for i, r := range all {
		for _, verb := range r.verbs {
			for _, name := range r.objects(config, verb) {
				allowed, err := c.mayDo(ctx, user, &authorizationv1.ResourceAttributes{Namespace: namespaces[i], Verb: verb, Group: r.group, Resource: r.resource, Name: name})
				if err != nil {
					p.unknown("rights of %s: %v", user, err)
					return
				}
				if !allowed {
					missing++
					p.fail("rights: %s may not %s %s in namespace %s", user, verb, strings.TrimSpace(r.resource+" "+name), namespaces[i])
				}
			}
		}
	}
	if missing == 0 {
		p.ok("rights of %s", user)
	}
}

// checkIstio says in which version Istio's resources are read and written.
func (c *cluster) checkIstio(p *preflight) {
	services, rules, err := remediate.ServedIstio(c.kube.Discovery())
	_, missing := errors.AsType[*remediate.NotServedError](err)
	switch {
	case missing:
		p.fail("Istio: %v", err)
	case err != nil:
		p.unknown("Istio: %v", err)
	case services != rules:
		p.ok("Istio: %s/%s for VirtualServices, %s for DestinationRules", remediate.IstioGroup, services, rules)
	default:
		p.ok("Istio: %s/%s", remediate.IstioGroup, services)
	}
}

// mayDo asks the API server whether a ServiceAccount has a right.
func (c *cluster) mayDo(ctx context.Context, user string, what *authorizationv1.ResourceAttributes) (bool, error) {
	review := &authorizationv1.LocalSubjectAccessReview{
		ObjectMeta: metav1.ObjectMeta{Namespace: what.Namespace},
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: user, Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + c.namespace, "system:authenticated"}, ResourceAttributes: what,
		},
	}
	answer, err := c.kube.AuthorizationV1().LocalSubjectAccessReviews(what.Namespace).Create(ctx, review, metav1.CreateOptions{})
	return err == nil && answer.Status.Allowed, err
}

// checkGuard looks at what a rollback of g would move, and to where.
func (c *cluster) checkGuard(ctx context.Context, p *preflight, config Config, g GuardConfig) {
	in, sides, err := c.looker(config).Look(ctx, config.remediateGuard(g, 0))
	if err != nil {
		p.unknown("guard %s: %v", g.Name, err)
		return
	}
	switch {
	case in.Absent != "":
		p.fail("guard %s: %s", g.Name, in.Absent)
	case in.Unsafe != "":
		p.fail("guard %s: cannot be rolled back: %s", g.Name, in.Unsafe)
	default:
		p.ok("guard %s: VirtualService %s: canary at %d%%", g.Name, strings.Join(g.VirtualServices, ", "), in.Traffic.Weight)
	}
	if g.observes() {
		p.note("guard %s: mode observe: a rollback is told, and not done", g.Name)
	}
	c.checkUnguarded(ctx, p, config, g)
	c.checkWays(ctx, p, config, g)
	switch floor := g.Rollback.MinReadyStable; {
	case in.Stable.Missing != "":
		p.fail("guard %s: stable %s: %s", g.Name, g.Stable.Ref, in.Stable.Missing)
	case in.Stable.Ready < floor:
		p.fail("guard %s: stable %s has %d ready endpoints, rollback.minReadyStable is %d", g.Name, g.Stable.Ref, in.Stable.Ready, floor)
	default:
		p.ok("guard %s: stable %s: %d ready endpoints", g.Name, g.Stable.Ref, in.Stable.Ready)
	}
	if in.Stable.Overlap != "" {
		p.fail("guard %s: DestinationRule %s: %s; give each subset a label of its own", g.Name, g.DestinationRule, in.Stable.Overlap)
	}
	if len(in.Canary.Untold) > 0 {
		p.fail("guard %s: canary %s: nothing tells the build of %s: a lock is then lifted by hand alone", g.Name, g.Canary.Ref, strings.Join(in.Canary.Untold, ", "))
	}
	if len(in.Canary.Unowned) > 0 {
		p.note("guard %s: canary %s: %s run without a workload and belong to no build", g.Name, g.Canary.Ref, strings.Join(in.Canary.Unowned, ", "))
	}
	if in.Canary.Build == "" {
		p.unknown("guard %s: canary %s: no Deployment, Rollout, StatefulSet or DaemonSet with pods found yet", g.Name, g.Canary.Ref)
		return
	}
	p.ok("guard %s: canary %s: build %s of %s, %d ready", g.Name, g.Canary.Ref, short(in.Canary.Build), strings.Join(sides.Canary.Workloads, ", "), in.Canary.Ready)
}

// checkUnguarded looks for other ways to the canary: a rollback leaves them open.
func (c *cluster) checkUnguarded(ctx context.Context, p *preflight, config Config, g GuardConfig) {
	switch found, err := c.looker(config).Unguarded(ctx, config.remediateGuard(g, 0)); {
	case err != nil:
		p.unknown("guard %s: %v", g.Name, err)
	case len(found) > 0:
		p.fail("guard %s: not guarded, and lead to canary %s as well: %s; add them to virtualServices, or a rollback leaves the canary their traffic", g.Name, g.Canary.Ref, strings.Join(found, ", "))
	}
}

// checkWays names what leads to the canary's pods besides its own destination.
func (c *cluster) checkWays(ctx context.Context, p *preflight, config Config, g GuardConfig) {
	denied, open, err := c.looker(config).Ways(ctx, config.remediateGuard(g, 0))
	if err != nil {
		p.unknown("guard %s: what leads to the canary's pods: %v", g.Name, err)
		return
	}
	if len(denied) > 0 {
		p.note("guard %s: canary %s: %s of DestinationRule %s leads to its pods too, and is denied while a lock stands", g.Name, g.Canary.Ref, strings.Join(denied, ", "), g.DestinationRule)
	}
	if len(open) > 0 {
		p.note("guard %s: canary %s: %s leads to its pods too, and no lock holds what is sent there", g.Name, g.Canary.Ref, strings.Join(open, ", "))
	}
}

// checkPolicies says what the API server does about a canary that is locked. To
// go without the policies is a choice, and nothing wrong.
func (c *cluster) checkPolicies(ctx context.Context, p *preflight) {
	how, err := remediate.ProbeEnforcement(ctx, c.dynamic, c.namespace)
	switch {
	case err != nil:
		p.unknown("admission policies: a VirtualService with a lock could not be tried, as a dry run: %v", err)
	case how == remediate.EnforcedHold:
		p.ok("admission policies: in force; a locked canary is refused to others, and dry runs and GitOps tools are held")
	case how == remediate.EnforcedRefuse:
		p.ok("admission policies: in force without %s; a locked canary is refused to others, dry runs and GitOps tools included", remediate.PolicyHold)
	default:
		p.ok("admission policies: none in namespace %s; guardian reverts what others give a locked canary (%s admission prints them)", c.namespace, p.app.name)
	}
}

// checkPrometheus asks whether there is anything to judge by.
func checkPrometheus(ctx context.Context, p *preflight, c Config) {
	if c.Prometheus.URL == "" {
		p.unknown("Prometheus: prometheus.url is empty")
		return
	}
	prom, err := alerting.NewPrometheus(alerting.ClientOptions{URL: c.Prometheus.URL, HTTP: &c.Prometheus.HTTP, Timeout: c.Prometheus.Timeout})
	if err != nil {
		p.fail("Prometheus: %v", err)
		return
	}
	defer prom.Close()
	ask := func(query, good, bad string) bool {
		samples, err := prom.Query(ctx, query)
		switch {
		case err != nil:
			p.unknown("%v", err)
			return false
		case len(samples) == 0:
			p.fail("%s", bad)
		default:
			p.ok("%s", good)
		}
		return true
	}
	if !ask(fmt.Sprintf("count(istio_requests_total{destination_workload_namespace=%q})", c.Namespace),
		"series: istio_requests_total of namespace "+c.Namespace,
		"series: Prometheus has no istio_requests_total of namespace "+c.Namespace+": are the sidecars scraped?") {
		return
	}
	if c.Rules.FastLane.Enabled {
		ask(fmt.Sprintf("count(fastlane_istio_requests_total{destination_workload_namespace=%q})", c.Namespace),
			"series: the fast lane's of namespace "+c.Namespace,
			"series: none of the fast lane in namespace "+c.Namespace+": does prometheus-operator select the PodMonitor "+c.Rules.fastLaneName()+
				" (rules.labels), and do the pods have a port http-envoy-prom? The ordinary scrapes are judged instead")
	}
	for _, g := range c.Guards {
		ask(fmt.Sprintf(`count({__name__=~"guardian:.+:info", guardian_guard=%q, namespace=%q})`, g.Name, c.Namespace),
			"rules of guard "+g.Name+" are loaded",
			"rules of guard "+g.Name+" are not loaded: does Prometheus select the PrometheusRule (rules.labels)?")
	}
}

// checkChain asks for signs of life: of guardian, and of the way that alerts
// take to it.
func (c *cluster) checkChain(ctx context.Context, p *preflight, config Config) {
	var life pulse
	why, err := c.findAlive(ctx, &life)
	switch {
	case err != nil:
		p.unknown("%v", err)
		return
	case why != "":
		p.fail("guardian: %s", why)
		return
	}
	p.ok("guardian: alive")
	switch beat := life.beat; {
	case !beat.Heard:
		p.fail("heartbeat: none has reached guardian: is the Alertmanager route in place (%s alertmanager)?", p.app.name)
	case beat.Age > config.Heartbeat.MaxAge:
		p.fail("heartbeat: the newest is %s old, heartbeat.maxAge is %s", beat.Age.Round(time.Second), config.Heartbeat.MaxAge)
	case beat.ByAlertmanager && beat.AgeByAlertmanager <= config.Heartbeat.MaxAge:
		p.ok("heartbeat: %s ago, through Prometheus and Alertmanager", beat.AgeByAlertmanager.Round(time.Second))
	case config.Alertmanager.URL != "":
		p.fail("heartbeat: %s ago straight from Prometheus, but none through Alertmanager: is the route in place (%s alertmanager)? Where alerts are pushed alone, set alertmanager.url: \"\"",
			beat.Age.Round(time.Second), p.app.name)
	default:
		p.ok("heartbeat: %s ago, straight from Prometheus", beat.Age.Round(time.Second))
	}
}

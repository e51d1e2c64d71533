package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/remediate"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/rules/publish"
)

// account is guardian's ServiceAccount.
type account struct {
	name, user string
	own        *cluster // the user's connection
	as         *cluster // the account's own; nil: the user may not act as it
}

// accountOf finds out whether the user is guardian's ServiceAccount, as in its own
// pod, or may impersonate it.
func (c *cluster) accountOf(ctx context.Context, p *preflight, name string) *account {
	a := &account{name: name, user: "system:serviceaccount:" + c.namespace + ":" + name, own: c}
	if who, err := c.whoAmI(ctx); err == nil && who == a.user {
		a.as = c
		return a
	}
	if c.impersonate == nil {
		return a
	}
	as, err := c.impersonate(a.user)
	if err != nil {
		p.unknown("account", a.user, "", "act as it: %v", err)
		return a
	}
	_, err = as.mayI(ctx, &authorizationv1.ResourceAttributes{Namespace: c.namespace, Verb: "list", Resource: "configmaps"})
	switch {
	case err == nil:
		a.as = as
	case apierrors.IsForbidden(err):
		p.note("account", a.user, fmt.Sprintf("allow your user impersonate on serviceaccounts %s, or run it in guardian's own pod: kubectl -n %s exec deploy/%s -- /guardian check …", name, c.namespace, name),
			"its writes are not tried: your user may not impersonate it. Its rights are asked for instead, which admission policies and quotas are no part of")
	default:
		p.unknown("account", a.user, "", "act as it: %v", err)
	}
	return a
}

// right is what guardian's ServiceAccount must be allowed.
type right struct {
	group, resource string
	verbs           []string
	namespace       string // empty: the guards'
}

// objects are those of the resource that the verb is needed on: a Role may be
// limited to them. Empty: all.
func (r right) objects(c config.Config, verb string) []string {
	var names []string
	switch {
	case r.resource == "prometheusrules":
		names = append(names, c.Rules.Name)
	case r.resource == "podmonitors":
		names = append(names, c.Rules.FastLaneName())
	case r.resource == "configmaps" && (verb == "get" || verb == "patch"):
		for _, g := range c.Guards {
			names = append(names, records.Name(g.Name))
		}
	case r.resource == "virtualservices" && verb == "patch":
		for _, g := range c.Guards {
			if !g.Observes() {
				names = append(names, g.VirtualServices...)
			}
		}
		slices.Sort(names)
	}
	return slices.Compact(names)
}

// needless says of a verb that a guardian all of whose guards observe does without it.
func (r right) needless(c config.Config, verb string) bool {
	return r.resource == "virtualservices" && verb == "patch" && len(c.Guards) > 0 && !c.Enforces()
}

// rights is everything that the service does in its namespace.
func rights() []right {
	var out []right
	for _, rule := range remediate.RBAC() {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				out = append(out, right{group: group, resource: resource, verbs: rule.Verbs})
			}
		}
	}
	return out
}

// allRights has those that the rules need as well.
func allRights(c config.Config) []right {
	all := rights()
	verbs := []string{"list", "watch", "create", "patch", "delete"}
	if c.Rules.Enabled {
		all = append(all, right{"monitoring.coreos.com", "prometheusrules", verbs, c.Rules.Namespace})
		if c.Rules.FastLane.Enabled {
			all = append(all, right{"monitoring.coreos.com", "podmonitors", verbs, c.Rules.Namespace})
		}
	}
	for i := range all {
		if all[i].namespace == "" {
			all[i].namespace = c.Namespace
		}
	}
	return all
}

// checkRights asks for each right. One for all objects of a kind is asked for
// first: with it the names need not be.
func (a *account) checkRights(ctx context.Context, p *preflight) {
	var missing []missingRight
	has := false
	for _, r := range allRights(p.config) {
		for _, verb := range r.verbs {
			if r.needless(p.config, verb) {
				continue
			}
			objects := r.objects(p.config, verb)
			lacks, err := a.lacking(ctx, r, verb, objects)
			if err != nil {
				fix := "allow your user create on localsubjectaccessreviews in namespace " + r.namespace + ", or impersonate on serviceaccounts " + a.name
				p.unknown("rights", "", fix, "rights of %s: %v", a.user, err)
				return
			}
			has = has || len(lacks) < max(1, len(objects))
			for _, name := range lacks {
				missing = append(missing, missingRight{r, verb, name})
			}
		}
	}
	a.tellRights(p, missing, has)
}

// missingRight is a verb that an account may not do on an object, or on a kind (no name).
type missingRight struct {
	right
	verb, name string
}

// tellRights tells of what is missing, of one that has nothing at all in one line.
func (a *account) tellRights(p *preflight, missing []missingRight, has bool) {
	if len(missing) == 0 {
		p.ok("rights", "", "rights of %s", a.user)
		return
	}
	if !has {
		p.fail("rights", "", "install the chart with rbac.create: true, or bind a Role with the rules of its templates/rbac.yaml to ServiceAccount "+a.name,
			"rights: %s has none of the rights that guardian needs in namespace %s: it does not exist, or no Role is bound to it", a.user, p.config.Namespace)
		return
	}
	for _, m := range missing {
		p.fail("rights", "", "helm upgrade with rbac.create: true, or a Role for ServiceAccount "+a.name+" with verb "+m.verb+" on "+qualified(m.right)+
			"; kubectl auth can-i "+m.verb+" "+qualifiedName(m.right, m.name)+" -n "+m.namespace+" --as "+a.user,
			"rights: %s may not %s %s in namespace %s", a.user, m.verb, strings.TrimSpace(m.resource+" "+m.name), m.namespace)
	}
}

func qualified(r right) string { return strings.TrimSuffix(r.resource+"."+r.group, ".") }

func qualifiedName(r right, name string) string {
	if name == "" {
		return qualified(r)
	}
	return qualified(r) + "/" + name
}

// lacking are the objects on which the account lacks a right; "" is all.
func (a *account) lacking(ctx context.Context, r right, verb string, objects []string) ([]string, error) {
	may := func(name string) (bool, error) {
		what := &authorizationv1.ResourceAttributes{Namespace: r.namespace, Verb: verb, Group: r.group, Resource: r.resource, Name: name}
		if a.as != nil {
			return a.as.mayI(ctx, what)
		}
		return a.own.mayDo(ctx, a.user, what)
	}
	ok, err := may("")
	if ok || err != nil {
		return nil, err
	}
	if len(objects) == 0 {
		return []string{""}, nil
	}
	var lacks []string
	for _, name := range objects {
		if ok, err := may(name); err != nil {
			return nil, err
		} else if !ok {
			lacks = append(lacks, name)
		}
	}
	return lacks, nil
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

// mayI asks it of this connection's own user, which everybody may.
func (c *cluster) mayI(ctx context.Context, what *authorizationv1.ResourceAttributes) (bool, error) {
	review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: what}}
	answer, err := c.kube.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
	return err == nil && answer.Status.Allowed, err
}

// tryRollback tries what a rollback of one guard writes.
func (a *account) tryRollback(ctx context.Context, p *preflight, g config.Guard) {
	if a.as == nil {
		return
	}
	tried, err := a.as.previewer(p.config).TryRollback(ctx, p.config.DecisionGuard(g, 0), a.user)
	if err != nil {
		p.unknown("writes", "", "", "a rollback could not be tried as %s: %v", a.user, err)
		return
	}
	a.tell(p, tried, "a rollback's writes are taken, by dry runs: ")
}

// tryRest tries what is written whatever the guards do: Leases, Events, rules.
func (a *account) tryRest(ctx context.Context, p *preflight, sides map[string]decision.Sides) {
	if a.as == nil {
		return
	}
	a.tell(p, a.as.previewer(p.config).TryInstance(ctx, p.config.Namespace), "guardian's own writes are taken, by dry runs: ")
	if !p.config.Rules.Enabled || len(sides) == 0 {
		return
	}
	o, left := p.config.RulesOptions(sides)
	made, err := generateFitting(o, left)
	if err != nil {
		p.fail("rules", "", "", "rules cannot be made: %v", err)
		return
	}
	write := &publishing{config: p.config.Rules}
	options := publish.Options{Client: a.as.dynamic, Kind: publish.PrometheusRule, Set: p.config.Rules.Name, Namespace: p.config.Rules.Namespace, Log: slog.New(slog.DiscardHandler)}
	if write.rules, err = publish.New(options); err == nil {
		options.Kind = publish.PodMonitor
		write.monitor, err = publish.New(options)
	}
	if err == nil {
		err = write.want(made)
	}
	if err == nil {
		err = write.rules.DryRun(ctx)
	}
	if err == nil {
		err = write.monitor.DryRun(ctx)
	}
	switch {
	case apierrors.IsNotFound(err):
		p.fail("rules", "", "install prometheus-operator's CRDs, or set rules.enabled: false and load what `guardian rules -f …` prints",
			"rules: the API server serves no PrometheusRules: %v", err)
	case err != nil:
		p.fail("writes", "", howToMend(err), "rules: guardian may not write them, by a dry run: %v", err)
	default:
		p.ok("writes", "", "the guards' rules are taken, by a dry run, in namespace %s", p.config.Rules.Namespace)
	}
}

// tell makes findings of what was tried.
func (a *account) tell(p *preflight, tried []remediate.Tried, well string) {
	var taken []string
	for _, t := range tried {
		if t.Err == nil {
			taken = append(taken, t.Kind+" "+t.Name)
			continue
		}
		p.fail("writes", t.Kind+" "+t.Name, howToMend(t.Err), "%s as %s is refused, by a dry run: %v", t.Verb, a.user, t.Err)
	}
	if len(taken) > 0 && len(taken) == len(tried) {
		p.ok("writes", "", "%s%s", well, strings.Join(taken, ", "))
	}
}

// howToMend tells a right that is missing from what admission has against a write.
func howToMend(err error) string {
	text := err.Error()
	switch {
	case strings.Contains(text, "exceeded quota"):
		return "raise the ResourceQuota that it names: kubectl get resourcequota; guardian keeps one ConfigMap for each guard"
	case strings.Contains(text, "ValidatingAdmissionPolicy") || strings.Contains(text, "admission webhook"):
		return "except guardian's ServiceAccount from the policy that it names, or have the policy take the object as it is"
	case apierrors.IsForbidden(err):
		return "grant it to guardian's ServiceAccount: helm upgrade with rbac.create: true, or bind a Role with the rules of the chart's templates/rbac.yaml"
	}
	return "the API server says what it wants of the object"
}

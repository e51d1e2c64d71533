package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/rules"
)

// What prometheus-operator runs, and what it reads.
var (
	prometheuses        = monitoringv1.SchemeGroupVersion.WithResource("prometheuses")
	thanosRulers        = monitoringv1.SchemeGroupVersion.WithResource("thanosrulers")
	alertmanagers       = monitoringv1.SchemeGroupVersion.WithResource("alertmanagers")
	serviceMonitors     = monitoringv1.SchemeGroupVersion.WithResource("servicemonitors")
	podMonitors         = monitoringv1.SchemeGroupVersion.WithResource("podmonitors")
	prometheusRules     = monitoringv1.SchemeGroupVersion.WithResource("prometheusrules")
	alertmanagerConfigs = schema.GroupVersionResource{Group: monitoringv1.SchemeGroupVersion.Group, Version: "v1alpha1", Resource: "alertmanagerconfigs"}
)

// operated is what is read of a Prometheus, ThanosRuler or Alertmanager: its
// selectors. A selector that is nil selects nothing, one of a namespace its own.
type operated struct {
	metav1.ObjectMeta `json:"metadata"`
	Kind              string `json:"kind"`
	Spec              struct {
		RuleSelector                    *metav1.LabelSelector `json:"ruleSelector"`
		RuleNamespaceSelector           *metav1.LabelSelector `json:"ruleNamespaceSelector"`
		ServiceMonitorSelector          *metav1.LabelSelector `json:"serviceMonitorSelector"`
		ServiceMonitorNamespaceSelector *metav1.LabelSelector `json:"serviceMonitorNamespaceSelector"`
		PodMonitorSelector              *metav1.LabelSelector `json:"podMonitorSelector"`
		PodMonitorNamespaceSelector     *metav1.LabelSelector `json:"podMonitorNamespaceSelector"`
		ConfigSelector                  *metav1.LabelSelector `json:"alertmanagerConfigSelector"`
		ConfigNamespaceSelector         *metav1.LabelSelector `json:"alertmanagerConfigNamespaceSelector"`
		Strategy                        struct {
			Type string `json:"type"`
		} `json:"alertmanagerConfigMatcherStrategy"`
	} `json:"spec"`
}

func (o operated) String() string { return o.Kind + " " + o.Namespace + "/" + o.Name }

// selecting is one pair of selectors, and the keys that they have in the object.
type selecting struct {
	key, namespaceKey string
	of                func(operated) (objects, namespaces *metav1.LabelSelector)
}

var (
	selectingRules = selecting{"ruleSelector", "ruleNamespaceSelector", func(o operated) (objects, namespaces *metav1.LabelSelector) {
		return o.Spec.RuleSelector, o.Spec.RuleNamespaceSelector
	}}
	selectingServiceMonitors = selecting{"serviceMonitorSelector", "serviceMonitorNamespaceSelector", func(o operated) (objects, namespaces *metav1.LabelSelector) {
		return o.Spec.ServiceMonitorSelector, o.Spec.ServiceMonitorNamespaceSelector
	}}
	selectingPodMonitors = selecting{"podMonitorSelector", "podMonitorNamespaceSelector", func(o operated) (objects, namespaces *metav1.LabelSelector) {
		return o.Spec.PodMonitorSelector, o.Spec.PodMonitorNamespaceSelector
	}}
	selectingConfigs = selecting{"alertmanagerConfigSelector", "alertmanagerConfigNamespaceSelector", func(o operated) (objects, namespaces *metav1.LabelSelector) {
		return o.Spec.ConfigSelector, o.Spec.ConfigNamespaceSelector
	}}
)

// selected is an object that the operator may select.
type selected struct {
	kind      string
	name      string
	labels    map[string]string
	namespace *corev1.Namespace
	value     string // the chart's value, or the key, that gives it labels
}

// ignores says why an operated object does not select another, and what has it do
// so; empty: it does.
func (s selecting) ignores(o operated, object selected) (why, fix string) {
	objects, namespaces := s.of(o)
	ns := object.namespace
	switch {
	case objects == nil:
		return fmt.Sprintf("%s has no %s: it selects nothing", o, s.key), fmt.Sprintf("%s: {} in spec of %s", s.key, o)
	case namespaces == nil && o.Namespace != ns.Name:
		return fmt.Sprintf("%s has no %s: it selects its own namespace alone", o, s.namespaceKey), fmt.Sprintf("%s: {} in spec of %s", s.namespaceKey, o)
	case namespaces != nil && !selects(namespaces, ns.Labels):
		fix = fmt.Sprintf("kubectl label namespace %s %s", ns.Name, strings.ReplaceAll(lackingLabels(namespaces, ns.Labels).String(), ",", " "))
		return fmt.Sprintf("%s of %s wants %s of namespace %s", s.namespaceKey, o, metav1.FormatLabelSelector(namespaces), ns.Name), fix
	case !selects(objects, object.labels):
		return fmt.Sprintf("%s of %s wants %s", s.key, o, metav1.FormatLabelSelector(objects)), mendLabels(object, lackingLabels(objects, object.labels))
	}
	return "", ""
}

func selects(selector *metav1.LabelSelector, set map[string]string) bool {
	s, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && s.Matches(labels.Set(set))
}

// lackingLabels are those that a selector names and an object does not have.
func lackingLabels(selector *metav1.LabelSelector, set map[string]string) labels.Set {
	out := labels.Set{}
	for name, value := range selector.MatchLabels {
		if set[name] != value {
			out[name] = value
		}
	}
	for _, e := range selector.MatchExpressions {
		if e.Operator == metav1.LabelSelectorOpIn && len(e.Values) > 0 && !slices.Contains(e.Values, set[e.Key]) {
			out[e.Key] = e.Values[0]
		}
	}
	return out
}

// listOperated lists what the operator runs. Where it is not installed there is
// none; seen is false where the user may not look.
func (c *cluster) listOperated(ctx context.Context, p *preflight, resource schema.GroupVersionResource) (out []operated, seen bool) {
	list, err := c.dynamic.Resource(resource).List(ctx, metav1.ListOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, true
	case apierrors.IsForbidden(err):
		p.note("operator", "", "", "prometheus-operator: what its %s select is not looked at: your user may not list them in all namespaces", resource.Resource)
		return nil, false
	case err != nil:
		p.unknown("operator", "", "", "prometheus-operator: list %s: %v", resource.Resource, err)
		return nil, false
	}
	for i := range list.Items {
		var o operated
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(list.Items[i].Object, &o); err != nil {
			p.unknown("operator", resource.Resource+" "+list.Items[i].GetName(), "", "prometheus-operator: %v", err)
			continue
		}
		out = append(out, o)
	}
	return out, true
}

// namespaceOf reads a namespace, or says what is known of it anyway.
func (c *cluster) namespaceOf(ctx context.Context, name string) *corev1.Namespace {
	ns, err := c.kube.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelMetadataName: name}}}
	}
	return ns
}

// checkOperator asks whether what guardian and its chart give prometheus-operator
// is selected.
func (c *cluster) checkOperator(ctx context.Context, p *preflight, sides map[string]decision.Sides) {
	readers, seen := c.listOperated(ctx, p, prometheuses)
	if seen {
		rulers, _ := c.listOperated(ctx, p, thanosRulers)
		checkSelected(p, append(slices.Clone(readers), rulers...), selectingRules, c.rulesObjects(ctx, p, sides))
		checkSelected(p, readers, selectingServiceMonitors, c.objectsOf(ctx, serviceMonitors, "ServiceMonitor", c.namespace, "app.kubernetes.io/name=guardian", "serviceMonitor.labels of the chart"))
		checkSelected(p, readers, selectingPodMonitors, c.objectsOf(ctx, podMonitors, "PodMonitor", p.config.Rules.Namespace, rules.LabelRules+"="+p.config.Rules.Name, "rules.labels"))
	}
	configs := c.guardianConfigs(ctx, p.config)
	if len(configs) == 0 {
		return
	}
	if senders, seen := c.listOperated(ctx, p, alertmanagers); seen {
		checkSelected(p, senders, selectingConfigs, configs)
		c.checkStrategy(p, senders, configs)
	}
}

// rulesObjects are guardian's PrometheusRules as they are, or as they will be.
func (c *cluster) rulesObjects(ctx context.Context, p *preflight, sides map[string]decision.Sides) []selected {
	r := p.config.Rules
	found := c.objectsOf(ctx, prometheusRules, "PrometheusRule", r.Namespace, rules.LabelRules+"="+r.Name, "rules.labels")
	if len(found) > 0 || !r.Enabled {
		return found
	}
	o, left := p.config.RulesOptions(sides)
	made, err := generateFitting(o, left)
	if err != nil {
		return nil // who tries to write them tells of it
	}
	for _, rule := range made.PrometheusRules(r.Name, r.Namespace) {
		found = append(found, selected{"PrometheusRule", rule.Name, rule.Labels, c.namespaceOf(ctx, r.Namespace), "rules.labels"})
	}
	return found
}

// objectsOf lists objects that the operator may select.
func (c *cluster) objectsOf(ctx context.Context, resource schema.GroupVersionResource, kind, namespace, by, value string) []selected {
	list, err := c.dynamic.Resource(resource).Namespace(namespace).List(ctx, metav1.ListOptions{LabelSelector: by})
	if err != nil || len(list.Items) == 0 {
		return nil // none, or not the user's to see
	}
	ns := c.namespaceOf(ctx, namespace)
	var out []selected
	for i := range list.Items {
		out = append(out, selected{kind, list.Items[i].GetName(), list.Items[i].GetLabels(), ns, value})
	}
	return out
}

// checkSelected asks whether each object is selected by at least one reader.
func checkSelected(p *preflight, readers []operated, how selecting, objects []selected) {
	if len(readers) == 0 {
		return
	}
	var by []string
	each := &preflight{}
	for _, object := range objects {
		var reasons []string
		chosen, mend := "", ""
		for _, reader := range readers {
			why, fix := how.ignores(reader, object)
			if why == "" {
				chosen = reader.String()
				break
			}
			reasons = append(reasons, why)
			mend = cmp.Or(mend, fix)
		}
		if chosen != "" {
			by = append(by, chosen)
			continue
		}
		each.fail("operator", object.kind+" "+object.namespace.Name+"/"+object.name, mend, "prometheus-operator ignores it: %s; it has %s", strings.Join(reasons, "; "), labels.Set(object.labels))
	}
	p.addAll(together(each.findings))
	slices.Sort(by)
	if len(by) > 0 && len(by) == len(objects) {
		p.ok("operator", "", "prometheus-operator: %s %s selected by %s", objects[0].kind, objects[0].name+more(len(objects)-1), strings.Join(slices.Compact(by), ", "))
	}
}

func more(n int) string {
	if n <= 0 {
		return ""
	}
	return fmt.Sprintf(" and %d more", n)
}

// mendLabels is what gives an object the labels that it lacks.
func mendLabels(object selected, lacks labels.Set) string {
	if len(lacks) == 0 {
		return "label it as the selector wants, by " + object.value
	}
	var pairs []string
	for _, name := range slices.Sorted(maps.Keys(lacks)) {
		pairs = append(pairs, name+": "+lacks[name])
	}
	fix := object.value + ": {" + strings.Join(pairs, ", ") + "}"
	if release := lacks["release"]; release != "" {
		fix += ", which the chart sets by monitoring.release: " + release
	}
	return fix
}

// guardianConfigs are the AlertmanagerConfigs that call guardian's webhook.
func (c *cluster) guardianConfigs(ctx context.Context, settings config.Config) []selected {
	list, err := c.dynamic.Resource(alertmanagerConfigs).Namespace(c.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil // none, or not the user's to see
	}
	receiver := rules.AlertmanagerOptions{Namespace: settings.Namespace, Own: settings.Own}.Receiver()
	ns := c.namespaceOf(ctx, c.namespace)
	var out []selected
	for i := range list.Items {
		o := &list.Items[i]
		if to, _, _ := unstructured.NestedString(o.Object, "spec", "route", "receiver"); to == receiver {
			out = append(out, selected{"AlertmanagerConfig", o.GetName(), o.GetLabels(), ns, "alertmanagerConfig.labels of the chart"})
		}
	}
	return out
}

// The values of alertmanagerConfigMatcherStrategy.type.
const (
	strategyNamespace = "OnNamespace" // the operator's default
	strategyExcept    = "OnNamespaceExceptForAlertmanagerNamespace"
	strategyNone      = "None"
)

// checkStrategy says which alerts the operator lets the selected objects see.
func (c *cluster) checkStrategy(p *preflight, senders []operated, configs []selected) {
	for _, am := range senders {
		if why, _ := selectingConfigs.ignores(am, configs[0]); why != "" {
			continue
		}
		strategy := cmp.Or(am.Spec.Strategy.Type, strategyNamespace)
		narrow := false
		switch strategy {
		case strategyNone:
		case strategyExcept:
			narrow = am.Namespace != c.namespace
		case strategyNamespace:
			narrow = true
		default:
			p.note("strategy", am.String(), "", "has alertmanagerConfigMatcherStrategy %s, which guardian check does not know", strategy)
			continue
		}
		if !narrow {
			p.ok("strategy", am.String(), "alertmanagerConfigMatcherStrategy %s: AlertmanagerConfigs of namespace %s see every alert", strategy, c.namespace)
			continue
		}
		p.ok("strategy", am.String(), "alertmanagerConfigMatcherStrategy %s: AlertmanagerConfigs of namespace %s see alerts with namespace=%q, which guardian's own have", strategy, c.namespace, c.namespace)
		c.checkNarrow(p, am, strategy)
	}
}

// checkNarrow finds alerts that take part and that the operator's matcher keeps
// away: those of users need not have a label namespace.
func (c *cluster) checkNarrow(p *preflight, am operated, strategy string) {
	var texts []string
	for _, g := range p.config.Guards {
		for _, m := range g.Alerts.Matchers {
			if m.Parsed != nil && !m.Parsed.Allows(rules.LabelNamespace, c.namespace) && !slices.Contains(texts, m.Match) {
				texts = append(texts, m.Match)
			}
		}
	}
	fix := "give these alerts the label namespace: " + c.namespace + ", or bring them by the route that `guardian alertmanager -f …` prints"
	if len(texts) > 0 {
		p.fail("strategy", am.String(), fix, "with %s no alert of alerts.matchers %s reaches guardian: they ask for another namespace", strategy, strings.Join(texts, ", "))
		return
	}
	for _, g := range p.config.Guards {
		if len(g.Alerts.Matchers) > 0 {
			p.note("strategy", am.String(), fix, "with %s alerts of alerts.matchers reach guardian only with namespace=%q", strategy, c.namespace)
			return
		}
	}
}

package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/canary-guardian/guardian/remediate"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/test/controlplane"
)

var (
	policiesResource = schema.GroupVersionResource{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "validatingadmissionpolicies"}
	bindingsResource = schema.GroupVersionResource{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "validatingadmissionpolicybindings"}
	quotasResource   = schema.GroupVersionResource{Version: "v1", Resource: "resourcequotas"}
)

// brokenSetups are what people have wrong, each with what is done to a setup that
// is well. What check says of each is in testdata/check/findings.golden.
var brokenSetups = []struct {
	name string
	code int
	make func(*setup)
}{
	{"a subset is missing", exitFailed, func(s *setup) {
		s.patch(controlplane.DestinationRules, testGuard, `{"spec":{"subsets":[{"name":"v1","labels":{"version":"v1"}}]}}`)
	}},
	{"the stable subset is missing", exitFailed, func(s *setup) {
		s.patch(controlplane.DestinationRules, testGuard, `{"spec":{"subsets":[{"name":"v2","labels":{"version":"v2"}}]}}`)
	}},
	{"both subsets select the same pods", exitFailed, func(s *setup) {
		s.patch(controlplane.DestinationRules, testGuard, `{"spec":{"subsets":[{"name":"v1","labels":{"app":"orders-service"}},{"name":"v2","labels":{"version":"v2"}}]}}`)
	}},
	{"an older DestinationRule of the host has other labels", exitFailed, func(s *setup) {
		rules := s.client.Resource(controlplane.DestinationRules).Namespace(s.namespace)
		own, err := rules.Get(s.t.Context(), testGuard, metav1.GetOptions{})
		s.must(err)
		s.create(controlplane.DestinationRules, s.namespace, `
apiVersion: networking.istio.io/v1beta1
kind: DestinationRule
metadata: {name: a-rule}
spec: {host: orders-service, subsets: [{name: v1, labels: {version: v0}}, {name: blue, labels: {version: v2}}]}`)
		s.must(rules.Delete(s.t.Context(), testGuard, metav1.DeleteOptions{})) // and made again, so that it is the younger one, or behind by name
		own.SetResourceVersion("")
		own.SetUID("")
		_, err = rules.Create(s.t.Context(), own, metav1.CreateOptions{})
		s.must(err)
	}},
	{"another subset and another Service lead to the canary's pods", exitOK, func(s *setup) {
		s.patch(controlplane.DestinationRules, testGuard, `{"spec":{"subsets":[{"name":"v1","labels":{"version":"v1"}},{"name":"v2","labels":{"version":"v2"}},{"name":"fast","labels":{"version":"v2"}}]}}`)
		s.create(schema.GroupVersionResource{Version: "v1", Resource: "services"}, s.namespace,
			`{apiVersion: v1, kind: Service, metadata: {name: orders-direct}, spec: {selector: {app: orders-service, version: v2}, ports: [{port: 8080}]}}`)
	}},
	{"stable has no pods", exitFailed, func(s *setup) { s.must(s.app.Scale(s.t.Context(), "v1", 0)) }},
	{"stable has no pods and needs none", exitOK, func(s *setup) {
		s.must(s.app.Scale(s.t.Context(), "v1", 0))
		s.guard()["rollback"] = map[string]any{"minReadyStable": 0}
	}},
	{"signals do not roll back", exitOK, func(s *setup) {
		s.guard()["signals"] = map[string]any{"latency": map[string]any{"action": "hold"}, "traffic": map[string]any{"enabled": false}}
	}},
	{"stable is a host outside of the cluster", exitFailed, func(s *setup) { s.stableAt("orders.legacy.example") }},
	{"stable is a Service of another namespace", exitFailed, func(s *setup) { s.stableAt("orders.elsewhere.svc.cluster.local") }},
	{"stable is a Service that is not there", exitFailed, func(s *setup) { s.stableAt("orders-v1") }},
	{"the VirtualService is for another host", exitFailed, func(s *setup) {
		s.patch(controlplane.VirtualServices, testGuard, `{"spec":{"hosts":["payments"],"http":[{"route":[{"destination":{"host":"payments","subset":"v1"},"weight":100}]}]}}`)
	}},
	{"there is no VirtualService", exitFailed, func(s *setup) { s.guard()["virtualServices"] = []string{"orders"} }},
	{"a second VirtualService is not guarded", exitFailed, func(s *setup) {
		s.create(controlplane.VirtualServices, s.namespace, `
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {name: orders-gateway}
spec:
  hosts: [orders.example.com]
  gateways: [public]
  http: [{route: [{destination: {host: orders-service, subset: v1}, weight: 70}, {destination: {host: orders-service, subset: v2}, weight: 30}]}]`)
	}},
	{"the Role lacks patch", exitFailed, func(s *setup) { s.grantAllBut("virtualservices", "patch") }},
	{"the record is refused by a policy", exitFailed, func(s *setup) {
		s.policy("demands-team."+s.namespace, "configmaps", "", "has(object.metadata.labels) && 'team' in object.metadata.labels", "every object needs a label team", "Deny")
	}},
	{"the record is refused by a quota", exitFailed, func(s *setup) {
		s.must(s.kube.CoreV1().ConfigMaps(s.namespace).Delete(s.t.Context(), records.Name(testGuard), metav1.DeleteOptions{}))
		s.create(quotasResource, s.namespace, `{apiVersion: v1, kind: ResourceQuota, metadata: {name: few}, spec: {hard: {"count/configmaps": "0"}}}`)
		_, err := s.client.Resource(quotasResource).Namespace(s.namespace).Patch(s.t.Context(), "few", "application/merge-patch+json",
			[]byte(`{"status":{"hard":{"count/configmaps":"0"},"used":{"count/configmaps":"0"}}}`), metav1.PatchOptions{}, "status")
		s.must(err)
	}},
	{"the policy has no binding", exitFailed, func(s *setup) { s.lockPolicy() }},
	{"the policy is not in force", exitFailed, func(s *setup) {
		s.lockPolicy()
		s.create(bindingsResource, "", "{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicyBinding, metadata: {name: "+remediate.PolicyLock+
			"}, spec: {policyName: "+remediate.PolicyLock+", validationActions: [Warn], matchResources: {namespaceSelector: {matchLabels: {never: matches}}}}}")
	}},
	{"the canonical revision is equal for both", exitOK, func(s *setup) { s.labelPods("app.kubernetes.io/version", "1.0") }},
	{"an HTTPRoute routes to the service", exitFailed, func(s *setup) {
		s.create(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}, "", httpRouteDefinition)
		s.waitFor("HTTPRoutes are served", func() bool {
			_, err := s.client.Resource(httpRoutes).Namespace(s.namespace).List(s.t.Context(), metav1.ListOptions{})
			return err == nil
		})
		s.create(httpRoutes, s.namespace, "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: orders}, spec: {rules: [{backendRefs: [{name: orders-service, port: 8080}]}]}}")
	}},
	{"ambient mode without a waypoint", exitFailed, func(s *setup) { s.labelNamespace(labelDataplane, "ambient") }},
	{"the sidecars are not scraped", exitFailed, func(s *setup) { s.without("istio_request") }},
	{"the canary is not scraped", exitFailed, func(s *setup) {
		s.without(`istio_requests_total{response_code="200",reporter="destination",destination_workload="orders-service-v2"`)
	}},
	{"the label reporter is dropped", exitFailed, func(s *setup) { s.replace(`reporter="destination",`, ""); s.replace(`reporter="source",`, "") }},
	{"proxies are scraped twice", exitFailed, func(s *setup) {
		s.series = append(s.series, istioSeries(s.namespace, "v1", "destination", `job="kubernetes-pods",instance="10.0.0.1:15020"`)...)
	}},
	{"proxies are scraped twice and one job is chosen", exitOK, func(s *setup) {
		s.series = append(s.series, istioSeries(s.namespace, "v1", "destination", `job="kubernetes-pods",instance="10.0.0.1:15020"`)...)
		s.config["rules"] = map[string]any{"proxies": `job="mesh"`}
	}},
	{"rules.proxies selects none", exitFailed, func(s *setup) { s.config["rules"] = map[string]any{"proxies": `job="envoy-stats"`} }},
	{"kube-state-metrics is absent", exitFailed, func(s *setup) { s.config["rules"] = map[string]any{"restartsFrom": "kube-state-metrics"} }},
	{"the bucket at the latency limit is dropped", exitFailed, func(s *setup) { s.without(`le="500"`) }},
	{"the histogram is a native one", exitOK, func(s *setup) {
		s.without("_bucket")
		for _, version := range []string{"v1", "v2"} {
			s.series = append(s.series, fmt.Sprintf(`istio_request_duration_milliseconds{reporter="destination",destination_workload="orders-service-%s",destination_workload_namespace=%q,job="mesh",instance="10.0.0.1:15090"} h`, version, s.namespace))
		}
	}},
	{"guardian is not scraped", exitFailed, func(s *setup) {
		s.without("guardian_heartbeat")
		s.without("guardian_w")
	}},
	{"the rules are not loaded", exitFailed, func(s *setup) { s.without("guardian:") }},
	{"the rules record nothing of stable", exitFailed, func(s *setup) {
		s.without(`idelta{guardian_instance="guardian",namespace="` + s.namespace + `",guardian_shard="all",guardian_guard="orders-service",guardian_side="stable"`)
	}},
	{"the token is wrong", exitFailed, func(s *setup) {
		s.beat = time.Time{}
		s.without("guardian_auth_failures_total")
		s.series = append(s.series, fmt.Sprintf(`guardian_auth_failures_total{guardian_namespace=%q,proof="bearer"} 0 20`, s.namespace))
	}},
	{"calls were refused and a heartbeat came since", exitOK, func(s *setup) {
		s.without("guardian_auth_failures_total")
		s.series = append(s.series, fmt.Sprintf(`guardian_auth_failures_total{guardian_namespace=%q,proof="bearer"} 0 20`, s.namespace))
	}},
	{"the receiver has no token", exitFailed, func(s *setup) {
		for _, r := range s.alerts["receivers"].([]any) {
			for _, hook := range listIn(r, "webhook_configs") {
				delete(hook.(map[string]any), "http_config")
			}
		}
	}},
	{"the route groups", exitFailed, func(s *setup) {
		s.route()["group_by"], s.route()["group_wait"], s.route()["repeat_interval"] = []string{"namespace"}, "30s", "12h"
	}},
	{"the heartbeat is repeated too seldom", exitFailed, func(s *setup) {
		s.alerts["route"].(map[string]any)["routes"].([]any)[0].(map[string]any)["repeat_interval"] = "4h"
	}},
	{"an alert of a user's own has no route", exitFailed, func(s *setup) {
		s.guard()["alerts"] = map[string]any{"matchers": []any{map[string]any{"match": `{alertname="OrdersDown", team!="billing"}`}, map[string]any{"match": `{alertname=~"Orders.+"}`}}}
	}},
	{"there is no route", exitFailed, func(s *setup) { s.alerts["route"].(map[string]any)["routes"] = []any{}; s.beat = time.Time{} }},
	{"an earlier route takes the alerts", exitFailed, func(s *setup) {
		r := s.alerts["route"].(map[string]any)
		r["routes"] = append([]any{map[string]any{"receiver": "people", "matchers": []string{`severity="critical"`}}}, r["routes"].([]any)...)
	}},
	{"a receiver of another name", exitOK, func(s *setup) { s.rename("the-brake") }},
	{"a receiver of another name and no heartbeat", exitFailed, func(s *setup) { s.rename("the-brake"); s.beat = time.Time{} }},
	{"muted outside of working hours", exitFailed, func(s *setup) {
		s.alerts["time_intervals"] = []any{map[string]any{"name": "always", "time_intervals": []any{map[string]any{"years": []string{"2020:2100"}}}}}
		s.route()["mute_time_intervals"] = []string{"always"}
	}},
	{"silenced", exitFailed, func(s *setup) { s.silence("namespace", s.namespace) }},
	{"inhibited", exitFailed, func(s *setup) {
		s.alerts["inhibit_rules"] = []any{map[string]any{"source_matchers": []string{`alertname="ClusterDown"`}, "target_matchers": []string{`severity=~"critical|warning"`}}}
		s.fire(map[string]string{"alertname": "ClusterDown"})
	}},
	{"could be inhibited", exitOK, func(s *setup) {
		s.alerts["inhibit_rules"] = []any{map[string]any{"source_matchers": []string{`alertname="ClusterDown"`}, "target_matchers": []string{`severity="critical"`}, "equal": []string{"namespace"}}}
	}},
	{"the heartbeat does not fire in Alertmanager", exitFailed, func(s *setup) {
		s.args = append(s.args, "--wait", "1ms")
		s.beat = time.Time{}
		s.config["instance"] = "other"
		s.config["rules"] = map[string]any{"name": "other"}
	}},
	{"own names a label that alerts do not have", exitFailed, func(s *setup) { s.config["own"] = map[string]any{"cluster": "us-east"} }},
	{"Alertmanager is older than route.matchers", exitFailed, func(s *setup) { s.amURL = versionOf(s.t, s.am.URL, "0.21.0") }},
	{"Alertmanager refuses the key timeout", exitFailed, func(s *setup) {
		s.amURL = versionOf(s.t, s.am.URL, "0.27.0")
		s.alerts["route"].(map[string]any)["routes"] = []any{}
		s.alerts["receivers"] = []any{map[string]any{"name": "people"}}
	}},
	{"Prometheus ignores rules without the label release", exitFailed, func(s *setup) {
		s.create(prometheuses, s.namespace, `{apiVersion: monitoring.coreos.com/v1, kind: Prometheus, metadata: {name: main}, spec: {ruleSelector: {matchLabels: {release: stack}}, ruleNamespaceSelector: {}}}`)
	}},
	{"Prometheus selects the rules", exitOK, func(s *setup) {
		s.config["rules"] = map[string]any{"labels": map[string]any{"release": "stack"}}
		s.create(prometheuses, s.namespace, `{apiVersion: monitoring.coreos.com/v1, kind: Prometheus, metadata: {name: main}, spec: {ruleSelector: {matchLabels: {release: stack}}}}`)
	}},
	{"Prometheus looks at other namespaces", exitFailed, func(s *setup) {
		s.create(prometheuses, "default", `{apiVersion: monitoring.coreos.com/v1, kind: Prometheus, metadata: {name: main}, spec: {ruleSelector: {}, ruleNamespaceSelector: {matchLabels: {team: shop}}}}`)
	}},
	{"Alertmanager ignores the AlertmanagerConfigs", exitFailed, func(s *setup) {
		s.configs()
		s.create(alertmanagers, "default", `{apiVersion: monitoring.coreos.com/v1, kind: Alertmanager, metadata: {name: main}, spec: {alertmanagerConfigSelector: {matchLabels: {alertmanager: main}}}}`)
	}},
	{"the strategy OnNamespace and alerts of a user's own", exitFailed, func(s *setup) {
		s.configs()
		s.guard()["alerts"] = map[string]any{"matchers": []any{map[string]any{"match": `{alertname="OrdersDown", namespace="billing"}`}}}
		s.create(alertmanagers, s.namespace, `{apiVersion: monitoring.coreos.com/v1, kind: Alertmanager, metadata: {name: main}, spec: {alertmanagerConfigSelector: {}}}`)
	}},
	{"the strategy OnNamespaceExceptForAlertmanagerNamespace", exitFailed, func(s *setup) {
		s.configs()
		s.guard()["alerts"] = map[string]any{"matchers": []any{map[string]any{"match": `{alertname="OrdersDown"}`}}}
		s.create(alertmanagers, "default", `{apiVersion: monitoring.coreos.com/v1, kind: Alertmanager, metadata: {name: main}, spec: {alertmanagerConfigSelector: {}, alertmanagerConfigNamespaceSelector: {}, alertmanagerConfigMatcherStrategy: {type: OnNamespaceExceptForAlertmanagerNamespace}}}`)
	}},
	{"the strategy None", exitOK, func(s *setup) {
		s.configs()
		s.create(alertmanagers, "default", `{apiVersion: monitoring.coreos.com/v1, kind: Alertmanager, metadata: {name: main}, spec: {alertmanagerConfigSelector: {}, alertmanagerConfigNamespaceSelector: {}, alertmanagerConfigMatcherStrategy: {type: None}}}`)
	}},
	{"no replica is running", exitFailed, func(s *setup) {
		s.dead = true
		s.must(s.kube.CoordinationV1().Leases(s.namespace).Delete(s.t.Context(), records.ReplicaLease("a"), metav1.DeleteOptions{}))
	}},
}

// ownAccount has the program run with the token of guardian's ServiceAccount.
func (s *setup) ownAccount() string {
	s.t.Helper()
	account, err := s.plane.ServiceAccount(s.t.Context(), s.namespace, "guardian")
	s.must(err)
	s.files["account"], err = s.plane.WriteKubeconfig(account, "guardian", s.namespace)
	s.must(err)
	return "account"
}

// listIn is a list in a document.
func listIn(in any, key string) []any {
	l, _ := in.(map[string]any)[key].([]any)
	return l
}

// rename gives guardian's receiver another name.
func (s *setup) rename(to string) {
	for _, r := range s.alerts["receivers"].([]any) {
		if receiver := r.(map[string]any); strings.HasPrefix(fmt.Sprint(receiver["name"]), "guardian-") {
			receiver["name"] = to
		}
	}
	for _, r := range listIn(s.alerts["route"], "routes") {
		r.(map[string]any)["receiver"] = to
	}
}

// grantAllBut gives guardian's account its rights anew, without one.
func (s *setup) grantAllBut(resource, verb string) {
	s.t.Helper()
	roles := s.kube.RbacV1().Roles(s.namespace)
	all, err := roles.List(s.t.Context(), metav1.ListOptions{})
	s.must(err)
	for i := range all.Items {
		for n := range all.Items[i].Rules {
			if rule := &all.Items[i].Rules[n]; slices.Contains(rule.Resources, resource) && rule.APIGroups[0] == remediate.IstioGroup {
				rule.Verbs = slices.DeleteFunc(rule.Verbs, func(v string) bool { return v == verb })
			}
		}
		_, err := roles.Update(s.t.Context(), &all.Items[i], metav1.UpdateOptions{})
		s.must(err)
	}
}

// policy makes an admission policy for one kind of object in the namespace.
func (s *setup) policy(name, resource, group, expression, message, action string) {
	s.t.Helper()
	s.create(policiesResource, "", fmt.Sprintf(`{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicy, metadata: {name: %q}, spec: {
  failurePolicy: Fail, matchConstraints: {resourceRules: [{apiGroups: [%q], apiVersions: ["*"], operations: [CREATE, UPDATE], resources: [%q]}]},
  validations: [{expression: %q, message: %q}]}}`, name, group, resource, expression, message))
	s.create(bindingsResource, "", fmt.Sprintf(`{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicyBinding, metadata: {name: %q}, spec: {
  policyName: %[1]q, validationActions: [%s], matchResources: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: %q}}}}}`, name, action, s.namespace))
	s.waitFor("the policy in force", func() bool {
		_, err := s.kube.CoreV1().ConfigMaps(s.namespace).Patch(s.t.Context(), records.Name(testGuard), "application/merge-patch+json",
			[]byte(`{"metadata":{"annotations":{"a":"b"}}}`), metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}})
		return err != nil && strings.Contains(err.Error(), name)
	})
}

func (s *setup) waitFor(what string, happened func() bool) {
	s.t.Helper()
	until(s.t, func() string { return what }, happened)
}

// lockPolicy is the lock's policy, for a cluster that does not bind it.
func (s *setup) lockPolicy() {
	s.t.Helper()
	s.create(policiesResource, "", "{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicy, metadata: {name: "+remediate.PolicyLock+
		`}, spec: {matchConstraints: {resourceRules: [{apiGroups: [networking.istio.io], apiVersions: ["*"], operations: [CREATE], resources: [virtualservices]}]}, validations: [{expression: "false"}]}}`)
}

// labelPods labels all pods of the service.
func (s *setup) labelPods(label, value string) {
	s.t.Helper()
	pods, err := s.kube.CoreV1().Pods(s.namespace).List(s.t.Context(), metav1.ListOptions{LabelSelector: "app=" + testGuard})
	s.must(err)
	for i := range pods.Items {
		s.patch(schema.GroupVersionResource{Version: "v1", Resource: "pods"}, pods.Items[i].Name, fmt.Sprintf(`{"metadata":{"labels":{%q:%q}}}`, label, value))
	}
}

// stableAt has the guard, and the VirtualService, have stable at a host.
func (s *setup) stableAt(host string) {
	s.t.Helper()
	s.guard()["stable"] = map[string]any{"host": host}
	s.patch(controlplane.VirtualServices, testGuard, fmt.Sprintf(`{"spec":{"http":[{"route":[{"destination":{"host":%q},"weight":100},{"destination":{"host":%q,"subset":"v2"},"weight":0}]}]}}`, host, testGuard))
}

func (s *setup) labelNamespace(label, value string) {
	s.t.Helper()
	_, err := s.kube.CoreV1().Namespaces().Patch(s.t.Context(), s.namespace, "application/merge-patch+json", fmt.Appendf(nil, `{"metadata":{"labels":{%q:%q}}}`, label, value), metav1.PatchOptions{})
	s.must(err)
}

// configs makes the chart's AlertmanagerConfigs, as far as check looks at them.
func (s *setup) configs() {
	s.t.Helper()
	for _, name := range []string{"guardian-heartbeat", "guardian-alerts"} {
		s.create(alertmanagerConfigs, s.namespace, fmt.Sprintf(`{apiVersion: monitoring.coreos.com/v1alpha1, kind: AlertmanagerConfig, metadata: {name: %s, labels: {app: guardian}}, spec: {
  route: {receiver: guardian-%[2]s}, receivers: [{name: guardian-%[2]s, webhookConfigs: [{url: "http://guardian/webhook"}]}]}}`, name, s.namespace))
	}
}

// httpRouteDefinition is a stand-in for the Gateway API's, which takes anything.
const httpRouteDefinition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: httproutes.gateway.networking.k8s.io, annotations: {api-approved.kubernetes.io: unapproved}}
spec:
  group: gateway.networking.k8s.io
  scope: Namespaced
  names: {kind: HTTPRoute, listKind: HTTPRouteList, plural: httproutes, singular: httproute}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]`

// TestEachBrokenSetupIsNamedAndMended runs check on what people have wrong. Each
// finding names the object, what is wrong with it, and what mends it.
func TestEachBrokenSetupIsNamedAndMended(t *testing.T) {
	plane := controlplane.Shared(t)
	if err := plane.CompleteOperatorDefinitions(t.Context()); err != nil {
		t.Fatal(err)
	}
	am, err := plane.StartAlertmanager(t.Context(), controlplane.AlertmanagerOptions{Config: "route: {receiver: x}\nreceivers: [{name: x}]\n"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(am.Stop)
	var told strings.Builder
	t.Run("well", func(t *testing.T) {
		s := newSetup(t, am)
		s.fire(s.heartbeatLabels(map[string]string{"prometheus": "monitoring/main", "cluster": "eu-west"}))
		code, said := s.check()
		want(t, code, said, exitOK, "")
		fmt.Fprintf(&told, "## all is well\n%s", said)
		for _, line := range strings.Split(strings.TrimSpace(said), "\n") {
			if !strings.HasPrefix(line, "ok    ") {
				t.Errorf("of a setup that is well: %s", line)
			}
		}
		// As in guardian's own pod: with its own rights, which suffice.
		s.user = s.ownAccount()
		code, said = s.check()
		want(t, code, said, exitOK, "a rollback's writes are taken, by dry runs: ConfigMap guardian-orders-service, VirtualService orders-service")
	})
	for _, c := range brokenSetups {
		t.Run(c.name, func(t *testing.T) {
			s := newSetup(t, am)
			s.fire(s.heartbeatLabels(map[string]string{"prometheus": "monitoring/main", "cluster": "eu-west"}))
			c.make(s)
			code, said := s.check()
			if code != c.code {
				t.Errorf("exit code %d, want %d:\n%s", code, c.code, said)
			}
			fmt.Fprintf(&told, "\n## %s\n%s", c.name, findingsOf(t, said))
		})
	}
	const file = "../../testdata/check/findings.golden"
	if *rewrite {
		if err := os.WriteFile(file, []byte(told.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if told.String() != string(text) {
		t.Errorf("the findings are not those of %s; -update rewrites it:\n%s", file, told.String())
	}
}

// findingsOf is what is not well, with what mends it.
func findingsOf(t *testing.T, said string) string {
	var out strings.Builder
	fix := false
	for _, line := range strings.Split(strings.TrimSuffix(said, "\n"), "\n") {
		switch bad := strings.HasPrefix(line, "FAIL") || strings.HasPrefix(line, "?") || strings.HasPrefix(line, "note"); {
		case bad, strings.HasPrefix(line, "Error: "):
			fix = bad
			out.WriteString(line + "\n")
		case strings.HasPrefix(line, "      fix: "):
			if !fix {
				t.Errorf("what is well has something that mends it: %s", line)
			}
			out.WriteString(line + "\n")
		default:
			fix = false
		}
	}
	return out.String()
}

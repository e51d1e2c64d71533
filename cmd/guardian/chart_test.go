package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	yamlstream "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/remediate"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/rules"
	"github.com/canary-guardian/guardian/test/controlplane"
)

// helmCommand runs the real helm, with nothing of this machine's own settings.
type helmCommand struct{ path, home, kubeconfig string }

func newHelm(t *testing.T) *helmCommand {
	t.Helper()
	if testing.Short() && !*rewrite {
		t.Skip("needs helm; not under -short")
	}
	path, err := controlplane.Binary(t.Context(), "helm")
	if err != nil {
		t.Fatal(err)
	}
	return &helmCommand{path: path, home: t.TempDir()}
}

// run returns what helm printed; its warnings too, if it failed.
func (h *helmCommand) run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, h.path, args...)
	cmd.Env = append(os.Environ(), "HOME="+h.home, "HELM_CACHE_HOME="+h.home, "HELM_CONFIG_HOME="+h.home, "HELM_DATA_HOME="+h.home, "KUBECONFIG="+h.kubeconfig)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", errors.New(strings.TrimSpace(stdout.String() + stderr.String()))
	}
	return stdout.String(), nil
}

// oneGuard is all that an install needs to say.
const oneGuard = "guards[0].name=orders-service"

// rendered is what the chart makes of values, by kind/name.
func rendered(t *testing.T, text string) map[string]*unstructured.Unstructured {
	t.Helper()
	out := map[string]*unstructured.Unstructured{}
	documents := yamlstream.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096)
	for {
		var u unstructured.Unstructured
		if err := documents.Decode(&u); errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if u.Object == nil {
			continue
		}
		key := u.GetKind() + "/" + u.GetName()
		if out[key] != nil {
			t.Errorf("%s is made twice", key)
		}
		out[key] = &u
	}
}

// one is an object of a kind that the chart makes once.
func one[T any](t *testing.T, objects map[string]*unstructured.Unstructured, kind, name string) T {
	t.Helper()
	var out T
	u := objects[kind+"/"+name]
	if u == nil {
		t.Fatalf("no %s %s among %q", kind, name, slices.Sorted(maps.Keys(objects)))
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// configOf is the configuration that the chart made, as guardian reads it.
func configOf(t *testing.T, objects map[string]*unstructured.Unstructured, name string) config.Config {
	t.Helper()
	c, err := config.Parse([]byte(one[corev1.ConfigMap](t, objects, "ConfigMap", name+".config").Data["config.yaml"]))
	if err != nil {
		t.Fatalf("guardian does not take the chart's configuration: %v", err)
	}
	return c
}

// emptyLines stand between objects: one, more or none, by Helm's version.
var emptyLines = regexp.MustCompile(`\n\s*\n---\n`)

func TestTheChartRendersAsBefore(t *testing.T) {
	h := newHelm(t)
	for _, name := range []string{"oneline", "plain", "full"} {
		t.Run(name, func(t *testing.T) {
			values := filepath.Join("..", "..", "testdata", "chart", name+".values.yaml")
			text, err := h.run(t.Context(), "template", "guardian", chartDir, "-n", "microservices", "-f", values)
			if err != nil {
				t.Fatal(err)
			}
			text = strings.TrimSpace(emptyLines.ReplaceAllString(text, "\n---\n")) + "\n"
			checkFile(t, strings.Replace(values, ".values.", ".golden.", 1), text)
			objects := rendered(t, text)
			full := map[string]string{"full": "guardian-brake"}[name]
			if full == "" {
				full = "guardian"
			}
			c := configOf(t, objects, full)
			if name != "full" {
				return
			}
			if g, _ := c.Guard("orders-service"); g.Promotion.MinRequests != 1000000 || g.Alerts.Matchers[1].Action != "hold" || len(g.Promotion.Steps) != 3 {
				t.Errorf("guard %+v", g)
			}
			if c.Rules.Labels["release"] != "prom" || c.Rules.Labels["team"] != "shop" || c.Prometheus.HTTP.BasicAuth.PasswordFile == "" {
				t.Errorf("configuration %s", c)
			}
		})
	}
}

func TestTheChartRefusesWhatCannotWork(t *testing.T) {
	h := newHelm(t)
	if out, err := h.run(t.Context(), "lint", "--strict", chartDir, "--set", oneGuard); err != nil {
		t.Errorf("lint: %v%s", err, out)
	}
	for values, want := range map[string]string{
		"":                                   "guards: empty",
		"guards[0].virtualServices={orders}": "name",
		oneGuard + ",guards[0].rolback.lock=build":                                              "rolback",
		oneGuard + ",guards[0].rollback.lok=build":                                              "lok",
		oneGuard + ",guards[0].rollback.lock=both":                                              "guards/0/rollback/lock",
		oneGuard + ",config.guards[0].name=a":                                                   "guards",
		oneGuard + ",config.namespace=a":                                                        "namespace",
		oneGuard + ",replicas=3":                                                                "replicas",
		oneGuard + ",istio.sidecar=yes":                                                         "istio",
		oneGuard + ",monitoring.operator=false":                                                 "config.prometheus.url: not set",
		oneGuard + ",webhook.token=a,webhook.existingSecret=b":                                  "want one of the two",
		oneGuard + ",config.prometheus.http.basic_auth.password=hunter2":                        "basic_auth.password_file",
		oneGuard + ",config.alertmanager.http.bearer_token=hunter2":                             "bearer_token_file",
		oneGuard + ",terminationGracePeriodSeconds=5":                                           "preStopSeconds",
		oneGuard + `,guards[0].alerts.matchers[0].match=odd name="x"`:                           "alerts.matchers[].match",
		oneGuard + ",image.tag=20261130":                                                        "/image/tag", // as a number it would be 2.026113e+07
		oneGuard + ",podLabels.cost-center=4711":                                                "/podLabels/cost-center",
		oneGuard + ",networkPolicy=null":                                                        "networkPolicy: null, which takes its defaults away",
		oneGuard + ",config=null":                                                               "config: null",
		oneGuard + ",monitoring=null":                                                           "monitoring: null",
		"guards[0].name=Orders":                                                                 `guards[0].name: "Orders": want a DNS label`,
		"guards[0].name=a,guards[1].name=a":                                                     `guards[1].name: "a": guards[0] has this name already`,
		oneGuard + ",podDisruptionBudget.maxUnavailable=true,config.webhook.allowAnonymous=yes": "allowAnonymous",
	} {
		args := []string{"template", "guardian", chartDir, "-n", "microservices"}
		if values != "" {
			args = append(args, "--set", values)
		}
		_, err := h.run(t.Context(), args...)
		switch {
		case err == nil:
			t.Errorf("%s: taken", values)
		case !strings.Contains(err.Error(), want):
			t.Errorf("%s: %v, want one about %q", values, err, want)
		case strings.Contains(err.Error(), "hunter2"):
			t.Errorf("%s: a secret is shown: %v", values, err)
		}
	}
}

// TestTheChartTakesNamesThatLookLikeNumbers: a namespace may be called 1234.
func TestTheChartTakesNamesThatLookLikeNumbers(t *testing.T) {
	h := newHelm(t)
	text, err := h.run(t.Context(), "template", "123", chartDir, "-n", "1234", "--set", oneGuard+",fullnameOverride=guardian,rbac.formerVirtualServices=null", "--set", "config.own.cluster=eu: west")
	if err != nil {
		t.Fatal(err)
	}
	for key, u := range rendered(t, text) {
		if u.GetNamespace() != "1234" || u.GetLabels()["app.kubernetes.io/instance"] != "123" {
			t.Errorf("%s: %v", key, u.Object["metadata"])
		}
	}
	d := one[appsv1.Deployment](t, rendered(t, text), "Deployment", "guardian")
	if d.Spec.Selector.MatchLabels["app.kubernetes.io/instance"] != "123" {
		t.Errorf("selects %v", d.Spec.Selector)
	}
}

// A key without a value, as people leave it in a file, is no list.
func TestTheChartTakesAPageWithoutHosts(t *testing.T) {
	text, err := newHelm(t).run(t.Context(), "template", "guardian", chartDir, "-n", "microservices", "--set", oneGuard, "--set", "page.enabled=true,page.hosts=null")
	if err != nil {
		t.Fatal(err)
	}
	if c := configOf(t, rendered(t, text), "guardian"); !slices.Equal(c.Page.Hosts, []string{"guardian"}) {
		t.Errorf("hosts %q", c.Page.Hosts)
	}
}

// Argo CD renders the chart for a cluster that the templates do not see. A token of each rendering would be another one.
func TestTheChartMakesNoTokenForAClusterThatItDoesNotSee(t *testing.T) {
	h := newHelm(t)
	render := func(more ...string) (string, error) {
		return h.run(t.Context(), append([]string{"template", "guardian", chartDir, "-n", "microservices", "--set", oneGuard}, more...)...)
	}
	for _, version := range []string{"v1", "v1beta1"} {
		cluster := "--api-versions=networking.istio.io/" + version
		if _, err := render(cluster); err == nil || !strings.Contains(err.Error(), "webhook.existingSecret: not set") {
			t.Errorf("%s: want the Secret asked for, got %v", version, err)
		}
		for _, set := range []string{"webhook.existingSecret=mine", "webhook.token=mine", "config.webhook.tokenFile=,config.webhook.allowAnonymous=true"} {
			if _, err := render(cluster, "--set", set); err != nil {
				t.Errorf("%s with %s: %v", version, set, err)
			}
		}
	}
	if text, err := render(); err != nil || rendered(t, text)["Secret/guardian-token"] == nil {
		t.Errorf("rendered for no cluster: %v", err)
	}
}

// chartConfigKeys are the keys of the configuration that the chart takes in config.
func chartConfigKeys(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(chartDir, "values.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	var schema struct {
		Properties struct {
			Config struct{ Properties map[string]any }
		}
	}
	if err := json.Unmarshal(text, &schema); err != nil || len(schema.Properties.Config.Properties) < 10 {
		t.Fatalf("keys of the configuration in the chart's schema: %d, %v", len(schema.Properties.Config.Properties), err)
	}
	return slices.Sorted(maps.Keys(schema.Properties.Config.Properties))
}

// The pods are replaced when a key changes that a running guardian cannot take
// over, and only then: what it can take over is not worth a restart.
func TestTheChartRestartsGuardianWhereAReloadIsNotEnough(t *testing.T) {
	h := newHelm(t)
	render := func(set string) (string, config.Config) {
		text, err := h.run(t.Context(), "template", "guardian", chartDir, "-n", "microservices", "--set", oneGuard, "--set", set)
		if err != nil {
			t.Fatalf("%s: %v", set, err)
		}
		objects := rendered(t, text)
		sum, _, err := unstructured.NestedString(objects["Deployment/guardian"].Object, "spec", "template", "metadata", "annotations", "checksum/restart")
		if err != nil || sum == "" {
			t.Fatalf("no checksum: %v", err)
		}
		return sum, configOf(t, objects, "guardian")
	}
	sum, was := render("allowNoGuards=false")
	sets := []string{
		"guards[1].name=payments", "mode=observe", "guards[0].mode=observe", "guards[0].rollback.lock=manual", "config.heartbeat.maxAge=5m", "config.rules.interval=1s", "config.rules.labels.a=b", "monitoring.release=prom",
		"config.clusterDomain=example.internal", "config.log.level=debug", "config.web.configFile=/web.yaml", "config.page.hosts={guardian.example.com}", "config.webhook.tokenFile=/token",
		"config.prometheus.url=http://prom", "config.own.cluster=eu", "config.builds.labels={version}", "config.alertmanager.timeout=3s", "config.rules.name=shop", "config.rules.namespace=rules", "config.disarm.max=1h", "config.notifications.enabled=false", "config.instance=brake",
	}
	for _, key := range chartConfigKeys(t) {
		if !slices.ContainsFunc(sets, regexp.MustCompile(`^config\.`+key+`[.=]`).MatchString) {
			t.Errorf("no value of %s tried", key)
		}
	}
	for _, set := range sets {
		now, is := render(set)
		if keys := config.RestartOnly(was, is); (now != sum) != (len(keys) > 0) {
			t.Errorf("%s: pods are replaced: %v, keys that need it: %q", set, now != sum, keys)
		}
	}
}

// Nobody need give guardian the right to change a VirtualService before it is to
// do so.
func TestTheChartGivesNoRightToWriteWhatIsObserved(t *testing.T) {
	h := newHelm(t)
	for set, want := range map[string][]string{
		"guards[0].name=orders":                                                                     {"orders"},
		"guards[0].name=orders,mode=observe":                                                        nil,
		"guards[0].name=orders,guards[0].mode=observe":                                              nil,
		"guards[0].name=orders,guards[0].mode=observe,guards[1].name=cart":                          {"cart"},
		"guards[0].name=orders,mode=observe,guards[1].name=cart,guards[1].mode=enforce":             {"cart"},
		"guards[0].name=orders,mode=observe,rbac.restrictToGuards=false":                            nil,
		"guards[0].name=orders,rbac.restrictToGuards=false":                                         {},
		"guards[0].name=orders,guards[0].virtualServices={a,b},guards[0].mode=enforce,mode=observe": {"a", "b"},
	} {
		text, err := h.run(t.Context(), "template", "guardian", chartDir, "-n", "microservices", "--set", set)
		if err != nil {
			t.Fatalf("%s: %v", set, err)
		}
		found := []string(nil)
		for _, r := range one[rbacv1.Role](t, rendered(t, text), "Role", "guardian").Rules {
			if slices.Contains(r.Resources, "virtualservices") && slices.Contains(r.Verbs, "patch") {
				found = append([]string{}, r.ResourceNames...)
			}
		}
		if !reflect.DeepEqual(found, want) {
			t.Errorf("%s: may patch %q, want %q", set, found, want)
		}
	}
	_, err := h.run(t.Context(), "template", "guardian", chartDir, "--set", "guards[0].name=orders,guards[0].promotion.mode=auto,mode=observe")
	if err == nil || !strings.Contains(err.Error(), `guards[0].promotion.mode: "auto": no step is written in mode observe`) {
		t.Errorf("promotion in mode observe: %v", err)
	}
}

// The chart cannot call rules.AlertmanagerConfig, so it is held to it.
func TestTheChartsRoutesAreThoseThatGuardianPrints(t *testing.T) {
	h := newHelm(t)
	values := filepath.Join("..", "..", "testdata", "chart", "full.values.yaml")
	text, err := h.run(t.Context(), "template", "guardian", chartDir, "-n", "microservices", "-f", values, "--set", "alertmanagerConfig.httpConfig=null")
	if err != nil {
		t.Fatal(err)
	}
	objects := rendered(t, text)
	c := configOf(t, objects, "guardian-brake")
	o := rules.AlertmanagerOptions{URL: "https://guardian-brake.microservices:8080/webhook", Name: c.Rules.Name, Namespace: c.Namespace, Own: c.Own, Labels: c.Rules.Labels, TokenSecret: "guardian-brake-token"}
	for _, g := range c.Guards {
		for _, m := range g.Alerts.Matchers {
			o.Matchers = append(o.Matchers, m.Match)
		}
	}
	printed, err := rules.AlertmanagerConfig(o, c.Rules.Name)
	if err != nil {
		t.Fatal(err)
	}
	want := rendered(t, string(printed))
	for key, object := range want {
		if got := objects[key]; got == nil || !reflect.DeepEqual(got.Object["spec"], object.Object["spec"]) {
			t.Errorf("%s: the chart has\n%v\nguardian prints\n%v", key, asYAML(got), asYAML(object))
			continue
		}
		for label, value := range object.GetLabels() {
			if objects[key].GetLabels()[label] != value {
				t.Errorf("%s: label %s is %q, guardian prints %q", key, label, objects[key].GetLabels()[label], value)
			}
		}
	}
	for key, object := range objects {
		if object.GetKind() == "AlertmanagerConfig" && want[key] == nil {
			t.Errorf("%s: guardian prints no such object", key)
		}
	}
}

func asYAML(u *unstructured.Unstructured) string {
	if u == nil {
		return "nothing"
	}
	text, err := yaml.Marshal(u.Object)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// grants lists what rules allow, as "verb resource.group", with the names that a
// right is limited to.
func grants(list []rbacv1.PolicyRule) map[string]sets.Set[string] {
	out := map[string]sets.Set[string]{}
	for _, rule := range list {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					key := verb + " " + strings.TrimSuffix(resource+"."+group, ".")
					if out[key] == nil {
						out[key] = sets.New[string]()
					}
					out[key].Insert(rule.ResourceNames...)
				}
			}
		}
	}
	return out
}

func TestTheChartsRoleIsWhatTheCodeNeeds(t *testing.T) {
	h := newHelm(t)
	text, err := h.run(t.Context(), "template", "guardian", chartDir, "-n", "microservices", "--set", oneGuard, "--set", "guards[0].virtualServices={mesh,gateway}")
	if err != nil {
		t.Fatal(err)
	}
	got := grants(one[rbacv1.Role](t, rendered(t, text), "Role", "guardian").Rules)
	want := grants(remediate.RBAC())
	for key, names := range map[string][]string{
		"get configmaps": {"guardian-orders-service"}, "patch configmaps": {"guardian-orders-service"},
		"patch virtualservices.networking.istio.io": {"mesh", "gateway"},
	} {
		if want[key] == nil {
			t.Errorf("the code needs no right to %s", key)
		}
		want[key] = sets.New(names...)
	}
	for _, verb := range []string{"list", "watch", "create", "patch", "delete"} {
		want[verb+" prometheusrules.monitoring.coreos.com"] = sets.New[string]()
		want[verb+" podmonitors.monitoring.coreos.com"] = sets.New[string]()
	}
	for key, names := range want {
		if have, ok := got[key]; !ok || !have.Equal(names) {
			t.Errorf("%s: the Role has %v (%v), the code needs %v", key, ok, sets.List(have), sets.List(names))
		}
	}
	for key := range got {
		if _, ok := want[key]; !ok {
			t.Errorf("%s: in the Role, and the code does not need it", key)
		}
	}
}

// A record's name must not be taken by an object of the chart.
func TestNoGuardsRecordHasTheNameOfAnObjectOfTheChart(t *testing.T) {
	h := newHelm(t)
	for _, release := range []string{"guardian", "guardian-config", "brake"} {
		text, err := h.run(t.Context(), "template", release, chartDir, "-n", "microservices", "--set", oneGuard, "--set", "dashboards.enabled=true")
		if err != nil {
			t.Fatal(err)
		}
		for key, object := range rendered(t, text) {
			guard, isRecord := strings.CutPrefix(object.GetName(), records.Name(""))
			if _, err := config.Parse([]byte("namespace: a\nguards: [{name: " + guard + "}]\n")); object.GetKind() == "ConfigMap" && isRecord && err == nil {
				t.Errorf("release %s: %s would be the record of a guard named %s", release, key, guard)
			}
		}
	}
}

// jsonOf is for comparing what was stored.
func jsonOf(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// What docs/install.md and docs/grafana.md say is YAML that is taken: values by the chart, the rest
// at least by a parser.
func TestTheInstallPagesValuesAreTaken(t *testing.T) {
	h := newHelm(t)
	install, grafana := readDoc(t, "docs", "install.md"), readDoc(t, "docs", "grafana.md")
	tried := 0
	for _, b := range append(blocksOf("docs/install.md", install), blocksOf("docs/grafana.md", grafana)...) {
		if b.language != "yaml" {
			continue
		}
		var content map[string]any
		if err := yaml.UnmarshalStrict([]byte(b.text), &content); err != nil {
			t.Errorf("%v: %v", b, err)
			continue
		}
		values := content
		if spec, ok := content["spec"].(map[string]any); ok {
			if values, ok = spec["values"].(map[string]any); !ok {
				continue
			}
		} else if !strings.HasPrefix(b.text, "# values.yaml") {
			continue
		}
		tried++
		file := filepath.Join(t.TempDir(), "values.yaml")
		if err := os.WriteFile(file, []byte(jsonOf(t, values)), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := h.run(t.Context(), "template", "guardian", chartDir, "-n", "microservices", "-f", file); err != nil {
			t.Errorf("%v: %v", b, err)
		}
	}
	for _, command := range regexp.MustCompile(`(?m)^helm (install|test) .*`).FindAllString(install+grafana, -1) {
		if strings.Contains(command, "-f values.yaml") || strings.HasPrefix(command, "helm test") {
			continue
		}
		tried++
		args := []string{"template"}
		for _, word := range strings.Fields(strings.ReplaceAll(command, "'", ""))[2:] {
			args = append(args, strings.Replace(word, "charts/guardian", chartDir, 1))
		}
		if _, err := h.run(t.Context(), args...); err != nil {
			t.Errorf("%s: %v", command, err)
		}
	}
	if tried < 3 {
		t.Errorf("only %d values tried", tried)
	}
}

// admissionChart is the chart of the cluster's policies.
// chartDir is where the chart is.
var chartDir = filepath.Join("..", "..", "charts", "guardian")

var admissionChart = filepath.Join("..", "..", "charts", "guardian-admission")

func TestTheAdmissionChartHasWhatGuardianPrints(t *testing.T) {
	for name, o := range map[string]remediate.AdmissionOptions{"hold": {}, "refuse": {NoHold: true}} {
		text, err := remediate.AdmissionYAML(o)
		if err != nil {
			t.Fatal(err)
		}
		checkFile(t, filepath.Join(admissionChart, "files", name+".yaml"), string(text))
	}
	checkFile(t, filepath.Join(admissionChart, "files", "hold-since"), remediate.MinKubernetesHold+"\n")
}

func TestTheAdmissionChartHoldsWhereTheClusterCan(t *testing.T) {
	h := newHelm(t)
	if out, err := h.run(t.Context(), "lint", "--strict", admissionChart); err != nil {
		t.Errorf("lint: %v%s", err, out)
	}
	for _, c := range []struct {
		version, hold string
		file          string
	}{
		{"1.30.0", "auto", "refuse"}, {"1.35.9", "auto", "refuse"}, {"1.36.0", "auto", "hold"}, {"1.37.2-gke.1", "auto", "hold"},
		{"1.37.2", "false", "refuse"}, {"1.35.0", "true", "hold"},
	} {
		text, err := h.run(t.Context(), "template", "guardian-admission", admissionChart, "--kube-version", c.version, "--set", "hold="+c.hold)
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join(admissionChart, "files", c.file+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := rendered(t, text), rendered(t, string(want)); !reflect.DeepEqual(got, want) {
			t.Errorf("Kubernetes %s, hold %s: %q, want those of %s", c.version, c.hold, slices.Sorted(maps.Keys(got)), c.file)
		}
	}
}

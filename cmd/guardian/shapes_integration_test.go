package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"

	"github.com/canary-guardian/guardian/internal/printable"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/test/controlplane"
	"github.com/canary-guardian/guardian/test/kubelet"
)

// releaseShape is a way in which people release, as docs/shapes.md has it.
type releaseShape struct {
	name      string // of the shape, of its guard and of what the guard is about
	settings  string // keys of the guard besides its name
	manifests string // NAME and NAMESPACE are replaced
	before    func(*scene)
	routes    string // of the VirtualService before the alert
	rolled    string // after it
	status    []string
	shift     func(*scene)         // while guardian looks, before the alert
	workload  workloadRef          // the canary's, of which a new image is a new release; without a name: release does it
	release   func(*scene, string) // deploys an image
	after     func(*scene)         // locked still, before the new release
	given     string               // the routes after the lock is lifted; empty: rolled
}

// workloadRef names something with a pod template.
type workloadRef struct{ resource, name string }

// scene is one shape in the cluster.
type scene struct {
	*rig
	releaseShape
	dynamic  dynamic.Interface
	guard    *guardian
	alerted  map[string]any
	released time.Time // not before
	bad      string    // the build that was rolled back
	refused  []string  // and all that were
	failed   bool
}

// kinds are the resources of what manifests have.
var kinds = map[string]schema.GroupVersionResource{
	"Namespace":               {Version: "v1", Resource: "namespaces"},
	"Node":                    {Version: "v1", Resource: "nodes"},
	"Service":                 {Version: "v1", Resource: "services"},
	"Deployment":              {Group: "apps", Version: "v1", Resource: "deployments"},
	"StatefulSet":             {Group: "apps", Version: "v1", Resource: "statefulsets"},
	"DaemonSet":               {Group: "apps", Version: "v1", Resource: "daemonsets"},
	"Rollout":                 {Group: "argoproj.io", Version: "v1alpha1", Resource: "rollouts"},
	"HorizontalPodAutoscaler": {Group: "autoscaling", Version: "v2", Resource: "horizontalpodautoscalers"},
	"VirtualService":          {Group: "networking.istio.io", Version: "v1", Resource: "virtualservices"},
	"DestinationRule":         {Group: "networking.istio.io", Version: "v1", Resource: "destinationrules"},
}

// apply makes the objects of YAML documents, or brings them up to date.
func (s *scene) apply(documents string) {
	s.t.Helper()
	documents = strings.NewReplacer("NAMESPACE", s.ns, "NAME", s.name).Replace(documents)
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(documents), 4096)
	for {
		var u unstructured.Unstructured
		err := decoder.Decode(&u.Object)
		if errors.Is(err, io.EOF) {
			return
		}
		s.must(err)
		if u.Object == nil {
			continue
		}
		gvr, known := kinds[u.GetKind()]
		if !known {
			s.t.Fatalf("kind %q", u.GetKind())
		}
		namespace := u.GetNamespace()
		if namespace == "" && u.GetKind() != "Namespace" && u.GetKind() != "Node" {
			namespace = s.ns
		}
		_, err = s.dynamic.Resource(gvr).Namespace(namespace).Apply(s.t.Context(), u.GetName(), &u, metav1.ApplyOptions{FieldManager: "ci", Force: true})
		s.must(err)
	}
}

// templateYAML is a pod template of one version of the shape's service.
func templateYAML(version, image string) string {
	return fmt.Sprintf(`{metadata: {labels: {app: NAME, version: %s}}, spec: {terminationGracePeriodSeconds: 0, containers: [{name: app, image: %q}]}}`, version, image)
}

// workloadYAML is a Deployment, StatefulSet or DaemonSet of a version.
func workloadYAML(kind, name, version string, replicas int) string {
	extra, where := fmt.Sprintf("\n  replicas: %d", replicas), ""
	if kind == "DaemonSet" { // nothing takes the taint of a new node away; those of other rows are none of its
		extra, where = "", "tolerations: [{operator: Exists}], nodeSelector: {"+corev1.LabelHostname+": "+kubelet.NodeName+"}, "
	}
	if kind == "StatefulSet" {
		extra += "\n  serviceName: NAME\n  podManagementPolicy: Parallel"
	}
	return fmt.Sprintf(`---
apiVersion: apps/v1
kind: %s
metadata: {name: %s, labels: {app: NAME}}
spec:%s
  selector: {matchLabels: {app: NAME, version: %s, part: %[2]s}}
  template: %[5]s
`, kind, name, extra, version, strings.NewReplacer("labels: {", "labels: {part: "+name+", ", "spec: {", "spec: {"+where).Replace(templateYAML(version, "shop/"+version+":1")))
}

func serviceYAML(name, selector string) string {
	return fmt.Sprintf(`---
apiVersion: v1
kind: Service
metadata: {name: %s, labels: {app: NAME}}
spec: {selector: %s, clusterIP: None, ports: [{name: http, port: 8080}]}
`, name, selector)
}

// ruleYAML is a DestinationRule with subsets by the label version; more is added to its spec.
func ruleYAML(more string, subsets ...string) string {
	var list []string
	for _, v := range subsets {
		list = append(list, fmt.Sprintf("{name: %[1]s, labels: {version: %[1]s}}", v))
	}
	return fmt.Sprintf(`---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: NAME}
spec: {host: NAME, subsets: [%s]%s}
`, strings.Join(list, ", "), more)
}

// split is a destination list: subset or host, and weight, in turn.
func split(parts ...any) string {
	var list []string
	for i := 0; i < len(parts); i += 2 {
		to := fmt.Sprintf("host: NAME, subset: %s", parts[i])
		if host, ok := strings.CutPrefix(parts[i].(string), "host:"); ok {
			to = "host: " + host
		}
		list = append(list, fmt.Sprintf("{destination: {%s}, weight: %d}", to, parts[i+1]))
	}
	return "route: [" + strings.Join(list, ", ") + "]"
}

// routedYAML is a VirtualService; head is what its spec begins with.
func routedYAML(name, head string, routes ...string) string {
	return fmt.Sprintf("---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: %s}\nspec: {%s, http: [{%s}]}\n", name, head, strings.Join(routes, "}, {"))
}

// baseYAML is what most shapes have: a Service, a DestinationRule, stable's Deployment.
func baseYAML() string {
	return serviceYAML("NAME", "{app: NAME}") + ruleYAML("", "v1", "v2") + workloadYAML("Deployment", "NAME-v1", "v1", 2)
}

func meshYAML(routes ...string) string { return routedYAML("NAME", "hosts: [NAME]", routes...) }

// routesText is the http routes of a VirtualService in few words: destinations by
// subset or host, with their weights.
func routesText(vs *unstructured.Unstructured) string {
	var spec struct {
		HTTP []struct {
			Route []struct {
				Destination struct{ Host, Subset string }
				Weight      int
			}
		}
	}
	raw, _ := json.Marshal(vs.Object["spec"])
	if err := json.Unmarshal(raw, &spec); err != nil {
		return err.Error()
	}
	var routes []string
	for _, r := range spec.HTTP {
		var to []string
		for _, d := range r.Route {
			name := d.Destination.Subset
			if name == "" {
				name = d.Destination.Host
			}
			to = append(to, fmt.Sprintf("%s %d", name, d.Weight))
		}
		routes = append(routes, strings.Join(to, " "))
	}
	return strings.Join(routes, ", ")
}

func (s *scene) virtualService(name string) *unstructured.Unstructured {
	s.t.Helper()
	vs, err := s.dynamic.Resource(kinds["VirtualService"]).Namespace(s.ns).Get(s.t.Context(), name, metav1.GetOptions{})
	s.must(err)
	return vs
}

// hasRoutes waits until the guard's VirtualService has these routes.
func (s *scene) hasRoutes(when, want string) {
	s.t.Helper()
	s.wait("routes "+when, func(context.Context) error {
		if got := routesText(s.virtualService(s.name)); got != want {
			return fmt.Errorf("%s, want %s", got, want)
		}
		return nil
	})
}

// recorded waits until the record is as it should be, and returns it.
func (s *scene) recorded(what string, ok func(decision.Record) bool) decision.Record {
	s.t.Helper()
	var rec decision.Record
	s.wait(what, func(context.Context) (err error) {
		if rec, err = s.record(s.t.Context(), s.name); err == nil && !ok(rec) {
			err = fmt.Errorf("lock %+v, status %+v, refused %v", rec.Lock, rec.Status, rec.Refused)
		}
		return err
	})
	return rec
}

// alert sends an alert of the guard's canary, firing or resolved.
func (s *scene) alert(firing bool) {
	s.t.Helper()
	if firing {
		s.alerted, s.released = s.alertOf(s.name), time.Now().Add(1100*time.Millisecond)
	} else {
		s.alerted["status"], s.alerted["endsAt"] = "resolved", time.Now().UTC().Format(time.RFC3339Nano)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	s.must(insist(ctx, s.guard.url, webhookOf(s.alerted)))
}

// command is what a command prints.
func (s *scene) command(args ...string) string {
	s.t.Helper()
	file, err := s.plane.Kubeconfig(controlplane.Admin, s.ns)
	s.must(err)
	var out bytes.Buffer
	a := &app{name: "guardian", in: strings.NewReader(""), out: &out, errOut: &out, connect: connect}
	if err := a.execute(s.t.Context(), append(args, "--kubeconfig", file)); err != nil {
		out.WriteString("Error: " + printable.Error(err) + "\n")
	}
	return out.String()
}

// says waits until a command prints all of these.
func (s *scene) says(args string, wants ...string) {
	s.t.Helper()
	args = strings.ReplaceAll(args, "NAME", s.name)
	s.wait("guardian "+args, func(context.Context) error {
		text := spaces.ReplaceAllString(s.command(strings.Fields(args)...), " ")
		for _, want := range wants {
			if !strings.Contains(text, want) {
				return fmt.Errorf("%q is not in\n%s", want, text)
			}
		}
		return nil
	})
}

var spaces = regexp.MustCompile(` +`)

// deploy rolls an image out, as a pipeline does.
func (s *scene) deploy(image string) {
	s.t.Helper()
	if s.releaseShape.release != nil {
		s.releaseShape.release(s, image)
		return
	}
	s.setImage(s.workload, image)
}

func (s *scene) setImage(w workloadRef, image string) {
	s.t.Helper()
	patch := fmt.Appendf(nil, `{"spec":{"template":{"spec":{"containers":[{"name":"app","image":%q}]}}}}`, image)
	var err error
	name := strings.ReplaceAll(w.name, "NAME", s.name)
	switch w.resource {
	case "deployments":
		_, err = s.kube.AppsV1().Deployments(s.ns).Patch(s.t.Context(), name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	case "statefulsets":
		_, err = s.kube.AppsV1().StatefulSets(s.ns).Patch(s.t.Context(), name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	case "daemonsets":
		_, err = s.kube.AppsV1().DaemonSets(s.ns).Patch(s.t.Context(), name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	default:
		s.t.Fatalf("resource %q", w.resource)
	}
	s.must(err)
}

// scale is what an autoscaler does.
func (s *scene) scale(deployment string, replicas int) {
	s.t.Helper()
	_, err := s.kube.AppsV1().Deployments(s.ns).Patch(s.t.Context(), strings.ReplaceAll(deployment, "NAME", s.name), types.MergePatchType,
		fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas), metav1.PatchOptions{}, "scale")
	s.must(err)
}

// rollout plays the controller of Argo Rollouts: one ReplicaSet for each image, the
// present one at full size.
func rollout(s *scene, image string) {
	s.t.Helper()
	owner, err := s.dynamic.Resource(kinds["Rollout"]).Namespace(s.ns).Get(s.t.Context(), s.name+"-v2", metav1.GetOptions{})
	s.must(err)
	sets := s.kube.AppsV1().ReplicaSets(s.ns)
	all, err := sets.List(s.t.Context(), metav1.ListOptions{LabelSelector: "app=" + s.name + ",version=v2"})
	s.must(err)
	hash := fmt.Sprintf("%x", image)
	var present *appsv1.ReplicaSet
	revision := 0
	for i := range all.Items {
		set, replicas := &all.Items[i], int32(0)
		if set.Labels["rollouts-pod-template-hash"] == hash {
			present, replicas = set, 2
		}
		var n int
		_, err := fmt.Sscan(set.Annotations["rollout.argoproj.io/revision"], &n)
		s.must(err)
		revision = max(revision, n)
		set.Spec.Replicas = &replicas
	}
	if present == nil {
		labels := map[string]string{"app": s.name, "version": "v2", "rollouts-pod-template-hash": hash}
		all.Items = append(all.Items, appsv1.ReplicaSet{
			ObjectMeta: metav1.ObjectMeta{Name: s.name + "-v2-" + hash, Labels: labels, OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, kinds["Rollout"].GroupVersion().WithKind("Rollout"))}},
			Spec: appsv1.ReplicaSetSpec{Replicas: new(int32(2)), Selector: &metav1.LabelSelector{MatchLabels: labels},
				Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: maps.Clone(labels)}, Spec: corev1.PodSpec{TerminationGracePeriodSeconds: new(int64(0)), Containers: []corev1.Container{{Name: "app", Image: image}}}}},
		})
		present = &all.Items[len(all.Items)-1]
	}
	present.Annotations = map[string]string{"rollout.argoproj.io/revision": fmt.Sprint(revision + 1)}
	for i := range all.Items {
		set := &all.Items[i]
		if set.UID == "" {
			_, err = sets.Create(s.t.Context(), set, metav1.CreateOptions{})
		} else {
			_, err = sets.Update(s.t.Context(), set, metav1.UpdateOptions{})
		}
		s.must(err)
	}
}

// releaseShapes are those that work. Those that are refused have tests of their own.
func releaseShapes() []releaseShape {
	v2 := workloadRef{"deployments", "NAME-v2"}
	deployment := workloadYAML("Deployment", "NAME-v2", "v2", 2)
	half := meshYAML(split("v1", 90, "v2", 10))
	cookie := `match: [{headers: {cookie: {regex: ".*canary=always.*"}}}], `
	tester := `match: [{headers: {x-tester: {exact: "yes"}}}], `
	return []releaseShape{
		{name: "statefulset", manifests: baseYAML() + workloadYAML("StatefulSet", "NAME-v2", "v2", 2) + half,
			routes: "v1 90 v2 10", rolled: "v1 100 v2 0", workload: workloadRef{"statefulsets", "NAME-v2"}},
		{name: "daemonset", manifests: baseYAML() + workloadYAML("DaemonSet", "NAME-v2", "v2", 0) + half,
			routes: "v1 90 v2 10", rolled: "v1 100 v2 0", workload: workloadRef{"daemonsets", "NAME-v2"}},
		{name: "rollout", manifests: baseYAML() + half + `---
apiVersion: argoproj.io/v1alpha1
kind: Rollout
metadata: {name: NAME-v2}
spec: {replicas: 2}
`, before: func(s *scene) { rollout(s, "shop/v2:1") }, release: rollout, routes: "v1 90 v2 10", rolled: "v1 100 v2 0"},
		{name: "two-deployments", manifests: baseYAML() + deployment + strings.Replace(workloadYAML("Deployment", "NAME-batch", "v2", 1), "shop/v2:1", "shop/batch:1", 1) + half,
			routes: "v1 90 v2 10", rolled: "v1 100 v2 0",
			after: func(s *scene) { // one of the two is new, the other still the refused one
				s.setImage(v2, "shop/v2:2")
				if r := s.recorded("the first is new, with ready pods", func(r decision.Record) bool { return len(r.Status.Served) == 3 }); r.Lock == nil || len(r.Lock.Refused) != 2 {
					s.t.Errorf("lock %+v, want one that refuses both", r.Lock)
				}
			},
			release: func(s *scene, image string) {
				s.setImage(v2, image)
				s.setImage(workloadRef{"deployments", "NAME-batch"}, image)
			}},
		{name: "by-host", settings: "stable: {host: by-host-v1}, canary: {host: by-host-v2}",
			manifests: serviceYAML("NAME-v1", "{app: NAME, version: v1}") + serviceYAML("NAME-v2", "{app: NAME, version: v2}") + workloadYAML("Deployment", "NAME-v1", "v1", 2) + deployment +
				meshYAML(split("host:NAME-v1", 90, "host:NAME-v2", 10)),
			routes: "by-host-v1 90 by-host-v2 10", rolled: "by-host-v1 100 by-host-v2 0", workload: v2},
		{name: "three-versions", manifests: serviceYAML("NAME", "{app: NAME}") + ruleYAML("", "v1", "v2", "v3") + workloadYAML("Deployment", "NAME-v1", "v1", 2) + deployment +
			workloadYAML("Deployment", "NAME-v3", "v3", 1) + meshYAML(split("v1", 60, "v2", 25, "v3", 15)),
			routes: "v1 60 v2 25 v3 15", rolled: "v1 85 v2 0 v3 15", status: []string{"Canary: 0% of the traffic"}, workload: v2},
		{name: "gateway", manifests: baseYAML() + deployment + routedYAML("NAME", "hosts: [shop.example.com], gateways: [istio-ingress/public]", split("v1", 90, "v2", 10)),
			routes: "v1 90 v2 10", rolled: "v1 100 v2 0", workload: v2},
		{name: "delegate", manifests: baseYAML() + deployment + "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: NAME, namespace: NAMESPACE}\nspec: {http: [{" + split("v1", 90, "v2", 10) + "}]}\n" +
			"---\napiVersion: v1\nkind: Namespace\nmetadata: {name: NAMESPACE-gw}\n" +
			"---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: shop, namespace: NAMESPACE-gw}\n" +
			"spec: {hosts: [shop.example.com], gateways: [public], http: [{match: [{uri: {prefix: /orders}}], delegate: {name: NAME, namespace: NAMESPACE}}]}\n",
			routes: "v1 90 v2 10", rolled: "v1 100 v2 0", workload: v2},
		{name: "cookie", manifests: baseYAML() + deployment + meshYAML(cookie+split("v1", 0, "v2", 100), split("v1", 90, "v2", 10)),
			routes: "v1 0 v2 100, v1 90 v2 10", rolled: "v1 100 v2 0, v1 100 v2 0", workload: v2,
			given: "v1 0 v2 100, v1 100 v2 0"},
		{name: "consistent-hash", manifests: serviceYAML("NAME", "{app: NAME}") + workloadYAML("Deployment", "NAME-v1", "v1", 2) + deployment + half +
			ruleYAML(", trafficPolicy: {loadBalancer: {consistentHash: {httpCookie: {name: session, ttl: 3600s}}}}", "v1", "v2"),
			routes: "v1 90 v2 10", rolled: "v1 100 v2 0", workload: v2, after: func(s *scene) {
				r, err := s.dynamic.Resource(kinds["DestinationRule"]).Namespace(s.ns).Get(s.t.Context(), s.name, metav1.GetOptions{})
				s.must(err)
				if name, _, _ := unstructured.NestedString(r.Object, "spec", "trafficPolicy", "loadBalancer", "consistentHash", "httpCookie", "name"); name != "session" || len(r.GetManagedFields()) != 1 {
					s.t.Errorf("the DestinationRule is not as it was: %v", r.Object)
				}
			}},
		{name: "testers", manifests: baseYAML() + deployment + meshYAML(tester+split("v2", 100), split("v1", 90, "v2", 10)),
			routes: "v2 100, v1 90 v2 10", rolled: "v1 100, v1 100 v2 0", workload: v2, given: "v2 100, v1 100 v2 0"},
		{name: "testers-only", manifests: baseYAML() + deployment + meshYAML(tester+split("v2", 100), split("v1", 100)),
			shift:  func(s *scene) { s.says("status NAME", "canary has 0%, and 1 route of testers") },
			routes: "v2 100, v1 100", rolled: "v1 100, v1 100", workload: v2, given: "v2 100, v1 100"},
		{name: "left-out", manifests: baseYAML() + deployment + serviceYAML("NAME-api", "{app: NAME, version: v2}") +
			meshYAML("match: [{uri: {prefix: /api/v2}}], "+split("host:NAME-api", 100), split("v1", 90, "v2", 10)),
			routes: "left-out-api 100, v1 90 v2 10", rolled: "left-out-api 100, v1 100 v2 0", workload: v2},
		{name: "autoscaled", manifests: serviceYAML("NAME", "{app: NAME}") + ruleYAML("", "v1", "v2") + workloadYAML("Deployment", "NAME-v1", "v1", 4) + deployment +
			autoscalerYAML("NAME-v1") + autoscalerYAML("NAME-v2") + meshYAML(split("v1", 100, "v2", 0)),
			shift: scaledDown, routes: "v1 90 v2 10", rolled: "v1 100 v2 0", workload: v2,
			status: []string{"Capacity: stable has 2 ready endpoints, and had 4 when it carried everything: less than rollback.capacity (0.8)"},
			after: func(s *scene) {
				s.scale("NAME-v1", 4)
				s.recorded("stable has what it had", func(r decision.Record) bool { return r.Status.Ready.Stable == 4 && r.Status.Thin == "" })
			}},
		{name: "spot", manifests: baseYAML() + "---\napiVersion: v1\nkind: Node\nmetadata: {name: NAME}\n" + strings.Replace(deployment, "spec: {", "spec: {nodeName: NAME, ", 1) + half,
			before: spotRuns, shift: spotVanishes, routes: "v1 90 v2 10", rolled: "v1 100 v2 0", status: []string{"Canary: 0% of the traffic, build", "0 ready"},
			after: func(s *scene) { // the nodes are back, with the build that was there
				spotRuns(s)
				if r := s.recorded("the same build is ready again", func(r decision.Record) bool { return r.Status.Ready.Canary == 2 }); r.Lock == nil {
					s.t.Error("the same pods on other nodes have lifted the lock")
				}
			},
			release: func(s *scene, image string) { s.setImage(v2, image); spotRuns(s) }},
	}
}

func autoscalerYAML(deployment string) string {
	return fmt.Sprintf(`---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: %[1]s}
spec: {minReplicas: 1, maxReplicas: 8, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: %[1]s}, metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 70}}}]}
`, deployment)
}

// scaledDown has the canary get a tenth, and stable's autoscaler do its work: nothing
// serves metrics here, so the test writes what it would.
func scaledDown(s *scene) {
	s.recorded("all at stable", func(r decision.Record) bool { return r.Status.Weight == 0 && r.Status.Ready.Stable == 4 })
	s.apply(meshYAML(split("v1", 90, "v2", 10)))
	s.recorded("the shift is seen", func(r decision.Record) bool { return r.Status.Weight == 10 && r.Status.Carried == 4 })
	s.scale("NAME-v1", 2)
	s.recorded("stable is told to be thin", func(r decision.Record) bool { return r.Status.Thin != "" })
	if text := s.command("check", "-f", s.guard.file); !strings.Contains(text, "stable has 2 ready endpoints, and had 4") {
		s.t.Errorf("check says\n%s", text)
	}
}

// spotPods are the canary's pods on nodes that come and go.
func (s *scene) spotPods() []corev1.Pod {
	s.t.Helper()
	pods, err := s.kube.CoreV1().Pods(s.ns).List(s.t.Context(), metav1.ListOptions{LabelSelector: "app=" + s.name + ",version=v2"})
	s.must(err)
	return slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil })
}

// spotRuns plays the kubelet of a spot node, until the Deployment is rolled out there.
func spotRuns(s *scene) {
	s.t.Helper()
	s.wait("pods on spot nodes", func(ctx context.Context) error {
		for i, p := range s.spotPods() {
			ip := fmt.Sprintf("10.202.%d.%d", i, time.Now().UnixNano()%250+1)
			status := fmt.Appendf(nil, `{"status":{"phase":"Running","podIP":%q,"podIPs":[{"ip":%q}],"conditions":[{"type":"Ready","status":"True","lastTransitionTime":%q}]}}`, ip, ip, time.Now().UTC().Format(time.RFC3339))
			if p.Status.Phase == corev1.PodRunning {
				continue
			}
			if _, err := s.kube.CoreV1().Pods(s.ns).Patch(ctx, p.Name, types.StrategicMergePatchType, status, metav1.PatchOptions{}, "status"); err != nil {
				return err
			}
		}
		d, err := s.kube.AppsV1().Deployments(s.ns).Get(ctx, s.name+"-v2", metav1.GetOptions{})
		if err == nil && (d.Status.ObservedGeneration != d.Generation || d.Status.UpdatedReplicas != 2 || d.Status.AvailableReplicas != 2 || d.Status.Replicas != 2) {
			err = fmt.Errorf("Deployment %+v", d.Status)
		}
		return err
	})
}

// spotVanishes takes the nodes away: their pods are gone at once, and those in their
// place wait for a node.
func spotVanishes(s *scene) {
	for _, p := range s.spotPods() {
		s.must(s.kube.CoreV1().Pods(s.ns).Delete(s.t.Context(), p.Name, *metav1.NewDeleteOptions(0)))
	}
	s.recorded("the canary is gone, with its share", func(r decision.Record) bool { return r.Status.Ready.Canary == 0 && r.Status.Weight == 10 })
}

// shapesCluster is a namespace of a control plane with the real controllers, in
// which pods are ready at once and run nothing.
func shapesCluster(t *testing.T) *rig {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a control plane; not under -short")
	}
	plane, err := controlplane.Start(context.Background(), controlplane.Options{Controllers: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(plane.Stop)
	r := newRigOn(t, plane)
	k, err := kubelet.Start(t.Context(), plane, kubelet.Options{Idle: func(string) bool { return true }})
	r.must(err)
	t.Cleanup(k.Stop)
	out, err := plane.Kubectl(t.Context(), controlplane.Admin, r.ns, "apply", "-f", filepath.Join("..", "..", "testdata", "shapes", "minimal-rollout-crd.yaml"))
	if err == nil {
		_, err = plane.Kubectl(t.Context(), controlplane.Admin, r.ns, "wait", "--for=condition=Established", "crd/rollouts.argoproj.io")
	}
	if err != nil {
		t.Fatal(out, err)
	}
	return r
}

// in is the rig of a subtest.
func (r *rig) in(t *testing.T) *rig {
	c := *r
	c.t = t
	return &c
}

// Each shape: traffic is split, an alert comes, all of it goes to stable and stays
// there until a new build is ready; the old one is refused when it comes back.
func TestEveryShapeOfRelease(t *testing.T) {
	r := shapesCluster(t)
	client, err := dynamic.NewForConfig(r.plane.RESTConfig(controlplane.Admin))
	r.must(err)
	var scenes []*scene
	all := append(releaseShapes(), releaseShape{name: "alternate", manifests: baseYAML() + workloadYAML("Deployment", "NAME-v2", "v2", 2) + meshYAML(split("v1", 90, "v2", 10))})
	for _, sh := range all {
		s := &scene{rig: r, releaseShape: sh, dynamic: client}
		s.apply(sh.manifests)
		if sh.before != nil {
			sh.before(s)
		}
		scenes = append(scenes, s)
	}
	g := r.serve("guardian-0", r.shapesConfig(all))
	for _, s := range scenes {
		s.guard = g
	}
	rows := scenes[:len(scenes)-1]
	for _, stage := range stages { // all rows at once: what one waits for comes while another is looked at
		for _, s := range rows {
			t.Run(stage.name+"/"+s.name, func(t *testing.T) {
				if s.rig = r.in(t); s.failed {
					t.Skip("an earlier stage of it has failed")
				}
				defer func() { s.failed = t.Failed() }()
				stage.play(s)
			})
		}
	}
	t.Run("alternate", func(t *testing.T) {
		s := scenes[len(scenes)-1]
		s.rig = r.in(t)
		s.alternate(all)
	})
}

// shapesConfig is a configuration of a guard for each shape.
func (r *rig) shapesConfig(all []releaseShape) string {
	var guards strings.Builder
	for _, sh := range all {
		fmt.Fprintf(&guards, "- {name: %s, %s}\n", sh.name, sh.settings)
	}
	return strings.Replace(r.config("127.0.0.1:0", ""), "guards:\n  []\n", "guards:\n"+guards.String(), 1)
}

// alternate has the two versions change roles after a release, as docs/shapes.md says.
func (s *scene) alternate(all []releaseShape) {
	configured := func(settings string) {
		s.t.Helper()
		all[len(all)-1].settings = settings
		s.must(os.WriteFile(s.guard.file, []byte(s.shapesConfig(all)), 0o600))
	}
	in := func(state decision.State, weight int) func(decision.Record) bool {
		return func(r decision.Record) bool { return r.Status.State == state && r.Status.Weight == weight }
	}
	s.recorded("the first release", in(decision.StateShifting, 10))
	s.apply(meshYAML(split("v1", 0, "v2", 100)))
	s.recorded("it has ended", in(decision.StatePromoted, 100))

	configured("stable: v2, canary: v1")
	s.recorded("v2 is stable now", in(decision.StateIdle, 0))
	s.says("history NAME", "exchanged", "the configuration has stable v2 and canary v1, and had v1 and v2")
	s.setImage(workloadRef{"deployments", "NAME-v1"}, "shop/v1:2")
	s.apply(meshYAML(split("v1", 10, "v2", 90)))
	s.recorded("the second release", func(r decision.Record) bool { return in(decision.StateShifting, 10)(r) && !r.Status.Rolling })
	s.alert(true)
	s.hasRoutes("after the alert", "v1 0 v2 100")
	bad := s.recorded("rolled back", in(decision.StateRolledBack, 0)).Lock.Build
	s.alert(false)

	configured("stable: v1, canary: v2") // too early: v1 has just failed
	s.recorded("nothing is moved to what has failed", func(r decision.Record) bool {
		return r.Lock != nil && r.Status.State == decision.StateBlocked && strings.Contains(r.Status.Reason, "stable v1 is what the lock denies: unlock, or have stable and canary be what they were (v2 and v1)")
	})
	s.hasRoutes("under the wrong configuration", "v1 0 v2 100")
	configured("stable: v2, canary: v1")
	s.recorded("as before", in(decision.StateRolledBack, 0))
	s.setImage(workloadRef{"deployments", "NAME-v1"}, "shop/v1:3")
	s.recorded("unlocked by the new build", func(r decision.Record) bool { return r.Lock == nil && r.Status.Build != bad })
	s.hasRoutes("in the end", "v1 0 v2 100")
}

// stages are what happens in each shape, one after the other.
var stages = []struct {
	name string
	play func(*scene)
}{
	{"split", (*scene).isSplit}, {"alert", func(s *scene) { s.alert(true) }}, {"rolled back", (*scene).isRolledBack}, {"before the release", (*scene).isStillLocked},
	{"release", func(s *scene) {
		time.Sleep(time.Until(s.released)) // the cluster tells in seconds when a build was made: one of the alert's own would be its
		s.deploy("shop/v2:2")
	}}, {"unlocked", (*scene).isUnlocked}, {"undo", func(s *scene) { s.deploy("shop/v2:1") }}, {"refused", (*scene).isRefused},
}

func (s *scene) isSplit() {
	s.recorded("pods on both sides", func(r decision.Record) bool {
		return r.Status.Ready.Stable > 1 && r.Status.Ready.Canary > 0 && r.Status.Build != "" && !r.Status.Rolling
	})
	if s.shift != nil {
		s.shift(s)
	}
	s.hasRoutes("before the alert", s.routes)
}

func (s *scene) isRolledBack() {
	s.hasRoutes("after the alert", s.rolled)
	r := s.recorded("rolled back", func(r decision.Record) bool {
		return r.Lock != nil && r.Status.State == decision.StateRolledBack && r.Status.Weight == 0
	})
	s.bad, s.refused = r.Lock.Build, r.Lock.Refused
	if !strings.HasPrefix(s.bad, "b1-") || !slices.Contains(r.Lock.Refused, s.bad) || r.Lock.Kind != decision.LockBuild {
		s.t.Errorf("lock %+v", r.Lock)
	}
	s.says("status NAME", append([]string{"State: rolled-back for", "CanaryErrors: 7% of requests fail", "To go on: "}, s.status...)...)
	s.says("history NAME", "rolled-back", "CanaryErrors: 7% of requests fail")
	s.alert(false)
}

func (s *scene) isStillLocked() {
	if s.after != nil {
		s.after(s)
	}
	if r, err := s.record(s.t.Context(), s.name); err != nil || r.Lock == nil {
		s.t.Errorf("lock %+v, %v", r.Lock, err)
	}
}

func (s *scene) isUnlocked() {
	s.recorded("unlocked by the new build", func(r decision.Record) bool { return r.Lock == nil && r.Status.Build != s.bad })
	want := s.given
	if want == "" {
		want = s.rolled
	}
	s.hasRoutes("after the new release", want)
	s.says("history NAME", "unlocked", "is ready and not among the refused")
}

func (s *scene) isRefused() { // as after kubectl rollout undo
	r := s.recorded("the refused build is refused again", func(r decision.Record) bool { return r.Lock != nil })
	if r.Lock.By != decision.ByRefused || len(r.Lock.Refused) != 1 || !slices.Contains(s.refused, r.Lock.Refused[0]) {
		s.t.Errorf("lock %+v, want one of a build that was refused before, %v", r.Lock, s.refused)
	}
}

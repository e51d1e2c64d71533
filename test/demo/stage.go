package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/canary-guardian/guardian/test/controlplane"
	"github.com/canary-guardian/guardian/test/mesh"
)

const (
	namespace  = "microservices"
	evaluation = time.Second
)

// plan says what a stage consists of.
type plan struct {
	apps     []appPlan
	scrape   time.Duration  // Prometheus's interval
	fast     time.Duration  // that of the fast lane; 0: there is none
	every    time.Duration  // between evaluations of the rules; 0: evaluation
	replicas int            // of guardian
	guard    map[string]any // further keys of every guard in guardian.yaml
}

// evaluation is how often the rules look, as guardian writes them.
func (p plan) evaluation() time.Duration {
	every := cmp.Or(p.every, evaluation)
	if p.fast > 0 {
		return min(every, p.fast/2)
	}
	return every
}

// shortest is how often the sidecars are scraped.
func (p plan) shortest() time.Duration { return cmp.Or(p.fast, p.scrape) }

// appPlan is one service: orders makes orders-service, with the Deployments orders-v1 and orders-v2.
type appPlan struct {
	name string
	rate float64 // users' requests per second from the start
}

// app is a service on the stage.
type app struct {
	name    string
	mesh    *mesh.Mesh
	changes chan change
}

// change is a change of weights that the mesh has taken over.
type change struct {
	weights map[string]int
	at      time.Time
}

func (a *app) service() string { return a.name + "-service" }

// stage is everything that runs.
type stage struct {
	plan       plan
	root       string // of the repository
	plane      *controlplane.Plane
	kube       *kubernetes.Clientset
	apps       []*app
	binary     string // guardian's
	config     string // guardian.yaml
	token      string // file
	webhook    *forwarder
	guardians  []*guardian
	prometheus *controlplane.Server
	alertmgr   *controlplane.Server
}

func (st *stage) stop() {
	for _, a := range st.apps {
		a.mesh.Stop()
	}
	if st.webhook != nil {
		st.webhook.stop()
	}
	if st.plane != nil {
		st.plane.Stop()
	}
}

// set starts everything and returns when the rules see the users' requests.
func (s *script) set(ctx context.Context, p plan) (*stage, error) {
	s.say("stage", "starting etcd, kube-apiserver, Prometheus and Alertmanager (real; the first time they are built, 5 to 10 minutes)")
	root, err := controlplane.Root()
	if err != nil {
		return nil, err
	}
	st := &stage{plan: p, root: root}
	s.stage = st
	for _, step := range []func(context.Context) error{
		st.startPlane, st.deploy, st.startMeshes, st.configure, st.startAlertmanager, st.startPrometheus, st.startGuardians,
	} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	s.say("stage", "up: they and guardian, %d replica(s); scraped every %v, rules evaluated every %v", len(st.guardians), p.scrape, p.evaluation())
	if p.fast > 0 {
		s.say("stage", "on the fast lane the sidecars are scraped every %v", p.fast)
	}
	s.say("stage", "the mesh is a stand-in: it splits real HTTP requests by the real VirtualService, 100 ms after a change")
	return st, nil
}

// startPlane starts the control plane while guardian is built.
func (st *stage) startPlane(ctx context.Context) error {
	built := make(chan error, 1)
	folder, err := os.MkdirTemp("", "guardian-demo-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	go func() {
		build := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(folder, "guardian"), "./cmd/guardian")
		build.Dir, build.Stderr = st.root, os.Stderr
		built <- build.Run()
	}()
	if st.plane, err = controlplane.Start(ctx, controlplane.Options{}); err != nil {
		return errors.Join(err, <-built)
	}
	if err := <-built; err != nil {
		return fmt.Errorf("build guardian: %w", err)
	}
	st.binary = filepath.Join(st.plane.Dir(), "guardian")
	return os.Rename(filepath.Join(folder, "guardian"), st.binary)
}

// manifest reads one of the demo's manifests as that of an app; the files are about orders.
func (st *stage) manifest(file, name string) (string, error) {
	content, err := os.ReadFile(filepath.Join(st.root, "test/demo/k8s", file))
	if err != nil {
		return "", err
	}
	path := filepath.Join(st.plane.Dir(), name+"-"+filepath.Base(file))
	return path, os.WriteFile(path, []byte(strings.ReplaceAll(string(content), "orders", name)), 0o644)
}

// ci applies one of the demo's manifests with the real kubectl, as the pipeline's own user.
func (st *stage) ci(ctx context.Context, a *app, file string) (string, error) {
	return st.apply(ctx, controlplane.CI, filepath.Join("orders", file), a.name)
}

func (st *stage) apply(ctx context.Context, user, file, name string) (string, error) {
	path, err := st.manifest(file, name)
	if err != nil {
		return "", err
	}
	out, err := st.plane.Kubectl(ctx, user, namespace, "apply", "-f", path)
	return strings.TrimSpace(out), err
}

// deploy creates what is there before guardian comes: the services with all traffic on v1.
func (st *stage) deploy(ctx context.Context) error {
	var err error
	if st.kube, err = kubernetes.NewForConfig(st.plane.RESTConfig(controlplane.Admin)); err != nil {
		return err
	}
	_, err = st.kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if _, err := st.apply(ctx, controlplane.Admin, "rbac.yaml", "orders"); err != nil {
		return err
	}
	var files []string
	for _, p := range st.plan.apps {
		for _, file := range []string{"deployment.yaml", "service.yaml", "dest-rule.yaml", "vs-100-0.yaml"} {
			path, err := st.manifest(filepath.Join("orders", file), p.name)
			if err != nil {
				return err
			}
			files = append(files, path)
		}
	}
	if _, err := st.plane.Kubectl(ctx, controlplane.CI, namespace, "apply", "-f", strings.Join(files, ",")); err != nil {
		return err
	}
	return st.plane.Settle(ctx, namespace)
}

func (st *stage) startMeshes(ctx context.Context) error {
	client, err := dynamic.NewForConfig(st.plane.RESTConfig(controlplane.Admin))
	if err != nil {
		return err
	}
	for _, p := range st.plan.apps {
		a := &app{name: p.name, changes: make(chan change, 1000)}
		a.mesh, err = mesh.Start(ctx, mesh.Options{
			Client: client, Namespace: namespace, Service: a.service(), Rate: p.rate,
			Workloads: map[string]string{"v1": a.name + "-v1", "v2": a.name + "-v2"},
			Changed: func(weights map[string]int, at time.Time) {
				select {
				case a.changes <- change{weights, at}:
				default: // nobody has read the last thousand
				}
			},
		})
		if err != nil {
			return err
		}
		st.apps = append(st.apps, a)
	}
	return nil
}

// startAlertmanager starts one whose route is the one that guardian prints.
func (st *stage) startAlertmanager(ctx context.Context) error {
	printed, err := st.guardian(ctx, "alertmanager", "-f", st.config, "--url", st.webhook.url()+"/webhook", "--token-file", st.token)
	if err != nil {
		return err
	}
	config := map[string]any{}
	if err := yaml.Unmarshal([]byte(printed), &config); err != nil {
		return fmt.Errorf("read what guardian alertmanager prints: %w", err)
	}
	route, ok := config["route"].(map[string]any)
	receivers, ok2 := config["receivers"].([]any)
	if !ok || !ok2 {
		return fmt.Errorf("guardian alertmanager prints no route and receivers:\n%s", printed)
	}
	route["receiver"] = "people"
	config["receivers"] = append(receivers, map[string]any{"name": "people"})
	whole, err := yaml.Marshal(config)
	if err != nil {
		return err
	}
	st.alertmgr, err = st.plane.StartAlertmanager(ctx, controlplane.AlertmanagerOptions{Config: string(whole)})
	return err
}

// startPrometheus starts one with the rules that guardian prints.
func (st *stage) startPrometheus(ctx context.Context) error {
	kubeconfig, err := st.plane.Kubeconfig(controlplane.Admin, namespace)
	if err != nil {
		return err
	}
	printed, err := st.guardian(ctx, "rules", "-f", st.config, "--format", "prometheus", "--from-cluster", "--kubeconfig", kubeconfig)
	if err != nil {
		return err
	}
	rules := filepath.Join(st.plane.Dir(), "rules.yml")
	if err := os.WriteFile(rules, []byte(printed), 0o644); err != nil {
		return err
	}
	var targets []controlplane.Target
	for _, a := range st.apps {
		for _, t := range a.mesh.Targets() {
			targets = append(targets, controlplane.Target{Job: "istio-proxies", Address: t.Address})
		}
	}
	for _, g := range st.guardians {
		targets = append(targets, controlplane.Target{Job: "guardian", Address: g.metrics})
	}
	jobs, err := st.fastLane(ctx, kubeconfig)
	if err != nil {
		return err
	}
	targets = append(targets, controlplane.Target{Job: "alertmanager", Address: strings.TrimPrefix(st.alertmgr.URL, "http://")})
	st.prometheus, err = st.plane.StartPrometheus(ctx, controlplane.PrometheusOptions{
		ScrapeInterval: st.plan.scrape, EvaluationInterval: evaluation, RuleFiles: []string{rules}, Targets: targets, Jobs: jobs,
		Alertmanagers: []controlplane.Receiver{{URL: st.alertmgr.URL}},
	})
	return err
}

// fastLane is the scrape job that guardian prints, with a list of the proxies in place of the discovery of pods: nothing
// listens at the pods' own addresses. Each has the labels that the discovery would have given it, so the job chooses for
// itself among them.
func (st *stage) fastLane(ctx context.Context, kubeconfig string) ([]map[string]any, error) {
	if st.plan.fast == 0 {
		return nil, nil
	}
	printed, err := st.guardian(ctx, "rules", "-f", st.config, "--format", "scrapeconfig", "--from-cluster", "--kubeconfig", kubeconfig)
	if err != nil {
		return nil, err
	}
	var config struct {
		Jobs []map[string]any `json:"scrape_configs"`
	}
	if err := yaml.Unmarshal([]byte(printed), &config); err != nil {
		return nil, fmt.Errorf("read what guardian rules prints: %w", err)
	}
	pods, err := st.kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var found []map[string]any
	for _, a := range st.apps {
		for _, t := range a.mesh.Targets() {
			found = append(found, map[string]any{"targets": []string{t.Address}, "labels": discovered(t, pods.Items)})
		}
	}
	for _, job := range config.Jobs {
		delete(job, "kubernetes_sd_configs")
		job["static_configs"] = found
	}
	return config.Jobs, nil
}

// discovered are the labels that Prometheus finds for the sidecar of a workload's first pod.
func discovered(t mesh.Target, pods []corev1.Pod) map[string]string {
	const meta = "__meta_kubernetes_"
	found := map[string]string{
		meta + "namespace": namespace, meta + "pod_phase": "Running", meta + "pod_container_port_name": "http-envoy-prom",
		meta + "pod_controller_kind": "ReplicaSet", meta + "pod_controller_name": t.Workload + "-0", meta + "pod_name": t.Workload + "-0-0",
		meta + "pod_labelpresent_pod_template_hash": "true",
	}
	for i := range pods {
		owner := metav1.GetControllerOfNoCopy(&pods[i])
		if owner != nil && strings.HasPrefix(owner.Name, t.Workload+"-") {
			found[meta+"pod_controller_name"], found[meta+"pod_name"] = owner.Name, pods[i].Name
			found[meta+"pod_label_version"] = pods[i].Labels["version"]
			break
		}
	}
	return found
}

// applyText applies a manifest as admin.
func (st *stage) applyText(ctx context.Context, name, content string) error {
	path := filepath.Join(st.plane.Dir(), name)
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		return err
	}
	_, err := st.plane.Kubectl(ctx, controlplane.Admin, namespace, "apply", "-f", path)
	return err
}

// hold keeps everything up until ctx ends.
func (s *script) hold(ctx context.Context) {
	st := s.stage
	kubeconfig, err := st.plane.Kubeconfig(controlplane.Admin, namespace)
	if err != nil || st.prometheus == nil || st.guardians[0].process == nil {
		return // it has not got so far
	}
	s.title("Everything stays up until ctrl-C:")
	for _, line := range [][2]string{
		{"Prometheus", st.prometheus.URL}, {"Alertmanager", st.alertmgr.URL}, {"guardian's metrics", "http://" + st.guardians[0].metrics + "/metrics"},
		{"guardian's guards", "http://" + st.guardians[0].metrics + "/api/v1/guards"}, {"guardian's log", st.guardians[0].process.Log()},
		{"guardian", st.binary},
	} {
		_, _ = fmt.Fprintf(s.out, "  %-20s %s\n", line[0], line[1])
	}
	_, _ = fmt.Fprintf(s.out, "  export KUBECONFIG=%s\n", kubeconfig)
	<-ctx.Done()
}

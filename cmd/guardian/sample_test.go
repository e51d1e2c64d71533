package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/canary-guardian/guardian/rules"
	"github.com/canary-guardian/guardian/test/controlplane"
)

// The sample repository under docs/samples/orders.
const (
	sampleNamespace = "microservices"
	sampleGuard     = "orders-service"
)

var sampleFolder = filepath.Join("..", "..", "docs", "samples", "orders")

// step is a command of a pipeline.
type step struct {
	stage, run string
	after      bool // only when an earlier step of the canary has failed
}

// jenkinsSteps are the sh steps of the sample's Jenkinsfile, in their order.
func jenkinsSteps(t *testing.T) []step {
	t.Helper()
	var out []step
	stage, depth, post := "", 0, 0
	for line := range strings.Lines(readDoc(t, "docs", "samples", "orders", "ci", "Jenkinsfile")) {
		line = strings.TrimSpace(line)
		if m := regexp.MustCompile(`^stage\('(.*)'\) \{$`).FindStringSubmatch(line); m != nil {
			stage = m[1]
		}
		if line == "post {" {
			post = depth + 1
		}
		if m := regexp.MustCompile(`^sh '(.*)'$`).FindStringSubmatch(line); m != nil {
			out = append(out, step{stage, m[1], post > 0})
		} else if strings.HasPrefix(line, "sh ") {
			t.Errorf("a step that this test does not read: %s", line)
		}
		if depth += strings.Count(line, "{") - strings.Count(line, "}"); depth < post {
			post = 0
		}
	}
	return out
}

// workflowSteps are the commands of the sample's GitHub workflow, in their order.
func workflowSteps(t *testing.T) []step {
	t.Helper()
	var workflow struct {
		Jobs map[string]struct {
			Steps []struct{ Name, Run, If string }
		}
	}
	if err := yaml.Unmarshal([]byte(readDoc(t, "docs", "samples", "orders", ".github", "workflows", "canary.yaml")), &workflow); err != nil {
		t.Fatal(err)
	}
	var out []step
	for _, s := range workflow.Jobs["release"].Steps {
		for line := range strings.Lines(s.Run) {
			out = append(out, step{s.Name, strings.TrimSpace(line), s.If != ""})
		}
	}
	return out
}

// So what is seen of one of them holds of the other.
func TestThePipelinesOfTheSampleRunTheSameCommands(t *testing.T) {
	commands := func(steps []step) (out []string) {
		for _, s := range steps {
			out = append(out, fmt.Sprint(strings.TrimSuffix(s.run, " --format github"), s.after))
		}
		return out
	}
	jenkins, workflow := commands(jenkinsSteps(t)), commands(workflowSteps(t))
	if !slices.Equal(jenkins, workflow) || len(jenkins) != 15 {
		t.Errorf("Jenkinsfile:\n%s\nworkflow:\n%s", strings.Join(jenkins, "\n"), strings.Join(workflow, "\n"))
	}
}

// The service of the sample is a program, and its image is made of files that are there.
func TestTheServiceOfTheSampleBuilds(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "orders-service")
	if err := os.CopyFS(folder, os.DirFS(filepath.Join(sampleFolder, "services", "orders-service"))); err != nil {
		t.Fatal(err)
	}
	build := ""
	for line := range strings.Lines(readDoc(t, "docs", "samples", "orders", "services", "orders-service", "Dockerfile")) {
		words := strings.Fields(line)
		switch {
		case len(words) > 0 && words[0] == "COPY" && !strings.HasPrefix(words[1], "--from="):
			for _, from := range words[1 : len(words)-1] {
				if _, err := os.Stat(filepath.Join(folder, from)); err != nil {
					t.Errorf("%s: %v", strings.TrimSpace(line), err)
				}
			}
		case len(words) > 0 && words[0] == "RUN":
			build = strings.TrimSpace(strings.TrimPrefix(line, "RUN "))
		}
	}
	program := filepath.Join(folder, "program")
	if !strings.Contains(build, "-o /orders-service ") {
		t.Fatalf("the Dockerfile runs %q", build)
	}
	for _, command := range []string{strings.Replace(build, "-o /orders-service ", "-o "+program+" ", 1), "go vet ./..."} {
		cmd := exec.CommandContext(t.Context(), "sh", "-e", "-c", command)
		cmd.Dir, cmd.Env = folder, append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod", "GOPROXY=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
	}
	if _, err := os.Stat(program); err != nil {
		t.Error(err)
	}
}

// An AppProject's sync windows hold the Applications of that project alone.
func TestTheSamplesOfArgoCDBelongTogether(t *testing.T) {
	type object struct {
		Kind     string
		Metadata metav1.ObjectMeta
		Spec     struct {
			Project      string
			Destination  map[string]string
			Destinations []map[string]string
			SyncWindows  []struct{ Applications []string }
		}
	}
	files, err := filepath.Glob(filepath.Join(sampleFolder, "argocd", "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	projects, applications := map[string]object{}, map[string]object{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var o object
		if err := yaml.Unmarshal(text, &o); err != nil {
			t.Fatal(err)
		}
		switch o.Kind {
		case "AppProject":
			projects[o.Metadata.Name] = o
		case "Application":
			applications[filepath.Base(file)] = o
		}
	}
	used := map[string]bool{}
	for file, a := range applications {
		p, ours := projects[a.Spec.Project]
		if !ours && a.Spec.Project != "default" {
			t.Errorf("%s: there is no AppProject %s", file, a.Spec.Project)
		}
		if !ours {
			continue
		}
		used[a.Spec.Project] = true
		for _, w := range p.Spec.SyncWindows {
			if !slices.Contains(w.Applications, a.Metadata.Name) || !reflect.DeepEqual(p.Spec.Destinations, []map[string]string{a.Spec.Destination}) {
				t.Errorf("%s: the window of %s is not about it", file, a.Spec.Project)
			}
		}
	}
	for name := range projects {
		if !used[name] {
			t.Errorf("no Application belongs to the AppProject %s: its sync window holds nothing", name)
		}
	}
	if len(applications) != 3 {
		t.Errorf("%d Applications", len(applications))
	}
}

// One name twice in a folder that Argo CD syncs: the last one wins.
func TestTheSampleHasEachObjectOnce(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(sampleFolder, "k8s", "orders", "*"))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var object metav1.PartialObjectMetadata
		if err := yaml.Unmarshal(text, &object); err != nil {
			t.Fatal(err)
		}
		key := object.Kind + " " + object.Namespace + "/" + object.Name
		if seen[key] != "" || object.Namespace != sampleNamespace {
			t.Errorf("%s has %s; so has %q", file, key, seen[key])
		}
		seen[key] = file
	}
	if len(seen) != 5 {
		t.Errorf("%d objects", len(seen))
	}
}

// sample is the sample repository in a cluster with the admission policies, where
// guardian runs and CI has an account of its own. Nobody runs Deployments: their
// Pods are made ready here. The answers of Prometheus are a stand-in's, and the
// heartbeats come without Prometheus and Alertmanager.
type sample struct {
	*rig
	g       *guardian
	folder  string
	kubectl string
	bin     string // what the pipelines have on PATH besides the machine's own
	env     []string
	dynamic dynamic.Interface
	rolling atomic.Bool // new Pods become ready
	shares  *shares
}

func newSample(t *testing.T) *sample {
	plane := planeServing(t, "v1", "v1beta1", "v1alpha3")
	s := &sample{rig: newBareRig(t, plane), folder: filepath.Join(t.TempDir(), "orders")}
	s.ns = sampleNamespace
	s.must(plane.CreateNamespace(t.Context(), s.ns))
	s.giveAccount()
	var err error
	s.dynamic, err = dynamic.NewForConfig(plane.RESTConfig(controlplane.Admin))
	s.must(err)
	s.must(os.CopyFS(s.folder, os.DirFS(sampleFolder)))
	s.commandLine()
	s.asAdmin("", "apply", "--validate=strict", "--dry-run=server", "-f", filepath.Join(s.folder, "k8s", "orders"))
	s.asAdmin("", "apply", "-f", filepath.Join(s.folder, "k8s", "orders"))
	s.policies()
	s.runPods()
	s.startGuardian()
	s.shares = s.follow()
	return s
}

// runPods makes the Pods of the namespace's Deployments ready, as long as they are to be.
func (s *sample) runPods() {
	s.rolling.Store(true)
	s.background(200*time.Millisecond, func(ctx context.Context) error {
		if !s.rolling.Load() {
			return nil
		}
		return s.plane.Settle(ctx, s.ns)
	})
}

// startGuardian starts one that the stand-ins tell that all is well.
func (s *sample) startGuardian() {
	prometheus := standInPrometheus(s.t)
	s.g = s.serve("guardian-0", s.config("127.0.0.1:0", fmt.Sprintf("prometheus: {url: %q}\nrules: {enabled: false, links: {grafana: 'https://grafana.example'}}", prometheus), &controlplane.App{Name: sampleGuard}))
	beat := webhookOf(map[string]any{"status": "firing", "startsAt": time.Now().UTC().Format(time.RFC3339), "endsAt": "0001-01-01T00:00:00Z",
		"fingerprint": "00000000000000aa", "labels": map[string]string{"alertname": rules.AlertHeartbeat, rules.LabelGuardian: "true",
			rules.LabelInstance: "guardian", rules.LabelNamespace: s.ns, rules.LabelAction: "none"}})
	s.background(500*time.Millisecond, func(ctx context.Context) error {
		status, err := post(ctx, s.g.url+"/webhook", bearer, beat)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("heartbeat answered %d", status)
		}
		return err
	})
}

// commandLine is where the pipelines run: with the real kubectl, guardian, and the
// account of CI. docker alone is none: it is told to build, and does nothing.
func (s *sample) commandLine() {
	ctx := s.t.Context()
	bin := s.t.TempDir()
	s.bin = bin
	var err error
	s.kubectl, err = controlplane.Binary(ctx, "kubectl")
	s.must(err)
	s.must(os.Symlink(s.kubectl, filepath.Join(bin, "kubectl")))
	s.must(os.Symlink(s.binary(), filepath.Join(bin, "guardian")))
	s.must(os.WriteFile(filepath.Join(bin, "docker"), []byte("#!/bin/sh\necho docker \"$@\"\n"), 0o700))
	account, err := s.plane.ServiceAccount(ctx, s.ns, "ci")
	s.must(err)
	s.must(s.plane.Grant(ctx, s.ns, "system:serviceaccount:"+s.ns+":ci", ciRights()...))
	kubeconfig, err := s.plane.WriteKubeconfig(account, "ci", s.ns)
	s.must(err)
	s.env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "KUBECONFIG="+kubeconfig, "KUBECACHEDIR="+s.t.TempDir(),
		"NAMESPACE="+s.ns, "GATE_FOR=5s", "SYNC_TIMEOUT=30s", "GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_AUTHOR_NAME=ci", "GIT_AUTHOR_EMAIL=ci@example.com", "GIT_COMMITTER_NAME=ci", "GIT_COMMITTER_EMAIL=ci@example.com")
}

// ciRights are those of docs/samples/orders/README.md.
func ciRights() []rbacv1.PolicyRule {
	return append(rbacOptions{account: "ci"}.rules(),
		rbacv1.PolicyRule{APIGroups: []string{"apps"}, Resources: []string{"deployments"}, Verbs: []string{"get", "list", "watch", "patch"}},
		rbacv1.PolicyRule{APIGroups: []string{"networking.istio.io"}, Resources: []string{"virtualservices"}, Verbs: []string{"get", "list", "watch", "patch"}})
}

// asAdmin runs kubectl with some input.
func (s *sample) asAdmin(input string, args ...string) string {
	s.t.Helper()
	kubeconfig, err := s.plane.Kubeconfig(controlplane.Admin, s.ns)
	s.must(err)
	cmd := exec.CommandContext(s.t.Context(), s.kubectl, append(args, "--kubeconfig="+kubeconfig)...)
	cmd.Env, cmd.Stdin = s.env, strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("kubectl %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// policies installs what `guardian admission` prints.
func (s *sample) policies() {
	out, err := exec.CommandContext(s.t.Context(), s.binary(), "admission").Output()
	s.must(err)
	s.asAdmin(string(out), "apply", "--server-side", "-f", "-")
}

// background does something again and again until the test ends.
func (s *sample) background(every time.Duration, do func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	s.t.Cleanup(func() {
		cancel()
		<-done
	})
	go func() {
		defer close(done)
		for sleep(ctx, every) == nil {
			// A step that failed is done again: objects change below it.
			if err := do(ctx); err != nil && ctx.Err() == nil {
				s.t.Log(err)
			}
		}
	}()
}

// standInPrometheus says that the rules watch, and counts requests none of which failed.
func standInPrometheus(t *testing.T) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		type sample struct {
			Metric map[string]string `json:"metric"`
			Value  [2]any            `json:"value"`
		}
		list := []sample{}
		add := func(value, label, is string) {
			metric := map[string]string{}
			if label != "" {
				metric[label] = is
			}
			list = append(list, sample{metric, [2]any{float64(time.Now().Unix()), value}})
		}
		switch query := r.FormValue("query"); {
		case strings.Contains(query, "istio_requests_total"):
			add("1204", rules.LabelTally, rules.TallyRequests)
			add("0", rules.LabelTally, rules.TallyFailed)
		case strings.Contains(query, "guardian:group:evaluated"):
			for _, group := range []string{"guards", "requests", "traffic", "latency", "restarts"} {
				add("1", "group", group)
			}
			add("1", rules.LabelSide, "stable")
			add("1", rules.LabelSide, "canary")
		}
		w.Header().Set("Content-Type", "application/json")
		answer := map[string]any{"status": "success", "data": map[string]any{"resultType": "vector", "result": list}}
		if err := json.NewEncoder(w).Encode(answer); err != nil && r.Context().Err() == nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// shares are the canary's weights since they were last read, in their order.
type shares struct {
	mu   sync.Mutex
	list []int64
}

func (s *shares) take() []int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.list
	s.list = out[len(out)-1:]
	return out
}

// follow takes down each weight of the canary.
func (s *sample) follow() *shares {
	s.t.Helper()
	out := &shares{}
	s.t.Cleanup(s.eachVirtualService(func(vs *unstructured.Unstructured) {
		out.mu.Lock()
		defer out.mu.Unlock()
		if share := canaryWeight(vs); len(out.list) == 0 || out.list[len(out.list)-1] != share {
			out.list = append(out.list, share)
		}
	}))
	return out
}

// eachVirtualService does something with each state of the namespace's
// VirtualServices, one after the other; after stop nothing is done any more.
func (s *sample) eachVirtualService(do func(*unstructured.Unstructured)) (stop func()) {
	s.t.Helper()
	w, err := s.dynamic.Resource(controlplane.VirtualServices).Namespace(s.ns).Watch(s.t.Context(), metav1.ListOptions{})
	s.must(err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for e := range w.ResultChan() {
			if vs, ok := e.Object.(*unstructured.Unstructured); ok {
				do(vs)
			}
		}
	}()
	return func() {
		w.Stop()
		<-done
	}
}

func (s *sample) isAt(share int64) {
	s.t.Helper()
	vs, err := s.dynamic.Resource(controlplane.VirtualServices).Namespace(s.ns).Get(s.t.Context(), sampleGuard, metav1.GetOptions{})
	s.must(err)
	if got := canaryWeight(vs); got != share {
		s.t.Errorf("the canary has %d%%, want %d%%", got, share)
	}
}

// image is what a version's Deployment runs.
func (s *sample) image(version string) string {
	s.t.Helper()
	d, err := s.kube.AppsV1().Deployments(s.ns).Get(s.t.Context(), "orders-"+version, metav1.GetOptions{})
	s.must(err)
	return d.Spec.Template.Spec.Containers[0].Image
}

// sh runs a command as a pipeline does, and returns its exit code and its log. A
// minute of a gate is cut to a few seconds.
func (s *sample) sh(command, image string) (int, string) {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), "sh", "-e", "-c", strings.ReplaceAll(command, "--for 60s", "--for 5s"))
	log := &syncBuffer{}
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = s.folder, append(s.env, "IMAGE="+image), log, log
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), log.String()
}

// mustSh runs commands that are to succeed.
func (s *sample) mustSh(commands ...string) {
	s.t.Helper()
	for _, command := range commands {
		if code, said := s.sh(command, ""); code != 0 {
			s.t.Fatalf("%s: exit status %d\n%s", command, code, said)
		}
	}
}

// initGit makes the sample a repository of one commit.
func (s *sample) initGit() {
	s.t.Helper()
	s.mustSh("git init --quiet -b main", "git add .", "git commit --quiet -m orders")
}

// intoGit makes the sample a repository, and pushes it to a new bare one.
func (s *sample) intoGit(bare string) {
	s.t.Helper()
	s.initGit()
	s.mustSh("git init --quiet --bare -b main "+bare, "git remote add origin "+bare, "git push --quiet -u origin main")
}

// weightFiles writes the VirtualService into each folder with the weights of the
// article's pipelines, one file each.
func (s *sample) weightFiles(folders ...string) {
	s.t.Helper()
	for name, weight := range map[string]string{"vs-100-0.yaml": "0", "vs-90-10.yaml": "10", "vs-50-50.yaml": "50", "vs-0-100.yaml": "100"} {
		out, err := exec.CommandContext(s.t.Context(), s.binary(), "plan", "-f", filepath.Join(s.folder, "k8s", "orders", "virtual-service.yaml"), "--weight", weight).Output()
		s.must(err)
		for _, folder := range folders {
			s.must(os.WriteFile(filepath.Join(folder, name), out, 0o644))
		}
	}
}

// pipeline runs its steps, and those for a failure when one fails.
func (s *sample) pipeline(steps []step, image string, before func(step)) (failed *step, log string) {
	s.t.Helper()
	canary := false
	for _, now := range steps {
		if now.after != (failed != nil) || now.after && !canary {
			continue
		}
		canary = canary || strings.HasPrefix(now.run, "ci/shift.sh")
		if before != nil {
			before(now)
		}
		code, said := s.sh(now.run, image)
		log += fmt.Sprintf("%s: %s: exit status %d\n%s", now.stage, now.run, code, said)
		if code != 0 && failed == nil {
			failed = &now
		} else if code != 0 {
			s.t.Errorf("%s after a failure: %d\n%s", now.run, code, said)
		}
	}
	return failed, log
}

func (s *sample) alert(status string) {
	s.t.Helper()
	a := s.alertOf(sampleGuard)
	a["status"] = status
	if status == "resolved" {
		a["endsAt"] = a["startsAt"]
	}
	s.must(insist(s.t.Context(), s.g.url, webhookOf(a)))
}

func (s *sample) wantShares(want ...int64) {
	s.t.Helper()
	if got := s.shares.take(); !slices.Equal(got, want) {
		s.t.Errorf("the canary's shares were %v, want %v", got, want)
	}
}

// TestThePipelinesOfTheSample releases four builds one after the other, as the
// sample's pipelines do.
func TestThePipelinesOfTheSample(t *testing.T) {
	s := newSample(t)

	// A healthy release, by the GitHub workflow.
	failed, log := s.pipeline(workflowSteps(t), "orders:1", nil)
	if failed != nil {
		t.Fatalf("%s failed:\n%s", failed.stage, log)
	}
	s.wantShares(0, 10, 30, 50, 100)
	if !strings.Contains(log, "docker push orders:1") || strings.Count(log, ": 1,204 requests in ") != 4 {
		t.Errorf("log:\n%s", log)
	}

	// The next one, by the Jenkinsfile, fails at 30%.
	failed, log = s.pipeline(jenkinsSteps(t), "orders:2", func(next step) {
		if next.stage == "30%" && strings.HasPrefix(next.run, "guardian gate") {
			s.alert("firing")
		}
	})
	if failed == nil || failed.stage != "30%" || !strings.Contains(log, "7% of requests fail") {
		t.Fatalf("failed: %+v\n%s", failed, log)
	}
	s.isAt(0)
	s.wantShares(100, 0, 10, 30, 0) // the build of the first release became the stable one before
	if v1, v2 := s.image("v1"), s.image("v2"); v1 != "orders:1" || v2 != "orders:2" {
		t.Errorf("v1 runs %s, v2 %s", v1, v2)
	}

	// The one after it, by a pipeline that does not wait for its Pods.
	s.alert("resolved")
	s.rolling.Store(false)
	s.mustSh("ci/deploy.sh orders:3")
	code, said := s.sh("ci/shift.sh 10", "")
	advice := "deploy a new build of v2 and wait until it is rolled out (kubectl rollout status, or: guardian gate orders-service -n microservices --wait-unlocked)"
	if code == 0 || !strings.Contains(said, advice) || !strings.Contains(said, "7% of requests fail") {
		t.Errorf("shifted without waiting: exit status %d\n%s", code, said)
	}
	s.isAt(0)

	// The same with the shell script, which waits, as GitLab runs it.
	s.rolling.Store(true)
	if code, said := s.sh(gitlabScript(t, "3"), ""); code != 0 || !strings.Contains(said, "docker push registry.example/orders-service:3") {
		t.Fatalf("exit status %d\n%s", code, said)
	}
	s.wantShares(0, 10, 30, 50, 100)
	s.byGit()
}

// byGit has the weights go by way of git. Nobody syncs here: the cluster has them
// already, or never gets them.
func (s *sample) byGit() {
	s.t.Helper()
	s.intoGit("../orders.git")
	s.mustSh("ci/commit.sh 100", "ci/commit.sh 100")
	_, log := s.sh("git --git-dir=../orders.git log -p --format=%s main~1..", "")
	for _, want := range []string{"orders-service: v2 gets 100%\n", "\n-      weight: 100\n+      weight: 0\n", "\n-      weight: 0\n+      weight: 100\n"} {
		if !strings.Contains(log, want) {
			s.t.Errorf("want %q in the log:\n%s", want, log)
		}
	}
	if code, said := s.sh("SYNC_TIMEOUT=1s ci/commit.sh 30", ""); code == 0 || !strings.Contains(said, "timed out") {
		s.t.Errorf("not synced: exit status %d\n%s", code, said)
	}
}

// The script of the composite action, with the inputs that a workflow may give it.
func TestTheActionCallsTheGateAsItsInputsSay(t *testing.T) {
	var action struct {
		Inputs map[string]struct{ Default string }
		Runs   struct {
			Steps []struct {
				Run string
				Env map[string]string
			}
		}
	}
	if err := yaml.Unmarshal([]byte(readDoc(t, ".github", "actions", "gate", "action.yaml")), &action); err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "guardian"), []byte("#!/bin/sh\nprintf '%s|' \"$@\"\nexit 2\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	run := func(path string, inputs map[string]string) (int, string) {
		one := action.Runs.Steps[0]
		cmd := exec.CommandContext(t.Context(), "sh", "-e", "-c", one.Run)
		cmd.Env = []string{"PATH=" + path}
		for name, from := range one.Env {
			input := strings.TrimSuffix(strings.TrimPrefix(from, "${{ inputs."), " }}")
			given, ok := inputs[input]
			if !ok {
				given = action.Inputs[input].Default
			}
			cmd.Env = append(cmd.Env, name+"="+given)
		}
		out, err := cmd.CombinedOutput()
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) {
			t.Fatalf("%v: %v\n%s", inputs, err, out)
		}
		return cmd.ProcessState.ExitCode(), string(out)
	}
	path := bin + ":" + os.Getenv("PATH")
	for _, c := range []struct {
		inputs map[string]string
		want   string
	}{
		{nil, "gate|--format|github|--timeout|10m|--for|60s|--all|--|"},
		{map[string]string{"guards": "orders * $(id)", "namespace": "shop", "for": "5m", "prove": "2%", "timeout": "1h", "min-requests": "100"},
			"gate|--format|github|--timeout|1h|-n|shop|--for|5m|--prove|2%|--min-requests|100|--|orders|*|$(id)|"},
		{map[string]string{"guards": "orders", "wait-unlocked": "true"}, "gate|--format|github|--timeout|10m|--wait-unlocked|--|orders|"},
	} {
		if code, got := run(path, c.inputs); got != c.want || code != exitUnknown {
			t.Errorf("%v: exit status %d, %q; want %q", c.inputs, code, got, c.want)
		}
		// They are taken.
		root := (&app{name: "guardian"}).command()
		cmd, args, err := root.Find(strings.Split(strings.TrimSuffix(c.want, "|"), "|"))
		if err == nil {
			err = cmd.ParseFlags(args)
		}
		if err == nil {
			err = cmd.ValidateArgs(cmd.Flags().Args())
		}
		if err != nil {
			t.Errorf("%s: %v", c.want, err)
		}
	}
	if code, got := run("/nonexistent", nil); code != exitUnknown || !strings.HasPrefix(got, "::error::guardian is not on PATH") {
		t.Errorf("without guardian: %d, %q", code, got)
	}
}

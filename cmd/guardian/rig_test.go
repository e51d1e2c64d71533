package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/remediate"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/rules"
	"github.com/canary-guardian/guardian/test/controlplane"
)

// patience is how long a test waits for what must happen.
const patience = 40 * time.Second

// rig is a namespace on the real API server, in which guardian has an account
// with the rights that it needs and no others.
type rig struct {
	t       *testing.T
	plane   *controlplane.Plane
	ns      string
	account *rest.Config
	kube    *kubernetes.Clientset // admin
	token   string                // file
}

const bearer = "a-long-enough-token"

func newRig(t *testing.T) *rig {
	t.Helper()
	return newRigOn(t, controlplane.Shared(t))
}

// newRigOn is for a control plane that is not as the others' is.
func newRigOn(t *testing.T, plane *controlplane.Plane) *rig {
	t.Helper()
	r := newBareRig(t, plane)
	r.giveAccount()
	return r
}

// giveAccount makes guardian's account, with its rights, and its token.
func (r *rig) giveAccount() {
	r.t.Helper()
	r.must(os.WriteFile(r.token, []byte(bearer+"\n"), 0o600))
	var err error
	r.account, err = r.plane.ServiceAccount(r.t.Context(), r.ns, "guardian")
	r.must(err)
	r.must(r.plane.Grant(r.t.Context(), r.ns, "system:serviceaccount:"+r.ns+":guardian", remediate.RBAC()...))
}

// newBareRig is a rig without guardian's account, for those who install it.
func newBareRig(t *testing.T, plane *controlplane.Plane) *rig {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		if t.Failed() {
			return
		}
		if err := goleak.Find(before, // connections of client-go's cache of transports, and children of the plane
			goleak.IgnoreAnyFunction("golang.org/x/net/http2.(*ClientConn).readLoop"),
			goleak.IgnoreAnyFunction("net/http.(*http2ClientConn).readLoop"),
			goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"),
			goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
			goleak.IgnoreAnyFunction("os/exec.(*Cmd).Wait"),
		); err != nil {
			t.Error(err)
		}
	})
	r := &rig{t: t, plane: plane, ns: plane.Namespace(t), token: filepath.Join(t.TempDir(), "token")}
	var err error
	r.kube, err = kubernetes.NewForConfig(plane.RESTConfig(controlplane.Admin))
	r.must(err)
	return r
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// wait returns when ok does not complain any more.
func (r *rig) wait(what string, ok func(context.Context) error) {
	r.t.Helper()
	r.waitFor(patience, what, ok)
}

// waitFor is for what takes its time.
func (r *rig) waitFor(long time.Duration, what string, ok func(context.Context) error) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), long)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ok(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			r.t.Fatalf("%s: %v", what, err)
		case <-tick.C:
		}
	}
}

// app makes a service with a canary at a weight.
func (r *rig) app(name string, canary int) *controlplane.App {
	r.t.Helper()
	app, err := r.plane.NewApp(r.t.Context(), r.ns, name)
	r.must(err)
	r.must(app.SetWeights(r.t.Context(), 100-canary, canary))
	return app
}

// apps makes many, named prefix-0 and so on.
func (r *rig) apps(prefix string, n, canary int) []*controlplane.App {
	r.t.Helper()
	out, errs := make([]*controlplane.App, n), make([]error, n)
	var wg sync.WaitGroup
	slots := make(chan struct{}, 8)
	for i := range n {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if out[i], errs[i] = r.plane.NewApp(r.t.Context(), r.ns, fmt.Sprintf("%s-%d", prefix, i)); errs[i] == nil {
				errs[i] = out[i].SetWeights(r.t.Context(), 100-canary, canary)
			}
		})
	}
	wg.Wait()
	r.must(errors.Join(errs...))
	return out
}

func (r *rig) atWeight(app *controlplane.App, want int64) {
	r.t.Helper()
	r.wait(fmt.Sprintf("%s at %d", app.Name, want), func(ctx context.Context) error { return isAt(ctx, app, want) })
}

func isAt(ctx context.Context, app *controlplane.App, want int64) error {
	w, err := app.Weights(ctx)
	if err == nil && w["v2"] != want {
		err = fmt.Errorf("%s: weights %v, want canary at %d", app.Name, w, want)
	}
	return err
}

func (r *rig) record(ctx context.Context, guard string) (decision.Record, error) {
	cm, err := r.kube.CoreV1().ConfigMaps(r.ns).Get(ctx, records.Name(guard), metav1.GetOptions{})
	if err != nil {
		return decision.Record{}, err
	}
	if locked := cm.Labels[records.LabelLocked] == "true"; locked != (cm.Data["lock"] != "") {
		return decision.Record{}, fmt.Errorf("label locked is %v, lock is %q", locked, cm.Data["lock"])
	}
	return records.Parse(cm)
}

// rolledBack waits until a guard is locked and its canary has no traffic.
func (r *rig) rolledBack(app *controlplane.App) decision.Record {
	r.t.Helper()
	var rec decision.Record
	r.wait(app.Name+" rolled back", func(ctx context.Context) (err error) {
		if rec, err = r.record(ctx, app.Name); err != nil {
			return err
		}
		if rec.Lock == nil {
			return fmt.Errorf("%s: not locked: %s (%s)", app.Name, rec.Status.State, rec.Status.Reason)
		}
		return isAt(ctx, app, 0)
	})
	return rec
}

// config is a configuration file for guards of one line.
func (r *rig) config(alerts, extra string, apps ...*controlplane.App) string {
	var b strings.Builder
	fmt.Fprintf(&b, "namespace: %s\nlisten: {alerts: %q, metrics: %q}\nwebhook: {tokenFile: %q}\n", r.ns, alerts, "127.0.0.1:0", r.token)
	if !strings.Contains(extra, "prometheus:") {
		b.WriteString("prometheus: {url: \"\"}\n")
	}
	if !strings.Contains(extra, "alertmanager:") {
		b.WriteString("alertmanager: {url: \"http://127.0.0.1:1\"}\n") // nobody answers
	}
	if !strings.Contains(extra, "rules:") {
		b.WriteString("rules: {enabled: false}\n")
	}
	b.WriteString(extra + "\nguards:\n")
	for _, a := range apps {
		fmt.Fprintf(&b, "- name: %s\n", a.Name)
	}
	if len(apps) == 0 {
		b.WriteString("  []\n")
	}
	return b.String()
}

// guardian is the service in this process.
type guardian struct {
	*service
	url  string // of the alerts port
	file string // its configuration
	log  *syncBuffer
	stop func()
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// serve runs guardian with a configuration until the test ends.
func (r *rig) serve(pod, settings string) *guardian {
	r.t.Helper()
	g := r.start(pod, settings)
	r.wait("guardian ready", func(context.Context) error {
		for _, v := range g.controller.Views() {
			if !v.Seen {
				return errors.New(v.Name + " has not been looked at")
			}
		}
		return g.ready(r.t.Context())
	})
	return g
}

// start is the same for one that does not become ready.
func (r *rig) start(pod, settings string) *guardian {
	r.t.Helper()
	file := filepath.Join(r.t.TempDir(), "guardian.yaml")
	r.must(os.WriteFile(file, []byte(settings), 0o600))
	c, err := config.Load(file)
	r.must(err)
	r.t.Setenv("POD_NAME", pod)
	g := &guardian{file: file, log: &syncBuffer{}}
	g.service, err = newService(c, r.account, slog.New(slog.NewTextHandler(g.log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	r.must(err)
	r.must(g.server.Listen(r.t.Context()))
	g.url = "http://" + g.server.AlertsAddr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.run(ctx, file, []byte(settings)) }()
	var once sync.Once
	g.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				r.t.Errorf("guardian ended with %v", err)
			}
			if r.t.Failed() {
				r.t.Logf("log of %s:\n%s", pod, g.log)
			}
		})
	}
	r.t.Cleanup(g.stop)
	return g
}

// built is guardian's binary, built once for all tests.
var built struct {
	once         sync.Once
	folder, path string
	err          error
}

// binary builds guardian into a folder that outlives the test and its control
// plane.
func (r *rig) binary() string {
	r.t.Helper()
	built.once.Do(func() {
		if built.folder, built.err = os.MkdirTemp("", "guardian-built-"); built.err != nil {
			return
		}
		built.path = filepath.Join(built.folder, "guardian")
		if out, err := exec.Command("go", "build", "-o", built.path, ".").CombinedOutput(); err != nil {
			built.err = fmt.Errorf("build guardian: %w\n%s", err, out)
		}
	})
	r.must(built.err)
	return built.path
}

// process is the real binary.
type process struct {
	*controlplane.Process
	url string
}

// exec starts the real binary, which talks to the API server at host (empty:
// directly), and listens at a fixed port, so that its successor has it too.
func (r *rig) exec(port int, host, pod, extra string, apps ...*controlplane.App) *process {
	r.t.Helper()
	account := rest.CopyConfig(r.account)
	if host != "" {
		account.Host, account.TLSClientConfig = host, rest.TLSClientConfig{}
	}
	kubeconfig, err := r.plane.WriteKubeconfig(account, "guardian", r.ns)
	r.must(err)
	metrics, err := controlplane.FreePort()
	r.must(err)
	settings := strings.Replace(r.config(fmt.Sprintf("127.0.0.1:%d", port), extra, apps...), "127.0.0.1:0", fmt.Sprintf("127.0.0.1:%d", metrics), 1)
	file := filepath.Join(r.t.TempDir(), "guardian.yaml")
	r.must(os.WriteFile(file, []byte(settings), 0o600))
	p, err := r.plane.Run(r.t.Context(), controlplane.Program{
		Name: "guardian", Path: r.binary(), Args: []string{"serve", "-f", file, "--kubeconfig", kubeconfig}, Env: []string{"POD_NAME=" + pod},
		Ready: func(ctx context.Context) error { return get(ctx, fmt.Sprintf("http://127.0.0.1:%d/readyz", metrics)) },
	})
	r.must(err)
	r.killed(pod, p)
	return &process{Process: p, url: fmt.Sprintf("http://127.0.0.1:%d", port)}
}

// killed ends a replica with the test, and shows its log if that has failed.
func (r *rig) killed(name string, p *controlplane.Process) {
	r.t.Cleanup(func() {
		p.Kill()
		if r.t.Failed() {
			r.t.Logf("end of the log of %s:\n%s", name, p.Tail(40))
		}
	})
}

// get asks a path that answers 200 when all is well.
func get(ctx context.Context, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	return nil
}

// alertOf is an alert of a guard as Alertmanager sends it.
func (r *rig) alertOf(guard string) map[string]any {
	return map[string]any{
		"status": "firing", "fingerprint": fmt.Sprintf("%016x", crc64.Checksum([]byte(guard), crc64.MakeTable(crc64.ISO))), "generatorURL": "http://prometheus/graph",
		"startsAt": time.Now().UTC().Format(time.RFC3339Nano), "endsAt": "0001-01-01T00:00:00Z",
		"labels": map[string]string{
			"alertname": "CanaryErrors", rules.LabelGuardian: "true", rules.LabelGuard: guard, rules.LabelSignal: "error_rate",
			rules.LabelAction: "rollback", rules.LabelNamespace: r.ns, rules.LabelSeverity: "critical",
		},
		"annotations": map[string]string{"summary": "7% of requests fail"},
	}
}

// webhookOf is a call of Alertmanager's.
func webhookOf(alerts ...map[string]any) []byte {
	b, err := json.Marshal(map[string]any{
		"version": "4", "groupKey": "{}:{}", "truncatedAlerts": 0, "status": "firing", "receiver": "guardian",
		"groupLabels": map[string]string{}, "commonLabels": map[string]string{}, "commonAnnotations": map[string]string{},
		"externalURL": "http://alertmanager", "alerts": alerts,
	})
	if err != nil {
		panic(err)
	}
	return b
}

// post sends a body and returns the status of the answer.
func post(ctx context.Context, url, token string, body []byte) (int, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	request.Header.Set("Content-Type", "application/json")
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer func() { _ = response.Body.Close() }()
	_, err = io.Copy(io.Discard, response.Body)
	return response.StatusCode, err
}

// insist sends a webhook until it is taken, as Alertmanager does.
func insist(ctx context.Context, url string, body []byte) error {
	return insistWith(ctx, url, bearer, body)
}

func insistWith(ctx context.Context, url, token string, body []byte) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		one, cancel := context.WithTimeout(ctx, 5*time.Second)
		status, err := post(one, url+"/webhook", token, body)
		cancel()
		if err == nil && status == http.StatusOK {
			return nil
		}
		if err == nil && status < 500 {
			return fmt.Errorf("webhook answered %d", status)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not taken: %d, %w", status, errors.Join(err, ctx.Err()))
		case <-tick.C:
		}
	}
}

// canaryWeight reads the highest weight of v2 off a VirtualService.
func canaryWeight(vs *unstructured.Unstructured) int64 {
	routes, _, _ := unstructured.NestedSlice(vs.Object, "spec", "http")
	var weight int64
	for _, route := range routes {
		destinations, _, _ := unstructured.NestedSlice(route.(map[string]any), "route")
		for _, d := range destinations {
			if subset, _, _ := unstructured.NestedString(d.(map[string]any), "destination", "subset"); subset == "v2" {
				w, _, _ := unstructured.NestedInt64(d.(map[string]any), "weight")
				weight = max(weight, w)
			}
		}
	}
	return weight
}

package remediate

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	"github.com/canary-guardian/guardian/test/controlplane"
)

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

// virtualServiceResource is what tests read and write themselves.
var virtualServiceResource = schema.GroupVersionResource{Group: IstioGroup, Version: "v1", Resource: resourceVirtualServices}

// rig is a namespace on the real API server in which guardian has its own
// ServiceAccount and no rights but RBAC.
type rig struct {
	t       *testing.T
	plane   *controlplane.Plane
	ns      string
	account *rest.Config
	kube    *kubernetes.Clientset // admin
	dynamic *dynamic.DynamicClient
}

func newRig(t *testing.T) *rig {
	t.Helper()
	controlplane.Shared(t)
	verifyNoLeaks(t)
	return newParallelRig(t)
}

// newParallelRig is for tests that run beside each other: the goroutines of one
// would look like leaks to another, so what is above them verifies.
func newParallelRig(t *testing.T) *rig {
	t.Helper()
	r := newLonelyRig(t)
	if err := r.plane.Grant(t.Context(), r.ns, r.user(), RBAC()...); err != nil {
		t.Fatal(err)
	}
	return r
}

func newRigWithoutRights(t *testing.T) *rig {
	t.Helper()
	controlplane.Shared(t)
	verifyNoLeaks(t)
	return newLonelyRig(t)
}

// newLonelyRig has no rights and verifies nothing.
func newLonelyRig(t *testing.T) *rig {
	t.Helper()
	plane := controlplane.Shared(t)
	r := &rig{t: t, plane: plane, ns: plane.Namespace(t)}
	var err error
	if r.account, err = plane.ServiceAccount(t.Context(), r.ns, "guardian"); err != nil {
		t.Fatal(err)
	}
	admin := plane.RESTConfig(controlplane.Admin)
	if r.kube, err = kubernetes.NewForConfig(admin); err != nil {
		t.Fatal(err)
	}
	if r.dynamic, err = dynamic.NewForConfig(admin); err != nil {
		t.Fatal(err)
	}
	return r
}

// verifyNoLeaks fails the test when a goroutine outlives it. Connections that
// client-go's cache of transports keeps open are not guardian's.
func verifyNoLeaks(t *testing.T) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		if t.Failed() {
			return
		}
		if err := goleak.Find(before,
			goleak.IgnoreAnyFunction("golang.org/x/net/http2.(*ClientConn).readLoop"),
			goleak.IgnoreAnyFunction("net/http.(*http2ClientConn).readLoop"),
			goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"),
			goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
			goleak.IgnoreAnyFunction("os/exec.(*Cmd).Wait"), // an API server that a test has started
		); err != nil {
			t.Error(err)
		}
	})
}

func (r *rig) user() string { return "system:serviceaccount:" + r.ns + ":guardian" }

func (r *rig) app(name string) *controlplane.App {
	r.t.Helper()
	app, err := r.plane.NewApp(r.t.Context(), r.ns, name)
	r.must(err)
	return app
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// wait returns when ok does not complain any more.
func (r *rig) wait(what string, ok func() error) {
	r.t.Helper()
	r.waitUpTo(patience, what, ok)
}

func (r *rig) waitUpTo(most time.Duration, what string, ok func() error) {
	r.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	ctx, cancel := context.WithTimeout(r.t.Context(), most)
	defer cancel()
	for {
		err := ok()
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

func (r *rig) guard(name string) decision.Guard {
	return decision.Guard{
		Name: name, Namespace: r.ns, VirtualServices: []string{name}, DestinationRule: name,
		Stable: virtualservice.Ref{Subset: "v1"}, Canary: virtualservice.Ref{Subset: "v2"},
		Rollback:    decision.Rollback{Lock: decision.LockBuild, Window: 30 * time.Minute, MinReadyStable: 1, MatchRoutes: true, Mirrors: true},
		Promotion:   decision.Promotion{Mode: decision.PromotionOff, Steps: []decision.Step{{Weight: 10}, {Weight: 50}, {Weight: 100}}},
		AlertWindow: time.Minute, HeartbeatMaxAge: time.Hour,
	}
}

// record is what the API server has.
func (r *rig) record(guard string) (decision.Record, error) {
	cm, err := r.kube.CoreV1().ConfigMaps(r.ns).Get(r.t.Context(), records.Name(guard), metav1.GetOptions{})
	if err != nil {
		return decision.Record{}, err
	}
	if locked := cm.Labels[records.LabelLocked] == "true"; locked != (cm.Data["lock"] != "") {
		return decision.Record{}, fmt.Errorf("label locked is %v, lock is %q", locked, cm.Data["lock"])
	}
	return records.Parse(cm)
}

func (r *rig) virtualService(name string) *unstructured.Unstructured {
	r.t.Helper()
	vs, err := r.dynamic.Resource(virtualServiceResource).Namespace(r.ns).Get(r.t.Context(), name, metav1.GetOptions{})
	r.must(err)
	return vs
}

// inState waits until a guard is in a state, and returns its record.
func (r *rig) inState(guard string, want decision.State) decision.Record {
	r.t.Helper()
	var got decision.Record
	r.wait(guard+" "+string(want), func() (err error) {
		if got, err = r.record(guard); err == nil && got.Status.State != want {
			err = fmt.Errorf("state %q (%s), want %q", got.Status.State, got.Status.Reason, want)
		}
		return err
	})
	return got
}

// atWeight waits until a canary has a weight.
func (r *rig) atWeight(app *controlplane.App, want int64) {
	r.t.Helper()
	r.wait(fmt.Sprintf("%s at %d", app.Name, want), func() error { return isAt(r.t.Context(), app, want) })
}

func isAt(ctx context.Context, app *controlplane.App, want int64) error {
	w, err := app.Weights(ctx)
	if err == nil && (w["v2"] != want || w["v1"] != 100-want) {
		err = fmt.Errorf("%s: weights %v, want canary at %d", app.Name, w, want)
	}
	return err
}

func (r *rig) kubectl(args ...string) (string, error) {
	return r.plane.Kubectl(r.t.Context(), controlplane.Admin, r.ns, args...)
}

// manifest is a file as CI has it.
func (r *rig) manifest(name string, stable, canary int) string {
	r.t.Helper()
	path := filepath.Join(r.t.TempDir(), "vs.yaml")
	r.must(os.WriteFile(path, fmt.Appendf(nil, `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: %[1]s, namespace: %[2]s}
spec:
  hosts: [%[1]s]
  http:
  - route:
    - destination: {host: %[1]s, subset: v1}
      weight: %[3]d
    - destination: {host: %[1]s, subset: v2}
      weight: %[4]d
`, name, r.ns, stable, canary), 0o600))
	return path
}

// request asks for something as the command line does.
func (r *rig) request(guard string, action decision.RequestAction) {
	r.t.Helper()
	patch, err := json.Marshal(map[string]any{"data": decision.Request{Action: action, By: "ann", Reason: "because", At: time.Now()}.Data()})
	r.must(err)
	ann, err := kubernetes.NewForConfig(r.plane.RESTConfig("ann", "system:masters"))
	r.must(err)
	_, err = ann.CoreV1().ConfigMaps(r.ns).Patch(r.t.Context(), records.Name(guard), "application/merge-patch+json", patch, metav1.PatchOptions{})
	r.must(err)
}

// running is one guardian, its connection to the API server tapped.
type running struct {
	*Controller
	rig  *rig
	tap  *tap
	reg  *prometheus.Registry
	log  *log
	stop func() // returns when Run has

	mu     sync.Mutex
	firing map[string][]decision.Alert
}

// newReplica makes a guardian that does not run yet.
func (r *rig) newReplica(change func(*Options), guards ...decision.Guard) *running {
	r.t.Helper()
	p := &running{rig: r, tap: &tap{}, reg: prometheus.NewRegistry(), log: &log{}, firing: map[string][]decision.Alert{}, stop: func() {}}
	config := rest.CopyConfig(r.account)
	config.QPS = -1
	config.Wrap(p.tap.wrap)
	o := Options{
		Namespace: r.ns, Identity: fmt.Sprintf("guardian-%d", replicas.next()),
		Firing: p.firingOf, Heartbeat: time.Now,
		AskForward: func(context.Context, decision.Guard, decision.Sides, time.Time) (decision.Forward, []decision.Alert) {
			return decision.Forward{Requests: 1000}, nil
		},
		Metrics: NewMetrics(p.reg), Logger: slog.New(slog.NewTextHandler(p.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Resync: 10 * time.Minute, // so that nothing but a watch can help
	}
	var err error
	o.Client, err = kubernetes.NewForConfig(config)
	r.must(err)
	o.Dynamic, err = dynamic.NewForConfig(config)
	r.must(err)
	if change != nil {
		change(&o)
	}
	p.Controller, err = New(o)
	r.must(err)
	p.SetGuards(guards)
	return p
}

// run starts it; it ends with the test at the latest.
func (p *running) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	var once sync.Once
	p.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				p.rig.t.Errorf("run: %v", err)
			}
			if p.rig.t.Failed() {
				p.rig.t.Logf("log of %s:\n%s", p.o.Identity, p.log)
			}
		})
	}
	p.rig.t.Cleanup(p.stop)
}

// start makes a guardian, starts it, and waits until it has looked at every
// guard.
func (r *rig) start(guards ...decision.Guard) *running {
	r.t.Helper()
	return r.startWith(nil, guards...)
}

func (r *rig) startWith(change func(*Options), guards ...decision.Guard) *running {
	r.t.Helper()
	p := r.newReplica(change, guards...)
	p.run()
	r.wait("first look", p.seenAll)
	return p
}

func (p *running) seenAll() error {
	for _, v := range p.Views() {
		if !v.Seen {
			return errors.New(v.Name + " has not been looked at")
		}
	}
	return nil
}

func (p *running) firingOf(guard string) []decision.Alert {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.firing[guard])
}

// fire has an alert begin and be delivered.
func (p *running) fire(guard string, a decision.Alert) error {
	p.mu.Lock()
	p.firing[guard] = append(p.firing[guard], a)
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(p.rig.t.Context(), patience)
	defer cancel()
	return p.Submit(ctx, guard, []decision.Alert{a}, time.Now())
}

// resolve ends a guard's alerts.
func (p *running) resolve(guard string) {
	p.mu.Lock()
	delete(p.firing, guard)
	p.mu.Unlock()
	p.Enqueue(guard)
}

// leader waits until it may go forward.
func (p *running) leader() {
	p.rig.t.Helper()
	p.rig.wait("lease", func() error {
		if !p.Leads() {
			return errors.New("does not lead")
		}
		return nil
	})
}

// metric reads the sum of a metric's series whose labels have all these values.
func (p *running) metric(name string, values ...string) float64 {
	p.rig.t.Helper()
	families, err := p.reg.Gather()
	p.rig.must(err)
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			has := map[string]bool{}
			for _, l := range m.GetLabel() {
				has[l.GetValue()] = true
			}
			if slices.ContainsFunc(values, func(v string) bool { return !has[v] }) {
				continue
			}
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return sum
}

// badAlert begins now.
func badAlert(name string) decision.Alert {
	return decision.Alert{Name: name, Signal: "error_rate", Action: decision.ActionRollback, Fingerprint: "f-" + name, StartsAt: time.Now().UTC(), Summary: "7% of requests fail"}
}

// serial numbers the replicas of a test binary.
type serial struct {
	mu sync.Mutex
	n  int
}

var replicas serial

func (s *serial) next() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	return s.n
}

// log keeps what a replica logs.
type log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// call is one request to the API server.
type call struct {
	verb, group, resource, name string
	code                        int // 0: never answered
}

func (c call) right() string { return cmp.Or(c.group, "core") + " " + c.resource + " " + c.verb }

// tap stands between a replica and the API server: it writes down what is
// asked, and can keep it from getting there.
type tap struct {
	mu        sync.Mutex
	calls     []call
	intercept func(*http.Request, call) error
}

// wrap is called once for each client.
func (t *tap) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		c := callOf(r)
		t.mu.Lock()
		intercept := t.intercept
		t.mu.Unlock()
		if intercept != nil {
			if err := intercept(r, c); err != nil {
				return nil, err
			}
		}
		response, err := next.RoundTrip(r)
		if response != nil {
			c.code = response.StatusCode
		}
		t.mu.Lock()
		t.calls = append(t.calls, c)
		t.mu.Unlock()
		return response, err
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// before has f called before each request; its error is the request's.
func (t *tap) before(f func(*http.Request, call) error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.intercept = f
}

// answered are the calls so far, in the order of their answers.
func (t *tap) answered() []call {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.calls)
}

// writes are those that changed a record or a VirtualService.
func (t *tap) writes() []string {
	var out []string
	for _, c := range t.answered() {
		if (c.verb == "patch" || c.verb == "create") && (c.resource == "configmaps" || c.resource == "virtualservices") {
			out = append(out, fmt.Sprintf("%s %s %d", c.verb, c.resource, c.code))
		}
	}
	return out
}

// callOf reads a request as the API server's authorization does.
func callOf(r *http.Request) call {
	var c call
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case len(parts) > 2 && parts[0] == "api":
		parts = parts[2:]
	case len(parts) > 3 && parts[0] == "apis":
		c.group, parts = parts[1], parts[3:]
	}
	if len(parts) > 2 && parts[0] == "namespaces" {
		parts = parts[2:]
	}
	c.resource = parts[0]
	if len(parts) > 1 {
		c.name = parts[1]
	}
	c.verb = map[string]string{http.MethodGet: "get", http.MethodPost: "create", http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete"}[r.Method]
	if r.Method == http.MethodGet && c.name == "" {
		c.verb = "list"
		if r.URL.Query().Get("watch") != "" {
			c.verb = "watch"
		}
	}
	return c
}

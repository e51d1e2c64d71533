package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/rules"
	"github.com/canary-guardian/guardian/test/controlplane"
)

// serve names the environment's variables that set nothing, before anything else.
func TestServeNamesMisspeltVariables(t *testing.T) {
	t.Cleanup(klog.ClearLogger)
	dir := t.TempDir()
	file, kubeconfig := filepath.Join(dir, "config.yaml"), filepath.Join(dir, "kubeconfig")
	for name, text := range map[string]string{
		file: "namespace: shop\nwebhook: {allowAnonymous: true, tokenFile: \"\"}\nguards: [{name: orders-service}]\n" +
			"prometheus: {url: \"http://127.0.0.1:9\", http: {tls_config: {ca_file: " + filepath.Join(dir, "missing") + "}}}\n",
		kubeconfig: "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{name: c, cluster: {server: \"http://127.0.0.1:9\"}}]\ncontexts: [{name: c, context: {cluster: c}}]\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	said := func() string {
		var out syncBuffer
		if err := serve(t.Context(), file, kubeconfig, &out); err == nil || !strings.HasPrefix(err.Error(), "prometheus: ") {
			t.Fatalf("%v; want serve to end at the file that is missing", err)
		}
		return out.String()
	}
	if out := said(); strings.Contains(out, "misspelt") {
		t.Errorf("without one it says %s", out)
	}
	t.Setenv("GUARDIAN_PROMETHEUS_URI", "http://secret")
	if out := said(); !strings.Contains(out, "misspelt?") || !strings.Contains(out, "GUARDIAN_PROMETHEUS_URI") || strings.Contains(out, "secret") {
		t.Errorf("of GUARDIAN_PROMETHEUS_URI it says %q", out)
	}
}

func TestWhatEachCallGets(t *testing.T) {
	r := newRig(t)
	app := r.app("orders-service", 50)
	g := r.serve("guardian-0", r.config("127.0.0.1:0", "", app))
	good := webhookOf(r.alertOf(app.Name))
	foreign := r.alertOf(app.Name)
	foreign["labels"].(map[string]string)[rules.LabelNamespace] = "elsewhere"
	for _, c := range []struct {
		name, path, token string
		body              []byte
		want              int
	}{
		{"wrong token", "/webhook", "wrong", good, http.StatusUnauthorized},
		{"no token", "/webhook", "", good, http.StatusUnauthorized},
		{"wrong token on the push lane", "/api/v2/alerts", "wrong", []byte("[]"), http.StatusUnauthorized},
		{"10 MB", "/webhook", bearer, bytes.Repeat([]byte(" "), 10<<20), http.StatusRequestEntityTooLarge},
		{"truncated JSON", "/webhook", bearer, good[:len(good)/2], http.StatusBadRequest},
		{"version 5", "/webhook", bearer, bytes.Replace(good, []byte(`"version":"4"`), []byte(`"version":"5"`), 1), http.StatusBadRequest},
		{"no JSON on the push lane", "/api/v2/alerts", bearer, []byte("x"), http.StatusBadRequest},
		{"a guard that is not configured", "/webhook", bearer, webhookOf(r.alertOf("payments")), http.StatusOK},
		{"a guard of the same name in another namespace", "/webhook", bearer, webhookOf(foreign), http.StatusOK},
		{"nothing on the push lane", "/api/v2/alerts", bearer, []byte("[]"), http.StatusOK},
		{"another path", "/metrics", bearer, good, http.StatusNotFound},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, err := post(t.Context(), g.url+c.path, c.token, c.body); err != nil || got != c.want {
				t.Errorf("status %d, %v; want %d", got, err, c.want)
			}
		})
	}
	r.must(isAt(t.Context(), app, 50))
	events, err := r.kube.CoreV1().Events(r.ns).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.kind=Namespace"})
	r.must(err)
	if len(events.Items) != 1 || events.Items[0].Reason != "GuardianUnknownGuard" || !strings.Contains(events.Items[0].Message, `"payments"`) {
		t.Errorf("events on the namespace: %+v, want one about payments", events.Items)
	}
	if got, err := post(t.Context(), g.url+"/webhook", bearer, good); err != nil || got != http.StatusOK {
		t.Errorf("status %d, %v", got, err)
	}
	r.must(isAt(t.Context(), app, 0)) // not eventually: 200 means that it is done
	r.checkGuardsAPI(g, app.Name)
	r.checkMetrics(g)
}

// checkMetrics asks whose the metrics are: one Prometheus may scrape several
// guardians whose guards have equal names.
func (r *rig) checkMetrics(g *guardian) {
	r.t.Helper()
	response, err := http.Get("http://" + g.server.MetricsAddr().String() + "/metrics")
	r.must(err)
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	r.must(err)
	own := 0
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		if !strings.Contains(line, rules.LabelOwner+`="`+r.ns+`"`) {
			r.t.Errorf("without %s: %s", rules.LabelOwner, line)
		}
		if strings.HasPrefix(line, "guardian_") {
			own++
		}
	}
	if own < 30 {
		r.t.Errorf("only %d of guardian's own series", own)
	}
}

// checkGuardsAPI asks the metrics port about a guard.
func (r *rig) checkGuardsAPI(g *guardian, name string) {
	r.t.Helper()
	response, err := http.Get("http://" + g.server.MetricsAddr().String() + "/api/v1/guards/" + name)
	r.must(err)
	defer func() { _ = response.Body.Close() }()
	var view struct {
		Name   string
		Status struct{ State string }
	}
	r.must(json.NewDecoder(response.Body).Decode(&view))
	if view.Name != name || view.Status.State != "rolled-back" {
		r.t.Errorf("guard %+v", view)
	}
}

func TestAnOutageOfTheAPIServerLosesNoAlertOnEitherLane(t *testing.T) {
	r := newRig(t)
	apps := r.apps("orders", 4, 50)
	g := r.serve("guardian-0", r.config("127.0.0.1:0", "", apps...))
	r.plane.StopAPIServer()
	defer func() { r.must(r.plane.StartAPIServer(context.Background())) }()
	var wg sync.WaitGroup
	for i, app := range apps {
		alert := r.alertOf(app.Name)
		if i%2 == 0 { // Prometheus sends once
			alert["endsAt"] = time.Now().Add(time.Minute).UTC().Format(time.RFC3339Nano)
			body, err := json.Marshal([]any{alert})
			r.must(err)
			if status, err := post(t.Context(), g.url+"/api/v2/alerts", bearer, body); err != nil || status != http.StatusOK {
				t.Errorf("%s: push lane answered %d, %v", app.Name, status, err)
			}
			continue
		}
		body := webhookOf(alert)
		if status, err := post(t.Context(), g.url+"/webhook", bearer, body); err != nil || status < 500 {
			t.Errorf("%s: webhook answered %d, %v; want 5xx", app.Name, status, err)
		}
		wg.Go(func() {
			if err := insist(t.Context(), g.url, body); err != nil {
				t.Errorf("%s: %v", app.Name, err)
			}
		})
	}
	if d, err := time.ParseDuration(os.Getenv("GUARDIAN_OUTAGE")); err == nil {
		<-time.After(d)
	}
	r.must(r.plane.StartAPIServer(t.Context()))
	back := time.Now()
	for _, app := range apps {
		r.rolledBack(app)
	}
	wg.Wait()
	t.Logf("all rolled back within %v after the API server was back", time.Since(back).Round(time.Millisecond))
	back = time.Now()
	r.must(apps[0].SetWeights(t.Context(), 50, 50))
	r.atWeight(apps[0], 0)
	t.Logf("CI's change after it undone within %v", time.Since(back).Round(time.Millisecond))
}

func TestALockOfARemovedGuardIsLiftedByThePersonsOwnCommand(t *testing.T) {
	r := newRig(t)
	orders := r.app("orders-service", 50)
	g := r.serve("guardian-0", r.config("127.0.0.1:0", "", orders))
	istio, err := dynamic.NewForConfig(r.plane.RESTConfig(controlplane.Admin))
	r.must(err)
	call := func(args ...string) (int, string) {
		var out bytes.Buffer
		a := &app{name: "guardian", out: &out, errOut: &out, connect: func(clusterFlags) (*cluster, error) {
			return &cluster{kube: r.kube, dynamic: istio, namespace: r.ns}, nil
		}}
		cmd := a.command()
		cmd.SetArgs(args)
		err := cmd.ExecuteContext(t.Context())
		return exitCode(err), fmt.Sprint(out.String(), err)
	}
	code, text := call("rollback", orders.Name, "--reason", "looks odd")
	want(t, code, text, exitOK, "rolled-back, canary at 0%")
	r.must(isAt(t.Context(), orders, 0)) // not eventually: the command says so
	code, text = call("rollback", orders.Name, "--reason", "once more")
	want(t, code, text, exitOK, "already rolled back since ")

	without, err := config.Parse([]byte(r.config("127.0.0.1:0", "")))
	r.must(err)
	g.reload(without)
	r.wait("mark", func(ctx context.Context) error {
		rec, err := r.record(ctx, orders.Name)
		if err == nil && rec.Status.Orphaned.IsZero() {
			err = errors.New("not marked")
		}
		return err
	})
	if !strings.Contains(g.log.String(), "guards were removed") {
		t.Error("the log does not name the guard that was removed")
	}
	code, text = call("gate", orders.Name, "--wait-unlocked")
	want(t, code, text, exitUnknown, "it is no longer managed")
	code, text = call("unlock", orders.Name, "--reason", "the service is gone")
	want(t, code, text, exitOK, "Taken off by this command: annotation "+decision.AnnotationLock+orders.Name)
	rec, err := r.record(t.Context(), orders.Name)
	r.must(err)
	if rec.Lock == nil || rec.Request == nil || rec.Request.Action != decision.RequestUnlock {
		t.Errorf("lock %+v, request %+v: want the lock, and an unlock that waits", rec.Lock, rec.Request)
	}
	with, err := config.Parse([]byte(r.config("127.0.0.1:0", "", orders)))
	r.must(err)
	g.reload(with)
	r.wait("unlock", func(ctx context.Context) error {
		rec, err := r.record(ctx, orders.Name)
		if err == nil && (rec.Lock != nil || rec.Request != nil) {
			err = fmt.Errorf("lock %+v, request %+v", rec.Lock, rec.Request)
		}
		return err
	})
}

func TestWhoIsPostedToNeedsARestart(t *testing.T) {
	parse := func(more string) config.Config {
		c, err := config.Parse([]byte("namespace: shop\nlisten: {alerts: '127.0.0.1:0', metrics: '127.0.0.1:0'}\nwebhook: {tokenFile: '', allowAnonymous: true}\nguards: [{name: orders}]\n" + more))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	s, err := newService(parse("alertmanager: {url: 'http://127.0.0.1:1'}\n"), &rest.Config{Host: "http://127.0.0.1:1"}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range s.close {
		defer f()
	}
	for _, more := range []string{"", "alertmanager: {url: 'http://127.0.0.1:2'}\n", "alertmanager: {url: 'http://127.0.0.1:1'}\nnotifications: {enabled: false}\n"} {
		s.reload(parse(more + "heartbeat: {maxAge: 4m}\n"))
		if got := s.bridge.config.Load().Posts(); !slices.Equal(got, []string{"http://127.0.0.1:1"}) || !slices.Equal(s.rules.present().Posts(), got) {
			t.Errorf("%q: posts to %v, rules for %v", more, got, s.rules.present().Posts())
		}
		s.reload(parse(more + "heartbeat: {maxAge: 5m}\n"))
	}
}

// between stands between guardian and the API server.
type between struct {
	*httptest.Server
	// hold is asked before each request; true: it is never answered.
	hold atomic.Pointer[func(*http.Request) bool]
	held chan string // path of each held request
}

func (r *rig) between() *between {
	r.t.Helper()
	target, err := url.Parse(r.account.Host)
	r.must(err)
	transport, err := rest.TransportFor(r.account) // with guardian's token, which client-go keeps from plain HTTP
	r.must(err)
	b := &between{held: make(chan string, 100)}
	proxy := &httputil.ReverseProxy{Transport: transport, FlushInterval: -1, Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(target) }}
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if hold := b.hold.Load(); hold != nil && (*hold)(q) {
			_, _ = io.Copy(io.Discard, q.Body) // else the server does not notice that the client is gone
			b.held <- q.URL.Path
			<-q.Context().Done()
			return
		}
		defer func() { _ = recover() }() // a watch whose client was killed
		proxy.ServeHTTP(w, q)
	}))
	r.t.Cleanup(func() { b.CloseClientConnections(); b.Close() })
	return b
}

func TestKilledBetweenLockAndPatchTheNextGuardianFinishes(t *testing.T) {
	r := newRig(t)
	app := r.app("orders-service", 50)
	b := r.between()
	stall := func(q *http.Request) bool {
		return q.Method == http.MethodPatch && strings.Contains(q.URL.Path, "/virtualservices/")
	}
	b.hold.Store(&stall)
	port, err := controlplane.FreePort()
	r.must(err)
	first := r.exec(port, b.URL, "guardian-0", "", app)
	answer := make(chan string, 1)
	go func() {
		status, err := post(context.Background(), first.url+"/webhook", bearer, webhookOf(r.alertOf(app.Name)))
		answer <- fmt.Sprint(status, err)
	}()
	select {
	case <-b.held:
	case said := <-answer:
		t.Fatalf("answered %s before the patch", said)
	}
	first.Kill()
	if said := <-answer; strings.HasPrefix(said, "200") {
		t.Errorf("answered %s", said)
	}
	rec, err := r.record(t.Context(), app.Name)
	r.must(err)
	if rec.Lock == nil {
		t.Fatalf("no lock: %+v", rec.Status)
	}
	r.must(isAt(t.Context(), app, 50))

	r.exec(port, "", "guardian-1", "", app) // nobody sends the alert again
	now := r.rolledBack(app)
	if !reflect.DeepEqual(now.Lock, rec.Lock) {
		t.Errorf("lock %+v, was %+v", now.Lock, rec.Lock)
	}
}

// Told to stop between lock and patch, guardian does not leave the canary its traffic
// until it is started again.
func TestARollbackUnderWayIsDoneBeforeGuardianEnds(t *testing.T) {
	r := newRig(t)
	app := r.app("orders-service", 50)
	b := r.between()
	begun, goOn := make(chan struct{}, 100), make(chan struct{})
	slow := func(q *http.Request) bool {
		if q.Method != http.MethodPatch || !strings.Contains(q.URL.Path, "/virtualservices/") {
			return false
		}
		body, err := io.ReadAll(q.Body) // else the server does not notice that the client is gone
		q.Body = io.NopCloser(bytes.NewReader(body))
		begun <- struct{}{}
		select {
		case <-goOn:
		case <-q.Context().Done():
		}
		return err != nil || q.Context().Err() != nil
	}
	b.hold.Store(&slow)
	r.account = &rest.Config{Host: b.URL}
	g := r.serve("guardian-0", r.config("127.0.0.1:0", "", app))
	answer := make(chan string, 1)
	go func() {
		status, err := post(context.Background(), g.url+"/webhook", bearer, webhookOf(r.alertOf(app.Name)))
		answer <- fmt.Sprint(status, err)
	}()
	<-begun
	stopped := make(chan struct{})
	go func() { g.stop(); close(stopped) }()
	r.wait("no alert accepted any more", func(ctx context.Context) error {
		if err := g.controller.Accept(ctx, app.Name, nil, time.Now()); err == nil {
			return errors.New("one is")
		}
		return nil
	})
	close(goOn)
	<-stopped
	if said := <-answer; said != "200 <nil>" {
		t.Errorf("the call that brought the alert is answered %s", said)
	}
	r.must(isAt(t.Context(), app, 0)) // not eventually: guardian is gone
}

// Whatever can execute a template keeps every exported method of every type in
// the program: internal/conntrack says which way that came in.
func TestNothingTracesConnections(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(out), "golang.org/x/net/trace\n") {
		t.Error("golang.org/x/net/trace is linked: 31 MB more")
	}
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/canary-guardian/guardian/internal/printable"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/test/controlplane"
)

// realBench is a namespace of the real API server with a record and a Lease, a
// user with the rights that docs/cli.md names, and one without.
type realBench struct {
	t         *testing.T
	plane     *controlplane.Plane
	kube      kubernetes.Interface
	namespace string
	files     map[string]string // kubeconfig by user
}

func newRealBench(t *testing.T, r decision.Record) *realBench {
	plane := controlplane.Shared(t)
	b := &realBench{t: t, plane: plane, namespace: plane.Namespace(t), files: map[string]string{}}
	var err error
	if b.kube, err = kubernetes.NewForConfig(plane.RESTConfig(controlplane.Admin)); err != nil {
		t.Fatal(err)
	}
	for _, user := range []string{controlplane.Dev, controlplane.Nobody} {
		if b.files[user], err = plane.Kubeconfig(user, b.namespace); err != nil {
			t.Fatal(err)
		}
	}
	if err := plane.Grant(t.Context(), b.namespace, controlplane.Dev,
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"get", "list", "watch", "patch"}},
		rbacv1.PolicyRule{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, Verbs: []string{"list"}},
	); err != nil {
		t.Fatal(err)
	}
	cm := record(r)
	cm.Namespace = b.namespace
	if _, err := b.kube.CoreV1().ConfigMaps(b.namespace).Create(t.Context(), cm, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	l := lease("a", time.Now())
	l.Namespace = b.namespace
	l.Labels[records.LabelReplica] = "true"
	if _, err := b.kube.CoordinationV1().Leases(b.namespace).Create(t.Context(), l, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return b
}

// run calls the program with a user's kubeconfig, through the real connect.
func (b *realBench) run(user string, args ...string) (int, string) {
	var out bytes.Buffer
	a := &app{name: "guardian", in: strings.NewReader(""), out: &out, errOut: &out, connect: connect}
	err := a.execute(b.t.Context(), append(args, "--kubeconfig", b.files[user]))
	if err != nil {
		out.WriteString("Error: " + printable.Error(err) + "\n")
	}
	return exitCode(err), out.String()
}

// beat renews the Lease four times a second, with a heartbeat of that moment,
// until the test ends.
func (b *realBench) beat() {
	leases, ctx := b.kube.CoordinationV1().Leases(b.namespace), b.t.Context()
	done := make(chan struct{})
	b.t.Cleanup(func() { <-done })
	go func() {
		defer close(done)
		for sleep(ctx, time.Second/4) == nil {
			l := lease("a", time.Now())
			l.Namespace = b.namespace
			l.Labels[records.LabelReplica] = "true"
			patch, err := json.Marshal(l)
			if err == nil {
				_, err = leases.Patch(ctx, l.Name, types.MergePatchType, patch, metav1.PatchOptions{})
			}
			if err != nil && ctx.Err() == nil {
				b.t.Errorf("renew: %v", err)
				return
			}
		}
	}()
}

// guardian takes one request as soon as it is written, with a rival that wins
// the first write.
func (b *realBench) guardian(ctx context.Context, take func(*decision.Record, decision.Request)) {
	api := b.kube.CoreV1().ConfigMaps(b.namespace)
	name := records.Name(testGuard)
	w, err := api.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		b.t.Error(err)
		return
	}
	done := make(chan struct{})
	b.t.Cleanup(func() { <-done })
	go func() {
		defer close(done)
		defer w.Stop()
		for range w.ResultChan() {
			cm, err := api.Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return
			}
			r, err := records.Parse(cm)
			if err != nil || r.Request == nil {
				continue
			}
			q := *r.Request
			r.Request = nil
			take(&r, q)
			cm.Data = r.Data()
			// The person sees it by the watch, and the test may end, before this is answered.
			if _, err := api.Update(ctx, cm, metav1.UpdateOptions{}); err != nil && ctx.Err() == nil {
				b.t.Errorf("take the request: %v", err)
			}
			return
		}
	}()
}

func TestARequestOnTheRealAPIServer(t *testing.T) {
	b := newRealBench(t, shifting(30, 5))
	b.guardian(t.Context(), func(r *decision.Record, q decision.Request) {
		if q.By != controlplane.Dev || q.Action != decision.RequestRollback || q.Reason != "looks odd" {
			t.Errorf("guardian was asked %+v", q)
		}
		*r = locked()
		answered(r, q, "rolled-back", q.Reason)
	})
	code, text := b.run(controlplane.Dev, "rollback", testGuard, "--reason", "looks odd")
	want(t, code, text, exitOK, "rolled-back: looks odd")
	cm, err := b.kube.CoreV1().ConfigMaps(b.namespace).Get(t.Context(), records.Name(testGuard), metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if cm.Data[decision.KeyRequestAction] != "" {
		t.Errorf("left behind: %v", cm.Data)
	}
}

func TestAnUntakenRequestIsWithdrawnOnTheRealAPIServer(t *testing.T) {
	b := newRealBench(t, shifting(30, 5))
	code, text := b.run(controlplane.Dev, "pause", testGuard, "--reason", "r", "--timeout", "300ms")
	want(t, code, text, exitUnknown, "it has been withdrawn")
	cm, err := b.kube.CoreV1().ConfigMaps(b.namespace).Get(t.Context(), records.Name(testGuard), metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, there := cm.Data[decision.KeyRequestAction]; there || cm.Data["status"] == "" {
		t.Errorf("record afterwards: %v", cm.Data)
	}
}

func TestAStaleWriteIsRefusedByTheRealAPIServer(t *testing.T) {
	b := newRealBench(t, shifting(30, 5))
	c, err := connect(clusterFlags{kubeconfig: b.files[controlplane.Dev]})
	if err != nil {
		t.Fatal(err)
	}
	before, err := c.records().Get(t.Context(), testGuard)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.records().SetRequest(t.Context(), testGuard, before.ResourceVersion, &decision.Request{Action: decision.RequestPause, By: "ann", Reason: "r", At: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if err := c.records().SetRequest(t.Context(), testGuard, before.ResourceVersion, nil); err == nil {
		t.Error("a write with an old resourceVersion went through")
	}
}

func TestStatusAndGateOnTheRealAPIServer(t *testing.T) {
	b := newRealBench(t, shifting(30, 5))
	b.beat()
	code, text := b.run(controlplane.Dev, "status", "-o", "json")
	want(t, code, text, exitOK, `"guard": "orders-service"`)
	var got []statusJSON
	if err := json.Unmarshal([]byte(text), &got); err != nil || len(got) != 1 || got[0].Status.Weight != 30 {
		t.Errorf("got %+v, %v", got, err)
	}
	code, text = b.run(controlplane.Dev, "gate", testGuard, "--for", "200ms")
	want(t, code, text, exitOK, "healthy for 200ms at 30%")
}

func TestAGateSeesARollbackByTheRealWatch(t *testing.T) {
	b := newRealBench(t, shifting(30, 5))
	done := make(chan struct{})
	go func() {
		defer close(done)
		cm := record(locked())
		cm.Namespace = b.namespace
		if _, err := b.kube.CoreV1().ConfigMaps(b.namespace).Update(t.Context(), cm, metav1.UpdateOptions{}); err != nil {
			t.Error(err)
		}
	}()
	code, text := b.run(controlplane.Dev, "gate", testGuard, "--for", "1h")
	want(t, code, text, exitFailed, "deploy a new build of v2")
	<-done
}

func TestRightsAreCheckedByTheRealAPIServer(t *testing.T) {
	b := newRealBench(t, shifting(30, 5))
	for _, tc := range []struct {
		args string
		code int
		says string
	}{
		{"status", exitFailed, "your user may not"},
		{"gate " + testGuard, exitUnknown, "your user may not"},
		{"rollback " + testGuard + " --reason r", exitFailed, "your user may not"},
	} {
		code, text := b.run(controlplane.Nobody, strings.Fields(tc.args)...)
		want(t, code, text, tc.code, tc.says)
	}
	code, text := b.run(controlplane.Dev, "status", "--context", "elsewhere")
	want(t, code, text, exitUnknown, `"elsewhere"`)
	code, text = b.run(controlplane.Dev, "gate", testGuard, "--context", "elsewhere")
	want(t, code, text, exitUnknown, `"elsewhere"`) // a pipeline must not take it for a bad canary
}

func TestAKubeconfigThatIsNotThereIsNoVerdict(t *testing.T) {
	file := filepath.Join(t.TempDir(), "guardian.yaml")
	if err := os.WriteFile(file, []byte("namespace: shop\nprometheus: {url: 'http://127.0.0.1:9090'}\nwebhook: {allowAnonymous: true, tokenFile: ''}\nguards: [{name: orders-service}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{
		"check -f " + file, "rules -f " + file + " --from-cluster", "status", "history orders", "receipt orders", "gate orders",
		"rollback orders --reason r", "unlock orders --reason r", "pause orders --reason r", "resume orders --reason r", "promote orders --reason r", "disarm orders --for 1h --reason r", "arm orders --reason r", "report", "mark orders last --wrong --reason r",
	} {
		var out bytes.Buffer
		a := &app{name: "guardian", in: strings.NewReader(""), out: &out, errOut: &out, connect: connect}
		err := a.execute(t.Context(), append(strings.Fields(args), "--kubeconfig", filepath.Join(t.TempDir(), "none")))
		if code := exitCode(err); code != exitUnknown || !strings.Contains(fmt.Sprint(err), "read kubeconfig") {
			t.Errorf("%s: exit code %d, %v", args, code, err)
		}
	}
}

func TestAnAPIServerThatDoesNotAnswerIsNoVerdict(t *testing.T) {
	gone := httptest.NewServer(nil)
	gone.Close()
	says := func(code int, reason metav1.StatusReason) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(code)
			fmt.Fprintf(w, `{"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": %d, "reason": %q}`, code, reason)
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	for name, server := range map[string]string{
		"it is gone": gone.URL, "it does not know the user": says(http.StatusUnauthorized, metav1.StatusReasonUnauthorized), "it is not well": says(http.StatusInternalServerError, metav1.StatusReasonInternalError),
	} {
		file := filepath.Join(t.TempDir(), "config")
		text := fmt.Sprintf("{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, namespace: a}}], clusters: [{name: c, cluster: {server: %q}}]}", server)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, args := range []string{"status", "status orders", "history orders", "receipt orders", "report", "gate orders", "rollback orders --reason r", "pause --all --reason r -o json", "mark orders last --wrong --reason r"} {
			var out bytes.Buffer
			a := &app{name: "guardian", in: strings.NewReader(""), out: &out, errOut: &out, connect: connect}
			if code := exitCode(a.execute(t.Context(), append(strings.Fields(args), "--kubeconfig", file))); code != exitUnknown {
				t.Errorf("%s: %s: exit code %d: %s", name, args, code, out.String())
			}
		}
	}
}

func TestAKubeconfigWithoutACurrentContextIsAnsweredWithTheContextsThatItHas(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	file := filepath.Join(t.TempDir(), "config")
	const text = `apiVersion: v1
kind: Config
clusters: [{name: a, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: a, user: {}}]
contexts: [{name: prod, context: {cluster: a, user: a}}, {name: dev, context: {cluster: a, user: a}}]
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := connect(clusterFlags{kubeconfig: file}); err == nil || err.Error() != "read kubeconfig: it has no current-context: want --context, one of dev, prod" {
		t.Error(err)
	}
	if _, err := connect(clusterFlags{kubeconfig: file, context: "dev"}); err != nil {
		t.Error(err)
	}
}

func TestWithoutAKubeconfigTheErrorSaysWhereOneIsLookedFor(t *testing.T) {
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := connect(clusterFlags{}); err == nil || err.Error() != "read kubeconfig: there is none: want --kubeconfig FILE, $KUBECONFIG or ~/.kube/config" {
		t.Error(err)
	}
}

func TestAnErrorAboutAKubeconfigShowsNoSecret(t *testing.T) {
	const planted = "hunter2"
	for _, server := range []string{"https://u:" + planted + "@127.0.0.1:1/%zz", "https://u:" + planted + "@[::1", "u:" + planted + "@:1:1", "https://u:" + planted + "@127.0.0.1:x"} {
		file := filepath.Join(t.TempDir(), "config")
		text := fmt.Sprintf("{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u, namespace: a}}], clusters: [{name: c, cluster: {server: %q}}], users: [{name: u, user: {token: %s}}]}", server, planted)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		a := &app{name: "guardian", in: strings.NewReader(""), out: &out, errOut: &out, connect: connect}
		err := a.execute(t.Context(), []string{"status", "--kubeconfig", file})
		if err == nil || strings.Contains(err.Error()+out.String(), planted) {
			t.Errorf("%s: shown in %v\n%s", server, err, out.String())
		}
	}
}

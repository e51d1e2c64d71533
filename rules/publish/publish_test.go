package publish

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/canary-guardian/guardian/rules"
	"github.com/canary-guardian/guardian/testdata/controlplane"
)

func TestMain(m *testing.M) { controlplane.Main(m) }

func generate(t *testing.T, limit float64, change ...func(*rules.Options)) *rules.Rules {
	t.Helper()
	o := rules.Options{
		Labels: map[string]string{"release": "prom"},
		Guards: []rules.Guard{{
			Name: "orders-service", Namespace: "microservices",
			Stable:  rules.Side{Name: "v1", Workloads: []string{"orders-v1"}},
			Canary:  rules.Side{Name: "v2", Workloads: []string{"orders-v2"}},
			Signals: rules.Signals{ErrorRate: &rules.ErrorRate{Max: limit}},
		}},
	}
	for _, f := range change {
		f(&o)
	}
	r, err := rules.Generate(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func want(t *testing.T, p *Publisher, limit float64) {
	t.Helper()
	if err := p.Want(generate(t, limit).PrometheusRule(p.Name, p.Namespace)); err != nil {
		t.Fatal(err)
	}
}

func TestPublishOnARealAPIServer(t *testing.T) {
	plane := controlplane.Shared(t)
	ns := plane.Namespace(t)
	client, err := dynamic.NewForConfig(plane.RESTConfig(controlplane.Admin))
	if err != nil {
		t.Fatal(err)
	}
	p, err := New(Options{
		Client: client, Kind: PrometheusRule, Name: "guardian", Namespace: ns, Log: slog.New(slog.DiscardHandler),
		Owner: &metav1.OwnerReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "guardian", UID: "1234"},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	}()

	rule := client.Resource(PrometheusRule.Resource).Namespace(ns)
	// eventually waits for a property of the object.
	eventually := func(what string, ok func(*unstructured.Unstructured) bool) {
		t.Helper()
		var last *unstructured.Unstructured
		err := wait.PollUntilContextTimeout(ctx, 10*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
			got, err := rule.Get(ctx, "guardian", metav1.GetOptions{})
			last = got
			return err == nil && ok(got), nil
		})
		if err != nil {
			t.Fatalf("%s: %v; last seen: %v", what, err, last)
		}
	}
	has := func(limit string) func(*unstructured.Unstructured) bool {
		return func(u *unstructured.Unstructured) bool {
			text, err := u.MarshalJSON()
			return err == nil && strings.Contains(string(text), "vector("+limit+")")
		}
	}

	want(t, p, 0.01)
	eventually("written", func(u *unstructured.Unstructured) bool {
		owners := u.GetOwnerReferences()
		return has("0.01")(u) && u.GetLabels()["release"] == "prom" && len(owners) == 1 && owners[0].Name == "guardian" &&
			u.GetManagedFields()[0].Manager == FieldManager
	})

	want(t, p, 0.02)
	eventually("changed with the configuration", has("0.02"))

	if _, err := rule.Patch(ctx, "guardian", types.MergePatchType, []byte(`{"spec":{"groups":[]},"metadata":{"labels":{"theirs":"yes","release":"no"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually("written again after an edit, with the label of others", func(u *unstructured.Unstructured) bool {
		return has("0.02")(u) && u.GetLabels()["theirs"] == "yes" && u.GetLabels()["release"] == "prom"
	})

	if err := rule.Delete(ctx, "guardian", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually("written again after a deletion", has("0.02"))

	// What is as wanted is not written: nobody's watch is woken.
	before, err := rule.Get(ctx, "guardian", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.RunOnce(ctx); err != nil {
		t.Fatal(err)
	}
	after, err := rule.Get(ctx, "guardian", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if before.GetResourceVersion() != after.GetResourceVersion() {
		t.Errorf("resourceVersion went from %s to %s", before.GetResourceVersion(), after.GetResourceVersion())
	}
}

func TestRunOnceNamesWhatItCouldNotDo(t *testing.T) {
	client := fake.NewSimpleDynamicClient(runtime.NewScheme())
	p, err := New(Options{Client: client, Kind: PrometheusRule, Name: "guardian", Namespace: "microservices", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.RunOnce(t.Context()); err != nil || len(client.Actions()) != 0 {
		t.Errorf("before Want: %v, %v", err, client.Actions())
	}
	want(t, p, 0.01)
	refused := errors.New("refused")
	client.PrependReactor("patch", "*", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, refused })
	if err := p.RunOnce(t.Context()); !errors.Is(err, refused) || err.Error() != "apply PrometheusRule microservices/guardian: refused" {
		t.Errorf("got %v", err)
	}
	client.PrependReactor("get", "*", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, refused })
	if err := p.RunOnce(t.Context()); !errors.Is(err, refused) || err.Error() != "get PrometheusRule microservices/guardian: refused" {
		t.Errorf("got %v", err)
	}
}

func TestNewNamesAllProblems(t *testing.T) {
	_, err := New(Options{Name: "guardian"})
	if err == nil || !strings.Contains(err.Error(), "want a client and a log") || !strings.Contains(err.Error(), "want a kind") || !strings.Contains(err.Error(), `""/"guardian"`) {
		t.Errorf("got %v", err)
	}
}

func TestAPodMonitorComesAndGoes(t *testing.T) {
	plane := controlplane.Shared(t)
	ns := plane.Namespace(t)
	client, err := dynamic.NewForConfig(plane.RESTConfig(controlplane.Admin))
	if err != nil {
		t.Fatal(err)
	}
	monitors := client.Resource(PodMonitor.Resource).Namespace(ns)
	p, err := New(Options{Client: client, Kind: PodMonitor, Name: "guardian-fast-lane", Namespace: ns, Log: slog.New(slog.DiscardHandler),
		Owner: &metav1.OwnerReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "guardian", UID: "1234"}})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	once := func() {
		t.Helper()
		if err := p.RunOnce(ctx); err != nil {
			t.Fatal(err)
		}
	}
	version := func() string {
		t.Helper()
		got, err := monitors.Get(ctx, p.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return "none"
		}
		if err != nil {
			t.Fatal(err)
		}
		return got.GetResourceVersion()
	}
	p.WantNone()
	once()

	rule := generate(t, 0.01, func(o *rules.Options) { o.FastLane = time.Second })
	if err := p.Want(rule.PodMonitor("any", "where")); err != nil {
		t.Fatal(err)
	}
	once()
	got, err := monitors.Get(ctx, p.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ends, _, err := unstructured.NestedSlice(got.Object, "spec", "podMetricsEndpoints")
	if err != nil || len(ends) != 1 || ends[0].(map[string]any)["interval"] != "1s" || len(got.GetOwnerReferences()) != 1 || got.GetLabels()["release"] != "prom" {
		t.Errorf("%v; written was %v", err, got)
	}
	before := version()
	once()
	if after := version(); after != before {
		t.Errorf("what is as wanted was written: %s, then %s", before, after)
	}

	p.WantNone()
	once()
	if v := version(); v != "none" {
		t.Error("the PodMonitor is still there")
	}

	theirs := &unstructured.Unstructured{Object: got.DeepCopy().Object}
	theirs.SetManagedFields(nil)
	theirs.SetResourceVersion("")
	theirs.SetUID("")
	if _, err := monitors.Create(ctx, theirs, metav1.CreateOptions{FieldManager: "kubectl"}); err != nil {
		t.Fatal(err)
	}
	once()
	if v := version(); v == "none" {
		t.Error("somebody else's PodMonitor of this name was removed")
	}
}

func TestWithoutTheOperatorThereIsNothingToRemove(t *testing.T) {
	resource := PodMonitor.Resource.GroupResource()
	for name, test := range map[string]struct {
		answer error
		want   string
	}{
		"not installed": {apierrors.NewNotFound(resource, "x"), ""},
		"no rights":     {apierrors.NewForbidden(resource, "x", errors.New("no")), ""},
		"no answer":     {errors.New("refused"), "get PodMonitor microservices/guardian-fast-lane: refused"},
	} {
		t.Run(name, func(t *testing.T) {
			client := fake.NewSimpleDynamicClient(runtime.NewScheme())
			client.PrependReactor("get", "*", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, test.answer })
			p, err := New(Options{Client: client, Kind: PodMonitor, Name: "guardian-fast-lane", Namespace: "microservices", Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			p.WantNone()
			got := ""
			if err := p.RunOnce(t.Context()); err != nil {
				got = err.Error()
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/canary-guardian/guardian/rules"
	"github.com/canary-guardian/guardian/test/controlplane"
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

// objects are those that rules have of guards "guardian-guards…", and of guardian
// itself "guardian".
func objects(r *rules.Rules) []Object {
	var out []Object
	for _, rule := range r.PrometheusRules("guardian", "any") {
		out = append(out, rule)
	}
	return out
}

func want(t *testing.T, p *Publisher, limit float64) {
	t.Helper()
	if err := p.Want(objects(generate(t, limit))...); err != nil {
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
		Client: client, Kind: PrometheusRule, Set: "guardian", Namespace: ns, Log: slog.New(slog.DiscardHandler),
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
			got, err := rule.Get(ctx, "guardian-guards", metav1.GetOptions{})
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
			return err == nil && strings.Contains(string(text), "  "+limit+`"`)
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

	if _, err := rule.Patch(ctx, "guardian-guards", types.MergePatchType, []byte(`{"spec":{"groups":[]},"metadata":{"labels":{"theirs":"yes","release":"no"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually("written again after an edit, with the label of others", func(u *unstructured.Unstructured) bool {
		return has("0.02")(u) && u.GetLabels()["theirs"] == "yes" && u.GetLabels()["release"] == "prom"
	})

	if err := rule.Delete(ctx, "guardian-guards", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually("written again after a deletion", has("0.02"))

	// What is as wanted is not written: nobody's watch is woken.
	before, err := rule.Get(ctx, "guardian-guards", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.RunOnce(ctx); err != nil {
		t.Fatal(err)
	}
	after, err := rule.Get(ctx, "guardian-guards", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if before.GetResourceVersion() != after.GetResourceVersion() {
		t.Errorf("resourceVersion went from %s to %s", before.GetResourceVersion(), after.GetResourceVersion())
	}
}

func fakeClient() *fake.FakeDynamicClient {
	return fake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{
		PrometheusRule.Resource: "PrometheusRuleList", PodMonitor.Resource: "PodMonitorList",
	})
}

func TestRunOnceNamesWhatItCouldNotDo(t *testing.T) {
	client := fakeClient()
	p, err := New(Options{Client: client, Kind: PrometheusRule, Set: "guardian", Namespace: "microservices", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.RunOnce(t.Context()); err != nil || len(client.Actions()) != 0 {
		t.Errorf("before Want: %v, %v", err, client.Actions())
	}
	want(t, p, 0.01)
	refused := errors.New("refused")
	client.PrependReactor("patch", "*", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, refused })
	if err := p.RunOnce(t.Context()); !errors.Is(err, refused) || err.Error() != "apply PrometheusRule microservices/guardian: refused\napply PrometheusRule microservices/guardian-guards: refused" {
		t.Errorf("got %v", err)
	}
	client.PrependReactor("list", "*", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, refused })
	if err := p.RunOnce(t.Context()); !errors.Is(err, refused) || err.Error() != "list PrometheusRules of microservices/guardian: refused" {
		t.Errorf("got %v", err)
	}
}

// What nobody needs at once is not watched, and looked at now and then.
func TestAPublisherWatchesWhileItIsToldTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, watched := fakeClient(), watch.NewFake()
		client.PrependReactor("patch", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, &unstructured.Unstructured{}, nil
		})
		client.PrependWatchReactor("*", clienttesting.DefaultWatchReactor(watched, nil))
		p, err := New(Options{Client: client, Kind: PrometheusRule, Set: "guardian", Namespace: "microservices", Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- p.Run(ctx) }()
		p.Watch(false)
		want(t, p, 0.01)
		if watches := asked(client, "watch"); watches != 0 {
			t.Errorf("%d watches", watches)
		}
		time.Sleep(look + time.Second)
		if lists := asked(client, "list"); lists != 1 {
			t.Errorf("looked %d times in %s", lists, look)
		}
		p.Watch(true)
		if watches := asked(client, "watch"); watches != 1 || watched.IsStopped() {
			t.Errorf("%d watches, stopped: %v", watches, watched.IsStopped())
		}
		p.Watch(false)
		if synctest.Wait(); !watched.IsStopped() {
			t.Error("it goes on watching")
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// asked is how often, since that was asked last.
func asked(client *fake.FakeDynamicClient, verb string) (n int) {
	synctest.Wait()
	for _, a := range client.Actions() {
		if a.GetVerb() == verb {
			n++
		}
	}
	client.ClearActions()
	return n
}

// Where nothing is wanted, what there was is removed, however long that takes, and
// then nobody looks: the cluster need not even know the kind.
func TestWhereNothingIsWantedNobodyLooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fakeClient()
		var refuses atomic.Bool
		refuses.Store(true)
		client.PrependReactor("list", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
			return refuses.Load(), nil, errors.New("refused")
		})
		p, err := New(Options{Client: client, Kind: PodMonitor, Set: "guardian", Namespace: "microservices", Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Want(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- p.Run(ctx) }()
		time.Sleep(time.Hour)
		if lists := asked(client, "list"); lists < 50 {
			t.Errorf("tried %d times in an hour", lists)
		}
		refuses.Store(false)
		time.Sleep(2 * time.Minute)
		if lists := asked(client, "list"); lists == 0 {
			t.Error("given up")
		}
		time.Sleep(time.Hour)
		if lists := asked(client, "list"); lists != 0 {
			t.Errorf("looked %d times for nothing", lists)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestNewNamesAllProblems(t *testing.T) {
	_, err := New(Options{Set: "guardian"})
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
	p, err := New(Options{Client: client, Kind: PodMonitor, Set: "guardian", Namespace: ns, Log: slog.New(slog.DiscardHandler),
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
		got, err := monitors.Get(ctx, "guardian-fast-lane", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return "none"
		}
		if err != nil {
			t.Fatal(err)
		}
		return got.GetResourceVersion()
	}
	if err := p.Want(); err != nil {
		t.Fatal(err)
	}
	once()

	rule := generate(t, 0.01, func(o *rules.Options) { o.FastLane = time.Second })
	if err := p.Want(rule.PodMonitor("guardian-fast-lane", "where")); err != nil {
		t.Fatal(err)
	}
	once()
	got, err := monitors.Get(ctx, "guardian-fast-lane", metav1.GetOptions{})
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

	if err := p.Want(); err != nil {
		t.Fatal(err)
	}
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
		"no answer":     {errors.New("refused"), "list PodMonitors of microservices/guardian: refused"},
	} {
		t.Run(name, func(t *testing.T) {
			client := fakeClient()
			client.PrependReactor("list", "*", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, test.answer })
			p, err := New(Options{Client: client, Kind: PodMonitor, Set: "guardian", Namespace: "microservices", Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Want(); err != nil {
				t.Fatal(err)
			}
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

// bench is a publisher of rules that runs once at a time, on a real API server.
type bench struct {
	t      *testing.T
	p      *Publisher
	client dynamic.Interface
	plane  *controlplane.Plane
}

func newBench(t *testing.T, owner *metav1.OwnerReference) *bench {
	t.Helper()
	plane := controlplane.Shared(t)
	client, err := dynamic.NewForConfig(plane.RESTConfig(controlplane.Admin))
	if err != nil {
		t.Fatal(err)
	}
	p, err := New(Options{Client: client, Kind: PrometheusRule, Set: "guardian", Namespace: plane.Namespace(t), Owner: owner, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return &bench{t, p, client, plane}
}

// publish has some objects wanted and written.
func (b *bench) publish(objects ...Object) {
	b.t.Helper()
	if err := b.p.Want(objects...); err != nil {
		b.t.Fatal(err)
	}
	if err := b.p.RunOnce(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
}

// objects are all that there are, by name.
func (b *bench) objects() map[string]*unstructured.Unstructured {
	b.t.Helper()
	list, err := b.client.Resource(PrometheusRule.Resource).Namespace(b.p.Namespace).List(b.t.Context(), metav1.ListOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	out := map[string]*unstructured.Unstructured{}
	for _, o := range list.Items {
		out[o.GetName()] = &o
	}
	return out
}

// guards gives the options many guards with long names.
func guards(n int) func(*rules.Options) {
	return func(o *rules.Options) {
		one := o.Guards[0]
		o.Guards = nil
		for i := range n {
			one.Name = fmt.Sprintf("checkout-service-%d", i)
			one.Stable.Workloads, one.Canary.Workloads = []string{one.Name + "-v1"}, []string{one.Name + "-v2"}
			o.Guards = append(o.Guards, one)
		}
	}
}

func TestObjectsThatAreNoLongerNeededAreRemoved(t *testing.T) {
	b := newBench(t, nil)
	b.publish(objects(generate(t, 0.01))...)
	if names := slices.Sorted(maps.Keys(b.objects())); !slices.Equal(names, []string{"guardian", "guardian-guards"}) {
		t.Fatalf("written were %v", names)
	}
	b.publish(objects(generate(t, 0.01, guards(1000)))...)
	many := b.objects()
	if many["guardian"] == nil || many["guardian-guards"] != nil || len(many) < 4 {
		t.Fatalf("of 1,000 guards there are %v", slices.Sorted(maps.Keys(many)))
	}
	b.publish(objects(generate(t, 0.01))...)
	if names := slices.Sorted(maps.Keys(b.objects())); !slices.Equal(names, []string{"guardian", "guardian-guards"}) {
		t.Errorf("of one guard there are %v", names)
	}
	b.publish()
	if left := b.objects(); len(left) != 0 {
		t.Errorf("of no guard there are %v", slices.Sorted(maps.Keys(left)))
	}
}

func TestALabelThatWasTakenOutGoesAway(t *testing.T) {
	b := newBench(t, nil)
	b.publish(objects(generate(t, 0.01))...)
	rule := b.client.Resource(PrometheusRule.Resource).Namespace(b.p.Namespace)
	theirs := []byte(`{"metadata":{"labels":{"theirs":"yes"}}}`)
	if _, err := rule.Patch(t.Context(), "guardian", types.MergePatchType, theirs, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	b.publish(objects(generate(t, 0.01, func(o *rules.Options) { o.Labels = nil }))...)
	for name, o := range b.objects() {
		if _, ok := o.GetLabels()["release"]; ok || (name == "guardian") != (o.GetLabels()["theirs"] == "yes") {
			t.Errorf("%s has labels %v", name, o.GetLabels())
		}
	}
}

func TestRulesThatAPersonHasTakenOverStay(t *testing.T) {
	b := newBench(t, &metav1.OwnerReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "guardian", UID: "1234"})
	b.publish(objects(generate(t, 0.01))...)
	printed, err := generate(t, 0.01).PrometheusRulesYAML("guardian", b.p.Namespace)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(file, printed, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := b.plane.Kubectl(t.Context(), controlplane.Admin, b.p.Namespace, "apply", "--server-side", "-f", file); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b.publish()
	left := b.objects()
	for _, name := range []string{"guardian", "guardian-guards"} {
		o := left[name]
		if o == nil {
			t.Errorf("%s is gone", name)
			continue
		}
		groups, _, err := unstructured.NestedSlice(o.Object, "spec", "groups")
		if err != nil || len(groups) == 0 || owned(o, FieldManager) != nil || len(o.GetOwnerReferences()) != 0 {
			t.Errorf("%s has %d groups, is still guardian's: %v, and goes with %v", name, len(groups), owned(o, FieldManager) != nil, o.GetOwnerReferences())
		}
	}
	b.publish(objects(generate(t, 0.02))...)
	if text, err := b.objects()["guardian-guards"].MarshalJSON(); err != nil || !strings.Contains(string(text), `  0.02"`) {
		t.Errorf("guardian does not take them back: %v", err)
	}
}

// A right that is missing is no reason not to publish, and somebody has to know.
func TestAWatchThatIsForbiddenIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fakeClient()
		client.PrependReactor("patch", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, &unstructured.Unstructured{}, nil
		})
		client.PrependWatchReactor("*", func(clienttesting.Action) (bool, watch.Interface, error) {
			return true, nil, apierrors.NewForbidden(PrometheusRule.Resource.GroupResource(), "", errors.New("no right"))
		})
		var log bytes.Buffer
		p, err := New(Options{Client: client, Kind: PrometheusRule, Set: "guardian", Namespace: "microservices", Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- p.Run(ctx) }()
		want(t, p, 0.01)
		time.Sleep(look)
		if patches := asked(client, "patch"); patches == 0 {
			t.Error("nothing is published")
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if n := strings.Count(log.String(), "cannot watch what is published"); n != 1 || !strings.Contains(log.String(), "no right") {
			t.Errorf("told %d times:\n%s", n, log.String())
		}
	})
}

package main

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"

	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/rules/publish"
	"github.com/canary-guardian/guardian/test/controlplane"
)

// Why a right that everything does not come to need is needed all the same.
const (
	streamed = "API servers before 1.34, and those without the feature, do not stream lists"
	stepping = "a step forward asks for every replica's heartbeat"
	denying  = "a step forward asks for the locks of other records"
	repeated = "an Event that comes again is counted up"
	ancestry = "a live read climbs from a pod to what made it where the caches do not have that yet"
)

// unmissed are the rights that everything may not come to need.
var unmissed = map[string]string{
	"list virtualservices.networking.istio.io":  streamed,
	"list destinationrules.networking.istio.io": streamed,
	"list services":                                streamed,
	"list endpointslices.discovery.k8s.io":         streamed,
	"list deployments.apps":                        streamed,
	"list controllerrevisions.apps":                streamed,
	"list leases.coordination.k8s.io":              stepping,
	"list configmaps":                              denying,
	"patch events":                                 repeated,
	"get replicasets.apps":                         ancestry,
	"get controllerrevisions.apps":                 ancestry,
	"delete prometheusrules.monitoring.coreos.com": "rules.enabled: false, or fewer guards",
}

// missPatience is how long each step waits for what a missing right may prevent.
const missPatience = 8 * time.Second

// chartInFull says whether all rights are taken away, and all platforms are
// built: make test-chart.
func chartInFull() bool { return os.Getenv("GUARDIAN_CHART") == "full" }

// rightsInShort stand for all: without the first no traffic moves, without the
// second nothing is recorded, without the third nobody goes forward.
var rightsInShort = []string{"patch virtualservices.networking.istio.io", "create configmaps", "create leases.coordination.k8s.io"}

// TestEachRightIsNeeded takes one right after the other from the chart's Role,
// and lets guardian go through all that it does. It has to be missed: something
// does not happen, or guardian says that it is forbidden. With -v it prints what.
func TestEachRightIsNeeded(t *testing.T) {
	whole := newInstalled(t)
	whole.run("install", "guardian", chartDir, "--set", oneGuard)
	role, err := whole.kube.RbacV1().Roles(whole.ns).Get(t.Context(), "guardian", metav1.GetOptions{})
	whole.must(err)
	if failed, forbidden := whole.everything(nil); len(failed) > 0 || len(forbidden) > 0 {
		t.Fatalf("with all rights fails %q, forbidden is %q", failed, forbidden)
	}
	table := map[string]string{}
	var mu sync.Mutex
	t.Run("without", func(t *testing.T) {
		slots := make(chan struct{}, 4)
		rights := rightsInShort
		if chartInFull() {
			rights = slices.Sorted(maps.Keys(grants(role.Rules)))
		}
		for _, right := range rights {
			t.Run(right, func(t *testing.T) {
				t.Parallel()
				slots <- struct{}{}
				defer func() { <-slots }()
				i := whole.elsewhere(t)
				i.run("install", "guardian", chartDir, "--set", oneGuard)
				failed, forbidden := i.everything(&right)
				mu.Lock()
				defer mu.Unlock()
				table[right] = strings.Join(failed, "; ")
				if len(failed) == 0 && !slices.Contains(forbidden, right) {
					table[right] += " (not missed)"
					if _, known := unmissed[right]; !known {
						t.Errorf("without the right to %s nothing is forbidden (but %q); fails: %q", right, forbidden, failed)
					}
				}
			})
		}
	})
	for _, right := range slices.Sorted(maps.Keys(table)) {
		t.Logf("%-60s %s", right, table[right])
	}
}

// elsewhere is another namespace, for a test that runs beside others: what they
// have running is no leak.
func (i *installed) elsewhere(t *testing.T) *installed {
	t.Helper()
	return &installed{helm: i.helm, rig: &rig{t: t, plane: i.plane, ns: i.plane.Namespace(t), kube: i.kube, token: filepath.Join(t.TempDir(), "token")}}
}

// everything installs what there is to guard, starts guardian without a right,
// and goes through all that guardian does. It returns what did not happen, and
// the rights that guardian says it lacks.
func (i *installed) everything(without *string) (failed, forbidden []string) {
	if without != nil {
		i.must(i.take(*without))
	}
	i.takeAccount("guardian")
	app := i.app("orders-service", 50)
	p := i.start("guardian-0", "/healthz")
	step := func(what string, ok func(context.Context) error) {
		ctx, cancel := context.WithTimeout(i.t.Context(), missPatience)
		defer cancel()
		if err := retried(ctx, ok); err != nil {
			failed = append(failed, what)
		}
	}
	step("ready", func(ctx context.Context) error { return get(ctx, p.metrics+"/readyz") })
	step("alert taken", func(ctx context.Context) error { return i.tellPod(ctx, p, app.Name) })
	step("rolled back", func(ctx context.Context) error { return isAt(ctx, app, 0) })
	step("alert for an unknown guard taken", func(ctx context.Context) error { return i.tellPod(ctx, p, "nobody") })
	step("rules written", func(ctx context.Context) error { return i.hasRules(ctx, true) })
	step("fast lane on", func(ctx context.Context) error {
		i.switchLaneOn(p)
		return i.hasLane(ctx, true)
	})
	step("fast lane off", func(ctx context.Context) error {
		i.mount(p)
		return i.hasLane(ctx, false)
	})
	i.must(app.Deploy(i.t.Context(), "v2", "orders-service:fixed"))
	step("lock lifted for a new build", func(ctx context.Context) error {
		rec, err := i.record(ctx, app.Name)
		if err == nil && rec.Lock != nil {
			err = errors.New("locked")
		}
		return err
	})
	step("event written", func(ctx context.Context) error {
		list, err := i.kube.CoreV1().Events(i.ns).List(ctx, metav1.ListOptions{})
		if err == nil && !slices.ContainsFunc(list.Items, func(e corev1.Event) bool { return e.InvolvedObject.Kind == "VirtualService" }) {
			err = errors.New("none")
		}
		return err
	})
	p.Stop()
	step("Lease removed at the end", func(ctx context.Context) error {
		_, err := i.kube.CoordinationV1().Leases(i.ns).Get(ctx, records.ReplicaLease("guardian-0"), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(err, errors.New("still there"))
	})
	return failed, lacking(p.Tail(5000))
}

// take takes a right, as grants writes it, out of the Role guardian.
func (i *installed) take(right string) error {
	roles := i.kube.RbacV1().Roles(i.ns)
	role, err := roles.Get(i.t.Context(), "guardian", metav1.GetOptions{})
	if err != nil {
		return err
	}
	var rest []rbacv1.PolicyRule
	for _, rule := range role.Rules {
		for _, resource := range rule.Resources {
			one := rule
			one.Resources = []string{resource}
			one.Verbs = slices.DeleteFunc(slices.Clone(rule.Verbs), func(verb string) bool {
				return verb+" "+strings.TrimSuffix(resource+"."+rule.APIGroups[0], ".") == right
			})
			if len(one.Verbs) > 0 {
				rest = append(rest, one)
			}
		}
	}
	role.Rules = rest
	_, err = roles.Update(i.t.Context(), role, metav1.UpdateOptions{})
	return err
}

// forbiddenPattern is how the API server says what a user lacks.
var forbiddenPattern = regexp.MustCompile(`cannot (\w+) resource \\*"(\w+)\\*" in API group \\*"([\w.]*)\\*"`)

func lacking(log string) []string {
	found := map[string]bool{}
	for _, m := range forbiddenPattern.FindAllStringSubmatch(log, -1) {
		found[strings.TrimSuffix(m[1]+" "+m[2]+"."+m[3], ".")] = true
	}
	return slices.Sorted(maps.Keys(found))
}

// retried tries again until it works or ctx ends.
func retried(ctx context.Context, ok func(context.Context) error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ok(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

// switchLaneOn hands guardian a configuration with the fast lane.
func (i *installed) switchLaneOn(p *pod) {
	i.t.Helper()
	text, err := os.ReadFile(p.config)
	i.must(err)
	changed := strings.Replace(string(text), "rules:\n", "rules:\n  fastLane: {enabled: true}\n", 1)
	if changed == string(text) {
		i.t.Fatalf("no rules in\n%s", text)
	}
	i.must(os.WriteFile(p.config+".new", []byte(changed), 0o600))
	i.must(os.Rename(p.config+".new", p.config))
}

func (i *installed) hasLane(ctx context.Context, want bool) error {
	client, err := dynamic.NewForConfig(i.plane.RESTConfig(controlplane.Admin))
	if err != nil {
		return err
	}
	return retried(ctx, func(ctx context.Context) error {
		_, err := client.Resource(publish.PodMonitor.Resource).Namespace(i.ns).Get(ctx, "guardian-fast-lane", metav1.GetOptions{})
		switch {
		case err == nil && !want:
			return errors.New("still there")
		case apierrors.IsNotFound(err) && !want:
			return nil
		}
		return err
	})
}

package remediate

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/canary-guardian/guardian/testdata/controlplane"
)

func TestAdmissionYAMLIsAsInTheGoldenFile(t *testing.T) {
	got, err := AdmissionYAML(AdmissionOptions{Namespace: "microservices"})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "../testdata/admission/policy.yaml", got)
}

func TestAdmissionPolicyRefusesNamesThatAreNone(t *testing.T) {
	for _, o := range []AdmissionOptions{{}, {Namespace: "a.b"}, {Namespace: "a", Release: "it's"}, {Namespace: "a", ServiceAccount: "x' || true"}, {Namespace: "a", ServiceAccountNamespace: "B"}} {
		if _, _, err := AdmissionPolicy(o); err == nil {
			t.Errorf("%+v: no error", o)
		}
	}
}

// lockedNamespace is a namespace under the policy, with a client of a person
// who may do everything and one of guardian's.
type lockedNamespace struct {
	t        *testing.T
	plane    *controlplane.Plane
	name     string
	admin    *kubernetes.Clientset
	guardian *rest.Config
}

func newLockedNamespace(t *testing.T) *lockedNamespace {
	t.Helper()
	plane := controlplane.Shared(t)
	l := &lockedNamespace{t: t, plane: plane, name: plane.Namespace(t)}
	var err error
	config := plane.RESTConfig(controlplane.Admin)
	config.QPS, config.Burst = -1, 0 // as fast as it goes
	if l.admin, err = kubernetes.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	if l.guardian, err = plane.ServiceAccount(t.Context(), l.name, "guardian"); err != nil {
		t.Fatal(err)
	}
	if err := plane.Grant(t.Context(), l.name, "system:serviceaccount:"+l.name+":guardian", rbacv1.PolicyRule{
		APIGroups: []string{"networking.istio.io"}, Resources: []string{"virtualservices"}, Verbs: []string{"*"},
	}); err != nil {
		t.Fatal(err)
	}
	policy, err := AdmissionYAML(AdmissionOptions{Namespace: l.name})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := l.kubectl("apply", "-f", l.file("policy.yaml", string(policy))); err != nil {
		t.Fatalf("apply the policy: %v\n%s", err, out)
	}
	return l
}

func (l *lockedNamespace) kubectl(args ...string) (string, error) {
	out, err := l.plane.Kubectl(l.t.Context(), controlplane.Admin, l.name, args...)
	return string(out), err
}

func (l *lockedNamespace) file(name, text string) string {
	l.t.Helper()
	path := filepath.Join(l.t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		l.t.Fatal(err)
	}
	return path
}

// article is one of the five manifests, in this namespace.
func (l *lockedNamespace) article(step string) string {
	text := strings.ReplaceAll(string(fixture(l.t, "article-"+step+".yaml")), "namespace: microservices", "namespace: "+l.name)
	return l.file("vs.yaml", text)
}

// must runs kubectl, which has to succeed.
func (l *lockedNamespace) must(args ...string) {
	l.t.Helper()
	if out, err := l.kubectl(args...); err != nil {
		l.t.Fatalf("kubectl %v: %v\n%s", args, err, out)
	}
}

// refused runs kubectl, which has to fail with the record's message.
func (l *lockedNamespace) refused(args ...string) {
	l.t.Helper()
	out, err := l.kubectl(args...)
	if text := fmt.Sprint(out, err); err == nil || !strings.Contains(text, lockedMessage) {
		l.t.Errorf("kubectl %v: %v\n%s", args, err, out)
	}
}

const lockedMessage = "orders-service: v2 (build 4f2a) was rolled back at 12:00, error rate 7%: deploy a new build"

// lock writes a record as guardian does and waits until it is in force.
func (l *lockedNamespace) lock(guard string, p Pair, o Rollback) {
	l.t.Helper()
	r := Record{Lock: &Lock{Kind: LockBuild, Build: "4f2a"}, Message: strings.Replace(lockedMessage, " was", "\nwas", 1)}
	r.denies(denied(p), Spellings(p, p.Stable), o)
	_, err := l.admin.CoreV1().ConfigMaps(l.name).Create(l.t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: RecordName(guard), Labels: map[string]string{LabelLocked: "true"}}, Data: r.Data(),
	}, metav1.CreateOptions{})
	if err != nil {
		l.t.Fatal(err)
	}
}

// untilInForce asks for a VirtualService with the canary alone until the
// policy refuses it.
func (l *lockedNamespace) untilInForce(p Pair) time.Duration {
	l.t.Helper()
	start := time.Now()
	canary := p.Canary
	destination := map[string]any{"host": p.Host, "subset": canary.Subset}
	if canary.Host != "" {
		destination = map[string]any{"host": canary.Host}
	}
	probe := virtualService("v1", "probe", l.name, []any{map[string]any{"route": []any{map[string]any{"destination": destination}}}})
	client := l.dynamic(l.plane.RESTConfig(controlplane.Admin), "v1")
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	ctx, cancel := context.WithTimeout(l.t.Context(), 30*time.Second)
	defer cancel()
	for {
		_, err := client.Create(ctx, probe, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil && ctx.Err() == nil {
			if !strings.Contains(err.Error(), lockedMessage) {
				l.t.Fatalf("probe: %v", err)
			}
			return time.Since(start)
		}
		select {
		case <-ctx.Done():
			l.t.Fatalf("the policy is not in force: %v", err)
		case <-tick.C:
		}
	}
}

func (l *lockedNamespace) dynamic(config *rest.Config, version string) dynamic.ResourceInterface {
	l.t.Helper()
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		l.t.Fatal(err)
	}
	return client.Resource(schema.GroupVersionResource{Group: "networking.istio.io", Version: version, Resource: "virtualservices"}).Namespace(l.name)
}

func virtualService(version, name, namespace string, http []any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "networking.istio.io/" + version, "kind": "VirtualService",
		"metadata": map[string]any{"name": name, "namespace": namespace},
		"spec":     map[string]any{"hosts": []any{"orders-service"}, "http": http},
	}}
}

func TestWhileLockedKubectlIsRefusedByEveryWay(t *testing.T) {
	l := newLockedNamespace(t)
	pair := bySubset
	pair.Namespace = l.name
	l.must("apply", "-f", l.article("90-10"))
	l.lock("orders-service", pair, Rollback{MatchRoutes: true, Mirrors: true})
	t.Logf("in force after %v", l.untilInForce(pair))

	// Locked, but not rolled back yet: what is there may be labelled.
	l.must("annotate", "virtualservice", "orders-service", "note=held")
	l.refused("apply", "-f", l.article("70-30"))

	// guardian itself passes.
	if _, err := l.dynamic(l.guardian, "v1").Patch(t.Context(), "orders-service", "application/json-patch+json",
		[]byte(`[{"op":"add","path":"/spec/http/0/route/1/weight","value":20}]`), metav1.PatchOptions{}); err != nil {
		t.Errorf("guardian is refused: %v", err)
	}

	l.must("apply", "-f", l.article("100-0"))
	for _, step := range []string{"90-10", "0-100"} {
		l.refused("apply", "-f", l.article(step))
		l.refused("apply", "--dry-run=server", "-f", l.article(step))
		l.refused("replace", "-f", l.article(step))
		l.refused("replace", "--force", "-f", l.article(step)) // deletes, and may not create
		l.must("apply", "-f", l.article("100-0"))
		l.refused("apply", "--server-side", "--force-conflicts", "-f", l.article(step))
	}
	l.must("delete", "virtualservice", "orders-service")
	l.refused("create", "-f", l.article("50-50"))
	l.must("create", "-f", l.article("100-0"))
	l.must("apply", "--server-side", "--force-conflicts", "-f", l.article("100-0"))
	l.must("annotate", "virtualservice", "orders-service", "note=stable", "--overwrite")

	// The lock goes, and CI may go on.
	l.must("label", "configmap", RecordName("orders-service"), LabelLocked+"-")
	l.eventually(func() error {
		out, err := l.kubectl("apply", "-f", l.article("50-50"))
		if err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		return nil
	})
}

func (l *lockedNamespace) eventually(try func() error) {
	l.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			l.t.Fatal(err)
		case <-tick.C:
		}
	}
}

// underLock is a namespace with locked guards and what Rewrite is asked for
// them.
type underLock struct {
	*lockedNamespace
	name     string
	o        RewriteOptions
	pairs    []Pair
	standing *unstructured.Unstructured // a VirtualService to be updated
}

func newUnderLock(t *testing.T, name string, o RewriteOptions, pairs ...Pair) underLock {
	t.Helper()
	u := underLock{newLockedNamespace(t), name, o, nil, nil}
	for i, p := range pairs {
		p.Namespace = u.lockedNamespace.name
		u.pairs = append(u.pairs, p)
		u.lock(fmt.Sprint("guard-", i), p, Rollback{MatchRoutes: o.MatchRoutes, Mirrors: o.Mirrors})
	}
	for _, p := range u.pairs {
		u.untilInForce(p)
	}
	standing := virtualService("v1", "standing", u.lockedNamespace.name, []any{map[string]any{"redirect": map[string]any{"uri": "/"}}})
	var err error
	if u.standing, err = u.dynamic(u.plane.RESTConfig(controlplane.Admin), "v1").Create(t.Context(), standing, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return u
}

// TestThePolicyDeniesWhatARollbackTakes holds the CEL against Rewrite: what
// Rewrite would change is refused, and what it leaves passes.
func TestThePolicyDeniesWhatARollbackTakes(t *testing.T) {
	hostLast := Pair{Stable: Ref{Subset: "v1"}, Canary: Ref{Host: "orders-v2"}, Host: "orders-service"}
	hostFirst := Pair{Stable: Ref{Host: "orders-v1"}, Canary: Ref{Subset: "v2"}, Host: "orders-service", Domain: "corp.example"}
	guards := []underLock{
		newUnderLock(t, "all", all, bySubset, byHost),
		newUnderLock(t, "weights alone", RewriteOptions{}, bySubset),
		newUnderLock(t, "weights alone, by host", RewriteOptions{}, byHost),
		newUnderLock(t, "weights alone, a canary's host", RewriteOptions{}, hostLast),
		newUnderLock(t, "weights alone, a stable's host, another domain", RewriteOptions{}, hostFirst),
	}
	for _, c := range []struct{ name, routes string }{
		{"stable alone", `{http: [{route: [{destination: {host: orders-service, subset: v1}}]}]}`},
		{"the canary alone, without weight", `{http: [{route: [{destination: {host: orders-service, subset: v2}}]}]}`},
		{"the canary alone, with weight 0", `{http: [{route: [{destination: {host: orders-service, subset: v2}, weight: 0}]}]}`},
		{"a split", `{http: [{route: [{destination: {host: orders-service, subset: v1}, weight: 99}, {destination: {host: orders-service, subset: v2}, weight: 1}]}]}`},
		{"a split with everything on stable", `{http: [{route: [{destination: {host: orders-service, subset: v1}, weight: 100}, {destination: {host: orders-service, subset: v2}}]}]}`},
		{"the second route of several", `{http: [{match: [{uri: {prefix: /a}}], redirect: {uri: /}}, {route: [{destination: {host: orders-service, subset: v1}, weight: 1}, {destination: {host: orders-service, subset: v2}, weight: 1}]}]}`},
		{"the full name", `{http: [{route: [{destination: {host: orders-service.NAMESPACE.svc.cluster.local, subset: v2}}]}]}`},
		{"the full name of another domain", `{http: [{route: [{destination: {host: orders-service.NAMESPACE.svc.corp.example, subset: v2}}]}]}`},
		{"another host's v2", `{http: [{route: [{destination: {host: payments, subset: v2}}]}]}`},
		{"tcp", `{tcp: [{match: [{port: 9000}], route: [{destination: {host: orders-service, subset: v2}}]}]}`},
		{"tls", `{tls: [{match: [{sniHosts: [a.example.com]}], route: [{destination: {host: orders-service, subset: v2}}]}]}`},
		{"tls to stable", `{tls: [{match: [{sniHosts: [a.example.com]}], route: [{destination: {host: orders-service, subset: v1}}]}]}`},
		{"a tester's route", `{http: [{match: [{headers: {x: {exact: tester}}}], route: [{destination: {host: orders-service, subset: v2}}]}]}`},
		{"a tester's split", `{http: [{match: [{headers: {x: {exact: tester}}}], route: [{destination: {host: orders-service, subset: v1}, weight: 50}, {destination: {host: orders-service, subset: v2}, weight: 50}]}]}`},
		{"a tester's tcp route", `{tcp: [{match: [{sourceLabels: {app: tester}}], route: [{destination: {host: orders-service, subset: v2}}]}]}`},
		{"a match of the path /", `{http: [{match: [{uri: {prefix: /}}], route: [{destination: {host: orders-service, subset: v2}}]}]}`},
		{"a match of a path", `{http: [{match: [{uri: {exact: /x}}], route: [{destination: {host: orders-service, subset: v2}}]}]}`},
		{"a match of a path that is no prefix of all", `{http: [{match: [{uri: {prefix: /orders}}], route: [{destination: {host: orders-service, subset: v2}}]}]}`},
		{"a match of an authority", `{http: [{match: [{authority: {exact: a.example.com}}], route: [{destination: {host: orders-service, subset: v2}}]}]}`},
		{"a match of a method and a scheme", `{http: [{match: [{method: {exact: GET}, scheme: {exact: https}}], route: [{destination: {host: orders-service, subset: v2}}]}]}`},
		{"a match of a path and a header", `{http: [{match: [{uri: {prefix: /orders}, headers: {x: {exact: tester}}}], route: [{destination: {host: orders-service, subset: v2}}]}]}`},
		{"a match of a header or a path", `{http: [{match: [{headers: {x: {exact: tester}}}, {uri: {prefix: /orders}}], route: [{destination: {host: orders-service, subset: v2}}]}]}`},
		{"a match of no header", `{http: [{match: [{headers: {}}], route: [{destination: {host: orders-service, subset: v2}}]}]}`},
		{"a match of all without a header", `{http: [{match: [{withoutHeaders: {x: {exact: old}}}], route: [{destination: {host: orders-service, subset: v2}}]}]}`},
		{"a match of a query parameter", `{http: [{match: [{queryParams: {v: {exact: "2"}}}], route: [{destination: {host: orders-service, subset: v2}}]}]}`},
		{"a match of the caller's namespace", `{http: [{match: [{sourceNamespace: testers}], route: [{destination: {host: orders-service, subset: v2}}]}]}`},
		{"a tcp match of the caller's subnet", `{tcp: [{match: [{sourceSubnet: 10.0.0.0/8}], route: [{destination: {host: orders-service, subset: v2}}]}]}`},
		{"a tls match of a destination's subnet", `{tls: [{match: [{sniHosts: [a.example.com], destinationSubnets: [10.0.0.0/8]}], route: [{destination: {host: orders-service, subset: v2}}]}]}`},
		{"a tester's split with all on the canary", `{http: [{match: [{headers: {x: {exact: tester}}}], route: [{destination: {host: orders-service, subset: v1}, weight: 0}, {destination: {host: orders-service, subset: v2}, weight: 100}]}]}`},
		{"a tester's split with all on stable", `{http: [{match: [{headers: {x: {exact: tester}}}], route: [{destination: {host: orders-service, subset: v1}, weight: 100}, {destination: {host: orders-service, subset: v2}, weight: 0}]}]}`},
		{"a tester's route to the canary and a third", `{http: [{match: [{headers: {x: {exact: tester}}}], route: [{destination: {host: orders-service, subset: v2}, weight: 60}, {destination: {host: payments}, weight: 40}]}]}`},
		{"the canary and a third", `{http: [{route: [{destination: {host: orders-service, subset: v2}, weight: 60}, {destination: {host: payments}, weight: 40}]}]}`},
		{"a tester's split of hosts with all on the canary", `{http: [{match: [{headers: {x: {exact: tester}}}], route: [{destination: {host: orders-v1}, weight: 0}, {destination: {host: orders-v2}, weight: 100}]}]}`},
		{"the host without a subset", `{http: [{route: [{destination: {host: orders-service}}]}]}`},
		{"the host with an empty subset", `{http: [{route: [{destination: {host: orders-service, subset: ""}}]}]}`},
		{"the full host without a subset", `{http: [{route: [{destination: {host: orders-service.NAMESPACE.svc.cluster.local}}]}]}`},
		{"the host of another domain without a subset", `{http: [{route: [{destination: {host: orders-service.NAMESPACE.svc.corp.example}}]}]}`},
		{"the host without a subset beside stable", `{http: [{route: [{destination: {host: orders-service, subset: v1}, weight: 90}, {destination: {host: orders-service}, weight: 10}]}]}`},
		{"the host without a subset, with weight 0", `{http: [{route: [{destination: {host: orders-service, subset: v1}, weight: 90}, {destination: {host: orders-service}}]}]}`},
		{"the host without a subset for testers", `{http: [{match: [{headers: {x: {exact: tester}}}], route: [{destination: {host: orders-service}}]}]}`},
		{"the host without a subset beside stable for testers", `{http: [{match: [{headers: {x: {exact: tester}}}], route: [{destination: {host: orders-service, subset: v1}, weight: 90}, {destination: {host: orders-service}, weight: 10}]}]}`},
		{"tcp to the host without a subset", `{tcp: [{route: [{destination: {host: orders-service}}]}]}`},
		{"a mirror to the host without a subset", `{http: [{route: [{destination: {host: orders-service, subset: v1}}], mirror: {host: orders-service}}]}`},
		{"several mirrors to the host without a subset", `{http: [{route: [{destination: {host: orders-service, subset: v1}}], mirrors: [{destination: {host: orders-service}, percentage: {value: 5}}]}]}`},
		{"another subset of the host", `{http: [{route: [{destination: {host: orders-service, subset: v3}}]}]}`},
		{"another host without a subset", `{http: [{route: [{destination: {host: payments}}]}]}`},
		{"a mirror at null of the old spelling", `{http: [{route: [{destination: {host: orders-service, subset: v1}}], mirror: {host: orders-service, subset: v2}, mirrorPercent: null}]}`},
		{"a mirror at null of the oldest spelling", `{http: [{route: [{destination: {host: orders-service, subset: v1}}], mirror: {host: orders-service, subset: v2}, mirror_percent: null}]}`},
		{"a mirror at null, then at 0", `{http: [{route: [{destination: {host: orders-service, subset: v1}}], mirror: {host: orders-service, subset: v2}, mirrorPercent: null, mirror_percent: 0}]}`},
		{"a mirror at null beside a split", `{http: [{route: [{destination: {host: orders-service, subset: v1}, weight: 50}, {destination: {host: orders-service, subset: v2}, weight: 50}], mirror: {host: audit}, mirror_percent: null}]}`},
		{"a match of a port or a header", `{http: [{match: [{port: 80}, {method: {exact: GET}}], route: [{destination: {host: orders-service, subset: v2}}]}]}`},
		{"a mirror", `{http: [{route: [{destination: {host: orders-service, subset: v1}}], mirror: {host: orders-service, subset: v2}}]}`},
		{"a mirror at 0.5%", `{http: [{route: [{destination: {host: orders-service, subset: v1}}], mirror: {host: orders-service, subset: v2}, mirrorPercentage: {value: 0.5}}]}`},
		{"a mirror at 0%", `{http: [{route: [{destination: {host: orders-service, subset: v1}}], mirror: {host: orders-service, subset: v2}, mirrorPercentage: {value: 0}}]}`},
		{"a mirror at an empty percentage", `{http: [{route: [{destination: {host: orders-service, subset: v1}}], mirror: {host: orders-service, subset: v2}, mirrorPercentage: {}}]}`},
		{"a mirror at 3 of the old spelling", `{http: [{route: [{destination: {host: orders-service, subset: v1}}], mirror: {host: orders-service, subset: v2}, mirrorPercent: 3}]}`},
		{"a mirror at 0 of the oldest spelling", `{http: [{route: [{destination: {host: orders-service, subset: v1}}], mirror: {host: orders-service, subset: v2}, mirror_percent: 0}]}`},
		{"one of several mirrors", `{http: [{route: [{destination: {host: orders-service, subset: v1}}], mirrors: [{destination: {host: audit}}, {destination: {host: orders-service, subset: v2}, percentage: {value: 5}}]}]}`},
		{"one of several mirrors at 0%", `{http: [{route: [{destination: {host: orders-service, subset: v1}}], mirrors: [{destination: {host: audit}}, {destination: {host: orders-service, subset: v2}, percentage: {value: 0}}]}]}`},
		{"a mirror of stable", `{http: [{route: [{destination: {host: orders-service, subset: v1}}], mirror: {host: orders-service, subset: v1}}]}`},
		{"a canary host", `{http: [{route: [{destination: {host: orders-v1}, weight: 1}, {destination: {host: orders-v2}, weight: 1}]}]}`},
		{"a canary host with a subset", `{http: [{route: [{destination: {host: orders-v2.NAMESPACE.svc.cluster.local, subset: blue}}]}]}`},
		{"a stable host", `{http: [{route: [{destination: {host: orders-v1}, weight: 1}, {destination: {host: orders-v2}, weight: 0}]}]}`},
		{"a mirror to a canary host", `{http: [{route: [{destination: {host: orders-v1}}], mirror: {host: orders-v2}}]}`},
		{"direct response and delegate", `{http: [{match: [{uri: {exact: /a}}], directResponse: {status: 418}}, {delegate: {name: x}}]}`},
		{"a delegate without hosts", `{hosts: [], http: [{route: [{destination: {host: orders-service, subset: v1}, weight: 1}, {destination: {host: orders-service, subset: v2}, weight: 1}]}]}`},
		{"nothing at all", `{}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, u := range guards {
				u.compare(t, c.routes)
			}
		})
	}
}

// compare creates a VirtualService with these routes, and makes another into
// one, as a dry run in every version, and holds the answers against Rewrite.
func (u underLock) compare(t *testing.T, routes string) {
	t.Helper()
	var spec map[string]any
	if err := yaml.Unmarshal([]byte(strings.ReplaceAll(routes, "NAMESPACE", u.lockedNamespace.name)), &spec); err != nil {
		t.Fatal(err)
	}
	if _, delegate := spec["hosts"]; !delegate {
		spec["hosts"] = []any{"orders-service"}
	}
	vs := virtualService("v1", "candidate", u.lockedNamespace.name, nil)
	vs.Object["spec"] = spec
	deny := false
	for _, p := range u.pairs {
		r, err := Rewrite(vs.Object, p, 0, u.o, nil)
		if err == nil && r.Before.Clean() != (len(r.Ops) == 0) {
			t.Errorf("%s: Inspect says %+v, and Rewrite changes %v", u.name, r.Before, r.Ops)
		}
		deny = deny || err == nil && len(r.Ops) > 0
	}
	update := u.standing.DeepCopy()
	update.Object["spec"] = spec
	dry := []string{metav1.DryRunAll}
	for _, version := range []string{"v1", "v1beta1", "v1alpha3"} {
		client := u.dynamic(u.plane.RESTConfig(controlplane.Admin), version)
		vs.SetAPIVersion("networking.istio.io/" + version)
		update.SetAPIVersion("networking.istio.io/" + version)
		_, created := client.Create(t.Context(), vs, metav1.CreateOptions{DryRun: dry})
		_, updated := client.Update(t.Context(), update, metav1.UpdateOptions{DryRun: dry})
		for how, err := range map[string]error{"create": created, "update": updated} {
			switch {
			case err == nil && deny:
				t.Errorf("%s, %s %s: passed, want refused", u.name, how, version)
			case err != nil && (!deny || !strings.Contains(err.Error(), lockedMessage)):
				t.Errorf("%s, %s %s: %v", u.name, how, version, err)
			}
		}
	}
}

func TestTheLargestVirtualServiceStaysWithinThePolicysCost(t *testing.T) {
	l := newLockedNamespace(t)
	pair := bySubset
	pair.Namespace = l.name
	l.lock("orders-service", pair, Rollback{MatchRoutes: true, Mirrors: true})
	l.untilInForce(pair)
	var http []any
	for i := range 200 {
		route := []any{}
		for j := range 5 {
			route = append(route, map[string]any{"destination": map[string]any{"host": fmt.Sprintf("service-%d.%s.svc.cluster.local", j, l.name), "subset": "v2"}, "weight": int64(20)})
		}
		http = append(http, map[string]any{
			"match":   []any{map[string]any{"headers": map[string]any{"x": map[string]any{"exact": fmt.Sprint(i)}}}},
			"route":   route,
			"mirrors": []any{map[string]any{"destination": map[string]any{"host": "audit"}}},
		})
	}
	client := l.dynamic(l.plane.RESTConfig(controlplane.Admin), "v1")
	dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	if _, err := client.Create(t.Context(), virtualService("v1", "large", l.name, http), dry); err != nil {
		t.Errorf("without the canary: %v", err)
	}
	last := http[len(http)-1].(map[string]any)["route"].([]any)[4].(map[string]any)
	last["destination"] = map[string]any{"host": "orders-service", "subset": "v2"}
	if _, err := client.Create(t.Context(), virtualService("v1", "large", l.name, http), dry); err == nil || !strings.Contains(err.Error(), lockedMessage) {
		t.Errorf("the canary in the last of 200 routes: %v", err)
	}
}

func TestAThousandLockedGuardsInOneNamespace(t *testing.T) {
	l := newLockedNamespace(t)
	pair := bySubset
	pair.Namespace = l.name
	const guards = 1000
	work := make(chan int)
	errs := make(chan error, guards)
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			for i := range work {
				r := Record{Lock: &Lock{Kind: LockManual}, Message: lockedMessage}
				p := pair
				p.Host = fmt.Sprintf("service-%d", i)
				if i == guards-1 {
					p = pair
				}
				r.denies(denied(p), Spellings(p, p.Stable), Rollback{MatchRoutes: true, Mirrors: true})
				_, err := l.admin.CoreV1().ConfigMaps(l.name).Create(t.Context(), &corev1.ConfigMap{
					ObjectMeta: metav1.ObjectMeta{Name: RecordName(p.Host), Labels: map[string]string{LabelLocked: "true"}}, Data: r.Data(),
				}, metav1.CreateOptions{})
				errs <- err
			}
		})
	}
	for i := range guards {
		work <- i
	}
	close(work)
	group.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	l.untilInForce(pair)
	start := time.Now()
	l.refused("apply", "-f", l.article("50-50"))
	refused := time.Since(start)
	start = time.Now()
	l.must("apply", "-f", l.article("100-0"))
	t.Logf("%d locked guards: kubectl apply refused in %v, allowed in %v", guards, refused, time.Since(start))
	for _, who := range []struct {
		name   string
		config *rest.Config
	}{{"a person", l.plane.RESTConfig(controlplane.Admin)}, {"guardian", l.guardian}} {
		client := l.dynamic(who.config, "v1")
		start = time.Now()
		const writes = 20
		for i := range writes {
			_, err := client.Patch(t.Context(), "orders-service", "application/json-patch+json",
				fmt.Appendf(nil, `[{"op":"add","path":"/spec/http/0/timeout","value":"%ds"}]`, i+1), metav1.PatchOptions{})
			if err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("a patch by %s: %v", who.name, time.Since(start)/writes)
	}
}

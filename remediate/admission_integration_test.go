package remediate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/test/controlplane"
)

// scoped are the printed policies with names of their own, and for some
// namespaces alone: other tests have the same API server.
func scoped(t testing.TB, id string, namespaces ...string) string {
	t.Helper()
	text, err := AdmissionYAML(AdmissionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	out := string(text)
	for _, name := range []string{PolicyLock, PolicyRecord, PolicyHold, PolicyHeld} {
		out = strings.ReplaceAll(out, "ame: "+name+"\n", "ame: "+id+"."+name+"\n")
	}
	only := `      - {key: kubernetes.io/metadata.name, operator: In, values: [` + strings.Join(namespaces, ", ") + "]}\n"
	return strings.ReplaceAll(out, "      matchExpressions:\n      - {key: "+LabelAdmission, "      matchExpressions:\n"+only+"      - {key: "+LabelAdmission)
}

// underPolicies installs the policies for the rig's namespace, and waits until
// they are in force.
func (r *rig) underPolicies() {
	r.t.Helper()
	file := filepath.Join(r.t.TempDir(), "policies.yaml")
	r.must(os.WriteFile(file, []byte(scoped(r.t, r.ns, r.ns)), 0o600))
	if out, err := r.kubectl("apply", "-f", file); err != nil {
		r.t.Fatalf("%v\n%s", err, out)
	}
	inForce(r.t, r.plane, r.ns)
}

// inForce waits until all four policies are.
func inForce(t testing.TB, plane *controlplane.Plane, ns string) {
	t.Helper()
	client := vsClient(t, plane.RESTConfig(controlplane.Admin), ns, "v1")
	probe := lockedBy(t, withSpec(t, split(100, 0)), "probe", theGuardian.lock(ns, bySubset, all))
	probe.SetNamespace(ns)
	eventually(t, func() error { // the lock policy refuses it, the record policy a record, and the hold policy strips it
		probe.SetName(fmt.Sprintf("probe-%d", replicas.next())) // one that was let through may not be deleted later
		if _, err := client.Create(t.Context(), probe, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
			return fmt.Errorf("a manifest with a lock: %w", cmpErr(err))
		}
		got, err := client.Create(t.Context(), probe, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil || len(got.GetAnnotations()) > 0 && got.GetAnnotations()[decision.LockKey("probe")] != "" {
			return fmt.Errorf("a dry run with a lock is not held: %w", cmpErr(err))
		}
		kube, err := kubernetes.NewForConfig(plane.RESTConfig(controlplane.Admin))
		if err != nil {
			return err
		}
		if _, err = kube.CoreV1().ConfigMaps(ns).Create(t.Context(), theRecord(ns), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); !apierrors.IsForbidden(err) {
			return fmt.Errorf("a record in guardian's name: %w", cmpErr(err))
		}
		return nil
	})
}

var errTaken = errors.New("taken")

// cmpErr is err, or that there was none.
func cmpErr(err error) error {
	if err == nil {
		return errTaken
	}
	return err
}

func eventually(t testing.TB, try func() error) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal(err)
		case <-tick.C:
		}
	}
}

func vsClient(t testing.TB, config *rest.Config, ns, version string) dynamic.ResourceInterface {
	t.Helper()
	config.WarningHandler = rest.NoWarnings{}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client.Resource(schema.GroupVersionResource{Group: "networking.istio.io", Version: version, Resource: "virtualservices"}).Namespace(ns)
}

// policed is a set of namespaces under the policies, in each of which all who
// write have their rights.
type policed struct {
	t     *testing.T
	plane *controlplane.Plane
	kube  *kubernetes.Clientset // admin
}

// namespace makes one and gives everybody rights in it: CI's are those of the
// stock role edit and on VirtualServices.
func (p *policed) namespace(labels, annotations map[string]string) string {
	p.t.Helper()
	ns := p.plane.Namespace(p.t)
	if len(labels)+len(annotations) > 0 {
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": labels, "annotations": annotations}})
		if err != nil {
			p.t.Fatal(err)
		}
		if _, err := p.kube.CoreV1().Namespaces().Patch(p.t.Context(), ns, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			p.t.Fatal(err)
		}
	}
	verbs := []string{"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"}
	for _, w := range everybody {
		rules := []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: verbs}, {APIGroups: []string{"networking.istio.io"}, Resources: []string{"virtualservices"}, Verbs: slices.Concat(verbs, w.may)}}
		if slices.Contains(w.may, "*") {
			rules = []rbacv1.PolicyRule{{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"*"}}}
		}
		if err := p.plane.Grant(p.t.Context(), ns, w.in(ns), rules...); err != nil {
			p.t.Fatal(err)
		}
	}
	return ns
}

func newPoliced(t *testing.T) *policed {
	t.Helper()
	p := &policed{t: t, plane: controlplane.Shared(t)}
	var err error
	if p.kube, err = kubernetes.NewForConfig(p.plane.RESTConfig(controlplane.Admin)); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *policed) install(id string, namespaces ...string) {
	p.t.Helper()
	file := filepath.Join(p.t.TempDir(), "policies.yaml")
	if err := os.WriteFile(file, []byte(scoped(p.t, id, namespaces...)), 0o600); err != nil {
		p.t.Fatal(err)
	}
	if out, err := p.plane.Kubectl(p.t.Context(), controlplane.Admin, namespaces[0], "apply", "-f", file); err != nil {
		p.t.Fatalf("%v\n%s", err, out)
	}
	for _, ns := range namespaces[:1] {
		inForce(p.t, p.plane, ns)
	}
}

func TestTheAPIServerTakesThePoliciesAsTheyArePrinted(t *testing.T) {
	p := newPoliced(t)
	text, err := AdmissionYAML(AdmissionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "policies.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := p.plane.Kubectl(t.Context(), controlplane.Admin, "default", "apply", "--dry-run=server", "-f", file)
	if n := strings.Count(out, "created (server dry run)"); err != nil || n != 8 {
		t.Errorf("%v, %d of 8 objects taken:\n%s", err, n, out)
	}
}

// TestTheAPIServerRulesAsTheTableSays tries the whole table on a real API server,
// by users with no more rights than the table gives them.
func TestTheAPIServerRulesAsTheTableSays(t *testing.T) {
	p := newPoliced(t)
	namespaces := map[string]string{}
	at := func(r tableRow) string { return fmt.Sprint(r.labels, r.annotations, r.terminating) }
	names := []string{p.namespace(nil, nil)}
	namespaces[at(tableRow{})] = names[0]
	for _, row := range theTable() {
		if namespaces[at(row)] == "" {
			namespaces[at(row)] = p.namespace(row.labels, row.annotations)
			names = append(names, namespaces[at(row)])
		}
	}
	p.install("table", names...)
	var wg sync.WaitGroup
	slots := make(chan struct{}, 4)
	n := 0
	for _, row := range theTable() {
		if row.terminating {
			continue // the last: nothing can be made there any more
		}
		for want, users := range row.want {
			for _, by := range users {
				n++
				name := fmt.Sprintf("vs-%d", n)
				wg.Go(func() {
					slots <- struct{}{}
					defer func() { <-slots }()
					p.try(row, namespaces[at(row)], name, by, want)
				})
			}
		}
	}
	wg.Wait()
	t.Logf("%d writes", n)
	p.tryTerminating(namespaces[at(tableRow{terminating: true})])
}

// stored makes a row's object on the API server.
func (p *policed) stored(old *unstructured.Unstructured, ns string) (*unstructured.Unstructured, error) {
	marks := old.GetAnnotations()
	bare := old.DeepCopy()
	bare.SetAnnotations(map[string]string{"team": "shop"})
	if _, err := vsClient(p.t, p.plane.RESTConfig(controlplane.Admin), ns, "v1").Create(p.t.Context(), bare, metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	for k, v := range marks { // each by whom it names
		by := p.plane.RESTConfig(theGuardian.in(ns))
		if l, err := decision.ParseLockAnnotation(v); err == nil {
			by = p.plane.RESTConfig(l.By)
		} else if k != "team" {
			continue // the policy lets nobody write it
		}
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{k: v}}})
		if err != nil {
			return nil, err
		}
		if _, err := vsClient(p.t, by, ns, "v1").Patch(p.t.Context(), old.GetName(), types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			return nil, err
		}
	}
	return vsClient(p.t, p.plane.RESTConfig(controlplane.Admin), ns, "v1").Get(p.t.Context(), old.GetName(), metav1.GetOptions{})
}

// try makes one write of the table.
func (p *policed) try(row tableRow, ns, name string, by who, want answer) {
	old, asked := row.objects(p.t, ns, by)
	var before *unstructured.Unstructured
	var err error
	if old != nil {
		old.SetName(name)
		if before, err = p.stored(old, ns); err != nil {
			p.t.Errorf("%s: %v", row.name, err)
			return
		}
	}
	got, err := p.write(row, ns, name, by, before, asked)
	is := refused
	switch {
	case err == nil:
		is = row.is(before, asked, got)
	case !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "Policy"):
		p.t.Errorf("%s, by %s: %v", row.name, by.name, err)
	case strings.Contains(err.Error(), "expression"):
		p.t.Errorf("%s, by %s: the message cannot be made: %v", row.name, by.name, err)
	}
	if is != want {
		p.t.Errorf("%s, by %s: %s (%v), want %s", row.name, by.name, is, err, want)
	}
	if is == refused && before != nil {
		after, err := vsClient(p.t, p.plane.RESTConfig(controlplane.Admin), ns, "v1").Get(p.t.Context(), name, metav1.GetOptions{})
		if err != nil || after.GetResourceVersion() != before.GetResourceVersion() {
			p.t.Errorf("%s, by %s: refused, and the object has changed (%v)", row.name, by.name, err)
		}
	}
}

// write does what a row asks for.
func (p *policed) write(row tableRow, ns, name string, by who, before, asked *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	client := vsClient(p.t, p.plane.RESTConfig(by.in(ns)), ns, "v1")
	var dry []string
	if row.dryRun {
		dry = []string{metav1.DryRunAll}
	}
	ctx := p.t.Context()
	switch {
	case before == nil:
		asked.SetName(name)
		return client.Create(ctx, asked, metav1.CreateOptions{DryRun: dry, FieldManager: by.manager})
	case asked == nil:
		return nil, client.Delete(ctx, name, metav1.DeleteOptions{DryRun: dry})
	}
	asked.SetName(name)
	asked.SetUID(before.GetUID())
	asked.SetResourceVersion(before.GetResourceVersion())
	asked.SetCreationTimestamp(before.GetCreationTimestamp())
	return client.Update(ctx, asked, metav1.UpdateOptions{DryRun: dry, FieldManager: by.manager})
}

func (p *policed) tryTerminating(ns string) {
	i := slices.IndexFunc(theTable(), func(r tableRow) bool { return r.terminating })
	row := theTable()[i]
	for n, by := range row.want[passes] {
		old, _ := row.objects(p.t, ns, by)
		old.SetName(fmt.Sprint("last-", n))
		if _, err := p.stored(old, ns); err != nil {
			p.t.Fatal(err)
		}
	}
	if err := p.kube.CoreV1().Namespaces().Delete(p.t.Context(), ns, metav1.DeleteOptions{}); err != nil {
		p.t.Fatal(err)
	}
	for n, by := range row.want[passes] {
		eventually(p.t, func() error { // the policy's own look at the namespace lags
			return vsClient(p.t, p.plane.RESTConfig(by.in(ns)), ns, "v1").Delete(p.t.Context(), fmt.Sprint("last-", n), metav1.DeleteOptions{})
		})
	}
}

func TestTheAPIServerGuardsRecordsAsTheTableSays(t *testing.T) {
	p := newPoliced(t)
	n := 0
	var names []string
	for range theRecordTable() {
		names = append(names, p.namespace(nil, nil))
	}
	p.install("records", names...)
	for i, row := range theRecordTable() {
		if row.terminating {
			continue // as for VirtualServices
		}
		for want, users := range row.want {
			for _, by := range users {
				n++
				p.tryRecord(row, names[i], by, want)
			}
		}
	}
	t.Logf("%d writes", n)
}

// tryRecord makes one write of the table of records, in a namespace of its own.
func (p *policed) tryRecord(row recordRow, ns string, by who, want answer) {
	ctx := p.t.Context()
	old, now := row.objects(ns, by)
	guardian, err := kubernetes.NewForConfig(p.plane.RESTConfig(theGuardian.in(ns)))
	if err != nil {
		p.t.Fatal(err)
	}
	if old != nil {
		if err := p.storeRecord(guardian, old, ns); err != nil {
			p.t.Errorf("%s: %v", row.name, err)
			return
		}
	}
	client, err := kubernetes.NewForConfig(p.plane.RESTConfig(by.in(ns)))
	if err != nil {
		p.t.Fatal(err)
	}
	switch api := client.CoreV1().ConfigMaps(ns); {
	case old == nil:
		_, err = api.Create(ctx, now, metav1.CreateOptions{})
	case now == nil:
		err = api.Delete(ctx, old.Name, metav1.DeleteOptions{})
	default:
		_, err = api.Update(ctx, now, metav1.UpdateOptions{})
	}
	is := passes
	if apierrors.IsForbidden(err) && strings.Contains(err.Error(), "Policy") {
		is = refused
	} else if err != nil {
		p.t.Errorf("%s, by %s: %v", row.name, by.name, err)
	}
	if is != want {
		p.t.Errorf("%s, by %s: %s (%v), want %s", row.name, by.name, is, err, want)
	}
	for _, name := range []string{records.Name("orders-service"), "guardian-x"} {
		admin := p.kube.CoreV1().ConfigMaps(ns)
		if err := admin.Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			p.t.Fatal(err)
		}
	}
}

// storeRecord makes a record as guardian does. One without an owner is a ConfigMap
// of its name that somebody has made first: no policy looks at it before it has
// the label.
func (p *policed) storeRecord(guardian *kubernetes.Clientset, cm *corev1.ConfigMap, ns string) error {
	bare := cm.DeepCopy()
	if bare.Annotations[records.AnnotationOwner] == "" {
		bare.Labels = nil
	}
	_, err := guardian.CoreV1().ConfigMaps(ns).Create(p.t.Context(), bare, metav1.CreateOptions{})
	return err
}

package remediate

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

const testNamespace = "microservices"

var (
	errAPI   = errors.New("the API server does not answer")
	errCrash = errors.New("guardian was killed here")

	errForbidden = apierrors.NewForbidden(schema.GroupResource{Resource: "configmaps"}, "", errors.New("it may not list them"))
)

// world is one guard's cluster, held in memory: what the API server stores.
// A replica's cache is an older copy of it.
type world struct {
	cm       *corev1.ConfigMap
	vs       *unstructured.Unstructured            // nil: deleted
	others   map[string]*unstructured.Unstructured // further ones, by name
	template int                                   // the canary Deployment's pod template; 0: no Deployment
	made     map[int]time.Time                     // when a template first appeared
	pods     []int                                 // templates of the canary's pods
	lives    []life                                // of each of them; shorter: it is as old as its template, and ready
	kind     string                                // what owns the pods: a Deployment if empty, a StatefulSet, a DaemonSet or an Argo Rollout
	byHost   bool                                  // stable and canary are hosts of their own: Services orders-v1 and orders-v2
	noise    int                                   // how often the template was changed in a way that is no build; it was the last time when it is not 0
	present  int                                   // the last template that was not 0
	since    time.Time                             // when it came to be the present one
	stable   int                                   // ready endpoints of stable
	noSubset bool                                  // the DestinationRule has lost stable's subset, or stable its Service
	foreign  *corev1.ConfigMap                     // the record of another guard; nil: there is none
	host     string                                // of the Service; empty: orders-service
	subset   string                                // of the canary in the DestinationRule; empty: v2
	version  int
}

// life is what a pod is besides its template's.
type life struct {
	noise       int
	born, ready time.Time
	down        bool // it is not ready
}

// The owners of a canary's pods that a world knows.
const (
	ownedByStatefulSet = "StatefulSet"
	ownedByDaemonSet   = "DaemonSet"
	ownedByRollout     = "Rollout"
)

// copy is what a cache holds. Objects and lists are replaced, never edited, and made
// only grows, so sharing them is safe.
func (w *world) copy() *world {
	c := *w
	c.others = maps.Clone(w.others)
	return &c
}

func (w *world) next() string { w.version++; return strconv.Itoa(w.version) }

func (w *world) record(context.Context, string) (*corev1.ConfigMap, error) { return w.cm, nil }

func (w *world) virtualService(_ context.Context, name string) (*unstructured.Unstructured, error) {
	if name == "orders-service" {
		return w.vs, nil
	}
	return w.others[name], nil
}

// put stores a VirtualService.
func (w *world) put(vs *unstructured.Unstructured) {
	if vs.GetName() == "orders-service" {
		w.vs = vs
		return
	}
	if w.others == nil {
		w.others = map[string]*unstructured.Unstructured{}
	}
	w.others[vs.GetName()] = vs
}

// memo keeps what is made from a key alone, once for all worlds: nobody edits what a
// reader returns.
type memo[K comparable, V any] struct {
	mu  sync.RWMutex
	all map[K]V
}

func (c *memo[K, V]) of(key K, do func() V) V {
	c.mu.RLock()
	v, ok := c.all[key]
	c.mu.RUnlock()
	if ok {
		return v
	}
	v = do()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == nil {
		c.all = map[K]V{}
	}
	c.all[key] = v
	return v
}

type ruleKey struct {
	host, subset string
	noSubset     bool
}

var testRules memo[ruleKey, *slimRule]

func (w *world) destinationRule(context.Context, string) (*slimRule, error) {
	shared := testRules.of(ruleKey{w.host, w.subset, w.noSubset}, func() *slimRule {
		dr := &slimRule{host: cmp.Or(w.host, "orders-service"), subsets: []slimSubset{{cmp.Or(w.subset, "v2"), slimLabelsOf(map[string]string{"version": "v2"})}}}
		if !w.noSubset {
			dr.subsets = append(dr.subsets, slimSubset{"v1", slimLabelsOf(map[string]string{"version": "v1"})})
		}
		return dr
	})
	dr := *shared // a test may add subsets
	dr.subsets = slices.Clip(dr.subsets)
	return &dr, nil
}

var testServices memo[string, *slimService]

func (w *world) service(_ context.Context, name string) (*slimService, error) {
	version, ofVersion := strings.CutPrefix(name, "orders-")
	switch {
	case !w.byHost:
		name, ofVersion = cmp.Or(w.host, "orders-service"), false
	case w.noSubset && version == "v1":
		return nil, nil
	}
	return testServices.of(name, func() *slimService {
		selector := map[string]string{"app": "orders"}
		if ofVersion {
			selector["version"] = version
		}
		return slimServiceOf(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Selector: selector}})
	}), nil
}

func podLabels(version string) map[string]string {
	return map[string]string{"app": "orders", "version": version}
}

// slimVersions are the labels of the pods of each version.
var slimVersions = map[string]slimLabels{"v1": slimLabelsOf(podLabels("v1")), "v2": slimLabelsOf(podLabels("v2"))}

func (w *world) templateSpec(n int) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: podLabels("v2")},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "orders", Image: fmt.Sprintf("orders:%d", n)}}}}
}

// disturbed is templateSpec after changes that are no build: a restart, a chart's
// version, a commit, what Reloader sets.
func (w *world) disturbed(n, noise int) corev1.PodTemplateSpec {
	t := w.templateSpec(n)
	at := strconv.Itoa(noise)
	switch noise % 4 {
	case 1:
		t.Annotations = map[string]string{"kubectl.kubernetes.io/restartedAt": at}
	case 2:
		t.Labels["helm.sh/chart"] = "orders-" + at
	case 3:
		t.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "STAKATER_ORDERS_CONFIGMAP", Value: at}}
	default:
		if noise > 0 {
			t.Annotations = map[string]string{"example.com/commit": at}
		}
	}
	return t
}

// hashOfTemplate is the build of templateSpec, worked out once for each.
func (w *world) hashOfTemplate(n int) string { return w.hashOf(n, 0) }

func (w *world) hashOf(n, noise int) string {
	return templateHashes.of([2]int{n, noise}, func() string { return hashOf(w.disturbed(n, noise)) })
}

var templateHashes memo[[2]int, string]

// life is that of the i-th of the canary's pods.
func (w *world) life(i int) life {
	if i < len(w.lives) {
		return w.lives[i]
	}
	made := w.made[w.pods[i]]
	return life{born: made, ready: made}
}

// isReady says whether the canary has a ready pod of a template.
func (w *world) isReady(template int) bool {
	for i, t := range w.pods {
		if t == template && !w.life(i).down {
			return true
		}
	}
	return false
}

func (w *world) deployments(_ context.Context, want workloadSelector) ([]*slimDeployment, error) {
	if w.template == 0 || w.kind != "" || !want.matches(slimVersions["v2"]) {
		return nil, nil
	}
	d := &slimDeployment{slim: keep(&metav1.ObjectMeta{Name: "orders-v2"}), template: slimVersions["v2"],
		build: w.hashOf(w.template, w.noise), replicas: int32(len(w.pods))}
	for i, p := range w.pods {
		d.have++
		if l := w.life(i); p == w.template && (i >= len(w.lives) || l.noise == w.noise) {
			d.updated++
			if !l.down {
				d.avail++
			}
		}
	}
	return []*slimDeployment{d}, nil
}

func (w *world) pods_(version string) []*slimPod {
	var out []*slimPod
	if version == "v1" {
		for i := range w.stable {
			out = append(out, testPod(version, i, 1))
		}
		return out
	}
	for i, t := range w.pods {
		l := w.life(i)
		p := *testPod(version, i, t)
		switch {
		case w.kind == ownedByStatefulSet:
			p.owner = podOwner{ownedByStatefulSet, "orders-v2"}
			p.labels = statefulLabels(revisionName(t, l.noise))
		case w.kind == ownedByDaemonSet:
			p.owner = podOwner{ownedByDaemonSet, "orders-v2"}
			p.labels = statefulLabels(strings.TrimPrefix(revisionName(t, l.noise), "orders-v2-"))
		case l.noise > 0:
			p.owner.name = revisionName(t, l.noise)
		}
		p.born, p.readyFrom, p.ready = l.born.Unix(), l.ready.Unix(), !l.down
		out = append(out, &p)
	}
	return out
}

// revisionName is that of the ReplicaSet or ControllerRevision of a template.
func revisionName(template, noise int) string {
	if noise == 0 {
		return fmt.Sprintf("orders-v2-%d", template)
	}
	return fmt.Sprintf("orders-v2-%d.%d", template, noise)
}

// statefulLabels are those of a StatefulSet's pod, or of a DaemonSet's, made once for
// each revision.
func statefulLabels(revision string) slimLabels {
	return statefulSets.of(revision, func() slimLabels {
		set := podLabels("v2")
		set[appsv1.ControllerRevisionHashLabelKey] = revision
		return slimLabelsOf(set)
	})
}

var statefulSets memo[string, slimLabels]

type podKey struct {
	version     string
	i, template int
}

// testPod is a ready pod. Nobody edits it, so all worlds have the same.
func testPod(version string, i, template int) *slimPod {
	return testPods.of(podKey{version, i, template}, func() *slimPod {
		yes := true
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("orders-%s-%d", version, i), Labels: podLabels(version),
			OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: fmt.Sprintf("orders-%s-%d", version, template), Controller: &yes}}}}
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		return slimPodOf(p)
	})
}

var testPods memo[podKey, *slimPod]

func (w *world) podsOf(_ context.Context, want workloadSelector) ([]*slimPod, error) {
	var out []*slimPod
	for _, v := range []string{"v1", "v2"} {
		if want.matches(slimVersions[v]) {
			out = append(out, w.pods_(v)...)
		}
	}
	return out, nil
}

// revisions are what the pods were made from; of another owner than a Deployment
// that is all of its revisions.
func (w *world) revisions(_ context.Context, _ workloadSelector, pods []*slimPod) ([]*slimRevision, error) {
	kind, owner := kindReplicaSet, "Deployment/orders-v2"
	switch w.kind {
	case ownedByStatefulSet:
		kind, owner = kindControllerRevision, "StatefulSet/orders-v2"
	case ownedByDaemonSet:
		kind, owner = kindControllerRevision, "DaemonSet/orders-v2"
	case ownedByRollout:
		owner = "Rollout/orders-v2"
	}
	var out []*slimRevision
	add := func(n, noise int) {
		out = append(out, &slimRevision{slim: keep(&metav1.ObjectMeta{Name: revisionName(n, noise)}), kind: kind, owner: owner,
			build: w.hashOf(n, noise), made: w.made[n], lasting: true})
	}
	for ref := range revisionsOf(pods) {
		if number, ok := strings.CutPrefix(ref.name, "orders-v2-"); ok {
			number, noise, _ := strings.Cut(number, ".")
			n, err := strconv.Atoi(number)
			k, _ := strconv.Atoi(noise)
			if err == nil && (w.kind == "" || n != w.template || k != w.noise) {
				add(n, k)
			}
		}
	}
	if w.kind != "" && w.template != 0 && len(w.pods) > 0 {
		add(w.template, w.noise)
		out[len(out)-1].number = 1 // the newest, also where it was rolled back to
	}
	return out, nil
}

func (w *world) locked(context.Context) (out []*corev1.ConfigMap, err error) {
	for _, cm := range []*corev1.ConfigMap{w.cm, w.foreign} {
		if cm != nil && cm.Labels[records.LabelLocked] == "true" {
			out = append(out, cm)
		}
	}
	return out, nil
}

func (w *world) denying(ctx context.Context, destination string) ([]*corev1.ConfigMap, error) {
	all, err := w.locked(ctx)
	return slices.DeleteFunc(all, func(cm *corev1.ConfigMap) bool {
		return !slices.Contains(strings.Fields(cm.Data[decision.KeyDeny]), destination)
	}), err
}

func (w *world) endpointSlices(context.Context, string) ([]*slimSlice, error) {
	return testSlices.of([2]int{w.stable, len(w.pods)}, func() []*slimSlice {
		s := &discoveryv1.EndpointSlice{}
		for _, v := range []string{"v1", "v2"} {
			for _, p := range w.pods_(v) {
				s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: p.name}})
			}
		}
		return []*slimSlice{slimSliceOf(s)}
	}), nil
}

var testSlices memo[[2]int, []*slimSlice]

// worldReader makes a world a reader.
type worldReader struct {
	*world
	saw      **world // a copy of what was looked at
	down     *bool   // the API server does not answer
	unlisted *bool   // records must not be listed
}

func (r worldReader) locked(ctx context.Context) ([]*corev1.ConfigMap, error) {
	if r.unlisted != nil && *r.unlisted {
		return nil, errForbidden
	}
	return r.world.locked(ctx)
}

func (r worldReader) denying(ctx context.Context, destination string) ([]*corev1.ConfigMap, error) {
	if r.unlisted != nil && *r.unlisted {
		return nil, errForbidden
	}
	return r.world.denying(ctx, destination)
}

func (r worldReader) pods(ctx context.Context, want workloadSelector) ([]*slimPod, error) {
	*r.saw = r.copy() // what comes after it is from the same reader, and stable may not be looked for
	return r.podsOf(ctx, want)
}

func (r worldReader) slices(ctx context.Context, s string) ([]*slimSlice, error) {
	*r.saw = r.copy() // of all readers of a pass, the one that tells of stable
	return r.endpointSlices(ctx, s)
}

func (r worldReader) record(ctx context.Context, guard string) (*corev1.ConfigMap, error) {
	if r.down != nil && *r.down {
		return nil, errAPI
	}
	*r.saw = r.copy()
	return r.world.record(ctx, guard)
}

// manifest is a VirtualService with everything that a rewrite must leave
// alone: a third destination, fields unknown to any client, a header route to
// the canary, a sticky cookie for each version and a mirror.
func manifest(weight int) map[string]any { return manifestFor(routesSplit, weight) }

// routes is what a release's VirtualService looks like.
type routes string

const (
	routesSplit   routes = "a split"             // see manifest
	routesThree   routes = "three versions"      // the third destination is another version of the same host
	routesHosts   routes = "versions by host"    // no subsets: each version is a host
	routesTesters routes = "testers by a header" // everybody is at stable, in a route without the canary
)

type manifestKey struct {
	routes
	weight int
}

var manifests memo[manifestKey, map[string]any]

func manifestFor(r routes, weight int) map[string]any {
	return runtime.DeepCopyJSON(manifests.of(manifestKey{r, weight}, func() map[string]any {
		text := manifestText(weight)
		switch r {
		case routesThree:
			text = strings.ReplaceAll(text, `"host":"legacy.example.com"`, `"host":"orders-service","subset":"v3"`)
		case routesHosts:
			text = strings.NewReplacer(`"host":"orders-service","subset":"v1"`, `"host":"orders-v1"`, `"host":"orders-service","subset":"v2"`, `"host":"orders-v2"`).Replace(text)
		case routesTesters:
			text = testersText(weight > 0)
		}
		var m map[string]any
		if err := json.Unmarshal([]byte(text), &m); err != nil {
			panic(err)
		}
		return m
	}))
}

// testersText is a VirtualService whose canary gets what testers ask for by a header,
// or nothing.
func testersText(some bool) string {
	testers := ""
	if some {
		testers = `{"match":[{"headers":{"x-tester":{"exact":"yes"}}}],"route":[{"destination":{"host":"orders-service","subset":"v2"}}]},`
	}
	return `{"apiVersion":"networking.istio.io/v1","kind":"VirtualService",
	"metadata":{"name":"orders-service","namespace":"microservices","annotations":{"team":"shop"}},
	"spec":{"hosts":["orders-service"],"http":[` + testers + `{"timeout":"3s","route":[{"destination":{"host":"orders-service","subset":"v1"}}]}]}}`
}

func manifestText(weight int) string {
	return fmt.Sprintf(`{"apiVersion":"networking.istio.io/v1","kind":"VirtualService",
	"metadata":{"name":"orders-service","namespace":"microservices","annotations":{"team":"shop"}},
	"spec":{"hosts":["orders-service"],"aNewField":{"x":[1,2]},"http":[
	 {"match":[{"headers":{"x-tester":{"exact":"yes"}}}],"route":[{"destination":{"host":"orders-service","subset":"v2"}}]},
	 {"timeout":"3s","mirror":{"host":"orders-service","subset":"v2"},"route":[
	  {"destination":{"host":"orders-service","subset":"v1"},"weight":%d},
	  {"destination":{"host":"orders-service","subset":"v2"},"weight":%d,"headers":{"request":{"set":{"a":"b"}}}},
	  {"destination":{"host":"legacy.example.com"},"weight":20}]},
	 {"match":[{"headers":{"cookie":{"exact":"v2"}}}],"route":[{"destination":{"host":"orders-service","subset":"v1"},"weight":0},{"destination":{"host":"orders-service","subset":"v2"},"weight":100}]},
	 {"match":[{"headers":{"cookie":{"exact":"v1"}}}],"route":[{"destination":{"host":"orders-service","subset":"v1"},"weight":100},{"destination":{"host":"orders-service","subset":"v2"}}]}]}}`, 80-weight*80/100, weight*80/100)
}

// worldStore writes to a world as one replica, and fails or is interrupted
// where a test wants it.
type worldStore struct {
	w      *world
	now    func() time.Time
	before func(write string) error // may change the world, or return errAPI or errCrash
	after  func(write string) error
	check  func(before, after *unstructured.Unstructured, manager string)
	answer func(write string, ops []virtualservice.Op) (err error, in bool) // what the API server says instead of taking a write; nil: it takes all
	stored func(old, cm *corev1.ConfigMap)                                  // a record was written; may be nil
	moved  func(vs *unstructured.Unstructured)                              // a VirtualService was written; may be nil

	patching func(name string) // a VirtualService is to be written; may be nil
}

func (s *worldStore) around(write string, ops []virtualservice.Op, do func() error) error {
	if err := s.before(write); err != nil {
		return err
	}
	var lost error
	if s.answer != nil {
		err, in := s.answer(write, ops)
		if err != nil && !in {
			return err
		}
		lost = err
	}
	if err := do(); err != nil {
		return err
	}
	if lost != nil {
		return lost
	}
	return s.after(write)
}

func (s *worldStore) writeRecord(_ context.Context, guard string, old *corev1.ConfigMap, r decision.Record) (out *corev1.ConfigMap, err error) {
	err = s.around("record", nil, func() error {
		if (old == nil) != (s.w.cm == nil) || old != nil && old.ResourceVersion != s.w.cm.ResourceVersion {
			return fmt.Errorf("record: %w", errConflict)
		}
		set := map[string]string{records.LabelGuard: guard}
		if r.Lock != nil {
			set[records.LabelLocked] = "true"
		}
		before := s.w.cm
		s.w.cm = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: records.Name(guard), Namespace: testNamespace, Labels: set, ResourceVersion: s.w.next()}, Data: r.Data()}
		out = s.w.cm
		if s.stored != nil {
			s.stored(before, s.w.cm)
		}
		return nil
	})
	return out, err
}

func (s *worldStore) patchVirtualService(_ context.Context, vs *unstructured.Unstructured, ops []virtualservice.Op, manager string) (now *unstructured.Unstructured, err error) {
	if s.patching != nil {
		s.patching(vs.GetName())
	}
	return now, s.around("traffic", ops, func() error {
		before, _ := s.w.virtualService(context.Background(), vs.GetName())
		if before == nil || before.GetResourceVersion() != vs.GetResourceVersion() {
			return fmt.Errorf("VirtualService: %w", errConflict)
		}
		after, err := applyOps(before, ops)
		if err != nil {
			return err
		}
		after.SetResourceVersion(s.w.next())
		if manager != "" {
			after.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: manager}})
		}
		if s.check != nil {
			s.check(before, after, manager)
		}
		s.w.put(after)
		now = after
		if s.moved != nil {
			s.moved(after)
		}
		return nil
	})
}

func (s *worldStore) release(_ context.Context, name string) error {
	return s.around("release", nil, func() error {
		before, _ := s.w.virtualService(context.Background(), name)
		if before == nil {
			return nil
		}
		after := before.DeepCopy()
		after.SetManagedFields(nil)
		after.SetResourceVersion(s.w.next())
		s.w.put(after)
		return nil
	})
}

func applyOps(vs *unstructured.Unstructured, ops []virtualservice.Op) (*unstructured.Unstructured, error) {
	doc, err := json.Marshal(vs.Object)
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(ops)
	if err != nil {
		return nil, err
	}
	patch, err := jsonpatch.DecodePatch(raw)
	if err != nil {
		return nil, err
	}
	if doc, err = patch.Apply(doc); err != nil {
		return nil, fmt.Errorf("apply %s: %w", raw, err)
	}
	var out unstructured.Unstructured
	return &out, json.Unmarshal(doc, &out.Object)
}

// ask puts a request onto a record, as the command line does.
func ask(cm *corev1.ConfigMap, q decision.Request) {
	for _, key := range decision.RequestKeys {
		delete(cm.Data, key)
	}
	maps.Copy(cm.Data, q.Data())
}

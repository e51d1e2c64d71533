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
	twin     int                                   // that of a second Deployment behind the same subset; 0: there is none
	made     map[int]time.Time                     // when a template first appeared
	pods     []int                                 // templates of the canary's pods
	lives    []life                                // of each of them; shorter: it is as old as its template, and ready
	kind     string                                // what owns the pods: a Deployment if empty, a StatefulSet, a DaemonSet or an Argo Rollout
	byHost   bool                                  // stable and canary are hosts of their own: Services orders-v1 and orders-v2
	noise    int                                   // how often the template was changed in a way that is no build; it was the last time when it is not 0
	present  int                                   // what the templates last came to, while there was one: see templates
	since    time.Time                             // when it came to be the present one
	stable   int                                   // ready endpoints of stable
	noSubset bool                                  // the DestinationRule has lost stable's subset, or stable its Service
	foreign  *corev1.ConfigMap                     // the record of another guard; nil: there is none
	host     string                                // of the Service; empty: orders-service
	subset   string                                // of the canary in the DestinationRule; empty: v2
	canary   string                                // the version that all this is about; empty: v2
	carrying string                                // the version of which stable are the ready endpoints; empty: v1
	rest     map[string]side                       // what runs of other versions, which may come to be either; nil: there are v1 and v2 alone
	version  int
}

// side is what runs of one version.
type side struct {
	template, twin, noise, present int
	since                          time.Time
	pods                           []int
	lives                          []life
}

// life is what a pod is besides its template's.
type life struct {
	noise       int
	born, ready time.Time // zero: as old as its template
	down        bool      // it is not ready
	twin        bool      // it is of the second Deployment
}

// twins stands between the two templates of a canary that two Deployments serve, where
// one number is to tell of both.
const twins = 1 << 10

// templates is the number of the templates that are present: that of the only one, or
// of the lesser and twins times the other.
func (w *world) templates() int {
	if w.twin == 0 || w.twin == w.template {
		return w.template
	}
	if w.template == 0 {
		return w.twin
	}
	return min(w.template, w.twin) + twins*max(w.template, w.twin)
}

// templatesIn are the templates that such a number tells of.
func templatesIn(templates int) []int {
	switch {
	case templates == 0:
		return nil
	case templates < twins:
		return []int{templates}
	}
	return []int{templates % twins, templates / twins}
}

// buildOf is the build that templates come to.
func (w *world) buildOf(templates int) string {
	var builds []string
	for _, t := range templatesIn(templates) {
		builds = append(builds, w.hashOfTemplate(t))
	}
	slices.Sort(builds)
	return decision.CombineBuilds(builds)
}

// madeOf is when the newest of templates was made; one that has no pod yet is only
// dated where none has.
func (w *world) madeOf(templates int) time.Time {
	var made, dated time.Time
	for _, t := range templatesIn(templates) {
		if made = latest(made, w.made[t]); slices.Contains(w.pods, t) {
			dated = latest(dated, w.made[t])
		}
	}
	if dated.IsZero() {
		return made
	}
	return dated
}

// has says whether a template is a present one.
func (w *world) has(template int) bool { return slices.Contains(templatesIn(w.templates()), template) }

// wants is the template that the i-th of the canary's pods is to be of.
func (w *world) wants(i int) int { return w.sideOf(w.canaryVersion()).wants(i) }

func (s side) wants(i int) int {
	if i < len(s.lives) && s.lives[i].twin {
		return s.twin
	}
	return s.template
}

// rollingOut says that a pod of the canary is to be replaced.
func (w *world) rollingOut() bool {
	for i, p := range w.pods {
		if p != w.wants(i) {
			return true
		}
	}
	return false
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

func (w *world) canaryVersion() string { return cmp.Or(w.canary, "v2") }

func (w *world) stableVersion() string { return cmp.Or(w.carrying, "v1") }

// versions are all that there may be.
func (w *world) versions() []string {
	if w.rest == nil {
		return []string{"v1", "v2"}
	}
	return []string{"v1", "v2", "v3"}
}

// sideOf is what runs of a version. Of stable that is so many ready pods of one template.
func (w *world) sideOf(version string) side {
	switch s := w.rest[version]; {
	case version == w.canaryVersion():
		return side{w.template, w.twin, w.noise, w.present, w.since, w.pods, w.lives}
	case version == w.stableVersion():
		s.template, s.noise, s.lives = max(s.template, 1), 0, nil
		s.present, s.since = s.template, w.made[s.template]
		s.pods = slices.Repeat([]int{s.template}, w.stable)
		return s
	default:
		return s
	}
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
	host, subset, lacks string
	three               bool
}

var testRules memo[ruleKey, *slimRule]

func (w *world) destinationRule(context.Context, string) (*slimRule, error) {
	key := ruleKey{host: w.host, subset: w.subset, three: w.rest != nil}
	if w.noSubset {
		key.lacks = w.stableVersion()
	}
	shared := testRules.of(key, func() *slimRule {
		dr := &slimRule{host: cmp.Or(w.host, "orders-service")}
		for _, v := range []string{"v2", "v1", "v3"} {
			name := v
			if v == "v2" {
				name = cmp.Or(w.subset, v)
			}
			if slices.Contains(w.versions(), v) && v != key.lacks {
				dr.subsets = append(dr.subsets, slimSubset{name, slimLabelsOf(map[string]string{"version": v})})
			}
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
	case w.noSubset && version == w.stableVersion():
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
var slimVersions = map[string]slimLabels{"v1": slimLabelsOf(podLabels("v1")), "v2": slimLabelsOf(podLabels("v2")), "v3": slimLabelsOf(podLabels("v3"))}

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
func (w *world) life(i int) life { return w.lifeIn(w.sideOf(w.canaryVersion()), i) }

func (w *world) lifeIn(s side, i int) life {
	var l life
	if i < len(s.lives) {
		l = s.lives[i]
	}
	if l.born.IsZero() {
		l.born, l.ready = w.made[s.pods[i]], w.made[s.pods[i]]
	}
	return l
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

func (w *world) deployments(_ context.Context, want workloadSelector) (out []*slimDeployment, err error) {
	for _, v := range w.versions() {
		if w.kind != "" || !want.matches(slimVersions[v]) || w.rest == nil && v == w.stableVersion() {
			continue
		}
		s := w.sideOf(v)
		if s.template != 0 {
			out = append(out, w.deployment(v, s, false))
		}
		if s.twin != 0 {
			out = append(out, w.deployment(v, s, true))
		}
	}
	return out, nil
}

// deployment is the first or the second Deployment of a version.
func (w *world) deployment(version string, s side, second bool) *slimDeployment {
	name, template := "orders-"+version, s.template
	if second {
		name, template = name+"-again", s.twin
	}
	d := &slimDeployment{slim: keep(&metav1.ObjectMeta{Name: name}), template: slimVersions[version], build: w.hashOf(template, s.noise)}
	for i, p := range s.pods {
		l := w.lifeIn(s, i)
		if l.twin != second {
			continue
		}
		d.replicas++
		d.have++
		if p == template && (i >= len(s.lives) || l.noise == s.noise) {
			d.updated++
			if !l.down {
				d.avail++
			}
		}
	}
	return d
}

func (w *world) pods_(version string) []*slimPod {
	var out []*slimPod
	if version == w.stableVersion() && w.rest == nil {
		for i := range w.stable {
			out = append(out, testPod(version, i, 1))
		}
		return out
	}
	s, name := w.sideOf(version), "orders-"+version
	for i, t := range s.pods {
		l := w.lifeIn(s, i)
		p := *testPod(version, i, t)
		switch {
		case w.kind == ownedByStatefulSet:
			p.owner = podOwner{ownedByStatefulSet, name}
			p.labels = statefulLabels(version, revisionName(version, t, l.noise))
		case w.kind == ownedByDaemonSet:
			p.owner = podOwner{ownedByDaemonSet, name}
			p.labels = statefulLabels(version, strings.TrimPrefix(revisionName(version, t, l.noise), name+"-"))
		case l.noise > 0:
			p.owner.name = revisionName(version, t, l.noise)
		}
		p.born, p.readyFrom, p.ready = l.born.Unix(), l.ready.Unix(), !l.down
		out = append(out, &p)
	}
	return out
}

// revisionName is that of the ReplicaSet or ControllerRevision of a template.
func revisionName(version string, template, noise int) string {
	if noise == 0 {
		return fmt.Sprintf("orders-%s-%d", version, template)
	}
	return fmt.Sprintf("orders-%s-%d.%d", version, template, noise)
}

// statefulLabels are those of a StatefulSet's pod, or of a DaemonSet's, made once for
// each revision.
func statefulLabels(version, revision string) slimLabels {
	return statefulSets.of([2]string{version, revision}, func() slimLabels {
		set := podLabels(version)
		set[appsv1.ControllerRevisionHashLabelKey] = revision
		return slimLabelsOf(set)
	})
}

var statefulSets memo[[2]string, slimLabels]

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
	for _, v := range w.versions() {
		if want.matches(slimVersions[v]) {
			out = append(out, w.pods_(v)...)
		}
	}
	return out, nil
}

// revisions are what the pods were made from; of another owner than a Deployment
// that is all of its revisions.
func (w *world) revisions(_ context.Context, want workloadSelector, pods []*slimPod) (out []*slimRevision, err error) {
	for _, v := range w.versions() {
		if want.matches(slimVersions[v]) {
			out = append(out, w.revisionsIn(v, w.sideOf(v), pods)...)
		}
	}
	return out, nil
}

func (w *world) revisionsIn(version string, s side, pods []*slimPod) []*slimRevision {
	name := "orders-" + version
	kind, owner := kindReplicaSet, cmp.Or(w.kind, "Deployment")+"/"+name
	if w.kind == ownedByStatefulSet || w.kind == ownedByDaemonSet {
		kind = kindControllerRevision
	}
	var out []*slimRevision
	add := func(n, noise int) {
		out = append(out, &slimRevision{slim: keep(&metav1.ObjectMeta{Name: revisionName(version, n, noise)}), kind: kind, owner: owner,
			build: w.hashOf(n, noise), made: w.made[n], lasting: true})
	}
	for ref := range revisionsOf(pods) {
		if number, ok := strings.CutPrefix(ref.name, name+"-"); ok {
			number, noise, _ := strings.Cut(number, ".")
			n, err := strconv.Atoi(number)
			k, _ := strconv.Atoi(noise)
			if err == nil && (w.kind == "" || n != s.template || k != s.noise) {
				add(n, k)
			}
		}
	}
	if w.kind != "" && s.template != 0 && len(s.pods) > 0 {
		add(s.template, s.noise)
		out[len(out)-1].number = 1 // the newest, also where it was rolled back to
	}
	return out
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
	key := [3]int{len(w.sideOf("v1").pods), len(w.sideOf("v2").pods), len(w.sideOf("v3").pods)}
	return testSlices.of(key, func() []*slimSlice {
		s := &discoveryv1.EndpointSlice{}
		for _, v := range w.versions() {
			for _, p := range w.pods_(v) {
				s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: p.name}})
			}
		}
		return []*slimSlice{slimSliceOf(s)}
	}), nil
}

var testSlices memo[[3]int, []*slimSlice]

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
	if err := ctx.Err(); err != nil {
		return nil, err
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
	weight         int
	stable, canary string
}

var manifestMemo memo[manifestKey, map[string]any]

func manifestFor(r routes, weight int) map[string]any {
	return manifestOfVersions(r, weight, "v1", "v2")
}

// manifestOfVersions is manifestFor where the two are not v1 and v2.
func manifestOfVersions(r routes, weight int, stable, canary string) map[string]any {
	return runtime.DeepCopyJSON(manifestMemo.of(manifestKey{r, weight, stable, canary}, func() map[string]any {
		text := manifestText(weight)
		switch r {
		case routesThree:
			text = strings.ReplaceAll(text, `"host":"legacy.example.com"`, `"host":"orders-service","subset":"v3"`)
		case routesHosts:
			text = strings.NewReplacer(`"host":"orders-service","subset":"v1"`, `"host":"orders-v1"`, `"host":"orders-service","subset":"v2"`, `"host":"orders-v2"`).Replace(text)
		case routesTesters:
			text = testersText(weight > 0)
		}
		third := "v" + strconv.Itoa(6-int(stable[1]-'0')-int(canary[1]-'0'))
		text = strings.NewReplacer(`"subset":"v1"`, `"subset":"`+stable+`"`, `"subset":"v2"`, `"subset":"`+canary+`"`, `"subset":"v3"`, `"subset":"`+third+`"`,
			`"host":"orders-v1"`, `"host":"orders-`+stable+`"`, `"host":"orders-v2"`, `"host":"orders-`+canary+`"`).Replace(text)
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

package remediate

import (
	"bytes"
	"encoding/json"
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func template(image string, edits ...func(*corev1.PodTemplateSpec)) corev1.PodTemplateSpec {
	t := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: podLabels("v2")},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "orders", Image: image}}}}
	for _, edit := range edits {
		edit(&t)
	}
	return t
}

func annotated(key, value string) func(*corev1.PodTemplateSpec) {
	return func(t *corev1.PodTemplateSpec) {
		if t.Annotations == nil {
			t.Annotations = map[string]string{}
		}
		t.Annotations[key] = value
	}
}

func labelled(key, value string) func(*corev1.PodTemplateSpec) {
	return func(t *corev1.PodTemplateSpec) { t.Labels[key] = value }
}

func hashOf(t corev1.PodTemplateSpec) string { return BuildParts{}.hash(&t) }

func env(name, value string) func(*corev1.PodTemplateSpec) {
	return func(t *corev1.PodTemplateSpec) {
		c := &t.Spec.Containers[0]
		c.Env = append(c.Env, corev1.EnvVar{Name: name, Value: value})
	}
}

func TestABuildIsWhatThePodsWouldRun(t *testing.T) {
	named := BuildParts{Labels: []string{"release"}, Annotations: []string{"checksum/config"}}
	for name, c := range map[string]struct {
		template  corev1.PodTemplateSpec
		same      bool
		sameNamed bool // where the settings name a label and an annotation
	}{
		"the same again":                         {template("orders:1"), true, true},
		"kubectl rollout restart":                {template("orders:1", annotated("kubectl.kubernetes.io/restartedAt", "2026-03-02T09:00:00Z")), true, true},
		"the restart button of a UI":             {template("orders:1", annotated("example.com/restartedAt", "now")), true, true},
		"Reloader, by an annotation":             {template("orders:1", annotated("reloader.stakater.com/last-reloaded-from", "{}")), true, true},
		"Reloader, by a variable":                {template("orders:1", env("STAKATER_ORDERS_CONFIGMAP", "3f2a")), true, true},
		"the chart's version":                    {template("orders:1", labelled("helm.sh/chart", "orders-1.2.3")), true, true},
		"the label that a Deployment adds":       {template("orders:1", labelled("pod-template-hash", "abc")), true, true},
		"the label that a Rollout adds":          {template("orders:1", labelled("rollouts-pod-template-hash", "abc")), true, true},
		"a creation time of null":                {template("orders:1", func(t *corev1.PodTemplateSpec) { t.CreationTimestamp = metav1.NewTime(at) }), true, true},
		"annotations that are empty":             {template("orders:1", func(t *corev1.PodTemplateSpec) { t.Annotations = map[string]string{} }), true, true},
		"a checksum of the configuration":        {template("orders:1", annotated("checksum/config", "1")), true, false},
		"a label that the settings name":         {template("orders:1", labelled("release", "7")), true, false},
		"an annotation by the name of a label":   {template("orders:1", annotated("release", "7")), true, true},
		"another image":                          {template("orders:2"), false, false},
		"another variable":                       {template("orders:1", env("LEVEL", "debug")), false, false},
		"another variable besides Reloader's":    {template("orders:1", env("LEVEL", "debug"), env("STAKATER_X", "1")), false, false},
		"an init container":                      {template("orders:1", func(t *corev1.PodTemplateSpec) { t.Spec.InitContainers = []corev1.Container{{Name: "seed"}} }), false, false},
		"another argument of the same container": {template("orders:1", func(t *corev1.PodTemplateSpec) { t.Spec.Containers[0].Args = []string{"-x"} }), false, false},
	} {
		t.Run(name, func(t *testing.T) {
			before, base := c.template.DeepCopy(), template("orders:1")
			if got, want := hashOf(c.template), hashOf(base); (got == want) != c.same {
				t.Errorf("build %s, the first was %s; want the same: %v", got, want, c.same)
			}
			if got, want := named.hash(&c.template), named.hash(&base); (got == want) != c.sameNamed {
				t.Errorf("with names, build %s, the first was %s; want the same: %v", got, want, c.sameNamed)
			}
			if !reflect.DeepEqual(&c.template, before) {
				t.Error("the template was edited")
			}
		})
	}
	if b := hashOf(template("orders:1")); !strings.HasPrefix(b, "b1-") || len(b) != 15 {
		t.Errorf("build %q, want its scheme and 12 hex digits", b)
	}
}

// deployment is rolled out unless edited.
func deployment(name, image string, edits ...func(*appsv1.Deployment)) *slimDeployment {
	two := int32(2)
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name, Generation: 3}, Spec: appsv1.DeploymentSpec{Replicas: &two, Template: template(image)},
		Status: appsv1.DeploymentStatus{ObservedGeneration: 3, Replicas: 2, UpdatedReplicas: 2, AvailableReplicas: 2}}
	for _, edit := range edits {
		edit(d)
	}
	return slimDeploymentOf(d, BuildParts{})
}

type podOption = func(*corev1.Pod)

// readyPod belongs to the ReplicaSet of an image.
func readyPod(name, image string, edits ...podOption) *slimPod {
	yes := true
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: podLabels("v2"), OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: image, Controller: &yes}}},
		Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}, {Type: corev1.PodReady, Status: corev1.ConditionTrue}}}}
	for _, edit := range edits {
		edit(p)
	}
	return slimPodOf(p)
}

func notReady(p *corev1.Pod) { p.Status.Conditions[1].Status = corev1.ConditionFalse }

func deleted(p *corev1.Pod) { now := metav1.NewTime(at); p.DeletionTimestamp = &now }

func orphan(p *corev1.Pod) { p.OwnerReferences = nil }

func ownedBy(kind, name string) podOption {
	return func(p *corev1.Pod) { p.OwnerReferences[0].Kind, p.OwnerReferences[0].Name = kind, name }
}

// hashed is the label by which a StatefulSet or a DaemonSet tells of a pod's
// revision.
func hashed(revision string) podOption {
	return func(p *corev1.Pod) { p.Labels["controller-revision-hash"] = revision }
}

func aged(made, ready time.Duration) podOption {
	return func(p *corev1.Pod) {
		p.CreationTimestamp = metav1.NewTime(at.Add(-made))
		p.Status.Conditions[1].LastTransitionTime = metav1.NewTime(at.Add(-ready))
	}
}

// replicaSet of an owner runs an image, after which it is called.
func replicaSet(image, owner string, made time.Time, edits ...func(*appsv1.ReplicaSet)) *slimRevision {
	yes, kind, name := true, "", ""
	r := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: image, CreationTimestamp: metav1.NewTime(made), Annotations: map[string]string{}, Labels: map[string]string{}},
		Spec: appsv1.ReplicaSetSpec{Template: template(image, labelled("pod-template-hash", image), annotated("kubectl.kubernetes.io/restartedAt", "x"))}}
	if kind, name, _ = strings.Cut(owner, "/"); kind != "" {
		r.OwnerReferences = []metav1.OwnerReference{{Kind: kind, Name: name, Controller: &yes}}
	}
	for _, edit := range edits {
		edit(r)
	}
	return slimReplicaSetOf(r, BuildParts{})
}

func numbered(annotation, n string) func(*appsv1.ReplicaSet) {
	return func(r *appsv1.ReplicaSet) { r.Annotations[annotation] = n }
}

// controllerRevision is what a StatefulSet or DaemonSet keeps of a template.
func controllerRevision(t *testing.T, name, owner, image string, n int64, made time.Time) *slimRevision {
	t.Helper()
	raw, err := json.Marshal(map[string]any{"spec": map[string]any{"template": template(image)}})
	if err != nil {
		t.Fatal(err)
	}
	raw = bytes.Replace(raw, []byte(`"template":{`), []byte(`"template":{"$patch":"replace",`), 1)
	yes := true
	kind, of, _ := strings.Cut(owner, "/")
	return slimControllerRevisionOf(&appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(made),
		OwnerReferences: []metav1.OwnerReference{{Kind: kind, Name: of, Controller: &yes}}}, Data: runtime.RawExtension{Raw: raw}, Revision: n}, BuildParts{})
}

func TestWhatRunsBehindTheCanary(t *testing.T) {
	one, two := hashOf(template("orders:1")), hashOf(template("orders:2"))
	singles := []string{min(one, two), max(one, two)}
	both := decision.CombineBuilds(singles)
	early, late := at.Add(-time.Hour), at.Add(-time.Minute)
	type pods = []*slimPod
	type deps = []*slimDeployment
	type revs = []*slimRevision
	sets := revs{replicaSet("orders:1", "Deployment/v2", early), replicaSet("orders:2", "Deployment/v2", late)}
	rollout := func(first, second string) revs {
		return revs{replicaSet("orders:1", "Rollout/v2", early, numbered("rollout.argoproj.io/revision", first)),
			replicaSet("orders:2", "Rollout/v2", late, numbered("rollout.argoproj.io/revision", second))}
	}
	stateful := revs{controllerRevision(t, "v2-aaa", "StatefulSet/v2", "orders:1", 1, early), controllerRevision(t, "v2-bbb", "StatefulSet/v2", "orders:2", 2, late)}
	daemon := revs{controllerRevision(t, "v2-aaa", "DaemonSet/v2", "orders:1", 3, early), controllerRevision(t, "v2-bbb", "DaemonSet/v2", "orders:2", 2, late)}
	ofStateful := func(name, revision string, edits ...podOption) *slimPod {
		return readyPod(name, "", append([]podOption{ownedBy("StatefulSet", "v2"), hashed(revision)}, edits...)...)
	}
	for name, c := range map[string]struct {
		deployments deps
		pods        pods
		revisions   revs
		want        decision.Workload
	}{
		"nothing": {nil, nil, sets, decision.Workload{}},
		"one Deployment, rolled out": {deps{deployment("v2", "orders:1")}, pods{readyPod("a", "orders:1"), readyPod("b", "orders:1")}, sets,
			decision.Workload{Build: one, Since: early, Ready: 2, Current: 2, Complete: true}},
		"in the middle of a rollout": {deps{deployment("v2", "orders:2", func(d *appsv1.Deployment) { d.Status.Replicas = 3 })}, pods{readyPod("a", "orders:1"), readyPod("b", "orders:2")}, sets,
			decision.Workload{Build: two, Since: late, Ready: 2, Current: 1, Serving: []string{one}}},
		"the new pods are not ready yet": {deps{deployment("v2", "orders:2")}, pods{readyPod("a", "orders:1"), readyPod("b", "orders:2", notReady)}, sets,
			decision.Workload{Build: two, Since: late, Ready: 1, Serving: []string{one}, Complete: true}},
		"a deleted pod serves no more": {deps{deployment("v2", "orders:2")}, pods{readyPod("a", "orders:1", deleted), readyPod("b", "orders:2")}, sets,
			decision.Workload{Build: two, Since: late, Ready: 1, Current: 1, Complete: true}},
		"no pod of the new template yet: its age is unknown": {deps{deployment("v2", "orders:2")}, pods{readyPod("a", "orders:1")}, sets,
			decision.Workload{Build: two, Ready: 1, Serving: []string{one}, Complete: true}},
		"two Deployments are one build": {deps{deployment("a", "orders:1"), deployment("b", "orders:2")}, pods{readyPod("a", "orders:1"), readyPod("b", "orders:2")}, sets,
			decision.Workload{Build: both, Builds: singles, Running: singles, Since: late, Ready: 2, Current: 2, Complete: true}},
		"of two, one has no ready pod": {deps{deployment("a", "orders:1"), deployment("b", "orders:2")}, pods{readyPod("a", "orders:1", notReady), readyPod("b", "orders:2")}, sets,
			decision.Workload{Build: both, Builds: singles, Running: []string{two}, Since: late, Ready: 1, Current: 1, Complete: true}},
		"in any order": {deps{deployment("b", "orders:2"), deployment("a", "orders:1")}, pods{readyPod("b", "orders:2"), readyPod("a", "orders:1")}, sets,
			decision.Workload{Build: both, Builds: singles, Running: singles, Since: late, Ready: 2, Current: 2, Complete: true}},
		"two of the same template are that build": {deps{deployment("a", "orders:1"), deployment("b", "orders:1")}, pods{readyPod("a", "orders:1")}, sets,
			decision.Workload{Build: one, Since: early, Ready: 1, Current: 1, Complete: true}},
		"one of two is not rolled out": {deps{deployment("a", "orders:1"), deployment("b", "orders:2", func(d *appsv1.Deployment) { d.Status.AvailableReplicas = 1 })}, nil, sets, decision.Workload{Build: both, Builds: singles}},
		"a deleted Deployment":         {nil, pods{readyPod("a", "orders:1")}, sets, decision.Workload{Ready: 1, Serving: []string{one}}},
		"restarted, it is as old as it was": {deps{deployment("v2", "orders:1")}, pods{readyPod("a", "orders:1"), readyPod("b", "again")},
			revs{sets[0], replicaSet("again", "Deployment/v2", late, func(r *appsv1.ReplicaSet) { r.Spec.Template = template("orders:1") })},
			decision.Workload{Build: one, Since: early, Ready: 2, Current: 2, Complete: true}},
		"a pod that somebody runs by hand is none of it": {deps{deployment("v2", "orders:1")}, pods{readyPod("a", "orders:1"), readyPod("b", "orders:1", orphan)}, sets,
			decision.Workload{Build: one, Since: early, Ready: 1, Current: 1, Complete: true, Unowned: []string{"b"}}},
		"nor is a Job's": {deps{deployment("v2", "orders:1")}, pods{readyPod("a", "orders:1"), readyPod("migrate-x", "", ownedBy("Job", "migrate"))}, sets,
			decision.Workload{Build: one, Since: early, Ready: 1, Current: 1, Complete: true, Unowned: []string{"migrate-x"}}},
		"what nothing is known of cannot be told": {deps{deployment("v2", "orders:1")}, pods{readyPod("a", "", ownedBy("Fleet", "f"))}, sets,
			decision.Workload{Build: one, Ready: 1, Complete: true, Untold: []string{"a of Fleet f"}}},
		"nor one whose ReplicaSet is gone": {deps{deployment("v2", "orders:1")}, pods{readyPod("a", "orders:9")}, sets,
			decision.Workload{Build: one, Ready: 1, Complete: true, Untold: []string{"a of ReplicaSet orders:9"}}},
		"a Rollout": {nil, pods{readyPod("a", "orders:2")}, rollout("1", "2"),
			decision.Workload{Build: two, Since: late, Ready: 1, Current: 1, Complete: true}},
		"a Rollout in the middle": {nil, pods{readyPod("a", "orders:1"), readyPod("b", "orders:2")}, rollout("1", "2"),
			decision.Workload{Build: two, Since: late, Ready: 2, Current: 1, Serving: []string{one}}},
		"a Rollout before its first new pod": {nil, pods{readyPod("a", "orders:1")}, rollout("9", "10"),
			decision.Workload{Build: two, Since: late, Ready: 1, Serving: []string{one}}},
		"a Rollout that was undone": {nil, pods{readyPod("a", "orders:1")}, rollout("3", "2"),
			decision.Workload{Build: one, Since: early, Ready: 1, Current: 1, Complete: true}},
		"a ReplicaSet of nobody": {nil, pods{readyPod("a", "orders:1")}, revs{replicaSet("orders:1", "", early)},
			decision.Workload{Build: one, Since: early, Ready: 1, Current: 1, Complete: true}},
		"a StatefulSet": {nil, pods{ofStateful("v2-0", "v2-bbb"), ofStateful("v2-1", "v2-bbb")}, stateful,
			decision.Workload{Build: two, Since: late, Ready: 2, Current: 2, Complete: true}},
		"a StatefulSet in the middle": {nil, pods{ofStateful("v2-0", "v2-aaa"), ofStateful("v2-1", "v2-bbb", notReady)}, stateful,
			decision.Workload{Build: two, Since: late, Ready: 1, Serving: []string{one}}},
		"a DaemonSet that was undone": {nil, pods{readyPod("v2-x", "", ownedBy("DaemonSet", "v2"), hashed("aaa"))}, daemon,
			decision.Workload{Build: one, Since: early, Ready: 1, Current: 1, Complete: true}},
		"whatever keeps revisions as a StatefulSet does": {nil, pods{readyPod("x", "", ownedBy("CloneSet", "v2"), hashed("v2-aaa"))}, revs{controllerRevision(t, "v2-aaa", "CloneSet/v2", "orders:1", 1, early)},
			decision.Workload{Build: one, Since: early, Ready: 1, Current: 1, Complete: true}},
	} {
		t.Run(name, func(t *testing.T) {
			got := canaryWorkload(c.deployments, c.pods, c.revisions)
			got.Ages, got.First = nil, time.Time{} // have a test of their own
			got.Revisions = nil
			if c.want.Build != both { // one workload's build is all there is
				c.want.Builds, c.want.Running = got.Builds, got.Running
				if c.want.Build != decision.CombineBuilds(got.Builds) || len(got.Running) != min(c.want.Current, 1) {
					t.Errorf("builds %v, of which %v run", got.Builds, got.Running)
				}
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("found %+v\nwant  %+v", got, c.want)
			}
		})
	}
}

func TestABuildIsAsOldAsItsReadyPods(t *testing.T) {
	one, two := hashOf(template("orders:1")), hashOf(template("orders:2"))
	sets := []*slimRevision{replicaSet("orders:1", "Deployment/v2", at.Add(-time.Hour)), replicaSet("orders:2", "Deployment/v2", at.Add(-time.Minute))}
	w := canaryWorkload([]*slimDeployment{deployment("v2", "orders:2")}, []*slimPod{
		readyPod("a", "orders:1", aged(time.Hour, 50*time.Minute)), readyPod("b", "orders:1", aged(2*time.Hour, time.Minute)),
		readyPod("c", "orders:1", aged(9*time.Hour, 9*time.Hour), notReady), readyPod("d", "orders:2", aged(30*time.Second, 10*time.Second))}, sets)
	want := map[string]decision.PodAge{one: {Made: at.Add(-2 * time.Hour), Ready: at.Add(-50 * time.Minute), Last: at.Add(-time.Minute)}, two: {Made: at.Add(-30 * time.Second), Ready: at.Add(-10 * time.Second), Last: at.Add(-10 * time.Second)}}
	if !reflect.DeepEqual(w.Ages, want) {
		t.Errorf("ages %v\nwant %v", w.Ages, want)
	}
}

func TestMetricsKnowWorkloadsByTheirNames(t *testing.T) {
	for name, c := range map[string]struct {
		pod  *slimPod
		want string
	}{
		"a Deployment's are found by itself": {readyPod("a", "orders-v2-abc"), ""},
		"a Rollout's":                        {readyPod("a", "orders-v2-abc", func(p *corev1.Pod) { p.Labels["rollouts-pod-template-hash"] = "abc" }), "orders-v2"},
		"a StatefulSet's":                    {readyPod("a", "", ownedBy("StatefulSet", "orders"), hashed("orders-abc")), "orders"},
		"a pod of nobody":                    {readyPod("a", "", orphan), ""},
		"a Job's":                            {readyPod("a", "", ownedBy("Job", "migrate")), ""},
	} {
		if got := c.pod.workload(); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// TestAnotherServicesV2IsNotTheCanary goes by the selector that both readers
// use: the Service's and the subset's labels together.
func TestAnotherServicesV2IsNotTheCanary(t *testing.T) {
	type set = map[string]string
	selects := func(service, subset set) workloadSelector {
		return newWorkloadSelector(slimLabelsOf(service), slimLabelsOf(subset))
	}
	want := selects(set{"app": "orders"}, set{"version": "v2"})
	for name, c := range map[string]struct {
		have set
		want bool
	}{
		"its own v2":           {set{"app": "orders", "version": "v2"}, true},
		"with more labels":     {set{"app": "orders", "version": "v2", "team": "shop"}, true},
		"another service's v2": {set{"app": "payments", "version": "v2"}, false},
		"its own v1":           {set{"app": "orders", "version": "v1"}, false},
		"v2 of nobody":         {set{"version": "v2"}, false},
	} {
		if got := want.matches(slimLabelsOf(c.have)); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	if s := selects(nil, set{"version": "v2"}); s.matches(slimLabelsOf(set{"version": "v2"})) {
		t.Error("a Service without a selector has every v2 of the namespace")
	}
	if s := selects(set{"version": "v1"}, set{"version": "v2"}); s.matches(slimLabelsOf(set{"version": "v2"})) {
		t.Error("a subset that contradicts the Service's selector has pods")
	}
	if s := selects(set{"app": "orders"}, nil); !s.matches(slimLabelsOf(set{"app": "orders", "version": "v9"})) {
		t.Error("a host of its own does not have all its pods")
	}
}

func TestRolledOutIsWhatKubectlWaitsFor(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(*appsv1.Deployment)
		want bool
	}{
		"all done":                      {func(*appsv1.Deployment) {}, true},
		"not observed yet":              {func(d *appsv1.Deployment) { d.Generation = 4 }, false},
		"one pod not updated":           {func(d *appsv1.Deployment) { d.Status.UpdatedReplicas = 1 }, false},
		"one old pod left":              {func(d *appsv1.Deployment) { d.Status.Replicas = 3 }, false},
		"one pod not available":         {func(d *appsv1.Deployment) { d.Status.AvailableReplicas = 1 }, false},
		"no number of replicas means 1": {func(d *appsv1.Deployment) { d.Spec.Replicas = nil }, true},
		"of which there must be one": {func(d *appsv1.Deployment) {
			d.Spec.Replicas = nil
			d.Status = appsv1.DeploymentStatus{ObservedGeneration: 3}
		}, false},
		"scaled to 0 with nothing left": {func(d *appsv1.Deployment) {
			zero := int32(0)
			d.Spec.Replicas = &zero
			d.Status = appsv1.DeploymentStatus{ObservedGeneration: 3}
		}, true},
	} {
		if got := deployment("v2", "orders:1", c.edit).rolledOut(); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestReadyEndpointsAreCountedByPod(t *testing.T) {
	yes, no := true, false
	endpoint := func(pod string, ready *bool) discoveryv1.Endpoint {
		return discoveryv1.Endpoint{TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: pod}, Conditions: discoveryv1.EndpointConditions{Ready: ready}}
	}
	slice := func(e ...discoveryv1.Endpoint) *slimSlice {
		return slimSliceOf(&discoveryv1.EndpointSlice{Endpoints: e})
	}
	pods := map[string]*slimPod{"gone": readyPod("gone", "x", deleted), "v1": readyPod("v1", "x", func(p *corev1.Pod) { p.Labels = podLabels("v1") })}
	for _, name := range []string{"a", "b"} {
		pods[name] = readyPod(name, "x")
	}
	type slices = []*slimSlice
	for name, c := range map[string]struct {
		slices slices
		want   int
	}{
		"none":                                  {nil, 0},
		"ready":                                 {slices{slice(endpoint("a", &yes))}, 1},
		"not ready":                             {slices{slice(endpoint("a", &no))}, 0},
		"without a readiness it is ready":       {slices{slice(endpoint("a", nil))}, 1},
		"two families of one pod are one":       {slices{slice(endpoint("a", &yes), endpoint("b", &yes)), slice(endpoint("a", &yes), endpoint("b", &yes))}, 2},
		"ready in one family alone is ready":    {slices{slice(endpoint("a", &no)), slice(endpoint("a", &yes))}, 1},
		"spread over slices":                    {slices{slice(endpoint("a", &yes)), slice(endpoint("b", &yes))}, 2},
		"a pod that is being deleted":           {slices{slice(endpoint("gone", &yes))}, 0},
		"a pod that nobody knows":               {slices{slice(endpoint("who", &yes))}, 0},
		"a pod of the other subset":             {slices{slice(endpoint("v1", &yes))}, 0},
		"an address that is no pod":             {slices{slice(discoveryv1.Endpoint{Conditions: discoveryv1.EndpointConditions{Ready: &yes}})}, 0},
		"a Node by the name of a pod is no pod": {slices{slice(discoveryv1.Endpoint{TargetRef: &corev1.ObjectReference{Kind: "Node", Name: "a"}})}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			got := readyEndpoints(c.slices, slimLabelsOf(map[string]string{"version": "v2"}), func(n string) *slimPod { return pods[n] })
			if got != c.want {
				t.Errorf("%d ready endpoints, want %d", got, c.want)
			}
		})
	}
}

func waits(name, reason string) corev1.ContainerStatus {
	return corev1.ContainerStatus{Name: name, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}}
}

func TestContainersThatCannotStartAreCounted(t *testing.T) {
	type all = []corev1.ContainerStatus
	pod := func(containers, init all) *slimPod {
		return readyPod("a", "x", func(p *corev1.Pod) {
			p.Status.ContainerStatuses, p.Status.InitContainerStatuses = containers, init
		})
	}
	for name, c := range map[string]struct {
		pods []*slimPod
		want map[string]int64
	}{
		"none": {nil, nil},
		"by what keeps them": {[]*slimPod{pod(all{waits("orders", "CrashLoopBackOff"), waits("b", "ErrImagePull"), waits("c", "CreateContainerConfigError")}, nil)},
			map[string]int64{"CrashLoopBackOff": 1, "ErrImagePull": 1, "CreateContainerConfigError": 1}},
		"of several pods together": {[]*slimPod{pod(all{waits("orders", "ImagePullBackOff")}, nil), pod(all{waits("orders", "ImagePullBackOff")}, nil)},
			map[string]int64{"ImagePullBackOff": 2}},
		"an init container, for which the others wait": {[]*slimPod{pod(all{waits("orders", "PodInitializing")}, all{waits("migrate", "CrashLoopBackOff"), waits("seed", "PodInitializing")})},
			map[string]int64{"CrashLoopBackOff": 1}},
		"not those that only start":         {[]*slimPod{pod(all{waits("orders", "ContainerCreating"), waits("b", "")}, nil)}, nil},
		"not those that run":                {[]*slimPod{pod(all{{Name: "orders", RestartCount: 3}}, nil)}, nil},
		"not the sidecar":                   {[]*slimPod{pod(all{waits("istio-proxy", "ImagePullBackOff")}, nil)}, nil},
		"nor the sidecar as init container": {[]*slimPod{pod(nil, all{waits("istio-proxy", "CrashLoopBackOff")})}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if got := waitingOf(c.pods); !maps.Equal(got, c.want) {
				t.Errorf("counted %v, want %v", got, c.want)
			}
		})
	}
}

func TestRestartsAreCountedByTheEndBefore(t *testing.T) {
	type all = []corev1.ContainerStatus
	ended := func(name string, n int32, reason string) corev1.ContainerStatus {
		return corev1.ContainerStatus{Name: name, RestartCount: n, LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: reason}}}
	}
	pod := func(containers, init all) *slimPod {
		return readyPod("a", "x", func(p *corev1.Pod) {
			p.Status.ContainerStatuses, p.Status.InitContainerStatuses = containers, init
		})
	}
	type counts = map[string]int64
	for name, c := range map[string]struct {
		was, is *slimPod
		want    counts
	}{
		"of a new pod, all":                {nil, pod(all{ended("orders", 3, "OOMKilled")}, nil), counts{"OOMKilled": 3}},
		"since it was seen before":         {pod(all{ended("orders", 3, "Error")}, nil), pod(all{ended("orders", 5, "OOMKilled")}, nil), counts{"OOMKilled": 2}},
		"the first":                        {pod(all{{Name: "orders"}}, nil), pod(all{ended("orders", 1, "Error")}, nil), counts{"Error": 1}},
		"each container's":                 {pod(all{ended("orders", 3, "Error")}, nil), pod(all{ended("orders", 4, "Error"), ended("b", 1, "OOMKilled")}, nil), counts{"Error": 1, "OOMKilled": 1}},
		"those of init containers":         {nil, pod(nil, all{ended("migrate", 2, "Error")}), counts{"Error": 2}},
		"before it is said why":            {nil, pod(all{{Name: "orders", RestartCount: 1}}, nil), counts{"": 1}},
		"not the sidecar's":                {nil, pod(all{ended("istio-proxy", 9, "Error")}, nil), counts{}},
		"nor as an init container":         {nil, pod(nil, all{ended("istio-proxy", 9, "Error")}), counts{}},
		"an end without a restart":         {nil, pod(all{ended("orders", 0, "Completed")}, nil), counts{}},
		"no more than before":              {pod(all{ended("orders", 3, "Error")}, nil), pod(all{ended("orders", 3, "Error")}, nil), counts{}},
		"a status that counts from 0 anew": {pod(all{ended("orders", 3, "Error")}, nil), pod(all{ended("orders", 1, "Error")}, nil), counts{}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.is.restartsSince(c.was); !maps.Equal(got, c.want) {
				t.Errorf("counted %v, want %v", got, c.want)
			}
		})
	}
}

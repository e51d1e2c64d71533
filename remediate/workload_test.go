package remediate

import (
	"maps"
	"reflect"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

func TestABuildIsWhatThePodsWouldRun(t *testing.T) {
	const restarted = "kubectl.kubernetes.io/restartedAt"
	base := templateHash(template("orders:1"))
	if len(base) != 12 {
		t.Errorf("build %q, want 12 hex digits", base)
	}
	for name, c := range map[string]struct {
		template corev1.PodTemplateSpec
		same     bool
	}{
		"the same again":                         {template("orders:1"), true},
		"kubectl rollout restart":                {template("orders:1", annotated(restarted, "2026-03-02T09:00:00Z")), true},
		"the label that a ReplicaSet adds":       {template("orders:1", labelled("pod-template-hash", "abc")), true},
		"a creation time of null":                {template("orders:1", func(t *corev1.PodTemplateSpec) { t.CreationTimestamp = metav1.NewTime(at) }), true},
		"annotations that are empty":             {template("orders:1", func(t *corev1.PodTemplateSpec) { t.Annotations = map[string]string{} }), true},
		"another image":                          {template("orders:2"), false},
		"another annotation":                     {template("orders:1", annotated("config-hash", "1")), false},
		"another annotation besides a restart":   {template("orders:1", annotated("config-hash", "1"), annotated(restarted, "now")), false},
		"another label":                          {template("orders:1", labelled("team", "shop")), false},
		"another environment":                    {template("orders:1", func(t *corev1.PodTemplateSpec) { t.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "A", Value: "b"}} }), false},
		"a restart under somebody else's prefix": {template("orders:1", annotated("example.com/restartedAt", "now")), false},
	} {
		t.Run(name, func(t *testing.T) {
			before := c.template.DeepCopy()
			if got := templateHash(c.template); (got == base) != c.same {
				t.Errorf("build %s, the first was %s; want the same: %v", got, base, c.same)
			}
			if !reflect.DeepEqual(&c.template, before) {
				t.Error("the template was edited")
			}
		})
	}
}

// deployment is rolled out unless edited.
func deployment(name, image string, edits ...func(*appsv1.Deployment)) *keptDeployment {
	two := int32(2)
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name, Generation: 3}, Spec: appsv1.DeploymentSpec{Replicas: &two, Template: template(image)},
		Status: appsv1.DeploymentStatus{ObservedGeneration: 3, Replicas: 2, UpdatedReplicas: 2, AvailableReplicas: 2}}
	for _, edit := range edits {
		edit(d)
	}
	return keepDeployment(d)
}

type podOption = func(*corev1.Pod)

// readyPod belongs to the ReplicaSet of an image.
func readyPod(name, image string, edits ...podOption) *keptPod {
	yes := true
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: podLabels("v2"), OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: image, Controller: &yes}}},
		Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}, {Type: corev1.PodReady, Status: corev1.ConditionTrue}}}}
	for _, edit := range edits {
		edit(p)
	}
	return keepPod(p)
}

func notReady(p *corev1.Pod) { p.Status.Conditions[1].Status = corev1.ConditionFalse }

func deleted(p *corev1.Pod) { now := metav1.NewTime(at); p.DeletionTimestamp = &now }

func orphan(p *corev1.Pod) { p.OwnerReferences = nil }

func ownedBy(kind string) podOption { return func(p *corev1.Pod) { p.OwnerReferences[0].Kind = kind } }

// replicaSets has one for each image, made at the given times.
func replicaSets(made map[string]time.Time) func(string) *keptReplicaSet {
	return func(name string) *keptReplicaSet {
		when, ok := made[name]
		if !ok {
			return nil
		}
		return keepReplicaSet(&appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(when)},
			Spec: appsv1.ReplicaSetSpec{Template: template(name, labelled("pod-template-hash", name), annotated("kubectl.kubernetes.io/restartedAt", "x"))}})
	}
}

func TestWhatRunsBehindTheCanary(t *testing.T) {
	one, two := templateHash(template("orders:1")), templateHash(template("orders:2"))
	singles := []string{min(one, two), max(one, two)}
	both := combine(singles)
	early, late := at.Add(-time.Hour), at.Add(-time.Minute)
	sets := replicaSets(map[string]time.Time{"orders:1": early, "orders:2": late})
	type pods = []*keptPod
	type deps = []*keptDeployment
	for name, c := range map[string]struct {
		deployments deps
		pods        pods
		want        Workload
	}{
		"nothing": {nil, nil, Workload{}},
		"one Deployment, rolled out": {deps{deployment("v2", "orders:1")}, pods{readyPod("a", "orders:1"), readyPod("b", "orders:1")},
			Workload{Build: one, Since: early, Ready: 2, Current: 2, Complete: true}},
		"in the middle of a rollout": {deps{deployment("v2", "orders:2", func(d *appsv1.Deployment) { d.Status.Replicas = 3 })}, pods{readyPod("a", "orders:1"), readyPod("b", "orders:2")},
			Workload{Build: two, Since: late, Ready: 2, Current: 1, Serving: []string{one}}},
		"the new pods are not ready yet": {deps{deployment("v2", "orders:2")}, pods{readyPod("a", "orders:1"), readyPod("b", "orders:2", notReady)},
			Workload{Build: two, Since: late, Ready: 1, Serving: []string{one}, Complete: true}},
		"a deleted pod serves no more": {deps{deployment("v2", "orders:2")}, pods{readyPod("a", "orders:1", deleted), readyPod("b", "orders:2")},
			Workload{Build: two, Since: late, Ready: 1, Current: 1, Complete: true}},
		"no pod of the new template yet: its age is unknown": {deps{deployment("v2", "orders:2")}, pods{readyPod("a", "orders:1")},
			Workload{Build: two, Ready: 1, Serving: []string{one}, Complete: true}},
		"two Deployments are one build": {deps{deployment("a", "orders:1"), deployment("b", "orders:2")}, pods{readyPod("a", "orders:1"), readyPod("b", "orders:2")},
			Workload{Build: both, Builds: singles, Running: singles, Since: late, Ready: 2, Current: 2, Complete: true}},
		"of two, one has no ready pod": {deps{deployment("a", "orders:1"), deployment("b", "orders:2")}, pods{readyPod("a", "orders:1", notReady), readyPod("b", "orders:2")},
			Workload{Build: both, Builds: singles, Running: []string{two}, Since: late, Ready: 1, Current: 1, Complete: true}},
		"in any order": {deps{deployment("b", "orders:2"), deployment("a", "orders:1")}, pods{readyPod("b", "orders:2"), readyPod("a", "orders:1")},
			Workload{Build: both, Builds: singles, Running: singles, Since: late, Ready: 2, Current: 2, Complete: true}},
		"two of the same template are that build": {deps{deployment("a", "orders:1"), deployment("b", "orders:1")}, pods{readyPod("a", "orders:1")},
			Workload{Build: one, Since: early, Ready: 1, Current: 1, Complete: true}},
		"one of two is not rolled out": {deps{deployment("a", "orders:1"), deployment("b", "orders:2", func(d *appsv1.Deployment) { d.Status.AvailableReplicas = 1 })}, nil, Workload{Build: both, Builds: singles}},
		"a deleted Deployment": {nil, pods{readyPod("a", "orders:1")},
			Workload{Ready: 1, Serving: []string{one}}},
		"a pod without an owner is of no known build": {deps{deployment("v2", "orders:1")}, pods{readyPod("a", "orders:1"), readyPod("b", "orders:1", orphan)},
			Workload{Build: one, Since: early, Ready: 2, Current: 1, Complete: true}},
		"so is a StatefulSet's": {deps{deployment("v2", "orders:1")}, pods{readyPod("a", "orders:1", ownedBy("StatefulSet"))},
			Workload{Build: one, Ready: 1, Complete: true}},
		"so is one whose ReplicaSet is gone": {deps{deployment("v2", "orders:1")}, pods{readyPod("a", "orders:9")},
			Workload{Build: one, Ready: 1, Complete: true}},
	} {
		t.Run(name, func(t *testing.T) {
			got := canaryWorkload(c.deployments, c.pods, sets)
			if c.want.Build != both { // one Deployment's build is all there is
				c.want.Builds, c.want.Running = got.Builds, got.Running
				if c.want.Build != combine(got.Builds) || len(got.Running) != min(c.want.Current, 1) {
					t.Errorf("builds %v, of which %v run", got.Builds, got.Running)
				}
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("found %+v\nwant  %+v", got, c.want)
			}
		})
	}
}

// TestAnotherServicesV2IsNotTheCanary goes by the selector that both readers
// use: the Service's and the subset's labels together.
func TestAnotherServicesV2IsNotTheCanary(t *testing.T) {
	type set = map[string]string
	selects := func(service, subset set) workloadSelector {
		return newWorkloadSelector(keepLabels(service), keepLabels(subset))
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
		if got := want.matches(keepLabels(c.have)); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	if s := selects(nil, set{"version": "v2"}); s.matches(keepLabels(set{"version": "v2"})) {
		t.Error("a Service without a selector has every v2 of the namespace")
	}
	if s := selects(set{"version": "v1"}, set{"version": "v2"}); s.matches(keepLabels(set{"version": "v2"})) {
		t.Error("a subset that contradicts the Service's selector has pods")
	}
	if s := selects(set{"app": "orders"}, nil); !s.matches(keepLabels(set{"app": "orders", "version": "v9"})) {
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
	slice := func(e ...discoveryv1.Endpoint) *keptSlice {
		return keepSlice(&discoveryv1.EndpointSlice{Endpoints: e})
	}
	pods := map[string]*keptPod{"gone": readyPod("gone", "x", deleted), "v1": readyPod("v1", "x", func(p *corev1.Pod) { p.Labels = podLabels("v1") })}
	for _, name := range []string{"a", "b"} {
		pods[name] = readyPod(name, "x")
	}
	type slices = []*keptSlice
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
			got := readyEndpoints(c.slices, keepLabels(map[string]string{"version": "v2"}), func(n string) *keptPod { return pods[n] })
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
	pod := func(containers, init all) *keptPod {
		return readyPod("a", "x", func(p *corev1.Pod) {
			p.Status.ContainerStatuses, p.Status.InitContainerStatuses = containers, init
		})
	}
	for name, c := range map[string]struct {
		pods []*keptPod
		want map[string]int64
	}{
		"none": {nil, nil},
		"by what keeps them": {[]*keptPod{pod(all{waits("orders", "CrashLoopBackOff"), waits("b", "ErrImagePull"), waits("c", "CreateContainerConfigError")}, nil)},
			map[string]int64{"CrashLoopBackOff": 1, "ErrImagePull": 1, "CreateContainerConfigError": 1}},
		"of several pods together": {[]*keptPod{pod(all{waits("orders", "ImagePullBackOff")}, nil), pod(all{waits("orders", "ImagePullBackOff")}, nil)},
			map[string]int64{"ImagePullBackOff": 2}},
		"an init container, for which the others wait": {[]*keptPod{pod(all{waits("orders", "PodInitializing")}, all{waits("migrate", "CrashLoopBackOff"), waits("seed", "PodInitializing")})},
			map[string]int64{"CrashLoopBackOff": 1}},
		"not those that only start":         {[]*keptPod{pod(all{waits("orders", "ContainerCreating"), waits("b", "")}, nil)}, nil},
		"not those that run":                {[]*keptPod{pod(all{{Name: "orders", RestartCount: 3}}, nil)}, nil},
		"not the sidecar":                   {[]*keptPod{pod(all{waits("istio-proxy", "ImagePullBackOff")}, nil)}, nil},
		"nor the sidecar as init container": {[]*keptPod{pod(nil, all{waits("istio-proxy", "CrashLoopBackOff")})}, nil},
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
	pod := func(containers, init all) *keptPod {
		return readyPod("a", "x", func(p *corev1.Pod) {
			p.Status.ContainerStatuses, p.Status.InitContainerStatuses = containers, init
		})
	}
	type counts = map[string]int64
	for name, c := range map[string]struct {
		was, is *keptPod
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

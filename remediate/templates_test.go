package remediate

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/canary-guardian/guardian/remediate/decision"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func podTemplate(version string, edits ...func(*corev1.PodTemplateSpec)) corev1.PodTemplateSpec {
	t := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "orders", "version": version}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "orders", Image: "registry.example/orders:" + version,
			Env: []corev1.EnvVar{{Name: "TOKEN", Value: "hunter2"}, {Name: "MODE", Value: "a"}}}}}}
	for _, edit := range edits {
		edit(&t)
	}
	return t
}

func TestWhatDiffersBetweenTwoTemplatesShowsNoSecret(t *testing.T) {
	was := podTemplate("v1", func(t *corev1.PodTemplateSpec) {
		t.Labels[appsv1.DefaultDeploymentUniqueLabelKey] = "abc"
		t.Spec.Containers = append(t.Spec.Containers, corev1.Container{Name: "old", Image: "old:1"})
	})
	is := podTemplate("v2", func(t *corev1.PodTemplateSpec) {
		t.Labels[appsv1.DefaultDeploymentUniqueLabelKey] = "def"
		t.Annotations = map[string]string{"checksum/config": "hunter2"}
		c := &t.Spec.Containers[0]
		c.Env[0].Value, c.Args = "hunter2b", []string{"--password=hunter2"}
		c.Env = append(c.Env, corev1.EnvVar{Name: "NEW", Value: "hunter2"}, corev1.EnvVar{Name: noisyEnv + "ORDERS", Value: "noise"})
		c.Resources.Limits = corev1.ResourceList{"memory": resource.MustParse("64Mi")}
		t.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "regcred"}}
	})
	got := differences(&was, &is)
	want := []string{"annotations added", "labels[version]: v1 → v2", "containers[old] removed", "containers[orders].args added",
		"containers[orders].env[NEW] added", "containers[orders].env[TOKEN].value changed", "containers[orders].image: registry.example/orders:v1 → registry.example/orders:v2",
		`containers[orders].resources.limits added: {"memory":"64Mi"}`, "imagePullSecrets[regcred] added"}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if text := strings.Join(got, ""); strings.Contains(text, "hunter2") || strings.Contains(text, "noise") {
		t.Errorf("shown: %s", text)
	}
	if got := differences(&was, &was); len(got) > 0 {
		t.Errorf("a template differs from itself: %v", got)
	}
	many := podTemplate("v1", func(t *corev1.PodTemplateSpec) {
		for i := range 100 {
			t.Labels[fmt.Sprintf("l%03d", i)] = strings.Repeat("x", 63)
		}
	})
	if got := differences(&was, &many); len(got) != maxDiffers+1 || got[maxDiffers] != "and 81 more" {
		t.Errorf("%d lines, the last %q", len(got), got[len(got)-1])
	}
}

func TestAReceiptsTemplatesAreThoseOfTheBuildThatWasRolledBack(t *testing.T) {
	deployment := func(name string, pod corev1.PodTemplateSpec) *appsv1.Deployment {
		return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: testNamespace}, Spec: appsv1.DeploymentSpec{Template: pod}}
	}
	kube := fake.NewClientset(deployment("orders-v1", podTemplate("v1")), deployment("orders-v2", podTemplate("v2")),
		&appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "orders-v2-old", Namespace: testNamespace},
			Spec: appsv1.ReplicaSetSpec{Template: podTemplate("v2", func(t *corev1.PodTemplateSpec) { t.Spec.Containers[0].Image = "registry.example/orders:old" })}})
	s := snapshot{sides: decision.Sides{Stable: decision.Side{Workloads: []string{"orders-v1"}}, Canary: decision.Side{Workloads: []string{"orders-v2"}}}}
	s.input.Guard.Namespace, s.input.Canary.Build = testNamespace, "b2"
	s.input.Record.Status.Proven = []string{"b0", "b1"}
	s.input.Record.Status.Revisions = []decision.Revision{{Name: "orders-v2-gone", Build: "b1"}, {Name: "orders-v2-old", Build: "b0"}}
	read := func() (a decision.After) {
		readTemplates(t.Context(), kube, s, decision.Receipt{Build: "b2"}, &a)
		return a
	}
	a := read()
	if got := fmt.Sprint(a.Images, a.Differs, a.Good, a.Since, a.Unread); got != "[orders: registry.example/orders:v2] [labels[version]: v1 → v2 containers[orders].image: registry.example/orders:v1 → registry.example/orders:v2]b0"+
		"[containers[orders].image: registry.example/orders:old → registry.example/orders:v2]" {
		t.Errorf("got %s", got)
	}
	s.sides.Stable.Workloads = nil
	if a = read(); a.Unread != "stable has 0 workloads, so that no pod template is compared" || len(a.Images) != 1 || a.Good != "b0" {
		t.Errorf("%+v", a)
	}
	s.sides.Canary.Workloads = []string{"orders-rollout"}
	if a = read(); a.Unread != "orders-rollout is no Deployment, so that no pod template is compared" || a.Images != nil {
		t.Errorf("%+v", a)
	}
	s.input.Canary.Build = "b3"
	s.sides.Canary.Workloads = []string{"orders-v2"}
	if a = read(); a.Unread != "the canary is another build by now" || a.Images != nil || a.Differs != nil {
		t.Errorf("%+v", a)
	}
}

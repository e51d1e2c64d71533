package remediate

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/canary-guardian/guardian/remediate/decision"
	corev1 "k8s.io/api/core/v1"
)

// noisyEnv begins the names of environment variables that Reloader sets to have
// pods restarted.
const noisyEnv = "STAKATER_"

// BuildParts names labels and annotations of a pod template that are part of a
// build besides the pod's spec. None is by itself: tools write restarts, chart
// versions and commits there, and the same image with another note is the same
// build.
type BuildParts struct {
	Labels, Annotations []string
}

// hash is a build: two pod templates share it when they would run the same pods.
func (p BuildParts) hash(t *corev1.PodTemplateSpec) string {
	b, err := json.Marshal(struct {
		Spec                *corev1.PodSpec
		Labels, Annotations map[string]string `json:",omitempty"`
	}{quiet(&t.Spec), only(t.Labels, p.Labels), only(t.Annotations, p.Annotations)})
	if err != nil {
		panic(fmt.Sprintf("marshal pod template: %v", err)) // no field of it can fail to marshal
	}
	return decision.BuildOf(b)
}

// only are the entries with these keys.
func only(set map[string]string, keys []string) map[string]string {
	var out map[string]string
	for _, k := range keys {
		if v, ok := set[k]; ok {
			if out == nil {
				out = map[string]string{}
			}
			out[k] = v
		}
	}
	return out
}

// quiet is a pod's spec without what is known to be no change of what runs. It
// does not edit its argument.
func quiet(spec *corev1.PodSpec) *corev1.PodSpec {
	noisy := func(e corev1.EnvVar) bool { return strings.HasPrefix(e.Name, noisyEnv) }
	clean := *spec
	for _, list := range []*[]corev1.Container{&clean.Containers, &clean.InitContainers} {
		if !slices.ContainsFunc(*list, func(c corev1.Container) bool { return slices.ContainsFunc(c.Env, noisy) }) {
			continue
		}
		*list = slices.Clone(*list)
		for i := range *list {
			c := &(*list)[i]
			if c.Env = slices.DeleteFunc(slices.Clone(c.Env), noisy); len(c.Env) == 0 {
				c.Env = nil
			}
		}
	}
	return &clean
}

//go:build argocd || flux

package main

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/canary-guardian/guardian/test/controlplane"
)

// gitToken is what alerts come with where the chart is installed from git.
var gitToken = strings.Repeat("token", 8)

// gitValues are the namespace's, with what differs on this machine.
func (l *live) gitValues(guards ...string) map[string]any {
	nobody := map[string]any{"url": "http://127.0.0.1:1"}
	list := []any{}
	for _, guard := range guards {
		list = append(list, map[string]any{"name": guard})
	}
	return map[string]any{"guards": list, "image": map[string]any{"tag": versions[0]}, "config": map[string]any{"prometheus": nobody, "alertmanager": nobody}}
}

// makeToken makes the Secret that the values name, once.
func (l *live) makeToken() {
	l.t.Helper()
	_, err := l.kube.CoreV1().Secrets(l.ns).Create(l.t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "guardian-token"}, StringData: map[string]string{"token": gitToken},
	}, metav1.CreateOptions{})
	l.must(err)
}

// written are the objects that guardian has made itself, by name, with their UIDs.
func (l *live) written() map[string]string {
	l.t.Helper()
	out := map[string]string{}
	for _, resource := range []string{"prometheusrules.v1.monitoring.coreos.com", "leases.v1.coordination.k8s.io", "configmaps.v1."} {
		said, err := l.plane.Kubectl(l.t.Context(), controlplane.Admin, l.ns, "get", resource, "-o", "jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.uid}\n{end}")
		l.must(err)
		for line := range strings.Lines(said) {
			if name, uid, _ := strings.Cut(strings.TrimSpace(line), " "); uid != "" && name != "ConfigMap/kube-root-ca.crt" && name != "ConfigMap/guardian.config" && name != "ConfigMap/guardian-values" {
				out[name] = uid
			}
		}
	}
	return out
}

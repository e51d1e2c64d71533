package controlplane

import (
	"context"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Resources of Flux, for dynamic clients.
var (
	Kustomizations  = schema.GroupVersionResource{Group: "kustomize.toolkit.fluxcd.io", Version: "v1", Resource: "kustomizations"}
	GitRepositories = schema.GroupVersionResource{Group: "source.toolkit.fluxcd.io", Version: "v1", Resource: "gitrepositories"}
	HelmReleases    = schema.GroupVersionResource{Group: "helm.toolkit.fluxcd.io", Version: "v2", Resource: "helmreleases"}
	OCIRepositories = schema.GroupVersionResource{Group: "source.toolkit.fluxcd.io", Version: "v1", Resource: "ocirepositories"}
)

// StartKustomizeController starts Flux's real kustomize-controller on the control plane, as a cluster administrator. Its
// sources have CRDs of their names that take everything, and no source-controller: whoever makes a GitRepository writes
// its status.artifact as well, and serves that. It takes minutes to build where it is missing.
func (p *Plane) StartKustomizeController(ctx context.Context) (*Process, error) {
	return p.startFlux(ctx, "kustomize-controller")
}

// StartHelmController starts Flux's real helm-controller in the same way: whoever makes an OCIRepository or a HelmChart
// writes its status.artifact, and serves the chart.
func (p *Plane) StartHelmController(ctx context.Context) (*Process, error) {
	return p.startFlux(ctx, "helm-controller")
}

func (p *Plane) startFlux(ctx context.Context, name string) (*Process, error) {
	program, err := Binary(ctx, name)
	if err != nil {
		return nil, err
	}
	module, err := toolModule(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := p.installFiles(ctx, filepath.Join(module, "config", "crd", "bases", "*.yaml")); err != nil {
		return nil, err
	}
	if err := p.install(ctx, fluxSources()); err != nil {
		return nil, err
	}
	kubeconfig, err := p.Kubeconfig(Admin, "default")
	if err != nil {
		return nil, err
	}
	process, _, err := onFreePort(ctx, func(ctx context.Context, port int) (*Process, error) {
		metrics, err := FreePort()
		if err != nil {
			return nil, err
		}
		return p.Run(ctx, Program{
			Name: name, Path: program, Env: []string{"KUBECONFIG=" + kubeconfig, "RUNTIME_NAMESPACE=default", "TMPDIR=" + p.Dir()},
			Args:  []string{"--health-addr=127.0.0.1:" + strconv.Itoa(port), "--metrics-addr=127.0.0.1:" + strconv.Itoa(metrics), "--http-retry=1"},
			Ready: answers(http.DefaultClient, "http://"+address(port)+"/readyz", ""),
		})
	})
	return process, err
}

// fluxSources are CustomResourceDefinitions for the kinds of source that Flux's controllers watch.
func fluxSources() []definition {
	var out []definition
	for _, kind := range []string{"GitRepository", "OCIRepository", "HelmRepository", "HelmChart", "Bucket", "ExternalArtifact"} {
		singular := strings.ToLower(kind)
		plural := strings.Replace(singular+"s", "ys", "ies", 1)
		out = append(out, definition{&unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
			"metadata": map[string]any{"name": plural + "." + GitRepositories.Group},
			"spec": map[string]any{
				"group": GitRepositories.Group, "scope": "Namespaced",
				"names": map[string]any{"kind": kind, "listKind": kind + "List", "plural": plural, "singular": singular},
				"versions": []any{map[string]any{
					"name": GitRepositories.Version, "served": true, "storage": true, "subresources": map[string]any{"status": map[string]any{}},
					"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
				}},
			},
		}}})
	}
	return out
}

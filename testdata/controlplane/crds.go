package controlplane

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// istioDefinitions is where the module istio.io/api keeps its CRDs.
const istioDefinitions = "kubernetes/customresourcedefinitions.gen.yaml"

// operatorDefinitions are prometheus-operator's, generated from the Go types of the version that go.mod requires by
// `make crds`; its releases are not all to be had as modules.
//
//go:embed crds/*.yaml
var operatorDefinitions embed.FS

// definition is one CustomResourceDefinition.
type definition struct{ *unstructured.Unstructured }

// loadDefinitions reads the CRDs of Istio and of prometheus-operator.
func loadDefinitions(ctx context.Context) ([]definition, error) {
	root, err := Root()
	if err != nil {
		return nil, err
	}
	dir, err := moduleDir(ctx, root, "istio.io/api")
	if err != nil {
		return nil, fmt.Errorf("find Istio's CRDs: %w", err)
	}
	istio, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(istioDefinitions)))
	if err != nil {
		return nil, fmt.Errorf("read Istio's CRDs: %w", err)
	}
	files := [][]byte{istio}
	entries, err := operatorDefinitions.ReadDir("crds")
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		content, err := operatorDefinitions.ReadFile(path.Join("crds", entry.Name()))
		if err != nil {
			return nil, err
		}
		files = append(files, content)
	}
	var definitions []definition
	for _, file := range files {
		parsed, err := parseDefinitions(file)
		if err != nil {
			return nil, err
		}
		definitions = append(definitions, parsed...)
	}
	return definitions, nil
}

func parseDefinitions(file []byte) ([]definition, error) {
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(file), 4096)
	var definitions []definition
	for {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(&object.Object)
		if errors.Is(err, io.EOF) {
			return definitions, nil
		}
		if err != nil {
			return nil, fmt.Errorf("parse CRDs: %w", err)
		}
		if object.GetKind() == "CustomResourceDefinition" {
			definitions = append(definitions, definition{object})
		}
	}
}

// install creates the CRDs and returns when every version of each is served.
func (p *Plane) install(ctx context.Context, definitions []definition) error {
	config, err := p.admin()
	if err != nil {
		return err
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	crds := client.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	group, all := errgroup.WithContext(ctx)
	for _, d := range definitions {
		group.Go(func() error {
			_, err := crds.Create(all, d.Unstructured, metav1.CreateOptions{})
			if err != nil && !apierrors.IsAlreadyExists(err) {
				return fmt.Errorf("create CustomResourceDefinition %s: %w", d.GetName(), err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return awaitServed(ctx, config, definitions)
}

// awaitServed returns when discovery names every version of every definition and each can be listed.
func awaitServed(ctx context.Context, config *rest.Config, definitions []definition) error {
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, d := range definitions {
		versions, resource, err := d.served()
		if err != nil {
			return err
		}
		for _, version := range versions {
			group.Go(func() error {
				ctx, cancel := context.WithTimeout(ctx, startTimeout)
				defer cancel()
				err := poll(ctx, func(ctx context.Context) error { return listed(ctx, client, config.Host, version, resource) })
				if err != nil {
					return fmt.Errorf("wait for %s in %s: %w", resource, version, err)
				}
				return nil
			})
		}
	}
	return group.Wait()
}

// served returns group/version of every served version, and the resource.
func (d definition) served() (versions []string, resource string, err error) {
	group, _, errGroup := unstructured.NestedString(d.Object, "spec", "group")
	resource, _, errNames := unstructured.NestedString(d.Object, "spec", "names", "plural")
	list, _, errVersions := unstructured.NestedSlice(d.Object, "spec", "versions")
	if err := errors.Join(errGroup, errNames, errVersions); err != nil {
		return nil, "", fmt.Errorf("read CustomResourceDefinition %s: %w", d.GetName(), err)
	}
	for _, item := range list {
		version, ok := item.(map[string]any)
		if ok && version["served"] == true {
			versions = append(versions, fmt.Sprint(group, "/", version["name"]))
		}
	}
	return versions, resource, nil
}

// listed says whether a resource is in discovery and can be listed.
func listed(ctx context.Context, client *http.Client, host, version, resource string) error {
	url := host + "/apis/" + version
	discovery, err := get(ctx, client, url)
	if err != nil {
		return err
	}
	if !bytes.Contains(discovery, []byte(`"name":"`+resource+`"`)) {
		return fmt.Errorf("discovery at %s does not name %s yet", url, resource)
	}
	_, err = get(ctx, client, url+"/"+resource+"?limit=1")
	return err
}

func get(ctx context.Context, client *http.Client, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, permanent{err}
	}
	request.Header.Set("Accept", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s", url, response.Status)
	}
	return io.ReadAll(response.Body)
}

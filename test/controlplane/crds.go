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
	"slices"
	"strings"

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

var definitionsResource = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

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

// definitions is a client for CustomResourceDefinitions, and what it is made from.
func (p *Plane) definitions() (*rest.Config, dynamic.NamespaceableResourceInterface, error) {
	config, err := p.admin()
	if err != nil {
		return nil, nil, err
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, nil, err
	}
	return config, client.Resource(definitionsResource), nil
}

// install creates the CRDs and returns when every version of each is served.
func (p *Plane) install(ctx context.Context, definitions []definition) error {
	config, crds, err := p.definitions()
	if err != nil {
		return err
	}
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

// installFiles creates the CRDs of files, and returns when they are served.
func (p *Plane) installFiles(ctx context.Context, pattern string) error {
	files, err := filepath.Glob(pattern)
	if err != nil {
		return fmt.Errorf("find CRDs %s: %w", pattern, err)
	}
	if len(files) == 0 {
		return fmt.Errorf("find CRDs: no file %s", pattern)
	}
	var all []definition
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		definitions, err := parseDefinitions(text)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		all = append(all, definitions...)
	}
	return p.install(ctx, all)
}

// ServeIstio has the API server serve Istio's networking resources in these versions alone, as that of an older Istio
// does, and returns when it does. What is stored stays.
func (p *Plane) ServeIstio(ctx context.Context, versions ...string) error {
	config, crds, err := p.definitions()
	if err != nil {
		return err
	}
	list, err := crds.List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list CustomResourceDefinitions: %w", err)
	}
	var changed []definition
	for i := range list.Items {
		d := definition{&list.Items[i]}
		if group, _, _ := unstructured.NestedString(d.Object, "spec", "group"); group != VirtualServices.Group {
			continue
		}
		all, _, _ := unstructured.NestedSlice(d.Object, "spec", "versions")
		for _, item := range all {
			version := item.(map[string]any)
			version["served"] = slices.Contains(versions, fmt.Sprint(version["name"]))
		}
		if served := slices.ContainsFunc(all, func(v any) bool { return v.(map[string]any)["served"] == true }); !served {
			continue // one that has none of them is left alone
		}
		if err := unstructured.SetNestedSlice(d.Object, all, "spec", "versions"); err != nil {
			return err
		}
		updated, err := crds.Update(ctx, d.Unstructured, metav1.UpdateOptions{})
		if err != nil {
			return fmt.Errorf("update CustomResourceDefinition %s: %w", d.GetName(), err)
		}
		changed = append(changed, definition{updated})
	}
	if err := awaitServed(ctx, config, changed); err != nil {
		return err
	}
	return awaitGone(ctx, config, changed)
}

// DropDefinition deletes a CustomResourceDefinition, and with it all of its objects, and returns when nothing of it is
// served any more.
func (p *Plane) DropDefinition(ctx context.Context, name string) error {
	config, crds, err := p.definitions()
	if err != nil {
		return err
	}
	object, err := crds.Get(ctx, name, metav1.GetOptions{})
	if err == nil {
		err = crds.Delete(ctx, name, metav1.DeleteOptions{})
	}
	if err != nil {
		return fmt.Errorf("delete CustomResourceDefinition %s: %w", name, err)
	}
	all, _, _ := unstructured.NestedSlice(object.Object, "spec", "versions")
	for _, item := range all {
		item.(map[string]any)["served"] = false
	}
	if err := unstructured.SetNestedSlice(object.Object, all, "spec", "versions"); err != nil {
		return err
	}
	return awaitGone(ctx, config, []definition{{object}})
}

// awaitGone returns when no version that a definition does not serve is answered any more.
func awaitGone(ctx context.Context, config *rest.Config, definitions []definition) error {
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	for _, d := range definitions {
		served, resource, err := d.served()
		if err != nil {
			return err
		}
		group, _, _ := unstructured.NestedString(d.Object, "spec", "group")
		all, _, _ := unstructured.NestedSlice(d.Object, "spec", "versions")
		for _, item := range all {
			version := fmt.Sprint(group, "/", item.(map[string]any)["name"])
			if slices.Contains(served, version) {
				continue
			}
			url := config.Host + "/apis/" + version + "/" + resource + "?limit=1"
			ctx, cancel := context.WithTimeout(ctx, startTimeout)
			err := poll(ctx, func(ctx context.Context) error {
				if _, err := get(ctx, client, url); err == nil || !strings.Contains(err.Error(), "404") {
					return fmt.Errorf("%s is not gone yet: %w", url, err)
				}
				return nil
			})
			cancel()
			if err != nil {
				return err
			}
		}
	}
	return nil
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

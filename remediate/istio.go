package remediate

import (
	"context"
	"fmt"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
)

// IstioGroup is the API group of VirtualServices and DestinationRules.
const IstioGroup = "networking.istio.io"

// Their resources.
const (
	resourceVirtualServices  = "virtualservices"
	resourceDestinationRules = "destinationrules"
)

// LeastIstio is the oldest Istio whose resources and metrics guardian knows.
const LeastIstio = "Istio 1.5"

// IstioVersions are the versions of IstioGroup that guardian reads and writes,
// the preferred one first. What it looks at is the same in each. Istio serves v1
// since 1.22, v1beta1 since 1.5; some distributions serve only the older ones.
var IstioVersions = []string{"v1", "v1beta1", "v1alpha3"}

// istioAPI reads and writes Istio's objects of one namespace in whichever version
// the API server serves. The version is found by use: a request for one that is
// not served is answered before anything is done, and is made again in the next.
// So a version that goes away while guardian runs costs one more request.
type istioAPI struct {
	client    dynamic.Interface
	namespace string

	mu     sync.Mutex
	served map[string]string // resource → version that was answered last
}

func newIstioAPI(client dynamic.Interface, namespace string) *istioAPI {
	return &istioAPI{client: client, namespace: namespace, served: map[string]string{}}
}

// NotServedError says that the API server has a resource of Istio in no version
// that guardian reads.
type NotServedError struct{ Resource string }

func (e *NotServedError) Error() string {
	return fmt.Sprintf("the API server serves %s.%s in none of %s: Istio's CustomResourceDefinitions are needed, of %s or newer",
		e.Resource, IstioGroup, strings.Join(IstioVersions, ", "), LeastIstio)
}

// ServedIstio asks the API server in which version guardian will read and write
// VirtualServices and DestinationRules. Where a resource is served in none, the
// error is a NotServedError.
func ServedIstio(api discovery.DiscoveryInterface) (virtualServices, destinationRules string, err error) {
	found := map[string]string{}
	for _, version := range IstioVersions {
		list, err := api.ServerResourcesForGroupVersion(IstioGroup + "/" + version)
		switch {
		case apierrors.IsNotFound(err):
			continue
		case err != nil:
			return "", "", fmt.Errorf("ask the API server for the resources of %s/%s: %w", IstioGroup, version, err)
		}
		for _, r := range list.APIResources {
			if found[r.Name] == "" {
				found[r.Name] = version
			}
		}
	}
	for _, resource := range []string{resourceVirtualServices, resourceDestinationRules} {
		if found[resource] == "" {
			return "", "", &NotServedError{resource}
		}
	}
	return found[resourceVirtualServices], found[resourceDestinationRules], nil
}

// notServed tells a resource that does not exist from an object that does not:
// the former is answered by the server's list of paths and not by the resource.
func notServed(err error) bool {
	return apierrors.IsNotFound(err) && apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse)
}

// version is the one that is served, as far as is known.
func (a *istioAPI) version(resource string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if v, ok := a.served[resource]; ok {
		return v
	}
	return IstioVersions[0]
}

func (a *istioAPI) note(resource, version string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.served[resource] = version
}

func (a *istioAPI) in(resource, version string) dynamic.ResourceInterface {
	return a.client.Resource(schema.GroupVersionResource{Group: IstioGroup, Version: version, Resource: resource}).Namespace(a.namespace)
}

// inServed makes a request in the version that is served.
func inServed[T any](a *istioAPI, resource string, request func(dynamic.ResourceInterface) (T, error)) (T, error) {
	known := a.version(resource)
	got, err := request(a.in(resource, known))
	if !notServed(err) {
		return got, err
	}
	for _, version := range IstioVersions {
		if version == known {
			continue
		}
		if got, err = request(a.in(resource, version)); !notServed(err) {
			a.note(resource, version)
			return got, err
		}
	}
	var none T
	return none, &NotServedError{resource}
}

func (a *istioAPI) get(ctx context.Context, resource, name string) (*unstructured.Unstructured, error) {
	return inServed(a, resource, func(r dynamic.ResourceInterface) (*unstructured.Unstructured, error) {
		return r.Get(ctx, name, metav1.GetOptions{})
	})
}

// listWatch lists and watches one resource. It goes on when the API server begins
// to serve another version: objects keep their resource versions.
func (a *istioAPI) listWatch(resource string) *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := inServed(a, resource, func(r dynamic.ResourceInterface) (*unstructured.UnstructuredList, error) { return r.List(ctx, o) })
			if err != nil {
				return nil, err // and no list that is nil
			}
			return list, nil
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return inServed(a, resource, func(r dynamic.ResourceInterface) (watch.Interface, error) { return r.Watch(ctx, o) })
		},
	}
}

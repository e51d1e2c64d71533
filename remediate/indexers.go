package remediate

import (
	"cmp"
	"slices"
	"strings"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/cache"
)

const (
	indexPair    = "label-pair"
	indexService = "service"
	indexOwner   = "owner"
	indexDeny    = "deny"
)

// index makes an Indexers of a function of the one type that a cache holds.
func index[T any](name string, values func(*T) []string) cache.Indexers {
	return cache.Indexers{name: func(obj any) ([]string, error) {
		if o, ok := obj.(*T); ok {
			return values(o), nil
		}
		return nil, nil
	}}
}

func one(value string) []string {
	if value == "" {
		return nil
	}
	return []string{value}
}

func podIndexers() cache.Indexers {
	return index(indexPair, func(p *slimPod) []string { return p.labels.pairs() })
}

func deploymentIndexers() cache.Indexers {
	return index(indexPair, func(d *slimDeployment) []string { return d.template.pairs() })
}

// revisionIndexers find the revisions of an owner. Those of a Deployment are
// found by its pods alone.
func revisionIndexers() cache.Indexers {
	return index(indexOwner, func(r *slimRevision) []string {
		if r.ofDeployment() {
			return nil
		}
		return one(r.owner)
	})
}

// recordIndexers find the locked records that deny a destination, by its
// longest spelling.
func recordIndexers(domain string) cache.Indexers {
	all := index(indexDeny, func(cm *corev1.ConfigMap) []string {
		if cm.Labels[records.LabelLocked] != "true" {
			return nil
		}
		return longest(strings.Fields(cm.Data[decision.KeyDeny]), domain)
	})
	all[cache.NamespaceIndex] = cache.MetaNamespaceIndexFunc // for the lister
	return all
}

// longest leaves out of a deny list what nobody looks a lock up by: hosts without
// a subset, which the policy alone reads, and the shorter spellings of what is there
// in full. An index entry costs more memory than the record that it finds.
func longest(deny []string, domain string) []string {
	shorter := map[string]bool{}
	for _, destination := range deny {
		host, subset, _ := strings.Cut(destination, "/")
		if name, namespace, ok := virtualservice.ServiceOf(host, cmp.Or(domain, virtualservice.DefaultDomain)); ok {
			for _, short := range []string{name, name + "." + namespace, name + "." + namespace + ".svc"} {
				shorter[short+"/"+subset] = true
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(deny), func(destination string) bool {
		return shorter[destination] || !strings.Contains(destination, "/")
	})
}

func sliceIndexers() cache.Indexers {
	return index(indexService, func(s *slimSlice) []string { return one(s.service) })
}

// selectorIndexers find the Services that may select a workload by each of its
// label pairs.
func selectorIndexers() cache.Indexers {
	return index(indexPair, func(s *slimService) []string { return one(selectorPair(s.selector)) })
}

// hostIndexers find the DestinationRules of a Service.
func hostIndexers(namespace, domain string) cache.Indexers {
	return index(indexService, func(r *slimRule) []string {
		name, ok := serviceIn(r.host, namespace, domain)
		if !ok {
			return nil
		}
		return one(name)
	})
}

// indexDestination finds VirtualServices by the Services that they lead to.
const indexDestination = "destination"

func destinationIndexers(namespace, domain string) cache.Indexers {
	return index(indexDestination, func(vs *unstructured.Unstructured) []string { return destinationsOf(vs, namespace, domain) })
}

// destinationsOf are the Services of a namespace that a VirtualService of it
// names as destinations or mirrors.
func destinationsOf(vs *unstructured.Unstructured, namespace, domain string) []string {
	var out []string
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, x := range v {
				walk(x)
			}
		case map[string]any:
			for key, x := range v {
				if to, ok := x.(map[string]any); ok && (key == "destination" || key == "mirror") {
					if host, ok := to["host"].(string); ok {
						if name, ok := serviceIn(host, namespace, domain); ok {
							out = append(out, name)
						}
					}
				}
				walk(x)
			}
		}
	}
	walk(vs.Object["spec"])
	slices.Sort(out)
	return slices.Compact(out)
}

// serviceIn is the Service of a namespace that a host, written in it, stands
// for.
func serviceIn(host, namespace, domain string) (string, bool) {
	name, in, ok := virtualservice.ServiceOf(virtualservice.NormalizeHost(host, namespace, domain), domain)
	return name, ok && in == namespace
}

// indexed finds the objects with an index value that are wanted.
func indexed[T any](idx cache.Indexer, index, value string, want func(*T) bool) ([]*T, error) {
	objs, err := idx.ByIndex(index, value)
	if err != nil {
		return nil, err
	}
	var out []*T
	for _, obj := range objs {
		if o, ok := obj.(*T); ok && want(o) {
			out = append(out, o)
		}
	}
	return out, nil
}

package remediate

import (
	"fmt"
	"slices"
	"strings"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// foreignLocks are the annotations of a VirtualService by which another user
// holds a canary, whatever the guard that they name.
func foreignLocks(vs *unstructured.Unstructured, user string) []string {
	var out []string
	for key, value := range vs.GetAnnotations() {
		if !strings.HasPrefix(key, decision.AnnotationLock) {
			continue
		}
		switch l, err := decision.ParseLockAnnotation(value); {
		case err != nil:
			out = append(out, fmt.Sprintf("VirtualService %s: annotation %s (it cannot be read)", vs.GetName(), key))
		case l.By != user:
			out = append(out, fmt.Sprintf("VirtualService %s: annotation %s (by %s, since %s)", vs.GetName(), key, l.By, decision.Stamp(l.Since)))
		}
	}
	slices.Sort(out)
	return out
}

// unguarded says what a VirtualService that is none of the guard's gives to its
// canary; "": nothing.
func unguarded(vs *unstructured.Unstructured, p virtualservice.Pair) string {
	t, err := virtualservice.Inspect(vs.Object, p, virtualservice.Options{MatchRoutes: true, Mirrors: true})
	if err != nil || t.Clean() { // it does not name the pair, or gives the canary nothing
		return ""
	}
	gives := fmt.Sprintf("%d%%", t.Weight)
	switch {
	case t.Weight > 0:
	case t.Unsplit > 0:
		gives = "its host without a subset"
	default:
		gives = "by routes or mirrors of its own"
	}
	return fmt.Sprintf("VirtualService %s/%s (%s)", vs.GetNamespace(), vs.GetName(), gives)
}

// unguardedOf looks through the cached VirtualServices that name the Service of
// a canary, but for those that a lock covers and the configuration does not have any
// more. known is false while not all are cached.
func (i *informers) unguardedOf(g decision.Guard, p virtualservice.Pair, former []string) (found []string, known bool) {
	service, ok := i.serviceName(i.hostOf(g, g.Canary))
	if !ok || i.lacks(resourceVirtualServices) || i.lacks(resourceDestinationRules) {
		return nil, false
	}
	all, err := indexed(i.reader.vs, indexDestination, service, func(vs *unstructured.Unstructured) bool {
		return !slices.Contains(g.VirtualServices, vs.GetName()) && !slices.Contains(former, vs.GetName()) && !i.guardedElsewhere(g, vs.GetName())
	})
	if err != nil {
		return nil, false
	}
	for _, vs := range all {
		if text := unguarded(vs, p); text != "" {
			found = append(found, text)
		}
	}
	slices.Sort(found)
	return found, true
}

// guardedElsewhere says that another guard of the same canary has a
// VirtualService.
func (i *informers) guardedElsewhere(g decision.Guard, name string) bool {
	i.mu.RLock()
	defer i.mu.RUnlock()
	host := func(g decision.Guard) string {
		return virtualservice.NormalizeHost(i.hostOf(g, g.Canary), i.namespace, i.domain)
	}
	return slices.ContainsFunc(i.byVS[name], func(other string) bool {
		o := i.guards[other]
		return o.Canary.Subset == g.Canary.Subset && host(o) == host(g)
	})
}

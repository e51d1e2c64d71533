package remediate

import (
	"errors"
	"sync"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// canaryTraffic is what one VirtualService has been found to be for one guard.
type canaryTraffic struct {
	traffic virtualservice.Traffic
	testers virtualservice.Testers
	beside  bool   // it leads everybody somewhere, or splits
	unnamed string // the pair is not in it at all: why
	unsafe  string // it cannot be read, or a rollback could not rewrite it: why
}

func trafficIn(vs *unstructured.Unstructured, p virtualservice.Pair, o virtualservice.Options) canaryTraffic {
	v, err := virtualservice.Read(vs.Object, p)
	if err == nil {
		err = v.Named()
	}
	if _, unnamed := errors.AsType[*virtualservice.UnsafeError](err); unnamed {
		return canaryTraffic{unnamed: err.Error()}
	}
	var i canaryTraffic
	if err == nil {
		i = canaryTraffic{traffic: v.Traffic(o), testers: v.Testers(), beside: v.Beside(o)}
		if !i.traffic.Clean() {
			_, _, err = virtualservice.Edit(vs.Object, p, 0, o, nil)
		}
	}
	if err != nil {
		i.unsafe = err.Error()
	}
	return i
}

// trafficCache remembers what each VirtualService last gave each guard's canary:
// most passes find the object that the pass before has found. It cannot
// go stale: what a reader has returned is replaced and never edited, so the same
// object for the same pair is what it was. Nil remembers nothing.
type trafficCache struct {
	mu   sync.Mutex
	last map[trafficKey]cachedTraffic
}

type trafficKey struct{ guard, virtualService string }

type cachedTraffic struct {
	object  *unstructured.Unstructured
	pair    virtualservice.Pair
	options virtualservice.Options
	canaryTraffic
}

func newTrafficCache() *trafficCache { return &trafficCache{last: map[trafficKey]cachedTraffic{}} }

func (all *trafficCache) of(guard string, vs *unstructured.Unstructured, p virtualservice.Pair, o virtualservice.Options) canaryTraffic {
	if all == nil {
		return trafficIn(vs, p, o)
	}
	key := trafficKey{guard, vs.GetName()}
	all.mu.Lock()
	have := all.last[key]
	all.mu.Unlock()
	if have.object == vs && have.pair == p && have.options == o {
		return have.canaryTraffic
	}
	have = cachedTraffic{vs, p, o, trafficIn(vs, p, o)}
	all.mu.Lock()
	defer all.mu.Unlock()
	all.last[key] = have
	return have.canaryTraffic
}

// keepOnly forgets those of all other guards, and of VirtualServices
// that a guard does not have any more.
func (all *trafficCache) keepOnly(guards []decision.Guard) {
	keep := map[trafficKey]bool{}
	for _, g := range guards {
		for _, vs := range g.VirtualServices {
			keep[trafficKey{g.Name, vs}] = true
		}
	}
	all.mu.Lock()
	defer all.mu.Unlock()
	for key := range all.last {
		if !keep[key] {
			delete(all.last, key)
		}
	}
}

package remediate

import (
	"errors"
	"sync"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// inspection is what one VirtualService has been found to be for one guard.
type inspection struct {
	traffic virtualservice.Traffic
	testers virtualservice.Testers
	beside  bool   // it leads everybody somewhere, or splits
	unnamed string // the pair is not in it at all: why
	unsafe  string // it cannot be read, or a rollback could not rewrite it: why
}

func inspect(vs *unstructured.Unstructured, p virtualservice.Pair, o virtualservice.Options) inspection {
	v, err := virtualservice.Read(vs.Object, p)
	if err == nil {
		err = v.Named()
	}
	if _, unnamed := errors.AsType[*virtualservice.UnsafeError](err); unnamed {
		return inspection{unnamed: err.Error()}
	}
	var i inspection
	if err == nil {
		i = inspection{traffic: v.Traffic(o), testers: v.Testers(), beside: v.Beside(o)}
		if !i.traffic.Clean() {
			_, _, err = virtualservice.Edit(vs.Object, p, 0, o, nil)
		}
	}
	if err != nil {
		i.unsafe = err.Error()
	}
	return i
}

// inspections remembers each guard's last inspection of each VirtualService:
// most looks at a guard find the one that the look before has found. It cannot
// go stale: what a reader has returned is replaced and never edited, so the same
// object for the same pair is what it was. Nil remembers nothing.
type inspections struct {
	mu   sync.Mutex
	last map[inspected]inspectedAs
}

type inspected struct{ guard, virtualService string }

type inspectedAs struct {
	object  *unstructured.Unstructured
	pair    virtualservice.Pair
	options virtualservice.Options
	inspection
}

func newInspections() *inspections { return &inspections{last: map[inspected]inspectedAs{}} }

func (all *inspections) inspect(guard string, vs *unstructured.Unstructured, p virtualservice.Pair, o virtualservice.Options) inspection {
	if all == nil {
		return inspect(vs, p, o)
	}
	key := inspected{guard, vs.GetName()}
	all.mu.Lock()
	have := all.last[key]
	all.mu.Unlock()
	if have.object == vs && have.pair == p && have.options == o {
		return have.inspection
	}
	have = inspectedAs{vs, p, o, inspect(vs, p, o)}
	all.mu.Lock()
	defer all.mu.Unlock()
	all.last[key] = have
	return have.inspection
}

// keepOnly forgets the inspections of all other guards, and of VirtualServices
// that a guard does not have any more.
func (all *inspections) keepOnly(guards []decision.Guard) {
	keep := map[inspected]bool{}
	for _, g := range guards {
		for _, vs := range g.VirtualServices {
			keep[inspected{g.Name, vs}] = true
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

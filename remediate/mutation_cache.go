package remediate

import (
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
)

// mutationCache has objects as this replica's own writes have left them, until the
// watch has brought the same or something newer. Alerts of one guard come
// together, and the pass for the second begins before the watch has told of what
// the first has written: from the cache alone it would decide to write it again,
// meet a conflict, and read everything anew.
type mutationCache[T metav1.Object] struct {
	mu     sync.Mutex
	byName map[string]T
}

// wrote keeps what the API server has answered to a write.
func (o *mutationCache[T]) wrote(obj T) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.byName == nil {
		o.byName = map[string]T{}
	}
	o.byName[obj.GetName()] = obj
}

// newest is the newer of what the cache has and what was written. An object
// that is not in the cache has been deleted, or is not to be known yet.
func (o *mutationCache[T]) newest(name string, cached T, found bool) (T, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	own, ok := o.byName[name]
	if !ok {
		return cached, found
	}
	if found && own.GetUID() == cached.GetUID() {
		if order, err := resourceversion.CompareResourceVersion(own.GetResourceVersion(), cached.GetResourceVersion()); err == nil && order > 0 {
			return own, true
		}
	}
	delete(o.byName, name)
	return cached, found
}

// instead is what was written in place of an equal object that the watch brings: one of
// the two is kept in memory.
func (o *mutationCache[T]) instead(brought T) T {
	o.mu.Lock()
	defer o.mu.Unlock()
	if own, ok := o.byName[brought.GetName()]; ok && versionOf(own) == versionOf(brought) {
		return own
	}
	return brought
}

// instead is a mutation cache's for objects of a type that only it knows.
func instead[T metav1.Object](o *mutationCache[T]) func(any) any {
	return func(brought any) any {
		if obj, ok := brought.(T); ok {
			return o.instead(obj)
		}
		return brought
	}
}

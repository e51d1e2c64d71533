package remediate

import (
	"reflect"
	"strings"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// snapshot is one guard as it was read: what Decide looks at, and the objects
// that its decision is applied to.
type snapshot struct {
	input    decision.Input
	pair     virtualservice.Pair
	record   *corev1.ConfigMap // nil: none yet
	stored   decision.Record   // what record says
	services []*unstructured.Unstructured
	held     map[string]bool                       // those of them that another guard's lock names; not looked at while this guard stays locked
	unheld   error                                 // why it is not known which another guard's lock names: any may be
	former   map[string]bool                       // those of them that the lock covers and the configuration does not have any more
	leaving  map[string]*unstructured.Unstructured // to be given back, for the same reason; nil: does not exist
	beside   map[string]bool                       // those that have testers' routes alone, where another leads everybody somewhere
	// who serves the two sides, for rules that need names
	sides  decision.Sides
	next   *snapshot // of the configuration's pair, where a lock stands that is of another; nil: it is this one
	known  *trafficCache
	noRule string // why the DestinationRule cannot be read
	unread error  // the first of what is not readable
	user   string // guardian's own
	again  bool   // read from the API server, since it has left a write without an answer or has refused the record
}

// ofConfiguration is what was read of the pair that the configuration has.
func (s *snapshot) ofConfiguration() *snapshot {
	if s.next != nil {
		return s.next
	}
	return s
}

// cannotRead is unreadable, and keeps the error for those to whom a snapshot
// without it is of no use.
func (s *snapshot) cannotRead(err error) string {
	why := unreadable(err)
	if why != "" && s.unread == nil {
		s.unread = err
	}
	return why
}

// holds says whether the record that was read is this one. Nearly always nothing
// has changed at all, and to compare is cheaper than to write it down.
func (s snapshot) holds(r decision.Record) bool {
	if s.record != nil && s.stored.Status.State != r.Status.State {
		return false
	}
	same := s.record != nil && (s.record.Labels[records.LabelLocked] == "true") == (r.Lock != nil) && reflect.DeepEqual(s.stored, r)
	return same || records.Holds(s.record, r)
}

// options say how one of the guard's VirtualServices is rewritten, by what a
// record knows of its routes.
func (s *snapshot) options(r decision.Record, virtualService string) virtualservice.Options {
	o := s.input.Guard.Rollback.Options()
	o.Split, o.Beside = strings.Join(r.Status.Splits, " "), s.beside[virtualService]
	return o
}

// quiet says that nothing goes on with a guard, and all of it could be read.
func (s snapshot) quiet() bool { return s.unread == nil && len(s.leaving) == 0 && s.input.Quiet() }

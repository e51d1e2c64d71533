package remediate

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
)

// What follows is printed of a sequence that breaks an invariant, and formatted
// for no other: rapid drops the arguments of Logf.

// traceRecord notes a record that a replica has written.
func (m *machine) traceRecord(r *replica, was, is decision.Record) {
	m.t.Logf("%s %s records %s", clockText(m.now), r.name, recordText{was, is})
}

// traceWrite notes weights that a replica has written.
func (m *machine) traceWrite(r *replica, was, is virtualservice.Traffic, after *unstructured.Unstructured) {
	m.t.Logf("%s %s writes %d%%/%d%% to %d%%/%d%%; %v", clockText(m.now), r.name, was.Weight, was.CanaryOnly, is.Weight, is.CanaryOnly, marksText{after})
}

// tracePass notes what a replica saw.
func (m *machine) tracePass(r *replica, err error) {
	m.t.Logf("%s %s (leads: %v, idle: %v) saw %s: %v", clockText(m.now), r.name, r.leads, r.idle, worldText{r.saw}, err)
	m.t.Logf("           there is %s; fire: %v, it was told of %v", worldText{m.w}, alertsText(m.firing), alertsText(r.given))
}

type clockText time.Time

func (t clockText) String() string { return time.Time(t).Format("15:04:05") }

type marksText struct{ vs *unstructured.Unstructured }

func (t marksText) String() string { return fmt.Sprint(t.vs.GetAnnotations()) }

type alertsText map[string]decision.Alert

func (t alertsText) String() string { return fmt.Sprint(slices.Sorted(maps.Keys(t))) }

// recordText tells what is new in a record.
type recordText struct{ was, is decision.Record }

func (r recordText) String() string {
	s := r.is.Status
	var b strings.Builder
	fmt.Fprintf(&b, "%s %d%% build %s", s.State, s.Weight, s.Build)
	if s.Moving != nil {
		fmt.Fprintf(&b, ", moving %+v", *s.Moving)
	}
	if l := r.is.Lock; l != nil {
		fmt.Fprintf(&b, ", lock by %s (%s) since %s, refuses %v", l.By, l.Alert, l.Since.Format("15:04:05"), l.Refused)
	}
	if len(r.is.Refused) > 0 {
		fmt.Fprintf(&b, ", refused %v", r.is.Refused)
	}
	for _, h := range newest(r.was.History, r.is.History) {
		fmt.Fprintf(&b, "\n\t%s: %s", h.Event, h.Reason)
	}
	return b.String()
}

// worldText tells of a world's canary.
type worldText struct{ *world }

func (w worldText) String() string {
	if w.world == nil {
		return "nothing"
	}
	return fmt.Sprintf("templates %v (noise %d, %q) since %s, pods %v %v, stable %d", templatesIn(w.present), w.noise, w.kind, w.since.Format("15:04:05"), w.pods, w.lives, w.stable)
}

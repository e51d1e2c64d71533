package remediate

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
)

// events writes Kubernetes Events on the guards' VirtualServices, or on the record of a
// guard that has none. They are rate-limited and merged by their broadcaster: for
// people, not an audit log.
type events struct {
	namespace string
	sink      typedcorev1.EventInterface
	cast      record.EventBroadcaster
	to        record.EventRecorder
}

func newEvents(o Options) *events {
	cast := record.NewBroadcaster()
	return &events{
		namespace: o.Namespace, cast: cast, sink: o.EventClient.CoreV1().Events(o.Namespace),
		to: cast.NewRecorder(runtime.NewScheme(), corev1.EventSource{Component: "guardian", Host: o.Identity}),
	}
}

// run hands Events on. finish ends that when those that were told are written, or with
// its ctx.
func (e *events) run() (finish func(ctx context.Context)) {
	sink := &endingSink{EventSinkImpl: typedcorev1.EventSinkImpl{Interface: e.sink}, ended: make(chan struct{})}
	watch := e.cast.StartRecordingToSink(sink)
	return func(ctx context.Context) {
		e.to.Event(&corev1.ObjectReference{Kind: "Namespace", Name: e.namespace, Namespace: e.namespace}, corev1.EventTypeNormal, reasonEnd, "no further Events")
		select {
		case <-sink.ended:
		case <-ctx.Done():
		}
		watch.Stop()
		e.cast.Shutdown()
	}
}

// reasonEnd is of the last Event, which is written nowhere: the broadcaster hands Events
// on one after the other, and does not tell when it has done so.
const reasonEnd = "GuardianEnds"

// endingSink notes when the last Event has come.
type endingSink struct {
	typedcorev1.EventSinkImpl
	ended chan struct{}
}

func (s *endingSink) Create(event *corev1.Event) (*corev1.Event, error) {
	if event.Reason == reasonEnd {
		close(s.ended)
		return event, nil
	}
	return s.EventSinkImpl.Create(event)
}

// tell makes an Event of what was added to a guard's history.
func (e *events) tell(s snapshot, h decision.HistoryEntry) {
	kind := corev1.EventTypeNormal
	switch h.Event {
	case decision.EventRolledBack, decision.EventBlocked, decision.EventLocked, decision.EventReasserted, decision.EventUnverified, decision.EventNoted,
		decision.EventRefused, decision.EventUnreadable, decision.EventDisarmed, decision.EventUnguarded, decision.EventForeignLock,
		decision.EventWould, decision.EventWouldBlocked:
		kind = corev1.EventTypeWarning
	}
	reason := "Guardian"
	for part := range strings.SplitSeq(string(h.Event), "-") {
		reason += strings.ToUpper(part[:1]) + part[1:]
	}
	for _, about := range eventObjects(s) {
		e.to.Event(&about, kind, reason, describe(s.input.Guard, h))
	}
}

// eventObjects are what an Event of a guard is about.
func eventObjects(s snapshot) []corev1.ObjectReference {
	var out []corev1.ObjectReference
	for _, vs := range s.services {
		out = append(out, corev1.ObjectReference{APIVersion: vs.GetAPIVersion(), Kind: vs.GetKind(), Namespace: vs.GetNamespace(), Name: vs.GetName(),
			UID: vs.GetUID(), ResourceVersion: vs.GetResourceVersion()})
	}
	if len(out) > 0 {
		return out
	}
	g := s.input.Guard
	record := corev1.ObjectReference{APIVersion: "v1", Kind: "ConfigMap", Namespace: g.Namespace, Name: records.Name(g.Name)}
	if s.record != nil {
		record.UID, record.ResourceVersion = s.record.UID, s.record.ResourceVersion
	}
	return []corev1.ObjectReference{record}
}

// unknown writes one Event on the namespace and waits for it.
func (e *events) unknown(ctx context.Context, alertOf map[string]string, now time.Time) error {
	at := metav1.NewTime(now)
	_, err := e.sink.CreateWithEventNamespaceWithContext(ctx, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{GenerateName: "guardian-unknown-guard-", Namespace: e.namespace},
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Namespace", Name: e.namespace, Namespace: e.namespace},
		Type:           corev1.EventTypeWarning, Reason: "GuardianUnknownGuard",
		Message:        describeUnknown(alertOf),
		Source:         corev1.EventSource{Component: "guardian"},
		FirstTimestamp: at, LastTimestamp: at, Count: 1,
	})
	if err != nil {
		return fmt.Errorf("record alerts for %d unknown guards: %w", len(alertOf), err)
	}
	return nil
}

// describeUnknown names as many guards as an Event has room for: alertOf comes
// from whoever may send alerts, and is neither bounded nor checked.
func describeUnknown(alertOf map[string]string) string {
	const most, longest = 900, 100 // bytes of all names, and of one
	short := func(s string) string { return fmt.Sprintf("%q", s[:min(len(s), longest)]) }
	text, named := "", 0
	for _, guard := range slices.Sorted(maps.Keys(alertOf)) {
		one := short(guard) + " (alert " + short(alertOf[guard]) + ")"
		if named > 0 {
			one = ", " + one
		}
		if len(text)+len(one) > most {
			break
		}
		text, named = text+one, named+1
	}
	if left := len(alertOf) - named; left > 0 {
		text += fmt.Sprintf(" and %d more", left)
	}
	return "alerts ask for guards which guardian's configuration does not have, so nothing is rolled back: " + text
}

func describe(g decision.Guard, h decision.HistoryEntry) string {
	text := fmt.Sprintf("guard %s (%s): %s", g.Name, h.State, h.Reason)
	if h.From != h.To {
		text += fmt.Sprintf(" [canary %d%% → %d%%]", h.From, h.To)
	}
	if h.By != "" {
		text += " by " + h.By
	}
	return text
}

package remediate

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"pgregory.net/rapid"
)

// refusal is how the API server answers writes of one kind instead of taking
// them.
type refusal struct {
	what string // "record", "traffic" or "release"
	only string // of traffic: patches with an operation on such a path alone; empty: all
	left int    // so many writes; negative: for good
	err  error
	in   bool // the write is in all the same: only the answer was lost
}

// answers are what an API server can say to a write, by name.
var answers = map[string]error{
	"forbidden": apierrors.NewForbidden(virtualServiceResource.GroupResource(), "orders-service", fmt.Errorf("ValidatingAdmissionPolicy 'no' denied request")),
	"invalid": apierrors.NewInvalid(schema.GroupKind{Group: "networking.istio.io", Kind: "VirtualService"}, "orders-service",
		field.ErrorList{field.Invalid(field.NewPath("spec", "http").Index(7), "x", "another route is not valid")}),
	"bad request": apierrors.NewBadRequest(`admission webhook "validation.istio.io" denied the request: configuration is invalid`),
	"conflict":    apierrors.NewConflict(virtualServiceResource.GroupResource(), "orders-service", fmt.Errorf("the object has been modified")),
	"internal":    apierrors.NewInternalError(fmt.Errorf(`failed calling webhook "validation.istio.io": connection refused`)),
	"timeout":     context.DeadlineExceeded,
}

// definite are the answers that say for sure that a write was not taken, and
// that no further try of the same will be.
var definite = []string{"forbidden", "invalid", "bad request"}

func touches(ops []virtualservice.Op, part string) bool {
	return part == "" || slices.ContainsFunc(ops, func(o virtualservice.Op) bool { return strings.Contains(o.Path, part) })
}

// answer is what the API server says to a write before it takes it; in says
// that it takes it all the same.
func (m *machine) answer(what string, ops []virtualservice.Op) (err error, in bool) {
	for _, r := range m.refusals {
		if r.what != what || r.left == 0 || !touches(ops, r.only) {
			continue
		}
		r.left--
		m.unwritten = m.unwritten || what == "record"
		return conflictOr(r.err, "write %s", what), r.in
	}
	return nil, false
}

// refuse has the API server refuse a kind of write, once, for a while or for
// good.
func (m *machine) refuse(t *rapid.T) {
	name := rapid.SampledFrom([]string{"forbidden", "invalid", "bad request", "conflict", "internal", "timeout", "timeout"}).Draw(t, "answer")
	r := &refusal{
		what: rapid.SampledFrom([]string{"traffic", "traffic", "record", "release"}).Draw(t, "refused write"),
		left: rapid.SampledFrom([]int{1, 1, 2, 12, -1}).Draw(t, "times"),
		err:  answers[name],
	}
	if r.what == "traffic" {
		r.only = rapid.SampledFrom([]string{"", "", "/spec/http/0/", "mirror", "/metadata/annotations"}).Draw(t, "only with")
	}
	r.in = name == "timeout" && rapid.Bool().Draw(t, "the write is in")
	m.refusals = append(m.refusals, r)
}

// stand lets all calm down but what the API server refuses for good, and checks
// that it is told as it is.
func (m *machine) stand() {
	m.fault, m.meddle, m.down = nil, nil, false
	lasting := m.refusals[:0:0]
	for _, r := range m.refusals {
		if r.left < 0 && slices.ContainsFunc(definite, func(name string) bool { return answers[name] == r.err }) {
			lasting = append(lasting, r)
		}
	}
	m.refusals = lasting
	for range 4 {
		for _, r := range m.replicas {
			m.sync(r)
			m.pass(r)
		}
	}
	if m.w.cm == nil || !slices.ContainsFunc(m.replicas, func(r *replica) bool { return len(r.dead) == 0 }) {
		return
	}
	rec, t := m.parsed(), m.trafficOf(m.w.vs)
	refused := func(what, only string) *refusal {
		for _, r := range lasting {
			if r.what == what && r.only == only {
				return r
			}
		}
		return nil
	}
	if refused("record", "") != nil {
		m.checkUnrecorded(refused("traffic", "") != nil)
		return
	}
	if m.brakeOff() || rec.Lock == nil || m.w.stable < m.guard.Rollback.MinReadyStable || m.w.noSubset {
		return
	}
	whole := refused("traffic", "")
	switch {
	case whole != nil && !t.Clean():
		named := slices.ContainsFunc(lasting, func(r *refusal) bool { // what refuses annotations alone is not what is in the way
			return r.what == "traffic" && r.only != "/metadata/annotations" && strings.Contains(rec.Status.Reason, r.err.Error())
		})
		// One whose watch is dead takes something else for the reason, until the watch is known to be dead.
		misled := slices.ContainsFunc(m.replicas, func(r *replica) bool { return len(r.dead) > 0 })
		if rec.Status.State != decision.StateBlocked || !named && !misled {
			m.t.Fatalf("invariant 6: the write of traffic is refused (%v), and the record says %s: %s", whole.err, rec.Status.State, rec.Status.Reason)
		}
	case whole != nil:
	case t.Weight > 0 || t.Unsplit > 0:
		m.t.Fatalf("the canary has %+v, though the API server takes what gives its weight to stable; refused is %s", t, describeRefusals(lasting))
	case t.CanaryOnly > 0 && refused("traffic", "/spec/http/0/") == nil || t.Mirrors > 0 && refused("traffic", "mirror") == nil:
		m.t.Fatalf("what was not refused was not written: %+v; refused is %s", t, describeRefusals(lasting))
	case !t.Clean() && rec.Status.State != decision.StateBlocked:
		m.t.Fatalf("invariant 6: something still leads to the canary (%+v), and the record says %s: %s", t, rec.Status.State, rec.Status.Reason)
	}
}

// checkUnrecorded holds a guard whose record cannot be written against the
// alerts that fire: traffic is moved all the same.
func (m *machine) checkUnrecorded(trafficRefused bool) {
	rec, t := m.parsed(), m.trafficOf(m.w.vs)
	s := rec.Status
	safe := m.w.stable >= m.guard.Rollback.MinReadyStable && !m.w.noSubset
	if trafficRefused || !safe || m.brakeOff() || rec.Request != nil || t.Full() || m.w.templates() == 0 || s.Build != m.w.buildOf(m.w.templates()) || t.Weight == 0 {
		return
	}
	for _, r := range m.replicas {
		if len(r.dead) > 0 {
			continue
		}
		for _, a := range r.known {
			began := a.StartsAt
			if listed, ok := m.listed[a.Episode()]; ok && listed.Before(began) {
				began = listed // Prometheus's clock is ahead: it is of the build that there was when it was heard
			}
			past := began.Before(s.EnforcedAt) && !s.BuildSince.After(s.EnforcedAt)
			if a.Action == decision.ActionRollback && !past && !began.Before(s.BuildSince) && !began.Before(s.UnlockedAt) {
				m.t.Fatalf("invariant 1: %s fires and counts, the record cannot be written, and the canary has %+v", a.Name, t)
			}
		}
	}
}

// TestAnAlertOfAnEarlierBuildHoldsWhereTheRecordCannotBeWritten has Prometheus's clock be
// ahead, so that an alert has begun after a build by that clock alone.
func TestAnAlertOfAnEarlierBuildHoldsWhereTheRecordCannotBeWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMachineOf(t, routesSplit)
		m.skew, m.guard.Rollback.Lock = 5*time.Minute, decision.LockBuild
		for _, r := range m.replicas {
			r.guard.Rollback.Lock = decision.LockBuild
		}
		m.ciReplace(0)
		m.settle()
		m.later(time.Minute)
		m.pass(m.alert("alert"))
		m.look()
		m.later(time.Minute)
		m.release(2)
		m.look()
		m.later(time.Second)
		m.refusals = append(m.refusals, &refusal{what: "record", left: -1, err: answers["forbidden"]})
		m.ciApply(10)
		m.stand()
		if w := m.trafficOf(m.w.vs).Weight; w != 10 {
			t.Fatalf("it is of the build before, and has taken the canary to %d%%", w)
		}
	})
}

func describeRefusals(all []*refusal) string {
	var out []string
	for _, r := range all {
		out = append(out, r.what+" "+r.only)
	}
	return strings.Join(out, ", ")
}

// traffics are what the API server has had for traffic, at each of its versions.
type traffics struct {
	version int
	virtualservice.Traffic
}

// remember is called after each change of the VirtualService, by anybody.
func (m *machine) remember(vs *unstructured.Unstructured) {
	t := m.trafficOf(vs)
	m.truths = append(m.truths, traffics{m.w.version, t})
	switch {
	case !t.Full():
		if !m.full.IsZero() {
			m.unseen = m.full
		}
		m.full = time.Time{}
	case m.full.IsZero() && !m.unseen.IsZero():
		m.full = m.unseen // nobody has looked in between
	case m.full.IsZero():
		m.full = m.now
	}
}

// was says whether the API server has had traffic like that at or after a
// version.
func (m *machine) was(after int, like func(virtualservice.Traffic) bool) bool {
	for i, t := range slices.Backward(m.truths) {
		if like(t.Traffic) {
			return true
		}
		if t.version <= after || i == 0 {
			return false
		}
	}
	return false
}

// checkTold holds a record that a replica writes against what the API server has
// had: invariant 6. What its pass has seen was so when it was read, also where
// somebody has written since.
func (m *machine) checkTold(r *replica, old, cm *corev1.ConfigMap) {
	var was decision.Record
	if old != nil {
		was = m.parse(old)
	}
	is := m.parse(cm)
	if was.Lock == nil && is.Lock != nil || !isReturning(was) && isReturning(is) {
		m.lockedAt = m.w.version
	}
	if !isStepping(was) && isStepping(is) {
		m.steppedAt = m.w.version
	}
	rolledBackSince := min(m.lockedAt, r.began)
	putBackSince := r.began
	if was.Status.Moving != nil { // it was under way before
		putBackSince = rolledBackSince
	}
	m.checkReceipt(was.Receipt, is.Receipt, rolledBackSince)
	told := newest(was.History, is.History)
	for _, e := range told {
		switch {
		case e.Event == "rolled-back" && !m.was(rolledBackSince, virtualservice.Traffic.Clean):
			m.t.Fatalf("invariant 6: recorded as rolled back (%+v), and the canary has had %+v ever since version %d", e, m.trafficOf(m.w.vs), rolledBackSince)
		case e.Event == "reasserted" && !m.was(putBackSince, virtualservice.Traffic.Clean):
			m.t.Fatalf("invariant 6: recorded as put back (%+v), and the canary has had %+v ever since version %d", e, m.trafficOf(m.w.vs), putBackSince)
		case e.Event == "step" && !m.was(m.steppedAt, func(t virtualservice.Traffic) bool { return t.Weight >= e.To }):
			m.t.Fatalf("invariant 6: recorded as a step (%+v), and the canary has never had that since version %d: %+v", e, m.steppedAt, m.truths)
		}
	}
	if is.Status.State == decision.StateRolledBack && was.Status.State != decision.StateRolledBack && !m.was(rolledBackSince, virtualservice.Traffic.Clean) {
		m.t.Fatalf("invariant 6: state %s (%s), and the canary has had %+v ever since version %d", is.Status.State, is.Status.Reason, m.trafficOf(m.w.vs), rolledBackSince)
	}
}

// after is what Prometheus says of a rollback when it is asked. That rollback is over.
func (m *machine) after(_ context.Context, _ snapshot, r decision.Receipt) decision.After {
	switch {
	case !r.Open || r.Written.IsZero() || r.Written.After(m.now):
		m.t.Fatalf("invariant 6: at %s it is asked what shows after a rollback that is not over: %+v", m.now, r)
	case !m.prom:
		return decision.After{Err: "Prometheus does not answer"}
	}
	return decision.After{Felt: m.now, Counted: true, Requests: m.requests()}
}

// checkReceipt holds a receipt that a record has gained against the traffic.
func (m *machine) checkReceipt(was, is *decision.Receipt, since int) {
	if is == nil || was != nil && was.Written.Equal(is.Written) {
		return
	}
	if !m.was(since, virtualservice.Traffic.Clean) {
		m.t.Fatalf("invariant 6: the receipt says that the canary's weight was taken at %s (%+v), and it has had %+v ever since version %d", is.Written, is, m.trafficOf(m.w.vs), since)
	}
}

// newest are the entries that a history has gained.
func newest(was, is []decision.HistoryEntry) []decision.HistoryEntry {
	if len(is) < len(was) {
		return nil
	}
	return is[len(was):]
}

// checkMarks holds the annotations that a patch of guardian's has changed
// against the traffic that the VirtualService has with it: invariant 6.
func (m *machine) checkMarks(before, after *unstructured.Unstructured) {
	a := after.GetAnnotations()
	if b := before.GetAnnotations(); a[decision.AnnotationState] == b[decision.AnnotationState] && a[decision.AnnotationReason] == b[decision.AnnotationReason] {
		return
	}
	t := m.trafficOf(after)
	wrong := false
	switch decision.State(a[decision.AnnotationState]) {
	case decision.StateRolledBack:
		wrong = !t.Clean()
	case decision.StateIdle:
		wrong = t.Weight > 0
	case decision.StateShifting, decision.StateHeld:
		wrong = t.Weight == 0 && t.Clean() || t.Full()
	case decision.StatePromoted, decision.StateUnverified, decision.StateCompleted:
		wrong = !t.Full()
	}
	if wrong {
		m.t.Fatalf("invariant 6: the VirtualService says %s (%s), and the canary has %+v", a[decision.AnnotationState], a[decision.AnnotationReason], t)
	}
}

// checkEvents holds what Events and counters tell against the record that the
// API server has: invariant 6.
func (m *machine) checkEvents(d decision.Decision) {
	history := m.parsed().History
	for _, e := range d.Added {
		if !slices.ContainsFunc(history, func(h decision.HistoryEntry) bool {
			_, last := h.Count() // it came again, and counts there
			return h.Event == e.Event && !e.At.Before(h.At) && !e.At.After(last) && h.Reason == e.Reason
		}) {
			m.t.Fatalf("invariant 6: told, and not in the record: %+v", e)
		}
	}
}

// isReturning and isStepping say that a record tells of a change of weights
// that has been decided on and not been seen yet.
func isReturning(r decision.Record) bool { return r.Status.Moving.RollsBack() }

func isStepping(r decision.Record) bool { return r.Status.Moving != nil && r.Status.Moving.Step > 0 }

// editRecord is what a person can do to a record by hand: a key that cannot be
// read any more, or no record.
func (m *machine) editRecord(t *rapid.T) {
	if m.w.cm == nil {
		return
	}
	m.heard, m.edited = nil, true // what told of them may be gone
	if rapid.IntRange(0, 3).Draw(t, "deleted") == 0 {
		m.w.cm = nil
		m.loseAsked()
		m.w.next()
		m.forget()
		m.blamed = map[int]bool{}
		return
	}
	cm := m.w.cm.DeepCopy()
	key := rapid.SampledFrom([]string{decision.KeyStatus, decision.KeyHistory, decision.KeyLock, decision.KeyChanged}).Draw(t, "key")
	if key == decision.KeyStatus {
		m.loseAsked()
		m.forget()
	}
	m.garbled = m.garbled || key == decision.KeyLock
	cm.Data[key] = rapid.SampledFrom([]string{`{"weight":`, `[7]`, `"x"`}).Draw(t, "text")
	cm.ResourceVersion = m.w.next()
	m.w.cm = cm
}

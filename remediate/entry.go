package remediate

import (
	"context"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"go.opentelemetry.io/otel/trace"
)

// entry is what a Controller holds in memory for a guard: nothing that has to
// survive.
type entry struct {
	guard   decision.Guard
	pending map[string]submitted // accepted alerts by episode, not recorded yet
	waiters []chan error
	sides   decision.Sides
	record  decision.Record // lock, status and receipt alone
	seen    bool
	failing failure // of the last pass
	removed bool
	// unrecorded is why record's lock is not in the API server's; empty: it is.
	unrecorded string
	// preempt ends a question to Prometheus or Alertmanager that a pass waits
	// for: an alert has come or a person asks for a rollback, which waits for
	// nobody's answer.
	preempt   context.CancelFunc
	preempted bool // nor for one that is yet to be asked in this pass
	// alertedAt is when the alert of a rollback came in that is not done yet; zero: none is
	// under way, or it did not come in here.
	alertedAt time.Time
}

type submitted struct {
	alert    decision.Alert
	received time.Time
	from     trace.SpanContext // in which it came in; invalid: it is not traced
}

// received notes on an alert when it came in.
func received(alerts []decision.Alert, s submitted) []decision.Alert {
	for i := range alerts {
		if alerts[i].Episode() == s.alert.Episode() {
			alerts[i].Received = s.received
		}
	}
	return alerts
}

// rolledBackFrom is when the alert came in of a rollback that a pass has done; zero: it
// has done none, or that alert has not come in here. What was refused, or was not safe,
// is done by a later pass than the one that was given the alert. A pass that has failed
// may have seen nothing of it.
func (e *entry) rolledBackFrom(out outcome, pending map[string]submitted, failed bool) time.Time {
	d := out.decision
	m := d.Record.Status.Moving
	if !m.RollsBack() || m.Again {
		if !failed {
			e.alertedAt = time.Time{}
		}
		return time.Time{}
	}
	for _, s := range pending {
		if l := d.Record.Lock; e.alertedAt.IsZero() && (l == nil || l.Fingerprint == s.alert.Fingerprint) {
			e.alertedAt = s.received
		}
	}
	if !out.done || d.Move != decision.MoveStable {
		return time.Time{}
	}
	from := e.alertedAt
	e.alertedAt = time.Time{}
	return from
}

// View is one guard as a Controller last saw it.
type View struct {
	Name   string          `json:"name"`
	Lock   *decision.Lock  `json:"lock,omitempty"`
	Status decision.Status `json:"status"`
	// Receipt is of its last rollback; nil: none is known.
	Receipt *decision.Receipt `json:"receipt,omitempty"`
	// Unrecorded is why the record lacks Lock, whose rollback was done; empty: it has it.
	Unrecorded string `json:"unrecorded,omitempty"`
	// Failing is why the last pass failed, which may have seen and done less than Status
	// tells of; empty: it did not fail.
	Failing string `json:"failing,omitempty"`
	Seen    bool   `json:"seen"` // false: not looked at since this replica started
}

func (e *entry) view(name string) View {
	r := e.record.Clone()
	return View{Name: name, Lock: r.Lock, Status: r.Status, Receipt: r.Receipt, Unrecorded: e.unrecorded, Failing: e.failing.shown(), Seen: e.seen}
}

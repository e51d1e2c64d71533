package records

import (
	"fmt"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
)

// HandedOver is an orphan's record whose lock is another guard's now.
func HandedOver(r decision.Record, heir string, now time.Time) decision.Record {
	r = r.Clone()
	s := &r.Status
	s.State, s.Since, s.LiftedAt, s.Reason = decision.StateIdle, now, now, "its lock stands on as that of guard "+heir
	if r.Lock.Since.After(now) {
		s.LiftedAt = r.Lock.Since
	}
	if s.Weight > 0 {
		s.State = decision.StateShifting
	}
	r.Lock, r.VirtualServices, r.Message = nil, nil, ""
	r.Denies(nil, nil, decision.Rollback{})
	r.History = append(r.History, decision.HistoryEntry{At: now, State: s.State, Event: decision.EventUnlocked, From: s.Weight, To: s.Weight, Build: s.Build, Reason: s.Reason})
	return r
}

// Orphaned is the record of a guard that is not managed from now on.
func Orphaned(r decision.Record, guard string, now time.Time) decision.Record {
	r = r.Clone()
	s := &r.Status
	entry := func(event decision.Event, by, why string) {
		r.History = append(r.History, decision.HistoryEntry{At: now, State: s.State, Event: event, By: by, From: s.Weight, To: s.Weight, Build: s.Build, Reason: why})
	}
	s.Orphaned = now
	s.ClearSteps()
	s.Mode, s.Steps = "", nil
	entry(decision.EventOrphaned, "", OrphanText(guard, now))
	refuse := func(id, by string, action decision.RequestAction) string {
		text := string(action) + " refused: " + OrphanText(guard, now)
		r.Answer(decision.Answer{ID: id, Action: action, By: by, Result: decision.ResultRefused, At: now, Text: text})
		return text
	}
	if q := r.Request; q != nil {
		by := decision.Shorten(q.By)
		entry(decision.EventRefused, by, refuse(q.ID, by, decision.RequestAction(decision.Shorten(string(q.Action)))))
		r.Request = nil
	}
	if m := s.Moving; m != nil {
		for _, a := range m.Requests {
			refuse(a.ID, a.By, m.Action())
		}
		m.Requests = nil
	}
	return r
}

// OrphanText says of a guard that it is no longer managed.
func OrphanText(guard string, since time.Time) string {
	return fmt.Sprintf("guard %s is not in guardian's configuration (seen at %s): it is no longer managed", guard, decision.Stamp(since))
}

package decision

import (
	"fmt"
	"time"
)

// readRequest takes a person's request off the record.
func (d *decider) readRequest() {
	if d.rec.Request == nil {
		return
	}
	q := new(*d.rec.Request)
	q.Action, q.By, q.Reason = RequestAction(Shorten(string(q.Action))), Shorten(q.By), Shorten(q.Reason)
	if q.Bad != "" {
		d.note(EventRefused, q.By, "request refused: "+q.Bad)
		d.rec.Request = nil
		return
	}
	if d.observing() && (q.Action == RequestRollback || q.Action == RequestPromote) {
		d.note(EventRefused, q.By, string(q.Action)+" refused: mode observe writes no VirtualService; set mode: enforce, or move the traffic yourself")
		d.rec.Request = nil
		return
	}
	switch q.Action {
	case RequestPause:
		d.pauseOn(q)
	case RequestDisarm:
		d.disarmOn(q)
	case RequestArm:
		d.disarmOff(q)
	case RequestResume:
		if !d.in.Live { // more may move afterwards than before
			d.wantLive = true
			return
		}
		d.pauseOff(q)
	case RequestUnlock:
		if !d.in.Live {
			d.wantLive = true
			return
		}
		d.unlockByPerson(q)
	case RequestRollback:
		if d.disarmed() {
			d.arm(q.By, "a rollback was asked for: "+q.Reason)
		}
		d.asked = q
	case RequestPromote:
		switch {
		case d.in.Busy: // it stays on the record
			d.requeueAt(d.now.Add(pollBusy))
			return
		case !d.in.Live:
			d.wantLive = true
			return
		}
		d.asked = q
	case RequestMarkWrong:
		d.mark(q, EventMarkedWrong)
	case RequestMarkRight:
		d.mark(q, EventMarkedRight)
	default:
		d.note(EventRefused, q.By, fmt.Sprintf("request %q refused: want rollback, unlock, pause, resume, promote, disarm, arm, mark-wrong or mark-right", q.Action))
	}
	d.rec.Request = nil
}

func (d *decider) unlockByPerson(q *Request) {
	if d.rec.Lock == nil {
		d.note(EventRefused, q.By, "unlock refused: "+d.in.Guard.Name+" is not locked")
		return
	}
	d.allowBuild(d.rec.Lock.Refused...)
	d.lift(EventUnlocked, q.By, q.Reason)
	// What fires now is what the person knows of: it counts no more than an
	// alert of an earlier build. A lock that a new build lifts needs no such
	// pardon, for the build has its own beginning.
	d.rec.Status.UnlockedAt = d.now
}

// mark notes what a person says of a rollback of the past. Nothing is decided by it.
func (d *decider) mark(q *Request, as Event) {
	for e := range d.rec.NewestFirst() {
		if e.At.Equal(q.Of) && (e.Event == EventRolledBack || e.Event == EventWould) {
			d.note(as, q.By, q.Reason)
			d.rec.History[len(d.rec.History)-1].Of = e.At
			return
		}
	}
	d.note(EventRefused, q.By, string(q.Action)+" refused: the history has no rollback, and none that would have been one, at "+q.Of.Format(time.RFC3339Nano))
}

// dropAsked records that a person's request is not carried out.
func (d *decider) dropAsked(why string) {
	if d.asked != nil {
		d.note(EventRefused, d.asked.By, string(d.asked.Action)+" refused: "+why)
		d.asked = nil
	}
}

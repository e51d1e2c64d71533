package decision

import (
	"fmt"
	"time"
)

// readRequest takes a person's request off the record, unless it has to wait there.
func (d *decider) readRequest() {
	if d.rec.Request == nil {
		return
	}
	q := new(*d.rec.Request)
	q.Action, q.By, q.Reason = RequestAction(Shorten(string(q.Action))), Shorten(q.By), Shorten(q.Reason)
	m := d.rec.Status.Moving
	if other := d.rec.answered(q.ID) || m.hasID(q.ID) && !m.Carries(*q); q.Bad == "" && other {
		q.Bad = fmt.Sprintf("key %s is %q, which another request had: want one of its own", KeyRequestID, q.ID)
		q.ID = ""
	}
	if why := d.cannotRead(*q); why != "" {
		d.refuseRequest(q, why)
	} else if !d.carryOut(q) {
		return
	}
	d.rec.Request = nil
	d.answerReplaced(*q)
}

// cannotRead says why a request is refused whatever else there is, or "".
func (d *decider) cannotRead(q Request) string {
	switch {
	case q.Bad != "":
		return "request refused: " + q.Bad
	case d.observing() && (q.Action == RequestRollback || q.Action == RequestPromote):
		return string(q.Action) + " refused: mode observe writes no VirtualService; set mode: enforce, or move the traffic yourself"
	case q.Action == RequestPromote && d.now.Sub(q.At) > staleAfter:
		return fmt.Sprintf("promote refused: it was asked for at %s, more than %v ago; ask again if it is still meant", Stamp(q.At), staleAfter)
	}
	return ""
}

// staleAfter is when a step that was asked for is not what anybody expects any more: the
// command that waits takes its request back, but one that was killed cannot. It is so
// long because the person's clock may be another.
const staleAfter = time.Hour

// carryOut does what a request asks for, or has it done by what becomes of the
// traffic; false: it waits on the record.
func (d *decider) carryOut(q *Request) bool {
	if more := q.Action == RequestResume || q.Action == RequestUnlock; more && !d.in.Live {
		d.wantLive = true // more may move afterwards than before
		return false
	}
	switch q.Action {
	case RequestPause:
		d.pauseOn(q)
	case RequestDisarm:
		d.disarmOn(q)
	case RequestArm:
		d.disarmOff(q)
	case RequestResume:
		d.pauseOff(q)
	case RequestUnlock:
		d.unlockByPerson(q)
	case RequestRollback:
		if d.disarmed() {
			d.arm(q.By, "a rollback was asked for: "+q.Reason)
		}
		d.asked, d.taken = q, q
	case RequestPromote:
		return d.askPromote(q)
	case RequestMarkWrong:
		d.mark(q, EventMarkedWrong)
	case RequestMarkRight:
		d.mark(q, EventMarkedRight)
	default:
		d.refuseRequest(q, fmt.Sprintf("request %q refused: want rollback, unlock, pause, resume, promote, disarm, arm, mark-wrong or mark-right", q.Action))
	}
	return true
}

func (d *decider) askPromote(q *Request) bool {
	switch {
	case d.in.Busy:
		d.requeueAt(d.now.Add(pollBusy))
		return false
	case !d.in.Live:
		d.wantLive = true
		return false
	}
	d.asked, d.taken = q, q
	return true
}

func (d *decider) unlockByPerson(q *Request) {
	switch l := d.rec.Lock; {
	case l == nil:
		d.refuseRequest(q, "unlock refused: "+d.in.Guard.Name+" is not locked")
		return
	case !q.Of.IsZero() && Stamp(q.Of) != Stamp(l.Since): // nobody has looked at this one
		d.refuseRequest(q, fmt.Sprintf("unlock refused: the lock is of %s, the unlock of what stood at %s; look at status, and ask again", Stamp(l.Since), Stamp(q.Of)))
		return
	}
	d.allowBuild(d.rec.Lock.Refused...)
	d.lift(EventUnlocked, q.By, q.Reason)
	d.taken = q // whether the lock stays away shows when all is decided
	// What fires now is what the person knows of: it counts no more than an
	// alert of an earlier build. A lock that a new build lifts needs no such
	// pardon, for the build has its own beginning.
	d.rec.Status.UnlockedAt = d.now
}

// mark notes what a person says of a rollback of the past. Nothing is decided by it.
func (d *decider) mark(q *Request, as Event) {
	for e := range d.rec.NewestFirst() {
		if e.At.Equal(q.Of) && e.Event.IsRollback() {
			d.fulfil(q, as, q.Reason)
			d.rec.History[len(d.rec.History)-1].Of = e.At
			return
		}
	}
	d.refuseRequest(q, string(q.Action)+" refused: the history has no rollback, and none that would have been one, at "+q.Of.Format(time.RFC3339Nano))
}

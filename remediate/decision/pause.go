package decision

import (
	"cmp"
	"fmt"
	"time"
)

// DefaultDisarmMax is for how long a guard may be disarmed at most, unless its
// configuration says otherwise.
const DefaultDisarmMax = 24 * time.Hour

func (d *decider) paused() bool { return d.rec.Status.PausedText() != "" }

// disarmed says whether a person has taken the brake off.
func (d *decider) disarmed() bool { return d.rec.Status.Disarmed != nil }

// endDisarm puts the brake on again when its time has come. That is for every
// replica to do: the first whose clock says so. What is recorded need not be what
// disarmOn has let pass: whoever may write to the record can have written it.
func (d *decider) endDisarm() {
	x := d.rec.Status.Disarmed
	if x == nil {
		return
	}
	if x.At.Sub(d.now) > ClockTolerance { // by a clock that was ahead
		x.At, x.Until = d.now, d.now.Add(x.Until.Sub(x.At))
	}
	if longest := x.At.Add(d.disarmMax()); x.Until.After(longest) {
		x.Until = longest
	}
	switch {
	case x.At.IsZero():
		d.arm("", x.By+"'s disarm does not say when it began, so that it has no end: an alert that fires rolls back again")
	case !d.now.Before(x.Until):
		d.arm("", "the time of "+x.By+"'s disarm is over: an alert that fires rolls back again")
	}
}

// disarmMax is for how long the guard may be disarmed at most.
func (d *decider) disarmMax() time.Duration { return cmp.Or(d.in.Guard.DisarmMax, DefaultDisarmMax) }

func (d *decider) arm(by, why string) {
	d.rec.Status.Disarmed = nil
	d.note(EventArmed, by, why)
}

// pauseOn, pauseOff, disarmOn and disarmOff are what a person asked for.
func (d *decider) pauseOn(q *Request) {
	d.rec.Status.Paused = &Pause{By: q.By, Reason: q.Reason, At: d.now}
	d.fulfil(q, EventPaused, q.Reason)
}

func (d *decider) pauseOff(q *Request) {
	if d.in.Paused {
		d.refuseRequest(q, "resume refused: annotation "+AnnotationPaused+" stands on the VirtualService; remove it first")
		return
	}
	d.rec.Status.Paused = nil
	d.fulfil(q, EventResumed, q.Reason)
}

func (d *decider) disarmOn(q *Request) {
	// The time asked for is told by one clock alone; what is left of it when two
	// do not agree is the shorter one.
	asked, longest := q.Until.Sub(q.At), d.disarmMax()
	end := d.now.Add(asked)
	if q.Until.Before(end) {
		end = q.Until
	}
	why := ""
	switch {
	case q.Until.IsZero():
		why = "it has no end (" + KeyRequestUntil + "): a disarm ends by itself"
	case asked <= 0:
		why = "its end " + Stamp(q.Until) + " is not after " + Stamp(q.At) + ", when it was asked for"
	case asked > longest:
		why = fmt.Sprintf("%s is longer than disarm.max, %s", asked, longest)
	case !end.After(d.now):
		why = "its end " + Stamp(q.Until) + " has passed"
	}
	if why != "" {
		d.refuseRequest(q, "disarm refused: "+why)
		return
	}
	d.rec.Status.Disarmed = &Disarm{By: q.By, Reason: q.Reason, At: d.now, Until: end}
	d.fulfil(q, EventDisarmed, "no rollback until "+Stamp(end)+": "+q.Reason)
}

func (d *decider) disarmOff(q *Request) {
	d.rec.Status.Disarmed = nil
	d.fulfil(q, EventArmed, q.Reason)
}

// watchOnly is a pass over a disarmed guard: what is seen is recorded, and
// nothing moves. A lock stands as it stood.
func (d *decider) watchOnly() choice {
	x := *d.rec.Status.Disarmed
	if !d.turned() { // what is read is of another pair
		d.takeWeight() // also under a lock, where others pass over it
	}
	d.dropAsked("disarmed")
	for _, a := range d.rollback {
		d.noteAlert(a, "not rolled back: "+x.Text())
	}
	d.requeueAt(x.Until)
	return choice{state: StateDisarmed, reason: ReasonDisarmed, text: x.Text()}
}

// showPause has a guard that could go forward say that it does not.
func (d *decider) showPause(c choice) choice {
	if d.paused() && (c.state == StateIdle || c.state == StateShifting) {
		c.state, c.reason = StatePaused, ReasonPaused
		c.text = d.rec.Status.PausedText() + "; " + c.text
	}
	return c
}

package decision

import "fmt"

// confirm tells of a rollback that the canary's traffic shows to be done.
func (d *decider) confirm() {
	m := d.rec.Status.Moving
	if !m.RollsBack() {
		return
	}
	event := EventRolledBack
	if m.Again {
		event = EventReasserted
	}
	e := d.entry(event, m.By, m.Reason)
	e.Alert, e.From, e.To = m.Alert, m.From, 0
	if m.Receipt != nil && m.By == ByAlert && !m.Again {
		e.Fired = m.Receipt.Fired
	}
	d.rec.History = append(d.rec.History, e)
	if !m.Again {
		d.keepReceipt(m)
	}
	d.endMoving(ResultDone, string(event)+": "+m.Reason)
	d.signal = m.Signal
}

// confirmStep tells of a step that the canary's traffic shows to be done.
func (d *decider) confirmStep() {
	m := d.rec.Status.Moving
	if m == nil || m.Step == 0 {
		return
	}
	e := d.entry(EventStep, m.By, fmt.Sprintf("step to %d%%", m.Step))
	e.From, e.To = m.From, m.Step
	d.rec.History = append(d.rec.History, e)
	d.endMoving(ResultDone, string(EventStep)+": "+e.Reason)
}

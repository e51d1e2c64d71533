package decision

// entry is one of the history, with the weights that the record tells of and those that are.
func (d *decider) entry(event Event, by, why string) HistoryEntry {
	e := HistoryEntry{At: d.now, Event: event, By: by, From: d.was.Status.Weight, To: d.in.Traffic.Weight,
		Build: d.rec.Status.Build, Reason: why}
	if d.ofAnother() {
		e.From = e.To // nothing has gone from the one to the other
	}
	return e
}

// note adds to the history. The state is filled in when it is known.
func (d *decider) note(event Event, by, why string) {
	d.rec.History = append(d.rec.History, d.entry(event, by, why))
}

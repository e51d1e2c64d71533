package decision

// countRequests has the canary's requests counted. What was counted over a time is
// kept while nobody answers.
func (d *decider) countRequests(counted Tally, over Counted) {
	d.wantCount = true
	d.requeueAt(d.now.Add(PollCount))
	switch c := d.in.Count; {
	case d.in.Busy || c.Asked && !c.Known:
		d.rec.Status.setTally(counted, over)
	case c.Asked && !d.countsAnew():
		d.count(Tally{c.Requests, c.Failed, c.Latency})
	}
	if d.in.Busy {
		d.requeueAt(d.now.Add(pollBusy))
	}
}

// countsAnew says that this pass first sees the weights, or the build, that requests
// count for from now on: what it has been told was counted for those before.
func (d *decider) countsAnew() bool {
	moved := d.rec.Status.MovedAt
	return moved.Equal(d.now) && !moved.Equal(d.was.Status.MovedAt)
}

// forward is what was asked for a step, with the requests that count for it.
func (d *decider) forward() Forward {
	f := *d.in.Forward
	if d.countsAnew() {
		f.Requests = 0
		return f
	}
	d.count(Tally{f.Requests, f.Failed, f.Latency})
	return f
}

// count takes down what Prometheus has just counted. As long as the numbers are
// those of an earlier count at these weights, so is the time: each write of the
// record has every replica look again.
func (d *decider) count(t Tally) {
	s, over := &d.rec.Status, Counted{Since: d.in.CountSince(d.now), At: d.now}
	future := s.MovedAt.After(d.now) // by another replica's clock: no count is of these weights by it
	if before, was := d.was.Status.tally(); before == t && !was.At.IsZero() && (future || !was.Since.Before(s.MovedAt)) {
		over = was
	}
	s.setTally(t, over)
}

package decision

// Quiet says that nothing goes on with a guard: no alert fires, the canary gets
// nothing, or has all traffic and has stood its rollback window out, its build is
// the one that the record tells of, and there is nothing to write, to give back or
// to wait for. Alerts, requests, traffic and pods tell when that ends.
func (in Input) Quiet() bool {
	if in.hasNews() || in.lacksSomething() || in.isOwed() || in.goesOn() {
		return false
	}
	switch st := in.Record.Status; st.State {
	case StateIdle:
		return in.Traffic.Clean()
	case StateCompleted:
		return in.Traffic.Weight == st.Weight
	}
	return false
}

// hasNews says that an alert fires, or that the canary is of another build than the
// record's, or of one that nothing tells.
func (in Input) hasNews() bool {
	st := in.Record.Status
	build := in.Canary.as(st.Revisions, st.Build).Build
	return len(in.Alerts) > 0 || len(in.Canary.Untold) > 0 || build != "" && build != st.Build
}

// lacksSomething says that part of what the guard is about is not there, or cannot be
// read or rewritten.
func (in Input) lacksSomething() bool {
	return len(in.Unreadable) > 0 || in.Absent != "" || in.Gone != "" || in.Unsafe != "" || in.Stable.Missing != ""
}

// isOwed says that somebody waits for an answer, or that a rollback stands or has left
// something to be given back.
func (in Input) isOwed() bool {
	was := in.Record
	return was.Lock != nil || was.Request != nil || len(was.Changed) > 0 || in.Marked != nil || in.Owned || in.Owed
}

// goesOn says that weights are being changed, or that a person, or another guard's
// lock, keeps them from being.
func (in Input) goesOn() bool {
	st := in.Record.Status
	return st.Moving != nil || st.Paused != nil || st.Disarmed != nil || in.Paused || len(in.Outside.Locks) > 0
}

package decision

// Quiet says that nothing goes on with a guard: no alert fires, the canary gets
// nothing, or has all traffic and has stood its rollback window out, its build is
// the one that the record tells of, and there is nothing to write, to give back or
// to wait for. Alerts, requests, traffic and pods tell when that ends.
func (in Input) Quiet() bool {
	was, st := in.Record, in.Record.Status
	build := in.Canary.as(st.Revisions, st.Build).Build
	switch {
	case len(in.Alerts) > 0 || len(in.Canary.Untold) > 0 || build != "" && build != st.Build:
		return false
	case len(in.Unreadable) > 0 || in.Absent != "" || in.Gone != "" || in.Unsafe != "" || in.Stable.Missing != "":
		return false
	case was.Lock != nil || was.Request != nil || len(was.Changed) > 0 || in.Marked != nil || in.Owned || in.Owed:
		return false
	case st.Moving != nil || st.Paused != nil || st.Disarmed != nil || in.Paused || len(in.Outside.Locks) > 0:
		return false
	case st.State == StateIdle:
		return in.Traffic.Clean()
	case st.State == StateCompleted:
		return in.Traffic.Weight == st.Weight
	}
	return false
}

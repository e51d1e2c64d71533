package decision

import (
	"testing"

	"github.com/canary-guardian/guardian/remediate/virtualservice"
)

func TestQuietIsAGuardThatNothingGoesOnWith(t *testing.T) {
	idle := func() Input {
		return Input{Canary: Workload{Build: "b1-x", Builds: []string{"b1-x"}}, Record: Record{Status: Status{State: StateIdle, Build: "b1-x"}}}
	}
	done := func() Input {
		in := idle()
		in.Record.Status.State, in.Record.Status.Weight, in.Traffic.Weight = StateCompleted, 100, 100
		return in
	}
	if !idle().Quiet() || !done().Quiet() {
		t.Errorf("idle %v, completed %v; want both quiet", idle().Quiet(), done().Quiet())
	}
	scaledDown := idle()
	scaledDown.Canary = Workload{}
	if !scaledDown.Quiet() {
		t.Error("a canary without pods is not quiet")
	}
	for name, change := range map[string]func(*Input){
		"an alert":                      func(in *Input) { in.Alerts = []Alert{{}} },
		"traffic":                       func(in *Input) { in.Traffic.Weight = 10 },
		"testers' traffic":              func(in *Input) { in.Traffic.CanaryOnly = 1 },
		"another build":                 func(in *Input) { in.Canary.Build, in.Canary.Builds = "b1-y", []string{"b1-y"} },
		"a pod of who knows what":       func(in *Input) { in.Canary.Untold = []string{"p"} },
		"no VirtualService":             func(in *Input) { in.Absent = "it does not exist" },
		"a VirtualService less":         func(in *Input) { in.Gone = "one does not exist" },
		"a route that cannot be set":    func(in *Input) { in.Unsafe = "why" },
		"no stable":                     func(in *Input) { in.Stable.Missing = "no subset" },
		"a record that cannot be read":  func(in *Input) { in.Unreadable = []string{"lock"} },
		"a lock":                        func(in *Input) { in.Record.Lock = &Lock{} },
		"a lock's annotation":           func(in *Input) { in.Marked = &LockAnnotation{} },
		"another's lock":                func(in *Input) { in.Outside.Locks = []string{"x"} },
		"a request":                     func(in *Input) { in.Record.Request = &Request{} },
		"something to give back":        func(in *Input) { in.Record.Changed = []virtualservice.Change{{}} },
		"marks of a rollback":           func(in *Input) { in.Owned = true },
		"a pause by annotation":         func(in *Input) { in.Paused = true },
		"a move under way":              func(in *Input) { in.Record.Status.Moving = &Moving{} },
		"the first sight of it":         func(in *Input) { in.Record.Status.State = StateUnknown },
		"a state with something to do":  func(in *Input) { in.Record.Status.State = StateRolledBack },
		"a canary that is being braked": func(in *Input) { in.Record.Status.State = StateShifting },
	} {
		in := idle()
		if change(&in); in.Quiet() {
			t.Errorf("with %s it is quiet", name)
		}
	}
	back := done()
	if back.Traffic.Weight = 50; back.Quiet() {
		t.Error("a completed canary that was taken back is quiet")
	}
}

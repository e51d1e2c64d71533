package decision

import (
	"fmt"
	"slices"
	"testing"

	"github.com/canary-guardian/guardian/remediate/virtualservice"
)

func TestNoStepIsTakenUnderALockOfSomebodyElse(t *testing.T) {
	locked := func(in *Input) {
		in.Outside = Outside{UserKnown: true, Locks: []string{"VirtualService orders: annotation canary-guardian.io/lock.x (by a:b, since 2026)"}}
	}
	told := func(in *Input) { in.Record.Status.ForeignLocks = in.Outside.Locks }
	runRows(t, map[string]row{
		"new":          {[]but{advancing(10), locked}, withAdded(stays(StateShifting, PollCount), "foreign-lock: 10→10"), ""},
		"told already": {[]but{advancing(10), locked, told}, stays(StateShifting, PollCount), "waiting: VirtualService orders: annotation canary-guardian.io/lock.x (by a:b, since 2026): a lock that this guardian did not write"},
		"gone":         {[]but{advancing(10), locked, told, func(in *Input) { in.Outside.Locks = nil }}, stepTo(StateShifting, 10, 30), ""},
	})
}

func TestWhatIsOutsideIsTheLeaseHoldersToTell(t *testing.T) {
	in := Input{Leads: true, Outside: Outside{Known: true, Unguarded: []string{"VirtualService a/b (30%)"}}}
	for _, c := range []struct {
		name   string
		leads  bool
		before []string
		notes  int
		after  []string
	}{
		{"new", true, nil, 1, in.Outside.Unguarded},
		{"another share of the same", true, []string{"VirtualService a/b (10%)"}, 0, in.Outside.Unguarded},
		{"another name", true, []string{"VirtualService a/c (30%)"}, 1, in.Outside.Unguarded},
		{"another replica", false, []string{"VirtualService a/c (30%)"}, 0, []string{"VirtualService a/c (30%)"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := in
			in.Leads = c.leads
			in.Record.Status = Status{State: StateIdle, Outsiders: Outsiders{Unguarded: c.before}}
			d := Decide(in, at)
			if got := d.Record.Status.Unguarded; len(d.Added) != c.notes || !slices.Equal(got, c.after) {
				t.Errorf("status %q, added %v; want %q and %d", got, d.Added, c.after, c.notes)
			}
		})
	}
}

func TestAFullListOfWhatIsOutsideComesToRest(t *testing.T) {
	in := Input{Leads: true, Guard: Guard{Canary: virtualservice.Ref{Subset: "v2"}}, Outside: Outside{Known: true}}
	for i := range maxOutside + 1 {
		in.Outside.Unguarded = append(in.Outside.Unguarded, fmt.Sprintf("VirtualService a/%d (30%%)", i))
	}
	in.Next = &Next{Canary: virtualservice.Ref{Subset: "v3"}, Traffic: virtualservice.Traffic{Weight: 30}}
	in.Record = Record{Lock: &Lock{Kind: LockBuild, Canary: "v2"}, Status: Status{State: StateRolledBack}}
	told := func() (n int) {
		d := Decide(in, at)
		in.Record = d.Record
		for _, e := range d.Added {
			if e.Event == EventUnguarded {
				n++
			}
		}
		return n
	}
	if first, second := told(), told(); first != maxOutside || second != 0 {
		t.Errorf("told %d times, and then %d; want %d and 0", first, second, maxOutside)
	}
}

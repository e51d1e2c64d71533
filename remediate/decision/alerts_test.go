package decision

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// What the configuration, or a silence, takes from an alert while it fires: the record
// goes by what it asks for now.
func TestTheRecordListsWhatAnAlertAsksForNow(t *testing.T) {
	latency := Alert{Name: "Latency", Fingerprint: "f1", StartsAt: at.Add(-time.Minute), Summary: "slow"}
	for name, c := range map[string]struct {
		was, is Action
		leads   but
		want    []Action
	}{
		"a hold that is to do nothing":      {ActionHold, ActionNone, live, nil},
		"a rollback that is to do nothing":  {ActionRollback, ActionNone, live, nil},
		"a rollback that is silenced":       {ActionRollback, ActionHold, live, []Action{ActionHold}},
		"one that goes on":                  {ActionHold, ActionHold, live, []Action{ActionHold}},
		"another replica's, by its own":     {ActionHold, ActionNone, func(*Input) {}, []Action{ActionHold}},
		"another replica's, by its silence": {ActionRollback, ActionHold, func(*Input) {}, []Action{ActionRollback}},
	} {
		t.Run(name, func(t *testing.T) {
			was, is := latency, latency
			was.Action, is.Action = c.was, c.is
			s := tell(t, c.leads, func(in *Input) {
				in.Alerts = []Alert{is}
				in.Record.Status.Alerts = []string{was.Name}
				in.Record.Status.Firing = []Firing{{Name: was.Name, Episode: was.Episode(), Action: was.Action, Began: was.StartsAt, Seen: was.StartsAt, Summary: was.Summary}}
			})
			d := s.then(time.Second)
			var got []Action
			for _, f := range d.Record.Status.Firing {
				got = append(got, f.Action)
			}
			if !slices.Equal(got, c.want) || len(d.Record.Status.Alerts) != len(c.want) {
				t.Errorf("lists %+v and %q, want %q", d.Record.Status.Firing, d.Record.Status.Alerts, c.want)
			}
			if idle := len(c.want) == 0; idle == d.Record.Troubled() || idle && d.Record.Status.State != StateShifting {
				t.Errorf("state %s, troubled: %v", d.Record.Status.State, d.Record.Troubled())
			}
		})
	}
}

// Replicas read an edited file one after the other: what an alert asks for is then
// different in their eyes, and each write of one has the other look again.
func TestReplicasToWhichManyAlertsAreDifferentComeToRest(t *testing.T) {
	many := func(action Action) []but {
		var out []but
		for i := range maxFiring + 8 {
			out = append(out, fires(action, fmt.Sprintf("Errors%02d", i), time.Minute))
		}
		return out
	}
	r := replicasOf(many(ActionNone), many(ActionHold))
	if r.take(4); len(r.rec.Status.Unasked) != maxFiring {
		t.Fatalf("%d that nobody asks for, want %d", len(r.rec.Status.Unasked), maxFiring)
	}
	if w := r.take(100); len(w) > 3 || r.rec.Status.State != StateShifting {
		t.Errorf("%s; %d of 200 looks write, of: %v", r.rec.Status.State, len(w), r.events())
	}
}

func TestReplicasToWhichAnAlertIsDifferentComeToRest(t *testing.T) {
	early := func(in *Input) { in.Record.Status.BuildSince = at } // the alert began before the build
	for name, c := range map[string]struct {
		leads, other Action
		edits        []but
		want         State
	}{
		"none, and a hold":                       {ActionNone, ActionHold, nil, StateShifting},
		"a hold, and none":                       {ActionHold, ActionNone, nil, StateHeld},
		"none, and an earlier build's":           {ActionNone, ActionRollback, []but{early}, StateShifting},
		"an earlier build's, and none":           {ActionRollback, ActionNone, []but{early}, StateHeld},
		"none, and a rollback without moves":     {ActionNone, ActionRollback, []but{wasIn(StateIdle, 0)}, StateIdle},
		"none, and a rollback that is not safe":  {ActionNone, ActionRollback, []but{lockKind(LockNone), stableReady(0)}, StateShifting},
		"none, and a rollback that is only told": {ActionNone, ActionRollback, []but{lockKind(LockNone), observes(time.Hour)}, StateShifting},
		"none, and a rollback too late":          {ActionNone, ActionRollback, []but{wasIn(StateCompleted, 100)}, StateCompleted},
	} {
		t.Run(name, func(t *testing.T) {
			r := replicasOf(asking(c.leads), asking(c.other), c.edits...)
			if w := r.take(150); len(w) > 6 {
				t.Errorf("%d of 300 looks write, of: %v", len(w), r.events())
			}
			asks := c.leads != ActionNone
			if st := r.rec.Status; st.State != c.want || r.rec.Troubled() != asks || (len(st.Alerts) > 0) != asks {
				t.Errorf("state %s, want %s; troubled: %v, alerts %q", st.State, c.want, r.rec.Troubled(), st.Alerts)
			}
			r.leader.Alerts, r.follower.Alerts = nil, nil
			if r.take(75); len(r.rec.Status.Firing) > 0 {
				t.Errorf("over, and listed: %+v", r.rec.Status.Firing)
			}
		})
	}
}

func asking(a Action) []but {
	return []but{func(in *Input) {
		in.Alerts = []Alert{{Name: "Latency", Fingerprint: "f1", StartsAt: at.Add(-time.Minute), Summary: "slow", Action: a}}
	}}
}

// The replica that rolls back writes the record before the VirtualService. One to which
// the alert is none of the kind is woken by the record, and looks in between.
func TestARollbackOfAMomentAgoIsNotGivenUpByAnotherReplica(t *testing.T) {
	r := replicasOf(asking(ActionNone), asking(ActionRollback), lockKind(LockNone), func(in *Input) { in.Record.Status.BuildSince = at.Add(-time.Hour) })
	look := func(in *Input) Decision {
		r.now = r.now.Add(time.Second)
		in.Record = r.rec
		d := Decide(*in, r.now)
		r.rec = d.Record
		return d
	}
	look(&r.leader) // which lists the alert as one that asks for nothing
	if d := look(&r.follower); d.Move != MoveStable || !r.rec.Status.Moving.RollsBack() {
		t.Fatalf("move %v, %+v", d.Move, d.Record.Status)
	}
	d := look(&r.leader)
	if !r.rec.Status.Moving.RollsBack() || countOf(r.events(), EventMissed) != 0 || d.Move != MoveNone || d.Requeue == 0 || d.Requeue > giveUpAfter {
		t.Fatalf("move %v, again after %s, moving %+v, %v", d.Move, d.Requeue, r.rec.Status.Moving, r.events())
	}
	gets(0)(&r.leader)
	gets(0)(&r.follower)
	look(&r.leader)
	if n := countOf(r.events(), EventRolledBack); n != 1 || r.rec.Receipt == nil {
		t.Errorf("told %d times, receipt %+v, %v", n, r.rec.Receipt, r.events())
	}
}

func TestARollbackThatNobodyMakesIsGivenUp(t *testing.T) {
	s := tell(t, underWay(50), lockKind(LockNone), live, func(in *Input) { in.Record.Status.Moving.At = at })
	if s.then(giveUpAfter / 2); s.in.Record.Status.Moving == nil {
		t.Error("given up at once")
	}
	if d := s.then(giveUpAfter); d.Record.Status.Moving != nil || len(d.Added) != 1 || d.Added[0].Event != EventMissed {
		t.Errorf("moving %+v, added %+v", d.Record.Status.Moving, d.Added)
	}
}

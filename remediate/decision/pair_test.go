package decision

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/remediate/virtualservice"
)

// deniesV2 has the record say what the lock of a guard of v1 and v2 denies.
func deniesV2(in *Input) {
	in.Record.Deny, in.Record.Stable = []string{"orders-service/v2", "orders-service"}, []string{"orders-service/v1"}
	in.Record.VirtualServices = []string{"orders-service"}
}

// wasV1V2 is a record of a guard whose stable is v1 and whose canary is v2.
func wasV1V2(in *Input) { in.Record.Status.Moves = MovesOf(in.Guard) }

// exchanged has the configuration say that v2 is stable now and v1 the canary, of
// which the pods are those of an old build, and the weights what v1 gets.
func exchanged(weight int) but {
	return func(in *Input) {
		in.Guard.Stable, in.Guard.Canary = virtualservice.Ref{Subset: "v2"}, virtualservice.Ref{Subset: "v1"}
		in.Deny, in.Spare = []string{"orders-service/v1", "orders-service"}, []string{"orders-service/v2"}
		gets(weight)(in)
		runs("old", 2)(in)
		agedOf("old", at.Add(-240*time.Hour), at.Add(-240*time.Hour))(in)
		in.Canary.Since = at.Add(-240 * time.Hour)
	}
}

func TestStableAndCanaryThatAreExchangedAreBegunAnew(t *testing.T) {
	s := tell(t, advancing(100), promotedAt(time.Hour), wasV1V2)
	s.in.Record.Status.State, s.in.Record.Status.CompletedAt, s.in.Record.Status.Splits = StateCompleted, at, []string{"mark"}
	s.in.Record.Status.Carried = 6
	d := s.then(time.Second, exchanged(0))
	st := d.Record.Status
	if d.Move != MoveNone || st.State != StateIdle || st.Weight != 0 || st.Build != "old" || st.Promoting != "" || st.Fresh || len(st.Splits) > 0 || !st.CompletedAt.IsZero() || st.Carried != 0 {
		t.Errorf("move %v, status %+v", d.Move, st)
	}
	if len(d.Added) == 0 || d.Added[0].Event != EventExchanged || d.Added[0].Reason != "the configuration has stable v2 and canary v1, and had v1 and v2: builds and weights are looked at anew" {
		t.Errorf("history %+v", d.Added)
	}
	heartbeatNow := func(in *Input) { in.Heartbeat = s.now }
	for range 20 { // the old build is never promoted by itself
		if d := s.then(time.Hour, heartbeatNow); d.Move != MoveNone {
			t.Fatalf("the old build is taken to %d%%: %+v", d.Weight, d.Added)
		}
	}
	if d := s.then(time.Hour, heartbeatNow, runs("b3", 2), func(in *Input) { in.Canary.Since = at.Add(20 * time.Hour) }); d.Move != MoveForward || d.Weight != 10 {
		t.Errorf("a new build of v1 begins: %v %d, %q", d.Move, d.Weight, d.Record.Status.Waiting)
	}
}

func TestAnExchangeIsTheLeaseHoldersToTell(t *testing.T) {
	s := tell(t, wasIn(StateCompleted, 100), wasV1V2)
	d := s.then(time.Second, exchanged(0))
	if slices.ContainsFunc(d.Added, func(e HistoryEntry) bool { return e.Event == EventExchanged }) || d.Record.Status.Moves.Canary != "v2" {
		t.Errorf("added %+v, moves %+v", d.Added, d.Record.Status.Moves)
	}
}

// What the lock refuses is stable by the new configuration: to put the new canary
// to 0 would be to give all traffic to the build that has failed.
func TestNothingIsMovedToWhatALockDenies(t *testing.T) {
	for name, edit := range map[string]but{"the lease holder": live, "another replica": func(*Input) {}} {
		t.Run(name, func(t *testing.T) {
			s := tell(t, locked(LockBuild), wasV1V2, deniesV2, edit)
			s.in.Record.Lock.Refused = []string{"b1"}
			for range 3 {
				d := s.then(time.Minute, exchanged(100))
				if d.Move != MoveNone || d.Release {
					t.Fatalf("move %v to %d%%: %+v", d.Move, d.Weight, d.Record.Status)
				}
				s.locked(true)
				s.refused("b1")
			}
			r := s.in.Record
			if name == "another replica" {
				if r.Status.State != StateRolledBack || len(r.History) > 0 {
					t.Errorf("%s: %s, history %+v: it is the lease holder's to tell", r.Status.State, r.Status.Reason, r.History)
				}
			} else if r.Status.State != StateBlocked || !strings.Contains(r.Status.Reason, "stable v2 is what the lock denies: unlock, or have stable and canary be what they were (v1 and v2)") {
				t.Errorf("%s: %s", r.Status.State, r.Status.Reason)
			}
			if r.Status.Build != "b1" || slices.ContainsFunc(r.History, func(e HistoryEntry) bool { return e.Event == EventExchanged }) {
				t.Errorf("begun anew under the lock: build %s, history %+v", r.Status.Build, r.History)
			}
			if !slices.Contains(r.Deny, "orders-service/v2") || r.Status.Moves.Canary != "v2" || len(r.Lock.Refused) != 1 {
				t.Errorf("deny %v, moves %+v, lock %+v", r.Deny, r.Status.Moves, r.Lock)
			}
		})
	}
}

func TestAnUnlockAfterAnExchangeBeginsAnew(t *testing.T) {
	s := tell(t, locked(LockBuild), wasV1V2, deniesV2, live)
	s.then(time.Minute, exchanged(100))
	s.then(time.Minute, asks(RequestUnlock))
	s.locked(false)
	d := s.then(time.Minute, func(in *Input) { in.Record.Request = nil })
	if st := d.Record.Status; d.Move != MoveNone || st.State != StatePromoted || st.Build != "old" || st.Moves.Canary != "v1" {
		t.Errorf("move %v, status %+v", d.Move, st)
	}
}

// What the record says of the build that may go forward is of the pair that the lock was
// of, and what is read is of the other.
func TestThePassThatUnlocksAnExchangedGuardMovesNothing(t *testing.T) {
	allAnswer := func(in *Input) { in.Forward = &Forward{Requests: 1000} }
	s := tell(t, locked(LockBuild), wasV1V2, deniesV2, live, mode(PromotionAuto), allAnswer)
	s.in.Record.Status.Promoting, s.in.Record.Status.MovedAt = "b1", at.Add(-time.Hour)
	s.then(time.Minute, exchanged(0))
	d := s.then(time.Minute, asks(RequestUnlock), func(in *Input) { in.Heartbeat = s.now })
	s.locked(false)
	st := d.Record.Status
	if d.Move != MoveNone || st.Moves.Canary != "v1" || st.Moving != nil || st.Promoting != "" || d.Requeue > time.Second || slices.Contains(eventsOf(d.Record), EventShifted) {
		t.Fatalf("move %v to %d%%, status %+v, looks again in %s, of: %v", d.Move, d.Weight, st, d.Requeue, eventsOf(d.Record))
	}
	if a := d.Record.Answers; len(a) != 1 || a[0].Result != ResultDone {
		t.Errorf("answers %+v", a)
	}
	for range 10 {
		d = s.then(time.Hour, func(in *Input) { in.Heartbeat, in.Record.Request = s.now, nil })
		if st := d.Record.Status; d.Move != MoveNone || st.State != StateIdle || st.Build != "old" || countOf(eventsOf(d.Record), EventExchanged) != 1 {
			t.Fatalf("move %v to %d%%, status %+v, of: %v", d.Move, d.Weight, st, eventsOf(d.Record))
		}
	}
}

// That v1, the canary now, has nothing says nothing of v2's rollback, which could not be done.
func TestTheUnlockOfAnExchangedGuardTellsOfNoRollback(t *testing.T) {
	s := tell(t, stableReady(0), live)
	s.in.Record.Status.Moves = MovesOf(s.in.Guard)
	s.then(time.Minute, s.firesNow("Errors", time.Minute))
	s.locked(true)
	s.then(time.Minute, exchanged(0), quietNow)
	if !s.in.Record.Status.Moving.RollsBack() {
		t.Fatalf("the rollback is not kept: %+v", s.in.Record.Status)
	}
	d := s.then(time.Minute, asks(RequestUnlock))
	s.locked(false)
	if got := verdictOf(d).added; strings.Contains(got, "rolled-back") || d.Signal != "" || d.Record.Receipt != nil {
		t.Errorf("told %q, counted as %q, receipt %+v", got, d.Signal, d.Record.Receipt)
	}
}

// The weights that the record tells of are those of v2, and what is read are those of v1:
// nothing has gone from one to the other.
func TestEntriesOfAnExchangedGuardTellOfNoMove(t *testing.T) {
	lost := func(in *Input) {
		in.Record = Record{Status: Status{Moves: MovesOf(in.Guard)}}
		in.Marked = &LockAnnotation{By: "guardian", Canary: []string{"orders-service/v2"}, Stable: []string{"orders-service/v1"}, Build: "b1", Since: at, Message: "guardian rolled it back"}
	}
	errors := func(in *Input) {
		in.Alerts = []Alert{{Name: "Errors", Action: ActionRollback, Fingerprint: "f1", StartsAt: at.Add(time.Minute)}}
	}
	was := []but{locked(LockBuild), wasV1V2, deniesV2}
	for name, c := range map[string]struct {
		given []but
		then  [][]but
		want  []Event
	}{
		"a lock":                    {slices.Concat(was, []but{live}), [][]but{{exchanged(100)}, {errors}, {quietNow, asks(RequestUnlock)}}, []Event{EventBlocked, EventNoted, EventUnlocked, EventExchanged}},
		"a lock that is disarmed":   {slices.Concat(was, []but{live}), [][]but{{exchanged(100), asksDisarm(0, time.Hour)}, {asks(RequestArm)}}, []Event{EventDisarmed, EventArmed, EventBlocked}},
		"a record that is lost":     {[]but{exchanged(100), lost, live}, [][]but{nil, {asks(RequestUnlock)}}, []Event{EventLocked, EventBlocked, EventUnlocked, EventExchanged}},
		"no lock":                   {[]but{wasIn(StateIdle, 0), wasV1V2, live}, [][]but{{exchanged(100)}}, []Event{EventExchanged}},
		"no lock, another replica":  {[]but{wasIn(StateIdle, 0), wasV1V2}, [][]but{{exchanged(100), errors}}, []Event{EventNoted}},
		"another canary, unlocked":  {[]but{wasIn(StateShifting, 10), wasV1V2, live}, [][]but{{func(in *Input) { in.Guard.Canary.Subset = "v3" }, gets(50), errors}}, []Event{EventExchanged}},
		"another stable, no canary": {[]but{wasIn(StateShifting, 10), wasV1V2, live}, [][]but{{func(in *Input) { in.Guard.Stable.Subset = "v0" }, gets(10)}}, []Event{EventExchanged}},
	} {
		t.Run(name, func(t *testing.T) {
			s := tell(t, c.given...)
			var told []Event
			for _, edits := range c.then {
				for _, e := range s.then(time.Minute, edits...).Added {
					told = append(told, e.Event)
					if e.From != e.To {
						t.Errorf("%s %d → %d: %s", e.Event, e.From, e.To, e.Reason)
					}
				}
			}
			for _, e := range c.want {
				if !slices.Contains(told, e) {
					t.Errorf("no %s, of: %v", e, told)
				}
			}
		})
	}
}

// A stable that became another moves nothing of the canary's: what others have moved since is told.
func TestAShiftUnderAnotherStableIsToldWithItsWeights(t *testing.T) {
	s := tell(t, locked(LockBuild), wasV1V2, deniesV2, live)
	v0 := func(in *Input) {
		in.Guard.Stable, in.Spare = virtualservice.Ref{Subset: "v0"}, []string{"orders-service/v0"}
	}
	d := s.then(time.Minute, v0, gets(30), asks(RequestUnlock))
	if i := slices.IndexFunc(d.Added, func(e HistoryEntry) bool { return e.Event == EventUnlocked }); i < 0 || d.Added[i].From != 0 || d.Added[i].To != 30 {
		t.Errorf("added %+v", d.Added)
	}
}

// Testers' routes that the rollback of v2 has led to v1 would be given to v2, which is stable
// now, or to a canary that nobody looks after any more.
func TestNothingThatLedToTheOtherCanaryIsGivenBackAfterAnExchange(t *testing.T) {
	led := func(in *Input) {
		in.Record.Changed = []virtualservice.Change{{VirtualService: "orders-service", Path: "/spec/http/0/route"}}
		in.Owned, in.Owed = true, true
	}
	v3 := func(in *Input) { in.Guard.Canary, in.Deny = virtualservice.Ref{Subset: "v3"}, nil }
	v0 := func(in *Input) { in.Guard.Stable, in.Spare = virtualservice.Ref{Subset: "v0"}, nil }
	none := func(in *Input) { in.Guard.Rollback.Lock = LockNone }
	for name, c := range map[string]struct {
		given []but
		then  [][]but
		stays string
	}{
		"exchanged under a lock":       {[]but{locked(LockBuild), deniesV2, wasV1V2, live, led}, [][]but{{exchanged(100)}, {asks(RequestUnlock)}}, "; testers' routes and mirrors that led to v2 stay with v1, which was stable"},
		"exchanged without a lock":     {[]but{wasIn(StateIdle, 0), wasV1V2, live, none, led}, [][]but{{exchanged(0)}}, "; testers' routes and mirrors that led to v2 stay with v1, which was stable"},
		"another canary":               {[]but{wasIn(StateIdle, 0), wasV1V2, live, none, led}, [][]but{{v3}}, "; testers' routes and mirrors that led to v2 stay with stable"},
		"another stable alone":         {[]but{wasIn(StateIdle, 0), wasV1V2, live, none, led}, [][]but{{v0}}, ""},
		"exchanged, nothing was led":   {[]but{wasIn(StateIdle, 0), wasV1V2, live}, [][]but{{exchanged(0)}}, ""},
		"a replica that does not lead": {[]but{wasIn(StateIdle, 0), wasV1V2, led}, [][]but{{exchanged(0)}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := tell(t, c.given...)
			was, told := s.in.Record.Changed, ""
			for _, edits := range c.then {
				d := s.then(time.Minute, edits...)
				for _, e := range d.Added {
					if _, stays, ok := strings.Cut(e.Reason, "looked at anew"); ok && e.Event == EventExchanged {
						told += stays
					}
				}
			}
			if left := s.in.Record.Changed; told != c.stays || c.stays != "" && left != nil || c.stays == "" && len(left) != len(was) {
				t.Errorf("told %q, left to give back: %+v; of: %v", told, left, eventsOf(s.in.Record))
			}
		})
	}
}

func TestALockedGuardThatIsExchangedBackGoesOn(t *testing.T) {
	s := tell(t, locked(LockBuild), wasV1V2, deniesV2, live)
	was := s.in
	s.then(time.Minute, exchanged(100))
	record := s.in.Record
	s.in = was
	s.in.Record = record
	if d := s.then(time.Minute); d.Record.Status.State != StateRolledBack || d.Move != MoveNone {
		t.Errorf("%v, %+v", d.Move, d.Record.Status)
	}
	if d := s.then(time.Minute, gets(10)); d.Move != MoveStable {
		t.Errorf("CI's 10%% are left: %v, %+v", d.Move, d.Record.Status)
	}
	s.locked(true)
}

// That stable is what the lock denies, the record's list alone does not say: whoever may
// write to it could switch the brake off by it.
func TestADenialOfStableWithoutAnExchangeIsRepaired(t *testing.T) {
	for name, leads := range map[string]but{"the lease holder": live, "another replica": func(*Input) {}} {
		t.Run(name, func(t *testing.T) {
			spelled := func(in *Input) { in.Deny, in.Spare = []string{"orders-service/v2"}, []string{"orders-service/v1"} }
			s := tell(t, locked(LockBuild), wasV1V2, deniesV2, spelled, leads)
			s.in.Record.Deny = []string{"orders-service/v1"}
			if d := s.then(time.Minute, gets(50)); d.Move != MoveStable {
				t.Errorf("CI's 50%% are left: %v, %s: %s", d.Move, d.Record.Status.State, d.Record.Status.Reason)
			}
			if deny := s.in.Record.Deny; !slices.Equal(deny, []string{"orders-service/v2"}) {
				t.Errorf("denies %v", deny)
			}
		})
	}
}

// Where the record is lost after the exchange, what stands on the VirtualService tells of it.
func TestALostRecordDoesNotHideAnExchange(t *testing.T) {
	mark := func(in *Input) {
		in.Marked = &LockAnnotation{By: "guardian", Canary: []string{"orders-service/v2"}, Stable: []string{"orders-service/v1"}, Build: "b1", Since: at, Message: "guardian rolled it back"}
	}
	s := tell(t, exchanged(100), mark, live)
	s.in.Record = Record{Status: Status{Moves: MovesOf(s.in.Guard)}} // as gather begins one
	for range 3 {
		if d := s.then(time.Minute); d.Move != MoveNone || d.Record.Status.State != StateBlocked {
			t.Fatalf("move %v to %d%%: %+v", d.Move, d.Weight, d.Record.Status)
		}
		s.locked(true)
	}
}

func TestAnAlertUnderAnExchangedLockIsNoted(t *testing.T) {
	s := tell(t, locked(LockBuild), wasV1V2, deniesV2, live)
	s.then(time.Minute, exchanged(100))
	isNoted := func(e HistoryEntry) bool { return e.Event == EventNoted && e.Alert == "Errors" }
	d := s.then(10*time.Minute, s.firesNow("Errors", 10*time.Minute))
	i := slices.IndexFunc(d.Added, isNoted)
	if i < 0 || !strings.HasPrefix(d.Added[i].Reason, "not rolled back: stable v2 is what the lock denies") {
		t.Fatalf("added %+v", d.Added)
	}
	if d := s.then(time.Minute); slices.ContainsFunc(d.Added, isNoted) {
		t.Errorf("told once more: %+v", d.Added)
	}
}

// replicas look at one record in turn, as each write of it makes them, the lease
// holder first.
type replicas struct {
	leader, follower Input
	rec              Record
	now              time.Time
}

// take has each of them look n times, a second after the other, and returns the
// decisions that were to be written.
func (r *replicas) take(n int) (written []Decision) {
	for range n {
		for _, in := range []*Input{&r.leader, &r.follower} {
			r.now = r.now.Add(time.Second)
			in.Record, in.Heartbeat = r.rec, r.now
			d := Decide(*in, r.now)
			if !reflect.DeepEqual(d.Record.Data(), r.rec.Data()) || d.Move != MoveNone {
				written = append(written, d)
			}
			r.rec = d.Record
		}
	}
	return written
}

// replicasOf are two replicas, of which one has a file by which stable and canary are
// exchanged.
func replicasOf(leader, follower []but, both ...but) *replicas {
	first, second := given(slices.Concat(both, leader, []but{live})...), given(slices.Concat(both, follower)...)
	return &replicas{leader: first, follower: second, rec: first.Record, now: at}
}

func (r *replicas) events() []Event { return eventsOf(r.rec) }

func TestReplicasThatReadAnExchangeOneAfterTheOtherComeToRest(t *testing.T) {
	auto := mode(PromotionAuto)
	was := []but{wasIn(StateCompleted, 100), wasV1V2, auto, func(in *Input) { in.Forward = &Forward{Requests: 1000} }}
	old, edited := []but{}, []but{exchanged(0)}
	for name, files := range map[string][2][]but{"the lease holder first": {edited, old}, "another first": {old, edited}} {
		t.Run(name, func(t *testing.T) {
			r := replicasOf(files[0], files[1], was...)
			if w := r.take(30); len(w) > 3 {
				t.Fatalf("%d of 60 looks write, of: %v", len(w), r.events())
			}
			r.follower.Alerts = []Alert{{Name: "Errors", Fingerprint: "f1", Action: ActionRollback, StartsAt: r.now}}
			if w := r.take(30); len(w) > 3 || len(r.rec.Status.Firing) != 1 || !slices.Contains(r.events(), EventNoted) || r.rec.Lock != nil {
				t.Fatalf("an alert: %d of 60 looks write, firing %+v, lock %v, of: %v", len(w), r.rec.Status.Firing, r.rec.Lock, r.events())
			}
			for _, in := range []*Input{&r.leader, &r.follower} {
				in.Alerts = nil
				exchanged(0)(in)
			}
			r.now = r.now.Add(ListingKnows)
			written := r.take(1000)
			st := r.rec.Status
			if n := countOf(r.events(), EventExchanged); n != 1 || len(written) > 8 || st.Promoting != "" || st.Build != "old" || st.Moves.Canary != "v1" {
				t.Errorf("exchanged %d times, %d looks write, status %+v, of: %v", n, len(written), st, r.events())
			}
			for _, d := range written {
				if d.Move != MoveNone {
					t.Fatalf("move %v to %d%%", d.Move, d.Weight)
				}
			}
		})
	}
}

func countOf(events []Event, e Event) (n int) {
	for _, one := range events {
		if one == e {
			n++
		}
	}
	return n
}

func TestReplicasThatReadAnExchangeUnderALockComeToRest(t *testing.T) {
	was := []but{locked(LockBuild), wasV1V2, deniesV2}
	old, edited := []but{}, []but{exchanged(100)}
	for name, c := range map[string]struct {
		files [2][]but
		want  State
	}{"the lease holder first": {[2][]but{edited, old}, StateBlocked}, "another first": {[2][]but{old, edited}, StateRolledBack}} {
		t.Run(name, func(t *testing.T) {
			r := replicasOf(c.files[0], c.files[1], was...)
			if w := r.take(100); len(w) > 3 || r.rec.Status.State != c.want {
				t.Fatalf("%d of 200 looks write, %s, of: %v", len(w), r.rec.Status.State, r.events())
			}
			message := r.rec.Message
			r.follower.Alerts = []Alert{{Name: "Errors", Fingerprint: "f1", Action: ActionRollback, StartsAt: r.now}}
			if w := r.take(10); len(w) == 0 || len(w) > 3 || r.rec.Message != message || strings.Contains(message, "back on v2") {
				t.Errorf("%d of 20 looks write, message %q, was %q", len(w), r.rec.Message, message)
			}
			r.follower.Alerts = nil
			r.take(100)
			exchanged(100)(&r.leader)
			exchanged(100)(&r.follower)
			if w := r.take(100); len(w) > 3 || r.rec.Status.State != StateBlocked || countOf(r.events(), EventBlocked) != 1 {
				t.Errorf("%d of 200 looks write, %s, of: %v", len(w), r.rec.Status.State, r.events())
			}
		})
	}
}

// Neither tells what the other takes back.
func TestReplicasThatReadAnExchangeOfAGuardThatMovesNothingComeToRest(t *testing.T) {
	disarmed := func(in *Input) {
		in.Record.Status.Disarmed = &Disarm{By: "ann", Reason: "because", At: at, Until: at.Add(time.Hour)}
	}
	observes := func(in *Input) {
		in.Guard.Mode, in.Record.Status.Observing = ModeObserve, &Observing{Since: at}
	}
	for name, c := range map[string]struct {
		edit but
		want State
	}{"disarmed": {disarmed, StateDisarmed}, "observing": {observes, StateBlocked}} {
		for who, files := range map[string][2][]but{"the lease holder first": {{exchanged(100)}, nil}, "another first": {nil, {exchanged(100)}}, "both": {{exchanged(100)}, {exchanged(100)}}} {
			t.Run(name+", "+who, func(t *testing.T) {
				r := replicasOf(files[0], files[1], locked(LockBuild), wasV1V2, deniesV2, c.edit)
				want := c.want
				if who == "another first" && name == "observing" {
					want = StateRolledBack
				}
				if w := r.take(100); len(w) > 3 || r.rec.Status.State != want || r.rec.Lock == nil || r.rec.Status.Weight != 0 {
					t.Fatalf("%d of 200 looks write, %s at %d%%: %s; of: %v", len(w), r.rec.Status.State, r.rec.Status.Weight, r.rec.Status.Reason, r.events())
				}
				r.now = r.now.Add(2 * time.Hour)
				if w := r.take(100); len(w) > 3 || r.rec.Status.Disarmed != nil || slices.ContainsFunc(w, func(d Decision) bool { return d.Move != MoveNone }) {
					t.Fatalf("later %d of 200 looks write, %s: %s; of: %v", len(w), r.rec.Status.State, r.rec.Status.Reason, r.events())
				}
			})
		}
	}
}

// Without its DestinationRule nothing tells how a destination may be spelled.
func TestAnExchangeUnderALockStaysOneWithoutADestinationRule(t *testing.T) {
	s := tell(t, locked(LockBuild), wasV1V2, deniesV2, live)
	s.then(time.Minute, exchanged(100))
	for _, without := range []bool{true, true, false, false} {
		d := s.then(time.Minute, exchanged(100), func(in *Input) {
			if in.Stable.Missing = ""; without {
				in.Deny, in.Spare, in.Stable.Missing = nil, nil, "DestinationRule orders-service does not exist"
			}
		})
		if st := d.Record.Status; d.Move != MoveNone || st.State != StateBlocked || st.Moves.Canary != "v2" || st.Weight != 0 || st.Moving != nil || len(d.Added) > 0 ||
			!strings.HasPrefix(st.Reason, "stable v2 is what the lock denies") {
			t.Fatalf("move %v, status %+v, added %+v", d.Move, st, d.Added)
		}
		s.locked(true)
	}
}

// toV3 has the configuration say that v3 is the canary, while the lock is of v2: what
// Record.GuardOf has read for such a file.
func toV3(edits ...func(*Next)) but {
	return func(in *Input) {
		in.Next = &Next{Stable: virtualservice.Ref{Subset: "v1"}, Canary: virtualservice.Ref{Subset: "v3"}, Deny: []string{"orders-service/v3", "orders-service"},
			Traffic: virtualservice.Traffic{Split: 1}, Workload: Workload{Build: "b3", Builds: []string{"b3"}}}
		for _, edit := range edits {
			edit(in.Next)
		}
	}
}

// up has the next canary's pods be ready, of builds that are so old.
func up(age time.Duration, builds ...string) func(*Next) {
	return func(n *Next) {
		n.Workload = Workload{Build: CombineBuilds(builds), Builds: builds, Running: builds, Ready: len(builds), Current: len(builds), Complete: true, Ages: map[string]PodAge{}}
		for _, b := range builds {
			n.Workload.Ages[b] = PodAge{Made: at.Add(-age), Ready: at.Add(-age)}
		}
	}
}

func nextGets(weight int) func(*Next) {
	return func(n *Next) { n.Traffic = virtualservice.Traffic{Weight: weight, Lowest: weight, Split: 1} }
}

func TestReplicasThatReadAnotherCanaryUnderALockComeToRest(t *testing.T) {
	was := []but{locked(LockBuild), wasV1V2, deniesV2}
	moving := func(in *Input) { // blocked at half of the traffic
		underWay(50)(in)
		in.Record.Status.State, in.Record.Status.Weight, in.Stable.Ready = StateBlocked, 50, 0
		gets(50)(in)
	}
	for name, files := range map[string][2][]but{"the lease holder first": {{toV3()}, {}}, "another first": {{}, {toV3()}}, "an old v3": {{toV3(up(time.Hour, "b3"))}, {toV3()}}} {
		for _, blocked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, blocked: %t", name, blocked), func(t *testing.T) {
				all := was
				if blocked {
					all = append(slices.Clone(was), moving)
				}
				r := replicasOf(files[0], files[1], all...)
				if w := r.take(100); len(w) > 4 || r.rec.Lock == nil || slices.Contains(r.events(), EventRolledBack) || r.rec.Status.Moving.RollsBack() != blocked {
					t.Fatalf("%d of 200 looks write, lock %v, moving %+v, of: %v", len(w), r.rec.Lock, r.rec.Status.Moving, r.events())
				}
				deny, message := r.rec.Deny, r.rec.Message
				r.follower.Alerts = []Alert{{Name: "Errors", Fingerprint: "f1", Action: ActionRollback, StartsAt: r.now}}
				if w := r.take(10); len(w) > 2 || !slices.Equal(r.rec.Deny, deny) || r.rec.Message != message {
					t.Errorf("%d of 20 looks write, denied is %v, was %v; message %q", len(w), r.rec.Deny, deny, r.rec.Message)
				}
			})
		}
	}
}

// What the lock is of, not what the configuration has by now, tells what lifts it.
func TestTheLockOfAnotherCanary(t *testing.T) {
	ofV2 := func(in *Input) { in.Record.Lock.of(in.Guard) }
	for name, c := range map[string]struct {
		edits []but
		lock  string // its canary; empty: lifted
		event Event
	}{
		"v3 has no pods":                         {[]but{toV3()}, "v2", ""},
		"v3 is new":                              {[]but{toV3(up(time.Minute, "b3"))}, "", EventUnlocked},
		"v3 is older than the lock":              {[]but{toV3(up(time.Hour, "b3"))}, "v2", ""},
		"one of v3's builds is older":            {[]but{toV3(up(time.Minute, "b3", "b4"), func(n *Next) { n.Workload.Ages["b4"] = PodAge{Made: at.Add(-time.Hour)} })}, "v2", ""},
		"v3 was proven":                          {[]but{toV3(up(time.Hour, "b3")), func(in *Input) { in.Record.Status.Proven = []string{"b3"} }}, "v2", ""},
		"the age of v3's pods is not known":      {[]but{toV3(up(time.Minute, "b3"), func(n *Next) { n.Workload.Ages = nil })}, "v2", ""},
		"a pod of v3 is of an unknown build":     {[]but{toV3(up(time.Minute, "b3"), func(n *Next) { n.Workload.Ready++ })}, "v2", ""},
		"v3 is new, and the lock is by hand":     {[]but{toV3(up(time.Minute, "b3")), func(in *Input) { in.Record.Lock.Kind = LockManual }}, "v2", ""},
		"v3 is new, and v2 has traffic":          {[]but{toV3(up(time.Minute, "b3")), gets(10)}, "v2", ""},
		"v3 is new, and v2's weights are unsafe": {[]but{toV3(up(time.Minute, "b3")), func(in *Input) { in.Unsafe = "no route" }}, "v2", EventBlocked},
		"v3 is new, and a VirtualService is not": {[]but{toV3(up(time.Minute, "b3")), func(in *Input) { in.Gone = "it does not exist" }}, "v2", EventBlocked},
		"v3 is new, in a pass that is not live":  {[]but{toV3(up(time.Minute, "b3")), func(in *Input) { in.Live = false }}, "v2", ""},
		"v3 is new, and another replica sees it": {[]but{toV3(up(time.Minute, "b3")), func(in *Input) { in.Live, in.Leads = false, false }}, "v2", ""},
		"v3 is new, and the guard observes":      {[]but{toV3(up(time.Minute, "b3")), func(in *Input) { in.Guard.Mode = ModeObserve }}, "v2", ""},
		"v3 runs the build":                      {[]but{toV3(up(time.Minute, "b1"))}, "v3", EventLocked},
		"v3 is to run the build":                 {[]but{toV3(up(time.Hour, "b3"), func(n *Next) { n.Workload.Build, n.Workload.Builds = "b1", []string{"b1"} })}, "v2", ""},
		"v3 runs the build, and an old one":      {[]but{toV3(up(time.Hour, "b1", "b3"))}, "v3", EventLocked},
		"v3 runs another refused build":          {[]but{toV3(up(time.Hour, "b0")), func(in *Input) { in.Record.Refused = []string{"b0", "b1"} }}, "v3", EventLocked},
		"v3 runs the build, and v2 has traffic":  {[]but{toV3(up(time.Minute, "b1")), gets(10)}, "v2", ""},
		"v2 has a new build":                     {[]but{toV3(up(time.Hour, "b3")), runs("b2", 2)}, "", EventNewBuild},
	} {
		t.Run(name, func(t *testing.T) {
			in := given(slices.Concat([]but{locked(LockBuild), wasV1V2, deniesV2, ofV2, live}, c.edits)...)
			d := Decide(in, at)
			var lock string
			if l := d.Record.Lock; l != nil {
				lock = l.Canary
			}
			var event Event
			if len(d.Added) > 0 {
				event = d.Added[0].Event
			}
			if lock != c.lock || c.event != "" && event != c.event {
				t.Errorf("lock %+v, added %+v", d.Record.Lock, d.Added)
			}
			if !slices.Contains(d.Record.Refused, "b1") || slices.Contains(d.Record.Refused, "b3") {
				t.Errorf("refused %v", d.Record.Refused)
			}
			if deny := d.Record.Deny; lock != "" && d.Record.Status.Observing == nil && (!slices.Contains(deny, "orders-service/v2") || in.Leads != slices.Contains(deny, "orders-service/v3")) {
				t.Errorf("denies %v", deny)
			}
		})
	}
}

// A replica whose file has another stable, which the lock denies besides, writes nothing of
// that: it and the lease holder would go on in turns.
func TestAReplicaWithAnotherStableLeavesWhatALockDenies(t *testing.T) {
	ofV2 := func(in *Input) { in.Record.Lock.of(in.Guard) }
	v3IsStable := func(in *Input) {
		in.Guard.Stable, in.Spare = virtualservice.Ref{Subset: "v3"}, []string{"orders-service/v3"}
	}
	spelled := func(in *Input) { in.Spare = []string{"orders-service/v1"} }
	r := replicasOf([]but{toV3(up(time.Hour, "b3"))}, []but{v3IsStable}, locked(LockBuild), wasV1V2, deniesV2, ofV2, spelled)
	if w := r.take(100); len(w) > 4 || !slices.Contains(r.rec.Deny, "orders-service/v3") {
		t.Errorf("%d of 200 looks write, denies %v, stable %v", len(w), r.rec.Deny, r.rec.Stable)
	}
}

// Nobody has seen the weights of v3 be taken away before they are.
func TestALockThatGoesOverToACanaryWithTrafficTellsOfNoRollbackYet(t *testing.T) {
	ofV2 := func(in *Input) { in.Record.Lock.of(in.Guard) }
	s := tell(t, locked(LockBuild), wasV1V2, deniesV2, ofV2, live, mode(PromotionAuto), toV3(up(time.Minute, "b1"), nextGets(30)))
	d := s.then(time.Second)
	if st := d.Record.Status; st.State == StateRolledBack || st.Weight != 30 || !st.Moving.RollsBack() {
		t.Fatalf("%+v, added %+v", st, d.Added)
	}
	ofV3 := func(in *Input) {
		in.Next, in.Guard.Canary, in.Deny = nil, virtualservice.Ref{Subset: "v3"}, []string{"orders-service/v3", "orders-service"}
	}
	s.then(time.Second, ofV3, gets(30))
	d = s.then(time.Second)
	if st := d.Record.Status; st.State != StateRolledBack || countOf(eventsOf(d.Record), EventRolledBack) != 1 || countOf(eventsOf(d.Record), EventNewBuild) != 0 || st.Promoting != "" {
		t.Errorf("%+v, %v", st, eventsOf(d.Record))
	}
}

// The rollback that is under way is told before its lock goes over.
func TestARollbackThatIsDoneIsToldBeforeItsLockGoesOver(t *testing.T) {
	s := tell(t, locked(LockBuild), underWay(50), wasV1V2, deniesV2, live, gets(0), toV3(up(time.Minute, "b1")))
	if d := s.then(time.Second); countOf(eventsOf(d.Record), EventRolledBack) != 1 || d.Record.Lock.Canary != "v2" {
		t.Errorf("lock %+v, %v", d.Record.Lock, eventsOf(d.Record))
	}
	if d := s.then(time.Second); d.Record.Lock.Canary != "v3" {
		t.Errorf("lock %+v", d.Record.Lock)
	}
}

// A guard whose stable the lock denies is not begun anew with.
func TestALockIsNotHandedOverToAStableThatItDenies(t *testing.T) {
	ofV3 := func(in *Input) {
		in.Record.Lock.of(in.Guard)
		in.Record.Lock.Also = []string{"orders-service/v0"}
	}
	in := given(locked(LockBuild), wasV1V2, deniesV2, ofV3, live, toV3(up(time.Minute, "b3"), func(n *Next) { n.Stable.Subset = "v0" }))
	if d := Decide(in, at); d.Record.Lock == nil || strings.Contains(d.Record.Status.Reason, "deploy a new build") {
		t.Errorf("lock %+v, %s", d.Record.Lock, d.Record.Status.Reason)
	}
}

// How a host is spelled makes no other pair of it.
func TestAHostThatIsSpelledOtherwiseIsNoExchange(t *testing.T) {
	hosts := func(in *Input) {
		in.Guard.Stable, in.Guard.Canary = virtualservice.Ref{Host: "orders-v1"}, virtualservice.Ref{Host: "orders-v2"}
	}
	s := tell(t, hosts, wasV1V2, live)
	d := s.then(time.Second, func(in *Input) { in.Guard.Canary.Host += "." + testNamespace + ".svc.cluster.local" })
	if countOf(eventsOf(d.Record), EventExchanged) != 0 || d.Record.Status.State != StateShifting {
		t.Errorf("%s, %v", d.Record.Status.State, eventsOf(d.Record))
	}
}

// The next canary of one release can be the stable of the one before.
func TestALockDeniesNoStable(t *testing.T) {
	ofV2 := func(in *Input) { in.Record.Lock.of(in.Guard) }
	v0v1 := toV3(func(n *Next) {
		n.Stable, n.Canary, n.Deny = virtualservice.Ref{Subset: "v0"}, virtualservice.Ref{Subset: "v1"}, []string{"orders-service/v1", "orders-service"}
	})
	spelled := func(in *Input) { in.Spare = []string{"orders-service/v1"} }
	s := tell(t, locked(LockBuild), wasV1V2, deniesV2, ofV2, live, v0v1, spelled)
	for range 2 {
		d := s.then(time.Minute, gets(50))
		if d.Move != MoveStable || slices.Contains(d.Record.Deny, "orders-service/v1") {
			t.Errorf("move %v, %s: %s, denies %v", d.Move, d.Record.Status.State, d.Record.Status.Reason, d.Record.Deny)
		}
		s.in.Marked = &LockAnnotation{By: "guardian", Canary: d.Record.Deny, Stable: d.Record.Stable, Build: "b1", Since: d.Record.Lock.Since, Message: d.Record.Message}
	}
}

// The lock goes over with the refused build; what runs beside it is innocent, however old.
func TestALockThatGoesOverRefusesNoInnocentBuild(t *testing.T) {
	ofV2 := func(in *Input) { in.Record.Lock.of(in.Guard) }
	s := tell(t, locked(LockBuild), wasV1V2, deniesV2, ofV2, live, toV3(up(time.Hour, "b1", "b5")))
	s.then(time.Second)
	d := s.then(time.Second, pairOf("b1", "b5"), func(in *Input) {
		in.Next, in.Guard.Canary, in.Deny = nil, virtualservice.Ref{Subset: "v3"}, []string{"orders-service/v3", "orders-service"}
		in.Canary.Build = CombineBuilds(in.Canary.Builds)
		for b := range in.Canary.Ages {
			agedOf(b, at.Add(-time.Hour), at.Add(-time.Hour))(in)
		}
	})
	if r := d.Record; r.Lock == nil || r.Lock.Canary != "v3" || slices.Contains(r.Refused, "b5") || !slices.Contains(r.Deny, "orders-service/v2") || slices.Contains(eventsOf(r), EventNewBuild) {
		t.Errorf("lock %+v, refused %v, denies %v, %v", r.Lock, r.Refused, r.Deny, eventsOf(r))
	}
}

// A rollback that is under way when its lock goes over is not told before the canary
// that the lock is of now has no traffic either.
func TestALockThatGoesOverTakesTheRollbackWithIt(t *testing.T) {
	s := tell(t, locked(LockBuild), underWay(50), wasV1V2, deniesV2, live, gets(0), toV3(up(time.Minute, "b1"), nextGets(50)))
	d := s.then(time.Second)
	if slices.ContainsFunc(d.Added, func(e HistoryEntry) bool { return e.Event == EventRolledBack }) || !d.Record.Status.Moving.RollsBack() || d.Record.Lock.Canary != "v3" {
		t.Fatalf("moving %+v, lock %+v, added %+v", d.Record.Status.Moving, d.Record.Lock, d.Added)
	}
	ofV3 := func(in *Input) {
		in.Next, in.Guard.Canary = nil, virtualservice.Ref{Subset: "v3"}
		in.Deny = []string{"orders-service/v3", "orders-service"}
		gets(50)(in)
	}
	if d := s.then(time.Second, ofV3); d.Move != MoveStable {
		t.Errorf("move %v, %s: %s", d.Move, d.Record.Status.State, d.Record.Status.Reason)
	}
	if d := s.then(time.Second); d.Record.Status.State != StateRolledBack || countOf([]Event{d.Added[0].Event}, EventRolledBack) != 1 || d.Added[0].From != 50 {
		t.Errorf("%+v, added %+v", d.Record.Status, d.Added)
	}
}

func TestThePairThatIsReadIsThatOfTheLock(t *testing.T) {
	g := func(stable, canary string) Guard {
		s, _ := virtualservice.ParseRef(stable)
		c, _ := virtualservice.ParseRef(canary)
		return Guard{Name: "orders-service", Namespace: testNamespace, Stable: s, Canary: c}
	}
	for name, c := range map[string]struct {
		lock  *Lock
		moves *Moves
		g     Guard
		want  string
		other bool
	}{
		"no lock":                              {nil, &Moves{Stable: "v1", Canary: "v2"}, g("v1", "v3"), "v1 v3", false},
		"another canary":                       {&Lock{Stable: "v1", Canary: "v2"}, nil, g("v1", "v3"), "v1 v2", true},
		"another pair":                         {&Lock{Stable: "v1", Canary: "v2"}, nil, g("v3", "v4"), "v1 v2", true},
		"another stable":                       {&Lock{Stable: "v1", Canary: "v2"}, nil, g("v0", "v2"), "v0 v2", false},
		"exchanged":                            {&Lock{Stable: "v1", Canary: "v2"}, nil, g("v2", "v1"), "v2 v1", false},
		"stable is what was locked":            {&Lock{Stable: "v1", Canary: "v2"}, nil, g("v2", "v3"), "v2 v3", false},
		"stable is the canary":                 {&Lock{Stable: "v1", Canary: "v2"}, nil, g("v0", "v1"), "v1 v2", true},
		"a host":                               {&Lock{Stable: "host:o-v1", Canary: "host:o-v2"}, nil, g("host:o-v1", "host:o-v3"), "host:o-v1 host:o-v2", true},
		"the same host":                        {&Lock{Stable: "host:o-v1", Canary: "host:o-v2"}, nil, g("host:o-v1", "host:o-v2."+testNamespace+".svc.cluster.local"), "host:o-v1 host:o-v2", false},
		"of before locks had a pair":           {&Lock{}, &Moves{Stable: "v1", Canary: "v2"}, g("v1", "v3"), "v1 v2", true},
		"of before, and nothing tells its own": {&Lock{}, nil, g("v1", "v3"), "v1 v3", false},
		"one that is none":                     {&Lock{Stable: "v2", Canary: "v2"}, nil, g("v1", "v3"), "v1 v3", false},
		"one that is edited to be none":        {&Lock{Stable: "v1", Canary: "v1"}, &Moves{Stable: "v1", Canary: "v2"}, g("v1", "v3"), "v1 v2", true},
		"one whose stable is taken out":        {&Lock{Canary: "v2"}, &Moves{Stable: "v1", Canary: "v2"}, g("v1", "v3"), "v1 v2", true},
		"one that is edited to another":        {&Lock{Stable: "v1", Canary: "v9"}, &Moves{Stable: "v1", Canary: "v2"}, g("v1", "v3"), "v1 v2", true},
		"a status that is edited":              {&Lock{Stable: "v1", Canary: "v2"}, &Moves{Stable: "v1", Canary: "v9"}, g("v1", "v3"), "v1 v2", true},
		"one that cannot be read":              {&Lock{Stable: "v1", Canary: "port:7"}, nil, g("v1", "v3"), "v1 v3", false},
	} {
		got, other := Record{Lock: c.lock, Status: Status{Moves: c.moves}, Deny: []string{"orders-service/v2", "orders-service"}}.GuardOf(c.g, true, "cluster.local")
		if text := got.Stable.String() + " " + got.Canary.String(); text != c.want || other != c.other {
			t.Errorf("%s: %s, another: %t; want %s, %t", name, text, other, c.want, c.other)
		}
	}
}

// Another stable under a lock is the lease holder's to have, once both say that it was one
// before: whoever edits one of the two leads no traffic elsewhere.
func TestAnotherStableUnderALockIsOfTheReplicaThatLeads(t *testing.T) {
	v2 := virtualservice.Ref{Subset: "v2"}
	g := Guard{Name: "orders-service", Namespace: testNamespace, Stable: virtualservice.Ref{Subset: "v0"}, Canary: v2}
	for name, c := range map[string]struct {
		leads       bool
		lock, moves string
		stable      string
	}{
		"it leads":             {true, "v1", "v1", "v0"},
		"another leads":        {false, "v1", "v1", "v1"},
		"the lock is edited":   {false, "v9", "v1", "v0"},
		"the status is edited": {false, "v1", "v9", "v0"},
	} {
		got, other := Record{Lock: &Lock{Stable: c.lock, Canary: "v2"}, Status: Status{Moves: &Moves{Stable: c.moves, Canary: "v2"}}}.GuardOf(g, c.leads, "cluster.local")
		if got.Stable.String() != c.stable || got.Canary != v2 || other {
			t.Errorf("%s: %s and %s, another: %t; want stable %s", name, got.Stable, got.Canary, other, c.stable)
		}
	}
}

// Whoever looks first ends a disarm; then nothing says any more that an alert rolls nothing
// back.
func TestADisarmOfAnExchangedGuardThatAnyReplicaEndsIsNotToldOn(t *testing.T) {
	disarmed := func(in *Input) {
		in.Record.Status.State, in.Record.Status.Disarmed = StateDisarmed, &Disarm{By: "ann", Reason: "because", At: at, Until: at.Add(time.Hour)}
	}
	r := replicasOf([]but{exchanged(100)}, []but{exchanged(100)}, locked(LockBuild), wasV1V2, deniesV2, disarmed)
	r.now = at.Add(2 * time.Hour)
	in := r.follower
	in.Record, in.Heartbeat = r.rec, r.now
	d := Decide(in, r.now)
	if st := d.Record.Status; st.Disarmed != nil || st.State != StateBlocked || strings.Contains(st.Reason, "disarmed") {
		t.Errorf("%s (%s), disarmed %+v", st.State, st.Reason, st.Disarmed)
	}
	if r.rec = d.Record; len(r.take(50)) > 1 || countOf(r.events(), EventBlocked) != 1 || r.rec.Status.State != StateBlocked {
		t.Errorf("afterwards %s, of: %v", r.rec.Status.State, r.events())
	}
}

// What CI gives the canary is put back by a replica with the file of before, too: that the
// guard is blocked by the lease holder's stays its to tell.
func TestAReplicaThatPutsACanaryBackLeavesWhatTheLeaseHolderTells(t *testing.T) {
	r := replicasOf([]but{exchanged(0)}, nil, locked(LockBuild), wasV1V2, deniesV2)
	r.take(5)
	before := len(r.rec.History)
	for range 5 {
		gets(30)(&r.follower)
		w := r.take(2)
		if r.rec.Status.State != StateBlocked || !slices.ContainsFunc(w, func(d Decision) bool { return d.Move == MoveStable }) {
			t.Fatalf("%s, %d writes", r.rec.Status.State, len(w))
		}
		gets(0)(&r.follower)
		r.take(2)
	}
	if told := r.events()[before:]; countOf(told, EventBlocked) != 0 {
		t.Errorf("told %v", told)
	}
}

// Another stable alone is the configuration's to have, at once: the lock goes with it,
// and a build that comes next is not begun anew after its first step.
func TestAnotherStableUnderALockIsNoExchange(t *testing.T) {
	s := tell(t, locked(LockBuild), wasV1V2, deniesV2, live, mode(PromotionAuto), func(in *Input) {
		in.Record.Lock.of(in.Guard)
		in.Forward = &Forward{Requests: 1000}
	})
	v0 := func(in *Input) {
		in.Guard.Stable, in.Spare = virtualservice.Ref{Subset: "v0"}, []string{"orders-service/v0"}
		in.Heartbeat = s.now
	}
	d := s.then(time.Minute, v0)
	if l := d.Record.Lock; l == nil || l.Stable != "v0" || l.Canary != "v2" || d.Record.Status.Moves.Stable != "v0" {
		t.Fatalf("lock %+v, moves %+v", l, d.Record.Status.Moves)
	}
	s.then(time.Minute, v0, runs("b2", 2), agedOf("b2", at.Add(90*time.Second), at.Add(90*time.Second)))
	s.locked(false)
	for range 2 {
		if d = s.then(time.Second, v0); d.Move == MoveForward {
			gets(d.Weight)(&s.in)
		}
	}
	if st := d.Record.Status; countOf(eventsOf(d.Record), EventExchanged) != 0 || st.Promoting != "b2" {
		t.Errorf("promoting %q, weight %d, %v", st.Promoting, st.Weight, eventsOf(d.Record))
	}
}

func eventsOf(r Record) (out []Event) {
	for _, e := range r.History {
		out = append(out, e.Event)
	}
	return out
}

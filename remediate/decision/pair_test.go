package decision

import (
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

func (r *replicas) events() (out []Event) {
	for _, e := range r.rec.History {
		out = append(out, e.Event)
	}
	return out
}

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

// toV3 has the configuration say that v3 is the canary, whose first pods are coming up.
func toV3(in *Input) {
	in.Guard.Canary = virtualservice.Ref{Subset: "v3"}
	in.Deny, in.Spare = []string{"orders-service/v3", "orders-service"}, []string{"orders-service/v1"}
	runs("b3", 0)(in)
}

func TestReplicasThatReadAnotherCanaryUnderALockComeToRest(t *testing.T) {
	was := []but{locked(LockBuild), wasV1V2, deniesV2}
	for name, files := range map[string][2][]but{"the lease holder first": {{toV3}, {}}, "another first": {{}, {toV3}}} {
		t.Run(name, func(t *testing.T) {
			r := replicasOf(files[0], files[1], was...)
			if w := r.take(100); len(w) > 3 || r.rec.Lock == nil {
				t.Fatalf("%d of 200 looks write, lock %v, of: %v", len(w), r.rec.Lock, r.events())
			}
			deny, message := r.rec.Deny, r.rec.Message
			gets(30)(&r.follower) // of what the lease holder does not have for its canary
			r.follower.Alerts = []Alert{{Name: "Errors", Fingerprint: "f1", Action: ActionRollback, StartsAt: r.now}}
			if w := r.take(10); len(w) != 1 || w[0].Move != MoveNone || !slices.Equal(r.rec.Deny, deny) || r.rec.Message != message {
				t.Errorf("%d of 20 looks write, denied is %v, was %v; message %q", len(w), r.rec.Deny, deny, r.rec.Message)
			}
		})
	}
}

package decision

import (
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
	d := s.then(time.Second, exchanged(0))
	st := d.Record.Status
	if d.Move != MoveNone || st.State != StateIdle || st.Weight != 0 || st.Build != "old" || st.Promoting != "" || st.Fresh || len(st.Splits) > 0 || !st.CompletedAt.IsZero() {
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
			if r.Status.State != StateBlocked || !strings.Contains(r.Status.Reason, "stable v2 is what the lock denies: unlock, or have stable and canary be what they were (v1 and v2)") {
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

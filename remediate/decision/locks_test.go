package decision

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// story is one guard's decisions, one after the other.
type story struct {
	t   *testing.T
	in  Input
	now time.Time
}

func tell(t *testing.T, edits ...but) *story {
	return &story{t: t, in: given(edits...), now: at}
}

// then has time pass and something happen, and decides.
func (s *story) then(after time.Duration, edits ...but) Decision {
	s.t.Helper()
	s.now = s.now.Add(after)
	for _, edit := range edits {
		edit(&s.in)
	}
	d := Decide(s.in, s.now)
	s.in.Record = d.Record
	if d.Move == MoveStable {
		gets(0)(&s.in)
	}
	return d
}

func (s *story) locked(want bool) {
	s.t.Helper()
	if got := s.in.Record.Lock != nil; got != want {
		s.t.Fatalf("locked: %v, want %v; status %+v", got, want, s.in.Record.Status)
	}
}

func (s *story) refused(want ...string) {
	s.t.Helper()
	if !slices.Equal(s.in.Record.Refused, want) {
		s.t.Fatalf("refused %v, want %v", s.in.Record.Refused, want)
	}
}

func quietNow(in *Input) { in.Alerts = nil }

// firesNow is a rollback alert that begins in the instant of a story.
func (s *story) firesNow(name string, after time.Duration) but {
	fires := s.now.Add(after)
	return func(in *Input) {
		in.Alerts = append(in.Alerts, Alert{Name: name, Action: ActionRollback, Fingerprint: "f-" + name, StartsAt: fires, Summary: "7% of requests fail"})
	}
}

func TestABuildThatWasProvenIsNotRefusedForTheNextOne(t *testing.T) {
	s := tell(t, live, promoted(29*time.Minute))
	s.then(2 * time.Minute) // b1 is completed
	s.then(time.Hour, runs("b2", 1, "b1"))
	d := s.then(time.Minute, s.firesNow("Errors", time.Minute))
	s.locked(true)
	s.refused("b2")
	if m := d.Record.Message; !strings.Contains(m, "Build b2 is refused") || strings.Contains(m, "b1") {
		t.Errorf("message %q", m)
	}
	s.then(time.Minute, asks(RequestUnlock), quietNow)
	s.locked(false)
	s.refused()
	if d := s.then(24*time.Hour, runs("b1", 2), gets(50)); d.Move != MoveNone || d.Record.Lock != nil {
		t.Errorf("undone to the build that was proven: %s, lock %+v", d.Reason, d.Record.Lock)
	}
}

// By a clock that was a day ahead a build serves until tomorrow that has been gone for
// hours: to refuse it would be to let go of what fails now.
func TestABuildThatServedUntilAFutureTimeIsNotToBlameForEver(t *testing.T) {
	s := tell(t, advancing(30), runs("b1", 2), func(in *Input) {
		in.Record.Status.Proven, in.Record.Status.Served = []string{"b1"}, []Served{{Build: "b0", From: at, Until: at.Add(26 * time.Hour)}, {Build: "b1", From: at}}
	})
	s.then(time.Minute)
	d := s.then(5*time.Hour, s.firesNow("CanaryErrors", 5*time.Hour))
	if l := d.Record.Lock; l == nil || !slices.Equal(l.Refused, []string{"b1"}) {
		t.Errorf("lock %+v; served %+v", l, s.in.Record.Status.Served)
	}
}

func TestAnUndoRightAfterTheAlertLiftsTheLockForAProvenBuild(t *testing.T) {
	s := tell(t, live, promoted(29*time.Minute))
	s.then(2 * time.Minute)
	s.then(time.Hour, runs("b2", 1, "b1"))
	s.then(time.Minute, s.firesNow("Errors", time.Minute))
	s.locked(true)
	s.then(time.Minute, quietNow, runs("b1", 2), ages("b1", 24*time.Hour)) // its pods were never replaced
	s.locked(false)
	s.refused("b2")
}

// The replica that has set the lock has died, or has not written yet. The other one has
// not heard of the alert, and none of what runs is refused: what was begun is done and
// told, and only then does the present build lift the lock.
func TestALockIsNotLiftedInTheMiddleOfItsRollback(t *testing.T) {
	for name, c := range map[string]struct {
		then  but
		lifts bool
	}{
		"the build was there": {then: quietNow},
		"one without a pod has come beside": {then: func(in *Input) {
			ready := in.Canary
			pairOf("b1", "x1")(in)
			in.Canary.Running, in.Canary.Ages = []string{"b1"}, ready.Ages
		}},
		"it has come since":                 {func(in *Input) { runs("b3", 2)(in); agedOf("b3", at.Add(2*time.Minute), at.Add(2*time.Minute))(in) }, true},
		"stable is gone":                    {stableReady(0), true},
		"the API server refuses the weight": {func(in *Input) { in.Record.Status.Moving.Refused = "forbidden" }, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := tell(t, live, runs("b1", 2), func(in *Input) {
				in.Record.Status.Proven = []string{"b1"}
				in.Record.Status.Served = []Served{{Build: "b0", From: at.Add(-time.Hour), Until: at.Add(-time.Minute)}, {Build: "b1", From: at.Add(-time.Minute)}}
			})
			s.then(time.Minute, s.firesNow("Errors", time.Minute))
			s.locked(true)
			s.refused("b0")
			d := s.then(time.Second, quietNow, gets(50), c.then)
			if s.locked(!c.lifts); c.lifts {
				return
			}
			if d.Move != MoveStable || !d.Record.Status.Moving.RollsBack() {
				t.Fatalf("move %v (%s), %+v", d.Move, d.Reason, d.Record.Status.Moving)
			}
			d = s.then(time.Second)
			s.locked(false)
			if got, want := verdictOf(d).added, "rolled-back by alert: 50→0; unlocked by new build: 50→0"; got != want || d.Signal == "" {
				t.Errorf("told %q, counted as %q; want %q", got, d.Signal, want)
			}
		})
	}
}

func TestATemplateWithoutAReadyPodIsNotRefused(t *testing.T) {
	s := tell(t, live)
	s.then(time.Minute, runs("b2", 0, "b1"), appearedAt(at.Add(time.Minute))) // the fix begins to roll out
	s.then(time.Minute, s.firesNow("Errors", time.Minute))
	s.locked(true)
	s.refused("b1")
	s.then(time.Minute, quietNow, runs("b2", 2), agedOf("b2", at.Add(time.Minute), at.Add(3*time.Minute)))
	s.locked(false)
	s.refused("b1")
}

func TestABuildWhosePodsAreReadyNowAndThenIsRefused(t *testing.T) {
	s := tell(t, live)
	s.then(time.Minute, runs("b2", 2), appearedAt(at.Add(time.Minute)), agedOf("b2", at.Add(time.Minute), at.Add(time.Minute)))
	s.then(time.Minute, runs("b2", 0)) // it crashes
	s.then(time.Second, s.firesNow("Restarts", time.Second))
	s.locked(true)
	if !slices.Contains(s.in.Record.Refused, "b2") {
		t.Fatalf("refused %v, want b2 among them", s.in.Record.Refused)
	}
	s.then(time.Minute, quietNow, runs("b2", 2), agedOf("b2", at.Add(time.Minute), s.now)) // and is ready again
	s.locked(true)
}

func TestABuildThatServedAlreadyWhenTheLockWasSetDoesNotLiftIt(t *testing.T) {
	s := tell(t, live)
	s.then(time.Minute, s.firesNow("Errors", time.Minute)) // the cache has not been told of b2
	s.locked(true)
	s.refused("b1")
	d := s.then(time.Second, quietNow, runs("b2", 2), agedOf("b2", at, at.Add(10*time.Second)))
	s.locked(true)
	s.refused("b1", "b2")
	if !strings.Contains(d.Record.Message, "Builds b1, b2 are refused") {
		t.Errorf("message %q", d.Record.Message)
	}
	// It stays refused when its pods are replaced, as by the drain of a node.
	s.then(time.Hour, agedOf("b2", s.now, s.now))
	s.locked(true)
	s.then(time.Minute, runs("b3", 2), agedOf("b3", s.now, s.now))
	s.locked(false)
}

func TestAnUpgradeThatHashesOtherwiseLiftsNoLock(t *testing.T) {
	seen := func(build string) but {
		return func(in *Input) { in.Canary.Revisions = []Revision{{"orders-v2-1", build}} }
	}
	for name, named := range map[string]bool{"the record knows the revision": true, "it knows none, and the scheme is another": false} {
		t.Run(name, func(t *testing.T) {
			s := tell(t, live, func(in *Input) {
				in.Record.Status.Build = "b0-aa"
				in.Record.Status.Served = nil
			}, runs("b0-aa", 2))
			if named {
				s.then(0, seen("b0-aa"))
			}
			s.then(time.Minute, s.firesNow("Errors", time.Minute))
			s.refused("b0-aa")
			s.then(time.Second)
			// All nodes were drained meanwhile: the pods are younger than the lock.
			d := s.then(time.Hour, quietNow, runs("b1-zz", 2), agedOf("b1-zz", at.Add(2*time.Hour), at.Add(2*time.Hour)), func(in *Input) {
				if named {
					seen("b1-zz")(in)
				}
			})
			s.locked(true)
			for _, e := range d.Added {
				t.Errorf("told: %s: %s", e.Event, e.Reason)
			}
			s.then(time.Minute, runs("b1-yy", 2), agedOf("b1-yy", at.Add(3*time.Hour), at.Add(3*time.Hour)), func(in *Input) { in.Canary.Revisions = []Revision{{"orders-v2-2", "b1-yy"}} })
			if named {
				s.locked(false)
			}
		})
	}
}

func TestAnUnlockAllowsWhatTheLockRefusedAndNoMore(t *testing.T) {
	s := tell(t, live, func(in *Input) { in.Record.Refused = []string{"b0"} }, runs("b1", 1, "b3"))
	s.then(time.Minute, s.firesNow("Errors", time.Minute))
	s.refused("b0", "b1", "b3")
	s.then(time.Minute, quietNow, runs("b4", 1, "b1")) // another build begins to roll out
	s.then(time.Minute, asks(RequestUnlock))
	s.locked(false)
	s.refused("b0")
	// One that was refused before comes while the lock stands: it is what keeps the lock, the message names it, and an unlock is for it too.
	s.then(time.Hour, gets(50), runs("b4", 2))
	s.then(time.Minute, s.firesNow("Again", time.Minute))
	s.refused("b0", "b4")
	d := s.then(time.Minute, quietNow, runs("b0", 2))
	if !strings.Contains(d.Record.Message, "b0") {
		t.Errorf("message %q", d.Record.Message)
	}
	s.then(time.Minute, asks(RequestUnlock))
	s.locked(false)
	s.refused()
}

func TestAnUnlockUnderAllTrafficBeginsTheRollbackWindow(t *testing.T) {
	for name, lift := range map[string]but{"by a person": asks(RequestUnlock), "by a new build": runs("b2", 2)} {
		t.Run(name, func(t *testing.T) {
			// CI has given it all traffic a moment ago.
			s := tell(t, locked(LockBuild), live, gets(100), lift, func(in *Input) { in.Canary.Ages = map[string]PodAge{"b2": {at, at, at}} })
			d := s.then(0)
			s.locked(false)
			if st := d.Record.Status; st.State == StateCompleted || len(st.Proven) > 0 || !st.PromotedAt.Equal(at) {
				t.Errorf("state %s, since %s; proven: %v", st.State, st.PromotedAt, st.Proven)
			}
			if d := s.then(time.Minute, s.firesNow("Errors", time.Minute)); d.Move != MoveStable {
				t.Errorf("an alert a minute later: move %v, %s", d.Move, d.Record.Status.Reason)
			}
		})
	}
}

func TestABuildBesideARefusedOneThatIsBackIsNotRefused(t *testing.T) {
	s := tell(t, live, func(in *Input) { in.Record.Refused = []string{"b0"} })
	s.then(time.Minute, runs("b0", 1, "b1"))
	s.locked(true)
	s.refused("b0")
	s.then(time.Minute, runs("b1", 2)) // the undo is undone; b1's pods are as old as ever
	s.locked(false)
	s.refused("b0")
}

func TestAPersonsRollbackRefusesAProvenBuildToo(t *testing.T) {
	s := tell(t, live, promoted(29*time.Minute))
	s.then(2 * time.Minute)
	s.then(time.Hour, asks(RequestRollback))
	s.refused("b1")
	s.then(time.Minute)
	s.locked(true)
}

func TestAProofIsWorthNothingWhenNobodyElseCanBeToBlame(t *testing.T) {
	s := tell(t, live, promoted(29*time.Minute))
	s.then(2 * time.Minute)
	s.then(time.Minute, gets(50))
	s.then(time.Hour, s.firesNow("Errors", time.Hour))
	s.refused("b1")
	s.then(time.Minute, quietNow)
	s.locked(true)
}

func TestABuildThatWasReplacedLongBeforeTheAlertIsNotRefused(t *testing.T) {
	s := tell(t, live)
	s.then(time.Minute, runs("b2", 1, "b1"), appearedAt(at.Add(time.Minute)))
	s.then(time.Minute, runs("b2", 2), agedOf("b2", at.Add(time.Minute), at.Add(time.Minute)))
	s.then(time.Hour)
	s.then(time.Minute, s.firesNow("Errors", time.Minute))
	s.refused("b2")
}

func TestABuildThatServedWhileTheAlertsRequestsWereMadeIsRefused(t *testing.T) {
	s := tell(t, live)
	s.then(time.Minute, runs("b2", 1, "b1"), appearedAt(at.Add(time.Minute)))
	s.then(time.Minute, runs("b2", 2), agedOf("b2", at.Add(time.Minute), at.Add(time.Minute)))
	s.then(time.Second, s.firesNow("Errors", time.Second))
	s.refused("b1", "b2")
}

func TestABuildThatWasReplacedBeforeTheCanaryHadTrafficIsNotRefused(t *testing.T) {
	s := tell(t, live, wasIn(StateIdle, 0), func(in *Input) { in.Record.Status.Served = nil })
	s.then(time.Minute)
	s.then(time.Minute, runs("b2", 2), appearedAt(at.Add(time.Minute)), agedOf("b2", at.Add(time.Minute), at.Add(time.Minute)))
	s.then(time.Second, gets(10))
	s.then(time.Minute, s.firesNow("Errors", time.Minute))
	s.refused("b2")
}

func TestWhatCannotBeToldIsSaid(t *testing.T) {
	untold := func(in *Input) {
		in.Canary = Workload{Ready: 2, Untold: []string{"orders-0 of Fleet orders", "orders-1 of Fleet orders"}}
	}
	d := tell(t, untold).then(0, bad)
	if m := d.Record.Message; !strings.Contains(m, "orders-0 of Fleet orders") || strings.Contains(m, "deploy a new build") || !strings.Contains(m, "unlock") {
		t.Errorf("message %q", m)
	}
	beside := func(in *Input) { in.Canary.Ready, in.Canary.Untold = 3, []string{"orders-0 of Fleet orders"} }
	s := tell(t, locked(LockBuild), live, runs("b2", 2), beside)
	s.then(0)
	s.locked(true)
	if r := s.in.Record.Status.Reason; !strings.Contains(r, "orders-0 of Fleet orders") {
		t.Errorf("the lock stays, and the reason is %q", r)
	}
	auto := func(in *Input) { in.Guard.Promotion.Mode, in.Record.Status.Promoting = PromotionAuto, "b1" }
	if w := tell(t, auto, live, beside).then(0).Record.Status; w.WaitingFor != WaitRollout || !strings.Contains(w.Waiting, "orders-0 of Fleet orders") {
		t.Errorf("the step waits: %s", w.Waiting)
	}
	byHand := func(in *Input) { in.Canary.Unowned = []string{"kubectl-run"} }
	if w := tell(t, auto, live, runs("b1", 0), byHand).then(0).Record.Status; !strings.Contains(w.Waiting, "kubectl-run is not counted") {
		t.Errorf("the step waits: %s", w.Waiting)
	}
	overlaps := func(in *Input) { in.Stable.Overlap = "the labels of stable select the canary's pods too" }
	d = tell(t, overlaps).then(0, bad)
	if d.Move != MoveStable || !strings.Contains(d.Marks.Reason, "select the canary's pods too") || !strings.Contains(d.Record.Message, "select the canary's pods too") {
		t.Errorf("move %v, reason %q, message %q", d.Move, d.Record.Status.Reason, d.Record.Message)
	}
	if w := tell(t, auto, live, overlaps).then(0).Record.Status; w.WaitingFor != WaitStable || !strings.Contains(w.Waiting, "select the canary's pods too") {
		t.Errorf("the step waits for %s: %s", w.WaitingFor, w.Waiting)
	}
}

func foreign(since time.Duration) but {
	return func(in *Input) {
		in.Foreign = []Foreign{{Guard: "old-name", Lock: Lock{Kind: LockBuild, Build: "b1", Refused: []string{"b1"}, Since: at.Add(-since), By: ByAlert, Reason: "Errors: 7% of requests fail"}}}
	}
}

func TestALockOfAnotherNameThatDeniesTheCanaryIsThisGuardsToo(t *testing.T) {
	s := tell(t, live, foreign(10*time.Minute))
	d := s.then(0)
	s.locked(true)
	s.refused("b1")
	if d.Move != MoveStable || d.Marks.State != StateRolledBack || d.Record.Lock.From != "old-name" || !strings.Contains(words(d), "old-name") {
		t.Errorf("move %v, state %s, lock %+v; in words: %s", d.Move, d.Record.Status.State, d.Record.Lock, words(d))
	}
	s.then(time.Minute, runs("b2", 2), agedOf("b2", at, at))
	s.locked(false)
	s.then(time.Minute, gets(10)) // the other's lock still stands, and is of before
	s.locked(false)
	s.then(time.Minute, foreign(-2*time.Minute)) // it is locked anew
	s.locked(true)
	if d := tell(t, foreign(time.Minute), lockKind(LockNone)).then(0); d.Record.Lock != nil || d.Move != MoveNone {
		t.Errorf("without locks: %+v", d.Record.Lock)
	}
}

func TestNoStepWhileALockOfAnotherNameDeniesTheCanary(t *testing.T) {
	auto := func(in *Input) {
		in.Guard.Promotion.Mode, in.Record.Status.Promoting, in.Record.Status.LiftedAt = PromotionAuto, "b1", at
		in.Heartbeat, in.Forward = at, &Forward{Requests: 1000}
	}
	if d := tell(t, live, auto).then(0); d.Move != MoveForward {
		t.Fatalf("without it: %v, %s", d.Move, d.Record.Status.Waiting)
	}
	d := tell(t, live, auto, foreign(10*time.Minute)).then(0)
	if s := d.Record.Status; d.Move != MoveNone || s.WaitingFor != WaitLock || !strings.Contains(s.Waiting, "old-name") {
		t.Errorf("move %v, waiting for %s: %s", d.Move, s.WaitingFor, s.Waiting)
	}
	d = tell(t, live, auto, func(in *Input) { in.Unlisted = "list locked records: forbidden" }).then(0)
	if s := d.Record.Status; d.Move != MoveNone || s.WaitingFor != WaitLock || !strings.Contains(s.Waiting, "forbidden") {
		t.Errorf("not listed: move %v, waiting for %s: %s", d.Move, s.WaitingFor, s.Waiting)
	}
}

func TestTheListsOfBuildsAreBounded(t *testing.T) {
	s := tell(t, live)
	for i := range 100 {
		build := "n" + strings.Repeat("x", i)
		s.then(time.Second, runs(build, 2), gets(100), func(in *Input) {
			in.Canary.Revisions = []Revision{{"orders-" + build, build}}
			in.Guard.Rollback.Window = 0
		})
		s.then(time.Second)
	}
	st := s.in.Record.Status
	if len(st.Proven) == 0 || len(st.Proven) > maxProven || len(st.Revisions) > maxRevisions || len(st.Served) > maxServed {
		t.Errorf("%d proven, %d revisions, %d served", len(st.Proven), len(st.Revisions), len(st.Served))
	}
	last := s.in.Canary.Build
	if st.Proven[len(st.Proven)-1] != last || st.Revisions[len(st.Revisions)-1].Build != last {
		t.Errorf("the last build %s is forgotten: %v", last, st)
	}
}

func TestTheWindowOfABuildUnderAllTrafficBeginsWhenItIsOut(t *testing.T) {
	s := tell(t, live, promoted(29*time.Minute))
	s.then(2 * time.Minute) // b1 is completed
	s.then(time.Hour, runs("b2", 0, "b1"))
	for range 3 { // a slow rollout takes longer than the window
		d := s.then(29*time.Minute, runs("b2", 1, "b1"))
		if d.Record.Status.State != StateUnverified {
			t.Fatalf("in the middle of the rollout it is %s", d.Record.Status.State)
		}
	}
	s.then(time.Minute, runs("b2", 2))
	if d := s.then(29 * time.Minute); d.Record.Status.State != StateUnverified {
		t.Errorf("29 minutes after the rollout: %s, %s", d.Record.Status.State, d.Record.Status.Reason)
	}
	if d := s.then(time.Minute); d.Record.Status.State != StateCompleted {
		t.Errorf("30 minutes after the rollout: %s, %s", d.Record.Status.State, d.Record.Status.Reason)
	}
}

func TestARolloutAtFirstSightHasItsWindowToo(t *testing.T) {
	s := tell(t, live, unseen, gets(100), runs("b1", 1, "b0"), appearedAt(at.Add(-time.Hour)))
	if d := s.then(0); d.Record.Status.State != StatePromoted {
		t.Errorf("in the middle of a rollout: %s", d.Record.Status.State)
	}
	s.then(time.Minute, runs("b1", 2))
	if d := s.then(29 * time.Minute); d.Record.Status.State != StatePromoted {
		t.Errorf("29 minutes after it: %s", d.Record.Status.State)
	}
}

func TestTheFirstWorkloadOfACanaryIsNew(t *testing.T) {
	auto := func(in *Input) {
		in.Guard.Promotion.Mode, in.Heartbeat, in.Forward = PromotionAuto, at.Add(time.Hour), &Forward{Requests: 1000}
	}
	made := func(when time.Time) but { return func(in *Input) { in.Canary.First = when } }
	for name, c := range map[string]struct {
		deployed but
		moves    bool
	}{
		"made after the first look":            {made(at.Add(time.Minute)), true},
		"with a template of after it":          {appearedAt(at.Add(time.Minute)), true},
		"made in the second of the first look": {made(at.Truncate(time.Second)), true},
		"made before, and only now to be seen": {made(at.Add(-time.Minute)), false},
		"made nobody knows when":               {func(*Input) {}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := tell(t, live, unseen, gets(0), noCanary, auto)
			s.then(0)
			d := s.then(time.Hour, runs("b1", 2), c.deployed)
			if got := d.Move == MoveForward; got != c.moves {
				t.Errorf("moves %v, want %v; waiting: %s", got, c.moves, d.Record.Status.Waiting)
			}
		})
	}
}

func TestAnAlertBeganNoLaterThanItWasHeard(t *testing.T) {
	// Prometheus's clock is five minutes ahead.
	s := tell(t, live)
	s.then(0, fires(ActionRollback, "Errors", -5*time.Minute))
	s.locked(true)
	s.then(time.Second, asks(RequestUnlock), gets(50))
	s.locked(false)
	s.then(time.Second)
	s.locked(false)
	s.then(s.in.Guard.AlertWindow) // it fires on
	s.locked(true)
	// An alert about the build before is none about the new one.
	s = tell(t, live, gets(0), wasIn(StateIdle, 0))
	s.then(0, fires(ActionRollback, "Errors", -5*time.Minute))
	s.then(time.Minute, runs("b2", 2), appearedAt(at.Add(time.Minute)), agedOf("b2", at.Add(time.Minute), at.Add(time.Minute)), gets(10))
	s.locked(false)
}

func TestALockThatIsSetAgainRefusesWhatItDid(t *testing.T) {
	unrecorded := func(builds ...string) but {
		return func(in *Input) {
			in.Unrecorded = &Lock{Kind: LockBuild, Build: builds[0], Refused: builds, Since: at, By: ByAlert, Reason: "Errors: 7% of requests fail"}
		}
	}
	t.Run("its pods crash in that moment", func(t *testing.T) {
		s := tell(t, unseen, live, runs("b1", 0), unrecorded("b1"))
		s.then(time.Minute)
		s.locked(true)
		s.refused("b1")
		s.then(time.Minute, runs("b1", 2), agedOf("b1", at.Add(-time.Hour), at.Add(2*time.Minute)), func(in *Input) { in.Unrecorded = nil })
		s.locked(true)
	})
	t.Run("beside a build that is proven", func(t *testing.T) {
		s := tell(t, live, runs("b2", 1, "b1"), unrecorded("b2"), func(in *Input) {
			in.Record.Status.Proven, in.Record.Status.Build = []string{"b1"}, "b2"
		})
		s.then(time.Minute)
		s.locked(true)
		s.refused("b2")
	})
	t.Run("of two Deployments", func(t *testing.T) {
		for _, refused := range [][]string{{"b1", "w1"}, {"w1"}, {"a0", "w1"}} {
			s := tell(t, live, pairOf("b1", "w1"), gets(0), unrecorded(refused...), func(in *Input) { in.Record.Status.Build = "b1+w1" })
			s.then(time.Minute)
			s.locked(true)
			s.refused(refused...)
		}
		s := tell(t, live, pairOf("b2", "w2"), gets(0), unrecorded("b1", "w1"), func(in *Input) { in.Record.Status.Build = "b2+w2" })
		s.then(time.Minute)
		s.locked(false)
	})
	t.Run("and none that came since", func(t *testing.T) {
		s := tell(t, live, runs("b1", 1, "b2"), agedOf("b2", at.Add(10*time.Minute), at.Add(11*time.Minute)), unrecorded("b1"))
		s.then(30 * time.Minute)
		s.refused("b1")
		for range 3 {
			s.then(time.Minute, func(in *Input) { in.Unrecorded = nil })
		}
		s.locked(true)
		s.refused("b1")
	})
}

// A webhook call that somebody has recorded is sent again after the lock was lifted. It is
// taken for what it may as well be, Alertmanager's repetition of an alert that fires on.
func TestAnAlertThatIsSentAgainIsNoAlertOfTheNextBuild(t *testing.T) {
	for name, lift := range map[string]func(s *story) but{
		"a new build has lifted the lock": func(s *story) but {
			return func(in *Input) {
				runs("b2", 2)(in)
				agedOf("b2", s.now.Add(-time.Minute), s.now.Add(-time.Minute))(in)
			}
		},
		"a person has": func(s *story) but {
			return func(in *Input) {
				in.Record.Request = &Request{Action: RequestUnlock, By: "ann", Reason: "because", At: s.now}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := tell(t, gets(50), live)
			recorded := s.firesNow("CanaryErrors", 0)
			s.then(time.Second, recorded)
			s.locked(true)
			s.then(time.Minute, quietNow)
			s.then(time.Hour, lift(s))
			s.locked(false)
			s.then(time.Second, gets(50))
			if d := s.then(time.Minute, recorded); d.Record.Status.State != StateHeld || d.Move != MoveNone {
				t.Errorf("%s, move %v: want that it holds", d.Record.Status.State, d.Move)
			}
			s.locked(false)
			if d := s.then(2*time.Minute, quietNow); d.Record.Status.State != StateShifting {
				t.Errorf("%s when the listing does not have it", d.Record.Status.State)
			}
			s.then(s.in.Guard.AlertWindow, recorded) // the safe direction
			s.locked(true)
		})
	}
}

// The lease holder forgets builds that served long ago. Until there is one again, another
// replica's rollback does not blame them.
func TestABuildOfLongAgoIsNotRefusedByAReplicaWithoutTheLease(t *testing.T) {
	s := tell(t, gets(50), func(in *Input) {
		in.Leads = false
		in.Record.Status.Served = []Served{{Build: "b0", From: at.Add(-2 * time.Hour), Until: at.Add(-time.Hour)}, {Build: "b1", From: at.Add(-time.Hour)}}
	})
	s.then(0, bad)
	s.locked(true)
	s.refused("b1")
}

// A list that only a hand can have made so long is cut once, and takes no refused build
// with it.
func TestALockThatRefusesVeryManyBuildsSettles(t *testing.T) {
	for name, still := range map[string]bool{"with the build that was refused": true, "in its place": false} {
		t.Run(name, func(t *testing.T) {
			s := tell(t, locked(LockBuild), live)
			l := s.in.Record.Lock
			l.Refused, l.Since = nil, at.AddDate(-20, 0, 0) // so that the build is younger, and would lift it
			if still {
				l.Refused = []string{"b1"}
			}
			for i := range maxRefused + 50 {
				l.Refused = append(l.Refused, fmt.Sprintf("x%d", i))
			}
			first := s.then(time.Second).Record
			s.locked(true)
			if n := len(first.Lock.Refused); n > maxLockRefused || len(first.Refused) > maxRefused {
				t.Errorf("the lock refuses %d builds, the record %d", n, len(first.Refused))
			}
			second := s.then(time.Second).Record
			s.locked(true)
			if !first.Lock.Equal(*second.Lock) || !slices.Equal(first.Refused, second.Refused) {
				t.Error("each pass writes another list")
			}
			if !slices.Contains(second.Refused, "b1") || !slices.Contains(second.Lock.Refused, "b1") {
				t.Errorf("b1 is not refused any more: %v", second.Refused)
			}
		})
	}
}

func TestTheScheduleTakesOnWhatWasComingOfTwoDeployments(t *testing.T) {
	// The first has a new template without a ready pod yet; of the second runs what was there.
	coming := func(in *Input) {
		in.Canary = Workload{Build: "b2+w1", Builds: []string{"b2", "w1"}, Running: []string{"w1"}, Serving: []string{"b1"}, Ready: 2, Current: 1, Ages: map[string]PodAge{}}
		for _, b := range []string{"b1", "w1"} {
			ages(b, time.Hour)(in)
		}
		s := &in.Record.Status
		s.Build, s.BuildSince, s.Promoting = "b2+w1", at.Add(-2*time.Minute), "b2+w1"
		s.Served = []Served{{Build: "b1", From: at.Add(-time.Hour)}, {Build: "w1", From: at.Add(-time.Hour)}}
	}
	proven := func(in *Input) { in.Record.Status.Proven = []string{"w1"} }
	for name, c := range map[string]struct {
		edits []but
		goes  string
	}{
		"the one that runs is not to blame": {[]but{coming, proven}, "b2+w1"},
		"it is refused":                     {[]but{coming}, ""},
		"nothing is coming": {[]but{coming, proven, func(in *Input) {
			in.Canary.Build, in.Canary.Builds, in.Record.Status.Build, in.Record.Status.Promoting = "b1+w1", []string{"b1", "w1"}, "b1+w1", "b1+w1"
		}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := tell(t, append([]but{mode(PromotionAuto), live}, c.edits...)...)
			s.then(0, bad)
			s.locked(true)
			if got := s.in.Record.Status.Promoting; got != c.goes {
				t.Errorf("the schedule takes on %q, want %q; lock %+v", got, c.goes, s.in.Record.Lock)
			}
		})
	}
}

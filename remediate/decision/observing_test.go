package decision

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// observes is a guard of mode observe that the record has known as such for so
// long.
func observes(ago time.Duration) but {
	return func(in *Input) {
		in.Guard.Mode = ModeObserve
		in.Record.Status.Observing = &Observing{Since: at.Add(-ago)}
	}
}

// would is one with a would-be rollback of b1 by the alert of that name, which
// began so long ago.
func would(name string, ago time.Duration) but {
	return func(in *Input) {
		observes(time.Hour)(in)
		a := given(fires(ActionRollback, name, ago)).Alerts[0]
		in.Record.Status.Observing.Would = &Would{At: at.Add(-ago), From: 50, Build: "b1", Refused: []string{"b1"}, Signal: "error_rate", Alert: name,
			Episode: a.Episode(), Reason: name + ": 7% of requests fail"}
	}
}

// enforces is a guard whose mode went from observe to enforce so long ago.
func enforces(ago time.Duration) but {
	return func(in *Input) { in.Record.Status.EnforcedAt = at.Add(-ago) }
}

func wouldBlocked(in *Input) {
	in.Record.Status.Observing.Would.Blocked = "stable v1 has 0 ready endpoints"
}

func TestAGuardThatObservesTellsAndMovesNothing(t *testing.T) {
	seen := observes(time.Hour)
	told := verdict{state: StateShifting, reason: ReasonWould, added: "would-have-rolled-back by alert: 50→50"}
	runRows(t, map[string]row{
		"an alert":                     {[]but{seen, bad}, told, "would have rolled back 50% → 0%, because CanaryErrors: 7% of requests fail"},
		"an alert, told to the status": {[]but{seen, bad}, told, "canary has 50%; would have been rolled back 50% → 0% at 2026-03-02T09:00:00Z: CanaryErrors"},
		"an alert at first sight":      {[]but{unseen, bad, func(in *Input) { in.Guard.Mode = ModeObserve }}, told, ""},
		"an alert at 100%":             {[]but{promoted(10 * time.Minute), seen, bad}, verdict{state: StatePromoted, reason: ReasonWould, added: "would-have-rolled-back by alert: 100→100"}, "100% → 0%"},
		"an alert after the window":    {[]but{wasIn(StateCompleted, 100), seen, bad}, verdict{state: StateCompleted, reason: ReasonCompleted, added: "noted by alert: 100→100"}, "not rolled back"},
		"an alert without traffic":     {[]but{wasIn(StateIdle, 0), seen, bad}, verdict{state: StateIdle, reason: ReasonNothing, added: "noted by alert: 0→0"}, "it would be rolled back at once if it got some"},
		"an alert by two signals":      {[]but{seen, fires(ActionRollback, "Slow", 2*time.Minute), bad}, verdict{state: StateShifting, reason: ReasonWould, added: "would-have-rolled-back by alert: 50→50; noted by alert: 50→50"}, "it would have been rolled back already: Slow"},
		"an alert while paused":        {[]but{paused, seen, bad}, verdict{state: StatePaused, reason: ReasonPaused, added: told.added}, "would have been rolled back"},
		"an alert while disarmed":      {[]but{seen, disarmed(time.Hour), bad}, verdict{state: StateDisarmed, reason: ReasonDisarmed, requeue: time.Hour, added: "noted by alert: 50→50"}, ""},
		"a hold":                       {[]but{seen, fires(ActionHold, "Hold", time.Minute)}, verdict{state: StateHeld, reason: ReasonHeld, added: "noted by alert: 50→50"}, ""},
		"an alert of an earlier build": {[]but{seen, fires(ActionRollback, "Errors", 2*time.Hour), buildSince(time.Minute)}, verdict{state: StateHeld, reason: ReasonEarlierBuild, requeue: 5 * time.Minute, added: "noted by alert: 50→50"}, "would roll back if it still fires at"},
		"an alert, and it is not safe": {[]but{seen, bad, stableReady(0)}, verdict{state: StateShifting, reason: ReasonWould, added: "would-be-blocked by alert: 50→50"}, "could not be done: stable v1 has 0 ready endpoints"},
		"a lock of none":               {[]but{lockKind(LockNone), seen, bad}, told, ""},
		"a refused build":              {[]but{seen, func(in *Input) { in.Record.Refused = []string{"b1"} }}, verdict{state: StateShifting, reason: ReasonWould, refused: "b1", added: "would-have-rolled-back by refused build: 50→50"}, "build b1 was rolled back before"},
		"the lock of another record":   {[]but{seen, func(in *Input) { in.Foreign = []Foreign{{Guard: "other", Lock: Lock{Since: at}}} }}, verdict{state: StateShifting, reason: ReasonNothing}, ""},
		"what a rollback has changed":  {[]but{wasIn(StateIdle, 0), seen, live, func(in *Input) { in.Owned, in.Owed = true, true }}, verdict{state: StateIdle, reason: ReasonNothing}, ""},
		"a step that is due": {[]but{wasIn(StateIdle, 0), seen, live, func(in *Input) {
			in.Guard.Promotion.Mode, in.Record.Status.Promoting, in.Record.Status.Fresh = PromotionAuto, "b1", true
		}}, verdict{state: StateIdle, reason: ReasonNothing}, ""},
		"rollback by a person":          {[]but{seen, asks(RequestRollback)}, verdict{state: StateShifting, reason: ReasonNothing, added: "refused by ann: 50→50"}, "rollback refused: mode observe writes no VirtualService; set mode: enforce"},
		"promote by a person":           {[]but{seen, live, asks(RequestPromote)}, verdict{state: StateShifting, reason: ReasonNothing, requeue: PollCount, added: "refused by ann: 50→50"}, "promote refused: mode observe"},
		"unlock of what is not locked":  {[]but{seen, live, asks(RequestUnlock)}, verdict{state: StateShifting, reason: ReasonNothing, requeue: PollCount, added: "refused by ann: 50→50"}, "is not locked"},
		"a rollback that is unrecorded": {[]but{seen, func(in *Input) { in.Unrecorded = &Lock{Kind: LockBuild, Build: "b1"} }}, verdict{state: StateShifting, reason: ReasonNothing}, ""},
	})
}

func TestAWouldBeRollbackIsToldOnceForAsLongAsItWouldStand(t *testing.T) {
	stands := verdict{state: StateShifting, reason: ReasonWould}
	again := verdict{state: StateShifting, reason: ReasonWould, added: "would-have-rolled-back by alert: 50→50"}
	first := would("CanaryErrors", time.Minute)
	refusing := func(builds ...string) but {
		return func(in *Input) { in.Record.Status.Observing.Would.Refused = builds }
	}
	runRows(t, map[string]row{
		"the alert goes on":                     {[]but{first, bad}, stands, "would have been rolled back 50% → 0%"},
		"and CI shifts":                         {[]but{first, bad, gets(70)}, verdict{state: StateShifting, reason: ReasonWould, added: "shifted: 50→70"}, "would have been rolled back 50% → 0%"},
		"the alert is over":                     {[]but{first}, verdict{state: StateShifting, reason: ReasonNothing}, "canary has 50%; would have been rolled back 50% → 0%"},
		"another alert":                         {[]but{first, fires(ActionRollback, "Slow", 0)}, verdict{state: StateShifting, reason: ReasonWould, added: "noted by alert: 50→50"}, "already"},
		"another alert, noted before":           {[]but{first, fires(ActionRollback, "Slow", 0), noted("Slow", 0)}, stands, ""},
		"what another replica has heard":        {[]but{first, heardElsewhere(ActionRollback, time.Minute)}, verdict{state: StateShifting, reason: ReasonNothing}, "would have been"},
		"a hold besides":                        {[]but{first, bad, fires(ActionHold, "Hold", time.Minute)}, verdict{state: StateHeld, reason: ReasonHeld, added: "noted by alert: 50→50"}, "Hold: "},
		"CI takes it back":                      {[]but{first, gets(0)}, verdict{state: StateIdle, reason: ReasonNothing, added: "shifted: 50→0"}, "would have been"},
		"it could not be done, and cannot":      {[]but{first, wouldBlocked, bad, stableReady(0)}, stands, "could not be done"},
		"it could not be done, and now it can":  {[]but{first, wouldBlocked, bad}, again, "would have rolled back 50% → 0%"},
		"a new build is on its way":             {[]but{first, leads, runs("b2", 1, "b1"), fires(ActionRollback, "Slow", 0)}, verdict{state: StateShifting, reason: ReasonWould, requeue: PollCount, added: "new-build: 50→50; noted by alert: 50→50"}, ""},
		"a new build is ready":                  {[]but{first, leads, runs("b2", 2), appeared(time.Minute), fires(ActionRollback, "Slow", 0)}, verdict{state: StateShifting, reason: ReasonWould, requeue: PollCount, added: "new-build: 50→50; would-have-rolled-back by alert: 50→50"}, "Slow: "},
		"a new build, to another than leads":    {[]but{first, runs("b2", 2), appeared(time.Minute), fires(ActionRollback, "Slow", 0)}, verdict{state: StateShifting, reason: ReasonWould, added: "new-build: 50→50; noted by alert: 50→50"}, ""},
		"a new build, and the old alert":        {[]but{first, leads, runs("b2", 2), appeared(30 * time.Second), bad}, verdict{state: StateHeld, reason: ReasonEarlierBuild, requeue: PollCount, added: "new-build: 50→50; noted by alert: 50→50"}, "it holds, and would roll back if it still fires"},
		"the same build after the window":       {[]but{first, promoted(time.Hour), leads}, verdict{state: StateCompleted, reason: ReasonNothing, added: "completed: 100→100"}, ""},
		"lock none: the alert goes on":          {[]but{first, lockKind(LockNone), leads, bad}, withRequeue(stands, PollCount), ""},
		"lock none: it is over, another begins": {[]but{first, lockKind(LockNone), leads, fires(ActionRollback, "Slow", 0)}, verdict{state: StateShifting, reason: ReasonWould, requeue: PollCount, added: "noted by alert: 50→50"}, ""},
		"what is to blame is replaced":          {[]but{first, refusing("b0"), proven("b1"), leads, bad}, withRequeue(stands, PollCount), "would have been rolled back 50% → 0%"},
		"and the alert is over":                 {[]but{first, refusing("b0"), proven("b1"), leads}, verdict{state: StateShifting, reason: ReasonNothing, requeue: PollCount}, "canary has 50%"},
		"no build known, and the alert is over": {[]but{first, refusing(), leads}, verdict{state: StateShifting, reason: ReasonNothing, requeue: PollCount}, "canary has 50%"},
	})
	d := Decide(given(first, lockKind(LockNone), leads), at)
	if d.Record.Status.Observing.Would != nil {
		t.Error("without a lock, a would-be rollback outlives its alert")
	}
	if d := Decide(given(first, leads), at); d.Record.Status.Observing.Would == nil {
		t.Error("a would-be rollback ends before its lock would be lifted")
	}
	if d := Decide(given(observes(0), bad), at); !d.Doubt || d.Signal != "error_rate" {
		t.Errorf("told without a look at the API server (doubt %v), as %q", d.Doubt, d.Signal)
	}
}

func TestALockThatStandsIsKeptWhileTheGuardObserves(t *testing.T) {
	seen := observes(time.Minute)
	kept := verdict{state: StateRolledBack, reason: ReasonNothing, lock: "build b1 by alert", refused: "b1"}
	blockedAt := func(weight int) verdict {
		return verdict{state: StateBlocked, reason: ReasonBlocked, lock: "build b1 by alert", refused: "b1"}
	}
	runRows(t, map[string]row{
		"nothing happens":   {[]but{locked(LockBuild), seen}, kept, "a new build lifts nothing, a person's unlock does"},
		"a new build":       {[]but{locked(LockBuild), seen, live, runs("b2", 2)}, withAdded(kept, "new-build: 0→0"), ""},
		"CI shifts":         {[]but{locked(LockBuild), seen, gets(10)}, withAdded(blockedAt(10), "blocked: 0→10"), "mode observe puts nothing back"},
		"and goes on":       {[]but{locked(LockBuild), seen, wasIn(StateBlocked, 10), blocked("mode observe puts nothing back: unlock, or set mode: enforce")}, blockedAt(10), ""},
		"an alert":          {[]but{locked(LockBuild), seen, bad}, withAdded(kept, "noted by alert: 0→0"), ""},
		"unlock":            {[]but{locked(LockBuild), seen, live, asks(RequestUnlock)}, verdict{state: StateIdle, reason: ReasonNothing, added: "unlocked by ann: 0→0"}, ""},
		"the mode begins":   {[]but{locked(LockBuild), leads, func(in *Input) { in.Guard.Mode = ModeObserve }}, withAdded(kept, "observing: 0→0"), "the lock that stands is kept until a person unlocks"},
		"a rollback begins": {[]but{locked(LockBuild), wasIn(StateShifting, 50), leads, underWay(50), func(in *Input) { in.Guard.Mode = ModeObserve }}, withAdded(blockedAt(50), "observing: 50→50; blocked: 50→50"), ""},
	})
	in := given(wasIn(StateIdle, 0), seen, func(in *Input) {
		in.Record.Status.LiftedAt = at
		in.Marked = &LockAnnotation{Since: at.Add(-time.Hour)}
	})
	if d := Decide(in, at); d.Record.Lock != nil || !strings.Contains(d.Record.Status.Reason, "guardian unlock takes it off") {
		t.Errorf("lock %v, reason %q; want none, and what to do about the annotation", d.Record.Lock, d.Record.Status.Reason)
	}
}

func TestSwitchingToEnforceNeverActsOnThePast(t *testing.T) {
	observed := func(in *Input) { in.Record.Status.Observing = &Observing{Since: at.Add(-time.Hour)} }
	switched := enforces(time.Hour / 2)
	rolledBack := verdict{state: StateRolledBack, move: MoveStable, reason: ReasonAlert, lock: "build b1 by alert", refused: "b1", added: "rolled-back by alert: 50→0"}
	held := verdict{state: StateHeld, reason: ReasonEarlierBuild, added: "noted by alert: 50→50"}
	newer := func(ago time.Duration) but {
		return func(in *Input) { buildSince(ago)(in); in.Canary.Since = at.Add(-ago) }
	}
	runRows(t, map[string]row{
		"the switch itself":                        {[]but{observed, live, bad}, verdict{state: StateHeld, reason: ReasonEarlierBuild, requeue: PollCount, added: "enforcing: 50→50; noted by alert: 50→50"}, "it began before 2026-03-02T09:00:00Z"},
		"from a cache it waits for live reads":     {[]but{observed, leads, bad}, verdict{state: StateShifting, reason: ReasonWould, wantLive: true, requeue: PollCount, added: "would-have-rolled-back by alert: 50→50"}, ""},
		"a replica without the lease observes on":  {[]but{observed, bad}, verdict{state: StateShifting, reason: ReasonWould, added: "would-have-rolled-back by alert: 50→50"}, ""},
		"an alert of before":                       {[]but{switched, fires(ActionRollback, "Errors", 31*time.Minute)}, held, "so it rolls back nothing"},
		"an alert of before, long after":           {[]but{enforces(50 * time.Minute), fires(ActionRollback, "Errors", 51*time.Minute)}, held, ""},
		"an alert of before, heard only now":       {[]but{enforces(time.Second), fires(ActionRollback, "Errors", time.Minute)}, held, ""},
		"an alert that begins anew":                {[]but{switched, fires(ActionRollback, "CanaryErrors", 29*time.Minute)}, rolledBack, ""},
		"an alert of before, and a new build":      {[]but{switched, newer(2 * time.Minute), fires(ActionRollback, "CanaryErrors", 31*time.Minute)}, verdict{state: StateHeld, reason: ReasonEarlierBuild, requeue: 4 * time.Minute, added: "noted by alert: 50→50"}, ""},
		"an alert of before, long after that":      {[]but{switched, newer(7 * time.Minute), fires(ActionRollback, "CanaryErrors", 31*time.Minute)}, rolledBack, ""},
		"a person's rollback":                      {[]but{switched, fires(ActionRollback, "Errors", 31*time.Minute), asks(RequestRollback)}, verdict{state: StateRolledBack, move: MoveStable, reason: ReasonPerson, lock: "build b1 by ann", refused: "b1", added: "noted by alert: 50→50; rolled-back by ann: 50→0"}, ""},
		"a clock that was ahead":                   {[]but{enforces(-time.Hour), bad}, held, ""},
		"a refused build runs at the switch":       {[]but{observed, live, func(in *Input) { in.Record.Refused = []string{"b0", "b1"} }}, verdict{state: StateShifting, reason: ReasonNothing, refused: "b0", requeue: PollCount, added: "enforcing: 50→50"}, "build b1, which was rolled back before, runs and is refused no more"},
		"a lock that stands is kept, and enforced": {[]but{locked(LockBuild), observed, live}, verdict{state: StateRolledBack, reason: ReasonNothing, lock: "build b1 by alert", refused: "b1", added: "enforcing: 0→0"}, ""},
	})
	in := given(observed, live, bad, noted("CanaryErrors", time.Minute))
	if d := Decide(in, at); !slices.ContainsFunc(d.Added, func(e HistoryEntry) bool { return e.Event == "noted" }) {
		t.Error("what an alert now means is not told, for it was told what it meant before")
	}
}

// A replica that reads its configuration later than the others moves nothing, and
// leaves the record's mode to the lease holder.
func TestAReplicaWhoseConfigurationIsBehindOnlyHears(t *testing.T) {
	behind := func(in *Input) { in.Guard.Mode = ModeObserve }
	runRows(t, map[string]row{
		"nothing happens":       {[]but{behind}, verdict{state: StateShifting, reason: ReasonNothing}, ""},
		"an alert":              {[]but{behind, bad}, verdict{state: StateShifting, reason: ReasonNothing, added: "noted by alert: 50→50"}, "the others roll back"},
		"CI shifts":             {[]but{behind, gets(70)}, verdict{state: StateShifting, reason: ReasonNothing}, ""},
		"locked, and CI shifts": {[]but{locked(LockBuild), behind, gets(10)}, verdict{state: StateRolledBack, reason: ReasonNothing, lock: "build b1 by alert", refused: "b1"}, ""},
		"with the lease":        {[]but{behind, leads}, verdict{state: StateShifting, reason: ReasonNothing, requeue: PollCount, added: "observing: 50→50"}, "no VirtualService is written"},
	})
	d := Decide(given(behind, bad, asks(RequestRollback)), at)
	if d.Record.Request == nil || len(d.Record.Status.Firing) != 1 || !d.Observes {
		t.Errorf("request %v, firing %v, observes %v; want the request left, the alert shared, nothing written", d.Record.Request, d.Record.Status.Firing, d.Observes)
	}
}

func TestAReplicaThatOnlyHearsLeavesWhichAlertHolds(t *testing.T) {
	in := given(advancing(10), fires(ActionHold, "CanarySlow", time.Second))
	held := Decide(in, at).Record
	if held.Status.State != StateHeld || held.Status.HeldBy != "CanarySlow" {
		t.Fatalf("%s by %q", held.Status.State, held.Status.HeldBy)
	}
	in.Record, in.Leads, in.Live, in.Guard.Mode = held, false, false, ModeObserve // by a file that the lease holder has not read
	if d := Decide(in, at); d.Record.Status.HeldBy != "CanarySlow" {
		t.Errorf("%s by %q", d.Record.Status.State, d.Record.Status.HeldBy)
	}
}

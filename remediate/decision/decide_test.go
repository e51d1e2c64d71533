package decision

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/remediate/virtualservice"
	"pgregory.net/rapid"
)

const testNamespace = "microservices"

// at is the moment of every decision in the tables; all other times are given
// relative to it.
var at = time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)

// given is a guard at 50% that has seen its build b1 an hour ago, with both
// sides healthy, as edited by the options.
func given(edits ...func(*Input)) Input {
	in := Input{
		Guard: Guard{Name: "orders-service", Namespace: testNamespace, VirtualServices: []string{"orders-service"},
			DestinationRule: "orders-service", Stable: virtualservice.Ref{Subset: "v1"}, Canary: virtualservice.Ref{Subset: "v2"},
			Rollback: Rollback{Lock: LockBuild, Window: 30 * time.Minute, MinReadyStable: 1, MatchRoutes: true, Mirrors: true},
			Promotion: Promotion{Mode: PromotionOff, MinRequests: 100, Steps: []Step{{Weight: 10, Interval: 5 * time.Minute},
				{Weight: 30, Interval: 5 * time.Minute}, {Weight: 50, Interval: 5 * time.Minute, Bake: 2 * time.Minute}, {Weight: 100, Interval: 5 * time.Minute}}},
			AlertWindow: 6 * time.Minute, HeartbeatMaxAge: 3 * time.Minute},
		Record:  Record{Status: Status{State: StateShifting, Since: at.Add(-10 * time.Minute), Weight: 50, Build: "b1", BuildSince: at.Add(-time.Hour), MovedAt: at.Add(-10 * time.Minute), BuildMemory: BuildMemory{Served: []Served{{Build: "b1", From: at.Add(-10 * time.Minute)}}}}},
		Traffic: virtualservice.Traffic{Weight: 50, Lowest: 50, Split: 1},
		Canary: Workload{Build: "b1", Since: at.Add(-time.Hour), Builds: []string{"b1"}, Running: []string{"b1"}, Ready: 2, Current: 2, Complete: true,
			Ages: map[string]PodAge{"b1": {at.Add(-time.Hour), at.Add(-time.Hour), at.Add(-time.Hour)}}},
		Stable: Endpoints{Ready: 2},
		Deny:   []string{"orders-service/v2"},
	}
	for _, edit := range edits {
		edit(&in)
	}
	return in
}

type but = func(*Input)

// gets sets what the VirtualService gives to the canary.
func gets(weight int) but {
	return func(in *Input) { in.Traffic.Weight, in.Traffic.Lowest = weight, weight }
}

// stood sets what the record says of the past.
func wasIn(state State, weight int) but {
	return func(in *Input) {
		s := &in.Record.Status
		s.State, s.Weight, s.Full = state, weight, weight == 100
		if state == StateCompleted {
			s.CompletedAt = at.Add(-time.Minute)
		}
		gets(weight)(in)
	}
}

// promoted is a guard whose canary got all traffic so long ago.
func promoted(ago time.Duration) but {
	return func(in *Input) {
		wasIn(StatePromoted, 100)(in)
		in.Record.Status.PromotedAt = at.Add(-ago)
	}
}

// lowest is a guard one of whose routes has stood at less than the others.
func lowest(weight int) but {
	return func(in *Input) {
		in.Traffic.Lowest, in.Record.Status.Spread = weight, in.Traffic.Weight-weight
	}
}

func blocked(reason string) but {
	return func(in *Input) { in.Record.Status.State, in.Record.Status.Reason = StateBlocked, reason }
}

func unseen(in *Input) { in.Record = Record{} }

// locked is a guard that was rolled back from b1, with the canary at 0.
func locked(kind LockKind) but {
	return func(in *Input) {
		wasIn(StateRolledBack, 0)(in)
		in.Record.Lock = &Lock{Kind: kind, Build: "b1", Alert: "CanaryErrors", By: "alert", Since: at.Add(-10 * time.Minute), Reason: "CanaryErrors: 7% of requests fail"}
		in.Record.Refused = []string{"b1"}
	}
}

func lockKind(kind LockKind) but { return func(in *Input) { in.Guard.Rollback.Lock = kind } }

// runs sets what runs behind the canary: the present build, its ready pods,
// and the builds of the other ready pods. They are a minute old, and b1's are of
// before all that is told of.
func runs(build string, current int, serving ...string) but {
	return func(in *Input) {
		in.Canary = Workload{Build: build, Builds: []string{build}, Ready: current + len(serving), Current: current, Serving: serving, Complete: len(serving) == 0 && current > 0}
		if current > 0 {
			in.Canary.Running = in.Canary.Builds
		}
		in.Canary.Ages = map[string]PodAge{}
		for _, b := range in.Canary.readyBuilds() {
			ages(b, time.Minute)(in)
		}
		ages("b1", time.Hour)(in)
	}
}

// ages says how old the pods of a build are.
func ages(build string, ago time.Duration) but { return agedOf(build, at.Add(-ago), at.Add(-ago)) }

// agedOf says when the pods of a build were made, and when they became ready.
func agedOf(build string, made, ready time.Time) but {
	return func(in *Input) {
		in.Canary.Ages = maps.Clone(in.Canary.Ages)
		in.Canary.Ages[build] = PodAge{made, ready, ready}
	}
}

// pairOf is a canary of two Deployments.
func pairOf(a, b string) but {
	return func(in *Input) {
		runs(a, 1)(in)
		in.Canary = Workload{Build: a + "+" + b, Builds: []string{a, b}, Running: []string{a, b}, Ready: 2, Current: 2, Complete: true, Ages: in.Canary.Ages}
		if b != "b1" {
			ages(b, time.Minute)(in)
		}
	}
}

func noCanary(in *Input) { in.Canary = Workload{} }

func appeared(ago time.Duration) but { return appearedAt(at.Add(-ago)) }

func appearedAt(made time.Time) but { return func(in *Input) { in.Canary.Since = made } }

// buildSince says when the record saw the present build first.
func buildSince(ago time.Duration) but {
	return func(in *Input) { in.Record.Status.BuildSince = at.Add(-ago) }
}

func proven(build string) but {
	return func(in *Input) { in.Record.Status.Proven = append(in.Record.Status.Proven, build) }
}

func unlocked(ago time.Duration) but {
	return func(in *Input) { in.Record.Status.UnlockedAt = at.Add(-ago) }
}

func stableReady(n int) but { return func(in *Input) { in.Stable.Ready = n } }

func floorOf(n int) but { return func(in *Input) { in.Guard.Rollback.MinReadyStable = n } }

func leads(in *Input) { in.Leads = true }

func live(in *Input) { in.Leads, in.Live = true, true }

func fires(action Action, name string, ago time.Duration) but {
	return func(in *Input) {
		in.Alerts = append(in.Alerts, Alert{Name: name, Signal: "error_rate", Action: action, Fingerprint: "f-" + name, StartsAt: at.Add(-ago), Summary: "7% of requests fail"})
	}
}

// bad is a rollback alert that began a minute ago.
var bad = fires(ActionRollback, "CanaryErrors", time.Minute)

func asks(action RequestAction) but {
	return func(in *Input) {
		in.Record.Request = &Request{Action: action, By: "ann", Reason: "because", At: at.Add(-time.Second)}
	}
}

// means names what a request is about.
func means(of time.Time) but { return func(in *Input) { in.Record.Request.Of = of } }

// askedAgo has the request be of so long ago.
func askedAgo(ago time.Duration) but {
	return func(in *Input) { in.Record.Request.At = at.Add(-ago) }
}

// underWay is a rollback whose lock is written and whose traffic has not been
// seen to have moved.
func underWay(weight int) but {
	return func(in *Input) {
		wasIn(StateShifting, weight)(in)
		in.Record.Status.Moving = &Moving{From: weight, At: at.Add(-time.Minute), By: ByAlert, Build: "b1", Reason: "CanaryErrors: 7%", Alert: "CanaryErrors", Signal: "error_rate"}
	}
}

func paused(in *Input) {
	in.Record.Status.Paused = &Pause{By: "ann", Reason: "debugging", At: at.Add(-time.Hour)}
	in.Record.Status.State = StatePaused
}

func pausedOnVS(in *Input) { in.Paused = true }

// disarmed is a guard whose brake a person has taken off for so long from now.
func disarmed(left time.Duration) but {
	return func(in *Input) {
		in.Record.Status.Disarmed = &Disarm{By: "ann", Reason: "game day", At: at.Add(-time.Minute), Until: at.Add(left)}
		in.Record.Status.State = StateDisarmed
	}
}

// asksDisarm is a request of so long ago for so long.
func asksDisarm(ago, length time.Duration) but {
	return func(in *Input) {
		asked := at.Add(-ago)
		in.Record.Request = &Request{Action: RequestDisarm, By: "ann", Reason: "because", At: asked, Until: asked.Add(length)}
	}
}

// verdict is all of a decision that matters, short enough for a table. A lock
// is "kind build by whom", a history entry "event by: from→to".
type verdict struct {
	state    State
	move     Move
	weight   int
	reason   Reason
	lock     string
	refused  string
	added    string
	requeue  time.Duration
	wantLive bool
	forward  bool
	release  bool
}

// What the decision has begun is in it as if it were done: that it is not told
// before it is, other tests look at.
func verdictOf(d Decision) verdict {
	v := verdict{state: d.Record.Status.State, move: d.Move, weight: d.Weight, reason: d.Reason, refused: strings.Join(d.Record.Refused, " "),
		requeue: d.Requeue, wantLive: d.WantLive, forward: d.WantForward, release: d.Release}
	if l := d.Record.Lock; l != nil {
		v.lock = fmt.Sprintf("%s %s by %s", l.Kind, l.Build, l.By)
	}
	var added []string
	for _, e := range d.Added {
		text := string(e.Event)
		if text == "waiting" {
			continue // TestEachReasonToWaitIsToldOnce looks at those
		}
		if e.By != "" {
			text += " by " + e.By
		}
		added = append(added, fmt.Sprintf("%s: %d→%d", text, e.From, e.To))
	}
	if m := d.Record.Status.Moving; m != nil && m.At.Equal(at) && m.Refused == "" && d.Move != MoveNone {
		event := "rolled-back"
		if m.Step > 0 {
			event = "step"
		}
		added = append(added, fmt.Sprintf("%s by %s: %d→%d", event, m.By, m.From, max(m.Step, m.To)))
	}
	for _, e := range d.Then {
		added = append(added, fmt.Sprintf("%s: %d→%d", e.Event, e.From, e.To))
	}
	if d.Move == MoveStable {
		v.state = d.Marks.State
	}
	v.added = strings.Join(added, "; ")
	return v
}

// row is one line of a table of decisions.
type row struct {
	in   []but
	want verdict
	says string // part of the status's reason or of a history entry's
}

func runRows(t *testing.T, rows map[string]row) {
	t.Helper()
	for name, r := range rows {
		t.Run(name, func(t *testing.T) {
			in := given(r.in...)
			d := Decide(in, at)
			if got := verdictOf(d); got != r.want {
				t.Errorf("decided\n %+v\nwant\n %+v\nin words: %s", got, r.want, words(d))
			}
			if !strings.Contains(words(d), r.says) {
				t.Errorf("in words: %s\nwant it to say: %s", words(d), r.says)
			}
			for _, e := range d.Added {
				if e.State != d.Record.Status.State || !e.At.Equal(at) {
					t.Errorf("history entry %q is of state %q at %s, want %q at %s", e.Event, e.State, e.At, d.Record.Status.State, at)
				}
			}
		})
	}
}

func words(d Decision) string {
	all := []string{d.Record.Status.Reason, d.Record.Status.Waiting, d.Marks.Reason}
	for _, e := range slices.Concat(d.Added, d.Then) {
		all = append(all, e.Reason)
	}
	return strings.Join(all, " | ")
}

func TestFirstSightRecordsAndMovesNothing(t *testing.T) {
	auto := func(in *Input) {
		in.Guard.Promotion.Mode, in.Heartbeat, in.Forward = PromotionAuto, at, &Forward{Requests: 1000}
		live(in)
	}
	poll := PollCount
	runRows(t, map[string]row{
		"a canary without traffic is idle": {[]but{unseen, gets(0)}, verdict{state: StateIdle, reason: ReasonNothing}, "no traffic"},
		"a split is shifting":              {[]but{unseen}, verdict{state: StateShifting, reason: ReasonNothing}, "50%"},
		"a split is rolled back on an alert": {[]but{unseen, bad},
			verdict{state: StateRolledBack, move: MoveStable, reason: ReasonAlert, lock: "build b1 by alert", refused: "b1", added: "rolled-back by alert: 50→0"}, "CanaryErrors: 7%"},
		"a canary with all traffic is promoted from now on": {[]but{unseen, gets(100), appeared(10 * time.Minute)},
			verdict{state: StatePromoted, reason: ReasonNothing, requeue: 30 * time.Minute}, "until 2026-03-02T09:30:00Z"},
		"a build as old as the window, too: the record may have been lost": {[]but{unseen, gets(100), appeared(time.Hour)},
			verdict{state: StatePromoted, reason: ReasonNothing, requeue: 30 * time.Minute}, "until 2026-03-02T09:30:00Z"},
		"a build of unknown age counts from now":               {[]but{unseen, gets(100), runs("b1", 2)}, verdict{state: StatePromoted, reason: ReasonNothing, requeue: 30 * time.Minute}, ""},
		"all traffic and no Deployment, too":                   {[]but{unseen, gets(100), noCanary}, verdict{state: StatePromoted, reason: ReasonNothing, requeue: 30 * time.Minute}, ""},
		"a VirtualService that does not exist is idle":         {[]but{unseen, gets(0), func(in *Input) { in.Absent = "VirtualService microservices/orders-service does not exist" }}, verdict{state: StateIdle, reason: ReasonNothing}, "does not exist"},
		"an existing build is not promoted in mode auto":       {[]but{unseen, gets(0), auto}, verdict{state: StateIdle, reason: ReasonNothing}, "first sight"},
		"a canary that has traffic is not promoted either":     {[]but{unseen, auto}, verdict{state: StateShifting, reason: ReasonNothing, requeue: poll}, "first sight"},
		"not even on a person's word":                          {[]but{unseen, auto, asks(RequestPromote), func(in *Input) { in.Record.Status = Status{} }}, verdict{state: StateShifting, reason: ReasonNothing, requeue: poll, added: "refused by ann: 0→50"}, "first sight"},
		"the next look at the same build does not promote yet": {[]but{gets(0), wasIn(StateIdle, 0), auto}, verdict{state: StateIdle, reason: ReasonNothing}, "waiting: for a new build"},
	})
	d := Decide(given(unseen, appeared(10*time.Minute)), at)
	want := Status{State: StateShifting, Since: at, Weight: 50, Reason: "canary has 50%", Build: "b1", BuildSince: at.Add(-10 * time.Minute), MovedAt: at,
		Ready: ReadyInfo{Stable: 2, Canary: 2}, FirstSeen: at, BuildMemory: BuildMemory{Served: []Served{{Build: "b1", From: at}}}}
	if !reflect.DeepEqual(d.Record.Status, want) {
		t.Errorf("recorded %+v\nwant %+v", d.Record.Status, want)
	}
}

func TestARollbackAlertInEveryState(t *testing.T) {
	rolled := func(v verdict) verdict {
		v.state, v.move, v.reason, v.lock, v.refused = StateRolledBack, MoveStable, ReasonAlert, "build b1 by alert", "b1"
		return v
	}
	runRows(t, map[string]row{
		"idle: it is noted":     {[]but{bad, wasIn(StateIdle, 0)}, verdict{state: StateIdle, reason: ReasonNothing, added: "noted by alert: 0→0"}, "rolled back at once if it gets some"},
		"shifting: rolled back": {[]but{bad}, rolled(verdict{added: "rolled-back by alert: 50→0"}), "CanaryErrors: 7% of requests fail"},
		"held: rolled back":     {[]but{bad, wasIn(StateHeld, 50)}, rolled(verdict{added: "rolled-back by alert: 50→0"}), ""},
		"1% is enough":          {[]but{bad, wasIn(StateShifting, 1)}, rolled(verdict{added: "rolled-back by alert: 1→0"}), ""},
		"a mirror alone is enough": {[]but{bad, wasIn(StateIdle, 0), func(in *Input) { in.Traffic.Mirrors = 1 }},
			rolled(verdict{added: "rolled-back by alert: 0→0"}), ""},
		"a route of testers alone is enough": {[]but{bad, wasIn(StateIdle, 0), func(in *Input) { in.Traffic.CanaryOnly = 1 }},
			rolled(verdict{added: "rolled-back by alert: 0→0"}), ""},
		"it fires already when CI first shifts: rolled back at once": {[]but{fires(ActionRollback, "CanaryErrors", 20*time.Minute), wasIn(StateIdle, 0), gets(10)},
			rolled(verdict{added: "shifted: 0→10; rolled-back by alert: 0→0"}.from(10)), ""},
		"promoted: rolled back":                         {[]but{bad, promoted(10 * time.Minute)}, rolled(verdict{added: "rolled-back by alert: 100→0"}), ""},
		"promoted, in the last instant: rolled back":    {[]but{bad, promoted(30*time.Minute - 1)}, rolled(verdict{added: "rolled-back by alert: 100→0"}), ""},
		"completed, from the first instant: only noted": {[]but{bad, leads, promoted(30 * time.Minute)}, verdict{state: StateCompleted, reason: ReasonCompleted, added: "completed: 100→100; noted by alert: 100→100"}, "not rolled back"},
		"completed: noted once": {[]but{bad, promoted(time.Hour), wasIn(StateCompleted, 100), noted("CanaryErrors", time.Minute)},
			verdict{state: StateCompleted, reason: ReasonCompleted}, ""},
		"unverified: rolled back": {[]but{bad, promoted(10 * time.Minute), func(in *Input) { in.Record.Status.State, in.Record.Status.Unverified = StateUnverified, true }},
			rolled(verdict{added: "rolled-back by alert: 100→0"}), ""},
		"one route at 100% and another at 0 is not completed": {[]but{bad, promoted(time.Hour), lowest(0)},
			rolled(verdict{added: "rolled-back by alert: 100→0"}), ""},
		"paused by a person: rolled back":      {[]but{bad, paused}, rolled(verdict{added: "rolled-back by alert: 50→0"}), ""},
		"paused by annotation: rolled back":    {[]but{bad, pausedOnVS}, rolled(verdict{added: "rolled-back by alert: 50→0"}), ""},
		"disarmed: noted":                      {[]but{bad, disarmed(time.Hour)}, verdict{state: StateDisarmed, reason: ReasonDisarmed, requeue: time.Hour, added: "noted by alert: 50→50"}, "not rolled back: disarmed by ann until 2026-03-02T10:00:00Z: game day"},
		"disarmed, in the last instant: noted": {[]but{bad, disarmed(time.Nanosecond)}, verdict{state: StateDisarmed, reason: ReasonDisarmed, requeue: time.Millisecond, added: "noted by alert: 50→50"}, ""},
		"disarmed until now: rolled back":      {[]but{bad, disarmed(0), noted("CanaryErrors", time.Minute)}, rolled(verdict{added: "armed: 50→50; rolled-back by alert: 50→0"}), "the time of ann's disarm is over"},
		"disarmed past the rollback window: only noted": {[]but{bad, leads, promoted(30 * time.Minute), disarmed(0)},
			verdict{state: StateCompleted, reason: ReasonCompleted, added: "armed: 100→100; completed: 100→100; noted by alert: 100→100"}, "not rolled back"},
		"locked: nothing is left to do": {[]but{bad, locked(LockBuild)}, verdict{state: StateRolledBack, reason: ReasonNothing, lock: "build b1 by alert", refused: "b1"}, ""},
		"blocked: locked, and it says why": {[]but{bad, stableReady(0)},
			verdict{state: StateBlocked, reason: ReasonBlocked, lock: "build b1 by alert", refused: "b1", added: "blocked: 50→50"}, "stable v1 has 0 ready endpoints, rollback.minReadyStable is 1"},
		"an action that guardian does not know moves nothing": {[]but{fires("page", "Other", time.Minute)}, verdict{state: StateShifting, reason: ReasonNothing}, ""},
		"the older of two alerts is the reason": {[]but{bad, fires(ActionRollback, "CanaryRestarts", 2*time.Minute)},
			rolled(verdict{added: "rolled-back by alert: 50→0"}), "CanaryRestarts"},
		"a hold alert besides changes nothing": {[]but{fires(ActionHold, "StableErrors", 5*time.Minute), bad}, rolled(verdict{added: "noted by alert: 50→50; rolled-back by alert: 50→0"}), "CanaryErrors"},
	})
}

// from is a helper for entries whose weight before is not the record's.
func (v verdict) from(weight int) verdict {
	v.added = strings.Replace(v.added, "rolled-back by alert: 0→0", fmt.Sprintf("rolled-back by alert: %d→0", weight), 1)
	return v
}

func noted(name string, ago time.Duration) but {
	return func(in *Input) {
		a := Alert{Fingerprint: "f-" + name, StartsAt: at.Add(-ago)}
		in.Record.Status.Noted = append(in.Record.Status.Noted, a.Episode())
	}
}

func TestAHoldAlertStopsAndMovesNothing(t *testing.T) {
	hold := fires(ActionHold, "StableErrors", time.Minute)
	runRows(t, map[string]row{
		"shifting: held, and noted":          {[]but{hold}, verdict{state: StateHeld, reason: ReasonHeld, added: "noted by alert: 50→50"}, "no step forward while it fires"},
		"held: noted once":                   {[]but{hold, noted("StableErrors", time.Minute)}, verdict{state: StateHeld, reason: ReasonHeld}, "StableErrors: "},
		"idle: nothing to hold":              {[]but{hold, wasIn(StateIdle, 0)}, verdict{state: StateIdle, reason: ReasonNothing, added: "noted by alert: 0→0"}, ""},
		"promoted: stays promoted":           {[]but{hold, promoted(10 * time.Minute)}, verdict{state: StatePromoted, reason: ReasonNothing, requeue: 20 * time.Minute, added: "noted by alert: 100→100"}, ""},
		"over: shifting again":               {[]but{wasIn(StateHeld, 50)}, verdict{state: StateShifting, reason: ReasonNothing}, ""},
		"heard by another replica, it holds": {[]but{heardElsewhere(ActionHold, 10*time.Minute)}, verdict{state: StateHeld, reason: ReasonHeld}, "Elsewhere"},
		"a rollback heard elsewhere holds":   {[]but{heardElsewhere(ActionRollback, 10*time.Minute)}, verdict{state: StateHeld, reason: ReasonEarlierBuild}, "Elsewhere"},
		"the lease holder must have listed it": {[]but{leads, heardElsewhere(ActionHold, ListingKnows-1)},
			verdict{state: StateHeld, reason: ReasonHeld, requeue: time.Millisecond}, ""},
		"one heard in the future was heard now": {[]but{leads, heardElsewhere(ActionHold, -time.Hour)}, verdict{state: StateHeld, reason: ReasonHeld, requeue: PollCount}, ""},
		"then it is forgotten":                  {[]but{leads, heardElsewhere(ActionHold, ListingKnows)}, verdict{state: StateShifting, reason: ReasonNothing, requeue: PollCount}, ""},
	})
}

func heardElsewhere(action Action, ago time.Duration) but {
	return func(in *Input) {
		in.Record.Status.Firing = []Firing{{Name: "Elsewhere", Episode: "f@x", Action: action, Began: at.Add(-ago), Seen: at.Add(-ago)}}
	}
}

func TestAnAlertCountsAgainstTheBuildThatItBeganUnder(t *testing.T) {
	rolled := verdict{state: StateRolledBack, move: MoveStable, reason: ReasonAlert, lock: "build b1 by alert", refused: "b1", added: "rolled-back by alert: 50→0"}
	began := func(ago time.Duration) but { return fires(ActionRollback, "CanaryErrors", ago) }
	held := func(requeue time.Duration) verdict {
		return verdict{state: StateHeld, reason: ReasonEarlierBuild, requeue: requeue, added: "noted by alert: 50→50"}
	}
	runRows(t, map[string]row{
		"began in the instant that the build appeared: rolled back": {[]but{buildSince(time.Minute), began(time.Minute)}, rolled, ""},
		"began 1 ns before: held until the window is over":          {[]but{buildSince(time.Minute), began(time.Minute + 1)}, held(5 * time.Minute), "rolls back if it still fires at 2026-03-02T09:05:00Z"},
		"1 ns before the window is over: held":                      {[]but{buildSince(6*time.Minute - 1), began(time.Hour)}, held(time.Millisecond), ""},
		"when the window is over: rolled back":                      {[]but{buildSince(6 * time.Minute), began(time.Hour)}, rolled, ""},
		"held and noted once": {[]but{buildSince(time.Minute), began(2 * time.Minute), noted("CanaryErrors", 2*time.Minute)},
			verdict{state: StateHeld, reason: ReasonEarlierBuild, requeue: 5 * time.Minute}, "CanaryErrors: "},
		"one of an earlier build and one of this: rolled back": {[]but{buildSince(2 * time.Minute), fires(ActionRollback, "Old", time.Hour), began(time.Minute)},
			verdict{state: StateRolledBack, move: MoveStable, reason: ReasonAlert, lock: "build b1 by alert", refused: "b1", requeue: 4 * time.Minute,
				added: "noted by alert: 50→50; rolled-back by alert: 50→0"}, "CanaryErrors"},
		"began in the instant of the unlock: rolled back": {[]but{unlocked(time.Minute), began(time.Minute)}, rolled, ""},
		"began 1 ns before the unlock: held":              {[]but{unlocked(time.Minute), began(time.Minute + 1)}, held(5 * time.Minute), ""},
		"fires on a window after the unlock: rolled back": {[]but{unlocked(6 * time.Minute), began(time.Hour)}, rolled, ""},
		"an unlock before the build does not matter":      {[]but{unlocked(5 * time.Minute), buildSince(2 * time.Minute), began(3 * time.Minute)}, held(4 * time.Minute), ""},
		"the new build is seen in this very decision": {[]but{runs("b2", 2), appeared(30 * time.Second), bad},
			verdict{state: StateHeld, reason: ReasonEarlierBuild, requeue: 5*time.Minute + 30*time.Second, added: "new-build: 50→50; noted by alert: 50→50"}, ""},
		"and the alert began after its template was made": {[]but{runs("b2", 2), appeared(90 * time.Second), bad},
			verdict{state: StateRolledBack, move: MoveStable, reason: ReasonAlert, lock: "build b2 by alert", refused: "b1 b2", added: "new-build: 50→50; rolled-back by alert: 50→0"}, ""},
		"an earlier template that is back counts from now": {[]but{runs("b0", 2), appeared(2 * time.Hour), bad},
			verdict{state: StateHeld, reason: ReasonEarlierBuild, requeue: 6 * time.Minute, added: "new-build: 50→50; noted by alert: 50→50"}, ""},
		"a template of the future counts from now": {[]but{runs("b2", 2), appeared(-time.Hour), bad},
			verdict{state: StateHeld, reason: ReasonEarlierBuild, requeue: 6 * time.Minute, added: "new-build: 50→50; noted by alert: 50→50"}, ""},
		"a build of the future, by another's clock, is of now": {[]but{buildSince(-time.Hour), began(0)}, rolled, ""},
		"an unlock of the future as well":                      {[]but{unlocked(-time.Hour), began(0)}, rolled, ""},
		"then the window begins now":                           {[]but{buildSince(-time.Hour), began(1)}, held(6 * time.Minute), ""},
		"no build known any more: still that of the record":    {[]but{noCanary, bad}, rolled, ""},
	})
}

func TestANewBuildUnderAllTraffic(t *testing.T) {
	new := runs("b2", 2)
	runRows(t, map[string]row{
		"a completed canary gets a new window": {[]but{promoted(time.Hour), wasIn(StateCompleted, 100), new},
			verdict{state: StateUnverified, reason: ReasonNothing, requeue: 30 * time.Minute, added: "new-build: 100→100; unverified: 100→100"}, "went out without a canary"},
		"so does a promoted one": {[]but{promoted(10 * time.Minute), new},
			verdict{state: StateUnverified, reason: ReasonNothing, requeue: 30 * time.Minute, added: "new-build: 100→100; unverified: 100→100"}, ""},
		"and is rolled back by an alert of its own": {[]but{promoted(time.Hour), proven("b1"), new, appeared(2 * time.Minute), bad},
			verdict{state: StateRolledBack, move: MoveStable, reason: ReasonAlert, lock: "build b2 by alert", refused: "b2",
				added: "new-build: 100→100; unverified: 100→100; rolled-back by alert: 100→0"}, ""},
		"after the window it is completed": {[]but{leads, promoted(30 * time.Minute), func(in *Input) { in.Record.Status.State, in.Record.Status.Unverified = StateUnverified, true }},
			verdict{state: StateCompleted, reason: ReasonNothing, added: "completed: 100→100"}, ""},
		"a build that was unknown is not new": {[]but{promoted(10 * time.Minute), func(in *Input) { in.Record.Status.Build = "" }},
			verdict{state: StatePromoted, reason: ReasonNothing, requeue: 20 * time.Minute}, ""},
		"a Deployment that is gone is not new": {[]but{promoted(10 * time.Minute), noCanary}, verdict{state: StatePromoted, reason: ReasonNothing, requeue: 20 * time.Minute}, ""},
		"one that arrives together with 100% had its canary skipped by CI alone": {[]but{new, gets(100)},
			verdict{state: StatePromoted, reason: ReasonNothing, requeue: 30 * time.Minute, added: "new-build: 50→100; shifted: 50→100; promoted: 50→100"}, ""},
		"in the middle of a split it is noted, and watched from now on": {[]but{new}, verdict{state: StateShifting, reason: ReasonNothing, added: "new-build: 50→50"}, ""},
		"one that comes while a rollback is blocked gets its window": {[]but{locked(LockBuild), promoted(time.Hour), blocked("stable v1 has 0 ready endpoints, rollback.minReadyStable is 1"), stableReady(0), new, live},
			verdict{state: StateUnverified, reason: ReasonNewBuild, refused: "b1", requeue: PollCount,
				added: "new-build: 100→100; unverified: 100→100; unlocked by new build: 100→100"}, ""},
	})
}

func TestWhatLiftsALock(t *testing.T) {
	stays := func(v verdict) verdict {
		v.state, v.reason, v.lock = StateRolledBack, ReasonNothing, "build b1 by alert"
		if v.refused == "" {
			v.refused = "b1"
		}
		return v
	}
	fresh := runs("b2", 2)
	known := func(in *Input) { in.Record.Status.Build = in.Canary.Build }
	runRows(t, map[string]row{
		"a new build that is ready, read live": {[]but{locked(LockBuild), fresh, known, live}, verdict{state: StateIdle, reason: ReasonNewBuild, refused: "b1", added: "unlocked by new build: 0→0"}, "b2 is ready"},
		"read from a cache, it is asked live":  {[]but{locked(LockBuild), fresh, known}, stays(verdict{wantLive: true}), ""},
		"what was re-pointed is given back":    {[]but{locked(LockBuild), fresh, known, live, func(in *Input) { in.Owned = true }}, verdict{state: StateIdle, move: MoveRestore, reason: ReasonNewBuild, refused: "b1", release: true, added: "unlocked by new build: 0→0"}, ""},
		"not one of the old pods may be ready": {[]but{locked(LockBuild), runs("b2", 2, "b1"), known, live}, stays(verdict{}), ""},
		"not a build without a ready pod":      {[]but{locked(LockBuild), runs("b2", 0), known, live}, stays(verdict{}), ""},
		"one ready pod is enough":              {[]but{locked(LockBuild), runs("b2", 1), known, live}, verdict{state: StateIdle, reason: ReasonNewBuild, refused: "b1", added: "unlocked by new build: 0→0"}, ""},
		"not a build that nobody knows":        {[]but{locked(LockBuild), runs("", 2), live}, stays(verdict{}), ""},
		"not a deleted Deployment":             {[]but{locked(LockBuild), noCanary, live}, stays(verdict{}), ""},
		"not the same build restarted":         {[]but{locked(LockBuild), live}, stays(verdict{}), ""},
		"not an earlier refused build": {[]but{locked(LockBuild), runs("b0", 2), known, live, func(in *Input) { in.Record.Refused = []string{"b0", "b1"} }},
			stays(verdict{refused: "b0 b1"}), ""},
		"not a lock by hand": {[]but{locked(LockManual), fresh, known, live}, verdict{state: StateRolledBack, reason: ReasonNothing, lock: "manual b1 by alert", refused: "b1"}, ""},
		"not while disarmed": {[]but{locked(LockBuild), fresh, known, live, disarmed(time.Hour)}, verdict{state: StateDisarmed, reason: ReasonDisarmed, requeue: time.Hour, lock: "build b1 by alert", refused: "b1"}, ""},
		"an alert of the new build locks again": {[]but{locked(LockBuild), wasIn(StateBlocked, 50), fresh, appeared(2 * time.Minute), live, bad},
			verdict{state: StateRolledBack, move: MoveStable, reason: ReasonAlert, lock: "build b2 by alert", refused: "b1 b2",
				added: "new-build: 50→50; unlocked by new build: 50→50; rolled-back by alert: 50→0"}, ""},
		"a lock of an unknown build takes the first that is known": {[]but{locked(LockBuild), live, func(in *Input) { in.Record.Lock.Build, in.Record.Status.Build, in.Record.Refused = "", "", nil }},
			stays(verdict{}), ""},
		"not one of two new builds, when the other is refused": {[]but{locked(LockBuild), pairOf("b1", "b2"), known, live}, stays(verdict{}), ""},
		"not a refused one whose Deployment a new one joins":   {[]but{locked(LockBuild), pairOf("b1", "b2"), func(in *Input) { in.Canary.Running = []string{"b1", "b2"} }, live}, stays(verdict{added: "new-build: 0→0"}), ""},
		"two new builds":                        {[]but{locked(LockBuild), pairOf("b2", "b3"), known, live}, verdict{state: StateIdle, reason: ReasonNewBuild, refused: "b1", added: "unlocked by new build: 0→0"}, ""},
		"a refused one of two that has no pods": {[]but{locked(LockBuild), pairOf("b1", "b2"), known, live, func(in *Input) { in.Canary.Running = []string{"b2"} }}, verdict{state: StateIdle, reason: ReasonNewBuild, refused: "b1", added: "unlocked by new build: 0→0"}, ""},
		"and is lifted by the next":             {[]but{locked(LockBuild), fresh, live}, verdict{state: StateIdle, reason: ReasonNewBuild, refused: "b1", added: "new-build: 0→0; unlocked by new build: 0→0"}, ""},
	})
}

func TestARefusedBuildThatIsBackIsRolledBackAgain(t *testing.T) {
	was := func(in *Input) { in.Record.Refused = []string{"b1"} }
	known := func(in *Input) { in.Record.Status.Build = in.Canary.Build }
	runRows(t, map[string]row{
		"undone by kubectl rollout undo, with traffic": {[]but{was, func(in *Input) { in.Record.Status.Build = "b2" }},
			verdict{state: StateRolledBack, move: MoveStable, reason: ReasonRefusedBuild, lock: "build b1 by refused build", refused: "b1", added: "new-build: 50→50; rolled-back by refused build: 50→0"}, "build b1 was rolled back before"},
		"without traffic it is locked": {[]but{was, wasIn(StateIdle, 0)},
			verdict{state: StateRolledBack, reason: ReasonRefusedBuild, lock: "build b1 by refused build", refused: "b1", added: "rolled-back by refused build: 0→0"}, ""},
		"not before one of its pods is ready": {[]but{was, runs("b1", 0, "b2")}, verdict{state: StateShifting, reason: ReasonNothing, refused: "b1"}, ""},
		"from its first ready pod on": {[]but{was, runs("b1", 1, "b2")},
			verdict{state: StateRolledBack, move: MoveStable, reason: ReasonRefusedBuild, lock: "build b1 by refused build", refused: "b1", added: "rolled-back by refused build: 50→0"}, ""},
		"one of two Deployments'": {[]but{was, pairOf("b1", "b2"), known},
			verdict{state: StateRolledBack, move: MoveStable, reason: ReasonRefusedBuild, lock: "build b1 by refused build", refused: "b1", added: "rolled-back by refused build: 50→0"}, "build b1 was rolled back before"},
		"of a template that has been replaced, as a cache has it: read live first": {[]but{was, runs("b2", 1, "b1")}, verdict{state: StateShifting, reason: ReasonNothing, refused: "b1", wantLive: true, added: "new-build: 50→50"}, ""},
		"of a template that has been replaced, read live": {[]but{was, runs("b2", 1, "b1"), live},
			verdict{state: StateRolledBack, move: MoveStable, reason: ReasonRefusedBuild, lock: "build b1 by refused build", refused: "b1", added: "new-build: 50→50; rolled-back by refused build: 50→0"}, ""},
		"without locks nothing is refused": {[]but{was, lockKind(LockNone)}, verdict{state: StateShifting, reason: ReasonNothing, refused: "b1"}, ""},
		"another build is not":             {[]but{func(in *Input) { in.Record.Refused = []string{"b0"} }}, verdict{state: StateShifting, reason: ReasonNothing, refused: "b0"}, ""},
	})
}

func TestTheKindsOfLock(t *testing.T) {
	runRows(t, map[string]row{
		"manual": {[]but{bad, lockKind(LockManual)}, verdict{state: StateRolledBack, move: MoveStable, reason: ReasonAlert, lock: "manual b1 by alert", refused: "b1", added: "rolled-back by alert: 50→0"}, ""},
		"none: rolled back and not locked": {[]but{bad, lockKind(LockNone)},
			verdict{state: StateIdle, move: MoveStable, reason: ReasonAlert, added: "noted by alert: 50→50; rolled-back by alert: 50→0"}, "rolled back, not locked"},
		"none: the alert still fires, and CI shifts again": {[]but{bad, lockKind(LockNone), wasIn(StateIdle, 0), gets(10), noted("CanaryErrors", time.Minute)},
			verdict{state: StateIdle, move: MoveStable, reason: ReasonAlert, added: "shifted: 0→10; rolled-back by alert: 10→0"}, ""},
		"none: resolved, CI may shift": {[]but{lockKind(LockNone), wasIn(StateIdle, 0), gets(10)}, verdict{state: StateShifting, reason: ReasonNothing, added: "shifted: 0→10"}, ""},
		"none: blocked without a lock": {[]but{bad, lockKind(LockNone), stableReady(0)},
			verdict{state: StateBlocked, reason: ReasonBlocked, added: "blocked: 50→50; noted by alert: 50→50"}, ""},
		"none: blocked, and only another replica has heard why": {[]but{lockKind(LockNone), blocked("stable is away"), stableReady(0), heardElsewhere(ActionRollback, time.Minute)},
			verdict{state: StateBlocked, reason: ReasonNothing}, "stable is away"},
		"none: a person's promotion is then refused, and it says so": {[]but{lockKind(LockNone), blocked("stable is away"), stableReady(0), heardElsewhere(ActionRollback, time.Minute), live, asks(RequestPromote)},
			verdict{state: StateBlocked, reason: ReasonNothing, requeue: 15 * time.Second, added: "refused by ann: 50→50"}, "promote refused: stable is away"},
		"none: ownership is given up, routes are not given back": {[]but{lockKind(LockNone), wasIn(StateIdle, 0), live, func(in *Input) { in.Owned = true }},
			verdict{state: StateIdle, move: MoveMark, reason: ReasonRestore, release: true}, ""},
		"build, lifted: ownership is given up by the lease holder": {[]but{wasIn(StateIdle, 0), live, func(in *Input) { in.Owned = true }},
			verdict{state: StateIdle, move: MoveRestore, reason: ReasonRestore, release: true}, ""},
		"build, lifted: others leave it to the lease holder": {[]but{wasIn(StateIdle, 0), func(in *Input) { in.Owned = true }},
			verdict{state: StateIdle, reason: ReasonNothing, wantLive: true}, ""},
		"build, lifted: while an alert fires nothing is given back": {[]but{wasIn(StateIdle, 0), live, bad, func(in *Input) { in.Owned, in.Owed = true, true }},
			verdict{state: StateIdle, reason: ReasonNothing, added: "noted by alert: 0→0"}, ""},
		"nor by the new build that lifts it": {[]but{locked(LockBuild), runs("b2", 2), appeared(2 * time.Minute), live, bad, func(in *Input) { in.Owned, in.Owed = true, true }},
			verdict{state: StateIdle, reason: ReasonNewBuild, refused: "b1", added: "new-build: 0→0; unlocked by new build: 0→0; noted by alert: 0→0"}, ""},
		"nor while one holds":                        {[]but{wasIn(StateIdle, 0), live, fires(ActionHold, "StableErrors", time.Minute), func(in *Input) { in.Owed = true }}, verdict{state: StateIdle, reason: ReasonNothing, added: "noted by alert: 0→0"}, ""},
		"nor while another replica has heard one":    {[]but{wasIn(StateIdle, 0), live, heardElsewhere(ActionRollback, time.Minute), func(in *Input) { in.Owned = true }}, verdict{state: StateIdle, reason: ReasonNothing, requeue: 15 * time.Second}, ""},
		"one about an earlier build may be over":     {[]but{wasIn(StateIdle, 0), live, heardElsewhere(ActionRollback, time.Minute), buildSince(30 * time.Second), func(in *Input) { in.Owned = true }}, verdict{state: StateIdle, move: MoveRestore, reason: ReasonRestore, release: true, requeue: 15 * time.Second}, ""},
		"what was re-pointed, under another's marks": {[]but{wasIn(StateIdle, 0), live, func(in *Input) { in.Owed = true }}, verdict{state: StateIdle, move: MoveRestore, reason: ReasonRestore}, ""},
		"from a cache it is read live first":         {[]but{wasIn(StateIdle, 0), func(in *Input) { in.Owed = true }}, verdict{state: StateIdle, reason: ReasonNothing, wantLive: true}, ""},
		"none: what was re-pointed stays":            {[]but{lockKind(LockNone), wasIn(StateIdle, 0), live, func(in *Input) { in.Owed = true }}, verdict{state: StateIdle, reason: ReasonNothing}, ""},
		"a rollback gives nothing back": {[]but{bad, live, func(in *Input) { in.Owned = true }},
			verdict{state: StateRolledBack, move: MoveStable, reason: ReasonAlert, lock: "build b1 by alert", refused: "b1", added: "rolled-back by alert: 50→0"}, ""},
	})
}

func TestARollbackThatIsNotSafeIsBlocked(t *testing.T) {
	rolled := verdict{state: StateRolledBack, move: MoveStable, reason: ReasonAlert, lock: "build b1 by alert", refused: "b1", added: "rolled-back by alert: 50→0"}
	blocks := verdict{state: StateBlocked, reason: ReasonBlocked, lock: "build b1 by alert", refused: "b1", added: "blocked: 50→50"}
	away := "stable v1 has 0 ready endpoints, rollback.minReadyStable is 1"
	still := blocks
	still.added = ""
	done := rolled
	done.reason = ReasonFinish
	was := []but{locked(LockBuild), wasIn(StateBlocked, 50), blocked(away)}
	because := func(more ...but) []but { return append(slices.Clone(was), more...) }
	full := func(more ...but) []but { return append(because(promoted(31*time.Minute), blocked(away)), more...) }
	held := verdict{state: StateBlocked, reason: ReasonBlocked, lock: "build b1 by alert", refused: "b1"}
	runRows(t, map[string]row{
		"the floor is met exactly":            {[]but{bad, floorOf(2)}, rolled, ""},
		"no floor, and none ready":            {[]but{bad, floorOf(0), stableReady(0)}, rolled, ""},
		"no floor, and no such subset":        {[]but{bad, floorOf(0), stableReady(0), func(in *Input) { in.Stable.Missing = "no subset v1" }}, blocks, "rollback is wanted but no subset v1"},
		"one below the floor":                 {[]but{bad, floorOf(3)}, blocks, "stable v1 has 2 ready endpoints, rollback.minReadyStable is 3"},
		"the subset is missing":               {[]but{bad, func(in *Input) { in.Stable.Missing = "DestinationRule microservices/orders-service has no subset v1" }}, blocks, "rollback is wanted but DestinationRule microservices/orders-service has no subset v1"},
		"a VirtualService cannot be written":  {[]but{bad, func(in *Input) { in.Unsafe = "VirtualService microservices/orders-service: delegate" }}, blocks, "delegate"},
		"nothing has to move: locked at once": {[]but{asks(RequestRollback), wasIn(StateIdle, 0), stableReady(0)}, verdict{state: StateRolledBack, reason: ReasonPerson, lock: "build b1 by ann", refused: "b1", added: "rolled-back by ann: 0→0"}, ""},
		"still blocked: told once":            {because(stableReady(0)), still, ""},
		"blocked for another reason: told again, by one": {because(leads, stableReady(0), func(in *Input) { in.Stable.Missing = "no subset v1" }),
			verdict{state: StateBlocked, reason: ReasonBlocked, lock: "build b1 by alert", refused: "b1", added: "blocked: 50→50"}, "no subset v1"},
		"blocked by another number: not told again":         {because(leads, stableReady(0), floorOf(2)), still, "minReadyStable is 2"},
		"safe now: done, and told":                          {because(), done, ""},
		"safe now, in the wake of a disarm: done, and told": {because(func(in *Input) { in.Record.Status.State = StateDisarmed }), done, ""},
		"safe now, and disarmed: not done":                  {because(disarmed(time.Hour)), verdict{state: StateDisarmed, reason: ReasonDisarmed, requeue: time.Hour, lock: "build b1 by alert", refused: "b1"}, ""},
		"safe now, and paused: done":                        {because(pausedOnVS), done, ""},
		"resolved meanwhile: still wanted":                  {because(stableReady(0), live), still, ""},
		"the VirtualService is gone: nothing is left":       {because(gets(0)), verdict{state: StateRolledBack, reason: ReasonNothing, lock: "build b1 by alert", refused: "b1", added: "shifted: 50→0"}, ""},
		"all traffic, 1 ns before the window is over":       {full(live, stableReady(0), promotedAt(30*time.Minute-1)), held, ""},
		"all traffic, the window is over: forgiven":         {full(live, stableReady(0), promotedAt(30*time.Minute)), verdict{state: StateCompleted, reason: ReasonWindowOver, added: "unlocked by window: 100→100; completed: 100→100"}, "could not be done within the window"},
		"forgiving is left to live reads":                   {full(leads, stableReady(0)), withLive(held), ""},
		"unlocked, and another replica's alert fires: held": {because(live, stableReady(0), heardElsewhere(ActionRollback, time.Minute), asks(RequestUnlock)),
			verdict{state: StateHeld, reason: ReasonEarlierBuild, requeue: 15 * time.Second, added: "unlocked by ann: 50→50"}, ""},
		"its alert still fires: not forgiven":                      {full(live, stableReady(0), bad), held, ""},
		"it fires, as another replica knows: not forgiven":         {full(live, stableReady(0), heardElsewhere(ActionRollback, time.Minute)), withRequeue(held, 15*time.Second), ""},
		"a split has no window: not forgiven":                      {because(live, stableReady(0)), held, ""},
		"what a person asked for is not forgiven":                  {full(live, stableReady(0), func(in *Input) { in.Record.Lock.By, in.Record.Lock.Alert = "ann", "" }), withLock(held, "build b1 by ann"), ""},
		"a lock by hand is lifted by hand alone":                   {full(live, stableReady(0), func(in *Input) { in.Record.Lock.Kind = LockManual }), withLock(held, "manual b1 by alert"), ""},
		"safe again after the window, and nobody looked: forgiven": {full(live), verdict{state: StateCompleted, reason: ReasonWindowOver, added: "unlocked by window: 100→100; completed: 100→100"}, ""},
	})
}

func promotedAt(ago time.Duration) but {
	return func(in *Input) { in.Record.Status.PromotedAt = at.Add(-ago) }
}

func withLive(v verdict) verdict { v.wantLive = true; return v }

func withRequeue(v verdict, d time.Duration) verdict { v.requeue = d; return v }

func withLock(v verdict, lock string) verdict { v.lock = lock; return v }

func TestALockIsHeldAgainstWhoeverShifts(t *testing.T) {
	back := verdict{state: StateRolledBack, move: MoveStable, reason: ReasonReassert, lock: "build b1 by alert", refused: "b1"}
	tell := back
	tell.added = "reasserted: 0→0"
	again := func(ago time.Duration) but {
		return func(in *Input) {
			in.Record.History = []HistoryEntry{{At: at.Add(-ago), Event: "reasserted"}, {At: at.Add(-time.Second), Event: "refused"}}
		}
	}
	from := func(v verdict, w int) verdict {
		v.added = fmt.Sprintf("reasserted: %d→0", w)
		return v
	}
	finish := back
	finish.reason = ReasonFinish
	runRows(t, map[string]row{
		"CI applies 50/50":                   {[]but{locked(LockBuild), gets(50)}, from(tell, 50), "had traffic again while locked"},
		"CI applies a mirror":                {[]but{locked(LockBuild), func(in *Input) { in.Traffic.Mirrors = 1 }}, tell, ""},
		"CI applies a route for testers":     {[]but{locked(LockBuild), func(in *Input) { in.Traffic.CanaryOnly = 1 }}, tell, ""},
		"a burst is told once a minute":      {[]but{locked(LockBuild), gets(50), again(time.Minute - 1)}, back, ""},
		"and then again":                     {[]but{locked(LockBuild), gets(50), again(time.Minute)}, from(tell, 50), ""},
		"a crash between lock and weights":   {[]but{locked(LockBuild), underWay(50), gets(50)}, finish, ""},
		"CI shifted on in between":           {[]but{locked(LockBuild), underWay(50), gets(70)}, withAdded(finish, "shifted: 50→70"), ""},
		"and what CI gave was all: the same": {[]but{locked(LockBuild), underWay(50), gets(100)}, withAdded(finish, "shifted: 50→100"), ""},
		"stable is away: blocked, not moved": {[]but{locked(LockBuild), gets(50), stableReady(0)},
			verdict{state: StateBlocked, reason: ReasonBlocked, lock: "build b1 by alert", refused: "b1", added: "blocked: 0→50"}, ""},
		"at 0: nothing": {[]but{locked(LockBuild)}, verdict{state: StateRolledBack, reason: ReasonNothing, lock: "build b1 by alert", refused: "b1"}, ""},
	})
	d := Decide(given(locked(LockBuild), gets(50), again(time.Second)), at)
	before := given(locked(LockBuild)).Record.Status
	if d.Record.Status.Weight != 0 || !d.Record.Status.MovedAt.Equal(before.MovedAt) {
		t.Errorf("a re-assertion in a burst changed the status: %+v; it must cost no write of the record", d.Record.Status)
	}
}

// asksMark is a person's verdict on the rollback of an hour ago, or so.
func asksMark(action RequestAction, of time.Time) but {
	return func(in *Input) {
		in.Record.History = append(in.Record.History, HistoryEntry{At: at.Add(-time.Hour), Event: EventRolledBack, State: StateRolledBack},
			HistoryEntry{At: at.Add(-2 * time.Minute), Event: EventWould, State: StateShifting}, HistoryEntry{At: at.Add(-time.Minute), Event: EventNoted, State: StateShifting})
		in.Record.Request = &Request{Action: action, By: "ann", Reason: "because", At: at.Add(-time.Second), Of: of}
	}
}

func TestAMarkSaysOfWhichRollbackAndMovesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		action RequestAction
		of     time.Time
		want   Event
		says   string
	}{
		"wrong":                  {RequestMarkWrong, at.Add(-time.Hour), EventMarkedWrong, "because"},
		"right":                  {RequestMarkRight, at.Add(-time.Hour), EventMarkedRight, "because"},
		"of a would-be rollback": {RequestMarkWrong, at.Add(-2 * time.Minute), EventMarkedWrong, "because"},
		"of something else":      {RequestMarkWrong, at.Add(-time.Minute), EventRefused, "mark-wrong refused: the history has no rollback, and none that would have been one, at 2026-03-02T08:59:00Z"},
		"of nothing":             {RequestMarkRight, time.Time{}, EventRefused, "mark-right refused: "},
	} {
		for state, is := range map[string]but{"shifting": gets(50), "locked": locked(LockBuild)} {
			in, plain := given(is, asksMark(c.action, c.of)), given(is, asksMark(c.action, c.of))
			plain.Record.Request = nil
			d, without := Decide(in, at), Decide(plain, at)
			if len(d.Added) != 1 || d.Added[0].Event != c.want || !strings.HasPrefix(d.Added[0].Reason, c.says) || d.Added[0].By != "ann" {
				t.Errorf("%s, %s: added %+v, want %s: %s", name, state, d.Added, c.want, c.says)
			} else if of := d.Added[0].Of; c.want != EventRefused && !of.Equal(c.of) {
				t.Errorf("%s, %s: of %s, want %s", name, state, of, c.of)
			}
			if d.Record.Request != nil || d.Move != without.Move || d.Record.Status.State != without.Record.Status.State || (d.Record.Lock == nil) != (without.Record.Lock == nil) {
				t.Errorf("%s, %s: %+v, and without a mark %+v", name, state, d, without)
			}
		}
	}
}

func withAdded(v verdict, added string) verdict { v.added = added; return v }

func TestWhatAPersonAsksFor(t *testing.T) {
	lockedBy := func(v verdict) verdict { v.lock, v.refused = "build b1 by alert", "b1"; return v }
	runRows(t, map[string]row{
		"rollback":                              {[]but{asks(RequestRollback)}, verdict{state: StateRolledBack, move: MoveStable, reason: ReasonPerson, lock: "build b1 by ann", refused: "b1", added: "rolled-back by ann: 50→0"}, "because"},
		"rollback of a completed canary":        {[]but{promoted(time.Hour), asks(RequestRollback)}, verdict{state: StateRolledBack, move: MoveStable, reason: ReasonPerson, lock: "build b1 by ann", refused: "b1", added: "rolled-back by ann: 100→0"}, ""},
		"rollback while paused":                 {[]but{paused, asks(RequestRollback)}, verdict{state: StateRolledBack, move: MoveStable, reason: ReasonPerson, lock: "build b1 by ann", refused: "b1", added: "rolled-back by ann: 50→0"}, ""},
		"rollback while an annotation pauses":   {[]but{asks(RequestRollback), pausedOnVS}, verdict{state: StateRolledBack, move: MoveStable, reason: ReasonPerson, lock: "build b1 by ann", refused: "b1", added: "rolled-back by ann: 50→0"}, ""},
		"rollback ends a disarm":                {[]but{disarmed(time.Hour), asks(RequestRollback)}, verdict{state: StateRolledBack, move: MoveStable, reason: ReasonPerson, lock: "build b1 by ann", refused: "b1", added: "armed by ann: 50→50; rolled-back by ann: 50→0"}, "a rollback was asked for: because"},
		"rollback of what is locked is refused": {[]but{locked(LockBuild), asks(RequestRollback)}, lockedBy(verdict{state: StateRolledBack, reason: ReasonNothing, added: "refused by ann: 0→0"}), "rollback refused: locked"},
		"rollback that is not safe is blocked":  {[]but{asks(RequestRollback), stableReady(0)}, verdict{state: StateBlocked, reason: ReasonBlocked, lock: "build b1 by ann", refused: "b1", added: "blocked: 50→50"}, ""},
		"unlock, read live":                     {[]but{locked(LockBuild), asks(RequestUnlock), live}, verdict{state: StateIdle, reason: ReasonNothing, added: "unlocked by ann: 0→0"}, "because"},
		"unlock of a lock by hand":              {[]but{locked(LockManual), asks(RequestUnlock), live}, verdict{state: StateIdle, reason: ReasonNothing, added: "unlocked by ann: 0→0"}, ""},
		"unlock forgives what the lock refused and no more": {[]but{locked(LockBuild), runs("b2", 1, "b3"), asks(RequestUnlock), live, func(in *Input) {
			in.Record.Refused, in.Record.Lock.Refused = []string{"b0", "b1", "b4"}, []string{"b1", "b4"}
		}},
			verdict{state: StateIdle, reason: ReasonNothing, refused: "b0", added: "new-build: 0→0; unlocked by ann: 0→0"}, ""},
		"unlock forgives what was refused before and runs again": {[]but{locked(LockBuild), runs("b2", 1, "b3"), asks(RequestUnlock), live, func(in *Input) { in.Record.Refused = []string{"b0", "b1", "b2", "b3"} }},
			verdict{state: StateIdle, reason: ReasonNothing, refused: "b0", added: "new-build: 0→0; unlocked by ann: 0→0"}, ""},
		"unlock forgives both of two Deployments": {[]but{locked(LockBuild), pairOf("b1", "b2"), asks(RequestUnlock), live, func(in *Input) {
			in.Record.Status.Build, in.Record.Refused, in.Record.Lock.Refused = "b1+b2", []string{"b0", "b1", "b2"}, []string{"b1", "b2"}
		}},
			verdict{state: StateIdle, reason: ReasonNothing, refused: "b0", added: "unlocked by ann: 0→0"}, ""},
		"unlock from a cache waits for live reads": {[]but{locked(LockBuild), asks(RequestUnlock)}, lockedBy(verdict{state: StateRolledBack, reason: ReasonNothing, wantLive: true}), ""},
		"unlock of what is not locked is refused":  {[]but{asks(RequestUnlock), live}, verdict{state: StateShifting, reason: ReasonNothing, requeue: PollCount, added: "refused by ann: 50→50"}, "orders-service is not locked"},
		"unlock of a lock that came after it was asked for is refused": {[]but{locked(LockBuild), asks(RequestUnlock), live, means(at.Add(-time.Hour))}, lockedBy(verdict{state: StateRolledBack, reason: ReasonNothing, added: "refused by ann: 0→0"}),
			"unlock refused: the lock is of 2026-03-02T08:50:00Z, the unlock of what stood at 2026-03-02T08:00:00Z; look at status, and ask again"},
		"unlock of the lock that was seen": {[]but{locked(LockBuild), asks(RequestUnlock), live, means(at.Add(-10*time.Minute + 300*time.Millisecond))}, verdict{state: StateIdle, reason: ReasonNothing, added: "unlocked by ann: 0→0"}, ""},
		"unlock while the alert still fires holds": {[]but{locked(LockBuild), wasIn(StateBlocked, 50), asks(RequestUnlock), live, bad},
			verdict{state: StateHeld, reason: ReasonEarlierBuild, requeue: PollCount, added: "unlocked by ann: 50→50; noted by alert: 50→50"}, ""},
		"pause":                     {[]but{asks(RequestPause)}, verdict{state: StatePaused, reason: ReasonPaused, added: "paused by ann: 50→50"}, "paused by ann: because; canary has 50%"},
		"pause leaves the brake on": {[]but{asks(RequestPause), bad}, verdict{state: StateRolledBack, move: MoveStable, reason: ReasonAlert, lock: "build b1 by alert", refused: "b1", added: "paused by ann: 50→50; rolled-back by alert: 50→0"}, ""},
		"pause of what is locked":   {[]but{locked(LockBuild), asks(RequestPause)}, lockedBy(verdict{state: StateRolledBack, reason: ReasonNothing, added: "paused by ann: 0→0"}), ""},
		"pause of what is held":     {[]but{fires(ActionHold, "Hold", time.Minute), asks(RequestPause)}, verdict{state: StateHeld, reason: ReasonHeld, added: "paused by ann: 50→50; noted by alert: 50→50"}, ""},
		"pause of what is promoted": {[]but{promoted(10 * time.Minute), asks(RequestPause)}, verdict{state: StatePromoted, reason: ReasonNothing, requeue: 20 * time.Minute, added: "paused by ann: 100→100"}, ""},
		"resume, read live":         {[]but{paused, asks(RequestResume), live}, verdict{state: StateShifting, reason: ReasonNothing, requeue: PollCount, added: "resumed by ann: 50→50"}, ""},
		"resume while an annotation pauses is refused": {[]but{paused, pausedOnVS, asks(RequestResume), live},
			verdict{state: StatePaused, reason: ReasonPaused, requeue: PollCount, added: "refused by ann: 50→50"}, "annotation " + AnnotationPaused + " stands on the VirtualService; remove it first"},
		"resume from a cache waits for live reads": {[]but{paused, asks(RequestResume)}, verdict{state: StatePaused, reason: ReasonPaused, wantLive: true}, ""},
		"disarm":                       {[]but{asksDisarm(time.Second, time.Hour)}, verdict{state: StateDisarmed, reason: ReasonDisarmed, requeue: time.Hour - time.Second, added: "disarmed by ann: 50→50"}, "no rollback until 2026-03-02T09:59:59Z: because"},
		"disarm comes before an alert": {[]but{asksDisarm(0, time.Hour), bad}, verdict{state: StateDisarmed, reason: ReasonDisarmed, requeue: time.Hour, added: "disarmed by ann: 50→50; noted by alert: 50→50"}, ""},
		"disarm of what is locked leaves the lock":      {[]but{locked(LockBuild), asksDisarm(0, time.Hour)}, lockedBy(verdict{state: StateDisarmed, reason: ReasonDisarmed, requeue: time.Hour, added: "disarmed by ann: 0→0"}), ""},
		"disarm by a clock that is ahead: no longer":    {[]but{asksDisarm(-10*time.Minute, time.Hour)}, verdict{state: StateDisarmed, reason: ReasonDisarmed, requeue: time.Hour, added: "disarmed by ann: 50→50"}, ""},
		"disarm anew takes the place of the one before": {[]but{disarmed(time.Hour), asksDisarm(0, time.Minute)}, verdict{state: StateDisarmed, reason: ReasonDisarmed, requeue: time.Minute, added: "disarmed by ann: 50→50"}, ""},
		"disarm for the longest time":                   {[]but{asksDisarm(0, 24*time.Hour)}, verdict{state: StateDisarmed, reason: ReasonDisarmed, requeue: 24 * time.Hour, added: "disarmed by ann: 50→50"}, ""},
		"disarm for longer is refused":                  {[]but{asksDisarm(0, 24*time.Hour+1)}, verdict{state: StateShifting, reason: ReasonNothing, added: "refused by ann: 50→50"}, "disarm refused: 24h0m0.000000001s is longer than disarm.max, 24h0m0s"},
		"disarm for longer than configured is refused":  {[]but{asksDisarm(0, 2*time.Hour), func(in *Input) { in.Guard.DisarmMax = time.Hour }}, verdict{state: StateShifting, reason: ReasonNothing, added: "refused by ann: 50→50"}, "2h0m0s is longer than disarm.max, 1h0m0s"},
		"disarm without an end is refused":              {[]but{asks(RequestDisarm)}, verdict{state: StateShifting, reason: ReasonNothing, added: "refused by ann: 50→50"}, "disarm refused: it has no end (request.until)"},
		"disarm that is over is refused":                {[]but{asksDisarm(time.Hour, time.Hour)}, verdict{state: StateShifting, reason: ReasonNothing, added: "refused by ann: 50→50"}, "its end 2026-03-02T09:00:00Z has passed"},
		"disarm that ends before it begins":             {[]but{asksDisarm(0, -time.Hour)}, verdict{state: StateShifting, reason: ReasonNothing, added: "refused by ann: 50→50"}, "disarm refused: its end 2026-03-02T08:00:00Z is not after 2026-03-02T09:00:00Z"},
		"disarm that was written into the record: no longer": {[]but{func(in *Input) {
			disarmed(time.Hour)(in)
			in.Guard.DisarmMax, in.Record.Status.Disarmed.Until = 3*time.Hour, at.AddDate(900, 0, 0)
		}}, verdict{state: StateDisarmed, reason: ReasonDisarmed, requeue: 3*time.Hour - time.Minute}, "disarmed by ann until 2026-03-02T11:59:00Z: game day"},
		"disarm that was written there to begin in the future": {[]but{func(in *Input) {
			disarmed(time.Hour)(in)
			in.Record.Status.Disarmed.At, in.Record.Status.Disarmed.Until = at.AddDate(100, 0, 0), at.AddDate(200, 0, 0)
		}}, verdict{state: StateDisarmed, reason: ReasonDisarmed, requeue: 24 * time.Hour}, "disarmed by ann until 2026-03-03T09:00:00Z: game day"},
		"disarm that was written there without a beginning": {[]but{bad, func(in *Input) {
			disarmed(time.Hour)(in)
			in.Record.Status.Disarmed.At = time.Time{}
		}}, verdict{state: StateRolledBack, move: MoveStable, reason: ReasonAlert, lock: "build b1 by alert", refused: "b1", added: "armed: 50→50; rolled-back by alert: 50→0"}, "ann's disarm does not say when it began, so that it has no end: an alert that fires rolls back again"},
		"arm": {[]but{disarmed(time.Hour), asks(RequestArm)}, verdict{state: StateShifting, reason: ReasonNothing, added: "armed by ann: 50→50"}, "because"},
		"arm into an alert rolls back": {[]but{disarmed(time.Hour), asks(RequestArm), bad, noted("CanaryErrors", time.Minute)},
			verdict{state: StateRolledBack, move: MoveStable, reason: ReasonAlert, lock: "build b1 by alert", refused: "b1", added: "armed by ann: 50→50; rolled-back by alert: 50→0"}, ""},
		"arm of what is armed": {[]but{asks(RequestArm)}, verdict{state: StateShifting, reason: ReasonNothing, added: "armed by ann: 50→50"}, ""},
		"arm and traffic under the lock is taken back": {[]but{locked(LockBuild), disarmed(time.Hour), gets(50), asks(RequestArm)},
			lockedBy(verdict{state: StateRolledBack, move: MoveStable, reason: ReasonFinish, added: "armed by ann: 0→50; rolled-back by alert: 50→0"}), ""},
		"unlock while disarmed":                     {[]but{locked(LockBuild), disarmed(time.Hour), asks(RequestUnlock), live}, verdict{state: StateDisarmed, reason: ReasonDisarmed, requeue: time.Hour, added: "unlocked by ann: 0→0"}, ""},
		"pause while disarmed":                      {[]but{disarmed(time.Hour), asks(RequestPause)}, verdict{state: StateDisarmed, reason: ReasonDisarmed, requeue: time.Hour, added: "paused by ann: 50→50"}, ""},
		"promote while disarmed is refused":         {[]but{disarmed(time.Hour), asks(RequestPromote), live}, verdict{state: StateDisarmed, reason: ReasonDisarmed, requeue: time.Hour, added: "refused by ann: 50→50"}, "promote refused: disarmed"},
		"promote from a cache waits for live reads": {[]but{asks(RequestPromote)}, verdict{state: StateShifting, reason: ReasonNothing, wantLive: true}, ""},
		"promote of what is locked is refused":      {[]but{locked(LockBuild), asks(RequestPromote), live}, lockedBy(verdict{state: StateRolledBack, reason: ReasonNothing, added: "refused by ann: 0→0"}), "promote refused: locked"},
		"promote that is found an hour later is refused": {[]but{asks(RequestPromote), live, askedAgo(time.Hour + time.Second)}, verdict{state: StateShifting, reason: ReasonNothing, requeue: PollCount, added: "refused by ann: 50→50"},
			"promote refused: it was asked for at 2026-03-02T07:59:59Z, more than 1h0m0s ago; ask again if it is still meant"},
		"pause that is found an hour later": {[]but{asks(RequestPause), askedAgo(time.Hour + time.Second)}, verdict{state: StatePaused, reason: ReasonPaused, added: "paused by ann: 50→50"}, ""},
		"promote while paused is refused":   {[]but{paused, asks(RequestPromote), live}, verdict{state: StatePaused, reason: ReasonPaused, requeue: PollCount, added: "refused by ann: 50→50"}, "promote refused: paused"},
		"promote in the instant of an alert is refused": {[]but{asks(RequestPromote), live, bad},
			verdict{state: StateRolledBack, move: MoveStable, reason: ReasonAlert, lock: "build b1 by alert", refused: "b1", added: "refused by ann: 50→50; rolled-back by alert: 50→0"}, "an alert rolls back"},
		"promote at 100% is refused":   {[]but{promoted(10 * time.Minute), asks(RequestPromote), live}, verdict{state: StatePromoted, reason: ReasonNothing, requeue: PollCount, added: "refused by ann: 100→100"}, "already has all traffic"},
		"what nobody knows is refused": {[]but{asks("dance")}, verdict{state: StateShifting, reason: ReasonNothing, added: "refused by ann: 50→50"}, `request "dance" refused: want rollback, unlock, pause, resume, promote, disarm, arm, mark-wrong or mark-right`},
	})
}

func TestARequestStaysUntilItIsDone(t *testing.T) {
	for _, q := range []RequestAction{RequestUnlock, RequestResume, RequestPromote} {
		if d := Decide(given(asks(q)), at); d.Record.Request == nil {
			t.Errorf("%s was taken off the record by a replica that may not carry it out", q)
		}
		if d := Decide(given(asks(q), live, func(in *Input) { in.Forward = &Forward{} }), at); d.Record.Request != nil {
			t.Errorf("%s is done and still on the record", q)
		}
	}
	unsafe := []but{asks(RequestRollback), lockKind(LockNone), stableReady(0)}
	in := given(unsafe...)
	d := Decide(in, at)
	if d.Record.Request == nil || d.Record.Status.State != StateBlocked {
		t.Errorf("without a lock, what a person asked for is forgotten while it is blocked: state %s", d.Record.Status.State)
	}
	in.Record = d.Record
	if again := Decide(in, at.Add(time.Second)); len(again.Added) > 0 || !reflect.DeepEqual(again.Record.Data(), d.Record.Data()) {
		t.Errorf("and told again: %+v", again.Added)
	}
	in.Stable.Ready = 1
	if done := Decide(in, at.Add(time.Minute)); done.Move != MoveStable || done.Reason != ReasonPerson {
		t.Errorf("as soon as it is safe: move %v, %s; want the rollback", done.Move, done.Reason)
	}
	if locks := Decide(given(asks(RequestRollback), stableReady(0)), at); locks.Record.Request != nil {
		t.Error("a lock tells of it, and it is still on the record")
	}
	for _, q := range []RequestAction{RequestRollback, RequestPause, RequestDisarm, RequestArm, "dance"} {
		if d := Decide(given(asks(q)), at); d.Record.Request != nil {
			t.Errorf("%s needs no lease and is still on the record", q)
		}
	}
}

func TestWhileLockedTheRecordTellsPolicyAndCI(t *testing.T) {
	r := Decide(given(bad), at).Record
	if want := []string{"orders-service/v2"}; !slices.Equal(r.Deny, want) || !r.DenyMatchRoutes || !r.DenyMirrors {
		t.Errorf("denied %v, in routes of some requests %v, in mirrors %v; want %v in all", r.Deny, r.DenyMatchRoutes, r.DenyMirrors, want)
	}
	if r := Decide(given(bad, func(in *Input) { in.Spare = []string{"orders-service/v1"} }), at).Record; !slices.Equal(r.Stable, []string{"orders-service/v1"}) {
		t.Errorf("told apart from %v", r.Stable)
	}
	if !slices.Equal(r.VirtualServices, []string{"orders-service"}) {
		t.Errorf("policy looks at %v", r.VirtualServices)
	}
	for _, part := range []string{"guardian is rolling orders-service back to v1 since 2026-03-02T09:00:00Z", "CanaryErrors: 7% of requests fail", "Build b1 is refused",
		"kubectl rollout status", "guardian gate orders-service -n microservices --wait-unlocked", "guardian unlock orders-service -n microservices --reason"} {
		if !strings.Contains(r.Message, part) {
			t.Errorf("message %q\ndoes not say %q", r.Message, part)
		}
	}
	if m := Decide(given(bad, lockKind(LockManual)), at).Record.Message; strings.Contains(m, "new build") || !strings.Contains(m, "unlock orders-service") {
		t.Errorf("message of a lock by hand: %q", m)
	}
	if m := Decide(given(bad, stableReady(0)), at).Record.Message; !strings.Contains(m, "cannot yet (stable v1 has 0 ready endpoints") {
		t.Errorf("message while blocked: %q", m)
	}
	kept := Decide(given(locked(LockBuild), func(in *Input) { in.Deny, in.Record.Deny = nil, []string{"orders-service/v2"} }), at).Record
	if len(kept.Deny) != 1 {
		t.Error("a DestinationRule that is gone made the policy forget the canary")
	}
	free := Decide(given(locked(LockBuild), asks(RequestUnlock), live, func(in *Input) {
		in.Record.Deny, in.Record.DenyMirrors, in.Record.DenyMatchRoutes = in.Deny, true, true
		in.Record.Stable, in.Record.VirtualServices, in.Record.Message = []string{"orders-service/v1"}, []string{"orders-service"}, "locked"
	}), at).Record
	if free.Lock != nil || free.Message != "" || len(free.Deny)+len(free.Stable)+len(free.VirtualServices) > 0 || free.DenyMatchRoutes || free.DenyMirrors || !free.Status.UnlockedAt.Equal(at) {
		t.Errorf("unlocked, and the record still says %+v", free)
	}
	l := Decide(given(bad), at).Record.Lock
	want := Lock{Kind: LockBuild, Build: "b1", Refused: []string{"b1"}, Signal: "error_rate", Alert: "CanaryErrors", Fingerprint: "f-CanaryErrors", StartsAt: at.Add(-time.Minute), Since: at, By: "alert", Reason: "CanaryErrors: 7% of requests fail",
		Stable: "v1", Canary: "v2"}
	if !reflect.DeepEqual(*l, want) {
		t.Errorf("lock %+v\nwant %+v", *l, want)
	}
}

func TestALongTextCannotKeepARollbackFromBeingRecorded(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	for name, in := range map[string]Input{
		"summary of a rollback alert": given(bad, func(in *Input) { in.Alerts[0].Summary = long }),
		"name of a rollback alert":    given(bad, func(in *Input) { in.Alerts[0].Name = long }),
		"name of a noted alert":       given(bad, wasIn(StateIdle, 0), func(in *Input) { in.Alerts[0].Name = long }),
		"reason of a rollback":        given(asks(RequestRollback), func(in *Input) { in.Record.Request.Reason = long }),
		"reason of a pause":           given(asks(RequestPause), func(in *Input) { in.Record.Request.Reason = long }),
		"reason of an unlock":         given(locked(LockBuild), live, asks(RequestUnlock), func(in *Input) { in.Record.Request.Reason = long }),
		"action of a request":         given(asks(RequestAction(long))),
	} {
		t.Run(name, func(t *testing.T) {
			d := Decide(in, at)
			size := 0
			for _, v := range d.Record.Data() {
				size += len(v)
			}
			if size > 16<<10 {
				t.Errorf("the record takes %d bytes; the API server takes 1 MiB, and a policy's message 5 KiB", size)
			}
			if d.Record.Status.Moving != nil {
				in.Record = d.Record
				gets(0)(&in)
				d = Decide(in, at)
			}
			if d.Record.Data()[KeyHistory] == "" {
				t.Error("the entry is too long for the history")
			}
		})
	}
}

func TestStatusSaysWhatWasSeen(t *testing.T) {
	d := Decide(given(gets(70), leads, fires(ActionHold, "B", time.Minute), fires(ActionHold, "A", 30*time.Second), fires("page", "C", time.Minute)), at)
	s := d.Record.Status
	if s.Weight != 70 || !s.MovedAt.Equal(at) || !s.Since.Equal(at) || !slices.Equal(s.Alerts, []string{"A", "B"}) || s.Ready != (ReadyInfo{Stable: 2, Canary: 2}) {
		t.Errorf("status %+v", s)
	}
	if s := Decide(given(), at).Record.Status; !s.Since.Equal(at.Add(-10*time.Minute)) || !s.MovedAt.Equal(at.Add(-10*time.Minute)) {
		t.Errorf("nothing changed, and the status says since %s, moved at %s", s.Since, s.MovedAt)
	}
	if s := Decide(given(locked(LockBuild), disarmed(time.Hour), gets(50)), at).Record.Status; s.Weight != 50 {
		t.Errorf("disarmed, and the canary has 50%%: status says %d%%", s.Weight)
	}
	if s := Decide(given(func(in *Input) { in.Record.Status.Alerts = []string{"Over"} }), at).Record.Status; len(s.Alerts) > 0 {
		t.Errorf("nothing fires, and the status says %v", s.Alerts)
	}
	if s := Decide(given(bad, func(in *Input) { in.Record.Status.Promoting = "b1" }), at).Record.Status; s.Promoting != "" {
		t.Error("a build that was rolled back may still be moved forward by the schedule")
	}
	raised := given(locked(LockBuild), gets(50), mode(PromotionAuto), func(in *Input) { in.Record.Status.Weight = 10 })
	if s := Decide(raised, at).Record.Status; s.Promoting != "" {
		t.Error("who shifts while the build is locked has begun with it, and after an unlock the schedule goes on by itself")
	}
	own := given(stepping("schedule", time.Second), gets(30))
	if d := Decide(own, at); verdictOf(d).added != "step by schedule: 10→30" || d.Record.Status.Moving != nil {
		t.Errorf("guardian's own step was told as somebody else's: %+v", d.Added)
	}
}

func TestTheListsOfARecordAreBounded(t *testing.T) {
	in := given(bad)
	for i := range maxRefused {
		in.Record.Refused = append(in.Record.Refused, fmt.Sprint("old", i))
	}
	for i := range maxFiring + 20 {
		fires(ActionHold, fmt.Sprint("Hold", i), time.Minute)(&in)
	}
	d := Decide(in, at)
	if n := len(d.Record.Refused); n != maxRefused || d.Record.Refused[n-1] != "b1" || d.Record.Refused[0] != "old1" {
		t.Errorf("%d refused builds from %s to %s", n, d.Record.Refused[0], d.Record.Refused[n-1])
	}
	if n := len(d.Record.Status.Firing); n > maxFiring {
		t.Errorf("%d firing alerts on the record", n)
	}
	idle := given(wasIn(StateIdle, 0))
	for i := range maxNoted + 5 {
		fires(ActionRollback, fmt.Sprintf("Alert%03d", i), time.Minute)(&idle)
	}
	first := Decide(idle, at)
	if n := len(first.Record.Status.Noted); n != maxNoted || len(first.Added) != maxNoted {
		t.Fatalf("%d noted episodes, %d told of; want %d", n, len(first.Added), maxNoted)
	}
	idle.Record = first.Record
	if again := Decide(idle, at.Add(time.Second)); len(again.Added) > 0 || !reflect.DeepEqual(again.Record.Data(), first.Record.Data()) {
		t.Errorf("they still fire, and %d are told of again", len(again.Added))
	}
	idle.Alerts, idle.Record.Status.Firing = nil, nil
	fires(ActionRollback, "Another", 0)(&idle)
	if later := Decide(idle, at.Add(time.Hour)); len(later.Added) != 1 || len(later.Record.Status.Noted) != 1 {
		t.Errorf("after all of them another is told of %d times, and %d are remembered; want 1", len(later.Added), len(later.Record.Status.Noted))
	}
}

// TestReplicasWithWordsOfTheirOwnComeToRest has two replicas look at one record
// in turn, as each write of it makes them.
func TestReplicasWithWordsOfTheirOwnComeToRest(t *testing.T) {
	hold := fires(ActionHold, "StableErrors", time.Minute)
	blockedWas := []but{locked(LockBuild), wasIn(StateBlocked, 50), blocked("stable v1 has 0 ready endpoints, rollback.minReadyStable is 1"), stableReady(0)}
	for name, c := range map[string]struct {
		both  []but
		other but // what the second sees, or has, differently
	}{
		"a summary with numbers":      {[]but{hold}, func(in *Input) { in.Alerts[0].Summary = "8% of requests fail" }},
		"a window that was edited":    {[]but{promoted(time.Minute)}, func(in *Input) { in.Guard.Rollback.Window = time.Hour }},
		"a floor that was edited":     {blockedWas, floorOf(2)},
		"what the policy is to deny":  {[]but{locked(LockBuild)}, func(in *Input) { in.Guard.Rollback.Mirrors = false }},
		"the VirtualServices":         {[]but{locked(LockBuild)}, func(in *Input) { in.Guard.VirtualServices = []string{"orders-service", "orders-gateway"} }},
		"the message of a lock":       {[]but{locked(LockBuild)}, func(in *Input) { in.Guard.Stable.Subset = "stable" }},
		"a number of ready endpoints": {nil, stableReady(3)},
	} {
		t.Run(name, func(t *testing.T) {
			first := given(append(slices.Clone(c.both), leads)...)
			second := given(append(slices.Clone(c.both), c.other)...)
			rec := Decide(first, at).Record
			writes := 0
			for i := range 20 {
				for _, in := range []Input{second, first} {
					in.Record = rec
					d := Decide(in, at.Add(time.Duration(i)*time.Millisecond))
					if !reflect.DeepEqual(d.Record.Data(), rec.Data()) {
						writes++
					}
					rec = d.Record
				}
			}
			if writes > 2 {
				t.Errorf("%d writes of 40 looks, and no end", writes)
			}
		})
	}
}

// anyInput draws inputs that need not make sense.
func anyInput(t *rapid.T) Input {
	edits := []but{
		gets(0), gets(10), gets(50), gets(100), unseen, locked(LockBuild), locked(LockManual), lockKind(LockNone), lockKind(LockManual), runs("b2", 2), runs("b2", 1, "b1"), runs("b1", 0),
		noCanary, appeared(time.Minute), stableReady(0), leads, live, bad, fires(ActionRollback, "Old", 2*time.Hour), fires(ActionHold, "Hold", time.Minute),
		heardElsewhere(ActionRollback, time.Minute), heardElsewhere(ActionHold, time.Hour), paused, promoted(10 * time.Minute), promoted(time.Hour), blocked("away"),
		buildSince(time.Minute), unlocked(time.Minute), asks(RequestRollback), asks(RequestUnlock), asks(RequestPause), asks(RequestResume), asks(RequestPromote), asks("dance"),
		asks(RequestArm), asksDisarm(time.Minute, time.Hour), disarmed(time.Hour), disarmed(0),
		func(in *Input) { in.Unsafe = "VirtualService a/b: delegate" }, func(in *Input) { in.Owned = true }, func(in *Input) { in.Paused = true },
		func(in *Input) { in.Traffic.Mirrors = 1 }, func(in *Input) { in.Record.Refused = []string{"b0", "b1", "b2"} },
		func(in *Input) { in.Guard.Promotion.Mode, in.Record.Status.Promoting = PromotionAuto, in.Canary.Build },
		func(in *Input) {
			in.Heartbeat, in.Forward = at, &Forward{Requests: 200, Gates: []Gate{{Name: "g", Open: true}}}
		},
		func(in *Input) {
			in.Record.History = []HistoryEntry{{At: at.Add(-time.Hour), State: StateIdle, Event: "shifted"}}
		},
		func(in *Input) { in.Record.Lock, in.Record.Status.Build = &Lock{Kind: LockBuild, By: "alert"}, "" },
		func(in *Input) { in.Record.Status.Moving = &Moving{To: 10, Step: 10, By: BySchedule, Build: "b1"} },
	}
	var chosen []but
	for _, i := range rapid.SliceOfN(rapid.IntRange(0, len(edits)-1), 0, 10).Draw(t, "edits") {
		chosen = append(chosen, edits[i])
	}
	return roomy(given(chosen...))
}

// roomy gives every list of an input spare capacity, so that an append to it
// would write into memory that it shares.
func roomy(in Input) Input {
	in.Alerts = append(make([]Alert, 0, 16), in.Alerts...)
	in.Deny = append(make([]string, 0, 16), in.Deny...)
	r := &in.Record
	r.Refused = append(make([]string, 0, 16), r.Refused...)
	r.History = append(make([]HistoryEntry, 0, 16), r.History...)
	r.Status.Noted = append(make([]string, 0, 16), r.Status.Noted...)
	r.Status.Firing = append(make([]Firing, 0, 16), r.Status.Firing...)
	r.Status.Alerts = append(make([]string, 0, 16), r.Status.Alerts...)
	return in
}

// deepCopyOf copies everything reachable, spare capacity of slices included.
func deepCopyOf(v reflect.Value) reflect.Value {
	out := reflect.New(v.Type()).Elem()
	switch {
	case v.Type() == reflect.TypeFor[time.Time]():
		out.Set(v)
	case v.Kind() == reflect.Pointer && !v.IsNil():
		out.Set(reflect.New(v.Type().Elem()))
		out.Elem().Set(deepCopyOf(v.Elem()))
	case v.Kind() == reflect.Slice && !v.IsNil():
		all := v.Slice(0, v.Cap())
		out.Set(reflect.MakeSlice(v.Type(), v.Cap(), v.Cap()))
		for i := range all.Len() {
			out.Index(i).Set(deepCopyOf(all.Index(i)))
		}
		out.Set(out.Slice(0, v.Len()))
	case v.Kind() == reflect.Struct:
		out.Set(v)
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() { // the others are strings
				out.Field(i).Set(deepCopyOf(v.Field(i)))
			}
		}
	default:
		out.Set(v)
	}
	return out
}

// spare is an input with every slice at its full capacity.
func spare(in Input) Input {
	in.Alerts, in.Deny = in.Alerts[:cap(in.Alerts)], in.Deny[:cap(in.Deny)]
	r := &in.Record
	r.Refused, r.History = r.Refused[:cap(r.Refused)], r.History[:cap(r.History)]
	r.Status.Noted, r.Status.Firing, r.Status.Alerts = r.Status.Noted[:cap(r.Status.Noted)], r.Status.Firing[:cap(r.Status.Firing)], r.Status.Alerts[:cap(r.Status.Alerts)]
	return in
}

func TestPropertyDecideNeverEditsItsInput(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := anyInput(t)
		before, ok := deepCopyOf(reflect.ValueOf(in)).Interface().(Input)
		if !ok {
			t.Fatal("no copy")
		}
		Decide(in, at)
		if !reflect.DeepEqual(spare(in), spare(before)) {
			t.Fatalf("before: %+v\nafter: %+v", before, in)
		}
	})
}

// TestPropertyEveryDecisionMakesSense checks what holds of each single
// decision; the invariants over time are TestPropertyInvariantsHold's.
func TestPropertyEveryDecisionMakesSense(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := anyInput(t)
		d := Decide(in, at)
		if again := Decide(in, at); !reflect.DeepEqual(d, again) {
			t.Fatalf("decided differently the second time:\n%+v\n%+v", d, again)
		}
		forward := d.Move == MoveForward
		switch {
		case d.Record.Status.State == StateUnknown || !slices.Contains(States, d.Record.Status.State):
			t.Fatalf("state %q", d.Record.Status.State)
		case (forward || d.Move == MoveRestore || d.Release) && !in.Live:
			t.Fatalf("move %v, release %v without live reads", d.Move, d.Release)
		case (forward || d.Move == MoveRestore) && d.Record.Lock != nil:
			t.Fatalf("move %v while locked", d.Move)
		case forward && (len(in.Alerts) > 0 || in.Forward == nil || d.Weight <= in.Traffic.Lowest):
			t.Fatalf("step to %d from %+v with alerts %v and live answers %v", d.Weight, in.Traffic, in.Alerts, in.Forward)
		case d.Move == MoveStable && (in.Stable.Ready < in.Guard.Rollback.MinReadyStable || in.Unsafe != ""):
			t.Fatalf("traffic sent to stable, which has %d ready endpoints, unsafe %q", in.Stable.Ready, in.Unsafe)
		case d.Move != MoveNone && d.Move != MoveStable && d.Record.Status.PausedText() != "":
			t.Fatalf("move %v while paused", d.Move)
		case (d.Move != MoveNone || d.Release) && d.Record.Status.Disarmed != nil:
			t.Fatalf("move %v while disarmed", d.Move)
		case in.Record.Lock != nil && d.Record.Lock == nil && !in.Live:
			t.Fatal("a lock was lifted without live reads")
		case d.Requeue < 0:
			t.Fatalf("requeue in %s", d.Requeue)
		}
		for _, e := range d.Added {
			if e.State == StateUnknown || e.Event == "" || !e.At.Equal(at) {
				t.Fatalf("history entry %+v", e)
			}
		}
		back, unread := ReadData(d.Record.Data(), false)
		if err := back.ReadHistory(); err != nil || len(unread) > 0 {
			t.Fatal(unread, err)
		}
		if !reflect.DeepEqual(back.Data(), d.Record.Data()) {
			t.Fatalf("written: %v\nread back: %v", d.Record.Data(), back.Data())
		}
	})
}

// A build has its own beginning, whatever lifted the lock of the one before.
func TestOnlyAPersonsUnlockPardonsWhatFires(t *testing.T) {
	newBuild := []but{locked(LockBuild), runs("b2", 2), buildSince(5 * time.Minute), live,
		func(in *Input) { in.Record.Status.Build = "b2" }}
	lifted := Decide(given(newBuild...), at).Record
	if lifted.Lock != nil || !lifted.Status.UnlockedAt.IsZero() {
		t.Fatalf("lock %v, unlocked at %s; want it lifted by the build alone", lifted.Lock, lifted.Status.UnlockedAt)
	}
	shift := given(runs("b2", 2), gets(10), bad)
	shift.Record = lifted
	if d := Decide(shift, at.Add(time.Second)); d.Move != MoveStable || d.Record.Lock == nil {
		t.Errorf("an alert about the new build from before the lift: move %v, lock %v; want a rollback", d.Move, d.Record.Lock)
	}
	person := Decide(given(locked(LockBuild), asks(RequestUnlock), live), at).Record
	shift = given(gets(10), bad)
	shift.Record = person
	if d := Decide(shift, at.Add(time.Second)); d.Move != MoveNone || d.Record.Status.State != StateHeld {
		t.Errorf("an alert that the person knew of: move %v, state %s; want it held", d.Move, d.Record.Status.State)
	}
}

func TestAVirtualServiceThatSeemsToBeGoneIsLookedAtBeforeItIsTold(t *testing.T) {
	in := given(wasIn(StateRolledBack, 0), func(in *Input) {
		in.Record.Lock = &Lock{Kind: LockBuild, Build: "b1", Refused: []string{"b1"}, Since: at.Add(-time.Minute), By: ByAlert, Reason: "Errors"}
		in.Record.Refused = []string{"b1"}
		in.Gone = "VirtualService microservices/orders-service does not exist"
	})
	d := Decide(in, at)
	if d.Record.Status.State != StateBlocked || !d.Doubt {
		t.Errorf("state %s, doubt %t: want blocked, and a look at the API server first", d.Record.Status.State, d.Doubt)
	}
	in.Record = d.Record
	if Decide(in, at.Add(time.Second)).Doubt {
		t.Error("looked at again, though it is told")
	}
}

func TestSameWordsDifferInCountsAlone(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"stable v1 has 1 ready endpoints, rollback.minReadyStable is 5", "stable v1 has 2 ready endpoints, rollback.minReadyStable is 5", true},
		{"7% of requests fail (12)", "9% of requests fail (3000)", true},
		{"subset v1 is missing", "subset v2 is missing", false},
		{"the webhook has answered 403", "the webhook has answered 500", false},
		{"code: 503, try again", "code: 503, try again", true},
		{"404", "405", false},
		{"has 399 ready", "has 600 ready", true},
		{"has 4030 ready", "has 5000 ready", true},
	} {
		if got := SameWords(c.a, c.b); got != c.same {
			t.Errorf("%q and %q: %v", c.a, c.b, got)
		}
	}
}

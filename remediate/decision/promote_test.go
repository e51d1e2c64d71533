package decision

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/remediate/virtualservice"
)

// advancing is a guard in mode auto whose build b1 has been at a
// weight for an hour, with every condition of a step fulfilled.
func advancing(weight int) but {
	return func(in *Input) {
		wasIn(StateShifting, weight)(in)
		if weight == 0 {
			in.Record.Status.State = StateIdle
		}
		live(in)
		in.Guard.Promotion.Mode = PromotionAuto
		in.Record.Status.Promoting, in.Record.Status.MovedAt = "b1", at.Add(-time.Hour)
		buildSince(30 * time.Minute)(in)
		in.Heartbeat, in.Forward = at, &Forward{Requests: 1000}
	}
}

func movedAt(ago time.Duration) but {
	return func(in *Input) { in.Record.Status.MovedAt = at.Add(-ago) }
}

func mode(m PromotionMode) but { return func(in *Input) { in.Guard.Promotion.Mode = m } }

func heartbeat(ago time.Duration) but {
	return func(in *Input) { in.Heartbeat = at.Add(-ago) }
}

func requests(n int64) but { return func(in *Input) { in.Forward.Requests = n } }

func closed(why string) but {
	return func(in *Input) { in.Guard.Promotion.Closed = func(time.Time) string { return why } }
}

func notAsked(in *Input) { in.Forward = nil }

// stepTo is a decision to go one step forward.
func stepTo(state State, from, weight int) verdict {
	return verdict{state: state, move: MoveForward, weight: weight, reason: ReasonStep, requeue: PollForward, added: fmt.Sprintf("step by schedule: %d→%d", from, weight)}
}

// stays is a decision to wait, with live answers asked again soon.
func stays(state State, requeue time.Duration) verdict {
	return verdict{state: state, reason: ReasonNothing, requeue: requeue}
}

func TestTheStepsAreTakenOneByOne(t *testing.T) {
	shifting := StateShifting
	runRows(t, map[string]row{
		"from 0 to the first step":                   {[]but{advancing(0)}, stepTo(StateIdle, 0, 10), "step to 10%"},
		"from 10 to 30":                              {[]but{advancing(10)}, stepTo(shifting, 10, 30), ""},
		"from 30 to 50":                              {[]but{advancing(30)}, stepTo(shifting, 30, 50), ""},
		"from 50 to 100":                             {[]but{advancing(50)}, stepTo(shifting, 50, 100), ""},
		"at 100 there is nothing left":               {[]but{advancing(100), promotedAt(time.Minute)}, stays(StatePromoted, PollCount), ""},
		"from a weight of CI's between two steps":    {[]but{advancing(20)}, stepTo(shifting, 20, 30), ""},
		"routes at different weights: the lowest":    {[]but{advancing(30), lowest(10)}, stepTo(shifting, 30, 30), ""},
		"a first step waits for no interval":         {[]but{advancing(0), movedAt(2 * time.Minute), func(in *Input) { in.Record.Status.Fresh = true }}, stepTo(StateIdle, 0, 10), ""},
		"whatever the clocks say":                    {[]but{advancing(0), movedAt(-time.Hour), func(in *Input) { in.Record.Status.Fresh = true }}, stepTo(StateIdle, 0, 10), ""},
		"a fresh build that CI has begun with waits": {[]but{advancing(0), gets(10), func(in *Input) { in.Record.Status.Fresh = true }}, withAdded(stays(shifting, PollCount), "shifted: 0→10"), "until"},
		"nor for requests":                           {[]but{advancing(0), requests(0)}, stepTo(StateIdle, 0, 10), ""},
		"but one taken back to 0 waits for it":       {[]but{advancing(0), movedAt(5*time.Minute - 1)}, stays(StateIdle, time.Millisecond), "waiting: until 2026-03-02T09:00:00Z"},
		"and not for longer":                         {[]but{advancing(0), movedAt(5 * time.Minute)}, stepTo(StateIdle, 0, 10), ""},
		"1 ns before the interval is over":           {[]but{advancing(10), movedAt(5*time.Minute - 1)}, stays(shifting, time.Millisecond), "waiting: until 2026-03-02T09:00:00Z"},
		"when it is over":                            {[]but{advancing(10), movedAt(5 * time.Minute)}, stepTo(shifting, 10, 30), ""},
		"1 ns before the bake time of 50% is over":   {[]but{advancing(50), movedAt(7*time.Minute - 1)}, stays(shifting, time.Millisecond), "waiting: until 2026-03-02T09:00:00Z"},
		"when it is over, 100":                       {[]but{advancing(50), movedAt(7 * time.Minute)}, stepTo(shifting, 50, 100), ""},
		"the bake time of 50% is not one of 30%":     {[]but{advancing(30), movedAt(5 * time.Minute)}, stepTo(shifting, 30, 50), ""},
		"CI stepped in just now: from there, later":  {[]but{advancing(10), gets(30)}, withAdded(stays(shifting, PollCount), "shifted: 10→30"), "until 2026-03-02T09:05:00Z"},
		"CI began what nobody had begun":             {[]but{advancing(0), func(in *Input) { in.Record.Status.Promoting = "" }, gets(10)}, withAdded(stays(shifting, PollCount), "shifted: 0→10"), "until"},
		"CI went back: it waits as well":             {[]but{advancing(50), gets(10)}, withAdded(stays(shifting, PollCount), "shifted: 50→10"), "until"},
		"CI went back on what nobody had begun":      {[]but{advancing(50), func(in *Input) { in.Record.Status.Promoting = "" }, gets(10)}, withAdded(stays(shifting, PollCount), "shifted: 50→10"), "waiting: for a new build"},
		"a new build that is ready starts it":        {[]but{advancing(0), runs("b2", 2)}, withAdded(stepTo(StateIdle, 0, 10), "new-build: 0→0; step by schedule: 0→10"), ""},
		"a lock that a new build lifts starts it":    {[]but{advancing(0), locked(LockBuild), runs("b2", 2)}, verdict{state: StateIdle, move: MoveForward, weight: 10, reason: ReasonStep, refused: "b1", requeue: PollForward, added: "new-build: 0→0; unlocked by new build: 0→0; step by schedule: 0→10"}, ""},
		"a step gives back what a rollback changed":  {[]but{advancing(0), func(in *Input) { in.Owned = true }}, func() verdict { v := stepTo(StateIdle, 0, 10); v.release = true; return v }(), ""},
		"mode off leaves it to CI":                   {[]but{advancing(10), mode(PromotionOff)}, stays(shifting, PollCount), ""},
		"mode manual waits for a person":             {[]but{advancing(10), mode(PromotionManual)}, stays(shifting, PollCount), "guardian promote"},
		"mode manual in CI's hands does not begin":   {[]but{advancing(10), mode(PromotionManual), gets(30)}, withAdded(stays(shifting, PollCount), "shifted: 10→30"), "guardian promote"},
	})
}

func TestAPersonMayTakeAStepByHand(t *testing.T) {
	by := func(v verdict) verdict { v.added = strings.Replace(v.added, "by schedule", "by ann", 1); return v }
	ask := asks(RequestPromote)
	refused := func(requeue time.Duration, from int) verdict {
		return verdict{state: StateShifting, reason: ReasonNothing, requeue: requeue, added: fmt.Sprintf("refused by ann: %d→%d", from, from)}
	}
	for _, m := range []PromotionMode{PromotionOff, PromotionManual, PromotionAuto} {
		runRows(t, map[string]row{
			string(m) + ": a step":                       {[]but{advancing(10), mode(m), ask}, by(stepTo(StateShifting, 10, 30)), ""},
			string(m) + ": before its interval is over":  {[]but{advancing(10), mode(m), ask, movedAt(time.Second)}, by(stepTo(StateShifting, 10, 30)), ""},
			string(m) + ": with few requests":            {[]but{advancing(10), mode(m), ask, requests(0)}, by(stepTo(StateShifting, 10, 30)), ""},
			string(m) + ": of a build that nobody began": {[]but{advancing(10), mode(m), ask, func(in *Input) { in.Record.Status.Promoting = "" }}, by(stepTo(StateShifting, 10, 30)), ""},
			string(m) + ": not past a stale heartbeat":   {[]but{advancing(10), mode(m), ask, heartbeat(time.Hour)}, refused(PollForward, 10), "promote refused: waiting: no heartbeat"},
			string(m) + ": not past a closed gate":       {[]but{advancing(10), mode(m), ask, func(in *Input) { in.Forward.Gates = []Gate{{Name: "g", Why: "0"}} }}, refused(PollForward, 10), "promote refused: waiting: gate g is closed (0)"},
			string(m) + ": not past a rollout":           {[]but{advancing(10), mode(m), ask, runs("b1", 1, "b0")}, refused(PollCount, 10), "promote refused: waiting: rollout"},
			string(m) + ": live answers are asked first": {[]but{advancing(10), mode(m), ask, notAsked}, func() verdict { v := refused(PollCount, 10); v.forward = true; return v }(), ""},
			string(m) + ": not past a hold alert": {[]but{advancing(10), mode(m), ask, fires(ActionHold, "StableErrors", time.Minute)}, func() verdict {
				v := refused(PollCount, 10)
				v.state, v.reason, v.added = StateHeld, ReasonHeld, "noted by alert: 10→10; "+v.added
				return v
			}(), "promote refused: waiting: alert StableErrors fires"},
			string(m) + ": not past Prometheus's silence":   {[]but{advancing(10), mode(m), ask, func(in *Input) { in.Forward.Err = "Prometheus does not answer" }}, refused(PollForward, 10), "promote refused: waiting: Prometheus"},
			string(m) + ": not past what the calendar says": {[]but{advancing(10), mode(m), ask, closed("no steps on Friday after 16:00")}, refused(PollCount, 10), "promote refused: waiting: no steps on Friday"},
		})
	}
}

// TestAStepWaitsForTheFirstOfItsConditions breaks one condition after the
// other, beginning with the last to be looked at: each then hides those that
// were broken before it.
func TestAStepWaitsForTheFirstOfItsConditions(t *testing.T) {
	breaks := []struct {
		name string
		but  but
		says string
	}{
		{"nothing", func(*Input) {}, ""},
		{"a second gate", func(in *Input) {
			in.Forward.Gates = []Gate{{Name: "first", Open: true}, {Name: "second", Why: "value 3"}}
		}, "waiting: gate second is closed (value 3)"},
		{"a gate", func(in *Input) { in.Forward.Gates[0].Open = false }, "waiting: gate first is closed ()"},
		{"requests", requests(99), "waiting: 99 of 100 requests"},
		{"answers", func(in *Input) { in.Forward.Err = "Prometheus does not answer" }, "waiting: Prometheus does not answer"},
		{"heartbeat", heartbeat(3*time.Minute + 1), "waiting: no heartbeat for longer than 3m0s; is the alert chain broken?"},
		{"live reads", notAsked, "waiting: for the replica that holds the lease"},
		{"calendar", closed("no steps on Friday after 16:00"), "waiting: no steps on Friday after 16:00"},
		{"interval", movedAt(time.Minute), "waiting: until 2026-03-02T09:04:00Z"},
		{"rollout", runs("b1", 1, "b0"), "waiting: rollout of build b1 (1 of 2 ready pods are of it)"},
		{"stable's endpoints", stableReady(0), "waiting: stable has 0 of 1 ready endpoints"},
		{"stable's subset", func(in *Input) { in.Stable.Missing = "no subset v1" }, "waiting: no subset v1"},
		{"alert", fires(ActionHold, "StableErrors", time.Minute), "waiting: alert StableErrors fires"},
		{"build", func(in *Input) { in.Record.Status.Promoting = "b0" }, "waiting: for a new build, or for the first step by CI or guardian promote"},
		{"Deployment", noCanary, "waiting: no workload of the canary found"},
		{"split", func(in *Input) { in.Traffic.Split = 0 }, "waiting: no route carries both v1 and v2"},
		{"VirtualService", func(in *Input) { in.Unsafe = "VirtualService microservices/orders-service: delegate" }, "waiting: VirtualService microservices/orders-service: delegate"},
		{"first sight", func(in *Input) { in.Record = Record{} }, "waiting: first sight of this guard, nothing is moved"},
	}
	edits := []but{advancing(10)}
	for _, b := range breaks {
		edits = append(edits, b.but)
		d := Decide(given(edits...), at)
		if d.Record.Status.Waiting != b.says {
			t.Errorf("without %s it says %q, want %q", b.name, d.Record.Status.Waiting, b.says)
		}
		if moves := d.Move == MoveForward; moves != (b.says == "") {
			t.Errorf("without %s: move %v", b.name, d.Move)
		}
		if n := d.Record.Status.NextStep; b.says != "" && n != 30 {
			t.Errorf("without %s the next step is said to be %d%%, want 30%%", b.name, n)
		}
	}
}

func TestWaitingForLiveAnswers(t *testing.T) {
	runRows(t, map[string]row{
		"a heartbeat exactly as old as allowed":                    {[]but{advancing(10), heartbeat(3 * time.Minute)}, stepTo(StateShifting, 10, 30), ""},
		"a heartbeat 1 ns older":                                   {[]but{advancing(10), heartbeat(3*time.Minute + 1)}, stays(StateShifting, PollForward), "is the alert chain broken?"},
		"a heartbeat of the future, by a clock that was set":       {[]but{advancing(10), heartbeat(-3*time.Minute - 1)}, stays(StateShifting, PollForward), "is the alert chain broken?"},
		"no heartbeat ever":                                        {[]but{advancing(10), func(in *Input) { in.Heartbeat = time.Time{} }}, stays(StateShifting, PollForward), "no heartbeat"},
		"one request too few":                                      {[]but{advancing(10), requests(99)}, stays(StateShifting, PollForward), "99 of 100"},
		"just enough requests":                                     {[]but{advancing(10), requests(100)}, stepTo(StateShifting, 10, 30), ""},
		"the lease holder asks what it has not yet":                {[]but{advancing(10), notAsked}, func() verdict { v := stays(StateShifting, PollCount); v.forward = true; return v }(), ""},
		"from its cache it asks for live reads too":                {[]but{advancing(10), notAsked, func(in *Input) { in.Live = false }}, func() verdict { v := stays(StateShifting, PollCount); v.forward, v.wantLive = true, true; return v }(), ""},
		"answers to a replica that read from a cache do not count": {[]but{advancing(10), func(in *Input) { in.Live = false }}, func() verdict { v := stays(StateShifting, PollCount); v.forward, v.wantLive = true, true; return v }(), ""},
		"a replica without the lease asks nothing":                 {[]but{advancing(10), notAsked, func(in *Input) { in.Live, in.Leads = false, false }}, stays(StateShifting, 0), ""},
		"nothing is asked before the interval is over":             {[]but{advancing(10), notAsked, movedAt(time.Minute)}, stays(StateShifting, PollCount), "until"},
		"a rollout that is not complete":                           {[]but{advancing(10), func(in *Input) { in.Canary.Complete = false }}, stays(StateShifting, PollCount), "rollout of build b1 (2 of 2"},
		"a canary without a ready pod":                             {[]but{advancing(10), runs("b1", 0)}, stays(StateShifting, PollCount), "rollout of build b1 (0 of 0"},
		"nor with a rollout that is complete without one":          {[]but{advancing(10), func(in *Input) { in.Canary.Ready, in.Canary.Current = 0, 0 }}, stays(StateShifting, PollCount), "rollout of build b1 (0 of 0"},
		"stable one below its floor":                               {[]but{advancing(10), floorOf(3)}, stays(StateShifting, PollCount), "stable has 2 of 3"},
		"a hold that only another replica has heard":               {[]but{advancing(10), heardElsewhere(ActionHold, time.Second)}, func() verdict { v := stays(StateHeld, PollCount); v.reason = ReasonHeld; return v }(), "alert Elsewhere fires"},
		"an alert in the same instant: the rollback wins": {[]but{advancing(10), bad},
			verdict{state: StateRolledBack, move: MoveStable, reason: ReasonAlert, lock: "build b1 by alert", refused: "b1", added: "rolled-back by alert: 10→0"}, ""},
		"a person's rollback in the same instant": {[]but{advancing(10), asks(RequestRollback)},
			verdict{state: StateRolledBack, move: MoveStable, reason: ReasonPerson, lock: "build b1 by ann", refused: "b1", added: "rolled-back by ann: 10→0"}, ""},
		"paused":   {[]but{advancing(10), paused}, verdict{state: StatePaused, reason: ReasonPaused, requeue: PollCount}, ""},
		"disarmed": {[]but{advancing(10), disarmed(time.Hour)}, verdict{state: StateDisarmed, reason: ReasonDisarmed, requeue: time.Hour}, ""},
		"locked":   {[]but{advancing(0), locked(LockBuild)}, verdict{state: StateRolledBack, reason: ReasonNothing, lock: "build b1 by alert", refused: "b1"}, ""},
	})
}

func TestAStepIsRememberedUntilItIsSeen(t *testing.T) {
	d := Decide(given(advancing(10)), at)
	s := d.Record.Status
	if !s.Moving.StepsTo(30) || s.Weight != 10 || !s.MovedAt.Equal(at.Add(-time.Hour)) {
		t.Fatalf("status after the decision: %+v", s)
	}
	next := given(advancing(10), gets(30))
	next.Record = d.Record
	later := Decide(next, at.Add(time.Second))
	if s := later.Record.Status; verdictOf(later).added != "step by schedule: 10→30" || s.Weight != 30 || !s.MovedAt.Equal(at.Add(time.Second)) || s.Moving != nil || s.Promoting != "b1" {
		t.Errorf("once the step is seen: %+v, added %+v", s, later.Added)
	}
	if later.Move != MoveNone || !later.Record.Status.NextAt.Equal(at.Add(5*time.Minute+time.Second)) || later.Record.Status.NextStep != 50 {
		t.Errorf("the next step: move %v, %d%% at %s", later.Move, later.Record.Status.NextStep, later.Record.Status.NextAt)
	}
	crash := given(advancing(10))
	crash.Record = d.Record
	if again := Decide(crash, at.Add(time.Second)); again.Move != MoveForward || again.Weight != 30 {
		t.Errorf("killed between the record and the VirtualService: %v to %d%%, want the same step", again.Move, again.Weight)
	}
}

func TestAReplicaWithoutTheLeaseTakesNoStep(t *testing.T) {
	in := given(advancing(10), func(in *Input) { in.Live, in.Leads = false, false })
	in.Record.Status.Waiting, in.Record.Status.NextStep, in.Record.Status.NextAt, in.Record.Status.Requests = "waiting: 37 of 100 requests", 30, at.Add(time.Minute), 37
	in.Record.Status.Reason, in.Record.Status.Ready = "canary has 10%", ReadyInfo{Stable: 2, Canary: 2}
	if d := Decide(in, at); !reflect.DeepEqual(d.Record.Status, in.Record.Status) {
		t.Errorf("status changed to %+v\nfrom %+v", d.Record.Status, in.Record.Status)
	}
}

func TestWhatIsCountedIsTakenDownWithItsTime(t *testing.T) {
	slow := Latency{Quantile: 0.95, Millis: 500, Above: true}
	answer := func(in *Input) {
		in.Count = Count{Asked: true, Known: true, Requests: 42, Failed: 2, Latency: slow}
		in.Forward = &Forward{Requests: 42, Failed: 2, Latency: slow}
	}
	held := func(since, counted time.Duration) but {
		return func(in *Input) {
			in.Record.Status.setTally(Tally{42, 2, slow}, Counted{at.Add(since), at.Add(counted)})
		}
	}
	fresh := func(in Input) Counted { return Counted{Since: in.CountSince(at), At: at} }
	for name, c := range map[string]struct {
		in   []but
		want func(Input) Counted
	}{
		"counted anew":                   {[]but{leads, answer}, fresh},
		"as a step asks":                 {[]but{advancing(10), answer}, fresh},
		"the numbers of a moment ago":    {[]but{leads, answer, held(-time.Second, -time.Second)}, func(in Input) Counted { return in.Record.Status.Counted }},
		"the same ones at other weights": {[]but{leads, answer, held(-1000*time.Hour, -999*time.Hour)}, fresh},
	} {
		t.Run(name, func(t *testing.T) {
			in := given(c.in...)
			got := Decide(in, at).Record.Status
			if tally, over := got.tally(); tally != (Tally{42, 2, slow}) || over != c.want(in) {
				t.Errorf("%+v over %+v, want it over %+v", tally, over, c.want(in))
			}
		})
	}
	t.Run("other weights forget it", func(t *testing.T) {
		if tally, over := func() (Tally, Counted) {
			s := Decide(given(held(-time.Minute, 0), gets(70)), at).Record.Status
			return s.tally()
		}(); tally != (Tally{}) || over != (Counted{}) {
			t.Errorf("%+v over %+v", tally, over)
		}
	})
}

func TestRequestsAreCountedWhileTheCanaryHasTraffic(t *testing.T) {
	count := func(c Count) but { return func(in *Input) { in.Count = c; in.Record.Status.Requests = 5 } }
	for name, c := range map[string]struct {
		in   []but
		want int64
		asks bool
	}{
		"not asked yet":                       {[]but{leads, count(Count{})}, 0, true},
		"Prometheus answered":                 {[]but{leads, count(Count{Asked: true, Known: true, Requests: 42})}, 42, false},
		"it did not: as last known":           {[]but{leads, count(Count{Asked: true})}, 5, false},
		"it did not, and the weights are new": {[]but{leads, count(Count{Asked: true}), gets(70)}, 0, false},
		"no lease, and the weights are new":   {[]but{count(Count{}), gets(70)}, 0, false},
		"no lease: left as it is":             {[]but{count(Count{})}, 5, false},
		"no traffic: nothing to ask":          {[]but{leads, count(Count{}), wasIn(StateIdle, 0)}, 0, false},
		"completed: nothing to ask":           {[]but{leads, count(Count{}), promoted(time.Hour)}, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			d := Decide(given(c.in...), at)
			if d.WantCount != c.asks || d.Record.Status.Requests != c.want {
				t.Errorf("asks %v, %d requests; want %v, %d", d.WantCount, d.Record.Status.Requests, c.asks, c.want)
			}
		})
	}
}

// unseenStep is a guard whose step to 30% was recorded a while ago and has not
// been seen in the VirtualService.
func unseenStep(by string, ago time.Duration) but { return stepping(by, ago) }

func stepping(by string, ago time.Duration) but {
	return func(in *Input) {
		in.Record.Status.Moving = &Moving{To: 30, From: 10, Step: 30, At: at.Add(-ago), By: by, Build: "b1"}
	}
}

func fromCache(in *Input) { in.Live, in.Forward = false, nil }

// TestAFirstStepThatWasNotMadeBeginsNothing: the build of the first sight waits for
// somebody to begin with it, and a step that was not made is no beginning.
func TestAFirstStepThatWasNotMadeBeginsNothing(t *testing.T) {
	noBody := func(in *Input) { in.Record.Status.Promoting = "" }
	asked := Decide(given(advancing(0), noBody, asks(RequestPromote)), at)
	if m := asked.Record.Status.Moving; asked.Move != MoveForward || m == nil || !m.Begins || asked.Record.Status.Promoting != "b1" {
		t.Fatalf("a person's step: move %v, %+v", asked.Move, asked.Record.Status)
	}
	later := at.Add(stillWanted + time.Minute)
	for name, began := range map[string]bool{"nobody has begun before": false, "it was under way": true} {
		in := given(advancing(0), beat(later))
		in.Record = asked.Record.Clone()
		in.Record.Status.Moving.Begins = !began
		missed := Decide(in, later)
		s := missed.Record.Status
		if began != (s.Promoting == "b1") || !began && (missed.Move != MoveNone || s.Moving != nil || s.WaitingFor != WaitBuild) {
			t.Errorf("%s: move %v, the scheduler may move %q; %+v", name, missed.Move, s.Promoting, s)
		}
	}
}

func beat(t time.Time) but { return func(in *Input) { in.Heartbeat = t } }

func TestAStepThatWasRecordedAndNotMade(t *testing.T) {
	shifting := StateShifting
	made := func(v verdict) verdict { v.added = ""; return v }
	asksLive := func(v verdict) verdict { v.wantLive, v.forward = true, true; return v }
	runRows(t, map[string]row{
		"the schedule's is made, and recorded once":               {[]but{advancing(10), unseenStep("schedule", time.Hour)}, made(stepTo(shifting, 10, 30)), ""},
		"a person's in mode manual is made":                       {[]but{advancing(10), mode(PromotionManual), unseenStep("ann", 2*time.Minute)}, made(stepTo(shifting, 10, 30)), ""},
		"nor does it wait for an interval":                        {[]but{advancing(10), mode(PromotionManual), movedAt(0), unseenStep("ann", time.Minute)}, made(stepTo(shifting, 10, 30)), ""},
		"a person's, on live reads alone":                         {[]but{advancing(10), mode(PromotionManual), fromCache, unseenStep("ann", time.Minute)}, func() verdict { v := stays(shifting, PollCount); v.wantLive = true; return v }(), "guardian promote"},
		"a person's of long ago is not":                           {[]but{advancing(10), mode(PromotionManual), unseenStep("ann", 2*time.Minute+1)}, withAdded(stays(shifting, PollCount), "missed: 10→10"), "the step to 30% was not made"},
		"a person's of another build is not":                      {[]but{advancing(10), mode(PromotionManual), unseenStep("ann", time.Minute), runs("b2", 2)}, withAdded(stays(shifting, PollCount), "new-build: 10→10; missed: 10→10"), ""},
		"a condition that is no longer met keeps it, and says so": {[]but{advancing(10), unseenStep("schedule", time.Second), requests(3)}, withAdded(stays(shifting, PollForward), "missed: 10→10"), "3 of 100 requests"},
		"a person's as well":                                      {[]but{advancing(10), mode(PromotionManual), unseenStep("ann", time.Second), heartbeat(time.Hour)}, withAdded(stays(shifting, PollForward), "missed: 10→10; refused by ann: 10→10"), "promote refused: waiting: no heartbeat"},
		"a cache says nothing about it":                           {[]but{advancing(10), fromCache, unseenStep("schedule", time.Second)}, asksLive(stays(shifting, PollCount)), ""},
		"somebody else has gone elsewhere instead":                {[]but{advancing(10), unseenStep("schedule", time.Second), gets(50)}, withAdded(stays(shifting, PollCount), "shifted: 10→50"), "the step to 30% was not made"},
	})
}

func TestEachReasonToWaitIsToldOnce(t *testing.T) {
	alert := fires(ActionHold, "StableErrors", time.Minute)
	for _, c := range []struct {
		reason Wait
		told   string
		in     []but
	}{
		{WaitLock, "", []but{advancing(0), locked(LockBuild)}},
		{WaitDisarm, "", []but{advancing(10), disarmed(time.Hour)}},
		{WaitPause, "", []but{advancing(10), paused}},
		{WaitPerson, "guardian promote", []but{advancing(10), mode(PromotionManual)}},
		{WaitFirstSight, "", []but{advancing(10), unseen}},
		{WaitVirtualService, "no route carries both v1 and v2", []but{advancing(10), func(in *Input) { in.Traffic.Split = 0 }}},
		{WaitBuild, "no workload of the canary found", []but{advancing(10), noCanary}},
		{WaitAlert, "alert StableErrors fires", []but{advancing(10), alert}},
		{WaitStable, "stable has 0 of 1 ready endpoints", []but{advancing(10), stableReady(0)}},
		{WaitRollout, "rollout of build b1 (1 of 2 ready pods are of it)", []but{advancing(10), runs("b1", 1, "b0")}},
		{WaitInterval, "", []but{advancing(10), movedAt(time.Minute)}},
		{WaitWindow, "it is Friday", []but{advancing(10), closed("it is Friday")}},
		{WaitLease, "", []but{advancing(10), notAsked}},
		{WaitHeartbeat, "no heartbeat for longer than 3m0s; is the alert chain broken?", []but{advancing(10), heartbeat(time.Hour)}},
		{WaitAnswers, "Prometheus does not answer", []but{advancing(10), func(in *Input) { in.Forward.Err = "Prometheus does not answer" }}},
		{WaitRules, "Prometheus has not loaded them", []but{advancing(10), func(in *Input) { in.Forward.Gaps.Rules = "Prometheus has not loaded them" }}},
		{WaitRequests, "37 of 100 requests", []but{advancing(10), requests(37)}},
		{WaitGate, "gate slo is closed (0)", []but{advancing(10), func(in *Input) { in.Forward.Gates = []Gate{{Name: "slo", Why: "0"}} }}},
	} {
		t.Run(string(c.reason), func(t *testing.T) {
			in := given(c.in...)
			d := Decide(in, at)
			s := d.Record.Status
			told := ""
			for _, e := range d.Added {
				if e.Event == "waiting" {
					told = e.Reason
				}
			}
			if s.WaitingFor != c.reason || told != c.told || !strings.HasPrefix(s.Waiting, "waiting: ") || s.NextStep == 0 {
				t.Errorf("waits for %q (%s) before %d%%, history %q; want %q, history %q", s.WaitingFor, s.Waiting, s.NextStep, told, c.reason, c.told)
			}
			if s.Mode == "" || !slices.Equal(s.Steps, []int{10, 30, 50, 100}) {
				t.Errorf("mode %q, steps %v", s.Mode, s.Steps)
			}
			in.Record = d.Record
			if again := Decide(in, at.Add(time.Second)); slices.ContainsFunc(again.Added, func(e HistoryEntry) bool { return e.Event == "waiting" }) && again.Record.Status.WaitingFor == c.reason {
				t.Errorf("told again: %+v", again.Added)
			}
			if !slices.Contains(Waits, c.reason) {
				t.Error("it is not in Waits: the metric does not know it")
			}
		})
	}
	if len(Waits) != 18 {
		t.Errorf("%d reasons, want the 18 of this table", len(Waits))
	}
}

func TestWhatIsToldOfWaitingBeginsAnewWithWeightsOrBuild(t *testing.T) {
	waited := func(in *Input) { in.Record.Status.Waited = []Wait{WaitRequests, WaitRollout} }
	for name, c := range map[string]struct {
		in   []but
		want []Wait
	}{
		"as it was":         {[]but{advancing(10), requests(1)}, []Wait{WaitRequests, WaitRollout}},
		"another reason":    {[]but{advancing(10), heartbeat(time.Hour)}, []Wait{WaitRequests, WaitRollout, WaitHeartbeat}},
		"other weights":     {[]but{advancing(10), gets(30), requests(1)}, nil},
		"a new build":       {[]but{advancing(10), runs("b2", 1, "b1")}, []Wait{WaitRollout}},
		"without the lease": {[]but{advancing(10), func(in *Input) { in.Leads, in.Live = false, false }, stableReady(0)}, []Wait{WaitRequests, WaitRollout}},
	} {
		if d := Decide(given(append(c.in, waited)...), at); !slices.Equal(d.Record.Status.Waited, c.want) {
			t.Errorf("%s: %v, want %v", name, d.Record.Status.Waited, c.want)
		}
	}
}

func busy(in *Input) { in.Busy = true }

func TestWhoHasToWaitForItsTurnToAskSaysWhatItSaid(t *testing.T) {
	told := func(in *Input) {
		s := &in.Record.Status
		s.WaitingFor, s.Waiting, s.NextStep, s.Requests = WaitRequests, "waiting: 37 of 100 requests", 30, 37
	}
	soon := stays(StateShifting, pollBusy)
	runRows(t, map[string]row{
		"a step": {[]but{advancing(10), notAsked, busy, told}, soon, "waiting: 37 of 100 requests"},
		"what was over before its turn came": {[]but{advancing(10), notAsked, busy, told, func(in *Input) {
			in.Record.Status.WaitingFor, in.Record.Status.Waiting = WaitAlert, "waiting: alert StableErrors fires"
		}}, soon, "waiting: for the replica that holds the lease"},
		"one that has told nothing yet": {[]but{advancing(10), notAsked, busy}, soon, "waiting: for the replica that holds the lease"},
		"one that was recorded":         {[]but{advancing(10), notAsked, busy, unseenStep("schedule", time.Second)}, soon, ""},
		"a person's that was recorded":  {[]but{advancing(10), mode(PromotionManual), notAsked, busy, unseenStep("ann", time.Second)}, soon, ""},
		"a person's wish":               {[]but{advancing(10), mode(PromotionOff), notAsked, busy, asks(RequestPromote)}, soon, ""},
		"an alert waits for nobody": {[]but{advancing(10), notAsked, busy, bad},
			verdict{state: StateRolledBack, move: MoveStable, reason: ReasonAlert, lock: "build b1 by alert", refused: "b1", added: "rolled-back by alert: 10→0"}, ""},
	})
	d := Decide(given(advancing(10), notAsked, busy, told, asks(RequestPromote)), at)
	if d.WantCount || d.Record.Status.Requests != 37 || d.Record.Request == nil {
		t.Errorf("asks %v, %d requests, a person's wish: %v", d.WantCount, d.Record.Status.Requests, d.Record.Request)
	}
}

func TestRequestsAreCountedOverABoundedWindow(t *testing.T) {
	for name, c := range map[string]struct {
		in   []but
		want time.Duration
	}{
		"since the weights changed":        {[]but{movedAt(time.Hour)}, time.Hour},
		"at most some hours":               {[]but{movedAt(100 * time.Hour)}, countWindow},
		"unless a step waits for longer":   {[]but{movedAt(100 * time.Hour), func(in *Input) { in.Guard.Promotion.Steps[3].Interval = 24 * time.Hour }}, 24*time.Hour + 2*time.Minute},
		"by what this replica has watched": {[]but{movedAt(100 * time.Hour), func(in *Input) { in.Watched = Watched{Known: true, For: time.Minute} }}, time.Minute},
	} {
		if got := at.Sub(given(c.in...).CountSince(at)); got != c.want {
			t.Errorf("%s: over %s, want %s", name, got, c.want)
		}
	}
}

// partOf is a step from 10 to 30% that one of two VirtualServices has taken.
func partOf(lowest int) but {
	return func(in *Input) {
		unseenStep("schedule", time.Second)(in)
		in.Traffic.Weight, in.Traffic.Lowest = 30, lowest
	}
}

func TestAStepThatOneOfTwoVirtualServicesHasTakenIsFinished(t *testing.T) {
	done := Decide(given(advancing(10), partOf(30)), at).Record.Status
	if done.Moving != nil || !done.MovedAt.Equal(at) || done.Weight != 30 || done.Spread != 0 {
		t.Errorf("taken by both: %+v", done)
	}
	in := given(advancing(10), movedAt(5*time.Minute), partOf(10), requests(0))
	d := Decide(in, at)
	s := d.Record.Status
	if d.Move != MoveForward || d.Weight != 30 || len(d.Added) > 0 || s.Moving == nil || !s.MovedAt.Equal(at.Add(-5*time.Minute)) || s.Weight != 30 || s.Spread != 20 {
		t.Errorf("taken by one: move %v to %d%%, added %+v, status %+v; want the other to follow at once", d.Move, d.Weight, d.Added, s)
	}
	in.Record = d.Record
	if again := Decide(in, at.Add(time.Second)); again.Move != MoveForward || again.Weight != 30 || len(again.Added) > 0 {
		t.Errorf("and then: move %v to %d%%, added %+v", again.Move, again.Weight, again.Added)
	}
	fires(ActionHold, "StableErrors", 0)(&in)
	if held := Decide(in, at.Add(time.Second)); held.Move != MoveNone || verdictOf(held).added != "noted by alert: 30→30; missed: 30→30" || !held.Record.Status.MovedAt.Equal(at.Add(time.Second)) {
		t.Errorf("an alert in between: move %v, added %+v, status %+v", held.Move, held.Added, held.Record.Status)
	}
	other := Decide(given(advancing(10), unseenStep("schedule", time.Second), gets(50)), at)
	if other.Record.Status.Moving != nil || !other.Record.Status.MovedAt.Equal(at) {
		t.Errorf("somebody else's weights: %+v", other.Record.Status)
	}
}

func TestARungThatTheWeightsCannotExpress(t *testing.T) {
	more := func(in *Input) {
		in.Reach = func(w int) (virtualservice.Traffic, error) {
			return virtualservice.Traffic{Weight: w + 3, Lowest: w, Split: 1}, nil
		}
	}
	never := func(in *Input) {
		in.Reach = func(int) (virtualservice.Traffic, error) {
			return virtualservice.Traffic{}, errors.New("weights of 3 in all are too coarse for 30%")
		}
	}
	d := Decide(given(advancing(10), more), at)
	if e := d.Record.Status.Moving; d.Move != MoveForward || d.Weight != 30 || !e.StepsTo(33) {
		t.Fatalf("move %v to %d%%, expected %v; want 30%% that are 33%%", d.Move, d.Weight, e)
	}
	seen := given(advancing(10), more)
	seen.Record, seen.Traffic.Weight, seen.Traffic.Lowest = d.Record, 33, 30
	if s := Decide(seen, at.Add(time.Second)); verdictOf(s).added != "step by schedule: 10→30" || s.Record.Status.Moving != nil || s.Move != MoveNone || s.Record.Status.NextStep != 50 {
		t.Errorf("once it is seen: move %v, added %+v, status %+v", s.Move, s.Added, s.Record.Status)
	}
	again := given(advancing(10), more)
	again.Record = d.Record
	if s := Decide(again, at.Add(time.Second)); len(s.Added) > 0 || s.Move != MoveForward {
		t.Errorf("when it was not made: move %v, added %+v", s.Move, s.Added)
	}
	for name, by := range map[string]but{"by the schedule": func(*Input) {}, "by hand": asks(RequestPromote)} {
		d = Decide(given(advancing(10), never, by), at)
		if s := d.Record.Status; d.Move != MoveNone || s.WaitingFor != WaitVirtualService || !strings.Contains(s.Waiting, "too coarse for 30%") {
			t.Errorf("%s: move %v, waits for %s (%s)", name, d.Move, s.WaitingFor, s.Waiting)
		}
	}
}

func TestANewBuildBetweenTwoStepsIsWatchedBeforeTheNext(t *testing.T) {
	rolling := func(in *Input) { in.Record.Status.Rolling = true }
	began := func(v verdict) verdict { v.added = "new-build: 50→50"; return v }
	const until = "waiting: until 2026-03-02T09:07:00Z"
	runRows(t, map[string]row{
		"one that is ready at once":          {[]but{advancing(50), runs("b2", 2)}, began(stays(StateShifting, PollCount)), until},
		"one whose rollout has just ended":   {[]but{advancing(50), rolling}, stays(StateShifting, PollCount), until},
		"one that still rolls out":           {[]but{advancing(50), rolling, runs("b1", 1, "b0")}, stays(StateShifting, PollCount), "waiting: rollout"},
		"one without traffic has no such":    {[]but{advancing(0), runs("b2", 2)}, withAdded(stepTo(StateIdle, 0, 10), "new-build: 0→0; step by schedule: 0→10"), ""},
		"one that has been watched so long":  {[]but{advancing(50), movedAt(7 * time.Minute)}, stepTo(StateShifting, 50, 100), ""},
		"the same pods, restarted, are none": {[]but{advancing(50), runs("b1", 2)}, stepTo(StateShifting, 50, 100), ""},
	})
	for name, in := range map[string]Input{
		"ready at once":            given(advancing(50), runs("b2", 2)),
		"the rollout has ended":    given(advancing(50), rolling),
		"blocked at other weights": given(locked(LockBuild), gets(50), stableReady(0)),
		"disarmed, at other ones":  given(locked(LockBuild), disarmed(time.Hour), gets(50)),
		"under all traffic":        given(promoted(time.Hour), runs("b2", 2)),
	} {
		if s := Decide(in, at).Record.Status; !s.MovedAt.Equal(at) || s.Rolling || s.Weight != in.Traffic.Weight {
			t.Errorf("%s: watched since %s at %d%%, rolling %v; want since %s at %d%%", name, s.MovedAt, s.Weight, s.Rolling, at, in.Traffic.Weight)
		}
	}
	if s := Decide(given(advancing(50), runs("b2", 1, "b1")), at).Record.Status; !s.Rolling {
		t.Error("a rollout that has only begun counts as complete")
	}
}

// What counts requests by builds reckons with it: during a rollout both answer.
func TestABuildServesAloneFromTheEndOfItsRolloutOn(t *testing.T) {
	hourAgo, minuteAgo := at.Add(-time.Hour), at.Add(-time.Minute)
	alone := func(in *Input) { in.Record.Status.AloneSince = minuteAgo }
	rolling := func(in *Input) { in.Record.Status.Rolling = true }
	readySince := func(ago time.Duration) but {
		return func(in *Input) {
			in.Canary.Ages = map[string]PodAge{in.Canary.Build: {Made: hourAgo, Ready: hourAgo, Last: at.Add(-ago)}}
			in.Record.Status.Served = []Served{{Build: "b1", From: hourAgo}}
		}
	}
	undone := func(b2 ...Served) but { // from b2, which was on its way out
		return func(in *Input) {
			rolling(in)
			s := &in.Record.Status
			s.Build, s.AloneSince, s.Served = "b2", hourAgo, append(s.Served, b2...)
		}
	}
	answered := func(from, until time.Duration) Served { return Served{"b2", at.Add(-from), at.Add(-until)} }
	for name, c := range map[string]struct {
		in   Input
		want time.Time
	}{
		"no rollout was seen: since it appeared":      {given(advancing(50)), hourAgo.Add(30 * time.Minute)},
		"one was seen":                                {given(advancing(50), alone), minuteAgo},
		"a new one has begun: that of the one before": {given(advancing(50), runs("b2", 1, "b1")), hourAgo.Add(30 * time.Minute)},
		"a new one after one that was seen":           {given(advancing(50), alone, runs("b2", 1, "b1")), minuteAgo},
		"it goes on":                                  {given(advancing(50), alone, rolling, runs("b1", 1, "b0")), minuteAgo},
		"it has ended":                                {given(advancing(50), alone, rolling, readySince(time.Second)), at.Add(-time.Second)},
		"it has ended at once":                        {given(advancing(50), runs("b2", 2)), minuteAgo},
		"it ended while guardian was away":            {given(advancing(50), runs("b2", 2), readySince(27*time.Minute)), at.Add(-27 * time.Minute)},
		"the same, and it was seen to roll":           {given(advancing(50), rolling, func(in *Input) { in.Record.Status.AloneSince = hourAgo }, readySince(27*time.Minute)), at.Add(-27 * time.Minute)},
		"no earlier than the one before it":           {given(advancing(50), alone, rolling, readySince(27*time.Minute)), minuteAgo},
		"when it became ready is not known":           {given(advancing(50), alone, rolling, func(in *Input) { in.Canary.Ages = nil }), at},
		"by a node's clock that is ahead":             {given(advancing(50), alone, rolling, readySince(-time.Hour)), at},
		"one that never came is taken back":           {given(advancing(50), undone()), hourAgo},
		"one that was ready without traffic is":       {given(advancing(50), undone(Served{Build: "b2"})), hourAgo},
		"one that answered until now is":              {given(advancing(50), undone(Served{Build: "b2", From: at.Add(-10 * time.Minute)})), at},
		"one that has ceased to answer is":            {given(advancing(50), undone(answered(10*time.Minute, 5*time.Minute))), at.Add(-5 * time.Minute)},
		"the same pods, restarted":                    {given(advancing(50), alone, runs("b1", 2)), minuteAgo},
		"it ended in another replica's future":        {given(advancing(50), func(in *Input) { in.Record.Status.AloneSince = at.Add(time.Hour) }), at},
	} {
		if s := Decide(c.in, at).Record.Status; !s.ServesSince().Equal(c.want) {
			t.Errorf("%s: alone since %s (rolling %v), want %s", name, s.ServesSince(), s.Rolling, c.want)
		}
	}
}

func TestTheClockIsSetWithinAnInterval(t *testing.T) {
	watched := func(d time.Duration) but { return func(in *Input) { in.Watched = Watched{Known: true, For: d} } }
	shifting := StateShifting
	runRows(t, map[string]row{
		"forwards: nothing comes early":                  {[]but{advancing(10), movedAt(time.Hour), watched(time.Minute)}, stays(shifting, PollCount), "until 2026-03-02T09:04:00Z"},
		"forwards, 1 ns too early":                       {[]but{advancing(10), movedAt(time.Hour), watched(5*time.Minute - 1)}, stays(shifting, time.Millisecond), "until"},
		"forwards, in time":                              {[]but{advancing(10), movedAt(time.Hour), watched(5 * time.Minute)}, stepTo(shifting, 10, 30), ""},
		"backwards: nothing comes late":                  {[]but{advancing(10), movedAt(-time.Hour), watched(5 * time.Minute)}, stepTo(shifting, 10, 30), ""},
		"backwards, 1 ns too early":                      {[]but{advancing(10), movedAt(-time.Hour), watched(5*time.Minute - 1)}, stays(shifting, time.Millisecond), "until"},
		"backwards, and nobody has watched: from now on": {[]but{advancing(10), movedAt(-time.Hour)}, stays(shifting, PollCount), "until 2026-03-02T09:05:00Z"},
		"two replicas' clocks differ a little":           {[]but{advancing(10), movedAt(5*time.Minute + time.Second), watched(5*time.Minute - time.Second)}, stepTo(shifting, 10, 30), ""},
		"bake time counts":                               {[]but{advancing(50), movedAt(time.Hour), watched(7*time.Minute - 1)}, stays(shifting, time.Millisecond), "until"},
	})
	d := Decide(given(advancing(10), movedAt(time.Hour), watched(time.Minute)), at)
	if got := d.Record.Status.MovedAt; !got.Equal(at.Add(-time.Minute)) {
		t.Errorf("moved at %s, want what the replica has watched", got)
	}
	if d := Decide(given(advancing(10), movedAt(time.Hour), watched(time.Hour), gets(30)), at); d.Move != MoveNone || !d.Record.Status.MovedAt.Equal(at) {
		t.Errorf("CI moved just now: move %v, moved at %s", d.Move, d.Record.Status.MovedAt)
	}
	for name, in := range map[string]Input{
		"a weight that nothing waits for": given(advancing(100), promotedAt(time.Minute), movedAt(-time.Hour), watched(time.Minute)),
		"what nobody has watched":         given(advancing(10), requests(0), movedAt(10*time.Hour)),
		"a replica without the lease":     given(advancing(10), movedAt(-time.Hour), watched(time.Minute), func(in *Input) { in.Leads, in.Live = false, false }),
	} {
		if d := Decide(in, at); !d.Record.Status.MovedAt.Equal(in.Record.Status.MovedAt) {
			t.Errorf("%s: moved at %s, want it left alone", name, d.Record.Status.MovedAt)
		}
	}
}

func TestReachingTheEndIsToldOnce(t *testing.T) {
	events := func(d Decision) string {
		var out []string
		for _, e := range d.Added {
			out = append(out, string(e.Event))
		}
		return strings.Join(out, " ")
	}
	in := given(advancing(50))
	look := func(now time.Time, edits ...but) Decision {
		for _, e := range edits {
			e(&in)
		}
		in.Heartbeat = now
		d := Decide(in, now)
		in.Record = d.Record
		return d
	}
	now := at
	for i, c := range []struct {
		after time.Duration
		edits []but
		state State
		told  string
	}{
		{0, nil, StateShifting, ""},
		{time.Second, []but{gets(100)}, StatePromoted, "step promoted"},
		{time.Second, nil, StatePromoted, ""},
		{30*time.Minute - time.Second - 1, nil, StatePromoted, ""},
		{1, nil, StateCompleted, "completed"},
		{time.Hour, nil, StateCompleted, ""},
		{time.Hour, []but{func(in *Input) { in.Paused = true }}, StateCompleted, ""},
		{time.Hour, []but{func(in *Input) { in.Paused = false }}, StateCompleted, ""},
		{time.Hour, []but{runs("b2", 2)}, StateUnverified, "new-build unverified"},
		{30 * time.Minute, nil, StateCompleted, "completed"},
		{time.Hour, []but{gets(0)}, StateIdle, "shifted waiting"}, // its promotion is over: for a new build
		{time.Hour, []but{gets(100)}, StatePromoted, "shifted promoted"},
		{30 * time.Minute, nil, StateCompleted, "completed"},
	} {
		now = now.Add(c.after)
		if d := look(now, c.edits...); d.Record.Status.State != c.state || events(d) != c.told {
			t.Fatalf("%d: %s, told %q; want %s, told %q", i, d.Record.Status.State, events(d), c.state, c.told)
		}
	}
	first := given(unseen, gets(100), appeared(time.Hour))
	if d := Decide(first, at); events(d) != "" || !d.Record.Status.CompletedAt.IsZero() {
		t.Errorf("first sight of a canary with all traffic: told %q, completed at %s", events(d), d.Record.Status.CompletedAt)
	}
}

func TestRoutesThatCatchUpBeginAnInterval(t *testing.T) {
	in := given(advancing(30), lowest(10))
	d := Decide(in, at)
	if d.Move != MoveForward || d.Weight != 30 {
		t.Fatalf("move %v to %d%%", d.Move, d.Weight)
	}
	in.Record = d.Record
	gets(30)(&in)
	d = Decide(in, at.Add(time.Second))
	if d.Move != MoveNone || verdictOf(d).added != "step by schedule: 30→30" || d.Record.Status.WaitingFor != WaitInterval || !d.Record.Status.MovedAt.Equal(at.Add(time.Second)) {
		t.Errorf("the highest route has stood at 30%% for an hour, the lowest for a second: move %v, waits for %q, added %+v", d.Move, d.Record.Status.WaitingFor, d.Added)
	}
}

func TestABuildOfCIsTimeIsNotPromotedWhenTheModeChanges(t *testing.T) {
	in := given(advancing(0), mode(PromotionOff), runs("b2", 2))
	d := Decide(in, at)
	in.Record = d.Record
	mode(PromotionAuto)(&in)
	if d = Decide(in, at.Add(time.Hour)); d.Move != MoveNone || d.Record.Status.WaitingFor != WaitBuild {
		t.Errorf("move %v, waits for %q", d.Move, d.Record.Status.WaitingFor)
	}
}

func TestNumbersThatAlwaysChangeAreWrittenAtTheirPace(t *testing.T) {
	for name, c := range map[string]struct{ first, later []but }{
		"requests counted": {[]but{advancing(10), mode(PromotionOff), func(in *Input) { in.Count = Count{Asked: true, Known: true, Requests: 5} }},
			[]but{func(in *Input) { in.Count.Requests++ }}},
		"requests waited for": {[]but{advancing(10), requests(5)}, []but{func(in *Input) { in.Forward.Requests++ }}},
		"an error's text":     {[]but{advancing(10), func(in *Input) { in.Forward.Err = "port 4000 refused" }}, []but{func(in *Input) { in.Forward.Err = "port 4001 refused" }}},
		"a gate's value": {[]but{advancing(10), func(in *Input) { in.Forward.Gates = []Gate{{Name: "slo", Why: "0.97"}} }},
			[]but{func(in *Input) { in.Forward.Gates[0].Why = "0.98" }}},
	} {
		t.Run(name, func(t *testing.T) {
			in := given(c.first...)
			first := Decide(in, at).Record
			in.Record = first
			for _, e := range c.later {
				e(&in)
			}
			if d := Decide(in, at.Add(PollForward-1)); !reflect.DeepEqual(d.Record.Data(), first.Data()) {
				t.Errorf("written again: %+v", d.Record.Status)
			}
			if d := Decide(in, at.Add(PollForward)); reflect.DeepEqual(d.Record.Data(), first.Data()) {
				t.Errorf("never written again: %+v", d.Record.Status)
			}
			if d := Decide(in, at.Add(-time.Hour)); reflect.DeepEqual(d.Record.Data(), first.Data()) {
				t.Errorf("a clock that was set back keeps it for an hour: %+v", d.Record.Status)
			}
			in.Canary.Build = "b2"
			if d := Decide(in, at.Add(time.Second)); reflect.DeepEqual(d.Record.Status.ToldAt, first.Status.ToldAt) && d.Record.Status.Requests != first.Status.Requests {
				t.Errorf("another build has the old numbers: %+v", d.Record.Status)
			}
		})
	}
}

// Each write has every replica look again: a move of tomorrow, by a clock that was ahead,
// would have them write the time of each count until then.
func TestACountThatIsTheSameIsNotWrittenAnewAfterAMoveOfTheFuture(t *testing.T) {
	in := given(advancing(0), mode(PromotionManual), func(in *Input) {
		in.Record.Status.Fresh, in.Record.Status.State, in.Traffic.CanaryOnly = true, StateShifting, 1 // testers alone
		in.Record.Status.MovedAt, in.Count = at.Add(9*time.Hour), Count{Asked: true, Known: true, Requests: 5}
	})
	in.Record = Decide(in, at).Record
	first := in.Record
	for i := range 100 {
		in.Record = Decide(in, at.Add(time.Duration(i)*time.Second)).Record
	}
	if !reflect.DeepEqual(in.Record.Data(), first.Data()) {
		t.Errorf("counted %+v, then %+v", first.Status.Counts, in.Record.Status.Counts)
	}
}

func TestReplicasWhoseClocksDifferAgreeOnTheWindow(t *testing.T) {
	byStep := func(in *Input) { in.Record.Status.MovedAt = in.Record.Status.PromotedAt }
	for name, c := range map[string]struct {
		in   []but
		want State
	}{
		"the lease holder ends it":                            {[]but{leads, promoted(30 * time.Minute)}, StateCompleted},
		"no other does":                                       {[]but{promoted(26 * time.Hour)}, StatePromoted},
		"nor takes back that it has ended":                    {[]but{promoted(-time.Hour), func(in *Input) { in.Record.Status.CompletedAt = at }}, StateCompleted},
		"the clock was set forwards: what was watched counts": {[]but{leads, promoted(26 * time.Hour), byStep, func(in *Input) { in.Watched = Watched{Known: true, For: time.Minute} }}, StatePromoted},
		"and ends it":                                         {[]but{leads, promoted(-26 * time.Hour), byStep, func(in *Input) { in.Watched = Watched{Known: true, For: 30 * time.Minute} }}, StateCompleted},
	} {
		d := Decide(given(c.in...), at)
		if d.Record.Status.State != c.want || d.Requeue > 0 && d.Requeue < time.Second {
			t.Errorf("%s: %s, looked at again after %s; want %s", name, d.Record.Status.State, d.Requeue, c.want)
		}
	}
}

func TestABuildIsFreshUntilTheWeightsChange(t *testing.T) {
	for name, c := range map[string]struct {
		in   []but
		want bool
	}{
		"a new build":                     {[]but{advancing(0), runs("b2", 2), notAsked}, true},
		"CI goes back to 0 with it":       {[]but{advancing(50), runs("b2", 2), gets(0)}, false},
		"CI goes back to 0, by any clock": {[]but{advancing(50), gets(0), buildSince(-time.Hour)}, false},
		"first sight":                     {[]but{unseen, gets(0)}, false},
	} {
		if d := Decide(given(c.in...), at); d.Record.Status.Fresh != c.want || !c.want && d.Move == MoveForward {
			t.Errorf("%s: fresh %v, move %v; want %v", name, d.Record.Status.Fresh, d.Move, c.want)
		}
	}
}

// A replica of before knows no heldBy, and writes the record without it: while both
// run, they do not take turns in writing.
func TestWhoHoldsIsWrittenAtItsPace(t *testing.T) {
	in := given(advancing(10), fires(ActionHold, "CanarySlow", time.Second))
	in.Record = Decide(in, at).Record
	if in.Record.Status.State != StateHeld || in.Record.Status.HeldBy == "" {
		t.Fatalf("%s by %q", in.Record.Status.State, in.Record.Status.HeldBy)
	}
	in.Record.Status.HeldBy, in.Record.Status.ToldAt = "", at
	for leads, c := range map[bool]struct {
		after  time.Duration
		writes bool
	}{true: {PollForward, true}, false: {time.Hour, false}} {
		in.Leads = leads
		if d := Decide(in, at.Add(time.Second)); d.Record.Status.HeldBy != "" {
			t.Errorf("leads %v: written at once: %s", leads, d.Record.Status.HeldBy)
		}
		if d := Decide(in, at.Add(c.after)); (d.Record.Status.HeldBy != "") != c.writes {
			t.Errorf("leads %v: %q after %s", leads, d.Record.Status.HeldBy, c.after)
		}
	}
}

func TestRequestsOfBeforeTheWeightsOrTheBuildChangedCountForNoStep(t *testing.T) {
	atOnce := func(in *Input) {
		in.Guard.Promotion.Steps = slices.Clone(in.Guard.Promotion.Steps)
		for i := range in.Guard.Promotion.Steps {
			in.Guard.Promotion.Steps[i].Interval, in.Guard.Promotion.Steps[i].Bake = 0, 0
		}
	}
	counted := func(in *Input) { in.Count = Count{Asked: true, Known: true, Requests: 1000, Failed: 3} }
	for name, change := range map[string]but{
		"CI has stepped in":          gets(20),
		"a new build":                runs("b2", 2),
		"a rollout that has ended":   func(in *Input) { in.Record.Status.Rolling = true },
		"one route has caught up":    func(in *Input) { in.Record.Status.Spread = 5 },
		"guardian's own step is in":  func(in *Input) { stepping("schedule", time.Second)(in); gets(30)(in) },
		"CI has gone back a little":  gets(5),
		"CI has given nearly all":    gets(99),
		"and guardian's own routine": func(in *Input) { gets(20)(in); in.Watched = Watched{Known: true, For: time.Hour} },
	} {
		t.Run(name, func(t *testing.T) {
			in := given(advancing(10), atOnce, counted, change)
			d := Decide(in, at)
			s := d.Record.Status
			if d.Move != MoveNone || s.WaitingFor != WaitRequests || s.Waiting != "waiting: 0 of 100 requests" {
				t.Errorf("move %v to %d%%, %q", d.Move, d.Weight, s.Waiting)
			}
			if tally, over := s.tally(); tally != (Tally{}) || over != (Counted{}) {
				t.Errorf("%+v over %+v is told of the new weights", tally, over)
			}
			in.Record, in.Heartbeat = d.Record, at.Add(PollForward)
			if d = Decide(in, at.Add(PollForward)); d.Move != MoveForward || d.Record.Status.Promoting != d.Record.Status.Build {
				t.Errorf("counted since: move %v, %q", d.Move, d.Record.Status.Waiting)
			}
		})
	}
}

func TestABuildThatIsCompletedIsNotTakenForwardAgain(t *testing.T) {
	in := given(advancing(50))
	look := func(now time.Time, edits ...but) Decision {
		for _, e := range edits {
			e(&in)
		}
		in.Heartbeat = now
		d := Decide(in, now)
		in.Record = d.Record
		return d
	}
	now, day := at, 24*time.Hour
	for i, c := range []struct {
		after time.Duration
		edits []but
		move  Move
		waits Wait
	}{
		{time.Second, []but{gets(100)}, MoveNone, ""},
		{30 * time.Minute, nil, MoveNone, ""},
		{day, []but{gets(0)}, MoveNone, WaitBuild}, // v1 has got the build: room for the next one
		{day, nil, MoveNone, WaitBuild},
		{time.Minute, []but{runs("b2", 2)}, MoveForward, ""},
		{time.Second, []but{gets(10)}, MoveNone, WaitInterval},
		{time.Second, []but{gets(100)}, MoveNone, ""},
		{time.Hour, nil, MoveNone, ""},
		{time.Hour, []but{gets(50)}, MoveNone, WaitBuild},
		{time.Hour, nil, MoveNone, WaitBuild},
		{time.Hour, []but{gets(70)}, MoveNone, WaitInterval}, // CI begins with it anew
		{time.Hour, nil, MoveForward, ""},
	} {
		now = now.Add(c.after)
		if d := look(now, c.edits...); d.Move != c.move || d.Record.Status.WaitingFor != c.waits {
			t.Fatalf("%d: %s at %d%%: move %v, waits for %q; want %v, %q", i, d.Record.Status.State, in.Traffic.Weight, d.Move, d.Record.Status.WaitingFor, c.move, c.waits)
		}
	}
}

func TestAStepThatIsRefusedForLackOfARouteSaysSo(t *testing.T) {
	paths := func(in *Input) { // some paths are the canary's alone, others stable's
		in.Traffic.Split, in.Traffic.StableOnly, in.Traffic.CanaryOnly = 0, 1, 1
		in.Record.Status.Full, in.Record.Status.State = false, StateShifting
	}
	for name, c := range map[string]struct {
		in   []but
		says string
	}{
		"no route names both": {[]but{advancing(100), paths, asks(RequestPromote)}, "promote refused: no route carries both v1 and v2"},
		"all traffic":         {[]but{advancing(100), promotedAt(time.Minute), asks(RequestPromote)}, "promote refused: the canary already has all traffic"},
	} {
		d := Decide(given(c.in...), at)
		if n := len(d.Record.Answers); n != 1 || d.Record.Answers[0].Text != c.says {
			t.Errorf("%s: %+v", name, d.Record.Answers)
		}
	}
}

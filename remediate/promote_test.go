package remediate

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

// climbing is a guard in mode auto whose build b1 stands on the ladder at a
// weight since an hour, with every condition of a step fulfilled.
func climbing(weight int) but {
	return func(in *Input) {
		stood(StateShifting, weight)(in)
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

func notAsked(in *Input) { in.Forward = nil }

// stepTo is a decision to go one rung up.
func stepTo(state State, from, weight int) verdict {
	return verdict{state: state, move: MoveForward, weight: weight, reason: ReasonStep, requeue: pollForward, added: fmt.Sprintf("step by schedule: %d→%d", from, weight)}
}

// stays is a decision to wait, with live answers asked again soon.
func stays(state State, requeue time.Duration) verdict {
	return verdict{state: state, reason: ReasonNothing, requeue: requeue}
}

func TestTheLadderIsClimbedRungByRung(t *testing.T) {
	shifting := StateShifting
	runRows(t, map[string]row{
		"from 0 to the first rung":                  {[]but{climbing(0)}, stepTo(StateIdle, 0, 10), "step to 10%"},
		"from 10 to 30":                             {[]but{climbing(10)}, stepTo(shifting, 10, 30), ""},
		"from 30 to 50":                             {[]but{climbing(30)}, stepTo(shifting, 30, 50), ""},
		"from 50 to 100":                            {[]but{climbing(50)}, stepTo(shifting, 50, 100), ""},
		"at 100 there is nothing left":              {[]but{climbing(100), promotedAt(time.Minute)}, stays(StatePromoted, pollCount), ""},
		"from a weight of CI's between two rungs":   {[]but{climbing(20)}, stepTo(shifting, 20, 30), ""},
		"routes at different weights: the lowest":   {[]but{climbing(30), func(in *Input) { in.Traffic.Lowest = 10 }}, stepTo(shifting, 30, 30), ""},
		"a first step waits for no interval":        {[]but{climbing(0), movedAt(31 * time.Minute), buildSince(time.Minute)}, stepTo(StateIdle, 0, 10), ""},
		"nor for requests":                          {[]but{climbing(0), requests(0)}, stepTo(StateIdle, 0, 10), ""},
		"but one taken back to 0 waits for it":      {[]but{climbing(0), movedAt(5*time.Minute - 1)}, stays(StateIdle, time.Millisecond), "waiting: until 2026-03-02T09:00:00Z"},
		"and not for longer":                        {[]but{climbing(0), movedAt(5 * time.Minute)}, stepTo(StateIdle, 0, 10), ""},
		"1 ns before the interval is over":          {[]but{climbing(10), movedAt(5*time.Minute - 1)}, stays(shifting, time.Millisecond), "waiting: until 2026-03-02T09:00:00Z"},
		"when it is over":                           {[]but{climbing(10), movedAt(5 * time.Minute)}, stepTo(shifting, 10, 30), ""},
		"1 ns before the bake time of 50% is over":  {[]but{climbing(50), movedAt(7*time.Minute - 1)}, stays(shifting, time.Millisecond), "waiting: until 2026-03-02T09:00:00Z"},
		"when it is over, 100":                      {[]but{climbing(50), movedAt(7 * time.Minute)}, stepTo(shifting, 50, 100), ""},
		"the bake time of 50% is not one of 30%":    {[]but{climbing(30), movedAt(5 * time.Minute)}, stepTo(shifting, 30, 50), ""},
		"CI stepped in just now: from there, later": {[]but{climbing(10), gets(30)}, withAdded(stays(shifting, pollCount), "shifted: 10→30"), "until 2026-03-02T09:05:00Z"},
		"CI began what nobody had begun":            {[]but{climbing(0), func(in *Input) { in.Record.Status.Promoting = "" }, gets(10)}, withAdded(stays(shifting, pollCount), "shifted: 0→10"), "until"},
		"CI went back: it waits as well":            {[]but{climbing(50), gets(10)}, withAdded(stays(shifting, pollCount), "shifted: 50→10"), "until"},
		"CI went back on what nobody had begun":     {[]but{climbing(50), func(in *Input) { in.Record.Status.Promoting = "" }, gets(10)}, withAdded(stays(shifting, pollCount), "shifted: 50→10"), "waiting: for a new build"},
		"a new build that is ready starts it":       {[]but{climbing(0), runs("b2", 2)}, withAdded(stepTo(StateIdle, 0, 10), "new-build: 0→0; step by schedule: 0→10"), ""},
		"a lock that a new build lifts starts it":   {[]but{climbing(0), locked(LockBuild), runs("b2", 2)}, verdict{state: StateIdle, move: MoveForward, weight: 10, reason: ReasonStep, refused: "b1", requeue: pollForward, added: "new-build: 0→0; unlocked by new build: 0→0; step by schedule: 0→10"}, ""},
		"a step gives back what a rollback changed": {[]but{climbing(0), func(in *Input) { in.Owned = true }}, func() verdict { v := stepTo(StateIdle, 0, 10); v.release = true; return v }(), ""},
		"mode off leaves it to CI":                  {[]but{climbing(10), mode(PromotionOff)}, stays(shifting, pollCount), ""},
		"mode manual waits for a person":            {[]but{climbing(10), mode(PromotionManual)}, stays(shifting, pollCount), "guardian promote"},
		"mode manual in CI's hands does not begin":  {[]but{climbing(10), mode(PromotionManual), gets(30)}, withAdded(stays(shifting, pollCount), "shifted: 10→30"), "guardian promote"},
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
			string(m) + ": a step":                          {[]but{climbing(10), mode(m), ask}, by(stepTo(StateShifting, 10, 30)), ""},
			string(m) + ": before its interval is over":     {[]but{climbing(10), mode(m), ask, movedAt(time.Second)}, by(stepTo(StateShifting, 10, 30)), ""},
			string(m) + ": with few requests":               {[]but{climbing(10), mode(m), ask, requests(0)}, by(stepTo(StateShifting, 10, 30)), ""},
			string(m) + ": of a build that nobody began":    {[]but{climbing(10), mode(m), ask, func(in *Input) { in.Record.Status.Promoting = "" }}, by(stepTo(StateShifting, 10, 30)), ""},
			string(m) + ": not past a stale heartbeat":      {[]but{climbing(10), mode(m), ask, heartbeat(time.Hour)}, refused(pollForward, 10), "promote refused: waiting: no heartbeat"},
			string(m) + ": not past a closed gate":          {[]but{climbing(10), mode(m), ask, func(in *Input) { in.Forward.Gates = []Gate{{Name: "g", Why: "0"}} }}, refused(pollForward, 10), "promote refused: waiting: gate g is closed (0)"},
			string(m) + ": not past a rollout":              {[]but{climbing(10), mode(m), ask, runs("b1", 1, "b0")}, refused(pollCount, 10), "promote refused: waiting: rollout"},
			string(m) + ": live answers are asked first":    {[]but{climbing(10), mode(m), ask, notAsked}, func() verdict { v := refused(pollCount, 10); v.forward = true; return v }(), ""},
			string(m) + ": not past a hold alert":           {[]but{climbing(10), mode(m), ask, fires(ActionHold, "StableErrors", time.Minute)}, func() verdict { v := refused(pollCount, 10); v.state, v.reason = StateHeld, ReasonHeld; return v }(), "promote refused: waiting: alert StableErrors fires"},
			string(m) + ": not past Prometheus's silence":   {[]but{climbing(10), mode(m), ask, func(in *Input) { in.Forward.Err = "Prometheus does not answer" }}, refused(pollForward, 10), "promote refused: waiting: Prometheus"},
			string(m) + ": not past what the calendar says": {[]but{climbing(10), mode(m), ask, func(in *Input) { in.Forward.Closed = "no steps on Friday after 16:00" }}, refused(pollForward, 10), "promote refused: waiting: no steps on Friday"},
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
		{"calendar", func(in *Input) { in.Forward.Closed = "no steps on Friday after 16:00" }, "waiting: no steps on Friday after 16:00"},
		{"answers", func(in *Input) { in.Forward.Err = "Prometheus does not answer" }, "waiting: Prometheus does not answer"},
		{"heartbeat", heartbeat(3*time.Minute + 1), "waiting: no heartbeat for longer than 3m0s; is the alert chain broken?"},
		{"live reads", notAsked, "waiting: for the replica that holds the lease"},
		{"interval", movedAt(time.Minute), "waiting: until 2026-03-02T09:04:00Z"},
		{"rollout", runs("b1", 1, "b0"), "waiting: rollout of build b1 (1 of 2 ready pods are of it)"},
		{"stable's endpoints", stableReady(0), "waiting: stable has 0 of 1 ready endpoints"},
		{"stable's subset", func(in *Input) { in.Stable.Missing = "no subset v1" }, "waiting: no subset v1"},
		{"alert", fires(ActionHold, "StableErrors", time.Minute), "waiting: alert StableErrors fires"},
		{"build", func(in *Input) { in.Record.Status.Promoting = "b0" }, "waiting: for a new build, or for the first step by CI or guardian promote"},
		{"Deployment", noCanary, "waiting: no Deployment of the canary found"},
		{"split", func(in *Input) { in.Traffic.Split = 0 }, "waiting: no route carries both v1 and v2"},
		{"VirtualService", func(in *Input) { in.Unsafe = "VirtualService microservices/orders-service: delegate" }, "waiting: VirtualService microservices/orders-service: delegate"},
		{"first sight", func(in *Input) { in.Record = Record{} }, "waiting: first sight of this guard, nothing is moved"},
	}
	edits := []but{climbing(10)}
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
		"a heartbeat exactly as old as allowed":                    {[]but{climbing(10), heartbeat(3 * time.Minute)}, stepTo(StateShifting, 10, 30), ""},
		"a heartbeat 1 ns older":                                   {[]but{climbing(10), heartbeat(3*time.Minute + 1)}, stays(StateShifting, pollForward), "is the alert chain broken?"},
		"no heartbeat ever":                                        {[]but{climbing(10), func(in *Input) { in.Heartbeat = time.Time{} }}, stays(StateShifting, pollForward), "no heartbeat"},
		"one request too few":                                      {[]but{climbing(10), requests(99)}, stays(StateShifting, pollForward), "99 of 100"},
		"just enough requests":                                     {[]but{climbing(10), requests(100)}, stepTo(StateShifting, 10, 30), ""},
		"the lease holder asks what it has not yet":                {[]but{climbing(10), notAsked}, func() verdict { v := stays(StateShifting, pollCount); v.forward = true; return v }(), ""},
		"from its cache it asks for live reads too":                {[]but{climbing(10), notAsked, func(in *Input) { in.Live = false }}, func() verdict { v := stays(StateShifting, pollCount); v.forward, v.wantLive = true, true; return v }(), ""},
		"answers to a replica that read from a cache do not count": {[]but{climbing(10), func(in *Input) { in.Live = false }}, func() verdict { v := stays(StateShifting, pollCount); v.forward, v.wantLive = true, true; return v }(), ""},
		"a replica without the lease asks nothing":                 {[]but{climbing(10), notAsked, func(in *Input) { in.Live, in.Leads = false, false }}, stays(StateShifting, 0), ""},
		"nothing is asked before the interval is over":             {[]but{climbing(10), notAsked, movedAt(time.Minute)}, stays(StateShifting, pollCount), "until"},
		"a rollout that is not complete":                           {[]but{climbing(10), func(in *Input) { in.Canary.Complete = false }}, stays(StateShifting, pollCount), "rollout of build b1 (2 of 2"},
		"a canary without a ready pod":                             {[]but{climbing(10), runs("b1", 0)}, stays(StateShifting, pollCount), "rollout of build b1 (0 of 0"},
		"stable one below its floor":                               {[]but{climbing(10), floorOf(3)}, stays(StateShifting, pollCount), "stable has 2 of 3"},
		"a hold that only another replica has heard":               {[]but{climbing(10), heardElsewhere(ActionHold, time.Second)}, func() verdict { v := stays(StateHeld, pollCount); v.reason = ReasonHeld; return v }(), "alert Elsewhere fires"},
		"an alert in the same instant: the rollback wins": {[]but{climbing(10), bad},
			verdict{state: StateRolledBack, move: MoveStable, reason: ReasonAlert, lock: "build b1 by alert", refused: "b1", added: "rolled-back by alert: 10→0"}, ""},
		"a person's rollback in the same instant": {[]but{climbing(10), asks(RequestRollback)},
			verdict{state: StateRolledBack, move: MoveStable, reason: ReasonPerson, lock: "build b1 by ann", refused: "b1", added: "rolled-back by ann: 10→0"}, ""},
		"paused":                   {[]but{climbing(10), paused}, verdict{state: StatePaused, reason: ReasonPaused}, ""},
		"locked":                   {[]but{climbing(0), locked(LockBuild)}, verdict{state: StateRolledBack, reason: ReasonNothing, lock: "build b1 by alert", refused: "b1"}, ""},
		"a clock that jumped back": {[]but{climbing(10), movedAt(-time.Hour)}, stays(StateShifting, pollCount), "until 2026-03-02T10:05:00Z"},
	})
}

func TestAStepIsRememberedUntilItIsSeen(t *testing.T) {
	d := Decide(given(climbing(10)), at)
	s := d.Record.Status
	if s.Expected == nil || *s.Expected != 30 || s.Weight != 10 || !s.MovedAt.Equal(at.Add(-time.Hour)) {
		t.Fatalf("status after the decision: %+v", s)
	}
	next := given(climbing(10), gets(30))
	next.Record = d.Record
	later := Decide(next, at.Add(time.Second))
	if s := later.Record.Status; len(later.Added) > 0 || s.Weight != 30 || !s.MovedAt.Equal(at.Add(time.Second)) || s.Expected != nil || s.Promoting != "b1" {
		t.Errorf("once the step is seen: %+v, added %+v", s, later.Added)
	}
	if later.Move != MoveNone || !later.Record.Status.NextAt.Equal(at.Add(5*time.Minute+time.Second)) || later.Record.Status.NextStep != 50 {
		t.Errorf("the next step: move %v, %d%% at %s", later.Move, later.Record.Status.NextStep, later.Record.Status.NextAt)
	}
	crash := given(climbing(10))
	crash.Record = d.Record
	if again := Decide(crash, at.Add(time.Second)); again.Move != MoveForward || again.Weight != 30 {
		t.Errorf("killed between the record and the VirtualService: %v to %d%%, want the same step", again.Move, again.Weight)
	}
}

func TestAReplicaWithoutTheLeaseLeavesTheLadderAlone(t *testing.T) {
	in := given(climbing(10), func(in *Input) { in.Live, in.Leads = false, false })
	in.Record.Status.Waiting, in.Record.Status.NextStep, in.Record.Status.NextAt, in.Record.Status.Requests = "waiting: 37 of 100 requests", 30, at.Add(time.Minute), 37
	in.Record.Status.Reason, in.Record.Status.Ready = "canary has 10%", ReadyInfo{Stable: 2, Canary: 2}
	if d := Decide(in, at); !reflect.DeepEqual(d.Record.Status, in.Record.Status) {
		t.Errorf("status changed to %+v\nfrom %+v", d.Record.Status, in.Record.Status)
	}
}

func TestRequestsAreCountedWhileTheCanaryHasTraffic(t *testing.T) {
	count := func(c Count) but { return func(in *Input) { in.Count = c; in.Record.Status.Requests = 5 } }
	for name, c := range map[string]struct {
		in   []but
		want int64
		asks bool
	}{
		"not asked yet":              {[]but{leads, count(Count{})}, 0, true},
		"Prometheus answered":        {[]but{leads, count(Count{Asked: true, Known: true, Requests: 42})}, 42, false},
		"it did not: as last known":  {[]but{leads, count(Count{Asked: true})}, 5, false},
		"no lease: left as it is":    {[]but{count(Count{})}, 5, false},
		"no traffic: nothing to ask": {[]but{leads, count(Count{}), stood(StateIdle, 0)}, 0, false},
		"baked: nothing to ask":      {[]but{leads, count(Count{}), promoted(time.Hour)}, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			d := Decide(given(c.in...), at)
			if d.WantCount != c.asks || d.Record.Status.Requests != c.want {
				t.Errorf("asks %v, %d requests; want %v, %d", d.WantCount, d.Record.Status.Requests, c.asks, c.want)
			}
		})
	}
}

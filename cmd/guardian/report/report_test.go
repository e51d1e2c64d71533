package report

import (
	"reflect"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
)

var start = time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)

// entry is one of a history, so many minutes after start.
func entry(minute int, event decision.Event, build string, from, to int) decision.HistoryEntry {
	return decision.HistoryEntry{At: start.Add(time.Duration(minute) * time.Minute), Event: event, Build: build, From: from, To: to, State: decision.StateShifting}
}

func mark(minute int, event decision.Event, of int) decision.HistoryEntry {
	e := entry(minute, event, "b1", 0, 0)
	e.By, e.Reason, e.Of = "ann", "a test of load", start.Add(time.Duration(of)*time.Minute)
	return e
}

func TestReleasesAreFollowedToTheirEnd(t *testing.T) {
	at := func(minute int) time.Time { return start.Add(time.Duration(minute) * time.Minute) }
	for name, c := range map[string]struct {
		history []decision.HistoryEntry
		want    []Release
	}{
		"nothing":        {nil, nil},
		"without weight": {[]decision.HistoryEntry{entry(0, decision.EventNewBuild, "b1", 0, 0)}, nil},
		"completed": {[]decision.HistoryEntry{entry(0, decision.EventNewBuild, "b1", 0, 0), entry(1, decision.EventShifted, "b1", 0, 10), entry(5, decision.EventStep, "b1", 10, 50),
			entry(9, decision.EventPromoted, "b1", 100, 100), entry(39, decision.EventCompleted, "b1", 100, 100)},
			[]Release{{"b1", at(1), 100, EndCompleted, at(39)}}},
		"promoted": {[]decision.HistoryEntry{entry(1, decision.EventStep, "b1", 0, 50), entry(9, decision.EventPromoted, "b1", 100, 100)},
			[]Release{{"b1", at(1), 100, EndPromoted, time.Time{}}}},
		"back from all": {[]decision.HistoryEntry{entry(1, decision.EventStep, "b1", 0, 50), entry(9, decision.EventPromoted, "b1", 100, 100), entry(12, decision.EventShifted, "b1", 100, 50)},
			[]Release{{"b1", at(1), 100, EndServing, time.Time{}}}},
		"rolled back, and again": {[]decision.HistoryEntry{entry(1, decision.EventShifted, "b1", 0, 30), entry(4, decision.EventRolledBack, "b1", 30, 0), mark(5, decision.EventMarkedWrong, 4),
			entry(6, decision.EventNewBuild, "b2", 0, 0), entry(7, decision.EventShifted, "b2", 0, 10), entry(8, decision.EventRolledBack, "b2", 10, 0)},
			[]Release{{"b1", at(1), 30, EndRolledBack, at(4)}, {"b2", at(7), 10, EndRolledBack, at(8)}}},
		"taken back by others": {[]decision.HistoryEntry{entry(1, decision.EventShifted, "b1", 0, 30), entry(6, decision.EventShifted, "b1", 30, 0), entry(7, decision.EventNoted, "b1", 0, 0)},
			[]Release{{"b1", at(1), 30, EndTakenBack, at(6)}}},
		"replaced under way": {[]decision.HistoryEntry{entry(1, decision.EventShifted, "b1", 0, 30), entry(6, decision.EventNewBuild, "b2", 30, 30), entry(8, decision.EventShifted, "b2", 30, 50)},
			[]Release{{"b1", at(1), 30, EndReplaced, at(6)}, {"b2", at(6), 50, EndServing, time.Time{}}}},
	} {
		if got := releases(c.history); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s:\n%+v, want\n%+v", name, got, c.want)
		}
	}
}

func TestWhatWasNotDoneIsFollowed(t *testing.T) {
	would := entry(10, decision.EventWould, "b1", 30, 30)
	for name, c := range map[string]struct {
		after  []decision.HistoryEntry
		then   End
		minute int // 0: no time
		weight int
	}{
		"nothing since": {nil, EndServing, 0, 30},
		"more traffic":  {[]decision.HistoryEntry{entry(12, decision.EventShifted, "b1", 30, 70)}, EndServing, 0, 70},
		"promoted":      {[]decision.HistoryEntry{entry(12, decision.EventPromoted, "b1", 100, 100)}, EndPromoted, 12, 100},
		"completed":     {[]decision.HistoryEntry{entry(12, decision.EventPromoted, "b1", 100, 100), entry(42, decision.EventCompleted, "b1", 100, 100)}, EndCompleted, 42, 100},
		"back from all": {[]decision.HistoryEntry{entry(12, decision.EventPromoted, "b1", 100, 100), entry(15, decision.EventShifted, "b1", 100, 50)}, EndServing, 0, 100},
		"taken back":    {[]decision.HistoryEntry{mark(11, decision.EventMarkedRight, 10), entry(22, decision.EventShifted, "b1", 30, 0)}, EndTakenBack, 22, 30},
		"replaced":      {[]decision.HistoryEntry{entry(15, decision.EventNewBuild, "b2", 30, 30), entry(16, decision.EventShifted, "b2", 30, 0)}, EndReplaced, 15, 30},
		"by a person":   {[]decision.HistoryEntry{entry(15, decision.EventRolledBack, "b1", 30, 0)}, EndRolledBack, 15, 30},
	} {
		r := Of("orders", decision.Record{History: append([]decision.HistoryEntry{would}, c.after...)}, start, start.Add(time.Hour)).Rollbacks[0]
		at := time.Time{}
		if c.minute > 0 {
			at = start.Add(time.Duration(c.minute) * time.Minute)
		}
		if !r.Would || r.Then != c.then || !r.ThenAt.Equal(at) || r.Weight != c.weight {
			t.Errorf("%s: %+v, want %s at %s, at most %d%%", name, r, c.then, at, c.weight)
		}
	}
}

func TestAReportCountsWhatIsInItsTime(t *testing.T) {
	held := entry(31, decision.EventNoted, "b2", 10, 10)
	held.State = decision.StateHeld
	done := entry(20, decision.EventRolledBack, "b1", 30, 0)
	done.Fired = done.At.Add(-1500 * time.Millisecond)
	old := entry(5, decision.EventRolledBack, "b0", 30, 0)
	r := decision.Record{History: []decision.HistoryEntry{
		entry(1, decision.EventShifted, "b0", 0, 30), old, entry(6, decision.EventDisarmed, "b0", 0, 0), entry(14, decision.EventArmed, "b0", 0, 0),
		entry(15, decision.EventShifted, "b1", 0, 30), done, mark(21, decision.EventMarkedRight, 20), mark(22, decision.EventMarkedWrong, 20),
		entry(30, decision.EventShifted, "b2", 0, 10), held, entry(32, decision.EventBlocked, "b2", 10, 10), entry(32, decision.EventBlocked, "b2", 10, 10), entry(33, decision.EventNoted, "b2", 10, 10),
		entry(50, decision.EventDisarmed, "b2", 10, 10)}}
	g := Of("orders", r, start.Add(10*time.Minute), start.Add(time.Hour))
	if len(g.Releases) != 2 || len(g.Rollbacks) != 1 || g.Holds != 1 || g.Blocked != 1 || g.Disarmed != 14*60 || !g.Begins.Equal(start.Add(time.Minute)) {
		t.Errorf("%+v", g)
	}
	if b := g.Rollbacks[0]; b.Delay == nil || *b.Delay != 1.5 || b.Would || b.Mark == nil || !b.Mark.Wrong || b.Mark.By != "ann" {
		t.Errorf("the rollback is %+v, its mark %+v", b, b.Mark)
	}
	total := Report{Guards: []Guard{g, g}}.Total()
	if want := (Total{Releases: 4, Done: 2, Wrong: 2, Holds: 2, Blocked: 2, Disarmed: 28 * time.Minute, Delays: []time.Duration{1500 * time.Millisecond, 1500 * time.Millisecond}}); !reflect.DeepEqual(total, want) {
		t.Errorf("%+v, want %+v", total, want)
	}
}

// What comes several times in a row is one entry: the report counts each time that is in
// its own, as far as the entry tells.
func TestWhatCameSeveralTimesIsCounted(t *testing.T) {
	again := func(e decision.HistoryEntry, times, last int) decision.HistoryEntry {
		e.Times, e.Last = times, start.Add(time.Duration(last)*time.Minute)
		return e
	}
	hold, blocked := entry(0, decision.EventNoted, "b1", 10, 10), entry(20, decision.EventBlocked, "b1", 10, 10)
	hold.State = decision.StateHeld
	r := decision.Record{History: []decision.HistoryEntry{again(hold, 7, 10), again(blocked, 30, 40)}}
	for since, want := range map[int][2]int{0: {7, 1}, 5: {1, 1}, 11: {0, 1}, 30: {0, 0}, 41: {0, 0}} {
		g := Of("orders", r, start.Add(time.Duration(since)*time.Minute), start.Add(time.Hour))
		if got := [2]int{g.Holds, g.Blocked}; got != want {
			t.Errorf("since minute %d: %v holds and blocks, want %v", since, got, want)
		}
	}
}

func TestADisarmCountsWhileItLasts(t *testing.T) {
	at := func(minute int) time.Time { return start.Add(time.Duration(minute) * time.Minute) }
	off, on := entry(10, decision.EventDisarmed, "b1", 0, 0), entry(25, decision.EventArmed, "b1", 0, 0)
	for name, c := range map[string]struct {
		history []decision.HistoryEntry
		until   time.Time // of a disarm that the record still has
		want    float64   // minutes
	}{
		"over":                 {[]decision.HistoryEntry{off, on}, time.Time{}, 15},
		"goes on":              {[]decision.HistoryEntry{off}, at(90), 50},
		"nobody has ended it":  {[]decision.HistoryEntry{off}, at(40), 30},
		"its begin is gone":    {[]decision.HistoryEntry{entry(5, decision.EventShifted, "b1", 0, 10), on}, time.Time{}, 20},
		"none":                 {[]decision.HistoryEntry{entry(5, decision.EventShifted, "b1", 0, 10)}, time.Time{}, 0},
		"it began before that": {[]decision.HistoryEntry{entry(-50, decision.EventDisarmed, "b1", 0, 0), on}, time.Time{}, 25},
	} {
		r := decision.Record{History: c.history}
		if !c.until.IsZero() {
			r.Status.Disarmed = &decision.Disarm{Until: c.until}
		}
		if got := Of("orders", r, start, at(60)).Disarmed; got != c.want*60 {
			t.Errorf("%s: %.0f s, want %.0f", name, got, c.want*60)
		}
	}
}

func TestADelayIsThatOfARollback(t *testing.T) {
	would, done := entry(10, decision.EventWould, "b1", 30, 30), entry(20, decision.EventRolledBack, "b1", 30, 0)
	would.Fired, done.Fired = would.At.Add(-10*time.Second), done.At.Add(time.Second) // Prometheus's clock is ahead
	g := Of("orders", decision.Record{History: []decision.HistoryEntry{would, done}}, start, start.Add(time.Hour))
	if total := (Report{Guards: []Guard{g}}).Total(); !reflect.DeepEqual(total.Delays, []time.Duration{0}) || *g.Rollbacks[0].Delay != 10 {
		t.Errorf("delays %v, of the would-be one %v", total.Delays, *g.Rollbacks[0].Delay)
	}
}

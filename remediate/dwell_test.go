package remediate

import (
	"testing"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
)

func TestAStopwatchHasSeenWhatChangedBeforeItsEyes(t *testing.T) {
	w := newDwellTimes()
	var run time.Duration
	w.elapsed = func() time.Duration { return run }
	now := at
	want := func(why string, movedAt time.Time, want decision.Watched) {
		t.Helper()
		if got := w.read("a", move{movedAt: movedAt}, now); got != want {
			t.Errorf("%s: %+v, want %+v", why, got, want)
		}
	}
	want("never looked", at, decision.Watched{})
	w.observed("a", move{movedAt: at.Add(-time.Hour)}, at)
	run += time.Minute
	want("found as it was", at.Add(-time.Hour), decision.Watched{})
	first := at.Add(time.Minute)
	want("written by another replica since", first, decision.Watched{Known: true})
	w.observed("a", move{movedAt: first}, first)
	run += time.Minute
	want("seen to change", first, decision.Watched{Known: true, For: time.Minute})
	want("put right by another replica", now.Add(-time.Minute-time.Second), decision.Watched{Known: true, For: time.Minute})
	want("seen later by another replica", now.Add(-time.Minute+5*time.Second), decision.Watched{Known: true, For: time.Minute - 5*time.Second})
	want("a minute later it was another change", now.Add(-time.Second), decision.Watched{Known: true})
	// By a wrong clock, the time of a new move may be that of the one before.
	if got := w.read("a", move{movedAt: now.Add(-time.Minute), weight: 10, low: 10}, now); got != (decision.Watched{Known: true}) {
		t.Errorf("other weights, whose time is that of the move before: %+v, want another change", got)
	}
	corrected := first.Add(time.Hour) // the clock was set an hour forward, and the record put right
	w.observed("a", move{movedAt: corrected}, corrected.Add(time.Minute))
	run, now = run+time.Minute, corrected.Add(2*time.Minute)
	want("put right", corrected, decision.Watched{Known: true, For: 2 * time.Minute})
	w.observed("a", move{movedAt: corrected.Add(time.Minute)}, corrected.Add(2*time.Minute))
	want("changed by another replica", corrected.Add(time.Minute), decision.Watched{Known: true})
	run, now = run+time.Minute, now.Add(time.Minute)
	w.observed("a", move{movedAt: now}, now)
	later := now.Add(5 * time.Second) // by the other replica's eyes
	run, now = run+time.Minute, now.Add(time.Minute)
	w.observed("a", move{movedAt: later}, now)
	run, now = run+time.Minute, now.Add(time.Minute)
	want("the later counts", later, decision.Watched{Known: true, For: now.Sub(later)})
	w.forget("a")
	want("forgotten", corrected.Add(time.Minute), decision.Watched{})
	w.observed("a", move{movedAt: at}, at)
	want("changed in the first pass", at, decision.Watched{Known: true})
	if got := (*dwellTimes)(nil).read("a", move{movedAt: at}, at); got != (decision.Watched{}) {
		t.Errorf("none at all: %+v", got)
	}
}

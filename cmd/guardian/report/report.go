package report

import (
	"slices"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
)

// Report is how the guards of a namespace have done between two times.
type Report struct {
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until"`
	Guards []Guard   `json:"guards"`
}

// Guard is one guard's part of a report.
type Guard struct {
	Name string `json:"guard"`
	// Begins is the oldest entry of its history, which keeps the newest 32 KiB, and of
	// remarks (Holds) a quarter of that: what happened before is not in the report.
	// Zero: nothing has happened.
	Begins    time.Time  `json:"begins,omitzero"`
	Observes  bool       `json:"observes"` // mode observe, now
	Releases  []Release  `json:"releases"`
	Rollbacks []Rollback `json:"rollbacks"` // done, or that mode observe kept from being done
	Holds     int        `json:"holds"`     // alerts that held a canary where it was; at least so many
	Blocked   int        `json:"blocked"`   // rollbacks that could not be done, or not at once
	Disarmed  float64    `json:"disarmedSeconds"`
}

// Release is a build of the canary that had traffic.
type Release struct {
	Build   string    `json:"build,omitempty"`
	Began   time.Time `json:"began"`   // its first traffic
	Highest int       `json:"highest"` // the most that it had, percent
	End     End       `json:"end"`
	EndedAt time.Time `json:"endedAt,omitzero"`
}

// End is how a release, or what came after a would-be rollback, ended.
type End string

// The ends.
const (
	EndServing    End = "serving"     // it has traffic still
	EndPromoted   End = "promoted"    // it has all traffic, within its rollback window
	EndCompleted  End = "completed"   // and that is over
	EndRolledBack End = "rolled-back" // by guardian
	EndTakenBack  End = "taken-back"  // others took its traffic
	EndReplaced   End = "replaced"    // by another build, while it had traffic
)

// Rollback is one that was done, or that mode observe kept from being done.
type Rollback struct {
	At     time.Time `json:"at"`
	Would  bool      `json:"would"` // it was not done
	From   int       `json:"from"`  // the canary's weight before, percent
	Build  string    `json:"build,omitempty"`
	Alert  string    `json:"alert,omitempty"`
	By     string    `json:"by,omitempty"`
	Reason string    `json:"reason"`
	// Fired is when the alert began to fire, by Prometheus's clock, and Delay how long
	// after it the write was seen to be done (of a would-be rollback: was decided), in
	// seconds; 0 where the clocks differ by more. Missing: no alert, or an entry of a
	// guardian that did not note it.
	Fired time.Time `json:"fired,omitzero"`
	Delay *float64  `json:"delaySeconds,omitempty"`

	Then   End       `json:"then,omitempty"` // of a would-be one: what its build did next
	ThenAt time.Time `json:"thenAt,omitzero"`
	Weight int       `json:"thenWeight,omitempty"` // the most that the build had after it, percent

	Mark *Mark `json:"mark,omitempty"` // what a person has said of it
}

// Mark is a person's verdict on a rollback.
type Mark struct {
	Wrong  bool      `json:"wrong"`
	By     string    `json:"by"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
}

// Of reads one guard's history, which is sorted from its oldest entry on. What
// happened before since is read too: a release may have begun earlier.
func Of(name string, r decision.Record, since, now time.Time) Guard {
	g := Guard{Name: name, Observes: r.Status.Observing != nil, Releases: []Release{}, Rollbacks: []Rollback{}}
	if len(r.History) > 0 {
		g.Begins = r.History[0].At
	}
	for _, release := range releases(r.History) {
		if release.EndedAt.IsZero() || release.EndedAt.After(since) {
			g.Releases = append(g.Releases, release)
		}
	}
	blocked := false // one goes on, which is told anew with each reason
	for i, e := range r.History {
		was := blocked
		blocked = blockedAfter(e.Event, was)
		times, last := e.Count()
		before, held := e.At.Before(since), e.Event == decision.EventNoted && e.State == decision.StateHeld
		if last.Before(since) {
			continue
		}
		switch {
		case e.Event.IsRollback():
			g.Rollbacks = append(g.Rollbacks, rollback(e, r.History[i+1:]))
		case blocked && !was && !before:
			g.Blocked++
		case held && before:
			g.Holds++ // how many of them came since is not known
		case held:
			g.Holds += times
		}
	}
	if x := r.Status.Disarmed; x != nil && x.Until.Before(now) { // nobody has ended it: no guardian looks after the guard
		now = x.Until
	}
	g.Disarmed = disarmed(r.History, since, now).Seconds()
	return g
}

// blockedAfter says whether a rollback is blocked after an event, by whether one was before.
func blockedAfter(e decision.Event, was bool) bool {
	switch e {
	case decision.EventBlocked, decision.EventWouldBlocked:
		return true
	case decision.EventRolledBack, decision.EventWould, decision.EventNewBuild, decision.EventUnlocked:
		return false
	}
	return was
}

// releases follows the builds that had traffic.
func releases(history []decision.HistoryEntry) []Release {
	var out []Release
	open := false // the last one goes on
	for _, e := range history {
		how, over := endBy(e)
		if how == EndReplaced && open {
			out[len(out)-1].End, out[len(out)-1].EndedAt, open = how, e.At, false
		}
		if e.To > 0 && !open && (moves(e) || how == EndReplaced) { // a build may come under the canary's traffic
			out, open = append(out, Release{Build: e.Build, Began: e.At, End: EndServing}), true
		}
		if !open {
			continue
		}
		r := &out[len(out)-1]
		r.Highest = max(r.Highest, e.To)
		if how == "" || how == EndReplaced {
			continue
		}
		if r.End = how; over {
			r.EndedAt, open = e.At, false
		}
	}
	return out
}

// endBy is how the traffic of a build has gone on by an entry; empty: it says nothing
// of that. over says that the build has none any more, or that it counts no more.
func endBy(e decision.HistoryEntry) (how End, over bool) {
	switch {
	case e.Event == decision.EventNewBuild:
		return EndReplaced, true
	case e.Event == decision.EventRolledBack:
		return EndRolledBack, true
	case e.Event == decision.EventCompleted:
		return EndCompleted, true
	case e.Event == decision.EventPromoted:
		return EndPromoted, false
	case moves(e) && e.To == 0:
		return EndTakenBack, true
	case moves(e) && e.To < 100:
		return EndServing, false
	}
	return "", false
}

// moves says of an entry that traffic moved.
func moves(e decision.HistoryEntry) bool {
	return e.Event == decision.EventShifted || e.Event == decision.EventStep || e.Event == decision.EventPromoted || e.Event == decision.EventUnverified
}

func isMark(e decision.HistoryEntry) bool {
	return e.Event == decision.EventMarkedWrong || e.Event == decision.EventMarkedRight
}

// rollback is what e tells of, with what came after it.
func rollback(e decision.HistoryEntry, after []decision.HistoryEntry) Rollback {
	r := Rollback{At: e.At, Would: e.Event == decision.EventWould, From: e.From, Build: e.Build, Alert: e.Alert, By: e.By, Reason: e.Reason, Fired: e.Fired}
	if !e.Fired.IsZero() {
		r.Delay = new(max(0, e.At.Sub(e.Fired).Seconds())) // two clocks
	}
	for _, m := range after {
		if isMark(m) && m.Of.Equal(e.At) {
			r.Mark = &Mark{Wrong: m.Event == decision.EventMarkedWrong, By: m.By, Reason: m.Reason, At: m.At}
		}
	}
	if r.Would {
		r.Then, r.ThenAt, r.Weight = next(after, e.To)
	}
	return r
}

// next is what a build did that would have been rolled back with weight percent.
func next(after []decision.HistoryEntry, weight int) (how End, at time.Time, most int) {
	how, most = EndServing, weight
	for _, e := range after {
		end, over := endBy(e)
		if end != EndReplaced { // that is another's weight
			most = max(most, e.To)
		}
		switch end {
		case "":
		case EndServing:
			how, at = end, time.Time{}
		default:
			how, at = end, e.At
		}
		if over {
			return how, at, most
		}
	}
	return how, at, most
}

// disarmed is how long the brake was off between two times.
func disarmed(history []decision.HistoryEntry, since, now time.Time) (sum time.Duration) {
	var from time.Time
	if i := slices.IndexFunc(history, func(e decision.HistoryEntry) bool {
		return e.Event == decision.EventDisarmed || e.Event == decision.EventArmed
	}); i >= 0 && history[i].Event == decision.EventArmed {
		from = history[0].At // its begin has been pushed out
	}
	add := func(to time.Time) {
		if from.Before(since) {
			from = since
		}
		if to.After(from) {
			sum += to.Sub(from)
		}
		from = time.Time{}
	}
	for _, e := range history {
		switch {
		case e.Event == decision.EventDisarmed && from.IsZero():
			from = e.At
		case e.Event == decision.EventArmed && !from.IsZero():
			add(e.At)
		}
	}
	if !from.IsZero() {
		add(now)
	}
	return sum
}

// Total is the sum over guards.
type Total struct {
	Releases, Done, Would, Wrong, Right, Holds, Blocked int
	Disarmed                                            time.Duration
	Delays                                              []time.Duration // of those done, sorted
}

// Total sums up.
func (r Report) Total() (t Total) {
	for _, g := range r.Guards {
		t.Releases, t.Holds, t.Blocked = t.Releases+len(g.Releases), t.Holds+g.Holds, t.Blocked+g.Blocked
		t.Disarmed += time.Duration(g.Disarmed * float64(time.Second))
		for _, b := range g.Rollbacks {
			t.add(b)
		}
	}
	slices.Sort(t.Delays)
	return t
}

func (t *Total) add(b Rollback) {
	if b.Would {
		t.Would++
	} else {
		t.Done++
	}
	if !b.Would && b.Delay != nil {
		t.Delays = append(t.Delays, time.Duration(*b.Delay*float64(time.Second)))
	}
	switch {
	case b.Mark == nil:
	case b.Mark.Wrong:
		t.Wrong++
	default:
		t.Right++
	}
}

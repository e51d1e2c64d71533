package decision

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// asksAs is a request of ann's that has an id.
func asksAs(action RequestAction, id string) but {
	return func(in *Input) {
		asks(action)(in)
		in.Record.Request.ID = id
	}
}

// carried has the change of weights that is under way carry out a request of bob's.
func carried(in *Input) { in.Record.Status.Moving.Requests = []Asker{{"id-of-bob", "bob"}} }

// answersOf is answers in short, as "id action by: result, text".
func answersOf(r Record) string {
	var out []string
	for _, a := range r.Answers {
		out = append(out, fmt.Sprintf("%s %s %s: %s, %s", a.ID, a.Action, a.By, a.Result, a.Text))
	}
	return strings.Join(out, "; ")
}

func TestEachRequestIsAnsweredOnce(t *testing.T) {
	const id = "id-of-ann"
	person := unseenStep("bob", time.Minute)
	for name, tc := range map[string]struct {
		edits []but
		want  string // all answers; empty: none
		stays string // ids that are under way, or wait on the record
	}{
		"pause":                       {[]but{asksAs(RequestPause, id)}, "id-of-ann pause ann: done, paused: because", ""},
		"without an id":               {[]but{asks(RequestPause)}, " pause ann: done, paused: because", ""},
		"resume":                      {[]but{paused, asksAs(RequestResume, id), live}, "id-of-ann resume ann: done, resumed: because", ""},
		"resume waits for live reads": {[]but{paused, asksAs(RequestResume, id)}, "", id},
		"resume that an annotation is against": {[]but{paused, pausedOnVS, asksAs(RequestResume, id), live},
			"id-of-ann resume ann: refused, resume refused: annotation " + AnnotationPaused + " stands on the VirtualService; remove it first", ""},
		"unlock":                       {[]but{locked(LockBuild), asksAs(RequestUnlock, id), live}, "id-of-ann unlock ann: done, unlocked: because", ""},
		"unlock of what is not locked": {[]but{asksAs(RequestUnlock, id), live}, "id-of-ann unlock ann: refused, unlock refused: orders-service is not locked", ""},
		"unlock while an alert begins, by Prometheus's clock": {[]but{locked(LockBuild), wasIn(StateBlocked, 50), asksAs(RequestUnlock, id), live, fires(ActionRollback, "CanaryErrors", -time.Second)},
			"id-of-ann unlock ann: superseded, superseded: the lock was lifted, and is set again: CanaryErrors: 7% of requests fail", ""},
		"disarm": {[]but{asksDisarm(0, time.Hour), func(in *Input) { in.Record.Request.ID = id }}, "id-of-ann disarm ann: done, disarmed: no rollback until 2026-03-02T10:00:00Z: because", ""},
		"disarm without an end": {[]but{asksAs(RequestDisarm, id)},
			"id-of-ann disarm ann: refused, disarm refused: it has no end (request.until): a disarm ends by itself", ""},
		"arm":               {[]but{disarmed(time.Hour), asksAs(RequestArm, id)}, "id-of-ann arm ann: done, armed: because", ""},
		"what nobody knows": {[]but{asksAs("dance", id)}, "id-of-ann dance ann: refused, request \"dance\" refused: want rollback, unlock, pause, resume, promote, disarm, arm, mark-wrong or mark-right", ""},
		"a mark of nothing": {[]but{asksAs(RequestMarkWrong, id)}, "id-of-ann mark-wrong ann: refused, mark-wrong refused: the history has no rollback, and none that would have been one, at 0001-01-01T00:00:00Z", ""},
		"an id that another had": {[]but{asksAs(RequestPause, id), func(in *Input) { in.Record.Answers = []Answer{{ID: id, Result: ResultDone}} }},
			"id-of-ann  : done, ;  pause ann: refused, request refused: key request.id is \"id-of-ann\", which another request had: want one of its own", ""},

		"a rollback is under way":             {[]but{asksAs(RequestRollback, id)}, "", id},
		"a rollback that is blocked":          {[]but{asksAs(RequestRollback, id), stableReady(0)}, "", id},
		"and has no lock: it waits":           {[]but{asksAs(RequestRollback, id), stableReady(0), lockKind(LockNone)}, "", id},
		"a rollback with nothing to move":     {[]but{gets(0), asksAs(RequestRollback, id)}, "id-of-ann rollback ann: done, rolled-back: because", ""},
		"a rollback that was seen to be done": {[]but{locked(LockBuild), underWay(50), gets(0), carried}, "id-of-bob rollback bob: done, rolled-back: CanaryErrors: 7%", ""},
		"a rollback of what is locked":        {[]but{locked(LockBuild), asksAs(RequestRollback, id)}, "id-of-ann rollback ann: refused, rollback refused: locked: CanaryErrors: 7% of requests fail", ""},
		"a rollback joins one without a lock": {[]but{lockKind(LockNone), underWay(50), carried, asksAs(RequestRollback, id)}, "", "id-of-bob id-of-ann"},
		"a rollback that is lifted first": {[]but{locked(LockBuild), underWay(50), carried, stableReady(0), asksAs(RequestUnlock, id), live},
			"id-of-bob rollback bob: superseded, superseded before it was seen to be done: unlocked by ann: because; id-of-ann unlock ann: done, unlocked: because", ""},
		"a rollback that nothing asks for any more": {[]but{lockKind(LockNone), underWay(50), carried},
			"id-of-bob rollback bob: refused, the rollback was not done: nothing asks for it any more", ""},

		"a step is under way":                 {[]but{advancing(10), asksAs(RequestPromote, id)}, "", id},
		"a step from a cache":                 {[]but{advancing(10), fromCache, asksAs(RequestPromote, id)}, "", id},
		"a step while others are asked about": {[]but{advancing(10), asksAs(RequestPromote, id), func(in *Input) { in.Busy = true }}, "", id},
		"a step that is refused":              {[]but{advancing(10), asksAs(RequestPromote, id), heartbeat(time.Hour)}, "id-of-ann promote ann: refused, promote refused: waiting: no heartbeat for longer than 3m0s; is the alert chain broken?", ""},
		"a step that was seen":                {[]but{advancing(10), person, carried, gets(30)}, "id-of-bob promote bob: done, step: step to 30%", ""},
		"a step of two":                       {[]but{advancing(10), person, carried, asksAs(RequestPromote, id)}, "", "id-of-bob id-of-ann"},
		"a step that was not made":            {[]but{advancing(10), mode(PromotionOff), unseenStep("bob", time.Hour), carried}, "id-of-bob promote bob: refused, the step to 30% was not made", ""},
		"a step, and others moved":            {[]but{advancing(10), person, carried, gets(70)}, "id-of-bob promote bob: refused, the step to 30% was not made: others moved the canary to 70%", ""},
		"a step, and an alert": {[]but{advancing(10), person, carried, bad},
			"id-of-bob promote bob: superseded, superseded before it was seen to be done: rolling back: CanaryErrors: 7% of requests fail", ""},
		"a step in the instant of an alert": {[]but{advancing(10), asksAs(RequestPromote, id), bad}, "id-of-ann promote ann: refused, promote refused: an alert rolls back", ""},
		"mode observe": {[]but{asksAs(RequestRollback, id), observes(time.Hour)},
			"id-of-ann rollback ann: refused, rollback refused: mode observe writes no VirtualService; set mode: enforce, or move the traffic yourself", ""},

		"in another's place": {[]but{asksAs(RequestPause, id), replaces("id-of-dan", "id-of-eve")},
			"id-of-ann pause ann: done, paused: because; id-of-dan  : superseded, superseded by ann's pause: because; id-of-eve  : superseded, superseded by ann's pause: because", ""},
		"in the place of one that is answered": {[]but{asksAs(RequestPause, id), replaces("id-of-dan"), func(in *Input) { in.Record.Answers = []Answer{{ID: "id-of-dan", Result: ResultDone}} }},
			"id-of-dan  : done, ; id-of-ann pause ann: done, paused: because", ""},
		"in the place of one that is under way": {[]but{lockKind(LockNone), underWay(50), carried, asksAs(RequestRollback, id), replaces("id-of-bob")}, "", "id-of-bob id-of-ann"},
	} {
		t.Run(name, func(t *testing.T) {
			in := given(tc.edits...)
			before := in.Record.Data()
			d := Decide(in, at)
			if got := answersOf(d.Record); got != tc.want {
				t.Errorf("answers\n%s\nwant\n%s", got, tc.want)
			}
			var stays []string
			if m := d.Record.Status.Moving; m != nil {
				for _, a := range m.Requests {
					stays = append(stays, a.ID)
				}
			}
			if q := d.Record.Request; q != nil {
				stays = append(stays, q.ID)
			}
			if got := strings.Join(stays, " "); got != tc.stays {
				t.Errorf("under way or waiting: %q, want %q", got, tc.stays)
			}
			if !maps.Equal(in.Record.Data(), before) {
				t.Error("the input was edited")
			}
		})
	}
}

func replaces(ids ...string) but { return func(in *Input) { in.Record.Request.Replaces = ids } }

func TestAnswersAreBounded(t *testing.T) {
	var r Record
	for i := range 3 * MaxAnswers {
		r.Answer(Answer{ID: fmt.Sprintf("request-%d", i), Action: RequestPause, By: "ann", Result: ResultDone, At: at, Text: "paused: lunch"})
	}
	r.Answer(Answer{ID: "request-47", Result: ResultRefused})
	if len(r.Answers) != MaxAnswers || r.Answers[0].ID != "request-32" || r.Answers[MaxAnswers-1].Result != ResultDone {
		t.Errorf("%d answers, from %s: want the last %d, each once", len(r.Answers), r.Answers[0].ID, MaxAnswers)
	}
	for i := range r.Answers {
		r.Answers[i] = Answer{ID: strings.Repeat("i", 36), Action: RequestRollback, By: "system:serviceaccount:microservices:deployer", Result: ResultDone, At: at, Text: strings.Repeat("x", maxShort)}
	}
	if again, _ := ReadData(r.Data(), false); len(again.Answers) != MaxAnswers {
		t.Errorf("%d answers with long reasons are left, want %d", len(again.Answers), MaxAnswers)
	}
	for i := range r.Answers {
		long := strings.Repeat("\x01\"<", 1000)
		r.Answers[i] = Answer{ID: strings.Repeat("i", 64), Action: RequestAction(Shorten(long)), By: Shorten(long), Result: ResultRefused, At: at, Text: Shorten(long)}
	}
	text := r.Data()[KeyAnswers]
	again, bad := ReadData(r.Data(), false)
	if len(text) > MaxAnswersBytes || len(bad) > 0 || len(again.Answers) == 0 {
		t.Errorf("%d bytes, %d answers, not readable: %v; want at most %d bytes, and the last ones", len(text), len(again.Answers), bad, MaxAnswersBytes)
	}
	if last := again.Answers[len(again.Answers)-1]; last != r.Answers[MaxAnswers-1] {
		t.Errorf("the last answer is %+v", last)
	}
}

func TestAnAnswerIsOfOneUsersRequest(t *testing.T) {
	q := Request{Action: RequestPause, By: "ann", ID: "id-of-ann"}
	for name, tc := range map[string]struct {
		answer Answer
		is     bool
	}{
		"its own":              {Answer{ID: q.ID, Action: RequestPause, By: "ann", Result: ResultDone}, true},
		"another user's":       {Answer{ID: q.ID, Action: RequestPause, By: "eve", Result: ResultDone}, false},
		"another action's":     {Answer{ID: q.ID, Action: RequestResume, By: "ann", Result: ResultDone}, false},
		"another id's":         {Answer{ID: "id-of-bob", Action: RequestPause, By: "ann", Result: ResultDone}, false},
		"replaced before seen": {Answer{ID: q.ID, Result: ResultSuperseded}, true},
		"done, and nobody's":   {Answer{ID: q.ID, Result: ResultDone}, false},
	} {
		if got := (Record{Answers: []Answer{tc.answer}}).AnswerTo(q); (got != nil) != tc.is {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if got := (Record{Answers: []Answer{{Action: RequestPause, By: "ann"}}}).AnswerTo(Request{Action: RequestPause, By: "ann"}); got != nil {
		t.Errorf("a request without an id is answered by %+v", got)
	}
}

func TestARequestInsteadOfOthersNamesTheLast(t *testing.T) {
	var on *Request
	for i := range 7 {
		q := Request{ID: fmt.Sprintf("request-%d", i)}
		if i == 2 {
			q.ID = "" // by hand
		}
		q = q.Instead(on)
		on = &q
	}
	if want := []string{"request-1", "request-3", "request-4", "request-5"}; !slices.Equal(on.Replaces, want) {
		t.Errorf("in the place of %v, want %v", on.Replaces, want)
	}
}

func TestTheRequestsOfAChangeOfWeightsAreBounded(t *testing.T) {
	s := tell(t, lockKind(LockNone), underWay(50))
	for i := range 2 * MaxAnswers {
		d := s.then(time.Millisecond, asksAs(RequestRollback, fmt.Sprintf("request-%d", i)), gets(50))
		if d.Record.Request != nil {
			t.Fatalf("request %d waits", i)
		}
	}
	r := s.in.Record
	if m := r.Status.Moving; m == nil || len(m.Requests) != MaxAnswers || m.Requests[0].ID != fmt.Sprintf("request-%d", MaxAnswers) {
		t.Fatalf("under way: %+v", m)
	}
	want := Answer{ID: "request-0", Action: RequestRollback, By: "ann", Result: ResultSuperseded}
	if len(r.Answers) != MaxAnswers || r.Answers[0].ID != want.ID || r.Answers[0].Result != want.Result || r.Answers[0].By != want.By || r.Answers[0].Action != want.Action {
		t.Errorf("answers %s", answersOf(r))
	}
}

func TestAnIDThatIsUnderWayIsTaken(t *testing.T) {
	s := tell(t, lockKind(LockNone), underWay(50), carried)
	d := s.then(time.Second, asks(RequestPause), func(in *Input) { in.Record.Request.By, in.Record.Request.ID = "eve", "id-of-bob" }, gets(0))
	if d.Record.Status.Paused != nil || answersOf(d.Record) == "" {
		t.Fatalf("paused %+v, answers %s", d.Record.Status.Paused, answersOf(d.Record))
	}
	bobs := Request{Action: RequestRollback, By: "bob", ID: "id-of-bob"}
	if a := d.Record.AnswerTo(bobs); a == nil || a.Result != ResultDone {
		t.Errorf("bob is answered by %+v of %s", a, answersOf(d.Record))
	}
}

func TestARequestThatIsWrittenAgainWhileItIsUnderWayIsOne(t *testing.T) {
	s := tell(t, locked(LockBuild), underWay(50), carried)
	d := s.then(time.Second, asks(RequestRollback), func(in *Input) { in.Record.Request.By, in.Record.Request.ID = "bob", "id-of-bob" })
	if r := d.Record; r.Request != nil || len(r.Answers) > 0 || len(r.Status.Moving.Requests) != 1 {
		t.Errorf("request %+v, answers %s, moving %+v", r.Request, answersOf(r), r.Status.Moving)
	}
}

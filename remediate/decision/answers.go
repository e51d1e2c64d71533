package decision

import (
	"fmt"
	"slices"
)

// Answer adds an answer to the record. A request has one alone.
func (r *Record) Answer(a Answer) {
	if r.answered(a.ID) {
		return
	}
	a.Text = Shorten(a.Text)
	if r.Answers = append(r.Answers, a); len(r.Answers) > MaxAnswers {
		r.Answers = slices.Delete(r.Answers, 0, len(r.Answers)-MaxAnswers)
	}
}

func (r Record) answered(id string) bool {
	return id != "" && slices.ContainsFunc(r.Answers, func(a Answer) bool { return a.ID == id })
}

// AnswerTo is the answer to a request that has an id; nil: the record has none. An
// answer to another user's request of the same id is none.
func (r Record) AnswerTo(q Request) *Answer {
	for _, a := range slices.Backward(r.Answers) {
		unseen := a.Action == "" && a.By == "" && a.Result == ResultSuperseded
		if q.ID != "" && a.ID == q.ID && (unseen || a.Action == q.Action && a.By == Shorten(q.By)) {
			return &a
		}
	}
	return nil
}

// Superseded says whose request took another's place.
func Superseded(by Request) string {
	return fmt.Sprintf("superseded by %s's %s: %s", Shorten(by.By), Shorten(string(by.Action)), Shorten(by.Reason))
}

// answer says what became of a request that this pass has taken off the record.
func (d *decider) answer(q Request, result Result, text string) {
	d.rec.Answer(Answer{ID: q.ID, Action: q.Action, By: q.By, Result: result, At: d.now, Text: text})
}

// fulfil tells that what was asked for is so.
func (d *decider) fulfil(q *Request, event Event, text string) {
	d.note(event, q.By, text)
	d.answer(*q, ResultDone, string(event)+": "+text)
}

// refuseRequest tells that a request is not carried out.
func (d *decider) refuseRequest(q *Request, text string) {
	d.note(EventRefused, q.By, text)
	d.answer(*q, ResultRefused, text)
}

// answerReplaced answers the requests whose place one has taken on the record. What
// is answered, or under way, was seen before that.
func (d *decider) answerReplaced(by Request) {
	for _, id := range by.Replaces {
		if !d.rec.Status.Moving.hasID(id) {
			d.rec.Answer(Answer{ID: id, Result: ResultSuperseded, At: d.now, Text: Superseded(by)})
		}
	}
}

// carry has the change of weights that is under way answer the request that was
// taken, if it is what that asks for.
func (d *decider) carry() {
	q, m := d.taken, d.rec.Status.Moving
	if q == nil || q.Action != m.Action() {
		return
	}
	d.taken = nil
	a := Asker{q.ID, q.By}
	if slices.Contains(m.Requests, a) {
		return
	}
	if len(m.Requests) >= MaxAnswers { // the record has to stay small, and has no more answers
		first := m.Requests[0]
		m.Requests = slices.Delete(m.Requests, 0, 1)
		d.answer(Request{ID: first.ID, Action: m.Action(), By: first.By}, ResultSuperseded,
			fmt.Sprintf("superseded: %d others have asked for the same since, and it is under way", MaxAnswers))
	}
	m.Requests = append(m.Requests, a)
}

// endMoving forgets the change of weights that is under way, if there is one, and
// answers the requests that it was to carry out.
func (d *decider) endMoving(result Result, text string) {
	m := d.rec.Status.Moving
	if m == nil {
		return
	}
	d.rec.Status.Moving = nil
	for _, a := range m.Requests {
		d.answer(Request{ID: a.ID, Action: m.Action(), By: a.By}, result, text)
	}
}

// supersede is endMoving for something else that takes its place.
func (d *decider) supersede(by string) {
	d.endMoving(ResultSuperseded, "superseded before it was seen to be done: "+by)
}

// answerTaken answers what nothing has answered and nothing carries out.
func (d *decider) answerTaken() {
	q, l := d.taken, d.rec.Lock
	switch {
	case q == nil:
	case q.Action != RequestUnlock:
		d.answer(*q, ResultRefused, string(q.Action)+" refused: "+d.rec.Status.Reason)
	case l != nil:
		d.answer(*q, ResultSuperseded, "superseded: the lock was lifted, and is set again: "+l.Reason)
	default:
		d.answer(*q, ResultDone, string(EventUnlocked)+": "+q.Reason)
	}
}

// dropAsked records that what a person asked for is not carried out. The request of
// one that was under way is answered by what becomes of that: see resumeStep.
func (d *decider) dropAsked(why string) {
	if d.asked == nil {
		return
	}
	if d.taken == d.asked && d.rec.Status.Moving.Carries(*d.taken) { // written again, for an API server's answer was lost
		d.asked, d.taken = nil, nil
		return
	}
	text := string(d.asked.Action) + " refused: " + why
	if d.note(EventRefused, d.asked.By, text); d.taken == d.asked {
		d.answer(*d.taken, ResultRefused, text)
		d.taken = nil
	}
	d.asked = nil
}

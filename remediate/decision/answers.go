package decision

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Result is what became of a request: one of a closed set.
type Result string

// The results of a request.
const (
	ResultDone       Result = "done"       // what was asked for is so
	ResultRefused    Result = "refused"    // it was not carried out
	ResultSuperseded Result = "superseded" // something else took its place before it was seen to be done
)

// Answer is what became of a request. It stands in the record from the write on
// that takes the request off it, or, of one that moves traffic, from the write on
// that tells that traffic has moved, or will not.
type Answer struct {
	ID     string        `json:"id,omitempty"`     // of the request; empty: it had none
	Action RequestAction `json:"action,omitempty"` // as By: empty of a request that another took off the record before guardian saw it
	By     string        `json:"by,omitempty"`
	Result Result        `json:"result"`
	At     time.Time     `json:"at"` // by guardian's clock
	Text   string        `json:"text"`
}

// The most of a record's answers. The oldest go first.
const (
	MaxAnswers      = 16
	MaxAnswersBytes = MaxHistoryBytes / 2
)

// maxReplaced is of how many requests one takes the place, at most.
const maxReplaced = 4

// Asker is whose request a change of weights carries out.
type Asker struct {
	ID string `json:"id,omitempty"` // of the request; empty: it has none
	By string `json:"by"`
}

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

// answersText is the answers as JSON, without the oldest that do not fit; empty:
// there are none.
func answersText(answers []Answer) string {
	entries, size := make([][]byte, len(answers)), 1
	for i, a := range answers {
		b, err := json.Marshal(a)
		if err != nil { // no field of an answer can fail to marshal
			panic(fmt.Sprintf("marshal answer: %v", err))
		}
		entries[i], size = b, size+len(b)+1
	}
	for size > MaxAnswersBytes {
		size -= len(entries[0]) + 1
		entries = entries[1:]
	}
	if len(entries) == 0 {
		return ""
	}
	return "[" + string(bytes.Join(entries, []byte(","))) + "]"
}

// Superseded says whose request took another's place.
func Superseded(by Request) string {
	return fmt.Sprintf("superseded by %s's %s: %s", Shorten(by.By), Shorten(string(by.Action)), Shorten(by.Reason))
}

// Action is what the requests ask for that a change of weights carries out.
func (m Moving) Action() RequestAction {
	if m.Step > 0 {
		return RequestPromote
	}
	return RequestRollback
}

// Carries says that a change of weights that is under way, if there is one, carries
// out a request that has an id.
func (m *Moving) Carries(q Request) bool {
	return m != nil && q.ID != "" && m.Action() == q.Action && slices.Contains(m.Requests, Asker{q.ID, Shorten(q.By)})
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

// hasID says that a change of weights that is under way, if there is one, carries out a
// request of this id.
func (m *Moving) hasID(id string) bool {
	return m != nil && id != "" && slices.ContainsFunc(m.Requests, func(a Asker) bool { return a.ID == id })
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

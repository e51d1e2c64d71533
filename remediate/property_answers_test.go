package remediate

import (
	"fmt"
	"slices"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	"pgregory.net/rapid"
)

// asking is a request that somebody has made and waits for.
type asking struct {
	decision.Request
	since    int  // version of the world then
	answered bool // once, in a record that the API server took
	lost     bool // taken off by somebody who does not say so: nobody can answer it
}

// asks is what a person writes into the record: by the command, with an id, or by
// hand.
func (m *machine) asks(q decision.Request) {
	if m.w.cm == nil {
		return
	}
	was := m.parsed().Request
	how := rapid.SampledFrom([]string{"by the command", "by the command", "by the command, not saying whose place it takes", "by hand"}).Draw(m.t, "asks")
	if how != "by hand" {
		q.ID = fmt.Sprintf("request-%d", len(m.asked))
	}
	if how == "by the command" {
		q = q.Instead(was)
	}
	m.forgetAsked(was, q.Replaces)
	cm := m.w.cm.DeepCopy()
	ask(cm, q)
	cm.ResourceVersion = m.w.next()
	m.w.cm = cm
	if q.ID != "" {
		m.asked = append(m.asked, &asking{Request: q, since: m.w.version})
	}
}

// forgetAsked marks what no record tells of any more: the request that was taken off,
// and those that it has taken off, but for the named.
func (m *machine) forgetAsked(was *decision.Request, but []string) {
	if was == nil {
		return
	}
	for _, a := range m.asked {
		if a.ID == was.ID || slices.Contains(was.Replaces, a.ID) {
			a.lost = a.lost || !slices.Contains(but, a.ID)
		}
	}
}

// loseAsked is a record that is gone, with all requests that it told of.
func (m *machine) loseAsked() {
	for _, a := range m.asked {
		a.lost = true
	}
}

// checkAnswers holds the answers that a record has gained against who has asked, and
// against the record and the traffic that the API server has.
func (m *machine) checkAnswers(was, is decision.Record) {
	for _, a := range newAnswers(was.Answers, is.Answers) {
		if a.ID == "" {
			continue
		}
		i := slices.IndexFunc(m.asked, func(q *asking) bool { return q.ID == a.ID })
		switch {
		case i < 0:
			m.t.Fatalf("nobody has asked for what is answered: %+v", a)
		case m.asked[i].answered:
			m.t.Fatalf("answered for the second time: %+v", a)
		case is.AnswerTo(m.asked[i].Request) == nil:
			m.t.Fatalf("the answer %+v is not one to %+v", a, m.asked[i].Request)
		case a.Result == decision.ResultDone && !m.isSo(*m.asked[i], a, is):
			m.t.Fatalf("it is not so: %+v; status %+v, lock %+v, the canary has had %+v", a, is.Status, is.Lock, m.truths)
		}
		m.asked[i].answered = true
	}
	if q := is.Request; q != nil && is.AnswerTo(*q) != nil {
		m.t.Fatalf("%+v is answered, and stands on the record", q)
	}
}

// isSo says whether what was asked for is so in the record, or has been so in the
// traffic since.
func (m *machine) isSo(q asking, a decision.Answer, r decision.Record) bool {
	switch q.Action {
	case decision.RequestPause:
		return r.Status.Paused != nil && r.Status.Paused.By == q.By
	case decision.RequestResume:
		return r.Status.Paused == nil
	case decision.RequestUnlock:
		return r.Lock == nil
	case decision.RequestDisarm:
		return r.Status.Disarmed != nil
	case decision.RequestArm:
		return r.Status.Disarmed == nil
	case decision.RequestRollback:
		return m.was(q.since, virtualservice.Traffic.Clean)
	case decision.RequestPromote:
		var weight int
		_, err := fmt.Sscanf(a.Text, "step: step to %d%%", &weight)
		return err == nil && weight > 0 && m.was(q.since, func(t virtualservice.Traffic) bool { return t.Lowest >= weight })
	}
	return q.Action == decision.RequestMarkWrong
}

// newAnswers are those that a list has gained.
func newAnswers(was, is []decision.Answer) []decision.Answer {
	for n := range is {
		old := is[:len(is)-n]
		if len(old) <= len(was) && slices.Equal(old, was[len(was)-len(old):]) {
			return is[len(old):]
		}
	}
	return is
}

// checkAnswered: when all is calm, whoever has asked has an answer, unless it waits
// or is under way.
func (m *machine) checkAnswered(rec decision.Record) {
	for _, a := range m.asked {
		waits := rec.Request != nil && (rec.Request.ID == a.ID || slices.Contains(rec.Request.Replaces, a.ID))
		if !a.answered && !a.lost && !waits && !rec.Status.Moving.Carries(a.Request) {
			m.t.Fatalf("nobody answers %+v; status %+v, answers %+v", a.Request, rec.Status, rec.Answers)
		}
	}
}

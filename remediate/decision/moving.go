package decision

import (
	"fmt"
	"slices"
	"time"
)

// Moving is a change of the canary's weight that guardian has decided on. It
// stands in the record until the API server has been seen to have it: until then
// nothing says that it has happened.
type Moving struct {
	To      int       `json:"to"`             // the canary's weight after it, percent
	From    int       `json:"from"`           // and before
	Step    int       `json:"step,omitempty"` // weight of the step that asks for it; 0: a rollback
	At      time.Time `json:"at"`
	By      string    `json:"by"` // as in the history
	Build   string    `json:"build,omitempty"`
	Reason  string    `json:"reason,omitempty"`
	Alert   string    `json:"alert,omitempty"`
	Signal  string    `json:"signal,omitempty"`  // what guardian_rollbacks_total counts it as
	Again   bool      `json:"again,omitempty"`   // of a canary that was locked and at 0 before
	Begins  bool      `json:"begins,omitempty"`  // a step of a build that the scheduler was not to move forward before
	Refused string    `json:"refused,omitempty"` // what the API server has answered to the last try
	Receipt *Receipt  `json:"receipt,omitempty"` // of a rollback, as far as it is known when it is decided

	Requests []Asker `json:"requests,omitempty"` // whose requests it carries out, and answers when it is done or given up
}

// Asker is whose request a change of weights carries out.
type Asker struct {
	ID string `json:"id,omitempty"` // of the request; empty: it has none
	By string `json:"by"`
}

func (m Moving) clone() *Moving {
	if m.Receipt != nil {
		m.Receipt = m.Receipt.clone()
	}
	m.Requests = slices.Clone(m.Requests)
	return &m
}

// RollsBack says that the change of weights that is under way, if there is one, is a
// rollback.
func (m *Moving) RollsBack() bool { return m != nil && m.Step == 0 }

// StepsTo says that the change of weights that is under way, if there is one, is a step
// to weight percent.
func (m *Moving) StepsTo(weight int) bool { return m != nil && m.Step > 0 && m.To == weight }

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

// hasID says that a change of weights that is under way, if there is one, carries out a
// request of this id.
func (m *Moving) hasID(id string) bool {
	return m != nil && id != "" && slices.ContainsFunc(m.Requests, func(a Asker) bool { return a.ID == id })
}

func notDone(why string) string { return "not done: " + why }

func refusedStep(m *Moving) string {
	return fmt.Sprintf("waiting: the step to %d%% is %s", m.Step, notDone(m.Refused))
}

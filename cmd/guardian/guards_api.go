package main

import (
	"context"
	"fmt"
	"time"

	"github.com/canary-guardian/guardian/alerting"
	"github.com/canary-guardian/guardian/remediate"
	"github.com/canary-guardian/guardian/remediate/decision"
)

// guardJSON is a guard as the metrics port shows it. That port asks nobody for a
// proof, since a kubelet has none; so it says where a guard stands, as the metrics do,
// and nothing that a person has written: no names, no reasons, no texts of alerts.
// Those are in the records, and on the page where there is one.
type guardJSON struct {
	Name       string          `json:"name"`
	Seen       bool            `json:"seen"` // false: not looked at since this replica started
	Lock       *guardLockJSON  `json:"lock,omitempty"`
	Unrecorded bool            `json:"unrecorded,omitempty"` // a rollback was done, and its record could not be written
	Failing    bool            `json:"failing,omitempty"`    // the last look at it failed: Status is of before
	Status     guardStatusJSON `json:"status"`
}

type guardLockJSON struct {
	Kind   decision.LockKind `json:"kind"`
	Build  string            `json:"build"`
	Signal string            `json:"signal,omitempty"`
	Alert  string            `json:"alert,omitempty"` // empty: by a person
	Since  time.Time         `json:"since"`
}

type guardStatusJSON struct {
	State         decision.State         `json:"state"`
	Since         time.Time              `json:"since"`
	Weight        int                    `json:"weight"` // canary's share in percent, 0–100
	Build         string                 `json:"build,omitempty"`
	Alerts        []string               `json:"alerts,omitempty"` // names of those that fire
	Requests      int64                  `json:"requests,omitempty"`
	Failed        int64                  `json:"failed,omitempty"`
	Ready         decision.ReadyInfo     `json:"ready"`
	Paused        bool                   `json:"paused,omitempty"`
	DisarmedUntil time.Time              `json:"disarmedUntil,omitzero"`
	Mode          decision.PromotionMode `json:"mode,omitempty"`
	WaitingFor    decision.Wait          `json:"waitingFor,omitempty"`
	NextStep      int                    `json:"nextStep,omitempty"` // percent
	NextAt        time.Time              `json:"nextAt,omitzero"`
}

// guardJSONOf leaves out of a guard what people have written.
func guardJSONOf(v remediate.View) guardJSON {
	s := v.Status
	out := guardJSON{Name: v.Name, Seen: v.Seen, Unrecorded: v.Unrecorded != "", Failing: v.Failing != "", Status: guardStatusJSON{
		State: s.State, Since: s.Since, Weight: s.Weight, Build: s.Build, Alerts: s.Alerts, Requests: s.Requests, Failed: s.Failed, Ready: s.Ready,
		Paused: s.Paused != nil || s.PausedOnVS, Mode: s.Mode, WaitingFor: s.WaitingFor, NextStep: s.NextStep, NextAt: s.NextAt,
	}}
	if s.Disarmed != nil {
		out.Status.DisarmedUntil = s.Disarmed.Until
	}
	if l := v.Lock; l != nil {
		out.Lock = &guardLockJSON{Kind: l.Kind, Build: l.Build, Signal: l.Signal, Alert: l.Alert, Since: l.Since}
	}
	return out
}

// guardLister answers the metrics port about guards.
type guardLister struct{ c *remediate.Controller }

func (l guardLister) Guards(context.Context) (any, error) {
	views := l.c.Views()
	out := make([]guardJSON, len(views))
	for i, v := range views {
		out[i] = guardJSONOf(v)
	}
	return out, nil
}

func (l guardLister) Guard(_ context.Context, name string) (any, error) {
	for _, v := range l.c.Views() {
		if v.Name == name {
			return guardJSONOf(v), nil
		}
	}
	return nil, fmt.Errorf("guard %q: %w", name, alerting.ErrUnknownGuard)
}

package decision

import (
	"slices"
	"testing"
	"time"
)

// What the configuration, or a silence, takes from an alert while it fires: the record
// goes by what it asks for now.
func TestTheRecordListsWhatAnAlertAsksForNow(t *testing.T) {
	latency := Alert{Name: "Latency", Fingerprint: "f1", StartsAt: at.Add(-time.Minute), Summary: "slow"}
	for name, c := range map[string]struct {
		was, is Action
		leads   but
		want    []Action
	}{
		"a hold that is to do nothing":      {ActionHold, ActionNone, live, nil},
		"a rollback that is to do nothing":  {ActionRollback, ActionNone, live, nil},
		"a rollback that is silenced":       {ActionRollback, ActionHold, live, []Action{ActionHold}},
		"one that goes on":                  {ActionHold, ActionHold, live, []Action{ActionHold}},
		"another replica's, by its own":     {ActionHold, ActionNone, func(*Input) {}, []Action{ActionHold}},
		"another replica's, by its silence": {ActionRollback, ActionHold, func(*Input) {}, []Action{ActionRollback}},
	} {
		t.Run(name, func(t *testing.T) {
			was, is := latency, latency
			was.Action, is.Action = c.was, c.is
			s := tell(t, c.leads, func(in *Input) {
				in.Alerts = []Alert{is}
				in.Record.Status.Alerts = []string{was.Name}
				in.Record.Status.Firing = []Firing{{Name: was.Name, Episode: was.Episode(), Action: was.Action, Began: was.StartsAt, Seen: was.StartsAt, Summary: was.Summary}}
			})
			d := s.then(time.Second)
			var got []Action
			for _, f := range d.Record.Status.Firing {
				got = append(got, f.Action)
			}
			if !slices.Equal(got, c.want) || len(d.Record.Status.Alerts) != len(c.want) {
				t.Errorf("lists %+v and %q, want %q", d.Record.Status.Firing, d.Record.Status.Alerts, c.want)
			}
			if idle := len(c.want) == 0; idle == d.Record.Troubled() || idle && d.Record.Status.State != StateShifting {
				t.Errorf("state %s, troubled: %v", d.Record.Status.State, d.Record.Troubled())
			}
		})
	}
}

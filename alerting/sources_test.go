package alerting

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// lister answers as told.
type lister struct {
	alerts []Alert
	err    error
	young  bool // it has just started
}

func (l lister) Firing(_ context.Context, f Filter) ([]Alert, error) {
	if l.young && f.MinUptime > 0 {
		return nil, ErrYoung
	}
	return l.alerts, l.err
}

func TestWhatFiresNowIsTheFirstAnswer(t *testing.T) {
	a, b := []Alert{named("A", 0)}, []Alert{named("B", 0)}
	down, silent := errors.New("Alertmanager is down"), errors.New("Prometheus is down")
	for name, test := range map[string]struct {
		sources Sources
		want    []Alert
		errs    []error
	}{
		"both answer":          {Sources{Alertmanager: lister{alerts: a}, Prometheus: lister{alerts: b}}, a, nil},
		"nothing fires":        {Sources{Alertmanager: lister{}, Prometheus: lister{alerts: b}}, nil, nil},
		"only Prometheus does": {Sources{Alertmanager: lister{err: down}, Prometheus: lister{alerts: b}}, b, nil},
		"neither does":         {Sources{Alertmanager: lister{err: down}, Prometheus: lister{err: silent}}, nil, []error{down, silent}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := test.sources.Firing(t.Context(), Filter{})
			if !reflect.DeepEqual(got, test.want) || (err == nil) != (test.errs == nil) {
				t.Errorf("got %v, %v, want %v, %v", got, err, test.want, test.errs)
			}
			for _, want := range test.errs {
				if !errors.Is(err, want) || strings.Contains(err.Error(), "\n") {
					t.Errorf("%v is not in %v, or not on one line", want, err)
				}
			}
		})
	}
	if _, err := (Sources{}).Firing(t.Context(), Filter{}); err == nil {
		t.Error("nobody to ask, and no error")
	}
}

func TestASourceThatMayNotKnowAllTakesNothingAway(t *testing.T) {
	old, a, b := named("Old", 0), named("A", 0), named("B", 0)
	down := errors.New("down")
	for name, test := range map[string]struct {
		sources Sources
		want    string // what fires afterwards, of Old (known from both before), A (Alertmanager's) and B (Prometheus's)
		failed  bool
	}{
		"both know all":                 {Sources{Alertmanager: lister{alerts: []Alert{a}}, Prometheus: lister{alerts: []Alert{b}}}, "A", false},
		"Alertmanager has just started": {Sources{Alertmanager: lister{alerts: []Alert{a}, young: true}, Prometheus: lister{alerts: []Alert{b}}}, "A B Old", false},
		"both have just started":        {Sources{Alertmanager: lister{alerts: []Alert{a}, young: true}, Prometheus: lister{alerts: []Alert{b}, young: true}}, "A B Old", false},
		"Alertmanager is down":          {Sources{Alertmanager: lister{err: down}, Prometheus: lister{alerts: []Alert{b}}}, "B Old", true},
		"both are down":                 {Sources{Alertmanager: lister{err: down}, Prometheus: lister{err: down}}, "Old", true},
		"there is no Alertmanager":      {Sources{Prometheus: lister{alerts: []Alert{b}}}, "B", false},
		"there is no Alertmanager, and Prometheus has just started": {Sources{Prometheus: lister{alerts: []Alert{b}, young: true}}, "B Old", false},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Date(2026, 7, 6, 12, 0, 0, 0, time.UTC)
			store := NewStore(StoreOptions{})
			for _, lane := range []Lane{LaneAlertmanager, LanePrometheus} {
				if _, err := store.Replace(lane, []Alert{old}, now); err != nil {
					t.Fatal(err)
				}
			}
			now = now.Add(time.Minute)
			test.sources.Log = slog.New(slog.DiscardHandler)
			err := test.sources.Fill(t.Context(), Filter{}, store, func() time.Time { return now }, func([]Alert, Changes) error { return nil })
			if (err != nil) != test.failed {
				t.Errorf("error %v", err)
			}
			var names []string
			for _, found := range store.Firing(now) {
				names = append(names, found.Name())
			}
			slices.Sort(names)
			if got := strings.Join(names, " "); got != test.want {
				t.Errorf("%s fire, want %s", got, test.want)
			}
		})
	}
}

// Alertmanager may reach guardian and not be reached by it: the end of an alert that
// another replica received would never be known here.
func TestPrometheusTakesAwayWhatAlertmanagerHasNotListedForLong(t *testing.T) {
	for name, c := range map[string]struct {
		listed bool
		after  time.Duration
		want   int
	}{
		"for a moment":        {true, unlistedFor, 1},
		"for long":            {true, unlistedFor + time.Second, 0},
		"never since a start": {false, time.Minute, 0},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Date(2026, 7, 6, 12, 0, 0, 0, time.UTC)
			store := NewStore(StoreOptions{})
			if _, err := store.Apply(LaneWebhook, []Alert{named("A", 0)}, now); err != nil {
				t.Fatal(err)
			}
			sources := Sources{Alertmanager: lister{alerts: []Alert{named("A", 0)}}, Prometheus: lister{}, Log: slog.New(slog.DiscardHandler)}
			fill := func() error {
				return sources.Fill(t.Context(), Filter{}, store, func() time.Time { return now }, func([]Alert, Changes) error { return nil })
			}
			if c.listed {
				if err := fill(); err != nil {
					t.Fatal(err)
				}
			}
			sources.Alertmanager, now = lister{err: errors.New("no way there")}, now.Add(c.after)
			if err := fill(); err == nil {
				t.Error("that Alertmanager does not answer was not said")
			}
			if got := len(store.Firing(now)); got != c.want {
				t.Errorf("%d fire, want %d", got, c.want)
			}
		})
	}
}

// A ruler may send an alert before a query shows it.
func TestWhatHasJustComeByWebhookOutlastsAListingOfPrometheus(t *testing.T) {
	for since, want := range map[time.Duration]int{shownWithin - time.Millisecond: 1, shownWithin: 0} {
		received := time.Date(2026, 7, 6, 12, 0, 0, 0, time.UTC)
		store := NewStore(StoreOptions{})
		if _, err := store.Apply(LaneWebhook, []Alert{named("A", 0)}, received); err != nil {
			t.Fatal(err)
		}
		asked, over := received.Add(since), 0
		err := Sources{Prometheus: lister{}, Log: slog.New(slog.DiscardHandler)}.Fill(t.Context(), Filter{}, store, func() time.Time { return asked },
			func(_ []Alert, changes Changes) error { over += len(changes.Ended); return nil })
		if err != nil {
			t.Fatal(err)
		}
		if got := len(store.Firing(asked)); got != want || over != 1-want {
			t.Errorf("%v after its call %d fire and %d are told to be over, want %d firing", since, got, over, want)
		}
	}
}

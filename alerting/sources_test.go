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
	// waiting are those that are pending, and up is for how long the server is up; 0: for ever.
	waiting []Alert
	up      time.Duration
}

func (l lister) Firing(_ context.Context, f Filter) ([]Alert, error) {
	if l.young && f.MinUptime > 0 || l.up > 0 && l.up < f.MinUptime {
		return nil, ErrYoung
	}
	if f.Pending {
		return append(slices.Clone(l.alerts), l.waiting...), l.err
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

// Otherwise each time that Prometheus stands in, it would be five minutes until the next.
func TestPrometheusTakesAwayWithEachListingWhileAlertmanagerIsAway(t *testing.T) {
	now := time.Date(2026, 7, 6, 12, 0, 0, 0, time.UTC)
	store := NewStore(StoreOptions{})
	sources := Sources{Alertmanager: lister{}, Prometheus: lister{}, Log: slog.New(slog.DiscardHandler)}
	fill := func() {
		t.Helper()
		err := sources.Fill(t.Context(), Filter{}, store, func() time.Time { return now }, func([]Alert, Changes) error { return nil })
		if away := sources.Alertmanager.(lister).err; !errors.Is(err, away) {
			t.Fatalf("error %v, want %v", err, away)
		}
	}
	fill()
	sources.Alertmanager = lister{err: errors.New("no way there")}
	for minute := range 20 {
		now = now.Add(time.Minute)
		if _, err := store.Apply(LaneWebhook, []Alert{named("A", float64(minute))}, now.Add(-shownWithin)); err != nil {
			t.Fatal(err)
		}
		fill()
		if got, want := len(store.Firing(now)) == 0, time.Duration(minute+1)*time.Minute > unlistedFor; got != want {
			t.Errorf("minute %d: over is %v, want %v", minute+1, got, want)
		}
	}
}

// After a restart without its data, and of a rule that was edited, an alert waits for
// its "for" again; Alertmanager has it firing meanwhile.
func TestPrometheusTakesAwayNothingThatItMayBeFindingAnew(t *testing.T) {
	of := func(labels ...string) Alert {
		a := Alert{Labels: map[string]string{"alertname": "UsersAlert", "guard": "orders"}}
		for i := 0; i < len(labels); i += 2 {
			a.Labels[labels[i]] = labels[i+1]
		}
		a.Fingerprint = Fingerprint(a.Labels)
		return a
	}
	for name, c := range map[string]struct {
		prometheus lister
		want       int
	}{
		"it is over":                      {lister{}, 0},
		"it is pending":                   {lister{waiting: []Alert{of("cluster", "eu")}}, 1},
		"without external labels":         {lister{waiting: []Alert{of()}}, 1},
		"the rule has other labels now":   {lister{waiting: []Alert{of("severity", "page")}}, 1},
		"of another guard":                {lister{waiting: []Alert{of("guard", "payments")}}, 0},
		"of another rule":                 {lister{waiting: []Alert{of("alertname", "Other")}}, 0},
		"Prometheus is up for a moment":   {lister{up: heldFor - time.Second}, 1},
		"Prometheus is up for long again": {lister{up: heldFor}, 0},
	} {
		for lane, alertmanager := range map[string]Lister{"none": nil, "away": lister{err: errors.New("no way there")}} {
			t.Run(name+", Alertmanager "+lane, func(t *testing.T) {
				received := time.Date(2026, 7, 6, 12, 0, 0, 0, time.UTC)
				store := NewStore(StoreOptions{Keys: func(a Alert) []string { return []string{a.Labels["guard"]} }})
				if _, err := store.Apply(LaneWebhook, []Alert{of("cluster", "eu")}, received); err != nil {
					t.Fatal(err)
				}
				asked := received.Add(time.Minute)
				err := Sources{Alertmanager: alertmanager, Prometheus: c.prometheus, Log: slog.New(slog.DiscardHandler)}.Fill(t.Context(), Filter{}, store,
					func() time.Time { return asked }, func([]Alert, Changes) error { return nil })
				if (err != nil) != (alertmanager != nil) {
					t.Errorf("error %v", err)
				}
				if got := len(store.Firing(asked)); got != c.want {
					t.Errorf("%d fire, want %d", got, c.want)
				}
			})
		}
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

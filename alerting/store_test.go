package alerting

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// minute is a moment of the store's tests.
func minute(m float64) time.Time { return start.Add(time.Duration(m * float64(time.Minute))) }

// named is an alert that fires from the given minute on.
func named(name string, from float64) Alert {
	labels := map[string]string{"alertname": name, "guardian_guard": "guard-" + strings.ToLower(name)}
	return Alert{Labels: labels, StartsAt: minute(from), Fingerprint: Fingerprint(labels)}
}

func until(a Alert, end float64) Alert {
	a.EndsAt = minute(end)
	return a
}

func ended(a Alert, end float64) Alert {
	a.EndsAt, a.Resolved = minute(end), true
	return a
}

func suppressed(a Alert) Alert {
	a.Suppressed = true
	return a
}

// step is one thing that happens to a store.
type step struct {
	at     float64
	lane   Lane
	list   bool // Replace, asked for at that minute
	alerts []Alert
}

// brief writes alerts as name@minute, with ~ when suppressed.
func brief(alerts []Alert) string {
	var words []string
	for _, a := range alerts {
		word := fmt.Sprintf("%s@%v", a.Name(), a.StartsAt.Sub(start).Minutes())
		if a.Suppressed {
			word += "~"
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

func TestTheStoreKnowsWhatFires(t *testing.T) {
	hook := func(at float64, alerts ...Alert) step { return step{at: at, lane: LaneWebhook, alerts: alerts} }
	push := func(at float64, alerts ...Alert) step { return step{at: at, lane: LanePush, alerts: alerts} }
	list := func(at float64, alerts ...Alert) step {
		return step{at: at, lane: LaneAlertmanager, list: true, alerts: alerts}
	}
	a, b := named("A", 0), named("B", 1)
	again := named("A", 5) // the same alert, another episode
	for name, test := range map[string]struct {
		steps []step
		at    float64
		want  string
	}{
		"nothing":                         {nil, 0, ""},
		"one by webhook":                  {[]step{hook(0, a)}, 1, "A@0"},
		"two in one call":                 {[]step{hook(1, b, a)}, 1, "A@0 B@1"},
		"the same call twice":             {[]step{hook(0, a), hook(1, a)}, 1, "A@0"},
		"one ends":                        {[]step{hook(1, a, b), hook(2, ended(a, 2), b)}, 2, "B@1"},
		"an end that nobody began":        {[]step{hook(2, ended(a, 2))}, 2, ""},
		"it begins anew":                  {[]step{hook(0, a), hook(2, ended(a, 2)), hook(5, again)}, 5, "A@5"},
		"it begins anew, the end is lost": {[]step{hook(0, a), hook(5, again)}, 5, "A@5"},
		"an end that comes late does not end the new episode": {
			[]step{hook(0, a), hook(5, again), hook(6, ended(a, 2))}, 6, "A@5"},
		"an end at the moment of the new beginning is of the earlier episode": {
			[]step{hook(5, again), hook(6, ended(a, 5))}, 6, "A@5"},
		"an end just after the new beginning is its end (startsAt was merged)": {
			[]step{hook(5, again), hook(6, ended(a, 5.5))}, 6, ""},
		"an end at the very beginning": {
			[]step{hook(5, again), hook(6, ended(again, 5))}, 6, ""},
		"a call of an earlier episode comes late": {
			[]step{hook(5, again), hook(6, a)}, 6, "A@5"},
		"Alertmanager begins the same episode again, having heard nothing for a while": {
			[]step{hook(0, a), hook(5, ended(a, 5)), hook(6, a)}, 6, "A@0"},
		"a webhook fires on without repetition":   {[]step{hook(0, a)}, 24*60 - 1, "A@0"},
		"but not for ever":                        {[]step{hook(0, a)}, 24 * 60, ""},
		"a repetition keeps it":                   {[]step{hook(0, a), hook(12*60, a)}, 24 * 60, "A@0"},
		"so does a listing":                       {[]step{hook(0, a), list(12*60, a)}, 24 * 60, "A@0"},
		"a push fires until its end":              {[]step{push(0, until(a, 4))}, 3.99, "A@0"},
		"and not at it":                           {[]step{push(0, until(a, 4))}, 4, ""},
		"a repetition puts the end off":           {[]step{push(0, until(a, 4)), push(1, until(a, 5))}, 4.5, "A@0"},
		"a late push does not bring it back":      {[]step{push(1, until(a, 5)), push(2, until(a, 4))}, 4.5, "A@0"},
		"a push that ends":                        {[]step{push(0, until(a, 4)), push(1, ended(a, 1))}, 1, ""},
		"a push fires again after it has expired": {[]step{push(0, until(a, 4)), push(6, until(a, 10))}, 6, "A@0"},
		"both lanes, one alert":                   {[]step{hook(0, a), push(0, until(a, 4))}, 1, "A@0"},
		"the push expires, Alertmanager goes on":  {[]step{hook(0, a), push(0, until(a, 4))}, 5, "A@0"},
		"Alertmanager is done, Prometheus is not": {[]step{hook(0, a), push(0, until(a, 4)), hook(1, ended(a, 1))}, 1, "A@0"},
		"both are done":                           {[]step{hook(0, a), push(0, until(a, 4)), hook(1, ended(a, 1)), push(1, ended(a, 1))}, 1, ""},
		"lanes disagree about the beginning":      {[]step{hook(0, a), push(5, until(again, 9))}, 5, "A@5"},
		"a listing has what a webhook lost":       {[]step{list(1, a, b)}, 1, "A@0 B@1"},
		"a listing ends what it does not have":    {[]step{hook(1, a, b), list(2, b)}, 2, "B@1"},
		"an empty listing ends everything":        {[]step{hook(1, a, b), list(2)}, 2, ""},
		"a listing says nothing about pushes":     {[]step{push(1, until(a, 5)), list(2)}, 2, "A@0"},
		"what came after a listing was asked for stands": {
			[]step{hook(2, a), list(1)}, 2, "A@0"},
		"an end after a listing was asked for stands": {
			[]step{hook(0, a), hook(2, ended(a, 2)), list(1, a)}, 2, ""},
		"a listing later than the end has it again": {
			[]step{hook(0, a), hook(2, ended(a, 2)), list(3, a)}, 3, "A@0"},
		"a silenced alert is marked":               {[]step{list(1, suppressed(a))}, 1, "A@0~"},
		"a webhook for it says it is not silenced": {[]step{list(1, suppressed(a)), hook(2, a)}, 2, "A@0"},
		"and a listing that it is":                 {[]step{hook(1, a), list(2, suppressed(a))}, 2, "A@0~"},
		"silenced, but pushed all the same":        {[]step{list(1, suppressed(a)), push(1, until(a, 5))}, 2, "A@0"},
		"pushed, and then silenced":                {[]step{push(1, until(a, 5)), list(1, suppressed(a))}, 2, "A@0"},
	} {
		t.Run(name, func(t *testing.T) {
			store := NewStore(StoreOptions{})
			for _, s := range test.steps {
				do := store.Apply
				if s.list {
					do = store.Replace
				}
				if _, err := do(s.lane, s.alerts, minute(s.at)); err != nil {
					t.Fatal(err)
				}
			}
			if got := brief(store.Firing(minute(test.at))); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestTheStoreReportsWhatHasChanged(t *testing.T) {
	store := NewStore(StoreOptions{})
	a, b := named("A", 0), named("B", 1)
	for _, test := range []struct {
		name           string
		lane           Lane
		list           bool
		at             float64
		alerts         []Alert
		started, ended string
	}{
		{"two begin", LaneWebhook, false, 1, []Alert{a, b}, "A@0 B@1", ""},
		{"a repetition", LaneWebhook, false, 2, []Alert{a, b}, "", ""},
		{"the other lane", LanePush, false, 2, []Alert{until(a, 6)}, "", ""},
		{"one ends on one of its lanes", LaneWebhook, false, 3, []Alert{ended(a, 3)}, "", ""},
		{"and on the other", LanePush, false, 3, []Alert{ended(a, 3)}, "", "A@0"},
		{"a listing ends one and has a new one", LaneAlertmanager, true, 4, []Alert{named("C", 4)}, "C@4", "B@1"},
		{"another episode", LaneWebhook, false, 9, []Alert{named("C", 9)}, "C@9", ""},
		{"one ends that nobody knows", LaneWebhook, false, 9, []Alert{ended(named("D", 1), 2)}, "", ""},
	} {
		do := store.Apply
		if test.list {
			do = store.Replace
		}
		changes, err := do(test.lane, test.alerts, minute(test.at))
		if err != nil {
			t.Fatal(err)
		}
		if started, ended := brief(changes.Started), brief(changes.Ended); started != test.started || ended != test.ended {
			t.Errorf("%s: started %q, ended %q, want %q, %q", test.name, started, ended, test.started, test.ended)
		}
	}
	if at := store.Listed(LaneAlertmanager); !at.Equal(minute(4)) {
		t.Errorf("listed at %s, want %s", at, minute(4))
	}
	if at := store.Listed(LanePrometheus); !at.IsZero() {
		t.Errorf("never listed, but at %s", at)
	}
}

func TestTheStoreHoldsNoMoreThanItsLimits(t *testing.T) {
	a, b, c := named("A", 0), named("B", 1), named("C", 2)
	for name, opts := range map[string]StoreOptions{
		"alerts": {MaxAlerts: 2},
		"bytes":  {MaxBytes: 2*a.size() + a.size()/2},
	} {
		t.Run(name, func(t *testing.T) {
			store := NewStore(opts)
			if _, err := store.Apply(LaneWebhook, []Alert{a, b}, minute(2)); err != nil {
				t.Fatal(err)
			}
			if _, err := store.Apply(LaneWebhook, []Alert{c, ended(b, 2)}, minute(2)); !errors.Is(err, ErrStoreFull) {
				t.Errorf("got %v, want ErrStoreFull", err)
			}
			if _, err := store.Replace(LaneAlertmanager, []Alert{a, c}, minute(2)); !errors.Is(err, ErrStoreFull) {
				t.Errorf("listing: got %v, want ErrStoreFull", err)
			}
			if got := brief(store.Firing(minute(2))); got != "A@0" {
				t.Errorf("got %q, want that what is known was still taken", got)
			}
			// b has ended long enough ago to be forgotten.
			if _, err := store.Apply(LaneWebhook, []Alert{c}, minute(8)); err != nil {
				t.Errorf("after one has ended: %v", err)
			}
			if got := brief(store.Firing(minute(8))); got != "A@0 C@2" {
				t.Errorf("got %q, want A and C", got)
			}
		})
	}
}

func TestTheStoreForgetsEverythingAboutWhatHasEnded(t *testing.T) {
	store := NewStore(StoreOptions{Keys: func(a Alert) []string {
		if a.Name() == "B" {
			return nil
		}
		return []string{a.Labels["guardian_guard"]}
	}})
	a, b := named("A", 0), named("B", 1)
	for _, s := range []step{
		{at: 1, lane: LaneWebhook, alerts: []Alert{a}},
		{at: 1, lane: LanePush, alerts: []Alert{until(b, 5)}},
		{at: 2, lane: LaneWebhook, alerts: []Alert{ended(a, 2)}},
		{at: 20, lane: LanePush},
	} {
		if _, err := store.Apply(s.lane, s.alerts, minute(s.at)); err != nil {
			t.Fatal(err)
		}
	}
	if len(store.alerts) != 0 || len(store.byKey) != 0 || len(store.noKey) != 0 || store.bytes != 0 {
		t.Errorf("holds %v, %v, %d bytes", store.alerts, store.byKey, store.bytes)
	}
}

func TestTheStoreFindsAlertsByKey(t *testing.T) {
	byGuard := func(a Alert) []string { return []string{a.Labels["guardian_guard"], "all"} }
	store := NewStore(StoreOptions{Keys: byGuard})
	if _, err := store.Apply(LaneWebhook, []Alert{named("B", 1), named("A", 0)}, minute(1)); err != nil {
		t.Fatal(err)
	}
	expect := func(key, want string) {
		t.Helper()
		if got := brief(store.FiringOf(key, minute(1))); got != want {
			t.Errorf("%s: got %q, want %q", key, got, want)
		}
	}
	expect("guard-a", "A@0")
	expect("guard-b", "B@1")
	expect("all", "A@0 B@1")
	expect("nobody", "")
	store.Reindex(func(a Alert) []string { return []string{a.Name()} })
	expect("guard-a", "")
	expect("A", "A@0")
	if _, err := store.Apply(LaneWebhook, []Alert{named("C", 1)}, minute(1)); err != nil {
		t.Fatal(err)
	}
	expect("C", "C@1")
}

func TestTheAgeOfAnEpisodeIsNotedOnce(t *testing.T) {
	registry := prometheus.NewRegistry()
	store := NewStore(StoreOptions{Metrics: NewMetrics(registry)})
	a := named("A", 0)
	for _, s := range []step{
		{at: 0.05, lane: LanePush, alerts: []Alert{until(a, 4)}},             // 3 s
		{at: 0.1, lane: LaneWebhook, alerts: []Alert{a}},                     // the same one
		{at: 1, lane: LaneWebhook, alerts: []Alert{a}},                       // repeated
		{at: 2, lane: LaneAlertmanager, alerts: []Alert{named("Listed", 0)}}, // nobody delivered it
		{at: 3, lane: LaneWebhook, alerts: []Alert{named("Skewed", 3.01)}},   // from the future: 0 s
		{at: 5, lane: LaneWebhook, alerts: []Alert{named("A", 4.9)}},         // another episode: 6 s
	} {
		if _, err := store.Apply(s.lane, s.alerts, minute(s.at)); err != nil {
			t.Fatal(err)
		}
	}
	const want = `
# HELP guardian_alert_age_seconds Time from an alert's startsAt to its first arrival at guardian, by either lane.
# TYPE guardian_alert_age_seconds histogram
guardian_alert_age_seconds_bucket{le="0.01"} 1
guardian_alert_age_seconds_bucket{le="0.025"} 1
guardian_alert_age_seconds_bucket{le="0.05"} 1
guardian_alert_age_seconds_bucket{le="0.1"} 1
guardian_alert_age_seconds_bucket{le="0.25"} 1
guardian_alert_age_seconds_bucket{le="0.5"} 1
guardian_alert_age_seconds_bucket{le="1"} 1
guardian_alert_age_seconds_bucket{le="2.5"} 1
guardian_alert_age_seconds_bucket{le="5"} 2
guardian_alert_age_seconds_bucket{le="10"} 3
guardian_alert_age_seconds_bucket{le="30"} 3
guardian_alert_age_seconds_bucket{le="60"} 3
guardian_alert_age_seconds_bucket{le="300"} 3
guardian_alert_age_seconds_bucket{le="+Inf"} 3
guardian_alert_age_seconds_sum 9
guardian_alert_age_seconds_count 3
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "guardian_alert_age_seconds"); err != nil {
		t.Error(err)
	}
}

func TestTheStoreMayBeUsedByManyAtOnce(t *testing.T) {
	store := NewStore(StoreOptions{Keys: func(a Alert) []string { return []string{a.Name()} }})
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 50 {
				a := named(fmt.Sprint("A", j), 0)
				_, _ = store.Apply(LaneWebhook, []Alert{a}, minute(1))
				_, _ = store.Apply(LanePush, []Alert{until(a, 4)}, minute(1))
				store.Firing(minute(1))
				store.FiringOf(a.Name(), minute(1))
				if i == 0 {
					_, _ = store.Replace(LaneAlertmanager, []Alert{a}, minute(0))
					store.Reindex(func(a Alert) []string { return []string{a.Name()} })
				}
			}
		})
	}
	all.Wait()
	if n := len(store.Firing(minute(1))); n != 50 {
		t.Errorf("%d alerts fire, want 50", n)
	}
}

func TestMatchersAreAlertmanagers(t *testing.T) {
	labels := map[string]string{"alertname": "HighErrors", "team": "shop", "severity": "page"}
	for name, test := range map[string]struct {
		expressions []string
		matches     bool
	}{
		"equal":                        {[]string{`team="shop"`}, true},
		"unquoted":                     {[]string{`team=shop`}, true},
		"another value":                {[]string{`team="ship"`}, false},
		"not equal":                    {[]string{`team!="ship"`}, true},
		"a regular expression":         {[]string{`severity=~"page|critical"`}, true},
		"it is anchored":               {[]string{`severity=~"pag"`}, false},
		"and its negation":             {[]string{`severity!~"page|critical"`}, false},
		"several, all right":           {[]string{`{team="shop", severity="page"}`}, true},
		"several, one wrong":           {[]string{`{team="shop", severity="info"}`}, false},
		"several expressions":          {[]string{`team="shop"`, `severity="info"`}, false},
		"a label that is absent":       {[]string{`cluster="one"`}, false},
		"an absent label is empty":     {[]string{`cluster=""`}, true},
		"an absent label is not equal": {[]string{`cluster!="one"`}, true},
	} {
		t.Run(name, func(t *testing.T) {
			matchers, err := ParseMatchers(test.expressions...)
			if err != nil {
				t.Fatal(err)
			}
			if got := matchers.Matches(labels); got != test.matches {
				t.Errorf("%s: got %v, want %v", matchers, got, test.matches)
			}
			again, err := ParseMatchers(matchers.String())
			if err != nil || !reflect.DeepEqual(again, matchers) {
				t.Errorf("%s is read as %s, %v", matchers, again, err)
			}
		})
	}
}

func TestMatchersThatSelectEverythingOrNothingAreRefused(t *testing.T) {
	for name, test := range map[string]struct {
		expressions []string
		want        string
	}{
		"none":                         {nil, "matchers: none: want at least one"},
		"empty braces":                 {[]string{"{}"}, "matchers: none: want at least one"},
		"no operator":                  {[]string{"team"}, `matchers "team": `},
		"a broken regular expression":  {[]string{`team=~"("`}, "want, for example, team=\"shop\""},
		"the second expression broken": {[]string{`a="b"`, `!`}, `matchers "!": `},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ParseMatchers(test.expressions...); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

package rules

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// What was counted last is the scrape that counted it, whichever proxy that was.
func TestTheLastRequestIsThatOfTheLastScrapeThatCountedOne(t *testing.T) {
	one := with(shops(1)[0], func(g *Guard) { g.Canary.Workloads, g.Stable.Workloads = []string{"orders-v2"}, []string{"orders-v1"} })
	o := Options{Guards: []Guard{one}, ScrapeInterval: scrape * time.Second}
	query := o.LastRequest(one, 3*time.Minute)
	last, all := `{receipt="last"}`, `{receipt="oldest"}`
	at := func(sample string, seconds float64) string {
		return fmt.Sprintf(`((%s) == %v and on (receipt) label_replace(vector(1),"receipt",%q,"","")) > bool 0`, query, seconds, map[string]string{last: "last", all: "oldest"}[sample])
	}
	// Scraped at 3, 8, 13 …; the last request is at 100, so that the scrape of 103 counts it, and later ones none.
	ends := func(row func(int) any) func(int) any { return func(s int) any { return row(min(s, 100)) } }
	runAll(t, nil, map[string]scenario{
		"two proxies, one of which is behind": {guards: []Guard{one},
			targets: []target{stable(),
				{name: "canary", phase: 3, rows: rows{requests("orders-v2", "200"): ends(rate(10, 0)), requests("orders-v2", "503"): ends(born(2, 95))}},
				{name: "caller", phase: 1, rows: rows{requests("orders-v2", "200", `reporter="source"`): ends(rate(10, 0))}},
			},
			queries: map[int]map[string][]string{
				60:  {at(last, 58): {last}, at(all, 56): {all}},
				105: {at(last, 103): {last}, at(all, 101): {all}}, // the caller's has still to tell
				107: {at(last, 103): {last}, at(all, 103): {all}},
				110: {at(last, 103): {last}, at(all, 106): {all}},
				250: {at(last, 103): {last}, at(all, 246): {all}},
				300: {at(last, 103): nil, at(all, 296): {all}}, // out of the window
			},
		},
		"nobody reports on it": {guards: []Guard{one}, targets: []target{stable()},
			queries: map[int]map[string][]string{60: {"(" + query + ") > bool 0": nil}},
		},
		"one that never had any": {guards: []Guard{one},
			targets: []target{stable(), {name: "canary", phase: 3, rows: rows{requests("orders-v2", "200"): always(0.0)}}},
			queries: map[int]map[string][]string{60: {"(" + query + ") > bool 0": {all}}},
		},
	})
}

func TestWhatProvedAFaultIsAskedAsOfTheRollback(t *testing.T) {
	one := with(shops(1)[0], func(g *Guard) { g.Canary.Workloads, g.Stable.Workloads = []string{"orders-v2"}, []string{"orders-v1"} })
	o := Options{Guards: []Guard{one}, ScrapeInterval: scrape * time.Second}
	query := o.Proven(one, SignalErrorRate, time.Unix(140, 0))
	if o.Proven(one, SignalRestarts, time.Unix(140, 0)) != "" {
		t.Error("restarts have no samples that prove them")
	}
	within := fmt.Sprintf("((%s) > 120 < 140) > bool 0", query)
	runAll(t, nil, map[string]scenario{
		"failures from 120 on": {guards: []Guard{one}, options: func(own *Options) { own.Namespace = one.Namespace },
			targets: []target{stable(), {name: "canary", phase: 3, rows: rows{requests("orders-v2", "200"): until(120, rate(10, 0), always(1200.0)), requests("orders-v2", "503"): born(10, 120)}}},
			queries: map[int]map[string][]string{150: {within: {`{receipt="proven"}`}}, 390: {within: {`{receipt="proven"}`}}},
		},
	})
}

func TestTracesAreOfTheTimeOfTheAlert(t *testing.T) {
	from, to := time.Date(2026, 3, 2, 8, 45, 0, 0, time.UTC), time.Date(2026, 3, 2, 9, 15, 0, 0, time.UTC)
	known := Links{Jaeger: "https://jaeger.example/"}
	for name, c := range map[string]struct {
		links      Links
		annotation string
		want       string
	}{
		"of failed requests": {known, ordersFailed,
			"https://jaeger.example/search?end=1772442900000000&limit=20&service=orders.microservices&start=1772441100000000&tags=%7B%22error%22%3A%22true%22%2C%22istio.canonical_revision%22%3A%22v2%22%7D"},
		"below a path":                 {Links{Jaeger: "https://a.example/jaeger"}, "https://a.example/jaeger/search?lookback=1h&service=o.m", "https://a.example/jaeger/search?end=1772442900000000&service=o.m&start=1772441100000000"},
		"no link":                      {known, "", ""},
		"no Jaeger":                    {Links{}, ordersFailed, ""},
		"nothing is known of a canary": {known, "https://jaeger.example/search?lookback=1h&limit=20", ""},
		"of another place":             {known, "https://jaeger.example.evil/search?service=o.m", ""},
		"with credentials":             {known, "https://u:p@jaeger.example/search?service=o.m", ""},
		"too long for a record":        {known, "https://jaeger.example/search?service=" + strings.Repeat("o", 1000), ""},
	} {
		if got := c.links.AlertTraces(c.annotation, from, to); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

package main

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/rules"
)

func sampleReport() report {
	at := func(hour, minute, second int) time.Time {
		return time.Date(2026, 11, 3, hour, minute, second, 0, time.UTC)
	}
	back := at(10, 20, 0)
	fired := at(10, 12, 3)
	earlier := number(477)
	g := guardReport{Guard: "orders", Namespace: "shop", TooSmall: 2, Notes: []string{"a note"}, Releases: []release{
		{Began: at(10, 0, 0), Ended: back, Before: nothing, Outcome: takenBack, PeakShare: 0.3, Requests: 5000, TakenBack: &back, Braked: &fired,
			BrakedBy: rules.SignalErrorRate, Earlier: &earlier, Signals: []signalReport{{rules.SignalErrorRate, 1, ""}, {rules.SignalTraffic, 0, "no weights"}},
			Alerts: []alertReport{
				{Alert: rules.AlertErrorRateHold, Signal: rules.SignalErrorRate, Action: rules.ActionHold, At: at(10, 11, 0), Value: 0.02, Bad: 7, Stable: 0.05, Window: "1m"},
				{Alert: rules.AlertErrorRate, Signal: rules.SignalErrorRate, Action: rules.ActionRollback, At: fired, Value: 0.123, Bad: 11, Window: "15s"},
				{Alert: rules.AlertRestarts, Signal: rules.SignalRestarts, Action: rules.ActionRollback, At: at(10, 21, 0), Value: 3},
			}},
		{Began: at(12, 0, 0), Ended: at(12, 50, 0), Before: nothing, Outcome: promoted, PeakShare: 1, Requests: 9000,
			Signals: []signalReport{{rules.SignalErrorRate, 0.5, ""}, {rules.SignalTraffic, 0, "no weights"}}, Alerts: []alertReport{}},
		{Began: at(15, 0, 0), Ended: at(15, 30, 0), Before: nothing, Outcome: promoted, PeakShare: 1, Requests: 9000, Braked: &fired, BrakedBy: rules.SignalTraffic,
			Alerts: []alertReport{{Alert: rules.AlertTraffic, Signal: rules.SignalTraffic, Action: rules.ActionRollback, At: at(15, 12, 0), Value: number(math.NaN())}}},
	}}
	g.sum()
	return report{APIVersion: reportVersion, Kind: reportKind, Prometheus: "http://p:9090", From: at(0, 0, 0), To: at(23, 0, 0), Set: []string{"a=b"},
		Guards: []guardReport{g}, Cost: cost{Seconds: 2.5, Queries: 7, Samples: 1234}}
}

func TestTheReportAsText(t *testing.T) {
	var out bytes.Buffer
	if err := sampleReport().write(&out, "text"); err != nil {
		t.Fatal(err)
	}
	const want = `2026-11-03T00:00:00Z to 2026-11-03T23:00:00Z, by http://p:9090
with a=b

orders (namespace shop)
  BEGAN (UTC)          LASTED  PEAK  WENT ON              GUARDIAN WOULD HAVE                    BY
  2026-11-03 10:00:00  20m0s   30%   taken back 10:20:00  held it 10:11:00                       error_rate 2% (7 bad within 1m), stable 5%
                                                          rolled back 10:12:03, 7m57s earlier    error_rate 12% (11 bad within 15s)
                                                          found no traffic 10:21:00, 1m0s later  restarts 3
  2026-11-03 12:00:00  50m0s   100%  promoted             let it pass
  2026-11-03 15:00:00  30m0s   100%  promoted             rolled back 15:12:00                   traffic ?
  Releases: 3. Taken back: 1, of which guardian would have rolled back 1, 1 of them earlier.
  Not taken back: 2, 1.3 hours, of which guardian would have rolled back 1 and held 0.
  Left out: 2 with fewer than 5 requests to the canary.
  Judged less than nine tenths of the time: error_rate in 1 of 3 releases.
  NOT JUDGED: traffic in 2 of 3 releases: no weights.
  a note

2 s, 7 queries, 1234 samples.
`
	var got strings.Builder
	for line := range strings.Lines(out.String()) {
		got.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	if got.String() != want {
		t.Errorf("got\n%s\nwant\n%s", got.String(), want)
	}
}

func TestTheReportAsMarkdownAndJSON(t *testing.T) {
	var md, text bytes.Buffer
	if err := sampleReport().write(&md, "md"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"# Replay\n\n2026-11-03T00:00:00Z to", "\n## orders (namespace shop)\n\n| BEGAN (UTC) | LASTED |", "\n|---|---|---|---|---|---|\n",
		"\n| 2026-11-03 12:00:00 | 50m0s | 100% | promoted | let it pass |  |\n", "\n- NOT JUDGED: traffic in 2 of 3",
	} {
		if !strings.Contains(md.String(), want) {
			t.Errorf("no %q in\n%s", want, md.String())
		}
	}
	if err := sampleReport().write(&text, "json"); err != nil {
		t.Fatal(err)
	}
	var back map[string]any
	if err := json.Unmarshal(text.Bytes(), &back); err != nil {
		t.Fatal(err)
	}
	if back["apiVersion"] != "cli.canary-guardian.io/v1" || back["kind"] != "GuardReplay" {
		t.Errorf("%v", back)
	}
	for _, want := range []string{`"takenBackAt": "2026-11-03T10:20:00Z"`, `"brakedAt": "2026-11-03T10:12:03Z"`, `"secondsEarlier": 477`, `"value": null`,
		`"hours": 1.33`, `"why": "no weights"`, `"alerts": []`, `"set": [`} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %s in\n%s", want, text.String())
		}
	}
}

// TestWhatAnAlertAsksForIsWhatGuardianWouldHaveDone has alerts of signals with each action.
func TestWhatAnAlertAsksForIsWhatGuardianWouldHaveDone(t *testing.T) {
	at := func(minute int) time.Time { return time.Date(2026, 11, 3, 10, minute, 0, 0, time.UTC) }
	alert := func(action rules.Action) alertReport {
		return alertReport{Alert: rules.AlertComparison, Signal: rules.SignalComparison, Action: action, At: at(12), Until: at(15), Value: 9.43}
	}
	for _, c := range []struct {
		alerts       []alertReport
		did          string
		braked, held int
	}{
		{[]alertReport{alert(rules.ActionRollback)}, "rolled back 10:12:00", 1, 0},
		{[]alertReport{alert(rules.ActionHold)}, "held it 10:12:00", 0, 1},
		{[]alertReport{alert(rules.ActionNone)}, "told people 10:12:00", 0, 0},
	} {
		w := &watch{run: &run{}, alerts: c.alerts, canary: &counts{first: at(10).UnixMilli(), last: at(18).UnixMilli(), requests: map[string]float64{"source": 100}}}
		r := w.report(episode{outcome: "ended"}, survey{})
		g := guardReport{Releases: []release{r}}
		g.sum()
		if row := r.rows()[0]; row[4] != c.did || row[5] != "comparison with stable, evidence 9.4" {
			t.Errorf("%s: %q", c.alerts[0].Action, row)
		}
		if g.Healthy.Braked != c.braked || g.Healthy.Held != c.held {
			t.Errorf("%s: %d braked, %d held", c.alerts[0].Action, g.Healthy.Braked, g.Healthy.Held)
		}
	}
}

// TestARollbackNeedsTrafficOfTheCanary has alerts before the first request of a canary
// and after the last.
func TestARollbackNeedsTrafficOfTheCanary(t *testing.T) {
	at := func(minute int) time.Time { return time.Date(2026, 11, 3, 10, minute, 0, 0, time.UTC) }
	alert := func(from, until int) alertReport {
		return alertReport{Alert: rules.AlertRestarts, Signal: rules.SignalRestarts, Action: rules.ActionRollback, At: at(from), Until: at(until)}
	}
	for name, c := range map[string]struct {
		alerts []alertReport
		braked int // minute; 0: never
		did    string
	}{
		"pods crash before CI shifts":      {[]alertReport{alert(3, 15)}, 10, "rolled back 10:10:00, 8m0s earlier"},
		"and are well when it does":        {[]alertReport{alert(3, 9)}, 0, "let it pass"},
		"within":                           {[]alertReport{alert(12, 15)}, 12, "rolled back 10:12:00, 6m0s earlier"},
		"with the last request":            {[]alertReport{alert(18, 19)}, 18, "rolled back 10:18:00, 0s earlier"},
		"after people took it back":        {[]alertReport{alert(20, 25)}, 0, "found no traffic 10:20:00, 2m0s later"},
		"after, and one before that ended": {[]alertReport{alert(3, 9), alert(20, 25)}, 0, "found no traffic 10:20:00, 2m0s later"},
	} {
		w := &watch{run: &run{}, alerts: c.alerts, canary: &counts{first: at(10).UnixMilli(), last: at(18).UnixMilli(), requests: map[string]float64{"source": 100}}}
		for _, o := range []outcome{takenBack, returned} {
			got := w.report(episode{outcome: o}, survey{})
			braked := 0
			if got.Braked != nil {
				braked = got.Braked.Minute()
			}
			if braked != c.braked || (got.Braked == nil) != (got.Earlier == nil) || got.rows()[0][4] != c.did || got.Alerts == nil {
				t.Errorf("%s, %s: braked at %d, %q, want %d, %q", name, o, braked, got.rows()[0][4], c.braked, c.did)
			}
			if got.Began != at(10) || got.Ended != at(18) {
				t.Errorf("%s: %v to %v", name, got.Began, got.Ended)
			}
		}
	}
}

func TestReturnedReleasesAreNotCountedAsLetPass(t *testing.T) {
	at, earlier := time.Date(2026, 11, 3, 10, 0, 0, 0, time.UTC), number(480)
	g := guardReport{Releases: []release{
		{Began: at, Ended: at.Add(time.Hour), Outcome: promoted},
		{Began: at, Ended: at.Add(time.Hour), Outcome: returned, TakenBack: &at, Braked: &at, Earlier: &earlier, Alerts: make([]alertReport, 1)},
		{Began: at, Ended: at.Add(time.Hour), Outcome: returned, TakenBack: &at},
	}}
	g.sum()
	got := strings.Join(g.words(), "\n")
	const want = `Releases: 3. Taken back: 0, of which guardian would have rolled back 0, 0 of them earlier.
Returned: 2, of which guardian would have rolled back 1, 1 of them earlier.
Not taken back: 1, 1.0 hours, of which guardian would have rolled back 0 and held 0.`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestWhatOthersSayIsNotObeyed has escapes of a terminal and of Markdown in what
// Prometheus and --set say.
func TestWhatOthersSayIsNotObeyed(t *testing.T) {
	const evil = "a\x1b[2Jb\u009bc\u202ed|e\nf<img>\rg"
	r := sampleReport()
	r.Set, r.Guards[0].Notes = []string{"guards[0].name=" + evil}, []string{evil}
	r.Guards[0].Releases[0].Alerts[0].Window = evil
	for format, want := range map[string]string{"text": `a\x1b[2Jb\u009bc\u202ed|e f<img> g`, "md": `a\\x1b\[2Jb\\u009bc\\u202ed\|e f&lt;img&gt; g`} {
		var out bytes.Buffer
		if err := r.write(&out, format); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(out.String(), want); n != 3 || strings.ContainsAny(out.String(), "\x1b\u009b\u202e\r") {
			t.Errorf("%s: %d times %s in\n%q", format, n, want, out.String())
		}
	}
}

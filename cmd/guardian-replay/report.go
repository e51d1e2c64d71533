package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/canary-guardian/guardian/internal/printable"
	"github.com/canary-guardian/guardian/rules"
)

// report is what a replay found, as -o json prints it. Within a version of its shape
// keys are added, and none is renamed, removed, or given another meaning. Times are
// RFC 3339, shares 0 to 1.
type report struct {
	APIVersion string        `json:"apiVersion"`
	Kind       string        `json:"kind"`
	Prometheus string        `json:"prometheus"`
	From       time.Time     `json:"from"`
	To         time.Time     `json:"to"`
	Set        []string      `json:"set"` // what --set changed
	Guards     []guardReport `json:"guards"`
	Cost       cost          `json:"cost"`
}

const (
	reportVersion = "cli.canary-guardian.io/v1"
	reportKind    = "GuardReplay"
)

// cost is what the replay took.
type cost struct {
	Seconds number `json:"seconds"`
	Queries int    `json:"queries"`
	Samples int    `json:"samples"` // received from Prometheus
}

// guardReport is what a replay found about a guard.
type guardReport struct {
	Guard     string    `json:"guard"`
	Namespace string    `json:"namespace"`
	Notes     []string  `json:"notes,omitempty"`
	Failed    string    `json:"failed,omitempty"` // why what follows Releases was not replayed
	Releases  []release `json:"releases"`
	TooSmall  int       `json:"tooSmall"` // releases of fewer requests to the canary than the rules need, left out
	// Healthy is the time of releases that were neither taken back nor returned.
	Healthy struct {
		Hours  number `json:"hours"`
		Braked int    `json:"braked"` // releases among them in which guardian would have rolled back
		Held   int    `json:"held"`   // others in which it would have held the canary where it was
	} `json:"healthy"`
	TakenBack backSum `json:"takenBack"`
	// Returned are those of canaries that had had all traffic before: taken back, or the
	// next release began.
	Returned backSum `json:"returned"`
}

// backSum counts releases after which stable had the traffic.
type backSum struct {
	Releases int `json:"releases"`
	Braked   int `json:"braked"`  // those in which guardian would have rolled back
	Earlier  int `json:"earlier"` // those in which it would have been before people did
}

func (s *backSum) add(r release) {
	s.Releases++
	if r.Braked != nil {
		s.Braked++
	}
	if r.Earlier != nil && *r.Earlier > 0 {
		s.Earlier++
	}
}

// release is a time in which both versions had requests.
type release struct {
	Began     time.Time      `json:"began"` // of the canary's first and last request, to the scrape that counted it
	Ended     time.Time      `json:"ended"`
	Before    before         `json:"before"`
	Outcome   outcome        `json:"outcome"`
	PeakShare number         `json:"peakShare"` // the canary's, over a step of the survey
	Requests  number         `json:"requests"`  // of the canary
	TakenBack *time.Time     `json:"takenBackAt,omitempty"`
	Braked    *time.Time     `json:"brakedAt,omitempty"` // when guardian would have rolled back
	BrakedBy  rules.Signal   `json:"brakedBy,omitempty"`
	Earlier   *number        `json:"secondsEarlier,omitempty"` // than it was taken back; 0 or more
	Alerts    []alertReport  `json:"alerts"`
	Signals   []signalReport `json:"signals"`
}

// alertReport is an alert that would have fired.
type alertReport struct {
	Alert    string       `json:"alert"`
	Signal   rules.Signal `json:"signal"`
	Action   rules.Action `json:"action"`
	At       time.Time    `json:"at"`
	Until    time.Time    `json:"until"`
	Value    number       `json:"value"`                // of errors and latency the canary's share of bad requests; restarts: how many
	Bad      number       `json:"badRequests,omitzero"` // of the canary within Window, by Reporter
	Stable   number       `json:"stableShare,omitzero"` // of stable's bad requests within Window, where it is beyond the limit
	Window   string       `json:"window,omitempty"`
	Reporter string       `json:"reporter,omitempty"`
}

// signalReport is how much of a release a signal could judge.
type signalReport struct {
	Signal rules.Signal `json:"signal"`
	Judged number       `json:"judged"`        // share of the time
	Why    string       `json:"why,omitempty"` // it was not judged
}

// number is a JSON number; what JSON has none for is null.
type number float64

// MarshalJSON implements json.Marshaler.
func (n number) MarshalJSON() ([]byte, error) {
	if f := float64(n); math.IsNaN(f) || math.IsInf(f, 0) {
		return []byte("null"), nil
	}
	return json.Marshal(float64(n))
}

// deployments names the workloads that serve a guard's sides, where the configuration
// does not, as guardian itself would find them in the cluster.
func (g *guardReport) deployments(of *rules.Guard, s survey) {
	for _, side := range []struct {
		name string
		of   *rules.Side
	}{{stable, &of.Stable}, {canary, &of.Canary}} {
		if len(side.of.Workloads) == 0 && len(s.workloads[side.name]) > 0 {
			side.of.Workloads = s.workloads[side.name]
			g.Notes = append(g.Notes, fmt.Sprintf("%s %s: workloads %s, by what served it in this time", side.name, side.of.Name, strings.Join(side.of.Workloads, ", ")))
		}
	}
	both := slices.DeleteFunc(slices.Clone(of.Canary.Workloads), func(w string) bool { return !slices.Contains(of.Stable.Workloads, w) })
	if len(both) > 0 { // told apart by version alone
		of.Stable.Workloads, of.Canary.Workloads = nil, nil
		g.Notes = append(g.Notes, fmt.Sprintf("workloads %s served both versions: told apart by destination_version", strings.Join(both, ", ")))
	}
}

// sum adds up the releases.
func (g *guardReport) sum() {
	for _, r := range g.Releases {
		switch r.Outcome {
		case takenBack:
			g.TakenBack.add(r)
		case returned:
			g.Returned.add(r)
		default:
			g.Healthy.Hours += number(r.Ended.Sub(r.Began).Hours())
			switch {
			case r.Braked != nil:
				g.Healthy.Braked++
			case slices.ContainsFunc(r.Alerts, func(a alertReport) bool { return a.Action == rules.ActionHold }):
				g.Healthy.Held++
			}
		}
	}
	g.Healthy.Hours = number(math.Round(100*float64(g.Healthy.Hours)) / 100)
}

// write prints a report.
func (r report) write(out io.Writer, format string) error {
	switch format {
	case "json":
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	case "md":
		return r.markdown(out)
	}
	return r.text(out)
}

func (r report) text(out io.Writer) error {
	r.head(out, printable.Line)
	for _, g := range r.Guards {
		fmt.Fprintf(out, "\n%s (namespace %s)\n", g.Guard, g.Namespace)
		if len(g.Releases) > 0 {
			t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(t, "  "+strings.Join(columns, "\t"))
			for _, one := range g.Releases {
				for _, row := range one.rows() {
					fmt.Fprintln(t, "  "+strings.Join(each(row, printable.Line), "\t"))
				}
			}
			if err := t.Flush(); err != nil {
				return err
			}
		}
		for _, line := range each(g.words(), printable.Line) {
			fmt.Fprintln(out, "  "+line)
		}
	}
	r.foot(out)
	return nil
}

func (r report) markdown(out io.Writer) error {
	fmt.Fprintln(out, "# Replay")
	fmt.Fprintln(out)
	r.head(out, printable.Markdown)
	for _, g := range r.Guards {
		fmt.Fprintf(out, "\n## %s (namespace %s)\n\n", g.Guard, g.Namespace)
		if len(g.Releases) > 0 {
			fmt.Fprintln(out, "| "+strings.Join(columns, " | ")+" |")
			fmt.Fprintln(out, "|"+strings.Repeat("---|", len(columns)))
			for _, one := range g.Releases {
				for _, row := range one.rows() {
					fmt.Fprintln(out, "| "+strings.Join(each(row, printable.Markdown), " | ")+" |")
				}
			}
			fmt.Fprintln(out)
		}
		for _, line := range each(g.words(), printable.Markdown) {
			fmt.Fprintln(out, "- "+line)
		}
	}
	r.foot(out)
	return nil
}

func (r report) head(out io.Writer, safe func(string) string) {
	fmt.Fprintf(out, "%s to %s, by %s\n", stamp(r.From), stamp(r.To), safe(r.Prometheus))
	for _, s := range r.Set {
		fmt.Fprintf(out, "with %s\n", safe(s))
	}
}

func each(texts []string, of func(string) string) []string {
	out := make([]string, len(texts))
	for i, text := range texts {
		out[i] = of(text)
	}
	return out
}

func (r report) foot(out io.Writer) {
	fmt.Fprintf(out, "\n%.0f s, %d queries, %d samples.\n", float64(r.Cost.Seconds), r.Cost.Queries, r.Cost.Samples)
}

var columns = []string{"BEGAN (UTC)", "LASTED", "PEAK", "WENT ON", "GUARDIAN WOULD HAVE", "BY"}

// rows are the lines of a release: one for each alert, or one.
func (r release) rows() [][]string {
	first := []string{r.Began.Format("2006-01-02 15:04:05"), length(r.Ended.Sub(r.Began)), percent(float64(r.PeakShare)), r.wentOn()}
	var out [][]string
	for _, a := range r.Alerts {
		out = append(out, append(first, r.did(a), a.numbers()))
		first = []string{"", "", "", ""}
	}
	if out == nil {
		out = append(out, append(first, "let it pass", ""))
	}
	return out
}

func (r release) wentOn() string {
	switch r.Outcome {
	case takenBack, returned:
		return strings.ReplaceAll(string(r.Outcome), "-", " ") + " " + r.Ended.Format("15:04:05")
	}
	return string(r.Outcome)
}

// did is what guardian would have done by an alert.
func (r release) did(a alertReport) string {
	verb := "held it"
	switch a.Action {
	case rules.ActionNone:
		verb = "told people"
	case rules.ActionRollback:
		verb = "rolled back"
	}
	at := " " + a.At.Format("15:04:05")
	switch {
	case r.tooLate(a):
		return "found no traffic" + at + ", " + length(a.At.Sub(*r.TakenBack)) + " later"
	case r.TakenBack != nil && a.Action == rules.ActionRollback:
		return verb + at + ", " + length(r.TakenBack.Sub(a.At)) + " earlier"
	}
	return verb + at
}

// tooLate reports whether an alert fired after the canary's traffic had ended: guardian
// rolls back no canary without traffic.
func (r release) tooLate(a alertReport) bool {
	return r.TakenBack != nil && a.At.After(*r.TakenBack)
}

// numbers are those of the moment in which an alert fires.
func (a alertReport) numbers() string {
	text := string(a.Signal)
	switch a.Signal {
	case rules.SignalErrorRate, rules.SignalLatency:
		text += " " + percent(float64(a.Value))
		if a.Bad > 0 {
			text += fmt.Sprintf(" (%.0f bad within %s)", float64(a.Bad), a.Window)
		}
		if a.Stable > 0 {
			text += ", stable " + percent(float64(a.Stable))
		}
	case rules.SignalRestarts:
		text += fmt.Sprintf(" %.0f", float64(a.Value))
	case rules.SignalTraffic:
		text += " " + percent(float64(a.Value))
	case rules.SignalComparison:
		text += fmt.Sprintf(" with stable, evidence %.1f", float64(a.Value))
	}
	return text
}

// words sum a guard up.
func (g guardReport) words() []string {
	var out []string
	if g.Failed != "" {
		out = append(out, "NOT JUDGED: all that is not above: "+g.Failed)
	}
	if len(g.Releases) == 0 {
		if g.Failed == "" {
			out = append(out, "No release: at no time had both versions requests.")
		}
	} else {
		back := func(s backSum) string {
			return fmt.Sprintf("%d, of which guardian would have rolled back %d, %d of them earlier.", s.Releases, s.Braked, s.Earlier)
		}
		out = append(out, fmt.Sprintf("Releases: %d. Taken back: %s", len(g.Releases), back(g.TakenBack)))
		if g.Returned.Releases > 0 {
			out = append(out, "Returned: "+back(g.Returned))
		}
		out = append(out, fmt.Sprintf("Not taken back: %d, %.1f hours, of which guardian would have rolled back %d and held %d.",
			len(g.Releases)-g.TakenBack.Releases-g.Returned.Releases, float64(g.Healthy.Hours), g.Healthy.Braked, g.Healthy.Held))
	}
	if g.TooSmall > 0 {
		out = append(out, fmt.Sprintf("Left out: %d with fewer than %d requests to the canary.", g.TooSmall, leastRequests))
	}
	return append(append(out, g.notJudged()...), g.Notes...)
}

// notJudged tells of signals that were not judged, in how many releases and why.
func (g guardReport) notJudged() []string {
	type key struct {
		signal rules.Signal
		why    string
	}
	count := map[key]int{}
	partly := map[rules.Signal]int{}
	for _, r := range g.Releases {
		for _, s := range r.Signals {
			switch {
			case s.Judged == 0:
				count[key{s.Signal, s.Why}]++
			case s.Judged < 0.9:
				partly[s.Signal]++
			}
		}
	}
	var out []string
	for _, s := range rules.SignalNames() {
		var lines []string
		for k, n := range count {
			if k.signal == s {
				lines = append(lines, fmt.Sprintf("NOT JUDGED: %s in %d of %d releases: %s.", s, n, len(g.Releases), k.why))
			}
		}
		slices.Sort(lines)
		out = append(out, lines...)
		if partly[s] > 0 {
			out = append(out, fmt.Sprintf("Judged less than nine tenths of the time: %s in %d of %d releases.", s, partly[s], len(g.Releases)))
		}
	}
	return out
}

func percent(share float64) string {
	switch p := 100 * share; {
	case math.IsNaN(p):
		return "?"
	case p >= 10 || p == 0:
		return fmt.Sprintf("%.0f%%", p)
	default:
		return fmt.Sprintf("%.2g%%", p)
	}
}

// length is a duration for people.
func length(d time.Duration) string {
	if d = d.Round(time.Second); d >= time.Hour {
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	}
	return d.String()
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

// errorJSON is what a program reads where there is no report.
type errorJSON struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Code       int    `json:"code"` // as the exit code
	Text       string `json:"text"`
}

func writeError(w io.Writer, err error) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(errorJSON{reportVersion, "Error", exitUnknown, "could not tell: " + printable.Line(err.Error())})
}

// firstWrite knows whether anything was written.
type firstWrite struct {
	io.Writer
	wrote bool
}

func (w *firstWrite) Write(p []byte) (int, error) {
	w.wrote = w.wrote || len(p) > 0
	return w.Writer.Write(p)
}

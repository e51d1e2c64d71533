package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/canary-guardian/guardian/internal/printable"
	"github.com/canary-guardian/guardian/remediate/decision"
)

// tellGates prints the answers, and ends with their exit code.
func (a *app) tellGates(results []gateResult, o gateOptions) error {
	failed := gateError(results)
	switch {
	case o.output == "json":
		if err := a.gateJSON(results, o); err != nil {
			return orUnknown(err)
		}
	case o.format == "github":
		for _, r := range results {
			fmt.Fprintln(a.out, r.annotation())
		}
		if err := writeSummary(os.Getenv("GITHUB_STEP_SUMMARY"), results); err != nil {
			a.warn(fmt.Errorf("no job summary: %w", err))
		}
	case failed == nil || len(results) > 1:
		for _, r := range results {
			fmt.Fprintln(a.out, r.full())
		}
	}
	return failed
}

// sentence is the answer about one guard as people read it.
func (r gateResult) sentence() string {
	text := "guard " + r.guard + ": " + printable.Line(r.text) // a line of its own could be a command to GitHub
	if r.code == exitUnknown {
		return "could not tell: " + text
	}
	return text
}

// full is the sentence with who or what has stopped the canary, since when, and where to
// see more.
func (r gateResult) full() string { return r.sentence() + r.blame.lines("  ") }

// gateJSON is a gate's answer for programs.
type gateJSON struct {
	shape
	Guard     string         `json:"guard"`
	Namespace string         `json:"namespace"`
	Code      int            `json:"code"` // as the command's exit code
	Text      string         `json:"text"`
	State     decision.State `json:"state"`
	Weight    int            `json:"weight"`
	Requests  int64          `json:"requests"`
	Failed    int64          `json:"failed"`
	RuledOut  float64        `json:"ruledOut"` // error rates from here on are, at 95%; 1: none
	blame
}

// gateJSON prints one answer, or a list of those about several guards.
func (a *app) gateJSON(results []gateResult, o gateOptions) error {
	out := make([]gateJSON, len(results))
	for i, r := range results {
		s := r.last.Status
		bad, all := counted(s)
		ruledOut := 1.0
		if !s.Counted.At.IsZero() {
			ruledOut = upperBound(bad, all, 1-confidence)
		}
		if o.prove > 0 && r.code == exitOK {
			ruledOut = o.prove
		}
		out[i] = gateJSON{shapeOf("GateAnswer"), r.guard, r.namespace, r.code, r.text, s.State, s.Weight, all, bad, ruledOut, r.blame}
	}
	if len(out) == 1 && !o.all {
		return writeJSON(a.out, out[0])
	}
	return writeJSON(a.out, out)
}

// annotation is the answer as a workflow command of GitHub Actions.
func (r gateResult) annotation() string {
	kind := "error"
	if r.code == exitOK {
		kind = "notice"
	}
	data := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	property := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
	return fmt.Sprintf("::%s title=%s::%s", kind, property.Replace("guardian gate "+r.guard), data.Replace(r.full()))
}

// writeSummary adds a table to the job's summary, where there is one.
func writeSummary(file string, results []gateResult) error {
	if file == "" {
		return nil
	}
	var b strings.Builder
	b.WriteString("### guardian gate\n\n| guard | answer | canary | requests | failed | |\n|---|---|---|---|---|---|\n")
	for _, r := range results {
		answer := map[int]string{exitOK: "healthy", exitFailed: "**not healthy**", exitUnknown: "could not tell"}[r.code]
		bad, all := counted(r.last.Status)
		fmt.Fprintf(&b, "| %s | %s | %d%% | %s | %s | %s |\n", r.guard, answer, r.last.Status.Weight, thousands(all), thousands(bad), printable.Markdown(r.text)+r.blame.markdown())
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, b.String()+"\n")
	return errors.Join(err, f.Close())
}

// progressEvery is how often a log is told of a gate that goes on waiting for the
// same.
const progressEvery = 30 * time.Second

// gateProgress says on standard error what a gate waits for: on a terminal in one
// line that changes, else in a line for each change and every half minute.
type gateProgress struct {
	mu    sync.Mutex
	out   io.Writer
	live  bool
	shown bool                 // a live line stands there
	kinds map[string]string    // by guard, what was last said, without its numbers
	at    map[string]time.Time // and when
}

func (a *app) newProgress(o gateOptions) *gateProgress {
	out := a.errOut
	if o.output != "" {
		out = io.Discard // a program reads, and may not tell the two streams apart
	}
	return &gateProgress{out: out, live: watched(out) && o.format != "github", kinds: map[string]string{}, at: map[string]time.Time{}}
}

// say is a line of its own.
func (p *gateProgress) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, format+"\n", args...)
}

func (p *gateProgress) show(guard, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	line, _, _ := strings.Cut("guard "+guard+": "+text, "\n")
	line = printable.Line(line)
	if p.live {
		fmt.Fprint(p.out, "\r\x1b[K"+cut(line, width(p.out)-1))
		p.shown = true
		return
	}
	if what := numbers.ReplaceAllString(text, ""); what != p.kinds[guard] || time.Since(p.at[guard]) >= progressEvery {
		p.kinds[guard], p.at[guard] = what, time.Now()
		fmt.Fprintln(p.out, line)
	}
}

// end takes the live line away: the answer comes.
func (p *gateProgress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shown {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}

// gateError is what ends the program, nil for exit code 0.
func gateError(results []gateResult) error {
	code := worst(results)
	if code == exitOK {
		return nil
	}
	if len(results) == 1 {
		return &exitError{code, printable.OwnLines{Err: errors.New(results[0].full())}}
	}
	var bad []string
	for _, r := range results {
		if r.code == code {
			bad = append(bad, r.guard)
		}
	}
	what := "not healthy"
	if code == exitUnknown {
		what = "could not tell"
	}
	return &exitError{code, fmt.Errorf("%d of %d guards: %s: %s", len(bad), len(results), what, strings.Join(bad, ", "))}
}

// worst is the exit code of several: what is known to be bad before what could not
// be told.
func worst(results []gateResult) int {
	code := exitOK
	for _, r := range results {
		if r.code == exitFailed || code == exitOK {
			code = r.code
		}
		if code == exitFailed {
			break
		}
	}
	return code
}

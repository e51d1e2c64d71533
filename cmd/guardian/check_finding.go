package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/canary-guardian/guardian/cmd/guardian/config"

	"github.com/canary-guardian/guardian/internal/printable"
)

// level says what a finding is.
type level string

const (
	levelOK      level = "ok"
	levelNote    level = "note"    // nothing is wrong, and people should know
	levelUnknown level = "unknown" // could not be looked at
	levelFail    level = "fail"    // a rollback would not work, or not as it should
)

// mark begins a finding's line.
func (l level) mark() string {
	switch l {
	case levelFail:
		return "FAIL"
	case levelUnknown:
		return "?"
	}
	return string(l)
}

// finding is one thing that `guardian check` has to say. Its JSON is a contract:
// docs/cli.md has it.
type finding struct {
	Level   level  `json:"level"`
	Check   string `json:"check"`           // what was looked at, in a few fixed words
	Guard   string `json:"guard,omitempty"` // empty: about all of them
	Object  string `json:"object,omitempty"`
	Problem string `json:"problem"` // for level ok: what is well
	Fix     string `json:"fix,omitempty"`
}

// String is a line, and a second one with what mends it.
func (f finding) String() string {
	text := f.Problem
	if f.Object != "" {
		text = f.Object + ": " + text
	}
	if f.Guard != "" {
		text = "guard " + f.Guard + ": " + text
	}
	text = fmt.Sprintf("%-6s%s", f.Level.mark(), printable.Line(text)) // much of it is from the cluster
	if f.Fix != "" {
		text += "\n      fix: " + printable.Line(f.Fix)
	}
	return text
}

// preflight collects findings.
type preflight struct {
	app      *app
	config   config.Config
	guard    string // whom the next findings are about; empty: all
	findings []finding
	show     func(finding) // as each is found; nil: not before the end

	weights    map[string]int                 // of each guard's canary, as far as known
	httpRoutes *unstructured.UnstructuredList // of the namespace, once listed
}

func (p *preflight) add(l level, check, object, fix, format string, args ...any) {
	f := finding{Level: l, Check: check, Guard: p.guard, Object: object, Problem: fmt.Sprintf(format, args...), Fix: fix}
	p.findings = append(p.findings, f)
	if p.show != nil {
		p.show(f)
	}
}

func (p *preflight) ok(check, object, format string, args ...any) {
	p.add(levelOK, check, object, "", format, args...)
}

func (p *preflight) fail(check, object, fix, format string, args ...any) {
	p.add(levelFail, check, object, fix, format, args...)
}

func (p *preflight) note(check, object, fix, format string, args ...any) {
	p.add(levelNote, check, object, fix, format, args...)
}

func (p *preflight) unknown(check, object, fix, format string, args ...any) {
	p.add(levelUnknown, check, object, fix, format, args...)
}

// together makes one finding of those that differ in their object alone, which is a
// kind and a name.
func together(all []finding) []finding {
	var out []finding
	for _, f := range all {
		i := slices.IndexFunc(out, func(o finding) bool { return o.Level == f.Level && o.Problem == f.Problem && o.Fix == f.Fix })
		if i < 0 {
			out = append(out, f)
			continue
		}
		kind, names, _ := strings.Cut(out[i].Object, " ")
		_, name, _ := strings.Cut(f.Object, " ")
		if !strings.Contains(names, ", ") {
			kind += "s"
		}
		out[i].Object = kind + " " + names + ", " + name
	}
	return out
}

// addAll takes findings over.
func (p *preflight) addAll(all []finding) {
	for _, f := range all {
		p.add(f.Level, f.Check, f.Object, f.Fix, "%s", f.Problem)
	}
}

// count is how many findings have a level.
func (p *preflight) count(l level) int {
	n := 0
	for _, f := range p.findings {
		if f.Level == l {
			n++
		}
	}
	return n
}

// verdict is the error by which the program's exit code tells how it went.
func (p *preflight) verdict() error {
	wrong, unseen := p.count(levelFail), p.count(levelUnknown)
	switch {
	case wrong > 0:
		return fmt.Errorf("%d wrong, %d could not be looked at", wrong, unseen)
	case unseen > 0:
		return couldNotTell("%d could not be looked at", unseen)
	}
	return nil
}

// checkReport is all findings as `guardian check -o json` prints them.
type checkReport struct {
	shape
	Namespace string    `json:"namespace"`
	Result    level     `json:"result"` // ok, fail or unknown
	Wrong     int       `json:"wrong"`
	Unseen    int       `json:"unseen"`
	Findings  []finding `json:"findings"`
}

func (p *preflight) writeJSON(w io.Writer) error {
	r := checkReport{shape: shapeOf("Check"), Namespace: p.config.Namespace, Result: levelOK, Wrong: p.count(levelFail), Unseen: p.count(levelUnknown), Findings: p.findings}
	switch {
	case r.Wrong > 0:
		r.Result = levelFail
	case r.Unseen > 0:
		r.Result = levelUnknown
	}
	return writeJSON(w, r)
}

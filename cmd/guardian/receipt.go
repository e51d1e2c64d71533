package main

import (
	"cmp"
	_ "embed"
	"fmt"
	"html"
	"io"
	"math"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/canary-guardian/guardian/internal/printable"
	"github.com/canary-guardian/guardian/remediate/decision"
)

func newReceiptCommand(a *app) *cobra.Command {
	var flags clusterFlags
	var output string
	cmd := &cobra.Command{
		Use:   "receipt NAME",
		Short: "Show one document about a guard's last rollback",
		Long: `Show what failed against which limit, when it began, was seen, was written and was
felt, how many requests failed, the build and what differs, who shifted traffic
last, links, what happens next and the command to go on. What guardian does not
know is shown as not known.

Exit codes: 0 shown; 1 an error, no such guard, or no rollback is known; 2 no cluster, or
wrong flags.`,
		Args:              wantArgs(1, 1),
		ValidArgsFunction: a.completeGuards(&flags, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			show, ok := receiptPrinters[output]
			if !ok {
				return orUnknown(fmt.Errorf("--output %q: want json, md, html, or nothing for plain text", output))
			}
			c, err := a.reach(flags)
			if err != nil {
				return err
			}
			r, err := c.records().Known(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if r.Receipt == nil {
				return fmt.Errorf("no rollback of %s is known; what happened: guardian history %s -n %s", args[0], args[0], c.namespace)
			}
			return show(newReceiptView(c.namespace, args[0], r), a.out)
		},
	}
	flags.add(cmd.Flags())
	cmd.Flags().StringVarP(&output, "output", "o", "", "json, md or html instead of plain text")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"json", "md", "html"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

var receiptPrinters = map[string]func(receiptView, io.Writer) error{"": receiptView.text, "json": receiptView.json, "md": receiptView.markdown, "html": receiptView.html}

// receiptView is a receipt as people read it: its parts in their order, with the
// record's present word on what happens next.
type receiptView struct {
	Title    string
	Sections []receiptSection
	Links    []decision.Link
	Next     string
	Command  string

	doc receiptJSON
}

type receiptSection struct {
	Name string
	Rows []receiptRow
}

type receiptRow struct{ Name, Value string }

// receiptJSON is a receipt for programs.
type receiptJSON struct {
	shape
	Guard     string           `json:"guard"`
	Namespace string           `json:"namespace"`
	Receipt   decision.Receipt `json:"receipt"`
	// Seconds are since the time before it that is known: fired, seen, written, felt.
	Seconds map[string]float64 `json:"seconds"`
	Locked  bool               `json:"locked"`  // the lock stands still
	Next    string             `json:"next"`    // what happens next, in words
	Command string             `json:"command"` // to go on
}

const notKnown = "not known"

func newReceiptView(namespace, guard string, rec decision.Record) receiptView {
	r := *rec.Receipt
	r.Links = shownLinks(r.Links)
	v := receiptView{Title: fmt.Sprintf("Rollback of %s/%s at %s", namespace, guard, orNotKnown(stampOf(r.Written))), Links: r.Links}
	v.Next, v.Command = nextOf(namespace, guard, rec)
	v.Sections = []receiptSection{
		{"What failed", whatFailed(r)}, {"When", whenOf(r)}, {"How many", howMany(r)}, {"What ran", whatRan(r)},
	}
	v.doc = receiptJSON{shapeOf("GuardReceipt"), guard, namespace, r, secondsOf(r), rec.Lock != nil, v.Next, v.Command}
	return v
}

func orNotKnown(text string) string { return cmp.Or(text, notKnown) }

func stampOf(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}

func whatFailed(r decision.Receipt) []receiptRow {
	limit := orNotKnown(r.Limit)
	if r.Limit == "" && r.Alert != "" {
		limit += ": the alert is none of guardian's own rules"
	}
	rows := []receiptRow{{"Why", r.Reason}, {"By", r.By}}
	if r.Alert != "" {
		rows = append(rows, receiptRow{"Alert", r.Alert}, receiptRow{"Limit", limit})
	}
	return append(rows, receiptRow{"Weight", fmt.Sprintf("%d%% → 0%%", r.From)})
}

// moment is one of the known times of a rollback.
type moment struct {
	name  string // as a receipt calls it
	plain string // what happened then
	at    time.Time
	after *float64 // seconds since the one before that is known; nil: it is the first
}

// momentsOf are the known times of a rollback, in their order.
func momentsOf(r decision.Receipt) []moment {
	had := "guardian had the request"
	if r.Alert != "" {
		had = "guardian had the alert"
	}
	var out []moment
	for _, m := range []moment{
		{name: "Began", plain: "the fault was there", at: r.Began}, {name: "Fired", plain: "the alert fired", at: r.Fired},
		{name: "Seen", plain: had, at: r.Seen}, {name: "Written", plain: "all traffic was at stable", at: r.Written},
		{name: "Felt", plain: "the canary's last request was counted", at: r.Felt},
	} {
		if m.at.IsZero() || r.Alert == "" && (m.name == "Began" || m.name == "Fired") {
			continue
		}
		if len(out) > 0 {
			seconds := m.at.Sub(out[len(out)-1].at).Seconds()
			m.after = &seconds
		}
		out = append(out, m)
	}
	return out
}

// secondsOf is what a receipt for programs has of them.
func secondsOf(r decision.Receipt) map[string]float64 {
	out := map[string]float64{}
	for _, m := range momentsOf(r) {
		if m.after != nil {
			out[strings.ToLower(m.name)] = math.Round(*m.after*1000) / 1000
		}
	}
	return out
}

// whenOf is each time with the seconds since the one before that is known.
func whenOf(r decision.Receipt) []receiptRow {
	known := map[string]moment{}
	for _, m := range momentsOf(r) {
		known[m.name] = m
	}
	var rows []receiptRow
	add := func(name, otherwise, says string) {
		m, ok := known[name]
		text := otherwise
		if ok {
			text = fmt.Sprintf(says, stampOf(m.at))
		}
		if m.after != nil {
			text += fmt.Sprintf(" (%+.3f s)", *m.after)
		}
		rows = append(rows, receiptRow{name, text})
	}
	if r.Alert != "" {
		began := notKnown
		if r.Open {
			began += " yet"
		}
		add("Began", began, "by %s, whose samples proved it")
		add("Fired", notKnown, "%s")
	}
	add("Seen", notKnown, "%s")
	add("Written", notKnown, "%s")
	felt := notKnown
	switch {
	case r.NotFelt != "":
		felt += ": " + r.NotFelt
	case r.Open:
		felt += " yet: guardian asks Prometheus for some minutes"
	}
	add("Felt", felt, "%s, after which no scrape has counted a request to the canary")
	return rows
}

func howMany(r decision.Receipt) []receiptRow {
	if r.Counted.At.IsZero() {
		why := notKnown
		if r.Open {
			why += " yet"
		}
		return []receiptRow{{"Requests", why}, {"Failed", why}}
	}
	over := fmt.Sprintf("between %s and %s", stampOf(r.Counted.Since), stampOf(r.Counted.At))
	return []receiptRow{{"Requests", fmt.Sprintf("%d of the canary %s", r.Requests, over)}, {"Failed", fmt.Sprint(r.Failed)}}
}

func whatRan(r decision.Receipt) []receiptRow {
	unread := notKnown
	switch {
	case r.Unread != "":
		unread += ": " + r.Unread
	case r.Open:
		unread += " yet"
	}
	rows := []receiptRow{{"Build", orNotKnown(r.Build)}}
	list := func(name string, lines []string, none string) {
		if len(lines) == 0 {
			lines = []string{none}
		}
		for i, line := range lines {
			if i > 0 {
				name = ""
			}
			rows = append(rows, receiptRow{name, line})
		}
	}
	list("Image", r.Images, unread)
	nothing := unread
	if len(r.Images) > 0 && r.Unread == "" {
		nothing = "nothing"
	}
	list("Differs from stable", r.Differs, nothing)
	if r.Good != "" {
		list("Differs from the last good build "+r.Good, r.Since, "nothing")
	} else {
		list("Differs from the last good build", nil, notKnown+": none has stood its rollback window out here, or the cluster keeps its template no more")
	}
	shifted := notKnown
	if s := r.Shifted; s != nil {
		shifted = fmt.Sprintf("%s at %s%s", s.Manager, s.At.UTC().Format(time.RFC3339), orNothing(": ", s.Cause))
	}
	return append(rows, receiptRow{"Shifted last by", shifted})
}

// nextOf is what happens next by what the record says now, and the command to go on.
func nextOf(namespace, guard string, rec decision.Record) (next, command string) {
	if rec.Lock != nil {
		return nextOfLock(rec, func(verb, flags string) string {
			return fmt.Sprintf("guardian %s %s -n %s%s", verb, guard, namespace, flags)
		})
	}
	command = fmt.Sprintf("guardian status %s -n %s", guard, namespace)
	if rec.Receipt.Lock == decision.LockNone {
		return "There is no lock: traffic may be shifted again, and another alert rolls back again.", command
	}
	for e := range rec.NewestFirst() {
		if e.Event == decision.EventUnlocked && e.At.After(rec.Receipt.Written) {
			return fmt.Sprintf("The lock was lifted at %s by %s: %s. Traffic may be shifted.", e.At.UTC().Format(time.RFC3339), cmp.Or(e.By, notKnown), e.Reason), command
		}
	}
	return "The lock was lifted. Traffic may be shifted.", command
}

// nextOfLock is the same while a lock stands. It promises nothing that guardian does not
// do where the guard stands now.
func nextOfLock(rec decision.Record, typed func(verb, flags string) string) (next, command string) {
	s, unlock := rec.Status, typed("unlock", " --reason '…'")
	switch {
	case s.Observing != nil:
		return "The lock stands until a person lifts it. In mode observe a new build lifts nothing, and guardian sends nothing back.", unlock
	case s.Disarmed != nil:
		return fmt.Sprintf("The guard is disarmed until %s: guardian takes no traffic from the canary before that, and the lock stands.", decision.Stamp(s.Disarmed.Until)),
			typed("arm", " --reason '…'")
	case s.State == decision.StateBlocked && s.Weight == 0:
		return fmt.Sprintf("The canary has no weight, but guardian cannot do all that keeps requests from it: %s.", strings.TrimRight(s.Reason, ". ")), typed("status", "")
	case s.State == decision.StateBlocked:
		return fmt.Sprintf("The canary has %d%% of the traffic, and guardian cannot take it away yet: %s. It does as soon as it can.", s.Weight, strings.TrimRight(s.Reason, ". ")), typed("status", "")
	case rec.Lock.Kind != decision.LockBuild:
		return "The canary stays at 0% until a person lifts the lock.", unlock
	case !liftedByBuild(*rec.Lock, s):
		return "The canary stays at 0% until a person lifts the lock: guardian cannot see which build the canary runs, so no new one lifts it.", unlock
	}
	return "The canary stays at 0% until a new build of it is ready, or a person lifts the lock. Deploy a fixed build and wait for it before shifting traffic.",
		typed("gate", " --wait-unlocked")
}

// liftedByBuild says whether a new build of the canary lifts a lock: only where
// guardian sees which one it runs.
func liftedByBuild(l decision.Lock, s decision.Status) bool {
	return l.Kind == decision.LockBuild && s.Build != "" && s.Observing == nil
}

func (v receiptView) text(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, printable.Line(v.Title))
	for _, s := range v.Sections {
		fmt.Fprintf(t, "\n%s\n", s.Name)
		for _, r := range s.Rows {
			name := r.Name
			if name != "" {
				name += ":"
			}
			fmt.Fprintf(t, "  %s\t%s\n", printable.Line(name), printable.Line(r.Value))
		}
	}
	fmt.Fprint(t, "\nLinks\n")
	for _, l := range v.Links {
		fmt.Fprintf(t, "  %s:\t%s\n", printable.Line(l.Name), printable.Line(l.URL))
	}
	if len(v.Links) == 0 {
		fmt.Fprintln(t, "  none are configured (rules.links)")
	}
	fmt.Fprintf(t, "\nNext\n  %s\n  %s\n", printable.Line(v.Next), v.Command)
	return t.Flush()
}

func (v receiptView) json(w io.Writer) error { return writeJSON(w, v.doc) }

func (v receiptView) markdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n", printable.Markdown(v.Title))
	for _, s := range v.Sections {
		fmt.Fprintf(&b, "\n## %s\n\n| | |\n|---|---|\n", s.Name)
		for _, r := range s.Rows {
			fmt.Fprintf(&b, "| %s | %s |\n", printable.Markdown(r.Name), printable.Markdown(r.Value))
		}
	}
	if len(v.Links) > 0 {
		b.WriteString("\n## Links\n\n")
		for _, l := range v.Links {
			fmt.Fprintf(&b, "- %s\n", markdownLinks([]decision.Link{l}))
		}
	}
	fmt.Fprintf(&b, "\n## Next\n\n%s\n\n```sh\n%s\n```\n", printable.Markdown(v.Next), v.Command)
	_, err := io.WriteString(w, b.String())
	return err
}

//go:embed receipt.html
var receiptHead string

// html writes the page by hand: a package for templates calls methods by name, so
// that the linker would keep all of them, which is half of guardian's binary.
func (v receiptView) html(w io.Writer) error {
	var b strings.Builder
	put := func(format string, values ...string) {
		escaped := make([]any, len(values))
		for i, value := range values {
			escaped[i] = html.EscapeString(printable.Line(value))
		}
		fmt.Fprintf(&b, format, escaped...)
	}
	put(strings.ReplaceAll(receiptHead, "100%", "100%%"), v.Title)
	put("<body>\n<main>\n<h1>%s</h1>\n", v.Title)
	for _, s := range v.Sections {
		put("<h2>%s</h2>\n<table>\n", s.Name)
		for _, r := range s.Rows {
			put("<tr><th scope=\"row\">%s</th><td>%s</td></tr>\n", r.Name, r.Value)
		}
		put("</table>\n")
	}
	if len(v.Links) > 0 {
		put("<h2>Links</h2>\n<ul>\n")
		for _, l := range v.Links {
			if u, err := url.Parse(l.URL); err == nil && (u.Scheme == "https" || u.Scheme == "http") {
				put("<li><a href=\"%s\" rel=\"noreferrer\">%s</a></li>\n", l.URL, l.Name)
			}
		}
		put("</ul>\n")
	}
	put("<h2>Next</h2>\n<p>%s</p>\n<pre>%s</pre>\n</main>\n</body>\n</html>\n", v.Next, v.Command)
	_, err := io.WriteString(w, b.String())
	return err
}

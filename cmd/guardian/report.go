package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/canary-guardian/guardian/cmd/guardian/report"
	"github.com/canary-guardian/guardian/internal/printable"
	"github.com/canary-guardian/guardian/remediate/records"
)

func newReportCommand(a *app) *cobra.Command {
	var flags clusterFlags
	var since time.Duration
	var output string
	cmd := &cobra.Command{
		Use:   "report [NAME...]",
		Short: "Show how guardian has done: releases, rollbacks, how they went on, time without a brake",
		Long: `Show for the guards of the namespace, or those named, what guardian saw and did: the
releases and how each ended; each rollback, and each that mode observe kept from
being done, with its delay after the alert, what the build did next, and what people
have said of it (mark); holds; rollbacks that were blocked; and how long the brake
was off (disarm). A guard's history keeps the newest 32 KiB: the report says where it
begins. Whether the alerts came through is not in it: guardian_heartbeat_timestamp_seconds
in Prometheus is.

Exit codes: 0 shown; 1 an error, or no such guard; 2 no cluster, or wrong flags.`,
		ValidArgsFunction: a.completeGuards(&flags, 0),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case since <= 0:
				return orUnknown(fmt.Errorf("--since %s: want more than 0s, such as 30d or 12h", since))
			case output != "" && output != "json" && output != "md":
				return orUnknown(fmt.Errorf("--output %q: want json or md, or nothing for text", output))
			}
			c, err := a.reach(flags)
			if err != nil {
				return err
			}
			named, unread := reported(cmd, c, args)
			if len(named) == 0 {
				return unread
			}
			now := time.Now().UTC()
			r := report.Report{Since: now.Add(-since), Until: now, Guards: []report.Guard{}}
			for _, n := range named {
				r.Guards = append(r.Guards, report.Of(n.Guard, n.Record, r.Since, now))
			}
			return errors.Join(a.report(c.namespace, r, output), unread)
		},
	}
	flags.add(cmd.Flags())
	durationVar(cmd.Flags(), &since, "since", 30*24*time.Hour, "how far back, such as 30d or 12h")
	cmd.Flags().StringVarP(&output, "output", "o", "", "json, or md for Markdown, instead of text")
	return cmd
}

// reported are the records of these guards, or of all. What cannot be read, as a whole
// or at all, is in the error, and not among them.
func reported(cmd *cobra.Command, c *cluster, names []string) (out []records.Named, bad error) {
	for _, name := range names {
		r, err := c.records().Known(cmd.Context(), name)
		if bad = errors.Join(bad, err); err == nil {
			out = append(out, records.Named{Namespace: c.namespace, Guard: name, Record: r})
		}
	}
	if len(names) == 0 {
		all, err := c.records().List(cmd.Context(), c.namespace)
		if len(all) == 0 && err == nil {
			err = fmt.Errorf("no guard has a record in namespace %s: does guardian run for this namespace?", c.namespace)
		}
		return slices.DeleteFunc(all, func(r records.Named) bool { return len(r.Unreadable) > 0 }), err
	}
	return slices.DeleteFunc(out, func(r records.Named) bool {
		err := records.UnreadableError(r.Record, r.Namespace, r.Guard)
		bad = errors.Join(bad, err)
		return err != nil
	}), bad
}

// reportJSON is a report for programs.
type reportJSON struct {
	shape
	Namespace string `json:"namespace"`
	report.Report
}

func (a *app) report(namespace string, r report.Report, output string) error {
	if output == "json" {
		return writeJSON(a.out, reportJSON{shapeOf("Report"), namespace, r})
	}
	w := reportWriter{md: output == "md", columns: columnsOf(a.out)}
	w.heading("guardian in namespace %s, %s to %s", namespace, r.Since.UTC().Format(time.DateOnly), r.Until.UTC().Format(time.DateOnly))
	lines := summary(r.Total())
	if w.md {
		lines = "- " + strings.ReplaceAll(lines, "\n", "\n- ")
	}
	w.paragraph("%s", lines)
	for _, g := range r.Guards {
		w.guard(g, r.Since)
	}
	_, err := fmt.Fprintln(a.out, strings.TrimRight(w.String(), "\n"))
	return err
}

// summary says line by line how it has gone. Nobody's silence is counted as praise.
func summary(t report.Total) string {
	lines := []string{fmt.Sprintf("%s; %s", count(t.Releases, "release"), count(t.Done, "rollback"))}
	if t.Would > 0 {
		lines[0] += fmt.Sprintf(", %d more would have been (mode observe)", t.Would)
	}
	if n := len(t.Delays); n > 0 {
		lines = append(lines, fmt.Sprintf("from the alert to the rollback: %s median, %s at most (%d known)", seconds((t.Delays[(n-1)/2]+t.Delays[n/2])/2), seconds(t.Delays[n-1]), n))
	}
	if all := t.Done + t.Would; all > 0 {
		lines = append(lines, fmt.Sprintf("marked by people: %d wrong, %d right, %d not marked", t.Wrong, t.Right, all-t.Wrong-t.Right))
	}
	lines = append(lines, fmt.Sprintf("%s in the history; %s blocked; brake off (disarmed) for %s", count(t.Holds, "hold"), count(t.Blocked, "rollback"), t.Disarmed.Round(time.Second)))
	return strings.Join(lines, "\n")
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

// reportWriter writes a report as text, or as Markdown.
type reportWriter struct {
	strings.Builder
	md      bool
	columns int // of the terminal; 0: there is none
}

func (w *reportWriter) printf(format string, args ...any) { fmt.Fprintf(w, format, args...) }

func (w *reportWriter) heading(format string, args ...any) {
	if w.md {
		format = "# " + format
	}
	w.printf(format+"\n\n", args...)
}

func (w *reportWriter) paragraph(format string, args ...any) { w.printf(format+"\n\n", args...) }

func (w *reportWriter) guard(g report.Guard, since time.Time) {
	mark := ""
	if w.md {
		mark = "## "
	}
	mode := ""
	if g.Observes {
		mode = " (mode observe)"
	}
	w.printf("%s%s%s\n", mark, g.Name, mode)
	switch {
	case g.Begins.IsZero():
		w.paragraph("\nNothing has happened.")
		return
	case g.Begins.After(since):
		w.printf("\nIts history begins at %s.\n", g.Begins.UTC().Format(time.RFC3339))
	}
	w.printf("\n")
	w.table([]string{"RELEASE", "BEGAN", "HIGHEST", "END"}, releaseRows(g.Releases))
	w.table([]string{"ROLLBACK", "FROM", "DELAY", "ALERT", "THEN", "MARK", "WHY"}, rollbackRows(g.Rollbacks))
}

func releaseRows(releases []report.Release) (rows [][]string) {
	for _, r := range releases {
		end := string(r.End)
		if !r.EndedAt.IsZero() {
			end += " after " + r.EndedAt.Sub(r.Began).Round(time.Second).String()
		}
		rows = append(rows, []string{cmp.Or(short(r.Build), "-"), r.Began.UTC().Format(time.RFC3339), fmt.Sprintf("%d%%", r.Highest), end})
	}
	return rows
}

func rollbackRows(rollbacks []report.Rollback) (rows [][]string) {
	for _, r := range rollbacks {
		what, then, delay, mark := r.At.UTC().Format(time.RFC3339), "-", "-", "-"
		if r.Would {
			what, then = what+" (would have)", thenText(r)
		}
		if r.Delay != nil {
			delay = fmt.Sprintf("%.1f s", *r.Delay)
		}
		if r.Mark != nil {
			mark = map[bool]string{true: "wrong", false: "right"}[r.Mark.Wrong] + " (" + printable.Line(r.Mark.By) + ": " + printable.Line(r.Mark.Reason) + ")"
		}
		rows = append(rows, []string{what, fmt.Sprintf("%d%%", r.From), delay, cmp.Or(printable.Line(r.Alert), "-"), then, mark, printable.Line(r.Reason)})
	}
	return rows
}

// thenText is what the build did that was left alone.
func thenText(r report.Rollback) string {
	text := string(r.Then)
	if !r.ThenAt.IsZero() {
		text += " after " + r.ThenAt.Sub(r.At).Round(time.Second).String()
	}
	return fmt.Sprintf("%s, at most %d%%", text, r.Weight)
}

// table writes rows, if there are any.
func (w *reportWriter) table(columns []string, rows [][]string) {
	if len(rows) == 0 {
		return
	}
	if w.md {
		w.printf("| %s |\n|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
		for _, row := range rows {
			for i := range row {
				row[i] = printable.Markdown(row[i])
			}
			w.printf("| %s |\n", strings.Join(row, " | "))
		}
		w.printf("\n")
		return
	}
	last := columns[len(columns)-1]
	w.printf("%s\n", table{rows: append([][]string{columns}, rows...), whole: 1, prose: last == "WHY"}.layOut(w.columns))
}

package main

import (
	"cmp"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/canary-guardian/guardian/internal/printable"
	"github.com/canary-guardian/guardian/remediate/decision"
)

// historyOptions is how `guardian history` shows what happened.
type historyOptions struct {
	output string
	last   int
	since  time.Duration
}

func newHistoryCommand(a *app) *cobra.Command {
	var flags clusterFlags
	var o historyOptions
	cmd := &cobra.Command{
		Use:   "history NAME",
		Short: "Show what happened to a guard: when, what, by whom, why",
		Long: `Show the decisions about a guard that changed something, and the alerts that were
noted, oldest first, as its record has them: the newest 32 KiB, hundreds of entries.

Exit codes: 0 shown; 1 an error, or no such guard; 2 no cluster, or
wrong flags.`,
		Args:              wantArgs(1, 1),
		ValidArgsFunction: a.completeGuards(&flags, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := jsonOr("a table", o.output); err != nil {
				return orUnknown(err)
			}
			if o.last < 0 || o.since < 0 {
				return orUnknown(fmt.Errorf("--last %d, --since %s: want 0 or more", o.last, o.since))
			}
			c, err := a.reach(flags)
			if err != nil {
				return err
			}
			r, err := c.records().Known(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.history(c.namespace, args[0], r.History, o, time.Now())
		},
	}
	flags.add(cmd.Flags())
	cmd.Flags().StringVarP(&o.output, "output", "o", "", "json instead of a table")
	cmd.Flags().IntVar(&o.last, "last", 0, "only so many of the newest entries; 0: all")
	durationVar(cmd.Flags(), &o.since, "since", 0, "only those of so long ago, such as 24h; 0: all")
	return cmd
}

// historyJSON is a guard's history for programs.
type historyJSON struct {
	shape
	Guard     string                  `json:"guard"`
	Namespace string                  `json:"namespace"`
	Entries   []decision.HistoryEntry `json:"entries"`
}

func (a *app) history(namespace, guard string, entries []decision.HistoryEntry, o historyOptions, now time.Time) error {
	shown := []decision.HistoryEntry{}
	for _, e := range entries {
		if _, last := e.Count(); o.since == 0 || now.Sub(last) <= o.since {
			shown = append(shown, e)
		}
	}
	if o.last > 0 {
		shown = shown[max(0, len(shown)-o.last):]
	}
	if o.output == "json" {
		return writeJSON(a.out, historyJSON{shapeOf("GuardHistory"), guard, namespace, shown})
	}
	if len(shown) == 0 {
		fmt.Fprintln(a.errOut, "Nothing has happened.")
		return nil
	}
	rows := append([][]string{{"TIME", "EVENT", "CANARY", "BUILD", "BY", "WHY"}}, entryRows(shown, true)...)
	_, err := io.WriteString(a.out, table{rows: rows, whole: 4, prose: true}.layOut(columnsOf(a.out)))
	return err
}

// entryRows has a row for each entry, with its build or without.
func entryRows(entries []decision.HistoryEntry, build bool) (rows [][]string) {
	for _, e := range entries {
		weights := fmt.Sprintf("%d%%", e.To)
		if e.From != e.To {
			weights = fmt.Sprintf("%d%% → %d%%", e.From, e.To)
		}
		row := []string{e.At.UTC().Format(time.RFC3339), printable.Line(string(e.Event)), weights}
		if build {
			row = append(row, printable.Line(short(e.Build)))
		}
		rows = append(rows, append(row, printable.Line(cmp.Or(e.By, "-")), printable.Line(decision.Repeated(e))))
	}
	return rows
}

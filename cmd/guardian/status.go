package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/canary-guardian/guardian/remediate"
)

// statusOptions is how `guardian status` shows guards.
type statusOptions struct {
	output string
	watch  bool
	all    bool
}

func newStatusCommand(a *app) *cobra.Command {
	var flags clusterFlags
	var o statusOptions
	cmd := &cobra.Command{
		Use:   "status [NAME]",
		Short: "Show guards: weights, state, build, lock, alerts, next step",
		Long: `Show every guard of the namespace, or one with its recent history.

Exit codes: 0 shown; 1 an error, or no such guard; 2 could not tell: no guardian
lives, and what is shown is what it last wrote.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.output != "" && o.output != "json" {
				return fmt.Errorf("--output %q: want json, or nothing for a table", o.output)
			}
			if o.all && len(args) > 0 {
				return fmt.Errorf("guard %s and --all-namespaces: want one of the two", args[0])
			}
			c, err := a.connect(flags)
			if err != nil {
				return err
			}
			if o.watch {
				return a.watchStatus(cmd.Context(), c, cmp.Or(append(args, "")...), o)
			}
			return a.status(cmd.Context(), c, cmp.Or(append(args, "")...), o)
		},
	}
	flags.add(cmd.Flags())
	cmd.Flags().StringVarP(&o.output, "output", "o", "", "json instead of a table")
	cmd.Flags().BoolVarP(&o.watch, "watch", "w", false, "go on, and show each change")
	cmd.Flags().BoolVarP(&o.all, "all-namespaces", "A", false, "guards of every namespace")
	return cmd
}

// readStatus is the records to show; empty guard means all.
func (c *cluster) readStatus(ctx context.Context, guard string, all bool) ([]namedRecord, error) {
	if guard != "" {
		r, err := c.record(ctx, guard)
		if err != nil {
			return nil, err
		}
		if r == nil {
			return nil, c.unknownGuard(ctx, guard)
		}
		return []namedRecord{{c.namespace, guard, *r}}, nil
	}
	namespace := c.namespace
	if all {
		namespace = metav1.NamespaceAll
	}
	return c.records(ctx, namespace)
}

func (a *app) status(ctx context.Context, c *cluster, guard string, o statusOptions) error {
	records, err := c.readStatus(ctx, guard, o.all)
	if err != nil && len(records) == 0 {
		return err
	}
	now := time.Now()
	if printErr := a.printStatus(records, guard, o, now); printErr != nil {
		return printErr
	}
	if err != nil {
		return err
	}
	return c.statusPulse(ctx, records, o.all)
}

// statusPulse asks for a sign of life in each namespace that has guards.
func (c *cluster) statusPulse(ctx context.Context, records []namedRecord, all bool) error {
	namespaces := []string{c.namespace}
	if all {
		namespaces = nil
		for _, r := range records {
			if n := len(namespaces); n == 0 || namespaces[n-1] != r.namespace {
				namespaces = append(namespaces, r.namespace)
			}
		}
	}
	for _, namespace := range namespaces {
		in := *c
		in.namespace = namespace
		ok, why, _, err := in.look(ctx, &pulse{})
		if err != nil {
			return &exitError{exitUnknown, fmt.Errorf("could not tell whether a guardian lives: %w", err)}
		}
		if !ok {
			return couldNotTell("no live guardian in namespace %s: %s; shown is what was last written", namespace, why)
		}
	}
	return nil
}

// statusJSON is one guard for programs. Its fields are those of the record.
type statusJSON struct {
	Guard     string                   `json:"guard"`
	Namespace string                   `json:"namespace"`
	Status    remediate.Status         `json:"status"`
	Lock      *remediate.Lock          `json:"lock,omitempty"`
	Refused   []string                 `json:"refused,omitempty"`
	Message   string                   `json:"message,omitempty"`
	Request   *remediate.Request       `json:"request,omitempty"`
	History   []remediate.HistoryEntry `json:"history,omitempty"`
}

func (a *app) printStatus(records []namedRecord, guard string, o statusOptions, now time.Time) error {
	if o.output == "json" {
		return a.printJSON(records, guard)
	}
	if guard != "" {
		return printGuard(a.out, records[0], now)
	}
	if len(records) == 0 {
		fmt.Fprintln(a.errOut, "No guards found.")
		return nil
	}
	return printTable(a.out, records, o.all, true, now)
}

// printJSON is a list of guards, or one guard with its history.
func (a *app) printJSON(records []namedRecord, guard string) error {
	out := make([]statusJSON, 0, len(records))
	for _, r := range records {
		s := statusJSON{r.guard, r.namespace, r.Status, r.Lock, r.Refused, r.Message, r.Request, nil}
		if guard != "" {
			s.History = r.History
		}
		out = append(out, s)
	}
	enc := json.NewEncoder(a.out)
	enc.SetIndent("", "  ")
	if guard != "" {
		return enc.Encode(out[0])
	}
	return enc.Encode(out)
}

func printTable(w io.Writer, records []namedRecord, all, header bool, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(namespace string, cells ...string) {
		if all {
			cells = append([]string{namespace}, cells...)
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	if header {
		row("NAMESPACE", "NAME", "STATE", "CANARY", "FOR", "BUILD", "LOCK", "ALERTS", "NEXT")
	}
	for _, r := range records {
		s := r.Status
		row(r.namespace, r.guard, cmp.Or(string(s.State), "unknown"), fmt.Sprintf("%d%%", s.Weight), age(s.Since, now),
			short(s.Build), lockCell(r.Lock), cmp.Or(strings.Join(s.Alerts, ","), "-"), nextCell(s, now))
	}
	return t.Flush()
}

func lockCell(l *remediate.Lock) string {
	if l == nil {
		return "-"
	}
	return string(l.Kind) + " by " + cmp.Or(l.Signal, l.Alert, l.By)
}

func nextCell(s remediate.Status, now time.Time) string {
	switch {
	case s.NextStep == 0:
		return "-"
	case s.NextAt.After(now) && (s.Waiting == "" || s.WaitingFor == remediate.WaitInterval):
		return fmt.Sprintf("%d%% in %s", s.NextStep, s.NextAt.Sub(now).Round(time.Second))
	case s.Waiting != "" && s.WaitingFor != remediate.WaitInterval:
		return fmt.Sprintf("%d%% (%s)", s.NextStep, waitsFor(s))
	}
	return fmt.Sprintf("%d%%", s.NextStep)
}

func waitsFor(s remediate.Status) string { return strings.TrimPrefix(s.Waiting, "waiting: ") }

// ladder is all steps with the place where the canary stands in brackets: the
// lowest of its routes, which is the one that the next step is looked for from.
func ladder(s remediate.Status) string {
	if len(s.Ladder) == 0 {
		return ""
	}
	at := s.Weight - s.Spread
	rungs := slices.Clone(s.Ladder)
	if i, found := slices.BinarySearch(rungs, at); !found {
		rungs = slices.Insert(rungs, i, at)
	}
	var out []string
	for _, r := range rungs {
		text := fmt.Sprintf("%d%%", r)
		if r == at {
			text = "[" + text + "]"
		}
		out = append(out, text)
	}
	return fmt.Sprintf("%s, %s", s.Mode, strings.Join(out, " → "))
}

// nextLine is the next step in full: when it is due, and what it waits for.
func nextLine(s remediate.Status, now time.Time) string {
	if s.NextStep == 0 {
		return ""
	}
	text := fmt.Sprintf("%d%%", s.NextStep)
	at := s.NextAt.UTC().Format(time.RFC3339)
	switch {
	case s.NextAt.After(now):
		text += fmt.Sprintf(", due at %s (in %s)", at, s.NextAt.Sub(now).Round(time.Second))
	case !s.NextAt.IsZero():
		text += ", due since " + at
	}
	if s.WaitingFor == remediate.WaitInterval {
		return text
	}
	return text + orNothing("; ", s.Waiting)
}

// short is a build for a column.
func short(build string) string {
	const width = 12
	if len(build) > width {
		return build[:width]
	}
	return cmp.Or(build, "unknown")
}

func age(since, now time.Time) string {
	if since.IsZero() {
		return "-"
	}
	return now.Sub(since).Round(time.Second).String()
}

// recentHistory is how many entries `status NAME` shows; -o json has all.
const recentHistory = 10

func printGuard(w io.Writer, r namedRecord, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(t, "%s:\t%s\n", name, value)
		}
	}
	s := r.Status
	line("Guard", r.namespace+"/"+r.guard)
	line("State", fmt.Sprintf("%s for %s%s", cmp.Or(string(s.State), "unknown"), age(s.Since, now), orNothing(": ", s.Reason)))
	line("Canary", fmt.Sprintf("%d%% of the traffic, build %s, %d ready", s.Weight, short(s.Build), s.Ready.Canary))
	line("Stable", fmt.Sprintf("%d ready", s.Ready.Stable))
	line("Alerts", strings.Join(s.Alerts, ", "))
	if l := r.Lock; l != nil {
		line("Lock", fmt.Sprintf("%s, since %s by %s: %s", l.Kind, l.Since.UTC().Format(time.RFC3339), l.By, l.Reason))
		line("To go on", r.Message)
	}
	line("Refused builds", strings.Join(r.Refused, ", "))
	if p := s.Paused; p != nil {
		line("Paused", fmt.Sprintf("by %s at %s%s", p.By, p.At.UTC().Format(time.RFC3339), orNothing(": ", p.Reason)))
	}
	line("Promotion", ladder(s))
	line("Next step", nextLine(s, now))
	if s.Requests > 0 {
		line("Requests", fmt.Sprintf("%d of the canary since the weights changed", s.Requests))
	}
	if q := r.Request; q != nil {
		line("Asked for", fmt.Sprintf("%s by %s: %s", q.Action, q.By, q.Reason))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return printHistory(w, r.History)
}

func printHistory(w io.Writer, history []remediate.HistoryEntry) error {
	if len(history) == 0 {
		return nil
	}
	history = history[max(0, len(history)-recentHistory):]
	if _, err := fmt.Fprintln(w, "\nHistory:"); err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, e := range history {
		weights := fmt.Sprintf("%d%%", e.To)
		if e.From != e.To {
			weights = fmt.Sprintf("%d%% → %d%%", e.From, e.To)
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%s\n", e.At.UTC().Format(time.RFC3339), e.Event, weights, cmp.Or(e.By, "-"), e.Reason)
	}
	return t.Flush()
}

// statusPoll is how often a watched table is read again.
const statusPoll = 2 * time.Second

// watchStatus shows the guards, then each one again when its record changes.
func (a *app) watchStatus(ctx context.Context, c *cluster, guard string, o statusOptions) error {
	seen := map[string]string{}
	for first := true; ; first = false {
		records, err := c.readStatus(ctx, guard, o.all)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && first {
			return err
		}
		var changed []namedRecord
		for _, r := range records {
			key := r.namespace + "/" + r.guard
			if seen[key] != r.ResourceVersion {
				seen[key] = r.ResourceVersion
				changed = append(changed, r)
			}
		}
		if len(changed) > 0 {
			if o.output == "json" {
				err = a.printJSON(changed, guard)
			} else {
				err = printTable(a.out, changed, o.all, first, time.Now())
			}
			if err != nil {
				return err
			}
		}
		if first {
			if err := c.statusPulse(ctx, records, o.all); err != nil {
				fmt.Fprintln(a.errOut, "Warning: "+err.Error())
			}
		}
		if sleep(ctx, statusPoll) != nil {
			return nil
		}
	}
}

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/canary-guardian/guardian/cmd/guardian/page"
	"github.com/canary-guardian/guardian/internal/printable"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
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

Exit codes: 0 shown; 1 an error, or no such guard; 2 could not tell: no cluster, no
replica is running, or (with NAME) the guard is not in its configuration, and what is shown is
what was last written.`,
		Args:              wantArgs(0, 1),
		ValidArgsFunction: a.completeGuards(&flags, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := jsonOr("a table", o.output); err != nil {
				return orUnknown(err)
			}
			if o.all && len(args) > 0 {
				return orUnknown(fmt.Errorf("guard %s and --all-namespaces: want one of the two", args[0]))
			}
			c, err := a.reach(flags)
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
func (c *cluster) readStatus(ctx context.Context, guard string, all bool) ([]records.Named, error) {
	if guard != "" {
		r, err := c.records().Known(ctx, guard)
		if err != nil {
			return nil, err
		}
		return []records.Named{{Namespace: c.namespace, Guard: guard, Record: r}}, records.UnreadableError(r, c.namespace, guard)
	}
	namespace := c.namespace
	if all {
		namespace = metav1.NamespaceAll
	}
	return c.records().List(ctx, namespace)
}

func (a *app) status(ctx context.Context, c *cluster, guard string, o statusOptions) error {
	named, err := c.readStatus(ctx, guard, o.all)
	if err != nil && len(named) == 0 {
		return err
	}
	var p records.Liveness
	beat := ""
	if guard != "" {
		if _, _, err := c.records().Observe(ctx, &p); err == nil { // why not is said below
			beat = heartbeatText(&p)
		}
	}
	if len(named) == 0 && o.output == "" {
		where := "namespace " + c.namespace
		if o.all {
			where = "any namespace"
		}
		fmt.Fprintf(a.errOut, "No guards found in %s.\n", where)
	} else if printErr := a.printStatus(named, guard, beat, o, time.Now()); printErr != nil {
		return printErr
	}
	if err != nil {
		return err
	}
	warnings, err := c.statusLiveness(ctx, named, o.all)
	for _, text := range warnings {
		a.warn(errors.New(text))
	}
	if err != nil {
		return err
	}
	return a.statusOrphans(named, guard)
}

// statusOrphans says which guards are no longer managed. Asked for one of them, the
// answer is not what it is but what it was.
func (a *app) statusOrphans(named []records.Named, guard string) error {
	for _, r := range named {
		if r.Status.Orphaned.IsZero() {
			continue
		}
		text := fmt.Sprintf("%s; shown is what was last written. When the record is no longer needed: kubectl delete configmap -n %s %s",
			records.OrphanText(r.Guard, r.Status.Orphaned), r.Namespace, records.Name(r.Guard))
		if guard != "" {
			return couldNotTell("%s", text)
		}
		a.warn(errors.New(text))
	}
	return nil
}

// heartbeatText is the heartbeat in words, with the way that it took: what Prometheus
// pushes itself proves nothing of Alertmanager.
func heartbeatText(p *records.Liveness) string {
	if text := p.Unverified(); text != "" {
		return text
	}
	h := p.Heartbeat
	age, whole := h.Age.Round(time.Second), h.AgeByAlertmanager.Round(time.Second)
	switch {
	case !h.ByAlertmanager:
		return fmt.Sprintf("%s ago, straight from Prometheus; none through Alertmanager", age)
	case h.MaxAge > 0 && h.AgeByAlertmanager > h.MaxAge:
		return fmt.Sprintf("%s ago, straight from Prometheus; the last one through Alertmanager %s ago", age, whole)
	}
	return fmt.Sprintf("%s ago, through Prometheus and Alertmanager", whole)
}

// statusLiveness asks for a sign of life in each namespace that has guards, and
// warns where alerts may not reach who lives there.
func (c *cluster) statusLiveness(ctx context.Context, named []records.Named, all bool) (warnings []string, err error) {
	namespaces := []string{c.namespace}
	if all {
		namespaces = nil
		for _, r := range named {
			if n := len(namespaces); n == 0 || namespaces[n-1] != r.Namespace {
				namespaces = append(namespaces, r.Namespace)
			}
		}
	}
	for _, namespace := range namespaces {
		in := *c
		in.namespace = namespace
		var p records.Liveness
		why, err := in.records().FindReplica(ctx, &p)
		if err != nil {
			return warnings, &exitError{exitUnknown, fmt.Errorf("could not tell whether guardian is running: %w", err)}
		}
		if why != "" {
			return warnings, couldNotTell("no replica of guardian is running in namespace %s: %s; shown is what was last written", namespace, why)
		}
		if text := p.Unverified(); text != "" {
			warnings = append(warnings, "namespace "+namespace+": "+text)
		}
		warnings = append(warnings, failingOf(named, namespace, &p)...)
	}
	return warnings, nil
}

// failingOf says of which guards of a namespace the last pass failed, so that what is
// shown may be of before: of a few each, else how many there are.
func failingOf(named []records.Named, namespace string, p *records.Liveness) []string {
	const most = 5
	var all []string
	for _, r := range named {
		if text := p.Failing(r.Guard); text != "" && r.Namespace == namespace {
			all = append(all, "namespace "+namespace+": "+text)
		}
	}
	if more := len(all) - most; more > 0 {
		all = append(all[:most], fmt.Sprintf("namespace %s: the same of %d more guards", namespace, more))
	}
	return all
}

// statusJSON is one guard for programs. Its fields are those of the record.
type statusJSON struct {
	shape
	Guard     string                  `json:"guard"`
	Namespace string                  `json:"namespace"`
	Mode      decision.Mode           `json:"mode"`
	Status    decision.Status         `json:"status"`
	Lock      *decision.Lock          `json:"lock,omitempty"`
	Refused   []string                `json:"refused,omitempty"`
	Message   string                  `json:"message,omitempty"`
	Request   *decision.Request       `json:"request,omitempty"`
	History   []decision.HistoryEntry `json:"history,omitempty"`
	Links     []decision.Link         `json:"links,omitempty"` // about what is wrong
	// Unreadable is what of the record cannot be read, and why.
	Unreadable []string `json:"unreadable,omitempty"`
}

// printStatus shows guards of a namespace, or of all.
func (a *app) printStatus(named []records.Named, guard, beat string, o statusOptions, now time.Time) error {
	if o.output == "json" {
		return a.printJSON(named, guard)
	}
	if guard != "" {
		return printGuard(a.out, named[0], beat, now)
	}
	return printTable(a.out, named, o.all, true, now)
}

// printJSON is a list of guards, or one guard with its history.
func (a *app) printJSON(named []records.Named, guard string) error {
	out := make([]statusJSON, 0, len(named))
	for _, r := range named {
		s := statusJSON{shapeOf("GuardStatus"), r.Guard, r.Namespace, r.Status.GuardMode(), r.Status, r.Lock, r.Refused, r.Message, r.Request, nil, linksOf(r.Record), r.Unreadable}
		s.Status.Links = shownLinks(s.Status.Links)
		if guard != "" {
			s.History = r.History
		}
		out = append(out, s)
	}
	if guard != "" {
		return writeJSON(a.out, out[0])
	}
	return writeJSON(a.out, out)
}

func printTable(w io.Writer, named []records.Named, all, header bool, now time.Time) error {
	text := tableText(named, all, header, columnsOf(w), now)
	if colourful(w) {
		text = paintTable(text, named, all, header)
	}
	_, err := io.WriteString(w, text)
	return err
}

func tableText(named []records.Named, all, header bool, columns int, now time.Time) string {
	t := table{whole: 1, late: 2} // the state says whether a guard brakes
	if all {
		t.whole, t.late = 2, 3
	}
	row := func(namespace string, cells ...string) {
		if all {
			cells = append([]string{namespace}, cells...)
		}
		for i, c := range cells {
			cells[i] = printable.Line(c)
		}
		t.rows = append(t.rows, cells)
	}
	if header {
		row("NAMESPACE", "NAME", "STATE", "CANARY", "FOR", "LOCK", "ALERTS", "NEXT")
	}
	for _, r := range named {
		s := r.Status
		row(r.Namespace, r.Guard, stateCell(s), fmt.Sprintf("%d%%", s.Weight), ageCell(s.Since, now), lockCell(r.Lock), alertsCell(s.Alerts), nextCell(s, now))
	}
	return t.layOut(columns)
}

// stateCell is a guard's state, and that it is observed alone.
func stateCell(s decision.Status) string {
	text := cmp.Or(string(s.State), "unknown")
	if s.Observing != nil {
		text += " (observe)"
	}
	return text
}

// lockCell is the kind of a lock, and who set it where no alert did.
func lockCell(l *decision.Lock) string {
	switch {
	case l == nil:
		return "-"
	case cmp.Or(l.Alert, l.Signal) != "":
		return string(l.Kind)
	}
	return string(l.Kind) + " by " + l.By
}

// alertsCell is the first alert that fires, without what the names of guardian's
// own begin with, and how many more there are.
func alertsCell(names []string) string {
	if len(names) == 0 {
		return "-"
	}
	text := strings.TrimPrefix(names[0], "Guardian")
	if more := len(names) - 1; more > 0 {
		text += fmt.Sprintf(" +%d", more)
	}
	return text
}

// nextCell is the next step, and when it is due or, in one word, what it waits for.
func nextCell(s decision.Status, now time.Time) string {
	switch {
	case s.NextStep == 0:
		return "-"
	case s.NextAt.After(now) && (s.Waiting == "" || s.WaitingFor == decision.WaitInterval):
		return fmt.Sprintf("%d%% in %s", s.NextStep, duration.HumanDuration(s.NextAt.Sub(now)))
	case s.Waiting != "" && s.WaitingFor != decision.WaitInterval:
		return fmt.Sprintf("%d%% (%s)", s.NextStep, cmp.Or(strings.ReplaceAll(string(s.WaitingFor), "_", " "), waitsFor(s)))
	}
	return fmt.Sprintf("%d%%", s.NextStep)
}

// ageCell is age in few characters, as kubectl shows it.
func ageCell(since, now time.Time) string {
	if since.IsZero() {
		return "-"
	}
	return duration.HumanDuration(now.Sub(since))
}

func waitsFor(s decision.Status) string { return strings.TrimPrefix(s.Waiting, "waiting: ") }

// stepsText is all steps with the place where the canary stands in brackets: the
// lowest of its routes, which is the one that the next step is looked for from.
func stepsText(s decision.Status) string {
	if len(s.Steps) == 0 {
		return ""
	}
	at := s.Weight - s.Spread
	steps := slices.Clone(s.Steps)
	if i, found := slices.BinarySearch(steps, at); !found {
		steps = slices.Insert(steps, i, at)
	}
	var out []string
	for _, r := range steps {
		text := fmt.Sprintf("%d%%", r)
		if r == at {
			text = "[" + text + "]"
		}
		out = append(out, text)
	}
	return fmt.Sprintf("%s, %s", s.Mode, strings.Join(out, " → "))
}

// nextLine is the next step in full: when it is due, and what it waits for.
func nextLine(s decision.Status, now time.Time) string {
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
	if s.WaitingFor == decision.WaitInterval {
		return text
	}
	return text + orNothing("; ", s.Waiting)
}

// recentHistory is how many entries `status NAME` shows; -o json has all.
const recentHistory = 10

func printGuard(w io.Writer, r records.Named, beat string, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range factsOf(r, beat, now) {
		f.Value = printable.Line(f.Value)
		state := string(r.Status.State)
		if c, ok := stateColours[r.Status.State]; ok && f.Name == "State" && colourful(w) { // the last column: no width follows from it
			f.Value = strings.Replace(f.Value, state, c.paint(state), 1)
		}
		fmt.Fprintf(t, "%s:\t%s\n", f.Name, f.Value)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if err := printLinks(w, linksOf(r.Record)); err != nil {
		return err
	}
	return printHistory(w, r.History)
}

// factList are lines about a guard. Those without a value are left out.
type factList []page.Fact

func (f *factList) add(name, value string) {
	if value != "" {
		*f = append(*f, page.Fact{Name: name, Value: value})
	}
}

// factsOf are the lines about a guard; beat is the one about its heartbeat.
func factsOf(r records.Named, beat string, now time.Time) []page.Fact {
	var f factList
	s := r.Status
	f.add("Guard", r.Namespace+"/"+r.Guard)
	f.add("State", fmt.Sprintf("%s for %s%s", cmp.Or(string(s.State), "unknown"), age(s.Since, now), orNothing(": ", s.Reason)))
	if o := s.Observing; o != nil {
		f.add("Mode", "observe since "+o.Since.UTC().Format(time.RFC3339)+": what is decided is told, and no VirtualService is written")
		if o.Would != nil {
			f.add("If it enforced", o.Would.Text())
		}
	}
	f.add("No rollback by", s.NoRollbackText())
	f.add("Canary", fmt.Sprintf("%d%% of the traffic, build %s, %d ready", s.Weight, short(s.Build), s.Ready.Canary))
	f.add("Stable", fmt.Sprintf("%d ready", s.Ready.Stable))
	f.add("Capacity", s.Thin)
	f.add("Alerts", strings.Join(s.Alerts, ", "))
	f.add("Heartbeat", beat)
	f.addLock(r.Record)
	f.addPeople(s, now)
	f.add("Not readable", strings.Join(r.Unreadable, "; "))
	f.add("Not watched", s.Unwatched)
	f.add("Not guarded", strings.Join(s.Unguarded, ", "))
	f.add("Subsets", strings.Join(s.Overruled, "; "))
	f.add("Others' locks", strings.Join(s.ForeignLocks, ", "))
	for _, l := range s.Leaving {
		f.add("Leaving", l.VirtualService+", not in the configuration any more: "+cmp.Or(l.Why, "given back after the lock, and when no alert fires"))
	}
	f.add("Promotion", stepsText(s))
	f.add("Next step", nextLine(s, now))
	f.add("Requests", requestsText(s))
	if q := r.Request; q != nil {
		f.add("Asked for", fmt.Sprintf("%s by %s at %s: %s", q.Action, q.By, q.At.UTC().Format(time.RFC3339), q.Reason))
	}
	return f
}

// addLock has the lock, and the builds that are refused with and without one.
func (f *factList) addLock(r decision.Record) {
	if l := r.Lock; l != nil {
		since := ""
		if !l.Since.IsZero() {
			since = ", since " + l.Since.UTC().Format(time.RFC3339)
		}
		f.add("Lock", fmt.Sprintf("%s%s by %s: %s", l.Kind, since, l.By, l.Reason))
		f.add("To go on", r.Message)
	}
	f.add("Refused builds", strings.Join(r.Refused, ", "))
}

// addPeople has what people asked guardian not to do.
func (f *factList) addPeople(s decision.Status, now time.Time) {
	if x := s.Disarmed; x != nil {
		f.add("Disarmed", fmt.Sprintf("until %s (for %s), by %s at %s: %s; nothing is rolled back", x.Until.UTC().Format(time.RFC3339),
			x.Until.Sub(now).Round(time.Second), x.By, x.At.UTC().Format(time.RFC3339), x.Reason))
	}
	if p := s.Paused; p != nil {
		f.add("Paused", fmt.Sprintf("by %s at %s%s; the brake is on", p.By, p.At.UTC().Format(time.RFC3339), orNothing(": ", p.Reason)))
	}
	if s.PausedOnVS {
		f.add("Paused", "by annotation "+decision.AnnotationPaused+" on the VirtualService; the brake is on")
	}
}

// requestsText is how many requests the canary had, and how many failed; empty: it
// had none.
func requestsText(s decision.Status) string {
	if s.Requests <= 0 {
		return ""
	}
	failed := ""
	if !s.Counted.At.IsZero() {
		failed = fmt.Sprintf(", %d failed%s", s.Failed, orNothing(", ", latencyText(s.Latency)))
	}
	return fmt.Sprintf("%d of the canary since the weights changed%s", s.Requests, failed)
}

func printHistory(w io.Writer, history []decision.HistoryEntry) error {
	if len(history) == 0 {
		return nil
	}
	history = history[max(0, len(history)-recentHistory):]
	if _, err := fmt.Fprintln(w, "\nHistory:"); err != nil {
		return err
	}
	_, err := io.WriteString(w, table{rows: entryRows(history, false), indent: "  ", whole: 3, prose: true}.layOut(columnsOf(w)))
	return err
}

// statusPoll is how often a watched table is read again.
const statusPoll = 2 * time.Second

// statusCheckEvery is how often a watched table asks for a sign of life.
const statusCheckEvery = 10 * time.Second

// watchStatus shows the guards, then each one again when its record changes,
// and says when something stands in the way of seeing that.
func (a *app) watchStatus(ctx context.Context, c *cluster, guard string, o statusOptions) error {
	seen := map[string]string{}
	var said string // what was last warned of
	var looked time.Time
	var alive error
	for first := true; ; first = false {
		named, err := c.readStatus(ctx, guard, o.all)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && first && len(named) == 0 {
			return err
		}
		var changed []records.Named
		for _, r := range named {
			key := r.Namespace + "/" + r.Guard
			if seen[key] != r.ResourceVersion {
				seen[key] = r.ResourceVersion
				changed = append(changed, r)
			}
		}
		if printErr := a.printChanged(changed, guard, o, first); printErr != nil {
			return printErr
		}
		if now := time.Now(); (err == nil || len(named) > 0) && now.Sub(looked) >= statusCheckEvery {
			var warnings []string
			warnings, alive = c.statusLiveness(ctx, named, o.all)
			if ctx.Err() != nil {
				return nil
			}
			looked = now
			for _, text := range warnings {
				alive = errors.Join(alive, errors.New(text))
			}
		}
		if problem := errors.Join(err, alive); problem == nil && said != "" {
			said = ""
			fmt.Fprintln(a.errOut, "Connection restored.")
		} else if problem != nil && kind(problem) != said {
			said = kind(problem)
			a.warn(problem)
		}
		if sleep(ctx, statusPoll) != nil {
			return nil
		}
	}
}

// printChanged prints the records that are new to who watches.
func (a *app) printChanged(changed []records.Named, guard string, o statusOptions, header bool) error {
	if len(changed) == 0 {
		return nil
	}
	if o.output == "json" {
		return a.printJSON(changed, guard)
	}
	return printTable(a.out, changed, o.all, header, time.Now())
}

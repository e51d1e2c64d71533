package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/canary-guardian/guardian/internal/printable"
	"github.com/canary-guardian/guardian/remediate"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
)

// operation is one thing that a person may ask for.
type operation struct {
	action      decision.RequestAction
	short, long string
	all         bool // may be asked of every guard of a namespace at once
}

var operations = []operation{
	{action: decision.RequestRollback, short: "Roll a guard back to stable now", long: `Move all of the guard's traffic to stable and lock it there, as an alert would,
also while the guard is paused. A disarm ends with it.`},
	{action: decision.RequestUnlock, short: "Lift the lock of a guard that was rolled back", long: `Lift the lock that a rollback left and take the build off the refused ones. Traffic
stays on stable until CI or the promotion moves it. Of a guard that is no longer in
guardian's configuration the command lifts the lock itself.`},
	{action: decision.RequestPause, all: true, short: "Take no step forward; the brake stays on", long: `guardian takes no step of promotion any more. The brake stays on: an alert rolls
back, a lock is kept, and CI may go on shifting traffic. To take the brake off for
a time: disarm.`},
	{action: decision.RequestResume, all: true, short: "End a pause", long: "End the pause that pause began. A pause by annotation ends by removing it."},
	{action: decision.RequestPromote, short: "Take the next step of promotion now", long: `Take one step without waiting for its interval. Everything else that a step needs
still holds: no lock, no pause, no alert, enough requests, ready endpoints, a fresh
heartbeat.`},
	{action: decision.RequestDisarm, all: true, short: "Take the brake off for a time", long: `guardian only watches: no rollback, no step, and traffic that somebody gives to a
locked canary is not taken back. A lock stays, and so does what the admission
policy refuses. It ends by itself after --for, at most disarm.max of guardian's
configuration (24h), or earlier by arm; an alert that still fires then rolls back.
GuardianDisarmed fires meanwhile, and gate cannot tell.`},
	{action: decision.RequestArm, all: true, short: "Put the brake on again, before a disarm ends", long: "End a disarm. An alert that fires rolls back at once."},
}

// requestFlags are those of every operation.
type requestFlags struct {
	cluster clusterFlags
	reason  string
	timeout time.Duration
	length  time.Duration // of a disarm
	all     bool
	output  string
}

// newRequestCommands is one command for each thing that a person may ask for.
func newRequestCommands(a *app) []*cobra.Command {
	var commands []*cobra.Command
	for _, op := range operations {
		commands = append(commands, newRequestCommand(a, op))
	}
	return commands
}

func newRequestCommand(a *app, op operation) *cobra.Command {
	var f requestFlags
	use, disarms := string(op.action)+" NAME", op.action == decision.RequestDisarm
	if op.all {
		use += " | --all"
	}
	if disarms {
		use += " --for DURATION"
	}
	cmd := &cobra.Command{
		Use:   use + " --reason TEXT",
		Short: op.short,
		Long: op.long + `

The request is written into the guard's record with your own credentials, with
your name as the API server knows it and the reason; guardian carries it out and
removes it.

Exit codes: 0 done; 1 refused, blocked or an error; 2 could not tell: no guardian
is running or has the guard in its configuration, or none took the request in time,
when it is withdrawn; or it was taken, and traffic has not moved in time; or wrong
flags.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if f.all && len(args) > 0 {
				return fmt.Errorf("guard %s and --all: want one of the two", args[0])
			}
			if f.all {
				return nil
			}
			return cobra.ExactArgs(1)(cmd, args)
		},
		ValidArgsFunction: a.completeGuards(&f.cluster, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := decision.Request{Action: op.action, Reason: f.reason, At: time.Now().UTC().Truncate(time.Second)}
			if disarms {
				q.Until = q.At.Add(f.length)
			}
			if err := f.check(cmd); err != nil {
				return orUnknown(err)
			}
			c, err := a.reach(f.cluster)
			if err != nil {
				return err
			}
			return a.request(cmd.Context(), c, args, q, f)
		},
	}
	f.add(cmd.Flags(), op)
	return cmd
}

func (f *requestFlags) add(flags *pflag.FlagSet, op operation) {
	f.cluster.add(flags)
	flags.StringVar(&f.reason, "reason", "", "why, for those who read the record later (required)")
	flags.DurationVar(&f.timeout, "timeout", 30*time.Second, "how long guardian may take")
	flags.StringVarP(&f.output, "output", "o", "", "json instead of text")
	if op.all {
		flags.BoolVar(&f.all, "all", false, "every guard of the namespace, instead of NAME")
	}
	if op.action == decision.RequestDisarm {
		flags.DurationVar(&f.length, "for", 0, "for how long, such as 1h (required)")
	}
}

func (f requestFlags) check(cmd *cobra.Command) error {
	switch length := cmd.Flags().Lookup("for"); {
	case strings.TrimSpace(f.reason) == "":
		return errors.New("--reason is empty: say why, for those who read the record later")
	case length != nil && f.length <= 0:
		return errors.New("--for " + length.Value.String() + ": want for how long the brake is off, such as 1h: it comes on again by itself")
	case f.output != "" && f.output != "json":
		return fmt.Errorf("--output %q: want json, or nothing for text", f.output)
	}
	return nil
}

// requestAnswer is what came of one guard's request, for programs.
type requestAnswer struct {
	shape
	Guard     string                 `json:"guard"`
	Namespace string                 `json:"namespace"`
	Action    decision.RequestAction `json:"action"`
	Code      int                    `json:"code"` // as the command's exit code
	Text      string                 `json:"text"`
	State     decision.State         `json:"state,omitempty"`
	Weight    int                    `json:"weight"`
}

// requestsAtOnce is how many guards are asked for at a time.
const requestsAtOnce = 32

// request asks for q of one guard, or of all, and says what came of it.
func (a *app) request(ctx context.Context, c *cluster, guards []string, q decision.Request, f requestFlags) (err error) {
	waiting, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	var named []records.Named
	if f.all {
		named, err = c.records().List(ctx, c.namespace)
		if err == nil && len(named) == 0 {
			err = fmt.Errorf("no guard has a record in namespace %s: does guardian run for this namespace?", c.namespace)
		}
	} else {
		var r decision.Record
		if r, err = c.records().Known(ctx, guards[0]); err == nil {
			named = []records.Named{{Namespace: c.namespace, Guard: guards[0], Record: r}}
			err = records.UnreadableError(r, c.namespace, guards[0])
		}
	}
	if err != nil && len(named) == 0 {
		return err
	}
	if err != nil { // guardian begins anew what cannot be read
		a.warn(err.Error())
	}
	if q.By, err = c.whoAmI(ctx); err != nil {
		return err
	}
	if !slices.ContainsFunc(named, func(r records.Named) bool { return r.Status.Orphaned.IsZero() }) {
		return a.requestEach(ctx, waiting, c, named, q, f)
	}
	if err := c.wantReplica(ctx, &records.Liveness{}); err != nil {
		return &exitError{exitCode(err), fmt.Errorf("%w%s", err, a.byHand(q.Action, named[0].Guard, c.namespace, named[0].Record))}
	}
	return a.requestEach(ctx, waiting, c, named, q, f)
}

// requestEach asks for q of each guard, and prints an answer each.
func (a *app) requestEach(ctx, waiting context.Context, c *cluster, named []records.Named, q decision.Request, f requestFlags) error {
	if !f.all && f.output == "" {
		_, err := a.requestOne(ctx, waiting, c, named[0], q, f.timeout)
		return err
	}
	answers, failed := make([]requestAnswer, len(named)), make([]error, len(named))
	slots := make(chan struct{}, requestsAtOnce)
	var wg sync.WaitGroup
	for i, r := range named {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			answers[i], failed[i] = a.answerOf(ctx, waiting, c, r, q, f)
		})
	}
	wg.Wait()
	code := exitOK
	for _, answer := range answers {
		code = max(code, answer.Code)
	}
	if f.output == "json" {
		enc := json.NewEncoder(a.out)
		enc.SetIndent("", "  ")
		if !f.all {
			return cmp.Or(enc.Encode(answers[0]), failed[0])
		}
		if err := enc.Encode(answers); err != nil {
			return err
		}
	} else {
		for _, answer := range answers {
			a.say("guard %s: %s", answer.Guard, answer.Text)
		}
		if q.Action == decision.RequestPause {
			fmt.Fprintln(a.out, a.brakeIsOn("--all"))
		}
	}
	if code == exitOK {
		return nil
	}
	bad := 0
	for _, answer := range answers {
		if answer.Code != exitOK {
			bad++
		}
	}
	return &exitError{code, fmt.Errorf("%s of %d of %d guards is not done, or could not be told", q.Action, bad, len(answers))}
}

// answerOf asks for q of one guard and puts what came of it into one line.
func (a *app) answerOf(ctx, waiting context.Context, c *cluster, r records.Named, q decision.Request, f requestFlags) (requestAnswer, error) {
	answer := requestAnswer{shape: shapeOf("RequestAnswer"), Guard: r.Guard, Namespace: r.Namespace, Action: q.Action, State: r.Status.State, Weight: r.Status.Weight}
	if f.all && !r.Status.Orphaned.IsZero() {
		answer.Text = "left out: it is not in guardian's configuration"
		return answer, nil
	}
	quiet := *a
	quiet.out = io.Discard
	after, err := quiet.requestOne(ctx, waiting, c, r, q, f.timeout)
	if after != nil {
		answer.State, answer.Weight = after.Status.State, after.Status.Weight
		answer.Text = stateLine(*after)
	}
	if err != nil {
		answer.Text, _, _ = strings.Cut(err.Error(), "\n")
	}
	answer.Code = exitCode(err)
	return answer, err
}

// requestOne writes a request into a guard's record, waits until what follows
// from it shows there, and says what came of it.
func (a *app) requestOne(ctx, waiting context.Context, c *cluster, r records.Named, q decision.Request, timeout time.Duration) (after *decision.Record, err error) {
	guard, before := r.Guard, &r.Record
	if !before.Status.Orphaned.IsZero() {
		return nil, a.requestOfOrphan(ctx, c, guard, q, *before)
	}
	if q.Action == decision.RequestUnlock && before.Lock == nil && before.Status.Observing != nil {
		if taken, err := a.leftOfLock(ctx, c, guard, *before); taken || err != nil {
			return before, err
		}
	}
	if rollsBack(q, *before) {
		what, l := "rolled back", before.Lock
		if before.Status.State == decision.StateBlocked {
			what = "asked for"
		}
		a.say("already %s since %s by %s: %s", what, l.Since.UTC().Format(time.RFC3339), l.By, l.Reason)
	} else {
		var attempted bool
		before, attempted, err = c.records().Request(waiting, guard, q)
		if err != nil && attempted && records.Lost(err) {
			return nil, a.withdrawn(ctx, c, guard, q, before, "could not tell whether the request was written", err)
		}
		if err != nil {
			return nil, err
		}
		if was := before.Request; was != nil {
			a.say("replaced the waiting %s by %s: %s", was.Action, was.By, was.Reason)
		}
	}
	after, err = c.records().Await(waiting, guard, q, *before)
	switch {
	case err == nil:
		if err := a.outcome(guard, c.namespace, q, *before, *after); err != nil || q.Action != decision.RequestUnlock || after.Status.Observing == nil {
			return after, err
		}
		return after, a.takeOffLock(ctx, c, guard, *before) // guardian writes to no VirtualService
	case after != nil:
		return after, notYet(guard, q, *after, timeout)
	}
	return nil, a.withdrawn(ctx, c, guard, q, before, fmt.Sprintf("guardian has not taken the request within %s", timeout), err)
}

// brakeIsOn is what whoever pauses has to know.
func (a *app) brakeIsOn(what string) string {
	return fmt.Sprintf("The brake stays on: an alert still rolls back. To take it off for a time: %s disarm %s --for 1h --reason …", a.name, what)
}

// rollsBack says that the guard is locked already, so that guardian would
// refuse a rollback: it is at it, or has done it.
func rollsBack(q decision.Request, r decision.Record) bool {
	return q.Action == decision.RequestRollback && r.Lock != nil &&
		(r.Status.State == decision.StateRolledBack || r.Status.State == decision.StateBlocked)
}

// withdrawn takes a request back that must not be carried out when nobody expects
// it any more, and says so. ctx may be over already, by ctrl-C.
func (a *app) withdrawn(ctx context.Context, c *cluster, guard string, q decision.Request, before *decision.Record, what string, why error) error {
	cleanup, stop := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer stop()
	found, err := c.records().Withdraw(cleanup, guard, q)
	switch {
	case err != nil:
		return couldNotTell("%s (%w), and it could not be withdrawn: %w", what, why, err)
	case !found:
		return couldNotTell("%s (%w); it does not stand in the record now: see %s status %s", what, why, a.name, guard)
	}
	return couldNotTell("%s (%w); it has been withdrawn. Is guard %s still in guardian's configuration?%s",
		what, why, guard, a.byHand(q.Action, guard, c.namespace, *before))
}

// byHand is what a person can do about a canary when no guardian can.
func (a *app) byHand(action decision.RequestAction, guard, namespace string, r decision.Record) string {
	if action != decision.RequestRollback {
		return ""
	}
	m := r.Status.Moves
	text := "\nTo move the traffic yourself:"
	if m == nil {
		m = &decision.Moves{VirtualServices: []string{guard}, Stable: "v1", Canary: "v2"}
		text = "\nTo move the traffic yourself, with the guard's own stable, canary and VirtualService:"
	}
	for _, vs := range m.VirtualServices {
		// Not apply, nor replace: what kubectl then remembers as applied has a resourceVersion and guardian's
		// annotations, and the next apply of CI fails, or takes them off.
		text += fmt.Sprintf("\n  kubectl patch virtualservice -n %[1]s %[2]s --type=json -p \"$(kubectl get virtualservice -n %[1]s %[2]s -o yaml | %[3]s plan -f - --stable %[4]s --canary %[5]s -o patch)\"",
			namespace, printable.Word(vs), a.name, printable.Word(m.Stable), printable.Word(m.Canary))
	}
	return text
}

// requestOfOrphan is a request about a guard that no guardian looks after. What it
// asks for cannot be done, but for an unlock: that waits for guardian in the
// record, and the VirtualServices are let go at once, with the person's own rights.
func (a *app) requestOfOrphan(ctx context.Context, c *cluster, guard string, q decision.Request, r decision.Record) error {
	text := records.OrphanText(guard, r.Status.Orphaned)
	switch {
	case q.Action != decision.RequestUnlock:
		return couldNotTell("%s%s", text, a.byHand(q.Action, guard, c.namespace, r))
	case r.Lock == nil:
		return fmt.Errorf("unlock refused: not locked (%s)", text)
	}
	if r.Request == nil || r.Request.Action != q.Action {
		if _, _, err := c.records().Request(ctx, guard, q); err != nil {
			return err
		}
	}
	fmt.Fprintf(a.out, "%s.\nThe unlock waits in its record: guardian lifts the lock there when it has the guard again.\n", text)
	return a.takeOffLock(ctx, c, guard, r)
}

// takeOffLock takes the lock's annotation off the guard's VirtualServices, with the
// person's own rights, where guardian does not; r is the record with the lock.
func (a *app) takeOffLock(ctx context.Context, c *cluster, guard string, r decision.Record) error {
	_, err := a.leftOfLock(ctx, c, guard, r)
	for _, was := range r.Changed {
		a.say("Left as the rollback re-pointed it: VirtualService %s, %s", was.VirtualService, was.Path)
	}
	return err
}

func (a *app) leftOfLock(ctx context.Context, c *cluster, guard string, r decision.Record) (taken bool, err error) {
	names := r.VirtualServices
	if m := r.Status.Moves; len(names) == 0 && m != nil {
		names = m.VirtualServices
	}
	off, err := remediate.TakeOffLock(ctx, c.dynamic, c.namespace, guard, names)
	for _, name := range off {
		a.say("Taken off by this command: annotation %s%s of VirtualService %s; the API server refuses nothing there any more. No traffic has moved.", decision.AnnotationLock, guard, name)
	}
	if err != nil {
		err = c.records().Explain("unlock guard "+guard, err)
	}
	return len(off) > 0, err
}

// notYet is the answer when guardian has taken a request and time is up.
func notYet(guard string, q decision.Request, r decision.Record, timeout time.Duration) error {
	s := r.Status
	switch {
	case r.Lock != nil:
		return couldNotTell("guard %s: locked, but traffic has not moved yet after %s, as far as its record tells: canary at %d%%%s", guard, timeout, s.Weight, orNothing(": ", s.Reason))
	case s.Moving != nil:
		return couldNotTell("guard %s: guardian is moving the canary from %d%% to %d%%, but traffic has not moved yet after %s, as far as its record tells", guard, s.Weight, s.Moving.To, timeout)
	}
	return couldNotTell("guard %s: guardian has taken the %s, but after %s the canary is at %d%%%s", guard, q.Action, timeout, s.Weight, orNothing(": ", s.Reason))
}

// outcome prints what guardian recorded since, and fails when it refused.
func (a *app) outcome(guard, namespace string, q decision.Request, before, after decision.Record) error {
	for _, e := range records.NewEntries(before.History, after.History) {
		if e.Event != decision.EventRefused || e.By != q.By {
			a.say("%s: %s", e.Event, e.Reason)
		}
	}
	s := after.Status
	a.say("guard %s: %s", guard, stateLine(after))
	refused := records.Refusal(q, before, after)
	switch {
	case s.Moving != nil && s.Moving.Refused != "" && (records.RefusedRollback(q, after) || q.Action == decision.RequestPromote):
		return fmt.Errorf("the %s is recorded and is tried again; the API server has refused it: %s", q.Action, s.Moving.Refused)
	case rollsBack(q, after) && s.State == decision.StateBlocked:
		return fmt.Errorf("the rollback is recorded and will be done when it is safe: %s", s.Reason)
	case rollsBack(q, after): // refused if an alert was first: it is done all the same
		return nil
	case refused != "" && s.Observing != nil:
		return fmt.Errorf("%s%s", refused, a.byHand(q.Action, guard, namespace, after))
	case refused != "":
		return errors.New(refused)
	case q.Action == decision.RequestRollback && s.State == decision.StateBlocked:
		return fmt.Errorf("the rollback cannot be done now: %s", s.Reason)
	case !records.Done(q, before, after):
		return couldNotTell("the %s is no longer asked for, and the record does not show that it was done: another request may have taken its place (see %s status %s)", q.Action, a.name, guard)
	}
	if q.Action == decision.RequestPause {
		fmt.Fprintln(a.out, a.brakeIsOn(guard))
	}
	return nil
}

func stateLine(r decision.Record) string {
	return fmt.Sprintf("%s, canary at %d%%%s", r.Status.State, r.Status.Weight, orNothing(": ", r.Status.Reason))
}

func orNothing(before, s string) string {
	if s == "" {
		return ""
	}
	return before + s
}

package main

import (
	"cmp"
	"context"
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
	{action: decision.RequestPromote, short: "Take the next step of promotion now", long: `Take one step without waiting for its interval and requests. Everything else that a
step needs still holds: no lock, no pause, no alert, ready endpoints, a fresh
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
			return wantArgs(1, 1)(cmd, args)
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
	durationVar(flags, &f.timeout, "timeout", 30*time.Second, "how long guardian may take")
	flags.StringVarP(&f.output, "output", "o", "", "json instead of text")
	if op.all {
		flags.BoolVar(&f.all, "all", false, "every guard of the namespace, instead of NAME")
	}
	if op.action == decision.RequestDisarm {
		durationVar(flags, &f.length, "for", 0, "for how long, such as 1h (required)")
	}
}

func (f requestFlags) check(cmd *cobra.Command) error {
	switch length := cmd.Flags().Lookup("for"); {
	case strings.TrimSpace(f.reason) == "":
		return errors.New("--reason is empty: say why, for those who read the record later")
	case f.timeout <= 0:
		return fmt.Errorf("--timeout %s: want more than 0s", f.timeout)
	case length != nil && f.length <= 0:
		return fmt.Errorf("--for %s: want for how long the brake is off, such as 1h: it comes on again by itself", f.length)
	}
	return jsonOr("text", f.output)
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
	ID        string                 `json:"id,omitempty"`     // of the request; empty: none was written
	Result    decision.Result        `json:"result,omitempty"` // as guardian has answered it; empty: it has not
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
		a.warn(err)
	}
	if q.By, err = c.whoAmI(ctx); err != nil {
		return err
	}
	if !slices.ContainsFunc(named, func(r records.Named) bool { return r.Status.Orphaned.IsZero() }) {
		return a.requestEach(ctx, waiting, c, named, q, f)
	}
	if err := c.wantReplica(ctx, &records.Liveness{}); err != nil {
		return a.orByHand(err, q.Action, named[0].Guard, c.namespace, named[0].Record)
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
		if !f.all {
			return cmp.Or(writeJSON(a.out, answers[0]), failed[0])
		}
		if err := writeJSON(a.out, answers); err != nil {
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
	got, err := quiet.requestOne(ctx, waiting, c, r, q, f.timeout)
	if after := got.record; after != nil {
		answer.State, answer.Weight = after.Status.State, after.Status.Weight
		answer.Text = stateLine(*after)
	}
	if answer.ID = got.id; got.answer != nil {
		answer.Result = got.answer.Result
	}
	if err != nil {
		answer.Text, _, _ = strings.Cut(printable.Error(err), "\n")
	}
	answer.Code = exitCode(err)
	return answer, err
}

// requestOutcome is what came of a request.
type requestOutcome struct {
	id     string           // of the request; empty: none was written
	record *decision.Record // the last one seen since guardian took it; nil: none
	answer *decision.Answer // nil: guardian has not answered
}

// requestOne writes a request into a guard's record, waits for the answer, and prints
// it. The error says why what was asked for is not so, or could not be told.
func (a *app) requestOne(ctx, waiting context.Context, c *cluster, r records.Named, q decision.Request, timeout time.Duration) (got requestOutcome, err error) {
	guard, before := r.Guard, &r.Record
	q.ID = records.NewRequestID()
	switch {
	case !before.Status.Orphaned.IsZero():
		return got, a.requestOfOrphan(ctx, c, guard, q, *before)
	case q.Action == decision.RequestUnlock && before.Lock == nil && before.Status.Observing != nil:
		if taken, err := a.leftOfLock(ctx, c, guard, *before); taken || err != nil {
			return requestOutcome{record: before}, err
		}
	case rollsBack(q, *before):
		what, l := "rolled back", before.Lock
		if before.Status.State == decision.StateBlocked {
			what = "asked for"
		}
		a.say("already %s since %s by %s: %s", what, l.Since.UTC().Format(time.RFC3339), l.By, l.Reason)
		got.record = before
		return got, a.tell(guard, c.namespace, q, got)
	}
	if q.Action == decision.RequestUnlock {
		if q.Of = q.At; before.Lock != nil {
			q.Of = before.Lock.Since
		}
	}
	before, attempted, err := c.records().Request(waiting, guard, q)
	switch {
	case err != nil && attempted && records.Lost(err):
		return a.withdrawn(ctx, c, guard, q, before, "could not tell whether the request was written", err)
	case err != nil:
		return got, err
	}
	got.id = q.ID
	if was := before.Request; was != nil {
		a.say("replaced the waiting %s by %s: %s", was.Action, was.By, was.Reason)
	}
	got.record, got.answer, err = c.records().Await(waiting, guard, q)
	switch {
	case errors.Is(err, records.ErrUnanswered):
		return got, couldNotTell("the %s: %w: it was taken off, or guardian is of an older release, which answers none (see %s status %s)", q.Action, err, a.name, guard)
	case err != nil && got.record != nil:
		return got, notYet(guard, q, *got.record, waited(ctx, "after", timeout))
	case err != nil:
		return a.withdrawn(ctx, c, guard, q, before, "guardian has not taken the request "+waited(ctx, "within", timeout), err)
	}
	err = a.tell(guard, c.namespace, q, got)
	if err == nil && q.Action == decision.RequestUnlock && got.record.Status.Observing != nil {
		err = a.takeOffLock(ctx, c, guard, *before) // guardian writes to no VirtualService
	}
	return got, err
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
// it any more, and says so. ctx may be over already, by ctrl-C. What guardian has
// answered meanwhile is what came of it.
func (a *app) withdrawn(ctx context.Context, c *cluster, guard string, q decision.Request, before *decision.Record, what string, why error) (requestOutcome, error) {
	cleanup, stop := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer stop()
	got := requestOutcome{id: q.ID}
	last, found, err := c.records().Withdraw(cleanup, guard, q)
	answered := last != nil && last.AnswerTo(q) != nil
	switch {
	case answered:
		got.record, got.answer = last, last.AnswerTo(q)
		return got, a.tell(guard, c.namespace, q, got)
	case last != nil && last.Status.Moving.Carries(q):
		got.record = last
		return got, notYet(guard, q, *last, "when this command ended")
	case err != nil:
		return got, couldNotTell("%s (%w), and it could not be withdrawn: %w", what, why, err)
	case !found:
		return got, couldNotTell("%s (%w); it does not stand in the record now: see %s status %s", what, why, a.name, guard)
	}
	err = couldNotTell("%s (%w); it has been withdrawn. Is guard %s still in guardian's configuration?", what, why, guard)
	return got, a.orByHand(err, q.Action, guard, c.namespace, *before)
}

// orByHand adds to why a request comes to nothing what a person can do instead: there
// is something where a rollback was asked for.
func (a *app) orByHand(err error, action decision.RequestAction, guard, namespace string, r decision.Record) error {
	if action != decision.RequestRollback {
		return err
	}
	return fmt.Errorf("%w%w", err, a.byHand(guard, namespace, r))
}

// byHand is what a person can do about a canary when no guardian can.
func (a *app) byHand(guard, namespace string, r decision.Record) printable.OwnLines {
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
	return printable.OwnLines{Err: errors.New(text)}
}

// requestOfOrphan is a request about a guard that no guardian looks after. What it
// asks for cannot be done, but for an unlock: that waits for guardian in the
// record, and the VirtualServices are let go at once, with the person's own rights.
func (a *app) requestOfOrphan(ctx context.Context, c *cluster, guard string, q decision.Request, r decision.Record) error {
	text := records.OrphanText(guard, r.Status.Orphaned)
	switch {
	case q.Action != decision.RequestUnlock:
		return a.orByHand(couldNotTell("%s", text), q.Action, guard, c.namespace, r)
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

// notYet is the answer when guardian has taken a request and nobody waits any more.
func notYet(guard string, q decision.Request, r decision.Record, when string) error {
	s := r.Status
	switch {
	case r.Lock != nil:
		return couldNotTell("guard %s: locked, but traffic has not moved yet %s, as far as its record tells: canary at %d%%%s", guard, when, s.Weight, orNothing(": ", s.Reason))
	case s.Moving != nil:
		return couldNotTell("guard %s: guardian is moving the canary from %d%% to %d%%, but traffic has not moved yet %s, as far as its record tells", guard, s.Weight, s.Moving.To, when)
	}
	return couldNotTell("guard %s: guardian has taken the %s, but %s the canary is at %d%%%s", guard, q.Action, when, s.Weight, orNothing(": ", s.Reason))
}

// waited is how long a command has waited in vain: all of its time, or until a signal.
func waited(ctx context.Context, word string, timeout time.Duration) string {
	if ctx.Err() != nil {
		return "when this command was interrupted"
	}
	return word + " " + timeout.String()
}

// tell prints guardian's answer, and how the guard stands, and fails where what was
// asked for is not so.
func (a *app) tell(guard, namespace string, q decision.Request, got requestOutcome) error {
	if got.record == nil { // another's request was put in the place of this one
		return errors.New(got.answer.Text)
	}
	done := got.answer != nil && got.answer.Result == decision.ResultDone
	if done {
		a.say("%s", got.answer.Text)
	}
	a.say("guard %s: %s", guard, stateLine(*got.record))
	if !done {
		return a.notDone(guard, namespace, q, got)
	}
	if q.Action == decision.RequestPause {
		fmt.Fprintln(a.out, a.brakeIsOn(guard))
	}
	return nil
}

// notDone is why what was asked for has not been done; nil: it is so all the same.
func (a *app) notDone(guard, namespace string, q decision.Request, got requestOutcome) error {
	r, s := *got.record, got.record.Status
	switch {
	case got.answer == nil && s.Moving != nil && s.Moving.Refused != "":
		return fmt.Errorf("the %s is recorded and is tried again; the API server has refused it: %s", q.Action, s.Moving.Refused)
	case rollsBack(q, r) && s.State == decision.StateRolledBack: // refused if an alert was first: it is done all the same
	case got.answer == nil, rollsBack(q, r):
		return fmt.Errorf("the %s is recorded and will be done when it is safe: %s", q.Action, s.Reason)
	case s.Observing != nil && got.answer.Result == decision.ResultRefused:
		return a.orByHand(errors.New(got.answer.Text), q.Action, guard, namespace, r)
	default:
		return errors.New(got.answer.Text)
	}
	return nil
}

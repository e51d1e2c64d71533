package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/canary-guardian/guardian/remediate"
)

const (
	cliManager  = "guardian-cli"  // field manager of requests
	requestPoll = 2 * time.Second // how often a request that waits is looked at without an event
)

// newRequestCommands is one command for each thing that a person may ask for.
func newRequestCommands(a *app) []*cobra.Command {
	var commands []*cobra.Command
	for _, one := range []struct {
		action      remediate.RequestAction
		short, long string
	}{
		{remediate.RequestRollback, "Roll a guard back to stable now", `Move all of the guard's traffic to stable and lock it there, as an alert would. A
pause by guardian pause ends with it.`},
		{remediate.RequestUnlock, "Lift the lock of a guard that was rolled back", `Lift the lock that a rollback left and take the build off the refused ones. Traffic
stays on stable until CI or the promotion moves it. Of a guard that is no longer in
guardian's configuration the command lifts the lock itself.`},
		{remediate.RequestPause, "Tell guardian to only watch a guard", `guardian goes on watching the guard and moves nothing: no rollback, no promotion,
no re-assertion.`},
		{remediate.RequestResume, "End a pause", "End the pause that guardian pause began. What fires then counts at once."},
		{remediate.RequestPromote, "Take the next step of promotion now", `Take one step without waiting for its interval. Everything else that a step needs
still holds: no lock, no alert, enough requests, ready endpoints, a fresh heartbeat.`},
	} {
		var flags clusterFlags
		var reason string
		var timeout time.Duration
		cmd := &cobra.Command{
			Use:   string(one.action) + " NAME --reason TEXT",
			Short: one.short,
			Long: one.long + `

The wish is written into the guard's record with your own credentials, with your
name and the reason; guardian carries it out and removes it.

Exit codes: 0 done; 1 refused, blocked or an error; 2 could not tell: no guardian
lives or has the guard in its configuration, or none took the wish in time, when it
is withdrawn; or it was taken, and traffic has not moved in time.`,
			Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				c, err := a.connect(flags)
				if err != nil {
					return err
				}
				return a.request(cmd.Context(), c, args[0], remediate.Request{Action: one.action, Reason: reason}, timeout)
			},
		}
		flags.add(cmd.Flags())
		cmd.Flags().StringVar(&reason, "reason", "", "why, for those who read the record later")
		cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long guardian may take")
		if err := cmd.MarkFlagRequired("reason"); err != nil {
			panic(err) // the flag is defined above
		}
		commands = append(commands, cmd)
	}
	return commands
}

// request writes a wish into the guard's record, waits until what follows from
// it shows there, and says what came of it.
func (a *app) request(ctx context.Context, c *cluster, guard string, q remediate.Request, timeout time.Duration) error {
	if q.Reason == "" {
		return errors.New("--reason is empty: say why, for those who read the record later")
	}
	before, err := c.record(ctx, guard)
	if err != nil {
		return err
	}
	if before == nil {
		return c.unknownGuard(ctx, guard)
	}
	if q.By, err = c.whoAmI(ctx); err != nil {
		return err
	}
	q.At = time.Now().UTC().Truncate(time.Second)
	if !before.Status.Orphaned.IsZero() {
		return a.requestOfOrphan(ctx, c, guard, q, *before)
	}
	if err := c.wantAlive(ctx, &pulse{}); err != nil {
		return &exitError{exitCode(err), fmt.Errorf("%w%s", err, a.byHand(q.Action, guard, c.namespace, *before))}
	}
	waiting, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if rollsBack(q, *before) {
		what, l := "rolled back", before.Lock
		if before.Status.State == remediate.StateBlocked {
			what = "asked for"
		}
		fmt.Fprintf(a.out, "already %s since %s by %s: %s\n", what, l.Since.UTC().Format(time.RFC3339), l.By, l.Reason)
	} else {
		var attempted bool
		before, attempted, err = c.writeRequest(waiting, guard, q)
		if err != nil && attempted && lost(err) {
			return a.withdrawn(ctx, c, guard, q, before, "could not tell whether the request was written", err)
		}
		if err != nil {
			return err
		}
		if was := before.Request; was != nil {
			fmt.Fprintf(a.out, "replaced the waiting %s by %s: %s\n", was.Action, was.By, was.Reason)
		}
	}
	after, err := c.awaitDone(waiting, guard, q, *before)
	switch {
	case err == nil:
		return a.outcome(guard, q, *before, *after)
	case after != nil:
		return notYet(guard, q, *after, timeout)
	}
	return a.withdrawn(ctx, c, guard, q, before, fmt.Sprintf("guardian has not taken the request within %s", timeout), err)
}

// rollsBack says that the guard is locked already, so that guardian would
// refuse a rollback: it is at it, or has done it.
func rollsBack(q remediate.Request, r remediate.Record) bool {
	return q.Action == remediate.RequestRollback && r.Lock != nil &&
		(r.Status.State == remediate.StateRolledBack || r.Status.State == remediate.StateBlocked)
}

// withdrawn takes a wish back that must not be carried out when nobody expects
// it any more, and says so. ctx may be over already, by ctrl-C.
func (a *app) withdrawn(ctx context.Context, c *cluster, guard string, q remediate.Request, before *remediate.Record, what string, why error) error {
	cleanup, stop := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer stop()
	found, err := c.withdraw(cleanup, guard, q)
	switch {
	case err != nil:
		return couldNotTell("%s (%w), and it could not be withdrawn: %w", what, why, err)
	case !found:
		return couldNotTell("%s (%w); it does not stand in the record now: see %s status %s", what, why, a.name, guard)
	}
	return couldNotTell("%s (%w); it has been withdrawn. Is guard %s still in guardian's configuration?%s",
		what, why, guard, a.byHand(q.Action, guard, c.namespace, *before))
}

// lost says of an error of writing that the write may have been done all the
// same: the API server has not clearly refused it.
func lost(err error) bool {
	var status apierrors.APIStatus
	return !errors.As(err, &status) || apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err) ||
		apierrors.IsInternalError(err) || apierrors.IsServiceUnavailable(err)
}

// byHand is what a person can do about a canary when no guardian can.
func (a *app) byHand(action remediate.RequestAction, guard, namespace string, r remediate.Record) string {
	if action != remediate.RequestRollback {
		return ""
	}
	m := r.Status.Moves
	text := "\nTo move the traffic yourself:"
	if m == nil {
		m = &remediate.Moves{VirtualServices: []string{guard}, Stable: "v1", Canary: "v2"}
		text = "\nTo move the traffic yourself, with the guard's own stable, canary and VirtualService:"
	}
	for _, vs := range m.VirtualServices {
		text += fmt.Sprintf("\n  kubectl get virtualservice -n %s %s -o yaml | %s plan -f - --stable %s --canary %s | kubectl apply -f -",
			namespace, vs, a.name, m.Stable, m.Canary)
	}
	return text
}

// requestOfOrphan is a wish about a guard that nobody looks after. Its lock is
// lifted here, with the person's own rights; nothing else can be done.
func (a *app) requestOfOrphan(ctx context.Context, c *cluster, guard string, q remediate.Request, r remediate.Record) error {
	text := remediate.OrphanText(guard, r.Status.Orphaned)
	if q.Action != remediate.RequestUnlock {
		return couldNotTell("%s%s", text, a.byHand(q.Action, guard, c.namespace, r))
	}
	api := c.kube.CoreV1().ConfigMaps(c.namespace)
	for {
		cm, err := api.Get(ctx, remediate.RecordName(guard), metav1.GetOptions{})
		if err != nil {
			return c.explain("read the record of guard "+guard, err)
		}
		patch, after, err := remediate.UnlockOrphan(cm, q.By, q.Reason, time.Now())
		if err != nil {
			return fmt.Errorf("unlock refused: %w (%s)", err, text)
		}
		_, err = api.Patch(ctx, cm.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: cliManager})
		if apierrors.IsConflict(err) {
			continue
		}
		if err != nil {
			return c.explain("unlock guard "+guard, err)
		}
		fmt.Fprintf(a.out, "%s.\nTherefore lifted by this command: the lock, its label and what the admission policy refuses are taken off ConfigMap %s. No traffic has moved.\n", text, cm.Name)
		for _, was := range after.Changed {
			fmt.Fprintf(a.out, "Left as the rollback re-pointed it: VirtualService %s, %s\n", was.VirtualService, was.Path)
		}
		return nil
	}
}

// writeRequest puts q into the record, after any request that stands there, and
// returns the record as it was just before. A rollback waits for no other
// request: it takes its place. attempted says that a write may have been done.
func (c *cluster) writeRequest(ctx context.Context, guard string, q remediate.Request) (before *remediate.Record, attempted bool, err error) {
	var failed error
	err = c.follow(ctx, guard, func(r *remediate.Record, readErr error) time.Duration {
		switch {
		case readErr != nil:
			failed = readErr
			return 0
		case r == nil:
			failed = c.unknownGuard(ctx, guard)
			return 0
		case r.Request != nil && q.Action != remediate.RequestRollback:
			failed = c.anotherWaits(guard, *r.Request)
			return requestPoll
		}
		before = r
		failed = c.patchRequest(ctx, guard, r.ResourceVersion, &q)
		if apierrors.IsConflict(failed) { // guardian wrote meanwhile; the next look is newer
			return 20 * time.Millisecond
		}
		attempted = true
		return 0
	})
	if failed != nil {
		return before, attempted, c.explain("write the request of guard "+guard, failed)
	}
	return before, attempted, err
}

func (c *cluster) anotherWaits(guard string, q remediate.Request) error {
	return fmt.Errorf(`another request has been waiting since %s: %s by %s: %s; guardian takes it off the record when it is done. If it stays, take it off: kubectl patch configmap -n %s %s --type merge -p '%s'`,
		q.At.UTC().Format(time.RFC3339), q.Action, q.By, q.Reason, c.namespace, remediate.RecordName(guard), noRequest())
}

// noRequest is the merge patch that takes a request off a record.
func noRequest() string {
	keys := make([]string, len(remediate.RequestKeys))
	for i, key := range remediate.RequestKeys {
		keys[i] = fmt.Sprintf("%q:null", key)
	}
	return `{"data":{` + strings.Join(keys, ",") + `}}`
}

// patchRequest sets the record's request, or removes it for nil, unless the
// record has changed since resourceVersion.
func (c *cluster) patchRequest(ctx context.Context, guard, resourceVersion string, q *remediate.Request) error {
	data := make(map[string]any, len(remediate.RequestKeys))
	for _, key := range remediate.RequestKeys {
		data[key] = nil
	}
	if q != nil {
		for key, value := range q.Data() {
			data[key] = value
		}
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"resourceVersion": resourceVersion}, "data": data})
	if err != nil {
		return err
	}
	_, err = c.kube.CoreV1().ConfigMaps(c.namespace).Patch(ctx, remediate.RecordName(guard), types.MergePatchType, patch, metav1.PatchOptions{FieldManager: cliManager})
	return err
}

// awaitDone waits until the record no longer holds q and what follows from it
// shows. With an error, a record says that q was taken and the rest has not come.
func (c *cluster) awaitDone(ctx context.Context, guard string, q remediate.Request, before remediate.Record) (*remediate.Record, error) {
	var after *remediate.Record
	var last error
	err := c.follow(ctx, guard, func(r *remediate.Record, readErr error) time.Duration {
		last = readErr
		if readErr != nil || r == nil || same(r.Request, q) {
			return requestPoll
		}
		after = r
		if !settled(q, before, *r) {
			return requestPoll
		}
		return 0
	})
	if err != nil {
		return after, errors.Join(err, last)
	}
	return after, nil
}

// settled says that a wish which was taken is carried out as well, or will not
// be now: guardian writes what it is about to do before it moves traffic.
func settled(q remediate.Request, before, r remediate.Record) bool {
	s := r.Status
	switch q.Action {
	case remediate.RequestRollback:
		return s.Weight == 0 || s.State == remediate.StateBlocked || s.State == remediate.StatePaused ||
			r.Lock == nil && refusal(q, before, r) != ""
	case remediate.RequestPromote:
		return s.Expected == nil || r.Lock != nil
	}
	return true
}

// notYet is the answer when guardian has taken a wish and time is up.
func notYet(guard string, q remediate.Request, r remediate.Record, timeout time.Duration) error {
	s := r.Status
	switch {
	case r.Lock != nil:
		return couldNotTell("guard %s: locked, but traffic has not moved yet after %s, as far as its record tells: canary at %d%%%s", guard, timeout, s.Weight, orNothing(": ", s.Reason))
	case s.Expected != nil:
		return couldNotTell("guard %s: guardian is moving the canary from %d%% to %d%%, but traffic has not moved yet after %s, as far as its record tells", guard, s.Weight, *s.Expected, timeout)
	}
	return couldNotTell("guard %s: guardian has taken the %s, but after %s the canary is at %d%%%s", guard, q.Action, timeout, s.Weight, orNothing(": ", s.Reason))
}

func same(r *remediate.Request, q remediate.Request) bool {
	return r != nil && r.Action == q.Action && r.By == q.By && r.Reason == q.Reason && r.At.Equal(q.At) && r.Until.Equal(q.Until)
}

// withdraw removes q from the record; found says that it stood there.
func (c *cluster) withdraw(ctx context.Context, guard string, q remediate.Request) (found bool, err error) {
	for {
		r, err := c.record(ctx, guard)
		if err != nil || r == nil || !same(r.Request, q) {
			return false, err
		}
		err = c.patchRequest(ctx, guard, r.ResourceVersion, nil)
		if !apierrors.IsConflict(err) || ctx.Err() != nil {
			return true, err
		}
	}
}

// newEntries is what a history has gained since an earlier look, by position:
// the clocks of the replicas that write it may differ.
func newEntries(before, after []remediate.HistoryEntry) []remediate.HistoryEntry {
	if len(before) == 0 {
		return after
	}
	last := before[len(before)-1]
	for i, e := range slices.Backward(after) {
		if e.At.Equal(last.At) && e.Event == last.Event && e.By == last.By && e.Reason == last.Reason {
			return after[i+1:]
		}
	}
	return after // all that was there has been pushed out
}

// refusal is why guardian refused q, or "".
func refusal(q remediate.Request, before, after remediate.Record) string {
	why := ""
	for _, e := range newEntries(before.History, after.History) {
		if e.Event == "refused" && e.By == q.By {
			why = e.Reason
		}
	}
	return why
}

// did says that the record shows q to be carried out.
func did(q remediate.Request, before, after remediate.Record) bool {
	event := map[remediate.RequestAction]string{remediate.RequestUnlock: "unlocked", remediate.RequestPause: "paused",
		remediate.RequestResume: "resumed", remediate.RequestPromote: "step"}[q.Action]
	for _, e := range newEntries(before.History, after.History) {
		if e.Event == event {
			return true
		}
	}
	switch q.Action {
	case remediate.RequestRollback:
		return after.Status.Weight == 0
	case remediate.RequestPromote: // the step was recorded before
		return after.Status.Weight > before.Status.Weight
	}
	return false
}

// outcome prints what guardian recorded since, and fails when it refused.
func (a *app) outcome(guard string, q remediate.Request, before, after remediate.Record) error {
	for _, e := range newEntries(before.History, after.History) {
		if e.Event != "refused" || e.By != q.By {
			fmt.Fprintf(a.out, "%s: %s\n", e.Event, e.Reason)
		}
	}
	s := after.Status
	fmt.Fprintf(a.out, "guard %s: %s, canary at %d%%%s\n", guard, s.State, s.Weight, orNothing(": ", s.Reason))
	refused := refusal(q, before, after)
	switch {
	case rollsBack(q, after) && s.State == remediate.StateBlocked:
		return fmt.Errorf("the rollback is recorded and will be done when it is safe: %s", s.Reason)
	case rollsBack(q, after): // refused if an alert was first: it is done all the same
		return nil
	case refused != "":
		return errors.New(refused)
	case q.Action == remediate.RequestRollback && s.State == remediate.StateBlocked:
		return fmt.Errorf("the rollback cannot be done now: %s", s.Reason)
	case !did(q, before, after):
		return couldNotTell("the %s is no longer asked for, and the record does not show that it was done: another request may have taken its place (see %s status %s)", q.Action, a.name, guard)
	}
	return nil
}

func orNothing(before, s string) string {
	if s == "" {
		return ""
	}
	return before + s
}

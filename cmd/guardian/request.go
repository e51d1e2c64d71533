package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/canary-guardian/guardian/remediate"
)

const (
	requestKey  = "request"       // of a record's data
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
stays on stable until CI or the promotion moves it.`},
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
lives, or none took the wish in time. It is withdrawn then.`,
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

// request writes a wish into the guard's record, waits until guardian has taken
// it, and says what came of it.
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
	if err := c.wantAlive(ctx, &pulse{}); err != nil {
		return &exitError{exitCode(err), fmt.Errorf("%w%s", err, a.byHand(q.Action, guard, c.namespace))}
	}
	q.By, q.At = c.whoAmI(ctx), time.Now().UTC().Truncate(time.Second)
	waiting, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if before, err = c.writeRequest(waiting, guard, q); err != nil {
		return err
	}
	after, err := c.awaitTaken(waiting, guard, q)
	if err == nil {
		return a.outcome(guard, q, *before, *after)
	}
	// The wish must not be carried out when nobody expects it any more. ctx
	// may be over already, by ctrl-C.
	cleanup, stop := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer stop()
	if withdrawErr := c.withdraw(cleanup, guard, q); withdrawErr != nil {
		return couldNotTell("guardian has not taken the request within %s (%w), and it could not be withdrawn: %w", timeout, err, withdrawErr)
	}
	return couldNotTell("guardian has not taken the request within %s (%w); it has been withdrawn%s", timeout, err, a.byHand(q.Action, guard, c.namespace))
}

// byHand is what a person can do about a canary when no guardian can.
func (a *app) byHand(action remediate.RequestAction, guard, namespace string) string {
	if action != remediate.RequestRollback {
		return ""
	}
	return fmt.Sprintf(`
To move the traffic yourself, with the guard's own stable, canary and VirtualService:
  kubectl get virtualservice -n %s %s -o yaml | %s plan -f - --stable v1 --canary v2 | kubectl apply -f -`, namespace, guard, a.name)
}

// writeRequest puts q into the record, after any request that stands there, and
// returns the record as it was just before.
func (c *cluster) writeRequest(ctx context.Context, guard string, q remediate.Request) (*remediate.Record, error) {
	text, err := json.Marshal(q)
	if err != nil {
		return nil, fmt.Errorf("write request: %w", err)
	}
	var before *remediate.Record
	var failed error
	err = c.follow(ctx, guard, func(r *remediate.Record, readErr error) time.Duration {
		switch {
		case readErr != nil:
			failed = readErr
			return 0
		case r == nil:
			failed = c.unknownGuard(ctx, guard)
			return 0
		case r.Request != nil:
			failed = fmt.Errorf("another request is waiting: %s by %s: %s", r.Request.Action, r.Request.By, r.Request.Reason)
			return requestPoll
		}
		failed = c.patchRequest(ctx, guard, r.ResourceVersion, string(text))
		if apierrors.IsConflict(failed) { // guardian wrote meanwhile; the next look is newer
			return 20 * time.Millisecond
		}
		before = r
		return 0
	})
	if failed != nil {
		return nil, c.explain("write the request of guard "+guard, failed)
	}
	return before, err
}

// patchRequest sets the record's request, or removes it for nil, unless the
// record has changed since resourceVersion.
func (c *cluster) patchRequest(ctx context.Context, guard, resourceVersion string, request any) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": resourceVersion},
		"data":     map[string]any{requestKey: request},
	})
	if err != nil {
		return err
	}
	_, err = c.kube.CoreV1().ConfigMaps(c.namespace).Patch(ctx, remediate.RecordName(guard), types.MergePatchType, patch, metav1.PatchOptions{FieldManager: cliManager})
	return err
}

// awaitTaken waits until the record no longer holds q.
func (c *cluster) awaitTaken(ctx context.Context, guard string, q remediate.Request) (*remediate.Record, error) {
	var after *remediate.Record
	var last error
	err := c.follow(ctx, guard, func(r *remediate.Record, readErr error) time.Duration {
		last = readErr
		if readErr != nil || r == nil || same(r.Request, q) {
			return requestPoll
		}
		after = r
		return 0
	})
	return after, errors.Join(err, last)
}

func same(r *remediate.Request, q remediate.Request) bool {
	return r != nil && r.Action == q.Action && r.By == q.By && r.Reason == q.Reason && r.At.Equal(q.At)
}

// withdraw removes q from the record if it is still there.
func (c *cluster) withdraw(ctx context.Context, guard string, q remediate.Request) error {
	for {
		r, err := c.record(ctx, guard)
		if err != nil || r == nil || !same(r.Request, q) {
			return err
		}
		err = c.patchRequest(ctx, guard, r.ResourceVersion, nil)
		if !apierrors.IsConflict(err) || ctx.Err() != nil {
			return err
		}
	}
}

// outcome prints what guardian recorded since, and fails when it refused.
func (a *app) outcome(guard string, q remediate.Request, before, after remediate.Record) error {
	var last time.Time
	if n := len(before.History); n > 0 {
		last = before.History[n-1].At
	}
	refused := ""
	for _, e := range after.History {
		if !e.At.After(last) {
			continue
		}
		if e.Event == "refused" && e.By == q.By {
			refused = e.Reason
			continue
		}
		fmt.Fprintf(a.out, "%s: %s\n", e.Event, e.Reason)
	}
	s := after.Status
	fmt.Fprintf(a.out, "guard %s: %s, canary at %d%%%s\n", guard, s.State, s.Weight, orNothing(": ", s.Reason))
	switch {
	case refused != "":
		return errors.New(refused)
	case q.Action == remediate.RequestRollback && s.State == remediate.StateBlocked:
		return fmt.Errorf("the rollback is recorded and will be done when it is safe: %s", s.Reason)
	}
	return nil
}

func orNothing(before, s string) string {
	if s == "" {
		return ""
	}
	return before + s
}

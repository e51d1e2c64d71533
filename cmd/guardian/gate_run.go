package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
)

func newGateCommand(a *app) *cobra.Command {
	var flags clusterFlags
	var o gateOptions
	cmd := &cobra.Command{
		Use:     "gate NAME... | --all",
		Short:   "For CI: wait, and answer whether the canary is healthy",
		Long:    gateLong,
		Example: gateExample,
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case o.all && len(args) > 0:
				return fmt.Errorf("guard %s and --all: want one of the two", args[0])
			case o.all:
				return nil
			}
			return wantArgs(1, math.MaxInt)(cmd, args)
		},
		ValidArgsFunction: a.completeGuards(&flags, 0),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.complete(cmd.Flags()); err != nil {
				return orUnknown(err)
			}
			c, err := a.reach(flags)
			if err != nil {
				return err
			}
			return a.gate(cmd.Context(), c, args, o)
		},
	}
	flags.add(cmd.Flags())
	o.add(cmd.Flags())
	return cmd
}

// gate follows the guards' records until there is an answer for each, or one that
// decides.
func (a *app) gate(ctx context.Context, c *cluster, guards []string, o gateOptions) error {
	progress := a.newProgress(o)
	if o.all {
		var err error
		if guards, err = c.underWay(ctx, progress, o); err != nil {
			return orUnknown(fmt.Errorf("could not tell: %w", err))
		}
	}
	for _, guard := range guards {
		r, err := c.records().Known(ctx, guard)
		if err == nil {
			err = records.UnreadableError(r, c.namespace, guard)
		}
		if err != nil {
			return orUnknown(fmt.Errorf("could not tell: %w", err))
		}
	}
	signs := &liveness{c: c}
	signs.atBegin(ctx)
	results := c.gateAll(ctx, guards, signs, progress, o)
	progress.end()
	for i := range results {
		results[i].Next = a.nextCommand(results[i])
	}
	return a.tellGates(results, o)
}

// underWay names the guards of the namespace but for those that are no longer managed,
// and, where traffic is asked about, those that no release is under way of.
func (c *cluster) underWay(ctx context.Context, progress *gateProgress, o gateOptions) ([]string, error) {
	named, err := c.records().List(ctx, c.namespace)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, r := range named {
		rests := r.Status.State == decision.StateIdle || r.Status.State == decision.StateCompleted
		switch {
		case !r.Status.Orphaned.IsZero():
			progress.say("guard %s: left out: it is not in guardian's configuration", r.Guard)
		case o.length > 0 && rests && trouble(r.Record) == "":
			progress.say("guard %s: left out: %s, no release is under way", r.Guard, r.Status.State)
		default:
			out = append(out, r.Guard)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no guard of namespace %s has a release under way", c.namespace)
	}
	return out, nil
}

// gateAll watches all guards at once. One that is known to be bad decides: the
// others are not waited for.
func (c *cluster) gateAll(ctx context.Context, guards []string, signs *liveness, progress *gateProgress, o gateOptions) []gateResult {
	ctx, decided := context.WithCancelCause(ctx)
	defer decided(nil)
	results := make([]gateResult, len(guards))
	var all sync.WaitGroup
	for i, guard := range guards {
		all.Go(func() {
			results[i] = c.gateOne(ctx, guard, signs, progress, o)
			if results[i].code == exitFailed {
				decided(notHealthy(guard))
			}
		})
	}
	all.Wait()
	return results
}

// gateOne follows a guard's record until its watcher has an answer.
func (c *cluster) gateOne(ctx context.Context, guard string, signs *liveness, progress *gateProgress, o gateOptions) gateResult {
	now := time.Now()
	w := gateWatch{options: o, guard: guard, namespace: c.namespace, began: now, readAt: now, livedAt: now, freshAt: now, unverified: signs.unverified()}
	if dead, unseen := signs.dead(); dead != "" {
		w.livedAt, w.dead, w.unseen = time.Time{}, dead, unseen
	}
	var answer *gateAnswer
	err := c.records().Follow(ctx, guard, func(r *decision.Record, readErr error) time.Duration {
		if now, every := time.Now(), w.observeEvery(time.Now()); now.Sub(w.observedAt) >= every {
			signs.observe(ctx, &w, every)
		}
		if r != nil && readErr == nil {
			readErr = records.UnreadableError(*r, c.namespace, guard)
		}
		if r != nil && readErr == nil {
			w.last = *r
		}
		var next time.Duration
		if answer, next = w.see(r, readErr, time.Now()); answer == nil {
			progress.show(guard, w.progress(time.Now()))
		}
		return next
	})
	if answer == nil {
		answer, _ = unknown("%s", whyEnded(ctx, err))
	}
	return gateResult{guard, c.namespace, *answer, w.last}
}

// notHealthy is the guard that decides for all, as the cause of the others' end.
type notHealthy string

func (guard notHealthy) Error() string {
	return "not waited for any longer, since guard " + string(guard) + " is not healthy"
}

// whyEnded is why a gate has ended without an answer of its own.
func whyEnded(ctx context.Context, err error) string {
	if decided, ok := errors.AsType[notHealthy](context.Cause(ctx)); ok {
		return decided.Error()
	}
	if ctx.Err() != nil {
		return "interrupted before there was an answer"
	}
	return fmt.Sprintf("interrupted: %v", err)
}

// liveness are the Leases as the gates of one call look at them: together.
type liveness struct {
	c *cluster

	mu    sync.Mutex
	alive records.Liveness
	at    time.Time // of the last look
	why   string
	err   error
}

// atBegin looks for a replica when the gates begin, for longer than one look: a clock
// that is off hides none.
func (l *liveness) atBegin(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.why, l.err = l.c.records().FindReplica(ctx, &l.alive)
	l.at = time.Now()
}

// dead is why no replica is known to run, or "", and whether that is for the Leases
// could not be read.
func (l *liveness) dead() (why string, unseen bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err.Error(), true
	}
	return noReplica(l.why), false
}

func (l *liveness) unverified() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.alive.Unverified()
}

// observe has a gate look at the Leases, or at what another has just found there.
func (l *liveness) observe(ctx context.Context, w *gateWatch, every time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); l.at.IsZero() || now.Sub(l.at) >= every {
		l.why, _, l.err = l.c.records().Observe(ctx, &l.alive)
		l.at = now
	}
	w.observe(&l.alive, l.why, l.err, l.at)
}

// progress is what a gate waits for.
func (w *gateWatch) progress(now time.Time) string {
	s, o := w.last.Status, w.options
	text := trouble(w.last)
	switch {
	case o.waitUnlocked && !w.unlocked && text != "":
		return fmt.Sprintf("waiting for %s of %s: %s", now.Sub(w.began).Round(time.Second), o.timeout, text)
	case o.length == 0:
		return "not locked; waiting for a heartbeat"
	case w.traffic.IsZero():
		return fmt.Sprintf("waiting for the canary's first traffic, for %s of %s", now.Sub(w.began).Round(time.Second), o.length)
	}
	bad, all := counted(s)
	counts := fmt.Sprintf("%d%%, %s %s, %s failed", s.Weight, thousands(all), plural(all, "request"), thousands(bad))
	since := now.Sub(w.traffic).Round(time.Second)
	switch why := w.unproven(s, now); {
	case since < o.length:
		return fmt.Sprintf("%s; %s of %s", counts, since, o.length)
	case why != "":
		return counts + "; waiting: " + why
	case o.prove == 0:
		return counts + "; waiting for requests at this weight"
	}
	return fmt.Sprintf("%s; %s more without a failure rule out %s", counts, thousands(stillNeeded(o.prove, bad, all)), percent(o.prove))
}

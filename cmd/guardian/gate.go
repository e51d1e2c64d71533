package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/canary-guardian/guardian/remediate"
)

// gateOptions is what `guardian gate` waits for.
type gateOptions struct {
	length       time.Duration // how long the canary must be healthy with traffic
	minRequests  int64
	waitUnlocked bool
	timeout      time.Duration // for the lock to be lifted
}

func newGateCommand(a *app) *cobra.Command {
	var flags clusterFlags
	var o gateOptions
	cmd := &cobra.Command{
		Use:   "gate NAME [--for 60s]",
		Short: "For CI: wait, and answer whether the canary is healthy",
		Long: `Watch a guard while its canary has traffic, and answer as soon as it is known.

Exit codes: 0 healthy for that long with enough requests; 1 rolled back, locked,
blocked or held, with the reason; 2 could not tell: no live guardian, no heartbeat
(alerts may not reach it), no traffic for the canary, too few requests, paused, not
in guardian's configuration, no cluster, wrong flags.

With --wait-unlocked the gate first waits until the lock of an earlier rollback is
lifted, which needs the pods of a new build to be the ready ones. Alone, without
--for, that is all it does: it belongs between deploying a new build and shifting
traffic to it.`,
		Example: `  kubectl apply -f vs-90-10.yaml && guardian gate orders-service --for 60s && kubectl apply -f vs-50-50.yaml
  kubectl apply -f deployment.yaml && guardian gate orders-service --wait-unlocked`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.waitUnlocked && !cmd.Flags().Changed("for") {
				o.length = 0
			}
			if err := o.check(); err != nil {
				return orUnknown(err)
			}
			c, err := a.connect(flags)
			if err != nil {
				return orUnknown(err)
			}
			return a.gate(cmd.Context(), c, args[0], o)
		},
	}
	flags.add(cmd.Flags())
	f := cmd.Flags()
	f.DurationVar(&o.length, "for", time.Minute, "how long the canary must be healthy; traffic may take as long again to arrive")
	f.Int64Var(&o.minRequests, "min-requests", 1, "requests that the canary must have had since the weights last changed; 0: do not ask")
	f.BoolVar(&o.waitUnlocked, "wait-unlocked", false, "wait for the lock of an earlier rollback to be lifted first")
	f.DurationVar(&o.timeout, "timeout", 10*time.Minute, "how long --wait-unlocked waits")
	return cmd
}

// orUnknown gives an error the exit code of 'could not tell'.
func orUnknown(err error) error {
	if err == nil {
		return nil
	}
	return &exitError{exitUnknown, err}
}

func (o gateOptions) check() error {
	switch {
	case o.length < 0 || (o.length == 0 && !o.waitUnlocked):
		return fmt.Errorf("--for %s: want more than 0s", o.length)
	case o.minRequests < 0:
		return fmt.Errorf("--min-requests %d: want 0 or more", o.minRequests)
	case o.timeout <= 0:
		return fmt.Errorf("--timeout %s: want more than 0s", o.timeout)
	}
	return nil
}

// gate follows the guard's record until watcher has an answer.
func (a *app) gate(ctx context.Context, c *cluster, guard string, o gateOptions) error {
	r, err := c.record(ctx, guard)
	if err != nil {
		return &exitError{exitUnknown, fmt.Errorf("could not tell: %w", err)}
	}
	if r == nil {
		return &exitError{exitUnknown, fmt.Errorf("could not tell: %w", c.unknownGuard(ctx, guard))}
	}
	var p pulse
	if err := c.wantAlive(ctx, &p); err != nil {
		return err
	}
	w := gateWatch{options: o, guard: guard, began: time.Now(), readAt: time.Now(), livedAt: time.Now(), heardAt: time.Now(), blind: p.blind()}
	var answer *gateAnswer
	err = c.follow(ctx, guard, func(r *remediate.Record, readErr error) time.Duration {
		if now := time.Now(); now.Sub(w.lookedAt) >= followTick {
			w.lookedAt = now
			if ok, why, _, err := c.look(ctx, &p); err == nil {
				w.pulse(ok, why, p.blind(), now)
			}
		}
		var next time.Duration
		answer, next = w.see(r, readErr, time.Now())
		return next
	})
	switch {
	case answer == nil:
		return couldNotTell("interrupted: %w", err)
	case answer.code == exitOK:
		fmt.Fprintf(a.out, "guard %s: %s\n", guard, answer.text)
		return nil
	case answer.code == exitUnknown:
		return couldNotTell("guard %s: %s", guard, answer.text)
	}
	return fmt.Errorf("guard %s: %s", guard, answer.text)
}

// gateAnswer is how a gate ends.
type gateAnswer struct {
	code int
	text string
}

// gateWatch is a gate's memory: all times are by this machine's clock.
type gateWatch struct {
	options  gateOptions
	guard    string
	base     *remediate.Record // as it was when began
	began    time.Time         // of the gate, or of its watching once unlocked
	unlocked bool
	traffic  time.Time // since when the canary has had traffic; zero: it has none
	readAt   time.Time // when the record was last read
	lookedAt time.Time // when the Leases were last looked at
	livedAt  time.Time // when a guardian was last known to live
	dead     string    // why none seems to live now
	heardAt  time.Time // when it was last known that alerts reach guardian
	blind    string    // why they may not now
}

// gateBlind is how long a gate goes on without an answer from the API server
// or a sign of life: one missed look is no reason to fail a release.
const gateBlind = 30 * time.Second

// gateDeaf is how long it goes on without a fresh heartbeat: one comes every 60
// to 70 s, and a guardian that has just started may not have heard its first.
const gateDeaf = 75 * time.Second

func (w *gateWatch) pulse(ok bool, why, blind string, now time.Time) {
	w.dead, w.blind = why, blind
	if ok {
		w.livedAt = now
	}
	if blind == "" {
		w.heardAt = now
	}
}

// see takes one look at the record: an answer, or when to look again.
func (w *gateWatch) see(r *remediate.Record, err error, now time.Time) (*gateAnswer, time.Duration) {
	unknown := func(format string, args ...any) (*gateAnswer, time.Duration) {
		return &gateAnswer{exitUnknown, fmt.Sprintf(format, args...)}, 0
	}
	switch {
	case err != nil:
		if now.Sub(w.readAt) > gateBlind {
			return unknown("its record has not been readable for %s: %v", now.Sub(w.readAt).Round(time.Second), err)
		}
		return nil, time.Second
	case r == nil:
		return unknown("its record has gone")
	case w.dead != "" && now.Sub(w.livedAt) > gateBlind:
		return unknown("%s", w.dead)
	case !r.Status.Orphaned.IsZero():
		return unknown("%s", remediate.OrphanText(w.guard, r.Status.Orphaned))
	}
	w.readAt = now
	if r.Lock != nil && w.options.waitUnlocked && !w.unlocked {
		if left := w.began.Add(w.options.timeout).Sub(now); left > 0 {
			return nil, left
		}
		return &gateAnswer{exitFailed, fmt.Sprintf("still locked after %s: %s", w.options.timeout, lockText(*r))}, 0
	}
	if text := unhealthy(*r); text != "" {
		return &gateAnswer{exitFailed, text}, 0
	}
	if w.base == nil {
		w.base = r
	}
	if w.options.waitUnlocked && !w.unlocked {
		w.unlocked, w.began, w.base = true, now, r
		if w.options.length == 0 {
			return &gateAnswer{exitOK, "not locked: traffic may be shifted"}, 0
		}
	}
	return w.count(*r, now)
}

// count looks at a guard that is not in trouble.
func (w *gateWatch) count(r remediate.Record, now time.Time) (*gateAnswer, time.Duration) {
	length, s := w.options.length, r.Status
	for _, e := range newEntries(w.base.History, r.History) {
		if e.Event == "rolled-back" { // without a lock nothing else may tell of it any more
			return &gateAnswer{exitFailed, fmt.Sprintf("rolled back at %s: %s", e.At.UTC().Format(time.RFC3339), e.Reason)}, 0
		}
	}
	if s.Weight == 0 && !w.traffic.IsZero() {
		return &gateAnswer{exitFailed, "the canary had traffic and was taken back to 0%" + orNothing(": ", s.Reason)}, 0
	}
	if s.State == remediate.StatePaused {
		return &gateAnswer{exitUnknown, s.Reason + ": guardian only watches"}, 0
	}
	if w.blind != "" && now.Sub(w.heardAt) >= gateDeaf {
		return &gateAnswer{exitUnknown, w.blind}, 0
	}
	if s.Weight == 0 {
		if left := w.began.Add(length).Sub(now); left > 0 {
			return nil, left
		}
		return &gateAnswer{exitUnknown, fmt.Sprintf("the canary has had no traffic for %s", length)}, 0
	}
	if w.traffic.IsZero() {
		w.traffic = now
	}
	if left := w.traffic.Add(length).Sub(now); left > 0 {
		return nil, left
	}
	if s.Requests < w.options.minRequests {
		return &gateAnswer{exitUnknown, fmt.Sprintf("too few requests: the canary had %d of %d at %d%%", s.Requests, w.options.minRequests, s.Weight)}, 0
	}
	if w.blind != "" {
		return nil, w.heardAt.Add(gateDeaf).Sub(now)
	}
	return &gateAnswer{exitOK, fmt.Sprintf("healthy for %s at %d%%", length, s.Weight)}, 0
}

// unhealthy is why a pipeline must not go on, or "".
func unhealthy(r remediate.Record) string {
	switch s := r.Status; {
	case r.Lock != nil:
		return lockText(r)
	case s.State == remediate.StateBlocked || s.State == remediate.StateHeld || s.State == remediate.StateRolledBack:
		return fmt.Sprintf("%s at %d%%%s", s.State, s.Weight, orNothing(": ", s.Reason))
	}
	return ""
}

// lockText is a lock for a person who waits.
func lockText(r remediate.Record) string {
	if r.Message != "" {
		return r.Message
	}
	return fmt.Sprintf("rolled back at %s: %s", r.Lock.Since.UTC().Format(time.RFC3339), r.Lock.Reason)
}

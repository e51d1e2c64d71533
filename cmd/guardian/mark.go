package main

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
)

func newMarkCommand(a *app) *cobra.Command {
	var f requestFlags
	var wrong, right bool
	cmd := &cobra.Command{
		Use:   "mark NAME TIME|last --wrong|--right --reason TEXT",
		Short: "Say of a rollback of the past that it was wrong, or right",
		Long: `Note in a guard's history what you know of a rollback, or of one that mode observe
kept from being done: TIME as history and report print it, or last. report counts
the marks; nothing is decided by them, and the newest one of a rollback holds.

Exit codes: 0 noted; 1 refused or an error; 2 could not tell, no cluster, or wrong flags.`,
		Args:              wantArgs(2, 2),
		ValidArgsFunction: a.completeGuards(&f.cluster, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := decision.Request{Action: decision.RequestMarkWrong, Reason: f.reason, At: time.Now().UTC().Truncate(time.Second)}
			if right {
				q.Action = decision.RequestMarkRight
			}
			err := f.check(cmd)
			if wrong == right {
				err = errors.New("--wrong or --right: want one of the two")
			}
			if err != nil {
				return orUnknown(err)
			}
			c, err := a.reach(f.cluster)
			if err != nil {
				return err
			}
			r, err := c.records().Known(cmd.Context(), args[0])
			if err == nil {
				err = records.UnreadableError(r, c.namespace, args[0])
			}
			if err != nil {
				return err
			}
			if q.Of, err = rollbackAt(args[0], args[1], r.History); err != nil {
				return orUnknown(err)
			}
			return a.request(cmd.Context(), c, args[:1], q, f)
		},
	}
	f.add(cmd.Flags(), operation{})
	cmd.Flags().BoolVar(&wrong, "wrong", false, "the canary was well")
	cmd.Flags().BoolVar(&right, "right", false, "the canary was not")
	return cmd
}

// rollbackAt finds in a history when the rollback was exactly that a person means: by
// its time to the second, or the last one.
func rollbackAt(guard, when string, history []decision.HistoryEntry) (time.Time, error) {
	var found []time.Time
	for _, e := range history {
		if e.Event.IsRollback() {
			found = append(found, e.At)
		}
	}
	if len(found) == 0 {
		return time.Time{}, fmt.Errorf("guard %s: its history has no rollback, and none that would have been one", guard)
	}
	last := found[len(found)-1]
	if when == "last" {
		return last, nil
	}
	t, err := time.Parse(time.RFC3339, when)
	if err != nil {
		return time.Time{}, fmt.Errorf("time %q: want last, or a time as history prints it, such as %s", when, last.UTC().Format(time.RFC3339))
	}
	for _, at := range slices.Backward(found) {
		if at.Equal(t) || at.Truncate(time.Second).Equal(t) {
			return at, nil
		}
	}
	return time.Time{}, fmt.Errorf("guard %s: no rollback at %s; the last one was at %s", guard, when, last.UTC().Format(time.RFC3339))
}

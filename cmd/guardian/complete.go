package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/canary-guardian/guardian/remediate/decision"
)

// completeWait is how long a shell waits for the names of guards.
const completeWait = 3 * time.Second

// completeGuards completes the names of guards, as the cluster has them, for at most
// so many arguments; 0: any number. What does not work is silent: the shell shows no
// errors, and the command itself will.
func (a *app) completeGuards(flags *clusterFlags, most int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if most > 0 && len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		c, err := a.reach(*flags)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completeWait)
		defer cancel()
		found, _ := c.records().List(ctx, c.namespace) // those that can be read
		var names []string
		for _, r := range found {
			if strings.HasPrefix(r.Guard, begun) && !slices.Contains(args, r.Guard) {
				names = append(names, r.Guard+"\t"+hint(r.Record))
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// hint is what a shell shows beside a name.
func hint(r decision.Record) string {
	text, _, _ := strings.Cut(stateLine(r), ":")
	return text
}

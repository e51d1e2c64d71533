package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/canary-guardian/guardian/internal/printable"
)

// displayName is how the program was called: kubectl runs a binary named
// kubectl-guardian as its plugin "kubectl guardian".
func displayName(arg0 string) string {
	if strings.HasPrefix(filepath.Base(arg0), "kubectl-") {
		return "kubectl guardian"
	}
	return "guardian"
}

// execute runs one call of the program. What keeps a command from beginning (no
// such command, wrong flags or arguments) is no verdict about a canary: its exit
// code is that of 'could not tell'.
func (a *app) execute(ctx context.Context, args []string) error {
	root, ran := a.command(), false
	root.SetArgs(args)
	for _, cmd := range root.Commands() {
		if run := cmd.RunE; run != nil {
			cmd.RunE = func(cmd *cobra.Command, args []string) error {
				ran = true
				call := func() error {
					if err := emptyWord(cmd, args); err != nil {
						return orUnknown(err)
					}
					return run(cmd, args)
				}
				if wantsJSON(cmd) {
					return a.forPrograms(call)
				}
				return call()
			}
		}
	}
	err := root.ExecuteContext(ctx)
	if err == nil || ran {
		return err
	}
	err = orUnknown(printable.OwnLines{Err: err}) // of cobra, about the person's own words
	if cmd, _, notFound := root.Find(args); notFound == nil && askedForJSON(cmd, args) {
		return a.forPrograms(func() error { return err })
	}
	return err
}

// command is the root of the command tree.
func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "guardian",
		Short: "The brake for Istio canaries",
		Long: `guardian rolls an Istio canary back to the stable version the moment Prometheus
and Alertmanager say that it misbehaves, and keeps it there until a new build is
ready or a person says otherwise. CI keeps shifting traffic forward as it does
today.

Exit codes: 0 yes or done, 1 no or an error, 2 could not tell, a file cannot be read,
or the command line is wrong.`,
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: a.name},
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.errOut)
	root.AddCommand(newServeCommand(a), newCheckCommand(a), newRulesCommand(a), newAlertmanagerCommand(a), newAdmissionCommand(a), newPlanCommand(a),
		newStatusCommand(a), newGateCommand(a), newHistoryCommand(a), newReceiptCommand(a), newReportCommand(a), newMarkCommand(a), newReplayCommand(a),
		newRBACCommand(a), newVersionCommand(a))
	root.AddCommand(newRequestCommands(a)...)
	addCompletion(root)
	addHelp(root)
	return root
}

// addHelp adds cobra's own command, which answers a command that there is not with the
// help of the root, and says that all is well.
func addHelp(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	help := commandOf(root, "help")
	help.Run, help.RunE = nil, func(_ *cobra.Command, args []string) error {
		about, rest, err := root.Find(args)
		if err == nil && len(rest) > 0 {
			err = fmt.Errorf("unknown command %q for %q", rest[0], about.CommandPath())
		}
		if err != nil {
			return orUnknown(printable.OwnLines{Err: err})
		}
		about.InitDefaultHelpFlag()
		return about.Help()
	}
}

// addCompletion adds cobra's own command, which takes a shell that it does not know for a
// question.
func addCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	commandOf(root, "completion").RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
}

// commandOf is the command of a name, which is there.
func commandOf(root *cobra.Command, name string) *cobra.Command {
	all := root.Commands()
	return all[slices.IndexFunc(all, func(c *cobra.Command) bool { return c.Name() == name })]
}

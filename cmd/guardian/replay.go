package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
)

// replayProgram is what `guardian replay` runs. It has Prometheus's engine in it, which
// would make the service's program a third larger.
const replayProgram = "guardian-replay"

func newReplayCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "replay -f guardian.yaml --prometheus URL [--from 30d]",
		Short: "Run the rules over your own past, and print what guardian would have done",
		Long: `Run the program guardian-replay, which stands beside this one or on PATH, with the
same flags: guardian replay --help prints them. Needs Prometheus alone, no cluster.

Exit codes: 0 replayed; 2 could not tell: wrong flags or configuration, no
guardian-replay, or Prometheus did not answer.`,
		Example:            `  guardian replay -f guardian.yaml --prometheus http://localhost:9090 --from 30d`,
		DisableFlagParsing: true, // they are the program's
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := findSibling(replayProgram)
			if err != nil {
				return err
			}
			return a.runSibling(cmd.Context(), path, args)
		},
	}
}

// findSibling finds a program of the same release: beside this one, or on PATH.
func findSibling(name string) (string, error) {
	beside := "the folder of guardian"
	if self, err := os.Executable(); err == nil {
		if real, err := filepath.EvalSymlinks(self); err == nil {
			self = real
		}
		beside = filepath.Dir(self)
		if path, err := exec.LookPath(filepath.Join(beside, name)); err == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", couldNotTell("%s is neither in %s nor on PATH: it is in guardian's release archives, beside guardian (the image does not have it)", name, beside)
	}
	return path, nil
}

// runSibling runs a program in this one's place, and ends as it does.
func (a *app) runSibling(ctx context.Context, path string, args []string) error {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.in, a.out, a.errOut
	// It gets the terminal's interrupt itself, and has a while to end.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() > 0 {
		return &exitError{code: exit.ExitCode()} // it has said why
	}
	if err != nil {
		return couldNotTell("run %s: %w", path, err)
	}
	return nil
}

// Command guardian is the brake for Istio canaries: it watches through Prometheus and
// Alertmanager, and moves traffic back to the stable version when the canary
// misbehaves. This package has the commands, a file each, and wires the others together
// for serve; it never decides about traffic, and makes no rule.
//
//	serve.go            the service, wired; reload
//	bridge.go, own.go   alerts on their way from alerting to remediate
//	forward_checks.go   what Alertmanager and Prometheus are asked before a step
//	rules_writer.go     the rules, published by the leader
//	check*.go           guardian check, a file for each thing that it looks at
//	gate*.go            guardian gate
//	request.go          rollback, unlock, pause, resume, promote, disarm, arm
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	_ "time/tzdata" // promotion windows name time zones, and images may have none

	_ "golang.org/x/crypto/x509roots/fallback" // and no certificate authorities

	"github.com/canary-guardian/guardian/internal/printable"
)

// Exit codes of every command.
const (
	exitOK      = 0
	exitFailed  = 1 // wrong input, an error, or an unhealthy canary
	exitUnknown = 2 // could not tell, or the command line is wrong
)

// exitError ends the program with a code of its own. Without an error all has been
// said already.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}
func (e *exitError) Unwrap() error { return e.err }

// couldNotTell is an error that says so, with its exit code.
func couldNotTell(format string, args ...any) error {
	return &exitError{code: exitUnknown, err: fmt.Errorf("could not tell: "+format, args...)}
}

// silent reports whether somebody else has said what is wrong.
func silent(err error) bool {
	exit, ok := errors.AsType[*exitError](err)
	return ok && exit.err == nil
}

// exitCode is the code that err asks for.
func exitCode(err error) int {
	if err == nil {
		return exitOK
	}
	if exit, ok := errors.AsType[*exitError](err); ok {
		return exit.code
	}
	return exitFailed
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends guardian at once
	a := &app{name: displayName(os.Args[0]), in: os.Stdin, out: os.Stdout, errOut: os.Stderr, connect: connect}
	err := a.execute(ctx, os.Args[1:])
	stop()
	if err != nil && !silent(err) {
		prefix := "Error:"
		if colourful(os.Stderr) {
			prefix = red.paint(prefix)
		}
		fmt.Fprintln(os.Stderr, prefix, printable.Error(err))
	}
	os.Exit(exitCode(err))
}

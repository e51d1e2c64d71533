// Command guardian is the brake for Istio canaries: it watches through Prometheus and
// Alertmanager, and moves traffic back to the stable version when the canary
// misbehaves. This package has the commands, a file each, and wires the others together
// for serve; it never decides about traffic, and makes no rule.
//
//	serve.go            the service, wired; reload. service.go: its parts
//	bridge.go, own.go   alerts on their way from alerting to remediate; guard_index.go: whom they name
//	forward_checks.go   what Alertmanager and Prometheus are asked before a step
//	rules_writer.go     the rules, published by the leader
//	check*.go           guardian check, a file for each thing that it looks at
//	gate*.go            guardian gate
//	request.go          rollback, unlock, pause, resume, promote, disarm, arm
//	app.go, cluster.go  what each command works with; exit.go has the exit codes
//	text.go             how numbers and builds are written; table.go, terminal.go: how much fits
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	_ "time/tzdata" // promotion windows name time zones, and images may have none

	_ "golang.org/x/crypto/x509roots/fallback" // and no certificate authorities

	"github.com/canary-guardian/guardian/internal/printable"
)

// signalPair is how long after the first signal another one belongs to it: timeout(1)
// sends one to the program and one to its process group.
const signalPair = time.Second

// letGo gives the signals back some time after the first one, with which ctx ends: a
// second one then ends guardian at once, so that it can be got rid of, but not one that
// comes with the first. A request that nobody waits for any more has to be withdrawn.
func letGo(ctx context.Context, stop func(), after func(time.Duration, func())) {
	context.AfterFunc(ctx, func() { after(signalPair, stop) })
}

func afterTime(d time.Duration, f func()) { time.AfterFunc(d, f) }

// endSignals end guardian in order. SIGHUP is that of a terminal that is closed; nohup
// has it ignored, which stays so.
func endSignals() []os.Signal {
	out := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		out = append(out, syscall.SIGHUP)
	}
	return out
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), endSignals()...)
	letGo(ctx, stop, afterTime)
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

package main

import (
	"context"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestASignalThatComesWithTheFirstDoesNotEndGuardian: timeout(1) sends two at once, and a
// request is still to be withdrawn.
func TestASignalThatComesWithTheFirstDoesNotEndGuardian(t *testing.T) {
	ctx, signalled := context.WithCancel(t.Context())
	var givenBack atomic.Bool
	called := make(chan func(), 1)
	letGo(ctx, func() { givenBack.Store(true) }, func(d time.Duration, f func()) {
		if d != signalPair {
			t.Errorf("the next signal ends guardian after %s, want %s", d, signalPair)
		}
		called <- f
	})
	signalled()
	later := <-called
	if givenBack.Load() {
		t.Error("the next signal ends guardian at once")
	}
	if later(); !givenBack.Load() {
		t.Error("no signal ends guardian at once any more")
	}
}

// TestATerminalThatIsClosedEndsGuardianInOrder, as SIGTERM does: a request is withdrawn,
// and a rollback under way is done.
func TestATerminalThatIsClosedEndsGuardianInOrder(t *testing.T) {
	if ignored := signal.Ignored(syscall.SIGHUP); slices.Contains(endSignals(), os.Signal(syscall.SIGHUP)) == ignored {
		t.Errorf("signals %v, and SIGHUP ignored: %v", endSignals(), ignored)
	}
	signal.Ignore(syscall.SIGHUP) // as nohup has it
	defer signal.Reset(syscall.SIGHUP)
	if slices.Contains(endSignals(), os.Signal(syscall.SIGHUP)) {
		t.Errorf("signals %v: nohup keeps guardian from none", endSignals())
	}
}

func TestAnInterruptedCommandSaysSoAndLeavesNoRequest(t *testing.T) {
	for name, tc := range map[string]struct {
		args, says, not string
	}{
		"a request":     {"rollback " + testGuard + " --reason r", "guardian has not taken the request when this command was interrupted (context canceled); it has been withdrawn", "30s"},
		"a gate":        {"gate " + testGuard, "could not tell: guard orders-service: interrupted before there was an answer", "context canceled"},
		"a gate of all": {"gate --all", "could not tell: guard orders-service: interrupted before there was an answer", "not healthy"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, record(shifting(10, 5)), lease("a", time.Now()))
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(3*time.Second, cancel)
				code, text := b.runUntil(ctx, strings.Fields(tc.args)...)
				want(t, code, text, exitUnknown, tc.says)
				if strings.Contains(text, tc.not) {
					t.Errorf("says %q:\n%s", tc.not, text)
				}
				if q := b.read().Request; q != nil {
					t.Errorf("a request is left: %+v", q)
				}
			})
		})
	}
}

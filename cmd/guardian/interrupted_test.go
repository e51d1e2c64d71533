package main

import (
	"context"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestASignalThatComesWithTheFirstDoesNotEndGuardian: timeout(1) sends two at once, and a
// request is still to be withdrawn.
func TestASignalThatComesWithTheFirstDoesNotEndGuardian(t *testing.T) {
	type later struct {
		d time.Duration
		f func()
	}
	called := make(chan later, 1)
	ctx, stop := untilSignal(func(d time.Duration, f func()) { called <- later{d, f} }, syscall.SIGUSR2)
	defer stop()
	again := func() {
		if err := syscall.Kill(syscall.Getpid(), syscall.SIGUSR2); err != nil {
			t.Fatal(err)
		}
	}
	again()
	<-ctx.Done()
	end := <-called
	again() // not taken, it ends this program
	if end.d != signalPair {
		t.Errorf("the next signal ends guardian after %s, want %s", end.d, signalPair)
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

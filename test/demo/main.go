package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

// acts by name.
var acts = map[string]func(context.Context, *script, settings) error{
	"rollback":  actRollback,
	"promotion": actPromotion,
	"signals":   actSignals,
	"refused":   actRefused,
	"observe":   actObserve,
	"runs":      actRuns,
}

// settings of a run, from flags whose defaults are environment variables.
type settings struct {
	act     string
	hold    bool
	runs    int
	healthy time.Duration
	scrape  time.Duration
	fast    time.Duration
	every   time.Duration
}

func main() {
	// The first ctrl-C ends the act, and the deferred calls of run clean up; a second one kills.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	o, err := readSettings()
	if err == nil {
		err = run(ctx, o)
	}
	switch {
	case ctx.Err() != nil && !o.hold:
		fmt.Println("demo stopped")
		os.Exit(130)
	case err != nil:
		fmt.Println("demo failed:", err)
		os.Exit(1)
	}
	fmt.Println("demo passed")
}

func readSettings() (settings, error) {
	runs, err := strconv.Atoi(cmp.Or(os.Getenv("RUNS"), "0"))
	if err != nil {
		return settings{}, fmt.Errorf("RUNS=%q: want a number", os.Getenv("RUNS"))
	}
	fast, err := time.ParseDuration(cmp.Or(os.Getenv("FAST"), "0s"))
	if err != nil {
		return settings{}, fmt.Errorf("FAST=%q: want a duration, such as 1s", os.Getenv("FAST"))
	}
	hold := os.Getenv("HOLD")
	var o settings
	flag.StringVar(&o.act, "act", cmp.Or(os.Getenv("ACT"), "rollback"), "rollback, observe, refused, promotion or signals ($ACT)")
	flag.IntVar(&o.runs, "runs", runs, "repeat fault and rollback so often and print the split of the time ($RUNS)")
	flag.BoolVar(&o.hold, "hold", hold != "" && hold != "0", "keep everything up at the end ($HOLD)")
	flag.DurationVar(&o.healthy, "healthy", 10*time.Minute, "with -act signals: how long the healthy canary is watched")
	flag.DurationVar(&o.scrape, "scrape", 5*time.Second, "scrape interval, whole seconds")
	flag.DurationVar(&o.every, "evaluation", evaluation, "with -runs: how often the rules are evaluated, whole seconds")
	flag.DurationVar(&o.fast, "fast", fast, "scrape interval of the fast lane, whole seconds; 0: there is none ($FAST)")
	flag.Parse()
	if o.runs > 0 {
		o.act = "runs"
	}
	if o.scrape < time.Second || o.scrape%time.Second != 0 {
		return o, fmt.Errorf("-scrape %v: want whole seconds", o.scrape)
	}
	if o.every < time.Second || o.every%time.Second != 0 {
		return o, fmt.Errorf("-evaluation %v: want whole seconds", o.every)
	}
	if o.fast < 0 || o.fast%time.Second != 0 || o.fast > o.scrape {
		return o, fmt.Errorf("-fast %v: want whole seconds, at most -scrape (%v), or 0", o.fast, o.scrape)
	}
	if acts[o.act] == nil {
		return o, fmt.Errorf("act %q: want rollback, observe, refused, promotion or signals", o.act)
	}
	return o, nil
}

// run plays an act, and cleans up however it ends.
func run(ctx context.Context, o settings) (err error) {
	s := newScript(os.Stdout)
	defer func() { s.stop(err != nil && ctx.Err() == nil) }()
	err = errors.Join(acts[o.act](ctx, s, o), s.failures())
	if o.hold && ctx.Err() == nil && s.stage != nil {
		if err != nil {
			fmt.Println("\nfailed:", err)
		}
		s.hold(ctx)
	}
	return err
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// script prints what happens, remembers what should have happened and did not, and holds what has to be stopped.
type script struct {
	out   io.Writer
	start time.Time
	stage *stage // nil until it stands

	mu     sync.Mutex
	fault  time.Time // zero: none yet
	missed []error
}

func newScript(out io.Writer) *script { return &script{out: out, start: time.Now()} }

// stop takes the stage down, and before that shows what guardian said last if something went wrong.
func (s *script) stop(wrong bool) {
	if s.stage == nil {
		return
	}
	if wrong {
		for _, g := range s.stage.guardians {
			if g.process == nil {
				continue
			}
			_, _ = fmt.Fprintf(s.out, "\nthe end of %s's log:\n%s\n\n", g.name, g.process.Tail(15))
		}
	}
	s.stage.stop()
}

// failures are all that did not happen, or nil.
func (s *script) failures() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.missed...)
}

// title prints a headline.
func (s *script) title(format string, args ...any) {
	_, _ = fmt.Fprintf(s.out, "\n%s\n", fmt.Sprintf(format, args...))
}

// say prints one event that happens now.
func (s *script) say(who, format string, args ...any) { s.sayAt(time.Now(), who, format, args...) }

// sayAt prints one event: before the fault with the seconds since the start, afterwards with those since the fault.
func (s *script) sayAt(at time.Time, who, format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := strings.ReplaceAll(strings.TrimSpace(fmt.Sprintf(format, args...)), "\n", "\n"+strings.Repeat(" ", 24))
	when := fmt.Sprintf("%7.1f s", at.Sub(s.start).Seconds())
	if !s.fault.IsZero() {
		when = fmt.Sprintf("%+7.2f s", at.Sub(s.fault).Seconds())
	}
	_, _ = fmt.Fprintf(s.out, "%s  %-12s %s\n", when, who, text)
}

// failed starts the clock of a fault.
func (s *script) failed(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = at
}

// clear goes back to the seconds since the start.
func (s *script) clear() { s.failed(time.Time{}) }

// want notes that something should be so, and prints it when it is not.
func (s *script) want(ok bool, format string, args ...any) {
	if ok {
		return
	}
	err := fmt.Errorf(format, args...)
	s.say("MISSED", "%v", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.missed = append(s.missed, err)
}

// until waits for something to become so, at most for a time.
func until(ctx context.Context, most time.Duration, what string, check func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		ok, err := check(ctx)
		if ok && err == nil {
			return nil
		}
		if err != nil && ctx.Err() == nil {
			last = err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%s: not within %v", what, most), last)
		}
	}
}

// recorded waits until a guard's record is as it should be, and says where the
// guard stands then; what explains what is there instead.
func (s *script) recorded(ctx context.Context, a *app, most time.Duration, what string, ok func(record) bool) (record, error) {
	var r record
	err := until(ctx, most, what, func(ctx context.Context) (_ bool, err error) {
		r, err = s.stage.record(ctx, a)
		return ok(r), err
	})
	if err != nil {
		s.explain(ctx, a)
		return r, err
	}
	s.say("guardian", "%s: %s", r.Status.State, r.Status.Reason)
	return r, nil
}

// pause waits, or ends early with ctx.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

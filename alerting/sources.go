package alerting

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// sureUptime is how long a server must be up before its silence counts: until
// Prometheus has sent everything again (--rules.alert.resend-delay, 1m) a new
// Alertmanager knows nothing.
const sureUptime = 75 * time.Second

// Lister lists which alerts fire now. A nil error means that the list is
// complete, also when it is empty.
type Lister interface {
	Firing(ctx context.Context, filter Filter) ([]Alert, error)
}

// Sources are the servers that know which alerts fire, in the order in which they
// are asked. The first complete answer is the answer.
type Sources struct {
	Alertmanager, Prometheus Lister // nil: there is none
	// Log gets why an answer is not taken for complete, but for a server that has
	// just started. Required.
	Log *slog.Logger
}

// source is one of them.
type source struct {
	lane Lane
	Lister
}

func (s Sources) inOrder() []source {
	var out []source
	for _, one := range []source{{LaneAlertmanager, s.Alertmanager}, {LanePrometheus, s.Prometheus}} {
		if one.Lister != nil {
			out = append(out, one)
		}
	}
	return out
}

// complete lists all that fires, or fails.
func (s source) complete(ctx context.Context, filter Filter) ([]Alert, error) {
	filter.MinUptime = sureUptime
	return s.Firing(ctx, filter)
}

// partial lists what the source knows; incomplete is why that need not be all.
func (s source) partial(ctx context.Context, filter Filter) (alerts []Alert, incomplete, err error) {
	alerts, incomplete = s.complete(ctx, filter)
	if incomplete == nil {
		return alerts, nil, nil
	}
	if alerts, err = s.Firing(ctx, filter); err != nil {
		return nil, nil, incomplete
	}
	return alerts, incomplete, nil
}

// Firing is the first complete answer of a source. When there is none the error
// names every reason, on one line, and the caller must wait: nothing is known.
func (s Sources) Firing(ctx context.Context, filter Filter) ([]Alert, error) {
	all := s.inOrder()
	if len(all) == 0 {
		return nil, errors.New("list firing alerts: neither Alertmanager nor Prometheus is configured")
	}
	var failed error
	for _, one := range all {
		alerts, err := one.complete(ctx, filter)
		switch {
		case err == nil:
			return alerts, nil
		case failed == nil:
			failed = err
		default: // on one line: people read it in a status
			failed = fmt.Errorf("%w; %w", failed, err)
		}
	}
	return nil, failed
}

// Fill puts what fires into store, from one source after the other until one has
// given a complete answer: that one replaces what its lane had, one that may not be
// all adds to it. hand gets what each has listed, and what that has changed, at last with
// nothing listed. The error joins those of sources, store and hand; what could be listed is in the store.
func (s Sources) Fill(ctx context.Context, filter Filter, store *Store, now func() time.Time, hand func(firing []Alert, changes Changes) error) error {
	var failed []error
	for _, one := range s.inOrder() {
		asked := now()
		alerts, incomplete, err := one.partial(ctx, filter)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		put := store.Replace
		if incomplete != nil {
			put = store.Apply
		}
		changes, err := put(one.lane, alerts, asked)
		failed = append(failed, err, hand(alerts, changes))
		if incomplete == nil {
			changes, err := s.forget(ctx, filter, one.lane, store, asked)
			return errors.Join(append(failed, err, hand(nil, changes))...)
		}
		if !errors.Is(incomplete, ErrYoung) {
			s.Log.Warn("what is listed is not taken for all that fires", "err", incomplete)
		}
	}
	return errors.Join(failed...)
}

// shownWithin is how long what a rule has found may take until a query shows it: a ruler
// that writes to another server sends the alert first.
const shownWithin = 10 * time.Second

// unlistedFor is how long Alertmanager may have given no complete answer until what came
// by webhook goes by Prometheus's: longer than its restart takes.
const unlistedFor = 5 * time.Minute

// heldFor is how long Prometheus must be up before an alert is over by it that came by
// webhook: Alertmanager has it firing for four minutes without news (four times
// --rules.alert.resend-delay, 1m), in which a Prometheus without its data may find it anew.
const heldFor = 5 * time.Minute

// forget drops what others than the server that has given a complete answer have said:
// what Prometheus has listed while Alertmanager gave none, and what came by webhook where
// no Alertmanager is asked, or none has answered for long. The end of that may have
// reached another replica. What Prometheus may be finding anew stays.
func (s Sources) forget(ctx context.Context, filter Filter, answered Lane, store *Store, asked time.Time) (Changes, error) {
	if answered == LaneAlertmanager {
		return store.Replace(LanePrometheus, nil, asked)
	}
	if s.Alertmanager != nil && asked.Sub(store.Listed(LaneAlertmanager)) <= unlistedFor {
		return Changes{}, nil
	}
	filter.MinUptime, filter.Pending = heldFor, true
	found, err := s.Prometheus.Firing(ctx, filter)
	switch {
	case errors.Is(err, ErrYoung):
		return Changes{}, nil
	case err != nil:
		return Changes{}, err
	}
	return store.EndUnless(LaneAlertmanager, found, asked.Add(-shownWithin)), nil
}

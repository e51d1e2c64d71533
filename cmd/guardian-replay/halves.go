package main

import (
	"context"
	"errors"
	"time"

	"github.com/canary-guardian/guardian/alerting"
)

// halves asks for a time, and for its halves where it is too much for one query.
type halves struct {
	least time.Duration // is not halved
	step  time.Duration // parts are full multiples of it
	ask   func(ctx context.Context, from, to time.Time) error
}

// indivisible marks the context of a query that cannot be asked for less: what is too
// much there may be something else that passes, and it is asked again.
type indivisible struct{}

func (h halves) do(ctx context.Context, from, to time.Time) error {
	if to.Sub(from) <= max(h.least, h.step) {
		return h.ask(context.WithValue(ctx, indivisible{}, true), from, to)
	}
	err := h.ask(ctx, from, to)
	if !errors.Is(err, alerting.ErrTooMuch) || ctx.Err() != nil {
		return err
	}
	half := from.Add(max(h.step, (to.Sub(from) / 2).Truncate(h.step)))
	if err := h.do(ctx, from, half); err != nil {
		return err
	}
	return h.do(ctx, half, to)
}

package alerting

import (
	"context"
	"errors"
	"fmt"
	"time"

	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
)

// Range is a query at from, to and each step between. It fails as [Prometheus.Query]
// does on an incomplete answer.
func (p *Prometheus) Range(ctx context.Context, promql string, from, to time.Time, step time.Duration) (model.Matrix, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	value, warnings, _, err := p.api.QueryRange(ctx, promql, v1.Range{Start: from, End: to, Step: step})
	return p.matrix(value, warnings, err)
}

// Samples are those that a range selector such as up[1h] selects at a time, as they
// were scraped: markers of series that have ended are not among them.
func (p *Prometheus) Samples(ctx context.Context, selector string, at time.Time) (model.Matrix, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	value, warnings, _, err := p.api.Query(ctx, selector, at)
	return p.matrix(value, warnings, err)
}

func (p *Prometheus) matrix(value model.Value, warnings v1.Warnings, err error) (model.Matrix, error) {
	if err == nil {
		err = complete(warnings)
	}
	if err != nil {
		return nil, fmt.Errorf("query Prometheus %s: %w", p.base, tooMuch(err))
	}
	matrix, ok := value.(model.Matrix)
	if !ok {
		return nil, fmt.Errorf("query Prometheus %s: result is a %s: want a range of samples", p.base, value.Type())
	}
	return matrix, nil
}

// ErrTooMuch is returned by Range and Samples for what a query over less would answer:
// the answer is too long, or the server's limits for one query are exceeded.
var ErrTooMuch = errors.New("too much for one query")

// tooMuch marks such errors.
func tooMuch(err error) error {
	if answer, ok := errors.AsType[*v1.Error](err); ok && answer.Type == v1.ErrExec || errors.Is(err, errTooLong) {
		return fmt.Errorf("%w: %w", ErrTooMuch, plain(err))
	}
	return plain(err)
}

// Base is the server's URL, without what it may have of credentials.
func (p *Prometheus) Base() string { return p.base.String() }

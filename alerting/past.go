package alerting

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
)

// Range is a query at from, to and each step between. It fails as [Prometheus.Query]
// does on an incomplete answer.
func (p *Prometheus) Range(ctx context.Context, promql string, from, to time.Time, step time.Duration) (model.Matrix, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	value, warnings, _, err := p.api.QueryRange(ctx, promql, v1.Range{Start: from, End: to, Step: step}, p.serverTimeout()...)
	return p.matrix(value, warnings, err)
}

// Samples are those that a range selector such as up[1h] selects at a time, as they
// were scraped: markers of series that have ended are not among them.
func (p *Prometheus) Samples(ctx context.Context, selector string, at time.Time) (model.Matrix, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	value, warnings, _, err := p.api.Query(ctx, selector, at, p.serverTimeout()...)
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
		return nil, fmt.Errorf("query Prometheus %s: result is %s: want a range of samples", p.base, kindOf(value))
	}
	return matrix, nil
}

// serverTimeout has the server give up first, which then says so.
func (p *Prometheus) serverTimeout() []v1.Option {
	if most := (p.timeout * 9 / 10).Truncate(time.Second); most > 0 { // the API has no fractions
		return []v1.Option{v1.WithTimeout(most)}
	}
	return nil
}

// ErrTooMuch is returned by Range and Samples for what a query over less would answer:
// the answer is too long, or the server's limits or time for one query are exceeded.
var ErrTooMuch = errors.New("too much for one query")

// ErrRefused is returned by Range and Samples for what the server refuses each time it is
// asked: the query or the credentials are wrong.
var ErrRefused = errors.New("refused")

// tooMuch marks such errors.
func tooMuch(err error) error {
	answer, ok := errors.AsType[*v1.Error](err)
	switch {
	case errors.Is(err, errTooLong), ok && (answer.Type == v1.ErrExec || timedOut(answer)):
		return fmt.Errorf("%w: %w", ErrTooMuch, plain(err))
	case ok && (answer.Type == v1.ErrBadData || answer.Type == v1.ErrClient && slices.Contains(refusals, answer.Msg)):
		return fmt.Errorf("%w: %w", ErrRefused, plain(err))
	}
	return plain(err)
}

// refusals are the client library's texts for such status codes, which it does not give
// otherwise.
var refusals = []string{"client error: 400", "client error: 401", "client error: 403"}

// timedOut reports whether a server, or a proxy before it, ran out of time. Prometheus
// says that with status code 503, whose body the library leaves as it is.
func timedOut(answer *v1.Error) bool {
	var body struct {
		ErrorType v1.ErrorType `json:"errorType"`
	}
	_ = json.Unmarshal([]byte(answer.Detail), &body) // a proxy's page has none
	return answer.Type == v1.ErrTimeout || body.ErrorType == v1.ErrTimeout || answer.Msg == "server error: 504"
}

// Base is the server's URL, without what it may have of credentials.
func (p *Prometheus) Base() string { return p.base.String() }

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/canary-guardian/guardian/remediate"
)

// watchRetry is how soon a watch is tried again that found no API server.
const watchRetry = 500 * time.Millisecond

// persistentWatch keeps trying to open watches while nobody answers. client-go
// itself would wait longer each time, up to a minute, and guardian would be
// blind for that long after an outage: CI could give a locked canary traffic
// meanwhile. All other requests fail at once, as do answers that are errors.
type persistentWatch struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (p persistentWatch) RoundTrip(r *http.Request) (*http.Response, error) {
	for {
		response, err := p.next.RoundTrip(r)
		if err == nil || r.Method != http.MethodGet || r.URL.Query().Get("watch") == "" {
			return response, err
		}
		remediate.WatchFailed(r.Context(), err)
		again := time.NewTimer(watchRetry)
		select {
		case <-r.Context().Done():
			again.Stop()
			return nil, err
		case <-again.C:
		}
	}
}

// WrappedRoundTripper lets Kubernetes's helpers reach the transport below.
func (p persistentWatch) WrappedRoundTripper() http.RoundTripper { return p.next }

// callTimeout is how long a command waits for one answer of the API server. Admission
// webhooks may take half a minute of it.
const callTimeout = 40 * time.Second

// callDeadline ends each call but a watch that has no answer by then: neither client-go
// nor the API server's proxies do, and a command would wait for ever.
type callDeadline struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (c callDeadline) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Query().Get("watch") != "" {
		return c.next.RoundTrip(r)
	}
	ctx, cancel := context.WithTimeoutCause(r.Context(), callTimeout, noAnswerError{})
	response, err := c.next.RoundTrip(r.WithContext(ctx))
	if err != nil {
		defer cancel()
		return nil, orNoAnswer(ctx, err)
	}
	response.Body = &deadlineBody{response.Body, ctx, cancel}
	return response, nil
}

// WrappedRoundTripper lets Kubernetes's helpers reach the transport below.
func (c callDeadline) WrappedRoundTripper() http.RoundTripper { return c.next }

// deadlineBody is an answer that has to be whole by its call's deadline.
type deadlineBody struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelFunc
}

func (b *deadlineBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	return n, orNoAnswer(b.ctx, err)
}

func (b *deadlineBody) Close() error {
	b.cancel()
	return b.ReadCloser.Close()
}

// noAnswerError says that the API server took a call and did not answer it in time.
type noAnswerError struct{}

func (noAnswerError) Error() string {
	return fmt.Sprintf("the API server has not answered within %v: is it well (kubectl get --raw /readyz), and reachable from here?", callTimeout)
}

// orNoAnswer is err, unless the deadline of its call has passed.
func orNoAnswer(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), noAnswerError{}) {
		return noAnswerError{}
	}
	return err
}

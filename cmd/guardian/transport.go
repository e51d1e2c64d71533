package main

import (
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

package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestCallsOfTheAPIServerAreCounted(t *testing.T) {
	reg := prometheus.NewRegistry()
	status, failure := 0, error(nil)
	transport := newAPIRequests(reg).wrap(roundTripper(func(*http.Request) (*http.Response, error) {
		if failure != nil {
			return nil, failure
		}
		return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(""))}, nil
	}))
	call := func(ctx context.Context, method string, code int, err error) {
		t.Helper()
		status, failure = code, err
		request, bad := http.NewRequestWithContext(ctx, method, "http://kubernetes/api", nil)
		if bad != nil {
			t.Fatal(bad)
		}
		response, got := transport.RoundTrip(request)
		if !errors.Is(got, err) {
			t.Fatalf("%v, want %v", got, err)
		}
		if err == nil {
			_ = response.Body.Close()
		}
	}
	refused := errors.New("connection refused")
	ended, end := context.WithCancel(t.Context())
	end()
	call(t.Context(), http.MethodGet, 200, nil)
	call(t.Context(), http.MethodGet, 200, nil)
	call(t.Context(), http.MethodPatch, 409, nil)
	call(t.Context(), http.MethodPatch, 0, refused)
	call(ended, http.MethodGet, 0, context.Canceled) // guardian ends: nobody's fault
	want := `# HELP rest_client_requests_total Calls of the API server, by method and by the status of the answer, <error> where there was none. A watch is one call.
# TYPE rest_client_requests_total counter
rest_client_requests_total{code="200",method="GET"} 2
rest_client_requests_total{code="409",method="PATCH"} 1
rest_client_requests_total{code="<error>",method="PATCH"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

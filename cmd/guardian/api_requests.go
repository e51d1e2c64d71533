package main

import (
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// apiRequests counts the calls of the API server that one client makes, under the
// name and labels that Kubernetes's own components use. It has the series that
// there were calls for.
type apiRequests struct{ total *prometheus.CounterVec } // code, method

func newAPIRequests(reg prometheus.Registerer) apiRequests {
	a := apiRequests{prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rest_client_requests_total",
		Help: "Calls of the API server, by method and by the status of the answer, <error> where there was none. A watch is one call.",
	}, []string{"code", "method"})}
	reg.MustRegister(a.total)
	return a
}

// countedTransport counts what goes through it.
type countedTransport struct {
	apiRequests
	next http.RoundTripper
}

func (a apiRequests) wrap(next http.RoundTripper) http.RoundTripper {
	return countedTransport{a, next}
}

// RoundTrip implements http.RoundTripper.
func (c countedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := c.next.RoundTrip(r)
	switch {
	case err == nil:
		c.total.WithLabelValues(strconv.Itoa(response.StatusCode), r.Method).Inc()
	case r.Context().Err() == nil: // one that guardian itself gave up is no error of the API server's
		c.total.WithLabelValues("<error>", r.Method).Inc()
	}
	return response, err
}

// WrappedRoundTripper lets Kubernetes's helpers reach the transport below.
func (c countedTransport) WrappedRoundTripper() http.RoundTripper { return c.next }

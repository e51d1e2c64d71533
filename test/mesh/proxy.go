package mesh

import (
	"context"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Target is something to scrape at /metrics or, as Envoy itself has it, /stats/prometheus: the proxy of one workload.
type Target struct {
	Workload string
	Address  string // host:port
}

// labels of Istio's standard metrics, in the order of values.
var labels = []string{
	"reporter", "source_workload", "source_workload_namespace", "destination_workload", "destination_workload_namespace",
	"destination_service", "destination_service_name", "destination_service_namespace", "destination_version",
	"destination_canonical_service", "destination_canonical_revision", "request_protocol", "connection_security_policy",
	"response_code", "response_flags", "grpc_response_status",
}

// Istio's buckets, in milliseconds.
var buckets = []float64{0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 600000, 1800000, 3600000}

// proxy is the sidecar of one workload, as far as Prometheus sees it.
type proxy struct {
	workload  string
	reporter  string // destination for the versions, source for the users
	requests  *prometheus.CounterVec
	durations *prometheus.HistogramVec
	server    *http.Server
	address   string

	mu     sync.Mutex
	began  time.Time
	timed  []timing    // durations that no flush has put into the histograms yet
	failed int         // requests reported as failed so far
	reads  []time.Time // when the scrapes since the last mark began
	counts []int       // failed requests that each of them saw
}

// flushEvery is how often Envoy brings its histograms up to date (stats_flush_interval); its counters always are.
const flushEvery = 5 * time.Second

// timing is one observation of a histogram.
type timing struct {
	at           time.Time
	values       []string
	milliseconds float64
}

func startProxy(workload, reporter string) (*proxy, error) {
	p := &proxy{workload: workload, reporter: reporter, began: time.Now()}
	p.requests = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "istio_requests_total", Help: "Requests (stand-in for Istio's metric)."}, labels)
	p.durations = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "istio_request_duration_milliseconds", Help: "Durations (stand-in for Istio's metric).", Buckets: buckets,
	}, labels)
	registry := prometheus.NewRegistry()
	registry.MustRegister(p.requests, p.durations)
	serve := promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	mux := http.NewServeMux()
	for _, path := range []string{"/metrics", "/stats/prometheus"} { // as the sidecar's agent and Envoy itself have them
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			p.read()
			serve.ServeHTTP(w, r)
		})
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p.address = listener.Addr().String()
	p.server = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = p.server.Serve(listener) }()
	return p, nil
}

// call is one request as proxies report it.
type call struct {
	namespace, service string
	workload, version  string // of the destination; "unknown" where nothing answered
	code               int
	flags              string
	took               time.Duration
}

// report counts a call.
func (p *proxy) report(c call, source string) {
	within := c.namespace
	if c.workload == "unknown" {
		within = "unknown"
	}
	flags := c.flags
	if flags == "" {
		flags = "-"
	}
	values := []string{
		p.reporter, source, c.namespace, c.workload, within,
		c.service + "." + c.namespace + ".svc.cluster.local", c.service, c.namespace, c.version,
		c.service, c.version, "http", "unknown", strconv.Itoa(c.code), flags, "",
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests.WithLabelValues(values...).Inc()
	now := time.Now()
	p.flush(now)
	p.timed = append(p.timed, timing{now, values, float64(c.took) / float64(time.Millisecond)})
	if c.code >= 500 {
		p.failed++
	}
}

// flush puts into the histograms what was timed before the newest flush at or before now. The lock must be held.
func (p *proxy) flush(now time.Time) {
	last := p.began.Add(now.Sub(p.began).Truncate(flushEvery))
	n := 0
	for ; n < len(p.timed) && p.timed[n].at.Before(last); n++ {
		p.durations.WithLabelValues(p.timed[n].values...).Observe(p.timed[n].milliseconds)
	}
	p.timed = p.timed[n:]
}

// read notes a scrape.
func (p *proxy) read() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flush(time.Now())
	p.reads, p.counts = append(p.reads, time.Now()), append(p.counts, p.failed)
	if len(p.reads) > 1000 {
		p.reads, p.counts = p.reads[500:], p.counts[500:]
	}
}

// scrapeWith returns when the first scrape after a time began that saw at least n failed requests more than had been
// reported before; zero: none has.
func (p *proxy) scrapeWith(n int, after time.Time) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := 0
	for i, at := range p.reads {
		if !at.After(after) {
			before = p.counts[i]
			continue
		}
		if p.counts[i] >= before+n {
			return at
		}
	}
	return time.Time{}
}

// lastScrape returns when the newest scrape before a time began; zero: there was none.
func (p *proxy) lastScrape(before time.Time) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, at := range slices.Backward(p.reads) {
		if at.Before(before) {
			return at
		}
	}
	return time.Time{}
}

func (p *proxy) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if p.server.Shutdown(ctx) != nil {
		_ = p.server.Close()
	}
}

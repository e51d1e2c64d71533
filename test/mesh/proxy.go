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

	mu      sync.Mutex
	began   time.Time
	timed   []timing // durations that no flush has put into the histograms yet
	failed  int      // requests reported as failed so far
	scrapes []Scrape // the newest ones, oldest first
}

// Scrape is one scrape of a proxy.
type Scrape struct {
	At     time.Time // when it began
	Failed int       // failed requests that it showed
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
	p.scrapes = append(p.scrapes, Scrape{time.Now(), p.failed})
	if len(p.scrapes) > 1000 {
		p.scrapes = p.scrapes[500:]
	}
}

// since returns the scrapes after a time, oldest first, each with the failed requests that it showed more than the
// last one before that time.
func (p *proxy) since(after time.Time) []Scrape {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := 0
	var later []Scrape
	for _, s := range p.scrapes {
		if !s.At.After(after) {
			before = s.Failed
			continue
		}
		later = append(later, Scrape{s.At, s.Failed - before})
	}
	return later
}

// lastScrape returns when the newest scrape before a time began; zero: there was none.
func (p *proxy) lastScrape(before time.Time) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range slices.Backward(p.scrapes) {
		if s.At.Before(before) {
			return s.At
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

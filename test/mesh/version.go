package mesh

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"
)

// Behaviour is how a version answers. The zero value is a healthy one.
type Behaviour struct {
	ErrorRate float64       // share of requests answered 500, 0–1
	SlowShare float64       // share of requests that take Slow longer, 0–1
	Slow      time.Duration // how much longer
	Refuse    bool          // connections are refused
}

// version is one version's HTTP server behind its proxy.
type version struct {
	name    string // value of the label version
	proxy   *proxy
	address string
	client  *http.Client
	report  func(code int, took time.Duration, source string)

	mu        sync.Mutex
	behaviour Behaviour
	server    *http.Server // nil while connections are refused
}

// startVersion starts a healthy version.
func startVersion(namespace, service, workload, name string) (*version, error) {
	p, err := startProxy(workload, "destination")
	if err != nil {
		return nil, err
	}
	v := &version{name: name, proxy: p, address: "127.0.0.1:0"}
	v.report = func(code int, took time.Duration, source string) {
		p.report(call{namespace: namespace, service: service, workload: workload, version: name, code: code, took: took}, source)
	}
	v.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: 30 * time.Second}
	if err := v.listen(); err != nil {
		p.stop()
		return nil, err
	}
	return v, nil
}

// listen accepts connections, at the same address as before.
func (v *version) listen() error {
	listener, err := net.Listen("tcp", v.address)
	if err != nil {
		return fmt.Errorf("version %s: %w", v.name, err)
	}
	v.address = listener.Addr().String()
	v.server = &http.Server{Handler: http.HandlerFunc(v.serve), ReadHeaderTimeout: 5 * time.Second}
	go func(s *http.Server) { _ = s.Serve(listener) }(v.server)
	return nil
}

// behave changes how the version answers.
func (v *version) behave(b Behaviour) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.behaviour = b
	switch {
	case b.Refuse && v.server != nil:
		_ = v.server.Close() // open connections too: what is under way fails as in a crash
		v.server = nil
		v.client.CloseIdleConnections()
	case !b.Refuse && v.server == nil:
		return v.listen()
	}
	return nil
}

// serve answers one request and reports it, as the version's own proxy does.
func (v *version) serve(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	v.mu.Lock()
	b := v.behaviour
	v.mu.Unlock()
	if rand.Float64() < b.SlowShare {
		select {
		case <-time.After(b.Slow):
		case <-r.Context().Done():
		}
	}
	code := http.StatusOK
	if rand.Float64() < b.ErrorRate {
		code = http.StatusInternalServerError
	}
	w.WriteHeader(code)
	_, _ = fmt.Fprintf(w, "orders %s: %d\n", v.name, code)
	v.report(code, time.Since(began), r.Header.Get("x-source-workload"))
}

func (v *version) stop() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.server != nil {
		_ = v.server.Close()
		v.server = nil
	}
	v.client.CloseIdleConnections()
	v.proxy.stop()
}

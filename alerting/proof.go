package alerting

import (
	"bytes"
	"context"
	"log"
	"net"
	"net/http"
)

// watchAuthentication counts and logs the calls that never reach a handler of
// this package, because exporter-toolkit refuses them for their basic auth, or TLS
// for their certificate.
func (s *Server) watchAuthentication(server *http.Server) {
	// web.Serve puts its own handler before the server's as it begins. The server asks for its base context after that
	// and before the first call, which is the one moment to stand before both.
	server.BaseContext = func(net.Listener) context.Context {
		server.Handler = s.watchBasicAuth(server.Handler)
		return context.Background()
	}
	server.ErrorLog = log.New(&handshakes{server: s, next: server.ErrorLog}, "", 0)
}

// reached is the key of a context's *bool: a handler of this package has the call.
type reached struct{}

// noteReached says so.
func noteReached(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if at, ok := r.Context().Value(reached{}).(*bool); ok {
			*at = true
		}
		next.ServeHTTP(w, r)
	})
}

// What closes a connection after its answer. On the alerts port that is every one that
// has not proven who it is: it could else stay, idle, as long as Alertmanager's, and
// be one of thousands.
const (
	headerConnection = "Connection"
	connectionClose  = "close"
)

// watchBasicAuth takes a 401 that no handler of this package has given for
// exporter-toolkit's.
func (s *Server) watchBasicAuth(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		here := false
		w.Header().Set(headerConnection, connectionClose) // receive takes it back
		status := &statusWriter{ResponseWriter: w}
		next.ServeHTTP(status, r.WithContext(context.WithValue(r.Context(), reached{}, &here)))
		if here || status.code != http.StatusUnauthorized {
			return
		}
		why := "wrong user or password"
		if _, _, given := r.BasicAuth(); !given {
			why = "no user and password"
		}
		err := &unauthorized{proofBasic, why}
		switch r.URL.Path {
		case pathWebhook:
			_ = s.unproven(LaneWebhook, err)
		case pathPush:
			_ = s.unproven(LanePush, err)
		default:
			s.opts.MetricSet.auth.WithLabelValues(string(proofBasic)).Inc()
		}
		s.refusals.Do(func() {
			s.log.Warn("refused a request", "path", r.URL.Path, "remote", r.RemoteAddr, "status", status.code, "err", err)
		})
	})
}

// statusWriter remembers the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	code int
}

func (w *statusWriter) WriteHeader(code int) {
	if w.code == 0 {
		w.code = code
	}
	w.ResponseWriter.WriteHeader(code)
}

// Unwrap is what http.ResponseController looks for.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// handshakes reads net/http's own log, which is the one place where a failed TLS
// handshake shows: it has no handler and no hook.
type handshakes struct {
	server *Server
	next   *log.Logger
}

// Write takes one line.
func (h *handshakes) Write(line []byte) (int, error) {
	line = bytes.TrimSpace(line)
	if bytes.Contains(line, []byte("TLS handshake error")) && bytes.Contains(line, []byte("certificate")) {
		h.server.opts.MetricSet.auth.WithLabelValues(string(proofCertificate)).Inc()
		h.server.refusals.Do(func() { h.server.log.Warn("refused a connection", "err", string(line)) })
	} else {
		h.next.Print(string(line))
	}
	return len(line), nil
}

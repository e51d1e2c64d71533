package alerting

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start is the present of every test that has no server.
var start = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	body, err := os.ReadFile(filepath.Join("..", "testdata", "alerting", name))
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// sink remembers what it accepts, and does as told.
type sink struct {
	accept func(ctx context.Context, lane Lane, alerts []Alert) error

	mu    sync.Mutex
	calls []call
}

type call struct {
	lane   Lane
	alerts []Alert
}

func (s *sink) Accept(ctx context.Context, lane Lane, alerts []Alert) error {
	if s.accept != nil {
		if err := s.accept(ctx, lane, alerts); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, call{lane, alerts})
	return nil
}

func (s *sink) accepted() []call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]call(nil), s.calls...)
}

// guards is two guards.
type guards struct{ err error }

func (g guards) Guards(context.Context) (any, error) {
	return []map[string]string{{"name": "orders-service"}, {"name": "payments-service"}}, g.err
}

func (g guards) Guard(_ context.Context, name string) (any, error) {
	if g.err != nil {
		return nil, g.err
	}
	if name != "orders-service" {
		return nil, ErrUnknownGuard
	}
	return map[string]string{"name": name}, nil
}

const token = "correct-horse-battery-staple"

func tokenFile(t testing.TB, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// options are those of a server that needs nothing but a sink.
func options(t testing.TB, s Sink) (ServerOptions, *prometheus.Registry) {
	t.Helper()
	registry := prometheus.NewRegistry()
	return ServerOptions{
		AlertsAddress:  "127.0.0.1:0",
		MetricsAddress: "127.0.0.1:0",
		TokenFile:      tokenFile(t, token+"\n"),
		Sink:           s,
		Guards:         guards{},
		Gatherer:       registry,
		MetricSet:      NewMetrics(registry),
		Logger:         slog.New(slog.NewTextHandler(io.Discard, nil)),
	}, registry
}

// run serves until the test ends and expects an orderly end.
func run(t testing.TB, opts ServerOptions) *Server {
	t.Helper()
	server, err := NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return server
}

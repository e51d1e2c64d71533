package alerting

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

func TestEachCallThatProvesWhoItIsIsASpan(t *testing.T) {
	const caller = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	for name, c := range map[string]struct {
		path, auth, body, traceparent string
		fails                         bool
		span, lane, code              string // span: its name; empty: there is none
		failed                        codes.Code
		parent                        string
	}{
		"a webhook":                 {path: pathWebhook, auth: bearer, body: oneAlert, span: "POST /webhook", lane: "webhook", code: "200"},
		"a webhook of a trace":      {path: pathWebhook, auth: bearer, body: oneAlert, traceparent: caller, span: "POST /webhook", lane: "webhook", code: "200", parent: "00f067aa0ba902b7"},
		"a header that is no trace": {path: pathWebhook, auth: bearer, body: oneAlert, traceparent: "00-zz-1", span: "POST /webhook", lane: "webhook", code: "200"},
		"a push":                    {path: pathPush, auth: bearer, body: pushed, traceparent: caller, span: "POST /api/v2/alerts", lane: "push", code: "200", parent: "00f067aa0ba902b7"},
		"no sense":                  {path: pathWebhook, auth: bearer, body: "{", span: "POST /webhook", lane: "webhook", code: "400"},
		"not recorded":              {path: pathWebhook, auth: bearer, body: oneAlert, fails: true, span: "POST /webhook", lane: "webhook", code: "503", failed: codes.Error},
		"no token":                  {path: pathWebhook, body: oneAlert, traceparent: caller},
		"a wrong token":             {path: pathPush, auth: "Bearer wrong", body: pushed, traceparent: caller},
	} {
		t.Run(name, func(t *testing.T) {
			spans := tracetest.NewSpanRecorder()
			within := trace.SpanContext{}
			o, _ := options(t, &sink{accept: func(ctx context.Context, _ Lane, _ []Alert) error {
				within = trace.SpanContextFromContext(ctx)
				if c.fails {
					return errors.New("the API server is down")
				}
				return nil
			}})
			o.Tracer, o.Propagator = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("test"), propagation.TraceContext{}
			server := run(t, o)
			request := post(t, server, c.path, c.auth, strings.NewReader(c.body))
			request.Header.Set("traceparent", c.traceparent)
			exchange(t, request)
			ended := spans.Ended()
			if c.span == "" {
				if len(ended) != 0 || within.IsValid() {
					t.Errorf("spans %v", ended)
				}
				return
			}
			if len(ended) != 1 || ended[0].Name() != c.span || ended[0].SpanKind() != trace.SpanKindServer || ended[0].Status().Code != c.failed {
				t.Fatalf("spans %v", ended)
			}
			s := ended[0]
			got := map[string]string{}
			for _, kv := range s.Attributes() {
				got[string(kv.Key)] = kv.Value.String()
			}
			if got["guardian.lane"] != c.lane || got["http.response.status_code"] != c.code || got["http.route"] != c.path {
				t.Errorf("attributes %v", got)
			}
			if parent := s.Parent(); parent.IsValid() != (c.parent != "") || parent.IsValid() && parent.SpanID().String() != c.parent {
				t.Errorf("parent %v, want %q", parent, c.parent)
			}
			if c.code != "400" && !within.Equal(s.SpanContext()) {
				t.Errorf("the sink works within %v, want %v", within, s.SpanContext())
			}
		})
	}
}

// spanLog is a log that notes which lines were logged within a span.
type spanLog struct {
	mu    sync.Mutex
	lines map[string]bool
}

func (w *spanLog) Enabled(context.Context, slog.Level) bool { return true }
func (w *spanLog) WithAttrs([]slog.Attr) slog.Handler       { return w }
func (w *spanLog) WithGroup(string) slog.Handler            { return w }
func (w *spanLog) Handle(ctx context.Context, r slog.Record) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines[r.Message] = trace.SpanContextFromContext(ctx).IsValid()
	return nil
}

// The lines about a call that fails are those that somebody follows to its trace.
func TestEachLineAboutACallIsLoggedWithinItsSpan(t *testing.T) {
	for name, c := range map[string]struct {
		path, body, line string
		fails            bool
	}{
		"it fails":               {pathWebhook, oneAlert, "refused a request", true},
		"a push fails":           {pathPush, pushed, "refused a request", true},
		"no sense":               {pathWebhook, "{", "refused a request", false},
		"alerts left out":        {pathWebhook, strings.Replace(oneAlert, `"version"`, `"truncatedAlerts":3,"version"`, 1), "Alertmanager left alerts out of a call: set max_alerts: 0 on guardian's receiver", false},
		"an alert of the future": {pathWebhook, strings.ReplaceAll(oneAlert, "2026-", "2999-"), "alert began in the future, which is not believed: want the clocks of Prometheus and guardian set right", false},
	} {
		t.Run(name, func(t *testing.T) {
			o, _ := options(t, &sink{accept: func(context.Context, Lane, []Alert) error {
				if c.fails {
					return errors.New("the API server is down")
				}
				return nil
			}})
			log := &spanLog{lines: map[string]bool{}}
			o.Logger = slog.New(log)
			o.Tracer = sdktrace.NewTracerProvider().Tracer("test")
			exchange(t, post(t, run(t, o), c.path, bearer, strings.NewReader(c.body)))
			log.mu.Lock()
			defer log.mu.Unlock()
			if in, said := log.lines[c.line]; !said || !in {
				t.Errorf("%q: said: %v, within the span: %v; all: %v", c.line, said, in, log.lines)
			}
		})
	}
}

func TestACallWithoutTracesCostsNothingMore(t *testing.T) {
	s := &Server{}
	c := echo.New().NewContext(httptest.NewRequest(http.MethodPost, pathWebhook, nil), httptest.NewRecorder())
	ctx, now := t.Context(), time.Now()
	if n := testing.AllocsPerRun(100, func() {
		to, span := s.beginSpan(ctx, c, LaneWebhook, now)
		countAlerts(to, 3)
		endSpan(span, nil)
		if to != ctx || span != nil {
			t.Error("it is traced")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

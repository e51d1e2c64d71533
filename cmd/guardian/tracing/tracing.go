package tracing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"
)

// scope is the instrumentation scope of guardian's spans.
const scope = "github.com/canary-guardian/guardian"

// DefaultServiceName is service.name where the environment has none.
const DefaultServiceName = "guardian"

// Options say who sends the spans.
type Options struct {
	Version   string
	Namespace string // of Kubernetes
	Pod       string // empty: not known
	Log       *slog.Logger
	Metrics   prometheus.Registerer // nil: dropped spans are not counted
}

// Traces sends spans to a collector. A nil one does nothing.
type Traces struct {
	tracer    trace.Tracer
	provider  *sdktrace.TracerProvider
	propagate bool
}

// FromEnv sets traces up as the OTEL_ environment asks for; nil without an error
// where it asks for none. The error names each variable that is wrong, its value and
// what would be right.
func FromEnv(ctx context.Context, o Options) (*Traces, error) {
	var e environment
	s := e.read()
	if err := errors.Join(e.problems...); err != nil || s == nil {
		return nil, err
	}
	from, err := resourceOf(ctx, o)
	if err != nil {
		return nil, err
	}
	exporter, err := otlptrace.New(ctx, newClient(*s))
	if err != nil {
		return nil, fmt.Errorf("traces: %w", err)
	}
	tellErrors(o.Log)
	p := sdktrace.NewTracerProvider(sdktrace.WithResource(from), sdktrace.WithSampler(s.sampler),
		sdktrace.WithSpanProcessor(newQueue(exporter, newDrops(o.Metrics), *s)))
	o.Log.Info("traces are sent", "endpoint", redacted(s.endpoint))
	return &Traces{tracer: p.Tracer(scope, trace.WithInstrumentationVersion(o.Version)), provider: p, propagate: s.propagate}, nil
}

// resourceOf is who sends the spans; the environment has the last word.
func resourceOf(ctx context.Context, o Options) (*resource.Resource, error) {
	own := []attribute.KeyValue{semconv.ServiceName(DefaultServiceName), semconv.ServiceVersion(o.Version), semconv.K8SNamespaceName(o.Namespace)}
	if o.Pod != "" {
		own = append(own, semconv.K8SPodName(o.Pod), semconv.ServiceInstanceID(o.Pod))
	}
	r, err := resource.New(ctx, resource.WithTelemetrySDK(), resource.WithAttributes(own...), resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: want key=value pairs with commas between them: %w", err)
	}
	return r, nil
}

// tellErrors logs what is wrong with sending, once a minute at most: a collector may
// be away for days.
func tellErrors(log *slog.Logger) {
	often := rate.Sometimes{First: 1, Interval: time.Minute}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		often.Do(func() { log.Warn("traces are not sent; nothing else waits for them", "err", err) })
	}))
}

// redacted is a URL without its password, and without a query, which may be a token.
func redacted(endpoint string) string {
	u, err := url.Parse(endpoint)
	if err != nil {
		return ""
	}
	u.RawQuery = ""
	return u.Redacted()
}

// Tracer begins spans; nil: there are no traces.
func (t *Traces) Tracer() trace.Tracer {
	if t == nil {
		return nil
	}
	return t.tracer
}

// Shutdown sends what waits, for as long as ctx allows, and ends.
func (t *Traces) Shutdown(ctx context.Context) error {
	if t == nil {
		return nil
	}
	return t.provider.Shutdown(ctx)
}

// Propagator carries a span from one program to the next: W3C trace context. Nil:
// it is not carried.
func (t *Traces) Propagator() propagation.TextMapPropagator {
	if t == nil || !t.propagate {
		return nil
	}
	return propagation.TraceContext{}
}

// longestState is how much of somebody else's tracestate is passed on, in bytes: as much
// as W3C trace context asks for. A server that is in the way of the API server may refuse
// longer headers, and the rollback with them.
const longestState = 512

// Transport adds the header traceparent to requests that are part of a sampled trace.
func (t *Traces) Transport(next http.RoundTripper) http.RoundTripper {
	if t.Propagator() == nil {
		return next
	}
	return injector{next, t.Propagator()}
}

type injector struct {
	next       http.RoundTripper
	propagator propagation.TextMapPropagator
}

func (i injector) RoundTrip(r *http.Request) (*http.Response, error) {
	if trace.SpanContextFromContext(r.Context()).IsSampled() {
		r = r.Clone(r.Context())
		i.propagator.Inject(r.Context(), propagation.HeaderCarrier(r.Header))
		if len(r.Header.Get("tracestate")) > longestState {
			r.Header.Del("tracestate")
		}
	}
	return i.next.RoundTrip(r)
}

// WrappedRoundTripper is for client-go, which looks for what is below.
func (i injector) WrappedRoundTripper() http.RoundTripper { return i.next }

// LogHandler adds trace_id and span_id to the lines that are logged within a span.
func (t *Traces) LogHandler(next slog.Handler) slog.Handler {
	if t == nil {
		return next
	}
	return logHandler{next}
}

type logHandler struct{ slog.Handler }

func (h logHandler) Handle(ctx context.Context, r slog.Record) error {
	if c := trace.SpanContextFromContext(ctx); c.IsValid() {
		r = r.Clone()
		r.AddAttrs(slog.String("trace_id", c.TraceID().String()), slog.String("span_id", c.SpanID().String()))
	}
	return h.Handler.Handle(ctx, r)
}

func (h logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return logHandler{h.Handler.WithAttrs(attrs)}
}

func (h logHandler) WithGroup(name string) slog.Handler { return logHandler{h.Handler.WithGroup(name)} }

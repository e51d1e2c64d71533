package alerting

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// Attributes of guardian's own. docs/tracing.md says what each is.
const (
	attrLane   = attribute.Key("guardian.lane")
	attrAlerts = attribute.Key("guardian.alerts")
)

// beginSpan begins the span of a call whose sender has proved who it is, as a part of
// the trace that its headers tell of. The span is nil where there are no traces.
func (s *Server) beginSpan(ctx context.Context, c echo.Context, lane Lane, received time.Time) (context.Context, trace.Span) {
	if s.opts.Tracer == nil {
		return ctx, nil
	}
	if p := s.opts.Propagator; p != nil {
		ctx = p.Extract(ctx, propagation.HeaderCarrier(c.Request().Header))
	}
	ctx, span := s.opts.Tracer.Start(ctx, "POST "+c.Path(), trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(received),
		trace.WithAttributes(semconv.HTTPRequestMethodPost, semconv.HTTPRoute(c.Path()), semconv.URLPath(c.Path()), attrLane.String(string(lane))))
	c.SetRequest(c.Request().WithContext(ctx)) // handleError logs with it
	return ctx, span
}

// countAlerts notes on the span of a call how many alerts it had.
func countAlerts(ctx context.Context, n int) {
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		span.SetAttributes(attrAlerts.Int(n))
	}
}

// endSpan ends the span of a call with what it was answered. The answer of an error
// is written later, by handleError.
func endSpan(span trace.Span, err error) {
	if span == nil {
		return
	}
	code := http.StatusOK
	if err != nil {
		code = status(err)
		span.SetAttributes(semconv.ErrorTypeKey.String(http.StatusText(code)))
	}
	span.SetAttributes(semconv.HTTPResponseStatusCode(code))
	if code >= http.StatusInternalServerError {
		span.SetStatus(codes.Error, fmt.Sprintf("%.512s", err))
	}
	span.End()
}

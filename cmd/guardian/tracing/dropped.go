package tracing

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// MetricDropped is the name of the counter of spans that no collector has.
const MetricDropped = "guardian_trace_spans_dropped_total"

// Why spans were dropped: the values of the label reason.
const (
	dropFull     = "queue_full" // too many waited already
	dropFailed   = "failed"     // the collector is away, or refuses all that was sent
	dropRejected = "rejected"   // the collector took the others of the same call
)

// drops counts spans that no collector has, by reason.
type drops struct{ total *prometheus.CounterVec }

// newDrops registers the counter; with a nil registerer nobody reads it.
func newDrops(reg prometheus.Registerer) drops {
	d := drops{prometheus.NewCounterVec(prometheus.CounterOpts{Name: MetricDropped,
		Help: "Spans that guardian has dropped, by reason: queue_full (too many waited), failed (not taken by the collector), rejected (of a call that it took otherwise)."}, []string{"reason"})}
	for _, reason := range []string{dropFull, dropFailed, dropRejected} {
		d.total.WithLabelValues(reason)
	}
	if reg != nil {
		reg.MustRegister(d.total)
	}
	return d
}

func (d drops) add(reason string, spans int) { d.total.WithLabelValues(reason).Add(float64(spans)) }

// queue lets at most so many spans wait, those that are being sent included, and
// counts the others. The batch processor behind it has room for as many, so it drops
// none itself: it would count those by OpenTelemetry's experimental metrics alone.
type queue struct {
	sdktrace.SpanProcessor
	drops   drops
	most    int64
	waiting atomic.Int64
}

// OnEnd implements sdktrace.SpanProcessor.
func (q *queue) OnEnd(s sdktrace.ReadOnlySpan) {
	switch {
	case !s.SpanContext().IsSampled():
	case q.waiting.Add(1) > q.most:
		q.waiting.Add(-1)
		q.drops.add(dropFull, 1)
	default:
		q.SpanProcessor.OnEnd(s)
	}
}

// counted is an exporter whose failures are counted. done is told how many spans wait
// no longer.
type counted struct {
	sdktrace.SpanExporter
	drops drops
	done  func(spans int)
}

// ExportSpans implements sdktrace.SpanExporter.
func (c counted) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	defer c.done(len(spans))
	err := c.SpanExporter.ExportSpans(ctx, spans)
	var some *rejectedError
	switch {
	case errors.As(err, &some):
		c.drops.add(dropRejected, int(min(some.spans, uint64(len(spans)))))
	case err != nil:
		c.drops.add(dropFailed, len(spans))
	}
	return err
}

// newQueue sends spans by an exporter in batches, and counts those that are dropped.
func newQueue(e sdktrace.SpanExporter, d drops, s settings) *queue {
	q := &queue{drops: d, most: int64(s.queue)}
	done := func(spans int) { q.waiting.Add(-int64(spans)) }
	q.SpanProcessor = sdktrace.NewBatchSpanProcessor(counted{e, d, done}, s.batch...)
	return q
}

package remediate

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Attributes of guardian's own. docs/tracing.md says what each is.
const (
	attrGuard    = attribute.Key("guardian.guard")
	attrBuild    = attribute.Key("guardian.build")
	attrSignal   = attribute.Key("guardian.signal")
	attrAlert    = attribute.Key("guardian.alert")
	attrReason   = attribute.Key("guardian.reason")
	attrDetail   = attribute.Key("guardian.detail")
	attrState    = attribute.Key("guardian.state")
	attrMove     = attribute.Key("guardian.move")
	attrFrom     = attribute.Key("guardian.weight.from")
	attrTo       = attribute.Key("guardian.weight.to")
	attrResource = attribute.Key("guardian.resource")
	attrManager  = attribute.Key("guardian.field_manager")
)

// moveNames are the values of guardian.move.
var moveNames = map[decision.Move]string{decision.MoveNone: "none", decision.MoveStable: "stable", decision.MoveForward: "forward",
	decision.MoveRestore: "restore", decision.MoveMark: "mark"}

// passSpan is the span of one pass over a guard, in the pass's context. A pass that
// nobody waits for and that writes nothing has none: there are as many as guards a
// minute. A nil passSpan does nothing. It is used by one goroutine.
type passSpan struct {
	noop.Span // what is not recorded yet

	tracer trace.Tracer
	guard  decision.Guard
	span   trace.Span // nil until there is something to tell
	parent context.Context
	began  time.Time
	last   time.Time // when what is not told yet began

	decided *decision.Decision // the last one, if it is not told yet
	weight  int                // that it was made on
	at      time.Time
}

// SpanContext is that of the span, as far as there is one: what begins below it, is
// sent within it or is logged belongs to it.
func (p *passSpan) SpanContext() trace.SpanContext {
	if p == nil || p.span == nil {
		return trace.SpanContext{}
	}
	return p.span.SpanContext()
}

// tracePass begins a pass. It is part of the trace of the first alert that it answers
// and linked to those of the others. A nil tracer: nothing is traced.
func tracePass(ctx context.Context, tracer trace.Tracer, g decision.Guard, pending map[string]submitted) (context.Context, *passSpan) {
	if tracer == nil {
		return ctx, nil
	}
	now := time.Now()
	p := &passSpan{tracer: tracer, guard: g, parent: ctx, began: now, last: now}
	if len(pending) > 0 {
		p.begin(pending)
	}
	return trace.ContextWithSpan(ctx, p), p
}

// passOf returns the pass of a context; nil: it is not traced.
func passOf(ctx context.Context) *passSpan {
	p, _ := trace.SpanFromContext(ctx).(*passSpan)
	return p
}

func (p *passSpan) begin(pending map[string]submitted) {
	options := []trace.SpanStartOption{trace.WithTimestamp(p.began),
		trace.WithAttributes(semconv.K8SNamespaceName(p.guard.Namespace), attrGuard.String(p.guard.Name))}
	ctx := p.parent
	for i, from := range origins(pending) {
		if i == 0 {
			ctx = trace.ContextWithSpanContext(ctx, from)
			continue
		}
		options = append(options, trace.WithLinks(trace.Link{SpanContext: from}))
	}
	_, p.span = p.tracer.Start(ctx, "reconcile guard", options...)
}

// origins are the spans in which alerts came in, each once, the first received first.
func origins(pending map[string]submitted) []trace.SpanContext {
	var all []submitted
	for _, s := range pending {
		if s.from.IsValid() && !slices.ContainsFunc(all, func(o submitted) bool { return o.from.Equal(s.from) }) {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b submitted) int { return a.received.Compare(b.received) })
	out := make([]trace.SpanContext, len(all))
	for i, s := range all {
		out[i] = s.from
	}
	return out
}

// traceDecision notes what a pass has decided, and from what weight of the canary.
func traceDecision(ctx context.Context, s snapshot, d decision.Decision) {
	if p := passOf(ctx); p != nil {
		p.decide(s.input.Traffic.Weight, d)
	}
}

func (p *passSpan) decide(weight int, d decision.Decision) {
	p.decided, p.weight, p.at = &d, weight, time.Now()
	if p.span != nil {
		p.tellDecision()
	}
}

// write begins the span of a write, which is reason enough to tell of the pass.
func (p *passSpan) write(ctx context.Context, name string, attrs ...attribute.KeyValue) (context.Context, trace.Span) {
	if p.span == nil {
		p.begin(nil)
	}
	p.tellDecision()
	attrs = append(attrs, semconv.K8SNamespaceName(p.guard.Namespace), attrGuard.String(p.guard.Name))
	return p.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attrs...))
}

// tellDecision makes a span of the last decision: from the beginning, or the decision
// before it, until it was made.
func (p *passSpan) tellDecision() {
	if p.decided == nil {
		return
	}
	attrs := append(decisionAttributes(*p.decided, p.weight), semconv.K8SNamespaceName(p.guard.Namespace), attrGuard.String(p.guard.Name))
	_, span := p.tracer.Start(trace.ContextWithSpan(p.parent, p.span), "decide", trace.WithTimestamp(p.last), trace.WithAttributes(attrs...))
	span.End(trace.WithTimestamp(p.at))
	p.last, p.decided = p.at, nil
}

func decisionAttributes(d decision.Decision, weight int) []attribute.KeyValue {
	out := []attribute.KeyValue{attrReason.String(string(d.Reason)), attrMove.String(moveNames[d.Move]), attrState.String(string(d.Record.Status.State)), attrFrom.Int(weight)}
	switch d.Move {
	case decision.MoveStable:
		out = append(out, attrTo.Int(0))
	case decision.MoveForward:
		out = append(out, attrTo.Int(d.Weight))
	}
	return append(out, recordAttributes(d.Record)...)
}

// recordAttributes are those of a record that are known.
func recordAttributes(r decision.Record) []attribute.KeyValue {
	var out []attribute.KeyValue
	add := func(key attribute.Key, value string) {
		if value != "" {
			out = append(out, key.String(value))
		}
	}
	add(attrBuild, r.Status.Build)
	add(attrDetail, whyStable(r))
	if l := r.Lock; l != nil {
		add(attrSignal, l.Signal)
		add(attrAlert, l.Alert)
	}
	return out
}

// end ends the span of a pass with what came of it.
func (p *passSpan) end(out outcome, err error) {
	if p == nil || p.span == nil {
		return
	}
	p.tellDecision() // made, and not written
	p.span.SetAttributes(decisionAttributes(out.decision, p.weight)...)
	endSpan(p.span, err)
}

// endSpan ends a span with the error that it came to.
func endSpan(span trace.Span, err error) {
	var status apierrors.APIStatus
	switch {
	case err == nil:
	case errors.Is(err, errConflict): // somebody wrote first, and the next try is on what they wrote
		span.SetAttributes(semconv.ErrorTypeKey.String("conflict"))
	case errors.As(err, &status):
		span.SetAttributes(semconv.ErrorTypeKey.String(string(status.Status().Reason)))
		span.SetStatus(codes.Error, decision.Shorten(err.Error()))
	default:
		span.SetAttributes(semconv.ErrorTypeOther)
		span.SetStatus(codes.Error, decision.Shorten(err.Error()))
	}
	span.End()
}

// tracedStore makes a span of each write of a traced pass.
type tracedStore struct{ store }

func (t tracedStore) writeRecord(ctx context.Context, guard string, old *corev1.ConfigMap, r decision.Record) (cm *corev1.ConfigMap, err error) {
	if p := passOf(ctx); p != nil {
		to, span := p.write(ctx, "write record", append(recordAttributes(r), attrResource.String("configmaps"), attrState.String(string(r.Status.State)))...)
		ctx = to
		defer func() { endSpan(span, err) }()
	}
	return t.store.writeRecord(ctx, guard, old, r)
}

func (t tracedStore) patchVirtualService(ctx context.Context, vs *unstructured.Unstructured, ops []virtualservice.Op, manager string) (now *unstructured.Unstructured, err error) {
	if p := passOf(ctx); p != nil {
		to, span := p.write(ctx, "patch VirtualService", attrResource.String("virtualservices/"+vs.GetName()), attrManager.String(manager))
		ctx = to
		defer func() { endSpan(span, err) }()
	}
	return t.store.patchVirtualService(ctx, vs, ops, manager)
}

func (t tracedStore) release(ctx context.Context, name string) (err error) {
	if p := passOf(ctx); p != nil {
		to, span := p.write(ctx, "release VirtualService", attrResource.String("virtualservices/"+name))
		ctx = to
		defer func() { endSpan(span, err) }()
	}
	return t.store.release(ctx, name)
}

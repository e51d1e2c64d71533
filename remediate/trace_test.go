package remediate

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// traced is a lonely guardian whose passes are traced.
type traced struct {
	*lonely
	tracer trace.Tracer
	spans  *tracetest.SpanRecorder
}

func newTraced(t *testing.T, weight int) *traced {
	o := &traced{lonely: newLonely(t, weight), spans: tracetest.NewSpanRecorder()}
	o.tracer = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(o.spans)).Tracer("test")
	o.rec.store = tracedStore{o.rec.store}
	return o
}

// incoming is an alert and the span in which it came in.
func (o *traced) incoming(a decision.Alert, received time.Time) submitted {
	_, span := o.tracer.Start(o.t.Context(), "POST /webhook")
	defer span.End()
	return submitted{alert: a, received: received, from: span.SpanContext()}
}

// pass is one with these alerts waiting for it; it returns the spans that came of it,
// parents before their children, each as its name with its parent's before it.
func (o *traced) pass(waiting ...submitted) ([]string, map[string]sdktrace.ReadOnlySpan) {
	o.t.Helper()
	before := len(o.spans.Ended())
	pending := map[string]submitted{}
	var alerts []decision.Alert
	for _, s := range waiting {
		pending[s.alert.Episode()], alerts = s, append(alerts, s.alert)
	}
	o.now = o.now.Add(time.Second)
	ctx, span := tracePass(o.t.Context(), o.tracer, o.guard, pending)
	out, err := o.rec.reconcile(ctx, o.guard, alerts)
	span.end(out, err)
	got := o.spans.Ended()[before:]
	slices.SortStableFunc(got, func(a, b sdktrace.ReadOnlySpan) int {
		return cmp.Or(a.StartTime().Compare(b.StartTime()), b.EndTime().Compare(a.EndTime()))
	})
	ids, byName := map[trace.SpanID]string{}, map[string]sdktrace.ReadOnlySpan{}
	for _, s := range got {
		ids[s.SpanContext().SpanID()] = s.Name() + " > "
		byName[s.Name()] = s
	}
	var names []string
	for _, s := range got {
		names = append(names, ids[s.Parent().SpanID()]+s.Name())
	}
	return names, byName
}

func attributesOf(s sdktrace.ReadOnlySpan) map[string]string {
	out := map[string]string{}
	for _, kv := range s.Attributes() {
		out[string(kv.Key)] = kv.Value.String()
	}
	return out
}

func TestARollbackIsATraceOfItsAlertDecisionAndWrites(t *testing.T) {
	o := newTraced(t, 10)
	a, b := errorsAlert, errorsAlert
	b.Fingerprint, b.Name, b.Signal = "g", "CanaryLatency", "latency"
	second := o.incoming(b, at.Add(2*time.Second))
	first := o.incoming(a, at.Add(time.Second))
	again := first // of the same call
	again.alert.Fingerprint = "h"
	names, spans := o.pass(second, first, again)
	want := []string{"reconcile guard", "reconcile guard > decide", "reconcile guard > write record", "reconcile guard > patch VirtualService"}
	if !slices.Equal(names, want) {
		t.Fatalf("spans %q, want %q", names, want)
	}
	pass := spans["reconcile guard"]
	if pass.Parent().SpanID() != first.from.SpanID() || len(pass.Links()) != 1 || !pass.Links()[0].SpanContext.Equal(second.from) {
		t.Errorf("parent %v, links %v; want the first that came in, %v, and a link to the other, %v", pass.Parent(), pass.Links(), first.from, second.from)
	}
	build := o.record().Lock.Build
	for _, c := range []struct {
		span string
		want map[string]string
	}{
		{"reconcile guard", map[string]string{"k8s.namespace.name": testNamespace, "guardian.guard": "orders-service", "guardian.move": "stable", "guardian.signal": "error_rate"}},
		{"decide", map[string]string{"k8s.namespace.name": testNamespace, "guardian.guard": "orders-service", "guardian.build": build, "guardian.signal": "error_rate", "guardian.alert": "CanaryErrors",
			"guardian.reason": "rollback alert", "guardian.move": "stable", "guardian.weight.from": "10", "guardian.weight.to": "0"}},
		{"write record", map[string]string{"guardian.resource": "configmaps", "guardian.signal": "error_rate", "guardian.build": build}},
		{"patch VirtualService", map[string]string{"guardian.resource": "virtualservices/orders-service", "guardian.field_manager": "guardian", "k8s.namespace.name": testNamespace}},
	} {
		got := attributesOf(spans[c.span])
		for k, v := range c.want {
			if got[k] != v {
				t.Errorf("%s has %s=%q, want %q", c.span, k, got[k], v)
			}
		}
		if spans[c.span].Status().Code == codes.Error {
			t.Errorf("%s failed: %v", c.span, spans[c.span].Status())
		}
	}
	if k := spans["patch VirtualService"].SpanKind(); k != trace.SpanKindClient {
		t.Errorf("kind %v", k)
	}
}

func TestWritesThatNoAlertAskedForAreATraceOfTheirOwn(t *testing.T) {
	o := newTraced(t, 10)
	if _, spans := o.pass(o.incoming(errorsAlert, at)); spans["patch VirtualService"] == nil {
		t.Fatal("no rollback")
	}
	o.pass() // seen to be done
	if names, _ := o.pass(); len(names) > 0 {
		t.Errorf("a pass that writes nothing has spans: %q", names)
	}
	o.ci(30)
	names, spans := o.pass()
	if len(names) < 3 || names[0] != "reconcile guard" || names[1] != "reconcile guard > decide" || spans["patch VirtualService"] == nil {
		t.Fatalf("spans %q", names)
	}
	if pass := spans["reconcile guard"]; pass.Parent().IsValid() || attributesOf(pass)["guardian.reason"] != string(decision.ReasonReassert) {
		t.Errorf("parent %v, %v", pass.Parent(), attributesOf(pass))
	}
}

func TestAnAlertThatChangesNothingIsTracedAsWell(t *testing.T) {
	o := newTraced(t, 0)
	o.pass(o.incoming(errorsAlert, at))
	names, spans := o.pass(o.incoming(errorsAlert, at))
	if len(names) < 2 || names[0] != "reconcile guard" || names[1] != "reconcile guard > decide" {
		t.Fatalf("spans %q", names)
	}
	if got := attributesOf(spans["decide"]); got["guardian.move"] != "none" || got["guardian.detail"] == "" {
		t.Errorf("%v", got)
	}
}

func TestAWriteThatFailsIsSeenInItsTrace(t *testing.T) {
	forbidden := apierrors.NewForbidden(virtualServiceResource.GroupResource(), "orders-service", errors.New("not this one"))
	for name, c := range map[string]struct {
		err  error
		kind string
		code codes.Code
	}{
		"refused":            {forbidden, "Forbidden", codes.Error},
		"somebody was first": {errConflict, "conflict", codes.Unset},
		"no answer":          {errAPI, "_OTHER", codes.Error},
	} {
		t.Run(name, func(t *testing.T) {
			o := newTraced(t, 10)
			failed := false
			o.refuse = func(write string, _ []virtualservice.Op) (error, bool) {
				if write != "traffic" || failed {
					return nil, false
				}
				failed = true
				return c.err, false
			}
			o.pass(o.incoming(errorsAlert, at))
			all := o.spans.Ended()
			i := slices.IndexFunc(all, func(s sdktrace.ReadOnlySpan) bool { return s.Name() == "patch VirtualService" })
			if i < 0 || attributesOf(all[i])["error.type"] != c.kind || all[i].Status().Code != c.code {
				t.Fatalf("%v", all)
			}
		})
	}
}

// Without a tracer an alert costs what it costs without traces.
func TestNoTracesCostNothing(t *testing.T) {
	o := newLonely(t, 10)
	g, s, d, out := o.guard, snapshot{}, decision.Decision{}, outcome{}
	pending := map[string]submitted{"x": {alert: errorsAlert, received: at}}
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() {
		pass, span := tracePass(ctx, nil, g, pending)
		if pass != ctx || trace.SpanContextFromContext(pass).IsValid() {
			t.Error("it is traced")
		}
		traceDecision(pass, s, d)
		span.end(out, nil)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestTheLatencyHistogramNamesATrace(t *testing.T) {
	m := NewMetrics(prometheus.NewRegistry())
	sampled := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled})
	m.rollbackTook(trace.ContextWithSpanContext(t.Context(), sampled), "orders", 20*time.Millisecond)
	m.rollbackTook(trace.ContextWithSpanContext(t.Context(), sampled.WithTraceFlags(0)), "orders", 200*time.Millisecond)
	m.rollbackTook(t.Context(), "orders", 2*time.Second)
	var out dto.Metric
	if err := m.seconds.WithLabelValues("orders").(prometheus.Histogram).Write(&out); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, b := range out.Histogram.Bucket {
		if e := b.GetExemplar(); e != nil {
			got = append(got, fmt.Sprintf("%s=%s at %v", e.Label[0].GetName(), e.Label[0].GetValue(), e.GetValue()))
		}
	}
	if want := "trace_id=" + sampled.TraceID().String() + " at 0.02"; out.Histogram.GetSampleCount() != 3 || strings.Join(got, ";") != want {
		t.Errorf("%d samples, exemplars %q; want %q alone", out.Histogram.GetSampleCount(), got, want)
	}
}

func TestAMoveHasAName(t *testing.T) {
	for m := decision.MoveNone; m <= decision.MoveMark; m++ {
		if moveNames[m] == "" {
			t.Errorf("move %d has none, of %v", m, slices.Collect(maps.Values(moveNames)))
		}
	}
}

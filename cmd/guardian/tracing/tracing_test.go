package tracing

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/canary-guardian/guardian/test/otlp"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
)

func TestMain(m *testing.M) {
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "OTEL_") {
			os.Unsetenv(name)
		}
	}
	goleak.VerifyTestMain(m)
}

// traces starts them, with what they log.
func traces(t *testing.T, env map[string]string) (*Traces, *bytes.Buffer) {
	t.Helper()
	got, log, _ := countedTraces(t, env)
	return got, log
}

// countedTraces starts them, with what they log and their metrics.
func countedTraces(t *testing.T, env map[string]string) (*Traces, *bytes.Buffer, *prometheus.Registry) {
	t.Helper()
	for k, v := range env {
		t.Setenv(k, v)
	}
	log, reg := &bytes.Buffer{}, prometheus.NewPedanticRegistry()
	got, err := FromEnv(t.Context(), Options{Version: "1.2.3", Namespace: "shop", Pod: "guardian-0", Log: slog.New(slog.NewTextHandler(log, nil)), Metrics: reg})
	if err != nil {
		t.Fatal(err)
	}
	return got, log, reg
}

// dropped are the spans that a registry says were dropped, by reason.
func dropped(t *testing.T, reg *prometheus.Registry) map[string]int {
	t.Helper()
	families, err := reg.Gather()
	if err != nil || len(families) != 1 || families[0].GetName() != "guardian_trace_spans_dropped_total" {
		t.Fatalf("metrics %v, %v", families, err)
	}
	out := map[string]int{}
	for _, m := range families[0].GetMetric() {
		out[m.GetLabel()[0].GetValue()] = int(m.GetCounter().GetValue())
	}
	return out
}

func receiver(t *testing.T) *otlp.Receiver {
	r := otlp.NewReceiver()
	t.Cleanup(r.Close)
	return r
}

func TestThereAreNoTracesUnlessTheyAreAskedFor(t *testing.T) {
	for name, env := range map[string]map[string]string{
		"nothing":                  {},
		"a name alone":             {"OTEL_SERVICE_NAME": "x", "OTEL_TRACES_SAMPLER": "always_on"},
		"an endpoint of metrics":   {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://x:4318"},
		"no exporter":              {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4318", "OTEL_TRACES_EXPORTER": "none"},
		"switched off":             {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4318", "OTEL_SDK_DISABLED": "TRUE"},
		"an empty endpoint, as by": {"OTEL_EXPORTER_OTLP_ENDPOINT": " "},
	} {
		t.Run(name, func(t *testing.T) {
			got, log, reg := countedTraces(t, env)
			if got != nil || got.Tracer() != nil || got.Propagator() != nil || log.Len() > 0 {
				t.Errorf("%v, log %q", got, log)
			}
			if families, err := reg.Gather(); err != nil || len(families) > 0 {
				t.Errorf("metrics %v, %v", families, err)
			}
			next := http.DefaultTransport
			if got.Transport(next) != next {
				t.Error("requests are looked at")
			}
			if err := got.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestABadValueNamesItsVariableAndWhatWouldBeRight(t *testing.T) {
	const on = "OTEL_EXPORTER_OTLP_ENDPOINT"
	file := filepath.Join(t.TempDir(), "no.pem")
	if err := os.WriteFile(file, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, value, want string }{
		{"OTEL_TRACES_EXPORTER", "zipkin", `"zipkin": want otlp or none`},
		{"OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "want a URL such as http://collector:4318"},
		{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "grpc://collector:4317", "want a URL"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT", "http://u:hunter2@/", "want a URL"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT", "http://u:hunter2@%zz", "want a URL"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT", "u:hunter2@collector:4318", "want a URL"},
		{"OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", `"grpc": want http/protobuf`},
		{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json", `"http/json": want http/protobuf`},
		{"OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", `"zstd": want gzip or none`},
		{"OTEL_EXPORTER_OTLP_HEADERS", "authorization:hunter2", "want key=value pairs"},
		{"OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a=hunter2%0d%0ax", "want key=value pairs"},
		{"OTEL_EXPORTER_OTLP_TIMEOUT", "10s", `"10s": want a whole number above 0`},
		{"OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "0", `"0": want a whole number above 0`},
		{"OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem", "no such file"},
		{"OTEL_EXPORTER_OTLP_CERTIFICATE", file, "no certificate in it"},
		{"OTEL_EXPORTER_OTLP_CLIENT_KEY", file, "want two PEM files that belong together"},
		{"OTEL_TRACES_SAMPLER", "sometimes", `"sometimes": want always_on`},
		{"OTEL_PROPAGATORS", "b3", `"b3": want tracecontext or none`},
		{"OTEL_BSP_MAX_QUEUE_SIZE", "-1", `"-1": want a whole number above 0`},
		{"OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4096", `"4096": want at most OTEL_BSP_MAX_QUEUE_SIZE, which is 2048`},
		{"OTEL_BSP_SCHEDULE_DELAY", "x", `"x": want a whole number above 0`},
		{"OTEL_BSP_EXPORT_TIMEOUT", "1e3", `"1e3": want a whole number above 0`},
		{"OTEL_RESOURCE_ATTRIBUTES", "team", "want key=value pairs"},
	} {
		t.Run(c.name+" "+c.value, func(t *testing.T) {
			t.Setenv(on, "http://127.0.0.1:1")
			t.Setenv(c.name, c.value)
			got, err := FromEnv(t.Context(), Options{Log: slog.New(slog.DiscardHandler)})
			if got != nil || err == nil || !strings.Contains(err.Error(), c.name) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %s and %s", err, c.name, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("a secret is shown: %v", err)
			}
		})
	}
	t.Run("a ratio, and all at once", func(t *testing.T) {
		for k, v := range map[string]string{on: "http://127.0.0.1:1", "OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "1.5", "OTEL_BSP_SCHEDULE_DELAY": "x"} {
			t.Setenv(k, v)
		}
		_, err := FromEnv(t.Context(), Options{Log: slog.New(slog.DiscardHandler)})
		if err == nil || !strings.Contains(err.Error(), `OTEL_TRACES_SAMPLER_ARG: "1.5": want a number from 0 to 1`) || !strings.Contains(err.Error(), "OTEL_BSP_SCHEDULE_DELAY") {
			t.Error(err)
		}
	})
}

func TestSpansReachTheCollector(t *testing.T) {
	r := receiver(t)
	got, log := traces(t, map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT": r.URL + "/", "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20hunter2, x-scope = a", "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
		"OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test,service.version=9",
	})
	ctx, parent := got.Tracer().Start(t.Context(), "parent")
	_, child := got.Tracer().Start(ctx, "child", trace.WithSpanKind(trace.SpanKindClient))
	child.End()
	parent.End()
	if err := got.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	spans := r.Spans()
	if len(spans) != 2 || len(r.Wrong()) > 0 {
		t.Fatalf("%v, wrong %v", spans, r.Wrong())
	}
	if tree := otlp.Tree(spans, parent.SpanContext().TraceID().String()); tree != "parent\n  child\n" || spans[0].Kind != "client" {
		t.Errorf("%s%v", tree, spans)
	}
	for k, want := range map[string]string{"service.name": "guardian", "service.version": "9", "service.instance.id": "guardian-0", "k8s.namespace.name": "shop",
		"k8s.pod.name": "guardian-0", "deployment.environment.name": "test", "telemetry.sdk.language": "go"} {
		if spans[0].Resource[k] != want {
			t.Errorf("resource has %s=%q, want %q", k, spans[0].Resource[k], want)
		}
	}
	if h := r.Headers()[0]; h.Get("Authorization") != "Bearer hunter2" || h.Get("X-Scope") != "a" || h.Get("Content-Encoding") != "gzip" {
		t.Errorf("headers %v", h)
	}
	var request collectorpb.ExportTraceServiceRequest
	if err := proto.Unmarshal(r.Bodies()[0], &request); err != nil || len(request.ResourceSpans) != 1 || len(request.ProtoReflect().GetUnknown()) > 0 {
		t.Errorf("no ExportTraceServiceRequest: %v, %v", err, &request)
	}
	if strings.Contains(log.String(), "hunter2") {
		t.Errorf("a secret is logged: %s", log)
	}
}

func TestTheServiceIsNamedByTheEnvironment(t *testing.T) {
	r := receiver(t)
	got, _ := traces(t, map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": r.URL + "/v1/traces", "OTEL_SERVICE_NAME": "brake", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})
	_, span := got.Tracer().Start(t.Context(), "x")
	span.End()
	if err := got.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := r.Spans(); len(s) != 1 || s[0].Resource["service.name"] != "brake" {
		t.Errorf("%v", s)
	}
}

func TestTheSamplerDecides(t *testing.T) {
	sampled := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}, TraceFlags: trace.FlagsSampled, Remote: true})
	not := sampled.WithTraceFlags(0)
	for _, c := range []struct {
		sampler, arg             string
		root, sampled, unsampled bool
	}{
		{"", "", true, true, false},
		{"always_on", "", true, true, true},
		{"always_off", "", false, false, false},
		{"parentbased_always_on", "", true, true, false},
		{"parentbased_always_off", "", false, true, false},
		{"traceidratio", "0", false, false, false},
		{"traceidratio", "", true, true, true},
		{"parentbased_traceidratio", "0", false, true, false},
	} {
		t.Run(c.sampler+c.arg, func(t *testing.T) {
			got, _ := traces(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": receiver(t).URL, "OTEL_TRACES_SAMPLER": c.sampler, "OTEL_TRACES_SAMPLER_ARG": c.arg})
			defer func() { _ = got.Shutdown(context.Background()) }()
			for name, want := range map[string]struct {
				parent trace.SpanContext
				is     bool
			}{"root": {trace.SpanContext{}, c.root}, "sampled": {sampled, c.sampled}, "unsampled": {not, c.unsampled}} {
				_, span := got.Tracer().Start(trace.ContextWithRemoteSpanContext(t.Context(), want.parent), "x")
				if span.SpanContext().IsSampled() != want.is {
					t.Errorf("%s: %v, want %v", name, !want.is, want.is)
				}
			}
		})
	}
}

// What is told when spans are not taken, and how many are counted; the same again is not told.
func TestACollectorThatRefusesIsToldOnceAndCounted(t *testing.T) {
	t.Cleanup(func() { otel.SetErrorHandler(otel.ErrorHandlerFunc(func(error) {})) })
	partial := func(rejected int64) []byte {
		answer, err := proto.Marshal(&collectorpb.ExportTraceServiceResponse{PartialSuccess: &collectorpb.ExportTracePartialSuccess{RejectedSpans: rejected, ErrorMessage: "too old"}})
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	kind := http.Header{"Content-Type": {contentType}}
	for name, c := range map[string]struct {
		answer func(calls int) (int, http.Header, []byte)
		calls  int
		log    string
		drops  map[string]int
	}{
		"refused": {func(int) (int, http.Header, []byte) { return http.StatusBadRequest, nil, nil }, 2, "the collector answers 400", map[string]int{dropFailed: 4}},
		"some of them": {func(int) (int, http.Header, []byte) { return http.StatusOK, kind, partial(1) }, 2, `the collector rejected 1 spans: \"too old\"`,
			map[string]int{dropRejected: 2}},
		"more than there are": {func(int) (int, http.Header, []byte) { return http.StatusOK, kind, partial(-1) }, 2, `the collector rejected 18446744073709551615 spans`,
			map[string]int{dropRejected: 4}},
		"sent elsewhere": {func(int) (int, http.Header, []byte) { // where the headers are nobody's business
			return http.StatusTemporaryRedirect, http.Header{"Location": {"/elsewhere"}}, nil
		}, 2, "the collector answers 307", map[string]int{dropFailed: 4}},
		"garbage is no no": {func(int) (int, http.Header, []byte) { return http.StatusOK, kind, []byte{0xff} }, 2, "", nil},
		"busy, then not": {func(calls int) (int, http.Header, []byte) {
			if calls == 0 {
				return http.StatusServiceUnavailable, nil, nil
			}
			return http.StatusOK, nil, nil
		}, 3, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := receiver(t)
			r.Answer(c.answer)
			got, log, reg := countedTraces(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": r.URL, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "2"}) // two exports
			for range 4 {
				_, span := got.Tracer().Start(t.Context(), "x")
				span.End()
			}
			_ = got.Shutdown(t.Context())
			told := strings.Count(log.String(), "traces are not sent")
			if len(r.Headers()) != c.calls || told > 1 || (told == 1) != (c.log != "") || !strings.Contains(log.String(), c.log) {
				t.Errorf("%d calls, want %d; log, want %q once:\n%s", len(r.Headers()), c.calls, c.log, log)
			}
			drops := dropped(t, reg)
			for _, reason := range []string{dropFull, dropFailed, dropRejected} {
				if n, counted := drops[reason]; !counted || n != c.drops[reason] {
					t.Errorf("dropped as %s: %d, want %d", reason, n, c.drops[reason])
				}
			}
		})
	}
}

// Spans end while the collector takes a connection and does not answer, many more of
// them than the queue holds. Each is sent or counted.
func TestACollectorThatHangsHoldsNobody(t *testing.T) {
	t.Cleanup(func() { otel.SetErrorHandler(otel.ErrorHandlerFunc(func(error) {})) })
	release, called := make(chan struct{}), make(chan struct{}, 100)
	hangs := receiver(t)
	hangs.Answer(func(int) (int, http.Header, []byte) {
		called <- struct{}{}
		<-release
		return http.StatusOK, nil, nil
	})
	got, log, reg := countedTraces(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": hangs.URL, "OTEL_BSP_MAX_QUEUE_SIZE": "16", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8"})
	end := func(n int) {
		for range n {
			_, span := got.Tracer().Start(t.Context(), "x")
			span.End()
		}
	}
	end(16)
	<-called
	if n := dropped(t, reg)[dropFull]; n != 0 {
		t.Errorf("%d dropped, and the queue has room", n)
	}
	end(10_000) // with an export under way
	if n := dropped(t, reg)[dropFull]; n != 10_000 {
		t.Errorf("%d dropped of 10000, and the queue is full", n)
	}
	close(release) // only now may anything have been sent
	if err := got.provider.ForceFlush(t.Context()); err != nil {
		t.Fatal(err)
	}
	end(16) // what was dropped takes no room
	_ = got.Shutdown(t.Context())
	if told := strings.Count(log.String(), "traces are not sent"); told > 1 {
		t.Errorf("told %d times", told)
	}
	if n := len(hangs.Spans()); n != 32 {
		t.Errorf("%d were sent, want 32", n)
	}
	if drops := dropped(t, reg); drops[dropFull] != 10_000 || drops[dropFailed] != 0 || drops[dropRejected] != 0 {
		t.Errorf("dropped: %v", drops)
	}
}

// A span that is recorded and not sampled is for nobody.
func TestWhatIsNotSampledTakesNoRoom(t *testing.T) {
	exporter, drops := tracetest.NewInMemoryExporter(), newDrops(nil)
	q := newQueue(exporter, drops, settings{queue: 4, batch: []sdktrace.BatchSpanProcessorOption{sdktrace.WithMaxQueueSize(4)}})
	sampled := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}, TraceFlags: trace.FlagsSampled})
	for range 100 {
		q.OnEnd(tracetest.SpanStub{SpanContext: sampled.WithTraceFlags(0)}.Snapshot())
	}
	q.OnEnd(tracetest.SpanStub{SpanContext: sampled}.Snapshot())
	if err := q.ForceFlush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(exporter.GetSpans()); n != 1 {
		t.Errorf("%d were sent, want 1", n)
	}
	if err := q.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// What was sent makes room for others.
func TestTheQueueIsAsLongAgainWhenSpansWereSent(t *testing.T) {
	r := receiver(t)
	got, _, reg := countedTraces(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": r.URL, "OTEL_BSP_MAX_QUEUE_SIZE": "4", "OTEL_BSP_SCHEDULE_DELAY": "3600000"})
	for range 20 {
		for range 4 {
			_, span := got.Tracer().Start(t.Context(), "x")
			span.End()
		}
		if err := got.provider.ForceFlush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	_ = got.Shutdown(t.Context())
	if n, drops := len(r.Spans()), dropped(t, reg); n != 80 || drops[dropFull] != 0 {
		t.Errorf("%d sent of 80, dropped %v", n, drops)
	}
}

func TestRequestsWithinASampledTraceTellOfIt(t *testing.T) {
	var seen []string
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen = append(seen, r.Header.Get("traceparent")) }))
	defer server.Close()
	own := &http.Transport{}
	defer own.CloseIdleConnections()
	call := func(ctx context.Context, tr *Traces) {
		t.Helper()
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := (&http.Client{Transport: tr.Transport(own)}).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if r.Header.Get("traceparent") != "" {
			t.Error("the caller's request was changed")
		}
	}
	collector := receiver(t)
	got, _ := traces(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": collector.URL})
	ctx, span := got.Tracer().Start(t.Context(), "x")
	call(ctx, got)
	call(t.Context(), got)
	t.Setenv("OTEL_PROPAGATORS", "none")
	silent, _ := traces(t, nil)
	call(ctx, silent)
	_, _ = got.Shutdown(t.Context()), silent.Shutdown(t.Context())
	id := span.SpanContext()
	if want := "00-" + id.TraceID().String() + "-" + id.SpanID().String() + "-01"; len(seen) != 3 || seen[0] != want || seen[1] != "" || seen[2] != "" {
		t.Errorf("%q, want %s alone, first", seen, want)
	}
}

func TestLogLinesOfATraceHaveItsID(t *testing.T) {
	got, _ := traces(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": receiver(t).URL})
	defer func() { _ = got.Shutdown(context.Background()) }()
	var b bytes.Buffer
	log := slog.New(got.LogHandler(slog.NewTextHandler(&b, nil))).With("component", "x")
	ctx, span := got.Tracer().Start(t.Context(), "x")
	log.InfoContext(ctx, "within")
	log.Info("without")
	within, without, _ := strings.Cut(b.String(), "\n")
	id := span.SpanContext()
	if !strings.Contains(within, "trace_id="+id.TraceID().String()+" span_id="+id.SpanID().String()) || strings.Contains(without, "trace_id") {
		t.Errorf("%s\n%s", within, without)
	}
}

// A server refuses requests whose headers are too long for it; those of somebody else's
// trace must not have it refuse a rollback.
func TestATracestateThatIsTooLongGoesNoFurther(t *testing.T) {
	collector := receiver(t)
	got, _ := traces(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": collector.URL})
	defer func() { _ = got.Shutdown(context.Background()) }()
	for name, c := range map[string]struct {
		members int
		want    bool
	}{"as W3C has each pass it on": {2, true}, "the longest that can be read": {32, false}} {
		var members []string
		for i := range c.members {
			members = append(members, "k"+strconv.Itoa(i)+"="+strings.Repeat("v", 240))
		}
		state := strings.Join(members, ",")
		header := http.Header{"Traceparent": {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}, "Tracestate": {state}}
		ctx := got.Propagator().Extract(t.Context(), propagation.HeaderCarrier(header))
		if trace.SpanContextFromContext(ctx).TraceState().String() != state {
			t.Fatalf("%s: it is not read, so nothing is tried", name)
		}
		var sent http.Header
		r := httptest.NewRequestWithContext(ctx, http.MethodGet, "http://api.example", nil)
		response, err := got.Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
			sent = r.Header
			return httptest.NewRecorder().Result(), nil
		})).RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if sent.Get("traceparent") == "" || (sent.Get("tracestate") == state) != c.want || !c.want && sent.Get("tracestate") != "" {
			t.Errorf("%s: %v", name, sent)
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

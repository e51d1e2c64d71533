// Package otlp receives OpenTelemetry traces in tests: OTLP over HTTP, as a collector
// does, and keeps them.
package otlp

import (
	"compress/gzip"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Span is a span as it was received. Ids are in lower-case hex.
type Span struct {
	Name, Kind                string
	TraceID, SpanID, ParentID string            // ParentID is empty for a root
	Links                     []string          // trace-span
	Attributes                map[string]string // their values as text
	Resource                  map[string]string
	Failed                    string // the status message of a span with an error
	Start, End                time.Time
}

// Receiver is a server that keeps what it is sent.
type Receiver struct {
	*httptest.Server

	mu      sync.Mutex
	spans   []Span
	bodies  [][]byte
	headers []http.Header
	wrong   []error
	answer  func(calls int) (status int, header http.Header, body []byte)
}

// NewReceiver starts one; Close ends it.
func NewReceiver() *Receiver {
	r := &Receiver{}
	r.Server = httptest.NewServer(r)
	return r
}

// Answer has calls answered by f, which is told how many there were before. What is
// answered with an error is not kept.
func (r *Receiver) Answer(f func(calls int) (status int, header http.Header, body []byte)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = f
}

// ServeHTTP is for the server.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, call *http.Request) {
	body, err := read(call)
	r.mu.Lock()
	status, header, answer := http.StatusOK, http.Header{}, []byte(nil)
	if r.answer != nil {
		status, header, answer = r.answer(len(r.headers))
	}
	r.headers = append(r.headers, call.Header)
	if err == nil && status == http.StatusOK {
		r.bodies = append(r.bodies, body)
		err = r.keep(body)
	}
	if err != nil {
		r.wrong, status = append(r.wrong, err), http.StatusBadRequest
	}
	r.mu.Unlock()
	for k, v := range header {
		w.Header()[k] = v
	}
	w.WriteHeader(status)
	_, _ = w.Write(answer)
}

func read(call *http.Request) ([]byte, error) {
	if call.Method != http.MethodPost || call.URL.Path != "/v1/traces" || call.Header.Get("Content-Type") != "application/x-protobuf" {
		return nil, fmt.Errorf("%s %s of %s", call.Method, call.URL.Path, call.Header.Get("Content-Type"))
	}
	body := io.Reader(call.Body)
	if call.Header.Get("Content-Encoding") == "gzip" {
		unzipped, err := gzip.NewReader(body)
		if err != nil {
			return nil, err
		}
		body = unzipped
	}
	return io.ReadAll(body)
}

func (r *Receiver) keep(body []byte) error {
	var data tracepb.TracesData
	if err := proto.Unmarshal(body, &data); err != nil {
		return err
	}
	for _, from := range data.ResourceSpans {
		for _, scope := range from.ScopeSpans {
			for _, s := range scope.Spans {
				r.spans = append(r.spans, spanOf(s, attributes(from.Resource.GetAttributes())))
			}
		}
	}
	return nil
}

func spanOf(s *tracepb.Span, resource map[string]string) Span {
	out := Span{
		Name: s.Name, Kind: strings.ToLower(strings.TrimPrefix(s.Kind.String(), "SPAN_KIND_")),
		TraceID: hex.EncodeToString(s.TraceId), SpanID: hex.EncodeToString(s.SpanId), ParentID: hex.EncodeToString(s.ParentSpanId),
		Attributes: attributes(s.Attributes), Resource: resource,
		Start: time.Unix(0, int64(s.StartTimeUnixNano)), End: time.Unix(0, int64(s.EndTimeUnixNano)), //nolint:gosec // times of today
	}
	if s.Status.GetCode() == tracepb.Status_STATUS_CODE_ERROR {
		out.Failed = s.Status.GetMessage()
	}
	for _, l := range s.Links {
		out.Links = append(out.Links, hex.EncodeToString(l.TraceId)+"-"+hex.EncodeToString(l.SpanId))
	}
	return out
}

func attributes(all []*commonpb.KeyValue) map[string]string {
	out := map[string]string{}
	for _, kv := range all {
		switch v := kv.Value.GetValue().(type) {
		case *commonpb.AnyValue_StringValue:
			out[kv.Key] = v.StringValue
		case *commonpb.AnyValue_IntValue:
			out[kv.Key] = fmt.Sprint(v.IntValue)
		default:
			out[kv.Key] = kv.Value.String()
		}
	}
	return out
}

// Spans are those that have come, in the order in which they came.
func (r *Receiver) Spans() []Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Span(nil), r.spans...)
}

// Bodies are those of the calls that were kept, unzipped.
func (r *Receiver) Bodies() [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([][]byte(nil), r.bodies...)
}

// Headers are those of all calls.
func (r *Receiver) Headers() []http.Header {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]http.Header(nil), r.headers...)
}

// Wrong is what no collector would have taken.
func (r *Receiver) Wrong() []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]error(nil), r.wrong...)
}

// Tree are the spans of a trace as text, each below its parent, in order of their
// beginning.
func Tree(spans []Span, traceID string) string {
	known := map[string]bool{}
	for _, s := range spans {
		known[s.SpanID] = true
	}
	var b strings.Builder
	var visit func(parent string, root bool, depth int)
	visit = func(parent string, root bool, depth int) {
		for _, s := range spans {
			if s.TraceID == traceID && (root && !known[s.ParentID] || !root && s.ParentID == parent) {
				fmt.Fprintf(&b, "%s%s\n", strings.Repeat("  ", depth), s.Name)
				visit(s.SpanID, false, depth+1)
			}
		}
	}
	visit("", true, 0)
	return b.String()
}

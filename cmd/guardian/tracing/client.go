package tracing

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

const (
	contentType  = "application/x-protobuf"
	mostResponse = 64 << 10 // bytes of an answer that are read
	firstWait    = time.Second
)

// client posts spans to a collector: OTLP/HTTP with binary protobuf
// (https://opentelemetry.io/docs/specs/otlp/#otlphttp). It is the Client of
// OpenTelemetry's otlptrace exporter.
type client struct {
	settings
	http *http.Client
}

func newClient(s settings) *client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = s.tls
	transport.MaxIdleConnsPerHost = 1
	here := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse } // headers may have a key in them
	return &client{settings: s, http: &http.Client{Transport: transport, CheckRedirect: here}}
}

// Start is for the exporter; a connection is made when there are spans.
func (c *client) Start(context.Context) error { return nil }

// Stop is for the exporter.
func (c *client) Stop(context.Context) error {
	c.http.CloseIdleConnections()
	return nil
}

// UploadTraces sends spans, again while the collector says that it is busy, until
// OTEL_EXPORTER_OTLP_TIMEOUT is over.
func (c *client) UploadTraces(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	// TracesData has the fields, and so the bytes, of ExportTraceServiceRequest, whose package links gRPC.
	body, err := proto.Marshal(&tracepb.TracesData{ResourceSpans: spans})
	if err != nil {
		return fmt.Errorf("encode spans: %w", err)
	}
	if c.gzip {
		body = zipped(body)
	}
	for wait := firstWait; ; wait *= 2 {
		err := c.post(ctx, body)
		var busy *busyError
		if !errors.As(err, &busy) {
			return err
		}
		select {
		case <-time.After(max(wait, busy.after)):
		case <-ctx.Done():
			return err
		}
	}
}

func zipped(body []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(body) // a buffer takes all
	_ = w.Close()
	return out.Bytes()
}

// busyError is an answer after which the same may be sent again.
type busyError struct {
	status string
	after  time.Duration
}

func (e *busyError) Error() string { return "the collector answers " + e.status }

func (c *client) post(ctx context.Context, body []byte) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.endpoint, bytes.NewReader(body))
	if err != nil {
		return err
	}
	for k, v := range c.headers {
		r.Header[k] = v
	}
	r.Header.Set("Content-Type", contentType)
	r.Header.Set("User-Agent", "guardian")
	if c.gzip {
		r.Header.Set("Content-Encoding", "gzip")
	}
	response, err := c.http.Do(r)
	var of *url.Error
	if errors.As(err, &of) {
		return of.Err // without the URL, which may have a token in it
	}
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, mostResponse))
	switch code := response.StatusCode; {
	case err != nil:
		return fmt.Errorf("read the collector's answer: %w", err)
	case code >= 200 && code < 300:
		return partial(response.Header.Get("Content-Type"), answer)
	case code == http.StatusTooManyRequests || code == http.StatusBadGateway || code == http.StatusServiceUnavailable || code == http.StatusGatewayTimeout:
		seconds, _ := strconv.Atoi(response.Header.Get("Retry-After"))
		return &busyError{response.Status, time.Duration(max(0, min(seconds, 60))) * time.Second}
	}
	return fmt.Errorf("the collector answers %s", response.Status)
}

// partial is an error if an ExportTraceServiceResponse says that spans were
// rejected: field 1 holds rejected_spans (1) and error_message (2).
func partial(kind string, answer []byte) error {
	if kind != contentType {
		return nil
	}
	var rejected uint64
	var why string
	fields(answer, func(n protowire.Number, message []byte, _ uint64) {
		if n != 1 {
			return
		}
		fields(message, func(n protowire.Number, text []byte, number uint64) {
			switch n {
			case 1:
				rejected = number
			case 2:
				why = string(text)
			}
		})
	})
	if rejected == 0 {
		return nil
	}
	return &rejectedError{rejected, why}
}

// rejectedError is the answer of a collector that took only some of the spans.
type rejectedError struct {
	spans uint64
	why   string
}

func (e *rejectedError) Error() string {
	return fmt.Sprintf("the collector rejected %d spans: %.200q", e.spans, e.why)
}

// fields calls do for each field of a protobuf message, until one makes no sense.
func fields(message []byte, do func(n protowire.Number, value []byte, number uint64)) {
	for len(message) > 0 {
		n, kind, size := protowire.ConsumeTag(message)
		if size < 0 {
			return
		}
		message = message[size:]
		if size = protowire.ConsumeFieldValue(n, kind, message); size < 0 {
			return
		}
		switch kind {
		case protowire.VarintType:
			number, _ := protowire.ConsumeVarint(message)
			do(n, nil, number)
		case protowire.BytesType:
			value, _ := protowire.ConsumeBytes(message)
			do(n, value, 0)
		}
		message = message[size:]
	}
}

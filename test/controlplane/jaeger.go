package controlplane

import (
	"context"
	"fmt"
)

// Where a Jaeger keeps its traces until it stops.
const (
	JaegerMemory = `memory: {max_traces: 10000}`
	JaegerBadger = `badger: {ephemeral: true}` // a database, with an index of tags as those of production have
)

// jaegerConfig takes OTLP over HTTP. The query service has a gRPC port of its own, which nobody needs.
const jaegerConfig = `{receivers: {otlp: {protocols: {http: {endpoint: "%s"}}}}, exporters: {jaeger_storage_exporter: {trace_storage: traces}},
 extensions: {jaeger_storage: {backends: {traces: {%s}}},
  jaeger_query: {storage: {traces: traces}, enable_tracing: false, http: {endpoint: "%s"}, grpc: {endpoint: "127.0.0.1:0"}}},
 service: {extensions: [jaeger_storage, jaeger_query], telemetry: {metrics: {level: none}},
  pipelines: {traces: {receivers: [otlp], exporters: [jaeger_storage_exporter]}}}}`

// Jaeger is a real one. Its user interface is a page that says that it is missing: the Go module has none.
type Jaeger struct {
	*Process

	OTLP string // for OTEL_EXPORTER_OTLP_ENDPOINT
	URL  string // of the user interface and of the API that it reads, /api/traces
}

// StartJaeger starts one on 127.0.0.1, with one of the storages. It takes some minutes to build where it is missing.
func (p *Plane) StartJaeger(ctx context.Context, storage string) (*Jaeger, error) {
	program, err := Binary(ctx, "jaeger")
	if err != nil {
		return nil, err
	}
	var otlp string
	process, port, err := onFreePort(ctx, func(ctx context.Context, port int) (*Process, error) {
		collector, err := FreePort()
		if err != nil {
			return nil, err
		}
		otlp = address(collector)
		return p.Run(ctx, Program{
			Name: "jaeger", Path: program, Args: []string{"--config", "yaml:" + fmt.Sprintf(jaegerConfig, otlp, storage, address(port))},
			Env:   []string{"TMPDIR=" + p.Dir()},
			Ready: func(ctx context.Context) error { return reached(ctx, "http://"+address(port)+"/api/services") },
		})
	})
	if err != nil {
		return nil, err
	}
	return &Jaeger{process, "http://" + otlp, "http://" + address(port)}, nil
}

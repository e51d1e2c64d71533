package controlplane

import (
	"context"
	"fmt"
	"net/http"
)

// collectorConfig takes OTLP over HTTP and prints each span.
const collectorConfig = `{receivers: {otlp: {protocols: {http: {endpoint: "%s"}}}}, exporters: {debug: {verbosity: detailed}},
 service: {telemetry: {metrics: {level: none}}, pipelines: {traces: {receivers: [otlp], exporters: [debug]}}}}`

// Collector is a real OpenTelemetry collector, which prints each span that it gets into its log.
type Collector struct {
	*Process

	URL string // for OTEL_EXPORTER_OTLP_ENDPOINT
}

// StartCollector starts one on 127.0.0.1. It takes a minute to build where it is missing.
func (p *Plane) StartCollector(ctx context.Context) (*Collector, error) {
	program, err := Binary(ctx, "collector")
	if err != nil {
		return nil, err
	}
	process, port, err := onFreePort(ctx, func(ctx context.Context, port int) (*Process, error) {
		return p.Run(ctx, Program{
			Name: "collector", Path: program, Env: []string{"COLLECTOR=" + fmt.Sprintf(collectorConfig, address(port))},
			Ready: func(ctx context.Context) error { return reached(ctx, "http://"+address(port)+"/v1/traces") },
		})
	})
	if err != nil {
		return nil, err
	}
	return &Collector{process, "http://" + address(port)}, nil
}

// reached is nil as soon as there is any answer.
func reached(ctx context.Context, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	return response.Body.Close()
}

package main

import (
	"context"
	"log/slog"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/canary-guardian/guardian/cmd/guardian/tracing"
)

// lastSpans is how long the end of guardian waits for what has not been sent.
const lastSpans = 3 * time.Second

// connectTraces sends traces if the OTEL_ environment asks for them. What is wrong
// with it is told, and stops nothing: it is not the brake.
func (s *service) connectTraces(reg prometheus.Registerer) {
	version, _ := buildVersion()
	traces, err := tracing.FromEnv(context.Background(), tracing.Options{
		Version: version, Namespace: s.config.Namespace, Pod: os.Getenv("POD_NAME"), Log: s.log.With("component", "tracing"), Metrics: reg,
	})
	if err != nil {
		s.log.Error("no traces are sent: the OTEL_ environment is wrong", "err", err)
		return
	}
	if traces == nil {
		return
	}
	s.traces, s.log = traces, slog.New(traces.LogHandler(s.log.Handler()))
	s.close = append(s.close, func() {
		ctx, cancel := context.WithTimeout(context.Background(), lastSpans)
		defer cancel()
		if err := traces.Shutdown(ctx); err != nil {
			s.log.Warn("the last traces were not sent", "err", err)
		}
	})
}

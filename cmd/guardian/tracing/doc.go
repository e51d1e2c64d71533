// Package tracing sends OpenTelemetry traces by OTLP over HTTP, set up by the
// standard environment variables alone
// (https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/).
//
// Spans wait in a bounded queue and are sent by a goroutine of their own: a
// collector that is slow or away costs spans, and never a rollback any time. The
// exporter is the project's own client below OpenTelemetry's conversion, since
// otlptracehttp links all of gRPC.
package tracing

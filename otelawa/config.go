// Package otelawa traces and measures jobs of Awa with OpenTelemetry. It is a module of its own, so that the driver
// does not depend on OpenTelemetry.
//
// A [Client] enqueues jobs, each call in a span, and puts the context of that span into the jobs' metadata.
// [Middleware] takes it from there, and runs the handler in a span that continues the caller's trace, in every attempt.
// [ObserveWorker] exports what a worker counts.
//
// Spans and metrics are those of the semantic conventions for messaging, version 1.43.0, which are still in
// development: https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/ and
// https://opentelemetry.io/docs/specs/semconv/messaging/messaging-metrics/. An operation's name is its type, "send" or
// "process", the destination is the queue, the message is the job. What the conventions have no name for begins with
// "awa.":
//
//	awa.job.kind       string   the kind of the job, on all spans and on all metrics but the worker's
//	awa.job.attempt    int      which attempt this is, from 1, on the spans of workers
//	awa.job.duplicate  boolean  true on the span of a call that enqueued nothing: another job holds the unique key
//	awa.job.outcome    string   what became of an attempt, on the spans of workers and on awa.worker.jobs
//
// An error is the span's status, and its error.type, of the span as of its metrics, is the SQLSTATE if the error came
// from the server, "timeout" for [driver.ErrTimeout], and otherwise what [semconv.ErrorType] says.
package otelawa

import (
	"cmp"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// Config says where spans and metrics go. The zero value is ready to use.
type Config struct {
	// TracerProvider makes the spans; [otel.GetTracerProvider] by default.
	TracerProvider trace.TracerProvider
	// MeterProvider makes the metrics; [otel.GetMeterProvider] by default.
	MeterProvider metric.MeterProvider
	// Propagator puts the context of a trace into the metadata of jobs, and takes it from there: each of its fields is a
	// key whose value is a string. [propagation.TraceContext] by default, not the global one, so that producers and
	// workers agree in every program and language: traceparent and tracestate, as https://www.w3.org/TR/trace-context/ has
	// them.
	Propagator propagation.TextMapPropagator
}

// WithDefaults returns the configuration with its zero values replaced by the defaults. The functions of this package
// do so themselves.
func (c Config) WithDefaults() Config {
	c.TracerProvider = cmp.Or(c.TracerProvider, otel.GetTracerProvider())
	c.MeterProvider = cmp.Or(c.MeterProvider, otel.GetMeterProvider())
	c.Propagator = cmp.Or[propagation.TextMapPropagator](c.Propagator, propagation.TraceContext{})
	return c
}

const scope = "github.com/awa-pg/awa/otelawa"

func (c Config) tracer() trace.Tracer {
	return c.TracerProvider.Tracer(scope, trace.WithSchemaURL(semconv.SchemaURL))
}

func (c Config) meter() metric.Meter {
	return c.MeterProvider.Meter(scope, metric.WithSchemaURL(semconv.SchemaURL))
}

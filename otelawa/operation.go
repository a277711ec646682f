package otelawa

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/awa-pg/awa/driver"
)

// Attributes that the conventions have no name for.
const (
	keyKind      = attribute.Key("awa.job.kind")
	keyAttempt   = attribute.Key("awa.job.attempt")
	keyDuplicate = attribute.Key("awa.job.duplicate")
	keyOutcome   = attribute.Key("awa.job.outcome")
)

var system = semconv.MessagingSystemKey.String("awa")

// durationBuckets are the boundaries, in seconds, that the conventions have for both durations.
var durationBuckets = metric.WithExplicitBucketBoundaries(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5,
	5, 7.5, 10)

// operation is something that is done with jobs: its span, and what its metrics have in common.
type operation struct {
	span       trace.Span
	begun      time.Time
	attributes []attribute.KeyValue
}

// begin begins an operation, and returns the context of its span. The queue and the kind are empty where the jobs have
// none in common.
func begin(ctx context.Context, tracer trace.Tracer, operationType attribute.KeyValue, queue, kind string,
	opts ...trace.SpanStartOption) (context.Context, *operation) {
	name := operationType.Value.AsString()
	op := &operation{begun: time.Now(),
		attributes: append([]attribute.KeyValue{system, semconv.MessagingOperationName(name), operationType},
			jobAttributes(queue, kind)...)}
	if queue != "" {
		name += " " + queue
	}
	opts = append(opts, trace.WithTimestamp(op.begun), trace.WithAttributes(op.attributes...))
	ctx, op.span = tracer.Start(ctx, name, opts...)
	return ctx, op
}

func jobAttributes(queue, kind string) (attributes []attribute.KeyValue) {
	if queue != "" {
		attributes = append(attributes, semconv.MessagingDestinationName(queue))
	}
	if kind != "" {
		attributes = append(attributes, keyKind.String(kind))
	}
	return attributes
}

// end ends an operation, and returns how long it took, in seconds, and the attributes of its metrics.
func (op *operation) end(err error) (float64, attribute.Set) {
	if err != nil {
		errorType, text := errorType(err), err.Error()
		if panicked, ok := errors.AsType[*driver.PanicError](err); ok {
			text = fmt.Sprintf("panic: %v", panicked.Value)
			op.span.AddEvent(semconv.ExceptionEventName, trace.WithAttributes(
				semconv.ExceptionType(fmt.Sprintf("%T", panicked.Value)),
				semconv.ExceptionMessage(fmt.Sprint(panicked.Value)),
				semconv.ExceptionStacktrace(string(panicked.Stack)),
			))
		}
		op.span.SetStatus(codes.Error, text)
		op.span.SetAttributes(errorType)
		op.attributes = append(op.attributes, errorType)
	}
	ended := time.Now()
	op.span.End(trace.WithTimestamp(ended))
	return ended.Sub(op.begun).Seconds(), attribute.NewSet(op.attributes...)
}

func errorType(err error) attribute.KeyValue {
	if server, ok := errors.AsType[interface {
		error
		SQLState() string
	}](err); ok {
		return semconv.ErrorTypeKey.String(server.SQLState())
	}
	if errors.Is(err, driver.ErrTimeout) {
		return semconv.ErrorTypeKey.String("timeout")
	}
	return semconv.ErrorType(err)
}

// errNoReturn is the error of an operation that never returned.
var errNoReturn = errors.New("the call panicked, or ended its goroutine")

// reported returns an instrument. If the SDK has refused it, it is one that does nothing, and whoever handles errors of
// OpenTelemetry is told.
func reported[T any](instrument T, err error) T {
	if err != nil {
		otel.Handle(err)
	}
	return instrument
}

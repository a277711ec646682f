package otelawa

import (
	"context"
	"runtime/debug"
	"strconv"

	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/semconv/v1.43.0/messagingconv"
	"go.opentelemetry.io/otel/trace"

	"github.com/awa-pg/awa/driver"
)

// Middleware returns a middleware that traces and measures handlers. Let it be the outermost one, the first of
// [driver.WorkerConfig], so that what others do is in its span.
//
// Each attempt is a span "process <queue>" of kind CONSUMER. The handler gets its context. Its parent is the span in
// which the job was enqueued, however long ago that was, so that the trace of the caller goes on in the handler; the
// conventions leave that choice for single messages. As they want it, the span is linked to that context, too, and to
// the span in which
// the worker runs, if any: see "Consumer spans" in
// https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/. A job without such a context, or with
// something else in its place, begins a trace, or is a child of the span in which the worker runs.
//
// A panic of the handler, or of other middleware, becomes a [*driver.PanicError], and is an event of the span, with its
// stack: https://opentelemetry.io/docs/specs/semconv/exceptions/exceptions-spans/.
//
// An attempt counts in messaging.client.consumed.messages, and its time in messaging.process.duration, with an
// error.type if something went wrong: a job that is snoozed or cancelled by its handler is no error, see
// [driver.Outcome].
func Middleware(cfg Config) driver.Middleware {
	cfg = cfg.WithDefaults()
	tracer, meter := cfg.tracer(), cfg.meter()
	consumed := reported(messagingconv.NewClientConsumedMessages(meter))
	duration := reported(messagingconv.NewProcessDuration(meter, durationBuckets))
	return func(ctx context.Context, job *driver.RawJob, next func(context.Context) error) (err error) {
		metadata := decodeMetadata(job.Metadata)
		var links []trace.Link
		if created := metadata.creationContext(cfg.Propagator); created.IsValid() {
			links = []trace.Link{{SpanContext: created}, trace.LinkFromContext(ctx)} // one that is not valid is left out
		}
		ctx = cfg.Propagator.Extract(ctx, metadata)
		ctx, op := begin(ctx, tracer, semconv.MessagingOperationTypeProcess, job.Queue, job.Kind,
			trace.WithSpanKind(trace.SpanKindConsumer), trace.WithLinks(links...),
			trace.WithAttributes(semconv.MessagingMessageID(strconv.FormatInt(job.ID, 10)), keyAttempt.Int(job.Attempt)))
		err = errNoReturn
		defer func() {
			if v := recover(); v != nil {
				err = &driver.PanicError{Value: v, Stack: debug.Stack()}
			}
			outcome, cause := driver.Outcome(err)
			op.span.SetAttributes(keyOutcome.String(outcome))
			seconds, attributes := op.end(cause)
			duration.RecordSet(ctx, seconds, attributes)
			consumed.AddSet(ctx, 1, attributes)
		}()
		return next(ctx)
	}
}

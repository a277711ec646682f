package otelawa_test

import (
	"context"
	"fmt"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/otelawa"
)

func TestTheCallersTraceGoesOnInTheHandler(t *testing.T) {
	f := newFixture(t)
	var id int64
	caller := f.call(func(ctx context.Context) {
		var err error
		id, err = f.client.Enqueue(ctx, note{Text: "hello"}, inQueue)
		require.NoError(t, err)
	})
	ctx, stop := context.WithCancel(t.Context())
	handlers := make(chan trace.SpanContext, 1)
	worker := f.worker(func(ctx context.Context, job *driver.Job[note]) error {
		assert.Equal(t, "hello", job.Args.Text)
		handlers <- trace.SpanContextFromContext(ctx)
		stop()
		return nil
	})
	require.NoError(t, worker.Run(ctx)) // until the handler stops it

	sent, span := f.last("send email"), f.last("process email")
	handler := <-handlers
	assert.Equal(t, caller.TraceID(), handler.TraceID())
	assert.Equal(t, span.SpanContext(), handler)
	assert.Equal(t, trace.SpanKindConsumer, span.SpanKind())
	assert.Equal(t, sent.SpanContext().SpanID(), span.Parent().SpanID())
	assert.True(t, span.Parent().IsRemote())
	assert.Equal(t, []trace.SpanID{sent.SpanContext().SpanID()}, spanIDs(span.Links()))
	assert.Equal(t, codes.Unset, span.Status().Code)
	assert.Equal(t, map[attribute.Key]any{
		"messaging.system":           "awa",
		"messaging.destination.name": "email",
		"messaging.operation.name":   "process",
		"messaging.operation.type":   "process",
		"messaging.message.id":       strconv.FormatInt(id, 10),
		"awa.job.kind":               "note",
		"awa.job.attempt":            int64(1),
		"awa.job.outcome":            "completed",
	}, attributesOf(span.Attributes()))
	common := map[attribute.Key]any{
		"messaging.system": "awa", "messaging.destination.name": "email", "messaging.operation.name": "process",
		"messaging.operation.type": "process", "awa.job.kind": "note",
	}
	assert.Equal(t, []point{{common, 1}}, f.metric("messaging.client.consumed.messages"))
	assert.Equal(t, []point{{common, 1}}, f.metric("messaging.process.duration"))
}

func TestEachAttemptIsAChildOfTheProducer(t *testing.T) {
	f := newFixture(t)
	_, sent := f.enqueue(inQueue)
	for attempt := range 3 {
		_, err := f.pool.Exec(t.Context(), "select awa.promote_due()") // a retry is ready when that has been called
		require.NoError(t, err)
		span := f.run(t.Context(), func(_ context.Context, job *driver.Job[note]) error {
			return driver.RetryAfter(0, errBoom)
		})
		assert.Equal(t, sent.SpanContext().TraceID(), span.SpanContext().TraceID())
		assert.Equal(t, sent.SpanContext().SpanID(), span.Parent().SpanID())
		assert.EqualValues(t, attempt+1, attributesOf(span.Attributes())["awa.job.attempt"])
		assert.Equal(t, codes.Error, span.Status().Code)
	}
	assert.Len(t, f.ended("process email"), 3)
}

func TestAJobWithoutAContextBeginsATrace(t *testing.T) {
	f := newFixture(t)
	for name, metadata := range map[string]any{
		"none":               nil,
		"null":               map[string]any(nil),
		"no object":          []string{"traceparent"},
		"text":               "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		"other keys":         map[string]any{"tenant": "acme"},
		"no string":          map[string]any{"traceparent": map[string]any{"a": 1}, "tracestate": 7},
		"null value":         map[string]any{"traceparent": nil},
		"not a traceparent":  map[string]any{"traceparent": "garbage", "tracestate": "=,="},
		"invalid ids":        map[string]any{"traceparent": "00-00000000000000000000000000000000-0000000000000000-01"},
		"only a tracestate":  map[string]any{"tracestate": "vendor=1"},
		"a version too much": map[string]any{"traceparent": "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
	} {
		t.Run(name, func(t *testing.T) {
			id, err := driver.NewClient(f.pool).Enqueue(t.Context(), note{},
				driver.EnqueueOptions{Queue: queue, Metadata: metadata})
			require.NoError(t, err)
			span := f.run(t.Context(), succeed)
			assert.False(t, span.Parent().IsValid())
			assert.Empty(t, span.Links())
			assert.Equal(t, codes.Unset, span.Status().Code)
			job, err := f.client.Job(t.Context(), id)
			require.NoError(t, err)
			assert.Equal(t, "completed", job.State)
		})
	}
}

func TestTheSpanOfTheWorkerIsLinked(t *testing.T) {
	f := newFixture(t)
	_, sent := f.enqueue(inQueue)
	f.call(func(ctx context.Context) {
		span := f.run(ctx, succeed)
		assert.Equal(t, sent.SpanContext().SpanID(), span.Parent().SpanID())
		assert.Equal(t, []trace.SpanID{sent.SpanContext().SpanID(), trace.SpanContextFromContext(ctx).SpanID()},
			spanIDs(span.Links()))

		_, err := driver.NewClient(f.pool).Enqueue(ctx, note{}, inQueue) // without a context
		require.NoError(t, err)
		span = f.run(ctx, succeed)
		assert.Equal(t, trace.SpanContextFromContext(ctx).SpanID(), span.Parent().SpanID())
		assert.Empty(t, span.Links())
	})
}

// What is done around the handler by others is in the span.
func TestTheHandlersContextIsThatOfTheSpan(t *testing.T) {
	f := newFixture(t)
	f.enqueue(inQueue)
	span := f.run(t.Context(), func(ctx context.Context, _ *driver.Job[note]) error {
		_, inner := f.tracer.Start(ctx, "inner")
		inner.End()
		return nil
	}, driver.Timeout(time.Hour))
	assert.Equal(t, span.SpanContext().SpanID(), f.last("inner").Parent().SpanID())
}

func TestTracestateAndSamplingGoAlong(t *testing.T) {
	f := newFixture(t)
	incoming := propagation.MapCarrier{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		"tracestate": "vendor=1"}
	_, err := f.client.Enqueue(propagation.TraceContext{}.Extract(t.Context(), incoming), note{}, inQueue)
	require.NoError(t, err)
	span := f.run(t.Context(), succeed)
	assert.Equal(t, "0af7651916cd43dd8448eb211c80319c", span.SpanContext().TraceID().String())
	assert.Equal(t, "vendor=1", span.SpanContext().TraceState().String())

	incoming = propagation.MapCarrier{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"}
	_, err = f.client.Enqueue(propagation.TraceContext{}.Extract(t.Context(), incoming), note{}, inQueue)
	require.NoError(t, err)
	var handler trace.SpanContext
	f.run(t.Context(), func(ctx context.Context, _ *driver.Job[note]) error {
		handler = trace.SpanContextFromContext(ctx)
		return nil
	})
	assert.Equal(t, "0af7651916cd43dd8448eb211c80319c", handler.TraceID().String())
	assert.False(t, handler.IsSampled())
	assert.Len(t, f.ended("process email"), 1)
}

func TestAnotherPropagator(t *testing.T) {
	f := newFixture(t)
	f.cfg.Propagator = propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})
	f.client = otelawa.NewClient(driver.NewClient(f.pool), f.cfg)
	member, err := baggage.NewMember("tenant", "acme")
	require.NoError(t, err)
	bag, err := baggage.New(member)
	require.NoError(t, err)
	_, err = f.client.Enqueue(baggage.ContextWithBaggage(t.Context(), bag), note{}, inQueue)
	require.NoError(t, err)
	span := f.run(t.Context(), func(ctx context.Context, _ *driver.Job[note]) error {
		assert.Equal(t, "acme", baggage.FromContext(ctx).Member("tenant").Value())
		return nil
	})
	assert.Equal(t, f.last("send email").SpanContext().SpanID(), span.Parent().SpanID())
}

// customError classifies itself, as the conventions for Go have it.
type customError struct{}

func (customError) Error() string     { return "no such customer" }
func (customError) ErrorType() string { return "no_customer" }

func TestAnErrorOfTheHandlerIsRecorded(t *testing.T) {
	f := newFixture(t)
	for _, test := range []struct {
		err       error
		errorType string
	}{
		{errBoom, "*errors.errorString"},
		{fmt.Errorf("order 7: %w", &time.ParseError{}), "*time.ParseError"},
		{fmt.Errorf("order 7: %w", customError{}), "no_customer"},
		{context.DeadlineExceeded, "context.deadlineExceededError"},
	} {
		f.enqueue(inQueue)
		span := f.run(t.Context(), func(context.Context, *driver.Job[note]) error { return test.err })
		assertFailed(t, span, test.errorType, test.err.Error())
		assert.Empty(t, span.Events(), "only panics are events")
	}
	types := map[any]int64{}
	for _, p := range f.metric("messaging.process.duration") {
		types[p.attributes["error.type"]] = p.value
	}
	assert.Equal(t, map[any]int64{"*errors.errorString": 1, "*time.ParseError": 1, "no_customer": 1,
		"context.deadlineExceededError": 1}, types)
	assert.Len(t, f.metric("messaging.client.consumed.messages"), 4)
}

func TestAnErrorOfTheDatabaseIsItsSQLSTATE(t *testing.T) {
	f := newFixture(t)
	f.enqueue(inQueue)
	span := f.run(t.Context(), func(ctx context.Context, _ *driver.Job[note]) error {
		_, err := f.pool.Exec(ctx, "select 1 / 0")
		return fmt.Errorf("divide: %w", err)
	})
	assertFailed(t, span, "22012", "division by zero")
}

func TestAPanicIsAnEventWithItsStack(t *testing.T) {
	f := newFixture(t)
	for name, run := range map[string]func(panics func()) error{
		"of the handler": func(panics func()) error {
			return f.runOne(t.Context(), f.worker(func(context.Context, *driver.Job[note]) error { panics(); return nil })).Err
		},
		"of other middleware": func(panics func()) error {
			return f.runOne(t.Context(),
				f.worker(succeed,
					func(context.Context, *driver.RawJob, func(context.Context) error) error { panics(); return nil })).Err
		},
	} {
		t.Run(name, func(t *testing.T) {
			id, sent := f.enqueue(inQueue)
			err := run(panicking)
			var panicked *driver.PanicError
			require.ErrorAs(t, err, &panicked)
			assert.Equal(t, errBoom, panicked.Value)

			span := f.last("process email")
			assert.Equal(t, sent.SpanContext().SpanID(), span.Parent().SpanID())
			assertFailed(t, span, "*driver.PanicError", "panic: boom")
			assert.NotContains(t, span.Status().Description, "goroutine")
			require.Len(t, span.Events(), 1)
			event := span.Events()[0]
			assert.Equal(t, "exception", event.Name)
			attributes := attributesOf(event.Attributes)
			assert.Equal(t, "*errors.errorString", attributes["exception.type"])
			assert.Equal(t, "boom", attributes["exception.message"])
			assert.Contains(t, attributes["exception.stacktrace"], "otelawa_test.panicking")

			job, err := f.client.Job(t.Context(), id)
			require.NoError(t, err)
			require.Len(t, job.Errors, 1)
			assert.Contains(t, job.Errors[0].Error, "boom")
		})
	}
}

func panicking() { panic(errBoom) }

// A handler that ends its goroutine leaves no open span. RunOne would end the test's, so a worker runs it.
func TestAHandlerThatNeverReturnsEndsItsSpan(t *testing.T) {
	f := newFixture(t)
	f.enqueue(inQueue)
	ctx, stop := context.WithCancel(t.Context())
	worker := f.worker(func(context.Context, *driver.Job[note]) error {
		stop()
		runtime.Goexit()
		return nil
	})
	require.NoError(t, worker.Run(ctx))
	assertFailed(t, f.last("process email"), "*errors.errorString", "ended its goroutine")
	assert.EqualValues(t, 1, worker.Stats()[0].Failed)
}

func TestVerdicts(t *testing.T) {
	f := newFixture(t)
	for _, test := range []struct {
		err     error
		outcome string
		cause   string // error.type, "" when nothing went wrong
	}{
		{nil, "completed", ""},
		{errBoom, "failed", "*errors.errorString"},
		{driver.Snooze(time.Hour), "snoozed", ""},
		{fmt.Errorf("not yet: %w", driver.Snooze(time.Hour)), "snoozed", ""},
		{driver.Cancel("customer left"), "cancelled", ""},
		{driver.Discard(fmt.Errorf("order 7: %w", customError{})), "discarded", "no_customer"},
		{driver.Discard(nil), "discarded", "*driver.verdict"},
		{driver.RetryAfter(time.Hour, errBoom), "failed", "*errors.errorString"},
		{fmt.Errorf("%w: %w", driver.ErrTimeout, context.DeadlineExceeded), "failed", "timeout"},
	} {
		f.enqueue(inQueue)
		span := f.run(t.Context(), func(context.Context, *driver.Job[note]) error { return test.err })
		assert.Equal(t, test.outcome, attributesOf(span.Attributes())["awa.job.outcome"])
		if test.cause != "" {
			assertFailed(t, span, test.cause, "")
			continue
		}
		assert.Equal(t, codes.Unset, span.Status().Code)
		assert.NotContains(t, attributesOf(span.Attributes()), attribute.Key("error.type"))
	}
}

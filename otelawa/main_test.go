package otelawa_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/testdb"
	"github.com/awa-pg/awa/otelawa"
)

func TestMain(m *testing.M) { testdb.Main(m, func() error { return goleak.Find() }) }

const queue = "email"

var inQueue = driver.EnqueueOptions{Queue: queue}

// note is the job of all tests.
type note struct {
	Text string `json:"text"`
}

func (note) Kind() string { return "note" }

// fixture is a database with what it takes to see all telemetry.
type fixture struct {
	t      *testing.T
	pool   *pgxpool.Pool
	cfg    otelawa.Config
	client *otelawa.Client
	tracer trace.Tracer // the application's
	spans  *tracetest.SpanRecorder
	reader *metric.ManualReader
}

func newFixture(t *testing.T) *fixture {
	f := &fixture{t: t, pool: testdb.New(t), spans: tracetest.NewSpanRecorder(), reader: metric.NewManualReader()}
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(f.spans))
	f.tracer = provider.Tracer("application")
	f.cfg = otelawa.Config{TracerProvider: provider, MeterProvider: metric.NewMeterProvider(metric.WithReader(f.reader))}
	f.client = otelawa.NewClient(driver.NewClient(f.pool), f.cfg)
	return f
}

// call runs something inside a span of the application, and returns that.
func (f *fixture) call(run func(ctx context.Context)) trace.SpanContext {
	ctx, span := f.tracer.Start(f.t.Context(), "call")
	defer span.End()
	run(ctx)
	return span.SpanContext()
}

// enqueue enqueues a job, and returns its id and the span.
func (f *fixture) enqueue(opts driver.EnqueueOptions) (int64, sdktrace.ReadOnlySpan) {
	f.t.Helper()
	id, err := f.client.Enqueue(f.t.Context(), note{}, opts)
	require.NoError(f.t, err)
	return id, f.last("send " + opts.Queue)
}

// worker returns a worker on the queue, with the middleware, and the handler for notes.
func (f *fixture) worker(
	run func(context.Context, *driver.Job[note]) error, middleware ...driver.Middleware,
) *driver.Worker {
	f.t.Helper()
	handlers := driver.NewHandlers()
	driver.Handle(handlers, run, middleware...)
	worker, err := driver.NewWorker(f.pool, handlers, driver.WorkerConfig{
		Queues:     []driver.QueueConfig{{Name: queue}},
		Middleware: []driver.Middleware{otelawa.Middleware(f.cfg)},
		Logger:     slog.New(slog.NewTextHandler(f.t.Output(), nil)),
	})
	require.NoError(f.t, err)
	return worker
}

// run runs the next job, and returns the span of its handler.
func (f *fixture) run(
	ctx context.Context, run func(context.Context, *driver.Job[note]) error, middleware ...driver.Middleware,
) sdktrace.ReadOnlySpan {
	f.t.Helper()
	f.runOne(ctx, f.worker(run, middleware...))
	return f.last("process " + queue)
}

func (f *fixture) runOne(ctx context.Context, worker *driver.Worker) *driver.Ran {
	f.t.Helper()
	ran, err := worker.RunOne(ctx)
	require.NoError(f.t, err)
	require.NotNil(f.t, ran, "no job is ready")
	return ran
}

func succeed(context.Context, *driver.Job[note]) error { return nil }

// ended returns the spans of that name that have ended.
func (f *fixture) ended(name string) (spans []sdktrace.ReadOnlySpan) {
	for _, span := range f.spans.Ended() {
		if span.Name() == name {
			spans = append(spans, span)
		}
	}
	return spans
}

// last returns the span of that name that has ended last.
func (f *fixture) last(name string) sdktrace.ReadOnlySpan {
	f.t.Helper()
	spans := f.ended(name)
	require.NotEmpty(f.t, spans, "no span %q", name)
	return spans[len(spans)-1]
}

// attributesOf returns the attributes of a span or of a point, as a set that can be compared.
func attributesOf(attributes []attribute.KeyValue) map[attribute.Key]any {
	values := map[attribute.Key]any{}
	for _, a := range attributes {
		values[a.Key] = a.Value.AsInterface()
	}
	return values
}

// spanIDs returns what spans are linked to.
func spanIDs(links []sdktrace.Link) (ids []trace.SpanID) {
	for _, link := range links {
		ids = append(ids, link.SpanContext.SpanID())
	}
	return ids
}

func assertFailed(t *testing.T, span sdktrace.ReadOnlySpan, errorType, text string) {
	t.Helper()
	assert.Equal(t, codes.Error, span.Status().Code)
	assert.Contains(t, span.Status().Description, text)
	assert.Equal(t, errorType, attributesOf(span.Attributes())["error.type"])
}

// point is one number of a metric.
type point struct {
	attributes map[attribute.Key]any
	value      int64 // of a histogram, how many it has counted
}

// metric returns all numbers of a metric.
func (f *fixture) metric(name string) (points []point) {
	f.t.Helper()
	switch data := f.collect(name).Data.(type) {
	case nil:
	case metricdata.Sum[int64]:
		for _, p := range data.DataPoints {
			points = append(points, point{attributesOf(p.Attributes.ToSlice()), p.Value})
		}
	case metricdata.Histogram[float64]:
		for _, p := range data.DataPoints {
			points = append(points, point{attributesOf(p.Attributes.ToSlice()), int64(p.Count)})
		}
	default:
		require.FailNowf(f.t, "unexpected data", "%T", data)
	}
	return points
}

// collect returns a metric, the zero value when nothing was measured.
func (f *fixture) collect(name string) metricdata.Metrics {
	f.t.Helper()
	var all metricdata.ResourceMetrics
	require.NoError(f.t, f.reader.Collect(context.Background(), &all))
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if m.Name == name {
				return m
			}
		}
	}
	return metricdata.Metrics{}
}

var errBoom = errors.New("boom")

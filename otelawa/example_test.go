package otelawa_test

import (
	"context"
	"fmt"
	"log"

	"github.com/jackc/pgx/v5/pgxpool"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/testdb"
	"github.com/awa-pg/awa/otelawa"
)

// Greet is a job.
type Greet struct {
	Name string `json:"name"`
}

func (Greet) Kind() string { return "greet" }

// A trace that begins in a request goes on in the handler of the job that the request has enqueued.
func Example() {
	ctx := context.Background()
	databaseURL, drop, err := testdb.Create(ctx) // yours: driver.Migrate(ctx, databaseURL) installs Awa in it
	if err != nil {
		log.Fatal(err)
	}
	defer drop()
	pool, err := pgxpool.New(ctx, databaseURL)
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()

	// A program would set the global providers, with exporters of its choice, and leave the configuration empty.
	spans := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	cfg := otelawa.Config{TracerProvider: provider, MeterProvider: sdkmetric.NewMeterProvider()}

	// The producer.
	client := otelawa.NewClient(driver.NewClient(pool), cfg)
	request, span := provider.Tracer("app").Start(ctx, "POST /users")
	if _, err := client.Enqueue(request, Greet{Name: "ada"}, driver.EnqueueOptions{}); err != nil {
		log.Fatal(err)
	}
	span.End()

	// The worker, as a rule in another program.
	ctx, stop := context.WithCancel(ctx)
	handlers := driver.NewHandlers()
	driver.Handle(handlers, func(ctx context.Context, job *driver.Job[Greet]) error {
		sameTrace := trace.SpanContextFromContext(ctx).TraceID() == span.SpanContext().TraceID()
		fmt.Printf("Hello, %s! In the trace of the request: %t\n", job.Args.Name, sameTrace)
		stop()
		return nil
	})
	worker, err := driver.NewWorker(pool, handlers,
		driver.WorkerConfig{Middleware: []driver.Middleware{otelawa.Middleware(cfg)}})
	if err != nil {
		log.Fatal(err)
	}
	registration, err := otelawa.ObserveWorker(worker, cfg)
	if err != nil {
		log.Fatal(err)
	}
	defer registration.Unregister()
	if err := worker.Run(ctx); err != nil {
		log.Fatal(err)
	}

	names := map[trace.SpanID]string{}
	for _, span := range spans.GetSpans() {
		names[span.SpanContext.SpanID()] = span.Name
	}
	for _, span := range spans.GetSpans() {
		if parent := span.Parent; parent.IsValid() {
			fmt.Printf("%q is a child of %q\n", span.Name, names[parent.SpanID()])
		}
	}
	// Output:
	// Hello, ada! In the trace of the request: true
	// "send default" is a child of "POST /users"
	// "process default" is a child of "send default"
}

package otelawa

import (
	"cmp"
	"context"
	"fmt"
	"strconv"

	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/semconv/v1.43.0/messagingconv"
	"go.opentelemetry.io/otel/trace"

	"github.com/awa-pg/awa/driver"
)

// Client is a [driver.Client] whose calls that enqueue are traced and measured; all others are the driver's own. It is
// safe for concurrent use.
//
// Each such call is a span "send <queue>" of kind PRODUCER. Its context goes into the metadata of the job, beside the
// caller's own keys, so the metadata has to encode to a JSON object, or be nil: otherwise the call fails before anything is
// sent. If the metadata has one of the propagator's keys already, as that of a job that is handed on does, it stays as it
// is, and so does the job's trace; the span is of kind CLIENT then, and linked to that context. See "Producer spans" in
// https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/.
//
// A call also counts its jobs in messaging.client.sent.messages, with an error.type if it failed, and its time in
// messaging.client.operation.duration. In a transaction of the caller's they count when the server has taken them, whether
// that commits or not.
type Client struct {
	*driver.Client
	tracer     trace.Tracer
	propagator propagation.TextMapPropagator
	sent       messagingconv.ClientSentMessages
	duration   messagingconv.ClientOperationDuration
}

// NewClient returns a client that enqueues through the one that it is given.
func NewClient(client *driver.Client, cfg Config) *Client {
	cfg = cfg.WithDefaults()
	meter := cfg.meter()
	return &Client{
		Client:     client,
		tracer:     cfg.tracer(),
		propagator: cfg.Propagator,
		sent:       reported(messagingconv.NewClientSentMessages(meter)),
		duration:   reported(messagingconv.NewClientOperationDuration(meter, durationBuckets)),
	}
}

// Enqueue is [driver.Client.Enqueue] in a span. It returns the job's id, which is the span's messaging.message.id.
func (c *Client) Enqueue(ctx context.Context, args driver.Args, opts driver.EnqueueOptions) (id int64, err error) {
	err = c.send(ctx, args.Kind(), 1, opts, func(ctx context.Context, opts driver.EnqueueOptions) (int64, bool, error) {
		id, err = c.Client.Enqueue(ctx, args, opts)
		return id, true, err
	})
	return id, err
}

// EnqueueTx is [driver.Client.EnqueueTx], inside the caller's transaction, in a span. It returns the job's id, which is the
// span's messaging.message.id.
func (c *Client) EnqueueTx(ctx context.Context, tx driver.DBTX, args driver.Args, opts driver.EnqueueOptions) (id int64, err error) {
	err = c.send(ctx, args.Kind(), 1, opts, func(ctx context.Context, opts driver.EnqueueOptions) (int64, bool, error) {
		id, err = c.Client.EnqueueTx(ctx, tx, args, opts)
		return id, true, err
	})
	return id, err
}

// EnqueueMany is [driver.Client.EnqueueMany] in a span: one for all jobs, which have their metadata in common, so it is the
// parent of all their handlers' spans. It returns the jobs' ids. When there are several, the span has no
// messaging.message.id, but a messaging.batch.message_count: see "Batch publishing without Create spans" in
// https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/.
func (c *Client) EnqueueMany(ctx context.Context, args []driver.Args, opts driver.EnqueueOptions) ([]int64, error) {
	return c.sendMany(ctx, args, opts, func(ctx context.Context, opts driver.EnqueueOptions) ([]int64, error) {
		return c.Client.EnqueueMany(ctx, args, opts)
	})
}

// EnqueueManyTx is [driver.Client.EnqueueManyTx], inside the caller's transaction, in a span: see [Client.EnqueueMany].
func (c *Client) EnqueueManyTx(ctx context.Context, tx driver.DBTX, args []driver.Args, opts driver.EnqueueOptions) ([]int64, error) {
	return c.sendMany(ctx, args, opts, func(ctx context.Context, opts driver.EnqueueOptions) ([]int64, error) {
		return c.Client.EnqueueManyTx(ctx, tx, args, opts)
	})
}

// EnqueueUnique is [driver.Client.EnqueueUnique] in a span. It returns the job's id, and whether it is a new one. If it is
// not, nothing was sent: the span says awa.job.duplicate, the job keeps the context of the span in which it was enqueued,
// and it does not count as sent.
func (c *Client) EnqueueUnique(ctx context.Context, args driver.Args, unique driver.UniqueOptions, opts driver.EnqueueOptions) (id int64, inserted bool, err error) {
	err = c.send(ctx, args.Kind(), 1, opts, func(ctx context.Context, opts driver.EnqueueOptions) (int64, bool, error) {
		id, inserted, err = c.Client.EnqueueUnique(ctx, args, unique, opts)
		return id, inserted, err
	})
	return id, inserted, err
}

// EnqueueUniqueTx is [driver.Client.EnqueueUniqueTx], inside the caller's transaction, in a span: see
// [Client.EnqueueUnique].
func (c *Client) EnqueueUniqueTx(ctx context.Context, tx driver.DBTX, args driver.Args, unique driver.UniqueOptions, opts driver.EnqueueOptions) (id int64, inserted bool, err error) {
	err = c.send(ctx, args.Kind(), 1, opts, func(ctx context.Context, opts driver.EnqueueOptions) (int64, bool, error) {
		id, inserted, err = c.Client.EnqueueUniqueTx(ctx, tx, args, unique, opts)
		return id, inserted, err
	})
	return id, inserted, err
}

func (c *Client) sendMany(ctx context.Context, args []driver.Args, opts driver.EnqueueOptions, enqueue func(context.Context, driver.EnqueueOptions) ([]int64, error)) (ids []int64, err error) {
	if len(args) == 0 {
		return nil, nil // as the driver does
	}
	err = c.send(ctx, args[0].Kind(), len(args), opts, func(ctx context.Context, opts driver.EnqueueOptions) (int64, bool, error) {
		if ids, err = enqueue(ctx, opts); err != nil {
			return 0, false, err
		}
		return ids[0], true, nil
	})
	return ids, err
}

// send runs a call that enqueues jobs, and that returns the id of the first one and whether it is new.
func (c *Client) send(ctx context.Context, kind string, jobs int, opts driver.EnqueueOptions, enqueue func(context.Context, driver.EnqueueOptions) (int64, bool, error)) (err error) {
	metadata, badMetadata := encodeMetadata(opts.Metadata)
	spanKind, handedOn := trace.SpanKindProducer, metadata.hasContext(c.propagator)
	if handedOn {
		spanKind = trace.SpanKindClient
	}
	ctx, op := begin(ctx, c.tracer, semconv.MessagingOperationTypeSend, cmp.Or(opts.Queue, driver.DefaultQueue), kind,
		trace.WithSpanKind(spanKind), trace.WithLinks(trace.Link{SpanContext: metadata.creationContext(c.propagator)}))
	if jobs > 1 {
		op.span.SetAttributes(semconv.MessagingBatchMessageCount(jobs))
	}
	inserted := false
	err = errNoReturn
	defer func() {
		seconds, attributes := op.end(err)
		c.duration.RecordSet(ctx, seconds, attributes)
		if inserted || err != nil {
			c.sent.AddSet(ctx, int64(jobs), attributes)
		}
	}()

	if badMetadata != nil {
		return fmt.Errorf("enqueue: %w", badMetadata)
	}
	if !handedOn {
		c.propagator.Inject(ctx, metadata)
		if metadata.hasContext(c.propagator) {
			opts.Metadata = metadata
		}
	}
	id, inserted, err := enqueue(ctx, opts)
	if err != nil {
		return err
	}
	if jobs == 1 {
		op.span.SetAttributes(semconv.MessagingMessageID(strconv.FormatInt(id, 10)))
	}
	if !inserted {
		op.span.SetAttributes(keyDuplicate.Bool(true))
	}
	return nil
}

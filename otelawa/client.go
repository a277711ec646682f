package otelawa

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/semconv/v1.43.0/messagingconv"
	"go.opentelemetry.io/otel/trace"

	"github.com/awa-pg/awa/driver"
)

// Client is a [driver.Client] whose calls that enqueue are traced and measured; all others are the driver's own. It is
// safe for concurrent use.
//
// Each such call is a span "send <queue>" of kind PRODUCER (a batch for several queues: "send"). Its context goes into
// the metadata of the job, beside the caller's own keys, so the metadata has to encode to a JSON object, or be nil:
// otherwise the call fails before anything is
// sent. If the metadata has one of the propagator's keys already, as that of a job that is handed on does, it stays as
// it is, and so does the job's trace; the span is of kind CLIENT then, and linked to that context. See "Producer spans"
// in https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/.
//
// A call also counts its jobs in messaging.client.sent.messages, with an error.type if it failed, and its time in
// messaging.client.operation.duration. In a transaction of the caller's they count when the server has taken them,
// whether that commits or not.
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

// EnqueueTx is [driver.Client.EnqueueTx], inside the caller's transaction, in a span. It returns the job's id, which is
// the span's messaging.message.id.
func (c *Client) EnqueueTx(
	ctx context.Context, tx driver.DBTX, args driver.Args, opts driver.EnqueueOptions,
) (id int64, err error) {
	err = c.send(ctx, args.Kind(), 1, opts, func(ctx context.Context, opts driver.EnqueueOptions) (int64, bool, error) {
		id, err = c.Client.EnqueueTx(ctx, tx, args, opts)
		return id, true, err
	})
	return id, err
}

// EnqueueMany is [driver.Client.EnqueueMany] in a span: one for all jobs, which have their metadata in common, so it is
// the parent of all their handlers' spans. It returns the jobs' ids. When there are several, the span has no
// messaging.message.id, but a messaging.batch.message_count: see "Batch publishing without Create spans" in
// https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/.
func (c *Client) EnqueueMany(ctx context.Context, args []driver.Args, opts driver.EnqueueOptions) ([]int64, error) {
	return c.sendMany(ctx, args, opts, func(ctx context.Context, opts driver.EnqueueOptions) ([]int64, error) {
		return c.Client.EnqueueMany(ctx, args, opts)
	})
}

// EnqueueManyTx is [driver.Client.EnqueueManyTx], inside the caller's transaction, in a span: see [Client.EnqueueMany].
func (c *Client) EnqueueManyTx(
	ctx context.Context, tx driver.DBTX, args []driver.Args, opts driver.EnqueueOptions,
) ([]int64, error) {
	return c.sendMany(ctx, args, opts, func(ctx context.Context, opts driver.EnqueueOptions) ([]int64, error) {
		return c.Client.EnqueueManyTx(ctx, tx, args, opts)
	})
}

// EnqueueUnique is [driver.Client.EnqueueUnique] in a span. It returns the job's id, and whether it is a new one. If it
// is not, nothing was sent: the span says awa.job.duplicate, the job keeps the context of the span in which it was
// enqueued, and it does not count as sent.
func (c *Client) EnqueueUnique(
	ctx context.Context, args driver.Args, unique driver.UniqueOptions, opts driver.EnqueueOptions,
) (id int64, inserted bool, err error) {
	err = c.send(ctx, args.Kind(), 1, opts, func(ctx context.Context, opts driver.EnqueueOptions) (int64, bool, error) {
		id, inserted, err = c.Client.EnqueueUnique(ctx, args, unique, opts)
		return id, inserted, err
	})
	return id, inserted, err
}

// EnqueueUniqueTx is [driver.Client.EnqueueUniqueTx], inside the caller's transaction, in a span: see
// [Client.EnqueueUnique].
func (c *Client) EnqueueUniqueTx(
	ctx context.Context, tx driver.DBTX, args driver.Args, unique driver.UniqueOptions, opts driver.EnqueueOptions,
) (id int64, inserted bool, err error) {
	err = c.send(ctx, args.Kind(), 1, opts, func(ctx context.Context, opts driver.EnqueueOptions) (int64, bool, error) {
		id, inserted, err = c.Client.EnqueueUniqueTx(ctx, tx, args, unique, opts)
		return id, inserted, err
	})
	return id, inserted, err
}

// EnqueueBatch is [driver.Client.EnqueueBatch] in a span: one for all jobs, as in [Client.EnqueueMany]. It is "send
// <queue>" where all have the same queue, otherwise "send", without a destination; so with their kind. Each job's
// metadata is treated
// by itself: one that is handed on keeps its context, to which the span is linked, and the span is of kind CLIENT only
// if all are. Jobs that are not new are left as they are, and do not count as sent; the span says awa.job.duplicate
// when none is new.
func (c *Client) EnqueueBatch(ctx context.Context, jobs []driver.BatchJob) ([]driver.BatchResult, error) {
	return c.sendBatch(ctx, jobs, c.Client.EnqueueBatch)
}

// EnqueueBatchTx is [driver.Client.EnqueueBatchTx], inside the caller's transaction, in a span: see
// [Client.EnqueueBatch].
func (c *Client) EnqueueBatchTx(
	ctx context.Context, tx driver.DBTX, jobs []driver.BatchJob,
) ([]driver.BatchResult, error) {
	return c.sendBatch(ctx, jobs, func(ctx context.Context, jobs []driver.BatchJob) ([]driver.BatchResult, error) {
		return c.Client.EnqueueBatchTx(ctx, tx, jobs)
	})
}

func (c *Client) sendBatch(ctx context.Context, jobs []driver.BatchJob,
	enqueue func(context.Context, []driver.BatchJob) ([]driver.BatchResult, error)) (results []driver.BatchResult,
	err error) {
	if len(jobs) == 0 {
		return nil, nil // as the driver does
	}
	type group struct{ queue, kind string }
	groups := make([]group, len(jobs))
	common := group{cmp.Or(jobs[0].Options.Queue, driver.DefaultQueue), jobs[0].Args.Kind()}
	type spanID struct {
		trace.TraceID
		trace.SpanID
	}
	linked := map[spanID]bool{}
	var links []trace.Link
	spanKind := trace.SpanKindClient
	encoded := make([]metadata, len(jobs))
	var badMetadata error
	for i, job := range jobs {
		groups[i] = group{cmp.Or(job.Options.Queue, driver.DefaultQueue), job.Args.Kind()}
		if groups[i].queue != common.queue {
			common.queue = ""
		}
		if groups[i].kind != common.kind {
			common.kind = ""
		}
		m, err := encodeMetadata(job.Options.Metadata)
		if err != nil && badMetadata == nil {
			badMetadata = err
		}
		encoded[i] = m
		if !m.hasContext(c.propagator) {
			spanKind = trace.SpanKindProducer
		} else if creator := m.creationContext(c.propagator); creator.IsValid() &&
			!linked[spanID{creator.TraceID(), creator.SpanID()}] {
			linked[spanID{creator.TraceID(), creator.SpanID()}] = true
			links = append(links, trace.Link{SpanContext: creator})
		}
	}
	ctx, op := begin(ctx, c.tracer, semconv.MessagingOperationTypeSend, common.queue, common.kind,
		trace.WithSpanKind(spanKind), trace.WithLinks(links...))
	if len(jobs) > 1 {
		op.span.SetAttributes(semconv.MessagingBatchMessageCount(len(jobs)))
	}
	err = errNoReturn
	defer func() {
		seconds, attributes := op.end(err)
		c.duration.RecordSet(ctx, seconds, attributes)
		sent := map[group]int64{}
		for i, g := range groups {
			if err != nil || results[i].Inserted {
				sent[g]++
			}
		}
		for g, n := range sent {
			c.sent.AddSet(ctx, n, attribute.NewSet(append(attributes.ToSlice(), jobAttributes(g.queue, g.kind)...)...))
		}
	}()

	if badMetadata != nil {
		return nil, fmt.Errorf("enqueue: %w", badMetadata)
	}
	jobs = slices.Clone(jobs)
	for i, m := range encoded {
		if m.hasContext(c.propagator) {
			continue
		}
		c.propagator.Inject(ctx, m)
		if m.hasContext(c.propagator) {
			jobs[i].Options.Metadata = m
		}
	}
	results, err = enqueue(ctx, jobs)
	if err != nil {
		return nil, err
	}
	if len(jobs) == 1 {
		op.span.SetAttributes(semconv.MessagingMessageID(strconv.FormatInt(results[0].ID, 10)))
	}
	if !slices.ContainsFunc(results, func(r driver.BatchResult) bool { return r.Inserted }) {
		op.span.SetAttributes(keyDuplicate.Bool(true))
	}
	return results, nil
}

func (c *Client) sendMany(ctx context.Context, args []driver.Args, opts driver.EnqueueOptions,
	enqueue func(context.Context, driver.EnqueueOptions) ([]int64, error)) (ids []int64, err error) {
	if len(args) == 0 {
		return nil, nil // as the driver does
	}
	err = c.send(ctx, args[0].Kind(), len(args), opts,
		func(ctx context.Context, opts driver.EnqueueOptions) (int64, bool, error) {
			if ids, err = enqueue(ctx, opts); err != nil {
				return 0, false, err
			}
			return ids[0], true, nil
		})
	return ids, err
}

// send runs a call that enqueues jobs, and that returns the id of the first one and whether it is new.
func (c *Client) send(ctx context.Context, kind string, jobs int, opts driver.EnqueueOptions,
	enqueue func(context.Context, driver.EnqueueOptions) (int64, bool, error)) (err error) {
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

package otelawa_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/otelawa"
)

func TestEnqueueIsASpanOfTheProducer(t *testing.T) {
	f := newFixture(t)
	var id int64
	caller := f.call(func(ctx context.Context) {
		var err error
		id, err = f.client.Enqueue(ctx, note{}, inQueue)
		require.NoError(t, err)
	})

	span := f.last("send email")
	assert.Equal(t, trace.SpanKindProducer, span.SpanKind())
	assert.Equal(t, caller.SpanID(), span.Parent().SpanID())
	assert.Empty(t, span.Links())
	assert.Equal(t, codes.Unset, span.Status().Code)
	assert.Equal(t, map[attribute.Key]any{
		"messaging.system":           "awa",
		"messaging.destination.name": "email",
		"messaging.operation.name":   "send",
		"messaging.operation.type":   "send",
		"messaging.message.id":       strconv.FormatInt(id, 10),
		"awa.job.kind":               "note",
	}, attributesOf(span.Attributes()))
}

func TestTheQueueIsDefaultByDefault(t *testing.T) {
	f := newFixture(t)
	_, err := f.client.Enqueue(t.Context(), note{}, driver.EnqueueOptions{})
	require.NoError(t, err)
	assert.Equal(t, driver.DefaultQueue, attributesOf(f.last("send default").Attributes())["messaging.destination.name"])
}

func TestEachWayToEnqueueGivesItsContextToTheJob(t *testing.T) {
	f := newFixture(t)
	first := func(ids []int64, err error) (int64, error) {
		if err != nil {
			return 0, err
		}
		return ids[0], nil
	}
	last := func(results []driver.BatchResult, err error) (int64, error) {
		if err != nil {
			return 0, err
		}
		return results[len(results)-1].ID, nil
	}
	unique := func(id int64, inserted bool, err error) (int64, error) {
		assert.True(t, inserted)
		return id, err
	}
	args := []driver.Args{note{}, note{}}
	for name, enqueue := range map[string]func(ctx context.Context, tx pgx.Tx) (int64, error){
		"Enqueue": func(ctx context.Context, _ pgx.Tx) (int64, error) { return f.client.Enqueue(ctx, note{}, inQueue) },
		"EnqueueTx": func(ctx context.Context, tx pgx.Tx) (int64, error) {
			return f.client.EnqueueTx(ctx, tx, note{}, inQueue)
		},
		"EnqueueMany": func(ctx context.Context, _ pgx.Tx) (int64, error) {
			return first(f.client.EnqueueMany(ctx, args, inQueue))
		},
		"EnqueueManyTx": func(ctx context.Context, tx pgx.Tx) (int64, error) {
			return first(f.client.EnqueueManyTx(ctx, tx, args, inQueue))
		},
		"EnqueueUnique": func(ctx context.Context, _ pgx.Tx) (int64, error) {
			return unique(f.client.EnqueueUnique(ctx, note{}, driver.UniqueOptions{Key: "one"}, inQueue))
		},
		"EnqueueUniqueTx": func(ctx context.Context, tx pgx.Tx) (int64, error) {
			return unique(f.client.EnqueueUniqueTx(ctx, tx, note{}, driver.UniqueOptions{Key: "two"}, inQueue))
		},
		"EnqueueBatch": func(ctx context.Context, _ pgx.Tx) (int64, error) {
			return last(f.client.EnqueueBatch(ctx,
				[]driver.BatchJob{{Args: note{}, Options: inQueue}, {Args: note{}, Options: inQueue}}))
		},
		"EnqueueBatchTx": func(ctx context.Context, tx pgx.Tx) (int64, error) {
			return last(f.client.EnqueueBatchTx(ctx, tx,
				[]driver.BatchJob{{Args: note{}, Options: inQueue, Unique: &driver.UniqueOptions{Key: "three"}}}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			var id int64
			caller := f.call(func(ctx context.Context) {
				require.NoError(t, pgx.BeginFunc(ctx, f.pool, func(tx pgx.Tx) (err error) {
					id, err = enqueue(ctx, tx)
					return err
				}))
			})
			job, err := f.client.Job(t.Context(), id)
			require.NoError(t, err)
			span := f.last("send email").SpanContext()
			assert.Equal(t, caller.TraceID(), span.TraceID())
			assert.JSONEq(t, fmt.Sprintf(`{"traceparent": "00-%s-%s-01"}`, span.TraceID(), span.SpanID()), string(job.Metadata))
		})
	}
}

func TestATransactionThatRollsBackLeavesASpanButNoJob(t *testing.T) {
	f := newFixture(t)
	tx, err := f.pool.Begin(t.Context())
	require.NoError(t, err)
	id, err := f.client.EnqueueTx(t.Context(), tx, note{}, inQueue)
	require.NoError(t, err)
	require.NoError(t, tx.Rollback(t.Context()))

	_, err = f.client.Job(t.Context(), id)
	require.ErrorIs(t, err, driver.ErrNoSuchJob)
	assert.Equal(t, codes.Unset, f.last("send email").Status().Code)

	_, kept := f.enqueue(inQueue)
	span := f.run(t.Context(), succeed)
	assert.Equal(t, kept.SpanContext().SpanID(), span.Parent().SpanID())
}

func TestEnqueueManyIsOneSpan(t *testing.T) {
	f := newFixture(t)
	ids, err := f.client.EnqueueMany(t.Context(), []driver.Args{note{Text: "a"}, note{Text: "b"}, note{Text: "c"}},
		inQueue)
	require.NoError(t, err)
	require.Len(t, ids, 3)
	require.Len(t, f.ended("send email"), 1)
	sent := f.last("send email")
	attributes := attributesOf(sent.Attributes())
	assert.EqualValues(t, 3, attributes["messaging.batch.message_count"])
	assert.NotContains(t, attributes, attribute.Key("messaging.message.id"))
	assert.Equal(t, trace.SpanKindProducer, sent.SpanKind())

	for _, id := range ids {
		span := f.run(t.Context(), succeed)
		assert.Equal(t, sent.SpanContext().SpanID(), span.Parent().SpanID())
		assert.Equal(t, strconv.FormatInt(id, 10), attributesOf(span.Attributes())["messaging.message.id"])
	}
	assert.EqualValues(t, 3, f.metric("messaging.client.sent.messages")[0].value)
}

func TestEnqueueManyOfOneOrNone(t *testing.T) {
	f := newFixture(t)
	ids, err := f.client.EnqueueMany(t.Context(), nil, inQueue)
	require.NoError(t, err)
	require.Empty(t, ids)
	require.Empty(t, f.spans.Ended())

	ids, err = f.client.EnqueueMany(t.Context(), []driver.Args{note{}}, inQueue)
	require.NoError(t, err)
	attributes := attributesOf(f.last("send email").Attributes())
	assert.Equal(t, strconv.FormatInt(ids[0], 10), attributes["messaging.message.id"])
	assert.NotContains(t, attributes, attribute.Key("messaging.batch.message_count"))
}

func TestABatchIsOneSpan(t *testing.T) {
	f := newFixture(t)
	first, earlier := f.enqueue(driver.EnqueueOptions{Queue: queue, Metadata: map[string]string{"tenant": "acme"}})
	handedOn, err := f.client.Job(t.Context(), first)
	require.NoError(t, err)
	inAnother := driver.EnqueueOptions{Queue: "another"}
	results, err := f.client.EnqueueBatch(t.Context(), []driver.BatchJob{
		{Args: note{}, Options: driver.EnqueueOptions{Queue: queue, Metadata: map[string]string{"tenant": "globex"}}},
		{Args: note{}, Options: inAnother, Unique: &driver.UniqueOptions{Key: "k"}},
		{Args: note{}, Options: inAnother, Unique: &driver.UniqueOptions{Key: "k"}},
		{Args: note{}, Options: driver.EnqueueOptions{Queue: queue, Metadata: handedOn.Metadata}},
		{Args: note{}, Options: driver.EnqueueOptions{Queue: queue, Metadata: handedOn.Metadata}},
	})
	require.NoError(t, err)
	require.Len(t, f.ended("send"), 1)
	span := f.last("send")
	assert.Equal(t, trace.SpanKindProducer, span.SpanKind())
	assert.Equal(t, map[attribute.Key]any{
		"messaging.system":              "awa",
		"messaging.operation.name":      "send",
		"messaging.operation.type":      "send",
		"messaging.batch.message_count": int64(5),
		"awa.job.kind":                  "note",
	}, attributesOf(span.Attributes()), "no destination, for there are two")
	require.Len(t, span.Links(), 1)
	assert.Equal(t, earlier.SpanContext().SpanID(), span.Links()[0].SpanContext.SpanID())

	own := fmt.Sprintf("00-%s-%s-01", span.SpanContext().TraceID(), span.SpanContext().SpanID())
	for i, want := range []string{
		fmt.Sprintf(`{"tenant": "globex", "traceparent": %q}`, own),
		fmt.Sprintf(`{"traceparent": %q}`, own),
		fmt.Sprintf(`{"traceparent": %q}`, own),
		string(handedOn.Metadata),
		string(handedOn.Metadata),
	} {
		job, err := f.client.Job(t.Context(), results[i].ID)
		require.NoError(t, err)
		assert.JSONEq(t, want, string(job.Metadata), i)
	}
	sent := map[any]int64{}
	for _, point := range f.metric("messaging.client.sent.messages") {
		sent[point.attributes["messaging.destination.name"]] += point.value
	}
	assert.Equal(t, map[any]int64{queue: 4, "another": 1}, sent, "one is a duplicate, and one was sent before")
}

func TestABatchOfOneQueueHasADestination(t *testing.T) {
	f := newFixture(t)
	results, err := f.client.EnqueueBatch(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, results)
	require.Empty(t, f.spans.Ended())

	id, _ := f.enqueue(inQueue)
	handedOn, err := f.client.Job(t.Context(), id)
	require.NoError(t, err)
	again := driver.EnqueueOptions{Queue: queue, Metadata: handedOn.Metadata}
	results, err = f.client.EnqueueBatch(t.Context(),
		[]driver.BatchJob{{Args: note{}, Options: again, Unique: &driver.UniqueOptions{Key: "k"}}})
	require.NoError(t, err)
	span := f.last("send email")
	assert.Equal(t, trace.SpanKindClient, span.SpanKind(), "all are handed on")
	attributes := attributesOf(span.Attributes())
	assert.Equal(t, queue, attributes["messaging.destination.name"])
	assert.Equal(t, strconv.FormatInt(results[0].ID, 10), attributes["messaging.message.id"])
	assert.NotContains(t, attributes, attribute.Key("messaging.batch.message_count"))

	_, err = f.client.EnqueueBatch(t.Context(),
		[]driver.BatchJob{{Args: note{}, Options: again, Unique: &driver.UniqueOptions{Key: "k"}}})
	require.NoError(t, err)
	assert.Equal(t, true, attributesOf(f.last("send email").Attributes())["awa.job.duplicate"])

	_, err = f.client.EnqueueBatch(t.Context(),
		[]driver.BatchJob{{Args: note{}, Options: inQueue},
			{Args: note{}, Options: driver.EnqueueOptions{Queue: queue, Metadata: 7}}})
	require.ErrorContains(t, err, "metadata must be a JSON object")
	span = f.last("send email")
	assert.Equal(t, codes.Error, span.Status().Code)
	assert.EqualValues(t, 2, attributesOf(span.Attributes())["messaging.batch.message_count"])
}

func TestADuplicateIsNotSent(t *testing.T) {
	f := newFixture(t)
	first, inserted, err := f.client.EnqueueUnique(t.Context(), note{}, driver.UniqueOptions{}, inQueue)
	require.NoError(t, err)
	require.True(t, inserted)
	sent := f.last("send email")
	assert.NotContains(t, attributesOf(sent.Attributes()), attribute.Key("awa.job.duplicate"))

	second, inserted, err := f.client.EnqueueUnique(t.Context(), note{}, driver.UniqueOptions{}, inQueue)
	require.NoError(t, err)
	require.False(t, inserted)
	assert.Equal(t, first, second)
	duplicate := f.last("send email")
	attributes := attributesOf(duplicate.Attributes())
	assert.Equal(t, true, attributes["awa.job.duplicate"])
	assert.Equal(t, strconv.FormatInt(first, 10), attributes["messaging.message.id"])
	assert.Equal(t, codes.Unset, duplicate.Status().Code)

	assert.EqualValues(t, 1, f.metric("messaging.client.sent.messages")[0].value)
	assert.EqualValues(t, 2, f.metric("messaging.client.operation.duration")[0].value)
	span := f.run(t.Context(), succeed)
	assert.Equal(t, sent.SpanContext().SpanID(), span.Parent().SpanID())
}

func TestTheCallersMetadataStays(t *testing.T) {
	f := newFixture(t)
	traceparent := func(id int64) string {
		job, err := f.client.Job(t.Context(), id)
		require.NoError(t, err)
		var m struct{ Traceparent string }
		require.NoError(t, json.Unmarshal(job.Metadata, &m))
		return m.Traceparent
	}
	own := map[string]any{"tenant": "acme", "n": 12345678901234567, "nested": map[string]any{"a": []int{1}}}
	for name, test := range map[string]struct {
		metadata any
		want     string
	}{
		"map":     {own, `{"tenant": "acme", "n": 12345678901234567, "nested": {"a": [1]}, "traceparent": %q}`},
		"struct":  {struct{ Tenant string }{"acme"}, `{"Tenant": "acme", "traceparent": %q}`},
		"JSON":    {json.RawMessage(`{"tenant": "<acme>"}`), `{"tenant": "<acme>", "traceparent": %q}`},
		"nil":     {nil, `{"traceparent": %q}`},
		"nil map": {map[string]string(nil), `{"traceparent": %q}`},
		"empty":   {struct{}{}, `{"traceparent": %q}`},
	} {
		t.Run(name, func(t *testing.T) {
			id, span := f.enqueue(driver.EnqueueOptions{Queue: queue, Metadata: test.metadata})
			assert.Contains(t, traceparent(id), span.SpanContext().SpanID().String())
			job, err := f.client.Job(t.Context(), id)
			require.NoError(t, err)
			assert.JSONEq(t, fmt.Sprintf(test.want, traceparent(id)), string(job.Metadata))
		})
	}
	assert.Len(t, own, 3, "the caller's map was changed")
}

func TestMetadataThatIsNoObjectIsRefused(t *testing.T) {
	f := newFixture(t)
	for name, test := range map[string]struct {
		metadata any
		text     string
	}{
		"array": {[]int{1, 2},
			"enqueue: metadata must be a JSON object, so that the context of the trace can be put into it, not a JSON array"},
		"string":    {"tenant", "not a JSON string"},
		"number":    {7, "not a JSON number"},
		"not JSON":  {map[string]any{"f": func() {}}, "enqueue: metadata: json: unsupported type: func()"},
		"bad bytes": {json.RawMessage(`{"tenant"`), "enqueue: metadata: json: "},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := f.client.Enqueue(t.Context(), note{}, driver.EnqueueOptions{Queue: queue, Metadata: test.metadata})
			require.ErrorContains(t, err, test.text)
			assert.Equal(t, codes.Error, f.last("send email").Status().Code)
			assert.Equal(t, err.Error(), f.last("send email").Status().Description)
		})
	}
	_, err := f.client.QueueCounts(t.Context(), queue)
	require.ErrorIs(t, err, driver.ErrNoSuchQueue, "something was enqueued")
}

func TestAJobThatIsHandedOnKeepsItsTrace(t *testing.T) {
	f := newFixture(t)
	_, created := f.enqueue(driver.EnqueueOptions{Queue: queue, Metadata: map[string]string{"tenant": "acme"}})
	handler := f.run(t.Context(), func(ctx context.Context, job *driver.Job[note]) error {
		_, err := f.client.Enqueue(ctx, job.Args, driver.EnqueueOptions{Queue: "next", Metadata: job.Metadata})
		return err
	})
	sent := f.last("send next")
	assert.Equal(t, trace.SpanKindClient, sent.SpanKind())
	assert.Equal(t, handler.SpanContext().SpanID(), sent.Parent().SpanID())
	assert.Equal(t, []trace.SpanID{created.SpanContext().SpanID()}, spanIDs(sent.Links()))

	id, err := strconv.ParseInt(attributesOf(sent.Attributes())["messaging.message.id"].(string), 10, 64)
	require.NoError(t, err)
	job, err := f.client.Job(t.Context(), id)
	require.NoError(t, err)
	assert.JSONEq(t, fmt.Sprintf(`{"tenant": "acme", "traceparent": "00-%s-%s-01"}`,
		created.SpanContext().TraceID(), created.SpanContext().SpanID()), string(job.Metadata))

	// Also what is no context is the caller's.
	id, sent = f.enqueue(driver.EnqueueOptions{Queue: queue, Metadata: map[string]int{"traceparent": 7}})
	job, err = f.client.Job(t.Context(), id)
	require.NoError(t, err)
	assert.JSONEq(t, `{"traceparent": 7}`, string(job.Metadata))
	assert.Empty(t, sent.Links())
}

func TestAnErrorOfTheServerIsRecorded(t *testing.T) {
	f := newFixture(t)
	_, err := f.client.Enqueue(t.Context(), note{}, driver.EnqueueOptions{Queue: queue, Priority: 9})
	require.Error(t, err)
	span := f.last("send email")
	assertFailed(t, span, "22023", err.Error())
	assert.NotContains(t, attributesOf(span.Attributes()), attribute.Key("messaging.message.id"))
	assert.NotContains(t, attributesOf(span.Attributes()), attribute.Key("awa.job.duplicate"))

	_, err = f.client.EnqueueMany(t.Context(), []driver.Args{note{}, note{}},
		driver.EnqueueOptions{Queue: queue, Priority: 9})
	require.Error(t, err)
	assertFailed(t, f.last("send email"), "22023", err.Error())

	f.enqueue(inQueue)
	common := map[attribute.Key]any{
		"messaging.system": "awa", "messaging.destination.name": "email", "messaging.operation.name": "send",
		"messaging.operation.type": "send", "awa.job.kind": "note",
	}
	failed := map[attribute.Key]any{"error.type": "22023"}
	maps.Copy(failed, common)
	assert.ElementsMatch(t, []point{{common, 1}, {failed, 3}}, f.metric("messaging.client.sent.messages"))
	assert.ElementsMatch(t, []point{{common, 1}, {failed, 2}}, f.metric("messaging.client.operation.duration"))
}

// A panic goes to the caller, but leaves no span that is open or looks well.
func TestAPanicOfTheArgumentsEndsTheSpan(t *testing.T) {
	f := newFixture(t)
	assert.PanicsWithValue(t, "bad arguments", func() {
		_, _ = f.client.Enqueue(t.Context(), badArgs{}, inQueue)
	})
	assertFailed(t, f.last("send email"), "*errors.errorString", "panicked")
}

type badArgs struct{ note }

func (badArgs) MarshalJSON() ([]byte, error) { panic("bad arguments") }

func TestADurationIsThatOfTheSpan(t *testing.T) {
	f := newFixture(t)
	_, sent := f.enqueue(inQueue)
	processed := f.run(t.Context(), succeed)
	buckets := []float64{0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10}

	m := f.collect("messaging.client.operation.duration")
	assert.Equal(t, "s", m.Unit)
	p := m.Data.(metricdata.Histogram[float64]).DataPoints[0]
	assert.Equal(t, buckets, p.Bounds)
	assert.Equal(t, sent.EndTime().Sub(sent.StartTime()).Seconds(), p.Sum)

	m = f.collect("messaging.process.duration")
	assert.Equal(t, "s", m.Unit)
	p = m.Data.(metricdata.Histogram[float64]).DataPoints[0]
	assert.Equal(t, buckets, p.Bounds)
	assert.Equal(t, processed.EndTime().Sub(processed.StartTime()).Seconds(), p.Sum)
}

// Without a tracer there is nothing to propagate, unless the caller has got a context from elsewhere.
func TestWithoutATracer(t *testing.T) {
	f := newFixture(t)
	client := otelawa.NewClient(driver.NewClient(f.pool), otelawa.Config{TracerProvider: noop.NewTracerProvider()})
	id, err := client.Enqueue(t.Context(), note{}, driver.EnqueueOptions{Queue: queue, Metadata: map[string]int{"a": 1}})
	require.NoError(t, err)
	job, err := client.Job(t.Context(), id)
	require.NoError(t, err)
	assert.JSONEq(t, `{"a": 1}`, string(job.Metadata))

	f.call(func(ctx context.Context) {
		id, err = client.Enqueue(ctx, note{}, inQueue)
		require.NoError(t, err)
	})
	job, err = client.Job(t.Context(), id)
	require.NoError(t, err)
	assert.Contains(t, string(job.Metadata), f.last("call").SpanContext().SpanID().String())
}

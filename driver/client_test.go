package driver_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/gen"
	"github.com/awa-pg/awa/internal/testdb"
)

func TestEnqueueDefaults(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	id, err := client.Enqueue(t.Context(), note{"hello"}, driver.EnqueueOptions{})
	require.NoError(t, err)
	job, err := client.Job(t.Context(), id)
	require.NoError(t, err)
	assert.Equal(t, id, job.ID)
	assert.Equal(t, driver.DefaultQueue, job.Queue)
	assert.Equal(t, "note", job.Kind)
	assert.JSONEq(t, `{"text": "hello"}`, string(job.Args))
	assert.Equal(t, "available", job.State)
	assert.Equal(t, 2, job.Priority)
	assert.Equal(t, 25, job.MaxAttempts)
	assert.Nil(t, job.Tags)
	assert.Nil(t, job.Metadata)
	assert.Empty(t, job.GroupKey)
	assert.Nil(t, job.ExpiresAt)
	assert.Nil(t, job.Receipt)
	assert.Nil(t, job.AttemptedAt)
	assert.Nil(t, job.FinalizedAt)
	assert.Empty(t, job.Errors)
}

func TestEnqueueOptions(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	runAt := time.Now().Add(time.Hour).Truncate(time.Microsecond)
	id, err := client.Enqueue(t.Context(), note{}, driver.EnqueueOptions{
		Queue: "other", Priority: 4, RunAt: runAt, MaxAttempts: 7, Tags: []string{"a", "b"}, Metadata: map[string]int{"n": 1},
		GroupKey: "g", ExpiresAt: runAt.Add(time.Hour),
	})
	require.NoError(t, err)
	job, err := client.Job(t.Context(), id)
	require.NoError(t, err)
	assert.Equal(t, "other", job.Queue)
	assert.Equal(t, "scheduled", job.State)
	assert.Equal(t, 4, job.Priority)
	assert.True(t, runAt.Equal(job.RunAt), job.RunAt)
	assert.Equal(t, 7, job.MaxAttempts)
	assert.Equal(t, []string{"a", "b"}, job.Tags)
	assert.JSONEq(t, `{"n": 1}`, string(job.Metadata))
	assert.Equal(t, "g", job.GroupKey)
	assert.True(t, runAt.Add(time.Hour).Equal(*job.ExpiresAt), job.ExpiresAt)
}

func TestEnqueueManyKeepsTheOrder(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	texts := []string{"a", "b", "c", "d"}
	var args []driver.Args
	for _, text := range texts {
		args = append(args, note{text})
	}
	ids, err := client.EnqueueMany(t.Context(), args, driver.EnqueueOptions{})
	require.NoError(t, err)
	require.Len(t, ids, len(texts))
	for i, id := range ids {
		job, err := client.Job(t.Context(), id)
		require.NoError(t, err)
		assert.JSONEq(t, `{"text": "`+texts[i]+`"}`, string(job.Args))
	}

	ids, err = client.EnqueueMany(t.Context(), nil, driver.EnqueueOptions{})
	require.NoError(t, err)
	assert.Empty(t, ids)
}

type otherKind struct{}

func (otherKind) Kind() string { return "other" }

type badArgs struct{ F func() }

func (badArgs) Kind() string { return "bad" }

func TestEnqueueRefuses(t *testing.T) {
	client := driver.NewClient(testdb.New(t))
	for name, test := range map[string]struct {
		args []driver.Args
		opts driver.EnqueueOptions
		code string
	}{
		"two kinds": {args: []driver.Args{note{}, otherKind{}}},
		"args":      {args: []driver.Args{badArgs{}}},
		"metadata":  {args: []driver.Args{note{}}, opts: driver.EnqueueOptions{Metadata: func() {}}},
		"priority":  {args: []driver.Args{note{}}, opts: driver.EnqueueOptions{Priority: 5}, code: "22023"},
		"no int4": {args: []driver.Args{note{}}, opts: driver.EnqueueOptions{MaxAttempts: math.MaxInt32 + 2},
			code: "22023"},
		"negative":        {args: []driver.Args{note{}}, opts: driver.EnqueueOptions{MaxAttempts: -1}, code: "22023"},
		"NUL in the args": {args: []driver.Args{note{"\x00"}}, code: "22P05"},
	} {
		t.Run(name, func(t *testing.T) {
			ids, err := client.EnqueueMany(t.Context(), test.args, test.opts)
			require.Error(t, err)
			assert.Empty(t, ids)
			if test.code != "" {
				var pg *pgconn.PgError
				require.ErrorAs(t, err, &pg)
				assert.Equal(t, test.code, pg.Code)
				assert.ErrorContains(t, err, "detail: "+pg.Detail)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	_, err := client.Job(t.Context(), 1)
	assert.ErrorIs(t, err, driver.ErrNoSuchJob)
	_, err = client.QueueCounts(t.Context(), "nowhere")
	assert.ErrorIs(t, err, driver.ErrNoSuchQueue)

	err = client.CompleteTx(t.Context(), pool, 1, 4096, nil)
	assert.ErrorIs(t, err, driver.ErrStaleReceipt)
	assert.NotErrorIs(t, err, driver.ErrNoSuchJob)
	var pg *pgconn.PgError
	require.ErrorAs(t, err, &pg)
	assert.Equal(t, "JQ001", pg.Code)
	assert.ErrorContains(t, err, pg.Message)
	assert.ErrorContains(t, err, pg.Detail)
	assert.ErrorContains(t, err, pg.Hint)

	err = client.CompleteTx(t.Context(), pool, 1, 4096, func() {})
	assert.ErrorContains(t, err, "output")
}

func TestEnqueueUnique(t *testing.T) {
	day := driver.UniqueOptions{Period: 24 * 365 * time.Hour}
	for name, test := range map[string]struct {
		first, second     driver.Args
		unique            driver.UniqueOptions
		firstOf, secondOf string // queues
		inserted          bool
	}{
		"same":        {first: note{"a"}, second: note{"a"}},
		"other args":  {first: note{"a"}, second: note{"b"}, inserted: true},
		"other kind":  {first: note{}, second: otherKind{}, inserted: true},
		"other queue": {first: note{}, second: note{}, secondOf: "other"},
		"by kind":     {first: note{"a"}, second: note{"b"}, unique: driver.UniqueOptions{By: []string{"kind"}}},
		"by queue and kind": {first: note{}, second: note{}, secondOf: "other",
			unique: driver.UniqueOptions{By: []string{"queue", "kind"}}, inserted: true},
		"by queue": {first: note{}, second: otherKind{}, secondOf: "default",
			unique: driver.UniqueOptions{By: []string{"queue"}}},
		"key": {first: note{"a"}, second: otherKind{}, secondOf: "other",
			unique: driver.UniqueOptions{Key: "k"}},
		"period": {first: note{}, second: note{}, unique: day},
		"state not held": {first: note{}, second: note{}, unique: driver.UniqueOptions{States: []string{"running"}},
			inserted: true},
		"state held": {first: note{}, second: note{},
			unique: driver.UniqueOptions{States: []string{"available", "completed"}}},
	} {
		t.Run(name, func(t *testing.T) {
			client := driver.NewClient(testdb.New(t))
			first, inserted, err := client.EnqueueUnique(t.Context(), test.first, test.unique,
				driver.EnqueueOptions{Queue: test.firstOf})
			require.NoError(t, err)
			assert.True(t, inserted)
			second, inserted, err := client.EnqueueUnique(t.Context(), test.second, test.unique,
				driver.EnqueueOptions{Queue: test.secondOf})
			require.NoError(t, err)
			assert.Equal(t, test.inserted, inserted)
			assert.Equal(t, !test.inserted, first == second)
		})
	}
}

// A job holds its key until it has ended, or as long as its States say.
func TestUniqueKeyIsLetGoOf(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	enqueueBoth := func(unique driver.UniqueOptions, insertedAgain bool) {
		t.Helper()
		id, inserted, err := client.EnqueueUnique(t.Context(), note{}, unique, driver.EnqueueOptions{})
		require.NoError(t, err)
		require.True(t, inserted)
		job, err := client.Job(t.Context(), id)
		require.NoError(t, err)
		assert.NotEmpty(t, job.UniqueKey)
		require.NoError(t, client.CompleteTx(t.Context(), pool, id, claim(t, pool, 1)[0].Receipt, nil))
		_, inserted, err = client.EnqueueUnique(t.Context(), note{}, unique, driver.EnqueueOptions{})
		require.NoError(t, err)
		assert.Equal(t, insertedAgain, inserted)
	}
	enqueueBoth(driver.UniqueOptions{Key: "until it has ended"}, true)
	claim(t, pool, 1)
	enqueueBoth(driver.UniqueOptions{Key: "for ever", States: []string{"available", "running", "completed"}}, false)
}

func TestEnqueueUniqueOptions(t *testing.T) {
	client := driver.NewClient(testdb.New(t))
	runAt := time.Now().Add(time.Hour).Truncate(time.Microsecond)
	id, _, err := client.EnqueueUnique(t.Context(), note{"x"}, driver.UniqueOptions{}, driver.EnqueueOptions{
		Queue: "other", Priority: 4, RunAt: runAt, MaxAttempts: 7, Tags: []string{"a"}, Metadata: map[string]int{"n": 1},
		GroupKey: "g", ExpiresAt: runAt.Add(time.Hour),
	})
	require.NoError(t, err)
	job, err := client.Job(t.Context(), id)
	require.NoError(t, err)
	assert.Equal(t, "other", job.Queue)
	assert.JSONEq(t, `{"text": "x"}`, string(job.Args))
	assert.Equal(t, "scheduled", job.State)
	assert.Equal(t, 4, job.Priority)
	assert.True(t, runAt.Equal(job.RunAt), job.RunAt)
	assert.Equal(t, 7, job.MaxAttempts)
	assert.Equal(t, []string{"a"}, job.Tags)
	assert.JSONEq(t, `{"n": 1}`, string(job.Metadata))
	assert.Equal(t, "g", job.GroupKey)
	assert.True(t, runAt.Add(time.Hour).Equal(*job.ExpiresAt), job.ExpiresAt)
}

func TestEnqueueUniqueRefuses(t *testing.T) {
	client := driver.NewClient(testdb.New(t))
	for name, test := range map[string]struct {
		args   driver.Args
		unique driver.UniqueOptions
		opts   driver.EnqueueOptions
		want   string
	}{
		"args":     {args: badArgs{}, want: "arguments"},
		"metadata": {args: note{}, opts: driver.EnqueueOptions{Metadata: func() {}}, want: "metadata"},
		"priority": {args: note{}, opts: driver.EnqueueOptions{Priority: 5}, want: "SQLSTATE 22023"},
		"by":       {args: note{}, unique: driver.UniqueOptions{By: []string{"tags"}}, want: "unique_by must name"},
		"period":   {args: note{}, unique: driver.UniqueOptions{Period: -time.Second}, want: "unique_period must be"},
		"states":   {args: note{}, unique: driver.UniqueOptions{States: []string{"asleep"}}, want: "unique_states must name"},
	} {
		_, inserted, err := client.EnqueueUnique(t.Context(), test.args, test.unique, test.opts)
		assert.ErrorContains(t, err, test.want, name)
		assert.False(t, inserted)
	}
}

func TestCancelByUniqueKey(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	for _, unique := range []driver.UniqueOptions{{}, {Key: "k"}, {By: []string{"queue", "args"}},
		{Period: 24 * 365 * time.Hour}} {
		id, inserted, err := client.EnqueueUnique(t.Context(), note{"a"}, unique, driver.EnqueueOptions{Queue: "q"})
		require.NoError(t, err)
		require.True(t, inserted)
		other := unique
		other.By = []string{"kind"}
		other.Key += "x"
		_, cancelled, err := client.CancelByUniqueKey(t.Context(), note{"a"}, other, "q")
		require.NoError(t, err)
		assert.False(t, cancelled)
		got, cancelled, err := client.CancelByUniqueKey(t.Context(), note{"a"}, unique, "q")
		require.NoError(t, err)
		assert.True(t, cancelled)
		assert.Equal(t, id, got)
		waitForState(t, pool, id, "cancelled")
		_, cancelled, err = client.CancelByUniqueKey(t.Context(), note{"a"}, unique, "q")
		require.NoError(t, err)
		assert.False(t, cancelled)
	}
	_, _, err := client.CancelByUniqueKey(t.Context(), nil, driver.UniqueOptions{}, "")
	assert.ErrorContains(t, err, "kind must be")
	_, _, err = client.CancelByUniqueKey(t.Context(), badArgs{}, driver.UniqueOptions{}, "")
	assert.ErrorContains(t, err, "arguments")
}

func TestUniqueTx(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	rollback := errors.New("rollback")
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		_, inserted, err := client.EnqueueUniqueTx(t.Context(), tx, note{}, driver.UniqueOptions{}, driver.EnqueueOptions{})
		require.NoError(t, err)
		assert.True(t, inserted)
		return rollback
	})
	require.ErrorIs(t, err, rollback)
	id, inserted, err := client.EnqueueUnique(t.Context(), note{}, driver.UniqueOptions{}, driver.EnqueueOptions{})
	require.NoError(t, err)
	assert.True(t, inserted, "the key of a job that was rolled back is still held")
	err = pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		_, cancelled, err := client.CancelByUniqueKeyTx(t.Context(), tx, note{}, driver.UniqueOptions{}, "")
		require.NoError(t, err)
		assert.True(t, cancelled)
		return rollback
	})
	require.ErrorIs(t, err, rollback)
	waitForState(t, pool, id, "available")
}

func TestCompleteTxOutsideOfAWorker(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	id := enqueue(t, pool, note{}, driver.EnqueueOptions{})
	claimed, err := gen.New().Claim(t.Context(), pool, gen.ClaimParams{Queue: driver.DefaultQueue, MaxJobs: 1})
	require.NoError(t, err)
	require.Len(t, claimed, 1)

	rollback := errors.New("rollback")
	err = pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		require.NoError(t, client.CompleteTx(t.Context(), tx, id, claimed[0].Receipt, "lost"))
		return rollback
	})
	require.ErrorIs(t, err, rollback)
	waitForState(t, pool, id, "running")

	require.NoError(t, client.CompleteTx(t.Context(), pool, id, claimed[0].Receipt, "kept"))
	assert.JSONEq(t, `"kept"`, string(waitForState(t, pool, id, "completed").Output))
	assert.ErrorIs(t, client.CompleteTx(t.Context(), pool, id, claimed[0].Receipt, nil), driver.ErrStaleReceipt)
}

func TestRolledBackEnqueueIsNeverRun(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	ghost, err := client.EnqueueTx(t.Context(), tx, note{"ghost"}, driver.EnqueueOptions{})
	require.NoError(t, err)
	require.NoError(t, tx.Rollback(t.Context()))
	enqueue(t, pool, note{"real"}, driver.EnqueueOptions{})

	ran := make(chan string, 10)
	stop := runWorker(t, pool, handle(func(_ context.Context, job *driver.Job[note]) error {
		ran <- job.Args.Text
		return nil
	}), driver.WorkerConfig{})
	assert.Equal(t, "real", receive(t, ran))
	require.NoError(t, stop())
	assert.Empty(t, ran)
	_, err = client.Job(t.Context(), ghost)
	assert.ErrorIs(t, err, driver.ErrNoSuchJob)
	counts, err := client.QueueCounts(t.Context(), driver.DefaultQueue)
	require.NoError(t, err)
	assert.Equal(t, driver.QueueCounts{Queue: driver.DefaultQueue, Completed: 1}, counts)
}

// Times that the server does not have are refused, and not taken for others.
func TestExtremeTimes(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	call := map[string]func(time.Time) error{
		"enqueue": func(at time.Time) error {
			_, err := client.Enqueue(t.Context(), note{}, driver.EnqueueOptions{RunAt: at})
			return err
		},
		"enqueue many": func(at time.Time) error {
			_, err := client.EnqueueMany(t.Context(), []driver.Args{note{}}, driver.EnqueueOptions{RunAt: at})
			return err
		},
		"enqueue unique": func(at time.Time) error {
			_, _, err := client.EnqueueUnique(t.Context(), note{at.String()}, driver.UniqueOptions{},
				driver.EnqueueOptions{RunAt: at})
			return err
		},
		"enqueue batch": func(at time.Time) error {
			_, err := client.EnqueueBatch(t.Context(),
				[]driver.BatchJob{{Args: note{}}, {Args: note{}, Options: driver.EnqueueOptions{RunAt: at}}})
			return err
		},
	}
	filters := map[string]func(driver.JobFilter) (int64, error){
		"cancel where": func(f driver.JobFilter) (int64, error) { return client.CancelWhere(t.Context(), f) },
		"retry where":  func(f driver.JobFilter) (int64, error) { return client.RetryWhere(t.Context(), f) },
		"purge":        func(f driver.JobFilter) (int64, error) { return client.PurgeDLQ(t.Context(), f) },
	}
	const firstSecond, lastSecond = -210_866_803_200, 9_224_318_015_999 // 4713-11-24 BC, 294276-12-31 23:59:59
	for _, seconds := range []int64{math.MinInt64, firstSecond - 1, lastSecond + 1, math.MaxInt64} {
		for name, call := range call {
			assert.ErrorContains(t, call(time.Unix(seconds, 0)), "RunAt must be between 4713 BC and the year 9999,", name)
		}
		for name, call := range filters {
			_, err := call(driver.JobFilter{Queue: "default", Before: time.Unix(seconds, 0)})
			assert.ErrorContains(t, err, "Before must be between 4713 BC and the year 294276,", name)
		}
	}
	assert.Zero(t, queryValue[int](t, pool, "select count(*) from awa.jobs"))
	for _, seconds := range []int64{firstSecond, math.MaxInt64 / 1_000_000, lastSecond} {
		for name, call := range filters {
			_, err := call(driver.JobFilter{Queue: "default", Before: time.Unix(seconds, 0)})
			assert.NoError(t, err, name)
		}
	}
	const lastRun = 253_402_250_399  // 9999-12-31 09:59:59
	const yearZero = -62_167_219_200 // a batch goes as JSON, with times as in RFC 3339
	for name, call := range call {
		first := int64(firstSecond)
		if name == "enqueue batch" {
			first = yearZero
			assert.ErrorContains(t, call(time.Unix(first-1, 0)), "run_at must be a timestamp as in RFC 3339", name)
		}
		assert.NoError(t, call(time.Unix(first, 0)), name)
		assert.NoError(t, call(time.Unix(lastRun, 0)), name)
		assert.ErrorContains(t, call(time.Unix(lastRun+1, 0)), "run_at must be a time before 9999-12-31 10:00 UTC", name)
	}
	assert.Equal(t, "available, scheduled",
		queryValue[string](t, pool, "select string_agg(distinct state, ', ' order by state) from awa.jobs"))
}

// Durations that the server does not take are refused with the argument's name, whatever they are.
func TestExtremeDurations(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	for _, d := range []time.Duration{math.MinInt64, -1_000_000, math.MaxInt64} {
		_, _, err := client.EnqueueUnique(t.Context(), note{}, driver.UniqueOptions{Period: d}, driver.EnqueueOptions{})
		assert.ErrorContains(t, err, "unique_period must", d)
		for verdict, text := range map[error]string{
			driver.Snooze(d): "delay must be between 0 and 10 years",
			driver.RetryAfter(d, errors.New("a boom")): "retry_after must be between 0 and 10 years",
		} {
			id := enqueue(t, pool, note{}, driver.EnqueueOptions{MaxAttempts: 1})
			var extended error
			w, err := driver.NewWorker(pool, handle(func(ctx context.Context, job *driver.Job[note]) error {
				_, extended = job.Extend(ctx, d)
				return verdict
			}), driver.WorkerConfig{Logger: logger(t)})
			require.NoError(t, err)
			_, err = w.RunOne(t.Context())
			require.NoError(t, err)
			assert.ErrorContains(t, extended, "lease must be between 1 millisecond and 1 year")
			assert.Contains(t, waitForState(t, pool, id, "failed").Errors[0].Error, text)
		}
		_, err = driver.NewWorker(pool, driver.NewHandlers(), driver.WorkerConfig{Lease: d})
		assert.ErrorContains(t, err, "Lease must be between")
	}

}

func TestPeriodsOfTheCalendar(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	for _, test := range []struct {
		period      time.Duration
		zone        string
		from, until string // the period's first and last second
	}{
		{driver.Day, "", "2126-11-28T00:00:00Z", "2126-11-28T23:59:59Z"},
		{driver.Day, "Europe/Berlin", "2026-10-24T22:00:00Z", "2026-10-25T22:59:59Z"},
		{driver.Week, "", "2026-11-23T00:00:00Z", "2026-11-29T23:59:59Z"},
		{driver.Month, "", "2128-02-01T00:00:00Z", "2128-02-29T23:59:59Z"},
		{3 * driver.Month, "", "2126-10-01T00:00:00Z", "2126-12-31T23:59:59Z"},
		{driver.Year, "America/New_York", "2126-01-01T05:00:00Z", "2127-01-01T04:59:59Z"},
		{time.Hour, "", "2126-11-28T10:00:00Z", "2126-11-28T10:59:59Z"},
	} {
		t.Run(fmt.Sprint(test.period, test.zone), func(t *testing.T) {
			from, err := time.Parse(time.RFC3339, test.from)
			require.NoError(t, err)
			until, err := time.Parse(time.RFC3339, test.until)
			require.NoError(t, err)
			unique := driver.UniqueOptions{Key: t.Name(), Period: test.period, Zone: test.zone}
			var ids []int64
			for _, at := range []time.Time{from.Add(-time.Second), from, until, until.Add(time.Second)} {
				id, _, err := client.EnqueueUnique(t.Context(), note{}, unique, driver.EnqueueOptions{RunAt: at})
				require.NoError(t, err)
				ids = append(ids, id)
			}
			assert.Equal(t, ids[1], ids[2])
			assert.NotEqual(t, ids[0], ids[1])
			assert.NotEqual(t, ids[2], ids[3])
			unique.RunAt = until
			id, cancelled, err := client.CancelByUniqueKey(t.Context(), nil, unique, "")
			require.NoError(t, err)
			assert.True(t, cancelled)
			assert.Equal(t, ids[1], id)
		})
	}
}

func TestEnqueueBatch(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	at := time.Date(2126, 1, 2, 3, 4, 5, 678000, time.FixedZone("", 3600))
	jobs := []driver.BatchJob{
		{Args: note{"a"}, Options: driver.EnqueueOptions{Queue: "q", Priority: 3, RunAt: at, MaxAttempts: 4,
			Tags: []string{"t"}, Metadata: map[string]int{"m": 1}, GroupKey: "g", ExpiresAt: at.Add(time.Hour)}},
		{Args: note{"b"}, Unique: &driver.UniqueOptions{}},
		{Args: otherKind{}, Unique: &driver.UniqueOptions{Key: "k", Period: driver.Month, Zone: "Europe/Berlin",
			States: []string{"available", "completed"}}},
		{Args: note{"b"}, Unique: &driver.UniqueOptions{By: []string{"kind", "args"}}},
		{Args: note{"b"}},
	}
	first, err := client.EnqueueBatch(t.Context(), jobs)
	require.NoError(t, err)
	require.Len(t, first, len(jobs))
	for i, result := range first {
		assert.Equal(t, i != 3, result.Inserted, i)
	}
	assert.Equal(t, first[1].ID, first[3].ID)
	job, err := client.Job(t.Context(), first[0].ID)
	require.NoError(t, err)
	assert.Equal(t, []any{"q", 3, true, 4, []string{"t"}},
		[]any{job.Queue, job.Priority, job.RunAt.Equal(at), job.MaxAttempts, job.Tags})
	assert.JSONEq(t, `{"m": 1}`, string(job.Metadata))
	assert.Equal(t, "g", job.GroupKey)
	assert.True(t, at.Add(time.Hour).Equal(*job.ExpiresAt), job.ExpiresAt)

	second, err := client.EnqueueBatch(t.Context(), jobs[1:3])
	require.NoError(t, err)
	assert.Equal(t, []driver.BatchResult{{ID: first[1].ID}, {ID: first[2].ID}}, second)

	none, err := client.EnqueueBatch(t.Context(), nil)
	require.NoError(t, err)
	assert.Empty(t, none)
	_, err = client.EnqueueBatch(t.Context(),
		[]driver.BatchJob{{Args: note{}, Unique: &driver.UniqueOptions{Zone: "Mars"}}})
	assert.ErrorContains(t, err, "unique_zone must be a time zone")
	_, err = client.EnqueueBatch(t.Context(), []driver.BatchJob{{Args: badArgs{}}})
	assert.Error(t, err)
}

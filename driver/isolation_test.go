package driver_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/gen"
	"github.com/awa-pg/awa/internal/testdb"
)

// isolatedPool returns a pool on a new database whose default isolation level is another one than READ COMMITTED.
func isolatedPool(t *testing.T, level string) *pgxpool.Pool {
	t.Helper()
	databaseURL := testdb.URL(t)
	conn := testdb.Connect(t, databaseURL)
	_, err := conn.Exec(t.Context(),
		"do $$ begin execute format('alter database %I set default_transaction_isolation = %L', current_database(), '"+level+
			"'); end $$")
	require.NoError(t, err)
	pool := untapped(t, databaseURL)
	require.Equal(t, level, queryValue[string](t, pool, "show transaction_isolation"))
	return pool
}

var otherLevels = []string{"repeatable read", "serializable"}

// What a client does in a transaction of its own does not depend on the database's default isolation level.
func TestClientWhateverTheIsolationLevel(t *testing.T) {
	for _, level := range otherLevels {
		t.Run(level, func(t *testing.T) {
			pool := isolatedPool(t, level)
			client := driver.NewClient(pool)
			id := func() int64 { return enqueue(t, pool, note{}, driver.EnqueueOptions{}) }
			ids, err := client.EnqueueMany(t.Context(), []driver.Args{note{}, note{}}, driver.EnqueueOptions{Queue: "many"})
			require.NoError(t, err)
			require.Len(t, ids, 2)

			one := id()
			state, err := client.SetPriority(t.Context(), one, 1)
			require.NoError(t, err)
			assert.Equal(t, "available", state)
			_, err = client.Move(t.Context(), one, "moved")
			require.NoError(t, err)
			_, err = client.Reschedule(t.Context(), one, time.Now().Add(time.Hour), nil)
			require.NoError(t, err)
			_, err = client.Cancel(t.Context(), one, "")
			require.NoError(t, err)
			state, err = client.Retry(t.Context(), one, driver.RetryOptions{})
			require.NoError(t, err)
			assert.Equal(t, "cancelled", state)

			n, err := client.CancelWhere(t.Context(), driver.JobFilter{Queue: "many"})
			require.NoError(t, err)
			assert.Equal(t, int64(2), n)
			n, err = client.RetryWhere(t.Context(), driver.JobFilter{Queue: "many"})
			require.NoError(t, err)
			assert.Equal(t, int64(2), n)
			_, err = client.PurgeDLQ(t.Context(), driver.JobFilter{Queue: "many"})
			require.NoError(t, err)

			unique := driver.UniqueOptions{Key: "one"}
			held, inserted, err := client.EnqueueUnique(t.Context(), note{}, unique, driver.EnqueueOptions{})
			require.NoError(t, err)
			assert.True(t, inserted)
			again, inserted, err := client.EnqueueUnique(t.Context(), note{}, unique, driver.EnqueueOptions{})
			require.NoError(t, err)
			assert.False(t, inserted)
			assert.Equal(t, held, again)
			_, cancelled, err := client.CancelByUniqueKey(t.Context(), nil, unique, "")
			require.NoError(t, err)
			assert.True(t, cancelled)

			_, err = client.ExplainJob(t.Context(), one)
			require.NoError(t, err)
			counts, err := client.QueueCounts(t.Context(), "many")
			require.NoError(t, err)
			assert.Equal(t, int64(2), counts.Available)
			require.NoError(t, client.DropQueue(t.Context(), "many", true))

			// What is refused leaves the connection as it was.
			for range 3 {
				_, err = client.Cancel(t.Context(), 1_000_000, "")
				assert.ErrorIs(t, err, driver.ErrNoSuchJob)
			}
			assert.Equal(t, int32(1), pool.Stat().TotalConns())
			assert.Equal(t, int64(1), pool.Stat().NewConnsCount())

			// In a transaction of the caller's own the level is the caller's affair.
			err = pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
				_, err := client.CancelTx(t.Context(), tx, one, "")
				return err
			})
			assert.ErrorIs(t, err, driver.ErrIsolation)
		})
	}
}

// Producers at SERIALIZABLE get into each other's way: each looks for a queue that is not there, and makes it. The one
// that the server refuses for it is not refused to the caller.
func TestEnqueueBesideASerializableTransaction(t *testing.T) {
	for name, call := range map[string]func(context.Context, *driver.Client) error{
		"one": func(ctx context.Context, c *driver.Client) error {
			_, err := c.Enqueue(ctx, note{}, driver.EnqueueOptions{Queue: "new"})
			return err
		},
		"many": func(ctx context.Context, c *driver.Client) error {
			_, err := c.EnqueueMany(ctx, []driver.Args{note{}}, driver.EnqueueOptions{Queue: "new"})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			pool := isolatedPool(t, "serializable")
			// A trigger that fails once, as a conflict would, which would have to be forced inside the call.
			for _, sql := range []string{
				"create sequence public.times",
				"grant usage on sequence public.times to public",
				`create function public.conflict() returns trigger language plpgsql as $$ begin
				   if nextval('public.times') = 1 then raise exception using errcode = '40001', message = 'conflict'; end if;
				   return new;
				 end $$`,
				"create trigger conflict before insert on awa.ready_entries for each row execute function public.conflict()",
			} {
				_, err := pool.Exec(t.Context(), sql)
				require.NoError(t, err)
			}
			require.NoError(t, call(t.Context(), driver.NewClient(pool)))
			assert.Equal(t, 1, queryValue[int](t, pool, "select count(*) from awa.jobs"))
		})
	}
}

// A worker claims, answers and maintains whatever the level is, and so do its handlers.
func TestWorkerWhateverTheIsolationLevel(t *testing.T) {
	driver.SetMaintenance(t, 10*time.Millisecond)
	for _, level := range otherLevels {
		t.Run(level, func(t *testing.T) {
			pool := isolatedPool(t, level)
			var log syncBuffer
			snoozed := false
			stop := runWorker(t, pool, handle(func(ctx context.Context, job *driver.Job[note]) error {
				if err := job.SetProgress(ctx, 1); err != nil {
					return err
				}
				if _, err := job.Extend(ctx, time.Minute); err != nil {
					return err
				}
				switch {
				case job.Args.Text == "cancel":
					return driver.Cancel("")
				case job.Args.Text == "discard":
					return driver.Discard(errors.New("boom"))
				case job.Args.Text == "snooze" && !snoozed:
					snoozed = true
					return driver.Snooze(time.Millisecond)
				case job.Args.Text == "fail" && job.Attempt == 1:
					return driver.RetryAfter(time.Millisecond, errors.New("boom"))
				}
				return nil
			}), driver.WorkerConfig{Logger: slog.New(slog.NewTextHandler(&log, nil))})
			for text, state := range map[string]string{"": "completed", "cancel": "cancelled", "discard": "failed",
				"snooze": "completed", "fail": "completed"} {
				waitForState(t, pool, enqueue(t, pool, note{text}, driver.EnqueueOptions{}), state)
			}
			require.NoError(t, stop())
			assert.NotContains(t, log.String(), "level=WARN")
			require.NoError(t, gen.New().RunMaintenance(t.Context(), pool))
		})
	}
}

// A handler's call that a level above READ COMMITTED makes fail is repeated at that one.
func TestProgressAboveReadCommitted(t *testing.T) {
	pool := isolatedPool(t, "repeatable read")
	for _, sql := range []string{
		`create function public.conflict() returns trigger language plpgsql as $$ begin
		   if current_setting('transaction_isolation') <> 'read committed' then
		     raise exception using errcode = '40001', message = 'conflict';
		   end if;
		   return new;
		 end $$`,
		"create trigger conflict before insert or update on awa.leases for each row execute function public.conflict()",
	} {
		_, err := pool.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	id := enqueue(t, pool, note{}, driver.EnqueueOptions{})
	errs := make(chan error, 2)
	runWorker(t, pool, handle(func(ctx context.Context, job *driver.Job[note]) error {
		errs <- job.SetProgress(ctx, 1)
		_, err := job.Extend(ctx, time.Minute)
		errs <- err
		return nil
	}), driver.WorkerConfig{NoMaintenance: true})
	require.NoError(t, receive(t, errs))
	require.NoError(t, receive(t, errs))
	waitForState(t, pool, id, "completed")
}

// A server that is read-only by default refuses to be written to, and says so: that default is how operators, and those
// who host databases, keep clients from a server that was demoted or whose disk is full.
func TestClientOfAReadOnlyDatabase(t *testing.T) {
	databaseURL := testdb.URL(t)
	pool := untapped(t, databaseURL+"&default_transaction_read_only=on")
	_, err := driver.NewClient(pool).Enqueue(t.Context(), note{}, driver.EnqueueOptions{})
	assert.ErrorContains(t, err, "25006")
}

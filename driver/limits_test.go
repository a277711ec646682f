package driver_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/testdb"
)

// claims counts the claims of all connections of a pool, and the jobs that they have brought.
type claims struct{ calls, empty, jobs atomic.Int64 }

func (c *claims) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return ctx
}

func (c *claims) TraceBatchQuery(_ context.Context, _ *pgx.Conn, query pgx.TraceBatchQueryData) {
	if strings.Contains(query.SQL, "awa.claim") {
		c.calls.Add(1)
		c.jobs.Add(query.CommandTag.RowsAffected())
		if query.CommandTag.RowsAffected() == 0 {
			c.empty.Add(1)
		}
	}
}

func (c *claims) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

func (c *claims) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}

func (c *claims) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// countedPool is a pool whose claims are counted.
func countedPool(t *testing.T, databaseURL string) (*pgxpool.Pool, *claims) {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(databaseURL)
	require.NoError(t, err)
	counted := new(claims)
	cfg.ConnConfig.Tracer = counted
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool, counted
}

// A worker comes at once for the slots that its own answers have given back: no notification says so here, and its next
// look is an hour away.
func TestWorkerComesForTheSlotsOfItsAnswers(t *testing.T) {
	driver.SleepUntilNotified(t)
	for name, limit := range map[string]driver.QueueSettings{
		"of the queue": {MaxRunning: driver.Set(1)},
		"of a group":   {GroupMaxRunning: driver.Set(1)},
	} {
		t.Run(name, func(t *testing.T) {
			pool := testdb.New(t)
			execute(t, pool, "update awa.settings set notifications = false")
			require.NoError(t, driver.NewClient(pool).ConfigureQueue(t.Context(), "default", limit))
			for range 4 {
				enqueue(t, pool, note{}, driver.EnqueueOptions{GroupKey: "g"})
			}
			began, open := make(chan bool, 4), make(chan bool)
			runWorker(t, pool, handle(func(context.Context, *driver.Job[note]) error {
				began <- true
				<-open
				return nil
			}), driver.WorkerConfig{Slots: 4, PollInterval: time.Hour, NoMaintenance: true})
			for range 4 {
				receive(t, began)
				waitUntilAsleep(t, pool)
				open <- true
			}
		})
	}
}

// Fifty idle workers beside a limit: for each job that ends, each of them looks a few times, at distances that double,
// and then sleeps.
func TestIdleWorkersBesideALimit(t *testing.T) {
	driver.SleepUntilNotified(t)
	const workers, most, rounds = 50, 4, 5
	pool, counted := countedPool(t, testdb.URL(t))
	require.NoError(t, driver.NewClient(pool).ConfigureQueue(t.Context(), "default",
		driver.QueueSettings{MaxRunning: driver.Set(most)}))
	enqueueNotes(t, pool, most+rounds)
	began, open := make(chan bool, most+rounds), make(chan bool)
	for range workers {
		runWorker(t, pool, handle(func(context.Context, *driver.Job[note]) error {
			began <- true
			<-open
			return nil
		}), driver.WorkerConfig{Slots: 10, PollInterval: time.Hour, NoMaintenance: true})
	}
	defer close(open)
	for range most {
		receive(t, began)
	}
	asleep := func() int64 {
		waitFor(t, func() bool {
			return queryValue[bool](t, pool, "select count(*) = $1 from awa.workers", workers)
		}, "not all workers have begun")
		waitUntilAsleep(t, pool)
		return counted.calls.Load()
	}
	before := asleep()
	for range rounds {
		open <- true
		receive(t, began)
		asleep()
	}
	empty := counted.calls.Load() - before - rounds
	t.Logf("%d empty claims for each job", empty/rounds)
	// at 0, 5, 10, 20 and 40 ms; twice where one is woken for the slot, and again when the next job has taken it
	require.LessOrEqual(t, empty, int64(rounds*workers*2*5))
	require.Len(t, began, 0, "more run than may")
}

// A worker whose connections go through a proxy that pools transactions hears of nothing. It begins as many jobs of a
// backlog as the rate allows, since it asks when the next one may begin, also with a deferred job beside them.
func TestRateIsReachedBehindAProxy(t *testing.T) {
	driver.SleepUntilNotified(t)
	const burst, perSecond, jobs = 5, 100.0 / 60, 30
	databaseURL := testdb.URL(t)
	proxy := testdb.StartBouncer(t, databaseURL, 4)
	direct := untapped(t, databaseURL)
	through := untapped(t, proxy.URL(databaseURL, pgx.QueryExecModeExec))
	require.NoError(t, driver.NewClient(direct).ConfigureQueue(t.Context(), "default", driver.QueueSettings{
		Rate: driver.Set(driver.Rate{Jobs: 100, Per: time.Minute}),
	}))
	enqueueNotes(t, direct, jobs)
	enqueue(t, direct, note{}, driver.EnqueueOptions{RunAt: time.Now().Add(time.Hour)})
	ran := make(chan bool, jobs)
	runWorker(t, through, handle(func(context.Context, *driver.Job[note]) error {
		ran <- true
		return nil
	}), driver.WorkerConfig{PollInterval: 20 * time.Second})
	for range jobs {
		receive(t, ran)
	}
	// The best of the last five: any one claim may be late on a busy machine, and the next one makes up for it.
	reached := queryValue[float64](t, direct, `
		select max((n - $1) / extract(epoch from claimed_at - first_at) / $2)::float8
		  from (
		    select claimed_at, min(claimed_at) over () as first_at,
		           sum(cardinality(job_ids)) over (order by claimed_at, claim_id) as n
		      from awa.lease_claims
		  ) c
		 where n > $3`, burst, perSecond, jobs-5)
	t.Logf("%.3f of the rate", reached)
	require.GreaterOrEqual(t, reached, 0.98)
	require.LessOrEqual(t, reached, 1.01)
}

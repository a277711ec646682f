package driver_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/testdb"
)

// slowPool returns a pool whose connections carry at most 400 kB a second.
func slowPool(t *testing.T, databaseURL string) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(databaseURL)
	require.NoError(t, err)
	dial := cfg.ConnConfig.DialFunc
	cfg.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		return slowConn{conn}, err
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

type slowConn struct{ net.Conn }

func (c slowConn) Read(b []byte) (int, error) {
	if len(b) > 4096 {
		b = b[:4096]
	}
	n, err := c.Conn.Read(b)
	if n > 2048 {
		time.Sleep(10 * time.Millisecond)
	}
	return n, err
}

// huge has the next job be one that takes a few kilobytes in the server, and 8 MB on its way.
const huge = `select awa.enqueue('default', 'note', jsonb_build_object('text', repeat('x', 8000000)), max_attempts ` +
	`=> 1)`

// A job that the connection to the server does not carry within the time of a claim fails, counted, and named; the rest
// of its queue goes on. It makes no difference whether it is the worker that gives up, or the server that ends the
// session because it holds up
// the queue.
func TestJobThatIsTooLargeForItsLink(t *testing.T) {
	for name, endedByServer := range map[string]bool{"given up": false, "ended by the server": true} {
		t.Run(name, func(t *testing.T) {
			driver.SetCallTimeouts(t, map[bool]time.Duration{false: 8 * time.Second, true: 16 * time.Second}[endedByServer],
				5*time.Second)
			databaseURL := testdb.URL(t)
			direct := untapped(t, databaseURL)
			var ids []int64
			for range 3 {
				ids = append(ids, enqueue(t, direct, note{}, driver.EnqueueOptions{MaxAttempts: 1}))
			}
			bad := queryValue[int64](t, direct, huge)
			for range 3 {
				ids = append(ids, enqueue(t, direct, note{strings.Repeat("y", 50_000)}, driver.EnqueueOptions{MaxAttempts: 1}))
			}
			if endedByServer { // as end_stuck_claimers does, but sooner
				ctx, stop := context.WithCancel(context.Background())
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					for ctx.Err() == nil {
						direct.Exec(ctx,
							"select pg_terminate_backend(c.pid) from pg_stat_activity c where c.datname = current_database() and "+
								"c.wait_event = 'ClientWrite' and c.query_start < clock_timestamp() - interval '6 seconds'")
						time.Sleep(look)
					}
				}()
				defer func() { stop(); <-ended }()
			}
			ran := newTally()
			var log syncBuffer
			runWorker(t, slowPool(t, databaseURL), handle(ran.handle),
				driver.WorkerConfig{NoMaintenance: true, Logger: slog.New(slog.NewTextHandler(&log, nil))})
			for _, id := range ids {
				waitForState(t, direct, id, "completed")
				assert.Equal(t, 1, ran.of(id))
			}
			waitFor(t, func() bool { return queryValue[string](t, direct, "select state from awa.job($1)", bad) == "failed" },
				"job %d has not failed: %s", bad, &log)
			assert.Contains(t, queryValue[string](t, direct, "select errors -> 0 ->> 'error' from awa.job($1)", bad),
				"the job is too large for the connection to the server: it has 8000012 bytes")
			assert.Zero(t, ran.of(bad))
			assert.Regexp(t,
				fmt.Sprintf("level=WARN msg=\"a job can't be sent to this worker in time, so its attempt fails\".* queue=default "+
					"job_id=%d error=", bad), log.String())
		})
	}
}

// RunOne remembers nothing from one call to the next.
func TestRunOneOfAJobThatIsTooLargeForItsLink(t *testing.T) {
	driver.SetCallTimeouts(t, 8*time.Second, 5*time.Second)
	databaseURL := testdb.URL(t)
	direct := untapped(t, databaseURL)
	bad := queryValue[int64](t, direct, huge)
	w, err := driver.NewWorker(slowPool(t, databaseURL), handle(newTally().handle), driver.WorkerConfig{Logger: logger(t)})
	require.NoError(t, err)
	var ran *driver.Ran
	waitFor(t, func() bool {
		ran, err = w.RunOne(t.Context())
		return err == nil // on a busy machine, it may be over before much has come
	}, "RunOne does not end: %v", err)
	assert.Equal(t, bad, ran.JobID)
	assert.True(t, errors.Is(ran.Err, driver.ErrTooLarge), ran.Err)
	assert.Equal(t, "failed", queryValue[string](t, direct, "select state from awa.job($1)", bad))
}

// A claim that takes long by itself, because its job is large, say, comes to its end all the same: also when the last
// one failed because another session had locked the queue, after which the worker waits for a second only, and where
// the database ends statements early.
func TestClaimThatTakesLong(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, pool *pgxpool.Pool){
		"after a lock": func(t *testing.T, pool *pgxpool.Pool) {
			execute(t, pool, "update awa.settings set claim_wait = '50 milliseconds'")
			tx, err := pool.Begin(t.Context())
			require.NoError(t, err)
			defer tx.Rollback(context.Background())
			_, err = tx.Exec(t.Context(), "select awa.claim('default')")
			require.NoError(t, err)
			var log syncBuffer
			runWorker(t, pool, handle(newTally().handle),
				driver.WorkerConfig{NoMaintenance: true, Slots: 1, Logger: slog.New(slog.NewTextHandler(&log, nil))})
			waitFor(t, func() bool { return strings.Contains(log.String(), "the queue is locked by another session") },
				"no claim fails")
		},
		"statement_timeout": func(t *testing.T, pool *pgxpool.Pool) {
			execute(t, pool,
				"do $$ begin execute format('alter database %I set statement_timeout = 1000', current_database()); end $$")
			runWorker(t, pool, handle(newTally().handle), driver.WorkerConfig{NoMaintenance: true, Slots: 1, Logger: logger(t)})
		},
	} {
		t.Run(name, func(t *testing.T) {
			pool := testdb.New(t)
			execute(t, pool, `
				create function public.tarry(
				) returns trigger language plpgsql as $$ begin perform pg_sleep(1.5); return new; end $$;
				create trigger tarry before insert on awa.lease_claims for each row execute function public.tarry()`)
			id := enqueue(t, pool, note{}, driver.EnqueueOptions{})
			prepare(t, pool)
			waitForState(t, pool, id, "completed")
		})
	}
}

// stallingConn stands still in the middle of an answer, after 40,000 bytes, as often as stalls says, until the worker
// gives it up.
type stallingConn struct {
	net.Conn
	stalls  *atomic.Int32
	read    atomic.Int64 // since the last request
	stalled atomic.Bool
	givenUp chan struct{}
	once    sync.Once
}

func (c *stallingConn) Write(b []byte) (int, error) {
	c.read.Store(0)
	return c.Conn.Write(b)
}

func (c *stallingConn) Read(b []byte) (int, error) {
	if c.read.Load() > 40_000 && !c.stalled.Load() && c.stalls.Add(-1) >= 0 {
		c.stalled.Store(true)
		<-c.givenUp
	}
	n, err := c.Conn.Read(b[:min(len(b), 4096)])
	c.read.Add(int64(n))
	return n, err
}

func (c *stallingConn) SetDeadline(t time.Time) error {
	if !t.IsZero() && t.Before(time.Now()) {
		c.once.Do(func() { close(c.givenUp) })
	}
	return c.Conn.SetDeadline(t)
}

func (c *stallingConn) Close() error {
	c.once.Do(func() { close(c.givenUp) })
	return c.Conn.Close()
}

// Claims that are cut off by chance cost no attempt: neither two in a row, nor any number of them while others show
// that the connection carries more. When there are more in a row, so that a job has to end, it is one, and the others
// run.
func TestConnectionThatStandsStillNowAndThen(t *testing.T) {
	for name, c := range map[string]struct {
		stalls []int32
		fail   int
	}{"two in a row": {[]int32{2}, 0}, "with good ones in between": {[]int32{1, 1, 1, 1}, 0},
		"three in a row": {[]int32{3}, 1}} {
		t.Run(name, func(t *testing.T) {
			driver.SetCallTimeouts(t, 4*time.Second, 4*time.Second)
			databaseURL := testdb.URL(t)
			direct := untapped(t, databaseURL)
			var stalls atomic.Int32
			stalls.Store(-1 << 20)
			cfg, err := pgxpool.ParseConfig(databaseURL)
			require.NoError(t, err)
			dial := cfg.ConnConfig.DialFunc
			cfg.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := dial(ctx, network, addr)
				return &stallingConn{Conn: conn, stalls: &stalls, givenUp: make(chan struct{})}, err
			}
			pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
			require.NoError(t, err)
			t.Cleanup(pool.Close)
			runWorker(t, pool, handle(newTally().handle), driver.WorkerConfig{NoMaintenance: true, Logger: logger(t)})
			failed := 0
			for _, n := range c.stalls {
				stalls.Store(n)
				var ids []int64
				for range 8 {
					ids = append(ids, enqueue(t, direct, note{strings.Repeat("x", 60_000)}, driver.EnqueueOptions{MaxAttempts: 1}))
				}
				for _, id := range ids {
					waitFor(t, func() bool {
						state := queryValue[string](t, direct, "select state from awa.job($1)", id)
						failed += map[bool]int{true: 1}[state == "failed"]
						return state == "completed" || state == "failed"
					}, "job %d has not ended", id)
				}
				assert.Negative(t, stalls.Load(), "it did not stand still")
			}
			assert.Equal(t, c.fail, failed)
		})
	}
}

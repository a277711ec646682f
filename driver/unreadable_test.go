package driver_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/testdb"
)

// What becomes of a waiting job that enqueue would have refused, and that this program can't decode.
var undecodable = map[string]string{
	"nested too deep": "update awa.ready_entries set args = (repeat('[', 10001) || repeat(']', 10001))::jsonb where " +
		"job_id = $1",
	"a tag is null": "update awa.ready_entries set tags = array['a', null] where job_id = $1",
	"no time":       "update awa.ready_entries set created_at = 'infinity' where job_id = $1",
}

// A job that can't be decoded fails, counted, and those that were claimed with it run.
func TestJobThatCannotBeDecoded(t *testing.T) {
	for name, spoil := range undecodable {
		t.Run(name, func(t *testing.T) {
			pool := testdb.New(t)
			var ids []int64
			for range 5 {
				ids = append(ids, enqueue(t, pool, note{}, driver.EnqueueOptions{MaxAttempts: 1}))
			}
			bad := ids[1]
			_, err := pool.Exec(t.Context(), spoil, bad)
			require.NoError(t, err)
			ran := newTally()
			var log syncBuffer
			runWorker(t, pool, handle(ran.handle),
				driver.WorkerConfig{NoMaintenance: true, Logger: slog.New(slog.NewTextHandler(&log, nil))})
			for _, id := range ids {
				if id != bad {
					assert.Equal(t, 1, waitForState(t, pool, id, "completed").Attempt)
				}
			}
			stateOf := func() string { return queryValue[string](t, pool, "select state from awa.job($1)", bad) }
			waitFor(t, func() bool { return stateOf() == "failed" }, "job %d has not failed", bad)
			assert.Equal(t, 1, queryValue[int](t, pool, "select jsonb_array_length(errors) from awa.job($1)", bad))
			assert.Equal(t, 1, queryValue[int](t, pool, "select count(*) from awa.lease_claims where job_ids <> '{}'"),
				"all were in one claim")
			assert.Zero(t, ran.of(bad))
			assert.NotContains(t, log.String(), "level=WARN")
		})
	}
}

// A handler of all kinds gets arguments that are nested too deep as they are: it may have another decoder.
func TestDeepArgumentsAsTheyAre(t *testing.T) {
	pool := testdb.New(t)
	id := enqueue(t, pool, note{}, driver.EnqueueOptions{})
	_, err := pool.Exec(t.Context(), undecodable["nested too deep"], id)
	require.NoError(t, err)
	h := driver.NewHandlers()
	got := make(chan json.RawMessage, 1)
	driver.HandleOthers(h, func(_ context.Context, job *driver.RawJob) error {
		got <- job.Args
		return nil
	})
	runWorker(t, pool, h, driver.WorkerConfig{NoMaintenance: true})
	assert.Len(t, receive(t, got), 20002)
	assert.Len(t, waitForState(t, pool, id, "completed").Args, 20002)
}

func TestRunOneOfAJobThatCannotBeDecoded(t *testing.T) {
	for name, spoil := range undecodable {
		t.Run(name, func(t *testing.T) {
			pool := testdb.New(t)
			id := enqueue(t, pool, note{}, driver.EnqueueOptions{MaxAttempts: 1})
			_, err := pool.Exec(t.Context(), spoil, id)
			require.NoError(t, err)
			w, err := driver.NewWorker(pool, handle(newTally().handle), driver.WorkerConfig{Logger: logger(t)})
			require.NoError(t, err)
			ran, err := w.RunOne(t.Context())
			require.NoError(t, err)
			assert.Equal(t, id, ran.JobID)
			require.Error(t, ran.Err)
			assert.Equal(t, name != "nested too deep", errors.Is(ran.Err, driver.ErrUndecodable), ran.Err)
			assert.Equal(t, "failed", queryValue[string](t, pool, "select state from awa.job($1)", id))
			assert.Equal(t, int64(1), w.Stats()[0].Failed)
		})
	}
}

// The details of a failure, which other clients may give, do not keep a job from being read.
func TestJobWhoseErrorsCannotBeDecoded(t *testing.T) {
	pool := testdb.New(t)
	id := enqueue(t, pool, note{}, driver.EnqueueOptions{MaxAttempts: 1})
	job := claim(t, pool, 1)[0]
	_, err := pool.Exec(t.Context(), "select awa.fail($1, $2, 'boom')", job.JobID, job.Receipt)
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(),
		`update awa.done_entries set errors = jsonb_set(errors, '{0,details}', (repeat('[', 10001) || repeat(']', `+
			`10001))::jsonb)`)
	require.NoError(t, err)
	read, err := driver.NewClient(pool).Job(t.Context(), id)
	require.NoError(t, err)
	assert.Equal(t, "failed", read.State)
	require.Len(t, read.Errors, 1)
	assert.Contains(t, read.Errors[0].Error, "can't be decoded")
}

// damage writes over a page of a relation while the server is halted.
func damage(t *testing.T, databaseURL, relation string, page int) (halted func()) {
	t.Helper()
	conn := testdb.Connect(t, databaseURL)
	var path string
	require.NoError(t,
		conn.QueryRow(t.Context(),
			"select current_setting('data_directory') || '/' || pg_relation_filepath($1::text::regclass)", relation).Scan(&path))
	_, err := conn.Exec(t.Context(), "checkpoint") // what is replayed after a crash does not write the page again
	require.NoError(t, err)
	return func() {
		f, err := os.OpenFile(filepath.Clean(path), os.O_WRONLY, 0)
		require.NoError(t, err)
		defer f.Close()
		_, err = f.WriteAt([]byte(strings.Repeat("\xde\xad", 4096)), int64(page)*8192)
		require.NoError(t, err)
	}
}

// A job that the server can't read, because a page is damaged, is in the middle of a queue: those before it run, the
// log says what the server says, and the ways that the manual gives past it work.
func TestJobThatTheServerCannotRead(t *testing.T) {
	for name, c := range map[string]struct {
		relation string
		way      func(t *testing.T, pool *pgxpool.Pool)
	}{
		"body": {"(select reltoastrelid::regclass::text from pg_class where oid = 'awa.ready_entries_0'::regclass)",
			func(t *testing.T, pool *pgxpool.Pool) {
				var id, receipt int64
				require.NoError(t,
					pool.QueryRow(t.Context(), "select job_id, receipt from awa.claim('default', 1)").Scan(&id, &receipt))
				_, err := pool.Exec(t.Context(), "select awa.complete($1, $2)", id, receipt)
				require.NoError(t, err)
			}},
		"page": {"'awa.ready_entries_0'", func(t *testing.T, pool *pgxpool.Pool) {
			conn, err := pool.Acquire(t.Context())
			require.NoError(t, err)
			defer conn.Release()
			for _, sql := range []string{"set zero_damaged_pages = on", "vacuum full awa.ready_entries_0",
				"reset zero_damaged_pages"} {
				_, err := conn.Exec(t.Context(), sql)
				require.NoError(t, err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			server := ownServer(t, nil)
			setup := untapped(t, server.URL())
			var before, after []int64
			random := func(n int) string {
				return queryValue[string](t, setup, "select string_agg(md5(random()::text), '') from generate_series(1, $1)", n)
			}
			for range 3 {
				before = append(before, enqueue(t, setup, note{random(60)}, driver.EnqueueOptions{}))
			}
			var bad int64
			page := 0
			relation := queryValue[string](t, setup, "select "+c.relation)
			if name == "body" {
				bad = enqueue(t, setup, note{random(300)}, driver.EnqueueOptions{}) // the only one that is stored apart
			} else {
				for page == 0 { // until the next page begins
					bad = enqueue(t, setup, note{random(60)}, driver.EnqueueOptions{})
					page = queryValue[int](t, setup, "select (ctid::text::point)[0]::int from awa.ready_entries where job_id = $1",
						bad)
					if page == 0 {
						before = append(before, bad)
					}
				}
				for queryValue[int](t, setup, "select (ctid::text::point)[0]::int from awa.ready_entries where job_id = $1",
					enqueue(t, setup, note{random(60)}, driver.EnqueueOptions{})) == page {
				}
			}
			for range 3 {
				after = append(after, enqueue(t, setup, note{random(60)}, driver.EnqueueOptions{}))
			}
			corrupt := damage(t, server.URL(), relation, page)
			setup.Close()
			require.NoError(t, server.Halt())
			corrupt()
			require.NoError(t, server.Resume(t.Context()))

			pool := untapped(t, server.URL())
			ran := newTally()
			var log syncBuffer
			runWorker(t, pool, handle(ran.handle),
				driver.WorkerConfig{NoMaintenance: true, PollInterval: 20 * time.Millisecond,
					Logger: slog.New(slog.NewTextHandler(&log, nil))})
			for _, id := range before {
				waitFor(t, func() bool { return ran.of(id) == 1 }, "job %d, before the one that can't be read, is not run: %s", id,
					&log)
			}
			waitFor(t, func() bool { return strings.Contains(log.String(), "jobs of this queue can't be claimed") },
				"nothing is said")
			assert.Contains(t, log.String(), fmt.Sprintf("invalid page in block %d", page))
			for _, id := range after {
				assert.Zero(t, ran.of(id))
			}
			c.way(t, pool)
			for _, id := range after {
				waitFor(t, func() bool { return ran.of(id) == 1 }, "job %d, after the one that could not be read, is not run: %s",
					id, &log)
			}
			assert.Zero(t, ran.of(bad))
		})
	}
}

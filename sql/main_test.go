// Package sql_test does what needs more than one session: it forces each interleaving that the engine relies on, step
// by step, and then many of them at random. What one session can show is in pgtap/.
package sql_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/pgserver"
	"github.com/awa-pg/awa/internal/testdb"
)

func TestMain(m *testing.M) {
	if os.Getenv(podURL) != "" {
		if err := podMain(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	testdb.Main(m, func() error { return goleak.Find() })
}

// patience is how long a test waits for what should happen soon, on a machine that may be very busy.
const patience = 5 * time.Minute

// A session is one connection to the test's database. Its calls fail the test on any error that they do not return.
type session struct {
	*testing.T
	ctx context.Context
	db  *pgx.Conn
	pid uint32
}

// A database is a fresh installation.
type database struct {
	t   *testing.T
	url string
}

func newDatabase(t *testing.T) database { return database{t, testdb.URL(t)} }

func (d database) session() *session {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	d.t.Cleanup(cancel)
	db := testdb.Connect(d.t, d.url)
	return &session{T: d.t, ctx: ctx, db: db, pid: db.PgConn().PID()}
}

func (s *session) exec(sql string, args ...any) {
	s.Helper()
	require.NoError(s, s.try(sql, args...))
}

func (s *session) try(sql string, args ...any) error {
	_, err := s.db.Exec(s.ctx, sql, args...)
	return err
}

// background runs a statement that is expected to wait, and returns a function that waits for its end.
func (s *session) background(sql string, args ...any) func() error {
	done := make(chan error, 1)
	go func() { done <- s.try(sql, args...) }()
	return func() error {
		s.Helper()
		select {
		case err := <-done:
			return err
		case <-s.ctx.Done():
			require.Fail(s, "the statement did not end")
			return nil
		}
	}
}

// waitUntilBlocked returns when another session waits for a lock that is in this one's way.
func (s *session) waitUntilBlocked(other *session) {
	s.Helper()
	require.Eventually(s, func() bool {
		return one[bool](s, "select cardinality(pg_blocking_pids($1)) > 0", other.pid)
	}, patience, time.Millisecond, "session %d never waited for a lock", other.pid)
}

// waitUntilSleeping returns when another session sleeps between two tries.
func (s *session) waitUntilSleeping(other *session) {
	s.Helper()
	require.Eventually(s, func() bool {
		return one[bool](s, "select coalesce(wait_event, '') = 'PgSleep' from pg_stat_activity where pid = $1", other.pid)
	}, patience, time.Millisecond, "session %d never slept", other.pid)
}

// A server is one of the test's own: with roles, transaction ids and crashes of its own.
type server struct {
	*pgserver.Server
	t *testing.T
}

func newServer(t *testing.T) server {
	t.Helper()
	s, err := pgserver.Start(t.Context(), pgserver.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Stop()) })
	return server{s, t}
}

// database creates a database; an empty one, or one with an installation.
func (s server) database(name string, installed bool) database {
	s.t.Helper()
	admin := database{s.t, s.URL()}.session()
	admin.exec("create database " + name)
	u, err := url.Parse(s.URL())
	require.NoError(s.t, err)
	u.Path = "/" + name
	if installed {
		_, err = driver.Migrate(s.t.Context(), u.String())
		require.NoError(s.t, err)
	}
	return database{s.t, u.String()}
}

// looksAtOnce has claims take no look at a shard for one that took long: on a busy machine any look may.
func (s *session) looksAtOnce() {
	s.Helper()
	s.exec(changing("_shards_with_jobs", "s.ended - s.began > interval '10 milliseconds'",
		"s.ended - s.began > interval '1 hour'"))
}

// changing is a statement that replaces a piece of a function. It fails where the piece is not found, so that no test
// goes on with a function that it has not changed.
func changing(function, piece, by string) string {
	quoted := func(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
	return fmt.Sprintf(`
		do $do$
		declare
		  v_old constant text := pg_get_functiondef('awa.%s'::regproc);
		  v_new constant text := replace(v_old, %s, %s);
		begin
		  if v_new = v_old then
		    raise 'awa.%[1]s does not hold this piece';
		  end if;
		  execute v_new;
		end $do$`, function, quoted(piece), quoted(by))
}

func one[T any](s *session, sql string, args ...any) (v T) {
	s.Helper()
	require.NoError(s, s.db.QueryRow(s.ctx, sql, args...).Scan(&v))
	return v
}

func list[T any](s *session, sql string, args ...any) []T {
	s.Helper()
	rows, err := s.db.Query(s.ctx, sql, args...)
	require.NoError(s, err)
	values, err := pgx.CollectRows(rows, pgx.RowTo[T])
	require.NoError(s, err)
	return values
}

func (s *session) enqueue(queue string) int64 {
	s.Helper()
	return one[int64](s, "select awa.enqueue($1, 'k')", queue)
}

func (s *session) enqueueMany(queue string, jobs int) []int64 {
	s.Helper()
	return list[int64](s, "select awa.enqueue_many($1, 'k', array_fill('{}'::jsonb, array[$2::int]))", queue, jobs)
}

type claimed struct{ JobID, Receipt int64 }

func (s *session) claim(queue string, max int) []claimed {
	s.Helper()
	rows, err := s.db.Query(s.ctx, "select job_id, receipt from awa.claim($1, $2)", queue, max)
	require.NoError(s, err)
	jobs, err := pgx.CollectRows(rows, pgx.RowToStructByPos[claimed])
	require.NoError(s, err)
	return jobs
}

func (s *session) completeMany(jobs []claimed) []int64 {
	s.Helper()
	return list[int64](s, "select awa.complete_many($1, $2)", ids(jobs), receipts(jobs))
}

func (s *session) state(job int64) string {
	s.Helper()
	return one[string](s, "select state from awa.job($1)", job)
}

func ids(jobs []claimed) (ids []int64) {
	for _, j := range jobs {
		ids = append(ids, j.JobID)
	}
	return ids
}

func receipts(jobs []claimed) (receipts []int64) {
	for _, j := range jobs {
		receipts = append(receipts, j.Receipt)
	}
	return receipts
}

func sqlState(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return fmt.Sprint(err)
}

package docs_test

import (
	"context"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/testdb"
)

// The programs of docs/python.md do what it says, run as a reader would.
func TestPython(t *testing.T) {
	databaseURL := testdb.URL(t)
	pool, err := pgxpool.New(t.Context(), databaseURL)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	dir, env, python := t.TempDir(), []string{"DATABASE_URL=" + databaseURL}, pythonWithPsycopg(t)
	for _, b := range blocks(t, "docs/python.md") {
		if b.language == "python" {
			write(t, dir, fileName(t, b.text), b.text)
		}
	}
	state := func(ctx context.Context, jobID int64) (state, errors string) {
		row := pool.QueryRow(ctx, "select state, coalesce(errors::text, '') from awa.job($1)", jobID)
		require.NoError(t, row.Scan(&state, &errors))
		return state, errors
	}
	enqueue := func(args string, jobs int) (lastID int64) {
		row := pool.QueryRow(t.Context(), `
			select max(awa.enqueue('email', 'confirm_order', $1)) from generate_series(1, $2)`, args, jobs)
		require.NoError(t, row.Scan(&lastID))
		return lastID
	}
	completed := func(jobs int64) func(context.Context) bool {
		return func(ctx context.Context) bool {
			var n int64
			require.NoError(t, pool.QueryRow(ctx, "select completed from awa.queue_counts('email')").Scan(&n))
			return n == jobs
		}
	}

	require.Equal(t, "1\n", run(t, dir, env, python, "order.py"))
	require.Equal(t, "1000\n", run(t, dir, env, python, "newsletter.py"))
	bad := enqueue("{}", 1)
	long := enqueue(`{"order": 1, "seconds": 86400}`, 1)

	worker := start(t, dir, env, python, "worker.py")
	eventually(t, "all jobs are completed", completed(1001))
	eventually(t, "a handler that raises fails the attempt", func(ctx context.Context) bool {
		s, errors := state(ctx, bad)
		return s == "retryable" && strings.Contains(errors, "no order in the arguments")
	})

	eventually(t, "the long job runs", func(ctx context.Context) bool { s, _ := state(ctx, long); return s == "running" })
	_, err = pool.Exec(t.Context(), "select awa.cancel($1)", long)
	require.NoError(t, err)
	eventually(t, "the handler of a cancelled job is told", func(context.Context) bool {
		return strings.Contains(worker.output.String(), "was cancelled, or given to another worker")
	})

	_, err = pool.Exec(t.Context(), `
		create function refuse() returns trigger language plpgsql as $$ begin raise 'not here'; end $$;
		create trigger refuse before insert on awa.deferred_jobs for each row
			when (new.errors::text like '%no order%') execute function refuse()`)
	require.NoError(t, err)
	enqueue("{}", 1)
	enqueue(`{"order": 2}`, 100)
	eventually(t, "the other jobs are completed though an answer is refused", completed(1101))
	eventually(t, "the log says so", func(context.Context) bool {
		return strings.Contains(worker.output.String(), "its answer was refused: not here")
	})

	_, err = pool.Exec(t.Context(), `
		select pg_terminate_backend(pid) from pg_stat_activity
		 where datname = current_database() and pid <> pg_backend_pid()`)
	if err != nil { // a connection of this pool was among them
		require.NoError(t, pool.Ping(t.Context()))
	}
	pool.Reset()
	enqueue(`{"order": 3}`, 200)
	eventually(t, "jobs are completed after all connections were lost", completed(1301))

	require.NoError(t, worker.cmd.Process.Signal(syscall.SIGTERM))
	worker.wait(t)
	var workers int
	require.NoError(t, pool.QueryRow(t.Context(), "select count(*) from awa.workers").Scan(&workers))
	assert.Zero(t, workers, "it has deregistered")

	last := enqueue(`{"order": 4}`, 1)
	assert.Empty(t, run(t, dir, env, python, "once.py"))
	s, _ := state(t.Context(), last)
	assert.Equal(t, "completed", s)
}

// The first Python that has psycopg: the one of the user, or the one of the
// system, for which scripts/setup.sh installs it.
func pythonWithPsycopg(t *testing.T) string {
	for _, python := range []string{"python3", "/usr/bin/python3"} {
		if exec.Command(python, "-c", "import psycopg").Run() == nil {
			return python
		}
	}
	require.FailNow(t, "no python3 has psycopg: see scripts/setup.sh")
	return ""
}

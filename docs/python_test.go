package docs_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/testdb"
)

// The programs of docs/python.md do what it says, run as a reader would.
func TestPython(t *testing.T) {
	p := pythonPrograms(t)
	require.Equal(t, "1\n", p.run("order.py"))
	require.Equal(t, "1000\n", p.run("newsletter.py"))
	bad := p.enqueue("{}", 1)
	long := p.enqueue(`{"order": 1, "seconds": 86400}`, 1)
	var unknown int64
	require.NoError(t, p.pool.QueryRow(t.Context(), "select awa.enqueue('email', 'newer')").Scan(&unknown))

	worker := p.start("worker.py")
	p.eventuallyCompleted("all jobs are completed", 1001)
	p.eventuallyState("a handler that raises fails the attempt", bad, "retryable", "no order in the arguments")

	p.eventuallyState("a job of an unknown kind is put off", unknown, "scheduled", "no handler for kind newer")

	p.eventuallyState("the long job runs", long, "running", "")
	p.exec("select awa.cancel($1)", long)
	eventuallyPrinted(t, worker, "the handler of a cancelled job is told", cancelled(long))

	_, err := p.pool.Exec(t.Context(), `
		select pg_terminate_backend(pid) from pg_stat_activity
		 where datname = current_database() and pid <> pg_backend_pid()`)
	if err != nil { // a connection of this pool was among them
		require.NoError(t, p.pool.Ping(t.Context()))
	}
	p.pool.Reset()
	p.enqueue(`{"order": 3}`, 200)
	p.eventuallyCompleted("jobs are completed after all connections were lost", 1201)
	p.exec("select awa.enqueue('email', 'newsletter', run_at => now() + interval '1 second')")
	p.eventuallyCompleted("a scheduled job is completed, as maintenance is performed", 1202)

	require.NoError(t, worker.cmd.Process.Signal(syscall.SIGTERM))
	worker.wait(t)
	var workers int
	require.NoError(t, p.pool.QueryRow(t.Context(), "select count(*) from awa.workers").Scan(&workers))
	assert.Zero(t, workers, "it has deregistered")

	last := p.enqueue(`{"order": 4}`, 1)
	assert.Empty(t, p.run("once.py"))
	state, _ := p.state(t.Context(), last)
	assert.Equal(t, "completed", state)
}

// A Python worker that listens begins jobs at once, and not when it looks again.
func TestPythonWorkerThatListens(t *testing.T) {
	p := pythonPrograms(t)
	text, err := os.ReadFile(filepath.Join(p.dir, "awa_worker.py"))
	require.NoError(t, err)
	deaf := strings.Replace(string(text), "else min(2 * pause, 1)", "else 86400", 1) // it looks again tomorrow
	require.NotEqual(t, string(text), deaf)
	write(t, p.dir, "awa_worker.py", deaf)
	p.start("listening_worker.py")
	eventually(t, "it listens", func(ctx context.Context) (listens bool) {
		row := p.pool.QueryRow(ctx, "select exists (select from pg_stat_activity where query ~ '^listen awa_wake_')")
		require.NoError(t, row.Scan(&listens))
		return listens
	})
	for jobs := range int64(10) {
		p.exec("select awa.enqueue('email', 'newsletter')")
		p.eventuallyCompleted("a job is completed, of which it was notified", jobs+1)
	}
}

// A Python worker that another session has ended exits, so that none of its handlers runs beside a second run.
func TestPythonWorkerThatWasEnded(t *testing.T) {
	p := pythonPrograms(t)
	worker := p.start("worker.py")
	job := p.enqueue(`{"order": 1, "seconds": 86400}`, 1)
	p.eventuallyState("the job runs", job, "running", "")
	p.exec("select awa.deregister_worker(worker_id) from awa.workers")
	worker.waitForItsEnd(t)
	require.ErrorContains(t, worker.err, "exit status 1")
	p.start("worker.py")
	p.eventuallyState("another one runs it", job, "running", "")
}

// A heartbeat of the Python worker tells a handler that its attempt is lost, also where the answer is just being
// removed by the other thread.
func TestPythonHeartbeatBesideAnAnswer(t *testing.T) {
	p := pythonPrograms(t)
	write(t, p.dir, "race.py", `
import threading, time
from awa_worker import Worker


class Running(dict):  # the other thread removes an attempt right after each look at it
    def __contains__(self, receipt):
        return self.pop(receipt, None) is not None

    def get(self, receipt):
        return self.pop(receipt, None)


class Connection:
    def execute(self, *_):
        return self

    def fetchall(self):
        return [(7,), (7,)]


def sleep(_):
    print("the handler was told:", lost.is_set())
    raise SystemExit


lost, time.sleep = threading.Event(), sleep
worker = Worker("email", {})
worker.id, worker.running = 1, Running({7: (1, lost)})
worker.heartbeat(Connection())
`)
	assert.Equal(t, "the handler was told: True\n", p.run("race.py"))
}

// A Python worker one of whose threads fails exits: without heartbeats its jobs would run twice.
func TestPythonWorkerWhoseThreadFails(t *testing.T) {
	p := pythonPrograms(t)
	for _, step := range []string{"heartbeat", "maintain"} {
		write(t, p.dir, step+".py", `
import awa_worker


def fail(self, conn):
    raise KeyError("on purpose")


awa_worker.Worker.`+step+` = fail
awa_worker.Worker("email", {}).run()
`)
		worker := p.start(step + ".py")
		worker.waitForItsEnd(t)
		require.ErrorContains(t, worker.err, "exit status 1")
		require.Contains(t, worker.output.String(), "on purpose")
	}
}

// In the Python worker, one job that can't be decoded, or answered for, holds up no other, and its attempt counts.
func TestPythonWorkerGoesPastOneJob(t *testing.T) {
	p := pythonPrograms(t)

	// Python reads no number of more than 4,300 digits. All of these jobs are in one claim.
	p.exec(`
		select awa.enqueue('email', 'newsletter'), awa.enqueue('email', 'newsletter', '{"n": 1e5000}'),
		       awa.enqueue('email', 'newsletter', metadata => '{"n": 1e5000}'),
		       awa.enqueue('email', 'newsletter', (repeat('[', 500) || repeat(']', 500))::jsonb)`)
	worker := p.start("worker.py")
	for _, job := range []int64{2, 3} {
		p.eventuallyState("an attempt fails whose job can't be decoded", job, "retryable", "4300 digits")
	}
	p.eventuallyCompleted("the jobs that were claimed with it are completed", 2)

	p.exec(`select awa.configure('{"claim_wait": "1 hour"}')`) // an answer waits no longer than the worker's lock_timeout
	held, tx := p.cancelWhileItRuns()
	onlyHeldIsOpen := func(ctx context.Context) bool {
		var open int64
		row := p.pool.QueryRow(ctx, "select available + running from awa.queue_counts('email')")
		require.NoError(t, row.Scan(&open))
		return open == 1
	}
	eventually(t, "those are completed that ran with a job that an open transaction cancels", onlyHeldIsOpen)
	again := fmt.Sprintf("job %d: its answer is sent again", held)
	eventuallyPrinted(t, worker, "the log says why its answer waits", again)
	p.enqueue(`{"order": 1}`, 100)
	eventually(t, "those are completed that come later", onlyHeldIsOpen)
	require.NotContains(t, worker.output.String(), cancelled(held))
	require.NoError(t, tx.Commit(t.Context()))
	eventuallyPrinted(t, worker, "the answer is sent until the transaction ends", cancelled(held))
	assert.Equal(t, 1, strings.Count(worker.output.String(), again), "and the log says so once")

	p.exec("create table refused (job_id bigint); grant select on refused to public")
	p.exec(`
		create function refuse() returns trigger language plpgsql as $$ begin
		  if new.outcome = 'completed' and exists (
		    select from awa.lease_claims c, unnest(coalesce(new.items, array[new.item])) item, public.refused r
		     where c.claim_id = new.claim_id and c.job_ids[item + 1] = r.job_id
		  ) then
		    raise 'not this one';
		  end if;
		  return new;
		end $$;
		create trigger refuse before insert on awa.lease_claim_closures for each row execute function refuse()`)
	before := p.completed(t.Context())
	p.exec(`
		with jobs as (select awa.enqueue_many('email', 'newsletter', array_fill('{}'::jsonb, '{11}')) as id)
		insert into refused select min(id) from jobs`)
	var refused int64
	require.NoError(t, p.pool.QueryRow(t.Context(), "select job_id from refused").Scan(&refused))
	p.eventuallyState("the attempt fails whose completion is refused", refused, "retryable", "refused: not this one")
	p.eventuallyCompleted("the jobs that were answered for with it are completed", before+10)

	p.exec(`
		create function refuse_failure() returns trigger language plpgsql as $$ begin raise 'not here'; end $$;
		create trigger refuse before insert on awa.deferred_jobs for each row
			when (new.errors::text like '%no order%') execute function refuse_failure()`)
	putOff := p.enqueue("{}", 1)
	p.enqueue(`{"order": 2}`, 100)
	p.eventuallyState("a job is put off whose failure is refused", putOff, "scheduled", `"put_off": true`)
	eventuallyPrinted(t, worker, "the log says so", fmt.Sprintf("job %d: the answer was refused: not here", putOff))
	p.eventuallyCompleted("the other jobs are completed", before+110)
}

// Behind a pooler of transactions the worker works, and leaves nothing in the sessions that others use, too.
func TestPythonWorkerBehindAPooler(t *testing.T) {
	const sessions = 3
	p := pythonPrograms(t)
	databaseURL := strings.TrimPrefix(p.env[0], "DATABASE_URL=")
	url := testdb.StartBouncer(t, databaseURL, sessions).URL(databaseURL, pgx.QueryExecModeSimpleProtocol)
	p.env = []string{"DATABASE_URL=" + strings.Replace(url, "default_query_exec_mode=simple_protocol&", "", 1)}
	worker := p.start("worker.py")
	p.enqueue(`{"order": 1}`, 100)
	p.eventuallyCompleted("jobs are completed", 100)
	p.enqueue(`{"order": 2}`, 100) // there are none before: it polls
	p.eventuallyCompleted("those that come later are, too", 200)
	bad := p.enqueue("{}", 1)
	p.eventuallyState("a handler that raises fails the attempt", bad, "retryable", "no order in the arguments")
	require.NoError(t, worker.cmd.Process.Signal(syscall.SIGTERM))
	worker.wait(t)
	assert.NotContains(t, worker.output.String(), "prepared statement")
	for range sessions {
		conn, err := pgx.Connect(t.Context(), url)
		require.NoError(t, err)
		t.Cleanup(func() { conn.Close(context.Background()) })
		tx, err := conn.Begin(t.Context()) // keeps its session until the test ends
		require.NoError(t, err)
		var left string
		require.NoError(t, tx.QueryRow(t.Context(), `
			select concat_ws(' ', current_setting('lock_timeout'), array(select pg_listening_channels()),
			         (select count(*) from pg_prepared_statements))`).Scan(&left))
		assert.Equal(t, "0 {} 0", left)
	}
}

// python is a directory with the programs of docs/python.md, and a database for them.
type python struct {
	t      *testing.T
	pool   *pgxpool.Pool
	dir    string
	env    []string
	binary string
}

func pythonPrograms(t *testing.T) *python {
	databaseURL := testdb.URL(t)
	pool, err := pgxpool.New(t.Context(), databaseURL)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	p := &python{t, pool, t.TempDir(), []string{"DATABASE_URL=" + databaseURL}, pythonWithPsycopg(t)}
	for _, b := range blocks(t, "docs/python.md") {
		if b.language == "python" {
			write(t, p.dir, fileName(t, b.text), b.text)
		}
	}
	return p
}

func (p *python) start(name string) *program      { return start(p.t, p.dir, p.env, p.binary, name) }
func (p *python) run(name string) (output string) { return run(p.t, p.dir, p.env, p.binary, name) }

func (p *python) exec(sql string, args ...any) {
	p.t.Helper()
	_, err := p.pool.Exec(p.t.Context(), sql, args...)
	require.NoError(p.t, err)
}

// enqueue enqueues jobs in one transaction.
func (p *python) enqueue(args string, jobs int) (lastID int64) {
	row := p.pool.QueryRow(p.t.Context(), `
		select max(awa.enqueue('email', 'confirm_order', $1)) from generate_series(1, $2)`, args, jobs)
	require.NoError(p.t, row.Scan(&lastID))
	return lastID
}

func (p *python) state(ctx context.Context, jobID int64) (state, errors string) {
	row := p.pool.QueryRow(ctx, "select state, coalesce(errors::text, '') from awa.job($1)", jobID)
	require.NoError(p.t, row.Scan(&state, &errors))
	return state, errors
}

func (p *python) completed(ctx context.Context) (jobs int64) {
	require.NoError(p.t, p.pool.QueryRow(ctx, "select completed from awa.queue_counts('email')").Scan(&jobs))
	return jobs
}

func (p *python) eventuallyCompleted(what string, jobs int64) {
	p.t.Helper()
	eventually(p.t, what, func(ctx context.Context) bool { return p.completed(ctx) == jobs })
}

func (p *python) eventuallyState(what string, jobID int64, state, errors string) {
	p.t.Helper()
	eventually(p.t, what, func(ctx context.Context) bool {
		s, e := p.state(ctx, jobID)
		return s == state && strings.Contains(e, errors)
	})
}

// cancelWhileItRuns cancels one of ten jobs that run, in a transaction that stays open. Their handlers end meanwhile.
func (p *python) cancelWhileItRuns() (jobID int64, tx pgx.Tx) {
	for seconds := 2; ; seconds *= 2 { // longer where the handler has ended before the cancel
		jobID = p.enqueue(fmt.Sprintf(`{"order": 1, "seconds": %d}`, seconds), 10) - 9
		eventually(p.t, "the job has begun", func(ctx context.Context) bool {
			state, _ := p.state(ctx, jobID)
			return state != "available"
		})
		tx, err := p.pool.Begin(p.t.Context())
		require.NoError(p.t, err)
		if _, err = tx.Exec(p.t.Context(), "select awa.cancel($1)", jobID); err == nil {
			p.t.Cleanup(func() { tx.Rollback(context.Background()) }) // before the pool is closed
			return jobID, tx
		}
		require.NoError(p.t, tx.Rollback(p.t.Context()))
	}
}

func eventuallyPrinted(t *testing.T, p *program, what, text string) {
	t.Helper()
	eventually(t, what, func(context.Context) bool { return strings.Contains(p.output.String(), text) })
}

// cancelled is what the worker prints of a cancelled job when its handler has ended.
func cancelled(jobID int64) string {
	return fmt.Sprintf("job %d was cancelled, given to another worker, or answered before", jobID)
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

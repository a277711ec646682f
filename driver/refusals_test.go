package driver_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/testdb"
)

func execute(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	_, err := pool.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
}

// refuse has the server refuse rows of a table, for as long as the trigger that it makes is there.
func refuse(t *testing.T, pool *pgxpool.Pool, table, when, code string) {
	t.Helper()
	execute(t, pool, fmt.Sprintf(`
		create or replace function public.refuse() returns trigger language plpgsql as $$ begin
		  if %s then raise exception using errcode = '%s', message = 'not this one'; end if;
		  return new;
		end $$;
		create trigger refuse before insert on %s for each row execute function public.refuse()`, when, code, table))
}

// together runs a worker on jobs whose handlers return at the same time, all but those that come when the others have.
func together(t *testing.T, pool *pgxpool.Pool, texts []string, maxAttempts int, cfg driver.WorkerConfig,
	verdict func(*driver.Job[note]) error) (ids []int64) {
	t.Helper()
	for _, text := range texts {
		ids = append(ids, enqueue(t, pool, note{text}, driver.EnqueueOptions{MaxAttempts: maxAttempts}))
	}
	var all sync.WaitGroup
	all.Add(len(texts))
	var first sync.Map
	for _, id := range ids {
		first.Store(id, true)
	}
	cfg.NoMaintenance = true
	runWorker(t, pool, handle(func(_ context.Context, job *driver.Job[note]) error {
		if _, is := first.LoadAndDelete(job.ID); is {
			all.Done()
			all.Wait()
		}
		return verdict(job)
	}), cfg)
	return ids
}

// waitForStateBesideOthers is waitForState for a job whose answer is refused: others of its kind pass, also when it
// came as the last of its batch.
func waitForStateBesideOthers(t *testing.T, pool *pgxpool.Pool, id int64, state string) (job driver.JobInfo) {
	t.Helper()
	waitFor(t, func() bool {
		enqueue(t, pool, note{"another one"}, driver.EnqueueOptions{})
		var err error
		job, err = driver.NewClient(pool).Job(t.Context(), id)
		require.NoError(t, err)
		return job.State == state
	}, "job %d is not %s", id, state)
	return job
}

func withOutput(job *driver.Job[note]) error {
	job.SetOutput(job.Args.Text)
	return nil
}

// texts returns so many texts, with a few others among them.
func texts(n int, others ...string) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprint("text ", i))
		if i < len(others) {
			all = append(all, others[i])
		}
	}
	return all
}

// Whatever the server refuses one answer with, the others of its batch are taken, and that one fails its attempt,
// counted.
func TestAnswerThatIsRefusedThoughOthersPass(t *testing.T) {
	for _, code := range []string{"P0001", "23514", "42501", "XX001", "53100", "57014", "25006", "08001", "57P01", "58030",
		"40001", "40P01", "55000", "55P03"} {
		t.Run(code, func(t *testing.T) {
			driver.SetRefusalPatience(t, time.Hour)
			switch code[:2] {
			case "40", "55", // others may be in the way, for a while
				"53", "57", "58", "08": // the server may be able to do it soon
				driver.SetRefusalPatience(t, 0)
			}
			pool := testdb.New(t)
			refuse(t, pool, "awa.done_entries", "new.state = 'completed' and new.args->>'text' like 'bad%'", code)
			all := texts(60, "bad 1", "bad 2")
			for i, id := range together(t, pool, all, 1, driver.WorkerConfig{}, withOutput) {
				if !strings.HasPrefix(all[i], "bad") {
					assert.Empty(t, waitForState(t, pool, id, "completed").Errors)
					continue
				}
				job := waitForStateBesideOthers(t, pool, id, "failed")
				require.Len(t, job.Errors, 1)
				assert.Contains(t, job.Errors[0].Error, "the completion was refused: not this one (SQLSTATE "+code+")")
			}
		})
	}
}

// When all answers are refused the trouble is the server's: they are kept, and none fails.
func TestAnswersThatAreAllRefusedForAWhile(t *testing.T) {
	for _, code := range []string{"P0001", "42501", "53100", "25006", "08001", "40001"} {
		t.Run(code, func(t *testing.T) {
			driver.SetRefusalPatience(t, time.Hour)
			pool := testdb.New(t)
			refuse(t, pool, "awa.lease_claim_closures", "true", code)
			var log syncBuffer
			ids := together(t, pool, texts(60), 1, driver.WorkerConfig{Logger: slog.New(slog.NewTextHandler(&log, nil))},
				withOutput)
			waitFor(t, func() bool { return strings.Contains(log.String(), "answers can't be sent") }, "nothing is refused")
			execute(t, pool, "drop trigger refuse on awa.lease_claim_closures")
			for _, id := range ids {
				job := waitForState(t, pool, id, "completed")
				assert.Empty(t, job.Errors)
				assert.Equal(t, 1, job.Attempt)
			}
			waitFor(t, func() bool { return strings.Contains(log.String(), "no longer: answers can't be sent") },
				"the end of it is not logged")
		})
	}
}

// When all answers of one kind are refused for long, for a reason that does not pass by itself, the attempts fail, as
// far as the server takes that.
func TestAnswersOfOneKindThatAreRefused(t *testing.T) {
	driver.SetRefusalPatience(t, 10*time.Millisecond)
	for name, c := range map[string]struct {
		function string
		verdict  func(*driver.Job[note]) error
		text     string
	}{
		"completions": {"complete_many(job_ids bigint[], receipts bigint[], outputs jsonb[] default null) returns setof " +
			"bigint", withOutput, "the completion was refused: not today"},
		"discards": {"discard(job_id bigint, receipt bigint, error text, details jsonb default null) returns text",
			func(*driver.Job[note]) error { return driver.Discard(errors.New("no")) }, "the discard was refused: not today"},
		"snoozes": {"snooze(job_id bigint, receipt bigint, delay interval, hold_group boolean default false) " +
			"returns void",
			func(*driver.Job[note]) error { return driver.Snooze(time.Hour) }, "the snooze was refused: not today"},
	} {
		t.Run(name, func(t *testing.T) {
			pool := testdb.New(t)
			execute(t, pool, "create or replace function awa."+c.function+
				" language plpgsql as $$ begin raise exception using errcode = '42501', message = 'not today'; end $$")
			for _, id := range together(t, pool, texts(30), 1, driver.WorkerConfig{}, c.verdict) {
				job := waitForState(t, pool, id, "failed")
				require.Len(t, job.Errors, 1)
				assert.Contains(t, job.Errors[0].Error, c.text)
			}
		})
	}
}

// In a trouble of all answers each has the same patience, however long that has lasted; and the next attempt comes late
// enough not to meet the same trouble.
func TestAnswersThatComeLateInATrouble(t *testing.T) {
	const patience = time.Second
	driver.SetRefusalPatience(t, patience)
	pool := testdb.New(t)
	execute(t, pool,
		"create or replace function awa.complete_many(job_ids bigint[], receipts bigint[], outputs jsonb[] default null) "+
			"returns setof bigint language plpgsql as $$ begin raise exception using errcode = '42501', message = 'not today'; "+
			"end $$")
	ended := make(chan time.Time, 1)
	runWorker(t, pool, handle(func(_ context.Context, job *driver.Job[note]) error {
		job.SetOutput("done")
		ended <- time.Now()
		return nil
	}), driver.WorkerConfig{NoMaintenance: true})
	for range 3 { // all but the first come when others were given up
		id := enqueue(t, pool, note{}, driver.EnqueueOptions{MaxAttempts: 4})
		before := receive(t, ended)
		job := waitForState(t, pool, id, "retryable")
		require.Len(t, job.Errors, 1)
		assert.Contains(t, job.Errors[0].Error, "the completion was refused: not today")
		assert.GreaterOrEqual(t, job.Errors[0].At.Sub(before), patience)
		assert.GreaterOrEqual(t, job.RunAt.Sub(before), time.Minute)
	}
}

// A failure whose text is refused is stored without it.
func TestTextOfAFailureThatIsRefused(t *testing.T) {
	driver.SetRefusalPatience(t, 10*time.Millisecond)
	pool := testdb.New(t)
	refuse(t, pool, "awa.done_entries", "new.errors::text like '%boom%'", "P0001")
	all := texts(30, "bad")
	for i, id := range together(t, pool, all, 1, driver.WorkerConfig{}, func(job *driver.Job[note]) error {
		if job.Args.Text == "bad" {
			return errors.New("boom")
		}
		return errors.New("no")
	}) {
		job := waitForState(t, pool, id, "failed")
		require.Len(t, job.Errors, 1)
		assert.Equal(t,
			map[bool]string{false: "no",
				true: "the attempt failed, but the server refused to store why (SQLSTATE P0001)"}[all[i] == "bad"],
			job.Errors[0].Error)
	}
}

// A job whose last failure is refused is put off for longer and longer, and health names it with what the server says;
// others end.
func TestLastFailureThatIsRefused(t *testing.T) {
	driver.SetRefusalPatience(t, 10*time.Millisecond)
	for _, code := range []string{"P0001", "23514"} {
		t.Run(code, func(t *testing.T) {
			pool := testdb.New(t)
			refuse(t, pool, "awa.done_entries", "new.args->>'text' = 'bad'", code)
			var log syncBuffer
			all := texts(5, "bad")
			var bad int64
			for i, id := range together(t, pool, all, 2, driver.WorkerConfig{Logger: slog.New(slog.NewTextHandler(&log, nil))},
				func(job *driver.Job[note]) error {
					return driver.RetryAfter(0, errors.New("boom"))
				}) {
				if all[i] == "bad" {
					bad = id
				}
			}
			run := func(delay time.Duration, errors int) {
				t.Helper()
				waitFor(t, func() bool { // the server reads the clock more than once
					return queryValue[bool](t, pool,
						"select coalesce((select state = 'scheduled' and jsonb_array_length(errors) = $2 from awa.deferred_jobs where "+
							"job_id = $1), false)", bad, errors)
				}, "job %d is not put off: %s", bad, &log)
				assert.InDelta(t, delay.Seconds(), queryValue[float64](t, pool, `
					select extract(epoch from run_at - (errors -> -1 ->> 'at')::timestamptz)::float8 from awa.deferred_jobs
					where job_id = $1`, bad), 5)
				execute(t, pool, "select awa.retry($1)", bad)
			}
			waitFor(t, func() bool {
				execute(t, pool, "select awa.promote_due()")
				return queryValue[int64](t, pool, "select failed from awa.queue_counts('default')") == 5
			}, "the others have not failed")
			waitFor(t, func() bool {
				return queryValue[bool](t, pool, "select exists (select from awa.health() where topic = 'refusals')")
			}, "health does not say it")
			assert.Equal(t, "default",
				queryValue[string](t, pool, "select subject from awa.health() where topic = 'refusals' and level = 'warning'"))
			assert.Contains(t, queryValue[string](t, pool, "select message from awa.health() where topic = 'refusals'"),
				fmt.Sprintf("put off, because the server refuses to store how they failed, or to make them ready: 1; the last "+
					"one is job %d, in attempt 2 of 2: the failure was refused: not this one (SQLSTATE %s); it was: ", bad, code))
			run(time.Minute, 2)
			run(2*time.Minute, 3)
			run(4*time.Minute, 4)
			assert.Contains(t, log.String(), "a failure was refused, so the job is put off")
			execute(t, pool, "drop trigger refuse on awa.done_entries")
			waitFor(t, func() bool {
				execute(t, pool, "select awa.retry(job_id) from awa.deferred_jobs")
				return queryValue[string](t, pool, "select state from awa.job($1)", bad) == "failed"
			}, "it has not failed")
			assert.Zero(t, queryValue[int](t, pool, "select count(*) from awa.health() where topic = 'refusals'"))
		})
	}
}

// When nothing is taken that would have a job run again, it ends all the same, counted, with an error that says why;
// others run again, and it may be retried.
func TestNothingIsTakenButADiscard(t *testing.T) {
	driver.SetRefusalPatience(t, 10*time.Millisecond)
	for _, code := range []string{"P0001", "25006", "53100"} {
		t.Run(code, func(t *testing.T) {
			pool := testdb.New(t)
			refuse(t, pool, "awa.deferred_jobs", "new.args->>'text' = 'bad'", code)
			all := texts(5, "bad")
			var bad int64
			for i, id := range together(t, pool, all, 5, driver.WorkerConfig{},
				func(*driver.Job[note]) error { return errors.New("boom") }) {
				if all[i] == "bad" {
					bad = id
					continue
				}
				waitForState(t, pool, id, "retryable")
			}
			job := waitForStateBesideOthers(t, pool, bad, "failed")
			require.Len(t, job.Errors, 1)
			assert.Regexp(t,
				`^the job was discarded, since the server refuses all that would have it run again: not this one \(SQLSTATE `+code+
					`\); the failure was: boom$`, job.Errors[0].Error)
			assert.Equal(t, 1, job.Attempt)
			execute(t, pool, "drop trigger refuse on awa.deferred_jobs")
			execute(t, pool, "select awa.retry($1)", bad)
			assert.Len(t, waitForState(t, pool, bad, "retryable").Errors, 2)
		})
	}
}

// A single answer that is refused with a code that is most often over soon, though the connection goes on, is given up
// when there is no other one to compare it with, too.
func TestSingleAnswerThatIsRefusedForAWhile(t *testing.T) {
	driver.SetRefusalPatience(t, 10*time.Millisecond)
	for _, code := range []string{"25006", "08001", "58030"} {
		t.Run(code, func(t *testing.T) {
			pool := testdb.New(t)
			refuse(t, pool, "awa.done_entries", "new.state = 'completed'", code)
			id := together(t, pool, []string{"bad"}, 1, driver.WorkerConfig{}, withOutput)[0]
			assert.Contains(t, waitForState(t, pool, id, "failed").Errors[0].Error,
				"the completion was refused: not this one (SQLSTATE "+code+")")
		})
	}
}

// A single answer that the server can't take, for a reason that is most often over soon, is given up when there is no
// other one to compare it with, too.
func TestSingleAnswerThatTakesTooMuch(t *testing.T) {
	driver.SetRefusalPatience(t, 10*time.Millisecond)
	for name, c := range map[string]struct{ body, text string }{
		"statement_timeout": {"raise exception using errcode = '57014', message = 'canceling statement due to statement " +
			"timeout'", "canceling statement due to statement timeout"},
		"memory":  {"raise exception using errcode = '53200', message = 'out of memory'", "out of memory"},
		"silence": {"perform pg_sleep(3600)", "timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			driver.SetCallTimeouts(t, 4*time.Second, 4*time.Second)
			pool := testdb.New(t)
			execute(t, pool, `
				create function public.tarry() returns trigger language plpgsql as $$ begin `+c.body+`; return new; end $$;
				create trigger tarry before insert on awa.done_entries for each row when (new.state = 'completed')
				execute function public.tarry()`)
			id := together(t, pool, []string{"bad"}, 1, driver.WorkerConfig{}, withOutput)[0]
			job := waitForState(t, pool, id, "failed")
			require.Len(t, job.Errors, 1)
			assert.Contains(t, job.Errors[0].Error, "the completion was refused: "+c.text)
		})
	}
}

// Answers that can't pass together, because that takes too long or too much memory, pass in smaller parcels.
func TestAnswersThatAreTooMuchTogether(t *testing.T) {
	for name, tooMuch := range map[string]string{
		"statement_timeout": "raise exception using errcode = '57014', message = 'canceling statement due to statement " +
			"timeout'",
		"memory":  "raise exception using errcode = '53200', message = 'out of memory'",
		"silence": "perform pg_sleep(3600)",
	} {
		t.Run(name, func(t *testing.T) {
			driver.SetCallTimeouts(t, 4*time.Second, 4*time.Second)
			driver.SetRefusalPatience(t, time.Hour)
			pool := testdb.New(t)
			execute(t, pool, `
				create function public.measure() returns trigger language plpgsql as $$ begin
				  if (select sum(length(n.output::text)) from new_rows n) > 50000 then `+tooMuch+`; end if;
				  return null;
				end $$;
				create trigger measure after insert on awa.done_entries referencing new table as new_rows for each statement
				execute function public.measure()`)
			for _, id := range together(t, pool, texts(60), 1, driver.WorkerConfig{}, func(job *driver.Job[note]) error {
				job.SetOutput(strings.Repeat("x", 20_000))
				return nil
			}) {
				job := waitForState(t, pool, id, "completed")
				assert.Empty(t, job.Errors)
				assert.Equal(t, 1, job.Attempt)
			}
		})
	}
}

// An answer that waits for a session that holds its attempt keeps no other one waiting, however long that is.
func TestAnswerBesideAnOpenTransaction(t *testing.T) {
	driver.SetRefusalPatience(t, 0)
	pool := testdb.New(t)
	held, goOn := make(chan int64), make(chan struct{})
	var log syncBuffer
	ids := together(t, pool, texts(30, "held"), 1, driver.WorkerConfig{Logger: slog.New(slog.NewTextHandler(&log, nil))},
		func(job *driver.Job[note]) error {
			if job.Args.Text == "held" {
				held <- job.ID
			}
			<-goOn
			return nil
		})
	id := receive(t, held)
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(context.Background())
	_, err = driver.NewClient(pool).CancelTx(t.Context(), tx, id, "")
	require.NoError(t, err)
	close(goOn)
	for _, other := range ids {
		if other != id {
			waitForState(t, pool, other, "completed")
		}
	}
	// It is sent again and again; when it came last, there is nothing that was taken since.
	waitFor(t, func() bool {
		return strings.Contains(log.String(), "an answer is refused, though others are taken") ||
			strings.Contains(log.String(), "answers can't be sent")
	}, "it is not refused")
	sent := map[time.Time]string{}
	waitFor(t, func() bool { // more often than an answer that others pass is refused until it is given up
		rows, err := pool.Query(t.Context(),
			"select query_start, query from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'")
		require.NoError(t, err)
		var at time.Time
		var query string
		_, err = pgx.ForEachRow(rows, []any{&at, &query}, func() error { sent[at] = query; return nil })
		require.NoError(t, err)
		return len(sent) > 5
	}, "it is not sent again")
	for _, query := range sent {
		assert.Contains(t, query, "awa.complete", "it is never given up")
	}
	require.NoError(t, tx.Rollback(t.Context()))
	job := waitForState(t, pool, id, "completed")
	assert.Empty(t, job.Errors)
	assert.Equal(t, 1, job.Attempt)
}

// RunOne has nothing to compare its answer with.
func TestRunOneWhoseAnswerIsRefused(t *testing.T) {
	pool := testdb.New(t)
	refuse(t, pool, "awa.done_entries", "new.state = 'completed'", "P0001")
	id := enqueue(t, pool, note{}, driver.EnqueueOptions{MaxAttempts: 1})
	w, err := driver.NewWorker(pool,
		handle(func(_ context.Context, job *driver.Job[note]) error { return withOutput(job) }),
		driver.WorkerConfig{Logger: logger(t)})
	require.NoError(t, err)
	ran, err := w.RunOne(t.Context())
	require.NoError(t, err)
	require.NoError(t, ran.Err)
	assert.Contains(t, waitForState(t, pool, id, "failed").Errors[0].Error, "the completion was refused")
}

// What is sent in place of a refused answer is sent one by one: another answer does not wait for all of it.
func TestOneSubstituteAtATime(t *testing.T) {
	pool := testdb.New(t)
	execute(t, pool, `
		create sequence public.counted;
		create table public.go_on (now boolean);
		create table public.passed (calls bigint);
		create function public.count() returns trigger language plpgsql security definer as $$ begin
		  if new.args->>'text' = 'good' then
		    insert into public.passed select last_value from public.counted;
		    return new;
		  end if;
		  perform nextval('public.counted');
		  while not exists (select from public.go_on) loop perform pg_sleep(0.01); end loop;
		  perform pg_sleep(0.2); -- a slow server
		  raise exception using errcode = '22023', message = 'not this one';
		end $$;
		create trigger count before insert on awa.done_entries for each row execute function public.count();
		create trigger count before insert on awa.deferred_jobs for each row execute function public.count()`)
	goOn, returned := make(chan struct{}), make(chan struct{})
	enqueue(t, pool, note{"good"}, driver.EnqueueOptions{})
	enqueue(t, pool, note{"bad"}, driver.EnqueueOptions{})
	stop := runWorker(t, pool, handle(func(_ context.Context, job *driver.Job[note]) error {
		if job.Args.Text == "bad" {
			return errors.New("boom")
		}
		<-goOn
		defer close(returned)
		return withOutput(job)
	}), driver.WorkerConfig{NoMaintenance: true, Logger: logger(t)})
	waitFor(t, func() bool { return queryValue[bool](t, pool, "select is_called from public.counted") },
		"nothing is refused")
	close(goOn)
	receive(t, returned)
	execute(t, pool, "insert into public.go_on values (true)")
	waitFor(t, func() bool { return queryValue[bool](t, pool, "select exists (select from public.passed)") },
		"the other one does not pass")
	// The failure, that without its text, the job put off, that without its text, a snooze
	assert.Less(t, queryValue[int](t, pool, "select min(calls) from public.passed"), 4, "it has waited for all of them")
	execute(t, pool, "drop trigger count on awa.done_entries; drop trigger count on awa.deferred_jobs")
	require.NoError(t, stop())
}

// An answer that was taken, and is sent again, since the connection was lost before the server said so, counts as what
// it was.
func TestAnswerThatIsSentTwice(t *testing.T) {
	for text, want := range map[string]struct {
		function, state string
		stats           driver.QueueStats
	}{
		"complete": {"awa.complete_many", "completed", driver.QueueStats{Queue: "default", Claimed: 1, Completed: 1}},
		"fail":     {"awa.fail_many", "retryable", driver.QueueStats{Queue: "default", Claimed: 1, Failed: 1}},
		"snooze":   {"awa.snooze", "scheduled", driver.QueueStats{Queue: "default", Claimed: 1, Snoozed: 1}},
	} {
		t.Run(text, func(t *testing.T) {
			databaseURL := testdb.URL(t)
			direct := untapped(t, databaseURL)
			id := enqueue(t, direct, note{text}, driver.EnqueueOptions{})
			var cut bool
			tap := &wiretap{onWrite: func(_ *tappedConn, sent []byte) (func() error, error) {
				if cut || !bytes.Contains(sent, []byte(want.function)) {
					return nil, nil
				}
				return func() error {
					if job, err := driver.NewClient(direct).Job(t.Context(), id); err != nil || job.State != want.state {
						return err // it was only asked what the function takes
					}
					cut = true
					return errors.New("the connection is lost")
				}, nil
			}}
			w, err := driver.NewWorker(tap.pool(t, databaseURL), handle(func(_ context.Context, job *driver.Job[note]) error {
				return verdict(job.Args.Text)
			}), driver.WorkerConfig{Logger: logger(t)})
			require.NoError(t, err)
			ran, err := w.RunOne(t.Context())
			require.NoError(t, err)
			assert.True(t, cut)
			assert.False(t, ran.Stale)
			assert.Equal(t, []driver.QueueStats{want.stats}, w.Stats())
		})
	}
}

// A lost connection does not hide that an attempt was taken away while its handler ran: RunOne looks after its
// connection before it answers, and when the server ends a session, and says so, it has taken nothing.
func TestStaleAnswerAfterALostConnection(t *testing.T) {
	for name, cut := range map[string]func(t *testing.T, direct *pgxpool.Pool, isCut *atomic.Bool){
		"terminated while the handler runs": func(t *testing.T, direct *pgxpool.Pool, _ *atomic.Bool) {
			waitFor(t, func() bool {
				return !queryValue[bool](t, direct, `select coalesce(bool_or(pg_terminate_backend(pid)), false)
					from pg_stat_activity where datname = current_database() and query like '%awa.claim%'
					and pid <> pg_backend_pid()`)
			}, "the session does not end")
		},
		"cut while the handler runs": func(_ *testing.T, _ *pgxpool.Pool, isCut *atomic.Bool) { isCut.Store(true) },
		"terminated before it takes the answer": func(t *testing.T, direct *pgxpool.Pool, _ *atomic.Bool) {
			wrap(t, direct, "complete_many", "job_ids bigint[], receipts bigint[], outputs jsonb[] default null",
				"job_ids, receipts, outputs", `if nextval('public.counted') = 0 then
				  perform pg_terminate_backend(pg_backend_pid());
				  perform pg_sleep(3600);
				end if;`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			databaseURL := testdb.URL(t)
			direct := untapped(t, databaseURL)
			id := enqueue(t, direct, note{}, driver.EnqueueOptions{})
			var claims *tappedConn
			var isCut atomic.Bool
			tap := &wiretap{onWrite: func(c *tappedConn, sent []byte) (func() error, error) {
				if bytes.Contains(sent, []byte("awa.claim")) {
					claims = c
				}
				if c == claims && isCut.Load() {
					return func() error { return errCut }, nil
				}
				return nil, nil
			}}
			w, err := driver.NewWorker(tap.pool(t, databaseURL), handle(func(_ context.Context, job *driver.Job[note]) error {
				cut(t, direct, &isCut)
				takeAway(t, direct, job)
				return nil
			}), driver.WorkerConfig{Logger: logger(t)})
			require.NoError(t, err)
			ran, err := w.RunOne(t.Context())
			require.NoError(t, err)
			assert.Equal(t, &driver.Ran{JobID: id, Stale: true}, ran)
			assert.Equal(t, []driver.QueueStats{{Queue: "default", Claimed: 1, Stale: 1}}, w.Stats())
		})
	}
}

// takeAway does what rescue does when a lease is over: the attempt has failed. Another worker claims the job then.
func takeAway(t *testing.T, pool *pgxpool.Pool, job *driver.Job[note]) {
	t.Helper()
	execute(t, pool, "select awa.fail($1, $2, 'lease expired')", job.ID, job.Receipt)
	execute(t, pool, "select awa.retry($1)", job.ID)
	assert.Equal(t, 1, queryValue[int](t, pool, "select count(*) from awa.claim('default', 1)"))
}

// Answers for what handlers have committed are sent to be refused as stale, for which the server writes nothing: they
// are no sign that it would take others.
func TestStaleAnswersSayNothingOfOthers(t *testing.T) {
	driver.SetRefusalPatience(t, 10*time.Millisecond)
	pool := testdb.New(t)
	refuse(t, pool, "awa.deferred_jobs", "true", "53100")
	var log syncBuffer
	w, err := driver.NewWorker(pool, handle(func(ctx context.Context, job *driver.Job[note]) error {
		if job.Args.Text == "fail" {
			return errors.New("boom")
		}
		return job.CompleteTx(ctx, pool)
	}), driver.WorkerConfig{NoMaintenance: true, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- w.Run(ctx) }()
	defer func() { stop(); require.NoError(t, receive(t, result)) }()
	bad := enqueue(t, pool, note{"fail"}, driver.EnqueueOptions{MaxAttempts: 5})
	waitFor(t, func() bool { return strings.Contains(log.String(), "answers can't be sent") }, "it is not refused")
	state := func() string { return queryValue[string](t, pool, "select state from awa.job($1)", bad) }
	for range 100 {
		answered := w.Stats()[0].Completed
		enqueue(t, pool, note{"committed"}, driver.EnqueueOptions{})
		waitFor(t, func() bool { return w.Stats()[0].Completed > answered }, "others are not answered")
		require.Equal(t, "running", state())
	}
	assert.NotContains(t, log.String(), "though others are taken")
	execute(t, pool, "drop trigger refuse on awa.deferred_jobs")
	assert.Equal(t, 1, waitForState(t, pool, bad, "retryable").Attempt)
}

// What is sent in place of an answer may have to wait for a lock: then the answer is sent again as soon as any that has
// to wait, and not after the pauses of one in whose place nothing is taken.
func TestLockThatASubstituteWaitsFor(t *testing.T) {
	pool := testdb.New(t)
	refuse(t, pool, "awa.done_entries", "new.args->>'text' = 'bad'", "P0001")
	execute(t, pool, `
		create sequence public.counted;
		create function public.wait() returns trigger language plpgsql security definer as $$ begin
		  perform nextval('public.counted');
		  perform pg_advisory_xact_lock(4711);
		  return new;
		end $$;
		create trigger wait before insert on awa.deferred_jobs for each row execute function public.wait()`)
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(context.Background())
	_, err = tx.Exec(t.Context(), "select pg_advisory_xact_lock(4711)")
	require.NoError(t, err)
	bad := enqueue(t, pool, note{"bad"}, driver.EnqueueOptions{MaxAttempts: 5})
	runWorker(t, pool, handle(func(_ context.Context, job *driver.Job[note]) error { return withOutput(job) }),
		driver.WorkerConfig{NoMaintenance: true})
	waitFor(t, func() bool {
		enqueue(t, pool, note{"another one"}, driver.EnqueueOptions{})
		return queryValue[int](t, pool, "select last_value from public.counted") >= 6
	}, "it is not sent again")
	require.NoError(t, tx.Rollback(t.Context()))
	job := waitForStateBesideOthers(t, pool, bad, "retryable")
	require.Len(t, job.Errors, 1)
	assert.Contains(t, job.Errors[0].Error, "the completion was refused: not this one")
}

// A worker that is stopped does not leave open what is refused.
func TestStopBesideARefusedAnswer(t *testing.T) {
	driver.SetRefusalPatience(t, time.Hour)
	pool := testdb.New(t)
	refuse(t, pool, "awa.done_entries", "new.state = 'completed'", "P0001")
	var log syncBuffer
	id := enqueue(t, pool, note{}, driver.EnqueueOptions{MaxAttempts: 1})
	stop := runWorker(t, pool, handle(func(_ context.Context, job *driver.Job[note]) error { return withOutput(job) }),
		driver.WorkerConfig{NoMaintenance: true, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	waitFor(t, func() bool { return strings.Contains(log.String(), "answers can't be sent") }, "nothing is refused")
	require.NoError(t, stop())
	assert.Contains(t, waitForState(t, pool, id, "failed").Errors[0].Error, "the completion was refused")
}

// latin1URL returns the URL of a new database whose encoding does not have most characters.
func latin1URL(t *testing.T) string {
	t.Helper()
	server := ownServer(t, nil)
	execute(t, untapped(t, server.URL()),
		"create database latin1 encoding 'LATIN1' lc_collate 'C' lc_ctype 'C' template template0")
	u, err := url.Parse(server.URL())
	require.NoError(t, err)
	u.Path = "/latin1"
	query := u.Query()
	query.Set("client_encoding", "UTF8") // without that, what Go writes is taken for LATIN1, byte by byte
	u.RawQuery = query.Encode()
	result, err := driver.Migrate(t.Context(), u.String())
	require.NoError(t, err)
	var warnings []string // and one of the roles, which another database of the server has, too
	for _, w := range result.Warnings {
		warnings = append(warnings, w.Message)
	}
	assert.Contains(t, warnings, "the database is encoded in LATIN1")
	return u.String()
}

// Texts do not become others on the way, whatever encoding the pool's connections have: the worker's own connections
// are in UTF-8, and what uses the pool, or a transaction of the caller's, is refused.
func TestConnectionsInAnotherEncoding(t *testing.T) {
	good := latin1URL(t)
	bad := untapped(t, strings.Replace(good, "client_encoding=UTF8", "client_encoding=LATIN1", 1))
	const want = "connect with client_encoding=UTF8"
	client := driver.NewClient(bad)
	args, ctx := note{Text: "é"}, t.Context()
	for name, call := range map[string]func(db driver.DBTX) error{
		"enqueue": func(db driver.DBTX) error {
			_, err := client.EnqueueTx(ctx, db, args, driver.EnqueueOptions{})
			return err
		},
		"many": func(db driver.DBTX) error {
			_, err := client.EnqueueManyTx(ctx, db, []driver.Args{args}, driver.EnqueueOptions{})
			return err
		},
		"unique": func(db driver.DBTX) error {
			_, _, err := client.EnqueueUniqueTx(ctx, db, args, driver.UniqueOptions{}, driver.EnqueueOptions{})
			return err
		},
		"batch": func(db driver.DBTX) error {
			_, err := client.EnqueueBatchTx(ctx, db, []driver.BatchJob{{Args: args}})
			return err
		},
		"by key": func(db driver.DBTX) error {
			_, _, err := client.CancelByUniqueKeyTx(ctx, db, args, driver.UniqueOptions{}, "")
			return err
		},
		"complete": func(db driver.DBTX) error { return client.CompleteTx(ctx, db, 1, 1, "é") },
		"cancel":   func(db driver.DBTX) error { _, err := client.CancelTx(ctx, db, 1, "é"); return err },
	} {
		require.ErrorContains(t, call(bad), want, name)
		require.ErrorContains(t, bad.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
			assert.ErrorContains(t, call(conn.Conn()), want, name)
			return call(conn)
		}), want, name)
		require.ErrorContains(t, pgx.BeginFunc(ctx, bad, func(tx pgx.Tx) error { return call(tx) }), want, name)
	}
	_, err := client.Enqueue(ctx, args, driver.EnqueueOptions{})
	require.ErrorContains(t, err, want)
	_, err = client.Job(ctx, 1)
	require.ErrorContains(t, err, want)
	_, err = client.Cancel(ctx, 1, "é")
	require.ErrorContains(t, err, want)

	pool := untapped(t, good)
	id, err := driver.NewClient(pool).Enqueue(ctx, args, driver.EnqueueOptions{})
	require.NoError(t, err)
	got, progress := make(chan string, 1), make(chan error, 1)
	runWorker(t, bad, handle(func(ctx context.Context, job *driver.Job[note]) error {
		got <- job.Args.Text
		progress <- job.SetProgress(ctx, "é")
		return driver.Discard(errors.New("ü"))
	}), driver.WorkerConfig{NoMaintenance: true})
	assert.Equal(t, "é", <-got)
	assert.ErrorContains(t, <-progress, want)
	assert.Equal(t, "ü", waitForState(t, pool, id, "failed").Errors[0].Error)
	assert.Zero(t, bad.Stat().AcquiredConns())
}

// In a database whose encoding does not have a character, each attempt ends all the same, counted, with a text that can
// be read.
func TestTextsThatTheEncodingDoesNotHave(t *testing.T) {
	pool := untapped(t, latin1URL(t))
	const text = "→ \xff 𝄞 ü"
	const stored = `\u2192 \ufffd \U0001d11e \u00fc`
	for verdict, want := range map[string]struct {
		err         error
		state, text string
	}{
		"fail":    {errors.New(text), "failed", stored},
		"retry":   {driver.RetryAfter(time.Hour, errors.New(text)), "failed", stored},
		"discard": {driver.Discard(errors.New(text)), "failed", stored},
		"cancel":  {driver.Cancel(text), "cancelled", stored},
		"latin1":  {errors.New("ü"), "failed", "ü"},
		"output":  {nil, "failed", "the completion was refused: "},
	} {
		t.Run(verdict, func(t *testing.T) {
			all := texts(5, "bad")
			for i, id := range together(t, pool, all, 1, driver.WorkerConfig{}, func(job *driver.Job[note]) error {
				if job.Args.Text != "bad" {
					return nil
				}
				job.SetOutput(text)
				return want.err
			}) {
				if all[i] != "bad" {
					waitForState(t, pool, id, "completed")
					continue
				}
				job := waitForState(t, pool, id, want.state)
				require.Len(t, job.Errors, 1)
				assert.Contains(t, job.Errors[0].Error, want.text)
				assert.Equal(t, 1, job.Attempt)
			}
		})
	}
}

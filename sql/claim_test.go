package sql_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/pgserver"
)

// Without the caller's own id in the cursor's snapshot, what it enqueues after its claim counts as read, and is lost.
func TestClaimInsideATransactionThatEnqueues(t *testing.T) {
	d := newDatabase(t)
	s, other, worker := d.session(), d.session(), d.session()
	old := other.enqueue("q")
	s.exec("begin")
	first := s.enqueue("q")
	other.enqueue("other") // ends after s began: s lies below the next snapshot's xmax
	require.Equal(t, []int64{old}, ids(s.claim("q", 10)), "its own jobs are not committed yet")
	second := s.enqueue("q")
	require.Empty(t, s.claim("q", 10))
	third := s.enqueue("q")
	s.exec("commit")
	require.Equal(t, []int64{first, second, third}, ids(worker.claim("q", 10)))
}

// Claims of one queue go one by one: the second waits for the first, and goes on behind it.
func TestTwoClaimers(t *testing.T) {
	d := newDatabase(t)
	a, b, watcher := d.session(), d.session(), d.session()
	jobs := a.enqueueMany("q", 4)
	a.exec("begin")
	require.Equal(t, jobs[:2], ids(a.claim("q", 2)))
	wait := b.background("create temp table got as select job_id from awa.claim('q', 2)")
	watcher.waitUntilBlocked(b)
	a.exec("commit")
	require.NoError(t, wait())
	require.Equal(t, jobs[2:], list[int64](b, "select job_id from got order by 1"))

	// A claim that rolls back never was.
	more := a.enqueueMany("q", 2)
	a.exec("begin")
	require.Equal(t, more, ids(a.claim("q", 2)))
	wait = b.background("create temp table again as select job_id from awa.claim('q', 2)")
	watcher.waitUntilBlocked(b)
	a.exec("rollback")
	require.NoError(t, wait())
	require.Equal(t, more, list[int64](b, "select job_id from again order by 1"))
}

// Even without the lock, two claims cannot stand on one cursor: the number within the lane is unique.
func TestTwoClaimersWithoutTheLock(t *testing.T) {
	d := newDatabase(t)
	a, b, watcher := d.session(), d.session(), d.session()
	a.exec("create or replace function awa._lock_shard(shard bigint) returns void language sql as 'select'")
	a.enqueueMany("q", 4)
	a.exec("begin")
	a.claim("q", 2)
	wait := b.background("select awa.claim('q', 2)")
	watcher.waitUntilBlocked(b)
	a.exec("commit")
	require.Equal(t, "23505", sqlState(wait()))
}

// A claim inside a long transaction holds the others up, for a bounded time, and they say who it is.
func TestClaimWaitsForABoundedTime(t *testing.T) {
	d := newDatabase(t)
	a, b := d.session(), d.session()
	a.exec("update awa.settings set claim_wait = '50 milliseconds'")
	a.enqueueMany("q", 4)
	a.exec("begin")
	require.Len(t, a.claim("q", 2), 2)
	b.exec("set lock_timeout = '7s'")
	err := b.try("select awa.claim('q', 2)")
	require.Equal(t, "55P03", sqlState(err))
	require.Contains(t, err.(*pgconn.PgError).Detail, fmt.Sprint("backend ", a.pid))
	require.Equal(t, "7s", one[string](b, "show lock_timeout"), "the caller's own setting is as before")
	a.exec("commit")
	require.Len(t, b.claim("q", 10), 2)
}

// A client that sends a claim and never reads the answer keeps the queue's lock until the server could send all of it.
// The byte budget makes that so small that it always can; jobs of a megabyte stop the queue, and the others say so.
func TestClientThatNeverReads(t *testing.T) {
	for _, c := range []struct {
		name  string
		bytes int
		jobs  int
		stuck bool
	}{
		{"200 bytes", 200, 2000, false},
		{"tiny", 2, 5000, false},
		{"3 kB", 3000, 500, false},
		{"150 kB", 150_000, 4, false},
		{"a megabyte", 1 << 20, 3, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDatabase(t)
			s, slow := d.session(), d.session()
			s.exec("update awa.settings set claim_wait = '300 milliseconds'")
			body, err := json.Marshal(map[string]string{"x": strings.Repeat("x", max(0, c.bytes-8))})
			require.NoError(t, err)
			s.exec("select awa.enqueue_many('q', 'k', array_fill($1::jsonb, array[$2::int]))", body, c.jobs)

			front := slow.db.PgConn().Frontend()
			front.Send(&pgproto3.Query{String: "select * from awa.claim('q', 10000)"})
			require.NoError(t, front.Flush())
			require.Eventually(t, func() bool {
				return one[bool](s, `
					select case when $2 then wait_event is not distinct from 'ClientWrite' else state = 'idle' end
					  from pg_stat_activity where pid = $1`, slow.pid, c.stuck)
			}, patience, time.Millisecond, "the claim was to end up %s",
				map[bool]string{true: "writing", false: "idle"}[c.stuck])

			err = s.try("select awa.claim('q', 1)")
			if !c.stuck {
				require.NoError(t, err)
				return
			}
			require.Equal(t, "55P03", sqlState(err))
			require.Contains(t, err.(*pgconn.PgError).Detail, fmt.Sprint("backend ", slow.pid))
			s.exec("select pg_terminate_backend($1)", slow.pid)
			require.Eventually(t, func() bool {
				return s.try("select awa.claim('q', 1)") == nil
			}, patience, time.Millisecond)
		})
	}
}

// What a claim reads does not grow with what was claimed before it. A second lower bound beside the row comparison
// would make it begin at the beginning of the lane; late commits as a list would make it a filter over all of the lane.
func TestClaimReadsNoHistory(t *testing.T) {
	d := newDatabase(t)
	s, late, other := d.session(), d.session(), d.session()
	round := func() (plain, lateCommit int64) {
		s.enqueueMany("q", 10)
		plain = s.blocksRead(func() { require.Len(t, s.claim("q", 100), 10) })
		late.exec("begin")
		late.enqueueMany("q", 10)
		other.enqueueMany("q", 10)
		require.Len(t, s.claim("q", 100), 10)
		late.exec("commit")
		lateCommit = s.blocksRead(func() { require.Len(t, s.claim("q", 100), 10) })
		return plain, lateCommit
	}
	round() // plans
	plain, lateCommit := round()
	for range 10 {
		s.exec("select awa.enqueue_many('q', 'k', array_fill('{}'::jsonb, array[10000]))")
		for {
			jobs := s.claim("q", 10000)
			if len(jobs) == 0 {
				break
			}
			require.Empty(t, s.completeMany(jobs))
		}
	}
	plainAfter, lateCommitAfter := round()
	// A deeper tree costs a block or two for each of the few dozen descents.
	require.Less(t, plainAfter, plain+250, "%d blocks before", plain)
	require.Less(t, lateCommitAfter, lateCommit+250, "%d blocks before", lateCommit)
}

// After a crash the sequence may hand out the number of a claim that was forgotten. A receipt that it gave out then is
// of another job.
func TestReceiptOfAForgottenClaim(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.enqueueMany("q", 2)
	forgotten := s.claim("q", 2)
	claim := forgotten[0].Receipt >> 12

	// What a crash does to a claim that did not wait for the disk.
	s.exec("delete from awa.lease_claims where claim_id = $1", claim)
	s.exec("select setval('awa.claim_ids', $1, false)", claim)

	s.enqueueMany("other", 2)
	others := s.claim("other", 2)
	require.Equal(t, receipts(forgotten), receipts(others), "the number was given out again")
	for _, call := range []string{
		"select awa.complete($1, $2)", "select awa.complete($1, $2, '{}')", "select awa.fail($1, $2, 'error')",
		"select awa.release($1, $2)",
	} {
		require.Equal(t, "JQ001", sqlState(s.try(call, forgotten[0].JobID, forgotten[0].Receipt)), call)
	}
	require.Equal(t, ids(forgotten), s.completeMany(forgotten))
	require.Equal(t, ids(forgotten),
		list[int64](s, "select awa.fail_many($1, $2, '{a,b}')", ids(forgotten), receipts(forgotten)))
	require.Zero(t, one[int](s, "select count(*) from awa.lease_claim_closures"))

	again := s.claim("q", 2)
	require.Equal(t, ids(forgotten), ids(again), "the jobs themselves come again")
	require.Empty(t, s.completeMany(again))
	require.Empty(t, s.completeMany(others))
}

// However a window is cut, by limits, by the byte budget, by late commits, each job comes once and in order. An open
// window reaches to now as long as what was committed late lies before the reader; otherwise it is read to its end
// first. On a server of its own: another database's transaction may be committed late, too.
func TestWindowsAreReadInOrder(t *testing.T) {
	own, err := pgserver.Start(t.Context(), pgserver.Config{Settings: map[string]string{"autovacuum": "off"}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, own.Stop()) })
	for i, passed := range []bool{false, true} {
		d := server{own, t}.database(fmt.Sprintf("awa%d", i), true)
		s, late := d.session(), d.session()
		s.exec("update awa.settings set claim_bytes = 100")
		want := s.enqueueMany("q", 20)
		late.exec("begin")
		lateJobs := late.enqueueMany("q", 5) // between the two, but not in the window that is open when they commit
		more := s.enqueueMany("q", 20)
		var got []int64
		for len(got) < 10 || passed && len(got) < 25 {
			jobs := ids(s.claim("q", 3))
			require.NotEmpty(t, jobs)
			got = append(got, jobs...)
		}
		late.exec("commit")
		if passed {
			want = slices.Concat(want, more, lateJobs)
		} else {
			want = slices.Concat(want, lateJobs, more)
		}
		want = append(want, s.enqueueMany("q", 30)...)
		for {
			jobs := ids(s.claim("q", 7))
			if len(jobs) == 0 {
				break
			}
			got = append(got, jobs...)
			s.balanced()
		}
		require.Equal(t, want, got,
			"late commits that the position has passed come after the open window, then what is new")
		s.balanced()
	}
}

// What a claim takes from several parts (lanes, late commits, the rest of a window) shares one byte budget. A part
// whose first job does not fit ends the claim: it must not be taken for a part without jobs, or the cursor passes the
// job.
func TestBudgetAcrossParts(t *testing.T) {
	d := newDatabase(t)
	s, late := d.session(), d.session()
	s.exec("update awa.settings set claim_bytes = 5200")
	first := s.enqueueWithPriority("q", 1)
	late.exec("begin")
	a, b := late.enqueueWithPriority("q", 1), late.enqueueWithPriority("q", 1)
	between := s.enqueueWithPriority("q", 1)
	require.Equal(t, []int64{first, between}, ids(s.claim("q", 9)))
	late.exec("commit")
	large := one[int64](s, "select awa.enqueue('q', 'k', to_jsonb(repeat('x', 5000)), priority => 1)")
	require.Equal(t, []int64{a}, ids(s.claim("q", 1)), "from a window in which the large one is, too")
	after := s.enqueueWithPriority("q", 1)
	other := s.enqueueWithPriority("q", 2)
	var got [][]int64
	for {
		jobs := ids(s.claim("q", 9))
		if len(jobs) == 0 {
			break
		}
		got = append(got, jobs)
		s.balanced()
	}
	require.Equal(t, [][]int64{{b}, {large}, {after, other}}, got)
	s.balanced()
}

// Each transaction of a window that committed late is probed once: the work grows with their number, not with its
// square.
func TestManyLateCommits(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	blocks := func(n int) int64 {
		queue := fmt.Sprint("late-", n)
		s.exec("create temp table late as select '0'::xid8 as x limit 0")
		for range n {
			s.exec("with e as (select awa.enqueue($1, 'k')) insert into late select pg_current_xact_id() from e", queue)
		}
		s.exec(`insert into awa.lease_claims (segment, claim_id, lane, lane_seq, hi, first_xid, first_id, pos_xid, pos_id,
			  claimed_at, lease_until, holds_keys, job_ids)
			select 0, nextval('awa.claim_ids'), awa._lane(awa._queue_id($1), 2), 1,
			       format('%s:%s:%s', min(x), pg_snapshot_xmax(pg_current_snapshot()),
			         string_agg(x::text, ',' order by x))::pg_snapshot,
			       '0', 0, '0', 0, now(), now(), false, '{}' from late`, queue)
		s.exec("drop table late")
		return s.blocksRead(func() { require.Len(t, s.claim(queue, 1000), n) })
	}
	blocks(10) // plans
	few, many := blocks(50), blocks(200)
	require.Less(t, many, 6*few)
}

// A few bytes of jsonb can be megabytes of text. They count as what a client gets, and what no claim could return is
// refused.
func TestNumbersThatAreLongAsText(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	err := s.try("select awa.enqueue('q', 'k', ('[' || repeat('1e131071,', 8999) || '1]')::jsonb)")
	require.Equal(t, "22023", sqlState(err))
	require.Contains(t, err.Error(), "args")
	err = s.try("select awa.enqueue('q', 'k', metadata => ('[' || repeat('1e131071,', 8999) || '1]')::jsonb, run_at => " +
		"now() + interval '1 hour')")
	require.Equal(t, "22023", sqlState(err))
	require.Contains(t, err.Error(), "metadata")
	s.exec("select awa.enqueue_many('q', 'k', array_fill(('[' || repeat('1e100000,', 299) || '1]')::jsonb, array[3]))")
	require.Len(t, s.claim("q", 3), 1, "each of these is 30 MB")

	const number = `{"n": 1e50000}` // 50 kB of text; three of them fit the budget
	s.exec("select awa.enqueue('one', 'k', $1) from generate_series(1, 10)", number)
	s.exec("select awa.enqueue_many('many', 'k', array_fill($1::jsonb, array[10]))", number)
	s.exec(`select awa.enqueue_batch(array_to_json(array_fill('{"queue": "batch", "kind": "k", "args": {"n": ` +
		`1e50000}}'::json, array[10]))::jsonb)`)
	s.exec("select awa.enqueue_many('metadata', 'k', array_fill('1'::jsonb, array[10]), metadata => $1)", number)
	s.exec("select awa.enqueue_many('later', 'k', array_fill($1::jsonb, array[10]), run_at => clock_timestamp() + "+
		"interval '1 millisecond')", number)
	s.exec("select awa.enqueue('progress', 'k') from generate_series(1, 10)")
	for _, c := range s.claim("progress", 10) {
		s.exec("select awa.set_progress($1, $2, $3)", c.JobID, c.Receipt, number)
		s.exec("select awa.release($1, $2)", c.JobID, c.Receipt)
	}
	require.Eventually(t, func() bool { // due a millisecond after it was enqueued
		s.exec("select awa.promote_due()")
		return one[int](s, "select available::int from awa.queue_counts('later')") == 10
	}, patience, time.Millisecond)
	for _, queue := range []string{"one", "many", "batch", "metadata", "later", "progress"} {
		require.Len(t, s.claim(queue, 10), 3, queue)
	}
}

// What a job may carry when it is enqueued leaves room for all that it gathers: it can be claimed, answered, retried
// and listed, in one message of the protocol each.
func TestLargestJob(t *testing.T) {
	if testing.Short() {
		t.Skip("moves gigabytes")
	}
	d := newDatabase(t)
	s := d.session()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	s.ctx = ctx
	const half, most = 1<<26 - 2, 1<<27 - 2 // of text, but for the quotes around it
	enqueue := "select awa.enqueue('q', 'k', to_jsonb(repeat('x', $1)), tags => array[repeat('t', 18)], metadata => " +
		"to_jsonb(repeat('x', $2)))"
	err := s.try(enqueue, half, half) // 20 bytes of tags are too many
	require.Equal(t, "22023", sqlState(err))
	require.ErrorContains(t, err, "args and what goes along with it must be at most 128 MiB")
	s.exec(enqueue, half-10, half-10)

	read := func(sql string) (bytes int) {
		rows, err := s.db.Query(s.ctx, sql, pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err)
		for rows.Next() {
			for _, v := range rows.RawValues() {
				bytes += len(v)
			}
		}
		require.NoError(t, rows.Err())
		return bytes
	}
	attempt := func() (job claimed) {
		s.exec("create temp table c as select job_id, receipt from awa.claim('q')")
		require.NoError(t, s.db.QueryRow(s.ctx, "select job_id, receipt from c").Scan(&job.JobID, &job.Receipt))
		s.exec("drop table c")
		return job
	}
	fail := func(job claimed) {
		s.exec("select awa.fail($1, $2, repeat(U&'\\0001', 20000), '0', to_jsonb(repeat('x', 65000)))", job.JobID,
			job.Receipt)
		s.exec("select awa.promote_due()")
	}
	job := attempt()
	s.exec("select awa.set_progress($1, $2, to_jsonb(repeat('x', $3)))", job.JobID, job.Receipt, most)
	fail(job)
	// as if it had failed forty times
	s.exec("update awa.ready_entries set attempt = 20, errors = (select jsonb_agg(e.errors -> 0) from awa.ready_entries " +
		"e, generate_series(1, 40) where e.errors is not null) where errors is not null")
	fail(attempt())
	require.Equal(t, 41, one[int](s, "select jsonb_array_length(errors) from awa.job($1)", job.JobID))
	s.exec("begin")
	require.Greater(t, read("select * from awa.claim('q')"), 1<<28)
	require.Greater(t, read("select * from awa.list_jobs('q')"), 1<<28)
	s.exec("rollback")
	job = attempt()
	s.exec("select awa.cancel($1)", job.JobID)
	s.exec("select awa.retry($1)", job.JobID)
	job = attempt()
	s.exec("select awa.complete($1, $2, to_jsonb(repeat('x', $3)))", job.JobID, job.Receipt, most)
	require.Greater(t, read("select * from awa.list_jobs('q')"), 1<<28)
}

// A page of jobs whose arguments are small on the disk, and long as text, is bounded; the pages together hold all jobs.
func TestPageOfJobsThatAreLongAsText(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	var jobs, pages []int64
	for _, id := range list[int64](s, "select awa.enqueue_many('q', 'k', array_fill('[1e131000]'::jsonb, array[700]))") {
		jobs = append([]int64{id}, jobs...)
	}
	var before *int64
	for {
		page := list[int64](s, "select id from awa.list_jobs('q', before_id => $1, max_jobs => 10000)", before)
		require.LessOrEqual(t, len(page), 512, "64 MiB")
		if len(page) == 0 {
			break
		}
		pages = append(pages, page...)
		before = &page[len(page)-1]
	}
	require.Equal(t, jobs, pages)
}

// In a database that was restored from a dump the ledgers hold transaction ids of another server: new jobs might count
// as claimed. It is known by the OIDs of its tables.
func TestClaimAfterARestore(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	job := s.enqueue("q")
	s.exec("update awa.ring set tables = '{1,2}'")
	s.exec("update awa.origin set xid = '5'")
	require.Equal(t, "55000", sqlState(s.try("select awa.enqueue('q', 'k')")))
	require.Equal(t, "55000", sqlState(s.try("select awa.claim('q')")))
	s.exec("select awa.rebase_after_restore()")
	next := s.enqueue("q")
	require.Equal(t, []int64{job, next}, ids(s.claim("q", 9)))
	s.balanced()
}

// Entries of a late transaction that are all buried: the claim passes over them, rather than look at them for ever.
func TestBuriedLateCommit(t *testing.T) {
	d := newDatabase(t)
	late, s := d.session(), d.session()
	late.exec("begin")
	buried := late.enqueueMany("q", 2)
	s.enqueueMany("q", 3)
	require.Len(t, s.claim("q", 2), 2) // a window that goes on
	late.exec("commit")
	for _, job := range buried {
		s.exec("select awa.cancel($1)", job)
	}
	next := s.enqueue("q")
	s.exec("set statement_timeout = '10s'")
	jobs := s.claim("q", 10)
	require.Len(t, jobs, 2)
	require.Equal(t, next, jobs[1].JobID)
	require.Empty(t, s.claim("q", 10))
}

// The head of a lane behind a large enqueue that is not committed: it is taken at once, out of turn, and nobody goes
// that way again.
func TestHeadBehindAnOpenEnqueue(t *testing.T) {
	d := newDatabase(t)
	open, s := d.session(), d.session()
	open.exec("begin")
	open.exec("select count(*) from generate_series(1, 40), lateral awa.enqueue_many('q', 'k', " +
		"array_fill(to_jsonb(generate_series), array[10000]), priority => 4)")
	far := one[int64](s, "select awa.enqueue('q', 'k', priority => 4)")
	near := one[int64](s, "select awa.enqueue('q', 'k', priority => 1)")
	s.enqueueMany("q", 10)
	s.claim("plans", 1)
	require.Equal(t, []int64{far, near}, ids(s.claim("q", 2)))
	require.Less(t, s.blocksRead(func() { s.claim("q", 1) }), int64(200))
}

// At constant overload by jobs of priority 1, nine of ten, those of priority 4 finish within four aging intervals. Time
// is what the test makes of it: a tenth of an interval for each claim.
func TestAgingUnderOverload(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.enqueue("q")
	s.exec(`select awa.configure_queue('q', '{"aging_interval": "1 hour"}')`)
	enqueue := func(priority, jobs int) {
		s.exec("select awa.enqueue_many('q', 'k', array_fill('{}'::jsonb, array[$1::int]), priority => $2)", jobs, priority)
	}
	enqueue(1, 45)
	enqueue(4, 5)
	served := map[int32]int{}
	slowest := time.Duration(0)
	for range 80 {
		s.exec("update awa.ready_entries set ready_at = ready_at - interval '6 minutes'")
		rows, err := s.db.Query(s.ctx, "select priority, clock_timestamp() - ready_at from awa.claim('q', 9)")
		require.NoError(t, err)
		var priority int32
		var waited time.Duration
		first := 0
		_, err = pgx.ForEachRow(rows, []any{&priority, &waited}, func() error {
			served[priority]++
			if priority == 1 {
				first++
			} else if priority == 4 {
				slowest = max(slowest, waited)
			}
			return nil
		})
		require.NoError(t, err)
		if first > 0 { // as many as there were: the backlog never ends
			enqueue(1, first)
		}
		enqueue(4, 1)
	}
	require.Positive(t, served[4])
	require.Greater(t, served[1], served[4], "priority still counts")
	require.Less(t, slowest, 4*time.Hour)
}

// A claim that waited for the queue goes by the settings of the time when it takes jobs: what was enqueued after a
// pause is not claimed.
func TestPauseWhileAClaimWaits(t *testing.T) {
	d := newDatabase(t)
	a, b, operator := d.session(), d.session(), d.session()
	a.enqueue("q")
	require.Len(t, a.claim("q", 1), 1)
	a.exec("begin")
	require.Empty(t, a.claim("q", 1))
	wait := b.background("create temp table taken as select job_id from awa.claim('q', 10)")
	operator.waitUntilBlocked(b)
	operator.exec("select awa.pause_queue('q')")
	operator.enqueue("q")
	a.exec("commit")
	require.NoError(t, wait())
	require.Zero(t, one[int](b, "select count(*) from taken"))
	operator.exec("select awa.resume_queue('q')")
	require.Len(t, b.claim("q", 10), 1)
}

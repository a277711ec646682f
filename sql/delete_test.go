package sql_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// An end is how a job ends, and where it is then.
type end struct {
	name, call, state string
	materialized      bool // its attempt has a row of its own before
}

// In the ledgers alone, beside them with an output, and in rows that nothing else counts.
var ends = []end{
	{"completed", "select awa.complete($1, $2)", "completed", false},
	{"with an output", "select awa.complete($1, $2, '{}')", "completed", false},
	{"after a while", "select awa.complete($1, $2)", "completed", true},
	{"failed", "select awa.discard($1, $2, 'error')", "failed", false},
	{"cancelled", "select awa.cancel_attempt($1, $2)", "cancelled", true},
}

// ended makes a job of a queue that has ended.
func (s *session) ended(queue string, how end) int64 {
	s.Helper()
	j := s.open(queue, shapes[0])[0]
	if how.materialized {
		s.exec("select awa.extend($1, $2, '1 hour')", j.JobID, j.Receipt)
	}
	s.exec(how.call, j.JobID, j.Receipt)
	require.Equal(s, how.state, s.state(j.JobID))
	return j.JobID
}

const deleteJob = "select awa.delete_job($1)"

// Of two who delete a job one does: the other waits, and finds none, or does it when the first one rolls back.
func TestTwoDeletesAtOnce(t *testing.T) {
	d := newDatabase(t)
	a, b, watcher := d.session(), d.session(), d.session()
	a.setClaimWait("5 minutes")
	for _, how := range ends {
		for _, first := range []string{"commit", "rollback"} {
			t.Log(how.name, first)
			job := a.ended("q", how)
			a.exec("begin")
			a.exec(deleteJob, job)
			second := b.background(deleteJob, job)
			watcher.waitUntilBlocked(b)
			a.exec(first)
			if err := second(); first == "commit" {
				require.Equal(t, "JQ003", sqlState(err))
			} else {
				require.NoError(t, err)
			}
			require.Equal(t, []string{"gone"}, a.states(job))
			a.balanced()
		}
	}
}

// A delete_where beside an open one deletes what that has left, and waits for nothing.
func TestTwoDeletesWhereAtOnce(t *testing.T) {
	d := newDatabase(t)
	a, b := d.session(), d.session().neverWaits()
	const deleteWhere = "select awa.delete_where('q', state => 'completed', max_jobs => 3)"
	for _, how := range ends[:3] {
		for _, last := range []string{"commit", "rollback"} {
			t.Log(how.name, last)
			for range 5 {
				a.ended("q", how)
			}
			a.exec("begin")
			require.Equal(t, 3, one[int](a, deleteWhere))
			require.Equal(t, 2, one[int](b, deleteWhere))
			require.Zero(t, one[int](b, deleteWhere))
			a.exec(last)
			require.Equal(t, map[string]int{"commit": 0, "rollback": 3}[last], one[int](b, deleteWhere))
			a.balanced()
		}
	}
}

// A delete_where goes past as many jobs as another session is deleting, and reads no job twice for it.
func TestDeleteWherePastManyOpenDeletes(t *testing.T) {
	d := newDatabase(t)
	a, b := d.session(), d.session().neverWaits()
	a.exec("select awa.enqueue_many('q', 'k', array_fill('{}'::jsonb, '{2000}'))")
	for jobs := a.claim("q", 500); len(jobs) > 0; jobs = a.claim("q", 500) {
		require.Empty(t, a.completeMany(jobs))
	}
	oldest := one[int64](a, "select min(id) from awa.jobs")
	a.exec("begin")
	require.Equal(t, 1999, one[int](a, "select awa.delete_where('q', max_jobs => 1999)"))
	require.Equal(t, 1, one[int](b, "select awa.delete_where('q', max_jobs => 1)"))
	require.Equal(t, []string{"gone"}, b.states(oldest))
	a.exec("rollback")
	require.Equal(t, 1999, one[int](b, "select awa.delete_where('q', max_jobs => 10000)"))
	b.balanced()
}

// Who waits for somebody that deletes, or keeps a job from being deleted, waits as long as claim_wait says.
func TestDeleteBesideAnOpenOne(t *testing.T) {
	d := newDatabase(t)
	a, b := d.session(), d.session().neverWaits()
	a.setClaimWait("1 millisecond")
	for _, how := range ends {
		job := a.ended("q", how)
		a.exec("begin")
		a.exec(deleteJob, job)
		err := b.try(deleteJob, job)
		require.Equal(t, "55P03", sqlState(err), how.name)
		require.ErrorContains(t, err, fmt.Sprintf("job %d is being changed by another session", job))
		require.Contains(t, detail(err), fmt.Sprintf("Waited 00:00:00.001 for backend %d (", a.pid), how.name)
		require.Zero(t, one[int](b, "select awa.delete_where('q')"))
		a.exec("commit")
	}
	job := a.ended("q", ends[0])
	a.exec("begin; select awa.delete_where('q')")
	require.Contains(t, detail(b.try(deleteJob, job)), fmt.Sprintf(" for backend %d (", a.pid))
	a.exec("commit")
	a.balanced()
}

// A job is retried, or deleted: whoever is first, the other waits, and learns what became of it.
func TestDeleteBesideARetry(t *testing.T) {
	d := newDatabase(t)
	a, b, watcher := d.session(), d.session(), d.session()
	a.setClaimWait("5 minutes")
	const retry = "select awa.retry($1)"
	for _, how := range ends[3:] {
		for _, calls := range [][2]string{{deleteJob, retry}, {retry, deleteJob}} {
			for _, first := range []string{"commit", "rollback"} {
				t.Log(how.name, calls[0], first)
				job := a.ended("q", how)
				a.exec("begin")
				a.exec(calls[0], job)
				second := b.background(calls[1], job)
				watcher.waitUntilBlocked(b)
				a.exec(first)
				err := second()
				switch {
				case first == "rollback":
					require.NoError(t, err)
				case calls[0] == deleteJob:
					require.Equal(t, "JQ003", sqlState(err))
				default:
					require.Equal(t, "JQ005", sqlState(err))
				}
				deleted := (calls[0] == deleteJob) == (first == "commit")
				require.Equal(t, map[bool][]string{true: {"gone"}, false: {"available"}}[deleted], a.states(job))
				a.balanced()
				a.exec("select awa.cancel_where('q')")
			}
		}
	}
}

// A queue is dropped while a job of it is being deleted: whenever that commits, the next queue of the name has a book
// that begins with nothing.
func TestDropQueueBesideAnOpenDelete(t *testing.T) {
	for _, how := range ends {
		for _, last := range []string{"commit", "rollback"} {
			t.Log(how.name, last)
			d := newDatabase(t)
			a, b, watcher := d.session(), d.session(), d.session()
			a.setClaimWait("5 minutes")
			job, other := a.ended("q", how), a.ended("q", how)
			a.exec(deleteJob, other)
			a.exec("begin")
			a.exec(deleteJob, job)
			dropped := b.background("select awa.drop_queue('q')")
			if how.name == "completed" { // there is nothing to wait for
				require.NoError(t, dropped())
				a.exec(last)
			} else {
				watcher.waitUntilBlocked(b)
				a.exec(last)
				require.NoError(t, dropped())
			}
			b.exec("select awa._forget_queues()")
			next := a.ended("q", ends[0])
			require.Equal(t, []int64{1, 0},
				list[int64](b, "select unnest(array[completed, failed + cancelled]) from awa.queue_counts('q')"))
			a.balanced()
			a.rotate()
			a.prunesLater()
			require.Equal(t, []string{"gone", "gone", "gone"}, a.states(job, other, next))
			require.Equal(t, []int64{1, 0},
				list[int64](b, "select unnest(array[completed, failed + cancelled]) from awa.queue_counts('q')"))
			a.audited()
			require.Zero(t, one[int](b, "select count(*) from awa.deleted_jobs"))
		}
	}
}

// The name of a dropped queue is kept for as long as anything is noted of jobs that were deleted: without its book they
// would be taken off the next one.
func TestForgetADroppedQueueWithDeletedJobs(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	job := s.ended("q", ends[0])
	s.rotate()
	s.exec(deleteJob, job) // in a later segment than its entry
	s.exec("select awa.drop_queue('q')")
	s.prunes()
	s.exec("update awa.queues set dropped_at = dropped_at - interval '1 hour'")
	for range 2 {
		s.exec("select awa._forget_queues()")
	}
	require.Equal(t, 1, one[int](s, "select count(*) from awa.deleted_jobs"))
	s.ended("q", ends[0])
	require.Equal(t, int64(1), one[int64](s, "select completed from awa.queue_counts('q')"))
	s.balanced()
	s.exec("select awa.drop_queue('q')")
	for range 4 {
		s.rotate()
		s.prunesLater()
	}
	require.Zero(t, one[int](s, "select count(*) from awa.deleted_jobs"))
	require.Eventually(t, func() bool { // a process of the server may have an old snapshot for a moment
		s.exec("select awa._forget_queues()")
		return one[int](s, "select count(*) from awa.queues") == 0
	}, time.Minute, time.Millisecond)
}

// With the name of a dropped queue goes the cursor that the drop has left: it would be that of the next queue of the
// name, which counts its claims from the first one on, until its segment is truncated.
func TestForgottenQueueLeavesNoCursor(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.ended("q", ends[0])
	s.rotate()
	s.exec("select awa.drop_queue('q')")
	s.prunes()
	require.Equal(t, 1, one[int](s, "select count(*) from awa.lease_claims"))
	require.Eventually(t, func() bool { // a process of the server may have an old snapshot for a moment
		s.exec("select awa._forget_queues()")
		return one[int](s, "select count(*) from awa.queues") == 0
	}, time.Minute, time.Millisecond)
	require.Zero(t, one[int](s, "select count(*) from awa.lease_claims"))
	s.enqueue("q")
	s.exec("select awa._fold(null, true)")
	require.Len(t, s.claim("q", 9), 1)
	require.Len(t, s.running(), 1)
	s.balanced()
}

// What is noted of deleted jobs goes with the segment, or the next time around where it is committed only after the
// cleaning, and the job is neither shown nor counted again.
func TestPruneBesideAnOpenDelete(t *testing.T) {
	for _, counted := range []bool{false, true} {
		for _, how := range ends[:2] {
			d := newDatabase(t)
			a, b := d.session(), d.session().neverWaits()
			kept, early, late := a.ended("q", how), a.ended("q", how), a.ended("q", how)
			if counted {
				b.exec("select awa._fold(null, true)")
			}
			b.exec(deleteJob, early)
			a.exec("begin")
			a.exec(deleteJob, late)
			a.exec("savepoint s") // which lets go of the snapshot of the statement before it
			b.rotate()
			require.Equal(t, "blocked", b.pruneOn(), "it has read the segment")
			require.Equal(t, int64(2), one[int64](b, "select completed from awa.queue_counts('q')"))
			b.audited()
			a.exec("commit")
			require.Equal(t, int64(1), one[int64](b, "select completed from awa.queue_counts('q')"))
			b.prunesLater()
			b.audited()
			require.Equal(t, int64(1), one[int64](b, "select completed from awa.queue_counts('q')"))
			for range 4 {
				b.rotate()
				b.prunesLater()
				b.audited()
			}
			require.Zero(t, one[int](b, "select count(*) from awa.deleted_jobs"))
			require.Equal(t, int64(1), one[int64](b, "select completed from awa.queue_counts('q')"))
			if how.name == "completed" {
				require.Equal(t, []string{"gone", "gone", "gone"}, b.states(kept, early, late))
			}
		}
	}
}

// What is noted of deleted jobs is removed some at a time, before the segment may be used again.
func TestPruneWithManyDeletedJobs(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	job := s.ended("q", ends[0])
	s.exec(deleteJob, job)
	s.exec("insert into awa.deleted_jobs select 1000000 + n, lane, xid, by_xid, segment from awa.deleted_jobs, " +
		"generate_series(1, 25000) n")
	s.rotate()
	outcomes := []string{}
	for len(outcomes) == 0 || outcomes[len(outcomes)-1] != "truncated" {
		outcomes = append(outcomes, s.prune())
		require.Less(t, len(outcomes), 20)
	}
	require.Zero(t, one[int](s, "select count(*) from awa.deleted_jobs"))
	// cleaned, the entries, 10,000, 10,000, the claims, the closures
	require.GreaterOrEqual(t, len(outcomes), 6, "%v", outcomes)
}

// A job that is deleted lets go of its key, whether it held that in its state or to the end of a period. A producer
// waits until it knows.
func TestUniqueProducerBesideAnOpenDelete(t *testing.T) {
	for _, options := range []string{", unique_period => '1 day'",
		", unique_states => '{available,running,completed,failed,cancelled}'"} {
		for _, how := range ends {
			if how.state != "completed" && options == ", unique_period => '1 day'" {
				continue
			}
			for _, twice := range []bool{false, true} { // a key that was used before has two rows
				for _, last := range []string{"commit", "rollback"} {
					t.Log(options, how.name, twice, last)
					d := newDatabase(t)
					a, b, watcher := d.session(), d.session(), d.session()
					for twice && one[int](a, "select count(*) from awa.unique_claims") < 2 {
						a.exec("select awa.cancel($1)", a.enqueuesUnique(options)().JobID)
						a.exec("select awa.delete_where('q', state => 'cancelled')")
					}
					first := a.enqueuesUnique(options)()
					require.True(t, first.Inserted)
					j := a.claim("q", 1)[0]
					if how.materialized {
						a.exec("select awa.extend($1, $2, '1 hour')", j.JobID, j.Receipt)
					}
					a.exec(how.call, j.JobID, j.Receipt)
					require.Equal(t, unique{j.JobID, false}, b.enqueuesUnique(options)())
					a.exec("begin")
					a.exec(deleteJob, j.JobID)
					got := b.enqueuesUnique(options)
					watcher.waitUntilBlocked(b)
					a.exec(last)
					if row := got(); last == "commit" {
						require.True(t, row.Inserted)
						require.Equal(t, []int64{row.JobID}, ids(b.claim("q", 9)))
					} else {
						require.Equal(t, unique{j.JobID, false}, row)
					}
					require.Empty(t, list[string](watcher, keysThatAreWrong))
					a.audited()
				}
			}
		}
	}
}

// A job that its own transaction cancels while it is available can't be deleted there: if it was claimed meanwhile, its
// attempt has to be cancelled, and its key let go of.
func TestDeleteInTheTransactionThatCancels(t *testing.T) {
	d := newDatabase(t)
	a, b := d.session(), d.session()
	job := a.enqueueUnique("q", "key")
	a.exec("begin")
	a.exec("select awa.cancel($1)", job)
	require.Zero(t, one[int](a, "select awa.delete_where('q')"))
	a.exec("savepoint s")
	require.Equal(t, "JQ005", sqlState(a.try(deleteJob, job)))
	a.exec("rollback to s")
	j := b.claim("q", 1)
	require.Equal(t, []int64{job}, ids(j))
	a.exec("commit")
	b.refuses(j[0])
	a.exec(deleteJob, job)
	require.Zero(t, one[int](a, "select count(*) from awa.unique_claims where job_id is not null"))
	a.balanced()
}

// What a deleted job has said leaves the disk with its segment, or when it is overwritten, as the reference has it.
func TestDeletedJobsLeaveTheDisk(t *testing.T) {
	for _, rewritten := range []bool{false, true} {
		d := newDatabase(t)
		s := d.session()
		for _, how := range ends {
			job := one[int64](s,
				`select awa.enqueue('q', 'k', '"the secret"', tags => '{the secret}', metadata => '"the secret"', `+
					"group_key => 'the secret')")
			j := s.claim("q", 1)[0]
			s.exec("select awa.set_progress($1, $2, '\"the secret\"')", j.JobID, j.Receipt)
			s.exec("select awa.fail($1, $2, 'the secret', '0')", j.JobID, j.Receipt)
			s.due()
			j = s.claim("q", 1)[0]
			s.exec(how.call, j.JobID, j.Receipt)
			s.exec(deleteJob, job)
		}
		other := s.ended("q", ends[0])
		hidden := one[int64](s, "select awa.enqueue('short', 'k', '\"kept\"')")
		s.completes(s.claim("short", 1))
		s.exec(`select awa.configure_queue('short', '{"completed_retention": "1 millisecond"}')`)
		waits := s.enqueue("q")
		secrets := func() int {
			n := 0
			for _, table := range list[string](s,
				"select oid::regclass::text from pg_class where relnamespace = 'awa'::regnamespace and relkind = 'r'") {
				n += one[int](s, fmt.Sprintf("select count(*) from %s t where t::text like '%%the secret%%'", table))
			}
			return n
		}
		require.Equal(t, 2*len(ends), secrets(), "each entry of them")
		if rewritten {
			require.Equal(t, []string{"gone"}, s.states(hidden))
			s.exec(`select awa.configure_queue('short', '{"completed_retention": null}')`)
			s.exec(`
				update awa.ready_entries e set args = '{}', tags = null, metadata = null, group_key = null, progress = null,
				       errors = null
				 where not exists (select from awa.jobs j where j.id = e.job_id)`)
			s.exec("vacuum full awa.ready_entries_0")
			require.Equal(t, []string{"completed", "available"}, s.states(other, waits))
			require.Equal(t, `"kept"`, one[string](s, "select args::text from awa.job($1)", hidden), "it is not deleted")
		} else {
			s.rotate()
			s.prunes()
			require.Equal(t, []string{"gone", "available"}, s.states(other, waits))
		}
		require.Zero(t, secrets())
		s.audited()
		require.Equal(t, []int64{waits}, ids(s.claim("q", 9)))
	}
}

// Nothing indexes tags and arguments, and a call must not read the whole history: it reads 100,000 entries, and
// scan_jobs says where to go on.
func TestScansOfManyJobs(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	first := one[int64](s, "select awa.enqueue('q', 'k', '{\"first\": true}', tags => '{first}')")
	const jobs = 130_000
	for range jobs / 10_000 {
		s.enqueueMany("q", 10_000)
	}
	last := one[int64](s, "select awa.enqueue('q', 'k', '{\"first\": true}', tags => '{first}')")
	type page struct {
		Next *int64
		IDs  []int64
	}
	scan := func(before *int64) (p page) {
		require.NoError(t,
			s.db.QueryRow(s.ctx, `select * from awa.scan_jobs('{"tag": "first"}', $1)`, before).Scan(&p.Next, &p.IDs))
		return p
	}
	p := scan(nil)
	require.Equal(t, []int64{last}, p.IDs)
	require.NotNil(t, p.Next)
	require.GreaterOrEqual(t, *p.Next, last-100_000)
	require.Less(t, *p.Next, last-50_000)
	p = scan(p.Next)
	require.Equal(t, []int64{first}, p.IDs)
	require.Nil(t, p.Next)
	require.Equal(t, []int64{last}, list[int64](s, "select id from awa.list_jobs(tag => 'first')"))
	require.Equal(t, []int64{last}, list[int64](s, "select id from awa.list_jobs(args => '{\"first\": true}')"))
	require.Equal(t, []int64{last, first},
		list[int64](s, "select id from awa.list_jobs('q', max_jobs => 10000) where tags = '{first}' union all select $1",
			first), "others are read to the end of the page")
	require.Equal(t, 1, one[int](s, "select awa.cancel_where(tag => 'first')"), "the first 100,000 in line")
	require.Equal(t, []string{"cancelled", "available"}, s.states(first, last))
}

// A scan of one queue reads the entries of its stretch, however many the other entries are: not the index of their
// places, and no names, for each stretch.
func TestScanOfAQueueReadsItsStretch(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.enqueueMany("r", 5)
	for range 10 {
		s.enqueueMany("q", 10_000)
	}
	for one[bool](s, "select awa.run_pass('summarize')") {
	}
	blocks := func(scan string) (blocks int) {
		plan := one[json.RawMessage](s, "explain (analyze, buffers, format json) "+scan)
		var plans []struct {
			Plan struct {
				Hit  int `json:"Shared Hit Blocks"`
				Read int `json:"Shared Read Blocks"`
			}
		}
		require.NoError(t, json.Unmarshal(plan, &plans))
		return plans[0].Plan.Hit + plans[0].Plan.Read
	}
	require.Less(t, blocks(`select awa.scan_jobs('{"queue": "r"}', 90000)`), 20_000)
	require.Equal(t, 5, one[int](s, `select cardinality(job_ids) from awa.scan_jobs('{"queue": "r"}', 90000)`))
	require.Equal(t, 0, one[int](s, `select cardinality(job_ids) from awa.scan_jobs('{"queue": "none"}')`))
}

// Counts of all queues look at lanes that have changed since they were counted: one in which a job was deleted is one
// of them.
func TestCountsOfAllQueuesAfterADelete(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	for _, how := range ends[:2] {
		job := s.ended("q", how)
		s.ended("q", how)
		s.exec("select awa._fold(null, true)")
		completed := func() int64 { return one[int64](s, "select completed from awa.queue_counts where queue = 'q'") }
		before := completed()
		s.exec(deleteJob, job)
		require.Equal(t, before-1, completed(), how.name)
		s.balanced()
	}
}

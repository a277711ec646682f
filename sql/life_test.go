package sql_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// A shape is a way for attempts to be open: alone in their claim or together, in the ledger or in rows of their own.
type shape struct {
	name         string
	jobs         int
	materialized bool
	keyed        bool
}

var shapes = []shape{
	{"one job", 1, false, false},
	{"one job with a key", 1, false, true},
	{"three jobs", 3, false, false},
	{"three jobs with keys", 3, false, true},
	{"a lease row with a key", 1, true, true},
	{"three lease rows", 3, true, false},
}

// open claims new jobs of a queue in one call.
func (s *session) open(queue string, shape shape) []claimed {
	s.Helper()
	if shape.keyed {
		for i := range shape.jobs {
			s.exec("select awa.enqueue_unique($1, 'k', unique_key => $2)", queue, fmt.Sprint(queue, i))
		}
	} else {
		s.enqueueMany(queue, shape.jobs)
	}
	jobs := s.claim(queue, shape.jobs)
	require.Len(s, jobs, shape.jobs)
	if shape.materialized {
		require.Equal(s, int64(shape.jobs), s.materialize())
	}
	return jobs
}

func (s *session) materialize() int64 {
	s.Helper()
	return one[int64](s, "select materialized from awa.materialize('0')")
}

func (s *session) rescue() int64 {
	s.Helper()
	return one[int64](s, "select rescued from awa.rescue()")
}

func (s *session) forgetWorkers() int64 {
	s.Helper()
	return one[int64](s, "select forgotten from awa.forget_workers()")
}

// halfAnHourLater moves what happened so far half an hour into the past.
func (s *session) halfAnHourLater() {
	s.Helper()
	s.exec("update awa.lease_claims set claimed_at = claimed_at - interval '30 minutes', lease_until = lease_until - " +
		"interval '30 minutes', deadline_at = deadline_at - interval '30 minutes'")
	s.exec("update awa.leases set claimed_at = claimed_at - interval '30 minutes', lease_until = lease_until - interval " +
		"'30 minutes', deadline_at = deadline_at - interval '30 minutes'")
	s.exec("update awa.workers set heartbeat_at = heartbeat_at - interval '30 minutes'")
	s.exec("update awa.queue_rollups set folded_at = folded_at - interval '30 minutes'")
	s.noGap()
}

// noGap is as if rescue was called just now: a slow machine may let more than ten seconds go by.
func (s *session) noGap() {
	s.Helper()
	s.exec("select setval('awa.rescue_called_at', (extract(epoch from clock_timestamp()) * 1000000)::bigint)")
}

// neverWaits fails a statement of this session that waits for as long as another session's transaction is open.
func (s *session) neverWaits() *session {
	s.Helper()
	s.exec("set statement_timeout = '10s'")
	return s
}

// An answer ends an attempt: so the job is then.
type answer struct{ call, state string }

var answers = []answer{
	{"select awa.complete($1, $2)", "completed"},
	{"select awa.complete($1, $2, '{}')", "completed"},
	{"select awa.fail($1, $2, 'error', '1 hour')", "retryable"},
	{"select awa.discard($1, $2, 'error')", "failed"},
	{"select awa.snooze($1, $2, '1 hour')", "scheduled"},
	{"select awa.release($1, $2)", "available"},
	{"select awa.cancel_attempt($1, $2)", "cancelled"},
	{"select awa.complete_many(array[$1::bigint], array[$2::bigint])", "completed"},
	{"select awa.complete_many(array[$1::bigint], array[$2::bigint], '{1}'::jsonb[])", "completed"},
	{"select awa.fail_many(array[$1::bigint], array[$2::bigint], '{error}', '{1 hour}')", "retryable"},
}

// keeps says how many jobs of a claim an open answer for the first of them keeps from maintenance: that one, or, where
// it has the claim's lock for itself, as answers for many do, all of them.
func (s *session) keeps(jobs []claimed) int {
	s.Helper()
	if one[bool](s, `
		select exists (
		  select from pg_locks
		   where locktype = 'advisory' and pid = pg_backend_pid() and mode = 'ExclusiveLock'
		     and classid::bigint << 32 | objid::bigint = awa._claim_key($1))`, jobs[0].Receipt>>12) {
		return len(jobs)
	}
	return 1
}

// answers gives an answer that may have to wait; the function that it returns says whether it was taken. One that is
// stale raises JQ001, or comes back from a _many form.
func (s *session) answers(call string, j claimed) func() bool {
	type result struct {
		tag pgconn.CommandTag
		err error
	}
	done := make(chan result, 1)
	go func() {
		tag, err := s.db.Exec(s.ctx, call, j.JobID, j.Receipt)
		done <- result{tag, err}
	}()
	return func() bool {
		s.Helper()
		r := <-done
		if strings.Contains(call, "_many") {
			require.NoError(s, r.err)
			return r.tag.RowsAffected() == 0
		}
		if r.err != nil {
			require.Equal(s, "JQ001", sqlState(r.err), "%s: %v", call, r.err)
		}
		return r.err == nil
	}
}

// completes says that each of these attempts is open, and completes it.
func (s *session) completes(jobs []claimed) {
	s.Helper()
	for _, j := range jobs {
		require.True(s, s.answers("select awa.complete($1, $2)", j)())
	}
}

// refuses says that every answer for an attempt is stale.
func (s *session) refuses(j claimed) {
	s.Helper()
	for _, a := range answers {
		require.False(s, s.answers(a.call, j)(), a.call)
	}
	for _, call := range []string{"select awa.extend($1, $2, '1 hour')", "select awa.set_progress($1, $2, '1')"} {
		require.Equal(s, "JQ001", sqlState(s.try(call, j.JobID, j.Receipt)), call)
	}
}

// balanced checks the books: each job once, the counts those of the jobs, each unique key with its job, if that is in
// one of the states that hold it by default. Once more when all that has come to pass is counted into the rollups.
func (s *session) balanced() {
	s.Helper()
	for range 2 {
		require.Empty(s, list[string](s, `
			with jobs as materialized (
			  select id, queue, state, unique_key from awa.jobs
			), counts as (
			  select c.queue, v.state, v.jobs
			    from awa.queue_counts c
			   cross join lateral (values ('available', c.available), ('scheduled', c.scheduled), ('retryable', c.retryable),
			     ('running', c.running), ('waiting_external', c.waiting_external), ('completed', c.completed),
			     ('failed', c.failed), ('cancelled', c.cancelled), ('dead', c.dead)) v(state, jobs)
			   where v.jobs <> 0
			), rows as (
			  select 'entries' as name, lane from awa.ready_entries
			  union all select 'tombstones', lane from awa.ready_tombstones
			  union all select 'arrivals', lane from awa.arrivals
			  union all select 'claims', lane from awa.lease_claims where job_ids <> '{}'
			  union all select 'deferred jobs', lane from awa.deferred_jobs
			  union all select 'ended jobs', lane from awa.done_entries
			)
			select format('job %s is in %s states', id, count(*)) from jobs group by id having count(*) > 1
			union all -- what was pruned is only counted
			select format('%s %s: %s counted, %s shown', queue, state, n.jobs, j.jobs)
			  from counts n
			  full join (select queue, state, count(*) as jobs from jobs group by 1, 2) j using (queue, state)
			 where n.jobs is distinct from j.jobs
			   and not (
			     state = 'completed' and n.jobs > coalesce(j.jobs, 0)
			     and (select count(distinct l) > 1 from awa.ring, unnest(left_at) l)
			   )
			union all
			select format('key %s: held by %s, job %s is %s', key, u.job_id, j.id, j.state)
			  from (
			    select encode(key, 'hex') as key, job_id from awa.unique_claims where job_id is not null and held_until is null
			  ) u
			  full join (
			    select unique_key as key, id, state from jobs
			     where unique_key is not null and state in ('scheduled', 'available', 'running', 'retryable')
			  ) j using (key)
			 where u.job_id is distinct from j.id
			union all -- whatever there is lies in a lane that is known to be in use
			select format('%s in %s: lane %s', count(*), r.name, r.lane & 511)
			  from rows r
			 where r.lane not in (select q.lane from awa.queues q where q.lane is not null)
			 group by r.name, r.lane
			union all -- and so do tombstones
			select format('tombstones that lane %s is not known to have', t.lane & 511)
			  from awa.ready_tombstones t
			 where not exists (select from awa.queues q where q.lane = t.lane and q.has_tombstones)`))
		if s.db.PgConn().TxStatus() != 'I' {
			return
		}
		s.exec("select awa._fold(null, true)")
		require.Empty(s, list[string](s, "select concat_ws(': ', queue, problem) from awa.audit() where not balanced"),
			"audit")
	}
}

// Of two answers for one attempt the first counts, if it commits, and the second is stale. If it rolls back the second
// counts.
func TestTwoAnswersAtOnce(t *testing.T) {
	for _, shape := range shapes {
		t.Run(shape.name, func(t *testing.T) {
			d := newDatabase(t)
			a, b, watcher := d.session(), d.session(), d.session()
			for i, first := range answers {
				for k, second := range []answer{answers[0], answers[2], answers[7], answers[9]} {
					for _, end := range []string{"commit", "rollback"} {
						t.Log(first.call, second.call, end)
						jobs := a.open(fmt.Sprint(i, k, end), shape)
						j := jobs[len(jobs)-1]
						a.exec("begin")
						require.True(t, a.answers(first.call, j)())
						taken := b.answers(second.call, j)
						watcher.waitUntilBlocked(b)
						a.exec(end)
						want := first.state
						if end == "rollback" {
							want = second.state
						}
						require.Equal(t, end == "rollback", taken())
						require.Equal(t, want, a.state(j.JobID))
						a.refuses(j)
						a.completes(jobs[:len(jobs)-1])
					}
				}
			}
			a.balanced()
		})
	}
}

// An attempt that is overdue, and answered for in a transaction that stays open: rescue neither waits for it nor ends
// it, and ends the others.
func TestRescueBesideAnOpenAnswer(t *testing.T) {
	for _, shape := range shapes {
		t.Run(shape.name, func(t *testing.T) {
			d := newDatabase(t)
			a, b := d.session(), d.session().neverWaits()
			for i, first := range answers {
				for _, end := range []string{"commit", "rollback"} {
					t.Log(first.call, end)
					queue := fmt.Sprint(i, end)
					jobs := a.open(queue, shape)
					others := append(a.open(queue+" one", shapes[0]), a.open(queue+" three", shapes[2])...)
					a.halfAnHourLater()
					a.exec("begin")
					require.True(t, a.answers(first.call, jobs[0])())
					left := a.keeps(jobs)
					if shape.materialized {
						left = 1
					}
					require.Equal(t, int64(len(others)+len(jobs)-left), b.rescue())
					for _, j := range others {
						require.Equal(t, "retryable", b.state(j.JobID))
						b.refuses(j)
					}
					require.Zero(t, b.rescue())
					require.Equal(t, "running", b.state(jobs[0].JobID))
					a.exec(end)
					if end == "rollback" {
						require.Equal(t, int64(left), b.rescue())
						require.Equal(t, "retryable", a.state(jobs[0].JobID))
					} else {
						require.Equal(t, int64(left-1), b.rescue())
						require.Equal(t, first.state, a.state(jobs[0].JobID))
					}
					a.refuses(jobs[0])
				}
			}
			a.balanced()
		})
	}
}

// The claims of a single job have no lock that rescue could try. Many of them, closed in one transaction that stays
// open, cost it milliseconds each, and the rest of its batch nothing.
func TestRescueBesideAnOpenCompleteMany(t *testing.T) {
	for _, end := range []string{"commit", "rollback"} {
		d := newDatabase(t)
		a, b := d.session(), d.session().neverWaits()
		var held, others []claimed
		for range 20 {
			held = append(held, a.open("q", shapes[0])...)
			others = append(others, a.open("q", shapes[0])...)
		}
		a.halfAnHourLater()
		a.exec("begin")
		require.Empty(t, a.completeMany(held))
		require.Equal(t, int64(len(others)), b.rescue())
		require.Equal(t, "running", b.state(held[0].JobID))
		a.exec(end)
		if end == "commit" {
			require.Zero(t, b.rescue())
			require.Equal(t, int64(len(held)), one[int64](a, "select completed from awa.queue_counts('q')"))
		} else {
			require.Equal(t, int64(len(held)), b.rescue())
			require.Equal(t, ids(held), a.completeMany(held))
		}
		require.Equal(t, ids(others), a.completeMany(others))
		a.balanced()
	}
}

// The other way round: an answer waits for the rescue of its attempt, and is stale.
func TestAnswerBesideAnOpenRescue(t *testing.T) {
	for _, shape := range shapes {
		t.Run(shape.name, func(t *testing.T) {
			d := newDatabase(t)
			a, b, watcher := d.session(), d.session(), d.session()
			for i, second := range answers {
				for _, end := range []string{"commit", "rollback"} {
					t.Log(second.call, end)
					jobs := a.open(fmt.Sprint(i, end), shape)
					a.halfAnHourLater()
					a.exec("begin")
					require.Equal(t, int64(len(jobs)), a.rescue())
					taken := b.answers(second.call, jobs[0])
					watcher.waitUntilBlocked(b)
					a.exec(end)
					require.Equal(t, end == "rollback", taken())
					if end == "commit" {
						require.Equal(t, "retryable", a.state(jobs[0].JobID))
						require.Equal(t, "lease expired",
							one[string](a, "select errors -> -1 ->> 'error' from awa.job($1)", jobs[0].JobID))
					} else {
						require.Equal(t, second.state, a.state(jobs[0].JobID))
					}
					a.refuses(jobs[0])
					a.rescue()
				}
			}
			a.balanced()
		})
	}
}

// A business transaction that answers for an attempt, and an operator who cancels the job: the operator waits, for a
// bounded time, and then learns how it ended.
func TestCancelBesideAnOpenAnswer(t *testing.T) {
	for _, shape := range shapes {
		t.Run(shape.name, func(t *testing.T) {
			d := newDatabase(t)
			a, b, watcher := d.session(), d.session().neverWaits(), d.session()
			for i, first := range answers {
				for _, end := range []string{"commit", "rollback"} {
					t.Log(first.call, end)
					jobs := a.open(fmt.Sprint(i, end), shape)
					j := jobs[0]
					a.exec("update awa.settings set claim_wait = '20 milliseconds'")
					a.exec("begin")
					require.True(t, a.answers(first.call, j)())
					require.Equal(t, "55P03", sqlState(b.try("select awa.cancel($1)", j.JobID)))
					require.Equal(t, "running", b.state(j.JobID))
					b.exec("update awa.settings set claim_wait = '9 seconds'")

					wait := b.background("select awa.cancel($1)", j.JobID)
					watcher.waitUntilBlocked(b)
					a.exec(end)
					switch err := wait(); {
					case end == "commit" && (first.state == "completed" || first.state == "failed" || first.state == "cancelled"):
						require.Equal(t, "JQ005", sqlState(err))
						require.Equal(t, first.state, a.state(j.JobID))
					default: // it is where the answer left it, or still runs: cancelled from there
						require.NoError(t, err)
						require.Equal(t, "cancelled", a.state(j.JobID))
					}
					a.refuses(j)
					a.completes(jobs[1:])
				}
			}
			a.balanced()
		})
	}
}

// The other way round: an answer waits for the cancel of a job that runs, and is stale.
func TestAnswerBesideAnOpenCancel(t *testing.T) {
	for _, shape := range shapes {
		t.Run(shape.name, func(t *testing.T) {
			d := newDatabase(t)
			a, b, watcher := d.session(), d.session(), d.session()
			for i, second := range answers {
				for _, end := range []string{"commit", "rollback"} {
					t.Log(second.call, end)
					jobs := a.open(fmt.Sprint(i, end), shape)
					j := jobs[0]
					a.exec("begin")
					require.Equal(t, "running", one[string](a, "select awa.cancel($1, 'not wanted')", j.JobID))
					require.Equal(t, "cancelled", a.state(j.JobID))
					taken := b.answers(second.call, j)
					watcher.waitUntilBlocked(b)
					require.Equal(t, "running", watcher.state(j.JobID))
					watcher.neverWaits().completes(jobs[1:])
					a.exec(end)
					require.Equal(t, end == "rollback", taken())
					if end == "commit" {
						require.Equal(t, "cancelled", a.state(j.JobID))
						require.Equal(t, "not wanted", one[string](a, "select errors -> -1 ->> 'error' from awa.job($1)", j.JobID))
					} else {
						require.Equal(t, second.state, a.state(j.JobID))
					}
					a.refuses(j)
				}
			}
			a.balanced()
		})
	}
}

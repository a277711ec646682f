package sql_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// Whoever may connect can take an advisory lock of any key. Each call that needs it waits for claim_wait, and says who
// is in the way; health does so too. Nothing waits for a worker that is not there.
func TestLocksThatAnybodyTakes(t *testing.T) {
	d := newDatabase(t)
	s, neighbour, worker := d.session(), d.session(), d.session()
	s.exec("update awa.settings set claim_wait = '50 milliseconds'")
	for _, c := range []struct {
		name, key string
		shared    bool
		health    string
		calls     []string
	}{
		{"queue", "awa._queue_key(awa._queue_id('q'))", false, "the lock of queue q",
			[]string{"select awa.claim('q')", "select awa.drop_queue('q', true)"}},
		{"shards", "awa._shards_key(awa._queue_id('q'))", false, "the lock of the number of shards of queue q", []string{
			"select awa.enqueue('q', 'k', group_key => 'g')", `select awa.configure_queue('q', '{"shards": 3}')`}},
		{"numbers of shards", "awa._many_shards_key()", false, "the lock of the numbers of shards", []string{
			"select awa.enqueue_batch((select jsonb_agg(jsonb_build_object('queue', 'q' || n, 'kind', 'k', 'group_key', 'g')) " +
				"from generate_series(1, 65) n))", `select awa.configure_queue('q', '{"shards": 3}')`}},
		{"worker", "awa._worker_key($worker)", false, "the lock of worker $worker",
			[]string{"select awa.claim('q', worker_id => $worker)", "select awa.deregister_worker($worker)",
				"select awa.release_unknown($worker, '{}', '{}')"}},
		{"worker, shared", "awa._worker_key($worker)", true, "the lock of worker $worker",
			[]string{"select awa.deregister_worker($worker)", "select awa.release_unknown($worker, '{}', '{}')"}},
		{"claim", "awa._claim_key($claim)", false, "the lock of claim $claim", []string{
			"select awa.complete($job, $receipt)", "select awa.complete_many('{$job}', '{$receipt}')",
			"select awa.fail($job, $receipt, 'e')", "select awa.fail_many('{$job}', '{$receipt}', '{e}')",
			"select awa.cancel($job)",
			"select awa.discard($job, $receipt, 'e')", "select awa.put_off($job, $receipt, 'e')",
			"select awa.release($job, $receipt)", "select awa.snooze($job, $receipt, '1 second')",
			"select awa.cancel_attempt($job, $receipt)",
			"select awa.extend($job, $receipt, '1 hour')", "select awa.set_progress($job, $receipt, '1')",
			"select awa.drop_queue('q', true)"}},
		{"answers for many claims", "awa._crowd_key()", false, "the lock of answers for many claims",
			[]string{"select awa.complete_many($jobs, $receipts)", "select awa.deregister_worker($worker)"}},
		{"counts", "awa._fold_key()", false, "", []string{"select awa.drop_queue('q', true)"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.exec("select awa.enqueue_many('q', 'k', array_fill('{}'::jsonb, array[150]))")
			workerID := s.registerWorker()
			s.exec(fmt.Sprintf("do $$ begin for n in 1..70 loop perform awa.claim('q', 2, %d); end loop; end $$", workerID))
			rows, err := s.db.Query(s.ctx, "select o.job_id, o.receipt from awa._open_items o order by o.receipt")
			require.NoError(t, err)
			open, err := pgx.CollectRows(rows, pgx.RowToStructByPos[claimed])
			require.NoError(t, err)
			array := func(values []int64) string {
				return "'{" + strings.Trim(strings.ReplaceAll(fmt.Sprint(values), " ", ","), "[]") + "}'"
			}
			with := strings.NewReplacer("$jobs", array(ids(open)), "$receipts", array(receipts(open)), "$job",
				fmt.Sprint(open[0].JobID), "$receipt", fmt.Sprint(open[0].Receipt),
				"$claim", fmt.Sprint(open[0].Receipt>>12), "$worker", fmt.Sprint(workerID)).Replace
			neighbour.exec(with(fmt.Sprintf("select pg_advisory_lock%s(%s)", map[bool]string{true: "_shared"}[c.shared], c.key)))
			for _, call := range c.calls {
				for _, own := range []string{"0", "7s", "10ms"} {
					worker.exec("set lock_timeout = '" + own + "'")
					err := worker.try(with(call))
					require.Equal(t, "55P03", sqlState(err), call)
					require.Contains(t, err.(*pgconn.PgError).Detail, fmt.Sprint("for backend ", neighbour.pid), call)
					require.NotEmpty(t, err.(*pgconn.PgError).Hint)
					require.Equal(t, own, one[string](worker, "show lock_timeout"), "the caller's own setting is as before")
				}
			}
			require.Equal(t, int64(0), one[int64](worker, "select awa.deregister_worker(-5)"))
			for _, pass := range []string{"materialize('0')", "rescue()", "promote_due()", "fire_due()", "expire_history()",
				"fold()", "forget_workers()", "end_stuck_claimers()", "summarize()"} {
				worker.exec("select * from awa." + pass) // maintenance waits for no other session
			}
			if c.health != "" {
				s.exec("update awa.settings set claim_wait = '1 millisecond'")
				require.Eventually(t, func() bool {
					return one[bool](s,
						"select exists (select from awa.health() h where h.level = 'warning' and h.topic = 'claimer' and (h.details "+
							"->> 'pid')::int = $1 and strpos(h.message, $2) > 0)", neighbour.pid, with("has held "+c.health))
				}, patience, 50*time.Millisecond, "health does not name it")
				s.exec("update awa.settings set claim_wait = '50 milliseconds'")
			}
			neighbour.exec("select pg_advisory_unlock_all()")
			require.Zero(t, one[int](s, "select count(*) from awa.health() where topic = 'claimer'"))
			s.exec("select awa.drop_queue('q', true), awa.deregister_worker($1)", workerID)
			s.balanced()
		})
	}
}

// A worker that was never registered is not locked: whoever holds its key is in no session's way.
func TestUnknownWorkerIsNotLocked(t *testing.T) {
	d := newDatabase(t)
	s, neighbour := d.session().neverWaits(), d.session()
	neighbour.exec("select pg_advisory_lock(awa._worker_key(9223372036854775807)), pg_advisory_lock(awa._worker_key(7))")
	require.Equal(t, int64(0),
		one[int64](s, "select awa.deregister_worker(9223372036854775807) + awa.deregister_worker(7)"))
}

// Locks whose keys are none of Awa's, however odd, do not keep health and explain_job from answering.
func TestLocksOfOthers(t *testing.T) {
	d := newDatabase(t)
	s, neighbour := d.session(), d.session()
	job := s.enqueue("q")
	neighbour.exec("select pg_advisory_lock(k) from " +
		"unnest('{-9223372036854775808,9223372036854775807,-1,0,1,-4611686018427387904,-2305843009213693952}'::bigint[]) k")
	neighbour.exec("select pg_advisory_lock(-2147483648, 2147483647), pg_advisory_lock(0, 0)")
	require.Zero(t, one[int](s, "select count(*) from awa.health() where topic = 'claimer'"))
	require.NotEmpty(t, one[string](s, "select awa.explain_job($1)", job))
	require.Len(t, s.claim("q", 1), 1)
}

// A transaction that has decided before its end (set constraints all immediate) holds the queue. A session that then
// stays idle is ended after a second; where its own limit is shorter, it stays.
func TestIdleAfterADecision(t *testing.T) {
	d := newDatabase(t)
	s, idle := d.session(), d.session()
	cancelled, other := s.enqueue("q"), s.enqueue("q")
	idle.exec(fmt.Sprintf("begin; select awa.cancel(%d); set constraints all immediate", cancelled))
	require.Eventually(t, func() bool {
		return one[bool](s, "select not exists (select from pg_stat_activity where pid = $1)", idle.pid)
	}, patience, 50*time.Millisecond, "the session goes on")
	require.ElementsMatch(t, []int64{cancelled, other}, ids(s.claim("q", 9)),
		"what it did is rolled back, and its lock is gone")

	for own, during := range map[string]string{"0": "1s", "1h": "1s", "1s": "1s", "500ms": "500ms"} {
		s := d.session()
		first, second := s.enqueue("r"), s.enqueue("r")
		s.exec("set idle_in_transaction_session_timeout = '" + own + "'")
		// In one message, so that a busy machine does not make it idle.
		s.exec(fmt.Sprintf(`begin; select awa.cancel(%d); set constraints all immediate;
			do $$ begin if current_setting('idle_in_transaction_session_timeout') <> '%s' then raise exception '%% for %s',
			current_setting('idle_in_transaction_session_timeout'); end if; end $$; commit`, first, during, own))
		require.Equal(t, own, one[string](s, "show idle_in_transaction_session_timeout"), "as before")
		s.exec("select awa.cancel($1)", second)
		require.Equal(t, own, one[string](s, "show idle_in_transaction_session_timeout"),
			"also after a transaction that decided at its commit")
	}
}

// What readers put into where is given no job that they may not see: one that was dropped, purged, deleted, that its
// queue no longer keeps, or that is shown elsewhere.
func TestConditionsSeeNoOtherJobs(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	role := fmt.Sprintf("reader_%d", s.pid)
	s.exec("create role " + role + " in role awa_reader; grant create on database " +
		one[string](s, "select quote_ident(current_database())") + " to " + role)
	t.Cleanup(func() { s.exec("reset role; drop owned by " + role + "; drop role " + role) })
	enqueue := func(queue, secret string) int64 {
		return one[int64](s, "select awa.enqueue($1, 'k', jsonb_build_object('in', $1::text, 'secret', $2::text))", queue,
			secret)
	}
	enqueue("dropped", "dropped")
	s.exec("select awa.drop_queue('dropped', true)")
	kept := enqueue("cancelled", "cancelled")
	s.exec("select awa.cancel($1)", kept)
	s.exec("select awa.configure_queue('dead', '{\"dead_letter\": true}')")
	enqueue("dead", "purged")
	dead := s.claim("dead", 1)[0]
	s.exec("select awa.discard($1, $2, 'e')", dead.JobID, dead.Receipt)
	require.Equal(t, int64(1), one[int64](s, "select awa.purge_dlq('dead')"))
	for _, completed := range []string{"deleted", "deleted with an output", "expired", "expired with an output"} {
		queue := strings.Fields(completed)[0]
		id := enqueue(queue, completed)
		job := s.claim(queue, 1)[0]
		s.exec("select awa.complete($1, $2, $3)", job.JobID, job.Receipt,
			map[bool]any{true: 1}[strings.HasSuffix(completed, "output")])
		if queue == "deleted" {
			s.exec("select awa.delete_job($1)", id)
		}
	}
	s.exec("select awa.configure_queue('expired', '{\"completed_retention\": \"1 millisecond\"}')")
	enqueue("q", "available")

	s.exec("set role " + role + "; create schema curious; create table curious.seen (secret text)")
	s.exec(`create function curious.look(args jsonb) returns boolean language plpgsql cost 0.0001 as $$ begin
		insert into curious.seen values (args ->> 'secret'); return true; end $$;
		create function curious.looks(
		  args jsonb,
		  other jsonb
		) returns
		  boolean language plpgsql cost 0.0001 as $$ begin insert into curious.seen values (args ->> 'secret');
		  return true; end $$;
		create operator curious.=~ (leftarg = jsonb, rightarg = jsonb, function = curious.looks)`)
	for _, sql := range []string{
		"select id from awa.jobs j where curious.look(j.args)",
		"select count(*) from awa.jobs j where curious.look(j.args) and j.state <> 'x'",
		"select j.id from awa.jobs j join awa.jobs o on o.id = j.id and curious.look(o.args)",
		"select id from awa.jobs j where j.args operator(curious.=~) '{}'",
		"select id from (select * from awa.jobs order by id limit 10) j where curious.look(j.args)",
		"select id from awa.jobs_compat() j where curious.look(j.args)",
		"select id from awa.list_jobs() j where curious.look(j.args)",
	} {
		s.exec("truncate curious.seen")
		s.exec(sql)
		require.ElementsMatch(t, []string{"available", "cancelled"},
			list[string](s, "select distinct secret from curious.seen"), sql)
	}
}

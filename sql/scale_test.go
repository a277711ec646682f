package sql_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// Maintenance looks at the queues that were claimed from, and at all of them only now and then.
func TestMaintenanceLooksAtBusyQueues(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.exec("select awa.enqueue('quiet' || n, 'k') from generate_series(1, 100) n")
	s.exec("select setval('awa.next_fold_at', 1), awa._fold()")
	require.True(t, one[bool](s, "select last_value > extract(epoch from now()) * 1000000 from awa.next_fold_at"))
	// not for now
	s.exec("select setval('awa.next_fold_at', (extract(epoch from now() + interval '30 minutes') * 1000000)::bigint)")
	require.Equal(t, "{}", one[string](s, "select array(select awa._busy_queues())::text"))
	counted := one[int64](s, "select count(*) from awa.queue_rollups")

	s.exec("select awa.enqueue('busy', 'k') from generate_series(1, 3)")
	jobs := s.claim("busy", 2)
	require.True(t, one[bool](s, "select array(select awa._busy_queues()) = array[awa._queue_id('busy')]"))
	require.Equal(t, int64(2), one[int64](s, "select materialized from awa.materialize('0')"))
	s.exec("select awa.fold()")
	require.Equal(t, counted+1, one[int64](s, "select count(*) from awa.queue_rollups"), "the lane that was claimed from")
	require.Empty(t, s.completeMany(jobs))
	s.exec("update awa.lease_claims set claimed_at = claimed_at - interval '1 minute'")
	s.exec("select awa._fold(), awa._fold()")
	require.Equal(t, "{}", one[string](s, "select array(select awa._busy_queues())::text"),
		"all is counted, and no worker claims")

	// One that stays open is known, however long it lasts.
	s.exec("update awa.queue_rollups set folded_at = folded_at - interval '1 minute'")
	s.claim("quiet7", 1)
	s.exec("update awa.lease_claims set claimed_at = claimed_at - interval '1 minute'")
	s.exec("select awa._fold(), awa._fold()")
	require.Equal(t, int64(1), one[int64](s, "select materialized from awa.materialize('0')"))

	// One that was committed so late that maintenance has gone past it is found when all queues are looked at.
	s.claim("quiet8", 1)
	s.exec("select setval('awa.folded_until', (select last_value from awa.claim_ids))")
	require.Zero(t, one[int64](s, "select materialized from awa.materialize('0')"))
	s.exec("update awa.lease_claims set claimed_at = claimed_at - interval '11 seconds'")
	s.exec("update awa.queue_rollups set folded_at = folded_at - interval '1 minute'")
	s.exec("select setval('awa.next_fold_at', 1), awa._fold()")
	require.Equal(t, int64(1), one[int64](s, "select materialized from awa.materialize('0')"))
	s.balanced()
}

// Counts of all queues leave out the lanes in which nothing has happened since they were counted. A transaction that
// was open then, and commits afterwards, is not left out.
func TestCountsOfWhatCommitsLate(t *testing.T) {
	d := newDatabase(t)
	open, s := d.session(), d.session()
	count := func() string {
		return one[string](s,
			"select format('%s available, %s completed', available, completed) from awa.queue_counts() where queue = 'q'")
	}
	open.exec("begin")
	job := open.enqueue("q")
	s.enqueue("q") // later, and committed before
	require.Empty(t, s.completeMany(s.claim("q", 9)))
	s.exec("select awa._fold(null, true)")
	require.Equal(t, "0 available, 1 completed", count())
	open.exec("commit")
	require.Equal(t, "1 available, 1 completed", count())
	s.exec("select awa._fold(null, true)")
	require.Equal(t, "1 available, 1 completed", count())
	jobs := s.claim("q", 9)
	require.Equal(t, []int64{job}, ids(jobs))
	require.Equal(t, int64(1), one[int64](s, "select running from awa.queue_counts()"))
	require.Empty(t, s.completeMany(jobs))
	require.Equal(t, "0 available, 2 completed", count())
	s.balanced()
}

// Counting is done in parts, where there is much of it: maintenance that may take only so long would never come to its
// end.
func TestCountingInParts(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	const queues = 20
	s.exec("set jit = off") // to compile the views takes seconds on a busy machine
	s.exec("select awa.enqueue('queue ' || n, 'k') from generate_series(1, $1) n", queues)
	counted := func() int { return one[int](s, "select count(*) from awa.queue_rollups where enqueued = 1") }
	short := func(call string) string { // as with a statement_timeout, which does not end this statement
		return one[string](s, "select f::text from set_config('statement_timeout', '1ms', true), "+call+" f")
	}
	for calls := 1; ; calls++ {
		s.exec("select setval('awa.next_fold_at', 1)")
		if short("awa._fold()") == "false" {
			require.Equal(t, queues, calls)
			break
		}
		require.Equal(t, calls, counted(), "one lane in each call, another one each time")
		require.Equal(t, int64(1), one[int64](s, "select last_value from awa.next_fold_at"), "and the next pass goes on")
		require.Less(t, calls, queues)
	}
	require.Equal(t, queues, counted())

	// Where jobs come all the time, the next call goes on where the last one was cut off.
	s.exec("select awa.enqueue('queue ' || n, 'k') from generate_series(1, $1) n", queues)
	s.exec("update awa.queue_rollups set folded_at = now() - interval '1 minute'")
	s.exec("select setval('awa.next_fold_at', 1), setval('awa.fold_from', (select lane from awa.queue_rollups order by " +
		"lane limit 1) + 1)")
	require.Equal(t, "false", short("awa._fold()"), "this pass ends here")
	require.True(t, one[bool](s, "select enqueued = 2 from awa.queue_rollups order by lane limit 1"))

	// So does cleaning, which counts first.
	s.rotate()
	for calls := 2; ; calls++ {
		outcome := short("awa.prune_oldest(true)")
		require.Equal(t, calls, one[int](s, "select count(*) from awa.queue_rollups where enqueued = 2"))
		if outcome == "(0,cleaned)" {
			require.Equal(t, queues, calls)
			break
		}
		require.Equal(t, "(0,cleaning)", outcome)
		require.Less(t, calls, queues)
	}
	s.balanced()
}

// However much has come to one lane, a call counts only a part of it, and the next one goes on. Counts are exact all
// the time.
func TestCountingOneLaneInParts(t *testing.T) {
	d := newDatabase(t)
	open, s := d.session(), d.session()
	s.exec("set jit = off")
	const jobs = 2000
	open.exec("begin")
	open.enqueue("q") // in progress while the others are counted
	s.exec("do $$ begin for n in 1..1000 loop perform awa.enqueue('q', 'k'), awa.enqueue('q', 'k', run_at => now() + " +
		"interval '1 hour'); commit; end loop; end $$")
	s.exec("do $$ begin for n in 1..1000 loop perform awa.enqueue('q', 'k'); commit; end loop; end $$")
	counted := func() int { return one[int](s, "select coalesce(sum(appended), 0) from awa.queue_rollups") }
	exact := func(more int) {
		require.Equal(t, fmt.Sprintf("%d available, 1000 scheduled", jobs+more),
			one[string](s, "select format('%s available, %s scheduled', available, scheduled) from awa.queue_counts()"))
		require.Empty(t, list[string](s, "select problem from awa.audit() where not balanced"))
	}
	calls, before := 0, 0
	for more := true; more; calls++ {
		s.exec("select setval('awa.next_fold_at', 1)")
		more = one[bool](s, "select f from set_config('statement_timeout', '1ms', true), awa._fold() f")
		require.Less(t, calls, 50)
		require.Less(t, counted()-before, jobs/2)
		before = counted()
		if calls%5 == 0 {
			exact(0)
		}
	}
	require.Equal(t, jobs, before)
	require.Greater(t, calls, 3)
	open.exec("commit")
	exact(1)
	s.exec("select awa._fold(null, true)")
	require.Equal(t, jobs+1, counted())
	exact(1)

	// So are claims, and what was cancelled.
	taken := s.claim("q", 500)
	require.Empty(t, s.completeMany(taken))
	s.exec("select awa.cancel(id) from awa.list_jobs(state => 'available', max_jobs => 300)")
	for one[bool](s,
		"select f from setval('awa.next_fold_at', 1), set_config('statement_timeout', '1ms', true), awa._fold() f") {
		require.Less(t, calls, 1000)
		calls++
	}
	s.balanced()
}

// Cleaning counts what is in its segment, lane by lane, and comes to its end though all lanes change faster than it
// counts them.
func TestCleaningBesideManyChanges(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.exec("set jit = off")
	const queues = 10
	put := func() { s.exec("select awa.enqueue('queue ' || n, 'k') from generate_series(1, $1) n", queues) }
	put()
	require.Empty(t, s.completeMany(s.claim("queue 1", 1)))
	s.rotate()
	for calls := 1; ; calls++ {
		put()
		outcome := one[string](s, "select outcome from set_config('statement_timeout', '1ms', true), awa.prune_oldest(true)")
		if outcome == "cleaned" {
			break
		}
		require.Equal(t, "cleaning", outcome)
		require.LessOrEqual(t, calls, queues)
	}
	require.Empty(t, list[string](s, "select problem from awa.audit() where not balanced"))
	require.Equal(t, "truncated", s.pruneOn())
	s.balanced()
	s.audited()
}

// A cursor that is carried is counted where all before it was: otherwise maintenance would look at each lane once more.
func TestCarriedCursorsAreCounted(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	for n := range 10 {
		q := fmt.Sprintf("queue %d", n)
		s.enqueue(q)
		require.Empty(t, s.completeMany(s.claim(q, 1)))
	}
	s.exec("select awa._fold(null, true)")
	s.rotate()
	require.Equal(t, "cleaned", one[string](s, "select outcome from awa.prune_oldest(true)"))
	require.Equal(t, 10, one[int](s, "select count(*) from awa._cursors_in(1::smallint)"))
	require.Zero(t, one[int](s, "select count(*) from awa._lanes_in_use() l where not l.is_counted"))
	require.Equal(t, "truncated", s.pruneOn())
	s.audited()
	require.Empty(t, s.claim("queue 3", 1))
}

// Lanes that are read some at a time are the same as those that are read at once.
func TestLanesInPieces(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	for n := range 20 {
		q := fmt.Sprintf("queue %d", n)
		s.exec("select awa.enqueue($1, 'k', priority => 1), awa.enqueue($1, 'k', priority => 4)", q)
		s.exec("select awa.enqueue($1 || 'later', 'k', run_at => now() + interval '1 hour')", q) // a note
		if n%3 == 0 {
			require.Empty(t, s.completeMany(s.claim(q, 1)))
		}
		if n == 7 {
			s.exec("select awa._fold(null, true)")
			s.rotate()
		}
	}
	s.exec("select awa.cancel(id) from awa.list_jobs(state => 'available', max_jobs => 5)")
	s.exec("select awa.delete_job(id) from awa.list_jobs(state => 'completed', max_jobs => 5)")
	s.exec(`create function pieces() returns setof text language plpgsql as $$
		declare v_before bigint; v_lane record; v_found bool;
		begin
		  loop
		    v_found := false;
		    for v_lane in select * from awa._lanes_in_use(v_before, 7) loop
		      if v_lane.lane >= v_before then raise exception 'lane % comes after %', v_lane.lane, v_before; end if;
		      v_before := v_lane.lane; v_found := true; return next v_lane::text;
		    end loop;
		    exit when not v_found;
		  end loop;
		end $$`)
	require.Greater(t, one[int](s, "select count(*) from pieces()"), 50)
	require.Equal(t, list[string](s, "select l::text from awa._lanes_in_use() l order by l.lane desc"),
		list[string](s, "select * from pieces()"))
}

// A step of maintenance takes only its share of the caller's timeouts, of both of them: a transaction_timeout ends the
// session, and what was done is undone.
func TestShareOfTimeouts(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	share := func() string { return one[string](s, "select awa._budget('10 seconds', 10)::text") }
	require.Equal(t, "00:00:10", share())
	s.exec("set statement_timeout = '30s'")
	require.Equal(t, "00:00:03", share())
	if one[bool](s, "select current_setting('server_version_num')::int < 170000") {
		t.Skip("transaction_timeout came with PostgreSQL 17")
	}
	s.exec("set transaction_timeout = '20s'")
	require.Equal(t, "00:00:02", share())
	s.exec("set statement_timeout = 0")
	require.Equal(t, "00:00:02", share())
}

// A pass goes past an open claim only when the one before has noted it. Where both are rolled back, in one transaction,
// the claim is found when all queues are looked at.
func TestPassThatIsRolledBack(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.enqueueMany("q", 1)
	s.exec("select setval('awa.next_fold_at', 1), awa._fold()")
	s.claim("q", 1)
	s.exec("update awa.lease_claims set claimed_at = claimed_at - interval '1 minute'")
	s.exec("update awa.queue_rollups set folded_at = folded_at - interval '1 minute'")
	began := one[float64](s, "select extract(epoch from clock_timestamp())")
	s.exec("begin")
	s.exec("select awa._fold()")
	s.exec("rollback")
	require.NotEqual(t, "{}", one[string](s, "select array(select awa._busy_queues())::text"))
	s.exec("begin")
	s.exec("select setval('awa.next_fold_at', 1), awa._fold(), awa._fold()") // at worst it has looked at all queues, too
	s.exec("rollback")
	took := one[float64](s, "select extract(epoch from clock_timestamp())") - began
	require.Equal(t, "{}", one[string](s, "select array(select awa._busy_queues())::text"), "it is not known")
	require.Less(t, one[float64](s, "select last_value / 1000000.0 from awa.next_fold_at"), began+51*took,
		"until fifty times as long has passed as the look took")
	s.exec("select setval('awa.next_fold_at', 1), awa._fold()")
	require.Equal(t, int64(1), one[int64](s, "select materialized from awa.materialize('0')"))
	s.balanced()
}

// The name of a dropped queue goes away with its last row; not while somebody who has seen it may still enqueue without
// looking again.
func TestDroppedQueuesAreForgotten(t *testing.T) {
	d := newDatabase(t)
	producer, s := d.session(), d.session()
	names := func() int { return one[int](s, "select count(distinct queue_id) from awa.queues") }
	look := func() { s.exec("select setval('awa.next_fold_at', 1)"); s.exec("select awa._fold()") } // as maintenance does
	forget := func() { look(); look() }
	s.enqueue("q")
	producer.exec("begin isolation level repeatable read")
	require.Equal(t, 1, one[int](producer, "select count(distinct queue_id) from awa.queues"))
	s.exec("select awa.drop_queue('q', true)")
	forget()
	require.Equal(t, 1, names(), "its entry is still there")
	s.rotate()
	s.exec("truncate awa.ready_entries, awa.ready_tombstones") // as after their retention
	forget()
	require.Equal(t, 1, names(), "an old snapshot sees the name")
	job := producer.enqueue("q")
	s.exec("begin")
	s.exec("select awa._forget_queues()")
	s.exec("commit")
	require.Equal(t, 1, names())
	producer.exec("commit")
	forget()
	require.Equal(t, 1, names(), "there is a job again")
	require.Equal(t, []int64{job}, ids(s.claim("q", 9)))

	// A transaction without a snapshot, that has found the name before the queue was dropped, and is not committed yet
	producer.exec("begin")
	job = producer.enqueue("q")
	producer.exec("savepoint s") // which lets go of the snapshot of the statement before it
	s.exec("select awa.drop_queue('q', true)")
	s.exec("truncate awa.lease_claims, awa.lease_claim_closures")
	s.exec("delete from awa.ready_tombstones")
	s.exec("delete from awa.arrivals")
	s.exec("delete from awa.ready_entries")
	forget()
	require.Equal(t, 1, names(), "its transaction is older than the mark")
	producer.exec("commit")
	forget()
	require.Equal(t, 1, names(), "there is a job again")
	require.Equal(t, []int64{job}, ids(s.claim("q", 9)))

	s.exec("select awa.drop_queue('q', true)")
	s.exec("truncate awa.ready_entries, awa.ready_tombstones, awa.arrivals, awa.lease_claims, awa.lease_claim_closures")
	forget()
	require.Zero(t, names())
	require.Zero(t, one[int](s, "select count(*) from awa.queue_rollups"))
	s.enqueue("q")
	s.balanced()
}

// Nor while a transaction is open that has found the name before the drop, got its id after it, and is the last one
// that has begun: it is younger than what the snapshots of others end with.
func TestDroppedQueueBesideTheYoungestTransaction(t *testing.T) {
	d := newDatabase(t)
	producer, blocker, s := d.session(), d.session(), d.session()
	s.enqueue("q")
	s.exec(changing("_append", "v_segment := awa._current_segment();",
		"v_segment := awa._current_segment(); perform pg_advisory_lock_shared(42), pg_advisory_unlock_shared(42);"))
	blocker.exec("select pg_advisory_lock(42)")
	producer.exec("begin")
	ended := producer.background("select awa.enqueue_many('q', 'k', array['{}'::jsonb])")
	s.waitUntilBlocked(producer)
	s.exec("select awa.drop_queue('q', true)")
	s.exec("truncate awa.lease_claims, awa.lease_claim_closures, awa.ready_tombstones, awa.arrivals")
	s.exec("delete from awa.ready_entries")
	blocker.exec("select pg_advisory_unlock(42)")
	require.NoError(t, ended())
	for range 4 {
		s.exec("select setval('awa.next_fold_at', 1)")
		s.exec("select awa._fold()")
	}
	require.Equal(t, 1, one[int](s, "select count(distinct queue_id) from awa.queues"))
	producer.exec("commit")
	require.Len(t, s.claim("q", 9), 1)
}

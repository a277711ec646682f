package sql_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

func (s *session) setShards(queue string, shards int) {
	s.Helper()
	s.exec("select awa.configure_queue($1, jsonb_build_object('shards', $2::int))", queue, shards)
}

// group returns the key of a group whose jobs go to a shard, of so many.
func (s *session) group(shard, shards int) string {
	s.Helper()
	return one[string](s,
		"select 'group ' || n from generate_series(1, 10000) n where awa._group_bits('group ' || n) % $2 = $1 limit 1",
		shard, shards)
}

func (s *session) enqueueGroup(queue, group string, jobs int) []int64 {
	s.Helper()
	return list[int64](s,
		"select awa.enqueue_many($1, 'k', array_fill('{}'::jsonb, array[$3::int]), group_key => $2)", queue, group, jobs)
}

// shardsOf returns the shards in which the available jobs of a queue lie.
func (s *session) shardsOf(queue string) []int {
	s.Helper()
	return list[int](s,
		"select distinct (lane >> 3 & 63)::int from awa._available where queue_id = awa._queue_id($1) order by 1", queue)
}

// Two claimers at the same time get jobs of two shards, and neither waits. A third one waits, for whichever is free
// first, for a bounded time, and says who holds the shards.
func TestClaimersOfShards(t *testing.T) {
	d := newDatabase(t)
	a, b, c, watcher := d.session(), d.session(), d.session(), d.session()
	b.neverWaits()
	a.setShards("q", 2)
	jobs := [][]int64{a.enqueueGroup("q", a.group(0, 2), 20), a.enqueueGroup("q", a.group(1, 2), 20)}
	of := func(claimed []claimed) int {
		t.Helper()
		require.NotEmpty(t, claimed)
		for shard := range jobs {
			if slices.Contains(jobs[shard], claimed[0].JobID) {
				require.Subset(t, jobs[shard], ids(claimed))
				return shard
			}
		}
		return -1
	}
	for range 8 { // wherever they begin
		a.exec("begin")
		b.exec("begin")
		require.ElementsMatch(t, []int{0, 1}, []int{of(a.claim("q", 1)), of(b.claim("q", 1))})
		a.exec("commit")
		b.exec("commit")
	}
	a.exec("begin")
	held := of(a.claim("q", 1))
	require.Equal(t, 1-held, of(b.claim("q", 100)), "it takes what it can have, and does not wait for the rest")
	require.Equal(t, []int{held}, watcher.shardsOf("q"))
	// With nothing in hand, it waits for the shard that has something.
	wait := c.background("create table taken as select job_id from awa.claim('q')")
	watcher.waitUntilBlocked(c)
	a.exec("commit")
	require.NoError(t, wait())
	require.Subset(t, jobs[held], list[int64](c, "select job_id from taken"))

	more := a.enqueueGroup("q", a.group(1-held, 2), 3)
	a.exec("update awa.settings set claim_wait = '80 milliseconds'")
	a.exec("begin")
	b.exec("begin")
	of(a.claim("q", 1))
	require.NotEmpty(t, b.claim("q", 1))
	err := c.try("select awa.claim('q')")
	require.Equal(t, "55P03", sqlState(err))
	for _, holder := range []*session{a, b} {
		require.Contains(t, err.(*pgconn.PgError).Detail, fmt.Sprint("backend ", holder.pid))
	}
	require.Equal(t, "0", one[string](c, "show lock_timeout"))
	a.exec("commit")
	b.exec("commit")
	require.Subset(t, append(jobs[held], more...), ids(c.claim("q", 100)))
}

// A claim that holds a shard, in which there turned out to be nothing, waits for another one for a moment only: that
// one's claim may be waiting for this shard.
func TestClaimWithAnEmptyShardWaitsForAMoment(t *testing.T) {
	d := newDatabase(t)
	a, b := d.session(), d.session()
	a.exec("update awa.settings set claim_wait = '1 hour'")
	b.exec("set statement_timeout = '20 s'")
	a.setShards("q", 2)
	jobs := a.enqueueGroup("q", a.group(0, 2), 20)
	for range 4 {
		buried := a.enqueueGroup("q", a.group(1, 2), 1)
		a.exec("select awa.cancel($1)", buried[0]) // a look does not tell it from others
		a.exec("begin")
		require.Subset(t, jobs, ids(a.claim("q", 1)))
		if !one[bool](a, "select count(*) = 1 from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()") {
			a.exec("commit") // it holds both
			continue
		}
		require.Empty(t, b.claim("q", 1))
		require.Equal(t, "0", one[string](b, "show lock_timeout"))
		a.exec("commit")
	}
	require.NotEmpty(t, b.claim("q", 1))
}

// locks returns how many advisory locks a session holds.
func (s *session) locks() int {
	s.Helper()
	return one[int](s, "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()")
}

// withIdleShards is a queue of two shards, each of which was used, and is empty. A transaction was in progress when
// they were read to their ends. It rolls back.
func withIdleShards(t *testing.T) (a, b *session, groups []string) {
	d := newDatabase(t)
	s, old := d.session(), d.session()
	s.setShards("q", 2)
	groups = []string{s.group(0, 2), s.group(1, 2)}
	old.exec("begin")
	old.exec("select pg_current_xact_id()")
	for _, group := range groups {
		s.enqueueGroup("q", group, 1)
	}
	require.Len(t, s.claim("q", 10), 2)
	require.Empty(t, s.claim("q", 10))
	old.exec("rollback")
	return s, d.session().neverWaits(), groups
}

// A claim holds no shard in which there is nothing, although transactions have ended that were in progress when it was
// read: so another claim has what comes.
func TestClaimOfIdleShardsHoldsNone(t *testing.T) {
	a, b, groups := withIdleShards(t)
	a.exec("begin")
	require.Empty(t, a.claim("q", 10))
	require.Zero(t, a.locks())
	job := b.enqueue("q")
	require.Equal(t, []int64{job}, ids(b.claim("q", 1)))
	a.exec("commit")
	job = a.enqueueGroup("q", groups[1], 1)[0]
	a.exec("begin")
	require.Equal(t, []int64{job}, ids(a.claim("q", 10)))
	require.Equal(t, 1, a.locks(), "also a claim with room left")
	job = b.enqueueGroup("q", groups[0], 1)[0]
	require.Equal(t, []int64{job}, ids(b.claim("q", 10)))
	a.exec("commit")

	// What commits late counts, alone in its shard.
	for shard := range groups {
		b.exec("begin")
		job = b.enqueueGroup("q", groups[shard], 1)[0]
		a.enqueueGroup("q", groups[shard], 1)
		require.Len(t, a.claim("q", 10), 1)
		b.exec("commit")
		require.Equal(t, []int64{job}, ids(a.claim("q", 10)))
	}
	require.Empty(t, a.claim("q", 10))
	a.audited()
}

// A shard in which all is buried is looked into once, and so is one where the look takes long.
func TestClaimsMoveCursorsOfIdleShards(t *testing.T) {
	a, b, groups := withIdleShards(t)
	idle := func() {
		t.Helper()
		a.exec("begin")
		require.Empty(t, a.claim("q", 10))
		require.Zero(t, a.locks())
		a.exec("commit")
	}
	for _, group := range groups {
		for _, job := range a.enqueueGroup("q", group, 3) {
			a.exec("select awa.cancel($1)", job)
		}
	}
	require.Empty(t, b.claim("q", 10))
	idle()

	moved := "select count(*) from awa.lease_claims where job_ids = '{}'"
	before := one[int](a, moved)
	a.exec(changing("_next_part", "interval '10 milliseconds'", "interval '-1 second'"))
	require.Empty(t, b.claim("q", 10))
	require.Equal(t, before, one[int](a, moved))
	a.exec(changing("_shards_with_jobs", "interval '10 milliseconds'", "interval '-1 second'"))
	require.Empty(t, b.claim("q", 10))
	require.Equal(t, before+2, one[int](a, moved))
	a.audited()
}

// Most claims find a shard at a glance, and do not look at all lanes of the queue; some do, so that shards in which
// only late commits wait have their turn.
func TestMostClaimsLookAtAGlance(t *testing.T) {
	s := newDatabase(t).session()
	s.setShards("q", 4)
	const claims = 160
	s.exec("select awa.enqueue('q', 'k') from generate_series(1, $1)", claims)
	s.exec("set track_functions = 'all'")
	s.exec("select setseed(0.5)")
	s.exec("begin")
	for range claims {
		require.Len(t, s.claim("q", 1), 1)
	}
	looks := one[int](s,
		"select coalesce(pg_stat_get_xact_function_calls('awa._shards_with_jobs(bigint,bigint[])'::regprocedure), 0)")
	s.exec("commit")
	require.Greater(t, looks, 0)
	require.Less(t, looks, claims/4)
}

// A claim that waits for a shard takes what comes to another one meanwhile.
func TestWaitingClaimSeesOtherShards(t *testing.T) {
	d := newDatabase(t)
	a, b, s := d.session(), d.session(), d.session()
	s.exec("update awa.settings set claim_wait = '1 hour'")
	b.exec("set statement_timeout = '5min'")
	s.setShards("q", 4)
	s.enqueueGroup("q", s.group(0, 4), 1)
	s.enqueueGroup("q", s.group(2, 4), 1)
	require.Len(t, s.claim("q", 10), 2)
	s.enqueueGroup("q", s.group(0, 4), 5)
	a.exec("begin")
	require.NotEmpty(t, a.claim("q", 1))
	wait := b.background("create table taken as select job_id from awa.claim('q')")
	s.waitUntilBlocked(b)
	job := s.enqueueGroup("q", s.group(2, 4), 1)[0]
	require.NoError(t, wait())
	require.Equal(t, []int64{job}, list[int64](b, "select job_id from taken"))
	a.exec("commit")
}

// Who locks several shards waits for all of them together as long as for one.
func TestShardsAreWaitedForTogether(t *testing.T) {
	d := newDatabase(t)
	s, a := d.session(), d.session()
	s.setShards("q", 3)
	s.exec("create table waits (n bigint generated always as identity, wait interval); grant insert on waits to public")
	s.exec("create or replace function awa._lock_shard_within(shard bigint, wait interval) returns boolean " +
		"language sql as 'insert into public.waits (wait) values (wait); select pg_sleep(0.001); select true'")
	var jobs []int64
	for shard := range 3 {
		jobs = append(jobs, s.enqueueGroup("q", s.group(shard, 3), 1)...)
	}
	a.exec("begin")
	a.exec("select pg_advisory_xact_lock(awa._shard_key(awa._queue_id('q') << 6 | n)) from generate_series(0, 2) n")
	s.exec("begin")
	for _, job := range jobs {
		s.exec("select awa.cancel($1)", job)
	}
	s.exec("commit")
	a.exec("commit")
	require.Equal(t, []int{1, 2, 3}, list[int](s,
		"select rank() over (order by wait desc) from waits where n <= 3 order by n"), "the first cancel waits for all")
}

// Claims begin anywhere: with jobs in each shard, one claimer does not serve the first shard alone. It is noticed when
// a claim has found others; until then nothing is lost.
func TestClaimsBeginAnywhere(t *testing.T) {
	s := newDatabase(t).session()
	s.setShards("q", 4)
	jobs := map[int64]int{}
	for shard := range 4 {
		for _, job := range s.enqueueGroup("q", s.group(shard, 4), 100) {
			jobs[job] = shard
		}
	}
	require.False(t, one[bool](s, "select is_called from awa.sharded"))
	require.Len(t, s.claim("q", 101), 101, "also before it is noticed")
	require.True(t, one[bool](s, "select awa._may_have_shards(awa._queue_id('q'))"))
	served := map[int]int{}
	for range 80 {
		served[jobs[s.claim("q", 1)[0].JobID]]++
	}
	require.GreaterOrEqual(t, len(served), 3, "shards that were served: %v", served) // one may be empty by now
	require.Len(t, s.claim("q", 1000), 400-101-80)
	require.Empty(t, s.claim("q", 1000))
	s.audited()
}

// Another number of shards takes effect at once for jobs without a group, whoever has read the old one.
func TestFewerShards(t *testing.T) {
	d := newDatabase(t)
	s, producer := d.session().neverWaits(), d.session()
	s.setShards("q", 64)
	producer.exec("begin")
	for range 40 {
		producer.enqueueMany("q", 1)
		s.enqueue("q")
	}
	s.exec("select awa.enqueue_many('q', 'k', array_fill('{}'::jsonb, array[10]), run_at => now() + interval '1 hour') " +
		"from generate_series(1, 10)")
	s.setShards("q", 2)
	producer.exec("commit")
	require.Greater(t, len(s.shardsOf("q")), 8)
	s.enqueueMany("r", 4)
	moved := s.enqueueMany("r", 4)
	s.setShards("q", 1)
	claimed := s.claim("q", 100)
	require.Len(t, claimed, 80)
	require.Empty(t, s.claim("q", 100))
	for _, j := range claimed {
		s.exec("select awa.discard($1, $2, 'error')", j.JobID, j.Receipt)
		require.Equal(t, "failed", one[string](s, "select awa.retry($1)", j.JobID))
	}
	for _, job := range moved {
		s.exec("select awa.move($1, 'q')", job)
	}
	s.due()
	require.Equal(t, []int{0}, s.shardsOf("q"), "retries, moves and promotions go to the shards that there are now")
	require.Len(t, s.claim("q", 1000), 80+4+100)
	require.Len(t, s.claim("r", 1000), 4)
	s.audited()
}

// With groups, the number of shards changes when nobody is left who has read the old one, and no job with a group waits
// or runs. Producers don't wait for a session that waits for them.
func TestShardsOfGroups(t *testing.T) {
	d := newDatabase(t)
	s, operator, watcher, other := d.session(), d.session(), d.session(), d.session()
	change := "select awa.configure_queue('q', '{\"shards\": %d}')"
	refused := func(state string) *pgconn.PgError {
		t.Helper()
		err := operator.try(fmt.Sprintf(change, 7))
		require.Equal(t, state, sqlState(err))
		return err.(*pgconn.PgError)
	}
	s.setShards("q", 4)
	group := s.group(3, 4)
	s.exec("update awa.settings set claim_wait = '50 milliseconds'")

	// An open transaction that has enqueued one.
	s.exec("begin")
	s.enqueueGroup("q", group, 1)
	require.Contains(t, refused("55P03").Detail, fmt.Sprint("backend ", s.pid))
	s.exec("rollback")
	s.exec("begin")
	s.enqueue("q")
	operator.setShards("q", 5) // without a group it does not matter
	operator.setShards("q", 4)
	s.exec("commit")

	// Each state in which it waits or runs.
	for name, call := range map[string]string{
		"available": "select awa.enqueue('q', 'k', group_key => $1)",
		"scheduled": "select awa.enqueue('q', 'k', group_key => $1, run_at => now() + interval '1 hour')",
		"unique":    "select job_id from awa.enqueue_unique('q', 'k', unique_key => 'u', group_key => $1)",
		"batch": "select job_id from awa.enqueue_batch(jsonb_build_array(jsonb_build_object('queue', 'q', 'kind', 'k', " +
			"'group_key', $1::text)))",
	} {
		job := one[int64](s, call, group)
		require.Equal(t, 3, one[int](s, "select (lane >> 3 & 63)::int from awa._place where id = $1", job), name)
		require.NotEmpty(t, refused("55000").Hint, name)
		s.exec("select awa.cancel($1)", job)
	}
	job := s.enqueueGroup("q", group, 1)[0]
	claimed := s.claim("q", 10)
	refused("55000") // it runs
	s.exec("select awa.materialize('0')")
	refused("55000")
	for _, j := range claimed {
		s.exec("select awa.fail($1, $2, 'error', '1 hour')", j.JobID, j.Receipt)
	}
	refused("55000")
	operator.setShards("q", 4) // which changes nothing
	s.exec("select awa.cancel($1)", job)
	operator.setShards("q", 5)
	operator.setShards("q", 4)

	// What brings one back, or here, is waited for too.
	moved := s.enqueueGroup("r", group, 1)[0]
	for _, call := range []string{
		fmt.Sprintf("select awa.retry(%d)", job), fmt.Sprintf("select awa.move(%d, 'q')", moved),
	} {
		s.exec("begin")
		s.exec(call)
		refused("55P03")
		s.exec("rollback")
		operator.setShards("q", 5)
		s.exec(call)
		require.Equal(t, []int{one[int](s, "select awa._group_bits($1) % 5", group)}, list[int](s,
			"select (lane >> 3 & 63)::int from awa._available where group_key is not null and queue_id = awa._queue_id('q')"))
		s.exec("select awa.cancel_where(queue => 'q')")
		operator.setShards("q", 4)
	}

	// A producer does not wait behind the operator; and a producer that comes while it has changed the number waits, and
	// goes to the new shard.
	s.exec("update awa.settings set claim_wait = '1 minute'")
	other.neverWaits()
	s.exec("begin")
	s.enqueueGroup("q", group, 1)
	wait := operator.background(fmt.Sprintf(change, 7))
	watcher.waitUntilSleeping(operator)
	other.exec("begin")
	other.enqueueGroup("q", group, 1)
	other.exec("rollback")
	s.exec("rollback")
	require.NoError(t, wait())
	operator.exec("begin")
	operator.setShards("q", 9)
	wait = s.background(fmt.Sprintf("select awa.enqueue('q', 'k', group_key => '%s')", group))
	watcher.waitUntilSleeping(s)
	operator.exec("commit")
	require.NoError(t, wait())
	require.Equal(t, one[int](s, "select awa._group_bits($1) % 9", group), one[int](s,
		"select (lane >> 3 & 63)::int from awa._available where group_key is not null and queue_id = awa._queue_id('q')"))
}

// A snapshot from before the change shows the old number, although the lock was free: 40001.
func TestOldSnapshotOfShards(t *testing.T) {
	for _, isConfigured := range []bool{false, true} {
		for _, level := range []string{"repeatable read", "serializable"} {
			d := newDatabase(t)
			s, operator := d.session(), d.session().neverWaits()
			if isConfigured {
				s.setShards("q", 2)
			}
			begin := "begin isolation level " + level
			s.exec(begin)
			s.enqueueGroup("q", "g", 1) // nothing has changed
			require.Equal(t, isConfigured, one[bool](s, "select exists (select from awa.queue_settings)"))
			s.exec("rollback")
			s.exec(begin)
			s.exec("select")
			operator.setShards("q", 8)
			s.enqueue("q")
			require.Equal(t, "40001", sqlState(s.try("select awa.enqueue('q', 'k', group_key => 'g')")))
			s.exec("rollback")
			s.exec(begin)
			s.enqueueGroup("q", "g", 1)
			s.exec("commit")
			require.Equal(t, []int{one[int](s, "select awa._group_bits('g') % 8")}, s.shardsOf("q"))
			require.Equal(t, "JQ004", func() string {
				s.exec(begin)
				defer s.exec("rollback")
				return sqlState(s.try(`select awa.configure_queue('q', '{"shards": 3}')`))
			}())
		}
	}
}

// A snapshot from before a drop shows a number that the queue has lost.
func TestOldSnapshotOfADroppedQueue(t *testing.T) {
	for _, level := range []string{"repeatable read", "serializable"} {
		d := newDatabase(t)
		s, operator := d.session().neverWaits(), d.session().neverWaits()
		s.setShards("q", 8)
		group := s.group(5, 8)
		s.completes(func() []claimed { s.enqueueGroup("q", group, 1); return s.claim("q", 1) }())
		s.exec("begin isolation level " + level)
		s.exec("select")
		operator.exec("select awa.drop_queue('q', true)")
		require.Equal(t, "40001", sqlState(s.try("select awa.enqueue('q', 'k', group_key => $1)", group)))
		s.exec("rollback")
		s.exec("begin isolation level " + level)
		s.enqueueGroup("q", group, 1)
		s.exec("commit")
		require.Equal(t, []int{0}, s.shardsOf("q"))
		s.audited()
	}
}

// A queue is dropped when no claim holds any of its shards, and no transaction is left that has put a job with a group
// into one of them: the queue of that name that comes next has other shards.
func TestDropBesideClaimsInAnotherShard(t *testing.T) {
	d := newDatabase(t)
	a, s, watcher := d.session(), d.session(), d.session()
	s.exec("update awa.settings set claim_wait = '50 milliseconds'")
	s.setShards("q", 8)
	for shard := range 8 {
		s.enqueueGroup("q", s.group(shard, 8), 2)
	}
	a.exec("begin")
	require.Len(t, a.claim("q", 1), 1)
	err := s.try("select awa.drop_queue('q', true)")
	require.Equal(t, "55P03", sqlState(err))
	require.Contains(t, err.(*pgconn.PgError).Detail, fmt.Sprint("backend ", a.pid))
	a.exec("commit")
	a.exec("begin")
	a.enqueueGroup("q", s.group(5, 8), 1)
	err = s.try("select awa.drop_queue('q', true)")
	require.Equal(t, "55P03", sqlState(err))
	require.Contains(t, err.(*pgconn.PgError).Detail, fmt.Sprint("backend ", a.pid))
	a.exec("rollback")

	s.exec("update awa.settings set claim_wait = '1 minute'")
	s.exec("begin")
	s.exec("select awa.drop_queue('q', true)")
	wait := a.background("create table taken as select job_id from awa.claim('q', 100)")
	watcher.waitUntilBlocked(a)
	s.exec("commit")
	require.NoError(t, wait())
	require.Zero(t, one[int](s, "select count(*) from taken"), "it was dropped meanwhile")
	s.enqueueGroup("q", s.group(5, 8), 1)
	require.Equal(t, []int{0}, s.shardsOf("q"))
	require.Len(t, s.claim("q", 10), 1)
	s.audited()
}

// The jobs of a group come in their order, however they were put there, and whoever claims them.
func TestOrderOfAGroup(t *testing.T) {
	d := newDatabase(t)
	s, a, b := d.session(), d.session(), d.session()
	s.setShards("q", 5)
	groups := map[int64]string{}
	for n := range 30 {
		group := fmt.Sprint("group ", n%6)
		call := []string{
			"select awa.enqueue('q', 'k', group_key => $1)",
			"select awa.enqueue_many('q', 'k', array_fill('{}'::jsonb, array[3]), group_key => $1)",
			"select job_id from awa.enqueue_batch(jsonb_build_array(jsonb_build_object('queue', 'q', 'kind', 'k', " +
				"'group_key', $1::text)))",
			"select job_id from awa.enqueue_unique('q', 'k', unique_key => gen_random_uuid()::text, group_key => $1)",
		}[n%4]
		for _, job := range list[int64](s, call, group) {
			groups[job] = group
		}
	}
	last := map[string]int64{}
	for n := 0; len(groups) > 0; n++ {
		claimer := []*session{a, b}[n%2]
		jobs := claimer.claim("q", 1+n%3)
		require.NotEmpty(t, jobs)
		for _, j := range jobs {
			group := groups[j.JobID]
			require.Less(t, last[group], j.JobID, group)
			last[group] = j.JobID
			delete(groups, j.JobID)
		}
	}
}

// Segments are emptied shard by shard: what is claimed in one of them meanwhile is not lost in another.
func TestPruneOfShards(t *testing.T) {
	d := newDatabase(t)
	a, s := d.session(), d.session()
	s.setShards("q", 4)
	var jobs []int64
	for shard := range 4 {
		jobs = append(jobs, s.enqueueGroup("q", s.group(shard, 4), 3)...)
	}
	s.rotate()
	a.exec("begin")
	claimed := a.claim("q", 1)
	require.NotEqual(t, "cleaned", s.prune(), "a claim holds a shard of which something is to be carried")
	a.exec("commit")
	s.prunes()
	s.balanced()
	s.completes(claimed)
	require.ElementsMatch(t, jobs, append(ids(s.claim("q", 99)), ids(claimed)...))
	s.audited()
}

// A session that has claimed waits for a number of shards that is being changed, and who changes it waits for the
// session's claim. Neither fails with 40P01, nor does a claim of others that waits beside them: the first wait ends.
func TestNumberOfShardsBesideAClaim(t *testing.T) {
	d := newDatabase(t)
	a, b, watcher := d.session(), d.session(), d.session()
	a.enqueue("q")
	a.setShards("g", 2)
	for _, s := range []*session{a, b} {
		s.exec("set deadlock_timeout = '1ms'")
	}
	a.exec("begin")
	require.Len(t, a.claim("q", 1), 1)
	b.exec("begin")
	b.setShards("g", 3)
	watcher.exec("update awa.settings set claim_wait = '2 seconds'")
	claim := b.background("select awa.claim('q')")
	watcher.waitUntilBlocked(b)
	watcher.exec("update awa.settings set claim_wait = '1 hour'")
	enqueue := a.background("select awa.enqueue('g', 'k', group_key => 'x')")
	require.Equal(t, "55P03", sqlState(claim()))
	require.NoError(t, enqueue())
	a.exec("commit")
	b.exec("rollback")
	require.Equal(t, 1, one[int](watcher, "select available from awa.queue_counts('g')"))
}

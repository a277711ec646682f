package sql_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// stats adds up what the statistics of the last hours have, of all queues and of queue q, which is the same.
func (s *session) stats() string {
	s.Helper()
	all := []string{}
	for _, queue := range []any{"q", nil} {
		all = append(all, one[string](s, "select format('%s enqueued, %s completed, %s failed', sum(enqueued), "+
			"sum(completed), sum(failed)) from awa.queue_stats($1, '5 hours')", queue))
	}
	require.Equal(s, all[0], all[1])
	return all[0]
}

// What commits after its minute was counted is counted by the next pass, in its own minute, and once.
func TestStatisticsOfLateCommits(t *testing.T) {
	d := newDatabase(t)
	late, answers, b := d.session(), d.session(), d.session()
	b.exec("select awa.enqueue('q', 'k') from generate_series(1, 4)")
	jobs := b.claim("q", 4)
	late.exec("begin")
	late.exec("select awa.enqueue('q', 'k') from generate_series(1, 3)")
	late.exec("select awa.enqueue('q', 'k', run_at => '2130-01-01')")
	answers.exec("begin")
	answers.completes(jobs[:2])
	b.completes(jobs[2:3])
	b.exec("select awa.fail($1, $2, 'error', '1 hour')", jobs[3].JobID, jobs[3].Receipt)
	for range 2 {
		require.Equal(t, "4 enqueued, 1 completed, 1 failed", b.stats())
		require.False(t, one[bool](b, "select more from awa.fold()"))
	}
	// their minute has been counted long ago
	b.exec("update awa.queue_statistics set at = at - interval '1 hour'")
	b.exec("update awa.statistics set at = at - interval '1 hour'")
	late.exec("commit")
	answers.exec("commit")
	for range 3 {
		require.Equal(t, "8 enqueued, 3 completed, 1 failed", b.stats())
		b.exec("select awa.fold()")
	}
	b.exec("begin; select awa.fold()")
	require.Equal(t, "8 enqueued, 3 completed, 1 failed", b.stats())
	b.exec("rollback") // as after a crash
	require.Equal(t, "8 enqueued, 3 completed, 1 failed", b.stats())
	b.balanced()
}

// Nothing is lost, and nothing counted twice, where a pass is cut off, and where segments are cleaned and truncated
// with nobody counting but those that do so; with entries that are carried, and attempts that get rows of their own.
func TestStatisticsBesideEmptiedSegments(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.exec("select awa.enqueue('q', 'k') from generate_series(1, 10)")
	jobs := s.claim("q", 6)
	s.completes(jobs[:3])
	require.Equal(t, "10 enqueued, 3 completed, 0 failed", s.stats())
	s.rotate()
	require.Equal(t, "cleaned", s.prune())
	require.Equal(t, "10 enqueued, 3 completed, 0 failed", s.stats())
	s.completes(jobs[3:5])
	s.exec("select awa.fail($1, $2, 'error')", jobs[5].JobID, jobs[5].Receipt)
	require.Equal(t, "10 enqueued, 5 completed, 1 failed", s.stats())
	s.completes(s.claim("q", 4))
	require.Equal(t, "10 enqueued, 9 completed, 1 failed", s.stats())
	s.prunes()
	require.Equal(t, "10 enqueued, 9 completed, 1 failed", s.stats())
	s.exec("begin; select awa.fold(); rollback")
	require.Equal(t, "10 enqueued, 9 completed, 1 failed", s.stats())
	s.exec("select awa.fold()")
	for range 3 {
		s.rotate()
		s.prunesLater()
	}
	require.Zero(t, one[int](s, "select count(*) from awa.lease_claims where job_ids <> '{}'"))
	require.Equal(t, "10 enqueued, 9 completed, 1 failed", s.stats())
	require.Zero(t, one[int](s, "select count(*) from awa.queue_statistics where kind is distinct from 'k'"))
	s.balanced()
}

// Who counts holds up nobody: not those that end attempts with rows of their own, either.
func TestNobodyWaitsForStatistics(t *testing.T) {
	d := newDatabase(t)
	a, b := d.session(), d.session().neverWaits()
	b.exec("select awa.enqueue('q', 'k') from generate_series(1, 4)")
	jobs := b.claim("q", 4)
	b.materialize()
	b.completes(jobs[:2])
	a.exec("begin; select awa.fold()")
	b.completes(jobs[2:])
	b.enqueueMany("q", 1)
	b.completes(b.claim("q", 1))
	require.Equal(t, "5 enqueued, 5 completed, 0 failed", b.stats())
	a.exec("commit")
	a.exec("select awa.fold()")
	require.Equal(t, "5 enqueued, 5 completed, 0 failed", b.stats())
	b.balanced()
}

// However the jobs of a claim ended, all at once or one by one, statistics count the same of each kind, with the same
// waits: beside cancelled jobs, late commits, failures and small claims.
func TestStatisticsOfAllKindsOfClaims(t *testing.T) {
	d := newDatabase(t)
	s, late := d.session(), d.session()
	late.exec("begin")
	late.exec("select awa.enqueue('q', 'late') from generate_series(1, 60)")
	for range 3 {
		s.exec("select awa.enqueue_many('q', 'a', array_fill('1'::jsonb, array[70]))")
		s.exec("select awa.enqueue_many('q', 'b', array_fill('1'::jsonb, array[50]))")
	}
	s.completes(s.claim("q", 100)) // at once, of two kinds
	s.exec("select awa.cancel(min(id)) from awa.list_jobs('q', 'available', kind => 'b', max_jobs => 1000)")
	jobs := s.claim("q", 100) // one of those between them is cancelled
	s.completes(jobs[:60])
	s.completes(jobs[60:])
	late.exec("commit")
	s.completes(s.claim("q", 80)) // those that come late, and 20 others
	for range 20 {
		s.completes(s.claim("q", 1))
	}
	jobs = s.claim("q", 60)
	s.completes(jobs[:57])
	for _, j := range jobs[57:] {
		s.exec("select awa.fail($1, $2, 'error', '1 hour')", j.JobID, j.Receipt)
	}
	s.completes(s.claim("q", 1000))
	sums := func(statistics string) string {
		return one[string](s, `select string_agg(format('%s: %s completed, %s failed, waits %s, runs %s', s.kind, s.completed,
			s.failed, s.waits, s.runs), e'\n' order by s.kind)
			from (select (m).* from (select awa._merge_statistics(array(select (s.queue_id, 60, '2030-01-01', s.kind, 0,
				s.completed, s.failed, s.waits, s.runs)::awa.queue_statistics from `+statistics+` s)) as m) m) s`)
	}
	want := sums("awa._ends_of(array(select c from awa.lease_claims c where c.job_ids <> '{}'), '{}')") // job by job
	require.Regexp(t, `(?s)^a: 2\d\d completed, .*late: 59 completed, 1 failed`, want)
	s.exec("select awa.fold()")
	require.Equal(t, want, sums("awa.queue_statistics"))
	s.balanced()
}

// A job that comes very late is claimed beside new ones. The statistics of these claims do not read all entries that
// came between.
func TestStatisticsOfAJobThatComesVeryLate(t *testing.T) {
	d := newDatabase(t)
	s, late := d.session(), d.session()
	late.exec("begin; select awa.enqueue('q', 'late')")
	s.exec("select awa.enqueue_many('q', 'k', array_fill('1'::jsonb, array[10000])) from generate_series(1, 3)")
	for range 30 {
		s.completes(s.claim("q", 1000))
	}
	s.exec("select awa.fold()")
	late.exec("commit")
	s.completes(s.claim("q", 1))
	s.exec("select awa.enqueue('q', 'new')")
	s.completes(s.claim("q", 1))
	s.exec("begin")
	const reads = `select sum(pg_stat_get_xact_tuples_returned(i.indexrelid)
			+ pg_stat_get_xact_tuples_fetched(i.indexrelid))::bigint
		from pg_index i
		join pg_inherits p on p.inhrelid = i.indrelid and p.inhparent = 'awa.ready_entries'::regclass`
	before := one[int](s, reads)
	s.exec("select awa._fold(everything => true)")
	require.Less(t, one[int](s, reads)-before, 20000)
	s.exec("commit")
	require.Equal(t, "late 1, new 1", one[string](s, `select string_agg(format('%s %s', kind, completed), ', '
		order by kind) from awa.queue_stats('q', by_kind => true) where kind <> 'k'`))
}

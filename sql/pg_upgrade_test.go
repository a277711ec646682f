//go:build pgupgrade

package sql_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
)

// pg_upgrade to the major version whose binaries AWA_PG_UPGRADE_TO names keeps jobs of every state as they are: answers
// for running attempts are taken, each queue gives the same jobs in the same order, ids go on, and segments turn.
// scripts/matrix.sh runs it, as two versions are needed.
func TestPgUpgrade(t *testing.T) {
	to := os.Getenv("AWA_PG_UPGRADE_TO")
	require.NotEmpty(t, to, "AWA_PG_UPGRADE_TO names the directory of the newer binaries")
	old := newServer(t)
	old.database("roles", true).session().spendIds(5000)
	d := old.database("app", true)
	s := d.session()
	s.exec("create role pod login; grant awa_worker to pod")
	late := d.session()
	s.live(late)
	s.exec("select awa.enqueue_unique('period', 'k', unique_key => 'day', unique_period => '1 day')")
	s.completes(s.open("period", shapes[0]))
	s.limits("strict", `{"group_order": "strict"}`)
	s.enqueueInGroup("strict", "g", 3)
	s.claim("strict", 3)
	s.exec("select awa.schedule('daily', 'schedule', 'k', '@daily'), awa.schedule('paused', 'schedule', 'k', '@daily')," +
		"awa.pause_schedule('paused', 'because'), awa.trigger_schedule('daily')")
	worker := s.registerWorker()
	s.enqueueMany("worker", 6)
	s.claimAs(worker, "worker", 4)
	s.materialize()
	require.Equal(t, "available cancelled completed dead failed retryable running scheduled",
		one[string](s, "select string_agg(distinct state, ' ' order by state) from awa.jobs"))
	s.balanced()

	const (
		counts    = "select (to_jsonb(c) - 'oldest_ready_at')::text from awa.queue_counts() c order by queue"
		schedules = "select to_jsonb(l)::text from awa.list_schedules() l order by name"
		groups    = "select to_jsonb(g)::text from awa.queue_counts() q, awa.list_groups(q.queue) g order by q.queue, 1"
		workers   = "select to_jsonb(w)::text from awa.workers w order by w.worker_id"
		sequences = "select format('%s %s', s.sequencename, s.last_value) from pg_sequences s where s.schemaname = 'awa' " +
			"order by 1"
	)
	read := func(s *session) (answers [][]string) {
		for _, query := range []string{everything, counts, schedules, groups, workers, sequences} {
			answers = append(answers, list[string](s, query))
		}
		return answers
	}
	before, open := read(s), s.running()
	copied := database{t, withUser(t, old.URL(), "postgres", "copied")}
	s.db.Close(t.Context())
	late.db.Close(t.Context())
	(database{t, old.URL()}).session().exec("create database copied template app")
	claims := copied.session().claimsAll()
	require.NotEmpty(t, claims["waits"])
	t.Logf("from PostgreSQL %s", old.ServerVersion())

	server, err := old.Upgrade(t.Context(), to)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	t.Logf("to PostgreSQL %s: %d jobs", server.ServerVersion(), len(before[0]))
	require.NotEqual(t, old.ServerVersion(), server.ServerVersion())
	d = database{t, withUser(t, server.URL(), "postgres", "app")}
	s = d.session()
	for i, got := range read(s) {
		sameJobs(t, before[i], got)
	}
	s.balanced()
	require.Empty(t, list[string](s, "select to_jsonb(h)::text from awa.health() h where level = 'critical'"))
	d.migratesAsAWorker("app") // it may warn
	result, err := driver.Migrate(t.Context(), d.url)
	require.NoError(t, err)
	t.Logf("awa migrate has changed anything: %t", result.Changed)
	require.Empty(t, d.migratesAsAWorker("app"))
	for i, got := range read(s) {
		sameJobs(t, before[i], got)
	}

	last, claim := one[int64](s, "select max(id) from awa.jobs"), open[len(open)-1].Receipt
	key := "select inserted from awa.enqueue_unique('period', 'k', unique_key => 'day', unique_period => '1 day')"
	require.False(t, one[bool](s, key), "its period is not over")
	require.Equal(t, claims, s.claimsAll())
	require.Greater(t, s.enqueue("new"), last)
	require.Greater(t, s.claim("new", 1)[0].Receipt, claim)
	s.exec("select awa.heartbeat($1)", worker)
	require.NotEmpty(t, open)
	for _, j := range open {
		s.completes([]claimed{j})
		s.refuses(j)
	}
	s.exec("select awa.trigger_schedule('daily')")
	s.due()
	s.exec("call awa.run_maintenance()")
	s.balanced()
	for range 4 {
		s.rotate()
		require.Equal(t, "truncated", s.pruneOn())
		require.Len(t, s.open("turns", shapes[2]), 3)
	}
	s.worksOff()
	s.balanced()
}

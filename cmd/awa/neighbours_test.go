package main

import (
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/pgserver"
	"github.com/awa-pg/awa/internal/testdb"
)

// The statement of docs/security.md keeps others from the advisory locks of one bigint. Everything of Awa works
// without: installing by a role that is no superuser, working, maintenance, changes, the doctor.
func TestWithoutAdvisoryLocks(t *testing.T) {
	databaseURL := startServer(t, pgserver.Config{Durable: true})
	execute(t, testdb.Connect(t, databaseURL), "create role installer login createrole",
		"create database app owner installer", "create role neighbour login")
	databaseURL = strings.Replace(databaseURL, "/postgres?", "/app?", 1)
	as := func(login string) string { return with(t, databaseURL, "user", login) }
	migrate := func(login string) {
		t.Helper()
		status, _, stderr := awa(t.Context(), "migrate", "--database-url", as(login))
		require.Zero(t, status, stderr)
	}
	migrate("installer")
	admin, neighbour := testdb.Connect(t, databaseURL), testdb.Connect(t, as("neighbour"))
	execute(t, neighbour, "select pg_advisory_lock(-1)", "select pg_advisory_unlock_all()")

	docs, err := os.ReadFile("../../docs/security.md")
	require.NoError(t, err)
	block := regexp.MustCompile("(?s)## Advisory locks.*?```sql\n(.*?)```.*?```sql\n(.*?)```\n\n## ").FindSubmatch(docs)
	require.NotNil(t, block, "docs/security.md has no statement, or none that takes it back")
	execute(t, admin, string(block[1]))
	for _, call := range []string{"pg_advisory_lock", "pg_advisory_lock_shared", "pg_advisory_xact_lock",
		"pg_advisory_xact_lock_shared", "pg_try_advisory_lock", "pg_try_advisory_lock_shared", "pg_try_advisory_xact_lock",
		"pg_try_advisory_xact_lock_shared"} {
		_, err := neighbour.Exec(t.Context(), "select "+call+"(-1)")
		var refused *pgconn.PgError
		require.True(t, errors.As(err, &refused), call)
		assert.Equal(t, "42501", refused.Code, call)
		execute(t, neighbour, "select "+call+"(1, 1)")
	}

	execute(t, admin, "grant execute on function awa.version() to neighbour",
		"create role hand login in role awa_producer, awa_worker, awa_maintainer, awa_operator, awa_reader")
	migrate("installer") // all of it again, since a grant differs
	hand := testdb.Connect(t, as("hand"))
	execute(t, hand, `
		select awa.enqueue_many('q', 'k', array_fill('{}'::jsonb, array[10])), awa.enqueue('q', 'later',
		run_at => now() + interval '1 hour')`, `
		do $$
		declare
		  v_worker bigint := awa.register_worker('w');
		begin
		  perform awa.complete(c.job_id, c.receipt) from awa.claim('q', 1, v_worker) c;
		  perform awa.complete_many(array_agg(c.job_id), array_agg(c.receipt)) from awa.claim('q', 3, v_worker) c;
		  perform awa.fail(c.job_id, c.receipt, 'e', '0') from awa.claim('q', 1, v_worker) c;
		  perform awa.claim('q', 2, v_worker), awa.heartbeat(v_worker), awa.release_unknown(v_worker, '{}', '{}');
		  perform awa.extend(c.job_id, c.receipt, '1 hour') from awa.claim('q', 1, v_worker) c;
		  perform awa.deregister_worker(v_worker);
		end $$`,
		"select awa.cancel(id) from awa.list_jobs('q', 'available', max_jobs => 1)",
		"select awa.move(id, 'r') from awa.list_jobs('q', 'available', max_jobs => 1)",
		"call awa.run_maintenance()", "select awa.rotate(true)", "select awa.prune_oldest(true)",
		"call awa.run_maintenance()",
		"select awa.drop_queue('q', true)", "select awa.health()", "select awa.audit()")
	for _, login := range []string{"hand", "installer"} {
		status, stdout, stderr := awa(t.Context(), "doctor", "--database-url", as(login))
		assert.Less(t, status, 2, stdout, stderr)
		assert.NotContains(t, stdout+stderr, "permission denied")
		assert.NotContains(t, stdout, "critical")
	}

	// For a role alone, with a prefix of its own: the statement names that role.
	execute(t, admin, "create role alone login", "create database solo owner alone")
	soloURL := strings.Replace(databaseURL, "/app?", "/solo?", 1)
	execute(t, testdb.Connect(t, soloURL), strings.Replace(string(block[1]), "awa_owner", "alone", 1))
	for range 2 {
		status, _, stderr := awa(t.Context(), "migrate", "--role-prefix", "solo_", "--database-url",
			with(t, soloURL, "user", "alone"))
		require.Zero(t, status, stderr)
	}

	// Taken back, it keeps nobody from a lock, and no role from being dropped.
	execute(t, admin, string(block[2]))
	execute(t, testdb.Connect(t, soloURL), strings.Replace(string(block[2]), "awa_owner", "alone", 1))
	execute(t, neighbour, "select pg_advisory_lock(-1)", "select pg_advisory_unlock_all()")
	execute(t, admin, "drop owned by hand", "drop role hand")
	status, stdout, stderr := awa(t.Context(), "uninstall", "--force", "--database-url", databaseURL)
	require.Zero(t, status, stderr)
	assert.Equal(t, "Awa is removed.\nNone of its roles is left.\n", stdout)
}

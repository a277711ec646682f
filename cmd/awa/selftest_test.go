package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/testdb"
)

// set changes a variable for the time of a test.
func set[T any](t *testing.T, variable *T, value T) {
	t.Helper()
	before := *variable
	*variable = value
	t.Cleanup(func() { *variable = before })
}

// assertNothingLeft looks for what a self-test may leave. The server takes a moment to end the sessions whose clients
// have gone.
func assertNothingLeft(t *testing.T, db *pgx.Conn) {
	t.Helper()
	var left []string
	eventually(t, func() bool {
		left = leftBySelftest(t, db)
		return len(left) == 0
	}, "it leaves %v", &left)
}

func leftBySelftest(t *testing.T, db *pgx.Conn) []string {
	t.Helper()
	rows, _ := db.Query(t.Context(), `
		select 'queue ' || queue from awa.queue_counts()
		union all
		select 'schema ' || nspname from pg_namespace where nspname like '%selftest%'
		union all
		select 'session ' || query from pg_stat_activity
		 where datname = current_database()
		   and backend_type = 'client backend'
		   and pid <> pg_backend_pid()
		   and state <> 'idle'
		union all
		select 'lock ' || objid from pg_locks where locktype = 'advisory' and database = (select oid from pg_database
		where datname = current_database())`)
	left, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return left
}

func TestSelftestPasses(t *testing.T) {
	set(t, &leastRatio, 0) // so short, the figures are those of the machine
	databaseURL := testdb.URL(t)
	db := testdb.Connect(t, databaseURL)
	status, stdout, stderr := awa(t.Context(), "selftest", "--phase", "600ms", "--database-url", databaseURL)
	assert.Zero(t, status, stderr)
	assert.Empty(t, stderr)
	assert.Regexp(t,
		`Full speed: [\d,]+ jobs/s. From here on [\d,]+ jobs/s are enqueued: 4 phases in turn, 3 times, 200ms each.`, stdout)
	for _, phase := range []string{"full speed", "clean", "a transaction held open", "readers of awa.jobs",
		"readers of another table"} {
		assert.Regexp(t, `(?m)^`+phase+` +[\d,]+ +[\d.]+ ms +[\d.]+ ms   (none|\w+ \d+)`, stdout)
	}
	assert.Regexp(t, `dead tuples added in all +\d+   \(at most 500\)  ok`, stdout)
	assert.Contains(t, stdout, "Passed")
	assertNothingLeft(t, db)
	var jobs int
	require.NoError(t, db.QueryRow(t.Context(), "select last_value from awa.job_ids").Scan(&jobs))
	assert.Greater(t, jobs, 1000)
}

func TestSelftestFails(t *testing.T) {
	set(t, &leastRatio, 1000)
	set(t, &mostDead, -1)
	databaseURL := testdb.URL(t)
	t.Setenv("DATABASE_URL", databaseURL)
	status, stdout, stderr := awa(t.Context(), "selftest", "--phase", "600ms")
	assert.Equal(t, 1, status)
	assert.Equal(t, 3, strings.Count(stdout, "FAILED"), stdout)
	assert.NotContains(t, stdout, "Passed")
	assert.Contains(t, stderr, "the self-test failed: throughput held open, of clean ")
	assert.Contains(t, stderr, "throughput under readers, of readers elsewhere ")
	assert.Contains(t, stderr, "dead tuples added in all ")
	assertNothingLeft(t, testdb.Connect(t, databaseURL))

	status, stdout, stderr = awa(t.Context(), "selftest", "--phase", "600ms", "--saturated")
	assert.Zero(t, status, stderr)
	assert.Contains(t, stdout, "From here on at full speed")
	assert.Contains(t, stdout, "there is no verdict")
	assert.NotContains(t, stdout, "FAILED")
}

func TestSelftestIsInterrupted(t *testing.T) {
	databaseURL := testdb.URL(t)
	db := testdb.Connect(t, databaseURL)
	for _, after := range []string{"PostgreSQL", "Full speed", "Round 1"} {
		ctx, cancel := context.WithCancel(t.Context())
		var stderr bytes.Buffer
		status := run(ctx, []string{"selftest", "--phase", "600ms", "--database-url", databaseURL},
			&interrupter{after: after, interrupt: cancel}, &stderr)
		assert.Equal(t, 1, status)
		assert.Equal(t, "awa: interrupted\n", stderr.String())
		assertNothingLeft(t, db)
	}
}

// What a self-test that was killed has left goes with the next one; queues of others stay.
func TestSelftestRemovesLeftovers(t *testing.T) {
	databaseURL := testdb.URL(t)
	db := testdb.Connect(t, databaseURL)
	_, err := db.Exec(t.Context(), "create schema awa_selftest_killed")
	require.NoError(t, err)
	_, err = db.Exec(t.Context(),
		"select awa.enqueue(q, 'load') from unnest('{awa_selftest_killed,awaXselftest_mine}'::text[]) q")
	require.NoError(t, err)
	out := &interrupter{after: "PostgreSQL"}
	ctx, cancel := context.WithCancel(t.Context())
	out.interrupt = cancel
	run(ctx, []string{"selftest", "--database-url", databaseURL}, out, new(bytes.Buffer))
	assert.Contains(t, out.String(),
		"Removed what an earlier self-test left when it was killed: queue awa_selftest_killed, schema awa_selftest_killed.\n")
	_, err = db.Exec(t.Context(), "select awa.drop_queue('awaXselftest_mine', true)")
	require.NoError(t, err)
	assertNothingLeft(t, db)
}

func TestSelftestUsage(t *testing.T) {
	t.Setenv("DATABASE_URL", "")
	status, _, stderr := awa(t.Context(), "selftest", "--phase", "0s")
	assert.Equal(t, 2, status)
	assert.Contains(t, stderr, "--phase must be at least 300ms")

	status, _, stderr = awa(t.Context(), "selftest")
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "Pass --database-url, or set DATABASE_URL")
}

func TestSelftestNeedsMore(t *testing.T) {
	status, _, stderr := awa(t.Context(), "selftest", "--database-url", testdb.EmptyURL(t))
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "Awa is not installed in database awa_test_")
	assert.Contains(t, stderr, "awa migrate")

	databaseURL := testdb.URL(t)
	db := testdb.Connect(t, databaseURL)
	_, err := db.Exec(t.Context(), "select pg_advisory_lock($1)", selftestLock)
	require.NoError(t, err)
	status, _, stderr = awa(t.Context(), "selftest", "--database-url", databaseURL)
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "another self-test is running")
	_, err = db.Exec(t.Context(), "select pg_advisory_unlock_all()")
	require.NoError(t, err)

	role := testRole(t, db)
	asRole := with(t, databaseURL, "options", "-c role="+role)
	status, _, stderr = awa(t.Context(), "selftest", "--database-url", asRole)
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "grant awa_producer, awa_worker, awa_maintainer, awa_operator, awa_reader to ROLE")

	_, err = db.Exec(t.Context(), "grant awa_producer, awa_worker, awa_maintainer, awa_operator, awa_reader to "+role)
	require.NoError(t, err)
	status, _, stderr = awa(t.Context(), "selftest", "--database-url", asRole)
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "grant create on database "+db.Config().Database+" to "+role)
}

// A role that may do no more than it needs to.
func TestSelftestAsRole(t *testing.T) {
	set(t, &leastRatio, 0)
	databaseURL := testdb.URL(t)
	db := testdb.Connect(t, databaseURL)
	database := db.Config().Database
	role := "awa_test_" + database[len("awa_test_"):]
	_, err := db.Exec(t.Context(), "create role "+role)
	require.NoError(t, err)
	t.Cleanup(func() {
		for _, statement := range []string{"drop owned by " + role, "drop role " + role} {
			_, err := db.Exec(context.Background(), statement)
			assert.NoError(t, err)
		}
	})
	for _, grant := range []string{"awa_producer, awa_worker, awa_maintainer, awa_operator, awa_reader",
		"create on database " + database} {
		_, err = db.Exec(t.Context(), "grant "+grant+" to "+role)
		require.NoError(t, err)
	}
	separator := "?"
	if strings.Contains(databaseURL, "?") {
		separator = "&"
	}
	status, _, stderr := awa(t.Context(), "selftest", "--phase", "600ms", "--database-url",
		databaseURL+separator+"options=-c%20role%3D"+role)
	assert.Zero(t, status, stderr)
	assertNothingLeft(t, db)
}

// Otherwise a phase would be as clean as the clean one, and could only pass.
func TestSelftestDisturbs(t *testing.T) {
	databaseURL := testdb.URL(t)
	db := testdb.Connect(t, databaseURL)
	s := &selftest{}
	t.Cleanup(s.close)
	require.NoError(t, s.connect(t.Context(), databaseURL))

	holds := func() (holds bool) {
		require.NoError(t, db.QueryRow(t.Context(), `
			select backend_xid is not null and backend_xmin is not null from pg_stat_activity where pid = $1`,
			s.pinner.PgConn().PID()).Scan(&holds))
		return holds
	}
	stop, err := s.hold(t.Context())
	require.NoError(t, err)
	assert.True(t, holds())
	require.NoError(t, stop())
	assert.False(t, holds())

	sessions := func(condition string) func() bool {
		return func() bool {
			var n int
			require.NoError(t,
				db.QueryRow(t.Context(),
					"select count(*) from pg_stat_activity where datname = current_database() and "+condition).Scan(&n))
			return n == selftestReaders
		}
	}
	stop, err = s.reading("select nonsense")(t.Context())
	require.NoError(t, err)
	require.Eventually(t, sessions("query = 'rollback' and state = 'idle' and pid <> "+
		fmt.Sprint(s.pinner.PgConn().PID())), patience, time.Millisecond)
	assert.ErrorContains(t, stop(), `column "nonsense" does not exist`)

	// The readers have a snapshot while they read, and are interrupted.
	stop, err = s.reading("select pg_sleep(600)")(t.Context())
	require.NoError(t, err)
	require.Eventually(t, sessions("wait_event = 'PgSleep' and backend_xmin is not null"), patience, time.Millisecond)
	require.NoError(t, stop())
	for _, conn := range s.readers {
		assert.NoError(t, script(t.Context(), conn, "begin")) // a warning, if there were a transaction
		assert.NoError(t, script(t.Context(), conn, "rollback"))
	}
}

// What was done just now is counted: the server may take a second to hear of it by itself.
func TestSelftestCountsDeadTuples(t *testing.T) {
	s := &selftest{}
	t.Cleanup(s.close)
	require.NoError(t, s.connect(t.Context(), testdb.URL(t)))
	for n := range 5 {
		dead, err := s.deadTuples(t.Context())
		require.NoError(t, err)
		assert.EqualValues(t, n, dead["settings"])
		require.NoError(t, script(t.Context(), s.upkeep, "update awa.settings set claim_bytes = claim_bytes"))
	}
}

func TestSelftestJudges(t *testing.T) {
	p := func(dead int64, rates ...float64) *phase {
		return &phase{rates: rates, dead: map[string]int64{"ring": dead}}
	}
	for name, test := range map[string]struct {
		held, readers *phase
		failed        []string
	}{
		"all alike":        {p(0, 100, 100, 100), p(0, 50, 50, 50), nil},
		"just good enough": {p(0, 97, 97, 97), p(300, 48.5, 48.5, 48.5), nil},
		"one round is bad": {p(0, 100, 10, 100), p(0, 50, 10, 60), nil},
		"held":             {p(0, 96.9, 96.9, 100), p(0, 50, 50, 50), []string{"throughput held open, of clean"}},
		"readers": {p(0, 100, 100, 100), p(0, 48.4, 60, 48.4),
			[]string{"throughput under readers, of readers elsewhere"}},
		"dead tuples": {p(1, 100, 100, 100), p(300, 50, 50, 50), []string{"dead tuples added in all"}},
		"everything at once": {p(301, 50, 50, 50), p(0, 10, 10, 10),
			[]string{"throughput held open, of clean", "throughput under readers, of readers elsewhere",
				"dead tuples added in all"}},
	} {
		t.Run(name, func(t *testing.T) {
			var failed []string
			for _, c := range judge(p(0, 300), p(200, 100, 100, 100), test.held, test.readers, p(0, 50, 50, 50)) {
				if !c.ok {
					failed = append(failed, c.what)
				}
				assert.NotEmpty(t, c.hint)
			}
			assert.Equal(t, test.failed, failed)
		})
	}
	c := judge(p(0, 300), p(200, 100), p(1, 100), p(1234, 50), p(0, 50))[2]
	assert.Equal(t, "1,435", c.got)
	assert.Contains(t, c.hint, "ring 1,435")
}

// Anybody may create in public, in many a database: functions that fit better than the server's own are not called.
func TestSelftestCallsNothingOfOthers(t *testing.T) {
	databaseURL := testdb.URL(t)
	db := testdb.Connect(t, databaseURL)
	for _, function := range []string{
		"pg_try_advisory_lock(float8) returns boolean", "pg_advisory_unlock(int) returns boolean",
		"has_database_privilege(name, text) returns boolean", "starts_with(name, text) returns boolean",
		"format(text, name) returns text", "repeat(text, bigint) returns text",
		"generate_series(int, bigint) returns setof bigint",
	} {
		execute(t, db, "create function public."+function+
			" language plpgsql as $$ begin raise exception 'hijacked'; end $$")
	}
	stderr := new(bytes.Buffer)
	ctx, cancel := context.WithCancel(t.Context())
	out := &interrupter{after: "Round 1", interrupt: cancel}
	run(ctx, []string{"selftest", "--phase", "600ms", "--database-url", databaseURL}, out, stderr)
	assert.Contains(t, out.String(), "Round 1", stderr)
	assert.NotContains(t, stderr.String(), "hijacked")
	assertNothingLeft(t, db)
}

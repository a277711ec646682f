package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/install"
	"github.com/awa-pg/awa/internal/pgserver"
	"github.com/awa-pg/awa/internal/testdb"
)

// examined returns what awa doctor finds, and checks that its exit status is that of the worst.
func examined(t *testing.T, databaseURL string) []finding {
	t.Helper()
	status, stdout, stderr := awa(t.Context(), "doctor", "--json", "--database-url", databaseURL)
	assert.Empty(t, stderr)
	var findings []finding
	require.NoError(t, json.Unmarshal([]byte(stdout), &findings))
	worst := 0
	for _, f := range findings {
		require.Contains(t, exitStatus, f.Level)
		assert.NotEmpty(t, f.Topic)
		assert.NotEmpty(t, f.Message)
		worst = max(worst, exitStatus[f.Level])
	}
	assert.Equal(t, worst, status)
	return findings
}

// embedded returns what this program installs.
func embedded(t *testing.T) *install.Sources {
	t.Helper()
	src, err := install.Embedded()
	require.NoError(t, err)
	return src
}

// find returns the finding that says so, or nil.
func find(findings []finding, level, topic, subject, message string) *finding {
	i := slices.IndexFunc(findings, func(f finding) bool {
		return f.Level == level && f.Topic == topic && f.Subject == subject && strings.Contains(f.Message, message)
	})
	if i < 0 {
		return nil
	}
	return &findings[i]
}

// with adds a parameter to the URL of a database.
func with(t *testing.T, databaseURL, name, value string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	require.NoError(t, err)
	query := u.Query()
	query.Set(name, value)
	u.RawQuery = strings.ReplaceAll(query.Encode(), "+", "%20") // as libpq has it
	return u.String()
}

// testRole makes a role that is there until the test ends.
func testRole(t *testing.T, conn *pgx.Conn) string {
	t.Helper()
	role := "awa_test_" + conn.Config().Database[len("awa_test_"):]
	execute(t, conn, "create role "+role)
	t.Cleanup(func() {
		_, err := conn.Exec(context.Background(), "drop role "+role)
		assert.NoError(t, err)
	})
	return role
}

func execute(t *testing.T, conn *pgx.Conn, statements ...string) {
	t.Helper()
	for _, sql := range statements {
		_, err := conn.Exec(t.Context(), sql)
		require.NoError(t, err, sql)
	}
}

// startServer starts a server of the test's own: roles and some settings belong to all databases.
func startServer(t *testing.T, cfg pgserver.Config) string {
	t.Helper()
	server, err := pgserver.Start(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, server.Stop()) })
	return server.URL()
}

// durable makes a server write safely to disk, on or off.
func durable(t *testing.T, databaseURL, value string) {
	t.Helper()
	execute(t, testdb.Connect(t, databaseURL), "alter system set fsync = "+value,
		"alter system set full_page_writes = "+value, "select pg_reload_conf()")
	require.Eventually(t, func() (is bool) { // for new connections
		require.NoError(t, testdb.Connect(t, databaseURL).QueryRow(t.Context(),
			"select current_setting('fsync') = $1 and current_setting('full_page_writes') = $1", value).Scan(&is))
		return is
	}, time.Minute, 10*time.Millisecond)
}

// wrong is a statement, and what awa doctor has to say of it.
type wrong struct{ statement, level, topic, subject, message string }

// sqlHint finds the statement that a hint says to run.
var sqlHint = regexp.MustCompile(`\b(?:alter|grant|revoke|reindex) .*;$`)

// provoke makes things wrong, sees that each is found, does what the hints say as far as they are commands, and sees
// that these things are gone.
func provoke(t *testing.T, databaseURL string, things ...wrong) {
	t.Helper()
	fresh := examined(t, databaseURL)
	conn := testdb.Connect(t, databaseURL)
	for _, w := range things {
		require.Nil(t, find(fresh, w.level, w.topic, w.subject, w.message), "before %s", w.statement)
		execute(t, conn, w.statement)
	}
	findings := examined(t, databaseURL)
	migrate := false
	var cured []wrong
	for _, w := range things {
		f := find(findings, w.level, w.topic, w.subject, w.message)
		if !assert.NotNil(t, f, "%s: %+v", w.statement, findings) {
			continue
		}
		if cure := sqlHint.FindString(f.Hint); cure != "" {
			execute(t, conn, cure)
			cured = append(cured, w)
		} else if strings.HasPrefix(f.Hint, "Run awa migrate") {
			migrate = true
			cured = append(cured, w)
		} else {
			assert.NotContains(t, f.Hint, "awa.health()") // which is nothing to do about it
		}
	}
	if migrate {
		status, _, stderr := awa(t.Context(), "migrate", "--database-url", databaseURL)
		require.Zero(t, status, stderr)
	}
	findings = examined(t, databaseURL)
	for _, w := range cured {
		assert.Nil(t, find(findings, w.level, w.topic, w.subject, w.message), "after what is to be done about %s",
			w.statement)
	}
}

func TestDoctorUsage(t *testing.T) {
	t.Setenv("DATABASE_URL", "")
	for _, args := range [][]string{{}, {"operand"}, {"--nonsense"}} {
		status, stdout, stderr := awa(t.Context(), append([]string{"doctor"}, args...)...)
		assert.Equal(t, 2, status)
		assert.Empty(t, stdout)
		assert.Contains(t, stderr, "awa doctor: ")
	}
	status, stdout, _ := awa(t.Context(), "doctor", "-h")
	assert.Zero(t, status)
	assert.Contains(t, stdout, "awa doctor [--database-url URL]")
}

func TestDoctorWithoutADatabase(t *testing.T) {
	for databaseURL, hint := range map[string]string{
		"postgres://%":                 "The URL should look like",
		"postgres:///db?host=/nowhere": "Is the server running",
		strings.Replace(testdb.EmptyURL(t), "awa_test_", "awa_test_not_", 1): "Create the database first",
	} {
		findings := examined(t, databaseURL)
		require.Len(t, findings, 1)
		assert.Equal(t, levelCritical, findings[0].Level)
		assert.Equal(t, "server", findings[0].Topic)
		assert.Contains(t, findings[0].Hint, hint)
	}
}

func TestDoctorWithoutAwa(t *testing.T) {
	findings := examined(t, testdb.EmptyURL(t))
	f := find(findings, levelCritical, "installed", "", "Awa is not installed in database awa_test_")
	require.NotNil(t, f)
	assert.Contains(t, f.Hint, "Run awa migrate")
	assert.NotNil(t, find(findings, levelOK, "server", "", "PostgreSQL "))
	assert.Len(t, findings, 2)
}

func TestDoctorIsInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	status, stdout, stderr := awa(ctx, "doctor", "--database-url", testdb.URL(t))
	assert.NotZero(t, status)
	assert.Empty(t, stdout)
	assert.Contains(t, stderr, "interrupted")
}

// What was just installed is well; and what belongs to the whole server is missed.
func TestDoctorOnAServerOfItsOwn(t *testing.T) {
	databaseURL := startServer(t, pgserver.Config{})
	status, _, stderr := awa(t.Context(), "migrate", "--database-url", databaseURL)
	require.Zero(t, status, stderr)

	// Safe only now: to make a server and an installation takes long on a busy disk.
	durable(t, databaseURL, "on")
	status, stdout, stderr := awa(t.Context(), "doctor", "--database-url", databaseURL)
	assert.Zero(t, status)
	assert.Empty(t, stderr)
	var topics []string
	for line := range strings.Lines(stdout) {
		assert.Regexp(t, `^ok        \w+ +\S`, line)
		topics = append(topics, strings.Fields(line)[1])
	}
	assert.Subset(t, topics,
		[]string{"server", "version", "functions", "views", "tables", "roles", "settings", "disk", "segment"})
	assert.Len(t, topics, len(slices.Compact(slices.Clone(topics))), "a line for each topic")
	status, verbose, _ := awa(t.Context(), "doctor", "--verbose", "--database-url", databaseURL)
	assert.Zero(t, status)
	assert.Equal(t, len(examined(t, databaseURL)), strings.Count(verbose, "\n"), "a line for each finding")

	durable(t, databaseURL, "off")
	provoke(t, databaseURL, []wrong{
		{"revoke pg_read_all_stats from awa_owner", levelWarning, "roles", "awa_owner",
			"may not see the snapshots of others"},
		{"drop owned by awa_reader; drop role awa_reader", levelWarning, "roles", "awa_reader", "does not exist"},
	}...)
	provoke(t, databaseURL, []wrong{
		{"alter role awa_owner superuser", levelWarning, "roles", "awa_owner", "is a superuser"},
		{"alter role awa_owner login", levelWarning, "roles", "awa_owner", "can log in"},
		{"alter schema awa owner to postgres", levelCritical, "roles", "awa", "belongs to postgres, functions to awa_owner"},
		{"create role anna login; grant awa_owner to anna", levelWarning, "roles", "awa_owner", "has the member anna"},
	}...)
}

// An owner of another prefix is known as the owner when it can log in, too.
func TestDoctorKnowsTheOwnerByItsPrefix(t *testing.T) {
	databaseURL := startServer(t, pgserver.Config{})
	status, _, stderr := awa(t.Context(), "migrate", "--role-prefix", "app_", "--database-url", databaseURL)
	require.Zero(t, status, stderr)
	provoke(t, databaseURL, []wrong{
		{"alter role app_owner superuser", levelWarning, "roles", "app_owner", "is a superuser"},
		{"alter role app_owner login", levelWarning, "roles", "app_owner", "can log in"},
	}...)
	execute(t, testdb.Connect(t, databaseURL), "create role nobody login")
	denied := find(examined(t, with(t, databaseURL, "user", "nobody")), levelWarning, "access", "disk", "may not look")
	require.NotNil(t, denied)
	assert.Contains(t, denied.Hint, "as a member of app_reader.")
	status, _, stderr = awa(t.Context(), "selftest", "--phase", "300ms", "--database-url",
		with(t, databaseURL, "user", "nobody"))
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "grant app_producer, app_worker, app_maintainer, app_operator, app_reader to ROLE")
}

// An installation for a role alone has no roles, whatever roles another database has made.
func TestDoctorBesideRolesOfAnotherDatabase(t *testing.T) {
	databaseURL := startServer(t, pgserver.Config{})
	status, _, stderr := awa(t.Context(), "migrate", "--database-url", databaseURL)
	require.Zero(t, status, stderr)
	execute(t, testdb.Connect(t, databaseURL), "create role plain login", "create database plain owner plain")
	databaseURL = strings.Replace(with(t, databaseURL, "user", "plain"), "/postgres?", "/plain?", 1)
	status, _, stderr = awa(t.Context(), "migrate", "--role-prefix", "plain_", "--database-url", databaseURL)
	require.Zero(t, status, stderr)
	findings := examined(t, databaseURL)
	assert.NotNil(t, find(findings, levelOK, "roles", "", "Awa is installed for plain alone"))
	for _, f := range findings {
		if f.Topic == "roles" && f.Level != levelOK {
			assert.Contains(t, f.Message, "snapshots of others")
		}
	}
}

func TestDoctorOnAServerThatDoesNotFit(t *testing.T) {
	databaseURL := startServer(t, pgserver.Config{Settings: map[string]string{ // fsync and full_page_writes are off, too
		"synchronous_commit": "off", "autovacuum": "off", "track_counts": "off",
		"default_transaction_isolation": "repeatable read",
		"max_locks_per_transaction":     "32", "deadlock_timeout": "20ms",
	}})
	execute(t, testdb.Connect(t, databaseURL), "create role plain login", "create database plain owner plain")
	databaseURL = strings.Replace(with(t, databaseURL, "user", "plain"), "/postgres?", "/plain?", 1)
	status, _, stderr := awa(t.Context(), "migrate", "--database-url", databaseURL)
	require.Zero(t, status, stderr)

	findings := examined(t, databaseURL)
	assert.NotNil(t, find(findings, levelOK, "roles", "", "Awa is installed for plain alone"))
	for _, c := range []wrong{
		{"", levelCritical, "settings", "fsync = off", ""},
		{"", levelCritical, "settings", "full_page_writes = off", ""},
		{"", levelCritical, "settings", "autovacuum = off", ""},
		{"", levelCritical, "settings", "track_counts = off", ""},
		{"", levelWarning, "settings", "synchronous_commit = off", "a crash may lose jobs"},
		{"", levelWarning, "settings", "default_transaction_isolation = repeatable read", "JQ004"},
		{"", levelWarning, "settings", "max_locks_per_transaction = 32", "lock table"},
		{"", levelWarning, "settings", "prune_wait = 00:00:00.02", "deadlock_timeout (20ms)"},
	} {
		assert.NotNil(t, find(findings, c.level, c.topic, c.subject, c.message), c.subject)
	}
	findings = examined(t, with(t, databaseURL, "options", "-c default_transaction_isolation=serializable"))
	assert.NotNil(t, find(findings, levelWarning, "settings", "default_transaction_isolation = serializable", "JQ004"))
}

// Who may change the schema puts code where the doctor will look: in functions that it calls, in functions that run
// while a query is planned, in views, in what has the name of a table.
// It is named, and not run: here by a role that may do everything.
func TestDoctorCallsNothingThatDiffers(t *testing.T) {
	const trap = "raise exception 'hijacked'"
	for name, c := range map[string]struct{ tamper, topic, subject string }{
		"version": {"create or replace function awa.version() returns text language plpgsql stable as $$ begin " + trap +
			"; end $$", "functions", "awa.version()"},
		"health": {"create or replace function awa.health() returns setof awa.health_row language plpgsql stable as $$ " +
			"begin " + trap + "; end $$", "functions", "awa.health()"},
		"planning": {"create or replace function awa._current_segment() returns smallint language plpgsql immutable as $$ " +
			"begin " + trap + "; end $$", "functions", "awa._current_segment()"},
		"standard": {"create function public.trap() returns bigint language plpgsql immutable as $$ begin " + trap +
			"; end $$; create or replace function awa._queue_key(queue_id bigint) returns bigint language sql immutable " +
			"strict parallel safe return public.trap()",
			"functions", "awa._queue_key(bigint)"},
		"a view": {"create function public.trap() returns boolean language plpgsql immutable as $$ begin " + trap +
			"; end $$; create or replace view awa._held_locks as select * from (select l.* from awa._held_locks l where " +
			"false) q",
			"views", "awa._held_locks"},
		"a view that is planned": {"create function public.trap() returns boolean language plpgsql immutable as $$ begin " +
			trap +
			"; end $$; do $$ begin execute format('create or replace view awa._done as select * from (%s) d where " +
			"public.trap()', rtrim(pg_get_viewdef('awa._done'::regclass), ';')); end $$",
			"views", "awa._done"},
		"settings": {"create function public.trap() returns boolean language plpgsql as $$ begin " + trap +
			"; end $$; alter table awa.settings rename to kept; create view awa.settings as select * from awa.kept where " +
			"public.trap()", "tables", "awa.settings"},
		"the version's table": {"create function public.trap() returns boolean language plpgsql as $$ begin " + trap +
			"; end $$; alter table awa.schema_version rename to kept; create view awa.schema_version as select * from " +
			"awa.kept where public.trap()",
			"tables", "awa.schema_version"},
	} {
		t.Run(name, func(t *testing.T) {
			databaseURL := testdb.URL(t)
			execute(t, testdb.Connect(t, databaseURL), c.tamper)
			findings := examined(t, databaseURL)
			named := false
			for _, f := range findings {
				assert.NotContains(t, f.Message, "hijacked")
				named = named || f.Level != levelOK && f.Topic == c.topic && f.Subject == c.subject
			}
			assert.True(t, named, "%+v", findings)
			assert.NotNil(t, find(findings, levelWarning, "health", "", "not looked at"))
		})
	}
}

func TestDoctorFinds(t *testing.T) {
	t.Run("what is cured by a command", func(t *testing.T) {
		provoke(t, testdb.URL(t), []wrong{
			{"drop function awa.pause_queue(text)", levelCritical, "functions", "awa.pause_queue(text)", "is missing"},
			{"create or replace function awa._fold_key() returns bigint language sql immutable parallel safe as $$ select " +
				"1::bigint $$",
				levelWarning, "functions", "awa._fold_key()", "is not this program's: body"},
			{"create or replace function awa._queue_key(queue_id bigint) returns bigint language sql immutable strict " +
				"parallel safe as $$ select 1::bigint $$",
				levelWarning, "functions", "awa._queue_key(bigint)", "is not this program's: body"},
			{"alter function awa.version() volatile security invoker strict parallel safe", levelWarning, "functions",
				"awa.version()", "is not this program's: attributes"},
			{"alter function awa.claim(text, int, bigint, interval, boolean) reset all", levelWarning, "functions",
				"awa.claim(text,integer,bigint,interval,boolean)", "is not this program's: settings"},
			{"do $$ begin execute format('create or replace view awa._done as select * from (%s) d where state <> %L', " +
				"rtrim(pg_get_viewdef('awa._done'::regclass), ';'), ''); end $$",
				levelWarning, "views", "awa._done", "is not this program's"},
			{"drop view awa.promote_due_row cascade", levelCritical, "tables", "awa.promote_due_row", "is missing"},
			{"alter table awa.leases set unlogged", levelCritical, "tables", "awa.leases", "is unlogged"},
			{"update pg_index set indisvalid = false where indexrelid = 'awa.leases_job'::regclass", levelCritical, "tables",
				"awa.leases_job", "is invalid"},
			{"alter table awa.lease_claims_1 reset (toast_tuple_target)", levelWarning, "tables", "awa.lease_claims_1",
				"is without toast_tuple_target=8160"},
			{"alter table awa.ready_entries_1 reset (autovacuum_enabled, toast.autovacuum_enabled)", levelWarning, "tables",
				"awa.ready_entries_1", "is without autovacuum_enabled=off, toast.autovacuum_enabled=off"},
			{"alter table awa.leases set (autovacuum_enabled = off)", levelWarning, "tables", "awa.leases", "is not vacuumed"},
			{"drop trigger resolve on awa.pending_changes", levelCritical, "tables",
				"trigger resolve on awa.pending_changes", "is missing"},
			{"grant execute on function awa.claim to public", levelCritical, "roles",
				"awa.claim(text,integer,bigint,interval,boolean)", "is open to everybody (EXECUTE)"},
			{"grant select on awa.jobs to public", levelCritical, "roles", "awa.jobs", "is open to everybody (SELECT)"},
			{"grant usage on sequence awa.job_ids to public", levelCritical, "roles", "awa.job_ids",
				"is open to everybody (USAGE)"},
			{"grant create on schema awa to public", levelCritical, "roles", "awa", "is open to everybody (CREATE)"},
			{"do $$ begin if to_regrole('awa_test_web') is null then create role awa_test_web; end if; end $$; grant execute " +
				"on function awa.claim to awa_test_web", levelCritical, "roles", "awa.claim(text,integer,bigint,interval,boolean)",
				"is open to awa_test_web (EXECUTE)"},
			{"grant select (args) on awa.jobs to awa_test_web", levelCritical, "roles", "awa.jobs.args",
				"is open to awa_test_web (SELECT)"},
			{"grant usage on schema awa to awa_test_web", levelWarning, "roles", "awa", "is open to awa_test_web (USAGE)"},
			{"grant execute on function awa.fail to awa_reader", levelCritical, "roles",
				"awa.fail(bigint,bigint,text,interval,jsonb)", "is open to awa_reader (EXECUTE)"},
			{"grant execute on function awa.complete to awa_worker with grant option", levelCritical, "roles",
				"awa.complete(bigint,bigint,jsonb)", "is open to awa_worker (EXECUTE, to be passed on)"},
			{"revoke usage on schema awa from awa_worker", levelWarning, "roles", "awa", "can't be used by awa_worker"},
			{"revoke execute on procedure awa.run_maintenance from awa_maintainer", levelWarning, "roles",
				"awa.run_maintenance()", "can't be called by awa_maintainer"},
			{"revoke execute on function awa.version from awa_producer", levelWarning, "roles", "awa.version()",
				"can't be called by awa_producer"},
			{"revoke select on awa.health from awa_reader", levelWarning, "roles", "awa.health", "can't be read by awa_reader"},
			{"create function public.fire() returns trigger language plpgsql as 'begin return new; end'; create trigger t " +
				"before insert on awa.ready_entries_2 for each row execute function public.fire()",
				levelWarning, "tables", "trigger t on awa.ready_entries_2", "is none of Awa's"},
			{"alter extension plpgsql add schema awa", levelCritical, "tables", "schema awa",
				"belongs to extension plpgsql: pg_dump leaves it out"},
			{"alter extension plpgsql add table awa.leases", levelCritical, "tables", "table awa.leases",
				"belongs to extension plpgsql"},
			{"create rule r as on insert to awa.jobs do instead nothing", levelWarning, "tables", "rule r on awa.jobs",
				"is none of Awa's"},
		}...)
	})
	t.Run("what is none of Awa's", func(t *testing.T) {
		provoke(t, testdb.URL(t), []wrong{
			{"create policy p on awa.queues using (true)", levelWarning, "tables", "policy p on awa.queues", "is none of Awa's"},
			{"create rule r as on delete to awa.leases do also nothing", levelWarning, "tables", "rule r on awa.leases",
				"is none of Awa's"},
			{"create table awa.mine (n int)", levelWarning, "tables", "table awa.mine", "is none of Awa's"},
			{"create index mine_too on awa.leases (job_id, lane)", levelWarning, "tables", "index awa.mine_too on awa.leases",
				"is none of Awa's"},
			{"create domain awa.kind as text", levelWarning, "tables", "type awa.kind", "is none of Awa's"},
			{"create statistics public.mine on job_id, lane from awa.leases", levelWarning, "tables",
				"statistics public.mine on awa.leases", "is none of Awa's"},
			{"create function public.text(awa.settings) returns text immutable return 'x'; create cast (awa.settings as text) " +
				"with function public.text(awa.settings)", levelWarning, "tables", "cast (awa.settings as text)",
				"is none of Awa's"},
			{"create function public.one() returns bigint language sql as 'select 1::bigint'; create or replace function " +
				"awa.queue_counts(queue text default public.one()::text) returns setof awa.queue_counts_row language plpgsql " +
				"as 'begin end'", levelWarning, "functions", "awa.queue_counts(text)", "is not this program's: body, defaults"},
			{"do $$ begin if to_regrole('awa_test_web') is null then create role awa_test_web; end if; end $$; create " +
				"publication mine for table awa.leases; alter publication mine owner to awa_test_web", levelWarning, "tables",
				"publication mine of awa_test_web, with awa.leases",
				"is none of Awa's"},
		}...)
	})
	t.Run("code that is none of Awa's", func(t *testing.T) {
		provoke(t, testdb.URL(t), []wrong{
			{"create function public.same(bigint) returns bigint language sql immutable as 'select $1'; create index mine on " +
				"awa.leases (public.same(job_id))", levelWarning, "tables",
				"index awa.mine calls a function that none of Awa's calls", ""},
			{"create table public.parent (); alter table awa.heirs inherit public.parent", levelWarning, "tables",
				"table public.parent, of which awa.heirs inherits", "is none of Awa's"},
			{"alter table awa.workers add constraint c check (query_to_xml('select 1', true, true, '') is not null) not valid",
				levelWarning, "tables", "constraint c on awa.workers calls a function that none of Awa's calls", ""},
			{"create function public.id() returns bigint language sql immutable as 'select 1::bigint'; alter table awa.leases " +
				"alter job_id set default public.id()", levelWarning, "tables",
				"default of awa.leases.job_id calls a function that none of Awa's calls", ""},
			{"create table public.child () inherits (awa.settings)", levelWarning, "tables",
				"table public.child, which inherits from awa.settings", "is none of Awa's"},
		}...)
	})
	t.Run("what is not", func(t *testing.T) {
		provoke(t, testdb.URL(t), []wrong{
			{"create or replace function awa._queue_key(queue_id bigint default 1) returns bigint language sql immutable " +
				"strict parallel safe return - queue_id",
				levelWarning, "functions", "awa._queue_key(bigint)", "is not this program's: defaults"},
			{"drop function awa._last_prune_at(); create function awa._last_prune_at() returns timestamp language sql stable " +
				"as $$ select to_timestamp(s.last_value / 1000000.0) from awa.prune_tried_at s $$",
				levelWarning, "functions", "awa._last_prune_at()", "is not this program's: result"},
			{"drop function awa._check_pass(int); create function awa._check_pass(jobs int) returns void language sql as ''",
				levelWarning, "functions", "awa._check_pass(integer)", "is not this program's: body, names of arguments"},
			{"create function awa.enqueue(queue text) returns bigint language sql as $$ select 1::bigint $$", levelWarning,
				"functions", "awa.enqueue(text)", "is none of Awa's"},
			{"drop table awa.lost_attempts", levelCritical, "tables", "awa.lost_attempts", "is missing"},
			{"drop index awa.lease_claims_2_cursor", levelCritical, "tables", "awa.lease_claims_2_cursor", "is missing"},
			{"alter table awa.unique_claims drop constraint unique_claims_pkey", levelCritical, "tables",
				"awa.unique_claims_pkey", "is missing"},
			{"drop sequence awa.wake_clock_f", levelCritical, "tables", "awa.wake_clock_f", "is missing"},
			{"alter table awa.ready_entries detach partition awa.ready_entries_3", levelCritical, "tables",
				"awa.ready_entries_3", "is detached"},
			{`select awa.enqueue('q', 'k'); select awa.configure_queue('q', '{"lease": "10 seconds"}')`, levelWarning,
				"settings", "lease = 00:00:10 of queue q", "not longer than 00:00:10"},
			{"", levelWarning, "health", "", "not looked at"}, // as a consequence
		}...)
	})
	t.Run("what health says", func(t *testing.T) {
		provoke(t, testdb.URL(t), []wrong{
			{"insert into awa.workers (name, heartbeat_at) values ('w', now() - interval '2 hours')", levelWarning, "worker",
				"w (1)", "no heartbeat"},
		}...)
	})
	t.Run("another version", func(t *testing.T) {
		provoke(t, testdb.URL(t), []wrong{
			{"create or replace function awa.version() returns text language sql stable security definer set search_path = " +
				"pg_catalog, pg_temp as $$ select '0.0.1' $$",
				levelWarning, "version", "functions", "version 0.0.1, this program brings "},
		}...)
	})
	t.Run("another owner, and a trigger that is disabled", func(t *testing.T) {
		provoke(t, testdb.URL(t), []wrong{
			{"alter table awa.heirs disable trigger inherit", levelCritical, "tables", "trigger inherit on awa.heirs",
				"is disabled"},
			{"do $$ declare f regprocedure; begin for f in select oid from pg_proc where pronamespace = 'awa'::regnamespace " +
				"loop execute format('alter routine %s owner to current_user', f); end loop; end $$",
				levelWarning, "roles", "", "not as awa_owner"},
		}...)
	})
	t.Run("an open schema", func(t *testing.T) {
		provoke(t, testdb.URL(t), []wrong{
			{"alter table awa.queues owner to current_user", levelCritical, "roles", "awa.queues", "functions to awa_owner"},
			{"", levelCritical, "health", "", "can't be checked: ERROR: permission denied for table queues"}, // as a consequence
			{"grant usage on schema awa to public", levelWarning, "roles", "awa", "is open to everybody (USAGE)"},
		}...)
	})
}

// When the database and the program are of different versions, that is said once, and not of each function.
func TestDoctorOfAnotherVersion(t *testing.T) {
	databaseURL := testdb.URL(t)
	conn := testdb.Connect(t, databaseURL)
	for version, hint := range map[int]string{0: "Run awa migrate", 999: "Use a newer awa"} {
		execute(t, conn, fmt.Sprintf("update awa.schema_version set version = %d", version),
			"drop function if exists awa.pause_queue")
		findings := examined(t, databaseURL)
		f := find(findings, levelWarning, "version", "schema", fmt.Sprintf("version %d, this program brings ", version))
		require.NotNil(t, f)
		assert.Contains(t, f.Hint, hint)
		for _, f := range findings {
			assert.NotContains(t, []string{"functions", "views", "tables"}, f.Topic)
		}
	}
	// the tables of another program that was not released: migrate refuses these, too
	execute(t, conn, fmt.Sprintf("update awa.schema_version set version = %d", embedded(t).Schema),
		"update awa.schema_version set tables = md5('other')")
	findings := examined(t, databaseURL)
	assert.NotNil(t, find(findings, levelCritical, "version", "tables", "another Awa that was not released"))
	assert.Nil(t, find(findings, levelOK, "tables", "", "they are this program's"))
	// Where nothing is to be done, awa migrate does not read the table.
	execute(t, conn, "delete from awa.schema_version")
	findings = examined(t, databaseURL)
	assert.NotNil(t, find(findings, levelCritical, "version", "schema", "awa.schema_version has lost its row"))
	execute(t, conn, "drop table awa.schema_version")
	findings = examined(t, databaseURL)
	assert.NotNil(t, find(findings, levelCritical, "version", "", "can't be checked"))
	assert.NotNil(t, find(findings, levelCritical, "functions", "awa.pause_queue(text)", "is missing"), "it goes on")
}

// A row that the installation needs, and the statement that brings it back.
func TestDoctorOfARowThatIsMissing(t *testing.T) {
	databaseURL := testdb.URL(t)
	conn := testdb.Connect(t, databaseURL)
	for _, table := range []string{"ring", "settings"} {
		execute(t, conn, "set session_replication_role = replica", "delete from awa."+table,
			"reset session_replication_role")
		f := find(examined(t, databaseURL), levelCritical, "restore", "awa."+table, "it has lost its row")
		require.NotNil(t, f, table)
		execute(t, conn, strings.Trim(strings.TrimPrefix(f.Hint, "Run: "), "."))
		assert.NotContains(t, topics(examined(t, databaseURL), levelCritical), "restore")
	}
}

func TestDoctorWhereNothingCanBeWritten(t *testing.T) {
	findings := examined(t, with(t, testdb.URL(t), "options", "-c default_transaction_read_only=on"))
	assert.NotNil(t, find(findings, levelCritical, "server", "", "transactions are read-only here"))
}

// topics returns what findings of a level are about.
func topics(findings []finding, level string) (topics []string) {
	for _, f := range findings {
		if f.Level == level {
			topics = append(topics, f.Topic)
		}
	}
	return topics
}

// A role that may not look somewhere is told so, and gets what it may see.
func TestDoctorAsAPlainRole(t *testing.T) {
	databaseURL := testdb.URL(t)
	admin := testdb.Connect(t, databaseURL)
	for _, group := range []string{"awa_reader", ""} {
		role := "doctor_" + admin.Config().Database + group
		execute(t, admin, "create role "+role+" login")
		t.Cleanup(func() {
			_, err := admin.Exec(context.Background(), "drop role "+role)
			assert.NoError(t, err)
		})
		if group != "" {
			execute(t, admin, fmt.Sprintf("grant %s to %s", group, role))
		}
		findings := examined(t, with(t, databaseURL, "user", role))
		level := map[string]string{"awa_reader": levelOK, "": levelWarning}[group]
		for _, topic := range []string{"version", "settings", "disk"} {
			assert.NotNil(t, find(findings, level, "access", topic, "not checked"), topic)
		}
		health := find(findings, levelOK, "segment", "segment 0", "current")
		if group == "" {
			assert.NotNil(t, find(findings, levelWarning, "access", "views", "not checked"))
			assert.NotNil(t, find(findings, levelWarning, "health", "", "not looked at: what is installed can't be compared"))
			assert.Nil(t, health)
			assert.NotNil(t, find(findings, levelWarning, "access", "functions", "not checked"))
		} else {
			assert.NotNil(t, find(findings, levelOK, "functions", "", "this program's"))
			assert.NotNil(t, find(findings, levelOK, "views", "", "this program's"))
			assert.NotNil(t, find(findings, levelOK, "roles", "", "this program's"))
			assert.NotNil(t, health)
			assert.NotContains(t, topics(findings, levelWarning), "access", "a monitor is not warned for ever")
		}
		for _, f := range findings {
			assert.NotContains(t, f.Message, "can't be checked")
			assert.NotContains(t, f.Hint, "member of awa_owner")
		}
	}
}

func TestDoctorOnHistory(t *testing.T) {
	databaseURL := testdb.URL(t)
	conn := testdb.Connect(t, databaseURL)
	assert.NotNil(t, find(examined(t, databaseURL), levelOK, "disk", "", "no history yet"))
	execute(t, conn, "select awa.enqueue('q', 'k')",
		"update awa.ring set left_at = array_fill(now() - interval '2 hours', array[4])")
	f := find(examined(t, databaseURL), levelOK, "disk", "", " an hour; completed_retention = 24:00:00 will take about ")
	require.NotNil(t, f)

	// The ring is full: three segments are left, all of them within the retention.
	execute(t, conn, "select awa.rotate(true)", "select awa.enqueue('q', 'k')", "select awa.rotate(true)",
		"select awa.enqueue('q', 'k')", "select awa.rotate(true)", "select awa.enqueue('q', 'k')")
	assert.Nil(t, find(examined(t, databaseURL), levelWarning, "disk", "ring", ""), "the current one is young and small")
	execute(t, conn, "update awa.settings set segment_bytes = 100")
	f = find(examined(t, databaseURL), levelWarning, "disk", "ring",
		"full: three segments are within completed_retention (24:00:00), and the current one has grown to 8192 bytes")
	require.NotNil(t, f)
	assert.Contains(t, f.Hint, "segment_age to 08:00:00 or more")
	execute(t, conn, "update awa.settings set segment_bytes = 100000000, segment_age = '1 minute'",
		"update awa.ring set left_at[current_segment + 1] = now() - interval '2 minutes'")
	assert.NotNil(t, find(examined(t, databaseURL), levelWarning, "disk", "ring", "full"))
	execute(t, conn, "update awa.settings set completed_retention = '0'")
	assert.Nil(t, find(examined(t, databaseURL), levelWarning, "disk", "ring", ""), "now it can be pruned")
}

func TestDoctorPrints(t *testing.T) {
	var findings []finding
	for i := range 7 {
		findings = append(findings,
			finding{Level: levelWarning, Topic: "a", Subject: fmt.Sprint(i), Message: "is bad", Hint: "Do this."})
	}
	findings = append(findings,
		finding{Level: levelOK, Topic: "a", Message: "fine"},
		finding{Level: levelCritical, Topic: "a", Message: "two\nlines"},
		finding{Level: levelOK, Topic: "b", Subject: "x", Message: "fine", Hint: "Nothing to do."})
	var short, verbose bytes.Buffer
	printFindings(&short, findings, false)
	assert.Equal(t, ""+
		"warning   a            0, 1, 2, 3, 4, 2 more: is bad. Do this.\n"+
		"critical  a            two lines\n"+
		"ok        b            x: fine\n", short.String())
	printFindings(&verbose, findings, true)
	assert.Contains(t, verbose.String(), ""+
		"warning   a            6: is bad. Do this.\n"+
		"critical  a            two lines\n"+
		"ok        a            fine\n"+
		"ok        b            x: fine\n")
}

package sql_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/install"
)

// dumpKey is what newer versions of pg_dump put around a dump, different each time.
var dumpKey = regexp.MustCompile(`(?m)^\\(un)?restrict .*$`)

// catalogHash is of things that have other numbers in another database; the next one is without these.
var catalogHash = regexp.MustCompile(`, catalog [0-9a-f]{32}`)

func (d database) uninstalls(sources *install.Sources, o install.Options) (install.Removal, error) {
	d.t.Helper()
	conn, err := pgx.Connect(context.Background(), d.url)
	require.NoError(d.t, err)
	defer conn.Close(context.Background())
	return sources.Uninstall(context.Background(), conn, o)
}

// psql runs a file, with variables, and returns what it printed and whether it went well.
func (d database) psql(text string, variables ...string) (output string, well bool) {
	d.t.Helper()
	file := filepath.Join(d.t.TempDir(), "file.sql")
	require.NoError(d.t, os.WriteFile(file, []byte(text), 0o600))
	args := []string{"-X", "-q", "-d", d.url, "-f", file}
	for _, v := range variables {
		args = append(args, "-v", v)
	}
	out, err := exec.CommandContext(d.t.Context(), "psql", args...).CombinedOutput()
	return string(out), err == nil
}

func file(t *testing.T, sources *install.Sources) string {
	t.Helper()
	text, err := sources.File()
	require.NoError(t, err)
	return text
}

func uninstallFile(t *testing.T) string {
	t.Helper()
	sources, err := install.Embedded()
	require.NoError(t, err)
	text, err := sources.UninstallFile()
	require.NoError(t, err)
	return text
}

// The file for psql and the program make the same of an empty database, know each other's work, and upgrade it.
func TestFileAndProgramAreOne(t *testing.T) {
	own := newServer(t)
	byProgram, byFile := own.database("program", true), own.database("file", false)
	this, err := install.Embedded()
	require.NoError(t, err)
	contents := func(d database) string {
		out, err := own.program("pg_dump", "--schema-only", "--schema=awa", d.url).Output()
		require.NoError(t, err)
		return string(catalogHash.ReplaceAll(dumpKey.ReplaceAll(out, nil), nil)) +
			one[string](d.session(), "select concat_ws(' ', version, functions, role_prefix) from awa.schema_version")
	}
	output, well := byFile.psql(file(t, this))
	require.True(t, well, output)
	require.Contains(t, output, "Awa is installed: schema version 1, functions 0.1.0.")
	require.NotContains(t, output, "ERROR")
	require.Equal(t, contents(byProgram), contents(byFile))
	byFile.session().enqueue("q")

	written := "select concat_ws(' ', xmin, ctid) from awa.schema_version"
	before := []string{one[string](byProgram.session(), written), one[string](byFile.session(), written)}
	for _, d := range []database{byProgram, byFile} {
		output, well = d.psql(file(t, this))
		require.True(t, well, output)
		require.Contains(t, output, "Awa is up to date: schema version 1, functions 0.1.0.")
		result, err := driver.Migrate(t.Context(), d.url)
		require.NoError(t, err)
		require.False(t, result.Changed)
	}
	require.Equal(t, before, []string{one[string](byProgram.session(), written), one[string](byFile.session(), written)},
		"there was nothing to do")

	next := version(t, "0.2.0", migration2, newBody)
	output, well = byProgram.psql(file(t, next))
	require.True(t, well, output)
	require.Contains(t, output, "Awa is up to date: schema version 2, functions 0.2.0.")
	result, err := byFile.installs(next, install.Options{})
	require.NoError(t, err)
	require.True(t, result.Changed)
	require.Equal(t, contents(byProgram), contents(byFile))

	output, well = byProgram.psql(file(t, this)) // the older one
	require.True(t, well, output)
	require.Contains(t, output, "WARNING:  the database has Awa 0.2.0")
	require.Contains(t, output, "Awa stays as it is: schema version 2, functions 0.2.0.")
	require.Equal(t, contents(byProgram), contents(byFile))

	// A prefix is known afterwards. What is refused ends psql, and leaves nothing.
	prefixed, other := own.database("prefixed", false), own.database("other", false)
	output, well = prefixed.psql(file(t, this), "role_prefix=app_")
	require.True(t, well, output)
	for range 2 {
		output, well = prefixed.psql(file(t, this))
		require.True(t, well, output)
	}
	s := prefixed.session()
	require.Equal(t, []string{"app_maintainer", "app_operator", "app_owner", "app_producer", "app_reader", "app_worker"},
		list[string](s, "select rolname from pg_roles where rolname like 'app\\_%' order by 1"))
	require.Equal(t, "app_", one[string](s, "select role_prefix from awa.schema_version"))
	output, well = prefixed.psql(file(t, this), "role_prefix=awa_")
	require.False(t, well)
	require.Contains(t, output, "Awa is installed here with the role prefix app_, not awa_")
	output, well = other.psql(file(t, this), "role_prefix=x'; drop table y; --")
	require.False(t, well)
	require.Contains(t, output, "role_prefix is not the beginning of a role's name")
	require.True(t, one[bool](other.session(), "select to_regnamespace('awa') is null"))
	require.Less(t, len(output), 1000, "not the whole file as the context of the error")
}

// Nothing is left of an installation. It refuses while there is anything to lose, and says which roles stay and why.
func TestUninstall(t *testing.T) {
	sources, err := install.Embedded()
	require.NoError(t, err)
	own := newServer(t)
	s := database{t, own.URL()}.session()
	catalog := func(s *session) []string {
		return list[string](s,
			"select nspname from pg_namespace where nspname !~ '^pg_(toast_)?temp_' union all select rolname from pg_roles "+
				"union all select relname from pg_class where relnamespace > 16000 order by 1")
	}
	roles := func() []string {
		return list[string](s, "select rolname from pg_roles where rolname like 'awa\\_%' order by 1")
	}
	byProgram := func(d database, o install.Options) (install.Removal, error) {
		return d.uninstalls(sources, o)
	}

	d := own.database("app", false)
	a := d.session()
	empty := catalog(a)
	migrate := func(d database) {
		_, err := driver.Migrate(t.Context(), d.url)
		require.NoError(t, err)
	}
	migrate(d)
	a.exec("create role web login; grant awa_producer, awa_worker to web")
	for i, enqueue := range []string{"select awa.enqueue('q', 'k')",
		"select awa.enqueue('q', 'k', run_at => '2100-01-01')",
		"select awa.complete(c.job_id, c.receipt, '1') from awa.claim('q') c"} {
		if i > 0 {
			migrate(d)
		}
		a.exec("select awa.enqueue('q', 'k')")
		a.exec(enqueue)
		_, err = byProgram(d, install.Options{})
		require.Equal(t, "55000", sqlState(err))
		require.ErrorContains(t, err, "there are jobs")
		output, well := d.psql(uninstallFile(t))
		require.False(t, well)
		require.Contains(t, output, "there are jobs")
		require.NotZero(t, one[int](a, "select count(*)::int from awa.jobs"), "nothing was changed")
		if i == 1 {
			output, well = d.psql(uninstallFile(t), "force=on")
			require.True(t, well, output)
			require.Contains(t, output, "Awa is removed.\nNone of its roles is left.")
		} else {
			removal, err := byProgram(d, install.Options{Force: true})
			require.NoError(t, err)
			require.Equal(t, []any{true, 0, 6}, []any{removal.Found, len(removal.Kept), len(removal.Dropped)})
		}
		a.exec("drop role if exists web")
		require.Equal(t, empty, catalog(a))
	}

	// A schedule is worth as much as a job, until it is removed.
	migrate(d)
	a.exec("select awa.schedule('s', 'q', 'k', '@daily')")
	_, err = byProgram(d, install.Options{})
	require.ErrorContains(t, err, "there are jobs, or schedules")
	require.Contains(t, detail(err), "awa.schedules")
	a.exec("select awa.unschedule('s')")

	// Without jobs it goes by itself, but not with what others made of it.
	a.exec("create view public.mine as select id from awa.jobs; create table public.ids (id bigint default " +
		"nextval('awa.job_ids'))")
	_, err = byProgram(d, install.Options{})
	require.Equal(t, "2BP01", sqlState(err))
	require.Contains(t, detail(err), "view public.mine")
	require.Contains(t, detail(err), "default value for column id of table public.ids")
	a.exec("drop view public.mine; drop table public.ids")
	for object, statements := range map[string][2]string{
		"policy p on table public.t": {"create table public.t (v text); create policy p on public.t " +
			"using (v = awa.version())", "drop table public.t"},
		"table awa.mine": {"create table awa.mine (n int); insert into awa.mine values (1)",
			"drop table awa.mine"},
		"publication of table awa.leases in publication p": {"create publication p for table awa.leases",
			"drop publication p"},
		"publication of schema awa in publication p": {"create publication p for tables in schema awa",
			"drop publication p"},
		"statistics object public.s": {"create statistics public.s on job_id, lane from awa.leases",
			"drop statistics public.s"},
		"type awa.mine": {"create domain awa.mine as int", "drop domain awa.mine"},
		"table public.child": {"create table public.child () inherits (awa.settings)",
			"drop table public.child"},
	} {
		a.exec(statements[0])
		_, err = byProgram(d, install.Options{})
		require.Equal(t, "2BP01", sqlState(err), object)
		require.Contains(t, detail(err), object)
		a.exec(statements[1])
	}

	// Somebody put policies where it would look for jobs: they don't hide any.
	a.exec("create policy p on awa.leases using (false); alter table awa.leases enable row level security, force row " +
		"level security")
	_, err = byProgram(d, install.Options{})
	require.Equal(t, "42501", sqlState(err))
	a.exec("drop policy p on awa.leases; alter table awa.leases disable row level security")

	// A reader is in the way, and is named; meanwhile all goes on.
	reader := d.session()
	reader.exec("begin; select count(*) from awa.jobs")
	_, err = byProgram(d, install.Options{Wait: 1})
	require.Equal(t, "55P03", sqlState(err))
	require.Contains(t, detail(err), "process "+one[string](reader, "select pg_backend_pid()::text"))
	reader.exec("commit")
	_, err = byProgram(d, install.Options{})
	require.NoError(t, err)
	require.Equal(t, empty, catalog(a))

	// By force it drops what others have on it, and names that.
	for _, byFile := range []bool{false, true} {
		migrate(d)
		a.exec("create table public.t (kept int, job awa.jobs); create view public.kept as select kept from public.t; " +
			"create view public.mine as select id from awa.jobs; create domain awa.mine as int")
		if !byFile {
			removal, err := byProgram(d, install.Options{Force: true})
			require.NoError(t, err)
			require.Equal(t, []string{"column job of table public.t", "type awa.mine", "view public.mine"}, removal.Others)
		} else {
			output, well := d.psql(uninstallFile(t), "force=on")
			require.True(t, well)
			require.Contains(t, output, "WARNING:  objects of others are dropped, too: column job of table public.t, "+
				"type awa.mine, view public.mine\n")
		}
		require.Empty(t, list[int](a, "select kept from public.kept"), "it is there")
		a.exec("drop table public.t cascade")
	}
	require.Equal(t, empty, catalog(a))

	// The schema is gone already
	migrate(d)
	a.exec("drop schema awa cascade")
	require.Len(t, roles(), 6)
	output, well := d.psql(uninstallFile(t))
	require.True(t, well, output)
	require.Contains(t, output, "There was no schema awa.\nNo role with the prefix awa_ is left. Where Awa was installed "+
		"with another prefix, say so: -v role_prefix=app_.")
	require.Equal(t, empty, catalog(a))

	// Roles that another database shares, or that have rights on other things, stay, and it says why.
	second := own.database("second", true)
	migrate(d)
	a.exec("create table public.theirs (n int); grant select on public.theirs to awa_reader; " +
		"alter default privileges grant execute on functions to awa_reader")
	removal, err := byProgram(d, install.Options{})
	require.NoError(t, err)
	require.Empty(t, removal.Dropped)
	require.Len(t, removal.Kept, 6)
	require.Equal(t, "it owns, or has rights on: database second", removal.Kept["awa_owner"])
	require.Equal(t, "it owns, or has rights on: database second, default privileges on new functions "+
		"belonging to role postgres, table public.theirs", removal.Kept["awa_reader"])
	second.session().enqueue("q")
	removal, err = byProgram(second, install.Options{Force: true})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"awa_reader": "it owns, or has rights on: database app"}, removal.Kept)
	a.exec("drop table public.theirs; alter default privileges revoke execute on functions from awa_reader")
	_, err = byProgram(d, install.Options{})
	require.NoError(t, err)
	require.Empty(t, roles())

	// Roles that Awa did not make are used, which it says once, and they stay.
	a.exec("create role awa_reader; create role awa_worker")
	for round := range 2 {
		if round > 0 {
			a.exec("comment on schema awa is null")
		}
		result, err := driver.Migrate(t.Context(), d.url)
		require.NoError(t, err)
		require.Len(t, result.Warnings, 1-round)
		if round == 0 {
			require.Equal(t, "roles that Awa did not make are used: awa_reader, awa_worker", result.Warnings[0].Message)
		}
	}
	removal, err = byProgram(d, install.Options{})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"awa_reader": "Awa did not make it", "awa_worker": "Awa did not make it"},
		removal.Kept)
	a.exec("drop role awa_reader; drop role awa_worker")

	// Nor does the table of the version, which its owner may change, say which roles go, or whose all becomes.
	migrate(d)
	a.exec("create role app_owner; create role app_reader; comment on schema awa is null")
	a.exec("update awa.schema_version set role_prefix = 'app_'")
	_, err = driver.Migrate(t.Context(), d.url)
	require.Equal(t, "55000", sqlState(err))
	require.ErrorContains(t, err, "the role app_owner is there, and was not made by Awa")
	removal, err = byProgram(d, install.Options{})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"app_owner": "Awa did not make it", "app_reader": "Awa did not make it"},
		removal.Kept)
	require.Len(t, roles(), 6)
	_, err = byProgram(d, install.Options{})
	require.NoError(t, err)
	require.Empty(t, roles())
	migrate(d)
	a.exec("update awa.schema_version set role_prefix = 'pg_read_all_'")
	_, err = byProgram(d, install.Options{})
	require.Equal(t, "55000", sqlState(err))
	require.ErrorContains(t, err, "awa.schema_version does not hold the beginning of a role's name")
	a.exec("drop schema awa cascade")

	// A schema that is not Awa's
	a.exec("create schema awa; create table awa.theirs (n int)")
	_, err = byProgram(d, install.Options{})
	require.Equal(t, "55000", sqlState(err))
	require.ErrorContains(t, err, "schema awa does not hold the version of Awa")
}

// A copy in a second database of the server, restored by a role that may not have the first one's roles, gets roles of
// its own.
func TestACopyGetsRolesOfItsOwn(t *testing.T) {
	own := newServer(t)
	source, target := own.database("source", true), own.database("target", false)
	job := source.session().enqueue("q")
	admin := database{t, own.URL()}.session()
	admin.exec("create role dba login createrole")
	admin.exec("alter database target owner to dba")
	dump, err := own.program("pg_dump", "--no-owner", "--no-acl", "--schema=awa", source.url).Output()
	require.NoError(t, err)
	target.url = withUser(t, own.URL(), "dba", "target")
	output, well := target.psql(string(dump))
	require.True(t, well, output)

	_, err = driver.Migrate(t.Context(), target.url)
	require.ErrorContains(t, err, "the role awa_owner owns things in other databases")
	result, err := driver.MigrateWithConfig(t.Context(), target.url, driver.MigrateConfig{RolePrefix: "copy_"})
	require.NoError(t, err)
	require.Equal(t, []any{"copy_", true}, []any{result.RolePrefix, result.Shared})
	s := target.session()
	require.Equal(t, "available", s.state(job))
	require.Equal(t, "copy_owner",
		one[string](s, "select nspowner::regrole::text from pg_namespace where nspname = 'awa'"))
	result, err = driver.Migrate(t.Context(), target.url)
	require.NoError(t, err)
	require.Equal(t, []any{"copy_", false}, []any{result.RolePrefix, result.Changed})
}

// psql sends a file in the encoding of its session, which may be any.
func TestFilesAreASCII(t *testing.T) {
	this, err := install.Embedded()
	require.NoError(t, err)
	for _, text := range []string{file(t, this), uninstallFile(t)} {
		n := 0
		for line := range strings.Lines(text) {
			n++
			require.NotRegexp(t, `[^\x00-\x7f]`, line, n)
		}
	}
}

// A limit on the length of transactions, which the database's owner may have set, does not end an installation.
func TestInstallIsNotCutShort(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	if one[int](s, "select current_setting('server_version_num')::int") < 170000 {
		t.Skip("there is no transaction_timeout")
	}
	this, err := install.Embedded()
	require.NoError(t, err)
	for _, do := range []func() error{
		func() error { _, err := d.installs(this, install.Options{Wait: patience}); return err },
		func() error { _, err := d.uninstalls(this, install.Options{Wait: patience}); return err },
	} {
		s.exec("comment on schema awa is null")
		s.exec(fmt.Sprintf("select pg_advisory_lock(%d)", lockKey))
		s.exec(fmt.Sprintf(`alter database %q set transaction_timeout = 2000`, one[string](s, "select current_database()")))
		done := make(chan error, 1)
		go func() { done <- do() }()
		require.Eventually(t, func() bool {
			return len(done) > 0 || one[bool](s, "select exists (select from pg_stat_activity a where a.datname = "+
				"current_database() and a.wait_event = 'PgSleep' and a.xact_start < clock_timestamp() - interval '3 seconds')")
		}, patience, 10*time.Millisecond)
		s.exec("select pg_advisory_unlock_all()")
		require.NoError(t, <-done)
	}
}

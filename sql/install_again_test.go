package sql_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/install"
	"github.com/awa-pg/awa/internal/pgserver"
)

// migratesAsAWorker calls Migrate as programs do at each start, with a login that can't install, beside somebody who
// has locked all tables. It returns the warnings.
func (d database) migratesAsAWorker(name string) (warnings []string) {
	d.t.Helper()
	result, err := driver.MigrateWithConfig(d.t.Context(), withUser(d.t, d.url, "pod", name),
		driver.MigrateConfig{Wait: 5 * time.Second})
	require.NoError(d.t, err)
	require.False(d.t, result.Changed)
	for _, w := range result.Warnings {
		warnings = append(warnings, w.Message)
	}
	return warnings
}

// In a database that was restored, or came here by pg_upgrade, functions, tables and views have other OIDs. There is
// nothing to do all the same: a login that can't install could not do it, and no program would start.
func TestNothingToDoAfterPgUpgrade(t *testing.T) {
	own := newServer(t)
	d := own.database("app", true)
	d.session().exec("create role pod login; grant awa_worker to pod")
	require.Empty(t, d.migratesAsAWorker("app"))
	view := "select 'awa.jobs'::regclass::oid::bigint"
	before := one[int64](d.session(), view)

	restored := own.restore("restored", own.dumps(d)())
	require.NotEqual(t, before, one[int64](restored.session(), view))
	require.Empty(t, restored.migratesAsAWorker("restored"))
	result, err := driver.Migrate(t.Context(), restored.url)
	require.NoError(t, err)
	require.False(t, result.Changed)

	if _, err := os.Stat(filepath.Join(own.BinDir(), "pg_upgrade")); err != nil {
		t.Logf("the binaries of PostgreSQL %s here have no pg_upgrade: that part runs with others", own.ServerVersion())
		return
	}
	next, err := own.Upgrade(t.Context(), "")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, next.Stop()) })
	d = database{t, withUser(t, next.URL(), "postgres", "app")}
	require.Empty(t, d.migratesAsAWorker("app"))
	s := d.session()
	require.Equal(t, before, one[int64](s, view), "pg_upgrade keeps those of tables and views")
	s.exec("do $$ begin perform awa.rebase_after_restore(); end $$")
	job := s.enqueue("q")
	require.Equal(t, []int64{job}, ids(s.claim("q", 1)))
}

// An owner may tune. Where anything else differs, a login that can't mend it is told so, and its program starts.
func TestNothingToDoWhereTheOwnerTunes(t *testing.T) {
	own := newServer(t)
	d := own.database("app", true)
	s := d.session()
	s.exec("create role pod login; grant awa_worker to pod; create role ins login; grant awa_owner to ins")
	s.exec("set role awa_owner")
	for _, tune := range []string{
		"alter table awa.done_entries set (autovacuum_vacuum_scale_factor = 0.01)",
		"create index mine on awa.done_entries (finalized_at)",
		"alter index awa.mine set (fillfactor = 50)",
		"alter table awa.done_entries alter column finalized_at set statistics 500",
		"comment on table awa.done_entries is 'mine'",
	} {
		s.exec(tune)
		require.Empty(t, d.migratesAsAWorker("app"), tune)
	}
	s.exec("create table awa.mine_too ()")
	const differs = "schema awa is not as its installation left it"
	require.Equal(t, []string{differs}, d.migratesAsAWorker("app"))
	result, err := driver.Migrate(t.Context(), withUser(t, d.url, "pod", "app"))
	require.NoError(t, err)
	require.Len(t, result.Warnings, 1)
	require.Contains(t, result.Warnings[0].Hint, "Let a superuser run awa migrate, or a role that installs: ins.")
	require.Contains(t, result.Warnings[0].Hint, "Grant awa_owner to no login of a program")

	// An installation records it. Something that is to be done is an error.
	_, err = driver.Migrate(t.Context(), withUser(t, d.url, "ins", "app"))
	require.NoError(t, err)
	require.Empty(t, d.migratesAsAWorker("app"))
	conn, err := pgx.Connect(t.Context(), withUser(t, d.url, "pod", "app"))
	require.NoError(t, err)
	defer conn.Close(context.Background())
	_, err = version(t, "0.1.1", newBody).Install(t.Context(), conn, install.Options{})
	require.Equal(t, "42501", sqlState(err))
	require.Contains(t, hint(err), "Let a superuser run awa migrate, or a role that installs: ins.")
	require.NotContains(t, hint(err), "grant awa_owner to pod")
}

// A restore of the schema alone leaves the schema itself to the superuser who made it. The way out loses no job.
func TestASchemaRestoredAlone(t *testing.T) {
	own := newServer(t)
	d := own.database("app", true)
	s := d.session()
	s.enqueueMany("q", 3)
	file := filepath.Join(t.TempDir(), "dump")
	output, err := own.program("pg_dump", "-Fc", "-f", file, "-d", d.url).CombinedOutput()
	require.NoError(t, err, string(output))
	alone := own.database("alone", false)
	r := alone.session()
	r.exec("create schema awa")
	output, err = own.program("pg_restore", "-n", "awa", "-d", alone.url, file).CombinedOutput()
	require.NoError(t, err, string(output))

	_, err = driver.Migrate(t.Context(), alone.url)
	require.Equal(t, "55000", sqlState(err))
	require.ErrorContains(t, err, "awa.schema_version belongs to awa_owner, schema awa to postgres")
	require.Contains(t, hint(err), "alter schema awa owner to awa_owner, then run this again")
	require.NotContains(t, hint(err), "drop the schema")
	r.exec("alter schema awa owner to awa_owner")
	result, err := driver.Migrate(t.Context(), alone.url)
	require.NoError(t, err)
	require.True(t, result.Changed)
	r.exec("select awa.rebase_after_restore()")
	require.Len(t, r.claim("q", 9), 3)
	r.balanced()
}

// A standby is named, and where to go instead.
func TestInstallOnAStandby(t *testing.T) {
	own := newServer(t)
	d := own.database("app", true)
	standby, err := own.Standby(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, standby.Stop()) })
	d.url = withUser(t, standby.URL(), "postgres", "app")
	this, err := install.Embedded()
	require.NoError(t, err)
	_, migrated := driver.Migrate(t.Context(), d.url)
	_, removed := d.uninstalls(this, install.Options{})
	for _, err := range []error{migrated, removed} {
		require.Equal(t, "25006", sqlState(err), err)
		require.ErrorContains(t, err, "this server is a standby")
		require.Contains(t, hint(err), "Run this on the primary")
	}
	output, well := d.psql(file(t, this))
	require.False(t, well)
	require.Contains(t, output, "ERROR:  this server is a standby")
}

// An installation and a removal lock all objects at once. The room that docs/operating.md asks for is enough.
func TestInstallFitsIntoTheLockTable(t *testing.T) {
	started, err := pgserver.Start(t.Context(), pgserver.Config{Settings: map[string]string{
		"max_locks_per_transaction": "64", "max_connections": "31"}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, started.Stop()) })
	d := server{started, t}.database("app", true)
	this, err := install.Embedded()
	require.NoError(t, err)
	d.session().enqueue("q")
	_, err = d.installs(version(t, "0.2.0", migration2, newBody), install.Options{})
	require.NoError(t, err)
	_, err = d.uninstalls(this, install.Options{Force: true})
	require.NoError(t, err)
}

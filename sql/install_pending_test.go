package sql_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/install"
)

// evil is what its author creates in a transaction that ends after an installation.
const evil = `create function awa.enqueue(text, text, text) returns bigint language plpgsql as
	'begin raise exception ''evil as %'', current_user; end'`

// pendingDatabase returns a database in which mal may create schemas, and a session of hers.
func pendingDatabase(t *testing.T) (server, database, *session) {
	own := newServer(t)
	d := own.database("app", false)
	s := d.session()
	s.exec(`create role mal login; create role boss login createrole; grant create on database app to mal, boss`)
	return own, d, database{t, withUser(t, own.URL(), "mal", "app")}.session()
}

// requireNothingOfMal fails where the schema has anything that is not the owner's, or that the owner did not make.
func requireNothingOfMal(t *testing.T, s *session) {
	t.Helper()
	require.Empty(t, list[string](s, `select p.oid::regprocedure::text from pg_proc p
		where p.pronamespace = 'awa'::regnamespace and (p.prosrc like '%evil%' or p.proowner <> 'awa_owner'::regrole)`))
	require.Empty(t, list[string](s, `select c.relname::text from pg_class c
		where c.relnamespace = 'awa'::regnamespace and c.relowner <> 'awa_owner'::regrole`))
	s.exec("select awa.enqueue('q', 'k', '{}')")
}

// A function that was created in the schema before an installation, and is committed after it, is not found there.
func TestInstallLeavesWhatIsNotYetCommitted(t *testing.T) {
	for name, installer := range map[string]string{"a superuser": "", "a member": "boss", "a file": "-"} {
		t.Run(name, func(t *testing.T) {
			own, d, mal := pendingDatabase(t)
			s := d.session()
			mal.exec("create schema awa; create function awa.first() returns int return 1; drop function awa.first()")
			if installer == "boss" {
				s.exec("grant mal to boss")
				d.url = withUser(t, own.URL(), installer, "app")
			}
			mal.exec("begin; " + evil)
			if installer == "-" {
				this, err := install.Embedded()
				require.NoError(t, err)
				output, well := d.psql(file(t, this))
				require.True(t, well, output)
			} else {
				_, err := driver.Migrate(t.Context(), d.url)
				require.NoError(t, err)
			}
			mal.exec("commit")
			requireNothingOfMal(t, s)
		})
	}
}

// The same where somebody had installed for herself alone, and it is shared.
func TestSharingLeavesWhatIsNotYetCommitted(t *testing.T) {
	own, d, mal := pendingDatabase(t)
	s := d.session()
	_, err := driver.Migrate(t.Context(), withUser(t, own.URL(), "mal", "app"))
	require.NoError(t, err)
	mal.exec("select awa.enqueue('q', 'k', '{}')")
	s.exec("create publication p for tables in schema awa")
	mal.exec("begin; " + evil)
	result, err := driver.Migrate(t.Context(), d.url)
	require.NoError(t, err)
	mal.exec("commit")
	requireNothingOfMal(t, s)
	require.Equal(t, 2, one[int](s, "select count(*) from awa.jobs"))
	require.Equal(t, 1, one[int](s, "select count(*) from pg_namespace where nspname ~ 'awa|_install'"))
	hints := ""
	for _, w := range result.Warnings {
		hints += w.Hint
	}
	require.Contains(t, hints, "alter publication p add tables in schema awa;")
	result, err = driver.Migrate(t.Context(), d.url)
	require.NoError(t, err)
	require.False(t, result.Changed)
}

// A table that is not yet committed holds the schema: the installation waits for it, no longer than it is told to, and
// names it.
func TestInstallWaitsForATableThatIsNotYetCommitted(t *testing.T) {
	own, d, mal := pendingDatabase(t)
	for _, shared := range []bool{false, true} {
		if shared {
			d.session().exec("drop schema awa cascade")
			_, err := driver.Migrate(t.Context(), withUser(t, own.URL(), "mal", "app"))
			require.NoError(t, err)
		} else {
			mal.exec("create schema awa")
		}
		mal.exec("begin; create table awa.made_up (n int)")
		_, err := driver.MigrateWithConfig(t.Context(), d.url, driver.MigrateConfig{Wait: 50 * time.Millisecond})
		require.Equal(t, "55P03", sqlState(err), err)
		require.ErrorContains(t, err, "schema awa has not become free within")
		require.Contains(t, detail(err), "of role mal")
		require.Contains(t, detail(err), "holds schema awa")
		mal.exec("rollback")
		_, err = driver.Migrate(t.Context(), d.url)
		require.NoError(t, err)
		requireNothingOfMal(t, d.session())
	}
}

// The same where it was created before an upgrade by a role that may not create there any more: the upgrade waits for
// it, and drops it.
func TestUpgradeLeavesNothingThatIsNotYetCommitted(t *testing.T) {
	for _, as := range []string{"", "set local role awa_owner; "} {
		for name, change := range map[string]string{
			"a function": evil, "a function that is Awa's": "create or replace function awa.version() returns text " +
				"language plpgsql as 'begin raise exception ''evil''; end'", "a view": "create view awa.seen as select 1"} {
			if as == "" && name == "a function that is Awa's" {
				continue // of which she is not the owner
			}
			t.Run(as+name, func(t *testing.T) {
				_, d, mal := pendingDatabase(t)
				_, err := driver.Migrate(t.Context(), d.url)
				require.NoError(t, err)
				s := d.session()
				s.exec("grant awa_owner to mal")
				mal.exec("begin; " + as + change)
				s.exec("revoke awa_owner from mal; comment on schema awa is null") // all is installed again

				wait := 50 * time.Millisecond
				result, err := driver.MigrateWithConfig(t.Context(), d.url, driver.MigrateConfig{Wait: wait})
				if as == "" { // which might have created anything, anywhere
					require.NoError(t, err)
					require.Len(t, result.Warnings, 1)
					require.Contains(t, result.Warnings[0].Detail, fmt.Sprintf("process %d of role mal", mal.pid))
					s.exec("comment on schema awa is null")
				} else {
					require.Equal(t, "55P03", sqlState(err), err)
					require.ErrorContains(t, err, "what is in schema awa has not become free within 00:00:00.05")
					require.Contains(t, detail(err), fmt.Sprintf("process %d of role mal", mal.pid))
				}

				installed := make(chan error, 1)
				go func() {
					_, err := driver.Migrate(t.Context(), d.url)
					installed <- err
				}()
				require.Eventually(t, func() bool {
					return one[bool](s, "select exists (select from pg_stat_activity where wait_event = 'PgSleep')")
				}, patience, time.Millisecond, "the installation never waited")
				mal.exec("commit")
				require.NoError(t, <-installed)
				requireNothingOfMal(t, s)
				require.Empty(t, list[string](s, "select oid::regclass::text from pg_class "+
					"where relnamespace = 'awa'::regnamespace and relname = 'seen'"))
			})
		}
	}
}

// Where nothing is to be done, nothing is: an installer that had to become a member of the owner to look is none
// afterwards.
func TestInstallThatOnlyLooksGrantsNothing(t *testing.T) {
	own := newServer(t)
	d := own.database("app", true)
	s := d.session()
	if one[int](s, "select current_setting('server_version_num')::int") >= 160000 {
		t.Skip("createrole is no right to grant every role")
	}
	s.exec("create role lone login createrole")
	url := withUser(t, own.URL(), "lone", "app")
	result, err := driver.Migrate(t.Context(), url)
	require.NoError(t, err)
	require.False(t, result.Changed)
	this, err := install.Embedded()
	require.NoError(t, err)
	output, well := database{t, url}.psql(file(t, this))
	require.True(t, well, output)
	require.Empty(t, list[string](s, "select roleid::regrole::text from pg_auth_members where member = 'lone'::regrole"))
}

// The function of an event trigger that can't find its table stops an installation, which names it.
func TestInstallNamesAnEventTrigger(t *testing.T) {
	d := newServer(t).database("app", false)
	s := d.session()
	s.exec(`create table ddl_log (tag text);
		create function log_ddl() returns event_trigger language plpgsql as
		'begin insert into ddl_log values (tg_tag); end';
		create event trigger audit on ddl_command_end execute function log_ddl()`)
	_, err := driver.Migrate(t.Context(), d.url)
	require.Equal(t, "42P01", sqlState(err), err)
	require.Contains(t, detail(err), "The event trigger audit called public.log_ddl, which is none of Awa's.")
	s.exec("alter function public.log_ddl() security definer set search_path = public, pg_temp")
	_, err = driver.Migrate(t.Context(), d.url)
	require.NoError(t, err)
}

// A removal waits for the roles that another database needs just now as long as it is told to, and names the session.
func TestUninstallNamesWhoUsesARole(t *testing.T) {
	own := newServer(t)
	d, other := own.database("app", true), own.database("other", false)
	holder := other.session()
	holder.exec("begin; create table t (); grant select on t to awa_maintainer")
	this, err := install.Embedded()
	require.NoError(t, err)
	_, err = d.uninstalls(this, install.Options{Wait: 50 * time.Millisecond})
	require.Equal(t, "55P03", sqlState(err), err)
	require.ErrorContains(t, err, "role awa_maintainer has not become free within")
	require.Contains(t, detail(err), "in database other")
	holder.exec("commit")
	removal, err := d.uninstalls(this, install.Options{})
	require.NoError(t, err)
	require.Contains(t, removal.Kept, "awa_maintainer")
}

// A table of another role's in the schema is named, and goes by force.
func TestUninstallBesideATableOfAnother(t *testing.T) {
	own := newServer(t)
	d := own.database("app", false)
	s := d.session()
	s.exec("create role boss login createrole; create role mal; alter database app owner to boss")
	d.url = withUser(t, own.URL(), "boss", "app")
	_, err := driver.Migrate(t.Context(), d.url)
	require.NoError(t, err)
	s.exec("grant create, usage on schema awa to mal; set role mal; create table awa.mine (n int); " +
		"create view awa.seen as select 1; reset role")
	this, err := install.Embedded()
	require.NoError(t, err)
	_, err = d.uninstalls(this, install.Options{})
	require.Equal(t, "2BP01", sqlState(err), err)
	require.Contains(t, detail(err), "table awa.mine")
	require.Contains(t, detail(err), "view awa.seen")
	removal, err := d.uninstalls(this, install.Options{Force: true})
	require.NoError(t, err)
	require.Contains(t, removal.Others, "table awa.mine")
}

// A copy by a template, on the same server, gets roles of its own when its objects are taken from the first one's
// owner.
func TestATemplateCopyGetsRolesOfItsOwn(t *testing.T) {
	own := newServer(t)
	app := own.database("app", true).session()
	app.exec("select awa.enqueue('q', 'k', '{}')")
	require.NoError(t, app.db.Close(app.ctx))
	admin := database{t, own.URL()}.session()
	require.Eventually(t, func() bool { return admin.try("create database copy template app") == nil }, patience,
		10*time.Millisecond, "the last session of it ends")
	copied := named(own, t, "copy")
	s := copied.session()
	_, err := driver.MigrateWithConfig(t.Context(), copied.url, driver.MigrateConfig{RolePrefix: "copy_"})
	require.ErrorContains(t, err, "installed here with the role prefix awa_, not copy_")
	s.exec(`create function awa.planted() returns name language sql security definer as 'select current_user'`)
	s.exec("alter function awa.planted() owner to awa_owner")
	text, err := os.ReadFile("../docs/operating.md")
	require.NoError(t, err)
	for _, statement := range []string{"create role copy_owner nologin",
		"comment on role copy_owner is 'Awa: made by an installation of it'",
		"reassign owned by awa_owner to copy_owner"} {
		require.Contains(t, string(text), "`"+statement+"`")
		s.exec(statement)
	}
	require.Equal(t, "copy_owner", one[string](s, "select awa.planted()::text"), "it is no superuser's")
	_, err = driver.MigrateWithConfig(t.Context(), copied.url, driver.MigrateConfig{RolePrefix: "copy_"})
	require.NoError(t, err)
	s.exec("select awa.enqueue('q', 'k', '{}')")
	require.Equal(t, 2, one[int](s, "select count(*) from awa.jobs"))
	require.Empty(t, list[string](s, `select distinct r.rolname::text
		from pg_shdepend d join pg_roles r on r.oid = d.refobjid
		where d.dbid = (select oid from pg_database where datname = current_database()) and r.rolname ~ '^awa_'`))
	require.Equal(t, []string{"copy_owner"}, list[string](s, `select distinct r.rolname::text
		from pg_class c join pg_roles r on r.oid = c.relowner where c.relnamespace = 'awa'::regnamespace`))
	require.Equal(t, "copy_", one[string](s, "select role_prefix from awa.schema_version"))
}

package sql_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/install"
	"github.com/awa-pg/awa/internal/pgserver"
	"github.com/awa-pg/awa/internal/testdb"
)

// lockKey is that of the installation.
const lockKey = 0x6177616d696772

// Whoever may create objects in public, or in a schema called like the role that installs, must not get the installer
// to run them, nor the functions.
func TestInstallCallsNothingOfOthers(t *testing.T) {
	own := newServer(t)
	admin := database{t, own.URL()}.session()
	admin.exec("create role installer login superuser")
	admin.exec("create database app")
	u := withUser(t, own.URL(), "installer", "app")
	s := database{t, u}.session()
	s.exec("create schema installer; create table public.hits (by text); grant insert on public.hits to public; alter " +
		"database app set search_path = installer, public, pg_catalog")
	for _, schema := range []string{"installer", "public"} {
		for _, function := range []string{
			"pg_advisory_lock(double precision) returns void", "pg_advisory_lock(int) returns void",
			"pg_try_advisory_xact_lock(int) returns boolean", "pg_try_advisory_xact_lock(bigint) returns boolean",
			"set_config(text, text, boolean) returns text", "current_setting(text, boolean) returns text",
			"current_setting(text) returns text", "pg_has_role(oid, text) returns boolean", "getdatabaseencoding() returns text",
			"format(text, text) returns text", "format(text, int) returns text", "format(text, regrole) returns text",
			"md5(text) returns text", "array_position(bigint[], bigint) returns int", "clock_timestamp() returns timestamptz",
			"differ(oid, regrole) returns boolean",
		} {
			s.exec("create function " + schema + "." + function +
				` language plpgsql as $$ begin insert into public.hits values (current_user); raise exception 'hijacked'; end $$`)
		}
		s.exec("create operator " + schema + ".<> (leftarg = oid, rightarg = regrole, function = " + schema + ".differ)")
		s.exec("create view " + schema + ".pg_roles as select pg_catalog.count(*) from public.hits")
	}
	// Nor do settings of the database choose roles, or insist on anything.
	s.exec("alter database app set awa.role_prefix = 'evil_'; alter database app set awa.force = 'on'; alter database " +
		"app set quote_all_identifiers = on; alter database app set client_min_messages = error")
	this, err := install.Embedded()
	require.NoError(t, err)
	for round := range 3 {
		if round == 2 {
			output, well := database{t, u}.psql(file(t, this))
			require.True(t, well, output)
		} else {
			result, err := driver.Migrate(s.ctx, u)
			require.NoError(t, err)
			require.Equal(t, "awa_", result.RolePrefix)
			require.True(t, result.Changed)
		}
		s.exec("comment on schema awa is null") // the next time all is installed again
	}
	require.Zero(t, one[int64](s, "select pg_catalog.count(*) from public.hits"))
	s.exec("set search_path = pg_catalog")
	s.enqueue("q")
	s.claim("q", 1)
	require.Equal(t, []string{"running"}, list[string](s, "select state from awa.jobs_compat()"))
	_, err = database{t, u}.uninstalls(this, install.Options{})
	require.ErrorContains(t, err, "there are jobs")
	_, err = database{t, u}.uninstalls(this, install.Options{Force: true})
	require.NoError(t, err)
	require.Zero(t, one[int64](s, "select pg_catalog.count(*) from public.hits"))
}

// aboutSnapshots says whether a warning is that the owner may not see the snapshots of others: from PostgreSQL 16 on,
// only a superuser may let it.
func aboutSnapshots(n *pgconn.Notice) bool {
	return strings.HasSuffix(n.Message, "may not see the snapshots of other roles")
}

// withUser returns the URL of a database of a server, for a role.
func withUser(t *testing.T, serverURL, user, database string) string {
	t.Helper()
	u, err := url.Parse(serverURL)
	require.NoError(t, err)
	query := u.Query()
	query.Set("user", user)
	u.Path, u.RawQuery = "/"+database, query.Encode()
	return u.String()
}

// What is not as Awa makes it is named, and left alone. Functions that somebody replaced are not called.
func TestInstallLooksBeforeItReads(t *testing.T) {
	const hit = "create table public.hits (n int); grant insert on public.hits to public; create function public.hit() " +
		"returns int language plpgsql as $$ begin insert into public.hits values (1); return 1; end $$;"
	for problem, tamper := range map[string]string{
		"is not a table": "alter table awa.schema_version rename to v; create view awa.schema_version as select " +
			"v.*, public.hit() from awa.v",
		"belongs to":                "alter table awa.schema_version owner to current_user",
		"lacks columns":             "alter table awa.schema_version drop column role_prefix",
		"does not hold the beginni": "update awa.schema_version set role_prefix = 'x; drop'",
	} {
		t.Run(problem, func(t *testing.T) {
			d := newDatabase(t)
			s := d.session()
			s.exec(hit + "comment on schema awa is null;" + tamper)
			_, err := driver.Migrate(s.ctx, d.url)
			require.Equal(t, "55000", sqlState(err))
			require.ErrorContains(t, err, "awa.schema_version "+problem)
			require.Zero(t, one[int64](s, "select count(*) from public.hits"))
		})
	}
	t.Run("functions", func(t *testing.T) {
		d := newDatabase(t)
		s := d.session()
		s.exec(hit)
		for _, f := range list[string](s,
			"select oid::regprocedure::text from pg_proc where pronamespace = 'awa'::regnamespace and prorettype in "+
				"('text'::regtype, 'bigint'::regtype, 'boolean'::regtype) and not proretset") {
			s.exec(strings.NewReplacer("%f", f).Replace(`do $do$ begin
				execute (select format('create or replace function %s(%s) returns %s language plpgsql as $$
					begin perform public.hit(); return null; end $$',
				p.oid::regproc, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid)) from pg_proc p
				where p.oid = '%f'::regprocedure); end $do$`))
		}
		for range 2 {
			_, err := driver.Migrate(s.ctx, d.url)
			require.NoError(t, err)
		}
		require.Zero(t, one[int64](s, "select count(*) from public.hits"))
		s.enqueue("q")
		require.Zero(t, one[int64](s, "select count(*) from public.hits"), "and they are Awa's again")
	})
	t.Run("a version elsewhere", func(t *testing.T) {
		url := testdb.EmptyURL(t)
		s := database{t, url}.session()
		s.exec(hit +
			"create view public.awa_schema_version as select public.hit() as version; create view public.schema_version as " +
			"select public.hit() as version")
		_, err := driver.Migrate(s.ctx, url)
		require.NoError(t, err)
		require.Zero(t, one[int64](s, "select count(*) from public.hits"))
	})
	t.Run("a schema of somebody's own", func(t *testing.T) {
		own := newServer(t)
		admin := database{t, own.URL()}.session()
		admin.exec("create database app")
		admin.exec("create role neighbour login; create role installer login; grant create on database app to neighbour, " +
			"installer")
		neighbour := database{t, withUser(t, own.URL(), "neighbour", "app")}.session()
		neighbour.exec("create schema awa; grant all on schema awa to public")
		_, err := driver.Migrate(t.Context(), withUser(t, own.URL(), "installer", "app"))
		require.Equal(t, "42501", sqlState(err))
		require.ErrorContains(t, err, "schema awa belongs to neighbour")
		neighbour.exec("create function awa.enqueue(text) returns int language sql as 'select 1'")
		_, err = driver.Migrate(t.Context(), withUser(t, own.URL(), "postgres", "app"))
		require.Equal(t, "55000", sqlState(err))
		require.ErrorContains(t, err, "but does not hold the version of Awa")
	})
}

// Whatever the default privileges of the role that installs say, and whatever was granted meanwhile: after an
// installation everybody may do what the list of grants says, and what depends on Awa's views is there.
func TestInstallSetsWhoMayDoWhat(t *testing.T) {
	own := newServer(t)
	admin := database{t, own.URL()}.session()
	admin.exec("create role web; create role mobile")
	admin.exec("create database app")
	s := database{t, withUser(t, own.URL(), "postgres", "app")}.session()
	s.exec(`alter default privileges grant execute on functions to web; alter default privileges
		grant all on tables to web; alter default privileges grant all on sequences to web;
		alter default privileges grant all on schemas to web; alter default privileges grant execute on functions to public`)
	s.exec("create role awa_owner; alter default privileges for role awa_owner grant execute on functions to web; alter " +
		"default privileges for role awa_owner grant all on tables to web")
	const open = `
		select concat_ws(' ', o.name, a.grantee::regrole, a.privilege_type) from (
		  select p.proname, coalesce(p.proacl, acldefault('f', p.proowner)), p.proowner
		    from pg_proc p
		   where p.pronamespace = 'awa'::regnamespace
		  union all select c.relname, c.relacl, c.relowner from pg_class c where c.relnamespace = 'awa'::regnamespace
		  union all
		  select a.attname, a.attacl, 0
		    from pg_attribute a
		    join pg_class c on c.oid = a.attrelid
		   where c.relnamespace = 'awa'::regnamespace
		  union all
		  select n.nspname, n.nspacl, n.nspowner
		    from pg_namespace n
		   where n.nspname = 'awa') o(name, acl, owner), aclexplode(o.acl) a
		where a.grantee <> o.owner order by 1`
	migrate := func() []string {
		_, err := driver.Migrate(s.ctx, withUser(t, own.URL(), "postgres", "app"))
		require.NoError(t, err)
		return list[string](s, open)
	}
	known := migrate()
	require.Greater(t, len(known), 50)
	for _, g := range known {
		require.NotContains(t, g, " web ")
		require.NotContains(t, g, " - ", "to everybody")
	}

	job := s.enqueue("q")
	s.exec(`create view mine as select id, state from awa.jobs;
		grant usage on schema awa to mobile;
		grant execute on function awa.enqueue to mobile with grant option;
		set role mobile; grant execute on function awa.enqueue to web; reset role;
		grant select (args) on awa.jobs to web;
		grant update (args) on awa.deferred_jobs to web;
		grant usage on sequence awa.job_ids to public;
		grant select on awa.leases to awa_reader; grant create on schema awa to mobile;
		grant execute on function awa.claim to awa_producer;
		grant execute on function awa.complete to awa_worker with grant option;
		revoke execute on function awa.fail from awa_worker; revoke usage on schema awa from awa_reader; revoke
		select on awa.jobs from awa_reader; revoke execute on function awa._snapshot from awa_owner`)
	s.exec("revoke all on awa.jobs, awa.settings from awa_owner; revoke create on schema awa from awa_owner")
	require.NotEqual(t, known, list[string](s, open))
	require.Equal(t, known, migrate())
	require.True(t,
		one[bool](s,
			"select has_function_privilege('awa_owner', 'awa._snapshot()', 'execute') and not has_function_privilege('mobile', "+
				"'awa.enqueue'::regproc, 'execute')"))
	require.Equal(t, "available", one[string](s, "select state from mine where id = $1", job))
}

// A role that may create roles installs for all of them; one that may not installs for itself, and says so.
func TestInstallWithoutASuperuser(t *testing.T) {
	for _, c := range []struct {
		attributes string
		owner      string
		warns      bool
	}{
		{"createrole", "awa_owner", false},
		{"nocreaterole", "installer", true},
	} {
		t.Run(c.attributes, func(t *testing.T) {
			server, err := pgserver.Start(t.Context(), pgserver.Config{}) // roles belong to a server
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, server.Stop()) })
			admin := database{t, server.URL()}.session()
			admin.exec("create role installer login " + c.attributes)
			admin.exec("create database app owner installer")
			url := "user=installer dbname=app host=" + one[string](admin, "show unix_socket_directories") + " port=" +
				one[string](admin, "show port")
			s := database{t, url}.session()
			for range 2 {
				result, err := driver.Migrate(s.ctx, url)
				require.NoError(t, err)
				warnings := slices.DeleteFunc(result.Warnings, aboutSnapshots)
				require.Equal(t, c.warns && result.Changed, len(warnings) > 0, "%v", warnings)
			}
			require.Equal(t, []string{c.owner},
				list[string](s, "select distinct proowner::regrole::text from pg_proc where pronamespace = 'awa'::regnamespace"))
			require.Equal(t, []string{c.owner},
				list[string](s,
					"select distinct relowner::regrole::text from pg_class where relnamespace = 'awa'::regnamespace and relkind in "+
						"('r', 'p', 'v', 'S')"))
			job := s.enqueue("q")
			require.Equal(t, []int64{job}, ids(s.claim("q", 1)))
			require.Equal(t, "running", s.state(job))

		})
	}
}

// A role that may create roles makes itself a member only of an owner that Awa has made, and says what it lacks if it
// does not inherit.
func TestInstallBecomesAMemberOfAwasOwnerOnly(t *testing.T) {
	own := newServer(t)
	admin := database{t, own.URL()}.session()
	admin.exec("create role their_owner; create role installer login createrole; create role shy login createrole " +
		"noinherit")
	admin.exec("create database app")
	d := named(own, t, "app")
	s := d.session()
	s.exec("create schema awa authorization their_owner; grant create on database app to installer, shy")
	_, err := driver.Migrate(t.Context(), withUser(t, own.URL(), "installer", "app"))
	require.Equal(t, "42501", sqlState(err))
	require.ErrorContains(t, err, "schema awa belongs to their_owner")
	require.False(t, one[bool](s, "select pg_has_role('installer', 'their_owner', 'member')"))

	s.exec("drop schema awa")
	// From PostgreSQL 16 on a role that makes another one is granted it as it says, whatever it inherits otherwise.
	if one[int](admin, "select current_setting('server_version_num')::int") < 160000 {
		_, err = driver.Migrate(t.Context(), withUser(t, own.URL(), "shy", "app"))
		require.Equal(t, "42501", sqlState(err))
		require.ErrorContains(t, err, "does not inherit")
		require.ErrorContains(t, err, "alter role shy inherit")
	}
	_, err = driver.Migrate(t.Context(), d.url)
	require.NoError(t, err)
	s.exec("grant awa_owner to shy; comment on schema awa is null")
	_, err = driver.Migrate(t.Context(), withUser(t, own.URL(), "shy", "app"))
	require.Equal(t, "42501", sqlState(err))
	require.Contains(t, detail(err), "shy is a member of that role, but does not inherit its rights")
}

// Roles belong to the server. Whoever installs in a second database does not become a member of the role that owns the
// first one's jobs.
func TestInstallInASecondDatabase(t *testing.T) {
	own := newServer(t)
	admin := database{t, own.URL()}.session()
	url := func(user, name string) string { return withUser(t, own.URL(), user, name) }
	for _, user := range []string{"anna", "bob", "plain"} {
		admin.exec("create role " + user + " login createrole")
		admin.exec("create database of_" + user + " owner " + user)
	}
	admin.exec("alter role plain nocreaterole")
	first, err := driver.Migrate(t.Context(), url("anna", "of_anna"))
	require.NoError(t, err)
	require.Empty(t, slices.DeleteFunc(first.Warnings, aboutSnapshots))
	require.Equal(t, "awa_", first.RolePrefix)
	database{t, url("anna", "of_anna")}.session().enqueue("q")

	for _, user := range []string{"bob", "plain"} {
		_, err = driver.Migrate(t.Context(), url(user, "of_"+user))
		require.Equal(t, "55000", sqlState(err))
		require.ErrorContains(t, err, "the role awa_owner owns things in other databases")
		require.ErrorContains(t, err, "of_anna")
		require.ErrorContains(t, err, "--role-prefix")
		require.Zero(t,
			one[int](admin,
				"select count(*)::int from pg_auth_members where roleid = 'awa_owner'::regrole and member = $1::regrole and not "+
					"admin_option", user))
		require.True(t, one[bool](database{t, url(user, "of_"+user)}.session(), "select to_regnamespace('awa') is null"))

		for range 2 {
			result, err := driver.MigrateWithConfig(t.Context(), url(user, "of_"+user),
				driver.MigrateConfig{RolePrefix: user + "s_"})
			require.NoError(t, err)
			require.Equal(t, user+"s_", result.RolePrefix)
			require.Equal(t, user != "plain", result.Shared)
		}
		result, err := driver.Migrate(t.Context(), url(user, "of_"+user))
		require.NoError(t, err, "the database knows its prefix")
		require.Equal(t, user+"s_", result.RolePrefix)
		require.False(t, result.Changed)
		_, err = driver.MigrateWithConfig(t.Context(), url(user, "of_"+user), driver.MigrateConfig{RolePrefix: "awa_"})
		if user == "plain" { // which has no roles yet, and may not have these
			require.ErrorContains(t, err, "the role awa_owner owns things in other databases")
		} else {
			require.ErrorContains(t, err, "Awa is installed here with the role prefix "+user+"s_, not awa_")
		}
		database{t, url(user, "of_"+user)}.session().enqueue("q")
	}
	require.True(t, one[bool](database{t, url("bob", "of_bob")}.session(), `
		select has_function_privilege('bobs_producer', 'awa.enqueue'::regproc, 'execute')
		  and has_function_privilege('bobs_worker', 'awa.claim'::regproc, 'execute')
		  and has_table_privilege('bobs_reader', 'awa.jobs', 'select')
			and not has_schema_privilege('awa_producer', 'awa', 'usage')
			and (select bool_and(proowner = 'bobs_owner'::regrole) from pg_proc where pronamespace = 'awa'::regnamespace)`))

	// A superuser, and a clone, go on, and are told.
	admin.exec("create database super")
	require.Eventually(t, func() bool {
		admin.exec("select pg_terminate_backend(pid) from pg_stat_activity where datname = 'of_anna'")
		return admin.try("create database clone template of_anna owner anna") == nil
	}, patience, 10*time.Millisecond)
	for _, u := range []string{url("postgres", "super"), url("anna", "clone")} {
		result, err := driver.Migrate(t.Context(), u)
		require.NoError(t, err)
		result.Warnings = slices.DeleteFunc(result.Warnings, aboutSnapshots)
		if u == url("postgres", "super") {
			require.Equal(t, "the role awa_owner has members: anna", result.Warnings[1].Message)
			result.Warnings = result.Warnings[:1]
		}
		require.Len(t, result.Warnings, 1)
		require.Equal(t, "the roles of Awa (awa_...) serve other databases, too", result.Warnings[0].Message)
		require.Contains(t, result.Warnings[0].Detail, "of_anna")
		require.Contains(t, result.Warnings[0].Hint, "revoke connect")
	}
	for _, prefix := range []string{"Awa_", "1_", "a b", "x'; drop schema awa; --", "pg_x_", strings.Repeat("a", 51),
		`a\'`} {
		_, err := driver.MigrateWithConfig(t.Context(), url("postgres", "postgres"), driver.MigrateConfig{RolePrefix: prefix})
		require.ErrorContains(t, err, "is not the beginning of a role's name")
	}
}

// Two first installations in two databases at once: the second one waits for the roles of the first, and sees then that
// they are another database's.
func TestFirstInstallationsAtOnce(t *testing.T) {
	own := newServer(t)
	admin := database{t, own.URL()}.session()
	url := func(user, name string) string { return withUser(t, own.URL(), user, name) }
	for _, user := range []string{"anna", "bob"} {
		admin.exec("create role " + user + " login createrole")
		admin.exec("create database of_" + user + " owner " + user)
	}
	admin.exec("create database super")
	holder := database{t, url("anna", "of_anna")}.session()
	// so that the first one stops when it has made its roles
	holder.exec(fmt.Sprintf("select pg_advisory_lock(%d)", lockKey))
	type outcome struct {
		result driver.MigrateResult
		err    error
	}
	begin := func(user, name, until string) chan outcome {
		done := make(chan outcome, 1)
		go func() {
			result, err := driver.MigrateWithConfig(context.Background(), url(user, name), driver.MigrateConfig{Wait: patience})
			done <- outcome{result, err}
		}()
		require.Eventually(t, func() bool {
			return one[bool](admin,
				"select exists (select from pg_stat_activity a where a.datname = $1 and a.application_name = '' and "+until+")",
				name)
		}, patience, time.Millisecond)
		return done
	}
	first := begin("anna", "of_anna", "a.wait_event = 'PgSleep'")
	second, third := begin("bob", "of_bob", "cardinality(pg_blocking_pids(a.pid)) > 0"),
		begin("postgres", "super", "cardinality(pg_blocking_pids(a.pid)) > 0")
	holder.exec("select pg_advisory_unlock_all()")
	require.NoError(t, (<-first).err)
	refused := (<-second).err
	require.Equal(t, "55000", sqlState(refused))
	require.ErrorContains(t, refused, "the role awa_owner owns things in other databases")
	super := <-third
	require.NoError(t, super.err)
	require.Len(t, super.result.Warnings, 2)
	require.Equal(t, "the roles of Awa (awa_...) serve other databases, too", super.result.Warnings[0].Message)
	require.Equal(t, "the role awa_owner has members: anna", super.result.Warnings[1].Message)
}

// So it is where the roles are there already, left by an installation that is gone.
func TestFirstInstallationsWithRolesThatAreThere(t *testing.T) {
	own := newServer(t)
	admin := database{t, own.URL()}.session()
	if one[int](admin, "select current_setting('server_version_num')::int") >= 160000 {
		t.Skip("only whoever made the owner may become a member of it")
	}
	url := func(user, name string) string { return withUser(t, own.URL(), user, name) }
	own.database("gone", true)
	require.Eventually(t, func() bool { return admin.try("drop database gone with (force)") == nil }, patience,
		10*time.Millisecond)
	for _, user := range []string{"anna", "bob"} {
		admin.exec("create role " + user + " login createrole")
		admin.exec("create database of_" + user + " owner " + user)
	}
	holder := database{t, url("anna", "of_anna")}.session()
	holder.exec(fmt.Sprintf("select pg_advisory_lock(%d)", lockKey))
	begin := func(user, until string) chan error {
		done := make(chan error, 1)
		go func() {
			_, err := driver.MigrateWithConfig(context.Background(), url(user, "of_"+user), driver.MigrateConfig{Wait: patience})
			done <- err
		}()
		require.Eventually(t, func() bool {
			return one[bool](admin,
				"select exists (select from pg_stat_activity a where a.datname = $1 and a.application_name = '' and "+until+")",
				"of_"+user)
		}, patience, time.Millisecond)
		return done
	}
	first := begin("anna", "a.wait_event = 'PgSleep'")
	second := begin("bob", "cardinality(pg_blocking_pids(a.pid)) > 0")
	holder.exec("select pg_advisory_unlock_all()")
	require.NoError(t, <-first)
	err := <-second
	require.Equal(t, "55000", sqlState(err))
	require.ErrorContains(t, err, "the role awa_owner owns things in other databases")
	require.False(t, one[bool](admin, "select pg_has_role('bob', 'awa_owner', 'usage')"))

	// And whoever is a member from then is named.
	admin.exec("drop database of_anna with (force)")
	_, err = driver.Migrate(t.Context(), url("bob", "of_bob"))
	require.Equal(t, "55000", sqlState(err))
	require.ErrorContains(t, err, "the role awa_owner has members: anna")
	require.ErrorContains(t, err, "revoke awa_owner from anna")
	require.False(t, one[bool](admin, "select pg_has_role('bob', 'awa_owner', 'usage')"))
	admin.exec("create database super")
	result, err := driver.Migrate(t.Context(), url("postgres", "super"))
	require.NoError(t, err)
	require.Len(t, result.Warnings, 1)
	require.Equal(t, "the role awa_owner has members: anna", result.Warnings[0].Message)
	database{t, url("postgres", "super")}.session().exec("drop schema awa cascade; revoke awa_owner from anna")
	_, err = driver.Migrate(t.Context(), url("bob", "of_bob"))
	require.NoError(t, err)
}

// A role that has the name of the owner, but was made for something else, does not become the owner of functions that
// everybody calls.
func TestInstallBesideAnotherOwner(t *testing.T) {
	own := newServer(t)
	admin := database{t, own.URL()}.session()
	for _, attribute := range []string{"superuser", "login"} {
		admin.exec("create role app_owner " + attribute)
		_, err := driver.MigrateWithConfig(t.Context(), own.URL(), driver.MigrateConfig{RolePrefix: "app_"})
		require.Equal(t, "55000", sqlState(err))
		require.ErrorContains(t, err, "the role app_owner is there, and is none of Awa's")
		require.True(t, one[bool](admin, "select to_regnamespace('awa') is null"))
		admin.exec("drop role app_owner")
	}
	admin.exec("create role app_owner")
	_, err := driver.MigrateWithConfig(t.Context(), own.URL(), driver.MigrateConfig{RolePrefix: "app_"})
	require.NoError(t, err)
	admin.exec("alter role app_owner login")
	result, err := driver.Migrate(t.Context(), own.URL())
	require.NoError(t, err, "what is there can be upgraded: doctor warns of it")
	require.False(t, result.Changed)
}

// A database need not be in UTF-8: the installer warns, and all works with the characters that there are. What the
// encoding lacks is refused before it reaches any function, and an attempt that cannot be answered so is rescued,
// counted.
func TestDatabaseInAnotherEncoding(t *testing.T) {
	server := newServer(t)
	admin := database{t, server.URL()}.session()
	for _, encoding := range []string{"LATIN1", "SQL_ASCII", "UTF8"} {
		t.Run(encoding, func(t *testing.T) {
			name := strings.ToLower(encoding)
			admin.exec(fmt.Sprintf("create database %s encoding '%s' locale 'C' template template0", name, encoding))
			u, err := url.Parse(server.URL())
			require.NoError(t, err)
			u.Path = "/" + name
			query := u.Query()
			query.Set("client_encoding", "UTF8") // by default it is the server's, whatever a Go program writes
			u.RawQuery = query.Encode()
			for range 2 { // each time
				result, err := driver.MigrateWithConfig(t.Context(), u.String(), driver.MigrateConfig{RolePrefix: name + "_"})
				require.NoError(t, err)
				if encoding == "UTF8" {
					require.Empty(t, result.Warnings)
					return
				}
				require.Len(t, result.Warnings, 1)
				require.Equal(t, "the database is encoded in "+encoding, result.Warnings[0].Message)
				require.NotEmpty(t, result.Warnings[0].Hint)
			}

			s := database{t, u.String()}.session()
			require.Equal(t, encoding, one[string](s, "show server_encoding"))
			id := one[int64](s,
				`select awa.enqueue('café', 'brûlée', '{"for": "Zoë"}', max_attempts => 2, tags => '{é}', metadata => '"ü"')`)
			sum := sha256.Sum256([]byte("café"))
			require.Equal(t, hex.EncodeToString(sum[:])[:13], one[string](s, "select to_hex(awa._queue_id('café') >> 2)"),
				"as every client computes it")
			require.Equal(t, int64(1), one[int64](s,
				"select job_id from awa.enqueue_unique('café', 'k', unique_key => 'é')")-id)
			require.Equal(t, "Zoë", one[string](s, "select args ->> 'for' from awa.job($1)", id))
			job := s.claim("café", 1)[0]
			require.Equal(t, id, job.JobID)
			fail := "select awa.fail($1, $2, $3, '0')"
			if encoding == "LATIN1" {
				require.Equal(t, "22P05", sqlState(s.try(fail, job.JobID, job.Receipt, "über → all")))
			}
			s.exec(fail, job.JobID, job.Receipt, "über all")
			require.Equal(t, "über all", one[string](s, "select errors -> 0 ->> 'error' from awa.job($1)", id))
			s.exec("select awa.promote_due()")
			s.exec("select awa.claim('café', 2)")
			s.exec("update awa.lease_claims set lease_until = now() - interval '1 second'")
			s.exec("select awa.rescue()")
			require.Equal(t, "failed 2 lease expired",
				one[string](s, "select concat_ws(' ', state, attempt, errors -> -1 ->> 'error') from awa.job($1)", id))
			require.NotEmpty(t, one[string](s, "select awa.explain_job($1)", id))
			require.True(t, one[bool](s, "select bool_and(balanced) from awa.audit()"))
		})
	}
}

// Whoever can connect may take the lock of the installation. Then it ends, and says who has it; where nothing is to be
// done, nobody needs the lock.
func TestInstallWaitsForAnother(t *testing.T) {
	d := newDatabase(t)
	s, holder := d.session(), d.session()
	lock := fmt.Sprintf("select pg_advisory_lock(%d)", lockKey)
	holder.exec(lock)
	result, err := driver.Migrate(t.Context(), d.url)
	require.NoError(t, err)
	require.False(t, result.Changed)

	s.exec("comment on schema awa is null")
	_, err = driver.MigrateWithConfig(t.Context(), d.url, driver.MigrateConfig{Wait: time.Millisecond})
	require.Equal(t, "55P03", sqlState(err))
	require.ErrorContains(t, err, "another installation is under way")
	require.ErrorContains(t, err, fmt.Sprintf("process %d of role %s", holder.pid, one[string](s, "select current_user")))

	done := make(chan error, 1)
	go func() {
		_, err := driver.Migrate(t.Context(), d.url)
		done <- err
	}()
	holder.exec("select pg_advisory_unlock_all()")
	require.NoError(t, <-done)
}

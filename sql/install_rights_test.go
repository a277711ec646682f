package sql_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/install"
)

// mallory is a member of the role that owns Awa. What hers() does, she wants done by somebody with more rights: at
// once, or put off until the transaction ends.
const mallory = `
	create role mallory login; grant awa_owner to mallory; create schema authorization mallory;
	set role mallory; grant usage on schema mallory to public;
	create table mallory.hits (how text, by text); grant insert on mallory.hits to public;
	create table mallory.later (n int); grant insert on mallory.later to public;
	create function mallory.take(how text) returns boolean language plpgsql as $$
	begin
	  begin
	    execute 'reset role';
	  exception when others then null;
	  end;
	  insert into mallory.hits values (how, current_user);
	  begin
	    alter role mallory superuser;
	  exception when insufficient_privilege then null;
	  end;
	  return true;
	end $$;
	create function mallory.fire(
	) returns trigger language plpgsql as $$ begin perform mallory.take(tg_argv[0]); return new; end $$;
	create constraint trigger later after insert on mallory.later deferrable initially deferred for each row
	execute function mallory.fire('deferred');
	create function mallory.hers() returns boolean language plpgsql as $$
	begin
	  perform mallory.take('at once');
	  begin
	    set constraints all deferred;
	    insert into mallory.later values (1);
	  exception when others then insert into mallory.hits values ('not deferred', current_user);
	  end;
	  begin
	    execute 'declare c cursor with hold for select mallory.take(''held'')';
	  exception when others then insert into mallory.hits values ('not held', current_user);
	  end;
	  perform set_config('search_path', 'mallory, pg_catalog', false);
	  return true;
	end $$;
	create function mallory.sworn() returns boolean language plpgsql immutable as $$ begin return mallory.hers(); end $$;
	create function mallory.hook() returns trigger language plpgsql as $$ begin perform mallory.hers(); return new; end $$;
	create function mallory.set_config(
	  text,
	  text,
	  boolean
	) returns text language plpgsql as $$ begin perform mallory.take('set_config'); return null; end $$;
	create function mallory.to_regclass(
	  text
	) returns regclass language plpgsql as $$ begin perform mallory.take('to_regclass'); return null; end $$;
	create function mallory.arrow(
	  json,
	  text
	) returns text language plpgsql as $$ begin perform mallory.take('->>'); return $1 operator(pg_catalog.->>) $2; end $$;
	create operator mallory.->> (leftarg = json, rightarg = text, function = mallory.arrow);
	reset role`

// Whatever a member of the owner attaches to what an installation, or a removal, reads and writes runs with the rights
// that she has, not with those of the superuser who installs.
func TestCodeInTheSchemaRunsAsItsOwner(t *testing.T) {
	own := newServer(t)
	base := own.database("base", true)
	b := base.session()
	b.exec(mallory)
	require.NoError(t, b.db.Close(b.ctx))
	admin := database{t, own.URL()}.session()
	next := version(t, "0.2.0",
		edit{"migrations/002_made_up.sql", "",
			"alter table awa.settings add column made_up int not null default 7;\nupdate awa.settings set made_up = 8;\n"})
	number := 0
	for name, tamper := range map[string]string{
		"a trigger": "create trigger t before update on %[1]s for each row execute function mallory.hook()",
		"a deferred trigger": "create constraint trigger t after update on %[1]s deferrable initially deferred for each " +
			"row execute function mallory.fire('deferred')",
		"a rule": "create rule r as on update to %[1]s do also select mallory.hers()",
		"policies": "alter table %[1]s enable row level security, force row level security; create policy p on " +
			"%[1]s using (mallory.hers())",
		"a check": "alter table %[1]s add check (mallory.hers()) not valid",
		"a check by name": "alter table %[1]s add check (query_to_xml('select mallory.hers()', true, true, '') is not " +
			"null) not valid",
		"a generated column": "alter table %[1]s add column g boolean generated always as (%[2]s is not null and " +
			"mallory.sworn()) stored",
		"an index":         "create index i on %[1]s ((mallory.sworn() and %[2]s is not null))",
		"an index's where": "create index i on %[1]s (%[2]s) where mallory.sworn()",
		"a domain": "create domain mallory.d as int check (mallory.hers()); alter table %[1]s add column d " +
			"mallory.d; update %[1]s set d = 1",
		"a default, a domain": "create domain mallory.d as text check (mallory.hers()); alter table %[1]s alter column " +
			"%[3]s type mallory.d",
	} {
		t.Run(name, func(t *testing.T) {
			for _, table := range [][]any{{"awa.schema_version", "version", "functions"}, {"awa.settings", "prune_wait", ""}} {
				if table[2] == "" && name != "a trigger" && name != "a check by name" {
					continue // one table is as the other
				}
				for _, byFile := range []bool{false, true}[:map[bool]int{true: 2, false: 1}[name == "a trigger"]] {
					number++
					database := fmt.Sprintf("d%d", number)
					require.Eventually(t, func() bool { return admin.try("create database "+database+" template base") == nil },
						patience, 10*time.Millisecond, "the last session of it ends")
					d := named(own, t, database)
					s := d.session()
					s.exec("set role mallory")
					if err := s.try(fmt.Sprintf(tamper, table...)); err != nil {
						t.Fatal(err)
					}
					s.exec("reset role")
					s.exec("truncate mallory.hits; alter role mallory nosuperuser")
					check := func() {
						t.Helper()
						require.False(t, one[bool](s, "select rolsuper from pg_roles where rolname = 'mallory'"))
						require.Empty(t,
							list[string](s, "select concat_ws(' as ', how, by) from mallory.hits where by not in ('awa_owner', 'mallory')"))
					}
					if byFile {
						d.psql(file(t, next)) // and it may fail
					} else {
						_, _ = d.installs(next, install.Options{})
					}
					check()
					if byFile {
						d.psql(uninstallFile(t))
					} else {
						_, _ = d.uninstalls(next, install.Options{})
					}
					check()
				}
			}
		})
	}
}

func named(s server, t *testing.T, name string) database {
	return database{t, withUser(t, s.URL(), "postgres", name)}
}

// Whoever owns the schema can't put another one in its place while an installation, or a removal, is at it.
func TestNobodySwapsTheSchema(t *testing.T) {
	for _, removes := range []bool{false, true} {
		d := newDatabase(t)
		s, holder, mallory := d.session(), d.session(), d.session()
		s.exec("comment on schema awa is null")
		if removes {
			holder.exec("begin; select count(*) from awa.settings")
		} else {
			holder.exec(fmt.Sprintf("select pg_advisory_lock(%d)", lockKey))
		}
		this, err := install.Embedded()
		require.NoError(t, err)
		done := make(chan error, 1)
		go func() {
			if removes {
				_, err := d.uninstalls(this, install.Options{Wait: patience})
				done <- err
			} else {
				_, err := d.installs(this, install.Options{Wait: patience})
				done <- err
			}
		}()
		require.Eventually(t, func() bool {
			return one[bool](s,
				"select exists (select from pg_stat_activity a where a.datname = current_database() and a.wait_event = 'PgSleep')")
		}, patience, time.Millisecond)
		rename := mallory.background("alter schema awa rename to old")
		s.waitUntilBlocked(mallory)
		holder.exec("rollback")
		holder.exec("select pg_advisory_unlock_all()")
		err, late := <-done, rename()
		if err != nil {
			// Newer servers lock the schema before its row, so the two wait for each other; then nothing was removed.
			require.True(t, removes, err)
			require.Contains(t, []string{"55P03", "40P01"}, sqlState(err), err)
			require.Equal(t, 1,
				one[int](s, "select count(*) from pg_class c where c.relname = 'schema_version' and c.relkind = 'r'"))
			continue
		}
		// It came too late: older servers refuse it, newer ones do it to the schema as it has become.
		if removes || late != nil {
			require.Error(t, late)
			continue
		}
		require.Nil(t, one[*string](s, "select to_regnamespace('awa')::text"))
		require.True(t, one[bool](s, "select obj_description('old'::regnamespace) ~ '^Awa '"))
	}
}

// Functions and types that code in the schema leaves in pg_temp would be found by the session that installs, before the
// server's own.
func TestNothingTemporaryIsLeft(t *testing.T) {
	own := newServer(t)
	d := own.database("app", true)
	s := d.session()
	s.exec(mallory)
	s.exec(`set role mallory;
		create function mallory.leave() returns boolean language plpgsql as $$
		begin
		  drop domain if exists pg_temp.text; drop function if exists pg_temp.chk(text);
		  create function pg_temp.chk(
		    text
		  ) returns boolean language plpgsql as 'begin return mallory.take(''temporary''); end';
		  begin
		    create domain pg_temp.text as pg_catalog.text check (pg_temp.chk(value));
		  exception when insufficient_privilege then -- newer servers refuse the type, but not the function
		  end;
		  return true;
		end $$;
		reset role; comment on schema awa is null; set role mallory;
		create function mallory.leaves(int) returns boolean language plpgsql immutable as 'begin return mallory.leave(); end';
		create statistics mallory.c on (mallory.leaves(1)) from awa.schema_version;
		reset role`)
	this, err := install.Embedded()
	require.NoError(t, err)
	output, well := d.psql(file(t, this) + "select 'x'::text;\n")
	require.Empty(t, list[string](s, "select concat_ws(' as ', how, by) from mallory.hits"))
	require.False(t, one[bool](s, "select rolsuper from pg_roles where rolname = 'mallory'"))
	require.False(t, well)
	require.Contains(t, output, "code in schema awa has left temporary objects to this session")
	s.exec("drop statistics mallory.c")
	_, err = d.installs(this, install.Options{})
	require.NoError(t, err)
	require.Empty(t, list[string](s, "select concat_ws(' as ', how, by) from mallory.hits"))
}

// From PostgreSQL 16 on, a role that makes the owner beforehand is no member, but may make itself one.
func TestInstallNamesWhoMayGrantTheOwner(t *testing.T) {
	own := newServer(t)
	d := own.database("app", false)
	s := d.session()
	if one[int](s, "select current_setting('server_version_num')::int") < 160000 {
		t.Skip("whoever makes a role gets no right to grant it")
	}
	s.exec("create role maker login createrole; create role boss login superuser; set role maker")
	for _, role := range []string{"owner", "producer", "worker", "maintainer", "operator", "reader"} {
		s.exec("create role awa_" + role + "; comment on role awa_" + role + " is 'Awa: made by an installation of it'")
	}
	s.exec("reset role; grant awa_owner to boss with admin true, inherit false, set false")
	for range 2 { // an upgrade, too
		result, err := driver.Migrate(t.Context(), d.url)
		require.NoError(t, err)
		require.Len(t, result.Warnings, 1)
		require.Equal(t, "the role awa_owner can be granted by: maker", result.Warnings[0].Message)
		require.Equal(t, "Unless they install: revoke awa_owner from maker cascade.", result.Warnings[0].Hint)
		s.exec("comment on schema awa is null")
	}
	s.exec("revoke awa_owner, awa_producer, awa_worker, awa_maintainer, awa_operator, awa_reader from maker cascade")
	result, err := driver.Migrate(t.Context(), d.url)
	require.NoError(t, err)
	require.Empty(t, result.Warnings)
}

// A schema that was made beforehand is taken only if it is empty: what is in it would run as the role that becomes
// its owner.
func TestASchemaMadeBeforehand(t *testing.T) {
	own := newServer(t)
	admin := database{t, own.URL()}.session()
	admin.exec("create role eve login")
	for name, c := range map[string]struct{ prepare, problem string }{
		"version": {`create table awa.schema_version (only_row boolean primary key default true, version int, functions text,
			role_prefix text, tables text, sources text, catalog text, views jsonb default '{}',
			routines jsonb default '{}');
			insert into awa.schema_version values (true, 0, '0', 'awa_', null, null, null, '{}');
			create trigger t before insert or update on awa.schema_version for each row execute function hers.fire()`,
			"holds version 0, which there is none"},
		"no_row": {`create table awa.schema_version (only_row boolean primary key default true, version int, functions text,
			role_prefix text, tables text, sources text, catalog text, views jsonb default '{}',
			routines jsonb default '{}');
			create trigger t before insert or update on awa.schema_version for each row execute function hers.fire()`,
			"has lost its row"},
		"type":     {"create type awa.t as enum ('a')", "is not empty"},
		"operator": {"create operator awa.=== (leftarg = int, rightarg = int, function = int4eq)", "is not empty"},
		"function": {"create function awa.enqueue(int) returns int language sql as 'select 1'", "is not empty"},
		"nothing":  {"", ""},
	} {
		d := named(own, t, name)
		admin.exec("create database " + name + " owner eve")
		s := d.session()
		s.exec(`set role eve; create schema hers; create table hers.hits (by text); grant usage on schema hers to public;
			grant insert on hers.hits to public;
			create function hers.fire(
			) returns trigger language plpgsql as $$ begin insert into hers.hits values (current_user); return new; end $$;
			create schema awa; ` + c.prepare)
		_, err := driver.Migrate(s.ctx, d.url)
		if c.problem == "" {
			require.NoError(t, err)
		} else {
			require.Equal(t, "55000", sqlState(err), name)
			require.ErrorContains(t, err, c.problem)
		}
		require.Empty(t, list[string](s, "select by from hers.hits where by <> 'eve'"))
	}
}

// Somebody has installed for herself alone, and has put code on it. An installation that would give it to the owner of
// all refuses, and names it.
func TestSharedCodeIsNamedFirst(t *testing.T) {
	own := newServer(t)
	admin := database{t, own.URL()}.session()
	admin.exec("create role eve login")
	admin.exec("create database hers owner eve")
	d := named(own, t, "hers")
	_, err := driver.Migrate(t.Context(), withUser(t, own.URL(), "eve", "hers"))
	require.NoError(t, err)
	s := d.session()
	s.exec(`set role eve; create schema eve; create table eve.hits (by text); grant usage on schema eve to public; grant
		insert on eve.hits to public;
		create function eve.hit(
		) returns boolean language plpgsql as $$ begin insert into eve.hits values (current_user); return true; end $$;
		create function eve.is() returns boolean language plpgsql immutable as $$ begin return eve.hit(); end $$;
		create function eve.fire() returns trigger language plpgsql as $$ begin perform eve.is(); return new; end $$;
		create domain eve.d as int check (eve.is())`)
	for _, c := range []struct{ object, make, drop string }{
		{"trigger t on awa.schema_version",
			"create trigger t before update on awa.schema_version for each row execute function eve.fire()",
			"drop trigger t on awa.schema_version"},
		{"trigger resolve on awa.pending_changes",
			"drop trigger resolve on awa.pending_changes; create trigger resolve after insert on awa.pending_changes " +
				"execute function eve.fire()",
			"drop trigger resolve on awa.pending_changes; create constraint trigger resolve after insert on " +
				"awa.pending_changes deferrable initially deferred for each row execute function awa._resolve_change(); " +
				"alter table awa.pending_changes enable always trigger resolve"},
		{"trigger inherit on awa.heirs calls",
			"drop trigger inherit on awa.heirs; create constraint trigger inherit after insert on awa.heirs for each row when " +
				"(eve.is()) execute function awa._inherit()",
			"drop trigger inherit on awa.heirs; create constraint trigger inherit after insert on awa.heirs deferrable " +
				"initially deferred for each row when (new.xid = pg_current_xact_id()) execute function awa._inherit(); alter " +
				"table awa.heirs enable always trigger inherit"},
		{"rule r on awa.schema_version", "create rule r as on update to awa.schema_version do also select eve.is()",
			"drop rule r on awa.schema_version"},
		{"policy p on awa.ready_entries_1", "create policy p on awa.ready_entries_1 using (eve.is())",
			"drop policy p on awa.ready_entries_1"},
		{"constraint c on awa.leases calls", "alter table awa.leases add constraint c check (eve.is()) not valid",
			"alter table awa.leases drop constraint c"},
		{"constraint c on awa.leases calls",
			"alter table awa.leases add constraint c check (query_to_xml('select eve.is()', true, true, '') is not null) not " +
				"valid", "alter table awa.leases drop constraint c"},
		{"default of awa.leases.job_id calls", "alter table awa.leases alter job_id set default eve.is()::int",
			"alter table awa.leases alter job_id drop default"},
		{"default of awa.leases.g calls", "alter table awa.leases add column g boolean generated always as (eve.is()) stored",
			"alter table awa.leases drop column g"},
		{"column awa.leases.g of type eve.d", "alter table awa.leases add column g eve.d",
			"alter table awa.leases drop column g"},
		{"index awa.mine on awa.leases", "create index mine on awa.leases (job_id) where eve.is()", "drop index awa.mine"},
		{"index awa.leases_job calls",
			"drop index awa.leases_job; create index leases_job on awa.leases (job_id) where eve.is()",
			"drop index awa.leases_job; create index leases_job on awa.leases (job_id)"},
		{"table awa.mine", "create table awa.mine (n int)", "drop table awa.mine"},
		{"type awa.mine", "create domain awa.mine as int", "drop domain awa.mine"},
		{"operator awa.===", "create operator awa.=== (leftarg = int, rightarg = int, function = int4eq)",
			"drop operator awa.=== (int, int)"},
		{"index awa.mine calls", "create index mine on awa.leases ((eve.is() and job_id > 0))", "drop index awa.mine"},
		{"statistics eve.s on awa.ring", "create statistics eve.s on (eve.is()) from awa.ring", "drop statistics eve.s"},
		{"statistics awa.s on awa.ready_entries_1", "create statistics awa.s on (eve.is()) from awa.ready_entries_1",
			"drop statistics awa.s"},
		{"cast (awa.settings as text)", "create function eve.text(awa.settings) returns text immutable return 'x'; create " +
			"cast (awa.settings as text) with function eve.text(awa.settings) as assignment",
			"drop cast (awa.settings as text); drop function eve.text(awa.settings)"},
		{"publication p of eve, with awa.leases", "create publication p for table awa.leases", "drop publication p"},
		{"table eve.parent, of which awa.heirs inherits",
			"create table eve.parent (); alter table awa.heirs inherit eve.parent",
			"alter table awa.heirs no inherit eve.parent; drop table eve.parent"},
		{"table eve.child, which inherits from awa.settings", "create table eve.child () inherits (awa.settings)",
			"drop table eve.child"},
	} {
		s.exec("set role eve; " + c.make)
		_, err := driver.Migrate(t.Context(), d.url)
		require.Equal(t, "55000", sqlState(err), "%s: %v", c.make, err)
		require.Contains(t, detail(err), c.object)
		s.exec(c.drop)
		require.Empty(t, list[string](s, "select by from eve.hits where by <> 'eve'"), c.make)
		s.exec("reset role")
	}
	// Her views, and what she says of them, do not stay either.
	s.exec(`set role eve; do $$
		begin execute format('create or replace view awa.jobs as select * from (%s) j where eve.is()',
			rtrim(pg_get_viewdef('awa.jobs'::regclass), ';')); end $$;
		update awa.schema_version set views = jsonb_set(views, '{jobs,1}', (select to_jsonb(md5(concat(r.ev_action,
		c.reloptions))) from pg_class c join pg_rewrite r on r.ev_class = c.oid where c.oid = 'awa.jobs'::regclass));
		reset role`)
	_, err = driver.Migrate(t.Context(), d.url)
	require.NoError(t, err)
	require.NotContains(t, one[string](s, "select pg_get_viewdef('awa.jobs'::regclass)"), "eve")
	require.Equal(t, []string{"awa_owner"},
		list[string](s, "select distinct relowner::regrole::text from pg_class where relnamespace = 'awa'::regnamespace"))
	require.Empty(t, list[string](s, "select by from eve.hits where by <> 'eve'"))
}

// Triggers, rules and policies that are none of this version's are dropped; an index of somebody's stays.
func TestInstallDropsTriggersOfOthers(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	s.exec(
		`create schema mine; create function mine.fire() returns trigger language plpgsql as $$ begin return new; end $$;
		create trigger t before insert on awa.leases for each row execute function mine.fire();
		create trigger part before insert on awa.ready_entries_2 for each row execute function mine.fire();
		create trigger whole after insert on awa.lease_claims for each row execute function mine.fire();
		create rule r as on delete to awa.leases do also nothing;
		create rule r as on insert to awa.jobs do instead nothing;
		create policy p on awa.queues using (true);
		alter table awa.queues enable row level security, force row level security;
		create index mine on awa.leases (job_id, lane);
		create function mine.is(int) returns int language plpgsql immutable as 'begin return 1; end';
		create statistics mine.s on (mine.is(1)) from awa.ready_entries; create statistics awa.s on lane, job_id from
		awa.leases;
		create function mine.text(awa.settings) returns text immutable return 'x';
		create cast (awa.settings as text) with function mine.text(awa.settings)`)
	result, err := driver.Migrate(t.Context(), d.url)
	require.NoError(t, err)
	require.True(t, result.Changed)
	require.ElementsMatch(t, []string{"resolve", "inherit", "refuse_removal", "refuse_removal"},
		list[string](s,
			"select tgname from pg_trigger t join pg_class c on c.oid = t.tgrelid where c.relnamespace = 'awa'::regnamespace"))
	require.Empty(t, list[string](s, `select rulename from pg_rewrite r join pg_class c on c.oid = r.ev_class
		where c.relnamespace = 'awa'::regnamespace and rulename <> '_RETURN'
		union all select polname from pg_policy union all select relname from pg_class where relrowsecurity
		or relforcerowsecurity
		union all select stxname from pg_statistic_ext
		union all select 'cast' from pg_cast where castsource = 'awa.settings'::regtype`))
	require.True(t, one[bool](s, "select to_regclass('awa.mine') is not null"))
	result, err = driver.Migrate(t.Context(), d.url)
	require.NoError(t, err)
	require.False(t, result.Changed)
	s.enqueue("q")
}

// Code on Awa's tables that an installation can't take away is refused, also where the schema keeps its owner.
func TestInstallRefusesCodeOfOthers(t *testing.T) {
	own := newServer(t)
	d := own.database("app", true)
	s := d.session()
	s.exec(`create schema mine; create table mine.hits (by text); grant usage on schema mine to public;
		grant insert on mine.hits to public;
		create function mine.hit() returns boolean language plpgsql as
		$$ begin insert into mine.hits values (current_user); return true; end $$;
		create function mine.is() returns boolean language plpgsql immutable as $$ begin return mine.hit(); end $$;
		create domain mine.d as int check (mine.is())`)
	this, err := install.Embedded()
	require.NoError(t, err)
	for _, c := range []struct{ object, make, drop string }{
		{"index awa.mine calls", "create index mine on awa.ready_entries ((mine.is() and job_id > 0))",
			"drop index awa.mine"},
		{"index awa.mine calls", "create index mine on awa.leases (job_id) where mine.is()", "drop index awa.mine"},
		{"constraint c on awa.leases calls", "alter table awa.leases add constraint c check (mine.is()) not valid",
			"alter table awa.leases drop constraint c"},
		{"default of awa.leases.g calls",
			"alter table awa.leases add column g boolean generated always as (mine.is()) stored",
			"alter table awa.leases drop column g"},
		{"default of awa.jobs.id calls", "alter view awa.jobs alter id set default mine.is()::int",
			"alter view awa.jobs alter id drop default"},
		{"column awa.leases.g of type mine.d", "alter table awa.leases add column g mine.d",
			"alter table awa.leases drop column g"},
		{"table mine.child, which inherits from awa.settings", "create table mine.child () inherits (awa.settings)",
			"drop table mine.child"},
	} {
		s.exec(c.make + "; comment on schema awa is null; truncate mine.hits")
		_, err := d.installs(this, install.Options{})
		require.Equal(t, "55000", sqlState(err), "%s: %v", c.make, err)
		require.ErrorContains(t, err, "there is code on Awa's tables that is none of Awa's")
		require.Contains(t, detail(err), c.object)
		require.Empty(t, list[string](s, "select by from mine.hits where by <> 'awa_owner'"), c.make)
		s.exec(c.drop)
	}
	_, err = d.installs(this, install.Options{})
	require.NoError(t, err)

	// Statistics are not their table's owner's to drop.
	s.exec(`create role eve login; grant awa_owner to eve; create schema eve authorization eve; set role eve;
		create statistics eve.s on job_id, lane from awa.leases; reset role; revoke awa_owner from eve;
		create role deploy login createrole; grant awa_owner to deploy`)
	_, err = database{t, withUser(t, d.url, "deploy", "app")}.installs(this, install.Options{})
	require.Equal(t, "55000", sqlState(err), err)
	require.ErrorContains(t, err, "statistics on Awa's tables are none of Awa's")
	_, err = d.installs(this, install.Options{})
	require.NoError(t, err)
	require.Zero(t, one[int](s, "select count(*) from pg_statistic_ext"))
}

// What is recorded of functions and views is in a table that the owner may write: each is compared with what this
// version makes.
func TestInstallKeepsNoForgedFunction(t *testing.T) {
	d := newDatabase(t)
	s := d.session()
	definitions := func() []string {
		return list[string](s, `select pg_get_functiondef(p.oid) from pg_proc p
			where p.pronamespace = 'awa'::regnamespace and p.proname in ('version', '_wake', '_queue_key', 'queue_counts')
			union all
			select pg_get_viewdef(c.oid) || coalesce(c.reloptions::text, '') from pg_class c
			where c.relnamespace = 'awa'::regnamespace and c.relname in ('dlq_entries', 'queue_counts', '_shown') order by 1`)
	}
	rows := func() string {
		return one[string](s, `select string_agg(p.xmin::text, ' ' order by p.oid) from pg_proc p
			where p.pronamespace = 'awa'::regnamespace`)
	}
	wanted := definitions()
	for _, forge := range []string{
		"do $$ begin execute replace(pg_get_functiondef('awa.version()'::regprocedure), 'select ''', 'select ''x'); " +
			"end $$",
		"do $$ begin execute replace(pg_get_functiondef('awa._wake(bigint)'::regprocedure), 'begin', 'begin perform 1;'); " +
			"end $$",
		"create or replace function awa._queue_key(queue_id bigint) returns bigint language sql immutable strict parallel " +
			"safe return - queue_id - 1",
		"do $$ begin execute replace(pg_get_functiondef('awa.queue_counts(text)'::regprocedure), 'DEFAULT NULL::text', " +
			"'default ''x'''); end $$",
		"do $$ begin execute format('create or replace view awa.dlq_entries with (security_barrier = true) as select * " +
			"from (%s) d where false', rtrim(pg_get_viewdef('awa.dlq_entries'::regclass), ';')); end $$",
		"alter view awa._shown set (security_barrier = false)",
		"",
	} {
		if forge != "" {
			s.exec(forge)
			require.NotEqual(t, wanted, definitions(), forge)
		}
		s.exec(`update awa.schema_version s
			set routines = (select jsonb_object_agg(r.key, jsonb_build_array(r.value -> 0,
			      md5((to_jsonb(p) - '{proowner,proacl}'::text[])::text)))
			      from jsonb_each(s.routines) r
			      join pg_proc p on p.proname = r.key and p.pronamespace = 'awa'::regnamespace),
			    views = (select jsonb_object_agg(r.key, jsonb_build_array(r.value -> 0, md5(concat(w.ev_action, c.reloptions))))
			      from jsonb_each(s.views) r
			      join pg_class c on c.relname = r.key and c.relnamespace = 'awa'::regnamespace
			      join pg_rewrite w on w.ev_class = c.oid);
			comment on schema awa is null`)
		before := rows()
		result, err := driver.Migrate(t.Context(), d.url)
		require.NoError(t, err)
		require.True(t, result.Changed)
		require.Equal(t, wanted, definitions(), forge)
		if forge == "" { // and what is right is left alone
			require.Equal(t, before, rows())
		}
	}
}

// Whoever has made one of the other roles beforehand, with Awa's mark, may grant it, too.
func TestInstallNamesWhoMayGrantARole(t *testing.T) {
	own := newServer(t)
	d := own.database("app", false)
	s := d.session()
	s.exec("create role maker login createrole; create role lead login; set role maker; create role awa_reader; " +
		"comment on role awa_reader is 'Awa: made by an installation of it'; reset role; create role awa_worker; " +
		"grant awa_worker to lead with admin option")
	wanted := "roles of Awa can be granted by others: awa_reader by maker, awa_worker by lead"
	if one[int](s, "select current_setting('server_version_num')::int") < 160000 { // whoever makes a role gets no right
		wanted = "roles of Awa can be granted by others: awa_worker by lead"
	}
	result, err := driver.Migrate(t.Context(), d.url)
	require.NoError(t, err)
	require.NotEmpty(t, result.Warnings)
	require.Equal(t, wanted, result.Warnings[0].Message)
	hint := result.Warnings[0].Hint
	require.Contains(t, hint, "revoke awa_worker from lead cascade;")
	s.exec("comment on schema awa is null; " + strings.TrimPrefix(hint, "Unless that is meant: "))
	result, err = driver.Migrate(t.Context(), d.url)
	require.NoError(t, err)
	require.Empty(t, result.Warnings)
}

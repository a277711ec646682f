package sql_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/install"
)

// mallory is a member of the role that owns Awa. What hers() does, she wants done by somebody with more rights: at once, or put off until the transaction ends.
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
	create function mallory.fire() returns trigger language plpgsql as $$ begin perform mallory.take(tg_argv[0]); return new; end $$;
	create constraint trigger later after insert on mallory.later deferrable initially deferred for each row execute function mallory.fire('deferred');
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
	create function mallory.set_config(text, text, boolean) returns text language plpgsql as $$ begin perform mallory.take('set_config'); return null; end $$;
	create function mallory.to_regclass(text) returns regclass language plpgsql as $$ begin perform mallory.take('to_regclass'); return null; end $$;
	create function mallory.arrow(json, text) returns text language plpgsql as $$ begin perform mallory.take('->>'); return $1 operator(pg_catalog.->>) $2; end $$;
	create operator mallory.->> (leftarg = json, rightarg = text, function = mallory.arrow);
	reset role`

// Whatever a member of the owner attaches to what an installation, or a removal, reads and writes runs with the rights that she has, not with those of the superuser who installs.
func TestCodeInTheSchemaRunsAsItsOwner(t *testing.T) {
	own := newServer(t)
	base := own.database("base", true)
	b := base.session()
	b.exec(mallory)
	require.NoError(t, b.db.Close(b.ctx))
	admin := database{t, own.URL()}.session()
	next := version(t, "0.2.0", edit{"migrations/002_made_up.sql", "", "alter table awa.settings add column made_up int not null default 7;\nupdate awa.settings set made_up = 8;\n"})
	number := 0
	for name, tamper := range map[string]string{
		"a trigger":           "create trigger t before update on %[1]s for each row execute function mallory.hook()",
		"a deferred trigger":  "create constraint trigger t after update on %[1]s deferrable initially deferred for each row execute function mallory.fire('deferred')",
		"a rule":              "create rule r as on update to %[1]s do also select mallory.hers()",
		"policies":            "alter table %[1]s enable row level security, force row level security; create policy p on %[1]s using (mallory.hers())",
		"a check":             "alter table %[1]s add check (mallory.hers()) not valid",
		"a check by name":     "alter table %[1]s add check (query_to_xml('select mallory.hers()', true, true, '') is not null) not valid",
		"a generated column":  "alter table %[1]s add column g boolean generated always as (%[2]s is not null and mallory.sworn()) stored",
		"an index":            "create index i on %[1]s ((mallory.sworn() and %[2]s is not null))",
		"an index's where":    "create index i on %[1]s (%[2]s) where mallory.sworn()",
		"a domain":            "create domain mallory.d as int check (mallory.hers()); alter table %[1]s add column d mallory.d; update %[1]s set d = 1",
		"a default, a domain": "create domain mallory.d as text check (mallory.hers()); alter table %[1]s alter column %[3]s type mallory.d",
	} {
		t.Run(name, func(t *testing.T) {
			for _, table := range [][]any{{"awa.schema_version", "version", "functions"}, {"awa.settings", "prune_wait", ""}} {
				if table[2] == "" && name != "a trigger" && name != "a check by name" {
					continue // one table is as the other
				}
				for _, byFile := range []bool{false, true}[:map[bool]int{true: 2, false: 1}[name == "a trigger"]] {
					number++
					database := fmt.Sprintf("d%d", number)
					require.Eventually(t, func() bool { return admin.try("create database "+database+" template base") == nil }, patience, 10*time.Millisecond, "the last session of it ends")
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
						require.Empty(t, list[string](s, "select concat_ws(' as ', how, by) from mallory.hits where by not in ('awa_owner', 'mallory')"))
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
		s.exec("update awa.schema_version set sources = ''")
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
			return one[bool](s, "select exists (select from pg_stat_activity a where a.datname = current_database() and a.wait_event = 'PgSleep')")
		}, patience, time.Millisecond)
		rename := mallory.background("alter schema awa rename to old")
		s.waitUntilBlocked(mallory)
		holder.exec("rollback")
		holder.exec("select pg_advisory_unlock_all()")
		require.NoError(t, <-done)
		require.ErrorContains(t, rename(), "tuple concurrently ")
	}
}

// Functions and types that code in the schema leaves in pg_temp would be found by the session that installs, before the server's own.
func TestNothingTemporaryIsLeft(t *testing.T) {
	own := newServer(t)
	d := own.database("app", true)
	s := d.session()
	s.exec(mallory)
	s.exec(`set role mallory;
		create function mallory.leave() returns trigger language plpgsql as $$
		begin
		  drop domain if exists pg_temp.text; drop function if exists pg_temp.chk(text);
		  create function pg_temp.chk(text) returns boolean language plpgsql as 'begin return mallory.take(''temporary''); end';
		  create domain pg_temp.text as pg_catalog.text check (pg_temp.chk(value));
		  return new;
		end $$;
		create trigger t before update on awa.schema_version for each row execute function mallory.leave();
		reset role`)
	this, err := install.Embedded()
	require.NoError(t, err)
	s.exec("alter table awa.schema_version disable trigger t; update awa.schema_version set sources = ''; alter table awa.schema_version enable trigger t")
	output, well := d.psql(file(t, this) + "select 'x'::text;\n")
	require.Empty(t, list[string](s, "select concat_ws(' as ', how, by) from mallory.hits"))
	require.False(t, one[bool](s, "select rolsuper from pg_roles where rolname = 'mallory'"))
	require.False(t, well)
	require.Contains(t, output, "code in schema awa has left temporary objects to this session")
	s.exec("alter table awa.schema_version disable trigger t")
	_, err = d.installs(this, install.Options{})
	require.NoError(t, err)
	require.Empty(t, list[string](s, "select concat_ws(' as ', how, by) from mallory.hits"))
}

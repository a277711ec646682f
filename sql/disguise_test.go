package sql_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/install"
)

// What the owner of a schema, who has installed for herself alone, attaches to it: an index, for which PostgreSQL runs
// a function when a query of the table is planned. It puts another relation in the place of the one that a later query
// of the installation might read, with code that runs when that is planned, and becomes who has logged in.
const disguise = `
	create schema hack; grant usage on schema hack to public; create table hack.said as select to_jsonb(s) as x from
	awa.schema_version s; create table hack.hits (how text); grant insert on hack.hits to public;
	create function hack.second() returns int language plpgsql as $$
	declare
	  v text;
	begin
	  foreach v in array '{reset role,reset session authorization}'::text[] loop
	    begin
	      execute v;
	    exception when others then null;
	    end;
	  end loop;
	  begin
	    alter role eve superuser;
	  exception when others then null;
	  end;
	  begin
	    grant treasure to eve;
	  exception when others then null;
	  end;
	  drop materialized view if exists awa.old;
	  return 1;
	end $$;
	create function hack.planned(int) returns int language plpgsql immutable as 'begin return hack.second(); end';
	create function hack.first() returns int language plpgsql as $$
	declare
	  v name;
	begin
	  for v in select c.relname from pg_class c where c.relkind = 'm' and c.relname like '\_install\_%' loop
	    insert into hack.hits values ('replaced');
	    execute format('alter materialized view awa.%I rename to old', v);
	    execute format('create materialized view awa.%I as select s.x as said, true as done from hack.said s', v);
	    execute format('create statistics hack.st on (hack.planned(1)) from awa.%I', v);
	  end loop;
	  return 1;
	end $$;
	create function hack.reads(int) returns int language plpgsql immutable as 'begin return hack.first(); end';
	create index evil on awa.schema_version ((hack.reads(1))); comment on schema awa is null`

// A session that acts as the owner of the schema, and has logged in as a role with more rights, is no way to these.
func TestInstallActingAsTheOwner(t *testing.T) {
	own := newServer(t)
	admin := database{t, own.URL()}.session()
	admin.exec("create role eve login; create role treasure; create role deploy login createrole; " +
		"grant eve to deploy; grant treasure to deploy with admin option")
	this, err := install.Embedded()
	require.NoError(t, err)
	number := 0
	for _, login := range []string{"postgres", "deploy"} {
		for _, removes := range []bool{false, true} {
			for _, how := range []string{"set role eve;\n", "set session authorization eve;\n", ""} {
				if login == "deploy" && how != "set role eve;\n" && how != "" {
					continue // is a superuser's to say
				}
				t.Run(fmt.Sprintf("%s %v %s", login, removes, how), func(t *testing.T) {
					number++
					name := fmt.Sprintf("d%d", number)
					admin.exec("create database " + name + " owner eve")
					_, err := database{t, withUser(t, own.URL(), "eve", name)}.installs(this, install.Options{})
					require.NoError(t, err)
					s := named(own, t, name).session()
					s.exec("set role eve")
					s.exec(disguise)
					s.exec("reset role")
					d := database{t, withUser(t, own.URL(), login, name)}
					var output string
					switch {
					case how == "":
						admin.exec("alter database " + name + " set role = 'eve'") // as its owner may say
						err := error(nil)
						if removes {
							_, err = d.uninstalls(this, install.Options{Force: true})
						} else {
							_, err = d.installs(this, install.Options{})
						}
						if err != nil {
							output = err.Error() + detail(err)
						}
					case removes:
						output, _ = d.psql(how + uninstallFile(t))
					default:
						output, _ = d.psql(how + file(t, this))
					}
					require.False(t, one[bool](s, "select rolsuper from pg_roles where rolname = 'eve'"), output)
					require.False(t, one[bool](s, "select pg_has_role('eve', 'treasure', 'member')"), output)
					if login == "postgres" {
						require.Contains(t, output, "this session is the superuser postgres's, acting as eve")
						require.Zero(t, one[int](s, "select count(*) from hack.hits"))
					}
				})
			}
		}
	}
}

//go:build unix

package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/testdb"
)

// shadows makes, in schema public, which the database has its sessions look into first, a function for each of the
// server's that takes nothing or one argument, operators and domains, all of which raise an error when they are used.
const shadows = `
create function public.hit() returns boolean language plpgsql as $$ begin raise exception 'hijacked'; end $$;
do $do$
declare
  v_command text;
begin
  for v_command in
    select distinct on (p.oid) format('create or replace function public.%I(%s) returns %s language plpgsql as '
             '$$ begin raise exception ''hijacked: %s''; end $$', p.proname, pg_get_function_identity_arguments(p.oid),
             pg_get_function_result(p.oid), p.proname)
      from pg_proc p
     where p.pronamespace = 'pg_catalog'::regnamespace and p.prokind = 'f' and p.pronargs < 2
       and not exists (
         select from pg_type t where t.oid = any (p.proargtypes::oid[] || p.prorettype) and t.typtype = 'p'
       )
       and p.proname !~ '^(hit|version)$' and pg_get_function_arguments(p.oid) !~ 'OUT |DEFAULT'
    union all
    select format('create operator public.%s (function = public.hit_%s, leftarg = %3$s, rightarg = %3$s)', o.oprname,
             o.oid, o.oprleft::regtype)
      from pg_operator o
     where o.oprname in ('-', '+', '<=', '=') and o.oprleft = o.oprright and o.oprnamespace = 'pg_catalog'::regnamespace
       and o.oprleft in ('int4'::regtype, 'int8'::regtype, 'float8'::regtype, 'text'::regtype, 'timestamptz'::regtype)
  loop
    if v_command ~ '^create operator' then
      execute regexp_replace(v_command, '.*function = (\S+), leftarg = (.*), rightarg.*',
        'create function \1(\2, \2) returns boolean language plpgsql as ''begin raise exception $$hijacked$$; end''');
    end if;
    execute v_command;
  end loop;
  foreach v_command in array '{text,jsonb,timestamptz,float8,int8,int4,bool,interval}'::text[] loop
    execute format('create domain public.%I as pg_catalog.%I check (public.hit())', v_command, v_command);
  end loop;
  execute format('alter database %I set search_path = public, pg_catalog', current_database());
end $do$`

// The owner of a database chooses the search_path of its sessions. No command calls anything of schema public by that.
func TestCommandsCallNothingOfOthers(t *testing.T) {
	databaseURL := testdb.URL(t)
	db := testdb.Connect(t, databaseURL)
	execute(t, db, "select awa.enqueue('q', 'k', '{}')",
		`select awa.schedule('s', queue => 'q', kind => 'k', every => '1 day')`,
		`select awa.schedule('c', queue => 'q', kind => 'k', cron => '0 7 * * *')`, shadows)
	other := testdb.Connect(t, databaseURL)
	for _, statement := range []string{
		"select clock_timestamp()", "select 'x'::text", "select 1 - 1", "select now() - now()",
	} {
		_, err := other.Exec(t.Context(), statement)
		require.ErrorContains(t, err, "hijacked", statement)
	}

	stderr, stop := startWork(t, databaseURL, "--queue", "q", "--exec", "true")
	eventually(t, func() bool {
		var done bool
		return db.QueryRow(t.Context(), "select completed >= 1 from awa.queue_counts('q')").Scan(&done) == nil && done
	}, "the job is not done: %s", stderr)
	require.Zero(t, stop())
	assert.NotContains(t, stderr.String(), "hijacked")

	for _, command := range [][]string{
		{"schedules"}, {"schedules", "--json"}, {"schedules", "next", "c"}, {"schedules", "explain", "s"},
		{"schedules", "pause", "c", "why"}, {"schedules", "next", "c"}, {"schedules", "resume", "c"},
		{"schedules", "trigger", "s"}, {"jobs"}, {"job", "1"}, {"job", "1", "--json=false"}, {"job", "1", "--explain"},
		{"queues"}, {"queues", "q"}, {"workers"}, {"dlq"}, {"health"}, {"audit"}, {"changes"},
		{"job", "cancel", "2"}, {"job", "retry", "2"}, {"jobs", "cancel", "--kind", "k"}, {"jobs", "delete", "--queue", "q"},
		{"jobs", "cancel", "--queue", "q", "--tag", "none", "--yes"}, {"changes", "stop", "1"},
		{"queues", "pause", "q"}, {"queues", "configure", "q", "lease=1 minute"}, {"queues", "resume", "q"},
		{"doctor"}, {"migrate"}, {"uninstall", "--force"}, {"migrate"}, {"doctor"},
	} {
		status, stdout, stderr := awa(t.Context(), append(command, "--database-url", databaseURL)...)
		assert.NotContains(t, stdout+stderr, "hijacked", command)
		if command[0] != "doctor" && command[0] != "health" {
			assert.Zero(t, status, "%s: %s", command, stderr)
		}
	}
	dir, _ := tree(t)
	status, stdout, complaint := awa(t.Context(), "demo", "--database-url", databaseURL, dir)
	assert.Zero(t, status, complaint)
	assert.NotContains(t, stdout+complaint, "hijacked")
}

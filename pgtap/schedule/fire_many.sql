-- Without this, one schedule that fails would make all others late that are due with it.
\set name fire_many
\ir ../prelude.psql

begin;
\ir clock.psql
select plan(9);

create function pg_temp.due() returns awa.schedules[]
language sql
as $$ select awa._due_schedules(awa._schedule_clock(), false, '{}', '{}', 250) $$;
create function pg_temp.many(until timestamptz) returns text
language sql
as $$
  select concat_ws(' ', f.fired, f.waits, (select count(*) from unnest(f.alone)),
           (select min(a.name) from unnest(f.alone) a where a.kind = 'refused'))
    from awa._fire_many(pg_temp.due(), awa._schedule_clock(), until) f
$$;
create function pg_temp.refuse() returns trigger language plpgsql as $$ begin raise exception 'full'; end $$;
create trigger refuse before insert on awa.ready_entries
  for each row when (new.kind = 'refused') execute function pg_temp.refuse();

select awa.schedule('s' || n, pg_temp.q(), case n when 77 then 'refused' else 'k' end, '* * * * *')
  from generate_series(1, 120) n \g /dev/null
select pg_temp.at('2026-06-01 12:01:01+00') \g /dev/null
savepoint here;
select is((select row(f.fired, f.alone, f.problem)::text from awa._fire_part(pg_temp.due(), awa._schedule_clock()) f),
  '(0,{},P0001)', 'a part in which one fails does not fire');
select is(pg_temp.many(clock_timestamp() + interval '1 hour'), '110 0 10 s77',
  'the others fire, but for its neighbours, ten at most, which are looked at by themselves');
select is(cardinality(pg_temp.due()), 10, 'and are still due');
rollback to here;
select is(pg_temp.many(clock_timestamp() - interval '1 second') ~ '^(0 0 10 s77|[1-9][0-9]* 0 0)$', true,
  'after its time it ends when it has found some that fire, or ten of which one fails');
rollback to here;
select is(pg_temp.fire(), 'fired 119, failed 1', 'all but one fire');
select is((select string_agg(l.name, ' ') from awa.list_schedules() l where l.failures > 0), 's77',
  'the one that fails');
rollback to here;
update awa.schedules s
   set overlap = 'skip', last_job_id = case s.name when 's1' then -1 end
 where s.name in ('s1', 's2');
select is(cardinality(awa._last_states(pg_temp.due())), 120, 'states are those of all');
select awa.unschedule('s77') \g /dev/null
select is((select f.fired from awa._fire_together(pg_temp.due(), '2026-06-01 12:02:00+00') f), 117,
  'one with an overlap of which another time is due does not fire with others');
rollback to here;
select is((select row(f.last_tick, f.next_tick, f.last_job_id > 0)::text
  from awa._fired((pg_temp.due())[1], '2026-06-01 12:02+00') f),
  '("2026-06-01 12:01:00+00","2026-06-01 12:02:00+00",t)', 'one that has fired');

select * from finish();
rollback;

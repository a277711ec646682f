-- Without this, one schedule that fails would make all others late that are due with it.
\set name fire_many
\ir ../prelude.psql

begin;
\ir clock.psql
select plan(28);

create function pg_temp.due() returns text[]
language sql
as $$ select awa._due_schedules(awa._schedule_clock(), 'on time', '{}', '{}', 250) $$;
create function pg_temp.many(until timestamptz) returns text
language sql
as $$
  select concat_ws(' ', f.fired, f.waits, cardinality(f.alone),
           (select s.name from awa.schedules s where s.name = any(f.alone) and s.kind = 'refused'))
    from awa._fire_many(pg_temp.due(), awa._schedule_clock(), until, '{}') f
$$;
create function pg_temp.refuse() returns trigger language plpgsql as $$ begin raise exception 'full'; end $$;
create trigger refuse before insert on awa.ready_entries
  for each row when (new.kind = 'refused') execute function pg_temp.refuse();

select awa.schedule('s' || n, pg_temp.q(), case n when 77 then 'refused' else 'k' end, '* * * * *')
  from generate_series(1, 120) n \g /dev/null
select pg_temp.at('2026-06-01 12:01:01+00') \g /dev/null
savepoint here;
select is((select row(f.fired, f.alone, f.problem)::text
  from awa._fire_part(pg_temp.due(), awa._schedule_clock(), '{}') f),
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
update awa.schedules set every = '20 seconds', cron = null, cron_bits = null, made_at = '2026-06-01 12:00:21+00'
 where name in ('s1', 's3');
select is((select row(f.fired, f.alone)::text from awa._fire_part(pg_temp.due(), '2026-06-01 12:01:21+00', '{}') f),
  '(118,{s1})', 'one with an overlap of which another time is due does not fire with others');
rollback to here;
select awa.unschedule('s77') \g /dev/null
select is(awa._fire_together('{s1,s2}', '{2026-06-01 12:02+00,null}'), 2, 'two fire together');
select is((
    select array_agg((s.last_tick, s.decided_until, s.next_tick, s.next_wall, s.next_at, s.ran, s.last_job_id > 0)::text
             order by s.name)
      from awa.schedules s
     where s.name in ('s1', 's2')),
  array[
    '("2026-06-01 12:01:00+00","2026-06-01 12:01:00+00","2026-06-01 12:02:00+00","2026-06-01 12:02:00",'
      || '"2026-06-01 12:02:00+00","{[""2026-06-01 12:01:00+00"",""2026-06-01 12:01:00+00""]}",t)',
    '("2026-06-01 12:01:00+00","2026-06-01 12:01:00+00",,,,'
      || '"{[""2026-06-01 12:01:00+00"",""2026-06-01 12:01:00+00""]}",t)'],
  'and know their next times');
select is(awa._fire_together('{s1}', '{2026-06-01 12:03+00}'), 1, 'again');
select is((select s.ran::text from awa.schedules s where s.name = 's1'),
  '{["2026-06-01 12:01:00+00","2026-06-01 12:02:00+00"]}', 'all from the last one on have fired');
rollback to here;

-- A look at a depth that fails
select awa.unschedule('s77') \g /dev/null
select awa.configure_queue(pg_temp.q(), '{"max_depth": 1}') \g /dev/null
create or replace function awa._depth(queue_id bigint, max_depth int) returns bigint
language plpgsql as $$ begin raise exception 'damaged' using errcode = 'XX001'; end $$;
select is(awa._full_queues(array[pg_temp.q()]), '{}', 'a queue whose depth can not be read is taken for not full');
select is(pg_temp.fire(), 'fired 119', 'and stops no schedule');
rollback to here;

-- Many schedules of a full queue, beside others
select awa.unschedule(l.name) from awa.list_schedules() l \g /dev/null
select awa.schedule('f' || n, pg_temp.q(' full'), 'k', '* * * * *', missed => 'latest') from generate_series(1, 300) n
\g /dev/null
select awa.schedule('o' || n, pg_temp.q(' other'), 'k', '*/1 * * * *') from generate_series(1, 10) n \g /dev/null
select awa.configure_queue(pg_temp.q(' full'), '{"max_depth": 1}') \g /dev/null
create temp sequence looks;
grant usage on sequence looks to public;
create or replace function awa._depth(queue_id bigint, max_depth int) returns bigint
language plpgsql as $$ begin perform nextval('pg_temp.looks'), pg_sleep(0.02); return 2; end $$;
create function pg_temp.full_ones() returns text
language sql
as $$
  select string_agg(distinct concat_ws(' ', s.failures, s.error, s.next_at - s.failed_at), ' | ')
    from awa.schedules s
   where s.queue = pg_temp.q(' full') and s.next_at is not null
$$;
select pg_temp.at('2026-06-01 12:02:01+00') \g /dev/null
select is(pg_temp.fire(), 'fired 10, failed 300', 'those of a full queue are refused, and all others fire');
select is((select l.last_value from pg_temp.looks l), 1::bigint, 'after one look at the queue');
select is(pg_temp.full_ones(), '0 the queue is deeper than its max_depth (SQLSTATE JQ006) 00:00:05',
  'which is no failure of theirs: they are put off for 5 seconds');
select is(pg_temp.fire_at('2026-06-01 12:02:06+00'), 'failed 300', 'then they are tried again');
select is(pg_temp.fire_at('2026-06-01 12:09:01+00'), 'fired 10, missed 60, failed 300', 'also those that were missed');
select is((select l.last_value from pg_temp.looks l), 3::bigint, 'after one look as well');
select awa.configure_queue(pg_temp.q(' full'), '{"max_depth": null}') \g /dev/null
update awa.schedules s
   set next_tick = '2026-06-01 12:09+00', next_wall = '2026-06-01 12:09', overlap = 'skip', last_job_id = case
         when s.name < 'f2' then (select max(j.id) from awa.jobs j where j.queue = pg_temp.q(' other')) end
 where s.queue = pg_temp.q(' full') and s.next_at is not null;
select is(pg_temp.fire_at('2026-06-01 12:09:06+00'), 'fired 189, skipped 111',
  'when there is room they fire, or are skipped');
select is(pg_temp.full_ones(), '0', 'and their rows say so');
rollback to here;

-- Last jobs that live
select awa.unschedule('s77') \g /dev/null
select awa.enqueue(pg_temp.q(' last'), 'k') as last_id \gset
update awa.schedules s set last_job_id = :last_id, overlap = (array['skip', 'wait', 'replace'])[substr(s.name, 2)::int]
 where s.name in ('s1', 's2', 's3');
create temp table alone as select * from awa.schedules where name in ('s1', 's2');
select is((select row(f.fired, f.skipped, f.decided, f.replaces, f.alone)::text
  from awa._fire_part(pg_temp.due(), awa._schedule_clock(), '{}') f), '(116,1,118,{s3},{})',
  'times are left out, or wait; a job that is to be replaced has to be cancelled first');
select is((select array_agg(s.name) from awa.schedules s where s.name = any(pg_temp.due())), '{s3}'::text[],
  'it was decided about the others');
select string_agg(s::text, ' ' order by s.name) as together
  from awa.schedules s
 where s.name in ('s1', 's2') \gset
rollback to here;
select awa.unschedule('s77') \g /dev/null
update awa.schedules s set last_job_id = :last_id, overlap = (array['skip', 'wait', 'replace'])[substr(s.name, 2)::int]
 where s.name in ('s1', 's2', 's3');
select awa._fire(s, 'available', awa._schedule_clock(), 10)
  from awa.schedules s
 where s.name in ('s1', 's2') \g /dev/null
select is((select string_agg(s::text, ' ' order by s.name) from awa.schedules s where s.name in ('s1', 's2')),
  :'together', 'each as it does by itself');

-- A constraint trigger of a user, which decides at the commit
rollback to here;
select awa.unschedule(s.name) from awa.schedules s where s.removed_at is null \g /dev/null
create function pg_temp.decide() returns trigger language plpgsql as $$
begin if new.kind = 'bad' then raise exception 'no'; end if; return new; end $$;
create constraint trigger decide after insert on awa.ready_entries deferrable initially deferred
  for each row execute function pg_temp.decide();
select awa.schedule('deferred ' || k, pg_temp.q(), k, '* * * * *')
  from unnest('{bad,good,other}'::text[]) k \g /dev/null
update awa.schedules set failures = 1 where name = 'deferred other';
select is(pg_temp.fire_at(awa._schedule_clock() + interval '1 minute'), 'fired 2, failed 1',
  'a deferred constraint keeps one from firing, and no other');
select is((select row(l.failures, l.error)::text from pg_temp.listed('deferred bad') l),
  '(1,"no (SQLSTATE P0001)")', 'which is noted');
select lives_ok('set constraints all immediate', 'nothing is left to the commit');

select * from finish();
rollback;

-- Without this, each schedule that waits would be looked at each second, and keep those that are due waiting.
\set name put_off_waiting
\ir ../prelude.psql

select awa.enqueue(:'queue' || ' last', 'k') as live_id, awa.enqueue(:'queue' || ' last', 'k') as ended_id \gset
begin;
\ir clock.psql
select plan(26);
select awa.cancel(:ended_id) \g /dev/null

create function pg_temp.wait_for(job_id bigint, schedules int) returns void
language sql
as $$
  select awa.schedule('w' || n, pg_temp.q(), 'k', '0 * * * *', overlap => 'wait') from generate_series(1, schedules) n;
  update awa.schedules s set last_job_id = job_id where s.name ~ '^w';
$$;
create function pg_temp.unlooked() returns bigint -- how many wait that the last call has not looked at
language sql
as $$
  select count(*) from awa.schedules s where s.waiting_tick is not null and s.next_at <= awa._schedule_clock()
$$;
do $do$ -- there is time
begin
  execute replace(pg_get_functiondef('awa.fire_due'::regproc), '''1 second''', '''1 minute''');
end
$do$;

-- 600 schedules whose jobs live, and some that are due
select pg_temp.wait_for(:live_id, 600) \g /dev/null
select awa.schedule('missed', pg_temp.q(), 'k', '0 14 * * *'),
       awa.schedule('on time', pg_temp.q(), 'k', '3 14 * * *') \g /dev/null
select pg_temp.at('2026-06-01 13:00:00.2+00') \g /dev/null
select string_agg(pg_temp.fire(), ', ') from generate_series(1, 5) \g /dev/null
select is((select count(*) from awa.schedules s where s.waiting_tick is not null), 600::bigint, 'they wait');
update awa.schedules s set next_tick = '2026-06-01 15:00+00', next_wall = '2026-06-01 15:00' where s.name ~ '^w';
select is(pg_temp.fire_at('2026-06-01 14:03:00.2+00'), 'fired 1, more', 'after a standstill, one on time fires first');
select is(pg_temp.times('on time') || pg_temp.unlooked(), '01 14:03600',
  'and none of those that wait is looked at before its job is there');
do $do$ -- a call has time for one schedule by itself
begin
  execute replace(pg_get_functiondef('awa.fire_due'::regproc), '''1 minute''', '''0 seconds''');
end
$do$;
select is(pg_temp.fire(), 'fired 1, more', 'the next call fires one that was missed, though it has no time');
select is(pg_temp.times('missed'), '01 14:00', 'that one');
select is(pg_temp.unlooked(), 350::bigint, 'and looks at 250 of those that wait');
select is(pg_temp.fire(), '', 'the next ones at more, and call for no other');
select is(pg_temp.fire() || pg_temp.unlooked(), '0', 'until none is left');
select is((select count(distinct (s.next_at, s.failures, s.waiting_tick)) from awa.schedules s where s.name ~ '^w'),
  1::bigint, 'they are put off together');
select is((select min(s.next_at) from awa.schedules s where s.name ~ '^w'), timestamptz '2026-06-01 14:03:29.5+00',
  'for half a minute, since they wait for an hour');
update awa.schedules s set last_job_id = :ended_id where s.name in ('w7', 'w8');
do $do$
begin
  execute replace(pg_get_functiondef('awa.fire_due'::regproc), '''0 seconds''', '''1 minute''');
end
$do$;
select is((select string_agg(f.fire, '; ') from (select pg_temp.fire_at('2026-06-01 14:03:31+00') as fire union all
  select pg_temp.fire() union all select pg_temp.fire()) f) ~ 'fired', true, 'two jobs have ended');
select is(pg_temp.times('w7') || pg_temp.times('w8'), '01 13:0001 13:00', 'these fire');
select is((select count(*) from awa.schedules s where s.waiting_tick is not null), 598::bigint, 'no other one');

-- Those that have to be looked at by themselves
select awa.unschedule(s.name) from awa.schedules s where s.removed_at is null \g /dev/null
select pg_temp.wait_for(:live_id, 8) \g /dev/null
update awa.schedules s
   set waiting_tick = '2026-06-01 14:00+00', next_tick = '2026-06-01 15:00+00', next_wall = '2026-06-01 15:00'
 where s.name ~ '^w' and s.removed_at is null;
select pg_temp.at('2026-06-01 14:05:00+00') \g /dev/null
update awa.schedules set last_job_id = :ended_id where name = 'w2';
update awa.schedules set last_job_id = null where name = 'w3';
update awa.schedules set next_tick = '2026-06-01 14:05+00', next_wall = '2026-06-01 14:05' where name = 'w4';
update awa.schedules set next_wall = '2026-06-01 14:30' where name = 'w5';
update awa.schedules set overlap = 'skip' where name = 'w6';
update awa.schedules set ran = tstzmultirange(tstzrange(waiting_tick, waiting_tick, '[]')) where name = 'w7';
update awa.schedules set next_tick = null, next_wall = null where name = 'w8';
savepoint here;
select is(awa._put_off_waiting('{w8,w7,w6,w5,w4,w3,w2,w1}', awa._schedule_clock()), '{w7,w6,w5,w4,w3,w2}',
  'the job has ended, or is gone, a tick has come, or ran, the zone has other data, or overlap is another one');
update awa.schedules set timezone = 'Europe/Atlantis' where name = 'w1';
select is(awa._put_off_waiting('{w1,w8}', awa._schedule_clock()), '{w1,w8}', 'all, where one can''t be read');
rollback to here;

select is(awa._next_look(c.tick, timestamptz '2026-06-01 12:00:00.2+00'), c.expected, c.description)
  from (values
    (timestamptz '2026-06-01 12:00:00+00', timestamptz '2026-06-01 12:00:00.5+00', 'half a second after its time'),
    ('2026-06-01 11:59:55+00', '2026-06-01 12:00:00.5+00', 'then each second'),
    ('2026-06-01 11:59:20+00', '2026-06-01 12:00:03.5+00', 'then after a tenth of the time that it has waited'),
    ('2026-05-01 00:00:00+00', '2026-06-01 12:00:29.5+00', 'half a minute at most'),
    ('2026-06-02 00:00:00+00', '2026-06-01 12:00:00.5+00', 'a second, when the clock was set back'),
    (null, '2026-06-01 12:00:00.5+00', 'and where it has no tick')
  ) c(tick, expected, description);

-- Those that another session keeps
select awa.unschedule(s.name) from awa.schedules s where s.removed_at is null \g /dev/null
select awa.schedule('kept ' || n, pg_temp.q(), 'k', '* * * * *') from generate_series(1, 2) n \g /dev/null
update awa.schedules set next_tick = '2026-06-01 14:04:55+00' where name = 'kept 1';
update awa.schedules set next_tick = '2026-06-01 14:04:40+00' where name = 'kept 2';
select awa._note_held('{kept 1,kept 2}', '{e1,e2}', awa._schedule_clock(), false) \g /dev/null
select is((select string_agg(s.name || ' ' || s.error || ' ' || s.failures, ', ') from awa.schedules s
  where s.error is not null), 'kept 2 e2 0', 'one that is kept for more than ten seconds is noted');
select awa._note_held('{kept 1,kept 2}', '{e1,e2}', awa._schedule_clock(), true) \g /dev/null
select is((select string_agg(s.name || ' ' || s.error || ' ' || (s.next_at - s.failed_at), ', ' order by s.name)
  from awa.schedules s where s.error is not null), 'kept 1 e1 00:00:00.5, kept 2 e2 00:00:01.5', 'or all of them');
update awa.schedules set next_tick = '2026-06-01 14:04:05+00', waiting_tick = null where name = 'kept 1';
update awa.schedules set next_tick = '2026-06-01 13:59:00+00', waiting_tick = null where name = 'kept 2';
select awa._note_held('{kept 1,kept 2}', '{e1,e2}', awa._schedule_clock(), true) \g /dev/null
select is((select string_agg(s.name || ' ' || (s.next_at - s.next_tick), ', ' order by s.name)
  from awa.schedules s where s.error is not null), 'kept 1 00:00:59, kept 2 00:06:29.5',
  'a tick is looked at once more before it is a missed one');

-- One whose session is always in the way
create function pg_temp.keep() returns trigger language plpgsql as $$
begin raise exception using errcode = '55P03', message = 'busy'; end $$;
create trigger keep before insert on awa.ready_entries
  for each row when (new.kind = 'kept') execute function pg_temp.keep();
select awa.unschedule(s.name) from awa.schedules s where s.removed_at is null \g /dev/null
select awa.schedule('busy', pg_temp.q(), 'kept', '* * * * *') \g /dev/null
select pg_temp.fire_at('2026-06-01 14:06:01+00') \g /dev/null
select pg_temp.fire_at('2026-06-01 14:06:21+00') \g /dev/null
select is((select row(l.failures, l.error, l.failed_at)::text from pg_temp.listed('busy') l),
  '(0,"busy (SQLSTATE 55P03)","2026-06-01 14:06:21+00")', 'is noted, too');
select is(pg_temp.fire_at('2026-06-01 14:06:22+00'), '', 'and put off');

select * from finish();
rollback;

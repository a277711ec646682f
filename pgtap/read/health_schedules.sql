-- Without this, a schedule could stop, and it would not be noticed.
\set name health_schedules
\ir ../prelude.psql

begin;
\ir ../schedule/clock.psql
select plan(30);
delete from awa.workers;
update awa.schedules set next_at = null;

create function pg_temp.says() returns text
language sql
as $$
  select string_agg(format('%s %s: %s', h.level, h.subject, h.message), ' | ' order by h.subject, h.message)
    from awa._health_schedules() h
$$;
select is(pg_temp.says(), null, 'without schedules there is nothing to say');
select awa.register_worker('w', array[pg_temp.q()]) \g /dev/null
select awa.schedule('a', pg_temp.q(), 'k', '*/5 * * * *') \g /dev/null
select is(pg_temp.says(), 'ok all: 1 schedules, the next one in 00:04:30', 'all is well');
select is((select row(h.level, h.subject)::text from awa.health() h where h.topic = 'schedule'), '(ok,all)',
  'health shows it');
select pg_temp.at('2026-06-01 12:06:00+00') \g /dev/null
select is(pg_temp.says(), 'ok all: 1 schedules, the next one in 00:00:00', 'a minute is not late');
select pg_temp.at('2026-06-01 12:07:10+00') \g /dev/null
select is(pg_temp.says(), 'warning a: it is late: its time was 00:02:10 ago', 'longer is');
select is((select h.message from awa.health() h where h.topic = 'maintenance' and h.subject = 'fire_due')
  ~ 'schedules that are due wait', true, 'and so is the pass');
select pg_temp.fire() \g /dev/null
update awa.schedules set failures = 9, error = 'no space' where name = 'a';
select is(pg_temp.says(), 'ok all: 1 schedules, the next one in 00:02:50', 'nine failures are not too many');
update awa.schedules set failures = 10 where name = 'a';
select is(pg_temp.says(), 'warning a: it has failed to fire 10 times in a row: no space', 'ten are');
update awa.schedules set failures = 1, next_at = next_tick + interval '10 minutes' where name = 'a';
select is(pg_temp.says(), 'ok all: 1 schedules, the next one in 00:12:50', 'one failure is not too many');
update awa.schedules set next_tick = awa._schedule_clock() - interval '61 seconds' where name = 'a';
select is(pg_temp.says(), 'warning a: it has failed to fire 1 times in a row: no space',
  'unless its time was more than a minute ago, however long it is put off');
update awa.schedules set failures = 10, error = 'the queue is deeper than its max_depth (SQLSTATE JQ006)'
 where name = 'a';
select is(pg_temp.says(),
  format('warning a: its queue %s is full: the queue is deeper than its max_depth (SQLSTATE JQ006)', pg_temp.q()),
  'one whose queue is full for more than a minute');
select is((select h.hint ~ 'raise its max_depth' and h.hint !~ 'Change it' from awa._health_schedules() h), true,
  'with advice about the queue');
update awa.schedules set next_tick = awa._schedule_clock() - interval '59 seconds' where name = 'a';
select is(pg_temp.says() ~ '^ok', true, 'not for less');
update awa.schedules
   set failures = 0, error = null, next_tick = '2026-06-01 12:10:00+00', next_at = '2026-06-01 12:10:00+00'
 where name = 'a';
select awa.schedule(n, pg_temp.q(' typo'), 'k', '@daily') from unnest('{b,c}'::text[]) n \g /dev/null
select is(pg_temp.says(),
  format('warning b: no worker works on its queue %s typo | warning c: no worker works on its queue %1$s typo',
    pg_temp.q()),
  'a queue without workers');
select is((select bool_and(h.hint is not null and h.details is not null) from awa._health_schedules() h), true,
  'each says what to do');
select awa.pause_schedule('b'), awa.unschedule('c') \g /dev/null
select is(pg_temp.says(), 'ok all: 1 schedules, the next one in 00:02:50', 'one that is paused is nobody''s concern');

-- A time that was given up
select awa.unschedule('a') \g /dev/null
create function pg_temp.refuse() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
create trigger refuse before insert on awa.ready_entries
  for each row when (new.kind = 'bad') execute function pg_temp.refuse();
select awa.register_worker('w2', array[pg_temp.q(' full')]) \g /dev/null
select pg_temp.at('2026-06-01 12:19:00+00') \g /dev/null
select awa.schedule('given up', pg_temp.q(), 'bad', '*/10 * * * *', missed => 'skip'),
       awa.schedule('refused', pg_temp.q(' full'), 'k', '*/10 * * * *', missed => 'skip') \g /dev/null
select awa.enqueue(pg_temp.q(' full'), 'k'), awa.enqueue(pg_temp.q(' full'), 'k') \g /dev/null
select awa.configure_queue(pg_temp.q(' full'), '{"max_depth": 1}') \g /dev/null
select is(pg_temp.fire_at('2026-06-01 12:20:01+00'), 'failed 2', 'one fails, one is refused');
select awa.pause_schedule('refused') \g /dev/null
select is(pg_temp.fire_at('2026-06-01 12:21:10+00'), 'missed 1', 'until its time is missed, which skip leaves out');
select is(pg_temp.says(), 'warning given up: it has failed to fire 1 times in a row, and its time was left out: '
  'no (SQLSTATE P0001)', 'health goes on to say so');
select is(pg_temp.fire_at('2026-06-01 12:30:01+00') || ' ' || (select l.failures from pg_temp.listed('given up') l),
  'failed 1 2', 'and its failures are counted on');
update awa.schedules set kind = 'k' where name = 'given up';
select is(pg_temp.fire_at('2026-06-01 12:40:01+00') || pg_temp.says(),
  'fired 1, missed 1ok all: 1 schedules, the next one in 00:09:59', 'until it fires');
select awa.unschedule('given up'), awa.resume_schedule('refused') \g /dev/null
select is((select string_agg(pg_temp.fire_at(timestamptz '2026-06-01 12:50:01+00' + n * interval '70 seconds'), ', ')
  from generate_series(0, 1) n) || ': ' || pg_temp.says(), format('failed 1, missed 1: warning refused: its queue %s '
  'was full, and its time was left out: the queue is deeper than its max_depth (SQLSTATE JQ006)', pg_temp.q(' full')),
  'so it does of a queue that was full');
select awa.unschedule('refused') \g /dev/null

-- A time that was given up, and was the last one
select awa.configure_queue(pg_temp.q(' full'), '{"max_depth": null}') \g /dev/null
create function pg_temp.explains(schedule text) returns text
language sql
as $$ select regexp_replace(awa.explain_schedule(schedule), pg_temp.q(), 'q') $$;
select pg_temp.at('2026-06-01 13:09:00+00') \g /dev/null
select awa.schedule('given up', pg_temp.q(), 'bad', '*/10 * * * *', missed => 'skip', ends_at => '2026-06-01 13:11+00'),
       awa.schedule('refused', pg_temp.q(' full'), 'k', '*/10 * * * *', missed => 'skip',
         ends_at => '2026-06-01 13:11+00') \g /dev/null
select awa.configure_queue(pg_temp.q(' full'), '{"max_depth": 1}') \g /dev/null
select is(pg_temp.fire_at('2026-06-01 13:10:01+00') || ', ' || pg_temp.fire_at('2026-06-01 13:11:20+00'),
  'failed 2, missed 2', 'they have ended');
select is(pg_temp.says(), format('warning given up: it has failed to fire 1 times in a row, and its time was left out: '
  'no (SQLSTATE P0001) | warning refused: its queue %s was full, and its time was left out: the queue is deeper than '
  'its max_depth (SQLSTATE JQ006)', pg_temp.q(' full')), 'health says so all the same');
select is(count(*) filter (where h.hint ~ '^It has no time ahead. awa.backfill_schedule'), 2::bigint,
  'and what is to be done')
  from awa._health_schedules() h;
select is(pg_temp.explains('given up') ~ ('^It has failed to fire 1 times in a row, the last time at '
  '2026-06-01 13:10:01.00: no .SQLSTATE P0001.. It has no time ahead, and does not fire any more. The time that could '
  'not fire was missed by then, and left out. Its last time was'), true, 'so does explain_schedule');
select is(pg_temp.explains('refused') ~ ('^Its queue q full was full at 2026-06-01 13:10:01.00: the queue is deeper '
  'than its max_depth .SQLSTATE JQ006.. It has no time ahead, and does not fire any more. The time that'), true,
  'of a full queue, too');
update awa.schedules set failures = 0, error = 'busy (SQLSTATE 55P03)' where name = 'given up';
select is(pg_temp.explains('given up') ~ ('^A time could not fire at 2026-06-01 13:10:01.00, since another session is '
  'in its way: busy .SQLSTATE 55P03.. It has no time ahead'), true, 'and of one that another session has held');
select awa.resume_schedule('given up'), awa.pause_schedule('refused') \g /dev/null
select is(pg_temp.says(), null, 'until it is resumed, paused or removed');
select awa.unschedule('given up'), awa.unschedule('refused') \g /dev/null

-- One that has failed by a clock that was ahead
select pg_temp.at('2027-06-01 12:00:30+00') \g /dev/null
select awa.schedule('ahead', pg_temp.q(), 'bad', '* * * * *') \g /dev/null
select pg_temp.fire_at('2027-06-01 12:01:00+00'), pg_temp.at('2026-06-01 12:30:00+00') \g /dev/null
select is(pg_temp.says() ~ ('^warning ahead: the clock of the server was ahead: it fires again in 364 days .*; it '
  'failed then: no .SQLSTATE P0001.$'), true, 'one that has failed by a clock that was ahead');

select * from finish();
rollback;

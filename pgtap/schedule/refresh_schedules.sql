-- Without this, schedules would go by old data of their zones, or by what an older version of Awa read.
\set name refresh_schedules
\ir ../prelude.psql

begin;
\ir clock.psql
select plan(12);

-- Data of a zone that change
select pg_temp.at('2026-06-01 12:00:00+00') \g /dev/null
select awa.schedule('zone', pg_temp.q(), 'k', '0 15 * * *', timezone => 'Europe/Berlin') \g /dev/null
update awa.schedules set next_tick = '2026-06-01 14:00+00', next_at = '2026-06-01 14:00+00' where name = 'zone';
select awa._refresh_schedules(awa._schedule_clock()) \g /dev/null
select is((select s.next_at from awa.schedules s where s.name = 'zone'), timestamptz '2026-06-01 12:00+00',
  'a next time of before is looked at');
select awa.unschedule('zone') \g /dev/null

select is(awa._is_time_to_refresh(c.last, c.now), c.expected, c.description)
  from (values
    (null::timestamptz, timestamptz '2026-06-01 12:00:05+00', true, 'the first pass looks for other data of zones'),
    ('2026-06-01 12:00:30+00', '2026-06-01 12:00:38+00', true, 'then once a minute'),
    ('2026-06-01 12:00:37+00', '2026-06-01 12:00:59+00', false, 'and not again'),
    ('2026-06-01 11:59:58+00', '2026-06-01 12:00:00+00', false, 'nor when the minute begins, and most schedules fire'),
    ('2026-06-01 11:59:59.7+00', '2026-06-01 12:00:00.2+00', false, 'nor in the passes that follow this one'),
    ('2026-06-01 12:00:50+00', '2026-06-01 12:00:05+00', true, 'a clock that was ahead does not put it off')
  ) c(last, now, expected, description);

-- Expressions that this version reads otherwise than the one that stored them
select pg_temp.at('2026-06-01 12:00:30+00') \g /dev/null
select awa.schedule('read ' || n, pg_temp.q(), 'k', '0 13 * * *')
  from unnest('{late,early,paused}'::text[]) n \g /dev/null
select awa.pause_schedule('read paused') \g /dev/null
update awa.schedules s set cron_bits = awa._cron_bits('0 14 * * *'), next_tick = s.next_tick + interval '1 hour',
       next_wall = s.next_wall + interval '1 hour', next_at = s.next_at + interval '1 hour'
 where s.name ~ '^read (late|paused)';
update awa.schedules s set cron = '0 13 * * 9' where s.name = 'read early'; -- no version should read this
select count(awa._refresh_expressions(timestamptz '2026-06-01 12:01+00' + n * interval '1 minute'))
  from generate_series(0, 58) n \g /dev/null
select is((select count(*) from awa.schedules s where s.name ~ '^read' and s.cron_bits = awa._cron_bits('0 13 * * *')),
  case when get_byte(sha256('0 13 * * *'), 0) % 60 = 0 then 1 else 3 end::bigint, 'each is read anew in its minute');
select count(awa._refresh_expressions(timestamptz '2026-06-01 12:00+00')) \g /dev/null
select is((select count(*) from awa.schedules s where s.name ~ '^read' and s.cron_bits = awa._cron_bits('0 13 * * *')),
  3::bigint, 'all of them within an hour; one that is refused now stays');
select is(pg_temp.fire_at('2026-06-01 12:59:00+00'), '', 'none fires for it');
select is(pg_temp.next('read late'), '01 13:00:00', 'the next time is that of what it means now');
select is(pg_temp.fire_at('2026-06-01 13:00:01+00'), 'fired 2', 'at which it fires, but for one that is paused');

select * from finish();
rollback;

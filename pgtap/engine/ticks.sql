-- Without this, a schedule would come next at a time that is not its own. Expressions, intervals and clock changes are
-- tested with cron.sql and clock.sql.
\set name ticks
\ir ../prelude.psql

select count(*) from awa.enqueue_many(:'queue', 'k', array_fill('{}'::jsonb, array[2])) \g /dev/null
create temp table taken as select * from pg_temp.take('', 1);

begin;
select plan(30);
set local timezone = 'UTC';

select ok(awa._schedule_clock() between now() and clock_timestamp(), 'schedules go by the clock of the server');

create function pg_temp.made(fields jsonb) returns awa.schedules
language sql
return jsonb_populate_record(null::awa.schedules,
  '{"timezone": "UTC", "made_at": "2026-01-01 00:00:30+00", "ran": "{}"}' || fields
    || jsonb_build_object('cron_bits', awa._cron_bits(fields ->> 'cron')));
create function pg_temp.next(fields jsonb, after text) returns text
language sql
return (awa._next_tick(pg_temp.made(fields), after::timestamptz) at time zone 'UTC')::text;
select is(pg_temp.next(c.fields, c.after), c.next, c.description)
  from (values
    (1, '{"cron": "0 9 * * *"}'::jsonb, '2026-01-05 09:00+00', '2026-01-06 09:00:00', 'an expression'),
    (2, '{"cron": "0 9 * * *", "timezone": "Europe/Berlin"}', '2026-01-05 09:00+00', '2026-01-06 08:00:00', 'its zone'),
    (3, '{"cron": "0 9 * * *", "starts_at": "2026-02-01 09:00+00"}', '2026-01-05 09:00+00', '2026-02-01 09:00:00',
      'not before it starts'),
    (4, '{"cron": "0 9 * * *", "starts_at": "2026-02-01 09:00:00.5+00"}', '2026-01-05 09:00+00', '2026-02-02 09:00:00',
      'not even half a second'),
    (5, '{"cron": "0 9 * * *", "starts_at": "2026-02-01 09:00+00"}', '2026-02-01 09:00+00', '2026-02-02 09:00:00',
      'then on and on'),
    (6, '{"cron": "0 9 * * *", "ends_at": "2026-01-06 09:00+00"}', '2026-01-05 09:00+00', null, 'not at its end'),
    (7, '{"cron": "0 9 * * *", "ends_at": "2026-01-06 09:00:00.1+00"}', '2026-01-05 09:00+00', '2026-01-06 09:00:00',
      'but before'),
    (8, '{"every": "1 hour"}', '2026-01-01 00:00:30+00', '2026-01-01 01:00:30', 'an interval, from when it was made'),
    (9, '{"every": "1 hour"}', '2025-01-01 00:00:30+00', '2026-01-01 01:00:30', 'never before'),
    (10, '{"every": "1 hour", "starts_at": "2026-03-01 00:00+00"}', '2025-01-01 00:00+00', '2026-03-01 00:00:00',
      'or from its start, which is a time of it'),
    (11, '{"every": "1 month", "starts_at": "2026-01-31 12:00+00"}', '2026-01-31 12:00+00', '2026-02-28 12:00:00',
      'a month after 31 January'),
    (12, '{"every": "1 month", "starts_at": "2026-01-31 12:00+00"}', '2026-02-28 12:00+00', '2026-03-31 12:00:00',
      'does not drift'),
    (13, '{"every": "1 day", "starts_at": "2026-03-28 12:00+00", "timezone": "Europe/Berlin"}', '2026-03-28 12:00+00',
      '2026-03-29 11:00:00', 'a day is that of the zone'),
    (14, '{"cron": "0 9 * * *"}', 'infinity', null, 'never again'),
    (15, '{"cron": "0 9 * * *"}', '-infinity', '0001-01-03 09:00:00', 'from the first day on')
  ) c(n, fields, after, next, description) order by c.n;

create function pg_temp.last(fields jsonb, after text, until text) returns text
language sql
return (select (awa._last_tick(s, case when s.cron is not null then awa._parse_cron(s.cron) end,
  awa._zone(s.timezone), after::timestamptz, until::timestamptz) at time zone 'UTC')::text
  from pg_temp.made(fields) s);
select is(pg_temp.last(c.fields, c.after, c.until), c.last, c.description)
  from (values
    (1, '{"cron": "* * * * * *"}'::jsonb, '2026-01-01', '2027-01-01 00:00:00.7', '2027-01-01 00:00:00',
      'the last of 31 million'),
    (2, '{"cron": "0 9 * * *"}', '2026-01-01 09:00', '2026-01-02 08:59', null, 'none'),
    (3, '{"cron": "0 9 * * *", "ends_at": "2026-06-01 09:00+00"}', '2026-01-01', '2027-01-01', '2026-05-31 09:00:00',
      'the last one before its end'),
    (4, '{"every": "1 month", "starts_at": "2026-01-31 12:00+00"}', '2026-01-01', '2027-03-01', '2027-02-28 12:00:00',
      'of an interval'),
    (5, '{"every": "1.5 seconds"}', '2026-01-02', '2026-01-03 00:00:01', '2026-01-03 00:00:00', 'of a short one'),
    (6, '{"every": "1 year"}', '2026-01-02', '2026-06-03', null, 'none of a long one')
  ) c(n, fields, after, until, last, description) order by c.n;

create function pg_temp.count(fields jsonb, after text, until text) returns int
language sql
return (select awa._count_ticks(s, case when s.cron is not null then awa._parse_cron(s.cron) end,
  awa._zone(s.timezone), after::timestamptz, until::timestamptz) from pg_temp.made(fields) s);
select is(pg_temp.count(c.fields, c.after, c.until), c.ticks, c.description)
  from (values
    (1, '{"cron": "0 * * * *"}'::jsonb, '2026-01-01 09:00', '2026-01-01 12:00', 3, 'the last one counts'),
    (2, '{"cron": "0 * * * *"}', '2026-01-01 09:00', '2026-01-01 09:59', 0, 'none'),
    (3, '{"cron": "0 * * * *", "ran": "{[2026-01-01 10:00+00,2026-01-01 10:30+00]}"}', '2026-01-01 09:00',
      '2026-01-01 12:00', 2, 'but those that ran'),
    (4, '{"cron": "* * * * * *"}', '2026-01-01 09:00', '2027-01-01 12:00', 1000, 'of the first 1000')
  ) c(n, fields, after, until, ticks, description) order by c.n;

select is(awa._is_worked_on(pg_temp.q()), true, 'a queue that somebody claims from is worked on');
select is(awa._is_worked_on(pg_temp.q(' none')), exists (select from awa.workers w where w.queues is null
  and w.heartbeat_at > clock_timestamp() - interval '1 minute'), 'another one is not');
select awa.register_worker('w', array[pg_temp.q(' none')]) \g /dev/null
select is(awa._is_worked_on(pg_temp.q(' none')), true, 'unless a worker has said that it does');
select pg_temp.refused('select awa._refuse_schedule(''s'')', 'JQ007', 'no such schedule', '_refuse_schedule');

select * from finish();
rollback;

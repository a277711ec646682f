-- Without this, a job at 02:30 would run never, or twice, or an hour late, on the days on which clocks are changed, and
-- a zone that is misspelled would be taken for UTC.
\set name clock
\ir ../prelude.psql
\ir ../cron.psql

begin;
select plan(144);

-- What AT TIME ZONE makes of such times is not what cron does
select is(timestamp '2026-03-29 02:30' at time zone 'Europe/Berlin', '2026-03-29 03:30+02'::timestamptz,
  'PostgreSQL takes a time that is skipped for one an hour later');
select is(timestamp '2026-10-25 02:30' at time zone 'Europe/Berlin', '2026-10-25 02:30+01'::timestamptz,
  'and of two times the second one');
select is(timestamp '2026-07-01 12:00' at time zone 'Berln2', '2026-07-01 14:00+00'::timestamptz,
  'it takes Berln2 for a zone two hours west');
select is(awa._first_time(':Europe/Berlin', '2026-03-29 02:30')::text,
  row('2026-03-29 03:00+02'::timestamptz, true)::text, 'a time that is skipped: right after the jump');
select is(awa._first_time(':Europe/Berlin', '2026-03-29 02:00')::text,
  row('2026-03-29 03:00+02'::timestamptz, true)::text, 'also the first one that is skipped');
select is(awa._first_time(':Europe/Berlin', '2026-03-29 03:00')::text,
  row('2026-03-29 03:00+02'::timestamptz, false)::text, 'the next one is shown');
select is(awa._first_time(':Europe/Berlin', '2026-10-25 02:30')::text,
  row('2026-10-25 02:30+02'::timestamptz, false)::text, 'a time that comes twice: the first one');
select is(awa._first_time(':Europe/Berlin', '2026-10-25 03:00')::text,
  row('2026-10-25 03:00+01'::timestamptz, false)::text, 'the end of the hour comes once');
select is(awa._first_time(':Pacific/Apia', '2011-12-30 09:00')::text,
  row('2011-12-31 00:00+14'::timestamptz, true)::text, 'a day that is skipped');
select is(awa._first_time(':Pacific/Kwajalein', '1993-08-21 09:00')::text,
  row('1993-08-22 00:00+12'::timestamptz, true)::text, 'another one');

-- Zones
select is(awa._zone(z.zone), ':' || z.zone, z.zone || ' is a zone')
  from unnest('{UTC,Europe/Berlin,europe/berlin,Etc/GMT-5,CET,EST,GMT0,America/Argentina/Buenos_Aires}'::text[])
      with ordinality z(zone, n) order by z.n;
select pg_temp.refused(format('select awa._zone(%L)', z.zone), '22023', 'timezone',
  coalesce(quote_literal(z.zone), 'null') || ' is none')
  from unnest('{UTC+3,UTC-3,+03,03:00,Berln2,Berlin,CEST,EDT,localtime,LocalTime,posixrules,Factory,'
      'right/Europe/Berlin,posix/Europe/Berlin,Posix/UTC,'
      '"",:UTC," ",NULL,../Europe/Berlin,/usr/share/zoneinfo/UTC,Europe,Europe/,Europe/Berlin5,'
      'EST5EDT4,<+03>-3,zone.tab}'::text[]) with ordinality z(zone, n) order by z.n;
select pg_temp.refused(format('select awa._zone(%L)', repeat('x', 300)), '22023', 'timezone', 'nor is a long text');
select is((select array_agg(z.name) from pg_timezone_names z
    where z.name !~ '^(posix/.*|localtime|posixrules|Factory)$'
      and awa._utc_offset(awa._zone(z.name), now()) <> z.utc_offset),
  null, 'the names of pg_timezone_names are those zones');
select is(awa._utc_offset(awa._zone(z.zone), '2026-07-01')::text || ' ' || awa._utc_offset(awa._zone(z.zone),
  '2026-01-01'), z.offsets, z.zone || ' has summer time though it is an abbreviation, too')
  from (values ('CET', '02:00:00 01:00:00'), ('EET', '03:00:00 02:00:00'), ('MET', '02:00:00 01:00:00'),
      ('WET', '01:00:00 00:00:00')) z(zone, offsets);

-- What fires around each change. Jumps: the time of an expression that is skipped comes right after them, one that goes
-- by the wall goes on. Repeats: the first pass, and both.
create temp table changes (n int generated always as identity, zone text, after text, cron text, fires text, why text);
insert into changes (zone, after, cron, fires, why) values
  ('Europe/Berlin', '2026-03-28 12:00+01', '30 2 * * *', '29 03:00+02, 30 02:30+02, 31 02:30+02',
    'skipped: right after the jump'),
  ('Europe/Berlin', '2026-03-29 03:00+02', '30 2 * * *', '30 02:30+02, 31 02:30+02, 01 02:30+02', 'and once'),
  ('Europe/Berlin', '2026-03-28 12:00+01', '0,30 2,3 * * *', '29 03:00+02, 29 03:30+02, 30 02:00+02',
    'several that are skipped, and one right after: once'),
  ('Europe/Berlin', '2026-03-29 00:00+01', '59 1 * * *', '29 01:59+01, 30 01:59+02, 31 01:59+02',
    'the minute before the jump'),
  ('Europe/Berlin', '2026-03-29 00:00+01', '0 3 * * *', '29 03:00+02, 30 03:00+02, 31 03:00+02', 'the minute after it'),
  ('Europe/Berlin', '2026-03-29 01:40+01', '*/15 * * * *', '29 01:45+01, 29 03:00+02, 29 03:15+02',
    'by the wall: no gap'),
  ('Europe/Berlin', '2026-03-28 12:00+01', '*/30 2 * * *', '30 02:00+02, 30 02:30+02, 31 02:00+02',
    'by the wall: skipped'),
  ('Europe/Berlin', '2026-03-29 00:00+01', '30 */2 * * *', '29 00:30+01, 29 04:30+02, 29 06:30+02',
    'by the wall: the hour'),
  ('Europe/Berlin', '2026-10-25 00:00+02', '30 2 * * *', '25 02:30+02, 26 02:30+01, 27 02:30+01',
    'twice: the first one'),
  ('Europe/Berlin', '2026-10-25 02:10+01', '30 2 * * *', '26 02:30+01, 27 02:30+01, 28 02:30+01',
    'not in the second pass'),
  ('Europe/Berlin', '2026-10-25 02:10+01', '30 2,3 * * *', '25 03:30+01, 26 02:30+01, 26 03:30+01', 'but after it'),
  ('Europe/Berlin', '2026-10-25 00:00+02', '0 3 * * *', '25 03:00+01, 26 03:00+01, 27 03:00+01',
    'the end of the second pass'),
  ('Europe/Berlin', '2026-10-25 02:30+02', '*/30 * * * *', '25 02:00+01, 25 02:30+01, 25 03:00+01',
    'by the wall: both'),
  ('Europe/Berlin', '2026-10-25 02:30+02', '*/30 2 * * *', '25 02:00+01, 25 02:30+01, 26 02:00+01',
    'by the wall: both, of one hour'),
  ('Europe/Berlin', '2026-10-25 02:30+02', '*/40 2 25 10 *', '25 02:40+02, 25 02:00+01, 25 02:40+01',
    'by the wall: both, of one day'),
  ('Europe/Berlin', '2026-10-25 02:59:59+02', '59 * 2 * * *', '25 02:00:59+01, 25 02:01:59+01, 25 02:02:59+01',
    'with seconds'),
  ('Europe/Berlin', '2026-03-29 00:00+01', '*/30 15 2 * * *', '29 03:00+02, 30 02:15+02, 30 02:15:30+02',
    'seconds that are skipped: once'),
  ('CET', '2026-03-28 12:00+01', '30 2 * * *', '29 03:00+02, 30 02:30+02, 31 02:30+02',
    'a name that is an abbreviation'),
  ('America/New_York', '2026-03-08 00:00-05', '30 2 * * *', '08 03:00-04, 09 02:30-04, 10 02:30-04', 'skipped'),
  ('America/New_York', '2026-03-08 01:30-05', '0 * * * *', '08 03:00-04, 08 04:00-04, 08 05:00-04', 'by the wall'),
  ('America/New_York', '2026-11-01 00:00-04', '30 1 * * *', '01 01:30-04, 02 01:30-05, 03 01:30-05', 'twice'),
  ('America/New_York', '2026-11-01 00:40-04', '30 * * * *', '01 01:30-04, 01 01:30-05, 01 02:30-05', 'by the wall'),
  ('America/Havana', '2026-03-07 12:00-05', '0 0 * * *', '08 01:00-04, 09 00:00-04, 10 00:00-04',
    'midnight is skipped'),
  ('America/Havana', '2026-03-07 12:00-05', '30 0 8 3 *', '08 01:00-04, 08 00:30-05, 08 00:30-05', 'also on its date'),
  ('America/Havana', '2026-03-07 22:00-05', '*/30 0 * * *', '09 00:00-04, 09 00:30-04, 10 00:00-04', 'by the wall'),
  ('America/Havana', '2026-10-31 12:00-04', '30 0 * * *', '01 00:30-04, 02 00:30-05, 03 00:30-05',
    'midnight comes twice'),
  ('America/Havana', '2026-11-01 00:20-04', '*/30 0 * * *', '01 00:30-04, 01 00:00-05, 01 00:30-05', 'by the wall'),
  ('Australia/Lord_Howe', '2026-10-03 12:00+10:30', '15 2 * * *', '04 02:30+11, 05 02:15+11, 06 02:15+11',
    'half an hour is skipped'),
  ('Australia/Lord_Howe', '2026-10-04 01:50+10:30', '*/15 * * * *', '04 02:30+11, 04 02:45+11, 04 03:00+11',
    'by the wall'),
  ('Australia/Lord_Howe', '2026-04-04 12:00+11', '45 1 * * *', '05 01:45+11, 06 01:45+10:30, 07 01:45+10:30',
    'half an hour comes twice'),
  ('Australia/Lord_Howe', '2026-04-05 01:40+11', '15,45 * * * *', '05 01:45+11, 05 01:45+10:30, 05 02:15+10:30',
    'by the wall'),
  ('Antarctica/Troll', '2026-03-29 00:00+00', '30 1,2 * * *', '29 03:00+02, 30 01:30+02, 30 02:30+02',
    'two hours are skipped'),
  ('Antarctica/Troll', '2026-10-25 00:00+02', '30 1,2 * * *', '25 01:30+02, 25 02:30+02, 26 01:30+00',
    'two hours come twice'),
  ('Antarctica/Troll', '2026-10-25 02:00+02', '30 * * * *', '25 02:30+02, 25 01:30+00, 25 02:30+00', 'by the wall'),
  ('Pacific/Chatham', '2026-09-26 12:00+12:45', '0 3 * * *', '27 03:45+13:45, 28 03:00+13:45, 29 03:00+13:45',
    'skipped from 02:45'),
  ('Pacific/Chatham', '2026-04-05 00:00+13:45', '0 3 * * *', '05 03:00+13:45, 06 03:00+12:45, 07 03:00+12:45',
    'twice from 02:45'),
  ('Pacific/Chatham', '2026-04-05 03:10+13:45', '*/30 * * * *', '05 03:30+13:45, 05 03:00+12:45, 05 03:30+12:45',
    'by the wall'),
  ('Pacific/Apia', '2011-12-29 08:00-10', '0 9 * * *', '29 09:00-10, 31 00:00+14, 31 09:00+14',
    'a day is skipped: once, at its end'),
  ('Pacific/Apia', '2011-12-29 08:00-10', '0 9,15 30 12 *', '31 00:00+14, 30 09:00+14, 30 15:00+14',
    'also a date that does not come'),
  ('Pacific/Apia', '2011-12-29 22:30-10', '0 * * * *', '29 23:00-10, 31 00:00+14, 31 01:00+14', 'by the wall'),
  ('Africa/Casablanca', '2025-02-23 00:00+01', '30 2 * * *', '23 02:30+01, 24 02:30+00, 25 02:30+00',
    'winter time in spring'),
  ('Africa/Casablanca', '2025-04-06 00:00+00', '30 2 * * *', '06 03:00+01, 07 02:30+01, 08 02:30+01', 'and back'),
  ('UTC', '2026-03-29 00:00+00', '30 2 * * *', '29 02:30+00, 30 02:30+00, 31 02:30+00', 'nothing happens');
select is(pg_temp.fires(c.cron, c.zone, c.after::timestamptz, 3), c.fires,
  format('%s in %s after %s: %s', c.cron, c.zone, c.after, c.why)) from changes c order by c.n;
select is((select array_agg(c.n) from changes c
    where pg_temp.fires_as('Pacific/Chatham', c.cron, c.zone, c.after::timestamptz, 3) <> c.fires), null,
      'whatever the zone of the session');

-- Never at or before the time after which it looks, to the microsecond
select is(awa._next_cron(awa._parse_cron('0 9 * * *'), ':UTC', '2026-01-01 09:00'), '2026-01-02 09:00'::timestamptz,
  'not at the time itself');
select is(awa._next_cron(awa._parse_cron('0 9 * * *'), ':UTC', '2026-01-01 08:59:59.999999'),
  '2026-01-01 09:00'::timestamptz, 'a microsecond later');
select is(awa._next_cron(awa._parse_cron('0 9 * * *'), ':UTC', '2026-01-01 09:00:00.000001'),
  '2026-01-02 09:00'::timestamptz, 'or earlier');
select is((select count(*)
  from generate_series('2026-10-24 20:00+00'::timestamptz, '2026-10-25 04:00+00', '3 minutes') a(after),
  unnest('{30 2 * * *,*/20 2 * * *,"0,20 1-3 * * *",@hourly,@daily}'::text[]) c(cron)
    where awa._next_cron(awa._parse_cron(c.cron), ':Europe/Berlin', a.after) <= a.after), 0::bigint, 'it goes forward');

-- Work is bounded
select is(awa._next_cron(awa._parse_cron('0 9 29 2 *'), ':UTC', '2096-03-01'), '2104-02-29 09:00'::timestamptz,
  '29 February over 2100');
select is(awa._next_cron(awa._parse_cron('0 9 */28 2 0#5'), ':UTC', '2088-03-01'), '2128-02-29 09:00'::timestamptz,
  'the fifth Sunday of February over 2100');
select is(awa._next_cron(awa._parse_cron('0 9 * * *'), ':UTC', 'infinity'), null, 'after infinity: never');
select is(awa._next_cron(awa._parse_cron('0 9 * * *'), ':UTC', '294276-01-01'), null, 'nor after the last year');
select is(awa._next_cron(awa._parse_cron('0 9 * * *'), ':UTC', '9999-12-31 08:00'), '9999-12-31 09:00'::timestamptz,
  'the last one');
select is(awa._next_cron(awa._parse_cron('0 9 * * *'), ':UTC', '9999-12-31 09:00'), null,
  'after which a job could not be enqueued');
select is(awa._next_cron(awa._parse_cron('0 9 * * *'), ':UTC', '-infinity'), '0001-01-03 09:00'::timestamptz,
  'the first one');
select is(awa._next_cron(awa._parse_cron('0 9 * * *'), ':UTC', null), null, 'after null: null');
select is(awa._next_cron(awa._parse_cron('*/10 2 * 3 0L'), ':Europe/Berlin', '2026-01-01'), null,
  'by the wall, times that are skipped each year never come');
select is(awa._next_cron(awa._parse_cron('10 2 * 3 0L'), ':Europe/Berlin', '2026-01-01'),
  '2026-03-29 03:00+02'::timestamptz, 'but others do');

-- The last time before another one
select is(awa._last_cron(awa._parse_cron('* * * * * *'), ':UTC', '2025-01-01', '2026-01-01 00:00:00.5'),
  '2026-01-01 00:00'::timestamptz, 'each second, for a year');
select is(awa._last_cron(awa._parse_cron('30 2 * * *'), ':Europe/Berlin', '2026-01-01', '2026-10-25 12:00+01'),
  '2026-10-25 02:30+02'::timestamptz, 'the first of two times');
select is(awa._last_cron(awa._parse_cron('30 2 * * *'), ':Europe/Berlin', '2026-01-01', '2026-03-29 12:00+02'),
  '2026-03-29 03:00+02'::timestamptz, 'after a jump');
select is(awa._last_cron(awa._parse_cron('0 9 29 2 *'), ':UTC', '1990-01-01', '2027-01-01'),
  '2024-02-29 09:00'::timestamptz, 'a rare one');
select is(awa._last_cron(awa._parse_cron('0 9 * * *'), ':UTC', '2026-01-01 09:00', '2026-01-02 09:00'),
  '2026-01-02 09:00'::timestamptz, 'at the end');
select is(awa._last_cron(awa._parse_cron('0 9 * * *'), ':UTC', '2026-01-01 09:00', '2026-01-02 08:59'), null, 'none');
select is(awa._last_cron(awa._parse_cron('0 9 * * *'), ':UTC', '2026-01-02', '2026-01-01'), null,
  'none where the end is before the beginning');
select is(awa._last_cron(awa._parse_cron('0 9 * * *'), ':UTC', '-infinity', '2026-01-01'),
  '2025-12-31 09:00'::timestamptz, 'since ever');
select is((select count(*)
  from generate_series('2026-10-24 20:00+00'::timestamptz, '2026-10-25 04:00+00', '7 minutes') u(until),
  unnest('{30 2 * * *,*/20 2 * * *,"0,20 1-3 * * *",@hourly}'::text[]) c(cron)
    where awa._last_cron(awa._parse_cron(c.cron), ':Europe/Berlin', '2026-10-24', u.until)
      is distinct
        from (select max(t.at) from pg_temp.all_fires(c.cron, ':Europe/Berlin', '2026-10-24', u.until) t(at))),
        0::bigint, 'the last one of all');

-- every
select is(pg_temp.every('2026-01-31 09:00+01', '1 month', 'Europe/Berlin', '2026-01-31 09:00+01', 4),
  '28 09:00+01, 31 09:00+02, 30 09:00+02, 31 09:00+02', 'months from the 31st');
select is(pg_temp.every('2024-02-29 09:00+01', '1 year', 'Europe/Berlin', '2024-02-29 09:00+01', 4),
  '28 09:00+01, 28 09:00+01, 28 09:00+01, 29 09:00+01', 'years from 29 February');
select is(pg_temp.every('2026-03-28 02:30+01', '1 day', 'Europe/Berlin', '2026-03-28 02:30+01', 3),
  '29 03:00+02, 30 02:30+02, 31 02:30+02',
  'days, by the calendar: a time that is skipped comes after the jump, without drift');
select is(pg_temp.every('2026-10-24 02:30+02', '1 day', 'Europe/Berlin', '2026-10-24 02:30+02', 2),
  '25 02:30+02, 26 02:30+01', 'and of two times the first one');
select is(pg_temp.every('2026-03-28 12:00+01', '24 hours', 'Europe/Berlin', '2026-03-28 12:00+01', 2),
  '29 13:00+02, 30 13:00+02', 'hours are hours');
select is(pg_temp.every('2026-03-28 12:00+01', '90 minutes', 'Europe/Berlin', '2026-03-29 00:30+01', 3),
  '29 01:30+01, 29 04:00+02, 29 05:30+02', 'also over a jump');
select is(pg_temp.every('2026-03-28 12:00+01', '1 day 1 hour', 'Europe/Berlin', '2026-03-28 12:00+01', 2),
  '29 13:00+02, 30 14:00+02', 'days, then hours');
select is(pg_temp.every('2026-03-28 12:00+01', '1 day', 'UTC', '2026-03-28 12:00+01', 2), '29 11:00+00, 30 11:00+00',
  'the zone is that of the schedule');
select is(pg_temp.every('2011-12-28 09:00-10', '1 day', 'Pacific/Apia', '2011-12-28 09:00-10', 3),
  '29 09:00-10, 31 00:00+14, 31 09:00+14', 'a day that is skipped');
select is(awa._next_every('2026-06-01', '1 day', ':UTC', '2026-01-01'), '2026-06-01'::timestamptz,
  'before the anchor: the anchor');
select is(awa._next_every('2026-06-01', '1 day', ':UTC', '2026-06-01'), '2026-06-02'::timestamptz,
  'at the anchor: one later');
select is(awa._next_every('2026-06-01', '1 day', ':UTC', '2026-06-01 23:59:59.999999'), '2026-06-02'::timestamptz,
  'a microsecond before');
select is(awa._next_every('1970-01-01', '1.5 seconds', ':UTC', '2026-06-01 00:00:00.2'),
  '2026-06-01 00:00:01.5'::timestamptz, 'fractions, after half a century');
select is(awa._next_every('2000-01-01', '10 years', ':UTC', '2026-06-01'), '2030-01-01'::timestamptz, 'ten years');
select is(awa._next_every('2000-01-01', '1 day', ':UTC', 'infinity'), null, 'after infinity: never');
select is(awa._next_every('infinity', '1 day', ':UTC', '2026-01-01'), null, 'from infinity: never');
select is(awa._next_every('2000-01-01', '1 day', ':UTC', '9999-12-31'), null,
  'not when a job could not be enqueued any more');
select is((select count(*)
  from unnest('{1 second,7 minutes,1 hour,25:00,1 day,3 days,1 week,1 month,1 month 3 days 02:00,5 months,1 '
      'year}'::interval[]) e(every),
      generate_series(1, 10) n
        cross join lateral (select timestamptz '2024-01-31 02:30+01' + n * interval '23 days 7:11:13') a(after)
     cross join lateral (select awa._next_every('2024-01-31 02:30+01', e.every, ':Europe/Berlin', a.after)) t(next)
    where t.next <= a.after
       or t.next is distinct from (
         select min(x.at) from generate_series(0, case when e.every < '1 day' then -1 else 240 end) k
          cross join lateral (select awa._nth_time('2024-01-31 02:30+01', e.every, ':Europe/Berlin', k)) x(at)
            where x.at > a.after)
      and e.every >= '1 day'), 0::bigint, 'it is the first of all that are later');
select pg_temp.refused(format('select awa._next_every(now(), %L, '':UTC'', now())', e), '22023', 'every',
  coalesce('every ' || e, 'null') || ' is refused')
  from unnest('{0,-1 day,1 month -1 day,-1 month 40 days,1 day -1 hour,0.999999 seconds,11 years,NULL}'::text[])
      with ordinality u(e, n) order by n;

select * from finish();
rollback;

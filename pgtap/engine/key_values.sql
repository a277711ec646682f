-- Without this, two jobs that differ could share a key, or two that are equal could have two.
\set name key_values
\ir ../prelude.psql

begin;
select plan(354);

-- Which hash
create function pg_temp.hash(
  queue text,
  kind text,
  args jsonb,
  unique_key text,
  unique_by text[],
  unique_period interval default null,
  unique_zone text default null,
  at timestamptz default now()
) returns bytea
language sql
return substr(awa._unique_key(queue, kind, args, unique_key, unique_by, unique_period, unique_zone, null, at), 1, 32);
select is(pg_temp.hash('q', 'k', '{"a": 1}', null, null), sha256('{"args": {"a": 1}, "kind": "k"}'),
  'a hash is that of its parts as JSON, by default of kind and args');
select is(pg_temp.hash('q', 'k', '{"a": 1}', null, '{args}'), sha256('{"args": {"a": 1}}'),
  'or of those that are named');
select is(pg_temp.hash('q', 'k', null, null, '{args}'), sha256('{"args": {}}'), 'no args are empty ones');
select is(pg_temp.hash('q', 'k', '1', 'text', '{nonsense}'), sha256('{"key": "text"}'), 'or of a text');
select isnt(pg_temp.hash('q', 'k', '1', '{"args": 1}', null), pg_temp.hash('q', 'k', '1', null, '{args}'),
  'which is not taken for parts');
select is(pg_temp.hash('q', 'k', '1', 'größe', null), sha256(convert_to('{"key": "größe"}', 'UTF8')), 'in UTF-8');
select isnt(pg_temp.hash('q', 'k', '1', 't', null, '10 years'), pg_temp.hash('q', 'k', '1', 't', null),
  'a period is a part of it');

-- Keys of a queue
select isnt(pg_temp.hash('q', 'k', '1', null, '{args,queue}'), pg_temp.hash('r', 'k', '1', null, '{args,queue}'),
  'a queue is, where it is named');
select is(awa._names_queue(awa._unique_key('q', 'k', '1', 't', b, null, null, null, now())), false, 'but not of a text')
  from (values ('{queue}'::text[]), (null)) b(b);
select is(awa._moved_key(awa._unique_key('q', 'k', '1', null, b, '1 day', null, null, now()), awa._queue_id('q'),
  awa._queue_id('r')),
    awa._unique_key('r', 'k', '1', null, b, '1 day', null, null, now()),
    'a job that is moved has the key of its new queue: ' || b::text)
  from (values ('{queue}'::text[]), ('{queue,kind,args}'), ('{args,queue}'), ('{kind,args}')) b(b);

-- Equal values have one key
select is(pg_temp.hash('q', 'k', a.a::jsonb, null, null) = pg_temp.hash('q', 'k', b.a::jsonb, null, null),
  a.a::jsonb = b.a::jsonb, format('%s and %s', a.a, b.a))
  from (values (1, '{"a":1}'), (2, '{"a":1.0}'), (3, '{"a":100e-2}'), (4, '{"a":10}'), (5, '{"a":1.05}'),
    (6, '{"a":1.050}'), (7, '{"a":"1.0"}'), (8, '{"a":"1"}'), (9, '{"a":-0.0}'), (10, '{"a":0}'),
    (11, '{"1.0":1.0}'), (12, '{"1":1.0}'), (13, '["\"1.0", 1.0]'), (14, '["\"1", 1]'), (15, '["\"1.0", 1]'),
    (16, '["\\", "1.0", 1.0]'), (17, '["\\", "1.0", 1]'), (18, '["\\", "1", 1]'),
    (19, '[1.0, [2.50, {"x": 3.00}], 1e3, 1e-3]'), (20, '[1, [2.5, {"x": 3}], 1000.0, 0.0010]'), (21, '1.0'), (22, '1'),
    (23, '"\u0001 1.0"'), (24, '1e100'), (25, '1.00e100'), (26, '100000000000000000000.0')) a(n, a)
  join (values (1, '{"a":1}'), (6, '{"a":1.050}'), (8, '{"a":"1"}'), (10, '{"a":0}'), (12, '{"1":1.0}'),
    (14, '["\"1", 1]'), (15, '["\"1.0", 1]'), (17, '["\\", "1.0", 1]'), (20, '[1, [2.5, {"x": 3}], 1000.0, 0.0010]'),
    (22, '1'), (24, '1e100')) b(n, a)
    on true
 order by a.n, b.n;

-- Periods: the first and the last moment of the one in which a time lies, as told by their names
select is(
    (
      select row(a.name = b.name, a.ends,
        (awa._unique_period(c.length::interval, c.zone, c.starts - interval '1 microsecond')).name <> a.name,
        (awa._unique_period(c.length::interval, c.zone, c.ends)).name <> a.name)::text
       from awa._unique_period(c.length::interval, c.zone, c.starts) a,
         awa._unique_period(c.length::interval, c.zone, c.ends - interval '1 microsecond') b),
    row(true, c.ends, true, true)::text, format('%s in %s from %s', c.length, c.zone, c.starts))
  from (values
    (1, '1 day', null, timestamptz '2026-11-28 00:00+00', timestamptz '2026-11-29 00:00+00'),
    (2, '24 hours', null, '2026-11-28 00:00+00', '2026-11-29 00:00+00'),
    (3, '1 day', 'Europe/Berlin', '2026-03-28 23:00+00', '2026-03-29 22:00+00'), -- 23 hours
    (4, '1 day', 'Europe/Berlin', '2026-10-24 22:00+00', '2026-10-25 23:00+00'), -- 25
    (5, '1 week', null, '2026-11-23 00:00+00', '2026-11-30 00:00+00'),
    (6, '7 days', 'Asia/Tokyo', '2026-11-22 15:00+00', '2026-11-29 15:00+00'),
    (7, '1 month', null, '2028-02-01 00:00+00', '2028-03-01 00:00+00'),
    (8, '1 month', 'America/New_York', '2026-03-01 05:00+00', '2026-04-01 04:00+00'),
    (9, '3 months', null, '2026-10-01 00:00+00', '2027-01-01 00:00+00'),
    (10, '1 year', null, '2026-01-01 00:00+00', '2027-01-01 00:00+00'),
    (11, '12 months', null, '2026-01-01 00:00+00', '2027-01-01 00:00+00'),
    (12, '10 years', null, '2020-01-01 00:00+00', '2030-01-01 00:00+00'),
    (13, '1 day', null, '1969-12-31 00:00+00', '1970-01-01 00:00+00'),
    (14, '1 week', null, '1969-12-29 00:00+00', '1970-01-05 00:00+00'),
    (15, '1 month', null, '1969-12-01 00:00+00', '1970-01-01 00:00+00'),
    (16, '5 months', null, '1970-01-01 00:00+00', '1970-06-01 00:00+00'),
    (17, '1 hour', 'Asia/Kolkata', '2026-11-28 10:00+00', '2026-11-28 11:00+00'),
    (18, '2 days', 'Asia/Kolkata', '1970-01-03 00:00+00', '1970-01-05 00:00+00'),
    (19, '168 hours', null, '1970-01-08 00:00+00', '1970-01-15 00:00+00'),
    (20, '30 days', null, '1970-01-31 00:00+00', '1970-03-02 00:00+00'),
    (21, '1 millisecond', null, '2026-11-28 10:00:00.001+00', '2026-11-28 10:00:00.002+00')
  ) c(n, length, zone, starts, ends)
 order by c.n;
select is((
  select count(distinct (awa._unique_period(l::interval, null, '1970-01-10')).name)
    from unnest(
      array['1 month', '30 days', '720 hours', '1 week', '168 hours', '1 day', '2 days', '48 hours', '1 year',
        '365 days']
    ) l
),
  10::bigint,
  'lengths are told apart by their fields');
select is((
  select count(distinct (awa._unique_period(l::interval, null, '1970-01-10')).name)
    from unnest(array['1 day', '24 hours', '86400 seconds']) l
),
  1::bigint, '24 hours are a day');
select is((select n.name from awa._unique_period('1 day', null, '-infinity') n),
  (select n.name from awa._unique_period('1 day', null, clock_timestamp()) n), 'a run_at before all time means now');

-- Refusals
select pg_temp.refused(format($$select awa._unique_key('q', 'k', '{}', null, null, '1 day', %L, null, now())$$, z),
  '22023', 'unique_zone', 'no zone, or one of POSIX: ' || z)
  from unnest(
    '{Europe/Berln,UTC+5,UTC-5,+02,-05:30,GMT+2,<+05>-5,Europe/Berlin2,EST5,"CET-1CEST,M3.5.0,M10.5.0/3",""}'::text[]
  ) z;
select isnt((select p.name from awa._unique_period('1 day', z, now()) p), null,
  'a zone of the database of time zones: ' || z)
  from unnest('{Europe/Berlin,america/new_york,Etc/GMT+5,Etc/GMT-14,GMT0,EST5EDT,UTC,CET}'::text[]) z;
select is((select p.ends from awa._unique_period('1 day', 'Etc/GMT-5', '2026-11-28 20:00+00') p),
  '2026-11-29 19:00+00'::timestamptz, 'Etc/GMT-5 is east');
select is((select p.ends from awa._unique_period('1 day', 'CET', '2026-07-01 20:00+00') p),
  '2026-07-01 22:00+00'::timestamptz, 'a name that is also an abbreviation keeps its summer time');
select pg_temp.refused(format('select awa._unique_key(%s, null, null, now())', c.args), '22023', c.names, c.description)
  from (values
    (1, $$'q', 'k', '{}', '', null, null$$, 'unique_key', 'an empty key'),
    (2, $$'q', 'k', '{}', repeat('ü', 10001), null, null$$, 'unique_key', 'a key of 10,001 characters'),
    (3, $$'q', 'k', '{}', null, '{}', null$$, 'unique_by', 'no parts'),
    (4, $$'q', 'k', '{}', null, '{Kind}', null$$, 'unique_by', 'a part in capitals'),
    (5, $$'q', 'k', '{}', null, array[null]::text[], null$$, 'unique_by', 'a part that is null'),
    (6, $$'q', 'k', '{}', null, '{kind,kind,kind,kind}', null$$, 'unique_by', 'four parts'),
    (7, $$'q', 'k', '{}', null, null, '0'$$, 'unique_period', 'a period of no time'),
    (8, $$'q', 'k', '{}', null, null, '10 years 1 day'$$, 'unique_period', 'a period of more than ten years'),
    (9, $$'q', 'k', '{}', null, null, '1 month -1 day'$$, 'unique_period', 'a period of parts that differ')
  ) c(n, args, names, description)
 order by c.n;

select * from finish();
rollback;

-- Without this, no user could look at when an expression comes before trusting it.
\set name next_fires
\ir ../prelude.psql

begin;
select plan(22);

create function pg_temp.next(variadic calls text[]) returns text
language plpgsql
as $$
declare
  v_fires text;
begin
  execute format(
    'select string_agg(to_char(f at time zone ''UTC'', ''MM-DD HH24:MI''), '', '') from awa.next_fires(%s) f',
    array_to_string(calls, ', ')) into v_fires;
  return v_fires;
end
$$;

select is(pg_temp.next('''30 9 * * MON-FRI''', 'after => ''2026-01-01 12:00+00'''),
  '01-02 09:30, 01-05 09:30, 01-06 09:30, 01-07 09:30, 01-08 09:30', 'five, in UTC');
select is(pg_temp.next('''30 9 * * MON-FRI''', 'timezone => ''Europe/Berlin''', 'after => ''2026-03-26 12:00+00''',
  'n => 3'), '03-27 08:30, 03-30 07:30, 03-31 07:30', 'some, in a zone');
select is(pg_temp.next('''30 2 * * *''', '''Europe/Berlin''', '''2026-03-28 12:00+00''', '2'),
  '03-29 01:00, 03-30 00:30', 'over a change of the clocks');
select is(pg_temp.next('''0 0 1 1 *''', 'null', 'null', 'null'),
  (select string_agg(format('01-01 00:00'), ', ') from generate_series(1, 5)), 'null is the default');
select ok((select min(f) > now() and min(f) <= now() + interval '1 minute' and max(f) - min(f) = interval '4 minutes'
  from awa.next_fires('* * * * *') f), 'from now on');
select is((select count(*) from awa.next_fires('* * * * * *', n => 1000)), 1000::bigint, 'up to a thousand');
select is((select array_agg(f order by f) from awa.next_fires('0 */6 * * *', after => '2026-01-01') f),
  (select array_agg(f) from awa.next_fires('0 */6 * * *', after => '2026-01-01') f), 'in their order');
select is((select count(*) from awa.next_fires('@daily', after => a)), n, format('after %s', a))
  from (values (1, 'infinity'::timestamptz, 0::bigint), (2, '-infinity', 5), (3, '9999-12-30 12:00+00', 1),
  (4, '200000-01-01', 0)) v(place, a, n) order by place;
select is((select count(*) from awa.next_fires('*/10 2 * 3 0L', 'Europe/Berlin', '2026-01-01')), 0::bigint,
  'none where it never comes in this zone');

-- Refused
select pg_temp.refused('select * from awa.next_fires(''* * * *'')', '22023', 'cron', 'an expression that is none');
select pg_temp.refused('select * from awa.next_fires(null)', '22023', 'cron', 'no expression');
select pg_temp.refused('select * from awa.next_fires(''@daily'', ''Berln2'')', '22023', 'timezone',
  'a zone that is none');
select pg_temp.refused(format('select * from awa.next_fires(''@daily'', n => %s)', n), '22023', 'n must be',
  n || ' of them') from unnest('{0,-1,1001,1000000000}'::int[]) with ordinality u(n, place) order by place;

-- What the caller's session says does not matter
set local timezone = 'Pacific/Chatham';
set local datestyle = 'SQL, DMY';
set local intervalstyle = 'sql_standard';
select is(pg_temp.next('''30 2 * * *''', '''Europe/Berlin''', '''2026-10-24T12:00Z''', '2'), '10-25 00:30, 10-26 01:30',
  'in any zone and style of the session');
set local timezone_abbreviations = 'India';
select is(pg_temp.next('''0 9 * * *''', '''CET''', '''2026-07-01T12:00Z''', '1'), '07-02 07:00',
  'whatever its abbreviations');
set local transaction_read_only = on;
select is(pg_temp.next('''0 9 * * *''', '''UTC''', '''2026-07-01T12:00Z''', '1'), '07-02 09:00',
  'also where nothing may be written');

select * from finish();
rollback;

-- Without this, a rate would let more jobs begin than it says, or a group would never open.
\set name rates
\ir ../prelude.psql

begin;
select plan(22);

select is(awa._rate_allows(null, now(), now()), null, 'without a rate any number of jobs may begin');
select is(awa._rate_allows('{"jobs": 60, "per": "1 minute", "burst": 5}', null, now()), 5, 'at first, burst jobs');
select is((
    select array_agg(awa._rate_allows('{"jobs": 60, "per": "1 minute", "burst": 5}', now() + s * interval '1 second',
             now()) order by s)
      from generate_series(-1, 6) s
  ),
  '{5,5,4,3,2,1,0,0}', 'then one less for each that has begun');
select is(awa._rate_allows('{"jobs": 60, "per": "1 minute", "burst": 5}', now() + interval '4.5 seconds', now()), 0,
  'half a step is none');
select is(awa._rate_after('{"jobs": 60, "per": "1 minute", "burst": 5}', null, '2030-01-01', 3),
  '2030-01-01'::timestamptz + interval '3 seconds', 'each job takes a step');
select is(awa._rate_after('{"jobs": 60, "per": "1 minute", "burst": 5}', '2020-01-01', '2030-01-01', 1),
  '2030-01-01'::timestamptz + interval '1 second', 'what was not used in the past is not kept');
select is(awa._rate_after('{"jobs": 60, "per": "1 minute", "burst": 5}', '2030-01-01 00:00:02', '2030-01-01', 1),
  '2030-01-01'::timestamptz + interval '3 seconds', 'what was used, is');
select is(awa._rate_after('{"jobs": 60, "per": "1 minute", "burst": 5}', '2040-01-01', '2030-01-01', 1),
  '2030-01-01'::timestamptz + interval '6 seconds',
  'a time that a clock which was ahead has written ends with the burst');
select is(awa._rate_after('{"jobs": 60, "per": "1 minute", "burst": 5}', '2040-01-01', '2030-01-01', 0),
  '2030-01-01'::timestamptz + interval '5 seconds', 'also where no job has begun');
select is((
    select array_agg(awa._rate_after('{"jobs": 60, "per": "1 minute", "burst": 5}', n.at, '2030-01-01', 0)
             order by n.at)
      from (values ('2029-01-01'::timestamptz), ('2030-01-01 00:00:05'), (null)) n(at)
  ),
  '{2029-01-01,2030-01-01 00:00:05,null}'::timestamptz[], 'otherwise no job changes nothing');
select is(awa._rate_after(null, '2040-01-01', '2030-01-01', 7), '2040-01-01'::timestamptz, 'nor does no rate');

-- In any stretch as long as per, at most jobs + burst begin, whenever claims come
create temp table begun (at timestamptz);
do $$
declare
  v_rate constant jsonb := '{"jobs": 20, "per": "10 seconds", "burst": 4}';
  v_next timestamptz;
  v_at timestamptz := '2030-01-01';
  v_jobs int;
begin
  perform setseed(0.5);
  for n in 1..2000 loop
    v_at := v_at + random() * random() * interval '2 seconds';
    v_jobs := least(awa._rate_allows(v_rate, v_next, v_at), floor(random() * 6));
    v_next := awa._rate_after(v_rate, v_next, v_at, v_jobs);
    insert into begun select v_at from generate_series(1, v_jobs);
  end loop;
end
$$;
select cmp_ok((select max(n) from (
    select count(*) over (order by at range between current row and interval '9.999999 seconds' following) as n
      from begun) w),
  '<=', 24::bigint, 'in any stretch as long as per at most jobs + burst begin');
select cmp_ok((select count(*) from begun), '>', 1000::bigint, 'and many do');

-- With its default burst a rate is reached by claims that each come late: a poll behind a pooler at 100 a minute, a
-- busy server at 1,000 a second. With a burst of 1 it is not.
create function pg_temp.reached(rate jsonb, late interval) returns float8
language plpgsql
as $$
declare
  v_rate jsonb;
  v_next timestamptz;
  v_at timestamptz := '2030-01-01';
  v_jobs int;
  v_begun bigint := 0;
begin
  perform awa.configure_queue(pg_temp.q(), jsonb_build_object('rate', rate));
  select s.rate into v_rate from awa.queue_settings s where s.queue_id = awa._queue_id(pg_temp.q());
  perform setseed(0.5);
  for n in 1..2000 loop
    v_at := greatest(v_at, awa._rate_opens_at(v_rate, v_next)) + random() * late;
    v_jobs := least(awa._rate_allows(v_rate, v_next, v_at), 500);
    v_next := awa._rate_after(v_rate, v_next, v_at, v_jobs);
    v_begun := v_begun + v_jobs;
  end loop;
  return v_begun * awa._rate_step(v_rate) / extract(epoch from v_at - '2030-01-01'::timestamptz);
end
$$;
select cmp_ok(pg_temp.reached(rate, late), '>=', 0.98::float8, format('%s is reached', rate))
  from (values ('{"jobs": 100, "per": "1 minute"}'::jsonb, interval '1 second'),
    ('{"jobs": 1000, "per": "1 second"}', '40 milliseconds')) r(rate, late);
select cmp_ok(pg_temp.reached(rate, late), '<', 0.9::float8, format('%s is not', rate))
  from (values ('{"jobs": 100, "per": "1 minute", "burst": 1}'::jsonb, interval '1 second'),
    ('{"jobs": 1000, "per": "1 second", "burst": 1}', '40 milliseconds')) r(rate, late);

-- When a group opens
create function pg_temp.opens(
  next_at timestamptz,
  turns int,
  paused boolean default false,
  until timestamptz default null
) returns timestamptz
language sql
return awa._opens_at(paused, until, '{"jobs": 60, "per": "1 minute", "burst": 5}', next_at, turns, '2030-01-01');
select is(pg_temp.opens(null, 0), null, 'a group whose rate lets one begin opens at no time');
select is(pg_temp.opens('2030-01-01 00:00:05', 0), '2030-01-01 00:00:01'::timestamptz, 'one after the burst does');
select is((select array_agg(pg_temp.opens('2030-01-01 00:00:03', n)) from generate_series(1, 3) n),
  array[null, '2030-01-01 00:00:01', '2030-01-01 00:00:02']::timestamptz[], 'turns count as begun');
select is(array[pg_temp.opens('2030-01-01 00:00:05', 0, true), pg_temp.opens(null, 0, true, '2031-01-01')],
  array[null, '2031-01-01']::timestamptz[], 'a pause ends when it ends');
select is(awa._rate_allows('{"jobs": 3, "per": "1 second", "burst": 1}', n.at, awa._opens_at(false, null,
    '{"jobs": 3, "per": "1 second", "burst": 1}', n.at, 0, n.at - interval '0.3 seconds')), 1,
  'at that time one may begin') from (values ('2030-01-01 00:00:00.333333'::timestamptz)) n(at);

select * from finish();
rollback;

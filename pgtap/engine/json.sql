-- Without this, a time or an interval in JSON would mean another one in another session. The forms of a time are tested
-- with enqueue_batch.
\set name json
\ir ../prelude.psql

begin;
select plan(19);

select is(awa._as_interval('90 minutes', 'x'), interval '90 minutes', 'an interval');
select is(awa._as_interval('PT1H30M', 'x'), interval '90 minutes', 'as in ISO 8601');
select is(awa._as_interval(null, 'x'), null, 'none');
select pg_temp.refused('select awa._as_interval(''soon'', ''every'')', '22023', 'every', 'what is none, by its name');
select pg_temp.refused('select awa._as_interval(''1e30 days'', ''every'')', '22023', 'every', 'one that is too long');

set local timezone = 'Asia/Tokyo';
set local datestyle = 'German, DMY';
select is(awa._timestamp('2031-05-01T09:00:00+02:00'), make_timestamptz(2031, 5, 1, 7, 0, 0, 'UTC'),
  'a time is that of its own zone');
select pg_temp.refused('select awa._timestamp(''2031-05-01T09:00:00'', ''starts_at'')', '22023', 'starts_at',
  'one without a zone is refused, by its name');
select pg_temp.refused('select awa._timestamp(''tomorrow'')', '22023', 'run_at', 'as one in words');

-- A time at a glance is the same time, and one that _timestamp refuses is none.
select is(
  (
    select array_agg(t order by t)
      from unnest('{2031-05-01T09:00:00Z,2031-05-01 23:59:59.999999-14:59,2999-12-31T00:00:00+00:00,'
             '1000-02-28T00:00:00.5+05:30}'::text[]) t
     where awa._is_plain_time(t) and t::timestamptz = awa._timestamp(t) and awa._time_of(t) = awa._timestamp(t)
  ),
  '{1000-02-28T00:00:00.5+05:30,2031-05-01 23:59:59.999999-14:59,2031-05-01T09:00:00Z,2999-12-31T00:00:00+00:00}',
  'a time at a glance is that of its own zone');
select is(
  (
    select array_agg(t)
      from unnest('{2031-02-29T00:00:00Z,2031-04-31T00:00:00Z,2031-13-01T00:00:00Z,2031-00-01T00:00:00Z,'
             '2031-01-32T00:00:00Z,2031-01-00T00:00:00Z,2031-01-01T24:00:00Z,2031-01-01T00:60:00Z,2031-01-01T00:00:60Z,'
             '2031-01-01T00:00:00,2031-01-01T00:00:00+15:00,9999-12-31T10:00:00Z,0999-01-01T00:00:00Z,'
             '2031-01-01T00:00:00.1234567Z,tomorrow,infinity,2031-01-01T00:00:00Zx,x2031-01-01T00:00:00Z}'::text[]) t
     where awa._is_plain_time(t)
  ),
  null, 'what may be none is not one');
select is(
  (
    select count(*)
      from generate_series('2027-12-01'::timestamp, '2029-03-31', '1 day') d
     cross join lateral (select to_char(d, 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as t) t
     where awa._is_plain_time(t.t) <> (to_char(d, 'MM-DD') <> '02-29')
        or awa._time_of(t.t) is distinct from d at time zone 'UTC'
  ),
  0::bigint, 'each day but one is taken at a glance');
select is(awa._time_of('2028-02-29t10:00z'), make_timestamptz(2028, 2, 29, 10, 0, 0, 'UTC'),
  'others are read all the same');
select pg_temp.refused('select awa._time_of(''2031-02-29T00:00:00Z'', ''x'')', '22023', 'x', 'or refused');

select is(awa._texts('["a", "b"]'), '{a,b}', 'strings of an array, in their order');
select is(awa._texts('[]'), '{}', 'none of them');
select is(awa._texts('null'), null, 'no array');
select is(awa._is_list(v), ok, v::text)
  from (values ('null'::jsonb, true), ('["a"]', true), ('["a", 1]', false)) c(v, ok) order by v;

select * from finish();
rollback;

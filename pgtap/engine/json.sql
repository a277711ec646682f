-- Without this, a time or an interval in JSON would mean another one in another session. The forms of a time are tested
-- with enqueue_batch.
\set name json
\ir ../prelude.psql

begin;
select plan(14);

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

select is(awa._texts('["a", "b"]'), '{a,b}', 'strings of an array, in their order');
select is(awa._texts('[]'), '{}', 'none of them');
select is(awa._texts('null'), null, 'no array');
select is(awa._is_list(v), ok, v::text)
  from (values ('null'::jsonb, true), ('["a"]', true), ('["a", 1]', false)) c(v, ok) order by v;

select * from finish();
rollback;

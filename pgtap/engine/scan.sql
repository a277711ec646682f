-- Without this, a filter that few jobs pass would read the whole history in one call.
\set name scan
\ir ../prelude.psql
begin;
select plan(15);

create temp table made as
select n, awa.enqueue(:'queue' || case when n % 2 = 0 then ' even' else '' end, 'kind ' || n % 3,
         jsonb_build_object('n', n), tags => array['t' || n % 5]) as id
  from generate_series(1, 30) n;
select min(id) as first_id, max(id) + 1 as end_id from made \gset

create function pg_temp.scan(
  queue text default null, kind text default null, state text default null, before timestamptz default null,
  tag text default null, args jsonb default null, group_key text default null,
  before_id bigint default 9223372036854775807, max_jobs int default 100
) returns text
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_scan record;
begin
  v_scan := awa._scan(queue, kind, case when state is not null then array[state] end, before, tag, args, group_key,
    null, before_id, max_jobs, false);
  return concat_ws(' ',
    (select string_agg(m.n::text, ' ' order by i.o)
       from unnest(v_scan.job_ids) with ordinality i(id, o)
       join made m using (id)),
    'then ' || (select m.n from made m where m.id = v_scan.next_before_id));
end
$$;
select is(pg_temp.scan(:'queue' || ' even'), '30 28 26 24 22 20 18 16 14 12 10 8 6 4 2',
  'of a queue, the newest first');
select is(pg_temp.scan(:'queue' || ' even', 'kind 0'), '30 24 18 12 6', 'of a kind in it');
select is(pg_temp.scan(:'queue', tag => 't0'), '25 15 5', 'with a tag');
select is(pg_temp.scan(:'queue', args => '{"n": 7}'), '7', 'with arguments');
select is(pg_temp.scan(:'queue', state => 'completed'), '', 'in a state, or none');
select is(pg_temp.scan(:'queue', before => now() - interval '1 day'), '', 'or of a time');
select is(pg_temp.scan(:'queue' || ' even', max_jobs => 3), '30 28 26 then 26', 'some, and where to go on');
select is(pg_temp.scan(:'queue' || ' even', max_jobs => 3, before_id => (select id from made where n = 26)),
  '24 22 20 then 20', 'from there');
select is(pg_temp.scan(:'queue', before_id => 1), '', 'before the first id there is none');

-- Stretches
select is((select row(s.from_id, s.entries, s.is_empty)::text from awa._stretch(:end_id, 30, 100000) s),
  format('(%s,30,f)', :first_id), 'a stretch with its entries');
select is((select row(s.from_id, s.entries, s.is_empty)::text from awa._stretch(1, 1000, 100000) s), '(1,0,t)',
  'one without ids is empty');
select is((select s.from_id from awa._stretch(:end_id, 30, 5) s), null,
  'where few entries may be read, and there are more, there is no stretch');
select is((select s.from_id from awa._stretch(500, 1000, 100000) s), 1::bigint,
  'it begins no earlier than the first id');
insert into awa.deleted_jobs (segment, lane, xid, job_id)
select e.segment, e.lane, e.xid, e.job_id from awa.ready_entries e join made m on m.id = e.job_id where m.n <= 10;
select is((select row(s.entries, s.is_empty)::text from awa._stretch(:end_id, 30, 100000) s), '(20,f)',
  'jobs that were deleted do not count');
insert into awa.deleted_jobs (segment, lane, xid, job_id)
select e.segment, e.lane, e.xid, e.job_id from awa.ready_entries e join made m on m.id = e.job_id where m.n > 10;
select is((select row(s.entries, s.is_empty)::text from awa._stretch(:end_id, 30, 100000) s), '(0,t)',
  'one whose jobs are all deleted is empty, too');

select * from finish();
rollback;

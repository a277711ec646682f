-- Without this, jobs of one customer could not be found among millions, or finding them would read all of them at once.
\set name scan_jobs
\ir ../prelude.psql
\ir states.psql

select awa.enqueue(:'queue', 'tagged', '{"a": {"b": 1, "c": 2}}', tags => '{t,u}') as tagged_id \gset
select awa.enqueue(:'queue', 'tagged', '{"a": {"b": 2}}', tags => '{u}') as other_id \gset

begin;
select plan(40);

create function pg_temp.found(filter jsonb, before_id bigint default null) returns bigint[]
language sql
as $$ select s.job_ids from awa.scan_jobs(filter, before_id) s $$;
create function pg_temp.ours(filter jsonb) returns bigint[]
language sql
as $$ select pg_temp.found(filter || jsonb_build_object('queue', pg_temp.q())) $$;
select is(pg_temp.found(jsonb_build_object('queue', pg_temp.q())),
  (select array_agg(j.id order by j.id desc) from awa.jobs j where j.queue = pg_temp.q()),
  'jobs of a queue, the newest first');
select is(pg_temp.found('{}'), (select array_agg(j.id order by j.id desc) from awa.jobs j),
  'without a filter, all of them');
select is(pg_temp.found(null), pg_temp.found('{}'), 'null is no filter');
select is((select s.next_before_id from awa.scan_jobs('{}') s), null, 'there is no more after so few');
select is((select count(*) from awa.scan_jobs('{}')), 1::bigint, 'in one row');
select is(pg_temp.ours(jsonb_build_object('state', s)),
  (
    select coalesce(array_agg(j.id order by j.id desc), '{}')
      from awa.jobs j
     where j.queue = pg_temp.q() and j.state = s
  ),
  'state ' || s)
  from unnest(
    array['available', 'scheduled', 'retryable', 'running', 'waiting_external', 'completed', 'failed', 'cancelled',
      'dead']
  ) with ordinality u(s, n)
 order by n;
select is(pg_temp.ours('{"kind": "tagged"}'), array[:other_id, :tagged_id]::bigint[], 'a kind');
select is(pg_temp.ours('{"tag": "t"}'), array[:tagged_id]::bigint[], 'a tag');
select is(pg_temp.ours('{"tag": "u"}'), array[:other_id, :tagged_id]::bigint[], 'another one');
select is(pg_temp.ours('{"args": {"a": {"b": 1}}}'), array[:tagged_id]::bigint[], 'arguments that contain an object');
select is(pg_temp.ours('{"args": {"a": {}}}'), array[:other_id, :tagged_id]::bigint[], 'or a part of it');
select is(pg_temp.ours('{"args": {"a": {"b": 1}}, "tag": "t", "kind": "tagged", "state": "available"}'),
  array[:tagged_id]::bigint[], 'all that is said has to match');
select is(pg_temp.ours('{"args": {"a": {"b": 2}}, "tag": "t"}'), '{}', 'or none does');
select is(pg_temp.ours('{"kind": null, "tag": null, "state": null, "before": null, "args": null}'), pg_temp.ours('{}'),
  'null says nothing');
select is(pg_temp.ours(jsonb_build_object('before', clock_timestamp())), pg_temp.ours('{}'), 'before now');
select is(pg_temp.ours('{"before": "2000-01-01T00:00:00Z"}'), '{}', 'before long ago');
select is((select s.job_ids[1] from awa.scan_jobs(jsonb_build_object('queue', pg_temp.q()), :other_id) s),
  :tagged_id::bigint, 'it goes on before an id');
select is(pg_temp.found('{}', n), '{}', format('there is nothing before %s', n))
  from unnest(array[1, 0, -1, -9223372036854775808]::bigint[]) with ordinality u(n, place)
 order by place;

-- At most so many entries
create temp table stretches as select * from awa._stretch(:other_id + 1, 2, 1);
select is((select row(s.from_id, s.entries)::text from awa._stretch(:other_id + 1, 2, 100000) s),
  format('(%s,2)', :tagged_id), 'a stretch of two jobs');
select is((select s.from_id from stretches s), null, 'where there is room for one entry, none');
select is((select s.from_id from awa._stretch(2, 1000, 100000) s), 1::bigint, 'there are no ids below 1');

-- Refusals
select pg_temp.refused(format('select * from awa.scan_jobs(%L)', c.filter), '22023', c.names, c.filter)
  from (values (1, '[]', 'filter'), (2, '"x"', 'filter'), (3, '{"queu": "x"}', 'filter'),
    (4, '{"queue": 1}', 'filter: queue'), (5, '{"state": "done"}', 'filter: state'),
    (6, '{"before": "soon"}', 'filter: before'), (7, '{"tag": ""}', 'filter: tag'),
    (8, '{"tag": ["t"]}', 'filter: tag')) c(n, filter, names)
 order by c.n;

select * from finish();
rollback;

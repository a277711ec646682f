-- Without this, one form of enqueue would refuse, or write, what another one does not. What each form promises is
-- tested with it.
\set name appending
\ir ../prelude.psql

begin;
select plan(10);

select awa._append(pg_temp.q(), 'k', array['1', '2']::jsonb[], null, null, null, null, null) as ids \gset
select is((select array_agg(j.args order by a.n) from unnest(:'ids'::bigint[]) with ordinality a(id, n)
  cross join awa.job(a.id) j), array['1', '2']::jsonb[], 'ids come in the order of args');
select is(awa._append(pg_temp.q(), 'k', '{}', null, null, null, null, null), '{}', 'no args, no jobs');
select (awa._append(pg_temp.q(), 'k', array['1']::jsonb[], 3, now() + interval '1 hour', 7, '{t}', '{"m": 1}',
  'g', now => now()))[1] as later_id, (awa._append(pg_temp.q(), 'k', array['1']::jsonb[], null, now(), null, null, null,
  now => now()))[1] as due_id \gset
select is(
  (select row(j.state, j.priority, j.max_attempts, j.tags, j.metadata, j.group_key,
              j.run_at = j.created_at + interval '1 hour')::text
     from awa.job(:later_id) j),
  '(scheduled,3,7,{t},"{""m"": 1}",g,t)', 'a job that waits has all that was named');
select is((select j.state from awa.job(:due_id) j), 'available', 'at its time it is available');
select pg_temp.refused(
  format('select awa._append(pg_temp.q(), %s, array[%L]::jsonb[], %s, null, %s, %s, null, %s)', kind, 1, priority,
    attempts, tags, group_key), '22023', names, names)
  from (values ($$''$$, 'null', 'null', 'null', 'null', 'kind'), ($$'k'$$, '5', 'null', 'null', 'null', 'priority'),
    ($$'k'$$, 'null', '0', 'null', 'null', 'max_attempts'), ($$'k'$$, 'null', 'null', $$'{""}'$$, 'null', 'tags'),
    ($$'k'$$, 'null', 'null', 'null', $$''$$, 'group_key'))
    c(kind, priority, attempts, tags, group_key, names);
select is(awa._check_body(array['1']::jsonb[], '{t}', '{"m": 1}'), 11, 'what goes along with args is counted');

select * from finish();
rollback;

-- Without this, a slot that was given back would be lost, or count twice.
\set name slots
\ir ../prelude.psql

begin;
select plan(3);
create temp table s as select awa._queue_id(:'queue') << 6 as shard;
insert into awa.slots (shard, xid, freed, looks, of_queue)
select shard, x::text::xid8, f, l, q
  from s, (values (100, '{1,2,2}'::bigint[], '{3}'::bigint[], 2), (104, '{1}', '{}', 1), (106, '{9}', '{}', 9))
         v(x, f, l, q);
select results_eq('
    select array(select format(''%s:%s'', g, f) from unnest(r.groups, r.freed) u(g, f) order by g), of_queue
      from s cross join lateral awa._read_slots(shard, ''101:101:'', ''106:106:'') r',
  $$ values ('{1:1}'::text[], 1) $$, 'slots are read from one snapshot up to another');
select results_eq('
    select array(select format(''%s:%s'', g, f) from unnest(r.groups, r.freed) u(g, f) order by g), of_queue
      from s cross join lateral awa._read_slots(shard, ''100:103:100,102'', ''103:103:'') r',
  $$ values ('{1:1,2:2,3:0}'::text[], 2) $$, 'also late ones');
select is((select array_agg(x.freed) from awa.slots x join s using (shard)), array['{9}'::bigint[]]::bigint[],
  'and once');

select * from finish();
rollback;

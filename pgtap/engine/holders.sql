-- Without this, a group would be reserved for a job that never comes, or for none although one does.
\set name holders
\ir ../prelude.psql

select awa.configure_queue(:'queue', '{"group_order": "halt", "dead_letter": true}') \g /dev/null
select awa.enqueue(:'queue', 'k', group_key => g) as id from unnest('{a,b,c,a}'::text[]) g \g /dev/null
create temp table c as select * from awa.claim(:'queue', 9);

begin;
select plan(15);

create function pg_temp.shard() returns bigint language sql return awa._queue_id(pg_temp.q('')) << 6;
create function pg_temp.holders() returns text
language sql
return (
  select string_agg(c.group_key || coalesce(' ' || (s.holder = c.job_id)::text, ''), ', ' order by c.group_key)
    from c
   cross join lateral (
      select s.holder
        from awa.group_states s
       where s.shard = pg_temp.shard() and s.group_id = awa._group_id(c.group_key)
       order by s.state_id desc
       limit 1
    ) s
);
create function pg_temp.change(holders text, leavers text, group_order text) returns void
language sql
as $$
  select awa._change_holders(pg_temp.shard(), array_agg(awa._group_id(c.group_key)),
           array_agg(case when c.group_key = any(holders::text[])
             then case c.group_key when 'b' then - c.job_id else c.job_id end end),
           array_agg(case when c.group_key = any(leavers::text[]) then c.job_id end), group_order)
    from c
$$;

-- What attempts write that end
select awa.fail(c.job_id, c.receipt, 'error') from c where c.group_key = 'a' \g /dev/null
select awa.discard(c.job_id, c.receipt, 'error') from c where c.group_key = 'b' \g /dev/null
select results_eq('select s.looks, s.holders from awa.slots s where s.holders <> ''{}'' and s.shard = pg_temp.shard()
    order by s.holders',
  $$ select array[awa._group_id(c.group_key)], array[k] from c
      cross join lateral (select case c.group_key when 'b' then - c.job_id else c.job_id end as k) k
      where c.group_key <> 'c' order by k $$,
  '_note_holders names the jobs that come again, and those that failed for good');
select awa.complete(c.job_id, c.receipt) from c where c.group_key = 'c' \g /dev/null
select is((select count(*) from awa.slots s where s.holders <> '{}' and s.shard = pg_temp.shard()), 2::bigint,
  'but none that completed');
select awa._note_leavers('{7,8}', array[pg_temp.shard() << 3, pg_temp.shard() << 3], '{a,null}') \g /dev/null
select results_eq('select s.looks, s.leavers from awa.slots s where s.leavers <> ''{}'' and s.shard = pg_temp.shard()',
  $$ select array[awa._group_id('a')], '{7}'::bigint[] $$, '_note_leavers names those that do not come, with a group');
select awa._note_leavers('{9}', array[awa._queue_id(pg_temp.q('no limits')) << 9], '{a}'),
       awa._note_leavers(null, null, null) \g /dev/null
select is((select count(*) from awa.slots s where s.leavers <> '{}'), 1::bigint, 'where the queue has limits');

-- What claims make of it
select is(pg_temp.holders(), 'a, b, c', 'no group is reserved before a claim');
select pg_temp.change('{a,b}', '{}', 'start') \g /dev/null
select is(pg_temp.holders(), 'a, b, c', 'nor under start');
select pg_temp.change('{a,b}', '{}', 'strict') \g /dev/null
select is(pg_temp.holders(), 'a true, b, c', 'under strict, not for one that is dead');
select pg_temp.change('{b,c}', '{c}', 'halt') \g /dev/null
select is(pg_temp.holders(), 'a true, b true, c', 'under halt it is; and not for one that has left since');
select awa._change_holders(pg_temp.shard(), array[awa._group_id('a')], '{9223372036854775807}', null,
  'strict') \g /dev/null
select is(pg_temp.holders(), 'a true, b true, c', 'it is reserved for one job');
select awa._change_holders(pg_temp.shard(), array[awa._group_id('a')], null, '{-1}', 'strict') \g /dev/null
select is(pg_temp.holders(), 'a true, b true, c', 'and not let go of for another one');
select is(awa._end_holders(pg_temp.shard(), 'halt'), '{}', 'the same order changes nothing');
select is(awa._end_holders(pg_temp.shard(), 'strict'), array[awa._group_id('b')], 'strict lets go of dead ones');
select is(awa._end_holders(pg_temp.shard(), 'start'), array[awa._group_id('a')], 'start of all');
select is(pg_temp.holders(), 'a, b, c', 'which hold nothing any more');
select pg_temp.change('{a}', '{}', 'strict'), pg_temp.change('{}', '{a}', 'strict') \g /dev/null
select is(pg_temp.holders(), 'a, b, c', 'nor does one that leaves');

select * from finish();
rollback;

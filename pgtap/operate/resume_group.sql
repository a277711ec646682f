-- Without this, a group that was paused would wait for ever.
\set name resume_group
\ir ../prelude.psql

select awa.enqueue(:'queue', 'k', group_key => 'a') \g /dev/null
select awa.pause_group(:'queue', 'a') \g /dev/null
select awa.pause_group(:'queue', 'b', until => now() + interval '1 day') \g /dev/null
select count(*) from awa.claim(:'queue', 9) \g /dev/null
select awa.configure_group(:'queue', 'b', '{"group_max_running": 3}') \g /dev/null
create temp table told as select awa.resume_group(queue => pg_temp.q(), group_key => 'a')::text as answer;
select awa.resume_group(:'queue', 'b') \g /dev/null

begin;
select plan(9);

create function pg_temp.row(g text) returns text
language sql
return (
  select jsonb_strip_nulls(to_jsonb(s) - '{queue_id,group_id,paused_at,changed_at,changed_by}'::text[])::text
    from awa.group_settings s
   where s.queue_id = awa._queue_id(pg_temp.q()) and s.group_id = awa._group_id(g)
);

select is((select answer from told), '', 'resume_group returns nothing');
select is((select count(*) from awa.claim(:'queue', 9)), 1::bigint, 'jobs of the group begin again');
select is(array[pg_temp.row('a'), pg_temp.row('b')], array[null, '{"group_key": "b", "group_max_running": 3}'],
  'its limits stay, and otherwise no row does');
select is(pg_temp.outcome($$select awa.resume_group(pg_temp.q(), 'c')$$), 'ok',
  'one that is not paused stays as it is');
select is(pg_temp.row('c'), null, 'without a row');
select pg_temp.refused($$select awa.resume_group(pg_temp.q(), null)$$, '22023', 'group_key', 'no group');
select pg_temp.refused($$select awa.resume_group(pg_temp.q(), '')$$, '22023', 'group_key', 'an empty group');
select pg_temp.refused($$select awa.resume_group(null, 'a')$$, '22023', 'queue', 'no queue');
select pg_temp.refused($$select awa.resume_group(pg_temp.q(' none'), 'a')$$, 'JQ002', 'queue', 'an unknown queue');

select * from finish();
rollback;

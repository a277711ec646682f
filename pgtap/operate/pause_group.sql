-- Without this, an operator could not stop one customer's work without stopping all.
\set name pause_group
\ir ../prelude.psql

select awa.enqueue(:'queue', 'k', group_key => g) from unnest('{a,a,b}'::text[]) g \g /dev/null

begin;
select plan(18);

create function pg_temp.row(g text) returns text
language sql
return (
  select jsonb_strip_nulls(to_jsonb(s) - '{queue_id,group_id,paused_at,changed_at,changed_by}'::text[])::text
    from awa.group_settings s
   where s.queue_id = awa._queue_id(pg_temp.q()) and s.group_id = awa._group_id(g)
);

select pg_temp.refused(format('select awa.pause_group(pg_temp.q(), %L, %L)', 'a', repeat('r', 1001)), '22023', 'reason',
  'a reason that is too long');
create temp table told as
select awa.pause_group(queue => pg_temp.q(), group_key => 'a', reason => 'r', until => now() + interval '1 day')::text
  as answer;
select is((select answer from told), '', 'pause_group returns nothing');
select is((select array_agg(c.group_key) from awa.claim(:'queue', 9) c), '{b}', 'of a paused group nothing is claimed');
select is((select count(*) from awa.limited_jobs w where w.lane >> 9 = awa._queue_id(:'queue')), 2::bigint,
  'its jobs are put aside');
select is((select c.available from awa.queue_counts(:'queue') c), 2::bigint, 'and are available');
create temp table p as select s.paused_at from awa.group_settings s where s.queue_id = awa._queue_id(:'queue');
select awa.pause_group(:'queue', 'a', 'other') \g /dev/null
select is(pg_temp.row('a'), '{"reason": "other", "group_key": "a"}', 'called again, it sets the end and the reason');
select is((select s.paused_at from awa.group_settings s where s.queue_id = awa._queue_id(:'queue')),
  (select paused_at from p), 'it is paused since the first time');
update awa.group_settings s set paused_until = now() where s.queue_id = awa._queue_id(:'queue');
select awa.pause_group(:'queue', 'a') \g /dev/null
select isnt((select s.paused_at from awa.group_settings s where s.queue_id = awa._queue_id(:'queue')),
  (select paused_at from p), 'but not where that was over');
select awa.configure_group(:'queue', 'a', '{"group_max_running": 3}') \g /dev/null
select is(pg_temp.row('a'), '{"group_key": "a", "group_max_running": 3}', 'limits leave a pause alone');
select awa.pause_group(:'queue', 'new', until => now() + interval '1 day') \g /dev/null
select isnt(pg_temp.row('new'), null, 'a group without jobs is paused, too');
select is(pg_temp.outcome($$select awa.pause_group(pg_temp.q(' new'), 'a')$$), 'ok',
  'a queue that is not there is made');
select is((select count(*) from awa.queue_counts(pg_temp.q(' new'))), 1::bigint, 'it is there');

select pg_temp.refused(format('select awa.pause_group(%s)', c.arguments), '22023', c.names, c.description)
  from (values
    (1, 'null, $$a$$', 'queue', 'no queue'), (2, 'pg_temp.q(), null', 'group_key', 'no group'),
    (3, 'pg_temp.q(), $$$$', 'group_key', 'an empty group'),
    (4, 'pg_temp.q(), repeat($$a$$, 201)', 'group_key', 'a group of 201 characters'),
    (5, 'pg_temp.q(), $$a$$, null, now()', 'until', 'an end that has passed'),
    (6, 'pg_temp.q(), $$a$$, null, $$infinity$$', 'until', 'an end after all days')
  ) c(n, arguments, names, description)
 order by c.n;

select * from finish();
rollback;

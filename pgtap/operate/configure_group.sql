-- Without this, the one customer who pays for more could not have more.
\set name configure_group
\ir ../prelude.psql

select awa.enqueue(:'queue', 'k', group_key => g) from unnest('{a,a,a,a,b,b}'::text[]) g \g /dev/null

begin;
select plan(15);

create function pg_temp.row(g text) returns text
language sql
return (
  select jsonb_strip_nulls(to_jsonb(s) - '{queue_id,group_id,paused_at,changed_at,changed_by}'::text[])::text
    from awa.group_settings s
   where s.queue_id = awa._queue_id(pg_temp.q()) and s.group_id = awa._group_id(g)
);

create temp table told as
select awa.configure_group(queue => pg_temp.q(), group_key => 'a', settings => '{"group_max_running": 3}')::text
  as answer;
select is((select answer from told), '', 'configure_group returns nothing');
select is((select array_agg(c.group_key order by c.job_id) from awa.claim(:'queue', 9) c), '{a,a,a,b,b}',
  'the group has its limit');
select awa.configure_group(:'queue', 'a', '{"group_rate": {"jobs": 3, "per": 60}}') \g /dev/null
select is(pg_temp.row('a'),
  '{"group_key": "a", "group_rate": {"per": "00:01:00", "jobs": 3, "burst": 1}, "group_max_running": 3}',
  'what is not named stays');
select is((select s.changed_by from awa.group_settings s where s.queue_id = awa._queue_id(:'queue')),
  session_user::text,
  'it keeps who has changed it');
select awa.configure_group(:'queue', 'a', '{"group_max_running": null}') \g /dev/null
select is(pg_temp.row('a'), '{"group_key": "a", "group_rate": {"per": "00:01:00", "jobs": 3, "burst": 1}}',
  'null takes one away');
select awa.configure_group(:'queue', 'a', '{"group_rate": null}') \g /dev/null
select is(pg_temp.row('a'), null, 'where nothing is left, there is no row');
select is(pg_temp.outcome($$select awa.configure_group(pg_temp.q(' new'), 'a', '{"group_max_running": 1}')$$), 'ok',
  'a queue that is not there is made');

select pg_temp.refused(format('select awa.configure_group(pg_temp.q(), %s)', c.arguments), '22023', c.names,
    c.description)
  from (values
    (1, $$null, '{}'$$, 'group_key', 'no group'), (2, $$'', '{}'$$, 'group_key', 'an empty group'),
    (3, $$'a', null$$, 'settings', 'no settings'), (4, $$'a', '[]'$$, 'settings', 'settings that are no object'),
    (5, $$'a', '{"max_running": 1}'$$, 'unknown key', 'a limit of the queue'),
    (6, $$'a', '{"group_max_running": 0}'$$, 'group_max_running', 'none at once'),
    (7, $$'a', '{"group_max_running": 1.5}'$$, 'group_max_running', 'one and a half'),
    (8, $$'a', '{"group_rate": {"jobs": 1, "per": "1 month"}}'$$, 'group_rate.per', 'a month')
  ) c(n, arguments, names, description)
 order by c.n;

select * from finish();
rollback;

-- Without this, a group would have the limits of another one, or keep a row for ever.
\set name groups
\ir ../prelude.psql

begin;
select plan(13);
select awa.configure_queue(:'queue', '{"group_max_running": 2}') \g /dev/null
create temp table q as
select awa._queue_id(:'queue') as id, awa._queue_id(:'queue') << 6 as shard, (s) as settings
  from awa.queue_settings s
 where s.queue_id = awa._queue_id(:'queue');
create function pg_temp.terms(g text, at timestamptz default now(), has_own boolean default true) returns text
language sql
return (select (t.max_running, t.is_paused)::text from q cross join lateral
  awa._group_terms(q.settings, q.id, awa._group_id(g), has_own, at) t);
select is(pg_temp.terms('g'), '(2,f)', 'a group has the limits of its queue');
create temp table row1 as select awa._lock_group(id, 'g') as r from q;
select is((select (r).group_key from row1), 'g', '_lock_group makes a row');
select is((select (awa._lock_group(id, 'g')).changed_at from q), (select (r).changed_at from row1), 'once');
select awa._store_group(jsonb_populate_record(r, '{"group_max_running": 7}'), shard) from row1, q \g /dev/null
select is(pg_temp.terms('g'), '(7,f)', 'or its own');
select is(pg_temp.terms('g', has_own => false), '(2,f)', 'unless no group has');
select is(pg_temp.terms('h'), '(2,f)', 'others have not');
select awa._pause_group(id, shard, 'g', 'why', now() + interval '1 hour') from q \g /dev/null
select is(array[pg_temp.terms('g'), pg_temp.terms('g', now() + interval '1 hour')], '{"(7,t)","(7,f)"}',
  'a pause ends when it ends');
select is((select (awa._lock_paused_group(id, 'g')).reason from q), 'why', '_lock_paused_group returns its row');
select is((select (awa._lock_paused_group(id, 'h')).reason from q), null, 'and makes none');
select awa._store_group(jsonb_populate_record(r, '{"group_max_running": null, "paused_at": null}'), shard)
  from row1, q \g /dev/null
select is((select count(*) from awa.group_settings g join q on q.id = g.queue_id), 0::bigint,
  'where nothing is left, the row goes');
select is((select array_agg(s.changed) from awa.slots s join q using (shard)),
  array_fill(awa._group_id('g'), array[3, 1]), 'claims look at the group each time');

select awa._pause_group(id, shard, p.g, null, p.until)
  from q, (values ('over', now() - interval '1 s'), ('later', now() + interval '1 h'), ('never', null)) p(g, until)
  \g /dev/null
insert into awa.group_settings (queue_id, group_id, group_key, group_max_running, paused_until, changed_at, changed_by)
select id, 1, 'limited', 1, now() - interval '1 s', now(), '' from q;
select awa._forget_pauses(100000) \g /dev/null
select is((select array_agg(g.group_key order by g.group_key) from awa.group_settings g join q on q.id = g.queue_id),
  '{later,limited,never}', '_forget_pauses removes what is over, and has no limit');
select awa._forget_limits(id) from q \g /dev/null
select is((select count(*) from awa.group_settings g join q on q.id = g.queue_id), 0::bigint,
  'a queue that is dropped leaves none');

select * from finish();
rollback;

-- Without this, a group with many jobs would be served before all others, or one of its jobs would be lost on its way
-- from the log to its turn.
\set name by_turns
\ir ../prelude.psql

select awa.configure_queue(:'queue', '{"group_turns": true}') \g /dev/null
create function pg_temp.enqueues(jobs text[]) returns void
language sql
as $$
  select awa.enqueue(pg_temp.q(), 'k', to_jsonb(j), group_key => nullif(left(j, 1), '-')) from unnest(jobs) j
$$;
create function pg_temp.claims(n int) returns text
language sql
as $$ select string_agg(c.args #>> '{}', ' ' order by c.args #>> '{}') from awa.claim(pg_temp.q(), n) c $$;
create function pg_temp.turns() returns text
language sql
return (
  select string_agg((w.args #>> '{}') || case when t.is_again then ' again' else '' end, ', ' order by t.turn_id)
    from awa.turns t join awa.limited_jobs w using (waiting_id)
   where t.lane >> 9 = awa._queue_id(pg_temp.q())
);
create function pg_temp.groups() returns text
language sql
return (
  select string_agg(format('%s %s %s', s.running, s.has_line, s.rate_turns), ', ' order by k.g)
    from unnest('{a,b,c}'::text[]) k(g)
   cross join lateral (
      select * from awa.group_states s
       where s.shard = awa._queue_id(pg_temp.q()) << 6 and s.group_id = awa._group_id(k.g)
       order by s.state_id desc
       limit 1) s
);
select plan(18);

select pg_temp.enqueues('{a1,a2,a3,b1,-1,b2,c1}') \g /dev/null
select is(pg_temp.claims(1), '-1', 'a job without a group has its turn when it is read');
select is(pg_temp.turns(), 'a1, b1, c1', 'and so has each group');
select is(pg_temp.groups(), '1 t 1, 1 t 1, 1 t 1', 'a turn holds a slot, and is counted');
select is(pg_temp.claims(2), 'a1 b1', 'they are served in turn');
select is(pg_temp.turns(), 'c1, a2 again, b2 again', 'and get the next one behind those that wait');
select is(pg_temp.groups(), '2 t 1, 2 t 1, 1 t 1', 'one at a time');
select pg_temp.enqueues('{d1}') \g /dev/null
select is(pg_temp.claims(3), 'a2 b2 c1', 'in the order in which they got it');
select is(pg_temp.turns(), 'd1, a3 again', 'a group whose line has ended has none');
select is(pg_temp.groups(), '3 t 1, 2 f 0, 1 f 0', 'and no line');
select pg_temp.enqueues('{b3,b4,b5}') \g /dev/null
select is(pg_temp.claims(9), 'a3 b3 b4 b5 d1', 'several rounds where there is room');
select is(pg_temp.turns(), null, 'all were served');
select is(awa._pass_turns(awa._queue_id(:'queue') << 6, null, null, false, null, false, now()), '{}', 'no groups');

-- What a claim reads for a group that was served before
select awa.enqueue_batch(jsonb_agg(jsonb_build_object('queue', :'queue', 'kind', 'k', 'args', 'e', 'group_key', 'e')))
  from generate_series(1, 700) \g /dev/null
select is(pg_temp.claims(1), 'e', 'the first one of a group');
select is((select count(*) from awa.limited_jobs w where w.shard >> 6 = awa._queue_id(:'queue')), 199::bigint,
  'of the 200 that were read');
select is(pg_temp.claims(2), 'e e', 'the next two');
select is((select count(*) from awa.limited_jobs w where w.shard >> 6 = awa._queue_id(:'queue')), 597::bigint,
  '200 more for each');
select is((select limited from awa.queue_counts(:'queue')), 0::bigint, 'none of them waits for a limit');
select is((select count(*) from awa._limit_problems p where p.queue_id = awa._queue_id(:'queue')), 0::bigint,
  'the books are right');
select * from finish();

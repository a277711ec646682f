-- Without this, a claim of a queue that is limited as a whole would cost as much as one that looks at groups, or begin
-- jobs whose group had a limit until now before those that wait in its line.
\set name whole
\ir ../prelude.psql

create function pg_temp.claims(n int) returns text
language sql
as $$ select string_agg(c.args #>> '{}', ' ' order by c.receipt) from awa.claim(pg_temp.q(), n) c $$;
create function pg_temp.completes(job text) returns void
language plpgsql
as $$
begin
  perform awa.complete(j.id, j.receipt) from awa.jobs j
    where j.queue = pg_temp.q() and j.state = 'running' and j.args = to_jsonb(job);
  if not found then raise '% does not run', job; end if;
end
$$;
create function pg_temp.enqueues(jobs text[]) returns void
language sql
as $$
  select awa.enqueue(pg_temp.q(), 'k', to_jsonb(j), group_key => nullif(left(j, 1), '-')) from unnest(jobs) j
$$;
-- What a claim would find now, and what it took the way of
create function pg_temp.most(max_jobs int) returns text
language sql
as $$
  select l.most || concat_ws(' ', '', l.has_slots, (l.state).running)
    from awa._claim_terms(pg_temp.q(), awa._queue_id(pg_temp.q()) << 6, awa._snapshot(), null) t
   cross join lateral awa._whole_limits(t, awa._queue_id(pg_temp.q()) << 6, awa._snapshot(), max_jobs) l
$$;
create function pg_temp.long_ways() returns bigint
language sql
as $$ select coalesce(pg_stat_get_xact_function_calls('awa._claim_limited'::regproc), 0) $$;
set track_functions = 'pl';
select plan(26);

select awa.configure_queue(:'queue', '{"max_running": 3}') \g /dev/null
select pg_temp.enqueues('{a1,a2,-1,b1,b2,-2,-3}') \g /dev/null
select is(pg_temp.most(2), '2 f 0', 'as many as are asked for');
select is(pg_temp.most(9), '3 f 0', 'and no more than the limit of the queue');
begin;
select is(pg_temp.claims(2), 'a1 a2', 'jobs of all groups, in their order');
select is(pg_temp.claims(9), '-1', 'up to the limit');
select is(pg_temp.claims(9), null, 'and no more');
select is(pg_temp.long_ways(), 0::bigint, 'without a look at groups');
commit;
select is(pg_temp.most(9), '0 f 3', 'all slots are held');
select pg_temp.completes('a1'), pg_temp.completes('-1') \g /dev/null
begin;
select is(pg_temp.most(9), '2 t 1', 'those that have come back are read');
rollback;
select is(pg_temp.claims(9), 'b1 b2', 'so as many begin');
select is(pg_temp.most(9), '0 f 3', 'and are known');
select is((select count(*) from awa._holders h where h.queue_id = awa._queue_id(:'queue') and h.holds_queue), 3::bigint,
  'each attempt holds a slot of the queue, and none of its group');

-- A limit of groups, which comes and goes
select awa.configure_queue(:'queue', '{"group_max_running": 1, "max_running": 4}') \g /dev/null
select is(pg_temp.most(9), null, 'with a limit of groups it is another way');
select pg_temp.enqueues('{c1,c2,c3}') \g /dev/null
select is(pg_temp.claims(9), '-2', 'which is taken');
select pg_temp.completes('a2'), pg_temp.completes('b1'), pg_temp.completes('b2') \g /dev/null
select is(pg_temp.claims(9), '-3 c1', 'and puts jobs aside');
select awa.configure_queue(:'queue', '{"group_max_running": null, "max_running": 5}') \g /dev/null
select pg_temp.enqueues('{c4,d1}') \g /dev/null
select is(pg_temp.most(9), null, 'it goes on where lines are left from it');
select is(pg_temp.claims(1), 'c2', 'so what waits in line comes first');
select is(pg_temp.most(9), null, 'also where the limit is known, and one has its turn');
select is(pg_temp.claims(9), 'c3', 'and it begins');
select pg_temp.completes('c1') \g /dev/null
select is(pg_temp.most(9), null, 'a slot of a group is for the other way');
select is(pg_temp.claims(9), 'c4', 'which gives it back');
select is(pg_temp.most(9), '0 f 5', 'then it is the short way again');

-- What else has to do with groups
select pg_temp.completes('c2'), pg_temp.completes('c3'), pg_temp.completes('c4'), pg_temp.completes('-2') \g /dev/null
select awa.pause_group(:'queue', 'e') \g /dev/null
select is(pg_temp.claims(9), 'd1', 'what has ended gives its slots back');
select is(pg_temp.most(9), null, 'a group that is paused is for the other way');
select awa.resume_group(:'queue', 'e') \g /dev/null
select is(pg_temp.most(9), null, 'also just after it');
select pg_temp.enqueues('{f1}') \g /dev/null
select is(pg_temp.claims(9), 'f1', 'which then has looked at it');

-- Turns that are switched on after a claim has read its terms
create temp table terms as
  select t from awa._claim_terms(:'queue', awa._queue_id(:'queue') << 6, awa._snapshot(), null) t;
select awa.configure_queue(:'queue', '{"group_turns": true}') \g /dev/null
select is((select l.lanes from terms t cross join lateral awa._whole_limits(t.t, awa._queue_id(:'queue') << 6,
  awa._snapshot(), 9) l), null, 'it takes the other way');

select * from finish();

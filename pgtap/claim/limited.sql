-- Without this, a claim of a queue with limits would begin too many jobs, or the wrong ones.
\set name limited
\ir ../prelude.psql

create function pg_temp.claims(n int, queue text default pg_temp.q()) returns text
language sql
as $$ select string_agg(c.args #>> '{}', ' ' order by c.receipt) from awa.claim(queue, n) c $$;
create function pg_temp.completes(job text) returns void
language plpgsql
as $$
begin
  perform awa.complete(j.id, j.receipt) from awa.jobs j
    where j.queue = pg_temp.q() and j.state = 'running' and j.args = to_jsonb(job);
  if not found then raise '% does not run', job; end if;
end
$$;
select awa.configure_queue(:'queue', '{"group_max_running": 2}') \g /dev/null
create procedure pg_temp.enqueues(jobs text[], priority int default 2)
language plpgsql
as $$
declare
  v_job text;
begin
  foreach v_job in array jobs loop
    perform awa.enqueue(pg_temp.q(), 'k', to_jsonb(v_job), priority, group_key => nullif(left(v_job, 1), '-'));
    commit;
  end loop;
end
$$;
call pg_temp.enqueues('{a1,a2,a3,b1,-1,a4,b2,b3,-2}');
select plan(18);

select is(pg_temp.claims(4), 'a1 a2 b1 -1', 'those of groups that have room, and those without one');
select is(pg_temp.claims(9), 'b2 -2', 'and then');
select is(pg_temp.claims(9), null, 'and no more');
call pg_temp.enqueues('{a5,c1}', 1);
select is(pg_temp.claims(9), 'c1', 'a group has one line, whatever the priorities');
select pg_temp.completes('a1') \g /dev/null
select is(pg_temp.claims(9), 'a3', 'whoever gives a slot back lets the first in line begin');
select pg_temp.completes('a2'), pg_temp.completes('a3'), pg_temp.completes('b1') \g /dev/null
call pg_temp.enqueues('{-3}', 1);
select is(pg_temp.claims(1), 'a5', 'a turn comes with its priority');
select is(pg_temp.claims(1), '-3', 'before those that came later');
select is(pg_temp.claims(9), 'a4 b3', 'and then the others');
select is((select array_agg(j.attempt order by j.id) from awa.jobs j where j.queue = :'queue' and j.state = 'running'),
  array_fill(1, array[8]), 'each in its first attempt');
select is((select c.priority from awa.claim(:'queue') c), null, 'and none twice');
select awa.release(j.id, j.receipt) from awa.jobs j where j.queue = :'queue' and j.args = '"a4"' \g /dev/null
call pg_temp.enqueues('{a6}', 1);
select is(pg_temp.claims(1), 'a4', 'what was given back comes first');

-- The budget of bytes
select awa.configure_queue(:'queue' || ' large', '{"group_max_running": 1}') \g /dev/null
select awa.enqueue(:'queue' || ' large', 'k', to_jsonb(repeat('x', 100000)), group_key => 'g')
  from generate_series(1, 3) \g /dev/null
select awa.enqueue(:'queue' || ' large', 'k', to_jsonb(repeat('x', 100000)), group_key => 'h') \g /dev/null
select is((select count(*) from awa.claim(:'queue' || ' large', 9)), 1::bigint, 'a claim has a budget of bytes');
select is((select count(*) from awa.claim(:'queue' || ' large', 9)), 1::bigint, 'what did not fit comes next');
select is((select count(*) from awa.limited_jobs w where w.shard = awa._queue_id(pg_temp.q(' large')) << 6), 2::bigint,
  'and what waits, waits');

-- Settings
select awa.pause_queue(:'queue' || ' large') \g /dev/null
select awa.complete_many(array_agg(j.id), array_agg(j.receipt)) from awa.jobs j
 where j.queue = :'queue' || ' large' and j.state = 'running' \g /dev/null
select is((select count(*) from awa.claim(:'queue' || ' large', 9)), 0::bigint, 'nothing begins in a paused queue');
select awa.resume_queue(:'queue' || ' large') \g /dev/null
select is((select count(*) from awa.claim(:'queue' || ' large', 9)), 1::bigint, 'until it goes on');
select is((select array_agg(l.problem) from awa._limit_problems l
    where l.queue_id = any(array[awa._queue_id(:'queue'), awa._queue_id(pg_temp.q(' large'))])), null,
  'the books are right');
select is(awa._row_bytes('12345'), 158, 'the fixed columns of a row');

select * from finish();

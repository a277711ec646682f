-- Without this, each call of cancel_where would walk over all that the calls before it have buried, while no worker
-- claims from the queue. Late commits, and claims beside it, need several sessions: see the Go tests.
\set name cursors
\ir ../prelude.psql
\ir ../plans/cost.psql

select count(*) from awa.enqueue_many(:'queue', 'k', array_fill('{}'::jsonb, array[10000])) \g /dev/null
select count(*) from awa.enqueue_many(:'queue' || ' few', 'k', array_fill('{}'::jsonb, array[300])) \g /dev/null
select count(*) from awa.enqueue_many(:'queue' || ' open', 'k', array_fill('{}'::jsonb, array[600])) \g /dev/null
select count(*) from awa.claim(:'queue' || ' open', 1) \g /dev/null
select count(*) from awa.claim(:'queue' || ' open', 1) \g /dev/null
select count(*) from awa.enqueue_many(:'queue' || ' open', 'k', array_fill('{}'::jsonb, array[400])) \g /dev/null
create function pg_temp.cursor(suffix text) returns awa._lanes
language sql
as $$ select l from awa._lanes l where l.queue_id = awa._queue_id(pg_temp.q(suffix)) and l.lane & 7 = 2 $$;
create function pg_temp.passed(suffix text) returns bigint
language sql
as $$
  select count(*)
    from awa.ready_entries e, pg_temp.cursor(suffix) l
   where e.lane = l.lane and (e.xid, e.job_id) <= (l.pos_xid, l.pos_id)
$$;
create temp table calls (n int generated always as identity, blocks bigint, tuples bigint);
create procedure pg_temp.cancel_all()
language plpgsql
as $$
begin
  for n in 1..8 loop
    insert into calls (blocks, tuples)
    select c.blocks, c.tuples
      from pg_temp.cost(format('select awa.cancel_where(%L, ''k'', ''available'')', pg_temp.q())) c;
    commit;
  end loop;
end
$$;
call pg_temp.cancel_all();
-- One by one
select awa.cancel(j.id) from awa.jobs j where j.queue = :'queue' || ' few' order by j.id limit 99 \g /dev/null

begin;
select plan(17);

select is((select available from awa.queue_counts(pg_temp.q())), 2000::bigint, 'eight calls have cancelled 8000');
select cmp_ok((select c.blocks from calls c where n = 8), '<', (select c.blocks from calls c where n = 2) * 5 / 4,
  'the last of them touches as many blocks as the second one');
select cmp_ok((select c.tuples from calls c where n = 8), '<', (select c.tuples from calls c where n = 2) * 5 / 4,
  'and reads as many rows');
select is(pg_temp.passed(''), 8000::bigint, 'for the cursor has passed what was cancelled');
select is((select count(*) from awa.jobs j where j.queue = pg_temp.q() and j.state = 'available'), 2000::bigint,
  'the others are available');
create temp table waits as
select j.id from awa.jobs j where j.queue = pg_temp.q() and j.state = 'available' order by j.id limit 100;
select is((select array_agg(c.job_id order by c.job_id) from awa.claim(pg_temp.q(), 100) c),
  (select array_agg(w.id order by w.id) from waits w), 'and are claimed');
select is(pg_temp.passed(' few'), 0::bigint, 'for a few no cursor is written');
select is(awa._pass_buried((pg_temp.cursor(' few')).lane, 50), 50, 'it passes as many as it may');
select is(awa._pass_buried((pg_temp.cursor(' few')).lane, 500), 49, 'and goes on behind them, to the first that waits');
select is(awa._pass_buried((pg_temp.cursor(' few')).lane, 500), 0, 'where it stays');
select is((select count(*) from awa.claim(pg_temp.q(' few'), 300)), 201::bigint, 'the others are claimed');
select is(awa._pass_buried(awa._lane(awa._queue_id(pg_temp.q(' none')), 2), 500), 0, 'no lane, none');

-- In a window that a claim has opened, and on in the next one
select is(awa.cancel_where(pg_temp.q(' open'), 'k', 'available'), 998::bigint, 'what a claim has left is cancelled');
set constraints all immediate;
select is((select row(l.pos_xid, l.pos_id)::text from pg_temp.cursor(' open') l), (
  select row(e.xid, e.job_id)::text
    from awa.ready_entries e
   where e.lane = (pg_temp.cursor(' open')).lane
   order by e.xid desc, e.job_id desc
   limit 1
),
  'the cursor goes on in the next window');
select is((select count(*) from awa.claim(pg_temp.q(' open'), 300)), 0::bigint, 'there is nothing to claim');
select is((select row(c.available, c.running, c.cancelled)::text from awa.queue_counts(pg_temp.q(' open')) c),
  '(0,2,998)', 'the counts are right');
select pg_temp.agrees('the books balance');

select * from finish();
rollback;

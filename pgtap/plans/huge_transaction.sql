-- Without this, one transaction that has enqueued very many jobs would make each claim and each answer read all that is
-- left of it: a row comparison as the upper end of a scan does not end it where its second column decides.
\set name huge_transaction
\ir ../prelude.psql
\ir cost.psql

begin;
truncate awa.ready_entries, awa.ready_tombstones, awa.arrivals, awa.lease_claims, awa.lease_claim_closures, awa.leases,
awa.deferred_jobs, awa.done_entries, awa.unique_claims, awa.queue_rollups;

-- Jobs of one transaction that ended before this one; the queue is not empty
create function pg_temp.fill_one(queue text, jobs int, ago int) returns void
language sql
as $$
  select awa._use_lanes(array[awa._lane(awa._queue_id(queue), 2)], queue);
  insert into awa.ready_entries (segment, lane, xid, job_id, ready_at, priority, attempt, max_attempts, body_bytes,
    unique_key, kind, args)
  select r.current_segment, awa._lane(awa._queue_id(queue), 2),
         (pg_snapshot_xmin(pg_current_snapshot())::text::bigint - ago)::text::xid8, nextval('awa.job_ids'), now(), 2, 1,
         25, 60,
         case
           when n % 100 = 1 then awa._unique_key(queue, 'k', '{}', queue || ' ' || n, null, null, null, null, now())
         end,
         'k', '{}'
    from awa.ring r, generate_series(1, jobs) n;
  insert into awa.unique_claims (key, job_id)
  select substr(e.unique_key, 1, 32), e.job_id
    from awa.ready_entries e
   where e.lane = awa._lane(awa._queue_id(queue), 2) and e.unique_key is not null
  on conflict do nothing;
$$;
-- Where a lane's cursor is: as of a claim of nothing. The snapshot says "with X in progress" by !, and "up to X" by ^.
create function pg_temp.cursor(queue text, ago int, lo text, hi text) returns void
language sql
as $$
  insert into awa.lease_claims (segment, claim_id, lane, lane_seq, lo, hi, first_xid, first_id, pos_xid, pos_id,
    claimed_at, lease_until, holds_keys, job_ids)
  select r.current_segment, nextval('awa.claim_ids'), awa._lane(awa._queue_id(queue), 2), 1000000,
         format(lo, x.xid - 1, x.xid, x.xid + 1)::pg_snapshot, format(hi, x.xid - 1, x.xid, x.xid + 1)::pg_snapshot,
         '0', 0, '0', 0, now(), now(), false, '{}'
    from awa.ring r, (select pg_snapshot_xmin(pg_current_snapshot())::text::bigint - ago as xid) x;
$$;

create temp table open (n int generated always as identity, queue text, job_id bigint, receipt bigint);
create function pg_temp.take_one(queue text) returns open
language sql
as $$ delete from open o where o.n = (select min(o.n) from open o where o.queue = take_one.queue) returning * $$;
create function pg_temp.waiting(queue text, place int) returns bigint
language sql
as $$
  select min(e.job_id) + place
    from awa.ready_entries e
   where e.lane = awa._lane(awa._queue_id(queue), 2)
     and e.job_id > (
      select c.pos_id
        from awa.lease_claims c
       where c.lane = awa._lane(awa._queue_id(queue), 2)
       order by c.lane_seq desc
       limit 1
    )
$$;
-- A job far from both ends, read by its place: the search by its id is another matter.
create function pg_temp.calls(queue text) returns text[]
language sql
return array[
  'claim(1)', format('select * from awa.claim(%L)', queue),
  'claim(40)', format('select * from awa.claim(%L, 40)', queue),
  'complete with output',
  format($$select awa.complete(o.job_id, o.receipt, '1') from pg_temp.take_one(%L) o offset 0$$, queue),
  'fail', format($$select awa.fail(o.job_id, o.receipt, 'e') from pg_temp.take_one(%L) o offset 0$$, queue),
  'fail_many',
  format($$
  select awa.fail_many(array[o.job_id, p.job_id], array[o.receipt, p.receipt], array['e', 'e'])
    from pg_temp.take_one(%L) o,
    pg_temp.take_one(%1$L) p offset 0$$, queue),
  'release', format('select awa.release(o.job_id, o.receipt) from pg_temp.take_one(%L) o offset 0', queue),
  'snooze', format($$select awa.snooze(o.job_id, o.receipt, '1 hour') from pg_temp.take_one(%L) o offset 0$$, queue),
  'extend', format($$select awa.extend(o.job_id, o.receipt, '1 hour') from pg_temp.take_one(%L) o offset 0$$, queue),
  'cancel of a running job',
  format($$select awa._cancel_running(array[o.job_id], array[o.receipt], 'r') from pg_temp.take_one(%L) o offset 0$$,
    queue),
  'cancel of an available job',
    format(
      $$
      select awa._cancel_ready(array(
        select (%s, 'available', null, e.lane, 2, e.xid, e.segment, null)::awa._place
          from awa.ready_entries e
         where e.lane = %s
           and e.job_id = %1$s
           and e.xid = (select c.pos_xid from awa.lease_claims c where c.lane = %2$s limit 1)
      ),
        'r')$$,
    pg_temp.waiting(queue, 200), awa._lane(awa._queue_id(queue), 2)),
  'open attempts', format('select count(*) from awa._running r where r.queue_id = %s', awa._queue_id(queue)),
  'queue_counts', format('select * from awa.queue_counts(%L)', queue),
  'materialize', format('select awa._materialize(array[o.receipt], 1) from pg_temp.take_one(%L) o offset 0', queue)
];
create procedure pg_temp.try(at text, queue text)
language plpgsql
as $$
begin
  insert into open (queue, job_id, receipt) select try.queue, c.job_id, c.receipt from awa.claim(try.queue, 100) c;
  perform pg_temp.measure(at, pg_temp.calls(try.queue));
  -- The rest is answered, so that the other queue's calls do not read it
  perform awa.complete_many(array_agg(i.job_id), array_agg(i.receipt)) from awa._open_items i;
  delete from awa.leases;
  perform pg_temp.fold();
end
$$;

select plan(16);

select pg_temp.fill_one(pg_temp.q(' few'), 1000, 300) \g /dev/null
call pg_temp.try('few', pg_temp.q(' few'));
select pg_temp.fill_one(pg_temp.q(' huge'), 40000, 300) \g /dev/null
do $$
declare
  v_claim record;
begin
  for n in 1..20 loop
    select array_agg(c.job_id) as jobs, array_agg(c.receipt) as receipts into v_claim
      from awa.claim(pg_temp.q(' huge'), 960) c;
    perform awa.complete_many(v_claim.jobs, v_claim.receipts);
  end loop;
end
$$;
select pg_temp.fold() \g /dev/null
call pg_temp.try('huge', pg_temp.q(' huge'));

-- The same, where that transaction was committed late, and where it is the first after the window
select pg_temp.fill_one(pg_temp.q(' few late'), 10, 200),
       pg_temp.fill_one(pg_temp.q(' huge late'), 20000, 200) \g /dev/null
select pg_temp.cursor(q, 200, null, '%2$s:%3$s:%2$s')
  from unnest(array[pg_temp.q(' few late'), pg_temp.q(' huge late')]) q \g /dev/null
select pg_temp.fill_one(pg_temp.q(' few next'), 10, 200),
       pg_temp.fill_one(pg_temp.q(' huge next'), 20000, 200) \g /dev/null
select pg_temp.cursor(q, 200, '%1$s:%1$s:', '%2$s:%2$s:')
  from unnest(array[pg_temp.q(' few next'), pg_temp.q(' huge next')]) q \g /dev/null
select pg_temp.fold() \g /dev/null
insert into costs
select s.size, s.what, c.*
  from (values ('few', 'queue_counts beside a late one', ' few late'),
    ('huge', 'queue_counts beside a late one', ' huge late')) s(size, what, q),
    pg_temp.cost(format('select * from awa.queue_counts(%L)', pg_temp.q(s.q))) c;
insert into costs
select s.size, s.what, c.*
  from (values ('few', 'claim at the end of a window', ' few next'),
    ('huge', 'claim at the end of a window', ' huge next')) s(size, what, q),
    pg_temp.steady_cost(format('select * from awa.claim(%L)', pg_temp.q(s.q))) c;
insert into costs
select s.size, s.what, c.*
  from (values ('few', 'claim of a late one', ' few late'),
    ('huge', 'claim of a late one', ' huge late')) s(size, what, q),
    pg_temp.steady_cost(format('select * from awa.claim(%L, 2)', pg_temp.q(s.q))) c;

select cmp_ok(h.blocks, '<=', f.blocks + f.blocks / 10 + 24,
  format('%s reads no more of a transaction of 40,000 jobs than of one of 1,000', h.what))
  from costs h
  join costs f using (what)
 where h.at = 'huge' and f.at = 'few'
 order by h.what;

select * from finish();
rollback;

-- Without this, a count would read the whole history; or, once the past is counted, be off for ever.
\set name fold
\ir ../prelude.psql

create function pg_temp.rollup(suffix text, priority int default 2) returns text
language sql
begin atomic
  select format('%s enqueued, %s appended, %s kept, %s buried, %s claimed, %s completed, to claim %s', r.enqueued,
    r.appended, (select sum(k) from unnest(r.segment_entries) k), r.buried, r.claimed, r.completed, r.closed_seq)
    from awa.queue_rollups r where r.lane = awa._lane(awa._queue_id(pg_temp.q(suffix)), priority);
end;

-- A busy queue, counted after every step: jobs on all lanes, claimed, closed in every way, cancelled, moved, with keys
do $$
declare
  v_claims record;
begin
  for n in 1..25 loop
    perform awa.enqueue_many(pg_temp.q(' busy'), 'k', array_fill('{}'::jsonb, array[3]), priority => n % 4 + 1,
      max_attempts => 2);
    perform awa.enqueue_unique(pg_temp.q(' busy'), 'k', unique_key => pg_temp.q(' ' || n % 3), max_attempts => 2);
    commit;
    perform awa.cancel((select min(j.id) from awa.list_jobs(pg_temp.q(' busy'), 'available') j)) where n % 5 = 0;
    perform awa.set_priority((select max(j.id) from awa.list_jobs(pg_temp.q(' busy'), 'available') j), n % 4 + 1)
      where n % 4 = 0;
    commit;
    select array_agg(c.job_id) as jobs, array_agg(c.receipt) as receipts into v_claims
      from awa.claim(pg_temp.q(' busy'), n % 6 + 1) c;
    perform awa.complete(v_claims.jobs[1], v_claims.receipts[1]);
    perform awa.fail(v_claims.jobs[2], v_claims.receipts[2], 'e', '0') where cardinality(v_claims.jobs) > 1;
    perform awa.complete_many(v_claims.jobs[3:4], v_claims.receipts[3:4]) where cardinality(v_claims.jobs) > 3;
    perform awa.release(v_claims.jobs[5], v_claims.receipts[5]) where cardinality(v_claims.jobs) > 4;
    perform awa.extend(v_claims.jobs[6], v_claims.receipts[6], '1 hour') where cardinality(v_claims.jobs) > 5;
    commit;
    if n % 3 = 0 then
      perform awa.promote_due();
      commit;
    end if;
    if n % 2 = 0 then
      perform pg_temp.fold();
    end if;
    perform pg_temp.step('step ' || n);
    commit;
  end loop;
end
$$;

-- One lane, step by step
select count(*)
  from awa.enqueue_many(:'queue', 'k', array(select to_jsonb(n) from generate_series(1, 12) n)) \g /dev/null
create temp table c as select * from pg_temp.take('', 4);
create temp table d as select n + 4 as n, job_id, receipt from pg_temp.take('', 3);
select awa.cancel(j.id) from awa.jobs j where j.queue = :'queue' and j.args = '10' \g /dev/null
select pg_temp.fold() \g /dev/null
create temp table said as select 1 as n, pg_temp.rollup('') as says;
select count(*)
  from awa.complete_many((select array_agg(job_id) from c), (select array_agg(receipt) from c)) \g /dev/null
select pg_temp.fold() \g /dev/null
insert into said select 2, pg_temp.rollup('');
select awa.complete(job_id, receipt, '1') from d where n = 5 \g /dev/null
select awa.fail(job_id, receipt, 'e', '1 day') from d where n = 6 \g /dev/null
select pg_temp.fold() \g /dev/null
insert into said select 3, pg_temp.rollup('');
select awa.extend(job_id, receipt, '1 hour') from d where n = 7 \g /dev/null
select pg_temp.fold() \g /dev/null
insert into said select 4, pg_temp.rollup('');
select pg_temp.step('one lane') \g /dev/null

-- A transaction that appends before and after it counts, and one that rolls back what it counted
begin;
select awa.enqueue(:'queue' || ' own', 'k', '1') \g /dev/null
select pg_temp.fold() \g /dev/null
select awa.enqueue(:'queue' || ' own', 'k', '2') \g /dev/null
select pg_temp.fold() \g /dev/null
insert into said select 5, pg_temp.rollup(' own');
select pg_temp.step('own') \g /dev/null
commit;
select pg_temp.step('own, committed') \g /dev/null
begin;
select awa.enqueue(:'queue' || ' own', 'k', '"gone"') \g /dev/null
select awa.cancel(j.id) from awa.jobs j where j.queue = :'queue' || ' own' and j.args = '2' \g /dev/null
select count(*) from awa.claim(:'queue' || ' own', 10) \g /dev/null
select pg_temp.fold() \g /dev/null
rollback;
select awa.enqueue(:'queue' || ' own', 'k', '3') \g /dev/null
select pg_temp.fold() \g /dev/null
insert into said select 6, pg_temp.rollup(' own');
select pg_temp.step('rolled back') \g /dev/null

-- Jobs that come and go without an entry
select awa.enqueue(:'queue' || ' later', 'k', run_at => '2130-01-01') as later_id,
       awa.enqueue(:'queue' || ' later', 'k', run_at => clock_timestamp() + interval '1 hour') as due_id \gset
select count(*)
  from awa.enqueue_many(:'queue' || ' later', 'k', array_fill('{}'::jsonb, array[2]),
    run_at => '2130-01-01') \g /dev/null
select awa._fold(everything => true) \g /dev/null
insert into said select 7, pg_temp.rollup(' later');
select awa.retry(:due_id) \g /dev/null
select awa._fold(everything => true) \g /dev/null
insert into said select 8, pg_temp.rollup(' later');
select awa.move(:later_id, :'queue' || ' moved') \g /dev/null
select awa._fold(everything => true) \g /dev/null
insert into said select 9, pg_temp.rollup(' later');
insert into said select 10, pg_temp.rollup(' moved');
select pg_temp.step('later') \g /dev/null
select awa.enqueue(:'queue' || ' around', 'k') as around_id, awa.enqueue(:'queue' || ' around', 'k') \gset
select awa.cancel(:around_id) \g /dev/null
select awa.retry(:around_id) \g /dev/null
select awa.fail(job_id, receipt, 'e', '1 day') from pg_temp.take(' around', 1) \g /dev/null
select pg_temp.fold() \g /dev/null
insert into said select 11, pg_temp.rollup(' around');
select pg_temp.step('around') \g /dev/null
select awa.enqueue(:'queue' || ' seldom', 'k') \g /dev/null
select setval('awa.next_fold_at', 1), awa._fold() \g /dev/null

begin;
select plan(36);

select is(says, expected, description)
  from said
  join (values
    (1, '12 enqueued, 12 appended, 12 kept, 1 buried, 0 claimed, 0 completed, to claim 0',
      'what was appended and buried is counted'),
    (2, '12 enqueued, 12 appended, 12 kept, 1 buried, 4 claimed, 4 completed, to claim 1',
      'and claims whose items are closed, from the oldest on'),
    (3, '12 enqueued, 12 appended, 12 kept, 1 buried, 4 claimed, 4 completed, to claim 1',
      'but not one with an item that is open'),
    (4, '12 enqueued, 12 appended, 12 kept, 1 buried, 7 claimed, 5 completed, to claim 2',
      'until that has moved to a row of its own'),
    (5, '0 enqueued, 0 appended, 0 kept, 0 buried, 0 claimed, 0 completed, to claim 0',
      'what this very transaction appended is counted later'),
    (6, '3 enqueued, 3 appended, 3 kept, 0 buried, 0 claimed, 0 completed, to claim 0',
      'once; and nothing that was rolled back'),
    (7, '4 enqueued, 0 appended, 0 kept, 0 buried, 0 claimed, 0 completed, to claim 0',
      'jobs that are scheduled are enqueued, without an entry'),
    (8, '4 enqueued, 1 appended, 1 kept, 0 buried, 0 claimed, 0 completed, to claim 0',
      'one that is promoted is not enqueued again'),
    (9, '3 enqueued, 1 appended, 1 kept, 0 buried, 0 claimed, 0 completed, to claim 0',
      'one that is moved away is one less'),
    (10, '1 enqueued, 0 appended, 0 kept, 0 buried, 0 claimed, 0 completed, to claim 0', 'and one more there'),
    (11, '2 enqueued, 3 appended, 3 kept, 1 buried, 1 claimed, 0 completed, to claim 1',
      'no job is enqueued by a cancel, a retry, a failure, or a release')
  ) e(n, expected, description) using (n)
 order by n;
select pg_temp.steps_agree();
select pg_temp.agrees('the books balance');

-- Only so many claims
select pg_temp.fill(pg_temp.q(' many'), 10) \g /dev/null
create temp table many as select * from pg_temp.take(' many', 10, one_claim => false);
select awa.complete(job_id, receipt) from many \g /dev/null
select is((select completed from awa.queue_counts(pg_temp.q(' many'))), 10::bigint, 'ten claims');
select ok((select f from setval('awa.next_fold_at', 1), awa._fold(max_claims => 3) f),
  'there is more to count than a pass counts');
select is((select r.closed_seq from awa.queue_rollups r where r.lane = awa._lane(awa._queue_id(pg_temp.q(' many')), 2)),
  3::bigint, 'at most so many in one pass');
select is((select completed from awa.queue_counts(pg_temp.q(' many'))), 10::bigint, 'the counts stay');
select ok((select not f from setval('awa.next_fold_at', 1), awa._fold(everything => true) f), 'not in the next one');
select is((select r.closed_seq from awa.queue_rollups r where r.lane = awa._lane(awa._queue_id(pg_temp.q(' many')), 2)),
  10::bigint, 'the next pass goes on from there');
select is((select completed from awa.queue_counts(pg_temp.q(' many'))), 10::bigint, 'and the counts stay');

-- Seldom
select awa.enqueue(:'queue' || ' seldom', 'k') \g /dev/null
create temp table before (folded_at timestamptz);
with folded as (
  update awa.queue_rollups r
     set folded_at = clock_timestamp()
   where r.lane = awa._lane(awa._queue_id(pg_temp.q(' seldom')), 2)
  returning folded_at
)
insert into before select * from folded;
select setval('awa.next_fold_at', 1), awa._fold() \g /dev/null
select is((
  select r.folded_at from awa.queue_rollups r where r.lane = awa._lane(awa._queue_id(pg_temp.q(' seldom')), 2)
),
  (select folded_at from before), 'where little has happened, it is not counted again at once');
select is((select c.available from awa.queue_counts(pg_temp.q(' seldom')) c), 2::bigint,
  'and the count is exact all the same');
update awa.queue_rollups r
   set folded_at = clock_timestamp() - interval '6 seconds'
 where r.lane = awa._lane(awa._queue_id(pg_temp.q(' seldom')), 2);
select setval('awa.next_fold_at', 1), awa._fold() \g /dev/null
select ok((
  select r.folded_at > b.folded_at
    from before b, awa.queue_rollups r
   where r.lane = awa._lane(awa._queue_id(pg_temp.q(' seldom')), 2)
),
  'after a few seconds it is');

-- A time for the next look at all queues that is more than an hour away was set by a clock that was ahead
select setval('awa.next_fold_at', awa._microseconds(clock_timestamp() + interval '2 hours')), awa._fold(),
       awa._fold() \g /dev/null
select ok((select s.last_value < awa._microseconds(clock_timestamp() + interval '1 hour') from awa.next_fold_at s),
  'a clock that was ahead does not keep maintenance from looking at all queues');

-- Claims that stay open are passed over, and counted when they are closed
select pg_temp.fill(pg_temp.q(' open'), 5) \g /dev/null
create temp table open as select * from pg_temp.take(' open', 5, one_claim => false);
select awa.complete(job_id, receipt) from open where n in (1, 3, 5) \g /dev/null
create function pg_temp.open_seqs() returns text
language sql
return (
  select format('%s claimed, to claim %s, open %s', r.claimed, r.closed_seq, r.open_seqs)
    from awa.queue_rollups r
   where r.lane = awa._lane(awa._queue_id(pg_temp.q(' open')), 2)
);
update awa.lease_claims c
   set claimed_at = clock_timestamp()
 where c.lane = awa._lane(awa._queue_id(pg_temp.q(' open')), 2);
select pg_temp.fold() \g /dev/null
select is(pg_temp.open_seqs(), '1 claimed, to claim 1, open {}', 'an open claim is waited for');
update awa.lease_claims c
   set claimed_at = c.claimed_at - interval '11 seconds'
 where c.lane_seq = 2 and c.lane = awa._lane(awa._queue_id(pg_temp.q(' open')), 2);
select pg_temp.fold() \g /dev/null
select is(pg_temp.open_seqs(), '2 claimed, to claim 3, open {2}', 'for ten seconds, then passed over');
select pg_temp.agrees('it is open all the same');
select is((select count(*) from awa._open_items o join open using (receipt)), 2::bigint, 'and found');
update awa.lease_claims c
   set claimed_at = c.claimed_at - interval '11 seconds'
 where c.lane_seq = 4 and c.lane = awa._lane(awa._queue_id(pg_temp.q(' open')), 2);
update awa.queue_rollups r
   set open_seqs = r.open_seqs || array(select -n::bigint from generate_series(1, 999) n)
 where r.lane = awa._lane(awa._queue_id(pg_temp.q(' open')), 2);
select pg_temp.fold() \g /dev/null
select is((select r.closed_seq from awa.queue_rollups r where r.lane = awa._lane(awa._queue_id(pg_temp.q(' open')), 2)),
  3::bigint, 'a thousand at most');
update awa.queue_rollups r set open_seqs = '{2}' where r.lane = awa._lane(awa._queue_id(pg_temp.q(' open')), 2);
select awa.complete(job_id, receipt) from open where n = 2 \g /dev/null
select pg_temp.fold() \g /dev/null
select is(pg_temp.open_seqs(), '4 claimed, to claim 5, open {4}', 'one that is closed by now is counted');
select pg_temp.agrees('the books balance with those that were passed over');

-- By segment
select awa.enqueue(pg_temp.q(' segments'), 'k') \g /dev/null
select pg_temp.fill(pg_temp.q(' segments'), 3) \g /dev/null
update awa.ring set current_segment = (current_segment + 1) % 4;
select pg_temp.fill(pg_temp.q(' segments'), 2) \g /dev/null
select pg_temp.fold() \g /dev/null
select is(
  (
    select format('%s enqueued, %s %s kept', k.enqueued, k.segment_entries[(r.current_segment + 3) % 4 + 1],
      k.segment_entries[r.current_segment + 1])
      from awa.queue_rollups k, awa.ring r
     where k.lane = awa._lane(awa._queue_id(pg_temp.q(' segments')), 2)
  ),
  '5 enqueued, 3 2 kept', 'entries are counted by segment');
select results_eq(
  format(
    'select a.xid = pg_current_xact_id(), a.entries, a.tombstones, a.enqueued from awa._appended_since(%s, (select '
    'r.counted from awa.queue_rollups r where r.lane = %1$s), null) a',
    awa._lane(awa._queue_id(pg_temp.q(' segments')), 2)),
  'values (true, 1, 0, 1::bigint)', 'the transaction''s own entry is still to be counted');
select is((
  select string_agg(format('%s %s', a.segment = r.current_segment, a.entries),
    ', ' order by a.segment = r.current_segment)
    from awa.ring r, awa._appended_since(awa._lane(awa._queue_id(pg_temp.q(' segments')), 2), '3:3:', null) a
   where a.xid <> pg_current_xact_id()
),
  'f 1, f 1, f 1, t 1, t 1', 'before that, all were');

-- Everything, but where nothing has happened
select awa._fold(everything => true) \g /dev/null
select is((select count(*) from awa.queue_rollups r where r.lane = awa._lane(awa._queue_id(pg_temp.q(' segments')), 3)),
  0::bigint, 'a lane on which nothing has happened has no counts');

select cmp_ok((
  select cardinality(f.counts)
    from awa._fold_lane(awa._lane(awa._queue_id(pg_temp.q(' segments')), 2), 1000, clock_timestamp(), array_fill(
      (awa._queue_id(pg_temp.q(' segments')), 60, awa._minute_of(now()), 'k', 1, 0, 0, '{}',
        '{}')::awa.queue_statistics, array[501]), '{}', '{}') f
), '<', 100, 'what has been counted is stored before it is much');

select * from finish();
rollback;

-- Without this, a lane's cursor could go back, or two closures of one item could count.
\set name ledgers
\ir ../prelude.psql

begin;
select plan(16);

select pg_temp.fill(:'queue', 5) \g /dev/null
create temp table c as select * from pg_temp.take('', 2);
create temp table lane as
select c.lane, c.claim_id, c.lane_seq, c.segment
  from awa.lease_claims c
 where c.claim_id = (select receipt >> 12 from c limit 1);

-- Cursors
select is((select awa._move_cursor(l.segment, l.lane, 2, awa._snapshot(), '3:3:', '3', 7) from lane l), 2::bigint,
  'a cursor moves to the next number');
select is(
  (select row(k.first_xid, k.first_id, k.pos_xid, k.pos_id, k.lo, k.bytes, k.holds_keys, k.job_ids,
            k.lease_until = k.claimed_at)::text
     from awa.lease_claims k join lane l on l.lane = k.lane where k.lane_seq = 2),
  '(3,7,3,7,3:3:,0,f,{},t)', 'by a claim of no jobs, at one place');
select cmp_ok((select k.claim_id from awa.lease_claims k join lane l on l.lane = k.lane where k.lane_seq = 2), '>',
  (select l.claim_id from lane l), 'which has an id of its own');
select throws_ok(format('select awa._move_cursor(%s::smallint, %s, 2, awa._snapshot())', l.segment, l.lane), '23505',
  null, 'no two claims of a lane have one number') from lane l;
select is((select row((k).lo, (k).pos_xid, (k).pos_id)::text
             from (select awa._claim_of_no_jobs(1, 0::smallint, 512, 1, '5:5:') k) k), '(,0,0)',
  'without a place it is at the end of its window');
select lives_ok('select awa._check_snapshot(nextval(''awa.claim_ids''))', 'a number that no claim has is stale');
select is((select count(*) from awa.lease_claims k where k.lane = 0), 0::bigint, 'and no claim has it afterwards');

-- Closures
select ok(awa._append_closure(l.segment, l.claim_id, 0, null, 'failed'), 'an item is closed') from lane l;
select ok(not awa._append_closure(l.segment, l.claim_id, 0, null, 'completed'), 'once') from lane l;
select ok(awa._append_closure(l.segment, l.claim_id, -1, '{1}', 'completed'), 'a batch has a number of its own')
  from lane l;
select is(
  (select array_agg(k.item || ' ' || k.outcome || coalesce(' ' || k.items::text, '') order by k.item)
     from awa.lease_claim_closures k join lane l using (claim_id)),
  '{"-1 completed {1}","0 failed"}', 'and both have a row');
select is((
  select array_agg(k.item order by k.item)
    from lane l
   cross join lateral awa._append_closures(array[
      (l.claim_id, now(), l.segment, 0, 'completed', null),
      (l.claim_id, now(), l.segment, 1, 'completed', null),
      (l.claim_id, now(), l.segment, -1, 'completed', '{1}'),
      (l.claim_id, now(), l.segment, -2, 'completed', '{}')]::awa.lease_claim_closures[]) k),
  '{-2,1}', 'of several those whose numbers were not taken');
select is((select count(*) from awa._append_closures('{}')), 0::bigint, 'of none, none');
select is(awa._next_batch(null), -1, 'the first batch is -1');
select is(awa._next_batch(4), -1, 'also beside items');
select is(awa._next_batch(-1), -2, 'and the next one -2');

select * from finish();
rollback;

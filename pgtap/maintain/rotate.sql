-- Without this, the current segment would grow for ever, or new rows go to one that is not empty yet.
\set name rotate
\ir ../prelude.psql

-- From segment 0, and nothing in the others
call pg_temp.one_segment();
select awa.rotate(true) from generate_series(1, (select (4 - r.current_segment) % 4 from awa.ring r)) \g /dev/null
call pg_temp.one_segment();
select count(*)
  from awa.enqueue_many(:'queue', 'k', array(select to_jsonb(n) from generate_series(1, 12) n)) \g /dev/null
create temp table c as select * from pg_temp.take('', 8);
select awa.enqueue(:'queue' || ' later', 'k', run_at => '2130-01-01') as later_id,
       awa.enqueue(:'queue' || ' later', 'due', run_at => '2130-01-01') as due_id \gset
select j.id as ready_id from awa.jobs j where j.queue = :'queue' and j.args = '12' \gset
update awa.deferred_jobs set run_at = clock_timestamp() where job_id = :due_id;

begin;
select plan(45);

create function pg_temp.rotated(force boolean default false) returns text
language sql
as $$ select format('%s %s', r.rotated, r.current_segment) from awa.rotate(force) r $$;

-- When it is time
select is(pg_temp.rotated(), 'f 0', 'the current segment stays while it is young and small');
select is(pg_temp.rotated(null), 'f 0', 'an explicit null means the default');
update awa.ring set left_at[1] = clock_timestamp() - interval '7 hours 59 minutes';
select is(pg_temp.rotated(), 'f 0', 'for eight hours');
update awa.settings set segment_age = '7 hours 58 minutes';
savepoint old;
select is(pg_temp.rotated(), 't 1', 'or as long as the settings say');
rollback to old;
update awa.settings set segment_age = default;
update awa.ring set left_at[1] = clock_timestamp() - interval '8 hours 1 second';
select is(pg_temp.rotated(), 't 1', 'then it is left for the next one');
rollback to old;
update awa.settings set segment_age = default, segment_bytes = pg_relation_size('awa.ready_entries_0') + 1;
select is(pg_temp.rotated(), 'f 0', 'or when its entries');
update awa.settings set segment_bytes = pg_relation_size('awa.ready_entries_0');
select is(pg_temp.rotated(), 't 1', 'are so large');
select is(pg_temp.rotated(), 'f 1', 'which those of the next one are not');
rollback to old;

-- Onto an empty one only
insert into awa.ready_tombstones (segment, lane, xid, job_id, batch, cancels) values (1, 8, '3', 1, 1, true);
select is(pg_temp.rotated(true), 'f 0', 'a tombstone in the next segment is in the way');
rollback to old;
insert into awa.ready_entries (segment, lane, xid, job_id, ready_at, priority, attempt, max_attempts, body_bytes, kind,
  args)
values (1, 8, '3', 1, now(), 2, 1, 25, 60, 'k', '{}');
select is(pg_temp.rotated(true), 'f 0', 'so is an entry');
rollback to old;
insert into awa.lease_claims (segment, claim_id, lane, lane_seq, hi, first_xid, first_id, pos_xid, pos_id, claimed_at,
  lease_until, holds_keys, job_ids)
values (1, 1, 8, 1, '3:3:', '0', 0, '0', 0, now(), now(), false, '{}');
select is(pg_temp.rotated(true), 'f 0', 'so is a claim');
rollback to old;
insert into awa.lease_claim_closures (segment, claim_id, item, outcome, closed_at) values (1, 1, 0, 'completed', now());
select is(pg_temp.rotated(true), 'f 0', 'so is an answer');
rollback to old;
insert into awa.lease_claim_closures (segment, claim_id, item, outcome, closed_at) values (2, 1, 0, 'completed', now());
select is(pg_temp.rotated(true), 't 1', 'not in the one after that');
rollback to old;

-- Notes
create temp table before as select r.*, clock_timestamp() as at from awa.ring r;
select is(pg_temp.rotated(true), 't 1', 'forced at any time');
select ok((
  select r.left_at[1] between b.at and clock_timestamp()
    and r.left_at[2] between b.at and clock_timestamp()
    and r.left_at[3:4] = b.left_at[3:4]
    from awa.ring r, before b
),
  'ring says when');
select is((select to_jsonb(r) - '{current_segment,left_at}'::text[] from awa.ring r),
  (select to_jsonb(b) - '{current_segment,left_at,at}'::text[] from before b), 'and nothing else');
select is(pg_temp.unbalanced(), null, 'the books balance');
rollback to old;
select awa.set_priority(:ready_id, 4) \g /dev/null
select is(pg_temp.rotated(true), 't 1', 'forced, in a transaction that has put a job somewhere');
select is(awa.set_priority(:ready_id, 1), 'available', 'it may go on');
select is(pg_temp.outcome(format('select awa.set_priority(%s, 4)', :ready_id)), 'JQ005',
  'but not to a place where it was, in whichever segment');
rollback to old;
select rotated from awa.rotate(true) \g /dev/null

-- Where rows go from then on
select is(pg_temp.states(), 'available 4, running 8', 'jobs are where they were');
select awa.enqueue(pg_temp.q(' new'), 'k') \g /dev/null
select is((
  select string_agg(e.segment::text, ' ')
    from awa.ready_entries e
   where awa._queue_of(e.lane) = awa._queue_id(pg_temp.q(' new'))
),
  '1', 'new entries go to the new segment');
create temp table claimed as select * from awa.claim(pg_temp.q(), 3);
select is((
  select string_agg(distinct l.segment::text, ' ') from awa.lease_claims l join claimed on l.claim_id = receipt >> 12
),
  '1', 'new claims, too');
select awa.complete(job_id, receipt) from c where n = 1 \g /dev/null
select count(*)
  from awa.complete_many((select array_agg(job_id) from c where n in (2, 3)),
    (select array_agg(receipt) from c where n in (2, 3))) \g /dev/null
select is((
  select string_agg(k.segment::text, ' ')
    from awa.lease_claim_closures k
   where k.claim_id in (select receipt >> 12 from c)
),
  '0 0', 'answers to the segment of their claim');
select is(pg_temp.outcome(format('select awa.complete(%s, %s)', job_id, receipt)), 'JQ001', 'once') from c where n = 1;
savepoint moved;
select awa.cancel(:ready_id) \g /dev/null
select is((select string_agg(t.segment::text, ' ') from awa.ready_tombstones t where t.job_id = :ready_id), '0',
  'burials to the segment of the entry');
rollback to moved;
select awa.set_priority(:ready_id, 4) \g /dev/null
select is((
  select string_agg(e.segment::text, ' ' order by e.segment) from awa.ready_entries e where e.job_id = :ready_id
),
  '0 1', 'and entries that follow to the new one: of one that is moved');
select awa.release(job_id, receipt) from c where n = 4 \g /dev/null
select awa.fail(job_id, receipt, 'e', '1 day') from c where n = 5 \g /dev/null
select awa.retry(job_id) from c where n = 5 \g /dev/null
select awa.discard(job_id, receipt, 'e') from c where n = 6 \g /dev/null
select awa.retry(job_id) from c where n = 6 \g /dev/null
select is((
  select string_agg(e.segment::text, ' ' order by c.n, e.segment)
    from awa.ready_entries e
    join c using (job_id)
   where c.n in (4, 5, 6)
),
  '0 1 0 1 0 1', 'given back, or retried');
select promoted from awa.promote_due() \g /dev/null
select is((select string_agg(e.segment::text, ' ') from awa.ready_entries e where e.job_id = :due_id), '1',
  'or promoted');
select awa.move(:later_id, pg_temp.q(' moved')) \g /dev/null
select is((
  select string_agg(distinct a.segment::text, ' ')
    from awa.arrivals a
   where a.xid = pg_current_xact_id() and a.segment <> 0
),
  '1', 'arrivals, too');
select pg_temp.agrees('each job is in one state, and the books balance');
set constraints all immediate\; set local idle_in_transaction_session_timeout = 0;
select pg_temp.agrees('also when it is decided');
set constraints all deferred;

-- Around
truncate awa.ready_entries, awa.ready_tombstones, awa.arrivals, awa.lease_claims, awa.lease_claim_closures,
awa.queue_rollups;
select is((select string_agg(pg_temp.rotated(true), ', ') from generate_series(1, 4) n), 't 2, t 3, t 0, t 1',
  'after the last segment comes the first');
select is(pg_temp.rotated(), 'f 1', 'one that was begun just now stays');
update awa.settings set segment_bytes = 1;
select is(pg_temp.rotated(), 'f 1', 'an empty one also when any size would do');

-- From an id to its job without a scan: the segment that is left is summarized for the last time.
select pg_temp.fill(pg_temp.q(' summary'), 10000) \g /dev/null
savepoint summary;
select is(brin_summarize_new_values('awa.ready_entries_1_job'), 1, 'entries that no summary has');
rollback to summary;
select is(pg_temp.rotated(true), 't 2', 'have one');
select is(brin_summarize_new_values('awa.ready_entries_1_job'), 0, 'when their segment is left');

-- Settings that make no sense
select is(pg_temp.outcome('update awa.settings set ' || s), '23514', s)
  from unnest(
    array['segment_age = ''0''', 'segment_age = ''-1 hour''', 'segment_bytes = 0', 'segment_bytes = -1']
  ) with ordinality u(s, n)
 order by n;
select is(pg_temp.outcome('insert into awa.ring (only_row, tables) values (false, ''{}'')'), '23514',
  'there is one ring');
select is(pg_temp.outcome('update awa.ring set current_segment = 4'), '23514', 'of four segments');
select is((select count(*) from awa.rotate_row), 0::bigint, 'the view that names the columns is empty');

select * from finish();
rollback;

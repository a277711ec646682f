-- Without this, history would be kept for ever; or what is alive would go with it, run twice, or lose its place.
-- What takes several transactions is made to look as if it had: by the number of the cleaning's. The rest is covered by
-- tests with several sessions.
\set name prune_oldest
\ir ../prelude.psql
call pg_temp.one_segment();

-- All that there may be in a segment, beside what other files have left: jobs in every state; lanes that are quiet,
-- paused, at work; keys; late commits; a queue that was dropped
\ir ../read/states.psql
select count(*) from awa.enqueue_many(:'queue' || ' quiet', 'k', array_fill('{}'::jsonb, array[3])) \g /dev/null
select count(*) from pg_temp.take(' quiet', 3) t cross join lateral awa.complete(t.job_id, t.receipt) \g /dev/null
select count(*)
  from awa.enqueue_many(:'queue' || ' paused', 'k', array(select to_jsonb(n) from generate_series(1, 5) n),
    priority => 3) \g /dev/null
select awa.pause_queue(:'queue' || ' paused') \g /dev/null
select count(*)
  from awa.enqueue_many(:'queue' || ' work', 'k', array(select to_jsonb(n) from generate_series(1, 20) n)) \g /dev/null
create temp table c as
select row_number() over (order by t.receipt)::int as n, t.job_id, t.receipt
  from awa.claim(:'queue' || ' work', 8, :worker_id) t;
insert into c select 8 + t.n, t.job_id, t.receipt from pg_temp.take(' work', 2, one_claim => false) t;
select count(*)
  from awa.complete_many((select array_agg(job_id) from c where n in (1, 2)),
    (select array_agg(receipt) from c where n in (1, 2))) \g /dev/null
select awa.complete(job_id, receipt) from c where n in (3, 9) \g /dev/null
select awa.release(job_id, receipt) from c where n = 4 \g /dev/null
select awa.extend(job_id, receipt, '1 hour') from c where n = 5 \g /dev/null
select awa.cancel(j.id) from awa.jobs j where j.queue = :'queue' || ' work' and j.args in ('12', '20') \g /dev/null
select awa.set_priority(j.id, 4) from awa.jobs j where j.queue = :'queue' || ' work' and j.args = '13' \g /dev/null
select awa.move(j.id, :'queue' || ' moved')
  from awa.jobs j
 where j.queue = :'queue' || ' work' and j.args = '14' \g /dev/null
select u.job_id as keyed_id
  from awa.enqueue_unique(:'queue' || ' keyed', 'k', unique_key => :'queue' || ' waits') u \gset
select count(*)
  from awa.enqueue_unique(:'queue' || ' keyed', 'k', unique_key => :'queue' || ' runs', priority => 1) \g /dev/null
create temp table keyed as select * from awa.claim(:'queue' || ' keyed', 1);
begin;
select count(*) from awa.enqueue_many(:'queue' || ' late', 'k', array['1', '2', '3']::jsonb[]) \g /dev/null
savepoint s;
select awa.enqueue(:'queue' || ' late', 'k', '"lost"') \g /dev/null
rollback to s;
select count(*) from awa.claim(:'queue' || ' late', 1) \g /dev/null
commit;
select count(*) from awa.enqueue_many(:'queue' || ' dropped', 'k', array_fill('{}'::jsonb, array[3])) \g /dev/null
select awa.drop_queue(:'queue' || ' dropped', true) \g /dev/null
select count(*) from awa.enqueue_many(:'queue' || ' dropped', 'again', array_fill('{}'::jsonb, array[2])) \g /dev/null
select pg_temp.step('setup') \g /dev/null

begin;
select plan(122);

create function pg_temp.prune(force boolean default false) returns text
language sql
as $$ select p.outcome from awa.prune_oldest(force) p $$;
-- As if the cleaning had been committed, and what came after it were another transaction
create function pg_temp.committed() returns void
language sql
as $$ update awa.ring set cleaned_by = (pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1)::text::xid8
 where cleaned_by is not null $$;
select current_segment as old from awa.ring \gset

-- When it is time
select is((select row(p.segment, p.outcome)::text from awa.prune_oldest(force => true) p), '(,empty)',
  'there is nothing to empty when all is in the current segment');
select rotated from awa.rotate(true) \g /dev/null
select current_segment as new from awa.ring \gset
create temp table ring_before as select to_jsonb(r) as ring from awa.ring r;
select is((select row(p.segment, p.outcome)::text from awa.prune_oldest() p), '(' || :old || ',kept)',
  'what has just been left is kept');
select is(pg_temp.prune(null), 'kept', 'an explicit null means the default');
update awa.ring set left_at[:old + 1] = clock_timestamp() - interval '23 hours 59 minutes';
select is(pg_temp.prune(), 'kept', 'for 24 hours');
update awa.settings set completed_retention = '25 hours';
update awa.ring set left_at[:old + 1] = clock_timestamp() - interval '24 hours 59 minutes';
select is(pg_temp.prune(), 'kept', 'or for as long as the settings say');
select is((select to_jsonb(r) - 'left_at' from awa.ring r), (select ring - 'left_at' from ring_before),
  'of which nothing is noted');
update awa.settings set completed_retention = default;
update awa.ring set left_at[:old + 1] = clock_timestamp() - interval '24 hours 1 second';

-- Cleaned
create temp table before as
select j.id, to_jsonb(j) as job,
       exists (select from awa._ledger l where l.id = j.id and l.state = 'completed') as is_past
  from awa.jobs j;
create temp table places_before as
select e.lane, e.xid, e.job_id
  from awa._available a
  join awa.ready_entries e using (lane, xid, job_id);
create temp table counts_before as select * from awa.queue_counts();
create temp table keys_before as select * from awa.unique_claims;
create function pg_temp.changed() returns text
language sql
return (
  select nullif(concat_ws('; ',
    'jobs '
      || (
        select string_agg(id::text, ' ')
          from (
            select b.id
              from before b
              left join lateral (select to_jsonb(j) as job from awa.jobs j where j.id = b.id) a on true
             where a.job is distinct from b.job and not b.is_past
             limit 5
          ) d
      ),
    'past ' || (select string_agg(b.id::text, ' ') from before b join awa.jobs j using (id) where b.is_past),
    'new ' || (select string_agg(j.id::text, ' ') from awa.jobs j where j.id not in (select id from before)),
    'places '
      || (
        select string_agg(job_id::text, ' ')
          from (
            select b.job_id
              from (table places_before except all select a.lane, a.xid, a.job_id from awa._available a) b
             limit 5
          ) d
      ),
    'counts '
      || (select string_agg(c.queue, ' ') from (table counts_before except all select * from awa.queue_counts()) c),
    'keys ' || (select string_agg(k.job_id::text, ' ') from (table keys_before except all table awa.unique_claims) k),
    pg_temp.unbalanced()), ''));
select cmp_ok((select count(*) from before where is_past), '>=', 6::bigint, 'there are jobs that completed');
select cmp_ok((select count(*) from places_before), '>=', 20::bigint, 'jobs that wait');
select cmp_ok((select count(*) from awa._open_items), '>=', 6::bigint, 'and attempts that are open');
-- Some at a time, where other files have left much
create function pg_temp.cleaned() returns text
language plpgsql
as $$
declare
  v_row record;
begin
  loop
    select * into v_row from awa.prune_oldest() p;
    if v_row.outcome <> 'cleaning' then
      return v_row::text;
    end if;
  end loop;
end
$$;
select is(pg_temp.cleaned(), '(' || :old || ',cleaned)', 'what is past its retention is cleaned');
select is(pg_temp.changed(), null,
  'every job that has not completed is where it was, with its place, its receipt, its key, and counted; what completed '
  'is not shown');
select is((select count(*) from awa.ready_entries e where e.segment = :new), (select count(*) from places_before),
  'what waits was copied to the current segment');
select is((select count(*) from awa._open_items), 0::bigint, 'what runs has a row of its own');
select is((select count(*) from awa._lanes l where l.cursor_segment = :old), 0::bigint, 'no cursor is left behind');
select is((
  select count(*)
    from awa._lanes l
   where l.cursor_segment = :new and exists (select from awa.lease_claims c where c.lane = l.lane and c.segment = :old)
),
  (select count(distinct c.lane) from awa.lease_claims c where c.segment = :old), 'each has come along');
select is((
  select count(*)
    from awa._lanes l
    join awa.lease_claims c on c.segment = :old and c.lane = l.lane and c.lane_seq = l.lane_seq - 1
   where row(l.lo, l.hi, l.pos_xid, l.pos_id)::text <> row(c.lo, c.hi, c.pos_xid, c.pos_id)::text
),
  0::bigint, 'as it was');
select is((
  select row(r.cleaned_segment, r.cleaned_by = pg_current_xact_id(), r.old_snapshots, r.outcome)::text from awa.ring r
),
  '(' || :old || ',t,,)', 'ring says so');
select is((
  select count(*)
    from pg_locks l
   where l.pid = pg_backend_pid()
     and l.locktype = 'relation'
     and l.mode = 'AccessExclusiveLock'
     and l.relation in (select i.inhrelid from pg_inherits i)
),
  0::bigint, 'nothing is truncated yet');

-- Work goes on
savepoint cleaned;
select is((select array_agg(t.args order by t.receipt) from awa.claim(pg_temp.q(' work'), 100) t),
  array['4', '11', '15', '16', '17', '18', '19', '13']::jsonb[], 'jobs are claimed in their order, once');
select is((select count(*) from awa.claim(pg_temp.q(' quiet'), 10)), 0::bigint, 'none that completed');
select is((select array_agg(t.args order by t.receipt) from awa.claim(pg_temp.q(' late'), 10) t),
  array['1', '2', '3']::jsonb[], 'late ones');
select is((select count(*) from awa.claim(pg_temp.q(' dropped'), 10) t where t.kind = 'again'), 2::bigint,
  'of a queue that was dropped those that came after');
select is((
  select count(*) from awa.complete_many((select array_agg(job_id) from c), (select array_agg(receipt) from c))
),
  5::bigint, 'attempts are answered, those that ended are stale');
select is(pg_temp.outcome(format('select awa.complete(%s, %s)', job_id, receipt)), 'ok', 'one with a key') from keyed;
select is((select count(*) from awa.unique_claims u join keyed using (job_id)), 0::bigint, 'lets go of it');
select is(awa.cancel(:keyed_id), 'available', 'what was copied can be cancelled');
select is((select t.segment from awa.ready_tombstones t where t.job_id = :keyed_id), :new::smallint, 'where it is now');
set constraints all immediate\; set local idle_in_transaction_session_timeout = 0;
select is((select count(*) from awa.claim(pg_temp.q(' keyed'), 10)), 0::bigint, 'and is not claimed');
select is(pg_temp.unbalanced(), null, 'the books balance');
set constraints all deferred;
rollback to cleaned;

-- In the way
select is(pg_temp.prune(), 'waiting', 'the truncation waits until the cleaning is committed');
select ok((
  select r.tries = 1
    and r.outcome = 'waiting'
    and r.stuck_since between now() and clock_timestamp()
    and r.retry_at between now() + interval '1 second' and clock_timestamp() + interval '1 second'
    from awa.ring r
),
  'which ring says');
select is((select row(p.segment, p.outcome)::text from awa.prune_oldest() p), '(' || :old || ',waiting)',
  'it is not tried again at once');
select is((select r.tries from awa.ring r), 1, 'at all');
create temp table stuck as select r.stuck_since from awa.ring r;
update awa.ring set retry_at = clock_timestamp();
select is(pg_temp.prune(), 'waiting', 'but after a second');
select ok((
  select r.tries = 2
    and r.stuck_since = s.stuck_since
    and r.retry_at between now() + interval '2 seconds' and clock_timestamp() + interval '2 seconds'
    from awa.ring r, stuck s
),
  'then after two');
select is(pg_temp.prune(true), 'waiting', 'forced, at once');
select ok((
  select r.tries = 3 and r.retry_at between now() + interval '4 seconds' and clock_timestamp() + interval '4 seconds'
    from awa.ring r
),
  'then after four');
update awa.ring set retry_at = clock_timestamp(), tries = 2147483646;
select is(pg_temp.prune(), 'waiting', 'and so on');
select ok((
  select r.retry_at between now() + interval '5 minutes' and clock_timestamp() + interval '5 minutes' from awa.ring r
),
  'up to five minutes');

-- Truncated
select pg_temp.committed() \g /dev/null
create function pg_temp.emptied() returns text
language sql
return (
  select concat_ws(' ', case when not exists (select from awa.ready_entries where segment = g.s) then 'entries' end,
    case when not exists (select from awa.ready_tombstones where segment = g.s) then 'tombstones' end,
    case when not exists (select from awa.arrivals where segment = g.s) then 'arrivals' end,
    case when not exists (select from awa.lease_claims where segment = g.s) then 'claims' end,
    case when not exists (select from awa.lease_claim_closures where segment = g.s) then 'closures' end)
  from (select current_setting('test.old')::int as s) g);
select set_config('test.old', :'old', true) \g /dev/null
update awa.ring set retry_at = clock_timestamp();
select is(pg_temp.prune(), 'truncating', 'then one table of the segment is truncated after another');
select is(pg_temp.emptied(), 'entries', 'the entries first');
select ok((
  select r.outcome is null and r.tries = 4 and r.stuck_since is null and r.retry_at is null and r.old_snapshots = '{}'
    from awa.ring r
),
  'nothing is in the way any more');
select is(pg_temp.changed(), null, 'nothing changes');
select is(pg_temp.prune(), 'truncating', 'then');
select is(pg_temp.emptied(), 'entries tombstones', 'what was buried');
select is(pg_temp.changed(), null, 'nothing changes either');
select is(pg_temp.prune(), 'truncating', 'then');
select is(pg_temp.emptied(), 'entries tombstones arrivals', 'what arrived without an entry');
select is(pg_temp.prune(), 'truncating', 'then');
select is(pg_temp.emptied(), 'entries tombstones arrivals claims', 'the claims');
select is(pg_temp.changed(), null, 'nothing changes here');
select is((select row(p.segment, p.outcome)::text from awa.prune_oldest() p), '(' || :old || ',truncated)',
  'then the answers');
select is(pg_temp.emptied(), 'entries tombstones arrivals claims closures', 'to the last one');
select is(pg_temp.changed(), null, 'nothing has changed');
select is((select to_jsonb(r) - '{left_at,current_segment}'::text[] from awa.ring r),
  (select ring - '{left_at,current_segment}'::text[] from ring_before), 'ring is as before');
select is(pg_temp.prune(), 'empty', 'and that is all');
select is((select array_agg(t.args order by t.receipt) from awa.claim(pg_temp.q(' work'), 100) t),
  array['4', '11', '15', '16', '17', '18', '19', '13']::jsonb[], 'jobs are claimed in their order');
select is((select count(*) from awa.claim(pg_temp.q(' quiet'), 10)), 0::bigint, 'none twice');
select is((select array_agg(t.args order by t.receipt) from awa.claim(pg_temp.q(' late'), 10) t),
  array['1', '2', '3']::jsonb[], 'nor those that committed late');
select is((
  select count(*) from awa.complete_many((select array_agg(job_id) from c), (select array_agg(receipt) from c))
),
  5::bigint, 'attempts are answered');
select is((select string_agg(j.state, ' ' order by c.n) from c, awa.job(c.job_id) j where c.n in (5, 6, 7, 8, 10)),
  'completed completed completed completed completed', 'as ever');
select is(pg_temp.unbalanced(), null, 'the books balance in the end');

-- In the next turn, on tables of which all is known: three jobs wait, four run, two completed, one is buried.
truncate awa.ready_entries, awa.ready_tombstones, awa.arrivals, awa.lease_claims, awa.lease_claim_closures,
awa.queue_rollups, awa.leases, awa.deferred_jobs, awa.done_entries, awa.unique_claims, awa.queues;
update awa.ring set current_segment = 3;
select pg_temp.fill(pg_temp.q(), 10) \g /dev/null
create temp table d as select * from pg_temp.take('', 6);
select awa.complete(job_id, receipt) from d where n <= 2 \g /dev/null
select j.id as buried_id from awa.jobs j where j.queue = pg_temp.q() and j.args ->> 'n' = '8' \gset
select awa.cancel(:buried_id) \g /dev/null
set constraints all immediate\; set local idle_in_transaction_session_timeout = 0;
set constraints all deferred;
update awa.ready_tombstones set by_xid = (pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1)::text::xid8;
select rotated from awa.rotate(true) \g /dev/null
update awa.ring set left_at = array_fill(clock_timestamp() - interval '2 days', array[4]);
-- As if a transaction had been open until now
create function pg_temp.plus(s pg_snapshot, x xid8) returns pg_snapshot
language sql
return (
  select format('%s:%s:%s', least(x, pg_snapshot_xmin(s)), pg_snapshot_xmax(s),
    string_agg(i::text, ',' order by i))::pg_snapshot
    from (select pg_snapshot_xip(s) union select x) i(i)
);
create function pg_temp.was_open(x xid8) returns void
language sql
as $$
  update awa.lease_claims c set hi = pg_temp.plus(c.hi, x);
  update awa.queue_rollups r set counted = pg_temp.plus(r.counted, x);
  update awa.ring r set cleaned_until = pg_temp.plus(r.cleaned_until, x);
$$;
-- What becomes of the segment in so many calls, and what is wrong after any of them
create function pg_temp.pruned(calls int, states text) returns text[]
language plpgsql
as $$
declare
  v_outcomes text[] := '{}';
begin
  for i in 1..calls loop
    perform pg_temp.committed();
    v_outcomes := v_outcomes || pg_temp.prune(true);
    if pg_temp.states() <> states or pg_temp.unbalanced() is not null then
      v_outcomes := v_outcomes || concat_ws(' ', pg_temp.states(), pg_temp.unbalanced());
    end if;
  end loop;
  return v_outcomes;
end
$$;
-- Queues with a job each that waits
create function pg_temp.queues(n int) returns void
language sql
as $$
  select awa._use_lanes(array[awa._lane(awa._queue_id(pg_temp.q(' ' || i)), 2)], pg_temp.q(' ' || i))
    from generate_series(1, n) i;
  insert into awa.ready_entries (segment, lane, xid, job_id, ready_at, priority, attempt, max_attempts, body_bytes,
    kind, args)
  select 3, awa._lane(awa._queue_id(pg_temp.q(' ' || i)), 2),
         (pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1)::text::xid8, nextval('awa.job_ids'), now(), 2, 1,
         25, 60, 'k', '{}'
    from generate_series(1, n) i;
$$;
-- Whether it takes several calls until nothing is left to carry, and what becomes of it
-- This transaction has written to the segment, so it would be waited for: as when it has ended.
create function pg_temp.cleans() returns text
language plpgsql
as $$
begin
  while awa._fold(everything => true) loop -- on a busy machine it takes several calls, too
  end loop;
  for n in 1..100 loop
    if pg_temp.prune() = 'cleaning' then
      update awa.ring set begun_by = null, carried_before = 9223372036854775807, passed_over = '{}'
       where begun_by is not null;
    else
      return case when n > 2 then 'calls, ' else n || ' calls, ' end ||
        (select coalesce(r.outcome, 'cleaned ' || r.cleaned_segment) from awa.ring r);
    end if;
  end loop;
end
$$;
savepoint known;
select is(pg_temp.prune(), 'cleaned', 'from the last segment to the first');
select is(pg_temp.states(), 'available 3, cancelled 1, running 4', 'what is buried stays so');
rollback to known;

-- How long it waits for its locks
select is((
  select string_agg((extract(epoch from awa._prune_wait(n)) * 1000)::int::text, ' ' order by n)
    from generate_series(0, 6) n
),
  '20 40 80 160 320 500 500', 'longer after each try, up to half a second');

-- Too much is alive
update awa.settings set carry_max = 2;
select is(pg_temp.prune(true), 'full', 'more waits than carry_max');
select is((select row(r.tries, r.outcome, r.cleaned_segment)::text from awa.ring r), '(1,full,)', 'which is noted');
select is((select count(*) from awa.ready_entries e where e.segment = 0) + (select count(*) from awa.leases), 0::bigint,
  'and nothing else');
update awa.settings set carry_max = 3;
select is(pg_temp.prune(), 'full', 'it is not tried at once');
update awa.ring set retry_at = clock_timestamp();
select is(pg_temp.prune(), 'cleaned', 'but when it is time');
select is((select row(r.outcome, r.tries, r.stuck_since, r.retry_at)::text from awa.ring r), '(,0,,)',
  'and nothing is in the way then');
rollback to known;
update awa.ring set current_segment = 3;
select pg_temp.fill(pg_temp.q(' many'), 1100) \g /dev/null
create temp table many as select * from pg_temp.take(' many', 1100);
update awa.ring set current_segment = 0;
select is((select count(*) from many), 1100::bigint, 'more than 1,000 attempts');
select is(pg_temp.prune(), 'cleaning', 'are not copied in one call');
select is((select count(*) from awa.leases), 1000::bigint, '1,000 of them get rows of their own');
select is(pg_temp.prune(true), 'cleaned', 'and the others in the next call');
select is(pg_temp.unbalanced(), null, 'the books balance with them');
rollback to known;
select count(*) from pg_temp.take('', 3) t cross join lateral awa.complete(t.job_id, t.receipt) \g /dev/null
select count(*) from d cross join lateral awa.complete(d.job_id, d.receipt) where n > 2 \g /dev/null
update awa.settings set carry_max = 0;
select is(pg_temp.prune(), 'cleaned', 'where nothing is alive nothing is carried');
select is((select row(c.available, c.running, c.completed, c.cancelled)::text from awa.queue_counts(pg_temp.q()) c),
  '(0,0,9,1)', 'all are counted');
rollback to known;

-- Very many queues: their locks take room in the server's lock table
select pg_temp.queues(1000) \g /dev/null
select is(pg_temp.cleans(), 'calls, cleaned 3', 'jobs of more than 1,000 queues are carried, some at a time');
select is(pg_temp.states(), 'available 3, cancelled 1, running 4', 'nothing is lost');
select is((select sum(c.available) from awa.queue_counts() c), 1003::numeric, 'of any queue');
select is(pg_temp.unbalanced(), null, 'the books balance with so many');
rollback to known;
select pg_temp.queues(501) \g /dev/null
update awa.ring set current_segment = 3;
select count(awa.complete(t.job_id, t.receipt))
  from generate_series(1, 501) i
 cross join lateral awa.claim(pg_temp.q(' ' || i)) t \g /dev/null
update awa.ring set current_segment = 0;
select is(pg_temp.cleans(), 'calls, cleaned 3', 'the cursors of more than 500 queues are carried some at a time');
select is((select count(*) from awa._lanes l where l.cursor_segment = 3), 0::bigint, 'to the last one');
select is(pg_temp.unbalanced(), null, 'the books balance with them, too');
rollback to known;

-- Rows are missing
create function pg_temp.without(command text) returns text
language plpgsql
set client_min_messages = error
as $$
declare
  v_outcomes text;
begin
  begin
    execute command;
    v_outcomes := format('%s, forced %s', pg_temp.prune(), pg_temp.prune(true));
    raise exception using errcode = 'TAP00';
  exception when sqlstate 'TAP00' then
    null;
  end;
  return v_outcomes;
end
$$;
select pg_temp.unbalanced() \g /dev/null
select is(pg_temp.without('delete from awa.ready_entries e where (e.args ->> $$n$$)::int = ' || n),
  'unbalanced, forced cleaned', 'an entry is missing: of one that ' || description)
  from (values (1, 'completed'), (4, 'runs'), (8, 'was cancelled'), (9, 'waits')) v(n, description);
select is(pg_temp.without('delete from awa.lease_claims'), 'unbalanced, forced cleaned', 'claims are missing');
select awa.complete(job_id, receipt) from d where n > 2 \g /dev/null
select is(pg_temp.unbalanced(), null, 'all have completed');
select is(pg_temp.without('delete from awa.lease_claim_closures k where k.item = 0'), 'unbalanced, forced cleaned',
  'an answer is missing');
select is(pg_temp.without('delete from awa.lease_claims'), 'unbalanced, forced cleaned',
  'claims are missing that were counted');
select is(pg_temp.without(
  'update awa.queue_rollups set segment_entries[4] = segment_entries[4] - 1 where segment_entries[4] > 0'
),
  'unbalanced, forced cleaned', 'there is one more entry than there should be');
rollback to known;

-- What comes from transactions that are older than the cleaning, and committed after it: a burial of what was carried,
-- and an arrival
create temp table late as select (pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 301)::text::xid8 as xid;
select is(pg_temp.prune(), 'cleaned', 'cleaned');
select pg_temp.was_open(xid) from late \g /dev/null
create temp table seven as select e.* from awa.ready_entries e where e.segment = 3 and e.args ->> 'n' = '7';
insert into awa.ready_tombstones (segment, lane, xid, job_id, by_xid, batch, cancels)
select 3, s.lane, s.xid, s.job_id, l.xid, 1, true
  from late l, seven s;
insert into awa.done_entries (job_id, lane, state, counted_by_closure, ready_at, created_at, finalized_at, attempt,
  max_attempts, body_bytes, kind, args)
select s.job_id, s.lane, 'cancelled', false, s.ready_at, s.ready_at, now(), 0, 25, 60, s.kind, s.args from seven s;
insert into awa.arrivals (segment, lane, xid, jobs) select 3, s.lane, l.xid, 1 from late l, seven s;
insert into awa.deferred_jobs (job_id, lane, state, run_at, created_at, attempt, max_attempts, body_bytes, kind, args)
select nextval('awa.job_ids'), s.lane, 'scheduled', '2130-01-01', now(), 1, 25, 60, 'k', '{}'
  from seven s;
select is(pg_temp.states(), 'available 2, cancelled 2, running 4, scheduled 1', 'what came late is seen');
select is(pg_temp.unbalanced(), null, 'in the books, too');
select is(pg_temp.pruned(2, 'available 2, cancelled 2, running 4, scheduled 1'), '{truncating,busy}',
  'what was buried, or arrived, late is not truncated');
select is((select r.cleaned_by from awa.ring r), null, 'its segment is to be cleaned once more');
select is(pg_temp.pruned(5, 'available 2, cancelled 2, running 4, scheduled 1'),
  '{cleaned,truncating,truncating,truncating,truncated}', 'then it is');
select is((select string_agg(t.args ->> 'n', ' ' order by t.receipt) from awa.claim(pg_temp.q(), 10) t), '9 10',
  'nothing that was buried comes back');
rollback to known;
-- An entry
create temp table late as select (pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 301)::text::xid8 as xid;
select is(pg_temp.prune(), 'cleaned', 'cleaned');
select pg_temp.was_open(xid) from late \g /dev/null
insert into awa.ready_entries (segment, lane, xid, job_id, ready_at, priority, attempt, max_attempts, body_bytes, kind,
  args)
select 3, s.lane, l.xid, nextval('awa.job_ids'), s.ready_at, 2, 1, 25, 60, 'late', '{"n": "late"}'
  from late l, (select e.lane, e.ready_at from awa.ready_entries e limit 1) s;
select is(pg_temp.pruned(2, 'available 4, cancelled 1, running 4'), '{busy,cleaned}',
  'an entry that came late is carried, too');
select is(pg_temp.pruned(5, 'available 4, cancelled 1, running 4'),
  '{truncating,truncating,truncating,truncating,truncated}', 'before its segment goes');
select is((select string_agg(t.args ->> 'n', ' ' order by t.receipt) from awa.claim(pg_temp.q(), 10) t), '7 9 10 late',
  'nothing is lost');
rollback to known;
-- A claim, of a queue from which nothing was carried
select pg_temp.fill(pg_temp.q(' other'), 3) \g /dev/null
select is(pg_temp.prune(), 'cleaned', 'cleaned');
update awa.ring set current_segment = 3;
create temp table e as select * from awa.claim(pg_temp.q(' other'), 2);
update awa.ring set current_segment = 0;
select is(pg_temp.pruned(5, 'available 3, cancelled 1, running 4'), '{truncating,truncating,truncating,busy,cleaned}',
  'claims that came late are not truncated');
select is((select count(*) from awa.leases l join e using (receipt)), 2::bigint, 'before they have rows of their own');
select is(pg_temp.pruned(2, 'available 3, cancelled 1, running 4'), '{truncating,truncated}', 'then they are');
select is((select array_agg(t.args ->> 'n') from awa.claim(pg_temp.q(' other'), 10) t), '{3}',
  'their cursor was carried');
rollback to known;

-- Whose snapshots are waited for: those who were there at the first look, as long as they are
select is(pg_temp.prune(), 'cleaned', 'cleaned');
select pg_temp.committed() \g /dev/null
update awa.ring set old_snapshots = '{"backend 1, by now gone"}';
select is(pg_temp.prune(), 'truncating', 'who has gone meanwhile is in nobody''s way');
select is((select count(*) from awa._old_snapshots('3')), 0::bigint, 'nor is the caller itself');
rollback to known;

-- Settings that make no sense
select is(pg_temp.outcome('update awa.settings set ' || s), '23514', s)
  from unnest(
    array['carry_max = -1', 'completed_retention = ''-1 second''', 'prune_wait = ''0''',
      'prune_wait = ''501 milliseconds''']
  ) with ordinality u(s, n)
 order by n;
select is(pg_temp.outcome(
  'update awa.settings set completed_retention = ''0'', prune_wait = ''500 milliseconds'', carry_max = 0'
),
  'ok', 'no retention at all');
select is(pg_temp.prune(), 'full', 'is a setting');
select is(current_setting('lock_timeout'), '0', 'the caller''s lock_timeout is as it was');
select is((select count(*) from awa.prune_oldest_row), 0::bigint, 'the view that names the columns is empty');
select pg_temp.steps_agree();

select * from finish();
rollback;

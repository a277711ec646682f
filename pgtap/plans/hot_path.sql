-- Without this, a plan that is fine on an empty table would read the whole history on a full one, or a hot path leave
-- dead rows behind.
-- The tables are emptied for the time of this transaction, and are as they were when it rolls back.
\set name hot_path
\ir ../prelude.psql
\ir cost.psql

begin;
truncate awa.ready_entries, awa.ready_tombstones, awa.arrivals, awa.lease_claims, awa.lease_claim_closures, awa.leases,
awa.deferred_jobs, awa.done_entries, awa.unique_claims, awa.queue_rollups;

-- What a test closes next: one attempt per call, from a claim of many, or of one
create temp table open_many (n int generated always as identity, job_id bigint, receipt bigint);
create temp table open_single (n int generated always as identity, job_id bigint, receipt bigint);
create temp table open_lease (n int generated always as identity, job_id bigint, receipt bigint);
create temp table open_keyed (n int generated always as identity, job_id bigint, receipt bigint);
create sequence pg_temp.next_many;
create sequence pg_temp.next_lease;
create sequence pg_temp.next_keyed;
create sequence pg_temp.next_single;
create function pg_temp.open(tab text) returns open_many
language plpgsql
as $$
declare
  v_row open_many;
begin
  execute format('select * from open_%1$s where n = (select nextval(%2$L))', tab,
    'pg_temp.next_' || tab) into strict v_row;
  return v_row;
end
$$;

-- Jobs with unique keys, as of transactions that ended before this one
create function pg_temp.fill_keyed(queue text, jobs int) returns void
language sql
as $$
  select awa._use_lanes(array[awa._lane(awa._queue_id(queue), 2)], queue);
  with filled as (
    insert into awa.ready_entries (segment, lane, xid, job_id, ready_at, priority, attempt, max_attempts, body_bytes,
      kind, args, unique_key)
    select r.current_segment, awa._lane(awa._queue_id(queue), 2),
           (pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 300 + n / 500)::text::xid8, nextval('awa.job_ids'),
           now(), 2, 1, 25, 60, 'k', to_jsonb(n),
           awa._unique_key(queue, 'k', '{}', queue || ' ' || n, null, null, null, null, now())
      from awa.ring r, generate_series(1, jobs) n
    returning job_id, unique_key
  )
  insert into awa.unique_claims (key, job_id) select substr(f.unique_key, 1, 32), f.job_id from filled f;
$$;
create sequence pg_temp.next_key;

-- What only claim calls, with the settings of claim
create function pg_temp.in_claim(call text) returns text
language plpgsql
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
as $$
declare
  v_result text;
begin
  execute call into v_result;
  return v_result;
end
$$;

select plan(182);

-- On empty tables
select pg_temp.measure('empty', array[
  'claim of nothing', 'select * from awa.claim(pg_temp.q(), 100)',
  'complete', 'select pg_temp.outcome($$select awa.complete(1, 1)$$)',
  'complete_many', 'select * from awa.complete_many(array[1, 2], array[4096, 8192])',
  'complete_many with outputs', $$
  select *
    from awa.complete_many(array[1, 2], array[4096, 8192], array['1', null]::jsonb[])$$,
  'fail', 'select pg_temp.outcome($$select awa.fail(1, 1, $e$e$e$)$$)',
  'fail_many', $$select * from awa.fail_many(array[1, 2], array[4096, 8192], array['e', 'e'])$$,
  'release', 'select pg_temp.outcome($$select awa.release(1, 1)$$)',
  'discard', 'select pg_temp.outcome($$select awa.discard(1, 1, $e$e$e$)$$)',
  'snooze', 'select pg_temp.outcome($$select awa.snooze(1, 1, $e$1 hour$e$)$$)',
  'cancel_attempt', 'select pg_temp.outcome($$select awa.cancel_attempt(1, 1)$$)',
  'extend', 'select pg_temp.outcome($$select awa.extend(1, 1, $e$1 hour$e$)$$)',
  'set_progress', 'select pg_temp.outcome($$select awa.set_progress(1, 1, $e$1$e$)$$)',
  'promote_due', 'select * from awa.promote_due()',
  'enqueue_unique', $$
  select *
    from awa.enqueue_unique(pg_temp.q(' enqueue'), 'k', unique_key => 'empty ' || nextval('pg_temp.next_key'))$$,
  'enqueue_unique, a duplicate', $$
  select *
    from awa.enqueue_unique(pg_temp.q(' enqueue'), 'k', unique_key => 'empty 1')$$,
  'enqueue', $$select awa.enqueue(pg_temp.q(' enqueue'), 'k')$$,
  'enqueue_many', $$select * from awa.enqueue_many(pg_temp.q(' enqueue'), 'k', array_fill('{}'::jsonb, array[100]))$$,
  'enqueue_batch', $$
  select *
    from awa.enqueue_batch(jsonb_build_array(jsonb_build_object('queue', pg_temp.q(' enqueue'), 'kind', 'k')))$$,
  'enqueue, deferred', $$select awa.enqueue(pg_temp.q(' enqueue'), 'k', run_at => '2130-01-01')$$,
  'job', 'select * from awa.job(1)'
]) \g /dev/null

-- On a few jobs, and on 100,000 that were claimed and completed
create function pg_temp.calls(queue text) returns text[]
language sql
return array[
  'claim of 100', format('select * from awa.claim(%L, 100)', queue),
  'claim of 1', format('select * from awa.claim(%L)', queue),
  'the shards with jobs', format('select pg_temp.in_claim(%L)',
    format('select awa._shards_with_jobs(awa._queue_id(%L), %L)', queue, '{}')),
  'some of them', format('select pg_temp.in_claim(%L)',
    format('select awa._some_shards_with_jobs(awa._queue_id(%L))', queue)),
  'complete', $$select awa.complete(o.job_id, o.receipt) from pg_temp.open('many') o offset 0$$,
  'complete, a claim of one', $$select awa.complete(o.job_id, o.receipt) from pg_temp.open('single') o offset 0$$,
  'complete with output', $$select awa.complete(o.job_id, o.receipt, '1') from pg_temp.open('many') o offset 0$$,
  'complete_many', $$
  select *
    from pg_temp.open('many') o, pg_temp.open('single') s,
      awa.complete_many(array[o.job_id, s.job_id], array[o.receipt, s.receipt])$$,
  'complete_many, a part of a claim', $$
  select *
    from pg_temp.open('many') o, pg_temp.open('many') s,
      awa.complete_many(array[s.job_id, o.job_id], array[s.receipt, o.receipt])$$,
  'complete_many with outputs', $$
  select *
    from pg_temp.open('many') o, pg_temp.open('single') s,
      awa.complete_many(array[o.job_id, s.job_id], array[o.receipt, s.receipt], array['1', null]::jsonb[])$$,
  'fail', $$select awa.fail(o.job_id, o.receipt, 'e') from pg_temp.open('many') o offset 0$$,
  'fail, a claim of one', $$select awa.fail(o.job_id, o.receipt, 'e') from pg_temp.open('single') o offset 0$$,
  'fail_many', $$
  select *
    from pg_temp.open('many') o, pg_temp.open('single') s,
      awa.fail_many(array[o.job_id, s.job_id], array[o.receipt, s.receipt], array['e', 'f'])$$,
  'release', $$select awa.release(o.job_id, o.receipt) from pg_temp.open('many') o offset 0$$,
  'enqueue', format('select awa.enqueue(%L, %L)', queue, 'k'),
  'enqueue_many', format('select * from awa.enqueue_many(%L, %L, array_fill(%L::jsonb, array[100]))', queue, 'k', '{}'),
  'enqueue to a queue with a max_depth', format('select awa.enqueue(%L, %L)', queue || ' limited', 'k'),
  'a look at its depth', format('select pg_temp.in_claim(%L)',
    format('select awa._depth(awa._queue_id(%L), 100)', queue || ' limited')),
  'discard', $$select awa.discard(o.job_id, o.receipt, 'e') from pg_temp.open('many') o offset 0$$,
  'snooze', $$select awa.snooze(o.job_id, o.receipt, '1 hour') from pg_temp.open('many') o offset 0$$,
  'cancel_attempt', $$select awa.cancel_attempt(o.job_id, o.receipt) from pg_temp.open('many') o offset 0$$,
  'extend', $$select awa.extend(o.job_id, o.receipt, '1 hour') from pg_temp.open('many') o offset 0$$,
  'set_progress', $$select awa.set_progress(o.job_id, o.receipt, '1') from pg_temp.open('single') o offset 0$$,
  'extend, a row of its own', $$
  select awa.extend(o.job_id, o.receipt, '1 hour')
    from pg_temp.open('lease') o
  offset 0$$,
  'set_progress, a row of its own', $$
  select awa.set_progress(o.job_id, o.receipt, '1')
    from pg_temp.open('lease') o
  offset 0$$,
  'complete, a row of its own', $$select awa.complete(o.job_id, o.receipt) from pg_temp.open('lease') o offset 0$$,
  'fail, a row of its own', $$select awa.fail(o.job_id, o.receipt, 'e') from pg_temp.open('lease') o offset 0$$,
  'complete_many, rows of their own', $$
  select *
    from pg_temp.open('many') o, pg_temp.open('lease') l,
      awa.complete_many(array[o.job_id, l.job_id], array[o.receipt, l.receipt])$$,
  'claim of 100 with keys', format('select * from awa.claim(%L, 100)', queue || ' keyed'),
  'complete with a key', $$select awa.complete(o.job_id, o.receipt) from pg_temp.open('keyed') o offset 0$$,
  'complete_many with keys', $$
  select *
    from pg_temp.open('many') o, pg_temp.open('keyed') k,
      awa.complete_many(array[o.job_id, k.job_id], array[o.receipt, k.receipt])$$,
  'fail with a key', $$select awa.fail(o.job_id, o.receipt, 'e') from pg_temp.open('keyed') o offset 0$$,
  'enqueue_unique',
  format('select * from awa.enqueue_unique(%L, %L, unique_key => %L || nextval(%L))', queue, 'k', queue,
    'pg_temp.next_key'),
  'enqueue_unique, a duplicate',
  format('select * from awa.enqueue_unique(%L, %L, unique_key => %L)', queue, 'k', queue || ' keyed 150'),
  'claim past buried entries', format('select * from awa.claim(%L, 100)', queue || ' buried'),
  'stale answers', 'select * from awa.complete_many(array[1, 2], array[4096, 8192])'
];
-- Takes what the closing calls close: in the place where the queue is read.
create function pg_temp.open_up(queue text) returns void
language plpgsql
as $$
begin
  insert into open_many (job_id, receipt) select c.job_id, c.receipt from awa.claim(queue, 40) c;
  for n in 1..40 loop
    insert into open_single (job_id, receipt) select c.job_id, c.receipt from awa.claim(queue, 1) c;
  end loop;
  insert into open_lease (job_id, receipt) select c.job_id, c.receipt from awa.claim(queue, 40) c;
  perform awa.extend(o.job_id, o.receipt, '1 hour') from (select o.* from open_lease o order by o.n desc limit 40) o;
  insert into open_keyed (job_id, receipt) select c.job_id, c.receipt from awa.claim(queue || ' keyed', 40) c;
  perform setval('pg_temp.next_lease',
    (select min(o.n) from (select o.n from open_lease o order by o.n desc limit 40) o), false);
  perform setval('pg_temp.next_keyed',
    (select min(o.n) from (select o.n from open_keyed o order by o.n desc limit 40) o), false);
  perform setval('pg_temp.next_many', (select min(o.n) from (select o.n from open_many o order by o.n desc limit 40) o),
    false);
  perform setval('pg_temp.next_single',
    (select min(o.n) from (select o.n from open_single o order by o.n desc limit 40) o), false);
end
$$;

select pg_temp.fill(pg_temp.q(' few'), 600) \g /dev/null
select pg_temp.fill_keyed(pg_temp.q(' few keyed'), 400) \g /dev/null
select pg_temp.fill(pg_temp.q(' few buried'), 1000) \g /dev/null
select pg_temp.fill(pg_temp.q(' few limited'), 400) \g /dev/null
select awa.configure_queue(pg_temp.q(s), '{"max_depth": 1000000}')
  from unnest('{" few limited"," deep limited"}'::text[]) s \g /dev/null
insert into awa.ready_tombstones (segment, lane, xid, job_id, by_xid, batch, cancels)
select e.segment, e.lane, e.xid, e.job_id, e.xid, 1, true
  from awa.ready_entries e
 where e.lane = awa._lane(awa._queue_id(pg_temp.q(' few buried')), 2) and e.job_id % 2 = 0;
select awa._use_lanes(array[awa._lane(awa._queue_id(pg_temp.q(' few buried')), 2)], buried => true) \g /dev/null
select pg_temp.open_up(pg_temp.q(' few')) \g /dev/null
select pg_temp.measure('few', pg_temp.calls(pg_temp.q(' few'))) \g /dev/null

-- 20,000 unique keys, attempts with rows of their own, and buried entries
select pg_temp.fill_keyed(pg_temp.q(' others'), 20000) \g /dev/null
insert into awa.leases (receipt, job_id, lane, priority, ready_at, created_at, claimed_at, lease, lease_until, attempt,
  max_attempts, body_bytes, kind, args)
select -n, -n, awa._lane(awa._queue_id(pg_temp.q(' others')), 2), 2, now(), now(), now(), '1 day',
       now() + interval '1 day', 1, 25, 60, 'k', '{}'
  from generate_series(1, 20000) n;
insert into awa.ready_tombstones (segment, lane, xid, job_id, by_xid, batch, cancels)
select e.segment, e.lane, e.xid, e.job_id, e.xid, 1, true
  from awa.ready_entries e
 where e.lane = awa._lane(awa._queue_id(pg_temp.q(' others')), 2);
select awa._use_lanes(array[awa._lane(awa._queue_id(pg_temp.q(' others')), 2)], buried => true) \g /dev/null
select pg_temp.fill_keyed(pg_temp.q(' deep keyed'), 20000) \g /dev/null
select pg_temp.fill(pg_temp.q(' deep buried'), 20000) \g /dev/null
insert into awa.ready_tombstones (segment, lane, xid, job_id, by_xid, batch, cancels)
select e.segment, e.lane, e.xid, e.job_id, e.xid, 1, true
  from awa.ready_entries e
 where e.lane = awa._lane(awa._queue_id(pg_temp.q(' deep buried')), 2) and e.job_id % 2 = 0;
select awa._use_lanes(array[awa._lane(awa._queue_id(pg_temp.q(' deep buried')), 2)], buried => true) \g /dev/null
select pg_temp.fill(pg_temp.q(' deep'), 102200) \g /dev/null
select pg_temp.fill(pg_temp.q(' deep limited'), 20000) \g /dev/null
select pg_temp.fill(pg_temp.q(' late'), 20000) \g /dev/null
select pg_temp.measure('backlog',
  array['claim of 100', $$select * from awa.claim(pg_temp.q(' deep'), 100)$$]) \g /dev/null
do $$
declare
  v_claim record;
  v_done int := 0;
begin
  while v_done < 100000 loop
    select array_agg(c.job_id) as jobs, array_agg(c.receipt) as receipts into v_claim
      from awa.claim(pg_temp.q(' deep'), 950) c;
    perform awa.complete_many(v_claim.jobs, v_claim.receipts);
    v_done := v_done + cardinality(v_claim.jobs);
  end loop;
  loop
    select array_agg(c.job_id) as jobs, array_agg(c.receipt) as receipts into v_claim
      from awa.claim(pg_temp.q(' late'), 960) c;
    exit when v_claim.jobs is null;
    perform awa.complete_many(v_claim.jobs, v_claim.receipts);
  end loop;
end
$$;
select awa._summarize() \g /dev/null
select pg_temp.open_up(pg_temp.q(' deep')) \g /dev/null
select pg_temp.measure('history', pg_temp.calls(pg_temp.q(' deep'))) \g /dev/null
-- Of a queue to which this transaction adds nothing: where another one ends meanwhile (that of autovacuum, say), a
-- claim walks over what its own transaction has added.
select pg_temp.measure('history',
  array['claim of nothing', $$select * from awa.claim(pg_temp.q(' late'), 100)$$]) \g /dev/null
select min(e.job_id) + 50000 as old_id
  from awa.ready_entries e
 where e.lane = awa._lane(awa._queue_id(pg_temp.q(' deep')), 2) \gset
select pg_temp.measure('history', array['job', format('select * from awa.job(%s)', :'old_id')]) \g /dev/null

-- A transaction that committed late: it was in progress at the last window's end, and is older than all history of its
-- lane.
insert into awa.lease_claims (segment, claim_id, lane, lane_seq, hi, first_xid, first_id, pos_xid, pos_id, claimed_at,
  lease_until, holds_keys, job_ids)
select c.segment, nextval('awa.claim_ids'), c.lane, c.lane_seq + 1,
       format('%s:%s:%1$s', l.xid, pg_snapshot_xmax(c.hi))::pg_snapshot, '0', 0, '0', 0, now(), now(), false, '{}'
  from (select pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 301 as xid) l,
       (
         select *
           from awa.lease_claims c
          where c.lane = awa._lane(awa._queue_id(pg_temp.q(' late')), 2)
          order by c.lane_seq desc
          limit 1
       ) c;
insert into awa.ready_entries (segment, lane, xid, job_id, ready_at, priority, attempt, max_attempts, body_bytes, kind,
  args)
select r.current_segment, awa._lane(awa._queue_id(pg_temp.q(' late')), 2),
       (pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 301)::text::xid8, nextval('awa.job_ids'), now(), 2, 1,
       25, 60, 'late', to_jsonb(n)
  from awa.ring r, generate_series(1, 5) n;
create temp table late as select (c.args #>> '{}')::int as n, c.kind, c.receipt from awa.claim(pg_temp.q(' late'), 3) c;
insert into costs
select 'history', 'claim of late commits', c.*
  from pg_temp.steady_cost($$select * from awa.claim(pg_temp.q(' late'), 3)$$) c;
insert into costs
select 'history', 'claim after late commits', c.*
  from pg_temp.steady_cost($$select * from awa.claim(pg_temp.q(' late'), 3)$$) c;

-- Totals
select is(c.seq_scans, 0::bigint, format('%s, %s: nothing is read from one end to the other', c.what, c.at))
  from costs c
 order by c.at, c.what;
select is((select sum(c.changed) from costs c), 0::numeric, 'no row of the hot tables is updated or deleted');
select is((
  select array_agg(format('%s %s', t.relname, t.n_tup_upd + t.n_tup_del))
    from pg_stat_xact_user_tables t
   where t.schemaname = 'awa' and t.relname ~ '^(ready_|lease_claim)' and t.n_tup_upd + t.n_tup_del > 0
),
  null, 'over the whole of this');
select cmp_ok(h.tuples, '<=', f.tuples + 8, format('%s: 100,000 jobs of history add no rows to read', h.what))
  from costs h
  join costs f using (what)
 where h.at = 'history' and f.at = 'few'
 order by h.what;
select cmp_ok(h.blocks, '<=',
  f.blocks + f.blocks / 4 + case when h.what ~ '^claim .*(keys|buried)|^a look' then 800 else 30 end,
  format('%s: nor blocks, but for a level of an index, for each probe', h.what))
  from costs h
  join costs f using (what)
 where h.at = 'history' and f.at = 'few'
 order by h.what;
select cmp_ok(h.blocks, '<=', e.blocks + 80, format('%s costs what it costs on an empty table', h.what))
  from costs h, costs e
 where e.at = 'empty'
   and e.what = 'claim of nothing'
   and h.at in ('history', 'backlog')
   and h.what ~ '^claim'
   and h.what !~ 'keys|buried'
 order by h.what, h.at;
select cmp_ok(h.tuples, '<=', 24::bigint,
  format('%s reads what it returns, and the cursors; each head twice where the machine is slow for a moment', h.what))
  from costs h
 where h.at = 'history' and h.what ~ '^claim (of nothing|of late|after late)'
 order by h.what;
select cmp_ok(h.blocks, '<=', 400::bigint, 'one job is found among 120,000 without reading them')
  from costs h
 where h.at = 'history' and h.what = 'job';
select is((select array_agg(n order by receipt) from late where kind = 'late'), '{1,2,3}',
  'late commits are claimed, in order');

select * from finish();
rollback;
